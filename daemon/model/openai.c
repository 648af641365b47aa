#include "daemon/model/openai.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/json.h"
#include "common/util.h"

enum path {
        PATH_NONE,
        PATH_MODELS,
        PATH_MODEL,
        PATH_COMPLETIONS,
        PATH_CHAT,
};

static const char *target_of(const struct exchange *exchange) {
        return exchange->head + exchange->request->target.at;
}

/* The length of the path in the target. */
static size_t path_len(const struct exchange *exchange) {
        const size_t len = exchange->request->target.len;
        const char *query = len > 0 ? memchr(target_of(exchange), '?', len) : NULL;

        return query ? (size_t)(query - target_of(exchange)) : len;
}

static const char model_path[] = "/v1/models/";

static enum path path_of(const struct exchange *exchange) {
        static const struct {
                const char *path;
                enum path which;
        } paths[] = {
                { "/v1/models", PATH_MODELS },
                { "/v1/completions", PATH_COMPLETIONS },
                { "/v1/chat/completions", PATH_CHAT },
        };
        size_t len = path_len(exchange);

        for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
                if (strlen(paths[i].path) == len && memcmp(paths[i].path, target_of(exchange), len) == 0)
                        return paths[i].which;
        return len >= sizeof(model_path) - 1 && memcmp(target_of(exchange), model_path, sizeof(model_path) - 1) == 0 ? PATH_MODEL :
                                                                                                                       PATH_NONE;
}

static bool is_method(const struct exchange *exchange, const char *method) {
        return exchange->request->method_len == strlen(method) &&
               memcmp(exchange->head, method, exchange->request->method_len) == 0;
}

static bool is_post(const struct exchange *exchange) {
        return is_method(exchange, "POST");
}

bool openai_is_inference(const struct exchange *exchange) {
        enum path path = path_of(exchange);

        return (path == PATH_COMPLETIONS || path == PATH_CHAT) && is_post(exchange);
}

/* Whether the target names this model. */
static bool is_model(const struct exchange *exchange, const char *name) {
        const size_t before = sizeof(model_path) - 1, len = path_len(exchange) - before;

        return strlen(name) == len && memcmp(target_of(exchange) + before, name, len) == 0;
}

static json_t *make_error(const char *message, const char *code) {
        return json_pack("{s{ss ss sn ss}}", "error", "message", message, "type", "invalid_request_error", "param", "code",
                         code);
}

static json_t *make_model(const char *name) {
        return json_pack("{ss ss sI ss}", "id", name, "object", "model", "created", (json_int_t)time(NULL), "owned_by", "msd");
}

/*
 * Completions are written by hand: they are what thousands of clients get at once when a simulated model is ready, and building
 * them from a tree of values takes ten times as long as all the rest.
 */

/* Room for text of the ID and the name, as a string of JSON. */
#define ESCAPED_MAX (6 * (sizeof("Response  from ") + PROTOCOL_ID_MAX + PROTOCOL_MODEL_MAX))

/* Whether it can stand in JSON: RFC 8259, 8.1. */
static bool is_utf8(const char *text) {
        const char *p = text;
        json_t *json;
        bool r;

        while (*p > 0)
                p++;
        if (*p == '\0')
                return true;
        json = json_string(text);
        r = json != NULL;
        json_decref(json);
        return r;
}

/* Text as it stands between the quotes of a string: RFC 8259, 7. */
static void escape(char to[static ESCAPED_MAX], const char *text, size_t len) {
        static const char digits[] = "0123456789abcdef";
        size_t n = 0;

        for (size_t i = 0; i < len && n + 7 < ESCAPED_MAX; i++) {
                const unsigned char c = (unsigned char)text[i];

                if (c < 0x20) {
                        memcpy(to + n, "\\u00", 4);
                        to[n + 4] = digits[c >> 4];
                        to[n + 5] = digits[c & 15];
                        n += 6;
                        continue;
                }
                if (c == '"' || c == '\\')
                        to[n++] = '\\';
                to[n++] = (char)c;
        }
        to[n] = '\0';
}

