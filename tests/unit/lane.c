#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/queue/world.h"

START_TEST(waits_and_goes) {
        open_lanes(0);
        come("a");
        come("b");
        ck_assert_uint_eq(atomic_load(&status.counters->waiting), 2);
        ck_assert_uint_ne(atomic_load(&status.counters->oldest), 0);
        ck_assert_uint_eq(pendings, 2);
        /* Waiting costs nothing: neither a timer nor a job. */
        ck_assert_uint_eq(timer_list_due(&reactors[0].timers), UINT64_MAX);
        ck_assert(list_is_empty(&reactors[0].jobs));
        assert_journal("");

        open_gate();
        run_turns(1);
        assert_journal("+a\n+b\n");
        /* Later ones go at once. */
        come("c");
        assert_journal("+c\n");
        finish("b");
        finish("a");
        finish("c");
        assert_journal("b ok done\na ok done\nc ok done\n");
        ck_assert_uint_eq(atomic_load(&status.counters->completed), 3);
        close_lanes();
}
END_TEST

START_TEST(load_fails) {
        open_lanes(0);
        come("a");
        ck_assert_int_eq(gate_fail(&generations[0]->gate, "no file"), 0);
        run_turns(1);
        come("b");
        assert_journal("a load-failed no file\nb load-failed no file\n");
        ck_assert_uint_eq(atomic_load(&status.counters->failed), 2);

        /* The next generation has a gate of its own, which a request finds before the worker has heard of it. */
        atomic_store(&queue.generation, generations[++current]);
        come("c");
        assert_journal("");
        open_gate();
        run_turns(1);
        assert_journal("+c\n");
        close_lanes();
}
END_TEST

/* Requests whose load failed hear that, also where the daemon stops because of it. */
START_TEST(load_fails_and_stops) {
        open_lanes(0);
        come("a");
        ck_assert_int_eq(gate_fail(&generations[0]->gate, "no file"), 0);
        ck_assert_int_eq(gate_open(&stop), 0);
        run_turns(1);
        assert_journal("a load-failed no file\n");
        ck_assert_uint_gt(idles, 0);
        close_lanes();
}
END_TEST

START_TEST(stops) {
        open_lanes(0);
        open_gate();
        run_turns(1);
        come("a");
        next_generation();
        come("b");
        ck_assert_int_eq(gate_open(&stop), 0);
        idles = 0;
        run_turns(0);
        come("c");
        assert_journal("+a\nb shutting-down Server is shutting down\nc shutting-down Server is shutting down\n");
        ck_assert(!lane_is_idle(&lanes[0], 0));
        /* What is in flight finishes; what is lost is not sent again. */
        idles = 0;
        lose("a", ENDING_LOST);
        assert_journal("a inference-failed lost it\n");
        ck_assert_uint_gt(idles, 0);
        close_lanes();
}
END_TEST

START_TEST(abandoned) {
        open_lanes(0);
        open_gate();
        run_turns(1);
        come("a");
        next_generation();
        come("b");
        lane_abandon(&lanes[0]);
        assert_journal("+a\nb shutting-down Server is shutting down\na shutting-down Server is shutting down\n");
        ck_assert_uint_eq(cancels, 1);
        close_lanes();
}
END_TEST

/* Before any turn in which the gate and the stop were heard of: each is told what is so, and observers are too. */
START_TEST(abandoned_at_once) {
        open_lanes(0);
        come("1");
        ck_assert_int_eq(lane_observe(&lanes[0], &owners[0], REQUEST_WAIT), 0);
        if (_i == 1)
                ck_assert_int_eq(gate_fail(&generations[0]->gate, "no file"), 0);
        if (_i > 0)
                ck_assert_int_eq(gate_open(&stop), 0);
        lane_abandon(&lanes[0]);
        assert_journal(_i == 1 ? "1 load-failed no file\n load-failed no file\n" :
                                 "1 shutting-down Server is shutting down\n shutting-down Server is shutting down\n");
        close_lanes();
}
END_TEST

