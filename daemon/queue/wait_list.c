#include "daemon/queue/wait_list.h"

static struct request *request_of(struct list *lane_link) {
        return container_of(lane_link, struct request, lane_link);
}

void wait_list_init(struct wait_list *list, void (*offered)(struct places_lane *place)) {
        *list = (struct wait_list){ .place = { .offered = offered } };
        list_init(&list->waiting);
        list_init(&list->returned);
}

void wait_list_return(struct wait_list *list, struct request *request) {
        list_append(&list->returned, &request->lane_link);
        if (list->returned_oldest == 0 || request->arrived < list->returned_oldest)
                list->returned_oldest = request->arrived;
}

uint64_t wait_list_oldest(const struct wait_list *list) {
        uint64_t oldest = list->returned_oldest;

        if (!list_is_empty(&list->waiting)) {
                uint64_t arrived = request_of(list->waiting.next)->arrived;

                if (oldest == 0 || arrived < oldest)
                        oldest = arrived;
        }
        return oldest;
}

/* Merges two sorted lists into `to`, which is empty. */
static void merge(struct list *to, struct list *a, struct list *b) {
        while (!list_is_empty(a) && !list_is_empty(b)) {
                struct list *from = request_of(b->next)->arrived < request_of(a->next)->arrived ? b : a, *link = from->next;

                list_remove(link);
                list_append(to, link);
        }
        for (struct list *rest = list_is_empty(a) ? b : a; !list_is_empty(rest);) {
                struct list *link = rest->next;

                list_remove(link);
                list_append(to, link);
        }
}

/* Sorts by arrival: a merge sort, bottom up, whose lists at i have 2^i requests. */
static void sort(struct list *list) {
        struct list bins[32], carry, merged;
        unsigned used = 0;

        while (!list_is_empty(list)) {
                struct list *link = list->next;
                unsigned i;

                list_remove(link);
                list_init(&carry);
                list_append(&carry, link);
                for (i = 0; i < used && !list_is_empty(&bins[i]); i++) {
                        list_init(&merged);
                        merge(&merged, &bins[i], &carry);
                        list_move_all(&carry, &merged);
                }
                if (i == used)
                        list_init(&bins[used++]);
                list_move_all(&bins[i], &carry);
        }
        list_init(&carry);
        for (unsigned i = 0; i < used; i++) {
                list_init(&merged);
                merge(&merged, &bins[i], &carry);
                list_move_all(&carry, &merged);
        }
        list_move_all(list, &carry);
}

void wait_list_sort_in(struct wait_list *list) {
        struct list merged;

        list->returned_oldest = 0;
        if (list_is_empty(&list->returned))
                return;
        sort(&list->returned);
        /* Nearly always all of them are older. */
        if (list_is_empty(&list->waiting) ||
            request_of(list->returned.previous)->arrived <= request_of(list->waiting.next)->arrived) {
                while (!list_is_empty(&list->returned)) {
                        struct list *link = list->returned.previous;

                        list_remove(link);
                        list_insert_before(list->waiting.next, link);
                }
                return;
        }
        list_init(&merged);
        merge(&merged, &list->returned, &list->waiting);
        list_move_all(&list->waiting, &merged);
}
