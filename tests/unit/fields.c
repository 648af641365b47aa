#include "daemon/front/fields.h"

#include <string.h>

#include "tests/support/unit.h"

static const struct {
        const char *text;
        bool is_token;
        bool is_authority;
} texts[] = {
        { "GET", true, true },      { "X-Request-Id", true, true }, { "!#$%&'*+-.^_`|~", true, false },
        { "", false, true },        { "a b", false, false },        { "a:80", false, true },
        { "[::1]:80", false, true }, { "a/b", false, false },       { "u@a", false, false },
        { "a?b", false, false },    { "a\tb", false, false },       { "G(T", false, true },
        { "a\x7f", false, false },  { "\xc3\xa4", false, false },   { "a\\b", false, false },
};

START_TEST(text_is) {
        ck_assert_int_eq(fields_is_token(texts[_i].text), texts[_i].is_token);
        ck_assert_int_eq(fields_is_authority(texts[_i].text, strlen(texts[_i].text)), texts[_i].is_authority);
}
END_TEST

static const struct {
        const char *list, *name;
        bool is_listed;
} lists[] = {
        { "close", "close", true },       { "close", "Close", true },      { "keep-alive, X-A", "x-a", true },
        { " ,,\tX-A ,", "X-A", true },    { "X-AB", "X-A", false },        { "X-A", "X-AB", false },
        { "", "X-A", false },             { "a,b", "b", true },
};

START_TEST(name_is_listed) {
        ck_assert_int_eq(fields_is_listed(lists[_i].list, lists[_i].name), lists[_i].is_listed);
}
END_TEST

START_TEST(name_is_hop_by_hop) {
        static const char *const those[] = { "connection", "Content-Length", "keep-alive", "proxy-authenticate",
                "Proxy-Authorization", "Proxy-Connection", "TE", "trailer", "Transfer-Encoding", "upgrade" };
        static const char *const others[] = { "Authorization", "Content-Type", "Accept", "Host", "Te-", "", "Via" };

        for (size_t i = 0; i < ARRAY_SIZE(those); i++)
                ck_assert_msg(fields_is_hop_by_hop(those[i]), "%s", those[i]);
        for (size_t i = 0; i < ARRAY_SIZE(others); i++)
                ck_assert_msg(!fields_is_hop_by_hop(others[i]), "%s", others[i]);
}
END_TEST

static Suite *fields_suite(void) {
        Suite *suite = suite_create("fields");
        TCase *tcase = tcase_create("fields");

        unit_add_table(tcase, text_is, texts);
        unit_add_table(tcase, name_is_listed, lists);
        tcase_add_test(tcase, name_is_hop_by_hop);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(fields_suite)
