#pragma once

/*
 * Deadlines: points on the monotonic clock, in nanoseconds. 0 is none.
 */

#include <stdint.h>
#include <time.h>

#include "common/number.h"

static inline uint64_t deadline_now(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

static inline uint64_t deadline_earlier(uint64_t a, uint64_t b) {
        return a == 0 || (b != 0 && b < a) ? b : a;
}

/*
 * The time left until `deadline`, as ppoll(2) takes it: nothing once it has passed, and NULL, which is for
 * ever, if there is none. Returns `left` or NULL.
 */
static inline const struct timespec *deadline_left(uint64_t deadline, struct timespec *left) {
        uint64_t now, n;

        if (deadline == 0)
                return NULL;
        now = deadline_now();
        n = deadline > now ? deadline - now : 0;
        *left = (struct timespec){
                .tv_sec = (time_t)(n / NSEC_PER_SEC),
                .tv_nsec = (long)(n % NSEC_PER_SEC),
        };
        return left;
}
