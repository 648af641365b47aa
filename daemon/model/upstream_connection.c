#include "daemon/model/upstream_connection.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/number.h"
#include "common/util.h"

/* Portions of a large body that are written in a turn at most. */
#define BODY_PORTIONS 16

/* A kept connection that is closed within this time after a request was sent on it was closed before that was read. */
#define STALE_TIME NSEC_PER_SEC

/* A 503 with a longer Retry-After, in seconds, is passed on. */
#define RETRY_AFTER_MAX 30

/* What a run has, and an idle connection has not. */
static void run_deinit(struct upstream_connection *connection) {
        text_free(&connection->head);
        completion_deinit(&connection->completion);
        free(STEAL_POINTER(connection->own_body));
        connection->body = NULL;
        connection->body_left = 0;
}

void upstream_connection_free(struct upstream_connection *connection) {
        list_remove(&connection->link);
        socket_deinit(&connection->socket);
        run_deinit(connection);
        pool_put(&connection->session->pool, connection);
}

void upstream_connection_close(struct upstream_connection *connection) {
        if (connection->state == UPSTREAM_IDLE)
                connection->session->idle_count--;
        if (socket_fd(&connection->socket) < 0) {
                upstream_connection_free(connection);
                return;
        }
        connection->state = UPSTREAM_CLOSING;
        list_remove(&connection->link);
        list_append(&connection->session->closing, &connection->link);
        /* What is unsent of a request stays unsent. */
        socket_break(&connection->socket, ECONNABORTED);
}

static void connection_keep(struct upstream_connection *connection) {
        struct upstream_session *session = connection->session;

        connection->state = UPSTREAM_IDLE;
        connection->is_used = true;
        list_remove(&connection->link);
        list_insert_before(session->idle.next, &connection->link);
        session->idle_count++;
        socket_pause(&connection->socket, false);
}

/* Whether it can have another request. */
static bool may_keep(struct upstream_connection *connection) {
        const struct upstream_session *session = connection->session;
        struct socket *socket = &connection->socket;
        char extra;

        if (session->options.max_idle > 0 && session->idle_count >= session->options.max_idle)
                return false;
        if (connection->state != UPSTREAM_BODY || !connection->framing.done || !connection->keep_alive ||
            connection->generation != session->generation)
                return false;
        if (connection->body_left > 0 || socket_unsent(socket) > 0 || socket->gone || socket->broken || socket->input_ending ||
            socket->input_ended)
                return false;
        /* The answer filled the buffer. What follows it belongs to no request, and must not be taken for the next answer. */
        return !socket->readable || (socket_read(socket, &extra, 1) == 0 && !socket->input_ended && !socket->broken);
}

void upstream_run_begins(struct upstream_connection *connection, bool is_light) {
        struct upstream_session *session = connection->session;
        struct upstream_watch *watch = session->options.watch;

        connection->is_light = is_light;
        connection->is_paused = false;
        session->running_count[is_light]++;
        if (is_light)
                return;
        upstream_work_add(&session->work.in_flight, 1);
        if (watch && !atomic_load_explicit(&watch->is_set, memory_order_relaxed) && !atomic_exchange(&watch->is_set, true))
                mailbox_post(&watch->mailbox, 1);
}

void upstream_run_ended(struct upstream_connection *connection) {
        struct upstream_session *session = connection->session;

        upstream_run_pause(connection, false);
        session->running_count[connection->is_light]--;
        if (!connection->is_light)
                upstream_work_add(&session->work.in_flight, -1);
}

void upstream_run_pause(struct upstream_connection *connection, bool paused) {
        if (connection->is_paused == paused || connection->is_light)
                return;
        connection->is_paused = paused;
        upstream_work_add(&connection->session->work.paused, paused ? 1 : -1);
}

void upstream_tell_room(struct upstream_session *session) {
        struct session_events *events = session->place.events;

        if (!session->wants_room)
                return;
        session->wants_room = false;
        events->room(events);
}

/* The run has ended. Its connection is kept or closed, and may have the next run when this returns. */
static void finish(struct upstream_connection *connection, enum ending how, const char *text, size_t len) {
        struct upstream_session *session = connection->session;
        struct inference *inference = STEAL_POINTER(connection->inference);
        const struct answer_end end = { how, text, len, connection->retry_after };
        const bool keep = may_keep(connection);

        upstream_run_ended(connection);
        run_deinit(connection);
        if (keep)
                connection_keep(connection);
        else
                upstream_connection_close(connection);
        session->place.events->ended(session->place.events, inference, &end);
        upstream_tell_room(session);
}

