#include "common/json.h"

#include <errno.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* 15 digits: the last that a double holds, so that 1.204 is not 1.2039999. */
#define FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(15))

/* In front of everything that jansson allocates, aligned as malloc() does it. */
struct block {
        struct block *previous;         /* both are NULL but while it is read: then it is in a list */
        struct block *next;
} __attribute__((aligned(16)));

/* What this thread is reading; `next` is NULL otherwise. */
static _Thread_local struct block blocks;
static _Thread_local sigjmp_buf out_of_memory;

/* There is no way to tell jansson that it cannot go on: it is left where it is, as longjmp(3) allows, and what it had is freed. */
static void *allocate(size_t size) {
        struct block *block = size <= SIZE_MAX - sizeof(*block) ? malloc(sizeof(*block) + size) : NULL;

        if (!block) {
                if (blocks.next)
                        siglongjmp(out_of_memory, 1);
                return NULL;
        }
        *block = (struct block){ 0 };
        if (blocks.next) {
                block->previous = &blocks;
                block->next = blocks.next;
                block->next->previous = block;
                blocks.next = block;
        }
        return block + 1;
}

static void take_out(struct block *block) {
        if (!block->next)
                return;
        block->previous->next = block->next;
        block->next->previous = block->previous;
        *block = (struct block){ 0 };
}

static void release(void *pointer) {
        struct block *block;

        if (!pointer)
                return;
        block = (struct block *)pointer - 1;
        take_out(block);
        free(block);
}

/* Before anything is allocated: what is freed so must have been allocated so. */
__attribute__((constructor)) static void use_blocks(void) {
        json_set_alloc_funcs(allocate, release);
}

json_t *json_read(const char *data, size_t len) {
        json_t *json;

        blocks.previous = blocks.next = &blocks;
        if (sigsetjmp(out_of_memory, 0) != 0) {
                while (blocks.next != &blocks)
                        release(blocks.next + 1);
                blocks.next = NULL;
                errno = ENOMEM;
                return NULL;
        }
        json = json_loadb(data, len, 0, NULL);
        /* Those that stay are the value's; another thread may free them. */
        while (blocks.next != &blocks)
                take_out(blocks.next);
        blocks.next = NULL;
        if (!json)
                errno = EINVAL;
        return json;
}

char *json_write(const json_t *json) {
        char small[2048];
        size_t len = json ? json_dumpb(json, small, sizeof(small), FLAGS) : 0;
        char *text = len > 0 ? malloc(len + 1) : NULL;

        if (!text)
                return NULL;
        if (len <= sizeof(small))
                memcpy(text, small, len);
        else if (json_dumpb(json, text, len, FLAGS) != len) {
                /* It needs memory to see that nothing is in itself. */
                free(text);
                return NULL;
        }
        text[len] = '\0';
        return text;
}
