#include "daemon/model/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/number.h"
#include "daemon/loop/reaper.h"
#include "daemon/model/owner.h"
#include "tests/support/unit.h"

/* Of this process alone: others run the same test. */
static char place[64], other_place[80];

static struct reactor reactor;
static struct reaper reaper;
static struct tree tree;
static struct reaper_child root;
static struct timer deadline;
static char owner[OWNER_MAX];
static char heard[512];
static unsigned gone, held;

/* Signals that are sent to no process, as if it did not hear them. */
static bool deaf;
int __real_process_signal(const struct process_id *id, int signal);
int __wrap_process_signal(const struct process_id *id, int signal);
int __wrap_process_signal(const struct process_id *id, int signal) {
        return deaf ? 0 : __real_process_signal(id, signal);
}

/* A /proc that is of no use. */
static int list_error;

/* So often nothing of the tree is found in it: each process there has ended when it is looked at, and has started the next one. */
static unsigned list_misses;

/* This process ends once all are listed; 0: none. */
static pid_t list_ends;
int __real_process_list_read(struct process_list *list, process_pick_fn *picks, void *data);
int __wrap_process_list_read(struct process_list *list, process_pick_fn *picks, void *data);
int __wrap_process_list_read(struct process_list *list, process_pick_fn *picks, void *data) {
        int r;

        *list = (struct process_list)PROCESS_LIST_NULL;
        if (list_error == 0 && list_misses > 0) {
                list_misses--;
                return 0;
        }
        r = list_error < 0 ? list_error : __real_process_list_read(list, picks, data);
        if (list_ends > 0) {
                ck_assert_int_eq(kill(list_ends, SIGKILL), 0);
                ck_assert_int_eq(waitpid(list_ends, NULL, 0), list_ends);
                list_ends = 0;
        }
        return r;
}

/* What is done by the clock is done at once: it goes on by an hour. */
static uint64_t skipped;
uint64_t __real_timer_now(void);
uint64_t __wrap_timer_now(void);
uint64_t __wrap_timer_now(void) {
        return __real_timer_now() + skipped;
}

static void on_gone(struct tree *t) {
        ck_assert_ptr_eq(t, &tree);
        gone++;
        reactor_stop(&reactor);
}

static void on_held(struct tree *t, const char *processes) {
        ck_assert_ptr_eq(t, &tree);
        held++;
        snprintf(heard, sizeof(heard), "%s", processes);
        reactor_stop(&reactor);
}

static const struct tree_events events = { .gone = on_gone, .held = on_held };

static void root_ended(struct reaper_child *child, const siginfo_t *info) {
        (void)child;
        (void)info;
        tree.root = 0;
}

static void deadline_due(struct timer *timer) {
        (void)timer;
        ck_abort_msg("nothing happens any more");
}

static void pause_due(struct timer *timer) {
        (void)timer;
        reactor_stop(&reactor);
}

static void run(void) {
        reactor.stopped = false;
        reactor_set_timer(&reactor, &deadline, timer_now() + 60 * NSEC_PER_SEC);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        timer_clear(&deadline);
}

static void setup(void) {
        timer_init(&deadline, deadline_due);
        root = (struct reaper_child){ .ended = root_ended };
        ck_assert_int_eq(reactor_init(&reactor), 0);
        ck_assert_int_eq(reaper_init(&reaper, &reactor), 0);
        snprintf(place, sizeof(place), "/unit/tree.%d", (int)getpid());
        snprintf(other_place, sizeof(other_place), "%s/other", place);
        owner_format(owner, place);
        tree_init(&tree, &reactor, &events, owner, false);
}

static void teardown(void) {
        deaf = false;
        tree_deinit(&tree);
        tree_deinit(&tree);
        ck_assert_uint_eq(timer_list_due(&reactor.timers), UINT64_MAX);
        reaper_deinit(&reaper);
        reactor_deinit(&reactor);
}

/* Runs a script that writes a line on descriptor 3 when all is there, with this MSD_OWNER. */
static pid_t start_script(const char *script, const char *of) {
        int pipes[2];
        pid_t pid;
        char line[64];

        ck_assert_int_eq(pipe(pipes), 0);
        pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                sigset_t none;

                sigemptyset(&none);
                (void)sigprocmask(SIG_SETMASK, &none, NULL);
                (void)setpgid(0, 0);
                (void)dup2(pipes[1], 3);
                if (of)
                        (void)setenv(OWNER_VARIABLE, of, 1);
                execlp("sh", "sh", "-c", script, NULL);
                _exit(127);
        }
        (void)setpgid(pid, pid);
        ck_assert_int_gt(read(pipes[0], line, sizeof(line)), 0);
        close(pipes[0]);
        close(pipes[1]);
        return pid;
}

