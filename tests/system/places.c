/*
 * Places with a model (--max-inflight): none is lost, requests get them in order of arrival over all workers, and a model that
 * dies takes no waiting request with it.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/stage.h"

static struct stage stage;

static void setup(void) {
        stage_init(&stage);
}

static void teardown(void) {
        stage_deinit(&stage);
}

/* To the microsecond, which a poll() is not. */
static void reach(uint64_t time) {
        while (clock_now() + NSEC_PER_MSEC < time)
                (void)process_poll(NULL, 0, time - NSEC_PER_MSEC);
        while (clock_now() < time)
                ;
}

#define ROUNDS 200

/*
 * The oldest waiting client leaves just as the place becomes free, and the place is offered to a worker that has no use for it
 * any more.
 */
/* msd has taken what this client has sent. Returns whether an answer came before that could be seen. */
static bool is_answered(struct peer *peer) {
        struct peer_reply reply;
        bool answered = false;

        peer_send(peer, "STATUS\n");
        for (;;) {
                ck_assert(peer_next(peer, &reply));
                if (strcmp(reply.id, "-") == 0)
                        return answered;
                answered = true;
        }
}

START_TEST(oldest_leaves) {
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "5ms", "--max-inflight", "1", "--threads", "2",
                     "--quiet", NULL);
        daemon_wait_ready(&daemon);
        for (unsigned round = 0; round < ROUNDS; round++) {
                struct peer first, leaving, other;
                uint64_t began;
                bool answered;

                peer_connect(&first, daemon.socket);
                peer_connect(&leaving, daemon.socket);
                peer_connect(&other, daemon.socket);
                (void)is_answered(&other);
                began = clock_now();
                peer_send_requests(&first, round, 1);
                answered = is_answered(&first);
                peer_send_requests(&leaving, 0, 1);
                (void)is_answered(&leaving);
                peer_send_requests(&other, round, 1);
                /* From shortly before the place becomes free until shortly after. */
                reach(began + 5 * NSEC_PER_MSEC + (round % 50) * UINT64_C(20000));
                peer_close(&leaving);
                if (!answered)
                        peer_expect_answers(&first, round, 1, "sim");
                peer_expect_answers(&other, round, 1, "sim");
                peer_close(&first);
                peer_close(&other);
        }
        daemon_stop(&daemon);
}
END_TEST

#define CLIENTS 32
#define QUEUED 4
#define IN_ORDER 3000

static void ask(struct peer *peer, unsigned number) {
        char prompt[16];

        snprintf(prompt, sizeof(prompt), "%u", number);
        peer_send(peer, "REQUEST %u %zu\n%s\n", number, strlen(prompt), prompt);
}

/* The number of the request that came to the model. */
static unsigned take_number(void) {
        unsigned number;
        json_t *json;

        stage_take(&stage);
        json = json_loads(text_get(&stage.request.body), 0, NULL);
        ck_assert_ptr_nonnull(json);
        number = (unsigned)atoi(json_string_value(json_object_get(json, "prompt")));
        json_decref(json);
        return number;
}

#define ANSWER "{\"choices\":[{\"text\":\"here\"}]}"

/* A new request does not get the place that was just given to an older one of another worker. */
START_TEST(in_order_of_arrival) {
        struct peer clients[CLIENTS];
        unsigned sent = 0;

        stage_start_ready(&stage, OPTIONS("--max-inflight", "1", "--threads", "4", "--quiet"));
        for (size_t i = 0; i < CLIENTS; i++)
                peer_connect(&clients[i], stage.front.msd.socket);
        for (; sent <= QUEUED; sent++) {
                ask(&clients[sent % CLIENTS], sent);
                front_wait_waiting(&stage.front, sent);
        }
        for (unsigned answered = 0; answered < IN_ORDER; answered++, sent++) {
                unsigned number = take_number();
                struct peer_reply reply;

                if (number != answered)
                        process_give_up("Request %u overtook request %u", number, answered);
                front_wait_waiting(&stage.front, QUEUED);
                raw_answer(&stage.request, ANSWER);
                /* The next one comes from while the place becomes free until shortly after. */
                reach(clock_now() + (answered % 25) * 4000);
                ask(&clients[sent % CLIENTS], sent);
                ck_assert(peer_next(&clients[answered % CLIENTS], &reply));
                ck_assert_int_eq(reply.type, PROTOCOL_OK);
        }
        for (size_t i = 0; i < CLIENTS; i++)
                peer_close(&clients[i]);
        daemon_stop(&stage.front.msd);
}
END_TEST

#define WAITING 40

/*
 * A model that dies closes its sockets before its end is noticed: what waits for a place waits for the next generation, and
 * is not sent to a model that cannot answer.
 */
