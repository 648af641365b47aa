#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/number.h"
#include "daemon/log.h"
#include "daemon/queue/lane_inner.h"

/* A gate that could not be watched is tried again after this. */
#define REWATCH_NSEC (100 * NSEC_PER_MSEC)

static void gate_ready(struct watch *watch, uint32_t events) {
        (void)events;
        lane_settle(container_of(watch, struct lane, gate_watch));
}

static void stop_ready(struct watch *watch, uint32_t events) {
        struct lane *lane = container_of(watch, struct lane, stop_watch);

        (void)events;
        lane->leaving = false;
        if (lane->events->stopping)
                lane->events->stopping(lane);
        lane_settle(lane);
}

void lane_check_gates(struct lane *lane) {
        if (lane_is_stopping(lane))
                stop_ready(&lane->stop_watch, 0);
        if (gate_state(&lane->generation->gate) != GATE_PENDING)
                gate_ready(&lane->gate_watch, 0);
}

static void time_out(struct lane *lane, struct request *request, uint64_t now) {
        char message[96], limit[NUMBER_DURATION_MAX], waited[NUMBER_DURATION_MAX];

        snprintf(message, sizeof(message), "Not answered within %s: waited %s",
                 number_format_duration(limit, lane->queue->limits->timeout),
                 number_format_duration(waited, now - request->arrived));
        lane_fail(lane, request, PROTOCOL_TIMED_OUT, message);
}

static bool is_over(const struct lane *lane, const struct request *request, uint64_t now) {
        return now - request->arrived >= lane->queue->limits->timeout;
}

/* Waiting requests of a list that are over. Returns how many there were. */
static uint64_t time_out_waiting(struct lane *lane, struct list *waiting, uint64_t now) {
        uint64_t n = 0;

        for (; !list_is_empty(waiting) && is_over(lane, lane_request_of(waiting->next), now); n++)
                time_out(lane, lane_request_of(waiting->next), now);
        return n;
}

static void timeout_elapsed(struct timer *timer) {
        struct lane *lane = container_of(timer, struct lane, timeout);
        uint64_t now = reactor_now(lane->reactor), n = 0;

        for (unsigned i = 0; i < PLACES_KINDS; i++) {
                wait_list_order(&lane->lists[i]);
                n += time_out_waiting(lane, &lane->lists[i].waiting, now);
                lane_list_changed(lane, &lane->lists[i]);
        }
        lane_report_written(lane);
        lane_leave_waiting(lane, n);
        while (!list_is_empty(&lane->in_flight) && is_over(lane, lane_request_of(lane->in_flight.next), now)) {
                struct request *request = lane_request_of(lane->in_flight.next);

                model_cancel(lane->session, &request->inference);
                lane_leave_in_flight(lane, request);
                time_out(lane, request, now);
        }
        lane_set_timeout(lane);
        lane_check_drained(lane);
}

/* Once it is watched it tells of what was before, too: requests that wait meanwhile wait a little longer. */
static int watch_gate(struct lane *lane) {
        int r = reactor_watch(lane->reactor, &lane->gate_watch, lane->generation->gate.fd, EPOLLIN | EPOLLET, gate_ready);

        if (r < 0)
                reactor_set_timer(lane->reactor, &lane->rewatch, timer_now() + REWATCH_NSEC);
        return r;
}

static void rewatch_due(struct timer *timer) {
        (void)watch_gate(container_of(timer, struct lane, rewatch));
}

void lane_follow(struct lane *lane) {
        struct generation *generation = queue_generation(lane->queue);
        int r;

        if (generation == lane->generation)
                return;
        reactor_unwatch(&lane->gate_watch);
        lane->generation = generation;
        timer_clear(&lane->rewatch);
        r = watch_gate(lane);
        if (r < 0)
                log_error("Cannot watch the gate, trying again: %s", strerror(-r));
        lane_settle_observers(lane, true);
        lane_settle_lost(lane);
        /* Requests that came while the model before it was about to be stopped need this one. */
        if (generation_is_idle(generation))
                reactor_queue(lane->reactor, &lane->settle);
        else if (lane->events->pending && gate_state(&generation->gate) == GATE_PENDING)
                lane->events->pending(lane);
}

void lane_leave(struct lane *lane) {
        lane->leaving = true;
        lane_settle_observers(lane, false);
        lane_check_drained(lane);
}

void lane_set_arrival(struct lane *lane, uint64_t arrived) {
        if (arrived > 0)
                for (unsigned i = 0; i < PLACES_KINDS; i++)
                        if (!list_is_empty(&lane->lists[i].waiting))
                                arrived = MAX(arrived, lane_request_of(lane->lists[i].waiting.previous)->arrived);
        lane->arrived = MIN(arrived, timer_now());
}

void lane_each_waiting(struct lane *lane, void (*each)(struct request *request, void *data), void *data) {
        struct list *lists[] = { &lane->lists[PLACES_SUSPECT].waiting, &lane->lists[PLACES_INFERENCE].waiting,
                                 &lane->lists[PLACES_LIGHT].waiting, &lane->deferred, &lane->observers };

        for (unsigned i = 0; i < PLACES_KINDS; i++)
                wait_list_order(&lane->lists[i]);
        for (unsigned i = 0; i < ARRAY_SIZE(lists); i++)
                for (struct list *j = lists[i]->next; j != lists[i]; j = j->next)
                        each(lane_request_of(j), data);
}

