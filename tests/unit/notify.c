/*
 * A manager that reads, that does not for a while, that goes and comes back: nothing blocks, what is to be heard is.
 */

#include "daemon/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/number.h"
#include "tests/support/unit.h"

static char directory[] = "/tmp/msd-notify-XXXXXX", path[64];
static int manager = -1;
static struct reactor reactor;
static unsigned fillers;

static int listen_there(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        ck_assert_int_ge(fd, 0);
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
        ck_assert_int_eq(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
        return fd;
}

static void setup(void) {
        ck_assert_ptr_nonnull(mkdtemp(directory));
        snprintf(path, sizeof(path), "%s/notify", directory);
        manager = listen_there();
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", path, 1), 0);
        ck_assert_int_eq(reactor_init(&reactor), 0);
        fillers = 0;
}

static void teardown(void) {
        notify_unwatch();
        notify_flush();
        reactor_deinit(&reactor);
        manager = util_close(manager);
        unlink(path);
        rmdir(directory);
}

/* Others have filled the manager's socket. */
static void fill(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
        while (sendto(fd, "X=", 2, 0, (const struct sockaddr *)&address, sizeof(address)) == 2)
                fillers++;
        ck_assert_int_eq(errno, EAGAIN);
        ck_assert_uint_gt(fillers, 0);
        close(fd);
}

static void expect_nothing(void) {
        char text[16];

        ck_assert_int_lt(recv(manager, text, sizeof(text), 0), 0);
        ck_assert_int_eq(errno, EAGAIN);
}

/* The next message, with this many descriptors, of which the first is that of `same`. */
static void expect_with(const char *expected, unsigned n, int same) {
        char text[2048];
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * NOTIFY_KEEP_MAX)];
        } control;
        struct iovec iov = { text, sizeof(text) - 1 };
        struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
        ssize_t len = recvmsg(manager, &message, MSG_CMSG_CLOEXEC);
        struct cmsghdr *first = CMSG_FIRSTHDR(&message);
        struct stat a, b;
        int fds[NOTIFY_KEEP_MAX];

        ck_assert_msg(len >= 0, "There is no \"%s\": %s", expected, strerror(errno));
        text[len] = '\0';
        ck_assert_str_eq(text, expected);
        if (n == 0) {
                ck_assert_ptr_null(first);
                return;
        }
        ck_assert_ptr_nonnull(first);
        ck_assert_uint_eq(first->cmsg_len, CMSG_LEN(sizeof(int) * n));
        memcpy(fds, CMSG_DATA(first), sizeof(int) * n);
        ck_assert_int_eq(fstat(fds[0], &a), 0);
        ck_assert_int_eq(fstat(same, &b), 0);
        ck_assert_uint_eq(a.st_ino, b.st_ino);
        for (unsigned i = 0; i < n; i++)
                close(fds[i]);
}

static void expect(const char *expected) {
        expect_with(expected, 0, -1);
}

static void expect_fillers(void) {
        for (; fillers > 0; fillers--)
                expect("X=");
}

static void time_over(struct timer *timer) {
        (void)timer;
        ck_abort_msg("Nothing comes");
}

static void heard(struct watch *watch, uint32_t events) {
        (void)events;
        reactor_stop(watch->reactor);
}

/* Runs the reactor until a message has come. */
static void wait_message(void) {
        struct timer timer;
        struct watch watch = WATCH_NULL;

        timer_init(&timer, time_over);
        reactor_set_timer(&reactor, &timer, timer_now() + 30 * NSEC_PER_SEC);
        reactor.stopped = false;
        ck_assert_int_eq(reactor_watch(&reactor, &watch, manager, EPOLLIN, heard), 0);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        reactor_unwatch(&watch);
        timer_clear(&timer);
}

