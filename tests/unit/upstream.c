#include "daemon/model/upstream.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/model/fetch.h"
#include "daemon/model/generation.h"
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
        { "http://host:1/\x01", NULL, NULL, NULL },
        { "http://host:1/\xc2\x85", NULL, NULL, NULL },
        { "http://host:0", NULL, NULL, NULL },
        { "http://host:65536", NULL, NULL, NULL },
        { "http://host:", NULL, NULL, NULL },
        { "http://:80", NULL, NULL, NULL },
        { "http://[::1", NULL, NULL, NULL },
        { "http://[::1]x", NULL, NULL, NULL },
        { "http://user@host", NULL, NULL, NULL },
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
        options.completion_options = NULL;
        options.host = "a b";
        ck_assert_int_eq(upstream_check(&options, error, sizeof(error)), -EINVAL);
        ck_assert_str_eq(error, "--upstream-host: \"a b\" is no HOST[:PORT]");
        options.host = "a:1";
        options.key = "a\nb";
        ck_assert_int_eq(upstream_check(&options, error, sizeof(error)), -EINVAL);
        ck_assert_ptr_nonnull(strstr(error, "--upstream-key-file: "));
        options.key = "ab";
        ck_assert_int_eq(upstream_check(&options, error, sizeof(error)), 0);
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

/* A server that runs already, in a thread: it answers so many requests, and is gone then. */

#define PATIENCE (60 * NSEC_PER_SEC)

static int listener;
static unsigned limit;
static unsigned asked;
static unsigned sick_from = 1000;       /* from this request on, and so many, it is not available */
static unsigned sick_for;
static unsigned suspected_at;           /* it is suspected once more while this request is under way */
static struct generation generation;
static char last[4096];

static void *serve(void *data) {
        static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n{\"data\":[{\"id\":\"one\"}]}";

        static const char sick[] = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";

        while (asked < limit) {
                int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                ssize_t n = recv(fd, last, sizeof(last) - 1, 0);

                ck_assert_int_gt(n, 0);
                last[n] = '\0';
                if (++asked == suspected_at)
                        atomic_fetch_add(&generation.suspicions, 1);
                if (asked >= sick_from && asked - sick_from < sick_for)
                        ck_assert_int_eq(send(fd, sick, sizeof(sick) - 1, MSG_NOSIGNAL), sizeof(sick) - 1);
                else
                        ck_assert_int_eq(send(fd, answer, sizeof(answer) - 1, MSG_NOSIGNAL), sizeof(answer) - 1);
                close(fd);
        }
        close(listener);
        return data;
}

static struct reactor reactor;
static struct timer deadline;
static char story[16];
static char probe[256];
static const char *lost_reason = "Connection refused at 127.0.0.1:";

static void note(char c) {
        story[strlen(story)] = c;
        reactor_stop(&reactor);
}

static void on_ready(struct load_events *events, const char *name) {
        (void)events;
        ck_assert_str_eq(name, "one");
        ck_assert_uint_eq(generation.address_len, sizeof(struct sockaddr_in));
        note('r');
}

static void on_failed(struct load_events *events, const char *reason) {
        (void)events;
        (void)reason;
        note('f');
}

static void on_lost(struct load_events *events, enum loss how, const char *reason) {
        (void)events;
        ck_assert_int_eq(how, LOSS_UNREACHABLE);
        ck_assert_msg(strncmp(reason, lost_reason, strlen(lost_reason)) == 0, "%s", reason);
        note('l');
}

static void on_alive(struct load_events *events) {
        (void)events;
        ck_assert_uint_eq(atomic_load(&generation.suspicions), 0);
        note('a');
}

static void on_probed(struct load_events *events, const char *result) {
        (void)events;
        snprintf(probe, sizeof(probe), "%s", result);
}

static void on_warned(struct load_events *events, const char *warning) {
        (void)events;
        ck_abort_msg("%s", warning);
}

static void deadline_due(struct timer *timer) {
        (void)timer;
        ck_abort_msg("nothing happens any more: \"%s\"", story);
}

static void run(const char *expected) {
        reactor.stopped = false;
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(story, expected);
}

/* A server at a port of its own, whose thread ends with the test. Returns its URL. */
static struct sockaddr_in address;

static const char *listen_somewhere(void) {
        static char url[64];
        socklen_t len = sizeof(address);

        address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, len), 0);
        ck_assert_int_eq(listen(listener, 10), 0);
        ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &len), 0);
        snprintf(url, sizeof(url), "http://127.0.0.1:%u", ntohs(address.sin_port));
        return url;
}

