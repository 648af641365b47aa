#pragma once

/*
 * Waits until there may be a daemon at a path, by inotify(7): on the directory of the socket, or on the nearest one above it
 * that exists.
 */

#include <stdint.h>

struct await {
        int fd;                 /* owned */
        unsigned retries;       /* since the last event */
};

#define AWAIT_NULL { .fd = -1, .retries = 0 }

/* Returns 0 or -errno. */
int await_init(struct await *await);
void await_deinit(struct await *await);

/*
 * Watches `path`. Anything that happens there afterwards ends the next await_change(), so it is called before each attempt to
 * connect. Returns 0, or -errno: no event would come.
 */
int await_watch(struct await *await, const char *path);

/*
 * Waits until it is worthwhile to connect again to one of `paths`, up to NULL; `error` is what connecting came to. Returns 0,
 * SESSION_TIMED_OUT at `deadline`, or -errno.
 */
int await_change(struct await *await, const char *const *paths, int error, uint64_t deadline);
