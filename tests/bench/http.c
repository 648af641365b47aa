/*
 * What the HTTP front costs: the same requests to the same upstream directly and through msd, HAProxy and nginx, side by side;
 * and a herd of requests that wait, memory for each, and their release.
 *
 *      http MSD
 *
 * The upstream is the least that can be: it answers each whole request with the same bytes. Clients come over the loopback,
 * the upstream is behind a Unix socket, connections are kept on both sides, nobody writes a log, and all have two threads or
 * processes.
 */

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/address.h"
#include "common/number.h"
#include "common/util.h"
#include "tests/bench/tool.h"

#define SECONDS 3
#define ROUNDS 3
#define CALLERS 64
#define SAMPLES_MAX 2000000
#define BODY 1024
#define HERD 5000
#define HERD_LOAD_SECONDS 6

enum way {
        DIRECT,
        MSD,
        HAPROXY,
        NGINX,
        WAYS,
};

static const char *const names[WAYS] = { "direct", "msd", "HAProxy", "nginx" };

struct caller {
        int fd;
        uint64_t sent;
        size_t len;
        char answer[4096];
};

struct figures {
        double rate;
        double p99;
        double cpu;
};

static char directory[] = "/tmp/msd-bench.XXXXXX";
static char upstream_path[64], msd_path[64], http_path[64], config_path[64], pid_path[64];
static pid_t upstream, proxy;
static char request[512];

static void clean_up(void) {
        const char *const files[] = { upstream_path, msd_path, http_path, config_path, pid_path };

        tool_stop(&proxy);
        tool_stop(&upstream);
        for (size_t i = 0; i < ARRAY_SIZE(files); i++)
                unlink(files[i]);
        rmdir(directory);
}

/* The length of the message at `text`, head and body, or 0 if it is not whole. */
static size_t message_len(const char *text, size_t len) {
        const char *end = strstr(text, "\r\n\r\n"), *length;
        size_t whole;

        if (!end)
                return 0;
        length = strcasestr(text, "\r\nContent-Length:");
        whole = (size_t)(end - text) + 4 + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
        return len >= whole ? whole : 0;
}

/* The upstream, a process of its own. */
_Noreturn static void serve(int listening) {
        static struct caller *connections[1024];
        static char answer[BODY + 128];
        int epoll = epoll_create1(EPOLL_CLOEXEC);
        struct epoll_event event = { .events = EPOLLIN, .data.fd = listening };
        size_t answer_len = (size_t)snprintf(answer, sizeof(answer),
                                             "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", BODY);

        memset(answer + answer_len, 'x', BODY);
        answer_len += BODY;
        (void)epoll_ctl(epoll, EPOLL_CTL_ADD, listening, &event);
        for (;;) {
                struct epoll_event events[CALLERS];
                int n = epoll_wait(epoll, events, CALLERS, -1);

                for (int i = 0; i < n; i++) {
                        int fd = events[i].data.fd;
                        struct caller *connection;
                        ssize_t got;
                        size_t whole;

                        if (fd == listening) {
                                fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
                                event.data.fd = fd;
                                if (fd >= 0 && (size_t)fd < ARRAY_SIZE(connections) &&
                                    (connections[fd] = calloc(1, sizeof(struct caller))))
                                        (void)epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                                continue;
                        }
                        connection = connections[fd];
                        got = recv(fd, connection->answer + connection->len,
                                   sizeof(connection->answer) - connection->len - 1, 0);
                        if (got <= 0) {
                                free(STEAL_POINTER(connections[fd]));
                                close(fd);
                                continue;
                        }
                        connection->len += (size_t)got;
                        connection->answer[connection->len] = '\0';
                        while ((whole = message_len(connection->answer, connection->len)) > 0) {
                                connection->len -= whole;
                                memmove(connection->answer, connection->answer + whole, connection->len + 1);
                                (void)send(fd, answer, answer_len, MSG_NOSIGNAL);
                        }
                }
        }
}

static void start_upstream(void) {
        struct sockaddr_un address;
        socklen_t len;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        (void)address_from_path(upstream_path, &address, &len);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, 1024) < 0)
                tool_fail(upstream_path);
        upstream = fork();
        if (upstream == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                serve(fd);
        }
        close(fd);
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

