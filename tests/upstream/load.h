#pragma once

/*
 * How the tests' own model server loads: in silence, or so that somebody can see how far it is.
 */

#include <stdbool.h>
#include <stdint.h>

enum load_way {
        LOAD_SILENT,
        LOAD_STATUS,            /* STATUS= with a percentage */
        LOAD_BAR,               /* a progress bar on standard error, drawn again behind carriage returns */
        LOAD_DOTS,              /* as llama.cpp, a dot for a percent */
        LOAD_READ,              /* its weights are read */
        LOAD_MAP,               /* they are mapped, and touched */
};

struct load {
        uint64_t time;          /* nanoseconds */
        uint64_t warm_up;       /* more, behind it, in silence */
        enum load_way way;
        const char *weights;    /* a file, which is made if it is not there */
        uint64_t until;         /* it stops for good at this percentage, unless that is 0 */
};

/* The name of a way. Returns false: there is none of that name. */
bool load_way(const char *name, enum load_way *way);

/* Loads. Returns when it has. */
void load_run(const struct load *load);
