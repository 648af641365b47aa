#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/json.h"
#include "daemon/front/http_connection.h"

/* A stream that waits gets a comment: HTML standard, 9.2.6. White space may stand before any JSON. */
static const char comment[] = ": waiting\n\n", white_space[] = " ";

/* What the body of a request, a JSON object, says of "stream". */
enum stream {
        STREAM_ABSENT,
        STREAM_FALSE,
        STREAM_TRUE,
};

/* Skips a string that begins at `p`. Returns where it ends, at its quotation mark, or `end`. */
static const char *skip_string(const char *p, const char *end) {
        for (const char *q = p + 1; (q = memchr(q, '"', (size_t)(end - q))); q++) {
                const char *back = q;

                while (back > p + 1 && back[-1] == '\\')
                        back--;
                if ((q - back) % 2 == 0)
                        return q;
        }
        return end;
}

static const char *skip_space(const char *p, const char *end) {
        while (p < end && (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\n'))
                p++;
        return p;
}

static bool begins(const char *p, const char *end, const char *text) {
        size_t len = strlen(text);

        return (size_t)(end - p) >= len && memcmp(p, text, len) == 0;
}

/* Looks for the member without building anything of the rest: bodies are large. */
static enum stream find_stream(const char *p, size_t len) {
        static const char key[] = "stream";
        const char *end = p + len;
        enum stream found = STREAM_ABSENT;
        bool is_name = true, matches = false;
        unsigned depth = 0;

        p = skip_space(p, end);
        if (p == end || *p != '{')
                return STREAM_ABSENT;
        for (; p < end; p++) {
                const char *begin = p;

                switch (*p) {
                case '"':
                        p = skip_string(p, end);
                        if (p == end)
                                return found;
                        matches = depth == 1 && is_name && (size_t)(p - begin - 1) == sizeof(key) - 1 &&
                                  memcmp(begin + 1, key, sizeof(key) - 1) == 0;
                        break;
                case '{':
                case '[':
                        depth++;
                        break;
                case '}':
                case ']':
                        if (--depth == 0)
                                return found;
                        break;
                case ',':
                        is_name |= depth == 1;
                        break;
                case ':':
                        if (depth != 1)
                                break;
                        begin = skip_space(p + 1, end);
                        if (matches)
                                found = begins(begin, end, "true")  ? STREAM_TRUE :
                                        begins(begin, end, "false") ? STREAM_FALSE :
                                                                      STREAM_ABSENT;
                        is_name = matches = false;
                        break;
                }
        }
        return found;
}

struct early_path {
        const char *path;
        bool streams;                   /* with "stream": true its answer is an event stream */
        bool needs_false;               /* its answer is JSON with "stream": false alone */
};

/* POST to these. */
static const struct early_path early_paths[] = {
        { "/v1/chat/completions", true, false },
        { "/v1/completions", true, false },
        { "/v1/responses", true, false },
        { "/v1/messages", true, false },
        { "/v1/embeddings", false, false },
        { "/v1/rerank", false, false },
        { "/v1/score", false, false },
        { "/v1/classify", false, false },
        { "/v1/moderations", false, false },
        { "/v1/images/generations", false, false },
        { "/api/chat", false, true },
        { "/api/generate", false, true },
        { "/api/embed", false, false },
        { "/api/embeddings", false, false },
};

static const struct early_path *find_path(const struct http_connection *connection, const char *head) {
        const char *text = head + connection->head.target.at, *query = memchr(text, '?', connection->head.target.len);
        size_t len = query ? (size_t)(query - text) : connection->head.target.len;

        if (!http_method_is(connection, head, "POST"))
                return NULL;
        for (size_t i = 0; i < ARRAY_SIZE(early_paths); i++)
                if (strlen(early_paths[i].path) == len && memcmp(early_paths[i].path, text, len) == 0)
                        return &early_paths[i];
        return NULL;
}

void http_early_prepare(struct http_connection *connection, const char *head, const char *body, size_t len) {
        const struct http_group *group = connection->http->group;
        const struct early_path *path;
        enum stream stream;

        /* A predecessor may have begun it. */
        if ((group->stream_keepalive == 0 && group->json_keepalive == 0) || connection->head.is_upgrade || connection->began)
                return;
        path = find_path(connection, head);
        stream = path ? find_stream(body, len) : STREAM_ABSENT;
        if ((path && path->streams && stream == STREAM_TRUE) || connection->head.accepts_events) {
                connection->early = group->stream_keepalive > 0 ? HTTP_EARLY_EVENTS : HTTP_EARLY_NONE;
                connection->record->inference.stream = true;
        } else if (group->json_keepalive > 0 && path && (path->needs_false ? stream == STREAM_FALSE : stream != STREAM_TRUE)) {
                connection->early = HTTP_EARLY_JSON;
                /* White space cannot stand before an encoded body. */
                connection->drops_accept_encoding = true;
                http_set_delay(connection, HTTP_DELAY_JSON);
        }
}

static void begin_answer(struct http_connection *connection) {
        struct http_reply reply = { .status = 200, .type = "application/json" };

        if (connection->early == HTTP_EARLY_EVENTS) {
                reply.type = "text/event-stream";
                reply.fields = "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
        }
        http_write_head(connection, &reply, HTTP_LENGTH_UNKNOWN);
        connection->began = true;
        http_park_began(connection);
}

void http_early_due(struct http_connection *connection) {
        const bool events = connection->early == HTTP_EARLY_EVENTS;
        const char *text = events ? comment : white_space;

        if (!connection->began)
                begin_answer(connection);
        /* A client that does not read has enough of them. */
        if (socket_unsent(&connection->socket) < HTTP_OUTPUT_LOW)
                http_write_part(connection, text, strlen(text));
        http_set_delay(connection, events ? HTTP_DELAY_STREAM : HTTP_DELAY_JSON);
}

static bool is_json(const struct answer_head *head) {
        static const char type[] = "application/json";
        uint32_t at = head->answer->fields_at;
        struct http_field field;

        while (http_next_field(head->bytes, &at, &field))
                if (http_field_is(&field, "Content-Type"))
                        return field.value_len >= sizeof(type) - 1 && strncasecmp(field.value, type, sizeof(type) - 1) == 0;
        return false;
}

void http_early_head(struct http_connection *connection, const struct answer_head *head) {
        const struct http_answer *answer = head->answer;

        if (connection->early == HTTP_EARLY_EVENTS ? answer->status == 200 && answer->is_event_stream : is_json(head)) {
                connection->state = HTTP_ANSWERING;
                return;
        }
        connection->collects = true;
        connection->collected = malloc(sizeof(*connection->collected));
        if (!connection->collected)
                return;
        connection->collected->status = answer->status;
        connection->collected->len = 0;
}

void http_early_collect(struct http_connection *connection, const char *data, size_t len) {
        struct http_collected *collected = connection->collected;

        if (!collected)
                return;
        len = MIN(len, HTTP_COLLECT_MAX - (size_t)collected->len);
        memcpy(collected->data + collected->len, data, len);
        collected->len += (uint32_t)len;
}

/* Ends the answer with a JSON object, which is freed. */
static void end_with(struct http_connection *connection, char *json) {
        const char *before = connection->shape == HTTP_SHAPE_ANTHROPIC ? "event: error\ndata: " : "data: ";
        const bool events = connection->early == HTTP_EARLY_EVENTS;

        if (json) {
                if (events)
                        http_write_part(connection, before, strlen(before));
                http_write_part(connection, json, strlen(json));
                if (events)
                        http_write_part(connection, "\n\n", 2);
        }
        if (json)
                http_end_answer(connection);
        else
                http_answered(connection, false);
        free(json);
}

void http_early_collected(struct http_connection *connection) {
        _cleanup_free_ struct http_collected *collected = STEAL_POINTER(connection->collected);
        char message[96], *text = NULL;
        json_t *json;

        connection->collects = false;
        if (!collected) {
                end_with(connection, NULL);
                return;
        }
        json = json_read(collected->data, collected->len);
        if (json_object_get(json, "error"))
                text = json_write(json);
        else {
                snprintf(message, sizeof(message), "The model server answered HTTP %u, and no %s", collected->status,
                         connection->early == HTTP_EARLY_EVENTS ? "stream" : "JSON");
                text = http_format_error(connection->shape, 502, protocol_code_name(PROTOCOL_INFERENCE_FAILED), message);
        }
        json_decref(json);
        end_with(connection, text);
}

void http_early_failed(struct http_connection *connection, enum protocol_code code, const char *message) {
        if (connection->collects)
                free(STEAL_POINTER(connection->collected));
        connection->collects = false;
        end_with(connection, http_format_error(connection->shape, 500, protocol_code_name(code), message));
}
