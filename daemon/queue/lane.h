#pragma once

/*
 * A lane: one worker's requests for one model, those waiting and those in flight, and what becomes of each. This is the policy:
 * whether the daemon is stopping, which generation is current, whether there is a place.
 *
 * A request waits at the gate of the current generation, or for a place, or because the model is suspected to be lost; or it is in
 * flight with the session. One thread owns it all; other workers' lanes are met in struct queue alone.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/loop/reactor.h"
#include "daemon/model/generation.h"
#include "daemon/queue/request.h"
#include "daemon/queue/wait_list.h"
#include "daemon/status.h"

/*
 * Inference takes a place with the model. Light requests (GET, HEAD, OPTIONS, tunnels) have places of their own. Suspects, of either
 * kind, have one place; while there are any the others have none.
 */
enum places_kind {
        PLACES_INFERENCE,
        PLACES_LIGHT,
        PLACES_SUSPECT,
        PLACES_KINDS,
};

/* What the lanes of all workers for one model share, and what they ask of the daemon; any thread calls these. */
struct queue {
        struct request_limits *limits;
        struct gate *stop;
        struct model *model;
        _Atomic(struct generation *) generation;        /* the current one */
        struct places places[PLACES_KINDS];
        /* Requests that were in flight when the model crashed. All are counted before the gate of the next generation opens. */
        atomic_uint_fast64_t suspects;
        atomic_uint_fast64_t lost;      /* requests of all lanes that wait to hear whether the model has crashed */
        /* An administrator wants the model loaded again; or the daemon to stop. */
        void (*load)(struct queue *queue);
        void (*shutdown)(struct queue *queue);
        /* Requests wait and did not, or the other way round; or, while it stops, are in flight. NULL: nobody cares. */
        void (*changed)(struct queue *queue);
        /* A request, or an observer, needs the current generation, which was idle: generation_ask(). */
        void (*needed)(struct queue *queue);
        /* `suspicions` of the current generation was raised. */
        void (*suspect)(struct queue *queue);
        /* There are no suspects any more: lane_resume() is due in every lane. */
        void (*cleared)(struct queue *queue);
};

static inline struct generation *queue_generation(struct queue *queue) {
        return atomic_load_explicit(&queue->generation, memory_order_acquire);
}

struct lane;

/* What its worker hears of a lane, in its own thread. Each may be NULL. */
struct lane_events {
        void (*pending)(struct lane *lane);     /* its gate is a pending one from now on, or a request waits */
        void (*stopping)(struct lane *lane);    /* the stop signal has come */
        /* And less waits or is in flight than before; or, if it is leaving, is in flight: perhaps lane_is_idle() now. */
        void (*drained)(struct lane *lane);
        void (*offered)(struct lane *lane);     /* from any thread: lane_claim() is due */
        /*
         * Waiting requests were looked at, and some perhaps go to the model when the turn ends: a successor is not to find these.
         */
        void (*written)(struct lane *lane);
};

struct lane {
        struct reactor *reactor;
        struct queue *queue;
        struct status_counters *counters;
        const struct lane_events *events;
        struct generation *generation;
        struct model_session *session;
        unsigned followed;              /* the number of the generation that the session follows; 0: none yet */
        struct session_events session_events;
        struct request_memory memory;
        struct wait_list lists[PLACES_KINDS];
        struct list deferred;           /* waiting until `due` of each, to be sent again; in the order of that */
        uint64_t lost;                  /* those of its own requests that count in `lost` of the queue */
        struct list in_flight;          /* in the order of arrival where there is a time-out */
        struct list observers;          /* REQUEST_WAIT, REQUEST_LOAD */
        struct watch gate_watch;
        struct watch stop_watch;
        struct job settle;
        struct timer timeout;
        struct timer defer;
        struct timer rewatch;           /* set while the gate could not be watched */
        char *output;                   /* lines for standard output, gathered over a turn; NULL: --quiet */
        size_t output_len;
        struct job print;
        uint64_t arrived;               /* when what is taken over from a predecessor had arrived; 0: it arrives now */
        bool leaving;                   /* waiting requests are left to a successor */
};

/*
 * Sets up the lane of one worker, at the gate of the queue's current generation. `place` has what the session needs but for its
 * events. All pointers are borrowed and outlive it. `quiet`: no lines for standard output. Returns 0 or -errno; lane_deinit() is
 * due either way. The places of the queue learn of it from the caller: lane->lists[].place.
 */
