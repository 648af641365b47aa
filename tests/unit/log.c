#include "daemon/log.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

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

/* This pipe is the journal's. */
static void name_journal(int fd) {
        char stream[64];
        struct stat st;

        ck_assert_int_eq(fstat(fd, &st), 0);
        snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
        setenv("JOURNAL_STREAM", stream, 1);
}

START_TEST(diagnostics_for_the_journal) {
        int fd = capture(STDERR_FILENO);

        name_journal(fd);
        log_error("a");
        log_warning("b");
        log_notice("c");
        log_info("d");
        assert_reads(fd, "<3>a\n<4>b\n<5>c\n<6>d\n");
}
END_TEST

/* What comes from elsewhere is no second line, and does nothing to a terminal. */
START_TEST(diagnostics_are_printable) {
        int fd = capture(STDERR_FILENO);

        log_error("The model is lost: %s", "a\n<0>b\x1b[2Jc\xff");
        log_foreign(true, "d\x1b[31m\te", 8);
        log_foreign(true, "<0>f", 4);
        assert_reads(fd, "msd: The model is lost: a <0>bc?\nd e\n<0>f\n");
}
END_TEST

/* The model's own priorities stay, but for those that go to every terminal. */
START_TEST(priorities_of_the_model) {
        int fd = capture(STDERR_FILENO);

        ck_assert_int_eq(dup2(STDERR_FILENO, STDOUT_FILENO), STDOUT_FILENO);
        name_journal(fd);
        log_foreign(true, "<7>a", 4);
        log_foreign(true, "<3>b", 4);
        log_foreign(true, "<2>c", 4);
        log_foreign(true, "\x1b[m<0>d", 7);
        log_foreign(true, "<0", 2);
        log_foreign(true, "<>e", 3);
        log_foreign(false, "<1>f", 4);
        log_foreign(true, "", 0);
        assert_reads(fd, "<7>a\n<3>b\n<3>c\n<3>d\n<0\n<>e\n<3>f\n\n");
}
END_TEST

START_TEST(output_in_order) {
        int fd = capture(STDOUT_FILENO);

        ck_assert_int_eq(log_start(), 0);
        log_output("one\n", 4);
        log_output("two\nthree\n", 10);
        assert_reads(fd, "one\ntwo\nthree\n");
        log_output("four\n", 5);
        log_stop();
        assert_reads(fd, "four\n");
        log_stop();
}
END_TEST

START_TEST(errors_in_order) {
        int fd = capture(STDERR_FILENO);
        char line[32];

        log_info("before");
        ck_assert_int_eq(log_start(), 0);
        for (unsigned i = 0; i < 100; i++)
                log_info("%u", i);
        log_foreign(true, "last", 4);
        log_stop();
        log_info("after");
        assert_reads(fd, "msd: before\n");
        for (unsigned i = 0; i < 100; i++) {
                snprintf(line, sizeof(line), "msd: %u\n", i);
                assert_reads(fd, line);
        }
        assert_reads(fd, "last\n");
        close(STDERR_FILENO);
        ck_assert_int_eq(read(fd, line, sizeof(line)), 0);
}
END_TEST

/* Both are one file: one order, and no line within another. */
START_TEST(one_file) {
        int fd = capture(STDERR_FILENO);
        char line[32];

        ck_assert_int_eq(dup2(STDERR_FILENO, STDOUT_FILENO), STDOUT_FILENO);
        ck_assert_int_eq(log_start(), 0);
        for (unsigned i = 0; i < 1000; i++) {
                log_output("out\n", 4);
                log_info("%u", i);
        }
        for (unsigned i = 0; i < 1000; i++) {
                snprintf(line, sizeof(line), "out\nmsd: %u\n", i);
                assert_reads(fd, line);
        }
        log_stop();
}
END_TEST

/* Nobody reads: what is too much is left out and counted, and nobody blocks; nor does the other one. */
START_TEST(output_not_read) {
        static char lines[1 << 20];
        int out = capture(STDOUT_FILENO), err = capture(STDERR_FILENO);
        pid_t reader;

        memset(lines, '\n', sizeof(lines));
        ck_assert_int_eq(log_start(), 0);
        for (unsigned i = 0; i < 66; i++)
                log_output(lines, sizeof(lines));
        log_info("here");
        assert_reads(err, "msd: here\n");
        reader = fork();
        if (reader == 0)
                for (;;)
                        if (read(out, lines, sizeof(lines)) <= 0)
                                _exit(0);
        close(out);
        /* Read again, it says what it left out: what it takes in one go is 64 MiB with what is written already. */
        assert_reads(err, "msd: Nobody read standard output: ");
        log_output("\n", 1);
        log_stop();
        kill(reader, SIGKILL);
}
END_TEST

