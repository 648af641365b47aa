#include "daemon/log.h"

#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/support/unit.h"

/* Has `fd` written into a pipe, whose reading end is returned. */
static int capture(int fd) {
        int pipe_fds[2];

        ck_assert_int_eq(pipe(pipe_fds), 0);
        ck_assert_int_eq(dup2(pipe_fds[1], fd), fd);
        close(pipe_fds[1]);
        return pipe_fds[0];
}

static void assert_reads(int fd, const char *text) {
        size_t len = strlen(text), n = 0;
        char got[4096];

        ck_assert_uint_lt(len, sizeof(got));
        while (n < len) {
                ssize_t k = read(fd, got + n, len - n);

                ck_assert_int_gt(k, 0);
                n += (size_t)k;
        }
        ck_assert_mem_eq(got, text, len);
}

START_TEST(diagnostics) {
        char longest[4000], line[4096];
        int fd = capture(STDERR_FILENO);
        ssize_t n;

        log_error("Cannot %s", "do it");
        assert_reads(fd, "msd: Cannot do it\n");
        memset(longest, 'x', sizeof(longest) - 1);
        longest[sizeof(longest) - 1] = '\0';
        log_info("%s", longest);
        n = read(fd, line, sizeof(line));
        ck_assert_int_lt(n, 2049);
        ck_assert_int_eq(line[n - 1], '\n');
}
END_TEST

START_TEST(diagnostics_for_the_journal) {
        int fd = capture(STDERR_FILENO);
        char stream[64];
        struct stat st;

        ck_assert_int_eq(fstat(STDERR_FILENO, &st), 0);
        snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
        setenv("JOURNAL_STREAM", stream, 1);
        log_error("a");
        log_warning("b");
        log_notice("c");
        log_info("d");
        assert_reads(fd, "<3>a\n<4>b\n<5>c\n<6>d\n");
}
END_TEST

START_TEST(output_in_order) {
        int fd = capture(STDOUT_FILENO);

        ck_assert_int_eq(log_output_start(), 0);
        log_output("one\n", 4);
        log_output("two\nthree\n", 10);
        assert_reads(fd, "one\ntwo\nthree\n");
        log_output("four\n", 5);
        log_output_stop();
        assert_reads(fd, "four\n");
        log_output_stop();
}
END_TEST

/* Nobody reads: what is too much is left out and counted, and nobody blocks. */
START_TEST(output_not_read) {
        static char lines[1 << 20];
        struct pollfd pollers[] = { { .fd = capture(STDOUT_FILENO), .events = POLLIN },
                                    { .fd = capture(STDERR_FILENO), .events = POLLIN } };
        char text[256];
        ssize_t n;

        memset(lines, '\n', sizeof(lines));
        ck_assert_int_eq(log_output_start(), 0);
        /* One part of 64 MiB may be with the thread that writes, and one behind it. */
        for (unsigned i = 0; i < 160; i++)
                log_output(lines, sizeof(lines));
        /* Read again, it says what it left out. */
        for (;;) {
                ck_assert_int_gt(poll(pollers, 2, -1), 0);
                if (pollers[1].revents)
                        break;
                ck_assert_int_gt(read(pollers[0].fd, lines, sizeof(lines)), 0);
        }
        n = read(pollers[1].fd, text, sizeof(text) - 1);
        ck_assert_int_gt(n, 0);
        text[n] = '\0';
        ck_assert_msg(strstr(text, "Standard output is not being read: ") && strstr(text, " bytes of lines left out"),
                      "%s", text);
        log_output("\n", 1);
        log_output_stop();
}
END_TEST

/* Its reader has gone: said once, and survived. */
START_TEST(output_reader_gone) {
        int out = capture(STDOUT_FILENO), err = capture(STDERR_FILENO);

        close(out);
        signal(SIGPIPE, SIG_IGN);
        ck_assert_int_eq(log_output_start(), 0);
        log_output("one\n", 4);
        assert_reads(err, "msd: Cannot write to standard output, ignoring: Broken pipe\n");
        log_output("two\n", 4);
        log_output_stop();
}
END_TEST

static Suite *log_suite(void) {
        Suite *suite = suite_create("log");
        TCase *tcase = tcase_create("log");

        tcase_set_timeout(tcase, 60);
        tcase_add_test(tcase, diagnostics);
        tcase_add_test(tcase, diagnostics_for_the_journal);
        tcase_add_test(tcase, output_in_order);
        tcase_add_test(tcase, output_not_read);
        tcase_add_test(tcase, output_reader_gone);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(log_suite)
