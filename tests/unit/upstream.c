#include "daemon/model/upstream.h"

#include <errno.h>
#include <string.h>

#include "common/util.h"
#include "daemon/model/fetch.h"
#include "tests/support/unit.h"

static const struct {
        const char *url;
        const char *base;       /* NULL: it is none */
        const char *socket;
        const char *path;
} urls[] = {
        { "http://127.0.0.1:8080", "http://127.0.0.1:8080", "", "" },
        { "http://localhost:8080/", "http://localhost:8080", "", "" },
        { "http://[::1]:8080/prefix//", "http://[::1]:8080", "", "/prefix" },
        { "http://a/b/c", "http://a", "", "/b/c" },
        { "unix:/run/x.sock", "http://localhost", "/run/x.sock", "" },
        { "unix:x", "http://localhost", "x", "" },
        { "unix:", NULL, NULL, NULL },
        { "unix", NULL, NULL, NULL },
        { "", NULL, NULL, NULL },
        { "http://", NULL, NULL, NULL },
        { "http:///health", NULL, NULL, NULL },
        { "https://127.0.0.1:8080", NULL, NULL, NULL },
        { "127.0.0.1:8080", NULL, NULL, NULL },
        { "http://host:1/?a=b", NULL, NULL, NULL },
        { "http://host:1/ x", NULL, NULL, NULL },
        { "http://host:1\r\nX: y", NULL, NULL, NULL },
        { "unix:/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678",
          NULL, NULL, NULL },
};

START_TEST(upstream_urls) {
        struct target target;

        if (!urls[_i].base) {
                ck_assert_int_eq(target_parse(&target, urls[_i].url), -EINVAL);
                return;
        }
        ck_assert_int_eq(target_parse(&target, urls[_i].url), 0);
        ck_assert_str_eq(target.base, urls[_i].base);
        ck_assert_str_eq(target.socket, urls[_i].socket);
        ck_assert_str_eq(target.path, urls[_i].path);
}
END_TEST

START_TEST(upstream_options) {
        struct upstream_options options = { .url = "unix:x", .ready_line = "^a+$", .completion_options = "{\"a\":1}" };
        char error[256];

        ck_assert_int_eq(upstream_check(&options, error, sizeof(error)), 0);
        options.url = "ftp://x";
        ck_assert_int_eq(upstream_check(&options, error, sizeof(error)), -EINVAL);
        ck_assert_str_eq(error, "--upstream: \"ftp://x\" is neither http://HOST:PORT nor unix:PATH");
        options.url = "unix:x";
        options.ready_line = "a[";
        ck_assert_int_eq(upstream_check(&options, error, sizeof(error)), -EINVAL);
        ck_assert_ptr_nonnull(strstr(error, "--ready-line: \"a[\" is no regular expression: "));
        options.ready_line = NULL;
        options.completion_options = "[1]";
        ck_assert_int_eq(upstream_check(&options, error, sizeof(error)), -EINVAL);
        ck_assert_str_eq(error, "--completion-options: [1] is no JSON object");
        options.completion_options = "{";
        ck_assert_int_eq(upstream_check(&options, error, sizeof(error)), -EINVAL);
}
END_TEST

/* One that was never loaded is let go of, stopped, and asked in vain. */
START_TEST(upstream_unused) {
        const struct upstream_options options = { .url = "unix:x", .ready_line = "a" };
        const struct upstream_options wrong = { .url = "x" };
        struct load_events events = { 0 };
        struct model *model = NULL;

        ck_assert_int_eq(upstream_new(&model, &wrong), -EINVAL);
        ck_assert_int_eq(upstream_new(&model, &options), 0);
        ck_assert(model->ops->needs_prompt);
        (void)model_progressed(model);
        model_unload(model);
        model_suspect(model);
        ck_assert(!model_stop(model, &events));
        ck_assert_ptr_null(model_free(model));
}
END_TEST

static Suite *upstream_suite(void) {
        Suite *suite = suite_create("upstream");
        TCase *tcase = tcase_create("upstream");

        tcase_add_loop_test(tcase, upstream_urls, 0, ARRAY_SIZE(urls));
        tcase_add_test(tcase, upstream_options);
        tcase_add_test(tcase, upstream_unused);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(upstream_suite)
