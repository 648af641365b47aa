#include "daemon/options.h"

#include <stdio.h>
#include <string.h>

#include "common/number.h"
#include "tests/support/unit.h"

static char error[512];

/* Splits at spaces; `_` stands for a space within an argument. */
static int parse(struct options *options, const char *line) {
        static char buffer[1024];
        static char *argv[64];
        int argc = 0;

        snprintf(buffer, sizeof(buffer), "msd %s", line);
        for (char *word = strtok(buffer, " "); word; word = strtok(NULL, " ")) {
                for (char *p = word; *p; p++)
                        if (*p == '_')
                                *p = ' ';
                ck_assert_int_lt(argc + 1, (int)ARRAY_SIZE(argv));
                argv[argc++] = word;
        }
        argv[argc] = NULL;
        error[0] = '\0';
        return options_parse(options, argc, argv, error, sizeof(error));
}

START_TEST(options_defaults) {
        struct options options;

        ck_assert_int_eq(parse(&options, ""), 0);
        ck_assert_ptr_null(options.socket);
        ck_assert_ptr_null(options.model);
        ck_assert_ptr_null(options.load_failure);
        ck_assert_uint_eq(options.load_time, 2 * NSEC_PER_SEC);
        ck_assert_uint_eq(options.inference_time, 100 * NSEC_PER_MSEC);
        ck_assert_uint_eq(options.load_attempts, 1);
        ck_assert_uint_eq(options.load_timeout, 0);
        ck_assert_uint_eq(options.stall_timeout, 300 * NSEC_PER_SEC);
        ck_assert_int_eq(options.on_load_failure, ON_LOAD_FAILURE_EXIT);
        ck_assert_int_eq(options.load, LOAD_AT_START);
        ck_assert_uint_eq(options.idle_timeout, 0);
        ck_assert_uint_eq(options.exit_idle_time, 0);
        ck_assert_uint_eq(options.threads, 0);
        ck_assert_uint_eq(options.max_waiting, 1048576);
        ck_assert_uint_eq(options.max_connections, 0);
        ck_assert_uint_eq(options.max_prompt, 1048576);
        ck_assert_uint_eq(options.max_prompt_memory, 1073741824);
        ck_assert_uint_eq(options.request_timeout, 0);
        ck_assert_uint_eq(options.drain_timeout, 30 * NSEC_PER_SEC);
        ck_assert_uint_eq(options.stop_timeout, 10 * NSEC_PER_SEC);
        ck_assert(!options.quiet);
}
END_TEST

START_TEST(options_all) {
        struct options options;

        ck_assert_int_eq(parse(&options, "--socket /a/b --model=llama --load-time 1min_30s --inference-time 0 "
                                         "--load-failure no_file --load-attempts 3 --load-timeout 4 --stall-timeout 5 "
                                         "--on-load-failure stay --load demand --idle-timeout 12min --exit-idle-time 1h --threads 6 --max-waiting 0 --max-connections 8 "
                                         "--max-prompt 9 --max-prompt-memory 10 --request-timeout 11ms "
                                         "--drain-timeout 0.5 --stop-timeout 1min --quiet"), 0);
        ck_assert_str_eq(options.socket, "/a/b");
        ck_assert_str_eq(options.model, "llama");
        ck_assert_uint_eq(options.load_time, 90 * NSEC_PER_SEC);
        ck_assert_uint_eq(options.inference_time, 0);
        ck_assert_str_eq(options.load_failure, "no file");
        ck_assert_uint_eq(options.load_attempts, 3);
        ck_assert_uint_eq(options.load_timeout, 4 * NSEC_PER_SEC);
        ck_assert_uint_eq(options.stall_timeout, 5 * NSEC_PER_SEC);
        ck_assert_int_eq(options.on_load_failure, ON_LOAD_FAILURE_STAY);
        ck_assert_int_eq(options.load, LOAD_ON_DEMAND);
        ck_assert_uint_eq(options.idle_timeout, 720 * NSEC_PER_SEC);
        ck_assert_uint_eq(options.exit_idle_time, 3600 * NSEC_PER_SEC);
        ck_assert_uint_eq(options.threads, 6);
        ck_assert_uint_eq(options.max_waiting, 0);
        ck_assert_uint_eq(options.max_connections, 8);
        ck_assert_uint_eq(options.max_prompt, 9);
        ck_assert_uint_eq(options.max_prompt_memory, 10);
        ck_assert_uint_eq(options.request_timeout, 11 * NSEC_PER_MSEC);
        ck_assert_uint_eq(options.drain_timeout, 500 * NSEC_PER_MSEC);
        ck_assert_uint_eq(options.stop_timeout, 60 * NSEC_PER_SEC);
        ck_assert(options.quiet);

        /* Which sign of readiness counts, where several options say it. */
        ck_assert_uint_eq(options.freeze_timeout, 120 * NSEC_PER_SEC);
        ck_assert_int_eq(options.ready, READY_ANY);
        ck_assert_int_eq(options.upstream_owner, UPSTREAM_OWNER_CHILD);
        ck_assert_int_eq(parse(&options, "--upstream unix:x --ready-line x --upstream-owner any --freeze-timeout 0 -- a"), 0);
        ck_assert_int_eq(options.ready, READY_LINE);
        ck_assert_int_eq(options.upstream_owner, UPSTREAM_OWNER_ANY);
        ck_assert_uint_eq(options.freeze_timeout, 0);
        ck_assert_int_eq(parse(&options, "--upstream unix:x --ready any --ready-line x -- a"), 0);
        ck_assert_int_eq(options.ready, READY_ANY);
        ck_assert_int_eq(parse(&options, "--upstream unix:x --ready probe"), 0);
        ck_assert_int_eq(options.ready, READY_PROBE);

        /* The last one counts. */
        ck_assert_int_eq(parse(&options, "--threads 1 --threads 2"), 0);
        ck_assert_uint_eq(options.threads, 2);
}
END_TEST

