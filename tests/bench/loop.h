#pragma once

/*
 * The loop: a ready model, and so many connections, each with one request in flight: it sends the next when
 * the answer to the last is there, whole and compared. One client thread for each processor, two at most; for a server with
 * one thread one, so that with two processors neither waits for the other's to be scheduled.
 */

#include "tests/bench/server.h"

struct loop_figures {
        double rate;            /* requests a second */
        double cpu_us;          /* the server's, for a request */
        double p50_us;
        double p99_us;
};

/* Returns 0 or -errno; -EBADMSG if an answer was wrong. */
int loop_measure(const struct server_programs *programs, enum server_kind kind, unsigned connections,
                 double seconds, struct loop_figures *figures);
