#pragma once

/*
 * Why a program has failed, out of the last lines that it wrote. The line that names the cause stands somewhere before those
 * that name what follows from it: a traceback, and what gave up because of it. Pure: no I/O, no allocation.
 */

#include <stddef.h>

#define CAUSE_LINES 50
#define CAUSE_LINE_MAX 320

/* All zero: no lines. */
struct cause {
        struct {
                char text[CAUSE_LINE_MAX];
                unsigned char weight;           /* how likely it is that it names the cause */
        } lines[CAUSE_LINES];                   /* a ring */
        unsigned next;
        unsigned count;
};

void cause_clear(struct cause *cause);

/*
 * Takes a line, of standard output or standard error. Of a progress bar, whose states are divided by carriage returns, it is the
 * last state that counts. Blank lines, and the places in a traceback, are no candidates.
 */
void cause_add(struct cause *cause, const char *line, size_t len);

/* The line that names the cause, or else the last one. Empty: there are no lines. */
const char *cause_line(const struct cause *cause);

/* The line that names the cause, and the last ones but for that, each with an LF. Writes as many as there is room for. */
#define CAUSE_SUMMARY_LINES 5
void cause_summary(const struct cause *cause, char *text, size_t size);