/* `text` may be the connection's. */
static void finish_with(struct upstream_connection *connection, enum ending how, const char *text) {
        char copy[1024];

        snprintf(copy, sizeof(copy), "%s", text ? text : strerror(ENOMEM));
        finish(connection, how, copy, strlen(copy));
}

/* The answer is none, or cannot be taken: nothing more of its connection is used. */
static void finish_failed(struct upstream_connection *connection, const char *reason) {
        connection->keep_alive = false;
        finish_with(connection, ENDING_FAILED, reason);
}

/* What is wrong with it is said in words that clients are told in; here it is not their fault. */
static void finish_malformed(struct upstream_connection *connection, const char *message) {
        char text[256];

        snprintf(text, sizeof(text), "The model server's answer is malformed: %s", message);
        finish_failed(connection, text);
}

/* The answer does not come to its end: for those that may be sent again another one may. */
static void finish_lost(struct upstream_connection *connection, const char *reason) {
        char text[1024];

        if (!connection->delivered) {
                finish_with(connection, ENDING_LOST, reason);
                return;
        }
        snprintf(text, sizeof(text), "The answer was cut short: %s", reason);
        finish_with(connection, ENDING_FAILED, text);
}

/* --- Answers. */

/* Whether the run is to be sent again because of a 503. */
static bool is_unavailable(const struct upstream_connection *connection) {
        const struct inference *inference = connection->inference;

        return connection->status == 503 && inference->repeats && !inference->resent &&
               (connection->retry_after <= RETRY_AFTER_MAX || connection->retry_after == UINT64_MAX);
}

static void prompt_part(struct completion *completion, const char *data, size_t len) {
        struct upstream_connection *connection = container_of(completion, struct upstream_connection, completion);
        struct inference *inference = connection->inference;

        /* Cancelled by the part before. */
        if (!inference)
                return;
        connection->delivered = true;
        inference->recipient->ops->part(inference->recipient, inference, data, len);
}

static bool is_stream(const struct upstream_connection *connection) {
        return connection->inference->stream && connection->status == 200;
}

/* All of the answer to a prompt has come. */
static void prompt_complete(struct upstream_connection *connection) {
        const struct completion *completion = &connection->completion;
        const json_t *text;
        bool no_memory = false;
        json_t *json = NULL;

        if (is_stream(connection)) {
                if (completion->error)
                        finish_with(connection, ENDING_FAILED, completion->error);
                else if (!completion->ended)
                        finish_lost(connection, "The stream ended without saying so");
                else
                        finish(connection, ENDING_COMPLETE, "", 0);
                return;
        }
        if (completion->text.data) {
                json = json_read(completion->text.data, completion->text.len);
                no_memory = !json && errno == ENOMEM;
        }
        text = connection->status == 200 ? completion_text(json) : NULL;
        if (text)
                finish(connection, ENDING_COMPLETE, json_string_value(text), json_string_length(text));
        else {
                _cleanup_free_ char *reason = NULL;

                if (no_memory)
                        reason = strdup(strerror(ENOMEM));
                else if (connection->status == 200)
                        reason = strdup("The model server's answer is no completion");
                else
                        reason = completion_error(json, connection->status);
                finish_with(connection, is_unavailable(connection) ? ENDING_UNAVAILABLE : ENDING_FAILED, reason);
        }
        json_decref(json);
}

/* Some of the body has come, without its framing. */
static void take_part(struct upstream_connection *connection, const char *data, size_t len) {
        struct inference *inference = connection->inference;
        char text[96];
        int r;

        if (inference->is_exchange) {
                inference->recipient->ops->part(inference->recipient, inference, data, len);
                return;
        }
        r = completion_take(&connection->completion, is_stream(connection), data, len);
        if (r == -EMSGSIZE) {
                snprintf(text, sizeof(text), "The model server's answer is over the limit of %u bytes", TEXT_MAX);
                finish_failed(connection, text);
        } else if (r < 0)
                finish_failed(connection, strerror(-r));
}

static void take_body(struct upstream_connection *connection, char *data, size_t len) {
        const struct inference *inference = connection->inference;
        size_t taken = len;
        ssize_t n = http_body_take(&connection->framing, data, &taken);

        if (n < 0) {
                finish_failed(connection, "The framing of the model server's answer is malformed");
                return;
        }
        if (n > 0)
                take_part(connection, data, (size_t)n);
        if (connection->inference != inference || !connection->framing.done)
                return;
        if (taken < len)
                connection->keep_alive = false;
        if (inference->is_exchange)
                finish(connection, ENDING_COMPLETE, "", 0);
        else
                prompt_complete(connection);
}

