/*
 * A model that is loaded when a request needs it, and stopped when none does; and msd, which ends when nobody comes.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/front.h"
#include "tests/support/manager.h"
#include "tests/support/run.h"
#include "tests/support/stage.h"

static struct front front;

static void setup(void) {
        front_init(&front);
}

static void teardown(void) {
        front_deinit(&front);
}

/* Time goes by, whatever the programs do meanwhile. */
static void pass(uint64_t nsec) {
        const uint64_t until = clock_now() + nsec;

        /* poll(2) has milliseconds: the rest is for the clock. */
        while (clock_now() + NSEC_PER_MSEC < until)
                (void)process_poll(NULL, 0, until - NSEC_PER_MSEC);
        while (clock_now() < until)
                ;
}

static bool is_idle(const struct peer_status *status, uint64_t generation) {
        return strcmp(status->status, "idle") == 0 && status->generation == generation;
}

static void wait_idle(uint64_t generation) {
        front_wait(&front, is_idle, generation, "the model is idle");
}

static void expect_status(const char *text) {
        struct peer_status status;

        peer_status(&front.msd.control, &status);
        ck_assert_str_eq(status.status, text);
}

/* The answer to a request for this, at a connection of its own. */
static void expect_answer(const char *method, const char *path, unsigned status, const char *text) {
        struct http http;

        front_ask(&front, &http, method, path);
        http_next(&http);
        ck_assert_uint_eq(http.status, status);
        if (text)
                ck_assert_ptr_nonnull(strstr(text_get(&http.body), text));
        http_close(&http);
}

/* Nothing runs that a process of msd's has started. */
static bool has_child(void) {
        char path[64];
        FILE *file;
        int child = 0;

        snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)front.msd.process.pid, (int)front.msd.process.pid);
        file = fopen(path, "re");
        ck_assert_ptr_nonnull(file);
        if (fscanf(file, "%d", &child) != 1)
                child = 0;
        fclose(file);
        return child > 0;
}

static void wait_childless(void) {
        for (uint64_t deadline = clock_patience(); has_child();) {
                if (clock_now() >= deadline)
                        process_give_up("The model server lives on");
                (void)process_poll(NULL, 0, MIN(deadline, clock_now() + 10 * NSEC_PER_MSEC));
        }
}

/* --- On demand. */

START_TEST(on_demand) {
        front_start(&front, OPTIONS("--load", "demand", "--load-time", "200ms"));
        expect_status("idle");
        process_wait_rest(&front.msd.process);
        ck_assert_str_eq(text_get(&front.msd.process.output), "");
        peer_send(&front.msd.control, "REQUEST 7\n");
        peer_expect(&front.msd.control, "7", "Response 7 from sim");
        expect_status("ready");
        /* It stays. */
        peer_send(&front.msd.control, "REQUEST 8\n");
        peer_expect(&front.msd.control, "8", "Response 8 from sim");
        process_signal(&front.msd.process, SIGTERM);
        ck_assert_int_eq(process_wait(&front.msd.process), 0);
        ck_assert_str_eq(text_get(&front.msd.process.output),
                         "Model loading...\nModel ready!\nProcessing request 7\nProcessing request 8\n");
        daemon_expect_exit(&front.msd, 0);
}
END_TEST

/* Who only looks at it does not load it, and is answered all the same. */
START_TEST(looking_loads_nothing) {
        static const char *const own[] = { "/health", "/-/ready", "/-/live", "/-/status", "/-/metrics", "/v1/models", "/v1/models/sim" };
        struct http http;

        front_start(&front, OPTIONS("--load", "demand", "--load-time", "0"));
        for (size_t i = 0; i < ARRAY_SIZE(own); i++)
                expect_answer("GET", own[i], 200, NULL);
        expect_answer("GET", "/-/status", 200, "\"status\":\"idle\"");
        expect_answer("GET", "/-/metrics", 200, "\nmsd_model_idle 1\n");
        expect_answer("GET", "/-/metrics", 200, "\nmsd_model_ready 0\n");
        expect_answer("GET", "/v1/models", 200, "\"sim\"");
        expect_answer("GET", "/v1/models/other", 503, "\"model-not-loaded\"");
        expect_answer("GET", "/props", 503, "\"model-not-loaded\"");
        expect_answer("OPTIONS", "/v1/chat/completions", 503, "\"model-not-loaded\"");
        front_ask(&front, &http, "HEAD", "/props");
        http.bodiless = true;
        http_next(&http);
        ck_assert_uint_eq(http.status, 503);
        http_close(&http);
        expect_status("idle");
        daemon_stop(&front.msd);
        ck_assert_ptr_null(strstr(text_get(&front.msd.process.errors), "Loading"));
}
END_TEST

