#pragma once

/*
 * Objects of one size, in the order in which they were asked for: side by side in pages that are given back to the
 * system when nothing in them is used any more. For one thread. What comes and goes by the million costs a few
 * nanoseconds and no header of its own.
 */

#include <stddef.h>

#include "daemon/loop/list.h"

struct pool {
        size_t size;            /* of an object: a multiple of 8, at least 8 */
        struct list pages;      /* those that have room */
        size_t full;            /* the number of those that have none */
};

void pool_init(struct pool *pool, size_t size);

/* Everything was put back. Harmless for memory that is all zero. */
void pool_deinit(struct pool *pool);

/* Returns an object, not initialised, or NULL: out of memory. */
void *pool_take(struct pool *pool);

/* Puts an object back into the pool that it was taken from. */
void pool_put(struct pool *pool, void *object);
