#include "tests/fuzz/world.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "common/util.h"
#include "daemon/front/parked.h"
#include "daemon/log.h"

/* Turns after which it is certain that it spins: a settled lane takes one for some thousands of requests. */
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

static struct world *world_of_session(struct model_session *session) {
        return container_of(session, struct world, session);
}

static void session_follow(struct model_session *session, const struct generation *generation) {
        (void)session;
        expect(gate_state(&generation->gate) == GATE_OPEN && strcmp(generation->model, "fuzz") == 0);
}

/* Inferences that have a place. */
static unsigned count_places(const struct world *world) {
        unsigned n = 0;

        for (const struct list *i = world->runs.next; i != &world->runs; i = i->next)
                n += !container_of(i, struct run, link)->inference->is_light;
        return n;
}

static int infer(struct model_session *session, struct inference *inference) {
        struct world *world = world_of_session(session);
        struct run *run;
        int r = world->infer_error;

        expect(gate_state(&world->lane.generation->gate) == GATE_OPEN);
        expect(atomic_load(&world->lane.generation->suspicions) == 0);
        expect(inference->id_len > 0);
        if (world->busy)
                return MODEL_BUSY;
        if (inference->is_exchange) {
                const struct exchange *exchange = inference->recipient->ops->exchange(inference->recipient, inference);

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
        expect(world->max_inflight == 0 || count_places(world) <= world->max_inflight);
        return 0;
}

static void pause_run(struct model_session *session, struct inference *inference, bool paused) {
        (void)session;
        run_of(inference)->paused = paused;
}

static size_t send_to_run(struct model_session *session, struct inference *inference, const char *data, size_t len) {
        struct run *run = run_of(inference);

        (void)session;
        expect(run->tunnel && (len == 0 || (data && !run->finished)));
        return run->unsent += len;
}

static void finish_run(struct model_session *session, struct inference *inference) {
        (void)session;
        expect(run_of(inference)->tunnel && !run_of(inference)->finished);
        run_of(inference)->finished = true;
}

static void cancel(struct model_session *session, struct inference *inference) {
        run_end(world_of_session(session), run_of(inference));
}

static int session_new(struct model *model, const struct session_place *place, struct model_session **session) {
        struct world *world = container_of(model, struct world, model);

        expect(place->reactor == &world->reactor && place->sockets == &world->sockets);
        world->events = place->events;
        world->session.model = model;
        *session = &world->session;
        return 0;
}

static void session_free(struct model_session *session) {
        (void)session;
}

static void send_head(struct run *run, unsigned status, const char *fields) {
        struct recipient *recipient = run->inference->recipient;
        struct http_refusal refusal;
        struct http_answer answer;
        char head[256];
        int n = snprintf(head, sizeof(head), "HTTP/1.1 %u Fuzz\r\nX-Model: fuzz\r\nKeep-Alive: 5\r\n%s\r\n", status, fields);

        expect(http_parse_answer(&answer, head, (size_t)n, 0, &refusal) == HTTP_WHOLE);
        recipient->ops->head(recipient, run->inference, &(struct answer_head){ &answer, head });
}

/* The head of the answer; `len` bytes follow, or (HTTP_LENGTH_UNKNOWN) nobody knows. */
static void begin_answer(struct run *run, uint64_t len) {
        struct recipient *recipient = run->inference->recipient;
        char fields[96];

        if (!run->inference->is_exchange || run->begun)
                return;
        run->begun = true;
        /* Of HEAD nothing follows. */
        run->left = recipient->ops->exchange(recipient, run->inference)->request->is_head ? 0 : len;
        if (len == HTTP_LENGTH_UNKNOWN)
                send_head(run, 200, "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n");
        else {
                snprintf(fields, sizeof(fields), "Content-Type: text/plain\r\nContent-Length: %zu\r\n", (size_t)len);
                send_head(run, 200, fields);
        }
}

static void send_part(struct run *run, const char *data, size_t len) {
        struct recipient *recipient = run->inference->recipient;

        run->begun = true;
        recipient->ops->part(recipient, run->inference, data, len);
}

struct run *world_run(struct world *world, unsigned i) {
        struct list *link = world->runs.next;

        if (world->runs_count == 0)
                return NULL;
        for (i %= world->runs_count; i > 0; i--)
                link = link->next;
        return container_of(link, struct run, link);
}

static void end_run(struct world *world, struct run *run, const struct answer_end *end) {
        struct inference *inference = run->inference;

        run_end(world, run);
        world->events->ended(world->events, inference, end);
}

/* Sends so much of an answer, and no more than was said; if that is all of it, it is complete. */
static void send_some(struct world *world, struct run *run, const char *data, size_t len) {
        const struct answer_end end = { .how = ENDING_COMPLETE, .text = "", .retry_after = UINT64_MAX };
        const bool has_length = run->inference->is_exchange && !run->tunnel && run->left != HTTP_LENGTH_UNKNOWN;

        if (has_length) {
                len = (size_t)MIN((uint64_t)len, run->left);
                run->left -= len;
        }
        if (len > 0)
                send_part(run, data, len);
        if (has_length && run->left == 0)
                end_run(world, run, &end);
}

void world_part(struct world *world, struct run *run, const char *data, size_t len) {
        if (!run || run->paused || !(run->inference->stream || run->inference->is_exchange))
                return;
        begin_answer(run, HTTP_LENGTH_UNKNOWN);
        send_some(world, run, data, len);
}

/* An answer whose length is said beforehand. */
static void begin_with_length(struct world *world, struct run *run, uint64_t len) {
        if (!run || run->paused || run->begun || !run->inference->is_exchange)
                return;
        begin_answer(run, len);
        send_some(world, run, "", 0);
}

/* An interim answer; or the answer that makes a tunnel of it, if its client asked for that. */
static void send_interim(struct run *run, bool upgrade) {
        struct recipient *recipient;

        if (!run || !run->inference->is_exchange || run->begun)
                return;
        recipient = run->inference->recipient;
        if (!upgrade) {
                send_head(run, 103, "Link: </style.css>\r\n");
                return;
        }
        if (!recipient->ops->exchange(recipient, run->inference)->request->is_upgrade)
                return;
        run->begun = run->tunnel = true;
        send_head(run, 101, "Connection: upgrade\r\nUpgrade: websocket\r\n");
}

/* Of a tunnel: the model takes what it was sent. */
static void take_all(struct run *run) {
        struct recipient *recipient;

        if (!run || !run->tunnel || run->unsent == 0)
                return;
        recipient = run->inference->recipient;
        run->unsent = 0;
        recipient->ops->sent(recipient, run->inference);
}

void world_answer(struct world *world, struct run *run) {
        static const char rest[UINT8_MAX] = "the rest of an answer";
        struct answer_end end = { .how = ENDING_COMPLETE, .text = "answer", .retry_after = UINT64_MAX };

        if (!run)
                return;
        begin_answer(run, 0);
        if (run->inference->is_exchange && !run->tunnel && run->left != HTTP_LENGTH_UNKNOWN) {
                send_some(world, run, rest, sizeof(rest));
                return;
        }
        end.len = run->inference->stream || run->inference->is_exchange ? 0 : strlen(end.text);
        end_run(world, run, &end);
}

void world_end(struct world *world, struct run *run, enum ending how, uint64_t retry_after) {
        const struct answer_end end = {
                .how = how,
                .text = how == ENDING_FAILED ? "The model\nfailed" : "The model was lost",
                .retry_after = retry_after,
        };

        if (run && (how == ENDING_FAILED || !run->begun))
                end_run(world, run, &end);
}

void world_answer_all(struct world *world) {
        while (world->runs_count > 0) {
                world_answer(world, world_run(world, 0));
                world_settle(world);
        }
}

/* The daemon, as daemon/server.c and daemon/worker.c have it. */

static struct world *world_of_queue(struct queue *queue) {
        return container_of(queue, struct world, queue);
}

static struct world *world_of_lane(struct lane *lane) {
        return container_of(lane, struct world, lane);
}

static void queue_load(struct queue *queue) {
        world_of_queue(queue)->wants_load = true;
        reactor_queue(&world_of_queue(queue)->reactor, &world_of_queue(queue)->errands);
}

static void queue_shutdown(struct queue *queue) {
        world_of_queue(queue)->wants_stop = true;
        reactor_queue(&world_of_queue(queue)->reactor, &world_of_queue(queue)->errands);
}

/* The input says what it was. */
static void queue_suspect(struct queue *queue) {
        (void)queue;
}

static void queue_cleared(struct queue *queue) {
        struct world *world = container_of(queue, struct world, queue);

        world->cleared = true;
        reactor_queue(&world->reactor, &world->errands);
}

static void found_alive(struct world *world) {
        atomic_store(&world->generations[world->current]->suspicions, 0);
        lane_resume(&world->lane);
}

static void lane_offered(struct lane *lane) {
        world_of_lane(lane)->offered = true;
        reactor_queue(lane->reactor, &world_of_lane(lane)->errands);
}

static void run_errands(struct job *job) {
        struct world *world = container_of(job, struct world, errands);

        if (world->wants_stop)
                world_stop(world);
        if (world->wants_load && gate_state(&world->generations[world->current]->gate) == GATE_FAILED)
                world_next_generation(world);
        if (world->offered)
                lane_claim(&world->lane);
        if (world->cleared)
                lane_resume(&world->lane);
        world->wants_stop = world->wants_load = world->offered = world->cleared = false;
}

static void lane_pending(struct lane *lane) {
        parking_open(&world_of_lane(lane)->parking);
}

static void lane_stopping(struct lane *lane) {
        parking_drop(&world_of_lane(lane)->parking);
}

static void lane_written(struct lane *lane) {
        parking_write(&world_of_lane(lane)->parking);
}

static const struct lane_events lane_events = {
        .pending = lane_pending,
        .stopping = lane_stopping,
        .offered = lane_offered,
        .written = lane_written,
};

static void parking_opened(struct parking *parking) {
        struct world *world = container_of(parking, struct world, parking);

        front_park(&world->front);
        http_park(&world->http);
}

static void connection_ended(struct front *front) {
        expect(container_of(front, struct world, front)->parking.reactor);
}

static void http_connection_ended(struct http *http) {
        expect(container_of(http, struct world, http)->parking.reactor);
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
        if (gate_state(&world->generations[world->current]->gate) == GATE_PENDING || world->lane.leaving ||
            world->current + 1 == WORLD_GENERATIONS || gate_state(&world->stop) != GATE_PENDING)
                return;
        world->current++;
        /* Every second one was begun because the one before had crashed. */
        world->generations[world->current]->loss = world->current % 2 == 1 ? LOSS_CRASHED : LOSS_KILLED;
        status_loading(&world->status, world->current + 1);
        atomic_store(&world->queue.generation, world->generations[world->current]);
        lane_follow(&world->lane);
}

void world_stop(struct world *world) {
        expect(gate_open(&world->stop) >= 0);
}

/* The service manager. */

struct kept {
        char name[64];
        int fds[3];
};

static struct kept kept[8];
static unsigned kept_count;

/* The process was killed: nothing of it has an effect any more. What the linker has everybody call: */
static bool dead;

ssize_t __real_send(int fd, const void *data, size_t len, int flags);
ssize_t __wrap_send(int fd, const void *data, size_t len, int flags);
ssize_t __wrap_send(int fd, const void *data, size_t len, int flags) {
        errno = EPIPE;
        return dead ? -1 : __real_send(fd, data, len, flags);
}

ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags) {
        errno = EPIPE;
        return dead ? -1 : __real_sendmsg(fd, message, flags);
}

