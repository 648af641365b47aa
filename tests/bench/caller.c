#include "tests/bench/caller.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/bench/model.h"
#include "tests/bench/tool.h"

#define EVENTS 256
#define PATIENCE_MSEC 60000

static const char length_name[] = "Content-Length:";

size_t caller_message_len(const char *text, size_t len) {
        const char *end = memmem(text, len, "\r\n\r\n", 4);
        size_t whole;

        if (!end)
                return 0;
        whole = (size_t)(end - text) + 4;
        for (const char *line = text; line < end; line = (const char *)memchr(line, '\n', (size_t)(end + 4 - line)) + 1)
                if (strncasecmp(line, length_name, strlen(length_name)) == 0)
                        whole += strtoul(line + strlen(length_name), NULL, 10);
        return len >= whole ? whole : 0;
}

void callers_init(struct callers *callers, unsigned count, uint16_t port, const char *path) {
        /* Reset when they are closed, so that no port is kept: another round needs as many. */
        const struct linger reset = { .l_onoff = 1 };

        callers->epoll = epoll_create1(EPOLL_CLOEXEC);
        callers->count = count;
        callers->each = malloc(count * sizeof(*callers->each));
        if (callers->epoll < 0 || !callers->each)
                tool_fail("malloc");
        /* The pages are there before the clock runs. */
        memset(callers->each, 0xff, count * sizeof(*callers->each));
        for (unsigned i = 0; i < count; i++) {
                struct caller *caller = &callers->each[i];
                struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.u32 = i };

                caller->usual = 0;
                caller->len = 0;
                caller->fd = path ? tool_dial(path) : tool_dial_port(port);
                if (setsockopt(caller->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) < 0 ||
                    epoll_ctl(callers->epoll, EPOLL_CTL_ADD, caller->fd, &event) < 0)
                        tool_fail("epoll_ctl");
        }
}

void callers_deinit(struct callers *callers) {
        for (unsigned i = 0; i < callers->count; i++)
                close(callers->each[i].fd);
        free(callers->each);
        util_close(callers->epoll);
        *callers = (struct callers)CALLERS_NULL;
}

void caller_ask(struct caller *caller, int id) {
        static char text[1024];
        static int n, id_before;

        /* Mostly it is the one before. */
        if (n == 0 || id != id_before) {
                char id_field[48] = "";

                if (id >= 0)
                        snprintf(id_field, sizeof(id_field), "X-Request-Id: %d\r\n", id);
                n = snprintf(text, sizeof(text),
                             "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                             "%sContent-Length: %d\r\n\r\n" CALLER_BODY_BEGIN "%0*d" CALLER_BODY_END, id_field, CALLER_BODY,
                             (int)(CALLER_BODY - strlen(CALLER_BODY_BEGIN CALLER_BODY_END)), 0);
                id_before = id;
        }
        caller->len = 0;
        if (send(caller->fd, text, (size_t)n, MSG_NOSIGNAL) != n)
                tool_fail("send");
}

size_t caller_receive(struct caller *caller) {
        ssize_t n = recv(caller->fd, caller->answer + caller->len, sizeof(caller->answer) - caller->len - 1, MSG_DONTWAIT);

        if (n < 0 && errno == EAGAIN)
                return 0;
        if (n <= 0)
                tool_fail("recv");
        caller->len += (uint32_t)n;
        caller->answer[caller->len] = '\0';
        return (size_t)n;
}

size_t caller_hear(struct caller *caller) {
        size_t whole;

        if (caller_receive(caller) == 0)
                return 0;
        whole = caller->len == caller->usual ? caller->usual : caller_message_len(caller->answer, caller->len);
        if (whole == 0)
                return 0;
        if (memcmp(caller->answer, "HTTP/1.1 200", 12) != 0 || whole != caller->len)
                tool_fail(caller->answer);
        caller->usual = (uint32_t)whole;
        return whole;
}

void caller_verify(const struct caller *caller) {
        static char body[MODEL_BODY];

        if (body[0] == '\0')
                memset(body, 'x', sizeof(body));
        if (caller->len < sizeof(body) + 4 || memcmp(caller->answer + caller->len - sizeof(body), body, sizeof(body)) != 0 ||
            memcmp(caller->answer + caller->len - sizeof(body) - 4, "\r\n\r\n", 4) != 0)
                tool_fail(caller->answer);
}

size_t callers_drive(struct callers *callers, uint64_t end, double *samples, size_t max) {
        unsigned asked = 0;
        size_t answers = 0;

        for (; asked < callers->count; asked++) {
                callers->each[asked].sent = tool_now();
                caller_ask(&callers->each[asked], -1);
        }
        while (asked > 0) {
                struct epoll_event events[EVENTS];
                int n = epoll_wait(callers->epoll, events, EVENTS, PATIENCE_MSEC);

                if (n <= 0)
                        tool_fail("epoll_wait");
                for (int i = 0; i < n; i++) {
                        struct caller *caller = &callers->each[events[i].data.u32];
                        uint64_t now;

                        if (caller_hear(caller) == 0)
                                continue;
                        caller_verify(caller);
                        now = tool_now();
                        if (samples && answers < max)
                                samples[answers] = (double)(now - caller->sent) / 1e3;
                        answers++;
                        if (now >= end) {
                                asked--;
                                continue;
                        }
                        caller->sent = now;
                        caller_ask(caller, -1);
                }
        }
        return answers;
}
