/*
 * Requests over HTTP that wait, are answered, refused, time out and vanish, with the simulated model.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/front.h"

#define STOPPING PROTOCOL_SHUTTING_DOWN_MESSAGE
#define HELD 2000

static struct front front;

static void setup(void) {
        front_init(&front);
}

static void teardown(void) {
        front_deinit(&front);
}

/* What any client of OpenAI's asks, begun while the model loads. */
START_TEST(answers) {
        struct http chat_whole, chat_stream, text_whole, text_stream, models;
        json_t *json, *model;

        front_start(&front, OPTIONS("--load-time", "1s", "--inference-time", "0"));
        front_ask_chat(&front, &chat_whole, "a", CHAT);
        front_ask_chat(&front, &chat_stream, "b", CHAT_STREAM);
        http_connect(&text_whole, front.address);
        http_post(&text_whole, "/v1/completions", "{\"model\":\"x\",\"prompt\":\"Hello\"}");
        front_wait_waiting(&front, 3);
        http_connect(&text_stream, front.address);
        http_post(&text_stream, "/v1/completions?a=b", "{\"model\":\"x\",\"prompt\":\"Hello\",\"stream\":true}");
        front_wait_waiting(&front, 4);
        front_ask(&front, &models, "GET", "/v1/models");
        front_wait_waiting(&front, 5);
        http_expect_silence(&chat_stream, 50 * NSEC_PER_MSEC);

        http_expect_chat(&chat_whole, "a");
        http_expect_stream(&chat_stream, "Response b from sim", true);
        http_expect(&text_whole, 200, NULL);
        json = http_json(&text_whole);
        ck_assert_str_eq(json_string_value(json_object_get(json, "object")), "text_completion");
        ck_assert_str_eq(json_string_value(json_object_get(json_array_get(json_object_get(json, "choices"), 0), "text")),
                         "Response http-1 from sim");
        json_decref(json);
        http_expect_stream(&text_stream, "Response http-2 from sim", false);
        http_expect(&models, 200, NULL);
        json = http_json(&models);
        ck_assert_str_eq(json_string_value(json_object_get(json, "object")), "list");
        ck_assert_uint_eq(json_array_size(json_object_get(json, "data")), 1);
        model = json_array_get(json_object_get(json, "data"), 0);
        ck_assert_str_eq(json_string_value(json_object_get(model, "id")), "sim");
        ck_assert_str_eq(json_string_value(json_object_get(model, "object")), "model");
        json_decref(json);
        http_ask(&models, "GET", "/v1/models/sim");
        http_expect(&models, 200, NULL);
        json = http_json(&models);
        ck_assert_str_eq(json_string_value(json_object_get(json, "id")), "sim");
        json_decref(json);
        http_ask(&models, "GET", "/v1/models/other");
        http_expect(&models, 404, NULL);
        http_ask(&models, "GET", "/v1/nothing");
        http_expect(&models, 404, NULL);
        http_post(&models, "/v1/chat/completions", "no JSON");
        http_expect(&models, 400, NULL);
        http_post(&models, "/v1/chat/completions", "[]");
        http_expect(&models, 400, NULL);
        http_post(&models, "/v1/chat/completions", "");
        http_expect(&models, 400, NULL);
        http_ask(&models, "HEAD", "/v1/models");
        http_expect(&models, 200, "");
        http_chat(&models, "z", CHAT);
        http_expect_chat(&models, "z");
        http_close(&chat_whole);
        http_close(&chat_stream);
        http_close(&text_whole);
        http_close(&text_stream);
        http_close(&models);
        daemon_stop(&front.msd);
}
END_TEST

