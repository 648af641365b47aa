/*
 * Whole connections of the HTTP front: what clients send, in any cuts, while all else happens that may (see happen()). What
 * goes on to the model is one well-formed request, whatever came; every request that came whole has one answer, also where the
 * daemon is restarted or killed meanwhile; and nothing is left of what has gone.
 *
 * The input is what clients send; a byte 0xff tells that something else happens, and what.
 */

#include "daemon/front/http.h"

#include <errno.h>
#include <sys/socket.h>

#include "common/util.h"
#include "tests/fuzz/world.h"

#define CLIENTS_MAX 3
#define INPUT_MAX 8192
#define MAX_BODY 300
#define RESTARTS_MAX 4

struct bytes {
        char *data;
        size_t len;
};

struct client {
        int fd;                 /* -1: it has gone, or has not come yet */
        bool came;
        bool shut;              /* it will send nothing more */
        bool ended;             /* the daemon has ended the connection */
        bool may_be_lost;       /* and may have done so without an answer */
        uint64_t cookie;        /* of its connection */
        struct bytes pending;   /* still to be sent */
        struct bytes sent;
        struct bytes received;
};

static struct world world;
static struct client clients[CLIENTS_MAX];
static unsigned current;
static unsigned restarts;

static void add(struct bytes *bytes, const void *data, size_t len) {
        bytes->data = realloc(bytes->data, bytes->len + len + 1);
        expect(bytes->data);
        memcpy(bytes->data + bytes->len, data, len);
        bytes->len += len;
}

static void clear(struct bytes *bytes) {
        free(bytes->data);
        *bytes = (struct bytes){ 0 };
}

/* What goes on to the model, as it is written to it: nobody behind msd reads another request than msd did. */
static void look(const struct exchange *exchange) {
        const struct http_forwarding forwarding = {
                .prefix = "",
                .content_length = exchange->body_len,
                .drops_accept_encoding = exchange->drops_accept_encoding,
        };
        char *head = malloc(http_forward_request_max(exchange->request, &forwarding));
        struct http_request request;
        struct http_refusal refusal;
        struct http_field field;
        unsigned hosts = 0, vias = 0;
        size_t len;

        expect(head && (exchange->body_len == HTTP_LENGTH_UNKNOWN || exchange->body_len <= MAX_BODY));
        len = http_forward_request(head, exchange->request, exchange->head, &forwarding);
        expect(len <= http_forward_request_max(exchange->request, &forwarding));
        expect(http_parse_request(&request, head, len, 0, &refusal) == HTTP_WHOLE && request.len == len);
        expect(!request.chunked && request.content_length == exchange->body_len);
        for (uint32_t at = request.fields_at; http_next_field(head, &at, &field);) {
                hosts += http_field_is(&field, "host");
                vias += http_field_is(&field, "via");
                expect(!http_field_is(&field, "expect") && !http_field_is(&field, "keep-alive"));
                expect(!http_field_is(&field, "te") && !http_field_is(&field, "transfer-encoding"));
        }
        expect(hosts == 1 && vias >= 1);
        free(head);
}

/* The clients. */

static void come(struct client *client) {
        const int size = 4608;
        socklen_t len = sizeof(client->cookie);
        int pair[2];

        if (client->came)
                return;
        client->came = true;
        expect(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
        /* So that little is unread when it is blocked. */
        expect(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) == 0);
        expect(getsockopt(pair[0], SOL_SOCKET, SO_COOKIE, &client->cookie, &len) == 0);
        client->fd = pair[1];
        expect(http_connection_new(&world.http, pair[0]) == 0);
}

static void send_pending(struct client *client) {
        ssize_t n;

        if (client->fd < 0 || client->shut || client->pending.len == 0)
                return;
        n = send(client->fd, client->pending.data, client->pending.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n <= 0)
                return;
        add(&client->sent, client->pending.data, (size_t)n);
        memmove(client->pending.data, client->pending.data + n, client->pending.len - (size_t)n);
        client->pending.len -= (size_t)n;
}

static bool receive(struct client *client, size_t max) {
        char buffer[4096];
        ssize_t n;

        if (client->fd < 0 || client->ended)
                return false;
        n = recv(client->fd, buffer, MIN(max, sizeof(buffer)), MSG_DONTWAIT);
        client->ended = n == 0 || (n < 0 && errno != EAGAIN);
        if (n > 0)
                add(&client->received, buffer, (size_t)n);
        return n > 0;
}

