#include "daemon/model/upstream.h"

#include <errno.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/address.h"
#include "common/json.h"
#include "common/number.h"
#include "common/util.h"
#include "daemon/model/child.h"
#include "daemon/model/completion.h"
#include "daemon/model/fetch.h"
#include "daemon/model/generation.h"
#include "daemon/model/progress.h"
#include "daemon/model/reading.h"
#include "daemon/model/upstream_session.h"

#define PROBE_PAUSE (50 * NSEC_PER_MSEC)
#define PROBE_TIMEOUT (5 * NSEC_PER_SEC)

enum state {
        IDLE,
        AWAITING_END,   /* of the process before, to start the next */
        LOADING,        /* nobody has said yet that it is ready */
        WARMING,        /* it has to answer first */
        NAMING,
        READY,
        CHECKING,       /* it is ready, and was said not to be */
        STOPPING,
};

struct upstream {
        struct model model;
        struct upstream_options options;
        struct target target;
        regex_t ready_line;
        struct child child;
        struct reactor *reactor;
        struct load_events *events;
        struct generation *generation;  /* borrowed: that of the load, or the one that is ready */
        struct fetcher fetcher;
        struct fetch probe;
        struct timer probe_timer;
        struct text answer;
        char *warmup;
        char start_error[256];
        struct reading reading;
        enum state state;
        bool stirred;           /* something was heard of it since that was asked last */
        uint64_t activity;
        unsigned suspicions;    /* of the generation, when the probe began that is to tell */
};

static struct upstream *upstream_of(struct model *model) {
        return container_of(model, struct upstream, model);
}

static void cancel_probe(struct upstream *upstream) {
        fetch_cancel(&upstream->probe);
        timer_clear(&upstream->probe_timer);
        text_free(&upstream->answer);
        free(STEAL_POINTER(upstream->warmup));
}

static void probe_after(struct upstream *upstream, uint64_t pause) {
        text_free(&upstream->answer);
        free(STEAL_POINTER(upstream->warmup));
        reactor_set_timer(upstream->reactor, &upstream->probe_timer, timer_now() + pause);
}

static const char *program_of(const struct upstream *upstream) {
        const char *slash;

        if (!upstream->options.command)
                return upstream->options.url;
        slash = strrchr(upstream->options.command[0], '/');
        return slash ? slash + 1 : upstream->options.command[0];
}

/* Its name is known. Where its host has several addresses, one has to have taken a connection too. */
static void become_ready(struct upstream *upstream, const char *name) {
        const struct endpoint *endpoint = fetcher_settle(&upstream->fetcher);
        char copy[PROTOCOL_MODEL_MAX];

        if (!endpoint) {
                upstream->state = NAMING;
                probe_after(upstream, PROBE_PAUSE);
                return;
        }
        snprintf(copy, sizeof(copy), "%s", name);
        cancel_probe(upstream);
        upstream->state = READY;
        upstream->generation->address = endpoint->address;
        upstream->generation->address_len = endpoint->len;
        upstream->events->ready(upstream->events, copy);
}

static void become_named(struct upstream *upstream) {
        if (upstream->options.model && fetcher_settle(&upstream->fetcher)) {
                become_ready(upstream, upstream->options.model);
                return;
        }
        upstream->state = NAMING;
        probe_after(upstream, 0);
}

/* Somebody says that it is ready. */
static void said_ready(struct upstream *upstream) {
        if (upstream->state != LOADING)
                return;
        cancel_probe(upstream);
        if (!upstream->options.warmup) {
                become_named(upstream);
                return;
        }
        upstream->state = WARMING;
        probe_after(upstream, 0);
}

static void named(struct upstream *upstream, const json_t *json) {
        const char *id = json_string_value(
                json_object_get(json_array_get(json_object_get(json, "data"), 0), "id"));

        become_ready(upstream, upstream->options.model ? upstream->options.model : id && *id ? id : program_of(upstream));
}