/* A name that nobody knows yet is not made up. */
START_TEST(name_unknown) {
        struct http http;

        front_start_server(&front, NULL, OPTIONS("--load", "demand", "--idle-timeout", "50ms"), OPTIONS());
        expect_answer("GET", "/v1/models", 503, "\"model-not-loaded\"");
        ck_assert(!has_child());
        front_ask_chat(&front, &http, "1", CHAT);
        http_next(&http);
        ck_assert_uint_eq(http.status, 200);
        http_close(&http);
        wait_idle(2);
        expect_answer("GET", "/v1/models", 200, "\"echo-1b\"");
        expect_answer("GET", "/v1/models/echo-1b", 200, "\"echo-1b\"");
        expect_status("idle");
        daemon_stop(&front.msd);
}
END_TEST

/* WAIT, /-/wait and LOAD load it. */
START_TEST(waiting_loads) {
        struct process mscli;
        struct http http;

        front_start(&front, OPTIONS("--load", "demand", "--load-time", "100ms", "--idle-timeout", "100ms"));
        peer_send(&front.msd.control, "WAIT\n");
        peer_expect(&front.msd.control, "-", "ready");
        wait_idle(2);
        front_ask(&front, &http, "GET", "/-/wait");
        http_expect(&http, 204, NULL);
        http_close(&http);
        wait_idle(3);
        peer_send(&front.msd.control, "LOAD\n");
        peer_expect(&front.msd.control, "-", "loading");
        wait_idle(4);
        ck_assert_int_eq(run_mscli(&mscli, front.msd.socket, "wait", NULL), 0);
        process_free(&mscli);
        wait_idle(5);
        ck_assert_int_eq(run_mscli(&mscli, front.msd.socket, "status", NULL), 0);
        ck_assert_ptr_nonnull(strstr(text_get(&mscli.output), "idle"));
        process_free(&mscli);
        daemon_stop(&front.msd);
}
END_TEST

/* Rule 13: a load that a request began is the daemon's. */
START_TEST(client_leaves) {
        struct peer_status status;
        struct peer peer;

        front_start(&front, OPTIONS("--load", "demand", "--load-time", "3s"));
        peer_connect(&peer, front.msd.socket);
        peer_send(&peer, "REQUEST 1\n");
        front_wait_waiting(&front, 1);
        peer_close(&peer);
        peer_status_until(&front.msd.control, &status, peer_status_is_cancelled, 1, "the client is gone");
        daemon_wait_ready(&front.msd);
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.generation, 1);
        ck_assert_uint_eq(status.attempt, 1);
        daemon_stop(&front.msd);
}
END_TEST

/* A load on demand that fails answers why. */
START_TEST(failure_exits) {
        front_start(&front, OPTIONS("--load", "demand", "--load-time", "50ms", "--load-failure", "no weights"));
        expect_status("idle");
        peer_send(&front.msd.control, "REQUEST 1\n");
        peer_expect_error(&front.msd.control, "1", "load-failed", "no weights");
        daemon_expect_exit(&front.msd, 1);
}
END_TEST

START_TEST(failure_stays) {
        front_start(&front, OPTIONS("--load", "demand", "--load-time", "50ms", "--load-failure", "no weights",
                                    "--on-load-failure", "stay"));
        for (unsigned i = 0; i < 2; i++) {
                peer_send(&front.msd.control, "REQUEST 1\n");
                peer_expect_error(&front.msd.control, "1", "load-failed", "no weights");
        }
        expect_status("failed");
        /* Not by every request anew: an administrator says when. */
        peer_send(&front.msd.control, "LOAD\n");
        peer_expect(&front.msd.control, "-", "loading");
        peer_send(&front.msd.control, "REQUEST 2\n");
        peer_expect_error(&front.msd.control, "2", "load-failed", "no weights");
        daemon_stop(&front.msd);
}
END_TEST

