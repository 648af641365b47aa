/*
 * How often a request is sent to a model that does not answer it, and when: at most twice, and again only if that is safe. The
 * model server is the test itself.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

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

/* How often requests may be sent to a model that reads each of them and closes. */
static const struct {
        const char *method;
        const char *path;
        unsigned times;
} kinds[] = {
        { "POST", "/v1/chat/completions", 2 },
        { "POST", "/v1/completions?a=b", 2 },
        { "POST", "/v1/messages", 2 },
        { "POST", "/api/chat", 2 },
        { "POST", "/v1/embeddings", 2 },
        { "POST", "/v1/filesystem", 2 },
        { "GET", "/v1/models", 2 },
        { "HEAD", "/v1/models", 2 },
        { "OPTIONS", "/v1/models", 2 },
        { "PUT", "/v1/files/1", 2 },
        { "DELETE", "/v1/files/1", 2 },
        { "PATCH", "/v1/chat/completions", 1 },
        { "PROPFIND", "/", 1 },
        { "POST", "/v1/files", 1 },
        { "POST", "/v1/files?purpose=batch", 1 },
        { "POST", "/v1/files/1/content", 1 },
        { "POST", "/v1/batches", 1 },
        { "POST", "/v1/fine_tuning/jobs", 1 },
        { "POST", "/v1/uploads", 1 },
        { "POST", "/v1/vector_stores/1/files", 1 },
        { "POST", "/api/pull", 1 },
        { "POST", "/api/push", 1 },
        { "POST", "/api/create", 1 },
        { "POST", "/api/copy", 1 },
        { "POST", "/api/delete", 1 },
        { "POST", "/slots/0?action=save", 1 },
        { "POST", "/lora-adapters", 1 },
        { "POST", "/models/load", 1 },
        { "POST", "/models/unload", 1 },
};

static void send_kind(int i) {
        stage.http.bodiless = strcmp(kinds[i].method, "HEAD") == 0;
        http_send(&stage.http, "%s %s HTTP/1.1\r\nHost: msd\r\nContent-Length: 2\r\n\r\n{}", kinds[i].method, kinds[i].path);
}

static void count_times(int i) {
        unsigned times = 0;

        send_kind(i);
        raw_request_deinit(&stage.request);
        while (raw_take_until(&stage.raw, &stage.request, stage.http.fd, clock_patience())) {
                times++;
                ck_assert_str_eq(stage.request.method, kinds[i].method);
                ck_assert_str_eq(stage.request.target, kinds[i].path);
                ck_assert_str_eq(text_get(&stage.request.body), "{}");
                raw_hang_up(&stage.request);
                raw_request_deinit(&stage.request);
        }
        ck_assert_msg(times == kinds[i].times, "%s %s was sent %u times", kinds[i].method, kinds[i].path, times);
        http_next(&stage.http);
        ck_assert_uint_eq(stage.http.status, 502);
        if (strcmp(kinds[i].method, "HEAD") != 0)
                ck_assert_ptr_nonnull(strstr(stage.http.body.data, "\"error\""));
}

