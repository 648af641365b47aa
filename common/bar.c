#include "common/bar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"

#define CELLS_MIN 10
#define CELLS_MAX 30

#define COLUMNS_DEFAULT 80
#define COLUMNS_MAX 500

#define GREEN "\033[32m"
#define PLAIN "\033[0m"

/* As exact as anybody can know it. */
static uint64_t rounded(uint64_t nsec) {
        const uint64_t unit = nsec >= 600 * NSEC_PER_SEC ? 60 * NSEC_PER_SEC :
                              nsec >= 60 * NSEC_PER_SEC  ? 5 * NSEC_PER_SEC :
                                                           NSEC_PER_SEC;

        return MAX((nsec + unit - 1) / unit * unit, NSEC_PER_SEC);
}

size_t bar_words(char buffer[static BAR_WORDS_MAX], double fraction, int64_t left) {
        char time[NUMBER_DURATION_MAX];
        size_t n = 0;

        buffer[0] = '\0';
        if (fraction >= 0)
                n = (size_t)snprintf(buffer, BAR_WORDS_MAX, "%d %%", (int)(MIN(fraction, 1.0) * 100));
        if (left >= 0)
                n += (size_t)snprintf(buffer + n, BAR_WORDS_MAX - n, "%sabout %s left", n > 0 ? ", " : "",
                                      number_format_duration(time, rounded((uint64_t)left)));
        return n;
}

size_t bar_line(char buffer[static BAR_LINE_MAX], double fraction, const char *text, size_t columns, bool colour) {
        const size_t beside = sizeof("[] ") - 1 + strlen(text);
        size_t n = 0, cells = 0, full;

        columns = MIN(columns, (size_t)COLUMNS_MAX);
        if (fraction >= 0 && columns >= beside + CELLS_MIN)
                cells = MIN(columns - beside, (size_t)CELLS_MAX);
        if (cells > 0) {
                full = MIN((size_t)(fraction * (double)cells), cells);
                n = (size_t)snprintf(buffer, BAR_LINE_MAX, "[%s", colour ? GREEN : "");
                for (size_t i = 0; i < cells; i++)
                        buffer[n++] = i < full ? '#' : '.';
                n += (size_t)snprintf(buffer + n, BAR_LINE_MAX - n, "%s] ", colour ? PLAIN : "");
                columns -= cells + 3;
        }
        for (; columns > 0 && *text; columns--, text++)
                buffer[n++] = (unsigned char)*text >= 0x20 && (unsigned char)*text < 0x7f ? *text : '?';
        buffer[n] = '\0';
        return n;
}

size_t bar_columns(int fd) {
        struct winsize size = { 0 };

        /* In the last column the cursor may wrap. */
        if (ioctl(fd, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
                return COLUMNS_DEFAULT - 1;
        return (size_t)size.ws_col - 1;
}

bool bar_is_for(int fd) {
        const char *term = getenv("TERM");

        return isatty(fd) && !(term && strcmp(term, "dumb") == 0);
}

bool bar_has_colour(void) {
        const char *no_colour = getenv("NO_COLOR");

        return !(no_colour && *no_colour);
}
