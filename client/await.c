#include "client/await.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "client/deadline.h"
#include "client/session.h"
#include "common/address.h"
#include "common/util.h"

/* A directory that is not there any more, or not at its place. */
#define EVENTS_SELF (IN_DELETE_SELF | IN_MOVE_SELF)

/* Something new in it, or something that may be used now. */
#define EVENTS_INSIDE (IN_CREATE | IN_MOVED_TO | IN_ATTRIB)

/*
 * No event says that listen(2) was called. Daemons do so as soon as they have bound the socket, so that after each event a
 * refused connection is tried again a few times, with pauses that double: about a second in all.
 */
#define RETRIES_MAX 10
#define FIRST_PAUSE NSEC_PER_MSEC

int await_init(struct await *await) {
        await->retries = 0;
        await->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        return await->fd < 0 ? -errno : 0;
}

void await_deinit(struct await *await) {
        await->fd = util_close(await->fd);
}

/* The length of the directory behind the one of `len` bytes on the way to the file; 0: that was the last one. */
static size_t next_directory(const char *path, size_t len) {
        const char *end;

        len += strspn(path + len, "/");
        end = strchr(path + len, '/');
        return end ? (size_t)(end - path) : 0;
}

/* The first `len` bytes of `path`; of a relative one none: the working directory. */
static int watch_directory(struct await *await, const char *path, size_t len, uint32_t events) {
        char directory[ADDRESS_PATH_MAX] = ".";

        if (len >= sizeof(directory))
                return -ENAMETOOLONG;
        memcpy(directory, path, len);
        return inotify_add_watch(await->fd, directory, events | IN_ONLYDIR | IN_MASK_ADD) < 0 ? -errno : 0;
}

/* From above, so that a directory that comes meanwhile is found, or is an event of the one that it comes in. */
int await_watch(struct await *await, const char *path) {
        size_t len = strspn(path, "/"), next;
        int r;

        r = watch_directory(await, path, len, EVENTS_SELF);
        if (r < 0 && r != -EACCES)
                return r;
        for (; (next = next_directory(path, len)) > 0; len = next) {
                r = watch_directory(await, path, next, EVENTS_SELF);
                if (r == -ENOENT) {
                        r = watch_directory(await, path, len, EVENTS_INSIDE);
                        if (r < 0)
                                break;
                        r = watch_directory(await, path, next, EVENTS_SELF);
                        if (r == -ENOENT)
                                break;
                }
                /* One that may not be read is perhaps passed through. */
                if (r < 0 && r != -EACCES)
                        return r;
        }
        if (next == 0)
                r = watch_directory(await, path, len, EVENTS_INSIDE);
        /* If a directory went meanwhile, that is an event. */
        return r == -ENOENT ? 0 : r;
}

/* Whether an entry of this name is on the way to `path`, or is its end. */
static bool is_part(const char *path, const char *name) {
        const size_t len = strlen(name);

        for (; *path; path += strcspn(path, "/")) {
                path += strspn(path, "/");
                if (strcspn(path, "/") == len && memcmp(path, name, len) == 0)
                        return true;
        }
        return false;
}

/* Takes all events that have come. Returns 1 if one is of interest, 0, or -errno. */
static int take_events(struct await *await, const char *const *paths) {
        char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
        bool changed = false;
        ssize_t n;

        while ((n = UTIL_RETRY(read(await->fd, buffer, sizeof(buffer)))) > 0)
                for (const char *p = buffer; p < buffer + n;) {
                        const struct inotify_event *event = (const struct inotify_event *)(const void *)p;

                        /* That a watch was removed is heard of as well. */
                        if (event->mask & (EVENTS_SELF | IN_Q_OVERFLOW))
                                changed = true;
                        for (const char *const *path = paths; event->len > 0 && *path; path++)
                                changed |= is_part(*path, event->name);
                        p += sizeof(*event) + event->len;
                }
        return n < 0 && errno != EAGAIN ? -errno : changed;
}

int await_change(struct await *await, const char *const *paths, int error, uint64_t deadline) {
        struct pollfd poller = { .fd = await->fd, .events = POLLIN };
        uint64_t retry_at = 0;
        int r;

        if (error == -ECONNREFUSED && await->retries < RETRIES_MAX)
                retry_at = deadline_now() + (FIRST_PAUSE << await->retries++);
        for (;;) {
                struct timespec left;
                uint64_t now;

                r = ppoll(&poller, 1, deadline_left(deadline_earlier(deadline, retry_at), &left), NULL);
                if (r < 0 && errno != EINTR)
                        return -errno;
                r = take_events(await, paths);
                if (r != 0) {
                        await->retries = 0;
                        return MIN(r, 0);
                }
                now = deadline_now();
                if (deadline != 0 && now >= deadline)
                        return SESSION_TIMED_OUT;
                if (retry_at != 0 && now >= retry_at)
                        return 0;
        }
}
