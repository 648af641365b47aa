/*
 * Whole connections of the request socket: what clients send, in any cuts, while the load ends, fails and begins again,
 * inferences end in any way and order, clients go or do not read, the daemon stops, is restarted, or killed. Whatever it
 * is, every command of a client that stays has exactly one answer, and nothing is left of what has gone.
 *
 * The input is what clients send; a byte 0xff tells that something else happens (see happen(), and world_happen()), and what.
 */

#include <errno.h>
#include <sys/socket.h>

#include "common/util.h"
#include "tests/fuzz/world.h"

#define CLIENTS_MAX 4
#define INPUT_MAX 8192
#define MAX_PROMPT 64
#define RESTARTS_MAX 4

struct bytes {
        char *data;
        size_t len;
        size_t size;
};

struct client {
        int fd;                 /* -1: it has gone, or has not come yet */
        bool came;
        bool shut;              /* it will send nothing more */
        bool may_be_lost;       /* the daemon ended, and its successor could not take the connection over */
        uint64_t cookie;        /* of its connection */
        bool lost;
        struct bytes pending;   /* still to be sent */
        struct bytes sent;
        struct bytes received;
};

static struct world world;
static struct client clients[CLIENTS_MAX] = { { .fd = -1 }, { .fd = -1 }, { .fd = -1 }, { .fd = -1 } };
static unsigned current;
static unsigned restarts;

static void add(struct bytes *bytes, const void *data, size_t len) {
        if (bytes->size - bytes->len < len) {
                bytes->size = MAX(bytes->size * 2, bytes->len + len);
                bytes->data = realloc(bytes->data, bytes->size);
                expect(bytes->data);
        }
        memcpy(bytes->data + bytes->len, data, len);
        bytes->len += len;
}

static void clear(struct bytes *bytes) {
        free(bytes->data);
        *bytes = (struct bytes){ 0 };
}

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
        expect(connection_new(&world.front, pair[0]) == 0);
}

static void go(struct client *client) {
        if (client->fd >= 0)
                client->fd = util_close(client->fd);
        client->came = true;
}

static void shut(struct client *client) {
        if (client->fd >= 0)
                expect(shutdown(client->fd, SHUT_WR) == 0 || errno == ENOTCONN);
        client->shut = true;
        clear(&client->pending);
}

