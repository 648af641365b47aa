#pragma once

/*
 * The servers that are measured, each a child process with a socket of its own, and what the kernel knows of
 * it: processor time, memory, context switches. All of them speak msd-protocol(7), as far as it is needed
 * here.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

/* The worker threads of msd, and those of the floor's echo. */
#define SERVER_THREADS "2"

/* The first ones take part in everything; those with one thread only where a table is for them too. */
enum server_kind {
        SERVER_FLOOR,
        SERVER_MSD,
        SERVER_REFERENCE,
        SERVER_KIND_COUNT,
        SERVER_MSD_ONE = SERVER_KIND_COUNT,
        SERVER_FLOOR_ONE,       /* the echo; what holds requests has one thread anyway */
        SERVER_KIND_MAX,
};

struct server_programs {
        const char *paths[SERVER_KIND_MAX];
        const char *directory;          /* where the sockets go */
};

struct server {
        pid_t pid;
        int output_fd;                  /* its standard output */
        int control_fd;                 /* a connection for STATUS */
        struct sockaddr_un address;
        socklen_t address_len;
        char output[256];
        size_t output_len;
        /* Nanoseconds of CLOCK_MONOTONIC, 0 until it has happened: */
        uint64_t forked;
        uint64_t executed;
        uint64_t connected;             /* the first connect(2) went through */
        uint64_t loading;               /* `Model loading...` was read here */
        uint64_t ready;                 /* `Model ready!` was read here */
};

#define SERVER_NULL { .pid = -1, .output_fd = -1, .control_fd = -1 }

const char *server_kind_name(enum server_kind kind);

/*
 * Starts a server that loads for `load` seconds. A negative `load` asks for the floor's other half, the bare
 * echo, which knows no load; the others then load for no time. Returns 0 or -errno, which may be that of
 * execve(2).
 */
int server_start(struct server *server, const struct server_programs *programs, enum server_kind kind,
                 double load);

/* Until it has said that it loads. Returns 0 or -errno; -ECHILD if the server has ended. */
int server_await_loading(struct server *server);

/* Connects as soon as there is something to connect to. Returns 0 or -errno; -ECHILD if the server has ended.
 */
int server_await_socket(struct server *server);

/* Kills and reaps it. Harmless for a server that was not started. */
void server_stop(struct server *server);

/* Returns a connected socket, or -errno. */
int server_connect(const struct server *server);

/* Reads what there is of its standard output, and notes the two lines about the model. Returns 0 or -errno.
 */
int server_listen(struct server *server);

/* How many requests wait, as STATUS says. Returns 0 or -errno. */
int server_waiting(struct server *server, uint64_t *waiting);

/* Processor time of all its threads, in nanoseconds. Returns 0 or -errno. */
int server_cpu(const struct server *server, uint64_t *nsec);

/* The same, but once the server has come to rest: what it clears up behind the last answer is part of its
 * work. */
int server_cpu_at_rest(const struct server *server, uint64_t *nsec);

/* Resident memory in bytes. Returns 0 or -errno. */
int server_memory(const struct server *server, uint64_t *bytes);

/* Context switches of all its threads, voluntary or not. Returns 0 or -errno. */
int server_switches(const struct server *server, uint64_t *switches);

/* Writes the request with this number for its ID, or its answer, byte for byte. Returns the length. */
#define SERVER_MESSAGE_MAX 128
size_t server_format_request(char buffer[static SERVER_MESSAGE_MAX], uint64_t id);
size_t server_format_answer(char buffer[static SERVER_MESSAGE_MAX], uint64_t id);

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t server_now(void);

/* Sleeps. Returns 0, or -EINTR when a signal came. */
int server_sleep(double seconds);
