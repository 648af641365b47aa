/*
 * The HTTP front: msd's own paths in every state, and requests that wait, are refused, time out, and vanish, with the
 * simulated model to answer them.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/http.h"

#define STOPPING PROTOCOL_SHUTTING_DOWN_MESSAGE
#define HELD 2000

static struct daemon msd;
static char directory[SUITE_PATH_MAX], address[SUITE_PATH_MAX + 32];

static void setup(void) {
        suite_directory(directory);
        snprintf(address, sizeof(address), "unix:%s/http.sock", directory);
}

static void teardown(void) {
        suite_remove(directory);
}

#define OPTIONS(...) ((const char *const[]){ __VA_ARGS__ __VA_OPT__(,) NULL })

/* msd with these options up to NULL, and with a socket for HTTP. */
static void start(const char *const *options) {
        const char *all[30] = { "--http", address };
        char said[HTTP_ADDRESS_MAX];
        size_t n = 2;

        for (; *options; options++)
                all[n++] = *options;
        ck_assert_uint_lt(n, ARRAY_SIZE(all));
        daemon_start_with(&msd, NULL, all);
        http_listening(&msd.process, 1, said);
        ck_assert_str_eq(said, address);
}

static void start_ready(const char *const *options) {
        start(options);
        daemon_wait_ready(&msd);
}

static void wait_status(bool (*done)(const struct peer_status *status, uint64_t number), uint64_t number, const char *what) {
        struct peer_status status;

        peer_status_until(&msd.control, &status, done, number, what);
}

static void wait_waiting(uint64_t n) {
        wait_status(peer_status_is_waiting, n, "they wait");
}

/* Asks on a connection of its own, and reads the answer into `http`, for http_close(). */
static void ask(struct http *http, const char *method, const char *path) {
        http_connect(http, address);
        http_ask(http, method, path);
}

#define CHAT "{\"model\":\"any\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}"
#define CHAT_STREAM "{\"model\":\"any\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}"

static void chat(struct http *http, const char *id, const char *json) {
        http->bodiless = false;
        http_send(http, "POST /v1/chat/completions HTTP/1.1\r\nHost: msd\r\nX-Request-Id: %s\r\nContent-Length: %zu\r\n\r\n%s",
                  id, strlen(json), json);
}

static void ask_chat(struct http *http, const char *id, const char *json) {
        http_connect(http, address);
        chat(http, id, json);
}

/* The next answer is the chat completion of the simulated model to this ID. */
static void expect_chat(struct http *http, const char *id) {
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

/* What the events of a stream say, for the caller to free(), and how many comments there are. It ends as it should. */
static char *text_of_stream(const struct http *http, bool is_chat, unsigned *comments) {
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

static void expect_stream(struct http *http, const char *expected, bool is_chat) {
        unsigned comments;
        char *text;

        http_expect(http, 200, NULL);
        ck_assert_int_eq(strncmp(http_field(http, "Content-Type"), "text/event-stream", 17), 0);
        text = text_of_stream(http, is_chat, &comments);
        ck_assert_str_eq(text, expected);
        ck_assert_uint_eq(comments, 0);
        free(text);
}

/* The same as GET has, without the body. */
static void expect_same_head(const char *path) {
        struct http get, head;

        ask(&get, "GET", path);
        http_next(&get);
        ask(&head, "HEAD", path);
        http_next(&head);
        ck_assert_uint_eq(head.status, get.status);
        ck_assert_uint_eq(head.body.len, 0);
        ck_assert_str_eq(http_field(&head, "Content-Type"), http_field(&get, "Content-Type"));
        ck_assert_int_eq(!http_field(&head, "Retry-After"), !http_field(&get, "Retry-After"));
        http_finish(&head);
        http_expect_end(&head);
        http_close(&get);
        http_close(&head);
}

/* Asks on a connection of its own whatever the state is: when msd stops, each answer ends one. */
static void expect_own(const char *path, unsigned status, const char *body, const char *type) {
        struct http http;

        ask(&http, "GET", path);
        http_expect(&http, status, body);
        ck_assert_int_eq(strncmp(http_field(&http, "Content-Type"), type, strlen(type)), 0);
        http_close(&http);
}

static void expect_own_error(const char *method, const char *path, unsigned status, const char *code, const char *message) {
        struct http http;

        http_connect(&http, address);
        http_send(&http, "%s %s HTTP/1.1\r\nHost: msd\r\nContent-Length: 2\r\n\r\n{}", method, path);
        http_expect_error(&http, status, code, message);
        if (status == 405)
                ck_assert_str_eq(http_field(&http, "Allow"), "GET, HEAD");
        http_close(&http);
}

/* All of them, when the state is `status`; if it is not ready, with this error. */
static void expect_own_paths(const char *status, bool ready, const char *code, const char *reason) {
        static const char *const paths[] = { "/health", "/-/live", "/-/ready", "/-/status", "/-/metrics", "/-/wait" };
        struct peer_status object;
        struct http http;

        expect_own("/-/live", 200, "ok\n", "text/plain");
        expect_own("/-/metrics", 200, NULL, "text/plain; version=0.0.4");
        if (ready) {
                expect_own("/health", 200, "{\"status\":\"ok\"}", "application/json");
                expect_own("/-/ready", 200, "ready\n", "text/plain");
        } else {
                expect_own_error("GET", "/health", 503, code, reason);
                expect_own_error("GET", "/-/ready", 503, code, reason);
        }
        ask(&http, "GET", "/-/status?pretty=1");
        http_expect(&http, 200, NULL);
        ck_assert_str_eq(http_field(&http, "Content-Type"), "application/json");
        peer_parse_status(http.body.data, &object);
        ck_assert_str_eq(object.status, status);
        ck_assert_uint_eq(object.pid, (uint64_t)msd.process.pid);
        http_close(&http);
        expect_own_error("GET", "/-/nothing", 404, "not-found", NULL);
        expect_own_error("GET", "/-/", 404, "not-found", NULL);
        expect_own_error("GET", "/-/statusquo", 404, "not-found", NULL);
        for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
                expect_own_error("POST", paths[i], 405, NULL, NULL);
                expect_own_error("DELETE", paths[i], 405, NULL, NULL);
                if (i < 5)
                        expect_same_head(paths[i]);
        }
        expect_same_head("/-/nothing");
}

START_TEST(own_paths_while_loading) {
        struct peer_status status;

        start(OPTIONS("--load-time", "1h"));
        expect_own_paths("loading", false, NULL, NULL);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.waiting + status.completed + status.failed + status.cancelled, 0);
        daemon_stop(&msd);
}
END_TEST

