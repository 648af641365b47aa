#include "daemon/net/http.h"

#include <string.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/net/http_text.h"

/* No method that is known is as long. What is longer, and no request yet, is none. */
#define METHOD_MAX 32

static const char unknown_method[] = "The method is not known; send one of HTTP's, such as GET or POST";

/* " HTTP/1.1" */
#define VERSION_LEN 9

bool http_is_token(const char *text, size_t len) {
        return len > 0 && http_are_chars(text, len, HTTP_CHAR_TOKEN);
}

/* --- The lines of a head. */

static enum http_parsed refuse(struct http_refusal *refusal, unsigned status, const char *message) {
        *refusal = (struct http_refusal){ status, message };
        return HTTP_REFUSED;
}

/*
 * Looks for the empty line, behind which `*end` is, and at how each line ends and begins. llhttp takes folded lines, and here
 * and there a bare LF. No head that passes here has either, and so it ends in the same place for every parser.
 */
static enum http_parsed find_end(const char *data, size_t len, size_t seen, size_t *end, struct http_refusal *refusal) {
        size_t limit = MIN(len, (size_t)HTTP_HEAD_MAX), at = seen > 2 ? seen - 2 : 0;
        const char *lf;

        while (at < limit && (lf = memchr(data + at, '\n', limit - at))) {
                at = (size_t)(lf - data) + 1;
                if (at < 2 || lf[-1] != '\r')
                        return refuse(refusal, 400, "A line of the head ends with LF alone; end each one with CR LF");
                if (at == limit)
                        break;
                switch (lf[1]) {
                case ' ':
                case '\t':
                        return refuse(refusal, 400, "A line begins with white space; write each field on one line");
                case ':':
                        return refuse(refusal, 400, "A field has an empty name; write a name before the colon");
                case '\r':
                        if (at + 1 == limit)
                                break;
                        if (lf[2] != '\n')
                                return refuse(refusal, 400, "A CR in the head has no LF after it; end each line with CR LF");
                        *end = at + 2;
                        return HTTP_WHOLE;
                default:
                        break;
                }
        }
        if (len < HTTP_HEAD_MAX)
                return HTTP_PARTIAL;
        return refuse(refusal, 431, "The head is over 65,536 bytes; send shorter fields, or fewer");
}

/* The two versions are all that there are: RTSP/1.0 and HTTP/2.0 are others. `text` has the eight bytes of one. */
static bool read_version(const char *text, bool *is_1_0) {
        if (memcmp(text, "HTTP/1.", 7) != 0 || (text[7] != '0' && text[7] != '1'))
                return false;
        *is_1_0 = text[7] == '0';
        return true;
}

/* --- The fields of a head, as llhttp finds them. */

/* Those that something is made of. */
enum field {
        FIELD_OTHER,
        FIELD_ACCEPT,
        FIELD_AUTHORIZATION,
        FIELD_CONNECTION,
        FIELD_CONTENT_LENGTH,
        FIELD_CONTENT_TYPE,
        FIELD_EXPECT,
        FIELD_HOST,
        FIELD_ID,
        FIELD_ORIGIN,
        FIELD_PREFLIGHT,
        FIELD_RETRY_AFTER,
        FIELD_TRANSFER_ENCODING,
        FIELD_UPGRADE,
};

/* A head while it is parsed. */
struct head {
        llhttp_t parser;
        const char *data;
        struct http_refusal *refusal;
        struct http_request *request;   /* of a request */
        struct http_answer *answer;     /* of an answer */
        enum field field;
        unsigned field_count;
        unsigned option_count;
        unsigned host_count;
        unsigned encoding_count;
        unsigned upgrade_count;
        uint64_t content_length;
        bool is_http_1_0 : 1;
        bool closes : 1;                /* Connection: close */
        bool keeps : 1;                 /* Connection: keep-alive */
        bool upgrades : 1;              /* Connection: upgrade */
        bool is_websocket : 1;          /* Upgrade: websocket */
        bool has_options : 1;
        bool has_preflight : 1;
};

static struct head *head_of(llhttp_t *parser) {
        return container_of(parser, struct head, parser);
}

static int refuse_field(struct head *head, unsigned status, const char *message) {
        (void)refuse(head->refusal, status, message);
        return HPE_USER;
}

