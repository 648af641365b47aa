#pragma once

/*
 * A thread with one reactor. It owns its connections and their requests from birth to death.
 */

#include <pthread.h>

#include "daemon/front/http.h"
#include "daemon/front/listener.h"
#include "daemon/front/parked.h"
#include "daemon/front/unix.h"
#include "daemon/loop/mailbox.h"

struct worker;

/* What all workers share; outlives them. */
struct worker_group {
        struct worker *workers;
        unsigned count;
        struct queue *queue;
        struct places_lane **places[PLACES_KINDS];      /* of all workers: for the queue */
        struct listener_limit *connections;
        struct status *status;
        int listen_fd;
        const struct listener_set *http_sockets;
        struct http_group http;
        bool quiet;
        struct parking_keeper *keeper;  /* NULL: none */
        struct parking_limit *parking_limit;
        struct parked_list parked;      /* what a predecessor has left: taken over when the threads start */
        bool refuse_while_stopping;     /* go on accepting, to say why; else leave the backlog to a successor */
        atomic_uint drained;            /* workers that have nothing to do before they stop */
        void (*all_drained)(struct worker_group *group);        /* in the thread of the last of them */
        atomic_uint pulsed;             /* workers that have turned since worker_group_pulse() */
        void (*all_pulsed)(struct worker_group *group);         /* likewise */
        void (*failed)(struct worker_group *group);             /* a worker cannot go on; from its thread */
};

struct worker {
        struct worker_group *group;
        pthread_t thread;
        struct reactor reactor;
        struct mailbox mailbox;
        struct socket_group sockets;
        struct parking parking;
        struct lane lane;
        struct front front;
        struct http http;
        struct listener listener;
        struct listener http_listeners[LISTENER_SET_MAX];
        struct watch handed;            /* the reading end of a pipe of descriptors that other workers accepted */
        int hand_fd;                    /* its writing end */
        struct job drain;
        struct timer flush;             /* set while clients are still to be sent something, at the end */
        uint64_t unsent;                /* bytes that there were when it was set */
        atomic_uint placed;             /* connections that it has, or is about to */
        atomic_uint generation;         /* the number of the one that it follows */
        unsigned failures;              /* events of `handed` in a row that brought nothing */
        bool drained;
        bool running;
};

/*
 * Sets up `count` workers at the gate of the queue's generation; none runs yet. Returns 0 or -errno; then, and at the end,
 * worker_group_stop() is due.
 */
int worker_group_init(struct worker_group *group, unsigned count);

/* Starts their threads. Returns 0 or -errno. */
int worker_group_start(struct worker_group *group);

/* There is a new generation. */
void worker_group_follow(struct worker_group *group);

/*
 * Waiting requests are left to a successor, at the gate of the current generation, which is pending. When nothing
 * is in flight any more all_drained() is called.
 */
void worker_group_leave(struct worker_group *group);

/* No connections are accepted from now on, or they are again. */
void worker_group_listen(struct worker_group *group, bool listen);

/* A gate has left PENDING, and could not say so itself. */
void worker_group_check_gates(struct worker_group *group);

/* The model was not lost, or is not stopped: waiting requests go on. */
void worker_group_resume(struct worker_group *group);

/* Asks every worker for a turn; all_pulsed() is called when all have turned. */
void worker_group_pulse(struct worker_group *group);

/* The number of the oldest generation that a worker may still look at. */
unsigned worker_group_generation(const struct worker_group *group);

/*
 * Ends every thread: what is still there is answered with shutting-down, unless it is left to a successor.
 * Harmless twice.
 */
void worker_group_stop(struct worker_group *group);
