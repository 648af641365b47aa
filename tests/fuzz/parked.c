/*
 * What a successor is handed: descriptors that may be anything, and a log that may say anything. It takes over what makes
 * sense, and lets go of the rest; what it took over are connections as others are, and every descriptor is let go of.
 *
 * The input is the log, behind a few bytes that say what else there is. In its records the number of a connection is a
 * small one, which stands for the cookie of the connection that has that place.
 */

#include "daemon/front/parked.h"

#include <sys/mman.h>
#include <sys/socket.h>

#include "common/util.h"
#include "tests/fuzz/world.h"

#define CLIENTS_MAX 4

static struct world world;
static uint64_t cookies[CLIENTS_MAX];
static int clients[CLIENTS_MAX];

static void release(struct parking_keeper *keeper, const char *name) {
        (void)keeper;
        expect(strncmp(name, PARKING_NAME_PREFIX, strlen(PARKING_NAME_PREFIX)) == 0);
}

static int keep(struct parking_keeper *keeper, const char *name, const int *fds, unsigned n) {
        (void)keeper;
        (void)name;
        (void)fds;
        (void)n;
        return 0;
}

static bool has(struct parking_keeper *keeper, const char *name) {
        (void)keeper;
        (void)name;
        return true;
}

static struct parking_keeper keeper = { .keep = keep, .has = has, .release = release };

/* A descriptor, that of a connection or of something else; with the client's end of it. */
static int make_descriptor(uint8_t what, unsigned i) {
        socklen_t len = sizeof(cookies[i]);
        int pair[2];

        switch (what % 4) {
        case 0:
                return memfd_create("fuzz", MFD_CLOEXEC);
        case 1:
                expect(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
                break;
        default:
                expect(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
        }
        clients[i] = pair[1];
        expect(getsockopt(pair[0], SOL_SOCKET, SO_COOKIE, &cookies[i], &len) == 0);
        return pair[0];
}

/* Puts descriptors into the pair, as parking.c does. */
static void send_descriptors(int to, const int *fds, unsigned n, uint8_t byte) {
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * CLIENTS_MAX)];
        } control = { 0 };
        struct iovec iov = { &byte, sizeof(byte) };
        struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

        if (n > 0) {
                message.msg_control = &control;
                message.msg_controllen = CMSG_SPACE(sizeof(int) * n);
                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(sizeof(int) * n);
                memcpy(CMSG_DATA(&control.header), fds, sizeof(int) * n);
        }
        expect(sendmsg(to, &message, MSG_DONTWAIT) >= 0);
}

/* The log: as it is, or with a header that counts and records whose lengths and cookies make sense. */
static int make_log(struct input *input, bool sensible) {
        struct parking_header header = { .begin = PARKING_HEADER_SIZE };
        int log = memfd_create("fuzz-log", MFD_CLOEXEC);
        off_t at = PARKING_HEADER_SIZE;

        expect(log >= 0);
        if (!sensible) {
                expect(pwrite(log, input->data, input->len, 0) == (ssize_t)input->len);
                return log;
        }
        memcpy(header.magic, PARKING_MAGIC, sizeof(PARKING_MAGIC));
        expect(pwrite(log, &header, sizeof(header), 0) == sizeof(header));
        while (input->len > 0) {
                uint8_t which = input_byte(input), how = input_byte(input);
                struct parking_record record = {
                        .type = input_byte(input),
                        .flags = how & 3,
                        .cookie = cookies[which % CLIENTS_MAX],
                        .value = input_byte(input),
                };
                size_t len = MIN((size_t)input_byte(input), input->len);

                /* One that says that more follows than does. */
                record.len = (uint32_t)len + (how & 0x80 ? (uint32_t)how << 24 : 0);
                record.key = record.value % 4;
                if (how & 0x40)
                        record.value = UINT64_MAX - record.value;
                expect(pwrite(log, &record, sizeof(record), at) == sizeof(record));
                at += (off_t)sizeof(record);
                expect(pwrite(log, input->data, len, at) == (ssize_t)len);
                at += (off_t)len;
                input->data += len;
                input->len -= len;
        }
        return log;
}

