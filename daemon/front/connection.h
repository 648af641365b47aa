#pragma once

/*
 * One client of the request socket: bytes to commands, answers to bytes.
 *
 * A connection lives until its client has gone, or has shut down its writing side and got every reply. All facts
 * about it (input ended, output blocked, the peer gone) are flags of their own.
 */

#include "common/line.h"
#include "daemon/front/request.h"

/* Where one read goes. Longer payloads are read into memory of the connection's own. */
#define FRONT_SCRATCH_SIZE 65536

/* What the connections of one worker share. */
struct front {
        struct reactor *reactor;
        struct request_queue *queue;
        struct status *status;
        struct list connections;
        struct timer starved;                   /* for those that the kernel leaves without memory, or tells what is not so */
        void (*ended)(struct front *front);     /* a connection, and with it its descriptor */
        void (*flushed)(struct front *front);   /* a connection has sent all there was */
        char scratch[FRONT_SCRATCH_SIZE];
};

/* All are borrowed. */
void front_init(struct front *front, struct reactor *reactor, struct request_queue *queue, struct status *status,
                void (*ended)(struct front *front), void (*flushed)(struct front *front));

/*
 * Ends every connection, after one try to send what is left for it; where the queue is leaving, those that a
 * successor takes over are left to it.
 */
void front_deinit(struct front *front);

/* The gate is a pending one from now on: the connections that there are may be parked. */
void front_park(struct front *front);

/* Whether every reply has left. */
bool front_is_flushed(const struct front *front);

/*
 * A client has connected: `fd`, non-blocking, is the connection's from here on, and closed if this fails.
 * Returns 0 or -errno.
 */
int connection_new(struct front *front, int fd);

/*
 * A predecessor's client: as connection_new(), but what was read before is still to be fed. Returns the connection,
 * which lives at least until the turn of the loop ends, or NULL, with a diagnostic.
 */
struct connection;
struct connection *connection_adopt(struct front *front, int fd);

/* The client has sent this, at `arrived` (CLOCK_MONOTONIC; 0: now). It is checked as what comes from a client is. */
void connection_feed(struct connection *connection, const char *data, size_t len, uint64_t arrived);

/* The same for the begin of something of which more is to come. */
void connection_feed_rest(struct connection *connection, const struct line_state *state, const char *data, size_t len);
