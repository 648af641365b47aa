#include "daemon/queue/lane_inner.h"

struct request *lane_allocate(struct lane *lane, size_t text_len) {
        return request_allocate(&lane->memory, text_len);
}

void lane_release(struct lane *lane, struct request *request, size_t text_len) {
        request_free(&lane->memory, request, text_len);
}

struct request *lane_resize(struct lane *lane, struct request *request, size_t text_len, size_t to_len) {
        return request_resize(&lane->memory, request, text_len, to_len);
}

void lane_note_use(struct lane *lane, const struct request *request, int n) {
        if (!request->inference.demands)
                return;
        counter_add(&lane->counters->demands, n);
        counter_set(&lane->counters->used, reactor_now(lane->reactor));
}

void lane_request_end(struct lane *lane, struct request *request) {
        lane_note_use(lane, request, -1);
        if (request->inference.lost || request->inference.suspect)
                lane_end_suspicion(lane, request);
        list_remove(&request->lane_link);
        list_remove(&request->owner_link);
        request_limits_release(lane->queue->limits, request->inference.prompt_len);
        lane_release(lane, request, (size_t)request->inference.id_len + request->inference.prompt_len);
}

void lane_note_oldest(struct lane *lane) {
        uint64_t oldest = 0;

        for (unsigned i = 0; i < PLACES_KINDS; i++) {
                uint64_t arrived = wait_list_oldest(&lane->lists[i]);

                if (arrived > 0 && (oldest == 0 || arrived < oldest))
                        oldest = arrived;
        }
        counter_set(&lane->counters->oldest, oldest);
}

static void report_change(struct lane *lane) {
        if (lane->queue->changed)
                lane->queue->changed(lane->queue);
}

void lane_report_written(struct lane *lane) {
        if (lane->events->written)
                lane->events->written(lane);
}

void lane_leave_waiting(struct lane *lane, uint64_t n) {
        if (n == 0)
                return;
        atomic_fetch_sub_explicit(&lane->queue->limits->waiting, n, memory_order_relaxed);
        counter_add(&lane->counters->waiting, -(int64_t)n);
        lane_note_oldest(lane);
        report_change(lane);
}

void lane_count_waiting(struct lane *lane) {
        counter_add(&lane->counters->waiting, 1);
        lane_note_oldest(lane);
        report_change(lane);
}

bool lane_enter_waiting(struct lane *lane) {
        struct request_limits *limits = lane->queue->limits;

        if (atomic_fetch_add_explicit(&limits->waiting, 1, memory_order_relaxed) < limits->max_waiting)
                return true;
        atomic_fetch_sub_explicit(&limits->waiting, 1, memory_order_relaxed);
        return false;
}

void lane_leave_in_flight(struct lane *lane, struct request *request) {
        struct wait_list *list = lane_list_of(lane, request);

        counter_add(&lane->counters->processing, -1);
        request->inference.started = false;
        request_owner_of(request)->in_flight--;
        if (places_give_back(lane_places_of(lane, list), &list->place))
                reactor_queue(lane->reactor, &lane->settle);
        if (lane_is_stopping(lane))
                report_change(lane);
}

static uint64_t earliest(uint64_t a, uint64_t b) {
        return b > 0 ? MIN(a, b) : a;
}

void lane_set_timeout_limited(struct lane *lane) {
        uint64_t first = UINT64_MAX;

        first = earliest(first, atomic_load_explicit(&lane->counters->oldest, memory_order_relaxed));
        if (!list_is_empty(&lane->in_flight))
                first = MIN(first, lane_request_of(lane->in_flight.next)->arrived);
        if (first == UINT64_MAX)
                timer_clear(&lane->timeout);
        else if (!timer_is_set(&lane->timeout) || lane->timeout.due > first + lane->queue->limits->timeout)
                /* One that was set for a request that is gone elapses early, and is set again then. */
                reactor_set_timer(lane->reactor, &lane->timeout, first + lane->queue->limits->timeout);
}

static bool nothing_waits(const struct lane *lane) {
        bool nothing = list_is_empty(&lane->deferred);

        for (unsigned i = 0; i < PLACES_KINDS; i++)
                nothing = nothing && wait_list_is_empty(&lane->lists[i]);
        return nothing;
}

bool lane_is_idle(const struct lane *lane, uint64_t tunnels) {
        if (atomic_load_explicit(&lane->counters->processing, memory_order_relaxed) > tunnels)
                return false;
        return lane->leaving || (nothing_waits(lane) && list_is_empty(&lane->observers));
}

void lane_fail(struct lane *lane, struct request *request, enum protocol_code code, const char *message) {
        struct request_owner *owner = request_owner_of(request);

        counter_add(&lane->counters->failed, 1);
        owner->ops->failed(owner, request, code, message);
        lane_request_end(lane, request);
}

void lane_keep_turn(struct lane *lane, struct wait_list *list) {
        if (!list->busy && !lane->leaving)
                places_wait(lane_places_of(lane, list), &list->place, wait_list_oldest(list));
}

void lane_give_up_turn(struct lane *lane, struct wait_list *list) {
        places_leave(lane_places_of(lane, list), &list->place);
        places_pass_on(lane_places_of(lane, list), &list->place);
}

void lane_list_changed(struct lane *lane, struct wait_list *list) {
        if (wait_list_is_empty(list) || list->busy || lane->leaving)
                lane_give_up_turn(lane, list);
        else
                lane_keep_turn(lane, list);
}

void lane_append_waiting(struct lane *lane, struct request *request) {
        struct request_owner *owner = request_owner_of(request);

        list_append(&lane_list_of(lane, request)->waiting, &request->lane_link);
        lane_count_waiting(lane);
        lane_set_timeout(lane);
        owner->ops->waiting(owner, request);
}

void lane_put_back(struct lane *lane, struct request *request) {
        struct wait_list *list = lane_list_of(lane, request);
        struct request_owner *owner = request_owner_of(request);

        wait_list_return(list, request);
        lane_keep_turn(lane, list);
        atomic_fetch_add_explicit(&lane->queue->limits->waiting, 1, memory_order_relaxed);
        lane_count_waiting(lane);
        lane_set_timeout(lane);
        owner->ops->waiting(owner, request);
}
