#include "daemon/queue/request.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

void request_memory_init(struct request_memory *memory) {
        for (size_t i = 0; i < ARRAY_SIZE(memory->pools); i++)
                pool_init(&memory->pools[i], (i + 1) * REQUEST_MEMORY_STEP);
}

void request_memory_deinit(struct request_memory *memory) {
        for (size_t i = 0; i < ARRAY_SIZE(memory->pools); i++)
                pool_deinit(&memory->pools[i]);
}

/* The pool for requests with so many bytes of text; NULL: they are malloc()'s. */
static struct pool *pool_of(struct request_memory *memory, size_t text_len) {
        const size_t size = request_size(text_len);

        return size <= REQUEST_MEMORY_MAX ? &memory->pools[(size - 1) / REQUEST_MEMORY_STEP] : NULL;
}

struct request *request_allocate(struct request_memory *memory, size_t text_len) {
        struct pool *pool = pool_of(memory, text_len);

        return pool ? pool_take(pool) : malloc(request_size(text_len));
}

struct request *request_resize(struct request_memory *memory, struct request *request, size_t text_len, size_t to_len) {
        const struct pool *from = pool_of(memory, text_len), *to = pool_of(memory, to_len);
        struct request *resized;

        if (from && from == to)
                return request;
        if (!from && !to)
                return realloc(request, request_size(to_len));
        resized = request_allocate(memory, to_len);
        if (!resized)
                return NULL;
        memcpy(resized, request, request_size(MIN(text_len, to_len)));
        request_free(memory, request, text_len);
        return resized;
}

void request_free(struct request_memory *memory, struct request *request, size_t text_len) {
        struct pool *pool = pool_of(memory, text_len);

        if (pool)
                pool_put(pool, request);
        else
                free(request);
}

bool request_limits_hold(struct request_limits *limits, size_t len, char message[static REQUEST_LIMITS_MESSAGE_MAX]) {
        if (len == 0 || atomic_fetch_add_explicit(&limits->prompt_memory, len, memory_order_relaxed) + len <=
                                limits->max_prompt_memory)
                return true;
        snprintf(message, REQUEST_LIMITS_MESSAGE_MAX,
                 "The prompts that are held may need %" PRIu64 " bytes together; --max-prompt-memory raises that",
                 limits->max_prompt_memory);
        return false;
}

void request_limits_release(struct request_limits *limits, size_t len) {
        if (len > 0)
                atomic_fetch_sub_explicit(&limits->prompt_memory, len, memory_order_relaxed);
}

void request_owner_init(struct request_owner *owner, const struct request_ops *ops) {
        *owner = (struct request_owner){ .recipient = { &ops->answer }, .ops = ops };
        list_init(&owner->requests);
}
