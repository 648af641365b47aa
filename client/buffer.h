#pragma once

/*
 * Bytes that grow.
 */

#include <stddef.h>

struct buffer {
        char *data;
        size_t len;
        size_t size;
};

#define BUFFER_NULL { 0 }

void buffer_deinit(struct buffer *buffer);

/* Has room for `n` bytes behind those there are. Returns 0 or -ENOMEM, which leaves the buffer as it was. */
int buffer_reserve(struct buffer *buffer, size_t n);

/* Appends `n` bytes. Returns 0 or -ENOMEM, which leaves the buffer as it was. */
int buffer_append(struct buffer *buffer, const char *data, size_t n);
