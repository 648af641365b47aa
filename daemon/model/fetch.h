#pragma once

/*
 * HTTP requests to the upstream, in a reactor: libcurl's multi interface, without a thread of its own. Connections are
 * kept and used again.
 */

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>

#include "daemon/loop/reactor.h"

/* Where the upstream is. */
struct target {
        char base[512];         /* http://HOST:PORT, and perhaps a path */
        char socket[108];       /* a Unix socket's path; empty: none */
};

/* Reads http://HOST[:PORT][/PATH] or unix:PATH. Returns 0, or -EINVAL. */
int target_parse(struct target *target, const char *url);

#define FETCH_IDLE_MAX 64

struct fetcher {
        struct reactor *reactor;
        const struct target *target;
        CURLM *multi;
        struct timer timer;
        CURL *idle[FETCH_IDLE_MAX];     /* easy handles, to be used again: one costs more to make than a request does */
        unsigned idle_count;

};

/* `target` and `reactor` are borrowed. Returns 0 or -ENOMEM. */
int fetcher_init(struct fetcher *fetcher, struct reactor *reactor, const struct target *target);

/* No fetch is running any more. Harmless for memory that is all zero. */
void fetcher_deinit(struct fetcher *fetcher);

/* One request. Its owner embeds it; all zero: it does not run. */
struct fetch {
        struct fetcher *fetcher;
        CURL *easy;             /* NULL: it does not run */
        /* Some of the body has come. It may not end the fetch. Returns whether to go on. */
        bool (*data)(struct fetch *fetch, const char *data, size_t len);
        /* It has ended: `status` is that of HTTP, or 0 and `error` says what happened to the connection. */
        void (*done)(struct fetch *fetch, long status, const char *error);
        char error[CURL_ERROR_SIZE];
};

/*
 * GETs `path`, or POSTs `body` (not NULL), JSON of `len` bytes, which stays where it is until the end. `timeout`
 * nanoseconds for all of it; 0: none. Returns 0 or -ENOMEM.
 */
int fetch_start(struct fetch *fetch, struct fetcher *fetcher, const char *path, const char *body, size_t len,
                uint64_t timeout);

/* Ends it without a word; not from within `data`. Harmless if it does not run. */
void fetch_cancel(struct fetch *fetch);

static inline bool fetch_is_running(const struct fetch *fetch) {
        return fetch->easy != NULL;
}

/* The status that has come, in `data`. */
long fetch_status(const struct fetch *fetch);
