#include "tests/unit/front/world.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/number.h"

struct reactor reactor;
static struct socket_group sockets;
struct gate stop;
struct generation *generation;
struct request_limits limits;
static struct queue queue;
struct lane lane;
struct status status;
static struct parking_limit parking_limit;
static struct parking parking;
struct http_group group;
struct http http;
uint64_t now;

uint64_t __wrap_timer_now(void);
uint64_t __wrap_timer_now(void) {
        return now;
}

/* A model whose answers the test gives. */

struct model_state model_state;

static struct model_session session;

static int fake_session_new(struct model *model, const struct session_place *place, struct model_session **made) {
        (void)place;
        session.model = model;
        *made = &session;
        return 0;
}

static void fake_session_free(struct model_session *self) {
        (void)self;
}

static void fake_follow(struct model_session *self, const struct generation *of) {
        (void)self;
        (void)of;
}

static int fake_infer(struct model_session *self, struct inference *inference) {
        (void)self;
        ck_assert_uint_lt(model_state.count, RUNNING_MAX);
        (void)inference->recipient->ops->exchange(inference->recipient, inference);
        model_state.running[model_state.count++] = inference;
        return 0;
}

static void fake_pause(struct model_session *self, struct inference *inference, bool paused) {
        (void)self;
        (void)inference;
        model_state.paused = paused;
}

static size_t fake_send(struct model_session *self, struct inference *inference, const char *data, size_t len) {
        (void)self;
        (void)inference;
        ck_assert_uint_lt(model_state.sent_len + len, sizeof(model_state.sent));
        if (len > 0)
                memcpy(model_state.sent + model_state.sent_len, data, len);
        model_state.sent_len += len;
        return model_state.unsent;
}

static void fake_finish(struct model_session *self, struct inference *inference) {
        (void)self;
        (void)inference;
        model_state.finished = true;
}

static struct inference *take_running(void) {
        struct inference *inference = model_state.running[0];

        ck_assert_uint_gt(model_state.count, 0);
        memmove(model_state.running, model_state.running + 1, sizeof(model_state.running) - sizeof(model_state.running[0]));
        model_state.count--;
        return inference;
}

static void fake_cancel(struct model_session *self, struct inference *inference) {
        (void)self;
        ck_assert_ptr_eq(inference, model_state.running[0]);
        (void)take_running();
        model_state.cancelled++;
}

static const struct model_ops model_ops = {
        .name = "fake",
        .session_new = fake_session_new,
        .session_free = fake_session_free,
        .session_follow = fake_follow,
        .infer = fake_infer,
        .pause = fake_pause,
        .send = fake_send,
        .finish = fake_finish,
        .cancel = fake_cancel,
};

static struct model model = { &model_ops };

const struct exchange *asked(void) {
        struct inference *inference = model_state.running[0];

        ck_assert_uint_gt(model_state.count, 0);
        return inference->recipient->ops->exchange(inference->recipient, inference);
}

void answer_head(const char *text) {
        struct inference *inference = model_state.running[0];
        struct http_answer answer;
        struct http_refusal refusal;
        struct answer_head head = { &answer, text };

        ck_assert_int_eq(http_parse_answer(&answer, text, strlen(text), 0, &refusal), HTTP_WHOLE);
        inference->recipient->ops->head(inference->recipient, inference, &head);
}

void answer_part(const char *text) {
        struct inference *inference = model_state.running[0];

        inference->recipient->ops->part(inference->recipient, inference, text, strlen(text));
}

void answer_end(enum ending how) {
        const struct answer_end end = { .how = how, .text = how == ENDING_COMPLETE ? NULL : "It broke" };

        lane.session_events.ended(&lane.session_events, take_running(), &end);
}

/* The world of a worker. */

unsigned ended, flushed;

static void on_ended(struct http *self) {
        (void)self;
        ended++;
}

static void on_flushed(struct http *self) {
        (void)self;
        flushed++;
}

static void on_queue(struct queue *self) {
        (void)self;
}

