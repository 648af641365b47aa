#pragma once

/*
 * Requests: an ID, perhaps a prompt; or an exchange of HTTP. Waiting, in flight, or answered. One kind for both fronts.
 *
 * Every request is owned by a worker from birth to death; nothing here takes a lock. A waiting request is one record in a list:
 * no timer, no descriptor, no thread.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/protocol.h"
#include "common/util.h"
#include "daemon/loop/pool.h"
#include "daemon/model/model.h"

struct request;
struct request_owner;

/* How an owner hears of its requests. Nothing in here may end the owner, or touch another of its requests. */
struct request_ops {
        struct answer_ops answer;       /* what the model says, as it comes */
        /* These two end the request. `data`: the rest of the answer to a prompt. */
        void (*complete)(struct request_owner *owner, struct request *request, const char *data, size_t len);
        void (*failed)(struct request_owner *owner, struct request *request, enum protocol_code code, const char *message);
        /* The request begins to wait, or does so again; or a WAIT does. */
        void (*waiting)(struct request_owner *owner, struct request *request);
        /* The request goes to the model now: a successor is not to find it waiting. */
        void (*starting)(struct request_owner *owner, struct request *request);
};

/* Where requests come from and answers go: a connection. */
struct request_owner {
        struct recipient recipient;
        const struct request_ops *ops;
        struct list requests;
        uint32_t in_flight;
};

enum request_kind {
        REQUEST_INFERENCE,
        REQUEST_WAIT,           /* is answered when the gate has left PENDING */
        REQUEST_LOAD,           /* is answered when the next generation has begun */
};

struct request {
        struct list owner_link;
        struct list lane_link;
        uint64_t arrived;               /* nanoseconds of CLOCK_MONOTONIC */
        struct inference inference;     /* the last member: its text follows */
};

static inline struct request *request_of_inference(struct inference *inference) {
        return container_of(inference, struct request, inference);
}

static inline struct request_owner *request_owner_of(const struct request *request) {
        return container_of(request->inference.recipient, struct request_owner, recipient);
}

/* An observer, WAIT or LOAD, has no ID. */
static inline bool request_is_observer(const struct request *request) {
        return request->inference.id_len == 0;
}

/* What all workers share: the limits of what waits, and what counts against them. */
struct request_limits {
        uint64_t max_waiting;
        uint64_t max_prompt;            /* bytes, of the request socket */
        uint64_t max_body;              /* bytes, of HTTP */
        uint64_t max_prompt_memory;     /* bytes, of all prompts and bodies that are held */
        uint64_t timeout;               /* nanoseconds; 0: none */
        atomic_uint_fast64_t waiting;
        atomic_uint_fast64_t prompt_memory;
};

/*
 * `len` bytes more of prompts are held, until request_limits_release(). Returns whether that many may be; if not they are
 * counted all the same, and `message` says what the limit is.
 */
#define REQUEST_LIMITS_MESSAGE_MAX 160
bool request_limits_hold(struct request_limits *limits, size_t len, char message[static REQUEST_LIMITS_MESSAGE_MAX]);
void request_limits_release(struct request_limits *limits, size_t len);

static inline size_t request_size(size_t text_len) {
        return offsetof(struct request, inference.text) + text_len;
}

/*
 * Memory of requests. Those of a few bytes up to those with a head of HTTP and a short body come from pools, one for each size: when a
 * million of them have waited, all of it goes back to the system, whatever else was allocated meanwhile. Larger ones are malloc()'s.
 */
#define REQUEST_MEMORY_STEP 16
#define REQUEST_MEMORY_MAX 2048

struct request_memory {
        struct pool pools[REQUEST_MEMORY_MAX / REQUEST_MEMORY_STEP];
};

void request_memory_init(struct request_memory *memory);

/* Everything was freed. Harmless for memory that is all zero. */
void request_memory_deinit(struct request_memory *memory);

/* Memory for a request whose text has `text_len` bytes, not initialised. NULL: out of memory. */
struct request *request_allocate(struct request_memory *memory, size_t text_len);

/*
 * Gives it room for `to_len` bytes of text, where it had `text_len`; the text stays, as far as there is room. Returns it, perhaps
 * elsewhere; or NULL: out of memory, and it is as it was.
 */
struct request *request_resize(struct request_memory *memory, struct request *request, size_t text_len, size_t to_len);

/* Frees a request whose text has `text_len` bytes. */
void request_free(struct request_memory *memory, struct request *request, size_t text_len);

void request_owner_init(struct request_owner *owner, const struct request_ops *ops);