static void start(const char *script) {
        root.pid = tree.root = start_script(script, owner);
        reaper_add(&reaper, &root);
}

static bool lives(pid_t pid) {
        struct process process;

        return process_read(pid, &process) == 0 && !process_has_ended(&process);
}

/* Waits until so many processes are found. */
static void look_until(size_t count) {
        uint64_t until = timer_now() + 60 * NSEC_PER_SEC;

        do {
                ck_assert_int_eq(tree_look(&tree), 0);
                ck_assert(timer_now() < until);
        } while (tree.count != count);
}

/* Whatever a process does to leave, it is found; its signal reaches it, and its end is waited for. */
static const struct {
        const char *script;
        size_t count;
} trees[] = {
        { "echo >&3; exec sleep 4711", 1 },
        { "sleep 4711 & echo >&3; wait", 2 },
        { "setsid sleep 4711 & echo >&3; wait", 2 },
        { "(setsid sleep 4711 & echo >&3); exec sleep 4711", 2 },
        { "(env -i setsid sleep 4711 & echo >&3); exec sleep 4711", 2 },
        { "sh -c 'sh -c \"setsid sleep 4711 & sleep 4711 & echo >&3; wait\" & wait' & wait", 5 },
        /* Stopped ones hear of it too. */
        { "sleep 4711 & kill -STOP $!; echo >&3; wait", 2 },
};

START_TEST(tree_stopped) {
        pid_t pids[8];
        size_t count;

        start(trees[_i].script);
        look_until(trees[_i].count);
        count = tree.count;
        for (size_t i = 0; i < count; i++)
                pids[i] = tree.members[i].process.id.pid;
        tree_stop(&tree, 60 * NSEC_PER_SEC);
        run();
        ck_assert_uint_eq(gone, 1);
        for (size_t i = 0; i < count; i++)
                ck_assert(!lives(pids[i]));
        ck_assert_uint_eq(tree.count, 0);
}
END_TEST

/* SIGKILL is for those that SIGTERM did not end. One that comes meanwhile is ended too. */
START_TEST(tree_killed) {
        start("trap '' TERM; sleep 4711 & trap 'sleep 4711 & :' TERM; echo >&3; while :; do wait; done");
        look_until(2);
        tree_stop(&tree, 300 * NSEC_PER_MSEC);
        run();
        ck_assert_uint_eq(gone, 1);
}
END_TEST

/* The root ends, and others live: they are waited for. */
START_TEST(tree_without_root) {
        pid_t left;

        start("setsid sleep 4711 & echo >&3; wait");
        look_until(2);
        left = tree.members[1].process.id.pid;
        ck_assert_int_eq(kill(root.pid, SIGKILL), 0);
        ck_assert_int_eq(waitpid(root.pid, NULL, 0), root.pid);
        reaper_remove(&root);
        tree.root = 0;
        look_until(1);
        ck_assert_int_eq(tree.members[0].process.id.pid, left);
        tree_stop(&tree, 60 * NSEC_PER_SEC);
        run();
        ck_assert(!lives(left));
}
END_TEST

/* Orphans of strangers are told by their environment. */
START_TEST(tree_strangers) {
        pid_t stranger;

        tree.adopts_strangers = true;
        stranger = start_script("echo >&3; exec sleep 4711", NULL);
        start("(setsid sleep 4711 & echo >&3); exec sleep 4711");
        look_until(2);
        tree_stop(&tree, 60 * NSEC_PER_SEC);
        run();
        ck_assert(lives(stranger));
        ck_assert_int_eq(kill(stranger, SIGKILL), 0);
}
END_TEST

/* What is in MSD_OWNER of an msd that is dead, `n` the numbers behind its pid. */
static pid_t dead_owner(char value[static OWNER_MAX], unsigned long long n[static 3]) {
        pid_t dead = fork();

        if (dead == 0)
                _exit(0);
        ck_assert_int_eq(waitpid(dead, NULL, 0), dead);
        ck_assert_int_eq(sscanf(owner, "%*d:%llu:%llu:%llu:", &n[0], &n[1], &n[2]), 3);
        snprintf(value, OWNER_MAX, "%d:%llu:%llu:%llu:%s", (int)dead, n[0], n[1], n[2], place);
        return dead;
}

