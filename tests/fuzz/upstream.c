/*
 * What a model server sends, in any cuts: to a prompt, to one that wants a stream, to an exchange, and in a tunnel. Each
 * request is sent once, and ends in one way, the same however the answer is cut. What stands behind an answer is never taken
 * for the answer to the next request.
 *
 * The server is the other end of a socket pair, which takes the place of each connection.
 */

#include "daemon/model/upstream_session.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/util.h"
#include "daemon/model/generation.h"
#include "tests/fuzz/fuzz.h"

/* The first byte of the input. */
enum {
        KIND = 3,
        KIND_PROMPT = 0,
        KIND_STREAM = 1,
        KIND_POST = 2,
        KIND_OTHER = 3,         /* HEAD, or an upgrade */
        IS_UPGRADE = 4,
        BREAKS = 8,             /* the connection is reset, not closed */
        RESENT = 16,
        ONCE = 32,              /* it may not be sent again */
        HAS_OPTIONS = 64,
        PAUSES = 128,
};

static struct reactor reactor;
static struct socket_group *sockets;
static struct model_session *session;

static int peers[2];            /* the server's ends, in the order of the connections */
static unsigned peer_count;

int __wrap_socket(int domain, int type, int protocol);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t len);

int __wrap_socket(int domain, int type, int protocol) {
        int fds[2];

        (void)protocol;
        expect(domain == AF_UNIX && peer_count < ARRAY_SIZE(peers));
        expect(socketpair(AF_UNIX, type, 0, fds) == 0);
        peers[peer_count++] = fds[1];
        return fds[0];
}

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t len) {
        (void)fd;
        (void)address;
        (void)len;
        return 0;
}

/* A request, and what came of it. */
struct outcome {
        struct recipient recipient;
        struct inference *inference;
        struct exchange exchange;
        struct http_request request;
        char *data;                     /* the heads, and the parts */
        size_t len;
        char end[1200];                 /* how it ended, and the last words */
        unsigned heads;
        unsigned status;
        unsigned ends;
        enum ending how;
        bool pauses;
        bool is_paused;
};

static struct outcome *outcome_of(struct recipient *recipient) {
        return container_of(recipient, struct outcome, recipient);
}

static void note(struct outcome *outcome, const char *data, size_t len) {
        expect(outcome->ends == 0);
        if (len == 0)
                return;
        outcome->data = realloc(outcome->data, outcome->len + len);
        expect(outcome->data);
        memcpy(outcome->data + outcome->len, data, len);
        outcome->len += len;
}

static const struct exchange *on_exchange(struct recipient *recipient, struct inference *inference) {
        expect(inference->is_exchange);
        return &outcome_of(recipient)->exchange;
}

static void on_head(struct recipient *recipient, struct inference *inference, const struct answer_head *head) {
        struct outcome *outcome = outcome_of(recipient);

        expect(inference == outcome->inference && inference->is_exchange);
        expect(outcome->status < 200 && outcome->status != 101);
        expect(head->answer->status >= 100 && head->answer->status <= 999);
        expect(memcmp(head->bytes + head->answer->len - 4, "\r\n\r\n", 4) == 0);
        outcome->status = head->answer->status;
        outcome->heads++;
        note(outcome, head->bytes, head->answer->len);
}

static void on_part(struct recipient *recipient, struct inference *inference, const char *data, size_t len) {
        struct outcome *outcome = outcome_of(recipient);

        expect(inference == outcome->inference && len > 0 && !outcome->is_paused);
        expect(inference->is_exchange ? outcome->status >= 200 || outcome->status == 101 : inference->stream);
        note(outcome, data, len);
        if (!outcome->pauses)
                return;
        outcome->pauses = false;
        /* More events of a stream may have come with this one. */
        outcome->is_paused = inference->is_exchange;
        upstream_pause(session, inference, true);
}

static void on_sent(struct recipient *recipient, struct inference *inference) {
        (void)recipient;
        (void)inference;
        expect(false);
}

static const struct answer_ops answer_ops = { .exchange = on_exchange, .head = on_head, .part = on_part, .sent = on_sent };

