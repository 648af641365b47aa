#include "common/address.h"

#include <stdio.h>
#include <string.h>

#include "tests/support/unit.h"

/* A path of `len` bytes, from "/" on. */
static char *path_of(size_t len) {
        char *path = malloc(len + 1);

        memset(path, 'p', len);
        if (len > 0)
                path[0] = '/';
        path[len] = '\0';
        return path;
}

static const struct {
        size_t len;
        int r;
} lengths[] = {
        { 0, ADDRESS_EMPTY },
        { 1, 0 },
        { 2, 0 },
        { 50, 0 },
        { ADDRESS_PATH_MAX - 2, 0 },
        { ADDRESS_PATH_MAX - 1, 0 },
        { ADDRESS_PATH_MAX, ADDRESS_TOO_LONG },
        { ADDRESS_PATH_MAX + 1, ADDRESS_TOO_LONG },
        { 4095, ADDRESS_TOO_LONG },
        { 1 << 20, ADDRESS_TOO_LONG },
};

START_TEST(path_length) {
        _cleanup_free_ char *path = path_of(lengths[_i].len);
        struct sockaddr_un address, untouched;
        socklen_t len = 12345;
        int r;

        memset(&untouched, 0x5a, sizeof(untouched));
        address = untouched;
        r = address_from_path(path, &address, &len);
        ck_assert_msg(r == lengths[_i].r, "%zu bytes: %d, not %d", lengths[_i].len, r, lengths[_i].r);
        if (r != 0) {
                ck_assert_mem_eq(&address, &untouched, sizeof(address));
                ck_assert_uint_eq(len, 12345);
                return;
        }
        ck_assert_int_eq(address.sun_family, AF_UNIX);
        ck_assert_str_eq(address.sun_path, path);
        ck_assert_uint_eq(len, offsetof(struct sockaddr_un, sun_path) + lengths[_i].len + 1);
        ck_assert_uint_le(len, sizeof(address));
        /* Nothing of what was there before is handed to the kernel. */
        for (size_t i = lengths[_i].len; i < ADDRESS_PATH_MAX; i++)
                ck_assert_msg(address.sun_path[i] == '\0', "byte %zu behind the path is left over", i);
}
END_TEST

static const char *const paths[] = {
        "msd.sock", "./msd.sock", "/run/msd/msd.sock", "/a b/c", "/a:b", "@abstract", "/\xc3\xa4", "-", "/a\nb",
};

START_TEST(path_as_it_is) {
        struct sockaddr_un address;
        socklen_t len = 0;

        ck_assert_int_eq(address_from_path(paths[_i], &address, &len), 0);
        ck_assert_str_eq(address.sun_path, paths[_i]);
        ck_assert_uint_eq(len, offsetof(struct sockaddr_un, sun_path) + strlen(paths[_i]) + 1);
}
END_TEST

static const struct {
        const char *msd_socket;
        const char *runtime_directory;
        const char *xdg_runtime_dir;
        bool root;
        int r;
        const char *path;
} defaults[] = {
        /* The order, each one missing or empty in turn. */
        { "/s", "/r", "/x", true, 0, "/s" },
        { "/s", "/r", "/x", false, 0, "/s" },
        { "/s", NULL, NULL, false, 0, "/s" },
        { NULL, "/r", "/x", true, 0, "/r/msd.sock" },
        { NULL, "/r", "/x", false, 0, "/r/msd.sock" },
        { "", "/r", NULL, false, 0, "/r/msd.sock" },
        { NULL, NULL, "/x", true, 0, "/run/msd/msd.sock" },
        { "", "", "/x", true, 0, "/run/msd/msd.sock" },
        { NULL, NULL, NULL, true, 0, "/run/msd/msd.sock" },
        { NULL, NULL, "/x", false, 0, "/x/msd.sock" },
        { "", "", "/x", false, 0, "/x/msd.sock" },
        { NULL, NULL, NULL, false, ADDRESS_UNKNOWN, NULL },
        { "", "", "", false, ADDRESS_UNKNOWN, NULL },
        /* A list of runtime directories: the first. */
        { NULL, "/run/a:/run/b", NULL, false, 0, "/run/a/msd.sock" },
        { NULL, "/run/a:/run/b:/run/c", NULL, true, 0, "/run/a/msd.sock" },
        { NULL, "/run/a:", NULL, false, 0, "/run/a/msd.sock" },
        /* The others are no lists, and no path is interpreted. */
        { "/s:/t", NULL, NULL, false, 0, "/s:/t" },
        { "relative", NULL, NULL, false, 0, "relative" },
        { "/s%s%n", NULL, NULL, false, 0, "/s%s%n" },
        { NULL, "/r%s%n", NULL, false, 0, "/r%s%n/msd.sock" },
        { NULL, NULL, "/x:y", false, 0, "/x:y/msd.sock" },
};

