#include "tests/bench/crowd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"
#include "tests/bench/caller.h"
#include "tests/bench/tool.h"

#define COUNT 5000
#define ROUNDS_MAX 16
#define EVENTS 256
#define PATIENCE (60 * NSEC_PER_SEC)
#define MOMENT (5 * NSEC_PER_MSEC)
#define LOAD_SECONDS 3
#define LOAD_SECONDS_MAX 96
/* Milliseconds up to the last answer over HTTP. */
#define RELEASE_GOAL 30

enum stage {
        STAGE_NEW,
        STAGE_WAITING,
        STAGE_IDLE,
        STAGES,
};

static const double memory_goals[STAGES] = { 400, 768, 600 };

/* How clients come in. */
enum front {
        REQUEST_SOCKET,
        HTTP,
        FRONTS,
};

struct release {
        double first;
        double last;
        double cpu;
};

static void sleep_a_moment(void) {
        const struct timespec moment = { .tv_nsec = MOMENT };

        nanosleep(&moment, NULL);
}

/* What STATUS says of requests that wait, asked on a connection of its own. */
static unsigned long count_waiting(struct caller *control) {
        const char *waiting, *end;

        if (send(control->fd, "STATUS\n", 7, MSG_NOSIGNAL) != 7)
                tool_fail("send");
        control->len = 0;
        /* The head is a line, and so is its body. */
        do {
                if (recv(control->fd, control->answer, 1, MSG_PEEK) != 1 || caller_receive(control) == 0)
                        tool_fail("recv");
                end = strchr(control->answer, '\n');
        } while (!end || !strchr(end + 1, '\n'));
        waiting = strstr(control->answer, "\"waiting\":");
        if (!waiting)
                tool_fail("no status");
        return strtoul(waiting + strlen("\"waiting\":"), NULL, 10);
}

/* Returns false if so many do not wait before `deadline`. */
static bool await_waiting(struct caller *control, unsigned long count, uint64_t deadline) {
        while (count_waiting(control) != count) {
                if (tool_now() >= deadline)
                        return false;
                sleep_a_moment();
        }
        return true;
}

/* Until all requests wait: those at msd in msd, those at others at the model server. */
static void await_crowd(const struct model *model, enum proxy_kind kind, struct caller *control) {
        const uint64_t deadline = tool_now() + PATIENCE;

        if (kind == PROXY_MSD) {
                if (!await_waiting(control, COUNT, deadline))
                        tool_fail("not all requests wait");
                return;
        }
        while (model_held(model) != COUNT) {
                if (tool_now() >= deadline)
                        tool_fail("not all requests are with the model server");
                sleep_a_moment();
        }
}

static double memory_at_rest(const struct proxy *proxy) {
        (void)tool_cpu_at_rest(proxy->pid);
        return tool_memory_share(proxy->pid);
}

static void measure_memory(struct model *model, struct proxy *proxy, enum proxy_kind kind, double figures[static STAGES]) {
        struct callers callers = CALLERS_NULL;
        struct caller control = { .fd = -1 };
        double before;

        model_start(model, MODEL_HOLDS, 0);
        proxy_start(proxy, kind, model->port, false);
        close(tool_dial_port(proxy->port));
        if (kind == PROXY_MSD) {
                control.fd = tool_dial(proxy_msd_path());
                (void)count_waiting(&control);
        }
        before = memory_at_rest(proxy);

        callers_init(&callers, COUNT, proxy->port, NULL);
        figures[STAGE_NEW] = (memory_at_rest(proxy) - before) / COUNT;

        for (unsigned i = 0; i < COUNT; i++)
                caller_ask(&callers.each[i], -1);
        await_crowd(model, kind, &control);
        figures[STAGE_WAITING] = (memory_at_rest(proxy) - before) / COUNT;

        model_release(model);
        for (unsigned answered = 0; answered < COUNT;) {
                struct epoll_event events[EVENTS];
                int n = epoll_wait(callers.epoll, events, EVENTS, (int)(PATIENCE / NSEC_PER_MSEC));

                if (n <= 0)
                        tool_fail("epoll_wait");
                for (int i = 0; i < n; i++)
                        if (caller_hear(&callers.each[events[i].data.u32]) > 0) {
                                caller_verify(&callers.each[events[i].data.u32]);
                                answered++;
                        }
        }
        figures[STAGE_IDLE] = (memory_at_rest(proxy) - before) / COUNT;

        callers_deinit(&callers);
        util_close(control.fd);
        proxy_stop(proxy);
        model_stop(model);
}

void crowd_print_memory(struct model *model, struct proxy *proxy, unsigned rounds) {
        static double all[PROXY_KINDS][ROUNDS_MAX][STAGES];

        for (unsigned round = 0; round < rounds; round++)
                for (unsigned i = 0; i < PROXY_KINDS; i++) {
                        /* Each round begins with another. */
                        const enum proxy_kind kind = (i + round) % PROXY_KINDS;

                        if (proxy_exists(kind))
                                measure_memory(model, proxy, kind, all[kind][round]);
                }

        printf("memory: %d connections with a POST of %d bytes each, bytes for one, medians of %u rounds; requests wait\n"
               "at the model server, and those at msd for the model to be ready\n\n", COUNT, CALLER_BODY, rounds);
        printf("  %-8s %12s %12s %12s\n", "", "new", "waiting", "idle again");
        for (unsigned kind = 0; kind < PROXY_KINDS; kind++) {
                if (!proxy_exists(kind)) {
                        printf("  %-8s is not on this machine\n", proxy_name(kind));
                        continue;
                }
                printf("  %-8s", proxy_name(kind));
                for (unsigned stage = 0; stage < STAGES; stage++) {
                        double figures[ROUNDS_MAX];

                        for (unsigned i = 0; i < rounds; i++)
                                figures[i] = all[kind][i][stage];
                        printf(" %12.0f", tool_median(figures, rounds));
                }
                printf("\n");
        }
        printf("  %-8s", "goal");
        for (unsigned stage = 0; stage < STAGES; stage++)
                printf(" %12.0f", memory_goals[stage]);
        printf("\n\n");
}

