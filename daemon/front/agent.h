#pragma once

/*
 * HAProxy's agent-check: every client that connects is told in one line whether requests are welcome here, and how many of
 * them, and then sees the end. In the main thread.
 */

#include "daemon/front/listener.h"
#include "daemon/status.h"

/* Connections whose clients have not closed yet; one more takes the place of the oldest. */
#define AGENT_CONNECTIONS_MAX 32

struct agent_connection {
        struct watch watch;
        struct agent *agent;
        size_t taken;                   /* bytes that the client sent, and nobody wants */
};

struct agent {
        struct reactor *reactor;
        struct status *status;
        uint64_t capacity;
        bool draining;
        struct listener_limit limit;
        struct listener listeners[LISTENER_SET_MAX];
        unsigned count;
        struct agent_connection connections[AGENT_CONNECTIONS_MAX];
        unsigned next;                  /* the oldest */
};

/*
 * Answers at all sockets of the set, which is borrowed, as is `status`. `capacity`: as many requests may be with the model at
 * once; 0: any number. Returns 0 or -errno; agent_deinit() is due either way, and harmless without this and twice.
 */
int agent_init(struct agent *agent, struct reactor *reactor, const struct listener_set *sockets, struct status *status,
               uint64_t capacity);
void agent_deinit(struct agent *agent);

/* From now on no requests are welcome, whatever the status says. */
void agent_drain(struct agent *agent);

/* Writes the line, with its end. Returns its length. */
#define AGENT_LINE_MAX 160
size_t agent_format(const struct agent *agent, char line[static AGENT_LINE_MAX]);
