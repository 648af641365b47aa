#include "daemon/model/fetch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/number.h"
#include "common/util.h"

/* A full backlog has room again when its server accepts, and descriptors when others are closed; no event says when. */
#define RETRY_PAUSE (5 * NSEC_PER_MSEC)

/* A name is looked up again when none of its addresses has answered for so long. */
#define ADDRESSES_AGE (5 * NSEC_PER_SEC)

static void resolved(struct resolver *resolver, const char *error);

void fetcher_init(struct fetcher *fetcher, struct reactor *reactor, const struct target *target) {
        fetcher->reactor = reactor;
        fetcher->target = target;
        fetcher->resolver = (struct resolver){ .resolved = resolved };
        list_init(&fetcher->waiting);
        socket_group_init(&fetcher->sockets, reactor);
        fetcher_forget(fetcher);
}

void fetcher_deinit(struct fetcher *fetcher) {
        if (!fetcher->reactor)
                return;
        resolver_cancel(&fetcher->resolver);
        socket_group_deinit(&fetcher->sockets);
        fetcher->reactor = NULL;
}

void fetcher_forget(struct fetcher *fetcher) {
        if (list_is_empty(&fetcher->waiting))
                resolver_cancel(&fetcher->resolver);
        fetcher->resolver.count = 0;
        fetcher->current = 0;
        fetcher->reached = false;
        fetcher->settled = false;
}

const struct endpoint *fetcher_settle(struct fetcher *fetcher) {
        if (fetcher->resolver.count == 0 || (fetcher->resolver.count > 1 && !fetcher->reached))
                return NULL;
        fetcher->settled = true;
        return &fetcher->resolver.endpoints[fetcher->current];
}

/* How it has ended, in words. */
static void say_error(const struct fetch *fetch, char *text, size_t size) {
        if (fetch->refused)
                snprintf(text, size, "%s", fetch->refused);
        else if (fetch->error < 0)
                snprintf(text, size, "%s", strerror(-fetch->error));
        else if (fetch->status == 0)
                snprintf(text, size, "It closed the connection without an answer");
        else
                snprintf(text, size, "The answer was cut short");
}

static void fail(struct fetch *fetch, const char *error) {
        fetch_cancel(fetch);
        fetch->done(fetch, 0, error);
}

static void finish(struct fetch *fetch) {
        const bool complete = fetch->ended && !fetch->refused && fetch->error == 0;
        const unsigned status = fetch->status;
        char error[512];

        say_error(fetch, error, sizeof(error));
        fetch_cancel(fetch);
        fetch->done(fetch, complete ? status : 0, complete ? NULL : error);
}

static void fetch_refuse(struct fetch *fetch, const char *why) {
        fetch->refused = why;
        fetch->ended = true;
}

static void take_body(struct fetch *fetch, char *data, size_t len) {
        size_t left = len;
        ssize_t n = http_body_take(&fetch->body, data, &left);

        if (n < 0)
                fetch_refuse(fetch, "The framing of the answer's body is malformed");
        else if (n > 0 && !fetch->data(fetch, data, (size_t)n))
                fetch_refuse(fetch, "The answer is too long");
        fetch->ended |= fetch->body.done;
}

/* What has come while the head was not whole; `seen` bytes of it were looked at before. */
static void take_head(struct fetch *fetch, char *data, size_t len, size_t seen) {
        struct http_refusal refusal;
        struct http_answer answer;

        for (;;) {
                switch (http_parse_answer(&answer, data, len, seen, &refusal)) {
                case HTTP_REFUSED:
                        fetch_refuse(fetch, refusal.message);
                        return;
                case HTTP_PARTIAL:
                        if (data != fetch->head.data) {
                                struct text rest = { 0 };

                                if (len > 0 && text_add(&rest, data, len) < 0)
                                        fetch_refuse(fetch, strerror(ENOMEM));
                                text_free(&fetch->head);
                                fetch->head = rest;
                        }
                        return;
                case HTTP_WHOLE:
                        break;
                }
                data += answer.len;
                len -= answer.len;
                seen = 0;
                if (answer.status >= 200 || answer.status == 101)
                        break;
        }
        fetch->status = answer.status;
        http_body_of_answer(&fetch->body, &answer, false);
        fetch->ended = fetch->body.done;
        if (len > 0)
                take_body(fetch, data, len);
}