/* What is an ID of a client's own, and what is none. */
START_TEST(request_ids) {
        static const char longest[] = "0123456789012345678901234567890123456789012345678901234567890123";
        struct http http;
        char id[80];

        front_start_ready(&front, OPTIONS("--load-time", "0", "--inference-time", "0"));
        http_connect(&http, front.address);
        http_chat(&http, "~!a/8", CHAT);
        http_expect_chat(&http, "~!a/8");
        http_chat(&http, longest, CHAT);
        http_expect_chat(&http, longest);
        snprintf(id, sizeof(id), "%s4", longest);
        http_chat(&http, id, CHAT);
        http_expect_chat(&http, "http-1");
        http_chat(&http, "-", CHAT);
        http_expect_chat(&http, "http-2");
        http_chat(&http, "two words", CHAT);
        http_expect_chat(&http, "http-3");
        http_chat(&http, "", CHAT);
        http_expect_chat(&http, "http-4");
        process_wait_output(&front.msd.process, "Processing request ~!a/8\n");
        process_wait_output(&front.msd.process, "Processing request http-4\n");
        http_close(&http);
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(max_waiting) {
        struct http one, two, three;

        front_start(&front, OPTIONS("--load-time", "1s", "--max-waiting", "2"));
        front_ask_chat(&front, &one, "1", CHAT);
        front_wait_waiting(&front, 1);
        peer_send(&front.msd.control, "REQUEST 2\n");
        front_wait_waiting(&front, 2);
        front_ask_chat(&front, &two, "3", CHAT);
        http_expect_error(&two, 503, "queue-full", NULL);
        front_ask(&front, &three, "GET", "/-/live");
        http_expect(&three, 200, "ok\n");
        peer_send(&front.msd.control, "REQUEST 4\n");
        peer_expect_error(&front.msd.control, "4", "queue-full", NULL);
        http_expect_chat(&one, "1");
        peer_expect(&front.msd.control, "2", "Response 2 from sim");
        /* It was the request that was refused, not the connection. */
        http_chat(&two, "5", CHAT);
        http_expect_chat(&two, "5");
        http_close(&one);
        http_close(&two);
        http_close(&three);
        daemon_stop(&front.msd);
}
END_TEST

/* What all bodies that are held need together has a limit too; those that are refused give back what they had. */
START_TEST(max_prompt_memory) {
        static char body[40000];
        struct http one, two;

        memset(body, ' ', sizeof(body) - 1);
        memcpy(body, CHAT, strlen(CHAT));
        front_start(&front, OPTIONS("--load-time", "1s", "--inference-time", "0", "--max-prompt-memory", "100000"));
        http_connect(&one, front.address);
        http_send(&one, "POST /v1/chat/completions HTTP/1.1\r\nHost: msd\r\nX-Request-Id: 1\r\nContent-Length: %zu\r\n\r\n",
                  strlen(body));
        http_send_bytes(&one, body, strlen(body));
        front_wait_waiting(&front, 1);
        for (unsigned i = 0; i < 5; i++) {
                http_connect(&two, front.address);
                http_send(&two, "POST /v1/chat/completions HTTP/1.1\r\nHost: msd\r\nContent-Length: 90000\r\n\r\n");
                for (unsigned j = 0; j < 9; j++)
                        http_send_bytes(&two, body, 10000);
                http_expect_error(&two, 503, "queue-full", NULL);
                http_close(&two);
        }
        http_expect_chat(&one, "1");
        http_close(&one);
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(request_timeout) {
        struct peer_status status;
        struct http http, late;
        uint64_t began = clock_now();

        front_start(&front, OPTIONS("--load-time", "1s", "--inference-time", "1h", "--request-timeout", "300ms"));
        front_ask_chat(&front, &http, "1", CHAT);
        http_expect_error(&http, 504, "timed-out", NULL);
        ck_assert_uint_ge(clock_now() - began, 300 * NSEC_PER_MSEC);
        daemon_wait_ready(&front.msd);
        /* Also when it runs. */
        front_ask_chat(&front, &late, "2", CHAT_STREAM);
        http_expect_error(&late, 504, "timed-out", NULL);
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.failed, 2);
        ck_assert_uint_eq(status.processing, 0);
        http_ask(&http, "GET", "/-/live");
        http_expect(&http, 200, "ok\n");
        http_close(&http);
        http_close(&late);
        daemon_stop(&front.msd);
}
END_TEST

/* One place, for whoever comes by whichever way. */
START_TEST(max_inflight) {
        struct http one, two;
        struct peer_status status;

        front_start_ready(&front, OPTIONS("--load-time", "0", "--inference-time", "300ms", "--max-inflight", "1"));
        front_ask_chat(&front, &one, "1", CHAT);
        process_wait_output(&front.msd.process, "Processing request 1\n");
        peer_send(&front.msd.control, "REQUEST 2\n");
        front_ask_chat(&front, &two, "3", CHAT);
        do {
                peer_send(&front.msd.control, "STATUS\n");
                for (;;) {
                        struct peer_reply reply;

                        ck_assert(peer_next(&front.msd.control, &reply));
                        if (strcmp(reply.id, "2") == 0)
                                continue;
                        peer_parse_status(reply.body, &status);
                        break;
                }
                ck_assert_uint_le(status.processing, 1);
        } while (status.completed < 3);
        http_expect_chat(&one, "1");
        http_expect_chat(&two, "3");
        http_close(&one);
        http_close(&two);
        daemon_stop(&front.msd);
}
END_TEST

/* A client that goes while it waits, also with more to say that nobody has read. One that has ended its side listens. */
START_TEST(vanishes_while_waiting) {
        struct http closed, finished, more, stays;
        struct peer_status status;
        static char junk[1 << 20];

        front_start(&front, OPTIONS("--load-time", "2s", "--inference-time", "0"));
        front_ask_chat(&front, &closed, "1", CHAT);
        front_ask_chat(&front, &finished, "2", CHAT);
        front_ask_chat(&front, &more, "3", CHAT);
        front_ask_chat(&front, &stays, "4", CHAT);
        front_wait_waiting(&front, 4);
        http_close(&closed);
        front_wait_waiting(&front, 3);
        http_finish(&finished);
        memset(junk, 'x', sizeof(junk));
        /* Pipelined behind it; as much of it as fits on the way. */
        for (ssize_t n = 1; n > 0;)
                n = send(more.fd, junk, sizeof(junk), MSG_DONTWAIT | MSG_NOSIGNAL);
        http_close(&more);
        front_wait_waiting(&front, 2);
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.cancelled, 2);
        ck_assert_str_eq(status.status, "loading");
        http_expect_chat(&finished, "2");
        http_expect_end(&finished);
        http_close(&finished);
        http_expect_chat(&stays, "4");
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.completed, 2);
        ck_assert_ptr_null(strstr(front.msd.process.output.data, "Processing request 1\n"));
        ck_assert_ptr_null(strstr(front.msd.process.output.data, "Processing request 3\n"));
        http_close(&stays);
        front_wait(&front, peer_status_is_connections, 1, "they are gone");
        daemon_stop(&front.msd);
}
END_TEST

