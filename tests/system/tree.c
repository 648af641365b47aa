/*
 * The processes of a model: all of them are stopped, waited for, and never those of another msd.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
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

/* Appends to the arguments that are there, up to NULL. */
static void append(const char *all[static 40], const char *const *more) {
        size_t n = 0;

        while (all[n])
                n++;
        for (; *more; more++) {
                ck_assert_uint_lt(n + 1, 40);
                all[n++] = *more;
        }
        all[n] = NULL;
}

/*
 * msd with these options up to NULL, whose command is this script: "$@" is the model server with the options `of_server`, up to
 * NULL.
 */
static void start(const char *const *options, const char *script, const char *const *of_server) {
        const char *all[40] = { "--upstream", url };

        append(all, options);
        append(all, OPTIONS("--", "sh", "-c", script, "sh", served_program(), "--socket", upstream_socket));
        append(all, of_server);
        daemon_start_with(&msd, NULL, all);
}

static void ask(struct peer *peer, const char *id) {
        peer_send(peer, "REQUEST %s 2\nhi\n", id);
}

/* Waits until this process has said `NAME PID` often enough, and returns the last one; 1 is the first time. */
static pid_t wait_pid(struct process *process, const char *name, unsigned times) {
        char word[32];
        int pid = 0, end = 0;

        snprintf(word, sizeof(word), "%s ", name);
        for (const char *p;; process_wait_output(process, word)) {
                unsigned n = 0;

                for (p = process->output.data; p && (p = strstr(p, word)); p++)
                        if (++n == times && sscanf(p + strlen(word), "%d%n", &pid, &end) == 1 && p[strlen(word) + (size_t)end] == '\n')
                                return pid;
                (void)process_poll(NULL, 0, clock_now() + 10 * NSEC_PER_MSEC);
        }
}

static bool is_gone(pid_t pid) {
        return kill(pid, 0) < 0 && errno == ESRCH;
}

/* The same, or its parent, which is neither msd nor the test, has not reaped it yet. */
static bool has_ended(pid_t pid) {
        char path[64], state = 0;
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        file = fopen(path, "re");
        if (!file)
                return is_gone(pid);
        if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
                state = 'X';
        fclose(file);
        return state == 'Z' || state == 'X';
}

/* Waits until a process that is not ours is gone, and was reaped. */
static void wait_gone(pid_t pid) {
        uint64_t deadline = clock_patience();

        while (!is_gone(pid)) {
                if (clock_now() >= deadline)
                        process_give_up("Process %d lives on", (int)pid);
                (void)process_poll(NULL, 0, MIN(deadline, clock_now() + 10 * NSEC_PER_MSEC));
        }
}

/* A server behind a shell has time to end, though the shell is gone at once. */
START_TEST(behind_a_shell) {
        start(OPTIONS(), "(trap 'sleep 1; echo finished' TERM; \"$@\"); echo done", OPTIONS());
        daemon_wait_ready(&msd);
        process_signal(&msd.process, SIGTERM);
        (void)process_wait(&msd.process);
        ck_assert_ptr_nonnull(strstr(msd.process.output.data, "finished\n"));
        daemon_expect_exit(&msd, 0);
}
END_TEST

static void wait_socket_removed(void) {
        uint64_t patience = clock_patience();

        while (access(upstream_socket, F_OK) == 0) {
                if (clock_now() >= patience)
                        process_give_up("%s is still there", upstream_socket);
                (void)process_poll(NULL, 0, clock_now() + 10 * NSEC_PER_MSEC);
        }
}

/* A server that leaves its socket file behind: msd removes it. */
START_TEST(socket_file_removed) {
        start(OPTIONS(), "exec \"$@\"", OPTIONS());
        daemon_wait_ready(&msd);
        ck_assert_int_eq(access(upstream_socket, F_OK), 0);
        daemon_stop(&msd);
        ck_assert_int_lt(access(upstream_socket, F_OK), 0);
}
END_TEST

START_TEST(socket_file_removed_when_idle) {
        start(OPTIONS("--idle-timeout", "100ms"), "exec \"$@\"", OPTIONS());
        daemon_wait_ready(&msd);
        wait_socket_removed();
        daemon_stop(&msd);
}
END_TEST