int __real_shutdown(int fd, int how);
int __wrap_shutdown(int fd, int how);
int __wrap_shutdown(int fd, int how) {
        return dead ? 0 : __real_shutdown(fd, how);
}

ssize_t __real_pwrite(int fd, const void *data, size_t len, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t offset) {
        errno = EIO;
        return dead ? -1 : __real_pwrite(fd, data, len, offset);
}

int __real_ftruncate(int fd, off_t len);
int __wrap_ftruncate(int fd, off_t len);
int __wrap_ftruncate(int fd, off_t len) {
        return dead ? 0 : __real_ftruncate(fd, len);
}

static int keep(struct parking_keeper *keeper, const char *name, const int *fds, unsigned n) {
        struct kept *place = &kept[kept_count];

        (void)keeper;
        if (dead)
                return -EPIPE;
        expect(n == 3 && ++kept_count <= ARRAY_SIZE(kept));
        snprintf(place->name, sizeof(place->name), "%s", name);
        for (unsigned i = 0; i < n; i++)
                expect((place->fds[i] = dup(fds[i])) >= 0);
        return 0;
}

static void release(struct parking_keeper *keeper, const char *name) {
        (void)keeper;
        for (unsigned i = 0; i < kept_count && !dead; i++)
                if (strcmp(kept[i].name, name) == 0) {
                        for (unsigned j = 0; j < 3; j++)
                                close(kept[i].fds[j]);
                        kept[i--] = kept[--kept_count];
                }
}

