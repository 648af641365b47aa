#include "client/buffer.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

#define SIZE_MORE 256

void buffer_deinit(struct buffer *buffer) {
        free(buffer->data);
        *buffer = (struct buffer)BUFFER_NULL;
}

int buffer_reserve(struct buffer *buffer, size_t n) {
        size_t size = buffer->size * 2, needed = buffer->len + n;
        char *data;

        if (n <= buffer->size - buffer->len)
                return 0;
        if (n > SIZE_MAX / 4 || buffer->size > SIZE_MAX / 4)
                return -ENOMEM;
        size = MAX(size, needed + SIZE_MORE);
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
