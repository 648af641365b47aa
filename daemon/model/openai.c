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

static enum path path_of(const struct exchange *exchange) {
        static const struct {
                const char *path;
                enum path which;
        } paths[] = {
                { "/v1/models", PATH_MODELS },
                { "/v1/completions", PATH_COMPLETIONS },
                { "/v1/chat/completions", PATH_CHAT },
        };
        size_t len = strcspn(exchange->target, "?");

        for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
                if (strlen(paths[i].path) == len && memcmp(paths[i].path, exchange->target, len) == 0)
                        return paths[i].which;
        return strncmp(exchange->target, "/v1/models/", 11) == 0 ? PATH_MODEL : PATH_NONE;
}

static bool is_post(const struct exchange *exchange) {
        return strcmp(exchange->method, "POST") == 0;
}

bool openai_is_inference(const struct exchange *exchange) {
        enum path path = path_of(exchange);

        return (path == PATH_COMPLETIONS || path == PATH_CHAT) && is_post(exchange);
}

static json_t *make_error(const char *message, const char *code) {
        return json_pack("{s{ss ss sn ss}}", "error", "message", message, "type", "invalid_request_error", "param", "code",
                         code);
}

static json_t *make_model(const char *name) {
        return json_pack("{ss ss sI ss}", "id", name, "object", "model", "created", (json_int_t)time(NULL), "owned_by", "msd");
}

/* One choice; of a stream it has a piece of the text, or (NULL) says that this was all. */
static json_t *make_choice(enum path path, bool stream, const char *text, size_t len) {
        json_t *finish = stream && text ? json_null() : json_string("stop");

        if (path == PATH_COMPLETIONS)
                return json_pack("{si ss% so sn}", "index", 0, "text", text ? text : "", text ? len : 0, "finish_reason", finish,
                                 "logprobs");
        if (!stream)
                return json_pack("{si s{ss ss%} so sn}", "index", 0, "message", "role", "assistant", "content", text, len,
                                 "finish_reason", finish, "logprobs");
        if (!text)
                return json_pack("{si s{} so sn}", "index", 0, "delta", "finish_reason", finish, "logprobs");
        return json_pack("{si s{ss ss%} so sn}", "index", 0, "delta", "role", "assistant", "content", text, len, "finish_reason",
                         finish, "logprobs");
}

static json_t *make_completion(enum path path, bool stream, const char *id, size_t id_len, const char *name,
                               const char *text, size_t len) {
        const char *object = path == PATH_COMPLETIONS ? "text_completion" : stream ? "chat.completion.chunk" : "chat.completion";
        char name_of_it[32 + PROTOCOL_ID_MAX];

        snprintf(name_of_it, sizeof(name_of_it), "%s-%.*s", path == PATH_COMPLETIONS ? "cmpl" : "chatcmpl", (int)id_len, id);
        return json_pack("{ss ss sI ss s[o]}", "id", name_of_it, "object", object, "created", (json_int_t)time(NULL), "model", name,
                         "choices", make_choice(path, stream, text, len));
}

static bool write_event(FILE *file, json_t *event) {
        char *text = json_write(event);
        bool written = text && fprintf(file, "data: %s\n\n", text) > 0;

        free(text);
        json_decref(event);
        return written;
}

/* Word by word, each with the space before it, as the tokens of most models come. Returns NULL: out of memory. */
static char *make_stream(enum path path, const char *id, size_t id_len, const char *name, const char *text) {
        size_t size, len = strlen(text);
        char *stream = NULL;
        FILE *file = open_memstream(&stream, &size);
        bool r = true;

        if (!file)
                return NULL;
        for (size_t begin = 0, end; r && begin < len; begin = end) {
                end = begin + 1 + strcspn(text + begin + 1, " ");
                r = write_event(file, make_completion(path, true, id, id_len, name, text + begin, end - begin));
        }
        r = r && write_event(file, make_completion(path, true, id, id_len, name, NULL, 0)) &&
            fputs("data: [DONE]\n\n", file) >= 0;
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

/* What is to be said in JSON, and the status of it; or NULL and a stream in `answer`. */
static json_t *make_answer(struct openai_answer *answer, const struct exchange *exchange, const char *id, size_t id_len,
                           const char *name, const char *text) {
        const enum path path = path_of(exchange);
        const bool get = strcmp(exchange->method, "GET") == 0 || strcmp(exchange->method, "HEAD") == 0;
        json_t *request, *json;

        answer->head.status = 404;
        switch (path) {
        case PATH_MODELS:
                if (!get)
                        break;
                answer->head.status = 200;
                return json_pack("{ss s[o]}", "object", "list", "data", make_model(name));
        case PATH_MODEL:
                if (!get)
                        break;
                if (strcmp(exchange->target + strlen("/v1/models/"), name) != 0)
                        return make_error("There is no such model", "model_not_found");
                answer->head.status = 200;
                return make_model(name);
        case PATH_COMPLETIONS:
        case PATH_CHAT:
                if (!is_post(exchange))
                        break;
                request = json_read(exchange->body ? exchange->body : "", exchange->body_len);
                if (!request && errno == ENOMEM)
                        return NULL;
                if (!json_is_object(request)) {
                        json_decref(request);
                        answer->head.status = 400;
                        return make_error("The body is no JSON object", "bad-request");
                }
                answer->head.status = 200;
                if (json_is_true(json_object_get(request, "stream"))) {
                        answer->type.value = "text/event-stream";
                        answer->body = make_stream(path, id, id_len, name, text);
                        json = NULL;
                } else {
                        json = make_completion(path, false, id, id_len, name, text, strlen(text));
                        if (json_object_set_new(json, "usage",
                                                json_pack("{si sI sI}", "prompt_tokens", 0, "completion_tokens",
                                                          (json_int_t)count_words(text), "total_tokens",
                                                          (json_int_t)count_words(text))) < 0) {
                                json_decref(json);
                                json = NULL;
                        }
                }
                json_decref(request);
                return json;
        case PATH_NONE:
                return make_error("The simulated model has no such path", "not-found");
        }
        answer->head.status = 405;
        return make_error("The simulated model has another method for this path", "method-not-allowed");
}

int openai_answer(struct openai_answer *answer, const struct exchange *exchange, const char *id, size_t id_len,
                  const char *name, const char *text) {
        json_t *json;

        *answer = (struct openai_answer){ .type = { "Content-Type", "application/json" } };
        json = make_answer(answer, exchange, id, id_len, name, text);
        if (json)
                answer->body = json_write(json);
        json_decref(json);
        if (!answer->body)
                return -ENOMEM;
        /* Of a stream nobody knows how long it will be. */
        answer->head.fields = &answer->type;
        answer->head.field_count = 1;
        answer->body_len = strlen(answer->body);
        answer->head.length = json ? answer->body_len : ANSWER_LENGTH_UNKNOWN;
        return 0;
}

void openai_answer_deinit(struct openai_answer *answer) {
        free(STEAL_POINTER(answer->body));
}