static void on_opened(struct parking *self) {
        (void)self;
}

static const struct lane_events lane_events = { 0 };

static void stop_run(struct job *job) {
        (void)job;
        reactor_stop(&reactor);
}

void turn(void) {
        for (unsigned i = 0; i < 4; i++) {
                struct job job;

                job_init(&job, stop_run);
                reactor_queue(&reactor, &job);
                reactor.stopped = false;
                ck_assert_int_eq(reactor_run(&reactor), 0);
        }
}

void setup(void) {
        static struct places_lane *lanes[PLACES_KINDS][1];

        now = 1000 * NSEC_PER_SEC;
        memset(&model_state, 0, sizeof(model_state));
        ended = flushed = 0;
        limits = (struct request_limits){
                .max_waiting = 100,
                .max_prompt = 1000,
                .max_body = 1000,
                .max_prompt_memory = 10000,
        };
        group = (struct http_group){ .head_timeout = 30 * NSEC_PER_SEC, .client_idle_timeout = 600 * NSEC_PER_SEC };
        ck_assert_int_eq(reactor_init(&reactor), 0);
        socket_group_init(&sockets, &reactor);
        ck_assert_int_eq(gate_init(&stop), 0);
        ck_assert_int_eq(generation_new(&generation, 1), 0);
        ck_assert_int_eq(status_init(&status, 1, &stop), 0);
        memset(&queue, 0, sizeof(queue));
        queue.limits = &limits;
        queue.stop = &stop;
        queue.model = &model;
        queue.generation = generation;
        queue.load = queue.shutdown = queue.suspect = queue.cleared = on_queue;
        ck_assert_int_eq(lane_init(&lane, &queue, &reactor, &sockets, &status.counters[0], &lane_events, true), 0);
        for (unsigned i = 0; i < PLACES_KINDS; i++) {
                lanes[i][0] = &lane.lists[i].place;
                queue.places[i].lanes = lanes[i];
                queue.places[i].count = 1;
        }
        parking_init(&parking, &lane, NULL, &parking_limit, 0, on_opened);
}

void begin(void) {
        ck_assert_int_eq(http_init(&http, &sockets, &lane, &status, &group, &parking, on_ended, on_flushed), 0);
}

void begin_ready(void) {
        ck_assert_int_eq(gate_open(&generation->gate), 0);
        begin();
}

void teardown(void) {
        http_deinit(&http);
        http_deinit(&http);
        ck_assert_uint_eq(atomic_load(&limits.prompt_memory), 0);
        ck_assert_uint_eq(atomic_load(&limits.waiting), 0);
        ck_assert_uint_eq(http.unsent, 0);
        ck_assert_uint_eq(http.tunnels, 0);
        parking_deinit(&parking);
        lane_deinit(&lane);
        status_deinit(&status);
        generation_free(generation);
        gate_deinit(&stop);
        socket_group_deinit(&sockets);
        reactor_deinit(&reactor);
}

int connect_client(void) {
        int fds[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
        ck_assert_int_eq(http_connection_new(&http, fds[0]), 0);
        return fds[1];
}

void say(int fd, const char *text) {
        ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
        turn();
}

const char *heard(int fd) {
        static char text[65536];
        ssize_t n;
        char *date;

        turn();
        n = recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);
        text[MAX(n, (ssize_t)0)] = '\0';
        while ((date = strstr(text, "Date: "))) {
                char *end = strstr(date, "\r\n") + 2;

                memmove(date, end, strlen(end) + 1);
        }
        return text;
}

bool is_closed(int fd) {
        char byte;

        turn();
        return recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
}

void expect_status(int fd, unsigned code) {
        const char *text = heard(fd);
        char begin_of[32];

        snprintf(begin_of, sizeof(begin_of), "HTTP/1.1 %u ", code);
        ck_assert_msg(strncmp(text, begin_of, strlen(begin_of)) == 0, "Not %u: %s", code, text);
}

void pass(uint64_t nsec) {
        now += nsec;
        turn();
}