START_TEST(own_paths_when_ready) {
        struct peer_status status;

        start_ready(OPTIONS("--load-time", "0"));
        expect_own_paths("ready", true, NULL, NULL);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.waiting + status.completed + status.failed + status.cancelled, 0);
        daemon_stop(&msd);
}
END_TEST

START_TEST(own_paths_when_failed) {
        start(OPTIONS("--load-time", "0", "--load-failure", "No \"such\" weights", "--on-load-failure", "stay"));
        wait_status(peer_status_is_failed, 0, "it has failed");
        expect_own_paths("failed", false, "load-failed", "No \"such\" weights");
        daemon_stop(&msd);
}
END_TEST

/* While one request is in flight that never ends. */
START_TEST(own_paths_when_stopping) {
        struct http running, before;

        start_ready(OPTIONS("--load-time", "0", "--inference-time", "1h", "--drain-timeout", "1h"));
        ask_chat(&running, "1", CHAT);
        http_connect(&before, address);
        http_ask(&before, "GET", "/-/ready");
        http_expect(&before, 200, "ready\n");
        wait_status(peer_status_is_processing, 1, "it is in flight");
        process_signal(&msd.process, SIGTERM);
        wait_status(peer_status_is_stopping, 0, "it stops");
        http_ask(&before, "GET", "/-/ready");
        http_expect_error(&before, 503, "shutting-down", STOPPING);
        http_close(&before);
        expect_own_paths("stopping", false, "shutting-down", STOPPING);
        process_signal(&msd.process, SIGTERM);
        daemon_expect_exit(&msd, 1);
        http_close(&running);
}
END_TEST

START_TEST(wait_until_ready) {
        struct http http[10];

        start(OPTIONS("--load-time", "1s"));
        for (size_t i = 0; i < ARRAY_SIZE(http); i++)
                ask(&http[i], i % 2 ? "GET" : "HEAD", "/-/wait");
        http_expect_silence(&http[0], 100 * NSEC_PER_MSEC);
        for (size_t i = 0; i < ARRAY_SIZE(http); i++) {
                http_expect(&http[i], 204, "");
                ck_assert_ptr_null(http_field(&http[i], "Content-Length"));
                http_ask(&http[i], "GET", "/-/wait");
                http_expect(&http[i], 204, "");
                http_ask(&http[i], "HEAD", "/-/wait");
                http_expect(&http[i], 204, "");
                http_close(&http[i]);
        }
        daemon_stop(&msd);
}
END_TEST

/* It has a place among those that may wait, until its client goes. */
START_TEST(wait_takes_a_place) {
        struct http one, two, *held = &one, *refused = &two;
        uint64_t deadline = clock_patience();

        start(OPTIONS("--load-time", "1h", "--max-waiting", "1"));
        ask(&one, "GET", "/-/wait");
        ask(&two, "GET", "/-/wait");
        while (one.input.len == 0 && two.input.len == 0) {
                struct pollfd events[] = { { one.fd, POLLIN, 0 }, { two.fd, POLLIN, 0 } };

                ck_assert_msg(clock_left(deadline) > 0, "Both wait");
                if (process_poll(events, ARRAY_SIZE(events), deadline) > 0) {
                        http_read(&one);
                        http_read(&two);
                }
        }
        if (one.input.len > 0) {
                held = &two;
                refused = &one;
        }
        http_expect_error(refused, 503, "queue-full", NULL);
        http_expect_silence(held, 50 * NSEC_PER_MSEC);
        peer_send(&msd.control, "REQUEST 1\n");
        peer_expect_error(&msd.control, "1", "queue-full", NULL);
        http_close(held);
        for (;;) {
                http_ask(refused, "GET", "/-/wait");
                if (!http_head_until(refused, clock_now() + 100 * NSEC_PER_MSEC))
                        break;
                http_end(refused);
                ck_assert_msg(clock_left(deadline) > 0, "There is never any room");
        }
        ck_assert(!refused->ended);
        http_close(refused);
        daemon_stop(&msd);
}
END_TEST

