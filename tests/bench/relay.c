/*
 * The floor of a proxy: the least that a relay for HTTP can do. Two threads, each with an epoll set and a listener of its own;
 * llhttp finds the end of each message; the bytes go on as they came. Connections are kept on both sides.
 *
 *      relay PORT UPSTREAM_PORT
 *
 * It has no time-outs and no limits, and nothing waits in it. It believes its clients and its model server: no message is
 * malformed, a client sends a request only after the answer to the one before, no request is HEAD, memory suffices.
 */

#include <errno.h>
#include <llhttp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"

#define THREADS 2
#define EVENTS 256
#define BACKLOG 4096
#define READ_SIZE 65536

/* Of a client, or to the model server. */
struct connection {
        int fd;                         /* -1: closed, and freed at the end of the turn */
        bool is_upstream;
        bool ended;                     /* EPOLLRDHUP: reads go on up to the end */
        uint32_t rest_len;
        char *rest;                     /* output that its socket did not take */
        llhttp_t *parser;               /* of a message that came in part */
        struct connection *other;       /* under way: the client, or the connection to the model server */
        struct connection *next, *previous;     /* among those to the model server that are idle, or closed (next) */
};

struct worker {
        pthread_t thread;
        int epoll;
        int listener;
        struct connection *idle;        /* the last one used comes first */
        struct connection *closed;
        char buffer[READ_SIZE];
};

static struct sockaddr_in upstream;
static llhttp_settings_t settings;

static void fail(const char *what) {
        fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
        exit(EXIT_FAILURE);
}

static int note_end(llhttp_t *parser) {
        *(bool *)parser->data = true;
        return 0;
}

static struct connection *connection_new(struct worker *worker, int fd, bool is_upstream) {
        struct connection *connection = calloc(1, sizeof(*connection));
        struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = connection };
        const int on = 1;

        if (!connection)
                fail("calloc");
        connection->fd = fd;
        connection->is_upstream = is_upstream;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        if (epoll_ctl(worker->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
                fail("epoll_ctl");
        return connection;
}

static void idle_push(struct worker *worker, struct connection *connection) {
        connection->previous = NULL;
        connection->next = worker->idle;
        if (worker->idle)
                worker->idle->previous = connection;
        worker->idle = connection;
}

static void idle_remove(struct worker *worker, struct connection *connection) {
        if (connection->next)
                connection->next->previous = connection->previous;
        if (connection->previous)
                connection->previous->next = connection->next;
        else
                worker->idle = connection->next;
}

/* Frees it at the end of the turn: events of it may still be to come in this one. */
static void connection_close(struct worker *worker, struct connection *connection) {
        if (connection->fd < 0)
                return;
        if (connection->is_upstream && !connection->other)
                idle_remove(worker, connection);
        connection->fd = util_close(connection->fd);
        connection->next = worker->closed;
        worker->closed = connection;
        if (connection->other) {
                connection->other->other = NULL;
                /* So that it is not looked for among the idle ones. */
                connection->other->is_upstream = false;
                connection_close(worker, STEAL_POINTER(connection->other));
        }
}

static void free_closed(struct worker *worker) {
        while (worker->closed) {
                struct connection *connection = worker->closed;

                worker->closed = connection->next;
                free(connection->parser);
                free(connection->rest);
                free(connection);
        }
}

/* One that is idle, or a new one. On the loopback connect(2) does not wait. */
static struct connection *upstream_take(struct worker *worker) {
        struct connection *connection = worker->idle;
        int fd;

        if (connection) {
                idle_remove(worker, connection);
                return connection;
        }
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (const struct sockaddr *)&upstream, sizeof(upstream)) < 0)
                fail("connect");
        return connection_new(worker, fd, true);
}

/* Returns false if the connection is broken. */
static bool connection_send(struct connection *connection, const char *data, size_t len) {
        ssize_t n = send(connection->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno != EAGAIN)
                return false;
        n = MAX(n, 0);
        if ((size_t)n < len) {
                connection->rest_len = (uint32_t)(len - (size_t)n);
                connection->rest = malloc(connection->rest_len);
                if (!connection->rest)
                        fail("malloc");
                memcpy(connection->rest, data + n, connection->rest_len);
        }
        return true;
}

