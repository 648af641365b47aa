#include "tests/soak/web.h"

#include <jansson.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/util.h"

void bytes_add(struct bytes *bytes, const char *data, size_t len) {
        if (bytes->size - bytes->len < len) {
                bytes->size = MAX(bytes->size * 2, bytes->len + len);
                bytes->data = realloc(bytes->data, bytes->size);
                if (!bytes->data)
                        abort();
        }
        if (len > 0)
                memcpy(bytes->data + bytes->len, data, len);
        bytes->len += len;
}

void bytes_deinit(struct bytes *bytes) {
        free(bytes->data);
        *bytes = (struct bytes){ 0 };
}

void web_deinit(struct web *web) {
        bytes_deinit(&web->input);
        bytes_deinit(&web->body);
        *web = (struct web){ 0 };
}

void web_add(struct web *web, const char *data, size_t len) {
        if (web->taken > 0) {
                web->input.len -= web->taken;
                memmove(web->input.data, web->input.data + web->taken, web->input.len);
                web->taken = 0;
        }
        bytes_add(&web->input, data, len);
}

/* The next line, without its end. Returns 1, or 0 if it is not whole yet. */
static int take_line(struct web *web, const char **line, size_t *len) {
        const char *begin = web->input.data + web->taken;
        const char *end = web->input.len > web->taken ? memmem(begin, web->input.len - web->taken, "\r\n", 2) : NULL;

        if (!end)
                return 0;
        *line = begin;
        *len = (size_t)(end - begin);
        web->taken += *len + 2;
        return 1;
}

static bool is_field(const char *line, size_t len, const char *name, const char **value) {
        size_t name_len = strlen(name);

        if (len <= name_len || strncasecmp(line, name, name_len) != 0 || line[name_len] != ':')
                return false;
        for (*value = line + name_len + 1; **value == ' '; ++*value)
                ;
        return true;
}

/* Returns 1, 0 if it is not whole yet, or -1. */
static int take_head(struct web *web) {
        const char *begin = web->input.data + web->taken, *line, *value;
        size_t len = web->input.len - web->taken;

        if (len == 0 || !memmem(begin, len, "\r\n\r\n", 4))
                return 0;
        if (take_line(web, &line, &len) == 0 || len < 12 || memcmp(line, "HTTP/1.1 ", 9) != 0)
                return -1;
        web->status = (unsigned)atoi(line + 9);
        web->chunked = web->streams = false;
        web->until_end = web->status >= 200 && web->status != 204 && web->status != 304;
        web->left = 0;
        web->body.len = 0;
        while (take_line(web, &line, &len) && len > 0) {
                if (is_field(line, len, "Content-Length", &value)) {
                        web->left = strtoul(value, NULL, 10);
                        web->until_end = false;
                } else if (is_field(line, len, "Transfer-Encoding", &value)) {
                        web->chunked = true;
                        web->until_end = false;
                } else if (is_field(line, len, "Content-Type", &value))
                        web->streams = strncmp(value, "text/event-stream", 17) == 0;
        }
        web->in_body = true;
        return 1;
}

/* What there is of the rest of the body, or of a chunk. Returns whether that is all of it. */
static bool take_bytes(struct web *web) {
        size_t n = MIN(web->left, web->input.len - web->taken);

        if (n > 0)
                bytes_add(&web->body, web->input.data + web->taken, n);
        web->taken += n;
        web->left -= n;
        return web->left == 0;
}

static int take_chunks(struct web *web) {
        const char *line;
        size_t len;

        for (;;) {
                size_t before;

                if (!take_bytes(web))
                        return 0;
                before = web->taken;
                if (!take_line(web, &line, &len))
                        return 0;
                /* The end of the chunk before. */
                if (len == 0 && !take_line(web, &line, &len)) {
                        web->taken = before;
                        return 0;
                }
                web->left = strtoul(line, NULL, 16);
                if (web->left > 0)
                        continue;
                if (!take_line(web, &line, &len)) {
                        web->taken = before;
                        return 0;
                }
                return len == 0 ? 1 : -1;
        }
}

int web_take(struct web *web) {
        int r = web->in_body ? 1 : take_head(web);

        if (r <= 0)
                return r;
        if (web->until_end) {
                web->left = SIZE_MAX;
                (void)take_bytes(web);
                return 0;
        }
        r = web->chunked ? take_chunks(web) : take_bytes(web);
        web->in_body = r == 0;
        return r;
}

bool web_end(struct web *web) {
        if (!web->in_body || !web->until_end)
                return false;
        web->in_body = false;
        return true;
}

static const char *text_of(const json_t *json, bool stream, bool chat, size_t *len) {
        const json_t *choice = json_array_get(json_object_get(json, "choices"), 0);
        const json_t *text = !chat ? json_object_get(choice, "text") :
                                     json_object_get(json_object_get(choice, stream ? "delta" : "message"), "content");

        *len = json_string_length(text);
        return json_string_value(text);
}

bool web_text(const struct web *web, bool stream, bool chat, struct bytes *text) {
        const char *p = web->body.data, *end = p + web->body.len, *part;
        bool ended = false;
        size_t len;

        text->len = 0;
        if (!stream) {
                json_t *json = json_loadb(p ? p : "", web->body.len, 0, NULL);

                part = text_of(json, false, chat, &len);
                if (part)
                        bytes_add(text, part, len);
                json_decref(json);
                return part;
        }
        while (p && p < end) {
                const char *line_end = memchr(p, '\n', (size_t)(end - p));

                if (!line_end)
                        return false;
                if (strncmp(p, "data: [DONE]\n", 13) == 0)
                        ended = true;
                else if (strncmp(p, "data: ", 6) == 0) {
                        json_t *json = json_loadb(p + 6, (size_t)(line_end - p - 6), 0, NULL);

                        part = text_of(json, true, chat, &len);
                        if (part)
                                bytes_add(text, part, len);
                        json_decref(json);
                        if (!json || ended)
                                return false;
                }
                p = line_end + 1;
        }
        return ended;
}

void web_code(const struct web *web, char code[static WEB_CODE_MAX]) {
        json_t *json = json_loadb(web->body.data ? web->body.data : "", web->body.len, 0, NULL);
        const char *text = json_string_value(json_object_get(json_object_get(json, "error"), "code"));

        snprintf(code, WEB_CODE_MAX, "%s", text ? text : "");
        json_decref(json);
}
