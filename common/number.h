#pragma once

/*
 * Strict numbers and durations. Pure: no I/O, no allocation, no locale.
 */

#include <stddef.h>
#include <stdint.h>

#define NSEC_PER_USEC UINT64_C(1000)
#define NSEC_PER_MSEC UINT64_C(1000000)
#define NSEC_PER_SEC UINT64_C(1000000000)

enum {
        NUMBER_MALFORMED = 1,   /* not a number, or a unit that nobody knows */
        NUMBER_TOO_LARGE,       /* a number, and more than fits */
};

/*
 * Reads the `len` bytes at `text` as one decimal number: digits only, no sign, no space.
 * Returns 0, NUMBER_MALFORMED, or NUMBER_TOO_LARGE if it is over `max`. `*number` is set on 0 alone.
 */
int number_parse(const char *text, size_t len, uint64_t max, uint64_t *number);

/*
 * Reads a duration as systemd.time(7) writes them: seconds (`2`, `0.1`), or numbers with the units
 * us, ms, s, min (or m), h and d, added up (`100ms`, `1min 30s`). `*nsec` is in nanoseconds.
 * Returns 0, NUMBER_MALFORMED, or NUMBER_TOO_LARGE if it is over ten years. `*nsec` is set on 0 alone.
 */
int number_parse_duration(const char *text, uint64_t *nsec);

/*
 * Writes `nsec` for people to read, in the same notation, into `buffer`: `0s`, `1.5ms`, `2.1s`, `1min 30s`.
 * Returns `buffer`.
 */
#define NUMBER_DURATION_MAX 48
const char *number_format_duration(char buffer[static NUMBER_DURATION_MAX], uint64_t nsec);
