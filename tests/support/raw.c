#include "tests/support/raw.h"

#include <check.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/http.h"

void raw_listen(struct raw *raw, const char *path) {
        struct sockaddr_un address;
        socklen_t len;

        *raw = (struct raw){ .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) };
        ck_assert_int_ge(raw->fd, 0);
        ck_assert_int_eq(address_from_path(path, &address, &len), 0);
        ck_assert_int_eq(bind(raw->fd, (const struct sockaddr *)&address, len), 0);
        ck_assert_int_eq(listen(raw->fd, 4096), 0);
        for (size_t i = 0; i < ARRAY_SIZE(raw->connections); i++)
                raw->connections[i].fd = -1;
}

static void drop(struct raw_connection *connection) {
        connection->fd = util_close(connection->fd);
        text_deinit(&connection->input);
        connection->ended = connection->used = false;
}

void raw_close(struct raw *raw) {
        for (size_t i = 0; i < ARRAY_SIZE(raw->connections); i++)
                drop(&raw->connections[i]);
        raw->fd = util_close(raw->fd);
}

static void accept_one(struct raw *raw) {
        int fd = accept4(raw->fd, NULL, NULL, SOCK_CLOEXEC);

        ck_assert_int_ge(fd, 0);
        for (size_t i = 0; i < ARRAY_SIZE(raw->connections); i++) {
                struct raw_connection *connection = &raw->connections[i];

                /* A probe that was given up leaves one behind. */
                if (connection->ended && !connection->used)
                        drop(connection);
                if (connection->fd >= 0)
                        continue;
                connection->fd = fd;
                return;
        }
        ck_abort_msg("msd has more than %d connections to its upstream", RAW_CONNECTIONS_MAX);
}