/* What a successor finds is left to it; what it does not find is answered. */
START_TEST(leaves) {
        open_lanes(1);
        open_gate();
        run_turns(1);
        come("a");
        parks = true;
        come("b");
        ck_assert_int_eq(lane_observe(&lanes[0], &owners[0], REQUEST_WAIT), 0);
        parks = false;
        come("c");
        assert_journal("+a\n ok ready\n");
        ck_assert_uint_eq(idles, 0);
        lane_leave(&lanes[0]);
        ck_assert_uint_eq(idles, 0);
        /* The model is ready, but nothing more is sent to it. */
        finish("a");
        run_turns(1);
        come("d");
        assert_journal("a ok done\n");
        ck_assert_uint_gt(idles, 0);
        lane_abandon(&lanes[0]);
        assert_journal("c shutting-down Server is shutting down\nd shutting-down Server is shutting down\n");
        close_lanes();
}
END_TEST

START_TEST(limit_of_waiting) {
        limits.max_waiting = 2;
        open_lanes(0);
        come("a");
        come_to(1, "b");
        come("c");
        assert_journal("c queue-full 2 requests wait already; --max-waiting raises that limit\n");
        ck_assert_int_eq(lane_observe(&lanes[0], &owners[0], REQUEST_WAIT), 0);
        assert_journal(" queue-full Too many requests wait already; --max-waiting raises that limit\n");
        open_gate();
        run_turns(1);
        come("d");
        assert_journal("+a\n+b\n+d\n");
        close_lanes();
}
END_TEST

START_TEST(limit_of_prompts) {
        static const char prompt[101];

        open_lanes(0);
        ck_assert_int_eq(lane_request(&lanes[0], &owners[0], "a", 1, prompt, 60, false), 0);
        ck_assert_int_eq(lane_request(&lanes[0], &owners[0], "b", 1, prompt, 41, false), 0);
        assert_journal("b queue-full The prompts that are held may need 100 bytes together; "
                       "--max-prompt-memory raises that\n");
        ck_assert_int_eq(lane_request(&lanes[0], &owners[0], "c", 1, prompt, 40, false), 0);
        come("d");
        assert_journal("");
        ck_assert_uint_eq(atomic_load(&limits.prompt_memory), 100);
        open_gate();
        run_turns(1);
        finish("a");
        finish("c");
        ck_assert_uint_eq(atomic_load(&limits.prompt_memory), 0);
        close_lanes();
}
END_TEST

START_TEST(needs_prompt) {
        model_ops.needs_prompt = true;
        open_lanes(0);
        come("a");
        ck_assert_int_eq(lane_request(&lanes[0], &owners[0], "b", 1, "", 0, false), 0);
        assert_journal("a bad-request This model needs a prompt\n");
        close_lanes();
}
END_TEST

START_TEST(model_refuses) {
        open_lanes(0);
        open_gate();
        run_turns(1);
        infer_error = -EILSEQ;
        come("a");
        infer_error = -ENOMEM;
        come("b");
        assert_journal("a inference-failed The prompt is not UTF-8\nb inference-failed Cannot allocate memory\n");
        close_lanes();
}
END_TEST

START_TEST(times_out) {
        limits.timeout = 2 * NSEC_PER_SEC;
        open_lanes(1);
        open_gate();
        run_turns(1);
        come("a");
        come("b");
        run_later(NSEC_PER_SEC);
        come("c");
        run_later(NSEC_PER_SEC - 3);
        assert_journal("+a\n");
        run_later(3);
        assert_journal("b timed-out Not answered within 2s: waited 2s\na timed-out Not answered within 2s: waited 2s\n+c\n");
        finish("c");
        run_turns(1);
        assert_journal("c ok done\n");
        run_later(3 * NSEC_PER_SEC);
        /* Nothing is left to wake up for. */
        ck_assert_uint_eq(timer_list_due(&reactors[0].timers), UINT64_MAX);
        close_lanes();
}
END_TEST

