/*
 * A real model is judged by evidence: when it is ready, when it is lost, and whose it is. It is the tests' own
 * (tests/upstream/server.c).
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/front.h"
#include "tests/support/port.h"
#include "tests/support/served.h"

static struct daemon msd;
static char directory[SUITE_PATH_MAX];
static char url[SUITE_PATH_MAX + 32], upstream_socket[SUITE_PATH_MAX + 16], once[SUITE_PATH_MAX + 16];

static void setup(void) {
        suite_directory(directory);
        snprintf(upstream_socket, sizeof(upstream_socket), "%s/up.sock", directory);
        snprintf(url, sizeof(url), "unix:%s", upstream_socket);
        snprintf(once, sizeof(once), "%s/once", directory);
}

static void teardown(void) {
        suite_remove(directory);
}

static void start(const char *const *options, const char *const *of_server) {
        served_start(&msd, NULL, url, options, of_server);
}

/* Waits until STATUS has this in it. */
static void wait_status(const char *text) {
        const uint64_t deadline = clock_patience();
        struct peer_reply reply;

        for (;;) {
                peer_send(&msd.control, "STATUS\n");
                ck_assert(peer_next(&msd.control, &reply));
                if (strstr(reply.body, text))
                        return;
                if (clock_left(deadline) == 0)
                        process_give_up("The status never has %s, but %s", text, reply.body);
                (void)process_poll(NULL, 0, clock_now() + 10 * NSEC_PER_MSEC);
        }
}

/* Nothing that would happen has, for so long. */
static void let_pass(uint64_t nsec) {
        const uint64_t deadline = clock_now() + nsec;

        while (clock_left(deadline) > 0)
                (void)process_poll(NULL, 0, deadline);
}

/* --- Suspected, and alive. */

/*
 * It says that it is not available, and its probes say so too; but a stream goes on. The stream is not ended, and the request is
 * sent again because of it.
 */
START_TEST(busy) {
        struct peer_status status;
        struct peer_reply reply;
        struct peer stream;
        size_t parts = 0;

        start(OPTIONS("--ready", "notify"), OPTIONS("--notify", "--never-healthy", "--think", "20ms"));
        daemon_wait_ready(&msd);
        peer_connect(&stream, msd.socket);
        served_ask(&stream, "STREAM", "s", "a story that is long enough to go on while the other one is sent for the second time");
        ck_assert(peer_next(&stream, &reply));
        ck_assert_int_eq(reply.type, PROTOCOL_PART);
        served_ask(&msd.control, "REQUEST", "1", "status 503");
        peer_expect_error(&msd.control, "1", "inference-failed", "As you like it");
        while (peer_next(&stream, &reply) && reply.type == PROTOCOL_PART)
                parts++;
        ck_assert_int_eq(reply.type, PROTOCOL_OK);
        ck_assert_uint_gt(parts, 50);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.generation, 1);
        peer_close(&stream);
        daemon_stop(&msd);
}
END_TEST

/* The same, and nothing else is in flight: after --freeze-timeout it is ended, and the request goes to the next. */
START_TEST(unavailable) {
        struct peer_status status;

        start(OPTIONS("--ready", "notify", "--freeze-timeout", "500ms"), OPTIONS("--notify", "--never-healthy"));
        daemon_wait_ready(&msd);
        served_ask(&msd.control, "REQUEST", "1", "status 503");
        peer_expect_error(&msd.control, "1", "inference-failed", "As you like it");
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.generation, 2);
        ck_assert_ptr_nonnull(strstr(text_get(&msd.process.errors),
                                     "Ending the model server: GET /health: 503 Service Unavailable; its probes failed for 500ms"));
        daemon_stop(&msd);
}
END_TEST

/* It has no such path: an answer all the same. */
START_TEST(no_health_path) {
        struct peer_status status;

        start(OPTIONS("--ready", "notify", "--health-path", "/nothing", "--freeze-timeout", "1h"), OPTIONS("--notify"));
        daemon_wait_ready(&msd);
        served_ask(&msd.control, "REQUEST", "1", "status 503");
        peer_expect_error(&msd.control, "1", "inference-failed", "As you like it");
        wait_status("\"probe\":\"GET /nothing: 404 Not Found\"");
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.generation, 1);
        daemon_stop(&msd);
}
END_TEST

