#include "daemon/model/listening.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/unit.h"

/* "1.2.3.4", "::1", a path; of TCP at port 8080. */
static struct sockaddr_storage address_of(const char *text, unsigned port) {
        struct sockaddr_storage storage = { 0 };
        struct sockaddr_in *in = (struct sockaddr_in *)&storage;
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&storage;

        if (strchr(text, '/')) {
                storage.ss_family = AF_UNIX;
                snprintf(((struct sockaddr_un *)&storage)->sun_path, sizeof(((struct sockaddr_un *)&storage)->sun_path), "%s", text);
        } else if (strchr(text, ':')) {
                in6->sin6_family = AF_INET6;
                in6->sin6_port = htons((uint16_t)port);
                ck_assert_int_eq(inet_pton(AF_INET6, text, &in6->sin6_addr), 1);
        } else {
                in->sin_family = AF_INET;
                in->sin_port = htons((uint16_t)port);
                ck_assert_int_eq(inet_pton(AF_INET, text, &in->sin_addr), 1);
        }
        return storage;
}

static const struct {
        const char *line;
        int family;
        const char *address;    /* NULL: it is none that listens */
        unsigned port;
        uint64_t inode;
        unsigned uid;
} lines[] = {
        { "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0000000000000000 100 0 0 10 0\n",
          AF_INET, "127.0.0.1", 8080, 12345, 1000 },
        { " 104: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 18446744073709551615 1\n",
          AF_INET, "0.0.0.0", 22, UINT64_MAX, 0 },
        { "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 7 1\n",
          AF_INET6, "::1", 8080, 7, 0 },
        { "   0: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 7 1\n",
          AF_INET6, "::ffff:127.0.0.1", 8080, 7, 0 },
        /* Connected. */
        { "   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 12345 1\n", AF_INET, NULL, 0, 0, 0 },
        { "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n", AF_INET, NULL, 0, 0, 0 },
        { "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000", AF_INET, NULL, 0, 0, 0 },
        /* Of the other family. */
        { "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1\n", AF_INET6, NULL, 0, 0, 0 },
        { "", AF_INET, NULL, 0, 0, 0 },
        { "0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/a b.sock\n", AF_UNIX, "/run/a b.sock", 0, 12345, UINT32_MAX },
        { "0000000000000000: 00000003 00000000 00000000 0001 03 12345 /run/a.sock\n", AF_UNIX, NULL, 0, 0, 0 },
        { "0000000000000000: 00000002 00000000 00010000 0001 01 12345\n", AF_UNIX, NULL, 0, 0, 0 },
        { "Num       RefCount Protocol Flags    Type St Inode Path\n", AF_UNIX, NULL, 0, 0, 0 },
        { "0000000000000000: 00000002 00000000 00010000 0001 01 1 /0123456789012345678901234567890123456789012345678901234567890123456789"
          "01234567890123456789012345678901234567890123456789", AF_UNIX, NULL, 0, 0, 0 },
};

START_TEST(listening_lines) {
        struct listening_socket socket;
        const bool listens = lines[_i].family == AF_UNIX ? listening_read_unix(lines[_i].line, &socket) :
                                                           listening_read_inet(lines[_i].line, lines[_i].family, &socket);
        struct sockaddr_storage expected;

        ck_assert_int_eq(listens, lines[_i].address != NULL);
        if (!listens)
                return;
        expected = address_of(lines[_i].address, lines[_i].port);
        ck_assert_int_eq(memcmp(&socket.address, &expected, sizeof(expected)), 0);
        ck_assert_uint_eq(socket.inode, lines[_i].inode);
        ck_assert_uint_eq(socket.uid, lines[_i].uid);
}
END_TEST

static const struct {
        const char *target;
        const char *bound;
        unsigned match;
} matches[] = {
        { "127.0.0.1", "127.0.0.1", 3 },
        { "127.0.0.1", "0.0.0.0", 2 },
        { "127.0.0.1", "::", 1 },
        { "127.0.0.1", "::ffff:127.0.0.1", 3 },
        { "127.0.0.1", "::ffff:0.0.0.0", 2 },
        { "::ffff:127.0.0.1", "127.0.0.1", 3 },
        { "127.0.0.1", "127.0.0.2", 0 },
        { "127.0.0.1", "::1", 0 },
        { "::1", "::1", 3 },
        { "::1", "::", 2 },
        { "::1", "127.0.0.1", 0 },
        { "::1", "0.0.0.0", 0 },
        { "0.0.0.0", "127.0.0.1", 3 },
        { "0.0.0.0", "0.0.0.0", 2 },
        { "::", "::1", 3 },
        { "/run/a", "/run/a", 1 },
        { "/run/a", "/run/b", 0 },
        { "/run/a", "127.0.0.1", 0 },
        { "127.0.0.1", "/run/a", 0 },
};

