#include "daemon/model/completion.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

int text_add(struct text *text, const char *data, size_t len) {
        if (len > TEXT_MAX - text->len)
                return -EMSGSIZE;
        if (text->size - text->len < len + 1) {
                size_t size = MAX(text->size * 2, text->len + len + 1);
                char *grown = realloc(text->data, size);

                if (!grown)
                        return -ENOMEM;
                text->data = grown;
                text->size = size;
        }
        memcpy(text->data + text->len, data, len);
        text->len += len;
        text->data[text->len] = '\0';
        return 0;
}

void text_free(struct text *text) {
        free(text->data);
        *text = (struct text){ 0 };
}

char *completion_error(const json_t *json, long status) {
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

json_t *completion_text(const json_t *json) {
        const json_t *choice = json_array_get(json_object_get(json, "choices"), 0);
        json_t *text = json_object_get(choice, "text");

        if (!json_is_string(text))
                text = json_object_get(json_object_get(choice, "message"), "content");
        return json_is_string(text) ? text : NULL;
}

/* One event of a stream: what stands behind "data:". */
static void take_event(struct completion *completion, const char *data, size_t len) {
        const json_t *text;
        json_t *json;

        while (len > 0 && *data == ' ') {
                data++;
                len--;
        }
        if (len == 6 && memcmp(data, "[DONE]", 6) == 0) {
                completion->ended = true;
                return;
        }
        json = json_read(data, len);
        text = completion_text(json);
        if (text) {
                if (json_string_length(text) > 0)
                        completion->part(completion, json_string_value(text), json_string_length(text));
        } else if (!completion->error && (!json || json_object_get(json, "error")))
                completion->error = json            ? completion_error(json, 200) :
                                    errno == ENOMEM ? strdup(strerror(ENOMEM)) :
                                                      strdup("The model server sent an event that is no JSON");
        json_decref(json);
}

static void take_lines(struct completion *completion) {
        struct text *text = &completion->text;
        size_t start = 0, from = completion->scanned;
        char *end;

        while ((end = memchr(text->data + from, '\n', text->len - from))) {
                const char *line = text->data + start;
                size_t len = (size_t)(end - line);

                start += len + 1;
                from = start;
                if (len > 0 && line[len - 1] == '\r')
                        len--;
                if (len >= 5 && memcmp(line, "data:", 5) == 0 && !completion->ended)
                        take_event(completion, line + 5, len - 5);
        }
        text->len -= start;
        memmove(text->data, text->data + start, text->len);
        completion->scanned = text->len;
}

int completion_take(struct completion *completion, bool is_stream, const char *data, size_t len) {
        int r = text_add(&completion->text, data, len);

        if (r == 0 && is_stream)
                take_lines(completion);
        return r;
}

void completion_deinit(struct completion *completion) {
        text_free(&completion->text);
        free(STEAL_POINTER(completion->error));
        completion->scanned = 0;
        completion->ended = false;
}

char *completion_body(const json_t *options, const char *name, const char *prompt, size_t len, uint64_t max_tokens,
                      bool stream) {
        json_t *body = options ? json_copy((json_t *)options) : json_object();
        char *text = NULL;

        if ((!name || json_object_get(body, "model") || json_object_set_new(body, "model", json_string(name)) == 0) &&
            (max_tokens == 0 || json_object_set_new(body, "max_tokens",
                                                    json_integer((json_int_t)MIN(max_tokens, (uint64_t)INT64_MAX))) == 0) &&
            json_object_set_new(body, "prompt", json_stringn(prompt, len)) == 0 &&
            json_object_set_new(body, "stream", json_boolean(stream)) == 0)
                text = json_write(body);
        json_decref(body);
        return text;
}
