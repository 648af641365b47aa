#include "daemon/model/child.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"
#include "tests/support/unit.h"

static struct reactor reactor;
static struct reaper reaper;
static struct child child;
/* Of this process alone: others run the same test. */
static char place[64];
static const struct child_options options = { .reaper = &reaper, .place = place, .stop_timeout = 60 * NSEC_PER_SEC };
static char heard[16384];
static unsigned lines_awaited;
static bool was_killed;
static int start_error;

static void note(const char *what, const char *text, size_t len) {
        size_t n = strlen(heard);

        snprintf(heard + n, sizeof(heard) - n, "%s %.*s;", what, unit_len(len), text);
}

static void line(struct child *c, bool error, const char *text, size_t len) {
        ck_assert_ptr_eq(c, &child);
        note(error ? "err" : "out", text, len);
        if (lines_awaited > 0 && --lines_awaited == 0)
                reactor_stop(&reactor);
}

static void notified(struct child *c, const char *assignment) {
        ck_assert_ptr_eq(c, &child);
        note("told", assignment, strlen(assignment));
}

static void exited(struct child *c, const struct child_end *end) {
        ck_assert_ptr_eq(c, &child);
        ck_assert(child_is_there(&child));
        note("exit", end->how, strlen(end->how));
        was_killed = end->was_killed;
        start_error = end->start_error;
}

static void ended(struct child *c, const struct child_end *end) {
        ck_assert_ptr_eq(c, &child);
        ck_assert(!child_is_there(&child));
        ck_assert_int_eq(end->was_killed, was_killed);
        note("end", end->was_stopped ? "asked" : "", end->was_stopped ? 5 : 0);
        reactor_stop(&reactor);
}

static void held(struct child *c, const char *processes) {
        ck_assert_ptr_eq(c, &child);
        note("held", processes, strlen(processes));
}

static const struct child_events events = { line, notified, exited, ended, held };

static void setup(void) {
        heard[0] = '\0';
        snprintf(place, sizeof(place), "/unit/child.%d", (int)getpid());
        ck_assert_int_eq(reactor_init(&reactor), 0);
        ck_assert_int_eq(reaper_init(&reaper, &reactor), 0);
        child_init(&child, &reactor, &events, &options);
}

static void teardown(void) {
        child_deinit(&child);
        child_deinit(&child);
        ck_assert_uint_eq(timer_list_due(&reactor.timers), UINT64_MAX);
        reaper_deinit(&reaper);
        reactor_deinit(&reactor);
}

static void start(const char *script) {
        char *const argv[] = { (char *)"sh", (char *)"-c", (char *)(uintptr_t)script, NULL };

        reactor.stopped = false;
        ck_assert_int_eq(child_start(&child, argv), 0);
        ck_assert(child_is_there(&child));
}

static void run(const char *script) {
        start(script);
        ck_assert_int_eq(reactor_run(&reactor), 0);
}

/* What it wrote is heard before its end, each line whole, and the last without an end too. */
START_TEST(child_lines) {
        run("echo one; echo two; printf 'thr'; printf 'ee\\r\\n'; printf four");
        ck_assert_str_eq(heard, "out one;out two;out three;out four;exit It exited with status 0;end ;");

        heard[0] = '\0';
        run("for i in 1 2 3 4; do echo line $i >&2; done; exit 7");
        ck_assert_str_eq(heard, "err line 1;err line 2;err line 3;err line 4;exit It exited with status 7;end ;");
        ck_assert_str_eq(cause_line(&child.cause), "line 4");
}
END_TEST

/* A line that has no end is cut, and nothing of it is lost. */
START_TEST(child_long_line) {
        run("head -c 5000 /dev/zero | tr '\\0' x");
        ck_assert_uint_eq(strlen(heard), 5000 + 3 * strlen("out ;") + strlen("exit It exited with status 0;end ;"));
}
END_TEST

START_TEST(child_killed) {
        run("kill -SEGV $$");
        ck_assert_str_eq(heard, "exit It was killed by SIGSEGV;end ;");
        ck_assert(!was_killed);
        heard[0] = '\0';
        run("kill $$");
        ck_assert_str_eq(heard, "exit It was killed by SIGTERM;end ;");
        ck_assert(was_killed);
}
END_TEST

START_TEST(child_not_found) {
        char *const argv[] = { (char *)"/no/such/program", NULL };
        char *const directory[] = { (char *)"/", NULL };

        ck_assert_int_eq(child_start(&child, argv), 0);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert(!child_is_there(&child));
        ck_assert_int_eq(start_error, ENOENT);
        ck_assert(!was_killed);
        reactor.stopped = false;
        ck_assert_int_eq(child_start(&child, directory), 0);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_int_eq(start_error, EACCES);
        ck_assert_str_eq(heard, "exit No such file or directory;end ;exit Permission denied;end ;");
        heard[0] = '\0';
        /* And it can be started after that. */
        run("exit 1");
        ck_assert_str_eq(heard, "exit It exited with status 1;end ;");
}
END_TEST

