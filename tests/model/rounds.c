/*
 * What gate.pml and places.pml show step by step, here with the daemon's own gate, reactor, mailbox and lanes, and with real
 * threads:
 *
 *   rounds [ROUNDS [SEED]]
 *
 * In each round there is a new stop gate, a new generation and a new queue. Clients of each worker send requests at random
 * moments and leave at random moments. The main thread opens or fails the gate, perhaps stops the model if nobody uses it, so that
 * the next request has to ask for it, perhaps begins the next generation, perhaps stops everything; another thread perhaps stops it too, or fails the first gate. Inferences are answered, lost, refused, or
 * find no connection. In some rounds there are one to three places, in some a request times out after less than a millisecond.
 *
 * Every request ends exactly once, with what its gate was. None is sent to a model that was stopped. No more requests are with the model than there are places, and in the
 * end all places are free. No worker has woken up more often than there were reasons to.
 *
 * Built with -fsanitize=thread it also shows that the orders which gate.c and places.c ask of the processor suffice.
 */

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/loop/mailbox.h"
#include "daemon/queue/lane.h"

#define WORKERS 3
#define CLIENTS 3               /* of one worker */
#define REQUESTS_MAX 8          /* of one worker in one round */
#define GENERATIONS_MAX 3
#define ROUNDS_DEFAULT 10000
#define PATIENCE 60             /* seconds, for a round that takes less than a millisecond */

enum {
        MESSAGE_FOLLOW = 1 << 0,
        MESSAGE_CLAIM = 1 << 1,
        MESSAGE_RESUME = 1 << 2,
        MESSAGE_STOP = 1 << 3,
        MESSAGE_TURN = 1 << 4,
        MESSAGE_COME = 1 << 5,
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
        atomic_uint posted;             /* messages of this round: each wakes once at most */
        struct status_counters counters;
        struct lane lane;
        struct request_owner clients[CLIENTS];
        struct job arrive;
        struct model_session session;
        struct session_events *events;
        const struct generation *followed;
        struct job work;
        struct run runs[REQUESTS_MAX];
        unsigned runs_count;
        bool busy;                      /* it said so, and the lane has not been told of room yet */
        unsigned wanted;                /* requests that come in this round */
        size_t id_len;
        unsigned made;
        unsigned ended;
        bool over[REQUESTS_MAX];
        bool sent[REQUESTS_MAX];
        uint64_t started[PLACES_KINDS];         /* when the last request that was sent for the first time had arrived */
        bool handling;                  /* what is heard now is of a request that has just come */
        unsigned turns;                 /* reasons of its own not to wait: jobs, inferences, requests, timers */
};

static struct worker workers[WORKERS];
static struct request_limits limits;
static struct queue queue;
static struct places_lane *lanes[PLACES_KINDS][WORKERS];
static pthread_barrier_t barrier;               /* a round begins, and ends */
static pthread_barrier_t lanes_ready;           /* all lanes are initialised */
static sem_t news;                              /* for the main thread: a worker is done, or suspects the model */
static uint64_t seed, rounds, round_number;
static bool over;

/* Of this round. */
static struct gate stop;
static struct generation *generations[GENERATIONS_MAX];
static unsigned generations_count;
static _Atomic(struct generation *) failed_first;       /* it failed, and then the same thread stopped everything */
static bool other_stops, other_fails;
static atomic_uint settled;                     /* calls for the first gate that were the one that counts */
static atomic_uint done;
static atomic_bool suspected, needed;
static atomic_uint turned;                      /* workers that have had the turn that they were asked for */
static atomic_uint stopped;                     /* the number of the last generation whose model was told to stop */
static atomic_bool held_back;                   /* the last request of each worker comes when it is told so */
static unsigned idle_count;                     /* generations that were idle */
static atomic_uint_fast64_t in_flight[PLACES_KINDS];