START_TEST(wait_until_failed) {
        struct http http;

        start(OPTIONS("--load-time", "500ms", "--load-failure", "No such weights", "--on-load-failure", "stay"));
        ask(&http, "GET", "/-/wait");
        http_expect_error(&http, 503, "load-failed", "No such weights");
        http_ask(&http, "GET", "/-/wait");
        http_expect_error(&http, 503, "load-failed", "No such weights");
        http_close(&http);
        daemon_stop(&msd);
}
END_TEST

START_TEST(wait_until_stopping) {
        struct http http;

        start(OPTIONS("--load-time", "1h"));
        ask(&http, "GET", "/-/wait");
        wait_status(peer_status_is_connections, 2, "it is there");
        http_expect_silence(&http, 50 * NSEC_PER_MSEC);
        process_signal(&msd.process, SIGTERM);
        http_expect_error(&http, 503, "shutting-down", STOPPING);
        http_expect_end(&http);
        http_close(&http);
        daemon_expect_exit(&msd, 0);
}
END_TEST

/* The value of a metric, which is there once. */
static double metric(const char *text, const char *name) {
        const char *line = text, *found = NULL;
        size_t n = strlen(name);
        char *end;
        double value;

        for (; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
                if (strncmp(line, name, n) == 0 && line[n] == ' ') {
                        ck_assert_msg(!found, "%s is there twice", name);
                        found = line + n + 1;
                }
        ck_assert_msg(found, "There is no %s in: %s", name, text);
        value = strtod(found, &end);
        ck_assert_msg(end > found && *end == '\n', "%s has no number", name);
        return value;
}

/* What promtool(1) would look for: each family is announced once, and its lines follow. */
static void check_metrics(const char *text) {
        char family[128] = "", type[32] = "";

        ck_assert_msg(*text && text[strlen(text) - 1] == '\n', "The last line has no end");
        for (const char *line = text, *end; *line; line = end + 1) {
                char name[128], rest[256];

                end = strchr(line, '\n');
                if (sscanf(line, "# HELP %127[a-z_] %255[^\n]", name, rest) == 2) {
                        snprintf(family, sizeof(family), "# TYPE %.100s ", name);
                        ck_assert_msg(!strstr(strstr(text, line) + 1, family) || strstr(end, family) == end + 1,
                                      "No type behind the help of %s", name);
                        continue;
                }
                if (sscanf(line, "# TYPE %127[a-z_] %31[a-z]\n", name, type) == 2) {
                        snprintf(family, sizeof(family), "%s", name);
                        continue;
                }
                ck_assert_msg(sscanf(line, "%127[a-z_]", name) == 1, "This is no metric: %.*s", (int)(end - line), line);
                ck_assert_msg(strncmp(name, family, strlen(family)) == 0, "%s is not of %s", name, family);
                if (strcmp(type, "histogram") != 0)
                        ck_assert_str_eq(name, family);
                ck_assert_msg(strncmp(name, "msd_", 4) == 0, "%s has another's name", name);
        }
}

/* Buckets add up, and end with all. */
static void check_histogram(const char *text, const char *name, double count) {
        char begin[128], key[160];
        double last = -1, bound, value = -1, previous = -1;
        const char *p = text;

        snprintf(begin, sizeof(begin), "\n%s_bucket{le=\"", name);
        while ((p = strstr(p, begin))) {
                char *end;

                p += strlen(begin);
                bound = strtod(p, &end);
                ck_assert_msg(strncmp(end, "\"} ", 3) == 0, "This is no bucket: %.80s", p);
                ck_assert(bound > previous);
                previous = bound;
                value = strtod(end + 3, NULL);
                ck_assert(value >= last);
                last = value;
        }
        ck_assert_msg(previous == (double)__builtin_inf(), "%s does not end with +Inf", name);
        snprintf(key, sizeof(key), "%s_count", name);
        ck_assert(metric(text, key) == value);
        ck_assert_msg(value == count, "%s has %f, not %f", name, value, count);
        snprintf(key, sizeof(key), "%s_sum", name);
        ck_assert(metric(text, key) >= 0);
}

START_TEST(metrics) {
        struct http http, one, two, gone;
        const char *text;

        start(OPTIONS("--load-time", "1s", "--inference-time", "0"));
        ask_chat(&one, "1", CHAT);
        ask_chat(&two, "2", CHAT);
        wait_waiting(2);
        ask_chat(&gone, "3", CHAT);
        wait_waiting(3);
        http_close(&gone);
        wait_waiting(2);
        ask(&http, "GET", "/-/metrics");
        http_expect(&http, 200, NULL);
        ck_assert_str_eq(http_field(&http, "Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
        text = http.body.data;
        check_metrics(text);
        ck_assert(metric(text, "msd_requests_waiting") == 2);
        ck_assert(metric(text, "msd_requests_processing") == 0);
        ck_assert(metric(text, "msd_model_ready") == 0);
        ck_assert(metric(text, "msd_generation") == 1);
        ck_assert(metric(text, "msd_requests_total{outcome=\"completed\"}") == 0);
        ck_assert(metric(text, "msd_requests_total{outcome=\"failed\"}") == 0);
        ck_assert(metric(text, "msd_requests_total{outcome=\"cancelled\"}") == 1);
        check_histogram(text, "msd_load_seconds", 0);

        expect_chat(&one, "1");
        expect_chat(&two, "2");
        wait_status(peer_status_is_completed, 2, "they are counted");
        http_ask(&http, "GET", "/-/metrics");
        http_expect(&http, 200, NULL);
        text = http.body.data;
        check_metrics(text);
        ck_assert(metric(text, "msd_requests_waiting") == 0);
        ck_assert(metric(text, "msd_model_ready") == 1);
        ck_assert(metric(text, "msd_requests_total{outcome=\"completed\"}") == 2);
        /* The control connection, the two and this one. */
        ck_assert(metric(text, "msd_connections") == 4);
        check_histogram(text, "msd_load_seconds", 1);
        check_histogram(text, "msd_wait_seconds", 2);
        ck_assert(metric(text, "msd_load_seconds_sum") >= 1);
        ck_assert(metric(text, "msd_start_time_seconds") > 1.6e9);
        ck_assert_ptr_nonnull(strstr(text, "# TYPE msd_requests_total counter\n"));
        ck_assert_ptr_nonnull(strstr(text, "# TYPE msd_wait_seconds histogram\n"));
        ck_assert_ptr_nonnull(strstr(text, "# TYPE msd_load_seconds histogram\n"));
        ck_assert_ptr_nonnull(strstr(text, "# TYPE msd_requests_waiting gauge\n"));
        http_close(&http);
        http_close(&one);
        http_close(&two);
        daemon_stop(&msd);
}
END_TEST

/* What any client of OpenAI's asks, begun while the model loads. */
START_TEST(answers) {
        struct http chat_whole, chat_stream, text_whole, text_stream, models;
        json_t *json, *model;

        start(OPTIONS("--load-time", "1s", "--inference-time", "0"));
        ask_chat(&chat_whole, "a", CHAT);
        ask_chat(&chat_stream, "b", CHAT_STREAM);
        http_connect(&text_whole, address);
        http_post(&text_whole, "/v1/completions", "{\"model\":\"x\",\"prompt\":\"Hello\"}");
        wait_waiting(3);
        http_connect(&text_stream, address);
        http_post(&text_stream, "/v1/completions?a=b", "{\"model\":\"x\",\"prompt\":\"Hello\",\"stream\":true}");
        wait_waiting(4);
        ask(&models, "GET", "/v1/models");
        wait_waiting(5);
        http_expect_silence(&chat_stream, 50 * NSEC_PER_MSEC);

        expect_chat(&chat_whole, "a");
        expect_stream(&chat_stream, "Response b from sim", true);
        http_expect(&text_whole, 200, NULL);
        json = http_json(&text_whole);
        ck_assert_str_eq(json_string_value(json_object_get(json, "object")), "text_completion");
        ck_assert_str_eq(json_string_value(json_object_get(json_array_get(json_object_get(json, "choices"), 0), "text")),
                         "Response http-1 from sim");
        json_decref(json);
        expect_stream(&text_stream, "Response http-2 from sim", false);
        http_expect(&models, 200, NULL);
        json = http_json(&models);
        ck_assert_str_eq(json_string_value(json_object_get(json, "object")), "list");
        ck_assert_uint_eq(json_array_size(json_object_get(json, "data")), 1);
        model = json_array_get(json_object_get(json, "data"), 0);
        ck_assert_str_eq(json_string_value(json_object_get(model, "id")), "sim");
        ck_assert_str_eq(json_string_value(json_object_get(model, "object")), "model");
        json_decref(json);
        http_ask(&models, "GET", "/v1/models/sim");
        http_expect(&models, 200, NULL);
        json = http_json(&models);
        ck_assert_str_eq(json_string_value(json_object_get(json, "id")), "sim");
        json_decref(json);
        http_ask(&models, "GET", "/v1/models/other");
        http_expect(&models, 404, NULL);
        http_ask(&models, "GET", "/v1/nothing");
        http_expect(&models, 404, NULL);
        http_post(&models, "/v1/chat/completions", "no JSON");
        http_expect(&models, 400, NULL);
        http_post(&models, "/v1/chat/completions", "[]");
        http_expect(&models, 400, NULL);
        http_post(&models, "/v1/chat/completions", "");
        http_expect(&models, 400, NULL);
        http_ask(&models, "HEAD", "/v1/models");
        http_expect(&models, 200, "");
        chat(&models, "z", CHAT);
        expect_chat(&models, "z");
        http_close(&chat_whole);
        http_close(&chat_stream);
        http_close(&text_whole);
        http_close(&text_stream);
        http_close(&models);
        daemon_stop(&msd);
}
END_TEST

/* What is an ID of a client's own, and what is none. */
START_TEST(request_ids) {
        static const char longest[] = "0123456789012345678901234567890123456789012345678901234567890123";
        struct http http;
        char id[80];

        start_ready(OPTIONS("--load-time", "0", "--inference-time", "0"));
        http_connect(&http, address);
        chat(&http, "~!a/8", CHAT);
        expect_chat(&http, "~!a/8");
        chat(&http, longest, CHAT);
        expect_chat(&http, longest);
        snprintf(id, sizeof(id), "%s4", longest);
        chat(&http, id, CHAT);
        expect_chat(&http, "http-1");
        chat(&http, "-", CHAT);
        expect_chat(&http, "http-2");
        chat(&http, "two words", CHAT);
        expect_chat(&http, "http-3");
        chat(&http, "", CHAT);
        expect_chat(&http, "http-4");
        process_wait_output(&msd.process, "Processing request ~!a/8\n");
        process_wait_output(&msd.process, "Processing request http-4\n");
        http_close(&http);
        daemon_stop(&msd);
}
END_TEST

START_TEST(max_waiting) {
        struct http one, two, three;

        start(OPTIONS("--load-time", "1s", "--max-waiting", "2"));
        ask_chat(&one, "1", CHAT);
        wait_waiting(1);
        peer_send(&msd.control, "REQUEST 2\n");
        wait_waiting(2);
        ask_chat(&two, "3", CHAT);
        http_expect_error(&two, 503, "queue-full", NULL);
        ask(&three, "GET", "/-/live");
        http_expect(&three, 200, "ok\n");
        peer_send(&msd.control, "REQUEST 4\n");
        peer_expect_error(&msd.control, "4", "queue-full", NULL);
        expect_chat(&one, "1");
        peer_expect(&msd.control, "2", "Response 2 from sim");
        /* It was the request that was refused, not the connection. */
        chat(&two, "5", CHAT);
        expect_chat(&two, "5");
        http_close(&one);
        http_close(&two);
        http_close(&three);
        daemon_stop(&msd);
}
END_TEST

START_TEST(request_timeout) {
        struct peer_status status;
        struct http http, late;
        uint64_t began = clock_now();

        start(OPTIONS("--load-time", "1s", "--inference-time", "1h", "--request-timeout", "300ms"));
        ask_chat(&http, "1", CHAT);
        http_expect_error(&http, 504, "timed-out", NULL);
        ck_assert_uint_ge(clock_now() - began, 300 * NSEC_PER_MSEC);
        daemon_wait_ready(&msd);
        /* Also when it runs. */
        ask_chat(&late, "2", CHAT_STREAM);
        http_expect_error(&late, 504, "timed-out", NULL);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.failed, 2);
        ck_assert_uint_eq(status.processing, 0);
        http_ask(&http, "GET", "/-/live");
        http_expect(&http, 200, "ok\n");
        http_close(&http);
        http_close(&late);
        daemon_stop(&msd);
}
END_TEST

/* One place, for whoever comes by whichever way. */
START_TEST(max_inflight) {
        struct http one, two;
        struct peer_status status;

        start_ready(OPTIONS("--load-time", "0", "--inference-time", "300ms", "--max-inflight", "1"));
        ask_chat(&one, "1", CHAT);
        wait_status(peer_status_is_processing, 1, "it is in flight");
        peer_send(&msd.control, "REQUEST 2\n");
        ask_chat(&two, "3", CHAT);
        do {
                peer_send(&msd.control, "STATUS\n");
                for (;;) {
                        struct peer_reply reply;

                        ck_assert(peer_next(&msd.control, &reply));
                        if (strcmp(reply.id, "2") == 0)
                                continue;
                        peer_parse_status(reply.body, &status);
                        break;
                }
                ck_assert_uint_le(status.processing, 1);
        } while (status.completed < 3);
        expect_chat(&one, "1");
        expect_chat(&two, "3");
        http_close(&one);
        http_close(&two);
        daemon_stop(&msd);
}
END_TEST

/* A client that goes while it waits, also with more to say that nobody has read. One that has ended its side listens. */
START_TEST(vanishes_while_waiting) {
        struct http closed, finished, more, stays;
        struct peer_status status;
        static char junk[1 << 20];

        start(OPTIONS("--load-time", "2s", "--inference-time", "0"));
        ask_chat(&closed, "1", CHAT);
        ask_chat(&finished, "2", CHAT);
        ask_chat(&more, "3", CHAT);
        ask_chat(&stays, "4", CHAT);
        wait_waiting(4);
        http_close(&closed);
        wait_waiting(3);
        http_finish(&finished);
        memset(junk, 'x', sizeof(junk));
        /* Pipelined behind it; as much of it as fits on the way. */
        for (ssize_t n = 1; n > 0;)
                n = send(more.fd, junk, sizeof(junk), MSG_DONTWAIT | MSG_NOSIGNAL);
        http_close(&more);
        wait_waiting(2);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.cancelled, 2);
        ck_assert_str_eq(status.status, "loading");
        expect_chat(&finished, "2");
        http_expect_end(&finished);
        http_close(&finished);
        expect_chat(&stays, "4");
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.completed, 2);
        ck_assert_ptr_null(strstr(msd.process.output.data, "Processing request 1\n"));
        ck_assert_ptr_null(strstr(msd.process.output.data, "Processing request 3\n"));
        http_close(&stays);
        wait_status(peer_status_is_connections, 1, "they are gone");
        daemon_stop(&msd);
}
END_TEST

