/*
 * HTTP requests that wait outlive the daemon: killed or restarted, while the model loads or while they wait for a place, the next
 * process answers them on the connections that they came on.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"
#include "tests/support/front.h"
#include "tests/support/manager.h"

#define BODY "{\"messages\":[]}"
#define CROWD 2000

static struct front front;
static struct manager manager;
static struct process process;

static int listen_at(const char *path) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_un address;
        socklen_t len;

        ck_assert_int_eq(address_from_path(path, &address, &len), 0);
        ck_assert_int_eq(bind(fd, (const struct sockaddr *)&address, len), 0);
        ck_assert_int_eq(listen(fd, 4096), 0);
        return fd;
}

static void setup(void) {
        front_init(&front);
        manager_init(&manager);
        manager.http_fd = listen_at(front_path(front.address));
        process = (struct process)PROCESS_NULL;
}

static void teardown(void) {
        process_free(&process);
        manager_deinit(&manager);
        front_deinit(&front);
}

static void start(const char *const *options) {
        manager_start(&manager, &process, options);
        peer_connect(&front.msd.control, manager.socket);
}

/* Ends it as a crash does, or as a restart does. */
static void end(int signal) {
        peer_close(&front.msd.control);
        process_signal(&process, signal);
        ck_assert_int_eq(process_wait(&process), signal == SIGKILL ? 128 + SIGKILL : 0);
        process_free(&process);
}

static void finish(void) {
        peer_close(&front.msd.control);
        process_signal(&process, SIGTERM);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
}

static const int signals[] = { SIGUSR2, SIGKILL };

static const char *const soon[] = { "--load-time", "300ms", "--inference-time", "0", "--stream-keepalive", "50ms", NULL };

/* Everything that can be on a connection while the model loads. */
START_TEST(while_loading) {
        struct http waiting, stream, chunked, half_head, half_body, idle, pipelined, wait;
        struct peer peer;

        start(OPTIONS("--load-time", "1h", "--stream-keepalive", "50ms"));
        peer_connect(&peer, manager.socket);
        peer_send(&peer, "REQUEST 1\n");
        http_connect(&waiting, front.address);
        http_post(&waiting, "/v1/chat/completions", BODY);
        http_connect(&stream, front.address);
        http_post(&stream, "/v1/completions", "{\"stream\":true,\"prompt\":\"a\"}");
        ck_assert(http_head(&stream));
        http_wait_body(&stream, ": waiting\n\n");
        http_connect(&chunked, front.address);
        http_send(&chunked, "POST /v1/completions HTTP/1.1\r\nHost: msd\r\nTransfer-Encoding: chunked\r\n\r\n"
                            "6\r\n{\"prom\r\n8;x\r\npt\":\"a\"}\r\n0\r\n\r\n");
        http_connect(&pipelined, front.address);
        http_send(&pipelined, "GET /x HTTP/1.1\r\nHost: msd\r\n\r\nGET /-/live HTTP/1.1\r\nHost: msd\r\n\r\nGET /v1/mod");
        http_connect(&wait, front.address);
        http_ask(&wait, "GET", "/-/wait");
        http_connect(&half_head, front.address);
        http_send(&half_head, "GET /v1/mod");
        http_connect(&half_body, front.address);
        http_send(&half_body, "POST /v1/completions HTTP/1.1\r\nHost: msd\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{\"pro");
        http_connect(&idle, front.address);
        http_ask(&idle, "GET", "/-/live");
        http_expect(&idle, 200, "ok\n");
        front_wait(&front, peer_status_is_waiting, 5, "they wait");
        http_send(&half_head, "els HTTP/1.1\r\n");
        http_send(&half_body, "m\r\n8\r\npt");
        front_wait(&front, peer_status_is_connections, 10, "all are there");
        process_wait_rest(&process);
        end(signals[_i]);

        start(soon);
        http_ask(&idle, "GET", "/-/live");
        http_expect(&idle, 200, "ok\n");
        http_send(&half_head, "Host: msd\r\n\r\n");
        http_send(&half_body, "\":\"a\"}\r\n0\r\n\r\n");
        peer_expect(&peer, "1", "Response 1 from sim");
        http_expect(&waiting, 200, NULL);
        http_end(&stream);
        ck_assert(stream.whole);
        ck_assert_msg(strstr(text_get(&stream.body), "[DONE]"), "%s", text_get(&stream.body));
        http_expect(&chunked, 200, NULL);
        http_expect(&wait, 204, "");
        http_expect(&half_head, 200, NULL);
        http_expect(&half_body, 200, NULL);
        http_expect(&pipelined, 404, NULL);
        http_expect(&pipelined, 200, "ok\n");
        http_send(&pipelined, "els HTTP/1.1\r\nHost: msd\r\n\r\n");
        http_expect(&pipelined, 200, NULL);
        /* The connections go on. */
        http_post(&half_body, "/v1/chat/completions", BODY);
        http_expect(&half_body, 200, NULL);
        http_close(&waiting);
        http_close(&stream);
        http_close(&chunked);
        http_close(&pipelined);
        http_close(&wait);
        http_close(&half_head);
        http_close(&half_body);
        http_close(&idle);
        peer_close(&peer);
        finish();
}
END_TEST

