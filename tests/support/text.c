#include "tests/support/text.h"

#include <check.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/util.h"

void text_deinit(struct text *text) {
        free(text->data);
        *text = (struct text)TEXT_NULL;
}

/* Makes room for `n` bytes more, and the NUL. */
static void text_reserve(struct text *text, size_t n) {
        if (text->size - text->len > n)
                return;
        text->size = MAX(text->size * 2, text->len + n + 1);
        text->data = realloc(text->data, text->size);
        ck_assert_ptr_nonnull(text->data);
}

void text_append(struct text *text, const void *data, size_t n) {
        text_reserve(text, n);
        if (n > 0)
                memcpy(text->data + text->len, data, n);
        text->len += n;
        text->data[text->len] = '\0';
}

void text_appendf(struct text *text, const char *format, ...) {
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(NULL, 0, format, ap);
        va_end(ap);
        ck_assert_int_ge(n, 0);

        text_reserve(text, (size_t)n);
        va_start(ap, format);
        n = vsnprintf(text->data + text->len, text->size - text->len, format, ap);
        va_end(ap);
        text->len += (size_t)n;
}

void text_take(struct text *text, size_t n) {
        if (n == 0)
                return;
        ck_assert_uint_le(n, text->len);
        text->len -= n;
        memmove(text->data, text->data + n, text->len + 1);
}

ssize_t text_read(struct text *text, int fd) {
        ssize_t n;

        text_reserve(text, 65536);
        n = read(fd, text->data + text->len, text->size - text->len - 1);
        if (n < 0)
                n = -errno;
        else
                text->len += (size_t)n;
        text->data[text->len] = '\0';
        return n;
}

size_t text_lines(const struct text *text) {
        size_t lines = 0;

        for (size_t i = 0; i < text->len; i++)
                lines += text->data[i] == '\n';
        return lines;
}

int text_has_line(const struct text *text, const char *line) {
        size_t len = strlen(line);
        const char *p = text_get(text);

        while ((p = strstr(p, line))) {
                if ((p == text->data || p[-1] == '\n') && p[len] == '\n')
                        return 1;
                p++;
        }
        return 0;
}
