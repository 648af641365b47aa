/*
 * What msd and mscli are told by arguments and environment, what they say to what is wrong, and how they end.
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

static const struct {
        const char *arguments[4];
        const char *named;
} wrong_msd[] = {
        { { "--bogus" }, "--bogus" },
        { { "-x" }, "x" },
        { { "extra" }, "extra" },
        { { "--quiet=yes" }, "--quiet" },
        { { "--load-time" }, "--load-time" },
        { { "--socket" }, "--socket" },
        { { "--socket", "" }, "--socket" },
        { { "--model", "" }, "--model" },

        { { "--load-time", "soon" }, "soon" },
        { { "--load-time", "soon" }, "--load-time" },
        { { "--load-time", "" }, "--load-time" },
        { { "--load-time", "-1" }, "-1" },
        { { "--load-time", "+1" }, "+1" },
        { { "--load-time", "1e3" }, "1e3" },
        { { "--load-time", "1 2" }, "1 2" },
        { { "--load-time", "2 parsecs" }, "2 parsecs" },
        { { "--load-time", "0x10" }, "0x10" },
        { { "--load-time", ".5" }, ".5" },
        { { "--load-time", "5." }, "5." },
        { { "--load-time", "nan" }, "nan" },
        { { "--load-time", "99999999999999999999" }, "--load-time" },
        { { "--load-time", "1000000d" }, "1000000d" },
        { { "--inference-time", "x" }, "--inference-time" },
        { { "--load-timeout", "x" }, "--load-timeout" },
        { { "--stall-timeout", "x" }, "--stall-timeout" },
        { { "--request-timeout", "x" }, "--request-timeout" },
        { { "--drain-timeout", "x" }, "--drain-timeout" },

        { { "--threads", "many" }, "many" },
        { { "--threads", "many" }, "--threads" },
        { { "--threads", "" }, "--threads" },
        { { "--threads", "0" }, "--threads" },
        { { "--threads", "-1" }, "-1" },
        { { "--threads", "+1" }, "+1" },
        { { "--threads", " 1" }, "--threads" },
        { { "--threads", "1 " }, "--threads" },
        { { "--threads", "1.5" }, "1.5" },
        { { "--threads", "0x2" }, "0x2" },
        { { "--threads", "1000000000" }, "1000000000" },
        { { "--threads", "18446744073709551617" }, "18446744073709551617" },
        { { "--load-attempts", "0" }, "--load-attempts" },
        { { "--load-attempts", "x" }, "--load-attempts" },
        { { "--max-waiting", "x" }, "--max-waiting" },
        { { "--max-waiting", "-1" }, "--max-waiting" },
        { { "--max-connections", "0" }, "--max-connections" },
        { { "--max-connections", "x" }, "--max-connections" },
        { { "--max-prompt", "x" }, "--max-prompt" },
        { { "--max-prompt", "99999999999999999999999" }, "--max-prompt" },
        { { "--max-prompt-memory", "x" }, "--max-prompt-memory" },

        { { "--on-load-failure", "retry" }, "retry" },
        { { "--on-load-failure", "retry" }, "--on-load-failure" },
        { { "--on-load-failure", "" }, "--on-load-failure" },
};

START_TEST(wrong_arguments_of_msd) {
        char directory[SUITE_PATH_MAX], variable[SUITE_PATH_MAX + 32];
        const char *const environment[] = { variable, NULL };
        const struct process_setup setup = { .environment = environment };

        /* Were one of them taken, the daemon would at least not be in the way of another. */
        suite_directory(directory);
        snprintf(variable, sizeof(variable), "RUNTIME_DIRECTORY=%s", directory);
        for (size_t i = 0; i < ARRAY_SIZE(wrong_msd); i++) {
                struct process msd;

                (void)run_msd(&msd, &setup, wrong_msd[i].arguments);
                run_expect_refusal(&msd, 2, wrong_msd[i].named);
        }
        /* None of them left anything. */
        ck_assert_int_eq(rmdir(directory), 0);
}
END_TEST

