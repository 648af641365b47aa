/*
 * Where msd listens for HTTP, whom it accepts, and what becomes of both when it is replaced.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/front.h"
#include "tests/support/manager.h"
#include "tests/support/raw.h"
#include "tests/support/run.h"

static struct front front;
static char request_socket[SUITE_PATH_MAX + 16];

static void setup(void) {
        front_init(&front);
        snprintf(request_socket, sizeof(request_socket), "%s/msd.sock", front.directory);
}

static void teardown(void) {
        front_deinit(&front);
}

#define BODY "{\"messages\":[]}"

/* A socket that listens at the loopback, or -1; `port` is where. */
static int listen_at(int family, uint16_t *port) {
        struct sockaddr_in inet = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
        struct sockaddr_in6 inet6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
        struct sockaddr *any = family == AF_INET ? (struct sockaddr *)&inet : (struct sockaddr *)&inet6;
        socklen_t len = family == AF_INET ? sizeof(inet) : sizeof(inet6);
        int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0)
                return -1;
        if (bind(fd, any, len) < 0 || listen(fd, 16) < 0 || getsockname(fd, any, &len) < 0) {
                close(fd);
                return -1;
        }
        *port = ntohs(family == AF_INET ? inet.sin_port : inet6.sin6_port);
        return fd;
}

static bool has_network(int family, const char *test) {
        uint16_t port;
        int fd = listen_at(family, &port);

        if (fd < 0) {
                suite_skip(test, family == AF_INET ? "there is no network here" : "there is no IPv6 here");
                return false;
        }
        close(fd);
        return true;
}

static int listen_unix(const char *path) {
        struct sockaddr_un local;
        socklen_t len;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        ck_assert_int_eq(address_from_path(path, &local, &len), 0);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(bind(fd, (const struct sockaddr *)&local, len), 0);
        ck_assert_int_eq(listen(fd, 4096), 0);
        return fd;
}

/* msd is there, at this address. */
static void expect_live(const char *at) {
        struct http http;

        http_connect(&http, at);
        http_ask(&http, "GET", "/-/live");
        http_expect(&http, 200, "ok\n");
        http_close(&http);
}

static const char *const wrong[] = {
        "",
        "8080",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:x",
        "127.0.0.1:80x",
        "127.0.0.1: 80",
        "127.0.0.1:+80",
        "127.0.0.1:-1",
        "127.0.0.1:65536",
        "127.0.0.1:99999999999999999999",
        "[::1]",
        "[::1]80",
        "[::1:80",
        "[]:0",
        "[127.0.0.1]:0",
        "unix:",
        "unix:/no/such/directory/http.sock",
        "unix:/dev/null",
        "unix:/dev/null/http.sock",
        "unix:/tmp/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345",
        "http://127.0.0.1:80",
};

START_TEST(wrong_addresses) {
        struct process process;

        ck_assert_int_eq(run_msd(&process, NULL, OPTIONS("--socket", request_socket, "--load-time", "0", "--http", wrong[_i])), 2);
        ck_assert_msg(strstr(text_get(&process.errors), "--http: "), "It says: %s", text_get(&process.errors));
        ck_assert_str_eq(text_get(&process.output), "");
        ck_assert_int_eq(access(request_socket, F_OK), -1);
        process_free(&process);
}
END_TEST

START_TEST(too_many_addresses) {
        const char *arguments[24] = { "--socket", request_socket };
        char places[9][SUITE_PATH_MAX + 32];
        struct process process;

        for (unsigned i = 0; i < 9; i++) {
                snprintf(places[i], sizeof(places[i]), "unix:%s/%u", front.directory, i);
                arguments[2 + 2 * i] = "--http";
                arguments[3 + 2 * i] = places[i];
        }
        ck_assert_int_eq(run_msd(&process, NULL, arguments), 2);
        ck_assert_ptr_nonnull(strstr(text_get(&process.errors), "--http: "));
        process_free(&process);
}
END_TEST

