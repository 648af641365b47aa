#include "tests/unit/queue/world.h"

#include <stdio.h>
#include <string.h>

uint64_t now = 1000 * NSEC_PER_SEC;

/* The linker has everybody call this one. */
uint64_t __wrap_timer_now(void);
uint64_t __wrap_timer_now(void) {
        return now;
}

struct reactor reactors[LANES];
struct gate stop;
struct status status;
struct request_limits limits;
struct generation *generations[GENERATIONS];
unsigned current;
struct queue queue;
struct lane lanes[LANES];
static struct places_lane *lane_places[PLACES_KINDS][LANES];
struct request_owner owners[LANES], other;
bool offers[LANES];
static bool cleared;
unsigned loads, idles, suspects, pendings, writes, needs;

char journal[1 << 16];
static unsigned journal_count;

void journal_add(const char *id, size_t id_len, const char *what, const char *data, size_t len) {
        size_t n = strlen(journal);

        snprintf(journal + n, sizeof(journal) - n, "%.*s%s%s%.*s\n", unit_len(id_len), id, *what ? " " : "", what,
                 unit_len(len), data);
        journal_count++;
}

void assert_journal(const char *text) {
        ck_assert_str_eq(journal, text);
        journal[0] = '\0';
        journal_count = 0;
}

/* The model: what it is running, of all lanes. */

struct fake_session sessions[LANES];
struct inference *runs[100000];
unsigned run_count;
unsigned room = UINT32_MAX;      /* runs that it takes before it is busy */
int infer_error;
unsigned cancels, pauses;

static int session_new(struct model *base, const struct session_place *place, struct model_session **session) {
        static unsigned i;

        sessions[i % LANES].session.model = base;
        sessions[i % LANES].events = place->events;
        *session = &sessions[i++ % LANES].session;
        return 0;
}

static void session_free(struct model_session *session) {
        (void)session;
}

static void session_follow(struct model_session *session, const struct generation *generation) {
        (void)session;
        ck_assert_int_eq(gate_state(&generation->gate), GATE_OPEN);
}

static int infer(struct model_session *session, struct inference *inference) {
        int r = infer_error;

        ck_assert_ptr_eq(session->model, queue.model);
        infer_error = 0;
        if (r < 0)
                return r;
        if (run_count >= room)
                return MODEL_BUSY;
        inference->handle = run_count;
        runs[run_count++] = inference;
        if (journal_count < 1000)
                journal_add("+", 1, "", inference_id(inference), inference->id_len);
        return 0;
}

unsigned run_of(const char *id) {
        for (unsigned i = 0; i < run_count; i++)
                if (runs[i]->id_len == strlen(id) && memcmp(inference_id(runs[i]), id, strlen(id)) == 0)
                        return i;
        ck_abort_msg("%s is not with the model", id);
}

static struct session_events *events_of(const struct inference *inference) {
        for (unsigned i = 0; i < LANES; i++)
                if (inference->recipient == &owners[i].recipient)
                        return sessions[i].events;
        return sessions[0].events;
}

void end_run(unsigned i, enum ending how, const char *text, uint64_t retry_after) {
        const struct answer_end end = { .how = how, .text = text, .len = strlen(text), .retry_after = retry_after };
        struct inference *inference = runs[i];

        for (run_count--; i < run_count; i++) {
                runs[i] = runs[i + 1];
                runs[i]->handle = i;
        }
        events_of(inference)->ended(events_of(inference), inference, &end);
}

void finish(const char *id) {
        end_run(run_of(id), ENDING_COMPLETE, "done", UINT64_MAX);
}

void lose(const char *id, enum ending how) {
        end_run(run_of(id), how, "lost it", UINT64_MAX);
}

/* The last one takes its place: a hundred thousand may be cancelled at once. */
static void cancel(struct model_session *session, struct inference *inference) {
        const uint64_t i = inference->handle;

        (void)session;
        unit_assert(i < run_count && runs[i] == inference, "What is cancelled is not with the model");
        runs[i] = runs[--run_count];
        runs[i]->handle = i;
        cancels++;
}

