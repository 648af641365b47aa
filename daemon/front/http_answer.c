#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/number.h"
#include "daemon/front/http_connection.h"

static struct http_connection *connection_of(struct recipient *recipient) {
        return http_connection_of(container_of(recipient, struct request_owner, recipient));
}

static const struct exchange *answer_exchange(struct recipient *recipient, struct inference *inference) {
        struct http_connection *connection = connection_of(recipient);
        struct exchange *exchange = &connection->http->exchange;
        const char *head = inference_prompt(inference);

        if (connection->sent == 0)
                connection->sent = reactor_now(connection->socket.group->reactor);
        *exchange = (struct exchange){
                .request = &connection->head,
                .head = head,
                .body = head + connection->head.len,
                .body_len = connection->has_body ? inference->prompt_len - connection->head.len : HTTP_LENGTH_UNKNOWN,
                .drops_accept_encoding = connection->drops_accept_encoding,
        };
        return exchange;
}

/* Extra fields: how long the request waited, and whether the daemon stops. */
static size_t format_extra(const struct http_connection *connection, const struct request *request, char *to, size_t size) {
        size_t n = 0;

        to[0] = '\0';
        if (connection->waited && connection->sent > request->arrived)
                n = (size_t)snprintf(to, size, "Server-Timing: wait;dur=%" PRIu64 "\r\n",
                                     (connection->sent - request->arrived) / NSEC_PER_MSEC);
        if (http_is_stopping(connection->http))
                n += (size_t)snprintf(to + n, size - n, "x-envoy-immediate-health-check-fail: true\r\n");
        return n;
}

/* How the body of the answer goes on; sets what its parts need. Returns how the head says it. */
static enum http_framing choose_framing(struct http_connection *connection, const struct http_answer *answer) {
        const bool has_length = answer->content_length != HTTP_LENGTH_UNKNOWN;

        connection->left = 0;
        if (connection->head.is_head || answer->status == 204 || answer->status == 304 || answer->status < 200) {
                connection->framing = HTTP_FRAMING_NONE;
                return has_length && answer->status != 204 && answer->status >= 200 ? HTTP_FRAMING_LENGTH : HTTP_FRAMING_NONE;
        }
        if (has_length) {
                connection->framing = HTTP_FRAMING_LENGTH;
                connection->left = answer->content_length;
        } else
                connection->framing = connection->head.is_http_1_0 ? HTTP_FRAMING_CLOSE : HTTP_FRAMING_CHUNKED;
        return connection->framing;
}

static void forward_head(struct http_connection *connection, const struct answer_head *head,
                         const struct http_answering *answering) {
        char *to = http_room(connection, http_forward_answer_max(head->answer, answering->extra_len));

        if (to)
                http_wrote(connection, http_forward_answer(to, head->answer, head->bytes, answering));
}

static void note_head(struct http_connection *connection, const struct http_answer *answer) {
        struct http_counters *counters = &connection->http->lane->counters->http;

        if (answer->status >= HTTP_STATUS_MIN && answer->status < HTTP_STATUS_MIN + HTTP_STATUS_COUNT)
                counter_add(&counters->responses[answer->status - HTTP_STATUS_MIN], 1);
        if (connection->sent > 0)
                histogram_add(&counters->first_bytes, reactor_now(connection->socket.group->reactor) - connection->sent);
}

/* The request is a tunnel from now on: what its client has sent already goes first. */
static void begin_tunnel(struct http_connection *connection) {
        struct http_kept *kept = STEAL_POINTER(connection->kept);

        http_note_sent(connection);
        connection->state = HTTP_TUNNEL;
        connection->closes = true;
        connection->framing = HTTP_FRAMING_CLOSE;
        connection->http->tunnels++;
        if (kept)
                http_tunnel_input(connection, kept->data + kept->start, kept->end - kept->start);
        free(kept);
}

/* A client that does not read stops the model, or what comes of it. */
static void check_output(struct http_connection *connection, struct request *request) {
        if (connection->paused_model || socket_unsent(&connection->socket) <= HTTP_OUTPUT_HIGH)
                return;
        connection->paused_model = true;
        lane_pause(connection->http->lane, request, true);
}

static void interim_head(struct http_connection *connection, struct request *request, const struct answer_head *head) {
        /* msd itself has said 100 where it was asked for that. */
        if (head->answer->status != 100 && !connection->head.is_http_1_0 && !connection->began)
                forward_head(connection, head, &(struct http_answering){ .framing = HTTP_FRAMING_NONE });
        check_output(connection, request);
}

static void answer_head(struct recipient *recipient, struct inference *inference, const struct answer_head *head) {
        struct http_connection *connection = connection_of(recipient);
        struct http_answering answering = { 0 };
        char extra[HTTP_EXTRA_MAX];

        if (head->answer->status < 200 && head->answer->status != 101) {
                interim_head(connection, request_of_inference(inference), head);
                return;
        }
        note_head(connection, head->answer);
        http_set_delay(connection, HTTP_DELAY_NONE);
        if (connection->began) {
                http_early_head(connection, head);
                return;
        }
        connection->state = HTTP_ANSWERING;
        connection->head_sent = true;
        answering.framing = choose_framing(connection, head->answer);
        connection->closes |= connection->framing == HTTP_FRAMING_CLOSE || http_is_stopping(connection->http) ||
                              (connection->socket.input_ended && !connection->kept);
        answering.extra = extra;
        answering.extra_len = format_extra(connection, request_of_inference(inference), extra, sizeof(extra));
        if (head->answer->status == 101) {
                forward_head(connection, head, &answering);
                begin_tunnel(connection);
                return;
        }
        answering.close = connection->closes;
        answering.keep_alive = !connection->closes && connection->head.is_http_1_0;
        forward_head(connection, head, &answering);
}