/* On a new connection to the model, and on one that was kept. */
START_TEST(closes_without_an_answer) {
        struct peer_status status;

        stage_start_ready(&stage, OPTIONS("--threads", "1"));
        count_times(_i);
        stage_ask(&stage, "GET", "/");
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        count_times(_i);
        peer_status(&stage.front.msd.control, &status);
        ck_assert_uint_eq(status.generation, 1);
        ck_assert_uint_eq(status.failed, 2);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* The same for a prompt. */
START_TEST(prompt) {
        unsigned times = 0;

        stage_start_ready(&stage, OPTIONS());
        peer_send(&stage.front.msd.control, "%s 1 2\nhi\n", _i == 0 ? "REQUEST" : "STREAM");
        while (raw_take_until(&stage.raw, &stage.request, stage.front.msd.control.fd, clock_patience())) {
                times++;
                raw_hang_up(&stage.request);
                raw_request_deinit(&stage.request);
        }
        ck_assert_uint_eq(times, 2);
        peer_expect_error(&stage.front.msd.control, "1", "inference-failed", NULL);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* A second loss before the answer of a model that broke off amid it, whatever was delivered of it. */
static const char *const begun[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nh",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n",
};

START_TEST(delivered) {
        stage_start_ready(&stage, OPTIONS());
        stage_post(&stage, "/v1/completions", "{}");
        raw_send(&stage.request, "%s", begun[_i]);
        ck_assert(http_head(&stage.http));
        raw_hang_up(&stage.request);
        while (!stage.http.ended) {
                stage_expect_no_request(&stage);
                http_read(&stage.http);
        }
        http_end(&stage.http);
        ck_assert_msg(!stage.http.whole, "Half an answer came as a whole one");
        daemon_stop(&stage.front.msd);
}
END_TEST

#define POSTS 200

/*
 * A model closes idle connections just as they are used again: each request is executed once, and none is lost.
 */
START_TEST(closes_idle_connections) {
        unsigned executed = 0;

        stage_start_ready(&stage, OPTIONS("--threads", "1"));
        stage_post(&stage, "/v1/completions", "{}");
        for (unsigned i = 0; i < POSTS; i++) {
                char body[16], answer[16];
                struct pollfd event;

                snprintf(body, sizeof(body), "{\"n\":%u}", i);
                snprintf(answer, sizeof(answer), "%u", i);
                raw_answer(&stage.request, answer);
                http_expect(&stage.http, 200, answer);
                event = (struct pollfd){ stage.request.connection->fd, POLLIN, 0 };
                if (i % 4 == 0) {
                        raw_hang_up(&stage.request);
                        http_post(&stage.http, "/v1/completions", body);
                } else if (i % 4 == 1) {
                        ck_assert_int_eq(shutdown(stage.request.connection->fd, SHUT_WR), 0);
                        http_post(&stage.http, "/v1/completions", body);
                        raw_hang_up(&stage.request);
                } else {
                        http_post(&stage.http, "/v1/completions", body);
                        if (i % 4 == 3)
                                while (process_poll(&event, 1, clock_patience()) == 0)
                                        ;
                        raw_hang_up(&stage.request);
                }
                stage_take(&stage);
                executed++;
                ck_assert_str_eq(text_get(&stage.request.body), body);
        }
        raw_answer(&stage.request, "last");
        http_expect(&stage.http, 200, "last");
        ck_assert_uint_eq(executed, POSTS);
        stage_post(&stage, "/v1/completions", "{}");
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        daemon_stop(&stage.front.msd);
}
END_TEST

#define IDLE (100 * NSEC_PER_MSEC)
#define TIMED_POSTS 100

/* The same by the clock: connections end after some time, and are asked after just that. */
START_TEST(closes_after_a_time) {
        stage_start_ready(&stage, OPTIONS("--threads", "1"));
        stage_post(&stage, "/v1/completions", "{}");
        for (unsigned i = 0; i < TIMED_POSTS; i++) {
                const uint64_t due = clock_now() + IDLE, jitter = (i % 10) * 20000;
                struct raw_request none;
                char body[16];

                snprintf(body, sizeof(body), "{\"n\":%u}", i);
                raw_answer(&stage.request, "answer");
                http_expect(&stage.http, 200, "answer");
                ck_assert(!raw_take_until(&stage.raw, &none, -1, due - NSEC_PER_MSEC));
                while (clock_now() < due)
                        ;
                raw_hang_up(&stage.request);
                while (clock_now() < due + jitter)
                        ;
                http_post(&stage.http, "/v1/completions", body);
                stage_take(&stage);
                ck_assert_str_eq(text_get(&stage.request.body), body);
        }
        raw_answer(&stage.request, "last");
        http_expect(&stage.http, 200, "last");
        daemon_stop(&stage.front.msd);
}
END_TEST

#define BUSY(seconds) "HTTP/1.1 503 Busy\r\nRetry-After: " seconds "\r\nContent-Length: 4\r\n\r\nbusy"

/* A model that is ready and says when it will have room is asked again then, once. */
START_TEST(retry_after) {
        uint64_t began;

        stage_start_ready(&stage, OPTIONS());
        stage_post(&stage, "/v1/completions", "{}");
        began = clock_now();
        raw_send(&stage.request, BUSY("1"));
        stage_take(&stage);
        ck_assert_msg(clock_now() - began > 900 * NSEC_PER_MSEC, "It was sent again after %lu ns", clock_now() - began);
        ck_assert_msg(clock_now() - began < 10 * NSEC_PER_SEC, "It was sent again after %lu ns", clock_now() - began);
        ck_assert_str_eq(text_get(&stage.request.body), "{}");
        raw_send(&stage.request, BUSY("1"));
        http_expect(&stage.http, 503, "busy");
        ck_assert_str_eq(http_field(&stage.http, "Retry-After"), "1");
        /* The end is the first answer where repeating is not safe, or would take too long. */
        stage_post(&stage, "/v1/completions", "{}");
        raw_send(&stage.request, BUSY("60"));
        stage_expect_no_request(&stage);
        http_expect(&stage.http, 503, "busy");
        ck_assert_str_eq(http_field(&stage.http, "Retry-After"), "60");
        stage_post(&stage, "/v1/files", "{}");
        raw_send(&stage.request, BUSY("1"));
        stage_expect_no_request(&stage);
        http_expect(&stage.http, 503, "busy");
        ck_assert_str_eq(http_field(&stage.http, "Retry-After"), "1");
        daemon_stop(&stage.front.msd);
}
END_TEST

/* One that waits to be sent again goes with its client. */
START_TEST(gone_before_retry) {
        struct raw_request none;

        stage_start_ready(&stage, OPTIONS());
        stage_post(&stage, "/v1/completions", "{}");
        raw_send(&stage.request, BUSY("1"));
        front_wait_waiting(&stage.front, 1);
        http_close(&stage.http);
        front_wait_waiting(&stage.front, 0);
        ck_assert(!raw_take_until(&stage.raw, &none, -1, clock_now() + 1500 * NSEC_PER_MSEC));
        daemon_stop(&stage.front.msd);
}
END_TEST

#define TIMEOUT (2 * NSEC_PER_SEC)

/* --request-timeout counts from when a request came, not from when it was sent again behind newer ones. */
START_TEST(time_counts_from_arrival) {
        struct raw_request none, newer;
        struct http other;
        uint64_t began;

        stage_start_ready(&stage, OPTIONS("--request-timeout", "2s", "--threads", "1"));
        began = clock_now();
        if (_i == 0)
                http_post(&stage.http, "/v1/completions", "{}");
        else
                peer_send(&stage.front.msd.control, "REQUEST 1 2\nhi\n");
        stage_take(&stage);
        ck_assert(!raw_take_until(&stage.raw, &none, -1, began + TIMEOUT * 7 / 10));
        http_connect(&other, stage.front.address);
        http_post(&other, "/newer", "{}");
        raw_take(&stage.raw, &newer);
        raw_hang_up(&stage.request);
        stage_take(&stage);
        if (_i == 0)
                http_expect_error(&stage.http, 504, "timed-out", NULL);
        else
                peer_expect_error(&stage.front.msd.control, "1", "timed-out", NULL);
        ck_assert_msg(clock_now() - began < TIMEOUT * 15 / 10, "It was answered after %lu ns", clock_now() - began);
        raw_wait_gone(&stage.request);
        raw_answer(&newer, "answer");
        http_expect(&other, 200, "answer");
        raw_request_deinit(&newer);
        http_close(&other);
        daemon_stop(&stage.front.msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_loop_test(tests, closes_without_an_answer, 0, (int)ARRAY_SIZE(kinds));
        tcase_add_loop_test(tests, prompt, 0, 2);
        tcase_add_loop_test(tests, delivered, 0, (int)ARRAY_SIZE(begun));
        tcase_add_test(tests, closes_idle_connections);
        tcase_add_test(tests, closes_after_a_time);
        tcase_add_test(tests, retry_after);
        tcase_add_test(tests, gone_before_retry);
        tcase_add_loop_test(tests, time_counts_from_arrival, 0, 2);
}

int main(void) {
        return suite_main("retries", add);
}
