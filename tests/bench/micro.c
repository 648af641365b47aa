/*
 * Two questions of the exercise, as figures: what waking everybody costs, by a condition variable and by one
 * write to an eventfd that epoll sets watch; and what polling costs beside waiting. Each line is a process of
 * its own, so that its processor time is that of its threads alone.
 */

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 1000
#define WORKERS 2
#define POLL_NSEC (10 * 1000 * 1000)
#define POLL_SECONDS 2
#define ROUNDS 5
#define STACK_SIZE 65536

enum way {
        WAY_CONDITION,          /* each thread waits on one condition variable */
        WAY_EVENT,              /* each thread waits in an epoll set of its own, for one eventfd */
        WAY_POLL,               /* each thread looks at a flag every 10 ms */
};

/* What waits beside the thread itself: a worker walks its list of them. */
struct record {
        struct record *next;
        uint64_t awake;
};

struct crowd {
        enum way way;
        pthread_mutex_t mutex;
        pthread_cond_t condition;
        bool set;               /* under the mutex */
        atomic_bool flag;
        int event;
        unsigned threads;
        unsigned records;       /* of all threads together */
        atomic_uint asleep;
        atomic_uint awake;
        _Atomic uint64_t last;  /* when the last of them was awake */
};

struct waiter {
        struct crowd *crowd;
        struct record *records;
        pthread_t thread;
};

struct figures {
        double wake_ms;         /* from the signal until the last is awake */
        double wake_cpu_ms;
        double idle_cpu_ms;     /* while nothing happened, for POLL_SECONDS */
        double idle_switches;
};

_Noreturn static void fail(const char *what) {
        fprintf(stderr, "micro: %s: %s\n", what, strerror(errno));
        exit(EXIT_FAILURE);
}

static uint64_t now_of(clockid_t clock) {
        struct timespec now;

        clock_gettime(clock, &now);
        return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static double switches(void) {
        struct rusage usage;

        getrusage(RUSAGE_SELF, &usage);
        return (double)(usage.ru_nvcsw + usage.ru_nivcsw);
}

static void wait_for_event(struct crowd *crowd) {
        struct epoll_event event = { .events = EPOLLIN | EPOLLET };
        int epoll = epoll_create1(EPOLL_CLOEXEC);

        if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, crowd->event, &event) < 0)
                fail("epoll");
        atomic_fetch_add(&crowd->asleep, 1);
        while (epoll_wait(epoll, &event, 1, -1) != 1)
                ;
        close(epoll);
}

static void *waiter_run(void *argument) {
        const struct timespec pause = { .tv_nsec = POLL_NSEC };
        struct waiter *waiter = argument;
        struct crowd *crowd = waiter->crowd;

        switch (crowd->way) {
        case WAY_CONDITION:
                pthread_mutex_lock(&crowd->mutex);
                atomic_fetch_add(&crowd->asleep, 1);
                while (!crowd->set)
                        pthread_cond_wait(&crowd->condition, &crowd->mutex);
                pthread_mutex_unlock(&crowd->mutex);
                break;
        case WAY_EVENT:
                wait_for_event(crowd);
                break;
        case WAY_POLL:
                atomic_fetch_add(&crowd->asleep, 1);
                while (!atomic_load(&crowd->flag))
                        nanosleep(&pause, NULL);
                break;
        }

        for (struct record *record = waiter->records; record; record = record->next)
                record->awake = 1;
        if (atomic_fetch_add(&crowd->awake, 1) + 1 == crowd->threads)
                atomic_store(&crowd->last, now_of(CLOCK_MONOTONIC));
        return NULL;
}

static struct record *make_records(unsigned count) {
        struct record *first = NULL;

        while (count-- > 0) {
                struct record *record = calloc(1, sizeof(*record));

                if (!record)
                        fail("calloc");
                record->next = first;
                first = record;
        }
        return first;
}

static struct figures measure(enum way way, unsigned threads, unsigned records, unsigned seconds) {
        struct crowd crowd = { .way = way,
                               .threads = threads,
                               .records = records,
                               .event = eventfd(0, EFD_CLOEXEC),
                               .mutex = PTHREAD_MUTEX_INITIALIZER,
                               .condition = PTHREAD_COND_INITIALIZER };
        struct waiter *waiters = calloc(threads, sizeof(*waiters));
        const struct timespec settle = { .tv_nsec = 100 * 1000 * 1000 }, idle = { .tv_sec = (time_t)seconds };
        struct figures figures;
        pthread_attr_t attributes;
        uint64_t begin, cpu;
        double before;