/* It was checked whether it still answers. Where it was suspected again since the probe began, another one tells. */
static void checked(struct upstream *upstream, bool answers) {
        unsigned suspicions = upstream->suspicions;

        if (answers && !atomic_compare_exchange_strong(&upstream->generation->suspicions, &suspicions, 0))
                probe_after(upstream, 0);
        else if (answers) {
                upstream->state = READY;
                upstream->events->alive(upstream->events);
        } else if (child_is_there(&upstream->child))
                child_kill(&upstream->child);
        else {
                upstream->state = IDLE;
                upstream->events->lost(upstream->events, LOSS_UNREACHABLE, "It does not answer any more");
        }
}

static void probed(struct fetch *fetch, unsigned status, const char *error) {
        struct upstream *upstream = container_of(fetch, struct upstream, probe);
        bool no_memory = false;
        json_t *json = NULL;

        (void)error;
        if (status > 0)
                upstream->stirred = true;
        if (upstream->answer.data) {
                json = json_read(upstream->answer.data, upstream->answer.len);
                no_memory = !json && errno == ENOMEM;
        }
        switch (upstream->state) {
        case LOADING:
                if (status == 200)
                        said_ready(upstream);
                else
                        probe_after(upstream, PROBE_PAUSE);
                break;
        case WARMING:
                if (status == 200 && completion_text(json))
                        become_named(upstream);
                else
                        probe_after(upstream, PROBE_PAUSE);
                break;
        case NAMING:
                if (no_memory)
                        probe_after(upstream, PROBE_PAUSE);
                else
                        named(upstream, json);
                break;
        case CHECKING:
                checked(upstream, status == 200);
                break;
        default:
                break;
        }
        json_decref(json);
}

static bool probe_data(struct fetch *fetch, const char *data, size_t len) {
        return text_add(&container_of(fetch, struct upstream, probe)->answer, data, len) == 0;
}

static void upstream_failed(struct upstream *upstream, const char *reason) {
        cancel_probe(upstream);
        upstream->state = IDLE;
        upstream->events->failed(upstream->events, reason);
}

static void probe_due(struct timer *timer) {
        struct upstream *upstream = container_of(timer, struct upstream, probe_timer);
        struct fetch_request request = {
                .path = upstream->options.health_path,
                .host = upstream->options.host,
                .key = upstream->options.key,
                .timeout = PROBE_TIMEOUT,
        };
        int r;

        if (upstream->start_error[0]) {
                upstream_failed(upstream, upstream->start_error);
                return;
        }
        if (upstream->state == WARMING) {
                request.path = upstream->options.completion_path;
                /* The first answer may take as long as the load may. */
                request.timeout = 0;
                upstream->warmup = completion_body(NULL, upstream->options.model, upstream->options.warmup,
                                             strlen(upstream->options.warmup), 1, false);
                request.body = upstream->warmup;
                request.body_len = upstream->warmup ? strlen(upstream->warmup) : 0;
        } else if (upstream->state == NAMING)
                request.path = "/v1/models";
        else if (upstream->state == CHECKING)
                upstream->suspicions = atomic_load(&upstream->generation->suspicions);
        upstream->probe.data = probe_data;
        upstream->probe.done = probed;
        r = fetch_start(&upstream->probe, &upstream->fetcher, &request);
        if (r < 0)
                probe_after(upstream, PROBE_PAUSE);
}

static void child_line(struct child *child, bool error, const char *line, size_t len) {
        struct upstream *upstream = container_of(child, struct upstream, child);
        char text[CHILD_LINE_MAX + 1];

        upstream->stirred = true;
        upstream->events->said(upstream->events, error, line, len);
        if (upstream->state != LOADING || !upstream->options.ready_line)
                return;
        memcpy(text, line, len);
        text[len] = '\0';
        if (regexec(&upstream->ready_line, text, 0, NULL, 0) == 0)
                said_ready(upstream);
}

