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

/* A model that is ready at once, and is lost when the test says so. */
static struct load_events *fleeting_events;

static int fleeting_load(struct model *m, struct reactor *r, struct generation *g, struct load_events *events) {
        (void)m;
        (void)r;
        (void)g;
        fleeting_events = events;
        note("load");
        reactor_stop(&reactor);
        return 0;
}

static void fleeting_unload(struct model *m) {
        (void)m;
}

static const struct model_ops fleeting_ops = {
        .name = "fleeting",
        .load = fleeting_load,
        .unload = fleeting_unload,
};

static enum loss lost_how;

static void lost(struct loader *l, enum loss how, const char *reason) {
        ck_assert_str_eq(reason, "why");
        lost_how = how;
        loader_start(l, &generation);
}

/* What attempting() notes, without the pause, and "load" when it has passed. */
static void attempting_again(struct loader *l, unsigned attempt, const char *error, uint64_t pause) {
        char text[96];

        (void)l;
        ck_assert_int_eq(pause > 0, error != NULL);
        snprintf(text, sizeof(text), "%u %s", attempt, error ? "again" : "-");
        ck_assert(!error || strncmp(error, "why (it was ready for ", 22) == 0);
        note(text);
}

static struct model fleeting = { &fleeting_ops };

static void open_fleeting(void) {
        const struct loader_options options = { .attempts = 3 };

        ck_assert_int_eq(reactor_init(&reactor), 0);
        loader_init(&loader, &reactor, &fleeting, &options);
        loader.attempting = attempting_again;
        loader.progressing = progressing;
        loader.ready = ready;
        loader.failed = failed;
        loader.lost = lost;
        loader_start(&loader, &generation);
}

/* It becomes ready, is that for so long, and is lost; then the next load begins, perhaps after a pause, or does not. */
static void live(uint64_t nsec, enum loss how) {
        journal[0] = '\0';
        fleeting_events->ready(fleeting_events, "r");
        loader.ready_at -= nsec;
        fleeting_events->lost(fleeting_events, how, "why");
        ck_assert_int_eq(lost_how, how);
        /* Half a minute is the longest pause. */
        if (timer_is_set(&loader.back_off)) {
                timer_clear(&loader.back_off);
                loader.back_off.elapsed(&loader.back_off);
        }
}

static const enum loss to_blame[] = { LOSS_CRASHED, LOSS_OUT_OF_MEMORY, LOSS_FROZEN };

/* One that ends within a minute, again and again, has failed. */
START_TEST(loader_lives_are_attempts) {
        open_fleeting();
        ck_assert_str_eq(journal, "1 -;load;");
        live(0, to_blame[_i]);
        ck_assert_str_eq(journal, "r;2 -;2 again;load;");
        live(59 * NSEC_PER_SEC, to_blame[_i]);
        ck_assert_str_eq(journal, "r;3 -;3 again;load;");
        live(0, to_blame[_i]);
        ck_assert_msg(strncmp(journal, "r;3 -;why (it was ready for ", 28) == 0, "%s", journal);
        ck_assert_int_eq(load_error, EIO);
        ck_assert(!loader.loading);
        /* An administrator has it loaded again. */
        journal[0] = '\0';
        loader_start(&loader, &generation);
        ck_assert_str_eq(journal, "1 -;load;");
        loader_stop(&loader);
        reactor_deinit(&reactor);
}
END_TEST

/* Lives and failed loads count together. */
START_TEST(loader_lives_and_loads) {
        open_fleeting();
        live(0, LOSS_CRASHED);
        loader.attempting = attempting;
        journal[0] = '\0';
        fleeting_events->failed(fleeting_events, "no file");
        ck_assert_str_eq(journal, "attempt 3 no file;");
        timer_clear(&loader.back_off);
        loader.back_off.elapsed(&loader.back_off);
        loader.attempting = attempting_again;
        live(0, LOSS_CRASHED);
        ck_assert(!loader.loading);
        reactor_deinit(&reactor);
}
END_TEST

/* A minute is enough: the count begins anew, and nothing pauses. */
START_TEST(loader_proven) {
        open_fleeting();
        for (unsigned i = 0; i < 10; i++) {
                live(0, LOSS_CRASHED);
                ck_assert_str_eq(journal, "r;2 -;2 again;load;");
                live(60 * NSEC_PER_SEC, LOSS_CRASHED);
                ck_assert_str_eq(journal, "r;1 -;load;");
        }
        loader_stop(&loader);
        reactor_deinit(&reactor);
}
END_TEST

/* One that somebody kills is started again and again, after longer and longer pauses. */
START_TEST(loader_killed) {
        open_fleeting();
        for (unsigned i = 0; i < 20; i++) {
                journal[0] = '\0';
                fleeting_events->ready(fleeting_events, "r");
                fleeting_events->lost(fleeting_events, LOSS_KILLED, "why");
                ck_assert_str_eq(journal, "r;1 -;1 again;");
                ck_assert(timer_is_set(&loader.back_off));
                ck_assert_uint_ge(loader.back_off.due + NSEC_PER_SEC, timer_now() + MIN(500 * NSEC_PER_MSEC << i, 30 * NSEC_PER_SEC) / 4 * 3);
                timer_clear(&loader.back_off);
                loader.back_off.elapsed(&loader.back_off);
        }
        loader_stop(&loader);
        reactor_deinit(&reactor);
}
END_TEST

/* A server that msd did not start comes back when it does: nothing is counted, and nobody pauses. */
START_TEST(loader_unreachable) {
        open_fleeting();
        for (unsigned i = 0; i < 10; i++) {
                live(0, LOSS_UNREACHABLE);
                ck_assert_str_eq(journal, "r;1 -;load;");
        }
        loader_stop(&loader);
        reactor_deinit(&reactor);
}
END_TEST

static void probed(struct loader *l, const char *result) {
        (void)l;
        note(result);
}

/* What the last probe saw is the cause of a load that comes to nothing. */
START_TEST(loader_says_probe) {
        static const struct model_ops ops = { .name = "stuck", .load = fleeting_load, .progressed = stuck_progressed, .unload = fleeting_unload };
        const struct loader_options options = { .attempts = 1, .timeout = _i == 0 ? 10 * NSEC_PER_MSEC : 0,
                                                .stall_timeout = _i == 0 ? 0 : 10 * NSEC_PER_MSEC };
        struct model stuck = { &ops };

        ck_assert_int_eq(reactor_init(&reactor), 0);
        loader_init(&loader, &reactor, &stuck, &options);
        loader.attempting = attempting;
        loader.progressing = progressing;
        loader.failed = failed;
        loader.probed = probed;
        loader_start(&loader, &generation);
        journal[0] = '\0';
        fleeting_events->probed(fleeting_events, "GET /: 404 Not Found");
        reactor.stopped = false;
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(journal, _i == 0 ? "GET /: 404 Not Found;GET /: 404 Not Found; The model was not loaded within 10ms;" :
                                            "GET /: 404 Not Found;GET /: 404 Not Found; The load made no progress for 10ms;");
        reactor_deinit(&reactor);
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
        unit_add_table(tcase, loader_lives_are_attempts, to_blame);
        tcase_add_test(tcase, loader_lives_and_loads);
        tcase_add_test(tcase, loader_proven);
        tcase_add_test(tcase, loader_killed);
        tcase_add_test(tcase, loader_unreachable);
        tcase_add_loop_test(tcase, loader_says_probe, 0, 2);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(loader_suite)
