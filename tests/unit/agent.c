#include "daemon/front/agent.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "common/address.h"
#include "common/number.h"
#include "daemon/model/progress.h"
#include "tests/support/unit.h"

static struct reactor reactor;
static struct listener_set sockets;
static struct status status;
static struct agent agent;
static struct gate stop;
static char directory[] = "/tmp/agent-XXXXXX";
static char place[64];

static void setup_with(uint64_t capacity) {
        const char *why;

        memcpy(directory + sizeof(directory) - 7, "XXXXXX", 6);
        ck_assert_ptr_nonnull(mkdtemp(directory));
        snprintf(place, sizeof(place), "unix:%s/s", directory);
        ck_assert_int_eq(listener_set_open(&sockets, place, &why), 0);
        ck_assert_int_eq(reactor_init(&reactor), 0);
        ck_assert_int_eq(gate_init(&stop), 0);
        ck_assert_int_eq(status_init(&status, 2, &stop), 0);
        ck_assert_int_eq(agent_init(&agent, &reactor, &sockets, &status, capacity), 0);
}

static void setup(void) {
        setup_with(8);
}

static void teardown(void) {
        agent_deinit(&agent);
        agent_deinit(&agent);
        ck_assert_uint_eq(atomic_load(&agent.limit.connections), 0);
        listener_set_close(&sockets);
        status_deinit(&status);
        gate_deinit(&stop);
        reactor_deinit(&reactor);
        ck_assert_int_eq(rmdir(directory), 0);
}

static void expect(const char *line) {
        char found[AGENT_LINE_MAX];

        ck_assert_uint_eq(agent_format(&agent, found), strlen(line));
        ck_assert_str_eq(found, line);
}

static void busy(uint64_t processing, uint64_t waiting) {
        counter_set(&status.counters[0].processing, processing);
        counter_set(&status.counters[1].waiting, waiting);
}

START_TEST(each_state) {
        struct progress progress = PROGRESS_NULL;
        char line[AGENT_LINE_MAX];

        status_idle(&status, 1);
        expect("up ready 1%\n");
        status_loading(&status, 1);
        expect("down # loading\n");
        progress.fraction = 0.625;
        status_expect(&status, &progress);
        expect("down # loading, 62 %\n");
        status_ready(&status, "m");
        expect("up ready 100%\n");
        status_failed(&status, "no such\nweights");
        expect("down # no such weights\n");
        memset(line, 'x', sizeof(line) - 1);
        line[sizeof(line) - 1] = '\0';
        status_failed(&status, line);
        ck_assert_uint_lt(agent_format(&agent, line), sizeof(line));
        ck_assert_str_eq(line + strlen(line) - 2, "x\n");
        status_ready(&status, "m");
        ck_assert_int_eq(gate_open(&stop), 0);
        expect("drain\n");
}
END_TEST

START_TEST(draining) {
        status_ready(&status, "m");
        agent_drain(&agent);
        expect("drain\n");
}
END_TEST

/* What is free of the capacity; at least 1 %. */
START_TEST(weights) {
        status_ready(&status, "m");
        busy(1, 0);
        expect("up ready 87%\n");
        busy(2, 0);
        expect("up ready 75%\n");
        busy(8, 0);
        expect("up ready 1%\n");
        busy(8, 1000);
        expect("up ready 1%\n");
        agent.capacity = 0;
        expect("up ready 100%\n");
        agent.capacity = UINT32_MAX;
        expect("up ready 99%\n");
        agent.capacity = 1000;
        busy(999, 0);
        expect("up ready 1%\n");
}
END_TEST

static int dial(void) {
        struct sockaddr_un address;
        socklen_t len;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        ck_assert_int_eq(address_from_path(place + strlen("unix:"), &address, &len), 0);
        ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, len), 0);
        return fd;
}

static void end_turn(struct job *job) {
        (void)job;
        reactor_stop(&reactor);
}

/* Turns until nothing is ready any more. */
static void turn(void) {
        struct job job;

        for (unsigned i = 0; i < 4; i++) {
                job_init(&job, end_turn);
                reactor_queue(&reactor, &job);
                reactor.stopped = false;
                ck_assert_int_eq(reactor_run(&reactor), 0);
        }
}

static void expect_line_and_end(int fd) {
        char line[AGENT_LINE_MAX];
        struct pollfd poller = { .fd = fd, .events = POLLIN };

        ck_assert_int_eq(poll(&poller, 1, 30000), 1);
        ck_assert_int_eq(read(fd, line, sizeof(line)), sizeof("up ready 100%\n") - 1);
        ck_assert_int_eq(memcmp(line, "up ready 100%\n", sizeof("up ready 100%\n") - 1), 0);
        ck_assert_int_eq(poll(&poller, 1, 30000), 1);
        ck_assert_int_eq(read(fd, line, sizeof(line)), 0);
}

START_TEST(a_client) {
        int fd = dial();

        status_ready(&status, "m");
        turn();
        expect_line_and_end(fd);
        ck_assert_uint_eq(atomic_load(&agent.limit.connections), 1);
        /* What it sends is read, so that closing resets nothing. */
        ck_assert_int_eq(write(fd, "one\n", 4), 4);
        turn();
        ck_assert_uint_eq(atomic_load(&agent.limit.connections), 1);
        close(fd);
        turn();
        ck_assert_uint_eq(atomic_load(&agent.limit.connections), 0);
}
END_TEST

/* Who sends without an end is none. */
START_TEST(a_client_that_talks) {
        static const char words[8192];
        int fd = dial();

        status_ready(&status, "m");
        ck_assert_int_eq(write(fd, words, sizeof(words)), sizeof(words));
        for (unsigned i = 0; i < 8; i++)
                turn();
        ck_assert_uint_eq(atomic_load(&agent.limit.connections), 0);
        close(fd);
}
END_TEST

/* Clients that do not close take the place of each other, and of nobody else. */
START_TEST(clients_that_stay) {
        int fds[3 * AGENT_CONNECTIONS_MAX];

        status_ready(&status, "m");
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
                fds[i] = dial();
                turn();
                ck_assert_uint_le(atomic_load(&agent.limit.connections), AGENT_CONNECTIONS_MAX);
        }
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
                expect_line_and_end(fds[i]);
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
                close(fds[i]);
        for (unsigned i = 0; i < 8; i++)
                turn();
        ck_assert_uint_eq(atomic_load(&agent.limit.connections), 0);
}
END_TEST

/* Many at once. */
START_TEST(a_crowd) {
        int fds[2 * AGENT_CONNECTIONS_MAX];

        status_ready(&status, "m");
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
                fds[i] = dial();
        for (unsigned i = 0; i < 8; i++)
                turn();
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
                expect_line_and_end(fds[i]);
                close(fds[i]);
        }
}
END_TEST

static Suite *agent_suite(void) {
        Suite *suite = suite_create("agent");
        TCase *tcase = tcase_create("agent");

        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_test(tcase, each_state);
        tcase_add_test(tcase, draining);
        tcase_add_test(tcase, weights);
        tcase_add_test(tcase, a_client);
        tcase_add_test(tcase, a_client_that_talks);
        tcase_add_test(tcase, clients_that_stay);
        tcase_add_test(tcase, a_crowd);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(agent_suite)
