#pragma once

/*
 * Requests: an ID, perhaps a prompt; waiting at the gate, processing, or answered.
 *
 * A worker has one queue of them, and every request is owned by it from birth to death; nothing here takes a lock.
 * A waiting request is one small record in a list: no timer, no descriptor, no thread.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/protocol.h"
#include "daemon/front/parking.h"
#include "daemon/loop/pool.h"
#include "daemon/loop/reactor.h"
#include "daemon/model/generation.h"
#include "daemon/status.h"

struct request;
struct request_owner;
struct request_queue;

/* How an owner hears of its requests. Nothing in here may end the owner, or touch another of its requests. */
struct request_ops {
        /* The request begins to wait at a pending gate; or a WAIT does. */
        void (*waiting)(struct request_owner *owner, struct request *request);
        void (*part)(struct request_owner *owner, struct request *request, const char *data, size_t len);
        /* These two end the request. */
        void (*answered)(struct request_owner *owner, struct request *request, const char *data, size_t len);
        void (*failed)(struct request_owner *owner, struct request *request, enum protocol_code code,
                       const char *message);
        /* Of owners of exchanges alone: what is passed on, and how the answer to it begins. */
        const struct exchange *(*exchange)(struct request_owner *owner, struct request *request);
        void (*head)(struct request_owner *owner, struct request *request, const struct answer_head *head);
        bool stays;             /* what waits may be left to a successor, and is not answered then */
};

/* Where requests come from and answers go: a connection. */
struct request_owner {
        const struct request_ops *ops;
        struct list requests;
        uint32_t processing;
};

enum request_kind {
        REQUEST_INFERENCE,
        REQUEST_WAIT,           /* wants to hear when the gate has left PENDING */
        REQUEST_LOAD,           /* wants to hear when the next generation has begun */
};

struct request {
        struct list owner_link;
        struct list queue_link;
        struct request_owner *owner;
        uint64_t arrived;               /* nanoseconds of CLOCK_MONOTONIC */
        struct inference inference;     /* the last member: its text follows */
};

/* What all workers share: the limits, and what counts against them. */
struct request_limits {
        uint64_t max_waiting;
        uint64_t max_prompt;            /* bytes */
        uint64_t max_prompt_memory;     /* bytes, of all prompts that are held */
        uint64_t timeout;               /* nanoseconds; 0: none */
        uint64_t max_inflight;          /* with the model at once; 0: any number */
        atomic_uint_fast64_t waiting;
        atomic_uint_fast64_t prompt_memory;
        atomic_uint_fast64_t inflight;  /* counted where there is a limit */
};

/*
 * `len` bytes more of prompts are held, until request_limits_release(). Returns whether that many may be; if not they are
 * counted all the same, and `message` says what the limit is.
 */
#define REQUEST_LIMITS_MESSAGE_MAX 96
bool request_limits_hold(struct request_limits *limits, size_t len, char message[static REQUEST_LIMITS_MESSAGE_MAX]);
void request_limits_release(struct request_limits *limits, size_t len);

/*
 * What the server does for the fronts. `handle_request` decides what becomes of a request that has come: it calls
 * one of request_wait(), request_start() and request_refuse().
 */
struct host {
        void (*handle_request)(struct host *host, struct request_queue *queue, struct request *request);
        /* The generation that counts now. */
        struct generation *(*generation)(struct host *host);
        /* An administrator wants the model loaded again, or the daemon to stop. */
        void (*load)(struct host *host);
        void (*shutdown)(struct host *host);
        /* Some wait that did not, or the other way round; or, while it stops, are in flight. NULL: nobody cares. */
        void (*changed)(struct host *host);
        /* There may be room for one more in flight: for who came first, whichever worker's it is. */
        void (*room)(struct host *host);
        /* A request was with a model that may be lost. It waits: for the next generation, or request_queue_retry(). */
        void (*suspect)(struct host *host);
        /* Something of the daemon's own is broken: it is to end, with an error. */
        void (*failed)(struct host *host);
};

