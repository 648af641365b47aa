#pragma once

/*
 * One life of a model: loading, then ready or failed, then perhaps lost. Its gate is the state of its load.
 */

#include <stdatomic.h>
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
        /* Written before the gate opens, and not again. */
        char model[PROTOCOL_MODEL_MAX];         /* the name */
        struct sockaddr_storage address;        /* where it listens, if it is a server */
        socklen_t address_len;
};

/* Returns 0 or -errno: -ENOMEM, or that of eventfd(2). */
int generation_new(struct generation **generation, unsigned number);

/* NULL is taken, and returned. Nobody watches its gate any more. */
struct generation *generation_free(struct generation *generation);
