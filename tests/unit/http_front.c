#include "tests/unit/front/world.h"

#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/number.h"
#include "daemon/front/http_connection.h"

START_TEST(own_path) {
        int fd;

        begin();
        fd = connect_client();
        say(fd, "GET /-/live HTTP/1.1\r\n" HOST "\r\n");
        ck_assert_str_eq(heard(fd), "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n\r\n"
                                    "ok\n");
        say(fd, "HEAD /-/live HTTP/1.1\r\n" HOST "\r\nGET /-/live HTTP/1.0\r\n\r\n");
        ck_assert_str_eq(heard(fd), "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n\r\n"
                                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n"
                                    "Connection: close\r\n\r\nok\n");
        ck_assert(is_closed(fd));
        ck_assert_uint_eq(ended, 1);
        ck_assert_uint_gt(flushed, 0);
        close(fd);
}
END_TEST

/* A body that an own path does not want, in pieces, and the request behind it. */
START_TEST(own_path_with_body) {
        int fd;

        begin();
        fd = connect_client();
        say(fd, "POST /-/live HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\nab");
        ck_assert_str_eq(heard(fd), "");
        say(fd, "cdGET /-/wait HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\r\nx");
        expect_status(fd, 405);
        say(fd, "\r\n0\r\n\r\n");
        ck_assert_str_eq(heard(fd), "");
        ck_assert_int_eq(gate_open(&generation->gate), 0);
        ck_assert_str_eq(heard(fd), "HTTP/1.1 204 No Content\r\n\r\n");
        close(fd);
}
END_TEST

/* However it is cut, it comes to the model as one request with this body. */
static const char *const bodies[] = {
        POST("Content-Length: 5\r\n", "hello"),
        POST("Transfer-Encoding: chunked\r\n", "2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: 1\r\n\r\n"),
};

