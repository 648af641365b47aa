#pragma once

/*
 * How a thread tells the reactor of another one something: bits that are set from anywhere, and delivered in the
 * reactor's own thread, together and once. An eventfd wakes it, and is drained.
 */

#include <stdatomic.h>
#include <stdint.h>

#include "daemon/loop/reactor.h"

struct mailbox {
        struct watch watch;
        atomic_uint messages;
        void (*deliver)(struct mailbox *mailbox, unsigned messages);
};

#define MAILBOX_NULL { .watch = WATCH_NULL }

/* Returns 0 or -errno of eventfd(2) and epoll_ctl(2). */
int mailbox_init(struct mailbox *mailbox, struct reactor *reactor,
                 void (*deliver)(struct mailbox *mailbox, unsigned messages));
void mailbox_deinit(struct mailbox *mailbox);

/* Sets `messages` (bits). From any thread. */
void mailbox_post(struct mailbox *mailbox, unsigned messages);
