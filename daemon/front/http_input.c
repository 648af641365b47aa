#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/front/http_connection.h"

/* Room for a body that is coming, to begin with, and for bytes that are kept. */
#define COMING_MIN 1024
#define KEPT_MIN 128

/* The framing of a chunked body may need so much, and so many times the length of what it says. */
#define FRAMING_MAX 65536
#define FRAMING_RATIO 8

/* Lengths of a record are 32 bits. */
#define BODY_MAX (UINT32_MAX - HTTP_HEAD_MAX - PROTOCOL_ID_MAX)

static struct lane *lane_of(const struct http_connection *connection) {
        return connection->http->lane;
}

static uint64_t max_body(const struct http_connection *connection) {
        return MIN(lane_of(connection)->queue->limits->max_body, (uint64_t)BODY_MAX);
}

/* Bytes that are kept. */

/* Returns false: out of memory. */
static bool keep(struct http_connection *connection, const char *data, size_t len) {
        struct http_kept *kept = connection->kept;
        const size_t before = http_kept_len(connection);

        if (len == 0)
                return true;
        if (!kept || kept->size - kept->end < len) {
                /* A part of a head is likely to be all that comes; exact to begin with. */
                size_t size = kept ? MAX((before + len) * 2, (size_t)KEPT_MIN) : len;
                struct http_kept *grown = malloc(sizeof(*grown) + size);

                if (!grown)
                        return false;
                *grown = (struct http_kept){ .end = (uint32_t)before, .size = (uint32_t)size, .seen = kept ? kept->seen : 0 };
                if (before > 0)
                        memcpy(grown->data, kept->data + kept->start, before);
                free(kept);
                connection->kept = kept = grown;
        }
        memcpy(kept->data + kept->end, data, len);
        kept->end += (uint32_t)len;
        return true;
}

static void drop_kept(struct http_connection *connection, size_t n) {
        struct http_kept *kept = connection->kept;

        kept->start += (uint32_t)n;
        kept->seen = 0;
        if (kept->start == kept->end)
                free(STEAL_POINTER(connection->kept));
}

/* Records. */

/* A POST that is not inference may have side effects: rule 9 of the design. */
static bool has_side_effects(const char *path, size_t len) {
        static const char *const paths[] = {
                "/v1/files", "/v1/batches", "/v1/fine_tuning", "/v1/uploads", "/v1/vector_stores", "/api/pull",
                "/api/push", "/api/create", "/api/copy", "/api/delete", "/slots", "/lora-adapters",
                "/models/load", "/models/unload",
        };

        /* A path that a server may read as another. */
        for (size_t i = 0; i < len; i++)
                if (path[i] == '%' || (path[i] == '/' && i + 1 < len && (path[i + 1] == '/' || path[i + 1] == '.')))
                        return true;
        /* Nearly all of them, and none of those below. */
        if (len >= 5 && memcmp(path, "/v1/c", 5) == 0)
                return false;
        for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
                size_t n = strlen(paths[i]);

                if (len >= n && memcmp(path, paths[i], n) == 0 && (len == n || path[n] == '/'))
                        return true;
        }
        return false;
}

static bool repeats(const struct http_connection *connection, const char *head) {
        static const char *const methods[] = { "GET", "HEAD", "OPTIONS", "PUT", "DELETE" };
        const char *path = head + connection->head.target.at;
        const char *query = memchr(path, '?', connection->head.target.len);

        for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
                if (http_method_is(connection, head, methods[i]))
                        return true;
        return http_method_is(connection, head, "POST") &&
               !has_side_effects(path, query ? (size_t)(query - path) : connection->head.target.len);
}

static bool is_light(const struct http_connection *connection, const char *head) {
        return connection->head.is_head || connection->head.is_upgrade || http_method_is(connection, head, "GET") ||
               http_method_is(connection, head, "OPTIONS");
}