/* --- Without use. */

START_TEST(stopped_and_back) {
        struct http http;

        front_start_server(&front, NULL, OPTIONS("--idle-timeout", "200ms"), OPTIONS("--load", "100ms"));
        daemon_wait_ready(&front.msd);
        for (unsigned generation = 2; generation < 5; generation++) {
                wait_idle(generation);
                wait_childless();
                expect_answer("GET", "/health", 200, "ok");
                expect_answer("GET", "/echo", 503, "\"model-not-loaded\"");
                front_ask_chat(&front, &http, "1", CHAT);
                http_next(&http);
                ck_assert_uint_eq(http.status, 200);
                ck_assert_ptr_nonnull(strstr(text_get(&http.body), "echo Hello"));
                http_close(&http);
        }
        daemon_stop(&front.msd);
}
END_TEST

/* What keeps the model: requests in flight, streams, tunnels; what does not: GETs. */
START_TEST(use_keeps_it) {
        uint64_t until;
        struct http http;

        front_start_server(&front, NULL, OPTIONS("--idle-timeout", "1s"), OPTIONS("--think", "1500ms"));
        daemon_wait_ready(&front.msd);
        /* In flight for longer than the time-out, and soon again. */
        for (unsigned i = 0; i < 2; i++) {
                front_ask_chat(&front, &http, "1", CHAT);
                http_next(&http);
                ck_assert_uint_eq(http.status, 200);
                http_close(&http);
        }
        front_ask(&front, &http, "GET", "/v1/models");
        http_next(&http);
        http_close(&http);
        expect_status("ready");

        http_connect(&http, front.address);
        http_send(&http, "GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        ck_assert(http_head(&http));
        ck_assert_uint_eq(http.status, 101);
        http_expect_silence(&http, 1500 * NSEC_PER_MSEC);
        expect_status("ready");
        http_close(&http);

        /* GETs, all the time. */
        until = clock_patience();
        do {
                struct peer_status status;

                front_ask(&front, &http, "GET", "/echo");
                http_next(&http);
                http_close(&http);
                peer_status(&front.msd.control, &status);
                if (strcmp(status.status, "idle") == 0)
                        break;
                ck_assert_msg(clock_now() < until, "GETs keep the model");
        } while (true);
        daemon_stop(&front.msd);
}
END_TEST

/* A WebSocket is a use of the model: it loads it. */
START_TEST(tunnel_loads) {
        struct http http;

        front_start_server(&front, NULL, OPTIONS("--load", "demand"), OPTIONS("--load", "100ms"));
        expect_status("idle");
        http_connect(&http, front.address);
        http_send(&http, "GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        ck_assert(http_head(&http));
        ck_assert_uint_eq(http.status, 101);
        http_close(&http);
        daemon_stop(&front.msd);
}
END_TEST

/* An idle msd needs a few megabytes, and no processor. */
START_TEST(rests) {
        uint64_t before, after, deadline;
        struct peer_status status;
        struct http http;

        front_start_server(&front, NULL, OPTIONS("--idle-timeout", "100ms", "--threads", "8"), OPTIONS());
        front_ask_chat(&front, &http, "1", CHAT);
        http_next(&http);
        http_close(&http);
        wait_idle(2);
        wait_childless();
        peer_status_until(&front.msd.control, &status, peer_status_is_connections, 1, "the client is gone");
        if (!stage_has_sanitizer(&front.msd.process))
                ck_assert_uint_lt(stage_memory(&front.msd.process, "VmRSS"), 6 << 20);
        if (process_has_tsan(&front.msd.process)) {
                suite_skip("rests", "the thread sanitizer has a thread of its own that wakes up");
                daemon_stop(&front.msd);
                return;
        }
        deadline = clock_patience();
        do {
                ck_assert_msg(clock_now() < deadline, "msd never comes to rest");
                before = process_switches(&front.msd.process);
                pass(NSEC_PER_SEC);
                after = process_switches(&front.msd.process);
        } while (after != before);
        daemon_stop(&front.msd);
}
END_TEST

/* Stopped while it is idle, and while the model is being stopped. */
START_TEST(stopped_while_idle) {
        front_start_server(&front, NULL, OPTIONS("--idle-timeout", "100ms"), OPTIONS("--linger", "500ms"));
        daemon_wait_ready(&front.msd);
        wait_idle(2);
        ck_assert(has_child());
        daemon_stop(&front.msd);

        front_start(&front, OPTIONS("--load", "demand"));
        expect_status("idle");
        daemon_stop(&front.msd);
}
END_TEST

/*
 * Requests at random moments around the time-out: each is answered, once, and none is sent to a server that was told to stop.
 * It goes on for a moment after that, and would say so.
 */
static void storm(unsigned rounds, bool simulated, uint64_t timeout) {
        struct peer_status status;
        struct peer_reply reply;
        unsigned seed = 4711;

        daemon_wait_ready(&front.msd);
        for (unsigned i = 0; i < rounds; i++) {
                /* Half of them as near to the time-out as can be. */
                uint64_t near = timeout - NSEC_PER_MSEC / 4 + (uint64_t)rand_r(&seed) % NSEC_PER_MSEC;
                uint64_t pause = i % 2 ? timeout / 2 + (uint64_t)rand_r(&seed) % timeout : near;
                char expected[64];

                pass(pause);
                peer_send(&front.msd.control, "REQUEST %u 2\nhi\n", i);
                ck_assert(peer_next(&front.msd.control, &reply));
                ck_assert_int_eq(reply.type, PROTOCOL_OK);
                ck_assert_uint_eq(strtoul(reply.id, NULL, 10), i);
                snprintf(expected, sizeof(expected), simulated ? "Response %u from sim" : "echo hi", i);
                ck_assert_str_eq(reply.body, expected);
        }
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.completed, rounds);
        ck_assert_uint_eq(status.failed, 0);
        /* Some came before the time-out, and others behind it. */
        ck_assert_uint_gt(status.generation, rounds / 10);
        ck_assert_uint_lt(status.generation, rounds);
        daemon_stop(&front.msd);
}

START_TEST(storm_of_the_simulated) {
        front_start(&front, OPTIONS("--idle-timeout", "20ms", "--load-time", "5ms", "--inference-time", "1ms", "--quiet"));
        storm(200, true, 20 * NSEC_PER_MSEC);
}
END_TEST

START_TEST(storm_of_a_server) {
        front_start_server(&front, NULL, OPTIONS("--idle-timeout", "40ms", "--quiet"), OPTIONS("--linger", "20ms"));
        storm(80, false, 40 * NSEC_PER_MSEC);
        ck_assert_ptr_null(strstr(text_get(&front.msd.process.errors), "upstream: late"));
}
END_TEST

/* --- The service manager, and msd's own end. */

static struct manager manager;
static struct process process = PROCESS_NULL;

static void start_service(const char *const *options) {
        manager_start(&manager, &process, options);
        peer_connect(&front.msd.control, manager.socket);
}

static void end_service(int signal) {
        peer_status(&front.msd.control, &(struct peer_status){ 0 });
        process_signal(&process, signal);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        peer_close(&front.msd.control);
}

/* The start is over before anything is loaded; each change is told. */
START_TEST(told_to_the_manager) {
        manager_init(&manager);
        start_service(OPTIONS("--load", "demand", "--load-time", "50ms", "--idle-timeout", "100ms"));
        manager_wait(&manager, "READY=1");
        manager_wait(&manager, "STATUS=Idle: the next request loads sim");
        ck_assert_uint_eq(manager_count(&manager, "STATUS=Loading"), 0);
        peer_send(&front.msd.control, "WAIT\n");
        peer_expect(&front.msd.control, "-", "ready");
        manager_wait_begin(&manager, "STATUS=Loading sim since");
        manager_wait_begin(&manager, "STATUS=Ready: sim was loaded");
        while (manager_count(&manager, "STATUS=Idle: the next request loads sim") < 2)
                manager_wait_more(&manager);
        end_service(SIGTERM);
        manager_deinit(&manager);
}
END_TEST

/* A restart leaves an idle model idle; requests that waited load it. */
START_TEST(restarted) {
        struct peer peer;

        manager_init(&manager);
        start_service(OPTIONS("--load", "demand", "--load-time", "1h"));
        manager_wait(&manager, "READY=1");
        end_service(SIGUSR2);
        start_service(OPTIONS("--load", "demand", "--load-time", "1h"));
        expect_status("idle");

        peer_connect(&peer, manager.socket);
        peer_send(&peer, "REQUEST 7\n");
        front_wait_waiting(&front, 1);
        end_service(SIGUSR2);
        start_service(OPTIONS("--load", "demand", "--load-time", "50ms"));
        peer_expect(&peer, "7", "Response 7 from sim");
        peer_close(&peer);
        end_service(SIGTERM);
        manager_deinit(&manager);
}
END_TEST

/* First the model, then msd, with success, and the next client finds the next process. */
START_TEST(exits) {
        manager_init(&manager);
        start_service(OPTIONS("--idle-timeout", "100ms", "--exit-idle-time", "1s", "--load-time", "50ms"));
        peer_send(&front.msd.control, "REQUEST 7\n");
        peer_expect(&front.msd.control, "7", "Response 7 from sim");
        peer_expect_end(&front.msd.control);
        peer_close(&front.msd.control);
        ck_assert_int_eq(process_wait(&process), 0);
        ck_assert_ptr_nonnull(strstr(text_get(&process.errors), "Stopping the model"));
        manager_wait(&manager, "STOPPING=1");
        process_free(&process);

        /* In the backlog while nobody is there. */
        peer_connect(&front.msd.control, manager.socket);
        peer_send(&front.msd.control, "REQUEST 8\n");
        manager_start(&manager, &process, OPTIONS("--load", "demand", "--load-time", "50ms"));
        peer_expect(&front.msd.control, "8", "Response 8 from sim");
        end_service(SIGTERM);
        manager_deinit(&manager);
}
END_TEST

static int listen_unix(const char *path) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_un address;
        socklen_t len;

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(address_from_path(path, &address, &len), 0);
        ck_assert_int_eq(bind(fd, (const struct sockaddr *)&address, len), 0);
        ck_assert_int_eq(listen(fd, 64), 0);
        return fd;
}

