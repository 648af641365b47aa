#include "daemon/model/freeze.h"

#include "common/number.h"
#include "tests/support/unit.h"

#define TIMEOUT (120 * NSEC_PER_SEC)
#define INTERVAL (5 * NSEC_PER_SEC)

static struct freeze freeze;
static struct freeze_sample sample;

static void setup(void) {
        freeze = (struct freeze){ 0 };
        sample = (struct freeze_sample){ .now = 1000 * NSEC_PER_SEC, .works = true, .processor = 77, .io = 99, .processes = 3 };
        ck_assert(!freeze_judge(&freeze, TIMEOUT, &sample));
}

/* Samples for so long, each after `change`. Returns after how many nanoseconds it is frozen; 0: never. */
static uint64_t frozen_after(uint64_t time, void (*change)(void)) {
        const uint64_t began = sample.now;

        while (sample.now < began + time) {
                sample.now += INTERVAL;
                change();
                if (freeze_judge(&freeze, TIMEOUT, &sample))
                        return sample.now - began;
        }
        return 0;
}

static void nothing(void) {
}

static void hears(void) {
        sample.heard++;
}

static void says(void) {
        sample.said++;
}

static void reads_disk(void) {
        sample.disk += 4096;
}

/* A prompt that takes minutes. */
static void computes(void) {
        sample.processor += INTERVAL;
}

/* 1 % of a processor, and just less. */
static void computes_little(void) {
        sample.processor += INTERVAL / 100;
}

static void computes_too_little(void) {
        sample.processor += INTERVAL / 110;
}

/* Five probes of health between two samples, with what they wake up; and what a server does that copies. */
static void is_probed(void) {
        sample.io += 5 * 2048;
}

static void copies(void) {
        sample.io += 1 << 20;
}

static void forks(void) {
        sample.processes ^= 1;
}

/* A process of many ends, and its share of the processor time with it. */
static void loses_process(void) {
        sample.processor--;
}

static void idles(void) {
        sample.works = false;
}

/* Each request is gone before the next sample but one. */
static void flickers(void) {
        sample.works = !sample.works;
}

static const struct {
        void (*change)(void);
        bool frozen;
} signs[] = {
        { nothing, true },
        { computes_too_little, true },
        { is_probed, true },
        { hears, false },
        { says, false },
        { reads_disk, false },
        { computes, false },
        { computes_little, false },
        { copies, false },
        { forks, false },
        { loses_process, false },
        { idles, false },
        { flickers, false },
};

START_TEST(freeze_signs) {
        const uint64_t after = frozen_after(3600 * NSEC_PER_SEC, signs[_i].change);

        if (signs[_i].frozen)
                ck_assert_uint_eq(after, TIMEOUT);
        else {
                ck_assert_uint_eq(after, 0);
                /* When the last sign was is what counts. */
                sample.works = true;
                (void)freeze_judge(&freeze, TIMEOUT, &sample);
                sample.now += INTERVAL;
                ck_assert(!freeze_judge(&freeze, TIMEOUT, &sample));
                ck_assert_uint_ge(frozen_after(3600 * NSEC_PER_SEC, nothing), TIMEOUT - INTERVAL);
        }
}
END_TEST

/* An hour of prompts that take a minute each without a byte. */
START_TEST(freeze_prefills) {
        for (unsigned i = 0; i < 60; i++) {
                ck_assert_uint_eq(frozen_after(60 * NSEC_PER_SEC, computes), 0);
                sample.heard += 1000;
        }
        ck_assert_uint_eq(frozen_after(3600 * NSEC_PER_SEC, nothing), TIMEOUT + INTERVAL);
}
END_TEST

/* Whenever it freezes, it is found within the time-out and two samples. */
START_TEST(freeze_found_in_time) {
        static const uint64_t timeouts[] = { 1, NSEC_PER_MSEC, 500 * NSEC_PER_MSEC, 120 * NSEC_PER_SEC, 86400 * NSEC_PER_SEC };

        for (unsigned i = 0; i < ARRAY_SIZE(timeouts); i++) {
                const uint64_t interval = freeze_interval(timeouts[i]);
                uint64_t began;

                ck_assert_uint_ge(interval, NSEC_PER_MSEC);
                ck_assert_uint_le(interval, 5 * NSEC_PER_SEC);
                sample.now += interval;
                sample.heard++;
                ck_assert(!freeze_judge(&freeze, timeouts[i], &sample));
                /* Just behind a sample. */
                began = sample.now + 1;
                sample.heard++;
                do
                        sample.now += interval;
                while (!freeze_judge(&freeze, timeouts[i], &sample));
                ck_assert_uint_le(sample.now - began, timeouts[i] + 2 * interval);
        }
}
END_TEST

static Suite *freeze_suite(void) {
        Suite *suite = suite_create("freeze");
        TCase *tcase = tcase_create("freeze");

        tcase_add_checked_fixture(tcase, setup, NULL);
        unit_add_table(tcase, freeze_signs, signs);
        tcase_add_test(tcase, freeze_prefills);
        tcase_add_test(tcase, freeze_found_in_time);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(freeze_suite)