static void shut(struct client *client) {
        if (client->fd >= 0)
                (void)shutdown(client->fd, SHUT_WR);
        client->shut = true;
}

static void go(struct client *client) {
        if (client->fd >= 0)
                client->fd = util_close(client->fd);
        client->came = true;
}

/* What a client has asked. */
static struct {
        bool is_head[INPUT_MAX];        /* of each request of which the head came */
        unsigned heads;
        unsigned whole;
} asked;

static void read_sent(const struct client *client) {
        size_t at = 0, len = client->sent.len;
        const char *data = client->sent.data;

        asked.heads = asked.whole = 0;
        while (at < len) {
                struct http_request request;
                struct http_refusal refusal;
                struct http_body body;
                size_t n;
                char *rest;

                at += http_skip_empty_lines(data + at, len - at);
                if (at == len || http_parse_request(&request, data + at, len - at, 0, &refusal) != HTTP_WHOLE)
                        return;
                asked.is_head[asked.heads++] = request.is_head;
                at += request.len;
                n = len - at;
                rest = malloc(n + 1);
                expect(rest);
                memcpy(rest, data + at, n);
                http_body_of_request(&body, &request);
                if (!body.done && http_body_take(&body, rest, &n) < 0)
                        n = len - at;
                else if (body.kind == HTTP_BODY_NONE)
                        n = 0;
                free(rest);
                at += n;
                if (!body.done)
                        return;
                asked.whole++;
        }
}

/* What it has heard. */
static struct {
        unsigned answers;               /* with their heads */
        bool cut;                       /* the last one is not whole */
        bool tunnel;
        bool keeps_alive;               /* the last one says that the connection goes on */
} heard;

static void read_received(const struct client *client) {
        size_t at = 0, len = client->received.len;
        char *data = client->received.data;

        heard.answers = 0;
        heard.cut = heard.tunnel = false;
        heard.keeps_alive = true;
        while (at < len && !heard.tunnel) {
                bool is_head = heard.answers < asked.heads && asked.is_head[heard.answers];
                struct http_answer answer;
                struct http_refusal refusal;
                struct http_body body;
                size_t n;
                enum http_parsed parsed = http_parse_answer(&answer, data + at, len - at, 0, &refusal);

                expect(parsed != HTTP_REFUSED);
                heard.cut = parsed == HTTP_PARTIAL;
                if (heard.cut)
                        return;
                at += answer.len;
                heard.tunnel = answer.status == 101;
                if (answer.status < 200)
                        continue;
                heard.answers++;
                heard.keeps_alive = answer.keep_alive;
                http_body_of_answer(&body, &answer, is_head);
                n = body.done ? 0 : len - at;
                expect(http_body_take(&body, data + at, &n) >= 0);
                at += n;
                heard.keeps_alive &= body.kind != HTTP_BODY_CLOSE;
                heard.cut = !body.done && !http_body_end(&body);
                expect(body.done || at == len);
        }
}

/* `settled`: all that can be answered has been. */
static void judge(struct client *client, bool settled) {
        struct client copy = *client;

        if (client->fd < 0)
                return;
        copy.received = (struct bytes){ 0 };
        if (client->received.len > 0)
                add(&copy.received, client->received.data, client->received.len);
        read_sent(client);
        read_received(&copy);
        clear(&copy.received);
        /* One more: that a part of a request is refused. */
        expect(heard.answers <= asked.whole + 1);
        if (heard.tunnel || client->may_be_lost || client->shut || !settled)
                return;
        if (client->ended)
                expect(heard.cut || !heard.keeps_alive);
        else
                expect(!heard.cut && heard.answers == asked.whole);
}

/* The daemon is replaced. */

static void note_losses(void) {
        for (unsigned i = 0; i < CLIENTS_MAX; i++)
                clients[i].may_be_lost |= world_may_lose(&world, clients[i].fd, clients[i].cookie);
}

static void restart(void) {
        if (restarts == RESTARTS_MAX || !world_leave(&world))
                return;
        restarts++;
        note_losses();
        world_replace(&world, false);
}

static void kill_it(void) {
        if (!world.keeper || restarts++ == RESTARTS_MAX)
                return;
        world_park_all(&world);
        note_losses();
        world_replace(&world, true);
}