START_TEST(cuts) {
        const char *text = bodies[_i];
        const size_t len = strlen(text);

        begin_ready();
        for (size_t step = 1; step <= len; step += step < 8 ? 1 : 13) {
                int fd = connect_client();

                for (size_t at = 0; at < len; at += step) {
                        ck_assert_uint_eq(model_state.count, 0);
                        ck_assert_int_gt(send(fd, text + at, MIN(step, len - at), 0), 0);
                        turn();
                }
                ck_assert_uint_eq(model_state.count, 1);
                ck_assert_uint_eq(asked()->body_len, 5);
                ck_assert_int_eq(memcmp(asked()->body, "hello", 5), 0);
                ck_assert_int_eq(memcmp(asked()->head, text, asked()->request->len), 0);
                ck_assert_uint_eq(atomic_load(&limits.prompt_memory), asked()->request->len + 5);
                answer_head("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
                answer_part("ok");
                answer_end(ENDING_COMPLETE);
                ck_assert_str_eq(heard(fd) + strlen(heard(fd)), "");
                ck_assert_uint_eq(atomic_load(&limits.prompt_memory), 0);
                close(fd);
        }
}
END_TEST

/* How an answer goes on, byte by byte. */
static const struct {
        const char *request, *head, *part, *out;
        bool closes;
} answers[] = {
        { GET, "HTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 2\r\n\r\n", "ok", "Content-Length: 2\r\n\r\nok", false },
        { GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "ok",
          "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false },
        { "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "ok",
          "Connection: close\r\n\r\nok", true },
        { "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "ok",
          "Connection: keep-alive\r\n\r\nok", false },
        { "GET /x HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "ok",
          "Connection: close\r\n\r\nok", true },
        { "HEAD /x HTTP/1.1\r\n" HOST "\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", "",
          "Content-Length: 99\r\n\r\n", false },
        { GET, "HTTP/1.1 204 No Content\r\n\r\n", "", "204 No Content\r\n\r\n", false },
        { GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", "", "Content-Length: 7\r\n\r\n", false },
};

START_TEST(answer_framing) {
        const char *out, *end;
        int fd;

        begin_ready();
        fd = connect_client();
        say(fd, answers[_i].request);
        answer_head(answers[_i].head);
        if (*answers[_i].part)
                answer_part(answers[_i].part);
        answer_end(ENDING_COMPLETE);
        out = heard(fd);
        end = strstr(out, answers[_i].out);
        ck_assert_msg(end && strcmp(end, answers[_i].out) == 0, "It is: %s", out);
        ck_assert_int_eq(is_closed(fd), answers[_i].closes);
        close(fd);
}
END_TEST

/* Interim heads pass, but for 100, which is msd's to say; HTTP/1.0 knows none. */
START_TEST(interim) {
        int fd;

        begin_ready();
        fd = connect_client();
        say(fd, GET);
        answer_head("HTTP/1.1 100 Continue\r\n\r\n");
        answer_head("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        ck_assert_ptr_nonnull(strstr(heard(fd), "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n"));
        answer_end(ENDING_FAILED);
        expect_status(fd, 502);
        say(fd, "GET /x HTTP/1.0\r\n\r\n");
        answer_head("HTTP/1.1 103 Early Hints\r\n\r\n");
        ck_assert_str_eq(heard(fd), "");
        answer_end(ENDING_FAILED);
        expect_status(fd, 502);
        ck_assert(is_closed(fd));
        close(fd);
}
END_TEST

/* A half answer is never taken for a whole one. */
START_TEST(cut_short) {
        static const char *const heads[] = {
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        };

        begin_ready();
        for (size_t i = 0; i < 4; i++) {
                int fd = connect_client();

                say(fd, GET);
                answer_head(heads[i % 2]);
                answer_part("half");
                answer_end(i < 2 ? ENDING_FAILED : i == 2 ? ENDING_COMPLETE : ENDING_FAILED);
                ck_assert_ptr_null(strstr(heard(fd), "0\r\n\r\n"));
                ck_assert(is_closed(fd));
                close(fd);
        }
}
END_TEST

START_TEST(pipelined) {
        int fd;

        begin_ready();
        fd = connect_client();
        say(fd, "GET /1 HTTP/1.1\r\n" HOST "\r\nGET /-/live HTTP/1.1\r\n" HOST "\r\nPOST /2 HTTP/1.1\r\n" HOST
                "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /3 HTTP/1.1\r\n" HOST "\r\n");
        for (unsigned i = 1; i <= 3; i++) {
                ck_assert_uint_eq(model_state.count, 1);
                ck_assert_int_eq(asked()->head[asked()->request->target.at + 1], (int)('0' + i));
                if (i == 2)
                        ck_assert_int_eq(memcmp(asked()->body, "abc", 3), 0);
                answer_head("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n");
                answer_part("a");
                answer_end(ENDING_COMPLETE);
                turn();
        }
        ck_assert_uint_eq(model_state.count, 0);
        ck_assert_ptr_nonnull(strstr(heard(fd), "ok\n"));
        close(fd);
}
END_TEST

/* What came while a request was under way was not looked at: its head begins there, and not behind it. */
START_TEST(pipelined_and_more) {
        int fd;

        begin_ready();
        fd = connect_client();
        say(fd, "GET /1 HTTP/1.1\r\n" HOST "\r\n");
        say(fd, "POST /2 HTTP/1.1\r\n" HOST "Content-Length: 8\r\n\r\n\n\n\n\n");
        answer_head("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n");
        answer_part("a");
        answer_end(ENDING_COMPLETE);
        /* Seen in the turn in which the request before ends, and before that. */
        ck_assert_int_eq(write(fd, "\n\n\n\n", 4), 4);
        turn();
        ck_assert_uint_eq(model_state.count, 1);
        ck_assert_int_eq(asked()->head[asked()->request->target.at + 1], '2');
        ck_assert_uint_eq(asked()->body_len, 8);
        answer_head("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n");
        answer_part("b");
        answer_end(ENDING_COMPLETE);
        turn();
        ck_assert_ptr_null(strstr(heard(fd), " 400 "));
        close(fd);
}
END_TEST

static const struct {
        const char *request;
        unsigned status;
        const char *says;
} refusals[] = {
        { POST("Content-Length: 1001\r\n", ""), 413, "--max-body" },
        { POST("Content-Length: 1001\r\nExpect: 100-continue\r\n", ""), 413, "--max-body" },
        { POST("Content-Length: 9223372036854775807\r\n", ""), 413, "too-large" },
        { POST("Transfer-Encoding: chunked\r\n", "3e9\r\n1"), 0, NULL },
        { POST("Transfer-Encoding: chunked\r\n", "5\r\nhelloXX"), 400, "bad-request" },
        { "TRACE / HTTP/1.1\r\n" HOST "\r\n", 405, "method-not-allowed" },
        { "GET / HTTP/2.0\r\n" HOST "\r\n", 505, "version-not-supported" },
        { "GET / HTTP/1.1\r\n\r\n", 400, "bad-request" },
        { "\x16\x03\x01\x02 GET / HTTP/1.1\r\n\r\n", 400, "bad-request" },
};

START_TEST(refused) {
        const char *text;
        int fd;

        begin_ready();
        fd = connect_client();
        say(fd, refusals[_i].request);
        if (refusals[_i].status == 0) {
                char rest[1001];

                memset(rest, 'x', sizeof(rest) - 1);
                rest[sizeof(rest) - 1] = '\0';
                ck_assert_str_eq(heard(fd), "");
                say(fd, rest);
                expect_status(fd, 413);
        } else {
                char begin_of[32];

                text = heard(fd);
                snprintf(begin_of, sizeof(begin_of), "HTTP/1.1 %u ", refusals[_i].status);
                ck_assert_msg(strncmp(text, begin_of, strlen(begin_of)) == 0 && strstr(text, refusals[_i].says),
                              "It is: %s", text);
                ck_assert_ptr_nonnull(strstr(text, "Connection: close\r\n"));
        }
        /* It goes on reading for the client's sake, and takes nothing of that for a request. */
        ck_assert(is_closed(fd));
        ck_assert_uint_eq(ended, 0);
        say(fd, GET);
        ck_assert_uint_eq(model_state.count, 0);
        ck_assert_uint_eq(atomic_load(&limits.prompt_memory), 0);
        close(fd);
        turn();
        ck_assert_uint_eq(ended, 1);
}
END_TEST

START_TEST(expect_continue) {
        int fd;

        begin_ready();
        fd = connect_client();
        say(fd, POST("Expect: 100-continue\r\nContent-Length: 2\r\n", ""));
        ck_assert_str_eq(heard(fd), "HTTP/1.1 100 Continue\r\n\r\n");
        say(fd, "{}");
        ck_assert_uint_eq(model_state.count, 1);
        answer_end(ENDING_FAILED);
        expect_status(fd, 502);
        say(fd, POST("Expect: 100-continue\r\nContent-Length: 2\r\n", "{}"));
        ck_assert_str_eq(heard(fd), "");
        ck_assert_uint_eq(model_state.count, 1);
        close(fd);
}
END_TEST

START_TEST(timeouts) {
        int idle, head, body, waiting;

        begin();
        idle = connect_client();
        head = connect_client();
        body = connect_client();
        waiting = connect_client();
        say(waiting, GET);
        say(head, "GET / HT");
        say(body, POST("Content-Length: 10\r\n", "12"));
        pass(20 * NSEC_PER_SEC);
        say(head, "TP/1.1\r\n");
        say(body, "34");
        pass(20 * NSEC_PER_SEC);
        ck_assert_ptr_nonnull(strstr(heard(head), "--head-timeout"));
        ck_assert(is_closed(head));
        ck_assert_str_eq(heard(body), "");
        pass(20 * NSEC_PER_SEC);
        expect_status(body, 408);
        close(body);
        close(head);
        pass(1000 * NSEC_PER_SEC);
        ck_assert(is_closed(idle));
        ck_assert_str_eq(heard(waiting), "");
        ck_assert(!is_closed(waiting));
        /* Nothing is set for one that waits. */
        ck_assert_uint_eq(timer_list_due(&reactor.timers), UINT64_MAX);
        close(idle);
        close(waiting);
        turn();
        ck_assert_uint_eq(ended, 4);
}
END_TEST

/* A client that goes takes its request along; one that has only ended its side is answered. */
START_TEST(gone) {
        int waiting, running, listening;

        begin();
        waiting = connect_client();
        say(waiting, GET);
        ck_assert_uint_eq(atomic_load(&status.counters[0].waiting), 1);
        close(waiting);
        turn();
        ck_assert_uint_eq(atomic_load(&status.counters[0].waiting), 0);
        ck_assert_int_eq(gate_open(&generation->gate), 0);
        turn();
        running = connect_client();
        say(running, GET);
        ck_assert_uint_eq(model_state.count, 1);
        close(running);
        turn();
        ck_assert_uint_eq(model_state.cancelled, 1);
        listening = connect_client();
        say(listening, GET);
        ck_assert_int_eq(shutdown(listening, SHUT_WR), 0);
        turn();
        answer_head("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        answer_end(ENDING_COMPLETE);
        expect_status(listening, 200);
        ck_assert(is_closed(listening));
        close(listening);
        ck_assert_uint_eq(ended, 3);
}
END_TEST

START_TEST(back_pressure) {
        static char large[65536], sink[1 << 20];
        int fd;

        memset(large, 'x', sizeof(large) - 1);
        begin_ready();
        fd = connect_client();
        say(fd, GET);
        answer_head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for (unsigned i = 0; i < 100 && !model_state.paused; i++) {
                answer_part(large);
                turn();
        }
        ck_assert(model_state.paused);
        ck_assert_uint_gt(http.unsent, 0);
        while (recv(fd, sink, sizeof(sink), MSG_DONTWAIT) > 0)
                turn();
        ck_assert(!model_state.paused);
        answer_end(ENDING_COMPLETE);
        turn();
        ck_assert(http_is_flushed(&http));
        /* Nor is it read while it has sent much that cannot be taken yet. */
        say(fd, GET);
        for (unsigned i = 0; i < 100; i++) {
                (void)send(fd, large, sizeof(large) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
                turn();
        }
        ck_assert_uint_le(http_kept_len(container_of(http.connections.next, struct http_connection, link)), 2 * HTTP_KEPT_MAX);
        close(fd);
        turn();
        ck_assert_uint_eq(ended, 1);
}
END_TEST

START_TEST(prompt_memory) {
        static char body[1001];
        char head[128];
        int fds[12];
        unsigned refused_count = 0;

        memset(body, 'b', 900);
        begin();
        snprintf(head, sizeof(head), POST("Content-Length: 900\r\n", ""));
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
                fds[i] = connect_client();
                say(fds[i], head);
                say(fds[i], body);
                if (*heard(fds[i]))
                        refused_count++;
                ck_assert_uint_le(atomic_load(&limits.prompt_memory), limits.max_prompt_memory);
        }
        ck_assert_uint_eq(refused_count, 2);
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
                close(fds[i]);
        turn();
}
END_TEST

/* What a connection costs: new, while a POST of 200 bytes waits, and idle afterwards. */
START_TEST(memory) {
        enum { N = 100 };
        static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
                                   "Content-Type: application/json\r\nContent-Length: 200\r\n\r\n";
        static char request[sizeof(head) + 200];
        size_t before, used[3];
        int fds[N];

        memcpy(request, head, sizeof(head) - 1);
        memset(request + sizeof(head) - 1, ' ', 200);
        begin();
        close(connect_client());
        turn();
        before = mallinfo2().uordblks;
        for (unsigned i = 0; i < N; i++)
                fds[i] = connect_client();
        turn();
        used[0] = (mallinfo2().uordblks - before) / N;
        limits.max_prompt_memory = 1 << 20;
        for (unsigned i = 0; i < N; i++)
                say(fds[i], request);
        used[1] = (mallinfo2().uordblks - before) / N;
        ck_assert_uint_eq(atomic_load(&limits.waiting), N);
        ck_assert_int_eq(gate_fail(&generation->gate, "No weights"), 0);
        turn();
        used[2] = (mallinfo2().uordblks - before) / N;
        ck_assert_msg(used[0] <= 400 && used[1] <= 768 && used[2] <= 600, "It is %zu, %zu and %zu bytes",
                      used[0], used[1], used[2]);
        for (unsigned i = 0; i < N; i++) {
                expect_status(fds[i], 503);
                close(fds[i]);
        }
        turn();
        ck_assert_uint_eq(ended, N + 1);
}
END_TEST

static Suite *suite(void) {
        Suite *made = suite_create("http_front");
        TCase *tests = tcase_create("http_front");

        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, own_path);
        tcase_add_test(tests, own_path_with_body);
        unit_add_table(tests, cuts, bodies);
        unit_add_table(tests, answer_framing, answers);
        tcase_add_test(tests, interim);
        tcase_add_test(tests, cut_short);
        tcase_add_test(tests, pipelined);
        tcase_add_test(tests, pipelined_and_more);
        unit_add_table(tests, refused, refusals);
        tcase_add_test(tests, expect_continue);
        tcase_add_test(tests, timeouts);
        tcase_add_test(tests, gone);
        tcase_add_test(tests, back_pressure);
        tcase_add_test(tests, prompt_memory);
        tcase_add_test(tests, memory);
        suite_add_tcase(made, tests);
        return made;
}

UNIT_MAIN(suite)