static int on_name(llhttp_t *parser, const char *at, size_t len) {
        struct head *head = head_of(parser);

        if (++head->field_count > HTTP_FIELDS_MAX)
                return refuse_field(head, 431, "The head has over 256 fields; send fewer");
        head->field = FIELD_OTHER;
        switch (len) {
        case 4:
                if (HTTP_IS(at, len, "host"))
                        head->field = FIELD_HOST;
                break;
        case 6:
                if (HTTP_IS(at, len, "accept"))
                        head->field = FIELD_ACCEPT;
                else if (HTTP_IS(at, len, "expect"))
                        head->field = FIELD_EXPECT;
                else if (HTTP_IS(at, len, "origin"))
                        head->field = FIELD_ORIGIN;
                break;
        case 7:
                if (HTTP_IS(at, len, "upgrade"))
                        head->field = FIELD_UPGRADE;
                break;
        case 10:
                if (HTTP_IS(at, len, "connection"))
                        head->field = FIELD_CONNECTION;
                break;
        case 11:
                if (HTTP_IS(at, len, "retry-after"))
                        head->field = FIELD_RETRY_AFTER;
                break;
        case 12:
                if (HTTP_IS(at, len, "x-request-id"))
                        head->field = FIELD_ID;
                else if (HTTP_IS(at, len, "content-type"))
                        head->field = FIELD_CONTENT_TYPE;
                break;
        case 13:
                if (HTTP_IS(at, len, "authorization"))
                        head->field = FIELD_AUTHORIZATION;
                break;
        case 14:
                if (HTTP_IS(at, len, "content-length"))
                        head->field = FIELD_CONTENT_LENGTH;
                break;
        case 17:
                if (HTTP_IS(at, len, "transfer-encoding"))
                        head->field = FIELD_TRANSFER_ENCODING;
                break;
        case 29:
                if (HTTP_IS(at, len, "access-control-request-method"))
                        head->field = FIELD_PREFLIGHT;
                break;
        default:
                break;
        }
        return 0;
}

static struct http_span span_of(const struct head *head, const char *at, size_t len) {
        return (struct http_span){ .at = (uint32_t)(at - head->data), .len = (uint32_t)len };
}

static int read_connection(struct head *head, const char *value, size_t len) {
        const char *option;
        size_t option_len;

        while (http_next_element(&value, &len, &option, &option_len)) {
                if (++head->option_count > HTTP_OPTIONS_MAX)
                        return refuse_field(head, 431, "Connection has over 64 options; send fewer");
                if (HTTP_IS(option, option_len, "close"))
                        head->closes = true;
                else if (HTTP_IS(option, option_len, "keep-alive"))
                        head->keeps = true;
                else if (HTTP_IS(option, option_len, "upgrade"))
                        head->upgrades = true;
                else
                        head->has_options = true;
        }
        return 0;
}

static int read_encoding(struct head *head, const char *value, size_t len) {
        if (head->encoding_count++ > 0)
                return refuse_field(head, 400, "There are two Transfer-Encoding fields; send one");
        if (head->is_http_1_0)
                return refuse_field(head, 400, "HTTP/1.0 has no Transfer-Encoding; send Content-Length, or HTTP/1.1");
        if (len == 0)
                return refuse_field(head, 400, "Transfer-Encoding is empty; send chunked, or leave it out");
        if (!HTTP_IS(value, len, "chunked"))
                return refuse_field(head, 501, "Transfer-Encoding is not chunked, which is all that is taken");
        return 0;
}

static int read_length(struct head *head, const char *value, size_t len) {
        uint64_t length;

        switch (number_parse(value, len, HTTP_LENGTH_MAX, &length)) {
        case 0:
                head->content_length = length;
                return 0;
        case NUMBER_TOO_LARGE:
                return refuse_field(head, 413, "Content-Length is over 9,223,372,036,854,775,807 bytes, and over --max-body");
        default:
                return refuse_field(head, 400, "Content-Length is not a number; send digits alone");
        }
}

/* One media type of a list, whatever its parameters. */
static bool is_events(const char *value, size_t len) {
        const char *semicolon = memchr(value, ';', len);
        size_t type_len = semicolon ? (size_t)(semicolon - value) : len;

        http_trim(&value, &type_len);
        return HTTP_IS(value, type_len, "text/event-stream");
}

static bool accepts_events(const char *value, size_t len) {
        const char *element;
        size_t element_len;

        while (http_next_element(&value, &len, &element, &element_len))
                if (is_events(element, element_len))
                        return true;
        return false;
}

static void take_first(const struct head *head, struct http_span *span, const char *value, size_t len) {
        if (span->len == 0)
                *span = span_of(head, value, len);
}

