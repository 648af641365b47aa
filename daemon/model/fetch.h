#pragma once

/*
 * One request of msd's own to the model: probes, warm-up, /v1/models. From the main thread, over a fresh connection each.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/model/completion.h"
#include "daemon/model/resolver.h"
#include "daemon/net/http.h"
#include "daemon/net/socket.h"

struct fetcher {
        struct reactor *reactor;
        const struct target *target;
        struct socket_group sockets;
        struct resolver resolver;
        struct list waiting;            /* fetches that need to know the endpoints */
        unsigned current;               /* the endpoint that is tried first: the last one to which there was a connection */
        bool reached;                   /* there was one, since the endpoints were found */
        bool settled;
        uint64_t resolved_at;
};

/* `target` and `reactor` are borrowed. */
void fetcher_init(struct fetcher *fetcher, struct reactor *reactor, const struct target *target);

/* No fetch is running any more. Harmless for memory that is all zero. */
void fetcher_deinit(struct fetcher *fetcher);

/* The endpoints are looked up anew for the next fetch. */
void fetcher_forget(struct fetcher *fetcher);

/*
 * Which endpoint the upstream has: the only one, or the one to which there was a connection. From now on fetches are with that
 * one alone, until fetcher_forget(). NULL: it is not known yet; a fetch finds it.
 */
const struct endpoint *fetcher_settle(struct fetcher *fetcher);

/* One request. Its owner embeds it; all zero: it does not run. */
struct fetch {
        struct fetcher *fetcher;        /* NULL: it does not run */
        /* Some of the body has come. It may not end the fetch. Returns whether to go on. */
        bool (*data)(struct fetch *fetch, const char *data, size_t len);
        /* It has ended: `status` is that of HTTP, or 0 and `error` says why there is none. */
        void (*done)(struct fetch *fetch, unsigned status, const char *error);
        struct list waiting;
        struct socket socket;
        struct job connect;
        struct timer timeout;
        struct timer retry;
        uint64_t time;                  /* nanoseconds for all of it; 0: any */
        struct text request;
        struct text head;               /* what there is of the answer's, while it is not whole */
        struct http_body body;
        unsigned tries;                 /* endpoints that were tried */
        unsigned endpoint;              /* the one that is tried */
        unsigned status;
        int error;                      /* of the connection: -errno */
        bool connected;
        bool ended;
        const char *refused;            /* why the answer is none */
};

/* All is borrowed, and not needed any more when the fetch has begun. */
struct fetch_request {
        const char *path;               /* with its query */
        const char *body;               /* JSON, for POST; NULL: GET */
        size_t body_len;
        const char *host;               /* the Host field; NULL: that of the URL */
        const char *key;                /* a bearer key, or NULL */
        uint64_t timeout;               /* nanoseconds for all of it; 0: any */
};

/*
 * Writes the head of a request of msd's own, `close`: the last one of its connection. Returns its length, and if that is not
 * below `size` it is not all there; as snprintf(3).
 */
size_t fetch_write_head(char *to, size_t size, const struct target *target, const struct fetch_request *request, bool close);

/* Returns 0 or -errno: -ENOMEM, or that of resolver_start(). `done` is not called from here. */
int fetch_start(struct fetch *fetch, struct fetcher *fetcher, const struct fetch_request *request);

/* Ends it without a word; not from within `data`. Harmless if it does not run. */
void fetch_cancel(struct fetch *fetch);

static inline bool fetch_is_running(const struct fetch *fetch) {
        return fetch->fetcher != NULL;
}
