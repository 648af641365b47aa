#include "daemon/status.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/loop/timer.h"

int status_init(struct status *status, unsigned count, const struct gate *stop) {
        *status = (struct status){ .count = count, .started = timer_now(), .stop = stop };
        status->counters = aligned_alloc(_Alignof(struct status_counters), count * sizeof(*status->counters));
        if (!status->counters)
                return -ENOMEM;
        memset(status->counters, 0, count * sizeof(*status->counters));
        pthread_mutex_init(&status->mutex, NULL);
        return 0;
}

void status_deinit(struct status *status) {
        if (!status->counters)
                return;
        free(STEAL_POINTER(status->counters));
        pthread_mutex_destroy(&status->mutex);
}

void status_loading(struct status *status, unsigned generation) {
        pthread_mutex_lock(&status->mutex);
        status->state = GATE_PENDING;
        status->generation = generation;
        status->attempt = 1;
        status->load_began = timer_now();
        status->load_ended = 0;
        status->model[0] = '\0';
        pthread_mutex_unlock(&status->mutex);
}

void status_attempt(struct status *status, unsigned attempt, const char *error) {
        pthread_mutex_lock(&status->mutex);
        status->attempt = attempt;
        if (error)
                snprintf(status->error, sizeof(status->error), "%s", error);
        pthread_mutex_unlock(&status->mutex);
}

void status_ready(struct status *status, const char *model) {
        pthread_mutex_lock(&status->mutex);
        status->state = GATE_OPEN;
        status->load_ended = timer_now();
        snprintf(status->model, sizeof(status->model), "%s", model);
        pthread_mutex_unlock(&status->mutex);
}

void status_failed(struct status *status, const char *error) {
        pthread_mutex_lock(&status->mutex);
        status->state = GATE_FAILED;
        status->load_ended = timer_now();
        snprintf(status->error, sizeof(status->error), "%s", error);
        pthread_mutex_unlock(&status->mutex);
}

static uint64_t load_time(const struct status *status) {
        if (status->load_began == 0)
                return 0;
        return (status->load_ended != 0 ? status->load_ended : timer_now()) - status->load_began;
}

uint64_t status_load_time(struct status *status) {
        uint64_t time;

        pthread_mutex_lock(&status->mutex);
        time = load_time(status);
        pthread_mutex_unlock(&status->mutex);
        return time;
}

static uint64_t counter_get(const atomic_uint_fast64_t *counter) {
        return atomic_load_explicit(counter, memory_order_relaxed);
}

void status_sum(struct status *status, struct status_sums *sums) {
        *sums = (struct status_sums){ 0 };
        for (unsigned i = 0; i < status->count; i++) {
                const struct status_counters *counters = &status->counters[i];
                uint64_t oldest = counter_get(&counters->oldest);

                sums->waiting += counter_get(&counters->waiting);
                if (oldest != 0 && (sums->oldest == 0 || oldest < sums->oldest))
                        sums->oldest = oldest;
                sums->processing += counter_get(&counters->processing);
                sums->completed += counter_get(&counters->completed);
                sums->failed += counter_get(&counters->failed);
                sums->cancelled += counter_get(&counters->cancelled);
                sums->connections += counter_get(&counters->connections);
        }
}

/* Seconds, to the millisecond. */
static json_t *json_seconds(uint64_t nsec) {
        return json_real((double)(nsec / NSEC_PER_MSEC) / 1000);
}

/* Text that a model's own words may have got into: what is no UTF-8 in it becomes '?'. */
static json_t *json_text(const char *text) {
        json_t *json = json_string(text);

        if (!json) {
                char copy[GATE_REASON_MAX];

                snprintf(copy, sizeof(copy), "%s", text);
                for (char *p = copy; *p != '\0'; p++)
                        if ((unsigned char)*p >= 0x80)
                                *p = '?';
                json = json_string(copy);
        }
        return json;
}

char *status_format(struct status *status) {
        static const char *const names[] = {
                [GATE_PENDING] = "loading",
                [GATE_OPEN] = "ready",
                [GATE_FAILED] = "failed",
        };
        uint64_t now = timer_now();
        struct status_sums sums;
        json_t *json, *model, *error;
        char *text;

        status_sum(status, &sums);
        pthread_mutex_lock(&status->mutex);
        model = status->state == GATE_OPEN ? json_text(status->model) : json_null();
        error = status->error[0] != '\0' ? json_text(status->error) : json_null();
        json = json_pack(
                "{ss so sI sI so sI so sI sI sI sI sI so so ss sI}",
                "status", gate_state(status->stop) != GATE_PENDING ? "stopping" : names[status->state],
                "model", model,
                "generation", (json_int_t)status->generation,
                "attempt", (json_int_t)status->attempt,
                "load_s", json_seconds(load_time(status)),
                "waiting", (json_int_t)sums.waiting,
                "oldest_wait_s", json_seconds(sums.oldest != 0 && now > sums.oldest ? now - sums.oldest : 0),
                "processing", (json_int_t)sums.processing,
                "completed", (json_int_t)sums.completed,
                "failed", (json_int_t)sums.failed,
                "cancelled", (json_int_t)sums.cancelled,
                "connections", (json_int_t)sums.connections,
                "uptime_s", json_seconds(now - status->started),
                "error", error,
                "version", MSD_VERSION,
                "pid", (json_int_t)getpid());
        pthread_mutex_unlock(&status->mutex);
        /* 15 digits: the last that a double holds, so that 1.204 is not 1.2039999. */
        text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
        json_decref(json);
        return text;
}
