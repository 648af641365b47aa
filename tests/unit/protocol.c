#include "common/protocol.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/unit.h"

#define ID_62 "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
#define ID_63 ID_62 "!"
#define ID_64 ID_62 "!~"
#define ID_65 ID_62 "!~x"

static const struct {
        enum protocol_verb verb;
        const char *name;
} verbs[] = {
        { PROTOCOL_REQUEST, "REQUEST" },
        { PROTOCOL_STREAM, "STREAM" },
        { PROTOCOL_STATUS, "STATUS" },
        { PROTOCOL_WAIT, "WAIT" },
        { PROTOCOL_LOAD, "LOAD" },
        { PROTOCOL_SHUTDOWN, "SHUTDOWN" },
};

static const struct {
        enum protocol_code code;
        const char *name;
} codes[] = {
        { PROTOCOL_BAD_REQUEST, "bad-request" },
        { PROTOCOL_TOO_LARGE, "too-large" },
        { PROTOCOL_QUEUE_FULL, "queue-full" },
        { PROTOCOL_LOAD_FAILED, "load-failed" },
        { PROTOCOL_SHUTTING_DOWN, "shutting-down" },
        { PROTOCOL_TIMED_OUT, "timed-out" },
        { PROTOCOL_INFERENCE_FAILED, "inference-failed" },
        { PROTOCOL_MODEL_NOT_LOADED, "model-not-loaded" },
        { PROTOCOL_NOT_PERMITTED, "not-permitted" },
};

/* The wire is a promise: what the tables are made of may change, these words may not. */
START_TEST(names) {
        ck_assert_uint_eq(ARRAY_SIZE(verbs), PROTOCOL_VERB_COUNT);
        for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
                ck_assert_str_eq(protocol_verb_name(verbs[i].verb), verbs[i].name);
        ck_assert_uint_eq(ARRAY_SIZE(codes), PROTOCOL_CODE_COUNT);
        for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
                ck_assert_str_eq(protocol_code_name(codes[i].code), codes[i].name);

        ck_assert_str_eq(PROTOCOL_NO_ID, "-");
        ck_assert_str_eq(PROTOCOL_READY, "ready");
        ck_assert_str_eq(PROTOCOL_LOADING, "loading");
        ck_assert_str_eq(PROTOCOL_STOPPING, "stopping");
        ck_assert_str_eq(PROTOCOL_SHUTTING_DOWN_MESSAGE, "Server is shutting down");
        ck_assert_int_eq(PROTOCOL_ID_MAX, 64);
        ck_assert_int_eq(LINE_MAX_LENGTH, 1024);
}
END_TEST

static const struct {
        const char *id;
        bool valid;
} ids[] = {
        { "7", true },
        { "--", true },
        { "-1", true },
        { "1-", true },
        { "!", true },
        { "~", true },
        { "a/b:c#d\"e'\\", true },
        { ID_63, true },
        { ID_64, true },
        { ID_65, false },
        { ID_64 ID_64, false },
        { "", false },
        { "-", false },
        { " ", false },
        { "a b", false },
        { " a", false },
        { "a ", false },
        { "a\t", false },
        { "a\r", false },
        { "a\n", false },
        { "\xc3\xa4", false },
};

START_TEST(id_table) {
        const char *id = ids[_i].id;

        ck_assert_msg(protocol_id_valid(id, strlen(id)) == ids[_i].valid, "\"%s\"", id);
}
END_TEST

/* Each byte value, alone and at each end of an ID. */
START_TEST(id_every_byte) {
        for (int c = 0; c <= UINT8_MAX; c++) {
                bool graph = c >= 0x21 && c <= 0x7e;
                char first[] = { (char)c, 'x' }, last[] = { 'x', (char)c };

                ck_assert_msg(protocol_id_valid(first, 1) == (graph && c != '-'), "0x%02x alone", (unsigned)c);
                ck_assert_msg(protocol_id_valid(first, 2) == graph, "0x%02x first", (unsigned)c);
                ck_assert_msg(protocol_id_valid(last, 2) == graph, "0x%02x last", (unsigned)c);
        }
}
END_TEST

