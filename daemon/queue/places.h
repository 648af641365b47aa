#pragma once

/*
 * The places of a model: so many requests may be with it at once, whichever worker's they are, and they go in order of arrival.
 *
 * Each lane that has waiting requests says when its oldest one arrived. A place that becomes free is given to the lane with the
 * oldest request of all: it stays taken meanwhile, so that no newer request gets it. A lane that cannot use a place that it was
 * given gives it to the next. So no place is free while a lane waits, and none is lost. No lock; two shared words.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* What a lane shares with the others. Its owner embeds it. */
struct places_lane {
        _Alignas(64) atomic_uint_fast64_t oldest;       /* when its oldest waiting request arrived; 0: it does not wait */
        atomic_uint given;                              /* places that were given to it, and it has not claimed yet */
        bool waits;                                     /* for its own thread */
        /* It was given a place: has its thread claim it. From any thread. */
        void (*offered)(struct places_lane *lane);
};

struct places {
        uint64_t max;                   /* 0: any number, and nothing is counted */
        atomic_uint_fast64_t state;     /* low half: places that are taken; high half: lanes that wait */
        struct places_lane **lanes;     /* of all workers, borrowed; set before the first of them runs */
        unsigned count;
};

/* The functions below, where there is a limit. */
bool places_take_counted(struct places *places);
void places_wait_counted(struct places *places, struct places_lane *lane, uint64_t oldest);
bool places_claim_counted(struct places *places, struct places_lane *lane);
bool places_give_back_counted(struct places *places, struct places_lane *own);

/* Takes a place for a request that has just arrived: if there is one, and no lane waits. */
static inline bool places_take(struct places *places) {
        return places->max == 0 || places_take_counted(places);
}

/* The lane waits, and its oldest request arrived at `oldest`, which is not 0. places_claim() is due. */
static inline void places_wait(struct places *places, struct places_lane *lane, uint64_t oldest) {
        if (places->max > 0)
                places_wait_counted(places, lane, oldest);
}

/* The lane does not wait any more. Harmless twice. What it was given it still gets, and gives back. */
void places_leave(struct places *places, struct places_lane *lane);

/*
 * Takes a place for the oldest request of a lane that waits. Returns false when there is none for it: then `offered` comes
 * once there is.
 */
static inline bool places_claim(struct places *places, struct places_lane *lane) {
        return places->max == 0 || places_claim_counted(places, lane);
}

/* The lane does not wait, and may have been given places: the next lane gets them. */
void places_pass_on(struct places *places, struct places_lane *lane);

/*
 * Gives a place back that was taken or claimed: to the lane that waits with the oldest request. Returns whether that is `own`, the
 * caller's: then it is given without `offered`, and places_claim() is due. `own` may be NULL.
 */
static inline bool places_give_back(struct places *places, struct places_lane *own) {
        return places->max > 0 && places_give_back_counted(places, own);
}

/* How many are taken. */
uint64_t places_taken(const struct places *places);
