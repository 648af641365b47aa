/*
 * A service manager that does not read what msd tells it: busy, or stopped. msd loads, answers and stops all the same, and what
 * the manager has to hear it hears when it reads again.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"

static char directory[SUITE_PATH_MAX], variable[SUITE_PATH_MAX + 32];
static const char *environment[] = { variable, NULL };
static const struct process_setup heard = { .environment = environment };
static int manager, filler;
static struct daemon msd;

/* The manager's socket, which others have filled. */
static void setup(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        suite_directory(directory);
        snprintf(address.sun_path, sizeof(address.sun_path), "%s/notify", directory);
        snprintf(variable, sizeof(variable), "NOTIFY_SOCKET=%s/notify", directory);
        manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        filler = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        ck_assert_int_eq(bind(manager, (const struct sockaddr *)&address, sizeof(address)), 0);
        ck_assert_int_eq(connect(filler, (const struct sockaddr *)&address, sizeof(address)), 0);
        while (send(filler, "X=", 2, 0) == 2)
                ;
        ck_assert_int_eq(errno, EAGAIN);
}

static void teardown(void) {
        close(manager);
        close(filler);
        suite_remove(directory);
}

/* The next message but those that filled the socket. Returns how many descriptors came with it. */
static size_t hear(char text[static 2048]) {
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * 8)];
        } control;
        uint64_t deadline = clock_patience();

        for (;;) {
                struct iovec iov = { text, 2047 };
                struct msghdr message = {
                        .msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control),
                };
                ssize_t n = recvmsg(manager, &message, MSG_CMSG_CLOEXEC);
                struct cmsghdr *first = CMSG_FIRSTHDR(&message);
                int fds[8];
                size_t count;

                if (n < 0) {
                        ck_assert_int_eq(errno, EAGAIN);
                        if (clock_now() >= deadline)
                                process_give_up("The manager hears nothing");
                        (void)process_poll(&(struct pollfd){ .fd = manager, .events = POLLIN }, 1, deadline);
                        continue;
                }
                text[n] = '\0';
                if (strcmp(text, "X=") == 0)
                        continue;
                count = first ? (first->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
                if (count > 0)
                        memcpy(fds, CMSG_DATA(first), count * sizeof(int));
                for (size_t i = 0; i < count; i++)
                        close(fds[i]);
                return count;
        }
}

START_TEST(ready) {
        char text[2048];

        daemon_start_with(&msd, &heard, (const char *[]){ "--load-time", "100ms", "--inference-time", "0", NULL });
        peer_send(&msd.control, "REQUEST 7\n");
        peer_expect(&msd.control, "7", "Response 7 from sim");
        /* The status of the load is outdated, or comes before. */
        do
                (void)hear(text);
        while (strncmp(text, "READY=1\n", 8) != 0);
        ck_assert_msg(strstr(text, "STATUS=Ready: sim was loaded in "), "%s", text);
        process_signal(&msd.process, SIGTERM);
        do
                (void)hear(text);
        while (strncmp(text, "STOPPING=1\n", 11) != 0);
        daemon_expect_exit(&msd, 0);
}
END_TEST

/* It never reads: the end is held up for a moment, and not for ever. */
START_TEST(stop) {
        daemon_start_with(&msd, &heard, (const char *[]){ "--load-time", "0", "--inference-time", "1h", NULL });
        peer_send(&msd.control, "REQUEST 7\n");
        process_wait_output(&msd.process, "Processing request 7\n");
        process_signal(&msd.process, SIGTERM);
        process_wait_errors(&msd.process, "Stopping");
        process_signal(&msd.process, SIGTERM);
        daemon_expect_exit(&msd, 1);
}
END_TEST

START_TEST(wrong_usage) {
        struct process process;

        process_start(&process, suite_msd(), (const char *[]){ "msd", "--nonsense", NULL }, &heard);
        ck_assert_int_eq(process_wait(&process), 2);
        process_free(&process);
}
END_TEST

/* What waits is kept when the manager reads again. */
START_TEST(kept) {
        char text[2048];
        size_t n;

        daemon_start_with(&msd, &heard, (const char *[]){ "--load-time", "1h", NULL });
        peer_send(&msd.control, "REQUEST 7\n");
        do
                n = hear(text);
        while (strncmp(text, "FDSTORE=1\n", 10) != 0);
        ck_assert_uint_eq(n, 3);
        daemon_stop(&msd);
}
END_TEST

/* It would keep what waits and does not hear of it: a client is told that msd stops, rather than that it hears nothing more. */
START_TEST(not_kept) {
        struct peer_status status;

        daemon_start_with(&msd, &heard, (const char *[]){ "--load-time", "1h", NULL });
        peer_send(&msd.control, "REQUEST 7\n");
        peer_status_until(&msd.control, &status, peer_status_is_waiting, 1, "the request waits");
        process_signal(&msd.process, SIGUSR2);
        peer_expect_error(&msd.control, "7", "shutting-down", NULL);
        peer_expect_end(&msd.control);
        process_wait_errors(&msd.process, "the service manager has not taken them");
        daemon_expect_exit(&msd, 0);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, ready);
        tcase_add_test(tests, stop);
        tcase_add_test(tests, wrong_usage);
        tcase_add_test(tests, kept);
        tcase_add_test(tests, not_kept);
}

int main(void) {
        return suite_main("unheard", add);
}