static const struct {
        const char *arguments[5];
        const char *named;
} wrong_mscli[] = {
        { { NULL }, "" },
        { { "bogus" }, "bogus" },
        { { "--bogus" }, "--bogus" },
        { { "--bogus", "status" }, "--bogus" },
        { { "status", "--bogus" }, "--bogus" },
        { { "status", "extra" }, "extra" },
        { { "wait", "extra" }, "extra" },
        { { "load", "extra" }, "extra" },
        { { "shutdown", "extra" }, "extra" },
        { { "request" }, "" },
        { { "request", "--" }, "" },
        { { "request", "" }, "" },
        { { "request", "two words" }, "two words" },
        { { "request", "1", "\xc3\xa9" }, "" },
        { { "request", "--timeout", "soon", "1" }, "soon" },
        { { "request", "--timeout", "-1", "1" }, "-1" },
        { { "request", "--timeout" }, "--timeout" },
        { { "request", "--prompt" }, "--prompt" },
        { { "request", "--prompt", "@/nowhere/prompt", "1" }, "/nowhere/prompt" },
        { { "wait", "--timeout", "soon" }, "soon" },
        { { "--socket" }, "--socket" },
        { { "--socket", "", "status" }, "socket" },
};

/* Nothing of it reaches the daemon, which is there. */
START_TEST(wrong_arguments_of_mscli) {
        char variable[SUITE_PATH_MAX + 32];
        const char *const environment[] = { variable, NULL };
        const struct process_setup setup = { .environment = environment };
        struct peer_status status;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "0", NULL);
        snprintf(variable, sizeof(variable), "MSD_SOCKET=%s", daemon.socket);
        for (size_t i = 0; i < ARRAY_SIZE(wrong_mscli); i++) {
                struct process mscli;

                (void)run_mscli_with(&mscli, NULL, &setup, wrong_mscli[i].arguments);
                run_expect_refusal(&mscli, 2, wrong_mscli[i].named);
        }
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.completed + status.failed + status.processing, 0);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(wrong_ids_on_standard_input) {
        static const char *const inputs[] = {
                "1\n\xc3\xa9\n",
                "1\n-\n",
                "1\n\001\n2\n",
                "1\n0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdefX\n",
        };
        struct peer_status status;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "0", NULL);
        for (size_t i = 0; i < ARRAY_SIZE(inputs); i++) {
                const struct process_setup setup = { .input = inputs[i], .input_len = strlen(inputs[i]) };
                struct process mscli;

                ck_assert_int_eq(run_mscli_with(&mscli, daemon.socket, &setup,
                                                (const char *[]){ "request", "-", NULL }), 2);
                run_expect_refusal(&mscli, 2, "");
        }
        /* The good ones among them were not sent either. */
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.completed + status.processing, 0);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(ids_on_standard_input) {
        static const char input[] = "1\n2\r\n\n3";
        const struct process_setup setup = { .input = input, .input_len = sizeof(input) - 1 };
        struct process mscli;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "0", NULL);
        ck_assert_int_eq(run_mscli_with(&mscli, daemon.socket, &setup,
                                        (const char *[]){ "request", "-", NULL }), 0);
        ck_assert_uint_eq(text_lines(&mscli.output), 3);
        ck_assert(text_has_line(&mscli.output, "Response 1 from sim"));
        ck_assert(text_has_line(&mscli.output, "Response 2 from sim"));
        ck_assert(text_has_line(&mscli.output, "Response 3 from sim"));
        process_free(&mscli);
        daemon_stop(&daemon);
}
END_TEST

/* Socket paths that msd cannot have. */

static void expect_socket_refused(const char *path, const char *named) {
        struct process msd;

        (void)run_msd(&msd, NULL, (const char *[]){ "--socket", path, "--load-time", "0", NULL });
        run_expect_refusal(&msd, 2, named);
}

START_TEST(socket_path_too_long) {
        char directory[SUITE_PATH_MAX], path[ADDRESS_PATH_MAX + 1];
        struct process process;
        struct daemon daemon;
        size_t len;

        suite_directory(directory);
        len = (size_t)snprintf(path, sizeof(path), "%s/", directory);
        memset(path + len, 'x', sizeof(path) - len - 1);
        path[sizeof(path) - 1] = '\0';
        ck_assert_uint_eq(strlen(path), ADDRESS_PATH_MAX);
        expect_socket_refused(path, path);
        ck_assert_int_eq(run_mscli(&process, path, "status", NULL), 2);
        run_expect_refusal(&process, 2, "");

        /* One byte less is no byte too long. */
        path[sizeof(path) - 2] = '\0';
        process_start(&process, suite_msd(),
                      (const char *[]){ "msd", "--socket", path, "--load-time", "0", NULL }, NULL);
        process_wait_output(&process, "Model ready!\n");
        peer_connect(&daemon.control, path);
        peer_status(&daemon.control, &(struct peer_status){ 0 });
        peer_close(&daemon.control);
        process_signal(&process, SIGTERM);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        ck_assert_int_eq(rmdir(directory), 0);
}
END_TEST