/* What a dead msd has left at the same place; nothing of a living one's, and nothing of another place. */
START_TEST(tree_left_overs) {
        char value[OWNER_MAX];
        unsigned long long n[3];
        pid_t pids[3], dead = dead_owner(value, n);

        tree.adopts_strangers = true;
        ck_assert(!tree_stop_left_overs(&tree, 60 * NSEC_PER_SEC));

        for (unsigned i = 0; i < 3; i++) {
                /* The last one is of a living process: this one's parent. */
                struct process parent;

                ck_assert_int_eq(process_read(getppid(), &parent), 0);
                snprintf(value, sizeof(value), "%d:%llu:%llu:%llu:%s", i == 2 ? (int)getppid() : (int)dead,
                         i == 2 ? (unsigned long long)parent.id.started : n[0], n[1], n[2], i == 1 ? other_place : place);
                pids[i] = start_script("echo >&3; exec sleep 4711", value);
        }
        ck_assert(tree_stop_left_overs(&tree, 60 * NSEC_PER_SEC));
        run();
        ck_assert_uint_eq(gone, 1);
        ck_assert(!lives(pids[0]) && lives(pids[1]) && lives(pids[2]));
        ck_assert(!tree_stop_left_overs(&tree, 60 * NSEC_PER_SEC));
        for (unsigned i = 1; i < 3; i++)
                ck_assert_int_eq(kill(pids[i], SIGKILL), 0);
}
END_TEST

/* A process that ends as soon as all are listed was a left-over all the same: it may have started another one. */
START_TEST(tree_left_over_ends) {
        char value[OWNER_MAX];
        unsigned long long n[3];

        (void)dead_owner(value, n);
        tree.adopts_strangers = true;
        list_ends = start_script("echo >&3; exec sleep 4711", value);
        ck_assert(tree_stop_left_overs(&tree, 60 * NSEC_PER_SEC));
        run();
        ck_assert_uint_eq(gone, 1);
}
END_TEST

/* A left-over that a look misses, as its environment is not there for a moment, is ended. */
START_TEST(tree_left_over_missed) {
        char value[OWNER_MAX];
        unsigned long long n[3];
        pid_t left;

        (void)dead_owner(value, n);
        tree.adopts_strangers = true;
        left = start_script("echo >&3; exec sleep 4711", value);
        ck_assert(tree_stop_left_overs(&tree, 60 * NSEC_PER_SEC));
        list_misses = 2;
        run();
        ck_assert_uint_eq(gone, 1);
        ck_assert_uint_eq(list_misses, 0);
        ck_assert(!lives(left));
}
END_TEST

/* Each process of a chain of left-overs starts the next one and ends soon: none gets away. */
START_TEST(tree_left_over_chain) {
        char value[OWNER_MAX], line;
        unsigned long long n[3];
        int pipes[2];
        ssize_t size;

        (void)dead_owner(value, n);
        tree.adopts_strangers = true;
        ck_assert_int_eq(pipe(pipes), 0);
        if (fork() == 0) {
                (void)setenv(OWNER_VARIABLE, value, 1);
                (void)close(pipes[0]);
                signal(SIGTERM, SIG_IGN);
                (void)dup2(pipes[1], 3);
                execlp("sh", "sh", "-c", "n() { echo >&3; sleep 0.03; n & sleep 0.01; }; n", NULL);
                _exit(127);
        }
        close(pipes[1]);
        ck_assert_int_eq(read(pipes[0], &line, 1), 1);
        ck_assert(tree_stop_left_overs(&tree, 300 * NSEC_PER_MSEC));
        run();
        ck_assert_uint_eq(gone, 1);
        /* The pipe has an end only if none of them lives. */
        ck_assert_int_eq(fcntl(pipes[0], F_SETFL, O_NONBLOCK), 0);
        while ((size = read(pipes[0], &line, 1)) > 0)
                ;
        ck_assert_int_eq(size, 0);
        close(pipes[0]);
}
END_TEST

/* One that cannot be killed is named once a minute, and is waited for until it is gone. */
START_TEST(tree_held) {
        char expected[256];

        start("setsid sh -c 'echo >&3; exec sleep 4711' & wait");
        look_until(2);
        tree.root = 0;
        deaf = true;
        tree_stop(&tree, NSEC_PER_SEC);
        for (unsigned i = 1; i <= 3; i++) {
                skipped += 3600 * NSEC_PER_SEC;
                while (held < i)
                        run();
                ck_assert_uint_eq(gone, 0);
        }
        snprintf(expected, sizeof(expected), "%s (pid %d, state S), %s (pid %d, state S)", tree.members[0].process.name,
                 (int)tree.members[0].process.id.pid, tree.members[1].process.name, (int)tree.members[1].process.id.pid);
        ck_assert_str_eq(heard, expected);
        for (size_t i = 0; i < tree.count; i++)
                ck_assert_int_eq(kill(tree.members[i].process.id.pid, SIGKILL), 0);
        run();
        ck_assert_uint_eq(gone, 1);
        ck_assert_uint_eq(held, 3);
}
END_TEST

