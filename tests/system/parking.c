/*
 * Waiting requests outlive the daemon: what is parked with the service manager, here one of the test's own, is taken
 * over by the next process, on the connections that there are.
 */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/util.h"
#include "daemon/front/parking.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/manager.h"

#define MANY 10000

static const char *const forever[] = { "--load-time", "1h", NULL };
static const char *const soon[] = { "--load-time", "300ms", "--inference-time", "0", NULL };

static struct manager manager;
static struct process process = PROCESS_NULL;
static struct peer control = PEER_NULL;

static void start(const char *const *arguments) {
        manager_start(&manager, &process, arguments);
        peer_connect(&control, manager.socket);
}

static void wait_waiting(uint64_t n) {
        struct peer_status status;

        peer_status_until(&control, &status, peer_status_is_waiting, n, "they wait");
}

static void end(int signal, int status) {
        process_signal(&process, signal);
        if (process_wait(&process) != status)
                process_give_up("msd ended with %d instead of %d", process.status, status);
        process_free(&process);
        peer_close(&control);
}

/* Between its reading something and its noting it, a moment, a kill loses that: msd(8), RESTART. */
static void kill_it(void) {
        process_wait_rest(&process);
        end(SIGKILL, 128 + SIGKILL);
}

static void finish(void) {
        /* Until it answers a signal may find it before it holds them. */
        peer_status(&control, &(struct peer_status){ 0 });
        end(SIGTERM, 0);
        manager_deinit(&manager);
}

/* As many as there are descriptors for, here and in msd. */
static size_t raise_limit(void) {
        struct rlimit limit;

        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = limit.rlim_max;
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        return limit.rlim_max > 2 * MANY - 1 ? MANY : (size_t)limit.rlim_max / 2 - 100;
}

/* Killed while they wait, all are answered by the next, on their old connections. */
START_TEST(many) {
        size_t n = raise_limit();
        struct peer *peers = calloc(n, sizeof(*peers));

        ck_assert_ptr_nonnull(peers);
        manager_init(&manager);
        start(forever);
        for (size_t i = 0; i < n; i++) {
                peer_connect(&peers[i], manager.socket);
                peer_send_requests(&peers[i], i, 1);
        }
        wait_waiting(n);
        kill_it();

        start(forever);
        wait_waiting(n);
        kill_it();
        start((const char *[]){ "--load-time", "1s", "--inference-time", "0", NULL });
        for (size_t i = 0; i < n; i++) {
                peer_expect_answers(&peers[i], i, 1, "sim");
                peer_close(&peers[i]);
        }
        manager_wait_stored(&manager, 0);
        free(peers);
        finish();
}
END_TEST