static void child_notified(struct child *child, const char *assignment) {
        struct upstream *upstream = container_of(child, struct upstream, child);
        uint64_t usec;

        upstream->stirred = true;
        if (strcmp(assignment, "READY=1") == 0)
                said_ready(upstream);
        else if (strncmp(assignment, "STATUS=", 7) == 0)
                upstream->events->reported(upstream->events, assignment + 7, 0);
        else if (strncmp(assignment, "EXTEND_TIMEOUT_USEC=", 20) == 0 &&
                 number_parse(assignment + 20, strlen(assignment + 20), UINT64_MAX / 1000, &usec) == 0)
                upstream->events->reported(upstream->events, NULL, usec * 1000);
}

/* Who listens at `path`. Returns 1, 0 if nobody does, or -errno. */
static int find_listener(const char *path, struct ucred *listener) {
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        socklen_t socklen, len = sizeof(*listener);
        struct sockaddr_un address;

        if (fd < 0)
                return -errno;
        if (address_from_path(path, &address, &socklen) != 0)
                return -EINVAL;
        if (connect(fd, (const struct sockaddr *)&address, socklen) < 0)
                return errno == ECONNREFUSED || errno == ENOENT ? 0 : -errno;
        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, listener, &len) < 0 ? -errno : 1;
}

/*
 * A server that finds a socket at its place does not start: what an earlier one has left there is removed. Where somebody
 * else listens msd would take that one for its model, and tell it all prompts. Returns 0, 1 if it is so, or -errno.
 */