/* --- Frozen. */

/* What freezes it, and whether it is stopped then. */
static const struct {
        const char *prompt;
        int signal;
} freezes[] = {
        { "hang first", SIGSTOP },
        { "hang first", 0 },            /* a deadlock, and /health is well */
        { "mute first", 0 },            /* it accepts connections, and answers nothing on any */
};

/* It is ended and started again, and what had not begun is sent again. */
START_TEST(frozen) {
        const uint64_t began = clock_now();
        struct peer_status status;
        pid_t child;

        start(OPTIONS("--freeze-timeout", "500ms"), OPTIONS("--once", once));
        daemon_wait_ready(&msd);
        child = served_child_of(msd.process.pid);
        served_ask(&msd.control, "REQUEST", "1", freezes[_i].prompt);
        served_ask(&msd.control, "REQUEST", "2", freezes[_i].prompt);
        peer_status_until(&msd.control, &status, peer_status_is_processing, 2, "they are in flight");
        if (freezes[_i].signal)
                ck_assert_int_eq(kill(child, freezes[_i].signal), 0);
        for (unsigned i = 0; i < 2; i++) {
                struct peer_reply reply;

                ck_assert(peer_next(&msd.control, &reply));
                ck_assert_msg(reply.type == PROTOCOL_OK, "%s %s", reply.code, reply.body);
        }
        ck_assert_uint_ge(clock_now() - began, 500 * NSEC_PER_MSEC);
        ck_assert_int_ne(kill(child, 0), 0);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.generation, 2);
        ck_assert_ptr_nonnull(strstr(status.error, "server: it is frozen: no byte of an answer came for 500ms"));
        ck_assert_ptr_nonnull(strstr(text_get(&msd.process.errors), "Ending the model server: it is frozen"));
        daemon_stop(&msd);
}
END_TEST

/* 0 is never. */
START_TEST(never_frozen) {
        struct peer_status status;

        start(OPTIONS("--freeze-timeout", "0", "--request-timeout", "2s"), OPTIONS("--once", once));
        daemon_wait_ready(&msd);
        served_ask(&msd.control, "REQUEST", "1", "hang first");
        peer_expect_error(&msd.control, "1", "timed-out", NULL);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.generation, 1);
        daemon_stop(&msd);
}
END_TEST

/* A prompt that takes three time-outs of processor time, without a byte. */
START_TEST(works) {
        struct peer_status status;

        start(OPTIONS("--freeze-timeout", "500ms"), OPTIONS());
        daemon_wait_ready(&msd);
        served_ask(&msd.control, "REQUEST", "1", "spin 1500");
        peer_expect(&msd.control, "1", "echo spin 1500");
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.generation, 1);
        daemon_stop(&msd);
}
END_TEST

#define LARGE 30000

/* A client that does not read its answer has the server wait for it. It is the server of others, too, who wait for that one. */
START_TEST(client_does_not_read) {
        static char prompt[LARGE];
        struct peer_status status;
        struct peer_reply reply;
        struct peer stream;
        size_t len = 0;

        memset(prompt, 'x', LARGE);
        start(OPTIONS("--freeze-timeout", "3s"), OPTIONS());
        daemon_wait_ready(&msd);
        peer_connect(&stream, msd.socket);
        for (unsigned i = 0; i < 30; i++) {
                peer_send(&stream, "STREAM %u %u\n", i, LARGE);
                peer_send_bytes(&stream, prompt, LARGE);
                peer_send(&stream, "\n");
        }
        let_pass(7 * NSEC_PER_SEC);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.generation, 1);
        ck_assert_uint_gt(status.processing, 0);
        for (unsigned ended = 0; ended < 30; ended += reply.type == PROTOCOL_OK) {
                ck_assert(peer_next(&stream, &reply));
                ck_assert_msg(reply.type != PROTOCOL_ERR, "%s %s", reply.code, reply.body);
                len += reply.len;
        }
        ck_assert_uint_eq(len, 30 * (LARGE + strlen("echo ")));
        peer_close(&stream);
        daemon_stop(&msd);
}
END_TEST

