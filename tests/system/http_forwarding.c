/*
 * How requests and answers go on through msd besides what tests/system/http_upstream.c has: clients of HTTP/1.0, interim
 * answers, HEAD, hosts and keys. The model server is the test itself.
 */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* Every framing of the model's, to a client of HTTP/1.0, with keep-alive or without. */
static const struct {
        const char *answer;
        bool has_length;
} framings[] = {
        { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", false },
        { "HTTP/1.1 200 OK\r\n\r\nhello", false },
        { "HTTP/1.0 200 OK\r\n\r\nhello", false },
        { "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true },
};

START_TEST(http_1_0) {
        stage_start_ready(&stage, OPTIONS());
        for (unsigned keep_alive = 0; keep_alive < 2; keep_alive++) {
                http_send(&stage.http, "GET /old HTTP/1.0\r\n%s\r\n", keep_alive ? "Connection: keep-alive\r\n" : "");
                stage_take(&stage);
                ck_assert_str_eq(stage.request.target, "/old");
                raw_send(&stage.request, "%s", framings[_i].answer);
                if (!strstr(framings[_i].answer, "chunked") && !framings[_i].has_length)
                        raw_hang_up(&stage.request);
                /* The first answer is the final one. */
                http_expect(&stage.http, 200, "hello");
                ck_assert_int_eq(stage.http.framing, framings[_i].has_length ? HTTP_LENGTH : HTTP_CLOSE);
                if (keep_alive && framings[_i].has_length) {
                        ck_assert_int_eq(strcasecmp(http_field(&stage.http, "Connection"), "keep-alive"), 0);
                        http_send(&stage.http, "GET /-/live HTTP/1.0\r\n\r\n");
                        http_expect(&stage.http, 200, "ok\n");
                }
                http_expect_end(&stage.http);
                http_close(&stage.http);
                http_connect(&stage.http, stage.front.address);
        }
        daemon_stop(&stage.front.msd);
}
END_TEST

/* Interim answers pass, each when it comes. */
START_TEST(interim) {
        stage_start_ready(&stage, OPTIONS());
        stage_post(&stage, "/v1/completions", "{}");
        raw_send(&stage.request, "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n"
                                 "Connection: X-Own\r\nX-Own: 1\r\n\r\n");
        ck_assert(http_head(&stage.http));
        ck_assert_uint_eq(stage.http.status, 103);
        ck_assert_str_eq(http_field(&stage.http, "Link"), "</style.css>; rel=preload");
        ck_assert_ptr_null(http_field(&stage.http, "X-Own"));
        raw_send(&stage.request, "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello");
        ck_assert(http_head(&stage.http));
        ck_assert_uint_eq(stage.http.status, 102);
        http_expect(&stage.http, 201, "hello");
        ck_assert_ptr_null(http_field(&stage.http, "Link"));
        /* The connection to the model goes on. */
        stage_ask(&stage, "GET", "/");
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        ck_assert_uint_eq(stage.raw.accepted, 1);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* Whatever the fields say, there is no body; the fields are those of GET. */
static const char *const heads[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nETag: \"x\"\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: \"x\"\r\n\r\n",
        "HTTP/1.1 200 OK\r\nETag: \"x\"\r\n\r\n",
};

START_TEST(head) {
        stage_start_ready(&stage, OPTIONS());
        for (unsigned again = 0; again < 2; again++) {
                stage_ask(&stage, "HEAD", "/");
                raw_send(&stage.request, "%s", heads[_i]);
                http_expect(&stage.http, 200, "");
                ck_assert_str_eq(http_field(&stage.http, "ETag"), "\"x\"");
                if (strstr(heads[_i], "Content-Length"))
                        ck_assert_str_eq(http_field(&stage.http, "Content-Length"), "1000000");
                http_expect_silence(&stage.http, 5 * NSEC_PER_MSEC);
        }
        daemon_stop(&stage.front.msd);
}
END_TEST

/* The fields in their order and spelling, and the head written once. */
START_TEST(order_and_spelling) {
        static const char expected[] = "POST /v1/x?y HTTP/1.1\r\nHost: example.org:80\r\nx-lower: 1\r\nX-UPPER: 2\r\n"
                                       "x-Lower: 3\r\nAccept: */*\r\nCookie: a; b\r\n";

        stage_start_ready(&stage, OPTIONS());
        http_send(&stage.http, "POST /v1/x?y HTTP/1.1\r\nHost: example.org:80\r\nx-lower: 1\r\nX-UPPER: 2\r\nx-Lower: 3\r\n"
                               "Accept: */*\r\nCookie: a; b\r\nContent-Length: 2\r\n\r\n{}");
        stage_take(&stage);
        ck_assert_msg(strncmp(stage.request.bytes.data, expected, sizeof(expected) - 1) == 0, "It is: %s",
                      stage.request.bytes.data);
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        daemon_stop(&stage.front.msd);
}
END_TEST

START_TEST(upstream_host) {
        stage_start_ready(&stage, OPTIONS("--upstream-host", "model.example:1234"));
        stage_ask(&stage, "GET", "/");
        ck_assert_str_eq(raw_field(&stage.request, "Host"), "model.example:1234");
        ck_assert_uint_eq(http_count_fields(&stage.request.fields, "Host"), 1);
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        http_send(&stage.http, "GET http://other/ HTTP/1.1\r\nHost: other\r\n\r\n");
        stage_take(&stage);
        ck_assert_str_eq(raw_field(&stage.request, "Host"), "model.example:1234");
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        peer_send(&stage.front.msd.control, "REQUEST 1 2\nhi\n");
        stage_take(&stage);
        ck_assert_str_eq(raw_field(&stage.request, "Host"), "model.example:1234");
        raw_answer(&stage.request, "{\"choices\":[{\"text\":\"here\"}]}");
        peer_expect(&stage.front.msd.control, "1", "here");
        daemon_stop(&stage.front.msd);
}
END_TEST

static const char *write_file(char path[static SUITE_PATH_MAX + 16], const char *text) {
        int fd;

        snprintf(path, SUITE_PATH_MAX + 16, "%s/keys", stage.front.directory);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
        close(fd);
        return path;
}

/* Waits for a request of msd's own, which has its key, and answers it. */
static void take_own(const char *method, const char *path, const char *answer) {
        stage_take(&stage);
        ck_assert_str_eq(stage.request.method, method);
        ck_assert_str_eq(stage.request.target, path);
        ck_assert_uint_eq(http_count_fields(&stage.request.fields, "Authorization"), 1);
        ck_assert_str_eq(raw_field(&stage.request, "Authorization"), "Bearer sk-own");
        raw_answer(&stage.request, answer);
}

/* A key of msd's own, for its own requests: it is never lent to a client of HTTP. */
START_TEST(upstream_key) {
        char path[SUITE_PATH_MAX + 16];

        stage_start(&stage, OPTIONS("--upstream-key-file", write_file(path, "sk-own\n"), "--health-path", "/probe",
                                    "--warmup", "hi"));
        take_own("GET", "/probe", "");
        for (unsigned i = 0; i < 2; i++) {
                stage_take(&stage);
                ck_assert_str_eq(raw_field(&stage.request, "Authorization"), "Bearer sk-own");
                if (strcmp(stage.request.method, "GET") == 0) {
                        ck_assert_str_eq(stage.request.target, "/v1/models");
                        raw_answer(&stage.request, "{\"data\":[{\"id\":\"named\"}]}");
                } else {
                        ck_assert_str_eq(stage.request.target, "/v1/completions");
                        raw_answer(&stage.request, "{\"choices\":[{\"text\":\"here\"}]}");
                }
        }
        daemon_wait_ready(&stage.front.msd);

        stage_ask(&stage, "GET", "/v1/models");
        ck_assert_ptr_null(raw_field(&stage.request, "Authorization"));
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        http_send(&stage.http, "GET / HTTP/1.1\r\nHost: msd\r\nAuthorization: Bearer sk-client\r\n\r\n");
        stage_take(&stage);
        ck_assert_uint_eq(http_count_fields(&stage.request.fields, "Authorization"), 1);
        ck_assert_str_eq(raw_field(&stage.request, "Authorization"), "Bearer sk-client");
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        peer_send(&stage.front.msd.control, "REQUEST 1 2\nhi\n");
        take_own("POST", "/v1/completions", "{\"choices\":[{\"text\":\"here\"}]}");
        peer_expect(&stage.front.msd.control, "1", "here");
        ck_assert_ptr_null(strstr(text_get(&stage.front.msd.process.errors), "sk-"));
        ck_assert_ptr_null(strstr(text_get(&stage.front.msd.process.output), "sk-"));
        daemon_stop(&stage.front.msd);
}
END_TEST

static void ask_with(const char *method, const char *path, const char *key) {
        http_send(&stage.http, "%s %s HTTP/1.1\r\nHost: msd\r\n%s%s%sContent-Length: 2\r\n\r\n{}", method, path,
                  key ? "Authorization: " : "", key ? key : "", key ? "\r\n" : "");
}

/* Keys of clients: one of them is needed, but for the paths that say how msd is. */
START_TEST(http_keys) {
        static const char *const wrong[] = { NULL,          "Bearer",        "Bearer ",      "Bearer sk-on", "Bearer sk-onee",
                                             "Bearer SK-ONE", "sk-one",       "Basic sk-one", "Bearer sk-one sk-two",
                                             "Bearer sk-one\xc3\xa9" };
        static const char *const right[] = { "Bearer sk-one", "Bearer sk-two", "bearer sk-two", "Bearer  sk-one" };
        static const char *const open_paths[] = { "/health", "/-/live", "/-/ready" };
        char path[SUITE_PATH_MAX + 16];

        stage_start_ready(&stage, OPTIONS("--http-key-file", write_file(path, "sk-one\n\nsk-two\n")));
        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                ask_with("POST", "/v1/completions", wrong[i]);
                http_expect_error(&stage.http, 401, NULL, NULL);
                ck_assert_ptr_nonnull(strstr(stage.http.body.data, "--http-key-file"));
                ck_assert_ptr_nonnull(http_field(&stage.http, "WWW-Authenticate"));
                ck_assert_ptr_null(strstr(stage.http.body.data, "sk-"));
                /* It was all there, and refused alone. */
        }
        for (size_t i = 0; i < ARRAY_SIZE(right); i++) {
                ask_with("POST", "/v1/completions", right[i]);
                stage_take(&stage);
                raw_answer(&stage.request, "answer");
                http_expect(&stage.http, 200, "answer");
        }
        for (size_t i = 0; i < ARRAY_SIZE(open_paths); i++) {
                ask_with("GET", open_paths[i], NULL);
                http_expect(&stage.http, 200, NULL);
        }
        /* Of a body that is not all there, nothing more is wanted. */
        http_send(&stage.http, "POST /v1/completions HTTP/1.1\r\nHost: msd\r\nContent-Length: 1000\r\n\r\nhalf");
        stage_expect_refusal(&stage.http, 401, "--http-key-file");
        ck_assert_ptr_null(strstr(text_get(&stage.front.msd.process.errors), "sk-"));
        daemon_stop(&stage.front.msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_loop_test(tests, http_1_0, 0, (int)ARRAY_SIZE(framings));
        tcase_add_test(tests, interim);
        tcase_add_loop_test(tests, head, 0, (int)ARRAY_SIZE(heads));
        tcase_add_test(tests, order_and_spelling);
        tcase_add_test(tests, upstream_host);
        tcase_add_test(tests, upstream_key);
        tcase_add_test(tests, http_keys);
}

int main(void) {
        return suite_main("http_forwarding", add);
}
