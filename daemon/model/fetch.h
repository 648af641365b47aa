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
        char base[512];         /* http://HOST:PORT */
        char path[512];         /* what stands before every path; may be empty */
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
        struct list running;            /* all fetches */
        struct list blocked;            /* fetches that the upstream's backlog has no room for */
        struct list unwatched;          /* fetches whose socket cannot be watched: they are about to fail */
        struct timer retry;
        CURL *idle[FETCH_IDLE_MAX];     /* easy handles, to be used again: one costs more to make than a request does */
        unsigned idle_count;
};

/*
 * `target` and `reactor` are borrowed. `max` connections at once at the most, what is more waits; 0: any number. Returns 0
 * or -ENOMEM.
 */
int fetcher_init(struct fetcher *fetcher, struct reactor *reactor, const struct target *target, uint64_t max);

/* No fetch is running any more. Harmless for memory that is all zero. */
void fetcher_deinit(struct fetcher *fetcher);

/* One request. Its owner embeds it; all zero: it does not run. */
struct fetch {
        struct fetcher *fetcher;
        CURL *easy;             /* NULL: it does not run */
        /* A line of the head has come, without its end; empty: the last one. Or NULL. Otherwise as `data`. */
        bool (*line)(struct fetch *fetch, const char *line, size_t len);
        /* Some of the body has come. It may not end the fetch. Returns whether to go on. */
        bool (*data)(struct fetch *fetch, const char *data, size_t len);
        /* It has ended: `status` is that of HTTP, or 0 and `error` says what happened to the connection. */
        void (*done)(struct fetch *fetch, long status, const char *error);
        struct curl_slist *fields;
        struct list link;
        struct list blocked;
        bool is_blocked;
        uint64_t deadline;
        char error[CURL_ERROR_SIZE];
};

/* All is borrowed until the end. */
struct fetch_request {
        const char *method;             /* NULL: POST if there is a body, otherwise GET */
        const char *path;               /* with its query */
        const char *body;               /* NULL: none */
        size_t body_len;
        /* "Name: value", and no others but Host and Content-Length; NULL: those of JSON */
        const char *const *fields;
        size_t field_count;
        uint64_t timeout;               /* nanoseconds for all of it; 0: none */
};

/* Returns 0 or -ENOMEM. */
int fetch_start(struct fetch *fetch, struct fetcher *fetcher, const struct fetch_request *request);

/* Ends it without a word; not from within `line` or `data`. Harmless if it does not run. */
void fetch_cancel(struct fetch *fetch);

/* Stops the body from coming, or lets it come again: then `data` may be called from here. */
void fetch_pause(struct fetch *fetch, bool paused);

static inline bool fetch_is_running(const struct fetch *fetch) {
        return fetch->easy != NULL;
}

/* The status that has come, in `line` and `data`. */
long fetch_status(const struct fetch *fetch);
