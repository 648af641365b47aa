/*
 * Stopping: what waits hears of it, what is in flight completes, and then msd is gone without a trace.
 */

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/run.h"

/* The ways to ask for it. */
enum way {
        BY_SIGTERM,
        BY_SIGINT,
        BY_COMMAND,
        BY_MSCLI,
        WAY_COUNT
};

static void ask(struct daemon *daemon, enum way way) {
        struct process mscli;
        struct peer peer;

        switch (way) {
        case BY_SIGTERM:
                process_signal(&daemon->process, SIGTERM);
                break;
        case BY_SIGINT:
                process_signal(&daemon->process, SIGINT);
                break;
        case BY_COMMAND:
                peer_connect(&peer, daemon->socket);
                peer_send(&peer, "SHUTDOWN\n");
                peer_expect(&peer, "-", PROTOCOL_STOPPING);
                peer_close(&peer);
                break;
        case BY_MSCLI:
                ck_assert_int_eq(run_mscli(&mscli, daemon->socket, "shutdown", NULL), 0);
                ck_assert_str_eq(text_get(&mscli.errors), "");
                process_free(&mscli);
                break;
        default:
                ck_abort();
        }
}

static void send_two_and_wait(struct peer *peer) {
        struct peer_status status;

        peer_send(peer, "REQUEST 0\nREQUEST 1 5\nhello\n");
        peer_status(peer, &status);
        ck_assert_uint_ge(status.waiting + status.processing, 2);
}

START_TEST(waiting) {
        struct peer peers[10], waiter;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "1h", NULL);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_connect(&peers[i], daemon.socket);
                send_two_and_wait(&peers[i]);
        }
        peer_connect(&waiter, daemon.socket);
        peer_send(&waiter, "WAIT\n");
        peer_send(&daemon.control, "STREAM half 0\n\n");
        peer_status(&daemon.control, &(struct peer_status){ 0 });
        peer_finish(&daemon.control);

        ask(&daemon, (enum way)_i);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_expect_errors(&peers[i], 0, 2, "shutting-down", PROTOCOL_SHUTTING_DOWN_MESSAGE);
                peer_expect_end(&peers[i]);
                peer_close(&peers[i]);
        }
        peer_expect_error(&waiter, "-", "shutting-down", PROTOCOL_SHUTTING_DOWN_MESSAGE);
        peer_expect_end(&waiter);
        peer_close(&waiter);
        peer_expect_error(&daemon.control, "half", "shutting-down", PROTOCOL_SHUTTING_DOWN_MESSAGE);
        peer_expect_end(&daemon.control);

        ck_assert_int_eq(process_wait(&daemon.process), 0);
        ck_assert_str_eq(daemon.process.output.data, "Model loading...\n");
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* What is in flight completes; whoever comes meanwhile, on an old connection or a new one, is refused. */
START_TEST(in_flight) {
        struct peer old, new, streaming;
        struct peer_status status;
        struct peer_reply reply;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "3s", NULL);
        daemon_wait_ready(&daemon);
        peer_connect(&old, daemon.socket);
        peer_connect(&streaming, daemon.socket);
        send_two_and_wait(&old);
        peer_send(&streaming, "STREAM s 0\n\n");
        peer_status_until(&daemon.control, &status, peer_status_is_processing, 3, "three are in flight");

        ask(&daemon, (enum way)_i);
        peer_status_until(&daemon.control, &status, peer_status_is_stopping, 0, "msd is stopping");
        ck_assert_uint_eq(status.processing, 3);
        ck_assert_uint_eq(status.waiting, 0);

        peer_send(&daemon.control, "REQUEST late\nSTREAM later 2\nab\nWAIT\n");
        peer_expect_error(&daemon.control, "late", "shutting-down", PROTOCOL_SHUTTING_DOWN_MESSAGE);
        peer_expect_error(&daemon.control, "later", "shutting-down", PROTOCOL_SHUTTING_DOWN_MESSAGE);
        peer_expect_error(&daemon.control, "-", "shutting-down", PROTOCOL_SHUTTING_DOWN_MESSAGE);
        peer_connect(&new, daemon.socket);
        peer_send(&new, "REQUEST new\n");
        peer_expect_error(&new, "new", "shutting-down", PROTOCOL_SHUTTING_DOWN_MESSAGE);
        peer_status(&new, &status);
        ck_assert_str_eq(status.status, "stopping");
        ck_assert_uint_eq(status.processing, 3);

        peer_expect_answers(&old, 0, 2, "sim");
        peer_expect_end(&old);
        do
                ck_assert(peer_next(&streaming, &reply));
        while (reply.type == PROTOCOL_PART);
        ck_assert_int_eq(reply.type, PROTOCOL_OK);
        peer_expect_end(&streaming);
        peer_expect_end(&new);
        peer_close(&old);
        peer_close(&new);
        peer_close(&streaming);
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* After the answer to SHUTDOWN there is no way past it. */
START_TEST(command_then_request) {
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "1s", NULL);
        daemon_wait_ready(&daemon);
        peer_connect(&peer, daemon.socket);
        peer_send(&peer, "REQUEST 1\n");
        peer_status(&peer, &(struct peer_status){ 0 });
        peer_send(&daemon.control, "SHUTDOWN\n");
        peer_expect(&daemon.control, "-", PROTOCOL_STOPPING);
        peer_send(&daemon.control, "REQUEST 2\n");
        peer_expect_error(&daemon.control, "2", "shutting-down", PROTOCOL_SHUTTING_DOWN_MESSAGE);
        peer_expect(&peer, "1", "Response 1 from sim");
        peer_close(&peer);
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* It can be said twice: it is not a second signal. */
START_TEST(command_twice) {
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "1s", NULL);
        daemon_wait_ready(&daemon);
        peer_connect(&peer, daemon.socket);
        peer_send(&peer, "REQUEST 1\n");
        peer_status(&peer, &(struct peer_status){ 0 });
        for (size_t i = 0; i < 2; i++) {
                peer_send(&daemon.control, "SHUTDOWN\n");
                peer_expect(&daemon.control, "-", PROTOCOL_STOPPING);
        }
        peer_expect(&peer, "1", "Response 1 from sim");
        peer_close(&peer);
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* Nobody is there, or nobody wants anything: it does not take until --drain-timeout. */
START_TEST(idle) {
        struct daemon daemon;
        struct peer peers[20], half;
        uint64_t start;

        daemon_start(&daemon, "--load-time", "0", "--drain-timeout", "1h", NULL);
        daemon_wait_ready(&daemon);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++)
                peer_connect(&peers[i], daemon.socket);
        /* Even amid a command. */
        peer_connect(&half, daemon.socket);
        peer_send(&half, "REQUEST 1 100\nhello");
        peer_status(&daemon.control, &(struct peer_status){ 0 });

        start = clock_now();
        ask(&daemon, (enum way)_i);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_expect_end(&peers[i]);
                peer_close(&peers[i]);
        }
        daemon_expect_exit(&daemon, 0);
        ck_assert_uint_lt(clock_now() - start, CLOCK_PATIENCE);
        peer_close(&half);
}
END_TEST