/* The fields that a request and an answer have both. */
static int read_field(struct head *head, const char *value, size_t len) {
        switch (head->field) {
        case FIELD_CONNECTION:
                return read_connection(head, value, len);
        case FIELD_CONTENT_LENGTH:
                return read_length(head, value, len);
        case FIELD_TRANSFER_ENCODING:
                return read_encoding(head, value, len);
        case FIELD_UPGRADE:
                head->upgrade_count++;
                head->is_websocket = HTTP_IS(value, len, "websocket");
                return 0;
        default:
                return 0;
        }
}

static int on_request_value(llhttp_t *parser, const char *value, size_t len) {
        struct head *head = head_of(parser);
        struct http_request *request = head->request;

        if (head->field == FIELD_OTHER)
                return 0;
        http_trim(&value, &len);
        switch (head->field) {
        case FIELD_ACCEPT:
                if (!request->accepts_events)
                        request->accepts_events = accepts_events(value, len);
                return 0;
        case FIELD_AUTHORIZATION:
                take_first(head, &request->authorization, value, len);
                return 0;
        case FIELD_EXPECT:
                if (!HTTP_IS(value, len, "100-continue"))
                        return refuse_field(head, 417, "Expect is not 100-continue, which is all that is taken");
                /* Of HTTP/1.0 it is ignored: RFC 9110, 10.1.1. */
                request->expects_continue = !head->is_http_1_0;
                return 0;
        case FIELD_HOST:
                if (head->host_count++ > 0)
                        return refuse_field(head, 400, "There are two Host fields; send one");
                if (!http_are_chars(value, len, HTTP_CHAR_AUTHORITY))
                        return refuse_field(head, 400, "Host is not a host; send a name or an address, and perhaps a port");
                /* Unless it was in the target: RFC 9112, 3.2.2. */
                take_first(head, &request->host, value, len);
                return 0;
        case FIELD_ID:
                take_first(head, &request->id, value, len);
                return 0;
        case FIELD_ORIGIN:
                take_first(head, &request->origin, value, len);
                return 0;
        case FIELD_PREFLIGHT:
                head->has_preflight = true;
                return 0;
        default:
                return read_field(head, value, len);
        }
}

static int on_answer_value(llhttp_t *parser, const char *value, size_t len) {
        struct head *head = head_of(parser);
        struct http_answer *answer = head->answer;

        if (head->field == FIELD_OTHER)
                return 0;
        http_trim(&value, &len);
        switch (head->field) {
        case FIELD_CONTENT_TYPE:
                answer->is_event_stream = is_events(value, len);
                return 0;
        case FIELD_RETRY_AFTER:
                /* A date, or more seconds than anybody waits. */
                if (number_parse(value, len, UINT64_MAX - 1, &answer->retry_after) != 0)
                        answer->retry_after = UINT64_MAX - 1;
                return 0;
        default:
                return read_field(head, value, len);
        }
}

/* A body is not for the parser of the head. */
static int on_head(llhttp_t *parser) {
        (void)parser;
        return HPE_PAUSED;
}

static const llhttp_settings_t request_settings = {
        .on_header_field = on_name,
        .on_header_value = on_request_value,
        .on_headers_complete = on_head,
};

static const llhttp_settings_t answer_settings = {
        .on_header_field = on_name,
        .on_header_value = on_answer_value,
        .on_headers_complete = on_head,
};

/* What llhttp found wrong, behind the first line, which begins the fields at `fields_at`. */
static enum http_parsed refuse_fields(const struct head *head, size_t fields_at) {
        const char *begin = head->data + fields_at, *position = llhttp_get_error_pos(&head->parser), *line;

        switch (llhttp_get_errno(&head->parser)) {
        case HPE_USER:
                return HTTP_REFUSED;
        case HPE_INVALID_CONTENT_LENGTH:
                return refuse(head->refusal, 400, "Content-Length is not a number, or too large; send digits alone");
        case HPE_UNEXPECTED_CONTENT_LENGTH:
                return refuse(head->refusal, 400, "Content-Length comes twice, or with Transfer-Encoding; send one, once");
        case HPE_INVALID_TRANSFER_ENCODING:
                return refuse(head->refusal, 501, "Transfer-Encoding is not chunked, which is all that is taken");
        case HPE_INVALID_VERSION:
                /* The preface of HTTP/2 is a request, which goes on differently. */
                return refuse(head->refusal, 501, unknown_method);
        default:
                break;
        }
        line = position > begin ? memrchr(begin, '\n', (size_t)(position - begin)) : NULL;
        line = line ? line + 1 : begin;
        if (position > line && memchr(line, ':', (size_t)(position - line)))
                return refuse(head->refusal, 400, "The value of a field has a control character; send none but tabs");
        return refuse(head->refusal, 400, "The name of a field has a space, or another character that names do not have");
}