struct request_queue {
        struct reactor *reactor;
        struct host *host;
        struct request_limits *limits;
        struct status_counters *counters;
        struct gate *stop;
        struct generation *generation;
        struct model_session *session;
        struct inference_events events;
        struct pool small;              /* what most requests are made of */
        struct list waiting;            /* in the order of arrival */
        struct list processing;         /* in the order of their start */
        struct list observers;          /* REQUEST_WAIT, REQUEST_LOAD */
        struct watch gate_watch;
        struct watch stop_watch;
        struct job settle;
        struct timer timeout;
        struct timer rewatch;           /* set while the gate could not be watched */
        char *lines;                    /* for standard output, gathered over a turn; NULL: --quiet */
        size_t lines_len;
        struct job print;
        struct parking parking;
        uint64_t arrived;               /* when what is taken over from a predecessor had come; 0: it comes now */
        bool leaving;                   /* what waits is left to a successor */
        void (*pending)(struct request_queue *queue);   /* its gate is a pending one from now on */
        void (*stopping)(struct request_queue *queue);  /* the stop signal has come */
        /* And nothing waits or is in flight any more; or, if it is leaving, nothing is in flight. */
        void (*idle)(struct request_queue *queue);
};

/*
 * Sets up the queue of one worker, in its reactor, at the gate of `generation`. All pointers are borrowed and
 * outlive it. `quiet`: no lines for standard output. Returns 0 or -errno; request_queue_deinit() is due either way.
 */
int request_queue_init(struct request_queue *queue, struct reactor *reactor, struct host *host,
                       struct request_limits *limits, struct status_counters *counters, struct gate *stop,
                       struct generation *generation, struct model *model, bool quiet);

/* No owner has a request any more. */
void request_queue_deinit(struct request_queue *queue);

/* Goes over to the next generation: to its gate, if it is pending. Harmless if it is the one that it has. */
void request_queue_follow(struct request_queue *queue, struct generation *generation);

/* A gate that it watches has left PENDING, or may have, and could not say so itself. */
void request_queue_look(struct request_queue *queue);

/* The model is not lost, or there is room in it: what waits for that goes on. */
void request_queue_retry(struct request_queue *queue);

/* Answers all that there is with shutting-down, those in flight too; but not what is left to a successor. */
void request_queue_abandon(struct request_queue *queue);

/* Whether nothing is here that a daemon that is about to end would wait for. */
bool request_queue_is_idle(const struct request_queue *queue);

/*
 * From now on what waits is not answered: a successor will. Those in flight finish, and then `idle` is called.
 * The gate is pending, and parking is open.
 */
void request_queue_leave(struct request_queue *queue);

/*
 * What comes until this is called with 0 had come at `arrived` already, to a predecessor; or later, for no request
 * stands in the queue before one that came earlier.
 */
void request_queue_set_arrival(struct request_queue *queue, uint64_t arrived);

void request_owner_init(struct request_owner *owner, const struct request_ops *ops);

/* The owner goes away: what it had waiting and in flight is cancelled, and it hears nothing of it. */
void request_owner_deinit(struct request_queue *queue, struct request_owner *owner);

/*
 * A request has come. Takes copies of ID and prompt (`prompt` NULL: none), and has the host handle it.
 * Returns 0, or -ENOMEM: then nothing was taken, and the owner hears nothing.
 */
int request_new(struct request_queue *queue, struct request_owner *owner, const char *id, size_t id_len,
                const char *prompt, size_t prompt_len, bool stream);

/* The same for an exchange, which the owner has until it ends. */
int request_new_exchange(struct request_queue *queue, struct request_owner *owner, const char *id, size_t id_len);

/* No part of the answer to an exchange is wanted for now, or they are again. Nothing if it is not with the model. */
void request_pause(struct request_queue *queue, struct request *request, bool paused);

/*
 * WAIT or LOAD has come: it is answered with PROTOCOL_READY when the model is, and with PROTOCOL_LOADING when the
 * next generation has begun; or fails. Returns 0 or -ENOMEM.
 */
int request_observe(struct request_queue *queue, struct request_owner *owner, enum request_kind kind);

/*
 * For the host: the request waits for the gate, unless too many do; or goes to the model, when there is room and it is its
 * turn; or is told why it cannot.
 */
void request_wait(struct request_queue *queue, struct request *request);
void request_start(struct request_queue *queue, struct request *request);
void request_refuse(struct request_queue *queue, struct request *request, enum protocol_code code,
                    const char *message);
