#pragma once

/*
 * What outlives the daemon: the connections of one worker, and what has come on them, left with a service manager
 * while a gate is pending, for the next process to take over. Nothing here reads it: that is parked.h.
 *
 * The descriptors are in flight in a Unix socket pair, of which the manager keeps both ends, so that it has three
 * descriptors to keep for any number of connections (sd_pid_notify_with_fds(3), FDSTORE=). What was read from them
 * stands in a log, in a memfd that it keeps with them, keyed to the connection by SO_COOKIE (socket(7)): a number that the kernel
 * gives to no other socket.
 *
 * The log is a header of one page, and records from where the header says to the end of the file, in the order in
 * which things happened. All integers are the machine's own.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/loop/list.h"
#include "daemon/loop/reactor.h"

#define PARKING_MAGIC "msd parked 2\n"
#define PARKING_HEADER_SIZE 4096

/* The names that descriptors are kept under begin so. */
#define PARKING_NAME_PREFIX "parked-"

/* Descriptors in one message: SCM_MAX_FD, unix(7). */
#define PARKING_BATCH 253

struct parking_header {
        char magic[16];
        uint64_t begin;         /* where the records begin */
        uint64_t dropped;       /* not 0: nothing of it counts any more */
};

enum parking_type {
        PARKING_WAITING = 1,    /* a command that waits, as on the wire; `value`: when it came, CLOCK_MONOTONIC */
        PARKING_ANSWERED,       /* the one that waits whose record begins at `value` is answered */
        PARKING_REST,           /* what was read and is no whole command yet: in place of what was so before. `value` and */
                                /* `flags`: of a struct line that drops something */
        PARKING_MORE,           /* more of that */
        PARKING_BUSY,           /* something is on its way to the client that a successor cannot send */
        PARKING_IDLE,           /* not so any more */
        PARKING_GONE,           /* the connection has ended */
};

enum {
        PARKING_SKIP_END = 1 << 0,
        PARKING_DRAINING = 1 << 1,
};

struct parking_record {
        uint32_t len;           /* of the data that follow */
        uint16_t type;
        uint16_t flags;
        uint64_t cookie;
        uint64_t value;
};

/* A connection that is parked. Its owner embeds it. */
struct guest {
        struct list link;       /* in no list: it is not parked */
        uint64_t cookie;
        int fd;                 /* borrowed */
        bool sent;              /* a successor gets it, and closing it does not end the connection */
};

/* Who keeps it all. From any thread. */
struct parking_keeper {
        /* Returns 0 or -errno: it does not have them. */
        int (*keep)(struct parking_keeper *keeper, const char *name, const int *fds, unsigned n);
        void (*release)(struct parking_keeper *keeper, const char *name);
};

struct parking {
        struct reactor *reactor;
        struct parking_keeper *keeper;  /* NULL: there is none, and nothing is parked */
        void (*describe)(struct parking *parking);      /* says anew, by parking_record(), all that counts */
        struct job job;
        struct list unsent;
        struct list sent;
        unsigned number;
        unsigned pairs;                 /* that there have been */
        char name[64];
        int log;                        /* a memfd; -1: nothing is parked */
        int pair[2];
        unsigned messages;              /* in the pair */
        unsigned in_flight;             /* descriptors in them, those of connections that have ended too */
        unsigned guests_sent;
        char *buffer;                   /* records that are still to be written */
        size_t buffered;
        uint64_t begin;
        uint64_t end;
        uint64_t rewrite_at;            /* when the log has grown to so much, it is written anew */
        bool failed;                    /* it cannot be done, at this gate */
        bool full;                      /* it was said that not every connection has room */
        bool leaving;
};

/* `number` tells the workers apart; `reactor` and `keeper` are borrowed. */
void parking_init(struct parking *parking, struct reactor *reactor, struct parking_keeper *keeper, unsigned number,
                  void (*describe)(struct parking *parking));

/* Ends it: the keeper keeps what is parked if parking_leave() was called, and else releases it. */
void parking_deinit(struct parking *parking);

static inline bool parking_is_open(const struct parking *parking) {
        return parking->log >= 0;
}

/* A gate is pending: from now on there may be guests. Returns whether it can be done. */
bool parking_open(struct parking *parking);

/* The gate has left PENDING: what is parked counts for nobody any more, from the return on. Harmless otherwise. */
void parking_drop(struct parking *parking);

/* What is parked is for a successor, and stays so when this process ends. */
void parking_leave(struct parking *parking);

void guest_init(struct guest *guest);

static inline bool guest_is_parked(const struct guest *guest) {
        return !list_is_empty(&guest->link);
}

/* The connection with the descriptor `fd` is parked at the end of the turn. */
void parking_add(struct parking *parking, struct guest *guest, int fd);

/*
 * It has ended, and is about to be closed. Where a copy of its descriptor is in flight, the connection is shut down,
 * or its client would not see the end.
 */
void parking_remove(struct parking *parking, struct guest *guest);

/*
 * Adds a record about a guest, with data in up to three pieces. Returns where in the log it begins; 0, and it does nothing,
 * for a guest that is not parked.
 */
struct parking_data {
        const void *data;
        size_t len;
};
uint64_t parking_record(struct parking *parking, const struct guest *guest, enum parking_type type, unsigned flags,
                        uint64_t value, const struct parking_data *data, unsigned n);

/* Writes the records that there are, so that they outlive the process. */
void parking_write(struct parking *parking);

/* Sends the descriptors that are due, and does at once what the end of the turn is for. */
void parking_flush(struct parking *parking);
