#include "daemon/front/http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/number.h"
#include "daemon/front/http_connection.h"
#include "daemon/log.h"

/* Reads in one turn; then other connections have theirs. */
#define READ_BATCH 4

static struct http_connection *connection_of_socket(struct socket *socket) {
        return container_of(socket, struct http_connection, socket);
}

static struct http_connection *connection_of_link(struct list *link) {
        return container_of(link, struct http_connection, link);
}

char *http_room(struct http_connection *connection, size_t size) {
        return socket_room(&connection->socket, size);
}

void http_wrote(struct http_connection *connection, size_t n) {
        struct http *http = connection->http;

        socket_wrote(&connection->socket, n);
        counter_add(&http->lane->counters->http.bytes_out, (int64_t)n);
        /* A tunnel is not waited for. */
        if (connection->state == HTTP_TUNNEL)
                return;
        http->unsent += !connection->has_unsent;
        connection->has_unsent = true;
}

bool http_write(struct http_connection *connection, const void *data, size_t n) {
        char *to = http_room(connection, n);

        if (!to)
                return false;
        if (n > 0)
                memcpy(to, data, n);
        http_wrote(connection, n);
        return true;
}

void http_note_sent(struct http_connection *connection) {
        if (!connection->has_unsent)
                return;
        connection->has_unsent = false;
        connection->http->unsent--;
        connection->http->flushed(connection->http);
}

/* Delays. */

static struct http_connection *first_of(const struct http_delay *delay) {
        return container_of(delay->connections.next, struct http_connection, delay_link);
}

/* A sixteenth late, so that connections whose delays began one soon after the other need one wake-up. */
static void set_timer(struct http *http, struct http_delay *delay) {
        reactor_set_timer(http->sockets->reactor, &delay->timer, first_of(delay)->delayed + delay->nsec + delay->nsec / 16);
}

void http_set_delay(struct http_connection *connection, enum http_delay_kind kind) {
        struct http *http = connection->http;

        if (connection->delay != HTTP_DELAY_NONE) {
                struct http_delay *before = &http->delays[connection->delay];

                list_remove(&connection->delay_link);
                if (list_is_empty(&before->connections))
                        timer_clear(&before->timer);
        }
        connection->delay = kind;
        if (kind == HTTP_DELAY_NONE)
                return;
        if (http->delays[kind].nsec == 0) {
                connection->delay = HTTP_DELAY_NONE;
                return;
        }
        connection->delayed = reactor_now(http->sockets->reactor);
        list_append(&http->delays[kind].connections, &connection->delay_link);
        if (!timer_is_set(&http->delays[kind].timer))
                set_timer(http, &http->delays[kind]);
}

static void head_due(struct http_connection *connection) {
        static const char message[] = "The request did not come within the time that --head-timeout sets";

        if (connection->state == HTTP_DISCARDING) {
                socket_break(&connection->socket, ETIMEDOUT);
                return;
        }
        if (connection->state == HTTP_IDLE)
                connection->head = (struct http_request){ 0 };
        http_refuse(connection, 408, "timed-out", message);
}

static void delay_elapsed(struct http *http, enum http_delay_kind kind) {
        struct http_delay *delay = &http->delays[kind];
        const uint64_t now = reactor_now(http->sockets->reactor);

        /* A comment begins the delay anew: then the connection is the last, and is not due. */
        while (!list_is_empty(&delay->connections) && first_of(delay)->delayed + delay->nsec <= now) {
                struct http_connection *connection = first_of(delay);

                switch (kind) {
                case HTTP_DELAY_HEAD:
                        head_due(connection);
                        break;
                case HTTP_DELAY_IDLE:
                        socket_break(&connection->socket, ETIMEDOUT);
                        break;
                default:
                        http_early_due(connection);
                        break;
                }
                if (connection->delay == kind && connection->delayed != now)
                        http_set_delay(connection, HTTP_DELAY_NONE);
        }
        if (!list_is_empty(&delay->connections))
                set_timer(http, delay);
}