static void pause_run(struct model_session *session, struct inference *inference, bool paused) {
        (void)session;
        (void)inference;
        pauses += paused;
}

struct model_ops model_ops = {
        .name = "scripted",
        .session_new = session_new,
        .session_free = session_free,
        .session_follow = session_follow,
        .infer = infer,
        .pause = pause_run,
        .cancel = cancel,
};
struct model model = { &model_ops };

/* The owners. */

static void complete(struct request_owner *owner, struct request *request, const char *data, size_t len) {
        (void)owner;
        journal_add(inference_id(&request->inference), request->inference.id_len, "ok ", data, len);
}

static void request_failed(struct request_owner *owner, struct request *request, enum protocol_code code,
                           const char *message) {
        char what[64];

        (void)owner;
        snprintf(what, sizeof(what), "%s ", protocol_code_name(code));
        if (journal_count < 1000)
                journal_add(inference_id(&request->inference), request->inference.id_len, what, message, strlen(message));
}

bool parks;

static void waiting(struct request_owner *owner, struct request *request) {
        (void)owner;
        ck_assert(!request->inference.parked);
        request->inference.parked = parks;
}

static void starting(struct request_owner *owner, struct request *request) {
        (void)owner;
        if (request->inference.parked)
                journal_add(inference_id(&request->inference), request->inference.id_len, "starts", "", 0);
}

static const struct request_ops request_ops = {
        .complete = complete,
        .failed = request_failed,
        .waiting = waiting,
        .starting = starting,
};

/* The daemon. */

static void load(struct queue *q) {
        ck_assert_ptr_eq(q, &queue);
        loads++;
}

static void needed(struct queue *q) {
        ck_assert_ptr_eq(q, &queue);
        needs++;
}

static void queue_suspect(struct queue *q) {
        ck_assert_ptr_eq(q, &queue);
        suspects++;
}

static void queue_cleared(struct queue *q) {
        ck_assert_ptr_eq(q, &queue);
        cleared = true;
}

static void pending(struct lane *lane) {
        (void)lane;
        pendings++;
}

static void drained(struct lane *lane) {
        idles += lane_is_idle(lane, 0);
}

static void offered(struct lane *lane) {
        offers[lane - lanes] = true;
}

static void written(struct lane *lane) {
        (void)lane;
        writes++;
}

static const struct lane_events lane_events = {
        .pending = pending,
        .drained = drained,
        .offered = offered,
        .written = written,
};

void open_lanes(uint64_t max_inflight) {
        limits.max_waiting = limits.max_waiting ? limits.max_waiting : 1000000;
        limits.max_prompt_memory = 100;
        ck_assert_int_eq(gate_init(&stop), 0);
        ck_assert_int_eq(status_init(&status, LANES, &stop), 0);
        for (unsigned i = 0; i < GENERATIONS; i++)
                ck_assert_int_eq(generation_new(&generations[i], i + 1), 0);
        queue = (struct queue){
                .limits = &limits,
                .stop = &stop,
                .model = &model,
                .load = load,
                .needed = needed,
                .suspect = queue_suspect,
                .cleared = queue_cleared,
        };
        atomic_store(&queue.generation, generations[0]);
        for (unsigned i = 0; i < LANES; i++) {
                ck_assert_int_eq(reactor_init(&reactors[i]), 0);
                ck_assert_int_eq(lane_init(&lanes[i], &queue, &reactors[i], NULL, &status.counters[i], &lane_events, true), 0);
                for (unsigned j = 0; j < PLACES_KINDS; j++)
                        lane_places[j][i] = &lanes[i].lists[j].place;
                request_owner_init(&owners[i], &request_ops);
        }
        for (unsigned j = 0; j < PLACES_KINDS; j++)
                queue.places[j] = (struct places){ .lanes = lane_places[j], .count = LANES };
        queue.places[PLACES_INFERENCE].max = max_inflight;
        queue.places[PLACES_SUSPECT].max = 1;
        request_owner_init(&other, &request_ops);
}

