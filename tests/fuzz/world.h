#pragma once

/*
 * A worker without a thread, and all that it lives in, so that an input decides what happens and when: a clock that stands
 * still, a model that answers when it is told to, gates that the input opens.
 */

#include "common/number.h"
#include "daemon/front/request.h"
#include "daemon/loop/reactor.h"
#include "daemon/status.h"
#include "tests/fuzz/fuzz.h"

/* An inference that the model has. */
struct run {
        struct list link;
        struct inference *inference;
        bool begun;                     /* of an exchange: its head is sent */
        bool paused;
};

#define WORLD_GENERATIONS 8

struct world {
        struct reactor reactor;
        struct gate stop;
        struct status status;
        struct request_limits limits;
        struct generation *generations[WORLD_GENERATIONS];
        unsigned current;
        struct host host;
        struct request_queue queue;
        struct model_ops ops;
        struct model model;
        struct model_session session;
        struct inference_events *events;
        struct list runs;
        unsigned runs_count;
        int infer_error;                /* what the next inference ends in at once; 0: it begins */
        uint64_t inferred;              /* inferences that have begun */
        struct job errands;             /* what the server does for a worker, in its next turn */
        struct job turn_end;
        unsigned turns;
        bool wants_load;
        bool wants_stop;
        bool wants_room;
        /* For HTTP: looks at what is passed on. */
        void (*look)(const struct exchange *exchange);
};

/* Now, for everything: nanoseconds. */
extern uint64_t world_clock;

/* The limits are set by the caller before. */
void world_init(struct world *world);

/* Nothing of it is there any more: checked too. */
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
void world_fail(struct world *world, struct run *run);
void world_lose(struct world *world, struct run *run);

/* Answers all, and what is begun by that too. */
void world_answer_all(struct world *world);

/*
 * What happens to all, whoever its clients are: a turn, the end of a load, the end of an inference, a stop, time that goes by.
 * Returns whether `what` is one of these.
 */
bool world_happen(struct world *world, uint8_t what, struct input *input);

/* Descriptors that are open, of the first that there are room for. */
unsigned world_descriptors(void);