START_TEST(dies_slowly) {
        unsigned received[WAITING] = { 0 };

        stage_start_ready(&stage, OPTIONS("--max-inflight", "2", "--threads", "2"));
        for (unsigned i = 0; i < WAITING; i++)
                ask(&stage.front.msd.control, i);
        front_wait_waiting(&stage.front, WAITING - 2);
        for (unsigned i = 0; i < 2; i++)
                received[take_number()]++;
        stage_go(&stage);
        /* No client is told of an error meanwhile. */
        stage_wait_generation(&stage, 2);
        stage_return(&stage);
        for (unsigned i = 0; i < WAITING; i++) {
                received[take_number()]++;
                raw_answer(&stage.request, ANSWER);
        }
        for (unsigned i = 0; i < WAITING; i++) {
                struct peer_reply reply;

                ck_assert(peer_next(&stage.front.msd.control, &reply));
                ck_assert_msg(reply.type == PROTOCOL_OK, "%s %s %s", reply.id, reply.code, reply.body);
                ck_assert_str_eq(reply.body, "here");
        }
        for (unsigned i = 0; i < WAITING; i++)
                ck_assert_msg(received[i] == (i < 2 ? 2 : 1), "Request %u was received %u times", i, received[i]);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* A connection that is refused, on which nothing was sent, is not the one repetition that a request has. */
START_TEST(refused) {
        stage_start_ready(&stage, OPTIONS());
        stage_go(&stage);
        http_post(&stage.http, "/v1/completions", "{}");
        stage_wait_generation(&stage, 2);
        front_wait_waiting(&stage.front, 1);
        stage_return(&stage);
        for (unsigned i = 0; i < 2; i++) {
                stage_take(&stage);
                ck_assert_str_eq(text_get(&stage.request.body), "{}");
                if (i == 0)
                        raw_hang_up(&stage.request);
        }
        raw_answer(&stage.request, "answer");
        http_expect(&stage.http, 200, "answer");
        daemon_stop(&stage.front.msd);
}
END_TEST

/* Requests that are no inference take no place. */
START_TEST(light_requests) {
        static const char *const methods[] = { "GET", "HEAD", "OPTIONS" };
        struct raw_request slow;
        struct http other;

        stage_start_ready(&stage, OPTIONS("--max-inflight", "1"));
        http_post(&stage.http, "/v1/completions", "{}");
        raw_take(&stage.raw, &slow);
        http_connect(&other, stage.front.address);
        for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
                const bool head = strcmp(methods[i], "HEAD") == 0;

                http_ask(&other, methods[i], "/v1/models");
                stage_take(&stage);
                ck_assert_str_eq(stage.request.method, methods[i]);
                raw_send(&stage.request, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n%s", head ? "" : "answer");
                http_expect(&other, 200, head ? "" : "answer");
        }
        http_post(&other, "/v1/completions", "{}");
        front_wait_waiting(&stage.front, 1);
        raw_answer(&slow, "slow");
        http_expect(&stage.http, 200, "slow");
        raw_request_deinit(&slow);
        stage_take(&stage);
        raw_answer(&stage.request, "next");
        http_expect(&other, 200, "next");
        http_close(&other);
        daemon_stop(&stage.front.msd);
}
END_TEST

/* A model server that takes any number of connections, and answers every request at once, or none. */
struct crowd {
        int listening;
        int epoll;
        bool answers;
        unsigned open, most;            /* connections, now and at most */
        uint64_t requests;
};

static void crowd_init(struct crowd *crowd, struct raw *raw) {
        struct rlimit limit;

        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = limit.rlim_max;
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        *crowd = (struct crowd){ .listening = STEAL_FD(raw->fd), .epoll = epoll_create1(EPOLL_CLOEXEC) };
        ck_assert_int_ge(crowd->epoll, 0);
        ck_assert_int_eq(epoll_ctl(crowd->epoll, EPOLL_CTL_ADD, crowd->listening,
                                   &(struct epoll_event){ EPOLLIN, { .fd = crowd->listening } }), 0);
}

static void crowd_accept(struct crowd *crowd) {
        int fd = accept4(crowd->listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(epoll_ctl(crowd->epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){ EPOLLIN, { .fd = fd } }), 0);
        crowd->open++;
        crowd->most = MAX(crowd->most, crowd->open);
}

static void crowd_say(int fd, const char *text) {
        char bytes[256];
        int n = snprintf(bytes, sizeof(bytes), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(text), text);

        ck_assert_int_eq(send(fd, bytes, (size_t)n, MSG_NOSIGNAL), n);
}

/* A request comes in one piece here: it is small, and alone on its connection. */
static void crowd_read(struct crowd *crowd, int fd) {
        char bytes[4096];
        ssize_t n = recv(fd, bytes, sizeof(bytes), 0);

        if (n <= 0) {
                close(fd);
                crowd->open--;
                return;
        }
        if (strncmp(bytes, "GET ", 4) == 0) {
                crowd_say(fd, "{}");
                return;
        }
        crowd->requests++;
        if (crowd->answers)
                crowd_say(fd, ANSWER);
}

/* One turn; until something comes at `fd`, which may be -1, at the latest. */
static void crowd_turn(struct crowd *crowd, int fd) {
        struct pollfd events[] = { { crowd->epoll, POLLIN, 0 }, { fd, POLLIN, 0 } };
        struct epoll_event ready[256];
        int n;

        (void)process_poll(events, ARRAY_SIZE(events), clock_now() + 10 * NSEC_PER_MSEC);
        n = epoll_wait(crowd->epoll, ready, ARRAY_SIZE(ready), 0);
        for (int i = 0; i < n; i++)
                if (ready[i].data.fd == crowd->listening)
                        crowd_accept(crowd);
                else
                        crowd_read(crowd, ready[i].data.fd);
}

static void crowd_wait_ready(struct crowd *crowd) {
        uint64_t deadline = clock_patience();

        while (!strstr(text_get(&stage.front.msd.process.output), "Model ready!\n")) {
                if (clock_left(deadline) == 0)
                        process_give_up("msd does not find its upstream ready");
                crowd_turn(crowd, -1);
        }
        daemon_wait_ready(&stage.front.msd);
}

#define RELEASED 20000
#define PEERS 8

/* What was released is no more than a record until it has a place: no memory, and no connection. */
START_TEST(many_released) {
        const uint64_t most = _i == 0 ? 64 : 1024;
        struct peer peers[PEERS];
        struct crowd crowd;
        uint64_t before;

        crowd_init(&crowd, &stage.raw);
        if (_i == 0)
                stage_start(&stage, OPTIONS("--model", "crowd", "--quiet", "--max-inflight", "64"));
        else
                stage_start(&stage, OPTIONS("--model", "crowd", "--quiet"));
        crowd.answers = true;
        before = stage_memory(&stage.front.msd.process, "VmRSS");
        for (size_t i = 0; i < PEERS; i++) {
                struct text text = TEXT_NULL;

                peer_connect(&peers[i], stage.front.msd.socket);
                for (unsigned j = 0; j < RELEASED / PEERS; j++)
                        text_appendf(&text, "REQUEST %u 2\nhi\n", j);
                peer_send_bytes(&peers[i], text.data, text.len);
                text_deinit(&text);
        }
        front_wait_waiting(&stage.front, RELEASED);
        crowd_wait_ready(&crowd);
        for (uint64_t deadline = clock_patience(); crowd.requests < RELEASED; crowd_turn(&crowd, -1))
                if (clock_left(deadline) == 0)
                        process_give_up("Only %lu requests came", crowd.requests);
        for (size_t i = 0; i < PEERS; i++) {
                for (unsigned j = 0; j < RELEASED / PEERS; j++) {
                        struct peer_reply reply;

                        ck_assert(peer_next(&peers[i], &reply));
                        ck_assert_msg(reply.type == PROTOCOL_OK, "%s %s %s", reply.id, reply.code, reply.body);
                }
                peer_close(&peers[i]);
        }
        ck_assert_uint_eq(crowd.requests, RELEASED);
        /* Another worker's may be idle meanwhile, and one probes. */
        ck_assert_msg(crowd.most <= 2 * most + 1, "msd had %u connections to its upstream", crowd.most);
        if (!stage_has_sanitizer(&stage.front.msd.process)) {
                uint64_t after = stage_memory(&stage.front.msd.process, "VmHWM");

                ck_assert_msg(after < before + (40 << 20), "It needed %lu bytes more", after - before);
        }
        daemon_stop(&stage.front.msd);
        close(crowd.epoll);
        close(crowd.listening);
}
END_TEST

/* A real model has 1,024 places unless an option says otherwise. */
START_TEST(default_places) {
        struct peer_status status;
        struct crowd crowd;
        uint64_t deadline;

        crowd_init(&crowd, &stage.raw);
        stage_start(&stage, OPTIONS("--model", "crowd", "--quiet"));
        crowd_wait_ready(&crowd);
        for (unsigned i = 0; i < 1100; i++)
                peer_send(&stage.front.msd.control, "REQUEST %u 2\nhi\n", i);
        deadline = clock_patience();
        do {
                crowd_turn(&crowd, -1);
                peer_status(&stage.front.msd.control, &status);
                if (clock_left(deadline) == 0)
                        process_give_up("%lu came, %lu wait", crowd.requests, status.waiting);
        } while (status.waiting + status.processing != 1100 || crowd.requests < status.processing);
        ck_assert_uint_eq(status.processing, 1024);
        ck_assert_uint_eq(status.waiting, 76);
        process_signal(&stage.front.msd.process, SIGKILL);
        (void)process_wait(&stage.front.msd.process);
        process_free(&stage.front.msd.process);
        peer_close(&stage.front.msd.control);
        suite_remove(stage.front.msd.directory);
        close(crowd.epoll);
        close(crowd.listening);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, oldest_leaves);
        tcase_add_test(tests, in_order_of_arrival);
        tcase_add_test(tests, dies_slowly);
        tcase_add_test(tests, refused);
        tcase_add_test(tests, light_requests);
        tcase_add_loop_test(tests, many_released, 0, 2);
        tcase_add_test(tests, default_places);
}

int main(void) {
        return suite_main("places", add);
}
