#include "common/line.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

/* What a buffer that keeps something has room for at least. */
#define SPACE_MIN 512

static void line_drop(struct line *line) {
        if (!line->borrowed)
                free(line->data);
        line->data = NULL;
        line->start = line->end = line->size = line->mark = line->want = 0;
        line->borrowed = false;
}

void line_deinit(struct line *line) {
        line_drop(line);
        *line = (struct line)LINE_NULL;
}

int line_space(struct line *line, char *scratch, size_t scratch_size, char **to, size_t *n) {
        assert(!line->borrowed);

        if (!line->data) {
                line->data = scratch;
                line->size = scratch_size;
                line->borrowed = true;
        } else if (line->size - line->end < SPACE_MIN) {
                size_t left = line_left(line);

                if (line->start > 0) {
                        memmove(line->data, line->data + line->start, left);
                        line->start = 0;
                        line->end = left;
                }
                if (line->size - line->end < SPACE_MIN) {
                        /* Doubled as the bytes come, never by what was only announced. */
                        size_t size = MAX(line->size * 2, left + SPACE_MIN);
                        char *data;

                        if (line->want > left)
                                size = MIN(size, MAX(line->want, left + SPACE_MIN));
                        data = realloc(line->data, size);
                        if (!data)
                                return -ENOMEM;
                        line->data = data;
                        line->size = size;
                }
        }
        *to = line->data + line->end;
        *n = line->size - line->end;
        return 0;
}

void line_filled(struct line *line, size_t n) {
        line->end += n;
}

/* Drops what is to be dropped of what is there. Returns whether the buffer now stands at the begin of a line. */
static bool line_settle(struct line *line) {
        if (line->skip > 0) {
                size_t n = (size_t)MIN(line->skip, (uint64_t)line_left(line));

                line->start += n;
                line->skip -= n;
                if (line->skip > 0)
                        return false;
        }
        if (line->skip_end) {
                size_t left = line_left(line);
                const char *p = line->data + line->start;

                if (left == 0 || (*p == '\r' && left == 1))
                        return false;
                line->skip_end = false;
                if (*p == '\n')
                        line->start += 1;
                else if (*p == '\r' && p[1] == '\n')
                        line->start += 2;
                else
                        line->draining = true;
        }
        if (line->draining) {
                const char *end = memchr(line->data + line->start, '\n', line_left(line));

                if (!end) {
                        line->start = line->end;
                        return false;
                }
                line->start = (size_t)(end - line->data) + 1;
                line->draining = false;
        }
        return true;
}

int line_next(struct line *line, const char **text, size_t *len) {
        const char *begin, *end;
        size_t left, n;

        if (line_left(line) == 0 || !line_settle(line))
                return 0;

        begin = line->data + line->start;
        left = line_left(line);
        /* One byte for a CR, one for the LF. */
        end = memchr(begin, '\n', MIN(left, (size_t)LINE_MAX_LENGTH + 2));
        n = end ? (size_t)(end - begin) : left;
        if (n > 0 && begin[n - 1] == '\r')
                n--;
        if (n > LINE_MAX_LENGTH) {
                line->draining = true;
                (void)line_settle(line);
                return LINE_TOO_LONG;
        }
        if (!end)
                return 0;

        line->mark = line->start;
        line->want = 0;
        line->start = (size_t)(end - line->data) + 1;
        *text = begin;
        *len = n;
        return LINE_TAKEN;
}

int line_payload(struct line *line, size_t n, const char **payload) {
        size_t left = line_left(line);
        const char *p = line->data + line->start;

        if (left <= n || (p[n] == '\r' && left == n + 1)) {
                line->want = line->start - line->mark + n + 2;
                line->start = line->mark;
                return 0;
        }

        *payload = p;
        line->start += n;
        line->skip_end = true;
        (void)line_settle(line);
        return p[n] == '\n' || (p[n] == '\r' && p[n + 1] == '\n') ? LINE_TAKEN : LINE_UNTERMINATED;
}

void line_skip(struct line *line, uint64_t n) {
        line->skip = n;
        line->skip_end = true;
        (void)line_settle(line);
}

int line_keep(struct line *line) {
        size_t left = line_left(line);
        char *data;

        if (left == 0) {
                line_drop(line);
                return 0;
        }
        if (!line->borrowed)
                return 0;

        data = malloc(left + SPACE_MIN);
        if (!data) {
                line_drop(line);
                return -ENOMEM;
        }
        memcpy(data, line->data + line->start, left);
        line->mark = 0;
        line->data = data;
        line->start = 0;
        line->end = left;
        line->size = left + SPACE_MIN;
        line->borrowed = false;
        return 0;
}

struct line_state line_state(const struct line *line) {
        return (struct line_state){ line->skip, line->skip_end, line->draining };
}

void line_set_state(struct line *line, const struct line_state *state) {
        line->skip = state->skip;
        line->skip_end = state->skip_end;
        line->draining = state->draining;
}