void close_lanes(void) {
        lane_forget(&lanes[0], &other);
        for (unsigned i = 0; i < LANES; i++)
                lane_forget(&lanes[i], &owners[i]);
        ck_assert_uint_eq(run_count, 0);
        for (unsigned i = 0; i < LANES; i++) {
                const struct status_counters *counters = &status.counters[i];

                lanes[i].leaving = false;
                ck_assert(lane_is_idle(&lanes[i], 0));
                ck_assert_uint_eq(atomic_load(&counters->waiting), 0);
                ck_assert_uint_eq(atomic_load(&counters->processing), 0);
                ck_assert_uint_eq(atomic_load(&counters->oldest), 0);
                ck_assert_uint_eq(atomic_load(&counters->demands), 0);
                ck_assert_uint_eq(atomic_load(&counters->accepted), atomic_load(&counters->completed) +
                                  atomic_load(&counters->failed) + atomic_load(&counters->cancelled));
        }
        ck_assert_uint_eq(atomic_load(&limits.waiting), 0);
        ck_assert_uint_eq(atomic_load(&limits.prompt_memory), 0);
        for (unsigned j = 0; j < PLACES_KINDS; j++)
                ck_assert_uint_eq(places_taken(&queue.places[j]), 0);
        for (unsigned i = 0; i < LANES; i++) {
                lane_deinit(&lanes[i]);
                lane_deinit(&lanes[i]);
                ck_assert_uint_eq(timer_list_due(&reactors[i].timers), UINT64_MAX);
        }
        for (unsigned i = 0; i < GENERATIONS; i++)
                generations[i] = generation_free(generations[i]);
        status_deinit(&status);
        gate_deinit(&stop);
        for (unsigned i = 0; i < LANES; i++)
                reactor_deinit(&reactors[i]);
}

void move_clock(uint64_t nsec) {
        now += nsec;
        for (unsigned i = 0; i < LANES; i++)
                reactors[i].now = 0;
}

/* A request comes, a moment after the one before. */
void come_to(unsigned lane, const char *id) {
        move_clock(1);
        ck_assert_int_eq(lane_request(&lanes[lane], &owners[lane], id, strlen(id), NULL, 0, false), 0);
}

void come(const char *id) {
        come_to(0, id);
}

void come_by_http(const char *id, bool is_light, bool repeats) {
        struct request *request = lane_allocate(&lanes[0], strlen(id));

        move_clock(1);
        ck_assert_ptr_nonnull(request);
        request->inference = (struct inference){
                .id_len = (uint8_t)strlen(id),
                .is_light = is_light,
                .demands = !is_light,
                .repeats = repeats,
        };
        memcpy(request->inference.text, id, strlen(id));
        lane_exchange(&lanes[0], &owners[0], request);
}

void open_gate(void) {
        ck_assert_int_eq(gate_open(&generations[current]->gate), 0);
}

void next_generation(void) {
        atomic_store(&queue.generation, generations[++current]);
        for (unsigned i = 0; i < LANES; i++)
                lane_follow(&lanes[i]);
}

/* The probe found the model alive. */
void found_alive(void) {
        atomic_store(&generations[current]->suspicions, 0);
        for (unsigned i = 0; i < LANES; i++)
                lane_resume(&lanes[i]);
}

static struct job turn_end;
static struct reactor *running;
static unsigned turns;

static void turn_run(struct job *job) {
        if (turns-- == 0)
                reactor_stop(running);
        else
                reactor_queue(running, job);
}

/* Runs `n` more turns than one of each worker, none of which waits; each hears of its offers. */
void run_turns(unsigned n) {
        bool again = true;

        while (again) {
                again = false;
                for (unsigned i = 0; i < LANES; i++) {
                        running = &reactors[i];
                        turns = n;
                        running->stopped = false;
                        job_init(&turn_end, turn_run);
                        reactor_queue(running, &turn_end);
                        ck_assert_int_eq(reactor_run(running), 0);
                }
                for (unsigned i = 0; i < LANES; i++) {
                        if (cleared)
                                lane_resume(&lanes[i]);
                        if (offers[i]) {
                                offers[i] = false;
                                again = true;
                                lane_claim(&lanes[i]);
                        }
                }
                again |= cleared;
                cleared = false;
        }
}

void run_later(uint64_t nsec) {
        move_clock(nsec);
        run_turns(2);
}
