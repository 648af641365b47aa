#include <stdio.h>
#include <string.h>

#include "daemon/front/http_connection.h"
#include "daemon/log.h"

/* Flags of PARKING_HTTP: what msd has begun to answer to the request that waits. */
enum {
        PARKED_EVENTS = 1 << 0,
        PARKED_JSON = 1 << 1,
        PARKED_CHUNKED = 1 << 2,
};

static struct parking *parking_of(const struct http_connection *connection) {
        return connection->http->parking;
}

/* Bytes of a request that is not all there, and of those that follow the one under way. */
static struct parking_data rest_of(const struct http_connection *connection) {
        const struct http_kept *kept = connection->kept;

        if (connection->state == HTTP_BODY)
                return (struct parking_data){ http_record_text(connection), connection->coming->filled };
        if (kept)
                return (struct parking_data){ kept->data + kept->start, kept->end - kept->start };
        return (struct parking_data){ "", 0 };
}

static void record_rest(struct http_connection *connection) {
        const struct parking_data rest = rest_of(connection);

        if (rest.len > 0 || connection->parked_rest)
                parking_record(parking_of(connection), &connection->guest, PARKING_REST, 0, 0, &rest, 1);
        connection->parked_rest = rest.len > 0;
}

static void record_kind(struct http_connection *connection) {
        /* analyzer-suppress: all of it is zeroed when it is made; the analyzer loses that for bit-fields. */
        const unsigned began = connection->began, early = connection->early, framing = connection->framing;
        unsigned flags = 0;

        if (began)
                flags = (early == HTTP_EARLY_EVENTS ? PARKED_EVENTS : PARKED_JSON) |
                        (framing == HTTP_FRAMING_CHUNKED ? PARKED_CHUNKED : 0);
        parking_record(parking_of(connection), &connection->guest, PARKING_HTTP, flags, 0, NULL, 0);
}

/* Returns whether there is a record more. */
static bool record_busy(struct http_connection *connection, bool busy) {
        if (busy == connection->parked_busy || !guest_is_parked(&connection->guest))
                return false;
        connection->parked_busy = busy;
        parking_record(parking_of(connection), &connection->guest, busy ? PARKING_BUSY : PARKING_IDLE, 0, 0, NULL, 0);
        return true;
}

void http_park_busy(struct http_connection *connection) {
        const bool busy = socket_unsent(&connection->socket) > 0 || connection->owner.in_flight > 0 ||
                          connection->state == HTTP_CLOSING || connection->state == HTTP_DISCARDING;

        if (record_busy(connection, busy) && busy)
                parking_write(parking_of(connection));
}

static void describe(struct guest *guest) {
        struct http_connection *connection = container_of(guest, struct http_connection, guest);

        connection->parked_rest = connection->parked_busy = false;
        record_kind(connection);
        record_rest(connection);
        http_park_busy(connection);
}

void http_park_init(struct http_connection *connection) {
        guest_init(&connection->guest, &connection->owner, describe);
}

static void park(struct http_connection *connection) {
        parking_add(parking_of(connection), &connection->guest, socket_fd(&connection->socket));
        for (struct list *i = connection->owner.requests.next; i != &connection->owner.requests; i = i->next) {
                struct request *request = container_of(i, struct request, owner_link);

                /* One that is in no list of the lane is about to go to the model, or to be answered. */
                if (!request->inference.started && !list_is_empty(&request->lane_link))
                        http_park_waiting(connection, request);
        }
        describe(&connection->guest);
}

void http_park(struct http *http) {
        for (struct list *i = http->connections.next; i != &http->connections; i = i->next) {
                struct http_connection *connection = container_of(i, struct http_connection, link);

                if (!guest_is_parked(&connection->guest) && !connection->socket.broken && !connection->socket.gone)
                        park(connection);
        }
}

void http_park_new(struct http_connection *connection) {
        parking_open(parking_of(connection));
        if (parking_is_open(parking_of(connection)) && !guest_is_parked(&connection->guest))
                park(connection);
}

static unsigned waiting_flags(const struct http_connection *connection) {
        return connection->head.is_head ? PARKING_BODILESS : 0;
}

/* A client that waits for the model has no record: its request is made anew. */
static void park_observer(struct http_connection *connection, struct request *request) {
        const struct http_request *head = &connection->head;
        char text[128];
        int n = snprintf(text, sizeof(text), "%s /-/wait HTTP/1.%c\r\nHost: msd\r\nConnection: %s\r\n\r\n",
                         head->is_head ? "HEAD" : "GET", head->is_http_1_0 ? '0' : '1',
                         head->keep_alive ? "keep-alive" : "close");

        parking_wait(parking_of(connection), &connection->guest, request, waiting_flags(connection),
                     &(struct parking_data){ text, (size_t)n }, 1);
}