/* A record with room for `len` bytes behind the ID, and the head in it. Returns false: out of memory. */
static bool make_record(struct http_connection *connection, const char *head, size_t len) {
        struct http_group *group = connection->http->group;
        const struct http_span *span = &connection->head.id;
        const char *id = head + span->at;
        size_t id_len = span->len;
        char made[32];

        if (id_len == 0 || !protocol_id_valid(id, id_len)) {
                id_len = (size_t)snprintf(made, sizeof(made), "http-%" PRIuFAST64, atomic_fetch_add(&group->last_id, 1) + 1);
                id = made;
        }
        connection->record = lane_allocate(lane_of(connection), id_len + len);
        if (!connection->record)
                return false;
        connection->record->inference = (struct inference){
                .id_len = (uint8_t)id_len,
                .prompt_len = (uint32_t)len,
                .is_light = is_light(connection, head),
                .demands = connection->head.is_upgrade || !is_light(connection, head),
                .repeats = repeats(connection, head),
        };
        memcpy(connection->record->inference.text, id, id_len);
        memcpy(connection->record->inference.text + id_len, head, connection->head.len);
        return true;
}

static void release_record(struct http_connection *connection) {
        struct request *record = STEAL_POINTER(connection->record);

        lane_release(lane_of(connection), record, (size_t)record->inference.id_len + record->inference.prompt_len);
}

/* Gives the record room for `len` bytes behind the ID. Returns false: out of memory, and nothing has changed. */
static bool resize_record(struct http_connection *connection, size_t len) {
        struct inference *inference = &connection->record->inference;
        struct request *resized = lane_resize(lane_of(connection), connection->record,
                                              (size_t)inference->id_len + inference->prompt_len, inference->id_len + len);

        if (!resized)
                return false;
        connection->record = resized;
        connection->record->inference.prompt_len = (uint32_t)len;
        return true;
}

void http_drop_request(struct http_connection *connection) {
        struct http_coming *coming;

        if (connection->state != HTTP_BODY)
                return;
        coming = STEAL_POINTER(connection->coming);
        request_limits_release(lane_of(connection)->queue->limits, coming->filled);
        free(coming);
        release_record(connection);
}

/* Requests that are all there. */

/* The record has everything, and counts as held. */
static void ask_model(struct http_connection *connection, size_t body_len, bool has_body) {
        struct request *record = connection->record;
        const char *head = http_record_text(connection);

        connection->has_body = has_body;
        connection->state = HTTP_ASKED;
        http_set_delay(connection, HTTP_DELAY_NONE);
        http_early_prepare(connection, head, head + connection->head.len, body_len);
        lane_exchange(lane_of(connection), &connection->owner, record);
}

static bool has_body(const struct http_connection *connection, const char *head) {
        const struct http_request *request = &connection->head;

        /* A request whose method expects a body, and has none, has an empty one: RFC 9110, 8.6. */
        return request->content_length != HTTP_LENGTH_UNKNOWN || request->chunked ||
               http_method_is(connection, head, "POST") || http_method_is(connection, head, "PUT") ||
               http_method_is(connection, head, "PATCH");
}

/* A request is all there, and has no record yet: its head and its body stand in `head`. */
static void finish_at_once(struct http_connection *connection, const char *head, size_t body_len) {
        struct request_limits *limits = lane_of(connection)->queue->limits;
        char message[REQUEST_LIMITS_MESSAGE_MAX];
        const size_t len = connection->head.len + body_len;

        if (http_answer_own(connection, head))
                return;
        if (http_client_is_gone(connection)) {
                http_answered(connection, false);
                return;
        }
        if (!request_limits_hold(limits, len, message)) {
                request_limits_release(limits, len);
                http_reply_error(connection, PROTOCOL_QUEUE_FULL, message);
                return;
        }
        if (!make_record(connection, head, len)) {
                request_limits_release(limits, len);
                http_refuse_memory(connection);
                return;
        }
        memcpy(http_record_text(connection) + connection->head.len, head + connection->head.len, body_len);
        ask_model(connection, body_len, has_body(connection, head));
}

