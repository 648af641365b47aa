#include "tests/soak/script.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/protocol.h"
#include "common/util.h"

static const char *const faults[FAULT_COUNT] = {
        [FAULT_STATUS] = "status 500", [FAULT_GARBAGE] = "garbage", [FAULT_CUT] = "cut",
        [FAULT_DIE] = "die",           [FAULT_HANG] = "hang",
};

static const char chat_before[] = "{\"model\":\"any\",\"stream\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"";
static const char chat_after[] = "\"}]}";
static const char completion_before[] = "{\"model\":\"any\",\"stream\":%s,\"prompt\":\"";
static const char completion_after[] = "\"}";

void script_init(struct script *script, uint64_t serial, bool echoes) {
        *script = (struct script){ .serial = serial, .echoes = echoes };
}

void script_deinit(struct script *script) {
        free(script->bytes);
        free(script->commands);
        *script = (struct script){ 0 };
}

static char *space(struct script *script, size_t n) {
        if (script->size - script->len < n) {
                script->size = MAX(script->size * 2, script->len + n);
                script->bytes = realloc(script->bytes, script->size);
                if (!script->bytes)
                        abort();
        }
        return script->bytes + script->len;
}

static void say(struct script *script, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct script *script, const char *format, ...) {
        va_list arguments;
        int n;

        va_start(arguments, format);
        n = vsnprintf(space(script, 1024), 1024, format, arguments);
        va_end(arguments);
        script->len += (size_t)n;
}

/* Letters that the serial, the command and the place in it decide. */
static char prompt_byte(const struct script *script, size_t command, size_t i) {
        return (char)('a' + (script->serial * 7 + command * 3 + i * 5 + (i >> 6)) % 26);
}

static void say_prompt(struct script *script, uint32_t prompt) {
        char *p = space(script, prompt);

        for (uint32_t i = 0; i < prompt; i++)
                p[i] = prompt_byte(script, script->count, i);
        script->len += prompt;
}

static void add(struct script *script, struct command command) {
        if (script->count == script->room) {
                script->room = MAX(script->room * 2, (size_t)16);
                script->commands = realloc(script->commands, script->room * sizeof(*script->commands));
                if (!script->commands)
                        abort();
        }
        command.end = script->len;
        script->commands[script->count++] = command;
}

void script_request(struct script *script, uint32_t prompt, bool stream, enum fault fault) {
        struct command command = {
                .kind = prompt != SCRIPT_NO_PROMPT && prompt > SCRIPT_PROMPT_MAX ? COMMAND_REFUSED : COMMAND_REQUEST,
                .prompt = prompt,
                .fault = fault,
                .stream = stream,
        };

        say(script, "%s %" PRIu64 "-%zu", stream ? "STREAM" : "REQUEST", script->serial, script->count);
        if (fault != FAULT_NONE)
                say(script, " %zu\n%s", strlen(faults[fault]), faults[fault]);
        else if (prompt != SCRIPT_NO_PROMPT) {
                say(script, " %" PRIu32 "\n", prompt);
                say_prompt(script, prompt);
        }
        say(script, "\n");
        add(script, command);
}

void script_other(struct script *script, const char *line) {
        say(script, "%s\n", line);
        add(script, (struct command){ .kind = COMMAND_OTHER });
}

void script_wrong(struct script *script, struct chance *chance) {
        static const char *const lines[] = {
                "", "\r", "request 1", "REQUEST", "REQUEST -", "REQUEST x -1", "STATUS now", "GET / HTTP/1.1", "\x01\x02\xff",
                "REQUEST x 18446744073709551616 0", "STREAM x", "REQUEST x 3\nabcdef",
        };

        if (chance_is(chance, 10)) {
                size_t n = chance_between(chance, LINE_MAX_LENGTH + 1, 8 * LINE_MAX_LENGTH);

                memset(space(script, n), 'x', n);
                script->len += n;
                script_other(script, "");
        } else
                script_other(script, lines[chance_between(chance, 0, ARRAY_SIZE(lines) - 1)]);
}

/* The body of a post: of the format "%s" is not there. */
static size_t body_len(const struct post *post) {
        const size_t quoted = post->fault != FAULT_NONE ? strlen(faults[post->fault]) : post->prompt;

        return strlen(post->chat ? chat_before : completion_before) - 2 + strlen(post->stream ? "true" : "false") +
               strlen(post->chat ? chat_after : completion_after) + quoted;
}

static void say_body(struct script *script, const struct post *post) {
        const char *yes = post->stream ? "true" : "false";

        /* One of the two, which the compiler does not see. */
        if (post->chat)
                say(script, chat_before, yes);
        else
                say(script, completion_before, yes);
        if (post->fault != FAULT_NONE)
                say(script, "%s", faults[post->fault]);
        else
                say_prompt(script, post->prompt);
        say(script, "%s", post->chat ? chat_after : completion_after);
}

/* The same in chunks of any length, some with extensions, and with a trailer. */
static void say_chunks(struct script *script, struct chance *chance, const struct post *post) {
        const size_t begin = script->len;
        size_t len, taken = 0;
        char *body;

        say_body(script, post);
        len = script->len - begin;
        body = malloc(len);
        if (!body)
                abort();
        memcpy(body, script->bytes + begin, len);
        script->len = begin;
        while (taken < len) {
                size_t n = MIN(chance_between(chance, 1, chance_is(chance, 20) ? 20000 : MAX(len / 4, (size_t)1)), len - taken);

                say(script, "%zx%s\r\n", n, chance_is(chance, 10) ? ";a=b" : "");
                memcpy(space(script, n), body + taken, n);
                script->len += n;
                taken += n;
                say(script, "\r\n");
        }
        say(script, "0\r\n%s\r\n", chance_is(chance, 10) ? "X-Trailer: any\r\n" : "");
        free(body);
}

