/*
 * Whole connections of the HTTP front: what clients send, in any cuts, while all else happens that may (see happen()). What
 * goes on to the model is one well-formed request, whatever came; every request that came whole is answered, and nothing is
 * left of what has gone. libmicrohttpd reads HTTP; what is made of it is ours.
 *
 * The input is what clients send; a byte 0xff tells that something else happens, and what.
 */

#include "daemon/front/http.h"

#include <errno.h>
#include <sys/socket.h>

#include "common/util.h"
#include "daemon/front/fields.h"
#include "tests/fuzz/world.h"

#define CLIENTS_MAX 3
#define INPUT_MAX 8192
#define MAX_BODY 300

struct client {
        int fd;                 /* -1: it has gone, or has not come yet */
        bool came;
        char *pending;          /* still to be sent */
        size_t pending_len;
        char *received;
        size_t received_len;
        bool asked_head;        /* then its answers cannot be told apart */
        bool ended;
};

static struct world world;
static struct http http;
static struct http_group group;
static struct client clients[CLIENTS_MAX];
static unsigned current;

static void ended(struct http *h) {
        expect(h == &http);
}

/* What goes on to the model: nobody behind msd reads another request than msd did. */
static void look(const struct exchange *exchange) {
        unsigned hosts = 0, vias = 0;

        expect(fields_is_token(exchange->method));
        expect(strcmp(exchange->method, "CONNECT") != 0 && strcmp(exchange->method, "TRACE") != 0);
        expect(*exchange->target == '/');
        for (const unsigned char *p = (const unsigned char *)exchange->target; *p; p++)
                expect(*p > 0x20 && *p != 0x7f && *p != '#');
        expect(exchange->body_len <= MAX_BODY && (exchange->body || exchange->body_len == 0));
        for (size_t i = 0; i < exchange->field_count; i++) {
                const char *field = exchange->fields[i];
                size_t len = strcspn(field, ":;");
                char *name = strndup(field, len);

                expect(name && field[len] && fields_is_token(name));
                expect(field[len] == ';' ? field[len + 1] == '\0' : field[len + 1] == ' ' && field[len + 2]);
                for (const unsigned char *p = (const unsigned char *)field; *p; p++)
                        expect((*p >= 0x20 || *p == '\t') && *p != 0x7f);
                expect(!fields_is_hop_by_hop(name) && strcasecmp(name, "Expect") != 0);
                hosts += strcasecmp(name, "Host") == 0;
                vias += strcmp(field, "Via: 1.1 msd") == 0 || strcmp(field, "Via: 1.0 msd") == 0;
                free(name);
        }
        expect(hosts <= 1 && vias >= 1);
}

/* The clients. */

static void come(struct client *client) {
        const int size = 4608;
        int pair[2];

        if (client->came)
                return;
        client->came = true;
        expect(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
        /* So that little is unread when it is blocked. */
        expect(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) == 0);
        client->fd = pair[1];
        expect(http_connection_new(&http, pair[0]) == 0);
}

static void add_pending(struct client *client, uint8_t byte) {
        if (client->fd < 0)
                return;
        client->pending = realloc(client->pending, client->pending_len + 1);
        expect(client->pending);
        client->pending[client->pending_len++] = (char)byte;
}

static void send_pending(struct client *client) {
        ssize_t n;

        if (client->fd < 0 || client->pending_len == 0)
                return;
        client->asked_head |= memmem(client->pending, client->pending_len, "HEAD", 4) != NULL;
        n = send(client->fd, client->pending, client->pending_len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n <= 0)
                return;
        memmove(client->pending, client->pending + n, client->pending_len - (size_t)n);
        client->pending_len -= (size_t)n;
}

static bool receive(struct client *client, size_t max) {
        char buffer[4096];
        ssize_t n;

        if (client->fd < 0 || client->ended)
                return false;
        n = recv(client->fd, buffer, MIN(max, sizeof(buffer)), MSG_DONTWAIT);
        client->ended = n == 0 || (n < 0 && errno != EAGAIN);
        if (n <= 0)
                return false;
        client->received = realloc(client->received, client->received_len + (size_t)n + 1);
        expect(client->received);
        memcpy(client->received + client->received_len, buffer, (size_t)n);
        client->received_len += (size_t)n;
        client->received[client->received_len] = '\0';
        return true;
}

