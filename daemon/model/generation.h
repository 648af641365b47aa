#pragma once

/*
 * One life of a model: loading, then ready or failed. Its gate tells which.
 */

#include "daemon/loop/gate.h"
#include "daemon/loop/list.h"
#include "daemon/model/model.h"

struct generation {
        struct list link;               /* for its owner, the server */
        unsigned number;                /* 1 is the first */
        struct gate gate;
        char model[PROTOCOL_MODEL_MAX];     /* the name; valid once the gate is open */
};

/* Returns 0 or -errno: -ENOMEM, or that of eventfd(2). */
int generation_new(struct generation **generation, unsigned number);

/* NULL is taken, and returned. Nobody watches its gate any more. */
struct generation *generation_free(struct generation *generation);
