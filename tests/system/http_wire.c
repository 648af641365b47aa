/*
 * HTTP as it comes over the wire, odd and hostile: what msd takes for a request is exactly one, which it writes anew, and
 * what is none it refuses. The model server is the test itself, and sees every byte.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/front.h"
#include "tests/support/raw.h"

#define MAX_BODY 100000

static struct front front;
static struct raw raw;
static struct http http;

static void setup(void) {
        front_init(&front);
        raw_listen(&raw, front_path(front.upstream));
        front_start(&front, OPTIONS("--upstream", front.upstream, "--model", "raw", "--max-body", "100000", "--threads", "2"));
        raw_wait_ready(&raw, &front.msd.process);
        daemon_wait_ready(&front.msd);
        http_connect(&http, front.address);
}

static void teardown(void) {
        http_close(&http);
        daemon_stop(&front.msd);
        raw_close(&raw);
        front_deinit(&front);
}

/* The next request that msd sends has this method, target and body. */
static void take(struct raw_request *request, const char *method, const char *target, const char *body) {
        raw_take(&raw, request);
        ck_assert_str_eq(request->method, method);
        ck_assert_str_eq(request->target, target);
        ck_assert_str_eq(text_get(&request->body), body);
}

/* It is answered, and its client has the answer. */
static void pass(const char *method, const char *target, const char *body) {
        struct raw_request request;

        take(&request, method, target, body);
        raw_answer(&request, strcmp(method, "HEAD") == 0 ? "" : "answer");
        http_expect(&http, 200, strcmp(method, "HEAD") == 0 ? "" : "answer");
        raw_request_deinit(&request);
}

/* What may become of odd bytes. */
enum outcome {
        REFUSED,        /* with an error, and the end of the connection */
        DROPPED,        /* the same, or with the end alone: it does not even look like a request */
        PASSED,         /* as one request */
        EITHER,
};

struct odd {
        enum outcome outcome;
        const char *bytes;
        size_t len;
        const char *target;     /* what it is passed on as; NULL: whatever it may be */
        const char *body;
};

#define ODD(outcome, bytes, ...) { outcome, bytes, sizeof(bytes) - 1, __VA_ARGS__ }
#define HOST "Host: msd\r\n"
#define GET "GET / HTTP/1.1\r\n" HOST
#define POST "POST / HTTP/1.1\r\n" HOST
#define SMUGGLED "GET /smuggled HTTP/1.1\r\nHost: msd\r\n\r\n"

