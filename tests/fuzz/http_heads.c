/*
 * Heads of requests and of answers: what is taken goes on as one message, of which two other parsers say the same: llhttp
 * alone, without what msd asks of a head besides, and http-parser.
 */

#include "common/util.h"
#include "daemon/net/http.h"
#include "tests/fuzz/reference.h"

/* The choices of an input. */
enum {
        CHOICE_ANSWER = 1,
        CHOICE_TO_HEAD = 2,
        CHOICE_PREFIX = 4,
        CHOICE_HOST = 8,
        CHOICE_DROPPED = 16,
};

/* --- llhttp, alone. */

struct reading {
        llhttp_t parser;
        struct transcript transcript;
        bool to_head;
};

static struct reading *reading_of(llhttp_t *parser) {
        return container_of(parser, struct reading, parser);
}

static int on_url(llhttp_t *parser, const char *at, size_t len) {
        struct transcript *transcript = &reading_of(parser)->transcript;
        const char *method = llhttp_method_name((llhttp_method_t)parser->method);

        transcript_add(transcript, method, strlen(method));
        transcript_add(transcript, " ", 1);
        transcript_add(transcript, at, len);
        transcript_add(transcript, "\n", 1);
        return 0;
}

static void begin_answer(llhttp_t *parser, const char *reason, size_t len) {
        struct transcript *transcript = &reading_of(parser)->transcript;
        char status[16];

        if (transcript->len > 0)
                return;
        snprintf(status, sizeof(status), "%u ", parser->status_code);
        transcript_add(transcript, status, strlen(status));
        transcript_add(transcript, reason, len);
        transcript_add(transcript, "\n", 1);
}

static int on_status(llhttp_t *parser, const char *at, size_t len) {
        begin_answer(parser, at, len);
        return 0;
}

static int on_name(llhttp_t *parser, const char *at, size_t len) {
        begin_answer(parser, "", 0);
        transcript_add_name(&reading_of(parser)->transcript, at, len);
        return 0;
}

static int on_value(llhttp_t *parser, const char *at, size_t len) {
        transcript_add_value(&reading_of(parser)->transcript, at, len);
        return 0;
}

static int on_head(llhttp_t *parser) {
        begin_answer(parser, "", 0);
        transcript_end_head(&reading_of(parser)->transcript);
        return reading_of(parser)->to_head;
}

static int on_body(llhttp_t *parser, const char *at, size_t len) {
        transcript_add(&reading_of(parser)->transcript, at, len);
        return 0;
}

static int on_end(llhttp_t *parser) {
        reading_of(parser)->transcript.is_complete = true;
        return parser->upgrade ? 0 : HPE_PAUSED;
}

/* Returns how much of it the message is, or -1. */
static ssize_t read_alone(struct transcript *transcript, bool is_answer, bool to_head, const char *data, size_t len) {
        static const llhttp_settings_t settings = {
                .on_url = on_url,
                .on_status = on_status,
                .on_header_field = on_name,
                .on_header_value = on_value,
                .on_headers_complete = on_head,
                .on_body = on_body,
                .on_message_complete = on_end,
        };
        struct reading reading = { .to_head = to_head };
        llhttp_errno_t error;

        llhttp_init(&reading.parser, is_answer ? HTTP_RESPONSE : HTTP_REQUEST, &settings);
        error = llhttp_execute(&reading.parser, data, len);
        if (error == HPE_OK)
                (void)llhttp_finish(&reading.parser);
        *transcript = reading.transcript;
        if (error == HPE_PAUSED || error == HPE_PAUSED_UPGRADE)
                return llhttp_get_error_pos(&reading.parser) - data;
        return error == HPE_OK ? (ssize_t)len : -1;
}

/* --- What is to be seen of a message that went on. */

static void add_text(struct transcript *transcript, const char *text) {
        transcript_add(transcript, text, strlen(text));
}

static void add_field(struct transcript *transcript, const struct http_field *field) {
        transcript_add_name(transcript, field->name, field->name_len);
        transcript_add_value(transcript, field->value, field->value_len);
        transcript_end_field(transcript);
}

static void add_length(struct transcript *transcript, uint64_t length) {
        char text[64];

        snprintf(text, sizeof(text), "Content-Length:%llu\n", (unsigned long long)length);
        add_text(transcript, text);
}

/* http-parser takes a field for Transfer-Encoding whose name only begins so. */
static bool is_mistaken(const char *text) {
        static const char name[] = "\nTransfer-Encoding";

        while ((text = strcasestr(text, name))) {
                text += sizeof(name) - 1;
                if (*text != ':')
                        return true;
        }
        return false;
}

/* The message is what is expected of it, whole, and nothing else, for both. */
static void compare(const struct transcript *expected, bool is_answer, bool to_head, const char *text, size_t len) {
        struct transcript alone;
        struct reference reference;

        expect(read_alone(&alone, is_answer, to_head, text, len) == (ssize_t)len);
        expect(alone.is_complete);
        expect(alone.len == expected->len && memcmp(alone.text, expected->text, alone.len) == 0);
        free(alone.text);
        if (is_mistaken(expected->text))
                return;
        reference_read(&reference, is_answer, to_head, text, len);
        expect(reference.transcript.is_complete && reference.consumed == (ssize_t)len);
        expect(reference.transcript.len == expected->len);
        expect(memcmp(reference.transcript.text, expected->text, expected->len) == 0);
        free(reference.transcript.text);
}

