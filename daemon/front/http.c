#include "daemon/front/http.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "common/number.h"
#include "common/util.h"

/* For the head of a request, and for the head of its answer. */
#define CONNECTION_MEMORY 32768

/* An answer that is no longer than this, and here as a whole, leaves in one piece. */
#define BUFFERED_MAX 65536

/* So much of an answer is held for a client that does not read it; from the lower one on more is taken again. */
#define OUTPUT_HIGH (256u << 10)
#define OUTPUT_LOW (64u << 10)

/* So much of a body that is too long is read, to be heard; then the connection is cut. */
#define DISCARD_MAX (64u << 20)

/* A peer that has vanished without a word is found gone after some two minutes: tcp(7). */
#define TCP_IDLE_SECONDS 60
#define TCP_PROBE_SECONDS 10
#define TCP_PROBES 6

/* Seconds after which a client may try again: a load may be over soon; one that has failed was tried already. */
#define RETRY_SOON "1"
#define RETRY_LATER "10"

/* What it is told that waits: a comment, by the HTML standard, 9.2.6. */
static const char comment[] = ": waiting\n\n";

struct http_request;

struct http_client {
        struct watch watch;                     /* for its hang-up alone: what it sends is libmicrohttpd's to read */
        struct http *http;
        struct http_request *request;           /* that it is at; NULL: none */
        bool is_unix;
        bool gone;
};

struct http_request {
        struct request_owner owner;
        struct list link;
        struct list attention;
        struct list kept;
        struct http_client *client;
        struct MHD_Connection *connection;
        char *target;                           /* as it came */
        const char *path;                       /* within it: without what an absolute one begins with, */
        const char *authority;                  /* which is this; or NULL */
        size_t authority_len;
        struct exchange exchange;
        char *fields;                           /* what the exchange's point into */
        char *body;
        size_t body_len;
        size_t body_size;                       /* counts as held */
        uint64_t discarded;
        struct MHD_Response *response;          /* until it is queued */
        unsigned status;
        char *buffer;                           /* for all of the answer, the response's; NULL: it comes piece by piece */
        size_t buffer_len;
        size_t filled;
        char *output;                           /* [start, end) is still to be sent */
        size_t output_start;
        size_t output_end;
        size_t output_size;
        bool begun : 1;
        bool is_http_1_0 : 1;
        bool whole : 1;                         /* all of it has come */
        bool too_large : 1;
        bool overloaded : 1;
        bool streams : 1;                       /* its body says so; known when it waits */
        bool suspended : 1;
        bool queued : 1;                        /* the response is libmicrohttpd's */
        bool ended : 1;                         /* nothing more comes of the answer */
        bool cut : 1;                           /* and it is not whole */
        bool paused : 1;
        bool commented : 1;                     /* the answer was begun before there was one */
        bool answering : 1;                     /* then it is the model's */
        bool collects : 1;                      /* what the model says is no stream, but why there is none */
};

static struct http_request *request_of_owner(struct request_owner *owner) {
        return container_of(owner, struct http_request, owner);
}

static struct http *http_of(const struct http_request *request) {
        return request->client->http;
}

static void attend_later(struct http_request *request) {
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

/* What cannot be kept cuts the answer. */
static void output_add(struct http_request *request, const char *data, size_t len) {
        if (request->output_start > 0 && request->output_size - request->output_end < len) {
                memmove(request->output, request->output + request->output_start, output_left(request));
                request->output_end -= request->output_start;
                request->output_start = 0;
        }
        if (request->output_size - request->output_end < len) {
                size_t size = MAX(request->output_size * 2, request->output_end + len);
                char *grown = realloc(request->output, size);

                if (!grown) {
                        request->ended = request->cut = true;
                        return;
                }
                request->output = grown;
                request->output_size = size;
        }
        memcpy(request->output + request->output_end, data, len);
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
                        attend_later(request);
                return (ssize_t)n;
        }
        if (request->ended)
                return request->cut ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
        request->suspended = true;
        MHD_suspend_connection(request->connection);
        return 0;
}

static void drop_response(struct http_request *request) {
        if (request->response)
                MHD_destroy_response(STEAL_POINTER(request->response));
        request->buffer = NULL;
}

