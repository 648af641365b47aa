/*
 * mscli wait waits for a daemon to listen, wherever its socket comes from.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/run.h"
#include "tests/support/served.h"

static char directory[SUITE_PATH_MAX], place[SUITE_PATH_MAX + 16];

static void setup(void) {
        suite_directory(directory);
        snprintf(place, sizeof(place), "%s/a/b/msd.sock", directory);
}

static void teardown(void) {
        char path[SUITE_PATH_MAX + 16];

        (void)unlink(place);
        snprintf(path, sizeof(path), "%s/a/b", directory);
        (void)rmdir(path);
        snprintf(path, sizeof(path), "%s/a", directory);
        (void)rmdir(path);
        suite_remove(directory);
}

static void make_directories(void) {
        char path[SUITE_PATH_MAX + 16];

        snprintf(path, sizeof(path), "%s/a", directory);
        ck_assert_int_eq(mkdir(path, 0700), 0);
        snprintf(path, sizeof(path), "%s/a/b", directory);
        ck_assert_int_eq(mkdir(path, 0700), 0);
}

static bool has_inotify(pid_t pid) {
        char path[64], target[32];

        for (int fd = 3; fd < 16; fd++) {
                ssize_t n;

                snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
                n = readlink(path, target, sizeof(target) - 1);
                target[MAX(n, 0)] = '\0';
                if (strstr(target, "inotify"))
                        return true;
        }
        return false;
}

/* Starts `mscli wait`, and waits until it does. */
static void start_wait(struct process *wait, const char *socket) {
        const uint64_t patience = clock_patience();

        run_start(wait, socket, NULL, OPTIONS("wait"));
        while (!has_inotify(wait->pid)) {
                if (wait->exited || clock_now() >= patience)
                        process_give_up("mscli does not wait");
                (void)process_poll(NULL, 0, clock_now() + NSEC_PER_MSEC);
        }
}

static void expect_ready(struct process *wait) {
        ck_assert_int_eq(process_wait(wait), 0);
        ck_assert_uint_eq(wait->output.len, 0);
        ck_assert_uint_eq(wait->errors.len, 0);
        process_free(wait);
}

/* Neither the directory is there, nor the one above it. */
START_TEST(directory_comes) {
        struct process wait;
        struct daemon msd;

        start_wait(&wait, place);
        make_directories();
        snprintf(msd.directory, sizeof(msd.directory), "%s", directory);
        daemon_start_at(&msd, suite_msd(), place, NULL, OPTIONS("--socket", place, "--load-time", "0"));
        expect_ready(&wait);
        process_signal(&msd.process, SIGTERM);
        ck_assert_int_eq(process_wait(&msd.process), 0);
        peer_close(&msd.control);
        process_free(&msd.process);
}
END_TEST

static int bind_there(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        ck_assert_int_ge(fd, 0);
        ck_assert_uint_lt(strlen(place), sizeof(address.sun_path));
        memcpy(address.sun_path, place, strlen(place) + 1);
        ck_assert_int_eq(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
        return fd;
}

/* A socket file at which nobody listens is there: a daemon puts its own into its place. */
START_TEST(file_replaced) {
        struct process wait;
        struct daemon msd;

        make_directories();
        close(bind_there());
        start_wait(&wait, place);
        snprintf(msd.directory, sizeof(msd.directory), "%s", directory);
        daemon_start_at(&msd, suite_msd(), place, NULL, OPTIONS("--socket", place, "--load-time", "0"));
        expect_ready(&wait);
        process_signal(&msd.process, SIGTERM);
        ck_assert_int_eq(process_wait(&msd.process), 0);
        peer_close(&msd.control);
        process_free(&msd.process);
}
END_TEST

/* Bound, and not listened on at once. */
START_TEST(listened_on_late) {
        struct process wait;
        int fd, client;

        make_directories();
        fd = bind_there();
        start_wait(&wait, place);
        ck_assert_int_eq(listen(fd, 8), 0);
        ck_assert_int_eq(chmod(place, 0600), 0);
        client = accept(fd, NULL, NULL);
        ck_assert_int_ge(client, 0);
        close(client);
        close(fd);
        (void)process_wait(&wait);
        run_expect_refusal(&wait, 3, place);
}
END_TEST

/* Without a directory, with an empty one, and with a file at which nobody listens. */
START_TEST(time_is_over) {
        for (unsigned i = 0; i < 3; i++) {
                const uint64_t start = clock_now();
                struct process wait;

                if (i == 1)
                        make_directories();
                else if (i == 2)
                        close(bind_there());
                ck_assert_int_eq(run_mscli(&wait, place, "wait", "--timeout", "200ms", NULL), 4);
                ck_assert_uint_ge(clock_now() - start, 200 * NSEC_PER_MSEC);
                run_expect_refusal(&wait, 4, "no daemon listens");
        }
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, directory_comes);
        tcase_add_test(tests, file_replaced);
        tcase_add_test(tests, listened_on_late);
        tcase_add_test(tests, time_is_over);
}

int main(void) {
        return suite_main("client_wait", add);
}
