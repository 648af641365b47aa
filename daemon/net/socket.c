#include "daemon/net/socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#include "common/number.h"
#include "common/util.h"

#define SOCKET_EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLET)

#define OUTPUT_SIZE_MIN 128

/* Delay before a call is retried that failed for lack of kernel memory, or with EAGAIN after an event reported readiness. */
#define RETRY_NSEC (100 * NSEC_PER_MSEC)

static bool has_input(const struct socket *socket) {
        return socket->readable && !socket->paused && !socket->broken && !socket->connecting;
}

static void retry_later(struct socket *socket) {
        struct socket_group *group = socket->group;

        if (list_is_empty(&socket->retry_link))
                list_append(&group->retries, &socket->retry_link);
        if (!timer_is_set(&group->retry))
                reactor_set_timer(group->reactor, &group->retry, timer_now() + RETRY_NSEC);
}

/* Has readiness for input, and for output where it is blocked, reported again. */
static void retry_due(struct timer *timer) {
        struct socket_group *group = container_of(timer, struct socket_group, retry);

        while (!list_is_empty(&group->retries)) {
                struct socket *socket = container_of(group->retries.next, struct socket, retry_link);
                int r;

                list_remove(&socket->retry_link);
                /* analyzer-suppress: it is in the list, and so all of it is set */
                r = reactor_rearm(&socket->watch, SOCKET_EVENTS | (socket->blocked ? EPOLLOUT : 0));
                if (r < 0)
                        socket_break(socket, -r);
        }
}

void socket_group_init(struct socket_group *group, struct reactor *reactor) {
        group->reactor = reactor;
        list_init(&group->retries);
        timer_init(&group->retry, retry_due);
}

void socket_group_deinit(struct socket_group *group) {
        if (group->reactor)
                timer_clear(&group->retry);
        group->reactor = NULL;
}

/* Calls `input` if there may be some and the turn has not had its call. */
static void call_input(struct socket *socket) {
        if (socket->input_called || !has_input(socket))
                return;
        socket->input_called = true;
        socket->ops->input(socket);
}

/* `error` is an errno or 0. */
static void connect_done(struct socket *socket, int error) {
        socket->connecting = false;
        if (error != 0)
                socket_break(socket, error);
        if (socket->ops->connected)
                /* analyzer-suppress: socket_connect() has set all of it */
                socket->ops->connected(socket, socket->broken ? socket->error : 0);
}

static void socket_attend(struct job *job) {
        struct socket *socket = container_of(job, struct socket, attend);

        /* A socket that still waits for its connection is blocked. */
        if (socket->connecting && !socket->blocked)
                connect_done(socket, 0);
        call_input(socket);
        socket->input_called = false;
        socket_flush(socket);
        /* Output of this function has been sent, and `attend` is called below: they need no further turn. */
        job_cancel(&socket->attend);
        if (has_input(socket))
                socket_attend_later(socket);
        /* Last: it may destroy the socket. */
        socket->ops->attend(socket);
}

static int take_error(int fd) {
        socklen_t len = sizeof(int);
        int error = 0;

        return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 ? errno : error;
}

static void socket_ready(struct watch *watch, uint32_t events) {
        struct socket *socket = container_of(watch, struct socket, watch);

        socket_attend_later(socket);
        if (events & EPOLLOUT && socket->blocked) {
                int r = reactor_rewatch(&socket->watch, SOCKET_EVENTS);

                socket->blocked = false;
                socket->room_reported = !socket->connecting;
                if (r < 0)
                        socket_break(socket, -r);
        }
        if (events & EPOLLIN)
                socket->input_reported = true;
        if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                socket->input_ending = true;
        if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                socket->readable = true;
        /* Success, which is EPOLLOUT without these, is left to the job. */
        if (socket->connecting && events & (EPOLLHUP | EPOLLERR))
                connect_done(socket, take_error(socket->watch.fd));
        /* EPOLLHUP: both directions are closed. The last input is read before the owner looks at the flag. */
        if (events & (EPOLLHUP | EPOLLERR))
                socket->gone = true;
        call_input(socket);
}

/* Returns 0 or -errno; then `fd` is closed and the socket is empty. */
static int socket_watch(struct socket *socket, struct socket_group *group, const struct socket_ops *ops, int fd,
                        uint32_t events) {
        int r;

        *socket = (struct socket){ .watch = WATCH_NULL, .group = group, .ops = ops };
        r = reactor_watch(group->reactor, &socket->watch, fd, events, socket_ready);
        if (r < 0) {
                close(fd);
                return r;
        }
        job_init(&socket->attend, socket_attend);
        list_init(&socket->retry_link);
        return 0;
}

int socket_init(struct socket *socket, struct socket_group *group, const struct socket_ops *ops, int fd) {
        return socket_watch(socket, group, ops, fd, SOCKET_EVENTS);
}

