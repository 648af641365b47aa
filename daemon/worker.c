#include "daemon/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/log.h"

enum {
        MESSAGE_FOLLOW = 1 << 0,
        MESSAGE_STOP = 1 << 1,
        MESSAGE_LEAVE = 1 << 2,
        MESSAGE_PULSE = 1 << 3,
        MESSAGE_RESUME = 1 << 4,
        MESSAGE_CHECK = 1 << 5,
        MESSAGE_CLAIM = 1 << 6,
        MESSAGE_LISTEN = 1 << 7,
        MESSAGE_DO_NOT_LISTEN = 1 << 8,
};

/* Descriptors read from the pipe at once. */
#define HANDED_BATCH 64

/* A pipe that is said to be readable so often in a row, and is not, is broken. */
#define FAILURES_MAX 100

/* At the end, clients that read nothing for so long do not hear the rest of their answers. */
#define FLUSH_NSEC (2 * NSEC_PER_SEC)

static void release_connection(struct worker *worker) {
        atomic_fetch_sub(&worker->placed, 1);
        listener_release(&worker->listener);
        for (unsigned i = 0; i < worker->group->http_sockets->count; i++)
                listener_resume(&worker->http_listeners[i]);
}

/* A descriptor on its way from the worker that accepted it to another. */
struct handed {
        int fd;
        int http;               /* no bool: there is nothing in it that was not written */
};

static void take_connection(struct worker *worker, int fd, bool http) {
        int r = http ? http_connection_new(&worker->http, fd) : connection_new(&worker->front, fd);

        if (r < 0) {
                log_warning("Cannot serve a connection, ignoring: %s", strerror(-r));
                release_connection(worker);
        }
}

/* Whoever is awake accepts; so that one worker does not end up with all of them, it shares with who has fewest. */
static void place_connection(struct worker *worker, int fd, bool http) {
        const struct handed handed = { fd, http };
        struct worker *least = worker;

        for (unsigned i = 0; i < worker->group->count; i++)
                if (atomic_load(&worker->group->workers[i].placed) < atomic_load(&least->placed))
                        least = &worker->group->workers[i];
        /* A difference of one is not worth waking another thread. */
        if (atomic_load(&worker->placed) > atomic_load(&least->placed) + 1) {
                atomic_fetch_add(&least->placed, 1);
                if (write(least->hand_fd, &handed, sizeof(handed)) == sizeof(handed))
                        return;
                atomic_fetch_sub(&least->placed, 1);
        }
        atomic_fetch_add(&worker->placed, 1);
        take_connection(worker, fd, http);
}

static void connection_accepted(struct listener *listener, int fd) {
        struct worker *worker = container_of(listener, struct worker, listener);

        lane_note_heard(&worker->lane);
        place_connection(worker, fd, false);
}

static void http_accepted(struct listener *listener, int fd) {
        struct worker *worker = listener->user;

        lane_note_heard(&worker->lane);
        place_connection(worker, fd, true);
}

/* Returns whether there may be more. */
static bool take_handed(struct worker *worker) {
        struct handed handed[HANDED_BATCH];
        ssize_t n;

        /* Writes of one descriptor are atomic, pipe(7). */
        n = read(worker->handed.fd, handed, sizeof(handed));
        worker->failures = n < 0 ? worker->failures + 1 : 0;
        if (worker->failures == FAILURES_MAX)
                reactor_fail(&worker->reactor, -errno);
        for (ssize_t i = 0; i < n / (ssize_t)sizeof(handed[0]); i++)
                take_connection(worker, handed[i].fd, handed[i].http);
        return n == (ssize_t)sizeof(handed);
}

static void connections_handed(struct watch *watch, uint32_t events) {
        (void)events;
        (void)take_handed(container_of(watch, struct worker, handed));
}

static bool is_ending(const struct worker *worker) {
        return worker->lane.leaving || gate_state(worker->group->queue->stop) != GATE_PENDING;
}

static void set_drained(struct worker *worker) {
        struct worker_group *group = worker->group;

        if (worker->drained)
                return;
        worker->drained = true;
        if (atomic_fetch_add(&group->drained, 1) + 1 == group->count)
                group->all_drained(group);
}

static uint64_t unsent_bytes(const struct worker *worker) {
        return front_unsent(&worker->front) + http_unsent(&worker->http);
}