static void head_elapsed(struct timer *timer) {
        delay_elapsed(container_of(timer, struct http, delays[HTTP_DELAY_HEAD].timer), HTTP_DELAY_HEAD);
}

static void idle_elapsed(struct timer *timer) {
        delay_elapsed(container_of(timer, struct http, delays[HTTP_DELAY_IDLE].timer), HTTP_DELAY_IDLE);
}

static void stream_elapsed(struct timer *timer) {
        delay_elapsed(container_of(timer, struct http, delays[HTTP_DELAY_STREAM].timer), HTTP_DELAY_STREAM);
}

static void json_elapsed(struct timer *timer) {
        delay_elapsed(container_of(timer, struct http, delays[HTTP_DELAY_JSON].timer), HTTP_DELAY_JSON);
}

/* The time-outs are those of what the client does; the others belong to the request. */
static void update_delay(struct http_connection *connection) {
        enum http_delay_kind kind = HTTP_DELAY_NONE;

        switch (connection->state) {
        case HTTP_IDLE:
                kind = connection->kept ? HTTP_DELAY_HEAD : HTTP_DELAY_IDLE;
                break;
        case HTTP_CLOSING:
                kind = HTTP_DELAY_IDLE;
                break;
        case HTTP_BODY:
        case HTTP_DISCARDING:
                kind = HTTP_DELAY_HEAD;
                break;
        case HTTP_ASKED:
                return;
        }
        if (connection->delay != kind)
                http_set_delay(connection, kind);
}

/* The life of a connection. */

