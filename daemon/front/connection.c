#include "daemon/front/connection.h"

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

/* So many reads in one turn; then the others have theirs. */
#define READ_BATCH 4

/*
 * A connection that has so many requests in flight is not read until some are answered: pipelining is meant to
 * fill the line, not the daemon's memory. (Waiting ones are limited on their own.)
 */
#define PROCESSING_MAX 65536

#define OUTPUT_SIZE_MIN 128

#define CONNECTION_EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLET)

/* What the kernel has no memory for, or said and then did not do, is tried again. */
#define STARVED_NSEC (100 * NSEC_PER_MSEC)

struct connection {
        struct watch watch;
        struct request_owner owner;
        struct front *front;
        struct list link;
        struct job attend;
        struct guest guest;
        struct line line;
        char *output;                   /* [start, end) is still to be sent */
        size_t output_start;
        size_t output_end;
        size_t output_size;
        bool readable : 1;              /* there may be input: the edge that said so is used up */
        bool input_ending : 1;          /* there will be an end of file */
        bool input_ended : 1;
        bool blocked : 1;               /* the socket takes no output for now */
        bool told_input : 1;            /* an event said that there is input, and none was read since */
        bool told_room : 1;             /* an event said that output is taken, and none was since */
        bool starved : 1;               /* to be told anew of input, or of room for output */
        bool gone : 1;                  /* nobody hears replies any more */
        bool broken : 1;                /* to be ended without more ado */
        bool parked_rest : 1;           /* a successor would find a part of a command */
        bool parked_busy : 1;           /* a successor would not take it over: what is on its way would be missing */
};

static struct connection *connection_of(struct request_owner *owner) {
        return container_of(owner, struct connection, owner);
}

static void attend_later(struct connection *connection) {
        reactor_queue(connection->front->reactor, &connection->attend);
}

/* It can neither be read nor answered: its client sees the end. Where that is not the client's own doing it is said. */
static void give_up(struct connection *connection, int error) {
        if (!connection->broken && error != ECONNRESET && error != EPIPE)
                log_warning("Cannot go on with a connection, ending it: %s", strerror(error));
        connection->broken = true;
}

static void starve(struct connection *connection) {
        struct front *front = connection->front;

        connection->starved = true;
        if (!timer_is_set(&front->starved))
                reactor_set_timer(front->reactor, &front->starved, timer_now() + STARVED_NSEC);
}

static size_t output_left(const struct connection *connection) {
        return connection->output_end - connection->output_start;
}

/* Room for `n` more bytes of output, which the end of this turn sends. NULL: there is none, or no use for it. */
static char *output_space(struct connection *connection, size_t n) {
        if (connection->gone || connection->broken)
                return NULL;
        attend_later(connection);
        if (connection->output_size - connection->output_end < n) {
                size_t size = MAX(connection->output_size * 2, connection->output_end + n);
                char *grown;

                size = MAX(size, (size_t)OUTPUT_SIZE_MIN);
                grown = realloc(connection->output, size);

                if (!grown) {
                        /* A reply that is lost leaves the client waiting for good: better it sees the end. */
                        give_up(connection, ENOMEM);
                        return NULL;
                }
                connection->output = grown;
                connection->output_size = size;
        }
        return connection->output + connection->output_end;
}

static void reply_body(struct connection *connection, enum protocol_reply_type type, const char *id, size_t id_len,
                       const char *data, size_t len) {
        char *begin = output_space(connection, PROTOCOL_HEAD_MAX + len + 1), *p = begin;

        if (!p)
                return;
        p += protocol_format_head(p, type, id, id_len, len);
        memcpy(p, data, len);
        p += len;
        *p++ = '\n';
        connection->output_end += (size_t)(p - begin);
}

static void reply_error(struct connection *connection, const char *id, size_t id_len, enum protocol_code code,
                        const char *message) {
        char *p = output_space(connection, PROTOCOL_ERROR_MAX);

        if (p)
                connection->output_end += protocol_format_error(p, id, id_len, code, message);
}

static void request_part(struct request_owner *owner, struct request *request, const char *data, size_t len) {
        reply_body(connection_of(owner), PROTOCOL_PART, inference_id(&request->inference), request->inference.id_len,
                   data, len);
}