START_TEST(address_in_use) {
        struct process process;
        char place[HTTP_ADDRESS_MAX];
        uint16_t port;
        int fd;

        /* One that runs, a file that is none, and one of a daemon that has died. */
        daemon_start(&front.msd, "--load-time", "0", "--http", front.address, NULL);
        http_listening(&front.msd.process, 1, place);
        ck_assert_int_eq(run_msd(&process, NULL, OPTIONS("--socket", request_socket, "--http", front.address)), 2);
        ck_assert_ptr_nonnull(strstr(text_get(&process.errors), "--http: "));
        process_free(&process);
        expect_live(front.address);
        process_signal(&front.msd.process, SIGKILL);
        (void)process_wait(&front.msd.process);
        ck_assert_int_eq(access(front_path(front.address), F_OK), 0);
        peer_close(&front.msd.control);
        process_free(&front.msd.process);
        daemon_start(&front.msd, "--load-time", "0", "--http", front.address, NULL);
        http_listening(&front.msd.process, 1, place);
        expect_live(front.address);
        daemon_stop(&front.msd);
        ck_assert_int_eq(access(front_path(front.address), F_OK), -1);

        if (!has_network(AF_INET, "address_in_use"))
                return;
        fd = listen_at(AF_INET, &port);
        snprintf(place, sizeof(place), "127.0.0.1:%u", port);
        ck_assert_int_eq(run_msd(&process, NULL, OPTIONS("--socket", request_socket, "--http", place)), 2);
        ck_assert_ptr_nonnull(strstr(text_get(&process.errors), "--http: "));
        process_free(&process);
        close(fd);
}
END_TEST