/* The time-out counts from arrival, also for one that was sent again, waits to be, or is put off. */
START_TEST(times_out_when_resent) {
        limits.timeout = 2 * NSEC_PER_SEC;
        open_lanes(0);
        open_gate();
        run_turns(1);
        come("a");
        run_later(NSEC_PER_SEC);
        come("b");
        come("c");
        run_later(NSEC_PER_SEC / 2);
        lose("c", ENDING_LOST);
        lose("a", ENDING_LOST);
        found_alive();
        assert_journal("+a\n+b\n+c\n+a\n+c\n");
        lose("c", ENDING_REFUSED);
        run_later(NSEC_PER_SEC / 2);
        assert_journal("a timed-out Not answered within 2s: waited 2s\n");
        end_run(run_of("b"), ENDING_UNAVAILABLE, "busy", 30);
        run_later(NSEC_PER_SEC - 10);
        assert_journal("");
        run_later(10);
        run_later(1);
        assert_journal("c timed-out Not answered within 2s: waited 2s\nb timed-out Not answered within 2s: waited 2s\n");
        close_lanes();
}
END_TEST

/* An owner that goes takes with it what it had waiting and in flight, and hears nothing. */
START_TEST(owner_goes) {
        open_lanes(0);
        open_gate();
        run_turns(1);
        come("a");
        next_generation();
        come("b");
        ck_assert_int_eq(lane_observe(&lanes[0], &owners[0], REQUEST_WAIT), 0);
        ck_assert_uint_eq(atomic_load(&limits.waiting), 2);
        lane_forget(&lanes[0], &owners[0]);
        ck_assert_uint_eq(atomic_load(&status.counters->cancelled), 2);
        ck_assert_uint_eq(cancels, 1);
        open_gate();
        run_turns(3);
        assert_journal("+a\n");
        close_lanes();
}
END_TEST

START_TEST(observers) {
        open_lanes(0);
        ck_assert_int_eq(lane_observe(&lanes[0], &owners[0], REQUEST_WAIT), 0);
        /* It loads already. */
        ck_assert_int_eq(lane_observe(&lanes[0], &owners[0], REQUEST_LOAD), 0);
        assert_journal(" ok loading\n");
        ck_assert_int_eq(gate_fail(&generations[0]->gate, "no file"), 0);
        run_turns(1);
        ck_assert_int_eq(lane_observe(&lanes[0], &owners[0], REQUEST_WAIT), 0);
        assert_journal(" load-failed no file\n load-failed no file\n");
        ck_assert_uint_eq(loads, 0);

        /* Answered when the next generation has begun: a client that waits for the model then waits for that one. */
        ck_assert_int_eq(lane_observe(&lanes[0], &owners[0], REQUEST_LOAD), 0);
        ck_assert_uint_eq(loads, 1);
        run_turns(1);
        assert_journal("");
        next_generation();
        assert_journal(" ok loading\n");
        ck_assert_int_eq(lane_observe(&lanes[0], &owners[0], REQUEST_WAIT), 0);
        open_gate();
        run_turns(1);
        ck_assert_int_eq(lane_observe(&lanes[0], &owners[0], REQUEST_WAIT), 0);
        ck_assert_int_eq(lane_observe(&lanes[0], &owners[0], REQUEST_LOAD), 0);
        assert_journal(" ok ready\n ok ready\n ok ready\n");
        ck_assert_uint_eq(loads, 1);

        next_generation();
        ck_assert_int_eq(lane_observe(&lanes[0], &owners[0], REQUEST_WAIT), 0);
        ck_assert_int_eq(gate_open(&stop), 0);
        run_turns(1);
        assert_journal(" shutting-down Server is shutting down\n");
        close_lanes();
}
END_TEST

static uint64_t count_demands(void) {
        uint64_t n = 0;

        for (unsigned i = 0; i < LANES; i++)
                n += atomic_load(&status.counters[i].demands);
        return n;
}

