#pragma once

/*
 * A client of msd as a test needs it: sends any bytes, reads replies with a deadline.
 * What does not come, and what is no reply, fails the test.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/protocol.h"
#include "tests/support/text.h"

struct peer {
        int fd;
        struct text input;
        size_t taken;           /* so much of `input` was handed out */
        bool ended;             /* the other side has closed */
};

#define PEER_NULL { .fd = -1 }

struct peer_reply {
        enum protocol_reply_type type;
        char id[PROTOCOL_ID_MAX + 1];
        char code[32];          /* ERR */
        const char *body;       /* or the message of ERR; with a NUL, valid until the next reply */
        size_t len;
};

/* What STATUS says. */
struct peer_status {
        char status[16];
        char model[64];         /* empty for null */
        char error[256];        /* empty for null */
        char version[32];
        uint64_t generation;
        uint64_t attempt;
        double load;
        double progress;        /* negative for null, as is: */
        double eta;
        uint64_t waiting;
        double oldest_wait;
        uint64_t processing;
        uint64_t suspects;
        uint64_t completed;
        uint64_t failed;
        uint64_t cancelled;
        uint64_t connections;
        double uptime;
        uint64_t pid;
};

/* Connects to the socket at `path`. */
void peer_connect(struct peer *peer, const char *path);
/* The same, or returns -errno. */
int peer_try_connect(struct peer *peer, const char *path);
void peer_close(struct peer *peer);

/* Sends, and takes up what comes meanwhile. */
void peer_send_bytes(struct peer *peer, const void *data, size_t n);
void peer_send(struct peer *peer, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Sends `n` requests in one go; their IDs count up from `first`. */
void peer_send_requests(struct peer *peer, size_t first, size_t n);

/* Ends this side of the connection. */
void peer_finish(struct peer *peer);

/* Waits for the next reply. Returns whether there is one: false at the end of the connection. */
bool peer_next(struct peer *peer, struct peer_reply *reply);

/* The same if a whole one came by now or until `deadline`. */
bool peer_next_until(struct peer *peer, struct peer_reply *reply, uint64_t deadline);

/* The next reply is this one. */
void peer_expect(struct peer *peer, const char *id, const char *body);
/* The next reply is an error with this message; NULL for any that is not empty. */
void peer_expect_error(struct peer *peer, const char *id, const char *code, const char *message);
/* The connection ends here. */
void peer_expect_end(struct peer *peer);

/* The next `n` replies answer, as `model`, the requests that count up from `first`, in any order. */
void peer_expect_answers(struct peer *peer, size_t first, size_t n, const char *model);
/* The same with errors. */
void peer_expect_errors(struct peer *peer, size_t first, size_t n, const char *code, const char *message);

/* Sends STATUS. The next reply must be its answer. */
void peer_status(struct peer *peer, struct peer_status *status);

/* What STATUS answered. */
void peer_parse_status(const char *json, struct peer_status *status);

/* Asks for the status until `done` says so of it. `what` is said when that does not come. */
void peer_status_until(struct peer *peer, struct peer_status *status,
                       bool (*done)(const struct peer_status *status, uint64_t number), uint64_t number,
                       const char *what);
bool peer_status_is_waiting(const struct peer_status *status, uint64_t number);
bool peer_status_is_processing(const struct peer_status *status, uint64_t number);
bool peer_status_is_completed(const struct peer_status *status, uint64_t number);
bool peer_status_is_cancelled(const struct peer_status *status, uint64_t number);
bool peer_status_is_connections(const struct peer_status *status, uint64_t number);
bool peer_status_is_ready(const struct peer_status *status, uint64_t number);
bool peer_status_is_failed(const struct peer_status *status, uint64_t number);
bool peer_status_is_stopping(const struct peer_status *status, uint64_t number);