START_TEST(while_failed) {
        struct peer_status status;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "0", "--load-failure", "broken", "--on-load-failure", "stay",
                     NULL);
        peer_status_until(&daemon.control, &status, peer_status_is_failed, 0, "loading has failed");
        ask(&daemon, (enum way)_i);
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* All that wait are told, though no socket holds it all at once. */
START_TEST(ten_thousand_waiting) {
        struct peer_status status;
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "1h", NULL);
        peer_connect(&peer, daemon.socket);
        peer_send_requests(&peer, 0, 10000);
        peer_status(&peer, &status);
        ck_assert_uint_eq(status.waiting, 10000);
        process_signal(&daemon.process, SIGTERM);
        peer_expect_errors(&peer, 0, 10000, "shutting-down", PROTOCOL_SHUTTING_DOWN_MESSAGE);
        peer_expect_end(&peer);
        peer_close(&peer);
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* A client that does not read its answers is waited for no longer than that. */
START_TEST(drain_with_a_client_that_does_not_read) {
        struct peer_status status;
        struct daemon daemon;
        struct peer deaf;

        daemon_start(&daemon, "--load-time", "1h", "--drain-timeout", "500ms", NULL);
        peer_connect(&deaf, daemon.socket);
        peer_send_requests(&deaf, 0, 50000);
        peer_status(&deaf, &status);
        ck_assert_uint_eq(status.waiting, 50000);
        process_signal(&daemon.process, SIGTERM);
        daemon_expect_exit(&daemon, 0);
        peer_close(&deaf);
}
END_TEST

