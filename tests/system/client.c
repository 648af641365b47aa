/*
 * How mscli ends, and what it prints: with a daemon in every state, with none, and with what is no daemon.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/run.h"

/* Who has nothing to do with anything. */
#define NOBODY 65534

START_TEST(no_daemon) {
        static const char *const commands[][4] = {
                { "request", "1" }, { "status" }, { "status", "--json" }, { "load" }, { "shutdown" },
        };
        char directory[SUITE_PATH_MAX], path[SUITE_PATH_MAX + 16];
        struct process mscli;
        struct daemon daemon;

        suite_directory(directory);
        snprintf(path, sizeof(path), "%s/msd.sock", directory);
        for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
                (void)run_mscli_with(&mscli, path, NULL, commands[i]);
                run_expect_refusal(&mscli, 3, path);
        }

        /* Nor behind a socket that is still there. */
        daemon_start(&daemon, "--load-time", "1h", NULL);
        process_signal(&daemon.process, SIGKILL);
        ck_assert_int_eq(process_wait(&daemon.process), 128 + SIGKILL);
        for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
                (void)run_mscli_with(&mscli, daemon.socket, NULL, commands[i]);
                run_expect_refusal(&mscli, 3, daemon.socket);
        }
        peer_close(&daemon.control);
        process_free(&daemon.process);
}
END_TEST

START_TEST(connection_lost) {
        struct process request, wait;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "1h", NULL);
        run_start(&request, daemon.socket, NULL, (const char *[]){ "request", "1", "2", NULL });
        run_start(&wait, daemon.socket, NULL, (const char *[]){ "wait", NULL });
        peer_status_until(&daemon.control, &(struct peer_status){ 0 }, peer_status_is_waiting, 2,
                          "mscli waits");
        peer_status_until(&daemon.control, &(struct peer_status){ 0 }, peer_status_is_connections, 3,
                          "both are there");
        process_signal(&daemon.process, SIGKILL);
        (void)process_wait(&request);
        run_expect_refusal(&request, 3, "");
        (void)process_wait(&wait);
        run_expect_refusal(&wait, 3, "");
        peer_close(&daemon.control);
        process_free(&daemon.process);
}
END_TEST

START_TEST(time_is_over) {
        struct peer_status status;
        struct process mscli;
        struct daemon daemon;
        uint64_t start;

        daemon_start(&daemon, "--load-time", "1h", NULL);
        start = clock_now();
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "request", "--timeout", "300ms", "1", "2", NULL),
                         4);
        ck_assert_uint_ge(clock_now() - start, 300 * NSEC_PER_MSEC);
        run_expect_refusal(&mscli, 4, "");
        /* What it had waiting went with it. */
        peer_status_until(&daemon.control, &status, peer_status_is_connections, 1, "mscli is gone");
        ck_assert_uint_eq(status.cancelled, 2);
        ck_assert_uint_eq(status.waiting, 0);

        start = clock_now();
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "wait", "--timeout", "200ms", NULL), 4);
        ck_assert_uint_ge(clock_now() - start, 200 * NSEC_PER_MSEC);
        run_expect_refusal(&mscli, 4, "");
        daemon_stop(&daemon);
}
END_TEST

/* Time enough. */
START_TEST(in_time) {
        struct process mscli;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "300ms", NULL);
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "wait", "--timeout", "1min", NULL), 0);
        process_free(&mscli);
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "request", "--timeout", "1min", "7", NULL), 0);
        ck_assert_str_eq(text_get(&mscli.output), "Response 7 from sim\n");
        process_free(&mscli);
        daemon_stop(&daemon);
}
END_TEST