/* Each kind of what can wait, and of what can be there in part. */
START_TEST(kinds) {
        static char prompt[200000], line[3000];
        struct peer pipelined, stream, waits, half_line, half_prompt, half_dropped, half_skipped, closed, idle;
        struct peer *const all[] = { &pipelined, &stream,       &waits,  &half_line, &half_prompt,
                                     &half_dropped, &half_skipped, &closed, &idle };
        struct peer_reply reply;

        memset(prompt, 'p', sizeof(prompt));
        memset(line, 'x', sizeof(line));
        manager_init(&manager);
        start((const char *[]){ "--load-time", "1h", "--max-prompt", "150000", NULL });
        for (size_t i = 0; i < ARRAY_SIZE(all); i++)
                peer_connect(all[i], manager.socket);

        peer_send_requests(&pipelined, 0, 1000);
        peer_send(&stream, "STREAM s 6\nprompt\nREQUEST r 0\n\n");
        peer_send(&waits, "WAIT\n");
        peer_send(&half_line, "REQUEST before\nREQUEST ha");
        peer_send(&half_prompt, "REQUEST p 100000\n");
        /* In pieces, each of which is parked behind the others. */
        for (unsigned i = 0; i < 3; i++) {
                peer_send_bytes(&half_prompt, prompt, 20000);
                wait_waiting(1003);
        }
        peer_send_bytes(&half_dropped, line, sizeof(line));
        peer_expect_error(&half_dropped, "-", "too-large", NULL);
        peer_send(&half_skipped, "REQUEST k 200000\n");
        peer_expect_error(&half_skipped, "k", "too-large", NULL);
        peer_send_bytes(&half_skipped, prompt, 77777);
        peer_send(&closed, "STATUS\nREQUEST c\n");
        peer_finish(&closed);
        ck_assert(peer_next(&closed, &reply));
        wait_waiting(1004);
        kill_it();

        /* The second time it is parked by one who has it parked. */
        start((const char *[]){ "--load-time", "1h", "--max-prompt", "150000", NULL });
        wait_waiting(1004);
        kill_it();

        start((const char *[]){ "--load-time", "1h", "--max-prompt", "150000", NULL });
        peer_send(&half_line, "lf\n");
        peer_send_bytes(&half_prompt, prompt, 40000);
        peer_send(&half_prompt, "\nSTATUS\n");
        ck_assert(peer_next(&half_prompt, &reply));
        ck_assert_int_eq(reply.type, PROTOCOL_OK);
        peer_send(&half_dropped, "xxx\nREQUEST d\n");
        peer_send_bytes(&half_skipped, prompt, 200000 - 77777);
        peer_send(&half_skipped, "\nREQUEST k2\n");
        peer_send(&idle, "REQUEST i\n");
        wait_waiting(1009);
        kill_it();

        start((const char *[]){ "--load-time", "500ms", "--inference-time", "0", NULL });
        peer_expect_answers(&pipelined, 0, 1000, "sim");
        ck_assert(peer_next(&stream, &reply));
        ck_assert_int_eq(reply.type, PROTOCOL_PART);
        while (reply.type == PROTOCOL_PART)
                ck_assert(peer_next(&stream, &reply));
        ck_assert_str_eq(reply.id, "s");
        peer_expect(&stream, "r", "Response r from sim");
        peer_expect(&waits, "-", PROTOCOL_READY);
        peer_expect(&half_line, "before", "Response before from sim");
        peer_expect(&half_line, "half", "Response half from sim");
        peer_expect(&half_prompt, "p", "Response p from sim");
        peer_expect(&half_dropped, "d", "Response d from sim");
        peer_expect(&half_skipped, "k2", "Response k2 from sim");
        peer_expect(&closed, "c", "Response c from sim");
        peer_expect_end(&closed);
        peer_expect(&idle, "i", "Response i from sim");
        for (size_t i = 0; i < ARRAY_SIZE(all); i++)
                peer_close(all[i]);
        finish();
}
END_TEST

/* What is answered before the gate opens is not answered again; and a request's time goes on. */
START_TEST(timed_out) {
        struct peer_status status;
        struct peer peer;

        manager_init(&manager);
        start((const char *[]){ "--load-time", "1h", "--request-timeout", "1s", NULL });
        peer_connect(&peer, manager.socket);
        peer_send_requests(&peer, 0, 3);
        peer_expect_error(&peer, "0", "timed-out", NULL);
        peer_expect_error(&peer, "1", "timed-out", NULL);
        peer_expect_error(&peer, "2", "timed-out", NULL);
        peer_send_requests(&peer, 3, 2);
        wait_waiting(2);
        kill_it();

        start((const char *[]){ "--load-time", "1h", "--request-timeout", "1h", NULL });
        wait_waiting(2);
        peer_status(&control, &status);
        kill_it();
        start((const char *[]){ "--load-time", "1h", "--request-timeout", "1ms", NULL });
        peer_expect_error(&peer, "3", "timed-out", NULL);
        peer_expect_error(&peer, "4", "timed-out", NULL);
        kill_it();
        start(soon);
        peer_send_requests(&peer, 5, 1);
        peer_expect_answers(&peer, 5, 1, "sim");
        peer_close(&peer);
        finish();
}
END_TEST

