/*
 * What msd tells a service manager, over a notification socket of the test's own: sd_notify(3).
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"

struct manager {
        char directory[SUITE_PATH_MAX];
        char variable[SUITE_PATH_MAX + 32];     /* NOTIFY_SOCKET=... */
        const char *environment[2];
        struct process_setup setup;
        int fd;
        struct text lines;                      /* all that came, a line each, in order */
};

static void manager_init(struct manager *manager) {
        struct sockaddr_un address;
        char path[SUITE_PATH_MAX + 16];
        socklen_t len;

        *manager = (struct manager){ .fd = -1 };
        suite_directory(manager->directory);
        snprintf(path, sizeof(path), "%s/notify", manager->directory);
        ck_assert_int_eq(address_from_path(path, &address, &len), 0);
        manager->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        ck_assert_int_ge(manager->fd, 0);
        ck_assert_int_eq(bind(manager->fd, (const struct sockaddr *)&address, len), 0);
        snprintf(manager->variable, sizeof(manager->variable), "NOTIFY_SOCKET=%s", path);
        manager->environment[0] = manager->variable;
        manager->setup.environment = manager->environment;
}

static void manager_deinit(struct manager *manager) {
        manager->fd = util_close(manager->fd);
        text_deinit(&manager->lines);
        suite_remove(manager->directory);
}

/* Takes up what came by now. */
static void manager_read(struct manager *manager) {
        char message[4096];
        ssize_t n;

        while ((n = recv(manager->fd, message, sizeof(message), 0)) >= 0) {
                if (n == 0)
                        continue;
                text_append(&manager->lines, message, (size_t)n);
                if (message[n - 1] != '\n')
                        text_append(&manager->lines, "\n", 1);
        }
        ck_assert_int_eq(errno, EAGAIN);
}

static void manager_wait(struct manager *manager, const char *line) {
        uint64_t deadline = clock_patience();

        for (;;) {
                struct pollfd event = { manager->fd, POLLIN, 0 };

                manager_read(manager);
                if (text_has_line(&manager->lines, line))
                        return;
                if (clock_now() >= deadline)
                        process_give_up("Waited in vain for %s; there was: %s", line,
                                        text_get(&manager->lines));
                (void)process_poll(&event, 1, deadline);
        }
}

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
        manager_read(&manager);
        ck_assert(!text_has_line(&manager.lines, "READY=1"));

        manager_wait(&manager, "READY=1");
        ck_assert_uint_ge(clock_now() - start, NSEC_PER_SEC);
        peer_status(&daemon.control, &status);
        ck_assert_str_eq(status.status, "ready");
        ck_assert_ptr_nonnull(strstr(manager.lines.data, "STATUS="));
        ck_assert(!text_has_line(&manager.lines, "STOPPING=1"));

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
        uint64_t deadline;

        manager_init(&manager);
        daemon_start_with(&daemon, &manager.setup, (const char *[]){ "--load-time", "1h", NULL });
        deadline = clock_patience();
        do {
                struct pollfd event = { manager.fd, POLLIN, 0 };

                ck_assert_msg(clock_now() < deadline, "There is no STATUS=");
                (void)process_poll(&event, 1, deadline);
                manager_read(&manager);
        } while (!strstr(text_get(&manager.lines), "STATUS="));
        ck_assert(!text_has_line(&manager.lines, "READY=1"));

        /* A load that is given up was never ready. */
        process_signal(&daemon.process, SIGTERM);
        daemon_expect_exit(&daemon, 0);
        manager_read(&manager);
        ck_assert(text_has_line(&manager.lines, "STOPPING=1"));
        ck_assert(!text_has_line(&manager.lines, "READY=1"));
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
        manager_read(&manager);
        ck_assert(!text_has_line(&manager.lines, "READY=1"));
        ck_assert_ptr_nonnull(strstr(manager.lines.data, "no such weights"));
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
        manager_read(&manager);
        ck_assert(!text_has_line(&manager.lines, "READY=1"));
        ck_assert(text_has_line(&manager.lines, "STOPPING=1"));
        ck_assert_ptr_nonnull(strstr(manager.lines.data, "no such weights"));
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

static void add(TCase *tests) {
        tcase_add_test(tests, ready);
        tcase_add_test(tests, status_while_loading);
        tcase_add_test(tests, stopping_comes_first);
        tcase_add_test(tests, load_failure);
        tcase_add_test(tests, load_failure_that_stays);
        tcase_add_loop_test(tests, harmless, 0, 6);
}

int main(void) {
        return suite_main("notify", add);
}
