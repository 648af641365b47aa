#include "common/number.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"

/* Far enough for any deadline, and far from where a sum with the clock could overflow. */
#define DURATION_MAX (UINT64_C(3660) * 24 * 3600 * NSEC_PER_SEC)

static const struct {
        const char *name;
        uint64_t nsec;
} units[] = {
        /* The longer of two that begin alike comes first. */
        { "us", NSEC_PER_USEC },
        { "min", 60 * NSEC_PER_SEC },
        { "ms", NSEC_PER_MSEC },
        { "m", 60 * NSEC_PER_SEC },
        { "s", NSEC_PER_SEC },
        { "h", 3600 * NSEC_PER_SEC },
        { "d", 86400 * NSEC_PER_SEC },
};

static bool is_digit(char c) {
        return c >= '0' && c <= '9';
}

int number_parse(const char *text, size_t len, uint64_t max, uint64_t *number) {
        uint64_t value = 0;
        bool over = false;

        if (len == 0)
                return NUMBER_MALFORMED;

        for (size_t i = 0; i < len; i++) {
                if (!is_digit(text[i]))
                        return NUMBER_MALFORMED;
                over = over || __builtin_mul_overflow(value, 10, &value) ||
                       __builtin_add_overflow(value, (uint64_t)(text[i] - '0'), &value);
        }
        if (over || value > max)
                return NUMBER_TOO_LARGE;

        *number = value;
        return 0;
}

/* One number with its unit, from `*text` on, which is moved behind it. `alone`: it may stand without a unit. */
static int parse_term(const char **text, bool alone, uint64_t *nsec) {
        const char *p = *text;
        const char *whole = p, *fraction;
        size_t whole_len, fraction_len = 0;
        uint64_t unit = 0, value = 0, part = 0, scale;
        int r;

        while (is_digit(*p))
                p++;
        whole_len = (size_t)(p - whole);
        if (whole_len == 0)
                return NUMBER_MALFORMED;

        fraction = p;
        if (*p == '.') {
                fraction = ++p;
                while (is_digit(*p))
                        p++;
                fraction_len = (size_t)(p - fraction);
                if (fraction_len == 0)
                        return NUMBER_MALFORMED;
        }

        for (size_t i = 0; i < ARRAY_SIZE(units); i++)
                if (strncmp(p, units[i].name, strlen(units[i].name)) == 0) {
                        unit = units[i].nsec;
                        p += strlen(units[i].name);
                        break;
                }
        if (unit == 0) {
                if (!alone || *p != '\0')
                        return NUMBER_MALFORMED;
                unit = NSEC_PER_SEC;
        }

        r = number_parse(whole, whole_len, DURATION_MAX / unit, &value);
        if (r != 0)
                return r;
        value *= unit;

        scale = unit;
        for (size_t i = 0; i < fraction_len; i++) {
                scale /= 10;
                part += (uint64_t)(fraction[i] - '0') * scale;
        }

        *text = p;
        *nsec = value + part;
        return 0;
}

int number_parse_duration(const char *text, uint64_t *nsec) {
        uint64_t sum = 0, term;
        bool first = true;
        int r;

        for (;;) {
                r = parse_term(&text, first, &term);
                if (r != 0)
                        return r;
                if (term > DURATION_MAX - sum)
                        return NUMBER_TOO_LARGE;
                sum += term;
                if (*text == '\0')
                        break;
                first = false;
                while (*text == ' ')
                        text++;
        }

        *nsec = sum;
        return 0;
}

const char *number_format_duration(char buffer[static NUMBER_DURATION_MAX], uint64_t nsec) {
        static const struct {
                const char *name;
                uint64_t nsec;
        } large[] = { { "d", 86400 * NSEC_PER_SEC }, { "h", 3600 * NSEC_PER_SEC }, { "min", 60 * NSEC_PER_SEC } };
        const char *unit = "s";
        uint64_t scale = NSEC_PER_SEC;
        size_t n = 0;

        if (nsec >= 60 * NSEC_PER_SEC) {
                for (size_t i = 0; i < ARRAY_SIZE(large); i++) {
                        if (nsec < large[i].nsec)
                                continue;
                        n += (size_t)snprintf(buffer + n, NUMBER_DURATION_MAX - n, "%s%" PRIu64 "%s",
                                              n > 0 ? " " : "", nsec / large[i].nsec, large[i].name);
                        nsec %= large[i].nsec;
                }
                if (nsec >= NSEC_PER_SEC)
                        snprintf(buffer + n, NUMBER_DURATION_MAX - n, " %" PRIu64 "s", nsec / NSEC_PER_SEC);
                return buffer;
        }

        if (nsec > 0 && nsec < NSEC_PER_MSEC) {
                unit = "us";
                scale = NSEC_PER_USEC;
        } else if (nsec > 0 && nsec < NSEC_PER_SEC) {
                unit = "ms";
                scale = NSEC_PER_MSEC;
        }
        n = (size_t)snprintf(buffer, NUMBER_DURATION_MAX, "%" PRIu64 ".%03" PRIu64, nsec / scale,
                             nsec % scale * 1000 / scale);
        while (buffer[n - 1] == '0')
                n--;
        if (buffer[n - 1] == '.')
                n--;
        snprintf(buffer + n, NUMBER_DURATION_MAX - n, "%s", unit);
        return buffer;
}
