/*
 * WebSocket: the upgrade goes on to the model, and behind its 101 bytes go both ways until either side ends. The model server
 * is the test itself.
 */

#include <errno.h>
#include <signal.h>
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

#define UPGRADE \
        "GET /v1/realtime?model=any HTTP/1.1\r\nHost: msd\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" \
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: realtime\r\n\r\n"

#define SWITCHING \
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" \
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

/* One side of a tunnel: what came there, and whether it has ended. */
struct side {
        int fd;
        struct text *input;
        bool *ended;
};

static struct side client_side(struct http *http) {
        return (struct side){ http->fd, &http->input, &http->ended };
}

static struct side model_side(const struct raw_request *request) {
        return (struct side){ request->connection->fd, &request->connection->input, &request->connection->ended };
}

static void side_read(struct side side, uint64_t deadline) {
        struct pollfd event = { side.fd, POLLIN, 0 };
        char bytes[65536];
        ssize_t n;

        if (process_poll(&event, 1, deadline) == 0) {
                if (clock_left(deadline) == 0)
                        process_give_up("Waited in vain for bytes through a tunnel; there are %zu", side.input->len);
                return;
        }
        n = recv(side.fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n > 0)
                text_append(side.input, bytes, (size_t)n);
        else
                *side.ended = n == 0 || errno == ECONNRESET;
}

static void side_expect(struct side side, const char *text) {
        uint64_t deadline = clock_patience();

        while (side.input->len < strlen(text)) {
                ck_assert_msg(!*side.ended, "A tunnel ended before: %s", text);
                side_read(side, deadline);
        }
        ck_assert_msg(memcmp(side.input->data, text, strlen(text)) == 0, "Not %s, but: %s", text, side.input->data);
        text_take(side.input, strlen(text));
}

static void side_expect_end(struct side side) {
        uint64_t deadline = clock_patience();

        while (!*side.ended)
                side_read(side, deadline);
        ck_assert_msg(side.input->len == 0, "More came: %.200s", text_get(side.input));
}

/* The client's request to switch has come to the model, and has its fields. */
static void take_upgrade(void) {
        stage_take(&stage);
        ck_assert_str_eq(stage.request.method, "GET");
        ck_assert_str_eq(stage.request.target, "/v1/realtime?model=any");
        ck_assert_str_eq(raw_field(&stage.request, "Upgrade"), "websocket");
        ck_assert_uint_eq(http_count_fields(&stage.request.fields, "Connection"), 1);
        ck_assert_int_eq(strcasecmp(raw_field(&stage.request, "Connection"), "upgrade"), 0);
        ck_assert_str_eq(raw_field(&stage.request, "Sec-WebSocket-Key"), "dGhlIHNhbXBsZSBub25jZQ==");
        ck_assert_str_eq(raw_field(&stage.request, "Sec-WebSocket-Protocol"), "realtime");
}