/* What holds no place is no evidence: a GET that is not answered, and a tunnel in which nobody says anything. */
START_TEST(light_requests) {
        char http_address[SUITE_PATH_MAX + 32];
        struct peer_status status;
        struct http get, tunnel;

        snprintf(http_address, sizeof(http_address), "unix:%s/http.sock", directory);
        start(OPTIONS("--freeze-timeout", "200ms", "--http", http_address), OPTIONS());
        daemon_wait_ready(&msd);
        http_connect(&get, http_address);
        http_ask(&get, "GET", "/hang");
        http_connect(&tunnel, http_address);
        http_send(&tunnel, "GET /v1/realtime HTTP/1.1\r\nHost: msd\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
        ck_assert(http_head(&tunnel));
        ck_assert_uint_eq(tunnel.status, 101);
        /* One that does makes it look, and is not there any more when it would be found. */
        served_ask(&msd.control, "REQUEST", "1", "hello");
        peer_expect(&msd.control, "1", "echo hello");
        peer_status_until(&msd.control, &status, peer_status_is_processing, 2, "both are in flight");
        let_pass(2 * NSEC_PER_SEC);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.generation, 1);
        ck_assert_uint_eq(status.processing, 2);
        http_close(&get);
        http_close(&tunnel);
        daemon_stop(&msd);
}
END_TEST

/* Without a request in flight nothing wakes up: not before the first, nor after the last. */
START_TEST(no_timer_at_rest) {
        uint64_t switches;

        start(OPTIONS("--freeze-timeout", "200ms"), OPTIONS());
        daemon_wait_ready(&msd);
        for (unsigned i = 0; i < 2; i++) {
                if (i > 0) {
                        served_ask(&msd.control, "REQUEST", "1", "hello");
                        peer_expect(&msd.control, "1", "echo hello");
                }
                /* It looks twice after the last. */
                let_pass(500 * NSEC_PER_MSEC);
                process_wait_rest(&msd.process);
                switches = process_switches(&msd.process);
                let_pass(1 * NSEC_PER_SEC);
                if (!process_has_tsan(&msd.process))
                        ck_assert_uint_eq(process_switches(&msd.process), switches);
        }
        daemon_stop(&msd);
}
END_TEST

/* --- Ready. */

#define LOAD "600ms"
#define LOAD_TIME 0.6

/* Signs that come too early, and the one that counts. */
static const struct {
        const char *options[6];
        const char *of_server[6];
} signs[] = {
        { { "--ready", "probe" }, { "--early" } },
        { { "--ready", "notify" }, { "--eager", "--notify" } },
        { { "--ready", "line", "--ready-line", "^here I am$" }, { "--eager", "--early", "--line", "here I am" } },
        { { "--ready-line", "^here I am$" }, { "--eager", "--early", "--line", "here I am" } },
};

START_TEST(sign_of_readiness) {
        const char *of_server[8] = { "--load", LOAD };
        struct peer_status status;

        memcpy(of_server + 2, signs[_i].of_server, sizeof(signs[_i].of_server));
        start(signs[_i].options, of_server);
        served_ask(&msd.control, "REQUEST", "1", "hello");
        peer_expect(&msd.control, "1", "echo hello");
        peer_status(&msd.control, &status);
        ck_assert_msg(status.load >= LOAD_TIME, "It was ready after %f s", status.load);
        daemon_stop(&msd);
}
END_TEST

/* Each of them counts where any does, the line too. */
static const struct {
        const char *options[6];
        const char *of_server[6];
} any_signs[] = {
        { { NULL }, { "--early", "--load", "1h" } },
        { { NULL }, { "--eager", "--load", "1h" } },
        { { "--ready", "any", "--ready-line", "loading" }, { "--load", "1h" } },
};

START_TEST(any_sign) {
        start(any_signs[_i].options, any_signs[_i].of_server);
        daemon_wait_ready(&msd);
        daemon_stop(&msd);
}
END_TEST

