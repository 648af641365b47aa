/*
 * Files of bearer keys: what is one, what is none.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/keys.h"
#include "tests/support/unit.h"

static char path[] = "/tmp/msd-keys-XXXXXX";

static void write_text(const char *text, size_t len) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, text, len), (ssize_t)len);
        close(fd);
}

static void setup(void) {
        int fd;

        memcpy(path + strlen(path) - 6, "XXXXXX", 6);
        fd = mkstemp(path);
        ck_assert_int_ge(fd, 0);
        close(fd);
}

static void teardown(void) {
        unlink(path);
}

static const struct {
        const char *text;
        int result;
        size_t count;
        const char *first;
        const char *last;
} table[] = {
        { "sk-1", 0, 1, "sk-1", "sk-1" },
        { "sk-1\n", 0, 1, "sk-1", "sk-1" },
        { "\n\nsk-1\r\n\nsk-2\n", 0, 2, "sk-1", "sk-2" },
        { "", KEYS_MALFORMED, 0, NULL, NULL },
        { "\n\n", KEYS_MALFORMED, 0, NULL, NULL },
        { "two words\n", KEYS_MALFORMED, 0, NULL, NULL },
        { "sk\t1\n", KEYS_MALFORMED, 0, NULL, NULL },
        { "sk-1\nsk\x7f" "2\n", KEYS_MALFORMED, 0, NULL, NULL },
        { "s\xc3\xbc\n", KEYS_MALFORMED, 0, NULL, NULL },
};

START_TEST(keys_of_a_text) {
        struct keys keys;

        write_text(table[_i].text, strlen(table[_i].text));
        ck_assert_int_eq(keys_read(&keys, path), table[_i].result);
        ck_assert_uint_eq(keys.count, table[_i].count);
        if (table[_i].count > 0) {
                ck_assert_str_eq(keys.keys[0], table[_i].first);
                ck_assert_str_eq(keys.keys[keys.count - 1], table[_i].last);
        }
        keys_deinit(&keys);
        keys_deinit(&keys);
}
END_TEST

START_TEST(files_that_are_none) {
        static char large[KEYS_FILE_MAX + 1];
        struct keys keys;

        memset(large, 'k', sizeof(large));
        write_text(large, KEYS_FILE_MAX);
        ck_assert_int_eq(keys_read(&keys, path), 0);
        ck_assert_uint_eq(strlen(keys.keys[0]), KEYS_FILE_MAX);
        keys_deinit(&keys);
        write_text(large, sizeof(large));
        ck_assert_int_eq(keys_read(&keys, path), KEYS_TOO_LARGE);
        write_text("a\0b\n", 4);
        ck_assert_int_eq(keys_read(&keys, path), KEYS_MALFORMED);
        ck_assert_int_eq(keys_read(&keys, "/tmp"), -EISDIR);
        ck_assert_int_eq(unlink(path), 0);
        ck_assert_int_eq(keys_read(&keys, path), -ENOENT);
        /* Nobody writes: it is empty, and is not waited for. */
        ck_assert_int_eq(mkfifo(path, 0600), 0);
        ck_assert_int_eq(keys_read(&keys, path), KEYS_MALFORMED);
}
END_TEST

static Suite *keys_suite(void) {
        Suite *suite = suite_create("keys");
        TCase *tcase = tcase_create("keys");

        tcase_add_checked_fixture(tcase, setup, teardown);
        unit_add_table(tcase, keys_of_a_text, table);
        tcase_add_test(tcase, files_that_are_none);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(keys_suite)
