/*
 * A load that fails is told to everybody that waits, with its reason. Then msd ends, or stays
 * and can load again.
 */

#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/run.h"

#define REASON "no such weights: /models/7b"

START_TEST(told_to_everybody) {
        struct peer peers[30], waiter, half;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "1s", "--load-failure", REASON, NULL);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_connect(&peers[i], daemon.socket);
                peer_send_requests(&peers[i], i * 100, 10);
        }
        peer_connect(&waiter, daemon.socket);
        peer_send(&waiter, "WAIT\n");
        peer_connect(&half, daemon.socket);
        peer_send(&half, "STREAM half 5\nhello\n");
        peer_finish(&half);

        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_expect_errors(&peers[i], i * 100, 10, "load-failed", REASON);
                peer_expect_end(&peers[i]);
                peer_close(&peers[i]);
        }
        peer_expect_error(&waiter, "-", "load-failed", REASON);
        peer_expect_end(&waiter);
        peer_close(&waiter);
        peer_expect_error(&half, "half", "load-failed", REASON);
        peer_expect_end(&half);
        peer_close(&half);

        ck_assert_int_eq(process_wait(&daemon.process), 1);
        ck_assert_str_eq(daemon.process.output.data, "Model loading...\n");
        ck_assert_ptr_nonnull(strstr(text_get(&daemon.process.errors), REASON));
        daemon_expect_exit(&daemon, 1);
}
END_TEST

/* More than a socket holds at once: all of it arrives before msd ends. */
START_TEST(told_to_ten_thousand) {
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "500ms", "--load-failure", REASON, NULL);
        peer_send_requests(&daemon.control, 0, 10000);
        peer_expect_errors(&daemon.control, 0, 10000, "load-failed", REASON);
        peer_expect_end(&daemon.control);
        daemon_expect_exit(&daemon, 1);
}
END_TEST

/* Nobody waits for it: the status is the same. */
START_TEST(without_clients) {
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "300ms", "--load-failure", REASON, "--on-load-failure", "exit",
                     NULL);
        peer_close(&daemon.control);
        daemon_expect_exit(&daemon, 1);
}
END_TEST

START_TEST(told_by_mscli) {
        struct process request, wait;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "1s", "--load-failure", REASON, NULL);
        run_start(&request, daemon.socket, NULL, (const char *[]){ "request", "1", "2", NULL });
        run_start(&wait, daemon.socket, NULL, (const char *[]){ "wait", NULL });
        ck_assert_int_eq(process_wait(&request), 1);
        ck_assert_str_eq(text_get(&request.output), "");
        ck_assert_ptr_nonnull(strstr(text_get(&request.errors), REASON));
        ck_assert_int_eq(process_wait(&wait), 1);
        ck_assert_ptr_nonnull(strstr(text_get(&wait.errors), REASON));
        process_free(&request);
        process_free(&wait);
        daemon_expect_exit(&daemon, 1);
}
END_TEST

/* What would end a line on the wire does not. */
START_TEST(reason_of_many_lines) {
        struct peer_status status;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "300ms", "--load-failure", "first\nsecond\r\n\"third\"\033[31m",
                     "--on-load-failure", "stay", NULL);
        peer_send(&daemon.control, "REQUEST 1\n");
        peer_expect_error(&daemon.control, "1", "load-failed", "first second  \"third\"");
        peer_status(&daemon.control, &status);
        ck_assert_str_eq(status.status, "failed");
        daemon_stop(&daemon);
}
END_TEST

START_TEST(stay) {
        struct peer_status status;
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "500ms", "--load-failure", REASON, "--on-load-failure", "stay",
                     NULL);
        peer_send(&daemon.control, "REQUEST 1\n");
        peer_expect_error(&daemon.control, "1", "load-failed", REASON);

        /* It answers so until somebody has it load again. */
        peer_status(&daemon.control, &status);
        ck_assert_str_eq(status.status, "failed");
        ck_assert_str_eq(status.error, REASON);
        ck_assert_str_eq(status.model, "");
        ck_assert_uint_eq(status.generation, 1);
        ck_assert_uint_eq(status.waiting, 0);
        ck_assert_uint_eq(status.failed, 1);
        ck_assert_uint_eq(status.completed, 0);
        ck_assert(status.load >= 0.499);
        peer_connect(&peer, daemon.socket);
        peer_send(&peer, "REQUEST 2\n");
        peer_expect_error(&peer, "2", "load-failed", REASON);
        peer_send(&peer, "STREAM 3 0\n\n");
        peer_expect_error(&peer, "3", "load-failed", REASON);
        peer_send(&peer, "WAIT\n");
        peer_expect_error(&peer, "-", "load-failed", REASON);
        peer_close(&peer);
        daemon_stop(&daemon);
}
END_TEST

