#include "daemon/front/unix.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/line.h"
#include "common/number.h"
#include "common/protocol.h"
#include "common/user.h"
#include "common/util.h"
#include "daemon/log.h"

/* Reads in one turn; then the other connections have theirs. */
#define READ_BATCH 4

/*
 * A connection that has so many requests in flight is not read until some are answered: pipelining is meant to
 * fill the line, not the daemon's memory. (Waiting ones are limited on their own.)
 */
#define PROCESSING_MAX 65536

/*
 * A connection with more unsent output than the first is not read, runs no command, and gets no parts of streams, until it is
 * down to the second. Answers of what is in flight still come on top. One more error fits into a block of a power of two.
 */
#define OUTPUT_HIGH (262144 - PROTOCOL_ERROR_MAX)
#define OUTPUT_LOW 65536

struct connection {
        struct socket socket;
        struct request_owner owner;
        struct front *front;
        struct list link;
        struct guest guest;
        struct line line;
        bool full : 1;                  /* there is too much unsent output */
        bool streams_paused : 1;        /* because of that */
        bool parked_rest : 1;           /* a successor would find a part of a command */
        bool parked_busy : 1;           /* a successor would not take it over: what is on its way would be missing */
};

static struct connection *connection_of(struct request_owner *owner) {
        return container_of(owner, struct connection, owner);
}

static struct connection *connection_of_link(struct list *link) {
        return container_of(link, struct connection, link);
}

static struct connection *connection_of_socket(struct socket *socket) {
        return container_of(socket, struct connection, socket);
}

static struct parking *parking_of(struct connection *connection) {
        return connection->front->parking;
}

/* Whether there is too much unsent output. */
static bool is_full(struct connection *connection) {
        size_t unsent = socket_unsent(&connection->socket);

        if (unsent > OUTPUT_HIGH)
                connection->full = true;
        else if (unsent <= OUTPUT_LOW)
                connection->full = false;
        return connection->full;
}

/* Whether it is neither read nor runs a command, for now. */
static bool is_paused(struct connection *connection) {
        return is_full(connection) || connection->owner.in_flight >= PROCESSING_MAX;
}

static void reply_body(struct connection *connection, enum protocol_reply_type type, const char *id, size_t id_len,
                       const char *data, size_t len) {
        char *begin = socket_room(&connection->socket, PROTOCOL_HEAD_MAX + len + 1), *p = begin;

        if (!p)
                return;
        p += protocol_format_head(p, type, id, id_len, len);
        memcpy(p, data, len);
        p += len;
        *p++ = '\n';
        socket_wrote(&connection->socket, (size_t)(p - begin));
}

static void reply_error(struct connection *connection, const char *id, size_t id_len, enum protocol_code code,
                        const char *message) {
        char *p = socket_room(&connection->socket, PROTOCOL_ERROR_MAX);

        if (p)
                socket_wrote(&connection->socket, protocol_format_error(p, id, id_len, code, message));
}

