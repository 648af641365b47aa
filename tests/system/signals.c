/*
 * Signals that a user, a terminal or a service manager may send: none of them leaves a socket file or a model server behind, and
 * those that mean nothing do nothing.
 */

#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/served.h"

static struct daemon msd;
static char directory[SUITE_PATH_MAX], url[SUITE_PATH_MAX + 32], upstream_socket[SUITE_PATH_MAX + 16];

static void setup(void) {
        suite_directory(directory);
        snprintf(upstream_socket, sizeof(upstream_socket), "%s/up.sock", directory);
        snprintf(url, sizeof(url), "unix:%s", upstream_socket);
}

static void teardown(void) {
        suite_remove(directory);
}

/* A real model; its process does not end by itself, and has one of its own. */
static void start_server(void) {
        daemon_start(&msd, "--upstream", url, "--stop-timeout", "1s", "--", served_program(), "--socket", upstream_socket, "--ignore-term",
                     "--spawn", "--think", "1h", NULL);
        daemon_wait_ready(&msd);
}

/* Waits until nobody listens there any more: the model server is gone. */
static void wait_unheard(const char *path) {
        uint64_t deadline = clock_patience();
        struct peer peer;

        while (peer_try_connect(&peer, path) == 0) {
                peer_close(&peer);
                if (clock_now() >= deadline)
                        process_give_up("The model server lives on");
                (void)process_poll(NULL, 0, clock_now() + 10 * NSEC_PER_MSEC);
        }
}

/* What is in flight finishes. More of them may come, of which none is a second signal. */
START_TEST(hang_up) {
        struct peer_status status;

        daemon_start(&msd, "--load-time", "0", "--inference-time", "1s", NULL);
        daemon_wait_ready(&msd);
        peer_send(&msd.control, "REQUEST 7\n");
        peer_status_until(&msd.control, &status, peer_status_is_processing, 1, "the request is in flight");
        process_signal(&msd.process, _i == 0 ? SIGHUP : SIGTERM);
        peer_status_until(&msd.control, &status, peer_status_is_stopping, 0, "msd is stopping");
        process_signal(&msd.process, SIGHUP);
        process_signal(&msd.process, SIGHUP);
        peer_expect(&msd.control, "7", "Response 7 from sim");
        daemon_expect_exit(&msd, 0);
}
END_TEST

/* With what it was started for. */
START_TEST(hang_up_with_a_server) {
        start_server();
        process_signal(&msd.process, SIGHUP);
        daemon_expect_exit(&msd, 0);
        wait_unheard(upstream_socket);
}
END_TEST

START_TEST(no_hang_up) {
        char socket[SUITE_PATH_MAX + 16];

        snprintf(socket, sizeof(socket), "%s/msd.sock", directory);
        suite_directory(msd.directory);
        daemon_start_at(&msd, "/bin/sh", socket, NULL,
                        (const char *[]){ "-c", "trap '' HUP; exec \"$0\" \"$@\"", suite_msd(), "--socket", socket, "--load-time", "0",
                                          "--inference-time", "0", NULL });
        daemon_wait_ready(&msd);
        process_signal(&msd.process, SIGHUP);
        peer_send(&msd.control, "REQUEST 7\n");
        peer_expect(&msd.control, "7", "Response 7 from sim");
        ck_assert_ptr_null(strstr(text_get(&msd.process.errors), "Stopping"));
        daemon_stop(&msd);
}
END_TEST

/* At once, and without a trace. */
START_TEST(quit) {
        start_server();
        peer_send(&msd.control, "REQUEST 7 2\nhi\n");
        process_wait_output(&msd.process, "Processing request 7\n");
        process_signal(&msd.process, SIGQUIT);
        daemon_expect_exit(&msd, 1);
        wait_unheard(upstream_socket);
}
END_TEST

START_TEST(ignored) {
        static const int signals[] = { SIGUSR1, SIGPIPE, SIGXFSZ, SIGUSR1 };

        daemon_start(&msd, "--load-time", "0", "--inference-time", "0", NULL);
        daemon_wait_ready(&msd);
        for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
                process_signal(&msd.process, signals[i]);
        process_wait_errors(&msd.process, "SIGUSR1 means nothing to msd, ignoring\n");
        peer_send(&msd.control, "REQUEST 7\n");
        peer_expect(&msd.control, "7", "Response 7 from sim");
        daemon_stop(&msd);
}
END_TEST

/* Standard output is a file that may not grow: lines are lost, and nothing else. */
START_TEST(file_limit) {
        char socket[SUITE_PATH_MAX + 16], file[SUITE_PATH_MAX + 16];

        snprintf(socket, sizeof(socket), "%s/msd.sock", directory);
        snprintf(file, sizeof(file), "%s/out", directory);
        suite_directory(msd.directory);
        daemon_start_at(&msd, "/bin/sh", socket, NULL,
                        (const char *[]){ "-c", "ulimit -f 1; file=$1; shift; exec \"$@\" >\"$file\"", "sh", file, suite_msd(),
                                          "--socket", socket, "--load-time", "0", "--inference-time", "0", NULL });
        peer_send_requests(&msd.control, 0, 1000);
        for (size_t i = 0; i < 1000; i++) {
                struct peer_reply reply;

                ck_assert(peer_next(&msd.control, &reply));
        }
        process_wait_errors(&msd.process, "msd: Cannot write to standard output, ignoring: File too large\n");
        daemon_stop(&msd);
}
END_TEST

/* msd in a terminal, which is closed. Returns msd's pid. */
static pid_t start_in_terminal(const char *socket, int *terminal) {
        pid_t pid = forkpty(terminal, NULL, NULL, NULL);

        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                (void)close_range(3, UINT32_MAX, 0);
                execl(suite_msd(), "msd", "--socket", socket, "--upstream", url, "--stop-timeout", "1s", "--", served_program(), "--socket",
                      upstream_socket, "--ignore-term", NULL);
                _exit(127);
        }
        return pid;
}

START_TEST(terminal_closed) {
        uint64_t deadline = clock_patience();
        char socket[SUITE_PATH_MAX + 16];
        struct peer peer;
        struct pollfd ended = { .events = POLLIN };
        int terminal, status;
        pid_t pid;

        snprintf(socket, sizeof(socket), "%s/msd.sock", directory);
        pid = start_in_terminal(socket, &terminal);
        ended.fd = (int)syscall(SYS_pidfd_open, pid, 0);
        ck_assert_int_ge(ended.fd, 0);
        while (peer_try_connect(&peer, socket) < 0) {
                ck_assert_msg(clock_now() < deadline, "msd does not listen");
                (void)process_poll(NULL, 0, clock_now() + 10 * NSEC_PER_MSEC);
        }
        peer_send(&peer, "WAIT\n");
        peer_expect(&peer, "-", PROTOCOL_READY);
        close(terminal);
        ck_assert_msg(process_poll(&ended, 1, clock_patience()) == 1, "msd lives on without its terminal");
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x", (unsigned)status);
        ck_assert_int_lt(access(socket, F_OK), 0);
        wait_unheard(upstream_socket);
        peer_close(&peer);
        close(ended.fd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_loop_test(tests, hang_up, 0, 2);
        tcase_add_test(tests, hang_up_with_a_server);
        tcase_add_test(tests, no_hang_up);
        tcase_add_test(tests, quit);
        tcase_add_test(tests, ignored);
        tcase_add_test(tests, file_limit);
        tcase_add_test(tests, terminal_closed);
}

int main(void) {
        return suite_main("signals", add);
}
