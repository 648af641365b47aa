#pragma once

/*
 * What a request is made of beside the options: the IDs and the prompt, read from arguments, files and
 * standard input.
 */

#include <stddef.h>
#include <stdint.h>

#include "client/buffer.h"
#include "client/options.h"

enum {
        INPUT_WRONG = 1,        /* it is not what it has to be, or cannot be read */
        INPUT_TIMED_OUT,        /* standard input has not ended in time */
};

struct input {
        struct buffer ids;      /* each with a NUL behind it */
        size_t ids_count;
        struct buffer prompt_file;
        const char *prompt;     /* into `prompt_file` or into the options; NULL: none is given */
        size_t prompt_len;
};

#define INPUT_NULL { .ids = BUFFER_NULL, .prompt_file = BUFFER_NULL }

/*
 * Gathers what `options` say, until `deadline` (0: none). `input` must be INPUT_NULL; it may point into the
 * options.
 * Returns 0, INPUT_WRONG with what is wrong in `error`, INPUT_TIMED_OUT, or -ENOMEM.
 */
int input_gather(struct input *input, const struct options *options, uint64_t deadline, char *error,
                 size_t error_size);

void input_deinit(struct input *input);
