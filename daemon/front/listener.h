#pragma once

/*
 * A listening socket: made, and watched by every worker. Out of descriptors it is left alone until there are some
 * again; who connects meanwhile waits in its backlog, and is not lost.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/loop/reactor.h"

/* A socket that the daemon itself has made, or an inherited one. */
struct listener_socket {
        int fd;
        const char *path;               /* of a Unix socket that was made, borrowed */
        int file;                       /* O_PATH: its file; -1: there is none that is ours to unlink */
        bool made;                      /* not inherited */
};

#define LISTENER_SOCKET_NULL { .fd = -1, .file = -1 }

enum {
        LISTENER_IN_USE = 1,            /* a live daemon answers there */
        LISTENER_NOT_A_SOCKET,          /* there is a file, and it is none */
        LISTENER_PATH_EMPTY,
        LISTENER_PATH_TOO_LONG,
};

/*
 * Binds and listens at `path`. A socket file that nobody listens at is replaced; nothing else is.
 * Returns 0, one of the above, or -errno.
 */
int listener_socket_open(struct listener_socket *listening, const char *path);

/* Those that are for HTTP. */
#define LISTENER_SET_MAX 8
struct listener_set {
        struct listener_socket sockets[LISTENER_SET_MAX];
        unsigned count;
};

/*
 * Binds and listens at `address`: unix:PATH, HOST:PORT, or *:PORT for all addresses of this host. A HOST may stand for
 * several; each is one more of the set. Returns 0, one of the above, -EINVAL for what is no address, -E2BIG if the set is
 * full, or another -errno; what is wrong with HOST is in `why`, or NULL.
 */
int listener_set_open(struct listener_set *set, const char *address, const char **why);
void listener_set_close(struct listener_set *set);

/* Where it listens, as an address of HTTP. */
#define LISTENER_ADDRESS_MAX 160
const char *listener_socket_address(const struct listener_socket *listening, char buffer[static LISTENER_ADDRESS_MAX]);

/* Closes it; unlinks its file, if that still is the one. Harmless twice. */
void listener_socket_close(struct listener_socket *listening);

/* What all listeners of a daemon share. */
struct listener_limit {
        uint64_t max;
        atomic_uint_fast64_t connections;       /* that there are, or are about to be */
};

/* One worker's watch of it. */
struct listener {
        struct watch watch;
        struct reactor *reactor;
        struct listener_limit *limit;
        struct timer retry;
        int fd;
        unsigned failures;                      /* so often in a row there was none to accept */
        bool said;                              /* that none can be accepted */
        bool ended;                             /* it is not to be watched again */
        /* Takes over `fd`, which counts against the limit until listener_release(). */
        void (*accepted)(struct listener *listener, int fd);
        void *user;
};

#define LISTENER_NULL { .watch = WATCH_NULL, .fd = -1 }

/* `fd` and `limit` are borrowed. Returns 0 or -errno. */
int listener_init(struct listener *listener, struct reactor *reactor, int fd, struct listener_limit *limit,
                  void (*accepted)(struct listener *listener, int fd));
void listener_deinit(struct listener *listener);

/* A connection has ended: there is room again. */
void listener_release(struct listener *listener);

/* Of what counts against the same limit: accepts again if it had to stop. */
void listener_resume(struct listener *listener);
