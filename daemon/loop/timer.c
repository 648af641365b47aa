#include "daemon/loop/timer.h"

#include <time.h>

#include "common/number.h"
#include "common/util.h"

void timer_list_init(struct timer_list *list) {
        list_init(&list->timers);
}

void timer_init(struct timer *timer, void (*elapsed)(struct timer *timer)) {
        *timer = (struct timer){ .elapsed = elapsed };
        list_init(&timer->link);
}

static struct timer *timer_of(struct list *link) {
        return container_of(link, struct timer, link);
}

void timer_set(struct timer_list *list, struct timer *timer, uint64_t due) {
        struct list *i;

        list_remove(&timer->link);
        timer->due = due;
        for (i = list->timers.next; i != &list->timers; i = i->next)
                if (timer_of(i)->due > due)
                        break;
        list_insert_before(i, &timer->link);
}

void timer_clear(struct timer *timer) {
        list_remove(&timer->link);
}

uint64_t timer_list_due(const struct timer_list *list) {
        return list_is_empty(&list->timers) ? UINT64_MAX : timer_of(list->timers.next)->due;
}

void timer_list_elapse(struct timer_list *list, uint64_t now) {
        while (timer_list_due(list) <= now) {
                struct timer *timer = timer_of(list->timers.next);

                timer_clear(timer);
                timer->elapsed(timer);
        }
}

uint64_t timer_now(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}
