#pragma once

/*
 * The requests of one lane that wait for the same places, in the order of arrival. Requests that come back from a model, which may
 * be all at once and in any order, are sorted in when somebody looks: n of them cost n log n.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/queue/places.h"
#include "daemon/queue/request.h"

struct wait_list {
        struct places_lane place;
        struct list waiting;            /* in the order of arrival */
        struct list returned;           /* not sorted in yet */
        uint64_t returned_oldest;       /* when the oldest of these arrived, or before; 0: there is none */
        bool busy;                      /* the session has no connection for it */
};

void wait_list_init(struct wait_list *list, void (*offered)(struct places_lane *place));

/* Puts back a request that was with a model, and is in no list. */
void wait_list_return(struct wait_list *list, struct request *request);

/* What wait_list_order() does where it has something to do. */
void wait_list_sort_in(struct wait_list *list);

/* Sorts in those that returned: then all are in `waiting`. */
static inline void wait_list_order(struct wait_list *list) {
        if (list->returned_oldest > 0)
                wait_list_sort_in(list);
}

/* When the oldest arrived; 0: the list is empty. */
uint64_t wait_list_oldest(const struct wait_list *list);

static inline bool wait_list_is_empty(const struct wait_list *list) {
        return list_is_empty(&list->waiting) && list_is_empty(&list->returned);
}