static void expect_switched(void) {
        ck_assert(http_head(&stage.http));
        ck_assert_uint_eq(stage.http.status, 101);
        ck_assert_int_eq(strcasecmp(http_field(&stage.http, "Connection"), "upgrade"), 0);
        ck_assert_str_eq(http_field(&stage.http, "Upgrade"), "websocket");
        ck_assert_str_eq(http_field(&stage.http, "Sec-WebSocket-Accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        ck_assert_ptr_null(http_field(&stage.http, "Content-Length"));
        ck_assert_ptr_null(http_field(&stage.http, "Transfer-Encoding"));
}

static void open_tunnel(void) {
        http_send(&stage.http, "%s", UPGRADE);
        take_upgrade();
        raw_send(&stage.request, SWITCHING);
        expect_switched();
}

static void send_client(const char *text) {
        http_send_bytes(&stage.http, text, strlen(text));
}

START_TEST(both_ways) {
        stage_start_ready(&stage, OPTIONS());
        /* What the client sends with its request, and the model with its answer, is through the tunnel already. */
        http_send(&stage.http, "%s%s", UPGRADE, "early");
        take_upgrade();
        raw_send(&stage.request, "%s%s", SWITCHING, "welcome");
        expect_switched();
        side_expect(client_side(&stage.http), "welcome");
        side_expect(model_side(&stage.request), "early");
        for (unsigned i = 0; i < 20; i++) {
                send_client("GET /smuggled HTTP/1.1\r\nHost: msd\r\n\r\n");
                side_expect(model_side(&stage.request), "GET /smuggled HTTP/1.1\r\nHost: msd\r\n\r\n");
                raw_send(&stage.request, "HTTP/1.1 200 OK\r\n\r\n");
                side_expect(client_side(&stage.http), "HTTP/1.1 200 OK\r\n\r\n");
        }
        http_close(&stage.http);
        side_expect_end(model_side(&stage.request));
        raw_hang_up(&stage.request);
        daemon_stop(&stage.front.msd);
}
END_TEST

#define LARGE (8u << 20)

/* Large data, both ways at once: each side stops the other, and nothing is lost. */
START_TEST(large) {
        static char block[65536];
        size_t sent[2] = { 0 }, got[2] = { 0 };
        uint64_t before, deadline = clock_patience();

        memset(block, 'x', sizeof(block));
        stage_start_ready(&stage, OPTIONS("--threads", "1"));
        open_tunnel();
        before = stage_memory(&stage.front.msd.process, "VmRSS");
        while (got[0] < LARGE || got[1] < LARGE) {
                int fds[2] = { stage.http.fd, stage.request.connection->fd };
                struct pollfd events[2];

                for (unsigned i = 0; i < 2; i++)
                        events[i] = (struct pollfd){ fds[i], (short)(POLLIN | (sent[i] < LARGE ? POLLOUT : 0)), 0 };
                if (clock_left(deadline) == 0)
                        process_give_up("It stands still at %zu and %zu", got[0], got[1]);
                if (process_poll(events, 2, deadline) == 0)
                        continue;
                for (unsigned i = 0; i < 2; i++) {
                        char bytes[65536];
                        ssize_t n;

                        if (events[i].revents & POLLOUT) {
                                n = send(fds[i], block, MIN(sizeof(block), LARGE - sent[i]), MSG_DONTWAIT | MSG_NOSIGNAL);
                                sent[i] += n > 0 ? (size_t)n : 0;
                        }
                        if (!(events[i].revents & POLLIN))
                                continue;
                        n = recv(fds[i], bytes, sizeof(bytes), MSG_DONTWAIT);
                        ck_assert_msg(n > 0, "A tunnel ended");
                        got[i] += (size_t)n;
                }
        }
        ck_assert_uint_eq(got[0], LARGE);
        ck_assert_uint_eq(got[1], LARGE);
        if (!stage_has_sanitizer(&stage.front.msd.process))
                ck_assert_uint_lt(stage_memory(&stage.front.msd.process, "VmRSS"), before + (4 << 20));
        daemon_stop(&stage.front.msd);
}
END_TEST

/* A side that reads nothing stops the other: msd does not hold what it sends. */
START_TEST(slow_side) {
        static char block[65536];
        const uint64_t most = 64 << 20;
        uint64_t before, sent = 0;

        stage_start_ready(&stage, OPTIONS("--threads", "1"));
        open_tunnel();
        before = stage_memory(&stage.front.msd.process, "VmRSS");
        for (;;) {
                int fd = _i == 0 ? stage.http.fd : stage.request.connection->fd;
                ssize_t n = send(fd, block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n < 0) {
                        ck_assert_int_eq(errno, EAGAIN);
                        process_wait_rest(&stage.front.msd.process);
                        n = send(fd, block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL);
                        if (n < 0)
                                break;
                }
                sent += (uint64_t)n;
                ck_assert_msg(sent < most, "msd takes all that nobody reads");
        }
        if (!stage_has_sanitizer(&stage.front.msd.process))
                ck_assert_uint_lt(stage_memory(&stage.front.msd.process, "VmRSS"), before + (4 << 20));
        daemon_stop(&stage.front.msd);
}
END_TEST

/* A client that has nothing more to say still listens. */
START_TEST(half_closed) {
        stage_start_ready(&stage, OPTIONS());
        open_tunnel();
        send_client("last");
        http_finish(&stage.http);
        side_expect(model_side(&stage.request), "last");
        side_expect_end(model_side(&stage.request));
        raw_send(&stage.request, "still here");
        side_expect(client_side(&stage.http), "still here");
        raw_hang_up(&stage.request);
        side_expect_end(client_side(&stage.http));
        front_wait(&stage.front, peer_status_is_connections, 1, "it is gone");
        daemon_stop(&stage.front.msd);
}
END_TEST

/* The end of either side is the end of the other. */
START_TEST(closed) {
        stage_start_ready(&stage, OPTIONS());
        open_tunnel();
        if (_i == 0) {
                http_close(&stage.http);
                side_expect_end(model_side(&stage.request));
                raw_hang_up(&stage.request);
        } else {
                raw_hang_up(&stage.request);
                side_expect_end(client_side(&stage.http));
                http_close(&stage.http);
        }
        front_wait(&stage.front, peer_status_is_connections, 1, "it is gone");
        front_wait(&stage.front, peer_status_is_processing, 0, "nothing is in flight");
        daemon_stop(&stage.front.msd);
}
END_TEST

/* A model that does not switch answers as ever, and both connections go on. */
START_TEST(refused) {
        stage_start_ready(&stage, OPTIONS("--threads", "1"));
        http_send(&stage.http, "%s", UPGRADE);
        take_upgrade();
        raw_send(&stage.request, "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nno way");
        http_expect(&stage.http, 403, "no way");
        stage_ask(&stage, "GET", "/next");
        ck_assert_ptr_null(raw_field(&stage.request, "Upgrade"));
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        ck_assert_uint_eq(stage.raw.accepted, 1);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* The model may be loading yet. */
START_TEST(waits) {
        stage_start(&stage, OPTIONS("--model", "raw"));
        http_send(&stage.http, "%s%s", UPGRADE, "early");
        front_wait_waiting(&stage.front, 1);
        take_upgrade();
        raw_send(&stage.request, SWITCHING);
        expect_switched();
        side_expect(model_side(&stage.request), "early");
        daemon_stop(&stage.front.msd);
}
END_TEST

/* Tunnels hold no place, however long they stay. */
START_TEST(no_place) {
        struct raw_request tunnel;
        struct http other;

        stage_start_ready(&stage, OPTIONS("--max-inflight", "1"));
        open_tunnel();
        tunnel = stage.request;
        stage.request = (struct raw_request){ 0 };
        http_connect(&other, stage.front.address);
        http_post(&other, "/v1/completions", "{}");
        stage_take(&stage);
        raw_answer(&stage.request, "answer");
        http_expect(&other, 200, "answer");
        raw_send(&tunnel, "hello");
        side_expect(client_side(&stage.http), "hello");
        raw_request_deinit(&tunnel);
        http_close(&other);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* The time-outs of connections that are between requests, or in a head, are not for tunnels. */
START_TEST(stays) {
        stage_start_ready(&stage, OPTIONS("--client-idle-timeout", "200ms", "--head-timeout", "200ms"));
        open_tunnel();
        http_expect_silence(&stage.http, 700 * NSEC_PER_MSEC);
        raw_send(&stage.request, "hello");
        side_expect(client_side(&stage.http), "hello");
        send_client("hello");
        side_expect(model_side(&stage.request), "hello");
        daemon_stop(&stage.front.msd);
}
END_TEST

/* A stop waits for no tunnel; but they go on while something else is in flight. */
START_TEST(stops) {
        struct raw_request tunnel;
        struct http other;

        stage_start_ready(&stage, OPTIONS("--drain-timeout", "1h"));
        open_tunnel();
        if (_i == 0) {
                process_signal(&stage.front.msd.process, SIGTERM);
                side_expect_end(client_side(&stage.http));
                daemon_expect_exit(&stage.front.msd, 0);
                return;
        }
        tunnel = stage.request;
        stage.request = (struct raw_request){ 0 };
        http_connect(&other, stage.front.address);
        http_post(&other, "/v1/completions", "{}");
        stage_take(&stage);
        process_signal(&stage.front.msd.process, SIGTERM);
        front_wait(&stage.front, peer_status_is_stopping, 0, "it stops");
        raw_send(&tunnel, "hello");
        side_expect(client_side(&stage.http), "hello");
        send_client("hello");
        side_expect(model_side(&tunnel), "hello");
        raw_answer(&stage.request, "answer");
        http_expect(&other, 200, "answer");
        side_expect_end(client_side(&stage.http));
        side_expect_end(model_side(&tunnel));
        raw_request_deinit(&tunnel);
        http_close(&other);
        daemon_expect_exit(&stage.front.msd, 0);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, both_ways);
        tcase_add_test(tests, large);
        tcase_add_loop_test(tests, slow_side, 0, 2);
        tcase_add_test(tests, half_closed);
        tcase_add_loop_test(tests, closed, 0, 2);
        tcase_add_test(tests, refused);
        tcase_add_test(tests, waits);
        tcase_add_test(tests, no_place);
        tcase_add_test(tests, stays);
        tcase_add_loop_test(tests, stops, 0, 2);
}

int main(void) {
        return suite_main("http_tunnel", add);
}
