/*
 * How far a load is, and when it is expected to end: wherever msd says it, from each source that it knows.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/front.h"
#include "tests/support/manager.h"
#include "tests/support/run.h"

static struct front front;
static char url[SUITE_PATH_MAX + 32], weights[SUITE_PATH_MAX + 16], state[SUITE_PATH_MAX + 32];

static void setup(void) {
        front_init(&front);
        snprintf(url, sizeof(url), "%s", front.upstream);
        snprintf(weights, sizeof(weights), "%s/weights", front.directory);
        snprintf(state, sizeof(state), "STATE_DIRECTORY=%s/state", front.directory);
        ck_assert_int_eq(mkdir(strchr(state, '=') + 1, 0755), 0);
}

static void teardown(void) {
        front_deinit(&front);
}

static bool is_at(const struct peer_status *status, uint64_t percent) {
        return status->progress >= (double)percent / 100;
}

static bool has_eta(const struct peer_status *status, uint64_t number) {
        (void)number;
        return status->eta >= 0;
}

static bool has_eta_or_ended(const struct peer_status *status, uint64_t number) {
        return has_eta(status, number) || strcmp(status->status, "loading") != 0;
}

static bool has_no_eta(const struct peer_status *status, uint64_t number) {
        return !has_eta(status, number);
}

static bool is_attempt(const struct peer_status *status, uint64_t number) {
        return status->attempt == number;
}

static void wait_until(bool (*done)(const struct peer_status *status, uint64_t number), uint64_t number, struct peer_status *status) {
        peer_status_until(&front.msd.control, status, done, number, "the load is so far");
}

/* It goes up to half, and stays there: that is known, and that more than nothing is left. */
static void expect_half(double at_most) {
        struct peer_status status;

        wait_until(is_at, 45, &status);
        ck_assert_str_eq(status.status, "loading");
        wait_until(has_eta, 0, &status);
        wait_until(is_at, 45, &status);
        ck_assert_double_le(status.progress, at_most);
        daemon_stop(&front.msd);
}

START_TEST(by_a_percentage) {
        front_start_server(&front, NULL, OPTIONS(), OPTIONS("--notify", "--load-by", "status", "--load", "4s", "--load-until", "50"));
        expect_half(0.501);
}
END_TEST

START_TEST(by_a_bar) {
        front_start_server(&front, NULL, OPTIONS(), OPTIONS("--load-by", "bar", "--load", "4s", "--load-until", "50"));
        expect_half(0.501);
}
END_TEST

START_TEST(by_dots) {
        front_start_server(&front, NULL, OPTIONS(), OPTIONS("--load-by", "dots", "--load", "4s", "--load-until", "50"));
        expect_half(0.501);
}
END_TEST

/* What a process reads besides is not much. */
START_TEST(by_what_is_read) {
        front_start_server(&front, NULL, OPTIONS(), OPTIONS("--load-by", "read", "--weights", weights, "--load", "4s", "--load-until", "50"));
        expect_half(0.55);
}
END_TEST

START_TEST(by_what_is_mapped) {
        front_start_server(&front, NULL, OPTIONS(), OPTIONS("--load-by", "map", "--weights", weights, "--load", "4s", "--load-until", "50"));
        expect_half(0.6);
}
END_TEST

/* Of a child of the process that msd has started, too. */
START_TEST(by_what_its_tree_reads) {
        char command[2048];

        snprintf(command, sizeof(command), "%s --socket %s --load-by read --weights %s --load 4s --load-until 50; echo ended", served_program(),
                 front_path(front.upstream), weights);
        daemon_start(&front.msd, "--upstream", url, "--", "sh", "-c", command, NULL);
        expect_half(0.55);
}
END_TEST

