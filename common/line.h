#pragma once

/*
 * A bounded buffer that lines and counted payloads are taken from.
 *
 * Does no I/O: the owner asks for space, reads into it, says how much there is now, takes what is whole,
 * and has the rest kept. While nothing is left over the buffer owns no memory, so an idle connection costs
 * the struct alone: the space then is a scratch area that its owner shares between many buffers.
 *
 *      line_space(&line, scratch, sizeof(scratch), &to, &n);
 *      n = recv(fd, to, n, 0);
 *      line_filled(&line, n);
 *      while (line_next(&line, &text, &len) == LINE_TAKEN)
 *              ...
 *      line_keep(&line);
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The longest line, without its end. */
#define LINE_MAX_LENGTH 1024

enum {
        LINE_TAKEN = 1,         /* a whole line, or payload */
        LINE_TOO_LONG,          /* a line over LINE_MAX_LENGTH begins here; it is dropped up to its LF */
        LINE_UNTERMINATED,      /* the payload is whole, and something else than a line end follows it */
};

struct line {
        char *data;             /* [start, end) are the bytes not yet taken; owned unless `borrowed` */
        size_t start;
        size_t end;
        size_t size;
        size_t mark;            /* where the last line began */
        size_t want;            /* bytes that the item at `start` is known to need, or 0 */
        uint64_t skip;          /* payload bytes still to be dropped */
        bool borrowed : 1;
        bool skip_end : 1;      /* and the line end behind them */
        bool draining : 1;      /* an over-long line is being dropped */
};

#define LINE_NULL { 0 }

void line_deinit(struct line *line);

/*
 * Where the next bytes go: into the buffer's own memory if something is kept there, else into `scratch`,
 * which is then borrowed until line_keep(). `*n` is at least 1.
 * Returns 0 or -ENOMEM, which leaves the buffer as it was.
 */
int line_space(struct line *line, char *scratch, size_t scratch_size, char **to, size_t *n);

/* `n` bytes were put where line_space() said. */
void line_filled(struct line *line, size_t n);

/*
 * Takes the next line: `*text` points at its `*len` bytes, without LF and without a CR before it, valid until
 * the next line_space() or line_keep().
 * Returns 0 if there is no whole line yet, LINE_TAKEN, or LINE_TOO_LONG once for each over-long line.
 */
int line_next(struct line *line, const char **text, size_t *len);

/*
 * Takes the payload of `n` bytes that follows the line just taken, and the line end behind it. If it is not
 * all there yet, the line is put back: line_next() gives it again when more has come.
 * Returns 0 if it was put back, LINE_TAKEN, or LINE_UNTERMINATED: what follows is then dropped up to its LF.
 */
int line_payload(struct line *line, size_t n, const char **payload);

/* Drops the payload of `n` bytes that follows the line just taken, and the line end behind it, as they come. */
void line_skip(struct line *line, uint64_t n);

/*
 * Ends a round: what was not taken is kept in memory of the buffer's own, which is given back if there is nothing.
 * Returns 0 or -ENOMEM, which loses what was not taken.
 */
int line_keep(struct line *line);

/* Input that is still to come and is to be dropped; for a buffer that goes on in another process. */
struct line_state {
        uint64_t skip;
        bool skip_end;
        bool draining;
};
struct line_state line_state(const struct line *line);
void line_set_state(struct line *line, const struct line_state *state);

/* The bytes that are there and were not taken. */
static inline const char *line_rest(const struct line *line) {
        return line->data + line->start;
}

/* How many bytes are there that were not taken. */
static inline size_t line_left(const struct line *line) {
        return line->end - line->start;
}