/* Not one at which somebody else listens meanwhile. */
START_TEST(socket_file_of_others) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        start(OPTIONS(), "exec \"$@\"", OPTIONS());
        daemon_wait_ready(&msd);
        ck_assert_int_eq(unlink(upstream_socket), 0);
        ck_assert_uint_lt(strlen(upstream_socket), sizeof(address.sun_path));
        memcpy(address.sun_path, upstream_socket, strlen(upstream_socket) + 1);
        ck_assert_int_eq(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
        ck_assert_int_eq(listen(fd, 8), 0);
        daemon_stop(&msd);
        ck_assert_int_eq(access(upstream_socket, F_OK), 0);
        close(fd);
}
END_TEST

/* Ways to leave the server's process group, each saying who has left. */
static const char *const leavers[] = {
        "setsid sh -c 'echo left $$; exec sleep 4711' & exec \"$@\"",
        /* An orphan in a session of its own. */
        "(setsid sh -c 'echo left $$; exec sleep 4711' &); exec \"$@\"",
        /* Whose environment says nothing either. */
        "(env -i PATH=\"$PATH\" setsid sh -c 'echo left $$; exec sleep 4711' &); exec \"$@\"",
        /* Twice removed. */
        "(setsid sh -c 'setsid sh -c \"echo left \\$\\$; exec sleep 4711\" & wait' &); exec \"$@\"",
};

START_TEST(left_at_the_stop) {
        pid_t pid;

        start(OPTIONS(), leavers[_i], OPTIONS());
        daemon_wait_ready(&msd);
        pid = wait_pid(&msd.process, "left", 1);
        ck_assert(!is_gone(pid));
        process_signal(&msd.process, SIGTERM);
        (void)process_wait(&msd.process);
        /* Before msd was. */
        ck_assert(is_gone(pid));
        daemon_expect_exit(&msd, 0);
}
END_TEST

/* A second signal does not wait for what ignores the first, and leaves nothing either. */
START_TEST(left_at_once) {
        uint64_t began;
        pid_t pid, first;

        start(OPTIONS("--stop-timeout", "1h"), "(setsid sh -c 'trap \"\" TERM; echo left $$; exec sleep 4711' &); echo server $$; exec \"$@\"",
              OPTIONS("--ignore-term"));
        daemon_wait_ready(&msd);
        pid = wait_pid(&msd.process, "left", 1);
        first = wait_pid(&msd.process, "server", 1);
        process_signal(&msd.process, SIGTERM);
        process_wait_errors(&msd.process, "msd: Stopping");
        began = clock_now();
        process_signal(&msd.process, SIGTERM);
        ck_assert_int_eq(process_wait(&msd.process), 1);
        ck_assert(is_gone(pid) && is_gone(first));
        ck_assert_uint_lt(clock_now() - began, CLOCK_PATIENCE);
        daemon_expect_exit(&msd, 1);
}
END_TEST

START_TEST(left_after_a_failed_load) {
        pid_t pid;

        start(OPTIONS("--load-attempts", "1", "--on-load-failure", "stay"), leavers[_i], OPTIONS("--load", "500ms", "--exit", "3"));
        pid = wait_pid(&msd.process, "left", 1);
        ask(&msd.control, "1");
        peer_expect_error(&msd.control, "1", "load-failed", NULL);
        wait_gone(pid);
        daemon_stop(&msd);
}
END_TEST

/* The next model is not started beside what the one before has left. */
START_TEST(left_before_the_next) {
        uint64_t began;
        pid_t pid, first;

        start(OPTIONS("--stop-timeout", "1s"),
              "(setsid sh -c 'trap \"\" TERM; echo left $$; while kill -0 $$; do sleep 0.1; done' &); echo server $$; exec \"$@\"",
              OPTIONS());
        daemon_wait_ready(&msd);
        pid = wait_pid(&msd.process, "left", 1);
        first = wait_pid(&msd.process, "server", 1);
        began = clock_now();
        ck_assert_int_eq(kill(first, SIGKILL), 0);
        ask(&msd.control, "1");
        (void)wait_pid(&msd.process, "server", 2);
        ck_assert(is_gone(pid));
        ck_assert_uint_ge(clock_now() - began, NSEC_PER_SEC);
        peer_expect(&msd.control, "1", "echo hi");
        daemon_stop(&msd);
}
END_TEST

