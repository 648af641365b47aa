#include "daemon/front/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/address.h"
#include "tests/support/unit.h"

static char directory[] = "/tmp/listener-XXXXXX";
static char path[64];

static void setup(void) {
        ck_assert_ptr_nonnull(mkdtemp(directory));
        snprintf(path, sizeof(path), "%s/s", directory);
}

static void teardown(void) {
        (void)unlink(path);
        (void)rmdir(path);
        ck_assert_int_eq(rmdir(directory), 0);
}

static int connect_to(const char *to) {
        struct sockaddr_un address;
        socklen_t len;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        ck_assert_int_eq(address_from_path(to, &address, &len), 0);
        ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, len), 0);
        return fd;
}

START_TEST(socket_opens_and_goes) {
        struct listener_socket socket;
        struct stat st;

        ck_assert_int_eq(listener_socket_open(&socket, path), 0);
        ck_assert_int_eq(fcntl(socket.fd, F_GETFD), FD_CLOEXEC);
        close(connect_to(path));
        listener_socket_close(&socket);
        listener_socket_close(&socket);
        ck_assert_int_lt(stat(path, &st), 0);
}
END_TEST

START_TEST(socket_of_a_live_daemon_stays) {
        struct listener_socket first, second;

        ck_assert_int_eq(listener_socket_open(&first, path), 0);
        ck_assert_int_eq(listener_socket_open(&second, path), LISTENER_IN_USE);
        ck_assert_int_eq(second.fd, -1);
        close(connect_to(path));
        listener_socket_close(&first);
}
END_TEST

/* A stale one is replaced; and who was replaced does not unlink the file of the other. */
START_TEST(stale_socket_is_replaced) {
        struct listener_socket first, second;

        ck_assert_int_eq(listener_socket_open(&first, path), 0);
        close(first.fd);
        ck_assert_int_eq(listener_socket_open(&second, path), 0);
        first.fd = dup(second.fd);
        listener_socket_close(&first);
        close(connect_to(path));
        listener_socket_close(&second);
}
END_TEST

START_TEST(other_files_stay) {
        struct listener_socket socket;
        char target[80];
        struct stat st;
        int fd;

        fd = open(path, O_CREAT | O_WRONLY, 0600);
        close(fd);
        ck_assert_int_eq(listener_socket_open(&socket, path), LISTENER_NOT_A_SOCKET);
        ck_assert_int_eq(unlink(path), 0);

        ck_assert_int_eq(mkdir(path, 0700), 0);
        ck_assert_int_eq(listener_socket_open(&socket, path), LISTENER_NOT_A_SOCKET);
        ck_assert_int_eq(rmdir(path), 0);

        /* A link is not followed to what somebody else owns. */
        snprintf(target, sizeof(target), "%s/target", directory);
        ck_assert_int_eq(symlink(target, path), 0);
        ck_assert_int_eq(listener_socket_open(&socket, path), LISTENER_NOT_A_SOCKET);
        ck_assert_int_eq(lstat(path, &st), 0);
}
END_TEST

START_TEST(paths_that_cannot_be) {
        struct listener_socket socket;
        char longest[ADDRESS_PATH_MAX + 1], missing[80];

        memset(longest, 'x', sizeof(longest));
        longest[sizeof(longest) - 1] = '\0';
        snprintf(missing, sizeof(missing), "%s/none/s", directory);
        ck_assert_int_eq(listener_socket_open(&socket, ""), LISTENER_PATH_EMPTY);
        ck_assert_int_eq(listener_socket_open(&socket, longest), LISTENER_PATH_TOO_LONG);
        ck_assert_int_eq(listener_socket_open(&socket, missing), -ENOENT);
        ck_assert_int_eq(socket.fd, -1);
}
END_TEST

static struct reactor reactor;
static struct listener listener;
static int accepted_fds[8];
static unsigned accepted_count, accepted_wanted;

static int option(int fd, int level, int name) {
        socklen_t len = sizeof(int);
        int value = 0;

        ck_assert_int_eq(getsockopt(fd, level, name, &value, &len), 0);
        return value;
}