/* Starts what is measured, but for the upstream, which is there. Returns false if this machine does not have it. */
static bool start_way(enum way way, const char *msd, uint16_t port) {
        static const char haproxy[] = "/usr/sbin/haproxy", nginx[] = "/usr/sbin/nginx";
        char url[80], address[32];
        FILE *file;

        switch (way) {
        case MSD:
                snprintf(url, sizeof(url), "unix:%s", upstream_path);
                snprintf(address, sizeof(address), "127.0.0.1:%u", port);
                proxy = tool_start((const char *[]){ msd, "--socket", msd_path, "--http", address, "--upstream", url, "--model",
                                                     "x", "--threads", "2", "--quiet", NULL }, -1);
                return true;
        case HAPROXY:
                if (access(haproxy, X_OK) < 0)
                        return false;
                file = open_config();
                fprintf(file, "global\n nbthread 2\ndefaults\n mode http\n timeout client 1m\n timeout server 1m\n timeout connect 5s\n"
                        "listen msd\n bind 127.0.0.1:%u\n http-reuse always\n server upstream unix@%s\n", port, upstream_path);
                fclose(file);
                proxy = tool_start((const char *[]){ haproxy, "-db", "-f", config_path, NULL }, -1);
                return true;
        case NGINX:
                if (access(nginx, X_OK) < 0)
                        return false;
                file = open_config();
                fprintf(file, "daemon off; worker_processes 2; user root; error_log /dev/null;\n"
                        "events { worker_connections 4096; }\n"
                        "http { access_log off; keepalive_requests 1000000000;\n"
                        " server { listen 127.0.0.1:%u; location / { proxy_pass http://upstream; proxy_http_version 1.1;\n"
                        "  proxy_set_header Connection \"\"; } }\n"
                        " upstream upstream { server unix:%s; keepalive 64; keepalive_requests 1000000000; } }\n"
                        "pid %s;\n", port, upstream_path, pid_path);
                fclose(file);
                proxy = tool_start((const char *[]){ nginx, "-c", config_path, NULL }, -1);
                return true;
        default:
                return true;
        }
}

static void ask(struct caller *caller) {
        caller->len = 0;
        caller->sent = tool_now();
        if (send(caller->fd, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request))
                tool_fail("send");
}

/* Reads what has come. Returns whether the answer is whole now; one that is wrong ends the program. */
static bool hear(struct caller *caller) {
        ssize_t n = recv(caller->fd, caller->answer + caller->len, sizeof(caller->answer) - caller->len - 1, 0);

        if (n <= 0)
                tool_fail("recv");
        caller->len += (size_t)n;
        caller->answer[caller->len] = '\0';
        if (message_len(caller->answer, caller->len) == 0)
                return false;
        if (strncmp(caller->answer, "HTTP/1.1 200", 12) != 0)
                tool_fail(caller->answer);
        return true;
}

static bool measure(enum way way, const char *msd, struct figures *figures) {
        static struct caller callers[CALLERS];
        static double samples[SAMPLES_MAX];
        const uint16_t port = choose_port();
        int epoll = epoll_create1(EPOLL_CLOEXEC);
        uint64_t begin = 0, warm, end;
        double cpu = 0;
        size_t n = 0;

        if (!start_way(way, msd, port)) {
                close(epoll);
                return false;
        }
        for (unsigned i = 0; i < CALLERS; i++) {
                struct epoll_event event = { .events = EPOLLIN, .data.ptr = &callers[i] };

                callers[i].fd = way == DIRECT ? tool_dial(upstream_path) : tool_dial_port(port);
                if (epoll_ctl(epoll, EPOLL_CTL_ADD, callers[i].fd, &event) < 0)
                        tool_fail("epoll_ctl");
                ask(&callers[i]);
        }
        warm = tool_now() + NSEC_PER_SEC / 2;
        end = warm + SECONDS * NSEC_PER_SEC;
        for (uint64_t time = tool_now(); time < end && n < SAMPLES_MAX; time = tool_now()) {
                struct epoll_event events[CALLERS];
                int ready = epoll_wait(epoll, events, CALLERS, 1000);

                if (begin == 0 && time >= warm) {
                        begin = time;
                        cpu = way == DIRECT ? 0 : tool_cpu(proxy);
                }
                for (int i = 0; i < ready; i++) {
                        struct caller *caller = events[i].data.ptr;

                        if (!hear(caller))
                                continue;
                        if (begin > 0 && n < SAMPLES_MAX)
                                samples[n++] = (double)(tool_now() - caller->sent) / 1e3;
                        ask(caller);
                }
        }
        if (n == 0)
                tool_fail("no answer");
        figures->rate = (double)n * 1e9 / (double)(tool_now() - begin);
        figures->cpu = way == DIRECT ? 0 : (tool_cpu(proxy) - cpu) / (double)n;
        (void)tool_median(samples, n);
        figures->p99 = samples[n * 99 / 100];
        for (unsigned i = 0; i < CALLERS; i++)
                close(callers[i].fd);
        close(epoll);
        tool_stop(&proxy);
        return true;
}

static void print_proxies(const char *msd) {
        struct figures all[WAYS][ROUNDS];
        bool there[WAYS];
        double cpu[WAYS], best = 0;

        start_upstream();
        for (unsigned round = 0; round < ROUNDS; round++)
                for (unsigned i = 0; i < WAYS; i++) {
                        /* Each round begins with another. */
                        const enum way way = (i + round) % WAYS;

                        there[way] = measure(way, msd, &all[way][round]);
                }
        tool_stop(&upstream);

        printf("http: %d connections with one request each, answers of %d bytes, medians of %d rounds\n\n", CALLERS, BODY, ROUNDS);
        printf("  %-8s %12s %9s %15s\n", "", "requests/s", "p99 us", "CPU/request us");
        for (unsigned way = 0; way < WAYS; way++) {
                double rates[ROUNDS], p99s[ROUNDS], cpus[ROUNDS];

                if (!there[way]) {
                        printf("  %-8s is not on this machine\n", names[way]);
                        continue;
                }
                for (unsigned i = 0; i < ROUNDS; i++) {
                        rates[i] = all[way][i].rate;
                        p99s[i] = all[way][i].p99;
                        cpus[i] = all[way][i].cpu;
                }
                cpu[way] = tool_median(cpus, ROUNDS);
                printf("  %-8s %12.0f %9.0f", names[way], tool_median(rates, ROUNDS), tool_median(p99s, ROUNDS));
                if (way != DIRECT)
                        printf(" %15.1f", cpu[way]);
                printf("\n");
                if (way > MSD && (best == 0 || cpu[way] < best))
                        best = cpu[way];
        }
        if (best > 0)
                printf("\n  msd uses %.2f times the CPU of the better of the two\n", cpu[MSD] / best);
        printf("\n");
}

