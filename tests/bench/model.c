#include "tests/bench/model.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"
#include "tests/bench/caller.h"
#include "tests/bench/tool.h"

#define BACKLOG 4096
#define EVENTS 256
#define REQUEST_MAX 2048
#define EVENT_FORMAT                            \
        "data: {" MODEL_STAMP "%016" PRIx64     \
        "\",\"choices\":[{\"index\":0,\"text\":\" of events\",\"finish_reason\":null}]}\n\n"

struct model_shared {
        atomic_uint held;
};

/* A connection of the proxy's. */
struct connection {
        int fd;
        uint32_t usual;         /* the length of the request before; the next is likely to be as long */
        uint32_t len;
        char *request;          /* that came in part */
};

struct server {
        enum model_mode mode;
        unsigned streams;
        struct model_shared *shared;
        int epoll;
        struct connection **held;       /* or the streams */
        unsigned held_count;
        unsigned held_size;
        uint64_t tick;                  /* between two events, whatever their stream; 0: they have not begun */
        uint64_t due;
        unsigned turn;
        size_t answer_len;
        char answer[MODEL_BODY + 128];
};

static const char unready[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
static const char stream_head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

static void answer(const struct connection *connection, const char *data, size_t len) {
        (void)send(connection->fd, data, len, MSG_NOSIGNAL);
}

static void hold(struct server *server, struct connection *connection) {
        if (server->held_count == server->held_size) {
                server->held_size = 2 * server->held_size + 64;
                server->held = realloc(server->held, server->held_size * sizeof(struct connection *));
                if (!server->held)
                        _exit(1);
        }
        server->held[server->held_count++] = connection;
        atomic_store(&server->shared->held, server->held_count);
}

static void forget(struct server *server, const struct connection *connection) {
        for (unsigned i = 0; i < server->held_count; i++)
                if (server->held[i] == connection)
                        server->held[i--] = server->held[--server->held_count];
}

static void request_ends(struct server *server, struct connection *connection, const char *request) {
        if (server->mode == MODEL_ANSWERS || (server->mode == MODEL_STREAMS && request[0] == 'G')) {
                answer(connection, server->answer, server->answer_len);
                return;
        }
        if (request[0] == 'G') {
                answer(connection, unready, strlen(unready));
                return;
        }
        hold(server, connection);
        if (server->mode != MODEL_STREAMS)
                return;
        answer(connection, stream_head, strlen(stream_head));
        if (server->held_count == server->streams) {
                server->tick = NSEC_PER_SEC / (MODEL_EVENTS * (uint64_t)server->streams);
                server->due = tool_now();
        }
}

/* Reads what has come. Returns false at the end of the connection. */
static bool connection_read(struct server *server, struct connection *connection) {
        char buffer[REQUEST_MAX + 1];
        size_t whole;
        ssize_t n;

        if (connection->len > 0)
                memcpy(buffer, connection->request, connection->len);
        n = recv(connection->fd, buffer + connection->len, REQUEST_MAX - connection->len, MSG_DONTWAIT);
        if (n <= 0)
                return n < 0 && errno == EAGAIN;
        connection->len += (uint32_t)n;
        buffer[connection->len] = '\0';
        whole = connection->len == connection->usual ? connection->usual : caller_message_len(buffer, connection->len);
        if (whole > 0) {
                /* The next one comes after the answer. */
                connection->usual = (uint32_t)whole;
                connection->len = 0;
                free(STEAL_POINTER(connection->request));
                request_ends(server, connection, buffer);
        } else {
                free(connection->request);
                connection->request = malloc(connection->len);
                if (!connection->request)
                        return false;
                memcpy(connection->request, buffer, connection->len);
        }
        return true;
}

static void connection_close(struct server *server, struct connection *connection) {
        /* Reset, so that no port is kept: another round needs as many. */
        const struct linger reset = { .l_onoff = 1 };

        forget(server, connection);
        (void)setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        close(connection->fd);
        free(connection->request);
        free(connection);
}

static void accept_one(const struct server *server, int listener) {
        struct connection *connection = calloc(1, sizeof(*connection));
        struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = connection };
        const int on = 1;

        if (!connection)
                return;
        connection->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        (void)setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        if (epoll_ctl(server->epoll, EPOLL_CTL_ADD, connection->fd, &event) < 0) {
                util_close(connection->fd);
                free(connection);
        }
}

