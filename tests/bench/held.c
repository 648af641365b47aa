#include "tests/bench/held.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"

#define READ_SIZE 65536
#define EVENTS 512
#define POLL_SECONDS 0.005
#define REPLY_PATIENCE_MS 60000
/* Of so many connections, one has its answers kept and compared with what they should be. */
#define SAMPLE 16

struct client {
        int fd;
        uint64_t first_id;
        size_t expected;        /* bytes of all answers */
        size_t received;
        char *kept;             /* in a sample: the answers */
};

struct held {
        struct server server;
        const struct held_shape *shape;
        struct client *clients;
        int epoll;
        char *buffer;           /* READ_SIZE, or the requests of one connection */
};

#define HELD_NULL { .server = SERVER_NULL, .epoll = -1 }

static void held_deinit(struct held *held) {
        server_stop(&held->server);
        for (unsigned i = 0; held->clients && i < held->shape->connections; i++) {
                util_close(held->clients[i].fd);
                free(held->clients[i].kept);
        }
        free(held->clients);
        free(held->buffer);
        util_close(held->epoll);
        *held = (struct held)HELD_NULL;
}

static uint64_t count_requests(const struct held_shape *shape) {
        return (uint64_t)shape->connections * shape->requests;
}

static int clients_init(struct held *held) {
        const struct held_shape *shape = held->shape;
        char answer[SERVER_MESSAGE_MAX];

        held->buffer = malloc(MAX((size_t)READ_SIZE, (size_t)shape->requests * SERVER_MESSAGE_MAX));
        held->clients = calloc(shape->connections, sizeof(*held->clients));
        if (!held->buffer || !held->clients)
                return -ENOMEM;
        for (unsigned i = 0; i < shape->connections; i++) {
                struct client *client = &held->clients[i];

                client->fd = -1;
                client->first_id = (uint64_t)i * shape->requests;
                for (unsigned j = 0; j < shape->requests; j++)
                        client->expected += server_format_answer(answer, client->first_id + j);
                if (i % SAMPLE != 0)
                        continue;
                client->kept = malloc(client->expected + 1);
                if (!client->kept)
                        return -ENOMEM;
                /* The pages are there before the clock runs, and it is a string. */
                memset(client->kept, 0, client->expected + 1);
        }
        return 0;
}

static int clients_connect(struct held *held) {
        held->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (held->epoll < 0)
                return -errno;
        for (unsigned i = 0; i < held->shape->connections; i++) {
                struct client *client = &held->clients[i];
                struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = client };

                client->fd = server_connect(&held->server);
                if (client->fd < 0)
                        return client->fd;
                if (epoll_ctl(held->epoll, EPOLL_CTL_ADD, client->fd, &event) < 0)
                        return -errno;
        }
        return 0;
}

/* Sends the requests from `begin` to `end` on each connection, in one go. */
static int clients_send(struct held *held, unsigned begin, unsigned end) {
        for (unsigned i = 0; i < held->shape->connections; i++) {
                struct client *client = &held->clients[i];
                size_t len = 0;
                ssize_t n;

                for (unsigned j = begin; j < end; j++)
                        len += server_format_request(held->buffer + len, client->first_id + j);
                n = send(client->fd, held->buffer, len, MSG_NOSIGNAL);
                if (n != (ssize_t)len)
                        return n < 0 ? -errno : -EINTR;
        }
        return 0;
}

/* Until the server says that so many requests wait. */
static int await_waiting(struct held *held, uint64_t count) {
        uint64_t waiting;
        int r;

        for (;;) {
                r = server_waiting(&held->server, &waiting);
                if (r < 0)
                        return r;
                if (waiting == count)
                        return 0;
                r = server_listen(&held->server);
                if (r < 0)
                        return r;
                if (held->server.ready)
                        return HELD_TOO_SOON;
                r = server_sleep(POLL_SECONDS);
                if (r < 0)
                        return r;
        }
}

/* The server, loading, and all its clients connected and waiting. `figures` may be NULL. */
static int start(struct held *held, const struct server_programs *programs, enum server_kind kind,
                 double load, struct held_figures *figures) {
        const struct held_shape *shape = held->shape;
        uint64_t idle, first = 0, all = 0;
        int r;

        r = clients_init(held);
        if (r < 0)
                return r;
        r = server_start(&held->server, programs, kind, load);
        if (r < 0)
                return r;
        r = server_await_loading(&held->server);
        if (r < 0)
                return r;
        r = server_await_socket(&held->server);
        if (r < 0)
                return r;

        /* Once asked, it has touched what it touches for the first of its connections. */
        r = await_waiting(held, 0);
        if (r == 0)
                r = server_memory(&held->server, &idle);
        if (r == 0)
                r = clients_connect(held);
        if (r == 0)
                r = clients_send(held, 0, 1);
        if (r == 0)
                r = await_waiting(held, shape->connections);
        if (r == 0)
                r = server_memory(&held->server, &first);
        if (r == 0 && shape->requests > 1)
                r = clients_send(held, 1, shape->requests);
        if (r == 0)
                r = await_waiting(held, count_requests(shape));
        if (r == 0)
                r = server_memory(&held->server, &all);
        if (r != 0 || !figures)
                return r;

        figures->connection_bytes = ((double)first - (double)idle) / shape->connections;
        if (shape->requests > 1)
                figures->request_bytes = ((double)all - (double)first) /
                                         (double)(count_requests(shape) - shape->connections);
        return 0;
}