static void fetch_input(struct socket *socket) {
        struct fetch *fetch = container_of(socket, struct fetch, socket);
        char *data = socket->group->buffer;
        size_t n = socket_read(socket, data, SOCKET_BUFFER_SIZE), seen = fetch->head.len;

        if (n == 0 || fetch->ended)
                return;
        if (fetch->status != 0)
                take_body(fetch, data, n);
        else if (seen == 0)
                take_head(fetch, data, n, 0);
        else if (text_add(&fetch->head, data, n) < 0)
                fetch_refuse(fetch, strerror(ENOMEM));
        else
                take_head(fetch, fetch->head.data, fetch->head.len, seen);
}

static void fetch_connect(struct fetch *fetch);

static void fetch_attend(struct socket *socket) {
        struct fetch *fetch = container_of(socket, struct fetch, socket);

        if (!fetch->ended && !socket_is_over(socket))
                return;
        if (socket->input_ended && fetch->status != 0)
                fetch->ended |= http_body_end(&fetch->body);
        if (!fetch->ended)
                fetch->error = socket->error;
        if (fetch->connected)
                finish(fetch);
        else {
                socket_deinit(socket);
                fetch_connect(fetch);
        }
}

static void fetch_connected(struct socket *socket, int error) {
        struct fetch *fetch = container_of(socket, struct fetch, socket);
        struct fetcher *fetcher = fetch->fetcher;

        if (error < 0)
                return;
        fetch->connected = true;
        /* Unless they were looked up anew meanwhile. */
        if (fetch->endpoint >= fetcher->resolver.count)
                return;
        fetcher->reached = true;
        fetcher->current = fetch->endpoint;
}

static const struct socket_ops fetch_ops = {
        .input = fetch_input,
        .attend = fetch_attend,
        .connected = fetch_connected,
};

/* Whether the same connection may be made a little later. */
static bool is_for_now(int error) {
        return error == -EAGAIN || error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM;
}

/* None of the endpoints takes a connection. */
static void not_reached(struct fetch *fetch) {
        struct fetcher *fetcher = fetch->fetcher;

        fetcher->reached &= fetcher->settled;
        if (!fetcher->settled && timer_now() - fetcher->resolved_at > ADDRESSES_AGE)
                fetcher_forget(fetcher);
        finish(fetch);
}

/* Tries the next endpoint. */
static void fetch_connect(struct fetch *fetch) {
        struct fetcher *fetcher = fetch->fetcher;
        const unsigned count = fetcher->settled ? 1 : fetcher->resolver.count;

        while (fetch->tries < count) {
                const struct endpoint *endpoint;
                int r;

                fetch->endpoint = (fetcher->current + fetch->tries) % fetcher->resolver.count;
                endpoint = &fetcher->resolver.endpoints[fetch->endpoint];
                r = socket_connect(&fetch->socket, &fetcher->sockets, &fetch_ops, (const struct sockaddr *)&endpoint->address,
                                   endpoint->len);
                fetch->error = r;
                if (is_for_now(r)) {
                        reactor_set_timer(fetcher->reactor, &fetch->retry, timer_now() + RETRY_PAUSE);
                        return;
                }
                fetch->tries++;
                if (r == 0) {
                        (void)socket_write(&fetch->socket, fetch->request.data, fetch->request.len);
                        return;
                }
        }
        not_reached(fetch);
}

static void connect_run(struct job *job) {
        struct fetch *fetch = container_of(job, struct fetch, connect);

        /* They were forgotten meanwhile. */
        if (fetch->fetcher->resolver.count == 0)
                fail(fetch, "It was looked up again");
        else
                fetch_connect(fetch);
}

static void retry_due(struct timer *timer) {
        connect_run(&container_of(timer, struct fetch, retry)->connect);
}