/* Over HTTP it is the same, and what asks for nothing but the health is a client too. */
START_TEST(exits_with_http) {
        static const char *const options[] = { "--load", "demand", "--load-time", "50ms", "--idle-timeout", "100ms",
                                               "--exit-idle-time", "1s", NULL };
        struct http http, late;

        manager_init(&manager);
        manager.http_fd = listen_unix(front_path(front.address));
        manager_start(&manager, &process, options);
        http_connect(&http, front.address);
        for (unsigned i = 0; i < 15; i++) {
                http_ask(&http, "GET", "/health");
                http_next(&http);
                ck_assert_uint_eq(http.status, 200);
                pass(100 * NSEC_PER_MSEC);
        }
        http_chat(&http, "7", CHAT);
        http_expect_chat(&http, "7");
        http_expect_end(&http);
        http_close(&http);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);

        http_connect(&late, front.address);
        http_chat(&late, "8", CHAT);
        manager_start(&manager, &process, options);
        http_expect_chat(&late, "8");
        http_close(&late);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        manager_deinit(&manager);
}
END_TEST

/* A server that msd did not start stays; msd, which has nothing to stop, does not. */
START_TEST(exits_before_a_server) {
        struct process model;

        process_start(&model, served_program(), OPTIONS("server", "--socket", front_path(front.upstream)), NULL);
        manager_init(&manager);
        start_service(OPTIONS("--upstream", front.upstream, "--exit-idle-time", "1s"));
        peer_send(&front.msd.control, "REQUEST 7 2\nhi\n");
        peer_expect(&front.msd.control, "7", "echo hi");
        peer_expect_end(&front.msd.control);
        peer_close(&front.msd.control);
        ck_assert_int_eq(process_wait(&process), 0);
        process_free(&process);
        ck_assert(!model.exited);
        process_free(&model);
        manager_deinit(&manager);
}
END_TEST