/* Whether it is ending, and nothing is in flight. */
static bool is_answered(const struct worker *worker) {
        return is_ending(worker) && lane_is_idle(&worker->lane, worker->http.tunnels);
}

/* Tunnels may never end by themselves: they are not waited for, and closed when nothing else is in flight anywhere. */
static void check_drained(struct worker *worker) {
        if (!is_answered(worker))
                return;
        if (front_is_flushed(&worker->front) && http_is_flushed(&worker->http))
                set_drained(worker);
        else if (!timer_is_set(&worker->flush)) {
                worker->unsent = unsent_bytes(worker);
                reactor_set_timer(&worker->reactor, &worker->flush, timer_now() + FLUSH_NSEC);
        }
}

/* Clients that have stopped reading are not waited for. */
static void flush_due(struct timer *timer) {
        struct worker *worker = container_of(timer, struct worker, flush);

        if (!is_answered(worker))
                return;
        if (unsent_bytes(worker) >= worker->unsent)
                set_drained(worker);
        else
                check_drained(worker);
}

static void drain_run(struct job *job) {
        check_drained(container_of(job, struct worker, drain));
}

static struct worker *worker_of(struct lane *lane) {
        return container_of(lane, struct worker, lane);
}

static void lane_drained(struct lane *lane) {
        struct worker *worker = worker_of(lane);

        reactor_queue(&worker->reactor, &worker->drain);
}

static void check_drained_later(struct worker *worker) {
        if (is_ending(worker))
                reactor_queue(&worker->reactor, &worker->drain);
}

static void connection_ended(struct front *front) {
        struct worker *worker = container_of(front, struct worker, front);

        release_connection(worker);
        check_drained_later(worker);
}

static void http_connection_ended(struct http *http) {
        struct worker *worker = container_of(http, struct worker, http);

        release_connection(worker);
        check_drained_later(worker);
}

static void http_flushed(struct http *http) {
        check_drained_later(container_of(http, struct worker, http));
}

static void output_flushed(struct front *front) {
        check_drained_later(container_of(front, struct worker, front));
}

/* Requests wait: they and their connections are to outlive the process. */
static void lane_pending(struct lane *lane) {
        parking_open(&worker_of(lane)->parking);
}

static void parking_opened(struct parking *parking) {
        struct worker *worker = container_of(parking, struct worker, parking);

        front_park(&worker->front);
        if (worker->http.sockets)
                http_park(&worker->http);
}

/* A successor is not to find requests that go to the model: that is written before they leave. */
static void lane_written(struct lane *lane) {
        parking_write(&worker_of(lane)->parking);
}

static void lane_stopping(struct lane *lane) {
        struct worker *worker = worker_of(lane);

        parking_drop(&worker->parking);
        if (!worker->group->refuse_while_stopping)
                listener_deinit(&worker->listener);
        /* Those that were passed are the next process's too. */
        for (unsigned i = 0; i < worker->group->http_sockets->count; i++)
                if (!worker->group->http_sockets->sockets[i].made)
                        listener_deinit(&worker->http_listeners[i]);
        reactor_queue(&worker->reactor, &worker->drain);
}

/* From any thread. */
static void lane_offered(struct lane *lane) {
        mailbox_post(&worker_of(lane)->mailbox, MESSAGE_CLAIM);
}

static const struct lane_events lane_events = {
        .pending = lane_pending,
        .stopping = lane_stopping,
        .drained = lane_drained,
        .offered = lane_offered,
        .written = lane_written,
};

static int init_listeners(struct worker *worker) {
        struct worker_group *group = worker->group;
        int r;

        r = listener_init(&worker->listener, &worker->reactor, group->listen_fd, group->connections, connection_accepted);
        for (unsigned i = 0; i < group->http_sockets->count && r == 0; i++) {
                r = listener_init(&worker->http_listeners[i], &worker->reactor, group->http_sockets->sockets[i].fd,
                                  group->connections, http_accepted);
                worker->http_listeners[i].user = worker;
        }
        return r;
}

static void deinit_listeners(struct worker *worker) {
        listener_deinit(&worker->listener);
        for (unsigned i = 0; i < worker->group->http_sockets->count; i++)
                listener_deinit(&worker->http_listeners[i]);
}

static void listen_again(struct worker *worker) {
        int r = is_ending(worker) ? 0 : init_listeners(worker);

        if (r < 0)
                reactor_fail(&worker->reactor, r);
}

