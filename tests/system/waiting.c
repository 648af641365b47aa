/*
 * What waits costs nothing, and goes with its client. Clients of every kind, and the status while they wait.
 */

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/run.h"

/* Lets `nsec` go by: nothing is expected of `peer`. */
static void expect_silence(struct peer *peer, uint64_t nsec) {
        uint64_t until = clock_now() + nsec;
        struct peer_reply reply;

        if (peer_next_until(peer, &reply, until))
                ck_abort_msg("A reply out of nowhere: %s %s %s", reply.id, reply.code, reply.body);
        ck_assert(!peer->ended);
}

START_TEST(no_wakeups) {
        struct peer peers[100];
        struct peer_status status;
        struct daemon daemon;
        uint64_t before, after, deadline;

        daemon_start(&daemon, "--load-time", "1h", NULL);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_connect(&peers[i], daemon.socket);
                peer_send_requests(&peers[i], i * 10, 10);
                peer_status(&peers[i], &status);
        }
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.waiting, 1000);
        if (process_has_tsan(&daemon.process)) {
                suite_skip("no_wakeups", "the thread sanitizer has a thread of its own that wakes up");
                daemon_stop(&daemon);
                return;
        }

        /* Until the last thread has gone to sleep. */
        deadline = clock_patience();
        do {
                ck_assert_msg(clock_now() < deadline, "msd never comes to rest");
                before = process_switches(&daemon.process);
                expect_silence(&peers[0], 100 * NSEC_PER_MSEC);
                after = process_switches(&daemon.process);
        } while (after != before);

        expect_silence(&peers[0], NSEC_PER_SEC);
        ck_assert_uint_eq(process_switches(&daemon.process), before);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++)
                peer_close(&peers[i]);
        daemon_stop(&daemon);
}
END_TEST

/* No inference starts for what it had waiting, and what others have waiting stays. */
START_TEST(vanished_client) {
        struct peer_status status;
        struct daemon daemon;
        struct peer vanishing;

        daemon_start(&daemon, "--load-time", "3s", "--inference-time", "0", NULL);
        peer_connect(&vanishing, daemon.socket);
        peer_send(&vanishing, "REQUEST gone1\nREQUEST gone2 5\nhello\nSTREAM gone3 5\nhello\n");
        peer_status(&vanishing, &status);
        ck_assert_uint_eq(status.waiting, 3);
        peer_send(&daemon.control, "REQUEST stays\n");
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.waiting, 4);

        peer_close(&vanishing);
        peer_status_until(&daemon.control, &status, peer_status_is_connections, 1, "the client is gone");
        ck_assert_str_eq(status.status, "loading");
        ck_assert_uint_eq(status.waiting, 1);
        ck_assert_uint_eq(status.cancelled, 3);

        peer_expect(&daemon.control, "stays", "Response stays from sim");
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.completed, 1);
        ck_assert_uint_eq(status.cancelled, 3);
        process_signal(&daemon.process, SIGTERM);
        ck_assert_int_eq(process_wait(&daemon.process), 0);
        ck_assert_str_eq(daemon.process.output.data,
                         "Model loading...\nModel ready!\nProcessing request stays\n");
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* A load belongs to the daemon: it neither needs a client nor ends with one. */
START_TEST(load_without_clients) {
        struct peer_status status;
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "700ms", NULL);
        peer_connect(&peer, daemon.socket);
        peer_send(&peer, "REQUEST 1\nWAIT\n");
        peer_status(&peer, &status);
        ck_assert_uint_eq(status.generation, 1);
        peer_close(&peer);
        peer_close(&daemon.control);
        daemon_wait_ready(&daemon);
        peer_connect(&daemon.control, daemon.socket);
        peer_status(&daemon.control, &status);
        ck_assert_str_eq(status.status, "ready");
        ck_assert_uint_eq(status.generation, 1);
        ck_assert_uint_eq(status.attempt, 1);
        daemon_stop(&daemon);
}
END_TEST

