/*
 * What an upstream answers, in any cuts: a completion, a stream of events, or an exchange that is passed on. It ends in one
 * way, whatever it says, and in the same way however it is cut; and no field of an answer's head is more than one.
 *
 * HTTP itself is libcurl's: what it makes of an answer, a status, lines and a body, is what the input says.
 */

#include "daemon/model/upstream_session.h"

#include <errno.h>

#include "common/util.h"
#include "tests/fuzz/fuzz.h"

/* In place of daemon/model/fetch: there is one at a time. */
static struct fetch *current;
static long current_status;

int fetcher_init(struct fetcher *fetcher, struct reactor *reactor, const struct target *target, uint64_t max) {
        (void)reactor;
        (void)target;
        (void)max;
        *fetcher = (struct fetcher){ 0 };
        return 0;
}

void fetcher_deinit(struct fetcher *fetcher) {
        (void)fetcher;
        expect(!current);
}

int fetch_start(struct fetch *fetch, struct fetcher *fetcher, const struct fetch_request *request) {
        (void)fetcher;
        expect(!current);
        expect(request->path && (request->body || request->body_len == 0));
        current = fetch;
        return 0;
}

void fetch_cancel(struct fetch *fetch) {
        if (current == fetch)
                current = NULL;
}

void fetch_pause(struct fetch *fetch, bool paused) {
        expect(fetch == current);
        (void)paused;
}

long fetch_status(const struct fetch *fetch) {
        return fetch == current ? current_status : 0;
}

/* What came of it. */

struct outcome {
        char *data;             /* the head, then the parts */
        size_t len;
        char end[1200];         /* how it ended, and its last words */
        unsigned heads;
        unsigned ends;
};

static struct outcome *outcome;
static bool is_exchange;

static void note(const char *data, size_t len) {
        expect(outcome->ends == 0);
        if (len == 0)
                return;
        outcome->data = realloc(outcome->data, outcome->len + len);
        expect(outcome->data);
        memcpy(outcome->data + outcome->len, data, len);
        outcome->len += len;
}

static void note_end(char how, const char *data, size_t len) {
        expect(outcome->ends++ == 0);
        outcome->end[0] = how;
        memcpy(outcome->end + 1, data, MIN(len, sizeof(outcome->end) - 2));
}

static const char *const sent_fields[] = { "Content-Type: text/x", "Empty;" };
static const struct exchange exchange = {
        .method = "POST",
        .target = "/v1/x",
        .fields = sent_fields,
        .field_count = ARRAY_SIZE(sent_fields),
        .body = "body",
        .body_len = 4,
};

static const struct exchange *on_exchange(struct inference_events *events, struct inference *inference) {
        (void)events;
        expect(inference->is_exchange);
        return &exchange;
}

static void expect_text(const char *text) {
        for (const unsigned char *p = (const unsigned char *)text; *p; p++)
                expect((*p >= 0x20 || *p == '\t') && *p != 0x7f);
}

static void on_head(struct inference_events *events, struct inference *inference, const struct answer_head *head) {
        char text[64];

        (void)events;
        expect(inference->is_exchange && outcome->heads++ == 0 && outcome->len == 0);
        expect(head->status >= 200 && head->status <= 999);
        note(text, (size_t)snprintf(text, sizeof(text), "%u %zu %llx\n", head->status, head->field_count,
                                    (unsigned long long)head->length));
        for (size_t i = 0; i < head->field_count; i++) {
                expect(*head->fields[i].name && !strchr(head->fields[i].name, ':'));
                expect_text(head->fields[i].value);
                note(head->fields[i].name, strlen(head->fields[i].name) + 1);
                note(head->fields[i].value, strlen(head->fields[i].value) + 1);
        }
}

static void on_part(struct inference_events *events, struct inference *inference, const char *data, size_t len) {
        (void)events;
        expect(inference->stream || outcome->heads == 1);
        note(data, len);
}

static void on_answered(struct inference_events *events, struct inference *inference, const char *data, size_t len) {
        (void)events;
        expect(!inference->is_exchange || outcome->heads == 1);
        expect(len == 0 || !(inference->stream || inference->is_exchange));
        note_end('A', data, len);
}

static void on_failed(struct inference_events *events, struct inference *inference, const char *reason) {
        (void)events;
        (void)inference;
        note_end('F', reason, strlen(reason));
}

/* What was delivered of is not asked for again. */
static void on_lost(struct inference_events *events, struct inference *inference, const char *reason) {
        (void)events;
        (void)inference;
        expect(outcome->len == 0 && outcome->heads == 0);
        note_end('L', reason, strlen(reason));
}

static struct inference_events events = {
        .exchange = on_exchange,
        .head = on_head,
        .part = on_part,
        .answered = on_answered,
        .failed = on_failed,
        .lost = on_lost,
};

