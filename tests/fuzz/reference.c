#include "tests/fuzz/reference.h"

#include <http_parser.h>

struct reading {
        http_parser parser;
        struct transcript *transcript;
        bool to_head;
        bool is_head_over;
};

static struct transcript *transcript_of(http_parser *parser) {
        return ((struct reading *)parser->data)->transcript;
}

static int on_url(http_parser *parser, const char *at, size_t len) {
        struct transcript *transcript = transcript_of(parser);

        if (transcript->len == 0) {
                const char *method = http_method_str((enum http_method)parser->method);

                transcript_add(transcript, method, strlen(method));
                transcript_add(transcript, " ", 1);
        }
        transcript_add(transcript, at, len);
        return 0;
}

static void begin_answer(http_parser *parser) {
        char status[16];

        if (parser->type == HTTP_RESPONSE && transcript_of(parser)->len == 0) {
                snprintf(status, sizeof(status), "%u ", parser->status_code);
                transcript_add(transcript_of(parser), status, strlen(status));
        }
}

static int on_status(http_parser *parser, const char *at, size_t len) {
        begin_answer(parser);
        transcript_add(transcript_of(parser), at, len);
        return 0;
}

static void end_line(http_parser *parser) {
        struct transcript *transcript = transcript_of(parser);

        begin_answer(parser);
        if (!memchr(transcript->text, '\n', transcript->len))
                transcript_add(transcript, "\n", 1);
}

static int on_name(http_parser *parser, const char *at, size_t len) {
        /* Trailers are no fields of the message. */
        if (((struct reading *)parser->data)->is_head_over)
                return 0;
        end_line(parser);
        transcript_add_name(transcript_of(parser), at, len);
        return 0;
}

static int on_value(http_parser *parser, const char *at, size_t len) {
        if (!((struct reading *)parser->data)->is_head_over)
                transcript_add_value(transcript_of(parser), at, len);
        return 0;
}

static int on_head(http_parser *parser) {
        struct reading *reading = parser->data;

        end_line(parser);
        transcript_end_head(transcript_of(parser));
        reading->is_head_over = true;
        return reading->to_head;
}

static int on_body(http_parser *parser, const char *at, size_t len) {
        transcript_add(transcript_of(parser), at, len);
        return 0;
}

static int on_end(http_parser *parser) {
        transcript_of(parser)->is_complete = true;
        http_parser_pause(parser, 1);
        return 0;
}

void reference_read(struct reference *reference, bool is_answer, bool to_head, const char *data, size_t len) {
        static const http_parser_settings settings = {
                .on_url = on_url,
                .on_status = on_status,
                .on_header_field = on_name,
                .on_header_value = on_value,
                .on_headers_complete = on_head,
                .on_body = on_body,
                .on_message_complete = on_end,
        };
        struct reading reading = { .transcript = &reference->transcript, .to_head = to_head };
        size_t n;

        *reference = (struct reference){ 0 };
        http_parser_init(&reading.parser, is_answer ? HTTP_RESPONSE : HTTP_REQUEST);
        reading.parser.data = &reading;
        n = http_parser_execute(&reading.parser, &settings, data, len);
        reference->consumed = (ssize_t)n;
        if (HTTP_PARSER_ERRNO(&reading.parser) == HPE_OK && !reference->transcript.is_complete)
                (void)http_parser_execute(&reading.parser, &settings, NULL, 0);
        if (HTTP_PARSER_ERRNO(&reading.parser) != HPE_OK && !reference->transcript.is_complete)
                reference->consumed = -1;
}