/* Reads what there is, of so many bytes. Returns whether there was any. */
static bool receive(struct client *client, size_t max) {
        char buffer[4096];
        ssize_t n;

        if (client->fd < 0 || client->lost)
                return false;
        n = recv(client->fd, buffer, MIN(max, sizeof(buffer)), MSG_DONTWAIT);
        if (n > 0)
                add(&client->received, buffer, (size_t)n);
        else if (n == 0 || errno != EAGAIN) {
                /* It is ended when it is over, or nobody can go on with it. */
                expect(client->may_be_lost || (client->shut && n == 0));
                client->lost = true;
        }
        return n > 0;
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

/* What they should have heard. */

struct hope {
        char id[PROTOCOL_ID_MAX + 1];
        int answers;            /* that are still due */
};

static struct {
        struct hope items[INPUT_MAX * 2];
        unsigned count;
} hopes;

static void hope_for(const char *id, size_t len, int n) {
        unsigned i;

        if (!id) {
                id = PROTOCOL_NO_ID;
                len = strlen(PROTOCOL_NO_ID);
        }
        for (i = 0; i < hopes.count; i++)
                if (strlen(hopes.items[i].id) == len && memcmp(hopes.items[i].id, id, len) == 0)
                        break;
        if (i == hopes.count) {
                expect(hopes.count < ARRAY_SIZE(hopes.items));
                hopes.items[hopes.count++] = (struct hope){ 0 };
                memcpy(hopes.items[i].id, id, len);
        }
        hopes.items[i].answers += n;
}

/* How long the line end at `at` is; 0: there is none; -1: it has not come. */
static int end_at(const char *data, size_t len, size_t at) {
        if (at >= len || (data[at] == '\r' && at + 1 == len))
                return -1;
        return data[at] == '\n' ? 1 : data[at] == '\r' && data[at + 1] == '\n' ? 2 : 0;
}

/* One answer for each command, as msd-protocol(7) has it; `ended`: no more will come. */
static void read_sent(const char *data, size_t len, bool is_end) {
        size_t at = 0;

        while (at < len) {
                struct protocol_command command;
                const char *line = data + at, *end = memchr(line, '\n', len - at);
                size_t n = end ? (size_t)(end - line) : len - at;
                bool skips;
                int r;

                if (n > 0 && line[n - 1] == '\r')
                        n--;
                if (n > LINE_MAX_LENGTH) {
                        hope_for(NULL, 0, 1);
                        at = end ? (size_t)(end - data) + 1 : len;
                        continue;
                }
                if (!end)
                        break;
                r = protocol_parse_command(line, n, &command);
                if (r != 0 || !command.has_prompt) {
                        hope_for(command.id, command.id_len, 1);
                        at = (size_t)(end - data) + 1;
                        continue;
                }
                skips = command.length > MAX_PROMPT;
                n = (size_t)(end - data) + 1;
                if (skips)
                        hope_for(command.id, command.id_len, 1);
                if (command.length > len - n) {
                        if (skips)
                                at = len;
                        break;
                }
                n += command.length;
                r = end_at(data, len, n);
                if (r < 0) {
                        if (skips)
                                at = n;
                        break;
                }
                if (!skips)
                        hope_for(command.id, command.id_len, 1);
                at = n + (size_t)r;
                if (r == 0) {
                        end = memchr(data + at, '\n', len - at);
                        at = end ? (size_t)(end - data) + 1 : len;
                }
        }
        /* The input ends within a command. */
        if (is_end && at < len)
                hope_for(NULL, 0, 1);
}

static void read_received(const char *data, size_t len) {
        size_t at = 0;

        while (at < len) {
                const char *end = memchr(data + at, '\n', len - at);
                struct protocol_reply reply;

                /* Nothing is sent in part, unless nobody can go on with it. */
                if (!end)
                        return;
                expect(protocol_parse_reply(data + at, (size_t)(end - data) - at, &reply) == 0);
                at = (size_t)(end - data) + 1;
                if (reply.type != PROTOCOL_ERR) {
                        if (reply.length >= len - at)
                                return;
                        at += reply.length;
                        expect(data[at] == '\n');
                        at++;
                }
                if (reply.type != PROTOCOL_PART)
                        hope_for(reply.id, reply.id_len, -1);
        }
}

static void judge(struct client *client) {
        if (client->fd < 0)
                return;
        hopes.count = 0;
        read_sent(client->sent.data, client->sent.len, true);
        read_received(client->received.data, client->received.len);
        for (unsigned i = 0; i < hopes.count; i++) {
                const struct hope *hope = &hopes.items[i];

                if (hope->answers < 0 || (hope->answers > 0 && !client->may_be_lost))
                        fprintf(stderr, "client %d, ID %s: answers that are missing: %d\n", (int)(client - clients), hope->id,
                                hope->answers);
                expect(client->may_be_lost ? hope->answers >= 0 : hope->answers == 0);
        }
}

/* What happens. */

static void happen(uint8_t what, struct input *input) {
        struct client *client = &clients[current];
        unsigned n;

        if (world_happen(&world, what, input))
                return;
        switch (what) {
        case '0' ... '0' + CLIENTS_MAX - 1:
                current = what - '0';
                come(&clients[current]);
                break;
        case 'e':
                world.infer_error = input_byte(input) % 2 ? -ENOMEM : -EILSEQ;
                break;
        case 'P':
                n = input_byte(input);
                for (unsigned i = 0; i < 200; i++) {
                        static const char large[4096] = "large";

                        world_part(&world, world_run(&world, n), large, sizeof(large));
                }
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
        /* They have read all: streams go on. */
        for (unsigned i = 0; i < world.runs_count; i++)
                expect(!world_run(&world, i)->paused);
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
                        .max_waiting = limits & 1 ? 3 : 1000000,
                        .max_prompt = MAX_PROMPT,
                        .max_prompt_memory = limits & 2 ? 100 : 1000000,
                        .timeout = limits & 8 ? 5 * NSEC_PER_SEC : 0,
                },
                .max_inflight = limits & 4 ? 2 : 0,
                .keeper = limits & 16 ? &world_keeper : NULL,
                .parking_limit = { .max = limits & 32 ? 50 : 1000000 },
        };
        restarts = 0;
        current = 0;
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

        /* All come to an end, in the order in which a daemon ends. */
        drain();
        world_stop(&world);
        drain();
        while (world.runs_count > 0) {
                world_answer(&world, world_run(&world, 0));
                drain();
        }
        expect(lane_is_idle(&world.lane, 0));
        for (unsigned i = 0; i < CLIENTS_MAX; i++)
                shut(&clients[i]);
        drain();
        for (unsigned i = 0; i < CLIENTS_MAX; i++)
                judge(&clients[i]);
        expect(list_is_empty(&world.front.connections));
        world_end_fronts(&world);
        world_deinit(&world);

        for (unsigned i = 0; i < CLIENTS_MAX; i++) {
                go(&clients[i]);
                clear(&clients[i].pending);
                clear(&clients[i].sent);
                clear(&clients[i].received);
                clients[i] = (struct client){ .fd = -1 };
        }
        expect(world_descriptors() == descriptors);
        return 0;
}
