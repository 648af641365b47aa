#pragma once

/*
 * A thread with one reactor. It owns its connections and their requests from birth to death.
 */

#include <pthread.h>

#include "daemon/front/connection.h"
#include "daemon/front/http.h"
#include "daemon/front/listener.h"
#include "daemon/front/parked.h"
#include "daemon/loop/mailbox.h"

struct worker;

/* What all workers share; outlives them. */
struct worker_group {
        struct worker *workers;
        unsigned count;
        struct host *host;
        struct request_limits *limits;
        struct listener_limit *connections;
        struct status *status;
        struct gate *stop;
        struct model *model;
        int listen_fd;
        const struct listener_set *http_sockets;
        struct http_group http;
        bool quiet;
        struct parking_keeper *keeper;  /* NULL: none */
        struct parked_list parked;      /* what a predecessor has left: taken over when the threads start */
        bool refuse_while_stopping;     /* go on accepting, to say why; else leave the backlog to a successor */
        atomic_uint drained;            /* workers that have nothing to do before they stop */
        void (*all_drained)(struct worker_group *group);        /* in the thread of the last of them */
        atomic_uint pulsed;             /* workers that have turned since worker_group_pulse() */
        void (*all_pulsed)(struct worker_group *group);         /* likewise */
};

struct worker {
        struct worker_group *group;
        pthread_t thread;
        struct reactor reactor;
        struct mailbox mailbox;
        struct request_queue queue;
        struct front front;
        struct http http;
        struct listener listener;
        struct listener http_listeners[LISTENER_SET_MAX];
        struct watch handed;            /* the reading end of a pipe of descriptors that other workers accepted */
        int hand_fd;                    /* its writing end */
        struct job drain;
        atomic_uint placed;             /* connections that it has, or is about to */
        atomic_uint generation;         /* the number of the one that it follows */
        unsigned vain;                  /* so often in a row `handed` was said to be readable, and was not */
        bool drained;
        bool running;
};

/*
 * Sets up `count` workers at the gate of `generation`; none runs yet. Returns 0 or -errno; then, and at the end,
 * worker_group_stop() is due.
 */
int worker_group_init(struct worker_group *group, unsigned count, struct generation *generation);

/* Starts their threads. Returns 0 or -errno. */
int worker_group_start(struct worker_group *group);

/* There is a new generation. */
void worker_group_follow(struct worker_group *group);

/*
 * What waits is left to a successor, at the gate of the generation that is there now, which is pending. When nothing
 * is in flight any more all_drained() is called.
 */
void worker_group_leave(struct worker_group *group);

/* A gate has left PENDING, and could not say so itself. */
void worker_group_look(struct worker_group *group);

/* There may be room for one more in flight: the worker with the request that came first hears of it. */
void worker_group_room(struct worker_group *group);

/* The model was not lost: what was with it, and waits, is sent again. */
void worker_group_retry(struct worker_group *group);

/* Asks every worker for a turn; all_pulsed() is called when all have turned. */
void worker_group_pulse(struct worker_group *group);

/* The number of the oldest generation that a worker may still look at. */
unsigned worker_group_generation(const struct worker_group *group);

/*
 * Ends every thread: what is still there is answered with shutting-down, unless it is left to a successor.
 * Harmless twice.
 */
void worker_group_stop(struct worker_group *group);
