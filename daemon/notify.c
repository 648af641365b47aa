#include "daemon/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "common/number.h"
#include "common/printable.h"
#include "common/util.h"

/* systemd adds it to the time of day, and takes UINT64_MAX for no number: a hundred years. */
#define EXTEND_MAX (UINT64_C(100) * 365 * 24 * 3600 * 1000000)

#define FLUSH_NSEC (2 * NSEC_PER_SEC)

/* A socket that is said to have room so often in a row, and has not, is not watched until the next message. */
#define FAILURES_MAX 100

#define STATUS_MAX 1024
#define TEXT_MAX (STATUS_MAX + 128)

/* Up to WATCHDOG, of two that wait the last one counts. */
enum kind { STATUS, READY, STOPPING, EXTEND, FAILED, WATCHDOG, KEEP, RELEASE };

/* One that waits for room. */
struct message {
        struct list link;
        enum kind kind;
        bool refused;                   /* KEEP: it could not be sent, and stands here to say so until it is released */
        unsigned n;
        int fds[NOTIFY_KEEP_MAX];       /* owned */
        char name[64];                  /* KEEP and RELEASE */
        char text[];
};

static struct {
        pthread_mutex_t mutex;
        struct list waiting;            /* all that follows is under `mutex` */
        struct watch watch;             /* one-shot: armed while something waits */
        int fd;                         /* -1: not made yet */
        bool connected;
        unsigned failures;              /* events in a row that brought no room */
} manager = {
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .waiting = { &manager.waiting, &manager.waiting },
        .watch = WATCH_NULL,
        .fd = -1,
};

static const char *manager_address(void) {
        return getenv("NOTIFY_SOCKET");
}

bool notify_is_heard(void) {
        const char *address = manager_address();

        return address && *address;
}

/* Addresses of other kinds (that of a machine's host, by VSOCK) are libsystemd's business, which may block. */
static bool is_unix(void) {
        return manager_address()[0] == '/' || manager_address()[0] == '@';
}

/* Returns 0 or -errno. */
static int open_socket(void) {
        if (manager.fd < 0)
                manager.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        return manager.fd < 0 ? -errno : 0;
}

/* It stays the same descriptor, which the reactor watches. Returns 0 or -errno. */
static int reach(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        const char *path = manager_address();
        size_t len = strlen(path);
        int r;

        if (len >= sizeof(address.sun_path))
                return -E2BIG;
        memcpy(address.sun_path, path, len);
        if (path[0] == '@')
                address.sun_path[0] = '\0';
        r = open_socket();
        if (r == 0 && connect(manager.fd, (const struct sockaddr *)&address,
                              (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (path[0] == '/'))) < 0)
                r = -errno;
        manager.connected = r == 0;
        return r;
}

static int transmit_once(const char *text, const int *fds, unsigned n) {
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * NOTIFY_KEEP_MAX)];
        } control = { .space = { 0 } };
        struct iovec iov = { (char *)text, strlen(text) };
        struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

        if (n > 0) {
                message.msg_control = &control;
                message.msg_controllen = CMSG_SPACE(sizeof(int) * n);
                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(sizeof(int) * n);
                memcpy(CMSG_DATA(&control.header), fds, sizeof(int) * n);
        }
        return UTIL_RETRY(sendmsg(manager.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)) < 0 ? -errno : 0;
}

/* Returns 0, -EAGAIN: the manager's socket is full, or -errno. */
static int transmit(const char *text, const int *fds, unsigned n) {
        int r = manager.connected ? transmit_once(text, fds, n) : -ENOTCONN;

        if (r == 0 || r == -EAGAIN)
                return r;
        /* The manager may have made its socket anew. */
        r = reach();
        return r < 0 ? r : transmit_once(text, fds, n);
}

static void close_fds(struct message *message) {
        while (message->n > 0)
                close(message->fds[--message->n]);
}

static void message_free(struct message *message) {
        close_fds(message);
        list_remove(&message->link);
        free(message);
}

