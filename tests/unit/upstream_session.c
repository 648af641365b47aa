/* A session with a model server that is a thread, and does what each test says. */

#include "daemon/model/upstream_session.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/un.h>

#include "common/number.h"
#include "daemon/model/generation.h"
#include "tests/support/unit.h"

#define PATIENCE (60 * NSEC_PER_SEC)
#define LARGE (10u << 20)

static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
static const char completion[] =
        "HTTP/1.1 200 OK\r\nContent-Length: 31\r\n\r\n{\"choices\":[{\"text\":\"Hello.\"}]}";

/* --- The server. */

static int listener = -1;
static pthread_t server;
static bool has_server;
static char request[65536];     /* the last one that came, the head and what came of a body with it */
static char directory[32];
static struct sockaddr_storage address;
static socklen_t address_len;

static void listen_unix(int backlog) {
        struct sockaddr_un *path = (struct sockaddr_un *)&address;

        snprintf(directory, sizeof(directory), "/tmp/session-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(directory));
        path->sun_family = AF_UNIX;
        snprintf(path->sun_path, sizeof(path->sun_path), "%s/s", directory);
        address_len = sizeof(*path);
        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, address_len), 0);
        ck_assert_int_eq(listen(listener, backlog), 0);
}

static void listen_tcp(void) {
        struct sockaddr_in *in = (struct sockaddr_in *)&address;

        *in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
        address_len = sizeof(*in);
        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, address_len), 0);
        ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &address_len), 0);
        ck_assert_int_eq(listen(listener, 1000), 0);
}

static void serve(void *(*script)(void *)) {
        ck_assert_int_eq(pthread_create(&server, NULL, script, NULL), 0);
        has_server = true;
}

static int server_accept(void) {
        int fd;

        /* A test may leave the process without descriptors for a moment. */
        do
                fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        while (fd < 0 && errno == EMFILE);
        ck_assert_int_ge(fd, 0);
        return fd;
}

/* Reads a head, and what stands behind it in the same reads. Returns how many bytes of the body came; -1 at the end. */
static ssize_t server_read(int fd) {
        size_t len = 0;
        const char *end = NULL;

        while (!end) {
                ssize_t n = recv(fd, request + len, sizeof(request) - 1 - len, 0);

                if (n <= 0)
                        return -1;
                len += (size_t)n;
                request[len] = '\0';
                end = strstr(request, "\r\n\r\n");
        }
        return (ssize_t)(len - (size_t)(end + 4 - request));
}