static void release(struct server *server) {
        server->mode = MODEL_ANSWERS;
        while (server->held_count > 0)
                answer(server->held[--server->held_count], server->answer, server->answer_len);
}

/* Sends the events that are due. Returns how long to wait for the next. */
static struct timespec send_events(struct server *server) {
        char event[256], chunk[sizeof(event) + 32];
        uint64_t now = tool_now();

        for (; server->due <= now; server->due += server->tick) {
                int n;

                /* A stream that is over leaves its turns empty. */
                server->turn = (server->turn + 1) % server->streams;
                if (server->turn >= server->held_count)
                        continue;
                n = snprintf(event, sizeof(event), EVENT_FORMAT, now);
                n = snprintf(chunk, sizeof(chunk), "%x\r\n%s\r\n", n, event);
                answer(server->held[server->turn], chunk, (size_t)n);
        }
        return (struct timespec){ .tv_nsec = (long)(server->due - now) };
}

_Noreturn static void serve(struct server *server, int listener, int release_fd) {
        struct epoll_event event = { .events = EPOLLIN, .data.ptr = &listener };

        server->answer_len = (size_t)snprintf(server->answer, sizeof(server->answer), "HTTP/1.1 200 OK\r\n"
                                              "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n", MODEL_BODY);
        memset(server->answer + server->answer_len, 'x', MODEL_BODY);
        server->answer_len += MODEL_BODY;

        server->epoll = epoll_create1(EPOLL_CLOEXEC);
        (void)epoll_ctl(server->epoll, EPOLL_CTL_ADD, listener, &event);
        event.data.ptr = &release_fd;
        event.events = EPOLLIN | EPOLLET;
        (void)epoll_ctl(server->epoll, EPOLL_CTL_ADD, release_fd, &event);
        for (;;) {
                struct epoll_event events[EVENTS];
                struct timespec until;
                int n;

                if (server->tick > 0)
                        until = send_events(server);
                n = epoll_pwait2(server->epoll, events, EVENTS, server->tick > 0 ? &until : NULL, NULL);
                for (int i = 0; i < n; i++)
                        if (events[i].data.ptr == &listener)
                                accept_one(server, listener);
                        else if (events[i].data.ptr == &release_fd)
                                release(server);
                        else if (!connection_read(server, events[i].data.ptr))
                                connection_close(server, events[i].data.ptr);
        }
}

void model_start(struct model *model, enum model_mode mode, unsigned streams) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t len = sizeof(address);
        int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        *model = (struct model)MODEL_NULL;
        if (listener < 0 || bind(listener, (struct sockaddr *)&address, len) < 0 || listen(listener, BACKLOG) < 0 ||
            getsockname(listener, (struct sockaddr *)&address, &len) < 0)
                tool_fail("listen");
        model->port = ntohs(address.sin_port);
        model->release_fd = eventfd(0, EFD_CLOEXEC);
        model->shared = mmap(NULL, sizeof(*model->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (model->release_fd < 0 || model->shared == MAP_FAILED)
                tool_fail("mmap");
        model->pid = fork();
        if (model->pid < 0)
                tool_fail("fork");
        if (model->pid == 0) {
                static struct server server;

                prctl(PR_SET_PDEATHSIG, SIGKILL);
                /* Events leave at their time, and not some together. */
                prctl(PR_SET_TIMERSLACK, 1);
                server.mode = mode;
                server.streams = streams;
                server.shared = model->shared;
                serve(&server, listener, model->release_fd);
        }
        close(listener);
}

void model_stop(struct model *model) {
        tool_stop(&model->pid);
        model->release_fd = util_close(model->release_fd);
        if (model->shared)
                munmap(STEAL_POINTER(model->shared), sizeof(*model->shared));
}

unsigned model_held(const struct model *model) {
        return atomic_load(&model->shared->held);
}

void model_release(struct model *model) {
        const uint64_t one = 1;

        if (write(model->release_fd, &one, sizeof(one)) != sizeof(one))
                tool_fail("write");
}
