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

/* A model that was ready for so long was a good one. */
#define PROVEN_AFTER (60 * NSEC_PER_SEC)

static uint64_t back_off(unsigned setbacks) {
        uint64_t pause = BACK_OFF_MAX;

        if (setbacks < 16)
                pause = MIN(BACK_OFF_MIN << (setbacks - 1), BACK_OFF_MAX);
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
        loader->ready_at = timer_now();
        loader->ready(loader, name);
}

/* `attempt` is the next one, for what has happened. */
static void pause_attempt(struct loader *loader, int error, const char *reason) {
        uint64_t pause;

        if (loader->attempt > loader->options.attempts) {
                loader->attempt = loader->options.attempts;
                loader_fail(loader, error, reason);
                return;
        }
        pause = back_off(loader->setbacks);
        loader->attempting(loader, loader->attempt, reason, pause);
        reactor_set_timer(loader->reactor, &loader->back_off, timer_now() + pause);
}

static void fail_attempt(struct loader *loader, int error, const char *reason) {
        timer_clear(&loader->stall);
        model_unload(loader->model);
        loader->attempt++;
        loader->setbacks++;
        pause_attempt(loader, error, reason);
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
        char reason[384], limit[NUMBER_DURATION_MAX];

        if (model_progressed(loader->model)) {
                watch_stall(loader);
                return;
        }
        snprintf(reason, sizeof(reason), "%s%sThe load made no progress for %s", loader->probe, loader->probe[0] ? "; " : "",
                 number_format_duration(limit, loader->options.stall_timeout));
        fail_attempt(loader, ETIMEDOUT, reason);
}

static void back_off_elapsed(struct timer *timer) {
        loader_attempt(container_of(timer, struct loader, back_off));
}

static void deadline_elapsed(struct timer *timer) {
        struct loader *loader = container_of(timer, struct loader, deadline);
        char reason[384], limit[NUMBER_DURATION_MAX];

        snprintf(reason, sizeof(reason), "%s%sThe model was not loaded within %s", loader->probe, loader->probe[0] ? "; " : "",
                 number_format_duration(limit, loader->options.timeout));
        loader_fail(loader, ETIMEDOUT, reason);
}

/* Whether a model that was lost too early has itself to blame. */
static bool is_to_blame(enum loss how) {
        return how == LOSS_CRASHED || how == LOSS_OUT_OF_MEMORY || how == LOSS_FROZEN;
}

/* What the next load has to know. A server that msd did not start comes back by itself: there is nothing to try again. */
static void note_loss(struct loader *loader, enum loss how, const char *reason) {
        char time[NUMBER_DURATION_MAX];
        const uint64_t was_ready = timer_now() - loader->ready_at;

        loader->setback[0] = '\0';
        if (how == LOSS_CRASHED && loader->is_excused && loader->is_excused(loader))
                return;
        if (how == LOSS_UNREACHABLE || was_ready >= PROVEN_AFTER) {
                loader->attempt = 1;
                loader->setbacks = 0;
                return;
        }
        loader->attempt += is_to_blame(how);
        loader->setbacks++;
        snprintf(loader->setback, sizeof(loader->setback), "%s (it was ready for %s)", reason,
                 number_format_duration(time, was_ready / NSEC_PER_MSEC * NSEC_PER_MSEC));
}

static void model_lost(struct load_events *events, enum loss how, const char *reason) {
        struct loader *loader = container_of(events, struct loader, events);

        note_loss(loader, how, reason);
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

static void model_probed(struct load_events *events, const char *result) {
        struct loader *loader = container_of(events, struct loader, events);

        snprintf(loader->probe, sizeof(loader->probe), "%s", result);
        loader->probed(loader, result);
}

static void model_warned(struct load_events *events, const char *warning) {
        struct loader *loader = container_of(events, struct loader, events);

        loader->warned(loader, warning);
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
                        .probed = model_probed,
                        .warned = model_warned,
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
        loader->probe[0] = '\0';
        if (!loader->setback[0]) {
                loader->attempt = 1;
                loader->setbacks = 0;
        }
        if (loader->options.timeout > 0)
                reactor_set_timer(loader->reactor, &loader->deadline, timer_now() + loader->options.timeout);
        loader->attempting(loader, MIN(loader->attempt, loader->options.attempts), NULL, 0);
        if (loader->setback[0]) {
                char reason[sizeof(loader->setback)];

                memcpy(reason, loader->setback, sizeof(reason));
                loader->setback[0] = '\0';
                pause_attempt(loader, EIO, reason);
        } else
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