int lane_init(struct lane *lane, struct queue *queue, struct reactor *reactor, struct socket_group *sockets,
              struct status_counters *counters, const struct lane_events *events, bool quiet);

/* No owner has a request any more. */
void lane_deinit(struct lane *lane);

/* Goes over to the queue's current generation: to its gate, if it is pending. Harmless if it is the one that it has. */
void lane_follow(struct lane *lane);

/* A gate that it watches has left PENDING, or may have, and could not say so itself. */
void lane_check_gates(struct lane *lane);

/* The model was not lost, or is not stopped: requests that wait for that go on. */
void lane_resume(struct lane *lane);

/* Decides what becomes of requests whose connection broke, as far as it is known whether the model lives. */
void lane_settle_lost(struct lane *lane);

/* Places were given to it. */
void lane_claim(struct lane *lane);

/* Answers all that there is with shutting-down, those in flight too; but not what is left to a successor. */
void lane_abandon(struct lane *lane);

/* Whether nothing is here that a daemon that is about to end would wait for; `tunnels` of the requests in flight do not count. */
bool lane_is_idle(const struct lane *lane, uint64_t tunnels);

/*
 * From now on waiting requests are not answered: a successor will. Those in flight finish, and `drained` is called.
 * The gate is pending.
 */
void lane_leave(struct lane *lane);

/*
 * Requests that come until this is called with 0 arrived at `arrived`, at a predecessor; or later, for no request
 * stands in the lane before one that arrived earlier.
 */
void lane_set_arrival(struct lane *lane, uint64_t arrived);

/* Calls `each` for every waiting request, and observer, in order of arrival in each list. */
void lane_each_waiting(struct lane *lane, void (*each)(struct request *request, void *data), void *data);

/*
 * A request has come. Takes copies of ID and prompt (`prompt` NULL: none). It waits, goes to the model, or is told why not.
 * Returns 0, or -ENOMEM: then nothing was taken, and the owner hears nothing.
 */
int lane_request(struct lane *lane, struct request_owner *owner, const char *id, size_t id_len, const char *prompt,
                 size_t prompt_len, bool stream);

/*
 * The same for an exchange of HTTP. `request` is from lane_allocate(), and is the lane's from here on; set are: the ID, at the
 * begin of its text, `inference.id_len`, `inference.prompt_len` as the number of bytes of text behind the ID, `stream` if an
 * event stream is wanted, `is_light`, `demands` and `repeats`. The bytes of text count against --max-prompt-memory already, and are
 * given back by the lane.
 */
void lane_exchange(struct lane *lane, struct request_owner *owner, struct request *request);

/* Memory for a request with `text_len` bytes of text, not initialised. NULL: out of memory. It ends with the request. */
struct request *lane_allocate(struct lane *lane, size_t text_len);

/*
 * Gives it room for `to_len` bytes of text, where it had `text_len`; what was in it stays, as far as there is room. Returns it,
 * perhaps elsewhere; or NULL: out of memory, and it is as it was.
 */
struct request *lane_resize(struct lane *lane, struct request *request, size_t text_len, size_t to_len);

/* Gives it back when it did not become a request. */
void lane_release(struct lane *lane, struct request *request, size_t text_len);

/*
 * WAIT or LOAD has come: it is answered with PROTOCOL_READY when the model is, and with PROTOCOL_LOADING when the
 * next generation has begun; or fails. Returns 0 or -ENOMEM.
 */
int lane_observe(struct lane *lane, struct request_owner *owner, enum request_kind kind);

/* No part of an answer is wanted for now, or they are again. Nothing if it is not with the model. */
void lane_pause(struct lane *lane, struct request *request, bool paused);

/* Of a tunnel, an exchange that was answered with 101: as model_send() and model_finish(). */
size_t lane_send(struct lane *lane, struct request *request, const char *data, size_t len);
void lane_finish(struct lane *lane, struct request *request);

/* A client has connected or sent something: msd is not idle. */
static inline void lane_note_heard(struct lane *lane) {
        counter_set(&lane->counters->heard, reactor_now(lane->reactor));
}

/* The owner goes away: its requests, waiting and in flight, are cancelled, and it hears nothing of that. */
void lane_forget(struct lane *lane, struct request_owner *owner);
