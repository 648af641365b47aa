#include "daemon/front/request.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/log.h"

/* So many waiting requests at the most are settled in one turn: a status is answered in between. */
#define SETTLE_BATCH 4096

/* Of a gate that could not be watched. */
#define REWATCH_NSEC (100 * NSEC_PER_MSEC)

#define LINES_SIZE 65536

/* One with an ID of up to 18 bytes and no prompt: nearly all of those that wait by the million. */
#define SMALL_SIZE 80

static const char line_start[] = "Processing request ";

static struct request *request_of(struct list *queue_link) {
        return container_of(queue_link, struct request, queue_link);
}

static struct request *request_of_inference(struct inference *inference) {
        return container_of(inference, struct request, inference);
}

static size_t request_size(size_t id_len, size_t prompt_len) {
        return offsetof(struct request, inference.text) + id_len + prompt_len;
}

static bool request_is_small(size_t id_len, size_t prompt_len) {
        return request_size(id_len, prompt_len) <= SMALL_SIZE;
}

/* Memory for one, not initialised; request_end() gives it back. */
static struct request *request_allocate(struct request_queue *queue, size_t id_len, size_t prompt_len) {
        return request_is_small(id_len, prompt_len) ? pool_take(&queue->small) :
                                                      malloc(request_size(id_len, prompt_len));
}

bool request_limits_hold(struct request_limits *limits, size_t len, char message[static REQUEST_LIMITS_MESSAGE_MAX]) {
        if (len == 0 || atomic_fetch_add_explicit(&limits->prompt_memory, len, memory_order_relaxed) + len <=
                                limits->max_prompt_memory)
                return true;
        snprintf(message, REQUEST_LIMITS_MESSAGE_MAX, "The prompts that are held may need %" PRIu64 " bytes together",
                 limits->max_prompt_memory);
        return false;
}

void request_limits_release(struct request_limits *limits, size_t len) {
        if (len > 0)
                atomic_fetch_sub_explicit(&limits->prompt_memory, len, memory_order_relaxed);
}

/* Unlinks and frees it. */
static void request_end(struct request_queue *queue, struct request *request) {
        list_remove(&request->queue_link);
        list_remove(&request->owner_link);
        request_limits_release(queue->limits, request->inference.prompt_len);
        if (request_is_small(request->inference.id_len, request->inference.prompt_len))
                pool_put(&queue->small, request);
        else
                free(request);
}

/* When the first of those waiting came, for the status. */
static void note_oldest(struct request_queue *queue) {
        counter_set(&queue->counters->oldest,
                    list_is_empty(&queue->waiting) ? 0 : request_of(queue->waiting.next)->arrived);
}

static void tell_changed(struct request_queue *queue) {
        if (queue->host->changed)
                queue->host->changed(queue->host);
}

/* `n` of them do not wait any more. */
static void leave_waiting(struct request_queue *queue, uint64_t n) {
        if (n == 0)
                return;
        atomic_fetch_sub_explicit(&queue->limits->waiting, n, memory_order_relaxed);
        counter_add(&queue->counters->waiting, -(int64_t)n);
        note_oldest(queue);
        tell_changed(queue);
}

static bool enter_waiting(struct request_queue *queue) {
        if (atomic_fetch_add_explicit(&queue->limits->waiting, 1, memory_order_relaxed) < queue->limits->max_waiting)
                return true;
        atomic_fetch_sub_explicit(&queue->limits->waiting, 1, memory_order_relaxed);
        return false;
}

static void leave_processing(struct request_queue *queue, struct request *request) {
        counter_add(&queue->counters->processing, -1);
        request->inference.started = false;
        request->owner->processing--;
        if (queue->limits->max_inflight > 0) {
                atomic_fetch_sub(&queue->limits->inflight, 1);
                queue->host->room(queue->host);
        }
        if (queue->host->changed && gate_state(queue->stop) != GATE_PENDING)
                tell_changed(queue);
}

static void set_timeout(struct request_queue *queue) {
        uint64_t first = UINT64_MAX;

        if (queue->limits->timeout == 0)
                return;
        if (!list_is_empty(&queue->waiting))
                first = request_of(queue->waiting.next)->arrived;
        if (!list_is_empty(&queue->processing))
                first = MIN(first, request_of(queue->processing.next)->arrived);
        if (first == UINT64_MAX)
                timer_clear(&queue->timeout);
        else if (!timer_is_set(&queue->timeout))
                /* One that was set for a request that is gone elapses early, and is set again then. */
                reactor_set_timer(queue->reactor, &queue->timeout, first + queue->limits->timeout);
}