/* Several that wait at one worker, so that they are answered in one turn; the last of them asks for a stream. */
START_TEST(half_closes_together) {
        enum { N = 4 };
        struct http http[N];
        char id[8];

        front_start(&front, OPTIONS("--threads", "1", "--load-time", "1s", "--inference-time", "0"));
        for (unsigned i = 0; i < N; i++) {
                snprintf(id, sizeof(id), "%u", i);
                front_ask_chat(&front, &http[i], id, i < N - 1 ? CHAT : CHAT_STREAM);
                http_finish(&http[i]);
        }
        front_wait_waiting(&front, N);
        for (unsigned i = 0; i < N; i++) {
                snprintf(id, sizeof(id), "%u", i);
                if (i < N - 1)
                        http_expect_chat(&http[i], id);
                else
                        http_expect_stream(&http[i], "Response 3 from sim", true);
                http_expect_end(&http[i]);
                http_close(&http[i]);
        }
        front_wait(&front, peer_status_is_connections, 1, "they are gone");
        daemon_stop(&front.msd);
}
END_TEST

START_TEST(vanishes_in_flight) {
        struct http whole, stream;
        struct peer_status status;

        front_start_ready(&front, OPTIONS("--load-time", "0", "--inference-time", "1h"));
        front_ask_chat(&front, &whole, "1", CHAT);
        front_ask_chat(&front, &stream, "2", CHAT_STREAM);
        front_wait(&front, peer_status_is_processing, 2, "they are in flight");
        http_close(&whole);
        front_wait(&front, peer_status_is_processing, 1, "one is cancelled");
        http_close(&stream);
        front_wait(&front, peer_status_is_processing, 0, "the other is cancelled");
        front_wait(&front, peer_status_is_connections, 1, "they are gone");
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.cancelled, 2);
        daemon_stop(&front.msd);
}
END_TEST

/* A client that goes in the middle of its request has asked for nothing. */
START_TEST(vanishes_half_way) {
        struct http head, body, idle;
        struct peer_status status;

        front_start(&front, OPTIONS("--load-time", "1h"));
        http_connect(&idle, front.address);
        http_connect(&head, front.address);
        http_send(&head, "GET /v1/models HTTP/1.1\r\nHo");
        http_connect(&body, front.address);
        http_send(&body, "POST /v1/completions HTTP/1.1\r\nHost: msd\r\nContent-Length: 100\r\n\r\n{\"prompt\":");
        front_wait(&front, peer_status_is_connections, 4, "they are there");
        http_close(&head);
        http_close(&body);
        http_close(&idle);
        front_wait(&front, peer_status_is_connections, 1, "they are gone");
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.cancelled + status.failed + status.completed + status.waiting, 0);
        daemon_stop(&front.msd);
}
END_TEST

