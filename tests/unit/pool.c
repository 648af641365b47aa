#include "daemon/loop/pool.h"

#include <stdint.h>
#include <string.h>

#include "tests/support/unit.h"

/* Enough for several pages. */
#define MANY 60000
#define SIZE 80

static unsigned char *objects[MANY];
static struct pool pool;

static void setup(void) {
        pool_init(&pool, SIZE);
}

static void teardown(void) {
        pool_deinit(&pool);
        pool_deinit(&pool);
}

static void fill(unsigned i) {
        objects[i] = pool_take(&pool);
        unit_assert(objects[i] && (uintptr_t)objects[i] % 8 == 0, "No object, or one that is not aligned");
        memset(objects[i], (int)(i % 251), SIZE);
}

static void empty(unsigned i) {
        for (unsigned k = 0; k < SIZE; k++)
                unit_assert(objects[i][k] == i % 251, "Object %u is not what it was", i);
        pool_put(&pool, objects[i]);
}

/* No two of them share a byte, in whatever order they come and go. */
START_TEST(objects_are_apart) {
        for (unsigned i = 0; i < MANY; i++)
                fill(i);
        for (unsigned i = 0; i < MANY; i += 3)
                empty(i);
        for (unsigned i = 0; i < MANY; i += 3)
                fill(i);
        for (unsigned i = MANY; i-- > 0;)
                empty(i);
}
END_TEST

START_TEST(one_by_one) {
        for (unsigned i = 0; i < MANY; i++) {
                fill(i);
                empty(i);
        }
}
END_TEST

/* One that is in use keeps its page, and all others go. */
START_TEST(one_that_stays) {
        for (unsigned i = 0; i < MANY; i++)
                fill(i);
        for (unsigned i = 0; i < MANY; i++)
                if (i != MANY / 2)
                        empty(i);
        for (unsigned i = 0; i < MANY / 2; i++)
                fill(i);
        for (unsigned i = 0; i <= MANY / 2; i++)
                empty(i);
}
END_TEST

static Suite *pool_suite(void) {
        Suite *suite = suite_create("pool");
        TCase *tcase = tcase_create("pool");

        tcase_set_timeout(tcase, 60);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_test(tcase, objects_are_apart);
        tcase_add_test(tcase, one_by_one);
        tcase_add_test(tcase, one_that_stays);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(pool_suite)
