#include "daemon/front/request.h"

#include <stdio.h>
#include <string.h>

#include "common/number.h"
#include "daemon/model/sim.h"
#include "tests/support/unit.h"

/* A worker's queue, with a host that decides as the server does, and an owner that writes down what it hears. */
static struct reactor reactor;
static struct gate stop;
static struct status status;
static struct request_limits limits;
static struct generation *generations[4];
static unsigned current;
static struct model *model;
static struct request_queue queue;
static struct request_owner owner;
static unsigned loads;
static unsigned idles;
static unsigned waits;

static char heard[1 << 16];
static unsigned heard_count;

static void hear(const struct request *request, const char *what, const char *data, size_t len) {
        size_t n = strlen(heard);

        snprintf(heard + n, sizeof(heard) - n, "%.*s %s %.*s\n", request->inference.id_len,
                 inference_id(&request->inference), what, unit_len(len), data);
        heard_count++;
}

static void part(struct request_owner *o, struct request *request, const char *data, size_t len) {
        ck_assert_ptr_eq(o, &owner);
        hear(request, "part", data, len);
}

static void answered(struct request_owner *o, struct request *request, const char *data, size_t len) {
        ck_assert_ptr_eq(o, &owner);
        hear(request, "ok", data, len);
}

static void failed(struct request_owner *o, struct request *request, enum protocol_code code, const char *message) {
        ck_assert_ptr_eq(o, &owner);
        hear(request, protocol_code_name(code), message, strlen(message));
}

static void waiting(struct request_owner *o, struct request *request) {
        ck_assert_ptr_eq(o, &owner);
        ck_assert(!request->inference.parked);
        waits++;
}

static const struct request_ops ops = {
        .waiting = waiting,
        .part = part,
        .answered = answered,
        .failed = failed,
        .stays = true,
};

static struct generation *host_generation(struct host *host) {
        (void)host;
        return generations[current];
}

