/*
 * What the HTTP front costs, beside a relay that does the least (relay.c), HAProxy and nginx: the same clients and the same
 * model server, which take turns with each of them in one run. Each figure is the median of the rounds.
 *
 *      http MSD RELAY [requests|events|memory|release]...
 *
 * Clients and model server are one thread each, which do little for a request; so with two processors, what a proxy saves
 * shows in its requests a second too.
 */

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "common/number.h"
#include "common/util.h"
#include "tests/bench/caller.h"
#include "tests/bench/crowd.h"
#include "tests/bench/model.h"
#include "tests/bench/proxy.h"
#include "tests/bench/tool.h"

#define ROUNDS 5
#define CALLERS 64
#define EVENTS 256
#define WARM_UP (NSEC_PER_SEC / 2)
#define MEASURED (2 * NSEC_PER_SEC)
#define TRACED (NSEC_PER_SEC / 2)
#define SAMPLES_MAX 2000000

/* Of the better of HAProxy and nginx. */
#define CPU_GOAL 0.85
#define RATE_GOAL 1.1
#define CALLS_GOAL 4.5

struct figures {
        double rate;
        double cpu;
        double p50;
        double p99;
        double calls;           /* -1: could not be counted */
};

static struct model model = MODEL_NULL;
static struct proxy proxy = PROXY_NULL;
static double samples[SAMPLES_MAX];

static void clean_up(void) {
        proxy_stop(&proxy);
        model_stop(&model);
        proxies_deinit();
}

static void take_latencies(struct figures *figures, size_t n) {
        n = MIN(n, (size_t)SAMPLES_MAX);
        if (n == 0)
                tool_fail("no answers");
        figures->p50 = tool_median(samples, n);
        figures->p99 = samples[n * 99 / 100];
}

/* In a run of its own: who is traced is slow. */
static double count_calls(struct callers *callers) {
        pid_t tracer;
        size_t n;
        double calls;

        /* Nothing is under way when it begins, and when it ends. */
        (void)tool_cpu_at_rest(proxy.pid);
        tracer = tool_trace(proxy.pid, proxy_trace_path());
        if (tracer < 0)
                return -1;
        n = callers_drive(callers, tool_now() + TRACED, NULL, 0);
        calls = tool_count_calls(&tracer, proxy_trace_path());
        return calls < 0 ? -1 : calls / (double)n;
}

static void measure_requests(enum proxy_kind kind, bool traced, struct figures *figures) {
        struct callers callers = CALLERS_NULL;
        uint64_t begin;
        double cpu;
        size_t n;

        model_start(&model, MODEL_ANSWERS, 0);
        proxy_start(&proxy, kind, model.port, false);
        callers_init(&callers, CALLERS, proxy.port, NULL);
        (void)callers_drive(&callers, tool_now() + WARM_UP, NULL, 0);

        cpu = tool_cpu(proxy.pid);
        begin = tool_now();
        n = callers_drive(&callers, begin + MEASURED, samples, SAMPLES_MAX);
        figures->rate = (double)n * 1e9 / (double)(tool_now() - begin);
        figures->cpu = (tool_cpu(proxy.pid) - cpu) / (double)n;
        take_latencies(figures, n);
        if (traced)
                figures->calls = count_calls(&callers);

        callers_deinit(&callers);
        proxy_stop(&proxy);
        model_stop(&model);
}

/* Reads what has come of a stream. Returns how many events; `delays` gets how long each was on its way, in microseconds. */
static size_t hear_events(struct caller *caller, double *delays, size_t max) {
        size_t count = 0, room, n;

        do {
                const char *event = caller->answer, *end;
                uint64_t now;

                room = sizeof(caller->answer) - caller->len - 1;
                n = caller_receive(caller);
                now = tool_now();
                while ((end = memmem(event, (size_t)(caller->answer + caller->len - event), "\n\n", 2))) {
                        const char *stamp = memmem(event, (size_t)(end - event), MODEL_STAMP, strlen(MODEL_STAMP));

                        if (!stamp)
                                tool_fail(caller->answer);
                        if (count < max)
                                delays[count] = (double)(now - strtoull(stamp + strlen(MODEL_STAMP), NULL, 16)) / 1e3;
                        count++;
                        event = end + 2;
                }
                caller->len = (uint32_t)(caller->answer + caller->len - event);
                memmove(caller->answer, event, caller->len + 1);
        } while (n == room);
        return count;
}

