/*
 * Lines of the protocol, in both directions: what is read of one is what it says, and written again it is read the same.
 */

#include "common/protocol.h"
#include "common/util.h"
#include "tests/fuzz/fuzz.h"

static bool is_within(const char *part, size_t part_len, const char *whole, size_t len) {
        return part >= whole && part_len <= len && (size_t)(part - whole) <= len - part_len;
}

static void read_command(const char *line, size_t len) {
        char written[PROTOCOL_HEAD_MAX];
        struct protocol_command command, again;
        size_t n;
        int r = protocol_parse_command(line, len, &command);

        expect(r == 0 || r == PROTOCOL_MALFORMED);
        if (command.id) {
                expect(is_within(command.id, command.id_len, line, len));
                expect(protocol_id_valid(command.id, command.id_len));
        }
        if (r == PROTOCOL_MALFORMED) {
                expect(command.fault && *command.fault);
                return;
        }
        expect(command.verb < PROTOCOL_VERB_COUNT);
        expect((command.verb == PROTOCOL_REQUEST || command.verb == PROTOCOL_STREAM) == (command.id != NULL));
        expect(command.verb != PROTOCOL_STREAM || command.has_prompt);
        n = protocol_format_command(written, command.verb, command.id, command.id_len, command.has_prompt, command.length);
        expect(n > 0 && n <= sizeof(written) && written[n - 1] == '\n');
        expect(protocol_parse_command(written, n - 1, &again) == 0);
        expect(again.verb == command.verb && again.has_prompt == command.has_prompt && again.length == command.length);
        expect(again.id_len == command.id_len && (!again.id || memcmp(again.id, command.id, again.id_len) == 0));
        /* There is one way to write it, but for zeros before the length, and what is larger than any number. */
        expect(command.has_prompt || (n - 1 == len && memcmp(written, line, len) == 0));
}

static void read_reply(const char *line, size_t len) {
        char written[PROTOCOL_HEAD_MAX];
        struct protocol_reply reply, again;
        size_t n;
        int r = protocol_parse_reply(line, len, &reply);

        expect(r == 0 || r == PROTOCOL_MALFORMED);
        if (r == PROTOCOL_MALFORMED)
                return;
        expect(is_within(reply.id, reply.id_len, line, len));
        if (reply.type == PROTOCOL_ERR) {
                expect(is_within(reply.code, reply.code_len, line, len));
                expect(is_within(reply.message, reply.message_len, line, len));
                return;
        }
        n = protocol_format_head(written, reply.type, reply.id, reply.id_len, reply.length);
        expect(n > 0 && n <= sizeof(written) && written[n - 1] == '\n');
        expect(protocol_parse_reply(written, n - 1, &again) == 0);
        expect(again.type == reply.type && again.length == reply.length && again.id_len == reply.id_len);
        expect(memcmp(again.id, reply.id, reply.id_len) == 0);
}

/* Whatever a backend says, it is one line, and upsets no terminal. */
static void write_error(struct input *input) {
        enum protocol_code code = input_byte(input) % PROTOCOL_CODE_COUNT;
        char written[PROTOCOL_ERROR_MAX], *id = input_text(input, '\n'), *message = input_text(input, '\0');
        size_t id_len = protocol_id_valid(id, strlen(id)) ? strlen(id) : 0;
        struct protocol_reply reply;
        size_t n;

        n = protocol_format_error(written, id, id_len, code, message);
        expect(n > 0 && n <= sizeof(written) && written[n - 1] == '\n');
        for (size_t i = 0; i < n - 1; i++)
                expect((unsigned char)written[i] >= 0x20 && written[i] != 0x7f);
        expect(protocol_parse_reply(written, n - 1, &reply) == 0);
        expect(reply.type == PROTOCOL_ERR && reply.id_len == (id_len > 0 ? id_len : strlen(PROTOCOL_NO_ID)));
        expect(reply.code_len == strlen(protocol_code_name(code)));
        expect(memcmp(reply.code, protocol_code_name(code), reply.code_len) == 0);
        expect(reply.message_len <= strlen(message));
        free(id);
        free(message);
}

/* First which of them, then the line. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };

        switch (input_byte(&input)) {
        case 'c':
                read_command((const char *)input.data, input.len);
                break;
        case 'r':
                read_reply((const char *)input.data, input.len);
                break;
        case 'e':
                write_error(&input);
                break;
        }
        return 0;
}