/* A head has come. Returns whether the run goes on. */
static bool take_head(struct upstream_connection *connection, const struct http_answer *answer, const char *bytes) {
        struct inference *inference = connection->inference;
        const struct answer_head head = { answer, bytes };
        const bool is_interim = answer->status < 200 && answer->status != 101;

        if (answer->status == 101 && !(connection->is_upgrade && answer->is_upgrade && connection->body_left == 0)) {
                finish_failed(connection, "The model server has switched protocols unasked");
                return false;
        }
        if (!is_interim) {
                connection->status = answer->status;
                connection->retry_after = answer->retry_after;
                connection->keep_alive = answer->keep_alive;
                if (inference->is_exchange && is_unavailable(connection)) {
                        finish_with(connection, ENDING_UNAVAILABLE, "The model server answered HTTP 503");
                        return false;
                }
                connection->state = answer->status == 101 ? UPSTREAM_TUNNEL : UPSTREAM_BODY;
                http_body_of_answer(&connection->framing, answer, connection->is_head);
        }
        if (inference->is_exchange) {
                connection->delivered |= !is_interim;
                inference->recipient->ops->head(inference->recipient, inference, &head);
        }
        return connection->inference == inference;
}

/* Keeps what there is of a head. `held`: what was kept before, and `data` is in there. */
static void hold_head(struct upstream_connection *connection, struct text *held, const char *data, size_t len) {
        if (held->data && data == held->data) {
                connection->head = *held;
                *held = (struct text){ 0 };
        } else if (len > 0 && text_add(&connection->head, data, len) < 0)
                finish_failed(connection, strerror(ENOMEM));
}

static void take_heads(struct upstream_connection *connection, char *data, size_t len) {
        _cleanup_(text_free) struct text held = { 0 };
        size_t seen = connection->head.len;
        struct http_answer answer;

        if (seen > 0) {
                if (text_add(&connection->head, data, len) < 0) {
                        finish_failed(connection, strerror(ENOMEM));
                        return;
                }
                held = connection->head;
                connection->head = (struct text){ 0 };
                data = held.data;
                len = held.len;
        }
        do {
                struct http_refusal refusal;

                switch (http_parse_answer(&answer, data, len, seen, &refusal)) {
                case HTTP_PARTIAL:
                        hold_head(connection, &held, data, len);
                        return;
                case HTTP_REFUSED:
                        finish_malformed(connection, refusal.message);
                        return;
                case HTTP_WHOLE:
                        break;
                }
                if (!take_head(connection, &answer, data))
                        return;
                data += answer.len;
                len -= answer.len;
                seen = 0;
        } while (connection->state == UPSTREAM_AWAITING);
        if (connection->state == UPSTREAM_BODY)
                take_body(connection, data, len);
        else if (len > 0)
                take_part(connection, data, len);
}

static void take_input(struct upstream_connection *connection, char *data, size_t len) {
        switch (connection->state) {
        case UPSTREAM_AWAITING:
                connection->heard = true;
                take_heads(connection, data, len);
                break;
        case UPSTREAM_BODY:
                take_body(connection, data, len);
                break;
        case UPSTREAM_TUNNEL:
                take_part(connection, data, len);
                break;
        default:
                upstream_connection_close(connection);
                break;
        }
}

/* --- Connections. */

static void connection_input(struct socket *socket) {
        struct upstream_connection *connection = container_of(socket, struct upstream_connection, socket);
        const struct inference *inference = connection->inference;
        size_t n;

        do {
                n = socket_read(socket, socket->group->buffer, SOCKET_BUFFER_SIZE);
                /* It was closed, or has more than one answer, before the request leaves: that stays here. */
                if (connection->state == UPSTREAM_AWAITING && connection->is_used && !connection->heard &&
                    (n > 0 || socket->input_ended) && socket_unsent(socket) == connection->queued) {
                        connection->untouched = true;
                        socket_break(socket, ECONNRESET);
                        return;
                }
                if (n > 0 && inference && !connection->is_light)
                        upstream_work_add(&connection->session->work.heard, (int64_t)n);
                if (n > 0)
                        take_input(connection, socket->group->buffer, n);
                /* Behind a short read there may be the end of the input. */
        } while (n > 0 && n < SOCKET_BUFFER_SIZE && socket->readable && !socket->paused && !socket->broken && inference &&
                 connection->inference == inference);
}