static const char not_loaded[] =
        "get model-not-loaded The model is not loaded: inference loads it, and so does /-/wait, but not this request\n";

/* The first that needs an idle model has it loaded; a GET does not need it. */
START_TEST(idle) {
        open_lanes(1);
        atomic_store(&generations[0]->awaits_request, true);
        come_by_http("get", true, true);
        assert_journal(not_loaded);
        ck_assert_uint_eq(needs, 0);
        ck_assert(generation_is_idle(generations[0]));
        come_to(1, "a");
        ck_assert_uint_eq(needs, 1);
        ck_assert(!generation_is_idle(generations[0]));
        come("b");
        /* It waits for the load as well now. */
        come_by_http("get", true, true);
        ck_assert_uint_eq(needs, 1);
        ck_assert_uint_eq(count_demands(), 2);
        assert_journal("");
        open_gate();
        run_turns(1);
        finish("a");
        run_turns(1);
        finish("b");
        ck_assert_uint_eq(count_demands(), 0);
        ck_assert_ptr_nonnull(strstr(journal, "+get\n"));
        close_lanes();
}
END_TEST

START_TEST(idle_observed) {
        enum request_kind kind = _i ? REQUEST_LOAD : REQUEST_WAIT;

        open_lanes(0);
        atomic_store(&generations[0]->awaits_request, true);
        ck_assert_int_eq(lane_observe(&lanes[0], &owners[0], kind), 0);
        ck_assert_uint_eq(needs, 1);
        ck_assert_uint_eq(loads, 0);
        assert_journal(kind == REQUEST_LOAD ? " ok loading\n" : "");
        open_gate();
        run_turns(1);
        assert_journal(kind == REQUEST_LOAD ? "" : " ok ready\n");
        close_lanes();
}
END_TEST

/* While it is looked at whether the model is in use nothing is sent to it. It goes on, where it is. */
START_TEST(rests_and_goes_on) {
        open_lanes(0);
        open_gate();
        run_turns(1);
        atomic_store(&generations[0]->resting, true);
        come("a");
        come_to(1, "b");
        come_by_http("get", true, true);
        run_turns(2);
        assert_journal("");
        ck_assert_uint_eq(count_demands(), 2);
        atomic_store(&generations[0]->resting, false);
        for (unsigned i = 0; i < LANES; i++)
                lane_resume(&lanes[i]);
        assert_journal("+get\n+a\n+b\n");
        ck_assert_uint_eq(needs, 0);
        close_lanes();
}
END_TEST

/* Or it is stopped: what came meanwhile has the next one loaded, if it needs it. */
START_TEST(rests_and_stops) {
        open_lanes(0);
        open_gate();
        run_turns(1);
        atomic_store(&generations[0]->resting, true);
        come_by_http("get", true, true);
        if (_i)
                come_to(0, "a");
        atomic_store(&generations[1]->awaits_request, true);
        next_generation();
        run_turns(1);
        ck_assert_int_eq((int)needs, _i);
        assert_journal(_i ? "" : not_loaded);
        open_gate();
        run_turns(1);
        assert_journal(_i ? "+get\n+a\n" : "");
        close_lanes();
}
END_TEST

#define MANY 10000

/* A great many are settled over several turns: other things go on in between, and none is lost. */
START_TEST(settles_in_portions) {
        unsigned most = 0;
        char id[16];

        open_lanes(0);
        for (unsigned i = 0; i < MANY; i++) {
                snprintf(id, sizeof(id), "%u", i);
                come(id);
        }
        open_gate();
        for (unsigned before = 0; run_count < MANY; before = run_count) {
                run_turns(0);
                most = MAX(most, run_count - before);
        }
        ck_assert_uint_lt(most, MANY);
        close_lanes();
}
END_TEST

