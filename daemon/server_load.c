#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/server_inner.h"

static const char line_loading[] = "Model loading...\n";
static const char line_ready[] = "Model ready!\n";

void server_free_generations(struct model_server *server, unsigned oldest) {
        while (!list_is_empty(&server->generations)) {
                struct generation *first = container_of(server->generations.next, struct generation, link);

                if (first->number >= oldest)
                        break;
                (void)generation_free(first);
        }
}

/* What the model was called last, or will be; empty: nobody knows. */
static const char *last_model(const struct model_server *server, const struct generation *before) {
        const struct options *options = server->options;

        if (before)
                return before->model[0] ? before->model : before->last_model;
        return options->model ? options->model : options->upstream ? "" : "sim";
}

int server_begin_generation(struct model_server *server, bool idle) {
        struct generation *before = server_generation(server), *generation = NULL;
        int r;

        r = generation_new(&generation, before ? before->number + 1 : 1);
        if (r < 0)
                return r;
        list_append(&server->generations, &generation->link);
        atomic_init(&generation->awaits_request, idle);
        snprintf(generation->last_model, sizeof(generation->last_model), "%s", last_model(server, before));
        generation->loss = server->loss;
        snprintf(generation->loss_reason, sizeof(generation->loss_reason), "%s", server->loss_reason ? server->loss_reason : "");
        if (idle)
                status_idle(&server->status, generation->number);
        else
                status_loading(&server->status, generation->number);
        atomic_store_explicit(&server->queue.generation, generation, memory_order_release);
        worker_group_follow(&server->workers);
        if (before)
                server_free_generations(server, worker_group_generation(&server->workers));
        return 0;
}

/* How long a load may go on until it is looked at again. */
static uint64_t load_limit(const struct options *options) {
        uint64_t limit = UINT64_MAX - EXTEND_MARGIN;

        if (options->stall_timeout > 0)
                limit = MIN(limit, options->stall_timeout);
        if (options->load_timeout > 0)
                limit = MIN(limit, options->load_timeout);
        return limit + EXTEND_MARGIN;
}

int model_server_load_model(struct model_server *server) {
        struct generation *generation = server_generation(server);
        int r;

        /* Ready, failed, or lost: that generation is over. */
        if (!generation || gate_state(&generation->gate) != GATE_PENDING) {
                r = server_begin_generation(server, false);
                if (r < 0)
                        return r;
        }
        loader_start(&server->loader, server_generation(server));
        return 0;
}

void server_load_needed(struct model_server *server) {
        struct generation *generation = server_generation(server);

        if (server->stopping || server->loader.loading || gate_state(&generation->gate) != GATE_PENDING ||
            generation_is_idle(generation))
                return;
        log_info("Loading the model: a request needs it");
        status_loading(&server->status, generation->number);
        loader_start(&server->loader, generation);
}

void server_check_broadcast(struct model_server *server, int r) {
        if (r >= 0)
                return;
        log_warning("Cannot tell all workers at once, telling each: %s", strerror(-r));
        worker_group_check_gates(&server->workers);
}

/* Before the model starts anew, and has other words. */
static void note_last_words(struct model_server *server) {
        char words[MODEL_LAST_WORDS_MAX];

        model_last_words(server->model, words);
        status_last_words(&server->status, words);
}

static void load_attempting(struct loader *loader, unsigned attempt, const char *error, uint64_t pause) {
        struct model_server *server = container_of(loader, struct model_server, loader);
        char text[NUMBER_DURATION_MAX];
        time_t now = time(NULL);
        struct tm local;

        status_attempt(&server->status, attempt, error);
        if (error) {
                note_last_words(server);
                number_format_duration(text, pause / NSEC_PER_MSEC * NSEC_PER_MSEC);
                server_set_situation(server, "Loading failed: %s; attempt %u of %u follows in %s", error, attempt,
                                     loader->options.attempts, text);
                log_warning("%s", server->situation);
                notify_extend(pause + EXTEND_MARGIN);
        } else {
                strftime(text, sizeof(text), "%H:%M:%S", localtime_r(&now, &local));
                server_set_situation(server, "Loading %s since %s", server_model_name(server), text);
                server->situation_is_plain = true;
                log_output(line_loading, sizeof(line_loading) - 1);
        }
        notify_status(server_status_line(server));
        server_progress_begin(server, pause);
}

static void load_progressing(struct loader *loader) {
        notify_extend(load_limit(container_of(loader, struct model_server, loader)->options));
}

/* The model is stored, and the line is out, before anybody goes on because of it. */
static void open_gate(struct model_server *server) {
        struct generation *generation = server_generation(server);
        char text[NUMBER_DURATION_MAX];
        int r;

        status_ready(&server->status, generation->model);
        log_output(line_ready, sizeof(line_ready) - 1);
        server_check_broadcast(server, gate_open(&generation->gate));

        server_set_situation(server, "Ready: %s was loaded in %s", generation->model,
                             number_format_duration(text, status_load_time(&server->status) / NSEC_PER_MSEC * NSEC_PER_MSEC));
        r = notify_ready(server_status_line(server));
        if (r < 0)
                log_warning("Cannot tell the service manager that the model is ready, ignoring: %s", strerror(-r));
        server_idle_ready(server);
}

