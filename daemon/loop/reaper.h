#pragma once

/*
 * Reaps every child of this process: those that it started, whose end is told, and those that it adopts: the orphans of all
 * that these started (PR_SET_CHILD_SUBREAPER), and as process 1 of a container those of the container.
 */

#include <signal.h>
#include <stdbool.h>

#include "daemon/loop/reactor.h"

/* A process that was started here. Its owner embeds it; all zero: there is none. */
struct reaper_child {
        struct list link;
        pid_t pid;
        void (*ended)(struct reaper_child *child, const siginfo_t *info);
};

struct reaper {
        struct reactor *reactor;
        struct watch signals;
        struct list children;
        unsigned failures;              /* events of `signals` in a row that brought none */
        bool adopts_strangers;          /* what is adopted need not come from what was started here */
};

#define REAPER_NULL { .signals = WATCH_NULL }

/* SIGCHLD is for the reaper: to be called before there is another thread. */
void reaper_hold_signals(void);

/* Returns 0 or -errno. */
int reaper_init(struct reaper *reaper, struct reactor *reactor);
void reaper_deinit(struct reaper *reaper);

/* `child` has been forked since the last turn of the reactor. Its end is told once: it is reaped then, and its pid is free. */
void reaper_add(struct reaper *reaper, struct reaper_child *child);

/* Its end is not told any more. Harmless twice. */
void reaper_remove(struct reaper_child *child);
