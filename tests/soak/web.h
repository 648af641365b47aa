#pragma once

/*
 * Answers of HTTP, taken from bytes as they come. Pure: no I/O.
 */

#include <stdbool.h>
#include <stddef.h>

struct bytes {
        char *data;
        size_t len;
        size_t size;
};

struct web {
        struct bytes input;
        size_t taken;           /* of the input */
        bool in_body;
        unsigned status;        /* of the answer that is there, or under way */
        bool chunked;
        bool until_end;         /* the body goes on until the connection ends */
        bool streams;           /* it is text/event-stream */
        size_t left;            /* of the body, or of a chunk */
        struct bytes body;
};

void bytes_add(struct bytes *bytes, const char *data, size_t len);
void bytes_deinit(struct bytes *bytes);

void web_deinit(struct web *web);

/* So many bytes have come. */
void web_add(struct web *web, const char *data, size_t len);

/* Takes the next answer: `status` and `body`, until the next call. Returns 1, 0 if it is not whole yet, -1 if it is none. */
int web_take(struct web *web);

/* The connection has ended. Returns whether that is the end of an answer, too, which then is as of web_take(). */
bool web_end(struct web *web);

/* Whether something of an answer is there. */
static inline bool web_is_amid(const struct web *web) {
        return web->in_body || web->input.len > web->taken;
}

/* The text that the body of a completion, a chat, or a stream of one of them says. Returns whether it is one, and whole. */
bool web_text(const struct web *web, bool stream, bool chat, struct bytes *text);

/* The code of the error that the body says: empty if it has none. */
#define WEB_CODE_MAX 32
void web_code(const struct web *web, char code[static WEB_CODE_MAX]);
