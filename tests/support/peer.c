#include "tests/support/peer.h"

#include <check.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/process.h"

int peer_try_connect(struct peer *peer, const char *path) {
        /* At a full backlog connect() stands still. */
        struct timeval patience = { .tv_sec = CLOCK_PATIENCE / NSEC_PER_SEC };
        struct sockaddr_un address;
        _cleanup_close_ int fd = -1;
        socklen_t len;

        *peer = (struct peer)PEER_NULL;
        ck_assert_int_eq(address_from_path(path, &address, &len), 0);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)), 0);
        if (connect(fd, (const struct sockaddr *)&address, len) < 0)
                return -errno;
        peer->fd = STEAL_FD(fd);
        return 0;
}

void peer_connect(struct peer *peer, const char *path) {
        int r = peer_try_connect(peer, path);

        if (r < 0)
                process_give_up("Connecting to %s: %s", path, strerror(-r));
}

void peer_close(struct peer *peer) {
        peer->fd = util_close(peer->fd);
        text_deinit(&peer->input);
        *peer = (struct peer)PEER_NULL;
}

/* Takes up what came. */
static void peer_read(struct peer *peer) {
        if (peer->taken == peer->input.len) {
                text_take(&peer->input, peer->taken);
                peer->taken = 0;
        }
        for (;;) {
                char bytes[65536];
                ssize_t n = recv(peer->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

                if (n > 0) {
                        text_append(&peer->input, bytes, (size_t)n);
                        continue;
                }
                /* Whoever closes with something unread resets the connection. */
                if (n == 0 || errno == ECONNRESET)
                        peer->ended = true;
                else
                        ck_assert_msg(errno == EAGAIN || errno == EINTR, "recv: %s", strerror(errno));
                return;
        }
}

void peer_send_bytes(struct peer *peer, const void *data, size_t n) {
        uint64_t deadline = clock_patience();
        const char *p = data;

        while (n > 0) {
                struct pollfd event = { peer->fd, POLLOUT | (peer->ended ? 0 : POLLIN), 0 };
                ssize_t sent = send(peer->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

                if (sent > 0) {
                        p += sent;
                        n -= (size_t)sent;
                        continue;
                }
                if (errno != EAGAIN)
                        process_give_up("Sending to msd: %s", strerror(errno));
                if (clock_now() >= deadline)
                        process_give_up("msd does not read what is sent to it");
                if (process_poll(&event, 1, deadline) > 0 && (event.revents & POLLIN))
                        peer_read(peer);
        }
}

void peer_send(struct peer *peer, const char *format, ...) {
        char bytes[4096];
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(bytes, sizeof(bytes), format, ap);
        va_end(ap);
        ck_assert(n > 0 && (size_t)n < sizeof(bytes));
        peer_send_bytes(peer, bytes, (size_t)n);
}

void peer_send_requests(struct peer *peer, size_t first, size_t n) {
        struct text text = TEXT_NULL;

        for (size_t i = first; i < first + n; i++)
                text_appendf(&text, "REQUEST %zu\n", i);
        peer_send_bytes(peer, text.data, text.len);
        text_deinit(&text);
}

void peer_finish(struct peer *peer) {
        ck_assert_int_eq(shutdown(peer->fd, SHUT_WR), 0);
}

/* Takes the next reply if it is all there. */
static bool take(struct peer *peer, struct peer_reply *reply) {
        char *begin = peer->input.data + peer->taken;
        size_t left = peer->input.len - peer->taken, line, whole;
        struct protocol_reply head;
        char *end;

        end = left > 0 ? memchr(begin, '\n', left) : NULL;
        if (!end)
                return false;
        line = (size_t)(end - begin);
        if (protocol_parse_reply(begin, line, &head) != 0)
                ck_abort_msg("This is no reply: %.*s", (int)MIN(line, (size_t)200), begin);
        whole = line + 1;
        if (head.type != PROTOCOL_ERR) {
                if (left - whole <= head.length)
                        return false;
                whole += (size_t)head.length + 1;
                ck_assert_msg(begin[whole - 1] == '\n', "No line end behind the body of: %.*s", (int)line,
                              begin);
        }

        reply->type = head.type;
        memcpy(reply->id, head.id, head.id_len);
        reply->id[head.id_len] = '\0';
        reply->code[0] = '\0';
        if (head.type == PROTOCOL_ERR) {
                ck_assert_uint_lt(head.code_len, sizeof(reply->code));
                memcpy(reply->code, head.code, head.code_len);
                reply->code[head.code_len] = '\0';
                reply->body = head.message;
                reply->len = head.message_len;
        } else {
                reply->body = end + 1;
                reply->len = (size_t)head.length;
        }
        /* In the place of the LF. */
        begin[whole - 1] = '\0';
        peer->taken += whole;
        return true;
}

bool peer_next_until(struct peer *peer, struct peer_reply *reply, uint64_t deadline) {
        while (!take(peer, reply)) {
                struct pollfd event = { peer->fd, POLLIN, 0 };

                if (peer->ended) {
                        ck_assert_msg(peer->taken == peer->input.len, "The connection ended within a reply");
                        return false;
                }
                if (clock_left(deadline) == 0)
                        return false;
                if (process_poll(&event, 1, deadline) > 0)
                        peer_read(peer);
        }
        return true;
}

bool peer_next(struct peer *peer, struct peer_reply *reply) {
        if (peer_next_until(peer, reply, clock_patience()))
                return true;
        if (!peer->ended)
                process_give_up("Waited in vain for a reply");
        return false;
}

static void reply_expected(struct peer *peer, struct peer_reply *reply, const char *id) {
        if (!peer_next(peer, reply))
                process_give_up("The connection ended before the reply to %s", id);
}

void peer_expect(struct peer *peer, const char *id, const char *body) {
        struct peer_reply reply;

        reply_expected(peer, &reply, id);
        ck_assert_msg(reply.type == PROTOCOL_OK, "Not OK: %s %s %s", reply.id, reply.code, reply.body);
        ck_assert_str_eq(reply.id, id);
        ck_assert_str_eq(reply.body, body);
        ck_assert_uint_eq(reply.len, strlen(body));
}

void peer_expect_error(struct peer *peer, const char *id, const char *code, const char *message) {
        struct peer_reply reply;

        reply_expected(peer, &reply, id);
        ck_assert_msg(reply.type == PROTOCOL_ERR, "No error: %s %s", reply.id, reply.body);
        ck_assert_str_eq(reply.id, id);
        ck_assert_str_eq(reply.code, code);
        ck_assert_uint_gt(reply.len, 0);
        if (message)
                ck_assert_str_eq(reply.body, message);
}

void peer_expect_end(struct peer *peer) {
        struct peer_reply reply;

        if (peer_next(peer, &reply))
                ck_abort_msg("One reply too many: %s %s %s", reply.id, reply.code, reply.body);
}

/* Notes that the reply is to one of the `n` requests from `first` on, and the first to it. */
static size_t tick(bool *seen, size_t first, size_t n, const char *id) {
        char *end;
        size_t i = strtoul(id, &end, 10);

        ck_assert_msg(*end == '\0' && i >= first && i < first + n, "A reply to %s, which was not asked here",
                      id);
        ck_assert_msg(!seen[i - first], "A second reply to %s", id);
        seen[i - first] = true;
        return i;
}

void peer_expect_answers(struct peer *peer, size_t first, size_t n, const char *model) {
        _cleanup_free_ bool *seen = calloc(n, sizeof(*seen));
        struct peer_reply reply;
        char body[128];

        ck_assert_ptr_nonnull(seen);
        for (size_t i = 0; i < n; i++) {
                reply_expected(peer, &reply, "a request");
                ck_assert_msg(reply.type == PROTOCOL_OK, "Not OK: %s %s %s", reply.id, reply.code,
                              reply.body);
                snprintf(body, sizeof(body), "Response %zu from %s", tick(seen, first, n, reply.id), model);
                ck_assert_str_eq(reply.body, body);
        }
}

void peer_expect_errors(struct peer *peer, size_t first, size_t n, const char *code, const char *message) {
        _cleanup_free_ bool *seen = calloc(n, sizeof(*seen));
        struct peer_reply reply;

        ck_assert_ptr_nonnull(seen);
        for (size_t i = 0; i < n; i++) {
                reply_expected(peer, &reply, "a request");
                ck_assert_msg(reply.type == PROTOCOL_ERR, "No error: %s %s", reply.id, reply.body);
                tick(seen, first, n, reply.id);
                ck_assert_str_eq(reply.code, code);
                ck_assert_str_eq(reply.body, message);
        }
}

/* Where the value of `key` begins. */
static const char *member(const char *json, const char *key) {
        char quoted[64];
        const char *p;

        snprintf(quoted, sizeof(quoted), "\"%s\":", key);
        p = strstr(json, quoted);
        ck_assert_msg(p, "The status has no \"%s\": %s", key, json);
        p += strlen(quoted);
        while (*p == ' ')
                p++;
        return p;
}

static double member_real(const char *json, const char *key) {
        const char *p = member(json, key);
        char *end;
        double number = strtod(p, &end);

        ck_assert_msg(end > p && (*end == ',' || *end == '}'), "The status has no number in \"%s\": %s", key,
                      json);
        return number;
}

static uint64_t member_number(const char *json, const char *key) {
        const char *p = member(json, key);
        char *end;
        uint64_t number = strtoull(p, &end, 10);

        ck_assert_msg(end > p && (*end == ',' || *end == '}'), "The status has no number in \"%s\": %s", key,
                      json);
        return number;
}

static void member_text(const char *json, const char *key, char *text, size_t size) {
        const char *p = member(json, key);
        size_t n = 0;

        if (strncmp(p, "null", 4) == 0) {
                *text = '\0';
                return;
        }
        ck_assert_msg(*p == '"', "The status has no text in \"%s\": %s", key, json);
        for (p++; *p != '"'; p++) {
                ck_assert_msg(*p != '\0', "The status ends within \"%s\": %s", key, json);
                if (*p == '\\')
                        p++;
                ck_assert_uint_lt(n, size - 1);
                text[n++] = *p;
        }
        text[n] = '\0';
}

void peer_parse_status(const char *json, struct peer_status *status) {
        size_t len = strlen(json);

        ck_assert_msg(len >= 2 && json[0] == '{' && json[len - 1] == '}', "This is no object: %s", json);
        member_text(json, "status", status->status, sizeof(status->status));
        member_text(json, "model", status->model, sizeof(status->model));
        member_text(json, "error", status->error, sizeof(status->error));
        member_text(json, "version", status->version, sizeof(status->version));
        status->generation = member_number(json, "generation");
        status->attempt = member_number(json, "attempt");
        status->load = member_real(json, "load_s");
        status->progress = strstr(json, "\"progress\":null") ? -1 : member_real(json, "progress");
        status->eta = strstr(json, "\"eta_s\":null") ? -1 : member_real(json, "eta_s");
        status->waiting = member_number(json, "waiting");
        status->oldest_wait = member_real(json, "oldest_wait_s");
        status->processing = member_number(json, "processing");
        status->completed = member_number(json, "completed");
        status->failed = member_number(json, "failed");
        status->cancelled = member_number(json, "cancelled");
        status->connections = member_number(json, "connections");
        status->suspects = member_number(json, "suspects");
        status->uptime = member_real(json, "uptime_s");
        status->pid = member_number(json, "pid");
}

void peer_status(struct peer *peer, struct peer_status *status) {
        struct peer_reply reply;

        peer_send(peer, "STATUS\n");
        reply_expected(peer, &reply, "STATUS");
        ck_assert_msg(reply.type == PROTOCOL_OK, "Not OK: %s %s %s", reply.id, reply.code, reply.body);
        ck_assert_str_eq(reply.id, PROTOCOL_NO_ID);
        peer_parse_status(reply.body, status);
}

void peer_status_until(struct peer *peer, struct peer_status *status,
                       bool (*done)(const struct peer_status *status, uint64_t number), uint64_t number,
                       const char *what) {
        uint64_t deadline = clock_patience();

        for (;;) {
                peer_status(peer, status);
                if (done(status, number))
                        return;
                if (clock_now() >= deadline)
                        process_give_up("Waited in vain until %s", what);
        }
}

bool peer_status_is_waiting(const struct peer_status *status, uint64_t number) {
        return status->waiting == number;
}

bool peer_status_is_processing(const struct peer_status *status, uint64_t number) {
        return status->processing == number;
}

bool peer_status_is_completed(const struct peer_status *status, uint64_t number) {
        return status->completed == number;
}

bool peer_status_is_cancelled(const struct peer_status *status, uint64_t number) {
        return status->cancelled == number;
}

bool peer_status_is_connections(const struct peer_status *status, uint64_t number) {
        return status->connections == number;
}

bool peer_status_is_ready(const struct peer_status *status, uint64_t number) {
        (void)number;
        return strcmp(status->status, "ready") == 0;
}

bool peer_status_is_failed(const struct peer_status *status, uint64_t number) {
        (void)number;
        return strcmp(status->status, "failed") == 0;
}

bool peer_status_is_stopping(const struct peer_status *status, uint64_t number) {
        (void)number;
        return strcmp(status->status, "stopping") == 0;
}
