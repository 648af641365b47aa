#include "common/number.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/unit.h"

#define SEC NSEC_PER_SEC
#define MINUTE (60 * SEC)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

/* What is left alone where nothing may be set. */
#define UNTOUCHED UINT64_C(0x5a5a5a5a5a5a5a5a)

static const struct {
        const char *text;
        uint64_t max;
        int r;
        uint64_t number;
} numbers[] = {
        { "0", 0, 0, 0 },
        { "0", UINT64_MAX, 0, 0 },
        { "1", 1, 0, 1 },
        { "9", 9, 0, 9 },
        { "10", 10, 0, 10 },
        { "007", 7, 0, 7 },
        { "00000000000000000000000000000000000000001", 1, 0, 1 },
        { "1234567890", UINT64_MAX, 0, 1234567890 },
        { "4294967295", UINT64_MAX, 0, UINT32_MAX },
        { "4294967296", UINT64_MAX, 0, UINT64_C(4294967296) },
        { "18446744073709551614", UINT64_MAX, 0, UINT64_MAX - 1 },
        { "18446744073709551615", UINT64_MAX, 0, UINT64_MAX },
        { "18446744073709551614", UINT64_MAX - 1, 0, UINT64_MAX - 1 },

        { "1", 0, NUMBER_TOO_LARGE, 0 },
        { "10", 9, NUMBER_TOO_LARGE, 0 },
        { "1025", 1024, NUMBER_TOO_LARGE, 0 },
        { "18446744073709551615", UINT64_MAX - 1, NUMBER_TOO_LARGE, 0 },
        { "18446744073709551616", UINT64_MAX, NUMBER_TOO_LARGE, 0 },
        { "18446744073709551620", UINT64_MAX, NUMBER_TOO_LARGE, 0 },
        { "18446744073709551617", 10, NUMBER_TOO_LARGE, 0 },
        { "36893488147419103232", UINT64_MAX, NUMBER_TOO_LARGE, 0 },
        { "99999999999999999999", UINT64_MAX, NUMBER_TOO_LARGE, 0 },
        /* 2^64 and a digit more: wraps to a small number where nobody looks. */
        { "184467440737095516160", UINT64_MAX, NUMBER_TOO_LARGE, 0 },
        { "1000000000000000000000000000000000000000000000000000000000000000", 1, NUMBER_TOO_LARGE, 0 },

        { "", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { " ", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { " 1", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "1 ", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "1 2", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "+1", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "-1", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "-0", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "1.0", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "1,000", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "1e3", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "0x10", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "a", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "12a", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "1K", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "/", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { ":", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "1\n", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "1\r", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "\t1", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "\xb2", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "\xd9\xa1", UINT64_MAX, NUMBER_MALFORMED, 0 },
        /* What is no number is not too large a one. */
        { "99999999999999999999x", UINT64_MAX, NUMBER_MALFORMED, 0 },
        { "2x", 1, NUMBER_MALFORMED, 0 },
};

START_TEST(number_table) {
        const char *text = numbers[_i].text;
        uint64_t number = UNTOUCHED;
        /* Nothing behind the text may be looked at. */
        _cleanup_free_ char *exact = malloc(strlen(text) + 1);
        int r;

        memcpy(exact, text, strlen(text));
        r = number_parse(exact, strlen(text), numbers[_i].max, &number);
        ck_assert_msg(r == numbers[_i].r, "\"%s\", at most %" PRIu64 ": %d, not %d", text, numbers[_i].max, r,
                      numbers[_i].r);
        if (r != 0)
                ck_assert_msg(number == UNTOUCHED, "\"%s\": the number is set in spite of %d", text, r);
        else
                ck_assert_msg(number == numbers[_i].number, "\"%s\": %" PRIu64, text, number);
}
END_TEST

START_TEST(number_ends_where_told) {
        uint64_t number = UNTOUCHED;

        ck_assert_int_eq(number_parse("123456", 3, UINT64_MAX, &number), 0);
        ck_assert_uint_eq(number, 123);
        ck_assert_int_eq(number_parse("12 REQUEST", 2, UINT64_MAX, &number), 0);
        ck_assert_uint_eq(number, 12);
        ck_assert_int_eq(number_parse("7", 0, UINT64_MAX, &number), NUMBER_MALFORMED);
        ck_assert_uint_eq(number, 12);
        /* A NUL is a byte like any other. */
        ck_assert_int_eq(number_parse("7\0", 2, UINT64_MAX, &number), NUMBER_MALFORMED);
        ck_assert_uint_eq(number, 12);
}
END_TEST

/* No byte but a digit, wherever it stands. */
START_TEST(number_every_byte) {
        for (int c = 0; c <= UINT8_MAX; c++) {
                bool digit = c >= '0' && c <= '9';
                char text[3] = "111";

                for (size_t i = 0; i < sizeof(text); i++) {
                        uint64_t number = UNTOUCHED;
                        int r;

                        memset(text, '1', sizeof(text));
                        text[i] = (char)c;
                        r = number_parse(text, sizeof(text), UINT64_MAX, &number);
                        ck_assert_msg(r == (digit ? 0 : NUMBER_MALFORMED), "byte 0x%02x at %zu: %d", (unsigned)c, i,
                                      r);
                }
        }
}
END_TEST

/* Around each power of two: what is written is read, n-1, n and n+1 against a limit of n. */
START_TEST(number_limits) {
        uint64_t limit = _i < 64 ? UINT64_C(1) << _i : UINT64_MAX - 1;

        for (int64_t off = -1; off <= 1; off++) {
                uint64_t value = limit + (uint64_t)off, number = UNTOUCHED;
                char text[32];
                int n = snprintf(text, sizeof(text), "%" PRIu64, value), r;

                r = number_parse(text, (size_t)n, limit, &number);
                ck_assert_msg(r == (off > 0 ? NUMBER_TOO_LARGE : 0), "%s, at most %" PRIu64 ": %d", text, limit, r);
                ck_assert_uint_eq(number, off > 0 ? UNTOUCHED : value);
        }
}
END_TEST

static const struct {
        const char *text;
        int r;
        uint64_t nsec;
} durations[] = {
        { "0", 0, 0 },
        { "0s", 0, 0 },
        { "0.0", 0, 0 },
        { "0d 0h 0min 0s 0ms 0us", 0, 0 },
        { "2", 0, 2 * SEC },
        { "0.1", 0, 100 * NSEC_PER_MSEC },
        { "2.5", 0, 2500 * NSEC_PER_MSEC },
        { "007", 0, 7 * SEC },
        { "1us", 0, NSEC_PER_USEC },
        { "1ms", 0, NSEC_PER_MSEC },
        { "1s", 0, SEC },
        { "1m", 0, MINUTE },
        { "1min", 0, MINUTE },
        { "1h", 0, HOUR },
        { "1d", 0, DAY },
        { "100ms", 0, 100 * NSEC_PER_MSEC },
        { "1.5ms", 0, 1500 * NSEC_PER_USEC },
        { "0.5us", 0, 500 },
        { "1.5h", 0, 90 * MINUTE },
        { "0.25d", 0, 6 * HOUR },
        { "1min 30s", 0, 90 * SEC },
        { "1min30s", 0, 90 * SEC },
        { "1m30s", 0, 90 * SEC },
        { "1min   30s", 0, 90 * SEC },
        { "30s 1min", 0, 90 * SEC },
        { "1s 1s", 0, 2 * SEC },
        { "1d 2h 3min 4s 5ms 6us", 0,
          DAY + 2 * HOUR + 3 * MINUTE + 4 * SEC + 5 * NSEC_PER_MSEC + 6 * NSEC_PER_USEC },
        { "0.5min 0.5s", 0, 30 * SEC + 500 * NSEC_PER_MSEC },
        /* Below a nanosecond: cut. */
        { "0.000000001", 0, 1 },
        { "0.0000000001", 0, 0 },
        { "0.0000000019", 0, 1 },
        { "0.999999999999999999999999999999999999", 0, 999999999 },
        { "0.0001us", 0, 0 },
        { "0.001us", 0, 1 },
        /* Ten years. */
        { "3660d", 0, 3660 * DAY },
        { "316224000", 0, 3660 * DAY },
        { "316223999.999999999s", 0, 3660 * DAY - 1 },
        { "87840h", 0, 3660 * DAY },
        { "5270400min", 0, 3660 * DAY },
        { "316224000000ms", 0, 3660 * DAY },
        { "316224000000000us", 0, 3660 * DAY },
        { "3659d 24h", 0, 3660 * DAY },

        { "3660d 1us", NUMBER_TOO_LARGE, 0 },
        { "1us 3660d", NUMBER_TOO_LARGE, 0 },
        { "3661d", NUMBER_TOO_LARGE, 0 },
        { "3660.5d", NUMBER_TOO_LARGE, 0 },
        { "316224000.000000001", NUMBER_TOO_LARGE, 0 },
        { "316224001", NUMBER_TOO_LARGE, 0 },
        { "87841h", NUMBER_TOO_LARGE, 0 },
        { "5270401min", NUMBER_TOO_LARGE, 0 },
        { "316224000001ms", NUMBER_TOO_LARGE, 0 },
        { "316224000000001us", NUMBER_TOO_LARGE, 0 },
        { "3000d 3000d", NUMBER_TOO_LARGE, 0 },
        { "18446744073709551615", NUMBER_TOO_LARGE, 0 },
        { "18446744073709551616s", NUMBER_TOO_LARGE, 0 },
        /* 2^64 ns and a little more, that is 213504 days. */
        { "18446744073709552us", NUMBER_TOO_LARGE, 0 },
        { "99999999999999999999999999999999d", NUMBER_TOO_LARGE, 0 },

        { "", NUMBER_MALFORMED, 0 },
        { " ", NUMBER_MALFORMED, 0 },
        { " 1s", NUMBER_MALFORMED, 0 },
        { "s", NUMBER_MALFORMED, 0 },
        { ".", NUMBER_MALFORMED, 0 },
        { ".5", NUMBER_MALFORMED, 0 },
        { "5.", NUMBER_MALFORMED, 0 },
        { "5.s", NUMBER_MALFORMED, 0 },
        { "1.2.3", NUMBER_MALFORMED, 0 },
        { "1,5", NUMBER_MALFORMED, 0 },
        { "-1", NUMBER_MALFORMED, 0 },
        { "+1", NUMBER_MALFORMED, 0 },
        { "1min -30s", NUMBER_MALFORMED, 0 },
        { "1e3", NUMBER_MALFORMED, 0 },
        { "0x10", NUMBER_MALFORMED, 0 },
        { "inf", NUMBER_MALFORMED, 0 },
        { "nan", NUMBER_MALFORMED, 0 },
        { "infinity", NUMBER_MALFORMED, 0 },
        { "1 s", NUMBER_MALFORMED, 0 },
        { "1\ts", NUMBER_MALFORMED, 0 },
        { "1S", NUMBER_MALFORMED, 0 },
        { "1MS", NUMBER_MALFORMED, 0 },
        { "1sec", NUMBER_MALFORMED, 0 },
        { "1msec", NUMBER_MALFORMED, 0 },
        { "1minute", NUMBER_MALFORMED, 0 },
        { "1month", NUMBER_MALFORMED, 0 },
        { "1ns", NUMBER_MALFORMED, 0 },
        { "1w", NUMBER_MALFORMED, 0 },
        { "1y", NUMBER_MALFORMED, 0 },
        { "1x", NUMBER_MALFORMED, 0 },
        { "1u", NUMBER_MALFORMED, 0 },
        { "1\xc2\xb5s", NUMBER_MALFORMED, 0 },
        /* Without a unit a number stands alone. */
        { "1 2", NUMBER_MALFORMED, 0 },
        { "1min 30", NUMBER_MALFORMED, 0 },
        { "1min30", NUMBER_MALFORMED, 0 },
        { "30 1min", NUMBER_MALFORMED, 0 },
        { "1s,2s", NUMBER_MALFORMED, 0 },
        { "1s\n", NUMBER_MALFORMED, 0 },
        { "1s x", NUMBER_MALFORMED, 0 },
        { "1s\t1s", NUMBER_MALFORMED, 0 },
        { "99999999999999999999x", NUMBER_MALFORMED, 0 },
};

START_TEST(duration_table) {
        const char *text = durations[_i].text;
        uint64_t nsec = UNTOUCHED;
        int r;

        r = number_parse_duration(text, &nsec);
        ck_assert_msg(r == durations[_i].r, "\"%s\": %d, not %d", text, r, durations[_i].r);
        if (r != 0)
                ck_assert_msg(nsec == UNTOUCHED, "\"%s\": the duration is set in spite of %d", text, r);
        else
                ck_assert_msg(nsec == durations[_i].nsec, "\"%s\": %" PRIu64 " ns, not %" PRIu64, text, nsec,
                              durations[_i].nsec);
}
END_TEST

static const struct {
        uint64_t nsec;
        const char *text;
} formats[] = {
        { 0, "0s" },
        { 1, "0.001us" },
        { 999, "0.999us" },
        { 1000, "1us" },
        { 1001, "1.001us" },
        { 10000, "10us" },
        { 100000, "100us" },
        { 999999, "999.999us" },
        { NSEC_PER_MSEC, "1ms" },
        { 1500 * NSEC_PER_USEC, "1.5ms" },
        { 1500 * NSEC_PER_USEC + 999, "1.5ms" },
        { 100 * NSEC_PER_MSEC, "100ms" },
        { 101 * NSEC_PER_MSEC, "101ms" },
        { SEC - 1, "999.999ms" },
        { SEC, "1s" },
        { SEC + 1, "1s" },
        { SEC + NSEC_PER_MSEC, "1.001s" },
        { 2100 * NSEC_PER_MSEC, "2.1s" },
        { 10 * SEC, "10s" },
        { 10 * SEC + 50 * NSEC_PER_MSEC, "10.05s" },
        { MINUTE - 1, "59.999s" },
        { MINUTE, "1min" },
        { MINUTE + SEC - 1, "1min" },
        { MINUTE + SEC, "1min 1s" },
        { 90 * SEC, "1min 30s" },
        { 90 * SEC + 500 * NSEC_PER_MSEC, "1min 30s" },
        { HOUR - 1, "59min 59s" },
        { HOUR, "1h" },
        { HOUR + SEC, "1h 1s" },
        { HOUR + MINUTE, "1h 1min" },
        { DAY - SEC, "23h 59min 59s" },
        { DAY, "1d" },
        { DAY + MINUTE, "1d 1min" },
        { 3660 * DAY, "3660d" },
        { UINT64_MAX, "213503d 23h 34min 33s" },
};

START_TEST(format_table) {
        char buffer[NUMBER_DURATION_MAX + 1];

        memset(buffer, '#', sizeof(buffer));
        ck_assert_ptr_eq(number_format_duration(buffer, formats[_i].nsec), buffer);
        ck_assert_str_eq(buffer, formats[_i].text);
        ck_assert_int_eq(buffer[NUMBER_DURATION_MAX], '#');
}
END_TEST

/* What is written is read again, and no more is lost than what is not written: less than a unit of the last place. */
START_TEST(format_and_parse) {
        uint64_t nsec = UINT64_C(1) << _i;

        for (int k = 0; k < 1000; k++) {
                uint64_t back = UNTOUCHED, lost;
                char buffer[NUMBER_DURATION_MAX], again[NUMBER_DURATION_MAX];
                int r;

                number_format_duration(buffer, nsec);
                r = number_parse_duration(buffer, &back);
                if (nsec >= 3660 * DAY + SEC) {
                        ck_assert_msg(r == NUMBER_TOO_LARGE, "%" PRIu64 ", \"%s\": %d", nsec, buffer, r);
                        break;
                }
                ck_assert_msg(r == 0, "%" PRIu64 ", \"%s\": %d", nsec, buffer, r);
                ck_assert_msg(back <= nsec, "%" PRIu64 ", \"%s\": %" PRIu64, nsec, buffer, back);
                lost = nsec - back;
                ck_assert_msg(lost < (nsec >= MINUTE ? SEC : nsec >= SEC ? NSEC_PER_MSEC :
                                      nsec >= NSEC_PER_MSEC ? NSEC_PER_USEC : 1),
                              "%" PRIu64 ", \"%s\": %" PRIu64 " lost", nsec, buffer, lost);
                ck_assert_str_eq(number_format_duration(again, back), buffer);
                nsec += nsec / 997 + 1;
        }
}
END_TEST

static Suite *number_suite(void) {
        Suite *suite = suite_create("number");
        TCase *parse = tcase_create("parse"), *duration = tcase_create("duration"), *format = tcase_create("format");

        unit_add_table(parse, number_table, numbers);
        tcase_add_test(parse, number_ends_where_told);
        tcase_add_test(parse, number_every_byte);
        tcase_add_loop_test(parse, number_limits, 1, 65);
        suite_add_tcase(suite, parse);

        unit_add_table(duration, duration_table, durations);
        suite_add_tcase(suite, duration);

        unit_add_table(format, format_table, formats);
        tcase_add_loop_test(format, format_and_parse, 0, 64);
        suite_add_tcase(suite, format);
        return suite;
}

UNIT_MAIN(number_suite)