/* Reads what has come for a client. Returns 0, 1 if that was the last of it, or -errno. */
static int client_read(struct held *held, struct client *client) {
        for (;;) {
                size_t left = client->expected - client->received;
                size_t room = client->kept ? left : READ_SIZE;
                char *to = client->kept ? client->kept + client->received : held->buffer;
                ssize_t n = recv(client->fd, to, room, MSG_DONTWAIT);

                if (n < 0 && errno == EAGAIN)
                        return 0;
                if (n <= 0)
                        return n < 0 ? -errno : -ECONNRESET;
                if ((size_t)n > left)
                        return -EBADMSG;
                client->received += (size_t)n;
                if ((size_t)n == left)
                        return 1;
                /* Less than there was room for: the rest is told by another event, epoll(7). */
                if ((size_t)n < room)
                        return 0;
        }
}

/* Reads all answers; `*first` and `*last` are when there was something to read, and when there was nothing
 * more. */
static int collect(struct held *held, uint64_t *first, uint64_t *last) {
        struct epoll_event events[EVENTS];
        unsigned open = held->shape->connections;

        for (*first = 0; open > 0;) {
                int n = epoll_wait(held->epoll, events, EVENTS, REPLY_PATIENCE_MS);

                if (n <= 0)
                        return n < 0 ? -errno : -ETIMEDOUT;
                if (*first == 0)
                        *first = server_now();
                for (int i = 0; i < n; i++) {
                        struct client *client = events[i].data.ptr;
                        int r;

                        if (client->received == client->expected)
                                return -EBADMSG;
                        r = client_read(held, client);
                        if (r < 0)
                                return r;
                        open -= (unsigned)r;
                }
        }
        *last = server_now();
        return 0;
}

/* Each answer once, whatever their order, and nothing else. */
static bool client_verify(const struct client *client, unsigned requests) {
        _cleanup_free_ bool *seen = calloc(requests, sizeof(*seen));
        const char *p = client->kept, *end = client->kept + client->expected;
        char answer[SERVER_MESSAGE_MAX];

        while (seen && p < end) {
                uint64_t id;
                size_t len;

                if (strncmp(p, "OK ", 3) != 0 ||
                    number_parse(p + 3, strspn(p + 3, "0123456789"), UINT64_MAX, &id) != 0 ||
                    id < client->first_id || id - client->first_id >= requests || seen[id - client->first_id])
                        return false;
                len = server_format_answer(answer, id);
                if (strncmp(p, answer, len) != 0)
                        return false;
                seen[id - client->first_id] = true;
                p += len;
        }
        return seen;
}

int held_measure(const struct server_programs *programs, enum server_kind kind,
                 const struct held_shape *shape, double load, struct held_figures *figures) {
        _cleanup_(held_deinit) struct held held = HELD_NULL;
        uint64_t release, first, last, cpu_before, cpu_after;
        int r;

        *figures = (struct held_figures){ 0 };
        held.shape = shape;
        r = start(&held, programs, kind, load, figures);
        if (r != 0)
                return r;
        r = server_cpu(&held.server, &cpu_before);
        if (r < 0)
                return r;
        release = held.server.loading + (uint64_t)(load * (double)NSEC_PER_SEC);
        if (server_now() >= release)
                return HELD_TOO_SOON;

        r = collect(&held, &first, &last);
        if (r < 0)
                return r;
        r = server_cpu_at_rest(&held.server, &cpu_after);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < shape->connections; i++)
                if (held.clients[i].kept && !client_verify(&held.clients[i], shape->requests))
                        return -EBADMSG;

        release = MIN(release, first);
        figures->first_ms = ((double)first - (double)release) / (double)NSEC_PER_MSEC;
        figures->last_ms = ((double)last - (double)release) / (double)NSEC_PER_MSEC;
        figures->cpu_us =
                (double)(cpu_after - cpu_before) / (double)NSEC_PER_USEC / (double)count_requests(shape);
        return 0;
}

int held_count_switches(const struct server_programs *programs, enum server_kind kind,
                        const struct held_shape *shape, double load, double seconds, uint64_t *switches) {
        _cleanup_(held_deinit) struct held held = HELD_NULL;
        uint64_t before, after;
        int r;

        held.shape = shape;
        r = start(&held, programs, kind, load, NULL);
        /* The last STATUS was answered a moment ago: its thread may still be on its way to sleep. */
        if (r == 0)
                r = server_cpu_at_rest(&held.server, &before);
        if (r == 0)
                r = server_switches(&held.server, &before);
        if (r == 0)
                r = server_sleep(seconds);
        if (r == 0)
                r = server_switches(&held.server, &after);
        if (r == 0)
                r = server_listen(&held.server);
        if (r != 0)
                return r;
        *switches = after - before;
        return held.server.ready ? HELD_TOO_SOON : 0;
}
