#pragma once

/*
 * Who listens at an address, as /proc says: the sockets by the tables of /proc/self/net, their holders by /proc/PID/fd. (The
 * sandbox of the service allows no sock_diag(7).) What is in another network namespace, or hidden, is not seen.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

struct listening_socket {
        struct sockaddr_storage address;
        uint64_t inode;
        uid_t uid;              /* of TCP: whose it is */
};

/* Reads a line of /proc/net/tcp, or of tcp6 if `family` is AF_INET6. Returns whether it is a socket that listens. */
bool listening_read_inet(const char *line, int family, struct listening_socket *socket);

/* The same of /proc/net/unix. The path may be relative, to whatever. */
bool listening_read_unix(const char *line, struct listening_socket *socket);

/*
 * How well a socket that listens at `bound` fits connections to `target`: 0 not at all. Of several the kernel takes one of those
 * that fit best.
 */
unsigned listening_match(const struct sockaddr_storage *target, const struct sockaddr_storage *bound);

#define LISTENING_MAX 16

/* The sockets that take connections to an address. */
struct listening {
        struct listening_socket sockets[LISTENING_MAX];
        bool held[LISTENING_MAX];       /* by a process that listening_look() has seen */
        unsigned count;
        bool unseen;                    /* there is a process of which it could not be seen what it holds */
};

/* Finds the sockets. Returns 0, perhaps with none found, or -errno: the tables cannot be read. */
int listening_find(struct listening *listening, const struct sockaddr_storage *address);

/* Notes which of them `pid` holds. For child_each_process(): `data` is the struct listening. */
void listening_look(pid_t pid, void *data);

/* The first socket that no process holds which was looked at; or NULL. */
const struct listening_socket *listening_foreign(const struct listening *listening);

/* Looks for a process that holds a socket. Returns its pid, or 0: none that can be seen. */
pid_t listening_holder(const struct listening_socket *socket);
