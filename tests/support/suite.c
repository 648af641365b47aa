#include "tests/support/suite.h"

#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/util.h"

/* For a machine that is busy, and for the sanitizers. */
#define TEST_TIMEOUT 120

static struct {
        char msd[PATH_MAX];
        char mscli[PATH_MAX];
        char directory[40];
} suite;

const char *suite_msd(void) {
        return suite.msd;
}

const char *suite_mscli(void) {
        return suite.mscli;
}

void suite_directory(char path[static SUITE_PATH_MAX]) {
        snprintf(path, SUITE_PATH_MAX, "%s/XXXXXX", suite.directory);
        ck_assert_ptr_nonnull(mkdtemp(path));
        ck_assert_int_eq(chmod(path, 0755), 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        (void)st;
        (void)type;
        (void)ftw;
        (void)remove(path);
        return 0;
}

void suite_remove(const char *path) {
        (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void suite_copy_program(const char *from, const char *to) {
        _cleanup_close_ int in = open(from, O_RDONLY | O_CLOEXEC);
        _cleanup_close_ int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
        ssize_t n;

        ck_assert_int_ge(in, 0);
        ck_assert_int_ge(out, 0);
        ck_assert_int_eq(fchmod(out, 0755), 0);
        while ((n = sendfile(out, in, NULL, 1 << 20)) > 0)
                ;
        ck_assert_int_eq(n, 0);
}

void suite_skip(const char *test, const char *why) {
        printf("%s: left out: %s\n", test, why);
        fflush(stdout);
}

/* Finds one of the programs, from wherever the tests run. */
static bool find_program(char path[static PATH_MAX], const char *variable, const char *otherwise) {
        const char *program = getenv(variable);

        if (!program || program[0] == '\0')
                program = otherwise;
        if (realpath(program, path) && access(path, X_OK) == 0)
                return true;
        fprintf(stderr, "%s: %m; build it, or set $%s\n", program, variable);
        return false;
}

int suite_main(const char *name, void (*add)(TCase *tests)) {
        Suite *s;
        TCase *tests;
        SRunner *runner;
        int failed;

        if (!find_program(suite.msd, "MSD", "build/msd") ||
            !find_program(suite.mscli, "MSCLI", "build/mscli"))
                return EXIT_FAILURE;
        strcpy(suite.directory, "/tmp/msd-test-XXXXXX");
        if (!mkdtemp(suite.directory) || chmod(suite.directory, 0755) < 0) {
                fprintf(stderr, "%s: %m\n", suite.directory);
                return EXIT_FAILURE;
        }

        s = suite_create(name);
        tests = tcase_create(name);
        tcase_set_timeout(tests, TEST_TIMEOUT);
        add(tests);
        suite_add_tcase(s, tests);
        runner = srunner_create(s);
        srunner_set_fork_status(runner, CK_FORK);
        srunner_run_all(runner, CK_ENV);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);

        suite_remove(suite.directory);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
