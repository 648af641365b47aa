#include "client/session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "client/deadline.h"
#include "common/address.h"
#include "common/util.h"

/* No body is longer: what a size_t cannot count with a head and a line end beside it. */
#define BODY_MAX (SIZE_MAX / 2)

int session_init(struct session *session, int fd, uint64_t deadline) {
        int flags;

        session->fd = fd;
        session->deadline = deadline;
        session->line = (struct line)LINE_NULL;
        session->output_start = session->output_end = 0;
        session->output_ended = false;
        session->fault[0] = '\0';

        flags = fcntl(fd, F_GETFL);
        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
                int r = -errno;

                session_deinit(session);
                return r;
        }
        return 0;
}

/*
 * Waits for a place in a full backlog. A Unix socket that does not block says EAGAIN, and nothing of when
 * there is one; one that blocks waits for it, as long as SO_SNDTIMEO lets it: socket(7).
 */
static int connect_blocking(int fd, const struct sockaddr_un *address, socklen_t len, uint64_t deadline) {
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
                return -errno;
        for (;;) {
                struct timespec left;

                if (deadline_left(deadline, &left)) {
                        struct timeval limit = { .tv_sec = left.tv_sec, .tv_usec = left.tv_nsec / 1000 };

                        /* A limit of 0 would be none. */
                        if (limit.tv_sec == 0 && limit.tv_usec == 0)
                                return SESSION_TIMED_OUT;
                        if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
                                return -errno;
                }
                if (connect(fd, (const struct sockaddr *)address, len) == 0)
                        return 0;
                /* The kernel counts in ticks: when it gives up, there may be a little left. */
                if (errno != EINTR && errno != EAGAIN)
                        return -errno;
        }
}

int session_connect(struct session *session, const char *path, uint64_t deadline) {
        _cleanup_close_ int fd = -1;
        struct sockaddr_un address;
        socklen_t len;
        int r;

        switch (address_from_path(path, &address, &len)) {
        case ADDRESS_EMPTY:
                return -EINVAL;
        case ADDRESS_TOO_LONG:
                return -ENAMETOOLONG;
        }

        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, (const struct sockaddr *)&address, len) < 0) {
                if (errno != EAGAIN)
                        return -errno;
                r = connect_blocking(fd, &address, len, deadline);
                if (r != 0)
                        return r;
        }
        return session_init(session, STEAL_FD(fd), deadline);
}

void session_deinit(struct session *session) {
        session->fd = util_close(session->fd);
        line_deinit(&session->line);
        session->output_start = session->output_end = 0;
}

static int malformed(struct session *session, const char *text, size_t len) {
        size_t n = MIN(len, sizeof(session->fault) - 1);

        for (size_t i = 0; i < n; i++)
                session->fault[i] = text[i] >= 0x20 && text[i] <= 0x7e ? text[i] : '?';
        session->fault[n] = '\0';
        return SESSION_MALFORMED;
}

/* Takes every whole reply that has come. */
static int take_replies(struct session *session, struct session_events *events) {
        struct line *line = &session->line;
        const char *text;
        size_t len;
        int r;

        for (;;) {
                struct protocol_reply reply;
                const char *body = NULL;

                r = line_next(line, &text, &len);
                if (r == 0)
                        return 0;
                if (r == LINE_TOO_LONG)
                        return malformed(session, "(an endless line)", strlen("(an endless line)"));
                if (protocol_parse_reply(text, len, &reply) != 0 || reply.length > BODY_MAX)
                        return malformed(session, text, len);

                if (reply.type != PROTOCOL_ERR) {
                        r = line_payload(line, (size_t)reply.length, &body);
                        if (r == 0)
                                return 0;
                        if (r == LINE_UNTERMINATED)
                                return malformed(session, text, len);
                }
                r = events->reply(events, &reply, body);
                if (r == SESSION_MALFORMED)
                        return malformed(session, text, len);
                if (r != 0)
                        return r;
        }
}

/* Reads once. `*drained` is set if that was all there is. */
static int session_receive(struct session *session, struct session_events *events, bool *drained) {
        size_t space;
        ssize_t n;
        char *to;
        int r, keep;

        r = line_space(&session->line, session->input, sizeof(session->input), &to, &space);
        if (r < 0)
                return r;
        n = recv(session->fd, to, space, 0);
        if (n > 0) {
                line_filled(&session->line, (size_t)n);
                *drained = (size_t)n < space;
                r = take_replies(session, events);
        } else if (n == 0 || errno == ECONNRESET)
                /* Reset: it has closed with commands unread. What it had said before is read by now. */
                r = SESSION_ENDED;
        else if (errno != EAGAIN && errno != EINTR)
                r = -errno;
        else
                *drained = true;

        keep = line_keep(&session->line);
        return r != 0 ? r : keep;
}

static int session_send(struct session *session) {
        ssize_t n = send(session->fd, session->output + session->output_start,
                         session->output_end - session->output_start, MSG_NOSIGNAL);

        if (n >= 0) {
                session->output_start += (size_t)n;
                return 0;
        }
        switch (errno) {
        case EAGAIN:
        case EINTR:
                return 0;
        case EPIPE:
        case ECONNRESET:
                /* What it said before it closed is still to be read, and then the end. */
                session->output_ended = true;
                return 0;
        default:
                return -errno;
        }
}

static bool has_output(const struct session *session) {
        return session->output_start < session->output_end && !session->output_ended;
}

int session_run(struct session *session, struct session_events *events) {
        bool drained = true;

        for (;;) {
                struct pollfd poller = { .fd = session->fd, .events = POLLIN };
                const struct timespec *limit;
                struct timespec left = { 0 };
                uint64_t now;
                int r;

                if (session->output_start == session->output_end && !session->output_ended) {
                        session->output_start = 0;
                        session->output_end = events->fill(events, session->output, sizeof(session->output));
                }
                if (has_output(session))
                        poller.events |= POLLOUT;
                if (drained) {
                        r = events->pause(events);
                        if (r < 0)
                                return r;
                }

                /* Bytes that are left in the socket are not waited for. */
                limit = &left;
                if (drained)
                        limit = deadline_left(deadline_earlier(session->deadline, events->wake), &left);
                r = ppoll(&poller, 1, limit, NULL);
                if (r < 0 && errno != EINTR)
                        return -errno;
                if (r > 0 && poller.revents & (POLLIN | POLLHUP | POLLERR)) {
                        r = session_receive(session, events, &drained);
                        if (r != 0)
                                return r == SESSION_DONE ? 0 : r;
                } else
                        drained = true;
                /* Both in each turn: a server that takes no more until it is read from is read from. */
                if (poller.revents & POLLOUT && has_output(session)) {
                        r = session_send(session);
                        if (r < 0)
                                return r;
                }

                now = deadline_now();
                if (session->deadline != 0 && now >= session->deadline)
                        return SESSION_TIMED_OUT;
                if (events->wake != 0 && now >= events->wake)
                        events->tick(events, now);
        }
}
