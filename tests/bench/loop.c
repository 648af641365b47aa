#include "tests/bench/loop.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"

#define CLIENT_THREADS_MAX 2
#define CLIENT_SLICE_NSEC 100000
#define EVENTS 128
#define WARM_UP_SECONDS 0.3
/* How long a thread may take to notice the end. */
#define TICK_MS 100

/* Latencies are counted in buckets that are 1/32 of a power of two wide. */
#define BUCKET_BITS 5
#define BUCKETS ((64 - BUCKET_BITS) << BUCKET_BITS)

enum phase {
        PHASE_WARM_UP,
        PHASE_MEASURE,
        PHASE_END,
};

struct caller {
        int fd;
        uint64_t sent;
        size_t received;
        size_t request_len;
        size_t answer_len;
        char request[SERVER_MESSAGE_MAX];
        char answer[SERVER_MESSAGE_MAX];
};

struct caller_thread {
        pthread_t thread;
        atomic_int *phase;
        unsigned number;
        int epoll;
        struct caller *callers;
        unsigned count;
        uint64_t buckets[BUCKETS];
        int result;
};

struct loop {
        struct server server;
        struct caller_thread *threads;
        unsigned thread_count;
        unsigned running;
        atomic_int phase;
};

#define LOOP_NULL { .server = SERVER_NULL }

static void loop_join(struct loop *loop) {
        atomic_store(&loop->phase, PHASE_END);
        while (loop->running > 0)
                pthread_join(loop->threads[--loop->running].thread, NULL);
}

static void loop_deinit(struct loop *loop) {
        loop_join(loop);
        server_stop(&loop->server);
        for (unsigned i = 0; i < loop->thread_count; i++) {
                struct caller_thread *thread = &loop->threads[i];

                for (unsigned j = 0; thread->callers && j < thread->count; j++)
                        util_close(thread->callers[j].fd);
                free(thread->callers);
                util_close(thread->epoll);
        }
        free(loop->threads);
        loop->threads = NULL;
        loop->thread_count = 0;
}

static unsigned bucket_of(uint64_t value) {
        unsigned shift;

        if (value < 1u << BUCKET_BITS)
                return (unsigned)value;
        shift = 63 - (unsigned)__builtin_clzll(value) - BUCKET_BITS;
        return (shift << BUCKET_BITS) + (unsigned)(value >> shift);
}

/* The middle of a bucket. */
static double bucket_value(unsigned bucket) {
        unsigned shift;

        if (bucket < 2u << BUCKET_BITS)
                return bucket;
        shift = (bucket >> BUCKET_BITS) - 1;
        return ((double)(bucket - (shift << BUCKET_BITS)) + 0.5) * (double)(UINT64_C(1) << shift);
}

static int caller_send(struct caller *caller) {
        ssize_t n = send(caller->fd, caller->request, caller->request_len, MSG_NOSIGNAL);

        caller->received = 0;
        if (n != (ssize_t)caller->request_len)
                return n < 0 ? -errno : -EMSGSIZE;
        return 0;
}

/* Reads what has come and, if it was the answer, asks again. */
static int caller_ready(struct caller_thread *thread, struct caller *caller, int phase) {
        char buffer[2 * SERVER_MESSAGE_MAX];
        ssize_t n = recv(caller->fd, buffer, sizeof(buffer), MSG_DONTWAIT);
        uint64_t now;

        if (n <= 0)
                return n == 0 ? -ECONNRESET : errno == EAGAIN ? 0 : -errno;
        if ((size_t)n > caller->answer_len - caller->received ||
            memcmp(buffer, caller->answer + caller->received, (size_t)n) != 0)
                return -EBADMSG;
        caller->received += (size_t)n;
        if (caller->received < caller->answer_len)
                return 0;

        now = server_now();
        if (phase == PHASE_MEASURE)
                thread->buckets[bucket_of(now - caller->sent)]++;
        caller->sent = now;
        return caller_send(caller);
}

/*
 * With as many client threads as processors beside the server's, who runs next decides over a latency: a
 * client that has used up its slice waits for a whole one of the server's, some milliseconds, with answers
 * unread. So each client thread has a processor, a short slice, which sched_setattr(2) grants ordinary
 * threads too, and lets others go first after each turn. Where the kernel knows better, the figures are
 * coarser, for all servers alike.
 */
static void caller_thread_schedule(unsigned processor) {
        struct {
                uint32_t size;
                uint32_t policy;
                uint64_t flags;
                int32_t nice;
                uint32_t priority;
                uint64_t runtime;
                uint64_t deadline;
                uint64_t period;
        } attributes = { .size = sizeof(attributes), .policy = SCHED_OTHER, .runtime = CLIENT_SLICE_NSEC };
        cpu_set_t allowed, one;

        CPU_ZERO(&one);
        if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0)
                for (unsigned i = 0; i < CPU_SETSIZE; i++)
                        if (CPU_ISSET(i, &allowed) && processor-- == 0) {
                                CPU_SET(i, &one);
                                (void)sched_setaffinity(0, sizeof(one), &one);
                                break;
                        }
        (void)syscall(SYS_sched_setattr, 0, &attributes, 0);
}