/* Answers the observers that are not left to a successor. */
static void abandon_observers(struct lane *lane) {
        for (struct list *i = lane->observers.next, *next; i != &lane->observers; i = next) {
                struct request *request = lane_request_of(i);
                struct request_owner *owner = request_owner_of(request);

                next = i->next;
                if (lane->leaving && request->inference.parked)
                        continue;
                owner->ops->failed(owner, request, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
                lane_end_observer(lane, request);
        }
}

void lane_abandon(struct lane *lane) {
        uint64_t n = 0;

        /* Requests whose load failed hear that, here too. */
        if (!lane->leaving) {
                lane_leave_waiting(lane, lane_settle_waiting(lane, UINT64_MAX));
                lane_settle_observers(lane, false);
        }
        lane_undefer(lane);
        for (unsigned i = 0; i < PLACES_KINDS; i++) {
                struct list *waiting = &lane->lists[i].waiting;

                for (struct list *j = waiting->next, *next; j != waiting; j = next) {
                        next = j->next;
                        if (lane->leaving && lane_request_of(j)->inference.parked)
                                continue;
                        lane_fail(lane, lane_request_of(j), PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
                        n++;
                }
                lane_list_changed(lane, &lane->lists[i]);
        }
        abandon_observers(lane);
        lane_report_written(lane);
        lane_leave_waiting(lane, n);
        while (!list_is_empty(&lane->in_flight)) {
                struct request *request = lane_request_of(lane->in_flight.next);

                model_cancel(lane->session, &request->inference);
                lane_leave_in_flight(lane, request);
                lane_fail(lane, request, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
        }
}

void lane_forget(struct lane *lane, struct request_owner *owner) {
        uint64_t waiting = 0, in_flight = 0, observing = 0;

        while (!list_is_empty(&owner->requests)) {
                struct request *request = container_of(owner->requests.next, struct request, owner_link);

                if (request_is_observer(request))
                        observing++;
                else if (request->inference.started) {
                        model_cancel(lane->session, &request->inference);
                        lane_leave_in_flight(lane, request);
                        in_flight++;
                } else
                        waiting++;
                lane_request_end(lane, request);
        }
        atomic_fetch_sub_explicit(&lane->queue->limits->waiting, observing, memory_order_relaxed);
        for (unsigned i = 0; waiting > 0 && i < PLACES_KINDS; i++) {
                struct wait_list *list = &lane->lists[i];

                wait_list_order(list);
                lane_list_changed(lane, list);
        }
        lane_leave_waiting(lane, waiting);
        /* Updated last, so that no request is counted twice. */
        counter_add(&lane->counters->cancelled, (int64_t)(waiting + in_flight));
        lane_set_timeout(lane);
        lane_check_drained(lane);
}

int lane_init(struct lane *lane, struct queue *queue, struct reactor *reactor, struct socket_group *sockets,
              struct status_counters *counters, const struct lane_events *events, bool quiet) {
        const struct session_place place = { reactor, sockets, &lane->session_events };
        int r;

        *lane = (struct lane){
                .reactor = reactor,
                .queue = queue,
                .counters = counters,
                .events = events,
                .generation = queue_generation(queue),
                .session_events = { .ended = lane_ended, .room = lane_room },
                .gate_watch = WATCH_NULL,
                .stop_watch = WATCH_NULL,
        };
        wait_list_init(&lane->lists[PLACES_INFERENCE], lane_inference_offered);
        wait_list_init(&lane->lists[PLACES_LIGHT], lane_light_offered);
        wait_list_init(&lane->lists[PLACES_SUSPECT], lane_suspect_offered);
        list_init(&lane->deferred);
        list_init(&lane->in_flight);
        list_init(&lane->observers);
        request_memory_init(&lane->memory);
        job_init(&lane->settle, lane_settle_run);
        job_init(&lane->print, lane_print_run);
        timer_init(&lane->timeout, timeout_elapsed);
        timer_init(&lane->defer, lane_defer_elapsed);
        timer_init(&lane->rewatch, rewatch_due);

        if (!quiet) {
                lane->output = malloc(LANE_OUTPUT_SIZE);
                if (!lane->output)
                        return -ENOMEM;
        }
        r = model_session_new(queue->model, &place, &lane->session);
        if (r < 0)
                return r;
        r = reactor_watch(reactor, &lane->stop_watch, queue->stop->fd, EPOLLIN | EPOLLET, stop_ready);
        if (r < 0)
                return r;
        return reactor_watch(reactor, &lane->gate_watch, lane->generation->gate.fd, EPOLLIN | EPOLLET, gate_ready);
}

void lane_deinit(struct lane *lane) {
        if (!lane->reactor)
                return;
        lane_print_lines(lane);
        reactor_unwatch(&lane->gate_watch);
        reactor_unwatch(&lane->stop_watch);
        timer_clear(&lane->timeout);
        timer_clear(&lane->defer);
        timer_clear(&lane->rewatch);
        job_cancel(&lane->settle);
        job_cancel(&lane->print);
        lane->session = model_session_free(lane->session);
        free(STEAL_POINTER(lane->output));
        request_memory_deinit(&lane->memory);
        lane->reactor = NULL;
}
