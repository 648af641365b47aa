#include "tests/support/front.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

void front_init(struct front *front) {
        *front = (struct front){ 0 };
        suite_directory(front->directory);
        snprintf(front->address, sizeof(front->address), "unix:%s/http.sock", front->directory);
        snprintf(front->upstream, sizeof(front->upstream), "unix:%s/up.sock", front->directory);
}

void front_deinit(struct front *front) {
        suite_remove(front->directory);
}

void front_start(struct front *front, const char *const *options) {
        const char *all[32] = { "--http", front->address };
        char said[HTTP_ADDRESS_MAX];
        size_t n = 2;

        for (; *options; options++) {
                ck_assert_uint_lt(n + 1, ARRAY_SIZE(all));
                all[n++] = *options;
        }
        daemon_start_with(&front->msd, NULL, all);
        http_listening(&front->msd.process, 1, said);
        ck_assert_str_eq(said, front->address);
}

void front_start_ready(struct front *front, const char *const *options) {
        front_start(front, options);
        daemon_wait_ready(&front->msd);
}

void front_start_server(struct front *front, const struct process_setup *with, const char *const *options,
                        const char *const *of_server) {
        const char *all[24] = { "--http", front->address };
        size_t n = 2;

        for (; *options; options++) {
                ck_assert_uint_lt(n + 1, ARRAY_SIZE(all));
                all[n++] = *options;
        }
        served_start(&front->msd, with, front->upstream, all, of_server);
}

void front_wait(struct front *front, bool (*done)(const struct peer_status *status, uint64_t number), uint64_t number,
                const char *what) {
        struct peer_status status;

        peer_status_until(&front->msd.control, &status, done, number, what);
}

void front_wait_waiting(struct front *front, uint64_t number) {
        front_wait(front, peer_status_is_waiting, number, "they wait");
}

void front_ask(struct front *front, struct http *http, const char *method, const char *path) {
        http_connect(http, front->address);
        http_ask(http, method, path);
}

void front_ask_chat(struct front *front, struct http *http, const char *id, const char *json) {
        http_connect(http, front->address);
        http_chat(http, id, json);
}

void http_chat(struct http *http, const char *id, const char *json) {
        http->bodiless = false;
        http_send(http, "POST /v1/chat/completions HTTP/1.1\r\nHost: msd\r\nX-Request-Id: %s\r\nContent-Length: %zu\r\n\r\n%s",
                  id, strlen(json), json);
}

void http_expect_chat(struct http *http, const char *id) {
        char text[128];
        json_t *json, *choice;

        http_expect(http, 200, NULL);
        ck_assert_str_eq(http_field(http, "Content-Type"), "application/json");
        json = http_json(http);
        ck_assert_str_eq(json_string_value(json_object_get(json, "object")), "chat.completion");
        ck_assert_str_eq(json_string_value(json_object_get(json, "model")), "sim");
        choice = json_array_get(json_object_get(json, "choices"), 0);
        ck_assert_str_eq(json_string_value(json_object_get(choice, "finish_reason")), "stop");
        snprintf(text, sizeof(text), "Response %s from sim", id);
        ck_assert_str_eq(json_string_value(json_object_get(json_object_get(choice, "message"), "content")), text);
        ck_assert_str_eq(json_string_value(json_object_get(json_object_get(choice, "message"), "role")), "assistant");
        json_decref(json);
}

char *http_text_of_stream(const struct http *http, bool is_chat, unsigned *comments) {
        const char *p = text_get(&http->body);
        struct text text = TEXT_NULL;
        bool done = false;

        *comments = 0;
        while (*p) {
                const char *end = strstr(p, "\n\n");
                json_t *json, *choice;
                const char *piece;

                ck_assert_msg(end && !done, "This is no event, or one too many: %s", p);
                if (*p == ':') {
                        (*comments)++;
                        p = end + 2;
                        continue;
                }
                ck_assert_msg(strncmp(p, "data: ", 6) == 0 && !memchr(p, '\n', (size_t)(end - p)), "This is no event: %s", p);
                p += 6;
                if (strncmp(p, "[DONE]\n\n", 8) == 0) {
                        done = true;
                        p = end + 2;
                        continue;
                }
                json = json_loadb(p, (size_t)(end - p), 0, NULL);
                ck_assert_msg(json, "This is no JSON: %s", p);
                ck_assert_str_eq(json_string_value(json_object_get(json, "object")),
                                 is_chat ? "chat.completion.chunk" : "text_completion");
                choice = json_array_get(json_object_get(json, "choices"), 0);
                piece = json_string_value(is_chat ? json_object_get(json_object_get(choice, "delta"), "content") :
                                                    json_object_get(choice, "text"));
                text_appendf(&text, "%s", piece ? piece : "");
                json_decref(json);
                p = end + 2;
        }
        ck_assert_msg(done, "The stream has no end: %s", text_get(&http->body));
        return text.data;
}

void http_expect_stream(struct http *http, const char *expected, bool is_chat) {
        unsigned comments;
        char *text;

        http_expect(http, 200, NULL);
        ck_assert_int_eq(strncmp(http_field(http, "Content-Type"), "text/event-stream", 17), 0);
        text = http_text_of_stream(http, is_chat, &comments);
        ck_assert_str_eq(text, expected);
        ck_assert_uint_eq(comments, 0);
        free(text);
}
