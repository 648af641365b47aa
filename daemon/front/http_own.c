#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/json.h"
#include "common/printable.h"
#include "daemon/front/http_connection.h"

/*
 * Seconds after which a client may try again: another process may be there soon; a load that has failed was tried already.
 * While a model loads, the status says.
 */
#define RETRY_SOON "Retry-After: 1\r\n"
#define RETRY_LATER "Retry-After: 10\r\n"
#define RETRY_FIELD_MAX 40

#define TYPE_JSON "application/json"
#define TYPE_TEXT "text/plain; charset=utf-8"

/* How long a browser may remember the answer to a preflight, and the longest list of fields that it may ask for. */
#define PREFLIGHT_SECONDS "600"
#define PREFLIGHT_HEADERS_MAX 1024

/* Room for the head of an answer besides its type, its fields and the origin. */
#define HEAD_ROOM 512

/* Writing answers. */

static size_t format_date(char to[static 64]) {
        time_t now = time(NULL);
        struct tm tm;

        return gmtime_r(&now, &tm) ? strftime(to, 64, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm) : 0;
}

/* Whether the client learns that this is the last answer. */
static bool is_last(const struct http_connection *connection) {
        return connection->closes || http_is_stopping(connection->http) ||
               (connection->socket.input_ended && !connection->kept);
}

void http_write_head(struct http_connection *connection, const struct http_reply *reply, uint64_t length) {
        const struct http_group *group = connection->http->group;
        const char *fields = reply->fields ? reply->fields : "", *cors = group->cors_origin;
        const size_t room = HEAD_ROOM + (reply->type ? strlen(reply->type) : 0) + strlen(fields) + (cors ? strlen(cors) : 0);
        char date[64] = "", *to;
        size_t n;

        connection->head_sent = true;
        connection->closes = is_last(connection);
        connection->framing = length != HTTP_LENGTH_UNKNOWN       ? HTTP_FRAMING_LENGTH :
                              connection->head.is_http_1_0 ? HTTP_FRAMING_CLOSE :
                                                             HTTP_FRAMING_CHUNKED;
        connection->closes |= connection->framing == HTTP_FRAMING_CLOSE;
        to = http_room(connection, room);
        if (!to)
                return;
        format_date(date);
        n = (size_t)snprintf(to, room, "HTTP/1.1 %u %s\r\n%s", reply->status, http_reason(reply->status), date);
        if (reply->type)
                n += (size_t)snprintf(to + n, room - n, "Content-Type: %s\r\n", reply->type);
        if (connection->framing == HTTP_FRAMING_CHUNKED)
                n += (size_t)snprintf(to + n, room - n, "Transfer-Encoding: chunked\r\n");
        else if (connection->framing == HTTP_FRAMING_LENGTH && reply->status != 204)
                n += (size_t)snprintf(to + n, room - n, "Content-Length: %" PRIu64 "\r\n", length);
        if (cors)
                n += (size_t)snprintf(to + n, room - n, "Access-Control-Allow-Origin: %s\r\n", cors);
        n += (size_t)snprintf(to + n, room - n, "%s%s%s\r\n", fields,
                              http_is_stopping(connection->http) ? "x-envoy-immediate-health-check-fail: true\r\n" : "",
                              connection->closes           ? "Connection: close\r\n" :
                              connection->head.is_http_1_0 ? "Connection: keep-alive\r\n" :
                                                             "");
        http_wrote(connection, n);
}

void http_reply(struct http_connection *connection, const struct http_reply *reply) {
        http_write_head(connection, reply, reply->len);
        if (!connection->head.is_head && reply->len > 0)
                (void)http_write(connection, reply->text, reply->len);
        http_answered(connection, true);
}

/* The types of Anthropic's errors. */
static const char *anthropic_type(unsigned status) {
        switch (status) {
        case 401:
                return "authentication_error";
        case 403:
                return "permission_error";
        case 404:
                return "not_found_error";
        case 413:
                return "request_too_large";
        case 503:
                return "overloaded_error";
        case 504:
                return "timeout_error";
        default:
                return status < 500 ? "invalid_request_error" : "api_error";
        }
}