/* Without /proc the group of the root is signalled, once, and the root is waited for. */
START_TEST(tree_without_proc) {
        list_error = -EXDEV;
        ck_assert(!tree_stop_left_overs(&tree, 60 * NSEC_PER_SEC));
        start("trap : TERM; sleep 4711 & echo >&3; wait; wait");
        tree_stop(&tree, 2 * NSEC_PER_SEC);
        run();
        ck_assert_uint_eq(gone, 1);
        ck_assert_uint_eq(held, 0);
}
END_TEST

/* For a moment there is no memory to read it: nothing is taken for gone. */
START_TEST(tree_unseen) {
        pid_t left;

        start("setsid sleep 4711 & echo >&3; wait");
        look_until(2);
        left = tree.members[1].process.id.pid;
        list_error = -ENOMEM;
        tree_stop(&tree, 0);
        while (tree.root > 0) {
                struct timer pause;

                timer_init(&pause, pause_due);
                reactor_set_timer(&reactor, &pause, timer_now() + NSEC_PER_MSEC);
                run();
        }
        ck_assert_uint_eq(gone, 0);
        list_error = 0;
        run();
        ck_assert_uint_eq(gone, 1);
        ck_assert(!lives(left));
}
END_TEST

/* What a look misses is there all the same, and is ended. */
START_TEST(tree_missed) {
        pid_t left;

        start("setsid sleep 4711 & echo >&3; wait");
        look_until(2);
        left = tree.members[1].process.id.pid;
        ck_assert_int_eq(kill(root.pid, SIGKILL), 0);
        ck_assert_int_eq(waitpid(root.pid, NULL, 0), root.pid);
        reaper_remove(&root);
        tree.root = 0;
        list_misses = 3;
        tree_stop(&tree, 60 * NSEC_PER_SEC);
        run();
        ck_assert_uint_eq(gone, 1);
        ck_assert_uint_eq(list_misses, 0);
        ck_assert(!lives(left));
}
END_TEST

/* What no look finds is waited for like any other, and not for ever. */
START_TEST(tree_missed_always) {
        start("echo >&3; exec sleep 4711");
        tree.root = 0;
        tree.is_last = true;
        list_misses = UINT_MAX;
        tree_stop(&tree, 0);
        while (gone == 0) {
                skipped += 3600 * NSEC_PER_SEC;
                run();
        }
        ck_assert_uint_eq(held, 1);
        ck_assert_str_eq(heard, "a process that starts another one and ends, again and again");
        ck_assert_int_eq(kill(root.pid, SIGKILL), 0);
}
END_TEST

/* When msd ends behind it, it is not waited for. */
START_TEST(tree_last) {
        pid_t pid;

        start("echo >&3; exec sleep 4711");
        look_until(1);
        pid = root.pid;
        tree.root = 0;
        tree.is_last = deaf = true;
        tree_stop(&tree, 0);
        while (gone == 0) {
                skipped += 3600 * NSEC_PER_SEC;
                run();
        }
        ck_assert_uint_eq(held, 1);
        ck_assert(lives(pid));
        ck_assert_int_eq(kill(pid, SIGKILL), 0);
}
END_TEST

static Suite *tree_suite(void) {
        Suite *suite = suite_create("tree");
        TCase *tcase = tcase_create("tree");

        tcase_set_timeout(tcase, 90);
        tcase_add_checked_fixture(tcase, setup, teardown);
        unit_add_table(tcase, tree_stopped, trees);
        tcase_add_test(tcase, tree_killed);
        tcase_add_test(tcase, tree_without_root);
        tcase_add_test(tcase, tree_strangers);
        tcase_add_test(tcase, tree_left_overs);
        tcase_add_test(tcase, tree_left_over_ends);
        tcase_add_test(tcase, tree_left_over_missed);
        tcase_add_test(tcase, tree_left_over_chain);
        tcase_add_test(tcase, tree_held);
        tcase_add_test(tcase, tree_without_proc);
        tcase_add_test(tcase, tree_unseen);
        tcase_add_test(tcase, tree_missed);
        tcase_add_test(tcase, tree_missed_always);
        tcase_add_test(tcase, tree_last);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(tree_suite)