static void host_handle_request(struct host *host, struct request_queue *q, struct request *request) {
        request_queue_follow(q, host_generation(host));
        if (gate_state(&stop) != GATE_PENDING)
                request_refuse(q, request, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
        else if (gate_state(&q->generation->gate) == GATE_OPEN)
                request_start(q, request);
        else if (gate_state(&q->generation->gate) == GATE_FAILED)
                request_refuse(q, request, PROTOCOL_LOAD_FAILED, q->generation->gate.reason);
        else
                request_wait(q, request);
}

static void host_load(struct host *host) {
        (void)host;
        loads++;
}

static struct host host = { .handle_request = host_handle_request, .generation = host_generation, .load = host_load };

static void idle(struct request_queue *q) {
        ck_assert(request_queue_is_idle(q));
        idles++;
}

static void open_queue(uint64_t inference_time, uint64_t max_waiting, uint64_t timeout) {
        struct sim_options sim = { "sim", 0, inference_time, NULL };

        limits = (struct request_limits){
                .max_waiting = max_waiting,
                .max_prompt = 100,
                .max_prompt_memory = 100,
                .timeout = timeout,
        };
        ck_assert_int_eq(reactor_init(&reactor), 0);
        ck_assert_int_eq(gate_init(&stop), 0);
        ck_assert_int_eq(status_init(&status, 1, &stop), 0);
        ck_assert_int_eq(sim_new(&model, &sim), 0);
        for (unsigned i = 0; i < ARRAY_SIZE(generations); i++)
                ck_assert_int_eq(generation_new(&generations[i], i + 1), 0);
        ck_assert_int_eq(request_queue_init(&queue, &reactor, &host, &limits, status.counters, &stop, generations[0],
                                            model, true), 0);
        queue.idle = idle;
        request_owner_init(&owner, &ops);
}

static void close_queue(void) {
        request_owner_deinit(&queue, &owner);
        ck_assert(request_queue_is_idle(&queue));
        ck_assert_uint_eq(atomic_load(&limits.waiting), 0);
        ck_assert_uint_eq(atomic_load(&limits.prompt_memory), 0);
        ck_assert_uint_eq(atomic_load(&status.counters->waiting), 0);
        ck_assert_uint_eq(atomic_load(&status.counters->processing), 0);
        ck_assert_uint_eq(atomic_load(&status.counters->oldest), 0);
        request_queue_deinit(&queue);
        request_queue_deinit(&queue);
        model = model_free(model);
        for (unsigned i = 0; i < ARRAY_SIZE(generations); i++)
                generations[i] = generation_free(generations[i]);
        status_deinit(&status);
        gate_deinit(&stop);
        reactor_deinit(&reactor);
}

static void come(const char *id) {
        ck_assert_int_eq(request_new(&queue, &owner, id, strlen(id), NULL, 0, false), 0);
}

static void open_gate(void) {
        snprintf(generations[current]->model, sizeof(generations[current]->model), "sim");
        ck_assert_int_eq(gate_open(&generations[current]->gate), 0);
}

static struct job turn_end;
static unsigned turns;

static void turn_run(struct job *job) {
        if (turns-- == 0)
                reactor_stop(&reactor);
        else
                reactor_queue(&reactor, job);
}

/* Runs `n` turns, none of which waits. */
static void run_turns(unsigned n) {
        turns = n;
        reactor.stopped = false;
        job_init(&turn_end, turn_run);
        reactor_queue(&reactor, &turn_end);
        ck_assert_int_eq(reactor_run(&reactor), 0);
}

/* Runs until so much was heard. */
static void run_until(unsigned count) {
        while (heard_count < count)
                run_turns(1);
}

static void assert_heard(const char *text) {
        ck_assert_str_eq(heard, text);
        heard[0] = '\0';
        heard_count = 0;
}

START_TEST(waits_and_goes) {
        open_queue(0, 10, 0);
        come("a");
        come("b");
        ck_assert_uint_eq(atomic_load(&status.counters->waiting), 2);
        ck_assert_uint_ne(atomic_load(&status.counters->oldest), 0);
        /* Waiting costs nothing: neither a timer nor a job. */
        ck_assert_uint_eq(timer_list_due(&reactor.timers), UINT64_MAX);
        ck_assert(list_is_empty(&reactor.jobs));
        assert_heard("");

        open_gate();
        run_turns(1);
        assert_heard("a ok Response a from sim\nb ok Response b from sim\n");
        /* Later ones go straight on. */
        come("c");
        assert_heard("c ok Response c from sim\n");
        ck_assert_uint_eq(atomic_load(&status.counters->completed), 3);
        close_queue();
}
END_TEST

START_TEST(load_fails) {
        open_queue(0, 10, 0);
        come("a");
        ck_assert_int_eq(gate_fail(&generations[0]->gate, "no file"), 0);
        run_turns(1);
        come("b");
        assert_heard("a load-failed no file\nb load-failed no file\n");
        ck_assert_uint_eq(atomic_load(&status.counters->failed), 2);

        /* The next generation has a gate of its own. */
        current = 1;
        come("c");
        assert_heard("");
        open_gate();
        run_turns(1);
        assert_heard("c ok Response c from sim\n");
        close_queue();
}
END_TEST

/* Whose load failed hears that, also where the daemon stops because of it. */
START_TEST(load_fails_and_stops) {
        open_queue(0, 10, 0);
        come("a");
        ck_assert_int_eq(gate_fail(&generations[0]->gate, "no file"), 0);
        ck_assert_int_eq(gate_open(&stop), 0);
        run_turns(1);
        assert_heard("a load-failed no file\n");
        ck_assert_uint_gt(idles, 0);
        close_queue();
}
END_TEST

START_TEST(stops) {
        open_queue(NSEC_PER_MSEC, 10, 0);
        open_gate();
        come("a");
        current = 1;
        come("b");
        ck_assert_int_eq(gate_open(&stop), 0);
        run_turns(0);
        come("c");
        assert_heard("b shutting-down Server is shutting down\nc shutting-down Server is shutting down\n");
        ck_assert_uint_eq(idles, 0);
        /* What is in flight finishes. */
        run_until(1);
        assert_heard("a ok Response a from sim\n");
        ck_assert_uint_gt(idles, 0);
        close_queue();
}
END_TEST

START_TEST(abandoned) {
        open_queue(3600 * NSEC_PER_SEC, 10, 0);
        open_gate();
        come("a");
        current = 1;
        come("b");
        request_queue_abandon(&queue);
        assert_heard("b shutting-down Server is shutting down\na shutting-down Server is shutting down\n");
        close_queue();
}
END_TEST

/* Before any turn in which the gate and the stop were heard of: each is told what is so, and who observes is told too. */
START_TEST(abandoned_at_once) {
        open_queue(0, 10, 0);
        come("1");
        ck_assert_int_eq(request_observe(&queue, &owner, REQUEST_WAIT), 0);
        ck_assert_int_eq(gate_fail(&generations[0]->gate, "no file"), 0);
        ck_assert_int_eq(gate_open(&stop), 0);
        request_queue_abandon(&queue);
        ck_assert_str_eq(heard, "1 load-failed no file\n load-failed no file\n");
        close_queue();

        heard[0] = '\0';
        open_queue(0, 10, 0);
        come("1");
        ck_assert_int_eq(request_observe(&queue, &owner, REQUEST_WAIT), 0);
        ck_assert_int_eq(gate_open(&stop), 0);
        request_queue_abandon(&queue);
        ck_assert_str_eq(heard, "1 shutting-down Server is shutting down\n shutting-down Server is shutting down\n");
        close_queue();
}
END_TEST

START_TEST(limit_of_waiting) {
        open_queue(0, 2, 0);
        come("a");
        come("b");
        come("c");
        assert_heard("c queue-full 2 requests may wait, and do\n");
        ck_assert_int_eq(request_observe(&queue, &owner, REQUEST_WAIT), 0);
        assert_heard(" queue-full Too many wait\n");
        open_gate();
        run_turns(1);
        come("d");
        assert_heard("a ok Response a from sim\nb ok Response b from sim\nd ok Response d from sim\n");
        close_queue();
}
END_TEST

START_TEST(limit_of_prompts) {
        static const char prompt[101];

        open_queue(0, 10, 0);
        ck_assert_int_eq(request_new(&queue, &owner, "a", 1, prompt, 60, false), 0);
        ck_assert_int_eq(request_new(&queue, &owner, "b", 1, prompt, 41, false), 0);
        assert_heard("b queue-full The prompts that are held may need 100 bytes together\n");
        ck_assert_int_eq(request_new(&queue, &owner, "c", 1, prompt, 40, false), 0);
        come("d");
        assert_heard("");
        ck_assert_uint_eq(atomic_load(&limits.prompt_memory), 100);
        open_gate();
        run_turns(1);
        ck_assert_uint_eq(atomic_load(&limits.prompt_memory), 0);
        close_queue();
}
END_TEST

START_TEST(times_out) {
        char *p;

        open_queue(3600 * NSEC_PER_SEC, 10, 20 * NSEC_PER_MSEC);
        open_gate();
        come("a");
        current = 1;
        come("b");
        run_until(2);
        p = strstr(heard, "b timed-out Not answered within 20ms: waited ");
        ck_assert_ptr_nonnull(p);
        p = strstr(heard, "a timed-out Not answered within 20ms: waited ");
        ck_assert_ptr_nonnull(p);
        /* Nothing is left to wake up for. */
        ck_assert_uint_eq(timer_list_due(&reactor.timers) != UINT64_MAX && timer_is_set(&queue.timeout), 0);
        close_queue();
}
END_TEST

/* An owner that goes takes with it what it had waiting and in flight, and hears nothing. */
START_TEST(owner_goes) {
        open_queue(NSEC_PER_MSEC, 10, 0);
        open_gate();
        come("a");
        current = 1;
        come("b");
        ck_assert_int_eq(request_observe(&queue, &owner, REQUEST_WAIT), 0);
        ck_assert_uint_eq(atomic_load(&limits.waiting), 2);
        request_owner_deinit(&queue, &owner);
        ck_assert_uint_eq(atomic_load(&status.counters->cancelled), 2);
        open_gate();
        run_turns(3);
        assert_heard("");
        close_queue();
}
END_TEST

START_TEST(observers) {
        open_queue(0, 10, 0);
        ck_assert_int_eq(request_observe(&queue, &owner, REQUEST_WAIT), 0);
        /* It loads already. */
        ck_assert_int_eq(request_observe(&queue, &owner, REQUEST_LOAD), 0);
        assert_heard(" ok loading\n");
        ck_assert_int_eq(gate_fail(&generations[0]->gate, "no file"), 0);
        run_turns(1);
        ck_assert_int_eq(request_observe(&queue, &owner, REQUEST_WAIT), 0);
        assert_heard(" load-failed no file\n load-failed no file\n");
        ck_assert_uint_eq(loads, 0);

        /* Answered when the next generation has begun: who asks anew then waits for that. */
        ck_assert_int_eq(request_observe(&queue, &owner, REQUEST_LOAD), 0);
        ck_assert_uint_eq(loads, 1);
        run_turns(1);
        assert_heard("");
        current = 1;
        request_queue_follow(&queue, generations[1]);
        assert_heard(" ok loading\n");
        ck_assert_int_eq(request_observe(&queue, &owner, REQUEST_WAIT), 0);
        open_gate();
        run_turns(1);
        ck_assert_int_eq(request_observe(&queue, &owner, REQUEST_WAIT), 0);
        ck_assert_int_eq(request_observe(&queue, &owner, REQUEST_LOAD), 0);
        assert_heard(" ok ready\n ok ready\n ok ready\n");
        ck_assert_uint_eq(loads, 1);

        current = 2;
        ck_assert_int_eq(request_observe(&queue, &owner, REQUEST_WAIT), 0);
        ck_assert_int_eq(gate_open(&stop), 0);
        run_turns(1);
        assert_heard(" shutting-down Server is shutting down\n");
        close_queue();
}
END_TEST

#define MANY 10000

/* A great many are settled over several turns: other things go on in between, and none is lost. */
START_TEST(settles_in_portions) {
        unsigned most = 0;
        char id[16];

        open_queue(0, MANY, 0);
        for (unsigned i = 0; i < MANY; i++) {
                snprintf(id, sizeof(id), "%u", i);
                come(id);
        }
        open_gate();
        for (unsigned before = 0; heard_count < MANY; before = heard_count) {
                run_turns(0);
                most = MAX(most, heard_count - before);
                heard[0] = '\0';
        }
        ck_assert_uint_eq(heard_count, MANY);
        ck_assert_uint_lt(most, MANY);
        close_queue();
}
END_TEST

static Suite *request_suite(void) {
        Suite *suite = suite_create("request");
        TCase *tcase = tcase_create("request");

        tcase_set_timeout(tcase, 60);
        tcase_add_test(tcase, waits_and_goes);
        tcase_add_test(tcase, load_fails);
        tcase_add_test(tcase, load_fails_and_stops);
        tcase_add_test(tcase, stops);
        tcase_add_test(tcase, abandoned);
        tcase_add_test(tcase, abandoned_at_once);
        tcase_add_test(tcase, limit_of_waiting);
        tcase_add_test(tcase, limit_of_prompts);
        tcase_add_test(tcase, times_out);
        tcase_add_test(tcase, owner_goes);
        tcase_add_test(tcase, observers);
        tcase_add_test(tcase, settles_in_portions);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(request_suite)