static void accepted(struct listener *l, int fd) {
        ck_assert_ptr_eq(l, &listener);
        accepted_fds[accepted_count++] = fd;
        if (accepted_count == accepted_wanted)
                reactor_stop(&reactor);
}

static void run_until(unsigned wanted) {
        accepted_wanted = wanted;
        reactor.stopped = accepted_count >= wanted;
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_uint_eq(accepted_count, wanted);
}

/* At the limit, who comes waits in the backlog, until there is room. */
START_TEST(limit_of_connections) {
        struct listener_limit limit = { .max = 2 };
        struct listener_socket socket;
        int clients[4];

        ck_assert_int_eq(listener_socket_open(&socket, path), 0);
        ck_assert_int_eq(reactor_init(&reactor), 0);
        ck_assert_int_eq(listener_init(&listener, &reactor, socket.fd, &limit, accepted), 0);
        for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
                clients[i] = connect_to(path);
        run_until(2);
        /* It does not spin on what it may not accept. */
        ck_assert_ptr_null(listener.watch.reactor);
        ck_assert(timer_is_set(&listener.retry));

        listener_release(&listener);
        run_until(3);
        listener_release(&listener);
        run_until(4);

        for (size_t i = 0; i < ARRAY_SIZE(clients); i++) {
                close(clients[i]);
                close(accepted_fds[i]);
        }
        listener_deinit(&listener);
        listener_deinit(&listener);
        reactor_deinit(&reactor);
        listener_socket_close(&socket);
}
END_TEST

/* Out of descriptors: the same; and who closes one elsewhere need not say so. */
START_TEST(limit_of_descriptors) {
        struct listener_limit limit = { .max = 100 };
        struct listener_socket socket;
        struct rlimit descriptors;
        int client, spare;

        ck_assert_int_eq(listener_socket_open(&socket, path), 0);
        ck_assert_int_eq(reactor_init(&reactor), 0);
        ck_assert_int_eq(listener_init(&listener, &reactor, socket.fd, &limit, accepted), 0);
        client = connect_to(path);
        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &descriptors), 0);
        spare = dup(client);
        descriptors.rlim_cur = (rlim_t)spare + 1;
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &descriptors), 0);

        listener.watch.ready(&listener.watch, EPOLLIN);
        ck_assert_uint_eq(accepted_count, 0);
        ck_assert_ptr_null(listener.watch.reactor);
        close(spare);
        run_until(1);

        close(client);
        close(accepted_fds[0]);
        listener_deinit(&listener);
        reactor_deinit(&reactor);
        listener_socket_close(&socket);
}
END_TEST

/* Where each socket of the set is, the port of TCP left out. */
static const struct {
        const char *address;
        int outcome;
        const char *first;
} addresses[] = {
        { "127.0.0.1:0", 0, "127.0.0.1:" },
        { "127.0.0.2:0", 0, "127.0.0.2:" },
        { "8080", -EINVAL, NULL },
        { "", -EINVAL, NULL },
        { "127.0.0.1", -EINVAL, NULL },
        { "127.0.0.1:", -EINVAL, NULL },
        { "127.0.0.1:x", -EINVAL, NULL },
        { "127.0.0.1:-1", -EINVAL, NULL },
        { "127.0.0.1:65536", -EINVAL, NULL },
        { "::1:80", -EINVAL, NULL },
        { "unix:", LISTENER_PATH_EMPTY, NULL },
        { "192.0.2.1:0", -EADDRNOTAVAIL, NULL },
};

START_TEST(set_opens) {
        struct listener_set set = { 0 };
        char at[LISTENER_ADDRESS_MAX];
        const char *why;

        ck_assert_int_eq(listener_set_open(&set, addresses[_i].address, &why), addresses[_i].outcome);
        ck_assert_ptr_null(why);
        ck_assert_uint_eq(set.count, addresses[_i].outcome == 0);
        if (set.count > 0) {
                (void)listener_socket_address(&set.sockets[0], at);
                ck_assert_int_eq(strncmp(at, addresses[_i].first, strlen(addresses[_i].first)), 0);
                ck_assert_str_ne(at + strlen(addresses[_i].first), "0");
                ck_assert(set.sockets[0].made);
        }
        listener_set_close(&set);
        listener_set_close(&set);
}
END_TEST