/* Requests go in order of arrival, over all lanes, as many at once as there are places. */
START_TEST(places_in_order) {
        const bool two = _i == 2;

        open_lanes((uint64_t)_i);
        come_to(1, "a");
        come_to(0, "b");
        come_to(0, "c");
        come_to(1, "d");
        open_gate();
        run_turns(1);
        assert_journal(two ? "+a\n+b\n" : "+a\n");
        /* A new one does not go before those that wait. */
        come_to(0, "e");
        finish("a");
        come_to(1, "f");
        run_turns(1);
        assert_journal(two ? "a ok done\n+c\n" : "a ok done\n+b\n");
        finish("b");
        run_turns(1);
        assert_journal(two ? "b ok done\n+d\n" : "b ok done\n+c\n");
        finish("c");
        run_turns(1);
        assert_journal(two ? "c ok done\n+e\n" : "c ok done\n+d\n");
        finish("d");
        run_turns(1);
        finish("e");
        run_turns(1);
        finish("f");
        run_turns(1);
        assert_journal(two ? "d ok done\n+f\ne ok done\nf ok done\n" : "d ok done\n+e\ne ok done\n+f\nf ok done\n");
        close_lanes();
}
END_TEST

/* The oldest client leaves just as the place becomes free: the next one gets it, in whichever lane that waits. */
START_TEST(departs_with_the_place) {
        const unsigned next = (unsigned)_i;

        open_lanes(1);
        open_gate();
        run_turns(1);
        come_to(1, "a");
        move_clock(1);
        ck_assert_int_eq(lane_request(&lanes[0], &other, "b", 1, NULL, 0, false), 0);
        come_to(next, "c");
        finish("a");
        /* The place was given to its lane, which has not heard of that. */
        ck_assert(offers[0]);
        lane_forget(&lanes[0], &other);
        run_turns(1);
        assert_journal("+a\na ok done\n+c\n");
        finish("c");
        /* And where nobody is next. */
        come_to(1, "d");
        move_clock(1);
        ck_assert_int_eq(lane_request(&lanes[0], &other, "e", 1, NULL, 0, false), 0);
        finish("d");
        lane_forget(&lanes[0], &other);
        run_turns(1);
        come_to(1, "f");
        assert_journal("c ok done\n+d\nd ok done\n+f\n");
        close_lanes();
}
END_TEST

/* The same for one that times out, and one that is with the model when its client goes. */
START_TEST(place_is_not_lost) {
        limits.timeout = 2 * NSEC_PER_SEC;
        open_lanes(1);
        open_gate();
        run_turns(1);
        move_clock(1);
        ck_assert_int_eq(lane_request(&lanes[0], &other, "a", 1, NULL, 0, false), 0);
        come_to(0, "b");
        run_later(NSEC_PER_SEC);
        come_to(1, "c");
        lane_forget(&lanes[0], &other);
        assert_journal("+a\n");
        run_turns(1);
        assert_journal("+b\n");
        run_later(NSEC_PER_SEC);
        assert_journal("b timed-out Not answered within 2s: waited 2s\n+c\n");
        close_lanes();
}
END_TEST

/* A place that is given while the gate of the next generation is pending is used when it opens. */
START_TEST(place_at_a_pending_gate) {
        open_lanes(1);
        open_gate();
        run_turns(1);
        come_to(1, "a");
        next_generation();
        come_to(0, "b");
        come_to(1, "c");
        finish("a");
        run_turns(1);
        assert_journal("+a\na ok done\n");
        open_gate();
        run_turns(1);
        assert_journal("+b\n");
        finish("b");
        run_turns(1);
        assert_journal("b ok done\n+c\n");
        close_lanes();
}
END_TEST

/* GET, HEAD, OPTIONS and tunnels do not wait for a place. */
START_TEST(light_requests) {
        open_lanes(1);
        open_gate();
        run_turns(1);
        come("a");
        come("b");
        come_by_http("c", true, true);
        come_by_http("d", false, true);
        assert_journal("+a\n+c\n");
        finish("c");
        finish("a");
        run_turns(1);
        assert_journal("c ok done\na ok done\n+b\n");
        close_lanes();
}
END_TEST