/* --- What the probes see. */

static const struct {
        const char *path;
        const char *of_server[4];
        const char *result;
} results[] = {
        { "/nothing", { NULL }, "GET /nothing: 404 Not Found" },
        { "/health", { "--health", "401" }, "GET /health: 401 Unauthorized: see --upstream-key-file" },
};

/* A path that is not there does not load for ever in silence: the reason says what is wrong. */
START_TEST(refused_probes) {
        char expected[256];

        start(OPTIONS("--health-path", results[_i].path, "--load-attempts", "1", "--stall-timeout", "1s", "--on-load-failure", "stay"),
              results[_i].of_server);
        served_ask(&msd.control, "REQUEST", "1", "hello");
        snprintf(expected, sizeof(expected), "%s; The load made no progress for 1s", results[_i].result);
        peer_expect_error(&msd.control, "1", "load-failed", expected);
        daemon_stop(&msd);
}
END_TEST

/* And while it loads the status, /-/ready and the log do. */
START_TEST(refused_probes_are_said) {
        char http_address[SUITE_PATH_MAX + 32], warning[256], member[256];
        struct http http;

        snprintf(http_address, sizeof(http_address), "unix:%s/http.sock", directory);
        start(OPTIONS("--health-path", results[_i].path, "--http", http_address), results[_i].of_server);
        snprintf(member, sizeof(member), "\"probe\":\"%s\"", results[_i].result);
        wait_status(member);
        http_connect(&http, http_address);
        http_ask(&http, "GET", "/-/ready");
        http_expect_error(&http, 503, NULL, NULL);
        ck_assert_msg(strstr(text_get(&http.body), results[_i].result), "%s", text_get(&http.body));
        http_close(&http);
        snprintf(warning, sizeof(warning), "The model server is not ready: %s\n", results[_i].result);
        process_wait_errors(&msd.process, warning);
        daemon_stop(&msd);
}
END_TEST

/* A port at which nobody listens, and a name that is none. */
START_TEST(not_reached) {
        char address[64], expected[256];
        struct peer_reply reply;
        uint16_t number;
        int fd = port_take(&number);

        if (fd < 0) {
                suite_skip("not_reached", "there is no network here");
                return;
        }
        if (_i == 0) {
                snprintf(address, sizeof(address), "http://127.0.0.1:%u", number);
                snprintf(expected, sizeof(expected), "Connection refused at 127.0.0.1:%u; The load made no progress for 500ms", number);
        } else {
                snprintf(address, sizeof(address), "http://no..name:1");
                snprintf(expected, sizeof(expected), "Cannot resolve no..name: ");
        }
        daemon_start(&msd, "--upstream", address, "--load-attempts", "1", "--stall-timeout", "500ms", "--on-load-failure", "stay", NULL);
        peer_send(&msd.control, "WAIT\n");
        ck_assert(peer_next(&msd.control, &reply));
        ck_assert_msg(strncmp(reply.body, expected, strlen(expected)) == 0, "%s", reply.body);
        daemon_stop(&msd);
        close(fd);
}
END_TEST

/* --- Whose it is. */

/* Somebody else listens there already: nothing is started, and the failure says who. */
START_TEST(stranger_before) {
        struct process stranger = PROCESS_NULL;
        char port[16], address[64], expected[1024];
        uint16_t number;
        int fd = port_take(&number);

        if (fd < 0) {
                suite_skip("stranger_before", "there is no network here");
                return;
        }
        snprintf(port, sizeof(port), "%u", number);
        snprintf(address, sizeof(address), "http://%s:%s", _i == 0 ? "127.0.0.1" : "localhost", port);
        if (_i < 2)
                process_start(&stranger, served_program(), OPTIONS("server", "--port", port), NULL);
        else
                process_start(&stranger, served_program(), OPTIONS("server", "--socket", upstream_socket), NULL);
        process_wait_output(&stranger, "upstream: loading\n");
        daemon_start(&msd, "--upstream", _i < 2 ? address : url, "--load-attempts", "1", "--on-load-failure", "stay", "--", served_program(),
                     _i < 2 ? "--port" : "--socket", _i < 2 ? port : upstream_socket, NULL);
        served_ask(&msd.control, "REQUEST", "1", "hello");
        snprintf(expected, sizeof(expected), "Cannot start %s: %s: process %d (server) listens there", served_program(),
                 _i < 2 ? address + strlen("http://") : upstream_socket, (int)stranger.pid);
        peer_expect_error(&msd.control, "1", "load-failed", expected);
        ck_assert_int_eq(served_child_of(msd.process.pid), 0);
        daemon_stop(&msd);
        process_free(&stranger);
        close(fd);
}
END_TEST

