#pragma once

/*
 * A connection to msd: sends commands while it reads the replies, until all that was wanted has come or a
 * deadline has. Knows nothing of what is asked: that comes from callbacks, in pieces, as the socket takes it,
 * so that neither direction needs more memory than one buffer and the longest reply.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/line.h"
#include "common/protocol.h"

#define SESSION_BUFFER_SIZE 65536

enum {
        SESSION_DONE = 1,       /* all that was wanted has come */
        SESSION_ENDED,          /* the other side has closed the connection */
        SESSION_TIMED_OUT,      /* the deadline has come */
        SESSION_MALFORMED,      /* what came is no reply, or none that was asked for; see `fault` */
};

struct session {
        int fd;                 /* owned, does not block */
        uint64_t deadline;      /* 0: none */
        struct line line;
        size_t output_start;    /* [start, end) of `output` are still to be sent */
        size_t output_end;
        bool output_ended;      /* the other side takes nothing more */
        char fault[80];         /* how the reply begins that is none; printable */
        char output[SESSION_BUFFER_SIZE];
        char input[SESSION_BUFFER_SIZE];
};

#define SESSION_NULL { .fd = -1 }

struct session_events {
        /*
         * Puts what is to be sent next into `buffer`, up to `size` bytes (SESSION_BUFFER_SIZE): it may break
         * off anywhere and go on in the next call. Returns how many bytes; 0 if there is nothing to be sent
         * now. Is asked again after each reply and each tick.
         */
        size_t (*fill)(struct session_events *events, char *buffer, size_t size);
        /*
         * A reply. `body` are its `length` bytes, NULL for ERR; both are valid during the call.
         * Returns 0, SESSION_DONE, SESSION_ENDED, SESSION_MALFORMED, or -errno.
         */
        int (*reply)(struct session_events *events, const struct protocol_reply *reply, const char *body);
        /* There is nothing more to read right now: what was gathered goes out. Returns 0 or -errno. */
        int (*pause)(struct session_events *events);
        /* `wake` has come. Sets it anew. Not called where `wake` stays 0. */
        void (*tick)(struct session_events *events, uint64_t now);
        uint64_t wake;          /* on the clock of deadlines; 0: never */
};

/* Takes `fd`, a connected stream socket, also on failure. Returns 0 or -errno. */
int session_init(struct session *session, int fd, uint64_t deadline);

/*
 * Connects to the socket at `path`. Returns 0, SESSION_TIMED_OUT, or -errno: -EINVAL for an empty path,
 * -ENAMETOOLONG for one that is too long.
 */
int session_connect(struct session *session, const char *path, uint64_t deadline);

void session_deinit(struct session *session);

/*
 * Sends and reads until a callback or the connection has an end of it. A callback's negative return value is
 * returned as it is.
 * Returns 0 on SESSION_DONE, SESSION_ENDED, SESSION_TIMED_OUT, SESSION_MALFORMED, or -errno.
 */
int session_run(struct session *session, struct session_events *events);
