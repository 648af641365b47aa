/*
 * A real model server behind msd: started, watched, asked, and outlived. It is the tests' own (tests/upstream/server.c).
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/manager.h"
#include "tests/support/port.h"
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

static void start(const char *const *options, const char *const *of_server) {
        served_start(&msd, NULL, url, options, of_server);
}

/* Waits until a process that is not ours is gone. */
static void wait_gone(pid_t pid) {
        uint64_t deadline = clock_patience();

        while (kill(pid, 0) == 0) {
                if (clock_now() >= deadline)
                        process_give_up("Process %d lives on", (int)pid);
                (void)process_poll(NULL, 0, MIN(deadline, clock_now() + 10 * NSEC_PER_MSEC));
        }
}

START_TEST(ready_by_probe) {
        struct peer_status status;

        start(OPTIONS(), OPTIONS("--load", "500ms"));
        peer_status(&msd.control, &status);
        ck_assert_str_eq(status.status, "loading");
        served_ask(&msd.control, "REQUEST", "1", "hello");
        peer_expect(&msd.control, "1", "echo hello");
        peer_status(&msd.control, &status);
        /* The name is what the server calls it. */
        ck_assert_str_eq(status.model, "echo-1b");
        ck_assert(status.load >= 0.5);
        process_wait_output(&msd.process, "upstream: loading\n");
        daemon_stop(&msd);
}
END_TEST

/* Pushed: nothing is asked in between. And what it says of itself is passed on. */
START_TEST(ready_by_notification) {
        struct manager manager;

        manager_init(&manager);
        served_start(&msd, &manager.setup, url, OPTIONS("--model", "mine"), OPTIONS("--notify", "--never-healthy", "--load", "700ms"));
        served_ask(&msd.control, "REQUEST", "1", "hello");
        manager_wait_begin(&manager, "STATUS=Loading mine: half way");
        manager_wait(&manager, "EXTEND_TIMEOUT_USEC=7000000000");
        ck_assert(!manager_has(&manager, "READY=1"));
        peer_expect(&msd.control, "1", "echo hello");
        manager_wait(&manager, "READY=1");
        ck_assert_uint_eq(manager_count(&manager, "STATUS=Ready: mine was loaded in"), 1);
        daemon_stop(&msd);
        manager_deinit(&manager);
}
END_TEST

START_TEST(ready_by_line) {
        start(OPTIONS("--ready-line", "^listening on .*sock$"),
              OPTIONS("--never-healthy", "--load", "300ms", "--line", "listening on unix:///x.sock"));
        served_ask(&msd.control, "REQUEST", "1", "hello");
        peer_expect(&msd.control, "1", "echo hello");
        process_wait_output(&msd.process, "listening on unix:///x.sock\n");
        daemon_stop(&msd);
}
END_TEST

/* One that says that it is healthy, and cannot work yet. */
START_TEST(ready_by_warmup) {
        struct peer_status status;

        start(OPTIONS("--warmup", "are you there"), OPTIONS("--eager", "--load", "700ms"));
        served_ask(&msd.control, "REQUEST", "1", "hello");
        peer_expect(&msd.control, "1", "echo hello");
        peer_status(&msd.control, &status);
        ck_assert(status.load >= 0.7);
        daemon_stop(&msd);
}
END_TEST

START_TEST(over_tcp) {
        struct process process = PROCESS_NULL;
        char port[16], address[64];
        uint16_t number;
        int fd = port_take(&number);

        if (fd < 0) {
                suite_skip("over_tcp", "there is no network here");
                return;
        }
        snprintf(port, sizeof(port), "%u", number);
        snprintf(address, sizeof(address), "http://127.0.0.1:%s", port);
        process_start(&process, served_program(), OPTIONS("server", "--port", port, "--load", "300ms"), NULL);
        daemon_start(&msd, "--upstream", address, NULL);
        served_ask(&msd.control, "REQUEST", "1", "hello");
        peer_expect(&msd.control, "1", "echo hello");
        daemon_stop(&msd);
        /* What msd has not started it does not stop. */
        ck_assert(!process.exited);
        process_free(&process);
        close(fd);
}
END_TEST

/* Why, with its last words; and those that wait hear it. */
START_TEST(load_fails) {
        start(OPTIONS("--load-attempts", "1", "--on-load-failure", "stay"), OPTIONS("--load", "200ms", "--exit", "3"));
        served_ask(&msd.control, "REQUEST", "1", "hello");
        peer_expect_error(&msd.control, "1", "load-failed",
                          "server: It exited with status 3: upstream: no such weights");
        daemon_stop(&msd);
}
END_TEST