/* Takes a chunked body out of its framing. Returns its length, or -EBADMSG. */
static ssize_t decode(struct http_connection *connection, size_t len) {
        struct http_body body;

        http_body_of_request(&body, &connection->head);
        return http_body_take(&body, http_record_text(connection) + connection->head.len, &len);
}

/* The last byte of the body has come. */
static void finish_body(struct http_connection *connection) {
        struct request_limits *limits = lane_of(connection)->queue->limits;
        const size_t head_len = connection->head.len;
        const size_t filled = connection->coming->filled;
        size_t body_len = filled - head_len;

        if (connection->head.chunked) {
                ssize_t n = decode(connection, body_len);

                if (n < 0) {
                        http_refuse(connection, 400, protocol_code_name(PROTOCOL_BAD_REQUEST), "The body is malformed");
                        return;
                }
                body_len = (size_t)n;
        }
        if (http_answer_own(connection, http_record_text(connection)))
                return;
        if (http_client_is_gone(connection)) {
                http_answered(connection, false);
                return;
        }
        if (!resize_record(connection, head_len + body_len)) {
                http_refuse_memory(connection);
                return;
        }
        request_limits_release(limits, filled - head_len - body_len);
        free(STEAL_POINTER(connection->coming));
        ask_model(connection, body_len, true);
}

/* Bodies that come in pieces. */

static void refuse_too_large(struct http_connection *connection) {
        char message[96];

        snprintf(message, sizeof(message), "A body may be %" PRIu64 " bytes long; --max-body raises that",
                 max_body(connection));
        http_refuse_error(connection, PROTOCOL_TOO_LARGE, message);
}

/* Appends to the record. Returns false if the request was refused. */
static bool append(struct http_connection *connection, const char *data, size_t len) {
        struct http_coming *coming = connection->coming;
        char message[REQUEST_LIMITS_MESSAGE_MAX];

        if (coming->size - coming->filled < len) {
                uint64_t size = MAX(coming->size * 2, coming->filled + len);

                if (connection->head.content_length != HTTP_LENGTH_UNKNOWN)
                        size = MIN(size, connection->head.len + connection->head.content_length);
                if (!resize_record(connection, size)) {
                        http_refuse_memory(connection);
                        return false;
                }
                coming->size = size;
        }
        memcpy(http_record_text(connection) + coming->filled, data, len);
        coming->filled += len;
        if (request_limits_hold(lane_of(connection)->queue->limits, len, message))
                return true;
        http_refuse_error(connection, PROTOCOL_QUEUE_FULL, message);
        return false;
}

static void unappend(struct http_connection *connection, size_t len) {
        connection->coming->filled -= len;
        request_limits_release(lane_of(connection)->queue->limits, len);
}

/*
 * It is kept as it came, for a successor; framing is taken out of it when it is whole, and here only to find the end. Returns
 * how many bytes belong to it.
 */
static size_t take_chunked(struct http_connection *connection, char *data, size_t len) {
        struct http_coming *coming = connection->coming;
        size_t taken = len;
        ssize_t n;

        if (!append(connection, data, len))
                return len;
        n = http_body_take(&coming->body, data, &taken);
        if (n < 0) {
                http_refuse(connection, 400, protocol_code_name(PROTOCOL_BAD_REQUEST), "The body is malformed");
                return len;
        }
        unappend(connection, len - taken);
        coming->decoded += (uint64_t)n;
        if (coming->decoded > max_body(connection))
                refuse_too_large(connection);
        else if (coming->filled - connection->head.len > FRAMING_MAX + FRAMING_RATIO * coming->decoded)
                http_refuse(connection, 400, protocol_code_name(PROTOCOL_BAD_REQUEST), "The framing of the body is too long");
        else if (coming->filled > BODY_MAX)
                refuse_too_large(connection);
        else if (coming->body.done)
                finish_body(connection);
        return taken;
}

