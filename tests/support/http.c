#include "tests/support/http.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"
#include "tests/support/clock.h"

#define SAID "Listening for HTTP at "

static const char *find_said(const struct process *msd, unsigned times) {
        const char *p = text_get(&msd->errors);

        while ((p = strstr(p, SAID))) {
                p += strlen(SAID);
                if (--times == 0)
                        return strchr(p, '\n') ? p : NULL;
        }
        return NULL;
}

void http_listening(struct process *msd, unsigned times, char address[static HTTP_ADDRESS_MAX]) {
        uint64_t deadline = clock_patience();
        const char *p;
        size_t n;

        while (!(p = find_said(msd, times))) {
                if (msd->exited || clock_now() >= deadline)
                        process_give_up("Waited in vain for msd to listen for HTTP %u times", times);
                (void)process_poll(NULL, 0, deadline);
        }
        n = strcspn(p, "\n");
        ck_assert_uint_lt(n, HTTP_ADDRESS_MAX);
        memcpy(address, p, n);
        address[n] = '\0';
}

union any_address {
        struct sockaddr any;
        struct sockaddr_un local;
        struct sockaddr_in inet;
        struct sockaddr_in6 inet6;
};

static void parse_address(const char *text, union any_address *address, socklen_t *len) {
        char host[HTTP_ADDRESS_MAX];
        const char *colon = strrchr(text, ':');
        size_t n;

        memset(address, 0, sizeof(*address));
        if (strncmp(text, "unix:", 5) == 0) {
                ck_assert_int_eq(address_from_path(text + 5, &address->local, len), 0);
                return;
        }
        ck_assert_ptr_nonnull(colon);
        n = (size_t)(colon - text);
        ck_assert_uint_lt(n, sizeof(host));
        memcpy(host, text, n);
        host[n] = '\0';
        if (host[0] == '[') {
                host[n - 1] = '\0';
                address->inet6.sin6_family = AF_INET6;
                address->inet6.sin6_port = htons((uint16_t)atoi(colon + 1));
                ck_assert_int_eq(inet_pton(AF_INET6, host + 1, &address->inet6.sin6_addr), 1);
                *len = sizeof(address->inet6);
                return;
        }
        address->inet.sin_family = AF_INET;
        address->inet.sin_port = htons((uint16_t)atoi(colon + 1));
        ck_assert_msg(inet_pton(AF_INET, host, &address->inet.sin_addr) == 1, "This is no address: %s", text);
        *len = sizeof(address->inet);
}

void http_init(struct http *http, int fd) {
        *http = (struct http)HTTP_NULL;
        http->fd = fd;
}

int http_try_connect(struct http *http, const char *address) {
        /* At a full backlog connect() stands still. */
        struct timeval patience = { .tv_sec = CLOCK_PATIENCE / NSEC_PER_SEC };
        union any_address to;
        socklen_t len;
        _cleanup_close_ int fd = -1;

        http_init(http, -1);
        parse_address(address, &to, &len);
        fd = socket(to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)), 0);
        if (connect(fd, &to.any, len) < 0)
                return -errno;
        http->fd = STEAL_FD(fd);
        return 0;
}

void http_connect(struct http *http, const char *address) {
        int r = http_try_connect(http, address);

        if (r < 0)
                process_give_up("Connecting to %s: %s", address, strerror(-r));
}

void http_close(struct http *http) {
        http->fd = util_close(http->fd);
        text_deinit(&http->input);
        text_deinit(&http->head);
        text_deinit(&http->body);
        *http = (struct http)HTTP_NULL;
}