/* Both with the same prompt; the number is the ID. */
static void ask_one(enum front front, struct caller *caller, unsigned id) {
        const int len = (int)(CALLER_BODY - strlen(CALLER_BODY_BEGIN CALLER_BODY_END));
        char text[CALLER_BODY + 64];
        int n;

        if (front == HTTP) {
                caller_ask(caller, (int)id);
                return;
        }
        n = snprintf(text, sizeof(text), "REQUEST %u %d\n%0*d\n", id, len, len, 0);
        if (send(caller->fd, text, (size_t)n, MSG_NOSIGNAL) != n)
                tool_fail("send");
}

/* Whether the answer is whole. */
static bool hear_one(enum front front, struct caller *caller) {
        const char *end;

        if (front == HTTP)
                return caller_hear(caller) > 0;
        if (caller_receive(caller) == 0)
                return false;
        end = memchr(caller->answer, '\n', caller->len);
        return end && caller->answer[caller->len - 1] == '\n' && end < caller->answer + caller->len - 1;
}

static void verify_one(enum front front, const struct caller *caller, unsigned id) {
        char text[64];

        snprintf(text, sizeof(text), "Response %u from sim%s", id, front == HTTP ? "" : "\n");
        if (!strstr(caller->answer, text))
                tool_fail(caller->answer);
}

/* From the release to the last answer. */
static void collect(enum front front, const struct callers *callers, const struct proxy *proxy, uint64_t at,
                    struct release *release) {
        double cpu = tool_cpu(proxy->pid);
        uint64_t first = 0, last;

        for (unsigned answered = 0; answered < COUNT;) {
                struct epoll_event events[EVENTS];
                int n = epoll_wait(callers->epoll, events, EVENTS, (int)(PATIENCE / NSEC_PER_MSEC));

                if (n <= 0)
                        tool_fail("epoll_wait");
                if (first == 0)
                        first = tool_now();
                for (int i = 0; i < n; i++)
                        answered += hear_one(front, &callers->each[events[i].data.u32]);
        }
        last = tool_now();
        for (unsigned i = 0; i < COUNT; i++)
                verify_one(front, &callers->each[i], i);
        /* Should the line have been read late, the release was no later than the first answer. */
        at = MIN(at, first);
        release->first = (double)(first - at) / 1e6;
        release->last = (double)(last - at) / 1e6;
        release->cpu = (tool_cpu_at_rest(proxy->pid) - cpu) / COUNT;
}

/* The release is when the load, which began with a line, is over. Returns false if that was before all waited. */
static bool measure_release(struct proxy *proxy, enum front front, unsigned load_seconds, struct release *release) {
        struct callers callers = CALLERS_NULL;
        struct caller control = { .fd = -1 };
        char line[32];
        uint64_t at;
        bool all_wait;

        proxy_start_simulated(proxy, load_seconds);
        if (read(proxy->output_fd, line, sizeof(line)) <= 0)
                tool_fail("read");
        at = tool_now() + load_seconds * NSEC_PER_SEC;

        control.fd = tool_dial(proxy_msd_path());
        callers_init(&callers, COUNT, proxy->port, front == HTTP ? NULL : proxy_msd_path());
        for (unsigned i = 0; i < COUNT; i++)
                ask_one(front, &callers.each[i], i);
        all_wait = await_waiting(&control, COUNT, at);
        if (all_wait)
                collect(front, &callers, proxy, at, release);

        callers_deinit(&callers);
        util_close(control.fd);
        proxy_stop(proxy);
        return all_wait;
}

void crowd_print_release(struct proxy *proxy, unsigned rounds) {
        static struct release all[FRONTS][ROUNDS_MAX];
        unsigned load = LOAD_SECONDS;

        for (unsigned round = 0; round < rounds; round++)
                for (unsigned i = 0; i < FRONTS; i++) {
                        const enum front front = (i + round) % FRONTS;

                        while (!measure_release(proxy, front, load, &all[front][round]))
                                if ((load *= 2) > LOAD_SECONDS_MAX)
                                        tool_fail("not all waited before the load was over");
                }

        printf("release: %d requests that wait at msd, one a connection, answered when its simulated model is ready;\n"
               "medians of %u rounds\n\n", COUNT, rounds);
        printf("  %-8s %16s %16s %16s\n", "", "first answer ms", "last answer ms", "CPU us/request");
        for (unsigned front = 0; front < FRONTS; front++) {
                double first[ROUNDS_MAX], last[ROUNDS_MAX], cpu[ROUNDS_MAX];

                for (unsigned i = 0; i < rounds; i++) {
                        first[i] = all[front][i].first;
                        last[i] = all[front][i].last;
                        cpu[i] = all[front][i].cpu;
                }
                printf("  %-8s %16.1f %16.1f %16.1f\n", front == HTTP ? "HTTP" : "socket", tool_median(first, rounds),
                       tool_median(last, rounds), tool_median(cpu, rounds));
        }
        printf("  %-8s %16s %16.1f\n\n", "goal", "", (double)RELEASE_GOAL);
}
