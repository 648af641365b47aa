#include "daemon/model/upstream_session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/model/fetch.h"
#include "daemon/model/generation.h"
#include "daemon/model/upstream_connection.h"

/* A full backlog has room again when its server accepts, and descriptors when others are closed; no event says when. */
#define BACKLOG_PAUSE (5 * NSEC_PER_MSEC)
#define RESOURCES_PAUSE (100 * NSEC_PER_MSEC)

static struct upstream_session *session_of(struct model_session *session) {
        return container_of(session, struct upstream_session, session);
}

static struct upstream_connection *connection_of(const struct inference *inference) {
        return (struct upstream_connection *)(uintptr_t)inference->handle;
}

static int busy(struct upstream_session *session) {
        session->wants_room = true;
        return MODEL_BUSY;
}

/* The same connection may be made after a while. */
static int busy_for(struct upstream_session *session, uint64_t pause) {
        if (!timer_is_set(&session->retry))
                reactor_set_timer(session->place.reactor, &session->retry, timer_now() + pause);
        return busy(session);
}

/* A connection that was kept, or NULL. */
static struct upstream_connection *take_kept(struct upstream_session *session) {
        while (!list_is_empty(&session->idle)) {
                struct upstream_connection *connection = container_of(session->idle.next, struct upstream_connection, link);
                const struct socket *socket = &connection->socket;

                if (!socket->readable && !socket->gone && !socket->broken) {
                        list_remove(&connection->link);
                        session->idle_count--;
                        return connection;
                }
                upstream_connection_close(connection);
        }
        return NULL;
}

static void close_oldest(struct upstream_session *session) {
        const uint64_t max = session->options.max_connections;
        const uint64_t count = session->idle_count + session->running_count[false] + session->running_count[true];

        if (max > 0 && session->idle_count > 0 && count >= max + UPSTREAM_LIGHT_MAX)
                upstream_connection_close(container_of(session->idle.previous, struct upstream_connection, link));
}

/* A new connection, which may be a refused one. Returns 0 or MODEL_BUSY. */
static int connect_new(struct upstream_session *session, struct upstream_connection **connectionp) {
        int r;

        close_oldest(session);
        r = upstream_connection_new(session, connectionp);
        if (r < 0)
                return busy_for(session, r == -EAGAIN && session->address.ss_family == AF_UNIX ? BACKLOG_PAUSE
                                                                                               : RESOURCES_PAUSE);
        return 0;
}

/* --- Requests. */

/* Room for `head_max` bytes of a head, and for `body` if it is small; a large one is left for write_body(). */
static char *request_room(struct upstream_connection *connection, size_t head_max, const char *body, size_t body_len) {
        connection->body = body;
        connection->body_left = body_len;
        return socket_room(&connection->socket, head_max + (body_len <= UPSTREAM_BODY_PORTION ? body_len : 0));
}

/* The head was put there, and has `len` bytes. */
static void request_wrote(struct upstream_connection *connection, char *to, size_t len) {
        if (connection->body_left > 0 && connection->body_left <= UPSTREAM_BODY_PORTION) {
                memcpy(to + len, connection->body, connection->body_left);
                len += connection->body_left;
                connection->body_left = 0;
        }
        connection->queued = len;
        socket_wrote(&connection->socket, len);
}

/* Returns 0 or -ENOMEM. */
static int write_exchange(struct upstream_connection *connection, struct inference *inference) {
        const struct exchange *exchange = inference->recipient->ops->exchange(inference->recipient, inference);
        const struct upstream_session_options *options = &connection->session->options;
        const struct http_forwarding forwarding = {
                .prefix = options->target->path,
                .host = options->host,
                .content_length = exchange->body_len,
                .drops_accept_encoding = exchange->drops_accept_encoding,
        };
        const size_t body_len = exchange->body_len != HTTP_LENGTH_UNKNOWN ? (size_t)exchange->body_len : 0;
        char *to;

        connection->is_head = exchange->request->is_head;
        connection->is_upgrade = exchange->request->is_upgrade;
        to = request_room(connection, http_forward_request_max(exchange->request, &forwarding), exchange->body, body_len);
        if (!to)
                return -ENOMEM;
        request_wrote(connection, to, http_forward_request(to, exchange->request, exchange->head, &forwarding));
        return 0;
}

/* The same of a prompt; takes over `body`. */
static int write_prompt(struct upstream_connection *connection, char *body) {
        const struct upstream_session_options *options = &connection->session->options;
        const struct fetch_request request = {
                .path = options->completion_path,
                .body = body,
                .body_len = strlen(body),
                .host = options->host,
                .key = options->key,
        };
        const size_t len = fetch_write_head(NULL, 0, options->target, &request, false);
        char *to;

        connection->own_body = body;
        connection->is_head = false;
        connection->is_upgrade = false;
        to = request_room(connection, len + 1, body, request.body_len);
        if (!to)
                return -ENOMEM;
        (void)fetch_write_head(to, len + 1, options->target, &request, false);
        request_wrote(connection, to, len);
        if (connection->body_left == 0)
                free(STEAL_POINTER(connection->own_body));
        return 0;
}

static void run_init(struct upstream_connection *connection, struct inference *inference) {
        struct upstream_session *session = connection->session;

        connection->inference = inference;
        connection->state = UPSTREAM_AWAITING;
        connection->keep_alive = false;
        connection->heard = false;
        connection->untouched = false;
        connection->delivered = false;
        connection->finishing = false;
        connection->wants_sent = false;
        connection->status = 0;
        connection->retry_after = UINT64_MAX;
        connection->sent_at = reactor_now(session->place.reactor);
        connection->queued = 0;
        inference->handle = (uintptr_t)connection;
        list_append(&session->running, &connection->link);
        upstream_run_begins(connection, inference->is_light);
}

