#pragma once

/*
 * A non-blocking stream socket in a reactor: its state, its unsent output, and when to read or write again. Both fronts use it
 * for their clients, and upstream sessions for their connections to a model.
 *
 * It is watched edge-triggered, with one epoll_ctl() to begin with, and two each time the output blocks. It is read only
 * after an event, and a short read is the last one (epoll(7)). Output that is written in a turn of the loop leaves at the
 * end of that turn, in one send(2).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "daemon/loop/list.h"
#include "daemon/loop/reactor.h"

/* What is read at once by whoever has the group's buffer. */
#define SOCKET_BUFFER_SIZE 65536

/* What the sockets of one worker share. */
struct socket_group {
        struct reactor *reactor;
        struct list retries;            /* sockets whose last recv(2) or send(2) is retried when the timer elapses */
        struct timer retry;
        char buffer[SOCKET_BUFFER_SIZE];        /* for reading into; valid until the owner returns to the reactor */
};

struct socket;

struct socket_ops {
        /*
         * There is input, or the end of it, and the socket is not paused: read it, with socket_read(). Called once a turn at
         * most, from an event or at the end of a turn. A function that returns before it has read everything (`readable` is
         * still set) is called again in the next turn. It may not destroy the socket; `attend`, which follows in the same
         * turn, may.
         */
        void (*input)(struct socket *socket);
        /*
         * The end of a turn in which there was an event, output or a request for this call. As much output as possible has
         * been sent. The owner looks at the state of the socket, and may destroy it.
         */
        void (*attend)(struct socket *socket);
        /*
         * The outcome of socket_connect(): 0 or -errno, and then the socket is broken. It may not destroy the socket;
         * `attend`, which follows in the same turn, may. NULL for sockets of socket_init().
         */
        void (*connected)(struct socket *socket, int error);
};

/* Output: the bytes of [start, end) are still to be sent. */
struct socket_output {
        size_t start;
        size_t end;
        size_t size;
        char data[];
};

struct socket {
        struct watch watch;
        struct socket_group *group;
        const struct socket_ops *ops;
        struct job attend;
        struct list retry_link;
        struct socket_output *output;   /* NULL: nothing is to be sent */
        bool connecting : 1;            /* `connected` has not been called yet */
        bool readable : 1;              /* there may be input: the event that said so will not come again */
        bool input_ending : 1;          /* an event said that the end of file follows */
        bool input_ended : 1;           /* the end of file was read */
        bool input_called : 1;          /* `input` was called in this turn */
        bool input_reported : 1;        /* an event said that there is input, and none was read since */
        bool room_reported : 1;         /* an event said that there is room for output, and none was sent since */
        bool blocked : 1;               /* the socket takes no output for now */
        bool paused : 1;                /* input is left in the socket */
        bool gone : 1;                  /* the peer receives nothing any more; input may be left */
        bool broken : 1;                /* the socket can neither be read nor written: end it */
        int error;                      /* -errno of what made it `gone` or `broken`; 0: the peer hung up */
};

/* The empty value, for socket_deinit(). */
#define SOCKET_NULL { .watch = WATCH_NULL }

/* `reactor` is borrowed. */
void socket_group_init(struct socket_group *group, struct reactor *reactor);

/* The group must have no sockets. Harmless for memory that is all zero. */
void socket_group_deinit(struct socket_group *group);

/*
 * Takes over `fd`, which is non-blocking and was accepted; it is closed on failure. TCP_NODELAY and keepalive it has from the
 * socket that listens. Returns 0 or -errno of epoll_ctl(2), and then the socket is SOCKET_NULL.
 */
int socket_init(struct socket *socket, struct socket_group *group, const struct socket_ops *ops, int fd);

/*
 * Connects to `address`; `connected` is called with the outcome at the end of this turn or in a later one. Output may be
 * written before that. Returns 0; or -errno of socket(2), epoll_ctl(2) or connect(2), and then the socket is SOCKET_NULL:
 * -ECONNREFUSED, -ENOENT; -EAGAIN when the backlog of a Unix socket is full.
 */
int socket_connect(struct socket *socket, struct socket_group *group, const struct socket_ops *ops,
                   const struct sockaddr *address, socklen_t len);

/* Closes the socket at once; unsent output is lost. Harmless twice, for SOCKET_NULL, and within `attend`. */
void socket_deinit(struct socket *socket);

/* Whether nothing more comes: the input has ended, or the peer receives nothing any more and what it had sent was read. */
static inline bool socket_is_over(const struct socket *socket) {
        return socket->broken || socket->input_ended || (socket->gone && !socket->readable);
}

static inline int socket_fd(const struct socket *socket) {
        return socket->watch.fd;
}

/*
 * Reads up to `size` bytes. Returns how many were read; 0 when there is no input for now, at the end of it (`input_ended`),
 * and when the socket is broken (`broken`, `error`).
 */
size_t socket_read(struct socket *socket, void *to, size_t size);

/* Has `attend` called at the end of the turn, or of the next one where jobs of this turn already run. */
static inline void socket_attend_later(struct socket *socket) {
        reactor_queue(socket->group->reactor, &socket->attend);
}

/* What socket_room() does where the output has to grow or to be moved. */
char *socket_make_room(struct socket *socket, size_t size);

/*
 * Returns room for `size` more bytes of output; socket_wrote() says how many were put there, and they leave at the end of the
 * turn. NULL: the socket is gone or broken. Running out of memory breaks it, because the peer would wait for the lost bytes.
 */
static inline char *socket_room(struct socket *socket, size_t size) {
        struct socket_output *output = socket->output;

        if (socket->gone || socket->broken)
                return NULL;
        socket_attend_later(socket);
        return output && output->size - output->end >= size ? output->data + output->end : socket_make_room(socket, size);
}

static inline void socket_wrote(struct socket *socket, size_t n) {
        if (n > 0)
                socket->output->end += n;
}

/* Copies `n` bytes to the output. Returns false where socket_room() returns NULL. */
bool socket_write(struct socket *socket, const void *data, size_t n);

/* Number of bytes that are still to be sent. */
static inline size_t socket_unsent(const struct socket *socket) {
        return socket->output ? socket->output->end - socket->output->start : 0;
}

/* Sends now as much as the socket takes. Output of a socket that is gone or broken is dropped. */
void socket_flush(struct socket *socket);

/* Stops reading, or resumes it: then `input` is called at the end of the turn if there may be input. */
void socket_pause(struct socket *socket, bool paused);

/* Breaks the socket, as if a system call had failed with `error` (an errno). The first error is kept. */
void socket_break(struct socket *socket, int error);

/* Whether it is broken, and that is no doing of its peer, of the network or of a time-out: a call failed, or memory is lacking. */
bool socket_has_failed(const struct socket *socket);
