#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/number.h"
#include "common/util.h"
#include "daemon/model/cgroup.h"
#include "daemon/model/generation.h"
#include "daemon/model/progress.h"
#include "daemon/model/upstream_inner.h"

const char *upstream_program(const struct upstream *upstream) {
        const char *slash;

        if (!upstream->options.command)
                return upstream->options.url;
        slash = strrchr(upstream->options.command[0], '/');
        return slash ? slash + 1 : upstream->options.command[0];
}

void upstream_failed(struct upstream *upstream, const char *reason) {
        upstream_probe_cancel(upstream);
        upstream->phase = PHASE_NONE;
        upstream->events->failed(upstream->events, reason);
}

void upstream_lost(struct upstream *upstream, enum loss how, const char *reason) {
        upstream_probe_cancel(upstream);
        upstream->phase = PHASE_NONE;
        upstream->events->lost(upstream->events, how, reason);
}

/* Whether this sign of readiness is one. */
static bool counts(const struct upstream *upstream, enum upstream_ready sign) {
        return upstream->options.ready == UPSTREAM_READY_ANY || upstream->options.ready == sign;
}

static void child_line(struct child *child, bool error, const char *line, size_t len) {
        struct upstream *upstream = container_of(child, struct upstream, child);
        char text[CHILD_LINE_MAX + 1];

        upstream->stirred = true;
        /* Its log of the probes of others is no sign of life: what answers those may be all that is left of it. */
        if (!memmem(line, len, upstream->options.health_path, strlen(upstream->options.health_path)))
                upstream->said++;
        upstream->events->said(upstream->events, error, line, len);
        if (upstream->phase != PHASE_LOADING || !counts(upstream, UPSTREAM_READY_LINE) || !upstream->options.ready_line)
                return;
        memcpy(text, line, len);
        text[len] = '\0';
        if (regexec(&upstream->ready_line, text, 0, NULL, 0) == 0)
                upstream_said_ready(upstream);
}

static void child_notified(struct child *child, const char *assignment) {
        struct upstream *upstream = container_of(child, struct upstream, child);
        uint64_t usec;

        upstream->stirred = true;
        if (strcmp(assignment, "READY=1") == 0) {
                if (counts(upstream, UPSTREAM_READY_NOTIFY))
                        upstream_said_ready(upstream);
        } else if (strncmp(assignment, "STATUS=", 7) == 0)
                upstream->events->reported(upstream->events, assignment + 7, 0);
        else if (strncmp(assignment, "EXTEND_TIMEOUT_USEC=", 20) == 0 &&
                 number_parse(assignment + 20, strlen(assignment + 20), UINT64_MAX / 1000, &usec) == 0)
                upstream->events->reported(upstream->events, NULL, usec * 1000);
}

void upstream_start_child(struct upstream *upstream) {
        int r;

        upstream->phase = PHASE_LOADING;
        look_reset(&upstream->look);
        upstream->oom_kills = cgroup_oom_kills();
        r = child_start(&upstream->child, upstream->options.command);
        if (r < 0)
                snprintf(upstream->start_error, sizeof(upstream->start_error), "Cannot start %s: %s",
                         upstream->options.command[0], strerror(-r));
        upstream_probe_after(upstream, 0);
}

static void say_exit(const struct upstream *upstream, const struct child_end *end, enum loss loss, char *reason, size_t size) {
        const char *cause = cause_line(&upstream->child.cause);

        if (end->start_error != 0)
                snprintf(reason, size, "Cannot start %s: %s", upstream->options.command[0], end->how);
        else
                snprintf(reason, size, "%s: %s%s%s%s", upstream_program(upstream), end->how,
                         loss == LOSS_OUT_OF_MEMORY ? " by the kernel, which was out of memory" : "", cause[0] ? ": " : "", cause);
}

static enum loss loss_of(const struct upstream *upstream, const struct child_end *end) {
        if (!end->was_killed)
                return LOSS_CRASHED;
        return cgroup_oom_kills() > upstream->oom_kills ? LOSS_OUT_OF_MEMORY : LOSS_KILLED;
}

/* The generation is over; the next one starts when the last process of this one is gone. */
static void child_exited(struct child *child, const struct child_end *end) {
        struct upstream *upstream = container_of(child, struct upstream, child);
        const enum loss loss = loss_of(upstream, end);
        char reason[1024];

        say_exit(upstream, end, loss, reason, sizeof(reason));
        switch (upstream->phase) {
        case PHASE_LOADING:
        case PHASE_WARMING:
        case PHASE_NAMING:
                upstream_failed(upstream, reason);
                break;
        case PHASE_READY:
        case PHASE_CHECKING:
                upstream_lost(upstream, loss, reason);
                break;
        case PHASE_ENDING:
                snprintf(reason, sizeof(reason), "%s: %s", upstream_program(upstream), upstream->verdict);
                upstream_lost(upstream, LOSS_FROZEN, reason);
                break;
        case PHASE_AWAITING_END:
        case PHASE_CLEARING:
        case PHASE_STOPPING:
        case PHASE_NONE:
                break;
        }
}