/* Ends the run without a word. */
static void run_drop(struct upstream_connection *connection) {
        struct upstream_session *session = connection->session;

        connection->inference = NULL;
        upstream_run_ended(connection);
        upstream_connection_close(connection);
        if (session->wants_room)
                reactor_queue(session->place.reactor, &session->room);
}

/* It ends at the end of the turn. */
static void refuse_later(struct upstream_connection *connection) {
        struct upstream_session *session = connection->session;

        list_remove(&connection->link);
        list_append(&session->refused, &connection->link);
        reactor_queue(session->place.reactor, &session->refuse);
}

static bool has_room(const struct upstream_session *session, const struct inference *inference) {
        const uint64_t max = session->options.max_connections;

        return max == 0 || session->running_count[inference->is_light] < (inference->is_light ? UPSTREAM_LIGHT_MAX : max);
}

int upstream_infer(struct model_session *model_session, struct inference *inference) {
        struct upstream_session *session = session_of(model_session);
        struct upstream_connection *connection = NULL;
        _cleanup_free_ char *body = NULL;
        int r;

        if (!has_room(session, inference))
                return busy(session);
        if (!inference->is_exchange) {
                body = completion_body(session->completion_options, session->name, inference_prompt(inference),
                                       inference->prompt_len, session->options.max_tokens, inference->stream);
                /* The one string that JSON cannot hold, RFC 8259. */
                if (!body)
                        return -EILSEQ;
        }
        /* A kept connection may be closed under a request, which then would have to be repeated. */
        if (!inference->resent && inference->repeats)
                connection = take_kept(session);
        if (!connection) {
                r = connect_new(session, &connection);
                if (r != 0)
                        return r;
        }
        run_init(connection, inference);
        if (connection->refusal < 0) {
                refuse_later(connection);
                return 0;
        }
        r = body ? write_prompt(connection, STEAL_POINTER(body)) : write_exchange(connection, inference);
        if (r < 0)
                run_drop(connection);
        return r;
}

void upstream_pause(struct model_session *session, struct inference *inference, bool paused) {
        (void)session;
        upstream_run_pause(connection_of(inference), paused);
        socket_pause(&connection_of(inference)->socket, paused);
}

size_t upstream_send(struct model_session *session, struct inference *inference, const char *data, size_t len) {
        struct upstream_connection *connection = connection_of(inference);

        (void)session;
        /* Otherwise its end follows. */
        if (!socket_write(&connection->socket, data, len))
                return 0;
        connection->wants_sent |= socket_unsent(&connection->socket) >= UPSTREAM_TUNNEL_UNSENT;
        return socket_unsent(&connection->socket);
}

void upstream_finish(struct model_session *session, struct inference *inference) {
        struct upstream_connection *connection = connection_of(inference);

        (void)session;
        connection->finishing = true;
        socket_attend_later(&connection->socket);
}

void upstream_cancel(struct model_session *session, struct inference *inference) {
        (void)session;
        run_drop(connection_of(inference));
}

/* --- Sessions. */

static void refuse_run(struct job *job) {
        struct upstream_session *session = container_of(job, struct upstream_session, refuse);
        struct list refused;

        list_move_all(&refused, &session->refused);
        while (!list_is_empty(&refused))
                upstream_connection_refuse(container_of(refused.next, struct upstream_connection, link));
}

static void room_run(struct job *job) {
        upstream_tell_room(container_of(job, struct upstream_session, room));
}

static void retry_due(struct timer *timer) {
        upstream_tell_room(container_of(timer, struct upstream_session, retry));
}

void upstream_session_follow(struct model_session *model_session, const struct generation *generation) {
        struct upstream_session *session = session_of(model_session);

        if (session->generation == generation->number)
                return;
        session->generation = generation->number;
        session->address = generation->address;
        session->address_len = generation->address_len;
        snprintf(session->name, sizeof(session->name), "%s", generation->model);
        while (!list_is_empty(&session->idle))
                upstream_connection_close(container_of(session->idle.next, struct upstream_connection, link));
}

void upstream_session_free(struct model_session *model_session) {
        struct upstream_session *session = session_of(model_session);
        struct list *const lists[] = { &session->idle, &session->running, &session->refused, &session->closing };

        for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
                while (!list_is_empty(lists[i]))
                        upstream_connection_free(container_of(lists[i]->next, struct upstream_connection, link));
        timer_clear(&session->retry);
        job_cancel(&session->refuse);
        job_cancel(&session->room);
        list_remove(&session->work.link);
        json_decref(session->completion_options);
        pool_deinit(&session->pool);
        free(session);
}

int upstream_session_new(const struct upstream_session_options *options, struct model *model,
                         const struct session_place *place, struct model_session **session) {
        struct upstream_session *new = aligned_alloc(_Alignof(struct upstream_session), sizeof(*new));
        int r;

        if (!new)
                return -ENOMEM;
        *new = (struct upstream_session){ 0 };
        new->session.model = model;
        new->options = *options;
        new->place = *place;
        pool_init(&new->pool, sizeof(struct upstream_connection));
        list_init(&new->idle);
        list_init(&new->running);
        list_init(&new->refused);
        list_init(&new->closing);
        list_init(&new->work.link);
        if (options->watch)
                list_append(&options->watch->works, &new->work.link);
        timer_init(&new->retry, retry_due);
        job_init(&new->refuse, refuse_run);
        job_init(&new->room, room_run);
        /* Its own: reference counts are not for several threads. */
        if (options->completion_options) {
                new->completion_options = json_read(options->completion_options, strlen(options->completion_options));
                if (!new->completion_options) {
                        r = -errno;
                        upstream_session_free(&new->session);
                        return r;
                }
        }
        *session = &new->session;
        return 0;
}