/* Somebody else listens there after the command was started, which does not. With --upstream-owner any that is right. */
START_TEST(stranger_after) {
        const bool is_tcp = _i < 2, is_any = _i % 2 == 1;
        struct process stranger = PROCESS_NULL;
        char port[16], address[64], expected[256];
        const char *at = is_tcp ? address : url;
        struct peer_status status;
        uint16_t number;
        int fd = port_take(&number);

        if (fd < 0) {
                suite_skip("stranger_after", "there is no network here");
                return;
        }
        snprintf(port, sizeof(port), "%u", number);
        snprintf(address, sizeof(address), "http://127.0.0.1:%s", port);
        daemon_start(&msd, "--upstream", at, "--load-attempts", "1", "--on-load-failure", "stay", "--upstream-owner",
                     is_any ? "any" : "child", "--", "sh", "-c", "echo started; exec sleep 4711", NULL);
        served_ask(&msd.control, "REQUEST", "1", "hello");
        process_wait_output(&msd.process, "started\n");
        process_start(&stranger, served_program(), OPTIONS("server", is_tcp ? "--port" : "--socket", is_tcp ? port : upstream_socket), NULL);
        if (is_any)
                peer_expect(&msd.control, "1", "echo hello");
        else {
                snprintf(expected, sizeof(expected), "%s: process %d (server), which msd did not start, listens there; see --upstream-owner",
                         is_tcp ? address + strlen("http://") : upstream_socket, (int)stranger.pid);
                peer_expect_error(&msd.control, "1", "load-failed", expected);
        }
        peer_status(&msd.control, &status);
        ck_assert_str_eq(status.status, is_any ? "ready" : "failed");
        daemon_stop(&msd);
        process_free(&stranger);
        close(fd);
}
END_TEST

/* --upstream-owner any: the server goes and comes back, and the process of the command is not blamed for it. */
START_TEST(any_owner_comes_back) {
        struct process process = PROCESS_NULL;
        struct peer_status status;
        pid_t child;

        daemon_start(&msd, "--upstream", url, "--upstream-owner", "any", "--", "sh", "-c", "echo started; exec sleep 4711", NULL);
        process_wait_output(&msd.process, "started\n");
        process_start(&process, served_program(), OPTIONS("server", "--socket", upstream_socket), NULL);
        served_ask(&msd.control, "REQUEST", "1", "hello");
        peer_expect(&msd.control, "1", "echo hello");
        child = served_child_of(msd.process.pid);
        process_signal(&process, SIGKILL);
        (void)process_wait(&process);
        process_free(&process);
        served_ask(&msd.control, "REQUEST", "2", "again");
        wait_status("\"generation\":2,");
        ck_assert_int_eq(unlink(upstream_socket), 0);
        process_start(&process, served_program(), OPTIONS("server", "--socket", upstream_socket), NULL);
        peer_expect(&msd.control, "2", "echo again");
        ck_assert_int_eq(served_child_of(msd.process.pid), child);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.generation, 2);
        daemon_stop(&msd);
        process_free(&process);
}
END_TEST

/* --- A model that does not last. */

static size_t count(const struct text *text, const char *what) {
        const char *at = text_get(text);
        size_t n = 0;

        while ((at = strstr(at, what))) {
                at += strlen(what);
                n++;
        }
        return n;
}

