/*
 * What gate.pml shows step by step, here with the daemon's own gate, reactor, mailbox and request queue, and with
 * real threads:
 *
 *   rounds [ROUNDS [SEED]]
 *
 * In each round there is a new stop gate and a new generation. Workers take requests at random moments; the main
 * thread opens or fails the gate, perhaps begins the next generation, perhaps stops it all; another thread perhaps
 * stops it too, or fails the first gate. Then every request was answered exactly once, with what its gate was, and
 * no worker has woken up more often than there were reasons to.
 *
 * Built with -fsanitize=thread it also shows that the orders which gate.c asks of the processor suffice.
 */

#include <inttypes.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "common/util.h"
#include "daemon/front/request.h"
#include "daemon/loop/mailbox.h"

#define WORKERS 3
#define REQUESTS_MAX 8          /* of one worker in one round */
#define GENERATIONS_MAX 3
#define ROUNDS_DEFAULT 10000
#define PATIENCE 60             /* seconds, for a round that takes less than a millisecond */

enum {
        LETTER_FOLLOW = 1 << 0,
        LETTER_RETRY = 1 << 1,
        LETTER_STOP = 1 << 2,
};

/* An inference that has begun and not ended. */
struct run {
        struct inference *inference;
        char name[PROTOCOL_MODEL_MAX];
};

struct worker {
        pthread_t thread;
        uint64_t random;
        struct reactor reactor;
        struct mailbox mailbox;
        atomic_uint posted;             /* letters of this round: each wakes once at the most */
        struct status_counters counters;
        struct request_queue queue;
        struct request_owner owner;
        struct job arrive;
        struct model_session session;
        struct inference_events *events;
        struct job work;
        struct run runs[REQUESTS_MAX];
        unsigned runs_count;
        unsigned wanted;                /* so many requests come in this round */
        size_t id_len;
        unsigned made;
        unsigned heard;
        bool answered[REQUESTS_MAX];
        bool handling;                  /* what is heard now is of a request that has just come */
        unsigned jobs;                  /* that were run: behind each is a turn that did not wait */
};

static struct worker workers[WORKERS];
static struct request_limits limits = { .max_waiting = WORKERS * REQUESTS_MAX };
static pthread_barrier_t barrier;               /* a round begins, and ends */
static sem_t news;                              /* for the main thread: a worker is done, or suspects the model */
static uint64_t seed, rounds, round_number;
static bool over;

/* Of this round. */
static struct gate stop;
static struct generation *generations[GENERATIONS_MAX];
static unsigned generations_count;
static _Atomic(struct generation *) generation;
static _Atomic(struct generation *) failed_first;       /* it failed, and then the same thread stopped it all */
static bool other_stops, other_fails;
static atomic_uint settled;                     /* calls for the first gate that were the one that counts */
static atomic_uint done;
static atomic_bool suspected;

/* Of all rounds: what never happened was not tried. */
static struct {
        atomic_uint_fast64_t requests, waited, answered, load_failed, shutting_down, lost, wakes;
} seen;