static void write_chunk(struct http_connection *connection, const char *data, size_t len) {
        char *to = http_room(connection, HTTP_CHUNK_HEAD_MAX + len + 2);
        size_t n;

        if (!to)
                return;
        n = http_chunk_head(to, len);
        memcpy(to + n, data, len);
        memcpy(to + n + len, "\r\n", 2);
        http_wrote(connection, n + len + 2);
}

void http_write_part(struct http_connection *connection, const char *data, size_t len) {
        if (len == 0)
                return;
        switch (connection->framing) {
        case HTTP_FRAMING_NONE:
                break;
        case HTTP_FRAMING_LENGTH:
                /* More than was said: its client would take the rest for another answer. */
                if (len > connection->left)
                        socket_break(&connection->socket, EPROTO);
                else
                        (void)http_write(connection, data, len);
                connection->left -= MIN(connection->left, (uint64_t)len);
                break;
        case HTTP_FRAMING_CHUNKED:
                write_chunk(connection, data, len);
                break;
        case HTTP_FRAMING_CLOSE:
                (void)http_write(connection, data, len);
                break;
        }
}

static void answer_part(struct recipient *recipient, struct inference *inference, const char *data, size_t len) {
        struct http_connection *connection = connection_of(recipient);

        if (connection->collects) {
                http_early_collect(connection, data, len);
                return;
        }
        http_write_part(connection, data, len);
        check_output(connection, request_of_inference(inference));
}

void http_end_answer(struct http_connection *connection) {
        if (connection->framing == HTTP_FRAMING_CHUNKED)
                (void)http_write(connection, HTTP_CHUNK_END, sizeof(HTTP_CHUNK_END) - 1);
        http_answered(connection, connection->framing != HTTP_FRAMING_LENGTH || connection->collects || connection->left == 0);
}

static void request_complete(struct request_owner *owner, struct request *request, const char *data, size_t len) {
        struct http_connection *connection = http_connection_of(owner);

        (void)data;
        (void)len;
        if (request_is_observer(request)) {
                http_park_answered(connection, request);
                http_reply(connection, &(struct http_reply){ .status = 204 });
        } else if (connection->collects)
                http_early_collected(connection);
        else if (connection->state == HTTP_TUNNEL)
                http_answered(connection, true);
        else
                http_end_answer(connection);
}

static void request_failed(struct request_owner *owner, struct request *request, enum protocol_code code,
                           const char *message) {
        struct http_connection *connection = http_connection_of(owner);

        http_park_answered(connection, request);
        if (!connection->head_sent)
                http_reply_error(connection, code, message);
        else if (connection->began && connection->state == HTTP_ASKED)
                http_early_failed(connection, code, message);
        else
                http_answered(connection, false);
}

static void request_waiting(struct request_owner *owner, struct request *request) {
        struct http_connection *connection = http_connection_of(owner);

        connection->waited = true;
        connection->sent = 0;
        if (connection->early == HTTP_EARLY_EVENTS && connection->delay == HTTP_DELAY_NONE)
                http_set_delay(connection, HTTP_DELAY_STREAM);
        http_park_waiting(connection, request);
}

static void request_starting(struct request_owner *owner, struct request *request) {
        http_park_starting(http_connection_of(owner), request);
}

/* Tunnels. */

static struct request *request_of(struct http_connection *connection) {
        return container_of(connection->owner.requests.next, struct request, owner_link);
}

static void set_tunnel_pause(struct http_connection *connection, size_t unsent) {
        if (!connection->socket.paused && unsent > HTTP_OUTPUT_HIGH)
                socket_pause(&connection->socket, true);
        else if (connection->socket.paused && unsent < HTTP_OUTPUT_LOW)
                socket_pause(&connection->socket, false);
}

void http_tunnel_input(struct http_connection *connection, const char *data, size_t len) {
        set_tunnel_pause(connection, lane_send(connection->http->lane, request_of(connection), data, len));
}

void http_tunnel_finish(struct http_connection *connection) {
        connection->finished = true;
        lane_finish(connection->http->lane, request_of(connection));
}

static void answer_sent(struct recipient *recipient, struct inference *inference) {
        struct http_connection *connection = connection_of(recipient);

        set_tunnel_pause(connection, lane_send(connection->http->lane, request_of_inference(inference), NULL, 0));
}

void http_resume_model(struct http_connection *connection) {
        connection->paused_model = false;
        lane_pause(connection->http->lane, request_of(connection), false);
}

const struct request_ops http_request_ops = {
        .answer = {
                .exchange = answer_exchange,
                .head = answer_head,
                .part = answer_part,
                .sent = answer_sent,
        },
        .complete = request_complete,
        .failed = request_failed,
        .waiting = request_waiting,
        .starting = request_starting,
};