/* Hears events until `end`. Returns how many. */
static size_t drive_events(struct callers *callers, uint64_t end) {
        size_t count = 0;

        while (tool_now() < end) {
                struct epoll_event events[EVENTS];
                int n = epoll_wait(callers->epoll, events, EVENTS, 1000);

                for (int i = 0; i < n; i++) {
                        const size_t kept = MIN(count, (size_t)SAMPLES_MAX);

                        count += hear_events(&callers->each[events[i].data.u32], samples + kept, SAMPLES_MAX - kept);
                }
        }
        return count;
}

static void measure_events(enum proxy_kind kind, unsigned streams, struct figures *figures) {
        struct callers callers = CALLERS_NULL;
        uint64_t begin;
        double cpu;
        size_t n;

        model_start(&model, MODEL_STREAMS, streams);
        proxy_start(&proxy, kind, model.port, true);
        callers_init(&callers, streams, proxy.port, NULL);
        for (unsigned i = 0; i < streams; i++)
                caller_ask(&callers.each[i], -1);
        (void)drive_events(&callers, tool_now() + 2 * WARM_UP);

        cpu = tool_cpu(proxy.pid);
        begin = tool_now();
        n = drive_events(&callers, begin + MEASURED);
        figures->rate = (double)n * 1e9 / (double)(tool_now() - begin);
        figures->cpu = (tool_cpu(proxy.pid) - cpu) / (double)n;
        take_latencies(figures, n);

        callers_deinit(&callers);
        proxy_stop(&proxy);
        model_stop(&model);
}

static struct figures middle(const struct figures all[static ROUNDS]) {
        /* Counted in the last round alone. */
        struct figures figures = { .calls = all[ROUNDS - 1].calls };
        double values[ROUNDS];

#define MEDIAN(member)                                          \
        ({                                                      \
                for (unsigned i = 0; i < ROUNDS; i++)           \
                        values[i] = all[i].member;              \
                figures.member = tool_median(values, ROUNDS);   \
        })
        MEDIAN(rate);
        MEDIAN(cpu);
        MEDIAN(p50);
        MEDIAN(p99);
#undef MEDIAN
        return figures;
}

/* What msd is to reach. Returns false if there is neither of the two on this machine. */
static bool set_goal(const struct figures figures[static PROXY_KINDS], struct figures *goal) {
        *goal = (struct figures){ 0 };
        for (unsigned kind = PROXY_HAPROXY; kind <= PROXY_NGINX; kind++) {
                if (!proxy_exists(kind))
                        continue;
                goal->rate = MAX(goal->rate, RATE_GOAL * figures[kind].rate);
                if (goal->cpu == 0 || CPU_GOAL * figures[kind].cpu < goal->cpu)
                        goal->cpu = CPU_GOAL * figures[kind].cpu;
        }
        return goal->cpu > 0;
}

