#include "client/options.h"

#include <stdio.h>
#include <string.h>

#include "common/number.h"
#include "tests/support/unit.h"

static const struct address_environment root = { .root = true };
static char error[512];

/* Splits at spaces; `_` stands for a space within an argument, `%` for an empty one. */
static int parse_in(const struct address_environment *environment, struct options *options,
                    const char *line) {
        static char buffer[2048];
        static char *argv[32];
        int argc = 0;

        snprintf(buffer, sizeof(buffer), "mscli %s", line);
        for (char *word = strtok(buffer, " "); word; word = strtok(NULL, " ")) {
                for (char *p = word; *p; p++)
                        if (*p == '_')
                                *p = ' ';
                if (strcmp(word, "%") == 0)
                        *word = '\0';
                ck_assert_uint_lt((size_t)argc + 1, ARRAY_SIZE(argv));
                argv[argc++] = word;
        }
        argv[argc] = NULL;
        error[0] = '\0';
        return options_parse(options, environment, argc, argv, error, sizeof(error));
}

static int parse(struct options *options, const char *line) {
        return parse_in(&root, options, line);
}

START_TEST(options_defaults) {
        struct options options;

        ck_assert_int_eq(parse(&options, "request 7"), 0);
        ck_assert_int_eq(options.command, COMMAND_REQUEST);
        ck_assert_uint_eq(options.ids_count, 1);
        ck_assert_str_eq(options.ids[0], "7");
        ck_assert_ptr_null(options.prompt);
        ck_assert_ptr_null(options.prompt_file);
        ck_assert(!options.stream);
        ck_assert(!options.json);
        ck_assert_uint_eq(options.timeout, 0);
        ck_assert_str_eq(options.path, ADDRESS_SYSTEM_PATH);
        ck_assert_ptr_null(options.fallback);
}
END_TEST

/* Options stand before the command word and behind it, and between the IDs. */
static const char *const orders[] = {
        "--socket /a/b --prompt hello_you --stream --timeout 1min_30s request 1 - three",
        "request 1 - three --socket=/a/b --prompt=hello_you --stream --timeout=1min_30s",
        "--stream request --timeout 90 1 --socket /a/b - three --prompt hello_you",
        "--stream --timeout 90 --socket /a/b --prompt hello_you request -- 1 - three",
        /* The last one counts. */
        "--timeout 1 --socket /c --prompt @file request 1 - three --timeout 90 --socket /a/b --stream "
        "--prompt hello_you",
};

START_TEST(options_all) {
        struct options options;

        ck_assert_msg(parse(&options, orders[_i]) == 0, "%s", error);
        ck_assert_int_eq(options.command, COMMAND_REQUEST);
        ck_assert_uint_eq(options.ids_count, 3);
        ck_assert_str_eq(options.ids[0], "1");
        ck_assert_str_eq(options.ids[1], OPTIONS_STDIN);
        ck_assert_str_eq(options.ids[2], "three");
        ck_assert_str_eq(options.prompt, "hello you");
        ck_assert_ptr_null(options.prompt_file);
        ck_assert(options.stream);
        ck_assert_uint_eq(options.timeout, 90 * NSEC_PER_SEC);
        ck_assert_str_eq(options.path, "/a/b");
        ck_assert_ptr_null(options.fallback);
}
END_TEST

START_TEST(options_ids_that_look_like_options) {
        struct options options;

        ck_assert_int_eq(parse(&options, "request -- --stream -7"), 0);
        ck_assert_uint_eq(options.ids_count, 2);
        ck_assert_str_eq(options.ids[0], "--stream");
        ck_assert_str_eq(options.ids[1], "-7");
        ck_assert(!options.stream);
}
END_TEST

static const struct {
        const char *line;
        const char *text;
        const char *file;
} prompts[] = {
        { "request 7 --prompt hello", "hello", NULL },
        { "request 7 --prompt %", "", NULL },
        { "request 7 --prompt a@b", "a@b", NULL },
        { "request 7 --prompt @/a/b", NULL, "/a/b" },
        { "request 7 --prompt @-", NULL, "-" },
        { "request 7 --prompt -", "-", NULL },
        { "request - --prompt @file", NULL, "file" },
        { "request 7 --prompt a --prompt @b", NULL, "b" },
        { "request 7 --prompt @a --prompt b", "b", NULL },
};

static void assert_text(const char *text, const char *expected) {
        ck_assert_int_eq(!text, !expected);
        if (expected)
                ck_assert_str_eq(text, expected);
}

