#pragma once

/*
 * Standard output and standard error of one command: gathered into few writes, in the order in which it was
 * said, and a write that failed is remembered.
 */

#include <stdbool.h>
#include <stddef.h>

struct output {
        int error;              /* 0, or the -errno of the first write to standard output that failed */
        bool line_open;         /* the last line on standard output has no end yet */
};

#define OUTPUT_NULL { 0 }

/* Sets up the streams' buffers: before anything is written. */
void output_setup(void);

/* Each returns 0, or the -errno of the first write to standard output that failed. */
int output_write(struct output *output, const char *data, size_t len);
int output_end_line(struct output *output);
int output_flush(struct output *output);

/*
 * One printable line to standard error, whatever a daemon or a user has said, `mscli: ` in front of it. An open line on standard
 * output is ended first. output_advise(): one more, about what to do.
 */
void output_complain(struct output *output, const char *format, ...) __attribute__((format(printf, 2, 3)));
void output_advise(const char *format, ...) __attribute__((format(printf, 1, 2)));
