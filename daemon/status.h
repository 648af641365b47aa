#pragma once

/*
 * Counters, and the status object that is made of them. Each worker writes counters of its own, relaxed; anybody
 * reads them. What the main thread knows of the load is under a lock, which no request takes.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/loop/gate.h"
#include "daemon/model/model.h"

/* How long something took: how often, up to each of HISTOGRAM_BOUNDS, and beyond. */
#define HISTOGRAM_BOUNDS 11
extern const uint64_t histogram_bounds[HISTOGRAM_BOUNDS];      /* nanoseconds */
struct histogram {
        atomic_uint_fast64_t counts[HISTOGRAM_BOUNDS + 1];
        atomic_uint_fast64_t sum;       /* nanoseconds */
};

/* Answers of the model to clients of HTTP are counted by their status. */
#define HTTP_STATUS_MIN 100
#define HTTP_STATUS_COUNT 900
struct http_counters {
        atomic_uint_fast64_t responses[HTTP_STATUS_COUNT];
        atomic_uint_fast64_t bytes_in;
        atomic_uint_fast64_t bytes_out;
        struct histogram first_bytes;           /* from when a request was with the model until the head of its answer */
};

struct status_counters {
        _Alignas(64) atomic_uint_fast64_t waiting;
        atomic_uint_fast64_t oldest;            /* when the first of those waiting came, or 0 */
        atomic_uint_fast64_t processing;
        atomic_uint_fast64_t accepted;          /* where a request begins, the next three where it ends */
        atomic_uint_fast64_t completed;
        atomic_uint_fast64_t failed;
        atomic_uint_fast64_t cancelled;
        atomic_uint_fast64_t connections;
        atomic_uint_fast64_t retries;           /* requests that were sent to a model again */
        atomic_uint_fast64_t suspects;          /* requests that were in flight when the model crashed, and go alone */
        atomic_uint_fast64_t demands;           /* of those waiting and in flight: those that keep the model loaded */
        atomic_uint_fast64_t used;              /* when one of those came or ended last, in nanoseconds; 0: never */
        atomic_uint_fast64_t heard;             /* when a client connected or sent anything last, likewise */
        struct histogram waits;                 /* of requests, until they were with the model */
        struct http_counters http;
};

/* For the one thread that writes a counter: no lock prefix, for nobody else does. */
static inline void counter_add(atomic_uint_fast64_t *counter, int64_t n) {
        atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + (uint64_t)n,
                              memory_order_relaxed);
}

static inline void counter_set(atomic_uint_fast64_t *counter, uint64_t n) {
        atomic_store_explicit(counter, n, memory_order_relaxed);
}

static inline void histogram_add(struct histogram *histogram, uint64_t nsec) {
        unsigned i = 0;

        while (i < HISTOGRAM_BOUNDS && nsec > histogram_bounds[i])
                i++;
        counter_add(&histogram->counts[i], 1);
        counter_add(&histogram->sum, (int64_t)nsec);
}

/* How far the load is: what of struct progress everybody may want. The main thread writes it, relaxed. */
struct status_outlook {
        atomic_uint_fast64_t began;             /* the attempt; in the future during a back-off */
        atomic_uint_fast64_t due;               /* when the load is expected to end; 0: nobody knows */
        atomic_int permille;                    /* as a source said; negative: none did */
};

struct status {
        struct status_counters *counters;       /* one a worker */
        unsigned count;
        uint64_t started;                       /* when the daemon began, nanoseconds of CLOCK_MONOTONIC */
        const struct gate *stop;                /* borrowed */
        struct status_outlook outlook;

        pthread_mutex_t mutex;
        enum gate_state state;                  /* under `mutex`, from here on */
        unsigned generation;
        unsigned attempt;
        uint64_t load_began;                    /* 0: it is idle */
        uint64_t load_ended;                    /* 0 while it has not */
        struct histogram loads;                 /* however they ended */
        char model[PROTOCOL_MODEL_MAX];
        char error[GATE_REASON_MAX];            /* the last one; empty: none yet */
        char last_words[MODEL_LAST_WORDS_MAX];  /* of the model that had it, each line with an LF */
        char probe[256];                        /* what the last probe saw; empty: none yet */
};

/* Counters for `count` workers; `stop` is borrowed. Returns 0 or -ENOMEM. */
int status_init(struct status *status, unsigned count, const struct gate *stop);
void status_deinit(struct status *status);

/* A generation has come that loads when a request needs it: it is idle. */
void status_idle(struct status *status, unsigned generation);

/* A generation begins to load. */
void status_loading(struct status *status, unsigned generation);

/* Its next attempt, counted from 1; `error` is why the last one failed, or NULL. */
void status_attempt(struct status *status, unsigned attempt, const char *error);
void status_ready(struct status *status, const char *model);
void status_failed(struct status *status, const char *error);

/* What model_last_words() says, with the error that is the last one now. */
void status_last_words(struct status *status, const char *words);

/* How far the load is, from now on. NULL: nobody knows, as when a load begins or ends. */
struct progress;
void status_expect(struct status *status, const struct progress *progress);

/* The same for who reads it: the fraction, 0 to 1, and the nanoseconds that are left; negative: nobody knows. */
struct status_expectation {
        double fraction;
        int64_t left;
};
struct status_expectation status_expectation(const struct status *status);

/* Seconds after which a request may find the model loaded: 1 to 120, for some a little more than for others. */
unsigned status_retry_after(const struct status *status);

/* What the last probe of this generation saw. status_get_probe() copies it; empty: nothing yet. */
void status_probe(struct status *status, const char *result);
void status_get_probe(struct status *status, char *result, size_t size);

/* The state in a word, and the last error, empty: none yet, copied. */
enum status_state {
        STATUS_STATE_LOADING,
        STATUS_STATE_READY,
        STATUS_STATE_FAILED,
        STATUS_STATE_IDLE,
        STATUS_STATE_STOPPING,
};
enum status_state status_state(struct status *status);
void status_get_error(struct status *status, char *error, size_t size);

/* How long the load has taken, so far or in all, in nanoseconds. */
uint64_t status_load_time(struct status *status);

/* The sums over all workers. */
struct status_sums {
        uint64_t waiting;
        uint64_t oldest;
        uint64_t processing;
        uint64_t accepted;
        uint64_t completed;
        uint64_t failed;
        uint64_t cancelled;
        uint64_t connections;
        uint64_t suspects;
        uint64_t demands;
        uint64_t used;
        uint64_t heard;
};
void status_sum(struct status *status, struct status_sums *sums);

/* The status object of msd-protocol(7), as JSON on one line: for the caller to free(). NULL: out of memory. */
char *status_format(struct status *status);

/* The same and more in the text format of Prometheus, likewise. */
char *status_format_metrics(struct status *status);

/* Text that may have come from anywhere as a string of JSON: what is no UTF-8 in it becomes '?'. NULL: out of memory. */
struct json_t *status_text(const char *text);
