#include "daemon/model/owner.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/model/process.h"
#include "tests/support/unit.h"

#define PLACE "/run/msd/a:b"

static char own[OWNER_MAX];
static struct {
        int pid;
        uint64_t started, pid_namespace, time_namespace;
} self;

static void setup(void) {
        owner_format(own, PLACE);
        ck_assert_int_eq(sscanf(own, "%d:%" SCNu64 ":%" SCNu64 ":%" SCNu64 ":" PLACE, &self.pid, &self.started, &self.pid_namespace,
                                &self.time_namespace),
                         4);
        ck_assert_int_eq(self.pid, getpid());
        ck_assert_uint_gt(self.started, 0);
        ck_assert_uint_gt(self.pid_namespace, 0);
}

static enum owner compare(int pid, uint64_t started, uint64_t pid_namespace, uint64_t time_namespace, const char *place) {
        char value[OWNER_MAX];

        snprintf(value, sizeof(value), "%d:%" PRIu64 ":%" PRIu64 ":%" PRIu64 ":%s", pid, started, pid_namespace, time_namespace, place);
        return owner_compare(own, value);
}

static pid_t start(void) {
        pid_t pid = fork();

        if (pid == 0)
                for (;;)
                        pause();
        ck_assert_int_gt(pid, 0);
        return pid;
}

START_TEST(owner_kinds) {
        struct process other;
        siginfo_t info;
        pid_t pid = start();

        ck_assert_int_eq(process_read(pid, &other), 0);
#define COMPARE(pid, started, place) compare(pid, started, self.pid_namespace, self.time_namespace, place)
        ck_assert_int_eq(owner_compare(own, own), OWNER_SELF);
        ck_assert_int_eq(COMPARE(pid, other.id.started, PLACE), OWNER_LIVING);
        ck_assert_int_eq(COMPARE(pid, other.id.started, "/run/msd/other"), OWNER_NONE);
        /* The pid of another one by now; and of this one, that has the pid of one before. */
        ck_assert_int_eq(COMPARE(pid, other.id.started - 1, PLACE), OWNER_DEAD);
        ck_assert_int_eq(COMPARE(getpid(), self.started - 1, PLACE), OWNER_DEAD);
        ck_assert_int_eq(COMPARE(pid, other.id.started - 1, "/run/msd/other"), OWNER_NONE);
        /* What cannot be told of another namespace. */
        ck_assert_int_eq(compare(pid, other.id.started - 1, self.pid_namespace + 1, self.time_namespace, PLACE), OWNER_LIVING);
        ck_assert_int_eq(compare(pid, other.id.started - 1, self.pid_namespace, self.time_namespace + 1, PLACE), OWNER_LIVING);

        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
        ck_assert_int_eq(COMPARE(pid, other.id.started, PLACE), OWNER_DEAD);
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
        ck_assert_int_eq(COMPARE(pid, other.id.started, PLACE), OWNER_DEAD);
}
END_TEST

/* Of older versions, of other programs, and of nothing. */
START_TEST(owner_malformed) {
        static const char *const values[] = { "", PLACE, "1:2:3:" PLACE, "0:1:2:3:" PLACE, "-1:1:2:3:" PLACE, "a:1:2:3:" PLACE };

        for (size_t i = 0; i < ARRAY_SIZE(values); i++)
                ck_assert_int_eq(owner_compare(own, values[i]), OWNER_NONE);
}
END_TEST

START_TEST(owner_process) {
        char variable[sizeof(OWNER_VARIABLE) + OWNER_MAX], *environment[] = { (char *)"A=1", variable, (char *)"B=" OWNER_VARIABLE "=", NULL };
        char *const argv[] = { (char *)"sleep", (char *)"4711", NULL };
        pid_t pid;

        snprintf(variable, sizeof(variable), OWNER_VARIABLE "=%s", own);
        for (unsigned has_it = 0; has_it < 2; has_it++) {
                int pipes[2];
                char c;

                ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
                pid = fork();
                if (pid == 0) {
                        if (!has_it)
                                environment[1] = NULL;
                        execvpe(argv[0], argv, environment);
                        _exit(127);
                }
                close(pipes[1]);
                ck_assert_int_eq(read(pipes[0], &c, 1), 0);
                close(pipes[0]);
                ck_assert_int_eq(owner_of(pid, own), has_it ? OWNER_SELF : OWNER_NONE);
                ck_assert_int_eq(kill(pid, SIGKILL), 0);
                ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
                ck_assert_int_eq(owner_of(pid, own), OWNER_NONE);
        }
}
END_TEST

static Suite *owner_suite(void) {
        Suite *suite = suite_create("owner");
        TCase *tcase = tcase_create("owner");

        tcase_set_timeout(tcase, 60);
        tcase_add_checked_fixture(tcase, setup, NULL);
        tcase_add_test(tcase, owner_kinds);
        tcase_add_test(tcase, owner_malformed);
        tcase_add_test(tcase, owner_process);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(owner_suite)
