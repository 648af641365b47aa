#include "daemon/model/completion.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

bool text_add(struct text *text, const char *data, size_t len) {
        if (len > TEXT_MAX - text->len)
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