void http_read(struct http *http) {
        char bytes[65536];
        ssize_t n = recv(http->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

        if (n > 0)
                text_append(&http->input, bytes, (size_t)n);
        /* Whoever closes with something unread resets the connection. */
        else if (n == 0 || errno == ECONNRESET)
                http->ended = true;
        else
                ck_assert_msg(errno == EAGAIN || errno == EINTR, "recv: %s", strerror(errno));
}

bool http_offer(struct http *http, const void *data, size_t n) {
        uint64_t deadline = clock_patience();
        const char *p = data;

        while (n > 0) {
                struct pollfd event = { http->fd, POLLOUT | (http->ended ? 0 : POLLIN), 0 };
                ssize_t sent = send(http->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

                if (sent > 0) {
                        p += sent;
                        n -= (size_t)sent;
                        continue;
                }
                if (errno != EAGAIN) {
                        ck_assert_msg(errno == EPIPE || errno == ECONNRESET, "send: %s", strerror(errno));
                        return false;
                }
                if (clock_now() >= deadline)
                        process_give_up("msd does not read what is sent to it");
                if (process_poll(&event, 1, deadline) > 0 && (event.revents & (POLLIN | POLLHUP)) && !http->ended)
                        http_read(http);
        }
        return true;
}

void http_send_bytes(struct http *http, const void *data, size_t n) {
        if (!http_offer(http, data, n))
                process_give_up("The connection ended while something was sent");
}

void http_send(struct http *http, const char *format, ...) {
        char bytes[4096];
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(bytes, sizeof(bytes), format, ap);
        va_end(ap);
        ck_assert(n > 0 && (size_t)n < sizeof(bytes));
        http_send_bytes(http, bytes, (size_t)n);
}

void http_ask(struct http *http, const char *method, const char *path) {
        http->bodiless = strcmp(method, "HEAD") == 0;
        http_send(http, "%s %s HTTP/1.1\r\nHost: msd\r\n\r\n", method, path);
}

void http_post(struct http *http, const char *path, const char *json) {
        http->bodiless = false;
        http_send(http, "POST %s HTTP/1.1\r\nHost: msd\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                  path, strlen(json), json);
}

void http_finish(struct http *http) {
        ck_assert_int_eq(shutdown(http->fd, SHUT_WR), 0);
}

static bool is_token(const char *p, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (!((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'z') || (p[i] >= 'A' && p[i] <= 'Z') ||
                      (p[i] && strchr("!#$%&'*+-.^_`|~", p[i]))))
                        return false;
        return n > 0;
}

/* One field, as RFC 9112 has it. */
static void add_field(struct text *fields, const char *line, size_t n) {
        const char *colon = memchr(line, ':', n), *value;

        ck_assert_msg(colon && is_token(line, (size_t)(colon - line)), "This is no field: %.*s", (int)n, line);
        value = colon + 1;
        while (value < line + n && (*value == ' ' || *value == '\t'))
                value++;
        while (n > (size_t)(value - line) && (line[n - 1] == ' ' || line[n - 1] == '\t'))
                n--;
        for (const char *p = value; p < line + n; p++)
                ck_assert_msg((unsigned char)*p >= ' ' || *p == '\t', "A field has a control character: %.*s", (int)n, line);
        text_appendf(fields, "%.*s: ", (int)(colon - line), line);
        text_append(fields, value, n - (size_t)(value - line));
        text_append(fields, "", 1);
}

void http_add_fields(struct text *fields, const char *lines, size_t len) {
        const char *end = lines + len;

        while (lines < end) {
                const char *next = memmem(lines, (size_t)(end - lines), "\r\n", 2);

                ck_assert_msg(next, "A line has no end: %.*s", (int)(end - lines), lines);
                add_field(fields, lines, (size_t)(next - lines));
                lines = next + 2;
        }
}

static void frame(struct http *http) {
        const char *length = http_field(http, "Content-Length"), *coding = http_field(http, "Transfer-Encoding");
        char *end;

        ck_assert_uint_le(http_count_field(http, "Content-Length"), 1);
        ck_assert_uint_le(http_count_field(http, "Transfer-Encoding"), 1);
        ck_assert_msg(!length || !coding, "An answer has both a length and a coding");
        http->left = 0;
        if (length) {
                ck_assert_msg(*length >= '0' && *length <= '9', "This is no length: %s", length);
                http->left = strtoull(length, &end, 10);
                ck_assert_msg(*end == '\0', "This is no length: %s", length);
        }
        if (coding)
                ck_assert_msg(strcasecmp(coding, "chunked") == 0, "An unknown coding: %s", coding);
        if (http->bodiless || http->status < 200 || http->status == 204 || http->status == 304)
                http->framing = HTTP_EMPTY;
        else
                http->framing = coding ? HTTP_CHUNKED : length ? HTTP_LENGTH : HTTP_CLOSE;
        http->whole = http->framing == HTTP_EMPTY || (http->framing == HTTP_LENGTH && http->left == 0);
        /* It is said of one answer; a 1xx is none. */
        if (http->status >= 200)
                http->bodiless = false;
}

/* Takes the head if it is all there. */
static bool take_head(struct http *http) {
        const char *begin = text_get(&http->input), *line, *end = NULL;
        unsigned minor;

        if (http->input.len > 0)
                end = memmem(begin, http->input.len, "\r\n\r\n", 4);
        if (!end)
                return false;
        text_deinit(&http->head);
        text_deinit(&http->body);
        line = strstr(begin, "\r\n");
        if (sscanf(begin, "HTTP/1.%1u %3u", &minor, &http->status) != 2 || strncmp(begin + 8, " ", 1) != 0 ||
            begin[12] != ' ' || minor > 1 || http->status < 100 || http->status > 599)
                ck_abort_msg("This is no status line: %.*s", (int)(line - begin), begin);
        http_add_fields(&http->head, line + 2, (size_t)(end - line));
        text_take(&http->input, (size_t)(end + 4 - begin));
        frame(http);
        return true;
}

/* Moves the first `n` bytes of what has come into the body. */
static void take_body(struct http *http, size_t n) {
        text_append(&http->body, http->input.data, n);
        text_take(&http->input, n);
}

/* Takes a chunk, or the last one with its trailers, if it is all there. */
static bool take_chunk(struct http *http) {
        const char *begin = text_get(&http->input), *line;
        uint64_t size;
        char *end;

        line = http->input.len > 0 ? memmem(begin, http->input.len, "\r\n", 2) : NULL;
        if (!line)
                return false;
        size = strtoull(begin, &end, 16);
        ck_assert_msg(end > begin && end == line, "This is no chunk: %.*s", (int)(line - begin), begin);
        if (size == 0) {
                const char *last = memmem(line, http->input.len - (size_t)(line - begin), "\r\n\r\n", 4);

                if (!last)
                        return false;
                ck_assert_msg(last == line, "A trailer came: %.*s", (int)(last - line), line);
                text_take(&http->input, (size_t)(last + 4 - begin));
                http->whole = true;
                return true;
        }
        if (http->input.len - (size_t)(line + 2 - begin) < size + 2)
                return false;
        text_take(&http->input, (size_t)(line + 2 - begin));
        take_body(http, (size_t)size);
        ck_assert_msg(memcmp(http->input.data, "\r\n", 2) == 0, "A chunk is longer than it says");
        text_take(&http->input, 2);
        return true;
}

/* Takes up what is there of the body. */
static void take_more(struct http *http) {
        size_t n = http->input.len;

        switch (http->framing) {
        case HTTP_EMPTY:
                break;
        case HTTP_LENGTH:
                n = MIN(n, (size_t)http->left);
                if (n == 0)
                        break;
                take_body(http, n);
                http->left -= n;
                http->whole = http->left == 0;
                break;
        case HTTP_CHUNKED:
                while (!http->whole && take_chunk(http))
                        ;
                break;
        case HTTP_CLOSE:
                if (n > 0)
                        take_body(http, n);
                http->whole = http->ended;
                break;
        }
}

/* Waits until something more has come, or the end. Returns whether it has. */
static bool wait_more(struct http *http, uint64_t deadline) {
        struct pollfd event = { http->fd, POLLIN, 0 };

        if (clock_left(deadline) == 0)
                return false;
        if (process_poll(&event, 1, deadline) > 0)
                http_read(http);
        return true;
}

bool http_head_until(struct http *http, uint64_t deadline) {
        while (!take_head(http)) {
                if (http->ended) {
                        ck_assert_msg(http->input.len == 0, "The connection ended within a head: %s", http->input.data);
                        return false;
                }
                if (!wait_more(http, deadline))
                        return false;
        }
        return true;
}

bool http_head(struct http *http) {
        if (http_head_until(http, clock_patience()))
                return true;
        if (!http->ended)
                process_give_up("Waited in vain for an answer; there is: %.200s", text_get(&http->input));
        return false;
}

void http_wait_body(struct http *http, const char *text) {
        uint64_t deadline = clock_patience();

        for (;;) {
                take_more(http);
                if (http->body.len > 0 && memmem(http->body.data, http->body.len, text, strlen(text)))
                        return;
                if (http->whole || http->ended)
                        process_give_up("The body ended without %s: %.500s", text, text_get(&http->body));
                if (!wait_more(http, deadline))
                        process_give_up("Waited in vain for %s; there is: %.500s", text, text_get(&http->body));
        }
}

void http_end(struct http *http) {
        uint64_t deadline = clock_patience();

        for (;;) {
                take_more(http);
                if (http->whole || http->ended)
                        return;
                if (!wait_more(http, deadline))
                        process_give_up("Waited in vain for the end of a body; there is: %.500s", text_get(&http->body));
        }
}

void http_next(struct http *http) {
        if (!http_head(http))
                process_give_up("The connection ended before the answer");
        http_end(http);
        if (!http->whole)
                process_give_up("The answer was cut short: %u %.500s", http->status, text_get(&http->body));
}

void http_expect(struct http *http, unsigned status, const char *body) {
        http_next(http);
        if (http->status != status)
                process_give_up("Not %u, but %u: %.500s", status, http->status, text_get(&http->body));
        if (body)
                ck_assert_str_eq(text_get(&http->body), body);
}

void http_expect_error(struct http *http, unsigned status, const char *code, const char *message) {
        json_t *json, *error;
        const char *text;

        http_expect(http, status, NULL);
        ck_assert_ptr_nonnull(http_field(http, "Content-Type"));
        ck_assert_str_eq(http_field(http, "Content-Type"), "application/json");
        if (status == 503)
                ck_assert_msg(http_field(http, "Retry-After") && atoi(http_field(http, "Retry-After")) > 0, "No Retry-After");
        json = http_json(http);
        ck_assert_uint_eq(json_object_size(json), 1);
        error = json_object_get(json, "error");
        ck_assert_msg(json_is_object(error), "No error: %s", http->body.data);
        ck_assert_uint_eq(json_object_size(error), 4);
        ck_assert_str_eq(json_string_value(json_object_get(error, "type")),
                         status < 500 ? "invalid_request_error" : "server_error");
        ck_assert(json_is_null(json_object_get(error, "param")));
        text = json_string_value(json_object_get(error, "code"));
        ck_assert_msg(text && *text, "No code: %s", http->body.data);
        if (code)
                ck_assert_str_eq(text, code);
        text = json_string_value(json_object_get(error, "message"));
        ck_assert_msg(text && *text, "No message: %s", http->body.data);
        if (message)
                ck_assert_str_eq(text, message);
        json_decref(json);
}

void http_expect_end(struct http *http) {
        if (http_head(http))
                process_give_up("One answer too many: %u", http->status);
}

void http_expect_silence(struct http *http, uint64_t nsec) {
        if (http_head_until(http, clock_now() + nsec))
                process_give_up("An answer out of nowhere: %u", http->status);
        ck_assert_msg(!http->ended, "The connection ended");
        ck_assert_msg(http->input.len == 0, "Something came: %s", http->input.data);
}

/* The fields, one after the other; NULL behind the last. */
static const char *next_field(const struct text *fields, const char *field) {
        const char *next = field ? field + strlen(field) + 1 : text_get(fields);

        return fields->len > 0 && next < fields->data + fields->len ? next : NULL;
}

static bool has_name(const char *field, const char *name) {
        size_t n = strlen(name);

        return strncasecmp(field, name, n) == 0 && field[n] == ':';
}

const char *http_find_field(const struct text *fields, const char *name) {
        for (const char *field = NULL; (field = next_field(fields, field));)
                if (has_name(field, name))
                        return field + strlen(name) + 2;
        return NULL;
}

unsigned http_count_fields(const struct text *fields, const char *name) {
        unsigned n = 0;

        for (const char *field = NULL; (field = next_field(fields, field));)
                n += !name || has_name(field, name);
        return n;
}

const char *http_field(const struct http *http, const char *name) {
        return http_find_field(&http->head, name);
}

unsigned http_count_field(const struct http *http, const char *name) {
        return http_count_fields(&http->head, name);
}

json_t *http_json(const struct http *http) {
        json_t *json = json_loadb(text_get(&http->body), http->body.len, 0, NULL);

        ck_assert_msg(json, "This is no JSON: %s", text_get(&http->body));
        return json;
}
