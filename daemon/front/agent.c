#include "daemon/front/agent.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bar.h"
#include "common/printable.h"
#include "common/util.h"

/* A client that sends more than this is none. */
#define INPUT_MAX 4096

/* The share of the model's capacity that is free, in percent. None is 1, not 0, which would be another state to HAProxy. */
static unsigned weight(const struct agent *agent) {
        struct status_sums sums;
        uint64_t taken;

        if (agent->capacity == 0)
                return 100;
        status_sum(agent->status, &sums);
        taken = MIN(sums.processing + sums.waiting, agent->capacity);
        return (unsigned)MAX(UINT64_C(1), (uint64_t)((double)(agent->capacity - taken) * 100 / (double)agent->capacity));
}

size_t agent_format(const struct agent *agent, char line[static AGENT_LINE_MAX]) {
        const struct status_expectation expectation = status_expectation(agent->status);
        const enum status_state state = status_state(agent->status);
        char error[AGENT_LINE_MAX - sizeof("down # \n")], words[BAR_WORDS_MAX];

        if (agent->draining || state == STATUS_STATE_STOPPING)
                return (size_t)snprintf(line, AGENT_LINE_MAX, "drain\n");
        switch (state) {
        case STATUS_STATE_READY:
                return (size_t)snprintf(line, AGENT_LINE_MAX, "up ready %u%%\n", weight(agent));
        case STATUS_STATE_IDLE:
                /* It would load for a request: where another machine is ready, that one is asked. */
                return (size_t)snprintf(line, AGENT_LINE_MAX, "up ready 1%%\n");
        case STATUS_STATE_FAILED:
                status_get_error(agent->status, error, sizeof(error));
                return (size_t)snprintf(line, AGENT_LINE_MAX, "down # %s\n", printable_line(error));
        default:
                return (size_t)snprintf(line, AGENT_LINE_MAX, "down # loading%s%s\n",
                                        bar_words(words, expectation.fraction, expectation.left) > 0 ? ", " : "", words);
        }
}

static void connection_close(struct agent_connection *connection) {
        if (connection->watch.fd < 0)
                return;
        reactor_unwatch(&connection->watch);
        connection->watch.fd = util_close(connection->watch.fd);
        atomic_fetch_sub(&connection->agent->limit.connections, 1);
}

/* Read until its end: to close with something unread would reset the connection, and the line might be lost. */
static void connection_ready(struct watch *watch, uint32_t events) {
        struct agent_connection *connection = container_of(watch, struct agent_connection, watch);
        char data[512];
        ssize_t n = read(watch->fd, data, sizeof(data));

        (void)events;
        if (n > 0)
                connection->taken += (size_t)n;
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR) || connection->taken > INPUT_MAX)
                connection_close(connection);
}

static void agent_accepted(struct listener *listener, int fd) {
        struct agent *agent = listener->user;
        struct agent_connection *connection = &agent->connections[agent->next++ % AGENT_CONNECTIONS_MAX];
        char line[AGENT_LINE_MAX];

        /* Its line has left long ago, if it reads at all. */
        connection_close(connection);
        connection->taken = 0;
        connection->watch.fd = fd;
        /* There is always room for it in a new socket. */
        (void)!write(fd, line, agent_format(agent, line));
        (void)shutdown(fd, SHUT_WR);
        if (reactor_watch(agent->reactor, &connection->watch, fd, EPOLLIN, connection_ready) < 0)
                connection_close(connection);
}

int agent_init(struct agent *agent, struct reactor *reactor, const struct listener_set *sockets, struct status *status,
               uint64_t capacity) {
        int r = 0;

        *agent = (struct agent){
                .reactor = reactor,
                .status = status,
                .capacity = capacity,
                /* Never reached: there is always one to take the place of. */
                .limit.max = AGENT_CONNECTIONS_MAX + 1,
        };
        for (unsigned i = 0; i < AGENT_CONNECTIONS_MAX; i++)
                agent->connections[i] = (struct agent_connection){ .watch = WATCH_NULL, .agent = agent };
        for (; r == 0 && agent->count < sockets->count; agent->count++) {
                struct listener *listener = &agent->listeners[agent->count];

                r = listener_init(listener, reactor, sockets->sockets[agent->count].fd, &agent->limit, agent_accepted);
                listener->user = agent;
        }
        return r;
}

void agent_deinit(struct agent *agent) {
        for (; agent->count > 0; agent->count--)
                listener_deinit(&agent->listeners[agent->count - 1]);
        for (unsigned i = 0; agent->reactor && i < AGENT_CONNECTIONS_MAX; i++)
                connection_close(&agent->connections[i]);
}

void agent_drain(struct agent *agent) {
        agent->draining = true;
}
