#pragma once

/*
 * What outlives the daemon: the connections of one worker, and what has come on them, left with a service manager for the next
 * process to take over, while requests wait at a pending gate or for a place, or the daemon leaves. One mechanism for both
 * fronts. Nothing here reads what is parked: that is parked.h.
 *
 * The descriptors are in flight in a Unix socket pair, of which the manager keeps both ends, so that it has three
 * descriptors to keep for any number of connections (sd_pid_notify_with_fds(3), FDSTORE=). What was read from them
 * stands in a log, in a memfd that it keeps with them, keyed to the connection by SO_COOKIE (socket(7)): a number that
 * the kernel gives to no other socket.
 *
 * The log is a header of one page, and records from where the header says to the end of the file, in the order in
 * which things happened. All integers are the machine's own.
 *
 * Records are written at the end of the turn; and with parking_write() before anything leaves that a second answer, or none,
 * could come of.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/loop/list.h"
#include "daemon/loop/reactor.h"
#include "daemon/queue/lane.h"

#define PARKING_MAGIC "msd parked 3\n"
#define PARKING_HEADER_SIZE 4096

/* The names that descriptors are kept under begin so. */
#define PARKING_NAME_PREFIX "parked-"

/* Descriptors in one message: SCM_MAX_FD, unix(7). */
#define PARKING_BATCH 253

struct parking_header {
        char magic[16];
        uint64_t begin;         /* where the records begin */
        uint64_t dropped;       /* not 0: nothing of it counts any more */
        /*
         * The cookie of the connection that is being read, or 0: what was read may not be in the log yet. Who takes over ends that
         * one, for what comes behind a hole would be taken for something else.
         */
        _Atomic uint64_t reading;
};

enum parking_type {
        PARKING_WAITING = 1,    /* a request that waits, as its front is fed with it; `value`: when it came, CLOCK_MONOTONIC */
        PARKING_ANSWERED,       /* the request with this key does not wait any more */
        PARKING_REST,           /* what was read and is no whole request yet: in place of what was so before. `value` and */
                                /* `flags` are the front's: the request socket's are of a struct line that drops something */
        PARKING_MORE,           /* more of that */
        PARKING_LOST,           /* of what was read some is not here: --max-parked. Up to the next PARKING_REST */
        PARKING_BUSY,           /* something is on its way to the client that a successor cannot send */
        PARKING_IDLE,           /* not so any more */
        PARKING_HTTP,           /* the connection is one of HTTP */
        PARKING_GONE,           /* the connection has ended */
};

/* Flag of PARKING_WAITING and PARKING_ANSWERED: the request itself is not here, --max-parked. */
#define PARKING_UNHELD 0x8000

/* Flag of PARKING_WAITING, of HTTP: the answer has no body, for it is to a HEAD. */
#define PARKING_BODILESS 0x4000

/* Flags of PARKING_REST, of the request socket. */
enum {
        PARKING_SKIP_END = 1 << 0,
        PARKING_DRAINING = 1 << 1,
};

struct parking_record {
        uint32_t len;           /* of the data that follow */
        uint16_t type;
        uint16_t flags;
        uint64_t cookie;
        uint64_t key;           /* of a request: no other one that waits has it */
        uint64_t value;
};

/* A connection that is parked. Its owner embeds it. */
struct guest {
        struct list link;       /* in no list: it is not parked */
        struct request_owner *owner;
        void (*describe)(struct guest *guest);
        uint64_t cookie;
        uint64_t held;          /* bytes that count against --max-parked: of its requests, and of its rest */
        uint64_t rest;          /* those of its rest */
        int fd;                 /* borrowed */
        bool sent;              /* a successor gets it, and closing it does not end the connection */
        bool lost;              /* its rest has no room in the log: a successor cannot take it over */
};

/* Who keeps it all. From any thread. */
struct parking_keeper {
        /* Returns 0 or -errno: it does not have them. */
        int (*keep)(struct parking_keeper *keeper, const char *name, const int *fds, unsigned n);
        /* Whether it has what keep() returned 0 for by now: it may be busy with something else. */
        bool (*has)(struct parking_keeper *keeper, const char *name);
        void (*release)(struct parking_keeper *keeper, const char *name);
};

/* --max-parked: of all workers. */
struct parking_limit {
        uint64_t max;                   /* bytes of prompts, HTTP requests and beginnings of these in the logs */
        atomic_uint_fast64_t bytes;
};

