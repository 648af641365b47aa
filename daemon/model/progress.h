#pragma once

/*
 * How far a load is, and when it will end: from what the server says of it, from the bytes that it has read, or from how
 * long earlier loads took. Pure: time is an argument, in nanoseconds of CLOCK_MONOTONIC.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The durations of earlier loads that succeeded. `total` is 0 where none is known. */
struct progress_earlier {
        uint64_t total;
        uint64_t head;          /* until its source said something first, as a Python server imports its modules */
        uint64_t tail;          /* from when its source said last that it goes on, as a server warms up */
};

/* Where a fraction comes from; a later one counts more. */
enum progress_source {
        PROGRESS_DOTS,          /* llama.cpp: a dot a percent, or fewer of them */
        PROGRESS_READ,          /* bytes read, of the files that are open */
        PROGRESS_SAID,          /* a percentage that the server said */
        PROGRESS_SOURCES,
};

#define PROGRESS_POINTS_MAX 32

/* What one source said in the course of an attempt. */
struct progress_track {
        struct progress_point {
                uint64_t at;
                double fraction;
        } points[PROGRESS_POINTS_MAX];          /* rising; thinned out when they are full */
        unsigned count;
        unsigned changes;                       /* of the fraction, in all */
        uint64_t changed;                       /* when it changed last */
        double fraction;
};

struct progress {
        struct progress_earlier earlier;
        struct progress_track tracks[PROGRESS_SOURCES];
        uint64_t began;                         /* the attempt; 0: there is none */
        uint64_t updated;
        uint64_t due;                           /* when the load is expected to end; 0: nobody knows */
        double fraction;                        /* 0 to 1; negative: nobody knows */
};

#define PROGRESS_UNKNOWN (-1.0)
/* Nothing but the end says that a load has ended. */
#define PROGRESS_FRACTION_MAX 0.99
#define PROGRESS_NULL { .fraction = PROGRESS_UNKNOWN }

/* An attempt begins at `at`, which may be in the future: a back-off ends then. `earlier` is copied. */
void progress_begin(struct progress *progress, const struct progress_earlier *earlier, uint64_t at);

/* A source says how far the load is. A fraction that is lower than its last one begins anew, as a second file may. */
void progress_hear(struct progress *progress, enum progress_source source, double fraction, uint64_t now);

/* Brings `due` and `fraction` up to date: about once a second. `fraction` never falls within an attempt. */
void progress_update(struct progress *progress, uint64_t now);

/* The load has succeeded: what the next one can be told from. */
void progress_end(const struct progress *progress, uint64_t now, struct progress_earlier *earlier);

/*
 * The fraction that a line of a server's output says, or PROGRESS_UNKNOWN. Of a line that was drawn again and again, behind
 * carriage returns, the last one counts. Percentages of anything but a load, such as of memory, are none.
 */
double progress_parse_line(const char *text, size_t len);

/* The same for STATUS= of sd_notify(3), in which every percentage counts. */
double progress_parse_status(const char *text);

/* The fraction that a line of dots without an end says, or PROGRESS_UNKNOWN. */
double progress_parse_dots(const char *text, size_t len);