static void request_answered(struct request_owner *owner, struct request *request, const char *data, size_t len) {
        reply_body(connection_of(owner), PROTOCOL_OK, inference_id(&request->inference), request->inference.id_len,
                   data, len);
}

static void request_failed(struct request_owner *owner, struct request *request, enum protocol_code code,
                           const char *message) {
        struct connection *connection = connection_of(owner);

        reply_error(connection, inference_id(&request->inference), request->inference.id_len, code, message);
        if (request->inference.parked && guest_is_parked(&connection->guest)) {
                (void)parking_record(&connection->front->queue->parking, &connection->guest, PARKING_ANSWERED, 0,
                                     request->inference.handle, NULL, 0);
                parking_write(&connection->front->queue->parking);
        }
}

/* Parking: what a successor needs to know. */

static struct parking *parking_of(struct connection *connection) {
        return &connection->front->queue->parking;
}

static void park_waiting(struct connection *connection, struct request *request) {
        const struct inference *inference = &request->inference;
        char head[PROTOCOL_HEAD_MAX];
        struct parking_data data[] = { { head, 0 }, { inference_prompt(inference), inference->prompt_len }, { "\n", 1 } };
        enum protocol_verb verb = inference->id_len == 0 ? PROTOCOL_WAIT :
                                  inference->stream      ? PROTOCOL_STREAM :
                                                           PROTOCOL_REQUEST;
        uint64_t at;

        request->inference.parked = true;
        data[0].len = protocol_format_command(head, verb, inference->id_len > 0 ? inference_id(inference) : NULL,
                                              inference->id_len, inference->has_prompt, inference->prompt_len);
        at = parking_record(parking_of(connection), &connection->guest, PARKING_WAITING, 0, request->arrived, data,
                            inference->has_prompt ? 3 : 1);
        if (inference->id_len > 0)
                request->inference.handle = at;
}

