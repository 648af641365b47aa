#include <string.h>
#include <strings.h>

#include "daemon/net/http.h"
#include "daemon/net/http_text.h"

bool http_next_field(const char *head, uint32_t *at, struct http_field *field) {
        const char *line = head + *at, *colon, *end;
        size_t len;

        if (*line == '\r')
                return false;
        colon = rawmemchr(line, ':');
        end = rawmemchr(colon, '\n');
        *at = (uint32_t)(end + 1 - head);
        field->name = line;
        field->name_len = (uint32_t)(colon - line);
        field->value = colon + 1;
        len = (size_t)(end - 1 - field->value);
        http_trim(&field->value, &len);
        field->value_len = (uint32_t)len;
        return true;
}

bool http_field_is(const struct http_field *field, const char *name) {
        return strlen(name) == field->name_len && strncasecmp(field->name, name, field->name_len) == 0;
}

/* Those that are hop-by-hop whatever Connection names. */
static bool is_always_hop_by_hop(const char *name, size_t len) {
        switch (len) {
        case 2:
                return HTTP_IS(name, len, "te");
        case 7:
                return HTTP_IS(name, len, "trailer") || HTTP_IS(name, len, "upgrade");
        case 10:
                return HTTP_IS(name, len, "connection") || HTTP_IS(name, len, "keep-alive");
        case 14:
                return HTTP_IS(name, len, "content-length");
        case 16:
                return HTTP_IS(name, len, "proxy-connection");
        case 17:
                return HTTP_IS(name, len, "transfer-encoding");
        case 18:
                return HTTP_IS(name, len, "proxy-authenticate");
        case 19:
                return HTTP_IS(name, len, "proxy-authorization");
        default:
                return false;
        }
}

/* The options of all Connection fields. */
struct options {
        size_t count;
        struct {
                const char *name;
                size_t len;
        } names[HTTP_OPTIONS_MAX];
};

static void collect_options(struct options *options, const char *head, uint32_t at) {
        struct http_field field;

        options->count = 0;
        while (http_next_field(head, &at, &field)) {
                const char *value = field.value, *option;
                size_t len = field.value_len, option_len;

                if (!HTTP_IS(field.name, field.name_len, "connection"))
                        continue;
                while (options->count < HTTP_OPTIONS_MAX && http_next_element(&value, &len, &option, &option_len)) {
                        options->names[options->count].name = option;
                        options->names[options->count++].len = option_len;
                }
        }
}

static bool is_option(const struct options *options, const char *name, size_t len) {
        for (size_t i = 0; i < options->count; i++)
                if (options->names[i].len == len && strncasecmp(options->names[i].name, name, len) == 0)
                        return true;
        return false;
}

bool http_is_hop_by_hop(const char *head, uint32_t fields_at, bool has_options, const struct http_field *field) {
        struct options options;

        if (is_always_hop_by_hop(field->name, field->name_len))
                return true;
        if (!has_options)
                return false;
        collect_options(&options, head, fields_at);
        return is_option(&options, field->name, field->name_len);
}

/* --- Heads that go on. */

static char *put_number(char *to, uint64_t number) {
        char digits[20];
        size_t n = sizeof(digits);

        do
                digits[--n] = (char)('0' + number % 10);
        while ((number /= 10) > 0);
        return http_put(to, digits + n, sizeof(digits) - n);
}

/* What of the fields of a head is passed on. */
struct passing {
        bool is_request;
        bool is_upgrade;
        bool drops_accept_encoding;
        const char *dropped;            /* NULL: none */
        size_t dropped_len;
        const struct options *options;  /* NULL: there are none */
};

static bool is_passed(const struct passing *passing, const char *name, size_t len) {
        if (is_always_hop_by_hop(name, len))
                return passing->is_upgrade && HTTP_IS(name, len, "upgrade");
        if (passing->is_request) {
                if (HTTP_IS(name, len, "host") || HTTP_IS(name, len, "expect"))
                        return false;
                if (passing->drops_accept_encoding && HTTP_IS(name, len, "accept-encoding"))
                        return false;
        }
        if (passing->dropped && passing->dropped_len == len && strncasecmp(passing->dropped, name, len) == 0)
                return false;
        return !passing->options || !is_option(passing->options, name, len);
}

/* Lines that are passed on stand together more often than not, and are copied together. */
static char *put_fields(char *to, const struct passing *passing, const char *head, uint32_t fields_at) {
        const char *line = head + fields_at, *from = line;

        while (*line != '\r') {
                const char *colon = rawmemchr(line, ':'), *end = (const char *)rawmemchr(colon, '\n') + 1;

                if (!is_passed(passing, line, (size_t)(colon - line))) {
                        to = http_put(to, from, (size_t)(line - from));
                        from = end;
                }
                line = end;
        }
        return http_put(to, from, (size_t)(line - from));
}