/* Nobody reads standard error: standard output goes on, and the count stands where the lines would. */
START_TEST(errors_not_read) {
        int out = capture(STDOUT_FILENO), err = capture(STDERR_FILENO), more;
        static char got[8 << 20];
        unsigned long left_out;
        unsigned read_lines = 0;
        size_t n = 0;
        char *end;

        ck_assert_int_eq(log_start(), 0);
        for (unsigned i = 0; i < 300000; i++)
                log_info("A line of thirty-two bytes");
        log_output("here\n", 5);
        assert_reads(out, "here\n");
        for (;;) {
                ssize_t k = read(err, got + n, sizeof(got) - 1 - n);

                ck_assert_int_gt(k, 0);
                n += (size_t)k;
                got[n] = '\0';
                end = strstr(got, "msd: Nobody read standard error: ");
                if (end && strchr(end, '\n'))
                        break;
        }
        ck_assert_int_eq(sscanf(end, "msd: Nobody read standard error: %lu lines are left out\n%n", &left_out, &more), 1);
        for (const char *p = got; p < end; p = strchr(p, '\n') + 1)
                read_lines++;
        ck_assert_uint_eq(read_lines + left_out, 300000);
        ck_assert_uint_gt(left_out, 100000);
        log_info("again");
        if (!end[more])
                assert_reads(err, "msd: again\n");
        log_stop();
}
END_TEST

/* An end is not held up for ever, and keeps nothing from the one that is read. */
START_TEST(stop_without_a_reader) {
        int out = capture(STDOUT_FILENO), err = capture(STDERR_FILENO);
        struct timespec start, end;
        static char lines[1 << 20];

        memset(lines, '\n', sizeof(lines));
        clock_gettime(CLOCK_MONOTONIC, &start);
        ck_assert_int_eq(log_start(), 0);
        log_output(lines, sizeof(lines));
        log_info("last");
        log_stop();
        clock_gettime(CLOCK_MONOTONIC, &end);
        ck_assert_int_lt(end.tv_sec - start.tv_sec, 30);
        assert_reads(err, "msd: last\n");
        /* What hung goes on here, for the process does. */
        assert_reads(out, "\n\n\n\n");
}
END_TEST

/* A bar cannot be erased any more. */
START_TEST(stop_with_a_bar) {
        static char dots[65536];
        int err = capture(STDERR_FILENO), other;
        char path[64];

        /* As in msd: the thread that hangs finds that there is no reader any more. */
        (void)signal(SIGPIPE, SIG_IGN);
        ck_assert_int_eq(log_start(), 0);
        log_bar("loading");
        assert_reads(err, "loading");
        /* The same pipe, and not the same flags. */
        snprintf(path, sizeof(path), "/proc/self/fd/%d", STDERR_FILENO);
        other = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        ck_assert_int_ge(other, 0);
        while (write(other, dots, sizeof(dots)) > 0)
                ;
        while (write(other, dots, 1) > 0)
                ;
        log_stop();
        close(other);
        close(err);
}
END_TEST

/* Somebody who shares the pipe has made it non-blocking. */
START_TEST(non_blocking) {
        static char lines[1 << 20], got[1 << 20];
        int fd = capture(STDOUT_FILENO);

        ck_assert_int_eq(fcntl(STDOUT_FILENO, F_SETFL, O_WRONLY | O_NONBLOCK), 0);
        memset(lines, '\n', sizeof(lines));
        ck_assert_int_eq(log_start(), 0);
        log_output(lines, sizeof(lines));
        for (size_t n = 0; n < sizeof(lines);) {
                ssize_t k = read(fd, got, sizeof(got));

                ck_assert_int_gt(k, 0);
                n += (size_t)k;
        }
        log_stop();
}
END_TEST

/* Its reader has gone: said once, and survived. */
START_TEST(output_reader_gone) {
        int out = capture(STDOUT_FILENO), err = capture(STDERR_FILENO);

        close(out);
        signal(SIGPIPE, SIG_IGN);
        ck_assert_int_eq(log_start(), 0);
        log_output("one\n", 4);
        assert_reads(err, "msd: Cannot write to standard output, ignoring: Broken pipe\n");
        log_output("two\n", 4);
        log_stop();
        close(STDERR_FILENO);
        ck_assert_int_eq(read(err, &(char){ 0 }, 1), 0);
}
END_TEST

static Suite *log_suite(void) {
        Suite *suite = suite_create("log");
        TCase *tcase = tcase_create("log");

        tcase_set_timeout(tcase, 60);
        tcase_add_test(tcase, diagnostics);
        tcase_add_test(tcase, diagnostics_for_the_journal);
        tcase_add_test(tcase, diagnostics_are_printable);
        tcase_add_test(tcase, priorities_of_the_model);
        tcase_add_test(tcase, output_in_order);
        tcase_add_test(tcase, errors_in_order);
        tcase_add_test(tcase, one_file);
        tcase_add_test(tcase, output_not_read);
        tcase_add_test(tcase, errors_not_read);
        tcase_add_test(tcase, stop_without_a_reader);
        tcase_add_test(tcase, stop_with_a_bar);
        tcase_add_test(tcase, non_blocking);
        tcase_add_test(tcase, output_reader_gone);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(log_suite)
