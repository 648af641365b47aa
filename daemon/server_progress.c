#include <stdlib.h>
#include <unistd.h>

#include "common/bar.h"
#include "common/number.h"
#include "common/util.h"
#include "daemon/log.h"
#include "daemon/server_inner.h"

/* How often a load that is under way is looked at: in its first seconds more often, so that a short one is known too. */
#define MEASURE_INTERVAL NSEC_PER_SEC
#define MEASURE_INTERVAL_MIN (250 * NSEC_PER_MSEC)

/* What is loaded, as far as its time depends on it. */
static uint64_t load_key(const struct options *options) {
        const char *const where[] = { options->upstream, options->model, NULL };
        uint64_t key = history_key(HISTORY_KEY, where);

        return options->command ? history_key(key, (const char *const *)options->command) : key;
}

static void measure_later(struct model_server *server) {
        const uint64_t began = server->progress.began, now = timer_now(), passed = now > began ? now - began : 0;

        reactor_set_timer(&server->reactor, &server->measure,
                          MAX(now, began) + MAX(MEASURE_INTERVAL_MIN, MIN(passed / 4, MEASURE_INTERVAL)));
}

/* On the terminal that msd was started on. */
static void show_bar(struct model_server *server) {
        const double fraction = status_expectation(&server->status).fraction;
        char line[BAR_LINE_MAX];

        if (!server->has_terminal)
                return;
        bar_line(line, fraction, server_status_line(server), bar_columns(STDERR_FILENO), bar_has_colour());
        log_bar(line);
}

static void measure_due(struct timer *timer) {
        struct model_server *server = container_of(timer, struct model_server, measure);

        model_measure(server->model, &server->progress);
        progress_update(&server->progress, timer_now());
        status_expect(&server->status, &server->progress);
        show_bar(server);
        if (server->queue.changed)
                server->queue.changed(&server->queue);
        measure_later(server);
}

void server_progress_init(struct model_server *server) {
        timer_init(&server->measure, measure_due);
        server->has_terminal = bar_is_for(STDERR_FILENO);
        history_init(&server->history, server->options->upstream ? getenv("STATE_DIRECTORY") : NULL);
}

void server_progress_deinit(struct model_server *server) {
        history_deinit(&server->history);
}

void server_progress_begin(struct model_server *server, uint64_t pause) {
        /* The simulated model knows how long it takes. */
        struct progress_earlier earlier = { .total = server->options->load_time };

        if (server->options->upstream)
                earlier = history_find(&server->history, load_key(server->options));
        progress_begin(&server->progress, &earlier, timer_now() + pause);
        status_expect(&server->status, &server->progress);
        /* There is nothing to measure of the simulated model: who reads the status sees its time pass. */
        if (server->options->upstream || server->queue.changed || server->has_terminal)
                measure_later(server);
}

void server_progress_hear(struct model_server *server, double fraction) {
        progress_hear(&server->progress, PROGRESS_SAID, fraction, timer_now());
}

void server_progress_end(struct model_server *server, bool succeeded) {
        struct progress_earlier earlier;

        timer_clear(&server->measure);
        if (server->has_terminal)
                log_bar("");
        if (succeeded && server->options->upstream && server->progress.began > 0) {
                progress_end(&server->progress, timer_now(), &earlier);
                history_add(&server->history, load_key(server->options), &earlier);
        }
        server->progress = (struct progress)PROGRESS_NULL;
        status_expect(&server->status, NULL);
}
