/*
 * Answers that msd makes itself, or begins before the model does: which pages a browser lets read them, what is sent to
 * clients that wait, and the shapes of errors.
 */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/stage.h"

static struct stage stage;

static void setup(void) {
        stage_init(&stage);
}

static void teardown(void) {
        stage_deinit(&stage);
}

#define STREAM "{\"stream\":true}"
#define ORIGIN "https://app.example"
#define ALLOW_ORIGIN "Access-Control-Allow-Origin"

static void expect_origin(const char *origin) {
        ck_assert_msg(http_count_field(&stage.http, ALLOW_ORIGIN) == (origin ? 1 : 0), "%u: it is there %u times",
                      stage.http.status, http_count_field(&stage.http, ALLOW_ORIGIN));
        if (origin)
                ck_assert_str_eq(http_field(&stage.http, ALLOW_ORIGIN), origin);
}

/* Asks on a connection of its own. */
static void expect_own(unsigned status, const char *origin, const char *bytes) {
        http_close(&stage.http);
        http_connect(&stage.http, stage.front.address);
        http_send(&stage.http, "%s", bytes);
        http_expect(&stage.http, status, NULL);
        expect_origin(origin);
}

#define HOST "Host: msd\r\n"

START_TEST(cors) {
        char keys[SUITE_PATH_MAX + 16];
        int fd;

        snprintf(keys, sizeof(keys), "%s/keys", stage.front.directory);
        fd = open(keys, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        ck_assert_int_eq(write(fd, "key\n", 4), 4);
        close(fd);
        stage_start(&stage, OPTIONS("--model", "raw", "--cors-origin", ORIGIN, "--http-key-file", keys, "--max-body", "10",
                                    "--request-timeout", "2s"));
        expect_own(200, ORIGIN, "GET /-/live HTTP/1.1\r\n" HOST "\r\n");
        expect_own(503, ORIGIN, "GET /health HTTP/1.1\r\n" HOST "\r\n");
        expect_own(401, ORIGIN, "GET /-/status HTTP/1.1\r\n" HOST "\r\n");
        expect_own(200, ORIGIN, "GET /-/status HTTP/1.1\r\n" HOST "Authorization: Bearer key\r\n\r\n");
        expect_own(200, ORIGIN, "GET /-/metrics HTTP/1.1\r\n" HOST "Authorization: Bearer key\r\n\r\n");
        expect_own(404, ORIGIN, "GET /-/nothing HTTP/1.1\r\n" HOST "Authorization: Bearer key\r\n\r\n");
        expect_own(405, ORIGIN, "DELETE /-/status HTTP/1.1\r\n" HOST "Authorization: Bearer key\r\n\r\n");
        expect_own(400, ORIGIN, "GET / HTTP/1.1\r\n\r\n");
        expect_own(413, ORIGIN, "POST / HTTP/1.1\r\n" HOST "Authorization: Bearer key\r\nContent-Length: 11\r\n\r\n");
        expect_own(401, ORIGIN, "POST / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n");
        expect_own(504, ORIGIN, "POST / HTTP/1.1\r\n" HOST "Authorization: Bearer key\r\nContent-Length: 0\r\n\r\n");
        /* The model's answers go on as they are. */
        raw_wait_ready(&stage.raw, &stage.front.msd.process);
        for (unsigned i = 0; i < 2; i++) {
                http_send(&stage.http, "GET /from-model HTTP/1.1\r\n" HOST "Authorization: Bearer key\r\n\r\n");
                stage_take(&stage);
                raw_send(&stage.request, "HTTP/1.1 200 OK\r\n%sContent-Length: 0\r\n\r\n",
                         i == 0 ? "" : ALLOW_ORIGIN ": *\r\n");
                http_expect(&stage.http, 200, "");
                expect_origin(i == 0 ? NULL : "*");
        }
        daemon_stop(&stage.front.msd);
}
END_TEST

START_TEST(without_cors) {
        stage_start(&stage, OPTIONS("--model", "raw"));
        expect_own(200, NULL, "GET /-/live HTTP/1.1\r\n" HOST "\r\n");
        expect_own(503, NULL, "GET /health HTTP/1.1\r\n" HOST "Origin: " ORIGIN "\r\n\r\n");
        daemon_stop(&stage.front.msd);
}
END_TEST

static void ask_preflight(const char *path) {
        http_send(&stage.http, "OPTIONS %s HTTP/1.1\r\n" HOST "Origin: " ORIGIN "\r\nAccess-Control-Request-Method: POST\r\n"
                               "Access-Control-Request-Headers: authorization, content-type\r\n\r\n", path);
}

/* A browser asks before it asks: msd answers on its own paths, and for a model that cannot. */
START_TEST(preflights) {
        stage_start(&stage, OPTIONS("--model", "raw", "--cors-origin", ORIGIN));
        for (unsigned i = 0; i < 2; i++) {
                ask_preflight("/-/status");
                http_next(&stage.http);
                ck_assert_uint_eq(stage.http.status, 204);
                expect_origin(ORIGIN);
                ck_assert_ptr_nonnull(http_field(&stage.http, "Access-Control-Allow-Methods"));
                ck_assert_ptr_nonnull(strstr(http_field(&stage.http, "Access-Control-Allow-Methods"), "GET"));
                ask_preflight("/v1/chat/completions");
                if (i == 0) {
                        http_next(&stage.http);
                        ck_assert_uint_eq(stage.http.status, 204);
                        expect_origin(ORIGIN);
                        ck_assert_ptr_nonnull(strstr(http_field(&stage.http, "Access-Control-Allow-Methods"), "POST"));
                        ck_assert_ptr_nonnull(strcasestr(http_field(&stage.http, "Access-Control-Allow-Headers"),
                                                         "authorization"));
                        /* No preflight, but a question to the model: it waits. */
                        http_ask(&stage.http, "OPTIONS", "/v1/models");
                        front_wait_waiting(&stage.front, 1);
                        http_close(&stage.http);
                        http_connect(&stage.http, stage.front.address);
                        front_wait_waiting(&stage.front, 0);
                        raw_wait_ready(&stage.raw, &stage.front.msd.process);
                        daemon_wait_ready(&stage.front.msd);
                        continue;
                }
                stage_take(&stage);
                ck_assert_str_eq(stage.request.method, "OPTIONS");
                raw_send(&stage.request, "HTTP/1.1 204 No Content\r\n" ALLOW_ORIGIN ": *\r\n\r\n");
                http_next(&stage.http);
                ck_assert_uint_eq(stage.http.status, 204);
                expect_origin("*");
        }
        daemon_stop(&stage.front.msd);
}
END_TEST

/* Streams that wait, and are told so; and all others, which are not. */
static const struct {
        const char *path;
        const char *fields;
        const char *body;
        bool streams;
} streams[] = {
        { "/v1/chat/completions", "", STREAM, true },
        { "/v1/chat/completions?a=b", "", "{\"messages\":[{\"stream\":false}],\"stream\" : true}", true },
        { "/v1/completions", "", STREAM, true },
        { "/v1/messages", "", STREAM, true },
        { "/v1/responses", "", STREAM, true },
        { "/elsewhere", "Accept: text/event-stream\r\n", "{}", true },
        { "/v1/chat/completions", "Accept: application/json, text/event-stream;q=0.5\r\n", "{}", true },
        { "/v1/chat/completions", "", "{}", false },
        { "/v1/chat/completions", "", "{\"stream\":false}", false },
        { "/v1/chat/completions", "", "{\"messages\":[{\"stream\":true}]}", false },
        { "/v1/chat/completions", "", "{\"text\":\"\\\"stream\\\":true\"}", false },
        { "/api/chat", "", STREAM, false },
        { "/api/generate", "", STREAM, false },
        { "/api/pull", "", STREAM, false },
        { "/elsewhere", "", STREAM, false },
        { "/elsewhere", "Accept: text/event\r\n", STREAM, false },
};

START_TEST(stream_keepalive) {
        stage_start(&stage, OPTIONS("--model", "raw", "--cors-origin", ORIGIN, "--stream-keepalive", "20ms"));
        http_send(&stage.http, "POST %s HTTP/1.1\r\n" HOST "%sContent-Length: %zu\r\n\r\n%s", streams[_i].path,
                  streams[_i].fields, strlen(streams[_i].body), streams[_i].body);
        if (streams[_i].streams) {
                ck_assert(http_head(&stage.http));
                ck_assert_uint_eq(stage.http.status, 200);
                ck_assert_int_eq(strncmp(http_field(&stage.http, "Content-Type"), "text/event-stream", 17), 0);
                ck_assert_str_eq(http_field(&stage.http, "X-Accel-Buffering"), "no");
                expect_origin(ORIGIN);
                http_wait_body(&stage.http, ": waiting\n\n: waiting\n\n");
        } else
                http_expect_silence(&stage.http, 200 * NSEC_PER_MSEC);
        stage_take(&stage);
        ck_assert_str_eq(text_get(&stage.request.body), streams[_i].body);
        raw_send(&stage.request, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\n" ALLOW_ORIGIN ": *\r\n"
                                 "Transfer-Encoding: chunked\r\n\r\n",
                 streams[_i].streams ? "text/event-stream" : "application/x-ndjson");
        if (streams[_i].streams) {
                raw_send(&stage.request, "9\r\ndata: 1\n\n\r\n0\r\n\r\n");
                http_end(&stage.http);
                ck_assert(stage.http.whole);
                ck_assert_str_eq(stage.http.body.data + stage.http.body.len - 9, "data: 1\n\n");
        } else {
                raw_send(&stage.request, "8\r\n{\"a\":1}\n\r\n8\r\n{\"b\":2}\n\r\n0\r\n\r\n");
                http_expect(&stage.http, 200, "{\"a\":1}\n{\"b\":2}\n");
                expect_origin("*");
        }
        daemon_stop(&stage.front.msd);
}
END_TEST

/* The clients of Anthropic's interface hear of an error in an event of its own. */
START_TEST(stream_error) {
        const bool anthropic = _i == 1;
        json_t *json;
        const char *data;

        stage_start(&stage, OPTIONS("--model", "raw", "--request-timeout", "300ms", "--stream-keepalive", "20ms"));
        http_post(&stage.http, anthropic ? "/v1/messages" : "/v1/chat/completions", STREAM);
        http_next(&stage.http);
        ck_assert_uint_eq(stage.http.status, 200);
        data = strstr(stage.http.body.data, "data: ");
        ck_assert_ptr_nonnull(data);
        ck_assert_int_eq(anthropic, strstr(stage.http.body.data, "event: error\n") != NULL);
        json = json_loads(data + 6, JSON_DISABLE_EOF_CHECK, NULL);
        ck_assert_ptr_nonnull(json_string_value(json_object_get(json_object_get(json, "error"), "message")));
        json_decref(json);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* White space before a JSON answer that is late; it stays one JSON text. */
START_TEST(json_keepalive) {
        json_t *json;

        stage_start(&stage, OPTIONS("--model", "raw", "--cors-origin", ORIGIN, "--json-keepalive", "50ms"));
        http_send(&stage.http, "POST /v1/chat/completions HTTP/1.1\r\n" HOST "Accept-Encoding: gzip\r\n"
                               "Content-Length: 2\r\n\r\n{}");
        ck_assert(http_head(&stage.http));
        ck_assert_uint_eq(stage.http.status, 200);
        ck_assert_str_eq(http_field(&stage.http, "Content-Type"), "application/json");
        expect_origin(ORIGIN);
        http_wait_body(&stage.http, " ");
        stage_take(&stage);
        ck_assert_ptr_null(raw_field(&stage.request, "Accept-Encoding"));
        raw_send(&stage.request, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}");
        http_end(&stage.http);
        ck_assert(stage.http.whole);
        json = http_json(&stage.http);
        ck_assert_int_eq(json_integer_value(json_object_get(json, "a")), 1);
        json_decref(json);
        /* One that is not late comes as it is. */
        daemon_wait_ready(&stage.front.msd);
        stage_post(&stage, "/v1/chat/completions", "{}");
        raw_send(&stage.request, "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nX-Own: 1\r\n"
                                 "Content-Length: 7\r\n\r\n{\"a\":1}");
        http_expect(&stage.http, 201, "{\"a\":1}");
        ck_assert_str_eq(http_field(&stage.http, "X-Own"), "1");
        daemon_stop(&stage.front.msd);
}
END_TEST

/* Where the answer is no JSON, or nobody knows, there is none. */
static const struct {
        const char *method;
        const char *path;
        const char *body;
} not_json[] = {
        { "POST", "/v1/chat/completions", STREAM },
        { "POST", "/api/chat", "{}" },
        { "POST", "/v1/audio/speech", "{}" },
        { "GET", "/elsewhere", "" },
};

START_TEST(no_json_keepalive) {
        stage_start(&stage, OPTIONS("--model", "raw", "--json-keepalive", "20ms"));
        http_send(&stage.http, "%s %s HTTP/1.1\r\n" HOST "Accept-Encoding: gzip\r\nContent-Length: %zu\r\n\r\n%s",
                  not_json[_i].method, not_json[_i].path, strlen(not_json[_i].body), not_json[_i].body);
        http_expect_silence(&stage.http, 200 * NSEC_PER_MSEC);
        stage_take(&stage);
        ck_assert_str_eq(raw_field(&stage.request, "Accept-Encoding"), "gzip");
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        daemon_stop(&stage.front.msd);
}
END_TEST

/* A failure comes as an error object, in the body that has begun. */
START_TEST(json_keepalive_failure) {
        json_t *json;

        stage_start(&stage, OPTIONS("--model", "raw", "--json-keepalive", "20ms", "--request-timeout",
                                    _i == 0 ? "300ms" : "1h"));
        http_post(&stage.http, "/v1/chat/completions", "{}");
        ck_assert(http_head(&stage.http));
        ck_assert_uint_eq(stage.http.status, 200);
        http_wait_body(&stage.http, " ");
        if (_i == 1) {
                stage_take(&stage);
                raw_send(&stage.request, "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
                                         "Content-Length: 32\r\n\r\n{\"error\":{\"message\":\"too long\"}}");
        }
        http_end(&stage.http);
        ck_assert(stage.http.whole);
        json = http_json(&stage.http);
        ck_assert_ptr_nonnull(json_string_value(json_object_get(json_object_get(json, "error"), "message")));
        if (_i == 1)
                ck_assert_str_eq(json_string_value(json_object_get(json_object_get(json, "error"), "message")), "too long");
        json_decref(json);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* How long a request waited is said of those that did. */
START_TEST(server_timing) {
        const char *timing;
        char *end;

        stage_start(&stage, OPTIONS("--model", "raw"));
        http_post(&stage.http, "/v1/completions", "{}");
        front_wait_waiting(&stage.front, 1);
        http_expect_silence(&stage.http, 50 * NSEC_PER_MSEC);
        stage_take(&stage);
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        timing = http_field(&stage.http, "Server-Timing");
        ck_assert_ptr_nonnull(timing);
        ck_assert_int_eq(strncmp(timing, "wait;dur=", 9), 0);
        ck_assert(strtod(timing + 9, &end) >= 40);
        ck_assert_str_eq(end, "");
        daemon_wait_ready(&stage.front.msd);
        stage_post(&stage, "/v1/completions", "{}");
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        ck_assert_ptr_null(http_field(&stage.http, "Server-Timing"));
        daemon_stop(&stage.front.msd);
}
END_TEST

/* Errors have the shape of the path. */
START_TEST(shapes) {
        json_t *json, *error;

        stage_start(&stage, OPTIONS("--model", "raw", "--request-timeout", "50ms"));
        http_post(&stage.http, "/v1/messages", "{}");
        http_expect(&stage.http, 504, NULL);
        json = http_json(&stage.http);
        ck_assert_str_eq(json_string_value(json_object_get(json, "type")), "error");
        error = json_object_get(json, "error");
        ck_assert_ptr_nonnull(json_string_value(json_object_get(error, "type")));
        ck_assert_ptr_nonnull(json_string_value(json_object_get(error, "message")));
        json_decref(json);
        http_post(&stage.http, "/api/chat", "{}");
        http_expect(&stage.http, 504, NULL);
        json = http_json(&stage.http);
        ck_assert_ptr_nonnull(json_string_value(json_object_get(json, "error")));
        ck_assert_uint_eq(json_object_size(json), 1);
        json_decref(json);
        http_post(&stage.http, "/v1/chat/completions", "{}");
        http_expect_error(&stage.http, 504, "timed-out", NULL);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* Envoy takes a machine out at once that says so on any answer. */
START_TEST(draining) {
        static const char field[] = "x-envoy-immediate-health-check-fail";
        struct http other;

        stage_start_ready(&stage, OPTIONS("--drain-timeout", "1h"));
        http_connect(&other, stage.front.address);
        http_ask(&other, "GET", "/health");
        http_expect(&other, 200, NULL);
        ck_assert_ptr_null(http_field(&other, field));
        http_close(&other);
        stage_post(&stage, "/v1/completions", "{}");
        process_signal(&stage.front.msd.process, SIGTERM);
        front_wait(&stage.front, peer_status_is_stopping, 0, "it stops");
        http_connect(&other, stage.front.address);
        http_ask(&other, "GET", "/health");
        http_expect_error(&other, 503, "shutting-down", NULL);
        ck_assert_uint_eq(http_count_field(&other, field), 1);
        http_close(&other);
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        ck_assert_uint_eq(http_count_field(&stage.http, field), 1);
        daemon_expect_exit(&stage.front.msd, 0);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, cors);
        tcase_add_test(tests, without_cors);
        tcase_add_test(tests, preflights);
        tcase_add_loop_test(tests, stream_keepalive, 0, (int)ARRAY_SIZE(streams));
        tcase_add_loop_test(tests, stream_error, 0, 2);
        tcase_add_test(tests, json_keepalive);
        tcase_add_loop_test(tests, no_json_keepalive, 0, (int)ARRAY_SIZE(not_json));
        tcase_add_loop_test(tests, json_keepalive_failure, 0, 2);
        tcase_add_test(tests, server_timing);
        tcase_add_test(tests, shapes);
        tcase_add_test(tests, draining);
}

int main(void) {
        return suite_main("http_answers", add);
}
