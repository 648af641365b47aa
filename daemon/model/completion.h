#pragma once

/*
 * Completions of the OpenAI interface as JSON, both directions; and text that comes piece by piece. No I/O.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/json.h"

/* An answer, or a line of a stream, that is longer is not held. */
#define TEXT_MAX (64u << 20)

/* All zero: empty. Behind `data` stands a NUL. */
struct text {
        char *data;
        size_t len;
        size_t size;
};

/* Returns 0; or -ENOMEM, or -EMSGSIZE for more than TEXT_MAX, and then nothing is added. */
int text_add(struct text *text, const char *data, size_t len);

/* Harmless twice. */
void text_free(struct text *text);

/* What an answer that is no completion says, for the caller to free(). NULL: out of memory. */
char *completion_error(const json_t *json, long status);

/* The answer to a prompt, as it comes. All zero but for `part`: nothing of it has come. */
struct completion {
        /* Of a stream: a part of the text has come. */
        void (*part)(struct completion *completion, const char *data, size_t len);
        struct text text;       /* of an answer that is no stream; or the line of a stream that is not whole yet */
        size_t scanned;         /* so many bytes of that line have no end of line */
        char *error;            /* what a stream said instead of a part */
        bool ended;             /* the stream said so */
};

/* Takes more of it. Returns 0; or -ENOMEM, or -EMSGSIZE for more than TEXT_MAX at once. */
int completion_take(struct completion *completion, bool is_stream, const char *data, size_t len);

/* Harmless twice, and for memory that is all zero. */
void completion_deinit(struct completion *completion);

/* The text of a completion, or NULL; the JSON's. */
json_t *completion_text(const json_t *json);

/*
 * The body of a completion request, for the caller to free(): what `options` (NULL: nothing) has, the model's name (or NULL),
 * and the prompt. NULL: out of memory, or the prompt is no UTF-8.
 */
char *completion_body(const json_t *options, const char *name, const char *prompt, size_t len, uint64_t max_tokens,
                      bool stream);
