#include "daemon/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "daemon/log.h"

enum {
        LETTER_FOLLOW = 1 << 0,
        LETTER_STOP = 1 << 1,
        LETTER_LEAVE = 1 << 2,
        LETTER_PULSE = 1 << 3,
        LETTER_RETRY = 1 << 4,
        LETTER_LOOK = 1 << 5,
};

/* Descriptors read from the pipe at once. */
#define HANDED_BATCH 64

/* A pipe that says so often in a row that there is something to read, when there is not, is broken. */
#define VAIN_MAX 100

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
        place_connection(container_of(listener, struct worker, listener), fd, false);
}

static void http_accepted(struct listener *listener, int fd) {
        place_connection(listener->user, fd, true);
}

/* Returns whether there may be more. */
static bool take_handed(struct worker *worker) {
        struct handed handed[HANDED_BATCH];
        ssize_t n;

        /* Writes of one descriptor are atomic, pipe(7). */
        n = read(worker->handed.fd, handed, sizeof(handed));
        worker->vain = n < 0 ? worker->vain + 1 : 0;
        if (worker->vain == VAIN_MAX)
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
        return worker->queue.leaving || gate_state(worker->group->stop) != GATE_PENDING;
}

static void set_drained(struct worker *worker) {
        struct worker_group *group = worker->group;

        if (worker->drained)
                return;
        worker->drained = true;
        if (atomic_fetch_add(&group->drained, 1) + 1 == group->count)
                group->all_drained(group);
}

static void check_drained(struct worker *worker) {
        if (is_ending(worker) && request_queue_is_idle(&worker->queue) && front_is_flushed(&worker->front) &&
            http_is_flushed(&worker->http))
                set_drained(worker);
}

static void drain_run(struct job *job) {
        check_drained(container_of(job, struct worker, drain));
}

static void queue_idle(struct request_queue *queue) {
        struct worker *worker = container_of(queue, struct worker, queue);

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

static void queue_pending(struct request_queue *queue) {
        front_park(&container_of(queue, struct worker, queue)->front);
}

static void queue_stopping(struct request_queue *queue) {
        struct worker *worker = container_of(queue, struct worker, queue);

        if (!worker->group->refuse_while_stopping)
                listener_deinit(&worker->listener);
        /* Those that were passed are the next process's too. */
        for (unsigned i = 0; i < worker->group->http_sockets->count; i++)
                if (!worker->group->http_sockets->sockets[i].made)
                        listener_deinit(&worker->http_listeners[i]);
        reactor_queue(&worker->reactor, &worker->drain);
}

static void deinit_listeners(struct worker *worker) {
        listener_deinit(&worker->listener);
        for (unsigned i = 0; i < worker->group->http_sockets->count; i++)
                listener_deinit(&worker->http_listeners[i]);
}

static void worker_deliver(struct mailbox *mailbox, unsigned letters) {
        struct worker *worker = container_of(mailbox, struct worker, mailbox);
        struct host *host = worker->group->host;

        if (letters & LETTER_FOLLOW) {
                request_queue_follow(&worker->queue, host->generation(host));
                atomic_store(&worker->generation, worker->queue.generation->number);
        }
        if (letters & LETTER_LEAVE) {
                deinit_listeners(worker);
                request_queue_leave(&worker->queue);
        }
        if (letters & LETTER_LOOK)
                request_queue_look(&worker->queue);
        if (letters & LETTER_RETRY)
                request_queue_retry(&worker->queue);
        if (letters & LETTER_PULSE && atomic_fetch_add(&worker->group->pulsed, 1) + 1 == worker->group->count)
                worker->group->all_pulsed(worker->group);
        if (letters & LETTER_STOP) {
                /* Those that another worker accepted before it left. */
                if (worker->queue.leaving) {
                        while (take_handed(worker))
                                ;
                        parking_leave(&worker->queue.parking);
                }
                request_queue_abandon(&worker->queue);
                reactor_stop(&worker->reactor);
        }
}

/* Its share of what a predecessor has left. */
static void take_over(struct worker *worker) {
        struct worker_group *group = worker->group;

        for (unsigned i = (unsigned)(worker - group->workers); i < group->parked.count; i += group->count) {
                unsigned n = parked_adopt(&group->parked.items[i], &worker->front);

                atomic_fetch_add(&worker->placed, n);
                atomic_fetch_add(&group->connections->connections, n);
                if (n > 0)
                        log_info("Taken over from the process before: %u connections", n);
        }
}

static void *worker_run(void *argument) {
        struct worker *worker = argument;
        struct host *host = worker->group->host;
        int r;

        take_over(worker);
        r = reactor_run(&worker->reactor);
        if (r < 0) {
                log_error("A worker cannot go on: %s", strerror(-r));
                /* Who is with it would hear nothing any more, and it could not be drained. */
                request_queue_abandon(&worker->queue);
                host->failed(host);
                set_drained(worker);
        }
        return NULL;
}

static int worker_init(struct worker *worker, struct worker_group *group, struct generation *generation) {
        int pipe_fds[2], r;

        worker->group = group;
        atomic_init(&worker->generation, generation->number);
        job_init(&worker->drain, drain_run);
        r = reactor_init(&worker->reactor);
        if (r < 0)
                return r;
        r = mailbox_init(&worker->mailbox, &worker->reactor, worker_deliver);
        if (r < 0)
                return r;
        r = request_queue_init(&worker->queue, &worker->reactor, group->host, group->limits,
                               &group->status->counters[worker - group->workers], group->stop, generation,
                               group->model, group->quiet);
        if (r < 0)
                return r;
        worker->queue.parking.keeper = group->keeper;
        worker->queue.parking.number = (unsigned)(worker - group->workers);
        worker->queue.pending = queue_pending;
        worker->queue.stopping = queue_stopping;
        worker->queue.idle = queue_idle;
        front_init(&worker->front, &worker->reactor, &worker->queue, group->status, connection_ended,
                   output_flushed);

        if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0)
                return -errno;
        worker->handed.fd = pipe_fds[0];
        worker->hand_fd = pipe_fds[1];
        r = reactor_watch(&worker->reactor, &worker->handed, pipe_fds[0], EPOLLIN, connections_handed);
        if (r < 0)
                return r;
        r = listener_init(&worker->listener, &worker->reactor, group->listen_fd, group->connections,
                          connection_accepted);
        if (r < 0 || group->http_sockets->count == 0)
                return r;
        r = http_init(&worker->http, &worker->reactor, &worker->queue, group->status, &group->http, http_connection_ended,
                      http_flushed);
        for (unsigned i = 0; i < group->http_sockets->count && r == 0; i++) {
                r = listener_init(&worker->http_listeners[i], &worker->reactor, group->http_sockets->sockets[i].fd,
                                  group->connections, http_accepted);
                worker->http_listeners[i].user = worker;
        }
        return r;
}