/* All of the head is there: `len` bytes. Its first line, up to `fields_at`, was looked at. */
static enum http_parsed parse_fields(struct head *head, llhttp_type_t type, size_t fields_at, size_t len) {
        llhttp_init(&head->parser, type, type == HTTP_REQUEST ? &request_settings : &answer_settings);
        if (llhttp_execute(&head->parser, head->data, len) == HPE_PAUSED) {
                if (llhttp_get_error_pos(&head->parser) == head->data + len)
                        return HTTP_WHOLE;
                return refuse(head->refusal, 400, "The head has an empty line within; end each line with CR LF");
        }
        if (llhttp_get_errno(&head->parser) != HPE_USER && llhttp_get_error_pos(&head->parser) < head->data + fields_at) {
                if (type == HTTP_RESPONSE)
                        return refuse(head->refusal, 400, "The status line is not one of HTTP/1.1");
                if (llhttp_get_errno(&head->parser) == HPE_INVALID_URL)
                        return refuse(head->refusal, 400, "The target is neither a path nor a URL; send one of them, encoded");
                return refuse(head->refusal, 501, unknown_method);
        }
        return refuse_fields(head, fields_at);
}

static bool keeps_alive(const struct head *head) {
        return !head->closes && (!head->is_http_1_0 || head->keeps);
}

/* --- Requests. */

size_t http_skip_empty_lines(const char *data, size_t len) {
        size_t n = 0;

        while (len - n >= 2 && data[n] == '\r' && data[n + 1] == '\n')
                n += 2;
        return n;
}

/* RFC 9112, 3.2.2: what stands behind the authority is the target, and the authority is the host. */
static enum http_parsed read_absolute(struct http_request *request, const char *data, struct http_refusal *refusal) {
        const char *target = data + request->target.at, *end = target + request->target.len, *authority, *path;
        size_t scheme_len = 0, len;

        if (request->target.len > 7 && HTTP_IS(target, 7, "http://"))
                scheme_len = 7;
        else if (request->target.len > 8 && HTTP_IS(target, 8, "https://"))
                scheme_len = 8;
        if (scheme_len == 0)
                return refuse(refusal, 400, "The target is neither a path nor a URL; send one that begins with /");
        authority = target + scheme_len;
        for (path = authority; path < end && *path != '/' && *path != '?'; path++)
                ;
        len = (size_t)(path - authority);
        if (len == 0 || !http_are_chars(authority, len, HTTP_CHAR_AUTHORITY))
                return refuse(refusal, 400, "The target's host is not one; send a path alone");
        request->host = (struct http_span){ .at = request->target.at + (uint32_t)scheme_len, .len = (uint32_t)len };
        request->target.at = request->host.at + (uint32_t)len;
        request->target.len = (uint32_t)(end - path);
        return HTTP_WHOLE;
}

static bool is_method(const char *data, size_t len, const char *method) {
        return len == strlen(method) && memcmp(data, method, len) == 0;
}

/* Whether these could be a target: no second space, no control character, no fragment, nothing over 0x7e. */
static bool is_target(const char *text, size_t len) {
        bool is_bad = len == 0;

        for (size_t i = 0; i < len; i++) {
                unsigned char c = (unsigned char)text[i];

                is_bad |= (c <= ' ') | (c > '~') | (c == '#');
        }
        return !is_bad;
}

