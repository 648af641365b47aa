/*
 * What msd tells a service manager, over a notification socket of the test's own: sd_notify(3).
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/manager.h"

/* READY comes after the load, and not before. */
START_TEST(ready) {
        struct peer_status status;
        struct manager manager;
        struct daemon daemon;
        uint64_t start;

        manager_init(&manager);
        start = clock_now();
        daemon_start_with(&daemon, &manager.setup, (const char *[]){ "--load-time", "1s", NULL });
        peer_status(&daemon.control, &status);
        ck_assert_str_eq(status.status, "loading");
        ck_assert(!manager_has(&manager, "READY=1"));

        manager_wait(&manager, "READY=1");
        ck_assert_uint_ge(clock_now() - start, NSEC_PER_SEC);
        peer_status(&daemon.control, &status);
        ck_assert_str_eq(status.status, "ready");
        ck_assert_uint_eq(manager_count(&manager, "STATUS=Ready: sim was loaded in 1"), 1);
        ck_assert(!manager_has(&manager, "STOPPING=1"));

        process_signal(&daemon.process, SIGTERM);
        manager_wait(&manager, "STOPPING=1");
        daemon_expect_exit(&daemon, 0);
        manager_deinit(&manager);
}
END_TEST

/* It says what it does while it loads: a status comes at once. */
START_TEST(status_while_loading) {
        struct manager manager;
        struct daemon daemon;

        manager_init(&manager);
        daemon_start_with(&daemon, &manager.setup, (const char *[]){ "--load-time", "1h", NULL });
        manager_wait_begin(&manager, "STATUS=Loading sim since ");
        ck_assert(!manager_has(&manager, "READY=1"));

        /* A load that is given up was never ready. */
        process_signal(&daemon.process, SIGTERM);
        daemon_expect_exit(&daemon, 0);
        manager_wait(&manager, "STOPPING=1");
        ck_assert(!manager_has(&manager, "READY=1"));
        manager_deinit(&manager);
}
END_TEST

/* STOPPING is said first, not when it is over. */
START_TEST(stopping_comes_first) {
        struct peer_status status;
        struct manager manager;
        struct daemon daemon;

        manager_init(&manager);
        daemon_start_with(&daemon, &manager.setup,
                          (const char *[]){ "--load-time", "0", "--inference-time", "2s", NULL });
        manager_wait(&manager, "READY=1");
        peer_send(&daemon.control, "REQUEST 7\n");
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.processing, 1);
        process_signal(&daemon.process, SIGTERM);
        manager_wait(&manager, "STOPPING=1");
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.processing, 1);
        peer_status_until(&daemon.control, &status, peer_status_is_stopping, 0, "msd is stopping");
        peer_expect(&daemon.control, "7", "Response 7 from sim");
        daemon_expect_exit(&daemon, 0);
        manager_deinit(&manager);
}
END_TEST

/* A model that could not be loaded is not ready; why goes into the status. */
START_TEST(load_failure) {
        struct manager manager;
        struct daemon daemon;

        manager_init(&manager);
        daemon_start_with(&daemon, &manager.setup,
                          (const char *[]){ "--load-time", "300ms", "--load-failure", "no such weights",
                                            NULL });
        daemon_expect_exit(&daemon, 1);
        manager_wait(&manager, "STATUS=Loading failed: no such weights");
        manager_wait(&manager, "ERRNO=5");
        ck_assert(!manager_has(&manager, "READY=1"));
        manager_deinit(&manager);
}
END_TEST

START_TEST(load_failure_that_stays) {
        struct peer_status status;
        struct manager manager;
        struct daemon daemon;

        manager_init(&manager);
        daemon_start_with(&daemon, &manager.setup,
                          (const char *[]){ "--load-time", "300ms", "--load-failure", "no such weights",
                                            "--on-load-failure", "stay", NULL });
        peer_status_until(&daemon.control, &status, peer_status_is_failed, 0, "loading has failed");
        process_signal(&daemon.process, SIGTERM);
        daemon_expect_exit(&daemon, 0);
        manager_wait(&manager, "STATUS=Loading failed: no such weights");
        manager_wait(&manager, "STOPPING=1");
        ck_assert(!manager_has(&manager, "READY=1"));
        manager_deinit(&manager);
}
END_TEST

