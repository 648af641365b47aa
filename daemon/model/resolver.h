#pragma once

/*
 * Where the upstream is: its URL, and the addresses of its host. A name is looked up by a thread of its own, for
 * getaddrinfo(3) blocks; an address that is written as such, and the path of a Unix socket, need none.
 */

#include <stdbool.h>
#include <sys/socket.h>

#include "daemon/loop/reactor.h"

/* A URL, in parts. */
struct target {
        char base[512];         /* http://HOST[:PORT] */
        char path[512];         /* what stands before every path; may be empty */
        char socket[108];       /* a Unix socket's path; empty: none */
        char host[256];         /* without the brackets of IPv6 */
        char port[6];
};

/* Reads http://HOST[:PORT][/PATH] or unix:PATH. Returns 0, or -EINVAL. */
int target_parse(struct target *target, const char *url);

/* What stands in the Host field of msd's own requests. */
const char *target_authority(const struct target *target);

struct endpoint {
        struct sockaddr_storage address;
        socklen_t len;
};

#define RESOLVER_ENDPOINTS_MAX 8

struct lookup;

/* Its owner embeds it; all zero: it does not run. */
struct resolver {
        struct lookup *lookup;          /* NULL: it does not run */
        /* A lookup has ended: with `count` endpoints, or 0 and `error`. */
        void (*resolved)(struct resolver *resolver, const char *error);
        struct endpoint endpoints[RESOLVER_ENDPOINTS_MAX];      /* in the order in which they are to be tried */
        unsigned count;
};

enum {
        RESOLVER_PENDING = 1,   /* `resolved` will be called */
};

/*
 * Finds the endpoints of `target`, of which what is needed is copied. Returns 0, and they are there; RESOLVER_PENDING; or
 * -errno: of pthread_create(3), eventfd(2) or epoll_ctl(2).
 */
int resolver_start(struct resolver *resolver, struct reactor *reactor, const struct target *target);

/* Ends a lookup without a word: its thread goes on for itself. Harmless if none runs. */
void resolver_cancel(struct resolver *resolver);
