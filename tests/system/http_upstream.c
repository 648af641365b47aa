/*
 * What a client of the HTTP front asks goes to the model server as it is, and the answer comes back as it comes. The model
 * server is the test itself.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/front.h"
#include "tests/support/raw.h"
#include "tests/support/stage.h"

static struct front front;
static struct raw raw;
static struct raw_request request;
static struct http http;

static void setup(void) {
        front_init(&front);
        raw_listen(&raw, front_path(front.upstream));
        http = (struct http)HTTP_NULL;
}

static void teardown(void) {
        http_close(&http);
        raw_request_deinit(&request);
        raw_close(&raw);
        front_deinit(&front);
}

/* msd with these options up to NULL, and a client. */
static void start(const char *const *options) {
        const char *all[24] = { "--upstream", front.upstream, "--model", "raw" };
        size_t n = 4;

        for (; *options; options++)
                all[n++] = *options;
        ck_assert_uint_lt(n, ARRAY_SIZE(all));
        front_start(&front, all);
        http_connect(&http, front.address);
}

static void start_ready(const char *const *options) {
        start(options);
        raw_wait_ready(&raw, &front.msd.process);
        daemon_wait_ready(&front.msd);
}

/* The next request of msd's. */
static void take(void) {
        raw_request_deinit(&request);
        raw_take(&raw, &request);
}

/* Asks something, which comes to the model. */
static void ask_and_take(const char *method, const char *path) {
        http_ask(&http, method, path);
        take();
        ck_assert_str_eq(request.method, method);
        ck_assert_str_eq(request.target, path);
}

START_TEST(as_it_is) {
        start_ready(OPTIONS());
        http_send(&http, "PUT /some/thing?a=b&c=%%20 HTTP/1.1\r\nHost: example:8080\r\nX-Twice: 1\r\nX-Twice: 2\r\n"
                         "Accept-Encoding: gzip, br\r\nAuthorization: Bearer sk-secret\r\nX-Empty:\r\nCookie: a=b; c=d\r\n"
                         "x-lower: Value  with \t space \r\nX-Request-Id: mine\r\nContent-Length: 7\r\n\r\n");
        http_send_bytes(&http, "a\0b\r\n\r\n", 7);
        take();
        ck_assert_str_eq(request.method, "PUT");
        ck_assert_str_eq(request.target, "/some/thing?a=b&c=%20");
        ck_assert_uint_eq(request.body.len, 7);
        ck_assert_int_eq(memcmp(request.body.data, "a\0b\r\n\r\n", 7), 0);
        ck_assert_str_eq(raw_field(&request, "Host"), "example:8080");
        ck_assert_uint_eq(http_count_fields(&request.fields, "X-Twice"), 2);
        ck_assert_str_eq(raw_field(&request, "X-Twice"), "1");
        ck_assert_str_eq(raw_field(&request, "Accept-Encoding"), "gzip, br");
        ck_assert_str_eq(raw_field(&request, "Authorization"), "Bearer sk-secret");
        ck_assert_str_eq(raw_field(&request, "X-Empty"), "");
        ck_assert_str_eq(raw_field(&request, "Cookie"), "a=b; c=d");
        ck_assert_str_eq(raw_field(&request, "x-lower"), "Value  with \t space");
        ck_assert_str_eq(raw_field(&request, "X-Request-Id"), "mine");
        ck_assert_str_eq(raw_field(&request, "Content-Length"), "7");
        ck_assert_str_eq(raw_field(&request, "Via"), "1.1 msd");
        /* And nothing of msd's own. */
        ck_assert_uint_eq(http_count_fields(&request.fields, NULL), 11);

        raw_send(&request, "HTTP/1.1 418 Teapot\r\nX-Twice: 1\r\nX-Twice: 2\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d, e\r\n"
                           "Content-Encoding: gzip\r\nContent-Type: odd/type\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
                           "Server: raw\r\nETag: \"x\"\r\nContent-Length: 7\r\n\r\n");
        raw_send_bytes(&request, "a\0b\r\n\r\n", 7);
        http_next(&http);
        ck_assert_uint_eq(http.status, 418);
        ck_assert_uint_eq(http_count_field(&http, "X-Twice"), 2);
        ck_assert_uint_eq(http_count_field(&http, "Set-Cookie"), 2);
        ck_assert_str_eq(http_field(&http, "Set-Cookie"), "a=b");
        ck_assert_str_eq(http_field(&http, "Content-Encoding"), "gzip");
        ck_assert_str_eq(http_field(&http, "Content-Type"), "odd/type");
        ck_assert_str_eq(http_field(&http, "Server"), "raw");
        ck_assert_str_eq(http_field(&http, "ETag"), "\"x\"");
        ck_assert_uint_eq(http_count_field(&http, "Date"), 1);
        ck_assert_str_eq(http_field(&http, "Date"), "Thu, 01 Jan 1970 00:00:00 GMT");
        ck_assert_str_eq(http_field(&http, "Content-Length"), "7");
        ck_assert_uint_eq(http.body.len, 7);
        ck_assert_int_eq(memcmp(http.body.data, "a\0b\r\n\r\n", 7), 0);
        process_wait_output(&front.msd.process, "Processing request mine\n");
        daemon_stop(&front.msd);
        ck_assert_ptr_null(strstr(text_get(&front.msd.process.errors), "secret"));
}
END_TEST

