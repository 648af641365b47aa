#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/queue/lane_inner.h"

/* Waiting requests that are settled in one turn: a status is answered in between. */
#define SETTLE_BATCH 2048

/* Of a request that does not load an idle model. */
#define NOT_LOADED_MESSAGE "The model is not loaded: inference loads it, and so does /-/wait, but not this request"

static const char line_start[] = "Processing request ";

void lane_print_lines(struct lane *lane) {
        if (lane->output_len > 0)
                log_output(lane->output, lane->output_len);
        lane->output_len = 0;
}

void lane_print_run(struct job *job) {
        lane_print_lines(container_of(job, struct lane, print));
}

static void print_request(struct lane *lane, const struct inference *inference) {
        const size_t start_len = sizeof(line_start) - 1;
        char *p;

        if (!lane->output)
                return;
        if (LANE_OUTPUT_SIZE - lane->output_len < start_len + PROTOCOL_ID_MAX + 1)
                lane_print_lines(lane);
        p = lane->output + lane->output_len;
        memcpy(p, line_start, start_len);
        memcpy(p + start_len, inference_id(inference), inference->id_len);
        p[start_len + inference->id_len] = '\n';
        lane->output_len += start_len + inference->id_len + 1;
        reactor_queue(lane->reactor, &lane->print);
}

/* In order of arrival where that matters: a request that was sent again is older than those in flight. */
static void add_in_flight(struct lane *lane, struct request *request) {
        struct list *i = lane->in_flight.previous;

        if (lane->queue->limits->timeout > 0)
                while (i != &lane->in_flight && lane_request_of(i)->arrived > request->arrived)
                        i = i->previous;
        list_insert_before(i->next, &request->lane_link);
}

/* What is printed and counted of a request that goes to the model. */
static void note_start(struct lane *lane, struct request *request) {
        if (request->inference.noted)
                return;
        request->inference.noted = true;
        histogram_add(&lane->counters->waits, reactor_now(lane->reactor) - request->arrived);
        print_request(lane, &request->inference);
}

/*
 * Sends it to the model: it has a place, and is in no list. Returns MODEL_BUSY if it could not be sent: it has no place
 * then.
 */
static int start(struct lane *lane, struct request *request) {
        struct request_owner *owner = request_owner_of(request);
        int r;

        if (lane->followed != lane->generation->number) {
                model_session_follow(lane->session, lane->generation);
                lane->followed = lane->generation->number;
        }
        /* A successor that found it waiting would run it again. */
        owner->ops->starting(owner, request);
        request->inference.parked = request->inference.unheld = false;
        note_start(lane, request);
        add_in_flight(lane, request);
        lane_set_timeout(lane);
        counter_add(&lane->counters->processing, 1);
        owner->in_flight++;
        request->inference.started = true;
        r = model_infer(lane->session, &request->inference);
        if (r == MODEL_BUSY) {
                list_remove(&request->lane_link);
                lane_leave_in_flight(lane, request);
        } else if (r < 0) {
                const char *text = r == -EILSEQ ? "The prompt is not UTF-8" : strerror(-r);
                const struct answer_end end = { .how = ENDING_FAILED, .text = text };

                lane_ended(&lane->session_events, &request->inference, &end);
        }
        return MAX(r, 0);
}

/* Sends waiting requests to the model, so many at the most. Returns how many. */
static uint64_t release(struct lane *lane, struct wait_list *list, uint64_t max) {
        struct places *places = lane_places_of(lane, list);
        uint64_t n = 0;

        wait_list_order(list);
        while (n < max && !list_is_empty(&list->waiting)) {
                struct request *request = lane_request_of(list->waiting.next);

                /* Of a million that waited none is in the cache: the next one comes there while this one is answered. */
                __builtin_prefetch(lane_request_of(request->lane_link.next));
                if (list->busy || !lane_is_open(lane, list))
                        break;
                places_wait(places, &list->place, request->arrived);
                if (!places_claim(places, &list->place))
                        return n;
                list_remove(&request->lane_link);
                if (start(lane, request) == MODEL_BUSY) {
                        struct request_owner *owner = request_owner_of(request);

                        list->busy = true;
                        list_insert_before(list->waiting.next, &request->lane_link);
                        owner->ops->waiting(owner, request);
                        break;
                }
                n++;
                /* It may have come back at once. */
                wait_list_order(list);
        }
        lane_list_changed(lane, list);
        return n;
}

/* Waiting requests are answered with an error, so many at the most. Returns how many. */
static uint64_t refuse(struct lane *lane, struct wait_list *list, uint64_t max, enum protocol_code code, const char *message) {
        uint64_t n = 0;

        wait_list_order(list);
        for (; n < max && !list_is_empty(&list->waiting); n++)
                lane_fail(lane, lane_request_of(list->waiting.next), code, message);
        if (list_is_empty(&list->waiting))
                lane_give_up_turn(lane, list);
        return n;
}

/* The first who needs an idle model has it loaded. */
static void ask_for_model(struct lane *lane) {
        if (!lane->leaving && generation_ask(lane->generation))
                lane->queue->needed(lane->queue);
}