/* Nothing more comes on it. */
static void connection_ended(struct upstream_connection *connection) {
        const struct socket *socket = &connection->socket;
        const uint64_t now = reactor_now(connection->session->place.reactor);
        char text[256];

        if (connection->state == UPSTREAM_IDLE) {
                upstream_connection_close(connection);
                return;
        }
        if (connection->state == UPSTREAM_TUNNEL) {
                finish(connection, ENDING_COMPLETE, "", 0);
                return;
        }
        if (connection->state == UPSTREAM_BODY && socket->input_ended && http_body_end(&connection->framing)) {
                if (connection->inference->is_exchange)
                        finish(connection, ENDING_COMPLETE, "", 0);
                else
                        prompt_complete(connection);
                return;
        }
        if (!connection->is_connected) {
                snprintf(text, sizeof(text), "Cannot connect to the model server: %s", strerror(-socket->error));
                finish_with(connection, ENDING_REFUSED, text);
                return;
        }
        if (socket->error < 0)
                snprintf(text, sizeof(text), "The connection to the model server broke: %s", strerror(-socket->error));
        else
                snprintf(text, sizeof(text), "The model server has closed the connection");
        if (connection->untouched)
                finish_with(connection, ENDING_UNSENT, text);
        else if (connection->is_used && !connection->heard && !connection->delivered && now - connection->sent_at < STALE_TIME)
                finish_with(connection, ENDING_STALE, text);
        else
                finish_lost(connection, text);
}

/* Writes more of a large body. */
static void write_body(struct upstream_connection *connection) {
        struct socket *socket = &connection->socket;

        for (unsigned i = 0; i < BODY_PORTIONS && connection->body_left > 0 && socket_unsent(socket) == 0; i++) {
                size_t n = MIN(connection->body_left, (size_t)UPSTREAM_BODY_PORTION);

                if (socket->connecting || !socket_write(socket, connection->body, n))
                        break;
                connection->body += n;
                connection->body_left -= n;
                socket_flush(socket);
        }
}

static void tunnel_attend(struct upstream_connection *connection) {
        struct inference *inference = connection->inference;
        struct socket *socket = &connection->socket;

        if (connection->wants_sent && socket_unsent(socket) < UPSTREAM_TUNNEL_UNSENT) {
                connection->wants_sent = false;
                inference->recipient->ops->sent(inference->recipient, inference);
        }
        if (connection->state == UPSTREAM_TUNNEL && connection->finishing && socket_unsent(socket) == 0) {
                connection->finishing = false;
                (void)shutdown(socket_fd(socket), SHUT_WR);
        }
}

static void connection_attend(struct socket *socket) {
        struct upstream_connection *connection = container_of(socket, struct upstream_connection, socket);

        if (connection->state != UPSTREAM_CLOSING &&
            (socket_is_over(socket) || (connection->state == UPSTREAM_IDLE && socket->gone)))
                connection_ended(connection);
        else if (connection->state == UPSTREAM_TUNNEL)
                tunnel_attend(connection);
        else if (connection->body_left > 0)
                write_body(connection);
        if (connection->state == UPSTREAM_CLOSING)
                upstream_connection_free(connection);
}

static void connection_connected(struct socket *socket, int error) {
        container_of(socket, struct upstream_connection, socket)->is_connected = error == 0;
}

static const struct socket_ops connection_ops = {
        .input = connection_input,
        .attend = connection_attend,
        .connected = connection_connected,
};

void upstream_connection_refuse(struct upstream_connection *connection) {
        char text[256];

        snprintf(text, sizeof(text), "Cannot connect to the model server: %s", strerror(-connection->refusal));
        finish_with(connection, ENDING_REFUSED, text);
}

/* Whether a connection may be made a little later, and nothing is wrong with the model. */
static bool is_for_now(int error) {
        switch (error) {
        case -EAGAIN:
        case -EMFILE:
        case -ENFILE:
        case -ENOBUFS:
        case -ENOMEM:
        case -ENOSPC:
        case -EADDRNOTAVAIL:
                return true;
        default:
                return false;
        }
}

int upstream_connection_new(struct upstream_session *session, struct upstream_connection **connectionp) {
        struct upstream_connection *connection = pool_take(&session->pool);
        int r;

        if (!connection)
                return -ENOMEM;
        *connection = (struct upstream_connection){ 0 };
        list_init(&connection->link);
        connection->session = session;
        connection->generation = session->generation;
        connection->completion.part = prompt_part;
        r = socket_connect(&connection->socket, session->place.sockets, &connection_ops,
                           (const struct sockaddr *)&session->address, session->address_len);
        if (is_for_now(r)) {
                pool_put(&session->pool, connection);
                return r;
        }
        connection->refusal = r;
        *connectionp = connection;
        return 0;
}
