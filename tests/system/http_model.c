/*
 * Clients of the HTTP front and a model server that msd has started, or found: they come before it is there, and stay when it
 * is lost. The server is the tests' own (tests/upstream/server.c).
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/front.h"
#include "tests/support/port.h"

#define HELD 2000

static struct front front;
static char once[SUITE_PATH_MAX + 16];

static void setup(void) {
        front_init(&front);
        snprintf(once, sizeof(once), "%s/once", front.directory);
}

static void teardown(void) {
        front_deinit(&front);
}

static void ask(struct http *http, const char *prompt, bool stream) {
        char json[256];

        snprintf(json, sizeof(json), "{\"model\":\"m\",\"stream\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}",
                 stream ? "true" : "false", prompt);
        http_post(http, "/v1/chat/completions", json);
}

static void connect_and_ask(struct http *http, const char *prompt, bool stream) {
        http_connect(http, front.address);
        ask(http, prompt, stream);
}

static void expect(struct http *http, const char *text) {
        json_t *json, *message;

        http_expect(http, 200, NULL);
        json = http_json(http);
        message = json_object_get(json_array_get(json_object_get(json, "choices"), 0), "message");
        ck_assert_str_eq(json_string_value(json_object_get(message, "content")), text);
        json_decref(json);
}

START_TEST(while_it_loads) {
        struct http whole, stream, echo;
        json_t *json;

        front_start_server(&front, NULL, OPTIONS(), OPTIONS("--load", "500ms"));
        connect_and_ask(&whole, "hello", false);
        connect_and_ask(&stream, "hello", true);
        http_connect(&echo, front.address);
        http_send(&echo, "PUT /echo/a?b HTTP/1.1\r\nHost: there\r\nContent-Length: 5\r\n\r\nhello");
        front_wait(&front, peer_status_is_waiting, 3, "they wait");
        expect(&whole, "echo hello");
        http_expect(&stream, 200, NULL);
        ck_assert_str_eq(http_field(&stream, "Content-Type"), "text/event-stream");
        ck_assert_ptr_nonnull(strstr(stream.body.data, "{\"content\":\"o\"}"));
        ck_assert_str_eq(stream.body.data + stream.body.len - 14, "data: [DONE]\n\n");
        http_expect(&echo, 200, NULL);
        json = http_json(&echo);
        ck_assert_str_eq(json_string_value(json_object_get(json, "method")), "PUT");
        ck_assert_str_eq(json_string_value(json_object_get(json, "body")), "hello");
        json_decref(json);
        http_close(&whole);
        http_close(&stream);
        http_close(&echo);
        daemon_stop(&front.msd);
}
END_TEST

/* A key is between the client and the model. */
START_TEST(keys) {
        struct http http;
        json_t *json;

        front_start_server(&front, NULL, OPTIONS(), OPTIONS("--key", "sk-right"));
        connect_and_ask(&http, "hello", false);
        http_expect(&http, 401, NULL);
        json = http_json(&http);
        ck_assert_str_eq(json_string_value(json_object_get(json_object_get(json, "error"), "message")),
                         "Incorrect API key provided");
        json_decref(json);
        http_send(&http, "GET /echo HTTP/1.1\r\nHost: msd\r\nAuthorization: Bearer sk-right\r\n\r\n");
        http_expect(&http, 200, NULL);
        http_send(&http, "GET /echo HTTP/1.1\r\nHost: msd\r\nAuthorization: Bearer sk-wrong\r\n\r\n");
        http_expect(&http, 401, NULL);
        http_close(&http);
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(load_fails) {
        static const char reason[] = "server: It exited with status 3: upstream: no such weights";
        struct http http[10];

        front_start_server(&front, NULL, OPTIONS("--load-attempts", "1", "--on-load-failure", "stay"), OPTIONS("--load", "300ms", "--exit", "3"));
        for (size_t i = 0; i < ARRAY_SIZE(http); i++)
                connect_and_ask(&http[i], "hello", i % 2);
        for (size_t i = 0; i < ARRAY_SIZE(http); i++) {
                http_expect_error(&http[i], 503, "load-failed", reason);
                http_ask(&http[i], "GET", "/-/ready");
                http_expect_error(&http[i], 503, "load-failed", reason);
                http_close(&http[i]);
        }
        daemon_stop(&front.msd);
}
END_TEST

/* It dies with requests in flight: they are answered by the next. A stream that has begun is cut. */
START_TEST(killed_while_ready) {
        struct http http[100], stream;
        struct peer_status status;

        front_start_server(&front, NULL, OPTIONS(), OPTIONS("--think", "500ms"));
        daemon_wait_ready(&front.msd);
        connect_and_ask(&stream, "0123456789", true);
        ck_assert(http_head(&stream));
        http_wait_body(&stream, "data: ");
        for (size_t i = 0; i < ARRAY_SIZE(http); i++)
                connect_and_ask(&http[i], "hi", false);
        front_wait(&front, peer_status_is_processing, ARRAY_SIZE(http) + 1, "they are in flight");
        ck_assert_int_eq(kill(served_child_of(front.msd.process.pid), SIGKILL), 0);
        for (size_t i = 0; i < ARRAY_SIZE(http); i++) {
                expect(&http[i], "echo hi");
                http_close(&http[i]);
        }
        http_end(&stream);
        ck_assert_msg(!stream.whole, "Half a stream came as a whole one");
        http_close(&stream);
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.generation, 2);
        ck_assert_uint_eq(status.completed, ARRAY_SIZE(http));
        daemon_stop(&front.msd);
}
END_TEST