char *http_format_error(enum http_shape shape, unsigned status, const char *code, const char *message) {
        json_t *json = NULL;
        char *text;

        switch (shape) {
        case HTTP_SHAPE_OPENAI:
                json = json_pack("{s{so ss sn ss}}", "error", "message", status_text(message), "type",
                                 status < 500 ? "invalid_request_error" : "server_error", "param", "code", code);
                break;
        case HTTP_SHAPE_ANTHROPIC:
                json = json_pack("{ss s{ss so}}", "type", "error", "error", "type", anthropic_type(status), "message",
                                 status_text(message));
                break;
        case HTTP_SHAPE_OLLAMA:
                json = json_pack("{so}", "error", status_text(message));
                break;
        }
        text = json_write(json);
        json_decref(json);
        return text;
}

void http_reply_failure(struct http_connection *connection, unsigned status, const char *code, const char *message,
                        const char *fields) {
        _cleanup_free_ char *text = http_format_error(connection->shape, status, code, message);

        http_reply(connection, &(struct http_reply){ status, TYPE_JSON, text, text ? strlen(text) : 0, fields });
}

static unsigned status_of(enum protocol_code code) {
        static const unsigned statuses[PROTOCOL_CODE_COUNT] = {
                [PROTOCOL_BAD_REQUEST] = 400,   [PROTOCOL_TOO_LARGE] = 413,        [PROTOCOL_QUEUE_FULL] = 503,
                [PROTOCOL_LOAD_FAILED] = 503,   [PROTOCOL_SHUTTING_DOWN] = 503,    [PROTOCOL_TIMED_OUT] = 504,
                [PROTOCOL_INFERENCE_FAILED] = 502, [PROTOCOL_NOT_PERMITTED] = 403,
                [PROTOCOL_MODEL_NOT_LOADED] = 503,
        };

        return statuses[code];
}

/* When the load that is under way is expected to have ended. */
static const char *format_retry(const struct http_connection *connection, char field[static RETRY_FIELD_MAX]) {
        snprintf(field, RETRY_FIELD_MAX, "Retry-After: %u\r\n", status_retry_after(connection->http->status));
        return field;
}

void http_reply_error(struct http_connection *connection, enum protocol_code code, const char *message) {
        const unsigned status = status_of(code);
        const char *fields = NULL;
        char loaded[RETRY_FIELD_MAX];

        if (status == 503)
                fields = code == PROTOCOL_SHUTTING_DOWN ? RETRY_SOON : RETRY_LATER;
        /* What is full of those who wait for a load is empty after it. */
        if (code == PROTOCOL_QUEUE_FULL && status_expectation(connection->http->status).left >= 0)
                fields = format_retry(connection, loaded);
        http_reply_failure(connection, status, protocol_code_name(code), message, fields);
}

/* The rest of the request cannot be told from another one: its connection ends. */
static void begin_refusal(struct http_connection *connection) {
        http_drop_request(connection);
        connection->state = HTTP_ASKED;
        connection->record = NULL;
        connection->left = 0;
        connection->closes = connection->lingers = true;
}

void http_refuse(struct http_connection *connection, unsigned status, const char *code, const char *message) {
        begin_refusal(connection);
        http_reply_failure(connection, status, code, message, NULL);
}

void http_refuse_error(struct http_connection *connection, enum protocol_code code, const char *message) {
        begin_refusal(connection);
        http_reply_error(connection, code, message);
}

void http_refuse_memory(struct http_connection *connection) {
        http_refuse(connection, 500, "out-of-memory", strerror(ENOMEM));
}

/* Paths. */

struct path {
        const char *text;
        size_t len;                     /* without the query */
};

static struct path path_of(const struct http_connection *connection, const char *head) {
        const char *text = head + connection->head.target.at;
        const char *query = memchr(text, '?', connection->head.target.len);

        return (struct path){ text, query ? (size_t)(query - text) : connection->head.target.len };
}

static bool path_is(struct path path, const char *text) {
        return path.len == strlen(text) && memcmp(path.text, text, path.len) == 0;
}

static bool path_begins(struct path path, const char *text) {
        size_t len = strlen(text);

        return path.len >= len && memcmp(path.text, text, len) == 0;
}

static bool is_health(struct path path) {
        return path_is(path, "/health") || path_is(path, "/-/ready") || path_is(path, "/-/live");
}