START_TEST(child_environment) {
        char expected[256];

        setenv("NOTIFY_SOCKET", "/somebody/elses", 1);
        setenv("WATCHDOG_USEC", "1", 1);
        setenv("LISTEN_FDS", "1", 1);
        run("echo ${NOTIFY_SOCKET%%[0-9a-f]*} ${MSD_OWNER##*:} ${WATCHDOG_USEC-none} ${LISTEN_FDS-none}; read x || echo no input");
        snprintf(expected, sizeof(expected), "out @ %s none none;out no input;exit It exited with status 0;end ;", place);
        ck_assert_str_eq(heard, expected);
        unsetenv("NOTIFY_SOCKET");
        unsetenv("WATCHDOG_USEC");
        unsetenv("LISTEN_FDS");
}
END_TEST

/* The whole group, and by force what does not listen. */
START_TEST(child_stopped) {
        start("sleep 4711 & wait");
        child_stop(&child);
        child_stop(&child);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(heard, "exit It was killed by SIGTERM;end asked;");

        heard[0] = '\0';
        start("trap '' TERM; sleep 4711");
        child_kill(&child);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(heard, "exit It was killed by SIGKILL;end asked;");
        ck_assert(!was_killed);
        child_stop(&child);
        child_kill(&child);
}
END_TEST

START_TEST(child_active) {
        struct child_usage usage;

        child_usage(&child, &usage);
        ck_assert_uint_eq(usage.processes, 0);
        start("head -c 1000000 /dev/zero >/dev/null; echo; sleep 4711");
        lines_awaited = 1;
        ck_assert_int_eq(reactor_run(&reactor), 0);
        /* What it has read counts, also that of a process of its own that has ended. */
        child_usage(&child, &usage);
        ck_assert_uint_ge(usage.read, 1000000);
        ck_assert_uint_ge(usage.written, 1000000);
        /* The shell, and the process that sleeps, if it has come so far. */
        ck_assert_uint_ge(usage.processes, 1);
}
END_TEST

/* What it leaves behind is stopped, and heard until then; the end of the process itself comes at once. */
START_TEST(child_leaves_others) {
        static const char begin[] = "exit It exited with status 3;";

        run("setsid sh -c 'trap \"echo out; exit\" TERM; echo there >&2; while :; do sleep 0.05; done' & sleep 1; exit 3");
        ck_assert_ptr_nonnull(strstr(heard, begin));
        ck_assert_ptr_nonnull(strstr(strstr(heard, begin), "out out;"));
        ck_assert_str_eq(heard + strlen(heard) - 5, "end ;");
}
END_TEST

/* The limit that msd was started with, and not what it has made of it. */
START_TEST(child_descriptors) {
        const struct rlimit given = { 64, 128 };

        child.options.descriptors = given;
        run("ulimit -Sn; ulimit -Hn");
        ck_assert_str_eq(heard, "out 64;out 128;exit It exited with status 0;end ;");
}
END_TEST

/* A listener of this child's, of one that has ended, and of somebody else. */
START_TEST(child_left) {
        struct ucred process = { .pid = getpid(), .uid = geteuid() };

        ck_assert(!child_has_left(&child, &process));
        process.pid = 0;
        ck_assert(!child_has_left(&child, &process));
        start("echo; sleep 4711");
        lines_awaited = 1;
        ck_assert_int_eq(reactor_run(&reactor), 0);
        process.pid = child.process.pid;
        ck_assert(child_has_left(&child, &process));
        process.uid++;
        ck_assert(!child_has_left(&child, &process));
        process.uid--;
        child_kill(&child);
        reactor.stopped = false;
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert(child_has_left(&child, &process));
        /* Nothing is left of it. */
        ck_assert(!child_clear(&child));
        ck_assert(!child_is_there(&child));
}
END_TEST

static Suite *child_suite(void) {
        Suite *suite = suite_create("child");
        TCase *tcase = tcase_create("child");

        tcase_set_timeout(tcase, 60);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_test(tcase, child_lines);
        tcase_add_test(tcase, child_long_line);
        tcase_add_test(tcase, child_killed);
        tcase_add_test(tcase, child_not_found);
        tcase_add_test(tcase, child_environment);
        tcase_add_test(tcase, child_stopped);
        tcase_add_test(tcase, child_active);
        tcase_add_test(tcase, child_leaves_others);
        tcase_add_test(tcase, child_descriptors);
        tcase_add_test(tcase, child_left);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(child_suite)
