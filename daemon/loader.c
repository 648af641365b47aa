#include "daemon/loader.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/number.h"
#include "common/util.h"

/* Half a second, doubled, at most half a minute; less up to a quarter of it, so that many do not retry in step. */
#define BACK_OFF_MIN (500 * NSEC_PER_MSEC)
#define BACK_OFF_MAX (30 * NSEC_PER_SEC)

static uint64_t back_off(unsigned attempt) {
        uint64_t pause = BACK_OFF_MAX;

        if (attempt < 16)
                pause = MIN(BACK_OFF_MIN << (attempt - 1), BACK_OFF_MAX);
        return pause - pause / 4 * (uint64_t)random() / RAND_MAX;
}

static void loader_fail(struct loader *loader, int error, const char *reason) {
        loader_stop(loader);
        loader->failed(loader, error, reason);
}

static void attempt_ready(struct load_events *events, const char *name) {
        struct loader *loader = container_of(events, struct loader, events);

        timer_clear(&loader->deadline);
        timer_clear(&loader->stall);
        loader->loading = false;
        loader->ready(loader, name);
}

static void fail_attempt(struct loader *loader, int error, const char *reason) {
        uint64_t pause;

        timer_clear(&loader->stall);
        model_unload(loader->model);
        if (loader->attempt >= loader->options.attempts) {
                loader_fail(loader, error, reason);
                return;
        }
        pause = back_off(loader->attempt);
        loader->attempt++;
        loader->attempting(loader, loader->attempt, reason, pause);
        reactor_set_timer(loader->reactor, &loader->back_off, timer_now() + pause);
}

static void attempt_failed(struct load_events *events, const char *reason) {
        fail_attempt(container_of(events, struct loader, events), EIO, reason);
}

static void watch_stall(struct loader *loader) {
        if (loader->options.stall_timeout > 0)
                reactor_set_timer(loader->reactor, &loader->stall, timer_now() + loader->options.stall_timeout);
        loader->progressing(loader);
}

static void loader_attempt(struct loader *loader) {
        int r;

        watch_stall(loader);
        r = model_load(loader->model, loader->reactor, loader->generation, &loader->events);
        if (r < 0)
                fail_attempt(loader, -r, strerror(-r));
}

/* Looked at when it would end the load, not in between. */
static void stall_elapsed(struct timer *timer) {
        struct loader *loader = container_of(timer, struct loader, stall);
        char reason[96], limit[NUMBER_DURATION_MAX];

        if (model_progressed(loader->model)) {
                watch_stall(loader);
                return;
        }
        snprintf(reason, sizeof(reason), "The load made no progress for %s",
                 number_format_duration(limit, loader->options.stall_timeout));
        fail_attempt(loader, ETIMEDOUT, reason);
}

static void back_off_elapsed(struct timer *timer) {
        loader_attempt(container_of(timer, struct loader, back_off));
}

static void deadline_elapsed(struct timer *timer) {
        struct loader *loader = container_of(timer, struct loader, deadline);
        char reason[96], limit[NUMBER_DURATION_MAX];

        snprintf(reason, sizeof(reason), "The model was not loaded within %s",
                 number_format_duration(limit, loader->options.timeout));
        loader_fail(loader, ETIMEDOUT, reason);
}

static void model_lost(struct load_events *events, enum loss how, const char *reason) {
        struct loader *loader = container_of(events, struct loader, events);

        loader->lost(loader, how, reason);
}

static void model_alive(struct load_events *events) {
        struct loader *loader = container_of(events, struct loader, events);

        loader->alive(loader);
}

static void model_held(struct load_events *events, const char *processes) {
        struct loader *loader = container_of(events, struct loader, events);

        loader->held(loader, processes);
}

static void model_stopped(struct load_events *events) {
        struct loader *loader = container_of(events, struct loader, events);

        loader->stopped(loader);
}

static void model_said(struct load_events *events, bool error, const char *line, size_t len) {
        struct loader *loader = container_of(events, struct loader, events);

        loader->said(loader, error, line, len);
}

static void model_reported(struct load_events *events, const char *status, uint64_t extend) {
        struct loader *loader = container_of(events, struct loader, events);
        uint64_t due = timer_now() + extend;

        if (!loader->loading)
                return;
        if (timer_is_set(&loader->stall) && due > loader->stall.due)
                reactor_set_timer(loader->reactor, &loader->stall, due);
        loader->reported(loader, status, extend);
}

void loader_init(struct loader *loader, struct reactor *reactor, struct model *model,
                 const struct loader_options *options) {
        *loader = (struct loader){
                .reactor = reactor,
                .model = model,
                .options = *options,
                .events = {
                        .ready = attempt_ready,
                        .failed = attempt_failed,
                        .lost = model_lost,
                        .alive = model_alive,
                        .held = model_held,
                        .stopped = model_stopped,
                        .said = model_said,
                        .reported = model_reported,
                },
        };
        timer_init(&loader->deadline, deadline_elapsed);
        timer_init(&loader->stall, stall_elapsed);
        timer_init(&loader->back_off, back_off_elapsed);
}

void loader_start(struct loader *loader, struct generation *generation) {
        loader->generation = generation;
        loader->loading = true;
        loader->attempt = 1;
        if (loader->options.timeout > 0)
                reactor_set_timer(loader->reactor, &loader->deadline, timer_now() + loader->options.timeout);
        loader->attempting(loader, 1, NULL, 0);
        loader_attempt(loader);
}

void loader_stop(struct loader *loader) {
        if (!loader->loading)
                return;
        loader->loading = false;
        timer_clear(&loader->deadline);
        timer_clear(&loader->stall);
        timer_clear(&loader->back_off);
        model_unload(loader->model);
}