START_TEST(vanishes_in_flight) {
        struct http whole, stream;
        struct peer_status status;

        start_ready(OPTIONS("--load-time", "0", "--inference-time", "1h"));
        ask_chat(&whole, "1", CHAT);
        ask_chat(&stream, "2", CHAT_STREAM);
        wait_status(peer_status_is_processing, 2, "they are in flight");
        http_close(&whole);
        wait_status(peer_status_is_processing, 1, "one is cancelled");
        http_close(&stream);
        wait_status(peer_status_is_processing, 0, "the other is cancelled");
        wait_status(peer_status_is_connections, 1, "they are gone");
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.cancelled, 2);
        daemon_stop(&msd);
}
END_TEST

/* A client that goes in the middle of its request has asked for nothing. */
START_TEST(vanishes_half_way) {
        struct http head, body, idle;
        struct peer_status status;

        start(OPTIONS("--load-time", "1h"));
        http_connect(&idle, address);
        http_connect(&head, address);
        http_send(&head, "GET /v1/models HTTP/1.1\r\nHo");
        http_connect(&body, address);
        http_send(&body, "POST /v1/completions HTTP/1.1\r\nHost: msd\r\nContent-Length: 100\r\n\r\n{\"prompt\":");
        wait_status(peer_status_is_connections, 4, "they are there");
        http_close(&head);
        http_close(&body);
        http_close(&idle);
        wait_status(peer_status_is_connections, 1, "they are gone");
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.cancelled + status.failed + status.completed + status.waiting, 0);
        daemon_stop(&msd);
}
END_TEST

