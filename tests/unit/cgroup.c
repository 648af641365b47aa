#include "daemon/model/cgroup.h"

#include "tests/support/unit.h"

static const struct {
        const char *text;
        uint64_t kills;
} texts[] = {
        { "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n", 1 },
        { "oom_kill 18446744073709551615\n", UINT64_MAX },
        { "oom_kill 7", 7 },
        { "xoom_kill 7\n", 0 },
        { "oom 2\noom_group_kill 5\n", 0 },
        { "oom_kill many\n", 0 },
        { "", 0 },
};

START_TEST(cgroup_texts) {
        ck_assert_uint_eq(cgroup_parse_oom_kills(texts[_i].text), texts[_i].kills);
}
END_TEST

static Suite *cgroup_suite(void) {
        Suite *suite = suite_create("cgroup");
        TCase *tcase = tcase_create("cgroup");

        unit_add_table(tcase, cgroup_texts, texts);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(cgroup_suite)
