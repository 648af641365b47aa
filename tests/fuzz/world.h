#pragma once

/*
 * A worker without a thread, and all that it lives in, so that an input decides what happens and when: a clock that stands
 * still, a model that answers when it is told to, gates that the input opens. The queue, the lane and the fronts are the
 * daemon's own.
 */

#include "common/number.h"
#include "daemon/front/http.h"
#include "daemon/front/unix.h"
#include "tests/fuzz/fuzz.h"

/* An inference that the model has. */
struct run {
        struct list link;
        struct inference *inference;
        uint64_t left;                  /* bytes of an answer whose length was said */
        bool begun;                     /* something of the answer was delivered */
        bool tunnel;
        bool finished;                  /* of a tunnel: the client has ended */
        bool paused;
        size_t unsent;                  /* of a tunnel: what the model has not taken */
};

#define WORLD_GENERATIONS 8

struct world {
        struct reactor reactor;
        struct socket_group sockets;
        struct gate stop;
        struct status status;
        struct request_limits limits;
        uint64_t max_inflight;
        struct generation *generations[WORLD_GENERATIONS];
        unsigned current;
        struct queue queue;
        struct lane lane;
        struct places_lane *places[PLACES_KINDS];
        struct parking_keeper *keeper;  /* NULL: nothing is parked */
        struct parking_limit parking_limit;
        struct parking parking;
        struct front front;
        struct http http;
        struct http_group http_group;
        struct model_ops ops;
        struct model model;
        struct model_session session;
        struct session_events *events;
        struct list runs;
        unsigned runs_count;
        int infer_error;                /* what the next inference ends in at once; 0: it begins */
        bool busy;                      /* the model takes no inference for now */
        uint64_t inferred;              /* inferences that have begun */
        struct job errands;             /* what the server does for a worker, in its next turn */
        struct job turn_end;
        unsigned turns;
        bool wants_load;
        bool wants_stop;
        bool offered;
        bool cleared;                   /* there are no suspects any more */
        /* For HTTP: looks at what is passed on. */
        void (*look)(const struct exchange *exchange);
};

/* A service manager that keeps what is parked. */
extern struct parking_keeper world_keeper;

/* Now, for everything: nanoseconds. */
extern uint64_t world_clock;

/* The limits, the keeper and the options of HTTP are set by the caller before. */
void world_init(struct world *world);

/* Ends the fronts, as the daemon does: no client is served any more, and what is parked is left to a successor or dropped. */
void world_end_fronts(struct world *world);

/*
 * A restart: waiting requests are left to the next process, and what is in flight finishes. Returns whether the daemon
 * does that now; then world_replace() is due.
 */
bool world_leave(struct world *world);

/*
 * Whether a client, with this end of the connection with this cookie, may miss answers and see the end when the daemon ends
 * now: it did not read all, which nobody can say again; its connection is not parked, or had more than may be parked; or the
 * model is at work for it.
 */
bool world_may_lose(const struct world *world, int fd, uint64_t cookie);

/* Up to the end of a turn after which all that came is parked. */
void world_park_all(struct world *world);

/* This process ends, or was killed, and the next one takes over what was kept. */
void world_replace(struct world *world, bool killed);

/* The rest. Nothing of it is there any more: checked too. */
void world_deinit(struct world *world);

/* So many turns, none of which waits. */
void world_turn(struct world *world, unsigned turns);

/* Turns until nothing is left to do; this comes, or it spins. */
void world_settle(struct world *world);

/* The load ends, the next generation begins, the daemon stops: each if that can be, now. */
void world_load_ends(struct world *world, bool open);
void world_next_generation(struct world *world);
void world_stop(struct world *world);

/* The i-th of the inferences, or NULL. */
struct run *world_run(struct world *world, unsigned i);

/* What becomes of it. */
void world_part(struct world *world, struct run *run, const char *data, size_t len);
void world_answer(struct world *world, struct run *run);

/* It ends otherwise: ENDING_FAILED at any time, another one only while nothing was delivered. */
void world_end(struct world *world, struct run *run, enum ending how, uint64_t retry_after);

/* Answers all, and what is begun by that too. */
void world_answer_all(struct world *world);

/*
 * What happens to all, whoever its clients are: a turn, the end of a load, the end of an inference, a stop, time that goes by.
 * Returns whether `what` is one of these.
 */
bool world_happen(struct world *world, uint8_t what, struct input *input);

/* Descriptors that are open, of the first that there are room for. */
unsigned world_descriptors(void);