static void receive(struct raw_connection *connection) {
        char bytes[65536];
        ssize_t n = recv(connection->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

        if (n > 0)
                text_append(&connection->input, bytes, (size_t)n);
        else if (n == 0 || errno == ECONNRESET)
                connection->ended = true;
        else
                ck_assert_msg(errno == EAGAIN || errno == EINTR, "recv: %s", strerror(errno));
}

/* Whether the next request of a connection is all there, and how long its head and it are. */
static bool is_whole(const struct raw_connection *connection, size_t *head, size_t *whole) {
        struct text fields = TEXT_NULL;
        const char *begin = text_get(&connection->input), *line, *end = NULL, *length;

        if (connection->input.len > 0)
                end = memmem(begin, connection->input.len, "\r\n\r\n", 4);
        if (!end)
                return false;
        line = strstr(begin, "\r\n");
        ck_assert_ptr_nonnull(line);
        http_add_fields(&fields, line + 2, (size_t)(end - line));
        ck_assert_msg(http_count_fields(&fields, "Host") == 1, "msd wrote no host, or several: %s", begin);
        ck_assert_msg(http_count_fields(&fields, "Content-Length") <= 1, "msd wrote several lengths: %s", begin);
        ck_assert_msg(!http_find_field(&fields, "Transfer-Encoding"), "msd wrote a coding: %s", begin);
        length = http_find_field(&fields, "Content-Length");
        *head = (size_t)(end + 4 - begin);
        *whole = *head + (length ? strtoull(length, NULL, 10) : 0);
        text_deinit(&fields);
        return connection->input.len >= *whole;
}

static void take(struct raw_connection *connection, size_t head, size_t whole, struct raw_request *request) {
        const char *begin = connection->input.data, *line = strstr(begin, "\r\n"), *target, *version;

        *request = (struct raw_request){ .connection = connection };
        target = memchr(begin, ' ', (size_t)(line - begin));
        ck_assert_msg(target, "This is no request line: %.*s", (int)(line - begin), begin);
        version = memchr(target + 1, ' ', (size_t)(line - target - 1));
        ck_assert_msg(version && line - version == 9 && memcmp(version, " HTTP/1.1", 9) == 0 && version > target + 1,
                      "This is no request line: %.*s", (int)(line - begin), begin);
        ck_assert_uint_lt((size_t)(target - begin), sizeof(request->method));
        ck_assert_uint_lt((size_t)(version - target - 1), sizeof(request->target));
        memcpy(request->method, begin, (size_t)(target - begin));
        memcpy(request->target, target + 1, (size_t)(version - target - 1));
        for (const char *p = request->target; *p; p++)
                ck_assert_msg(*p > ' ' && *p < 0x7f, "This is no target: %s", request->target);
        http_add_fields(&request->fields, line + 2, head - 4 - (size_t)(line - begin));
        text_append(&request->body, begin + head, whole - head);
        text_append(&request->bytes, begin, whole);
        text_take(&connection->input, whole);
}

static void answer_probe(struct raw *raw, struct raw_request *request) {
        const char *answer = raw->sick ? "HTTP/1.1 503 Loading\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" :
                                         "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

        (void)raw_offer(request, answer, strlen(answer), 0);
        raw_hang_up(request);
        raw_request_deinit(request);
}

/* Takes a request that is there, and answers probes. */
static bool take_any(struct raw *raw, struct raw_request *request) {
        for (size_t i = 0; i < ARRAY_SIZE(raw->connections); i++) {
                struct raw_connection *connection = &raw->connections[i];
                size_t head, whole;

                if (connection->fd < 0 || !is_whole(connection, &head, &whole))
                        continue;
                take(connection, head, whole, request);
                if (strcmp(request->target, "/health") == 0) {
                        answer_probe(raw, request);
                        continue;
                }
                raw->accepted += !connection->used;
                connection->used = true;
                return true;
        }
        return false;
}

/* Waits once for anything; `*other` says whether it came at `fd`. */
static void turn(struct raw *raw, int fd, bool *other, uint64_t deadline) {
        struct pollfd events[RAW_CONNECTIONS_MAX + 2];

        for (size_t i = 0; i < RAW_CONNECTIONS_MAX; i++)
                events[i] = (struct pollfd){ raw->connections[i].ended ? -1 : raw->connections[i].fd, POLLIN, 0 };
        events[RAW_CONNECTIONS_MAX] = (struct pollfd){ raw->fd, POLLIN, 0 };
        events[RAW_CONNECTIONS_MAX + 1] = (struct pollfd){ fd, POLLIN, 0 };
        if (process_poll(events, ARRAY_SIZE(events), deadline) == 0)
                return;
        for (size_t i = 0; i < RAW_CONNECTIONS_MAX; i++)
                if (events[i].revents)
                        receive(&raw->connections[i]);
        if (events[RAW_CONNECTIONS_MAX].revents)
                accept_one(raw);
        *other = events[RAW_CONNECTIONS_MAX + 1].revents != 0;
}

bool raw_take_until(struct raw *raw, struct raw_request *request, int fd, uint64_t deadline) {
        bool other = false;

        while (!take_any(raw, request)) {
                if (other || clock_left(deadline) == 0)
                        return false;
                turn(raw, fd, &other, deadline);
        }
        return true;
}

void raw_take(struct raw *raw, struct raw_request *request) {
        if (!raw_take_until(raw, request, -1, clock_patience()))
                process_give_up("Waited in vain for msd to ask its upstream");
}

void raw_wait_ready(struct raw *raw, struct process *msd) {
        uint64_t deadline = clock_patience();
        struct raw_request request;
        bool other;

        while (!strstr(text_get(&msd->output), "Model ready!\n")) {
                if (msd->exited || clock_left(deadline) == 0)
                        process_give_up("msd does not find its upstream ready");
                ck_assert(!take_any(raw, &request));
                turn(raw, -1, &other, deadline);
        }
}

void raw_request_deinit(struct raw_request *request) {
        text_deinit(&request->fields);
        text_deinit(&request->body);
        text_deinit(&request->bytes);
}

const char *raw_field(const struct raw_request *request, const char *name) {
        return http_find_field(&request->fields, name);
}

size_t raw_offer(const struct raw_request *request, const void *data, size_t n, uint64_t patience) {
        uint64_t deadline = clock_now() + patience;
        size_t sent = 0;

        while (sent < n) {
                struct pollfd event = { request->connection->fd, POLLOUT, 0 };
                ssize_t r = send(request->connection->fd, (const char *)data + sent, n - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

                if (r > 0) {
                        sent += (size_t)r;
                        deadline = clock_now() + patience;
                        continue;
                }
                if (errno != EAGAIN || clock_left(deadline) == 0)
                        break;
                (void)process_poll(&event, 1, deadline);
        }
        return sent;
}

void raw_send_bytes(const struct raw_request *request, const void *data, size_t n) {
        if (raw_offer(request, data, n, CLOCK_PATIENCE) != n)
                process_give_up("msd does not take its upstream's answer");
}

void raw_send(const struct raw_request *request, const char *format, ...) {
        char bytes[4096];
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(bytes, sizeof(bytes), format, ap);
        va_end(ap);
        ck_assert(n > 0 && (size_t)n < sizeof(bytes));
        raw_send_bytes(request, bytes, (size_t)n);
}

void raw_answer(const struct raw_request *request, const char *body) {
        raw_send(request, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
}

void raw_hang_up(struct raw_request *request) {
        drop(request->connection);
}

void raw_wait_gone(struct raw_request *request) {
        uint64_t deadline = clock_patience();

        while (!request->connection->ended) {
                struct pollfd event = { request->connection->fd, POLLIN, 0 };

                if (clock_left(deadline) == 0)
                        process_give_up("msd does not close its connection to the upstream");
                if (process_poll(&event, 1, deadline) > 0)
                        receive(request->connection);
        }
        ck_assert_msg(request->connection->input.len == 0, "msd wrote more: %s", request->connection->input.data);
        raw_hang_up(request);
}