/* All that wait hear why, and msd ends as it was told to. */
START_TEST(load_fails) {
        struct http http[20], wait;

        start(OPTIONS("--load-time", "1s", "--load-failure", "No such weights", "--threads", "4"));
        for (size_t i = 0; i < ARRAY_SIZE(http); i++)
                ask_chat(&http[i], "x", i % 2 ? CHAT : CHAT_STREAM);
        ask(&wait, "GET", "/-/wait");
        wait_waiting(ARRAY_SIZE(http));
        for (size_t i = 0; i < ARRAY_SIZE(http); i++) {
                http_expect_error(&http[i], 503, "load-failed", "No such weights");
                http_close(&http[i]);
        }
        http_expect_error(&wait, 503, "load-failed", "No such weights");
        http_close(&wait);
        daemon_expect_exit(&msd, 1);
}
END_TEST

/* One that stays says so to each that comes, on the connections that there are, until a load ends well. */
START_TEST(load_failed) {
        struct http http;

        start(OPTIONS("--load-time", "0", "--load-failure", "No such weights", "--on-load-failure", "stay"));
        wait_status(peer_status_is_failed, 0, "it has failed");
        http_connect(&http, address);
        for (unsigned i = 0; i < 3; i++) {
                chat(&http, "1", CHAT_STREAM);
                http_expect_error(&http, 503, "load-failed", "No such weights");
        }
        http_close(&http);
        daemon_stop(&msd);
}
END_TEST

