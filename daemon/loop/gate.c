#include "daemon/loop/gate.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "common/util.h"

int gate_init(struct gate *gate) {
        gate->reason[0] = '\0';
        atomic_init(&gate->state, GATE_PENDING);
        gate->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        return gate->fd < 0 ? -errno : 0;
}

void gate_deinit(struct gate *gate) {
        gate->fd = util_close(gate->fd);
}

static bool gate_leave_pending(struct gate *gate, int state) {
        int expected = GATE_PENDING;

        return atomic_compare_exchange_strong_explicit(&gate->state, &expected, state, memory_order_acq_rel,
                                                       memory_order_relaxed);
}

static int gate_broadcast(const struct gate *gate) {
        const uint64_t one = 1;

        return write(gate->fd, &one, sizeof(one)) < 0 ? -errno : 0;
}

/* Nothing is to be published with it: whoever comes second finds it open. */
int gate_open(struct gate *gate) {
        return gate_leave_pending(gate, GATE_OPEN) ? gate_broadcast(gate) : 1;
}

int gate_fail(struct gate *gate, const char *reason) {
        if (!gate_leave_pending(gate, GATE_CLAIMED))
                return 1;
        snprintf(gate->reason, sizeof(gate->reason), "%s", reason);
        atomic_store_explicit(&gate->state, (int)GATE_FAILED, memory_order_release);
        return gate_broadcast(gate);
}