#define FAULT_EMPTY "Empty line"
#define FAULT_UNKNOWN "Unknown command (REQUEST, STREAM, STATUS, WAIT, LOAD and SHUTDOWN are known)"
#define FAULT_ALONE "This command stands alone on its line"
#define FAULT_NO_ID "The ID is missing"
#define FAULT_LONG_ID "The ID is over 64 bytes"
#define FAULT_DASH "\"-\" is no ID"
#define FAULT_BYTE "The ID has a byte that is not printable ASCII"
#define FAULT_NO_LENGTH "The length of the prompt is missing"
#define FAULT_LENGTH "The length of the prompt is no number"
#define FAULT_BEHIND "There is something behind the length"

static const struct {
        const char *line;
        const char *fault;      /* NULL: none */
        enum protocol_verb verb;
        const char *id;         /* NULL: none, or none could be read */
        bool has_prompt;
        uint64_t length;
} commands[] = {
        { "STATUS", NULL, PROTOCOL_STATUS, NULL, false, 0 },
        { "WAIT", NULL, PROTOCOL_WAIT, NULL, false, 0 },
        { "LOAD", NULL, PROTOCOL_LOAD, NULL, false, 0 },
        { "SHUTDOWN", NULL, PROTOCOL_SHUTDOWN, NULL, false, 0 },
        { "REQUEST 7", NULL, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST REQUEST", NULL, PROTOCOL_REQUEST, "REQUEST", false, 0 },
        { "REQUEST --", NULL, PROTOCOL_REQUEST, "--", false, 0 },
        { "REQUEST " ID_63, NULL, PROTOCOL_REQUEST, ID_63, false, 0 },
        { "REQUEST " ID_64, NULL, PROTOCOL_REQUEST, ID_64, false, 0 },
        { "REQUEST 7 0", NULL, PROTOCOL_REQUEST, "7", true, 0 },
        { "REQUEST 7 1", NULL, PROTOCOL_REQUEST, "7", true, 1 },
        { "REQUEST 7 007", NULL, PROTOCOL_REQUEST, "7", true, 7 },
        { "REQUEST 7 1048576", NULL, PROTOCOL_REQUEST, "7", true, 1048576 },
        { "REQUEST " ID_64 " 18446744073709551614", NULL, PROTOCOL_REQUEST, ID_64, true, UINT64_MAX - 1 },
        { "REQUEST 7 18446744073709551615", NULL, PROTOCOL_REQUEST, "7", true, UINT64_MAX },
        /* Larger than any number: as large as one can be. */
        { "REQUEST 7 18446744073709551616", NULL, PROTOCOL_REQUEST, "7", true, UINT64_MAX },
        { "REQUEST 7 99999999999999999999999999999999999", NULL, PROTOCOL_REQUEST, "7", true, UINT64_MAX },
        { "STREAM 7 0", NULL, PROTOCOL_STREAM, "7", true, 0 },
        { "STREAM 7 5", NULL, PROTOCOL_STREAM, "7", true, 5 },
        { "STREAM 7 99999999999999999999", NULL, PROTOCOL_STREAM, "7", true, UINT64_MAX },

        { "", FAULT_EMPTY, 0, NULL, false, 0 },
        { " ", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "X", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "HELLO 7", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "GET / HTTP/1.1", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { " STATUS", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "\tSTATUS", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "STATUS\t", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "STATUS\r", FAULT_UNKNOWN, 0, NULL, false, 0 },
        /* No prefix of a command, no case but its own, nothing glued to it. */
        { "R", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "REQUES 7", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "REQUESTS 7", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "request 7", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "Status", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "STAT", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "REQUEST7", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "REQUEST\t7", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "\xef\xbb\xbfSTATUS", FAULT_UNKNOWN, 0, NULL, false, 0 },
        { "OK 7 0", FAULT_UNKNOWN, 0, NULL, false, 0 },

        { "STATUS ", FAULT_ALONE, PROTOCOL_STATUS, NULL, false, 0 },
        { "STATUS 7", FAULT_ALONE, PROTOCOL_STATUS, NULL, false, 0 },
        { "WAIT 7", FAULT_ALONE, PROTOCOL_WAIT, NULL, false, 0 },
        { "LOAD now", FAULT_ALONE, PROTOCOL_LOAD, NULL, false, 0 },
        { "SHUTDOWN  ", FAULT_ALONE, PROTOCOL_SHUTDOWN, NULL, false, 0 },

        { "REQUEST", FAULT_NO_ID, PROTOCOL_REQUEST, NULL, false, 0 },
        { "REQUEST ", FAULT_NO_ID, PROTOCOL_REQUEST, NULL, false, 0 },
        { "REQUEST  7", FAULT_NO_ID, PROTOCOL_REQUEST, NULL, false, 0 },
        { "REQUEST  ", FAULT_NO_ID, PROTOCOL_REQUEST, NULL, false, 0 },
        { "STREAM", FAULT_NO_ID, PROTOCOL_STREAM, NULL, false, 0 },
        { "STREAM  7 5", FAULT_NO_ID, PROTOCOL_STREAM, NULL, false, 0 },
        { "REQUEST " ID_65, FAULT_LONG_ID, PROTOCOL_REQUEST, NULL, false, 0 },
        { "REQUEST " ID_64 ID_64 ID_64 " 5", FAULT_LONG_ID, PROTOCOL_REQUEST, NULL, false, 0 },
        { "STREAM " ID_65 " 5", FAULT_LONG_ID, PROTOCOL_STREAM, NULL, false, 0 },
        { "REQUEST -", FAULT_DASH, PROTOCOL_REQUEST, NULL, false, 0 },
        { "REQUEST - 5", FAULT_DASH, PROTOCOL_REQUEST, NULL, false, 0 },
        { "STREAM - 5", FAULT_DASH, PROTOCOL_STREAM, NULL, false, 0 },
        { "REQUEST \t", FAULT_BYTE, PROTOCOL_REQUEST, NULL, false, 0 },
        { "REQUEST a\tb", FAULT_BYTE, PROTOCOL_REQUEST, NULL, false, 0 },
        { "REQUEST \x7f", FAULT_BYTE, PROTOCOL_REQUEST, NULL, false, 0 },
        { "REQUEST caf\xc3\xa9 5", FAULT_BYTE, PROTOCOL_REQUEST, NULL, false, 0 },
        { "REQUEST 7\r", FAULT_BYTE, PROTOCOL_REQUEST, NULL, false, 0 },

        /* From here on the ID could be read. */
        { "STREAM 7", FAULT_NO_LENGTH, PROTOCOL_STREAM, "7", false, 0 },
        { "STREAM " ID_64, FAULT_NO_LENGTH, PROTOCOL_STREAM, ID_64, false, 0 },
        { "STREAM 7 ", FAULT_LENGTH, PROTOCOL_STREAM, "7", false, 0 },
        { "REQUEST 7 ", FAULT_LENGTH, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST 7  ", FAULT_LENGTH, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST 7  5", FAULT_LENGTH, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST 7 x", FAULT_LENGTH, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST 7 5x", FAULT_LENGTH, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST 7 -5", FAULT_LENGTH, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST 7 +5", FAULT_LENGTH, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST 7 5.0", FAULT_LENGTH, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST 7 0x5", FAULT_LENGTH, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST 7 5\t", FAULT_LENGTH, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST 7 5\r", FAULT_LENGTH, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST 7 99999999999999999999x", FAULT_LENGTH, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST 7 5 ", FAULT_BEHIND, PROTOCOL_REQUEST, "7", false, 0 },
        { "REQUEST 7 5 6", FAULT_BEHIND, PROTOCOL_REQUEST, "7", false, 0 },
        { "STREAM 7 5 x", FAULT_BEHIND, PROTOCOL_STREAM, "7", false, 0 },
        { "REQUEST 7 99999999999999999999 x", FAULT_BEHIND, PROTOCOL_REQUEST, "7", false, 0 },
};

/* A copy with nothing behind it: a look past its end is found. */
static char *exact_copy(const char *text, size_t len) {
        char *copy = malloc(len > 0 ? len : 1);

        memcpy(copy, text, len);
        return copy;
}

START_TEST(command_table) {
        const char *line = commands[_i].line, *id = commands[_i].id;
        size_t len = strlen(line);
        _cleanup_free_ char *exact = exact_copy(line, len);
        struct protocol_command command;
        int r;

        memset(&command, 0x5a, sizeof(command));
        r = protocol_parse_command(exact, len, &command);
        ck_assert_msg(r == (commands[_i].fault ? PROTOCOL_MALFORMED : 0), "\"%s\": %d, %s", line, r,
                      r != 0 ? command.fault : "no fault");
        if (commands[_i].fault)
                ck_assert_msg(command.fault && strcmp(command.fault, commands[_i].fault) == 0,
                              "\"%s\": \"%s\", not \"%s\"", line, command.fault, commands[_i].fault);
        else
                ck_assert_msg(!command.fault, "\"%s\": \"%s\"", line, command.fault);
        ck_assert_msg(command.verb == commands[_i].verb, "\"%s\": verb %d", line, (int)command.verb);
        if (id) {
                ck_assert_msg(command.id_len == strlen(id) && memcmp(command.id, id, command.id_len) == 0,
                              "\"%s\": the ID is \"%.*s\"", line, unit_len(command.id_len), command.id);
                ck_assert_msg(command.id >= exact && command.id + command.id_len <= exact + len,
                              "\"%s\": the ID is not in the line", line);
        } else {
                ck_assert_msg(!command.id && command.id_len == 0, "\"%s\": there is an ID", line);
        }
        ck_assert_msg(command.has_prompt == commands[_i].has_prompt, "\"%s\": prompt or none", line);
        ck_assert_msg(r != 0 || command.length == commands[_i].length, "\"%s\": length %" PRIu64, line,
                      command.length);
}
END_TEST

/* A byte that belongs in no command, in every place of one: never taken for the command. */
START_TEST(command_every_byte) {
        static const char line[] = "REQUEST 7 15";
        const size_t len = sizeof(line) - 1;

        for (size_t i = 0; i < len; i++)
                for (int c = 0; c <= UINT8_MAX; c++) {
                        char changed[sizeof(line)];
                        struct protocol_command command;
                        bool good;
                        int r;

                        memcpy(changed, line, sizeof(line));
                        changed[i] = (char)c;
                        if (i == 8)
                                good = c >= 0x21 && c <= 0x7e && c != '-';
                        else if (i == 9)
                                good = c >= 0x20 && c <= 0x7e; /* a longer ID and no prompt, or the line as it was */
                        else if (i > 9)
                                good = c >= '0' && c <= '9';
                        else
                                good = changed[i] == line[i];
                        r = protocol_parse_command(changed, len, &command);
                        ck_assert_msg(r == (good ? 0 : PROTOCOL_MALFORMED), "0x%02x at %zu: %d", (unsigned)c, i, r);
                        ck_assert_msg(good == !command.fault, "0x%02x at %zu: fault", (unsigned)c, i);
                }
}
END_TEST

/* A line ends where its length says; every beginning of a line is a line of its own. */
START_TEST(command_every_length) {
        static const char line[] = "STREAM " ID_64 " 18446744073709551615";

        for (size_t len = 0; len < sizeof(line); len++) {
                _cleanup_free_ char *exact = exact_copy(line, len);
                struct protocol_command command;
                int r = protocol_parse_command(exact, len, &command);
                bool whole = len > sizeof("STREAM " ID_64 " ") - 1;

                ck_assert_msg(r == (whole ? 0 : PROTOCOL_MALFORMED), "%zu bytes: %d", len, r);
        }
}
END_TEST

/* The longest line there is, of each kind of byte: nothing but a fault. */
START_TEST(command_long_line) {
        static const char fills[] = { ' ', 'x', '0', '\0', '-', (char)0xff };

        for (size_t i = 0; i < sizeof(fills); i++)
                for (size_t behind = 0; behind < 3; behind++) {
                        static const char *const begins[] = { "", "REQUEST ", "REQUEST 7 x" };
                        size_t begin_len = strlen(begins[behind]);
                        char line[LINE_MAX_LENGTH];
                        struct protocol_command command;

                        memset(line, fills[i], sizeof(line));
                        memcpy(line, begins[behind], begin_len);
                        ck_assert_int_eq(protocol_parse_command(line, sizeof(line), &command), PROTOCOL_MALFORMED);
                        ck_assert_ptr_nonnull(command.fault);
                }
}
END_TEST

/* Every fault goes into an ERR line whole. */
START_TEST(command_faults_fit) {
        const char *fault = commands[_i].fault;
        char buffer[PROTOCOL_ERROR_MAX];
        struct protocol_reply reply;
        size_t n;

        if (!fault)
                return;
        n = protocol_format_error(buffer, ID_64, PROTOCOL_ID_MAX, PROTOCOL_BAD_REQUEST, fault);
        ck_assert_int_eq(protocol_parse_reply(buffer, n - 1, &reply), 0);
        ck_assert_uint_eq(reply.message_len, strlen(fault));
        ck_assert_mem_eq(reply.message, fault, reply.message_len);
}
END_TEST

static const struct {
        const char *line;
        int r;
        enum protocol_reply_type type;
        const char *id;
        uint64_t length;
        const char *code;
        const char *message;
} replies[] = {
        { "OK 7 19", 0, PROTOCOL_OK, "7", 19, NULL, NULL },
        { "OK 7 0", 0, PROTOCOL_OK, "7", 0, NULL, NULL },
        { "OK - 5", 0, PROTOCOL_OK, "-", 5, NULL, NULL },
        { "OK " ID_64 " 18446744073709551615", 0, PROTOCOL_OK, ID_64, UINT64_MAX, NULL, NULL },
        { "PART 7 3", 0, PROTOCOL_PART, "7", 3, NULL, NULL },
        { "PART OK 3", 0, PROTOCOL_PART, "OK", 3, NULL, NULL },
        { "ERR 7 queue-full 1048576 requests wait", 0, PROTOCOL_ERR, "7", 0, "queue-full", "1048576 requests wait" },
        { "ERR - bad-request Empty line", 0, PROTOCOL_ERR, "-", 0, "bad-request", "Empty line" },
        { "ERR 7 load-failed", 0, PROTOCOL_ERR, "7", 0, "load-failed", "" },
        { "ERR 7 load-failed ", 0, PROTOCOL_ERR, "7", 0, "load-failed", "" },
        { "ERR 7 load-failed  two  spaces ", 0, PROTOCOL_ERR, "7", 0, "load-failed", " two  spaces " },
        { "ERR 7 load-failed No such file: \xe2\x80\x9cm\xe2\x80\x9d", 0, PROTOCOL_ERR, "7", 0, "load-failed",
          "No such file: \xe2\x80\x9cm\xe2\x80\x9d" },
        /* Codes that are not known yet. */
        { "ERR 7 out-of-cheese Redo from start", 0, PROTOCOL_ERR, "7", 0, "out-of-cheese", "Redo from start" },

        { "", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { " ", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OK", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OK ", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OK 7", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OK 7 ", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OK  7 5", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OK 7  5", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OK 7 5 ", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OK 7 5 6", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OK 7 x", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OK 7 -1", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OK 7 18446744073709551616", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OK " ID_65 " 5", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OK a\tb 5", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "ok 7 5", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "O 7 5", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "OKAY 7 5", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { " OK 7 5", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "PART", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "PART 7", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "PARTS 7 5", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "ERR", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "ERR ", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "ERR 7", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "ERR 7 ", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "ERR 7  message", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "ERR  load-failed message", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "ERR " ID_65 " load-failed message", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "ERROR 7 load-failed message", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
        { "REQUEST 7", PROTOCOL_MALFORMED, 0, NULL, 0, NULL, NULL },
};

static void assert_text(const char *line, const char *what, const char *text, size_t len, const char *expected) {
        if (expected)
                ck_assert_msg(text && len == strlen(expected) && memcmp(text, expected, len) == 0,
                              "\"%s\": the %s is \"%.*s\", not \"%s\"", line, what, unit_len(len), text, expected);
        else
                ck_assert_msg(!text && len == 0, "\"%s\": there is a %s", line, what);
}

START_TEST(reply_table) {
        const char *line = replies[_i].line;
        size_t len = strlen(line);
        _cleanup_free_ char *exact = exact_copy(line, len);
        struct protocol_reply reply;
        int r;

        memset(&reply, 0x5a, sizeof(reply));
        r = protocol_parse_reply(exact, len, &reply);
        ck_assert_msg(r == replies[_i].r, "\"%s\": %d, not %d", line, r, replies[_i].r);
        if (r != 0)
                return;
        ck_assert_msg(reply.type == replies[_i].type, "\"%s\": type %d", line, (int)reply.type);
        ck_assert_msg(reply.length == replies[_i].length, "\"%s\": length %" PRIu64, line, reply.length);
        assert_text(line, "ID", reply.id, reply.id_len, replies[_i].id);
        assert_text(line, "code", reply.code, reply.code_len, replies[_i].code);
        assert_text(line, "message", reply.message, reply.message_len, replies[_i].message);
}
END_TEST

static const struct {
        enum protocol_verb verb;
        const char *id;
        bool has_prompt;
        uint64_t length;
        const char *line;
} command_formats[] = {
        { PROTOCOL_STATUS, NULL, false, 0, "STATUS\n" },
        { PROTOCOL_WAIT, NULL, false, 0, "WAIT\n" },
        { PROTOCOL_LOAD, NULL, false, 0, "LOAD\n" },
        { PROTOCOL_SHUTDOWN, NULL, false, 0, "SHUTDOWN\n" },
        { PROTOCOL_REQUEST, "7", false, 0, "REQUEST 7\n" },
        { PROTOCOL_REQUEST, ID_64, false, 0, "REQUEST " ID_64 "\n" },
        { PROTOCOL_REQUEST, "7", true, 0, "REQUEST 7 0\n" },
        { PROTOCOL_REQUEST, "7", true, 9, "REQUEST 7 9\n" },
        { PROTOCOL_REQUEST, "7", true, 10, "REQUEST 7 10\n" },
        { PROTOCOL_REQUEST, "7", true, 1048576, "REQUEST 7 1048576\n" },
        { PROTOCOL_STREAM, "a", true, 100, "STREAM a 100\n" },
        { PROTOCOL_REQUEST, ID_64, true, UINT64_MAX, "REQUEST " ID_64 " 18446744073709551615\n" },
        { PROTOCOL_STREAM, ID_64, true, UINT64_MAX, "STREAM " ID_64 " 18446744073709551615\n" },
};

START_TEST(format_command) {
        const char *id = command_formats[_i].id;
        char buffer[PROTOCOL_HEAD_MAX + 1];
        struct protocol_command command;
        size_t n;

        memset(buffer, '#', sizeof(buffer));
        n = protocol_format_command(buffer, command_formats[_i].verb, id, id ? strlen(id) : 0,
                                    command_formats[_i].has_prompt, command_formats[_i].length);
        ck_assert_uint_le(n, PROTOCOL_HEAD_MAX);
        ck_assert_int_eq(buffer[n], '#');
        buffer[n] = '\0';
        ck_assert_str_eq(buffer, command_formats[_i].line);

        ck_assert_int_eq(protocol_parse_command(buffer, n - 1, &command), 0);
        ck_assert_int_eq(command.verb, command_formats[_i].verb);
        ck_assert_int_eq(command.has_prompt, command_formats[_i].has_prompt);
        ck_assert_uint_eq(command.length, command_formats[_i].length);
        assert_text(buffer, "ID", command.id, command.id_len, id);
}
END_TEST

static const struct {
        enum protocol_reply_type type;
        const char *id;
        uint64_t length;
        const char *line;
} head_formats[] = {
        { PROTOCOL_OK, "7", 19, "OK 7 19\n" },
        { PROTOCOL_OK, "", 5, "OK - 5\n" },
        { PROTOCOL_OK, "7", 0, "OK 7 0\n" },
        { PROTOCOL_PART, "7", 3, "PART 7 3\n" },
        { PROTOCOL_OK, ID_64, UINT64_MAX, "OK " ID_64 " 18446744073709551615\n" },
        { PROTOCOL_PART, ID_64, UINT64_MAX, "PART " ID_64 " 18446744073709551615\n" },
};

START_TEST(format_head) {
        const char *id = head_formats[_i].id;
        char buffer[PROTOCOL_HEAD_MAX + 1];
        struct protocol_reply reply;
        size_t n;

        memset(buffer, '#', sizeof(buffer));
        n = protocol_format_head(buffer, head_formats[_i].type, id, strlen(id), head_formats[_i].length);
        ck_assert_uint_le(n, PROTOCOL_HEAD_MAX);
        ck_assert_int_eq(buffer[n], '#');
        buffer[n] = '\0';
        ck_assert_str_eq(buffer, head_formats[_i].line);

        ck_assert_int_eq(protocol_parse_reply(buffer, n - 1, &reply), 0);
        ck_assert_int_eq(reply.type, head_formats[_i].type);
        ck_assert_uint_eq(reply.length, head_formats[_i].length);
        assert_text(buffer, "ID", reply.id, reply.id_len, id[0] ? id : "-");
}
END_TEST

/* The numbers that are written, around each power of ten. */
START_TEST(format_numbers) {
        uint64_t number = 1;

        for (int i = 0; i < _i; i++)
                number *= 10;
        for (int64_t off = -1; off <= 1; off++) {
                char buffer[PROTOCOL_HEAD_MAX], expected[PROTOCOL_HEAD_MAX];
                uint64_t value = number + (uint64_t)off;
                size_t n = protocol_format_head(buffer, PROTOCOL_OK, "7", 1, value);
                int expected_len = snprintf(expected, sizeof(expected), "OK 7 %" PRIu64 "\n", value);

                ck_assert_uint_eq(n, (size_t)expected_len);
                ck_assert_mem_eq(buffer, expected, n);
        }
}
END_TEST

/* An ID over the limit is cut, so that the line stays in its buffer. */
START_TEST(format_id_cut) {
        static const char id[] = ID_64 ID_64;
        char head[PROTOCOL_HEAD_MAX], error[PROTOCOL_ERROR_MAX];
        size_t n;

        n = protocol_format_head(head, PROTOCOL_OK, id, PROTOCOL_ID_MAX + 1, 1);
        ck_assert_uint_eq(n, sizeof("OK " ID_64 " 1\n") - 1);
        ck_assert_mem_eq(head, "OK " ID_64 " 1\n", n);
        n = protocol_format_command(head, PROTOCOL_REQUEST, id, sizeof(id) - 1, true, UINT64_MAX);
        ck_assert_uint_eq(n, sizeof("REQUEST " ID_64 " 18446744073709551615\n") - 1);
        n = protocol_format_error(error, id, sizeof(id) - 1, PROTOCOL_TIMED_OUT, "x");
        ck_assert_uint_eq(n, sizeof("ERR " ID_64 " timed-out x\n") - 1);
        ck_assert_mem_eq(error, "ERR " ID_64 " timed-out x\n", n);
}
END_TEST

static const struct {
        const char *id;
        const char *message;
        const char *written;    /* what becomes of the message */
} error_formats[] = {
        { "7", "Server is shutting down", "Server is shutting down" },
        { "", "Empty line", "Empty line" },
        { ID_64, "x", "x" },
        { "7", "", "" },
        { "7", " ", " " },
        { "7", "two\nlines", "two lines" },
        { "7", "cr\r\nlf", "cr  lf" },
        { "7", "\a\b\t\v\f\x1b[31mred\x7f\x01\x1f\x1b[", "     red    [" },
        { "7", "a\xc2\x85" "b\xe2\x80\xae\xff", "a b ?" },
        { "7", "caf\xc3\xa9", "caf\xc3\xa9" },
        { "7", "\n", " " },
        { "7", "%s%n", "%s%n" },
};

START_TEST(format_error) {
        const char *id = error_formats[_i].id, *written = error_formats[_i].written;

        for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
                char buffer[PROTOCOL_ERROR_MAX + 1], expected[PROTOCOL_ERROR_MAX];
                struct protocol_reply reply;
                int expected_len;
                size_t n;

                memset(buffer, '#', sizeof(buffer));
                n = protocol_format_error(buffer, id, strlen(id), codes[i].code, error_formats[_i].message);
                expected_len = snprintf(expected, sizeof(expected), "ERR %s %s %s\n", id[0] ? id : "-",
                                        codes[i].name, written);
                ck_assert_int_eq(buffer[n], '#');
                ck_assert_uint_eq(n, (size_t)expected_len);
                buffer[n] = '\0';
                ck_assert_str_eq(buffer, expected);

                ck_assert_int_eq(protocol_parse_reply(buffer, n - 1, &reply), 0);
                ck_assert_int_eq(reply.type, PROTOCOL_ERR);
                assert_text(buffer, "ID", reply.id, reply.id_len, id[0] ? id : "-");
                assert_text(buffer, "code", reply.code, reply.code_len, codes[i].name);
                assert_text(buffer, "message", reply.message, reply.message_len, written);
        }
}
END_TEST

/* The line of an error is a line: n-1, n and n+1 bytes of message, and many more, with the longest of everything. */
START_TEST(format_error_length) {
        static const char head[] = "ERR " ID_64 " inference-failed ";
        const size_t room = LINE_MAX_LENGTH - (sizeof(head) - 1);
        const size_t lengths[] = { room - 1, room, room + 1, room * 2, 100000 };

        for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
                _cleanup_free_ char *message = malloc(lengths[i] + 1);
                char buffer[PROTOCOL_ERROR_MAX + 1];
                struct protocol_reply reply;
                size_t n;

                memset(message, 'm', lengths[i]);
                message[lengths[i]] = '\0';
                memset(buffer, '#', sizeof(buffer));
                n = protocol_format_error(buffer, ID_64, PROTOCOL_ID_MAX, PROTOCOL_INFERENCE_FAILED, message);
                ck_assert_uint_eq(n, sizeof(head) - 1 + MIN(lengths[i], room) + 1);
                ck_assert_uint_le(n, PROTOCOL_ERROR_MAX);
                ck_assert_mem_eq(buffer, head, sizeof(head) - 1);
                ck_assert_int_eq(buffer[n - 1], '\n');
                ck_assert_int_eq(buffer[n], '#');
                ck_assert_int_eq(protocol_parse_reply(buffer, n - 1, &reply), 0);
                ck_assert_uint_eq(reply.message_len, MIN(lengths[i], room));
        }
}
END_TEST

static Suite *protocol_suite(void) {
        Suite *suite = suite_create("protocol");
        TCase *words = tcase_create("words"), *command = tcase_create("command"), *reply = tcase_create("reply"),
              *format = tcase_create("format");

        tcase_add_test(words, names);
        unit_add_table(words, id_table, ids);
        tcase_add_test(words, id_every_byte);
        suite_add_tcase(suite, words);

        unit_add_table(command, command_table, commands);
        tcase_add_test(command, command_every_byte);
        tcase_add_test(command, command_every_length);
        tcase_add_test(command, command_long_line);
        unit_add_table(command, command_faults_fit, commands);
        suite_add_tcase(suite, command);

        unit_add_table(reply, reply_table, replies);
        suite_add_tcase(suite, reply);

        unit_add_table(format, format_command, command_formats);
        unit_add_table(format, format_head, head_formats);
        tcase_add_loop_test(format, format_numbers, 0, 20);
        tcase_add_test(format, format_id_cut);
        unit_add_table(format, format_error, error_formats);
        tcase_add_test(format, format_error_length);
        suite_add_tcase(suite, format);
        return suite;
}

UNIT_MAIN(protocol_suite)