/* Nobody listens, there is nothing there, or it is nonsense: msd does its work. */
START_TEST(harmless) {
        static const char *const variables[] = {
                "NOTIFY_SOCKET",
                "NOTIFY_SOCKET=",
                "NOTIFY_SOCKET=/nowhere/notify",
                "NOTIFY_SOCKET=/dev/null",
                "NOTIFY_SOCKET=nonsense",
                "NOTIFY_SOCKET=@nobody/is/here",
        };
        const char *const environment[] = { variables[_i], NULL };
        const struct process_setup setup = { .environment = environment };
        struct daemon daemon;

        daemon_start_with(&daemon, &setup,
                          (const char *[]){ "--load-time", "100ms", "--inference-time", "0", NULL });
        peer_send(&daemon.control, "REQUEST 7\n");
        peer_expect(&daemon.control, "7", "Response 7 from sim");
        daemon_stop(&daemon);
}
END_TEST

/* Nobody has to guess how long a load or a stop takes: the manager is told, again and again where that is due. */
START_TEST(timeouts) {
        struct manager manager;
        struct daemon daemon;

        manager_init(&manager);
        daemon_start_with(&daemon, &manager.setup,
                          (const char *[]){ "--load-time", "1s", "--stall-timeout", "200ms", "--drain-timeout", "7s", NULL });
        manager_wait(&manager, "READY=1");
        /* The simulated model always comes further. Ten seconds are the margin. */
        ck_assert_uint_ge(manager_count(&manager, "EXTEND_TIMEOUT_USEC=10200000"), 4);
        ck_assert_uint_le(manager_count(&manager, "EXTEND_TIMEOUT_USEC="), 6);
        process_signal(&daemon.process, SIGTERM);
        manager_wait(&manager, "EXTEND_TIMEOUT_USEC=17000000");
        daemon_expect_exit(&daemon, 0);
        manager_deinit(&manager);

        manager_init(&manager);
        daemon_start_with(&daemon, &manager.setup,
                          (const char *[]){ "--load-time", "1h", "--load-timeout", "300ms", NULL });
        manager_wait(&manager, "ERRNO=110");
        manager_wait(&manager, "EXTEND_TIMEOUT_USEC=10300000");
        manager_wait(&manager, "STATUS=Loading failed: The model was not loaded within 300ms");
        daemon_expect_exit(&daemon, 1);
        manager_deinit(&manager);
}
END_TEST

/* The status line follows, and not more often than a few times a second. */
START_TEST(status_follows) {
        struct peer_status status;
        struct manager manager;
        struct daemon daemon;
        struct peer peer;
        uint64_t start = clock_now();
        unsigned most;

        manager_init(&manager);
        daemon_start_with(&daemon, &manager.setup,
                          (const char *[]){ "--load-time", "3s", "--inference-time", "2s", NULL });
        peer_connect(&peer, daemon.socket);
        for (unsigned i = 0; i < 1000; i++) {
                peer_send_requests(&peer, i, 1);
                if (i % 10 == 0)
                        peer_status(&daemon.control, &status);
        }
        for (uint64_t deadline = clock_patience();;) {
                char *line = manager_last(&manager, "STATUS=Loading sim");
                bool followed = line && strstr(line, ", 1000 waiting");

                free(line);
                if (followed)
                        break;
                ck_assert_msg(clock_now() < deadline, "It does not follow");
                peer_status(&daemon.control, &status);
        }
        most = (unsigned)((clock_now() - start) / (500 * NSEC_PER_MSEC)) + 2;
        ck_assert_uint_le(manager_count(&manager, "STATUS="), most);

        peer_status_until(&daemon.control, &status, peer_status_is_processing, 1000, "all are in flight");
        process_signal(&daemon.process, SIGTERM);
        manager_wait(&manager, "STATUS=Stopping, 1000 in flight");
        peer_expect_answers(&peer, 0, 1000, "sim");
        peer_close(&peer);
        daemon_expect_exit(&daemon, 0);
        manager_deinit(&manager);
}
END_TEST

