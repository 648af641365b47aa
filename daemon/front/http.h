#pragma once

/*
 * The HTTP front: requests to the model wait at the gate, or for a place, and go on as they came; msd's own paths are answered
 * at once. Of each connection one request is under way at a time: later bytes stay bytes.
 */

#include <stdatomic.h>

#include "daemon/front/parking.h"
#include "daemon/loop/pool.h"
#include "daemon/net/socket.h"
#include "daemon/queue/lane.h"
#include "daemon/status.h"

/* What the HTTP fronts of all workers share. */
struct http_group {
        uint64_t stream_keepalive;      /* nanoseconds between comments to streams that wait; 0: none */
        uint64_t json_keepalive;        /* nanoseconds after which white space is sent before a JSON answer; 0: never */
        uint64_t head_timeout;          /* nanoseconds for a whole head, and between two pieces of a body; 0: none */
        uint64_t client_idle_timeout;   /* nanoseconds between two requests; 0: none */
        const char *cors_origin;        /* NULL: no Access-Control-Allow-Origin */
        const char *model_name;         /* of --model; NULL: the name is known when the model is ready */
        const char *const *keys;        /* bearer keys, of which a client must have one */
        size_t key_count;               /* 0: none is needed */
        atomic_uint_fast64_t last_id;   /* of requests that have none of their own */
};

enum http_delay_kind {
        HTTP_DELAY_HEAD,        /* a head or a body is coming, or the rest of a refused request is discarded */
        HTTP_DELAY_IDLE,        /* between requests */
        HTTP_DELAY_STREAM,      /* a comment is due */
        HTTP_DELAY_JSON,        /* white space is due */
        HTTP_DELAY_COUNT,
        HTTP_DELAY_NONE = HTTP_DELAY_COUNT,
};

/* Connections for which something is due after the same time, in the order in which that began. */
struct http_delay {
        struct list connections;
        struct timer timer;             /* for the first of them; not set: there is none */
        uint64_t nsec;                  /* 0: never */
};

/* That of one worker. */
struct http {
        struct socket_group *sockets;   /* NULL: HTTP is disabled */
        struct lane *lane;
        struct status *status;
        struct http_group *group;
        struct parking *parking;
        struct pool pool;               /* connections: by themselves, so that the requests between them leave no holes */
        struct list connections;
        struct http_delay delays[HTTP_DELAY_COUNT];
        struct exchange exchange;               /* the last that a model asked for */
        uint64_t unsent;                        /* connections with unsent output */
        uint64_t tunnels;                       /* requests in flight that are tunnels */
        void (*ended)(struct http *http);       /* a connection, and with it its descriptor */
        void (*flushed)(struct http *http);     /* a connection has sent everything */
};

/* The empty value, for http_deinit(). */
#define HTTP_NULL { .sockets = NULL }

/* All are borrowed. Returns 0; http_deinit() is due at the end. */
int http_init(struct http *http, struct socket_group *sockets, struct lane *lane, struct status *status,
              struct http_group *group, struct parking *parking, void (*ended)(struct http *http),
              void (*flushed)(struct http *http));

/*
 * Ends every connection, after one try to send what is left for it; where the lane is leaving, parked ones are left to the
 * successor. Harmless twice.
 */
void http_deinit(struct http *http);

/*
 * A client has connected: `fd`, non-blocking, is the front's from here on, and closed if this fails. Returns 0 or -errno.
 */
int http_connection_new(struct http *http, int fd);

/* Whether every answer has left. */
bool http_is_flushed(const struct http *http);

/* Bytes of answers that have not, without tunnels. */
uint64_t http_unsent(const struct http *http);

/* Whether answers that begin now end their connections: the daemon stops, or a successor takes over. */
bool http_is_stopping(const struct http *http);

/* Parks all connections that are not parked yet: see parking.h. */
void http_park(struct http *http);

struct http_connection;

/*
 * A predecessor's client: as http_connection_new(), but what was read before is still to be fed. `flags`: those of the last
 * PARKING_HTTP of the connection. Returns the connection, which lives at least until the turn of the loop ends, or NULL, with
 * a diagnostic.
 */
struct http_connection *http_adopt(struct http *http, int fd, unsigned flags);

/* What the client of a connection hears that cannot be taken over, as text; behind what it heard before. `flags`: likewise; `bodiless`: it is to a HEAD. */
#define HTTP_PARTING_MAX 512
void http_format_parting(char text[static HTTP_PARTING_MAX], unsigned flags, bool bodiless);

/* A request that waited, and came at `arrived`: the data of PARKING_WAITING. It is checked as input of a client is. */
void http_feed_waiting(struct http_connection *connection, const char *data, size_t len, uint64_t arrived);

/* The begin of a request of which more is to come, as the client sent it: the data of PARKING_REST, and of PARKING_MORE. */
void http_feed_rest(struct http_connection *connection, const char *data, size_t len);
