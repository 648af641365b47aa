#include "tests/bench/proxy.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/bench/tool.h"

static const char *const names[] = { "floor", "HAProxy", "nginx", "msd" };

_Static_assert(ARRAY_SIZE(names) == PROXY_KINDS, "each has a name");

static const char *programs[PROXY_KINDS] = { [PROXY_HAPROXY] = "/usr/sbin/haproxy", [PROXY_NGINX] = "/usr/sbin/nginx" };
static char directory[] = "/tmp/msd-bench.XXXXXX";
static char msd_path[64], config_path[64], pid_path[64], trace_path[64];

void proxies_init(const char *msd, const char *relay) {
        programs[PROXY_MSD] = msd;
        programs[PROXY_FLOOR] = relay;
        if (!mkdtemp(directory))
                tool_fail("mkdtemp");
        snprintf(msd_path, sizeof(msd_path), "%s/msd.sock", directory);
        snprintf(config_path, sizeof(config_path), "%s/config", directory);
        snprintf(pid_path, sizeof(pid_path), "%s/pid", directory);
        snprintf(trace_path, sizeof(trace_path), "%s/trace", directory);
}

void proxies_deinit(void) {
        const char *const files[] = { msd_path, config_path, pid_path, trace_path };

        for (size_t i = 0; i < ARRAY_SIZE(files); i++)
                unlink(files[i]);
        rmdir(directory);
}

const char *proxy_name(enum proxy_kind kind) {
        return names[kind];
}

bool proxy_exists(enum proxy_kind kind) {
        return access(programs[kind], X_OK) == 0;
}

const char *proxy_msd_path(void) {
        return msd_path;
}

const char *proxy_trace_path(void) {
        return trace_path;
}

/* One that is free now. */
static uint16_t choose_port(void) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t len = sizeof(address);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) < 0 || getsockname(fd, (struct sockaddr *)&address, &len) < 0)
                tool_fail("bind");
        close(fd);
        return ntohs(address.sin_port);
}

static FILE *open_config(void) {
        FILE *file = fopen(config_path, "we");

        if (!file)
                tool_fail(config_path);
        return file;
}

static void write_haproxy(uint16_t port, uint16_t upstream_port, bool streams) {
        FILE *file = open_config();

        fprintf(file, "global\n nbthread 2\n maxconn 8000\n"
                "defaults\n mode http\n maxconn 8000\n timeout client 10m\n timeout server 10m\n timeout connect 5s\n%s"
                "listen msd\n bind 127.0.0.1:%u\n http-reuse always\n server upstream 127.0.0.1:%u\n",
                streams ? " option http-no-delay\n" : "", port, upstream_port);
        fclose(file);
}

static void write_nginx(uint16_t port, uint16_t upstream_port, bool streams) {
        FILE *file = open_config();

        fprintf(file, "daemon off; worker_processes 2; user root; error_log /dev/null; pid %s;\n"
                "events { worker_connections 16384; }\n"
                "http { access_log off; keepalive_requests 1000000000; keepalive_timeout 10m; proxy_read_timeout 10m;\n"
                " proxy_buffering %s;\n"
                " server { listen 127.0.0.1:%u reuseport; location / { proxy_pass http://upstream; proxy_http_version 1.1;\n"
                "  proxy_set_header Connection \"\"; } }\n"
                " upstream upstream { server 127.0.0.1:%u; keepalive 64; keepalive_requests 1000000000; } }\n",
                pid_path, streams ? "off" : "on", port, upstream_port);
        fclose(file);
}

void proxy_start(struct proxy *proxy, enum proxy_kind kind, uint16_t upstream_port, bool streams) {
        const char *const program = programs[kind];
        char ports[2][8], url[48], address[32];

        *proxy = (struct proxy)PROXY_NULL;
        proxy->port = choose_port();
        snprintf(ports[0], sizeof(ports[0]), "%u", proxy->port);
        snprintf(ports[1], sizeof(ports[1]), "%u", upstream_port);
        switch (kind) {
        case PROXY_FLOOR:
                proxy->pid = tool_start((const char *[]){ program, ports[0], ports[1], NULL }, -1);
                break;
        case PROXY_HAPROXY:
                write_haproxy(proxy->port, upstream_port, streams);
                proxy->pid = tool_start((const char *[]){ program, "-db", "-f", config_path, NULL }, -1);
                break;
        case PROXY_NGINX:
                write_nginx(proxy->port, upstream_port, streams);
                proxy->pid = tool_start((const char *[]){ program, "-c", config_path, NULL }, -1);
                break;
        default:
                snprintf(url, sizeof(url), "http://127.0.0.1:%u", upstream_port);
                snprintf(address, sizeof(address), "127.0.0.1:%u", proxy->port);
                proxy->pid = tool_start((const char *[]){ program, "--socket", msd_path, "--http", address, "--upstream", url,
                                                          "--model", "x", "--threads", "2", "--quiet", NULL }, -1);
        }
}

void proxy_start_simulated(struct proxy *proxy, unsigned load_seconds) {
        char load[16], address[32];
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
                tool_fail("pipe");
        *proxy = (struct proxy){ .port = choose_port(), .output_fd = fds[0] };
        snprintf(load, sizeof(load), "%u", load_seconds);
        snprintf(address, sizeof(address), "127.0.0.1:%u", proxy->port);
        proxy->pid = tool_start((const char *[]){ programs[PROXY_MSD], "--socket", msd_path, "--http", address, "--load-time",
                                                  load, "--inference-time", "0", "--threads", "2", "--quiet", NULL }, fds[1]);
        close(fds[1]);
}

void proxy_stop(struct proxy *proxy) {
        tool_stop(&proxy->pid);
        proxy->output_fd = util_close(proxy->output_fd);
}
