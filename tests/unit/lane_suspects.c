#include <stdio.h>
#include <string.h>

#include "tests/unit/queue/world.h"

/* The model of the current generation is lost, and the next one is loading. */
static void lose_model(enum loss how, const char *reason) {
        struct generation *next = generations[current + 1];

        next->loss = how;
        snprintf(next->loss_reason, sizeof(next->loss_reason), "%s", reason);
        next_generation();
}

/* The next one is ready, and every worker had a turn before. */
static void load_again(void) {
        for (unsigned i = 0; i < LANES; i++)
                lane_settle_lost(&lanes[i]);
        open_gate();
        run_turns(2);
}

static uint64_t suspects_of(unsigned lane) {
        return atomic_load(&status.counters[lane].suspects);
}

/* After a crash the requests that were in flight go one at a time, in order of arrival, and nothing beside them. */
START_TEST(go_alone) {
        open_lanes(0);
        open_gate();
        run_turns(1);
        come_to(0, "a");
        come_to(1, "b");
        come_by_http("c", false, true);
        come_to(1, "d");
        assert_journal("+a\n+b\n+c\n+d\n");
        lose("b", ENDING_LOST);
        /* Soon after it was sent, on a connection that had been kept. */
        lose("a", ENDING_STALE);
        lose_model(LOSS_CRASHED, "boom");
        /* These are seen to be lost when the next generation has begun. */
        lose("d", ENDING_LOST);
        lose("c", ENDING_STALE);
        come_to(0, "e");
        come_by_http("f", true, true);
        load_again();
        assert_journal("+a\n");
        ck_assert_uint_eq(suspects_of(0), 2);
        ck_assert_uint_eq(suspects_of(1), 2);
        come_to(1, "g");
        run_later(NSEC_PER_SEC);
        assert_journal("");

        finish("a");
        run_turns(2);
        assert_journal("a ok done\n+b\n");
        finish("b");
        run_turns(2);
        assert_journal("b ok done\n+c\n");
        finish("c");
        run_turns(2);
        assert_journal("c ok done\n+d\n");
        ck_assert_uint_eq(suspects_of(0), 0);
        ck_assert_uint_eq(suspects_of(1), 1);
        finish("d");
        run_turns(2);
        assert_journal("d ok done\n+f\n+e\n+g\n");
        ck_assert_uint_eq(atomic_load(&queue.suspects), 0);
        ck_assert_uint_eq(atomic_load(&queue.lost), 0);
        close_lanes();
}
END_TEST

/* A GET may never end: it is no suspect, but after the second crash. */
START_TEST(light) {
        open_lanes(0);
        open_gate();
        run_turns(1);
        come_by_http("get", true, true);
        come("a");
        for (unsigned i = 0; i < 2; i++) {
                lose("get", ENDING_LOST);
                lose("a", ENDING_LOST);
                lose_model(LOSS_CRASHED, "boom");
                load_again();
                if (i == 0) {
                        assert_journal("+get\n+a\n+a\n");
                        finish("a");
                        run_turns(2);
                        assert_journal("a ok done\n+get\n");
                        come("a");
                        assert_journal("+a\n");
                }
        }
        assert_journal("+get\n");
        finish("get");
        run_turns(2);
        assert_journal("get ok done\n+a\n");
        close_lanes();
}
END_TEST

/* The one that is alone with the model when it crashes again fails; the innocent are answered. */
START_TEST(guilty) {
        open_lanes(0);
        open_gate();
        run_turns(1);
        come_to(0, "a");
        come_to(1, "b");
        come_to(0, "c");
        assert_journal("+a\n+b\n+c\n");
        lose("a", ENDING_LOST);
        lose("b", ENDING_LOST);
        lose("c", ENDING_LOST);
        lose_model(LOSS_CRASHED, "boom");
        load_again();
        finish("a");
        run_turns(2);
        assert_journal("+a\na ok done\n+b\n");
        lose("b", ENDING_LOST);
        lose_model(LOSS_CRASHED, "boom at b");
        assert_journal("b inference-failed The model crashed under this request twice: boom at b\n");
        load_again();
        assert_journal("+c\n");
        finish("c");
        run_turns(2);
        assert_journal("c ok done\n");
        come("d");
        assert_journal("+d\n");
        close_lanes();
}
END_TEST