/* All that wait hear why, and msd ends as it was told to. */
START_TEST(load_fails) {
        struct http http[20], wait;

        front_start(&front, OPTIONS("--load-time", "1s", "--load-failure", "No such weights", "--threads", "4"));
        for (size_t i = 0; i < ARRAY_SIZE(http); i++)
                front_ask_chat(&front, &http[i], "x", i % 2 ? CHAT : CHAT_STREAM);
        front_ask(&front, &wait, "GET", "/-/wait");
        front_wait_waiting(&front, ARRAY_SIZE(http));
        for (size_t i = 0; i < ARRAY_SIZE(http); i++) {
                http_expect_error(&http[i], 503, "load-failed", "No such weights");
                http_close(&http[i]);
        }
        http_expect_error(&wait, 503, "load-failed", "No such weights");
        http_close(&wait);
        daemon_expect_exit(&front.msd, 1);
}
END_TEST

/* One that stays says so to each that comes, on the connections that there are, until a load ends well. */
START_TEST(load_failed) {
        struct http http;

        front_start(&front, OPTIONS("--load-time", "0", "--load-failure", "No such weights", "--on-load-failure", "stay"));
        front_wait(&front, peer_status_is_failed, 0, "it has failed");
        http_connect(&http, front.address);
        for (unsigned i = 0; i < 3; i++) {
                http_chat(&http, "1", CHAT_STREAM);
                http_expect_error(&http, 503, "load-failed", "No such weights");
        }
        http_close(&http);
        daemon_stop(&front.msd);
}
END_TEST

/* What waits is told; what runs ends; each with the connection. */
START_TEST(stops) {
        struct http running[3], waiting[3], idle;

        front_start_ready(&front, OPTIONS("--load-time", "0", "--inference-time", "1s", "--max-inflight", "3"));
        http_connect(&idle, front.address);
        http_ask(&idle, "GET", "/-/live");
        http_expect(&idle, 200, "ok\n");
        for (size_t i = 0; i < ARRAY_SIZE(running); i++)
                front_ask_chat(&front, &running[i], "r", i == 2 ? CHAT_STREAM : CHAT);
        front_wait(&front, peer_status_is_processing, 3, "they are in flight");
        for (size_t i = 0; i < ARRAY_SIZE(waiting); i++)
                front_ask_chat(&front, &waiting[i], "w", i == 2 ? CHAT_STREAM : CHAT);
        front_wait_waiting(&front, 3);
        process_signal(&front.msd.process, SIGTERM);
        for (size_t i = 0; i < ARRAY_SIZE(waiting); i++) {
                http_expect_error(&waiting[i], 503, "shutting-down", STOPPING);
                ck_assert_str_eq(http_field(&waiting[i], "Connection"), "close");
                http_expect_end(&waiting[i]);
                http_close(&waiting[i]);
        }
        for (size_t i = 0; i < ARRAY_SIZE(running); i++) {
                if (i == 2)
                        http_expect_stream(&running[i], "Response r from sim", true);
                else
                        http_expect_chat(&running[i], "r");
                ck_assert_str_eq(http_field(&running[i], "Connection"), "close");
                http_expect_end(&running[i]);
                http_close(&running[i]);
        }
        http_expect_end(&idle);
        http_close(&idle);
        daemon_expect_exit(&front.msd, 0);
}
END_TEST

/* A request that comes while msd stops is told at once. */
START_TEST(comes_when_stopping) {
        struct http running, next;

        front_start_ready(&front, OPTIONS("--load-time", "0", "--inference-time", "1h", "--drain-timeout", "1h"));
        http_connect(&next, front.address);
        http_ask(&next, "GET", "/-/live");
        http_expect(&next, 200, "ok\n");
        front_ask_chat(&front, &running, "1", CHAT);
        front_wait(&front, peer_status_is_processing, 1, "it is in flight");
        process_signal(&front.msd.process, SIGTERM);
        front_wait(&front, peer_status_is_stopping, 0, "it stops");
        http_chat(&next, "2", CHAT);
        http_expect_error(&next, 503, "shutting-down", STOPPING);
        ck_assert_str_eq(http_field(&next, "Connection"), "close");
        http_expect_end(&next);
        http_close(&next);
        process_signal(&front.msd.process, SIGTERM);
        daemon_expect_exit(&front.msd, 1);
        http_close(&running);
}
END_TEST

