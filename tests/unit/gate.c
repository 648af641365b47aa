#include "daemon/loop/gate.h"

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "tests/support/unit.h"

static bool is_readable(int fd) {
        struct pollfd poller = { .fd = fd, .events = POLLIN };

        return poll(&poller, 1, 0) == 1;
}

START_TEST(gate_opens_once) {
        struct gate gate;
        uint64_t count;

        ck_assert_int_eq(gate_init(&gate), 0);
        ck_assert_int_eq(gate_state(&gate), GATE_PENDING);
        ck_assert(!is_readable(gate.fd));

        ck_assert_int_eq(gate_open(&gate), 0);
        ck_assert_int_eq(gate_state(&gate), GATE_OPEN);
        ck_assert(is_readable(gate.fd));

        ck_assert_int_eq(gate_open(&gate), 1);
        ck_assert_int_eq(gate_fail(&gate, "late"), 1);
        ck_assert_int_eq(gate_state(&gate), GATE_OPEN);
        ck_assert_str_eq(gate.reason, "");

        /* Written exactly once. */
        ck_assert_int_eq(read(gate.fd, &count, sizeof(count)), sizeof(count));
        ck_assert_uint_eq(count, 1);
        gate_deinit(&gate);
        gate_deinit(&gate);
}
END_TEST

START_TEST(gate_fails_with_its_reason) {
        struct gate gate;
        char reason[GATE_REASON_MAX * 2];

        ck_assert_int_eq(gate_init(&gate), 0);
        ck_assert_int_eq(gate_fail(&gate, "no such file"), 0);
        ck_assert_int_eq(gate_state(&gate), GATE_FAILED);
        ck_assert_str_eq(gate.reason, "no such file");
        ck_assert_int_eq(gate_fail(&gate, "another"), 1);
        ck_assert_int_eq(gate_open(&gate), 1);
        ck_assert_str_eq(gate.reason, "no such file");
        gate_deinit(&gate);

        memset(reason, 'x', sizeof(reason) - 1);
        reason[sizeof(reason) - 1] = '\0';
        ck_assert_int_eq(gate_init(&gate), 0);
        ck_assert_int_eq(gate_fail(&gate, reason), 0);
        ck_assert_uint_eq(strlen(gate.reason), GATE_REASON_MAX - 1);
        gate_deinit(&gate);
}
END_TEST

/* One write reaches every set that watches, once, and those that are added behind it. */
START_TEST(gate_wakes_every_set) {
        struct epoll_event event = { .events = EPOLLIN | EPOLLET }, got;
        struct gate gate;
        int sets[8];

        ck_assert_int_eq(gate_init(&gate), 0);
        for (size_t i = 0; i < ARRAY_SIZE(sets); i++) {
                sets[i] = epoll_create1(0);
                if (i < 4)
                        ck_assert_int_eq(epoll_ctl(sets[i], EPOLL_CTL_ADD, gate.fd, &event), 0);
        }
        ck_assert_int_eq(gate_open(&gate), 0);
        for (size_t i = 0; i < ARRAY_SIZE(sets); i++) {
                if (i >= 4)
                        ck_assert_int_eq(epoll_ctl(sets[i], EPOLL_CTL_ADD, gate.fd, &event), 0);
                ck_assert_int_eq(epoll_wait(sets[i], &got, 1, 0), 1);
                ck_assert_int_eq(epoll_wait(sets[i], &got, 1, 0), 0);
                close(sets[i]);
        }
        gate_deinit(&gate);
}
END_TEST

#define RACES 2000

struct race {
        struct gate gate;
        pthread_barrier_t barrier;
        int value;
};

static void *race_open(void *argument) {
        struct race *race = argument;

        pthread_barrier_wait(&race->barrier);
        return (void *)(intptr_t)gate_open(&race->gate);
}

static void *race_fail(void *argument) {
        struct race *race = argument;

        pthread_barrier_wait(&race->barrier);
        return (void *)(intptr_t)gate_fail(&race->gate, "reason");
}

/* Of open and fail, one counts; who sees that it failed sees why. */
START_TEST(gate_race) {
        for (unsigned i = 0; i < RACES; i++) {
                enum gate_state state;
                pthread_t threads[2];
                struct race race;
                void *opened, *failed;

                ck_assert_int_eq(gate_init(&race.gate), 0);
                pthread_barrier_init(&race.barrier, NULL, 3);
                pthread_create(&threads[0], NULL, race_open, &race);
                pthread_create(&threads[1], NULL, race_fail, &race);
                pthread_barrier_wait(&race.barrier);
                while ((state = gate_state(&race.gate)) == GATE_PENDING)
                        sched_yield();
                if (state == GATE_FAILED)
                        ck_assert_str_eq(race.gate.reason, "reason");
                pthread_join(threads[0], &opened);
                pthread_join(threads[1], &failed);
                ck_assert_int_eq((intptr_t)opened, state == GATE_OPEN ? 0 : 1);
                ck_assert_int_eq((intptr_t)failed, state == GATE_FAILED ? 0 : 1);
                ck_assert_int_eq(gate_state(&race.gate), state);
                ck_assert(is_readable(race.gate.fd));
                pthread_barrier_destroy(&race.barrier);
                gate_deinit(&race.gate);
        }
}
END_TEST

static Suite *gate_suite(void) {
        Suite *suite = suite_create("gate");
        TCase *tcase = tcase_create("gate");

        tcase_set_timeout(tcase, 60);
        tcase_add_test(tcase, gate_opens_once);
        tcase_add_test(tcase, gate_fails_with_its_reason);
        tcase_add_test(tcase, gate_wakes_every_set);
        tcase_add_test(tcase, gate_race);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(gate_suite)
