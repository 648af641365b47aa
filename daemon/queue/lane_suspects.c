#include <stdio.h>

#include "daemon/queue/lane_inner.h"

/* Of a request that was sent twice, and whose connection broke both times, though the model lives. */
#define BROKEN_TWICE "The connection to the model broke twice before an answer began"

void lane_note_lost(struct lane *lane, struct request *request) {
        if (request->inference.lost)
                return;
        request->inference.lost = true;
        lane->lost++;
        atomic_fetch_add(&lane->queue->lost, 1);
}

static void clear_lost(struct lane *lane, struct request *request) {
        request->inference.lost = request->inference.spent = false;
        lane->lost--;
        atomic_fetch_sub(&lane->queue->lost, 1);
}

static void clear_suspect(struct lane *lane, struct request *request) {
        request->inference.suspect = false;
        counter_add(&lane->counters->suspects, -1);
        if (atomic_fetch_sub(&lane->queue->suspects, 1) == 1)
                lane->queue->cleared(lane->queue);
}

void lane_end_suspicion(struct lane *lane, struct request *request) {
        if (request->inference.lost)
                clear_lost(lane, request);
        if (request->inference.suspect)
                clear_suspect(lane, request);
}

/* It waits, and is the next that goes to the model, alone. */
static void make_suspect(struct lane *lane, struct request *request) {
        clear_lost(lane, request);
        request->inference.suspect = true;
        counter_add(&lane->counters->suspects, 1);
        atomic_fetch_add(&lane->queue->suspects, 1);
        list_remove(&request->lane_link);
        wait_list_return(lane_list_of(lane, request), request);
}

/*
 * Whether it is over with it. A light request is not suspected the first time: one that the model keeps waiting, as some GETs are, would
 * have everybody wait for it.
 */
static bool judge(struct lane *lane, struct request *request, enum loss how, const char *reason) {
        const struct inference *inference = &request->inference;
        const bool fails = how == LOSS_CRASHED ? inference->suspect : inference->spent;

        if (fails)
                lane_fail(lane, request, PROTOCOL_INFERENCE_FAILED, reason);
        else if (how == LOSS_CRASHED && (!inference->is_light || inference->spent))
                make_suspect(lane, request);
        else
                clear_lost(lane, request);
        return fails;
}

/* Those of a list. Returns with how many it is over. */
static uint64_t judge_all(struct lane *lane, struct list *list, enum loss how, const char *reason) {
        uint64_t n = 0;

        for (struct list *i = list->next, *next; i != list; i = next) {
                next = i->next;
                if (lane_request_of(i)->inference.lost)
                        n += judge(lane, lane_request_of(i), how, reason);
        }
        return n;
}

static void judge_waiting(struct lane *lane, enum loss how, const char *reason, uint64_t n) {
        for (unsigned i = 0; i < PLACES_KINDS; i++) {
                wait_list_order(&lane->lists[i]);
                n += judge_all(lane, &lane->lists[i].waiting, how, reason);
        }
        for (unsigned i = 0; i < PLACES_KINDS; i++)
                lane_list_changed(lane, &lane->lists[i]);
        lane_leave_waiting(lane, n);
}

/* The generation that they were lost with has ended: how, the next one says. */
static void judge_by_loss(struct lane *lane) {
        const struct generation *generation = lane->generation;
        char reason[GATE_REASON_MAX + 64];

        snprintf(reason, sizeof(reason), "%s%s", generation->loss == LOSS_CRASHED ? "The model crashed under this request twice: " : "",
                 generation->loss_reason[0] != '\0' ? generation->loss_reason : BROKEN_TWICE);
        judge_waiting(lane, generation->loss, reason, judge_all(lane, &lane->deferred, generation->loss, reason));
}

void lane_settle_lost(struct lane *lane) {
        if (lane->lost == 0)
                return;
        if (lane_is_lost_before(lane))
                judge_by_loss(lane);
        else if (atomic_load(&lane->generation->suspicions) == 0)
                /* It lives. Those that are put off are too new for that to be said. */
                judge_waiting(lane, LOSS_NONE, BROKEN_TWICE, 0);
}

bool lane_is_lost_before(const struct lane *lane) {
        return lane->followed != lane->generation->number;
}
