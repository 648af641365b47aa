#include "common/json.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "tests/support/unit.h"

/* What the room has for memory, and libcheck too: it is looked at while `ours`. The n-th allocation fails; 0: none. */

/* Volatile: the compiler knows that malloc() and free() look at nothing. */
static volatile bool ours;
static volatile unsigned allocations, failing;
static volatile long live;

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size) {
        void *pointer;

        if (!ours)
                return __real_malloc(size);
        pointer = ++allocations == failing ? NULL : __real_malloc(size);
        live += pointer != NULL;
        return pointer;
}

void __real_free(void *pointer);
void __wrap_free(void *pointer);
void __wrap_free(void *pointer) {
        live -= ours && pointer;
        __real_free(pointer);
}

static void begin(unsigned n) {
        ours = true;
        allocations = 0;
        failing = n;
}

static json_t *try_read(const char *data, unsigned n) {
        json_t *json;

        begin(n);
        errno = 0;
        json = json_read(data, strlen(data));
        ours = false;
        return json;
}

static char *try_write(const json_t *json, unsigned n) {
        char *text;

        begin(n);
        text = json_write(json);
        ours = false;
        return text;
}

static json_t *try_pack(unsigned n) {
        json_t *json;

        begin(n);
        json = json_pack("{s{so ss}}", "error", "message", json_string("a message"), "code", "a-code");
        ours = false;
        return json;
}

static void let_go(json_t *json, char *text) {
        begin(0);
        json_decref(json);
        free(text);
        ours = false;
}

static const char text[] =
        "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"choices\":[{\"index\":0,\"text\":\"longer than sixteen bytes, "
        "and than thirty-two \\u00e4\\\\\\\"\",\"finish_reason\":\"stop\"}],\"usage\":{\"seconds\":0.7,\"tokens\":[1,2,null]}}";

/* As it is written again. */
static const char written[] =
        "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"choices\":[{\"index\":0,\"text\":\"longer than sixteen bytes, "
        "and than thirty-two \xc3\xa4\\\\\\\"\",\"finish_reason\":\"stop\"}],\"usage\":{\"seconds\":0.7,\"tokens\":[1,2,null]}}";

static void check_written(const json_t *json) {
        char *again = try_write(json, 0);

        ck_assert_ptr_nonnull(again);
        ck_assert_str_eq(again, written);
        let_go(NULL, again);
}

START_TEST(same_again) {
        json_t *json = try_read(text, 0);

        ck_assert_ptr_nonnull(json);
        check_written(json);
        let_go(json, NULL);
        ck_assert_int_eq(live, 0);
}
END_TEST

START_TEST(no_json) {
        static const char *const texts[] = { "", "{", "{}x", "nil", "\"\\ud800\"", "[1,]", "{\"a\":1,\"a\"}", "\xff" };

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
                ck_assert_ptr_null(try_read(texts[i], 0));
                ck_assert_int_eq(errno, EINVAL);
        }
        ck_assert_ptr_null(json_write(NULL));
        ck_assert_int_eq(live, 0);
}
END_TEST

/* Whole or not at all, whichever allocation fails; and nothing stays behind. */
START_TEST(read_without_memory) {
        json_t *json = NULL;
        unsigned n;

        for (n = 1; !json; n++) {
                json = try_read(text, n);
                if (!json) {
                        ck_assert_int_eq(errno, ENOMEM);
                        ck_assert_int_eq(live, 0);
                }
        }
        ck_assert_uint_gt(n, 20);
        check_written(json);
        let_go(json, NULL);
        ck_assert_int_eq(live, 0);
}
END_TEST

/* A short text, and one that is longer than what is written at first. */
START_TEST(write_without_memory) {
        const unsigned many = _i == 0 ? 1 : 100;
        json_t *json, *read_again;
        char *again = NULL;
        long before;

        begin(0);
        json = json_array();
        for (unsigned i = 0; i < many; i++)
                json_array_append_new(json, json_read(text, strlen(text)));
        ours = false;
        before = live;
        for (unsigned n = 1; !again; n++) {
                again = try_write(json, n);
                ck_assert_int_eq(live, before + (again != NULL));
        }
        ck_assert_uint_eq(strlen(again), many * (strlen(written) + 1) + 1);
        read_again = try_read(again, 0);
        ck_assert(json_equal(json, read_again));
        let_go(json, again);
        let_go(read_again, NULL);
        ck_assert_int_eq(live, 0);
}
END_TEST

/* Where jansson says itself that there is none. */
START_TEST(pack_without_memory) {
        json_t *json = NULL;

        for (unsigned n = 1; !json; n++) {
                json = try_pack(n);
                ck_assert(json || live == 0);
        }
        let_go(json, NULL);
        ck_assert_int_eq(live, 0);
}
END_TEST

static Suite *json_suite(void) {
        Suite *suite = suite_create("json");
        TCase *tcase = tcase_create("json");

        tcase_add_test(tcase, same_again);
        tcase_add_test(tcase, no_json);
        tcase_add_test(tcase, read_without_memory);
        tcase_add_loop_test(tcase, write_without_memory, 0, 2);
        tcase_add_test(tcase, pack_without_memory);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(json_suite)