/* Some answered, some not: what was is printed, and the rest said on standard error. */
START_TEST(some_errors) {
        struct process mscli;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "1s", "--inference-time", "0", "--max-waiting", "2", "--threads",
                     "1", NULL);
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "request", "a", "b", "c", "d", NULL), 1);
        ck_assert_uint_eq(text_lines(&mscli.output), 2);
        ck_assert(text_has_line(&mscli.output, "Response a from sim"));
        ck_assert(text_has_line(&mscli.output, "Response b from sim"));
        ck_assert_uint_eq(text_lines(&mscli.errors), 2);
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.errors), "c"));
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.errors), "d"));
        process_free(&mscli);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(not_permitted) {
        char programs[SUITE_PATH_MAX], path[SUITE_PATH_MAX + 16];
        const struct process_setup setup = { .uid = NOBODY };
        static const char *const commands[] = { "load", "shutdown" };
        struct process mscli;
        struct daemon daemon;

        if (geteuid() != 0) {
                suite_skip("not_permitted", "only root can be somebody else");
                return;
        }
        suite_directory(programs);
        snprintf(path, sizeof(path), "%s/mscli", programs);
        suite_copy_program(suite_mscli(), path);
        daemon_start(&daemon, "--load-time", "0", NULL);
        ck_assert_int_eq(chmod(daemon.socket, 0666), 0);
        for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
                process_start(&mscli, path,
                              (const char *[]){ "mscli", "--socket", daemon.socket, commands[i], NULL },
                              &setup);
                ck_assert_int_eq(process_wait(&mscli), 1);
                run_expect_refusal(&mscli, 1, "");
        }
        suite_remove(programs);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(prompts) {
        char path[SUITE_PATH_MAX + 16];
        struct process mscli;
        struct daemon daemon;
        FILE *file;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "0", "--max-prompt", "10", NULL);
        snprintf(path, sizeof(path), "@%s/prompt", daemon.directory);
        file = fopen(path + 1, "we");
        ck_assert_ptr_nonnull(file);
        fputs("eleven byte", file);
        fclose(file);

        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "request", "--prompt", "hello", "1", "2", NULL), 0);
        ck_assert(text_has_line(&mscli.output, "Response 1 from sim"));
        ck_assert(text_has_line(&mscli.output, "Response 2 from sim"));
        process_free(&mscli);
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "request", "--prompt", "", "1", NULL), 0);
        ck_assert_str_eq(text_get(&mscli.output), "Response 1 from sim\n");
        process_free(&mscli);
        /* The limit tells how long it was. */
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "request", "--prompt", "eleven byte", "1", NULL),
                         1);
        run_expect_refusal(&mscli, 1, "10");
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "request", "--prompt", path, "1", NULL), 1);
        run_expect_refusal(&mscli, 1, "10");
        file = fopen(path + 1, "we");
        ck_assert_ptr_nonnull(file);
        fputs("ten bytes!", file);
        fclose(file);
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "request", "--prompt", path, "1", NULL), 0);
        process_free(&mscli);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(streams) {
        struct process mscli;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "300ms", "--inference-time", "50ms", NULL);
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "request", "--stream", "7", NULL), 0);
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.output), "Response 7 from sim"));
        ck_assert_str_eq(text_get(&mscli.errors), "");
        process_free(&mscli);
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "request", "--stream", "--prompt", "hello", "8",
                                   NULL), 0);
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.output), "Response 8 from sim"));
        process_free(&mscli);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(client_status) {
        struct peer_status status;
        struct process mscli;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "1h", "--threads", "1", NULL);
        peer_send(&daemon.control, "REQUEST 1\nREQUEST 2\n");
        peer_status(&daemon.control, &status);
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "status", NULL), 0);
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.output), "loading"));
        ck_assert_str_eq(text_get(&mscli.errors), "");
        process_free(&mscli);

        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "status", "--json", NULL), 0);
        ck_assert_uint_eq(text_lines(&mscli.output), 1);
        mscli.output.data[mscli.output.len - 1] = '\0';
        peer_parse_status(mscli.output.data, &status);
        ck_assert_str_eq(status.status, "loading");
        ck_assert_uint_eq(status.waiting, 2);
        ck_assert_uint_eq(status.pid, (uint64_t)daemon.process.pid);
        process_free(&mscli);
        daemon_stop(&daemon);
}
END_TEST