/* With the model it is the same: nobody else is disturbed. */
START_TEST(client_vanishes_in_flight) {
        struct peer_status status;
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "1s", NULL);
        daemon_wait_ready(&daemon);
        peer_connect(&peer, daemon.socket);
        peer_send_requests(&peer, 0, 500);
        peer_status(&peer, &status);
        peer_send_requests(&daemon.control, 1000, 2);
        peer_close(&peer);
        peer_expect_answers(&daemon.control, 1000, 2, "sim");
        peer_status_until(&daemon.control, &status, peer_status_is_processing, 0, "nothing is in flight");
        daemon_stop(&daemon);
}
END_TEST

START_TEST(half_closed) {
        struct daemon daemon;
        struct peer one, many, waiter, none;
        struct peer_reply reply;

        daemon_start(&daemon, "--load-time", "700ms", "--inference-time", "50ms", "--quiet", NULL);
        peer_connect(&one, daemon.socket);
        peer_send(&one, "REQUEST 7\n");
        peer_finish(&one);
        peer_connect(&many, daemon.socket);
        peer_send_requests(&many, 0, 5000);
        peer_finish(&many);
        peer_connect(&waiter, daemon.socket);
        peer_send(&waiter, "WAIT\n");
        peer_finish(&waiter);
        peer_connect(&none, daemon.socket);
        peer_finish(&none);

        peer_expect_end(&none);
        peer_expect(&one, "7", "Response 7 from sim");
        peer_expect_end(&one);
        peer_expect_answers(&many, 0, 5000, "sim");
        peer_expect_end(&many);
        peer_expect(&waiter, "-", PROTOCOL_READY);
        peer_expect_end(&waiter);
        peer_close(&one);
        peer_close(&many);
        peer_close(&waiter);
        peer_close(&none);

        /* And at a ready model. */
        peer_connect(&one, daemon.socket);
        peer_send(&one, "REQUEST 8\nREQUEST 9 2\nab\n");
        peer_finish(&one);
        peer_expect_answers(&one, 8, 2, "sim");
        peer_expect_end(&one);
        peer_close(&one);

        peer_connect(&one, daemon.socket);
        peer_send(&one, "STATUS\n");
        peer_finish(&one);
        ck_assert(peer_next(&one, &reply));
        ck_assert_int_eq(reply.type, PROTOCOL_OK);
        peer_expect_end(&one);
        peer_close(&one);
        daemon_stop(&daemon);
}
END_TEST

/* A half-closed client that then goes altogether takes its waiting with it. */
START_TEST(half_closed_vanishes) {
        struct peer_status status;
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "1h", NULL);
        peer_connect(&peer, daemon.socket);
        peer_send_requests(&peer, 0, 3);
        peer_finish(&peer);
        peer_status_until(&daemon.control, &status, peer_status_is_waiting, 3, "three requests wait");
        peer_close(&peer);
        peer_status_until(&daemon.control, &status, peer_status_is_connections, 1, "the client is gone");
        ck_assert_uint_eq(status.cancelled, 3);
        ck_assert_uint_eq(status.waiting, 0);
        daemon_stop(&daemon);
}
END_TEST

/* A half-closed connection that waits is no reason to spin. */
START_TEST(half_closed_rests) {
        struct peer_status status;
        struct daemon daemon;
        struct peer peer;
        uint64_t before;

        daemon_start(&daemon, "--load-time", "1h", NULL);
        peer_connect(&peer, daemon.socket);
        peer_send_requests(&peer, 0, 3);
        peer_finish(&peer);
        peer_status_until(&daemon.control, &status, peer_status_is_waiting, 3, "three requests wait");
        before = process_cpu(&daemon.process);
        expect_silence(&peer, 500 * NSEC_PER_MSEC);
        ck_assert_uint_lt(process_cpu(&daemon.process) - before, 100 * NSEC_PER_MSEC);
        peer_close(&peer);
        daemon_stop(&daemon);
}
END_TEST