/* The first line, `len` bytes without its CR LF. */
static enum http_parsed read_request_line(struct http_request *request, const char *data, size_t len,
                                          struct http_refusal *refusal) {
        const char *space = memchr(data, ' ', len), *version;
        size_t method_len = space ? (size_t)(space - data) : 0;
        bool is_1_0;

        if (!space || !http_is_token(data, method_len))
                return refuse(refusal, 400, "This is no request of HTTP; send one");
        /* A method, a space, a target, a space, a version. */
        if (len < method_len + 2 + VERSION_LEN || data[len - VERSION_LEN] != ' ')
                return refuse(refusal, 400, "The request line is not whole; send a method, a target and HTTP/1.1");
        version = data + len - VERSION_LEN + 1;
        if (!read_version(version, &is_1_0)) {
                if (memchr(version, '/', VERSION_LEN - 1))
                        return refuse(refusal, 505, "The version of the protocol is not taken; send HTTP/1.1");
                return refuse(refusal, 400, "The request line does not end with a version; send HTTP/1.1");
        }
        if (method_len > METHOD_MAX)
                return refuse(refusal, 501, unknown_method);
        request->is_http_1_0 = is_1_0;
        request->method_len = (uint8_t)method_len;
        request->target.at = (uint32_t)method_len + 1;
        request->target.len = (uint32_t)(len - method_len - 1 - VERSION_LEN);
        if (is_method(data, method_len, "CONNECT") || is_method(data, method_len, "TRACE"))
                return refuse(refusal, 405, "CONNECT and TRACE are not taken here; send another method");
        if (!is_target(space + 1, request->target.len))
                return refuse(refusal, 400, "The target has a space, a fragment or a character to be encoded; encode it");
        if (space[1] == '/')
                return HTTP_WHOLE;
        if (space[1] != '*')
                return read_absolute(request, data, refusal);
        if (request->target.len > 1 || !is_method(data, method_len, "OPTIONS"))
                return refuse(refusal, 400, "The target * is for OPTIONS, and stands alone; begin the target with /");
        return HTTP_WHOLE;
}

/* What is certain of a request that is not all there: what its first line is. */
static enum http_parsed check_part(const char *data, size_t len, size_t seen, struct http_refusal *refusal) {
        const char *lf = memchr(data, '\n', len);
        struct http_request request = { 0 };

        if (!lf) {
                const char *space = memchr(data, ' ', MIN(len, (size_t)METHOD_MAX));
                size_t method_len = space ? (size_t)(space - data) : MIN(len, (size_t)METHOD_MAX);

                /* A CR alone may become an empty line. */
                if (len > 0 && !http_is_token(data, method_len) && !(len == 1 && *data == '\r'))
                        return refuse(refusal, 400, "This is no request of HTTP; send one");
                return HTTP_PARTIAL;
        }
        if (lf < data + seen)
                return HTTP_PARTIAL;
        if (read_request_line(&request, data, (size_t)(lf - data) - 1, refusal) == HTTP_REFUSED)
                return HTTP_REFUSED;
        return HTTP_PARTIAL;
}

enum http_parsed http_parse_request(struct http_request *request, const char *data, size_t len, size_t seen,
                                    struct http_refusal *refusal) {
        struct head head = { .data = data, .refusal = refusal, .request = request, .content_length = HTTP_LENGTH_UNKNOWN };
        enum http_parsed parsed;
        size_t end, line_len;

        parsed = find_end(data, len, seen, &end, refusal);
        if (parsed == HTTP_PARTIAL)
                return check_part(data, len, seen, refusal);
        if (parsed == HTTP_REFUSED)
                return parsed;
        *request = (struct http_request){ .len = (uint32_t)end };
        line_len = (size_t)((const char *)memchr(data, '\n', end) - data) - 1;
        request->fields_at = (uint32_t)line_len + 2;
        if (read_request_line(request, data, line_len, refusal) == HTTP_REFUSED)
                return HTTP_REFUSED;
        head.is_http_1_0 = request->is_http_1_0;
        if (parse_fields(&head, HTTP_REQUEST, request->fields_at, end) == HTTP_REFUSED)
                return HTTP_REFUSED;
        if (head.host_count == 0 && !request->is_http_1_0)
                return refuse(refusal, 400, "There is no Host field; send one");
        request->content_length = head.content_length;
        request->chunked = head.encoding_count > 0;
        request->keep_alive = keeps_alive(&head);
        request->has_options = head.has_options;
        request->is_head = is_method(data, request->method_len, "HEAD");
        request->is_preflight = head.has_preflight && is_method(data, request->method_len, "OPTIONS");
        /* With a body it is a request like others, and the upgrade is not passed on. */
        request->is_upgrade = head.upgrades && head.is_websocket && head.upgrade_count == 1 && !request->is_http_1_0 &&
                              is_method(data, request->method_len, "GET") && !request->chunked &&
                              (request->content_length == HTTP_LENGTH_UNKNOWN || request->content_length == 0);
        return HTTP_WHOLE;
}

/* --- Answers. */