/* All that can be said, at once. */
START_TEST(several) {
        char second[SUITE_PATH_MAX + 32], said[HTTP_ADDRESS_MAX];

        snprintf(second, sizeof(second), "unix:%s/second.sock", front.directory);
        daemon_start(&front.msd, "--load-time", "1h", "--http", front.address, "--http", second, NULL);
        http_listening(&front.msd.process, 1, said);
        ck_assert_str_eq(said, front.address);
        http_listening(&front.msd.process, 2, said);
        ck_assert_str_eq(said, second);
        expect_live(front.address);
        expect_live(second);
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(over_tcp) {
        char first[HTTP_ADDRESS_MAX], second[HTTP_ADDRESS_MAX];
        struct http http;

        if (!has_network(AF_INET, "over_tcp"))
                return;
        daemon_start(&front.msd, "--load-time", "500ms", "--inference-time", "0", "--http", "127.0.0.1:0", "--http",
                     "localhost:0", NULL);
        http_listening(&front.msd.process, 1, first);
        http_listening(&front.msd.process, 2, second);
        ck_assert_int_eq(strncmp(first, "127.0.0.1:", 10), 0);
        ck_assert_int_gt(atoi(first + 10), 0);
        ck_assert_str_ne(first, second);
        expect_live(first);
        expect_live(second);
        http_connect(&http, first);
        http_post(&http, "/v1/chat/completions", BODY);
        http_expect(&http, 200, NULL);
        http_close(&http);
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(over_tcp_6) {
        char said[HTTP_ADDRESS_MAX];

        if (!has_network(AF_INET6, "over_tcp_6"))
                return;
        daemon_start(&front.msd, "--load-time", "1h", "--http", "[::1]:0", NULL);
        http_listening(&front.msd.process, 1, said);
        ck_assert_int_eq(strncmp(said, "[::1]:", 6), 0);
        expect_live(said);
        daemon_stop(&front.msd);
}
END_TEST

/* At all addresses there are. */
START_TEST(everywhere) {
        static const char *const all[] = { "*:0", ":0" };
        char said[HTTP_ADDRESS_MAX], place[HTTP_ADDRESS_MAX];

        if (!has_network(AF_INET, "everywhere"))
                return;
        daemon_start(&front.msd, "--load-time", "1h", "--http", all[_i], NULL);
        http_listening(&front.msd.process, 1, said);
        snprintf(place, sizeof(place), "127.0.0.1%s", strrchr(said, ':'));
        expect_live(place);
        if (has_network(AF_INET6, "everywhere")) {
                snprintf(place, sizeof(place), "[::1]%s", strrchr(said, ':'));
                expect_live(place);
        }
        daemon_stop(&front.msd);
}
END_TEST

/* Over TCP who ends his side cannot be told from one that is gone; and one that is gone may say so rudely. */
START_TEST(gone_over_tcp) {
        struct linger now = { .l_onoff = 1 };
        char at[HTTP_ADDRESS_MAX];
        struct http http[3];

        if (!has_network(AF_INET, "gone_over_tcp"))
                return;
        daemon_start(&front.msd, "--load-time", _i == 0 ? "1h" : "0", "--inference-time", "1h", "--http", "127.0.0.1:0", NULL);
        http_listening(&front.msd.process, 1, at);
        if (_i == 1)
                daemon_wait_ready(&front.msd);
        for (size_t i = 0; i < ARRAY_SIZE(http); i++) {
                http_connect(&http[i], at);
                http_post(&http[i], "/v1/chat/completions", BODY);
        }
        front_wait(&front, _i == 0 ? peer_status_is_waiting : peer_status_is_processing, 3, "they are there");
        http_finish(&http[0]);
        http_expect_end(&http[0]);
        front_wait(&front, peer_status_is_cancelled, 1, "one is cancelled");
        ck_assert_int_eq(setsockopt(http[1].fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
        http_close(&http[1]);
        front_wait(&front, peer_status_is_cancelled, 2, "the second is cancelled");
        http_close(&http[2]);
        front_wait(&front, peer_status_is_cancelled, 3, "the third is cancelled");
        http_close(&http[0]);
        front_wait(&front, peer_status_is_connections, 1, "they are gone");
        daemon_stop(&front.msd);
}
END_TEST

/* The limit is one for all ways in; who is beyond it waits, and comes in when another goes. */
START_TEST(max_connections) {
        struct peer peer;
        struct http one, two;

        daemon_start(&front.msd, "--load-time", "0", "--max-connections", "2", "--http", front.address, NULL);
        daemon_wait_ready(&front.msd);
        http_connect(&one, front.address);
        http_ask(&one, "GET", "/-/live");
        http_expect(&one, 200, "ok\n");
        http_connect(&two, front.address);
        http_ask(&two, "GET", "/-/live");
        peer_connect(&peer, front.msd.socket);
        peer_send(&peer, "REQUEST 1\n");
        http_expect_silence(&two, 100 * NSEC_PER_MSEC);
        ck_assert_uint_eq(peer.input.len, 0);
        http_close(&one);
        /* One of the two has the place, whichever it is, and leaves it to the other. */
        while (two.input.len == 0 && !peer.ended) {
                struct pollfd events[] = { { two.fd, POLLIN, 0 }, { peer.fd, POLLIN, 0 } };

                if (process_poll(events, ARRAY_SIZE(events), clock_patience()) == 0)
                        continue;
                if (events[0].revents)
                        break;
                peer_expect(&peer, "1", "Response 1 from sim");
                peer_close(&peer);
                break;
        }
        http_expect(&two, 200, "ok\n");
        http_close(&two);
        if (peer.fd >= 0) {
                peer_expect(&peer, "1", "Response 1 from sim");
                peer_close(&peer);
        }
        daemon_stop(&front.msd);
}
END_TEST

/* More clients than descriptors: each has its turn, and nobody is turned away. */
START_TEST(out_of_descriptors) {
        const struct process_setup few = { .descriptors = 48 };
        char said[HTTP_ADDRESS_MAX];
        struct http http[100];

        daemon_start_with(&front.msd, &few, OPTIONS("--load-time", "500ms", "--inference-time", "0", "--threads", "2", "--http",
                                                    front.address));
        http_listening(&front.msd.process, 1, said);
        for (size_t i = 0; i < ARRAY_SIZE(http); i++) {
                http_connect(&http[i], front.address);
                http_post(&http[i], "/v1/chat/completions", BODY);
        }
        for (size_t left = ARRAY_SIZE(http); left > 0;) {
                struct pollfd events[ARRAY_SIZE(http)];

                for (size_t i = 0; i < ARRAY_SIZE(http); i++)
                        events[i] = (struct pollfd){ http[i].fd, POLLIN, 0 };
                if (process_poll(events, ARRAY_SIZE(events), clock_patience()) == 0)
                        continue;
                for (size_t i = 0; i < ARRAY_SIZE(http); i++)
                        if (http[i].fd >= 0 && events[i].revents) {
                                http_expect(&http[i], 200, NULL);
                                http_close(&http[i]);
                                left--;
                        }
        }
        daemon_stop(&front.msd);
}
END_TEST

/* Sockets that the service manager has made. */
START_TEST(passed) {
        char second[SUITE_PATH_MAX + 32], said[HTTP_ADDRESS_MAX];
        int fds[2];
        const struct process_setup with = { .passed = fds, .passed_names = "http:http", .passed_n = 2 };

        snprintf(second, sizeof(second), "unix:%s/second.sock", front.directory);
        fds[0] = listen_unix(front_path(front.address));
        fds[1] = listen_unix(front_path(second));
        daemon_start_with(&front.msd, &with, OPTIONS("--load-time", "1h"));
        http_listening(&front.msd.process, 1, said);
        ck_assert_str_eq(said, front.address);
        http_listening(&front.msd.process, 2, said);
        ck_assert_str_eq(said, second);
        expect_live(front.address);
        expect_live(second);
        daemon_stop(&front.msd);
        /* They are not its to remove. */
        ck_assert_int_eq(access(front_path(front.address), F_OK), 0);
        close(fds[0]);
        close(fds[1]);
}
END_TEST

START_TEST(passed_tcp) {
        const struct process_setup with = { .passed = (int[1]){ 0 }, .passed_names = "http", .passed_n = 1 };
        char place[HTTP_ADDRESS_MAX], said[HTTP_ADDRESS_MAX];
        uint16_t port;
        int fd;

        if (!has_network(AF_INET, "passed_tcp"))
                return;
        fd = listen_at(AF_INET, &port);
        *(int *)(uintptr_t)with.passed = fd;
        snprintf(place, sizeof(place), "127.0.0.1:%u", port);
        daemon_start_with(&front.msd, &with, OPTIONS("--load-time", "1h"));
        http_listening(&front.msd.process, 1, said);
        ck_assert_str_eq(said, place);
        expect_live(place);
        daemon_stop(&front.msd);
        close(fd);
}
END_TEST

/* Beside the request socket, each by its name. */
START_TEST(passed_both) {
        int fds[] = { listen_unix(front_path(front.address)), listen_unix(request_socket) };
        const struct process_setup with = { .passed = fds, .passed_names = "http:msd", .passed_n = 2 };
        struct process process;
        struct peer peer;

        process_start(&process, suite_msd(), OPTIONS("msd", "--load-time", "0", "--inference-time", "0"), &with);
        expect_live(front.address);
        peer_connect(&peer, request_socket);
        peer_send(&peer, "REQUEST 1\n");
        peer_expect(&peer, "1", "Response 1 from sim");
        peer_close(&peer);
        process_signal(&process, SIGTERM);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        close(fds[0]);
        close(fds[1]);
}
END_TEST

/* What is said on the command line counts; what was passed is closed. */
START_TEST(passed_in_vain) {
        char other[SUITE_PATH_MAX + 32], said[HTTP_ADDRESS_MAX];
        int fd = -1;
        const struct process_setup with = { .passed = &fd, .passed_names = "http", .passed_n = 1 };
        struct http http;

        snprintf(other, sizeof(other), "unix:%s/other.sock", front.directory);
        fd = listen_unix(front_path(other));
        daemon_start_with(&front.msd, &with, OPTIONS("--load-time", "1h", "--http", front.address));
        http_listening(&front.msd.process, 1, said);
        ck_assert_str_eq(said, front.address);
        expect_live(front.address);
        close(fd);
        ck_assert_int_eq(http_try_connect(&http, other), -ECONNREFUSED);
        daemon_stop(&front.msd);
}
END_TEST

/* What is no socket that listens is named. */
START_TEST(passed_unusable) {
        int fds[] = { socket(AF_UNIX, SOCK_STREAM, 0), memfd_create("file", 0) };
        const struct process_setup with = { .passed = fds, .passed_names = "http:agent-check", .passed_n = 2 };

        daemon_start_with(&front.msd, &with, OPTIONS("--load-time", "0"));
        daemon_wait_ready(&front.msd);
        process_wait_errors(&front.msd.process, "Cannot use descriptor 3, which the service manager passed with the name http, "
                                                "ignoring: it is no stream socket that listens\n");
        process_wait_errors(&front.msd.process, "Cannot use descriptor 4, which the service manager passed with the name "
                                                "agent-check, ignoring: it is no stream socket that listens\n");
        daemon_stop(&front.msd);
        close(fds[0]);
        close(fds[1]);
}
END_TEST

/* By default nowhere. */
START_TEST(nowhere) {
        daemon_start(&front.msd, "--load-time", "0", NULL);
        daemon_wait_ready(&front.msd);
        ck_assert_ptr_null(strstr(text_get(&front.msd.process.errors), "HTTP"));
        daemon_stop(&front.msd);
}
END_TEST

/* Replaced while it loads: what waits is handed over, and new connections wait for the successor. */
START_TEST(replaced_while_loading) {
        struct process process = PROCESS_NULL;
        struct http waiting, next;
        struct manager manager;
        struct peer peer;

        manager_init(&manager);
        manager.http_fd = listen_unix(front_path(front.address));
        manager_start(&manager, &process, OPTIONS("--load-time", "1h"));
        peer_connect(&front.msd.control, manager.socket);
        peer_connect(&peer, manager.socket);
        peer_send(&peer, "REQUEST 1\n");
        http_connect(&waiting, front.address);
        http_post(&waiting, "/v1/chat/completions", BODY);
        front_wait(&front, peer_status_is_waiting, 2, "they wait");
        peer_close(&front.msd.control);
        process_signal(&process, SIGUSR2);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        http_connect(&next, front.address);
        http_post(&next, "/v1/chat/completions", BODY);

        manager_start(&manager, &process, OPTIONS("--load-time", "300ms", "--inference-time", "0"));
        peer_expect(&peer, "1", "Response 1 from sim");
        http_expect(&waiting, 200, NULL);
        http_close(&waiting);
        http_expect(&next, 200, NULL);
        http_close(&next);
        peer_close(&peer);
        process_signal(&process, SIGTERM);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        manager_deinit(&manager);
}
END_TEST

/* Replaced while it is ready: what runs ends, and a balancer sees that it leaves. */
START_TEST(replaced_when_ready) {
        struct process process = PROCESS_NULL;
        struct http running, balancer, next;
        struct manager manager;

        manager_init(&manager);
        manager.http_fd = listen_unix(front_path(front.address));
        manager_start(&manager, &process, OPTIONS("--load-time", "0", "--inference-time", "2s"));
        manager_wait(&manager, "READY=1");
        peer_connect(&front.msd.control, manager.socket);
        http_connect(&balancer, front.address);
        http_ask(&balancer, "GET", "/-/ready");
        http_expect(&balancer, 200, "ready\n");
        http_connect(&running, front.address);
        http_post(&running, "/v1/chat/completions", BODY);
        front_wait(&front, peer_status_is_processing, 1, "it is in flight");
        peer_close(&front.msd.control);
        process_signal(&process, SIGUSR2);
        do {
                if (balancer.ended)
                        break;
                http_ask(&balancer, "GET", "/-/ready");
                if (!http_head(&balancer))
                        process_give_up("The connection ended without a word");
                http_end(&balancer);
        } while (balancer.status == 200);
        ck_assert_uint_eq(balancer.status, 503);
        ck_assert_ptr_nonnull(http_field(&balancer, "Retry-After"));
        http_close(&balancer);
        http_connect(&next, front.address);
        http_post(&next, "/v1/chat/completions", BODY);
        http_expect(&running, 200, NULL);
        http_close(&running);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);

        manager_start(&manager, &process, OPTIONS("--load-time", "300ms", "--inference-time", "0"));
        http_expect(&next, 200, NULL);
        http_close(&next);
        process_signal(&process, SIGTERM);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        manager_deinit(&manager);
}
END_TEST

/* Killed: what waits is answered by the next process, on the connections that there are, of both fronts. */
START_TEST(killed) {
        struct process process = PROCESS_NULL;
        struct http waiting, next;
        struct manager manager;
        struct peer_status status;
        struct peer peer;

        manager_init(&manager);
        manager.http_fd = listen_unix(front_path(front.address));
        manager_start(&manager, &process, OPTIONS("--load-time", "1h"));
        peer_connect(&front.msd.control, manager.socket);
        peer_connect(&peer, manager.socket);
        peer_send(&peer, "REQUEST 1\n");
        http_connect(&waiting, front.address);
        http_post(&waiting, "/v1/chat/completions", BODY);
        front_wait(&front, peer_status_is_waiting, 2, "they wait");
        peer_status(&peer, &status);
        process_signal(&process, SIGKILL);
        (void)process_wait(&process);
        process_free(&process);
        peer_close(&front.msd.control);
        manager_start(&manager, &process, OPTIONS("--load-time", "300ms", "--inference-time", "0"));
        http_expect(&waiting, 200, NULL);
        /* And the connection goes on. */
        http_post(&waiting, "/v1/chat/completions", BODY);
        http_expect(&waiting, 200, NULL);
        http_close(&waiting);
        http_connect(&next, front.address);
        http_post(&next, "/v1/chat/completions", BODY);
        http_expect(&next, 200, NULL);
        http_close(&next);
        peer_expect(&peer, "1", "Response 1 from sim");
        peer_close(&peer);
        process_signal(&process, SIGTERM);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        manager_deinit(&manager);
}
END_TEST

/* What it says and that this was all come together: the daemon looks away while it does. The end of each is seen. */
START_TEST(end_comes_along) {
        static const char *const said[] = {
                "G", "GET /-/live HTTP/1.1\r\nHo", "POST /v1/completions HTTP/1.1\r\nHost: msd\r\nContent-Length: 100\r\n\r\n{",
                "POST /v1/completions HTTP/1.1\r\nHost: msd\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
                "GET /-/live HTTP/1.1\r\nHost: msd\r\n\r\nGET /-/li",
        };
        char at[HTTP_ADDRESS_MAX];
        struct http http[ARRAY_SIZE(said)];
        siginfo_t info;

        if (_i == 1 && !has_network(AF_INET, "end_comes_along"))
                return;
        daemon_start(&front.msd, "--load-time", "1h", "--http", _i == 0 ? front.address : "127.0.0.1:0", NULL);
        http_listening(&front.msd.process, 1, at);
        process_signal(&front.msd.process, SIGSTOP);
        ck_assert_int_eq(waitid(P_PID, (id_t)front.msd.process.pid, &info, WSTOPPED | WNOWAIT), 0);
        for (size_t i = 0; i < ARRAY_SIZE(said); i++) {
                http_connect(&http[i], at);
                http_send(&http[i], "%s", said[i]);
                http_finish(&http[i]);
        }
        process_signal(&front.msd.process, SIGCONT);
        for (size_t i = 0; i < ARRAY_SIZE(said); i++) {
                if (i == ARRAY_SIZE(said) - 1)
                        http_expect(&http[i], 200, NULL);
                http_expect_end(&http[i]);
                http_close(&http[i]);
        }
        front_wait(&front, peer_status_is_connections, 1, "they are gone");
        daemon_stop(&front.msd);
}
END_TEST

/* Of a connection whose answer broke off nothing is left, though there is an older one that does nothing. */
START_TEST(broken_off) {
        struct raw_request request = { 0 };
        struct http older, broken;
        char at[HTTP_ADDRESS_MAX];
        struct raw raw;

        if (_i == 1 && !has_network(AF_INET, "broken_off"))
                return;
        raw_listen(&raw, front_path(front.upstream));
        daemon_start(&front.msd, "--upstream", front.upstream, "--model", "raw", "--threads", "1", "--http",
                     _i == 0 ? front.address : "127.0.0.1:0", NULL);
        http_listening(&front.msd.process, 1, at);
        raw_wait_ready(&raw, &front.msd.process);
        daemon_wait_ready(&front.msd);
        http_connect(&older, at);
        http_connect(&broken, at);
        http_ask(&broken, "GET", "/");
        raw_take(&raw, &request);
        raw_send(&request, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n");
        ck_assert(http_head(&broken));
        http_wait_body(&broken, "half of it");
        raw_hang_up(&request);
        /* It has its end at once; msd keeps it until its client has gone too, lest what it still sends resets it. */
        http_end(&broken);
        http_close(&broken);
        front_wait(&front, peer_status_is_connections, 2, "the one that broke off is gone");
        http_close(&older);
        raw_request_deinit(&request);
        raw_close(&raw);
        daemon_stop(&front.msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_loop_test(tests, wrong_addresses, 0, (int)ARRAY_SIZE(wrong));
        tcase_add_test(tests, too_many_addresses);
        tcase_add_test(tests, address_in_use);
        tcase_add_test(tests, several);
        tcase_add_test(tests, over_tcp);
        tcase_add_test(tests, over_tcp_6);
        tcase_add_loop_test(tests, everywhere, 0, 2);
        tcase_add_loop_test(tests, gone_over_tcp, 0, 2);
        tcase_add_loop_test(tests, end_comes_along, 0, 2);
        tcase_add_loop_test(tests, broken_off, 0, 2);
        tcase_add_test(tests, max_connections);
        tcase_add_test(tests, out_of_descriptors);
        tcase_add_test(tests, passed);
        tcase_add_test(tests, passed_tcp);
        tcase_add_test(tests, passed_both);
        tcase_add_test(tests, passed_in_vain);
        tcase_add_test(tests, passed_unusable);
        tcase_add_test(tests, nowhere);
        tcase_add_test(tests, replaced_while_loading);
        tcase_add_test(tests, replaced_when_ready);
        tcase_add_test(tests, killed);
}

int main(void) {
        return suite_main("http_sockets", add);
}
