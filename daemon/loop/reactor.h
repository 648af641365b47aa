#pragma once

/*
 * One epoll set, its watches, its timers, and jobs for the end of a turn. One thread owns it; nothing here is
 * safe from another. It knows nothing of what it runs.
 *
 * A turn: wait, call the watches that are ready, call the timers that are due, run the jobs that were queued.
 * A job that is queued while jobs run belongs to the next turn, which then does not wait: work that is cut into
 * portions by queueing itself again lets everything else go on in between.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "daemon/loop/list.h"
#include "daemon/loop/timer.h"

struct reactor;

/* A descriptor in the set. It is not owned: closing it is for who embeds the watch, after reactor_unwatch(). */
struct watch {
        struct reactor *reactor;        /* NULL while it is in no set */
        void (*ready)(struct watch *watch, uint32_t events);
        int fd;
        uint32_t events;
};

#define WATCH_NULL { .fd = -1 }

/* Something to do once, at the end of the turn. */
struct job {
        struct list link;
        void (*run)(struct job *job);
};

#define REACTOR_BATCH 256

struct reactor {
        int epoll;
        bool stopped;
        bool no_pwait2;
        int error;                      /* -errno of what makes it end */
        uint64_t now;                   /* of this turn; 0 until somebody asks */
        struct timer_list timers;
        struct list jobs;
        struct epoll_event batch[REACTOR_BATCH];
        int batch_next;                 /* the events from here on are still to be dispatched */
        int batch_end;
};

/* Returns 0 or -errno: -EMFILE, -ENFILE, -ENOMEM of epoll_create1(2). */
int reactor_init(struct reactor *reactor);

/* For memory that is all zero, or was deinitialised before, this does nothing. */
void reactor_deinit(struct reactor *reactor);

/*
 * Runs turns until reactor_stop(), and the rest of the turn in which that is called. Returns 0 or -errno: of the wait, of
 * taking a watch out of the set, or as reactor_fail() said.
 */
int reactor_run(struct reactor *reactor);
void reactor_stop(struct reactor *reactor);

/* The same as reactor_stop(), for an error: -errno. The first one counts. */
void reactor_fail(struct reactor *reactor, int error);

/* Adds `fd` to the set; `events` are those of epoll_ctl(2). Returns 0 or -errno, which leaves the watch out of it. */
int reactor_watch(struct reactor *reactor, struct watch *watch, int fd, uint32_t events,
                  void (*ready)(struct watch *watch, uint32_t events));

/*
 * Changes what is watched for; reactor_rearm() has what is ready told again of an edge-triggered watch. Both return 0 or
 * -errno.
 */
int reactor_rearm(struct watch *watch, uint32_t events);
int reactor_rewatch(struct watch *watch, uint32_t events);

/*
 * Has an edge-triggered watch of a descriptor that can be written to called, as if it had become readable. From any thread;
 * from then on it is called for both. Returns 0 or -errno.
 */
int reactor_rouse(struct watch *watch);

/*
 * Takes the watch out of its set: it is not called again, in the turn that is running neither. Harmless twice. Where the
 * kernel does not let go of it, that turn is the last one.
 */
void reactor_unwatch(struct watch *watch);

void job_init(struct job *job, void (*run)(struct job *job));

/* Has the job run at the end of the turn; nothing if it is queued already. */
static inline void reactor_queue(struct reactor *reactor, struct job *job) {
        if (list_is_empty(&job->link))
                list_append(&reactor->jobs, &job->link);
}
void job_cancel(struct job *job);

/* Nanoseconds of CLOCK_MONOTONIC, read once a turn. */
uint64_t reactor_now(struct reactor *reactor);

static inline void reactor_set_timer(struct reactor *reactor, struct timer *timer, uint64_t due) {
        timer_set(&reactor->timers, timer, due);
}