struct parking {
        struct reactor *reactor;
        struct lane *lane;
        struct parking_keeper *keeper;  /* NULL: there is none, and nothing is parked */
        struct parking_limit *limit;
        void (*opened)(struct parking *parking);
        struct job job;
        struct timer pause;             /* until it is closed because nothing waits any more, or tried again after a failure */
        struct list unsent;
        struct list sent;
        unsigned number;
        unsigned pairs;                 /* that there have been */
        char name[64];
        int log;                        /* a memfd; -1: nothing is parked */
        struct parking_header *header;  /* that of the log, mapped; NULL: it is not open */
        int pair[2];
        unsigned messages;              /* in the pair */
        unsigned in_flight;             /* descriptors in them, those of connections that have ended too */
        unsigned guests_sent;
        char *buffer;                   /* records that are still to be written */
        size_t buffered;
        uint64_t held;                  /* bytes of all guests that count against the limit */
        uint64_t begin;
        uint64_t end;
        uint64_t rewrite_at;            /* when the log has grown to so much, it is written anew */
        bool failed;                    /* it cannot be done, until the pause is over */
        bool full;                      /* it was said that not every connection has room */
        bool leaving;
};

/*
 * `number` tells the workers apart; the pointers are borrowed. `opened` is called when parking has begun: then each
 * front parks the connections that it has.
 */
void parking_init(struct parking *parking, struct lane *lane, struct parking_keeper *keeper, struct parking_limit *limit,
                  unsigned number, void (*opened)(struct parking *parking));

/*
 * Ends it: the keeper keeps what is parked if parking_leave() was called, and else releases it. Harmless twice, and for
 * zeros.
 */
void parking_deinit(struct parking *parking);

/* Whether connections that come now are parked. */
static inline bool parking_is_open(const struct parking *parking) {
        return parking->log >= 0;
}

/*
 * Begins to park, if there is a connection, and a reason: the gate of the lane is pending, requests wait, or the lane is
 * leaving. Harmless otherwise. It ends by itself some time after the last of these reasons.
 */
void parking_open(struct parking *parking);

/* What is parked counts for nobody any more, from the return on. Harmless otherwise. */
void parking_drop(struct parking *parking);

/*
 * What is parked is for a successor, and stays so when this process ends. Requests that no successor will find are not parked
 * any more: lane_abandon(), which is due, answers them.
 */
void parking_leave(struct parking *parking);

/* `describe` records anew, with parking_record(), all that is to be known of the connection but for its waiting requests. */
void guest_init(struct guest *guest, struct request_owner *owner, void (*describe)(struct guest *guest));

static inline bool guest_is_parked(const struct guest *guest) {
        return !list_is_empty(&guest->link);
}

/*
 * Parks the connection with the descriptor `fd`, at the end of the turn. What is to be known of it is recorded by the
 * caller.
 */
void parking_add(struct parking *parking, struct guest *guest, int fd);

/*
 * It has ended, and is about to be closed. Where a copy of its descriptor is in flight, the connection is shut down,
 * or its client would not see the end.
 */
void parking_remove(struct parking *parking, struct guest *guest);

/* Whether a successor finds the connection; unless something is on its way to the client. parking_leave() was called. */
bool parking_has_successor(const struct parking *parking, const struct guest *guest);

/* The same as parking_remove() for a connection that has a successor: it goes on there, and is closed here. */
void parking_hand_over(struct parking *parking, struct guest *guest);

struct parking_data {
        const void *data;
        size_t len;
};

/*
 * Records a request of the guest that waits, with data in up to three pieces, and marks it as parked; neither if the
 * guest is not parked. When --max-parked is reached only the fact is recorded, and it is marked as unheld: a successor
 * ends the connection, and says why. The bytes that count are `prompt_len` of the inference.
 */
void parking_wait(struct parking *parking, struct guest *guest, struct request *request, unsigned flags,
                  const struct parking_data *data, unsigned n);

/* The request does not wait any more: it is answered, or about to go to the model. Nothing if it was not recorded. */
void parking_end_recorded(struct parking *parking, struct guest *guest, struct request *request);
static inline void parking_end(struct parking *parking, struct guest *guest, struct request *request) {
        if (request->inference.parked || request->inference.unheld)
                parking_end_recorded(parking, guest, request);
}

/* Records something else about the guest. Nothing if it is not parked. */
void parking_record(struct parking *parking, struct guest *guest, enum parking_type type, unsigned flags, uint64_t value,
                    const struct parking_data *data, unsigned n);

/* The connection is about to be read; and everything that was read is recorded. Nothing for a guest that is not parked. */
void parking_begin_input(struct parking *parking, const struct guest *guest);
void parking_end_input(struct parking *parking);

/* Writes the records that there are, so that they outlive the process. */
void parking_write(struct parking *parking);

/* Sends the descriptors that are due, and does at once what the end of the turn is for. */
void parking_flush(struct parking *parking);
