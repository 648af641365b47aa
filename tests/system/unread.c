/*
 * Standard output and standard error that nobody reads, as behind a stalled log driver: msd loads, answers and stops all the
 * same, and says what it left out when there is a reader again.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/served.h"

/* Makes the FIFOs of its two arguments its standard output and standard error, and goes on as msd with the rest. */
#define SCRIPT "out=$1 err=$2; shift 2; exec \"$@\" >\"$out\" 2>\"$err\""

static char directory[SUITE_PATH_MAX];
static char out_path[SUITE_PATH_MAX + 16], err_path[SUITE_PATH_MAX + 16], socket_path[SUITE_PATH_MAX + 16];
static char url[SUITE_PATH_MAX + 32], upstream_socket[SUITE_PATH_MAX + 16];
static int out, err;
static struct daemon msd;

/* A FIFO that is full. */
static int make_full(const char *path) {
        static const char dots[65536];
        int fd;

        ck_assert_int_eq(mkfifo(path, 0600), 0);
        fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        while (write(fd, dots, sizeof(dots)) > 0)
                ;
        while (write(fd, dots, 1) > 0)
                ;
        ck_assert_int_eq(errno, EAGAIN);
        return fd;
}

static void setup(void) {
        suite_directory(directory);
        snprintf(out_path, sizeof(out_path), "%s/out", directory);
        snprintf(err_path, sizeof(err_path), "%s/err", directory);
        snprintf(socket_path, sizeof(socket_path), "%s/msd.sock", directory);
        snprintf(upstream_socket, sizeof(upstream_socket), "%s/up.sock", directory);
        snprintf(url, sizeof(url), "unix:%s", upstream_socket);
        out = make_full(out_path);
        err = make_full(err_path);
        msd = (struct daemon){ 0 };
}

static void teardown(void) {
        close(out);
        close(err);
        suite_remove(directory);
}

static void start(const char *const *options) {
        const char *all[32] = { "-c", SCRIPT, "sh", out_path, err_path, suite_msd(), "--socket", socket_path };
        size_t n = 8;

        for (; *options; options++)
                all[n++] = *options;
        suite_directory(msd.directory);
        daemon_start_at(&msd, "/bin/sh", socket_path, NULL, all);
}

/* Reads until `text` is there, and the rest of its line. Returns all of it, for the caller to free. */
static char *read_until(int fd, const char *text) {
        static char got[32 << 20];
        uint64_t deadline = clock_patience();
        size_t n = 0;
        char *found;

        for (;;) {
                ssize_t k = read(fd, got + n, sizeof(got) - 1 - n);

                if (k > 0) {
                        /* What filled it is no part of what msd said. */
                        for (ssize_t i = 0; i < k; i++)
                                if (got[n + (size_t)i] == '\0')
                                        got[n + (size_t)i] = '.';
                        n += (size_t)k;
                        got[n] = '\0';
                        found = strstr(got, text);
                        if (found && strchr(found, '\n'))
                                return strdup(got);
                        continue;
                }
                ck_assert_int_eq(errno, EAGAIN);
                ck_assert_msg(clock_now() < deadline, "There is no \"%s\"", text);
                (void)process_poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, deadline);
        }
}

/* The model says more than there is room for, and msd something of its own: nothing of it stops the load. */
START_TEST(a_model_that_says_much) {
        char *text;

        start(OPTIONS("--upstream", url, "--", "/bin/sh", "-c",
                      "yes 'A line of the model, of which there are many' | head -n 200000 >&2; exec \"$@\"", "sh", served_program(), "--socket",
                      upstream_socket, "--load", "100ms"));
        peer_send(&msd.control, "WAIT\n");
        peer_expect(&msd.control, "-", PROTOCOL_READY);
        peer_send(&msd.control, "REQUEST 1 2\nhi\n");
        peer_expect(&msd.control, "1", "echo hi");

        /* Read again, each is there as far as it had room, in order; and the rest is counted where it is missing. */
        text = read_until(err, "msd: Nobody read standard error: ");
        ck_assert_ptr_nonnull(strstr(text, "A line of the model, of which there are many\nA line"));
        free(text);
        text = read_until(out, "Processing request 1\n");
        ck_assert_msg(strstr(text, "Model loading...\nupstream: loading\nModel ready!\nProcessing request 1\n"),
                      "%s", text + strspn(text, "."));
        free(text);
        daemon_stop(&msd);
}
END_TEST

/* SIGTERM ends it. What nobody reads holds the end up for a few seconds, and not for ever. */
START_TEST(stop) {
        start(OPTIONS("--load-time", "0"));
        peer_send(&msd.control, "REQUEST 7\n");
        peer_expect(&msd.control, "7", "Response 7 from sim");
        daemon_stop(&msd);
}
END_TEST

START_TEST(two_signals) {
        struct peer_status status;

        start(OPTIONS("--load-time", "0", "--inference-time", "1h"));
        peer_send(&msd.control, "REQUEST 7\n");
        peer_status_until(&msd.control, &status, peer_status_is_processing, 1, "the request is in flight");
        process_signal(&msd.process, SIGTERM);
        peer_status_until(&msd.control, &status, peer_status_is_stopping, 0, "msd is stopping");
        process_signal(&msd.process, SIGTERM);
        daemon_expect_exit(&msd, 1);
}
END_TEST

START_TEST(wrong_usage) {
        struct process process;

        process_start(&process, "/bin/sh",
                      (const char *[]){ "sh", "-c", SCRIPT, "sh", out_path, err_path, suite_msd(), "--nonsense", NULL }, NULL);
        ck_assert_int_eq(process_wait(&process), 2);
        process_free(&process);
}
END_TEST

/* Started without any of the three: no descriptor of its own is in their place, and gets what msd says. */
START_TEST(none_of_the_three) {
        char path[64], target[64];

        suite_directory(msd.directory);
        daemon_start_at(&msd, "/bin/sh", socket_path, NULL,
                        (const char *[]){ "-c", "exec \"$0\" \"$@\" <&- >&- 2>&-", suite_msd(), "--socket", socket_path, "--load-time",
                                          "0", NULL });
        peer_send(&msd.control, "REQUEST 7\n");
        peer_expect(&msd.control, "7", "Response 7 from sim");
        for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
                ssize_t n;

                snprintf(path, sizeof(path), "/proc/%d/fd/%d", msd.process.pid, fd);
                n = readlink(path, target, sizeof(target) - 1);
                ck_assert_msg(n >= 0, "%s: %s", path, strerror(errno));
                target[n] = '\0';
                ck_assert_str_eq(target, "/dev/null");
        }
        daemon_stop(&msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, a_model_that_says_much);
        tcase_add_test(tests, stop);
        tcase_add_test(tests, two_signals);
        tcase_add_test(tests, wrong_usage);
        tcase_add_test(tests, none_of_the_three);
}

int main(void) {
        return suite_main("unread", add);
}