static void on_ended(struct session_events *events, struct inference *inference, const struct answer_end *end) {
        struct outcome *outcome = outcome_of(inference->recipient);

        (void)events;
        expect(inference == outcome->inference && outcome->ends++ == 0);
        outcome->how = end->how;
        outcome->end[0] = (char)('0' + end->how);
        memcpy(outcome->end + 1, end->text, MIN(end->len, sizeof(outcome->end) - 2));
        switch (end->how) {
        case ENDING_COMPLETE:
                expect(!inference->is_exchange || outcome->status >= 200 || outcome->status == 101);
                expect(end->len == 0 || !(inference->stream || inference->is_exchange));
                break;
        case ENDING_FAILED:
                expect(strlen(end->text) == end->len && end->len > 0);
                break;
        default:
                expect(end->how != ENDING_UNAVAILABLE || (inference->repeats && !inference->resent));
                expect(outcome->heads == 0 && outcome->len == 0);
                expect(strlen(end->text) == end->len && end->len > 0);
        }
}

static void on_room(struct session_events *events) {
        (void)events;
        expect(false);
}

static struct session_events events = { on_ended, on_room };

static void stop_run(struct job *job) {
        (void)job;
        reactor_stop(&reactor);
}

/* Two turns: what has come is read, and what follows from that is done. */
static void turn(void) {
        for (unsigned i = 0; i < 2; i++) {
                struct job stop;

                job_init(&stop, stop_run);
                reactor_queue(&reactor, &stop);
                reactor.stopped = false;
                expect(reactor_run(&reactor) == 0);
        }
}

