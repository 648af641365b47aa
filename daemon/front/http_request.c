#include "daemon/front/http_request.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/json.h"
#include "common/util.h"
#include "daemon/front/fields.h"
#include "daemon/log.h"

/* An answer that is no longer than this, and here as a whole, leaves in one piece. */
#define BUFFERED_MAX 65536

/* So much of an answer is held for a client that does not read it; from the lower one on more is taken again. */
#define OUTPUT_HIGH (256u << 10)
#define OUTPUT_LOW (64u << 10)

/* What it is told that waits: a comment, by the HTML standard, 9.2.6. */
static const char comment[] = ": waiting\n\n";

static struct http_request *request_of_owner(struct request_owner *owner) {
        return container_of(owner, struct http_request, owner);
}

void http_request_attend_later(struct http_request *request) {
        struct http *http = http_of(request);

        if (list_is_empty(&request->attention))
                list_append(&http->attention, &request->attention);
        reactor_queue(http->reactor, &http->work);
}

/* It waits no more: no comment is due. */
static void stop_comments(struct http_request *request) {
        list_remove(&request->kept);
}

static size_t output_left(const struct http_request *request) {
        return request->output_end - request->output_start;
}

/* It cannot be answered, or not to the end: its client sees that of the connection. */
static void cut_for_memory(struct http_request *request) {
        if (!request->cut)
                log_warning("Cannot answer an HTTP request, ending its connection: %s", strerror(ENOMEM));
        request->ended = request->cut = true;
}

/* What cannot be kept cuts the answer. */
static void output_add(struct http_request *request, const char *data, size_t len) {
        if (len == 0)
                return;
        if (request->output_start > 0 && request->output_size - request->output_end < len) {
                memmove(request->output, request->output + request->output_start, output_left(request));
                request->output_end -= request->output_start;
                request->output_start = 0;
        }
        if (request->output_size - request->output_end < len) {
                size_t size = MAX(request->output_size * 2, request->output_end + len);
                char *grown = realloc(request->output, size);

                if (!grown) {
                        cut_for_memory(request);
                        return;
                }
                request->output = grown;
                request->output_size = size;
        }
        memcpy(request->output + request->output_end, data, len);
        /* analyzer-suppress: what was there before is gone with realloc() */
        request->output_end += len;
}

/* The body, piece by piece, when libmicrohttpd can send some; what there is not yet resumes it. */
static ssize_t read_output(void *user, uint64_t position, char *buffer, size_t max) {
        struct http_request *request = user;
        size_t n = MIN(output_left(request), max);

        (void)position;
        if (n > 0) {
                memcpy(buffer, request->output + request->output_start, n);
                request->output_start += n;
                if (request->paused && output_left(request) < OUTPUT_LOW)
                        http_request_attend_later(request);
                return (ssize_t)n;
        }
        if (request->ended)
                return request->cut ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
        request->suspended = true;
        MHD_suspend_connection(request->connection);
        return 0;
}

void http_request_drop_response(struct http_request *request) {
        if (request->response)
                MHD_destroy_response(STEAL_POINTER(request->response));
        request->buffer = NULL;
}

bool http_is_stopping(const struct http *http) {
        return gate_state(http->queue->stop) != GATE_PENDING || http->queue->leaving;
}

void http_request_queue_response(struct http_request *request) {
        if (http_is_stopping(http_of(request)))
                (void)MHD_add_response_header(request->response, "Connection", "close");
        request->queued = MHD_queue_response(request->connection, request->status, request->response) == MHD_YES;
        http_request_drop_response(request);
        if (!request->queued)
                cut_for_memory(request);
}