/* Returns how many bytes belong to the body. */
static size_t take_body(struct http_connection *connection, char *data, size_t len) {
        struct http_coming *coming = connection->coming;
        size_t taken = len;
        ssize_t n;

        if (connection->delay == HTTP_DELAY_HEAD)
                http_set_delay(connection, HTTP_DELAY_HEAD);
        if (coming->body.kind == HTTP_BODY_CHUNKED)
                return take_chunked(connection, data, len);
        n = http_body_take(&coming->body, data, &taken);
        if (n < 0 || !append(connection, data, taken))
                return len;
        if (coming->body.done)
                finish_body(connection);
        return taken;
}

/* A request has come whose body has not, or is chunked. */
static void begin_body(struct http_connection *connection, const char *head, size_t available) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        const struct http_request *request = &connection->head;
        struct request_limits *limits = lane_of(connection)->queue->limits;
        char message[REQUEST_LIMITS_MESSAGE_MAX];
        struct http_coming *coming = malloc(sizeof(*coming));
        uint64_t size = request->len + MAX((uint64_t)COMING_MIN, (uint64_t)available);

        if (request->content_length != HTTP_LENGTH_UNKNOWN)
                size = MIN(size, request->len + request->content_length);
        if (!coming || !make_record(connection, head, size)) {
                free(coming);
                http_refuse_memory(connection);
                return;
        }
        *coming = (struct http_coming){ .filled = request->len, .size = size };
        http_body_of_request(&coming->body, request);
        connection->coming = coming;
        connection->state = HTTP_BODY;
        if (!request_limits_hold(limits, request->len, message))
                http_refuse_error(connection, PROTOCOL_QUEUE_FULL, message);
        else if (request->expects_continue && !request->is_http_1_0 && available == 0)
                (void)http_write(connection, go_on, sizeof(go_on) - 1);
}

/* A head is all there: `len` bytes are, with what follows it. Returns how many of them are taken. */
static size_t begin(struct http_connection *connection, const char *data, size_t len) {
        const struct http_request *request = &connection->head;
        const size_t available = len - request->len;
        const uint64_t length = request->content_length == HTTP_LENGTH_UNKNOWN ? 0 : request->content_length;
        const bool is_whole = !request->chunked && available >= length;

        connection->closes = !request->keep_alive;
        connection->lingers = false;
        http_classify(connection, data);
        if (length > max_body(connection)) {
                refuse_too_large(connection);
                return len;
        }
        if (!http_is_permitted(connection, data)) {
                static const char message[] = "A key is needed: Authorization: Bearer KEY, with a key of --http-key-file";

                if (is_whole)
                        http_reply_failure(connection, 401, "unauthorized", message, "WWW-Authenticate: Bearer\r\n");
                else
                        http_refuse(connection, 401, "unauthorized", message);
                return is_whole ? request->len + length : len;
        }
        if (is_whole) {
                finish_at_once(connection, data, length);
                return request->len + length;
        }
        begin_body(connection, data, available);
        return request->len;
}

static const char *refusal_code(unsigned status) {
        switch (status) {
        case 405:
                return "method-not-allowed";
        case 413:
                return protocol_code_name(PROTOCOL_TOO_LARGE);
        case 417:
                return "expectation-failed";
        case 431:
                return "head-too-large";
        case 501:
                return "not-implemented";
        case 505:
                return "version-not-supported";
        default:
                return protocol_code_name(PROTOCOL_BAD_REQUEST);
        }
}