static void count(atomic_uint_fast64_t *counter, uint64_t n) {
        atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static _Noreturn void wrong(const char *what) {
        fprintf(stderr, "rounds: round %" PRIu64 " of seed %" PRIu64 ": %s\n", round_number, seed, what);
        _exit(EXIT_FAILURE);
}

static void expect(bool condition, const char *what) {
        if (!condition)
                wrong(what);
}

/* xorshift64* */
static uint64_t pick(uint64_t *random, uint64_t n) {
        *random ^= *random >> 12;
        *random ^= *random << 25;
        *random ^= *random >> 27;
        return (*random * UINT64_C(2685821657736338717) >> 33) % n;
}

/* From nothing to some microseconds. No sleep: what is to meet here meets within nanoseconds. */
static void dally(uint64_t *random) {
        static const uint64_t most[] = { 1, 1, 10, 100, 1000, 10000 };

        for (uint64_t i = pick(random, most[pick(random, ARRAY_SIZE(most))]); i > 0; i--)
                atomic_signal_fence(memory_order_seq_cst);
}

static _Thread_local unsigned wakes;

int __real_epoll_wait(int epoll, struct epoll_event *events, int max, int timeout);
int __wrap_epoll_wait(int epoll, struct epoll_event *events, int max, int timeout);

/* The linker has the reactor call this one. */
int __wrap_epoll_wait(int epoll, struct epoll_event *events, int max, int timeout) {
        int n = __real_epoll_wait(epoll, events, max, timeout);

        wakes++;
        return n;
}

/* What requests hear, in their worker's thread. */

static void hear(struct worker *worker, struct request *request) {
        unsigned i = (unsigned)(inference_id(&request->inference)[0] - 'a');

        expect(i < worker->made && !worker->answered[i], "a request was answered twice");
        worker->answered[i] = true;
        if (++worker->heard == worker->wanted) {
                atomic_fetch_add(&done, 1);
                sem_post(&news);
        }
}

static void owner_waiting(struct request_owner *owner, struct request *request) {
        (void)owner;
        (void)request;
        count(&seen.waited, 1);
}

static void owner_answered(struct request_owner *owner, struct request *request, const char *data, size_t len) {
        expect(len > 6 && memcmp(data, "model ", 6) == 0, "the model had no name");
        count(&seen.answered, 1);
        hear(container_of(owner, struct worker, owner), request);
}

static void owner_failed(struct request_owner *owner, struct request *request, enum protocol_code code,
                         const char *message) {
        struct worker *worker = container_of(owner, struct worker, owner);
        struct generation *mine = worker->queue.generation;

        switch (code) {
        case PROTOCOL_LOAD_FAILED:
                expect(gate_state(&mine->gate) == GATE_FAILED, "load-failed at a gate that has not failed");
                expect(strcmp(message, "by the loader") == 0 || strcmp(message, "by another") == 0,
                       "load-failed without the reason");
                count(&seen.load_failed, 1);
                break;
        case PROTOCOL_SHUTTING_DOWN:
                expect(gate_state(&stop) != GATE_PENDING, "shutting-down before the stop");
                expect(worker->handling || atomic_load(&failed_first) != mine,
                       "shutting-down to one that waited, and whose load had failed before");
                count(&seen.shutting_down, 1);
                break;
        case PROTOCOL_INFERENCE_FAILED:
                expect(request->inference.resent || gate_state(&stop) != GATE_PENDING,
                       "inference-failed at the first loss");
                break;
        default:
                wrong(message);
        }
        hear(worker, request);
}

static const struct request_ops owner_ops = {
        .waiting = owner_waiting,
        .answered = owner_answered,
        .failed = owner_failed,
};

/* A model that answers at once, or at the end of the turn; and then it may look lost. */

static void work_run(struct job *job) {
        struct worker *worker = container_of(job, struct worker, work);

        worker->jobs++;
        while (worker->runs_count > 0) {
                struct run run = worker->runs[--worker->runs_count];

                if (!run.inference->resent && pick(&worker->random, 2) == 0) {
                        count(&seen.lost, 1);
                        worker->events->lost(worker->events, run.inference, "lost");
                } else
                        worker->events->answered(worker->events, run.inference, run.name, strlen(run.name));
        }
}

static int infer(struct model_session *session, const char *name, struct inference *inference) {
        struct worker *worker = container_of(session, struct worker, session);
        struct run *run;

        expect(gate_state(&worker->queue.generation->gate) == GATE_OPEN, "with the model, and its gate is not open");
        if (pick(&worker->random, 4) > 0) {
                worker->events->answered(worker->events, inference, name, strlen(name));
                return 0;
        }
        run = &worker->runs[worker->runs_count++];
        run->inference = inference;
        snprintf(run->name, sizeof(run->name), "%s", name);
        reactor_queue(&worker->reactor, &worker->work);
        return 0;
}

/* Nobody is asked to end before the last was answered. */
static void cancel(struct model_session *session, struct inference *inference) {
        (void)session;
        (void)inference;
        wrong("cancelled, and not answered");
}

static int session_new(struct model *model, struct reactor *reactor, struct inference_events *events,
                       struct model_session **session) {
        struct worker *worker = container_of(reactor, struct worker, reactor);

        worker->session.model = model;
        worker->events = events;
        *session = &worker->session;
        return 0;
}

static void session_free(struct model_session *session) {
        (void)session;
}

static const struct model_ops model_ops = {
        .name = "rounds",
        .session_new = session_new,
        .session_free = session_free,
        .infer = infer,
        .cancel = cancel,
};
static struct model model = { &model_ops };

/* The host, as daemon/server.c has it. */

static struct generation *host_generation(struct host *host) {
        (void)host;
        return atomic_load_explicit(&generation, memory_order_acquire);
}

static void host_handle_request(struct host *host, struct request_queue *queue, struct request *request) {
        request_queue_follow(queue, host_generation(host));
        if (gate_state(&stop) != GATE_PENDING) {
                request_refuse(queue, request, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
                return;
        }
        switch (gate_state(&queue->generation->gate)) {
        case GATE_PENDING:
                request_wait(queue, request);
                break;
        case GATE_OPEN:
                request_start(queue, request);
                break;
        case GATE_FAILED:
                request_refuse(queue, request, PROTOCOL_LOAD_FAILED, queue->generation->gate.reason);
                break;
        }
}

static void host_suspect(struct host *host) {
        (void)host;
        atomic_store(&suspected, true);
        sem_post(&news);
}

static struct host host = {
        .handle_request = host_handle_request,
        .generation = host_generation,
        .suspect = host_suspect,
};

/* A worker. */

static void arrive_run(struct job *job) {
        struct worker *worker = container_of(job, struct worker, arrive);

        worker->jobs++;
        dally(&worker->random);
        for (uint64_t n = pick(&worker->random, 4); n > 0 && worker->made < worker->wanted; n--) {
                char id[] = "a request of this round";

                id[0] = (char)('a' + worker->made++);
                worker->handling = true;
                expect(request_new(&worker->queue, &worker->owner, id, worker->id_len, NULL, 0, false) == 0,
                       "out of memory");
                worker->handling = false;
        }
        if (worker->made < worker->wanted)
                reactor_queue(&worker->reactor, job);
}

static void deliver(struct mailbox *mailbox, unsigned letters) {
        struct worker *worker = container_of(mailbox, struct worker, mailbox);

        if (letters & LETTER_FOLLOW)
                request_queue_follow(&worker->queue, host_generation(&host));
        if (letters & LETTER_RETRY)
                request_queue_retry(&worker->queue);
        if (letters & LETTER_STOP)
                reactor_stop(&worker->reactor);
}

static void play_worker(struct worker *worker) {
        unsigned reasons;

        worker->made = worker->heard = worker->jobs = wakes = 0;
        memset(worker->answered, 0, sizeof(worker->answered));
        worker->wanted = 1 + (unsigned)pick(&worker->random, REQUESTS_MAX);
        /* Mostly longer than what the pool is for: under ThreadSanitizer its pages take longer than the round. */
        worker->id_len = pick(&worker->random, 16) == 0 ? 1 : 20;
        worker->reactor.stopped = false;
        dally(&worker->random);
        expect(request_queue_init(&worker->queue, &worker->reactor, &host, &limits, &worker->counters, &stop,
                                  host_generation(&host), &model, true) == 0, "out of descriptors or memory");
        request_owner_init(&worker->owner, &owner_ops);
        reactor_queue(&worker->reactor, &worker->arrive);
        expect(reactor_run(&worker->reactor) == 0, "a worker cannot wait for events");
        expect(worker->heard == worker->wanted && list_is_empty(&worker->owner.requests), "a request was not answered");
        request_queue_deinit(&worker->queue);

        /*
         * Each gate once, the stop once, each letter, what jobs have asked for; and the last letter of the round
         * before, which may have been read before its event came.
         */
        reasons = generations_count + 1 + atomic_load(&worker->posted) + worker->jobs + 1;
        expect(wakes <= reasons, "a worker woke up for no reason");
        count(&seen.wakes, wakes);
        count(&seen.requests, worker->heard);
}

static void *worker_run(void *argument) {
        struct worker *worker = argument;

        for (;;) {
                pthread_barrier_wait(&barrier);
                if (over)
                        return NULL;
                play_worker(worker);
                pthread_barrier_wait(&barrier);
        }
}

/* The thread that comes in between. */
static void *other_run(void *argument) {
        uint64_t *random = argument;

        for (;;) {
                pthread_barrier_wait(&barrier);
                if (over)
                        return NULL;
                dally(random);
                if (other_fails)
                        atomic_fetch_add(&settled, gate_fail(&generations[0]->gate, "by another") == 0);
                dally(random);
                if (other_stops)
                        expect(gate_open(&stop) >= 0, "the stop was not written");
                pthread_barrier_wait(&barrier);
        }
}

/* The main thread: the loader, and the server. */

static void post_all(unsigned letter) {
        for (unsigned i = 0; i < WORKERS; i++) {
                atomic_fetch_add(&workers[i].posted, 1);
                mailbox_post(&workers[i].mailbox, letter);
        }
}

static void begin_generation(void) {
        struct generation **next = &generations[generations_count];

        expect(generation_new(next, generations_count + 1) == 0, "out of descriptors or memory");
        generations_count++;
        atomic_store_explicit(&generation, *next, memory_order_release);
}

static bool settle(struct generation *current, bool open) {
        int r;

        if (open) {
                snprintf(current->model, sizeof(current->model), "model %u", current->number);
                r = gate_open(&current->gate);
        } else
                r = gate_fail(&current->gate, "by the loader");
        expect(r >= 0, "the gate was not written");
        if (current == generations[0])
                atomic_fetch_add(&settled, r == 0);
        return r == 0;
}

static void play_server(uint64_t *random) {
        for (;;) {
                struct generation *current = host_generation(&host);
                bool last = generations_count == GENERATIONS_MAX || pick(random, 2) == 0, open = pick(random, 3) > 0;

                dally(random);
                if (pick(random, 4) == 0)
                        post_all(LETTER_RETRY);
                dally(random);
                /* Stopped while it loads. */
                if (last && pick(random, 8) == 0)
                        break;
                if (settle(current, open) && !open && !other_stops && pick(random, 4) == 0) {
                        /* As where the daemon ends because the load has failed. */
                        atomic_store(&failed_first, current);
                        break;
                }
                if (last) {
                        if (pick(random, 4) > 0)
                                return;
                        dally(random);
                        break;
                }
                dally(random);
                begin_generation();
                post_all(LETTER_FOLLOW);
        }
        expect(gate_open(&stop) >= 0, "the stop was not written");
}

static void wait_for_news(void) {
        struct timespec patience;

        clock_gettime(CLOCK_REALTIME, &patience);
        patience.tv_sec += PATIENCE;
        if (sem_timedwait(&news, &patience) < 0)
                wrong("a request waits, and nothing comes any more");
}

static void play_round(uint64_t *random) {
        enum gate_state state;

        expect(gate_init(&stop) == 0, "out of descriptors");
        generations_count = 0;
        begin_generation();
        atomic_store(&failed_first, NULL);
        atomic_store(&done, 0);
        atomic_store(&settled, 0);
        atomic_store(&suspected, false);
        for (unsigned i = 0; i < WORKERS; i++)
                atomic_store(&workers[i].posted, 0);
        other_stops = pick(random, 8) == 0;
        other_fails = pick(random, 4) == 0;

        pthread_barrier_wait(&barrier);
        play_server(random);
        while (atomic_load(&done) < WORKERS) {
                wait_for_news();
                /* It was not lost. */
                if (atomic_exchange(&suspected, false))
                        post_all(LETTER_RETRY);
        }
        post_all(LETTER_STOP);
        pthread_barrier_wait(&barrier);

        while (sem_trywait(&news) == 0)
                ;
        state = gate_state(&generations[0]->gate);
        expect(atomic_load(&settled) == (state != GATE_PENDING), "two have settled one gate");
        expect(atomic_load(&limits.waiting) == 0, "the count of those that wait is wrong");
        while (generations_count > 0) {
                generations_count--;
                generations[generations_count] = generation_free(generations[generations_count]);
        }
        gate_deinit(&stop);
}

static void start(uint64_t *random) {
        uint64_t number = seed * 1000 + 1;

        *random = number++;
        for (unsigned i = 0; i < WORKERS; i++) {
                struct worker *worker = &workers[i];

                worker->random = number++;
                job_init(&worker->arrive, arrive_run);
                job_init(&worker->work, work_run);
                expect(reactor_init(&worker->reactor) == 0 &&
                               mailbox_init(&worker->mailbox, &worker->reactor, deliver) == 0 &&
                               pthread_create(&worker->thread, NULL, worker_run, worker) == 0,
                       "out of descriptors or memory");
        }
}

int main(int argc, char **argv) {
        uint64_t random, other_random;
        struct timespec began, ended;
        pthread_t other;
        double seconds;

        rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : ROUNDS_DEFAULT;
        seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
        clock_gettime(CLOCK_MONOTONIC, &began);
        pthread_barrier_init(&barrier, NULL, WORKERS + 2);
        sem_init(&news, 0, 0);
        start(&random);
        other_random = ~random;
        expect(pthread_create(&other, NULL, other_run, &other_random) == 0, "out of memory");

        for (round_number = 1; round_number <= rounds; round_number++)
                play_round(&random);

        over = true;
        pthread_barrier_wait(&barrier);
        pthread_join(other, NULL);
        for (unsigned i = 0; i < WORKERS; i++) {
                pthread_join(workers[i].thread, NULL);
                mailbox_deinit(&workers[i].mailbox);
                reactor_deinit(&workers[i].reactor);
        }
        sem_destroy(&news);
        pthread_barrier_destroy(&barrier);

        clock_gettime(CLOCK_MONOTONIC, &ended);
        seconds = (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9;
        printf("%" PRIu64 " rounds of seed %" PRIu64 " in %.1f s, %d workers, %.2f wake-ups of each a round\n", rounds,
               seed, seconds, WORKERS, (double)seen.wakes / (double)rounds / WORKERS);
        printf("%" PRIu64 " requests, of which %" PRIu64 " waited: %" PRIu64 " answered, %" PRIu64 " load-failed, %" PRIu64
               " shutting-down; %" PRIu64 " were with a model that looked lost\n",
               seen.requests, seen.waited, seen.answered, seen.load_failed, seen.shutting_down, seen.lost);
        if (rounds >= 1000)
                expect(seen.waited && seen.answered && seen.load_failed && seen.shutting_down && seen.lost,
                       "something never happened");
        return EXIT_SUCCESS;
}
