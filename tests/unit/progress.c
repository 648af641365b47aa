#include "daemon/model/progress.h"

#include <math.h>
#include <string.h>

#include "common/number.h"
#include "tests/support/unit.h"

#define BEGIN (1000 * NSEC_PER_SEC)
#define SECONDS(s) ((uint64_t)((s) * 1e9))

static const struct progress_earlier none;

/* A load as it is recorded: how far its source says it is, by its time; negative: nothing. */
struct shape {
        double total;           /* seconds */
        enum progress_source source;
        double (*fraction)(double second);
};

/* How wrong the estimates are at worst, from a third of the load on, as a part of it; unknown ones from `known_to` on aside. */
static double worst_error(const struct shape *shape, const struct progress_earlier *earlier, double known_to) {
        struct progress progress;
        double worst = 0, before = PROGRESS_UNKNOWN;

        progress_begin(&progress, earlier, BEGIN);
        for (double second = 1; second < shape->total; second++) {
                const uint64_t now = BEGIN + SECONDS(second);

                progress_hear(&progress, shape->source, shape->fraction(second), now);
                progress_update(&progress, now);
                ck_assert(progress.fraction >= before && progress.fraction <= PROGRESS_FRACTION_MAX);
                ck_assert(progress.due == 0 || progress.due >= now);
                before = progress.fraction;
                if (second < shape->total / 3)
                        continue;
                if (progress.due == 0) {
                        ck_assert_msg(second >= known_to, "nothing is known at %f s", second);
                        continue;
                }
                worst = fmax(worst, fabs((double)progress.due / 1e9 - 1000 - shape->total) / shape->total);
        }
        return worst;
}

#define ck_assert_exact(shape, earlier, known_to, error)                                                \
        do {                                                                                            \
                double found = worst_error(shape, earlier, known_to);                                   \
                ck_assert_msg(found <= (error), "wrong by %.1f %% of the load", found * 100);           \
        } while (0)

static double steady(double second) {
        return second / 60;
}

START_TEST(a_steady_source) {
        static const enum progress_source sources[] = { PROGRESS_DOTS, PROGRESS_READ, PROGRESS_SAID };

        for (size_t i = 0; i < ARRAY_SIZE(sources); i++)
                ck_assert_exact(&((struct shape){ 60, sources[i], steady }), &none, 60, 0.02);
}
END_TEST

/* vLLM: imports for 20 s, reads 11 files of 2 s, captures graphs for 15 s. */
static double shards(double second) {
        return second < 20 ? PROGRESS_UNKNOWN : fmin(floor((second - 20) / 2), 11) / 11;
}

START_TEST(files_between_a_start_and_a_warm_up) {
        const struct progress_earlier earlier = { SECONDS(57), SECONDS(20), SECONDS(15) };
        const struct shape shape = { 57, PROGRESS_SAID, shards };

        ck_assert_exact(&shape, &earlier, 57, 0.05);
        /* Without an earlier load nobody knows of the warm-up: it is known only while files are read. */
        ck_assert_double_gt(worst_error(&shape, &none, 0), 0.1);
}
END_TEST

/* From a cache at first, then from a slow disk. */
static double slows_down(double second) {
        return second < 10 ? second / 50 : 0.2 + (second - 10) / 100;
}

START_TEST(a_rate_that_falls) {
        const struct shape shape = { 90, PROGRESS_READ, slows_down };

        ck_assert_exact(&shape, &none, 90, 0.15);
}
END_TEST

static double silent(double second) {
        (void)second;
        return PROGRESS_UNKNOWN;
}

START_TEST(by_earlier_loads) {
        const struct progress_earlier earlier = { .total = SECONDS(60) };
        struct progress progress;

        ck_assert_exact(&((struct shape){ 60, PROGRESS_SAID, silent }), &earlier, 60, 0.001);
        progress_begin(&progress, &earlier, BEGIN);
        ck_assert_uint_eq(progress.due, BEGIN + SECONDS(60));
        progress_update(&progress, BEGIN + SECONDS(30));
        ck_assert_double_eq_tol(progress.fraction, 0.5, 1e-9);
        /* Over time: nobody knows any more, and it is not said to be over. */
        progress_update(&progress, BEGIN + SECONDS(61));
        ck_assert_uint_eq(progress.due, 0);
        ck_assert_double_eq_tol(progress.fraction, PROGRESS_FRACTION_MAX, 1e-9);
}
END_TEST

