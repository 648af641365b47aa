#include "daemon/front/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
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

/* Another worker may have been faster, and a client may have gone again; who finds none so often in a row rests. */
#define FAILURES_MAX 32

/* A peer that has vanished without a word is found gone after some two minutes: tcp(7). */
#define TCP_IDLE_SECONDS 60
#define TCP_PROBE_SECONDS 10
#define TCP_PROBES 6

/* A descriptor of another worker's, or another process's, that is closed tells nobody. */
#define RETRY_NSEC (100 * NSEC_PER_MSEC)

/* Two seconds. */
#define LOCK_TRIES 200
#define LOCK_PAUSE_MSEC 10

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
 * would otherwise replace the new socket of the other. They hold it for an instant; but who may read the directory can
 * lock it as well, and keep the lock: that one is not waited for. Returns a descriptor, or -errno.
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
        for (unsigned i = 0; i < LOCK_TRIES && flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return -errno;
                (void)poll(NULL, 0, LOCK_PAUSE_MSEC);
        }
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
        listening->made = true;
        return 0;
}

static int listen_at(const struct addrinfo *info) {
        const int on = 1, off = 0;
        _cleanup_close_ int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0)
                return -errno;
        /* A port whose last connections linger is free: tcp(7). All addresses of IPv6 are those of IPv4 too: ipv6(7). */
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (info->ai_family == AF_INET6)
                (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, info->ai_flags & AI_PASSIVE ? &off : &on, sizeof(on));
        if (bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, INT32_MAX) < 0)
                return -errno;
        return STEAL_FD(fd);
}

/* The host and the port of HOST:PORT; the host is empty for all addresses. Returns 0 or -EINVAL. */
static int split_address(const char *address, char host[static NI_MAXHOST], const char **port) {
        const char *colon = strrchr(address, ':');
        size_t len = colon ? (size_t)(colon - address) : 0;
        uint64_t number;

        if (!colon || number_parse(colon + 1, strlen(colon + 1), UINT16_MAX, &number) != 0 || len >= NI_MAXHOST)
                return -EINVAL;
        *port = colon + 1;
        if (len >= 2 && address[0] == '[' && address[len - 1] == ']') {
                struct in6_addr in6;

                len -= 2;
                memcpy(host, address + 1, len);
                host[len] = '\0';
                return inet_pton(AF_INET6, host, &in6) == 1 ? 0 : -EINVAL;
        }
        if (memchr(address, ':', len))
                return -EINVAL;
        memcpy(host, address, len);
        host[len] = '\0';
        if (strcmp(host, "*") == 0)
                host[0] = '\0';
        return 0;
}

int listener_set_open(struct listener_set *set, const char *address, const char **why) {
        const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_PASSIVE };
        struct addrinfo *infos = NULL, *info;
        char host[NI_MAXHOST];
        const char *port;
        unsigned before = set->count;
        int r;

        *why = NULL;
        if (set->count == LISTENER_SET_MAX)
                return -E2BIG;
        if (strncmp(address, "unix:", 5) == 0) {
                r = listener_socket_open(&set->sockets[set->count], address + 5);
                set->count += r == 0;
                return r;
        }
        r = split_address(address, host, &port);
        if (r < 0)
                return r;
        r = getaddrinfo(host[0] ? host : NULL, port, &hints, &infos);
        if (r != 0) {
                *why = gai_strerror(r);
                return -EADDRNOTAVAIL;
        }
        r = -EADDRNOTAVAIL;
        for (info = infos; info && set->count < LISTENER_SET_MAX; info = info->ai_next) {
                int fd;

                /* All addresses: one socket has those of IPv6 and of IPv4, where there is IPv6. */
                if (!host[0] && info->ai_family != AF_INET6 && info->ai_next && info->ai_next->ai_family == AF_INET6)
                        continue;
                info->ai_flags = host[0] ? 0 : AI_PASSIVE;
                fd = listen_at(info);
                /* A host has addresses, ::1 for one, that this machine does not. */
                if (fd == -EADDRNOTAVAIL || fd == -EAFNOSUPPORT) {
                        r = set->count > before ? 0 : fd;
                        continue;
                }
                if (fd < 0) {
                        r = fd == -EADDRINUSE ? LISTENER_IN_USE : fd;
                        break;
                }
                set->sockets[set->count++] = (struct listener_socket){ .fd = fd, .file = -1, .made = true };
                r = 0;
                /* The port that the kernel chose is not free at another address; and all addresses are one socket. */
                if (strcmp(port, "0") == 0 || !host[0])
                        break;
        }
        freeaddrinfo(infos);
        return r;
}

