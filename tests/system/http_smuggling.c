/*
 * The points at which llhttp alone is too tolerant, as bytes of a hostile client: each is refused with one answer, and nothing
 * of it comes to the model; or it is one request that is written anew. And as bytes of a hostile model: the client gets one
 * answer that is well-formed, and nothing of it is taken for the answer to another request.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/stage.h"

static struct stage stage;

static void setup(void) {
        stage_init(&stage);
        stage_start_ready(&stage, OPTIONS("--threads", "1"));
}

static void teardown(void) {
        daemon_stop(&stage.front.msd);
        stage_deinit(&stage);
}

#define HOST "Host: msd\r\n"
#define GET "GET / HTTP/1.1\r\n" HOST
#define POST "POST / HTTP/1.1\r\n" HOST
#define CHUNKED "Transfer-Encoding: chunked\r\n\r\n"
#define SMUGGLED "GET /smuggled HTTP/1.1\r\nHost: msd\r\n\r\n"

struct bytes {
        const char *data;
        size_t len;
        unsigned status;        /* 0: any refusal */
};

#define BYTES(data, status) { data, sizeof(data) - 1, status }

static const struct bytes refused[] = {
        /* 1: folded lines. */
        BYTES(GET "X: a\r\n b\r\n\r\n", 400),
        BYTES(GET "X: a\r\n\tb\r\n\r\n", 400),
        BYTES(GET "X:\r\n b\r\n\r\n", 400),
        BYTES(POST "Content-Length:\r\n 5\r\n\r\nhello", 400),
        BYTES(POST "Transfer-Encoding:\r\n chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 400),
        BYTES("GET / HTTP/1.1\r\n Host: msd\r\n\r\n", 400),
        /* 2: a bare LF. */
        BYTES("GET / HTTP/1.1\r\nHost: msd\r\n\n", 400),
        BYTES("GET / HTTP/1.1\nHost: msd\n\n", 400),
        BYTES("GET / HTTP/1.1\r\nHost: msd\n\r\n", 400),
        BYTES(POST "Content-Length: 38\r\n\n" SMUGGLED, 400),
        BYTES(POST CHUNKED "5\nhello\r\n0\r\n\r\n", 400),
        BYTES(POST CHUNKED "5\r\nhello\n0\r\n\r\n", 400),
        /* 3: transfer codings. */
        BYTES(POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 0),
        BYTES(POST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 0),
        BYTES(POST "Transfer-Encoding: identity\r\n\r\n" SMUGGLED, 0),
        BYTES(POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 0),
        BYTES(POST "Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", 0),
        BYTES(POST "Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", 0),
        BYTES(POST "Transfer-Encoding:\r\n\r\n" SMUGGLED, 0),
        BYTES(POST "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 0),
        BYTES(POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0),
        BYTES("POST / HTTP/1.0\r\n" HOST CHUNKED "0\r\n\r\n", 0),
        BYTES(POST "Content-Length: 5\r\n" CHUNKED "0\r\n\r\n" SMUGGLED, 400),
        BYTES(POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" SMUGGLED, 400),
        /* 4: numbers. */
        BYTES(POST "Content-Length: +5\r\n\r\nhello", 400),
        BYTES(POST "Content-Length: 5, 5\r\n\r\nhello", 400),
        BYTES(POST "Content-Length: 5 5\r\n\r\nhello", 400),
        BYTES(POST "Content-Length: 0x5\r\n\r\nhello", 400),
        BYTES(POST "Content-Length: \r\n\r\n" SMUGGLED, 400),
        BYTES(POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
        BYTES(POST "Content-Length: 18446744073709551621\r\n\r\nhello", 0),
        BYTES(POST CHUNKED "10000000000000005\r\nhello\r\n0\r\n\r\n", 0),
        BYTES(POST CHUNKED "ffffffffffffffff\r\nhello\r\n0\r\n\r\n", 0),
        BYTES(POST CHUNKED "+5\r\nhello\r\n0\r\n\r\n", 400),
        BYTES(POST CHUNKED "0x5\r\nhello\r\n0\r\n\r\n", 400),
        BYTES(POST CHUNKED "5 \r\nhello\r\n0\r\n\r\n", 400),
        BYTES(POST CHUNKED "3\r\nhello\r\n0\r\n\r\n", 400),
        /* 6: hosts and targets. */
        BYTES("GET / HTTP/1.1\r\n\r\n", 400),
        BYTES(GET "Host: other\r\n\r\n", 400),
        BYTES(GET HOST "\r\n", 400),
        BYTES("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        BYTES("GET /a#b HTTP/1.1\r\n" HOST "\r\n", 400),
        BYTES("GET /a\tb HTTP/1.1\r\n" HOST "\r\n", 400),
        BYTES("GET /a\x01" "b HTTP/1.1\r\n" HOST "\r\n", 400),
        BYTES("GET /a\x7f HTTP/1.1\r\n" HOST "\r\n", 400),
        BYTES("GET /a\0b HTTP/1.1\r\n" HOST "\r\n", 400),
        BYTES("GET  / HTTP/1.1\r\n" HOST "\r\n", 400),
        BYTES("GET /  HTTP/1.1\r\n" HOST "\r\n", 400),
        BYTES("GET /a b HTTP/1.1\r\n" HOST "\r\n", 400),
        BYTES("GET path HTTP/1.1\r\n" HOST "\r\n", 400),
        BYTES("GET * HTTP/1.1\r\n" HOST "\r\n", 400),
        BYTES("GET http:// HTTP/1.1\r\n" HOST "\r\n", 400),
        BYTES("GET http://a@b/ HTTP/1.1\r\n" HOST "\r\n", 400),
        BYTES("GET ftp://msd/ HTTP/1.1\r\n" HOST "\r\n", 400),
        BYTES(GET ": a\r\n\r\n", 400),
        BYTES(GET "X : a\r\n\r\n", 400),
        BYTES(GET "X: a\0b\r\n\r\n", 400),
        /* 7: versions. */
        BYTES("GET / HTTP/2.0\r\n" HOST "\r\n", 0),
        BYTES("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0),
        BYTES("GET / HTTP/0.9\r\n" HOST "\r\n", 0),
        BYTES("GET / HTTP/1.2\r\n" HOST "\r\n", 0),
        BYTES("GET / RTSP/1.0\r\n" HOST "\r\n", 0),
        BYTES("SOURCE / ICE/1.0\r\n" HOST "\r\n", 0),
        BYTES("GET /\r\n\r\n", 0),
        /* 8: methods. */
        BYTES("FOO-BAR / HTTP/1.1\r\n" HOST "\r\n", 501),
        BYTES("get / HTTP/1.1\r\n" HOST "\r\n", 501),
        BYTES("GETT / HTTP/1.1\r\n" HOST "\r\n", 501),
        /* 9: methods that make the rest something else than HTTP. */
        BYTES("CONNECT msd:80 HTTP/1.1\r\n" HOST "\r\n", 0),
        BYTES("TRACE / HTTP/1.1\r\n" HOST "\r\n", 0),
};

/* Nothing came to the model, now that this one, which is well-formed, does. */
static void expect_next(const char *path) {
        struct http other;

        http_connect(&other, stage.front.address);
        http_ask(&other, "GET", path);
        stage_take(&stage);
        ck_assert_str_eq(stage.request.target, path);
        raw_answer(&stage.request, "answer");
        http_expect(&other, 200, "answer");
        http_close(&other);
}

START_TEST(requests_refused) {
        (void)http_offer(&stage.http, refused[_i].data, refused[_i].len);
        http_next(&stage.http);
        if (refused[_i].status > 0)
                ck_assert_uint_eq(stage.http.status, refused[_i].status);
        ck_assert_msg(stage.http.status >= 400 && stage.http.status != 502 && stage.http.status != 503, "It is %u",
                      stage.http.status);
        ck_assert_str_eq(http_field(&stage.http, "Content-Type"), "application/json");
        ck_assert_str_eq(http_field(&stage.http, "Connection"), "close");
        json_decref(http_json(&stage.http));
        if (!stage.http.ended)
                http_finish(&stage.http);
        http_expect_end(&stage.http);
        expect_next("/next");
}
END_TEST

/* What is one request all the same, and what comes of it. */
static const struct {
        const char *bytes;
        const char *method;
        const char *target;
        const char *host;
        const char *body;
        const char *dropped;    /* a field that does not go on; NULL: none */
} rewritten[] = {
        { POST "Content-Length: \t5 \r\n\r\nhello", "POST", "/", "msd", "hello", NULL },
        { POST "Content-Length: 0005\r\n\r\nhello", "POST", "/", "msd", "hello", NULL },
        { POST "Transfer-Encoding: Chunked\r\n\r\n005\r\nhello\r\n0000\r\n\r\n", "POST", "/", "msd", "hello",
          "Transfer-Encoding" },
        { "GET http://other/path?query HTTP/1.1\r\n" HOST "\r\n", "GET", "/path?query", "other", "", NULL },
        { "GET http://other:8080 HTTP/1.1\r\n" HOST "\r\n", "GET", "/", "other:8080", "", NULL },
        { "GET http://other?query HTTP/1.1\r\n" HOST "\r\n", "GET", "/?query", "other", "", NULL },
        { "OPTIONS * HTTP/1.1\r\n" HOST "\r\n", "OPTIONS", "*", "msd", "", NULL },
        { GET "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", "GET", "/", "msd", "",
          "Upgrade" },
        { GET "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", "GET", "/", "msd", "",
          "HTTP2-Settings" },
        { GET "Upgrade: websocket\r\n\r\n", "GET", "/", "msd", "", "Upgrade" },
        { POST CHUNKED "5;a=b\r\nhello\r\n0;e\r\n\r\n", "POST", "/", "msd", "hello", "Transfer-Encoding" },
        { POST CHUNKED "5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n", "POST", "/", "msd", "hello", "X-Trailer" },
        { POST CHUNKED "5\r\nhello\r\n0\r\nContent-Length: 38\r\nHost: other\r\n\r\n", "POST", "/", "msd", "hello",
          "Transfer-Encoding" },
        { GET "Connection: close, TE\r\nTE: trailers\r\n\r\n", "GET", "/", "msd", "", "TE" },
        { GET "Connection: close, X-Own\r\nX-Own: 1\r\n\r\n", "GET", "/", "msd", "", "X-Own" },
        { GET "Connection: x-own\r\nX-OWN: 1\r\n\r\n", "GET", "/", "msd", "", "X-Own" },
        { GET "X-Own: 1\r\nConnection: ,, ,X-Own,\r\n\r\n", "GET", "/", "msd", "", "X-Own" },
        { POST "Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", "POST", "/", "msd", "hello", "Connection" },
        { GET "Connection: Host, Via\r\n\r\n", "GET", "/", "msd", "", "Connection" },
        { "GET / HTTP/1.0\r\n\r\n", "GET", "/", NULL, "", NULL },
        { "\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", "GET", "/", "msd", "", NULL },
};

START_TEST(requests_rewritten) {
        http_send(&stage.http, "%s", rewritten[_i].bytes);
        stage_take(&stage);
        ck_assert_str_eq(stage.request.method, rewritten[_i].method);
        ck_assert_str_eq(stage.request.target, rewritten[_i].target);
        ck_assert_str_eq(text_get(&stage.request.body), rewritten[_i].body);
        if (rewritten[_i].host)
                ck_assert_str_eq(raw_field(&stage.request, "Host"), rewritten[_i].host);
        ck_assert_uint_eq(http_count_fields(&stage.request.fields, "Via"), 1);
        if (*rewritten[_i].body)
                ck_assert_str_eq(raw_field(&stage.request, "Content-Length"), "5");
        if (rewritten[_i].dropped)
                ck_assert_msg(!raw_field(&stage.request, rewritten[_i].dropped), "%s goes on", rewritten[_i].dropped);
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        if (!stage.http.ended)
                http_finish(&stage.http);
        http_expect_end(&stage.http);
        expect_next("/next");
}
END_TEST

/* A hostile model. */

#define OK "HTTP/1.1 200 OK\r\n"
#define HELLO "Content-Length: 5\r\n\r\nhello"
#define STOLEN "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"

static const struct bytes answers[] = {
        BYTES(OK "X: a\r\n b\r\n" HELLO, 502),
        BYTES(OK "X:\r\n b\r\n" HELLO, 502),
        BYTES(OK "Content-Length:\r\n 5\r\n\r\nhello", 502),
        BYTES("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello", 502),
        BYTES("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", 502),
        BYTES(OK "Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502),
        BYTES(OK "Transfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502),
        BYTES(OK "Transfer-Encoding: identity\r\n\r\nhello", 502),
        BYTES(OK "Transfer-Encoding:\r\n\r\nhello", 502),
        BYTES("HTTP/1.0 200 OK\r\n" CHUNKED "5\r\nhello\r\n0\r\n\r\n", 502),
        BYTES(OK "Content-Length: 5\r\n" CHUNKED "5\r\nhello\r\n0\r\n\r\n", 502),
        BYTES(OK "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 502),
        BYTES(OK "Content-Length: 18446744073709551621\r\n\r\nhello", 502),
        BYTES(OK ": a\r\n" HELLO, 502),
        BYTES(OK "X : a\r\n" HELLO, 502),
        BYTES(OK "X: a\rSet-Cookie: b\r\n" HELLO, 502),
        BYTES(OK "X: a\0b\r\n" HELLO, 502),
        BYTES("HTTP/2.0 200 OK\r\n" HELLO, 502),
        BYTES("HTTP/0.9 200 OK\r\n" HELLO, 502),
        BYTES("HTTP/1.2 200 OK\r\n" HELLO, 502),
        BYTES("RTSP/1.0 200 OK\r\n" HELLO, 502),
        BYTES("ICE/1.0 200 OK\r\n" HELLO, 502),
        BYTES("HTTP/1.1 099 OK\r\n" HELLO, 502),
        BYTES("HTTP/1.1 099 OK\r\n\r\n" STOLEN, 502),
        BYTES("HTTP/1.1 20 OK\r\n" HELLO, 502),
        BYTES("HTTP/1.1 2000 OK\r\n" HELLO, 502),
        BYTES("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 502),
        BYTES("HTTP/1.1 101 Switching Protocols\r\n\r\n" STOLEN, 502),
};

START_TEST(answers_refused) {
        http_ask(&stage.http, "GET", "/");
        for (unsigned times = 0; raw_take_until(&stage.raw, &stage.request, stage.http.fd, clock_patience()); times++) {
                ck_assert_uint_lt(times, 2);
                raw_send_bytes(&stage.request, answers[_i].data, answers[_i].len);
                raw_wait_gone(&stage.request);
                raw_request_deinit(&stage.request);
        }
        stage.request = (struct raw_request){ 0 };
        http_expect_error(&stage.http, answers[_i].status, "inference-failed", NULL);
        ck_assert_ptr_null(http_field(&stage.http, "Set-Cookie"));
        /* The client's connection is none the worse. */
        http_ask(&stage.http, "GET", "/next");
        stage_take(&stage);
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        http_expect_silence(&stage.http, 5 * NSEC_PER_MSEC);
}
END_TEST

/* A head that has no end, and one of too many fields. */
START_TEST(answer_heads) {
        struct text text = TEXT_NULL;

        http_ask(&stage.http, "GET", "/");
        text_appendf(&text, OK);
        for (unsigned i = 0; i < (_i == 0 ? 100u : 300u); i++)
                text_appendf(&text, "X-%u: %0*d\r\n", i, _i == 0 ? 1000 : 1, 0);
        text_appendf(&text, HELLO);
        for (unsigned times = 0; raw_take_until(&stage.raw, &stage.request, stage.http.fd, clock_patience()); times++) {
                ck_assert_uint_lt(times, 2);
                (void)raw_offer(&stage.request, text.data, text.len, CLOCK_PATIENCE);
                raw_wait_gone(&stage.request);
                raw_request_deinit(&stage.request);
        }
        stage.request = (struct raw_request){ 0 };
        text_deinit(&text);
        http_expect_error(&stage.http, 502, "inference-failed", NULL);
        expect_next("/next");
}
END_TEST

/* Answers that end before their bytes do: the rest is no answer to another request, and the connection is not used again. */
static const struct {
        const char *method;
        const char *bytes;
        unsigned status;
        const char *body;
} trailing[] = {
        { "GET", OK HELLO STOLEN, 200, "hello" },
        { "GET", OK HELLO "\r\n", 200, "hello" },
        { "GET", OK CHUNKED "5\r\nhello\r\n0\r\n\r\n" STOLEN, 200, "hello" },
        { "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 56\r\n\r\n" STOLEN, 204, "" },
        { "GET", "HTTP/1.1 204 No Content\r\n" CHUNKED "5\r\nhello\r\n0\r\n\r\n", 204, "" },
        { "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", 304, "" },
        { "HEAD", OK HELLO, 200, "" },
        { "HEAD", OK CHUNKED "5\r\nhello\r\n0\r\n\r\n", 200, "" },
        { "GET", OK "Content-Length: 0\r\n\r\nhello", 200, "" },
};

START_TEST(answers_with_more) {
        stage_ask(&stage, trailing[_i].method, "/");
        raw_send(&stage.request, "%s", trailing[_i].bytes);
        http_expect(&stage.http, trailing[_i].status, trailing[_i].body);
        raw_wait_gone(&stage.request);
        stage_ask(&stage, "GET", "/next");
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        http_expect_silence(&stage.http, 5 * NSEC_PER_MSEC);
}
END_TEST

/* The same a little later, when the connection is idle: it is closed. */
START_TEST(answer_unasked) {
        stage_ask(&stage, "GET", "/");
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        raw_send(&stage.request, STOLEN);
        raw_wait_gone(&stage.request);
        stage_ask(&stage, "GET", "/next");
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
}
END_TEST

/* What concerns the connection to the model alone does not go on; chunks are written anew. */
START_TEST(answers_rewritten) {
        stage_ask(&stage, "GET", "/");
        raw_send(&stage.request, OK "Connection: close, X-Own, TE\r\nX-Own: 1\r\nTE: x\r\nKeep-Alive: timeout=1\r\n"
                                 "Trailer: X-Trailer\r\nProxy-Authenticate: Basic\r\nX-Stays: 1\r\nUpgrade: h2c\r\n" CHUNKED
                                 "2;a=b\r\nhe\r\n003;c=\"d\"\r\nllo\r\n0;e\r\nX-Trailer: 1\r\n\r\n");
        http_expect(&stage.http, 200, "hello");
        ck_assert_ptr_null(http_field(&stage.http, "X-Own"));
        ck_assert_ptr_null(http_field(&stage.http, "TE"));
        ck_assert_ptr_null(http_field(&stage.http, "Keep-Alive"));
        ck_assert_ptr_null(http_field(&stage.http, "Trailer"));
        ck_assert_ptr_null(http_field(&stage.http, "Upgrade"));
        ck_assert_ptr_null(http_field(&stage.http, "Proxy-Authenticate"));
        ck_assert_ptr_null(http_field(&stage.http, "X-Trailer"));
        ck_assert_ptr_null(http_field(&stage.http, "Connection"));
        ck_assert_str_eq(http_field(&stage.http, "X-Stays"), "1");
        raw_wait_gone(&stage.request);
        expect_next("/next");
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_loop_test(tests, requests_refused, 0, (int)ARRAY_SIZE(refused));
        tcase_add_loop_test(tests, requests_rewritten, 0, (int)ARRAY_SIZE(rewritten));
        tcase_add_loop_test(tests, answers_refused, 0, (int)ARRAY_SIZE(answers));
        tcase_add_loop_test(tests, answer_heads, 0, 2);
        tcase_add_loop_test(tests, answers_with_more, 0, (int)ARRAY_SIZE(trailing));
        tcase_add_test(tests, answer_unasked);
        tcase_add_test(tests, answers_rewritten);
}

int main(void) {
        return suite_main("http_smuggling", add);
}