/* A model that was killed is no sign against its requests: all are sent again at once. But none is sent a third time. */
START_TEST(killed) {
        open_lanes(0);
        open_gate();
        run_turns(1);
        come_to(0, "a");
        come_to(1, "b");
        lose("a", ENDING_LOST);
        lose("b", ENDING_LOST);
        lose_model(LOSS_KILLED, "killed");
        load_again();
        assert_journal("+a\n+b\n+a\n+b\n");
        ck_assert_uint_eq(atomic_load(&queue.suspects), 0);
        lose("a", ENDING_LOST);
        lose_model(LOSS_FROZEN, "it was frozen");
        lose("b", ENDING_LOST);
        load_again();
        assert_journal("a inference-failed it was frozen\nb inference-failed it was frozen\n");
        close_lanes();
}
END_TEST

/* A request that was sent twice goes a third time, alone, when the second time ended in a crash. */
START_TEST(third_time) {
        open_lanes(0);
        open_gate();
        run_turns(1);
        come_to(0, "a");
        come_to(1, "b");
        lose("a", ENDING_LOST);
        lose("b", ENDING_LOST);
        lose_model(LOSS_KILLED, "killed");
        load_again();
        assert_journal("+a\n+b\n+a\n+b\n");
        lose("a", ENDING_LOST);
        lose("b", ENDING_LOST);
        run_turns(2);
        assert_journal("");
        lose_model(LOSS_CRASHED, "boom");
        load_again();
        assert_journal("+a\n");
        finish("a");
        run_turns(2);
        assert_journal("a ok done\n+b\n");
        close_lanes();
}
END_TEST

/* Suspects leave, time out, or hear of the end, as others do: then nobody waits for them. */
START_TEST(suspects_end) {
        limits.timeout = NSEC_PER_SEC;
        open_lanes(0);
        open_gate();
        run_turns(1);
        come_to(1, "a");
        come_to(0, "b");
        move_clock(NSEC_PER_MSEC);
        lose("a", ENDING_LOST);
        lose("b", ENDING_LOST);
        lose_model(LOSS_CRASHED, "boom");
        come_to(0, "c");
        load_again();
        assert_journal("+a\n+b\n+a\n");
        lane_forget(&lanes[1], &owners[1]);
        run_turns(2);
        assert_journal("+b\n");
        run_later(NSEC_PER_SEC - NSEC_PER_MSEC);
        ck_assert_uint_eq(atomic_load(&queue.suspects), 0);
        ck_assert_ptr_nonnull(strstr(journal, "b timed-out "));
        ck_assert_ptr_nonnull(strstr(journal, "+c\n"));
        journal[0] = '\0';
        close_lanes();
        limits.timeout = 0;
}
END_TEST

/* What is not to be repeated is no suspect: it failed when its connection broke. */
START_TEST(not_repeated) {
        open_lanes(0);
        open_gate();
        run_turns(1);
        come_by_http("a", false, false);
        come("b");
        lose("a", ENDING_LOST);
        lose("b", ENDING_LOST);
        lose_model(LOSS_CRASHED, "boom");
        load_again();
        assert_journal("+a\n+b\na inference-failed lost it\n+b\n");
        ck_assert_uint_eq(atomic_load(&queue.suspects), 1);
        close_lanes();
}
END_TEST

/* The load after the crash fails: suspects hear of it as all do. */
START_TEST(load_after_fails) {
        open_lanes(1);
        open_gate();
        run_turns(1);
        come("a");
        come("b");
        lose("a", ENDING_LOST);
        lose_model(LOSS_CRASHED, "boom");
        for (unsigned i = 0; i < LANES; i++)
                lane_settle_lost(&lanes[i]);
        ck_assert_int_eq(gate_fail(&generations[current]->gate, "no memory"), 0);
        run_turns(2);
        assert_journal("+a\na load-failed no memory\nb load-failed no memory\n");
        ck_assert_uint_eq(atomic_load(&queue.suspects), 0);
        close_lanes();
}
END_TEST

static Suite *lane_suspects_suite(void) {
        Suite *suite = suite_create("lane_suspects");
        TCase *tests = tcase_create("suspects");

        tcase_add_test(tests, go_alone);
        tcase_add_test(tests, light);
        tcase_add_test(tests, guilty);
        tcase_add_test(tests, killed);
        tcase_add_test(tests, third_time);
        tcase_add_test(tests, suspects_end);
        tcase_add_test(tests, not_repeated);
        tcase_add_test(tests, load_after_fails);
        suite_add_tcase(suite, tests);
        return suite;
}

UNIT_MAIN(lane_suspects_suite)
