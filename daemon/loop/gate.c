#include "daemon/loop/gate.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "common/util.h"

/* The gate is taken by one thread that has yet to publish what it was taken for: pending, to everybody else. */
#define GATE_CLAIMED (-1)

int gate_init(struct gate *gate) {
        gate->reason[0] = '\0';
        atomic_init(&gate->state, GATE_PENDING);
        gate->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        return gate->fd < 0 ? -errno : 0;
}

void gate_deinit(struct gate *gate) {
        gate->fd = util_close(gate->fd);
}

static int gate_settle(struct gate *gate, enum gate_state state, const char *reason) {
        const uint64_t one = 1;
        int expected = GATE_PENDING;

        if (!atomic_compare_exchange_strong_explicit(&gate->state, &expected, GATE_CLAIMED, memory_order_acq_rel,
                                                     memory_order_relaxed))
                return 1;
        if (reason)
                snprintf(gate->reason, sizeof(gate->reason), "%s", reason);
        atomic_store_explicit(&gate->state, (int)state, memory_order_release);
        return write(gate->fd, &one, sizeof(one)) < 0 ? -errno : 0;
}

int gate_open(struct gate *gate) {
        return gate_settle(gate, GATE_OPEN, NULL);
}

int gate_fail(struct gate *gate, const char *reason) {
        return gate_settle(gate, GATE_FAILED, reason);
}

enum gate_state gate_state(const struct gate *gate) {
        int state = atomic_load_explicit(&gate->state, memory_order_acquire);

        return state == GATE_CLAIMED ? GATE_PENDING : (enum gate_state)state;
}
