#include "daemon/model/sim.h"

#include <stdio.h>
#include <string.h>

#include "common/number.h"
#include "tests/support/unit.h"

static struct reactor reactor;
static char heard[1 << 16];
static unsigned answers;
static unsigned wanted;

static void hear(const char *what, const struct inference *inference, const char *data, size_t len) {
        size_t n = strlen(heard);

        snprintf(heard + n, sizeof(heard) - n, "%s %.*s <%.*s>\n", what, inference->id_len, inference_id(inference),
                 unit_len(len), data);
}

static void part(struct inference_events *events, struct inference *inference, const char *data, size_t len) {
        (void)events;
        hear("part", inference, data, len);
}

static void answered(struct inference_events *events, struct inference *inference, const char *data, size_t len) {
        (void)events;
        hear("answered", inference, data, len);
        if (++answers == wanted)
                reactor_stop(&reactor);
}

static void failed(struct inference_events *events, struct inference *inference, const char *reason) {
        (void)events;
        (void)inference;
        ck_abort_msg("%s", reason);
}

static struct inference_events events = { .part = part, .answered = answered, .failed = failed };

static void loaded(struct load_events *load, const char *name) {
        (void)load;
        snprintf(heard, sizeof(heard), "ready %s", name);
        reactor_stop(&reactor);
}

static void not_loaded(struct load_events *load, const char *reason) {
        (void)load;
        snprintf(heard, sizeof(heard), "failed %s", reason);
        reactor_stop(&reactor);
}

static struct load_events load_events = { .ready = loaded, .failed = not_loaded };

static struct inference *inference_new(const char *id, bool stream) {
        struct inference *inference = calloc(1, sizeof(*inference) + strlen(id));

        ck_assert_ptr_nonnull(inference);
        inference->id_len = (uint8_t)strlen(id);
        inference->stream = stream;
        memcpy(inference->text, id, strlen(id));
        return inference;
}

static struct model *model;
static struct model_session *session;

static void open_model(uint64_t load_time, uint64_t inference_time, const char *failure) {
        struct sim_options options = { "sim", load_time, inference_time, failure };

        ck_assert_int_eq(reactor_init(&reactor), 0);
        ck_assert_int_eq(sim_new(&model, &options), 0);
        ck_assert_int_eq(model_session_new(model, &reactor, &events, &session), 0);
}

static void close_model(void) {
        session = model_session_free(session);
        model = model_free(model);
        ck_assert_ptr_null(model_session_free(NULL));
        ck_assert_ptr_null(model_free(NULL));
        reactor_deinit(&reactor);
}

START_TEST(sim_loads) {
        uint64_t begin = timer_now();

        open_model(20 * NSEC_PER_MSEC, 0, NULL);
        ck_assert_int_eq(model_load(model, &reactor, &load_events), 0);
        ck_assert_str_eq(heard, "");
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(heard, "ready sim");
        ck_assert_uint_ge(timer_now() - begin, 20 * NSEC_PER_MSEC);
        close_model();
}
END_TEST

START_TEST(sim_fails_to_load) {
        open_model(0, 0, "no memory");
        ck_assert_int_eq(model_load(model, &reactor, &load_events), 0);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(heard, "failed no memory");
        close_model();
}
END_TEST

/* Unloaded while it loads, nothing is heard of it. */
START_TEST(sim_unloads) {
        open_model(0, 0, NULL);
        ck_assert_int_eq(model_load(model, &reactor, &load_events), 0);
        model_unload(model);
        ck_assert_uint_eq(timer_list_due(&reactor.timers), UINT64_MAX);
        close_model();
}
END_TEST

START_TEST(sim_answers_at_once) {
        struct inference *inference = inference_new("7", false), *stream = inference_new("8", true);

        open_model(0, 0, NULL);
        ck_assert_int_eq(model_infer(session, "llama", inference), 0);
        ck_assert_str_eq(heard, "answered 7 <Response 7 from llama>\n");
        heard[0] = '\0';
        ck_assert_int_eq(model_infer(session, "llama", stream), 0);
        ck_assert_str_eq(heard, "part 8 <Response>\npart 8 < 8>\npart 8 < from>\npart 8 < llama>\nanswered 8 <>\n");
        free(inference);
        free(stream);
        close_model();
}
END_TEST

#define MANY 500

/* They run side by side: all of them take as long as one. Those that are cancelled are not heard of. */
START_TEST(sim_runs_in_parallel) {
        struct inference *many[MANY];
        uint64_t begin = timer_now();
        char id[16];

        open_model(0, 50 * NSEC_PER_MSEC, NULL);
        for (unsigned i = 0; i < MANY; i++) {
                snprintf(id, sizeof(id), "%u", i);
                many[i] = inference_new(id, false);
                ck_assert_int_eq(model_infer(session, "sim", many[i]), 0);
        }
        for (unsigned i = 0; i < MANY; i += 5) {
                model_cancel(session, many[i]);
                free(many[i]);
        }
        wanted = MANY - MANY / 5;
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_uint_eq(answers, wanted);
        ck_assert_uint_ge(timer_now() - begin, 50 * NSEC_PER_MSEC);
        ck_assert_int_eq(strncmp(heard, "answered 1 <Response 1 from sim>\nanswered 2 <", 45), 0);
        ck_assert_ptr_null(strstr(heard, "answered 5 "));

        /* And again, after the queue was empty. */
        reactor.stopped = false;
        answers = 0;
        wanted = 1;
        ck_assert_int_eq(model_infer(session, "sim", many[1]), 0);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        for (unsigned i = 0; i < MANY; i++)
                if (i % 5 != 0)
                        free(many[i]);
        close_model();
}
END_TEST

/* A session that ends forgets what it still runs. */
START_TEST(sim_session_ends) {
        struct inference *inference = inference_new("1", false);

        open_model(0, NSEC_PER_SEC, NULL);
        ck_assert_int_eq(model_infer(session, "sim", inference), 0);
        close_model();
        free(inference);
        ck_assert_str_eq(heard, "");
}
END_TEST

static Suite *sim_suite(void) {
        Suite *suite = suite_create("sim");
        TCase *tcase = tcase_create("sim");

        tcase_set_timeout(tcase, 60);
        tcase_add_test(tcase, sim_loads);
        tcase_add_test(tcase, sim_fails_to_load);
        tcase_add_test(tcase, sim_unloads);
        tcase_add_test(tcase, sim_answers_at_once);
        tcase_add_test(tcase, sim_runs_in_parallel);
        tcase_add_test(tcase, sim_session_ends);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(sim_suite)
