#pragma once

/*
 * One client of the request socket: bytes to commands, answers to bytes.
 *
 * A connection lives until its client has gone, or has shut down its writing side and got every reply. It is not read, and
 * runs no command, while its unsent output or what it has in flight is above a limit.
 */

#include "common/line.h"
#include "daemon/front/parking.h"
#include "daemon/net/socket.h"
#include "daemon/queue/lane.h"
#include "daemon/status.h"

/* What the connections of one worker share. */
struct front {
        struct socket_group *sockets;
        struct lane *lane;
        struct status *status;
        struct parking *parking;
        struct list connections;
        void (*ended)(struct front *front);     /* a connection, and with it its descriptor */
        void (*flushed)(struct front *front);   /* a connection has no unsent output, and may have had some */
};

/* All are borrowed. */
void front_init(struct front *front, struct socket_group *sockets, struct lane *lane, struct status *status,
                struct parking *parking, void (*ended)(struct front *front), void (*flushed)(struct front *front));

/*
 * Ends every connection, after one try to send what is left for it; those that have a successor are left to it. Harmless
 * twice, and for memory that is all zero.
 */
void front_deinit(struct front *front);

/* Parking is open: the connections that there are are parked. */
void front_park(struct front *front);

/* Whether every reply has left. */
bool front_is_flushed(const struct front *front);

/* Bytes of replies that have not. */
uint64_t front_unsent(const struct front *front);

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