/* Many, twice: the second process has taken them over itself. */
START_TEST(a_crowd) {
        static struct http crowd[CROWD];

        start(OPTIONS("--load-time", "1h"));
        for (size_t i = 0; i < CROWD; i++) {
                http_connect(&crowd[i], front.address);
                http_send(&crowd[i], "POST /v1/completions HTTP/1.1\r\nHost: msd\r\nX-Request-Id: r%zu\r\nContent-Length: 15\r\n\r\n" BODY, i);
        }
        front_wait(&front, peer_status_is_waiting, CROWD, "all wait");
        end(signals[_i]);
        start(OPTIONS("--load-time", "1h"));
        front_wait(&front, peer_status_is_waiting, CROWD, "all wait again");
        end(SIGKILL);
        start(soon);
        for (size_t i = 0; i < CROWD; i++) {
                char expected[64];

                http_expect(&crowd[i], 200, NULL);
                snprintf(expected, sizeof(expected), "\"Response r%zu from sim\"", i);
                ck_assert_msg(strstr(crowd[i].body.data, expected), "%s is not in %s", expected, crowd[i].body.data);
                http_close(&crowd[i]);
        }
        finish();
}
END_TEST

/* Requests that wait for a place while another is with the model. */
START_TEST(for_a_place) {
        struct http in_flight, waiting[8];
        struct peer peer;

        start(OPTIONS("--load-time", "0", "--inference-time", signals[_i] == SIGKILL ? "1h" : "500ms", "--max-inflight", "1"));
        front_wait(&front, peer_status_is_ready, 0, "it is ready");
        http_connect(&in_flight, front.address);
        http_post(&in_flight, "/v1/chat/completions", BODY);
        front_wait(&front, peer_status_is_processing, 1, "one is in flight");
        for (size_t i = 0; i < ARRAY_SIZE(waiting); i++) {
                http_connect(&waiting[i], front.address);
                http_post(&waiting[i], "/v1/chat/completions", BODY);
        }
        peer_connect(&peer, manager.socket);
        peer_send(&peer, "REQUEST 7\n");
        front_wait(&front, peer_status_is_waiting, ARRAY_SIZE(waiting) + 1, "the others wait");
        process_wait_rest(&process);
        end(signals[_i]);
        if (signals[_i] == SIGUSR2)
                http_expect(&in_flight, 200, NULL);
        start(soon);
        /* Nobody knows how far it had come. */
        if (signals[_i] == SIGKILL)
                http_expect_end(&in_flight);
        for (size_t i = 0; i < ARRAY_SIZE(waiting); i++) {
                http_expect(&waiting[i], 200, NULL);
                http_close(&waiting[i]);
        }
        peer_expect(&peer, "7", "Response 7 from sim");
        peer_close(&peer);
        http_close(&in_flight);
        finish();
}
END_TEST

