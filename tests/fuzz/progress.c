/*
 * How far a load is: of any output a fraction or nothing is read, and of any course of fractions an estimate is made that is not
 * in the past, does not fall, and has an end.
 */

#include "common/number.h"
#include "daemon/model/progress.h"
#include "tests/fuzz/fuzz.h"

#define BEGIN (1000 * NSEC_PER_SEC)

static void expect_fraction(double fraction) {
        expect(fraction == PROGRESS_UNKNOWN || (fraction >= 0 && fraction <= 1));
}

static void read_text(struct input *input) {
        char *text = input_text(input, '\0');

        expect_fraction(progress_parse_line(text, strlen(text)));
        expect_fraction(progress_parse_status(text));
        expect_fraction(progress_parse_dots(text, strlen(text)));
        /* A status is a line in which more counts. */
        if (progress_parse_line(text, strlen(text)) >= 0)
                expect(progress_parse_status(text) == progress_parse_line(text, strlen(text)));
        free(text);
}

/* A byte for the source, one for its fraction, one for the time that passes; what earlier loads took is in front. */
static void follow_load(struct input *input) {
        const uint64_t total = input_byte(input) * NSEC_PER_SEC;
        const struct progress_earlier earlier = { total, total / 3, input_byte(input) * NSEC_PER_SEC };
        struct progress_earlier learned;
        struct progress progress;
        uint64_t now = BEGIN;
        double before = PROGRESS_UNKNOWN;

        progress_begin(&progress, &earlier, BEGIN + input_byte(input) * NSEC_PER_SEC);
        while (input->len > 0) {
                const enum progress_source source = input_byte(input) % PROGRESS_SOURCES;

                progress_hear(&progress, source, (input_byte(input) - 2) / 250.0, now);
                now += (uint64_t)input_byte(input) * input_byte(input) * NSEC_PER_MSEC;
                progress_update(&progress, now);
                expect(progress.due == 0 || now < progress.began || progress.due >= now);
                expect(progress.due < now + UINT64_C(400) * 24 * 3600 * NSEC_PER_SEC);
                expect(progress.fraction >= before && progress.fraction <= PROGRESS_FRACTION_MAX);
                before = progress.fraction;
        }
        progress_end(&progress, now, &learned);
        expect(learned.total > 0 && learned.head <= learned.total && learned.tail <= learned.total);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };

        if (input_byte(&input) == 't')
                read_text(&input);
        else
                follow_load(&input);
        return 0;
}
