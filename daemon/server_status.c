#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/bar.h"
#include "common/number.h"
#include "common/util.h"
#include "daemon/notify.h"
#include "daemon/server_inner.h"

/* The status line is sent so often at the most. */
#define FOLLOW_INTERVAL (500 * NSEC_PER_MSEC)

#define SITUATION_MAX (sizeof(((struct model_server *)NULL)->situation) + sizeof(", ") + BAR_WORDS_MAX)

const char *server_model_name(struct model_server *server) {
        const struct options *options = server->options;
        const char *last = server_generation(server)->last_model;

        if (last[0])
                return last;
        return options->command ? options->command[0] : options->upstream;
}

/* How far the load is, behind what is said of it, once it was looked at. */
static void add_progress(struct model_server *server, char situation[static SITUATION_MAX]) {
        const struct status_expectation expectation = status_expectation(&server->status);
        /* A server that says something itself says how far it is. */
        const double fraction = server->situation_is_plain ? expectation.fraction : PROGRESS_UNKNOWN;
        char words[BAR_WORDS_MAX];

        if (server->progress.updated == 0 || bar_words(words, fraction, expectation.left) == 0)
                snprintf(situation, SITUATION_MAX, "%s", server->situation);
        else if (server->situation_is_plain)
                snprintf(situation, SITUATION_MAX, "Loading %s, %s", server_model_name(server), words);
        else
                snprintf(situation, SITUATION_MAX, "%s, %s", server->situation, words);
}

const char *server_status_line(struct model_server *server) {
        const struct generation *generation = server_generation(server);
        char situation[SITUATION_MAX];
        struct status_sums sums;

        status_sum(&server->status, &sums);
        if (server->stopping && sums.processing > 0)
                snprintf(server->line, sizeof(server->line), "%s, %" PRIu64 " in flight", server->situation, sums.processing);
        else if (!server->stopping && gate_state(&generation->gate) == GATE_PENDING && !generation_is_idle(generation)) {
                add_progress(server, situation);
                snprintf(server->line, sizeof(server->line), "%s, %" PRIu64 " waiting", situation, sums.waiting);
        } else
                snprintf(server->line, sizeof(server->line), "%s", server->situation);
        return server->line;
}

void server_set_situation(struct model_server *server, const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(server->situation, sizeof(server->situation), format, arguments);
        va_end(arguments);
        server->situation_is_plain = false;
        server->followed = timer_now();
}

void server_follow_later(struct model_server *server) {
        if (!timer_is_set(&server->follow))
                reactor_set_timer(&server->reactor, &server->follow, MAX(timer_now(), server->followed + FOLLOW_INTERVAL));
}

void server_follow_due(struct timer *timer) {
        struct model_server *server = container_of(timer, struct model_server, follow);
        char before[sizeof(server->line)];

        /* First: what changes from here on is told anew. */
        atomic_store(&server->changed, false);
        memcpy(before, server->line, sizeof(before));
        if (strcmp(server_status_line(server), before) == 0)
                return;
        server->followed = timer_now();
        notify_status(server->line);
}

/* One message until the main thread has looked. */
void server_queue_changed(struct queue *queue) {
        struct model_server *server = server_of(queue);

        if (!atomic_load_explicit(&server->changed, memory_order_relaxed) && !atomic_exchange(&server->changed, true))
                mailbox_post(&server->mailbox, MESSAGE_CHANGED);
}