void http_classify(struct http_connection *connection, const char *head) {
        struct path path = path_of(connection, head);

        connection->is_own = path_begins(path, "/-/") || path_is(path, "/health");
        connection->shape = path_is(path, "/v1/messages") || path_begins(path, "/v1/messages/") ? HTTP_SHAPE_ANTHROPIC :
                            path_begins(path, "/api/")                                           ? HTTP_SHAPE_OLLAMA :
                                                                                                   HTTP_SHAPE_OPENAI;
}

/* Compares all of it, whatever differs, so that the time says nothing of the key. */
static bool is_key(const char *key, const char *text, size_t len) {
        const size_t key_len = strlen(key);
        unsigned different = key_len != len;

        for (size_t i = 0; i < len; i++)
                different |= (unsigned char)text[i] ^ (unsigned char)key[key_len > 0 ? i % key_len : 0];
        return !different && len > 0;
}

bool http_is_permitted(const struct http_connection *connection, const char *head) {
        static const char scheme[] = "Bearer ";
        const struct http_group *group = connection->http->group;
        const struct http_span *span = &connection->head.authorization;
        const char *text = head + span->at;
        size_t len = span->len;
        bool found = false;

        if (group->key_count == 0 || is_health(path_of(connection, head)))
                return true;
        /* A browser asks before it sends a key. */
        if (connection->head.is_preflight && (group->cors_origin || connection->is_own))
                return true;
        if (len < sizeof(scheme) || strncasecmp(text, scheme, sizeof(scheme) - 1) != 0)
                return false;
        text += sizeof(scheme) - 1;
        len -= sizeof(scheme) - 1;
        for (; len > 0 && *text == ' '; text++)
                len--;
        for (size_t i = 0; i < group->key_count; i++)
                found |= is_key(group->keys[i], text, len);
        return found;
}

/* What msd itself answers, in any state. */

/* What becomes of requests. */
enum readiness {
        READY,
        IDLE,                   /* inference loads the model first */
        LOADING,
        UNAVAILABLE,            /* they are refused */
};

/* Of UNAVAILABLE, `why` says why; otherwise it is NULL. */
static enum readiness readiness_of(const struct http_connection *connection, enum protocol_code *code, const char **why) {
        struct lane *lane = connection->http->lane;

        lane_follow(lane);
        *code = PROTOCOL_SHUTTING_DOWN;
        *why = PROTOCOL_SHUTTING_DOWN_MESSAGE;
        if (http_is_stopping(connection->http))
                return UNAVAILABLE;
        switch (gate_state(&lane->generation->gate)) {
        case GATE_OPEN:
                *why = NULL;
                return READY;
        case GATE_FAILED:
                *code = PROTOCOL_LOAD_FAILED;
                *why = lane->generation->gate.reason;
                return UNAVAILABLE;
        default:
                *why = NULL;
                return generation_is_idle(lane->generation) ? IDLE : LOADING;
        }
}

static void reply_text(struct http_connection *connection, const char *type, const char *text) {
        http_reply(connection, &(struct http_reply){ 200, type, text, strlen(text), NULL });
}

/* `text` is freed; NULL: out of memory. */
static void reply_made(struct http_connection *connection, const char *type, char *text) {
        if (text)
                reply_text(connection, type, text);
        else
                http_reply_failure(connection, 500, "out-of-memory", strerror(ENOMEM), NULL);
        free(text);
}

/* While it loads, with what the last probe saw. */
static void reply_loading(struct http_connection *connection) {
        char message[320], probe[256], retry[RETRY_FIELD_MAX];

        status_get_probe(connection->http->status, probe, sizeof(probe));
        snprintf(message, sizeof(message), "Loading model%s%s", probe[0] ? ": " : "", probe);
        http_reply_failure(connection, 503, "loading", message, format_retry(connection, retry));
}

static void reply_ready(struct http_connection *connection, const char *type, const char *text) {
        enum protocol_code code;
        const char *why;

        switch (readiness_of(connection, &code, &why)) {
        case READY:
        case IDLE:
                reply_text(connection, type, text);
                break;
        case LOADING:
                reply_loading(connection);
                break;
        case UNAVAILABLE:
                http_reply_error(connection, code, why);
                break;
        }
}

static void wait_for_model(struct http_connection *connection) {
        http_drop_request(connection);
        connection->record = NULL;
        connection->state = HTTP_ASKED;
        http_set_delay(connection, HTTP_DELAY_NONE);
        if (lane_observe(connection->http->lane, &connection->owner, REQUEST_WAIT) < 0)
                http_reply_failure(connection, 500, "out-of-memory", strerror(ENOMEM), NULL);
}

