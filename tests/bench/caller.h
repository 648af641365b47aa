#pragma once

/*
 * Clients over HTTP: each has a connection, and asks again when its answer is there. All in one thread, which costs little, so
 * that the processors are left to the servers that are measured. What goes wrong here ends the program.
 */

#include <stddef.h>
#include <stdint.h>

/* The body of a request, and what its prompt stands between. */
#define CALLER_BODY 200
#define CALLER_BODY_BEGIN "{\"prompt\":\""
#define CALLER_BODY_END "\"}"

struct caller {
        int fd;
        uint32_t usual;         /* the length of the answer before; the next is likely to be as long */
        uint32_t len;
        uint64_t sent;
        char answer[4096];
};

struct callers {
        int epoll;
        unsigned count;
        struct caller *each;
};

#define CALLERS_NULL { .epoll = -1 }

/* The length of the message at `text`, a string of `len` bytes, head and body, or 0 if it is not whole. */
size_t caller_message_len(const char *text, size_t len);

/* Connects so many to a port of this machine, or to a Unix socket (`path` is not NULL). */
void callers_init(struct callers *callers, unsigned count, uint16_t port, const char *path);
void callers_deinit(struct callers *callers);

/* Sends a POST whose body has CALLER_BODY bytes. `id` is its X-Request-Id; -1: it has none. */
void caller_ask(struct caller *caller, int id);

/* Reads what has come. Returns how many bytes. */
size_t caller_receive(struct caller *caller);

/* The same; returns the length of the answer once it is whole, else 0. One that is not 200 is wrong. */
size_t caller_hear(struct caller *caller);

/* Ends the program if the answer is not the model's: see MODEL_BODY. */
void caller_verify(const struct caller *caller);

/*
 * Has all ask, each again after its answer, until `end`, and hears all that were asked. Returns how many answers there were.
 * `samples`, if not NULL, of `max`, gets how long they took, in microseconds.
 */
size_t callers_drive(struct callers *callers, uint64_t end, double *samples, size_t max);