/* For people, and for nobody else. */
START_TEST(progress) {
        const struct process_setup terminal = { .terminal = true };
        struct process shown, silent;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "1h", "--threads", "1", NULL);
        peer_send_requests(&daemon.control, 0, 40);
        peer_status(&daemon.control, &(struct peer_status){ 0 });
        run_start(&silent, daemon.socket, NULL, (const char *[]){ "request", "silent", NULL });
        peer_status_until(&daemon.control, &(struct peer_status){ 0 }, peer_status_is_waiting, 41,
                          "the first waits");
        run_start(&shown, daemon.socket, &terminal, (const char *[]){ "request", "1", NULL });

        /* That it waits, behind how many others, and for how long. */
        process_wait_errors(&shown, "ait");
        process_wait_errors(&shown, "41");
        ck_assert_ptr_nonnull(strpbrk(text_get(&shown.errors), "smh"));
        process_signal(&daemon.process, SIGTERM);
        ck_assert_int_eq(process_wait(&shown), 1);
        ck_assert_int_eq(process_wait(&silent), 1);
        ck_assert_str_eq(text_get(&shown.output), "");
        ck_assert_str_eq(text_get(&silent.output), "");
        ck_assert_ptr_nonnull(strstr(text_get(&shown.errors), PROTOCOL_SHUTTING_DOWN_MESSAGE));
        /* Of all that, the other said its error alone. */
        ck_assert_ptr_nonnull(strstr(text_get(&silent.errors), PROTOCOL_SHUTTING_DOWN_MESSAGE));
        ck_assert_uint_eq(text_lines(&silent.errors), 1);
        ck_assert_ptr_null(strpbrk(text_get(&silent.errors), "\r\033"));
        process_free(&shown);
        process_free(&silent);
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* Where there is nothing to wait for, there is nothing to show. */
START_TEST(progress_when_ready) {
        const struct process_setup terminal = { .terminal = true };
        struct process mscli;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "0", NULL);
        daemon_wait_ready(&daemon);
        ck_assert_int_eq(run_mscli_with(&mscli, daemon.socket, &terminal,
                                        (const char *[]){ "request", "7", NULL }), 0);
        ck_assert_str_eq(text_get(&mscli.output), "Response 7 from sim\n");
        ck_assert_ptr_null(strstr(text_get(&mscli.errors), "aiting"));
        process_free(&mscli);
        daemon_stop(&daemon);
}
END_TEST

/* Each state, as people read it. */
START_TEST(status_of_each_state) {
        struct process mscli;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "1h", "--drain-timeout", "1h", NULL);
        daemon_wait_ready(&daemon);
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "status", NULL), 0);
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.output), "Status:    ready (loaded in "));
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.output), "Model:     sim (generation 1)\n"));
        process_free(&mscli);
        peer_send(&daemon.control, "REQUEST 1\n");
        peer_status_until(&daemon.control, &(struct peer_status){ 0 }, peer_status_is_processing, 1, "it is in flight");
        process_signal(&daemon.process, SIGTERM);
        peer_status_until(&daemon.control, &(struct peer_status){ 0 }, peer_status_is_stopping, 0, "it stops");
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "status", NULL), 0);
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.output), "Status:    stopping\n"));
        process_free(&mscli);
        peer_close(&daemon.control);
        daemon_expect_exit(&daemon, 0);

        daemon_start(&daemon, "--load-time", "0", "--load-failure", "No file\tof weights", "--on-load-failure", "stay", NULL);
        peer_status_until(&daemon.control, &(struct peer_status){ 0 }, peer_status_is_failed, 0, "it has failed");
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "status", NULL), 0);
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.output), "Status:    failed (after "));
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.output), "Model:     none (generation 1)\nError:     No file of weights\n"));
        process_free(&mscli);
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "wait", NULL), 1);
        run_expect_refusal(&mscli, 1, "No file of weights");
        daemon_stop(&daemon);
}
END_TEST

/* What it waits for, as that changes. */
START_TEST(progress_of_each_state) {
        const struct process_setup terminal = { .terminal = true };
        struct process mscli;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "500ms", "--load-failure", "No file", "--load-attempts", "1000", NULL);
        run_start(&mscli, daemon.socket, &terminal, (const char *[]){ "request", "1", NULL });
        process_wait_errors(&mscli, "; last: No file");
        process_signal(&daemon.process, SIGTERM);
        ck_assert_int_eq(process_wait(&mscli), 1);
        process_free(&mscli);
        daemon_expect_exit(&daemon, 0);

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "1h", "--drain-timeout", "1h", NULL);
        daemon_wait_ready(&daemon);
        run_start(&mscli, daemon.socket, &terminal, (const char *[]){ "request", "1", NULL });
        process_wait_errors(&mscli, "for an answer: model sim is ready");
        process_signal(&daemon.process, SIGTERM);
        process_wait_errors(&mscli, "for an answer: the daemon is stopping");
        process_signal(&mscli, SIGTERM);
        ck_assert_int_eq(process_wait(&mscli), 128 + SIGTERM);
        process_free(&mscli);
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* Several streams on one connection: each answer is printed in one piece, in whatever pieces they come. */
START_TEST(streams_several) {
        struct process mscli;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "500ms", "--inference-time", "0", "--max-waiting", "3", "--threads", "1", NULL);
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "request", "--stream", "a", "b", "c", "d", NULL), 1);
        ck_assert_uint_eq(text_lines(&mscli.output), 3);
        ck_assert(text_has_line(&mscli.output, "Response a from sim"));
        ck_assert(text_has_line(&mscli.output, "Response b from sim"));
        ck_assert(text_has_line(&mscli.output, "Response c from sim"));
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.errors), "request d: queue-full: "));
        process_free(&mscli);
        /* The parts of two with one name could not be told apart. */
        ck_assert_int_eq(run_mscli(&mscli, daemon.socket, "request", "--stream", "a", "b", "a", NULL), 0);
        ck_assert_uint_eq(text_lines(&mscli.output), 3);
        process_free(&mscli);
        daemon_stop(&daemon);
}
END_TEST

