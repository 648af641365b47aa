#include "tests/fuzz/world.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>

#include "common/util.h"
#include "daemon/log.h"

/* Turns after which it is certain that it spins: a settled queue takes one for some thousands of requests. */
#define TURNS_MAX 20000

uint64_t world_clock = NSEC_PER_SEC;

/* The linker has everybody call this one. */
uint64_t __wrap_timer_now(void);
uint64_t __wrap_timer_now(void) {
        return world_clock;
}

/* In place of daemon/log: what is said is not looked at. */
void log_write(enum log_level level, const char *format, ...) {
        (void)level;
        (void)format;
}

void log_output(const char *lines, size_t len) {
        (void)lines;
        (void)len;
}

/* The model. */

static void run_end(struct world *world, struct run *run) {
        list_remove(&run->link);
        world->runs_count--;
        free(run);
}

static struct run *run_of(struct inference *inference) {
        return (struct run *)(uintptr_t)inference->handle;
}

static int infer(struct model_session *session, const char *name, struct inference *inference) {
        struct world *world = container_of(session, struct world, session);
        struct run *run;
        int r = world->infer_error;

        expect(gate_state(&world->queue.generation->gate) == GATE_OPEN);
        expect(strcmp(name, "fuzz") == 0);
        expect(inference->id_len > 0);
        if (inference->is_exchange) {
                const struct exchange *exchange = world->events->exchange(world->events, inference);

                expect(exchange);
                if (world->look)
                        world->look(exchange);
        }
        world->infer_error = 0;
        if (r < 0)
                return r;
        run = calloc(1, sizeof(*run));
        expect(run);
        run->inference = inference;
        list_init(&run->link);
        list_append(&world->runs, &run->link);
        world->runs_count++;
        world->inferred++;
        inference->handle = (uintptr_t)run;
        return 0;
}

static void pause_run(struct model_session *session, struct inference *inference, bool paused) {
        (void)session;
        run_of(inference)->paused = paused;
}

static void cancel(struct model_session *session, struct inference *inference) {
        run_end(container_of(session, struct world, session), run_of(inference));
}

static int session_new(struct model *model, struct reactor *reactor, struct inference_events *events,
                       struct model_session **session) {
        struct world *world = container_of(model, struct world, model);

        (void)reactor;
        world->events = events;
        world->session.model = model;
        *session = &world->session;
        return 0;
}

static void session_free(struct model_session *session) {
        (void)session;
}

static void begin_answer(struct world *world, struct run *run, uint64_t length) {
        static const struct answer_field fields[] = { { "Content-Type", "text/plain" }, { "X-Model", "fuzz" } };
        const struct answer_head head = { 200, length, fields, ARRAY_SIZE(fields) };

        if (!run->inference->is_exchange || run->begun)
                return;
        run->begun = true;
        world->events->head(world->events, run->inference, &head);
}

struct run *world_run(struct world *world, unsigned i) {
        struct list *link = world->runs.next;

        if (world->runs_count == 0)
                return NULL;
        for (i %= world->runs_count; i > 0; i--)
                link = link->next;
        return container_of(link, struct run, link);
}

void world_part(struct world *world, struct run *run, const char *data, size_t len) {
        if (!run || run->paused || !(run->inference->stream || run->inference->is_exchange))
                return;
        begin_answer(world, run, ANSWER_LENGTH_UNKNOWN);
        run->begun = true;
        world->events->part(world->events, run->inference, data, len);
}

void world_answer(struct world *world, struct run *run) {
        struct inference *inference;
        bool rest;

        if (!run)
                return;
        begin_answer(world, run, 0);
        inference = run->inference;
        rest = !inference->stream && !inference->is_exchange;
        run_end(world, run);
        world->events->answered(world->events, inference, "answer", rest ? 6 : 0);
}

void world_fail(struct world *world, struct run *run) {
        struct inference *inference;

        if (!run)
                return;
        inference = run->inference;
        run_end(world, run);
        world->events->failed(world->events, inference, "The model\nfailed");
}

