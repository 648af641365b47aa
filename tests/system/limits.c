/*
 * What a client can make grow has a limit, and at the limit msd goes on serving.
 */

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"

#define CLIENTS 200

/* Connects them all, each with one request. Those that msd has no descriptor for wait in the backlog. */
static void send_all(struct peer peers[static CLIENTS], const char *socket) {
        for (size_t i = 0; i < CLIENTS; i++) {
                peer_connect(&peers[i], socket);
                peer_send_requests(&peers[i], i, 1);
        }
}

/* Each goes when it has its answer, and so makes room for another. */
static void expect_all(struct peer peers[static CLIENTS]) {
        uint64_t deadline = clock_patience();
        size_t left = CLIENTS;

        while (left > 0) {
                struct pollfd events[CLIENTS];

                for (size_t i = 0; i < CLIENTS; i++)
                        events[i] = (struct pollfd){ peers[i].fd, POLLIN, 0 };
                if (clock_now() >= deadline)
                        process_give_up("%zu of %d clients have no answer", left, CLIENTS);
                if (process_poll(events, CLIENTS, deadline) == 0)
                        continue;
                for (size_t i = 0; i < CLIENTS; i++)
                        if (events[i].revents) {
                                peer_expect_answers(&peers[i], i, 1, "sim");
                                peer_close(&peers[i]);
                                left--;
                        }
        }
}

/* For a time in which nothing is to be done, hardly any processor time is used. */
static void expect_rest(struct daemon *daemon) {
        uint64_t before = process_cpu(&daemon->process), until = clock_now() + NSEC_PER_SEC;
        struct peer_reply reply;

        if (peer_next_until(&daemon->control, &reply, until))
                ck_abort_msg("A reply out of nowhere: %s %s %s", reply.id, reply.code, reply.body);
        ck_assert_uint_lt(process_cpu(&daemon->process) - before, 150 * NSEC_PER_MSEC);
}

static bool is_at_least(const struct peer_status *status, uint64_t connections) {
        return status->connections >= connections;
}

static const char *const thread_counts[] = { "1", "2", "8" };

START_TEST(few_descriptors) {
        const struct process_setup setup = { .descriptors = 64 };
        struct peer peers[CLIENTS];
        struct peer_status status;
        struct daemon daemon;

        daemon_start_with(&daemon, &setup, (const char *[]){ "--load-time", "3s", "--inference-time", "10ms",
                                                             "--threads", thread_counts[_i], NULL });
        send_all(peers, daemon.socket);
        peer_status_until(&daemon.control, &status, is_at_least, 8, "as many as may be are in");
        ck_assert_str_eq(status.status, "loading");
        expect_rest(&daemon);
        peer_status(&daemon.control, &status);
        ck_assert_uint_lt(status.connections, 64);
        expect_all(peers);

        /* And all is well afterwards. */
        peer_status_until(&daemon.control, &status, peer_status_is_connections, 1, "they are gone");
        ck_assert_uint_eq(status.completed, CLIENTS);
        for (size_t i = 0; i < 100; i++) {
                peer_connect(&peers[0], daemon.socket);
                peer_send_requests(&peers[0], i, 1);
                peer_expect_answers(&peers[0], i, 1, "sim");
                peer_close(&peers[0]);
        }
        daemon_stop(&daemon);
}
END_TEST

/* At a ready model, with every place taken by clients that stay. */
START_TEST(few_descriptors_and_clients_that_stay) {
        const struct process_setup setup = { .descriptors = 64 };
        struct peer peers[CLIENTS];
        struct peer_status status;
        struct daemon daemon;

        daemon_start_with(&daemon, &setup,
                          (const char *[]){ "--load-time", "0", "--inference-time", "0", NULL });
        daemon_wait_ready(&daemon);
        for (size_t i = 0; i < CLIENTS; i++)
                peer_connect(&peers[i], daemon.socket);
        /* Those that are in are served, as often as they like. */
        for (size_t i = 0; i < 100; i++) {
                peer_send_requests(&peers[0], i, 10);
                peer_expect_answers(&peers[0], i, 10, "sim");
        }
        peer_status(&daemon.control, &status);
        ck_assert_uint_lt(status.connections, 64);
        expect_rest(&daemon);

        /* Those in the backlog come in as others go. */
        for (size_t i = 0; i < CLIENTS; i++)
                peer_send_requests(&peers[i], i, 1);
        for (size_t i = 0; i < CLIENTS; i++) {
                peer_expect_answers(&peers[i], i, 1, "sim");
                peer_close(&peers[i]);
        }
        daemon_stop(&daemon);
}
END_TEST

/* Stopping is for those in the backlog as well: they do not stand there. */
START_TEST(few_descriptors_and_stopping) {
        const struct process_setup setup = { .descriptors = 64 };
        struct peer peers[CLIENTS];
        struct daemon daemon;

        daemon_start_with(&daemon, &setup, (const char *[]){ "--load-time", "1h", NULL });
        send_all(peers, daemon.socket);
        peer_status(&daemon.control, &(struct peer_status){ 0 });
        process_signal(&daemon.process, SIGTERM);
        for (size_t i = 0; i < CLIENTS; i++) {
                struct peer_reply reply;

                if (peer_next(&peers[i], &reply)) {
                        ck_assert_str_eq(reply.code, "shutting-down");
                        peer_expect_end(&peers[i]);
                }
                peer_close(&peers[i]);
        }
        daemon_expect_exit(&daemon, 0);
}
END_TEST

