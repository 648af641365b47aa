#pragma once

/*
 * Looks at what the processes of a model server read, in a thread of its own: files of /proc may hang with the process that they
 * are about, and the daemon does not.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/model/reading.h"

#define LOOK_PROCESSES_MAX 256

struct look {
        struct look_job *job;           /* of the thread, until it was joined; NULL: there is none */
        pthread_t thread;
        struct reading reading;         /* what was seen in this attempt */
        bool stale;                     /* what the thread sees is of an attempt before */
};

/* An attempt begins. */
void look_reset(struct look *look);

/* Waits for what is being looked at, for a second at the most. */
void look_deinit(struct look *look);

/*
 * What the last look saw, if one has ended since this was asked last: of `*size` bytes `*read`, at `*at`, nanoseconds of
 * CLOCK_MONOTONIC. Returns false if none has, or there was no file.
 */
bool look_take(struct look *look, uint64_t *read, uint64_t *size, uint64_t *at);

/* Begins to look at these processes, unless a look is under way. */
void look_begin(struct look *look, const pid_t *pids, unsigned count);