/* What waits is told; what runs ends; each with the connection. */
START_TEST(stops) {
        struct http running[3], waiting[3], idle;

        start_ready(OPTIONS("--load-time", "0", "--inference-time", "1s", "--max-inflight", "3"));
        http_connect(&idle, address);
        http_ask(&idle, "GET", "/-/live");
        http_expect(&idle, 200, "ok\n");
        for (size_t i = 0; i < ARRAY_SIZE(running); i++)
                ask_chat(&running[i], "r", i == 2 ? CHAT_STREAM : CHAT);
        wait_status(peer_status_is_processing, 3, "they are in flight");
        for (size_t i = 0; i < ARRAY_SIZE(waiting); i++)
                ask_chat(&waiting[i], "w", i == 2 ? CHAT_STREAM : CHAT);
        wait_waiting(3);
        process_signal(&msd.process, SIGTERM);
        for (size_t i = 0; i < ARRAY_SIZE(waiting); i++) {
                http_expect_error(&waiting[i], 503, "shutting-down", STOPPING);
                ck_assert_str_eq(http_field(&waiting[i], "Connection"), "close");
                http_expect_end(&waiting[i]);
                http_close(&waiting[i]);
        }
        for (size_t i = 0; i < ARRAY_SIZE(running); i++) {
                if (i == 2)
                        expect_stream(&running[i], "Response r from sim", true);
                else
                        expect_chat(&running[i], "r");
                ck_assert_str_eq(http_field(&running[i], "Connection"), "close");
                http_expect_end(&running[i]);
                http_close(&running[i]);
        }
        http_expect_end(&idle);
        http_close(&idle);
        daemon_expect_exit(&msd, 0);
}
END_TEST