        if (!waiters || crowd.event < 0)
                fail("eventfd");
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, STACK_SIZE);
        for (unsigned i = 0; i < threads; i++) {
                waiters[i].crowd = &crowd;
                waiters[i].records = make_records(records / threads);
                errno = pthread_create(&waiters[i].thread, &attributes, waiter_run, &waiters[i]);
                if (errno != 0)
                        fail("pthread_create");
        }
        while (atomic_load(&crowd.asleep) < threads)
                nanosleep(&settle, NULL);
        nanosleep(&settle, NULL);

        before = switches();
        cpu = now_of(CLOCK_PROCESS_CPUTIME_ID);
        nanosleep(&idle, NULL);
        figures.idle_cpu_ms = (double)(now_of(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e6;
        /* The sleep of this thread is one of them. */
        figures.idle_switches = switches() - before - 1;

        cpu = now_of(CLOCK_PROCESS_CPUTIME_ID);
        begin = now_of(CLOCK_MONOTONIC);
        if (way == WAY_CONDITION) {
                pthread_mutex_lock(&crowd.mutex);
                crowd.set = true;
                pthread_cond_broadcast(&crowd.condition);
                pthread_mutex_unlock(&crowd.mutex);
        } else if (way == WAY_EVENT) {
                if (eventfd_write(crowd.event, 1) < 0)
                        fail("eventfd_write");
        } else
                atomic_store(&crowd.flag, true);
        for (unsigned i = 0; i < threads; i++)
                pthread_join(waiters[i].thread, NULL);
        figures.wake_ms = (double)(atomic_load(&crowd.last) - begin) / 1e6;
        figures.wake_cpu_ms = (double)(now_of(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e6;
        return figures;
}

static int compare(const void *a, const void *b) {
        double x = *(const double *)a, y = *(const double *)b;

        return (x > y) - (x < y);
}

/* Measures in a child process, ROUNDS times, and takes the median of each figure. */
static struct figures measure_apart(enum way way, unsigned threads, unsigned records, unsigned seconds) {
        double figures[4][ROUNDS];

        for (unsigned i = 0; i < ROUNDS; i++) {
                struct figures f;
                int fds[2];
                pid_t pid;

                if (pipe(fds) < 0 || (pid = fork()) < 0)
                        fail("fork");
                if (pid == 0) {
                        prctl(PR_SET_PDEATHSIG, SIGKILL);
                        f = measure(way, threads, records, seconds);
                        _exit(write(fds[1], &f, sizeof(f)) == sizeof(f) ? EXIT_SUCCESS : EXIT_FAILURE);
                }
                close(fds[1]);
                if (read(fds[0], &f, sizeof(f)) != sizeof(f)) {
                        fprintf(stderr, "micro: a measurement failed\n");
                        exit(EXIT_FAILURE);
                }
                close(fds[0]);
                waitpid(pid, NULL, 0);
                figures[0][i] = f.wake_ms;
                figures[1][i] = f.wake_cpu_ms;
                figures[2][i] = f.idle_cpu_ms;
                figures[3][i] = f.idle_switches;
        }
        for (unsigned i = 0; i < 4; i++)
                qsort(figures[i], ROUNDS, sizeof(double), compare);
        return (struct figures){ figures[0][ROUNDS / 2], figures[1][ROUNDS / 2], figures[2][ROUNDS / 2],
                                 figures[3][ROUNDS / 2] };
}

int main(void) {
        static const struct {
                const char *name;
                enum way way;
                unsigned threads;
                unsigned records;
        } broadcasts[] = {
                { "1,000 threads at a condition variable, one broadcast", WAY_CONDITION, THREADS, 0 },
                { "1,000 threads, each with an epoll set that watches one eventfd", WAY_EVENT, THREADS, 0 },
                { "2 workers, epoll sets and one eventfd, 1,000 records", WAY_EVENT, WORKERS, 1000 },
                { "2 workers, epoll sets and one eventfd, 100,000 records", WAY_EVENT, WORKERS, 100000 },
                { "2 workers, epoll sets and one eventfd, 1,000,000 records", WAY_EVENT, WORKERS, 1000000 },
        }, waits[] = {
                { "1,000 threads that look at a flag every 10 ms", WAY_POLL, THREADS, 0 },
                { "1 thread that looks every 10 ms, for 1,000 records", WAY_POLL, 1, 1000 },
                { "1,000 threads that wait at a condition variable", WAY_CONDITION, THREADS, 0 },
                { "2 workers that wait for an eventfd, 1,000 records", WAY_EVENT, WORKERS, 1000 },
        };
        struct figures f;

        printf("Waking everybody; medians of %d\n\n  %-64s %10s %8s\n", ROUNDS, "", "awake ms", "CPU ms");
        for (size_t i = 0; i < sizeof(broadcasts) / sizeof(broadcasts[0]); i++) {
                f = measure_apart(broadcasts[i].way, broadcasts[i].threads, broadcasts[i].records, 0);
                printf("  %-64s %10.3f %8.3f\n", broadcasts[i].name, f.wake_ms, f.wake_cpu_ms);
                fflush(stdout);
        }
        printf("\nWaiting for %d s, then a signal; medians of %d\n\n  %-64s %10s %8s %9s\n", POLL_SECONDS,
               ROUNDS, "", "CPU ms", "switches", "awake ms");
        for (size_t i = 0; i < sizeof(waits) / sizeof(waits[0]); i++) {
                f = measure_apart(waits[i].way, waits[i].threads, waits[i].records, POLL_SECONDS);
                printf("  %-64s %10.2f %8.0f %9.3f\n", waits[i].name, f.idle_cpu_ms, f.idle_switches,
                       f.wake_ms);
                fflush(stdout);
        }
        printf("\n");
        return EXIT_SUCCESS;
}
