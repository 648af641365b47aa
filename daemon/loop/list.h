#pragma once

/*
 * A doubly linked list whose links are members of what it links. It owns nothing.
 * A link that is in no list points at itself, so that it can be unlinked twice.
 */

#include <stdbool.h>

struct list {
        struct list *next;
        struct list *previous;
};

#define LIST_INIT(list) { &(list), &(list) }

static inline void list_init(struct list *list) {
        list->next = list->previous = list;
}

static inline bool list_is_empty(const struct list *list) {
        return list->next == list;
}

static inline void list_insert_before(struct list *where, struct list *link) {
        link->next = where;
        link->previous = where->previous;
        where->previous->next = link;
        where->previous = link;
}

static inline void list_append(struct list *list, struct list *link) {
        list_insert_before(list, link);
}

static inline void list_remove(struct list *link) {
        link->previous->next = link->next;
        link->next->previous = link->previous;
        list_init(link);
}

/* Moves all of `from`, which is empty afterwards, into the empty list `to`. */
static inline void list_move_all(struct list *to, struct list *from) {
        list_init(to);
        if (list_is_empty(from))
                return;
        *to = *from;
        to->next->previous = to;
        to->previous->next = to;
        list_init(from);
}
