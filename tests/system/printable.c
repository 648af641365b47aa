/*
 * What a model or a user says is one printable line wherever a line of it would count for more: for the service manager, in the
 * log, on the request socket.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/manager.h"
#include "tests/support/served.h"

static struct daemon msd;
static char directory[SUITE_PATH_MAX], url[SUITE_PATH_MAX + 32], upstream_socket[SUITE_PATH_MAX + 16];

static void setup(void) {
        suite_directory(directory);
        snprintf(upstream_socket, sizeof(upstream_socket), "%s/up.sock", directory);
        snprintf(url, sizeof(url), "unix:%s", upstream_socket);
}

static void teardown(void) {
        suite_remove(directory);
}

/* A model with this name would be the service's main process. The status object has its name as it is: that is data. */
START_TEST(name_of_a_model) {
        struct peer_status status;
        struct manager manager;
        char *line;

        manager_init(&manager);
        daemon_start_with(&msd, &manager.setup,
                          (const char *[]){ "--upstream", url, "--", served_program(), "--socket", upstream_socket, "--name",
                                            "x\\nMAINPID=1\\r\\u001b[2J\\u2028y", NULL });
        manager_wait(&manager, "READY=1");
        manager_wait_begin(&manager, "STATUS=Ready: ");
        line = manager_last(&manager, "STATUS=Ready: ");
        ck_assert_msg(strncmp(line, "x MAINPID=1  y was loaded in ", 29) == 0, "%s", line);
        free(line);
        ck_assert_uint_eq(manager_count(&manager, "MAINPID="), 0);
        peer_status(&msd.control, &status);
        /* Whose escapes the reader of the tests takes without their backslashes. */
        ck_assert_str_eq(status.model, "xnMAINPID=1ru001B[2J\u2028y");
        daemon_stop(&msd);
        manager_deinit(&manager);
}
END_TEST

/* The name of an option stands in STATUS= while it loads. */
START_TEST(name_of_an_option) {
        struct manager manager;

        manager_init(&manager);
        daemon_start_with(&msd, &manager.setup,
                          (const char *[]){ "--load-time", "1h", "--model", "x\nREADY=1\nERRNO=1", NULL });
        manager_wait_begin(&manager, "STATUS=Loading x READY=1 ERRNO=1");
        ck_assert(!manager_has(&manager, "READY=1"));
        ck_assert_uint_eq(manager_count(&manager, "ERRNO="), 0);
        daemon_stop(&msd);
        manager_deinit(&manager);
}
END_TEST

/* The model's lines, and what is quoted of them. */
START_TEST(lines_of_a_model) {
        daemon_start(&msd, "--upstream", url, "--load-attempts", "1", "--on-load-failure", "stay", "--", "/bin/sh", "-c",
                     "printf 'out\\033[31m\\tred\\233\\n'; printf 'fatal:\\033]0;title\\007 a\\302\\205b\\377\\n' >&2; exit 3", NULL);
        peer_send(&msd.control, "REQUEST 1 2\nhi\n");
        process_wait_output(&msd.process, "out red?\n");
        process_wait_errors(&msd.process, "fatal: ]0;title  a b?\n");
        peer_expect_error(&msd.control, "1", "load-failed", "sh: It exited with status 3: fatal: ]0;title  a b?");
        process_wait_errors(&msd.process, "msd: Loading failed: sh: It exited with status 3: fatal: ]0;title  a b?\n");
        daemon_stop(&msd);
}
END_TEST

/* What msd quotes of its command line. */
START_TEST(wrong_usage) {
        struct process process;

        process_start(&process, suite_msd(), (const char *[]){ "msd", "--nonsense\n\x1b[2Jmsd: all is well", NULL }, NULL);
        ck_assert_int_eq(process_wait(&process), 2);
        ck_assert_msg(strstr(text_get(&process.errors), "--nonsense msd: all is well") && !strchr(text_get(&process.errors), '\x1b'),
                      "%s", text_get(&process.errors));
        process_free(&process);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, name_of_a_model);
        tcase_add_test(tests, name_of_an_option);
        tcase_add_test(tests, lines_of_a_model);
        tcase_add_test(tests, wrong_usage);
}

int main(void) {
        return suite_main("printable", add);
}
