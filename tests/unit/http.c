#include "daemon/net/http.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/unit.h"

#define HOST "Host: a\r\n"
#define GET(fields) "GET / HTTP/1.1\r\n" HOST fields "\r\n"
#define POST(fields) "POST /v1 HTTP/1.1\r\n" HOST fields "\r\n"
#define OK(fields) "HTTP/1.1 200 OK\r\n" fields "\r\n"

/* In memory that is no longer than the text, so that a reader that goes beyond it is found. */
static char *exactly(const char *text, size_t len) {
        char *copy = malloc(len > 0 ? len : 1);

        ck_assert_ptr_nonnull(copy);
        memcpy(copy, text, len);
        return copy;
}

static enum http_parsed parse_request(struct http_request *request, const char *text, size_t len, size_t seen,
                                      struct http_refusal *refusal) {
        _cleanup_free_ char *copy = exactly(text, len);

        *refusal = (struct http_refusal){ 0 };
        return http_parse_request(request, copy, len, seen, refusal);
}

static enum http_parsed parse_answer(struct http_answer *answer, const char *text, size_t len, size_t seen,
                                     struct http_refusal *refusal) {
        _cleanup_free_ char *copy = exactly(text, len);

        *refusal = (struct http_refusal){ 0 };
        return http_parse_answer(answer, copy, len, seen, refusal);
}

/* --- What is refused. Each has one fault, and is cut at every byte. */