static bool is_loading_again(const struct peer_status *status, uint64_t generation) {
        return status->generation == generation && strcmp(status->status, "loading") == 0;
}

/* The model is lost when the process that msd started has ended, though its server lives on; and that one is stopped. */
START_TEST(first_process_ends) {
        struct peer_status status;
        pid_t shell, first;

        start(OPTIONS("--stop-timeout", "2s"), "echo shell $$; \"$@\" & echo server $!; wait", OPTIONS("--ignore-term"));
        daemon_wait_ready(&msd);
        shell = wait_pid(&msd.process, "shell", 1);
        first = wait_pid(&msd.process, "server", 1);
        ck_assert_int_eq(kill(shell, SIGKILL), 0);
        peer_status_until(&msd.control, &status, is_loading_again, 2, "the next generation is loading");
        ck_assert(!is_gone(first));
        ask(&msd.control, "1");
        ck_assert_int_ne(wait_pid(&msd.process, "server", 2), first);
        ck_assert(is_gone(first));
        peer_expect(&msd.control, "1", "echo hi");
        daemon_stop(&msd);
}
END_TEST

/* What an msd that was killed has left is stopped by the next one: a process in a session of its own too. */
START_TEST(left_by_a_killed_msd) {
        const char *all[40] = { "--socket", msd.socket, "--upstream", url, "--", served_program(), "--socket", upstream_socket };
        struct daemon next;
        pid_t pid;

        start(OPTIONS(), "(setsid sh -c 'trap \"sleep 0.5; exit\" TERM; echo left $$; while kill -0 $$; do sleep 0.1; done' &); "
                         "exec \"$@\"", OPTIONS());
        daemon_wait_ready(&msd);
        pid = wait_pid(&msd.process, "left", 1);
        process_signal(&msd.process, SIGKILL);
        (void)process_wait(&msd.process);
        ck_assert(!is_gone(pid));
        peer_close(&msd.control);
        process_free(&msd.process);

        snprintf(next.directory, sizeof(next.directory), "%s", msd.directory);
        daemon_start_at(&next, suite_msd(), msd.socket, NULL, all);
        /* The next model is not started beside it. */
        process_wait_output(&next.process, "upstream: loading\n");
        ck_assert(has_ended(pid));
        ask(&next.control, "1");
        peer_expect(&next.control, "1", "echo hi");
        daemon_stop(&next);
}
END_TEST

/* Whether a program of util-linux can do what a test needs. */
static bool can(const char *const *argv) {
        struct process process = PROCESS_NULL;
        int status;

        process_start(&process, "/usr/bin/env", argv, NULL);
        status = process_wait(&process);
        process_free(&process);
        return status == 0;
}

/* Two msd that listen at one path, each in a mount namespace of its own, do not touch each other's models. */
START_TEST(one_path_twice) {
        struct process processes[2] = { PROCESS_NULL, PROCESS_NULL };
        char path[SUITE_PATH_MAX + 16];
        pid_t pids[2];

        if (!can(OPTIONS("env", "unshare", "--mount", "mount", "-t", "tmpfs", "none", directory))) {
                suite_skip("one_path_twice", "no mount namespace can be made here");
                return;
        }
        snprintf(path, sizeof(path), "%s/msd.sock", directory);
        for (unsigned i = 0; i < 2; i++) {
                process_start(&processes[i], "/usr/bin/env",
                              OPTIONS("env", "unshare", "--mount", "sh", "-c", "mount -t tmpfs none \"$0\" && exec \"$@\"", directory,
                                      suite_msd(), "--socket", path, "--upstream", url, "--", "sh", "-c", "echo server $$; exec \"$@\"",
                                      "sh", served_program(), "--socket", upstream_socket),
                              NULL);
                process_wait_output(&processes[i], "Model ready!\n");
                pids[i] = wait_pid(&processes[i], "server", 1);
        }
        for (unsigned i = 0; i < 2; i++) {
                ck_assert(!is_gone(pids[i]));
                ck_assert_ptr_null(strstr(processes[i].errors.data ? processes[i].errors.data : "", "lost"));
        }
        /* One that is killed leaves the other alone too. */
        process_signal(&processes[0], SIGKILL);
        (void)process_wait(&processes[0]);
        wait_gone(pids[0]);
        ck_assert(!is_gone(pids[1]));
        process_signal(&processes[1], SIGTERM);
        ck_assert_int_eq(process_wait(&processes[1]), 0);
        process_free(&processes[0]);
        process_free(&processes[1]);
}
END_TEST