/* A client that is in the middle of its request, or at none, holds nobody up. */
START_TEST(stops_amid_requests) {
        struct http head, body, idle;

        front_start_ready(&front, OPTIONS("--load-time", "0", "--drain-timeout", "1h"));
        http_connect(&idle, front.address);
        http_connect(&head, front.address);
        http_send(&head, "GET /v1/models HTTP/1.1\r\nHo");
        http_connect(&body, front.address);
        http_send(&body, "POST /v1/completions HTTP/1.1\r\nHost: msd\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n");
        http_expect(&body, 100, "");
        http_send(&body, "{\"prompt\":");
        front_wait(&front, peer_status_is_connections, 4, "they are there");
        process_signal(&front.msd.process, SIGTERM);
        daemon_expect_exit(&front.msd, 0);
        http_expect_end(&idle);
        http_close(&idle);
        http_close(&head);
        http_close(&body);
}
END_TEST

/* In flight for longer than there is time. */
START_TEST(drain_timeout) {
        struct http http;

        front_start_ready(&front, OPTIONS("--load-time", "0", "--inference-time", "1h", "--drain-timeout", "200ms"));
        front_ask_chat(&front, &http, "1", CHAT);
        front_wait(&front, peer_status_is_processing, 1, "it is in flight");
        process_signal(&front.msd.process, SIGTERM);
        http_expect_error(&http, 503, "shutting-down", NULL);
        http_expect_end(&http);
        http_close(&http);
        daemon_expect_exit(&front.msd, 0);
}
END_TEST

/* 2,000 that wait, each a client of its own, let through together. */
START_TEST(held) {
        struct http *http = calloc(HELD, sizeof(*http));
        struct peer_status status;

        ck_assert_ptr_nonnull(http);
        front_start(&front, OPTIONS("--load-time", "3s", "--inference-time", "0", "--quiet", "--threads", "2"));
        for (unsigned i = 0; i < HELD; i++) {
                char id[16];

                snprintf(id, sizeof(id), "%u", i);
                front_ask_chat(&front, &http[i], id, i % 4 == 0 ? CHAT_STREAM : CHAT);
        }
        front_wait_waiting(&front, HELD);
        for (unsigned i = 0; i < HELD; i++) {
                char text[64];

                snprintf(text, sizeof(text), "Response %u from sim", i);
                if (i % 4 == 0)
                        http_expect_stream(&http[i], text, true);
                else {
                        text[strlen(text) - strlen(" from sim")] = '\0';
                        http_expect_chat(&http[i], text + strlen("Response "));
                }
                http_close(&http[i]);
        }
        peer_status(&front.msd.control, &status);
        ck_assert_uint_eq(status.completed, HELD);
        free(http);
        daemon_stop(&front.msd);
}
END_TEST

/* What waits does nothing, and nor does a connection that has more to say than is read of it. */
START_TEST(no_wakeups) {
        static char junk[100000];
        struct http http[50];
        uint64_t before, after, deadline;

        memset(junk, 'x', sizeof(junk));
        front_start(&front, OPTIONS("--load-time", "1h", "--request-timeout", "1h"));
        for (size_t i = 0; i < ARRAY_SIZE(http); i++)
                front_ask_chat(&front, &http[i], "1", CHAT);
        front_wait_waiting(&front, ARRAY_SIZE(http));
        (void)send(http[0].fd, junk, sizeof(junk), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (process_has_tsan(&front.msd.process))
                suite_skip("no_wakeups", "the thread sanitizer has a thread of its own that wakes up");
        else {
                deadline = clock_patience();
                do {
                        ck_assert_msg(clock_now() < deadline, "msd never comes to rest");
                        before = process_switches(&front.msd.process);
                        http_expect_silence(&http[1], 100 * NSEC_PER_MSEC);
                        after = process_switches(&front.msd.process);
                } while (after != before);
                http_expect_silence(&http[1], NSEC_PER_SEC);
                ck_assert_uint_eq(process_switches(&front.msd.process), before);
        }
        for (size_t i = 0; i < ARRAY_SIZE(http); i++)
                http_close(&http[i]);
        daemon_stop(&front.msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, answers);
        tcase_add_test(tests, request_ids);
        tcase_add_test(tests, max_waiting);
        tcase_add_test(tests, max_prompt_memory);
        tcase_add_test(tests, request_timeout);
        tcase_add_test(tests, max_inflight);
        tcase_add_test(tests, vanishes_while_waiting);
        tcase_add_test(tests, half_closes_together);
        tcase_add_test(tests, vanishes_in_flight);
        tcase_add_test(tests, vanishes_half_way);
        tcase_add_test(tests, load_fails);
        tcase_add_test(tests, load_failed);
        tcase_add_test(tests, stops);
        tcase_add_test(tests, comes_when_stopping);
        tcase_add_test(tests, stops_amid_requests);
        tcase_add_test(tests, drain_timeout);
        tcase_add_test(tests, held);
        tcase_add_test(tests, no_wakeups);
}

int main(void) {
        return suite_main("http", add);
}