START_TEST(no_such_program) {
        daemon_start(&msd, "--upstream", url, "--load-attempts", "1", "--on-load-failure", "stay", "--", "/no/such/program", NULL);
        served_ask(&msd.control, "REQUEST", "1", "hello");
        peer_expect_error(&msd.control, "1", "load-failed", "Cannot start /no/such/program: No such file or directory");
        daemon_stop(&msd);
}
END_TEST

START_TEST(stuck) {
        struct peer_reply reply;

        start(OPTIONS("--load-attempts", "1", "--stall-timeout", "500ms", "--on-load-failure", "stay", "--health-path", "/"),
              OPTIONS("--stuck"));
        /* That it answers at all is progress: it is stopped, so that it does not. */
        process_wait_output(&msd.process, "upstream: loading\n");
        ck_assert_int_eq(kill(served_child_of(msd.process.pid), SIGSTOP), 0);
        served_ask(&msd.control, "REQUEST", "1", "hello");
        ck_assert(peer_next(&msd.control, &reply));
        ck_assert_str_eq(reply.code, "load-failed");
        ck_assert_msg(strstr(reply.body, "The load made no progress for 500ms"), "%s", reply.body);
        daemon_stop(&msd);
}
END_TEST

/* The deadline follows progress: a slow load is not a stuck one. */
START_TEST(slow) {
        start(OPTIONS("--load-attempts", "1", "--stall-timeout", "1500ms"), OPTIONS("--load", "4s"));
        served_ask(&msd.control, "REQUEST", "1", "hello");
        peer_expect(&msd.control, "1", "echo hello");
        daemon_stop(&msd);
}
END_TEST

/* The loading server is killed while 5,000 wait: every one of them is answered by the second attempt. */
START_TEST(killed_while_loading) {
        struct peer_status status;
        struct text sent = TEXT_NULL;
        unsigned char seen[5000] = { 0 };

        start(OPTIONS("--max-inflight", "64"), OPTIONS("--load", "1h", "--once", once));
        for (unsigned i = 0; i < ARRAY_SIZE(seen); i++)
                text_appendf(&sent, "REQUEST %u 2\nhi\n", i);
        peer_send_bytes(&msd.control, sent.data, sent.len);
        text_deinit(&sent);
        peer_status_until(&msd.control, &status, peer_status_is_waiting, ARRAY_SIZE(seen), "they wait");
        process_wait_output(&msd.process, "upstream: loading\n");
        ck_assert_int_eq(kill(served_child_of(msd.process.pid), SIGKILL), 0);
        for (unsigned i = 0; i < ARRAY_SIZE(seen); i++) {
                struct peer_reply reply;

                ck_assert(peer_next(&msd.control, &reply));
                ck_assert_msg(reply.type == PROTOCOL_OK, "%s %s %s", reply.id, reply.code, reply.body);
                ck_assert_str_eq(reply.body, "echo hi");
                ck_assert_uint_eq(seen[atoi(reply.id)]++, 0);
        }
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.attempt, 2);
        ck_assert_uint_eq(status.generation, 1);
        ck_assert_ptr_nonnull(strstr(status.error, "It was killed by SIGKILL"));
        daemon_stop(&msd);
}
END_TEST

/* The ready server is killed with 200 in flight: they are answered by the next. A stream that had begun is not. */
START_TEST(killed_while_ready) {
        struct peer_status status;
        struct peer_reply reply;
        struct peer stream;

        start(OPTIONS(), OPTIONS("--think", "500ms"));
        daemon_wait_ready(&msd);
        peer_connect(&stream, msd.socket);
        served_ask(&stream, "STREAM", "s", "0123456789");
        ck_assert(peer_next(&stream, &reply));
        ck_assert_int_eq(reply.type, PROTOCOL_PART);
        for (unsigned i = 0; i < 200; i++) {
                char id[16];

                snprintf(id, sizeof(id), "%u", i);
                served_ask(&msd.control, "REQUEST", id, "hi");
        }
        peer_status_until(&msd.control, &status, peer_status_is_processing, 201, "they are in flight");
        ck_assert_int_eq(kill(served_child_of(msd.process.pid), SIGKILL), 0);
        for (unsigned i = 0; i < 200; i++) {
                ck_assert(peer_next(&msd.control, &reply));
                ck_assert_msg(reply.type == PROTOCOL_OK, "%s %s %s", reply.id, reply.code, reply.body);
                ck_assert_str_eq(reply.body, "echo hi");
        }
        do
                ck_assert(peer_next(&stream, &reply));
        while (reply.type == PROTOCOL_PART);
        ck_assert_str_eq(reply.code, "inference-failed");
        ck_assert_ptr_nonnull(strstr(reply.body, "cut short"));
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.generation, 2);
        ck_assert_ptr_nonnull(strstr(status.error, "It was killed by SIGKILL"));
        peer_close(&stream);
        daemon_stop(&msd);
}
END_TEST