/* A new generation, with a new gate: requests wait again. */
START_TEST(load_again) {
        struct peer_status status;
        struct daemon daemon;
        struct peer peer;
        uint64_t start;

        daemon_start(&daemon, "--load-time", "1s", "--load-failure", REASON, "--on-load-failure", "stay",
                     NULL);
        peer_send(&daemon.control, "REQUEST 1\n");
        peer_expect_error(&daemon.control, "1", "load-failed", REASON);

        start = clock_now();
        peer_send(&daemon.control, "LOAD\n");
        peer_expect(&daemon.control, "-", PROTOCOL_LOADING);
        peer_connect(&peer, daemon.socket);
        peer_send(&peer, "REQUEST 2\nWAIT\n");
        peer_status(&peer, &status);
        ck_assert_str_eq(status.status, "loading");
        ck_assert_uint_eq(status.generation, 2);
        ck_assert_uint_eq(status.attempt, 1);
        ck_assert_uint_eq(status.waiting, 1);
        ck_assert_str_eq(status.error, REASON);
        for (size_t i = 0; i < 2; i++) {
                struct peer_reply reply;

                ck_assert(peer_next(&peer, &reply));
                ck_assert_str_eq(reply.code, "load-failed");
                ck_assert_str_eq(reply.body, REASON);
        }
        ck_assert_uint_ge(clock_now() - start, NSEC_PER_SEC);
        peer_status(&peer, &status);
        ck_assert_str_eq(status.status, "failed");
        ck_assert_uint_eq(status.generation, 2);

        /* And once more, by those who have no program for it. */
        peer_send(&peer, "LOAD\n");
        peer_expect(&peer, "-", PROTOCOL_LOADING);
        peer_send(&peer, "WAIT\n");
        peer_expect_error(&peer, "-", "load-failed", REASON);
        peer_status(&peer, &status);
        ck_assert_uint_eq(status.generation, 3);
        peer_close(&peer);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(load_again_by_mscli) {
        struct peer_status status;
        struct process mscli;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "500ms", "--load-failure", REASON, "--on-load-failure", "stay",
                     NULL);
        peer_status_until(&daemon.control, &status, peer_status_is_failed, 0, "loading has failed");
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "load", NULL), 0);
        process_free(&mscli);
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.generation, 2);
        daemon_stop(&daemon);
}
END_TEST

/* Who asks for a load that is under way, or done, changes nothing. */
START_TEST(load_when_there_is_nothing_to_load) {
        struct peer_status status;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "1s", NULL);
        for (size_t i = 0; i < 5; i++) {
                peer_send(&daemon.control, "LOAD\n");
                peer_expect(&daemon.control, "-", PROTOCOL_LOADING);
        }
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.generation, 1);
        daemon_wait_ready(&daemon);
        peer_send(&daemon.control, "LOAD\n");
        peer_expect(&daemon.control, "-", PROTOCOL_READY);
        peer_status(&daemon.control, &status);
        ck_assert_str_eq(status.status, "ready");
        ck_assert_uint_eq(status.generation, 1);
        daemon_stop(&daemon);
}
END_TEST

/* Those who ask for it at the same time get one generation between them. */
START_TEST(load_by_many) {
        struct peer_status status;
        struct daemon daemon;
        struct peer peers[20];

        daemon_start(&daemon, "--load-time", "1s", "--load-failure", REASON, "--on-load-failure", "stay",
                     NULL);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++)
                peer_connect(&peers[i], daemon.socket);
        peer_status_until(&daemon.control, &status, peer_status_is_failed, 0, "loading has failed");
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++)
                peer_send(&peers[i], "LOAD\n");
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_expect(&peers[i], "-", PROTOCOL_LOADING);
                peer_close(&peers[i]);
        }
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.generation, 2);
        daemon_stop(&daemon);
}
END_TEST

