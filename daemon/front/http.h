#pragma once

/*
 * The HTTP front: what a client asks of the model waits at the gate and goes on as it is; msd's own paths are answered at
 * once. libmicrohttpd speaks HTTP, in the worker's reactor.
 */

#include <stdatomic.h>

#include "daemon/front/request.h"

struct MHD_Daemon;

/* What the HTTP fronts of all workers share. */
struct http_group {
        uint64_t stream_keepalive;              /* nanoseconds; 0: no comments to streams that wait */
        atomic_uint_fast64_t last_id;           /* of requests that have none of their own */
};

struct http {
        struct reactor *reactor;                /* NULL: it is not there */
        struct request_queue *queue;
        struct status *status;
        struct http_group *group;
        struct MHD_Daemon *daemon;
        struct watch watch;                     /* libmicrohttpd's epoll set, within the reactor's */
        struct job work;
        struct list requests;
        struct list attention;                  /* those with something to say */
        struct list kept;                       /* streams that wait, and are told so */
        struct list resumed;                    /* those that libmicrohttpd has to look at before it reads */
        struct timer keepalive;
        struct list hung_up;                    /* clients whose input has ended, and libmicrohttpd has to see it */
        bool adding;                            /* a connection, just now */
        uint64_t unsent;                        /* requests that came whole and were not answered yet */
        void (*ended)(struct http *http);       /* a connection, and with it its descriptor */
        void (*flushed)(struct http *http);     /* an answer is sent */
};

#define HTTP_NULL { .watch = WATCH_NULL }

/* All are borrowed. Returns 0 or -errno. */
int http_init(struct http *http, struct reactor *reactor, struct request_queue *queue, struct status *status,
              struct http_group *group, void (*ended)(struct http *http), void (*flushed)(struct http *http));

/* Ends every connection. Harmless twice. */
void http_deinit(struct http *http);

/*
 * A client has connected: `fd`, non-blocking, is the front's from here on, and closed if this fails. Returns 0 or -errno.
 */
int http_connection_new(struct http *http, int fd);

/* Whether every answer has left. */
bool http_is_flushed(const struct http *http);