/* The loading server is killed: all wait for the next attempt. */
START_TEST(killed_while_loading) {
        struct http http[100];

        front_start_server(&front, NULL, OPTIONS(), OPTIONS("--load", "1h", "--once", once));
        for (size_t i = 0; i < ARRAY_SIZE(http); i++)
                connect_and_ask(&http[i], "hi", false);
        front_wait(&front, peer_status_is_waiting, ARRAY_SIZE(http), "they wait");
        process_wait_output(&front.msd.process, "upstream: loading\n");
        ck_assert_int_eq(kill(served_child_of(front.msd.process.pid), SIGKILL), 0);
        for (size_t i = 0; i < ARRAY_SIZE(http); i++) {
                expect(&http[i], "echo hi");
                http_close(&http[i]);
        }
        daemon_stop(&front.msd);
}
END_TEST

/* One request that kills it does so twice, and no more. */
START_TEST(dies_of_it) {
        struct peer_status status;
        struct http http;

        front_start_server(&front, NULL, OPTIONS(), OPTIONS());
        daemon_wait_ready(&front.msd);
        connect_and_ask(&http, "die", false);
        http_expect_error(&http, 502, "inference-failed", NULL);
        ask(&http, "hello", false);
        expect(&http, "echo hello");
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.generation, 3);
        http_close(&http);
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(cancelled) {
        struct http http;

        front_start_server(&front, NULL, OPTIONS(), OPTIONS("--think", "100ms"));
        daemon_wait_ready(&front.msd);
        connect_and_ask(&http, "a long story of which nobody hears the end, for the client has gone before that", true);
        ck_assert(http_head(&http));
        http_wait_body(&http, "data: ");
        http_close(&http);
        process_wait_errors(&front.msd.process, "upstream: cancelled\n");
        front_wait(&front, peer_status_is_cancelled, 1, "it is counted");
        daemon_stop(&front.msd);
}
END_TEST

static void let_through(void) {
        struct http *http = calloc(HELD, sizeof(*http));
        struct peer_status status;

        ck_assert_ptr_nonnull(http);
        for (unsigned i = 0; i < HELD; i++) {
                char prompt[16];

                snprintf(prompt, sizeof(prompt), "%u", i);
                connect_and_ask(&http[i], prompt, false);
        }
        front_wait(&front, peer_status_is_waiting, HELD, "they wait");
        for (unsigned i = 0; i < HELD; i++) {
                char text[32];

                snprintf(text, sizeof(text), "echo %u", i);
                expect(&http[i], text);
                http_close(&http[i]);
        }
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.completed, HELD);
        free(http);
}

static void raise_limit(void) {
        struct rlimit limit;

        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = limit.rlim_max;
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* 2,000 that wait go on together. */
START_TEST(held) {
        raise_limit();
        front_start_server(&front, NULL, OPTIONS("--quiet"), OPTIONS("--load", "3s"));
        let_through();
        daemon_stop(&front.msd);
}
END_TEST

/* The same with TCP on both sides. */
START_TEST(held_over_tcp) {
        char port[16], base[64];
        uint16_t number;
        int fd = port_take(&number);

        if (fd < 0) {
                suite_skip("held_over_tcp", "there is no network here");
                return;
        }
        raise_limit();
        snprintf(port, sizeof(port), "%u", number);
        snprintf(base, sizeof(base), "http://127.0.0.1:%s", port);
        daemon_start(&front.msd, "--quiet", "--http", "127.0.0.1:0", "--upstream", base, "--", served_program(), "--port", port, "--load",
                     "3s", NULL);
        http_listening(&front.msd.process, 1, front.address);
        let_through();
        daemon_stop(&front.msd);
        close(fd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, while_it_loads);
        tcase_add_test(tests, keys);
        tcase_add_test(tests, load_fails);
        tcase_add_test(tests, killed_while_ready);
        tcase_add_test(tests, killed_while_loading);
        tcase_add_test(tests, dies_of_it);
        tcase_add_test(tests, cancelled);
        tcase_add_test(tests, held);
        tcase_add_test(tests, held_over_tcp);
}

int main(void) {
        return suite_main("http_model", add);
}
