#pragma once

/*
 * Connections of an upstream session, and the answers that come on them. For daemon/model/upstream_session alone.
 */

#include "common/json.h"
#include "daemon/loop/pool.h"
#include "daemon/model/completion.h"
#include "daemon/model/model.h"
#include "daemon/model/upstream_session.h"

/*
 * A body up to this size leaves with its head, in one send(2); a larger one is copied to the output in portions of this size,
 * as the socket takes it.
 */
#define UPSTREAM_BODY_PORTION 65536

/* `sent` of a tunnel is due when its unsent output, which was more, is below this. */
#define UPSTREAM_TUNNEL_UNSENT 65536

struct upstream_session {
        struct model_session session;
        struct upstream_session_options options;
        struct session_place place;
        struct upstream_work work;
        json_t *completion_options;
        unsigned generation;                    /* the number of the one that is followed; 0: none yet */
        struct sockaddr_storage address;
        socklen_t address_len;
        char name[PROTOCOL_MODEL_MAX];
        struct pool pool;                       /* connections: by themselves, so that they leave no holes in other memory */
        struct list idle;                       /* connections; first the one that was used last */
        struct list running;
        struct list refused;                    /* connections that could not be made: their runs are about to end */
        struct list closing;                    /* connections that are closed at the end of the turn */
        uint64_t idle_count;
        uint64_t running_count[2];              /* those that are refused too; of light ones: [true] */
        bool wants_room;                        /* MODEL_BUSY was said, and `room` was not */
        struct timer retry;
        struct job refuse;
        struct job room;
};

enum upstream_state {
        UPSTREAM_IDLE,
        UPSTREAM_AWAITING,      /* the head of an answer */
        UPSTREAM_BODY,
        UPSTREAM_TUNNEL,
        UPSTREAM_CLOSING,
};

/* A connection, and what it runs. */
struct upstream_connection {
        struct list link;
        struct socket socket;           /* SOCKET_NULL: it was refused */
        struct upstream_session *session;
        struct inference *inference;    /* NULL: none */
        enum upstream_state state;
        unsigned generation;
        int refusal;                    /* -errno */
        bool is_connected : 1;
        bool is_used : 1;               /* it was kept */
        /* Of the run: */
        bool is_light : 1;
        bool is_head : 1;
        bool is_upgrade : 1;
        bool keep_alive : 1;
        bool heard : 1;                 /* a byte of an answer has come */
        bool untouched : 1;             /* it ended before anything was sent */
        bool delivered : 1;
        bool finishing : 1;             /* of a tunnel: its output ends when it is sent */
        bool wants_sent : 1;
        bool is_paused : 1;
        uint16_t status;
        uint64_t retry_after;
        uint64_t sent_at;
        size_t queued;                  /* bytes of the head, and of a small body */
        const char *body;               /* what of a large body was not written yet */
        size_t body_left;
        char *own_body;                 /* that of a prompt */
        struct text head;               /* what there is of the head of an answer, while it is not whole */
        struct http_body framing;
        struct completion completion;
};

/*
 * Begins a connection to the generation that is followed. Where it is refused at once, that is its `refusal`. Returns 0; or
 * -errno when one may be made a little later, and then -EAGAIN of a Unix socket says that the backlog is full.
 */
int upstream_connection_new(struct upstream_session *session, struct upstream_connection **connection);

/* Closes it at the end of the turn, for what calls here may be its socket. One without a socket is gone at once. */
void upstream_connection_close(struct upstream_connection *connection);

/* At once. */
void upstream_connection_free(struct upstream_connection *connection);

/* Ends the run of one that was refused, and the connection with it. */
void upstream_connection_refuse(struct upstream_connection *connection);

/* For the one thread that writes a counter of its session's work. */
static inline void upstream_work_add(atomic_uint_fast64_t *counter, int64_t n) {
        atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + (uint64_t)n, memory_order_relaxed);
}

/* Its run begins, and has ended. */
void upstream_run_begins(struct upstream_connection *connection, bool is_light);
void upstream_run_ended(struct upstream_connection *connection);

/* Its client does not read for now, or does again. */
void upstream_run_pause(struct upstream_connection *connection, bool paused);

/* Says `room` where it is due. */
void upstream_tell_room(struct upstream_session *session);