void listener_set_close(struct listener_set *set) {
        while (set->count > 0)
                listener_socket_close(&set->sockets[--set->count]);
}

const char *listener_socket_address(const struct listener_socket *listening, char buffer[static LISTENER_ADDRESS_MAX]) {
        struct sockaddr_storage address = { 0 };
        socklen_t len = sizeof(address);
        char host[INET6_ADDRSTRLEN] = "?";

        (void)getsockname(listening->fd, (struct sockaddr *)&address, &len);
        if (address.ss_family == AF_INET) {
                const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&address;

                (void)inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
                snprintf(buffer, LISTENER_ADDRESS_MAX, "%s:%u", host, ntohs(in->sin_port));
        } else if (address.ss_family == AF_INET6) {
                const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)&address;

                (void)inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
                snprintf(buffer, LISTENER_ADDRESS_MAX, "[%s]:%u", host, ntohs(in6->sin6_port));
        } else
                snprintf(buffer, LISTENER_ADDRESS_MAX, "unix:%s", ((const struct sockaddr_un *)(const void *)&address)->sun_path);
        return buffer;
}

void listener_socket_close(struct listener_socket *listening) {
        struct stat ours, there;

        /* Without the lock: as long as this one listens no other daemon takes its place. */
        if (listening->file >= 0 && fstat(listening->file, &ours) == 0 && lstat(listening->path, &there) == 0 &&
            ours.st_dev == there.st_dev && ours.st_ino == there.st_ino)
                (void)unlink(listening->path);
        listening->file = util_close(listening->file);
        listening->fd = util_close(listening->fd);
}

static void listener_ready(struct watch *watch, uint32_t events);

static void listener_retry_later(struct listener *listener) {
        reactor_set_timer(listener->reactor, &listener->retry, timer_now() + RETRY_NSEC);
}

void listener_resume(struct listener *listener) {
        int r;

        if (!listener->reactor)
                return;
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
                        listener->failures++;
                        if (error == EAGAIN && listener->failures < FAILURES_MAX)
                                return;
                        /* The error of one that has gone again is not the socket's: accept(2). */
                        if ((error == EINTR || error == ECONNABORTED) && listener->failures < FAILURES_MAX)
                                continue;
                        listener->failures = 0;
                        if (error != EMFILE && error != ENFILE && error != ENOBUFS && error != ENOMEM && error != EAGAIN &&
                            !listener->said)
                                log_warning("Cannot accept connections, trying again: %s", strerror(error));
                        listener->said = true;
                        listener_pause(listener);
                        return;
                }
                listener->failures = 0;
                listener->said = false;
                listener->accepted(listener, fd);
        }
}

static void listener_retry(struct timer *timer) {
        listener_resume(container_of(timer, struct listener, retry));
}

static void set_option(int fd, int level, int name, int value) {
        (void)setsockopt(fd, level, name, &value, sizeof(value));
}

/* What accepted connections have from the socket that listens: tcp(7). */
static void set_options(int fd) {
        socklen_t len = sizeof(int);
        int domain = AF_UNSPEC;

        (void)getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
        if (domain != AF_INET && domain != AF_INET6)
                return;
        set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
        set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, TCP_IDLE_SECONDS);
        set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, TCP_PROBE_SECONDS);
        set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, TCP_PROBES);
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
        set_options(fd);
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