void http_park_waiting(struct http_connection *connection, struct request *request) {
        if (!guest_is_parked(&connection->guest))
                return;
        if (request_is_observer(request))
                park_observer(connection, request);
        else {
                const struct parking_data data = { inference_prompt(&request->inference), request->inference.prompt_len };

                parking_wait(parking_of(connection), &connection->guest, request, waiting_flags(connection), &data, 1);
        }
        /* It may have been in flight. */
        if (connection->parked_busy)
                socket_attend_later(&connection->socket);
}

void http_park_answered(struct http_connection *connection, struct request *request) {
        if (!request->inference.parked && !request->inference.unheld)
                return;
        parking_end(parking_of(connection), &connection->guest, request);
        parking_write(parking_of(connection));
}

void http_park_starting(struct http_connection *connection, struct request *request) {
        parking_end(parking_of(connection), &connection->guest, request);
        (void)record_busy(connection, true);
}

void http_park_began(struct http_connection *connection) {
        if (!guest_is_parked(&connection->guest))
                return;
        record_kind(connection);
        http_park_busy(connection);
}

size_t http_park_input(struct http_connection *connection, const char *data, size_t len) {
        const struct parking_data more = { data, len };

        if (connection->parked_rest && guest_is_parked(&connection->guest))
                parking_record(parking_of(connection), &connection->guest, PARKING_MORE, 0, 0, &more, 1);
        return rest_of(connection).len + len;
}

void http_park_taken(struct http_connection *connection, size_t expected) {
        if (!guest_is_parked(&connection->guest))
                return;
        if (!connection->parked_rest || rest_of(connection).len != expected)
                record_rest(connection);
        http_park_busy(connection);
}

void http_park_end(struct http_connection *connection) {
        parking_remove(parking_of(connection), &connection->guest);
}

/* What a predecessor has parked. */

struct http_connection *http_adopt(struct http *http, int fd, unsigned flags) {
        int error = 0;
        struct http_connection *connection = http_connection_make(http, fd, &error);

        if (!connection)
                log_warning("Cannot take over an HTTP connection, ignoring: %s", strerror(-error));
        else if (flags & (PARKED_EVENTS | PARKED_JSON)) {
                connection->early = flags & PARKED_EVENTS ? HTTP_EARLY_EVENTS : HTTP_EARLY_JSON;
                connection->framing = flags & PARKED_CHUNKED ? HTTP_FRAMING_CHUNKED : HTTP_FRAMING_CLOSE;
                connection->began = connection->head_sent = true;
                http_park_began(connection);
        }
        return connection;
}

#define PARTING                                                      \
        "{\"error\":{\"message\":\"" PROTOCOL_SHUTTING_DOWN_MESSAGE  \
        "\",\"type\":\"server_error\",\"param\":null,\"code\":\"shutting-down\"}}"
#define PARTING_EVENT "data: " PARTING "\n\n"

void http_format_parting(char text[static HTTP_PARTING_MAX], unsigned flags, bool bodiless) {
        const char *body = flags & PARKED_EVENTS ? PARTING_EVENT : PARTING;

        if (!(flags & (PARKED_EVENTS | PARKED_JSON)))
                snprintf(text, HTTP_PARTING_MAX,
                         "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                         "Retry-After: 1\r\nConnection: close\r\n\r\n%s",
                         strlen(body), bodiless ? "" : body);
        else if (flags & PARKED_CHUNKED)
                snprintf(text, HTTP_PARTING_MAX, "%zx\r\n%s\r\n" HTTP_CHUNK_END, strlen(body), body);
        else
                snprintf(text, HTTP_PARTING_MAX, "%s", body);
}

void http_feed_waiting(struct http_connection *connection, const char *data, size_t len, uint64_t arrived) {
        if (connection->state != HTTP_IDLE || connection->kept)
                return;
        lane_set_arrival(connection->http->lane, arrived);
        http_take_whole(connection, data, len);
        lane_set_arrival(connection->http->lane, 0);
        socket_attend_later(&connection->socket);
}

void http_feed_rest(struct http_connection *connection, const char *data, size_t len) {
        char *buffer = connection->socket.group->buffer;

        while (len > 0 && !connection->socket.broken) {
                size_t n = MIN(len, (size_t)SOCKET_BUFFER_SIZE);

                memcpy(buffer, data, n);
                http_take(connection, buffer, n);
                data += n;
                len -= n;
        }
        socket_attend_later(&connection->socket);
}
