#pragma once

/*
 * Completions of the OpenAI interface as JSON, both directions; and text that comes piece by piece. No I/O.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/json.h"

/* An answer, or a line of a stream, that is longer is none. */
#define TEXT_MAX (64u << 20)

/* All zero: empty. Behind `data` stands a NUL. */
struct text {
        char *data;
        size_t len;
        size_t size;
};

/* Returns false, and adds nothing: out of memory, or TEXT_MAX. */
bool text_add(struct text *text, const char *data, size_t len);

/* Harmless twice. */
void text_free(struct text *text);

/* What an answer that is no completion says, for the caller to free(). NULL: out of memory. */
char *completion_error(const json_t *json, long status);

/* The text of a completion, or NULL; the JSON's. */
json_t *completion_text(const json_t *json);

/*
 * The body of a completion request, for the caller to free(): what `options` (NULL: nothing) has, the model's name (or NULL),
 * and the prompt. NULL: out of memory, or the prompt is no UTF-8.
 */
char *completion_body(const json_t *options, const char *name, const char *prompt, size_t len, uint64_t max_tokens,
                      bool stream);
