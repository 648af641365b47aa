/*
 * What an HTTP client can make grow has a limit. Each refusal is one answer with the error object, and names the option that
 * raises the limit.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* A body over --max-body, in every framing: the head, and what follows it. */
#define POST "POST /v1/completions HTTP/1.1\r\nHost: msd\r\n"
static const struct {
        const char *head;
        const char *chunk;      /* stands before each piece of 1,000 bytes, with CRLF behind; NULL: no piece comes */
} bodies[] = {
        { POST "Content-Length: 10001\r\n\r\n", NULL },
        { POST "Content-Length: 10001\r\n\r\n", "" },
        { POST "Content-Length: 10001\r\nExpect: 100-continue\r\n\r\n", NULL },
        { POST "Content-Length: 10001\r\nExpect: 100-continue\r\n\r\n", "" },
        { POST "Content-Length: 9223372036854775807\r\n\r\n", "" },
        { POST "Content-Length: 18446744073709551615\r\n\r\n", NULL },
        { POST "Transfer-Encoding: chunked\r\n\r\n", "3e8\r\n" },
        { POST "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n", "3e8\r\n" },
        { "POST /v1/completions HTTP/1.0\r\nContent-Length: 10001\r\n\r\n", "" },
};

START_TEST(max_body) {
        struct raw_request none;
        char piece[1100];
        int n;

        stage_start_ready(&stage, OPTIONS("--max-body", "10000"));
        http_send(&stage.http, "%s", bodies[_i].head);
        if (bodies[_i].chunk) {
                n = snprintf(piece, sizeof(piece), "%s%01000d%s", bodies[_i].chunk, 0, *bodies[_i].chunk ? "\r\n" : "");
                for (unsigned i = 0; i < 11 && http_offer(&stage.http, piece, (size_t)n); i++)
                        ;
        }
        /* A chunked body may be waved through until it is too long. */
        ck_assert(http_head(&stage.http));
        if (stage.http.status == 100) {
                ck_assert_ptr_nonnull(strstr(bodies[_i].head, "chunked"));
                ck_assert(http_head(&stage.http));
        }
        http_end(&stage.http);
        ck_assert_uint_eq(stage.http.status, 413);
        ck_assert_str_eq(http_field(&stage.http, "Content-Type"), "application/json");
        ck_assert_str_eq(http_field(&stage.http, "Connection"), "close");
        ck_assert_ptr_nonnull(strstr(stage.http.body.data, "\"too-large\""));
        ck_assert_ptr_nonnull(strstr(stage.http.body.data, "--max-body"));
        json_decref(http_json(&stage.http));
        http_finish(&stage.http);
        http_expect_end(&stage.http);
        ck_assert(!raw_take_until(&stage.raw, &none, -1, clock_now() + 20 * NSEC_PER_MSEC));
        daemon_stop(&stage.front.msd);
}
END_TEST

/* Asks with a body that is longer than http_post() has room for. */
static void post_long(struct http *http, const char *body) {
        http_send(http, POST "Content-Length: %zu\r\n\r\n", strlen(body));
        (void)http_offer(http, body, strlen(body));
}

/* A body of just the limit is not over it. */
START_TEST(max_body_exactly) {
        char body[10001];

        snprintf(body, sizeof(body), "%010000d", 0);
        stage_start_ready(&stage, OPTIONS("--max-body", "10000"));
        post_long(&stage.http, body);
        stage_take(&stage);
        ck_assert_str_eq(text_get(&stage.request.body), body);
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        http_send(&stage.http, POST "Transfer-Encoding: chunked\r\n\r\n2710\r\n");
        http_send_bytes(&stage.http, body, 10000);
        http_send(&stage.http, "\r\n0\r\n\r\n");
        stage_take(&stage);
        ck_assert_str_eq(text_get(&stage.request.body), body);
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        daemon_stop(&stage.front.msd);
}
END_TEST

/* By default a photograph fits. */
START_TEST(default_max_body) {
        static char body[8 << 20];

        memset(body, 'a', sizeof(body));
        stage_start_ready(&stage, OPTIONS());
        http_send(&stage.http, POST "Content-Length: %zu\r\n\r\n", sizeof(body));
        http_send_bytes(&stage.http, body, sizeof(body));
        stage_take(&stage);
        ck_assert_uint_eq(stage.request.body.len, sizeof(body));
        ck_assert_int_eq(memcmp(stage.request.body.data, body, sizeof(body)), 0);
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        http_send(&stage.http, POST "Content-Length: 67108865\r\n\r\n");
        stage_expect_refusal(&stage.http, 413, "--max-body");
        daemon_stop(&stage.front.msd);
}
END_TEST

/* --max-prompt is for the request socket alone. */
START_TEST(max_prompt) {
        stage_start_ready(&stage, OPTIONS("--max-prompt", "1"));
        stage_post(&stage, "/v1/completions", "{\"prompt\":\"hello\"}");
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        daemon_stop(&stage.front.msd);
}
END_TEST

START_TEST(max_prompt_memory) {
        struct http other;
        char body[6001];

        snprintf(body, sizeof(body), "%06000d", 0);
        stage_start(&stage, OPTIONS("--max-prompt-memory", "10000"));
        post_long(&stage.http, body);
        front_wait_waiting(&stage.front, 1);
        http_connect(&other, stage.front.address);
        post_long(&other, body);
        http_expect_error(&other, 503, "queue-full", NULL);
        ck_assert_ptr_nonnull(strstr(other.body.data, "--max-prompt-memory"));
        http_finish(&other);
        http_expect_end(&other);
        http_close(&other);
        daemon_stop(&stage.front.msd);
}
END_TEST

