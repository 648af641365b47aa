#pragma once

/*
 * All processes of one model: the one that msd started, and all that these started, in whatever group or session. They are
 * found in /proc, signalled one by one, and waited for.
 *
 * A process belongs to the tree if msd started it, if its parent belongs to it, if it belonged to it before, or if it was
 * orphaned and msd adopted it: the reaper makes msd the parent of the orphans of its descendants. Where msd adopts those of
 * strangers too, the environment tells them apart.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/loop/reactor.h"
#include "daemon/model/process.h"

struct tree;

struct tree_events {
        /* tree_stop() is done: the last process has ended, or msd does not wait for it any more. */
        void (*gone)(struct tree *tree);
        /* SIGKILL did not end these processes, here in words. Told once a minute. */
        void (*held)(struct tree *tree, const char *processes);
};

struct tree_member {
        struct process process;
        bool terminated;                        /* it got SIGTERM */
        bool killed;                            /* it got SIGKILL */
        int error;                              /* errno of the last signal; 0: it got it */
};

struct tree {
        struct reactor *reactor;
        const struct tree_events *events;
        const char *owner;                      /* borrowed: OWNER_VARIABLE of this msd */
        bool adopts_strangers;
        pid_t root;                             /* what msd started, and its group; 0: none, or it was reaped */
        struct tree_member *members;            /* as of the last look */
        size_t count;
        unsigned empty_looks;                   /* in a row, which found no member */
        bool stopping;
        bool killing;
        bool terminated;                        /* the group of the root got SIGTERM or SIGKILL as a whole */
        bool with_left_overs;                   /* of dead msds at the same place too */
        bool is_last;                           /* msd ends behind it: it does not wait for ever */
        uint64_t kill_at;
        uint64_t held_at;                       /* when `held` is due */
        struct watch watch;                     /* one of those that are waited for, and which */
        struct process_id watched;
        struct timer look;
};

/* `owner` is that of owner_format(); `adopts_strangers` that of the reaper. */
void tree_init(struct tree *tree, struct reactor *reactor, const struct tree_events *events, const char *owner,
               bool adopts_strangers);

/* Kills what there is, and waits for that a few seconds at the most. */
void tree_deinit(struct tree *tree);

/* Finds the members. Returns 0 or -errno: then only the root is known. */
int tree_look(struct tree *tree);

/*
 * Ends all processes: SIGTERM, and SIGKILL after `timeout`. `gone` follows, from the reactor. Again: an earlier SIGKILL
 * counts. Processes that come meanwhile are ended too.
 */
void tree_stop(struct tree *tree, uint64_t timeout);

/*
 * The same for what dead msds of the same place have left. Returns whether there is anything; otherwise nothing follows.
 */
bool tree_stop_left_overs(struct tree *tree, uint64_t timeout);