START_TEST(socket_without_directory) {
        char directory[SUITE_PATH_MAX], path[SUITE_PATH_MAX + 16];
        struct stat st;

        suite_directory(directory);
        snprintf(path, sizeof(path), "%s/none/msd.sock", directory);
        expect_socket_refused(path, path);
        ck_assert_int_eq(rmdir(directory), 0);

        /* The directory of it is none. */
        expect_socket_refused("/dev/null/msd.sock", "/dev/null/msd.sock");
        ck_assert_int_eq(stat("/dev/null", &st), 0);
}
END_TEST

START_TEST(file_that_is_no_socket) {
        char directory[SUITE_PATH_MAX], path[SUITE_PATH_MAX + 16], kept[8] = { 0 };
        _cleanup_close_ int fd = -1;
        struct stat st;

        suite_directory(directory);
        snprintf(path, sizeof(path), "%s/msd.sock", directory);
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, "mine\n", 5), 5);
        expect_socket_refused(path, path);
        ck_assert_int_eq(pread(fd, kept, sizeof(kept), 0), 5);
        ck_assert_str_eq(kept, "mine\n");
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_uint_eq(st.st_nlink, 1);

        /* Nor a directory, nor a link to either. */
        ck_assert_int_eq(unlink(path), 0);
        ck_assert_int_eq(mkdir(path, 0700), 0);
        expect_socket_refused(path, path);
        ck_assert_int_eq(rmdir(path), 0);
        ck_assert_int_eq(symlink("/dev/null", path), 0);
        expect_socket_refused(path, path);
        ck_assert_int_eq(lstat(path, &st), 0);
        ck_assert(S_ISLNK(st.st_mode));
}
END_TEST

START_TEST(socket_in_use) {
        struct peer_status status;
        struct stat before, after;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "1h", NULL);
        peer_send(&daemon.control, "REQUEST 1\n");
        ck_assert_int_eq(stat(daemon.socket, &before), 0);
        for (size_t i = 0; i < 3; i++)
                expect_socket_refused(daemon.socket, daemon.socket);
        ck_assert_int_eq(stat(daemon.socket, &after), 0);
        ck_assert_uint_eq(before.st_ino, after.st_ino);

        /* The other is as it was, and still to be reached. */
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.waiting, 1);
        peer_close(&daemon.control);
        peer_connect(&daemon.control, daemon.socket);
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.pid, (uint64_t)daemon.process.pid);
        daemon_stop(&daemon);
}
END_TEST

/* Left behind by a daemon that had no time to remove it. */
START_TEST(stale_socket) {
        struct daemon first, second;
        struct peer_status status;
        struct stat st;

        daemon_start(&first, "--load-time", "1h", NULL);
        process_signal(&first.process, SIGKILL);
        ck_assert_int_eq(process_wait(&first.process), 128 + SIGKILL);
        peer_close(&first.control);
        ck_assert_int_eq(stat(first.socket, &st), 0);
        ck_assert(S_ISSOCK(st.st_mode));

        second = (struct daemon){ 0 };
        snprintf(second.directory, sizeof(second.directory), "%s", first.directory);
        daemon_start_at(&second, suite_msd(), first.socket, NULL,
                        (const char *[]){ "--socket", first.socket, "--load-time", "1h", NULL });
        peer_status(&second.control, &status);
        ck_assert_uint_eq(status.pid, (uint64_t)second.process.pid);
        daemon_stop(&second);
        process_free(&first.process);
}
END_TEST