/* What /-/status says of those that wait. */
static unsigned long count_waiting(void) {
        static const char text[] = "GET /-/status HTTP/1.1\r\nHost: x\r\n\r\n";
        struct caller caller = { .fd = tool_dial(http_path) };
        const char *waiting;

        if (send(caller.fd, text, sizeof(text) - 1, MSG_NOSIGNAL) < 0)
                tool_fail("send");
        while (!hear(&caller))
                ;
        close(caller.fd);
        waiting = strstr(caller.answer, "\"waiting\":");
        return waiting ? strtoul(waiting + 10, NULL, 10) : 0;
}

/* The release is when the load, which began with a line, is over. */
static void print_herd(const char *msd) {
        _cleanup_free_ struct caller *callers = calloc(HERD, sizeof(*callers));
        char load[16], address[80], line[32];
        int epoll = epoll_create1(EPOLL_CLOEXEC), fds[2];
        uint64_t loading, release, first = 0;
        double idle, held, cpu;

        if (!callers || pipe(fds) < 0)
                tool_fail("pipe");
        snprintf(load, sizeof(load), "%d", HERD_LOAD_SECONDS);
        snprintf(address, sizeof(address), "unix:%s", http_path);
        proxy = tool_start((const char *[]){ msd, "--socket", msd_path, "--http", address, "--load-time", load,
                                             "--inference-time", "0", "--threads", "2", "--quiet", NULL }, fds[1]);
        close(fds[1]);
        if (read(fds[0], line, sizeof(line)) <= 0)
                tool_fail("read");
        loading = tool_now();
        while (count_waiting() > 0)
                ;
        idle = tool_memory(proxy);
        for (unsigned i = 0; i < HERD; i++) {
                struct epoll_event event = { .events = EPOLLIN, .data.ptr = &callers[i] };

                callers[i].fd = tool_dial(http_path);
                if (epoll_ctl(epoll, EPOLL_CTL_ADD, callers[i].fd, &event) < 0)
                        tool_fail("epoll_ctl");
                ask(&callers[i]);
        }
        while (count_waiting() < HERD)
                ;
        held = tool_memory(proxy);
        cpu = tool_cpu(proxy);
        release = loading + HERD_LOAD_SECONDS * NSEC_PER_SEC;
        if (tool_now() >= release) {
                printf("http: the load was over before all %d waited\n", HERD);
                tool_stop(&proxy);
                return;
        }
        for (unsigned answered = 0; answered < HERD;) {
                struct epoll_event events[256];
                int n = epoll_wait(epoll, events, (int)ARRAY_SIZE(events), 60000);

                if (n <= 0)
                        tool_fail("epoll_wait");
                if (first == 0)
                        first = tool_now();
                for (int i = 0; i < n; i++)
                        answered += hear(events[i].data.ptr);
        }
        printf("http: %d requests that wait, one a connection, released together\n\n", HERD);
        printf("  memory %.0f bytes a request; first answer %.1f ms, last %.1f ms; CPU/request %.1f us\n\n",
               (held - idle) / HERD, (double)(first - MIN(release, first)) / 1e6, (double)(tool_now() - MIN(release, first)) / 1e6,
               (tool_cpu(proxy) - cpu) / HERD);
        for (unsigned i = 0; i < HERD; i++)
                close(callers[i].fd);
        close(epoll);
        close(fds[0]);
        tool_stop(&proxy);
}

int main(int argc, char **argv) {
        if (argc != 2) {
                fprintf(stderr, "usage: http MSD\n");
                return 2;
        }
        tool_init("http", clean_up);
        if (!mkdtemp(directory))
                tool_fail("mkdtemp");
        snprintf(upstream_path, sizeof(upstream_path), "%s/upstream.sock", directory);
        snprintf(msd_path, sizeof(msd_path), "%s/msd.sock", directory);
        snprintf(http_path, sizeof(http_path), "%s/http.sock", directory);
        snprintf(config_path, sizeof(config_path), "%s/config", directory);
        snprintf(pid_path, sizeof(pid_path), "%s/pid", directory);
        snprintf(request, sizeof(request),
                 "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n"
                 "{\"prompt\":\"%0187d\"}", 0);
        print_proxies(argv[1]);
        print_herd(argv[1]);
        clean_up();
        return 0;
}