/* The same; bytes that are no UTF-8 become '?'. */
static void escape_text(char to[static ESCAPED_MAX], const char *text) {
        escape(to, text, strlen(text));
        if (!is_utf8(text))
                for (char *p = to; *p; p++)
                        if ((unsigned char)*p >= 0x80)
                                *p = '?';
}

/* What all pieces of one completion have in common. */
struct completion_head {
        const char *prefix;             /* of its ID */
        const char *object;
        long long created;
        char id[ESCAPED_MAX];
        char name[ESCAPED_MAX];
};

#define HEAD_FORMAT "{\"id\":\"%s-%s\",\"object\":\"%s\",\"created\":%lld,\"model\":\"%s\",\"choices\":[{\"index\":0,"
#define HEAD_ARGUMENTS(head) (head)->prefix, (head)->id, (head)->object, (head)->created, (head)->name

static void make_head(struct completion_head *head, enum path path, bool stream, const char *id, size_t id_len,
                      const char *name) {
        head->prefix = path == PATH_COMPLETIONS ? "cmpl" : "chatcmpl";
        head->object = path == PATH_COMPLETIONS ? "text_completion" : stream ? "chat.completion.chunk" : "chat.completion";
        head->created = (long long)time(NULL);
        escape(head->id, id, id_len);
        escape_text(head->name, name);
}

/* One event, with a piece of the text; or (NULL) the one that says that this was all. */
static bool write_event(FILE *file, const struct completion_head *head, enum path path, const char *text, size_t len) {
        const char *before = path == PATH_COMPLETIONS ? "\"text\":\"" :
                             text                     ? "\"delta\":{\"role\":\"assistant\",\"content\":\"" :
                                                        "\"delta\":{";
        const char *after = path == PATH_COMPLETIONS ? "\"" : text ? "\"}" : "}";
        char escaped[ESCAPED_MAX] = "";

        if (text)
                escape(escaped, text, len);
        return fprintf(file, "data: " HEAD_FORMAT "%s%s%s,\"finish_reason\":%s,\"logprobs\":null}]}\n\n", HEAD_ARGUMENTS(head), before,
                       escaped, after, text ? "null" : "\"stop\"") > 0;
}

/* Word by word, each with the space before it, as the tokens of most models come. Returns NULL: out of memory. */
static char *make_stream(enum path path, const char *id, size_t id_len, const char *name, const char *text) {
        const bool whole = is_utf8(text);
        struct completion_head head;
        size_t size, len = strlen(text);
        char *stream = NULL;
        FILE *file = open_memstream(&stream, &size);
        bool r = true;

        if (!file)
                return NULL;
        make_head(&head, path, true, id, id_len, name);
        /* A name that is no UTF-8 stands in the head as it can. */
        if (!whole) {
                text = "Response";
                len = strlen(text);
        }
        for (size_t begin = 0, end; r && begin < len; begin = end) {
                end = begin + 1 + strcspn(text + begin + 1, " ");
                r = write_event(file, &head, path, text + begin, end - begin);
        }
        r = r && write_event(file, &head, path, NULL, 0) && fputs("data: [DONE]\n\n", file) >= 0;
        if (fclose(file) != 0 || !r)
                free(STEAL_POINTER(stream));
        return stream;
}

static unsigned long count_words(const char *text) {
        unsigned long n = 0;

        for (size_t len; *text; text += len + (text[len] != '\0')) {
                len = strcspn(text, " ");
                n += len > 0;
        }
        return n;
}

/*
 * Whether the body is an object of JSON, and asks for a stream. Returns 0, -EINVAL or -ENOMEM. One that has no such member is not
 * parsed: when a model is ready thousands of them are looked at in the same moment.
 */