static void timed_out(struct timer *timer) {
        struct fetch *fetch = container_of(timer, struct fetch, timeout);
        char error[128], time[NUMBER_DURATION_MAX];

        if (timer_is_set(&fetch->retry) && fetch->error == -EAGAIN)
                snprintf(error, sizeof(error), "There is no room in its backlog");
        else if (timer_is_set(&fetch->retry))
                snprintf(error, sizeof(error), "%s", strerror(-fetch->error));
        else
                snprintf(error, sizeof(error), "No %s within %s", fetch->connected ? "answer" : "connection",
                         number_format_duration(time, fetch->time));
        fail(fetch, error);
}

static void resolved(struct resolver *resolver, const char *error) {
        struct fetcher *fetcher = container_of(resolver, struct fetcher, resolver);
        struct list waiting;

        fetcher->resolved_at = timer_now();
        list_move_all(&waiting, &fetcher->waiting);
        while (!list_is_empty(&waiting)) {
                struct fetch *fetch = container_of(waiting.next, struct fetch, waiting);

                list_remove(&fetch->waiting);
                if (error)
                        fail(fetch, error);
                else
                        fetch_connect(fetch);
        }
}

size_t fetch_write_head(char *to, size_t size, const struct target *target, const struct fetch_request *request, bool close) {
        char framing[96] = "";
        int n;

        if (request->body)
                snprintf(framing, sizeof(framing), "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                         request->body_len);
        /* cppcheck-suppress nullPointer ; with a size of 0 it only measures */
        n = snprintf(to, size, "%s %s%s HTTP/1.1\r\nHost: %s\r\n%s%s%s%s%s\r\n", request->body ? "POST" : "GET", target->path,
                     request->path, request->host ? request->host : target_authority(target),
                     request->key ? "Authorization: Bearer " : "", request->key ? request->key : "",
                     request->key ? "\r\n" : "", framing, close ? "Connection: close\r\n" : "");
        return (size_t)MAX(n, 0);
}

static int write_request(struct fetch *fetch, const struct fetch_request *request) {
        const size_t len = fetch_write_head(NULL, 0, fetch->fetcher->target, request, true);
        char *head = malloc(len + 1);
        int r;

        if (!head)
                return -ENOMEM;
        (void)fetch_write_head(head, len + 1, fetch->fetcher->target, request, true);
        r = text_add(&fetch->request, head, len);
        if (r == 0 && request->body)
                r = text_add(&fetch->request, request->body, request->body_len);
        free(head);
        return r;
}

int fetch_start(struct fetch *fetch, struct fetcher *fetcher, const struct fetch_request *request) {
        int r;

        *fetch = (struct fetch){
                .fetcher = fetcher,
                .data = fetch->data,
                .done = fetch->done,
                .socket = SOCKET_NULL,
                .time = request->timeout,
        };
        list_init(&fetch->waiting);
        job_init(&fetch->connect, connect_run);
        timer_init(&fetch->timeout, timed_out);
        timer_init(&fetch->retry, retry_due);
        r = write_request(fetch, request);
        if (r == 0 && fetcher->resolver.count == 0 && !fetcher->resolver.lookup) {
                r = resolver_start(&fetcher->resolver, fetcher->reactor, fetcher->target);
                fetcher->resolved_at = timer_now();
        }
        if (r < 0) {
                fetch_cancel(fetch);
                return r;
        }
        if (fetcher->resolver.count > 0)
                reactor_queue(fetcher->reactor, &fetch->connect);
        else
                list_append(&fetcher->waiting, &fetch->waiting);
        if (fetch->time > 0)
                reactor_set_timer(fetcher->reactor, &fetch->timeout, timer_now() + fetch->time);
        return 0;
}

void fetch_cancel(struct fetch *fetch) {
        if (!fetch->fetcher)
                return;
        list_remove(&fetch->waiting);
        job_cancel(&fetch->connect);
        timer_clear(&fetch->timeout);
        timer_clear(&fetch->retry);
        socket_deinit(&fetch->socket);
        text_free(&fetch->request);
        text_free(&fetch->head);
        fetch->fetcher = NULL;
}
