#pragma once

/*
 * What the unit tests of lanes share: the lanes of two workers, in one thread, whose time stands still, with a model that does what a
 * test tells it to. The journal has what the model was sent ("+ID"), and what owners heard.
 */

#include <stdbool.h>
#include <stdint.h>

#include "common/number.h"
#include "daemon/queue/lane.h"
#include "tests/support/unit.h"

#define LANES 2
#define GENERATIONS 4

struct fake_session {
        struct model_session session;
        struct session_events *events;
};

extern uint64_t now;
extern struct reactor reactors[LANES];
extern struct gate stop;
extern struct status status;
extern struct request_limits limits;
extern struct generation *generations[GENERATIONS];
extern unsigned current;                /* the index of the current generation */
extern struct queue queue;
extern struct lane lanes[LANES];
extern struct request_owner owners[LANES], other;       /* `other` is in the first lane */
extern unsigned loads, idles, suspects, pendings, writes, needs;       /* how often the events of that name came */
extern struct model_ops model_ops;
extern struct model model;
extern struct fake_session sessions[LANES];
extern struct inference *runs[100000];  /* what the model is running, of all lanes */
extern unsigned run_count;
extern unsigned room;                   /* runs that it takes before it is busy */
extern int infer_error;                 /* what it returns next, once */
extern unsigned cancels, pauses;
extern bool parks;                      /* waiting requests are marked as parked */
extern char journal[1 << 16];
extern bool offers[LANES];              /* a place was given to the lane, which has not claimed it yet */

/* `max_inflight` 0: any number. */
void open_lanes(uint64_t max_inflight);

/* All that there is leaves, and nothing may be left of it. */
void close_lanes(void);

void journal_add(const char *id, size_t id_len, const char *what, const char *data, size_t len);

/* The journal says this, and begins anew. */
void assert_journal(const char *text);

void move_clock(uint64_t nsec);

/* Runs `n` more turns than one of each worker, none of which waits; each hears of its offers. */
void run_turns(unsigned n);
void run_later(uint64_t nsec);

/* A request comes, a moment after the one before: to a lane, or to the first one. */
void come_to(unsigned lane, const char *id);
void come(const char *id);
void come_by_http(const char *id, bool is_light, bool repeats);

void open_gate(void);
void next_generation(void);

/* The probe found the model alive. */
void found_alive(void);

/* The run of a request, and how it ends. */
unsigned run_of(const char *id);
void end_run(unsigned i, enum ending how, const char *text, uint64_t retry_after);
void finish(const char *id);
void lose(const char *id, enum ending how);