/* Returns the descriptor or -errno; `*pending`: the connection is not established yet. */
static int start_connect(const struct sockaddr *address, socklen_t len, bool *pending) {
        _cleanup_close_ int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

        if (fd < 0)
                return -errno;
        if (address->sa_family == AF_INET || address->sa_family == AF_INET6)
                (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
        *pending = connect(fd, address, len) < 0;
        if (*pending && errno != EINPROGRESS)
                return -errno;
        return STEAL_FD(fd);
}

int socket_connect(struct socket *socket, struct socket_group *group, const struct socket_ops *ops,
                   const struct sockaddr *address, socklen_t len) {
        bool pending;
        int fd, r;

        *socket = (struct socket)SOCKET_NULL;
        fd = start_connect(address, len, &pending);
        if (fd < 0)
                return fd;
        r = socket_watch(socket, group, ops, fd, SOCKET_EVENTS | (pending ? EPOLLOUT : 0));
        if (r < 0)
                return r;
        socket->connecting = true;
        socket->blocked = pending;
        if (!pending)
                socket_attend_later(socket);
        return 0;
}

void socket_deinit(struct socket *socket) {
        if (socket->watch.fd < 0)
                return;
        job_cancel(&socket->attend);
        list_remove(&socket->retry_link);
        free(socket->output);
        reactor_unwatch(&socket->watch);
        close(socket->watch.fd);
        *socket = (struct socket)SOCKET_NULL;
}

size_t socket_read(struct socket *socket, void *to, size_t size) {
        ssize_t n;
        int error;

        if (!socket->readable || socket->broken || size == 0)
                return 0;
        n = UTIL_RETRY(recv(socket->watch.fd, to, size, MSG_DONTWAIT));
        error = errno;
        if (n > 0) {
                socket->input_reported = false;
                /* A short read has emptied the socket; but no event of its own follows for an end of file that came along. */
                if ((size_t)n < size && !socket->input_ending)
                        socket->readable = false;
                return (size_t)n;
        }
        socket->readable = false;
        if (n == 0)
                socket->input_ended = true;
        else if (error == ENOMEM || error == ENOBUFS || (error == EAGAIN && socket->input_reported))
                retry_later(socket);
        else if (error != EAGAIN)
                socket_break(socket, error);
        socket->input_reported = false;
        return 0;
}

/* A block for `left` unsent bytes and `size` more. Returns NULL when there is no memory. */
static struct socket_output *output_grow(struct socket_output *output, size_t left, size_t size) {
        size_t grown_size = MAX(output ? output->size * 2 : OUTPUT_SIZE_MIN, left + size);
        struct socket_output *grown = malloc(sizeof(*grown) + grown_size);

        if (!grown)
                return NULL;
        *grown = (struct socket_output){ .end = left, .size = grown_size };
        if (left > 0)
                memcpy(grown->data, output->data + output->start, left);
        free(output);
        return grown;
}

char *socket_make_room(struct socket *socket, size_t size) {
        struct socket_output *output = socket->output;
        size_t left = socket_unsent(socket);

        /* Moved at a bounded cost for each byte that was sent, or a nearly full block would be moved for every few of them. */
        if (output && output->size - left >= size && output->start >= left / 4) {
                memmove(output->data, output->data + output->start, left);
                output->start = 0;
                output->end = left;
        } else {
                output = output_grow(output, left, size);
                if (!output) {
                        socket_break(socket, ENOMEM);
                        return NULL;
                }
                socket->output = output;
        }
        return output->data + output->end;
}

bool socket_write(struct socket *socket, const void *data, size_t n) {
        char *to = socket_room(socket, n);

        if (!to)
                return false;
        if (n > 0)
                memcpy(to, data, n);
        socket_wrote(socket, n);
        return true;
}

/* send(2) failed. */
static void send_failed(struct socket *socket, int error) {
        int r;

        if (error == EPIPE || error == ECONNRESET) {
                /* Input that came before is still to be read, also where no event has said so yet. */
                socket->gone = true;
                socket->readable = true;
                socket->error = -error;
                socket_attend_later(socket);
                return;
        }
        if (error != EAGAIN && error != ENOBUFS && error != ENOMEM) {
                socket_break(socket, error);
                return;
        }
        socket->blocked = true;
        if (error != EAGAIN || socket->room_reported) {
                retry_later(socket);
                return;
        }
        r = reactor_rewatch(&socket->watch, SOCKET_EVENTS | EPOLLOUT);
        if (r < 0)
                socket_break(socket, -r);
}

void socket_flush(struct socket *socket) {
        struct socket_output *output = socket->output;
        bool lost = socket->broken || socket->gone;

        while (!lost && !socket->blocked && socket_unsent(socket) > 0) {
                ssize_t n = UTIL_RETRY(send(socket->watch.fd, output->data + output->start, output->end - output->start,
                                            MSG_DONTWAIT | MSG_NOSIGNAL));

                if (n >= 0) {
                        output->start += (size_t)n;
                        socket->room_reported = false;
                        continue;
                }
                send_failed(socket, errno);
                lost = socket->broken || socket->gone;
        }
        if (lost || socket_unsent(socket) == 0)
                /* An idle connection has no buffer. */
                free(STEAL_POINTER(socket->output));
}

void socket_pause(struct socket *socket, bool paused) {
        socket->paused = paused;
        if (has_input(socket))
                socket_attend_later(socket);
}

void socket_break(struct socket *socket, int error) {
        if (!socket->broken) {
                socket->broken = true;
                socket->error = -error;
        }
        socket_attend_later(socket);
}

bool socket_has_failed(const struct socket *socket) {
        if (!socket->broken)
                return false;
        switch (-socket->error) {
        case 0:
        case EPIPE:
        case ECONNRESET:
        case ETIMEDOUT:
        case EHOSTUNREACH:
        case ENETUNREACH:
                return false;
        default:
                return true;
        }
}
