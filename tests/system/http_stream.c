/*
 * Streams that are told that they wait (--stream-keepalive): with the simulated model, and with a model server that the
 * test is.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/front.h"
#include "tests/support/raw.h"

static struct front front;
static struct raw raw;
static struct raw_request request;
static struct http http;

static void setup(void) {
        front_init(&front);
        raw_listen(&raw, front_path(front.upstream));
        http = (struct http)HTTP_NULL;
}

static void teardown(void) {
        http_close(&http);
        raw_request_deinit(&request);
        raw_close(&raw);
        front_deinit(&front);
}

/* msd with these options up to NULL, and a client. */
static void start(const char *const *options) {
        const char *all[24] = { "--upstream", front.upstream, "--model", "raw" };
        size_t n = 4;

        for (; *options; options++)
                all[n++] = *options;
        ck_assert_uint_lt(n, ARRAY_SIZE(all));
        front_start(&front, all);
        http_connect(&http, front.address);
}

/* The next request of msd's. */
static void take(void) {
        raw_request_deinit(&request);
        raw_take(&raw, &request);
}

/* Asks something, which comes to the model. */
static void ask_and_take(const char *method, const char *path) {
        http_ask(&http, method, path);
        take();
        ck_assert_str_eq(request.method, method);
        ck_assert_str_eq(request.target, path);
}

/* The simulated model. */

#define STOPPING PROTOCOL_SHUTTING_DOWN_MESSAGE

/* Streams that wait are told so, and no others. */
START_TEST(told) {
        struct http stream, whole, text, odd;
        unsigned comments;
        char *said;

        front_start(&front, OPTIONS("--load-time", "2s", "--inference-time", "0", "--stream-keepalive", "100ms"));
        front_ask_chat(&front, &stream, "1", CHAT_STREAM);
        front_ask_chat(&front, &whole, "2", CHAT);
        http_connect(&text, front.address);
        http_post(&text, "/v1/completions", "{\"prompt\":\"hi\",\"stream\":\"true\"}");
        http_connect(&odd, front.address);
        http_post(&odd, "/v1/completions", "[{\"stream\":true}]");
        front_wait_waiting(&front, 4);
        ck_assert(http_head(&stream));
        ck_assert_uint_eq(stream.status, 200);
        ck_assert_str_eq(http_field(&stream, "Content-Type"), "text/event-stream");
        http_wait_body(&stream, ": waiting\n\n: waiting\n\n: waiting\n\n");
        ck_assert_uint_eq(whole.input.len, 0);
        front_wait_waiting(&front, 4);
        http_end(&stream);
        ck_assert(stream.whole);
        said = http_text_of_stream(&stream, true, &comments);
        ck_assert_str_eq(said, "Response 1 from sim");
        ck_assert_uint_ge(comments, 3);
        free(said);
        http_expect_chat(&whole, "2");
        http_expect(&text, 200, NULL);
        http_expect(&odd, 400, NULL);
        /* At a ready model it is as ever. */
        http_chat(&stream, "3", CHAT_STREAM);
        http_expect_stream(&stream, "Response 3 from sim", true);
        http_close(&stream);
        http_close(&whole);
        http_close(&text);
        http_close(&odd);
        daemon_stop(&front.msd);
}
END_TEST

/* The last event of the stream is this error, and with it the stream ends. */
static void expect_error_event(const char *code, const char *message) {
        const char *event;
        json_t *json, *error;

        http_end(&http);
        ck_assert_msg(http.whole, "The stream was cut");
        event = strstr(text_get(&http.body), "data: ");
        ck_assert_msg(event && strlen(event) > 8, "There is no event: %s", text_get(&http.body));
        ck_assert_str_eq(event + strlen(event) - 2, "\n\n");
        json = json_loads(event + 6, 0, NULL);
        ck_assert_msg(json, "This is no JSON: %s", event);
        error = json_object_get(json, "error");
        ck_assert_str_eq(json_string_value(json_object_get(error, "code")), code);
        if (message)
                ck_assert_str_eq(json_string_value(json_object_get(error, "message")), message);
        json_decref(json);
}

static void start_told_stream(void) {
        front_ask_chat(&front, &http, "1", CHAT_STREAM);
        ck_assert(http_head(&http));
        ck_assert_uint_eq(http.status, 200);
        http_wait_body(&http, ": waiting\n\n");
}

