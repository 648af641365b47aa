#pragma once

/*
 * One client of the request socket: bytes to commands, answers to bytes.
 *
 * A connection lives until its client has gone, or has shut down its writing side and got every reply. All facts
 * about it (input ended, output blocked, the peer gone) are flags of their own.
 */

#include "daemon/front/request.h"

/* Where one read goes. Longer payloads are read into memory of the connection's own. */
#define FRONT_SCRATCH_SIZE 65536

/* What the connections of one worker share. */
struct front {
        struct reactor *reactor;
        struct request_queue *queue;
        struct status *status;
        struct list connections;
        void (*ended)(struct front *front);     /* a connection, and with it its descriptor */
        void (*flushed)(struct front *front);   /* a connection has sent all there was */
        char scratch[FRONT_SCRATCH_SIZE];
};

/* All are borrowed. */
void front_init(struct front *front, struct reactor *reactor, struct request_queue *queue, struct status *status,
                void (*ended)(struct front *front), void (*flushed)(struct front *front));

/* Ends every connection, after one try to send what is left for it. */
void front_deinit(struct front *front);

/* Whether every reply has left. */
bool front_is_flushed(const struct front *front);

/*
 * A client has connected: `fd`, non-blocking, is the connection's from here on, and closed if this fails.
 * Returns 0 or -errno.
 */
int connection_new(struct front *front, int fd);