/* Sends what waits, as far as there is room, and has the reactor do so later with the rest. Returns whether nothing waits any more. */
static bool send_waiting(void) {
        struct list *next;

        for (struct list *i = manager.waiting.next; i != &manager.waiting; i = next) {
                struct message *message = container_of(i, struct message, link);
                int r;

                next = i->next;
                if (message->refused)
                        continue;
                r = transmit(message->text, message->fds, message->n);
                manager.failures = r == -EAGAIN ? manager.failures + 1 : 0;
                if (r == -EAGAIN) {
                        /* If this fails, the next message is what sends it. */
                        if (manager.watch.reactor && manager.failures < FAILURES_MAX)
                                (void)reactor_rearm(&manager.watch, EPOLLOUT | EPOLLONESHOT);
                        return false;
                }
                if (r < 0 && message->kind == KEEP) {
                        message->refused = true;
                        close_fds(message);
                } else
                        message_free(message);
        }
        return true;
}

static void manager_writable(struct watch *watch, uint32_t events) {
        (void)watch;
        (void)events;
        pthread_mutex_lock(&manager.mutex);
        (void)send_waiting();
        pthread_mutex_unlock(&manager.mutex);
}

/* Has a message wait. Returns 0 or -errno. */
static int wait_for_room(enum kind kind, const char *name, const int *fds, unsigned n, const char *text) {
        size_t len = strlen(text) + 1;
        struct message *message = malloc(sizeof(*message) + len);

        if (!message)
                return -ENOMEM;
        *message = (struct message){ .kind = kind };
        memcpy(message->text, text, len);
        if (name)
                snprintf(message->name, sizeof(message->name), "%s", name);
        list_init(&message->link);
        for (; message->n < n; message->n++) {
                message->fds[message->n] = fcntl(fds[message->n], F_DUPFD_CLOEXEC, 0);
                if (message->fds[message->n] < 0) {
                        int error = errno;

                        message_free(message);
                        return -error;
                }
        }
        list_append(&manager.waiting, &message->link);
        return 0;
}

/* What waits and is of this kind, and has this name, if there is one; or NULL. */
static struct message *find(enum kind kind, const char *name) {
        for (struct list *i = manager.waiting.next; i != &manager.waiting; i = i->next) {
                struct message *message = container_of(i, struct message, link);

                if (message->kind == kind && (!name || strcmp(message->name, name) == 0))
                        return message;
        }
        return NULL;
}

/* Returns 0: it is sent, or waits, or nobody would hear it; or -errno. */
static int tell(enum kind kind, const char *name, const int *fds, unsigned n, const char *text) {
        struct message *before;
        int r;

        if (!notify_is_heard())
                return 0;
        if (!is_unix()) {
                r = sd_pid_notify_with_fds(0, 0, text, fds, n);
                return r < 0 ? r : 0;
        }
        pthread_mutex_lock(&manager.mutex);
        before = kind <= WATCHDOG ? find(kind, NULL) : NULL;
        if (before)
                message_free(before);
        manager.failures = 0;
        r = send_waiting() ? transmit(text, fds, n) : -EAGAIN;
        if (r == -EAGAIN) {
                r = wait_for_room(kind, name, fds, n, text);
                if (r == 0)
                        (void)send_waiting();
        }
        pthread_mutex_unlock(&manager.mutex);
        return r;
}

