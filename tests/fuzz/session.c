/*
 * What a daemon answers mscli, in any cuts: replies, or what is none, and then the end. However it is cut the same replies
 * come of it, and it ends in the same way.
 */

#include "client/session.h"

#include <sys/socket.h>

#include "common/util.h"
#include "tests/fuzz/fuzz.h"

/* What is to come, and how it is cut: lengths; none: all at once. */
static struct input answer;
static const uint8_t *cuts;
static size_t cuts_len, cuts_next;

ssize_t __wrap_recv(int fd, void *to, size_t len, int flags);
ssize_t __wrap_recv(int fd, void *to, size_t len, int flags) {
        size_t n = cuts_len > 0 ? cuts[cuts_next++ % cuts_len] : answer.len;

        (void)fd;
        (void)flags;
        n = MIN(MAX(n, (size_t)1), len);
        n = MIN(n, answer.len);
        if (n > 0)
                memcpy(to, answer.data, n);
        answer.data += n;
        answer.len -= n;
        return (ssize_t)n;
}

struct outcome {
        char *data;
        size_t len;
        int result;
        char fault[80];
};

struct reader {
        struct session_events events;
        struct outcome *outcome;
};

static void note(struct outcome *outcome, const char *data, size_t len) {
        outcome->data = realloc(outcome->data, outcome->len + len + 1);
        expect(outcome->data);
        if (len > 0)
                memcpy(outcome->data + outcome->len, data, len);
        outcome->data[outcome->len + len] = '\n';
        outcome->len += len + 1;
}

static size_t fill(struct session_events *events, char *buffer, size_t size) {
        (void)events;
        (void)buffer;
        (void)size;
        return 0;
}

static int pause_reading(struct session_events *events) {
        (void)events;
        return 0;
}

static int on_reply(struct session_events *events, const struct protocol_reply *reply, const char *body) {
        struct outcome *outcome = container_of(events, struct reader, events)->outcome;

        expect((reply->type == PROTOCOL_ERR) == (body == NULL));
        note(outcome, reply->id, reply->id_len);
        if (body)
                note(outcome, body, reply->length);
        else {
                note(outcome, reply->code, reply->code_len);
                note(outcome, reply->message, reply->message_len);
        }
        return 0;
}

static void run(struct outcome *outcome, struct input input) {
        static struct session session;
        struct reader reader = { .events = { .fill = fill, .reply = on_reply, .pause = pause_reading }, .outcome = outcome };
        int pair[2];

        *outcome = (struct outcome){ 0 };
        answer = input;
        cuts_next = 0;
        /* Its end is there at once, so that there always is something to be read. */
        expect(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
        close(pair[1]);
        session = (struct session)SESSION_NULL;
        expect(session_init(&session, pair[0], 0) == 0);
        outcome->result = session_run(&session, &reader.events);
        expect(outcome->result == SESSION_ENDED || outcome->result == SESSION_MALFORMED);
        if (outcome->result == SESSION_MALFORMED) {
                memcpy(outcome->fault, session.fault, sizeof(outcome->fault));
                expect(memchr(outcome->fault, '\0', sizeof(outcome->fault)));
                for (const char *p = outcome->fault; *p; p++)
                        expect(*p >= 0x20 && *p <= 0x7e);
        }
        session_deinit(&session);
}

/* The lengths of what it is cut into, up to a zero, and what comes. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        struct outcome whole, cut;
        const uint8_t *end = size > 0 ? memchr(data, '\0', size) : NULL;

        if (!end)
                return 0;
        cuts = data;
        cuts_len = (size_t)(end - data);
        input.data += cuts_len + 1;
        input.len -= cuts_len + 1;
        run(&cut, input);
        cuts_len = 0;
        run(&whole, input);
        expect(whole.result == cut.result);
        expect(whole.len == cut.len && (whole.len == 0 || memcmp(whole.data, cut.data, whole.len) == 0));
        free(whole.data);
        free(cut.data);
        return 0;
}