/* One that has begun to answer is not lost any more: model.h. */
void world_lose(struct world *world, struct run *run) {
        struct inference *inference;

        if (!run || run->begun)
                return;
        inference = run->inference;
        run_end(world, run);
        world->events->lost(world->events, inference, "The model was lost");
}

void world_answer_all(struct world *world) {
        while (world->runs_count > 0) {
                world_answer(world, world_run(world, 0));
                world_settle(world);
        }
}

/* The host, as daemon/server.c has it. */

static struct world *world_of(struct host *host) {
        return container_of(host, struct world, host);
}

static struct generation *host_generation(struct host *host) {
        struct world *world = world_of(host);

        return world->generations[world->current];
}

static void host_handle_request(struct host *host, struct request_queue *queue, struct request *request) {
        request_queue_follow(queue, host_generation(host));
        if (gate_state(queue->stop) != GATE_PENDING) {
                request_refuse(queue, request, PROTOCOL_SHUTTING_DOWN, PROTOCOL_SHUTTING_DOWN_MESSAGE);
                return;
        }
        switch (gate_state(&queue->generation->gate)) {
        case GATE_PENDING:
                request_wait(queue, request);
                break;
        case GATE_OPEN:
                request_start(queue, request);
                break;
        case GATE_FAILED:
                request_refuse(queue, request, PROTOCOL_LOAD_FAILED, queue->generation->gate.reason);
                break;
        }
}

static void host_load(struct host *host) {
        world_of(host)->wants_load = true;
        reactor_queue(&world_of(host)->reactor, &world_of(host)->errands);
}

static void host_shutdown(struct host *host) {
        world_of(host)->wants_stop = true;
        reactor_queue(&world_of(host)->reactor, &world_of(host)->errands);
}

static void host_room(struct host *host) {
        world_of(host)->wants_room = true;
        reactor_queue(&world_of(host)->reactor, &world_of(host)->errands);
}

/* The input says what it was. */
static void host_suspect(struct host *host) {
        (void)host;
}

static void run_errands(struct job *job) {
        struct world *world = container_of(job, struct world, errands);

        if (world->wants_stop)
                world_stop(world);
        if (world->wants_load && gate_state(&world->generations[world->current]->gate) == GATE_FAILED)
                world_next_generation(world);
        if (world->wants_room)
                request_queue_retry(&world->queue);
        world->wants_stop = world->wants_load = world->wants_room = false;
}

void world_load_ends(struct world *world, bool open) {
        struct generation *generation = world->generations[world->current];

        if (gate_state(&generation->gate) != GATE_PENDING || gate_state(&world->stop) != GATE_PENDING)
                return;
        if (open) {
                snprintf(generation->model, sizeof(generation->model), "fuzz");
                status_ready(&world->status, "fuzz");
                expect(gate_open(&generation->gate) == 0);
        } else {
                status_failed(&world->status, "no\nfile");
                expect(gate_fail(&generation->gate, "no\nfile") == 0);
        }
}

void world_next_generation(struct world *world) {
        if (gate_state(&world->generations[world->current]->gate) == GATE_PENDING || world->queue.leaving ||
            world->current + 1 == WORLD_GENERATIONS || gate_state(&world->stop) != GATE_PENDING)
                return;
        world->current++;
        status_loading(&world->status, world->current + 1);
        request_queue_follow(&world->queue, world->generations[world->current]);
}

void world_stop(struct world *world) {
        expect(gate_open(&world->stop) >= 0);
}

/* Turns. */

static void turn_run(struct job *job) {
        struct world *world = container_of(job, struct world, turn_end);

        if (world->turns-- == 0)
                reactor_stop(&world->reactor);
        else
                reactor_queue(&world->reactor, job);
}

void world_turn(struct world *world, unsigned turns) {
        world->turns = turns;
        world->reactor.stopped = false;
        reactor_queue(&world->reactor, &world->turn_end);
        expect(reactor_run(&world->reactor) == 0);
}