START_TEST(nothing_is_known) {
        struct progress progress = PROGRESS_NULL;

        /* Without a load nothing is heard. */
        progress_hear(&progress, PROGRESS_SAID, 0.5, BEGIN);
        progress_update(&progress, BEGIN + 1);
        ck_assert_double_lt(progress.fraction, 0);
        ck_assert_uint_eq(progress.due, 0);

        progress_begin(&progress, &none, BEGIN);
        progress_update(&progress, BEGIN + SECONDS(1));
        ck_assert_double_lt(progress.fraction, 0);
        ck_assert_uint_eq(progress.due, 0);
        /* One word says how far it is, and not how fast. */
        progress_hear(&progress, PROGRESS_SAID, 0.45, BEGIN + SECONDS(1));
        progress_hear(&progress, PROGRESS_SAID, NAN, BEGIN + SECONDS(2));
        progress_hear(&progress, PROGRESS_SAID, -1, BEGIN + SECONDS(2));
        progress_update(&progress, BEGIN + SECONDS(2));
        ck_assert_double_eq_tol(progress.fraction, 0.45, 1e-9);
        ck_assert_uint_eq(progress.due, 0);
}
END_TEST

/* The back-off counts, and nothing is measured in it. */
START_TEST(a_back_off) {
        const struct progress_earlier earlier = { .total = SECONDS(60) };
        struct progress progress;

        progress_begin(&progress, &earlier, BEGIN + SECONDS(8));
        ck_assert_uint_eq(progress.due, BEGIN + SECONDS(68));
        progress_hear(&progress, PROGRESS_SAID, 0.9, BEGIN);
        progress_update(&progress, BEGIN + SECONDS(1));
        ck_assert_uint_eq(progress.due, BEGIN + SECONDS(68));
        ck_assert_double_lt(progress.fraction, 0);
        progress_update(&progress, BEGIN + SECONDS(8));
        ck_assert_uint_eq(progress.due, BEGIN + SECONDS(68));
        ck_assert_double_ge(progress.fraction, 0);
}
END_TEST

/* What the server says counts more than what it has read. */
START_TEST(the_best_source) {
        struct progress progress;

        progress_begin(&progress, &none, BEGIN);
        for (unsigned i = 0; i <= 10; i++) {
                progress_hear(&progress, PROGRESS_DOTS, 0.001 * i, BEGIN + SECONDS(i));
                progress_hear(&progress, PROGRESS_READ, 0.04 * i, BEGIN + SECONDS(i));
                progress_hear(&progress, PROGRESS_SAID, 0.02 * i, BEGIN + SECONDS(i));
                progress_update(&progress, BEGIN + SECONDS(i));
        }
        ck_assert_double_eq_tol(progress.fraction, 0.2, 1e-9);
        ck_assert_double_eq_tol((double)(progress.due - BEGIN) / 1e9, 50, 0.1);
}
END_TEST

/* A second file begins at 0: what is shown does not fall, and its own rate counts. */
START_TEST(a_source_that_begins_anew) {
        struct progress progress;

        progress_begin(&progress, &none, BEGIN);
        for (unsigned i = 0; i <= 10; i++)
                progress_hear(&progress, PROGRESS_SAID, 0.1 * i, BEGIN + SECONDS(i));
        progress_update(&progress, BEGIN + SECONDS(10));
        ck_assert_double_eq_tol(progress.fraction, PROGRESS_FRACTION_MAX, 1e-9);
        for (unsigned i = 0; i <= 10; i++) {
                progress_hear(&progress, PROGRESS_SAID, 0.05 * i, BEGIN + SECONDS(11 + i));
                progress_update(&progress, BEGIN + SECONDS(11 + i));
                ck_assert_double_eq_tol(progress.fraction, PROGRESS_FRACTION_MAX, 1e-9);
        }
        ck_assert_double_eq_tol((double)(progress.due - BEGIN) / 1e9, 31, 1);
}
END_TEST