static const struct {
        const char *line;
        const char *error;
} wrong[] = {
        { "--socket=", "--socket: the text is empty" },
        { "--socket", "--socket: its value is missing" },
        { "--model=", "--model: the text is empty" },
        { "--load-time 2x", "--load-time: \"2x\" is no duration (2, 0.1, 100ms, 1min 30s)" },
        { "--load-time -1", "--load-time: \"-1\" is no duration (2, 0.1, 100ms, 1min 30s)" },
        { "--inference-time 99999999999999", "--inference-time: \"99999999999999\" is too long a duration" },
        { "--threads 0", "--threads: 0 is not within 1 to 64" },
        { "--threads 65", "--threads: 65 is not within 1 to 64" },
        { "--threads two", "--threads: \"two\" is no number" },
        { "--load-attempts 0", "--load-attempts: 0 is not within 1 to 1000000" },
        { "--max-connections 0", "--max-connections: 0 is not within 1 to 2147483647" },
        { "--max-prompt 2147483648", "--max-prompt: 2147483648 is not within 0 to 2147483647" },
        { "--max-waiting +1", "--max-waiting: \"+1\" is no number" },
        { "--on-load-failure die", "--on-load-failure: \"die\" is none of exit|stay" },
        { "--load later", "--load: \"later\" is none of start|demand" },
        { "--exit-idle-time 1", "--exit-idle-time: msd does not end while the model is loaded; --idle-timeout stops it" },
        { "--upstream http://a:1 --idle-timeout 1",
          "--idle-timeout: msd stops a model server that it started; without a command there is none" },
        { "--ready soon", "--ready: \"soon\" is none of any|notify|line|probe" },
        { "--ready=", "--ready: \"\" is none of any|notify|line|probe" },
        { "--ready an", "--ready: \"an\" is none of any|notify|line|probe" },
        { "--upstream-owner me", "--upstream-owner: \"me\" is none of child|any" },
        { "--ready any", "--ready: without --upstream the model is simulated" },
        { "--upstream-owner any", "--upstream-owner: without --upstream the model is simulated" },
        { "--upstream unix:x --ready line -- a", "--ready line: which line it is says --ready-line" },
        { "--upstream unix:x --ready probe --ready-line x -- a", "--ready-line: with --ready probe a line does not count" },
        { "--upstream unix:x --ready notify --ready-line x -- a", "--ready-line: with --ready notify a line does not count" },
        { "--upstream unix:x --ready-line x", "--ready-line: a server that msd did not start can only be probed" },
        { "--upstream unix:x --ready notify", "--ready notify: a server that msd did not start can only be probed" },
        { "--quiet=yes", "--quiet=yes: it takes no value" },
        { "--nope", "--nope: no such option" },
        { "-x", "-x: no such option" },
        { "start", "start: msd takes options alone; the command of a model server stands behind --" },
        { "--quiet start -- a", "start: msd takes options alone; the command of a model server stands behind --" },
        { "--quiet -- a", "a command: without --upstream the model is simulated" },
        { "--warmup x", "--warmup: without --upstream the model is simulated" },
        { "--upstream unix:a --load-failure x", "--load-failure: with --upstream the model is not simulated" },
        { "--upstream unix:a --health-path health", "--health-path: \"health\" is no path of a URL, which begins with /" },
};

START_TEST(options_wrong) {
        struct options options;

        ck_assert_int_eq(parse(&options, wrong[_i].line), OPTIONS_WRONG);
        ck_assert_str_eq(error, wrong[_i].error);
}
END_TEST

START_TEST(options_http) {
        struct options options;

        ck_assert_int_eq(parse(&options, "--http 127.0.0.1:80 --stream-keepalive 15s --http=unix:a"), 0);
        ck_assert_uint_eq(options.http_count, 2);
        ck_assert_str_eq(options.http[0], "127.0.0.1:80");
        ck_assert_str_eq(options.http[1], "unix:a");
        ck_assert_uint_eq(options.stream_keepalive, 15 * NSEC_PER_SEC);
        ck_assert_int_eq(parse(&options, ""), 0);
        ck_assert_uint_eq(options.http_count, 0);
        ck_assert_uint_eq(options.stream_keepalive, 0);
        ck_assert_int_eq(parse(&options, "--http a --http a --http a --http a --http a --http a --http a --http a"), 0);
        ck_assert_int_eq(parse(&options, "--http a --http a --http a --http a --http a --http a --http a --http a --http a"),
                         OPTIONS_WRONG);
        ck_assert_str_eq(error, "--http: at most 8 times");
}
END_TEST

START_TEST(options_asked) {
        struct options options;

        ck_assert_int_eq(parse(&options, "--help"), OPTIONS_HELP);
        ck_assert_int_eq(parse(&options, "-h"), OPTIONS_HELP);
        ck_assert_int_eq(parse(&options, "--quiet --version"), OPTIONS_VERSION);
        ck_assert_ptr_nonnull(strstr(options_help, "--max-prompt-memory"));
}
END_TEST

static Suite *options_suite(void) {
        Suite *suite = suite_create("daemon options");
        TCase *tcase = tcase_create("options");

        tcase_add_test(tcase, options_defaults);
        tcase_add_test(tcase, options_all);
        unit_add_table(tcase, options_wrong, wrong);
        tcase_add_test(tcase, options_http);
        tcase_add_test(tcase, options_asked);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(options_suite)