static bool is_generation(const struct peer_status *status, uint64_t number) {
        return status->generation == number;
}

/* One that msd did not start goes, and comes back. */
START_TEST(found_lost_and_found) {
        struct process process = PROCESS_NULL;
        struct peer_status status;

        start(OPTIONS(), NULL);
        served_ask(&msd.control, "REQUEST", "1", "hello");
        peer_status_until(&msd.control, &status, peer_status_is_waiting, 1, "it waits");
        process_start(&process, served_program(), OPTIONS("server", "--socket", upstream_socket), NULL);
        peer_expect(&msd.control, "1", "echo hello");
        process_signal(&process, SIGKILL);
        (void)process_wait(&process);
        process_free(&process);
        served_ask(&msd.control, "REQUEST", "2", "again");
        /* Not before it was found lost: one that answers again in time is none. */
        peer_status_until(&msd.control, &status, is_generation, 2, "it waits for the next one");
        ck_assert_int_eq(unlink(upstream_socket), 0);
        process_start(&process, served_program(), OPTIONS("server", "--socket", upstream_socket), NULL);
        peer_expect(&msd.control, "2", "echo again");
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.generation, 2);
        daemon_stop(&msd);
        process_free(&process);
}
END_TEST

/* Waits until the peer's worker has come to the end of a turn, at which it has parked all that is due. */
static void wait_turned(struct peer *peer) {
        struct peer_status status;

        peer_status(peer, &status);
        peer_status(peer, &status);
}

/* Lost by the model, and then by the daemon: it is parked as any that waits. */
START_TEST(lost_twice) {
        struct process process = PROCESS_NULL, model = PROCESS_NULL;
        const char *const arguments[] = { "--upstream", url, "--model", "echo", NULL };
        struct manager manager;
        struct peer_status status;
        struct peer peer;

        manager_init(&manager);
        process_start(&model, served_program(), OPTIONS("server", "--socket", upstream_socket, "--think", "1h"), NULL);
        manager_start(&manager, &process, arguments);
        manager_wait(&manager, "READY=1");
        peer_connect(&peer, manager.socket);
        served_ask(&peer, "REQUEST", "1", "hello");
        peer_connect(&msd.control, manager.socket);
        peer_status_until(&msd.control, &status, peer_status_is_processing, 1, "it is in flight");
        process_signal(&model, SIGKILL);
        (void)process_wait(&model);
        process_free(&model);
        peer_status_until(&msd.control, &status, peer_status_is_waiting, 1, "it waits again");
        do
                peer_status(&msd.control, &status);
        while (status.generation != 2);
        wait_turned(&peer);
        process_signal(&process, SIGKILL);
        ck_assert_int_eq(process_wait(&process), 128 + SIGKILL);
        process_free(&process);

        ck_assert_int_eq(unlink(upstream_socket), 0);
        process_start(&model, served_program(), OPTIONS("server", "--socket", upstream_socket), NULL);
        manager_start(&manager, &process, arguments);
        peer_expect(&peer, "1", "echo hello");
        process_signal(&process, SIGTERM);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        process_free(&model);
        peer_close(&peer);
        peer_close(&msd.control);
        manager_deinit(&manager);
}
END_TEST