START_TEST(failure) {
        front_start(&front, OPTIONS("--load-time", "1s", "--load-failure", "No such weights", "--stream-keepalive", "20ms",
                                    "--on-load-failure", "stay"));
        start_told_stream();
        expect_error_event("load-failed", "No such weights");
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(timeout) {
        front_start(&front, OPTIONS("--load-time", "1h", "--request-timeout", "300ms", "--stream-keepalive", "20ms"));
        start_told_stream();
        expect_error_event("timed-out", NULL);
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(stop) {
        front_start(&front, OPTIONS("--load-time", "1h", "--stream-keepalive", "20ms"));
        start_told_stream();
        process_signal(&front.msd.process, SIGTERM);
        expect_error_event("shutting-down", STOPPING);
        http_expect_end(&http);
        daemon_expect_exit(&front.msd, 0);
}
END_TEST

START_TEST(vanishes) {
        struct peer_status status;

        front_start(&front, OPTIONS("--load-time", "1h", "--stream-keepalive", "20ms"));
        start_told_stream();
        http_close(&http);
        front_wait_waiting(&front, 0);
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.cancelled, 1);
        front_wait(&front, peer_status_is_connections, 1, "it is gone");
        daemon_stop(&front.msd);
}
END_TEST

/* A model server. */

#define STREAM "{\"stream\":true}"

/* Streams that wait are told so; then the answer goes on where the comments end. */
START_TEST(server_stream) {
        start(OPTIONS("--stream-keepalive", "20ms", "--max-inflight", "1"));
        http_post(&http, "/v1/chat/completions", STREAM);
        ck_assert(http_head(&http));
        ck_assert_uint_eq(http.status, 200);
        http_wait_body(&http, ": waiting\n\n: waiting\n\n");
        take();
        ck_assert_str_eq(text_get(&request.body), STREAM);
        raw_send(&request, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                           "Transfer-Encoding: chunked\r\n\r\n");
        raw_send(&request, "9\r\ndata: 1\n\n\r\n");
        http_wait_body(&http, "data: 1\n\n");
        raw_send(&request, "9\r\ndata: 2\n\n\r\n0\r\n\r\n");
        http_end(&http);
        ck_assert(http.whole);
        ck_assert_str_eq(http.body.data + http.body.len - 18, "data: 1\n\ndata: 2\n\n");

        /* What waits for a place waits too. */
        {
                struct http other;

                ask_and_take("POST", "/slow");
                http_connect(&other, front.address);
                http_post(&other, "/v1/chat/completions", STREAM);
                ck_assert(http_head(&other));
                http_wait_body(&other, ": waiting\n\n");
                raw_answer(&request, "");
                http_expect(&http, 200, "");
                /* An error of the model's instead of a stream. */
                take();
                raw_send(&request, "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 46\r\n\r\n"
                                   "{\"error\":{\"message\":\"Wrong key\",\"code\":\"key\"}}");
                http_end(&other);
                ck_assert(other.whole);
                ck_assert_ptr_nonnull(strstr(other.body.data, "data: {\"error\":{\"message\":\"Wrong key\",\"code\":\"key\"}}\n\n"));
                http_close(&other);
        }
        daemon_stop(&front.msd);
}
END_TEST

/* A stream that breaks when it has begun is cut, comments or none. */
START_TEST(server_breaks) {
        start(OPTIONS("--stream-keepalive", "20ms"));
        http_post(&http, "/v1/chat/completions", STREAM);
        ck_assert(http_head(&http));
        http_wait_body(&http, ": waiting\n\n");
        take();
        raw_send(&request, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                           "9\r\ndata: 1\n\n\r\n");
        http_wait_body(&http, "data: 1\n\n");
        raw_hang_up(&request);
        http_end(&http);
        ck_assert(!http.whole);
        daemon_stop(&front.msd);
}
END_TEST

/* One that is lost twice before it has begun ends in an error event. */
START_TEST(server_lost) {
        start(OPTIONS("--stream-keepalive", "20ms"));
        http_post(&http, "/v1/chat/completions", STREAM);
        ck_assert(http_head(&http));
        http_wait_body(&http, ": waiting\n\n");
        for (unsigned i = 0; i < 2; i++) {
                take();
                raw_hang_up(&request);
        }
        /* Meanwhile msd asks whether the model server is well. */
        while (!http.ended && !strstr(text_get(&http.input), "inference-failed")) {
                struct raw_request none;

                ck_assert(!raw_take_until(&raw, &none, http.fd, clock_patience()));
                http_read(&http);
        }
        http_end(&http);
        ck_assert(http.whole);
        ck_assert_ptr_nonnull(strstr(http.body.data, "data: {\"error\":{"));
        ck_assert_ptr_nonnull(strstr(http.body.data, "inference-failed"));
        daemon_stop(&front.msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, told);
        tcase_add_test(tests, failure);
        tcase_add_test(tests, timeout);
        tcase_add_test(tests, stop);
        tcase_add_test(tests, vanishes);
        tcase_add_test(tests, server_stream);
        tcase_add_test(tests, server_breaks);
        tcase_add_test(tests, server_lost);
}

int main(void) {
        return suite_main("http_stream", add);
}
