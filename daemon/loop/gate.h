#pragma once

/*
 * A one-shot broadcast: a state that leaves PENDING once, and an eventfd that is written exactly once then and
 * never read. Nothing resets a gate.
 *
 * Any number of epoll sets watch the eventfd, each edge-triggered and once: one write wakes them all, and a watch
 * that is added later still fires, for the eventfd stays readable (epoll(7), eventfd(2)). The state is stored
 * before the write: who looks at the state first and finds it pending will see the event.
 */

#include <stdatomic.h>

enum gate_state {
        GATE_PENDING,
        GATE_OPEN,
        GATE_FAILED,
};

/* The state while the thread that fails the gate has yet to write the reason: pending, to everybody else. */
#define GATE_CLAIMED (-1)

#define GATE_REASON_MAX 768

struct gate {
        atomic_int state;
        int fd;
        char reason[GATE_REASON_MAX];   /* written before the state becomes GATE_FAILED, and not again */
};

/* Returns 0 or -errno of eventfd(2). */
int gate_init(struct gate *gate);
void gate_deinit(struct gate *gate);

/*
 * Open the gate, or fail it for `reason`, which is copied and cut to fit. From any thread; the first of them is
 * the one that counts. Returns 0, 1 if the gate had left PENDING before, or -errno of write(2): then the state
 * stands, and nobody was woken.
 */
int gate_open(struct gate *gate);
int gate_fail(struct gate *gate, const char *reason);

/* What the gate is now. What was stored before it was opened or failed is seen by who sees that. In here, for every request looks. */
static inline enum gate_state gate_state(const struct gate *gate) {
        int state = atomic_load_explicit(&gate->state, memory_order_acquire);

        return state == GATE_CLAIMED ? GATE_PENDING : (enum gate_state)state;
}
