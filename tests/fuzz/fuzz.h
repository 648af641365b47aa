#pragma once

/*
 * What the fuzz targets share. Each is one function, which libFuzzer calls with inputs that it makes up (`make fuzz`),
 * and replay.c with those of its corpus (`make check`). What does not hold ends the program.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline _Noreturn void fuzz_fail(const char *file, int line, const char *what) {
        fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
        abort();
}

#define expect(condition) ((condition) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #condition))

/* The input, from which choices are taken. */
struct input {
        const uint8_t *data;
        size_t len;
};

/* The next byte; 0 at the end. */
static inline uint8_t input_byte(struct input *input) {
        if (input->len == 0)
                return 0;
        input->len--;
        return *input->data++;
}

/* Text up to `end`, or all that is left, for the caller to free(); it has no NUL in it but the one behind it. */
static inline char *input_text(struct input *input, uint8_t end) {
        const uint8_t *found = input->len > 0 ? memchr(input->data, end, input->len) : NULL;
        size_t len = found ? (size_t)(found - input->data) : input->len, n = 0;
        char *text = malloc(len + 1);

        expect(text);
        for (size_t i = 0; i < len; i++)
                if (input->data[i])
                        text[n++] = (char)input->data[i];
        text[n] = '\0';
        input->data += len + (found != NULL);
        input->len -= len + (found != NULL);
        return text;
}