static void wait_count(const struct text *text, const char *what, size_t n) {
        const uint64_t deadline = clock_patience();

        while (count(text, what) < n) {
                if (clock_left(deadline) == 0)
                        process_give_up("There are not %zu of %s", n, what);
                (void)process_poll(NULL, 0, clock_now() + 10 * NSEC_PER_MSEC);
        }
        ck_assert_uint_eq(count(text, what), n);
}

/* Each life is an attempt that has failed; after the last one the load has. */
START_TEST(ends_soon) {
        const uint64_t began = clock_now();
        struct peer_status status;

        start(OPTIONS("--load-attempts", "3", "--on-load-failure", "stay"), OPTIONS("--lives", "0"));
        peer_status_until(&msd.control, &status, peer_status_is_failed, 0, "the load has failed");
        ck_assert_uint_eq(status.attempt, 3);
        wait_count(&msd.process.output, "upstream: loading\n", 3);
        wait_count(&msd.process.errors, "; attempt 2 of 3 follows in ", 1);
        wait_count(&msd.process.errors, "; attempt 3 of 3 follows in ", 1);
        /* Half a second and a second, each a quarter less at the most. */
        ck_assert_uint_ge(clock_now() - began, 1125 * NSEC_PER_MSEC);
        served_ask(&msd.control, "REQUEST", "1", "hello");
        peer_expect_error(&msd.control, "1", "load-failed", NULL);

        /* An administrator's load begins anew. */
        peer_send(&msd.control, "LOAD\n");
        peer_expect(&msd.control, "-", PROTOCOL_LOADING);
        peer_status_until(&msd.control, &status, peer_status_is_failed, 0, "the load has failed");
        wait_count(&msd.process.output, "upstream: loading\n", 6);
        daemon_stop(&msd);
}
END_TEST

/* One that somebody kills is not to blame: it pauses, but goes on. Requests wait meanwhile. */
START_TEST(killed_again_and_again) {
        struct peer_status status;

        start(OPTIONS("--load-attempts", "1", "--on-load-failure", "stay"), OPTIONS());
        for (unsigned i = 1; i <= 3; i++) {
                char id[16];

                snprintf(id, sizeof(id), "%u", i);
                served_ask(&msd.control, "REQUEST", id, "hello");
                peer_expect(&msd.control, id, "echo hello");
                peer_status(&msd.control, &status);
                ck_assert_uint_eq(status.generation, i);
                ck_assert_uint_eq(status.attempt, 1);
                ck_assert_int_eq(kill(served_child_of(msd.process.pid), i % 2 ? SIGKILL : SIGTERM), 0);
                snprintf(id, sizeof(id), "\"generation\":%u", i + 1);
                wait_status(id);
        }
        wait_count(&msd.process.errors, "; attempt 1 of 1 follows in ", 3);
        daemon_stop(&msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, busy);
        tcase_add_test(tests, unavailable);
        tcase_add_test(tests, no_health_path);
        tcase_add_loop_test(tests, frozen, 0, (int)ARRAY_SIZE(freezes));
        tcase_add_test(tests, never_frozen);
        tcase_add_test(tests, works);
        tcase_add_test(tests, client_does_not_read);
        tcase_add_test(tests, light_requests);
        tcase_add_test(tests, no_timer_at_rest);
        tcase_add_loop_test(tests, sign_of_readiness, 0, (int)ARRAY_SIZE(signs));
        tcase_add_loop_test(tests, any_sign, 0, (int)ARRAY_SIZE(any_signs));
        tcase_add_loop_test(tests, refused_probes, 0, (int)ARRAY_SIZE(results));
        tcase_add_loop_test(tests, refused_probes_are_said, 0, (int)ARRAY_SIZE(results));
        tcase_add_loop_test(tests, not_reached, 0, 2);
        tcase_add_loop_test(tests, stranger_before, 0, 3);
        tcase_add_loop_test(tests, stranger_after, 0, 4);
        tcase_add_test(tests, any_owner_comes_back);
        tcase_add_test(tests, ends_soon);
        tcase_add_test(tests, killed_again_and_again);
}

int main(void) {
        return suite_main("judge", add);
}