bool request_queue_is_idle(const struct request_queue *queue) {
        if (queue->leaving)
                return list_is_empty(&queue->processing);
        return list_is_empty(&queue->waiting) && list_is_empty(&queue->processing) && list_is_empty(&queue->observers);
}

static void check_idle(struct request_queue *queue) {
        if (queue->idle && (queue->leaving || gate_state(queue->stop) != GATE_PENDING) && request_queue_is_idle(queue))
                queue->idle(queue);
}

/* Answers with an error one that is not in flight. */
static void fail(struct request_queue *queue, struct request *request, enum protocol_code code, const char *message) {
        counter_add(&queue->counters->failed, 1);
        request->owner->ops->failed(request->owner, request, code, message);
        request_end(queue, request);
}

static const struct exchange *inference_exchange(struct inference_events *events, struct inference *inference) {
        struct request *request = request_of_inference(inference);

        (void)events;
        return request->owner->ops->exchange(request->owner, request);
}

static void inference_head(struct inference_events *events, struct inference *inference, const struct answer_head *head) {
        struct request *request = request_of_inference(inference);

        (void)events;
        request->owner->ops->head(request->owner, request, head);
}

static void inference_part(struct inference_events *events, struct inference *inference, const char *data,
                           size_t len) {
        struct request *request = request_of_inference(inference);

        (void)events;
        request->owner->ops->part(request->owner, request, data, len);
}

static void inference_answered(struct inference_events *events, struct inference *inference, const char *data,
                               size_t len) {
        struct request_queue *queue = container_of(events, struct request_queue, events);
        struct request *request = request_of_inference(inference);

        leave_processing(queue, request);
        counter_add(&queue->counters->completed, 1);
        request->owner->ops->answered(request->owner, request, data, len);
        request_end(queue, request);
        check_idle(queue);
}

static void inference_failed(struct inference_events *events, struct inference *inference, const char *reason) {
        struct request_queue *queue = container_of(events, struct request_queue, events);
        struct request *request = request_of_inference(inference);

        leave_processing(queue, request);
        fail(queue, request, PROTOCOL_INFERENCE_FAILED, reason);
        check_idle(queue);
}

/* What waits is left to a successor, and this cannot be. */
static bool is_left_behind(const struct request_queue *queue, const struct request *request) {
        return queue->leaving && !request->owner->ops->stays;
}

/* Back to its place among those that wait: it came before most of them. */
static void wait_again(struct request_queue *queue, struct request *request) {
        struct list *i = queue->waiting.next;

        while (i != &queue->waiting && request_of(i)->arrived <= request->arrived)
                i = i->next;
        list_insert_before(i, &request->queue_link);
        atomic_fetch_add_explicit(&queue->limits->waiting, 1, memory_order_relaxed);
        counter_add(&queue->counters->waiting, 1);
        note_oldest(queue);
        set_timeout(queue);
        request->owner->ops->waiting(request->owner, request);
        tell_changed(queue);
}