static void worker_deliver(struct mailbox *mailbox, unsigned messages) {
        struct worker *worker = container_of(mailbox, struct worker, mailbox);
        struct lane *lane = &worker->lane;

        if (messages & MESSAGE_FOLLOW) {
                lane_follow(lane);
                atomic_store(&worker->generation, lane->generation->number);
        }
        if (messages & MESSAGE_LEAVE) {
                deinit_listeners(worker);
                lane_leave(lane);
                parking_open(&worker->parking);
        }
        if (messages & MESSAGE_LISTEN)
                listen_again(worker);
        if (messages & MESSAGE_DO_NOT_LISTEN)
                deinit_listeners(worker);
        if (messages & MESSAGE_CHECK)
                lane_check_gates(lane);
        if (messages & MESSAGE_CLAIM)
                lane_claim(lane);
        if (messages & MESSAGE_RESUME)
                lane_resume(lane);
        /* Before the turn counts: what was lost until then is judged in it. */
        if (messages & MESSAGE_PULSE)
                lane_settle_lost(lane);
        if (messages & MESSAGE_PULSE && atomic_fetch_add(&worker->group->pulsed, 1) + 1 == worker->group->count)
                worker->group->all_pulsed(worker->group);
        if (messages & MESSAGE_STOP) {
                /* Those that another worker accepted before it left. */
                if (lane->leaving) {
                        while (take_handed(worker))
                                ;
                        parking_leave(&worker->parking);
                }
                lane_abandon(lane);
                reactor_stop(&worker->reactor);
        }
}

/* Its share of what a predecessor has left. */
static void take_over(struct worker *worker) {
        struct worker_group *group = worker->group;

        for (unsigned i = (unsigned)(worker - group->workers); i < group->parked.count; i += group->count) {
                unsigned n = parked_adopt(&group->parked.items[i], &worker->front, worker->http.sockets ? &worker->http : NULL);

                atomic_fetch_add(&worker->placed, n);
                atomic_fetch_add(&group->connections->connections, n);
                if (n > 0)
                        log_info("Taken over from the process before: %u connections", n);
        }
}

static void *worker_run(void *argument) {
        struct worker *worker = argument;
        struct worker_group *group = worker->group;
        int r;

        take_over(worker);
        r = reactor_run(&worker->reactor);
        if (r < 0) {
                log_error("A worker cannot go on: %s", strerror(-r));
                /* Its clients would hear nothing any more, and it could not be drained. */
                lane_abandon(&worker->lane);
                group->failed(group);
                set_drained(worker);
        }
        return NULL;
}

static int worker_init(struct worker *worker, struct worker_group *group) {
        const unsigned number = (unsigned)(worker - group->workers);
        int pipe_fds[2], r;

        worker->group = group;
        atomic_init(&worker->generation, queue_generation(group->queue)->number);
        job_init(&worker->drain, drain_run);
        timer_init(&worker->flush, flush_due);
        r = reactor_init(&worker->reactor);
        if (r < 0)
                return r;
        r = mailbox_init(&worker->mailbox, &worker->reactor, worker_deliver);
        if (r < 0)
                return r;
        socket_group_init(&worker->sockets, &worker->reactor);
        r = lane_init(&worker->lane, group->queue, &worker->reactor, &worker->sockets, &group->status->counters[number],
                      &lane_events, group->quiet);
        if (r < 0)
                return r;
        parking_init(&worker->parking, &worker->lane, group->keeper, group->parking_limit, number, parking_opened);
        for (unsigned i = 0; i < PLACES_KINDS; i++)
                group->places[i][number] = &worker->lane.lists[i].place;
        front_init(&worker->front, &worker->sockets, &worker->lane, group->status, &worker->parking, connection_ended,
                   output_flushed);

        if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0)
                return -errno;
        worker->handed.fd = pipe_fds[0];
        worker->hand_fd = pipe_fds[1];
        r = reactor_watch(&worker->reactor, &worker->handed, pipe_fds[0], EPOLLIN, connections_handed);
        if (r < 0)
                return r;
        if (group->http_sockets->count > 0) {
                r = http_init(&worker->http, &worker->sockets, &worker->lane, group->status, &group->http, &worker->parking,
                              http_connection_ended, http_flushed);
                if (r < 0)
                        return r;
        }
        return init_listeners(worker);
}