/* How the answer comes. */
struct answer {
        long status;
        const uint8_t *head;            /* lines, each with its LF */
        size_t head_len;
        const uint8_t *body;
        size_t body_len;
        const uint8_t *cuts;            /* lengths; none: all at once */
        size_t cuts_len;
        bool breaks;                    /* the connection, at its end */
        bool cancelled;                 /* instead of its end */
};

static void finish(struct fetch *fetch, long status, const char *error) {
        /* As fetch.c does it: its memory is its own again when it is told. */
        fetch_cancel(fetch);
        fetch->done(fetch, status, error);
}

static void answer_it(const struct answer *answer) {
        struct fetch *fetch = current;
        size_t at = 0;

        current_status = answer->status;
        for (size_t i = 0; fetch->line && i < answer->head_len;) {
                const uint8_t *line = answer->head + i, *end = memchr(line, '\n', answer->head_len - i);
                size_t len = end ? (size_t)(end - line) : answer->head_len - i;

                i += len + 1;
                while (len > 0 && line[len - 1] == '\r')
                        len--;
                if (!fetch->line(fetch, (const char *)line, len)) {
                        finish(fetch, 0, "Failed writing header");
                        return;
                }
        }
        for (size_t i = 0; at < answer->body_len; i++) {
                size_t n = answer->cuts_len > 0 ? answer->cuts[i % answer->cuts_len] : answer->body_len;

                n = MIN(MAX(n, (size_t)1), answer->body_len - at);
                /* There is no body before there is a whole head. */
                if (is_exchange && outcome->heads == 0)
                        break;
                if (!fetch->data(fetch, (const char *)answer->body + at, n)) {
                        finish(fetch, 0, "Failed writing received data to disk/application");
                        return;
                }
                at += n;
        }
        if (!answer->cancelled)
                finish(fetch, answer->breaks ? 0 : answer->status, answer->breaks ? "The connection broke" : NULL);
}

static void run(struct outcome *to, uint8_t how, const struct answer *answer) {
        const struct target target = { .base = "http://localhost" };
        const struct upstream_session_options options = {
                .target = &target,
                .completion_path = "/v1/completions",
                .completion_options = how & 0x40 ? "{\"temperature\":0}" : NULL,
                .max_tokens = how & 0x40 ? 7 : 0,
        };
        static const char text[] = "7prompt";
        struct inference *inference = calloc(1, sizeof(*inference) + sizeof(text));
        struct model model = { NULL };
        struct model_session *session;
        int r;

        is_exchange = how % 3 == 2;
        expect(inference);
        inference->id_len = 1;
        inference->prompt_len = sizeof(text) - 2;
        inference->has_prompt = true;
        inference->is_exchange = is_exchange;
        inference->stream = how % 3 == 1;
        inference->resent = how & 0x20;
        memcpy(inference->text, text, sizeof(text) - 1);
        *to = (struct outcome){ 0 };
        outcome = to;
        expect(upstream_session_new(&options, &model, NULL, &events, &session) == 0);
        r = upstream_infer(session, "model", inference);
        expect(r == 0 && current);
        answer_it(answer);
        if (answer->cancelled && outcome->ends == 0) {
                upstream_cancel(session, inference);
                expect(outcome->ends == 0);
        } else
                expect(outcome->ends == 1);
        upstream_session_free(session);
        free(inference);
        expect(!current);
}

/* How; the status; the lengths of what it is cut into, up to a zero; lines of a head, up to an empty one; and the body. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const long statuses[] = { 200, 200, 200, 503, 500, 404, 204, 100, 302 };
        struct input input = { data, size };
        struct outcome whole, cut;
        struct answer answer;
        const uint8_t *end;
        uint8_t how;

        if (size < 3)
                return 0;
        how = input_byte(&input);
        answer = (struct answer){ .status = statuses[input_byte(&input) % ARRAY_SIZE(statuses)], .breaks = how & 0x80 };
        end = memchr(input.data, '\0', input.len);
        answer.cuts = input.data;
        answer.cuts_len = end ? (size_t)(end - input.data) : 0;
        input.data += answer.cuts_len + (end != NULL);
        input.len -= answer.cuts_len + (end != NULL);
        if (how % 3 == 2) {
                end = memmem(input.data, input.len, "\n\n", 2);
                answer.head = input.data;
                answer.head_len = end ? (size_t)(end - input.data) + 2 : input.len;
                input.data += answer.head_len;
                input.len -= answer.head_len;
        }
        answer.body = input.data;
        answer.body_len = input.len;

        run(&cut, how, &answer);
        answer.cuts_len = 0;
        run(&whole, how, &answer);
        expect(whole.len == cut.len && (whole.len == 0 || memcmp(whole.data, cut.data, whole.len) == 0));
        expect(strcmp(whole.end, cut.end) == 0 && whole.heads == cut.heads);
        free(whole.data);
        free(cut.data);
        answer.cancelled = true;
        run(&whole, how, &answer);
        free(whole.data);
        return 0;
}