/* A request that comes while msd stops is told at once. */
START_TEST(comes_when_stopping) {
        struct http running, next;

        start_ready(OPTIONS("--load-time", "0", "--inference-time", "1h", "--drain-timeout", "1h"));
        http_connect(&next, address);
        http_ask(&next, "GET", "/-/live");
        http_expect(&next, 200, "ok\n");
        ask_chat(&running, "1", CHAT);
        wait_status(peer_status_is_processing, 1, "it is in flight");
        process_signal(&msd.process, SIGTERM);
        wait_status(peer_status_is_stopping, 0, "it stops");
        chat(&next, "2", CHAT);
        http_expect_error(&next, 503, "shutting-down", STOPPING);
        ck_assert_str_eq(http_field(&next, "Connection"), "close");
        http_expect_end(&next);
        http_close(&next);
        process_signal(&msd.process, SIGTERM);
        daemon_expect_exit(&msd, 1);
        http_close(&running);
}
END_TEST

/* In flight for longer than there is time. */
START_TEST(drain_timeout) {
        struct http http;

        start_ready(OPTIONS("--load-time", "0", "--inference-time", "1h", "--drain-timeout", "200ms"));
        ask_chat(&http, "1", CHAT);
        wait_status(peer_status_is_processing, 1, "it is in flight");
        process_signal(&msd.process, SIGTERM);
        http_expect_error(&http, 503, "shutting-down", NULL);
        http_expect_end(&http);
        http_close(&http);
        daemon_expect_exit(&msd, 0);
}
END_TEST

/* 2,000 that wait, each a client of its own, let through together. */
START_TEST(held) {
        struct http *http = calloc(HELD, sizeof(*http));
        struct peer_status status;

        ck_assert_ptr_nonnull(http);
        start(OPTIONS("--load-time", "3s", "--inference-time", "0", "--quiet", "--threads", "2"));
        for (unsigned i = 0; i < HELD; i++) {
                char id[16];

                snprintf(id, sizeof(id), "%u", i);
                ask_chat(&http[i], id, i % 4 == 0 ? CHAT_STREAM : CHAT);
        }
        wait_waiting(HELD);
        for (unsigned i = 0; i < HELD; i++) {
                char text[64];

                snprintf(text, sizeof(text), "Response %u from sim", i);
                if (i % 4 == 0)
                        expect_stream(&http[i], text, true);
                else {
                        text[strlen(text) - strlen(" from sim")] = '\0';
                        expect_chat(&http[i], text + strlen("Response "));
                }
                http_close(&http[i]);
        }
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.completed, HELD);
        free(http);
        daemon_stop(&msd);
}
END_TEST