/* Requests wait through all attempts, and hear of the last. */
START_TEST(attempts) {
        struct peer_status status;
        struct daemon daemon;
        uint64_t start = clock_now();

        daemon_start(&daemon, "--load-time", "200ms", "--load-failure", REASON, "--load-attempts", "3",
                     "--on-load-failure", "stay", NULL);
        peer_send(&daemon.control, "REQUEST 1\n");
        peer_expect_error(&daemon.control, "1", "load-failed", REASON);
        ck_assert_uint_ge(clock_now() - start, 600 * NSEC_PER_MSEC);
        peer_status(&daemon.control, &status);
        ck_assert_str_eq(status.status, "failed");
        ck_assert_uint_eq(status.attempt, 3);
        ck_assert_uint_eq(status.generation, 1);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(attempts_then_exit) {
        struct peer_status status;
        struct daemon daemon;
        uint64_t start = clock_now();

        daemon_start(&daemon, "--load-time", "300ms", "--load-failure", REASON, "--load-attempts", "2", NULL);
        peer_send(&daemon.control, "REQUEST 1\n");
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.waiting, 1);
        peer_expect_error(&daemon.control, "1", "load-failed", REASON);
        ck_assert_uint_ge(clock_now() - start, 600 * NSEC_PER_MSEC);
        daemon_expect_exit(&daemon, 1);
}
END_TEST

START_TEST(load_timeout) {
        struct daemon daemon;
        struct peer_reply reply;
        uint64_t start = clock_now();

        daemon_start(&daemon, "--load-time", "1h", "--load-timeout", "400ms", NULL);
        peer_send(&daemon.control, "REQUEST 1\n");
        ck_assert(peer_next(&daemon.control, &reply));
        ck_assert_str_eq(reply.id, "1");
        ck_assert_str_eq(reply.code, "load-failed");
        /* The reason names the time. */
        ck_assert_msg(strstr(reply.body, "400ms") || strstr(reply.body, "0.4"), "%s", reply.body);
        ck_assert_uint_ge(clock_now() - start, 400 * NSEC_PER_MSEC);
        peer_expect_end(&daemon.control);
        daemon_expect_exit(&daemon, 1);
}
END_TEST

/* A load within its time is not disturbed by it, neither then nor later. */
START_TEST(load_timeout_that_is_kept) {
        struct daemon daemon;
        struct peer_reply reply;

        daemon_start(&daemon, "--load-time", "100ms", "--load-timeout", "2s", "--inference-time", "3s", NULL);
        peer_send(&daemon.control, "REQUEST 1\n");
        ck_assert(peer_next(&daemon.control, &reply));
        ck_assert_int_eq(reply.type, PROTOCOL_OK);
        daemon_stop(&daemon);
}
END_TEST

/* A failed load counts as one: a client that had gone is not in it. */
START_TEST(counters) {
        struct peer_status status;
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "2s", "--load-failure", REASON, "--on-load-failure", "stay",
                     NULL);
        peer_connect(&peer, daemon.socket);
        peer_send_requests(&peer, 0, 4);
        peer_status(&peer, &status);
        peer_close(&peer);
        peer_status_until(&daemon.control, &status, peer_status_is_cancelled, 4,
                          "its requests are cancelled");
        peer_send_requests(&daemon.control, 0, 3);
        peer_expect_errors(&daemon.control, 0, 3, "load-failed", REASON);
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.failed, 3);
        ck_assert_uint_eq(status.cancelled, 4);
        ck_assert_uint_eq(status.completed, 0);
        ck_assert_uint_eq(status.waiting, 0);
        daemon_stop(&daemon);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_test(tests, told_to_everybody);
        tcase_add_test(tests, told_to_ten_thousand);
        tcase_add_test(tests, without_clients);
        tcase_add_test(tests, told_by_mscli);
        tcase_add_test(tests, reason_of_many_lines);
        tcase_add_test(tests, stay);
        tcase_add_test(tests, load_again);
        tcase_add_test(tests, load_again_by_mscli);
        tcase_add_test(tests, load_when_there_is_nothing_to_load);
        tcase_add_test(tests, load_by_many);
        tcase_add_test(tests, attempts);
        tcase_add_test(tests, attempts_then_exit);
        tcase_add_test(tests, load_timeout);
        tcase_add_test(tests, load_timeout_that_is_kept);
        tcase_add_test(tests, counters);
}

int main(void) {
        return suite_main("failure", add);
}