static void go(struct client *client) {
        if (client->fd >= 0)
                client->fd = util_close(client->fd);
        client->came = true;
}

static const char *field_of(const char *head, const char *name) {
        const char *found = strcasestr(head, name);

        return found ? found + strlen(name) : NULL;
}

/* Answers behind each other, of which the last may be cut short by the end of the connection. */
static void judge(struct client *client) {
        const char *at = client->received, *end;

        /* Of a request for a head there is no body. */
        if (!at || client->asked_head)
                return;
        end = at + client->received_len;
        while (at < end) {
                const char *body = memmem(at, (size_t)(end - at), "\r\n\r\n", 4), *length;
                unsigned status;
                char *head;

                if (!body) {
                        expect(client->ended);
                        return;
                }
                body += 4;
                head = strndup(at, (size_t)(body - at));
                expect(head && (sscanf(head, "HTTP/1.1 %3u ", &status) == 1 || sscanf(head, "HTTP/1.0 %3u ", &status) == 1));
                expect(status >= 100 && status < 600);
                at = body;
                length = field_of(head, "\r\nContent-Length: ");
                if (field_of(head, "\r\nContent-Type: text/html"))
                        /* libmicrohttpd's own refusals have their head twice, in 0.9.75. */
                        at = end;
                else if (field_of(head, "\r\nTransfer-Encoding: chunked"))
                        for (size_t n = 1; at < end && n > 0;) {
                                char *line;

                                n = strtoul(at, &line, 16);
                                at = line + 2 + n + 2;
                                expect(at <= end || client->ended);
                        }
                else if (length)
                        at += strtoul(length, NULL, 10);
                else if (status >= 200 && status != 204 && status != 304)
                        /* Up to the end of the connection. */
                        at = end;
                expect(at <= end || client->ended);
                free(head);
        }
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
                if (client->fd >= 0)
                        (void)shutdown(client->fd, SHUT_WR);
                break;
        case 'c':
                go(client);
                client->ended = true;
                break;
        case 'd':
                (void)receive(client, 1 + input_byte(input));
                break;
        case 'D':
                while (receive(client, SIZE_MAX))
                        ;
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
                        size_t left = clients[i].pending_len;

                        send_pending(&clients[i]);
                        more |= clients[i].pending_len < left;
                        more |= receive(&clients[i], SIZE_MAX);
                }
        } while (more);
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
                        .max_prompt_memory = limits & 2 ? 400 : 1000000,
                        .max_inflight = limits & 4 ? 1 : 0,
                        .timeout = limits & 8 ? 5 * NSEC_PER_SEC : 0,
                },
                .look = look,
        };
        group = (struct http_group){ .stream_keepalive = limits & 16 ? NSEC_PER_SEC : 0 };
        world_init(&world);
        expect(http_init(&http, &world.reactor, &world.queue, &world.status, &group, ended, ended) == 0);
        for (unsigned i = 0; i < CLIENTS_MAX; i++)
                clients[i] = (struct client){ .fd = -1 };
        current = 0;
        come(&clients[0]);

        while (input.len > 0) {
                uint8_t byte = input_byte(&input);

                if (byte != 0xff) {
                        add_pending(&clients[current], byte);
                        continue;
                }
                send_pending(&clients[current]);
                happen(input_byte(&input), &input);
        }

        drain();
        world_stop(&world);
        drain();
        while (world.runs_count > 0) {
                world_answer(&world, world_run(&world, 0));
                drain();
        }
        expect(request_queue_is_idle(&world.queue));
        expect(http_is_flushed(&http));
        for (unsigned i = 0; i < CLIENTS_MAX; i++)
                go(&clients[i]);
        world_settle(&world);
        http_deinit(&http);
        world_deinit(&world);
        for (unsigned i = 0; i < CLIENTS_MAX; i++) {
                judge(&clients[i]);
                free(clients[i].pending);
                free(clients[i].received);
        }
        expect(world_descriptors() == descriptors);
        return 0;
}
