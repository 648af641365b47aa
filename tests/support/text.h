#pragma once

/*
 * Bytes that come piece by piece, kept with a final NUL.
 */

#include <stddef.h>
#include <sys/types.h>

struct text {
        char *data;             /* NULL, or `len` bytes and a NUL */
        size_t len;
        size_t size;
};

#define TEXT_NULL { 0 }

void text_deinit(struct text *text);

void text_append(struct text *text, const void *data, size_t n);
void text_appendf(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Drops the first `n` bytes. */
void text_take(struct text *text, size_t n);

/* Reads once from `fd`. Returns how many bytes came, 0 at the end, or -errno. */
ssize_t text_read(struct text *text, int fd);

/* How many lines there are. */
size_t text_lines(const struct text *text);

/* Whether `line` is one of the lines. */
int text_has_line(const struct text *text, const char *line);

static inline const char *text_get(const struct text *text) {
        return text->data ? text->data : "";
}