/* A source that stands still is late, more and more, and steadily so. */
START_TEST(a_source_that_stands_still) {
        struct progress progress;
        uint64_t before = 0;

        progress_begin(&progress, &none, BEGIN);
        for (unsigned i = 0; i <= 60; i++) {
                const uint64_t now = BEGIN + SECONDS(i);

                progress_hear(&progress, PROGRESS_READ, 0.02 * MIN(i, 20u), now);
                progress_update(&progress, now);
                if (i > 25) {
                        ck_assert_uint_gt(progress.due, before);
                        ck_assert_uint_lt(progress.due - before, SECONDS(10));
                }
                before = progress.due;
        }
        ck_assert_uint_gt(progress.due, BEGIN + SECONDS(100));
}
END_TEST

/* For hours, and often: what is kept of it has a limit, and an estimate has one. */
START_TEST(a_long_load) {
        struct progress progress;

        progress_begin(&progress, &none, BEGIN);
        for (unsigned i = 0; i <= 100000; i++)
                progress_hear(&progress, PROGRESS_READ, i / 200000.0, BEGIN + SECONDS(i));
        progress_update(&progress, BEGIN + SECONDS(100000));
        ck_assert_double_eq_tol((double)(progress.due - BEGIN) / 1e9, 200000, 10);
        progress_begin(&progress, &none, BEGIN);
        progress_hear(&progress, PROGRESS_READ, 0, BEGIN);
        progress_hear(&progress, PROGRESS_READ, 0.02, BEGIN + SECONDS(1e9));
        progress_update(&progress, BEGIN + SECONDS(1e9));
        ck_assert_uint_le(progress.due, BEGIN + SECONDS(1e9 + 31 * 86400.0));
}
END_TEST

/* All is read before anybody has looked twice, as from a cache: an earlier load tells how long the rest takes. */
START_TEST(all_at_once) {
        const struct progress_earlier earlier = { SECONDS(60), SECONDS(1), SECONDS(5) };
        struct progress_earlier learned;
        struct progress progress;

        progress_begin(&progress, &earlier, BEGIN);
        progress_hear(&progress, PROGRESS_READ, 1, BEGIN + SECONDS(1));
        progress_update(&progress, BEGIN + SECONDS(1));
        for (unsigned i = 5; i < 10; i++)
                progress_update(&progress, BEGIN + SECONDS(i / 4.0 + 1));
        ck_assert_uint_le(progress.due, BEGIN + SECONDS(25));
        progress_end(&progress, BEGIN + SECONDS(6), &learned);
        ck_assert_uint_eq(learned.tail, SECONDS(5));
}
END_TEST

START_TEST(what_an_end_tells) {
        struct progress_earlier earlier;
        struct progress progress;

        progress_begin(&progress, &none, BEGIN);
        for (unsigned i = 0; i <= 10; i++)
                progress_hear(&progress, PROGRESS_SAID, 0.1 * i, BEGIN + SECONDS(5 + i));
        progress_end(&progress, BEGIN + SECONDS(18), &earlier);
        ck_assert_uint_eq(earlier.total, SECONDS(18));
        ck_assert_uint_eq(earlier.head, SECONDS(5));
        ck_assert_uint_eq(earlier.tail, SECONDS(3));

        progress_begin(&progress, &none, BEGIN);
        progress_end(&progress, BEGIN + SECONDS(18), &earlier);
        ck_assert_uint_eq(earlier.total, SECONDS(18));
        ck_assert_uint_eq(earlier.head + earlier.tail, 0);
}
END_TEST