static void child_ended(struct child *child, const struct child_end *end) {
        struct upstream *upstream = container_of(child, struct upstream, child);

        (void)end;
        if (upstream->phase == PHASE_AWAITING_END) {
                upstream_clear_place(upstream);
                return;
        }
        upstream_leave_place(upstream);
        if (upstream->phase == PHASE_STOPPING) {
                upstream->phase = PHASE_NONE;
                upstream->events->stopped(upstream->events);
        }
}

static void child_held(struct child *child, const char *processes) {
        struct upstream *upstream = container_of(child, struct upstream, child);

        upstream->events->held(upstream->events, processes);
}

static const struct child_events child_events = {
        .line = child_line,
        .notified = child_notified,
        .exited = child_exited,
        .ended = child_ended,
        .held = child_held,
};

static int upstream_load(struct model *model, struct reactor *reactor, struct generation *generation,
                         struct load_events *events) {
        struct upstream *upstream = upstream_of(model);
        int r;

        if (!upstream->reactor) {
                r = mailbox_init(&upstream->watch.mailbox, reactor, upstream_work_begins);
                if (r < 0)
                        return r;
                fetcher_init(&upstream->fetcher, reactor, &upstream->target);
                if (upstream->options.command)
                        child_init(&upstream->child, reactor, &child_events, &upstream->options.child);
                upstream->reactor = reactor;
        }
        fetcher_forget(&upstream->fetcher);
        upstream->events = events;
        upstream->generation = generation;
        upstream->start_error[0] = '\0';
        upstream->stirred = true;
        upstream->load_sample = (struct freeze_sample){ .now = timer_now(), .works = true };
        upstream->warned_at = 0;
        upstream->result[0] = '\0';
        upstream->refuses_probes = false;
        upstream->probe_pause = 0;
        if (child_is_there(&upstream->child) && !upstream->keeps_child) {
                upstream->phase = PHASE_AWAITING_END;
                child_stop(&upstream->child);
        } else if (upstream->options.command && !upstream->keeps_child && child_clear(&upstream->child))
                upstream->phase = PHASE_AWAITING_END;
        else if (upstream->options.command && !upstream->keeps_child)
                upstream_clear_place(upstream);
        else {
                upstream->phase = PHASE_LOADING;
                upstream_probe_after(upstream, 0);
        }
        return 0;
}

struct processes {
        pid_t pids[LOOK_PROCESSES_MAX];
        unsigned count;
};

static void add_process(pid_t pid, void *data) {
        struct processes *processes = data;

        if (processes->count < LOOK_PROCESSES_MAX)
                processes->pids[processes->count++] = pid;
}

/* From outside: what its processes have read, and lines without an end, which are drawn as the load goes on. */
static void upstream_measure(struct model *model, struct progress *progress) {
        struct upstream *upstream = upstream_of(model);
        const uint64_t now = timer_now();
        struct processes processes = { .count = 0 };
        uint64_t read, size, at;

        if (!upstream->reactor || upstream->phase != PHASE_LOADING || !child_is_there(&upstream->child))
                return;
        for (unsigned error = 0; error < 2; error++) {
                size_t len;
                const char *line = child_open_line(&upstream->child, error, &len);

                progress_hear(progress, PROGRESS_SAID, progress_parse_line(line, len), now);
                progress_hear(progress, PROGRESS_DOTS, progress_parse_dots(line, len), now);
        }
        if (look_take(&upstream->look, &read, &size, &at))
                progress_hear(progress, PROGRESS_READ, (double)read / (double)size, at);
        child_each_process(&upstream->child, add_process, &processes);
        look_begin(&upstream->look, processes.pids, processes.count);
}

static void upstream_unload(struct model *model) {
        struct upstream *upstream = upstream_of(model);

        if (!upstream->reactor || upstream->phase == PHASE_STOPPING)
                return;
        upstream_probe_cancel(upstream);
        timer_clear(&upstream->freeze_timer);
        upstream->phase = PHASE_NONE;
        upstream->keeps_child = false;
        child_stop(&upstream->child);
}