static bool has(struct parking_keeper *keeper, const char *name) {
        (void)keeper;
        (void)name;
        return true;
}

struct parking_keeper world_keeper = { .keep = keep, .has = has, .release = release };

bool world_leave(struct world *world) {
        if (!world->keeper || gate_state(&world->stop) != GATE_PENDING ||
            gate_state(&world->generations[world->current]->gate) == GATE_FAILED)
                return false;
        lane_leave(&world->lane);
        parking_open(&world->parking);
        world_answer_all(world);
        world_settle(world);
        /* A SHUTDOWN was among what came: that goes before a restart. */
        if (gate_state(&world->stop) != GATE_PENDING)
                return false;
        parking_leave(&world->parking);
        lane_abandon(&world->lane);
        return true;
}

static const struct guest *guest_of(const struct world *world, uint64_t cookie) {
        const struct list *lists[] = { &world->parking.sent, &world->parking.unsent };

        for (unsigned i = 0; i < ARRAY_SIZE(lists); i++)
                for (const struct list *j = lists[i]->next; j != lists[i]; j = j->next)
                        if (container_of(j, struct guest, link)->cookie == cookie)
                                return container_of(j, struct guest, link);
        return NULL;
}

bool world_may_lose(const struct world *world, int fd, uint64_t cookie) {
        const struct guest *guest = guest_of(world, cookie);
        int unread = 0;

        return fd >= 0 && ioctl(fd, FIONREAD, &unread) == 0 &&
               (unread > 0 || !guest || guest->lost || guest->owner->in_flight > 0);
}

