#pragma once

/*
 * The shapes in which everything is held until the model is ready: so many connections, so many requests
 * waiting on each, all released together.
 *
 * When is the release? Each server prints `Model loading...` when it begins to load, while nothing else goes
 * on, and loads for a time that it was given: the release is that time after the line was read here. So it
 * depends on nothing that happens in the rush itself, in which the first word of it may reach a busy client
 * late, and a server that is late to notice that its model is there has that counted. It ends when the last
 * byte of the last answer has been read. The same holds for every server, and a run in which not all requests
 * waited before it is done again. (Should an answer be there before, the line was read late, and the release
 * was no later than that answer.)
 */

#include <stdint.h>

#include "tests/bench/server.h"

struct held_shape {
        unsigned connections;
        unsigned requests;              /* on each of them */
};

struct held_figures {
        double first_ms;                /* from the release to the first answer */
        double last_ms;                 /* and to the last one */
        double cpu_us;                  /* the server's, for a request */
        double connection_bytes;        /* the server's, for a connection on which one request waits */
        double request_bytes;           /* the server's, for each further one; 0 if there is none */
};

enum {
        HELD_TOO_SOON = 1,              /* the load was over before all requests waited */
};

/* Returns 0, HELD_TOO_SOON, or -errno; -EBADMSG if an answer was wrong, -ETIMEDOUT if one did not come. */
int held_measure(const struct server_programs *programs, enum server_kind kind,
                 const struct held_shape *shape, double load, struct held_figures *figures);

/* How many context switches the server makes in so many seconds in which its requests wait. Returns as the
 * above. */
int held_count_switches(const struct server_programs *programs, enum server_kind kind,
                        const struct held_shape *shape, double load, double seconds, uint64_t *switches);