static bool is_end_to_end(const char *head, uint32_t fields_at, bool has_options, bool is_upgrade,
                          const struct http_field *field) {
        return (is_upgrade && http_field_is(field, "Upgrade")) || !http_is_hop_by_hop(head, fields_at, has_options, field);
}

/* llhttp finds the same fields in the head as it came. */
static void check_fields(bool is_answer, const char *head, uint32_t fields_at, size_t len) {
        struct transcript alone, fields = { 0 };
        struct http_field field;
        const char *found;

        (void)read_alone(&alone, is_answer, true, head, len);
        expect(alone.text);
        found = memchr(alone.text, '\n', alone.len);
        expect(found);
        found++;
        while (http_next_field(head, &fields_at, &field))
                add_field(&fields, &field);
        expect(fields_at == len - 2);
        transcript_end_head(&fields);
        expect((size_t)(alone.text + alone.len - found) == fields.len && memcmp(found, fields.text, fields.len) == 0);
        free(alone.text);
        free(fields.text);
}

static void pass_request(const struct http_request *request, const char *head, uint8_t choice) {
        const struct http_forwarding forwarding = {
                .prefix = choice & CHOICE_PREFIX ? "/prefix" : "",
                .host = choice & CHOICE_HOST ? "model:8080" : NULL,
                .content_length = request->content_length != HTTP_LENGTH_UNKNOWN ? request->content_length % 1000
                                  : request->chunked                             ? 17
                                                                                 : HTTP_LENGTH_UNKNOWN,
                .drops_accept_encoding = choice & CHOICE_DROPPED,
        };
        size_t max = http_forward_request_max(request, &forwarding), len;
        size_t body_len = forwarding.content_length != HTTP_LENGTH_UNKNOWN ? forwarding.content_length : 0;
        char *text = malloc(max);
        struct transcript expected = { 0 };
        struct http_field field;
        uint32_t at = request->fields_at;

        expect(text);
        len = http_forward_request(text, request, head, &forwarding);
        expect(len <= max);
        text = realloc(text, len + body_len);
        expect(text);
        memset(text + len, '\n', body_len);

        transcript_add(&expected, head, request->method_len);
        add_text(&expected, " ");
        if (request->target.len == 0 || head[request->target.at] != '*')
                add_text(&expected, forwarding.prefix);
        if (request->target.len == 0 || head[request->target.at] == '?')
                add_text(&expected, "/");
        transcript_add(&expected, head + request->target.at, request->target.len);
        add_text(&expected, "\nHost:");
        if (forwarding.host)
                add_text(&expected, forwarding.host);
        else
                transcript_add(&expected, head + request->host.at, request->host.len);
        add_text(&expected, "\n");
        while (http_next_field(head, &at, &field))
                if (is_end_to_end(head, request->fields_at, request->has_options, request->is_upgrade, &field) &&
                    !http_field_is(&field, "Host") && !http_field_is(&field, "Expect") &&
                    !(forwarding.drops_accept_encoding && http_field_is(&field, "Accept-Encoding")))
                        add_field(&expected, &field);
        add_text(&expected, request->is_http_1_0 ? "Via:1.0 msd\n" : "Via:1.1 msd\n");
        if (request->is_upgrade)
                add_text(&expected, "Connection:Upgrade\n");
        if (forwarding.content_length != HTTP_LENGTH_UNKNOWN)
                add_length(&expected, forwarding.content_length);
        add_text(&expected, "\n");
        transcript_add(&expected, text + len, body_len);
        compare(&expected, false, false, text, len + body_len);
        free(expected.text);
        free(text);
}

/* How the body of the answer goes on. */
static enum http_framing framing_of(const struct http_answer *answer, bool to_head) {
        struct http_body body;

        http_body_of_answer(&body, answer, to_head);
        switch (body.kind) {
        case HTTP_BODY_LENGTH:
                return HTTP_FRAMING_LENGTH;
        case HTTP_BODY_CHUNKED:
                return HTTP_FRAMING_CHUNKED;
        case HTTP_BODY_CLOSE:
                return HTTP_FRAMING_CLOSE;
        default:
                return to_head && answer->status >= 200 && answer->status != 204 ? HTTP_FRAMING_LENGTH : HTTP_FRAMING_NONE;
        }
}