START_TEST(nobody_knows) {
        struct peer_status status;
        struct http http;

        front_start_server(&front, NULL, OPTIONS(), OPTIONS("--load", "1h"));
        peer_status(&front.msd.control, &status);
        ck_assert_str_eq(status.status, "loading");
        ck_assert_double_lt(status.progress, 0);
        ck_assert_double_lt(status.eta, 0);
        front_ask(&front, &http, "GET", "/-/metrics");
        http_next(&http);
        ck_assert_ptr_null(strstr(text_get(&http.body), "msd_load_eta_seconds"));
        ck_assert_ptr_null(strstr(text_get(&http.body), "msd_load_progress"));
        http_ask(&http, "GET", "/-/ready");
        http_next(&http);
        ck_assert_str_eq(http_field(&http, "Retry-After"), "1");
        http_close(&http);
        daemon_stop(&front.msd);
}
END_TEST

/* The simulated model knows how long it takes. Nothing wakes up for that. */
START_TEST(everywhere) {
        struct peer_status status;
        struct process mscli;
        struct http http;
        char *text;
        double seconds;

        front_start(&front, OPTIONS("--load-time", "100s"));
        /* msd listens before the load begins. */
        wait_until(has_eta, 0, &status);
        ck_assert_double_gt(status.eta, 20);
        ck_assert_double_le(status.eta, 100);
        ck_assert_double_ge(status.progress, 0);
        ck_assert_double_le(status.progress, 0.8);

        front_ask(&front, &http, "GET", "/-/status");
        http_next(&http);
        ck_assert_ptr_nonnull(strstr(text_get(&http.body), "\"eta_s\":"));
        http_ask(&http, "GET", "/-/metrics");
        http_next(&http);
        text = strstr(text_get(&http.body), "\nmsd_load_eta_seconds ");
        ck_assert_ptr_nonnull(text);
        ck_assert_double_le(strtod(text + strlen("\nmsd_load_eta_seconds "), NULL), 100);
        ck_assert_ptr_nonnull(strstr(text_get(&http.body), "\nmsd_load_progress 0."));
        /* Rounded up, and up to a quarter more; never above two minutes. */
        for (unsigned i = 0; i < 20; i++) {
                http_ask(&http, "GET", "/health");
                http_next(&http);
                ck_assert_uint_eq(http.status, 503);
                seconds = strtod(http_field(&http, "Retry-After"), NULL);
                peer_status(&front.msd.control, &status);
                ck_assert_double_ge(seconds, status.eta);
                ck_assert_double_le(seconds, 120);
        }
        http_close(&http);

        ck_assert_int_eq(run_mscli(&mscli, front.msd.socket, "status", NULL), 0);
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.output), "\nProgress:  "));
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.output), " left\n"));
        ck_assert_ptr_null(strchr(text_get(&mscli.output), '['));
        process_free(&mscli);
        daemon_stop(&front.msd);
}
END_TEST