bool script_post(struct script *script, struct chance *chance, const struct post *post) {
        const bool is_old = post->form == FORM_OLD || post->form == FORM_OLD_KEPT;
        const size_t len = body_len(post);
        const bool refused = len > SCRIPT_PROMPT_MAX;
        struct command command = {
                .kind = refused ? COMMAND_REFUSED : COMMAND_REQUEST,
                .prompt = post->prompt,
                .fault = post->fault,
                .stream = post->stream,
                .chat = post->chat,
                .status = refused ? 413 : 0,
                .ends = refused || post->form == FORM_OLD,
        };

        say(script, "POST %s HTTP/1.%d\r\nHost: soak\r\nX-Request-Id: %" PRIu64 "-%zu\r\n",
            post->chat ? "/v1/chat/completions" : "/v1/completions", is_old ? 0 : 1, script->serial, script->count);
        say(script, "Content-Type: application/json\r\n");
        if (post->form == FORM_OLD_KEPT)
                say(script, "Connection: keep-alive\r\n");
        if (post->form == FORM_CHUNKED) {
                say(script, "Transfer-Encoding: chunked\r\n\r\n");
                say_chunks(script, chance, post);
        } else {
                say(script, "Content-Length: %zu\r\n\r\n", len);
                say_body(script, post);
        }
        add(script, command);
        return !command.ends;
}

void script_switch(struct script *script, uint32_t bytes) {
        say(script, "GET /v1/realtime HTTP/1.1\r\nHost: soak\r\nX-Request-Id: %" PRIu64 "-%zu\r\n", script->serial, script->count);
        say(script, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
        add(script, (struct command){ .kind = COMMAND_REQUEST, .switches = true });
        say_prompt(script, bytes);
        add(script, (struct command){ .kind = COMMAND_OTHER, .prompt = bytes });
}

bool script_take_back(struct script *script, size_t command, const char *data, size_t len) {
        struct command *taken = &script->commands[command];

        for (size_t i = 0; i < len; i++, taken->received++)
                if (taken->received >= taken->prompt || data[i] != prompt_byte(script, command, taken->received))
                        return false;
        return true;
}

void script_get(struct script *script, struct chance *chance) {
        static const struct {
                const char *path;
                uint16_t status;
        } paths[] = {
                { "/health", 0 },       { "/-/ready", 0 },     { "/-/wait", 0 },   { "/-/live", 200 },
                { "/-/status", 200 }, { "/-/metrics", 200 }, { "/-/none", 404 },
        };
        size_t i = chance_between(chance, 0, ARRAY_SIZE(paths) - 1);

        say(script, "GET %s HTTP/1.1\r\nHost: soak\r\n\r\n", paths[i].path);
        add(script, (struct command){ .kind = COMMAND_OTHER, .status = paths[i].status });
}

void script_post_wrong(struct script *script) {
        say(script, "POST /v1/completions HTTP/1.1\r\nHost: so ak\r\nContent-Length: 2\r\n\r\n{}");
        add(script, (struct command){ .kind = COMMAND_OTHER, .status = 400, .ends = true });
}

void script_cut(struct script *script, size_t count) {
        script->count = count;
        script->len = count > 0 ? script->commands[count - 1].end : 0;
}

/* What a request without a fault is answered with: of the text that is there its length, or of an echo. */
#define ANSWER_HEAD_MAX 96
static size_t answer_head(const struct script *script, size_t command, char head[static ANSWER_HEAD_MAX]) {
        if (script->echoes)
                return (size_t)snprintf(head, ANSWER_HEAD_MAX, "echo ");
        return (size_t)snprintf(head, ANSWER_HEAD_MAX, "Response %" PRIu64 "-%zu from sim", script->serial, command);
}

bool script_take(struct script *script, size_t command, const char *data, size_t len) {
        struct command *taken = &script->commands[command];
        char head[ANSWER_HEAD_MAX];
        size_t head_len = answer_head(script, command, head);

        for (size_t i = 0; i < len; i++, taken->received++) {
                size_t at = taken->received;

                if (at < head_len ? data[i] != head[at] :
                                    !script->echoes || at - head_len >= taken->prompt ||
                                            data[i] != prompt_byte(script, command, at - head_len))
                        return false;
        }
        return true;
}

bool script_is_whole(const struct script *script, size_t command) {
        char head[ANSWER_HEAD_MAX];
        size_t len = answer_head(script, command, head);

        return script->commands[command].received == len + (script->echoes ? script->commands[command].prompt : 0);
}

long script_find(const struct script *script, const char *id, size_t len) {
        char text[PROTOCOL_ID_MAX + 1], *end;
        uint64_t serial;
        unsigned long command;

        if (len >= sizeof(text))
                return -1;
        memcpy(text, id, len);
        text[len] = '\0';
        serial = strtoull(text, &end, 10);
        if (end == text || *end != '-' || serial != script->serial)
                return -1;
        id = end + 1;
        command = strtoul(id, &end, 10);
        return end == id || *end != '\0' || command >= script->count ? -1 : (long)command;
}