/* A request that waits or is in flight keeps msd, and so does a client that comes often enough. */
START_TEST(does_not_exit) {
        struct peer peer;

        manager_init(&manager);
        start_service(OPTIONS("--load", "demand", "--load-time", "1500ms", "--inference-time", "1500ms", "--idle-timeout", "100ms",
                              "--exit-idle-time", "1s"));
        peer_send(&front.msd.control, "REQUEST 7\n");
        peer_expect(&front.msd.control, "7", "Response 7 from sim");
        for (unsigned i = 0; i < 20; i++) {
                peer_connect(&peer, manager.socket);
                pass(100 * NSEC_PER_MSEC);
                peer_close(&peer);
        }
        expect_status("idle");
        end_service(SIGTERM);
        manager_deinit(&manager);
}
END_TEST

/* Clients that connect around the moment at which msd ends: each is answered, by this process or the next. */
START_TEST(storm_of_exits) {
        unsigned seed = 4711, starts = 0;

        manager_init(&manager);
        for (unsigned i = 0; i < 80; i++) {
                struct peer_reply reply;
                struct peer peer;

                if (process.pid < 0) {
                        manager_start(&manager, &process, OPTIONS("--load", "demand", "--load-time", "0", "--inference-time", "0",
                                                                  "--idle-timeout", "10ms", "--exit-idle-time", "100ms"));
                        starts++;
                }
                peer_connect(&peer, manager.socket);
                peer_send(&peer, "REQUEST %u\n", i);
                while (!peer_next_until(&peer, &reply, clock_now() + 20 * NSEC_PER_MSEC)) {
                        /* The service manager sees that somebody is in the backlog. */
                        ck_assert(!peer.ended);
                        if (!process.exited)
                                continue;
                        if (process_wait(&process) != 0)
                                process_give_up("msd ended with %d", process.status);
                        process_free(&process);
                        manager_start(&manager, &process, OPTIONS("--load", "demand", "--load-time", "0", "--inference-time", "0",
                                                                  "--idle-timeout", "10ms", "--exit-idle-time", "100ms"));
                        starts++;
                }
                if (reply.type != PROTOCOL_OK)
                        process_give_up("Request %u: %s %s", i, reply.code, reply.body);
                ck_assert_uint_eq(strtoul(reply.id, NULL, 10), i);
                peer_close(&peer);
                pass(90 * NSEC_PER_MSEC + (uint64_t)rand_r(&seed) % (50 * NSEC_PER_MSEC));
        }
        if (starts <= 10)
                process_give_up("%u starts", starts);
        process_free(&process);
        manager_deinit(&manager);
}
END_TEST