static void worker_deinit(struct worker *worker) {
        struct handed handed;

        deinit_listeners(worker);
        http_deinit(&worker->http);
        if (worker->front.lane)
                front_deinit(&worker->front);
        lane_deinit(&worker->lane);
        timer_clear(&worker->flush);
        parking_deinit(&worker->parking);
        socket_group_deinit(&worker->sockets);
        reactor_unwatch(&worker->handed);
        while (worker->handed.fd >= 0 && read(worker->handed.fd, &handed, sizeof(handed)) == sizeof(handed))
                close(handed.fd);
        worker->handed.fd = util_close(worker->handed.fd);
        worker->hand_fd = util_close(worker->hand_fd);
        mailbox_deinit(&worker->mailbox);
        reactor_deinit(&worker->reactor);
}

int worker_group_init(struct worker_group *group, unsigned count) {
        int r;

        group->workers = aligned_alloc(_Alignof(struct worker), count * sizeof(*group->workers));
        if (!group->workers)
                return -ENOMEM;
        memset(group->workers, 0, count * sizeof(*group->workers));
        for (unsigned i = 0; i < PLACES_KINDS; i++) {
                group->places[i] = calloc(count, sizeof(*group->places[i]));
                if (!group->places[i])
                        return -ENOMEM;
        }
        for (unsigned i = 0; i < count; i++) {
                struct worker *worker = &group->workers[i];

                worker->mailbox = (struct mailbox)MAILBOX_NULL;
                worker->http = (struct http)HTTP_NULL;
                worker->listener = (struct listener)LISTENER_NULL;
                for (unsigned j = 0; j < LISTENER_SET_MAX; j++)
                        worker->http_listeners[j] = (struct listener)LISTENER_NULL;
                worker->handed.fd = worker->hand_fd = -1;
        }
        /* All of them are there before one runs: they look at each other. */
        for (group->count = 0; group->count < count;) {
                r = worker_init(&group->workers[group->count], group);
                group->count++;
                if (r < 0)
                        return r;
        }
        for (unsigned i = 0; i < PLACES_KINDS; i++) {
                group->queue->places[i].lanes = group->places[i];
                group->queue->places[i].count = count;
        }
        return 0;
}

int worker_group_start(struct worker_group *group) {
        sigset_t all, before;
        int r = 0;

        /* Signals are for the main thread. */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        for (unsigned i = 0; i < group->count && r == 0; i++) {
                r = pthread_create(&group->workers[i].thread, NULL, worker_run, &group->workers[i]);
                group->workers[i].running = r == 0;
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return -r;
}

static void post_all(struct worker_group *group, unsigned messages) {
        for (unsigned i = 0; i < group->count; i++)
                mailbox_post(&group->workers[i].mailbox, messages);
}

void worker_group_follow(struct worker_group *group) {
        post_all(group, MESSAGE_FOLLOW);
}

void worker_group_leave(struct worker_group *group) {
        post_all(group, MESSAGE_LEAVE);
}

void worker_group_listen(struct worker_group *group, bool listen) {
        post_all(group, listen ? MESSAGE_LISTEN : MESSAGE_DO_NOT_LISTEN);
}

void worker_group_check_gates(struct worker_group *group) {
        post_all(group, MESSAGE_CHECK);
}

void worker_group_resume(struct worker_group *group) {
        post_all(group, MESSAGE_RESUME);
}

void worker_group_pulse(struct worker_group *group) {
        atomic_store(&group->pulsed, 0);
        post_all(group, MESSAGE_PULSE);
}

unsigned worker_group_generation(const struct worker_group *group) {
        unsigned oldest = UINT_MAX;

        for (unsigned i = 0; i < group->count; i++)
                oldest = MIN(oldest, atomic_load(&group->workers[i].generation));
        return oldest;
}

void worker_group_stop(struct worker_group *group) {
        for (unsigned i = 0; i < group->count; i++)
                if (group->workers[i].running)
                        mailbox_post(&group->workers[i].mailbox, MESSAGE_STOP);
        for (unsigned i = 0; i < group->count; i++)
                if (group->workers[i].running)
                        pthread_join(group->workers[i].thread, NULL);
        /* Only now: a worker that still ran might have handed a connection to one that did not. */
        for (unsigned i = 0; i < group->count; i++)
                worker_deinit(&group->workers[i]);
        free(STEAL_POINTER(group->workers));
        for (unsigned i = 0; i < PLACES_KINDS; i++)
                free(STEAL_POINTER(group->places[i]));
        group->count = 0;
        parked_list_deinit(&group->parked);
}