START_TEST(messages) {
        int fds[NOTIFY_KEEP_MAX];

        for (unsigned i = 0; i < NOTIFY_KEEP_MAX; i++)
                fds[i] = memfd_create("x", MFD_CLOEXEC);
        notify_status("Loading");
        expect("STATUS=Loading");
        ck_assert_int_eq(notify_ready("Ready"), 0);
        expect("READY=1\nSTATUS=Ready");
        notify_stopping("Stopping", 5 * NSEC_PER_SEC);
        expect("STOPPING=1\nSTATUS=Stopping\nEXTEND_TIMEOUT_USEC=5000000");
        notify_extend(UINT64_MAX);
        expect("EXTEND_TIMEOUT_USEC=3153600000000000");
        notify_failed(EIO, "Failed");
        expect("STATUS=Failed\nERRNO=5");
        notify_watchdog();
        expect("WATCHDOG=1");
        ck_assert_int_eq(notify_keep("a", fds, 3), 0);
        ck_assert(notify_is_kept("a"));
        expect_with("FDSTORE=1\nFDPOLL=0\nFDNAME=a", 3, fds[0]);
        notify_release("a");
        expect("FDSTOREREMOVE=1\nFDNAME=a");
        expect_nothing();
}
END_TEST

/* A status has one line, whatever a model says of itself. */
START_TEST(one_line) {
        static char longest[5000], got[5000];

        notify_status("Ready: x\nMAINPID=1\r\nREADY=1");
        expect("STATUS=Ready: x MAINPID=1  READY=1");
        ck_assert_int_eq(notify_ready("y\nFDSTOREREMOVE=1"), 0);
        expect("READY=1\nSTATUS=y FDSTOREREMOVE=1");
        notify_stopping("z\nX", 0);
        expect("STOPPING=1\nSTATUS=z X\nEXTEND_TIMEOUT_USEC=0");
        notify_failed(EIO, "w\xff\nX");
        expect("STATUS=w? X\nERRNO=5");
        /* One that is too long does not take what follows it along. */
        memset(longest, 'x', sizeof(longest) - 1);
        notify_failed(EIO, longest);
        ck_assert_int_gt(recv(manager, got, sizeof(got) - 1, 0), 0);
        ck_assert_str_eq(strchr(got, '\n'), "\nERRNO=5");
}
END_TEST

/* It does not read for a while: nothing is lost but what is outdated, the order stays, and the reactor sends it. */
START_TEST(full) {
        int fds[] = { memfd_create("x", MFD_CLOEXEC) };

        ck_assert_int_eq(notify_watch(&reactor), 0);
        fill();
        notify_status("1");
        notify_extend(NSEC_PER_SEC);
        notify_status("2");
        ck_assert_int_eq(notify_ready("3"), 0);
        ck_assert_int_eq(notify_keep("a", fds, 1), 0);
        ck_assert(!notify_is_kept("a"));
        notify_extend(2 * NSEC_PER_SEC);
        notify_watchdog();
        notify_status("4");
        notify_watchdog();
        notify_release("b");
        notify_stopping("5", NSEC_PER_SEC);
        expect_fillers();
        expect_nothing();
        wait_message();
        expect("READY=1\nSTATUS=3");
        expect_with("FDSTORE=1\nFDPOLL=0\nFDNAME=a", 1, fds[0]);
        expect("EXTEND_TIMEOUT_USEC=2000000");
        expect("STATUS=4");
        expect("WATCHDOG=1");
        expect("FDSTOREREMOVE=1\nFDNAME=b");
        expect("STOPPING=1\nSTATUS=5\nEXTEND_TIMEOUT_USEC=1000000");
        expect_nothing();
        ck_assert(notify_is_kept("a"));
        /* And what comes then goes at once. */
        notify_status("6");
        expect("STATUS=6");
}
END_TEST

/* What is sent later than something that waits stays behind it, also when there is room again before the reactor runs. */
START_TEST(order) {
        ck_assert_int_eq(notify_watch(&reactor), 0);
        fill();
        ck_assert_int_eq(notify_ready("1"), 0);
        expect_fillers();
        notify_status("2");
        expect("READY=1\nSTATUS=1");
        expect("STATUS=2");
        expect_nothing();
}
END_TEST

