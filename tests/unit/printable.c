#include "common/printable.h"

#include <string.h>

#include "tests/support/unit.h"

/* A text, which may have a NUL in it, and what becomes of it. */
#define CASE(text, expected) { text, sizeof(text) - 1, expected }

static const struct {
        const char *text;
        size_t len;
        const char *expected;
} lines[] = {
        CASE("", ""),
        CASE("llama-3.1 (8B) ~ \"q4\"", "llama-3.1 (8B) ~ \"q4\""),
        CASE("grüße, 模型, 🦙", "grüße, 模型, 🦙"),
        /* The service manager takes each line for an assignment. */
        CASE("x\nMAINPID=1", "x MAINPID=1"),
        CASE("a\r\nb\tc", "a  b c"),
        CASE("a\0b", "a b"),
        CASE("\x01\x1f\x7f|", "   |"),
        /* C1, of which U+0085 ends a line and U+009B begins a control sequence. */
        CASE("a\xc2\x85"
             "b\xc2\x9b"
             "1mc\xc2\x80\xc2\x9f\xc2\xa0",
             "a b 1mc  \xc2\xa0"),
        CASE("a\u2028b\u2029c", "a b c"),
        CASE("a\u202eb\u202ac\u2066d\u2069e\u200ef\u200fg\u061ch", "a b c d e f g h"),
        /* A joiner is part of what it joins. */
        CASE("\u200d\u2027\u2065", "\u200d\u2027\u2065"),
        CASE("\x1b[31mred\x1b[0m \x1b[38;5;1mx\x1b[K", "red x"),
        CASE("\x1b]0;title\a", " ]0;title "),
        CASE("\x1b[", " ["),
        CASE("\x1b[12", " [12"),
        CASE("\x1b[1\nm", " [1 m"),
        CASE("\x1b", " "),
        CASE("\x80|\xbf|\xc3|\xff", "?|?|?|?"),
        CASE("\xe6\xa8", "??"),
        CASE("\xe6\xa8|", "??|"),
        CASE("\xf0\x9f\xa6", "???"),
        /* Forms that are too long hide what they stand for. */
        CASE("\xc0\x8a\xc1\xbf|\xe0\x80\x8a|\xf0\x80\x80\x8a", "????|???|????"),
        CASE("\xed\xa0\x80\xed\xbf\xbf", "??????"),
        CASE("\xed\x9f\xbf\xee\x80\x80", "\xed\x9f\xbf\xee\x80\x80"),
        CASE("\xf4\x8f\xbf\xbf|\xf4\x90\x80\x80|\xf8\x88\x80\x80\x80", "\xf4\x8f\xbf\xbf|????|?????"),
};

START_TEST(lines_of_all_kinds) {
        char to[128], in_place[128];

        ck_assert_uint_eq(printable(to, sizeof(to), lines[_i].text, lines[_i].len), strlen(lines[_i].expected));
        ck_assert_str_eq(to, lines[_i].expected);
        memcpy(in_place, lines[_i].text, lines[_i].len);
        ck_assert_uint_eq(printable(in_place, lines[_i].len + 1, in_place, lines[_i].len), strlen(lines[_i].expected));
        ck_assert_str_eq(in_place, lines[_i].expected);
}
END_TEST

/* Cut between two characters. */
START_TEST(cut) {
        static const char text[] = "a模\nb";
        static const char *const expected[] = { "", "", "a", "a", "a", "a模", "a模 ", "a模 b", "a模 b" };
        char to[16];

        for (size_t size = 0; size < ARRAY_SIZE(expected); size++) {
                memset(to, 'x', sizeof(to));
                ck_assert_uint_eq(printable(to, size, text, strlen(text)), strlen(expected[size]));
                if (size > 0)
                        ck_assert_str_eq(to, expected[size]);
                ck_assert_int_eq(to[size], 'x');
        }
}
END_TEST

START_TEST(string) {
        char text[] = "a\n\x1b[1mb";

        ck_assert_ptr_eq(printable_line(text), text);
        ck_assert_str_eq(text, "a b");
}
END_TEST

static Suite *printable_suite(void) {
        Suite *suite = suite_create("printable");
        TCase *tcase = tcase_create("printable");

        unit_add_table(tcase, lines_of_all_kinds, lines);
        tcase_add_test(tcase, cut);
        tcase_add_test(tcase, string);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(printable_suite)