static bool upstream_stop(struct model *model, struct load_events *events) {
        struct upstream *upstream = upstream_of(model);

        upstream_unload(model);
        if (!upstream->reactor || !child_is_there(&upstream->child))
                return false;
        child_stop_last(&upstream->child);
        upstream->events = events;
        upstream->phase = PHASE_STOPPING;
        return true;
}

static void upstream_last_words(struct model *model, char *text, size_t size) {
        cause_summary(&upstream_of(model)->child.cause, text, size);
}

static void upstream_free(struct model *model) {
        struct upstream *upstream = upstream_of(model);

        if (upstream->reactor) {
                upstream_probe_cancel(upstream);
                timer_clear(&upstream->freeze_timer);
                mailbox_deinit(&upstream->watch.mailbox);
                child_deinit(&upstream->child);
                fetcher_deinit(&upstream->fetcher);
                look_deinit(&upstream->look);
        }
        if (upstream->options.ready_line)
                regfree(&upstream->ready_line);
        free(upstream);
}

static int session_new(struct model *model, const struct session_place *place, struct model_session **session) {
        struct upstream *upstream = upstream_of(model);
        const struct upstream_session_options options = {
                .target = &upstream->target,
                .completion_path = upstream->options.completion_path,
                .completion_options = upstream->options.completion_options,
                .max_tokens = upstream->options.max_tokens,
                .max_connections = upstream->options.max_connections,
                .max_idle = upstream->options.max_idle,
                .host = upstream->options.host,
                .key = upstream->options.key,
                .watch = &upstream->watch,
        };

        return upstream_session_new(&options, model, place, session);
}

static const struct model_ops upstream_ops = {
        .name = "upstream",
        .needs_prompt = true,
        .free = upstream_free,
        .load = upstream_load,
        .progressed = upstream_progressed,
        .measure = upstream_measure,
        .unload = upstream_unload,
        .stop = upstream_stop,
        .last_words = upstream_last_words,
        .suspect = upstream_suspect,
        .session_new = session_new,
        .session_free = upstream_session_free,
        .session_follow = upstream_session_follow,
        .infer = upstream_infer,
        .pause = upstream_pause,
        .send = upstream_send,
        .finish = upstream_finish,
        .cancel = upstream_cancel,
};

/* Whether `text` can stand in a field of a head. */
static bool is_field_value(const char *text) {
        for (const unsigned char *p = (const unsigned char *)text; *p; p++)
                if (*p <= ' ' || *p == 0x7f)
                        return false;
        return *text != '\0';
}

int upstream_check(const struct upstream_options *options, char *error, size_t size) {
        struct target target;
        regex_t regex;
        json_t *json;
        int r;

        if (target_parse(&target, options->url) < 0) {
                snprintf(error, size, "--upstream: \"%s\" is neither http://HOST:PORT nor unix:PATH", options->url);
                return -EINVAL;
        }
        if (options->host && !is_field_value(options->host)) {
                snprintf(error, size, "--upstream-host: \"%s\" is no HOST[:PORT]", options->host);
                return -EINVAL;
        }
        if (options->key && !is_field_value(options->key)) {
                snprintf(error, size, "--upstream-key-file: the key is empty, or has spaces or control characters");
                return -EINVAL;
        }
        if (options->ready_line) {
                r = regcomp(&regex, options->ready_line, REG_EXTENDED | REG_NOSUB);
                if (r != 0) {
                        char why[128];

                        regerror(r, &regex, why, sizeof(why));
                        snprintf(error, size, "--ready-line: \"%s\" is no regular expression: %s", options->ready_line,
                                 why);
                        return -EINVAL;
                }
                regfree(&regex);
        }
        if (options->completion_options) {
                json = json_read(options->completion_options, strlen(options->completion_options));
                r = errno;
                if (!json && r == ENOMEM) {
                        snprintf(error, size, "--completion-options: %s", strerror(r));
                        return -ENOMEM;
                }
                r = json_is_object(json);
                json_decref(json);
                if (!r) {
                        snprintf(error, size, "--completion-options: %s is no JSON object", options->completion_options);
                        return -EINVAL;
                }
        }
        return 0;
}

int upstream_new(struct model **model, const struct upstream_options *options) {
        struct upstream *upstream = calloc(1, sizeof(*upstream));

        if (!upstream)
                return -ENOMEM;
        upstream->model.ops = &upstream_ops;
        upstream->options = *options;
        upstream_probe_init(upstream);
        upstream_judge_init(upstream);
        if (target_parse(&upstream->target, options->url) < 0 ||
            (options->ready_line &&
             regcomp(&upstream->ready_line, options->ready_line, REG_EXTENDED | REG_NOSUB) != 0)) {
                free(upstream);
                return -EINVAL;
        }
        *model = &upstream->model;
        return 0;
}
