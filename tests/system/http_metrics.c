/*
 * What the metrics say of HTTP: the statuses of the model's answers, seconds until the first byte, bytes and retries. The
 * model server is the test itself.
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

/* The value of a metric now; -1: it is not there. */
static double metric(const char *name) {
        struct http http;
        double value = -1;
        size_t n = strlen(name);

        front_ask(&stage.front, &http, "GET", "/-/metrics");
        http_expect(&http, 200, NULL);
        for (const char *line = http.body.data; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
                if (strncmp(line, name, n) == 0 && line[n] == ' ')
                        value = strtod(line + n + 1, NULL);
        http_close(&http);
        return value;
}

static void ask_status(unsigned status) {
        stage_ask(&stage, "GET", "/");
        raw_send(&stage.request, "HTTP/1.1 %u As it is\r\nContent-Length: 6\r\n\r\nanswer", status);
        http_expect(&stage.http, status, "answer");
}

START_TEST(statuses) {
        struct http own;

        stage_start_ready(&stage, OPTIONS());
        for (unsigned i = 0; i < 3; i++)
                ask_status(200);
        ask_status(401);
        ask_status(404);
        ask_status(404);
        ask_status(500);
        /* Answers of msd's own do not count, nor do its probes. */
        front_ask(&stage.front, &own, "GET", "/-/nothing");
        http_expect(&own, 404, NULL);
        http_close(&own);
        ck_assert(metric("msd_http_responses_total{code=\"200\"}") == 3);
        ck_assert(metric("msd_http_responses_total{code=\"401\"}") == 1);
        ck_assert(metric("msd_http_responses_total{code=\"404\"}") == 2);
        ck_assert(metric("msd_http_responses_total{code=\"500\"}") == 1);
        ck_assert(metric("msd_http_responses_total{code=\"503\"}") < 0);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* From when a request is released, not from when it came. */
START_TEST(first_byte) {
        double before;

        stage_start(&stage, OPTIONS("--model", "raw"));
        http_post(&stage.http, "/v1/completions", "{}");
        front_wait_waiting(&stage.front, 1);
        http_expect_silence(&stage.http, 500 * NSEC_PER_MSEC);
        stage_take(&stage);
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        ck_assert(metric("msd_first_byte_seconds_count") == 1);
        before = metric("msd_first_byte_seconds_sum");
        ck_assert_msg(before < 0.5, "It is %f", before);
        stage_post(&stage, "/v1/completions", "{}");
        http_expect_silence(&stage.http, 300 * NSEC_PER_MSEC);
        raw_send(&stage.request, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n");
        ck_assert(http_head(&stage.http));
        http_expect_silence(&stage.http, 200 * NSEC_PER_MSEC);
        raw_send(&stage.request, "answer");
        http_end(&stage.http);
        ck_assert(metric("msd_first_byte_seconds_count") == 2);
        ck_assert_msg(metric("msd_first_byte_seconds_sum") - before >= 0.29, "It is %f", metric("msd_first_byte_seconds_sum"));
        daemon_stop(&stage.front.msd);
}
END_TEST

#define LARGE 1000000

START_TEST(bytes) {
        static char body[LARGE];
        double in, out;

        memset(body, 'a', sizeof(body));
        stage_start_ready(&stage, OPTIONS());
        in = metric("msd_http_received_bytes_total");
        out = metric("msd_http_sent_bytes_total");
        ck_assert(in >= 0 && out >= 0);
        http_send(&stage.http, "POST / HTTP/1.1\r\nHost: msd\r\nContent-Length: %zu\r\n\r\n", sizeof(body));
        http_send_bytes(&stage.http, body, sizeof(body));
        stage_take(&stage);
        raw_send(&stage.request, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", sizeof(body) / 2);
        raw_send_bytes(&stage.request, body, sizeof(body) / 2);
        http_next(&stage.http);
        in = metric("msd_http_received_bytes_total") - in;
        out = metric("msd_http_sent_bytes_total") - out;
        ck_assert_msg(in >= LARGE && in < LARGE + 1000, "It received %f bytes", in);
        ck_assert_msg(out >= LARGE / 2 && out < LARGE / 2 + 10000, "It sent %f bytes", out);
        daemon_stop(&stage.front.msd);
}
END_TEST

START_TEST(retries) {
        stage_start_ready(&stage, OPTIONS());
        ck_assert(metric("msd_retries_total") == 0);
        for (unsigned i = 0; i < 3; i++) {
                stage_post(&stage, "/v1/completions", "{}");
                raw_hang_up(&stage.request);
                stage_take(&stage);
                raw_answer(&stage.request, "answer");
                http_expect(&stage.http, 200, "answer");
        }
        ck_assert(metric("msd_retries_total") == 3);
        daemon_stop(&stage.front.msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, statuses);
        tcase_add_test(tests, first_byte);
        tcase_add_test(tests, bytes);
        tcase_add_test(tests, retries);
}

int main(void) {
        return suite_main("http_metrics", add);
}