/* What somebody has put in its place since is not removed at the end. */
START_TEST(socket_of_a_successor) {
        struct daemon daemon;
        struct stat st;
        int fd;

        daemon_start(&daemon, "--load-time", "1h", NULL);
        ck_assert_int_eq(unlink(daemon.socket), 0);
        fd = open(daemon.socket, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        close(fd);
        process_signal(&daemon.process, SIGTERM);
        ck_assert_int_eq(process_wait(&daemon.process), 0);
        ck_assert_int_eq(stat(daemon.socket, &st), 0);
        ck_assert_int_eq(unlink(daemon.socket), 0);
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* Two that start at the same time: one is there, the other says so. */
START_TEST(started_twice) {
        char directory[SUITE_PATH_MAX], path[SUITE_PATH_MAX + 16];
        const char *const argv[] = { "msd", "--socket", path, "--load-time", "0", NULL };
        struct process both[2];
        size_t loser;

        suite_directory(directory);
        snprintf(path, sizeof(path), "%s/msd.sock", directory);
        for (size_t i = 0; i < 2; i++)
                process_start(&both[i], suite_msd(), argv, NULL);
        while (!both[0].exited && !both[1].exited)
                (void)process_poll(NULL, 0, clock_patience());
        loser = both[0].exited ? 0 : 1;
        ck_assert_int_eq(process_wait(&both[loser]), 2);
        ck_assert_ptr_nonnull(strstr(text_get(&both[loser].errors), path));
        process_wait_output(&both[1 - loser], "Model ready!\n");
        process_signal(&both[1 - loser], SIGTERM);
        ck_assert_int_eq(process_wait(&both[1 - loser]), 0);
        process_free(&both[0]);
        process_free(&both[1]);
        ck_assert_int_eq(rmdir(directory), 0);
}
END_TEST

/* What they say of themselves. */

START_TEST(help_and_version) {
        static const char *const options[] = {
                "--socket", "--model", "--load-time", "--inference-time", "--load-failure", "--load-attempts",
                "--stall-timeout", "--load-timeout", "--on-load-failure", "--threads", "--max-waiting",
                "--max-connections", "--max-prompt", "--max-prompt-memory", "--request-timeout",
                "--drain-timeout",
                "--quiet", "--version", "--help",
        };
        static const char *const words[] = {
                "request", "status", "wait", "load", "shutdown", "--socket", "--timeout", "--prompt",
                "--stream",
                "--json", "--version", "--help",
        };
        struct peer_status status;
        struct process process;
        struct daemon daemon;
        char version[64];

        ck_assert_int_eq(run_msd(&process, NULL, (const char *[]){ "--help", NULL }), 0);
        for (size_t i = 0; i < ARRAY_SIZE(options); i++)
                ck_assert_msg(strstr(text_get(&process.output), options[i]), "--help has no %s", options[i]);
        ck_assert_str_eq(text_get(&process.errors), "");
        process_free(&process);

        ck_assert_int_eq(run_mscli(&process, NULL, "--help", NULL), 0);
        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                ck_assert_msg(strstr(text_get(&process.output), words[i]), "--help has no %s", words[i]);
        ck_assert_str_eq(text_get(&process.errors), "");
        process_free(&process);

        daemon_start(&daemon, "--load-time", "0", NULL);
        peer_status(&daemon.control, &status);
        daemon_stop(&daemon);

        ck_assert_int_eq(run_msd(&process, NULL, (const char *[]){ "--version", NULL }), 0);
        snprintf(version, sizeof(version), "msd %s\n", status.version);
        ck_assert_str_eq(text_get(&process.output), version);
        process_free(&process);
        ck_assert_int_eq(run_mscli(&process, NULL, "--version", NULL), 0);
        snprintf(version, sizeof(version), "mscli %s\n", status.version);
        ck_assert_str_eq(text_get(&process.output), version);
        process_free(&process);

        process_start(&process, "/bin/sh", (const char *[]){ "sh", "-c", "exec \"$0\" --version >/dev/full", suite_msd(), NULL }, NULL);
        ck_assert_int_eq(process_wait(&process), 1);
        run_expect_refusal(&process, 1, "msd: Cannot write to standard output: No space left on device");
}
END_TEST

/* Where the socket is when nobody says. */

START_TEST(runtime_directory) {
        char socket[sizeof(((struct daemon *)NULL)->socket)], variable[2 * SUITE_PATH_MAX];
        const char *const environment[] = { variable, "XDG_RUNTIME_DIR=/nowhere", NULL };
        const struct process_setup setup = { .environment = environment };
        struct daemon daemon = { 0 };
        struct process mscli;

        suite_directory(daemon.directory);
        snprintf(socket, sizeof(socket), "%s/msd.sock", daemon.directory);
        /* A list of directories: the first of them counts. */
        snprintf(variable, sizeof(variable), "RUNTIME_DIRECTORY=%s%s", daemon.directory,
                 _i ? ":/nowhere" : "");
        daemon_start_at(&daemon, suite_msd(), socket, &setup, (const char *[]){ "--load-time", "0", NULL });
        ck_assert_int_eq(run_mscli_with(&mscli, NULL, &setup, (const char *[]){ "request", "7", NULL }), 0);
        ck_assert_str_eq(text_get(&mscli.output), "Response 7 from sim\n");
        process_free(&mscli);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(socket_of_the_environment) {
        char variable[SUITE_PATH_MAX + 32];
        const char *const environment[] = { variable, "RUNTIME_DIRECTORY=/nowhere", NULL };
        const struct process_setup setup = { .environment = environment };
        struct process mscli;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "0", NULL);
        snprintf(variable, sizeof(variable), "MSD_SOCKET=%s", daemon.socket);
        ck_assert_int_eq(run_mscli_with(&mscli, NULL, &setup, (const char *[]){ "wait", NULL }), 0);
        process_free(&mscli);

        /* The option counts more. */
        ck_assert_int_eq(run_mscli_with(&mscli, "/nowhere/msd.sock", &setup,
                                        (const char *[]){ "status", NULL }), 3);
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.errors), "/nowhere/msd.sock"));
        process_free(&mscli);
        daemon_stop(&daemon);
}
END_TEST