/* The model gets the limit that msd was started with, though msd raises its own. */
START_TEST(descriptors) {
        struct process process = PROCESS_NULL;
        char path[SUITE_PATH_MAX + 16];

        snprintf(path, sizeof(path), "%s/msd.sock", directory);
        process_start(&process, "/usr/bin/env",
                      OPTIONS("env", "sh", "-c", "ulimit -Sn 300 && ulimit -Hn 400 && exec \"$@\"", "sh", suite_msd(), "--socket", path,
                              "--upstream", url, "--", "sh", "-c", "echo limits $(ulimit -Sn) $(ulimit -Hn); exec \"$@\"", "sh",
                              served_program(), "--socket", upstream_socket),
                      NULL);
        process_wait_output(&process, "Model ready!\n");
        ck_assert_ptr_nonnull(strstr(process.output.data, "limits 300 400\n"));
        process_signal(&process, SIGTERM);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
}
END_TEST

/* How many children a process has, and how many of them have ended. */
static unsigned count_children(pid_t parent, unsigned *ended) {
        char path[64], text[8192] = "", *saved;
        unsigned n = 0;
        FILE *file;
        size_t len;

        *ended = 0;
        snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent, (int)parent);
        file = fopen(path, "re");
        ck_assert_ptr_nonnull(file);
        len = fread(text, 1, sizeof(text) - 1, file);
        text[len] = '\0';
        fclose(file);
        for (char *p = strtok_r(text, " ", &saved); p; p = strtok_r(NULL, " ", &saved)) {
                char state = 0, stat[64];

                n++;
                snprintf(stat, sizeof(stat), "/proc/%d/stat", atoi(p));
                file = fopen(stat, "re");
                if (!file)
                        continue;
                *ended += fscanf(file, "%*d (%*[^)]) %c", &state) == 1 && state == 'Z';
                fclose(file);
        }
        return n;
}

/* Waits until a process has one child, and no zombie. */
static void wait_one_child(pid_t parent) {
        uint64_t deadline = clock_patience();
        unsigned n, ended;

        while ((n = count_children(parent, &ended)) != 1 || ended > 0) {
                if (clock_now() >= deadline)
                        process_give_up("%u children, %u of which are zombies", n, ended);
                (void)process_poll(NULL, 0, clock_now() + 10 * NSEC_PER_MSEC);
        }
}

/* Orphans are reaped, and the end of the model is heard all the same. */
START_TEST(orphans) {
        struct peer_status status;

        start(OPTIONS(), "for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.$i &); done; echo server $$; exec \"$@\"", OPTIONS());
        daemon_wait_ready(&msd);
        wait_one_child(msd.process.pid);
        ck_assert_int_eq(kill(wait_pid(&msd.process, "server", 1), SIGKILL), 0);
        ask(&msd.control, "1");
        peer_expect(&msd.control, "1", "echo hi");
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.generation, 2);
        daemon_stop(&msd);
}
END_TEST