static struct load_events events = {
        .ready = on_ready, .failed = on_failed, .lost = on_lost, .alive = on_alive, .probed = on_probed, .warned = on_warned,
};

START_TEST(upstream_suspected) {
        struct upstream_options options = { .url = listen_somewhere(), .health_path = "/health", .key = "secret", .host = "host" };
        struct model *model = NULL;
        pthread_t server;

        /* The health, the name, two probes of which the first comes too early, and one more. */
        limit = 5;
        suspected_at = 3;
        ck_assert_int_eq(pthread_create(&server, NULL, serve, NULL), 0);

        ck_assert_int_eq(reactor_init(&reactor), 0);
        timer_init(&deadline, deadline_due);
        reactor_set_timer(&reactor, &deadline, timer_now() + PATIENCE);
        ck_assert_int_eq(upstream_new(&model, &options), 0);
        ck_assert_int_eq(model_load(model, &reactor, &generation, &events), 0);
        run("r");
        ck_assert_int_eq(memcmp(&generation.address, &address, sizeof(address)), 0);
        ck_assert_uint_eq(asked, 2);
        ck_assert_str_eq(probe, "GET /health: 200 OK");
        ck_assert_ptr_nonnull(strstr(last, "GET /v1/models HTTP/1.1\r\nHost: host\r\nAuthorization: Bearer secret\r\n"));

        atomic_store(&generation.suspicions, 3);
        model_suspect(model);
        model_suspect(model);
        run("ra");
        ck_assert_uint_eq(asked, 4);
        atomic_store(&generation.suspicions, 1);
        model_suspect(model);
        run("raa");
        ck_assert_int_eq(pthread_join(server, NULL), 0);
        ck_assert_uint_eq(asked, 5);
        atomic_store(&generation.suspicions, 1);
        model_suspect(model);
        run("raal");
        /* It is none any more, and is not probed. */
        model_suspect(model);

        model_unload(model);
        ck_assert_ptr_null(model_free(model));
        timer_clear(&deadline);
        reactor_deinit(&reactor);
}
END_TEST

/* One that is not available for some time is asked again, and is lost when that takes too long. */
START_TEST(upstream_unavailable) {
        const struct upstream_options options = { .url = listen_somewhere(), .health_path = "/health",
                                                  .freeze_timeout = _i == 0 ? PATIENCE : 200 * NSEC_PER_MSEC };
        struct model *model = NULL;
        pthread_t server;

        /* The health, the name, three probes that fail, and one that does not. */
        limit = _i == 0 ? 6 : 1000;
        sick_from = 3;
        sick_for = _i == 0 ? 3 : 1000;
        lost_reason = "GET /health: 503 Service Unavailable; it does not answer any more";
        ck_assert_int_eq(pthread_create(&server, NULL, serve, NULL), 0);
        ck_assert_int_eq(reactor_init(&reactor), 0);
        timer_init(&deadline, deadline_due);
        reactor_set_timer(&reactor, &deadline, timer_now() + PATIENCE);
        ck_assert_int_eq(upstream_new(&model, &options), 0);
        ck_assert_int_eq(model_load(model, &reactor, &generation, &events), 0);
        run("r");
        atomic_store(&generation.suspicions, 1);
        model_suspect(model);
        run(_i == 0 ? "ra" : "rl");
        if (_i == 0) {
                ck_assert_int_eq(pthread_join(server, NULL), 0);
                ck_assert_uint_eq(asked, 6);
        }
        model_unload(model);
        ck_assert_ptr_null(model_free(model));
        timer_clear(&deadline);
        reactor_deinit(&reactor);
}
END_TEST

static Suite *upstream_suite(void) {
        Suite *suite = suite_create("upstream");
        TCase *tcase = tcase_create("upstream");

        tcase_set_timeout(tcase, 120);
        tcase_add_loop_test(tcase, upstream_urls, 0, ARRAY_SIZE(urls));
        tcase_add_test(tcase, upstream_options);
        tcase_add_test(tcase, upstream_unused);
        tcase_add_test(tcase, upstream_suspected);
        tcase_add_loop_test(tcase, upstream_unavailable, 0, 2);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(upstream_suite)
