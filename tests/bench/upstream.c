/*
 * What msd costs in front of a real model server: the same client asks the tests' own server directly, over HTTP, and
 * through msd; and how soon after the server says that it is ready the first waiting request is answered.
 *
 *      upstream MSD SERVER
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"
#include "tests/bench/tool.h"

#define SECONDS 3
#define ROUNDS 3
#define CALLERS_MAX 64
#define SAMPLES_MAX 1000000
#define STARTS 15

enum way {
        DIRECT,
        THROUGH,
        WAYS,
};

static const char *const requests[WAYS] = {
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n"
        "{\"prompt\":\"hi\"}",
        "REQUEST 7 2\nhi\n",
};

struct caller {
        int fd;
        uint64_t sent;
        size_t len;
        char answer[2048];
};

struct figures {
        double rate;
        double p50;
        double p99;
        double cpu;
};

static char directory[] = "/tmp/msd-bench.XXXXXX";
static char sockets[WAYS][64];
static pid_t processes[WAYS];

static void stop_all(void) {
        for (unsigned i = 0; i < WAYS; i++) {
                tool_stop(&processes[i]);
                unlink(sockets[i]);
        }
}

static void clean_up(void) {
        stop_all();
        rmdir(directory);
}

/* Whether the answer is whole; a wrong one ends the program. */
static bool is_whole(enum way way, const struct caller *caller) {
        const char *body, *length;
        size_t head, n;

        if (way == THROUGH) {
                body = strchr(caller->answer, '\n');
                if (!body)
                        return false;
                if (strncmp(caller->answer, "OK 7 ", 5) != 0)
                        tool_fail(caller->answer);
                head = (size_t)(body - caller->answer) + 1;
                n = strtoul(caller->answer + 5, NULL, 10) + 1;
        } else {
                body = strstr(caller->answer, "\r\n\r\n");
                if (!body)
                        return false;
                length = strcasestr(caller->answer, "\r\nContent-Length: ");
                if (strncmp(caller->answer, "HTTP/1.1 200", 12) != 0 || !length)
                        tool_fail(caller->answer);
                head = (size_t)(body - caller->answer) + 4;
                n = strtoul(length + 18, NULL, 10);
        }
        return caller->len >= head + n;
}

static void ask(enum way way, struct caller *caller) {
        caller->len = 0;
        caller->sent = tool_now();
        if (send(caller->fd, requests[way], strlen(requests[way]), MSG_NOSIGNAL) != (ssize_t)strlen(requests[way]))
                tool_fail("send");
}

/* Reads what has come. Returns whether the answer is whole now. */
static bool hear(enum way way, struct caller *caller) {
        ssize_t n = recv(caller->fd, caller->answer + caller->len, sizeof(caller->answer) - caller->len - 1, 0);

        if (n <= 0)
                tool_fail("recv");
        caller->len += (size_t)n;
        caller->answer[caller->len] = '\0';
        return is_whole(way, caller);
}

static struct figures measure(enum way way, unsigned count) {
        static struct caller callers[CALLERS_MAX];
        static double samples[SAMPLES_MAX];
        struct figures figures = { 0 };
        int epoll = epoll_create1(EPOLL_CLOEXEC);
        uint64_t begin = 0, warm = tool_now() + NSEC_PER_SEC / 3, end = warm + SECONDS * NSEC_PER_SEC;
        double cpu = 0;
        size_t n = 0;

        for (unsigned i = 0; i < count; i++) {
                struct epoll_event event = { .events = EPOLLIN, .data.ptr = &callers[i] };

                callers[i].fd = tool_dial(sockets[way]);
                if (epoll_ctl(epoll, EPOLL_CTL_ADD, callers[i].fd, &event) < 0)
                        tool_fail("epoll_ctl");
                ask(way, &callers[i]);
        }
        for (uint64_t time = tool_now(); time < end && n < SAMPLES_MAX; time = tool_now()) {
                struct epoll_event events[CALLERS_MAX];
                int ready = epoll_wait(epoll, events, CALLERS_MAX, 1000);

                if (begin == 0 && time >= warm) {
                        begin = time;
                        cpu = tool_cpu(processes[way]);
                }
                for (int i = 0; i < ready; i++) {
                        struct caller *caller = events[i].data.ptr;

                        if (!hear(way, caller))
                                continue;
                        if (begin > 0 && n < SAMPLES_MAX)
                                samples[n++] = (double)(tool_now() - caller->sent) / 1e3;
                        ask(way, caller);
                }
        }
        if (n == 0)
                tool_fail("no answer");
        figures.rate = (double)n * 1e9 / (double)(tool_now() - begin);
        figures.cpu = (tool_cpu(processes[way]) - cpu) / (double)n;
        figures.p50 = tool_median(samples, n);
        figures.p99 = samples[n * 99 / 100];
        for (unsigned i = 0; i < count; i++)
                close(callers[i].fd);
        close(epoll);
        return figures;
}