static void print_requests(void) {
        static struct figures all[PROXY_KINDS][ROUNDS];
        struct figures figures[PROXY_KINDS], goal;
        bool counted = true;

        for (unsigned round = 0; round < ROUNDS; round++)
                for (unsigned i = 0; i < PROXY_KINDS; i++) {
                        /* Each round begins with another. */
                        const enum proxy_kind kind = (i + round) % PROXY_KINDS;

                        if (proxy_exists(kind))
                                measure_requests(kind, round == ROUNDS - 1, &all[kind][round]);
                }

        printf("requests: %d connections with one request each, POST of %d bytes, answers of %d bytes; medians of %d rounds\n"
               "\n", CALLERS, CALLER_BODY, MODEL_BODY, ROUNDS);
        printf("  %-8s %15s %12s %21s %9s %9s\n", "", "CPU us/request", "requests/s", "system calls/request", "p50 us",
               "p99 us");
        for (unsigned kind = 0; kind < PROXY_KINDS; kind++) {
                const struct figures *own = &figures[kind];

                if (!proxy_exists(kind)) {
                        printf("  %-8s is not on this machine\n", proxy_name(kind));
                        continue;
                }
                figures[kind] = middle(all[kind]);
                printf("  %-8s %15.1f %12.0f", proxy_name(kind), own->cpu, own->rate);
                if (own->calls < 0)
                        printf(" %21s", "-");
                else
                        printf(" %21.1f", own->calls);
                counted = counted && own->calls >= 0;
                printf(" %9.0f %9.0f\n", own->p50, own->p99);
        }
        if (set_goal(figures, &goal))
                printf("  %-8s %15.1f %12.0f %21.1f\n", "goal", goal.cpu, goal.rate, CALLS_GOAL);
        if (!counted)
                printf("\n  -: system calls need strace, and the right to trace\n");
        printf("\n");
}

static void print_events(void) {
        static const unsigned streams[] = { 200, 1000 };
        static struct figures all[ARRAY_SIZE(streams)][PROXY_KINDS][ROUNDS];

        for (unsigned round = 0; round < ROUNDS; round++)
                for (unsigned s = 0; s < ARRAY_SIZE(streams); s++)
                        for (unsigned i = 0; i < PROXY_KINDS; i++) {
                                const enum proxy_kind kind = (i + round) % PROXY_KINDS;

                                if (proxy_exists(kind))
                                        measure_events(kind, streams[s], &all[s][kind][round]);
                        }

        printf("events: streams of %d events a second each, passed on one by one; medians of %d rounds\n\n", MODEL_EVENTS,
               ROUNDS);
        printf("  %-8s %8s %13s %10s %9s %9s\n", "", "streams", "CPU us/event", "events/s", "p50 us", "p99 us");
        for (unsigned s = 0; s < ARRAY_SIZE(streams); s++) {
                struct figures figures[PROXY_KINDS], goal;

                for (unsigned kind = 0; kind < PROXY_KINDS; kind++) {
                        const struct figures *own = &figures[kind];

                        if (!proxy_exists(kind)) {
                                printf("  %-8s is not on this machine\n", proxy_name(kind));
                                continue;
                        }
                        figures[kind] = middle(all[s][kind]);
                        printf("  %-8s %8u %13.1f %10.0f %9.0f %9.0f\n", proxy_name(kind), streams[s], own->cpu, own->rate,
                               own->p50, own->p99);
                }
                if (set_goal(figures, &goal))
                        printf("  %-8s %8u %13.1f\n", "goal", streams[s], goal.cpu);
        }
        printf("\n");
}

static void print_memory(void) {
        crowd_print_memory(&model, &proxy, ROUNDS);
}

static void print_release(void) {
        crowd_print_release(&proxy, ROUNDS);
}

static const struct {
        const char *name;
        void (*print)(void);
} tables[] = {
        { "requests", print_requests },
        { "events", print_events },
        { "memory", print_memory },
        { "release", print_release },
};

int main(int argc, char *argv[]) {
        bool wanted[ARRAY_SIZE(tables)] = { 0 };
        bool known = argc >= 3;

        for (int i = 3; i < argc && known; i++) {
                known = false;
                for (size_t j = 0; j < ARRAY_SIZE(tables); j++)
                        if (strcmp(argv[i], tables[j].name) == 0)
                                known = wanted[j] = true;
        }
        if (!known) {
                fprintf(stderr, "Usage: http MSD RELAY [requests|events|memory|release]...\n");
                return 2;
        }
        setvbuf(stdout, NULL, _IOLBF, 0);
        tool_init("http", clean_up);
        tool_raise_descriptor_limit();
        proxies_init(argv[1], argv[2]);
        for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
                if (argc == 3 || wanted[i])
                        tables[i].print();
        clean_up();
        return 0;
}