static void load_ready(struct loader *loader, const char *name) {
        struct model_server *server = container_of(loader, struct model_server, loader);
        struct generation *generation = server_generation(server);

        snprintf(generation->model, sizeof(generation->model), "%s", name);
        server_progress_end(server, true);
        if (generation->loss == LOSS_CRASHED) {
                /* The suspects are to be known before any request goes on. */
                server->opening = true;
                server_ask_turn(server, TURN_OPEN);
        } else
                open_gate(server);
}

void server_load_turned(struct model_server *server) {
        const uint64_t suspects = atomic_load(&server->queue.suspects);

        if (!server->opening)
                return;
        server->opening = false;
        if (server->stopping)
                return;
        if (suspects > 0)
                log_warning("Requests that were in flight when the model crashed (%" PRIu64 ") go to it one at a time; others wait",
                            suspects);
        open_gate(server);
}

void server_suspects_cleared(struct model_server *server) {
        if (gate_state(&server_generation(server)->gate) == GATE_OPEN)
                log_info("No request is suspected of the crash any more: all go on");
        worker_group_resume(&server->workers);
}

/* Those whose connection is known to be broken, or that still count as with the model. */
static bool load_is_excused(struct loader *loader) {
        struct model_server *server = container_of(loader, struct model_server, loader);
        struct status_sums sums;

        status_sum(&server->status, &sums);
        return sums.processing > 0 || atomic_load(&server->queue.lost) > 0;
}

static void load_lost(struct loader *loader, enum loss how, const char *reason) {
        struct model_server *server = container_of(loader, struct model_server, loader);
        int r;

        log_error("The model is lost: %s", reason);
        if (server->stopping)
                return;
        note_last_words(server);
        status_attempt(&server->status, 1, reason);
        server->opening = false;
        /* New requests wait for the next generation, and so do those in flight that got no output. */
        server->loss = how;
        server->loss_reason = reason;
        r = model_server_load_model(server);
        server->loss = LOSS_NONE;
        server->loss_reason = NULL;
        if (r < 0) {
                log_error("Cannot begin to load: %s", strerror(-r));
                server->failed = true;
                model_server_shutdown(server);
        }
}

static void load_alive(struct loader *loader) {
        worker_group_resume(&container_of(loader, struct model_server, loader)->workers);
}

static void load_held(struct loader *loader, const char *processes) {
        struct model_server *server = container_of(loader, struct model_server, loader);

        if (server->stopping) {
                log_error("Not waiting for processes of the model, which do not end, not even of SIGKILL: %s", processes);
                server->failed = true;
                return;
        }
        if (!loader->loading) {
                log_warning("Processes of the model do not end, not even of SIGKILL: %s", processes);
                return;
        }
        server_set_situation(server, "Loading waits for processes of the model before, which do not end, not even of SIGKILL: %s",
                             processes);
        log_warning("%s", server->situation);
        notify_status(server_status_line(server));
}

static void load_stopped(struct loader *loader) {
        reactor_stop(&container_of(loader, struct model_server, loader)->reactor);
}

/* A model's own lines go where the daemon's go, each whole. */
static void load_said(struct loader *loader, bool error, const char *line, size_t len) {
        if (loader->loading)
                server_progress_hear(container_of(loader, struct model_server, loader), progress_parse_line(line, len));
        log_foreign(error, line, len);
}

static void load_probed(struct loader *loader, const char *result) {
        status_probe(&container_of(loader, struct model_server, loader)->status, result);
}

static void load_warned(struct loader *loader, const char *warning) {
        (void)loader;
        log_warning("%s", warning);
}

static void load_reported(struct loader *loader, const char *status, uint64_t extend) {
        struct model_server *server = container_of(loader, struct model_server, loader);

        if (extend > 0)
                notify_extend(MAX(extend, load_limit(server->options)));
        if (status) {
                server_progress_hear(server, progress_parse_status(status));
                server_set_situation(server, "Loading %s: %s", server_model_name(server), status);
                server_queue_changed(&server->queue);
        }
}

static void load_failed(struct loader *loader, int error, const char *reason) {
        struct model_server *server = container_of(loader, struct model_server, loader);

        server_progress_end(server, false);
        status_failed(&server->status, reason);
        note_last_words(server);
        server_check_broadcast(server, gate_fail(&server_generation(server)->gate, reason));
        log_error("Loading failed: %s", reason);
        if (server->options->on_load_failure == ON_LOAD_FAILURE_EXIT) {
                server->failed = true;
                model_server_shutdown(server);
        }
        server_set_situation(server, "Loading failed: %s", reason);
        snprintf(server->line, sizeof(server->line), "%s", server->situation);
        notify_failed(error, server->line);
}

void server_init_loader(struct model_server *server, const struct loader_options *options) {
        loader_init(&server->loader, &server->reactor, server->model, options);
        server->loader.attempting = load_attempting;
        server->loader.progressing = load_progressing;
        server->loader.ready = load_ready;
        server->loader.failed = load_failed;
        server->loader.is_excused = load_is_excused;
        server->loader.lost = load_lost;
        server->loader.alive = load_alive;
        server->loader.held = load_held;
        server->loader.stopped = load_stopped;
        server->loader.said = load_said;
        server->loader.probed = load_probed;
        server->loader.warned = load_warned;
        server->loader.reported = load_reported;
}
