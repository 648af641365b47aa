#pragma once

/*
 * Deadlines, in the order in which they are due. A reactor has a handful of them, so a sorted list serves: what
 * comes in thousands (the requests of a worker) is kept by its owner in its own order, with one timer for the first.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/loop/list.h"

struct timer {
        struct list link;
        uint64_t due;           /* nanoseconds of CLOCK_MONOTONIC */
        void (*elapsed)(struct timer *timer);
};

struct timer_list {
        struct list timers;
};

void timer_list_init(struct timer_list *list);

/* Prepares a timer, unset. Setting or clearing it twice does no harm. */
void timer_init(struct timer *timer, void (*elapsed)(struct timer *timer));

/* Sets, or moves, the timer to `due`. It elapses once. */
void timer_set(struct timer_list *list, struct timer *timer, uint64_t due);
void timer_clear(struct timer *timer);

static inline bool timer_is_set(const struct timer *timer) {
        return !list_is_empty(&timer->link);
}

/* When the first is due, or UINT64_MAX. */
uint64_t timer_list_due(const struct timer_list *list);

/* Calls `elapsed` of every timer that is due at `now`; each is unset before it is called. */
void timer_list_elapse(struct timer_list *list, uint64_t now);

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t timer_now(void);