/* Restarted while it is ready: idle connections are handed over, and requests in flight finish. */
START_TEST(while_ready) {
        struct http idle, in_flight, late;

        start(OPTIONS("--load-time", "0", "--inference-time", "500ms"));
        front_wait(&front, peer_status_is_ready, 0, "it is ready");
        http_connect(&idle, front.address);
        http_post(&idle, "/v1/chat/completions", BODY);
        http_expect(&idle, 200, NULL);
        http_connect(&in_flight, front.address);
        http_post(&in_flight, "/v1/chat/completions", BODY);
        front_wait(&front, peer_status_is_processing, 1, "one is in flight");
        peer_close(&front.msd.control);
        process_signal(&process, SIGUSR2);
        manager_wait_begin(&manager, "STOPPING=1");
        http_connect(&late, front.address);
        http_post(&late, "/v1/chat/completions", BODY);
        http_expect(&in_flight, 200, NULL);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        start(soon);
        http_post(&idle, "/v1/chat/completions", BODY);
        http_expect(&idle, 200, NULL);
        http_expect(&late, 200, NULL);
        http_close(&idle);
        http_close(&in_flight);
        http_close(&late);
        finish();
}
END_TEST

/* What does not fit into --max-parked is answered when the daemon is restarted, and what does fit goes on. */
START_TEST(max_parked) {
        static char large[100000];
        struct http fits, too_large;

        memset(large, ' ', sizeof(large) - 1);
        start(OPTIONS("--load-time", "1h", "--max-parked", "50000"));
        http_connect(&fits, front.address);
        http_post(&fits, "/v1/chat/completions", BODY);
        front_wait(&front, peer_status_is_waiting, 1, "one waits");
        http_connect(&too_large, front.address);
        http_send(&too_large, "POST /v1/completions HTTP/1.1\r\nHost: msd\r\nContent-Length: %zu\r\n\r\n", sizeof(large) - 1);
        http_send_bytes(&too_large, large, sizeof(large) - 1);
        front_wait(&front, peer_status_is_waiting, 2, "both wait");
        peer_close(&front.msd.control);
        process_signal(&process, SIGUSR2);
        http_expect_error(&too_large, 503, "shutting-down", NULL);
        ck_assert_ptr_nonnull(http_field(&too_large, "Retry-After"));
        http_close(&too_large);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        start(soon);
        http_expect(&fits, 200, NULL);
        http_close(&fits);
        finish();
}
END_TEST

/* Killed, nobody can answer what was not parked: the next process says so. */
START_TEST(max_parked_killed) {
        static char large[100000];
        struct http too_large;
        struct peer peer;

        memset(large, 'x', sizeof(large));
        start(OPTIONS("--load-time", "1h", "--max-parked", "50000"));
        http_connect(&too_large, front.address);
        http_send(&too_large, "POST /v1/completions HTTP/1.1\r\nHost: msd\r\nContent-Length: %zu\r\n\r\n", sizeof(large));
        http_send_bytes(&too_large, large, sizeof(large));
        peer_connect(&peer, manager.socket);
        peer_send(&peer, "REQUEST 7 %zu\n", sizeof(large));
        peer_send_bytes(&peer, large, sizeof(large));
        peer_send(&peer, "\n");
        front_wait(&front, peer_status_is_waiting, 2, "both wait");
        end(SIGKILL);
        start(soon);
        http_expect_error(&too_large, 503, "shutting-down", NULL);
        http_expect_end(&too_large);
        http_close(&too_large);
        peer_expect_error(&peer, "-", "shutting-down", NULL);
        peer_expect_end(&peer);
        peer_close(&peer);
        finish();
}
END_TEST

/* The next process does not speak HTTP: the client hears of it. */
START_TEST(without_http) {
        struct http waiting;

        start(OPTIONS("--load-time", "1h"));
        http_connect(&waiting, front.address);
        http_post(&waiting, "/v1/chat/completions", BODY);
        front_wait(&front, peer_status_is_waiting, 1, "it waits");
        end(SIGKILL);
        close(manager.http_fd);
        manager.http_fd = -1;
        start(soon);
        http_expect_error(&waiting, 503, NULL, NULL);
        http_expect_end(&waiting);
        http_close(&waiting);
        finish();
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_set_timeout(tests, 180);
        tcase_add_loop_test(tests, while_loading, 0, (int)ARRAY_SIZE(signals));
        tcase_add_loop_test(tests, a_crowd, 0, (int)ARRAY_SIZE(signals));
        tcase_add_loop_test(tests, for_a_place, 0, (int)ARRAY_SIZE(signals));
        tcase_add_test(tests, while_ready);
        tcase_add_test(tests, max_parked);
        tcase_add_test(tests, max_parked_killed);
        tcase_add_test(tests, without_http);
}

int main(void) {
        return suite_main("http_parking", add);
}
