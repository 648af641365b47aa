/*
 * Output that a client does not read is bounded on both fronts: msd stops reading instead, and the client gets everything when
 * it reads again. An answer that is larger than msd may hold is an error of that request alone.
 */

#include <errno.h>
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

/* Sends as much as msd takes from a client that does not read. Returns how much that was. */
static size_t send_deaf(int fd, const char *data, size_t len) {
        size_t sent = 0;

        while (sent < len) {
                ssize_t n = send(fd, data + sent, MIN(len - sent, (size_t)16384), MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n > 0) {
                        sent += (size_t)n;
                        continue;
                }
                ck_assert_int_eq(errno, EAGAIN);
                /* When it rests, and the socket is still full, it has stopped reading. */
                process_wait_rest(&stage.front.msd.process);
                n = send(fd, data + sent, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (n < 0)
                        break;
                sent++;
        }
        process_wait_rest(&stage.front.msd.process);
        return sent;
}

static void expect_growth(uint64_t before, uint64_t limit) {
        uint64_t after;

        if (stage_has_sanitizer(&stage.front.msd.process))
                return;
        after = stage_memory(&stage.front.msd.process, "VmRSS");
        ck_assert_msg(after < before + limit, "It needs %lu bytes more", after - before);
}

/* Bare newlines, each of which is answered with an error that is many times as long. */
START_TEST(newlines) {
        static char lines[200000];
        struct peer_status status;
        struct peer peer;
        uint64_t before;
        size_t sent;

        memset(lines, '\n', sizeof(lines));
        front_start_ready(&stage.front, OPTIONS("--load-time", "0", "--threads", "1"));
        peer_connect(&peer, stage.front.msd.socket);
        peer_send(&peer, "\n");
        peer_expect_error(&peer, "-", "bad-request", NULL);
        before = stage_memory(&stage.front.msd.process, "VmRSS");
        sent = send_deaf(peer.fd, lines, sizeof(lines));
        expect_growth(before, 1 << 20);
        /* It costs no other client anything. */
        peer_status(&stage.front.msd.control, &status);
        peer_send_bytes(&peer, lines, sizeof(lines) - sent);
        for (size_t i = 0; i < sizeof(lines); i++) {
                struct peer_reply reply;

                if (!peer_next(&peer, &reply) || strcmp(reply.code, "bad-request") != 0)
                        process_give_up("There are %zu replies alone", i);
        }
        peer_send(&peer, "REQUEST 1\n");
        peer_expect(&peer, "1", "Response 1 from sim");
        peer_close(&peer);
        daemon_stop(&stage.front.msd);
}
END_TEST

#define PIPELINED 20000
#define ASKED "GET /-/status HTTP/1.1\r\nHost: msd\r\n\r\n"

START_TEST(pipelined_status) {
        struct text text = TEXT_NULL;
        struct http other;
        uint64_t before;
        size_t sent;

        for (unsigned i = 0; i < PIPELINED; i++)
                text_appendf(&text, ASKED);
        front_start_ready(&stage.front, OPTIONS("--load-time", "0", "--threads", "1"));
        front_ask(&stage.front, &stage.http, "GET", "/-/status");
        http_expect(&stage.http, 200, NULL);
        before = stage_memory(&stage.front.msd.process, "VmRSS");
        sent = send_deaf(stage.http.fd, text.data, text.len);
        ck_assert_msg(sent < text.len, "msd reads on and on from a client that does not read");
        expect_growth(before, 1 << 20);
        front_ask(&stage.front, &other, "GET", "/-/live");
        http_expect(&other, 200, "ok\n");
        http_close(&other);
        for (unsigned i = 0; i < PIPELINED; i++) {
                /* What was not sent yet goes on as msd takes it. */
                if (sent < text.len) {
                        ssize_t n = send(stage.http.fd, text.data + sent, text.len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

                        ck_assert(n > 0 || errno == EAGAIN);
                        sent += n > 0 ? (size_t)n : 0;
                }
                http_expect(&stage.http, 200, NULL);
        }
        http_expect_silence(&stage.http, 20 * NSEC_PER_MSEC);
        text_deinit(&text);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* The request socket holds an answer until it is whole: one that is too long is no sign that the model is lost. */
START_TEST(answer_too_large) {
        static char block[1 << 20];
        const uint64_t length = UINT64_C(65) << 20;
        struct peer_status status;
        struct peer_reply reply;
        uint64_t sent = 0;

        memset(block, 'a', sizeof(block));
        stage_start_ready(&stage, OPTIONS());
        peer_send(&stage.front.msd.control, "REQUEST 1 2\nhi\n");
        stage_take(&stage);
        raw_send(&stage.request, "HTTP/1.1 200 OK\r\nContent-Length: %lu\r\n\r\n{\"choices\":[{\"text\":\"", length);
        while (sent < length - 22) {
                size_t n = MIN(length - 22 - sent, sizeof(block));

                /* msd may close as soon as it is too much. */
                if (raw_offer(&stage.request, block, n, CLOCK_PATIENCE) < n)
                        break;
                sent += n;
        }
        (void)raw_offer(&stage.request, "\"}", 2, 0);
        ck_assert(!raw_take_until(&stage.raw, &stage.request, stage.front.msd.control.fd, clock_patience()));
        ck_assert(peer_next(&stage.front.msd.control, &reply));
        ck_assert_str_eq(reply.code, "inference-failed");
        ck_assert_msg(strstr(reply.body, "limit"), "%s", reply.body);
        /* The model is as it was. */
        peer_send(&stage.front.msd.control, "REQUEST 2 2\nhi\n");
        stage_take(&stage);
        raw_answer(&stage.request, "{\"choices\":[{\"text\":\"here\"}]}");
        peer_expect(&stage.front.msd.control, "2", "here");
        peer_status(&stage.front.msd.control, &status);
        ck_assert_uint_eq(status.generation, 1);
        ck_assert_str_eq(status.status, "ready");
        ck_assert_ptr_null(strstr(text_get(&stage.front.msd.process.errors), "lost"));
        daemon_stop(&stage.front.msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, newlines);
        tcase_add_test(tests, pipelined_status);
        tcase_add_test(tests, answer_too_large);
}

int main(void) {
        return suite_main("output", add);
}
