#include "common/number.h"
#include "daemon/queue/lane_inner.h"

/* The longest that a model's Retry-After is heeded. */
#define RETRY_AFTER_MAX 30

/*
 * A connection that the model closes when a request has just been sent on it was idle for too long, or the model is being killed.
 * After this time one that is killed takes no connection any more: then the request goes to the next generation.
 */
#define STALE_PAUSE (50 * NSEC_PER_MSEC)

static uint64_t due_of(struct list *link) {
        return lane_request_of(link)->inference.handle;
}

/* The same for one that is to be sent again after `nsec`, and not before. */
static void put_off(struct lane *lane, struct request *request, uint64_t nsec) {
        struct request_owner *owner = request_owner_of(request);
        struct list *i = lane->deferred.previous;
        const uint64_t timeout = lane->queue->limits->timeout;
        uint64_t due = timer_now() + nsec;

        /* Then it stands among the others, which are looked at when they time out. */
        if (timeout > 0)
                due = MIN(due, request->arrived + timeout);

        owner->ops->waiting(owner, request);
        while (i != &lane->deferred && due_of(i) > due)
                i = i->previous;
        list_insert_before(i->next, &request->lane_link);
        request->inference.handle = due;
        atomic_fetch_add_explicit(&lane->queue->limits->waiting, 1, memory_order_relaxed);
        lane_count_waiting(lane);
        reactor_set_timer(lane->reactor, &lane->defer, due_of(lane->deferred.next));
}

void lane_defer_elapsed(struct timer *timer) {
        struct lane *lane = container_of(timer, struct lane, defer);

        while (!list_is_empty(&lane->deferred) && due_of(lane->deferred.next) <= reactor_now(lane->reactor)) {
                struct request *request = lane_request_of(lane->deferred.next);
                struct wait_list *list = lane_list_of(lane, request);

                list_remove(&request->lane_link);
                wait_list_return(list, request);
                lane_keep_turn(lane, list);
        }
        if (!list_is_empty(&lane->deferred))
                reactor_set_timer(lane->reactor, &lane->defer, due_of(lane->deferred.next));
        lane_note_oldest(lane);
        lane_set_timeout(lane);
        reactor_queue(lane->reactor, &lane->settle);
}

/* The model may be lost: nothing is sent to it until it was probed. */
static void suspect(struct lane *lane) {
        atomic_fetch_add(&lane->generation->suspicions, 1);
        lane->queue->suspect(lane->queue);
}

/* Whether the model may have ended with the request. */
static bool is_loss(enum ending how) {
        return how == ENDING_LOST || how == ENDING_STALE;
}

/* Puts back a request that may be sent again; of which nothing was delivered. */
static void put_back(struct lane *lane, struct request *request, const struct answer_end *end) {
        if (end->how == ENDING_UNAVAILABLE && end->retry_after > 0 && end->retry_after <= RETRY_AFTER_MAX) {
                put_off(lane, request, end->retry_after * NSEC_PER_SEC);
                return;
        }
        if (end->how == ENDING_STALE && !request->inference.spent && !lane_is_lost_before(lane)) {
                put_off(lane, request, STALE_PAUSE);
                return;
        }
        lane_put_back(lane, request);
        if (gate_state(&lane->generation->gate) == GATE_OPEN && end->how != ENDING_UNSENT)
                suspect(lane);
        else
                reactor_queue(lane->reactor, &lane->settle);
}

/* What becomes of a request of which nothing was delivered: it may be sent again. */
static void send_again(struct lane *lane, struct request *request, const struct answer_end *end) {
        struct inference *inference = &request->inference;
        const bool was_sent = end->how != ENDING_REFUSED && end->how != ENDING_UNSENT;
        enum gate_state state;

        lane_follow(lane);
        state = gate_state(&lane->generation->gate);
        if (was_sent && (!inference->repeats || (inference->resent && !is_loss(end->how)))) {
                lane_fail(lane, request, PROTOCOL_INFERENCE_FAILED, end->text);
                if (end->how == ENDING_LOST && state == GATE_OPEN && !lane_is_stopping(lane))
                        suspect(lane);
        } else if (state == GATE_FAILED)
                lane_fail(lane, request, PROTOCOL_LOAD_FAILED, lane->generation->gate.reason);
        else if (lane_is_stopping(lane))
                lane_fail(lane, request, PROTOCOL_INFERENCE_FAILED, end->text);
        else {
                counter_add(&lane->counters->retries, was_sent && !inference->resent);
                inference->spent = was_sent && inference->resent;
                inference->resent |= was_sent;
                put_back(lane, request, end);
        }
}

void lane_ended(struct session_events *events, struct inference *inference, const struct answer_end *end) {
        struct lane *lane = container_of(events, struct lane, session_events);
        struct request *request = request_of_inference(inference);
        struct request_owner *owner = request_owner_of(request);

        /* First: at every moment it is counted as in flight or as lost. */
        if (is_loss(end->how))
                lane_note_lost(lane, request);
        lane_leave_in_flight(lane, request);
        /* In no list, so that it is not parked before it is certain what becomes of it. */
        list_remove(&request->lane_link);
        switch (end->how) {
        case ENDING_COMPLETE:
                counter_add(&lane->counters->completed, 1);
                owner->ops->complete(owner, request, end->text, end->len);
                lane_request_end(lane, request);
                break;
        case ENDING_FAILED:
                lane_fail(lane, request, PROTOCOL_INFERENCE_FAILED, end->text);
                break;
        default:
                send_again(lane, request, end);
                break;
        }
        lane_check_drained(lane);
}

void lane_room(struct session_events *events) {
        struct lane *lane = container_of(events, struct lane, session_events);

        for (unsigned i = 0; i < PLACES_KINDS; i++)
                lane->lists[i].busy = false;
        reactor_queue(lane->reactor, &lane->settle);
}

void lane_undefer(struct lane *lane) {
        while (!list_is_empty(&lane->deferred)) {
                struct request *request = lane_request_of(lane->deferred.next);

                list_remove(&request->lane_link);
                wait_list_return(lane_list_of(lane, request), request);
        }
        timer_clear(&lane->defer);
        for (unsigned i = 0; i < PLACES_KINDS; i++)
                wait_list_order(&lane->lists[i]);
}
