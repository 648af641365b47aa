/*
 * What the HTTP front costs: the same requests to the same upstream directly and through msd, HAProxy and nginx, side by side;
 * and a herd of requests that wait, memory for each, and their release.
 *
 *      http MSD
 *
 * The upstream is the least that can be: it answers each whole request with the same bytes. Clients come over the loopback,
 * also those who ask it directly; for the others it is behind a Unix socket. Connections are kept on both sides, nobody writes
 * a log, and all have two threads or processes.
 */

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
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
/* What msd may use of the CPU of the better of the two. */
#define CPU_TARGET 3
#define PROMPT 200
#define HERD 5000
#define HERD_LOAD_SECONDS 3
#define HERD_LOAD_SECONDS_MAX 96

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
        double p50;
        double p99;
        double cpu;
};

/* What clients of the herd come in by. */
enum front {
        REQUEST_SOCKET,
        HTTP,
        FRONTS,
};

struct herd {
        double memory;
        double first;
        double last;
        double cpu;
};

static char directory[] = "/tmp/msd-bench.XXXXXX";
static char upstream_path[64], msd_path[64], config_path[64], pid_path[64];
static uint16_t upstream_port;
static pid_t upstream, proxy;
static char prompt[PROMPT + 1], request[512], body[BODY];

static void clean_up(void) {
        const char *const files[] = { upstream_path, msd_path, config_path, pid_path };

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
_Noreturn static void serve(const int listening[static 2]) {
        static struct caller *connections[1024];
        static char answer[BODY + 128];
        int epoll = epoll_create1(EPOLL_CLOEXEC);
        struct epoll_event event = { .events = EPOLLIN };
        size_t answer_len = (size_t)snprintf(answer, sizeof(answer),
                                             "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", BODY);

        memcpy(answer + answer_len, body, BODY);
        answer_len += BODY;
        for (unsigned i = 0; i < 2; i++) {
                event.data.fd = listening[i];
                (void)epoll_ctl(epoll, EPOLL_CTL_ADD, listening[i], &event);
        }
        for (;;) {
                struct epoll_event events[CALLERS];
                int n = epoll_wait(epoll, events, CALLERS, -1);

                for (int i = 0; i < n; i++) {
                        int fd = events[i].data.fd;
                        struct caller *connection;
                        ssize_t got;
                        size_t whole;

                        if (fd == listening[0] || fd == listening[1]) {
                                fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
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

static int listen_at(const struct sockaddr *address, socklen_t len) {
        int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || bind(fd, address, len) < 0 || listen(fd, 1024) < 0)
                tool_fail("listen");
        return fd;
}

static void start_upstream(void) {
        struct sockaddr_in loopback = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        struct sockaddr_un local;
        socklen_t len;
        int listening[2];

        (void)address_from_path(upstream_path, &local, &len);
        listening[0] = listen_at((struct sockaddr *)&local, len);
        len = sizeof(loopback);
        listening[1] = listen_at((struct sockaddr *)&loopback, len);
        if (getsockname(listening[1], (struct sockaddr *)&loopback, &len) < 0)
                tool_fail("getsockname");
        upstream_port = ntohs(loopback.sin_port);
        upstream = fork();
        if (upstream == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                serve(listening);
        }
        close(listening[0]);
        close(listening[1]);
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

static void receive(struct caller *caller) {
        ssize_t n = recv(caller->fd, caller->answer + caller->len, sizeof(caller->answer) - caller->len - 1, 0);

        if (n <= 0)
                tool_fail("recv");
        caller->len += (size_t)n;
        caller->answer[caller->len] = '\0';
}

/* Reads what has come. Returns the length of the answer's body once it is whole, else 0; one that is wrong ends the program. */
static size_t hear(struct caller *caller) {
        size_t whole;

        receive(caller);
        whole = message_len(caller->answer, caller->len);
        if (whole == 0)
                return 0;
        if (strncmp(caller->answer, "HTTP/1.1 200", 12) != 0 || whole != caller->len)
                tool_fail(caller->answer);
        return whole - (size_t)(strstr(caller->answer, "\r\n\r\n") + 4 - caller->answer);
}

static bool measure(enum way way, const char *msd, struct figures *figures) {
        static struct caller callers[CALLERS];
        static double samples[SAMPLES_MAX];
        const uint16_t port = way == DIRECT ? upstream_port : choose_port();
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

                callers[i].fd = tool_dial_port(port);
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
                        size_t len = hear(caller);

                        if (len == 0)
                                continue;
                        if (len != BODY || memcmp(caller->answer + caller->len - BODY, body, BODY) != 0)
                                tool_fail("another answer");
                        if (begin > 0 && n < SAMPLES_MAX)
                                samples[n++] = (double)(tool_now() - caller->sent) / 1e3;
                        ask(caller);
                }
        }
        if (n == 0)
                tool_fail("no answer");
        figures->rate = (double)n * 1e9 / (double)(tool_now() - begin);
        figures->cpu = way == DIRECT ? 0 : (tool_cpu(proxy) - cpu) / (double)n;
        figures->p50 = tool_median(samples, n);
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
        double cpu[WAYS], best = 0, direct = 0;

        start_upstream();
        for (unsigned round = 0; round < ROUNDS; round++)
                for (unsigned i = 0; i < WAYS; i++) {
                        /* Each round begins with another. */
                        const enum way way = (i + round) % WAYS;

                        there[way] = measure(way, msd, &all[way][round]);
                }
        tool_stop(&upstream);

        for (unsigned way = 0; way < WAYS; way++) {
                double cpus[ROUNDS];

                for (unsigned i = 0; i < ROUNDS; i++)
                        cpus[i] = all[way][i].cpu;
                cpu[way] = there[way] ? tool_median(cpus, ROUNDS) : 0;
                if (way > MSD && there[way] && (best == 0 || cpu[way] < best))
                        best = cpu[way];
        }

        printf("http: %d connections with one request each, answers of %d bytes, medians of %d rounds\n\n", CALLERS, BODY, ROUNDS);
        printf("  %-8s %12s %6s %9s %9s %15s %6s\n", "", "requests/s", "ratio", "p50 us", "p99 us", "CPU/request us", "ratio");
        for (unsigned way = 0; way < WAYS; way++) {
                double rates[ROUNDS], p50s[ROUNDS], p99s[ROUNDS], rate;

                if (!there[way]) {
                        printf("  %-8s is not on this machine\n", names[way]);
                        continue;
                }
                for (unsigned i = 0; i < ROUNDS; i++) {
                        rates[i] = all[way][i].rate;
                        p50s[i] = all[way][i].p50;
                        p99s[i] = all[way][i].p99;
                }
                rate = tool_median(rates, ROUNDS);
                direct = way == DIRECT ? rate : direct;
                printf("  %-8s %12.0f %6.2f %9.0f %9.0f", names[way], rate, rate / direct, tool_median(p50s, ROUNDS),
                       tool_median(p99s, ROUNDS));
                if (way != DIRECT)
                        printf(" %15.1f", cpu[way]);
                if (way != DIRECT && best > 0)
                        printf(" %6.2f", cpu[way] / best);
                printf("\n");
        }
        if (best > 0)
                printf("\n  msd uses %.2f times the CPU of the better of the two; at most %d is wanted\n", cpu[MSD] / best, CPU_TARGET);
        printf("\n");
}

/* What STATUS says of those that wait, asked on a connection of its own. */
static unsigned long count_waiting(struct caller *control) {
        const char *waiting, *end;

        if (send(control->fd, "STATUS\n", 7, MSG_NOSIGNAL) != 7)
                tool_fail("send");
        control->len = 0;
        /* The head is a line, and so is its body. */
        do {
                receive(control);
                end = strchr(control->answer, '\n');
        } while (!end || !strchr(end + 1, '\n'));
        waiting = strstr(control->answer, "\"waiting\":");
        if (!waiting)
                tool_fail("no status");
        return strtoul(waiting + 10, NULL, 10);
}

/* Returns false if so many do not wait before `deadline`. */
static bool await_waiting(struct caller *control, unsigned long count, uint64_t deadline) {
        const struct timespec moment = { .tv_nsec = 5 * NSEC_PER_MSEC };

        while (count_waiting(control) != count) {
                if (tool_now() >= deadline)
                        return false;
                nanosleep(&moment, NULL);
        }
        return true;
}

/* Both with the same prompt; the number is the ID. */
static void ask_one(enum front front, struct caller *caller, unsigned id) {
        char text[sizeof(request) + 64];
        int n;

        if (front == HTTP)
                n = snprintf(text, sizeof(text),
                             "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                             "X-Request-Id: %u\r\nContent-Length: %zu\r\n\r\n{\"prompt\":\"%s\"}",
                             id, strlen(prompt) + strlen("{\"prompt\":\"\"}"), prompt);
        else
                n = snprintf(text, sizeof(text), "REQUEST %u %zu\n%s\n", id, strlen(prompt), prompt);
        if (send(caller->fd, text, (size_t)n, MSG_NOSIGNAL) != n)
                tool_fail("send");
}

/* Whether the answer is whole; one that is not to this request ends the program. */
static bool hear_one(enum front front, struct caller *caller, unsigned id) {
        char text[64];

        snprintf(text, sizeof(text), "Response %u from sim%s", id, front == HTTP ? "" : "\n");
        if (front == HTTP) {
                if (hear(caller) == 0)
                        return false;
        } else {
                receive(caller);
                if (caller->answer[caller->len - 1] != '\n' || strchr(caller->answer, '\n') == caller->answer + caller->len - 1)
                        return false;
        }
        if (!strstr(caller->answer, text))
                tool_fail(caller->answer);
        return true;
}

/* From the release to the last answer. */
static void release_herd(enum front front, int epoll, struct caller *callers, uint64_t release, struct herd *herd) {
        double cpu = tool_cpu(proxy);
        uint64_t first = 0, last;

        for (unsigned answered = 0; answered < HERD;) {
                struct epoll_event events[256];
                int n = epoll_wait(epoll, events, (int)ARRAY_SIZE(events), 60000);

                if (n <= 0)
                        tool_fail("epoll_wait");
                if (first == 0)
                        first = tool_now();
                for (int i = 0; i < n; i++)
                        answered += hear_one(front, &callers[events[i].data.u32], events[i].data.u32);
        }
        last = tool_now();
        /* Should the line have been read late, the release was no later than the first answer. */
        release = MIN(release, first);
        herd->first = (double)(first - release) / 1e6;
        herd->last = (double)(last - release) / 1e6;
        herd->cpu = (tool_cpu_at_rest(proxy) - cpu) / HERD;
}

/* The release is when the load, which began with a line, is over. Returns false if that was before all waited. */
static bool measure_herd(enum front front, const char *msd, unsigned load_seconds, struct herd *herd) {
        _cleanup_free_ struct caller *callers = malloc(HERD * sizeof(*callers));
        /* Reset when it is closed, so that no port is kept: another round needs as many. */
        const struct linger reset = { .l_onoff = 1 };
        const uint16_t port = choose_port();
        struct caller control;
        char load[16], address[32], line[32];
        int epoll = epoll_create1(EPOLL_CLOEXEC), fds[2];
        uint64_t release;
        bool all_wait;
        double idle;

        if (!callers || pipe2(fds, O_CLOEXEC) < 0)
                tool_fail("pipe");
        /* The pages are there before the clock runs. */
        memset(callers, 1, HERD * sizeof(*callers));
        snprintf(load, sizeof(load), "%u", load_seconds);
        snprintf(address, sizeof(address), "127.0.0.1:%u", port);
        proxy = tool_start((const char *[]){ msd, "--socket", msd_path, "--http", address, "--load-time", load,
                                             "--inference-time", "0", "--threads", "2", "--quiet", NULL }, fds[1]);
        close(fds[1]);
        if (read(fds[0], line, sizeof(line)) <= 0)
                tool_fail("read");
        release = tool_now() + load_seconds * NSEC_PER_SEC;

        /* Once asked, it has touched what it touches for the first of its connections. */
        control.fd = tool_dial(msd_path);
        (void)await_waiting(&control, 0, release);
        idle = tool_memory(proxy);
        for (unsigned i = 0; i < HERD; i++) {
                struct epoll_event event = { .events = EPOLLIN, .data.u32 = i };

                callers[i].len = 0;
                callers[i].fd = front == HTTP ? tool_dial_port(port) : tool_dial(msd_path);
                (void)setsockopt(callers[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
                if (epoll_ctl(epoll, EPOLL_CTL_ADD, callers[i].fd, &event) < 0)
                        tool_fail("epoll_ctl");
                ask_one(front, &callers[i], i);
        }
        all_wait = await_waiting(&control, HERD, release);
        herd->memory = (tool_memory(proxy) - idle) / HERD;
        if (all_wait)
                release_herd(front, epoll, callers, release, herd);

        for (unsigned i = 0; i < HERD; i++)
                close(callers[i].fd);
        close(control.fd);
        close(epoll);
        close(fds[0]);
        tool_stop(&proxy);
        return all_wait;
}

static void print_herd(const char *msd) {
        struct herd all[FRONTS][ROUNDS];
        unsigned load = HERD_LOAD_SECONDS;

        for (unsigned round = 0; round < ROUNDS; round++)
                for (unsigned i = 0; i < FRONTS; i++) {
                        const enum front front = (i + round) % FRONTS;

                        while (!measure_herd(front, msd, load, &all[front][round]))
                                if ((load *= 2) > HERD_LOAD_SECONDS_MAX)
                                        tool_fail("not all waited before the load was over");
                }

        printf("http: %d requests with a prompt of %d bytes that wait, one a connection, released together, medians of %d rounds\n\n",
               HERD, PROMPT, ROUNDS);
        printf("  %-8s %14s %14s %15s %14s\n", "", "first answer ms", "last answer ms", "CPU/request us", "memory/request");
        for (unsigned front = 0; front < FRONTS; front++) {
                double memory[ROUNDS], first[ROUNDS], last[ROUNDS], cpu[ROUNDS];

                for (unsigned i = 0; i < ROUNDS; i++) {
                        memory[i] = all[front][i].memory;
                        first[i] = all[front][i].first;
                        last[i] = all[front][i].last;
                        cpu[i] = all[front][i].cpu;
                }
                printf("  %-8s %15.1f %14.1f %15.1f %14.0f\n", front == HTTP ? "HTTP" : "socket", tool_median(first, ROUNDS),
                       tool_median(last, ROUNDS), tool_median(cpu, ROUNDS), tool_median(memory, ROUNDS));
        }
        printf("\n");
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
        snprintf(config_path, sizeof(config_path), "%s/config", directory);
        snprintf(pid_path, sizeof(pid_path), "%s/pid", directory);
        memset(body, 'x', BODY);
        memset(prompt, 'p', PROMPT);
        snprintf(request, sizeof(request),
                 "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n"
                 "{\"prompt\":\"%s\"}", strlen(prompt) + strlen("{\"prompt\":\"\"}"), prompt);
        print_proxies(argv[1]);
        print_herd(argv[1]);
        clean_up();
        return 0;
}
