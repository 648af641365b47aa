#pragma once

/*
 * One life of a model: perhaps idle, then loading, then ready or failed, then perhaps lost. Its gate is the state of its load.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "daemon/loop/gate.h"
#include "daemon/loop/list.h"
#include "daemon/model/model.h"

struct generation {
        struct list link;               /* for its owner, the server */
        unsigned number;                /* 1 is the first */
        struct gate gate;
        /*
         * How often it was suspected to be lost since it was found alive last. While it is not 0 nothing is sent to it. Raised from any
         * thread; set to 0 by the main thread, if no suspicion came since the probe began.
         */
        atomic_uint suspicions;
        /* Its load waits for a request. Cleared once, by who asks for the load: from any thread. */
        atomic_bool awaits_request;
        /* The main thread finds out whether the model is in use, to stop it otherwise. While it is true nothing is sent to it. */
        atomic_bool resting;
        /*
         * How the one before it was lost, if it was, and why. After a crash the requests that were in flight then go to this one alone, one
         * at a time. Written before the generation is published.
         */
        enum loss loss;
        char loss_reason[GATE_REASON_MAX];
        /* The name of the model before it, empty if there was none. Written before the generation is published. */
        char last_model[PROTOCOL_MODEL_MAX];
        /* Written before the gate opens, and not again. */
        char model[PROTOCOL_MODEL_MAX];         /* the name */
        struct sockaddr_storage address;        /* where it listens, if it is a server */
        socklen_t address_len;
};

/* Idle: not loaded, and the next request loads it. */
static inline bool generation_is_idle(const struct generation *generation) {
        return atomic_load(&generation->awaits_request) && gate_state(&generation->gate) == GATE_PENDING;
}

/* Asks for the load of an idle generation. Returns whether the caller is the first to do so: it tells the main thread. */
static inline bool generation_ask(struct generation *generation) {
        return generation_is_idle(generation) && atomic_exchange(&generation->awaits_request, false);
}

/* Returns 0 or -errno: -ENOMEM, or that of eventfd(2). */
int generation_new(struct generation **generation, unsigned number);

/* NULL is taken, and returned. Nobody watches its gate any more. */
struct generation *generation_free(struct generation *generation);
