#pragma once

/*
 * What the sources of a lane, daemon/queue/lane*.c, share among themselves.
 *
 *      lane.c          requests come, wait, and go to the model: the policy
 *      lane_account    what is counted, and which list a request is in
 *      lane_retry      how an inference has ended, and whether it is sent again
 *      lane_suspects   requests that were in flight when the model was lost
 *      lane_life       gates, time-outs, clients that leave, begin and end
 */

#include "common/util.h"
#include "daemon/queue/lane.h"

/* Lines for standard output that are gathered over a turn. */
#define LANE_OUTPUT_SIZE 65536

static inline struct request *lane_request_of(struct list *lane_link) {
        return container_of(lane_link, struct request, lane_link);
}

static inline struct wait_list *lane_list_of(struct lane *lane, const struct request *request) {
        return &lane->lists[request->inference.suspect  ? PLACES_SUSPECT :
                            request->inference.is_light ? PLACES_LIGHT :
                                                          PLACES_INFERENCE];
}

static inline struct places *lane_places_of(struct lane *lane, const struct wait_list *list) {
        return &lane->queue->places[list - lane->lists];
}

static inline bool lane_is_stopping(const struct lane *lane) {
        return gate_state(lane->queue->stop) != GATE_PENDING;
}

/* Whether requests of the list go to the model as far as there are places. */
static inline bool lane_is_open(const struct lane *lane, const struct wait_list *list) {
        return gate_state(&lane->generation->gate) == GATE_OPEN && !lane->leaving && !lane_is_stopping(lane) &&
               atomic_load(&lane->generation->suspicions) == 0 && !atomic_load(&lane->generation->resting) &&
               (atomic_load(&lane->queue->suspects) == 0 || list == &lane->lists[PLACES_SUSPECT]);
}

/* lane_account.c */

/* One that demands the model has come (1), or has ended (-1). */
void lane_note_use(struct lane *lane, const struct request *request, int n);

/* Unlinks and frees it. */
void lane_request_end(struct lane *lane, struct request *request);

/* When the first of those waiting arrived, for the status and for time-outs. */
void lane_note_oldest(struct lane *lane);

/* Before what was done to waiting requests has an effect outside. */
void lane_report_written(struct lane *lane);

/* `n` requests do not wait any more. */
void lane_leave_waiting(struct lane *lane, uint64_t n);

/* One more waits: it is in a list already. */
void lane_count_waiting(struct lane *lane);

/* Counts one more that waits against --max-waiting. Returns false when as many wait as may. */
bool lane_enter_waiting(struct lane *lane);

/*
 * Not in flight any more. The place goes to the oldest waiting request; if that is one of this lane, at the end of the
 * turn.
 */
void lane_leave_in_flight(struct lane *lane, struct request *request);

/* Sets the timer for the request that times out first. */
void lane_set_timeout_limited(struct lane *lane);
static inline void lane_set_timeout(struct lane *lane) {
        if (lane->queue->limits->timeout > 0)
                lane_set_timeout_limited(lane);
}

/* Reports to the worker, if the daemon is stopping or leaving, that less is here than before. */
static inline void lane_check_drained(struct lane *lane) {
        if (lane->events->drained && (lane->leaving || lane_is_stopping(lane)))
                lane->events->drained(lane);
}

/* Answers a request with an error that is not in flight. */
void lane_fail(struct lane *lane, struct request *request, enum protocol_code code, const char *message);

/*
 * Waiting requests have their turn for a place, by their arrival, also while none can be used: at a pending gate, and
 * while the model is suspected. A place that is given meanwhile is kept for then, for no lane could use it.
 */
void lane_keep_turn(struct lane *lane, struct wait_list *list);

/* Nothing of the list waits for a place, or can use one: what was given to it goes to the next lane. */
void lane_give_up_turn(struct lane *lane, struct wait_list *list);

/* The oldest of a list has gone or is another, or it can use a place or not, unlike before: its turn is kept or given up. */
void lane_list_changed(struct lane *lane, struct wait_list *list);

/* Appends it to those that wait. */
void lane_append_waiting(struct lane *lane, struct request *request);

/* Puts one that was with the model back: it is older than those that wait. */
void lane_put_back(struct lane *lane, struct request *request);

/* lane_retry.c */

/* Requests whose Retry-After has passed wait among the others. */
void lane_defer_elapsed(struct timer *timer);

/* For struct session_events. */
void lane_ended(struct session_events *events, struct inference *inference, const struct answer_end *end);
void lane_room(struct session_events *events);

/* Those that were to be sent again after a while are not, any more. */
void lane_undefer(struct lane *lane);

/*
 * lane_suspects.c: a request whose connection broke waits until it is known what became of the model. If that lives, the request is
 * sent again, unless it was sent twice already. If it was killed, likewise, to the next generation. If it crashed the request is a
 * suspect: suspects are sent again one at a time, in order of arrival, and nothing beside them. The one that is alone with the model
 * when it crashes again fails.
 */

/* The connection broke. The request is put back next. */
void lane_note_lost(struct lane *lane, struct request *request);

/* Whether requests that are lost now were with a generation that is over. */
bool lane_is_lost_before(const struct lane *lane);

/* A request that is lost, or a suspect, ends. */
void lane_end_suspicion(struct lane *lane, struct request *request);

/* lane.c */

/* Writes the gathered lines. */
void lane_print_lines(struct lane *lane);
void lane_print_run(struct job *job);

/*
 * What becomes of the waiting requests, now: of `max` at the most. A generation that failed comes before the stop: requests
 * whose load failed hear why, also where the daemon ends because of it. Returns for how many it was settled.
 */
uint64_t lane_settle_waiting(struct lane *lane, uint64_t max);

/* It was answered. */
void lane_end_observer(struct lane *lane, struct request *request);

/* Answers observers as far as they can be; `begun`: a generation has just begun. */
void lane_settle_observers(struct lane *lane, bool begun);

/* The broadcast has come, or the stop, or a place: the lists are walked, in portions. */
void lane_settle(struct lane *lane);
void lane_settle_run(struct job *job);

/* For struct places_lane; from any thread. */
void lane_inference_offered(struct places_lane *place);
void lane_light_offered(struct places_lane *place);
void lane_suspect_offered(struct places_lane *place);
