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
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/address.h"
#include "common/number.h"
#include "common/util.h"

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

static uint64_t now(void) {
        struct timespec time;

        clock_gettime(CLOCK_MONOTONIC, &time);
        return (uint64_t)time.tv_sec * NSEC_PER_SEC + (uint64_t)time.tv_nsec;
}

static void clean_up(void) {
        for (unsigned i = 0; i < WAYS; i++) {
                if (processes[i] > 0) {
                        kill(processes[i], SIGKILL);
                        waitpid(processes[i], NULL, 0);
                }
                processes[i] = 0;
                unlink(sockets[i]);
        }
}

static void fail(const char *what) {
        fprintf(stderr, "upstream: %s: %s\n", what, strerror(errno));
        clean_up();
        rmdir(directory);
        exit(1);
}

static pid_t start(const char *const *argv) {
        pid_t parent = getpid(), pid = fork();

        if (pid == 0) {
                int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

                prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() != parent)
                        _exit(1);
                dup2(null, STDOUT_FILENO);
                dup2(null, STDERR_FILENO);
                execv(argv[0], (char *const *)argv);
                _exit(127);
        }
        if (pid < 0)
                fail("fork");
        return pid;
}

/* As soon as there is something to connect to. */
static int dial(const char *path) {
        struct sockaddr_un address;
        socklen_t len;

        (void)address_from_path(path, &address, &len);
        for (uint64_t deadline = now() + 10 * NSEC_PER_SEC; now() < deadline;) {
                int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

                if (fd < 0)
                        fail("socket");
                if (connect(fd, (const struct sockaddr *)&address, len) == 0)
                        return fd;
                close(fd);
        }
        fail(path);
        return -1;
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
                        fail(caller->answer);
                head = (size_t)(body - caller->answer) + 1;
                n = strtoul(caller->answer + 5, NULL, 10) + 1;
        } else {
                body = strstr(caller->answer, "\r\n\r\n");
                if (!body)
                        return false;
                length = strcasestr(caller->answer, "\r\nContent-Length: ");
                if (strncmp(caller->answer, "HTTP/1.1 200", 12) != 0 || !length)
                        fail(caller->answer);
                head = (size_t)(body - caller->answer) + 4;
                n = strtoul(length + 18, NULL, 10);
        }
        return caller->len >= head + n;
}

static void ask(enum way way, struct caller *caller) {
        caller->len = 0;
        caller->sent = now();
        if (send(caller->fd, requests[way], strlen(requests[way]), MSG_NOSIGNAL) != (ssize_t)strlen(requests[way]))
                fail("send");
}

/* Reads what has come. Returns whether the answer is whole now. */
static bool hear(enum way way, struct caller *caller) {
        ssize_t n = recv(caller->fd, caller->answer + caller->len, sizeof(caller->answer) - caller->len - 1, 0);

        if (n <= 0)
                fail("recv");
        caller->len += (size_t)n;
        caller->answer[caller->len] = '\0';
        return is_whole(way, caller);
}

static double cpu_of(pid_t pid) {
        clockid_t clock;
        struct timespec time;

        if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) < 0)
                fail("clock_getcpuclockid");
        return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b) {
        const double left = *(const double *)a, right = *(const double *)b;

        return left < right ? -1 : left > right;
}

static double median(double *values, size_t n) {
        qsort(values, n, sizeof(*values), compare);
        return values[n / 2];
}

static struct figures measure(enum way way, unsigned count) {
        static struct caller callers[CALLERS_MAX];
        static double samples[SAMPLES_MAX];
        struct figures figures = { 0 };
        int epoll = epoll_create1(EPOLL_CLOEXEC);
        uint64_t begin = 0, warm = now() + NSEC_PER_SEC / 3, end = warm + SECONDS * NSEC_PER_SEC;
        double cpu = 0;
        size_t n = 0;

        for (unsigned i = 0; i < count; i++) {
                struct epoll_event event = { .events = EPOLLIN, .data.ptr = &callers[i] };

                callers[i].fd = dial(sockets[way]);
                if (epoll_ctl(epoll, EPOLL_CTL_ADD, callers[i].fd, &event) < 0)
                        fail("epoll_ctl");
                ask(way, &callers[i]);
        }
        for (uint64_t time = now(); time < end && n < SAMPLES_MAX; time = now()) {
                struct epoll_event events[CALLERS_MAX];
                int ready = epoll_wait(epoll, events, CALLERS_MAX, 1000);

                if (begin == 0 && time >= warm) {
                        begin = time;
                        cpu = cpu_of(processes[way]);
                }
                for (int i = 0; i < ready; i++) {
                        struct caller *caller = events[i].data.ptr;

                        if (!hear(way, caller))
                                continue;
                        if (begin > 0 && n < SAMPLES_MAX)
                                samples[n++] = (double)(now() - caller->sent) / 1e3;
                        ask(way, caller);
                }
        }
        if (n == 0)
                fail("no answer");
        figures.rate = (double)n * 1e9 / (double)(now() - begin);
        figures.cpu = (cpu_of(processes[way]) - cpu) / (double)n;
        qsort(samples, n, sizeof(*samples), compare);
        figures.p50 = samples[n / 2];
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
        processes[DIRECT] = start((const char *[]){ server, "--socket", sockets[DIRECT], NULL });
        close(dial(sockets[DIRECT]));
        processes[THROUGH] = start((const char *[]){ msd, "--socket", sockets[THROUGH], "--upstream", url, "--quiet", NULL });
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
                        rate = median(rates, ROUNDS);
                        direct = way == DIRECT ? rate : direct;
                        printf("  %-8s %9u %12.0f %6.2f %9.0f %9.0f", way == DIRECT ? "direct" : "msd", counts[c], rate,
                               rate / direct, median(p50s, ROUNDS), median(p99s, ROUNDS));
                        if (way == THROUGH)
                                printf(" %20.1f", median(cpus, ROUNDS));
                        printf("\n");
                }
        }
        printf("\n");
        clean_up();
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
                        processes[THROUGH] = start((const char *[]){ msd, "--socket", sockets[THROUGH], "--upstream", url,
                                                               "--model", "echo", "--quiet", "--", server, "--socket",
                                                               sockets[DIRECT], "--load", load, "--ready-at", ready_at,
                                                               pushed ? "--notify" : NULL, NULL });
                        caller.fd = dial(sockets[THROUGH]);
                        ask(THROUGH, &caller);
                        while (!hear(THROUGH, &caller))
                                ;
                        took[pushed][i] = (double)now();
                        fd = open(ready_at, O_RDONLY | O_CLOEXEC);
                        if (fd < 0 || read(fd, &at, sizeof(at)) != sizeof(at))
                                fail(ready_at);
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
                double middle = median(took[pushed], STARTS);

                printf("  %-8s %9.2f ms %9.2f ms\n", pushed ? "told" : "probed", middle, took[pushed][STARTS - 1]);
        }
        printf("\n");
        clean_up();
}

int main(int argc, char **argv) {
        if (argc != 3) {
                fprintf(stderr, "usage: upstream MSD SERVER\n");
                return 2;
        }
        if (!mkdtemp(directory))
                fail("mkdtemp");
        for (unsigned i = 0; i < WAYS; i++)
                snprintf(sockets[i], sizeof(sockets[i]), "%s/%u.sock", directory, i);
        print_rates(argv[1], argv[2]);
        print_release(argv[1], argv[2]);
        rmdir(directory);
        return 0;
}