/* The last command needs its LF: without it there is none, which its client hears. */
START_TEST(unfinished_line) {
        struct peer_status status;
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "0", NULL);
        daemon_wait_ready(&daemon);
        peer_connect(&peer, daemon.socket);
        peer_send(&peer, "REQUEST 7");
        peer_finish(&peer);
        peer_expect_error(&peer, "-", "bad-request", NULL);
        peer_expect_end(&peer);
        peer_close(&peer);
        peer_connect(&peer, daemon.socket);
        peer_send(&peer, "REQUEST 7 10\nhello");
        peer_finish(&peer);
        peer_expect_error(&peer, "-", "bad-request", NULL);
        peer_expect_end(&peer);
        peer_close(&peer);
        peer_status_until(&daemon.control, &status, peer_status_is_connections, 1, "they are gone");
        ck_assert_uint_eq(status.completed + status.processing + status.waiting, 0);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(pipelined) {
        struct peer peers[20];
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "1s", "--inference-time", "20ms", "--quiet", NULL);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_connect(&peers[i], daemon.socket);
                peer_send_requests(&peers[i], i * 10000, 2000);
        }
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++)
                peer_expect_answers(&peers[i], i * 10000, 2000, "sim");
        /* And once more, at a ready model. */
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++)
                peer_send_requests(&peers[i], i * 10000, 2000);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_expect_answers(&peers[i], i * 10000, 2000, "sim");
                peer_close(&peers[i]);
        }
        daemon_stop(&daemon);
}
END_TEST

/* The bytes of a request that follows the others, from any byte of the stream on. */
static void append_request(struct text *text, size_t number) {
        text_appendf(text, "REQUEST %09zu\n", number);
}

#define REQUEST_BYTES (sizeof("REQUEST 000000000\n") - 1)
#define NEVER_MORE (UINT64_C(64) << 20)

/* Sends requests and reads nothing, until nobody takes them any more. Returns how many went out whole. */
static size_t send_without_reading(struct peer *peer, size_t *tail) {
        struct text text = TEXT_NULL;
        size_t sent = 0, next = 0, whole;

        for (;;) {
                struct pollfd event = { peer->fd, POLLOUT, 0 };
                ssize_t n;

                while (text.len < 65536)
                        append_request(&text, next++);
                n = send(peer->fd, text.data, text.len, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (n > 0) {
                        text_take(&text, (size_t)n);
                        sent += (size_t)n;
                        ck_assert_msg(sent < NEVER_MORE,
                                      "msd reads on and on from a client that does not read");
                        continue;
                }
                ck_assert_int_eq(errno, EAGAIN);
                for (uint64_t until = clock_now() + NSEC_PER_SEC; clock_left(until) > 0;)
                        if (process_poll(&event, 1, until) > 0)
                                break;
                if (!event.revents)
                        break;
        }
        whole = sent / REQUEST_BYTES;
        *tail = REQUEST_BYTES - sent % REQUEST_BYTES;
        text_deinit(&text);
        return whole;
}

START_TEST(client_that_does_not_read) {
        struct text rest = TEXT_NULL;
        struct daemon daemon;
        struct peer deaf, peer;
        size_t whole, tail;
        uint64_t before;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "0", "--quiet", NULL);
        daemon_wait_ready(&daemon);
        peer_connect(&deaf, daemon.socket);
        whole = send_without_reading(&deaf, &tail);
        ck_assert_uint_gt(whole, 0);

        /* It costs nobody else anything, ... */
        for (size_t i = 0; i < 20; i++) {
                peer_connect(&peer, daemon.socket);
                peer_send_requests(&peer, 1, 100);
                peer_expect_answers(&peer, 1, 100, "sim");
                peer_close(&peer);
        }
        before = process_cpu(&daemon.process);
        expect_silence(&daemon.control, 500 * NSEC_PER_MSEC);
        ck_assert_uint_lt(process_cpu(&daemon.process) - before, 100 * NSEC_PER_MSEC);

        /* ... and gets every answer when it reads again. */
        append_request(&rest, whole);
        peer_send_bytes(&deaf, rest.data + (REQUEST_BYTES - tail), tail);
        text_deinit(&rest);
        peer_finish(&deaf);
        for (size_t i = 0; i <= whole; i++) {
                struct peer_reply reply;

                ck_assert(peer_next(&deaf, &reply));
                ck_assert_int_eq(reply.type, PROTOCOL_OK);
        }
        peer_expect_end(&deaf);
        peer_close(&deaf);
        daemon_stop(&daemon);
}
END_TEST

