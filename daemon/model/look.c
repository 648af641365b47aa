#include "daemon/model/look.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/util.h"
#include "daemon/loop/timer.h"

#define STOP_SECONDS 1

struct look_job {
        struct reading reading;
        bool found;
        uint64_t read, size, at;
        unsigned count;
        pid_t pids[LOOK_PROCESSES_MAX];
};

void look_reset(struct look *look) {
        reading_init(&look->reading);
        look->stale = look->job != NULL;
}

static void *look_run(void *argument) {
        struct look_job *job = argument;

        reading_begin(&job->reading);
        for (unsigned i = 0; i < job->count; i++)
                reading_add(&job->reading, job->pids[i]);
        job->found = reading_end(&job->reading, &job->read, &job->size);
        job->at = timer_now();
        return NULL;
}

bool look_take(struct look *look, uint64_t *read, uint64_t *size, uint64_t *at) {
        _cleanup_free_ struct look_job *job = NULL;

        if (!look->job || pthread_tryjoin_np(look->thread, NULL) != 0)
                return false;
        job = STEAL_POINTER(look->job);
        if (look->stale) {
                look->stale = false;
                return false;
        }
        look->reading = job->reading;
        *read = job->read;
        *size = job->size;
        *at = job->at;
        return job->found;
}

void look_begin(struct look *look, const pid_t *pids, unsigned count) {
        if (look->job)
                return;
        look->job = malloc(sizeof(*look->job));
        if (!look->job)
                return;
        count = MIN(count, (unsigned)LOOK_PROCESSES_MAX);
        *look->job = (struct look_job){ .reading = look->reading, .count = count };
        memcpy(look->job->pids, pids, count * sizeof(*pids));
        if (pthread_create(&look->thread, NULL, look_run, look->job) != 0)
                free(STEAL_POINTER(look->job));
}

void look_deinit(struct look *look) {
        struct timespec deadline;

        if (!look->job)
                return;
        clock_gettime(CLOCK_REALTIME, &deadline);
        deadline.tv_sec += STOP_SECONDS;
        /* A thread that hangs in the kernel, and what it was given, are left to the end of the process. */
        if (pthread_timedjoin_np(look->thread, NULL, &deadline) == 0)
                free(look->job);
        else
                pthread_detach(look->thread);
        look->job = NULL;
}
