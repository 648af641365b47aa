#pragma once

/*
 * A model server that the test itself is, byte for byte: it sees what msd writes, and answers what no server would, when
 * the test wants it. msd's probes of /health are answered while it waits for something. A request that RFC 9112 does not
 * have fails the test: msd wrote it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/support/process.h"
#include "tests/support/text.h"

#define RAW_CONNECTIONS_MAX 64

struct raw_connection {
        int fd;                 /* -1: this place is free */
        struct text input;
        bool ended;             /* msd has closed */
        bool used;              /* a request has come */
};

struct raw {
        int fd;
        bool sick;              /* /health says 503 */
        unsigned accepted;      /* so many connections came on which a request did */
        struct raw_connection connections[RAW_CONNECTIONS_MAX];
};

/* One request, as it came. */
struct raw_request {
        struct raw_connection *connection;      /* valid until raw_hang_up() */
        char method[32];
        char target[4096];
        struct text fields;                     /* see http_find_field() */
        struct text body;
        struct text bytes;                      /* all of it */
};

/* Listens at `path`. */
void raw_listen(struct raw *raw, const char *path);
void raw_close(struct raw *raw);

/* Answers probes until msd says that the model is ready. */
void raw_wait_ready(struct raw *raw, struct process *msd);

/* Waits for the next request. raw_request_deinit() is due. */
void raw_take(struct raw *raw, struct raw_request *request);
/*
 * The same if one came by now or until `deadline`, or until something comes at `fd`, which may be -1. Returns whether there
 * is one.
 */
bool raw_take_until(struct raw *raw, struct raw_request *request, int fd, uint64_t deadline);
void raw_request_deinit(struct raw_request *request);

const char *raw_field(const struct raw_request *request, const char *name);

/* Answers, with any bytes. */
void raw_send_bytes(const struct raw_request *request, const void *data, size_t n);
void raw_send(const struct raw_request *request, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* With 200 and this body, whole. */
void raw_answer(const struct raw_request *request, const char *body);

/* Sends of `n` bytes as many as msd takes: it is done when nothing moved for `patience` nanoseconds. Returns how many. */
size_t raw_offer(const struct raw_request *request, const void *data, size_t n, uint64_t patience);

/* Closes its connection. */
void raw_hang_up(struct raw_request *request);
/* Waits until msd closes it. */
void raw_wait_gone(struct raw_request *request);