/* The same of many, on connections of several workers that hear of it in any order: each is answered once. */
START_TEST(lost_and_parked) {
        const char *const first[] = { "--upstream", url, "--model", "echo", "--threads", "4", "--", served_program(), "--socket",
                                      upstream_socket, "--once", once, "--again", "1h", "--think", "1h", NULL };
        const char *const next[] = { "--upstream", url, "--model", "echo", "--", served_program(), "--socket", upstream_socket, NULL };
        struct process process = PROCESS_NULL;
        struct manager manager;
        struct peer_status status;
        struct peer peers[8];

        manager_init(&manager);
        manager_start(&manager, &process, first);
        manager_wait(&manager, "READY=1");
        peer_connect(&msd.control, manager.socket);
        for (unsigned i = 0; i < ARRAY_SIZE(peers); i++) {
                peer_connect(&peers[i], manager.socket);
                for (unsigned j = 0; j < 50; j++) {
                        char id[16];

                        snprintf(id, sizeof(id), "%u", j);
                        served_ask(&peers[i], "REQUEST", id, "hi");
                }
        }
        peer_status_until(&msd.control, &status, peer_status_is_processing, 400, "they are in flight");
        ck_assert_int_eq(kill(served_child_of(process.pid), SIGKILL), 0);
        peer_status_until(&msd.control, &status, peer_status_is_waiting, 400, "they wait again");
        do
                peer_status(&msd.control, &status);
        while (status.generation != 2);
        for (unsigned i = 0; i < ARRAY_SIZE(peers); i++)
                wait_turned(&peers[i]);
        process_signal(&process, SIGKILL);
        ck_assert_int_eq(process_wait(&process), 128 + SIGKILL);
        process_free(&process);

        manager_start(&manager, &process, next);
        for (unsigned i = 0; i < ARRAY_SIZE(peers); i++) {
                bool seen[50] = { false };
                struct peer_reply reply;

                for (unsigned j = 0; j < ARRAY_SIZE(seen); j++) {
                        ck_assert(peer_next(&peers[i], &reply));
                        ck_assert_str_eq(reply.body, "echo hi");
                        ck_assert_msg(!seen[atoi(reply.id)], "A second reply to %s", reply.id);
                        seen[atoi(reply.id)] = true;
                }
        }
        peer_close(&msd.control);
        peer_connect(&msd.control, manager.socket);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.completed, 400);
        for (unsigned i = 0; i < ARRAY_SIZE(peers); i++)
                peer_close(&peers[i]);
        peer_close(&msd.control);
        process_signal(&process, SIGTERM);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        manager_deinit(&manager);
}
END_TEST

/* What is in flight first, then the server, with all that it started. */
START_TEST(stops) {
        uint64_t began;
        pid_t child, grandchild;
        struct peer_status status;

        start(OPTIONS(), OPTIONS("--think", "1s", "--spawn"));
        daemon_wait_ready(&msd);
        child = served_child_of(msd.process.pid);
        grandchild = served_child_of(child);
        ck_assert_int_gt(grandchild, 0);
        served_ask(&msd.control, "REQUEST", "1", "hello");
        peer_status_until(&msd.control, &status, peer_status_is_processing, 1, "it is in flight");
        process_signal(&msd.process, SIGTERM);
        peer_expect(&msd.control, "1", "echo hello");
        began = clock_now();
        daemon_expect_exit(&msd, 0);
        ck_assert_uint_lt(clock_now() - began, 4 * NSEC_PER_SEC);
        wait_gone(child);
        wait_gone(grandchild);
}
END_TEST

/* One that does not listen to SIGTERM has --stop-timeout. */
START_TEST(stops_the_deaf) {
        uint64_t began;
        pid_t child;

        start(OPTIONS("--stop-timeout", "1s"), OPTIONS("--ignore-term"));
        daemon_wait_ready(&msd);
        child = served_child_of(msd.process.pid);
        began = clock_now();
        daemon_stop(&msd);
        ck_assert_uint_ge(clock_now() - began, NSEC_PER_SEC);
        wait_gone(child);
}
END_TEST

/* A daemon that is killed takes the server with it, and what that had started goes with the next start. */
START_TEST(daemon_killed) {
        pid_t child, grandchild;
        struct daemon next;

        start(OPTIONS(), OPTIONS("--spawn"));
        daemon_wait_ready(&msd);
        child = served_child_of(msd.process.pid);
        grandchild = served_child_of(child);
        process_signal(&msd.process, SIGKILL);
        (void)process_wait(&msd.process);
        wait_gone(child);
        ck_assert_int_eq(kill(grandchild, 0), 0);
        peer_close(&msd.control);
        process_free(&msd.process);

        /* Its socket file, which the server left, is no hindrance. */
        ck_assert_int_eq(access(upstream_socket, F_OK), 0);
        snprintf(next.directory, sizeof(next.directory), "%s", msd.directory);
        daemon_start_at(&next, suite_msd(), msd.socket, NULL,
                        OPTIONS("--socket", msd.socket, "--upstream", url, "--", served_program(), "--socket", upstream_socket));
        served_ask(&next.control, "REQUEST", "1", "hello");
        peer_expect(&next.control, "1", "echo hello");
        wait_gone(grandchild);
        daemon_stop(&next);
}
END_TEST