static void check_replies(const char *data, size_t len) {
        for (size_t at = 0; at < len;) {
                const char *end = memchr(data + at, '\n', len - at);
                struct protocol_reply reply;

                expect(end && protocol_parse_reply(data + at, (size_t)(end - data) - at, &reply) == 0);
                at = (size_t)(end - data) + 1;
                if (reply.type != PROTOCOL_ERR) {
                        expect(reply.length < len - at);
                        at += reply.length + 1;
                }
        }
}

/* Answers of HTTP: as many heads as one likes; their framing is not looked at here. */
static void check_http(const char *data, size_t len) {
        struct http_answer answer;
        struct http_refusal refusal;

        expect(http_parse_answer(&answer, data, len, 0, &refusal) == HTTP_WHOLE);
}

/* What was taken over is a connection as others are: it hears what comes of it, and its end. */
static void read_client(int fd) {
        char buffer[4096], *data = NULL;
        size_t len = 0;
        ssize_t n;

        while ((n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0) {
                data = realloc(data, len + (size_t)n);
                expect(data);
                memcpy(data + len, buffer, (size_t)n);
                len += (size_t)n;
                world_settle(&world);
        }
        if (len >= 5 && memcmp(data, "HTTP/", 5) == 0)
                check_http(data, len);
        else
                check_replies(data, len);
        free(data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        const unsigned descriptors = world_descriptors();
        struct parked_list list = { 0 };
        int fds[CLIENTS_MAX], pair[2];
        uint8_t how, kinds, more;
        unsigned adopted = 0;

        how = input_byte(&input);
        kinds = input_byte(&input);
        world_clock = 100 * NSEC_PER_SEC;
        world = (struct world){
                .limits = { .max_waiting = how & 1 ? 2 : 1000, .max_prompt = 64, .max_body = 100, .max_prompt_memory = 1000 },
                .keeper = how & 2 ? &keeper : NULL,
                .parking_limit = { .max = 300 },
                .http_group = { .stream_keepalive = NSEC_PER_SEC },
        };
        world_init(&world);

        expect(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
        for (unsigned i = 0; i < CLIENTS_MAX; i++) {
                clients[i] = -1;
                cookies[i] = i;
                fds[i] = make_descriptor(kinds >> (2 * i) & 3, i);
                expect(fds[i] >= 0);
        }
        more = input_byte(&input);
        send_descriptors(pair[how >> 2 & 1], fds, 2, more);
        /* A message without descriptors, and one of which some came already. */
        if (how & 8)
                send_descriptors(pair[how >> 2 & 1], NULL, 0, input_byte(&input));
        send_descriptors(pair[how >> 4 & 1], fds + 1, 3, 0);
        for (unsigned i = 0; i < CLIENTS_MAX; i++)
                close(fds[i]);

        /* The third is a log; or there is none; or there are more than belong to it. */
        expect(parked_list_add(&list, "parked-1", pair[0]));
        expect(parked_list_add(&list, "parked-1", make_log(&input, how & 0x20)));
        if (how & 0x40)
                expect(parked_list_add(&list, "parked-1", make_log(&input, false)));
        expect(parked_list_add(&list, how & 0x80 ? "parked-2" : "parked-1", pair[1]));

        for (unsigned i = 0; i < list.count; i++)
                adopted += parked_adopt(&list.items[i], &world.front, more & 0x80 ? NULL : &world.http);
        expect(adopted <= CLIENTS_MAX);
        parked_list_deinit(&list);

        world_settle(&world);
        world_load_ends(&world, true);
        world_settle(&world);
        world_answer_all(&world);
        world_stop(&world);
        for (unsigned i = 0; i < CLIENTS_MAX; i++) {
                if (clients[i] >= 0)
                        (void)shutdown(clients[i], SHUT_WR);
                world_settle(&world);
                if (clients[i] >= 0)
                        read_client(clients[i]);
        }
        world_settle(&world);
        expect(list_is_empty(&world.front.connections) && list_is_empty(&world.http.connections));
        world_end_fronts(&world);
        world_deinit(&world);
        for (unsigned i = 0; i < CLIENTS_MAX; i++)
                clients[i] = util_close(clients[i]);
        expect(world_descriptors() == descriptors);
        return 0;
}
