#include "client/buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

#define SIZE_MIN 256

void buffer_deinit(struct buffer *buffer) {
        free(buffer->data);
        *buffer = (struct buffer)BUFFER_NULL;
}

int buffer_reserve(struct buffer *buffer, size_t n) {
        size_t size, needed;
        char *data;

        if (n <= buffer->size - buffer->len)
                return 0;
        if (__builtin_add_overflow(buffer->len, n, &needed) || __builtin_mul_overflow(buffer->size, 2, &size))
                return -ENOMEM;
        size = MAX(MAX(size, needed), (size_t)SIZE_MIN);
        data = realloc(buffer->data, size);
        if (!data)
                return -ENOMEM;
        buffer->data = data;
        buffer->size = size;
        return 0;
}

int buffer_append(struct buffer *buffer, const char *data, size_t n) {
        int r;

        if (n == 0)
                return 0;
        r = buffer_reserve(buffer, n);
        if (r < 0)
                return r;
        memcpy(buffer->data + buffer->len, data, n);
        buffer->len += n;
        return 0;
}