/* Whoever asks for nothing but the status does not fill the memory either. */
START_TEST(status_that_nobody_reads) {
        static char commands[7 * 8192];
        struct daemon daemon;
        struct peer deaf;
        uint64_t sent = 0;

        for (size_t i = 0; i < sizeof(commands); i += 7)
                memcpy(commands + i, "STATUS\n", 7);

        daemon_start(&daemon, "--load-time", "1h", NULL);
        peer_connect(&deaf, daemon.socket);
        for (;;) {
                struct pollfd event = { deaf.fd, POLLOUT, 0 };
                ssize_t n = send(deaf.fd, commands, sizeof(commands), MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n > 0) {
                        sent += (uint64_t)n;
                        ck_assert_msg(sent < NEVER_MORE,
                                      "msd reads on and on from a client that does not read");
                        continue;
                }
                ck_assert_int_eq(errno, EAGAIN);
                for (uint64_t until = clock_now() + NSEC_PER_SEC; clock_left(until) > 0;)
                        if (process_poll(&event, 1, until) > 0)
                                break;
                if (!event.revents)
                        break;
        }
        peer_status(&daemon.control, &(struct peer_status){ 0 });
        peer_close(&deaf);
        peer_status_until(&daemon.control, &(struct peer_status){ 0 }, peer_status_is_connections, 1,
                          "it is gone");
        daemon_stop(&daemon);
}
END_TEST

/* One that sent its thousands before the release and reads nothing holds nobody up. */
START_TEST(release_beside_a_client_that_does_not_read) {
        struct daemon daemon;
        struct peer deaf;

        daemon_start(&daemon, "--load-time", "1s", "--inference-time", "0", "--quiet", "--threads", "1",
                     NULL);
        peer_connect(&deaf, daemon.socket);
        peer_send_requests(&deaf, 0, 30000);
        peer_send_requests(&daemon.control, 0, 100);
        peer_expect_answers(&daemon.control, 0, 100, "sim");
        peer_expect_answers(&deaf, 0, 30000, "sim");
        peer_close(&deaf);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(status_while_loading) {
        struct peer_status status;
        struct daemon daemon;
        struct peer peer;
        double wait;

        daemon_start(&daemon, "--load-time", "1h", NULL);
        peer_status(&daemon.control, &status);
        ck_assert_str_eq(status.status, "loading");
        ck_assert_str_eq(status.model, "");
        ck_assert_str_eq(status.error, "");
        ck_assert_uint_eq(status.generation, 1);
        ck_assert_uint_eq(status.attempt, 1);
        ck_assert_uint_eq(status.waiting, 0);
        ck_assert(status.oldest_wait == 0);
        ck_assert_uint_eq(status.processing + status.completed + status.failed + status.cancelled, 0);
        ck_assert_uint_eq(status.connections, 1);
        ck_assert_uint_eq(status.pid, (uint64_t)daemon.process.pid);
        ck_assert(status.version[0] != '\0');

        peer_connect(&peer, daemon.socket);
        peer_send_requests(&peer, 0, 5);
        peer_status(&peer, &status);
        ck_assert_uint_eq(status.waiting, 5);
        ck_assert_uint_eq(status.connections, 2);
        expect_silence(&peer, 50 * NSEC_PER_MSEC);
        peer_status(&daemon.control, &status);
        wait = status.oldest_wait;
        ck_assert(wait >= 0.05);
        ck_assert(status.load >= wait);
        ck_assert(status.uptime >= status.load);
        ck_assert(status.uptime < 3600);
        expect_silence(&peer, 20 * NSEC_PER_MSEC);
        peer_status(&daemon.control, &status);
        ck_assert(status.oldest_wait >= wait + 0.019);
        peer_close(&peer);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(status_when_ready) {
        struct peer_status status, later;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "300ms", "--inference-time", "700ms", NULL);
        daemon_wait_ready(&daemon);
        peer_status(&daemon.control, &status);
        ck_assert_str_eq(status.status, "ready");
        ck_assert_str_eq(status.model, "sim");
        ck_assert_str_eq(status.error, "");
        ck_assert(status.load >= 0.299);
        ck_assert(status.uptime >= status.load);

        peer_send(&daemon.control, "REQUEST 1\nREQUEST 2\n");
        peer_status(&daemon.control, &later);
        ck_assert_uint_eq(later.processing, 2);
        ck_assert_uint_eq(later.waiting, 0);
        ck_assert_uint_eq(later.completed, 0);
        ck_assert(later.load == status.load);
        peer_expect_answers(&daemon.control, 1, 2, "sim");
        peer_status(&daemon.control, &later);
        ck_assert_uint_eq(later.processing, 0);
        ck_assert_uint_eq(later.completed, 2);
        daemon_stop(&daemon);
}
END_TEST

/* However many wait. */
START_TEST(status_beside_many) {
        struct peer_status status;
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "1h", "--quiet", NULL);
        peer_connect(&peer, daemon.socket);
        peer_send_requests(&peer, 0, 100000);
        peer_status(&peer, &status);
        ck_assert_uint_eq(status.waiting, 100000);
        for (size_t i = 0; i < 100; i++) {
                peer_status(&daemon.control, &status);
                ck_assert_uint_eq(status.waiting, 100000);
        }
        peer_close(&peer);
        peer_status_until(&daemon.control, &status, peer_status_is_connections, 1, "the client is gone");
        ck_assert_uint_eq(status.waiting, 0);
        ck_assert_uint_eq(status.cancelled, 100000);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(wait_until_ready) {
        struct peer_status status;
        struct daemon daemon;
        struct process mscli;
        struct peer peers[10];

        daemon_start(&daemon, "--load-time", "1s", "--inference-time", "0", NULL);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_connect(&peers[i], daemon.socket);
                peer_send(&peers[i], "WAIT\nWAIT\n");
        }
        peer_status(&daemon.control, &status);
        ck_assert_str_eq(status.status, "loading");
        expect_silence(&peers[0], 100 * NSEC_PER_MSEC);
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "wait", NULL), 0);
        process_free(&mscli);
        peer_status(&daemon.control, &status);
        ck_assert_str_eq(status.status, "ready");
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_expect(&peers[i], "-", PROTOCOL_READY);
                peer_expect(&peers[i], "-", PROTOCOL_READY);
                peer_close(&peers[i]);
        }
        peer_send(&daemon.control, "WAIT\n");
        peer_expect(&daemon.control, "-", PROTOCOL_READY);
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "wait", NULL), 0);
        process_free(&mscli);
        daemon_stop(&daemon);
}
END_TEST