static int tell_text(enum kind kind, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int tell_text(enum kind kind, const char *format, ...) {
        char text[TEXT_MAX];
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(text, sizeof(text), format, arguments);
        va_end(arguments);
        return tell(kind, NULL, NULL, 0, text);
}

/* The status as one line. */
static const char *line(char to[static STATUS_MAX], const char *status) {
        (void)printable(to, STATUS_MAX, status, strlen(status));
        return to;
}

static uint64_t extend_usec(uint64_t extend) {
        return MIN(extend / NSEC_PER_USEC, EXTEND_MAX);
}

int notify_watch(struct reactor *reactor) {
        int r;

        if (!notify_is_heard() || !is_unix())
                return 0;
        pthread_mutex_lock(&manager.mutex);
        r = open_socket();
        if (r == 0)
                r = reactor_watch(reactor, &manager.watch, manager.fd, EPOLLONESHOT, manager_writable);
        if (r == 0)
                (void)send_waiting();
        pthread_mutex_unlock(&manager.mutex);
        return r;
}

void notify_unwatch(void) {
        pthread_mutex_lock(&manager.mutex);
        reactor_unwatch(&manager.watch);
        pthread_mutex_unlock(&manager.mutex);
}

void notify_flush(void) {
        uint64_t deadline = timer_now() + FLUSH_NSEC;

        pthread_mutex_lock(&manager.mutex);
        manager.failures = 0;
        while (!send_waiting()) {
                uint64_t now = timer_now();

                if (now >= deadline || manager.failures == FAILURES_MAX)
                        break;
                (void)poll(&(struct pollfd){ .fd = manager.fd, .events = POLLOUT }, 1,
                           (int)((deadline - now) / NSEC_PER_MSEC) + 1);
        }
        while (!list_is_empty(&manager.waiting))
                message_free(container_of(manager.waiting.next, struct message, link));
        manager.fd = util_close(manager.fd);
        manager.connected = false;
        pthread_mutex_unlock(&manager.mutex);
}

void notify_status(const char *status) {
        char text[STATUS_MAX];

        (void)tell_text(STATUS, "STATUS=%s", line(text, status));
}

int notify_ready(const char *status) {
        char text[STATUS_MAX];

        return tell_text(READY, "READY=1\nSTATUS=%s", line(text, status));
}

void notify_stopping(const char *status, uint64_t extend) {
        char text[STATUS_MAX];

        (void)tell_text(STOPPING, "STOPPING=1\nSTATUS=%s\nEXTEND_TIMEOUT_USEC=%" PRIu64, line(text, status), extend_usec(extend));
}

void notify_extend(uint64_t extend) {
        (void)tell_text(EXTEND, "EXTEND_TIMEOUT_USEC=%" PRIu64, extend_usec(extend));
}

void notify_failed(int error, const char *status) {
        char text[STATUS_MAX];

        (void)tell_text(FAILED, "STATUS=%s\nERRNO=%d", line(text, status), error);
}

uint64_t notify_watchdog_interval(void) {
        uint64_t usec;

        return sd_watchdog_enabled(0, &usec) > 0 ? usec * NSEC_PER_USEC : 0;
}

void notify_watchdog(void) {
        (void)tell_text(WATCHDOG, "WATCHDOG=1");
}

int notify_keep(const char *name, const int *fds, unsigned n) {
        char text[TEXT_MAX];

        snprintf(text, sizeof(text), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
        return tell(KEEP, name, fds, n, text);
}

bool notify_is_kept(const char *name) {
        bool kept;

        pthread_mutex_lock(&manager.mutex);
        kept = !find(KEEP, name);
        pthread_mutex_unlock(&manager.mutex);
        return kept;
}

void notify_release(const char *name) {
        char text[TEXT_MAX];
        struct message *unsent;

        pthread_mutex_lock(&manager.mutex);
        unsent = find(KEEP, name);
        if (unsent)
                message_free(unsent);
        pthread_mutex_unlock(&manager.mutex);
        if (unsent)
                return;
        snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s", name);
        (void)tell(RELEASE, name, NULL, 0, text);
}

int notify_passed(struct passed **passed) {
        char **names = NULL;
        int n;

        *passed = NULL;
        n = sd_listen_fds_with_names(1, &names);
        if (n > 0) {
                *passed = calloc((size_t)n, sizeof(**passed));
                for (int i = 0; i < n; i++) {
                        if (*passed)
                                (*passed)[i] = (struct passed){ SD_LISTEN_FDS_START + i, names[i] };
                        else
                                free(names[i]);
                }
        }
        free(names);
        return n > 0 && !*passed ? -ENOMEM : n;
}

void passed_free(struct passed *passed, int n) {
        for (int i = 0; i < n; i++)
                free(passed[i].name);
        free(passed);
}

bool notify_is_listening(int fd, bool anywhere) {
        return (anywhere ? sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) : sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0)) > 0 &&
               fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0;
}
