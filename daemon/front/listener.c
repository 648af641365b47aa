#include "daemon/front/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/address.h"
#include "common/number.h"
#include "common/util.h"
#include "daemon/log.h"

/* So many in one turn; then those that are connected have theirs. */
#define ACCEPT_BATCH 64

/* A descriptor of another worker's, or another process's, that is closed tells nobody. */
#define RETRY_NSEC (100 * NSEC_PER_MSEC)

/* Whether somebody listens at `address`. Returns 1, 0 if the socket is stale, or -errno. */
static int is_alive(const struct sockaddr_un *address, socklen_t len) {
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0)
                return -errno;
        if (connect(fd, (const struct sockaddr *)address, len) == 0 || errno == EAGAIN)
                return 1;
        return errno == ECONNREFUSED || errno == ENOENT ? 0 : -errno;
}

/*
 * Takes the lock of the directory that `path` is in: of two daemons that find a stale socket at the same time, one
 * would otherwise replace the new socket of the other. Returns a descriptor that holds it, or -errno.
 */
static int lock_directory(const char *path) {
        char directory[ADDRESS_PATH_MAX];
        const char *slash = strrchr(path, '/');
        _cleanup_close_ int fd = -1;

        if (!slash)
                snprintf(directory, sizeof(directory), ".");
        else
                snprintf(directory, sizeof(directory), "%.*s", slash == path ? 1 : (int)(slash - path), path);
        fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        while (flock(fd, LOCK_EX) < 0)
                if (errno != EINTR)
                        return -errno;
        return STEAL_FD(fd);
}

int listener_socket_open(struct listener_socket *listening, const char *path) {
        _cleanup_close_ int fd = -1, lock = -1, file = -1;
        struct sockaddr_un address;
        struct stat st;
        socklen_t len;
        int r;

        *listening = (struct listener_socket)LISTENER_SOCKET_NULL;
        switch (address_from_path(path, &address, &len)) {
        case ADDRESS_EMPTY:
                return LISTENER_PATH_EMPTY;
        case ADDRESS_TOO_LONG:
                return LISTENER_PATH_TOO_LONG;
        }
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        lock = lock_directory(path);
        if (lock < 0)
                return lock;

        if (lstat(path, &st) == 0) {
                if (!S_ISSOCK(st.st_mode))
                        return LISTENER_NOT_A_SOCKET;
                r = is_alive(&address, len);
                if (r != 0)
                        return r < 0 ? r : LISTENER_IN_USE;
                if (unlink(path) < 0 && errno != ENOENT)
                        return -errno;
        }
        if (bind(fd, (const struct sockaddr *)&address, len) < 0)
                return -errno;
        /* Cut to net.core.somaxconn by the kernel: listen(2). */
        if (listen(fd, INT32_MAX) == 0)
                /* Kept open, so that its inode number stays its own: by that it is known again. */
                file = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (file < 0) {
                r = -errno;
                (void)unlink(path);
                return r;
        }
        listening->fd = STEAL_FD(fd);
        listening->file = STEAL_FD(file);
        listening->path = path;
        return 0;
}

void listener_socket_close(struct listener_socket *listening) {
        _cleanup_close_ int lock = -1;
        struct stat ours, there;

        if (listening->file >= 0) {
                lock = lock_directory(listening->path);
                if (fstat(listening->file, &ours) == 0 && lstat(listening->path, &there) == 0 &&
                    ours.st_dev == there.st_dev && ours.st_ino == there.st_ino)
                        (void)unlink(listening->path);
        }
        listening->file = util_close(listening->file);
        listening->fd = util_close(listening->fd);
}

static void listener_ready(struct watch *watch, uint32_t events);

static void listener_retry_later(struct listener *listener) {
        reactor_set_timer(listener->reactor, &listener->retry, timer_now() + RETRY_NSEC);
}

static void listener_resume(struct listener *listener) {
        int r;

        timer_clear(&listener->retry);
        if (listener->watch.reactor || listener->ended)
                return;
        /* EPOLLEXCLUSIVE: a client that connects wakes one worker, not all of them; epoll_ctl(2). */
        r = reactor_watch(listener->reactor, &listener->watch, listener->fd, EPOLLIN | EPOLLEXCLUSIVE, listener_ready);
        if (r < 0)
                listener_retry_later(listener);
}

/* Level-triggered, it would spin on a backlog that cannot be accepted from. */
static void listener_pause(struct listener *listener) {
        reactor_unwatch(&listener->watch);
        listener_retry_later(listener);
}

static void listener_ready(struct watch *watch, uint32_t events) {
        struct listener *listener = container_of(watch, struct listener, watch);

        (void)events;
        for (unsigned i = 0; i < ACCEPT_BATCH; i++) {
                int fd;

                if (atomic_fetch_add(&listener->limit->connections, 1) >= listener->limit->max) {
                        atomic_fetch_sub(&listener->limit->connections, 1);
                        listener_pause(listener);
                        return;
                }
                fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                if (fd < 0) {
                        int error = errno;

                        atomic_fetch_sub(&listener->limit->connections, 1);
                        if (error == EAGAIN)
                                return;
                        /* The error of one that has gone again is not the socket's: accept(2). */
                        if (error == EINTR || error == ECONNABORTED)
                                continue;
                        if (error != EMFILE && error != ENFILE && error != ENOBUFS && error != ENOMEM)
                                log_warning("Cannot accept a connection, ignoring: %s", strerror(error));
                        listener_pause(listener);
                        return;
                }
                listener->accepted(listener, fd);
        }
}

static void listener_retry(struct timer *timer) {
        listener_resume(container_of(timer, struct listener, retry));
}

int listener_init(struct listener *listener, struct reactor *reactor, int fd, struct listener_limit *limit,
                  void (*accepted)(struct listener *listener, int fd)) {
        *listener = (struct listener){
                .watch = WATCH_NULL,
                .reactor = reactor,
                .limit = limit,
                .fd = fd,
                .accepted = accepted,
        };
        timer_init(&listener->retry, listener_retry);
        return reactor_watch(reactor, &listener->watch, fd, EPOLLIN | EPOLLEXCLUSIVE, listener_ready);
}

void listener_deinit(struct listener *listener) {
        listener->ended = true;
        if (!listener->reactor)
                return;
        timer_clear(&listener->retry);
        reactor_unwatch(&listener->watch);
}

void listener_release(struct listener *listener) {
        atomic_fetch_sub(&listener->limit->connections, 1);
        listener_resume(listener);
}
