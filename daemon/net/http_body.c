#include <errno.h>
#include <string.h>

#include "common/util.h"
#include "daemon/net/http.h"
#include "daemon/net/http_text.h"

/* So much of chunk sizes, extensions and trailers may come without a byte of the body. */
#define OVERHEAD_MAX 65536

/* What a chunked body is taken out of its framing with, for as long as that takes. */
struct taking {
        struct http_body *body;
        char *to;
        const char *overhead_from;      /* from here on there was nothing of the body */
};

static bool count_overhead(struct taking *taking, const char *end) {
        taking->body->left += (uint64_t)(end - taking->overhead_from);
        taking->overhead_from = end;
        return taking->body->left <= OVERHEAD_MAX;
}

static int on_chunk(llhttp_t *parser) {
        return parser->content_length > HTTP_LENGTH_MAX ? HPE_USER : 0;
}

static int on_data(llhttp_t *parser, const char *at, size_t len) {
        struct taking *taking = parser->data;

        if (!count_overhead(taking, at))
                return HPE_USER;
        if (taking->to != at)
                memmove(taking->to, at, len);
        taking->to += len;
        taking->overhead_from = at + len;
        taking->body->left = 0;
        return 0;
}

/* The name of a trailer, which may come in pieces. */
static int on_name(llhttp_t *parser, const char *at, size_t len) {
        struct taking *taking = parser->data;

        /* The head that the parser begins with has a name, too. */
        if (taking && len > 0)
                taking->body->has_name = true;
        (void)at;
        return 0;
}

/* llhttp takes an empty one. */
static int on_name_end(llhttp_t *parser) {
        struct taking *taking = parser->data;

        if (taking && !taking->body->has_name)
                return HPE_USER;
        if (taking)
                taking->body->has_name = false;
        return 0;
}

static int on_end(llhttp_t *parser) {
        (void)parser;
        return HPE_PAUSED;
}

static const llhttp_settings_t body_settings = {
        .on_chunk_header = on_chunk,
        .on_body = on_data,
        .on_header_field = on_name,
        .on_header_field_complete = on_name_end,
        .on_message_complete = on_end,
};

static void start_chunked(struct http_body *body) {
        static const char head[] = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";

        body->kind = HTTP_BODY_CHUNKED;
        llhttp_init(&body->parser, HTTP_REQUEST, &body_settings);
        (void)llhttp_execute(&body->parser, head, sizeof(head) - 1);
}

static void start_length(struct http_body *body, uint64_t length) {
        body->kind = HTTP_BODY_LENGTH;
        body->left = length;
        body->done = length == 0;
}

void http_body_of_request(struct http_body *body, const struct http_request *request) {
        *body = (struct http_body){ .kind = HTTP_BODY_NONE };
        if (request->chunked)
                start_chunked(body);
        else if (request->content_length != HTTP_LENGTH_UNKNOWN)
                start_length(body, request->content_length);
        else
                body->done = true;
}

void http_body_of_answer(struct http_body *body, const struct http_answer *answer, bool to_head) {
        *body = (struct http_body){ .kind = HTTP_BODY_NONE };
        if (to_head || answer->status < 200 || answer->status == 204 || answer->status == 304)
                body->done = true;
        else if (answer->chunked)
                start_chunked(body);
        else if (answer->content_length != HTTP_LENGTH_UNKNOWN)
                start_length(body, answer->content_length);
        else
                body->kind = HTTP_BODY_CLOSE;
}

static ssize_t take_chunked(struct http_body *body, char *data, size_t *len) {
        struct taking taking = { .body = body, .to = data, .overhead_from = data };
        const char *end = data + *len;
        llhttp_errno_t error;

        if (*len == 0)
                return 0;
        body->parser.data = &taking;
        error = llhttp_execute(&body->parser, data, *len);
        body->parser.data = NULL;
        if (error == HPE_PAUSED)
                end = llhttp_get_error_pos(&body->parser);
        else if (error != HPE_OK)
                return -EBADMSG;
        if (!count_overhead(&taking, end))
                return -EBADMSG;
        if (error == HPE_PAUSED) {
                /* llhttp takes a bare LF for the empty line behind the trailers. */
                if ((end - data > 1 ? end[-2] : body->last) != '\r')
                        return -EBADMSG;
                body->done = true;
        }
        body->last = end[-1];
        *len = (size_t)(end - data);
        return taking.to - data;
}

ssize_t http_body_take(struct http_body *body, char *data, size_t *len) {
        if (body->done) {
                *len = 0;
                return 0;
        }
        switch (body->kind) {
        case HTTP_BODY_LENGTH:
                *len = (size_t)MIN(body->left, (uint64_t)*len);
                body->left -= *len;
                body->done = body->left == 0;
                return (ssize_t)*len;
        case HTTP_BODY_CHUNKED:
                return take_chunked(body, data, len);
        default:
                return (ssize_t)*len;
        }
}

bool http_body_end(struct http_body *body) {
        if (body->kind == HTTP_BODY_CLOSE)
                body->done = true;
        return body->done;
}

size_t http_chunk_head(char to[static HTTP_CHUNK_HEAD_MAX], uint64_t len) {
        static const char hex[] = "0123456789abcdef";
        char digits[16];
        size_t n = sizeof(digits);
        char *p;

        do
                digits[--n] = hex[len % 16];
        while ((len /= 16) > 0);
        p = http_put(to, digits + n, sizeof(digits) - n);
        p = HTTP_PUT(p, "\r\n");
        return (size_t)(p - to);
}