static int clear_place(const struct upstream *upstream) {
        const char *path = upstream->target.socket;
        struct ucred listener;
        struct stat st;
        int r;

        if (!*path || lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
                return 0;
        r = find_listener(path, &listener);
        if (r < 0)
                return r;
        if (r > 0 && !child_has_left(&upstream->child, &listener))
                return 1;
        return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

static void start_child(struct upstream *upstream) {
        int r = clear_place(upstream);

        upstream->state = LOADING;
        upstream->activity = 0;
        reading_init(&upstream->reading);
        if (r != 0) {
                snprintf(upstream->start_error, sizeof(upstream->start_error), "Cannot start %s: %s: %s",
                         upstream->options.command[0], upstream->target.socket,
                         r > 0 ? "another process listens there" : strerror(-r));
                probe_after(upstream, 0);
                return;
        }
        r = child_start(&upstream->child, upstream->options.command);
        if (r < 0)
                snprintf(upstream->start_error, sizeof(upstream->start_error), "Cannot start %s: %s",
                         upstream->options.command[0], strerror(-r));
        probe_after(upstream, 0);
}

/* The generation is over; the next one starts when the last process of this one is gone. */
static void child_exited(struct child *child, const struct child_end *end) {
        struct upstream *upstream = container_of(child, struct upstream, child);
        const char *cause = cause_line(&child->cause);
        char reason[1024];

        snprintf(reason, sizeof(reason), "%s: %s%s%s", program_of(upstream), end->how, cause[0] ? ": " : "", cause);
        switch (upstream->state) {
        case LOADING:
        case WARMING:
        case NAMING:
                upstream_failed(upstream, reason);
                break;
        case READY:
        case CHECKING:
                cancel_probe(upstream);
                upstream->state = IDLE;
                upstream->events->lost(upstream->events, end->was_killed ? LOSS_KILLED : LOSS_CRASHED, reason);
                break;
        case AWAITING_END:
        case STOPPING:
        case IDLE:
                break;
        }
}

static void child_ended(struct child *child, const struct child_end *end) {
        struct upstream *upstream = container_of(child, struct upstream, child);

        (void)end;
        if (upstream->state == AWAITING_END)
                start_child(upstream);
        else if (upstream->state == STOPPING) {
                upstream->state = IDLE;
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

        if (!upstream->reactor) {
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
        if (child_is_there(&upstream->child)) {
                upstream->state = AWAITING_END;
                child_stop(&upstream->child);
        } else if (upstream->options.command && child_clear(&upstream->child))
                upstream->state = AWAITING_END;
        else if (upstream->options.command)
                start_child(upstream);
        else {
                upstream->state = LOADING;
                probe_after(upstream, 0);
        }
        return 0;
}

static bool upstream_progressed(struct model *model) {
        struct upstream *upstream = upstream_of(model);
        struct child_usage usage = { 0 };
        uint64_t activity;
        bool progressed;

        if (upstream->reactor)
                child_usage(&upstream->child, &usage);
        activity = usage.processor + usage.read + usage.read_from_disk;
        /* One that does not end holds the load. It is said so, and no attempt is lost by it. */
        progressed = upstream->stirred || activity > upstream->activity || upstream->state == AWAITING_END;
        upstream->stirred = false;
        upstream->activity = activity;
        return progressed;
}

static void add_reading(pid_t pid, void *data) {
        reading_add(data, pid);
}

/* From outside: what its processes have read, and lines without an end, which are drawn as the load goes on. */
static void upstream_measure(struct model *model, struct progress *progress) {
        struct upstream *upstream = upstream_of(model);
        const uint64_t now = timer_now();
        uint64_t read, size;

        if (!upstream->reactor || upstream->state != LOADING || !child_is_there(&upstream->child))
                return;
        for (unsigned error = 0; error < 2; error++) {
                size_t len;
                const char *line = child_open_line(&upstream->child, error, &len);

                progress_hear(progress, PROGRESS_SAID, progress_parse_line(line, len), now);
                progress_hear(progress, PROGRESS_DOTS, progress_parse_dots(line, len), now);
        }
        reading_begin(&upstream->reading);
        child_each_process(&upstream->child, add_reading, &upstream->reading);
        if (reading_end(&upstream->reading, &read, &size))
                progress_hear(progress, PROGRESS_READ, (double)read / (double)size, now);
}

static void upstream_unload(struct model *model) {
        struct upstream *upstream = upstream_of(model);

        if (!upstream->reactor || upstream->state == STOPPING)
                return;
        cancel_probe(upstream);
        upstream->state = IDLE;
        child_stop(&upstream->child);
}

static bool upstream_stop(struct model *model, struct load_events *events) {
        struct upstream *upstream = upstream_of(model);

        upstream_unload(model);
        if (!upstream->reactor || !child_is_there(&upstream->child))
                return false;
        child_stop_last(&upstream->child);
        upstream->events = events;
        upstream->state = STOPPING;
        return true;
}

static void upstream_last_words(struct model *model, char *text, size_t size) {
        cause_summary(&upstream_of(model)->child.cause, text, size);
}

static void upstream_suspect(struct model *model) {
        struct upstream *upstream = upstream_of(model);

        if (upstream->state != READY)
                return;
        upstream->state = CHECKING;
        probe_after(upstream, 0);
}

static void upstream_free(struct model *model) {
        struct upstream *upstream = upstream_of(model);

        if (upstream->reactor) {
                cancel_probe(upstream);
                child_deinit(&upstream->child);
                fetcher_deinit(&upstream->fetcher);
        }
        if (upstream->options.ready_line)
                regfree(&upstream->ready_line);
        free(upstream);
}

static int session_new(struct model *model, const struct session_place *place, struct model_session **session) {
        const struct upstream *upstream = upstream_of(model);
        const struct upstream_session_options options = {
                .target = &upstream->target,
                .completion_path = upstream->options.completion_path,
                .completion_options = upstream->options.completion_options,
                .max_tokens = upstream->options.max_tokens,
                .max_connections = upstream->options.max_connections,
                .max_idle = upstream->options.max_idle,
                .host = upstream->options.host,
                .key = upstream->options.key,
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
        timer_init(&upstream->probe_timer, probe_due);
        if (target_parse(&upstream->target, options->url) < 0 ||
            (options->ready_line &&
             regcomp(&upstream->ready_line, options->ready_line, REG_EXTENDED | REG_NOSUB) != 0)) {
                free(upstream);
                return -EINVAL;
        }
        *model = &upstream->model;
        return 0;
}