static bool is_stopping(const struct http *http) {
        return gate_state(http->queue->stop) != GATE_PENDING || http->queue->leaving;
}

/* Lets the client have what was made for it. */
static void queue_response(struct http_request *request) {
        if (is_stopping(http_of(request)))
                (void)MHD_add_response_header(request->response, "Connection", "close");
        request->queued = MHD_queue_response(request->connection, request->status, request->response) == MHD_YES;
        drop_response(request);
        if (!request->queued)
                request->ended = request->cut = true;
}

/* An answer of msd's own, of `len` bytes at `text`, which are copied. */
static void reply(struct http_request *request, unsigned status, const char *type, const char *text, size_t len) {
        drop_response(request);
        request->status = status;
        request->ended = true;
        request->response = MHD_create_response_from_buffer(len, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
        if (!request->response)
                request->cut = true;
        else if (type)
                (void)MHD_add_response_header(request->response, "Content-Type", type);
}

static void reply_field(struct http_request *request, const char *name, const char *value) {
        if (request->response)
                (void)MHD_add_response_header(request->response, name, value);
}

/* The error object that clients of the OpenAI interface show, for the caller to free(). NULL: out of memory. */
static char *format_error(unsigned status, const char *code, const char *message) {
        json_t *json = json_pack("{s{so ss sn ss}}", "error", "message", status_text(message), "type",
                                 status < 500 ? "invalid_request_error" : "server_error", "param", "code", code);
        char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

        json_decref(json);
        return text;
}

static void reply_error_text(struct http_request *request, unsigned status, const char *code, const char *message) {
        _cleanup_free_ char *text = format_error(status, code, message);

        reply(request, status, "application/json", text ? text : "", text ? strlen(text) : 0);
}

static void reply_error(struct http_request *request, enum protocol_code code, const char *message) {
        static const unsigned statuses[] = {
                [PROTOCOL_BAD_REQUEST] = 400,   [PROTOCOL_TOO_LARGE] = 413,     [PROTOCOL_QUEUE_FULL] = 503,
                [PROTOCOL_LOAD_FAILED] = 503,   [PROTOCOL_SHUTTING_DOWN] = 503, [PROTOCOL_TIMED_OUT] = 504,
                [PROTOCOL_INFERENCE_FAILED] = 502,
        };

        reply_error_text(request, statuses[code], protocol_code_name(code), message);
        if (statuses[code] == 503)
                reply_field(request, "Retry-After", code == PROTOCOL_SHUTTING_DOWN ? RETRY_SOON : RETRY_LATER);
}

/* What the model answers. */

/* Fields that concern one connection alone, and those that are made anew: RFC 9110, 7.6.1 and 8.6. */
static bool is_hop_by_hop(const char *name) {
        static const char *const names[] = {
                "Connection", "Content-Length", "Keep-Alive",        "Proxy-Authenticate", "Proxy-Authorization",
                "Proxy-Connection", "TE",       "Trailer", "Transfer-Encoding", "Upgrade",
        };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (strcasecmp(name, names[i]) == 0)
                        return true;
        return false;
}

/* Whether `name` is one of those in the comma-separated `list`. */
static bool is_listed(const char *list, const char *name) {
        size_t name_len = strlen(name);

        while (*list) {
                size_t len;

                list += strspn(list, ", \t");
                len = strcspn(list, ", \t");
                if (len == name_len && strncasecmp(list, name, len) == 0)
                        return true;
                list += len;
        }
        return false;
}

static bool is_connections_own(const struct answer_head *head, const char *name) {
        if (is_hop_by_hop(name))
                return true;
        for (size_t i = 0; i < head->field_count; i++)
                if (strcasecmp(head->fields[i].name, "Connection") == 0 && is_listed(head->fields[i].value, name))
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
        attend_later(request);
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
                request->ended = request->cut = true;
}

static void request_part(struct request_owner *owner, struct request *base, const char *data, size_t len) {
        struct http_request *request = request_of_owner(owner);

        attend_later(request);
        if (request->cut)
                return;
        if (request->buffer || request->collects) {
                len = MIN(len, request->buffer_len - request->filled);
                if (len > 0)
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
                request->cut = true;
                return;
        }
        output_add(request, before, sizeof(before) - 1);
        output_add(request, json, strlen(json));
        output_add(request, after, sizeof(after) - 1);
}

/* What the model said instead of a stream. */
static void add_collected(struct http_request *request) {
        json_t *json = json_loadb(request->buffer ? request->buffer : "", request->filled, 0, NULL);
        _cleanup_free_ char *text = NULL;
        char message[64];

        if (json_object_get(json, "error"))
                text = json_dumps(json, JSON_COMPACT);
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
        attend_later(request);
        if (base->inference.id_len == 0) {
                reply(request, MHD_HTTP_NO_CONTENT, NULL, "", 0);
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
        attend_later(request);
        if (!request->queued) {
                reply_error(request, code, message);
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
        json_t *json = json_loadb(request->body ? request->body : "", request->body_len, 0, NULL);
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

static const struct request_ops request_ops = {
        .waiting = request_waiting,
        .part = request_part,
        .answered = request_answered,
        .failed = request_failed,
        .exchange = request_exchange,
        .head = request_head,
};

/* One timer for all: the first comment comes sooner, further ones every so often. */
static void keepalive_due(struct timer *timer) {
        struct http *http = container_of(timer, struct http, keepalive);

        for (struct list *i = http->kept.next; i != &http->kept; i = i->next) {
                struct http_request *request = container_of(i, struct http_request, kept);

                if (!request->queued) {
                        request->status = MHD_HTTP_OK;
                        request->response = new_stream(request, ANSWER_LENGTH_UNKNOWN);
                        if (!request->response)
                                continue;
                        reply_field(request, "Content-Type", "text/event-stream");
                        reply_field(request, "Cache-Control", "no-cache");
                        request->commented = true;
                }
                /* Who does not read has enough of them. */
                if (output_left(request) < sizeof(comment))
                        output_add(request, comment, sizeof(comment) - 1);
                attend_later(request);
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

        if (!stream)
                return false;
        (void)MHD_get_response_headers(request->response, copy_field, stream);
        output_add(request, request->buffer, request->filled);
        drop_response(request);
        request->response = stream;
        return !request->cut;
}

/* Hands on what there is to say, and has libmicrohttpd go on with it. */
static void attend(struct http_request *request) {
        const bool resumes = request->suspended;

        if (request->client->gone && !request->ended)
                abandon(request);
        if (!request->queued) {
                if (request->response && request->buffer && !request->ended && !stream_buffered(request))
                        abandon(request);
                if (request->cut)
                        drop_response(request);
                else if (request->response)
                        queue_response(request);
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
                MHD_resume_connection(request->connection);
        }
}

/* What comes. */

/* More fields of the name Connection nobody needs. */
#define CONNECTION_FIELDS_MAX 8

struct field_list {
        struct http_request *request;
        const char *connections[CONNECTION_FIELDS_MAX];
        size_t connection_count;
        const char *host;
        const char *request_id;
        const char *expect;
        size_t hosts;
        size_t lengths;
        size_t encodings;
        bool chunked;
        bool malformed;
        size_t count;
        size_t size;                    /* what all need as lines */
        char *at;
        const char **lines;
};

#define LETTERS "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

/* A name of a field, or of a method: RFC 9110, 5.6.2. */
static bool is_token(const char *text) {
        return *text && !text[strspn(text, "!#$%&'*+-.^_`|~" LETTERS)];
}

/* Host and port, of which `len` bytes say so: RFC 3986, 3.2, without a user. */
static bool is_authority(const char *text, size_t len) {
        return strspn(text, "-._~%!$&'()*+,;=:[]" LETTERS) >= len;
}

/* Nobody is to take the end of a value for the end of a line: RFC 9110, 5.5. */
static bool is_field(const char *name, const char *value) {
        if (!is_token(name))
                return false;
        for (const unsigned char *p = (const unsigned char *)value; *p; p++)
                if ((*p < 0x20 && *p != '\t') || *p == 0x7f)
                        return false;
        return true;
}

static enum MHD_Result look_at_field(void *user, enum MHD_ValueKind kind, const char *name, const char *value) {
        struct field_list *list = user;

        (void)kind;
        if (!value)
                value = "";
        list->malformed |= !is_field(name, value);
        if (strcasecmp(name, "Host") == 0) {
                list->hosts++;
                list->host = value;
        } else if (strncasecmp(name, "Content-Length", 14) == 0) {
                list->lengths++;
                list->malformed |= name[14] != 0;
        } else if (strncasecmp(name, "Transfer-Encoding", 17) == 0) {
                list->encodings++;
                /* libmicrohttpd up to 0.9.75 adds what a folded line goes on with to the name. */
                list->malformed |= name[17] != 0;
                list->chunked = strcasecmp(value, "chunked") == 0;
        } else if (strcasecmp(name, "Expect") == 0)
                list->expect = value;
        else if (strcasecmp(name, "X-Request-Id") == 0)
                list->request_id = value;
        else if (strcasecmp(name, "Connection") == 0) {
                if (list->connection_count < CONNECTION_FIELDS_MAX)
                        list->connections[list->connection_count++] = value;
                else
                        list->malformed = true;
        }
        return MHD_YES;
}

static void look_at_fields(struct http_request *request, struct field_list *list) {
        *list = (struct field_list){ .request = request };
        (void)MHD_get_connection_values(request->connection, MHD_HEADER_KIND, look_at_field, list);
}

/* Whether it goes on to the model; Host, for there is one in any case, does so beside. */
static bool is_passed(const struct field_list *list, const char *name) {
        if (is_hop_by_hop(name) || strcasecmp(name, "Expect") == 0 || strcasecmp(name, "Host") == 0)
                return false;
        for (size_t i = 0; i < list->connection_count; i++)
                if (is_listed(list->connections[i], name))
                        return false;
        return true;
}

static enum MHD_Result measure_field(void *user, enum MHD_ValueKind kind, const char *name, const char *value) {
        struct field_list *list = user;

        (void)kind;
        if (is_passed(list, name)) {
                list->count++;
                list->size += strlen(name) + 2 + strlen(value ? value : "") + 1;
        }
        return MHD_YES;
}

static void add_line(struct field_list *list, const char *name, const char *value) {
        list->lines[list->count++] = list->at;
        list->at += 1 + (*value ? sprintf(list->at, "%s: %s", name, value) : sprintf(list->at, "%s;", name));
}

static enum MHD_Result take_field(void *user, enum MHD_ValueKind kind, const char *name, const char *value) {
        struct field_list *list = user;

        (void)kind;
        if (is_passed(list, name))
                add_line(list, name, value ? value : "");
        return MHD_YES;
}

/* What is passed on of a request that is whole. Returns 0 or -ENOMEM. */
static int make_exchange(struct http_request *request, struct field_list *list) {
        static const char via[] = "Via", via_value[] = "1.0 msd";
        size_t host_len = request->authority ? request->authority_len : strlen(list->host ? list->host : "");

        (void)MHD_get_connection_values(request->connection, MHD_HEADER_KIND, measure_field, list);
        list->size += sizeof("Host: ") + host_len + sizeof(via) + sizeof(via_value) + 2;
        request->fields = malloc((list->count + 2) * sizeof(char *) + list->size);
        if (!request->fields)
                return -ENOMEM;
        list->lines = (const char **)(void *)request->fields;
        list->at = request->fields + (list->count + 2) * sizeof(char *);
        list->count = 0;
        list->lines[list->count++] = list->at;
        list->at += 1 + sprintf(list->at, "Host: %.*s", (int)host_len, list->host ? list->host : "");
        (void)MHD_get_connection_values(request->connection, MHD_HEADER_KIND, take_field, list);
        add_line(list, via, request->is_http_1_0 ? via_value : "1.1 msd");
        request->exchange.fields = list->lines;
        request->exchange.field_count = list->count;
        request->exchange.target = request->path;
        return 0;
}

/* Refused before its body is read: what comes behind it cannot be told from another request, so the connection ends. */
static enum MHD_Result refuse(struct http_request *request, unsigned status, const char *code, const char *message) {
        reply_error_text(request, status, code, message);
        reply_field(request, "Connection", "close");
        if (request->cut)
                return MHD_NO;
        queue_response(request);
        return request->queued ? MHD_YES : MHD_NO;
}

static enum MHD_Result refuse_malformed(struct http_request *request, const char *message) {
        return refuse(request, MHD_HTTP_BAD_REQUEST, protocol_code_name(PROTOCOL_BAD_REQUEST), message);
}

static bool is_own_path(const struct http_request *request) {
        return strncmp(request->path, "/-/", 3) == 0 || (strncmp(request->path, "/health", 7) == 0 &&
                                                         (request->path[7] == '\0' || request->path[7] == '?'));
}

/*
 * Where in the target the path begins; of an absolute one that stands behind the authority, RFC 9112, 3.2.2. Returns false
 * if there is none.
 */
static bool find_path(struct http_request *request) {
        static const char scheme[] = "http://";
        char *target = request->target;

        for (const unsigned char *p = (const unsigned char *)target; *p; p++)
                if (*p <= 0x20 || *p == 0x7f || *p == '#')
                        return false;
        if (strncasecmp(target, scheme, sizeof(scheme) - 1) == 0) {
                char *authority = target + sizeof(scheme) - 1;
                size_t len = strcspn(authority, "/?");

                if (len == 0 || !is_authority(authority, len))
                        return false;
                request->authority_len = len;
                /* The path may be left out, but not before a model server: where the authority ended, there is room for it. */
                if (authority[len] != '/') {
                        memmove(target, authority, len);
                        request->authority = target;
                        target[len] = '/';
                        memmove(target + len + 1, authority + len, strlen(authority + len) + 1);
                        request->path = target + len;
                        return true;
                }
                request->authority = authority;
                request->path = authority + len;
                return true;
        }
        request->path = target;
        return *target == '/';
}

/* The head has come. */
static enum MHD_Result begin(struct http_request *request, const char *method, const char *version) {
        const uint64_t max = http_of(request)->queue->limits->max_prompt;
        struct field_list list;
        const char *length;

        request->begun = true;
        request->is_http_1_0 = strcmp(version, "HTTP/1.0") == 0;
        request->exchange.method = method;
        look_at_fields(request, &list);
        if (list.malformed)
                return refuse_malformed(request, "A header field is malformed");
        if (list.hosts > 1 || (list.host && !is_authority(list.host, strlen(list.host))))
                return refuse_malformed(request, "The Host is malformed, or there is more than one");
        if (!is_token(method))
                return refuse_malformed(request, "The method is malformed");
        /* Whoever stands between us and the client may have read its end elsewhere: RFC 9112, 6.3. */
        if (list.lengths + list.encodings > 1)
                return refuse_malformed(request, "How long the body is was said more than once");
        if (list.encodings > 0 && (!list.chunked || request->is_http_1_0))
                return refuse_malformed(request, "The transfer encoding is none that msd knows");
        if (strcmp(method, "CONNECT") == 0 || strcmp(method, "TRACE") == 0)
                return refuse(request, MHD_HTTP_METHOD_NOT_ALLOWED, "method-not-allowed", "This method is not passed on");

        if (!find_path(request))
                return refuse_malformed(request, "The target is malformed");

        length = MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, "Content-Length");
        if (length) {
                uint64_t n;

                if (number_parse(length, strlen(length), UINT64_MAX, &n) != 0)
                        return refuse_malformed(request, "The content length is malformed");
                request->too_large = n > max;
                /* Its client waits to hear it, or would send for long. */
                if (request->too_large && (list.expect || n - max > DISCARD_MAX)) {
                        char message[64];

                        snprintf(message, sizeof(message), "A body may be %" PRIu64 " bytes long", max);
                        return refuse(request, MHD_HTTP_CONTENT_TOO_LARGE, protocol_code_name(PROTOCOL_TOO_LARGE), message);
                }
        }
        if (length || list.encodings > 0 || strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 ||
            strcmp(method, "PATCH") == 0)
                request->exchange.body = "";
        return MHD_YES;
}

static void drop_body(struct http_request *request) {
        request_limits_release(http_of(request)->queue->limits, request->body_size);
        free(STEAL_POINTER(request->body));
        request->body_len = request->body_size = 0;
}

static void take_body(struct http_request *request, const char *data, size_t len) {
        struct request_limits *limits = http_of(request)->queue->limits;
        char message[REQUEST_LIMITS_MESSAGE_MAX];

        if (len > limits->max_prompt - request->body_len)
                request->too_large = true;
        if (!request->too_large && !request->overloaded && request->body_size - request->body_len < len) {
                size_t size = MIN(MAX(request->body_size * 2, request->body_len + len), (size_t)limits->max_prompt);
                char *grown;

                request->overloaded = !request_limits_hold(limits, size - request->body_size, message);
                grown = request->overloaded ? NULL : realloc(request->body, size);
                if (grown)
                        request->body = grown;
                request->body_size = size;
                request->overloaded |= !grown;
        }
        if (request->too_large || request->overloaded) {
                drop_body(request);
                request->discarded += len;
                return;
        }
        memcpy(request->body + request->body_len, data, len);
        request->body_len += len;
}

/* What msd itself answers, in any state. */

/* Whether the model is ready; otherwise why not. */
static bool is_ready(struct http_request *request, enum protocol_code *code, const char **why) {
        struct request_queue *queue = http_of(request)->queue;

        request_queue_follow(queue, queue->host->generation(queue->host));
        *code = PROTOCOL_SHUTTING_DOWN;
        *why = PROTOCOL_SHUTTING_DOWN_MESSAGE;
        if (is_stopping(http_of(request)))
                return false;
        switch (gate_state(&queue->generation->gate)) {
        case GATE_OPEN:
                return true;
        case GATE_FAILED:
                *code = PROTOCOL_LOAD_FAILED;
                *why = queue->generation->gate.reason;
                return false;
        default:
                *why = NULL;
                return false;
        }
}

static void reply_text(struct http_request *request, const char *type, char *text) {
        if (text)
                reply(request, MHD_HTTP_OK, type, text, strlen(text));
        else
                reply_error_text(request, MHD_HTTP_INTERNAL_SERVER_ERROR, "out-of-memory", strerror(ENOMEM));
        free(text);
}

static void reply_ready(struct http_request *request, const char *type, const char *text) {
        enum protocol_code code;
        const char *why;

        if (is_ready(request, &code, &why))
                reply(request, MHD_HTTP_OK, type, text, strlen(text));
        else if (why)
                reply_error(request, code, why);
        else {
                reply_error_text(request, MHD_HTTP_SERVICE_UNAVAILABLE, "loading", "Loading model");
                reply_field(request, "Retry-After", RETRY_SOON);
        }
}

static void answer_own_path(struct http_request *request) {
        static const char json[] = "application/json", text[] = "text/plain; charset=utf-8";
        struct http *http = http_of(request);
        const char *method = request->exchange.method;
        size_t len = strcspn(request->path, "?");
        char path[16] = "";

        if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
                reply_error_text(request, MHD_HTTP_METHOD_NOT_ALLOWED, "method-not-allowed", "This path has GET and HEAD alone");
                reply_field(request, "Allow", "GET, HEAD");
                return;
        }
        if (len < sizeof(path))
                memcpy(path, request->path, len);
        if (strcmp(path, "/health") == 0)
                reply_ready(request, json, "{\"status\":\"ok\"}");
        else if (strcmp(path, "/-/ready") == 0)
                reply_ready(request, text, "ready\n");
        else if (strcmp(path, "/-/live") == 0)
                reply(request, MHD_HTTP_OK, text, "ok\n", 3);
        else if (strcmp(path, "/-/status") == 0)
                reply_text(request, json, status_format(http->status));
        else if (strcmp(path, "/-/metrics") == 0)
                reply_text(request, "text/plain; version=0.0.4; charset=utf-8", status_format_metrics(http->status));
        else if (strcmp(path, "/-/wait") == 0) {
                if (request_observe(http->queue, &request->owner, REQUEST_WAIT) < 0)
                        reply_text(request, text, NULL);
        } else
                reply_error_text(request, MHD_HTTP_NOT_FOUND, "not-found", "msd has no such path");
}

static void ask_model(struct http_request *request) {
        struct http *http = http_of(request);
        struct field_list list;
        char made[32];
        const char *id;
        int r;

        look_at_fields(request, &list);
        if (request->authority)
                list.host = request->authority;
        if (request->exchange.body) {
                request->exchange.body = request->body ? request->body : "";
                request->exchange.body_len = request->body_len;
        }
        id = list.request_id;
        if (!id || !protocol_id_valid(id, strlen(id))) {
                snprintf(made, sizeof(made), "http-%" PRIuFAST64, atomic_fetch_add(&http->group->last_id, 1) + 1);
                id = made;
        }
        r = make_exchange(request, &list);
        if (r == 0)
                r = request_new_exchange(http->queue, &request->owner, id, strlen(id));
        if (r < 0)
                reply_text(request, NULL, NULL);
}

/* All of it has come. */
static enum MHD_Result finish(struct http_request *request) {
        struct http *http = http_of(request);
        char message[REQUEST_LIMITS_MESSAGE_MAX];

        request->whole = true;
        http->unsent++;
        if (request->too_large) {
                snprintf(message, sizeof(message), "A body may be %" PRIu64 " bytes long", http->queue->limits->max_prompt);
                reply_error(request, PROTOCOL_TOO_LARGE, message);
        } else if (request->overloaded) {
                snprintf(message, sizeof(message), "The prompts that are held may need %" PRIu64 " bytes together",
                         http->queue->limits->max_prompt_memory);
                reply_error(request, PROTOCOL_QUEUE_FULL, message);
        } else if (is_own_path(request))
                answer_own_path(request);
        else if (request->client->gone)
                return MHD_NO;
        else
                ask_model(request);
        attend(request);
        if (!request->queued && !request->cut) {
                request->suspended = true;
                MHD_suspend_connection(request->connection);
        }
        return request->queued || !request->cut ? MHD_YES : MHD_NO;
}

/* libmicrohttpd's callbacks. */

/* The first word of a request; what is returned is what every other callback gets of it. */
static void *on_target(void *user, const char *target, struct MHD_Connection *connection) {
        struct http *http = user;
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        struct http_request *request = info->socket_context ? calloc(1, sizeof(*request)) : NULL;

        if (!request)
                return NULL;
        request->target = strdup(target);
        if (!request->target) {
                free(request);
                return NULL;
        }
        request->client = info->socket_context;
        request->client->request = request;
        request->connection = connection;
        request_owner_init(&request->owner, &request_ops);
        list_init(&request->attention);
        list_init(&request->kept);
        list_append(&http->requests, &request->link);
        return request;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *len, void **requestp) {
        struct http_request *request = *requestp;

        (void)user;
        (void)connection;
        (void)url;
        if (!request)
                return MHD_NO;
        if (!request->begun)
                return begin(request, method, version);
        if (*len > 0) {
                take_body(request, data, *len);
                *len = 0;
                return request->discarded > DISCARD_MAX ? MHD_NO : MHD_YES;
        }
        /* Once it is whole this comes again for one alone that is to be ended without an answer. */
        return request->whole ? MHD_NO : finish(request);
}

static void on_completed(void *user, struct MHD_Connection *connection, void **requestp, enum MHD_RequestTerminationCode how) {
        struct http *http = user;
        struct http_request *request = *requestp;

        (void)connection;
        (void)how;
        if (!request)
                return;
        *requestp = NULL;
        request->client->request = NULL;
        request_owner_deinit(http->queue, &request->owner);
        list_remove(&request->link);
        list_remove(&request->attention);
        list_remove(&request->kept);
        drop_body(request);
        if (request->collects)
                free(request->buffer);
        drop_response(request);
        free(request->output);
        free(request->fields);
        free(request->target);
        if (request->whole) {
                http->unsent--;
                http->flushed(http);
        }
        free(request);
}

static void client_hung_up(struct watch *watch, uint32_t events) {
        struct http_client *client = container_of(watch, struct http_client, watch);

        /* On a Unix socket this is its writing side alone; elsewhere nobody can tell that from a client that has gone. */
        if (client->is_unix && !(events & (EPOLLHUP | EPOLLERR)))
                return;
        client->gone = true;
        if (client->request && client->request->whole && !client->request->ended)
                attend_later(client->request);
}

static void on_connection(void *user, struct MHD_Connection *connection, void **clientp,
                          enum MHD_ConnectionNotificationCode what) {
        struct http *http = user;
        struct http_client *client = *clientp;

        if (what == MHD_CONNECTION_NOTIFY_STARTED) {
                const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
                const union MHD_ConnectionInfo *address = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);

                client = calloc(1, sizeof(*client));
                if (client) {
                        client->http = http;
                        client->is_unix = address->client_addr->sa_family == AF_UNIX;
                        client->watch = (struct watch)WATCH_NULL;
                        /* Also while libmicrohttpd looks away. */
                        (void)reactor_watch(http->reactor, &client->watch, info->connect_fd, EPOLLRDHUP | EPOLLET, client_hung_up);
                }
                *clientp = client;
                counter_add(&http->queue->counters->connections, 1);
                return;
        }
        if (client) {
                reactor_unwatch(&client->watch);
                free(client);
                *clientp = NULL;
        }
        counter_add(&http->queue->counters->connections, -1);
        http->ended(http);
}

static void work(struct job *job) {
        struct http *http = container_of(job, struct http, work);
        struct list attention;
        MHD_UNSIGNED_LONG_LONG timeout;

        list_move_all(&attention, &http->attention);
        while (!list_is_empty(&attention)) {
                struct http_request *request = container_of(attention.next, struct http_request, attention);

                list_remove(&request->attention);
                attend(request);
        }
        (void)MHD_run(http->daemon);
        /* It has more to do, or something to say has come up. */
        if ((MHD_get_timeout(http->daemon, &timeout) == MHD_YES && timeout == 0) || !list_is_empty(&http->attention))
                reactor_queue(http->reactor, &http->work);
}

static void daemon_ready(struct watch *watch, uint32_t events) {
        struct http *http = container_of(watch, struct http, watch);

        (void)events;
        reactor_queue(http->reactor, &http->work);
}

int http_init(struct http *http, struct reactor *reactor, struct request_queue *queue, struct status *status,
              struct http_group *group, void (*ended)(struct http *http), void (*flushed)(struct http *http)) {
        const union MHD_DaemonInfo *info;

        *http = (struct http){
                .reactor = reactor,
                .queue = queue,
                .status = status,
                .group = group,
                .watch = WATCH_NULL,
                .ended = ended,
                .flushed = flushed,
        };
        list_init(&http->requests);
        list_init(&http->attention);
        list_init(&http->kept);
        job_init(&http->work, work);
        timer_init(&http->keepalive, keepalive_due);
        http->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
                                        on_request, http,
                                        MHD_OPTION_URI_LOG_CALLBACK, on_target, http,
                                        MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
                                        MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,
                                        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
                                        /* The limit is the listener's. */
                                        MHD_OPTION_CONNECTION_LIMIT, UINT_MAX,
                                        MHD_OPTION_STRICT_FOR_CLIENT, 1,
                                        MHD_OPTION_END);
        if (!http->daemon)
                return errno > 0 ? -errno : -ENOMEM;
        info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
        return reactor_watch(reactor, &http->watch, info->epoll_fd, EPOLLIN, daemon_ready);
}

void http_deinit(struct http *http) {
        if (!http->daemon)
                return;
        /* One try to send what is left; libmicrohttpd wants none suspended at its end. */
        for (struct list *i = http->requests.next; i != &http->requests; i = i->next) {
                struct http_request *request = container_of(i, struct http_request, link);

                request_owner_deinit(http->queue, &request->owner);
                if (!request->ended)
                        request->ended = request->cut = true;
                attend(request);
                if (request->suspended) {
                        request->suspended = false;
                        MHD_resume_connection(request->connection);
                }
        }
        (void)MHD_run(http->daemon);
        MHD_stop_daemon(STEAL_POINTER(http->daemon));
        reactor_unwatch(&http->watch);
        timer_clear(&http->keepalive);
        job_cancel(&http->work);
}

int http_connection_new(struct http *http, int fd) {
        struct sockaddr_storage address = { 0 };
        socklen_t len = sizeof(address);

        (void)getsockname(fd, (struct sockaddr *)&address, &len);
        if (address.ss_family == AF_INET || address.ss_family == AF_INET6) {
                const int on = 1, idle = TCP_IDLE_SECONDS, pause = TCP_PROBE_SECONDS, probes = TCP_PROBES;

                (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
                (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
                (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &pause, sizeof(pause));
                (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
        }
        return MHD_add_connection(http->daemon, fd, (struct sockaddr *)&address, len) == MHD_YES ? 0 : -ENOMEM;
}

bool http_is_flushed(const struct http *http) {
        return http->unsent == 0;
}