static int read_body(const struct exchange *exchange, bool *is_stream) {
        static const char member[] = "\"stream\"";
        const char *body = exchange->body;
        size_t len = exchange->body_len == HTTP_LENGTH_UNKNOWN ? 0 : exchange->body_len;
        json_t *json;
        int r = -EINVAL;

        while (len > 0 && strchr(" \t\r\n", body[len - 1]))
                len--;
        while (len > 0 && strchr(" \t\r\n", *body)) {
                body++;
                len--;
        }
        *is_stream = false;
        if (len < 2 || *body != '{' || body[len - 1] != '}')
                return -EINVAL;
        if (!memmem(body, len, member, sizeof(member) - 1))
                return 0;
        json = json_read(body, len);
        if (json_is_object(json)) {
                *is_stream = json_is_true(json_object_get(json, "stream"));
                r = 0;
        } else if (!json && errno == ENOMEM)
                r = -ENOMEM;
        json_decref(json);
        return r;
}

/* Returns NULL: out of memory. */
static char *make_completion(enum path path, const char *id, size_t id_len, const char *name, const char *text) {
        const bool is_chat = path == PATH_CHAT;
        const unsigned long words = count_words(text);
        struct completion_head head;
        char escaped[ESCAPED_MAX];
        char *completion;

        make_head(&head, path, false, id, id_len, name);
        escape_text(escaped, text);
        if (asprintf(&completion,
                     HEAD_FORMAT "%s%s\"%s,\"finish_reason\":\"stop\",\"logprobs\":null}],"
                                 "\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":%lu,\"total_tokens\":%lu}}",
                     HEAD_ARGUMENTS(&head), is_chat ? "\"message\":{\"role\":\"assistant\",\"content\":\"" : "\"text\":\"", escaped,
                     is_chat ? "}" : "", words, words) < 0)
                return NULL;
        return completion;
}

/* An answer that is a tree of values; NULL: it is written already, in `answer`, or there was no memory. */
static json_t *make_answer(struct openai_answer *answer, unsigned *status, bool *is_stream, const struct exchange *exchange,
                           const char *id, size_t id_len, const char *name, const char *text) {
        const enum path path = path_of(exchange);
        const bool get = is_method(exchange, "GET") || exchange->request->is_head;

        *status = 404;
        switch (path) {
        case PATH_MODELS:
                if (!get)
                        break;
                *status = 200;
                return json_pack("{ss s[o]}", "object", "list", "data", make_model(name));
        case PATH_MODEL:
                if (!get)
                        break;
                if (!is_model(exchange, name))
                        return make_error("There is no such model", "model_not_found");
                *status = 200;
                return make_model(name);
        case PATH_COMPLETIONS:
        case PATH_CHAT:
                if (!is_post(exchange))
                        break;
                switch (read_body(exchange, is_stream)) {
                case -ENOMEM:
                        return NULL;
                case -EINVAL:
                        *status = 400;
                        return make_error("The body is no JSON object", "bad-request");
                }
                *status = 200;
                answer->body = *is_stream ? make_stream(path, id, id_len, name, text) : make_completion(path, id, id_len, name, text);
                return NULL;
        case PATH_NONE:
                return make_error("The simulated model has no such path", "not-found");
        }
        *status = 405;
        return make_error("The simulated model has another method for this path", "method-not-allowed");
}

int openai_answer(struct openai_answer *answer, const struct exchange *exchange, const char *id, size_t id_len,
                  const char *name, const char *text) {
        struct http_refusal refusal;
        bool is_stream = false;
        unsigned status;
        json_t *json;
        int n;

        *answer = (struct openai_answer){ 0 };
        json = make_answer(answer, &status, &is_stream, exchange, id, id_len, name, text);
        if (json)
                answer->body = json_write(json);
        json_decref(json);
        if (!answer->body)
                return -ENOMEM;
        answer->body_len = strlen(answer->body);
        /* Of a stream nobody knows how long it will be. */
        if (!is_stream)
                n = snprintf(answer->head, sizeof(answer->head),
                             "HTTP/1.1 %u %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", status,
                             http_reason(status), answer->body_len);
        else
                n = snprintf(answer->head, sizeof(answer->head),
                             "HTTP/1.1 %u %s\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n", status,
                             http_reason(status));
        (void)http_parse_answer(&answer->answer, answer->head, (size_t)n, 0, &refusal);
        return 0;
}

void openai_answer_deinit(struct openai_answer *answer) {
        free(STEAL_POINTER(answer->body));
}