/* For those who are not root; root has /run/msd. The programs are copied to where everybody can run them. */
START_TEST(xdg_runtime_dir) {
        char socket[sizeof(((struct daemon *)NULL)->socket)], variable[SUITE_PATH_MAX + 32];
        char programs[SUITE_PATH_MAX], msd[SUITE_PATH_MAX + 16], mscli[SUITE_PATH_MAX + 16];
        const char *const environment[] = { variable, NULL };
        const struct process_setup setup = {
                .environment = environment,
                .uid = geteuid() == 0 ? NOBODY : 0,
        };
        struct process process;
        struct daemon daemon = { 0 };

        suite_directory(programs);
        snprintf(msd, sizeof(msd), "%s/msd", programs);
        snprintf(mscli, sizeof(mscli), "%s/mscli", programs);
        suite_copy_program(suite_msd(), msd);
        suite_copy_program(suite_mscli(), mscli);

        suite_directory(daemon.directory);
        if (setup.uid != 0)
                ck_assert_int_eq(chown(daemon.directory, setup.uid, setup.uid), 0);
        snprintf(socket, sizeof(socket), "%s/msd.sock", daemon.directory);
        snprintf(variable, sizeof(variable), "XDG_RUNTIME_DIR=%s", daemon.directory);
        daemon_start_at(&daemon, msd, socket, &setup, (const char *[]){ "--load-time", "0", NULL });
        process_start(&process, mscli, (const char *[]){ "mscli", "request", "7", NULL }, &setup);
        ck_assert_int_eq(process_wait(&process), 0);
        ck_assert_str_eq(text_get(&process.output), "Response 7 from sim\n");
        process_free(&process);

        /* The daemon's own user is its administrator. */
        process_start(&process, mscli, (const char *[]){ "mscli", "shutdown", NULL }, &setup);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        daemon_expect_exit(&daemon, 0);

        /* And without any of these there is no place for a daemon. */
        if (setup.uid != 0) {
                const struct process_setup bare = { .uid = setup.uid };

                process_start(&process, msd, (const char *[]){ "msd", NULL }, &bare);
                (void)process_wait(&process);
                run_expect_refusal(&process, 2, "--socket");
        }
        suite_remove(programs);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_test(tests, wrong_arguments_of_msd);
        tcase_add_test(tests, wrong_arguments_of_mscli);
        tcase_add_test(tests, wrong_ids_on_standard_input);
        tcase_add_test(tests, ids_on_standard_input);
        tcase_add_test(tests, socket_path_too_long);
        tcase_add_test(tests, socket_without_directory);
        tcase_add_test(tests, file_that_is_no_socket);
        tcase_add_test(tests, socket_in_use);
        tcase_add_test(tests, stale_socket);
        tcase_add_test(tests, socket_of_a_successor);
        tcase_add_test(tests, started_twice);
        tcase_add_test(tests, help_and_version);
        tcase_add_loop_test(tests, runtime_directory, 0, 2);
        tcase_add_test(tests, socket_of_the_environment);
        tcase_add_test(tests, xdg_runtime_dir);
}

int main(void) {
        return suite_main("command_line", add);
}