START_TEST(options_prompt) {
        struct options options;

        ck_assert_msg(parse(&options, prompts[_i].line) == 0, "%s", error);
        assert_text(options.prompt, prompts[_i].text);
        assert_text(options.prompt_file, prompts[_i].file);
}
END_TEST

static const struct {
        const char *line;
        enum command command;
        bool json;
        uint64_t timeout;
} commands[] = {
        { "request 7", COMMAND_REQUEST, false, 0 },
        { "status", COMMAND_STATUS, false, 0 },
        { "status --json", COMMAND_STATUS, true, 0 },
        { "--json status", COMMAND_STATUS, true, 0 },
        { "wait", COMMAND_WAIT, false, 0 },
        { "wait --timeout 100ms", COMMAND_WAIT, false, 100 * NSEC_PER_MSEC },
        { "wait --timeout 0", COMMAND_WAIT, false, 0 },
        { "load", COMMAND_LOAD, false, 0 },
        { "shutdown --timeout 5", COMMAND_SHUTDOWN, false, 5 * NSEC_PER_SEC },
};

START_TEST(options_commands) {
        struct options options;

        ck_assert_msg(parse(&options, commands[_i].line) == 0, "%s", error);
        ck_assert_int_eq(options.command, commands[_i].command);
        ck_assert_int_eq(options.json, commands[_i].json);
        ck_assert_uint_eq(options.timeout, commands[_i].timeout);
}
END_TEST

#define ID_64 "0123456789012345678901234567890123456789012345678901234567890123"
#define PATH_100 "/123456789/123456789/123456789/123456789/123456789/123456789/123456789/123456789" \
                 "/123456789/123456789"
#define PATH_107 PATH_100 "/123456"
#define PATH_108 PATH_107 "7"

/* What is wrong is named. */
static const struct {
        const char *line;
        const char *named;
} wrong[] = {
        { "", "command" },
        { "--timeout 1", "command" },
        { "reqest 7", "reqest" },
        { "req 7", "req" },
        { "Status", "Status" },
        { "7", "7" },
        { "request", "ID" },
        { "request --stream", "ID" },
        { "request a_b", "\"a b\"" },
        { "request 1 2 %", "\"\"" },
        { "request " ID_64 "x", "64" },
        { "request \x1b[2J", "\"?[2J\"" },
        { "request \xc3\xa9", "\"??\"" },
        { "request - --prompt @-", "standard input" },
        { "request 7 --prompt @", "--prompt" },
        { "request 7 --prompt", "--prompt" },
        { "request 7 --json", "--json" },
        { "request 7 --timeout soon", "\"soon\"" },
        { "request 7 --timeout -1", "\"-1\"" },
        { "request 7 --timeout %", "--timeout" },
        { "request 7 --timeout 100000000000000", "100000000000000" },
        { "request 7 --stream=yes", "--stream" },
        { "request 7 --frobnicate", "--frobnicate" },
        { "request -7", "-7" },
        { "status 7", "\"7\"" },
        { "status --stream", "--stream" },
        { "wait --prompt x", "--prompt" },
        { "wait --prompt @x", "--prompt" },
        { "load --json", "--json" },
        { "shutdown now", "\"now\"" },
        { "status --socket", "--socket" },
        { "status --socket %", "--socket" },
        { "status --socket " PATH_108, "--socket" },
};

START_TEST(options_wrong) {
        struct options options;

        ck_assert_msg(parse(&options, wrong[_i].line) == OPTIONS_WRONG, "\"%s\" is taken", wrong[_i].line);
        ck_assert_msg(strstr(error, wrong[_i].named), "\"%s\" does not name %s", error, wrong[_i].named);
        for (const char *p = error; *p != '\0'; p++)
                ck_assert_msg(*p >= 0x20 && *p <= 0x7e, "\"%s\" upsets a terminal", error);
}
END_TEST

START_TEST(options_longest) {
        const struct address_environment environment = { .msd_socket = PATH_107 };
        struct options options;

        ck_assert_int_eq(parse(&options, "request " ID_64), 0);
        ck_assert_uint_eq(strlen(PATH_107) + 1, ADDRESS_PATH_MAX);
        ck_assert_int_eq(parse(&options, "status --socket " PATH_107), 0);
        ck_assert_str_eq(options.path, PATH_107);
        ck_assert_int_eq(parse_in(&environment, &options, "status"), 0);
        ck_assert_str_eq(options.path, PATH_107);
}
END_TEST