/* What waits does nothing, and nor does a connection that has more to say than is read of it. */
START_TEST(no_wakeups) {
        static char junk[100000];
        struct http http[50];
        uint64_t before, after, deadline;

        memset(junk, 'x', sizeof(junk));
        start(OPTIONS("--load-time", "1h", "--request-timeout", "1h"));
        for (size_t i = 0; i < ARRAY_SIZE(http); i++)
                ask_chat(&http[i], "1", CHAT);
        wait_waiting(ARRAY_SIZE(http));
        (void)send(http[0].fd, junk, sizeof(junk), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (process_has_tsan(&msd.process))
                suite_skip("no_wakeups", "the thread sanitizer has a thread of its own that wakes up");
        else {
                deadline = clock_patience();
                do {
                        ck_assert_msg(clock_now() < deadline, "msd never comes to rest");
                        before = process_switches(&msd.process);
                        http_expect_silence(&http[1], 100 * NSEC_PER_MSEC);
                        after = process_switches(&msd.process);
                } while (after != before);
                http_expect_silence(&http[1], NSEC_PER_SEC);
                ck_assert_uint_eq(process_switches(&msd.process), before);
        }
        for (size_t i = 0; i < ARRAY_SIZE(http); i++)
                http_close(&http[i]);
        daemon_stop(&msd);
}
END_TEST

/* Streams that wait are told so, and no others. */
START_TEST(stream_keepalive) {
        struct http stream, whole, text, odd;
        unsigned comments;
        char *said;

        start(OPTIONS("--load-time", "2s", "--inference-time", "0", "--stream-keepalive", "100ms"));
        ask_chat(&stream, "1", CHAT_STREAM);
        ask_chat(&whole, "2", CHAT);
        http_connect(&text, address);
        http_post(&text, "/v1/completions", "{\"prompt\":\"hi\",\"stream\":\"true\"}");
        http_connect(&odd, address);
        http_post(&odd, "/v1/completions", "[{\"stream\":true}]");
        wait_waiting(4);
        ck_assert(http_head(&stream));
        ck_assert_uint_eq(stream.status, 200);
        ck_assert_str_eq(http_field(&stream, "Content-Type"), "text/event-stream");
        http_wait_body(&stream, ": waiting\n\n: waiting\n\n: waiting\n\n");
        ck_assert_uint_eq(whole.input.len, 0);
        wait_waiting(4);
        http_end(&stream);
        ck_assert(stream.whole);
        said = text_of_stream(&stream, true, &comments);
        ck_assert_str_eq(said, "Response 1 from sim");
        ck_assert_uint_ge(comments, 3);
        free(said);
        expect_chat(&whole, "2");
        http_expect(&text, 200, NULL);
        http_expect(&odd, 400, NULL);
        /* At a ready model it is as ever. */
        chat(&stream, "3", CHAT_STREAM);
        expect_stream(&stream, "Response 3 from sim", true);
        http_close(&stream);
        http_close(&whole);
        http_close(&text);
        http_close(&odd);
        daemon_stop(&msd);
}
END_TEST

/* The last event of the stream is this error, and with it the stream ends. */
static void expect_error_event(struct http *http, const char *code, const char *message) {
        const char *event;
        json_t *json, *error;

        http_end(http);
        ck_assert_msg(http->whole, "The stream was cut");
        event = strstr(text_get(&http->body), "data: ");
        ck_assert_msg(event && strlen(event) > 8, "There is no event: %s", text_get(&http->body));
        ck_assert_str_eq(event + strlen(event) - 2, "\n\n");
        json = json_loads(event + 6, 0, NULL);
        ck_assert_msg(json, "This is no JSON: %s", event);
        error = json_object_get(json, "error");
        ck_assert_str_eq(json_string_value(json_object_get(error, "code")), code);
        if (message)
                ck_assert_str_eq(json_string_value(json_object_get(error, "message")), message);
        json_decref(json);
}

static void start_told_stream(struct http *http) {
        ask_chat(http, "1", CHAT_STREAM);
        ck_assert(http_head(http));
        ck_assert_uint_eq(http->status, 200);
        http_wait_body(http, ": waiting\n\n");
}

START_TEST(stream_keepalive_failure) {
        struct http http;

        start(OPTIONS("--load-time", "1s", "--load-failure", "No such weights", "--stream-keepalive", "20ms",
                      "--on-load-failure", "stay"));
        start_told_stream(&http);
        expect_error_event(&http, "load-failed", "No such weights");
        http_close(&http);
        daemon_stop(&msd);
}
END_TEST

START_TEST(stream_keepalive_timeout) {
        struct http http;

        start(OPTIONS("--load-time", "1h", "--request-timeout", "300ms", "--stream-keepalive", "20ms"));
        start_told_stream(&http);
        expect_error_event(&http, "timed-out", NULL);
        http_close(&http);
        daemon_stop(&msd);
}
END_TEST

START_TEST(stream_keepalive_stop) {
        struct http http;

        start(OPTIONS("--load-time", "1h", "--stream-keepalive", "20ms"));
        start_told_stream(&http);
        process_signal(&msd.process, SIGTERM);
        expect_error_event(&http, "shutting-down", STOPPING);
        http_expect_end(&http);
        http_close(&http);
        daemon_expect_exit(&msd, 0);
}
END_TEST

START_TEST(stream_keepalive_vanishes) {
        struct peer_status status;
        struct http http;

        start(OPTIONS("--load-time", "1h", "--stream-keepalive", "20ms"));
        start_told_stream(&http);
        http_close(&http);
        wait_waiting(0);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.cancelled, 1);
        wait_status(peer_status_is_connections, 1, "it is gone");
        daemon_stop(&msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, own_paths_while_loading);
        tcase_add_test(tests, own_paths_when_ready);
        tcase_add_test(tests, own_paths_when_failed);
        tcase_add_test(tests, own_paths_when_stopping);
        tcase_add_test(tests, wait_until_ready);
        tcase_add_test(tests, wait_takes_a_place);
        tcase_add_test(tests, wait_until_failed);
        tcase_add_test(tests, wait_until_stopping);
        tcase_add_test(tests, metrics);
        tcase_add_test(tests, answers);
        tcase_add_test(tests, request_ids);
        tcase_add_test(tests, max_waiting);
        tcase_add_test(tests, request_timeout);
        tcase_add_test(tests, max_inflight);
        tcase_add_test(tests, vanishes_while_waiting);
        tcase_add_test(tests, vanishes_in_flight);
        tcase_add_test(tests, vanishes_half_way);
        tcase_add_test(tests, load_fails);
        tcase_add_test(tests, load_failed);
        tcase_add_test(tests, stops);
        tcase_add_test(tests, comes_when_stopping);
        tcase_add_test(tests, drain_timeout);
        tcase_add_test(tests, held);
        tcase_add_test(tests, no_wakeups);
        tcase_add_test(tests, stream_keepalive);
        tcase_add_test(tests, stream_keepalive_failure);
        tcase_add_test(tests, stream_keepalive_timeout);
        tcase_add_test(tests, stream_keepalive_stop);
        tcase_add_test(tests, stream_keepalive_vanishes);
}

int main(void) {
        return suite_main("http", add);
}
