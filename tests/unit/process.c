#include "daemon/model/process.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/number.h"
#include "tests/support/unit.h"

/* Starts a process that does this, and then waits for its end. */
static pid_t start(void (*act)(void)) {
        int pipes[2];
        pid_t pid;
        char c;

        ck_assert_int_eq(pipe(pipes), 0);
        pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                if (act)
                        act();
                (void)!write(pipes[1], "", 1);
                for (;;)
                        pause();
        }
        ck_assert_int_eq(read(pipes[0], &c, 1), 1);
        close(pipes[0]);
        close(pipes[1]);
        return pid;
}

static void end(pid_t pid) {
        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

/* A name may have anything in it. */
static void take_name(void) {
        (void)prctl(PR_SET_NAME, "a) R 1 (b");
        (void)setpgid(0, 0);
}

START_TEST(process_facts) {
        struct process process;
        pid_t pid = start(take_name);

        ck_assert_int_eq(process_read(pid, &process), 0);
        ck_assert_int_eq(process.id.pid, pid);
        ck_assert_uint_gt(process.id.started, 0);
        ck_assert_int_eq(process.parent, getpid());
        ck_assert_int_eq(process.group, pid);
        /* A sanitizer has one of its own. */
        ck_assert_uint_ge(process.threads, 1);
        ck_assert_str_eq(process.name, "a) R 1 (b");
        ck_assert(!process.exiting && !process_has_ended(&process));
        end(pid);
        ck_assert_int_eq(process_read(pid, &process), -ESRCH);
}
END_TEST

static void work(void) {
        uint64_t sum = 0;
        struct process process;

        do {
                for (unsigned i = 0; i < 1000000; i++)
                        *(volatile uint64_t *)&sum += i;
                (void)process_read(getpid(), &process);
        } while (process.processor < 50 * NSEC_PER_MSEC);
}

START_TEST(process_time) {
        struct process process;
        pid_t pid = start(work);

        ck_assert_int_eq(process_read(pid, &process), 0);
        ck_assert_uint_ge(process.processor, 50 * NSEC_PER_MSEC);
        ck_assert_uint_lt(process.processor, 60 * NSEC_PER_SEC);
        end(pid);
}
END_TEST

START_TEST(process_ended) {
        struct process process;
        siginfo_t info;
        pid_t pid = start(NULL);

        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
        ck_assert_int_eq(process_read(pid, &process), 0);
        ck_assert_int_eq(process.state, 'Z');
        ck_assert(process_has_ended(&process));
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}
END_TEST

static void *live(void *data) {
        char c;

        /* Its first thread ends; this one tells when. */
        for (;;) {
                struct process process;

                ck_assert_int_eq(process_read(getpid(), &process), 0);
                if (process.state == 'Z')
                        break;
        }
        (void)!write(*(int *)data, "", 1);
        for (;;)
                (void)!read(-1, &c, (size_t)pause());
}

/* A process whose first thread has ended is none that has. */
START_TEST(process_thread_left) {
        struct process process;
        static int pipes[2];
        pthread_t thread;
        pid_t pid;
        char c;

        ck_assert_int_eq(pipe(pipes), 0);
        pid = fork();
        if (pid == 0) {
                if (pthread_create(&thread, NULL, live, &pipes[1]) != 0)
                        _exit(1);
                pthread_exit(NULL);
        }
        ck_assert_int_eq(read(pipes[0], &c, 1), 1);
        ck_assert_int_eq(process_read(pid, &process), 0);
        ck_assert_int_eq(process.state, 'Z');
        ck_assert(!process_has_ended(&process));
        end(pid);
}
END_TEST

START_TEST(process_all) {
        struct process_list list;
        unsigned found = 0;
        pid_t pid = start(NULL);

        ck_assert_int_eq(process_list_read(&list, NULL, NULL), 0);
        for (size_t i = 0; i < list.count; i++)
                found += list.processes[i].id.pid == pid || list.processes[i].id.pid == getpid();
        ck_assert_uint_eq(found, 2);
        process_list_deinit(&list);
        process_list_deinit(&list);
        end(pid);
}
END_TEST

/* Starts another process behind the listing. */
static bool pick_self(const struct process *process, void *data) {
        pid_t *started = data;

        if (process->id.pid != getpid())
                return false;
        *started = start(NULL);
        return true;
}

/* A process that was started during the listing is found too. One is picked while it is read. */
START_TEST(process_started_meanwhile) {
        struct process_list list;
        unsigned found = 0;
        pid_t started = 0;

        ck_assert_int_eq(process_list_read(&list, pick_self, &started), 0);
        ck_assert_int_gt(started, 0);
        for (size_t i = 0; i < list.count; i++) {
                found += list.processes[i].id.pid == started;
                ck_assert(list.processes[i].picked == (list.processes[i].id.pid == getpid()));
        }
        ck_assert_uint_eq(found, 1);
        process_list_deinit(&list);
        end(started);
}
END_TEST

/* A signal is for the process, and not for another one with its pid. */
START_TEST(process_signals) {
        struct process process;
        int status;
        pid_t pid = start(NULL);

        ck_assert_int_eq(process_read(pid, &process), 0);
        process.id.started++;
        ck_assert_int_eq(process_signal(&process.id, SIGKILL), -ESRCH);
        ck_assert_int_eq(waitpid(pid, &status, WNOHANG), 0);
        process.id.started--;
        ck_assert_int_eq(process_signal(&process.id, SIGUSR1), 0);
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_int_eq(WTERMSIG(status), SIGUSR1);
        ck_assert_int_eq(process_signal(&process.id, SIGUSR1), -ESRCH);
        ck_assert_int_eq(process_open(&process.id), -ESRCH);
}
END_TEST

/* The pids of another PID namespace's /proc are not taken for those of this one. */
START_TEST(process_foreign_proc) {
        struct process_list list;
        pid_t outer = fork();
        int status;

        if (outer == 0) {
                pid_t inner;

                if (unshare(CLONE_NEWPID) < 0)
                        _exit(errno == EPERM ? 77 : 1);
                inner = fork();
                if (inner == 0)
                        _exit(process_list_read(&list, NULL, NULL) == -EXDEV && list.count == 0 ? 0 : 1);
                _exit(waitpid(inner, &status, 0) == inner && WIFEXITED(status) ? WEXITSTATUS(status) : 1);
        }
        ck_assert_int_eq(waitpid(outer, &status, 0), outer);
        ck_assert(WIFEXITED(status));
        if (WEXITSTATUS(status) == 77)
                printf("SKIP: process_foreign_proc: no PID namespace can be made here\n");
        else
                ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

static Suite *process_suite(void) {
        Suite *suite = suite_create("process");
        TCase *tcase = tcase_create("process");

        tcase_set_timeout(tcase, 60);
        tcase_add_test(tcase, process_facts);
        tcase_add_test(tcase, process_time);
        tcase_add_test(tcase, process_ended);
        tcase_add_test(tcase, process_thread_left);
        tcase_add_test(tcase, process_all);
        tcase_add_test(tcase, process_started_meanwhile);
        tcase_add_test(tcase, process_signals);
        tcase_add_test(tcase, process_foreign_proc);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(process_suite)