/* The room of the error is never left. */
START_TEST(options_short_error) {
        char *argv[] = { (char[]){ "mscli" }, (char[]){ "request" }, (char[]){ ID_64 ID_64 }, NULL };
        char text[32];
        struct options options;

        for (size_t size = 1; size < sizeof(text); size++) {
                memset(text, 'x', sizeof(text));
                ck_assert_int_eq(options_parse(&options, &root, 3, argv, text, size), OPTIONS_WRONG);
                ck_assert_uint_eq(strlen(text), size - 1);
                ck_assert_int_eq(text[size], 'x');
        }
}
END_TEST

/* Who only asks needs nothing else to be right. */
START_TEST(options_ask) {
        const struct address_environment far = { .msd_socket = PATH_108 };
        struct options options;

        ck_assert_int_eq(parse(&options, "--help"), OPTIONS_HELP);
        ck_assert_int_eq(parse(&options, "-h"), OPTIONS_HELP);
        ck_assert_int_eq(parse(&options, "request --help"), OPTIONS_HELP);
        ck_assert_int_eq(parse(&options, "--version"), OPTIONS_VERSION);
        ck_assert_int_eq(parse_in(&far, &options, "--version"), OPTIONS_VERSION);
        /* What stands behind -- is no option. */
        ck_assert_int_eq(parse(&options, "request -- --help"), 0);

        for (enum command command = 0; command < COMMAND_COUNT; command++)
                ck_assert_ptr_nonnull(strstr(options_help, command_name(command)));
        for (const char *line = options_help, *end; (end = strchr(line, '\n')); line = end + 1)
                ck_assert_msg(end - line <= 80, "%.*s", (int)(end - line), line);
}
END_TEST

static const struct {
        struct address_environment environment;
        const char *arguments;
        const char *path;
        bool fallback;
} paths[] = {
        { { .root = true }, "status", ADDRESS_SYSTEM_PATH, false },
        { { .root = true, .xdg_runtime_dir = "/x" }, "status", ADDRESS_SYSTEM_PATH, false },
        { { .xdg_runtime_dir = "/x" }, "status", "/x/msd.sock", true },
        { { .xdg_runtime_dir = "" }, "status", ADDRESS_SYSTEM_PATH, false },
        { { 0 }, "status", ADDRESS_SYSTEM_PATH, false },
        { { .runtime_directory = "/r", .xdg_runtime_dir = "/x" }, "status", "/r/msd.sock", false },
        { { .msd_socket = "/m", .runtime_directory = "/r", .xdg_runtime_dir = "/x" }, "status", "/m", false },
        { { .msd_socket = "", .xdg_runtime_dir = "/x" }, "status", "/x/msd.sock", true },
        { { .msd_socket = "/m", .root = true }, "status --socket /o", "/o", false },
        { { .xdg_runtime_dir = "/x" }, "status --socket /o", "/o", false },
        /* Not looked at where an option says. */
        { { .msd_socket = PATH_108 }, "status --socket /o", "/o", false },
};

START_TEST(options_path) {
        struct options options;

        ck_assert_msg(parse_in(&paths[_i].environment, &options, paths[_i].arguments) == 0, "%s", error);
        ck_assert_str_eq(options.path, paths[_i].path);
        assert_text(options.fallback, paths[_i].fallback ? ADDRESS_SYSTEM_PATH : NULL);
}
END_TEST

static const struct {
        struct address_environment environment;
        const char *named;
} long_paths[] = {
        { { .msd_socket = PATH_108, .runtime_directory = "/r" }, "$MSD_SOCKET" },
        { { .runtime_directory = PATH_108, .xdg_runtime_dir = "/x" }, "$RUNTIME_DIRECTORY" },
        { { .msd_socket = "", .xdg_runtime_dir = PATH_108 }, "$XDG_RUNTIME_DIR" },
};

START_TEST(options_path_too_long) {
        struct options options;

        ck_assert_int_eq(parse_in(&long_paths[_i].environment, &options, "status"), OPTIONS_WRONG);
        ck_assert_msg(strstr(error, long_paths[_i].named), "\"%s\" does not name %s", error,
                      long_paths[_i].named);
}
END_TEST

static Suite *client_options_suite(void) {
        Suite *suite = suite_create("client_options");
        TCase *tcase = tcase_create("client_options");

        tcase_add_test(tcase, options_defaults);
        unit_add_table(tcase, options_all, orders);
        tcase_add_test(tcase, options_ids_that_look_like_options);
        unit_add_table(tcase, options_prompt, prompts);
        unit_add_table(tcase, options_commands, commands);
        unit_add_table(tcase, options_wrong, wrong);
        tcase_add_test(tcase, options_longest);
        tcase_add_test(tcase, options_short_error);
        tcase_add_test(tcase, options_ask);
        unit_add_table(tcase, options_path, paths);
        unit_add_table(tcase, options_path_too_long, long_paths);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(client_options_suite)