/* All that is left of the input, and what is to be dropped of what comes. */
static void park_rest(struct connection *connection) {
        const struct line_state state = line_state(&connection->line);
        const size_t left = line_left(&connection->line);
        const bool some = left > 0 || state.skip > 0 || state.skip_end || state.draining;

        if (some || connection->parked_rest)
                (void)parking_record(parking_of(connection), &connection->guest, PARKING_REST,
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
        parking_write(parking_of(connection));
}

/* A reply that is lost on its way, the client would wait for. */
static void park_busy(struct connection *connection) {
        const bool busy = output_left(connection) > 0 || connection->owner.processing > 0;

        if (busy == connection->parked_busy || !guest_is_parked(&connection->guest))
                return;
        connection->parked_busy = busy;
        parking_record(parking_of(connection), &connection->guest, busy ? PARKING_BUSY : PARKING_IDLE, 0, 0, NULL, 0);
        parking_write(parking_of(connection));
}

static void connection_park(struct connection *connection) {
        connection->parked_rest = connection->parked_busy = false;
        parking_add(parking_of(connection), &connection->guest, connection->watch.fd);
        /* Those that a model has lost already. */
        for (struct list *i = connection->owner.requests.next; i != &connection->owner.requests; i = i->next) {
                struct request *request = container_of(i, struct request, owner_link);

                /* One that is in no queue yet is about to be told what becomes of it. */
                if (request->inference.id_len > 0 && !request->inference.started && !list_is_empty(&request->queue_link))
                        park_waiting(connection, request);
        }
        park_rest(connection);
        park_busy(connection);
}

static void request_waiting(struct request_owner *owner, struct request *request) {
        struct connection *connection = connection_of(owner);

        if (!guest_is_parked(&connection->guest))
                return;
        park_waiting(connection, request);
        /* One that a model has lost may have been the last in flight. */
        if (connection->parked_busy)
                attend_later(connection);
}

static const struct request_ops request_ops = {
        .waiting = request_waiting,
        .part = request_part,
        .answered = request_answered,
        .failed = request_failed,
        .stays = true,
};

/* Administrator: root, or who the daemon runs as. It is who has connected that counts: SO_PEERCRED, unix(7). */
static bool is_permitted(const struct connection *connection) {
        struct ucred peer;
        socklen_t len = sizeof(peer);

        return getsockopt(connection->watch.fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
               user_is_trusted(peer.uid);
}

/* Returns 0, 1 if the rest of the command has yet to come, or -ENOMEM. */
static int run_request(struct connection *connection, const struct protocol_command *command) {
        struct front *front = connection->front;
        uint64_t max = front->queue->limits->max_prompt;
        const char *prompt = NULL;

        if (command->has_prompt) {
                if (command->length > max) {
                        char message[64];

                        snprintf(message, sizeof(message), "A prompt may be %" PRIu64 " bytes long", max);
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
        if (connection->gone)
                return 0;
        return request_new(front->queue, &connection->owner, command->id, command->id_len, prompt,
                           prompt ? command->length : 0, command->verb == PROTOCOL_STREAM);
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
                return connection->gone ? 0 : request_observe(front->queue, &connection->owner, REQUEST_WAIT);

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
                        return request_observe(front->queue, &connection->owner, REQUEST_LOAD);
                reply_body(connection, PROTOCOL_OK, NULL, 0, PROTOCOL_STOPPING, strlen(PROTOCOL_STOPPING));
                front->queue->host->shutdown(front->queue->host);
                return 0;

        default:
                return 0;
        }
}

/* Takes every whole command that has come. Returns 0 or -ENOMEM. */
static int take_commands(struct connection *connection) {
        const char *text;
        size_t len;
        int r;

        for (;;) {
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

static bool is_paused(const struct connection *connection) {
        return connection->blocked || connection->owner.processing >= PROCESSING_MAX;
}

/* Reads and runs what has come, for a few rounds at the most. */
static void connection_read(struct connection *connection) {
        int r = 0;

        for (unsigned i = 0; i < READ_BATCH && connection->readable && !is_paused(connection); i++) {
                size_t space, left;
                ssize_t n;
                char *to;

                r = line_space(&connection->line, connection->front->scratch, FRONT_SCRATCH_SIZE, &to, &space);
                if (r < 0)
                        break;
                n = UTIL_RETRY(recv(connection->watch.fd, to, space, MSG_DONTWAIT));
                if (n <= 0) {
                        int error = errno;

                        r = line_keep(&connection->line);
                        connection->readable = false;
                        if (n == 0) {
                                if (line_left(&connection->line) > 0) {
                                        reply_error(connection, NULL, 0, PROTOCOL_BAD_REQUEST,
                                                    "The input ends within a command");
                                        /* Said once: later edges, and a successor, find the end too. */
                                        line_deinit(&connection->line);
                                        park_rest(connection);
                                        parking_write(parking_of(connection));
                                }
                                connection->input_ended = true;
                        } else if (error == ENOMEM || error == ENOBUFS || (error == EAGAIN && connection->told_input))
                                starve(connection);
                        else if (error != EAGAIN)
                                give_up(connection, error);
                        connection->told_input = false;
                        break;
                }
                connection->told_input = false;
                line_filled(&connection->line, (size_t)n);
                left = line_left(&connection->line);
                r = take_commands(connection);
                if (r < 0)
                        break;
                park_input(connection, (size_t)n, left);
                /* All there was, epoll(7) says of a short read; the end of file has no edge of its own, if it came along. */
                if ((size_t)n < space && !connection->input_ending)
                        connection->readable = false;
        }
        if (r < 0)
                give_up(connection, -r);
}

/* Sends what there is. */
static void connection_flush(struct connection *connection) {
        while (output_left(connection) > 0 && !connection->blocked) {
                ssize_t n = UTIL_RETRY(send(connection->watch.fd, connection->output + connection->output_start,
                                            output_left(connection), MSG_DONTWAIT | MSG_NOSIGNAL));
                int r;

                if (n >= 0) {
                        connection->output_start += (size_t)n;
                        connection->told_room = false;
                } else if (errno == ENOBUFS || errno == ENOMEM || (errno == EAGAIN && connection->told_room)) {
                        connection->blocked = true;
                        starve(connection);
                } else if (errno == EAGAIN) {
                        connection->blocked = true;
                        r = reactor_rewatch(&connection->watch, CONNECTION_EVENTS | EPOLLOUT);
                        if (r < 0)
                                give_up(connection, -r);
                } else {
                        if (errno != EPIPE && errno != ECONNRESET)
                                log_warning("Cannot answer a connection, ending it: %s", strerror(errno));
                        /* The peer hears nothing any more; what it said before that is still to be read. */
                        connection->gone = true;
                        connection->output_start = connection->output_end;
                }
        }
        if (output_left(connection) == 0 && connection->output) {
                /* An idle connection costs no buffer. */
                free(STEAL_POINTER(connection->output));
                connection->output_start = connection->output_end = connection->output_size = 0;
                connection->front->flushed(connection->front);
        }
}

static void connection_end(struct connection *connection) {
        struct front *front = connection->front;

        job_cancel(&connection->attend);
        request_owner_deinit(front->queue, &connection->owner);
        list_remove(&connection->link);
        parking_remove(&front->queue->parking, &connection->guest);
        reactor_unwatch(&connection->watch);
        close(connection->watch.fd);
        line_deinit(&connection->line);
        free(connection->output);
        free(connection);
        counter_add(&front->queue->counters->connections, -1);
        front->ended(front);
}

static bool is_over(const struct connection *connection) {
        if (connection->broken)
                return true;
        if (connection->gone)
                return !connection->readable || is_paused(connection);
        return connection->input_ended && list_is_empty(&connection->owner.requests) && output_left(connection) == 0;
}

/* The end of a turn: what was answered in it leaves, and what could not be read before is. */
static void connection_attend(struct job *job) {
        struct connection *connection = container_of(job, struct connection, attend);

        if (!connection->broken)
                connection_flush(connection);
        if (is_over(connection)) {
                connection_end(connection);
                return;
        }
        park_busy(connection);
        if (connection->readable && !is_paused(connection)) {
                connection_read(connection);
                attend_later(connection);
        }
}

static void connection_ready(struct watch *watch, uint32_t events) {
        struct connection *connection = container_of(watch, struct connection, watch);

        if (events & EPOLLOUT && connection->blocked) {
                int r = reactor_rewatch(&connection->watch, CONNECTION_EVENTS);

                connection->blocked = false;
                connection->told_room = true;
                if (r < 0)
                        give_up(connection, -r);
                attend_later(connection);
        }
        if (events & EPOLLIN)
                connection->told_input = true;
        if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                connection->input_ending = true;
        if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                connection->readable = true;
        /* EPOLLHUP: both directions are closed. The last words are read first, and run; they are not answered. */
        if (events & (EPOLLHUP | EPOLLERR))
                connection->gone = true;

        if (connection->readable) {
                connection_read(connection);
                if (connection->readable || connection->gone || connection->input_ended || connection->broken)
                        attend_later(connection);
        }
}

/* Returns the connection or NULL, with `error`; `fd` is closed then. */
static struct connection *connection_make(struct front *front, int fd, int *error) {
        struct connection *connection = calloc(1, sizeof(*connection));
        int r = -ENOMEM;

        if (connection) {
                connection->front = front;
                job_init(&connection->attend, connection_attend);
                guest_init(&connection->guest);
                request_owner_init(&connection->owner, &request_ops);
                r = reactor_watch(front->reactor, &connection->watch, fd, CONNECTION_EVENTS, connection_ready);
        }
        if (r < 0) {
                close(fd);
                free(connection);
                *error = r;
                return NULL;
        }
        list_append(&front->connections, &connection->link);
        counter_add(&front->queue->counters->connections, 1);
        return connection;
}

/* Whether connections that come now are parked. */
static bool is_parking(struct front *front) {
        struct request_queue *queue = front->queue;

        return queue->parking.keeper && gate_state(&queue->generation->gate) == GATE_PENDING &&
               gate_state(queue->stop) == GATE_PENDING && parking_open(&queue->parking);
}

int connection_new(struct front *front, int fd) {
        struct connection *connection;
        int r;

        connection = connection_make(front, fd, &r);
        if (!connection)
                return r;
        if (is_parking(front))
                connection_park(connection);
        return 0;
}

static struct connection *connection_of_link(struct list *link) {
        return container_of(link, struct connection, link);
}

/* Those that have something to read, or room for what is to be sent, are told of it again. */
static void starved_due(struct timer *timer) {
        struct front *front = container_of(timer, struct front, starved);

        for (struct list *i = front->connections.next; i != &front->connections; i = i->next) {
                struct connection *connection = connection_of_link(i);
                int r;

                if (!connection->starved)
                        continue;
                connection->starved = false;
                r = reactor_rearm(&connection->watch, CONNECTION_EVENTS | (connection->blocked ? EPOLLOUT : 0));
                if (r < 0) {
                        give_up(connection, -r);
                        attend_later(connection);
                }
        }
}

/* All of it, in the order in which it came. */
static void describe(struct parking *parking) {
        struct request_queue *queue = container_of(parking, struct request_queue, parking);
        struct list *lists[] = { &queue->waiting, &queue->observers };

        for (unsigned i = 0; i < ARRAY_SIZE(lists); i++)
                for (struct list *j = lists[i]->next; j != lists[i]; j = j->next) {
                        struct request *request = container_of(j, struct request, queue_link);

                        if (request->inference.parked)
                                park_waiting(connection_of(request->owner), request);
                }
        for (unsigned i = 0; i < 2; i++) {
                struct list *guests = i == 0 ? &parking->sent : &parking->unsent;

                for (struct list *j = guests->next; j != guests; j = j->next) {
                        struct connection *connection = container_of(j, struct connection, guest.link);

                        connection->parked_rest = connection->parked_busy = false;
                        park_rest(connection);
                        park_busy(connection);
                }
        }
}

void front_init(struct front *front, struct reactor *reactor, struct request_queue *queue, struct status *status,
                void (*ended)(struct front *front), void (*flushed)(struct front *front)) {
        front->reactor = reactor;
        front->queue = queue;
        front->status = status;
        front->ended = ended;
        front->flushed = flushed;
        list_init(&front->connections);
        timer_init(&front->starved, starved_due);
        queue->parking.describe = describe;
}

void front_park(struct front *front) {
        if (list_is_empty(&front->connections) || !is_parking(front))
                return;
        for (struct list *i = front->connections.next; i != &front->connections; i = i->next) {
                struct connection *connection = connection_of_link(i);

                if (!guest_is_parked(&connection->guest))
                        connection_park(connection);
        }
}

struct connection *connection_adopt(struct front *front, int fd) {
        struct connection *connection;
        int r = 0;

        connection = connection_make(front, fd, &r);
        if (!connection)
                log_warning("Cannot take over a connection, ignoring: %s", strerror(-r));
        else if (is_parking(front))
                connection_park(connection);
        return connection;
}

void connection_feed(struct connection *connection, const char *data, size_t len, uint64_t arrived) {
        struct request_queue *queue = connection->front->queue;
        int r = 0;

        request_queue_set_arrival(queue, arrived);
        while (len > 0 && !connection->broken) {
                size_t space;
                char *to;

                r = line_space(&connection->line, connection->front->scratch, FRONT_SCRATCH_SIZE, &to, &space);
                if (r == 0) {
                        space = MIN(space, len);
                        memcpy(to, data, space);
                        data += space;
                        len -= space;
                        line_filled(&connection->line, space);
                        r = take_commands(connection);
                }
                if (r < 0)
                        give_up(connection, -r);
        }
        request_queue_set_arrival(queue, 0);
        park_rest(connection);
        attend_later(connection);
}

void connection_feed_rest(struct connection *connection, const struct line_state *state, const char *data, size_t len) {
        line_set_state(&connection->line, state);
        connection_feed(connection, data, len, 0);
}

bool front_is_flushed(const struct front *front) {
        for (struct list *i = front->connections.next; i != &front->connections; i = i->next)
                if (output_left(connection_of_link(i)) > 0)
                        return false;
        return true;
}

/* Not ended: a successor takes it over. */
static void connection_leave(struct connection *connection) {
        connection->guest.sent = false;
        list_remove(&connection->guest.link);
        connection_end(connection);
}

void front_deinit(struct front *front) {
        const bool leaving = front->queue->leaving;

        timer_clear(&front->starved);
        while (!list_is_empty(&front->connections)) {
                struct connection *connection = connection_of_link(front->connections.next);

                if (!connection->broken)
                        connection_flush(connection);
                if (!connection->broken)
                        park_busy(connection);
                if (leaving && connection->guest.sent && guest_is_parked(&connection->guest) && !connection->broken &&
                    !connection->gone && output_left(connection) == 0)
                        connection_leave(connection);
                else {
                        connection->blocked = false;
                        if (!connection->broken)
                                connection_flush(connection);
                        connection_end(connection);
                }
        }
}
