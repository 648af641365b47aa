#pragma once

/*
 * Bearer keys, from a file: one a line. Empty lines do not count. They are never logged.
 */

#include <stddef.h>

#define KEYS_FILE_MAX 65536

struct keys {
        char *text;             /* what the keys point into */
        const char **keys;
        size_t count;
};

enum {
        KEYS_MALFORMED = 1,     /* a key with a space or control byte in it; or there is none */
        KEYS_TOO_LARGE,         /* over KEYS_FILE_MAX bytes */
};

/* Reads the keys of `path`. keys_deinit() is due when this returns 0. Returns 0, one of the above, or -errno. */
int keys_read(struct keys *keys, const char *path);

/* Wipes and frees them. Harmless for memory that is all zero. */
void keys_deinit(struct keys *keys);