/* A client that goes, goes; one that the daemon ends sees the end, although a copy of the descriptor is in flight. */
START_TEST(ended) {
        struct peer_status status;
        struct peer peer, stays;
        struct peer_reply reply;

        manager_init(&manager);
        start(forever);
        peer_connect(&stays, manager.socket);
        peer_send(&stays, "REQUEST stays\n");
        for (unsigned i = 0; i < 2000; i++) {
                peer_connect(&peer, manager.socket);
                peer_send(&peer, "STATUS\nREQUEST 7\n");
                peer_close(&peer);
        }
        peer_connect(&peer, manager.socket);
        peer_send(&peer, "STATUS\n");
        peer_finish(&peer);
        ck_assert(peer_next(&peer, &reply));
        peer_expect_end(&peer);
        peer_close(&peer);
        peer_status_until(&control, &status, peer_status_is_connections, 2, "the others are gone");
        wait_waiting(1);
        kill_it();
        start(forever);
        peer_status_until(&control, &status, peer_status_is_connections, 2, "nobody else is taken over");
        wait_waiting(1);
        kill_it();
        start(soon);
        peer_expect(&stays, "stays", "Response stays from sim");
        peer_close(&stays);
        finish();
}
END_TEST

/* A client that does not read may miss a part of a reply: better it sees the end. */
START_TEST(blocked) {
        struct peer_status status;
        struct peer peer, other;
        char drop[65536];
        bool full;
        ssize_t n;

        manager_init(&manager);
        start((const char *[]){ "--load-time", "1h", "--threads", "1", NULL });
        peer_connect(&peer, manager.socket);
        peer_connect(&other, manager.socket);
        peer_send(&other, "REQUEST other\n");
        /* Until it is not read from any more: not in a turn in which others are. */
        ck_assert_int_eq(fcntl(peer.fd, F_SETFL, O_NONBLOCK), 0);
        do {
                for (full = true; send(peer.fd, "STATUS\nSTATUS\nSTATUS\nSTATUS\n", 28, MSG_NOSIGNAL) > 0;)
                        full = false;
                peer_status(&control, &status);
                peer_status(&control, &status);
        } while (!full);
        wait_waiting(1);
        kill_it();
        start(soon);
        ck_assert_int_eq(fcntl(peer.fd, F_SETFL, 0), 0);
        while ((n = recv(peer.fd, drop, sizeof(drop), 0)) > 0)
                ;
        ck_assert_int_le(n, 0);
        peer_expect(&other, "other", "Response other from sim");
        peer_status(&control, &status);
        ck_assert_uint_eq(status.connections, 2);
        peer_close(&peer);
        peer_close(&other);
        finish();
}
END_TEST

/* A log that grows is written anew, without what is over. */
START_TEST(long_log) {
        static char prompt[100000];
        struct peer peer;

        memset(prompt, 'p', sizeof(prompt));
        manager_init(&manager);
        start(forever);
        peer_connect(&peer, manager.socket);
        for (unsigned i = 0; i < 200; i++) {
                peer_send(&peer, "REQUEST %u 100000\n", i);
                peer_send_bytes(&peer, prompt, sizeof(prompt));
                peer_send(&peer, "\n");
                wait_waiting(i + 1);
        }
        kill_it();
        start(soon);
        peer_expect_answers(&peer, 0, 200, "sim");
        peer_close(&peer);
        finish();
}
END_TEST

/* When the gate has opened nothing is kept; who is connected then sees the end of the daemon. */
START_TEST(dropped) {
        struct peer peer;

        manager_init(&manager);
        start(soon);
        peer_connect(&peer, manager.socket);
        peer_send(&peer, "REQUEST 7\n");
        peer_expect(&peer, "7", "Response 7 from sim");
        manager_wait_stored(&manager, 0);
        ck_assert_uint_ge(manager_count(&manager, "FDSTORE=1"), 1);
        kill_it();
        peer_expect_end(&peer);
        peer_close(&peer);

        /* Neither when it has failed. */
        start((const char *[]){ "--load-time", "200ms", "--load-failure", "no file", "--on-load-failure", "stay", NULL });
        peer_connect(&peer, manager.socket);
        peer_send(&peer, "REQUEST 7\n");
        peer_expect_error(&peer, "7", "load-failed", "no file");
        manager_wait_stored(&manager, 0);
        /* The next load is a pending gate again, for those who are connected already. */
        peer_send(&control, "LOAD\n");
        peer_expect(&control, "-", PROTOCOL_LOADING);
        peer_send(&peer, "REQUEST 8\n");
        wait_waiting(1);
        kill_it();
        start(soon);
        peer_expect(&peer, "8", "Response 8 from sim");
        peer_close(&peer);
        finish();
}
END_TEST

