#include "tests/support/daemon.h"

#include <check.h>
#include <errno.h>
#include <libgen.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"

#define ARGUMENTS_MAX 32

/*
 * Every step to a socket that takes connections shows: the file comes into the directory, and what msd does
 * after listen() is said on its standard output.
 */
static void wait_listening(struct daemon *daemon, int inotify) {
        uint64_t deadline = clock_now() + 20 * NSEC_PER_SEC;

        for (;;) {
                struct pollfd event = { inotify, POLLIN, 0 };
                char drop[4096];
                int r;

                r = peer_try_connect(&daemon->control, daemon->socket);
                if (r == 0)
                        return;
                ck_assert_msg(r == -ENOENT || r == -ECONNREFUSED, "Connecting to %s: %s", daemon->socket,
                              strerror(-r));
                if (daemon->process.exited || clock_now() >= deadline)
                        process_give_up("msd does not listen at %s", daemon->socket);
                if (process_poll(&event, 1, deadline) > 0)
                        ck_assert_int_gt(read(inotify, drop, sizeof(drop)), 0);
        }
}

void daemon_start_at(struct daemon *daemon, const char *path, const char *socket,
                     const struct process_setup *setup, const char *const *arguments) {
        _cleanup_close_ int inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        const char *argv[ARGUMENTS_MAX] = { "msd" };
        char directory[sizeof(daemon->socket)];

        ck_assert_int_ge(inotify, 0);
        for (size_t i = 0; arguments[i]; i++) {
                ck_assert_uint_lt(i + 2, ARRAY_SIZE(argv));
                argv[i + 1] = arguments[i];
        }

        daemon->control = (struct peer)PEER_NULL;
        snprintf(daemon->socket, sizeof(daemon->socket), "%s", socket);
        snprintf(directory, sizeof(directory), "%s", socket);
        ck_assert_int_ge(inotify_add_watch(inotify, dirname(directory), IN_CREATE | IN_MOVED_TO | IN_ATTRIB),
                         0);

        process_start(&daemon->process, path, argv, setup);
        wait_listening(daemon, inotify);
}

void daemon_start_with(struct daemon *daemon, const struct process_setup *setup,
                       const char *const *arguments) {
        const char *all[ARGUMENTS_MAX] = { "--socket" };
        char socket[sizeof(daemon->socket)];

        suite_directory(daemon->directory);
        snprintf(socket, sizeof(socket), "%s/msd.sock", daemon->directory);
        all[1] = socket;
        for (size_t i = 0; arguments[i]; i++) {
                ck_assert_uint_lt(i + 3, ARRAY_SIZE(all));
                all[i + 2] = arguments[i];
        }
        daemon_start_at(daemon, suite_msd(), socket, setup, all);
}

void daemon_start(struct daemon *daemon, ...) {
        const char *arguments[ARGUMENTS_MAX] = { NULL };
        size_t n = 0;
        va_list ap;

        va_start(ap, daemon);
        while ((arguments[n] = va_arg(ap, const char *)))
                ck_assert_uint_lt(++n, ARRAY_SIZE(arguments));
        va_end(ap);
        daemon_start_with(daemon, NULL, arguments);
}

void daemon_wait_ready(struct daemon *daemon) {
        process_wait_output(&daemon->process, "Model ready!\n");
        if (daemon->control.fd < 0)
                return;
        peer_send(&daemon->control, "WAIT\n");
        peer_expect(&daemon->control, "-", PROTOCOL_READY);
}

void daemon_expect_exit(struct daemon *daemon, int status) {
        if (process_wait(&daemon->process) != status)
                process_give_up("msd ended with %d instead of %d", daemon->process.status, status);
        ck_assert_msg(access(daemon->socket, F_OK) < 0 && errno == ENOENT, "msd left its socket behind");

        peer_close(&daemon->control);
        process_free(&daemon->process);
        suite_remove(daemon->directory);
}

void daemon_stop(struct daemon *daemon) {
        process_signal(&daemon->process, SIGTERM);
        daemon_expect_exit(daemon, 0);
}
