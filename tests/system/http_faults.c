/*
 * A model server that breaks off, is lost, or talks nonsense, and what its HTTP clients notice of it. It is the test itself.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/front.h"
#include "tests/support/raw.h"
#include "tests/support/suite.h"

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

/* What breaks after its head was passed on is cut, so that nobody takes the half for the whole. */
static const char *const breaks[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it",
        "HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\nhalf of it",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n10\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\na\r\nhalf of it\r\n0\r\n",
};

START_TEST(breaks_off) {
        struct peer_status status;

        start_ready(OPTIONS());
        ask_and_take("GET", "/");
        raw_send(&request, "%s", breaks[_i]);
        ck_assert(http_head(&http));
        http_wait_body(&http, "half of it");
        raw_hang_up(&request);
        http_end(&http);
        ck_assert_msg(!http.whole, "Half an answer came as a whole one");
        ck_assert(http.ended);
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.failed, 1);
        ck_assert_uint_eq(status.completed + status.processing, 0);
        /* The others do not notice. */
        http_close(&http);
        http_connect(&http, front.address);
        ask_and_take("GET", "/next");
        raw_answer(&request, "next");
        http_expect(&http, 200, "next");
        daemon_stop(&front.msd);
}
END_TEST

/* The end of a connection after an answer that broke off does not take the whole answer before it along. */
START_TEST(good_before_cut) {
        static char body[300000];
        struct raw_request next;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0) {
                suite_skip("good_before_cut", "there is no network here");
                return;
        }
        close(fd);
        start_ready(OPTIONS("--http", "127.0.0.1:0"));
        http_close(&http);
        http_listening(&front.msd.process, 2, front.address);
        http_connect(&http, front.address);
        memset(body, 'a', sizeof(body));
        http_send(&http, "GET /a HTTP/1.1\r\nHost: msd\r\n\r\nGET /b HTTP/1.1\r\nHost: msd\r\n\r\n");
        take();
        raw_send(&request, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", sizeof(body));
        raw_send_bytes(&request, body, sizeof(body));
        raw_take(&raw, &next);
        ck_assert_str_eq(next.target, "/b");
        /* What nobody will read. */
        http_send_bytes(&http, body, 100000);
        raw_send(&next, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        raw_hang_up(&next);
        raw_request_deinit(&next);
        http_next(&http);
        ck_assert_uint_eq(http.body.len, sizeof(body));
        ck_assert(http_head(&http));
        http_end(&http);
        ck_assert(!http.whole);
        daemon_stop(&front.msd);
}
END_TEST

/* A chunk that is none breaks the answer too. */
START_TEST(breaks_its_chunks) {
        start_ready(OPTIONS());
        ask_and_take("GET", "/");
        raw_send(&request, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n");
        ck_assert(http_head(&http));
        http_wait_body(&http, "half of it");
        raw_send(&request, "no chunk\r\n");
        http_end(&http);
        ck_assert(!http.whole);
        daemon_stop(&front.msd);
}
END_TEST

/* Before the head nobody has seen anything of it: it is sent again, once. */
static const char *const losses[] = { "", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 100 Continue\r\n\r\n" };

static void take_and_lose(int i) {
        take();
        ck_assert_str_eq(request.method, "POST");
        ck_assert_str_eq(text_get(&request.body), "{}");
        if (*losses[i])
                raw_send(&request, "%s", losses[i]);
        raw_hang_up(&request);
}

START_TEST(sent_again) {
        struct peer_status status;
        struct raw_request none;

        start_ready(OPTIONS());
        http_post(&http, "/v1/completions", "{}");
        take_and_lose(_i);
        take();
        ck_assert_str_eq(text_get(&request.body), "{}");
        /* Of a connection that was kept nobody could tell whether the request had come at all. */
        raw_send(&request, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nagain");
        raw_hang_up(&request);
        http_expect(&http, 200, "again");

        http_post(&http, "/v1/completions", "{}");
        take_and_lose(_i);
        take_and_lose(_i);
        ck_assert(!raw_take_until(&raw, &none, http.fd, clock_patience()));
        http_expect_error(&http, 502, "inference-failed", NULL);
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.completed, 1);
        ck_assert_uint_eq(status.failed, 1);
        ck_assert_uint_eq(status.generation, 1);
        daemon_stop(&front.msd);
}
END_TEST

#define UNAVAILABLE "HTTP/1.1 503 Unavailable\r\nX-Own: yes\r\nContent-Length: 4\r\n\r\nbusy"

START_TEST(unavailable) {
        start_ready(OPTIONS());
        http_post(&http, "/v1/completions", "{}");
        take();
        raw_send(&request, UNAVAILABLE);
        take();
        raw_answer(&request, "again");
        http_expect(&http, 200, "again");
        /* The second time it is as it came. */
        http_post(&http, "/v1/completions", "{}");
        take();
        raw_send(&request, UNAVAILABLE);
        take();
        raw_send(&request, UNAVAILABLE);
        http_expect(&http, 503, "busy");
        ck_assert_str_eq(http_field(&http, "X-Own"), "yes");
        daemon_stop(&front.msd);
}
END_TEST

/* The model is lost, for it is not available for long: the request waits for the next generation. */
START_TEST(lost) {
        struct peer_status status;
        struct raw_request none;
        struct http ready;

        start_ready(OPTIONS("--freeze-timeout", "300ms"));
        http_post(&http, "/v1/completions", "{}");
        take();
        raw.sick = true;
        raw_send(&request, UNAVAILABLE);
        do {
                ck_assert(!raw_take_until(&raw, &none, -1, clock_now() + 10 * NSEC_PER_MSEC));
                peer_status(&front.msd.control, &status);
        } while (status.generation != 2 || status.waiting != 1);
        http_connect(&ready, front.address);
        http_ask(&ready, "GET", "/-/ready");
        http_expect_error(&ready, 503, NULL, NULL);
        http_close(&ready);
        raw.sick = false;
        take();
        ck_assert_str_eq(text_get(&request.body), "{}");
        raw_answer(&request, "again");
        http_expect(&http, 200, "again");
        daemon_stop(&front.msd);
}
END_TEST

/* No answer at all: the error says so, and msd and the connection go on. */
static const char *const garbage[] = {
        "garbage\r\n\r\n",
        "<html>",
        "HTTP/1.1 99 Too low\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: b\rSet-Cookie: c\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX-A: b\r\n folded\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\n: b\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX-A: \x01\x7f\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "ICY 200 OK\r\n\r\nhello",
        "HTTP/2 200\r\ncontent-length: 5\r\n\r\nhello",
};

START_TEST(garbled) {
        struct peer_status status;

        start_ready(OPTIONS());
        http_ask(&http, "GET", "/");
        for (unsigned tries = 0; raw_take_until(&raw, &request, http.fd, clock_patience()); tries++) {
                ck_assert_uint_lt(tries, 2);
                raw_send(&request, "%s", garbage[_i]);
                raw_hang_up(&request);
                raw_request_deinit(&request);
        }
        request = (struct raw_request){ 0 };
        ck_assert(http_head(&http));
        http_end(&http);
        /* Whoever could read it may pass it on, in a form that everybody can: this client reads strictly. */
        ck_assert_msg(http.status == 200 || http.status == 502, "It is %u", http.status);
        ck_assert_ptr_null(http_field(&http, "Set-Cookie"));
        if (http.status == 502) {
                ck_assert(http.whole);
                ck_assert_ptr_nonnull(strstr(http.body.data, "inference-failed"));
        }
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.completed + status.failed, 1);
        ck_assert_uint_eq(status.processing + status.waiting, 0);
        daemon_stop(&front.msd);
}
END_TEST

/* A head of an answer that nobody would send. */
START_TEST(large_head) {
        static char filler[8000];
        const size_t lines = _i == 0 ? 1 : 200;

        memset(filler, 'f', sizeof(filler) - 1);
        start_ready(OPTIONS());
        http_ask(&http, "GET", "/");
        while (raw_take_until(&raw, &request, http.fd, clock_patience())) {
                struct text text = TEXT_NULL;

                text_appendf(&text, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n");
                for (size_t i = 0; i < lines; i++)
                        text_appendf(&text, "X-%zu: %s\r\n", i, filler);
                text_appendf(&text, "\r\nhello");
                (void)raw_offer(&request, text.data, text.len, CLOCK_PATIENCE);
                text_deinit(&text);
                raw_request_deinit(&request);
        }
        request = (struct raw_request){ 0 };
        http_next(&http);
        if (lines == 1)
                ck_assert_uint_eq(http.status, 200);
        else
                ck_assert_msg(http.status == 200 || http.status == 502, "It is %u", http.status);
        http_ask(&http, "GET", "/-/live");
        http_expect(&http, 200, "ok\n");
        daemon_stop(&front.msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_loop_test(tests, breaks_off, 0, (int)ARRAY_SIZE(breaks));
        tcase_add_test(tests, breaks_its_chunks);
        tcase_add_test(tests, good_before_cut);
        tcase_add_loop_test(tests, sent_again, 0, (int)ARRAY_SIZE(losses));
        tcase_add_test(tests, unavailable);
        tcase_add_test(tests, lost);
        tcase_add_loop_test(tests, garbled, 0, (int)ARRAY_SIZE(garbage));
        tcase_add_loop_test(tests, large_head, 0, 2);
}

int main(void) {
        return suite_main("http_faults", add);
}