START_TEST(listening_matches) {
        const struct sockaddr_storage target = address_of(matches[_i].target, 8080), bound = address_of(matches[_i].bound, 8080);
        const struct sockaddr_storage elsewhere = address_of(matches[_i].bound, 8081);

        ck_assert_uint_eq(listening_match(&target, &bound), matches[_i].match);
        if (bound.ss_family != AF_UNIX)
                ck_assert_uint_eq(listening_match(&target, &elsewhere), 0);
}
END_TEST

static int listen_at(struct sockaddr_storage *address) {
        socklen_t len = sizeof(*address);
        int fd = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (address->ss_family == AF_UNIX)
                len = sizeof(struct sockaddr_un);
        if (fd < 0 || bind(fd, (const struct sockaddr *)address, address->ss_family == AF_INET ? sizeof(struct sockaddr_in) :
                                                                 address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : len) < 0 ||
            listen(fd, 1) < 0) {
                util_close(fd);
                return -1;
        }
        if (address->ss_family != AF_UNIX)
                ck_assert_int_eq(getsockname(fd, (struct sockaddr *)address, &len), 0);
        return fd;
}

static const char *const places[] = { "127.0.0.1", "::1", "::", "0.0.0.0", "/" };

/* Of this machine: a socket of our own is ours, and one of another process is not. */
START_TEST(listening_here) {
        struct sockaddr_storage address = address_of(places[_i], 0);
        struct listening listening;
        int fd, status, ends[2];
        char path[64] = "";
        pid_t other;

        if (address.ss_family == AF_UNIX) {
                snprintf(path, sizeof(path), "/tmp/msd-listening-%d.sock", (int)getpid());
                address = address_of(path, 0);
        }
        fd = listen_at(&address);
        /* A machine without that family. */
        if (fd < 0)
                return;
        ck_assert_int_eq(listening_find(&listening, &address), 0);
        ck_assert_uint_eq(listening.count, 1);
        ck_assert_ptr_nonnull(listening_foreign(&listening));
        ck_assert_int_eq(listening_holder(&listening.sockets[0]), getpid());
        listening_look(getpid(), &listening);
        ck_assert_ptr_null(listening_foreign(&listening));
        ck_assert(!listening.unseen);

        /* It goes to a process that we are not. */
        ck_assert_int_eq(pipe(ends), 0);
        other = fork();
        if (other == 0) {
                char byte;

                close(ends[1]);
                _exit(read(ends[0], &byte, 1) == 0 ? 0 : 1);
        }
        close(fd);
        ck_assert_int_eq(listening_find(&listening, &address), 0);
        ck_assert_uint_eq(listening.count, 1);
        listening_look(getpid(), &listening);
        ck_assert_ptr_eq(listening_foreign(&listening), &listening.sockets[0]);
        ck_assert_int_eq(listening_holder(&listening.sockets[0]), other);
        close(ends[1]);
        ck_assert_int_eq(waitpid(other, &status, 0), other);
        close(ends[0]);

        ck_assert_int_eq(listening_find(&listening, &address), 0);
        ck_assert_uint_eq(listening.count, 0);
        ck_assert_ptr_null(listening_foreign(&listening));
        /* One that is gone is no secret. */
        listening_look(other, &listening);
        ck_assert(!listening.unseen);
        if (path[0])
                unlink(path);
}
END_TEST

static Suite *listening_suite(void) {
        Suite *suite = suite_create("listening");
        TCase *tcase = tcase_create("listening");

        tcase_set_timeout(tcase, 60);
        unit_add_table(tcase, listening_lines, lines);
        unit_add_table(tcase, listening_matches, matches);
        unit_add_table(tcase, listening_here, places);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(listening_suite)