/* Of all rounds: an event that never happened was not tried. */
#define SEEN(X)             \
        X(requests)         \
        X(waited)           \
        X(answered)         \
        X(load_failed)      \
        X(shutting_down)    \
        X(inference_failed) \
        X(timed_out)        \
        X(queue_full)       \
        X(not_loaded)       \
        X(kept)             \
        X(idle)             \
        X(needs)            \
        X(departed)         \
        X(lost)             \
        X(busy)             \
        X(offers)           \
        X(resumes)          \
        X(suspects)
static struct {
#define X(name) atomic_uint_fast64_t name;
        SEEN(X)
#undef X
        atomic_uint_fast64_t wakes;
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
int __real_epoll_pwait2(int epoll, struct epoll_event *events, int max, const struct timespec *timeout, const sigset_t *mask);
int __wrap_epoll_pwait2(int epoll, struct epoll_event *events, int max, const struct timespec *timeout, const sigset_t *mask);

/* The linker has the reactor call these two. */
int __wrap_epoll_wait(int epoll, struct epoll_event *events, int max, int timeout) {
        int n = __real_epoll_wait(epoll, events, max, timeout);

        wakes++;
        return n;
}

int __wrap_epoll_pwait2(int epoll, struct epoll_event *events, int max, const struct timespec *timeout, const sigset_t *mask) {
        int n = __real_epoll_pwait2(epoll, events, max, timeout, mask);

        wakes++;
        return n;
}

/* What clients hear, in their worker's thread. */

static struct worker *worker_of(struct request_owner *client) {
        for (unsigned i = 0; i < WORKERS; i++)
                if (client >= workers[i].clients && client < workers[i].clients + CLIENTS)
                        return &workers[i];
        wrong("an owner is no client");
}

static unsigned number_of(const struct inference *inference) {
        return (unsigned)(inference_id(inference)[0] - 'a');
}

static void end(struct worker *worker, const struct request *request) {
        unsigned i = number_of(&request->inference);

        expect(i < worker->made && !worker->over[i], "a request ended twice");
        worker->over[i] = true;
        if (++worker->ended == worker->wanted) {
                atomic_fetch_add(&done, 1);
                sem_post(&news);
        }
}

static void client_waiting(struct request_owner *client, struct request *request) {
        (void)client;
        (void)request;
        count(&seen.waited, 1);
}

static void client_starting(struct request_owner *client, struct request *request) {
        /* Between the look at the gate and the model. */
        dally(&worker_of(client)->random);
        expect(!request->inference.started, "a request that was with the model went to it");
}

static void client_complete(struct request_owner *client, struct request *request, const char *data, size_t len) {
        expect(len > 6 && memcmp(data, "model ", 6) == 0, "the model had no name");
        count(&seen.answered, 1);
        end(worker_of(client), request);
}

static void client_failed(struct request_owner *client, struct request *request, enum protocol_code code, const char *message) {
        struct worker *worker = worker_of(client);
        struct generation *mine = worker->lane.generation;

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
                expect(strcmp(message, "failed") == 0 || request->inference.resent || gate_state(&stop) != GATE_PENDING,
                       "inference-failed at the first loss");
                count(&seen.inference_failed, 1);
                break;
        case PROTOCOL_TIMED_OUT:
                expect(limits.timeout > 0 && timer_now() - request->arrived >= limits.timeout, "timed out too early");
                count(&seen.timed_out, 1);
                break;
        case PROTOCOL_QUEUE_FULL:
                expect(limits.max_waiting < WORKERS * REQUESTS_MAX, "the queue is full, and is not");
                count(&seen.queue_full, 1);
                break;
        case PROTOCOL_MODEL_NOT_LOADED:
                expect(!request->inference.demands && idle_count > 0, "a request that loads the model was refused");
                count(&seen.not_loaded, 1);
                break;
        default:
                wrong(message);
        }
        end(worker, request);
}

static const struct request_ops client_ops = {
        .waiting = client_waiting,
        .starting = client_starting,
        .complete = client_complete,
        .failed = client_failed,
};