START_TEST(max_connections) {
        struct peer peers[CLIENTS];
        struct peer_status status;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "2s", "--inference-time", "10ms", "--max-connections", "10",
                     "--threads",
                     thread_counts[_i], NULL);
        send_all(peers, daemon.socket);
        peer_status_until(&daemon.control, &status, is_at_least, 10, "as many as may be are in");
        expect_rest(&daemon);
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.connections, 10);
        expect_all(peers);
        peer_status_until(&daemon.control, &status, peer_status_is_connections, 1, "they are gone");
        ck_assert_uint_eq(status.completed, CLIENTS);
        daemon_stop(&daemon);
}
END_TEST

static void send_prompt(struct peer *peer, size_t id, size_t len) {
        static const char zeros[8192];

        ck_assert_uint_le(len, sizeof(zeros));
        peer_send(peer, "REQUEST %zu %zu\n", id, len);
        peer_send_bytes(peer, zeros, len);
        peer_send(peer, "\n");
}

/* Of all prompts together: what does not fit is refused, and fits when another has gone. */
START_TEST(max_prompt_memory) {
        struct peer_status status;
        struct peer_reply reply;
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "1h", "--max-prompt-memory", "10000", "--threads", "4", NULL);
        peer_connect(&peer, daemon.socket);
        send_prompt(&peer, 1, 6000);
        peer_status(&peer, &status);
        ck_assert_uint_eq(status.waiting, 1);

        send_prompt(&daemon.control, 2, 6000);
        ck_assert(peer_next(&daemon.control, &reply));
        ck_assert_str_eq(reply.id, "2");
        ck_assert_str_eq(reply.code, "queue-full");
        ck_assert_msg(strstr(reply.body, "10000") || strstr(reply.body, "10,000"), "%s", reply.body);
        /* Smaller ones, and those without, are welcome. */
        send_prompt(&daemon.control, 3, 4000);
        peer_send(&daemon.control, "REQUEST 4\n");
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.waiting, 3);

        peer_close(&peer);
        peer_status_until(&daemon.control, &status, peer_status_is_waiting, 2, "a prompt has gone");
        send_prompt(&daemon.control, 5, 6000);
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.waiting, 3);
        send_prompt(&daemon.control, 6, 1);
        peer_expect_error(&daemon.control, "6", "queue-full", NULL);
        daemon_stop(&daemon);
}
END_TEST

/* A prompt that was answered for is not held any longer. */
START_TEST(max_prompt_memory_is_given_back) {
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "300ms", "--inference-time", "0", "--max-prompt-memory", "10000",
                     NULL);
        for (size_t i = 0; i < 100; i++) {
                send_prompt(&daemon.control, i, 8000);
                peer_expect_answers(&daemon.control, i, 1, "sim");
        }
        /* Nor one whose request timed out, or failed. */
        daemon_stop(&daemon);
        daemon_start(&daemon, "--load-time", "1h", "--request-timeout", "50ms", "--max-prompt-memory",
                     "10000", NULL);
        for (size_t i = 0; i < 10; i++) {
                send_prompt(&daemon.control, i, 8000);
                peer_expect_error(&daemon.control, (char[]){ (char)('0' + i), '\0' }, "timed-out", NULL);
        }
        daemon_stop(&daemon);
}
END_TEST

/* Many come and go: nothing of them is left. */
START_TEST(nothing_leaks) {
        const struct process_setup setup = { .descriptors = 64 };
        struct peer_status status;
        struct daemon daemon;

        daemon_start_with(&daemon, &setup, (const char *[]){ "--load-time", "1h", NULL });
        for (size_t i = 0; i < 1000; i++) {
                struct peer peer;

                peer_connect(&peer, daemon.socket);
                peer_send(&peer, "REQUEST 1\nREQUEST 2 5\nhello\nWAIT\nREQUEST 3 100\nhalf");
                peer_close(&peer);
        }
        peer_status_until(&daemon.control, &status, peer_status_is_connections, 1, "they are gone");
        ck_assert_uint_eq(status.waiting, 0);
        daemon_stop(&daemon);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_loop_test(tests, few_descriptors, 0, ARRAY_SIZE(thread_counts));
        tcase_add_test(tests, few_descriptors_and_clients_that_stay);
        tcase_add_test(tests, few_descriptors_and_stopping);
        tcase_add_loop_test(tests, max_connections, 0, ARRAY_SIZE(thread_counts));
        tcase_add_test(tests, max_prompt_memory);
        tcase_add_test(tests, max_prompt_memory_is_given_back);
        tcase_add_test(tests, nothing_leaks);
}

int main(void) {
        return suite_main("limits", add);
}