/* What happens. */

static void happen(uint8_t what, struct input *input) {
        struct client *client = &clients[current];

        if (world_happen(&world, what, input))
                return;
        switch (what) {
        case '0' ... '0' + CLIENTS_MAX - 1:
                current = what - '0';
                come(&clients[current]);
                break;
        case 'P':
                for (unsigned i = 0; i < 200; i++) {
                        static const char large[4096] = "large";

                        world_part(&world, world_run(&world, 0), large, sizeof(large));
                }
                break;
        case 'e':
                world.infer_error = -ENOMEM;
                break;
        case 'w':
                shut(client);
                break;
        case 'c':
                go(client);
                break;
        case 'd':
                (void)receive(client, 1 + input_byte(input));
                break;
        case 'D':
                while (receive(client, SIZE_MAX))
                        ;
                break;
        case 'R':
                restart();
                break;
        case 'K':
                kill_it();
                break;
        }
}

/* Every client reads all, and has sent all. */
static void drain(void) {
        bool more;

        do {
                more = false;
                world_settle(&world);
                for (unsigned i = 0; i < CLIENTS_MAX; i++) {
                        size_t left = clients[i].pending.len;

                        send_pending(&clients[i]);
                        more |= clients[i].pending.len < left;
                        more |= receive(&clients[i], SIZE_MAX);
                }
        } while (more);
}

/* The model is ready, or failed, and answers all. */
static void answer_all(void) {
        drain();
        world_load_ends(&world, true);
        (void)world_happen(&world, 'r', &(struct input){ 0 });
        (void)world_happen(&world, 'B', &(struct input){ 0 });
        /* What was put off. */
        world_clock += 100 * NSEC_PER_SEC;
        drain();
        while (world.runs_count > 0) {
                world_answer(&world, world_run(&world, 0));
                drain();
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        const unsigned descriptors = world_descriptors();
        uint8_t limits;

        if (size > INPUT_MAX)
                return 0;
        world_clock = 100 * NSEC_PER_SEC;
        limits = input_byte(&input);
        world = (struct world){
                .limits = {
                        .max_waiting = limits & 1 ? 2 : 1000000,
                        .max_prompt = MAX_BODY,
                        .max_body = MAX_BODY,
                        .max_prompt_memory = limits & 2 ? 400 : 1000000,
                        .timeout = limits & 8 ? 5 * NSEC_PER_SEC : 0,
                },
                .max_inflight = limits & 4 ? 1 : 0,
                .http_group = {
                        .stream_keepalive = limits & 16 ? NSEC_PER_SEC : 0,
                        .json_keepalive = limits & 128 ? NSEC_PER_SEC : 0,
                },
                .keeper = limits & 32 ? &world_keeper : NULL,
                .parking_limit = { .max = limits & 64 ? 200 : 1000000 },
                .look = look,
        };
        restarts = 0;
        current = 0;
        for (unsigned i = 0; i < CLIENTS_MAX; i++)
                clients[i] = (struct client){ .fd = -1 };
        world_init(&world);
        come(&clients[0]);

        while (input.len > 0) {
                uint8_t byte = input_byte(&input);
                struct client *client = &clients[current];

                if (byte != 0xff) {
                        if (!client->shut && client->fd >= 0)
                                add(&client->pending, &byte, 1);
                        continue;
                }
                send_pending(client);
                happen(input_byte(&input), &input);
        }

        answer_all();
        if (gate_state(&world.stop) == GATE_PENDING)
                for (unsigned i = 0; i < CLIENTS_MAX; i++)
                        judge(&clients[i], true);
        world_stop(&world);
        answer_all();
        expect(lane_is_idle(&world.lane, 0));
        expect(http_is_flushed(&world.http));
        for (unsigned i = 0; i < CLIENTS_MAX; i++)
                judge(&clients[i], false);
        for (unsigned i = 0; i < CLIENTS_MAX; i++)
                go(&clients[i]);
        world_settle(&world);
        expect(list_is_empty(&world.http.connections));
        world_end_fronts(&world);
        world_deinit(&world);
        for (unsigned i = 0; i < CLIENTS_MAX; i++) {
                clear(&clients[i].pending);
                clear(&clients[i].sent);
                clear(&clients[i].received);
        }
        expect(world_descriptors() == descriptors);
        return 0;
}