/* On a Unix socket a client that has ended its input may still read; elsewhere nobody can tell it from one that has gone. */
static bool is_unix(const struct http_connection *connection) {
        int domain = AF_UNSPEC;
        socklen_t len = sizeof(domain);

        return getsockopt(socket_fd(&connection->socket), SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

bool http_client_is_gone(struct http_connection *connection) {
        const struct socket *socket = &connection->socket;

        if (socket->gone || socket->broken)
                return true;
        return (socket->input_ending || socket->input_ended) && connection->state != HTTP_TUNNEL && !is_unix(connection);
}

void http_answered(struct http_connection *connection, bool whole) {
        const bool began = connection->began;

        http_drop_request(connection);
        if (connection->state == HTTP_TUNNEL)
                connection->http->tunnels--;
        if (!whole) {
                connection->closes = true;
                /* The end of the connection alone would say that the answer is whole. */
                connection->resets = connection->head_sent && connection->framing == HTTP_FRAMING_CLOSE;
                /* A reset, because of input that nobody reads, would take the answers before it along: tcp(7). */
                connection->lingers |= !connection->resets;
        }
        http_set_delay(connection, HTTP_DELAY_NONE);
        connection->record = NULL;
        connection->state = connection->closes ? HTTP_CLOSING : HTTP_IDLE;
        connection->left = connection->sent = 0;
        connection->waited = connection->head_sent = connection->began = connection->collects = false;
        connection->paused_model = connection->drops_accept_encoding = false;
        connection->early = HTTP_EARLY_NONE;
        if (began)
                http_park_began(connection);
        socket_attend_later(&connection->socket);
}

static void connection_end(struct http_connection *connection) {
        struct http *http = connection->http;

        http_park_end(connection);
        /* analyzer-suppress: all of it is zeroed when it is made; the analyzer loses that for bit-fields. */
        if (connection->state == HTTP_TUNNEL)
                http->tunnels--;
        lane_forget(http->lane, &connection->owner);
        http_drop_request(connection);
        if (connection->collects)
                free(connection->collected);
        free(connection->kept);
        http_set_delay(connection, HTTP_DELAY_NONE);
        list_remove(&connection->link);
        /* analyzer-suppress: all of it is zeroed when it is made; the analyzer loses that for bit-fields. */
        if (connection->resets) {
                const struct linger reset = { .l_onoff = 1 };

                (void)setsockopt(socket_fd(&connection->socket), SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        }
        socket_deinit(&connection->socket);
        http_note_sent(connection);
        pool_put(&http->pool, connection);
        counter_add(&http->lane->counters->connections, -1);
        http->ended(http);
}

/* Reading stops while too much is there that cannot be taken, or the client does not read what it is sent. */
static void update_pause(struct http_connection *connection) {
        bool paused = false;

        switch (connection->state) {
        case HTTP_IDLE:
        case HTTP_BODY:
                paused = socket_unsent(&connection->socket) > HTTP_OUTPUT_HIGH;
                break;
        case HTTP_ASKED:
        case HTTP_ANSWERING:
                paused = http_kept_len(connection) >= HTTP_KEPT_MAX;
                break;
        case HTTP_TUNNEL:
                return;
        }
        if (connection->socket.paused != paused)
                socket_pause(&connection->socket, paused);
}

static void connection_input(struct socket *socket) {
        struct http_connection *connection = connection_of_socket(socket);
        char *buffer = socket->group->buffer;

        lane_note_heard(connection->http->lane);
        parking_begin_input(connection->http->parking, &connection->guest);
        for (unsigned i = 0; i < READ_BATCH && socket->readable && !socket->paused; i++) {
                size_t n = socket_read(socket, buffer, SOCKET_BUFFER_SIZE);

                if (n == 0)
                        break;
                counter_add(&connection->http->lane->counters->http.bytes_in, (int64_t)n);
                http_take(connection, buffer, n);
                update_pause(connection);
        }
        parking_end_input(connection->http->parking);
}

/* The last answer was sent. A client that is still sending would be reset by close(2), and might not read the answer. */
static void begin_to_linger(struct http_connection *connection) {
        connection->state = HTTP_DISCARDING;
        connection->left = HTTP_DISCARD_MAX;
        (void)shutdown(socket_fd(&connection->socket), SHUT_WR);
}

static bool is_over(struct http_connection *connection) {
        struct socket *socket = &connection->socket;

        if (socket->broken)
                return true;
        switch (connection->state) {
        case HTTP_IDLE:
        case HTTP_BODY:
                if (socket->gone)
                        return !socket->readable || socket->paused;
                return socket->input_ended && socket_unsent(socket) == 0;
        case HTTP_ASKED:
        case HTTP_ANSWERING:
                return http_client_is_gone(connection);
        case HTTP_TUNNEL:
                return socket->gone;
        case HTTP_CLOSING:
                if (socket_unsent(socket) == 0 && connection->lingers && !socket->gone)
                        begin_to_linger(connection);
                else
                        return socket->gone || socket_unsent(socket) == 0;
                __attribute__((fallthrough));
        case HTTP_DISCARDING:
                return socket->gone || socket->input_ended || connection->left == 0;
        }
        return true;
}

/* The end of a turn: what was answered in it was sent. */
static void connection_attend(struct socket *socket) {
        struct http_connection *connection = connection_of_socket(socket);

        if (socket_unsent(socket) == 0)
                http_note_sent(connection);
        if (!socket->broken && connection->kept && http_takes(connection))
                http_take_kept(connection);
        if (connection->state == HTTP_TUNNEL && socket->input_ended && !connection->finished)
                http_tunnel_finish(connection);
        if (is_over(connection)) {
                if (socket_has_failed(socket))
                        log_warning("Cannot go on with an HTTP connection, ending it: %s", strerror(-socket->error));
                connection_end(connection);
                return;
        }
        if (connection->paused_model && socket_unsent(socket) < HTTP_OUTPUT_LOW)
                http_resume_model(connection);
        update_delay(connection);
        update_pause(connection);
        http_park_busy(connection);
}

static const struct socket_ops socket_ops = {
        .input = connection_input,
        .attend = connection_attend,
};

struct http_connection *http_connection_make(struct http *http, int fd, int *error) {
        struct http_connection *connection = pool_take(&http->pool);
        int r;

        if (!connection) {
                close(fd);
                *error = -ENOMEM;
                return NULL;
        }
        memset(connection, 0, sizeof(*connection));
        r = socket_init(&connection->socket, http->sockets, &socket_ops, fd);
        if (r < 0) {
                pool_put(&http->pool, connection);
                *error = r;
                return NULL;
        }
        connection->http = http;
        connection->delay = HTTP_DELAY_NONE;
        request_owner_init(&connection->owner, &http_request_ops);
        http_park_init(connection);
        list_init(&connection->delay_link);
        list_append(&http->connections, &connection->link);
        counter_add(&http->lane->counters->connections, 1);
        update_delay(connection);
        http_park_new(connection);
        return connection;
}

int http_connection_new(struct http *http, int fd) {
        int error = 0;

        return http_connection_make(http, fd, &error) ? 0 : error;
}

int http_init(struct http *http, struct socket_group *sockets, struct lane *lane, struct status *status,
              struct http_group *group, struct parking *parking, void (*ended)(struct http *http),
              void (*flushed)(struct http *http)) {
        static void (*const elapsed[])(struct timer *timer) = {
                [HTTP_DELAY_HEAD] = head_elapsed,
                [HTTP_DELAY_IDLE] = idle_elapsed,
                [HTTP_DELAY_STREAM] = stream_elapsed,
                [HTTP_DELAY_JSON] = json_elapsed,
        };

        *http = (struct http){
                .sockets = sockets,
                .lane = lane,
                .status = status,
                .group = group,
                .parking = parking,
                .delays = {
                        [HTTP_DELAY_HEAD] = { .nsec = group->head_timeout },
                        [HTTP_DELAY_IDLE] = { .nsec = group->client_idle_timeout },
                        [HTTP_DELAY_STREAM] = { .nsec = group->stream_keepalive },
                        [HTTP_DELAY_JSON] = { .nsec = group->json_keepalive },
                },
                .ended = ended,
                .flushed = flushed,
        };
        pool_init(&http->pool, sizeof(struct http_connection));
        list_init(&http->connections);
        for (unsigned i = 0; i < HTTP_DELAY_COUNT; i++) {
                list_init(&http->delays[i].connections);
                timer_init(&http->delays[i].timer, elapsed[i]);
        }
        return 0;
}

/* Whether a part of a request is there. */
static bool is_coming(const struct http_connection *connection) {
        return connection->state == HTTP_BODY || (connection->state == HTTP_IDLE && connection->kept);
}

/* Leaves the connection to its successor, or says what is left to say. */
static void connection_leave(struct http_connection *connection) {
        struct parking *parking = connection->http->parking;
        struct socket *socket = &connection->socket;

        socket_flush(socket);
        http_park_busy(connection);
        if (parking_has_successor(parking, &connection->guest) && !socket->broken && !socket->gone &&
            !connection->parked_busy) {
                parking_hand_over(parking, &connection->guest);
                return;
        }
        if (connection->http->lane->leaving && is_coming(connection)) {
                if (connection->state == HTTP_IDLE)
                        connection->head = (struct http_request){ 0 };
                http_refuse_error(connection, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
        }
        socket->blocked = false;
        socket_flush(socket);
}

void http_deinit(struct http *http) {
        if (!http->sockets)
                return;
        while (!list_is_empty(&http->connections)) {
                struct http_connection *connection = connection_of_link(http->connections.next);

                connection_leave(connection);
                connection_end(connection);
        }
        pool_deinit(&http->pool);
        http->sockets = NULL;
}

bool http_is_flushed(const struct http *http) {
        return http->unsent == 0;
}

uint64_t http_unsent(const struct http *http) {
        uint64_t n = 0;

        if (!http->sockets)
                return 0;
        for (struct list *i = http->connections.next; i != &http->connections; i = i->next) {
                const struct http_connection *connection = connection_of_link(i);

                if (connection->state != HTTP_TUNNEL)
                        n += socket_unsent(&connection->socket);
        }
        return n;
}

bool http_is_stopping(const struct http *http) {
        return gate_state(http->lane->queue->stop) != GATE_PENDING || http->lane->leaving;
}