START_TEST(max_waiting) {
        struct http other;

        stage_start(&stage, OPTIONS("--max-waiting", "1"));
        http_post(&stage.http, "/v1/completions", "{}");
        front_wait_waiting(&stage.front, 1);
        http_connect(&other, stage.front.address);
        http_post(&other, "/v1/completions", "{}");
        http_expect_error(&other, 503, "queue-full", NULL);
        ck_assert_ptr_nonnull(strstr(other.body.data, "--max-waiting"));
        /* It was all there: the connection is as good as before. */
        http_ask(&other, "GET", "/-/live");
        http_expect(&other, 200, "ok\n");
        http_close(&other);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* Heads that are too long, or have too many fields, whole and in pieces. */
START_TEST(large_heads) {
        struct text text = TEXT_NULL;

        stage_start_ready(&stage, OPTIONS());
        text_appendf(&text, "GET / HTTP/1.1\r\nHost: msd\r\n");
        if (_i == 0)
                for (unsigned i = 0; i < 100; i++)
                        text_appendf(&text, "X-%u: %01000d\r\n", i, 0);
        else if (_i == 1)
                text_appendf(&text, "X: %070000d\r\n", 0);
        else
                for (unsigned i = 0; i < 300; i++)
                        text_appendf(&text, "X-%u: 1\r\n", i);
        text_appendf(&text, "\r\n");
        (void)http_offer(&stage.http, text.data, text.len);
        text_deinit(&text);
        stage_expect_refusal(&stage.http, 431, NULL);
        daemon_stop(&stage.front.msd);
}
END_TEST

START_TEST(long_target) {
        struct text text = TEXT_NULL;

        stage_start_ready(&stage, OPTIONS());
        text_appendf(&text, "GET /%070000d", 0);
        (void)http_offer(&stage.http, text.data, text.len);
        text_deinit(&text);
        http_next(&stage.http);
        ck_assert_msg(stage.http.status == 431 || stage.http.status == 414, "It is %u", stage.http.status);
        json_decref(http_json(&stage.http));
        http_finish(&stage.http);
        http_expect_end(&stage.http);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* A head that does not come to its end, from the first byte on; a client that sends byte by byte has no more time. */
static const char *const halves[] = {
        "G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: msd\r\n", "POST / HTTP/1.1\r\nHost: msd\r\nContent-Length: 5\r\n",
};

START_TEST(head_timeout) {
        uint64_t began;

        stage_start_ready(&stage, OPTIONS("--head-timeout", "500ms"));
        began = clock_now();
        http_send(&stage.http, "%s", halves[_i]);
        stage_expect_refusal(&stage.http, 408, "--head-timeout");
        ck_assert_uint_ge(clock_now() - began, 400 * NSEC_PER_MSEC);
        /* On a connection that was used before, too. */
        http_close(&stage.http);
        http_connect(&stage.http, stage.front.address);
        stage_ask(&stage, "GET", "/");
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        http_send(&stage.http, "%s", halves[_i]);
        stage_expect_refusal(&stage.http, 408, "--head-timeout");
        daemon_stop(&stage.front.msd);
}
END_TEST

START_TEST(head_byte_by_byte) {
        uint64_t began;

        stage_start_ready(&stage, OPTIONS("--head-timeout", "500ms"));
        began = clock_now();
        http_send(&stage.http, "GET / HTTP/1.1\r\nHost: msd\r\nX: ");
        while (!http_head_until(&stage.http, clock_now() + 50 * NSEC_PER_MSEC)) {
                ck_assert_msg(clock_now() - began < 10 * NSEC_PER_SEC, "It is never over");
                ck_assert(!stage.http.ended);
                (void)http_offer(&stage.http, "a", 1);
        }
        ck_assert_uint_eq(stage.http.status, 408);
        http_end(&stage.http);
        ck_assert_ptr_nonnull(strstr(stage.http.body.data, "--head-timeout"));
        daemon_stop(&stage.front.msd);
}
END_TEST

/* Between requests a connection is closed without a word; one whose request is under way is not idle. */
START_TEST(client_idle_timeout) {
        struct http fresh, used;
        uint64_t began;

        stage_start_ready(&stage, OPTIONS("--client-idle-timeout", "500ms", "--head-timeout", "1h"));
        http_post(&stage.http, "/v1/completions", "{}");
        stage_take(&stage);
        began = clock_now();
        http_connect(&fresh, stage.front.address);
        http_connect(&used, stage.front.address);
        http_ask(&used, "GET", "/-/live");
        http_expect(&used, 200, "ok\n");
        http_expect_end(&fresh);
        http_expect_end(&used);
        ck_assert_uint_ge(clock_now() - began, 400 * NSEC_PER_MSEC);
        http_close(&fresh);
        http_close(&used);
        http_expect_silence(&stage.http, 100 * NSEC_PER_MSEC);
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        http_expect_end(&stage.http);
        daemon_stop(&stage.front.msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_loop_test(tests, max_body, 0, (int)ARRAY_SIZE(bodies));
        tcase_add_test(tests, max_body_exactly);
        tcase_add_test(tests, default_max_body);
        tcase_add_test(tests, max_prompt);
        tcase_add_test(tests, max_prompt_memory);
        tcase_add_test(tests, max_waiting);
        tcase_add_loop_test(tests, large_heads, 0, 3);
        tcase_add_test(tests, long_target);
        tcase_add_loop_test(tests, head_timeout, 0, (int)ARRAY_SIZE(halves));
        tcase_add_test(tests, head_byte_by_byte);
        tcase_add_test(tests, client_idle_timeout);
}

int main(void) {
        return suite_main("http_limits", add);
}