/* Stopped, and not killed: who waits is told, and nobody is left to a successor. */
START_TEST(stopped) {
        struct peer peer;

        manager_init(&manager);
        start(forever);
        peer_connect(&peer, manager.socket);
        peer_send(&peer, "REQUEST 7\n");
        wait_waiting(1);
        process_signal(&process, SIGTERM);
        peer_expect_error(&peer, "7", "shutting-down", "Server is shutting down");
        ck_assert_int_eq(process_wait(&process), 0);
        peer_expect_end(&peer);
        manager_wait_stored(&manager, 0);
        process_free(&process);
        peer_close(&peer);
        peer_close(&control);
        manager_deinit(&manager);
}
END_TEST

/* Restarted while it loads. */
START_TEST(restarted_loading) {
        struct peer peer, idle;

        manager_init(&manager);
        start(forever);
        peer_connect(&peer, manager.socket);
        peer_connect(&idle, manager.socket);
        peer_send_requests(&peer, 0, 100);
        wait_waiting(100);
        end(SIGUSR2, 0);
        manager_wait(&manager, "STOPPING=1");
        start(soon);
        peer_expect_answers(&peer, 0, 100, "sim");
        peer_send_requests(&idle, 0, 1);
        peer_expect_answers(&idle, 0, 1, "sim");
        peer_close(&peer);
        peer_close(&idle);
        finish();
}
END_TEST

/* Restarted while it is ready: what is in flight finishes, what is new waits for the next, and nobody is cut off. */
START_TEST(restarted_ready) {
        struct peer_status status;
        struct peer flying, idle, late;

        manager_init(&manager);
        start((const char *[]){ "--load-time", "0", "--inference-time", "1s", NULL });
        peer_connect(&flying, manager.socket);
        peer_connect(&idle, manager.socket);
        manager_wait(&manager, "READY=1");
        peer_send_requests(&flying, 0, 100);
        peer_status_until(&control, &status, peer_status_is_processing, 100, "they are in flight");
        process_signal(&process, SIGUSR2);
        manager_wait(&manager, "STOPPING=1");
        peer_send_requests(&flying, 100, 10);
        peer_send_requests(&idle, 0, 1);
        peer_connect(&late, manager.socket);
        peer_send_requests(&late, 0, 1);
        ck_assert_int_eq(process_wait(&process), 0);
        peer_expect_answers(&flying, 0, 100, "sim");
        process_free(&process);
        peer_close(&control);

        start(soon);
        peer_expect_answers(&flying, 100, 10, "sim");
        peer_expect_answers(&idle, 0, 1, "sim");
        peer_expect_answers(&late, 0, 1, "sim");
        peer_close(&flying);
        peer_close(&idle);
        peer_close(&late);
        finish();
}
END_TEST

/*
 * Again and again, in the middle of what comes on several connections: each request is answered once. All answers
 * together fit into the connections: nobody reads them before the end.
 */
