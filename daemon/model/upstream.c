#include "daemon/model/upstream.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <regex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/model/child.h"
#include "daemon/model/fetch.h"

#define PROBE_PAUSE (50 * NSEC_PER_MSEC)
#define PROBE_TIMEOUT (5 * NSEC_PER_SEC)

/* An answer, or a line of a stream, that is longer is none. */
#define ANSWER_MAX (64u << 20)

struct text {
        char *data;
        size_t len;
        size_t size;
};

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
        struct fetcher fetcher;
        struct fetch probe;
        struct timer probe_timer;
        struct text answer;
        char *warmup;
        char start_error[256];
        enum state state;
        bool stirred;           /* something was heard of it since that was asked last */
        uint64_t activity;
};

struct upstream_session {
        struct model_session session;
        struct inference_events *events;
        struct fetcher fetcher;
        json_t *options;
        struct list runs;
        const char *completion_path;
        uint64_t max_tokens;
};

/* One inference that is with the upstream. */
struct run {
        struct list link;
        struct fetch fetch;
        struct upstream_session *session;
        struct inference *inference;
        char *body;
        struct text answer;     /* or, of a stream, the line that is not whole yet; of an exchange, the head */
        char *error;            /* what a stream said instead of a part */
        size_t field_count;     /* of an exchange: in `answer`, names and values, each with its NUL */
        uint64_t length;        /* that it will have, or ANSWER_LENGTH_UNKNOWN */
        bool chunked;
        bool delivered;
        bool ended;             /* the stream said so */
        bool unavailable;       /* the answer is a 503, which nobody has to see */
        const char *refused;    /* why it cannot be passed on */
};

static struct upstream *upstream_of(struct model *model) {
        return container_of(model, struct upstream, model);
}

static bool text_add(struct text *text, const char *data, size_t len) {
        if (len > ANSWER_MAX - text->len)
                return false;
        if (text->size - text->len < len + 1) {
                size_t size = MAX(text->size * 2, text->len + len + 1);
                char *grown = realloc(text->data, size);

                if (!grown)
                        return false;
                text->data = grown;
                text->size = size;
        }
        memcpy(text->data + text->len, data, len);
        text->len += len;
        text->data[text->len] = '\0';
        return true;
}

static void text_free(struct text *text) {
        free(text->data);
        *text = (struct text){ 0 };
}

/* What an answer that is no completion says, for the caller to free(). */
static char *error_of(const json_t *json, long status) {
        const json_t *error = json_object_get(json, "error");
        const char *message = json_string_value(json_object_get(error, "message"));
        char *text;

        if (!message)
                message = json_string_value(error);
        if (!message)
                message = json_string_value(json_object_get(json, "message"));
        if (message)
                return strdup(message);
        return asprintf(&text, "The model server answered HTTP %ld", status) < 0 ? NULL : text;
}

/* The text of a completion, or NULL. */
static json_t *completion_of(const json_t *json) {
        const json_t *choice = json_array_get(json_object_get(json, "choices"), 0);
        json_t *text = json_object_get(choice, "text");

        if (!json_is_string(text))
                text = json_object_get(json_object_get(choice, "message"), "content");
        return json_is_string(text) ? text : NULL;
}

/* The body of a completion request, for the caller to free(). NULL: out of memory, or the prompt is no UTF-8. */
static char *make_body(const json_t *options, const char *name, const char *prompt, size_t len, uint64_t max_tokens,
                       bool stream) {
        json_t *body = options ? json_copy((json_t *)options) : json_object();
        char *text = NULL;

        if (!body)
                return NULL;
        if (name && !json_object_get(body, "model"))
                json_object_set_new(body, "model", json_string(name));
        if (max_tokens > 0)
                json_object_set_new(body, "max_tokens", json_integer((json_int_t)MIN(max_tokens, (uint64_t)INT64_MAX)));
        if (json_object_set_new(body, "prompt", json_stringn(prompt, len)) == 0 &&
            json_object_set_new(body, "stream", json_boolean(stream)) == 0)
                text = json_dumps(body, JSON_COMPACT);
        json_decref(body);
        return text;
}

/* Loading, in the main thread. */

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

static void become_ready(struct upstream *upstream, const char *name) {
        char copy[PROTOCOL_MODEL_MAX];

        snprintf(copy, sizeof(copy), "%s", name);
        cancel_probe(upstream);
        upstream->state = READY;
        upstream->events->ready(upstream->events, copy);
}