void world_park_all(struct world *world) {
        do
                world_turn(world, 0);
        while (!list_is_empty(&world->parking.unsent) || world->parking.buffered > 0);
}

void world_replace(struct world *world, bool killed) {
        struct parked_list list = { 0 };

        dead = killed;
        world_end_fronts(world);
        world_deinit(world);
        dead = false;
        /* Time goes by, and so names differ. */
        world_clock += NSEC_PER_MSEC;
        world_init(world);
        while (kept_count > 0) {
                struct kept *one = &kept[--kept_count];

                for (unsigned i = 0; i < 3; i++)
                        expect(parked_list_add(&list, one->name, one->fds[i]));
        }
        for (unsigned i = 0; i < list.count; i++)
                (void)parked_adopt(&list.items[i], &world->front, &world->http);
        parked_list_deinit(&list);
        world_settle(world);
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
        socket_group_init(&world->sockets, &world->reactor);
        expect(gate_init(&world->stop) == 0);
        expect(status_init(&world->status, 1, &world->stop) == 0);
        status_loading(&world->status, 1);
        for (unsigned i = 0; i < WORLD_GENERATIONS; i++)
                expect(generation_new(&world->generations[i], i + 1) == 0);
        world->ops = (struct model_ops){
                .name = "fuzz",
                .session_new = session_new,
                .session_free = session_free,
                .session_follow = session_follow,
                .infer = infer,
                .pause = pause_run,
                .send = send_to_run,
                .finish = finish_run,
                .cancel = cancel,
        };
        world->model.ops = &world->ops;
        world->queue = (struct queue){
                .limits = &world->limits,
                .stop = &world->stop,
                .model = &world->model,
                .load = queue_load,
                .shutdown = queue_shutdown,
                .suspect = queue_suspect,
                .cleared = queue_cleared,
        };
        atomic_store(&world->queue.generation, world->generations[0]);
        world->current = 0;
        world->runs_count = 0;
        world->infer_error = 0;
        world->busy = world->wants_load = world->wants_stop = world->offered = world->cleared = false;
        list_init(&world->runs);
        job_init(&world->errands, run_errands);
        job_init(&world->turn_end, turn_run);
        expect(lane_init(&world->lane, &world->queue, &world->reactor, &world->sockets, world->status.counters, &lane_events,
                         true) == 0);
        for (unsigned i = 0; i < PLACES_KINDS; i++) {
                world->places[i] = &world->lane.lists[i].place;
                world->queue.places[i] = (struct places){ .lanes = &world->places[i], .count = 1 };
        }
        world->queue.places[PLACES_INFERENCE].max = world->max_inflight;
        world->queue.places[PLACES_SUSPECT].max = 1;
        parking_init(&world->parking, &world->lane, world->keeper, &world->parking_limit, 0, parking_opened);
        front_init(&world->front, &world->sockets, &world->lane, &world->status, &world->parking, connection_ended,
                   connection_ended);
        expect(http_init(&world->http, &world->sockets, &world->lane, &world->status, &world->http_group, &world->parking,
                         http_connection_ended, http_connection_ended) == 0);
}