/* The first line, `len` bytes without its CR LF: the version, a space, three digits; and perhaps a space and a reason. */
static enum http_parsed read_status_line(struct http_answer *answer, const char *data, size_t len,
                                         struct http_refusal *refusal) {
        uint64_t status;
        bool is_1_0;

        if (len < 8 || memcmp(data, "HTTP/", 5) != 0)
                return refuse(refusal, 400, "The answer is not one of HTTP");
        if (!read_version(data, &is_1_0))
                return refuse(refusal, 505, "The answer's version of HTTP is not 1.0 or 1.1");
        if (len < 12 || data[8] != ' ' || number_parse(data + 9, 3, 999, &status) != 0 || (len > 12 && data[12] != ' '))
                return refuse(refusal, 400, "The answer's status is not a number of three digits");
        if (status < 100)
                return refuse(refusal, 400, "The answer's status is below 100");
        answer->status = (uint16_t)status;
        answer->is_http_1_0 = is_1_0;
        if (len > 13)
                answer->reason = (struct http_span){ .at = 13, .len = (uint32_t)len - 13 };
        for (size_t i = 13; i < len; i++)
                if (((unsigned char)data[i] < 0x20 && data[i] != '\t') || data[i] == 0x7f)
                        return refuse(refusal, 400, "The answer's reason has a control character");
        return HTTP_WHOLE;
}

static enum http_parsed check_part_of_answer(const char *data, size_t len, size_t seen, struct http_refusal *refusal) {
        const char *lf = memchr(data, '\n', len);
        struct http_answer answer = { 0 };

        if (!lf && memcmp(data, "HTTP/1.", MIN(len, (size_t)7)) != 0)
                return read_status_line(&answer, data, 0, refusal);
        if (!lf || lf < data + seen)
                return HTTP_PARTIAL;
        if (read_status_line(&answer, data, (size_t)(lf - data) - 1, refusal) == HTTP_REFUSED)
                return HTTP_REFUSED;
        return HTTP_PARTIAL;
}

enum http_parsed http_parse_answer(struct http_answer *answer, const char *data, size_t len, size_t seen,
                                   struct http_refusal *refusal) {
        struct head head = { .data = data, .refusal = refusal, .answer = answer, .content_length = HTTP_LENGTH_UNKNOWN };
        enum http_parsed parsed;
        size_t end, line_len;

        parsed = find_end(data, len, seen, &end, refusal);
        if (parsed == HTTP_PARTIAL)
                return check_part_of_answer(data, len, seen, refusal);
        if (parsed == HTTP_REFUSED)
                return parsed;
        *answer = (struct http_answer){ .len = (uint32_t)end, .retry_after = UINT64_MAX };
        line_len = (size_t)((const char *)memchr(data, '\n', end) - data) - 1;
        answer->fields_at = (uint32_t)line_len + 2;
        if (read_status_line(answer, data, line_len, refusal) == HTTP_REFUSED)
                return HTTP_REFUSED;
        head.is_http_1_0 = answer->is_http_1_0;
        if (parse_fields(&head, HTTP_RESPONSE, answer->fields_at, end) == HTTP_REFUSED)
                return HTTP_REFUSED;
        answer->content_length = head.content_length;
        answer->chunked = head.encoding_count > 0;
        answer->keep_alive = keeps_alive(&head);
        answer->has_options = head.has_options;
        answer->is_upgrade = answer->status == 101 && head.is_websocket && head.upgrade_count == 1;
        return HTTP_WHOLE;
}

const char *http_reason(unsigned status) {
        static const struct {
                unsigned status;
                const char *reason;
        } reasons[] = {
                { 100, "Continue" },             { 101, "Switching Protocols" },
                { 200, "OK" },                   { 204, "No Content" },
                { 400, "Bad Request" },          { 401, "Unauthorized" },
                { 403, "Forbidden" },            { 404, "Not Found" },
                { 405, "Method Not Allowed" },   { 408, "Request Timeout" },
                { 409, "Conflict" },             { 411, "Length Required" },
                { 413, "Content Too Large" },    { 415, "Unsupported Media Type" },
                { 417, "Expectation Failed" },   { 421, "Misdirected Request" },
                { 426, "Upgrade Required" },     { 429, "Too Many Requests" },
                { 431, "Request Header Fields Too Large" }, { 500, "Internal Server Error" },
                { 501, "Not Implemented" },      { 502, "Bad Gateway" },
                { 503, "Service Unavailable" },  { 504, "Gateway Timeout" },
                { 505, "HTTP Version Not Supported" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
                if (reasons[i].status == status)
                        return reasons[i].reason;
        return "Unknown";
}