static void outcome_init(struct outcome *outcome, uint8_t how) {
        static const char text[] = "7prompt", body[] = "body";
        static const char *const heads[] = {
                "POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Type: text/x\r\n\r\n",
                "HEAD /v1/x HTTP/1.1\r\nHost: h\r\n\r\n",
                "GET /v1/x HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        };
        const char *head = heads[(how & KIND) != KIND_OTHER ? 0 : how & IS_UPGRADE ? 2 : 1];
        struct inference *inference = calloc(1, sizeof(*inference) + sizeof(text));
        struct http_refusal refusal;

        expect(inference);
        *outcome = (struct outcome){ .recipient = { &answer_ops }, .inference = inference, .pauses = how & PAUSES };
        inference->recipient = &outcome->recipient;
        inference->id_len = 1;
        inference->prompt_len = sizeof(text) - 2;
        inference->has_prompt = true;
        inference->is_exchange = (how & KIND) >= KIND_POST;
        inference->stream = (how & KIND) == KIND_STREAM;
        inference->resent = how & RESENT;
        inference->repeats = !(how & ONCE);
        memcpy(inference->text, text, sizeof(text) - 1);
        expect(http_parse_request(&outcome->request, head, strlen(head), 0, &refusal) == HTTP_WHOLE);
        outcome->exchange = (struct exchange){ .request = &outcome->request, .head = head, .body_len = HTTP_LENGTH_UNKNOWN };
        if ((how & KIND) == KIND_POST) {
                outcome->exchange.body = body;
                outcome->exchange.body_len = sizeof(body) - 1;
        }
}

static void outcome_deinit(struct outcome *outcome) {
        free(outcome->inference);
        free(outcome->data);
}

/* The request has come, once. */
static void expect_request(int peer, uint8_t how) {
        static const char version[] = " HTTP/1.1\r\n";
        static const char *const starts[] = { "POST /v1/completions", "POST /v1/completions", "POST /v1/x" };
        const char *start = (how & KIND) != KIND_OTHER ? starts[how & KIND] : how & IS_UPGRADE ? "GET /v1/x" : "HEAD /v1/x";
        char request[4096];
        ssize_t n = recv(peer, request, sizeof(request) - 1, MSG_DONTWAIT);
        const char *found;

        expect(n > 0);
        request[n] = '\0';
        found = strstr(request, version);
        expect(found && (size_t)(found - request) == strlen(start) && strncmp(request, start, strlen(start)) == 0);
        expect(!strstr(found + 1, version));
}

static void server_send(struct outcome *outcome, const uint8_t *data, size_t len, const uint8_t *cuts, size_t cuts_len) {
        for (size_t at = 0, i = 0; at < len; i++) {
                size_t n = cuts_len > 0 ? cuts[i % cuts_len] : len;

                n = MIN(MAX(n, (size_t)1), len - at);
                (void)!send(peers[0], data + at, n, MSG_NOSIGNAL | MSG_DONTWAIT);
                at += n;
                turn();
                if (outcome->ends > 0)
                        continue;
                outcome->is_paused = false;
                upstream_pause(session, outcome->inference, false);
                turn();
        }
}

/* What the server sent before is no answer to this one. */
static void run_another(void) {
        static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond";
        struct outcome outcome;

        outcome_init(&outcome, KIND_POST);
        expect(upstream_infer(session, outcome.inference) == 0);
        turn();
        if (outcome.ends == 0) {
                expect(send(peers[peer_count - 1], answer, sizeof(answer) - 1, MSG_NOSIGNAL) == sizeof(answer) - 1);
                turn();
        }
        expect(outcome.ends == 1 && outcome.how == ENDING_COMPLETE);
        expect(outcome.len >= 6 && memcmp(outcome.data + outcome.len - 6, "second", 6) == 0 && outcome.heads == 1);
        outcome_deinit(&outcome);
}

enum fate { ENDS, CANCELLED, FREED };

static void run(struct outcome *outcome, uint8_t how, const struct input *answer, const uint8_t *cuts, size_t cuts_len,
                enum fate fate) {
        static const struct target target = { .base = "http://localhost", .socket = "s" };
        const struct upstream_session_options options = {
                .target = &target,
                .completion_path = "/v1/completions",
                .completion_options = how & HAS_OPTIONS ? "{\"temperature\":0}" : NULL,
                .max_tokens = how & HAS_OPTIONS ? 7 : 0,
        };
        const struct session_place place = { &reactor, sockets, &events };
        static struct generation generation = { .number = 1, .model = "model" };
        struct model model = { NULL };

        generation.address.ss_family = AF_UNIX;
        generation.address_len = sizeof(struct sockaddr_un);
        peer_count = 0;
        outcome_init(outcome, how);
        expect(upstream_session_new(&options, &model, &place, &session) == 0);
        upstream_session_follow(session, &generation);
        expect(upstream_infer(session, outcome->inference) == 0);
        turn();
        expect(peer_count == 1);
        if (!(how & BREAKS))
                expect_request(peers[0], how);
        server_send(outcome, answer->data, answer->len, cuts, cuts_len);
        if (fate == CANCELLED && outcome->ends == 0) {
                upstream_cancel(session, outcome->inference);
                turn();
                expect(outcome->ends == 0);
        }
        if (fate == ENDS) {
                if (outcome->ends == 1 && !(how & BREAKS))
                        run_another();
                close(peers[0]);
                peers[0] = -1;
                turn();
                expect(outcome->ends == 1);
        }
        upstream_session_free(session);
        for (unsigned i = 0; i < peer_count; i++)
                if (peers[i] >= 0)
                        close(peers[i]);
}

static void init(void) {
        if (sockets)
                return;
        sockets = calloc(1, sizeof(*sockets));
        expect(sockets && reactor_init(&reactor) == 0);
        socket_group_init(sockets, &reactor);
}

/* How; the lengths of what the answer is cut into, up to a zero; the answer. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        struct outcome whole, cut;
        const uint8_t *cuts, *end;
        size_t cuts_len;
        uint8_t how;

        if (size < 2 || size > 65536)
                return 0;
        init();
        how = input_byte(&input);
        cuts = input.data;
        end = memchr(input.data, '\0', input.len);
        cuts_len = end ? (size_t)(end - input.data) : 0;
        input.data += cuts_len + (end != NULL);
        input.len -= cuts_len + (end != NULL);

        run(&cut, how, &input, cuts, cuts_len, ENDS);
        run(&whole, how, &input, cuts, 0, ENDS);
        expect(whole.how == cut.how && whole.heads == cut.heads && whole.status == cut.status);
        /* What was read together with malformed framing is not delivered; and of several faults of a head any is named. */
        expect(MIN(whole.len, cut.len) == 0 || memcmp(whole.data, cut.data, MIN(whole.len, cut.len)) == 0);
        expect(whole.how == ENDING_FAILED || (whole.len == cut.len && strcmp(whole.end, cut.end) == 0));
        outcome_deinit(&whole);
        outcome_deinit(&cut);
        run(&cut, how, &input, cuts, cuts_len, CANCELLED);
        outcome_deinit(&cut);
        run(&cut, how, &input, cuts, cuts_len, FREED);
        outcome_deinit(&cut);
        return 0;
}