/* A client leaves, and another one comes: at any moment, but not from within what a client hears. */
static void depart(struct worker *worker) {
        struct request_owner *client = &worker->clients[pick(&worker->random, CLIENTS)];

        for (struct list *i = client->requests.next; i != &client->requests; i = i->next) {
                count(&seen.departed, 1);
                end(worker, container_of(i, struct request, owner_link));
        }
        lane_forget(&worker->lane, client);
        expect(list_is_empty(&client->requests) && client->in_flight == 0, "a client left and has requests");
}

static void perhaps_depart(struct worker *worker) {
        if (pick(&worker->random, 16) == 0)
                depart(worker);
}

/* A model that answers at once, or in a later turn, or not. */

static enum places_kind kind_of(const struct inference *inference) {
        return inference->suspect ? PLACES_SUSPECT : inference->is_light ? PLACES_LIGHT : PLACES_INFERENCE;
}

static void leave_model(const struct inference *inference) {
        atomic_fetch_sub(&in_flight[kind_of(inference)], 1);
}

static void end_run(struct worker *worker, struct inference *inference, const char *name) {
        struct answer_end how = { .how = ENDING_COMPLETE, .text = name, .len = strlen(name), .retry_after = UINT64_MAX };

        leave_model(inference);
        worker->turns++;
        switch (pick(&worker->random, 24)) {
        case 0:
        case 1:
                how = (struct answer_end){ .how = ENDING_LOST, .text = "lost" };
                break;
        case 2:
                how = (struct answer_end){ .how = ENDING_REFUSED, .text = "refused" };
                break;
        case 3:
                how = (struct answer_end){ .how = ENDING_UNSENT, .text = "unsent" };
                break;
        case 4:
                how = (struct answer_end){ .how = ENDING_UNAVAILABLE, .text = "unavailable", .retry_after = UINT64_MAX };
                /* It times out before that. */
                if (limits.timeout > 0)
                        how.retry_after = 1;
                break;
        case 5:
                how = (struct answer_end){ .how = ENDING_FAILED, .text = "failed" };
                break;
        }
        if (how.how != ENDING_COMPLETE && how.how != ENDING_FAILED)
                count(&seen.lost, 1);
        worker->events->ended(worker->events, inference, &how);
}

static void work_run(struct job *job) {
        struct worker *worker = container_of(job, struct worker, work);

        worker->turns++;
        perhaps_depart(worker);
        for (unsigned n = worker->runs_count; n > 0 && worker->runs_count > 0; n--) {
                struct run run = worker->runs[0];

                if (pick(&worker->random, 2) == 0)
                        break;
                worker->runs_count--;
                memmove(worker->runs, worker->runs + 1, worker->runs_count * sizeof(worker->runs[0]));
                end_run(worker, run.inference, run.name);
        }
        perhaps_depart(worker);
        if (worker->busy) {
                worker->busy = false;
                worker->events->room(worker->events);
        }
        if (worker->runs_count > 0)
                reactor_queue(&worker->reactor, job);
}

static void follow(struct model_session *session, const struct generation *generation) {
        container_of(session, struct worker, session)->followed = generation;
}