/* While the model is suspected to be lost nothing is sent to it. */
START_TEST(suspicion) {
        open_lanes(2);
        open_gate();
        run_turns(1);
        come_to(0, "a");
        come_to(1, "b");
        come_to(1, "c");
        lose("a", ENDING_LOST);
        ck_assert_uint_eq(suspects, 1);
        ck_assert_uint_eq(atomic_load(&generations[0]->suspicions), 1);
        run_turns(2);
        come_to(0, "d");
        come_by_http("e", true, true);
        finish("b");
        run_turns(2);
        assert_journal("+a\n+b\nb ok done\n");

        /* It is alive: all go on, the oldest first. */
        found_alive();
        run_turns(1);
        assert_journal("+e\n+a\n+c\n");
        close_lanes();
}
END_TEST

/* It was lost, and is loaded again: requests that it had not answered go to the next generation. */
START_TEST(lost_model) {
        open_lanes(1);
        open_gate();
        run_turns(1);
        come("a");
        come("b");
        lose("a", ENDING_LOST);
        next_generation();
        run_turns(1);
        assert_journal("+a\n");
        open_gate();
        run_turns(1);
        assert_journal("+a\n");
        finish("a");
        run_turns(1);
        assert_journal("a ok done\n+b\n");
        close_lanes();
}
END_TEST

/* A request is sent again once; one that is not to be repeated never; and a refused connection does not count. */
START_TEST(repetitions) {
        open_lanes(0);
        open_gate();
        run_turns(1);
        come("a");
        come_by_http("b", false, false);
        lose("a", ENDING_REFUSED);
        lose("b", ENDING_REFUSED);
        found_alive();
        assert_journal("+a\n+b\n+a\n+b\n");
        lose("a", ENDING_REFUSED);
        found_alive();
        lose("a", ENDING_LOST);
        suspects = 0;
        lose("b", ENDING_LOST);
        assert_journal("+a\nb inference-failed lost it\n");
        /* It is suspected because of that one, too. */
        ck_assert_uint_eq(suspects, 1);
        found_alive();
        lose("a", ENDING_REFUSED);
        found_alive();
        lose("a", ENDING_STALE);
        /* It was sent twice: whether it may be sent once more depends on what became of the model. */
        run_later(NSEC_PER_SEC);
        assert_journal("+a\n+a\n");
        found_alive();
        run_turns(1);
        assert_journal("a inference-failed The connection to the model broke twice before an answer began\n");

        /* A connection that had been kept is no sign that the model is lost. */
        suspects = 0;
        come("c");
        lose("c", ENDING_STALE);
        run_turns(1);
        ck_assert_uint_eq(suspects, 0);
        assert_journal("+c\n");
        run_later(50 * NSEC_PER_MSEC);
        assert_journal("+c\n");
        end_run(run_of("c"), ENDING_COMPLETE, "", 0);
        assert_journal("c ok \n");

        /* Nor is one on which nothing was sent, and that is no repetition. */
        come("d");
        for (unsigned i = 0; i < 3; i++) {
                lose("d", ENDING_UNSENT);
                run_turns(1);
                assert_journal(i == 0 ? "+d\n+d\n" : "+d\n");
        }
        lose("d", ENDING_LOST);
        found_alive();
        ck_assert_uint_eq(suspects, 1);
        assert_journal("+d\n");
        close_lanes();
}
END_TEST