/* epoll(7): its descriptor is readable when one of those in it is. */
static bool is_quiet(const struct world *world) {
        struct pollfd poll_fd = { .fd = world->reactor.epoll, .events = POLLIN };

        return list_is_empty(&world->reactor.jobs) && timer_list_due(&world->reactor.timers) > world_clock &&
               poll(&poll_fd, 1, 0) == 0;
}

void world_settle(struct world *world) {
        unsigned turns = 0;

        while (!is_quiet(world)) {
                expect(turns++ < TURNS_MAX);
                world_turn(world, 0);
        }
}

void world_init(struct world *world) {
        expect(reactor_init(&world->reactor) == 0);
        expect(gate_init(&world->stop) == 0);
        expect(status_init(&world->status, 1, &world->stop) == 0);
        status_loading(&world->status, 1);
        for (unsigned i = 0; i < WORLD_GENERATIONS; i++)
                expect(generation_new(&world->generations[i], i + 1) == 0);
        world->host = (struct host){
                .handle_request = host_handle_request,
                .generation = host_generation,
                .load = host_load,
                .shutdown = host_shutdown,
                .room = host_room,
                .suspect = host_suspect,
        };
        world->ops = (struct model_ops){
                .name = "fuzz",
                .session_new = session_new,
                .session_free = session_free,
                .infer = infer,
                .pause = pause_run,
                .cancel = cancel,
        };
        world->model.ops = &world->ops;
        world->current = 0;
        world->runs_count = 0;
        world->infer_error = 0;
        world->wants_load = world->wants_stop = world->wants_room = false;
        list_init(&world->runs);
        job_init(&world->errands, run_errands);
        job_init(&world->turn_end, turn_run);
        expect(request_queue_init(&world->queue, &world->reactor, &world->host, &world->limits, world->status.counters,
                                  &world->stop, world->generations[0], &world->model, true) == 0);
}

void world_deinit(struct world *world) {
        const struct status_counters *counters = world->status.counters;

        job_cancel(&world->errands);
        expect(world->runs_count == 0);
        expect(atomic_load(&world->limits.waiting) == 0);
        expect(atomic_load(&counters->waiting) == 0 && atomic_load(&counters->oldest) == 0);
        expect(atomic_load(&world->limits.prompt_memory) == 0 && atomic_load(&world->limits.inflight) == 0);
        expect(atomic_load(&counters->accepted) == atomic_load(&counters->completed) + atomic_load(&counters->failed) +
                                                           atomic_load(&counters->cancelled));
        expect(atomic_load(&counters->processing) == 0 && atomic_load(&counters->connections) == 0);
        request_queue_deinit(&world->queue);
        for (unsigned i = 0; i < WORLD_GENERATIONS; i++)
                world->generations[i] = generation_free(world->generations[i]);
        status_deinit(&world->status);
        gate_deinit(&world->stop);
        reactor_deinit(&world->reactor);
}

bool world_happen(struct world *world, uint8_t what, struct input *input) {
        switch (what) {
        case 't':
                world_turn(world, 0);
                break;
        case 'T':
                world_settle(world);
                break;
        case 'o':
                world_load_ends(world, true);
                break;
        case 'f':
                world_load_ends(world, false);
                break;
        case 'g':
                world_next_generation(world);
                break;
        case 's':
                world_stop(world);
                break;
        case 'p':
                world_part(world, world_run(world, input_byte(input)), "a part", 6);
                break;
        case 'a':
                world_answer(world, world_run(world, input_byte(input)));
                break;
        case 'x':
                world_fail(world, world_run(world, input_byte(input)));
                break;
        case 'l':
                world_lose(world, world_run(world, input_byte(input)));
                break;
        case 'r':
                request_queue_retry(&world->queue);
                break;
        case 'k':
                world_clock += input_byte(input) * NSEC_PER_MSEC * 100;
                break;
        case 'A':
                world_answer_all(world);
                break;
        default:
                return false;
        }
        return true;
}

unsigned world_descriptors(void) {
        unsigned n = 0;

        for (int fd = 0; fd < 64; fd++)
                n += fcntl(fd, F_GETFD) >= 0;
        return n;
}
