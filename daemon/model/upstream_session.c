#include "daemon/model/upstream_session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/number.h"
#include "common/util.h"
#include "daemon/model/completion.h"

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
        json = json_read(data, len);
        text = completion_text(json);
        if (text) {
                if (json_string_length(text) > 0) {
                        run->delivered = true;
                        events->part(events, run->inference, json_string_value(text), json_string_length(text));
                }
        } else if (!run->error && (!json || json_object_get(json, "error")))
                run->error = json            ? completion_error(json, 200) :
                             errno == ENOMEM ? strdup(strerror(ENOMEM)) :
                                               strdup("The model server sent an event that is no JSON");
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
        bool no_memory = false;
        json_t *json = NULL;

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
        if (run->answer.data) {
                json = json_read(run->answer.data, run->answer.len);
                no_memory = !json && errno == ENOMEM;
        }
        text = status == 200 ? completion_text(json) : NULL;
        if (text) {
                /* The text is the JSON's, the inference the caller's. */
                run_free(run);
                events->answered(events, inference, json_string_value(text), json_string_length(text));
        } else {
                _cleanup_free_ char *reason = no_memory     ? strdup(strerror(ENOMEM)) :
                                              status == 200 ? strdup("The model server's answer is no completion") :
                                                              completion_error(json, status);

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
        run->body = completion_body(run->session->options, name, inference_prompt(inference), inference->prompt_len,
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

int upstream_infer(struct model_session *model_session, const char *name, struct inference *inference) {
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

void upstream_pause(struct model_session *session, struct inference *inference, bool paused) {
        (void)session;
        fetch_pause(&run_of(inference)->fetch, paused);
}

void upstream_cancel(struct model_session *session, struct inference *inference) {
        (void)session;
        run_free(run_of(inference));
}

void upstream_session_free(struct model_session *model_session) {
        struct upstream_session *session = session_of(model_session);

        while (!list_is_empty(&session->runs))
                run_free(container_of(session->runs.next, struct run, link));
        fetcher_deinit(&session->fetcher);
        json_decref(session->options);
        free(session);
}

int upstream_session_new(const struct upstream_session_options *options, struct model *model, struct reactor *reactor,
                         struct inference_events *events, struct model_session **session) {
        struct upstream_session *new = calloc(1, sizeof(*new));
        int r;

        if (!new)
                return -ENOMEM;
        new->session.model = model;
        new->events = events;
        new->completion_path = options->completion_path;
        new->max_tokens = options->max_tokens;
        list_init(&new->runs);
        r = fetcher_init(&new->fetcher, reactor, options->target, options->max_connections);
        if (r < 0) {
                free(new);
                return r;
        }
        /* Its own: reference counts are not for several threads. */
        if (options->completion_options) {
                new->options = json_read(options->completion_options, strlen(options->completion_options));
                if (!new->options) {
                        r = -errno;
                        upstream_session_free(&new->session);
                        return r;
                }
        }
        *session = &new->session;
        return 0;
}