/* What is written besides what came. */
#define REQUEST_EXTRA \
        sizeof("/ HTTP/1.1\r\nHost: \r\nVia: 1.1 msd\r\nConnection: Upgrade\r\nContent-Length: 18446744073709551615\r\n\r\n")
#define ANSWER_EXTRA \
        sizeof("HTTP/1.1 200 \r\nContent-Length: 18446744073709551615\r\nConnection: keep-alive\r\n\r\n")

size_t http_forward_request_max(const struct http_request *request, const struct http_forwarding *forwarding) {
        return request->len + strlen(forwarding->prefix) + (forwarding->host ? strlen(forwarding->host) : 0) + REQUEST_EXTRA;
}

size_t http_forward_answer_max(const struct http_answer *answer, size_t extra_len) {
        return answer->len + extra_len + ANSWER_EXTRA;
}

size_t http_forward_request(char *to, const struct http_request *request, const char *head,
                            const struct http_forwarding *forwarding) {
        struct options options;
        struct passing passing = {
                .is_request = true,
                .is_upgrade = request->is_upgrade,
                .drops_accept_encoding = forwarding->drops_accept_encoding,
        };
        const char *target = head + request->target.at;
        char *p = to;

        if (request->has_options) {
                collect_options(&options, head, request->fields_at);
                passing.options = &options;
        }
        /* With the space behind it. */
        p = http_put(p, head, request->method_len + 1u);
        if (request->target.len == 0 || *target != '*')
                p = http_put(p, forwarding->prefix, strlen(forwarding->prefix));
        if (request->target.len == 0 || *target == '?')
                p = HTTP_PUT(p, "/");
        p = http_put(p, target, request->target.len);
        p = HTTP_PUT(p, " HTTP/1.1\r\nHost: ");
        p = forwarding->host ? http_put(p, forwarding->host, strlen(forwarding->host))
                             : http_put(p, head + request->host.at, request->host.len);
        p = HTTP_PUT(p, "\r\n");
        p = put_fields(p, &passing, head, request->fields_at);
        p = request->is_http_1_0 ? HTTP_PUT(p, "Via: 1.0 msd\r\n") : HTTP_PUT(p, "Via: 1.1 msd\r\n");
        if (request->is_upgrade)
                p = HTTP_PUT(p, "Connection: Upgrade\r\n");
        if (forwarding->content_length != HTTP_LENGTH_UNKNOWN) {
                p = HTTP_PUT(p, "Content-Length: ");
                p = put_number(p, forwarding->content_length);
                p = HTTP_PUT(p, "\r\n");
        }
        p = HTTP_PUT(p, "\r\n");
        return (size_t)(p - to);
}

size_t http_forward_answer(char *to, const struct http_answer *answer, const char *head,
                           const struct http_answering *answering) {
        struct options options;
        struct passing passing = {
                .is_upgrade = answer->is_upgrade,
                .dropped = answering->dropped,
                .dropped_len = answering->dropped ? strlen(answering->dropped) : 0,
        };
        char *p = to;

        if (answer->has_options) {
                collect_options(&options, head, answer->fields_at);
                passing.options = &options;
        }
        p = HTTP_PUT(p, "HTTP/1.1 ");
        p = put_number(p, answer->status);
        p = HTTP_PUT(p, " ");
        p = http_put(p, head + answer->reason.at, answer->reason.len);
        p = HTTP_PUT(p, "\r\n");
        p = put_fields(p, &passing, head, answer->fields_at);
        if (answering->extra_len > 0)
                p = http_put(p, answering->extra, answering->extra_len);
        if (answering->framing == HTTP_FRAMING_CHUNKED)
                p = HTTP_PUT(p, "Transfer-Encoding: chunked\r\n");
        else if (answering->framing == HTTP_FRAMING_LENGTH && answer->content_length != HTTP_LENGTH_UNKNOWN) {
                p = HTTP_PUT(p, "Content-Length: ");
                p = put_number(p, answer->content_length);
                p = HTTP_PUT(p, "\r\n");
        }
        if (answer->is_upgrade)
                p = HTTP_PUT(p, "Connection: Upgrade\r\n");
        else if (answering->close || answering->framing == HTTP_FRAMING_CLOSE)
                p = HTTP_PUT(p, "Connection: close\r\n");
        else if (answering->keep_alive)
                p = HTTP_PUT(p, "Connection: keep-alive\r\n");
        p = HTTP_PUT(p, "\r\n");
        return (size_t)(p - to);
}
