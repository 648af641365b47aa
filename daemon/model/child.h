#pragma once

/*
 * A supervised process, with all that it starts: a process group of its own, gone with msd. In the main thread.
 */

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "daemon/loop/reactor.h"

struct child;

/* How the process that msd started has ended. */
struct child_end {
        bool was_killed;                        /* by SIGKILL or SIGTERM, which msd did not send */
        bool was_stopped;                       /* after child_stop() or child_kill() */
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
        /* The last process of the tree is gone. The next child_start() is allowed. */
        void (*ended)(struct child *child, const struct child_end *end);
};

#define CHILD_LINE_MAX 2048
#define CHILD_TAIL_LINES 3

/* What comes by one pipe. */
struct child_stream {
        struct watch watch;
        char *buffer;
        size_t len;
        unsigned vain;                          /* so often in a row it could not be read */
};

struct child {
        struct reactor *reactor;
        const struct child_events *events;
        const char *owner;                      /* borrowed: tells the daemon's children from those of others */
        bool stopping;                          /* by child_stop() or child_kill() */
        pid_t pid;                              /* and the process group; 0: there is none */
        struct watch process;
        struct child_stream out;
        struct child_stream err;
        struct watch notify;
        unsigned notify_vain;
        struct timer kill;
        char tail[CHILD_TAIL_LINES][256];       /* the last lines of standard error */
        unsigned tail_next;
};

void child_init(struct child *child, struct reactor *reactor, const struct child_events *events, const char *owner);

/* Kills what there is, and waits for that. */
void child_deinit(struct child *child);

/*
 * Starts the program that `argv` names, looked for in $PATH, after a group that an earlier daemon of the same owner left
 * was killed. It gets $NOTIFY_SOCKET. Returns 0, or -errno: that of execve(2) too.
 */
int child_start(struct child *child, char *const *argv);

/*
 * Whether `process`, which the kernel has told of, is one that this child or an earlier one of the same owner has started:
 * also when it is about to end, or has just ended.
 */
bool child_has_left(const struct child *child, const struct ucred *process);

static inline bool child_is_there(const struct child *child) {
        return child->pid > 0;
}

/* Asks the whole group to end, SIGTERM, and after five seconds SIGKILL. Harmless without one. */
void child_stop(struct child *child);

/* SIGKILL, at once. */
void child_kill(struct child *child);

/* The last lines of standard error, on one line, separated by " / ". */
void child_tail(const struct child *child, char *text, size_t size);

/* What it has written of a line whose end is still to come, such as a progress bar, to standard output or standard error. */
const char *child_open_line(const struct child *child, bool error, size_t *len);

/* Calls `each` for every process of the tree. */
void child_each_process(struct child *child, void (*each)(pid_t pid, void *data), void *data);

void child_usage(struct child *child, struct child_usage *usage);