static const struct {
        const char *arguments[5];
        const char *reply;              /* of what listens there, which then ends the connection */
        int status;
        const char *output;
        const char *errors;
} listeners[] = {
        { { "request", "1" }, "HTTP/1.1 400 Bad\x1bRequest\r\n\r\n", 3, "", "(\"HTTP/1.1 400 Bad?Request\"); 1 of 1 requests unanswered" },
        { { "request", "1", "2" }, "OK 1 2\nhi\nOK\n", 3, "hi\n", "(\"OK\"); 1 of 2 requests unanswered" },
        { { "request", "1" }, "OK 1 1\nxyz\n", 3, "", "(\"OK 1 1\")" },
        { { "request", "1" }, "OK 1 18446744073709551615\n", 3, "", "(\"OK 1 18446744073709551615\")" },
        { { "request", "1" }, "PART 1 2\nhi\n", 3, "", "(\"PART 1 2\")" },
        { { "request", "1" }, "OK 1 2\nh", 3, "", "has closed the connection; 1 of 1 requests unanswered" },
        { { "request", "1", "2" }, "OK 1 2\nhi\nERR - shutting-down Server is shutting down\n", 3, "hi\n",
          "mscli: shutting-down: Server is shutting down\n" },
        { { "request", "1" }, "ERR - shutting-down no\n", 3, "", "has closed the connection; 1 of 1 requests unanswered" },
        { { "request", "1", "--stream" }, "PART 1 2\nhi\nERR 1 inference-failed no\n", 1, "hi\n", "request 1: inference-failed: no" },
        { { "request", "1", "2", "--stream" }, "PART 1 1\nh\nPART 2 1\nx\nPART 1 1\ni\nOK 1 0\n\nERR 2 inference-failed no\n", 1,
          "hi\n", "request 2: inference-failed: no" },
        { { "status" }, "OK - 2\n[]\n", 3, "", "does not reply as msd does" },
        { { "status" }, "OK 7 2\n{}\n", 3, "", "does not reply as msd does" },
        { { "wait" }, "OK 7 5\nready\n", 3, "", "does not reply as msd does" },
        { { "wait" }, "PART - 5\nready\n", 3, "", "does not reply as msd does" },
        { { "load" }, "ERR - load-failed no file\n", 1, "", "load-failed: no file" },
        /* What it says does nothing to a terminal; an answer is data, and stays as it is. */
        { { "load" }, "ERR - load-failed \x1b[2Ja\x1b]0;b\a\xc2\x9b" "c\u202ed\xff\n", 1, "", "load-failed: a ]0;b  c d?\n" },
        { { "request", "1" }, "ERR 1 x\x1b[31m y\x85\n", 1, "", "request 1: x: y?\n" },
        { { "request", "1" }, "OK 1 6\n\x1b[31mx\n", 0, "\x1b[31mx\n", "" },
        { { "status" }, "OK - 69\n{\"status\":\"failed\",\"model\":null,\"error\":\"\\u001b[2Ja\\nb\\u202e\\u0085c\"}\n", 0,
          "Status:    failed (after 0s, attempt 0)\nModel:     none (generation 0)\nError:     a b  c\n"
          "Requests:  0 waiting, 0 processing, 0 completed, 0 failed, 0 cancelled\n"
          "Daemon:    msd , PID 0, up for 0s, 0 connections\n", "" },
};