/* Looks for a head; `seen` bytes were looked at before. Returns how many bytes are taken. */
static size_t take_head(struct http_connection *connection, const char *data, size_t len, size_t seen) {
        struct http_refusal refusal;
        size_t skipped = http_skip_empty_lines(data, len);

        if (skipped == len)
                return len;
        data += skipped;
        len -= skipped;
        switch (http_parse_request(&connection->head, data, len, seen > skipped ? seen - skipped : 0, &refusal)) {
        case HTTP_PARTIAL:
                return skipped;
        case HTTP_WHOLE:
                return skipped + begin(connection, data, len);
        case HTTP_REFUSED:
                break;
        }
        connection->head = (struct http_request){ 0 };
        connection->shape = HTTP_SHAPE_OPENAI;
        http_refuse(connection, refusal.status, refusal_code(refusal.status), refusal.message);
        return skipped + len;
}

bool http_takes(const struct http_connection *connection) {
        return (connection->state == HTTP_IDLE || connection->state == HTTP_BODY) && !connection->socket.broken &&
               socket_unsent(&connection->socket) <= HTTP_OUTPUT_HIGH;
}

/* Takes as much as can be taken now; `seen` as in take_head(). Returns how many bytes that are. */
static size_t take(struct http_connection *connection, char *data, size_t len, size_t seen) {
        size_t taken = 0, n;

        while (taken < len && http_takes(connection)) {
                n = connection->state == HTTP_BODY ? take_body(connection, data + taken, len - taken) :
                                                     take_head(connection, data + taken, len - taken, seen);
                seen = 0;
                taken += n;
                if (n == 0)
                        break;
        }
        /* Nothing that comes behind the last request is one. */
        return connection->state == HTTP_CLOSING ? len : taken;
}

/* Of a connection that has had its last answer. */
static void discard(struct http_connection *connection, size_t len) {
        if (connection->state == HTTP_DISCARDING)
                connection->left -= MIN(connection->left, (uint64_t)len);
}

/* What is left of what could be taken is a part of a head; what could not be taken was not looked at. */
static void note_seen(struct http_connection *connection) {
        if (connection->kept && connection->state == HTTP_IDLE && http_takes(connection))
                connection->kept->seen = (uint32_t)http_kept_len(connection);
}

static void take_all_kept(struct http_connection *connection) {
        struct http_kept *kept = connection->kept;
        size_t taken = take(connection, kept->data + kept->start, kept->end - kept->start, kept->seen);

        if (taken > 0)
                drop_kept(connection, taken);
        note_seen(connection);
}

void http_take_kept(struct http_connection *connection) {
        take_all_kept(connection);
        http_park_taken(connection, SIZE_MAX);
}

void http_take(struct http_connection *connection, char *data, size_t len) {
        const size_t before = http_kept_len(connection);
        size_t rest;
        bool kept;

        if (connection->state == HTTP_CLOSING || connection->state == HTTP_DISCARDING) {
                discard(connection, len);
                return;
        }
        if (connection->state == HTTP_TUNNEL) {
                http_tunnel_input(connection, data, len);
                return;
        }
        rest = http_park_input(connection, data, len);
        if (before > 0) {
                kept = keep(connection, data, len);
                if (kept && http_takes(connection))
                        take_all_kept(connection);
        } else {
                size_t taken = take(connection, data, len, 0);

                kept = keep(connection, data + taken, len - taken);
                note_seen(connection);
        }
        if (!kept)
                socket_break(&connection->socket, ENOMEM);
        http_park_taken(connection, rest);
}

void http_take_whole(struct http_connection *connection, const char *data, size_t len) {
        struct http_request *request = &connection->head;
        struct http_refusal refusal;
        size_t body_len;

        if (http_parse_request(request, data, len, 0, &refusal) != HTTP_WHOLE ||
            (request->content_length != HTTP_LENGTH_UNKNOWN && request->content_length != len - request->len)) {
                socket_break(&connection->socket, EBADMSG);
                return;
        }
        body_len = len - request->len;
        connection->closes = !request->keep_alive;
        if (connection->began) {
                connection->framing = request->is_http_1_0 ? HTTP_FRAMING_CLOSE : HTTP_FRAMING_CHUNKED;
                connection->closes |= request->is_http_1_0;
        }
        http_classify(connection, data);
        finish_at_once(connection, data, body_len);
}
