#pragma once

/*
 * Chance that can be had again: what a seed begins goes the same way every time.
 */

#include <stdbool.h>
#include <stdint.h>

struct chance {
        uint64_t state;
};

/* SplitMix64, by Sebastiano Vigna: any seed will do. */
static inline uint64_t chance_next(struct chance *chance) {
        uint64_t z = chance->state += UINT64_C(0x9e3779b97f4a7c15);

        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        return z ^ (z >> 31);
}

/* From `low` to `high`, both among them. */
static inline uint64_t chance_between(struct chance *chance, uint64_t low, uint64_t high) {
        return low + chance_next(chance) % (high - low + 1);
}

static inline bool chance_is(struct chance *chance, unsigned percent) {
        return chance_next(chance) % 100 < percent;
}