/* What cannot be is said. */
START_TEST(wrong_usage) {
        struct process msd;

        ck_assert_int_eq(run_msd(&msd, NULL, OPTIONS("--upstream", "http://127.0.0.1:1", "--idle-timeout", "1s")), 2);
        run_expect_refusal(&msd, 2, "--idle-timeout");
        ck_assert_int_eq(run_msd(&msd, NULL, OPTIONS("--exit-idle-time", "1s")), 2);
        run_expect_refusal(&msd, 2, "--idle-timeout");
        ck_assert_int_eq(run_msd(&msd, NULL, OPTIONS("--idle-timeout", "1s", "--exit-idle-time", "1s", "--socket", "/tmp/nobody")), 2);
        run_expect_refusal(&msd, 2, "--exit-idle-time");
        ck_assert_int_eq(run_msd(&msd, NULL, OPTIONS("--load", "later")), 2);
        run_expect_refusal(&msd, 2, "--load");
}
END_TEST

static void add(TCase *tests) {
        tcase_set_timeout(tests, 120);
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, on_demand);
        tcase_add_test(tests, looking_loads_nothing);
        tcase_add_test(tests, name_unknown);
        tcase_add_test(tests, waiting_loads);
        tcase_add_test(tests, client_leaves);
        tcase_add_test(tests, failure_exits);
        tcase_add_test(tests, failure_stays);
        tcase_add_test(tests, stopped_and_back);
        tcase_add_test(tests, use_keeps_it);
        tcase_add_test(tests, tunnel_loads);
        tcase_add_test(tests, rests);
        tcase_add_test(tests, stopped_while_idle);
        tcase_add_test(tests, storm_of_the_simulated);
        tcase_add_test(tests, storm_of_a_server);
        tcase_add_test(tests, told_to_the_manager);
        tcase_add_test(tests, restarted);
        tcase_add_test(tests, exits);
        tcase_add_test(tests, exits_with_http);
        tcase_add_test(tests, exits_before_a_server);
        tcase_add_test(tests, does_not_exit);
        tcase_add_test(tests, storm_of_exits);
        tcase_add_test(tests, wrong_usage);
}

int main(void) {
        return suite_main("idle", add);
}