/* A model that answers 503 gets the request again when it said that it may; or not at all. */
START_TEST(retry_after) {
        open_lanes(1);
        open_gate();
        run_turns(1);
        come("a");
        come("b");
        end_run(run_of("a"), ENDING_UNAVAILABLE, "busy", 5);
        run_turns(1);
        ck_assert_uint_eq(suspects, 0);
        ck_assert_uint_eq(atomic_load(&status.counters->waiting), 1);
        assert_journal("+a\n+b\n");
        run_later(2 * NSEC_PER_SEC);
        end_run(run_of("b"), ENDING_UNAVAILABLE, "busy", 1);
        run_later(NSEC_PER_SEC);
        assert_journal("+b\n");
        end_run(run_of("b"), ENDING_UNAVAILABLE, "busy", 1);
        assert_journal("b inference-failed busy\n");
        run_later(2 * NSEC_PER_SEC - 1);
        assert_journal("");
        run_later(1);
        assert_journal("+a\n");
        finish("a");
        assert_journal("a ok done\n");

        /* What is put off leaves, or hears of the next load, as others do. */
        ck_assert_int_eq(lane_request(&lanes[0], &other, "c", 1, NULL, 0, false), 0);
        end_run(run_of("c"), ENDING_UNAVAILABLE, "busy", 5);
        come("d");
        end_run(run_of("d"), ENDING_UNAVAILABLE, "busy", 3);
        lane_forget(&lanes[0], &other);
        next_generation();
        ck_assert_int_eq(gate_fail(&generations[current]->gate, "no file"), 0);
        run_turns(1);
        assert_journal("+c\n+d\nd load-failed no file\n");
        run_later(10 * NSEC_PER_SEC);
        close_lanes();
}
END_TEST

/* A model that has no room is asked again when it has: nothing is sent, and no repetition is used up. */
START_TEST(busy) {
        open_lanes(2);
        open_gate();
        run_turns(1);
        room = 1;
        come("a");
        come("b");
        come("c");
        assert_journal("+a\n");
        ck_assert_uint_eq(places_taken(&queue.places[PLACES_INFERENCE]), 1);
        run_turns(3);
        finish("a");
        run_turns(1);
        /* Only when it says so. */
        assert_journal("a ok done\n");
        room = 2;
        sessions[0].events->room(sessions[0].events);
        run_turns(1);
        assert_journal("+b\n+c\n");
        room = UINT32_MAX;
        close_lanes();
}
END_TEST

/* A hundred thousand requests come back, the newest first, and are in order again. */
START_TEST(put_back_many) {
        clock_t begin;
        char id[16];

        open_lanes(0);
        open_gate();
        run_turns(1);
        for (unsigned i = 0; i < ARRAY_SIZE(runs); i++) {
                snprintf(id, sizeof(id), "%u", i);
                come(id);
        }
        ck_assert_uint_eq(run_count, ARRAY_SIZE(runs));
        begin = clock();
        while (run_count > 0)
                end_run(run_count - 1, ENDING_LOST, "lost it", UINT64_MAX);
        found_alive();
        while (run_count < ARRAY_SIZE(runs))
                run_turns(0);
        ck_assert_msg(clock() - begin < 10 * CLOCKS_PER_SEC, "This took %ld ms", (long)(clock() - begin) * 1000 / CLOCKS_PER_SEC);
        for (unsigned i = 1; i < ARRAY_SIZE(runs); i++)
                unit_assert(request_of_inference(runs[i])->arrived > request_of_inference(runs[i - 1])->arrived,
                            "Out of order");
        close_lanes();
}
END_TEST

/* A successor is not to find a request that goes to the model; and is told in time of all that it would find. */
START_TEST(parked) {
        limits.timeout = 2 * NSEC_PER_SEC;
        open_lanes(1);
        parks = true;
        come("a");
        come("b");
        parks = false;
        come("c");
        open_gate();
        run_turns(1);
        assert_journal("a starts\n+a\n");
        ck_assert_uint_gt(writes, 0);
        writes = 0;
        parks = true;
        lose("a", ENDING_REFUSED);
        found_alive();
        assert_journal("a starts\n+a\n");
        ck_assert_uint_gt(writes, 0);
        writes = 0;
        run_later(2 * NSEC_PER_SEC);
        ck_assert_uint_gt(writes, 0);
        close_lanes();
}
END_TEST

static void collect(struct request *request, void *data) {
        ck_assert_ptr_eq(data, &journal);
        journal_add("=", 1, "", inference_id(&request->inference), request->inference.id_len);
}