/* Those for whom a queue is full while a model loads are told when it will have loaded. */
START_TEST(a_full_queue) {
        struct http http;

        front_start(&front, OPTIONS("--load-time", "100s", "--max-waiting", "0"));
        front_ask_chat(&front, &http, NULL, CHAT);
        http_expect_error(&http, 503, "queue-full", NULL);
        ck_assert_double_gt(strtod(http_field(&http, "Retry-After"), NULL), 20);
        http_close(&http);
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(it_is_over) {
        struct peer_status status;

        daemon_start(&front.msd, "--load-time", "100ms", NULL);
        daemon_wait_ready(&front.msd);
        peer_status(&front.msd.control, &status);
        ck_assert_double_lt(status.progress, 0);
        ck_assert_double_lt(status.eta, 0);
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(the_status_line) {
        struct manager manager;

        manager_init(&manager);
        daemon_start_with(&front.msd, &manager.setup, OPTIONS("--model", "llama", "--load-time", "200s"));
        manager_wait_begin(&manager, "STATUS=Loading llama since ");
        manager_wait_begin(&manager, "STATUS=Loading llama, 1 %, about 3min");
        daemon_stop(&front.msd);
        front_start_server(&front, &manager.setup, OPTIONS("--model", "llama"),
                   OPTIONS("--notify", "--load-by", "status", "--load", "4s", "--load-until", "50"));
        manager_wait_begin(&manager, "STATUS=Loading llama: Reading weights: 50%, about ");
        daemon_stop(&front.msd);
        manager_deinit(&manager);
}
END_TEST

static void run_whole_load(const struct process_setup *setup) {
        struct peer_status status;

        front_start_server(&front, setup, OPTIONS(), OPTIONS("--load", "1500ms"));
        peer_status(&front.msd.control, &status);
        ck_assert_double_lt(status.eta, 0);
        daemon_wait_ready(&front.msd);
        daemon_stop(&front.msd);
}

/* From one process to the next; nothing but the time of a load that was one is kept. */
START_TEST(by_earlier_loads) {
        const struct process_setup with = { .environment = (const char *[]){ state, NULL } };
        char path[SUITE_PATH_MAX + 64];
        struct peer_status status;
        FILE *file;

        run_whole_load(&with);
        front_start_server(&front, &with, OPTIONS(), OPTIONS("--load", "1500ms"));
        wait_until(has_eta_or_ended, 0, &status);
        if (strcmp(status.status, "loading") == 0) {
                ck_assert_double_ge(status.eta, 0);
                ck_assert_double_ge(status.progress, 0);
        }
        daemon_wait_ready(&front.msd);
        daemon_stop(&front.msd);
        /* Another command is another load. */
        front_start_server(&front, &with, OPTIONS(), OPTIONS("--load", "1h"));
        peer_status(&front.msd.control, &status);
        ck_assert_double_lt(status.eta, 0);
        daemon_stop(&front.msd);
        /* Damage is as good as nothing. */
        snprintf(path, sizeof(path), "%s/loads", strchr(state, '=') + 1);
        file = fopen(path, "re+");
        ck_assert_ptr_nonnull(file);
        ck_assert_int_eq(fputs("msd loads 1\nffff", file), 1);
        fclose(file);
        run_whole_load(&with);
}
END_TEST

/* Over its time nobody knows, and a load is not said to be almost over for ever. */
START_TEST(over_time) {
        const struct process_setup with = { .environment = (const char *[]){ state, NULL } };
        char once[SUITE_PATH_MAX + 16];
        struct peer_status status;

        snprintf(once, sizeof(once), "%s/once", front.directory);
        front_start_server(&front, &with, OPTIONS(), OPTIONS("--load", "1s", "--once", once, "--again", "1h"));
        daemon_wait_ready(&front.msd);
        daemon_stop(&front.msd);
        front_start_server(&front, &with, OPTIONS(), OPTIONS("--load", "1s", "--once", once, "--again", "1h"));
        wait_until(has_no_eta, 0, &status);
        ck_assert_double_le(status.progress, 0.99);
        daemon_stop(&front.msd);
}
END_TEST

/* Of the next attempt the back-off before it is a part. */
START_TEST(a_back_off) {
        const struct process_setup with = { .environment = (const char *[]){ state, NULL } };
        char once[SUITE_PATH_MAX + 16];
        const char *const of_server[] = { "--load", "200ms", "--exit", "3", "--once", once, "--again", "20s", NULL };
        struct peer_status status;
        FILE *file;

        snprintf(once, sizeof(once), "%s/once", front.directory);
        file = fopen(once, "we");
        ck_assert_ptr_nonnull(file);
        fclose(file);
        /* A load that succeeds, in its time; then the same command fails first. */
        front_start_server(&front, &with, OPTIONS(), of_server);
        daemon_wait_ready(&front.msd);
        daemon_stop(&front.msd);
        ck_assert_int_eq(remove(once), 0);
        front_start_server(&front, &with, OPTIONS("--load-attempts", "9"), of_server);
        wait_until(is_attempt, 2, &status);
        ck_assert_double_ge(status.eta, 15);
        daemon_stop(&front.msd);
}
END_TEST

/* On a terminal, and nowhere else. */
START_TEST(bars) {
        const struct process_setup terminal = { .terminal = true };
        const struct process_setup plain = { .terminal = true, .environment = (const char *[]){ "NO_COLOR=1", NULL } };
        struct process wait, silent, no_colour;

        daemon_start_with(&front.msd, &terminal, OPTIONS("--load-time", "1h"));
        run_start(&wait, front.msd.socket, &terminal, OPTIONS("wait"));
        run_start(&no_colour, front.msd.socket, &plain, OPTIONS("request", "1"));
        run_start(&silent, front.msd.socket, NULL, OPTIONS("wait"));
        process_wait_errors(&front.msd.process, "\033[32m.............");
        process_wait_errors(&front.msd.process, "] Loading sim, 0 %, about ");
        process_wait_errors(&wait, "\033[32m......");
        process_wait_errors(&wait, "] Waiting ");
        process_wait_errors(&wait, "0 %, about ");
        process_wait_errors(&no_colour, "[.............");
        ck_assert_ptr_null(strstr(text_get(&no_colour.errors), "\033[32m"));

        /* What is said takes the place of the bar, which is gone at the end. */
        process_signal(&front.msd.process, SIGTERM);
        process_wait_errors(&front.msd.process, "\r\033[Kmsd: Stopping");
        ck_assert_int_eq(process_wait(&wait), 1);
        ck_assert_int_eq(process_wait(&silent), 1);
        ck_assert_int_eq(process_wait(&no_colour), 1);
        ck_assert_ptr_nonnull(strstr(text_get(&wait.errors), "\r\033[Kmscli: wait: "));
        ck_assert_ptr_null(strpbrk(text_get(&silent.errors), "\r\033"));
        process_free(&wait);
        process_free(&silent);
        process_free(&no_colour);
        daemon_expect_exit(&front.msd, 0);
}
END_TEST

/* The bar stays below the lines of the model server. */
START_TEST(a_bar_and_lines) {
        const struct process_setup terminal = { .terminal = true };

        front_start_server(&front, &terminal, OPTIONS("--model", "llama"),
                   OPTIONS("--notify", "--load-by", "status", "--load", "2s", "--line", "upstream: so it is"));
        process_wait_errors(&front.msd.process, "] Loading llama: Reading weights: ");
        daemon_wait_ready(&front.msd);
        process_wait_errors(&front.msd.process, "\r\033[K");
        daemon_stop(&front.msd);
}
END_TEST

/* While nothing loads, nothing wakes up; while something does, about once a second. */
START_TEST(it_costs_nothing) {
        uint64_t before, switches;

        front_start_server(&front, NULL, OPTIONS("--model", "llama"), OPTIONS("--load", "300ms"));
        daemon_wait_ready(&front.msd);
        process_wait_rest(&front.msd.process);
        before = process_switches(&front.msd.process);
        (void)process_poll(NULL, 0, clock_now() + 3 * NSEC_PER_SEC);
        switches = process_switches(&front.msd.process) - before;
        if (!process_has_tsan(&front.msd.process))
                ck_assert_uint_le(switches, 1);
        daemon_stop(&front.msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, by_a_percentage);
        tcase_add_test(tests, by_a_bar);
        tcase_add_test(tests, by_dots);
        tcase_add_test(tests, by_what_is_read);
        tcase_add_test(tests, by_what_is_mapped);
        tcase_add_test(tests, by_what_its_tree_reads);
        tcase_add_test(tests, nobody_knows);
        tcase_add_test(tests, everywhere);
        tcase_add_test(tests, a_full_queue);
        tcase_add_test(tests, it_is_over);
        tcase_add_test(tests, the_status_line);
        tcase_add_test(tests, by_earlier_loads);
        tcase_add_test(tests, over_time);
        tcase_add_test(tests, a_back_off);
        tcase_add_test(tests, bars);
        tcase_add_test(tests, a_bar_and_lines);
        tcase_add_test(tests, it_costs_nothing);
}

int main(void) {
        return suite_main("progress", add);
}