static void reply_shutting_down(struct connection *connection) {
        reply_error(connection, NULL, 0, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
}

/* Parking: what a successor needs to know. */

static void park_waiting(struct connection *connection, struct request *request) {
        const struct inference *inference = &request->inference;
        char head[PROTOCOL_HEAD_MAX];
        struct parking_data data[] = { { head, 0 }, { inference_prompt(inference), inference->prompt_len }, { "\n", 1 } };
        enum protocol_verb verb = request_is_observer(request) ? PROTOCOL_WAIT :
                                  inference->stream            ? PROTOCOL_STREAM :
                                                                 PROTOCOL_REQUEST;

        data[0].len = protocol_format_command(head, verb, inference->id_len > 0 ? inference_id(inference) : NULL,
                                              inference->id_len, inference->has_prompt, inference->prompt_len);
        parking_wait(parking_of(connection), &connection->guest, request, 0, data, inference->has_prompt ? 3 : 1);
}

/* All that is left of the input, and what is to be dropped of later input. */
static void park_rest(struct connection *connection) {
        const struct line_state state = line_state(&connection->line);
        const size_t left = line_left(&connection->line);
        const bool some = left > 0 || state.skip > 0 || state.skip_end || state.draining;

        if (some || connection->parked_rest)
                parking_record(parking_of(connection), &connection->guest, PARKING_REST,
                               (state.skip_end ? PARKING_SKIP_END : 0) | (state.draining ? PARKING_DRAINING : 0), state.skip,
                               &(struct parking_data){ left > 0 ? line_rest(&connection->line) : "", left }, 1);
        connection->parked_rest = some;
}

/* `n` bytes have come, after which `left` were there that no command had taken yet. */
static void park_input(struct connection *connection, size_t n, size_t left) {
        if (!guest_is_parked(&connection->guest))
                return;
        if (connection->parked_rest && line_left(&connection->line) == left)
                parking_record(parking_of(connection), &connection->guest, PARKING_MORE, 0, 0,
                               &(struct parking_data){ line_rest(&connection->line) + left - n, n }, 1);
        else
                park_rest(connection);
}

static void set_parked_busy(struct connection *connection, bool busy) {
        if (busy == connection->parked_busy || !guest_is_parked(&connection->guest))
                return;
        connection->parked_busy = busy;
        parking_record(parking_of(connection), &connection->guest, busy ? PARKING_BUSY : PARKING_IDLE, 0, 0, NULL, 0);
}

/* The client would wait for a reply that is lost on its way. */
static void park_busy(struct connection *connection) {
        set_parked_busy(connection, socket_unsent(&connection->socket) > 0 || connection->owner.in_flight > 0);
}

static void connection_describe(struct guest *guest) {
        struct connection *connection = container_of(guest, struct connection, guest);

        connection->parked_rest = connection->parked_busy = false;
        park_rest(connection);
        park_busy(connection);
}

static void connection_park(struct connection *connection) {
        struct list *requests = &connection->owner.requests;

        parking_add(parking_of(connection), &connection->guest, socket_fd(&connection->socket));
        for (struct list *i = requests->next; i != requests; i = i->next) {
                struct request *request = container_of(i, struct request, owner_link);
                const bool loads = request_is_observer(request) && request->inference.handle == REQUEST_LOAD;

                /* A request in no list is about to hear what becomes of it. */
                if (!loads && !request->inference.started && !list_is_empty(&request->lane_link))
                        park_waiting(connection, request);
        }
        connection_describe(&connection->guest);
}

/* How a connection hears of its requests. */

static void request_part(struct recipient *recipient, struct inference *inference, const char *data, size_t len) {
        struct connection *connection = connection_of(container_of(recipient, struct request_owner, recipient));

        reply_body(connection, PROTOCOL_PART, inference_id(inference), inference->id_len, data, len);
        if (is_full(connection)) {
                connection->streams_paused = true;
                lane_pause(connection->front->lane, request_of_inference(inference), true);
        }
}

static void request_complete(struct request_owner *owner, struct request *request, const char *data, size_t len) {
        struct connection *connection = connection_of(owner);

        reply_body(connection, PROTOCOL_OK, inference_id(&request->inference), request->inference.id_len, data, len);
        parking_end(parking_of(connection), &connection->guest, request);
}

static void request_failed(struct request_owner *owner, struct request *request, enum protocol_code code,
                           const char *message) {
        struct connection *connection = connection_of(owner);

        reply_error(connection, inference_id(&request->inference), request->inference.id_len, code, message);
        parking_end(parking_of(connection), &connection->guest, request);
}

static void request_waiting(struct request_owner *owner, struct request *request) {
        struct connection *connection = connection_of(owner);

        if (!guest_is_parked(&connection->guest))
                return;
        park_waiting(connection, request);
        /* A request that came back from a model may have been the last in flight. */
        if (connection->parked_busy)
                socket_attend_later(&connection->socket);
}

static void request_starting(struct request_owner *owner, struct request *request) {
        struct connection *connection = connection_of(owner);

        parking_end(parking_of(connection), &connection->guest, request);
        set_parked_busy(connection, true);
}

static const struct request_ops request_ops = {
        .answer = { .part = request_part },
        .complete = request_complete,
        .failed = request_failed,
        .waiting = request_waiting,
        .starting = request_starting,
};

/* Administrator: root, or the user that the daemon runs as. It is who has connected that counts: SO_PEERCRED, unix(7). */
static bool is_permitted(const struct connection *connection) {
        struct ucred peer;
        socklen_t len = sizeof(peer);

        return getsockopt(socket_fd(&connection->socket), SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
               user_is_trusted(peer.uid);
}

/* Returns 0, 1 if the rest of the command has yet to come, or -ENOMEM. */
static int run_request(struct connection *connection, const struct protocol_command *command) {
        struct front *front = connection->front;
        uint64_t max = front->lane->queue->limits->max_prompt;
        const char *prompt = NULL;
        int r;

        if (command->has_prompt) {
                if (command->length > max) {
                        char message[96];

                        snprintf(message, sizeof(message), "A prompt may be %" PRIu64 " bytes long; --max-prompt raises that",
                                 max);
                        reply_error(connection, command->id, command->id_len, PROTOCOL_TOO_LARGE, message);
                        line_skip(&connection->line, command->length);
                        return 0;
                }
                switch (line_payload(&connection->line, command->length, &prompt)) {
                case 0:
                        return 1;
                case LINE_UNTERMINATED:
                        reply_error(connection, command->id, command->id_len, PROTOCOL_BAD_REQUEST,
                                    "The prompt is not followed by a line end");
                        return 0;
                }
        }
        /* No inference starts for a client that has gone. */
        if (connection->socket.gone)
                return 0;
        r = lane_request(front->lane, &connection->owner, command->id, command->id_len, prompt, prompt ? command->length : 0,
                         command->verb == PROTOCOL_STREAM);
        /* Before the model gets it: a successor that takes the connection over would owe an answer. */
        if (connection->owner.in_flight > 0 && !connection->parked_busy && guest_is_parked(&connection->guest)) {
                set_parked_busy(connection, true);
                parking_write(front->parking);
        }
        return r;
}

static int run_command(struct connection *connection, const struct protocol_command *command) {
        struct front *front = connection->front;

        switch (command->verb) {
        case PROTOCOL_REQUEST:
        case PROTOCOL_STREAM:
                return run_request(connection, command);

        case PROTOCOL_STATUS: {
                _cleanup_free_ char *status = status_format(front->status);

                if (!status)
                        return -ENOMEM;
                reply_body(connection, PROTOCOL_OK, NULL, 0, status, strlen(status));
                return 0;
        }

        case PROTOCOL_WAIT:
                return connection->socket.gone ? 0 : lane_observe(front->lane, &connection->owner, REQUEST_WAIT);

        case PROTOCOL_LOAD:
        case PROTOCOL_SHUTDOWN:
                if (!is_permitted(connection)) {
                        char message[64];

                        snprintf(message, sizeof(message), "%s is for root and for the user that msd runs as",
                                 protocol_verb_name(command->verb));
                        reply_error(connection, NULL, 0, PROTOCOL_NOT_PERMITTED, message);
                        return 0;
                }
                if (command->verb == PROTOCOL_LOAD)
                        return lane_observe(front->lane, &connection->owner, REQUEST_LOAD);
                reply_body(connection, PROTOCOL_OK, NULL, 0, PROTOCOL_STOPPING, strlen(PROTOCOL_STOPPING));
                front->lane->queue->shutdown(front->lane->queue);
                return 0;

        default:
                return 0;
        }
}

/* Takes the whole commands that have come, up to the limits. Returns 0 or -ENOMEM. */
static int take_commands(struct connection *connection) {
        const char *text;
        size_t len;
        int r;

        while (!is_paused(connection)) {
                struct protocol_command command;

                r = line_next(&connection->line, &text, &len);
                if (r == 0)
                        break;
                if (r == LINE_TOO_LONG) {
                        reply_error(connection, NULL, 0, PROTOCOL_TOO_LARGE, "A line may be 1024 bytes long");
                        continue;
                }
                r = protocol_parse_command(text, len, &command);
                if (r == PROTOCOL_MALFORMED) {
                        reply_error(connection, command.id, command.id_len, PROTOCOL_BAD_REQUEST, command.fault);
                        continue;
                }
                r = run_command(connection, &command);
                if (r < 0)
                        return r;
                if (r > 0)
                        break;
        }
        return line_keep(&connection->line);
}

/* The end of a round of commands: what follows of the limits, and of the end of the input. */
static void input_done(struct connection *connection, int r) {
        struct socket *socket = &connection->socket;
        const bool paused = is_paused(connection);

        if (r < 0)
                socket_break(socket, -r);
        if (paused != socket->paused)
                socket_pause(socket, paused);
        if (socket->input_ended && !paused && line_left(&connection->line) > 0) {
                reply_error(connection, NULL, 0, PROTOCOL_BAD_REQUEST, "The input ends within a command");
                /* Said once: a successor finds the end too. */
                line_deinit(&connection->line);
                park_rest(connection);
        }
}

/* Reads and runs what has come, for a few rounds at the most. */
static void connection_read(struct socket *socket) {
        struct connection *connection = connection_of_socket(socket);
        int r = 0;

        lane_note_heard(connection->front->lane);
        parking_begin_input(parking_of(connection), &connection->guest);
        for (unsigned i = 0; i < READ_BATCH && r == 0 && socket->readable && !is_paused(connection); i++) {
                size_t space, left, n;
                char *to;

                r = line_space(&connection->line, socket->group->buffer, sizeof(socket->group->buffer), &to, &space);
                if (r < 0)
                        break;
                n = socket_read(socket, to, space);
                line_filled(&connection->line, n);
                left = line_left(&connection->line);
                r = n > 0 ? take_commands(connection) : line_keep(&connection->line);
                if (r == 0 && n > 0)
                        park_input(connection, n, left);
        }
        input_done(connection, r);
        parking_end_input(parking_of(connection));
}

/* Goes on with what the limits had stopped. */
static void connection_resume(struct connection *connection) {
        struct list *requests = &connection->owner.requests;

        if (connection->streams_paused && !is_full(connection)) {
                connection->streams_paused = false;
                for (struct list *i = requests->next, *next; i != requests && !connection->full; i = next) {
                        next = i->next;
                        lane_pause(connection->front->lane, container_of(i, struct request, owner_link), false);
                }
                /* The rest of them, when there is less output again. */
                connection->streams_paused |= connection->full;
        }
        if (connection->socket.paused && !is_paused(connection)) {
                int r = take_commands(connection);

                if (r == 0)
                        park_rest(connection);
                input_done(connection, r);
        }
}

static void connection_end(struct connection *connection) {
        struct front *front = connection->front;

        lane_forget(front->lane, &connection->owner);
        list_remove(&connection->link);
        parking_remove(front->parking, &connection->guest);
        socket_deinit(&connection->socket);
        line_deinit(&connection->line);
        free(connection);
        counter_add(&front->lane->counters->connections, -1);
        front->ended(front);
}

static bool is_over(struct connection *connection) {
        const struct socket *socket = &connection->socket;

        if (socket->broken)
                return true;
        if (socket->gone)
                return !socket->readable || is_paused(connection);
        return socket->input_ended && list_is_empty(&connection->owner.requests) && socket_unsent(socket) == 0;
}

/* The end of a turn, in which output has been sent as far as possible. */
static void connection_attend(struct socket *socket) {
        struct connection *connection = connection_of_socket(socket);

        if (!socket->broken)
                connection_resume(connection);
        if (is_over(connection)) {
                if (socket_has_failed(socket))
                        log_warning("Cannot go on with a connection, ending it: %s", strerror(-socket->error));
                connection_end(connection);
                return;
        }
        if (socket_unsent(socket) == 0)
                connection->front->flushed(connection->front);
        park_busy(connection);
}

static const struct socket_ops socket_ops = {
        .input = connection_read,
        .attend = connection_attend,
};

/* Returns the connection or NULL, with `error`; `fd` is closed then. */
static struct connection *connection_make(struct front *front, int fd, int *error) {
        struct connection *connection = calloc(1, sizeof(*connection));

        if (!connection) {
                close(fd);
                *error = -ENOMEM;
                return NULL;
        }
        connection->front = front;
        request_owner_init(&connection->owner, &request_ops);
        guest_init(&connection->guest, &connection->owner, connection_describe);
        *error = socket_init(&connection->socket, front->sockets, &socket_ops, fd);
        if (*error < 0) {
                free(connection);
                return NULL;
        }
        list_append(&front->connections, &connection->link);
        counter_add(&front->lane->counters->connections, 1);
        /* Parks all that there are, where it opens. */
        parking_open(front->parking);
        if (parking_is_open(front->parking) && !guest_is_parked(&connection->guest))
                connection_park(connection);
        return connection;
}

int connection_new(struct front *front, int fd) {
        int r;

        return connection_make(front, fd, &r) ? 0 : r;
}

void front_init(struct front *front, struct socket_group *sockets, struct lane *lane, struct status *status,
                struct parking *parking, void (*ended)(struct front *front), void (*flushed)(struct front *front)) {
        *front = (struct front){
                .sockets = sockets,
                .lane = lane,
                .status = status,
                .parking = parking,
                .ended = ended,
                .flushed = flushed,
        };
        list_init(&front->connections);
}

void front_park(struct front *front) {
        for (struct list *i = front->connections.next; i != &front->connections; i = i->next) {
                struct connection *connection = connection_of_link(i);

                if (!guest_is_parked(&connection->guest))
                        connection_park(connection);
        }
}

struct connection *connection_adopt(struct front *front, int fd) {
        struct connection *connection;
        int r;

        connection = connection_make(front, fd, &r);
        if (!connection)
                log_warning("Cannot take over a connection, ignoring: %s", strerror(-r));
        return connection;
}

void connection_feed(struct connection *connection, const char *data, size_t len, uint64_t arrived) {
        struct lane *lane = connection->front->lane;
        int r = 0;

        lane_set_arrival(lane, arrived);
        while (len > 0 && r == 0 && !connection->socket.broken) {
                size_t space;
                char *to;

                r = line_space(&connection->line, connection->front->sockets->buffer, SOCKET_BUFFER_SIZE, &to, &space);
                if (r < 0)
                        break;
                space = MIN(space, len);
                memcpy(to, data, space);
                data += space;
                len -= space;
                line_filled(&connection->line, space);
                r = take_commands(connection);
        }
        lane_set_arrival(lane, 0);
        input_done(connection, r);
        park_rest(connection);
        socket_attend_later(&connection->socket);
}

void connection_feed_rest(struct connection *connection, const struct line_state *state, const char *data, size_t len) {
        line_set_state(&connection->line, state);
        connection_feed(connection, data, len, 0);
}

uint64_t front_unsent(const struct front *front) {
        uint64_t n = 0;

        for (struct list *i = front->connections.next; i != &front->connections; i = i->next)
                n += socket_unsent(&connection_of_link(i)->socket);
        return n;
}

bool front_is_flushed(const struct front *front) {
        return front_unsent(front) == 0;
}

/* Ends a connection, or leaves it to its successor. */
static void connection_leave(struct connection *connection) {
        struct parking *parking = parking_of(connection);
        struct socket *socket = &connection->socket;

        socket_flush(socket);
        park_busy(connection);
        if (parking_has_successor(parking, &connection->guest) && !socket->broken && !socket->gone &&
            socket_unsent(socket) == 0) {
                parking_hand_over(parking, &connection->guest);
                return;
        }
        if (connection->front->lane->leaving && line_left(&connection->line) > 0)
                reply_shutting_down(connection);
        socket->blocked = false;
        socket_flush(socket);
}

void front_deinit(struct front *front) {
        if (!front->sockets)
                return;
        while (!list_is_empty(&front->connections)) {
                struct connection *connection = connection_of_link(front->connections.next);

                connection_leave(connection);
                connection_end(connection);
        }
        front->sockets = NULL;
}