START_TEST(default_table) {
        struct address_environment environment = {
                .msd_socket = defaults[_i].msd_socket,
                .runtime_directory = defaults[_i].runtime_directory,
                .xdg_runtime_dir = defaults[_i].xdg_runtime_dir,
                .root = defaults[_i].root,
        };
        char path[ADDRESS_PATH_MAX];
        int r;

        r = address_default_path(&environment, path);
        ck_assert_msg(r == defaults[_i].r, "row %d: %d, not %d", _i, r, defaults[_i].r);
        if (r == 0)
                ck_assert_str_eq(path, defaults[_i].path);
}
END_TEST

/* The longest directory (or, for $MSD_SOCKET, path) that each variable may name: n-1, n and n+1. */
START_TEST(default_length) {
        static const size_t behind[] = { 0, sizeof("/msd.sock") - 1, sizeof("/msd.sock") - 1 };
        size_t longest = ADDRESS_PATH_MAX - 1 - behind[_i];

        for (size_t len = longest - 1; len <= longest + 1; len++) {
                _cleanup_free_ char *value = path_of(len);
                struct address_environment environment = {
                        .msd_socket = _i == 0 ? value : NULL,
                        .runtime_directory = _i == 1 ? value : NULL,
                        .xdg_runtime_dir = _i == 2 ? value : NULL,
                };
                char path[ADDRESS_PATH_MAX + 1];
                struct sockaddr_un address;
                socklen_t address_len;
                int r;

                path[ADDRESS_PATH_MAX] = '#';
                r = address_default_path(&environment, path);
                ck_assert_int_eq(path[ADDRESS_PATH_MAX], '#');
                ck_assert_msg(r == (len > longest ? ADDRESS_TOO_LONG : 0), "variable %d, %zu bytes: %d", _i, len, r);
                if (r != 0)
                        continue;
                ck_assert_uint_eq(strlen(path), len + behind[_i]);
                ck_assert_int_eq(memcmp(path, value, len), 0);
                /* What is a default is an address. */
                ck_assert_int_eq(address_from_path(path, &address, &address_len), 0);
                ck_assert_str_eq(address.sun_path, path);
        }
}
END_TEST

/* Of a list only the first counts, its length too. */
START_TEST(default_length_of_list) {
        _cleanup_free_ char *rest = path_of(1000);
        char list[2000], path[ADDRESS_PATH_MAX];

        snprintf(list, sizeof(list), "/run/a:%s", rest);
        ck_assert_int_eq(address_default_path(&(struct address_environment){ .runtime_directory = list }, path), 0);
        ck_assert_str_eq(path, "/run/a/msd.sock");

        snprintf(list, sizeof(list), "%s:/run/a", rest);
        ck_assert_int_eq(address_default_path(&(struct address_environment){ .runtime_directory = list }, path),
                         ADDRESS_TOO_LONG);
}
END_TEST

static Suite *address_suite(void) {
        Suite *suite = suite_create("address");
        TCase *from = tcase_create("from_path"), *by_default = tcase_create("default_path");

        unit_add_table(from, path_length, lengths);
        unit_add_table(from, path_as_it_is, paths);
        suite_add_tcase(suite, from);

        unit_add_table(by_default, default_table, defaults);
        tcase_add_loop_test(by_default, default_length, 0, 3);
        tcase_add_test(by_default, default_length_of_list);
        suite_add_tcase(suite, by_default);
        return suite;
}

UNIT_MAIN(address_suite)
