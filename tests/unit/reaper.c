#include "daemon/loop/reaper.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/number.h"
#include "tests/support/unit.h"

static struct reactor reactor;
static struct reaper reaper;
static struct timer deadline;
static siginfo_t heard;
static unsigned ends;
static int sum;

static void ended(struct reaper_child *child, const siginfo_t *info) {
        ck_assert_int_eq(info->si_pid, child->pid);
        heard = *info;
        ends++;
        sum += info->si_code == CLD_EXITED ? info->si_status : 1000;
        reactor_stop(&reactor);
}

static void deadline_due(struct timer *timer) {
        (void)timer;
        ck_abort_msg("nothing has ended");
}

static void run(void) {
        reactor.stopped = false;
        reactor_set_timer(&reactor, &deadline, timer_now() + 60 * NSEC_PER_SEC);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        timer_clear(&deadline);
}

static void pause_due(struct timer *timer) {
        (void)timer;
        reactor_stop(&reactor);
}

/* Takes up what happens within a moment. */
static void turn(void) {
        struct timer pause;

        timer_init(&pause, pause_due);
        reactor_set_timer(&reactor, &pause, timer_now() + NSEC_PER_MSEC);
        run();
        timer_clear(&pause);
}

static void setup(void) {
        timer_init(&deadline, deadline_due);
        ck_assert_int_eq(reactor_init(&reactor), 0);
        ck_assert_int_eq(reaper_init(&reaper, &reactor), 0);
}

static void teardown(void) {
        reaper_deinit(&reaper);
        reaper_deinit(&reaper);
        reactor_deinit(&reactor);
}

static pid_t start(int status) {
        pid_t pid = fork();

        ck_assert_int_ge(pid, 0);
        if (pid == 0)
                _exit(status);
        return pid;
}

/* Each child hears of its own end, however many signals came of it. */
START_TEST(reaper_own) {
        struct reaper_child children[3] = { { .ended = ended }, { .ended = ended }, { .ended = ended } };

        for (int i = 0; i < 3; i++) {
                children[i].pid = start(1 << i);
                reaper_add(&reaper, &children[i]);
        }
        while (ends < 3)
                run();
        ck_assert_int_eq(sum, 7);
        ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
        reaper_remove(&children[0]);
        reaper_remove(&children[0]);
}
END_TEST

/* One that nobody waits for is reaped all the same, and takes nobody's status. */
START_TEST(reaper_unknown) {
        struct reaper_child child = { .ended = ended };
        siginfo_t info;

        for (int i = 0; i < 5; i++)
                (void)start(9);
        child.pid = start(3);
        reaper_add(&reaper, &child);
        run();
        ck_assert_int_eq(heard.si_status, 3);
        while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0)
                turn();
        ck_assert_int_eq(errno, ECHILD);
        ck_assert_uint_eq(ends, 1);
}
END_TEST

/* The orphan of a child becomes a child. */
START_TEST(reaper_orphan) {
        struct reaper_child child = { .ended = ended }, orphan = { .ended = ended };
        int pipes[2], go[2];
        char c;

        ck_assert_int_eq(pipe(pipes), 0);
        ck_assert_int_eq(pipe(go), 0);
        child.pid = fork();
        if (child.pid == 0) {
                pid_t pid = fork();

                if (pid == 0) {
                        (void)!read(go[0], &c, 1);
                        _exit(5);
                }
                _exit(write(pipes[1], &pid, sizeof(pid)) != sizeof(pid));
        }
        reaper_add(&reaper, &child);
        run();
        ck_assert_int_eq(heard.si_status, 0);
        ck_assert_int_eq(read(pipes[0], &orphan.pid, sizeof(orphan.pid)), sizeof(orphan.pid));
        reaper_add(&reaper, &orphan);
        ck_assert_int_eq(write(go[1], "", 1), 1);
        run();
        ck_assert_int_eq(heard.si_status, 5);
}
END_TEST

/* A child from before exec(2) makes strangers of what is adopted. */
START_TEST(reaper_strangers) {
        pid_t pid;

        ck_assert(!reaper.adopts_strangers);
        pid = fork();
        if (pid == 0)
                for (;;)
                        pause();
        ck_assert_int_gt(pid, 0);
        reaper_deinit(&reaper);
        ck_assert_int_eq(reaper_init(&reaper, &reactor), 0);
        ck_assert(reaper.adopts_strangers);
        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}
END_TEST

/* Where who started msd ignores SIGCHLD, children would be gone before anybody hears how they ended. */
START_TEST(reaper_not_ignored) {
        struct reaper_child child = { .ended = ended };

        (void)signal(SIGCHLD, SIG_IGN);
        reaper_hold_signals();
        child.pid = start(6);
        reaper_add(&reaper, &child);
        run();
        ck_assert_int_eq(heard.si_status, 6);
}
END_TEST

static Suite *reaper_suite(void) {
        Suite *suite = suite_create("reaper");
        TCase *tcase = tcase_create("reaper");

        tcase_set_timeout(tcase, 90);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_test(tcase, reaper_own);
        tcase_add_test(tcase, reaper_unknown);
        tcase_add_test(tcase, reaper_orphan);
        tcase_add_test(tcase, reaper_strangers);
        tcase_add_test(tcase, reaper_not_ignored);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(reaper_suite)