/* As process 1 of a container: also those of somebody else, who enters it. They are reaped, and not taken for the model's. */
START_TEST(process_1) {
        struct process process = PROCESS_NULL, entered = PROCESS_NULL;
        char path[SUITE_PATH_MAX + 16], target[64];
        unsigned ended, n;
        pid_t pid = 0;
        FILE *file;

        if (!can(OPTIONS("env", "unshare", "--pid", "--fork", "--mount-proc", "true"))) {
                suite_skip("process_1", "no PID namespace can be made here");
                return;
        }
        snprintf(path, sizeof(path), "%s/msd.sock", directory);
        process_start(&process, "/usr/bin/env",
                      OPTIONS("env", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", suite_msd(), "--socket", path, "--upstream",
                              url, "--", "sh", "-c",
                              "for i in 1 2 3 4 5; do (sleep 0.$i &); done; (setsid sleep 4711 &); exec \"$@\"", "sh", served_program(), "--socket",
                              upstream_socket),
                      NULL);
        process_wait_output(&process, "Model ready!\n");
        snprintf(target, sizeof(target), "/proc/%d/task/%d/children", (int)process.pid, (int)process.pid);
        file = fopen(target, "re");
        ck_assert_ptr_nonnull(file);
        ck_assert_int_eq(fscanf(file, "%d", &pid), 1);
        fclose(file);

        /* An orphan that ends, and one that stays. */
        snprintf(target, sizeof(target), "%d", (int)pid);
        process_start(&entered, "/usr/bin/env",
                      OPTIONS("env", "nsenter", "--target", target, "--pid", "sh", "-c",
                              "(sleep 0.2 >/dev/null 2>&1 &); (sleep 4711 >/dev/null 2>&1 &)"),
                      NULL);
        ck_assert_int_eq(process_wait(&entered), 0);
        process_free(&entered);
        for (uint64_t deadline = clock_patience(); (n = count_children(pid, &ended)) != 3 || ended > 0;) {
                if (clock_now() >= deadline)
                        process_give_up("%u children, %u of which are zombies", n, ended);
                (void)process_poll(NULL, 0, clock_now() + 10 * NSEC_PER_MSEC);
        }
        ck_assert_int_eq(kill(pid, SIGTERM), 0);
        ck_assert_int_eq(process_wait(&process), 0);
        ck_assert_ptr_null(strstr(process.errors.data ? process.errors.data : "", "SIGKILL"));
        process_free(&process);
}
END_TEST

#define NOBODY 65534

/* A process that msd may not signal is one that it cannot end: it is named, holds the next load, and not the stop. */
START_TEST(held) {
        const struct process_setup nobody = { .uid = NOBODY };
        struct process tried = PROCESS_NULL;
        char program[SUITE_PATH_MAX + 16], path[SUITE_PATH_MAX + 16], script[512], expected[256];
        const char *all[40] = { "--upstream", url, "--stop-timeout", "200ms" };
        struct peer_status status;
        pid_t left, first;

        snprintf(program, sizeof(program), "%s/setpriv", directory);
        if (geteuid() != 0 || access("/usr/bin/setpriv", X_OK) < 0) {
                suite_skip("held", "it takes root, and setpriv of util-linux");
                return;
        }
        suite_copy_program("/usr/bin/setpriv", program);
        ck_assert_int_eq(chmod(program, 04755), 0);
        ck_assert_int_eq(chmod(directory, 0777), 0);
        process_start(&tried, program, OPTIONS("setpriv", "--reuid", "0", "id", "-u"), &nobody);
        (void)process_wait(&tried);
        if (!tried.output.data || strcmp(tried.output.data, "0\n") != 0) {
                process_free(&tried);
                suite_skip("held", "no program gets another user's rights here");
                return;
        }
        process_free(&tried);

        snprintf(script, sizeof(script),
                 "(setsid %s --reuid 0 sh -c 'echo left $$; exec sleep 4711' &); echo server $$; exec \"$@\"", program);
        suite_directory(msd.directory);
        ck_assert_int_eq(chmod(msd.directory, 0777), 0);
        snprintf(path, sizeof(path), "%s/msd.sock", msd.directory);
        append(all, OPTIONS("--socket", path, "--", "sh", "-c", script, "sh", served_program(), "--socket", upstream_socket));
        daemon_start_at(&msd, suite_msd(), path, &nobody, all);
        daemon_wait_ready(&msd);
        left = wait_pid(&msd.process, "left", 1);
        first = wait_pid(&msd.process, "server", 1);
        ck_assert_int_eq(kill(first, SIGKILL), 0);
        ask(&msd.control, "1");
        snprintf(expected, sizeof(expected), "Loading waits for processes of the model before, which do not end, not even of SIGKILL: "
                 "sleep (pid %d, state S: Operation not permitted)\n", (int)left);
        process_wait_errors(&msd.process, expected);
        peer_status(&msd.control, &status);
        ck_assert_str_eq(status.status, "loading");
        ck_assert_uint_eq(status.waiting, 1);
        ck_assert_ptr_eq(strstr(strstr(msd.process.output.data, "server ") + 1, "server "), NULL);
        ck_assert_int_eq(kill(left, SIGKILL), 0);
        peer_expect(&msd.control, "1", "echo hi");

        left = wait_pid(&msd.process, "left", 2);
        process_signal(&msd.process, SIGTERM);
        ck_assert_int_eq(process_wait(&msd.process), 1);
        ck_assert_ptr_nonnull(strstr(msd.process.errors.data, "Not waiting for processes of the model"));
        ck_assert_int_eq(kill(left, SIGKILL), 0);
        daemon_expect_exit(&msd, 1);
}
END_TEST