void world_end_fronts(struct world *world) {
        struct list *unix_connections = &world->front.connections, *http_connections = &world->http.connections;

        front_deinit(&world->front);
        http_deinit(&world->http);
        expect(list_is_empty(unix_connections) && list_is_empty(http_connections));
        parking_deinit(&world->parking);
        expect(atomic_load(&world->parking_limit.bytes) == 0);
        expect(world->parking.leaving || dead || kept_count == 0);
}

void world_deinit(struct world *world) {
        const struct status_counters *counters = world->status.counters;

        job_cancel(&world->errands);
        expect(world->runs_count == 0);
        expect(atomic_load(&world->limits.waiting) == 0);
        expect(atomic_load(&counters->waiting) == 0 && atomic_load(&counters->oldest) == 0);
        expect(atomic_load(&world->limits.prompt_memory) == 0);
        for (unsigned i = 0; i < PLACES_KINDS; i++)
                expect(places_taken(&world->queue.places[i]) == 0);
        expect(atomic_load(&counters->accepted) == atomic_load(&counters->completed) + atomic_load(&counters->failed) +
                                                           atomic_load(&counters->cancelled));
        expect(atomic_load(&counters->processing) == 0 && atomic_load(&counters->connections) == 0);
        lane_deinit(&world->lane);
        for (unsigned i = 0; i < WORLD_GENERATIONS; i++)
                world->generations[i] = generation_free(world->generations[i]);
        status_deinit(&world->status);
        gate_deinit(&world->stop);
        socket_group_deinit(&world->sockets);
        reactor_deinit(&world->reactor);
}

bool world_happen(struct world *world, uint8_t what, struct input *input) {
        struct run *run;

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
                world_end(world, world_run(world, input_byte(input)), ENDING_FAILED, UINT64_MAX);
                break;
        case 'l':
                world_end(world, world_run(world, input_byte(input)), ENDING_LOST, UINT64_MAX);
                break;
        case 'z':
                world_end(world, world_run(world, input_byte(input)), ENDING_REFUSED, UINT64_MAX);
                break;
        case 'y':
                run = world_run(world, input_byte(input));
                world_end(world, run, input_byte(input) & 1 ? ENDING_STALE : ENDING_UNSENT, UINT64_MAX);
                break;
        case 'u':
                run = world_run(world, input_byte(input));
                world_end(world, run, ENDING_UNAVAILABLE, input_byte(input));
                break;
        case 'n':
                run = world_run(world, input_byte(input));
                begin_with_length(world, run, input_byte(input));
                break;
        case 'i':
                send_interim(world_run(world, input_byte(input)), false);
                break;
        case 'U':
                send_interim(world_run(world, input_byte(input)), true);
                break;
        case 'S':
                take_all(world_run(world, input_byte(input)));
                break;
        case 'b':
                world->busy = true;
                break;
        case 'B':
                if (world->busy) {
                        world->busy = false;
                        world->events->room(world->events);
                }
                break;
        case 'r':
                found_alive(world);
                break;
        case 'k':
                world_clock += input_byte(input) * NSEC_PER_MSEC * 100;
                world->reactor.now = 0;
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
