/*
 * msd's own paths over HTTP: what they say in every state, and who waits for a state.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/front.h"

#define STOPPING PROTOCOL_SHUTTING_DOWN_MESSAGE

static struct front front;

static void setup(void) {
        front_init(&front);
}

static void teardown(void) {
        front_deinit(&front);
}

/* The same as GET has, without the body. */
static void expect_same_head(const char *path) {
        struct http get, head;

        front_ask(&front, &get, "GET", path);
        http_next(&get);
        front_ask(&front, &head, "HEAD", path);
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

        front_ask(&front, &http, "GET", path);
        http_expect(&http, status, body);
        ck_assert_int_eq(strncmp(http_field(&http, "Content-Type"), type, strlen(type)), 0);
        http_close(&http);
}

static void expect_own_error(const char *method, const char *path, unsigned status, const char *code, const char *message) {
        struct http http;

        http_connect(&http, front.address);
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
        front_ask(&front, &http, "GET", "/-/status?pretty=1");
        http_expect(&http, 200, NULL);
        ck_assert_str_eq(http_field(&http, "Content-Type"), "application/json");
        peer_parse_status(http.body.data, &object);
        ck_assert_str_eq(object.status, status);
        ck_assert_uint_eq(object.pid, (uint64_t)front.msd.process.pid);
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

        front_start(&front, OPTIONS("--load-time", "1h"));
        expect_own_paths("loading", false, NULL, NULL);
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.waiting + status.completed + status.failed + status.cancelled, 0);
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(own_paths_when_ready) {
        struct peer_status status;

        front_start_ready(&front, OPTIONS("--load-time", "0"));
        expect_own_paths("ready", true, NULL, NULL);
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.waiting + status.completed + status.failed + status.cancelled, 0);
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(own_paths_when_failed) {
        front_start(&front, OPTIONS("--load-time", "0", "--load-failure", "No \"such\" weights", "--on-load-failure", "stay"));
        front_wait(&front, peer_status_is_failed, 0, "it has failed");
        expect_own_paths("failed", false, "load-failed", "No \"such\" weights");
        daemon_stop(&front.msd);
}
END_TEST

/* While one request is in flight that never ends. */
START_TEST(own_paths_when_stopping) {
        struct http running, before;

        front_start_ready(&front, OPTIONS("--load-time", "0", "--inference-time", "1h", "--drain-timeout", "1h"));
        front_ask_chat(&front, &running, "1", CHAT);
        http_connect(&before, front.address);
        http_ask(&before, "GET", "/-/ready");
        http_expect(&before, 200, "ready\n");
        front_wait(&front, peer_status_is_processing, 1, "it is in flight");
        process_signal(&front.msd.process, SIGTERM);
        front_wait(&front, peer_status_is_stopping, 0, "it stops");
        http_ask(&before, "GET", "/-/ready");
        http_expect_error(&before, 503, "shutting-down", STOPPING);
        http_close(&before);
        expect_own_paths("stopping", false, "shutting-down", STOPPING);
        process_signal(&front.msd.process, SIGTERM);
        daemon_expect_exit(&front.msd, 1);
        http_close(&running);
}
END_TEST

START_TEST(wait_until_ready) {
        struct http http[10];

        front_start(&front, OPTIONS("--load-time", "1s"));
        for (size_t i = 0; i < ARRAY_SIZE(http); i++)
                front_ask(&front, &http[i], i % 2 ? "GET" : "HEAD", "/-/wait");
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
        daemon_stop(&front.msd);
}
END_TEST

/* It has a place among those that may wait, until its client goes. */
START_TEST(wait_takes_a_place) {
        struct http one, two, *held = &one, *refused = &two;
        uint64_t deadline = clock_patience();

        front_start(&front, OPTIONS("--load-time", "1h", "--max-waiting", "1"));
        front_ask(&front, &one, "GET", "/-/wait");
        front_ask(&front, &two, "GET", "/-/wait");
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
        peer_send(&front.msd.control, "REQUEST 1\n");
        peer_expect_error(&front.msd.control, "1", "queue-full", NULL);
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
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(wait_until_failed) {
        struct http http;

        front_start(&front, OPTIONS("--load-time", "500ms", "--load-failure", "No such weights", "--on-load-failure", "stay"));
        front_ask(&front, &http, "GET", "/-/wait");
        http_expect_error(&http, 503, "load-failed", "No such weights");
        http_ask(&http, "GET", "/-/wait");
        http_expect_error(&http, 503, "load-failed", "No such weights");
        http_close(&http);
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(wait_until_stopping) {
        struct http http;

        front_start(&front, OPTIONS("--load-time", "1h"));
        front_ask(&front, &http, "GET", "/-/wait");
        front_wait(&front, peer_status_is_connections, 2, "it is there");
        http_expect_silence(&http, 50 * NSEC_PER_MSEC);
        process_signal(&front.msd.process, SIGTERM);
        http_expect_error(&http, 503, "shutting-down", STOPPING);
        http_expect_end(&http);
        http_close(&http);
        daemon_expect_exit(&front.msd, 0);
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

        front_start(&front, OPTIONS("--load-time", "1s", "--inference-time", "0"));
        front_ask_chat(&front, &one, "1", CHAT);
        front_ask_chat(&front, &two, "2", CHAT);
        front_wait_waiting(&front, 2);
        front_ask_chat(&front, &gone, "3", CHAT);
        front_wait_waiting(&front, 3);
        http_close(&gone);
        front_wait_waiting(&front, 2);
        front_ask(&front, &http, "GET", "/-/metrics");
        http_expect(&http, 200, NULL);
        ck_assert_str_eq(http_field(&http, "Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
        text = http.body.data;
        check_metrics(text);
        ck_assert(metric(text, "msd_requests_waiting") == 2);
        ck_assert(metric(text, "msd_requests_processing") == 0);
        ck_assert(metric(text, "msd_model_ready") == 0);
        ck_assert(metric(text, "msd_generation") == 1);
        ck_assert(metric(text, "msd_requests_accepted_total") == 3);
        ck_assert(metric(text, "msd_requests_total{outcome=\"completed\"}") == 0);
        ck_assert(metric(text, "msd_requests_total{outcome=\"failed\"}") == 0);
        ck_assert(metric(text, "msd_requests_total{outcome=\"cancelled\"}") == 1);
        check_histogram(text, "msd_load_seconds", 0);

        http_expect_chat(&one, "1");
        http_expect_chat(&two, "2");
        front_wait(&front, peer_status_is_completed, 2, "they are counted");
        http_ask(&http, "GET", "/-/metrics");
        http_expect(&http, 200, NULL);
        text = http.body.data;
        check_metrics(text);
        ck_assert(metric(text, "msd_requests_waiting") == 0);
        ck_assert(metric(text, "msd_model_ready") == 1);
        ck_assert(metric(text, "msd_requests_accepted_total") == 3);
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
        daemon_stop(&front.msd);
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
}

int main(void) {
        return suite_main("http_own", add);
}