/* Waiters that go leave nothing behind for the gate to find. */
START_TEST(waiters_vanish) {
        struct peer_status status;
        struct daemon daemon;
        struct peer peers[20];

        daemon_start(&daemon, "--load-time", "2s", "--inference-time", "0", NULL);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_connect(&peers[i], daemon.socket);
                peer_send(&peers[i], "WAIT\nREQUEST 1\nWAIT\n");
                peer_status(&peers[i], &status);
                ck_assert_str_eq(status.status, "loading");
        }
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++)
                peer_close(&peers[i]);
        peer_status_until(&daemon.control, &status, peer_status_is_connections, 1, "they are gone");
        daemon_wait_ready(&daemon);
        peer_send(&daemon.control, "WAIT\nREQUEST 2\n");
        peer_expect(&daemon.control, "-", PROTOCOL_READY);
        peer_expect(&daemon.control, "2", "Response 2 from sim");
        daemon_stop(&daemon);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_test(tests, no_wakeups);
        tcase_add_test(tests, vanished_client);
        tcase_add_test(tests, load_without_clients);
        tcase_add_test(tests, client_vanishes_in_flight);
        tcase_add_test(tests, half_closed);
        tcase_add_test(tests, half_closed_vanishes);
        tcase_add_test(tests, half_closed_rests);
        tcase_add_test(tests, unfinished_line);
        tcase_add_test(tests, pipelined);
        tcase_add_test(tests, client_that_does_not_read);
        tcase_add_test(tests, status_that_nobody_reads);
        tcase_add_test(tests, release_beside_a_client_that_does_not_read);
        tcase_add_test(tests, status_while_loading);
        tcase_add_test(tests, status_when_ready);
        tcase_add_test(tests, status_beside_many);
        tcase_add_test(tests, wait_until_ready);
        tcase_add_test(tests, waiters_vanish);
}

int main(void) {
        return suite_main("waiting", add);
}