/* What is still in flight when the time is over is answered too. */
START_TEST(drain_timeout) {
        static const struct {
                const char *text;
                uint64_t nsec;
        } times[] = { { "0", 0 }, { "500ms", 500 * NSEC_PER_MSEC } };
        struct peer_status status;
        struct daemon daemon;
        uint64_t start;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "1h", "--drain-timeout", times[_i].text,
                     NULL);
        daemon_wait_ready(&daemon);
        peer_send_requests(&daemon.control, 0, 10);
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.processing, 10);
        start = clock_now();
        process_signal(&daemon.process, SIGTERM);
        peer_expect_errors(&daemon.control, 0, 10, "shutting-down", PROTOCOL_SHUTTING_DOWN_MESSAGE);
        peer_expect_end(&daemon.control);
        ck_assert_uint_ge(clock_now() - start, times[_i].nsec);
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* A second signal ends it at once, whichever the two are. */
START_TEST(second_signal) {
        static const int signals[][2] = {
                { SIGTERM, SIGTERM },
                { SIGTERM, SIGINT },
                { SIGINT, SIGTERM },
                { SIGINT, SIGINT },
        };
        struct peer_status status;
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "1h", "--drain-timeout", "1h", NULL);
        daemon_wait_ready(&daemon);
        peer_connect(&peer, daemon.socket);
        peer_send_requests(&peer, 0, 10);
        peer_status(&peer, &status);
        ck_assert_uint_eq(status.processing, 10);
        process_signal(&daemon.process, signals[_i][0]);
        peer_status_until(&daemon.control, &status, peer_status_is_stopping, 0, "msd is stopping");
        process_signal(&daemon.process, signals[_i][1]);
        daemon_expect_exit(&daemon, 1);
        peer_close(&peer);
}
END_TEST

/* The load is given up, and neither ready nor failed. */
START_TEST(while_loading) {
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "1h", "--load-failure", "never said", NULL);
        process_wait_output(&daemon.process, "Model loading...\n");
        process_signal(&daemon.process, SIGTERM);
        ck_assert_int_eq(process_wait(&daemon.process), 0);
        ck_assert_str_eq(daemon.process.output.data, "Model loading...\n");
        ck_assert_ptr_null(strstr(text_get(&daemon.process.errors), "never said"));
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* mscli says what the server says. */
START_TEST(mscli_is_refused) {
        struct process mscli;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "1h", NULL);
        run_start(&mscli, daemon.socket, NULL, (const char *[]){ "request", "7", NULL });
        peer_status_until(&daemon.control, &(struct peer_status){ 0 }, peer_status_is_waiting, 1,
                          "mscli waits");
        process_signal(&daemon.process, SIGTERM);
        ck_assert_int_eq(process_wait(&mscli), 1);
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.errors), PROTOCOL_SHUTTING_DOWN_MESSAGE));
        process_free(&mscli);
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* Whoever comes at that moment hears of it, or finds the connection ended, but never stands there. */
START_TEST(clients_at_that_moment) {
        struct daemon daemon;
        struct peer peers[50];

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "0", NULL);
        daemon_wait_ready(&daemon);
        process_signal(&daemon.process, SIGTERM);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                struct peer_reply reply;

                if (peer_try_connect(&peers[i], daemon.socket) < 0)
                        continue;
                if (send(peers[i].fd, "REQUEST 1\n", 10, MSG_NOSIGNAL) == 10 &&
                    peer_next(&peers[i], &reply) &&
                    reply.type == PROTOCOL_ERR)
                        ck_assert_str_eq(reply.code, "shutting-down");
                peer_close(&peers[i]);
        }
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* A client that never reads its replies is not waited for as long as requests in flight are. */
START_TEST(never_reader) {
        struct daemon daemon;
        struct peer deaf;
        uint64_t begin;

        daemon_start(&daemon, "--load-time", "0", "--drain-timeout", "1h", NULL);
        daemon_wait_ready(&daemon);
        peer_connect(&deaf, daemon.socket);
        for (unsigned i = 0; i < 20; i++) {
                char commands[7 * 512];

                for (unsigned j = 0; j < 512; j++)
                        memcpy(commands + 7 * j, "STATUS\n", 7);
                /* As much as is taken: then msd has stopped reading. */
                if (send(deaf.fd, commands, sizeof(commands), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                        break;
        }
        process_wait_rest(&daemon.process);
        begin = clock_now();
        process_signal(&daemon.process, SIGTERM);
        daemon_expect_exit(&daemon, 0);
        ck_assert_uint_lt(clock_now() - begin, CLOCK_PATIENCE);
        peer_close(&deaf);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_loop_test(tests, waiting, 0, WAY_COUNT);
        tcase_add_loop_test(tests, in_flight, 0, WAY_COUNT);
        tcase_add_test(tests, command_then_request);
        tcase_add_test(tests, command_twice);
        tcase_add_loop_test(tests, idle, 0, WAY_COUNT);
        tcase_add_loop_test(tests, while_failed, 0, WAY_COUNT);
        tcase_add_test(tests, ten_thousand_waiting);
        tcase_add_test(tests, drain_with_a_client_that_does_not_read);
        tcase_add_loop_test(tests, drain_timeout, 0, 2);
        tcase_add_loop_test(tests, second_signal, 0, 4);
        tcase_add_test(tests, while_loading);
        tcase_add_test(tests, mscli_is_refused);
        tcase_add_test(tests, clients_at_that_moment);
        tcase_add_test(tests, never_reader);
}

int main(void) {
        return suite_main("stopping", add);
}