static const struct {
        const char *line;
        double fraction;
} lines[] = {
        /* vLLM, SGLang */
        { "Loading safetensors checkpoint shards:  45% Completed | 5/11 [00:10<00:12,  2.01s/it]", 0.45 },
        { "\rLoading safetensors checkpoint shards:   0% Completed | 0/11 [00:00<?, ?it/s]\r"
          "Loading safetensors checkpoint shards:   9% Completed | 1/11 [00:01<00:19,  1.92s/it]\r", 0.09 },
        { "(EngineCore_0 pid=714) Loading pt checkpoint shards: 100% Completed | 2/2 [00:03<00:00]\n", 1 },
        /* transformers */
        { "Loading checkpoint shards:  33%|███▎      | 1/3 [00:00<00:01,  1.10it/s]", 0.33 },
        { "Loading weights:  12%|█▏| 37/291 [00:00<00:00, 800.0it/s, Materializing param=model.layers.3]", 0.12 },
        /* Ollama */
        { "time=2025-01-01T10:00:00.000Z level=DEBUG source=server.go:1020 msg=\"model load progress 0.37\"", 0.37 },
        { "{\"event\": \"load_progress\", \"progress\": 0.5}", 0.5 },
        { "Loading model 62.5 % done", 0.625 },
        { "load_tensors: 100%", 1 },
        /* Percentages of something else. */
        { "INFO gpu_worker.py:298] Loading model weights took 45% of the GPU memory", -1 },
        { "Capturing CUDA graph shapes:  45%|####5     | 16/35 [00:05<00:06,  3.01it/s]", -1 },
        { "GPU KV cache usage: 12.5%, Prefix cache hit rate: 0.0%", -1 },
        { "Fetching 10 files:  40%|████      | 4/10 [00:00<00:01]", -1 },
        { "--load-format auto --gpu-memory-utilization 90%", -1 },
        { "CPU is at 45%", -1 },
        /* No percentages. */
        { "load_tensors: offloading 32 repeating layers to GPU", -1 },
        { "loading -5% of it", -1 },
        { "loading 150%", -1 },
        { "loading x45%", -1 },
        { "loading 1.2.3%", -1 },
        { "loading 12345678%", -1 },
        { "loading %", -1 },
        { "load progress 45", -1 },
        { "loading in progress", -1 },
        { "", -1 },
        { "\r\r\n", -1 },
};

START_TEST(lines_of_servers) {
        for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
                double fraction = progress_parse_line(lines[i].line, strlen(lines[i].line));

                ck_assert_msg(fabs(fraction - lines[i].fraction) < 1e-9, "%s: %f", lines[i].line, fraction);
        }
        ck_assert_double_lt(progress_parse_line("loading 45%\0", 9), 0);
        ck_assert_double_eq_tol(progress_parse_line("loading \0 45%", 13), 0.45, 1e-9);
}
END_TEST

START_TEST(statuses) {
        ck_assert_double_eq_tol(progress_parse_status("45%"), 0.45, 1e-9);
        ck_assert_double_eq_tol(progress_parse_status("Loading weights, 7.5 % of the memory"), 0.075, 1e-9);
        ck_assert_double_lt(progress_parse_status("Loading weights"), 0);
        ck_assert_double_lt(progress_parse_status(""), 0);
}
END_TEST

START_TEST(dots) {
        ck_assert_double_eq_tol(progress_parse_dots("..........", 10), 0.1, 1e-9);
        ck_assert_double_lt(progress_parse_dots("", 0), 0);
        ck_assert_double_lt(progress_parse_dots("... ", 4), 0);
        ck_assert_double_lt(progress_parse_dots("..............................................................."
                                                "......................................", 101), 0);
}
END_TEST

static Suite *progress_suite(void) {
        Suite *suite = suite_create("progress");
        TCase *tcase = tcase_create("progress");

        tcase_add_test(tcase, a_steady_source);
        tcase_add_test(tcase, files_between_a_start_and_a_warm_up);
        tcase_add_test(tcase, a_rate_that_falls);
        tcase_add_test(tcase, by_earlier_loads);
        tcase_add_test(tcase, nothing_is_known);
        tcase_add_test(tcase, a_back_off);
        tcase_add_test(tcase, the_best_source);
        tcase_add_test(tcase, a_source_that_begins_anew);
        tcase_add_test(tcase, a_source_that_stands_still);
        tcase_add_test(tcase, a_long_load);
        tcase_add_test(tcase, all_at_once);
        tcase_add_test(tcase, what_an_end_tells);
        tcase_add_test(tcase, lines_of_servers);
        tcase_add_test(tcase, statuses);
        tcase_add_test(tcase, dots);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(progress_suite)