/* One that the manager has not heard of need not be released. */
START_TEST(kept_and_released) {
        int fds[] = { memfd_create("x", MFD_CLOEXEC) };

        ck_assert_int_eq(notify_watch(&reactor), 0);
        fill();
        ck_assert_int_eq(notify_keep("a", fds, 1), 0);
        ck_assert_int_eq(notify_keep("b", fds, 1), 0);
        notify_release("a");
        expect_fillers();
        wait_message();
        expect_with("FDSTORE=1\nFDPOLL=0\nFDNAME=b", 1, fds[0]);
        notify_release("b");
        expect("FDSTOREREMOVE=1\nFDNAME=b");
        expect_nothing();
}
END_TEST

static void *read_all(void *argument) {
        (void)argument;
        /* Some time after the flush has begun. */
        usleep(100000);
        expect_fillers();
        return NULL;
}

/* At the end it is waited for, for a while; from a thread too, and without a reactor. */
START_TEST(flush) {
        pthread_t thread;
        uint64_t begin;

        fill();
        notify_stopping("1", 0);
        ck_assert_int_eq(pthread_create(&thread, NULL, read_all, NULL), 0);
        notify_flush();
        pthread_join(thread, NULL);
        expect("STOPPING=1\nSTATUS=1\nEXTEND_TIMEOUT_USEC=0");

        fill();
        notify_status("2");
        begin = timer_now();
        notify_flush();
        ck_assert_uint_ge(timer_now() - begin, NSEC_PER_SEC);
        expect_fillers();
        expect_nothing();
}
END_TEST

/* It makes its socket anew; it is not there at all; it has no room and goes. */
START_TEST(gone) {
        int fds[] = { memfd_create("x", MFD_CLOEXEC) };

        ck_assert_int_eq(notify_watch(&reactor), 0);
        notify_status("1");
        expect("STATUS=1");
        close(manager);
        unlink(path);
        ck_assert_int_lt(notify_ready("2"), 0);
        ck_assert_int_lt(notify_keep("a", fds, 1), 0);
        manager = listen_there();
        ck_assert_int_eq(notify_ready("3"), 0);
        expect("READY=1\nSTATUS=3");

        fill();
        ck_assert_int_eq(notify_keep("b", fds, 1), 0);
        close(manager);
        unlink(path);
        notify_status("4");
        /* It was not kept, and says so. */
        ck_assert(!notify_is_kept("b"));
        notify_release("b");
        ck_assert(notify_is_kept("b"));
        manager = listen_there();
        notify_status("5");
        expect("STATUS=5");
        expect_nothing();
        fillers = 0;
}
END_TEST

START_TEST(abstract) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        char variable[128];
        int n = snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "msd/notify/%d", (int)getpid());

        snprintf(variable, sizeof(variable), "@%s", address.sun_path + 1);
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", variable, 1), 0);
        close(manager);
        manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        ck_assert_int_eq(bind(manager, (const struct sockaddr *)&address,
                              (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)), 0);
        notify_status("1");
        expect("STATUS=1");
}
END_TEST

/* Nobody is there to be told, or it cannot be. */
START_TEST(nobody) {
        char longest[200];

        ck_assert_int_eq(unsetenv("NOTIFY_SOCKET"), 0);
        ck_assert(!notify_is_heard());
        ck_assert_int_eq(notify_watch(&reactor), 0);
        ck_assert_int_eq(notify_ready("1"), 0);
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", "nonsense", 1), 0);
        ck_assert_int_lt(notify_ready("1"), 0);
        memset(longest, 'x', sizeof(longest) - 1);
        longest[0] = '/';
        longest[sizeof(longest) - 1] = '\0';
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", longest, 1), 0);
        ck_assert_int_eq(notify_ready("1"), -E2BIG);
        expect_nothing();
}
END_TEST

static Suite *notify_suite(void) {
        Suite *suite = suite_create("notify");
        TCase *tcase = tcase_create("notify");

        tcase_set_timeout(tcase, 60);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_test(tcase, messages);
        tcase_add_test(tcase, one_line);
        tcase_add_test(tcase, full);
        tcase_add_test(tcase, order);
        tcase_add_test(tcase, kept_and_released);
        tcase_add_test(tcase, flush);
        tcase_add_test(tcase, gone);
        tcase_add_test(tcase, abstract);
        tcase_add_test(tcase, nobody);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(notify_suite)