START_TEST(restarted_often) {
        struct peer peers[8];
        size_t sent[ARRAY_SIZE(peers)] = { 0 };

        manager_init(&manager);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++)
                peer_connect(&peers[i], manager.socket);
        for (unsigned round = 1; round <= 12; round++) {
                manager_start(&manager, &process,
                              (const char *[]){ "--load-time", "0", "--inference-time", "1ms", "--quiet", NULL });
                while (manager_count(&manager, "READY=1") < round)
                        manager_wait_more(&manager);
                for (unsigned i = 0; i < 160; i++) {
                        size_t p = i % ARRAY_SIZE(peers);

                        if (i == 80)
                                process_signal(&process, SIGUSR2);
                        peer_send_requests(&peers[p], sent[p]++, 1);
                }
                ck_assert_int_eq(process_wait(&process), 0);
                process_free(&process);
        }
        start(soon);
        /* All may be answered already: it takes signals when it is ready. */
        while (manager_count(&manager, "READY=1") < 13)
                manager_wait_more(&manager);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_expect_answers(&peers[i], 0, sent[i], "sim");
                peer_close(&peers[i]);
        }
        finish();
}
END_TEST

/* Killed again and again, also while they take over what the one before had: nothing is lost on the way. */
START_TEST(killed_while_taking_over) {
        static struct peer peers[300];

        manager_init(&manager);
        start(forever);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_connect(&peers[i], manager.socket);
                peer_send_requests(&peers[i], i, 1);
        }
        wait_waiting(ARRAY_SIZE(peers));
        kill_it();
        for (unsigned round = 0; round < 40; round++) {
                const uint64_t end = clock_now() + round * 250 * NSEC_PER_USEC;

                manager_start(&manager, &process, forever);
                while (clock_now() < end)
                        ;
                process_signal(&process, SIGKILL);
                (void)process_wait(&process);
                process_free(&process);
        }
        start(soon);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_expect_answers(&peers[i], i, 1, "sim");
                peer_close(&peers[i]);
        }
        finish();
}
END_TEST

/* Without a manager that keeps anything, SIGUSR2 stops it as SIGTERM does. */
START_TEST(restarted_alone) {
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "1h", NULL);
        peer_send(&daemon.control, "REQUEST 7\n");
        process_signal(&daemon.process, SIGUSR2);
        peer_expect_error(&daemon.control, "7", "shutting-down", NULL);
        daemon_expect_exit(&daemon, 0);
}
END_TEST

/* What is found in the store is checked as any input: it is not what a predecessor left. */
static void store(const char *name, int fd) {
        pthread_mutex_lock(&manager.mutex);
        ck_assert_uint_lt(manager.stored, MANAGER_STORE_MAX);
        snprintf(manager.store[manager.stored].name, sizeof(manager.store->name), "%s", name);
        manager.store[manager.stored++].fd = fd;
        pthread_mutex_unlock(&manager.mutex);
}

static int make_log(const void *data, size_t len, uint64_t begin) {
        struct parking_header header = { .magic = PARKING_MAGIC, .begin = begin };
        int fd = memfd_create("test", MFD_CLOEXEC);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(pwrite(fd, &header, sizeof(header), 0), sizeof(header));
        ck_assert_int_eq(pwrite(fd, data, len, PARKING_HEADER_SIZE), (ssize_t)len);
        return fd;
}

static void send_fd(int to, int fd) {
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int))];
        } control_data = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
        char byte = 'x';
        struct iovec iov = { &byte, 1 };
        struct msghdr message = {
                .msg_iov = &iov,
                .msg_iovlen = 1,
                .msg_control = &control_data,
                .msg_controllen = sizeof(control_data.space),
        };

        memcpy(CMSG_DATA(&control_data.header), &fd, sizeof(fd));
        ck_assert_int_eq(sendmsg(to, &message, 0), 1);
}

#define LOGS 10

