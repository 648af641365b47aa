#include "daemon/loop/mailbox.h"

#include <errno.h>
#include <sys/eventfd.h>

#include "common/util.h"

static void mailbox_ready(struct watch *watch, uint32_t events) {
        struct mailbox *mailbox = container_of(watch, struct mailbox, watch);
        uint64_t count;
        unsigned messages;

        (void)events;
        /* Drained first: what is posted from here on wakes again. Edge-triggered, one that cannot be drained does not spin. */
        (void)!read(watch->fd, &count, sizeof(count));
        messages = atomic_exchange(&mailbox->messages, 0);
        if (messages != 0)
                mailbox->deliver(mailbox, messages);
}

int mailbox_init(struct mailbox *mailbox, struct reactor *reactor,
                 void (*deliver)(struct mailbox *mailbox, unsigned messages)) {
        _cleanup_close_ int fd = -1;
        int r;

        *mailbox = (struct mailbox){ .watch = WATCH_NULL, .deliver = deliver };
        fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fd < 0)
                return -errno;
        r = reactor_watch(reactor, &mailbox->watch, fd, EPOLLIN | EPOLLET, mailbox_ready);
        if (r < 0)
                return r;
        (void)STEAL_FD(fd);
        return 0;
}

void mailbox_deinit(struct mailbox *mailbox) {
        reactor_unwatch(&mailbox->watch);
        mailbox->watch.fd = util_close(mailbox->watch.fd);
}

void mailbox_post(struct mailbox *mailbox, unsigned messages) {
        const uint64_t one = 1;

        /* There is no other way to say that it cannot be said: who does not hear it waits for ever. */
        if (atomic_fetch_or(&mailbox->messages, messages) == 0 && write(mailbox->watch.fd, &one, sizeof(one)) < 0)
                (void)reactor_rouse(&mailbox->watch);
}
