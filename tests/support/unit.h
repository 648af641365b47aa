#pragma once

/*
 * What the unit tests share: one suite a program, run as libcheck's environment variables say (CK_FORK,
 * CK_VERBOSITY, CK_RUN_CASE …).
 */

#include <check.h>
#include <stdlib.h>

#include "common/util.h"

#define UNIT_MAIN(suite)                                          \
        int main(void) {                                          \
                SRunner *runner = srunner_create(suite());        \
                int failed;                                       \
                                                                  \
                srunner_run_all(runner, CK_ENV);                  \
                failed = srunner_ntests_failed(runner);           \
                srunner_free(runner);                             \
                return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE; \
        }

/* Adds `function` as one test for each element of `table`; `_i` is the element's index. */
#define unit_add_table(tcase, function, table) \
        tcase_add_loop_test(tcase, function, 0, (int)ARRAY_SIZE(table))

/* As ck_assert_msg(), which notes each time where it is: too slow for what is asked a million times. */
#define unit_assert(condition, ...) ((condition) ? (void)0 : ck_abort_msg(__VA_ARGS__))

/* For "%.*s". */
static inline int unit_len(size_t len) {
        return (int)len;
}