START_TEST(each_waiting) {
        open_lanes(2);
        open_gate();
        run_turns(1);
        come("a");
        come("b");
        come("c");
        lose("b", ENDING_LOST);
        lose("a", ENDING_LOST);
        journal[0] = '\0';
        lane_each_waiting(&lanes[0], collect, &journal);
        assert_journal("=a\n=b\n=c\n");
        close_lanes();
}
END_TEST

/* What is taken over from a predecessor came when it came there; but never before one that stands before it. */
START_TEST(arrivals) {
        uint64_t first = now - 50 * NSEC_PER_SEC;

        open_lanes(0);
        lane_set_arrival(&lanes[0], first);
        come("a");
        ck_assert_uint_eq(atomic_load(&status.counters->oldest), first);
        lane_set_arrival(&lanes[0], first - 1);
        come("b");
        lane_set_arrival(&lanes[0], UINT64_MAX);
        come("c");
        lane_set_arrival(&lanes[0], 0);
        for (struct list *i = owners[0].requests.next; i != &owners[0].requests; i = i->next) {
                const struct request *request = container_of(i, struct request, owner_link);

                ck_assert_uint_ge(request->arrived, first);
                ck_assert_uint_le(request->arrived, now);
        }
        close_lanes();
}
END_TEST

START_TEST(pausing) {
        struct request *request;

        open_lanes(1);
        come("a");
        request = container_of(owners[0].requests.next, struct request, owner_link);
        lane_pause(&lanes[0], request, true);
        ck_assert_uint_eq(pauses, 0);
        open_gate();
        run_turns(1);
        lane_pause(&lanes[0], request, true);
        ck_assert_uint_eq(pauses, 1);
        close_lanes();
}
END_TEST

static Suite *lane_suite(void) {
        Suite *suite = suite_create("lane");
        TCase *tcase = tcase_create("lane"), *places = tcase_create("places"), *endings = tcase_create("endings");

        tcase_set_timeout(tcase, 60);
        tcase_add_test(tcase, waits_and_goes);
        tcase_add_test(tcase, load_fails);
        tcase_add_test(tcase, load_fails_and_stops);
        tcase_add_test(tcase, stops);
        tcase_add_test(tcase, abandoned);
        tcase_add_loop_test(tcase, abandoned_at_once, 0, 3);
        tcase_add_test(tcase, leaves);
        tcase_add_test(tcase, limit_of_waiting);
        tcase_add_test(tcase, limit_of_prompts);
        tcase_add_test(tcase, needs_prompt);
        tcase_add_test(tcase, model_refuses);
        tcase_add_test(tcase, times_out);
        tcase_add_test(tcase, owner_goes);
        tcase_add_test(tcase, observers);
        tcase_add_test(tcase, idle);
        tcase_add_loop_test(tcase, idle_observed, 0, 2);
        tcase_add_test(tcase, rests_and_goes_on);
        tcase_add_loop_test(tcase, rests_and_stops, 0, 2);
        tcase_add_test(tcase, settles_in_portions);
        tcase_add_test(tcase, parked);
        tcase_add_test(tcase, each_waiting);
        tcase_add_test(tcase, arrivals);
        tcase_add_test(tcase, pausing);
        suite_add_tcase(suite, tcase);

        tcase_add_loop_test(places, places_in_order, 1, 3);
        tcase_add_loop_test(places, departs_with_the_place, 0, LANES);
        tcase_add_test(places, place_is_not_lost);
        tcase_add_test(places, place_at_a_pending_gate);
        tcase_add_test(places, light_requests);
        suite_add_tcase(suite, places);

        tcase_set_timeout(endings, 60);
        tcase_add_test(endings, suspicion);
        tcase_add_test(endings, lost_model);
        tcase_add_test(endings, repetitions);
        tcase_add_test(endings, times_out_when_resent);
        tcase_add_test(endings, retry_after);
        tcase_add_test(endings, busy);
        tcase_add_test(endings, put_back_many);
        suite_add_tcase(suite, endings);
        return suite;
}

UNIT_MAIN(lane_suite)
