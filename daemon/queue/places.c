#include "daemon/queue/places.h"

#include <stddef.h>

#define LANE_WAITS (UINT64_C(1) << 32)

static uint64_t taken(uint64_t state) {
        return state & (LANE_WAITS - 1);
}

static uint64_t lanes_waiting(uint64_t state) {
        return state / LANE_WAITS;
}

uint64_t places_taken(const struct places *places) {
        return taken(atomic_load(&places->state));
}

bool places_take_counted(struct places *places) {
        uint64_t state = atomic_load(&places->state);

        do {
                if (lanes_waiting(state) > 0 || taken(state) >= places->max)
                        return false;
        } while (!atomic_compare_exchange_weak(&places->state, &state, state + 1));
        return true;
}

/* The lane with the oldest request of all, which arrived at `*oldest`; NULL: none waits, or the one that did has just left. */
static struct places_lane *find_oldest(struct places *places, uint64_t *oldest) {
        struct places_lane *first = NULL;

        *oldest = UINT64_MAX;
        for (unsigned i = 0; i < places->count; i++) {
                uint64_t arrived = atomic_load(&places->lanes[i]->oldest);

                if (arrived > 0 && arrived < *oldest) {
                        *oldest = arrived;
                        first = places->lanes[i];
                }
        }
        return first;
}

static void give(struct places_lane *lane) {
        atomic_fetch_add(&lane->given, 1);
        lane->offered(lane);
}

void places_wait_counted(struct places *places, struct places_lane *lane, uint64_t oldest) {
        /* In this order: a lane that is counted has said how old its request is. */
        atomic_store(&lane->oldest, oldest);
        if (!lane->waits)
                atomic_fetch_add(&places->state, LANE_WAITS);
        lane->waits = true;
}

void places_leave(struct places *places, struct places_lane *lane) {
        if (!lane->waits)
                return;
        lane->waits = false;
        atomic_fetch_sub(&places->state, LANE_WAITS);
        atomic_store(&lane->oldest, 0);
}

/* Takes one that was given to the lane. */
static bool take_given(struct places_lane *lane) {
        unsigned given = atomic_load(&lane->given);

        while (given > 0)
                if (atomic_compare_exchange_weak(&lane->given, &given, given - 1))
                        return true;
        return false;
}

/* Takes one that is free. */
static bool take_free(struct places *places) {
        uint64_t state = atomic_load(&places->state);

        while (taken(state) < places->max)
                if (atomic_compare_exchange_weak(&places->state, &state, state + 1))
                        return true;
        return false;
}

bool places_claim_counted(struct places *places, struct places_lane *lane) {
        while (take_given(lane) || take_free(places)) {
                uint64_t oldest;
                struct places_lane *first = find_oldest(places, &oldest);

                /* As it was found: if that request has left since, there may be another that is older than the lane's own. */
                if (!first || oldest >= atomic_load(&lane->oldest))
                        return true;
                give(first);
        }
        return false;
}

bool places_give_back_counted(struct places *places, struct places_lane *own) {
        uint64_t state = atomic_load(&places->state), oldest;

        for (;;) {
                struct places_lane *first;

                if (lanes_waiting(state) == 0) {
                        if (atomic_compare_exchange_weak(&places->state, &state, state - 1))
                                return false;
                        continue;
                }
                first = find_oldest(places, &oldest);
                if (first && first == own) {
                        atomic_fetch_add(&own->given, 1);
                        return true;
                }
                if (first) {
                        give(first);
                        return false;
                }
                /* It has left meanwhile. */
                state = atomic_load(&places->state);
        }
}

void places_pass_on(struct places *places, struct places_lane *lane) {
        while (take_given(lane))
                (void)places_give_back(places, NULL);
}