/*
 * At an idle generation: a request that demands the model has it loaded, and the others wait with it; without one, GETs and
 * the like are answered. Returns how many.
 */
static uint64_t settle_idle(struct lane *lane, uint64_t max) {
        struct wait_list *light = &lane->lists[PLACES_LIGHT];
        bool demands = !wait_list_is_empty(&lane->lists[PLACES_INFERENCE]) ||
                       !wait_list_is_empty(&lane->lists[PLACES_SUSPECT]) || !list_is_empty(&lane->observers);
        uint64_t n = 0;

        wait_list_order(light);
        for (struct list *i = light->waiting.next; i != &light->waiting && !demands; i = i->next)
                demands = lane_request_of(i)->inference.demands;
        if (demands)
                ask_for_model(lane);
        else if (!lane->leaving)
                n = refuse(lane, light, max, PROTOCOL_MODEL_NOT_LOADED, NOT_LOADED_MESSAGE);
        if (n > 0)
                lane_report_written(lane);
        return n;
}

uint64_t lane_settle_waiting(struct lane *lane, uint64_t max) {
        /* The stop first: a failure before it is seen then. */
        bool stopping = lane_is_stopping(lane);
        enum gate_state state = gate_state(&lane->generation->gate);
        uint64_t n = 0;

        if (state == GATE_PENDING && !stopping) {
                if (generation_is_idle(lane->generation))
                        n = settle_idle(lane, max);
                /* A place may have come when the last request had just left, or the session may not be busy any more. */
                for (unsigned i = 0; i < PLACES_KINDS; i++)
                        lane_list_changed(lane, &lane->lists[i]);
                return n;
        }
        if (state == GATE_FAILED || stopping)
                lane_undefer(lane);
        for (unsigned i = PLACES_KINDS; i-- > 0 && n < max;) {
                struct wait_list *list = &lane->lists[i];

                if (state == GATE_FAILED)
                        n += refuse(lane, list, max - n, PROTOCOL_LOAD_FAILED, lane->generation->gate.reason);
                else if (stopping)
                        n += refuse(lane, list, max - n, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
                else
                        n += release(lane, list, max - n);
        }
        lane_report_written(lane);
        return n;
}

void lane_end_observer(struct lane *lane, struct request *request) {
        atomic_fetch_sub_explicit(&lane->queue->limits->waiting, 1, memory_order_relaxed);
        lane_request_end(lane, request);
}

/* What becomes of an observer, now; `begun`: a generation has just begun. True: it was settled. */
static bool settle_observer(struct lane *lane, struct request *request, bool begun) {
        enum gate_state state = gate_state(&lane->generation->gate);
        struct request_owner *owner = request_owner_of(request);
        const bool loads = request->inference.handle == REQUEST_LOAD;

        if (loads && (begun || state != GATE_FAILED)) {
                const char *answer = state == GATE_OPEN ? PROTOCOL_READY : PROTOCOL_LOADING;

                owner->ops->complete(owner, request, answer, strlen(answer));
        } else if (!loads && state == GATE_FAILED)
                owner->ops->failed(owner, request, PROTOCOL_LOAD_FAILED, lane->generation->gate.reason);
        else if (lane_is_stopping(lane))
                owner->ops->failed(owner, request, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
        else if (!loads && state == GATE_OPEN)
                owner->ops->complete(owner, request, PROTOCOL_READY, strlen(PROTOCOL_READY));
        else
                return false;

        lane_end_observer(lane, request);
        return true;
}

void lane_settle_observers(struct lane *lane, bool begun) {
        for (struct list *i = lane->observers.next, *next; i != &lane->observers; i = next) {
                next = i->next;
                (void)settle_observer(lane, lane_request_of(i), begun);
        }
        lane_report_written(lane);
}

void lane_settle(struct lane *lane) {
        uint64_t n;

        lane_settle_lost(lane);
        n = lane_settle_waiting(lane, SETTLE_BATCH);
        lane_leave_waiting(lane, n);
        lane_settle_observers(lane, false);
        if (n == SETTLE_BATCH)
                reactor_queue(lane->reactor, &lane->settle);
        else
                lane_check_drained(lane);
}

void lane_settle_run(struct job *job) {
        lane_settle(container_of(job, struct lane, settle));
}

void lane_claim(struct lane *lane) {
        lane_follow(lane);
        lane_settle(lane);
}

void lane_resume(struct lane *lane) {
        lane_settle(lane);
}

/* From any thread. */
static void list_offered(struct lane *lane) {
        lane->events->offered(lane);
}

void lane_inference_offered(struct places_lane *place) {
        list_offered(container_of(place, struct lane, lists[PLACES_INFERENCE].place));
}

void lane_light_offered(struct places_lane *place) {
        list_offered(container_of(place, struct lane, lists[PLACES_LIGHT].place));
}

void lane_suspect_offered(struct places_lane *place) {
        list_offered(container_of(place, struct lane, lists[PLACES_SUSPECT].place));
}

/* A request waits: at the gate, for a place, or until the model was probed. */
static void wait_for_turn(struct lane *lane, struct request *request) {
        struct wait_list *list = lane_list_of(lane, request);

        ask_for_model(lane);
        if (!lane_enter_waiting(lane)) {
                char message[96];

                snprintf(message, sizeof(message), "%" PRIu64 " requests wait already; --max-waiting raises that limit",
                         lane->queue->limits->max_waiting);
                lane_fail(lane, request, PROTOCOL_QUEUE_FULL, message);
                return;
        }
        lane_append_waiting(lane, request);
        lane_keep_turn(lane, list);
        /* There may be a place for it after all. */
        if (lane_is_open(lane, list) && !list->busy)
                reactor_queue(lane->reactor, &lane->settle);
        if (lane->events->pending)
                lane->events->pending(lane);
}

/* Whether it goes to the model at once. */
static bool goes_at_once(struct lane *lane, struct request *request) {
        struct wait_list *list = lane_list_of(lane, request);

        return lane_is_open(lane, list) && wait_list_is_empty(list) && !list->busy && places_take(lane_places_of(lane, list));
}

/* A request has come: the policy. */
static void handle(struct lane *lane, struct request *request) {
        lane_follow(lane);
        if (lane_is_stopping(lane))
                lane_fail(lane, request, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
        else if (gate_state(&lane->generation->gate) == GATE_FAILED)
                lane_fail(lane, request, PROTOCOL_LOAD_FAILED, lane->generation->gate.reason);
        else if (generation_is_idle(lane->generation) && !request->inference.demands)
                lane_fail(lane, request, PROTOCOL_MODEL_NOT_LOADED, NOT_LOADED_MESSAGE);
        else if (!goes_at_once(lane, request))
                wait_for_turn(lane, request);
        else if (start(lane, request) == MODEL_BUSY) {
                lane_list_of(lane, request)->busy = true;
                wait_for_turn(lane, request);
        } else
                lane_report_written(lane);
}

/* The owner's, of now. */
static void adopt(struct lane *lane, struct request_owner *owner, struct request *request) {
        request->arrived = lane->arrived > 0 ? lane->arrived : reactor_now(lane->reactor);
        request->inference.recipient = &owner->recipient;
        list_init(&request->lane_link);
        list_append(&owner->requests, &request->owner_link);
        counter_add(&lane->counters->accepted, 1);
        lane_note_use(lane, request, 1);
}

int lane_request(struct lane *lane, struct request_owner *owner, const char *id, size_t id_len, const char *prompt,
                 size_t prompt_len, bool stream) {
        struct request *request = lane_allocate(lane, id_len + prompt_len);
        char message[REQUEST_LIMITS_MESSAGE_MAX];

        if (!request)
                return -ENOMEM;
        request->inference = (struct inference){
                .id_len = (uint8_t)id_len,
                .prompt_len = (uint32_t)prompt_len,
                .has_prompt = prompt != NULL,
                .stream = stream,
                .demands = true,
                .repeats = true,
        };
        memcpy(request->inference.text, id, id_len);
        if (prompt)
                memcpy(request->inference.text + id_len, prompt, prompt_len);
        adopt(lane, owner, request);
        if (!request_limits_hold(lane->queue->limits, prompt_len, message))
                lane_fail(lane, request, PROTOCOL_QUEUE_FULL, message);
        else if (!prompt && lane->queue->model->ops->needs_prompt)
                lane_fail(lane, request, PROTOCOL_BAD_REQUEST, "This model needs a prompt");
        else
                handle(lane, request);
        return 0;
}

void lane_exchange(struct lane *lane, struct request_owner *owner, struct request *request) {
        request->inference.is_exchange = true;
        adopt(lane, owner, request);
        handle(lane, request);
}

int lane_observe(struct lane *lane, struct request_owner *owner, enum request_kind kind) {
        struct request *request = lane_allocate(lane, 0);

        if (!request)
                return -ENOMEM;
        lane_follow(lane);
        ask_for_model(lane);
        *request = (struct request){ .inference = { .recipient = &owner->recipient, .handle = kind } };
        list_init(&request->lane_link);
        list_append(&owner->requests, &request->owner_link);

        if (!lane_enter_waiting(lane)) {
                owner->ops->failed(owner, request, PROTOCOL_QUEUE_FULL, "Too many requests wait already; --max-waiting raises that limit");
                lane_request_end(lane, request);
                return 0;
        }
        if (settle_observer(lane, request, false))
                return 0;
        list_append(&lane->observers, &request->lane_link);
        if (lane->events->pending)
                lane->events->pending(lane);
        if (kind == REQUEST_LOAD)
                lane->queue->load(lane->queue);
        else
                owner->ops->waiting(owner, request);
        return 0;
}

void lane_pause(struct lane *lane, struct request *request, bool paused) {
        if (request->inference.started)
                model_pause(lane->session, &request->inference, paused);
}

size_t lane_send(struct lane *lane, struct request *request, const char *data, size_t len) {
        return request->inference.started ? model_send(lane->session, &request->inference, data, len) : 0;
}

void lane_finish(struct lane *lane, struct request *request) {
        if (request->inference.started)
                model_finish(lane->session, &request->inference);
}
