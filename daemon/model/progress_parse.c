#include <ctype.h>
#include <string.h>

#include "common/util.h"
#include "daemon/model/progress.h"

/* A line that says how far a load is, is not longer. */
#define LINE_MAX 512

/* llama.cpp writes this many dots for the whole of a load, at the most. */
#define DOTS_MAX 100

/* What was drawn last, of `len` bytes at `text`, in small letters. */
static void last_drawn(const char *text, size_t len, char line[static LINE_MAX]) {
        size_t end = len, begin, n = 0;

        while (end > 0 && (text[end - 1] == '\r' || text[end - 1] == '\n'))
                end--;
        for (begin = end; begin > 0 && text[begin - 1] != '\r'; begin--)
                ;
        for (; begin < end && n < LINE_MAX - 1; begin++)
                if (text[begin])
                        line[n++] = (char)tolower((unsigned char)text[begin]);
        line[n] = '\0';
}

/* Reads a number without a sign, of at most six digits on either side of the point. Returns its end, or NULL. */
static const char *take_number(const char *text, double *number, bool *has_point) {
        double scale = 1, value = 0;
        unsigned digits = 0;

        for (; isdigit((unsigned char)*text); text++) {
                value = value * 10 + (*text - '0');
                if (++digits > 6)
                        return NULL;
        }
        if (digits == 0)
                return NULL;
        *has_point = *text == '.' && isdigit((unsigned char)text[1]);
        if (*has_point)
                for (text++; isdigit((unsigned char)*text); text++) {
                        scale /= 10;
                        value += (*text - '0') * scale;
                }
        *number = value;
        return text;
}

/* The first percentage of the line, as a fraction. */
static double find_percentage(const char *line) {
        for (const char *sign = line; (sign = strchr(sign, '%')); sign++) {
                const char *begin = sign, *end;
                bool has_point;
                double number;

                while (begin > line && begin[-1] == ' ' && sign - begin < 1)
                        begin--;
                end = begin;
                while (begin > line && (isdigit((unsigned char)begin[-1]) || begin[-1] == '.'))
                        begin--;
                /* One that is part of a word, or has a sign, is none. */
                if (begin == end || (begin > line && (isalnum((unsigned char)begin[-1]) || begin[-1] == '-' || begin[-1] == '_')))
                        continue;
                if (take_number(begin, &number, &has_point) == end && number <= 100)
                        return number / 100;
        }
        return PROGRESS_UNKNOWN;
}

/* "load progress 0.45", "progress": 0.45 */
static double find_progress(const char *line) {
        static const char word[] = "progress";

        for (const char *found = line; (found = strstr(found, word));) {
                bool has_point;
                double number;
                const char *end;

                found += strlen(word);
                end = take_number(found + strspn(found, " :=\"'"), &number, &has_point);
                if (end && *end != '%' && number <= 1 && (has_point || number == 0 || number == 1))
                        return number;
        }
        return PROGRESS_UNKNOWN;
}

static bool has_any(const char *line, const char *const *words) {
        for (; *words; words++)
                if (strstr(line, *words))
                        return true;
        return false;
}

double progress_parse_line(const char *text, size_t len) {
        static const char *const of_a_load[] = { "load", "shard", "checkpoint", "weights", "tensors", NULL };
        /* What else servers say percentages of: what they take, and what comes before and after the load. */
        static const char *const of_another[] = { "memory",  "util",     "usage", "cache", "captur", "compil",
                                                  "warm",    "download", "fetch", "gpu_",  "error",  NULL };
        char line[LINE_MAX];
        double fraction;

        last_drawn(text, len, line);
        if (!has_any(line, of_a_load) || has_any(line, of_another))
                return PROGRESS_UNKNOWN;
        fraction = find_percentage(line);
        return fraction >= 0 ? fraction : find_progress(line);
}

double progress_parse_status(const char *text) {
        char line[LINE_MAX];
        double fraction;

        last_drawn(text, strlen(text), line);
        fraction = find_percentage(line);
        return fraction >= 0 ? fraction : find_progress(line);
}

double progress_parse_dots(const char *text, size_t len) {
        if (len == 0 || len > DOTS_MAX)
                return PROGRESS_UNKNOWN;
        for (size_t i = 0; i < len; i++)
                if (text[i] != '.')
                        return PROGRESS_UNKNOWN;
        return (double)len / DOTS_MAX;
}