/* The same with one that still listens there: it is a server that an earlier msd has started, and not somebody else's. */
START_TEST(left_listening) {
        char path[64], environment[16384];
        const char *owner = environment;
        struct process left;
        struct daemon next;
        FILE *file;
        size_t n;

        start(OPTIONS(), OPTIONS());
        daemon_wait_ready(&msd);
        snprintf(path, sizeof(path), "/proc/%d/environ", (int)served_child_of(msd.process.pid));
        file = fopen(path, "re");
        ck_assert_ptr_nonnull(file);
        n = fread(environment, 1, sizeof(environment) - 1, file);
        fclose(file);
        environment[n] = '\0';
        while (strncmp(owner, "MSD_OWNER=", 10) != 0) {
                owner += strlen(owner) + 1;
                ck_assert(owner < environment + n);
        }
        process_signal(&msd.process, SIGKILL);
        (void)process_wait(&msd.process);
        peer_close(&msd.control);
        process_free(&msd.process);

        ck_assert_int_eq(unlink(upstream_socket), 0);
        process_start(&left, served_program(), OPTIONS("server", "--socket", upstream_socket, "--load", "1h"),
                      &(struct process_setup){ .environment = OPTIONS(owner) });
        process_wait_output(&left, "upstream: loading\n");

        snprintf(next.directory, sizeof(next.directory), "%s", msd.directory);
        daemon_start_at(&next, suite_msd(), msd.socket, NULL,
                        OPTIONS("--socket", msd.socket, "--load-attempts", "1", "--upstream", url, "--", served_program(), "--socket",
                                upstream_socket));
        served_ask(&next.control, "REQUEST", "1", "hello");
        peer_expect(&next.control, "1", "echo hello");
        ck_assert_int_eq(process_wait(&left), 128 + SIGTERM);
        process_free(&left);
        daemon_stop(&next);
}
END_TEST

static bool is_one_in_flight(const struct peer_status *status, uint64_t waiting) {
        ck_assert_uint_le(status->processing, 1);
        return status->processing == 1 && status->waiting == waiting;
}

/* A server with one place has one request at a time, in the order in which they came, from whichever connection. */
START_TEST(one_place) {
        struct peer_status status;
        struct peer peers[8];

        start(OPTIONS("--max-inflight", "1", "--threads", "4"), OPTIONS("--think", "50ms"));
        daemon_wait_ready(&msd);
        for (unsigned i = 0; i < ARRAY_SIZE(peers); i++) {
                char id[16];

                peer_connect(&peers[i], msd.socket);
                snprintf(id, sizeof(id), "%u", i);
                served_ask(&peers[i], "REQUEST", id, "hi");
                served_ask(&peers[i], "REQUEST", "more", "hi");
        }
        peer_status_until(&msd.control, &status, is_one_in_flight, 10, "one is in flight, and some wait");
        /* One whose client goes makes room too. */
        peer_close(&peers[7]);
        for (unsigned i = 0; i < ARRAY_SIZE(peers) - 1; i++) {
                struct peer_reply reply;

                for (unsigned j = 0; j < 2; j++) {
                        ck_assert(peer_next(&peers[i], &reply));
                        ck_assert_int_eq(reply.type, PROTOCOL_OK);
                }
                peer_close(&peers[i]);
        }
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.waiting + status.processing, 0);
        daemon_stop(&msd);
}
END_TEST

