#include "daemon/status.h"

#include <jansson.h>
#include <string.h>

#include "common/number.h"
#include "tests/support/unit.h"

static struct gate stop;
static struct status status;

static void setup(void) {
        ck_assert_int_eq(gate_init(&stop), 0);
        ck_assert_int_eq(status_init(&status, 3, &stop), 0);
}

static void teardown(void) {
        status_deinit(&status);
        status_deinit(&status);
        gate_deinit(&stop);
}

static json_t *object(void) {
        char *text = status_format(&status);
        json_t *json;

        ck_assert_ptr_nonnull(text);
        ck_assert_ptr_null(strchr(text, '\n'));
        json = json_loads(text, 0, NULL);
        ck_assert_ptr_nonnull(json);
        free(text);
        return json;
}

static void assert_member(const char *name, const char *value) {
        json_t *json = object();
        char text[128];
        size_t len = json_dumpb(json_object_get(json, name), text, sizeof(text) - 1, JSON_ENCODE_ANY);

        ck_assert_uint_lt(len, sizeof(text));
        text[len] = '\0';
        ck_assert_msg(strcmp(text, value) == 0, "%s is %s, not %s", name, text, value);
        json_decref(json);
}

/* The names and their order, as the protocol has them. */
START_TEST(status_members) {
        static const char *const names[] = { "status", "model", "generation", "attempt", "load_s", "progress", "eta_s", "waiting",
                "oldest_wait_s", "processing", "completed", "failed", "cancelled", "suspects", "connections", "uptime_s", "error",
                "last_words", "probe", "version", "pid" };
        json_t *json = object(), *value;
        const char *name;
        size_t i = 0;

        json_object_foreach(json, name, value) {
                ck_assert_uint_lt(i, ARRAY_SIZE(names));
                ck_assert_str_eq(name, names[i++]);
        }
        ck_assert_uint_eq(i, ARRAY_SIZE(names));
        ck_assert_int_eq(json_integer_value(json_object_get(json, "pid")), getpid());
        json_decref(json);
        assert_member("version", "\"" MSD_VERSION "\"");
}
END_TEST

START_TEST(status_life) {
        status_loading(&status, 1);
        status_attempt(&status, 1, NULL);
        assert_member("status", "\"loading\"");
        assert_member("model", "null");
        assert_member("generation", "1");
        assert_member("attempt", "1");
        assert_member("error", "null");
        assert_member("probe", "null");

        assert_member("last_words", "[]");

        status_attempt(&status, 2, "no \"file\"\n");
        status_last_words(&status, "\xc3\xa9\"\nthen this\n");
        assert_member("last_words", "[\"\xc3\xa9\\\"\", \"then this\"]");
        assert_member("attempt", "2");
        assert_member("error", "\"no \\\"file\\\"\\n\"");
        status_ready(&status, "llama");
        assert_member("status", "\"ready\"");
        assert_member("model", "\"llama\"");

        status_idle(&status, 2);
        assert_member("status", "\"idle\"");
        assert_member("model", "null");
        assert_member("generation", "2");
        assert_member("load_s", "0.0");

        status_loading(&status, 2);
        assert_member("status", "\"loading\"");
        assert_member("model", "null");
        status_failed(&status, "\xff is no UTF-8");
        assert_member("status", "\"failed\"");
        assert_member("error", "\"? is no UTF-8\"");

        ck_assert_int_eq(gate_open(&stop), 0);
        assert_member("status", "\"stopping\"");
}
END_TEST

START_TEST(status_times) {
        json_t *json;

        status_loading(&status, 1);
        status.load_began = 1;
        status.load_ended = 1 + UINT64_C(1204999999);
        ck_assert_uint_eq(status_load_time(&status), UINT64_C(1204999999));
        assert_member("load_s", "1.204");
        assert_member("oldest_wait_s", "0.0");

        /* Of all that wait, in whatever worker, the one that came first. */
        counter_set(&status.counters[1].oldest, status.started);
        counter_set(&status.counters[2].oldest, status.started + 1000000);
        json = object();
        ck_assert(json_real_value(json_object_get(json, "oldest_wait_s")) ==
                  json_real_value(json_object_get(json, "uptime_s")));
        json_decref(json);
}
END_TEST

