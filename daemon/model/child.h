#pragma once

/*
 * A supervised process, with all that it starts: a process group of its own, gone with msd. In the main thread.
 */

#include <stdbool.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "daemon/loop/reactor.h"
#include "daemon/loop/reaper.h"
#include "daemon/model/cause.h"
#include "daemon/model/owner.h"
#include "daemon/model/tree.h"

struct child;

/* How the process that msd started has ended. */
struct child_end {
        bool was_killed;                        /* by SIGKILL or SIGTERM, which msd did not send */
        bool was_stopped;                       /* after child_stop() or child_kill() */
        int start_error;                        /* errno of execve(2): the program never ran; 0: it did */
        const char *how;                        /* in words */
};

/* What all processes of the tree have used so far. A process that ends may take its share with it. */
struct child_usage {
        uint64_t processor;                     /* nanoseconds */
        uint64_t read;                          /* bytes, from pipes and sockets too */
        uint64_t written;
        uint64_t read_from_disk;                /* bytes, by way of mappings too */
        unsigned processes;
};

/* How it tells what happens, from its reactor; nothing of it from within a function called here. */
struct child_events {
        /* It wrote a line, here without its LF, to its standard output or standard error. */
        void (*line)(struct child *child, bool error, const char *line, size_t len);
        /* It said one thing of sd_notify(3): it, or another process of root's or of who msd runs as. */
        void (*notified)(struct child *child, const char *assignment);
        /* The process that msd started has ended. Others of its tree may live: they are being stopped. */
        void (*exited)(struct child *child, const struct child_end *end);
        /* The last process of the tree is gone, or what child_clear() has found. The next child_start() is allowed. */
        void (*ended)(struct child *child, const struct child_end *end);
        /* SIGKILL did not end these processes, here in words: once a minute. */
        void (*held)(struct child *child, const char *processes);
};

struct child_options {
        struct reaper *reaper;                  /* borrowed, and outlives it */
        const char *place;                      /* borrowed: the same for every msd that serves there, and for no other */
        uint64_t stop_timeout;                  /* nanoseconds from SIGTERM to SIGKILL */
        struct rlimit descriptors;              /* what it gets; all zero: what msd has */
};

#define CHILD_LINE_MAX 2048

/* What comes by one pipe. */
struct child_stream {
        struct watch watch;
        char *buffer;
        size_t len;
        unsigned failures;                      /* so often in a row it could not be read */
};

struct child {
        struct reactor *reactor;
        const struct child_events *events;
        struct child_options options;
        struct reaper_child process;            /* and the process group; its pid is 0: there is none */
        struct tree tree;
        struct child_end end;
        char how[64];
        struct child_stream out;
        struct child_stream err;
        struct watch notify;
        unsigned notify_failures;
        int start_fd;                           /* says why it did not start, and nothing if it did */
        struct cause cause;                     /* its last lines */
        char owner[OWNER_MAX];                  /* tells the processes of this msd from those of others */
};

void child_init(struct child *child, struct reactor *reactor, const struct child_events *events,
                const struct child_options *options);

/* Kills what there is, and waits for that a few seconds at the most. */
void child_deinit(struct child *child);

/*
 * Ends what dead msds of the same place have left. Returns whether there is something to wait for, until `ended`; then
 * child_start() is not allowed yet.
 */
bool child_clear(struct child *child);

/*
 * Starts the program that `argv` names, looked for in $PATH. It gets $NOTIFY_SOCKET. Returns 0 or -errno. Nobody waits for execve(2),
 * which takes as long as the file system of the program does: if it fails, `exited` says so.
 */
int child_start(struct child *child, char *const *argv);

/*
 * Whether `process`, which the kernel has told of, is one that this child or a dead msd of the same place has started:
 * also when it is about to end, or has just ended.
 */
bool child_has_left(const struct child *child, const struct ucred *process);

static inline bool child_is_there(const struct child *child) {
        return child->process.pid > 0 || child->tree.stopping;
}

/* Asks the whole tree to end, SIGTERM, and after `stop_timeout` SIGKILL. Harmless without one. */
void child_stop(struct child *child);

/* The same where msd ends behind it: `ended` comes in any case, a few seconds after SIGKILL at the latest. */
void child_stop_last(struct child *child);

/* SIGKILL, at once. */
void child_kill(struct child *child);

/* What it has written of a line whose end is still to come, such as a progress bar, to standard output or standard error. */
const char *child_open_line(const struct child *child, bool error, size_t *len);

/* Calls `each` for every process of the tree. */
void child_each_process(struct child *child, void (*each)(pid_t pid, void *data), void *data);

void child_usage(struct child *child, struct child_usage *usage);