static void server_say(int fd, const char *text) {
        ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* Waits until the other side has closed it. */
static void server_await_end(int fd) {
        char byte;

        ck_assert_int_le(recv(fd, &byte, 1, 0), 0);
        close(fd);
}

/* --- The clients. */

struct client {
        struct recipient recipient;
        struct inference *inference;
        struct exchange exchange;
        struct http_request head;
        char bytes[512];
        char *answer;
        size_t answer_len;
        unsigned statuses[4];
        unsigned heads;
        unsigned parts;
        unsigned sents;
        bool pauses;            /* at the first part */
        bool cancels;           /* likewise */
        bool counts;            /* the answer is not kept */
        bool ended;
        enum ending how;
        char text[256];
        uint64_t retry_after;
};

static struct reactor reactor;
static struct socket_group *sockets;
static struct model_session *session;
static struct generation generation;
static struct session_events events;
static struct timer deadline;
static struct target target;
static struct upstream_session_options options;
static unsigned awaited;        /* clients that have not ended */
static bool room;
static struct client *cancelled;

static void (*on_ended)(struct client *client);
static void (*on_part)(struct client *client);

static struct client *client_of(struct recipient *recipient) {
        return container_of(recipient, struct client, recipient);
}

static const struct exchange *client_exchange(struct recipient *recipient, struct inference *inference) {
        ck_assert(inference->is_exchange);
        return &client_of(recipient)->exchange;
}

static void client_head(struct recipient *recipient, struct inference *inference, const struct answer_head *head) {
        struct client *client = client_of(recipient);

        ck_assert_ptr_eq(inference, client->inference);
        ck_assert(!client->ended && client->parts == 0 && client->heads < ARRAY_SIZE(client->statuses));
        ck_assert_int_eq(memcmp(head->bytes, "HTTP/1.", 7), 0);
        client->statuses[client->heads++] = head->answer->status;
}

static void client_part(struct recipient *recipient, struct inference *inference, const char *data, size_t len) {
        struct client *client = client_of(recipient);

        ck_assert_ptr_eq(inference, client->inference);
        ck_assert(!client->ended && client != cancelled && len > 0);
        if (!client->counts) {
                client->answer = realloc(client->answer, client->answer_len + len + 1);
                memcpy(client->answer + client->answer_len, data, len);
                client->answer[client->answer_len + len] = '\0';
        }
        client->answer_len += len;
        if (client->parts++ == 0 && client->pauses) {
                model_pause(session, inference, true);
                reactor_stop(&reactor);
        }
        if (client->parts == 1 && client->cancels) {
                cancelled = client;
                model_cancel(session, inference);
                reactor_stop(&reactor);
        }
        if (on_part)
                on_part(client);
}

static void client_sent(struct recipient *recipient, struct inference *inference) {
        ck_assert_ptr_eq(inference, client_of(recipient)->inference);
        client_of(recipient)->sents++;
}

static const struct answer_ops client_ops = {
        .exchange = client_exchange,
        .head = client_head,
        .part = client_part,
        .sent = client_sent,
};

static void session_ended(struct session_events *which, struct inference *inference, const struct answer_end *end) {
        struct client *client = client_of(inference->recipient);

        ck_assert_ptr_eq(which, &events);
        ck_assert(!client->ended && client != cancelled);
        client->ended = true;
        client->how = end->how;
        client->retry_after = end->retry_after;
        if (end->how == ENDING_COMPLETE && end->len > 0 && !inference->is_exchange) {
                client->answer = realloc(client->answer, client->answer_len + end->len + 1);
                memcpy(client->answer + client->answer_len, end->text, end->len);
                client->answer_len += end->len;
                client->answer[client->answer_len] = '\0';
        } else if (end->how != ENDING_COMPLETE) {
                ck_assert_uint_eq(strlen(end->text), end->len);
                snprintf(client->text, sizeof(client->text), "%s", end->text);
        }
        awaited--;
        if (on_ended)
                on_ended(client);
        if (awaited == 0)
                reactor_stop(&reactor);
}

static void session_room(struct session_events *which) {
        ck_assert_ptr_eq(which, &events);
        room = true;
        reactor_stop(&reactor);
}

/* An exchange of this head, whose lines end in LF. */
static void client_init(struct client *client, const char *head, const char *body, uint64_t body_len) {
        struct http_refusal refusal;
        size_t len = 0;

        *client = (struct client){ .recipient = { &client_ops } };
        for (const char *p = head; *p; p++) {
                if (*p == '\n')
                        client->bytes[len++] = '\r';
                client->bytes[len++] = *p;
        }
        ck_assert_uint_lt(len, sizeof(client->bytes));
        ck_assert_msg(http_parse_request(&client->head, client->bytes, len, 0, &refusal) == HTTP_WHOLE, "%s", head);
        client->exchange = (struct exchange){
                .request = &client->head,
                .head = client->bytes,
                .body = body,
                .body_len = body_len,
        };
        client->inference = calloc(1, sizeof(*client->inference));
        client->inference->recipient = &client->recipient;
        client->inference->is_exchange = true;
        client->inference->repeats = true;
}

static void client_get(struct client *client) {
        client_init(client, "GET /v1/x HTTP/1.1\nHost: h\nX-Odd:  1\nConnection: keep-alive\n\n", NULL, HTTP_LENGTH_UNKNOWN);
}

static void client_prompt(struct client *client, const char *prompt, bool stream) {
        size_t len = strlen(prompt);

        *client = (struct client){ .recipient = { &client_ops } };
        client->inference = calloc(1, sizeof(*client->inference) + 1 + len);
        client->inference->recipient = &client->recipient;
        client->inference->repeats = true;
        client->inference->has_prompt = true;
        client->inference->stream = stream;
        client->inference->id_len = 1;
        client->inference->prompt_len = (uint32_t)len;
        client->inference->text[0] = '1';
        memcpy(client->inference->text + 1, prompt, len);
}

static void client_deinit(struct client *client) {
        free(client->answer);
        free(client->inference);
}

static int client_start(struct client *client) {
        int r = model_infer(session, client->inference);

        awaited += r == 0;
        return r;
}

static void run(void) {
        reactor.stopped = false;
        ck_assert_int_eq(reactor_run(&reactor), 0);
}

static void client_run(struct client *client) {
        ck_assert_int_eq(client_start(client), 0);
        while (!client->ended)
                run();
}

static void expect_complete(struct client *client, const char *answer) {
        ck_assert_msg(client->how == ENDING_COMPLETE, "%d: %s", client->how, client->text);
        ck_assert_str_eq(client->answer ? client->answer : "", answer);
}

static void deadline_due(struct timer *timer) {
        (void)timer;
        ck_abort_msg("nothing happens any more");
}

/* The other functions are those of this module. */
static const struct model_ops ops = {
        .session_free = upstream_session_free,
        .session_follow = upstream_session_follow,
        .infer = upstream_infer,
        .pause = upstream_pause,
        .send = upstream_send,
        .finish = upstream_finish,
        .cancel = upstream_cancel,
};
static struct model model = { &ops };

static void follow(void) {
        generation.number++;
        snprintf(generation.model, sizeof(generation.model), "m");
        generation.address = address;
        generation.address_len = address_len;
        model_session_follow(session, &generation);
}

static void start(uint64_t max_connections) {
        const struct session_place place = { &reactor, sockets, &events };

        options.max_connections = max_connections;
        ck_assert_int_eq(upstream_session_new(&options, &model, &place, &session), 0);
        follow();
}

static void setup(void) {
        ck_assert_int_eq(reactor_init(&reactor), 0);
        sockets = calloc(1, sizeof(*sockets));
        socket_group_init(sockets, &reactor);
        timer_init(&deadline, deadline_due);
        reactor_set_timer(&reactor, &deadline, timer_now() + PATIENCE);
        events = (struct session_events){ session_ended, session_room };
        ck_assert_int_eq(target_parse(&target, "http://h:1/pre"), 0);
        options = (struct upstream_session_options){ .target = &target, .completion_path = "/v1/completions" };
}

static void teardown(void) {
        session = model_session_free(session);
        if (has_server)
                ck_assert_int_eq(pthread_join(server, NULL), 0);
        if (listener >= 0)
                close(listener);
        if (directory[0]) {
                ck_assert_int_eq(unlink(((struct sockaddr_un *)&address)->sun_path), 0);
                ck_assert_int_eq(rmdir(directory), 0);
        }
        timer_clear(&deadline);
        socket_group_deinit(sockets);
        free(sockets);
        reactor_deinit(&reactor);
}

/* --- The pool. */

#define SEQUENCE 100

static void *serve_one_connection(void *data) {
        int fd = server_accept();

        for (unsigned i = 0; i < SEQUENCE; i++) {
                ck_assert_int_eq(server_read(fd), 4);
                server_say(fd, i % 2 ? ok : "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        }
        server_await_end(fd);
        return data;
}

START_TEST(one_connection) {
        struct client client;

        listen_tcp();
        serve(serve_one_connection);
        start(4);
        for (unsigned i = 0; i < SEQUENCE; i++) {
                client_init(&client, "POST /v1/x?y HTTP/1.1\nHost: h\nX-Odd:  1\nContent-Length: 4\n\n", "body", 4);
                client_run(&client);
                expect_complete(&client, "ok");
                ck_assert_uint_eq(client.statuses[0], 200);
                client_deinit(&client);
        }
        session = model_session_free(session);
        ck_assert_int_eq(pthread_join(server, NULL), 0);
        has_server = false;
        ck_assert_str_eq(request, "POST /pre/v1/x?y HTTP/1.1\r\nHost: h\r\nX-Odd:  1\r\nVia: 1.1 msd\r\nContent-Length: 4\r\n"
                                  "\r\nbody");
}
END_TEST

/* The next request goes out from within the end of the one before, and has the connection of that. */
static struct client chained[SEQUENCE];
static unsigned chained_count;

static void start_next(struct client *client) {
        (void)client;
        if (chained_count == SEQUENCE)
                return;
        client_init(&chained[chained_count], "POST /v1/x HTTP/1.1\nHost: h\n\n", "body", 4);
        ck_assert_int_eq(client_start(&chained[chained_count++]), 0);
}

START_TEST(one_after_another) {
        listen_tcp();
        serve(serve_one_connection);
        start(1);
        on_ended = start_next;
        start_next(NULL);
        run();
        for (unsigned i = 0; i < SEQUENCE; i++) {
                expect_complete(&chained[i], "ok");
                client_deinit(&chained[i]);
        }
}
END_TEST

static pthread_barrier_t barrier;

static void meet(void) {
        (void)pthread_barrier_wait(&barrier);
}

static void *serve_two_connections(void *data) {
        int first = server_accept(), second;

        ck_assert_int_ge(server_read(first), 0);
        server_say(first, ok);
        /* The connection is kept, and closed; the client sees that before it asks again. */
        meet();
        close(first);
        meet();
        second = server_accept();
        ck_assert_int_ge(server_read(second), 0);
        server_say(second, ok);
        server_await_end(second);
        return data;
}

static void stop_due(struct timer *timer) {
        (void)timer;
        reactor_stop(&reactor);
}

/* Everything that has happened is dealt with. */
static void settle(void) {
        struct timer timer;

        timer_init(&timer, stop_due);
        reactor_set_timer(&reactor, &timer, timer_now() + 10 * NSEC_PER_MSEC);
        run();
}

START_TEST(idle_close_is_noticed) {
        struct client client;

        pthread_barrier_init(&barrier, NULL, 2);
        listen_tcp();
        serve(serve_two_connections);
        start(4);
        for (unsigned i = 0; i < 2; i++) {
                client_get(&client);
                client_run(&client);
                expect_complete(&client, "ok");
                client_deinit(&client);
                if (i > 0)
                        continue;
                meet();
                meet();
                settle();
        }
}
END_TEST

/* Closes one connection after another once a request was read: the first time after it answered one. */
static unsigned requests_read;

static void *serve_and_close(void *data) {
        int fd = server_accept();

        ck_assert_int_ge(server_read(fd), 0);
        server_say(fd, ok);
        for (unsigned i = 0; i < 2; i++) {
                ck_assert_int_ge(server_read(fd), 0);
                requests_read++;
                close(fd);
                fd = i == 0 ? server_accept() : -1;
        }
        return data;
}

START_TEST(closed_after_reading) {
        struct client client;

        listen_tcp();
        serve(serve_and_close);
        start(4);
        for (unsigned i = 0; i < 3; i++) {
                client_get(&client);
                client.inference->resent = i == 2;
                client_run(&client);
                if (i == 0)
                        expect_complete(&client, "ok");
                else
                        ck_assert_int_eq(client.how, i == 1 ? ENDING_STALE : ENDING_LOST);
                ck_assert_uint_eq(client.heads, i == 0);
                client_deinit(&client);
        }
        ck_assert_int_eq(pthread_join(server, NULL), 0);
        has_server = false;
        ck_assert_uint_eq(requests_read, 2);
}
END_TEST

/* The server does not read a kept connection any more, and does not close it: nothing comes, and no event says so. */
static void *serve_and_stop_reading(void *data) {
        int fd = server_accept();

        ck_assert_int_ge(server_read(fd), 0);
        server_say(fd, ok);
        meet();
        shutdown(fd, SHUT_RD);
        meet();
        meet();
        close(fd);
        return data;
}

START_TEST(not_read_any_more) {
        struct client client;

        pthread_barrier_init(&barrier, NULL, 2);
        listen_unix(10);
        serve(serve_and_stop_reading);
        start(4);
        for (unsigned i = 0; i < 2; i++) {
                client_get(&client);
                client_run(&client);
                if (i == 0)
                        expect_complete(&client, "ok");
                else
                        ck_assert_int_eq(client.how, ENDING_STALE);
                client_deinit(&client);
                meet();
                if (i == 0)
                        meet();
        }
}
END_TEST

/* It is closed just before the next request, and the event has not come: nothing is sent. */
static void *serve_and_close_early(void *data) {
        int fd = server_accept();

        ck_assert_int_ge(server_read(fd), 0);
        server_say(fd, ok);
        meet();
        shutdown(fd, SHUT_WR);
        meet();
        server_await_end(fd);
        return data;
}

START_TEST(closed_before_sending) {
        struct client client;

        pthread_barrier_init(&barrier, NULL, 2);
        listen_unix(10);
        serve(serve_and_close_early);
        start(4);
        client_get(&client);
        client_run(&client);
        client_deinit(&client);
        meet();
        meet();
        client_get(&client);
        client_run(&client);
        ck_assert_int_eq(client.how, ENDING_UNSENT);
        client_deinit(&client);
}
END_TEST

/* One that may not be repeated does not have a kept connection. */
static void *serve_connections(void *data) {
        for (unsigned i = 0; i < 2; i++) {
                int fd = server_accept();

                ck_assert_int_ge(server_read(fd), 0);
                server_say(fd, ok);
        }
        return data;
}

START_TEST(not_repeatable) {
        struct client client;

        listen_tcp();
        serve(serve_connections);
        start(4);
        for (unsigned i = 0; i < 2; i++) {
                client_get(&client);
                client.inference->repeats = i == 0;
                client_run(&client);
                expect_complete(&client, "ok");
                client_deinit(&client);
        }
}
END_TEST

START_TEST(refused) {
        struct client clients[2];

        if (_i == 0)
                listen_tcp();
        else
                listen_unix(1);
        close(listener);
        listener = -1;
        start(4);
        for (unsigned i = 0; i < 2; i++) {
                client_get(&clients[i]);
                ck_assert_int_eq(client_start(&clients[i]), 0);
                ck_assert(!clients[i].ended);
        }
        run();
        for (unsigned i = 0; i < 2; i++) {
                ck_assert_int_eq(clients[i].how, ENDING_REFUSED);
                ck_assert_str_eq(clients[i].text, "Cannot connect to the model server: Connection refused");
                client_deinit(&clients[i]);
        }
        /* One that is cancelled before it hears of that. */
        client_get(&clients[0]);
        ck_assert_int_eq(client_start(&clients[0]), 0);
        model_cancel(session, clients[0].inference);
        awaited--;
        settle();
        ck_assert(!clients[0].ended);
        client_deinit(&clients[0]);
}
END_TEST

/* So many connections at once, and light ones besides. */
static void *serve_in_turn(void *data) {
        int fds[2];

        for (unsigned i = 0; i < 2; i++) {
                fds[i] = server_accept();
                ck_assert_int_ge(server_read(fds[i]), 0);
        }
        meet();
        server_say(fds[0], ok);
        ck_assert_int_ge(server_read(fds[0]), 0);
        for (unsigned i = 0; i < 2; i++)
                server_say(fds[i], ok);
        for (unsigned i = 0; i < 2; i++)
                server_await_end(fds[i]);
        return data;
}

START_TEST(busy) {
        struct client one, light, more;

        pthread_barrier_init(&barrier, NULL, 2);
        listen_tcp();
        serve(serve_in_turn);
        start(1);
        client_get(&one);
        client_get(&light);
        client_get(&more);
        light.inference->is_light = true;
        ck_assert_int_eq(client_start(&one), 0);
        ck_assert_int_eq(client_start(&light), 0);
        ck_assert_int_eq(client_start(&more), MODEL_BUSY);
        settle();
        ck_assert(!room);
        meet();
        while (!room)
                run();
        ck_assert(one.ended || light.ended);
        while (!one.ended || !more.ended || !light.ended) {
                if (one.ended && more.inference->handle == 0)
                        ck_assert_int_eq(client_start(&more), 0);
                run();
        }
        expect_complete(&one, "ok");
        expect_complete(&light, "ok");
        expect_complete(&more, "ok");
        client_deinit(&one);
        client_deinit(&light);
        client_deinit(&more);
}
END_TEST

/* A cancelled one makes room. */
START_TEST(room_of_cancelled) {
        struct client one, more;

        listen_tcp();
        start(1);
        client_get(&one);
        client_get(&more);
        ck_assert_int_eq(client_start(&one), 0);
        ck_assert_int_eq(client_start(&more), MODEL_BUSY);
        model_cancel(session, one.inference);
        ck_assert(!room);
        run();
        ck_assert(room);
        ck_assert_int_eq(client_start(&more), 0);
        client_deinit(&one);
        client_deinit(&more);
}
END_TEST

START_TEST(backlog) {
        struct client clients[8];
        unsigned n = 0;
        int r = 0;

        listen_unix(0);
        start(0);
        while (r == 0) {
                ck_assert_uint_lt(n, ARRAY_SIZE(clients));
                client_get(&clients[n]);
                r = client_start(&clients[n++]);
        }
        ck_assert_int_eq(r, MODEL_BUSY);
        while (!room)
                run();
        room = false;
        ck_assert_int_eq(client_start(&clients[n - 1]), MODEL_BUSY);
        close(server_accept());
        while (!room)
                run();
        ck_assert_int_eq(client_start(&clients[n - 1]), 0);
        session = model_session_free(session);
        for (unsigned i = 0; i < n; i++)
                client_deinit(&clients[i]);
}
END_TEST

START_TEST(no_descriptors) {
        struct rlimit limit, none;
        struct client client;
        int next = dup(0);

        listen_tcp();
        serve(serve_and_close);
        start(4);
        client_get(&client);
        getrlimit(RLIMIT_NOFILE, &limit);
        none = limit;
        none.rlim_cur = (rlim_t)next;
        close(next);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
        ck_assert_int_eq(client_start(&client), MODEL_BUSY);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        while (!room)
                run();
        client_run(&client);
        expect_complete(&client, "ok");
        client_deinit(&client);
        client_get(&client);
        client_run(&client);
        client.inference->resent = true;
        client.ended = false;
        client_run(&client);
        client_deinit(&client);
}
END_TEST

/* Connections to a generation that is not followed any more are closed when they are idle. */
static void *serve_two_generations(void *data) {
        int first = server_accept(), second = server_accept(), third;

        ck_assert_int_ge(server_read(first), 0);
        ck_assert_int_ge(server_read(second), 0);
        server_say(first, ok);
        meet();
        server_await_end(first);
        server_say(second, ok);
        server_await_end(second);
        third = server_accept();
        ck_assert_int_ge(server_read(third), 0);
        server_say(third, ok);
        server_await_end(third);
        return data;
}

START_TEST(another_generation) {
        struct client clients[3];

        pthread_barrier_init(&barrier, NULL, 2);
        listen_tcp();
        serve(serve_two_generations);
        start(4);
        for (unsigned i = 0; i < 3; i++)
                client_get(&clients[i]);
        ck_assert_int_eq(client_start(&clients[0]), 0);
        ck_assert_int_eq(client_start(&clients[1]), 0);
        while (!clients[0].ended && !clients[1].ended)
                settle();
        model_session_follow(session, &generation);
        follow();
        meet();
        run();
        client_run(&clients[2]);
        for (unsigned i = 0; i < 3; i++) {
                expect_complete(&clients[i], "ok");
                client_deinit(&clients[i]);
        }
}
END_TEST

/* --- Answers. */

static const struct answer_case {
        const char *request;            /* its first word */
        const char *answer;             /* all that the server says; then it closes */
        enum ending how;
        unsigned status;                /* the last; 0: none */
        unsigned heads;
        const char *text;               /* the body, or why there is none */
} answers[] = {
        { "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ENDING_COMPLETE, 200, 1, "ok" },
        { "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nT: u\r\n\r\n",
          ENDING_COMPLETE, 200, 1, "ok" },
        { "GET", "HTTP/1.1 200 OK\r\n\r\nok", ENDING_COMPLETE, 200, 1, "ok" },
        { "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ENDING_COMPLETE, 200, 1, "" },
        { "GET", "HTTP/1.1 204 No Content\r\n\r\n", ENDING_COMPLETE, 204, 1, "" },
        { "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", ENDING_COMPLETE, 304, 1, "" },
        { "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", ENDING_COMPLETE, 200, 1, "" },
        { "GET",
          "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
          "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
          ENDING_COMPLETE, 200, 3, "ok" },
        { "GET", "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno", ENDING_COMPLETE, 500, 1, "no" },
        { "GET", "", ENDING_LOST, 0, 0, "The model server has closed the connection" },
        { "GET", "HTTP/1.1 200 OK\r\nContent-Le", ENDING_LOST, 0, 0, "The model server has closed the connection" },
        { "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", ENDING_FAILED, 200, 1,
          "The answer was cut short: The model server has closed the connection" },
        { "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", ENDING_FAILED, 200, 1,
          "The answer was cut short: The model server has closed the connection" },
        { "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokx\r\n", ENDING_FAILED, 200, 1,
          "The framing of the model server's answer is malformed" },
        { "GET", "HTTP/1.1 100 Continue\r\n\r\n", ENDING_LOST, 100, 1, "The model server has closed the connection" },
        { "GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", ENDING_FAILED, 0, 0,
          "The model server has switched protocols unasked" },
        { "GET", "HELLO\r\n\r\n", ENDING_FAILED, 0, 0, "The model server's answer is malformed: The answer is not one of HTTP" },
        { "GET", "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n", ENDING_FAILED, 0, 0,
          "The model server's answer is malformed: Content-Length is not a number, or too large; send digits alone" },
        { "GET", "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno", ENDING_UNAVAILABLE, 0, 0,
          "The model server answered HTTP 503" },
        { "GET", "HTTP/1.1 503 No\r\nRetry-After: 30\r\nContent-Length: 2\r\n\r\nno", ENDING_UNAVAILABLE, 0, 0,
          "The model server answered HTTP 503" },
        { "GET", "HTTP/1.1 503 No\r\nRetry-After: 31\r\nContent-Length: 2\r\n\r\nno", ENDING_COMPLETE, 503, 1, "no" },
        { "GET", "HTTP/1.1 503 No\r\nRetry-After: Fri, 07 Nov 2025 23:59:59 GMT\r\nContent-Length: 2\r\n\r\nno",
          ENDING_COMPLETE, 503, 1, "no" },
};

static const char *answered;
static size_t piece;            /* so many bytes at once */

static void *serve_answer(void *data) {
        int fd = server_accept();

        ck_assert_int_ge(server_read(fd), 0);
        for (size_t at = 0, n; at < strlen(answered); at += n) {
                n = MIN(piece, strlen(answered) - at);
                if (send(fd, answered + at, n, MSG_NOSIGNAL) < 0)
                        break;
                if (piece > 1)
                        continue;
                /* A read of its own has each, as good as always. */
                sched_yield();
        }
        shutdown(fd, SHUT_WR);
        server_await_end(fd);
        return data;
}

static void expect_answer(const struct answer_case *expected) {
        struct client client;
        char head[128];

        snprintf(head, sizeof(head), "%s /v1/x HTTP/1.1\nHost: h\n\n", expected->request);
        client_init(&client, head, NULL, HTTP_LENGTH_UNKNOWN);
        client_run(&client);
        ck_assert_msg(client.how == expected->how, "%d: %s", client.how, client.text);
        ck_assert_uint_eq(client.heads, expected->heads);
        if (expected->heads > 0)
                ck_assert_uint_eq(client.statuses[client.heads - 1], expected->status);
        if (expected->how == ENDING_COMPLETE)
                ck_assert_str_eq(client.answer ? client.answer : "", expected->text);
        else if (expected->text)
                ck_assert_str_eq(client.text, expected->text);
        if (expected->how == ENDING_UNAVAILABLE)
                ck_assert_uint_eq(client.retry_after, strstr(expected->answer, "30") ? 30 : UINT64_MAX);
        client_deinit(&client);
}

START_TEST(answers_of_all_kinds) {
        answered = answers[_i / 2].answer;
        piece = _i % 2 ? 1 : SIZE_MAX;
        listen_unix(10);
        serve(serve_answer);
        start(4);
        expect_answer(&answers[_i / 2]);
}
END_TEST

/* It was sent again before, or may not be: its 503 is passed on. */
START_TEST(unavailable_is_passed_on) {
        struct client client;

        answered = "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno";
        piece = SIZE_MAX;
        listen_unix(10);
        serve(serve_answer);
        start(4);
        client_get(&client);
        client.inference->resent = _i == 0;
        client.inference->repeats = _i == 0;
        client_run(&client);
        expect_complete(&client, "no");
        client_deinit(&client);
}
END_TEST

/* What stands behind an answer is taken for none. */
static void *serve_extra(void *data) {
        char *text = malloc(SOCKET_BUFFER_SIZE + 100);
        int head, fd = server_accept();

        ck_assert_int_ge(server_read(fd), 0);
        if (answered)
                server_say(fd, answered);
        else {
                /* The answer fills the buffer exactly. */
                head = sprintf(text, "HTTP/1.1 200 OK\r\nX: %05d\r\nContent-Length: %d\r\n\r\n", 0, 60000);
                sprintf(text, "HTTP/1.1 200 OK\r\nX: %05d\r\nContent-Length: %d\r\n\r\n", 0, SOCKET_BUFFER_SIZE - head);
                memset(text + head, 'x', (size_t)(SOCKET_BUFFER_SIZE - head));
                memcpy(text + SOCKET_BUFFER_SIZE, ok, sizeof(ok));
                server_say(fd, text);
        }
        meet();
        server_await_end(fd);
        fd = server_accept();
        ck_assert_int_ge(server_read(fd), 0);
        server_say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes");
        server_await_end(fd);
        free(text);
        return data;
}

static void start_last(struct client *client) {
        (void)client;
        on_ended = NULL;
        client_get(&chained[0]);
        ck_assert_int_eq(client_start(&chained[0]), 0);
}

START_TEST(extra_bytes) {
        static const char *const extras[] = {
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
                "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
                "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
                NULL,
        };
        struct client client;

        answered = extras[_i];
        pthread_barrier_init(&barrier, NULL, 2);
        listen_unix(10);
        serve(serve_extra);
        start(4);
        /* It is read when all has come; and the next one comes from within the end of this one. */
        on_ended = start_last;
        client_get(&client);
        ck_assert_int_eq(client_start(&client), 0);
        model_pause(session, client.inference, true);
        settle();
        meet();
        model_pause(session, client.inference, false);
        while (!client.ended)
                run();
        ck_assert_int_eq(client.how, ENDING_COMPLETE);
        client_deinit(&client);
        while (!chained[0].ended)
                run();
        expect_complete(&chained[0], "yes");
        client_deinit(&chained[0]);
}
END_TEST

static void *serve_large(void *data) {
        int fd = server_accept();
        char *body = malloc(LARGE);

        memset(body, 'x', LARGE);
        ck_assert_int_ge(server_read(fd), 0);
        server_say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n");
        for (size_t at = 0; at < LARGE;) {
                ssize_t n = send(fd, body + at, LARGE - at, MSG_NOSIGNAL);

                if (n < 0)
                        break;
                at += (size_t)n;
        }
        server_await_end(fd);
        free(body);
        return data;
}

START_TEST(paused) {
        struct client client;
        size_t before;

        listen_tcp();
        serve(serve_large);
        start(4);
        client_get(&client);
        client.pauses = client.counts = true;
        ck_assert_int_eq(client_start(&client), 0);
        run();
        ck_assert_uint_eq(client.parts, 1);
        before = client.answer_len;
        settle();
        ck_assert_uint_eq(client.answer_len, before);
        model_pause(session, client.inference, false);
        while (!client.ended)
                run();
        ck_assert_int_eq(client.how, ENDING_COMPLETE);
        ck_assert_uint_eq(client.answer_len, LARGE);
        client_deinit(&client);
}
END_TEST

START_TEST(cancelled_halfway) {
        struct client client;

        listen_tcp();
        serve(serve_large);
        start(4);
        client_get(&client);
        client.cancels = client.counts = true;
        ck_assert_int_eq(client_start(&client), 0);
        run();
        ck_assert_uint_eq(client.parts, 1);
        settle();
        /* The server sees that, before the session ends. */
        ck_assert_int_eq(pthread_join(server, NULL), 0);
        has_server = false;
        ck_assert(!client.ended);
        client_deinit(&client);
}
END_TEST

/* --- Requests. */

static size_t uploaded;

static void *serve_upload(void *data) {
        char *buffer = malloc(65536);
        int fd = server_accept();
        ssize_t n = server_read(fd);

        ck_assert_int_ge(n, 0);
        /* It goes on when nothing more fits into the socket. */
        meet();
        for (uploaded = (size_t)n; uploaded < LARGE; uploaded += (size_t)n) {
                n = recv(fd, buffer, 65536, 0);
                ck_assert_int_gt(n, 0);
                for (ssize_t i = 0; i < n; i++)
                        if (buffer[i] != (char)('a' + (uploaded + (size_t)i) % 23))
                                ck_abort_msg("another byte at %zu", uploaded + (size_t)i);
        }
        ck_assert_uint_eq(uploaded, LARGE);
        for (unsigned i = 0; i < 2; i++) {
                server_say(fd, ok);
                if (i == 0)
                        ck_assert_int_eq(server_read(fd), 0);
        }
        server_await_end(fd);
        free(buffer);
        return data;
}

static char *large_body(void) {
        char *body = malloc(LARGE);

        for (size_t i = 0; i < LARGE; i++)
                body[i] = (char)('a' + i % 23);
        return body;
}

START_TEST(large_request) {
        char *body = large_body();
        struct client client;

        pthread_barrier_init(&barrier, NULL, 2);
        if (_i == 0)
                listen_tcp();
        else
                listen_unix(10);
        serve(serve_upload);
        start(4);
        client_init(&client, "POST /v1/x HTTP/1.1\nHost: h\n\n", body, LARGE);
        ck_assert_int_eq(client_start(&client), 0);
        settle();
        meet();
        while (!client.ended)
                run();
        expect_complete(&client, "ok");
        client_deinit(&client);
        free(body);
        client_get(&client);
        client_run(&client);
        expect_complete(&client, "ok");
        client_deinit(&client);
}
END_TEST

/* It answers before it has read the body, which it does not want. */
static void *serve_early(void *data) {
        int fd = server_accept();

        ck_assert_int_ge(server_read(fd), 0);
        server_say(fd, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno");
        meet();
        close(fd);
        fd = server_accept();
        ck_assert_int_ge(server_read(fd), 0);
        server_say(fd, ok);
        server_await_end(fd);
        return data;
}

START_TEST(early_answer) {
        char *body = large_body();
        struct client client;

        pthread_barrier_init(&barrier, NULL, 2);
        listen_tcp();
        serve(serve_early);
        start(4);
        client_init(&client, "POST /v1/x HTTP/1.1\nHost: h\n\n", body, LARGE);
        client_run(&client);
        ck_assert_uint_eq(client.statuses[0], 413);
        expect_complete(&client, "no");
        client_deinit(&client);
        meet();
        free(body);
        client_get(&client);
        client_run(&client);
        expect_complete(&client, "ok");
        client_deinit(&client);
}
END_TEST

START_TEST(host) {
        struct client client;

        answered = ok;
        piece = SIZE_MAX;
        listen_unix(10);
        serve(serve_answer);
        options.host = "model:1";
        options.key = "secret";
        start(4);
        client_get(&client);
        client_run(&client);
        expect_complete(&client, "ok");
        ck_assert_ptr_nonnull(strstr(request, "Host: model:1\r\n"));
        ck_assert_ptr_null(strstr(request, "secret"));
        ck_assert_ptr_null(strstr(request, "Host: h\r\n"));
        client_deinit(&client);
}
END_TEST

/* --- Tunnels. */

static void *serve_tunnel(void *data) {
        int fd = server_accept();
        char text[64] = "";
        size_t len = 0, total = 0;
        char *buffer = malloc(65536);
        ssize_t n;

        ck_assert_int_ge(server_read(fd), 0);
        server_say(fd, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nhello");
        while (len < 4) {
                n = recv(fd, text + len, 4 - len, 0);
                ck_assert_int_gt(n, 0);
                len += (size_t)n;
        }
        ck_assert_str_eq(text, "ping");
        server_say(fd, "pong");
        /* Much, up to the end of what the client sends. */
        meet();
        while ((n = recv(fd, buffer, 65536, 0)) > 0)
                total += (size_t)n;
        ck_assert_int_eq(n, 0);
        ck_assert_uint_eq(total, LARGE);
        server_say(fd, "bye");
        close(fd);
        free(buffer);
        return data;
}

static void answer_tunnel(struct client *client) {
        if (strcmp(client->answer, "hello") == 0)
                ck_assert_uint_eq(model_send(session, client->inference, "ping", 4), 4);
        else if (strcmp(client->answer, "hellopong") == 0)
                reactor_stop(&reactor);
}

START_TEST(tunnel) {
        char *body = large_body();
        struct client client;

        pthread_barrier_init(&barrier, NULL, 2);
        listen_tcp();
        serve(serve_tunnel);
        start(4);
        client_init(&client, "GET /v1/realtime HTTP/1.1\nHost: h\nUpgrade: websocket\nConnection: Upgrade\n\n", NULL,
                    HTTP_LENGTH_UNKNOWN);
        client.inference->is_light = true;
        on_part = answer_tunnel;
        ck_assert_int_eq(client_start(&client), 0);
        run();
        ck_assert_uint_eq(client.statuses[0], 101);
        ck_assert_str_eq(client.answer, "hellopong");
        ck_assert_uint_eq(client.sents, 0);
        ck_assert_uint_eq(model_send(session, client.inference, body, LARGE), LARGE);
        model_finish(session, client.inference);
        meet();
        while (!client.ended)
                run();
        expect_complete(&client, "hellopongbye");
        ck_assert_uint_eq(client.sents, 1);
        ck_assert_ptr_nonnull(strstr(request, "\r\nConnection: Upgrade\r\n"));
        client_deinit(&client);
        free(body);
}
END_TEST

/* --- Prompts. */

START_TEST(prompts) {
        struct client client;

        answered = completion;
        piece = _i == 0 ? SIZE_MAX : 1;
        listen_unix(10);
        serve(serve_answer);
        options.key = "secret";
        options.max_tokens = 7;
        start(4);
        client_prompt(&client, "Say it.", false);
        client_run(&client);
        expect_complete(&client, "Hello.");
        ck_assert_ptr_nonnull(strstr(request, "POST /pre/v1/completions HTTP/1.1\r\nHost: h:1\r\n"
                                              "Authorization: Bearer secret\r\nContent-Type: application/json\r\n"
                                              "Content-Length: "));
        ck_assert_ptr_nonnull(strstr(request, "\"prompt\":\"Say it.\""));
        client_deinit(&client);
}
END_TEST

START_TEST(prompt_that_is_no_text) {
        struct client client;

        listen_unix(10);
        start(4);
        client_prompt(&client, "\xff", false);
        ck_assert_int_eq(client_start(&client), -EILSEQ);
        client_deinit(&client);
}
END_TEST

static const struct {
        const char *answer;
        enum ending how;
        const char *text;       /* what was delivered, or why nothing is */
} streams[] = {
        { "HTTP/1.1 200 OK\r\n\r\ndata: {\"choices\":[{\"text\":\"a\"}]}\n\n"
          "data:{\"choices\":[{\"text\":\"b\"}]}\r\n\ndata: [DONE]\n\n",
          ENDING_COMPLETE, "ab" },
        { "HTTP/1.1 200 OK\r\n\r\ndata: {\"choices\":[{\"text\":\"a\"}]}\n\n", ENDING_FAILED,
          "The answer was cut short: The stream ended without saying so" },
        { "HTTP/1.1 200 OK\r\n\r\n", ENDING_LOST, "The stream ended without saying so" },
        { "HTTP/1.1 200 OK\r\n\r\ndata: x\n\n", ENDING_FAILED, "The model server sent an event that is no JSON" },
        { "HTTP/1.1 200 OK\r\n\r\ndata: {\"error\":{\"message\":\"why\"}}\n\n", ENDING_FAILED, "why" },
        { "HTTP/1.1 400 No\r\n\r\n{\"error\":{\"message\":\"why\"}}", ENDING_FAILED, "why" },
        { "HTTP/1.1 503 No\r\n\r\n{\"error\":\"why\"}", ENDING_UNAVAILABLE, "why" },
        { "HTTP/1.1 503 No\r\nRetry-After: 99\r\n\r\n{\"error\":\"why\"}", ENDING_FAILED, "why" },
        { "HTTP/1.1 404 No\r\n\r\n", ENDING_FAILED, "The model server answered HTTP 404" },
};

START_TEST(prompts_in_parts) {
        struct client client;

        answered = streams[_i / 2].answer;
        piece = _i % 2 ? 1 : SIZE_MAX;
        listen_unix(10);
        serve(serve_answer);
        start(4);
        client_prompt(&client, "Say it.", true);
        client_run(&client);
        ck_assert_msg(client.how == streams[_i / 2].how, "%d: %s", client.how, client.text);
        ck_assert_str_eq(client.how == ENDING_COMPLETE ? client.answer : client.text, streams[_i / 2].text);
        client_deinit(&client);
}
END_TEST

static void *serve_endless(void *data) {
        int fd = server_accept();
        char *body = malloc(1 << 20);

        memset(body, 'x', 1 << 20);
        ck_assert_int_ge(server_read(fd), 0);
        server_say(fd, "HTTP/1.1 200 OK\r\n\r\n");
        while (send(fd, body, 1 << 20, MSG_NOSIGNAL) > 0)
                ;
        close(fd);
        free(body);
        return data;
}

START_TEST(huge_answer) {
        struct client client;

        listen_unix(10);
        serve(serve_endless);
        start(4);
        client_prompt(&client, "Say it.", _i == 1);
        client_run(&client);
        ck_assert_int_eq(client.how, ENDING_FAILED);
        ck_assert_str_eq(client.text, "The model server's answer is over the limit of 67108864 bytes");
        client_deinit(&client);
}
END_TEST

static Suite *session_suite(void) {
        Suite *suite = suite_create("upstream_session");
        TCase *tcase = tcase_create("upstream_session");

        tcase_set_timeout(tcase, 120);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_test(tcase, one_connection);
        tcase_add_test(tcase, one_after_another);
        tcase_add_test(tcase, idle_close_is_noticed);
        tcase_add_test(tcase, closed_after_reading);
        tcase_add_test(tcase, not_read_any_more);
        tcase_add_test(tcase, closed_before_sending);
        tcase_add_test(tcase, not_repeatable);
        tcase_add_loop_test(tcase, refused, 0, 2);
        tcase_add_test(tcase, busy);
        tcase_add_test(tcase, room_of_cancelled);
        tcase_add_test(tcase, backlog);
        tcase_add_test(tcase, no_descriptors);
        tcase_add_test(tcase, another_generation);
        tcase_add_loop_test(tcase, answers_of_all_kinds, 0, 2 * (int)ARRAY_SIZE(answers));
        tcase_add_loop_test(tcase, unavailable_is_passed_on, 0, 2);
        tcase_add_loop_test(tcase, extra_bytes, 0, 5);
        tcase_add_test(tcase, paused);
        tcase_add_test(tcase, cancelled_halfway);
        tcase_add_loop_test(tcase, large_request, 0, 2);
        tcase_add_test(tcase, early_answer);
        tcase_add_test(tcase, host);
        tcase_add_test(tcase, tunnel);
        tcase_add_loop_test(tcase, prompts, 0, 2);
        tcase_add_test(tcase, prompt_that_is_no_text);
        tcase_add_loop_test(tcase, prompts_in_parts, 0, 2 * (int)ARRAY_SIZE(streams));
        tcase_add_loop_test(tcase, huge_answer, 0, 2);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(session_suite)
