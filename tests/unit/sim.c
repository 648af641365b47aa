#include "daemon/model/sim.h"

#include <stdio.h>
#include <string.h>

#include "common/number.h"
#include "daemon/model/generation.h"
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

static void part(struct recipient *recipient, struct inference *inference, const char *data, size_t len) {
        ck_assert_ptr_eq(recipient, inference->recipient);
        hear("part", inference, data, len);
}

static void ended(struct session_events *events, struct inference *inference, const struct answer_end *end) {
        (void)events;
        ck_assert_int_eq(end->how, ENDING_COMPLETE);
        hear("answered", inference, end->text, end->len);
        if (++answers == wanted)
                reactor_stop(&reactor);
}

static struct session_events events = { .ended = ended };
static const struct answer_ops answer_ops = { .part = part };
static struct recipient recipient = { &answer_ops };

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
        inference->recipient = &recipient;
        inference->stream = stream;
        memcpy(inference->text, id, strlen(id));
        return inference;
}

static struct generation generation = { .number = 1 };
static struct model *model;
static struct model_session *session;

static void open_model(uint64_t load_time, uint64_t inference_time, const char *failure) {
        struct sim_options options = { "sim", load_time, inference_time, failure };
        const struct session_place place = { .reactor = &reactor, .events = &events };

        ck_assert_int_eq(reactor_init(&reactor), 0);
        ck_assert_int_eq(sim_new(&model, &options), 0);
        ck_assert_int_eq(model_session_new(model, &place, &session), 0);
}

/* Answers carry the name of the generation that was followed last. */
static void follow(const char *name) {
        snprintf(generation.model, sizeof(generation.model), "%s", name);
        model_session_follow(session, &generation);
        memset(generation.model, '?', sizeof(generation.model));
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
        ck_assert_int_eq(model_load(model, &reactor, &generation, &load_events), 0);
        ck_assert_str_eq(heard, "");
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(heard, "ready sim");
        ck_assert_uint_ge(timer_now() - begin, 20 * NSEC_PER_MSEC);
        close_model();
}
END_TEST

START_TEST(sim_fails_to_load) {
        open_model(0, 0, "no memory");
        ck_assert_int_eq(model_load(model, &reactor, &generation, &load_events), 0);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(heard, "failed no memory");
        close_model();
}
END_TEST

/* Unloaded while it loads, nothing is heard of it. */
START_TEST(sim_unloads) {
        open_model(0, 0, NULL);
        ck_assert_int_eq(model_load(model, &reactor, &generation, &load_events), 0);
        model_unload(model);
        ck_assert_uint_eq(timer_list_due(&reactor.timers), UINT64_MAX);
        close_model();
}
END_TEST

START_TEST(sim_answers_at_once) {
        struct inference *inference = inference_new("7", false), *stream = inference_new("8", true);

        open_model(0, 0, NULL);
        follow("llama");
        ck_assert_int_eq(model_infer(session, inference), 0);
        ck_assert_str_eq(heard, "answered 7 <Response 7 from llama>\n");
        heard[0] = '\0';
        ck_assert_int_eq(model_infer(session, stream), 0);
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
        follow("sim");
        for (unsigned i = 0; i < MANY; i++) {
                snprintf(id, sizeof(id), "%u", i);
                many[i] = inference_new(id, false);
                ck_assert_int_eq(model_infer(session, many[i]), 0);
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
        ck_assert_int_eq(model_infer(session, many[1]), 0);
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
        ck_assert_int_eq(model_infer(session, inference), 0);
        close_model();
        free(inference);
        ck_assert_str_eq(heard, "");
}
END_TEST

static struct http_request request;
static struct exchange exchange = { .request = &request };

static const struct exchange *get_exchange(struct recipient *r, struct inference *inference) {
        (void)r;
        (void)inference;
        return &exchange;
}

static void head(struct recipient *r, struct inference *inference, const struct answer_head *answer_head) {
        char status[16];

        (void)r;
        snprintf(status, sizeof(status), "%u", answer_head->answer->status);
        ck_assert_int_eq(strncmp(answer_head->bytes, "HTTP/1.1 ", 9), 0);
        hear("head", inference, status, strlen(status));
}

static void exchange_part(struct recipient *r, struct inference *inference, const char *data, size_t len) {
        (void)r;
        (void)len;
        hear("part", inference, data, strcspn(data, ":"));
}

static const struct answer_ops exchange_ops = { .exchange = get_exchange, .head = head, .part = exchange_part };
static struct recipient client = { &exchange_ops };

static const struct {
        const char *head;
        bool waits;
        const char *heard;
} exchanges[] = {
        { "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", false, "head 7 <200>\npart 7 <{\"object\">\nanswered 7 <>\n" },
        { "HEAD /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", false, "head 7 <200>\nanswered 7 <>\n" },
        { "GET /other HTTP/1.1\r\nHost: x\r\n\r\n", false, "head 7 <404>\npart 7 <{\"error\">\nanswered 7 <>\n" },
        { "POST /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n", true, "head 7 <200>\npart 7 <{\"id\">\nanswered 7 <>\n" },
};

/* Only inference takes time. */
START_TEST(sim_exchanges) {
        struct inference *inference = inference_new("7", false);
        struct http_refusal refusal;
        const char *text = exchanges[_i].head;

        ck_assert_int_eq(http_parse_request(&request, text, strlen(text), 0, &refusal), HTTP_WHOLE);
        exchange.head = text;
        exchange.body = "{}";
        exchange.body_len = 2;
        inference->recipient = &client;
        inference->is_exchange = true;
        open_model(0, NSEC_PER_MSEC, NULL);
        follow("sim");
        wanted = 1;
        ck_assert_int_eq(model_infer(session, inference), 0);
        ck_assert_uint_eq(answers, exchanges[_i].waits ? 0 : 1);
        if (exchanges[_i].waits)
                ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(heard, exchanges[_i].heard);
        free(inference);
        close_model();
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
        unit_add_table(tcase, sim_exchanges, exchanges);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(sim_suite)