void http_request_reply(struct http_request *request, unsigned status, const char *type, const char *text, size_t len) {
        http_request_drop_response(request);
        request->status = status;
        request->ended = true;
        request->response = MHD_create_response_from_buffer(len, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
        if (!request->response)
                cut_for_memory(request);
        else if (type)
                (void)MHD_add_response_header(request->response, "Content-Type", type);
}

void http_request_reply_field(struct http_request *request, const char *name, const char *value) {
        if (request->response)
                (void)MHD_add_response_header(request->response, name, value);
}

/* The error object that clients of the OpenAI interface show, for the caller to free(). NULL: out of memory. */
static char *format_error(unsigned status, const char *code, const char *message) {
        json_t *json = json_pack("{s{so ss sn ss}}", "error", "message", status_text(message), "type",
                                 status < 500 ? "invalid_request_error" : "server_error", "param", "code", code);
        char *text = json_write(json);

        json_decref(json);
        return text;
}

void http_request_reply_failure(struct http_request *request, unsigned status, const char *code, const char *message) {
        _cleanup_free_ char *text = format_error(status, code, message);

        http_request_reply(request, status, "application/json", text ? text : "", text ? strlen(text) : 0);
}

void http_request_reply_error(struct http_request *request, enum protocol_code code, const char *message) {
        static const unsigned statuses[] = {
                [PROTOCOL_BAD_REQUEST] = 400,   [PROTOCOL_TOO_LARGE] = 413,     [PROTOCOL_QUEUE_FULL] = 503,
                [PROTOCOL_LOAD_FAILED] = 503,   [PROTOCOL_SHUTTING_DOWN] = 503, [PROTOCOL_TIMED_OUT] = 504,
                [PROTOCOL_INFERENCE_FAILED] = 502,
        };

        http_request_reply_failure(request, statuses[code], protocol_code_name(code), message);
        if (statuses[code] == 503)
                http_request_reply_field(request, "Retry-After", code == PROTOCOL_SHUTTING_DOWN ? HTTP_RETRY_SOON : HTTP_RETRY_LATER);
}

/* What the model answers. */

static bool is_connections_own(const struct answer_head *head, const char *name) {
        if (fields_is_hop_by_hop(name))
                return true;
        for (size_t i = 0; i < head->field_count; i++)
                if (strcasecmp(head->fields[i].name, "Connection") == 0 && fields_is_listed(head->fields[i].value, name))
                        return true;
        return false;
}

static bool is_event_stream(const struct answer_head *head) {
        static const char type[] = "text/event-stream";

        for (size_t i = 0; i < head->field_count; i++)
                if (strcasecmp(head->fields[i].name, "Content-Type") == 0)
                        return strncasecmp(head->fields[i].value, type, sizeof(type) - 1) == 0;
        return false;
}

static const struct exchange *request_exchange(struct request_owner *owner, struct request *request) {
        (void)request;
        return &request_of_owner(owner)->exchange;
}

static struct MHD_Response *new_stream(struct http_request *request, uint64_t length) {
        return MHD_create_response_from_callback(length == ANSWER_LENGTH_UNKNOWN ? MHD_SIZE_UNKNOWN : length, 16384, read_output,
                                                 request, NULL);
}

static void request_head(struct request_owner *owner, struct request *base, const struct answer_head *head) {
        struct http_request *request = request_of_owner(owner);
        const bool has_body = strcmp(request->exchange.method, "HEAD") != 0 && head->status != MHD_HTTP_NO_CONTENT &&
                              head->status != MHD_HTTP_NOT_MODIFIED;

        (void)base;
        stop_comments(request);
        http_request_attend_later(request);
        request->status = head->status;
        if (request->commented) {
                request->answering = head->status == 200 && is_event_stream(head);
                request->collects = !request->answering;
                if (request->collects) {
                        request->buffer = malloc(BUFFERED_MAX);
                        request->buffer_len = request->buffer ? BUFFERED_MAX : 0;
                }
                return;
        }
        if (has_body && head->length <= BUFFERED_MAX) {
                request->buffer = malloc(MAX(head->length, (uint64_t)1));
                request->buffer_len = head->length;
                if (request->buffer)
                        request->response = MHD_create_response_from_buffer(head->length, request->buffer,
                                                                            MHD_RESPMEM_MUST_FREE);
                if (!request->response)
                        free(STEAL_POINTER(request->buffer));
        } else
                request->response = new_stream(request, head->length);
        for (size_t i = 0; request->response && i < head->field_count; i++)
                if (!is_connections_own(head, head->fields[i].name))
                        (void)MHD_add_response_header(request->response, head->fields[i].name, head->fields[i].value);
        if (!request->response)
                cut_for_memory(request);
}

static void request_part(struct request_owner *owner, struct request *base, const char *data, size_t len) {
        struct http_request *request = request_of_owner(owner);

        http_request_attend_later(request);
        if (request->cut)
                return;
        if (request->buffer || request->collects) {
                len = MIN(len, request->buffer_len - request->filled);
                if (request->buffer && len > 0)
                        memcpy(request->buffer + request->filled, data, len);
                request->filled += len;
                return;
        }
        output_add(request, data, len);
        if (!request->paused && output_left(request) > OUTPUT_HIGH) {
                request->paused = true;
                request_pause(http_of(request)->queue, base, true);
        }
}

/* An event that ends a stream which has begun: `json` is an object. */
static void add_event(struct http_request *request, const char *json) {
        static const char before[] = "data: ", after[] = "\n\n";

        if (!json) {
                cut_for_memory(request);
                return;
        }
        output_add(request, before, sizeof(before) - 1);
        output_add(request, json, strlen(json));
        output_add(request, after, sizeof(after) - 1);
}

/* What the model said instead of a stream. */
static void add_collected(struct http_request *request) {
        json_t *json = json_read(request->buffer ? request->buffer : "", request->filled);
        _cleanup_free_ char *text = NULL;
        char message[64];

        if (json_object_get(json, "error"))
                text = json_write(json);
        else {
                snprintf(message, sizeof(message), "The model server answered HTTP %u, and no stream", request->status);
                text = format_error(502, protocol_code_name(PROTOCOL_INFERENCE_FAILED), message);
        }
        json_decref(json);
        add_event(request, text);
}

static void request_answered(struct request_owner *owner, struct request *base, const char *data, size_t len) {
        struct http_request *request = request_of_owner(owner);

        (void)data;
        (void)len;
        http_request_attend_later(request);
        if (base->inference.id_len == 0) {
                http_request_reply(request, MHD_HTTP_NO_CONTENT, NULL, "", 0);
                return;
        }
        if (request->collects)
                add_collected(request);
        request->ended = true;
        /* It is shorter than it said. */
        if (request->buffer && !request->collects && request->filled < request->buffer_len)
                request->cut = true;
}

static void request_failed(struct request_owner *owner, struct request *base, enum protocol_code code, const char *message) {
        struct http_request *request = request_of_owner(owner);

        (void)base;
        stop_comments(request);
        http_request_attend_later(request);
        if (!request->queued) {
                http_request_reply_error(request, code, message);
                return;
        }
        request->ended = true;
        if (request->commented && !request->answering) {
                _cleanup_free_ char *text = format_error(500, protocol_code_name(code), message);

                add_event(request, text);
        } else
                request->cut = true;
}

/* Whether it asks for a stream: its body is a JSON object that says so. */
static bool asks_for_stream(const struct http_request *request) {
        json_t *json = json_read(request->body ? request->body : "", request->body_len);
        bool streams = json_is_true(json_object_get(json, "stream"));

        json_decref(json);
        return streams;
}

static void request_waiting(struct request_owner *owner, struct request *base) {
        struct http_request *request = request_of_owner(owner);
        struct http *http = http_of(request);

        if (http->group->stream_keepalive == 0 || base->inference.id_len == 0)
                return;
        /* One that waits again was asked before. */
        if (!base->inference.resent)
                request->streams = asks_for_stream(request);
        /* One that a model has lost may still be told. */
        if (!request->streams || !list_is_empty(&request->kept))
                return;
        list_append(&http->kept, &request->kept);
        if (!timer_is_set(&http->keepalive))
                reactor_set_timer(http->reactor, &http->keepalive, timer_now() + http->group->stream_keepalive);
}

const struct request_ops http_request_ops = {
        .waiting = request_waiting,
        .part = request_part,
        .answered = request_answered,
        .failed = request_failed,
        .exchange = request_exchange,
        .head = request_head,
};

void http_comments_due(struct timer *timer) {
        struct http *http = container_of(timer, struct http, keepalive);

        for (struct list *i = http->kept.next; i != &http->kept; i = i->next) {
                struct http_request *request = container_of(i, struct http_request, kept);

                if (!request->queued) {
                        request->status = MHD_HTTP_OK;
                        request->response = new_stream(request, ANSWER_LENGTH_UNKNOWN);
                        if (!request->response)
                                continue;
                        http_request_reply_field(request, "Content-Type", "text/event-stream");
                        http_request_reply_field(request, "Cache-Control", "no-cache");
                        request->commented = true;
                }
                /* Who does not read has enough of them. */
                if (output_left(request) < sizeof(comment))
                        output_add(request, comment, sizeof(comment) - 1);
                http_request_attend_later(request);
        }
        if (!list_is_empty(&http->kept))
                reactor_set_timer(http->reactor, &http->keepalive, timer_now() + http->group->stream_keepalive);
}

/* The client has gone, or cannot be told: what it had waiting or in flight is cancelled. */
static void abandon(struct http_request *request) {
        stop_comments(request);
        request_owner_deinit(http_of(request)->queue, &request->owner);
        request->ended = request->cut = true;
}

static enum MHD_Result copy_field(void *user, enum MHD_ValueKind kind, const char *name, const char *value) {
        (void)kind;
        return MHD_add_response_header(user, name, value);
}

/* An answer that takes its time after all. Returns false: out of memory. */
static bool stream_buffered(struct http_request *request) {
        struct MHD_Response *stream = new_stream(request, request->buffer_len);

        if (!stream) {
                cut_for_memory(request);
                return false;
        }
        (void)MHD_get_response_headers(request->response, copy_field, stream);
        output_add(request, request->buffer, request->filled);
        http_request_drop_response(request);
        request->response = stream;
        return !request->cut;
}

/*
 * libmicrohttpd takes what it resumes for readable, and where it stood when it was suspended: before it has seen that there is
 * an answer now it reads, and if that is the end of file it ends the connection. Not so with those that have a time-out of
 * their own: it has a look at each before it reads.
 */
static void resume(struct http_request *request) {
        if (request->client->is_unix && list_is_empty(&request->resumed)) {
                (void)MHD_set_connection_option(request->connection, MHD_CONNECTION_OPTION_TIMEOUT, HTTP_TIMEOUT);
                list_append(&http_of(request)->resumed, &request->resumed);
        }
        MHD_resume_connection(request->connection);
}

void http_request_looked_at(struct http_request *request) {
        if (list_is_empty(&request->resumed))
                return;
        list_remove(&request->resumed);
        (void)MHD_set_connection_option(request->connection, MHD_CONNECTION_OPTION_TIMEOUT, 0U);
}

void http_request_attend(struct http_request *request) {
        const bool resumes = request->suspended;

        if (request->client->gone && !request->ended)
                abandon(request);
        if (!request->queued) {
                if (request->response && request->buffer && !request->ended && !stream_buffered(request))
                        abandon(request);
                if (request->cut)
                        http_request_drop_response(request);
                else if (request->response)
                        http_request_queue_response(request);
                else
                        return;
        } else if (!request->ended && output_left(request) == 0 && !request->paused)
                return;
        if (request->paused && output_left(request) < OUTPUT_LOW && !list_is_empty(&request->owner.requests)) {
                request->paused = false;
                request_pause(http_of(request)->queue,
                              container_of(request->owner.requests.next, struct request, owner_link), false);
        }
        if (resumes) {
                request->suspended = false;
                resume(request);
        }
}