static void inference_lost(struct inference_events *events, struct inference *inference, const char *reason) {
        struct request_queue *queue = container_of(events, struct request_queue, events);
        struct request *request = request_of_inference(inference);
        enum gate_state state;

        leave_processing(queue, request);
        /* In no queue, so that it is not parked before it is told what becomes of it. */
        list_remove(&request->queue_link);
        request_queue_follow(queue, queue->host->generation(queue->host));
        state = gate_state(&queue->generation->gate);
        if (inference->resent || gate_state(queue->stop) != GATE_PENDING)
                fail(queue, request, PROTOCOL_INFERENCE_FAILED, reason);
        else if (state == GATE_FAILED)
                fail(queue, request, PROTOCOL_LOAD_FAILED, queue->generation->gate.reason);
        else if (is_left_behind(queue, request))
                fail(queue, request, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
        else {
                inference->resent = true;
                wait_again(queue, request);
                if (state == GATE_OPEN)
                        queue->host->suspect(queue->host);
        }
        check_idle(queue);
}

static void print_lines(struct request_queue *queue) {
        if (queue->lines_len > 0)
                log_output(queue->lines, queue->lines_len);
        queue->lines_len = 0;
}

static void print_run(struct job *job) {
        print_lines(container_of(job, struct request_queue, print));
}

static void print_request(struct request_queue *queue, const struct inference *inference) {
        const size_t start_len = sizeof(line_start) - 1;
        char *p;

        if (!queue->lines)
                return;
        if (LINES_SIZE - queue->lines_len < start_len + PROTOCOL_ID_MAX + 1)
                print_lines(queue);
        p = queue->lines + queue->lines_len;
        memcpy(p, line_start, start_len);
        memcpy(p + start_len, inference_id(inference), inference->id_len);
        p[start_len + inference->id_len] = '\n';
        queue->lines_len += start_len + inference->id_len + 1;
        reactor_queue(queue->reactor, &queue->print);
}

void request_refuse(struct request_queue *queue, struct request *request, enum protocol_code code,
                    const char *message) {
        fail(queue, request, code, message);
}

/* Takes one of the places that the model has. */
static bool take_place(struct request_queue *queue) {
        struct request_limits *limits = queue->limits;

        if (limits->max_inflight == 0 || atomic_fetch_add(&limits->inflight, 1) < limits->max_inflight)
                return true;
        atomic_fetch_sub(&limits->inflight, 1);
        return false;
}

static bool is_room(const struct request_queue *queue) {
        return atomic_load(&queue->limits->inflight) < queue->limits->max_inflight;
}

static void start(struct request_queue *queue, struct request *request) {
        int r;

        /* A successor that found it parked would run it again. */
        parking_drop(&queue->parking);
        request->inference.parked = false;
        list_remove(&request->queue_link);
        list_append(&queue->processing, &request->queue_link);
        counter_add(&queue->counters->processing, 1);
        histogram_add(&queue->counters->waits, reactor_now(queue->reactor) - request->arrived);
        request->owner->processing++;
        request->inference.started = true;
        print_request(queue, &request->inference);
        set_timeout(queue);
        r = model_infer(queue->session, queue->generation->model, &request->inference);
        if (r < 0)
                inference_failed(&queue->events, &request->inference,
                                 r == -EILSEQ ? "The prompt is not UTF-8" : strerror(-r));
}

void request_start(struct request_queue *queue, struct request *request) {
        if (queue->limits->max_inflight == 0 || (list_is_empty(&queue->waiting) && take_place(queue))) {
                start(queue, request);
                return;
        }
        request_wait(queue, request);
        /* Who gave a place back just now may not have seen that one waits: the other way round it is seen here. */
        atomic_thread_fence(memory_order_seq_cst);
        if (is_room(queue))
                queue->host->room(queue->host);
}

void request_wait(struct request_queue *queue, struct request *request) {
        if (is_left_behind(queue, request)) {
                fail(queue, request, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
                return;
        }
        if (!enter_waiting(queue)) {
                char message[64];

                snprintf(message, sizeof(message), "%" PRIu64 " requests may wait, and do", queue->limits->max_waiting);
                fail(queue, request, PROTOCOL_QUEUE_FULL, message);
                return;
        }
        list_append(&queue->waiting, &request->queue_link);
        counter_add(&queue->counters->waiting, 1);
        if (queue->waiting.next == &request->queue_link)
                note_oldest(queue);
        set_timeout(queue);
        request->owner->ops->waiting(request->owner, request);
        tell_changed(queue);
}

/* Returns one that is the owner's already, or NULL: out of memory. */
static struct request *make_request(struct request_queue *queue, struct request_owner *owner, const char *id,
                                    size_t id_len, size_t prompt_len) {
        struct request *request = request_allocate(queue, id_len, prompt_len);

        if (!request)
                return NULL;
        *request = (struct request){
                .owner = owner,
                .arrived = queue->arrived > 0 ? queue->arrived : reactor_now(queue->reactor),
                .inference = { .id_len = (uint8_t)id_len, .prompt_len = (uint32_t)prompt_len },
        };
        memcpy(request->inference.text, id, id_len);
        list_init(&request->queue_link);
        list_append(&owner->requests, &request->owner_link);
        counter_add(&queue->counters->accepted, 1);
        return request;
}

int request_new(struct request_queue *queue, struct request_owner *owner, const char *id, size_t id_len,
                const char *prompt, size_t prompt_len, bool stream) {
        struct request *request = make_request(queue, owner, id, id_len, prompt_len);
        char message[REQUEST_LIMITS_MESSAGE_MAX];

        if (!request)
                return -ENOMEM;
        request->inference.has_prompt = prompt != NULL;
        request->inference.stream = stream;
        if (prompt)
                memcpy(request->inference.text + id_len, prompt, prompt_len);

        if (!request_limits_hold(queue->limits, prompt_len, message)) {
                fail(queue, request, PROTOCOL_QUEUE_FULL, message);
                return 0;
        }
        if (!prompt && queue->session->model->ops->needs_prompt)
                fail(queue, request, PROTOCOL_BAD_REQUEST, "This model needs a prompt");
        else
                queue->host->handle_request(queue->host, queue, request);
        return 0;
}

int request_new_exchange(struct request_queue *queue, struct request_owner *owner, const char *id, size_t id_len) {
        struct request *request = make_request(queue, owner, id, id_len, 0);

        if (!request)
                return -ENOMEM;
        request->inference.is_exchange = true;
        queue->host->handle_request(queue->host, queue, request);
        return 0;
}

void request_pause(struct request_queue *queue, struct request *request, bool paused) {
        if (request->inference.started)
                model_pause(queue->session, &request->inference, paused);
}

/*
 * What becomes of those that wait, now: of so many at the most. The generation that failed comes before the stop:
 * whose load failed hears why, also where the daemon ends because of it. Returns how many it was settled for.
 */
static uint64_t settle_waiting(struct request_queue *queue, uint64_t max) {
        /* The stop first: what failed before it is seen then. */
        bool stopping = gate_state(queue->stop) != GATE_PENDING;
        enum gate_state state = gate_state(&queue->generation->gate);
        uint64_t n = 0;

        if (state == GATE_PENDING && !stopping)
                return 0;
        for (; n < max && !list_is_empty(&queue->waiting); n++) {
                struct request *request = request_of(queue->waiting.next);

                if (state == GATE_FAILED)
                        fail(queue, request, PROTOCOL_LOAD_FAILED, queue->generation->gate.reason);
                else if (stopping)
                        fail(queue, request, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
                else if (take_place(queue))
                        start(queue, request);
                else
                        break;
        }
        return n;
}

/* What becomes of one that observes, now; `begun`: a generation has just begun. True: it was settled. */
static bool settle_observer(struct request_queue *queue, struct request *request, bool begun) {
        bool stopping = gate_state(queue->stop) != GATE_PENDING;
        enum gate_state state = gate_state(&queue->generation->gate);
        struct request_owner *owner = request->owner;

        if (request->inference.handle == REQUEST_LOAD && (begun || state != GATE_FAILED)) {
                const char *answer = state == GATE_OPEN ? PROTOCOL_READY : PROTOCOL_LOADING;

                owner->ops->answered(owner, request, answer, strlen(answer));
        } else if (request->inference.handle == REQUEST_WAIT && state == GATE_FAILED)
                owner->ops->failed(owner, request, PROTOCOL_LOAD_FAILED, queue->generation->gate.reason);
        else if (stopping || is_left_behind(queue, request))
                owner->ops->failed(owner, request, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
        else if (request->inference.handle == REQUEST_WAIT && state == GATE_OPEN)
                owner->ops->answered(owner, request, PROTOCOL_READY, strlen(PROTOCOL_READY));
        else
                return false;

        atomic_fetch_sub_explicit(&queue->limits->waiting, 1, memory_order_relaxed);
        request_end(queue, request);
        return true;
}

static void settle_observers(struct request_queue *queue, bool begun) {
        for (struct list *i = queue->observers.next, *next; i != &queue->observers; i = next) {
                next = i->next;
                (void)settle_observer(queue, request_of(i), begun);
        }
}

int request_observe(struct request_queue *queue, struct request_owner *owner, enum request_kind kind) {
        struct request *request = request_allocate(queue, 0, 0);

        if (!request)
                return -ENOMEM;
        *request = (struct request){ 0 };
        request_queue_follow(queue, queue->host->generation(queue->host));
        request->owner = owner;
        request->inference.handle = kind;
        list_init(&request->queue_link);
        list_append(&owner->requests, &request->owner_link);

        if (!enter_waiting(queue)) {
                owner->ops->failed(owner, request, PROTOCOL_QUEUE_FULL, "Too many wait");
                request_end(queue, request);
                return 0;
        }
        if (settle_observer(queue, request, false))
                return 0;
        list_append(&queue->observers, &request->queue_link);
        if (kind == REQUEST_LOAD)
                queue->host->load(queue->host);
        else
                owner->ops->waiting(owner, request);
        return 0;
}

/* The broadcast has come, or the stop: the list is walked, in portions. */
static void settle(struct request_queue *queue) {
        uint64_t n = settle_waiting(queue, SETTLE_BATCH);

        leave_waiting(queue, n);
        settle_observers(queue, false);
        if (n == SETTLE_BATCH)
                reactor_queue(queue->reactor, &queue->settle);
        else
                check_idle(queue);
        /* What is left of it is for those who wait at another worker. */
        if (queue->limits->max_inflight > 0 && n > 0 && list_is_empty(&queue->waiting) && is_room(queue))
                queue->host->room(queue->host);
}

static void settle_run(struct job *job) {
        settle(container_of(job, struct request_queue, settle));
}

void request_queue_retry(struct request_queue *queue) {
        settle(queue);
}

static void gate_ready(struct watch *watch, uint32_t events) {
        struct request_queue *queue = container_of(watch, struct request_queue, gate_watch);

        (void)events;
        parking_drop(&queue->parking);
        settle(queue);
}

static void stop_ready(struct watch *watch, uint32_t events) {
        struct request_queue *queue = container_of(watch, struct request_queue, stop_watch);

        (void)events;
        parking_drop(&queue->parking);
        queue->leaving = false;
        if (queue->stopping)
                queue->stopping(queue);
        settle(queue);
}

void request_queue_look(struct request_queue *queue) {
        if (gate_state(queue->stop) != GATE_PENDING)
                stop_ready(&queue->stop_watch, 0);
        if (gate_state(&queue->generation->gate) != GATE_PENDING)
                gate_ready(&queue->gate_watch, 0);
}

static bool is_over(struct request_queue *queue, struct list *list, uint64_t now) {
        return !list_is_empty(list) && now - request_of(list->next)->arrived >= queue->limits->timeout;
}

static void time_out(struct request_queue *queue, struct request *request, uint64_t now) {
        char message[96], limit[NUMBER_DURATION_MAX], waited[NUMBER_DURATION_MAX];

        snprintf(message, sizeof(message), "Not answered within %s: waited %s",
                 number_format_duration(limit, queue->limits->timeout),
                 number_format_duration(waited, now - request->arrived));
        fail(queue, request, PROTOCOL_TIMED_OUT, message);
}

static void timeout_elapsed(struct timer *timer) {
        struct request_queue *queue = container_of(timer, struct request_queue, timeout);
        uint64_t now = reactor_now(queue->reactor), n = 0;

        for (; is_over(queue, &queue->waiting, now); n++)
                time_out(queue, request_of(queue->waiting.next), now);
        leave_waiting(queue, n);
        while (is_over(queue, &queue->processing, now)) {
                struct request *request = request_of(queue->processing.next);

                model_cancel(queue->session, &request->inference);
                leave_processing(queue, request);
                time_out(queue, request, now);
        }
        set_timeout(queue);
        check_idle(queue);
}

/* Once it is watched it tells of what was before, too: who waits meanwhile waits a little longer. */
static int watch_gate(struct request_queue *queue) {
        int r = reactor_watch(queue->reactor, &queue->gate_watch, queue->generation->gate.fd, EPOLLIN | EPOLLET, gate_ready);

        if (r < 0)
                reactor_set_timer(queue->reactor, &queue->rewatch, timer_now() + REWATCH_NSEC);
        return r;
}

static void rewatch_due(struct timer *timer) {
        (void)watch_gate(container_of(timer, struct request_queue, rewatch));
}

void request_queue_follow(struct request_queue *queue, struct generation *generation) {
        int r;

        if (generation == queue->generation)
                return;
        reactor_unwatch(&queue->gate_watch);
        queue->generation = generation;
        timer_clear(&queue->rewatch);
        r = watch_gate(queue);
        if (r < 0)
                log_error("Cannot watch the gate, trying again: %s", strerror(-r));
        settle_observers(queue, true);
        if (queue->pending && gate_state(&generation->gate) == GATE_PENDING)
                queue->pending(queue);
}

void request_queue_leave(struct request_queue *queue) {
        uint64_t n = 0;

        queue->leaving = true;
        for (struct list *i = queue->waiting.next, *next; i != &queue->waiting; i = next) {
                next = i->next;
                if (!is_left_behind(queue, request_of(i)))
                        continue;
                fail(queue, request_of(i), PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
                n++;
        }
        leave_waiting(queue, n);
        settle_observers(queue, false);
        check_idle(queue);
}

void request_queue_set_arrival(struct request_queue *queue, uint64_t arrived) {
        if (arrived > 0 && !list_is_empty(&queue->waiting))
                arrived = MAX(arrived, request_of(queue->waiting.previous)->arrived);
        queue->arrived = MIN(arrived, timer_now());
}

void request_queue_abandon(struct request_queue *queue) {
        uint64_t n = 0;

        /* Whose load failed hears that, here too. */
        if (!queue->leaving) {
                leave_waiting(queue, settle_waiting(queue, UINT64_MAX));
                settle_observers(queue, false);
        }
        for (struct list *i = queue->waiting.next, *next; i != &queue->waiting; i = next) {
                next = i->next;
                if (queue->leaving && request_of(i)->inference.parked)
                        continue;
                fail(queue, request_of(i), PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
                n++;
        }
        leave_waiting(queue, n);
        while (!list_is_empty(&queue->processing)) {
                struct request *request = request_of(queue->processing.next);

                model_cancel(queue->session, &request->inference);
                leave_processing(queue, request);
                fail(queue, request, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
        }
}

void request_owner_init(struct request_owner *owner, const struct request_ops *ops) {
        *owner = (struct request_owner){ .ops = ops };
        list_init(&owner->requests);
}

void request_owner_deinit(struct request_queue *queue, struct request_owner *owner) {
        uint64_t waiting = 0, processing = 0, observing = 0;

        while (!list_is_empty(&owner->requests)) {
                struct request *request = container_of(owner->requests.next, struct request, owner_link);

                if (request->inference.id_len == 0)
                        observing++;
                else if (request->inference.started) {
                        model_cancel(queue->session, &request->inference);
                        leave_processing(queue, request);
                        processing++;
                } else
                        waiting++;
                request_end(queue, request);
        }
        atomic_fetch_sub_explicit(&queue->limits->waiting, observing, memory_order_relaxed);
        leave_waiting(queue, waiting);
        /* Last: who sees it counted here does not see it elsewhere any more. */
        counter_add(&queue->counters->cancelled, (int64_t)(waiting + processing));
        set_timeout(queue);
        check_idle(queue);
}

int request_queue_init(struct request_queue *queue, struct reactor *reactor, struct host *host,
                       struct request_limits *limits, struct status_counters *counters, struct gate *stop,
                       struct generation *generation, struct model *model, bool quiet) {
        int r;

        *queue = (struct request_queue){
                .reactor = reactor,
                .host = host,
                .limits = limits,
                .counters = counters,
                .stop = stop,
                .generation = generation,
                .events = {
                        .exchange = inference_exchange,
                        .head = inference_head,
                        .part = inference_part,
                        .answered = inference_answered,
                        .failed = inference_failed,
                        .lost = inference_lost,
                },
                .gate_watch = WATCH_NULL,
                .stop_watch = WATCH_NULL,
        };
        list_init(&queue->waiting);
        list_init(&queue->processing);
        list_init(&queue->observers);
        pool_init(&queue->small, SMALL_SIZE);
        job_init(&queue->settle, settle_run);
        job_init(&queue->print, print_run);
        timer_init(&queue->timeout, timeout_elapsed);
        timer_init(&queue->rewatch, rewatch_due);
        parking_init(&queue->parking, reactor, NULL, 0, NULL);

        if (!quiet) {
                queue->lines = malloc(LINES_SIZE);
                if (!queue->lines)
                        return -ENOMEM;
        }
        r = model_session_new(model, reactor, &queue->events, &queue->session);
        if (r < 0)
                return r;
        r = reactor_watch(reactor, &queue->stop_watch, stop->fd, EPOLLIN | EPOLLET, stop_ready);
        if (r < 0)
                return r;
        return reactor_watch(reactor, &queue->gate_watch, generation->gate.fd, EPOLLIN | EPOLLET, gate_ready);
}

void request_queue_deinit(struct request_queue *queue) {
        if (!queue->reactor)
                return;
        print_lines(queue);
        parking_deinit(&queue->parking);
        reactor_unwatch(&queue->gate_watch);
        reactor_unwatch(&queue->stop_watch);
        timer_clear(&queue->timeout);
        timer_clear(&queue->rewatch);
        job_cancel(&queue->settle);
        job_cancel(&queue->print);
        queue->session = model_session_free(queue->session);
        free(STEAL_POINTER(queue->lines));
        pool_deinit(&queue->small);
        queue->reactor = NULL;
}
