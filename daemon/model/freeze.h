#pragma once

/*
 * Whether a model is frozen: it has requests, and shows no sign of life. Pure: samples in, a verdict out.
 *
 * It shows one when a byte of an answer or a line of output comes, when its processes use the processor, read from a disk, or
 * read and write more than answering health probes takes, and when one of them ends or begins.
 */

#include <stdbool.h>
#include <stdint.h>

struct freeze_sample {
        uint64_t now;                   /* nanoseconds of CLOCK_MONOTONIC */
        bool works;                     /* it has requests, whose answers would be read */
        uint64_t heard;                 /* bytes of answers so far */
        uint64_t said;                  /* lines of output so far */
        uint64_t processor;             /* nanoseconds that its processes have used */
        uint64_t disk;                  /* bytes that they have read from disks */
        uint64_t io;                    /* bytes that they have read and written, from and to whatever it is */
        unsigned processes;
};

/* All zero: nothing was sampled yet. */
struct freeze {
        struct freeze_sample alive;     /* the sample that showed life last */
};

/* How often to sample. */
uint64_t freeze_interval(uint64_t timeout);

/* Whether there was one from `before` to `now`, for what is used in `time` nanoseconds. */
bool freeze_shows_life(const struct freeze_sample *before, uint64_t time, const struct freeze_sample *now);

/* Whether there was no sign of life for `timeout` nanoseconds when `sample` was taken. Time does not go back. */
bool freeze_judge(struct freeze *freeze, uint64_t timeout, const struct freeze_sample *sample);