static void worker_deinit(struct worker *worker) {
        struct handed handed;

        deinit_listeners(worker);
        http_deinit(&worker->http);
        if (worker->front.reactor)
                front_deinit(&worker->front);
        request_queue_deinit(&worker->queue);
        reactor_unwatch(&worker->handed);
        while (worker->handed.fd >= 0 && read(worker->handed.fd, &handed, sizeof(handed)) == sizeof(handed))
                close(handed.fd);
        worker->handed.fd = util_close(worker->handed.fd);
        worker->hand_fd = util_close(worker->hand_fd);
        mailbox_deinit(&worker->mailbox);
        reactor_deinit(&worker->reactor);
}

int worker_group_init(struct worker_group *group, unsigned count, struct generation *generation) {
        int r;

        group->workers = calloc(count, sizeof(*group->workers));
        if (!group->workers)
                return -ENOMEM;
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
                r = worker_init(&group->workers[group->count], group, generation);
                group->count++;
                if (r < 0)
                        return r;
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

static void post_all(struct worker_group *group, unsigned letters) {
        for (unsigned i = 0; i < group->count; i++)
                mailbox_post(&group->workers[i].mailbox, letters);
}

void worker_group_follow(struct worker_group *group) {
        post_all(group, LETTER_FOLLOW);
}

void worker_group_leave(struct worker_group *group) {
        post_all(group, LETTER_LEAVE);
}

void worker_group_look(struct worker_group *group) {
        post_all(group, LETTER_LOOK);
}

void worker_group_retry(struct worker_group *group) {
        post_all(group, LETTER_RETRY);
}

void worker_group_room(struct worker_group *group) {
        struct worker *first = NULL;
        uint64_t oldest = UINT64_MAX;

        /* A place is given back before it is looked who waits, and one waits before it is looked whether there is a place. */
        atomic_thread_fence(memory_order_seq_cst);
        for (unsigned i = 0; i < group->count; i++) {
                uint64_t arrived = atomic_load_explicit(&group->workers[i].queue.counters->oldest, memory_order_relaxed);

                if (arrived > 0 && arrived < oldest) {
                        oldest = arrived;
                        first = &group->workers[i];
                }
        }
        if (first)
                mailbox_post(&first->mailbox, LETTER_RETRY);
}

void worker_group_pulse(struct worker_group *group) {
        atomic_store(&group->pulsed, 0);
        post_all(group, LETTER_PULSE);
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
                        mailbox_post(&group->workers[i].mailbox, LETTER_STOP);
        for (unsigned i = 0; i < group->count; i++)
                if (group->workers[i].running)
                        pthread_join(group->workers[i].thread, NULL);
        /* Only now: a worker that still ran might have handed a connection to one that did not. */
        for (unsigned i = 0; i < group->count; i++)
                worker_deinit(&group->workers[i]);
        free(STEAL_POINTER(group->workers));
        group->count = 0;
        parked_list_deinit(&group->parked);
}