START_TEST(set_has_several) {
        struct listener_set set = { 0 };
        char address[LISTENER_ADDRESS_MAX], at[LISTENER_ADDRESS_MAX];
        const char *why;
        unsigned n;

        snprintf(address, sizeof(address), "unix:%s", path);
        ck_assert_int_eq(listener_set_open(&set, address, &why), 0);
        ck_assert_str_eq(listener_socket_address(&set.sockets[0], at), address);
        ck_assert_int_eq(listener_set_open(&set, address, &why), LISTENER_IN_USE);
        ck_assert_int_eq(listener_set_open(&set, "127.0.0.1:0", &why), 0);
        ck_assert_uint_eq(set.count, 2);
        /* Nobody else has the port. */
        ck_assert_int_eq(listener_set_open(&set, listener_socket_address(&set.sockets[1], at), &why), LISTENER_IN_USE);
        n = set.count;
        ck_assert_int_eq(listener_set_open(&set, "*:0", &why), 0);
        ck_assert_uint_eq(set.count, n + 1);
        while (set.count < LISTENER_SET_MAX)
                ck_assert_int_eq(listener_set_open(&set, "127.0.0.1:0", &why), 0);
        ck_assert_int_eq(listener_set_open(&set, "127.0.0.1:0", &why), -E2BIG);
        listener_set_close(&set);
        ck_assert_int_lt(access(path, F_OK), 0);
}
END_TEST

/* What every connection is to have, it has from the socket that listens. */
START_TEST(options_are_inherited) {
        struct listener_limit limit = { .max = 8 };
        struct listener_set set = { 0 };
        struct sockaddr_in address;
        socklen_t len = sizeof(address);
        const char *why;
        int client;

        ck_assert_int_eq(reactor_init(&reactor), 0);
        ck_assert_int_eq(listener_set_open(&set, "127.0.0.1:0", &why), 0);
        ck_assert_int_eq(getsockname(set.sockets[0].fd, (struct sockaddr *)&address, &len), 0);
        ck_assert_int_eq(listener_init(&listener, &reactor, set.sockets[0].fd, &limit, accepted), 0);
        client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(connect(client, (struct sockaddr *)&address, len), 0);
        accepted_count = 0;
        accepted_wanted = 1;
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_uint_eq(accepted_count, 1);
        ck_assert_int_eq(option(accepted_fds[0], IPPROTO_TCP, TCP_NODELAY), 1);
        ck_assert_int_eq(option(accepted_fds[0], SOL_SOCKET, SO_KEEPALIVE), 1);
        ck_assert_int_eq(option(accepted_fds[0], IPPROTO_TCP, TCP_KEEPIDLE), 60);
        ck_assert_int_eq(option(accepted_fds[0], IPPROTO_TCP, TCP_KEEPINTVL), 10);
        ck_assert_int_eq(option(accepted_fds[0], IPPROTO_TCP, TCP_KEEPCNT), 6);
        close(accepted_fds[0]);
        close(client);
        listener_deinit(&listener);
        listener_set_close(&set);
        reactor_deinit(&reactor);
}
END_TEST

static Suite *listener_suite(void) {
        Suite *suite = suite_create("listener");
        TCase *tcase = tcase_create("listener");

        tcase_set_timeout(tcase, 60);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_test(tcase, socket_opens_and_goes);
        tcase_add_test(tcase, socket_of_a_live_daemon_stays);
        tcase_add_test(tcase, stale_socket_is_replaced);
        tcase_add_test(tcase, other_files_stay);
        tcase_add_test(tcase, paths_that_cannot_be);
        tcase_add_test(tcase, limit_of_connections);
        tcase_add_test(tcase, limit_of_descriptors);
        unit_add_table(tcase, set_opens, addresses);
        tcase_add_test(tcase, set_has_several);
        tcase_add_test(tcase, options_are_inherited);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(listener_suite)
