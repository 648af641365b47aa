#include "daemon/loader.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/number.h"
#include "daemon/model/sim.h"
#include "tests/support/unit.h"

static struct reactor reactor;
static struct model *model;
static struct loader loader;
static struct generation generation = { .number = 1 };
static char journal[512];
static int load_error;
static unsigned progresses;
static int stalls;

static void note(const char *text) {
        size_t n = strlen(journal);

        snprintf(journal + n, sizeof(journal) - n, "%s;", text);
}

static void attempting(struct loader *l, unsigned attempt, const char *error, uint64_t pause) {
        char text[96];

        ck_assert_ptr_eq(l, &loader);
        snprintf(text, sizeof(text), "attempt %u %s", attempt, error ? error : "-");
        note(text);
        if (!error)
                ck_assert_uint_eq(pause, 0);
        else {
                /* Half a second, doubled, less up to a quarter. */
                uint64_t most = 500 * NSEC_PER_MSEC << (attempt - 2);

                ck_assert_uint_le(pause, most);
                ck_assert_uint_ge(pause, most / 4 * 3);
        }
}

static void progressing(struct loader *l) {
        (void)l;
        progresses++;
}

static void ready(struct loader *l, const char *name) {
        (void)l;
        note(name);
        reactor_stop(&reactor);
}

static void failed(struct loader *l, int error, const char *reason) {
        (void)l;
        load_error = error;
        note(reason);
        reactor_stop(&reactor);
}

static void open_loader(uint64_t load_time, const char *failure, unsigned attempts, uint64_t timeout) {
        struct sim_options sim = { "sim", load_time, 0, failure };
        struct loader_options options = { .attempts = attempts, .timeout = timeout };

        ck_assert_int_eq(reactor_init(&reactor), 0);
        ck_assert_int_eq(sim_new(&model, &sim), 0);
        loader_init(&loader, &reactor, model, &options);
        loader.attempting = attempting;
        loader.progressing = progressing;
        loader.ready = ready;
        loader.failed = failed;
        loader_start(&loader, &generation);
}

static void close_loader(void) {
        loader_stop(&loader);
        loader_stop(&loader);
        ck_assert_uint_eq(timer_list_due(&reactor.timers), UINT64_MAX);
        model = model_free(model);
        reactor_deinit(&reactor);
}

START_TEST(loader_ready) {
        open_loader(1, NULL, 1, 60 * NSEC_PER_SEC);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(journal, "attempt 1 -;sim;");
        close_loader();
}
END_TEST

START_TEST(loader_fails) {
        open_loader(1, "no file", 1, 0);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(journal, "attempt 1 -;no file;");
        close_loader();
}
END_TEST

START_TEST(loader_tries_again) {
        open_loader(1, "no file", 3, 0);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(journal, "attempt 1 -;attempt 2 no file;attempt 3 no file;no file;");

        /* Started again, it begins afresh. */
        journal[0] = '\0';
        reactor.stopped = false;
        loader_start(&loader, &generation);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(journal, "attempt 1 -;attempt 2 no file;attempt 3 no file;no file;");
        close_loader();
}
END_TEST

/* The limit is on all attempts together, and on the pause between them. */
START_TEST(loader_times_out) {
        open_loader(3600 * NSEC_PER_SEC, NULL, 3, 10 * NSEC_PER_MSEC);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(journal, "attempt 1 -;The model was not loaded within 10ms;");
        close_loader();

        journal[0] = '\0';
        open_loader(1, "no file", 3, 20 * NSEC_PER_MSEC);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(journal, "attempt 1 -;attempt 2 no file;The model was not loaded within 20ms;");
        close_loader();
}
END_TEST

/* A model that goes on loading, and comes further `stalls` times. */
static int stuck_load(struct model *m, struct reactor *r, struct generation *g, struct load_events *events) {
        (void)m;
        (void)r;
        ck_assert_ptr_eq(g, &generation);
        (void)events;
        note("load");
        return 0;
}

static bool stuck_progressed(struct model *m) {
        (void)m;
        return stalls-- > 0;
}

static void stuck_unload(struct model *m) {
        (void)m;
        note("unload");
}

/* A load that comes further goes on; one that does not is given up, and tried again. */
START_TEST(loader_stalls) {
        static const struct model_ops ops = {
                .name = "stuck",
                .load = stuck_load,
                .progressed = stuck_progressed,
                .unload = stuck_unload,
        };
        struct loader_options options = { .attempts = 2, .stall_timeout = 10 * NSEC_PER_MSEC };
        struct model stuck = { &ops };
        uint64_t start = timer_now();

        ck_assert_int_eq(reactor_init(&reactor), 0);
        loader_init(&loader, &reactor, &stuck, &options);
        loader.attempting = attempting;
        loader.progressing = progressing;
        loader.ready = ready;
        loader.failed = failed;
        stalls = 3;
        loader_start(&loader, &generation);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(journal, "attempt 1 -;load;unload;attempt 2 The load made no progress for 10ms;load;unload;"
                                  "unload;The load made no progress for 10ms;");
        /* Each attempt begins with some. */
        ck_assert_uint_eq(progresses, 5);
        ck_assert_int_eq(load_error, ETIMEDOUT);
        ck_assert_uint_ge(timer_now() - start, 5 * 10 * NSEC_PER_MSEC);
        ck_assert_uint_eq(timer_list_due(&reactor.timers), UINT64_MAX);
        reactor_deinit(&reactor);
}
END_TEST

START_TEST(loader_stopped) {
        open_loader(3600 * NSEC_PER_SEC, NULL, 3, 3600 * NSEC_PER_SEC);
        close_loader();
        ck_assert_str_eq(journal, "attempt 1 -;");
}
END_TEST

static Suite *loader_suite(void) {
        Suite *suite = suite_create("loader");
        TCase *tcase = tcase_create("loader");

        tcase_set_timeout(tcase, 60);
        tcase_add_test(tcase, loader_ready);
        tcase_add_test(tcase, loader_fails);
        tcase_add_test(tcase, loader_tries_again);
        tcase_add_test(tcase, loader_times_out);
        tcase_add_test(tcase, loader_stalls);
        tcase_add_test(tcase, loader_stopped);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(loader_suite)