static int infer(struct model_session *session, struct inference *inference) {
        struct worker *worker = container_of(session, struct worker, session);
        struct request *request = request_of_inference(inference);
        enum places_kind kind = kind_of(inference);
        const uint64_t max = queue.places[kind].max;
        unsigned i = number_of(inference);
        uint64_t n;

        worker->turns++;
        expect(gate_state(&worker->lane.generation->gate) == GATE_OPEN, "with the model, and its gate is not open");
        expect(worker->followed == worker->lane.generation, "with another generation than the lane's");
        expect(worker->followed->number > atomic_load(&stopped), "with a model that was told to stop");
        expect(!worker->over[i], "with the model, and over");
        n = atomic_fetch_add(&in_flight[kind], 1) + 1;
        expect(max == 0 || n <= max, "more requests with the model than there are places");
        if (!worker->sent[i]) {
                expect(request->arrived >= worker->started[kind], "a request overtook an older one of its lane");
                worker->started[kind] = request->arrived;
        }
        switch (pick(&worker->random, 16)) {
        case 0:
                /* The request stays the oldest. */
                leave_model(inference);
                worker->busy = true;
                reactor_queue(&worker->reactor, &worker->work);
                count(&seen.busy, 1);
                return MODEL_BUSY;
        case 1:
        case 2:
        case 3:
        case 4:
        case 5:
                worker->sent[i] = true;
                end_run(worker, inference, worker->followed->model);
                return 0;
        default:
                worker->sent[i] = true;
                worker->runs[worker->runs_count].inference = inference;
                snprintf(worker->runs[worker->runs_count++].name, PROTOCOL_MODEL_MAX, "%s", worker->followed->model);
                reactor_queue(&worker->reactor, &worker->work);
                return 0;
        }
}

static void cancel(struct model_session *session, struct inference *inference) {
        struct worker *worker = container_of(session, struct worker, session);
        unsigned i = 0;

        while (i < worker->runs_count && worker->runs[i].inference != inference)
                i++;
        expect(i < worker->runs_count, "cancelled, and not with the model");
        worker->runs_count--;
        memmove(worker->runs + i, worker->runs + i + 1, (worker->runs_count - i) * sizeof(worker->runs[0]));
        leave_model(inference);
}

static int session_new(struct model *model, const struct session_place *place, struct model_session **session) {
        struct worker *worker = container_of(place->reactor, struct worker, reactor);

        worker->session.model = model;
        worker->events = place->events;
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
        .session_follow = follow,
        .infer = infer,
        .cancel = cancel,
};
static struct model model = { &model_ops };

static void queue_suspect(struct queue *of) {
        (void)of;
        atomic_store(&suspected, true);
        sem_post(&news);
}

static void queue_needed(struct queue *of) {
        (void)of;
        count(&seen.needs, 1);
        expect(!atomic_exchange(&needed, true), "one load was asked for twice");
        sem_post(&news);
}

/* A worker, as daemon/worker.c has it. */

static void post(struct worker *worker, unsigned letter) {
        atomic_fetch_add(&worker->posted, 1);
        mailbox_post(&worker->mailbox, letter);
}

static void post_all(unsigned letter) {
        for (unsigned i = 0; i < WORKERS; i++)
                post(&workers[i], letter);
}

/* From any thread. */
static void queue_cleared(struct queue *q) {
        (void)q;
        count(&seen.suspects, 1);
        post_all(MESSAGE_RESUME);
}

static void make_request(struct worker *worker) {
        struct request_owner *client = &worker->clients[pick(&worker->random, CLIENTS)];
        char id[] = "a request of this round";

        id[0] = (char)('a' + worker->made++);
        worker->handling = true;
        if (pick(&worker->random, 4) == 0) {
                struct request *request = lane_allocate(&worker->lane, worker->id_len);

                expect(request != NULL, "out of memory");
                request->inference = (struct inference){
                        .id_len = (uint8_t)worker->id_len,
                        .is_light = pick(&worker->random, 2) == 0,
                        .repeats = true,
                };
                /* Some are tunnels. */
                request->inference.demands = !request->inference.is_light || pick(&worker->random, 4) == 0;
                memcpy(request->inference.text, id, worker->id_len);
                lane_exchange(&worker->lane, client, request);
        } else
                expect(lane_request(&worker->lane, client, id, worker->id_len, NULL, 0, false) == 0, "out of memory");
        worker->handling = false;
}

/* How many of its requests may have come by now. */
static unsigned present(const struct worker *worker) {
        return worker->wanted - atomic_load(&held_back);
}