static const struct {
        const char *head;
        unsigned status;
        const char *word;               /* is in the message */
} refused_requests[] = {
        /* 1: folded lines */
        { GET("A: b\r\n c\r\n"), 400, "white space" },
        { GET("A:\r\n c\r\n"), 400, "white space" },
        { GET("A: b\r\n\tc\r\n"), 400, "white space" },
        { GET("A: b\r\n \r\n"), 400, "white space" },
        { GET("Content-Length: 1\r\n 2\r\n"), 400, "white space" },
        { GET("Transfer-Encoding:\r\n chunked\r\n"), 400, "white space" },
        { "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "white space" },
        /* 2: the end of lines, and of the head */
        { "GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "LF" },
        { "GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "LF" },
        { "GET / HTTP/1.1\r\nHost: a\n\r\n", 400, "LF" },
        { "GET / HTTP/1.1\n\nHost: a\r\n\r\n", 400, "LF" },
        { "GET / HTTP/1.1\n\r\n", 400, "LF" },
        { "GET / HTTP/1.1\r\nHost: a\r\n\rX: y\r\n\r\n", 400, "CR" },
        { "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n", 400, "CR" },
        { GET("A: b\rc\r\n"), 400, "value" },
        { GET("A: b\r\r\n"), 400, "value" },
        { "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "LF" },
        /* 3: transfer encodings */
        { POST("Transfer-Encoding: gzip\r\n"), 501, "Transfer-Encoding" },
        { POST("Transfer-Encoding: gzip, chunked\r\n"), 501, "Transfer-Encoding" },
        { POST("Transfer-Encoding: chunked, gzip\r\n"), 501, "Transfer-Encoding" },
        { POST("Transfer-Encoding: chunked, chunked\r\n"), 501, "Transfer-Encoding" },
        { POST("Transfer-Encoding: chunked;q=1\r\n"), 501, "Transfer-Encoding" },
        { POST("Transfer-Encoding: \"chunked\"\r\n"), 501, "Transfer-Encoding" },
        { POST("Transfer-Encoding: xchunked\r\n"), 501, "Transfer-Encoding" },
        { POST("Transfer-Encoding: identity\r\n"), 501, "Transfer-Encoding" },
        { POST("Transfer-Encoding: ,chunked\r\n"), 501, "Transfer-Encoding" },
        { POST("Transfer-Encoding:\r\n"), 400, "Transfer-Encoding is empty" },
        { POST("Transfer-Encoding: \t \r\n"), 400, "Transfer-Encoding is empty" },
        { POST("Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n"), 400, "two Transfer-Encoding" },
        { "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "HTTP/1.0" },
        { POST("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), 400, "Content-Length" },
        { POST("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400, "Content-Length" },
        { POST("Transfer-Encoding : chunked\r\n"), 400, "name" },
        { POST("Transfer-Encoding\t: chunked\r\n"), 400, "name" },
        { POST("Transfer\x01" "Encoding: chunked\r\n"), 400, "name" },
        /* 4: lengths */
        { POST("Content-Length:\r\n"), 400, "Content-Length" },
        { POST("Content-Length: +1\r\n"), 400, "Content-Length" },
        { POST("Content-Length: -1\r\n"), 400, "Content-Length" },
        { POST("Content-Length: 0x1\r\n"), 400, "Content-Length" },
        { POST("Content-Length: 1 2\r\n"), 400, "Content-Length" },
        { POST("Content-Length: 1,1\r\n"), 400, "Content-Length" },
        { POST("Content-Length: 1.0\r\n"), 400, "Content-Length" },
        { POST("Content-Length: 1;\r\n"), 400, "Content-Length" },
        { POST("Content-Length: 9223372036854775808\r\n"), 413, "Content-Length" },
        { POST("Content-Length: 18446744073709551615\r\n"), 413, "Content-Length" },
        { POST("Content-Length: 18446744073709551617\r\n"), 413, "Content-Length" },
        { POST("Content-Length: 1\r\nContent-Length: 1\r\n"), 400, "Content-Length" },
        { POST("Content-Length: 1\r\nContent-Length: 2\r\n"), 400, "Content-Length" },
        /* 6: hosts, targets, names */
        { "GET / HTTP/1.1\r\n\r\n", 400, "no Host" },
        { "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "two Host" },
        { "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, "two Host" },
        { "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "Host" },
        { "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, "Host" },
        { "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "Host" },
        { "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET /?a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET /\t HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET /\ra HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request line" },
        { "GET HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request line" },
        { "GET *a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "OPTIONS *a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET http:/a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host" },
        { "GET http:// HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target" },
        { "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host" },
        { "GET http://a\\b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host" },
        { "GET http://a/ HTTP/1.1\r\n\r\n", 400, "no Host" },
        { GET(": a\r\n"), 400, "empty name" },
        { "GET / HTTP/1.1\r\n: a\r\nHost: a\r\n\r\n", 400, "empty name" },
        { GET("A\r\n"), 400, "name" },
        { GET("A b: c\r\n"), 400, "name" },
        { GET("A\xc3: c\r\n"), 400, "name" },
        { GET("(: c\r\n"), 400, "name" },
        { GET("A: \x01\r\n"), 400, "value" },
        { GET("A:\x1f\r\n"), 400, "value" },
        { GET("A: b\x7f\r\n"), 400, "value" },
        { GET("Host\x01: b\r\n"), 400, "name" },
        { GET("Connection: \x02\r\n"), 400, "value" },
        /* 7: versions */
        { "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version" },
        { "GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505, "version" },
        { "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, "version" },
        { "GET / http/1.1\r\nHost: a\r\n\r\n", 505, "version" },
        { "GET / RTSP/1.0\r\nHost: a\r\n\r\n", 505, "version" },
        { "SOURCE / ICE/1.0\r\nHost: a\r\n\r\n", 400, "request line" },
        { "OPTIONS /abc ICE/1.0\r\nHost: a\r\n\r\n", 400, "request line" },
        { "PRI * HTTP/2.0\r\n\r\n", 505, "version" },
        { "GET /\r\n\r\n", 400, "request line" },
        { "GET /abcdefghijklmnop\r\n\r\n", 400, "request line" },
        { "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, "request line" },
        { "GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400, "request line" },
        { "\x16\x03\x01\x02\r\n\r\n", 400, "no request" },
        { "{\"a\": 1}\r\n\r\n", 400, "no request" },
        { " / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "no request" },
        { "G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "no request" },
        /* 8: methods */
        { "GETS / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method" },
        { "GE / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method" },
        { "get / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method" },
        { "DESCRIBE / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method" },
        { "PRI / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method" },
        { "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGH / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method" },
        /* 9: tunnels */
        { "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405, "CONNECT" },
        { "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405, "TRACE" },
        /* expectations */
        { POST("Expect: 200-ok\r\n"), 417, "Expect" },
        { POST("Expect:\r\n"), 417, "Expect" },
};

START_TEST(request_is_refused) {
        const char *head = refused_requests[_i].head;
        size_t len = strlen(head), seen = 0;
        struct http_request request;
        struct http_refusal refusal;
        enum http_parsed parsed = HTTP_PARTIAL;

        ck_assert_int_eq(parse_request(&request, head, len, 0, &refusal), HTTP_REFUSED);
        ck_assert_uint_eq(refusal.status, refused_requests[_i].status);
        ck_assert_msg(strstr(refusal.message, refused_requests[_i].word), "%s: %s", head, refusal.message);
        for (size_t cut = 0; cut <= len && parsed == HTTP_PARTIAL; cut++) {
                parsed = parse_request(&request, head, cut, seen, &refusal);
                ck_assert_msg(parsed != HTTP_WHOLE, "%s: whole at %zu", head, cut);
                seen = cut;
        }
        ck_assert_int_eq(parsed, HTTP_REFUSED);
        ck_assert_ptr_nonnull(refusal.message);
        ck_assert_uint_ge(refusal.status, 400);
}
END_TEST

static const struct {
        const char *head;
        const char *word;
} refused_answers[] = {
        { OK("A: b\r\n c\r\n"), "white space" },
        { "HTTP/1.1 200 OK\r\nA: b\r\n\n", "LF" },
        { "HTTP/1.1 200 OK\nA: b\r\n\r\n", "LF" },
        { "HTTP/1.1 200 OK\r\n: b\r\n\r\n", "empty name" },
        { "HTTP/1.1 200 O\rK\r\n\r\n", "reason" },
        { "HTTP/1.1 200 O\x01K\r\n\r\n", "reason" },
        { "HTTP/1.1 200 O\x7fK\r\n\r\n", "reason" },
        { "HTTP/2.0 200 OK\r\n\r\n", "version" },
        { "HTTP/1.2 200 OK\r\n\r\n", "version" },
        { "HTTP/0.9 200 OK\r\n\r\n", "version" },
        { "RTSP/1.0 200 OK\r\n\r\n", "not one of HTTP" },
        { "ICY 200 OK\r\n\r\n", "not one of HTTP" },
        { "\r\nHTTP/1.1 200 OK\r\n\r\n", "not one of HTTP" },
        { "hello\r\n\r\n", "not one of HTTP" },
        { "HTTP/1.1 099 OK\r\n\r\n", "below 100" },
        { "HTTP/1.1 000 OK\r\n\r\n", "below 100" },
        { "HTTP/1.1 99 OK\r\n\r\n", "three digits" },
        { "HTTP/1.1 20 OK\r\n\r\n", "three digits" },
        { "HTTP/1.1 2000 OK\r\n\r\n", "three digits" },
        { "HTTP/1.1 0200 OK\r\n\r\n", "three digits" },
        { "HTTP/1.1  200 OK\r\n\r\n", "three digits" },
        { "HTTP/1.1 200OK\r\n\r\n", "three digits" },
        { "HTTP/1.1 200\tOK\r\n\r\n", "three digits" },
        { "HTTP/1.1\r\n\r\n", "three digits" },
        { "HTTP/1.1 +20 OK\r\n\r\n", "three digits" },
        { OK("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), "Content-Length" },
        { OK("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), "Content-Length" },
        { OK("Content-Length: 1\r\nContent-Length: 1\r\n"), "Content-Length" },
        { OK("Content-Length: 1, 1\r\n"), "Content-Length" },
        { OK("Content-Length: -1\r\n"), "Content-Length" },
        { OK("Transfer-Encoding: gzip\r\n"), "Transfer-Encoding" },
        { OK("Transfer-Encoding: gzip, chunked\r\n"), "Transfer-Encoding" },
        { OK("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), "Transfer-Encoding" },
        { OK("Transfer-Encoding:\r\n"), "Transfer-Encoding" },
        { "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.0" },
        { OK("A b: c\r\n"), "name" },
        { OK("A: \x01\r\n"), "value" },
};

START_TEST(answer_is_refused) {
        const char *head = refused_answers[_i].head;
        size_t len = strlen(head), seen = 0;
        struct http_answer answer;
        struct http_refusal refusal;
        enum http_parsed parsed = HTTP_PARTIAL;

        ck_assert_int_eq(parse_answer(&answer, head, len, 0, &refusal), HTTP_REFUSED);
        ck_assert_msg(strstr(refusal.message, refused_answers[_i].word), "%s: %s", head, refusal.message);
        for (size_t cut = 0; cut <= len && parsed == HTTP_PARTIAL; cut++) {
                parsed = parse_answer(&answer, head, cut, seen, &refusal);
                ck_assert_msg(parsed != HTTP_WHOLE, "%s: whole at %zu", head, cut);
                seen = cut;
        }
        ck_assert_int_eq(parsed, HTTP_REFUSED);
}
END_TEST

/* What is no request is refused before a line of it is there: a client of TLS, or of another protocol, would wait for ever. */
START_TEST(what_is_no_message_is_refused_at_once) {
        struct http_request request;
        struct http_answer answer;
        struct http_refusal refusal;

        ck_assert_int_eq(parse_request(&request, "\x16\x03\x01", 3, 0, &refusal), HTTP_REFUSED);
        ck_assert_uint_eq(refusal.status, 400);
        ck_assert_int_eq(parse_request(&request, "\r", 1, 0, &refusal), HTTP_PARTIAL);
        ck_assert_int_eq(parse_request(&request, "\rG", 2, 1, &refusal), HTTP_REFUSED);
        ck_assert_int_eq(parse_request(&request, "GET / HTTP/3.0\r\n", 16, 5, &refusal), HTTP_REFUSED);
        ck_assert_uint_eq(refusal.status, 505);
        ck_assert_int_eq(parse_answer(&answer, "HTTX", 4, 0, &refusal), HTTP_REFUSED);
        ck_assert_int_eq(parse_answer(&answer, "HTTP", 4, 0, &refusal), HTTP_PARTIAL);
        ck_assert_int_eq(parse_answer(&answer, "HTTP/1.1 099 a\r\n", 16, 3, &refusal), HTTP_REFUSED);
}
END_TEST

/* --- What a head says. */

static const struct {
        const char *head;
        const char *target, *host, *id, *authorization, *origin;
        uint64_t content_length;
        const char *facts;              /* see write_facts() */
} requests[] = {
        { GET(""), "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
        { GET("X-Request-Id: 7\r\nAuthorization: Bearer x y \r\nORIGIN:http://b\r\n"), "/", "a", "7", "Bearer x y", "http://b",
          HTTP_LENGTH_UNKNOWN, "keep" },
        { GET("x-request-id:\r\nX-REQUEST-ID: 8\r\nX-Request-Id: 9\r\n"), "/", "a", "8", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
        { "GET / HTTP/1.1\r\nhOsT:\t [::1]:80\t\r\n\r\n", "/", "[::1]:80", "", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
        { "GET / HTTP/1.1\r\nHost:\r\n\r\n", "/", "", "", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
        { "GET / HTTP/1.0\r\n\r\n", "/", "", "", "", "", HTTP_LENGTH_UNKNOWN, "1.0" },
        { "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "/", "", "", "", "", HTTP_LENGTH_UNKNOWN, "1.0 keep" },
        { "GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n\r\n", "/", "", "", "", "", HTTP_LENGTH_UNKNOWN, "1.0" },
        { GET("Connection: Close\r\n"), "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "" },
        { GET("Connection: x\r\nConnection: ,, close ,\r\n"), "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "options" },
        { GET("Connection: closed\r\n"), "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep options" },
        /* 3, 4 */
        { POST("Transfer-Encoding: chunked\r\n"), "/v1", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep chunked" },
        { POST("transfer-encoding:CHUNKED \r\n"), "/v1", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep chunked" },
        { POST("Content-Length: 0\r\n"), "/v1", "a", "", "", "", 0, "keep" },
        { POST("Content-Length: 01\r\n"), "/v1", "a", "", "", "", 1, "keep" },
        { POST("Content-Length: \t12  \r\n"), "/v1", "a", "", "", "", 12, "keep" },
        { POST("content-LENGTH:9223372036854775807\r\n"), "/v1", "a", "", "", "", INT64_MAX, "keep" },
        /* 6 */
        { "GET http://b:8/c?d HTTP/1.1\r\nHost: a\r\n\r\n", "/c?d", "b:8", "", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
        { "GET HTTPS://b HTTP/1.1\r\nHost: a\r\n\r\n", "", "b", "", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
        { "GET http://b/ HTTP/1.0\r\n\r\n", "/", "b", "", "", "", HTTP_LENGTH_UNKNOWN, "1.0" },
        { "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "*", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
        { "GET //b/%23?a=http://c/&d?e HTTP/1.1\r\nHost: a\r\n\r\n", "//b/%23?a=http://c/&d?e", "a", "", "", "",
          HTTP_LENGTH_UNKNOWN, "keep" },
        /* 9 */
        { GET("Connection: Upgrade\r\nUpgrade: WebSocket\r\n"), "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep upgrade" },
        { GET("Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\nContent-Length: 0\r\n"), "/", "a", "", "", "", 0,
          "keep upgrade" },
        { GET("Upgrade: websocket\r\n"), "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
        { GET("Connection: Upgrade\r\n"), "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
        { GET("Connection: Upgrade\r\nUpgrade: h2c\r\n"), "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
        { GET("Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n"), "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN,
          "keep" },
        { GET("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n"), "/", "a", "", "", "", 1, "keep" },
        { GET("Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n"), "/", "a", "", "", "",
          HTTP_LENGTH_UNKNOWN, "keep chunked" },
        { POST("Connection: Upgrade\r\nUpgrade: websocket\r\n"), "/v1", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
        { "GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "/", "", "", "", "", HTTP_LENGTH_UNKNOWN,
          "1.0" },
        /* 13 */
        { GET("Connection: close, TE\r\n"), "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "options" },
        /* and what else there is */
        { POST("Expect: 100-Continue\r\nContent-Length: 2\r\n"), "/v1", "a", "", "", "", 2, "keep continue" },
        { "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", "/", "", "", "", "", 2, "1.0" },
        { "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep head" },
        { "OPTIONS /v1 HTTP/1.1\r\nHost: a\r\nAccess-Control-Request-Method: POST\r\n\r\n", "/v1", "a", "", "", "",
          HTTP_LENGTH_UNKNOWN, "keep preflight" },
        { GET("Access-Control-Request-Method: POST\r\n"), "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
        { GET("Accept: text/event-stream\r\n"), "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep events" },
        { GET("Accept: application/json, Text/Event-Stream ;q=0.5\r\nAccept: a/b\r\n"), "/", "a", "", "", "",
          HTTP_LENGTH_UNKNOWN, "keep events" },
        { GET("Accept: text/event-streams, */*\r\n"), "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
        { "M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", "/", "a", "", "", "", HTTP_LENGTH_UNKNOWN, "keep" },
};

static const char *write_facts(char to[static 128], const struct http_request *request) {
        const struct {
                bool is;
                const char *word;
        } facts[] = {
                { request->is_http_1_0, "1.0 " },       { request->keep_alive, "keep " },
                { request->chunked, "chunked " },       { request->expects_continue, "continue " },
                { request->is_head, "head " },          { request->is_upgrade, "upgrade " },
                { request->is_preflight, "preflight " }, { request->accepts_events, "events " },
                { request->has_options, "options " },
        };

        *to = '\0';
        for (size_t i = 0; i < ARRAY_SIZE(facts); i++)
                if (facts[i].is)
                        strcat(to, facts[i].word);
        if (*to)
                to[strlen(to) - 1] = '\0';
        return to;
}

static void check_span(const char *head, struct http_span span, const char *text) {
        ck_assert_msg(span.len == strlen(text) && memcmp(head + span.at, text, span.len) == 0, "'%.*s', not '%s', of %s",
                      unit_len(span.len), head + span.at, text, head);
}

static void check_request(size_t i, const struct http_request *request) {
        const char *head = requests[i].head;
        char facts[128];

        ck_assert_uint_eq(request->len, strlen(head));
        ck_assert_uint_eq(request->method_len, strcspn(head, " "));
        ck_assert_uint_eq(request->fields_at, strcspn(head, "\n") + 1);
        check_span(head, request->target, requests[i].target);
        check_span(head, request->host, requests[i].host);
        check_span(head, request->id, requests[i].id);
        check_span(head, request->authorization, requests[i].authorization);
        check_span(head, request->origin, requests[i].origin);
        ck_assert_uint_eq(request->content_length, requests[i].content_length);
        ck_assert_str_eq(write_facts(facts, request), requests[i].facts);
}

START_TEST(request_is_read) {
        const char *head = requests[_i].head;
        size_t len = strlen(head), i = (size_t)_i;
        struct http_request request;
        struct http_refusal refusal;
        char more[1024];

        ck_assert_msg(parse_request(&request, head, len, 0, &refusal) == HTTP_WHOLE, "%s: %s", head, refusal.message);
        check_request(i, &request);
        /* What is behind it is not looked at. */
        snprintf(more, sizeof(more), "%s\n\n\r\x01", head);
        ck_assert_int_eq(parse_request(&request, more, strlen(more), 0, &refusal), HTTP_WHOLE);
        check_request(i, &request);
        for (size_t cut = 0; cut < len; cut++) {
                ck_assert_int_eq(parse_request(&request, head, cut, 0, &refusal), HTTP_PARTIAL);
                ck_assert_int_eq(parse_request(&request, head, cut, cut > 0 ? cut - 1 : 0, &refusal), HTTP_PARTIAL);
                ck_assert_int_eq(parse_request(&request, head, len, cut, &refusal), HTTP_WHOLE);
                check_request(i, &request);
        }
}
END_TEST

static const struct {
        const char *head;
        unsigned status;
        const char *reason;
        uint64_t content_length, retry_after;
        const char *facts;              /* 1.0, keep, chunked, upgrade, events, options */
        enum http_body_kind kind;
} answers[] = {
        { OK(""), 200, "OK", HTTP_LENGTH_UNKNOWN, UINT64_MAX, "keep ", HTTP_BODY_CLOSE },
        { "HTTP/1.1 200\r\n\r\n", 200, "", HTTP_LENGTH_UNKNOWN, UINT64_MAX, "keep ", HTTP_BODY_CLOSE },
        { "HTTP/1.1 299 \r\n\r\n", 299, "", HTTP_LENGTH_UNKNOWN, UINT64_MAX, "keep ", HTTP_BODY_CLOSE },
        { "HTTP/1.0 999 a\tb \xc3\xa4\r\n\r\n", 999, "a\tb \xc3\xa4", HTTP_LENGTH_UNKNOWN, UINT64_MAX, "1.0 ",
          HTTP_BODY_CLOSE },
        { "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n", 200, "OK", 3, UINT64_MAX, "1.0 keep ",
          HTTP_BODY_LENGTH },
        { OK("Content-Length: 003 \r\nConnection: close\r\n"), 200, "OK", 3, UINT64_MAX, "", HTTP_BODY_LENGTH },
        { OK("Content-Length: 0\r\n"), 200, "OK", 0, UINT64_MAX, "keep ", HTTP_BODY_LENGTH },
        { OK("Transfer-Encoding: Chunked\r\n"), 200, "OK", HTTP_LENGTH_UNKNOWN, UINT64_MAX, "keep chunked ",
          HTTP_BODY_CHUNKED },
        { OK("Content-Type: text/event-stream; charset=utf-8\r\nConnection: X\r\n"), 200, "OK", HTTP_LENGTH_UNKNOWN,
          UINT64_MAX, "keep events options ", HTTP_BODY_CLOSE },
        { OK("Content-Type: text/event-streams\r\n"), 200, "OK", HTTP_LENGTH_UNKNOWN, UINT64_MAX, "keep ", HTTP_BODY_CLOSE },
        { OK("Retry-After: 12\r\n"), 200, "OK", HTTP_LENGTH_UNKNOWN, 12, "keep ", HTTP_BODY_CLOSE },
        { OK("Retry-After: Fri, 07 Nov 2025 23:59:59 GMT\r\n"), 200, "OK", HTTP_LENGTH_UNKNOWN, UINT64_MAX - 1, "keep ",
          HTTP_BODY_CLOSE },
        { OK("Retry-After: 12\r\nRetry-After: 99999999999999999999\r\n"), 200, "OK", HTTP_LENGTH_UNKNOWN, UINT64_MAX - 1, "keep ",
          HTTP_BODY_CLOSE },
        /* 10 */
        { "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, "No Content", 5, UINT64_MAX, "keep ", HTTP_BODY_NONE },
        { "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304, "Not Modified", HTTP_LENGTH_UNKNOWN,
          UINT64_MAX, "keep chunked ", HTTP_BODY_NONE },
        { "HTTP/1.1 100 Continue\r\n\r\n", 100, "Continue", HTTP_LENGTH_UNKNOWN, UINT64_MAX, "keep ", HTTP_BODY_NONE },
        { "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n", 103, "Early Hints", 5, UINT64_MAX, "keep ",
          HTTP_BODY_NONE },
        /* 9 */
        { "HTTP/1.1 101 Up\r\nUpgrade: WEBSOCKET\r\nConnection: upgrade\r\n\r\n", 101, "Up", HTTP_LENGTH_UNKNOWN, UINT64_MAX,
          "keep upgrade ", HTTP_BODY_NONE },
        { "HTTP/1.1 101 Up\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", 101, "Up", HTTP_LENGTH_UNKNOWN, UINT64_MAX,
          "keep ", HTTP_BODY_NONE },
        { OK("Upgrade: websocket\r\nContent-Length: 0\r\n"), 200, "OK", 0, UINT64_MAX, "keep ", HTTP_BODY_LENGTH },
};

START_TEST(answer_is_read) {
        const char *head = answers[_i].head;
        size_t len = strlen(head);
        struct http_answer answer;
        struct http_refusal refusal;
        struct http_body body;

        for (size_t cut = 0; cut <= len; cut++) {
                char facts[64];

                if (cut < len)
                        ck_assert_int_eq(parse_answer(&answer, head, cut, cut / 2, &refusal), HTTP_PARTIAL);
                ck_assert_msg(parse_answer(&answer, head, len, cut < len ? cut : 0, &refusal) == HTTP_WHOLE, "%s: %s", head,
                              refusal.message);
                snprintf(facts, sizeof(facts), "%s%s%s%s%s%s", answer.is_http_1_0 ? "1.0 " : "",
                         answer.keep_alive ? "keep " : "", answer.chunked ? "chunked " : "",
                         answer.is_upgrade ? "upgrade " : "",
                         answer.is_event_stream ? "events " : "", answer.has_options ? "options " : "");
                ck_assert_str_eq(facts, answers[_i].facts);
                ck_assert_uint_eq(answer.len, len);
                ck_assert_uint_eq(answer.fields_at, strcspn(head, "\n") + 1);
                ck_assert_uint_eq(answer.status, answers[_i].status);
                check_span(head, answer.reason, answers[_i].reason);
                ck_assert_uint_eq(answer.content_length, answers[_i].content_length);
                ck_assert_uint_eq(answer.retry_after, answers[_i].retry_after);
        }
        http_body_of_answer(&body, &answer, false);
        ck_assert_int_eq(body.kind, answers[_i].kind);
        ck_assert_int_eq(body.done, answers[_i].kind == HTTP_BODY_NONE || answers[_i].content_length == 0);
        http_body_of_answer(&body, &answer, true);
        ck_assert_int_eq(body.kind, HTTP_BODY_NONE);
        ck_assert(body.done);
}
END_TEST

/* --- Limits: what is just within, and what is just beyond. */

/* A request of `len` bytes. */
static char *long_request(size_t len) {
        static const char begin[] = "GET / HTTP/1.1\r\nHost: a\r\nX: ", end[] = "\r\n\r\n";
        char *head = malloc(len);

        ck_assert_ptr_nonnull(head);
        memset(head, 'x', len);
        memcpy(head, begin, sizeof(begin) - 1);
        memcpy(head + len - (sizeof(end) - 1), end, sizeof(end) - 1);
        return head;
}

START_TEST(head_has_a_length) {
        struct http_request request;
        struct http_answer answer;
        struct http_refusal refusal;
        _cleanup_free_ char *within = long_request(HTTP_HEAD_MAX), *beyond = long_request(HTTP_HEAD_MAX + 1);

        ck_assert_int_eq(parse_request(&request, within, HTTP_HEAD_MAX - 1, 0, &refusal), HTTP_PARTIAL);
        ck_assert_int_eq(parse_request(&request, within, HTTP_HEAD_MAX, 0, &refusal), HTTP_WHOLE);
        ck_assert_int_eq(parse_request(&request, beyond, HTTP_HEAD_MAX + 1, 0, &refusal), HTTP_REFUSED);
        ck_assert_uint_eq(refusal.status, 431);
        ck_assert_int_eq(parse_request(&request, beyond, HTTP_HEAD_MAX, 10, &refusal), HTTP_REFUSED);
        ck_assert_uint_eq(refusal.status, 431);
        /* Of an answer's head there is none to tell of it, but it is not taken. */
        memcpy(beyond, "HTTP/1.1 200 OK\r\n", 17);
        ck_assert_int_eq(parse_answer(&answer, beyond, HTTP_HEAD_MAX - 1, 0, &refusal), HTTP_PARTIAL);
        ck_assert_int_eq(parse_answer(&answer, beyond, HTTP_HEAD_MAX, 0, &refusal), HTTP_REFUSED);
}
END_TEST

/* A request with `fields` fields besides Host, and `options` options of Connection in one. */
static char *wide_request(size_t fields, size_t options) {
        char *head = NULL;
        size_t len;
        FILE *file = open_memstream(&head, &len);

        ck_assert_ptr_nonnull(file);
        fputs("GET / HTTP/1.1\r\nHost: a\r\n", file);
        for (size_t i = 0; i < fields; i++)
                fprintf(file, "X%zu: a\r\n", i);
        if (options > 0)
                fputs("Connection: X0", file);
        for (size_t i = 1; i < options; i++)
                fprintf(file, ", X%zu", i);
        fputs(options > 0 ? "\r\n\r\n" : "\r\n", file);
        fclose(file);
        return head;
}

START_TEST(fields_and_options_have_a_number) {
        static const struct {
                size_t fields, options;
                bool is_taken;
        } cases[] = { { HTTP_FIELDS_MAX - 1, 0, true }, { HTTP_FIELDS_MAX, 0, false }, { 70, 64, true }, { 70, 65, false } };
        struct http_request request;
        struct http_refusal refusal;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_free_ char *head = wide_request(cases[i].fields, cases[i].options);
                bool is_taken = parse_request(&request, head, strlen(head), 0, &refusal) == HTTP_WHOLE;

                ck_assert_msg(is_taken == cases[i].is_taken, "%zu", i);
                ck_assert_uint_eq(refusal.status, is_taken ? 0 : 431);
        }
}
END_TEST

START_TEST(options_are_all_looked_for) {
        _cleanup_free_ char *head = wide_request(66, 64);
        const struct http_forwarding forwarding = { .prefix = "", .content_length = HTTP_LENGTH_UNKNOWN };
        struct http_request request;
        struct http_refusal refusal;
        _cleanup_free_ char *text = NULL;
        size_t len;

        ck_assert_int_eq(parse_request(&request, head, strlen(head), 0, &refusal), HTTP_WHOLE);
        text = malloc(http_forward_request_max(&request, &forwarding) + 1);
        ck_assert_ptr_nonnull(text);
        len = http_forward_request(text, &request, head, &forwarding);
        text[len] = '\0';
        ck_assert_str_eq(text, "GET / HTTP/1.1\r\nHost: a\r\nX64: a\r\nX65: a\r\nVia: 1.1 msd\r\n\r\n");
}
END_TEST

/* --- What goes on. */

static const struct {
        const char *head;
        struct http_forwarding forwarding;
        const char *text;
} forwarded_requests[] = {
#define UNKNOWN HTTP_LENGTH_UNKNOWN
        { "GET /a?b HTTP/1.1\r\nA:b \r\nHost: c\r\nD:  e\r\nA: f\r\n\r\n", { "", NULL, UNKNOWN, false },
          "GET /a?b HTTP/1.1\r\nHost: c\r\nA:b \r\nD:  e\r\nA: f\r\nVia: 1.1 msd\r\n\r\n" },
        { "POST /a HTTP/1.1\r\nHost: c\r\nContent-Length: 0007\r\nB: c\r\n\r\n", { "/v", "m:1", 7, false },
          "POST /v/a HTTP/1.1\r\nHost: m:1\r\nB: c\r\nVia: 1.1 msd\r\nContent-Length: 7\r\n\r\n" },
        { "POST / HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n", { "", NULL, UINT64_MAX - 1, false },
          "POST / HTTP/1.1\r\nHost: c\r\nVia: 1.1 msd\r\nContent-Length: 18446744073709551614\r\n\r\n" },
        { "POST / HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nTrailer: X\r\n\r\n",
          { "", NULL, 0, false }, "POST / HTTP/1.1\r\nHost: c\r\nVia: 1.1 msd\r\nContent-Length: 0\r\n\r\n" },
        { "GET / HTTP/1.0\r\n\r\n", { "", NULL, UNKNOWN, false }, "GET / HTTP/1.1\r\nHost: \r\nVia: 1.0 msd\r\n\r\n" },
        { "GET / HTTP/1.1\r\nHost: c\r\nVia: 1.1 x\r\nA: b\r\n\r\n", { "", NULL, UNKNOWN, false },
          "GET / HTTP/1.1\r\nHost: c\r\nVia: 1.1 x\r\nA: b\r\nVia: 1.1 msd\r\n\r\n" },
        { "GET http://b HTTP/1.1\r\nHost: c\r\n\r\n", { "/v", NULL, UNKNOWN, false },
          "GET /v/ HTTP/1.1\r\nHost: b\r\nVia: 1.1 msd\r\n\r\n" },
        { "GET http://b:1/?x HTTP/1.1\r\nHost: c\r\n\r\n", { "", NULL, UNKNOWN, false },
          "GET /?x HTTP/1.1\r\nHost: b:1\r\nVia: 1.1 msd\r\n\r\n" },
        { "OPTIONS * HTTP/1.1\r\nHost: c\r\n\r\n", { "/v", NULL, UNKNOWN, false },
          "OPTIONS * HTTP/1.1\r\nHost: c\r\nVia: 1.1 msd\r\n\r\n" },
        { "GET / HTTP/1.1\r\nHost: c\r\nAccept-Encoding: gzip\r\n\r\n", { "", NULL, UNKNOWN, false },
          "GET / HTTP/1.1\r\nHost: c\r\nAccept-Encoding: gzip\r\nVia: 1.1 msd\r\n\r\n" },
        { "GET / HTTP/1.1\r\nHost: c\r\nAccept-Encoding: gzip\r\n\r\n", { "", NULL, UNKNOWN, true },
          "GET / HTTP/1.1\r\nHost: c\r\nVia: 1.1 msd\r\n\r\n" },
        /* 9 */
        { "GET / HTTP/1.1\r\nHost: c\r\nUpgrade:WebSocket\r\nConnection: Upgrade, X\r\nSec-WebSocket-Key: k\r\nX: y\r\n\r\n",
          { "", NULL, UNKNOWN, false },
          "GET / HTTP/1.1\r\nHost: c\r\nUpgrade:WebSocket\r\nSec-WebSocket-Key: k\r\n"
          "Via: 1.1 msd\r\nConnection: Upgrade\r\n\r\n" },
        { "GET / HTTP/1.1\r\nHost: c\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n",
          { "", NULL, UNKNOWN, false }, "GET / HTTP/1.1\r\nHost: c\r\nVia: 1.1 msd\r\n\r\n" },
        /* 13 */
        { "GET / HTTP/1.1\r\nHost: c\r\nConnection: close, TE\r\nTE: trailers\r\nA: b\r\n\r\n", { "", NULL, UNKNOWN, false },
          "GET / HTTP/1.1\r\nHost: c\r\nA: b\r\nVia: 1.1 msd\r\n\r\n" },
        { "GET / HTTP/1.1\r\nHost: c\r\nX: y\r\nA: b\r\nXX: z\r\nConnection: close\r\nConnection: ,x ,Host\r\nx: z\r\n\r\n",
          { "", NULL, UNKNOWN, false }, "GET / HTTP/1.1\r\nHost: c\r\nA: b\r\nXX: z\r\nVia: 1.1 msd\r\n\r\n" },
};

START_TEST(request_goes_on) {
        const char *head = forwarded_requests[_i].head;
        const struct http_forwarding *forwarding = &forwarded_requests[_i].forwarding;
        _cleanup_free_ char *copy = exactly(head, strlen(head)), *text = NULL;
        struct http_request request;
        struct http_refusal refusal;
        size_t max, len;

        ck_assert_int_eq(parse_request(&request, head, strlen(head), 0, &refusal), HTTP_WHOLE);
        max = http_forward_request_max(&request, forwarding);
        text = malloc(max + 1);
        ck_assert_ptr_nonnull(text);
        len = http_forward_request(text, &request, copy, forwarding);
        ck_assert_uint_le(len, max);
        text[len] = '\0';
        ck_assert_str_eq(text, forwarded_requests[_i].text);
}
END_TEST

static const struct {
        const char *head;
        struct http_answering answering;
        const char *text;
} forwarded_answers[] = {
        { "HTTP/1.0 404 No such\r\nA:b\r\nContent-Length: 07\r\nServer: s\r\n\r\n", { .framing = HTTP_FRAMING_LENGTH },
          "HTTP/1.1 404 No such\r\nA:b\r\nServer: s\r\nContent-Length: 7\r\n\r\n" },
        { OK("Transfer-Encoding: chunked\r\nTrailer: X\r\n"), { .framing = HTTP_FRAMING_CHUNKED },
          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" },
        { OK("Transfer-Encoding: chunked\r\n"), { .framing = HTTP_FRAMING_CLOSE },
          "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" },
        { OK("Content-Length: 1\r\nA: b\r\n"), { .framing = HTTP_FRAMING_LENGTH, .close = true, .keep_alive = true },
          "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 1\r\nConnection: close\r\n\r\n" },
        { OK("Content-Length: 1\r\n"), { .framing = HTTP_FRAMING_LENGTH, .keep_alive = true },
          "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n" },
        { OK(""), { .framing = HTTP_FRAMING_LENGTH }, "HTTP/1.1 200 OK\r\n\r\n" },
        { "HTTP/1.1 204\r\nContent-Length: 1\r\n\r\n", { .framing = HTTP_FRAMING_NONE }, "HTTP/1.1 204 \r\n\r\n" },
        { OK("A: 1\r\nX-Request-ID: q\r\nB: 2\r\n"),
          { .framing = HTTP_FRAMING_NONE, .dropped = "X-Request-Id", .extra = "X-Request-Id: 7\r\n", .extra_len = 17 },
          "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nX-Request-Id: 7\r\n\r\n" },
        { "HTTP/1.1 101 Up\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\n",
          { .framing = HTTP_FRAMING_NONE, .keep_alive = true },
          "HTTP/1.1 101 Up\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\nConnection: Upgrade\r\n\r\n" },
        { OK("Upgrade: h2c\r\nConnection: Upgrade, X\r\nX: y\r\nXY: z\r\n"), { .framing = HTTP_FRAMING_NONE },
          "HTTP/1.1 200 OK\r\nXY: z\r\n\r\n" },
        { OK("Host: a\r\nExpect: b\r\n"), { .framing = HTTP_FRAMING_NONE },
          "HTTP/1.1 200 OK\r\nHost: a\r\nExpect: b\r\n\r\n" },
};

START_TEST(answer_goes_on) {
        const char *head = forwarded_answers[_i].head;
        const struct http_answering *answering = &forwarded_answers[_i].answering;
        _cleanup_free_ char *copy = exactly(head, strlen(head)), *text = NULL;
        struct http_answer answer;
        struct http_refusal refusal;
        size_t max, len;

        ck_assert_int_eq(parse_answer(&answer, head, strlen(head), 0, &refusal), HTTP_WHOLE);
        max = http_forward_answer_max(&answer, answering->extra_len);
        text = malloc(max + 1);
        ck_assert_ptr_nonnull(text);
        len = http_forward_answer(text, &answer, copy, answering);
        ck_assert_uint_le(len, max);
        text[len] = '\0';
        ck_assert_str_eq(text, forwarded_answers[_i].text);
}
END_TEST

static const struct {
        const char *field;
        bool is_hop_by_hop;
} fields[] = {
        { "Connection: X-Listed", true }, { "CONTENT-LENGTH: 1", true },   { "keep-alive: timeout=5", true },
        { "Proxy-Authenticate: a", true }, { "Proxy-Authorization: a", true }, { "Proxy-Connection: a", true },
        { "TE: trailers", true },         { "Trailer: a", true },          { "Transfer-Encoding: chunked", true },
        { "Upgrade: a", true },           { "x-lISTED: a", true },         { "X-Liste: a", false },
        { "X-Listed1: a", false },        { "Tea: a", false },             { "T: a", false },
        { "Trailers: a", false },         { "Authorization: a", false },   { "Via: a", false },
        { "Proxy-Status: a", false },     { "Te-: a", false },             { "Host: a", false },
};

START_TEST(field_is_hop_by_hop) {
        char head[256];
        struct http_field field;
        uint32_t at = 0;

        snprintf(head, sizeof(head), "%s\r\nConnection: keep-alive, X-Listed\r\n\r\n", fields[_i].field);
        ck_assert(http_next_field(head, &at, &field));
        ck_assert_int_eq(http_is_hop_by_hop(head, 0, true, &field), fields[_i].is_hop_by_hop);
        if (http_field_is(&field, "X-Listed"))
                ck_assert(!http_is_hop_by_hop(head, 0, false, &field));
        else
                ck_assert_int_eq(http_is_hop_by_hop(head, 0, false, &field), fields[_i].is_hop_by_hop);
}
END_TEST

START_TEST(fields_come_one_by_one) {
        static const char head[] = "GET / HTTP/1.1\r\nA: b c\t\r\nEmpty:\r\nBlank: \t\r\nB:c:d\r\n\r\nX: y\r\n";
        static const struct {
                const char *name, *value;
        } expected[] = { { "A", "b c" }, { "Empty", "" }, { "Blank", "" }, { "B", "c:d" } };
        struct http_field field;
        uint32_t at = 16;

        for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
                ck_assert(http_next_field(head, &at, &field));
                ck_assert_uint_eq(field.name_len, strlen(expected[i].name));
                ck_assert_int_eq(memcmp(field.name, expected[i].name, field.name_len), 0);
                ck_assert_uint_eq(field.value_len, strlen(expected[i].value));
                ck_assert_int_eq(memcmp(field.value, expected[i].value, field.value_len), 0);
                ck_assert(http_field_is(&field, expected[i].name));
                ck_assert(!http_field_is(&field, "EmptyX"));
                ck_assert(!http_field_is(&field, "C"));
        }
        ck_assert(!http_next_field(head, &at, &field));
        ck_assert(!http_next_field(head, &at, &field));
}
END_TEST

/* --- Bodies. */

static const struct {
        const char *body;
        const char *text;               /* NULL: malformed */
        size_t rest;                    /* so much is behind it */
} chunked[] = {
        { "0\r\n\r\n", "", 0 },
        { "0\r\n\r\nGET", "", 3 },
        { "3\r\nabc\r\n0\r\n\r\n", "abc", 0 },
        { "3\r\nabc\r\n2\r\nde\r\n000\r\n\r\n\r\n", "abcde", 2 },
        { "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", 0 },
        { "00000000000000000003\r\nabc\r\n0\r\n\r\n", "abc", 0 },
        { "3\r\n\r\n0\r\n0\r\n\r\n", "\r\n0", 0 },
        /* 12 */
        { "3;a\r\nabc\r\n0;b=c\r\n\r\n", "abc", 0 },
        { "3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n", "abc", 0 },
        { "1\r\na\r\n0\r\nA: b\r\nC: d\r\n\r\nx", "a", 1 },
        { "1\r\na\r\n0\r\nConnection: close\r\nContent-Length: 7\r\n\r\nx", "a", 1 },
        /* 2 */
        { "0\r\n\n", NULL, 0 },
        { "0\r\nA: b\r\n\n", NULL, 0 },
        { "0\r\nA: b\n\r\n", NULL, 0 },
        { "3\nabc\r\n0\r\n\r\n", NULL, 0 },
        { "3\r\nabc\n0\r\n\r\n", NULL, 0 },
        { "3\r\nabc0\r\n\r\n", NULL, 0 },
        { "3\r\nabcd\r\n0\r\n\r\n", NULL, 0 },
        { "3\r\nabc\r0\r\n\r\n", NULL, 0 },
        { "0\r\r\n", NULL, 0 },
        { "0\n\n", NULL, 0 },
        /* 4 */
        { "\r\n", NULL, 0 },
        { "g\r\n", NULL, 0 },
        { "+1\r\na\r\n0\r\n\r\n", NULL, 0 },
        { "-1\r\na\r\n0\r\n\r\n", NULL, 0 },
        { "0x1\r\na\r\n0\r\n\r\n", NULL, 0 },
        { " 1\r\na\r\n0\r\n\r\n", NULL, 0 },
        { "1 \r\na\r\n0\r\n\r\n", NULL, 0 },
        { "1\t\r\na\r\n0\r\n\r\n", NULL, 0 },
        { "1;a b\r\na\r\n0\r\n\r\n", NULL, 0 },
        { "1;\x01\r\na\r\n0\r\n\r\n", NULL, 0 },
        { "1;a\n0\r\n\r\n", NULL, 0 },
        { ";a\r\n", NULL, 0 },
        { "8000000000000000\r\na", NULL, 0 },
        { "ffffffffffffffff\r\na", NULL, 0 },
        { "10000000000000001\r\na\r\n0\r\n\r\n", NULL, 0 },
        { "0\r\n: b\x01\r\n\r\n", NULL, 0 },
        { "0\r\nA b: c\r\n\r\n", NULL, 0 },
        { "0\r\n: b\r\n\r\n", NULL, 0 },
        { "0\r\nA: b\r\n: c\r\n\r\n", NULL, 0 },
        { "0\r\nA: b\x01\r\n\r\n", NULL, 0 },
};

static void start_chunked(struct http_body *body) {
        const struct http_request request = { .chunked = true, .content_length = HTTP_LENGTH_UNKNOWN };

        http_body_of_request(body, &request);
        ck_assert_int_eq(body->kind, HTTP_BODY_CHUNKED);
        ck_assert(!body->done);
}

/* Feeds the body in pieces that end at `cuts`, ascending. Returns what it says, to be freed, or NULL; `*rest` is behind it. */
static char *take_in_pieces(struct http_body *body, const char *text, size_t len, const size_t *cuts, size_t count,
                            size_t *rest) {
        char *out = malloc(len + 1);
        size_t out_len = 0, at = 0;

        ck_assert_ptr_nonnull(out);
        for (size_t i = 0; i <= count; i++) {
                size_t n = (i < count ? cuts[i] : len) - at, taken = n;
                _cleanup_free_ char *piece = exactly(text + at, n);
                /* It may be moved in between. */
                struct http_body moved = *body;
                ssize_t r = http_body_take(&moved, piece, &taken);

                *body = moved;
                if (r < 0) {
                        ck_assert_int_eq(r, -EBADMSG);
                        free(out);
                        return NULL;
                }
                unit_assert(taken <= n && (size_t)r <= taken, "%s", text);
                memcpy(out + out_len, piece, (size_t)r);
                out_len += (size_t)r;
                at += taken;
                if (body->done)
                        break;
                unit_assert(taken == n, "%s", text);
        }
        out[out_len] = '\0';
        *rest = len - at;
        return out;
}

static void check_pieces(int i, const size_t *cuts, size_t count) {
        const char *text = chunked[i].body;
        struct http_body body;
        size_t rest = 0;
        _cleanup_free_ char *out = NULL;

        start_chunked(&body);
        out = take_in_pieces(&body, text, strlen(text), cuts, count, &rest);
        if (!chunked[i].text) {
                unit_assert(!out, "%s is taken", text);
                return;
        }
        unit_assert(out && strcmp(out, chunked[i].text) == 0, "%s", text);
        unit_assert(body.done && http_body_end(&body) && rest == chunked[i].rest, "%s", text);
}

START_TEST(chunked_body_is_taken) {
        size_t len = strlen(chunked[_i].body);

        check_pieces(_i, NULL, 0);
        for (size_t a = 0; a <= len; a++)
                for (size_t b = a; b <= len; b++)
                        check_pieces(_i, (size_t[]){ a, b }, 2);
        /* What is not there to its end is not whole. */
        for (size_t a = 0; chunked[_i].text && a < len - chunked[_i].rest; a++) {
                struct http_body body;
                size_t rest;
                _cleanup_free_ char *out = NULL;

                start_chunked(&body);
                out = take_in_pieces(&body, chunked[_i].body, a, NULL, 0, &rest);
                ck_assert_ptr_nonnull(out);
                ck_assert(!body.done && !http_body_end(&body));
        }
}
END_TEST

static const struct {
        const char *begin, *filling, *end;
        size_t within;                  /* so many of `filling` are taken, and one more is not */
} overheads[] = {
        { "", "0", "1\r\na\r\n0\r\n\r\n", 65533 },
        { "1;", "a", "\r\na\r\n0\r\n\r\n", 65532 },
        { "1\r\na\r\n0\r\nA: ", "a", "\r\n\r\n", 65524 },
};

START_TEST(overhead_has_a_limit) {
        for (size_t more = 0; more < 2; more++)
                for (size_t piece = 1; piece < 100000; piece = piece * 10 + 1) {
                        size_t begin_len = strlen(overheads[_i].begin), count = overheads[_i].within + more;
                        size_t len = begin_len + count + strlen(overheads[_i].end), at = 0;
                        _cleanup_free_ char *text = malloc(len + 1);
                        struct http_body body;
                        ssize_t r = 0;

                        ck_assert_ptr_nonnull(text);
                        memcpy(text, overheads[_i].begin, begin_len);
                        memset(text + begin_len, *overheads[_i].filling, count);
                        strcpy(text + begin_len + count, overheads[_i].end);
                        start_chunked(&body);
                        while (r >= 0 && at < len && !body.done) {
                                size_t n = MIN(piece, len - at);

                                r = http_body_take(&body, text + at, &n);
                                at += n;
                        }
                        ck_assert_int_eq(body.done, more == 0);
                        ck_assert_int_eq(r == -EBADMSG, more == 1);
                }
}
END_TEST

START_TEST(body_has_a_length) {
        const struct http_request request = { .content_length = 5 }, empty = { .content_length = 0 },
                                  none = { .content_length = HTTP_LENGTH_UNKNOWN };
        struct http_body body;
        char data[] = "abcdefg";
        size_t len = 3;

        http_body_of_request(&body, &request);
        ck_assert_int_eq(http_body_take(&body, data, &len), 3);
        ck_assert_uint_eq(len, 3);
        ck_assert(!body.done && !http_body_end(&body));
        len = 4;
        ck_assert_int_eq(http_body_take(&body, data + 3, &len), 2);
        ck_assert_uint_eq(len, 2);
        ck_assert(body.done && http_body_end(&body));
        len = 2;
        ck_assert_int_eq(http_body_take(&body, data + 5, &len), 0);
        ck_assert_uint_eq(len, 0);
        ck_assert_str_eq(data, "abcdefg");
        http_body_of_request(&body, &empty);
        ck_assert(body.kind == HTTP_BODY_LENGTH && body.done);
        http_body_of_request(&body, &none);
        ck_assert(body.kind == HTTP_BODY_NONE && body.done);
}
END_TEST

START_TEST(body_ends_with_its_connection) {
        const struct http_answer answer = { .status = 200, .content_length = HTTP_LENGTH_UNKNOWN };
        struct http_body body;
        char data[] = "0\r\n\r\n";
        size_t len = 5;

        http_body_of_answer(&body, &answer, false);
        ck_assert_int_eq(http_body_take(&body, data, &len), 5);
        ck_assert_uint_eq(len, 5);
        ck_assert(!body.done);
        ck_assert(http_body_end(&body));
        ck_assert(body.done);
}
END_TEST

START_TEST(chunk_is_headed) {
        static const struct {
                uint64_t len;
                const char *text;
        } cases[] = { { 0, "0\r\n" }, { 10, "a\r\n" }, { 4096, "1000\r\n" }, { UINT64_MAX, "ffffffffffffffff\r\n" } };
        char text[HTTP_CHUNK_HEAD_MAX];

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                ck_assert_uint_eq(http_chunk_head(text, cases[i].len), strlen(cases[i].text));
                ck_assert_int_eq(memcmp(text, cases[i].text, strlen(cases[i].text)), 0);
        }
}
END_TEST

START_TEST(text_is_token) {
        ck_assert(http_is_token("GET", 3));
        ck_assert(http_is_token("!#$%&'*+-.^_`|~09azAZ", 21));
        ck_assert(!http_is_token("", 0));
        for (int c = 0; c < 256; c++)
                if (c == 0 || !strchr("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", c))
                        ck_assert_msg(!http_is_token((char[]){ 'a', (char)c }, 2), "%d", c);
}
END_TEST

START_TEST(empty_lines_are_skipped) {
        ck_assert_uint_eq(http_skip_empty_lines("", 0), 0);
        ck_assert_uint_eq(http_skip_empty_lines("\r", 1), 0);
        ck_assert_uint_eq(http_skip_empty_lines("\r\n", 2), 2);
        ck_assert_uint_eq(http_skip_empty_lines("\r\n\r\nG", 5), 4);
        ck_assert_uint_eq(http_skip_empty_lines("\r\n\r", 3), 2);
        ck_assert_uint_eq(http_skip_empty_lines("\nG", 2), 0);
}
END_TEST

START_TEST(status_has_words) {
        ck_assert_str_eq(http_reason(200), "OK");
        ck_assert_str_eq(http_reason(431), "Request Header Fields Too Large");
        ck_assert_str_eq(http_reason(299), "Unknown");
}
END_TEST

static Suite *http_suite(void) {
        Suite *suite = suite_create("http");
        TCase *heads = tcase_create("heads"), *bodies = tcase_create("bodies");

        unit_add_table(heads, request_is_refused, refused_requests);
        unit_add_table(heads, answer_is_refused, refused_answers);
        tcase_add_test(heads, what_is_no_message_is_refused_at_once);
        unit_add_table(heads, request_is_read, requests);
        unit_add_table(heads, answer_is_read, answers);
        tcase_add_test(heads, head_has_a_length);
        tcase_add_test(heads, fields_and_options_have_a_number);
        tcase_add_test(heads, options_are_all_looked_for);
        unit_add_table(heads, request_goes_on, forwarded_requests);
        unit_add_table(heads, answer_goes_on, forwarded_answers);
        unit_add_table(heads, field_is_hop_by_hop, fields);
        tcase_add_test(heads, fields_come_one_by_one);
        tcase_add_test(heads, text_is_token);
        tcase_add_test(heads, empty_lines_are_skipped);
        tcase_add_test(heads, status_has_words);
        suite_add_tcase(suite, heads);
        unit_add_table(bodies, chunked_body_is_taken, chunked);
        unit_add_table(bodies, overhead_has_a_limit, overheads);
        tcase_add_test(bodies, body_has_a_length);
        tcase_add_test(bodies, body_ends_with_its_connection);
        tcase_add_test(bodies, chunk_is_headed);
        tcase_set_timeout(bodies, 60);
        suite_add_tcase(suite, bodies);
        return suite;
}

UNIT_MAIN(http_suite)