/* Looks for the end of the message that these bytes begin or go on with. */
static bool message_ends(struct connection *connection, const char *data, size_t len) {
        llhttp_t fresh, *parser = connection->parser;
        bool ends = false;

        if (!parser) {
                parser = &fresh;
                llhttp_init(parser, connection->is_upstream ? HTTP_RESPONSE : HTTP_REQUEST, &settings);
        }
        parser->data = &ends;
        if (llhttp_execute(parser, data, len) != HPE_OK)
                fail(llhttp_get_error_reason(parser));
        if (ends) {
                free(STEAL_POINTER(connection->parser));
        } else if (!connection->parser) {
                connection->parser = malloc(sizeof(fresh));
                if (!connection->parser)
                        fail("malloc");
                *connection->parser = fresh;
        }
        return ends;
}

/* Passes on what has come, in one send for each read. */
static void connection_read(struct worker *worker, struct connection *connection) {
        ssize_t n;

        do {
                struct connection *other = connection->other;

                /* Its event comes when the other side has taken the rest. */
                if (other && other->rest)
                        return;
                n = recv(connection->fd, worker->buffer, READ_SIZE, MSG_DONTWAIT);
                if (n < 0 && errno == EAGAIN)
                        return;
                /* What an idle connection to the model server says is its end. */
                if (n <= 0 || (connection->is_upstream && !other)) {
                        connection_close(worker, connection);
                        return;
                }
                if (!other) {
                        other = upstream_take(worker);
                        connection->other = other;
                        other->other = connection;
                }
                if (!connection_send(other, worker->buffer, (size_t)n)) {
                        connection_close(worker, connection);
                        return;
                }
                if (message_ends(connection, worker->buffer, (size_t)n) && connection->is_upstream) {
                        other->other = NULL;
                        connection->other = NULL;
                        idle_push(worker, connection);
                }
        } while (n == READ_SIZE || connection->ended);
}

static void connection_flush(struct worker *worker, struct connection *connection) {
        _cleanup_free_ char *rest = STEAL_POINTER(connection->rest);

        if (!connection_send(connection, rest, connection->rest_len))
                connection_close(worker, connection);
        else if (!connection->rest && connection->other)
                connection_read(worker, connection->other);
}

static void accept_all(struct worker *worker) {
        int fd;

        while ((fd = accept4(worker->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
                (void)connection_new(worker, fd, false);
}

static void *run(void *argument) {
        struct worker *worker = argument;
        struct epoll_event events[EVENTS];

        for (;;) {
                int n = epoll_wait(worker->epoll, events, EVENTS, -1);

                for (int i = 0; i < n; i++) {
                        struct connection *connection = events[i].data.ptr;

                        if (!connection) {
                                accept_all(worker);
                                continue;
                        }
                        connection->ended |= (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
                        if (connection->fd >= 0 && connection->rest)
                                connection_flush(worker, connection);
                        if (connection->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT)
                                connection_read(worker, connection);
                }
                free_closed(worker);
        }
        return NULL;
}

static void worker_init(struct worker *worker, uint16_t port) {
        const struct sockaddr_in address = {
                .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)
        };
        struct epoll_event event = { .events = EPOLLIN };
        const int on = 1;

        worker->epoll = epoll_create1(EPOLL_CLOEXEC);
        worker->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (worker->epoll < 0 || worker->listener < 0 ||
            setsockopt(worker->listener, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0 ||
            bind(worker->listener, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
            epoll_ctl(worker->epoll, EPOLL_CTL_ADD, worker->listener, &event) < 0)
                fail("bind");
}

int main(int argc, char *argv[]) {
        static struct worker workers[THREADS];
        uint64_t port, upstream_port;

        if (argc != 3 || number_parse(argv[1], strlen(argv[1]), UINT16_MAX, &port) != 0 ||
            number_parse(argv[2], strlen(argv[2]), UINT16_MAX, &upstream_port) != 0) {
                fprintf(stderr, "Usage: relay PORT UPSTREAM_PORT\n");
                return 2;
        }
        upstream = (struct sockaddr_in){
                .sin_family = AF_INET, .sin_port = htons((uint16_t)upstream_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)
        };
        llhttp_settings_init(&settings);
        settings.on_message_complete = note_end;

        for (size_t i = 0; i < THREADS; i++)
                worker_init(&workers[i], (uint16_t)port);
        /* Both are bound before the first client can come: the kernel spreads clients over those that listen. */
        for (size_t i = 0; i < THREADS; i++)
                if (listen(workers[i].listener, BACKLOG) < 0)
                        fail("listen");
        for (size_t i = 0; i < THREADS; i++) {
                errno = pthread_create(&workers[i].thread, NULL, run, &workers[i]);
                if (errno != 0)
                        fail("pthread_create");
        }
        for (size_t i = 0; i < THREADS; i++)
                pthread_join(workers[i].thread, NULL);
        return 0;
}