static void become_named(struct upstream *upstream) {
        if (upstream->options.model) {
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

        become_ready(upstream, id && *id ? id : program_of(upstream));
}

/* It was checked whether it still answers. */
static void checked(struct upstream *upstream, bool answers) {
        if (answers) {
                upstream->state = READY;
                upstream->events->alive(upstream->events);
        } else if (child_is_there(&upstream->child))
                child_kill(&upstream->child);
        else {
                upstream->state = IDLE;
                upstream->events->lost(upstream->events, "It does not answer any more");
        }
}

static void probed(struct fetch *fetch, long status, const char *error) {
        struct upstream *upstream = container_of(fetch, struct upstream, probe);
        json_t *json = NULL;

        (void)error;
        if (status > 0)
                upstream->stirred = true;
        if (upstream->answer.data)
                json = json_loadb(upstream->answer.data, upstream->answer.len, 0, NULL);
        switch (upstream->state) {
        case LOADING:
                if (status == 200)
                        said_ready(upstream);
                else
                        probe_after(upstream, PROBE_PAUSE);
                break;
        case WARMING:
                if (status == 200 && completion_of(json))
                        become_named(upstream);
                else
                        probe_after(upstream, PROBE_PAUSE);
                break;
        case NAMING:
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
        return text_add(&container_of(fetch, struct upstream, probe)->answer, data, len);
}

static void upstream_failed(struct upstream *upstream, const char *reason) {
        cancel_probe(upstream);
        upstream->state = IDLE;
        upstream->events->failed(upstream->events, reason);
}

static void probe_due(struct timer *timer) {
        struct upstream *upstream = container_of(timer, struct upstream, probe_timer);
        struct fetch_request request = { .path = upstream->options.health_path, .timeout = PROBE_TIMEOUT };
        int r;

        if (upstream->start_error[0]) {
                upstream_failed(upstream, upstream->start_error);
                return;
        }
        if (upstream->state == WARMING) {
                request.path = upstream->options.completion_path;
                /* The first answer may take as long as the load may. */
                request.timeout = 0;
                upstream->warmup = make_body(NULL, upstream->options.model, upstream->options.warmup,
                                             strlen(upstream->options.warmup), 1, false);
                request.body = upstream->warmup;
                request.body_len = upstream->warmup ? strlen(upstream->warmup) : 0;
        } else if (upstream->state == NAMING)
                request.path = "/v1/models";
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
                upstream->events->told(upstream->events, assignment + 7, 0);
        else if (strncmp(assignment, "EXTEND_TIMEOUT_USEC=", 20) == 0 &&
                 number_parse(assignment + 20, strlen(assignment + 20), UINT64_MAX / 1000, &usec) == 0)
                upstream->events->told(upstream->events, NULL, usec * 1000);
}

static void start_child(struct upstream *upstream) {
        struct stat st;
        int r;

        /* A server that finds one there does not start. */
        if (upstream->target.socket[0] && lstat(upstream->target.socket, &st) == 0 && S_ISSOCK(st.st_mode))
                (void)unlink(upstream->target.socket);
        upstream->state = LOADING;
        upstream->activity = 0;
        r = child_start(&upstream->child, upstream->options.command);
        if (r < 0)
                snprintf(upstream->start_error, sizeof(upstream->start_error), "Cannot start %s: %s",
                         upstream->options.command[0], strerror(-r));
        probe_after(upstream, 0);
}

static void child_ended(struct child *child, const char *how) {
        struct upstream *upstream = container_of(child, struct upstream, child);
        enum state state = upstream->state;
        char reason[1024], tail[CHILD_TAIL_LINES * 260];

        child_tail(child, tail, sizeof(tail));
        snprintf(reason, sizeof(reason), "%s: %s%s%s", program_of(upstream), how, tail[0] ? ": " : "", tail);
        switch (state) {
        case AWAITING_END:
                start_child(upstream);
                break;
        case LOADING:
        case WARMING:
        case NAMING:
                upstream_failed(upstream, reason);
                break;
        case READY:
        case CHECKING:
                cancel_probe(upstream);
                upstream->state = IDLE;
                upstream->events->lost(upstream->events, reason);
                break;
        case STOPPING:
                upstream->state = IDLE;
                upstream->events->stopped(upstream->events);
                break;
        case IDLE:
                break;
        }
}

static const struct child_events child_events = {
        .line = child_line,
        .notified = child_notified,
        .ended = child_ended,
};

static int upstream_load(struct model *model, struct reactor *reactor, struct load_events *events) {
        struct upstream *upstream = upstream_of(model);
        int r;

        if (!upstream->reactor) {
                r = fetcher_init(&upstream->fetcher, reactor, &upstream->target, 0);
                if (r < 0)
                        return r;
                child_init(&upstream->child, reactor, &child_events, upstream->options.owner);
                upstream->reactor = reactor;
        }
        upstream->events = events;
        upstream->start_error[0] = '\0';
        upstream->stirred = true;
        if (child_is_there(&upstream->child)) {
                upstream->state = AWAITING_END;
                child_kill(&upstream->child);
        } else if (upstream->options.command)
                start_child(upstream);
        else {
                upstream->state = LOADING;
                probe_after(upstream, 0);
        }
        return 0;
}

static bool upstream_progressed(struct model *model) {
        struct upstream *upstream = upstream_of(model);
        uint64_t activity = upstream->reactor ? child_activity(&upstream->child) : 0;
        bool progressed = upstream->stirred || activity > upstream->activity;

        upstream->stirred = false;
        upstream->activity = activity;
        return progressed;
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
        upstream->events = events;
        upstream->state = STOPPING;
        return true;
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

/* Inference, in the workers' threads. */

static struct upstream_session *session_of(struct model_session *session) {
        return container_of(session, struct upstream_session, session);
}

static struct run *run_of(const struct inference *inference) {
        return (struct run *)(uintptr_t)inference->handle;
}

static void run_free(struct run *run) {
        list_remove(&run->link);
        fetch_cancel(&run->fetch);
        text_free(&run->answer);
        free(run->body);
        free(run->error);
        free(run);
}

/* One event of a stream: what stands behind "data:". */
static void take_event(struct run *run, const char *data, size_t len) {
        struct inference_events *events = run->session->events;
        const json_t *text;
        json_t *json;

        while (len > 0 && *data == ' ') {
                data++;
                len--;
        }
        if (len == 6 && memcmp(data, "[DONE]", 6) == 0) {
                run->ended = true;
                return;
        }
        json = json_loadb(data, len, 0, NULL);
        text = completion_of(json);
        if (text) {
                if (json_string_length(text) > 0) {
                        run->delivered = true;
                        events->part(events, run->inference, json_string_value(text), json_string_length(text));
                }
        } else if (!run->error && (!json || json_object_get(json, "error")))
                run->error = json ? error_of(json, 200) : strdup("The model server sent an event that is no JSON");
        json_decref(json);
}

static void take_lines(struct run *run) {
        struct text *text = &run->answer;
        size_t start = 0;
        char *end;

        while ((end = memchr(text->data + start, '\n', text->len - start))) {
                const char *line = text->data + start;
                size_t len = (size_t)(end - line);

                start += len + 1;
                if (len > 0 && line[len - 1] == '\r')
                        len--;
                if (len >= 5 && memcmp(line, "data:", 5) == 0 && !run->ended)
                        take_event(run, line + 5, len - 5);
        }
        text->len -= start;
        memmove(text->data, text->data + start, text->len);
}

static bool run_data(struct fetch *fetch, const char *data, size_t len) {
        struct run *run = container_of(fetch, struct run, fetch);

        if (!text_add(&run->answer, data, len))
                return false;
        if (run->inference->stream && fetch_status(fetch) == 200)
                take_lines(run);
        return true;
}

/* An exchange: what comes is handed on as it comes. */

/* The longest head of an answer. */
#define HEAD_MAX 16384

/* The head has come; HTTP says what is the connection's alone, and what is made anew: RFC 9110, 7.6.1. */
static void take_head(struct run *run, unsigned status) {
        struct inference_events *events = run->session->events;
        struct answer_head head = { .status = status, .length = run->chunked ? ANSWER_LENGTH_UNKNOWN : run->length };
        struct answer_field *fields = calloc(run->field_count + 1, sizeof(*fields));
        const char *at = run->answer.data;

        if (!fields) {
                run->refused = strerror(ENOMEM);
                return;
        }
        for (size_t i = 0; i < run->field_count; i++) {
                fields[i].name = at;
                at += strlen(at) + 1;
                fields[i].value = at;
                at += strlen(at) + 1;
        }
        head.fields = fields;
        head.field_count = run->field_count;
        run->delivered = true;
        events->head(events, run->inference, &head);
        free(fields);
        text_free(&run->answer);
}

/* Returns whether there is room for it, and it is not at odds with another. */
static bool take_field(struct run *run, const char *line, size_t len) {
        const char *colon = memchr(line, ':', len), *value;
        size_t name_len, value_len;

        /* libcurl has refused what has none, but for a line that goes on with the one before, which nobody sends any more. */
        if (!colon || colon == line || memchr(line, '\0', len))
                return true;
        value = colon + 1;
        value_len = len - (size_t)(value - line);
        while (value_len > 0 && (*value == ' ' || *value == '\t')) {
                value++;
                value_len--;
        }
        while (value_len > 0 && (value[value_len - 1] == ' ' || value[value_len - 1] == '\t'))
                value_len--;
        for (size_t i = 0; i < value_len; i++)
                if (((unsigned char)value[i] < 0x20 && value[i] != '\t') || value[i] == 0x7f)
                        return false;
        name_len = (size_t)(colon - line);
        if (name_len == 14 && strncasecmp(line, "Content-Length", 14) == 0) {
                uint64_t length;

                if (number_parse(value, value_len, INT64_MAX, &length) != 0 ||
                    (run->length != ANSWER_LENGTH_UNKNOWN && run->length != length))
                        return false;
                run->length = length;
        }
        run->chunked |= name_len == 17 && strncasecmp(line, "Transfer-Encoding", 17) == 0;
        run->field_count++;
        return run->answer.len + len + 2 <= HEAD_MAX && text_add(&run->answer, line, name_len) &&
               text_add(&run->answer, "", 1) && text_add(&run->answer, value, value_len) && text_add(&run->answer, "", 1);
}

static bool exchange_line(struct fetch *fetch, const char *line, size_t len) {
        struct run *run = container_of(fetch, struct run, fetch);
        long status;

        /* Fields behind the body may be left out: RFC 9110, 6.5.1. */
        if (run->delivered)
                return true;
        /* A new head: the one before was that of an interim answer. */
        if (len >= 5 && memcmp(line, "HTTP/", 5) == 0) {
                text_free(&run->answer);
                run->field_count = 0;
                run->length = ANSWER_LENGTH_UNKNOWN;
                run->chunked = false;
                return true;
        }
        if (len > 0) {
                if (!take_field(run, line, len))
                        run->refused = "The head of the model server's answer is malformed, or too long";
                return !run->refused;
        }
        status = fetch_status(fetch);
        if (status < 200)
                return true;
        if (status == 503 && !run->inference->resent) {
                run->unavailable = true;
                return false;
        }
        take_head(run, (unsigned)status);
        return !run->refused;
}

static bool exchange_data(struct fetch *fetch, const char *data, size_t len) {
        struct run *run = container_of(fetch, struct run, fetch);
        struct inference_events *events = run->session->events;

        events->part(events, run->inference, data, len);
        return true;
}

static void run_failed(struct run *run, const char *reason) {
        struct inference_events *events = run->session->events;
        struct inference *inference = run->inference;
        char text[1024];

        snprintf(text, sizeof(text), "%s", reason ? reason : strerror(ENOMEM));
        run_free(run);
        events->failed(events, inference, text);
}

/* The connection broke, or the upstream says that it cannot: perhaps it is lost, and the next one can. */
static void run_lost(struct run *run, const char *reason) {
        struct inference_events *events = run->session->events;
        struct inference *inference = run->inference;
        char text[1024];

        if (run->delivered) {
                snprintf(text, sizeof(text), "The answer was cut short: %s", reason);
                run_failed(run, text);
                return;
        }
        snprintf(text, sizeof(text), "%s", reason);
        run_free(run);
        events->lost(events, inference, text);
}

static void run_done(struct fetch *fetch, long status, const char *error) {
        struct run *run = container_of(fetch, struct run, fetch);
        struct inference_events *events = run->session->events;
        struct inference *inference = run->inference;
        const json_t *text;
        json_t *json;

        if (status == 0) {
                if (run->refused)
                        run_failed(run, run->refused);
                else
                        run_lost(run, run->unavailable ? "The model server answered HTTP 503" : error);
                return;
        }
        if (inference->is_exchange) {
                if (!run->delivered) {
                        run_lost(run, "The model server's answer ended within its head");
                        return;
                }
                run_free(run);
                events->answered(events, inference, "", 0);
                return;
        }
        if (status == 200 && inference->stream) {
                if (run->error)
                        run_failed(run, run->error);
                else if (!run->ended)
                        run_lost(run, "The stream ended without saying so");
                else {
                        run_free(run);
                        events->answered(events, inference, "", 0);
                }
                return;
        }
        json = run->answer.data ? json_loadb(run->answer.data, run->answer.len, 0, NULL) : NULL;
        text = status == 200 ? completion_of(json) : NULL;
        if (text) {
                /* The text is the JSON's, the inference the caller's. */
                run_free(run);
                events->answered(events, inference, json_string_value(text), json_string_length(text));
        } else {
                _cleanup_free_ char *reason = status == 200 ? strdup("The model server's answer is no completion") :
                                                              error_of(json, status);

                if (status == 503 && reason)
                        run_lost(run, reason);
                else
                        run_failed(run, reason);
        }
        json_decref(json);
}

static int start_completion(struct run *run, const char *name) {
        const struct inference *inference = run->inference;
        struct fetch_request request = { .path = run->session->completion_path };

        run->fetch.data = run_data;
        run->body = make_body(run->session->options, name, inference_prompt(inference), inference->prompt_len,
                              run->session->max_tokens, inference->stream);
        /* The one string that JSON cannot hold, RFC 8259. */
        if (!run->body)
                return -EILSEQ;
        request.body = run->body;
        request.body_len = strlen(run->body);
        return fetch_start(&run->fetch, &run->session->fetcher, &request);
}

static int start_exchange(struct run *run) {
        struct inference_events *events = run->session->events;
        const struct exchange *exchange = events->exchange(events, run->inference);
        const struct fetch_request request = {
                .method = exchange->method,
                .path = exchange->target,
                .body = exchange->body,
                .body_len = exchange->body_len,
                .fields = exchange->fields,
                .field_count = exchange->field_count,
        };

        run->fetch.line = exchange_line;
        run->fetch.data = exchange_data;
        return fetch_start(&run->fetch, &run->session->fetcher, &request);
}

static int upstream_infer(struct model_session *model_session, const char *name, struct inference *inference) {
        struct upstream_session *session = session_of(model_session);
        struct run *run = calloc(1, sizeof(*run));
        int r;

        if (!run)
                return -ENOMEM;
        list_init(&run->link);
        run->session = session;
        run->inference = inference;
        run->fetch.done = run_done;
        r = inference->is_exchange ? start_exchange(run) : start_completion(run, name);
        if (r < 0) {
                run_free(run);
                return r;
        }
        list_append(&session->runs, &run->link);
        inference->handle = (uintptr_t)run;
        return 0;
}

static void upstream_pause(struct model_session *session, struct inference *inference, bool paused) {
        (void)session;
        fetch_pause(&run_of(inference)->fetch, paused);
}

static void upstream_cancel(struct model_session *session, struct inference *inference) {
        (void)session;
        run_free(run_of(inference));
}

static void upstream_session_free(struct model_session *model_session) {
        struct upstream_session *session = session_of(model_session);

        while (!list_is_empty(&session->runs))
                run_free(container_of(session->runs.next, struct run, link));
        fetcher_deinit(&session->fetcher);
        json_decref(session->options);
        free(session);
}

static int upstream_session_new(struct model *model, struct reactor *reactor, struct inference_events *events,
                                struct model_session **session) {
        struct upstream *upstream = upstream_of(model);
        struct upstream_session *new = calloc(1, sizeof(*new));
        int r;

        if (!new)
                return -ENOMEM;
        new->session.model = model;
        new->events = events;
        new->completion_path = upstream->options.completion_path;
        new->max_tokens = upstream->options.max_tokens;
        list_init(&new->runs);
        r = fetcher_init(&new->fetcher, reactor, &upstream->target, upstream->options.max_connections);
        if (r < 0) {
                free(new);
                return r;
        }
        /* Its own: reference counts are not for several threads. */
        if (upstream->options.completion_options)
                new->options = json_loads(upstream->options.completion_options, 0, NULL);
        *session = &new->session;
        return 0;
}

static const struct model_ops upstream_ops = {
        .name = "upstream",
        .needs_prompt = true,
        .free = upstream_free,
        .load = upstream_load,
        .progressed = upstream_progressed,
        .unload = upstream_unload,
        .stop = upstream_stop,
        .suspect = upstream_suspect,
        .session_new = upstream_session_new,
        .session_free = upstream_session_free,
        .infer = upstream_infer,
        .pause = upstream_pause,
        .cancel = upstream_cancel,
};

int upstream_check(const struct upstream_options *options, char *error, size_t size) {
        struct target target;
        regex_t regex;
        json_t *json;
        int r;

        if (target_parse(&target, options->url) < 0) {
                snprintf(error, size, "--upstream: \"%s\" is neither http://HOST:PORT nor unix:PATH", options->url);
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
                json = json_loads(options->completion_options, 0, NULL);
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