static void print_rates(const char *msd, const char *server) {
        static const unsigned counts[] = { 1, 64 };
        char url[80];

        snprintf(url, sizeof(url), "unix:%s", sockets[DIRECT]);
        processes[DIRECT] = tool_start((const char *[]){ server, "--socket", sockets[DIRECT], NULL }, -1);
        close(tool_dial(sockets[DIRECT]));
        processes[THROUGH] = tool_start((const char *[]){ msd, "--socket", sockets[THROUGH], "--upstream", url, "--quiet",
                                                          NULL }, -1);
        printf("upstream: the same server asked directly and through msd, medians of %d rounds\n\n", ROUNDS);
        printf("  %-8s %9s %12s %6s %9s %9s %20s\n", "", "in flight", "requests/s", "ratio", "p50 us", "p99 us",
               "msd's CPU/request us");
        for (unsigned c = 0; c < ARRAY_SIZE(counts); c++) {
                struct figures all[WAYS][ROUNDS];
                double direct = 0;

                for (unsigned round = 0; round < ROUNDS; round++)
                        for (unsigned way = 0; way < WAYS; way++)
                                /* Each round begins with the other way. */
                                all[(way + round) % WAYS][round] = measure((way + round) % WAYS, counts[c]);
                for (unsigned way = 0; way < WAYS; way++) {
                        double rates[ROUNDS], p50s[ROUNDS], p99s[ROUNDS], cpus[ROUNDS], rate;

                        for (unsigned i = 0; i < ROUNDS; i++) {
                                rates[i] = all[way][i].rate;
                                p50s[i] = all[way][i].p50;
                                p99s[i] = all[way][i].p99;
                                cpus[i] = all[way][i].cpu;
                        }
                        rate = tool_median(rates, ROUNDS);
                        direct = way == DIRECT ? rate : direct;
                        printf("  %-8s %9u %12.0f %6.2f %9.0f %9.0f", way == DIRECT ? "direct" : "msd", counts[c], rate,
                               rate / direct, tool_median(p50s, ROUNDS), tool_median(p99s, ROUNDS));
                        if (way == THROUGH)
                                printf(" %20.1f", tool_median(cpus, ROUNDS));
                        printf("\n");
                }
        }
        printf("\n");
        stop_all();
}

/* From the server's own readiness, which it notes in a file before it says so, to the first answer. */
static void print_release(const char *msd, const char *server) {
        double took[2][STARTS];
        char url[80], ready_at[80];

        snprintf(url, sizeof(url), "unix:%s", sockets[DIRECT]);
        snprintf(ready_at, sizeof(ready_at), "%s/ready", directory);
        for (unsigned i = 0; i < STARTS; i++)
                for (unsigned pushed = 0; pushed < 2; pushed++) {
                        char load[32];
                        struct caller caller = { 0 };
                        uint64_t at = 0;
                        int fd;

                        /* At different times between two probes. */
                        snprintf(load, sizeof(load), "%ums", 200 + i * 7);
                        processes[THROUGH] = tool_start((const char *[]){ msd, "--socket", sockets[THROUGH], "--upstream", url,
                                                               "--model", "echo", "--quiet", "--", server, "--socket",
                                                               sockets[DIRECT], "--load", load, "--ready-at", ready_at,
                                                               pushed ? "--notify" : NULL, NULL }, -1);
                        caller.fd = tool_dial(sockets[THROUGH]);
                        ask(THROUGH, &caller);
                        while (!hear(THROUGH, &caller))
                                ;
                        took[pushed][i] = (double)tool_now();
                        fd = open(ready_at, O_RDONLY | O_CLOEXEC);
                        if (fd < 0 || read(fd, &at, sizeof(at)) != sizeof(at))
                                tool_fail(ready_at);
                        close(fd);
                        took[pushed][i] = (took[pushed][i] - (double)at) / 1e6;
                        close(caller.fd);
                        kill(processes[THROUGH], SIGTERM);
                        waitpid(processes[THROUGH], NULL, 0);
                        processes[THROUGH] = 0;
                }
        unlink(ready_at);
        printf("upstream: from its readiness to the first answer, median and longest of %d\n\n", STARTS);
        for (unsigned pushed = 0; pushed < 2; pushed++) {
                double middle = tool_median(took[pushed], STARTS);

                printf("  %-8s %9.2f ms %9.2f ms\n", pushed ? "told" : "probed", middle, took[pushed][STARTS - 1]);
        }
        printf("\n");
        stop_all();
}

int main(int argc, char **argv) {
        if (argc != 3) {
                fprintf(stderr, "usage: upstream MSD SERVER\n");
                return 2;
        }
        tool_init("upstream", clean_up);
        if (!mkdtemp(directory))
                tool_fail("mkdtemp");
        for (unsigned i = 0; i < WAYS; i++)
                snprintf(sockets[i], sizeof(sockets[i]), "%s/%u.sock", directory, i);
        print_rates(argv[1], argv[2]);
        print_release(argv[1], argv[2]);
        clean_up();
        return 0;
}