START_TEST(hostile) {
        int pair[2], clients[LOGS][2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
        socklen_t len = sizeof(uint64_t);
        struct parking_record records[6] = { 0 };
        struct peer peer, parked = PEER_NULL;
        struct peer_reply reply;
        char name[64], log[sizeof(records) + 64];
        uint64_t cookie;

        manager_init(&manager);
        for (unsigned i = 0; i < LOGS; i++) {
                size_t size = sizeof(records);

                ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, clients[i]), 0);
                ck_assert_int_eq(getsockopt(clients[i][0], SOL_SOCKET, SO_COOKIE, &cookie, &len), 0);
                memset(records, 0, sizeof(records));
                records[0] = (struct parking_record){ .len = 10, .type = PARKING_WAITING, .cookie = cookie, .key = 1, .value = 1 };
                memset(log, 'x', sizeof(log));
                memcpy(log, records, sizeof(records[0]));
                memcpy(log + sizeof(records[0]), "REQUEST 7\n", 10);
                switch (i) {
                case 0: /* not one record */
                        size = 0;
                        break;
                case 1: /* longer than the file */
                        ((struct parking_record *)(void *)log)->len = UINT32_MAX;
                        break;
                case 2: /* cut off */
                        size = sizeof(records[0]) + 5;
                        break;
                case 3: /* of no type */
                        ((struct parking_record *)(void *)log)->type = 99;
                        break;
                case 4: /* of nobody */
                        ((struct parking_record *)(void *)log)->cookie = 1;
                        break;
                case 5: /* answered, and nowhere does it wait */
                        records[0] = (struct parking_record){ .type = PARKING_ANSWERED, .cookie = cookie, .key = UINT64_MAX };
                        memcpy(log, records, sizeof(records));
                        break;
                case 6: /* garbage instead of a command */
                        memcpy(log + sizeof(records[0]), "\0\1\2\3REQ\n\n\n", 10);
                        break;
                }
                snprintf(name, sizeof(name), "parked-%u", i);
                ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
                send_fd(pair[0], clients[i][0]);
                send_fd(pair[0], null);
                send_fd(pair[0], pair[0]);
                send_fd(pair[0], manager.listen_fd);
                close(clients[i][0]);
                ck_assert_int_eq(send(pair[0], "", 1, 0), 1);
                /* No log; one whose records are beyond the end of all files; one that begins within its header. */
                store(name, i == 7 ? dup(null) : make_log(log, size, i == 8 ? UINT64_MAX - 3 : i == 9 ? 5 : PARKING_HEADER_SIZE));
                store(name, pair[0]);
                store(name, pair[1]);
        }
        store("parked-", dup(null));
        store("parked-10", make_log("", 0, PARKING_HEADER_SIZE));
        store("parked-10", make_log("", 0, PARKING_HEADER_SIZE));
        close(null);

        start(soon);
        peer_connect(&peer, manager.socket);
        peer_send(&peer, "REQUEST 7\n");
        peer_expect(&peer, "7", "Response 7 from sim");
        for (unsigned i = 0; i < LOGS; i++) {
                parked.fd = clients[i][1];
                if (i >= 7) {
                        /* Nobody knows what it said: its client sees the end, with a reason or without one. */
                        if (peer_next(&parked, &reply)) {
                                ck_assert_int_eq(reply.type, PROTOCOL_ERR);
                                peer_expect_end(&parked);
                        }
                        peer_close(&parked);
                        continue;
                }
                if (i == 6)
                        for (unsigned line = 0; line < 3; line++)
                                peer_expect_error(&parked, "-", "bad-request", NULL);
                /* It goes on, if without what the log did not tell. */
                peer_send(&parked, "REQUEST 8\n");
                peer_expect(&parked, "8", "Response 8 from sim");
                peer_close(&parked);
        }
        manager_wait_stored(&manager, 0);
        peer_close(&peer);
        finish();
}
END_TEST

static void add(TCase *tests) {
        tcase_set_timeout(tests, 120);
        tcase_add_test(tests, many);
        tcase_add_test(tests, kinds);
        tcase_add_test(tests, timed_out);
        tcase_add_test(tests, ended);
        tcase_add_test(tests, blocked);
        tcase_add_test(tests, long_log);
        tcase_add_test(tests, dropped);
        tcase_add_test(tests, stopped);
        tcase_add_test(tests, restarted_loading);
        tcase_add_test(tests, restarted_ready);
        tcase_add_test(tests, restarted_often);
        tcase_add_test(tests, killed_while_taking_over);
        tcase_add_test(tests, restarted_alone);
        tcase_add_test(tests, hostile);
}

int main(void) {
        return suite_main("parking", add);
}