START_TEST(requests) {
        struct peer_reply reply;
        char text[64];
        size_t n = 0;

        start(OPTIONS("--model", "mine", "--max-tokens", "7", "--completion-options", "{\"temperature\":0,\"prompt\":\"no\"}"),
              OPTIONS());
        served_ask(&msd.control, "REQUEST", "1", "body");
        peer_expect(&msd.control, "1",
                    "{\"max_tokens\":7,\"model\":\"mine\",\"prompt\":\"body\",\"stream\":false,\"temperature\":0}");
        served_ask(&msd.control, "REQUEST", "2", "a \"quoted\"\nline \xc3\xa9");
        peer_expect(&msd.control, "2", "echo a \"quoted\"\nline \xc3\xa9");
        served_ask(&msd.control, "STREAM", "3", "parts");
        while (peer_next(&msd.control, &reply) && reply.type == PROTOCOL_PART) {
                memcpy(text + n, reply.body, reply.len);
                n += reply.len;
        }
        ck_assert_int_eq(reply.type, PROTOCOL_OK);
        ck_assert_uint_eq(reply.len, 0);
        ck_assert_uint_eq(n, strlen("echo parts"));
        ck_assert_int_eq(memcmp(text, "echo parts", n), 0);

        peer_send(&msd.control, "REQUEST 4\n");
        peer_expect_error(&msd.control, "4", "bad-request", "This model needs a prompt");
        served_ask(&msd.control, "REQUEST", "5", "\xff\xfe");
        peer_expect_error(&msd.control, "5", "inference-failed", "The prompt is not UTF-8");
        served_ask(&msd.control, "REQUEST", "6", "status 400");
        peer_expect_error(&msd.control, "6", "inference-failed", "As you like it");
        served_ask(&msd.control, "STREAM", "7", "status 500");
        peer_expect_error(&msd.control, "7", "inference-failed", "As you like it");
        served_ask(&msd.control, "REQUEST", "8", "garbage");
        peer_expect_error(&msd.control, "8", "inference-failed", "The model server's answer is no completion");
        /* It is sent once more, for it was perhaps the server's end. */
        served_ask(&msd.control, "REQUEST", "9", "cut");
        peer_expect_error(&msd.control, "9", "inference-failed", NULL);
        served_ask(&msd.control, "REQUEST", "10", "status 503");
        peer_expect_error(&msd.control, "10", "inference-failed", "As you like it");
        served_ask(&msd.control, "STREAM", "11", "cutstream");
        do
                ck_assert(peer_next(&msd.control, &reply));
        while (reply.type == PROTOCOL_PART);
        ck_assert_str_eq(reply.code, "inference-failed");
        daemon_stop(&msd);
}
END_TEST

/* One that never answers: the request's own time-out ends it, and nothing else waits for it. */
START_TEST(hangs) {
        struct peer_status status;

        start(OPTIONS("--request-timeout", "500ms", "--max-inflight", "1"), OPTIONS());
        daemon_wait_ready(&msd);
        served_ask(&msd.control, "REQUEST", "1", "hang");
        peer_expect_error(&msd.control, "1", "timed-out", NULL);
        served_ask(&msd.control, "REQUEST", "2", "hello");
        peer_expect(&msd.control, "2", "echo hello");
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.processing, 0);
        daemon_stop(&msd);
}
END_TEST

/* A client that goes away has its request cancelled at the server too. */
START_TEST(cancelled) {
        struct peer_status status;
        struct peer_reply reply;
        struct peer peer;

        start(OPTIONS(), OPTIONS("--think", "100ms"));
        daemon_wait_ready(&msd);
        peer_connect(&peer, msd.socket);
        served_ask(&peer, "STREAM", "1", "a long story of which nobody hears the end, for the client has gone before that");
        ck_assert(peer_next(&peer, &reply));
        ck_assert_int_eq(reply.type, PROTOCOL_PART);
        peer_close(&peer);
        process_wait_errors(&msd.process, "upstream: cancelled\n");
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.cancelled, 1);
        ck_assert_uint_eq(status.processing, 0);
        daemon_stop(&msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, ready_by_probe);
        tcase_add_test(tests, ready_by_notification);
        tcase_add_test(tests, ready_by_line);
        tcase_add_test(tests, ready_by_warmup);
        tcase_add_test(tests, over_tcp);
        tcase_add_test(tests, load_fails);
        tcase_add_test(tests, no_such_program);
        tcase_add_test(tests, stuck);
        tcase_add_test(tests, slow);
        tcase_add_test(tests, killed_while_loading);
        tcase_add_test(tests, killed_while_ready);
        tcase_add_test(tests, found_lost_and_found);
        tcase_add_test(tests, lost_twice);
        tcase_add_test(tests, lost_and_parked);
        tcase_add_test(tests, stops);
        tcase_add_test(tests, stops_the_deaf);
        tcase_add_test(tests, daemon_killed);
        tcase_add_test(tests, left_listening);
        tcase_add_test(tests, one_place);
        tcase_add_test(tests, requests);
        tcase_add_test(tests, hangs);
        tcase_add_test(tests, cancelled);
}

int main(void) {
        return suite_main("upstream", add);
}