/* Stops one thread of the daemon that is not the main one, a worker, for good. Returns it, or 0: that is not permitted. */
static pid_t hang_worker(const struct process *process) {
        char path[64];
        struct dirent *entry;
        DIR *directory;
        pid_t worker = 0;

        snprintf(path, sizeof(path), "/proc/%d/task", (int)process->pid);
        directory = opendir(path);
        ck_assert_ptr_nonnull(directory);
        /* The last of them: those that were started before are the main thread's, a sanitizer's, and that of the output. */
        while ((entry = readdir(directory)))
                worker = MAX(worker, (pid_t)atoi(entry->d_name));
        closedir(directory);
        ck_assert_int_ne(worker, process->pid);
        if (ptrace(PTRACE_SEIZE, worker, NULL, NULL) < 0 && errno == EPERM)
                return 0;
        ck_assert_int_eq(ptrace(PTRACE_INTERRUPT, worker, NULL, NULL), 0);
        ck_assert_int_eq(waitpid(worker, NULL, __WALL), worker);
        return worker;
}

/* WATCHDOG=1 comes while all threads turn, and no more when one worker hangs: the timer alone does not send it. */
START_TEST(watchdog) {
        struct manager manager;
        struct daemon daemon;
        uint64_t until;
        unsigned count;
        pid_t worker;

        manager_init(&manager);
        manager.environment[1] = "WATCHDOG_USEC=100000";
        daemon_start_with(&daemon, &manager.setup, (const char *[]){ "--load-time", "0", "--threads", "2", NULL });
        while (manager_count(&manager, "WATCHDOG=1") < 5)
                manager_wait_more(&manager);

        worker = hang_worker(&daemon.process);
        if (worker == 0) {
                suite_skip("watchdog, with a worker that hangs", "ptrace is not permitted");
                daemon_stop(&daemon);
                manager_deinit(&manager);
                return;
        }
        /* One may be on its way. Without the worker there is none, for the time of ten. */
        count = manager_count(&manager, "WATCHDOG=1");
        until = clock_now() + 500 * NSEC_PER_MSEC;
        while (clock_now() < until)
                (void)process_poll(NULL, 0, until);
        ck_assert_uint_le(manager_count(&manager, "WATCHDOG=1"), count + 1);

        process_signal(&daemon.process, SIGKILL);
        /* Who traces it has to see its end before anybody else does, ptrace(2). */
        ck_assert_int_eq(waitpid(worker, NULL, __WALL), worker);
        ck_assert_int_eq(process_wait(&daemon.process), 128 + SIGKILL);
        peer_close(&daemon.control);
        process_free(&daemon.process);
        suite_remove(daemon.directory);
        manager_deinit(&manager);
}
END_TEST

/* Connected before there is a daemon, and served by it; its end leaves the socket where it is. */
START_TEST(passed_socket) {
        struct process process = PROCESS_NULL;
        struct manager manager;
        struct peer peer;

        manager_init(&manager);
        peer_connect(&peer, manager.socket);
        peer_send(&peer, "REQUEST 7\n");
        manager_start(&manager, &process, (const char *[]){ "--load-time", "100ms", NULL });
        peer_expect(&peer, "7", "Response 7 from sim");
        process_signal(&process, SIGTERM);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        peer_close(&peer);
        peer_connect(&peer, manager.socket);
        peer_close(&peer);
        manager_deinit(&manager);
}
END_TEST

/* What is passed and is no listening socket is no reason to guess. */
START_TEST(passed_nonsense) {
        struct process process = PROCESS_NULL;
        struct manager manager;

        manager_init(&manager);
        close(manager.listen_fd);
        manager.listen_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        manager_start(&manager, &process, (const char *[]){ NULL });
        ck_assert_int_eq(process_wait(&process), 2);
        ck_assert_ptr_nonnull(strstr(text_get(&process.errors), "no Unix stream socket that listens has the name msd"));
        process_free(&process);
        manager_deinit(&manager);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_test(tests, ready);
        tcase_add_test(tests, status_while_loading);
        tcase_add_test(tests, stopping_comes_first);
        tcase_add_test(tests, load_failure);
        tcase_add_test(tests, load_failure_that_stays);
        tcase_add_test(tests, timeouts);
        tcase_add_test(tests, status_follows);
        tcase_add_test(tests, watchdog);
        tcase_add_test(tests, passed_socket);
        tcase_add_test(tests, passed_nonsense);
        tcase_add_loop_test(tests, harmless, 0, 6);
}

int main(void) {
        return suite_main("notify", add);
}