START_TEST(hop_by_hop) {
        static const char *const own[] = { "X-One", "X-Two", "X-Three", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization",
                                           "TE", "Trailer", "Upgrade", "Connection", "Transfer-Encoding" };

        start_ready(OPTIONS());
        http_send(&http, "POST / HTTP/1.1\r\nHost: msd\r\nConnection: X-One, keep-alive ,x-two\r\nX-One: 1\r\nX-Two: 2\r\n"
                         "X-Three: 3\r\nConnection: X-Three\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n"
                         "Proxy-Authorization: Basic Og==\r\n"
                         "TE: trailers\r\nTrailer: X\r\nUpgrade: websocket\r\nVia: 1.0 other\r\nX-Stays: 1\r\n"
                         "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
        take();
        for (size_t i = 0; i < ARRAY_SIZE(own); i++)
                ck_assert_msg(!raw_field(&request, own[i]), "%s is passed on: %s", own[i], request.bytes.data);
        ck_assert_str_eq(raw_field(&request, "X-Stays"), "1");
        ck_assert_str_eq(raw_field(&request, "Content-Length"), "2");
        ck_assert_str_eq(text_get(&request.body), "hi");
        ck_assert_str_eq(raw_field(&request, "Via"), "1.0 other");
        ck_assert_uint_eq(http_count_fields(&request.fields, "Via"), 2);

        raw_send(&request, "HTTP/1.1 200 OK\r\nConnection: X-One, X-Two\r\nX-One: 1\r\nX-Two: 2\r\nX-Three: 3\r\n"
                           "Connection: X-Three\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nTrailer: X-T\r\nUpgrade: websocket\r\nX-Stays: 1\r\n"
                           "Proxy-Authenticate: Basic\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n");
        http_expect(&http, 200, "hi");
        for (size_t i = 0; i + 1 < ARRAY_SIZE(own); i++)
                ck_assert_msg(!http_field(&http, own[i]) || strcmp(own[i], "Connection") == 0, "%s is passed on", own[i]);
        ck_assert_ptr_null(http_field(&http, "X-T"));
        ck_assert_ptr_null(http_field(&http, "Proxy-Authenticate"));
        ck_assert_str_eq(http_field(&http, "X-Stays"), "1");
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(methods) {
        static const char *const all[] = { "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "REPORT" };

        start_ready(OPTIONS());
        for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
                const bool head = strcmp(all[i], "HEAD") == 0;

                ask_and_take(all[i], "/without");
                ck_assert_uint_eq(request.body.len, 0);
                raw_send(&request, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n%s", head ? "" : "answer");
                http_expect(&http, 200, head ? "" : "answer");
                ck_assert_str_eq(http_field(&http, "Content-Length"), "6");

                /* Of which nobody knows what it would mean. */
                if (head)
                        continue;
                http_send(&http, "%s /with HTTP/1.1\r\nHost: msd\r\nContent-Length: 4\r\n\r\nbody", all[i]);
                take();
                ck_assert_str_eq(request.method, all[i]);
                ck_assert_str_eq(text_get(&request.body), "body");
                raw_answer(&request, "answer");
                http_expect(&http, 200, "answer");
        }
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(statuses) {
        static const unsigned all[] = { 200, 201, 202, 203, 206, 226, 300, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404,
                                        405, 407, 408, 409, 410, 413, 416, 417, 421, 422, 429, 431, 451, 499, 500, 501, 502,
                                        504, 505, 511, 529, 599 };

        start_ready(OPTIONS());
        for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
                ask_and_take("GET", "/");
                raw_send(&request, "HTTP/1.1 %u Some reason\r\nContent-Length: 6\r\nLocation: /elsewhere\r\nRetry-After: 7\r\n"
                                   "WWW-Authenticate: Bearer\r\n\r\nreason", all[i]);
                http_expect(&http, all[i], "reason");
                ck_assert_str_eq(http_field(&http, "Location"), "/elsewhere");
                ck_assert_str_eq(http_field(&http, "Retry-After"), "7");
                ck_assert_str_eq(http_field(&http, "WWW-Authenticate"), "Bearer");
        }
        /* Those that have no body. */
        ask_and_take("GET", "/");
        raw_send(&request, "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n");
        http_expect(&http, 204, "");
        ck_assert_str_eq(http_field(&http, "X-A"), "b");
        ask_and_take("GET", "/");
        raw_send(&request, "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 6\r\n\r\n");
        http_expect(&http, 304, "");
        ck_assert_str_eq(http_field(&http, "ETag"), "\"x\"");
        ask_and_take("GET", "/");
        raw_answer(&request, "and on it goes");
        http_expect(&http, 200, "and on it goes");
        daemon_stop(&front.msd);
}
END_TEST

/* Every way to say how long an answer is, and what else may come with it. */
static const struct {
        const char *answer;
        unsigned status;
        const char *body;
        bool ends;              /* the connection says so */
        unsigned interim;       /* answers before it that the client gets too; 100 is msd's own */
} framings[] = {
        { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", false, 0 },
        { "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", false, 0 },
        { "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", false, 0 },
        { "HTTP/1.1 200 \r\ncontent-length:5\r\n\r\nhello", 200, "hello", false, 0 },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n", 200, "hello", false, 0 },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n", 200, "hello", false, 0 },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, "", false, 0 },
        { "HTTP/1.1 200 OK\r\n\r\nhello", 200, "hello", true, 0 },
        { "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", 200, "", true, 0 },
        { "HTTP/1.0 200 OK\r\n\r\nhello", 200, "hello", true, 0 },
        { "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", true, 0 },
        { "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", false, 0 },
        { "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
          "HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello",
          201, "hello", false, 2 },
        { "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello", 200, "hello", true, 0 },
};

START_TEST(framing) {
        start_ready(OPTIONS());
        for (unsigned again = 0; again < 2; again++) {
                ask_and_take("GET", "/");
                raw_send(&request, "%s", framings[_i].answer);
                if (framings[_i].ends)
                        raw_hang_up(&request);
                for (unsigned i = 0; i < framings[_i].interim; i++) {
                        http_next(&http);
                        ck_assert_uint_eq(http.status, i == 0 ? 103 : 102);
                        ck_assert_uint_eq(http_count_field(&http, "Link"), i == 0);
                }
                http_expect(&http, framings[_i].status, framings[_i].body);
                ck_assert_msg(http.framing == HTTP_LENGTH || http.framing == HTTP_CHUNKED, "The connection is lost for it");
                ck_assert_ptr_null(http_field(&http, "Link"));
        }
        daemon_stop(&front.msd);
}
END_TEST

/* Each piece is there before the next is made, however its length is said. */
static const struct {
        const char *head, *format;
        const char *end;
} pieces[] = {
        { "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
          "10\r\ndata: piece %02u\n\n\r\n", "0\r\n\r\n" },
        { "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
          "10\r\ndata: piece %02u\n\n\r\n", "0\r\n\r\n" },
        { "HTTP/1.1 200 OK\r\n\r\n", "data: piece %02u\n\n", NULL },
        { "HTTP/1.1 200 OK\r\nContent-Length: 320\r\n\r\n", "data: piece %02u\n\n", "" },
};

START_TEST(piece_by_piece) {
        start_ready(OPTIONS());
        ask_and_take("GET", "/");
        raw_send(&request, "%s", pieces[_i].head);
        ck_assert(http_head(&http));
        ck_assert_uint_eq(http.status, 200);
        for (unsigned i = 0; i < 20; i++) {
                char piece[64], expected[64];

                snprintf(expected, sizeof(expected), "data: piece %02u\n\n", i);
                /* The formats are those above. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
                snprintf(piece, sizeof(piece), pieces[_i].format, i);
#pragma GCC diagnostic pop
                raw_send(&request, "%s", piece);
                http_wait_body(&http, expected);
        }
        if (!pieces[_i].end)
                raw_hang_up(&request);
        else if (*pieces[_i].end)
                raw_send(&request, "%s", pieces[_i].end);
        http_end(&http);
        ck_assert(http.whole);
        ck_assert_uint_eq(http.body.len, 320);
        daemon_stop(&front.msd);
}
END_TEST

/* A client that goes has its request cancelled at the upstream: before the answer, and within it. */
START_TEST(cancelled) {
        struct peer_status status;

        start_ready(OPTIONS());
        ask_and_take("GET", "/");
        if (_i == 1) {
                raw_send(&request, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
                ck_assert(http_head(&http));
                http_wait_body(&http, "hello");
        }
        http_close(&http);
        raw_wait_gone(&request);
        front_wait(&front, peer_status_is_cancelled, 1, "it is cancelled");
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.processing + status.completed + status.failed, 0);
        daemon_stop(&front.msd);
}
END_TEST

/* One that has nothing more to say is still there to listen. */
START_TEST(half_closed) {
        start(OPTIONS());
        http_ask(&http, "GET", "/");
        http_finish(&http);
        front_wait(&front, peer_status_is_waiting, 1, "it waits");
        take();
        raw_send(&request, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        ck_assert(http_head(&http));
        http_wait_body(&http, "hello");
        raw_send(&request, "6\r\n world\r\n0\r\n\r\n");
        http_end(&http);
        ck_assert(http.whole);
        ck_assert_str_eq(http.body.data, "hello world");
        http_expect_end(&http);
        front_wait(&front, peer_status_is_connections, 1, "it is gone");
        daemon_stop(&front.msd);
}
END_TEST

/* What goes while it waits is never sent. */
START_TEST(cancelled_while_waiting) {
        struct http other;

        start(OPTIONS());
        http_ask(&http, "GET", "/gone");
        front_wait(&front, peer_status_is_waiting, 1, "it waits");
        http_connect(&other, front.address);
        http_ask(&other, "GET", "/stays");
        front_wait(&front, peer_status_is_waiting, 2, "they wait");
        http_close(&http);
        front_wait(&front, peer_status_is_waiting, 1, "it is cancelled");
        front_wait(&front, peer_status_is_cancelled, 1, "it is counted");
        take();
        ck_assert_str_eq(request.target, "/stays");
        raw_answer(&request, "");
        http_expect(&other, 200, "");
        http_close(&other);
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(timed_out) {
        struct peer_status status;

        start_ready(OPTIONS("--request-timeout", "300ms"));
        ask_and_take("GET", "/");
        http_expect_error(&http, 504, "timed-out", NULL);
        raw_wait_gone(&request);
        /* When the answer has begun it can only be cut. */
        ask_and_take("GET", "/");
        raw_send(&request, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        ck_assert(http_head(&http));
        ck_assert_uint_eq(http.status, 200);
        http_end(&http);
        ck_assert(!http.whole);
        raw_wait_gone(&request);
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.failed, 2);
        daemon_stop(&front.msd);
}
END_TEST

/* A connection to the upstream is used again; one that it has closed meanwhile is no loss. */
START_TEST(connections_are_kept) {
        struct peer_status status;

        start_ready(OPTIONS("--threads", "1"));
        for (unsigned i = 0; i < 10; i++) {
                ask_and_take("GET", "/");
                raw_answer(&request, "answer");
                http_expect(&http, 200, "answer");
        }
        ck_assert_uint_eq(raw.accepted, 1);
        for (unsigned i = 0; i < 10; i++) {
                raw_hang_up(&request);
                ask_and_take("GET", "/");
                raw_answer(&request, "answer");
                http_expect(&http, 200, "answer");
        }
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.generation, 1);
        ck_assert_uint_eq(status.completed, 20);
        daemon_stop(&front.msd);
}
END_TEST

/* One place: who waits for it goes in order, whichever way it came. */
START_TEST(one_place) {
        struct raw_request none;
        struct http other;

        start_ready(OPTIONS("--max-inflight", "1"));
        ask_and_take("POST", "/1");
        peer_send(&front.msd.control, "REQUEST 2 5\nhello\n");
        front_wait(&front, peer_status_is_waiting, 1, "it waits");
        http_connect(&other, front.address);
        http_ask(&other, "POST", "/3");
        front_wait(&front, peer_status_is_waiting, 2, "it waits");
        ck_assert(!raw_take_until(&raw, &none, -1, clock_now() + 50 * NSEC_PER_MSEC));
        raw_answer(&request, "1");
        http_expect(&http, 200, "1");
        take();
        ck_assert_str_eq(request.target, "/v1/completions");
        ck_assert(!raw_take_until(&raw, &none, -1, clock_now() + 50 * NSEC_PER_MSEC));
        raw_answer(&request, "{\"choices\":[{\"text\":\"two\"}]}");
        peer_expect(&front.msd.control, "2", "two");
        take();
        ck_assert_str_eq(request.target, "/3");
        /* One whose client goes makes room. */
        http_ask(&http, "POST", "/4");
        front_wait(&front, peer_status_is_waiting, 1, "it waits");
        http_close(&other);
        take();
        ck_assert_str_eq(request.target, "/4");
        raw_answer(&request, "4");
        http_expect(&http, 200, "4");
        daemon_stop(&front.msd);
}
END_TEST

/* msd ends when what is in flight has; what waits is told at once. */
START_TEST(stops) {
        struct http waiting, begun;
        struct raw_request slow;

        start_ready(OPTIONS("--max-inflight", "2", "--drain-timeout", "1h"));
        ask_and_take("POST", "/1");
        http_connect(&begun, front.address);
        http_ask(&begun, "POST", "/2");
        raw_take(&raw, &slow);
        raw_send(&slow, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n");
        ck_assert(http_head(&begun));
        http_wait_body(&begun, "data: 1\n\n");
        http_connect(&waiting, front.address);
        http_ask(&waiting, "POST", "/3");
        front_wait(&front, peer_status_is_waiting, 1, "it waits");
        process_signal(&front.msd.process, SIGTERM);
        http_expect_error(&waiting, 503, "shutting-down", PROTOCOL_SHUTTING_DOWN_MESSAGE);
        ck_assert_str_eq(http_field(&waiting, "Connection"), "close");
        http_expect_end(&waiting);
        http_close(&waiting);
        raw_answer(&request, "1");
        http_expect(&http, 200, "1");
        ck_assert_str_eq(http_field(&http, "Connection"), "close");
        http_expect_end(&http);
        raw_send(&slow, "data: 2\n\n");
        http_wait_body(&begun, "data: 2\n\n");
        raw_hang_up(&slow);
        raw_request_deinit(&slow);
        http_end(&begun);
        ck_assert(begun.whole);
        http_close(&begun);
        daemon_expect_exit(&front.msd, 0);
}
END_TEST

#define LARGE (UINT64_C(64) << 20)

/* Who does not read stops the upstream, not msd, which holds no more than it must; and gets it all when it reads. */
START_TEST(slow_reader) {
        static char block[1 << 20], received[1 << 18];
        uint64_t sent = 0, got = 0, before;
        struct http other;

        for (size_t i = 0; i < sizeof(block); i++)
                block[i] = (char)('a' + i % 17);
        start_ready(OPTIONS("--threads", "1"));
        before = stage_memory(&front.msd.process, "VmRSS");
        ask_and_take("GET", "/");
        if (_i == 0)
                raw_send(&request, "HTTP/1.1 200 OK\r\nContent-Length: %lu\r\n\r\n", LARGE);
        else
                raw_send(&request, "HTTP/1.1 200 OK\r\n\r\n");
        ck_assert(http_head(&http));
        while (sent < LARGE) {
                size_t n = raw_offer(&request, block + sent % sizeof(block), sizeof(block) - sent % sizeof(block),
                                     500 * NSEC_PER_MSEC);

                sent += n;
                if (n < sizeof(block))
                        break;
        }
        ck_assert_msg(sent < LARGE / 4, "msd took %lu bytes that nobody reads", sent);
        if (!stage_has_sanitizer(&front.msd.process))
                ck_assert_msg(stage_memory(&front.msd.process, "VmRSS") < before + (8 << 20), "It needs %lu bytes more",
                              stage_memory(&front.msd.process, "VmRSS") - before);
        /* Nobody else is held up. */
        http_connect(&other, front.address);
        http_ask(&other, "GET", "/-/live");
        http_expect(&other, 200, "ok\n");
        http_close(&other);

        if (_i == 1) {
                /* Chunks, which are not for counting. */
                http_close(&http);
                raw_wait_gone(&request);
                front_wait(&front, peer_status_is_cancelled, 1, "it is cancelled");
                daemon_stop(&front.msd);
                return;
        }
        got = http.input.len;
        for (uint64_t deadline = clock_patience(); got < LARGE;) {
                struct pollfd event = { http.fd, POLLIN, 0 };
                ssize_t n;

                if (sent < LARGE)
                        sent += raw_offer(&request, block + sent % sizeof(block), sizeof(block) - sent % sizeof(block), 0);
                n = recv(http.fd, received, sizeof(received), MSG_DONTWAIT);
                if (n > 0) {
                        for (ssize_t i = 0; i < n; i++)
                                if (received[i] != block[(got + (uint64_t)i) % sizeof(block)])
                                        ck_abort_msg("A wrong byte at %lu", got + (uint64_t)i);
                        got += (uint64_t)n;
                        deadline = clock_patience();
                        continue;
                }
                ck_assert_msg(n < 0 && errno == EAGAIN, "The answer ended at %lu", got);
                ck_assert_msg(clock_left(deadline) > 0, "It stands still at %lu", got);
                (void)process_poll(&event, 1, MIN(deadline, clock_now() + 10 * NSEC_PER_MSEC));
        }
        ck_assert_uint_eq(got, LARGE);
        if (!stage_has_sanitizer(&front.msd.process))
                ck_assert_uint_lt(stage_memory(&front.msd.process, "VmRSS"), before + (8 << 20));
        daemon_stop(&front.msd);
}
END_TEST

/* An answer is not over when the model has made it, but when its client has it; one that never takes it has its time. */
START_TEST(stops_for_a_slow_reader) {
        static char answer[300000];

        memset(answer, 'a', sizeof(answer));
        start_ready(OPTIONS("--drain-timeout", _i == 0 ? "1h" : "300ms"));
        ask_and_take("GET", "/");
        raw_send(&request, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", sizeof(answer));
        raw_send_bytes(&request, answer, sizeof(answer));
        front_wait(&front, peer_status_is_completed, 1, "the model has done its part");
        process_signal(&front.msd.process, SIGTERM);
        if (_i == 1) {
                daemon_expect_exit(&front.msd, 0);
                return;
        }
        front_wait(&front, peer_status_is_stopping, 0, "it stops");
        http_expect(&http, 200, NULL);
        ck_assert_uint_eq(http.body.len, sizeof(answer));
        ck_assert_int_eq(memcmp(http.body.data, answer, sizeof(answer)), 0);
        http_expect_end(&http);
        daemon_expect_exit(&front.msd, 0);
}
END_TEST

/* As much as a request may have, at once and bit for bit. */
START_TEST(large_bodies) {
        static char body[1 << 20];

        for (size_t i = 0; i < sizeof(body); i++)
                body[i] = (char)(i * 7 + i / 256);
        start_ready(OPTIONS());
        http_send(&http, "POST / HTTP/1.1\r\nHost: msd\r\nContent-Length: %zu\r\n\r\n", sizeof(body));
        http_send_bytes(&http, body, sizeof(body));
        take();
        ck_assert_uint_eq(request.body.len, sizeof(body));
        ck_assert_int_eq(memcmp(request.body.data, body, sizeof(body)), 0);
        raw_answer(&request, "answer");
        http_expect(&http, 200, "answer");
        daemon_stop(&front.msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, as_it_is);
        tcase_add_test(tests, hop_by_hop);
        tcase_add_test(tests, methods);
        tcase_add_test(tests, statuses);
        tcase_add_loop_test(tests, framing, 0, (int)ARRAY_SIZE(framings));
        tcase_add_loop_test(tests, piece_by_piece, 0, (int)ARRAY_SIZE(pieces));
        tcase_add_loop_test(tests, cancelled, 0, 2);
        tcase_add_test(tests, half_closed);
        tcase_add_test(tests, cancelled_while_waiting);
        tcase_add_test(tests, timed_out);
        tcase_add_test(tests, connections_are_kept);
        tcase_add_test(tests, one_place);
        tcase_add_test(tests, stops);
        tcase_add_loop_test(tests, slow_reader, 0, 2);
        tcase_add_loop_test(tests, stops_for_a_slow_reader, 0, 2);
        tcase_add_test(tests, large_bodies);
}

int main(void) {
        return suite_main("http_upstream", add);
}
