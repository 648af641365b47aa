#pragma once

/*
 * Time, for deadlines and for measuring: nanoseconds of the monotonic clock.
 */

#include <limits.h>
#include <stdint.h>
#include <time.h>

#include "common/number.h"

/* What a test waits for comes at once, or within this on a machine that is busy with something else. */
#define CLOCK_PATIENCE (30 * NSEC_PER_SEC)

static inline uint64_t clock_now(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

static inline uint64_t clock_patience(void) {
        return clock_now() + CLOCK_PATIENCE;
}

/* Milliseconds until `deadline`, as poll() takes them: never shorter than it is. */
static inline int clock_left(uint64_t deadline) {
        uint64_t now = clock_now(), left;

        if (deadline <= now)
                return 0;
        left = (deadline - now + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC;
        return left > INT_MAX ? INT_MAX : (int)left;
}