static int caller_thread_loop(struct caller_thread *thread) {
        struct epoll_event events[EVENTS];
        int r;

        caller_thread_schedule(thread->number);
        for (unsigned i = 0; i < thread->count; i++) {
                thread->callers[i].sent = server_now();
                r = caller_send(&thread->callers[i]);
                if (r < 0)
                        return r;
        }
        for (;;) {
                int n = epoll_wait(thread->epoll, events, EVENTS, TICK_MS);
                int phase = atomic_load_explicit(thread->phase, memory_order_relaxed);

                if (phase == PHASE_END)
                        return 0;
                if (n < 0 && errno != EINTR)
                        return -errno;
                for (int i = 0; i < n; i++) {
                        r = caller_ready(thread, events[i].data.ptr, phase);
                        if (r < 0)
                                return r;
                }
                sched_yield();
        }
}

static void *caller_thread_run(void *argument) {
        struct caller_thread *thread = argument;

        thread->result = caller_thread_loop(thread);
        return NULL;
}

static int caller_thread_init(struct caller_thread *thread, struct loop *loop, uint64_t first_id,
                              unsigned count) {
        thread->phase = &loop->phase;
        thread->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (thread->epoll < 0)
                return -errno;
        thread->callers = calloc(count, sizeof(*thread->callers));
        if (!thread->callers)
                return -ENOMEM;
        for (; thread->count < count; thread->count++) {
                struct caller *caller = &thread->callers[thread->count];
                struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = caller };

                caller->request_len = server_format_request(caller->request, first_id + thread->count);
                caller->answer_len = server_format_answer(caller->answer, first_id + thread->count);
                caller->fd = server_connect(&loop->server);
                if (caller->fd < 0)
                        return caller->fd;
                if (epoll_ctl(thread->epoll, EPOLL_CTL_ADD, caller->fd, &event) < 0) {
                        caller->fd = util_close(caller->fd);
                        return -errno;
                }
        }
        return 0;
}

static int loop_start(struct loop *loop, enum server_kind kind, unsigned connections) {
        const bool one = kind == SERVER_MSD_ONE || kind == SERVER_FLOOR_ONE ||
                         sysconf(_SC_NPROCESSORS_ONLN) < CLIENT_THREADS_MAX;
        unsigned count = one ? 1 : CLIENT_THREADS_MAX, id = 0;
        sigset_t all, before;
        int r = 0;

        count = MIN(count, connections);
        loop->threads = calloc(count, sizeof(*loop->threads));
        if (!loop->threads)
                return -ENOMEM;
        while (loop->thread_count < count) {
                struct caller_thread *thread = &loop->threads[loop->thread_count];
                unsigned share = (connections - id) / (count - loop->thread_count);

                thread->epoll = -1;
                thread->number = loop->thread_count++;
                r = caller_thread_init(thread, loop, id, share);
                if (r < 0)
                        return r;
                id += share;
        }

        /* Signals interrupt the main thread. */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        while (loop->running < count && r == 0) {
                struct caller_thread *thread = &loop->threads[loop->running];

                r = pthread_create(&thread->thread, NULL, caller_thread_run, thread);
                loop->running += r == 0;
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return -r;
}

static double percentile(const struct loop *loop, uint64_t count, double part) {
        uint64_t seen = 0;

        for (unsigned i = 0; i < BUCKETS; i++) {
                for (unsigned j = 0; j < loop->thread_count; j++)
                        seen += loop->threads[j].buckets[i];
                if ((double)seen >= (double)count * part)
                        return bucket_value(i);
        }
        return 0;
}

int loop_measure(const struct server_programs *programs, enum server_kind kind, unsigned connections,
                 double seconds, struct loop_figures *figures) {
        _cleanup_(loop_deinit) struct loop loop = LOOP_NULL;
        uint64_t begin, end, cpu_begin, cpu_end, count = 0;
        int r;

        *figures = (struct loop_figures){ 0 };
        r = server_start(&loop.server, programs, kind, -1);
        if (r == 0)
                r = server_await_socket(&loop.server);
        if (r == 0)
                r = loop_start(&loop, kind, connections);
        if (r == 0)
                r = server_sleep(WARM_UP_SECONDS);
        if (r == 0)
                r = server_cpu(&loop.server, &cpu_begin);
        if (r < 0)
                return r;
        begin = server_now();
        atomic_store(&loop.phase, PHASE_MEASURE);
        r = server_sleep(seconds);
        if (r < 0)
                return r;
        end = server_now();
        r = server_cpu(&loop.server, &cpu_end);
        if (r < 0)
                return r;
        loop_join(&loop);

        for (unsigned i = 0; i < loop.thread_count; i++) {
                if (loop.threads[i].result < 0)
                        return loop.threads[i].result;
                for (unsigned j = 0; j < BUCKETS; j++)
                        count += loop.threads[i].buckets[j];
        }
        if (count == 0)
                return -ETIMEDOUT;
        figures->rate = (double)count * (double)NSEC_PER_SEC / (double)(end - begin);
        figures->cpu_us = (double)(cpu_end - cpu_begin) / (double)NSEC_PER_USEC / (double)count;
        figures->p50_us = percentile(&loop, count, 0.5) / (double)NSEC_PER_USEC;
        figures->p99_us = percentile(&loop, count, 0.99) / (double)NSEC_PER_USEC;
        return 0;
}