START_TEST(what_listens) {
        char directory[SUITE_PATH_MAX], path[SUITE_PATH_MAX + 16];
        struct sockaddr_un address;
        struct process mscli;
        struct pollfd waiter;
        int fd, listener;
        socklen_t len;

        suite_directory(directory);
        snprintf(path, sizeof(path), "%s/socket", directory);
        ck_assert_int_eq(address_from_path(path, &address, &len), 0);
        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(listener, (const struct sockaddr *)&address, len), 0);
        ck_assert_int_eq(listen(listener, 1), 0);

        run_start(&mscli, path, NULL, listeners[_i].arguments);
        waiter = (struct pollfd){ .fd = listener, .events = POLLIN };
        while (process_poll(&waiter, 1, clock_now() + 60 * NSEC_PER_SEC) == 0)
                ck_assert(!mscli.exited);
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(send(fd, listeners[_i].reply, strlen(listeners[_i].reply), MSG_NOSIGNAL), (intmax_t)strlen(listeners[_i].reply));
        ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
        ck_assert_int_eq(process_wait(&mscli), listeners[_i].status);
        ck_assert_str_eq(text_get(&mscli.output), listeners[_i].output);
        ck_assert_msg(strstr(text_get(&mscli.errors), listeners[_i].errors), "%s", text_get(&mscli.errors));
        process_free(&mscli);
        close(fd);
        close(listener);
        suite_remove(directory);
}
END_TEST

/* Where its own streams are at fault. */
START_TEST(its_own_streams) {
        char command[512];
        struct process shell;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "0", NULL);
        snprintf(command, sizeof(command), "exec '%s' --socket '%s' request 1 2 >/dev/full", suite_mscli(), daemon.socket);
        process_start(&shell, "/bin/sh", (const char *[]){ "sh", "-c", command, NULL }, NULL);
        ck_assert_int_eq(process_wait(&shell), 1);
        run_expect_refusal(&shell, 1, "Cannot write to standard output: No space left on device");

        /* One that somebody still holds open, and says nothing. */
        snprintf(command, sizeof(command), "mkfifo '%s/ids'; exec '%s' --socket '%s' request - --timeout 200ms <>'%s/ids'",
                 daemon.directory, suite_mscli(), daemon.socket, daemon.directory);
        process_start(&shell, "/bin/sh", (const char *[]){ "sh", "-c", command, NULL }, NULL);
        ck_assert_int_eq(process_wait(&shell), 4);
        run_expect_refusal(&shell, 4, "standard input has not ended, and nothing was sent");

        snprintf(command, sizeof(command), "exec '%s' --socket '%s' request - <'%s'", suite_mscli(), daemon.socket, daemon.directory);
        process_start(&shell, "/bin/sh", (const char *[]){ "sh", "-c", command, NULL }, NULL);
        ck_assert_int_eq(process_wait(&shell), 2);
        run_expect_refusal(&shell, 2, "standard input: Is a directory");

        ck_assert_int_eq(run_mscli_with(&shell, daemon.socket, &(struct process_setup){ .input = "", .input_len = 0 },
                                        (const char *[]){ "request", "-", NULL }), 0);
        process_free(&shell);
        daemon_stop(&daemon);
}
END_TEST

/* A socket that one may not write to. */
START_TEST(kept_out) {
        char programs[SUITE_PATH_MAX], path[SUITE_PATH_MAX + 16];
        const struct process_setup setup = { .uid = NOBODY };
        struct process mscli;
        struct daemon daemon;

        if (geteuid() != 0) {
                suite_skip("kept_out", "only root can be somebody else");
                return;
        }
        suite_directory(programs);
        snprintf(path, sizeof(path), "%s/mscli", programs);
        suite_copy_program(suite_mscli(), path);
        daemon_start(&daemon, "--load-time", "0", NULL);
        ck_assert_int_eq(chmod(daemon.socket, 0600), 0);
        process_start(&mscli, path, (const char *[]){ "mscli", "--socket", daemon.socket, "status", NULL }, &setup);
        ck_assert_int_eq(process_wait(&mscli), 3);
        run_expect_refusal(&mscli, 3, "Run mscli as a user who may write to that socket");
        suite_remove(programs);
        daemon_stop(&daemon);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_test(tests, no_daemon);
        tcase_add_test(tests, connection_lost);
        tcase_add_test(tests, time_is_over);
        tcase_add_test(tests, in_time);
        tcase_add_test(tests, some_errors);
        tcase_add_test(tests, not_permitted);
        tcase_add_test(tests, prompts);
        tcase_add_test(tests, streams);
        tcase_add_test(tests, client_status);
        tcase_add_test(tests, progress);
        tcase_add_test(tests, progress_when_ready);
        tcase_add_test(tests, status_of_each_state);
        tcase_add_test(tests, progress_of_each_state);
        tcase_add_test(tests, streams_several);
        tcase_add_loop_test(tests, what_listens, 0, ARRAY_SIZE(listeners));
        tcase_add_test(tests, its_own_streams);
        tcase_add_test(tests, kept_out);
}

int main(void) {
        return suite_main("client", add);
}