/* Of a log that ends in a long traceback: the message has the cause, the status some lines, and the log has all. */
START_TEST(cause) {
        static const char script[] =
                "echo 'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.25 GiB.'; for i in 1 2 3 4 5 6 7; do "
                "echo \"  File \\\"/usr/lib/python3/$i.py\\\", line $i, in call\"; echo '    return self.call()'; echo gave up $i; done >&2; "
                "printf 'loading 1%%\\rloading 99%%\\n'; "
                "echo 'RuntimeError: Engine core initialization failed. See root cause above.' >&2; exit 1";
        static const char line[] = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.25 GiB.";
        struct process client = PROCESS_NULL;
        char message[256];

        start(OPTIONS("--load-attempts", "1", "--on-load-failure", "stay"), script, OPTIONS());
        ask(&msd.control, "1");
        snprintf(message, sizeof(message), "sh: It exited with status 1: %s", line);
        peer_expect_error(&msd.control, "1", "load-failed", message);
        process_start(&client, suite_mscli(), OPTIONS("mscli", "--socket", msd.socket, "status"), NULL);
        ck_assert_int_eq(process_wait(&client), 0);
        ck_assert_ptr_nonnull(strstr(client.output.data, message));
        ck_assert_ptr_nonnull(strstr(client.output.data, "Output:    torch.OutOfMemoryError: CUDA out of memory."));
        ck_assert_ptr_nonnull(strstr(client.output.data, "\n           RuntimeError: Engine core initialization failed."));
        ck_assert_ptr_null(strstr(client.output.data, "gave up 1\n"));
        ck_assert_ptr_null(strstr(client.output.data, "loading 1%"));
        process_free(&client);
        process_wait_errors(&msd.process, "gave up 1\n");
        process_wait_output(&msd.process, line);
        daemon_stop(&msd);
}
END_TEST

static void add(TCase *tests) {
        const int n = (int)ARRAY_SIZE(leavers);

        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, behind_a_shell);
        tcase_add_test(tests, socket_file_removed);
        tcase_add_test(tests, socket_file_removed_when_idle);
        tcase_add_test(tests, socket_file_of_others);
        tcase_add_loop_test(tests, left_at_the_stop, 0, n);
        tcase_add_loop_test(tests, left_after_a_failed_load, 0, n);
        tcase_add_test(tests, left_at_once);
        tcase_add_test(tests, left_before_the_next);
        tcase_add_test(tests, first_process_ends);
        tcase_add_test(tests, left_by_a_killed_msd);
        tcase_add_test(tests, one_path_twice);
        tcase_add_test(tests, descriptors);
        tcase_add_test(tests, orphans);
        tcase_add_test(tests, process_1);
        tcase_add_test(tests, held);
        tcase_add_test(tests, cause);
}

int main(void) {
        return suite_main("tree", add);
}
