#pragma once

/*
 * The simulated model: loading and inference take the time that they are told to, and use none of the processor's.
 */

#include "daemon/model/model.h"

struct sim_options {
        const char *name;               /* borrowed, as is `failure` */
        uint64_t load_time;             /* nanoseconds */
        uint64_t inference_time;        /* nanoseconds */
        const char *failure;            /* loading ends in this failure; NULL: it succeeds */
};

/* Returns 0 or -ENOMEM. */
int sim_new(struct model **model, const struct sim_options *options);
