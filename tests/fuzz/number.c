/*
 * Numbers and durations: what is read is what a second reader makes of it, and a duration written for people is read as
 * nearly the same.
 */

#include "common/number.h"
#include "common/util.h"
#include "tests/fuzz/fuzz.h"

static void read_number(const char *text, size_t len, uint64_t max) {
        unsigned __int128 expected = 0;
        bool malformed = len == 0;
        uint64_t number = 42;
        int r = number_parse(text, len, max, &number);

        for (size_t i = 0; i < len; i++) {
                malformed |= text[i] < '0' || text[i] > '9';
                expected = MIN(expected * 10 + (unsigned)(text[i] - '0') % 10, (unsigned __int128)1 << 100);
        }
        if (malformed)
                expect(r == NUMBER_MALFORMED);
        else
                expect(r == (expected > max ? NUMBER_TOO_LARGE : 0));
        expect(number == (r == 0 ? (uint64_t)expected : 42));
}

static void write_duration(uint64_t nsec) {
        char text[NUMBER_DURATION_MAX];
        uint64_t again, lost;

        expect(number_format_duration(text, nsec) == text);
        expect(memchr(text, '\0', sizeof(text)));
        expect(number_parse_duration(text, &again) == 0);
        expect(again <= nsec);
        lost = nsec - again;
        expect(lost < (nsec >= 60 * NSEC_PER_SEC ? NSEC_PER_SEC :
                       nsec >= NSEC_PER_SEC      ? NSEC_PER_MSEC :
                       nsec >= NSEC_PER_MSEC     ? NSEC_PER_USEC :
                                                   1));
}

static void read_duration(const char *text) {
        const uint64_t ten_years = UINT64_C(10) * 366 * 24 * 3600 * NSEC_PER_SEC;
        uint64_t nsec = 42;
        int r = number_parse_duration(text, &nsec);

        expect(r == 0 || r == NUMBER_MALFORMED || r == NUMBER_TOO_LARGE);
        if (r != 0) {
                expect(nsec == 42);
                return;
        }
        expect(nsec <= ten_years);
        expect(*text >= '0' && *text <= '9');
        write_duration(nsec);
}

/* Which of them, a maximum or a duration as eight bytes, and the text. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        uint8_t which = input_byte(&input);
        uint64_t number = 0;
        char *text;

        if (which == 'd') {
                text = input_text(&input, '\0');
                read_duration(text);
                free(text);
                return 0;
        }
        for (unsigned i = 0; i < 8; i++)
                number = number << 8 | input_byte(&input);
        if (which == 'n')
                read_number((const char *)input.data, input.len, number);
        else if (which == 'w')
                write_duration(number % (UINT64_C(10) * 365 * 24 * 3600 * NSEC_PER_SEC));
        return 0;
}
