#include "daemon/loop/pool.h"

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "common/util.h"

/* Pages are aligned to their size, so that an object's address tells its page. Only what is touched takes memory. */
#define PAGE_SIZE ((size_t)1 << 20)

/* So much of an unused page is kept in memory. */
#define KEPT_SIZE ((size_t)64 << 10)

struct slot {
        struct slot *next;
};

struct page {
        struct list link;
        struct slot *free;      /* put back, and not taken since */
        char *fresh;            /* never taken: from here to the end */
        size_t used;
};

void pool_init(struct pool *pool, size_t size) {
        assert(size >= sizeof(struct slot) && size % sizeof(struct slot) == 0);
        *pool = (struct pool){ .size = size };
        list_init(&pool->pages);
}

/* Where a sanitizer looks for what is used after it was put back, each object is malloc()'s. */
#if defined(__SANITIZE_ADDRESS__)

void pool_deinit(struct pool *pool) {
        (void)pool;
}

void *pool_take(struct pool *pool) {
        return malloc(pool->size);
}

void pool_put(struct pool *pool, void *object) {
        (void)pool;
        free(object);
}

#else

static struct page *page_of(struct list *link) {
        return container_of(link, struct page, link);
}

static struct page *page_new(void) {
        char *area = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        size_t before;
        struct page *page;

        if (area == MAP_FAILED)
                return NULL;
        before = -(uintptr_t)area & (PAGE_SIZE - 1);
        if (before > 0)
                munmap(area, before);
        munmap(area + before + PAGE_SIZE, PAGE_SIZE - before);
        page = (struct page *)(void *)(area + before);
        page->fresh = (char *)(page + 1);
        return page;
}

static bool page_is_full(const struct pool *pool, const struct page *page) {
        return !page->free && page->fresh + pool->size > (const char *)page + PAGE_SIZE;
}

void *pool_take(struct pool *pool) {
        struct page *page;
        void *object;

        if (list_is_empty(&pool->pages)) {
                page = page_new();
                if (!page)
                        return NULL;
                list_append(&pool->pages, &page->link);
        }
        page = page_of(pool->pages.next);
        if (page->free) {
                object = page->free;
                page->free = page->free->next;
        } else {
                object = page->fresh;
                page->fresh += pool->size;
        }
        page->used++;
        if (page_is_full(pool, page)) {
                list_remove(&page->link);
                pool->full++;
        }
        return object;
}

void pool_put(struct pool *pool, void *object) {
        struct page *page = (struct page *)((uintptr_t)object & ~(PAGE_SIZE - 1));
        struct slot *slot = object;

        if (page_is_full(pool, page)) {
                list_append(&pool->pages, &page->link);
                pool->full--;
        }
        slot->next = page->free;
        page->free = slot;
        if (--page->used > 0)
                return;
        /* The only one that has room is kept, and begun anew: what comes and goes one by one maps nothing. */
        if (pool->pages.next == &page->link && pool->pages.previous == &page->link) {
                if ((size_t)(page->fresh - (char *)page) > KEPT_SIZE)
                        (void)madvise((char *)page + KEPT_SIZE, PAGE_SIZE - KEPT_SIZE, MADV_DONTNEED);
                page->free = NULL;
                page->fresh = (char *)(page + 1);
                return;
        }
        list_remove(&page->link);
        munmap(page, PAGE_SIZE);
}

void pool_deinit(struct pool *pool) {
        if (pool->size == 0)
                return;
        assert(pool->full == 0);
        while (!list_is_empty(&pool->pages)) {
                struct page *page = page_of(pool->pages.next);

                assert(page->used == 0);
                list_remove(&page->link);
                munmap(page, PAGE_SIZE);
        }
        pool->size = 0;
}

#endif