START_TEST(status_sums_of_workers) {
        for (unsigned i = 0; i < 3; i++) {
                counter_add(&status.counters[i].waiting, (int64_t)i + 1);
                counter_add(&status.counters[i].processing, 10);
                counter_add(&status.counters[i].processing, -(int64_t)i);
                counter_set(&status.counters[i].completed, UINT64_C(1) << 40);
                counter_add(&status.counters[i].failed, 1);
                counter_add(&status.counters[i].cancelled, 2);
                counter_add(&status.counters[i].connections, 3);
        }
        assert_member("waiting", "6");
        assert_member("processing", "27");
        assert_member("completed", "3298534883328");
        assert_member("failed", "3");
        assert_member("cancelled", "6");
        assert_member("connections", "9");
}
END_TEST

static void assert_metric(const char *line) {
        char *text = status_format_metrics(&status), *at;

        ck_assert_ptr_nonnull(text);
        at = strstr(text, line);
        ck_assert_msg(at && (at == text || at[-1] == '\n') && at[strlen(line)] == '\n', "There is no line %s in\n%s", line, text);
        free(text);
}

START_TEST(status_metrics) {
        status_idle(&status, 3);
        assert_metric("msd_model_ready 0");
        assert_metric("msd_model_idle 1");
        status_loading(&status, 3);
        assert_metric("msd_model_idle 0");
        assert_metric("msd_model_ready 0");
        assert_metric("msd_load_seconds_count 0");
        status_ready(&status, "m");
        assert_metric("msd_model_ready 1");
        assert_metric("msd_generation 3");
        assert_metric("msd_load_seconds_bucket{le=\"+Inf\"} 1");
        assert_metric("msd_load_seconds_count 1");

        counter_set(&status.counters[0].accepted, 7);
        counter_set(&status.counters[1].accepted, 8);
        counter_set(&status.counters[0].completed, 2);
        counter_set(&status.counters[2].completed, 3);
        counter_set(&status.counters[1].failed, 4);
        counter_set(&status.counters[1].cancelled, 5);
        counter_set(&status.counters[1].waiting, 6);
        assert_metric("msd_requests_accepted_total 15");
        assert_metric("msd_requests_total{outcome=\"completed\"} 5");
        assert_metric("msd_requests_total{outcome=\"failed\"} 4");
        assert_metric("msd_requests_total{outcome=\"cancelled\"} 5");
        assert_metric("msd_requests_waiting 6");
        assert_metric("# TYPE msd_wait_seconds histogram");

        /* A bound belongs to its bucket, and each bucket has those before it. */
        histogram_add(&status.counters[0].waits, 0);
        histogram_add(&status.counters[1].waits, 10 * NSEC_PER_MSEC);
        histogram_add(&status.counters[2].waits, 10 * NSEC_PER_MSEC + 1);
        histogram_add(&status.counters[2].waits, 4000 * NSEC_PER_SEC);
        assert_metric("msd_wait_seconds_bucket{le=\"0.01\"} 2");
        assert_metric("msd_wait_seconds_bucket{le=\"0.1\"} 3");
        assert_metric("msd_wait_seconds_bucket{le=\"1800\"} 3");
        assert_metric("msd_wait_seconds_bucket{le=\"+Inf\"} 4");
        assert_metric("msd_wait_seconds_sum 4000.020000001");
        assert_metric("msd_wait_seconds_count 4");

        ck_assert_int_eq(gate_open(&stop), 0);
        assert_metric("msd_model_ready 0");
}
END_TEST

static Suite *status_suite(void) {
        Suite *suite = suite_create("status");
        TCase *tcase = tcase_create("status");

        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_test(tcase, status_members);
        tcase_add_test(tcase, status_life);
        tcase_add_test(tcase, status_times);
        tcase_add_test(tcase, status_sums_of_workers);
        tcase_add_test(tcase, status_metrics);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(status_suite)
