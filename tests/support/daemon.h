#pragma once

/*
 * An msd of a test's own, in a directory of its own, with a first connection to it.
 */

#include "tests/support/peer.h"
#include "tests/support/process.h"
#include "tests/support/suite.h"

struct daemon {
        struct process process;
        char directory[SUITE_PATH_MAX];
        char socket[SUITE_PATH_MAX + 16];
        struct peer control;    /* the connection that found it there */
};

/* Starts msd with these arguments up to NULL, and --socket, and waits until it takes connections. */
void daemon_start(struct daemon *daemon, ...) __attribute__((sentinel));

/* The same with more to say about the process; `arguments` goes up to NULL, and stands behind the name. */
void daemon_start_with(struct daemon *daemon, const struct process_setup *setup,
                       const char *const *arguments);

/*
 * Starts `path` with just these arguments, and waits until it takes connections at `socket`, whose directory
 * is there. `daemon` has its own directory already.
 */
void daemon_start_at(struct daemon *daemon, const char *path, const char *socket,
                     const struct process_setup *setup, const char *const *arguments);

/* Waits until `Model ready!` is said, and then, for that comes first, until requests go straight on. */
void daemon_wait_ready(struct daemon *daemon);

/* Waits for its end, which leaves this exit status and no socket, and forgets it. */
void daemon_expect_exit(struct daemon *daemon, int status);

/* As SIGTERM does it. */
void daemon_stop(struct daemon *daemon);