static void arrive_run(struct job *job) {
        struct worker *worker = container_of(job, struct worker, arrive);

        worker->turns++;
        dally(&worker->random);
        for (uint64_t n = pick(&worker->random, 4); n > 0 && worker->made < present(worker); n--) {
                worker->turns++;
                make_request(worker);
        }
        perhaps_depart(worker);
        if (worker->made < present(worker))
                reactor_queue(&worker->reactor, job);
}

static void deliver(struct mailbox *mailbox, unsigned messages) {
        struct worker *worker = container_of(mailbox, struct worker, mailbox);

        /* Just before it hears that it was given a place. */
        if (messages & MESSAGE_CLAIM)
                perhaps_depart(worker);
        if (messages & MESSAGE_FOLLOW)
                lane_follow(&worker->lane);
        if (messages & MESSAGE_CLAIM)
                lane_claim(&worker->lane);
        if (messages & MESSAGE_RESUME)
                lane_resume(&worker->lane);
        if (messages & MESSAGE_COME)
                reactor_queue(&worker->reactor, &worker->arrive);
        if (messages & MESSAGE_TURN)
                atomic_fetch_add(&turned, 1);
        if (messages & MESSAGE_STOP)
                reactor_stop(&worker->reactor);
}

/* From any thread. */
static void lane_offered(struct lane *lane) {
        count(&seen.offers, 1);
        post(container_of(lane, struct worker, lane), MESSAGE_CLAIM);
}

static const struct lane_events lane_events = { .offered = lane_offered };

