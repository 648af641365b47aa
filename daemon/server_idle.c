#include <malloc.h>
#include <string.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/server_inner.h"

/* Whether the model server is somebody else's: there is nothing to stop. */
static bool is_foreign(const struct options *options) {
        return options->upstream && !options->command;
}

/* --- The model. */

void server_idle_begin(struct model_server *server) {
        server_set_situation(server, "Idle: the next request loads %s", server_model_name(server));
        if (server->options->exit_idle_time > 0)
                reactor_set_timer(&server->reactor, &server->exit, timer_now() + server->options->exit_idle_time);
}

void server_idle_ready(struct model_server *server) {
        const struct options *options = server->options;

        if (options->idle_timeout > 0)
                reactor_set_timer(&server->reactor, &server->rest, timer_now() + options->idle_timeout);
        if (options->exit_idle_time > 0 && is_foreign(options))
                reactor_set_timer(&server->reactor, &server->exit, timer_now() + options->exit_idle_time);
}

static bool model_is_ready(struct model_server *server) {
        return !server->stopping && gate_state(&server_generation(server)->gate) == GATE_OPEN;
}

/* When the model has been without a request for long enough, as far as is known now. */
static uint64_t rest_due_at(struct model_server *server) {
        const uint64_t now = timer_now();
        struct status_sums sums;

        status_sum(&server->status, &sums);
        return (sums.demands > 0 ? now : sums.used) + server->options->idle_timeout;
}

static void watch_rest(struct model_server *server, uint64_t due) {
        reactor_set_timer(&server->reactor, &server->rest, due);
}

/*
 * A worker may be about to send a request to the model: nobody does so from here on, and when each of them has had a turn, what
 * they count tells whether the model is in use. A request that comes meanwhile waits, and is not refused.
 */
void server_rest_due(struct timer *timer) {
        struct model_server *server = container_of(timer, struct model_server, rest);
        uint64_t due = rest_due_at(server);

        if (!model_is_ready(server))
                return;
        if (due > timer_now()) {
                watch_rest(server, due);
                return;
        }
        atomic_store(&server_generation(server)->resting, true);
        server_ask_turn(server, TURN_REST);
}

static void stop_model(struct model_server *server) {
        char text[NUMBER_DURATION_MAX];
        int r;

        /* First: whoever finds this generation sends nothing to the process that is stopped. */
        r = server_begin_generation(server, true);
        if (r < 0) {
                log_warning("Cannot stop the idle model, trying again later: %s", strerror(-r));
                atomic_store(&server_generation(server)->resting, false);
                worker_group_resume(&server->workers);
                watch_rest(server, timer_now() + server->options->idle_timeout);
                return;
        }
        log_info("Stopping the model: no request needed it for %s",
                 number_format_duration(text, server->options->idle_timeout));
        model_unload(server->model);
        server_idle_begin(server);
        notify_status(server_status_line(server));
        (void)malloc_trim(0);
}

void server_rest_turned(struct model_server *server) {
        struct generation *generation = server_generation(server);
        uint64_t due = rest_due_at(server);

        /* It is lost, or msd is stopping: that generation is over. */
        if (!model_is_ready(server) || !atomic_load(&generation->resting))
                return;
        if (due <= timer_now()) {
                stop_model(server);
                return;
        }
        atomic_store(&generation->resting, false);
        worker_group_resume(&server->workers);
        watch_rest(server, due);
}

/* --- msd itself. */

/* Whether nothing runs that msd has started. */
static bool is_at_rest(struct model_server *server) {
        return !server->stopping &&
               (generation_is_idle(server_generation(server)) || (is_foreign(server->options) && model_is_ready(server)));
}

/* When no client has said anything for long enough, as far as is known now. */
static uint64_t exit_due_at(struct model_server *server) {
        const uint64_t now = timer_now();
        struct status_sums sums;

        status_sum(&server->status, &sums);
        return (sums.processing + atomic_load(&server->limits.waiting) > 0 ? now : sums.heard) + server->options->exit_idle_time;
}

/*
 * Nobody accepts connections from here on, and when each worker has had a turn, what they have heard tells whether a client came.
 * Clients that connect meanwhile stay in the backlog of the sockets that were passed, and the service manager starts msd for them.
 */
void server_exit_due(struct timer *timer) {
        struct model_server *server = container_of(timer, struct model_server, exit);
        uint64_t due = exit_due_at(server);

        if (!is_at_rest(server))
                return;
        if (due > timer_now()) {
                reactor_set_timer(&server->reactor, &server->exit, due);
                return;
        }
        worker_group_listen(&server->workers, false);
        server_ask_turn(server, TURN_EXIT);
}

void server_exit_turned(struct model_server *server) {
        uint64_t due = exit_due_at(server);
        char text[NUMBER_DURATION_MAX];

        if (server->stopping)
                return;
        if (is_at_rest(server) && due <= timer_now()) {
                log_info("No client for %s: ending until the next one comes",
                         number_format_duration(text, server->options->exit_idle_time));
                model_server_shutdown(server);
                return;
        }
        worker_group_listen(&server->workers, true);
        if (is_at_rest(server))
                reactor_set_timer(&server->reactor, &server->exit, due);
}
