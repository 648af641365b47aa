#pragma once

/*
 * One line on a terminal for who waits: for how long, for what, how far that is, and behind how many others. It is drawn
 * anew every second, and erased before anything else is said.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/status.h"

struct progress {
        uint64_t since;         /* on the clock of deadlines */
        bool shown;
        bool wanted;            /* STATUS is to be sent */
        bool asked;             /* STATUS is sent, and not answered */
        bool known;             /* `status` and `others` hold what it answered last */
        struct status status;
        uint64_t others;
};

/* A wait begins. Returns when progress_tick() is to be called first. */
uint64_t progress_begin(struct progress *progress, uint64_t now);

/* Keeps the line up to date, and wants STATUS to be sent unless it is. Returns when to be called again. */
uint64_t progress_tick(struct progress *progress, uint64_t now);

/* STATUS is on its way. */
void progress_asked(struct progress *progress);

/*
 * It was answered with these bytes, while `own` of the requests it counts were this program's; NULL: with an
 * error.
 */
void progress_answered(struct progress *progress, const char *body, size_t len, uint64_t own, uint64_t now);

/* Erases the line if it is there. */
void progress_hide(struct progress *progress);