/* The fields that a browser wants to send are permitted as it names them: "*" would not mean Authorization. */
static void reply_preflight(struct http_connection *connection, const char *head, const char *methods) {
        static const char name[] = "Access-Control-Request-Headers";
        char fields[PREFLIGHT_HEADERS_MAX + 256];
        uint32_t at = connection->head.fields_at;
        struct http_field field;
        int n;

        n = snprintf(fields, sizeof(fields),
                     "Access-Control-Allow-Methods: %s\r\nAccess-Control-Max-Age: " PREFLIGHT_SECONDS "\r\n", methods);
        while (http_next_field(head, &at, &field))
                if (http_field_is(&field, name) && field.value_len <= PREFLIGHT_HEADERS_MAX) {
                        char names[PREFLIGHT_HEADERS_MAX + 1];

                        (void)printable(names, sizeof(names), field.value, field.value_len);
                        (void)snprintf(fields + n, sizeof(fields) - (size_t)n, "Access-Control-Allow-Headers: %s\r\n", names);
                        break;
                }
        http_reply(connection, &(struct http_reply){ .status = 204, .fields = fields });
}

static void answer_own_path(struct http_connection *connection, const char *head, struct path path) {
        struct status *status = connection->http->status;

        if (connection->head.is_preflight)
                reply_preflight(connection, head, "GET, HEAD");
        else if (!connection->head.is_head && !http_method_is(connection, head, "GET"))
                http_reply_failure(connection, 405, "method-not-allowed", "This path has GET and HEAD alone",
                                   "Allow: GET, HEAD\r\n");
        else if (path_is(path, "/health"))
                reply_ready(connection, TYPE_JSON, "{\"status\":\"ok\"}");
        else if (path_is(path, "/-/ready"))
                reply_ready(connection, TYPE_TEXT, "ready\n");
        else if (path_is(path, "/-/live"))
                reply_text(connection, TYPE_TEXT, "ok\n");
        else if (path_is(path, "/-/status"))
                reply_made(connection, TYPE_JSON, status_format(status));
        else if (path_is(path, "/-/metrics"))
                reply_made(connection, "text/plain; version=0.0.4; charset=utf-8", status_format_metrics(status));
        else if (path_is(path, "/-/wait"))
                wait_for_model(connection);
        else
                http_reply_failure(connection, 404, "not-found", "msd has no such path", NULL);
}

/* A list of models, or one of it, from the name that is known while there is no model. Returns false: it is not for that. */
static bool answer_models(struct http_connection *connection, const char *head, struct path path, const char *name) {
        static const char prefix[] = "/v1/models/";
        const size_t prefix_len = sizeof(prefix) - 1;
        const bool is_list = path_is(path, "/v1/models");
        json_t *model, *json;

        if (!(connection->head.is_head || http_method_is(connection, head, "GET")))
                return false;
        if (!is_list && !(path_begins(path, prefix) && path.len - prefix_len == strlen(name) &&
                          memcmp(path.text + prefix_len, name, path.len - prefix_len) == 0))
                return false;
        model = json_pack("{so ss sI ss}", "id", status_text(name), "object", "model", "created", (json_int_t)time(NULL),
                          "owned_by", "msd");
        json = is_list ? json_pack("{ss s[o]}", "object", "list", "data", model) : model;
        reply_made(connection, TYPE_JSON, json_write(json));
        json_decref(json);
        return true;
}

bool http_answer_own(struct http_connection *connection, const char *head) {
        const struct http_group *group = connection->http->group;
        const bool asks_first = connection->head.is_preflight && group->cors_origin;
        struct path path = path_of(connection, head);
        enum readiness readiness;
        enum protocol_code code;
        const char *why;

        if (connection->is_own) {
                answer_own_path(connection, head, path);
                return true;
        }
        readiness = readiness_of(connection, &code, &why);
        if (asks_first && (group->key_count > 0 || readiness != READY)) {
                reply_preflight(connection, head, "GET, HEAD, POST, PUT, PATCH, DELETE");
                return true;
        }
        if (readiness == IDLE && connection->http->lane->generation->last_model[0] != '\0')
                return answer_models(connection, head, path, connection->http->lane->generation->last_model);
        return group->model_name && (readiness == LOADING || readiness == IDLE) &&
               answer_models(connection, head, path, group->model_name);
}
