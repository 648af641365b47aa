#include "daemon/history.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/number.h"
#include "tests/support/unit.h"

static struct history history;
static char directory[] = "/tmp/msd-history.XXXXXX";
static char path[64];

static void setup(void) {
        memcpy(directory + sizeof(directory) - 7, "XXXXXX", 6);
        ck_assert_ptr_nonnull(mkdtemp(directory));
        snprintf(path, sizeof(path), "%s/loads", directory);
}

static void teardown(void) {
        history_deinit(&history);
        history_deinit(&history);
        (void)unlink(path);
        ck_assert_int_eq(rmdir(directory), 0);
}

static void write_text(const char *text) {
        FILE *file = fopen(path, "we");

        ck_assert_ptr_nonnull(file);
        ck_assert_int_ge(fputs(text, file), 0);
        ck_assert_int_eq(fclose(file), 0);
}

static void add(uint64_t key, uint64_t seconds) {
        const uint64_t total = seconds * NSEC_PER_SEC;

        history_add(&history, key, &(struct progress_earlier){ total, total / 4, total / 8 });
}

START_TEST(from_one_process_to_the_next) {
        struct progress_earlier earlier;

        history_init(&history, directory);
        ck_assert_uint_eq(history_find(&history, 7).total, 0);
        add(7, 40);
        add(8, 10);
        history_deinit(&history);
        /* The second may have come while the first was being written: then the next one writes it. */
        add(8, 20);
        history_deinit(&history);

        history_init(&history, directory);
        earlier = history_find(&history, 7);
        ck_assert_uint_eq(earlier.total, 40 * NSEC_PER_SEC);
        ck_assert_uint_eq(earlier.head, 10 * NSEC_PER_SEC);
        ck_assert_uint_eq(earlier.tail, 5 * NSEC_PER_SEC);
        ck_assert_uint_eq(history_find(&history, 8).total, 15 * NSEC_PER_SEC);
        ck_assert_uint_eq(history_find(&history, 9).total, 0);
}
END_TEST

START_TEST(the_oldest_is_forgotten) {
        char text[HISTORY_TEXT_MAX];

        history_init(&history, NULL);
        for (uint64_t key = 1; key <= HISTORY_ENTRIES_MAX + 1; key++)
                add(key | UINT64_MAX << 32, UINT32_MAX);
        ck_assert_uint_eq(history.count, HISTORY_ENTRIES_MAX);
        ck_assert_uint_eq(history_find(&history, 1 | UINT64_MAX << 32).total, 0);
        ck_assert_uint_ne(history_find(&history, 2 | UINT64_MAX << 32).total, 0);
        ck_assert_uint_lt(history_format(&history, text), sizeof(text));
        history.count = 0;
        history_parse(&history, text);
        ck_assert_uint_eq(history.count, HISTORY_ENTRIES_MAX);
}
END_TEST

#define ENTRY "0123456789abcdef 4000 1000 500\n"

static const struct {
        const char *text;
        unsigned count;
} table[] = {
        { "msd loads 1\n" ENTRY "end\n", 1 },
        { "msd loads 1\nend\n", 0 },
        { "", 0 },
        { "msd loads 2\n" ENTRY "end\n", 0 },
        { "msd loads 1\n" ENTRY, 0 },
        { "msd loads 1\n" ENTRY "end\nmore", 0 },
        { "msd loads 1\n" ENTRY "0123456789abcdef 4000 1000\nend\n", 0 },
        { "msd loads 1\n0123456789abcdef 0 0 0\nend\n", 0 },
        { "msd loads 1\n0123456789abcdef 4000 4001 0\nend\n", 0 },
        { "msd loads 1\n0123456789abcdef 4000 -1 0\nend\n", 0 },
        { "msd loads 1\n0123456789abcdef 99999999999999999999 0 0\nend\n", 0 },
        { "msd loads 1\n0123456789abcde 4000 0 0\nend\n", 0 },
        { "msd loads 1\n0123456789abcdef0 4000 0 0\nend\n", 0 },
        { "msd loads 1\n" ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY "end\n", 16 },
        { "msd loads 1\n" ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY "end\n", 0 },
};

START_TEST(texts) {
        write_text(table[_i].text);
        history_init(&history, directory);
        ck_assert_uint_eq(history.count, table[_i].count);
        /* It is as good as none, and is replaced. */
        add(5, 30);
        history_deinit(&history);
        history_init(&history, directory);
        ck_assert_uint_eq(history_find(&history, 5).total, 30 * NSEC_PER_SEC);
}
END_TEST

START_TEST(files_that_are_none) {
        struct stat st;

        /* Nobody writes to it; it is not waited for, and nothing but a file is replaced by name. */
        ck_assert_int_eq(mkfifo(path, 0600), 0);
        history_init(&history, directory);
        ck_assert_uint_eq(history.count, 0);
        ck_assert_int_eq(unlink(path), 0);
        ck_assert_int_eq(symlink("/etc/passwd", path), 0);
        history_init(&history, directory);
        add(5, 30);
        history_deinit(&history);
        ck_assert_int_eq(lstat(path, &st), 0);
        ck_assert(S_ISREG(st.st_mode));
}
END_TEST

START_TEST(directories) {
        char two[128];

        history_init(&history, "relative");
        ck_assert_str_eq(history.path, "");
        history_init(&history, NULL);
        add(5, 30);
        ck_assert_uint_eq(history_find(&history, 5).total, 30 * NSEC_PER_SEC);
        ck_assert(!history.writing);
        snprintf(two, sizeof(two), "%s:/nowhere", directory);
        history_init(&history, two);
        ck_assert_str_eq(history.path, path);
        /* Without the directory there is no file, and nothing else is missing. */
        history_init(&history, "/nowhere/at/all");
        add(5, 30);
        history_deinit(&history);
}
END_TEST

START_TEST(keys) {
        const char *const one[] = { "ab", "c", NULL }, *const other[] = { "a", "bc", NULL };

        ck_assert_uint_eq(history_key(HISTORY_KEY, one), history_key(HISTORY_KEY, one));
        ck_assert_uint_ne(history_key(HISTORY_KEY, one), history_key(HISTORY_KEY, other));
}
END_TEST

static Suite *history_suite(void) {
        Suite *suite = suite_create("history");
        TCase *tcase = tcase_create("history");

        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_test(tcase, from_one_process_to_the_next);
        tcase_add_test(tcase, the_oldest_is_forgotten);
        unit_add_table(tcase, texts, table);
        tcase_add_test(tcase, files_that_are_none);
        tcase_add_test(tcase, directories);
        tcase_add_test(tcase, keys);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(history_suite)
