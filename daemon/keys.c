#include "daemon/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

/* Returns how many bytes were read, at most KEYS_FILE_MAX + 1, or -errno. */
static ssize_t read_file(int fd, char *text) {
        size_t len = 0;

        while (len <= KEYS_FILE_MAX) {
                ssize_t n = UTIL_RETRY(read(fd, text + len, KEYS_FILE_MAX + 1 - len));

                if (n < 0)
                        return -errno;
                if (n == 0)
                        break;
                len += (size_t)n;
        }
        return (ssize_t)len;
}

/* Cuts the text into keys. Returns 0, KEYS_MALFORMED or -ENOMEM. */
static int split(struct keys *keys, size_t len) {
        size_t lines = 1;

        if (memchr(keys->text, '\0', len))
                return KEYS_MALFORMED;
        for (size_t i = 0; i < len; i++)
                lines += keys->text[i] == '\n';
        keys->keys = calloc(lines, sizeof(*keys->keys));
        if (!keys->keys)
                return -ENOMEM;
        for (char *line = keys->text, *end; line; line = end) {
                size_t line_len;

                end = strchr(line, '\n');
                if (end)
                        *end++ = '\0';
                line_len = strlen(line);
                if (line_len > 0 && line[line_len - 1] == '\r')
                        line[--line_len] = '\0';
                for (size_t i = 0; i < line_len; i++)
                        if (line[i] <= ' ' || line[i] == 0x7f)
                                return KEYS_MALFORMED;
                if (line_len > 0)
                        keys->keys[keys->count++] = line;
        }
        return keys->count > 0 ? 0 : KEYS_MALFORMED;
}

int keys_read(struct keys *keys, const char *path) {
        /* Not to wait for who writes into a FIFO. */
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        ssize_t len;
        int r;

        *keys = (struct keys){ 0 };
        if (fd < 0)
                return -errno;
        keys->text = calloc(1, KEYS_FILE_MAX + 2);
        if (!keys->text)
                return -ENOMEM;
        len = read_file(fd, keys->text);
        if (len < 0)
                r = (int)len;
        else if (len > KEYS_FILE_MAX)
                r = KEYS_TOO_LARGE;
        else
                r = split(keys, (size_t)len);
        if (r != 0)
                keys_deinit(keys);
        return r;
}

void keys_deinit(struct keys *keys) {
        if (keys->text)
                explicit_bzero(keys->text, KEYS_FILE_MAX + 2);
        free(STEAL_POINTER(keys->text));
        free(STEAL_POINTER(keys->keys));
        keys->count = 0;
}