static const struct odd odds[] = {
        /* Two framings, or none. */
        ODD(REFUSED, POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SMUGGLED, NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" SMUGGLED, NULL, NULL),
        ODD(REFUSED, POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", NULL, NULL),
        ODD(REFUSED, POST "Content-Length: 0\r\nContent-Length: 38\r\n\r\n" SMUGGLED, NULL, NULL),
        ODD(REFUSED, POST "Content-Length: 38\r\nContent-Length: 0\r\n\r\n" SMUGGLED, NULL, NULL),
        ODD(REFUSED, POST "Content-Length: 5, 5\r\n\r\nhello", NULL, NULL),
        ODD(REFUSED, POST "Content-Length: +5\r\n\r\nhello", NULL, NULL),
        ODD(REFUSED, POST "Content-Length: -5\r\n\r\nhello", NULL, NULL),
        ODD(REFUSED, POST "Content-Length: 0x5\r\n\r\nhello", NULL, NULL),
        ODD(REFUSED, POST "Content-Length: 5a\r\n\r\nhello", NULL, NULL),
        ODD(REFUSED, POST "Content-Length: 5;\r\n\r\nhello", NULL, NULL),
        ODD(REFUSED, POST "Content-Length: 5 5\r\n\r\nhello", NULL, NULL),
        ODD(REFUSED, POST "Content-Length: five\r\n\r\nhello", NULL, NULL),
        ODD(REFUSED, POST "Content-Length: 99999999999999999999\r\n\r\nhello", NULL, NULL),
        ODD(REFUSED, POST "Content-Length: 18446744073709551621\r\n\r\nhello", NULL, NULL),
        ODD(REFUSED, POST "Content-Length:\r\n\r\n" SMUGGLED, NULL, NULL),
        ODD(REFUSED, POST "Content-Length : 38\r\n\r\n" SMUGGLED, NULL, NULL),
        ODD(REFUSED, POST "Content-Length\t: 38\r\n\r\n" SMUGGLED, NULL, NULL),
        ODD(EITHER, POST "Content-Length:\r\n 5\r\n\r\nhello", "/", "hello"),
        ODD(EITHER, POST "Content-Length: 5 \t\r\n\r\nhello", "/", "hello"),
        ODD(EITHER, POST "Content-Length: 005\r\n\r\nhello", "/", "hello"),
        ODD(PASSED, POST "Content-Length:5\r\n\r\nhello", "/", "hello"),
        ODD(PASSED, POST "content-length:  \t5\r\n\r\nhello", "/", "hello"),
        ODD(PASSED, GET "Content-Length: 5\r\n\r\nhello", "/", "hello"),

        ODD(REFUSED, POST "Transfer-Encoding: identity\r\n\r\n" SMUGGLED, NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding:\x0b" "chunked\r\n\r\n0\r\n\r\n", NULL, NULL),
        /* libmicrohttpd 0.9.75 takes a NUL for the end, here and below, and leaves a field without a name out: one request still. */
        ODD(EITHER, POST "Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding:\r\n\r\n" SMUGGLED, NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: identity\r\nContent-Length: 38\r\n\r\n" SMUGGLED, NULL, NULL),
        ODD(EITHER, POST "Transfer-Encoding:\r\n chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "/", "hello"),
        ODD(EITHER, "POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "/", "hello"),
        ODD(PASSED, POST "Transfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "/", "hello"),
        ODD(EITHER, POST "Transfer-Encoding: \tchunked \r\n\r\n5\r\nhello\r\n0\r\n\r\n", "/", "hello"),

        /* Chunks. */
        ODD(PASSED, POST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "/", "hello world"),
        ODD(PASSED, POST "Transfer-Encoding: chunked\r\n\r\n000A\r\n0123456789\r\n00\r\n\r\n", "/", "0123456789"),
        ODD(PASSED, POST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "/", ""),
        ODD(EITHER, POST "Transfer-Encoding: chunked\r\n\r\n5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n", "/", "hello"),
        ODD(EITHER, POST "Transfer-Encoding: chunked\r\n\r\n5;a\nhello\r\n0\r\n\r\n", "/", "hello"),
        ODD(EITHER, POST "Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", "/", "hello"),
        ODD(EITHER, POST "Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", "/", "hello"),
        ODD(EITHER, POST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n", "/", "hello"),
        ODD(EITHER, POST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 38\r\n\r\n", "/", "hello"),
        ODD(EITHER, POST "Trailer: X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nHost: other\r\n\r\n", "/", "hello"),
        ODD(REFUSED, POST "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunked\r\n\r\ng\r\nhello\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n", NULL, NULL),
        ODD(REFUSED, POST "Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n", NULL, NULL),

        /* Lines. */
        ODD(EITHER, POST "X: a\nContent-Length: 5\r\n\r\nhello", "/", "hello"),
        ODD(REFUSED, GET "X: a\rContent-Length: 38\r\n\r\n" SMUGGLED, NULL, NULL),
        ODD(EITHER, GET "X: a\r b\r\n\r\n", "/", ""),
        ODD(EITHER, GET "X: a\r\n b\r\n\r\n", "/", ""),
        ODD(EITHER, GET "X: a\r\n\tContent-Length: 5\r\n\r\n", "/", ""),
        ODD(EITHER, "GET / HTTP/1.1\nHost: msd\n\n", "/", ""),
        ODD(EITHER, "GET / HTTP/1.1\r\nHost: msd\r\n\n", "/", ""),
        ODD(REFUSED, "GET / HTTP/1.1\r\n Host: msd\r\n\r\n", NULL, NULL),
        ODD(REFUSED, "GET / HTTP/1.1\r\n X: a\r\nHost: msd\r\n\r\n", NULL, NULL),
        ODD(EITHER, GET "X: a\0b\r\n\r\n", NULL, NULL),
        ODD(REFUSED, GET "X\0Y: a\r\n\r\n", NULL, NULL),
        ODD(EITHER, "GET /a\0b HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, GET "X: a\x01\r\n\r\n", NULL, NULL),
        ODD(REFUSED, GET "X: a\x7f\r\n\r\n", NULL, NULL),
        ODD(REFUSED, GET "no colon\r\n\r\n", NULL, NULL),
        ODD(EITHER, GET ": no name\r\n\r\n", NULL, NULL),
        ODD(REFUSED, GET "X : a\r\n\r\n", NULL, NULL),
        ODD(REFUSED, GET "X Y: a\r\n\r\n", NULL, NULL),
        ODD(REFUSED, GET "X(Y): a\r\n\r\n", NULL, NULL),
        ODD(REFUSED, GET "X\x80: a\r\n\r\n", NULL, NULL),
        ODD(PASSED, GET "X: \xc3\xa9\r\n\r\n", "/", ""),
        ODD(PASSED, "\r\nGET / HTTP/1.1\r\n" HOST "\r\n", "/", ""),

        /* Hosts. */
        ODD(REFUSED, "GET / HTTP/1.1\r\n\r\n", NULL, NULL),
        ODD(REFUSED, GET HOST "\r\n", NULL, NULL),
        ODD(REFUSED, GET "Host: other\r\n\r\n", NULL, NULL),
        ODD(REFUSED, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", NULL, NULL),
        ODD(REFUSED, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", NULL, NULL),
        ODD(REFUSED, "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", NULL, NULL),
        ODD(PASSED, "GET / HTTP/1.1\r\nHost:\r\n\r\n", "/", ""),
        ODD(PASSED, "GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", "/", ""),
        ODD(PASSED, "GET / HTTP/1.0\r\n\r\n", "/", ""),

        /* Targets. */
        ODD(PASSED, "GET /a/../b/./c//d?e=f&g HTTP/1.1\r\n" HOST "\r\n", "/a/../b/./c//d?e=f&g", ""),
        ODD(PASSED, "GET //other/path HTTP/1.1\r\n" HOST "\r\n", "//other/path", ""),
        ODD(PASSED, "GET /%00%2e%2E/%0d%0aX:%20y HTTP/1.1\r\n" HOST "\r\n", "/%00%2e%2E/%0d%0aX:%20y", ""),
        ODD(PASSED, "GET /? HTTP/1.1\r\n" HOST "\r\n", "/?", ""),
        ODD(PASSED, "GET /@other/:80 HTTP/1.1\r\n" HOST "\r\n", "/@other/:80", ""),
        ODD(PASSED, "GET /[]{}|^`\"<>\\ HTTP/1.1\r\n" HOST "\r\n", "/[]{}|^`\"<>\\", ""),
        ODD(PASSED, "GET http://msd/path?query HTTP/1.1\r\n" HOST "\r\n", "/path?query", ""),
        ODD(PASSED, "GET http://msd HTTP/1.1\r\n" HOST "\r\n", "/", ""),
        ODD(PASSED, "GET http://msd?query HTTP/1.1\r\n" HOST "\r\n", "/?query", ""),
        ODD(PASSED, "GET HTTP://msd/ HTTP/1.1\r\n" HOST "\r\n", "/", ""),
        ODD(EITHER, "GET https://msd/ HTTP/1.1\r\n" HOST "\r\n", "/", ""),
        ODD(REFUSED, "GET http:// HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET http:///path HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET http://a@b/ HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET ftp://msd/ HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET file:///etc/passwd HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET path HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET ?query HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET @other/ HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET :80/ HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET * HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(EITHER, "OPTIONS * HTTP/1.1\r\n" HOST "\r\n", "*", ""),
        ODD(DROPPED, "GET /a b HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET /a\tb HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET /a\rb HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET /a\x01 HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET /a\x7f HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(DROPPED, "GET /a HTTP/1.1 HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET /a#fragment HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(EITHER, "GET  / HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(DROPPED, "GET /  HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),

        /* Methods and versions. */
        ODD(REFUSED, "CONNECT msd:80 HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "TRACE / HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "G(T / HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(DROPPED, " GET / HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET\t/ HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET /\r\n\r\n", NULL, NULL),
        ODD(DROPPED, "GET\r\n\r\n", NULL, NULL),
        ODD(REFUSED, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 \r\n\r\n", NULL, NULL),
        ODD(REFUSED, "GET / HTTP/2.0\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", NULL, NULL),
        ODD(REFUSED, "GET / HTTP/0.9\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET / HTTP/1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET / HTTP/1.10\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET / http/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "GET / HTTPS/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "get / HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(REFUSED, "FOO-BAR / HTTP/1.1\r\n" HOST "\r\n", NULL, NULL),
        ODD(EITHER, "GET / HTTP/1.2\r\n" HOST "\r\n", "/", ""),

        /* What concerns this connection alone. */
        ODD(PASSED, POST "Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", "/", "hello"),
        ODD(PASSED, POST "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "/", "hello"),
        ODD(PASSED, GET "Connection: Host\r\n\r\n", "/", ""),
        ODD(PASSED, GET "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
            "/", ""),
        ODD(PASSED, GET "Connection: ,, ,\r\n\r\n", "/", ""),
        ODD(PASSED, GET "Max-Forwards: 0\r\n\r\n", "/", ""),
        ODD(EITHER, GET "Expect: miracles\r\n\r\n", "/", ""),
};

static bool is_refusal(unsigned status) {
        return status >= 400 && status < 600 && status != 502 && status != 503 && status != 504;
}

/* What comes behind the first answer is the end, or a refusal of the rest and then the end; nothing is sent on. */
static void expect_nothing_more(void) {
        struct raw_request request;

        if (!http.ended)
                (void)shutdown(http.fd, SHUT_WR);
        while (!http.ended) {
                if (raw_take_until(&raw, &request, http.fd, clock_patience()))
                        ck_abort_msg("A second request: %s", request.bytes.data);
                http_read(&http);
        }
        /* Behind a refusal nobody reads on. */
        if (http.status >= 400)
                return;
        while (http_head(&http)) {
                ck_assert_msg(is_refusal(http.status), "A second answer: %u", http.status);
                http_end(&http);
        }
}

/* One request, or none. */
START_TEST(one_or_none) {
        const struct odd *odd = &odds[_i];
        struct raw_request request;

        (void)http_offer(&http, odd->bytes, odd->len);
        if (raw_take_until(&raw, &request, http.fd, clock_patience())) {
                ck_assert_msg(odd->outcome == PASSED || odd->outcome == EITHER, "It was passed on: %s", request.bytes.data);
                if (odd->target)
                        ck_assert_str_eq(request.target, odd->target);
                if (odd->body)
                        ck_assert_str_eq(text_get(&request.body), odd->body);
                ck_assert_ptr_nonnull(raw_field(&request, "Via"));
                ck_assert_ptr_null(raw_field(&request, "Connection"));
                ck_assert_ptr_null(raw_field(&request, "Upgrade"));
                ck_assert_ptr_null(raw_field(&request, "HTTP2-Settings"));
                ck_assert_ptr_null(raw_field(&request, "Trailer"));
                ck_assert_ptr_null(raw_field(&request, "X-Trailer"));
                raw_answer(&request, "answer");
                http_expect(&http, 200, "answer");
                raw_request_deinit(&request);
        } else {
                ck_assert_msg(odd->outcome != PASSED, "It was not passed on: %.*s", (int)odd->len, odd->bytes);
                if (!http_head(&http)) {
                        if (odd->outcome == DROPPED)
                                return;
                        ck_abort_msg("It is not said what is wrong with: %.*s", (int)odd->len, odd->bytes);
                }
                ck_assert_msg(is_refusal(http.status), "A refusal with %u", http.status);
                ck_assert_str_eq(http_field(&http, "Connection"), "close");
                http_end(&http);
        }
        expect_nothing_more();
}
END_TEST

/* With the error object, as everybody's. */
static const struct {
        unsigned status;
        const char *code;
        const char *bytes;
} refused[] = {
        { 400, "bad-request", POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
        { 400, "bad-request", POST "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" },
        { 501, "not-implemented", POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" },
        { 501, "not-implemented", "FOO-BAR / HTTP/1.1\r\n" HOST "\r\n" },
        { 505, NULL, "GET / HTTP/2.0\r\n" HOST "\r\n" },
        { 417, NULL, POST "Expect: miracles\r\nContent-Length: 0\r\n\r\n" },
        { 405, NULL, "TRACE / HTTP/1.1\r\n" HOST "\r\n" },
        { 405, NULL, "CONNECT msd:80 HTTP/1.1\r\n" HOST "\r\n" },
        { 413, "too-large", POST "Expect: 100-continue\r\nContent-Length: 100001\r\n\r\n" },
        { 413, "too-large", POST "Content-Length: 18446744073709551615\r\n\r\n" },
};

START_TEST(refusals) {
        http_send_bytes(&http, refused[_i].bytes, strlen(refused[_i].bytes));
        http_expect_error(&http, refused[_i].status, refused[_i].code, NULL);
        expect_nothing_more();
}
END_TEST

/* Several on one connection, each when the one before is answered. */
START_TEST(kept_alive) {
        for (unsigned i = 0; i < 20; i++) {
                http_post(&http, "/v1/completions", "{}");
                pass("POST", "/v1/completions", "{}");
                http_ask(&http, "GET", "/-/ready");
                http_expect(&http, 200, "ready\n");
                http_ask(&http, "HEAD", "/v1/models");
                pass("HEAD", "/v1/models", "");
        }
        /* The upstream's is kept too. */
        ck_assert_uint_le(raw.accepted, 2);
        http_send(&http, GET "Connection: close\r\n\r\n");
        pass("GET", "/", "");
        http_expect_end(&http);
}
END_TEST

START_TEST(http_1_0) {
        http_send(&http, "GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        pass("GET", "/old", "");
        http_send(&http, "GET /older HTTP/1.0\r\n\r\n");
        pass("GET", "/older", "");
        http_expect_end(&http);
}
END_TEST

/* A client that knows no chunks gets none. */
START_TEST(http_1_0_unknown_length) {
        struct raw_request request;

        http_send(&http, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        take(&request, "GET", "/", "");
        raw_send(&request, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        http_expect(&http, 200, "hello");
        ck_assert_int_eq(http.framing, HTTP_CLOSE);
        raw_request_deinit(&request);
}
END_TEST

/* All in one go: each is answered, in its order, whoever would have been faster. */
START_TEST(pipelined) {
        struct raw_request request;

        http_send(&http, "POST /1 HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\none"
                         "GET /-/live HTTP/1.1\r\n" HOST "\r\n"
                         "POST /2 HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n"
                         "GET /3 HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n"
                         "GET /4 HTTP/1.1\r\n" HOST "\r\n");
        take(&request, "POST", "/1", "one");
        http_expect_silence(&http, 50 * NSEC_PER_MSEC);
        raw_answer(&request, "1");
        raw_request_deinit(&request);
        http_expect(&http, 200, "1");
        http_expect(&http, 200, "ok\n");
        take(&request, "POST", "/2", "two");
        raw_answer(&request, "2");
        raw_request_deinit(&request);
        http_expect(&http, 200, "2");
        take(&request, "GET", "/3", "");
        raw_answer(&request, "3");
        raw_request_deinit(&request);
        http_expect(&http, 200, "3");
        /* What stands behind the last one is nobody's. */
        expect_nothing_more();
}
END_TEST

START_TEST(many_pipelined) {
        struct text text = TEXT_NULL;

        for (unsigned i = 0; i < 500; i++)
                text_appendf(&text, "POST /%u HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello", i);
        http_send_bytes(&http, text.data, text.len);
        text_deinit(&text);
        for (unsigned i = 0; i < 500; i++) {
                char target[16];

                snprintf(target, sizeof(target), "/%u", i);
                pass("POST", target, "hello");
        }
}
END_TEST

/* The next byte goes when the one before was read: that is what a slow client looks like from within. */
START_TEST(byte_by_byte) {
        static const char bytes[] = "POST /slow HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
                                    "5;extension\r\nhello\r\n0\r\n\r\n";
        static const char more[] = "POST /slower HTTP/1.1\r\n" HOST "Content-Length: 11\r\n\r\nhello world";
        struct peer_status status;

        for (size_t i = 0; i + 1 < sizeof(bytes); i++) {
                http_send_bytes(&http, bytes + i, 1);
                peer_status(&front.msd.control, &status);
                ck_assert_uint_eq(status.waiting + status.cancelled + status.failed, 0);
        }
        pass("POST", "/slow", "hello");
        for (size_t i = 0; i + 1 < sizeof(more); i++) {
                http_send_bytes(&http, more + i, 1);
                peer_status(&front.msd.control, &status);
        }
        pass("POST", "/slower", "hello world");
}
END_TEST

/* Bodies of no bytes, of as many as may be, and of one more, with a length and without. */
START_TEST(body_sizes) {
        static char body[MAX_BODY + 2];
        struct raw_request request;
        struct peer_status status;

        memset(body, 'b', MAX_BODY + 1);
        http_send(&http, POST "Content-Length: 0\r\n\r\n");
        take(&request, "POST", "/", "");
        /* None and one of no bytes are not the same. */
        ck_assert_str_eq(raw_field(&request, "Content-Length"), "0");
        raw_answer(&request, "answer");
        http_expect(&http, 200, "answer");
        raw_request_deinit(&request);
        http_ask(&http, "GET", "/");
        take(&request, "GET", "/", "");
        ck_assert_ptr_null(raw_field(&request, "Content-Length"));
        raw_answer(&request, "answer");
        http_expect(&http, 200, "answer");
        raw_request_deinit(&request);

        body[MAX_BODY] = '\0';
        http_send(&http, POST "Content-Length: %d\r\n\r\n", MAX_BODY);
        http_send_bytes(&http, body, MAX_BODY);
        pass("POST", "/", body);
        http_send(&http, POST "Transfer-Encoding: chunked\r\n\r\n%x\r\n", MAX_BODY);
        http_send_bytes(&http, body, MAX_BODY);
        http_send(&http, "\r\n0\r\n\r\n");
        pass("POST", "/", body);

        body[MAX_BODY] = 'b';
        http_send(&http, POST "Content-Length: %d\r\n\r\n", MAX_BODY + 1);
        (void)http_offer(&http, body, MAX_BODY + 1);
        http_expect_error(&http, 413, "too-large", NULL);
        expect_nothing_more();
        http_close(&http);
        http_connect(&http, front.address);
        http_send(&http, POST "Transfer-Encoding: chunked\r\n\r\n%x\r\n", MAX_BODY + 1);
        (void)http_offer(&http, body, MAX_BODY + 1);
        (void)http_offer(&http, "\r\n0\r\n\r\n", 7);
        http_expect_error(&http, 413, "too-large", NULL);
        expect_nothing_more();
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.completed, 4);
        ck_assert_uint_eq(status.processing + status.waiting, 0);
}
END_TEST

/* A body without an end is cut, and costs no memory. */
START_TEST(endless_body) {
        static char chunk[65536 + 9];
        uint64_t sent = 0;

        memcpy(chunk, "10000\r\n", 7);
        memset(chunk + 7, 'b', 65536);
        memcpy(chunk + 7 + 65536, "\r\n", 2);
        http_send(&http, POST "Transfer-Encoding: chunked\r\n\r\n");
        while (http_offer(&http, chunk, sizeof(chunk))) {
                sent += sizeof(chunk);
                ck_assert_msg(sent < UINT64_C(1) << 30, "msd reads on and on");
        }
        /* Who sends on when the answer is there may not come to read it. */
        if (http_head(&http))
                ck_assert_uint_eq(http.status, 413);
}
END_TEST

START_TEST(expect_continue) {
        struct raw_request request;

        http_send(&http, POST "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        http_expect(&http, 100, "");
        http_send(&http, "hello");
        take(&request, "POST", "/", "hello");
        ck_assert_ptr_null(raw_field(&request, "Expect"));
        raw_answer(&request, "answer");
        http_expect(&http, 200, "answer");
        raw_request_deinit(&request);
        http_send(&http, POST "Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n");
        http_expect(&http, 100, "");
        http_send(&http, "5\r\nhello\r\n0\r\n\r\n");
        pass("POST", "/", "hello");
        /* Who does not wait for it may not get it. */
        http_send(&http, POST "Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
        take(&request, "POST", "/", "hello");
        raw_answer(&request, "answer");
        http_next(&http);
        if (http.status == 100)
                http_next(&http);
        ck_assert_uint_eq(http.status, 200);
        raw_request_deinit(&request);
        /* It is not asked for what would be refused. */
        http_send(&http, POST "Expect: 100-continue\r\nContent-Length: %d\r\n\r\n", MAX_BODY + 1);
        http_expect_error(&http, 413, "too-large", NULL);
        expect_nothing_more();
}
END_TEST

/* The head has a limit, however it grows. */
START_TEST(large_heads) {
        static char filler[80000];
        struct text text = TEXT_NULL;

        memset(filler, 'f', sizeof(filler));
        switch (_i) {
        case 0:
                text_appendf(&text, GET "X: %.*s\r\n\r\n", 70000, filler);
                break;
        case 1:
                text_appendf(&text, GET);
                for (unsigned i = 0; i < 4000; i++)
                        text_appendf(&text, "X-%u: y\r\n", i);
                text_appendf(&text, "\r\n");
                break;
        case 2:
                text_appendf(&text, GET "%.*s", 70000, filler);
                break;
        default:
                text_appendf(&text, "GET /%.*s HTTP/1.1\r\n" HOST "\r\n", 70000, filler);
        }
        (void)http_offer(&http, text.data, text.len);
        text_deinit(&text);
        http_next(&http);
        if (_i == 3)
                ck_assert_msg(http.status == 431 || http.status == 414, "It is %u", http.status);
        else
                ck_assert_uint_eq(http.status, 431);
        expect_nothing_more();
}
END_TEST

/* Up to a limit that real clients never reach. */
START_TEST(fairly_large_head) {
        static char filler[16000];
        struct raw_request request;
        struct text text = TEXT_NULL;

        memset(filler, 'f', sizeof(filler) - 1);
        text_appendf(&text, GET "X-Large: %s\r\n\r\n", filler);
        http_send_bytes(&http, text.data, text.len);
        text_deinit(&text);
        take(&request, "GET", "/", "");
        ck_assert_str_eq(raw_field(&request, "X-Large"), filler);
        raw_answer(&request, "answer");
        http_expect(&http, 200, "answer");
        raw_request_deinit(&request);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_loop_test(tests, one_or_none, 0, (int)ARRAY_SIZE(odds));
        tcase_add_loop_test(tests, refusals, 0, (int)ARRAY_SIZE(refused));
        tcase_add_test(tests, kept_alive);
        tcase_add_test(tests, http_1_0);
        tcase_add_test(tests, http_1_0_unknown_length);
        tcase_add_test(tests, pipelined);
        tcase_add_test(tests, many_pipelined);
        tcase_add_test(tests, byte_by_byte);
        tcase_add_test(tests, body_sizes);
        tcase_add_test(tests, endless_body);
        tcase_add_test(tests, expect_continue);
        tcase_add_loop_test(tests, large_heads, 0, 4);
        tcase_add_test(tests, fairly_large_head);
}

int main(void) {
        return suite_main("http_wire", add);
}