static void pass_answer(struct http_answer *answer, const char *head, uint8_t choice) {
        static const char body[1000] = "\nHTTP/1.1 200 OK", chunks[] = "3\r\nabc\r\n0\r\n\r\n";
        static const char extra[] = "X-Request-Id: 7\r\n";
        bool to_head = choice & CHOICE_TO_HEAD;
        const struct http_answering answering = {
                .framing = framing_of(answer, to_head),
                .close = choice & CHOICE_HOST,
                .keep_alive = choice & CHOICE_PREFIX,
                .dropped = choice & CHOICE_DROPPED ? "x-request-id" : NULL,
                .extra = choice & CHOICE_DROPPED ? extra : NULL,
                .extra_len = choice & CHOICE_DROPPED ? sizeof(extra) - 1 : 0,
        };
        const char *end = body, *said = body;
        size_t max, len, end_len = 0, said_len = 0;
        struct transcript expected = { 0 };
        struct http_field field;
        uint32_t at = answer->fields_at;
        char *text, status[16];

        if (answering.framing == HTTP_FRAMING_LENGTH && answer->content_length != HTTP_LENGTH_UNKNOWN)
                answer->content_length %= sizeof(body);
        if (answering.framing == HTTP_FRAMING_CHUNKED) {
                end = chunks;
                end_len = sizeof(chunks) - 1;
                said = "abc";
                said_len = 3;
        } else if (answering.framing == HTTP_FRAMING_CLOSE)
                end_len = said_len = 10;
        else if (answering.framing == HTTP_FRAMING_LENGTH && !to_head)
                end_len = said_len = answer->content_length;

        max = http_forward_answer_max(answer, answering.extra_len);
        text = malloc(max);
        expect(text);
        len = http_forward_answer(text, answer, head, &answering);
        expect(len <= max);
        text = realloc(text, len + end_len);
        expect(text);
        memcpy(text + len, end, end_len);

        snprintf(status, sizeof(status), "%u ", answer->status);
        add_text(&expected, status);
        transcript_add(&expected, head + answer->reason.at, answer->reason.len);
        add_text(&expected, "\n");
        while (http_next_field(head, &at, &field))
                if (is_end_to_end(head, answer->fields_at, answer->has_options, answer->is_upgrade, &field) &&
                    !(answering.dropped && http_field_is(&field, answering.dropped)))
                        add_field(&expected, &field);
        if (answering.extra)
                add_text(&expected, "X-Request-Id:7\n");
        if (answering.framing == HTTP_FRAMING_CHUNKED)
                add_text(&expected, "Transfer-Encoding:chunked\n");
        if (answering.framing == HTTP_FRAMING_LENGTH && answer->content_length != HTTP_LENGTH_UNKNOWN)
                add_length(&expected, answer->content_length);
        if (answer->is_upgrade)
                add_text(&expected, "Connection:Upgrade\n");
        else if (answering.close || answering.framing == HTTP_FRAMING_CLOSE)
                add_text(&expected, "Connection:close\n");
        else if (answering.keep_alive)
                add_text(&expected, "Connection:keep-alive\n");
        add_text(&expected, "\n");
        transcript_add(&expected, said, said_len);
        compare(&expected, true, to_head, text, len + end_len);
        free(expected.text);
        free(text);
}

/* As it comes in pieces of `step` bytes, each in memory of its own. */
static enum http_parsed parse_in_pieces(bool is_answer, const uint8_t *data, size_t size, size_t step, size_t *len) {
        enum http_parsed parsed = HTTP_PARTIAL;
        struct http_request request;
        struct http_answer answer;
        struct http_refusal refusal;
        size_t seen = 0, cut = 0;

        while (parsed == HTTP_PARTIAL) {
                char *copy = malloc(cut > 0 ? cut : 1);

                expect(copy);
                memcpy(copy, data, cut);
                parsed = is_answer ? http_parse_answer(&answer, copy, cut, seen, &refusal)
                                   : http_parse_request(&request, copy, cut, seen, &refusal);
                free(copy);
                if (cut == size)
                        break;
                seen = cut;
                cut = MIN(size, cut + step);
        }
        if (parsed == HTTP_WHOLE)
                *len = is_answer ? answer.len : request.len;
        return parsed;
}

/* First the choices, and the size of pieces; then the head, and what is behind it. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        uint8_t choice = input_byte(&input);
        size_t step = 1u + input_byte(&input), len = 0;
        bool is_answer = choice & CHOICE_ANSWER;
        const char *head = (const char *)input.data;
        struct http_request request;
        struct http_answer answer;
        struct http_refusal refusal = { 0 };
        enum http_parsed parsed;

        if (input.len == 0)
                return 0;
        parsed = is_answer ? http_parse_answer(&answer, head, input.len, 0, &refusal)
                           : http_parse_request(&request, head, input.len, 0, &refusal);
        expect(parse_in_pieces(is_answer, input.data, input.len, step, &len) == parsed);
        if (parsed == HTTP_REFUSED) {
                expect(refusal.status >= 400 && refusal.status <= 505 && *refusal.message);
                return 0;
        }
        if (parsed == HTTP_PARTIAL)
                return 0;
        expect(len == (is_answer ? answer.len : request.len) && len <= input.len);
        check_fields(is_answer, head, is_answer ? answer.fields_at : request.fields_at, len);
        if (is_answer)
                pass_answer(&answer, head, choice);
        else
                pass_request(&request, head, choice);
        return 0;
}