static void play_worker(struct worker *worker) {
        unsigned reasons;

        worker->made = worker->ended = worker->turns = wakes = 0;
        worker->busy = false;
        worker->followed = NULL;
        memset(worker->over, 0, sizeof(worker->over));
        memset(worker->sent, 0, sizeof(worker->sent));
        memset(worker->started, 0, sizeof(worker->started));
        worker->wanted = 1 + (unsigned)pick(&worker->random, REQUESTS_MAX);
        /* Mostly longer than what the pool is for: under ThreadSanitizer its pages take longer than the round. */
        worker->id_len = pick(&worker->random, 16) == 0 ? 1 : 20;
        worker->reactor.stopped = false;
        dally(&worker->random);
        expect(lane_init(&worker->lane, &queue, &worker->reactor, NULL, &worker->counters, &lane_events, true) == 0,
               "out of descriptors or memory");
        for (unsigned i = 0; i < CLIENTS; i++)
                request_owner_init(&worker->clients[i], &client_ops);
        reactor_queue(&worker->reactor, &worker->arrive);
        pthread_barrier_wait(&lanes_ready);
        expect(reactor_run(&worker->reactor) == 0, "a worker cannot wait for events");
        expect(worker->ended == worker->wanted && worker->runs_count == 0 && lane_is_idle(&worker->lane, 0), "a request did not end");
        for (unsigned i = 0; i < CLIENTS; i++)
                expect(list_is_empty(&worker->clients[i].requests), "a client has a request");
        lane_deinit(&worker->lane);

        /*
         * Each gate once, and what an idle one has settled, the stop once, each message, each turn of its own, a time-out of each request (and one that was set for
         * a request that is gone); and the last messages of the round before, which may have been read before their event came.
         */
        reasons = generations_count + 2 * idle_count + 1 + atomic_load(&worker->posted) + worker->turns + worker->wanted + 1;
        expect(wakes <= reasons, "a worker woke up for no reason");
        count(&seen.wakes, wakes);
        count(&seen.requests, worker->ended);
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

static void begin_generation(uint64_t *random, bool idle) {
        static const enum loss losses[] = { LOSS_NONE, LOSS_CRASHED, LOSS_CRASHED, LOSS_KILLED };
        struct generation **next = &generations[generations_count];

        expect(generation_new(next, generations_count + 1) == 0, "out of descriptors or memory");
        if (generations_count > 0 && !idle) {
                (*next)->loss = losses[pick(random, ARRAY_SIZE(losses))];
                snprintf((*next)->loss_reason, sizeof((*next)->loss_reason), "the one before was lost");
        }
        generations_count++;
        idle_count += idle;
        atomic_init(&(*next)->awaits_request, idle);
        atomic_store_explicit(&queue.generation, *next, memory_order_release);
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

static void wait_for_news(void) {
        struct timespec patience;

        clock_gettime(CLOCK_REALTIME, &patience);
        patience.tv_sec += PATIENCE;
        if (sem_timedwait(&news, &patience) < 0)
                wrong("a request waits, and nothing comes any more");
}

/* The requests that were held back come. */
static void let_come(void) {
        if (atomic_exchange(&held_back, false))
                post_all(MESSAGE_COME);
}

/* As daemon/server_idle.c does it. Returns whether the model was stopped, and the next generation is idle. */
static bool rest(uint64_t *random, struct generation *current) {
        uint64_t patience = timer_now() + PATIENCE * NSEC_PER_SEC, demands = 0;

        atomic_store(&turned, 0);
        atomic_store(&current->resting, true);
        dally(random);
        post_all(MESSAGE_TURN);
        while (atomic_load(&turned) < WORKERS) {
                expect(timer_now() < patience, "a worker has no turn");
                sched_yield();
        }
        for (unsigned i = 0; i < WORKERS; i++)
                demands += atomic_load(&workers[i].counters.demands);
        dally(random);
        if (demands > 0) {
                atomic_store(&current->resting, false);
                post_all(MESSAGE_RESUME);
                count(&seen.kept, 1);
                return false;
        }
        begin_generation(random, true);
        atomic_store(&stopped, current->number);
        if (pick(random, 2) == 0)
                let_come();
        post_all(MESSAGE_FOLLOW);
        let_come();
        count(&seen.idle, 1);
        return true;
}

/* Returns whether an idle generation is to be loaded; otherwise no request is left. */
static bool wait_for_need(void) {
        while (!atomic_exchange(&needed, false)) {
                if (atomic_load(&done) == WORKERS)
                        return false;
                wait_for_news();
        }
        return true;
}

static void play_server(uint64_t *random) {
        bool idle = false;

        for (;;) {
                struct generation *current = queue_generation(&queue);
                bool last = generations_count == GENERATIONS_MAX || pick(random, 2) == 0, open = pick(random, 3) > 0;

                if (idle && !wait_for_need())
                        return;
                idle = false;
                dally(random);
                if (pick(random, 4) == 0)
                        post_all(MESSAGE_RESUME);
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
                if (gate_state(&current->gate) == GATE_OPEN && pick(random, 2) == 0) {
                        idle = rest(random, current);
                        if (idle)
                                continue;
                        dally(random);
                }
                begin_generation(random, false);
                post_all(MESSAGE_FOLLOW);
        }
        expect(gate_open(&stop) >= 0, "the stop was not written");
}

/* The model is found alive, as daemon/model/upstream.c does it. */
static void probe(uint64_t *random) {
        struct generation *current = queue_generation(&queue);
        unsigned suspicions = atomic_load(&current->suspicions);

        dally(random);
        if (suspicions == 0)
                return;
        if (!atomic_compare_exchange_strong(&current->suspicions, &suspicions, 0)) {
                queue_suspect(&queue);
                return;
        }
        count(&seen.resumes, 1);
        post_all(MESSAGE_RESUME);
}

/* What has ended gives its place back, and lanes that were given one and cannot use it pass it on. */
static void wait_for_places(void) {
        uint64_t patience = timer_now() + PATIENCE * NSEC_PER_SEC;

        for (unsigned i = 0; i < PLACES_KINDS; i++)
                while (atomic_load(&queue.places[i].state) != 0) {
                        expect(timer_now() < patience, "a place is lost, or a lane is counted that does not wait");
                        sched_yield();
                }
}

static void begin_round(uint64_t *random) {
        expect(gate_init(&stop) == 0, "out of descriptors");
        limits = (struct request_limits){
                .max_waiting = pick(random, 16) == 0 ? 1 + pick(random, 8) : WORKERS * REQUESTS_MAX,
                .timeout = pick(random, 8) == 0 ? 1 + pick(random, NSEC_PER_MSEC) : 0,
        };
        queue = (struct queue){
                .limits = &limits,
                .stop = &stop,
                .model = &model,
                .suspect = queue_suspect,
                .cleared = queue_cleared,
                .needed = queue_needed,
        };
        for (unsigned i = 0; i < PLACES_KINDS; i++)
                queue.places[i] = (struct places){
                        .max = i == PLACES_SUSPECT ? 1 : pick(random, 4) == 0 ? 0 : 1 + pick(random, 3),
                        .lanes = lanes[i],
                        .count = WORKERS,
                };
}

static void play_round(uint64_t *random) {
        enum gate_state state;

        begin_round(random);
        generations_count = idle_count = 0;
        begin_generation(random, false);
        atomic_store(&failed_first, NULL);
        atomic_store(&done, 0);
        atomic_store(&settled, 0);
        atomic_store(&suspected, false);
        atomic_store(&needed, false);
        atomic_store(&stopped, 0);
        for (unsigned i = 0; i < WORKERS; i++)
                atomic_store(&workers[i].posted, 0);
        atomic_store(&held_back, pick(random, 2) == 0);
        other_stops = pick(random, 8) == 0;
        other_fails = pick(random, 4) == 0;

        pthread_barrier_wait(&barrier);
        play_server(random);
        let_come();
        while (atomic_load(&done) < WORKERS) {
                wait_for_news();
                if (atomic_exchange(&suspected, false))
                        probe(random);
        }
        wait_for_places();
        post_all(MESSAGE_STOP);
        pthread_barrier_wait(&barrier);

        while (sem_trywait(&news) == 0)
                ;
        state = gate_state(&generations[0]->gate);
        expect(atomic_load(&settled) == (state != GATE_PENDING), "two have settled one gate");
        expect(atomic_load(&limits.waiting) == 0, "the count of those that wait is wrong");
        expect(atomic_load(&queue.suspects) == 0 && atomic_load(&queue.lost) == 0, "the count of suspects is wrong");
        for (unsigned i = 0; i < PLACES_KINDS; i++)
                expect(atomic_load(&in_flight[i]) == 0, "a request is with the model, and over");
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
                for (unsigned j = 0; j < PLACES_KINDS; j++)
                        lanes[j][i] = &worker->lane.lists[j].place;
                job_init(&worker->arrive, arrive_run);
                job_init(&worker->work, work_run);
                expect(reactor_init(&worker->reactor) == 0 &&
                               mailbox_init(&worker->mailbox, &worker->reactor, deliver) == 0 &&
                               pthread_create(&worker->thread, NULL, worker_run, worker) == 0,
                       "out of descriptors or memory");
        }
}

static void print_seen(void) {
        const struct {
                const char *name;
                uint64_t n;
        } all[] = {
#define X(name) { #name, seen.name },
                SEEN(X)
#undef X
        };

        for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
                printf("%s%" PRIu64 " %s", i > 0 ? ", " : "", all[i].n, all[i].name);
                expect(all[i].n > 0 || rounds < 1000, "something never happened");
        }
        putchar('\n');
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
        pthread_barrier_init(&lanes_ready, NULL, WORKERS);
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
        pthread_barrier_destroy(&lanes_ready);

        clock_gettime(CLOCK_MONOTONIC, &ended);
        seconds = (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9;
        printf("%" PRIu64 " rounds of seed %" PRIu64 " in %.1f s, %d workers, %.2f wake-ups of each a round\n", rounds,
               seed, seconds, WORKERS, (double)seen.wakes / (double)rounds / WORKERS);
        print_seen();
        return EXIT_SUCCESS;
}
