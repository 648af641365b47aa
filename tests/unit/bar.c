#include "common/bar.h"

#include <stdlib.h>
#include <string.h>

#include "common/number.h"
#include "tests/support/unit.h"

#define SECOND ((int64_t)NSEC_PER_SEC)

static const struct {
        double fraction;
        int64_t left;
        const char *words;
} table[] = {
        { 0.625, 40 * SECOND - 1, "62 %, about 40s left" },
        { 0, 0, "0 %, about 1s left" },
        { 1, 61 * SECOND, "100 %, about 1min 5s left" },
        { 7, -1, "100 %" },
        { -1, 601 * SECOND, "about 11min left" },
        { -1, -1, "" },
};

START_TEST(words) {
        char buffer[BAR_WORDS_MAX];

        ck_assert_uint_eq(bar_words(buffer, table[_i].fraction, table[_i].left), strlen(table[_i].words));
        ck_assert_str_eq(buffer, table[_i].words);
}
END_TEST

START_TEST(lines) {
        char buffer[BAR_LINE_MAX];

        bar_line(buffer, 0.5, "half", 79, false);
        ck_assert_str_eq(buffer, "[###############...............] half");
        bar_line(buffer, 0, "none", 79, false);
        ck_assert_str_eq(buffer, "[..............................] none");
        bar_line(buffer, 1, "all", 16, false);
        ck_assert_str_eq(buffer, "[##########] all");
        bar_line(buffer, 1, "all", 15, false);
        ck_assert_str_eq(buffer, "all");
        bar_line(buffer, 0.5, "half", 17, true);
        ck_assert_str_eq(buffer, "[\033[32m#####.....\033[0m] half");
        /* No room, and nothing to draw. */
        bar_line(buffer, 0.5, "half of it", 6, false);
        ck_assert_str_eq(buffer, "half o");
        bar_line(buffer, -1, "words", 79, true);
        ck_assert_str_eq(buffer, "words");
        bar_line(buffer, -1, "", 0, true);
        ck_assert_str_eq(buffer, "");
        bar_line(buffer, -1, "\303\244\n\033x", 79, true);
        ck_assert_str_eq(buffer, "????x");
}
END_TEST

/* It stays within its columns, however many there are. */
START_TEST(widths) {
        char buffer[BAR_LINE_MAX], text[1000];

        memset(text, 'x', sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        for (size_t columns = 0; columns < 2000; columns++) {
                ck_assert_uint_eq(bar_line(buffer, 0.7, text, columns, false), MIN(columns, (size_t)500));
                ck_assert_uint_lt(bar_line(buffer, 0.7, text, columns, true), sizeof(buffer));
        }
}
END_TEST

START_TEST(colours) {
        ck_assert_int_eq(setenv("NO_COLOR", "1", 1), 0);
        ck_assert(!bar_has_colour());
        ck_assert_int_eq(setenv("NO_COLOR", "", 1), 0);
        ck_assert(bar_has_colour());
        ck_assert_int_eq(unsetenv("NO_COLOR"), 0);
        ck_assert(bar_has_colour());
}
END_TEST

static Suite *bar_suite(void) {
        Suite *suite = suite_create("bar");
        TCase *tcase = tcase_create("bar");

        unit_add_table(tcase, words, table);
        tcase_add_test(tcase, lines);
        tcase_add_test(tcase, widths);
        tcase_add_test(tcase, colours);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(bar_suite)
