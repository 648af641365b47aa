#include "tests/unit/front/world.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/number.h"

#define UPGRADE "GET /v1/realtime HTTP/1.1\r\n" HOST "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

START_TEST(tunnel) {
        struct inference *inference;
        int fd;

        begin_ready();
        fd = connect_client();
        say(fd, UPGRADE "early");
        inference = model_state.running[0];
        ck_assert(inference->is_light);
        answer_head("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        ck_assert_uint_eq(http.tunnels, 1);
        ck_assert_ptr_nonnull(strstr(heard(fd), "Upgrade: websocket\r\n"));
        say(fd, " and late");
        ck_assert_str_eq(model_state.sent, "early and late");
        answer_part("from the model");
        ck_assert_str_eq(heard(fd), "from the model");
        /* The model does not read. */
        model_state.unsent = 10 << 20;
        say(fd, "x");
        say(fd, "y");
        ck_assert_uint_eq(model_state.sent_len, 15);
        model_state.unsent = 0;
        inference->recipient->ops->sent(inference->recipient, inference);
        turn();
        ck_assert_uint_eq(model_state.sent_len, 16);
        ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
        turn();
        ck_assert(model_state.finished);
        answer_part("bye");
        answer_end(ENDING_COMPLETE);
        ck_assert_uint_eq(http.tunnels, 0);
        ck_assert_str_eq(heard(fd), "bye");
        ck_assert(is_closed(fd));
        close(fd);
}
END_TEST

/* A client that does not read stops a model that sends one interim answer after the other. */
START_TEST(interim_answers_are_held_back) {
        unsigned n = 0;
        int fd;

        begin_ready();
        fd = connect_client();
        say(fd, GET);
        while (!model_state.paused && n++ < 100000)
                answer_head("HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n");
        ck_assert(model_state.paused);
        for (unsigned i = 0; i < 1000 && model_state.paused; i++) {
                (void)heard(fd);
                turn();
        }
        ck_assert(!model_state.paused);
        answer_head("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n");
        answer_part("a");
        answer_end(ENDING_COMPLETE);
        turn();
        close(fd);
}
END_TEST

/* The end of the daemon does not wait for a tunnel. */
START_TEST(drained_tunnel) {
        int fd;

        begin_ready();
        fd = connect_client();
        say(fd, UPGRADE);
        answer_head("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        turn();
        ck_assert(http_is_flushed(&http));
        ck_assert(!lane_is_idle(&lane, 0));
        ck_assert(lane_is_idle(&lane, http.tunnels));
        lane_abandon(&lane);
        turn();
        ck_assert_uint_eq(model_state.cancelled, 1);
        ck_assert_uint_eq(ended, 1);
        (void)heard(fd);
        ck_assert(is_closed(fd));
        close(fd);
}
END_TEST

/* Comments go to a stream alone, and then an error is an event. */
static const struct {
        const char *path, *fields, *body;
        bool commented;
        const char *error;
} streams[] = {
        { "/v1/completions", "", "{\"stream\":true}", true, "data: {\"error\":{" },
        { "/v1/completions", "", " {\"a\":{\"stream\":false},\"b\":\"\\\"}\",\n\"stream\" : true }", true,
          "data: {\"error\":{" },
        { "/v1/messages", "", "{\"stream\":true}", true, "event: error\n" },
        { "/v1/completions", "", "{\"stream\":\"true\"}", false, NULL },
        { "/v1/completions", "", "[{\"stream\":true}]", false, NULL },
        { "/v1/completions", "", "{\"x\":{\"stream\":true}}", false, NULL },
        { "/v1/completions", "", "{\"stream\":true,\"stream\":false}", false, NULL },
        { "/v1/completions", "", "{\"x\":\"stream\",\"y\":true}", false, NULL },
        { "/api/chat", "", "{\"stream\":true}", false, NULL },
        { "/api/chat", "Accept: text/event-stream\r\n", "{}", true, "data: {\"error\":" },
};

START_TEST(comments) {
        static const char comment[] = "b\r\n: waiting\n\n\r\n";
        char request[512];
        const char *text;
        int fd;

        group.stream_keepalive = NSEC_PER_SEC;
        group.cors_origin = "https://site";
        begin();
        fd = connect_client();
        snprintf(request, sizeof(request), "POST %s HTTP/1.1\r\n" HOST "%sContent-Length: %zu\r\n\r\n%s", streams[_i].path,
                 streams[_i].fields, strlen(streams[_i].body), streams[_i].body);
        say(fd, request);
        pass(NSEC_PER_SEC + NSEC_PER_SEC / 16);
        text = heard(fd);
        if (!streams[_i].commented) {
                ck_assert_str_eq(text, "");
                close(fd);
                return;
        }
        ck_assert_ptr_nonnull(strstr(text, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"));
        ck_assert_ptr_nonnull(strstr(text, "Access-Control-Allow-Origin: https://site\r\n"));
        ck_assert_ptr_nonnull(strstr(text, "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"));
        ck_assert_str_eq(strstr(text, "\r\n\r\n") + 4, comment);
        pass(NSEC_PER_SEC + NSEC_PER_SEC / 16);
        ck_assert_str_eq(heard(fd), comment);
        ck_assert_int_eq(gate_open(&generation->gate), 0);
        turn();
        switch (_i) {
        case 0:
                answer_head("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
                answer_part("data: 1\n\n");
                answer_end(ENDING_COMPLETE);
                ck_assert_str_eq(heard(fd), "9\r\ndata: 1\n\n\r\n0\r\n\r\n");
                break;
        case 1:
                answer_head("HTTP/1.1 401 No\r\nContent-Length: 22\r\n\r\n");
                answer_part("{\"error\":{\"code\":\"1\"}}");
                answer_end(ENDING_COMPLETE);
                ck_assert_ptr_nonnull(strstr(heard(fd), "data: \r\n16\r\n{\"error\":{\"code\":\"1\"}}\r\n2\r\n\n\n\r\n"
                                                        "0\r\n\r\n"));
                break;
        default:
                answer_end(ENDING_FAILED);
                text = heard(fd);
                ck_assert_msg(strstr(text, "It broke") && strstr(text, "0\r\n\r\n"), "It is: %s", text);
        }
        say(fd, "GET /-/live HTTP/1.1\r\n" HOST "\r\n");
        expect_status(fd, 200);
        close(fd);
}
END_TEST

START_TEST(white_space) {
        const char *text;
        int fd;

        group.json_keepalive = NSEC_PER_SEC;
        begin_ready();
        fd = connect_client();
        say(fd, POST("Content-Length: 2\r\n", "{}"));
        ck_assert(asked()->drops_accept_encoding);
        pass(NSEC_PER_SEC + NSEC_PER_SEC / 16);
        text = heard(fd);
        ck_assert_ptr_nonnull(strstr(text, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"));
        ck_assert_str_eq(strstr(text, "\r\n\r\n") + 4, "1\r\n \r\n");
        answer_head("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n");
        answer_part("[]");
        answer_end(ENDING_COMPLETE);
        ck_assert_str_eq(heard(fd), "2\r\n[]\r\n0\r\n\r\n");
        say(fd, POST("Content-Length: 2\r\n", "{}"));
        pass(NSEC_PER_SEC + NSEC_PER_SEC / 16);
        (void)heard(fd);
        answer_end(ENDING_FAILED);
        text = heard(fd);
        ck_assert_msg(strstr(text, "{\"error\":{\"message\":\"It broke\"") && strstr(text, "\r\n0\r\n\r\n"),
                      "It is: %s", text);
        /* Early enough it is as it came. */
        say(fd, POST("Content-Length: 2\r\n", "{}"));
        answer_end(ENDING_FAILED);
        expect_status(fd, 502);
        say(fd, POST("Content-Length: 15\r\n", "{\"stream\":true}"));
        ck_assert(!asked()->drops_accept_encoding);
        pass(10 * NSEC_PER_SEC);
        ck_assert_str_eq(heard(fd), "");
        close(fd);
}
END_TEST

START_TEST(keys) {
        static const char *const all[] = { "first", "second" };
        static const struct {
                const char *field;
                unsigned status;
        } tries[] = {
                { "", 401 },
                { "Authorization: Bearer first\r\n", 502 },
                { "Authorization: bearer second\r\n", 502 },
                { "Authorization: Bearer firs\r\n", 401 },
                { "Authorization: Bearer firstfirst\r\n", 401 },
                { "Authorization: Bearer \r\n", 401 },
                { "Authorization: Basic first\r\n", 401 },
        };
        char request[256];
        int fd;

        group.keys = all;
        group.key_count = ARRAY_SIZE(all);
        begin_ready();
        fd = connect_client();
        for (size_t i = 0; i < ARRAY_SIZE(tries); i++) {
                const char *text;

                snprintf(request, sizeof(request), "GET /x HTTP/1.1\r\n" HOST "%s\r\n", tries[i].field);
                say(fd, request);
                if (tries[i].status == 502) {
                        answer_end(ENDING_FAILED);
                        expect_status(fd, 502);
                        continue;
                }
                text = heard(fd);
                ck_assert_msg(strncmp(text, "HTTP/1.1 401 ", 13) == 0 && strstr(text, "WWW-Authenticate: Bearer\r\n"),
                              "It is: %s", text);
        }
        say(fd, "GET /-/status HTTP/1.1\r\n" HOST "\r\n");
        expect_status(fd, 401);
        say(fd, "GET /health HTTP/1.1\r\n" HOST "\r\n");
        expect_status(fd, 200);
        close(fd);
}
END_TEST

START_TEST(preflight) {
        static const char ask[] = "OPTIONS /v1/completions HTTP/1.1\r\n" HOST "Origin: https://site\r\n"
                                  "Access-Control-Request-Method: POST\r\n"
                                  "Access-Control-Request-Headers: authorization,x-a\xc2\x85\xff\r\n\r\n";
        const char *text;
        int fd;

        group.cors_origin = "*";
        begin();
        fd = connect_client();
        say(fd, ask);
        text = heard(fd);
        ck_assert_msg(strncmp(text, "HTTP/1.1 204 ", 13) == 0 && strstr(text, "Access-Control-Allow-Origin: *\r\n") &&
                              strstr(text, "Access-Control-Allow-Methods: GET, HEAD, POST") &&
                              strstr(text, "Access-Control-Allow-Headers: authorization,x-a ?\r\n"),
                      "It is: %s", text);
        ck_assert_int_eq(gate_open(&generation->gate), 0);
        turn();
        say(fd, ask);
        ck_assert_uint_eq(model_state.count, 1);
        answer_end(ENDING_FAILED);
        ck_assert_ptr_nonnull(strstr(heard(fd), "Access-Control-Allow-Origin: *\r\n"));
        close(fd);
}
END_TEST

/* While it loads, from the name that it will have. */
START_TEST(models) {
        int fd;

        group.model_name = "m/1";
        begin();
        fd = connect_client();
        say(fd, "GET /v1/models HTTP/1.1\r\n" HOST "\r\n");
        ck_assert_ptr_nonnull(strstr(heard(fd), "\"data\":[{\"id\":\"m/1\""));
        say(fd, "GET /v1/models/m/1?a HTTP/1.1\r\n" HOST "\r\n");
        expect_status(fd, 200);
        say(fd, "GET /v1/models/m HTTP/1.1\r\n" HOST "\r\n");
        ck_assert_str_eq(heard(fd), "");
        close(fd);
}
END_TEST

/* Rule 9 of the design, and what takes no place. */
static const struct {
        const char *line;
        bool repeats, is_light;
} kinds[] = {
        { "GET /v1/files", true, true },          { "HEAD /", true, true },
        { "OPTIONS *", true, true },              { "PUT /x", true, false },
        { "DELETE /x", true, false },             { "PATCH /x", false, false },
        { "POST /v1/completions", true, false },  { "POST /v1/files", false, false },
        { "POST /v1/files/a?b", false, false },   { "POST /v1/filesystem", true, false },
        { "POST /v1/files?x", false, false },     { "POST /api/pull", false, false },
        { "POST /api/chat", true, false },        { "POST /models/load", false, false },
        { "POST /slots/1", false, false },        { "POST /v1//files", false, false },
        { "POST /v1/./files", false, false },     { "POST /v1/%66iles", false, false },
        { "POST /v1/completions?a=//", true, false },
};

START_TEST(kind) {
        char request[128];
        int fd;

        begin_ready();
        fd = connect_client();
        snprintf(request, sizeof(request), "%s HTTP/1.1\r\n" HOST "\r\n", kinds[_i].line);
        say(fd, request);
        ck_assert_uint_eq(model_state.count, 1);
        ck_assert_int_eq(model_state.running[0]->repeats, kinds[_i].repeats);
        ck_assert_int_eq(model_state.running[0]->is_light, kinds[_i].is_light);
        ck_assert_int_eq(asked()->body_len == HTTP_LENGTH_UNKNOWN, kinds[_i].line[0] != 'P');
        close(fd);
}
END_TEST

static const struct {
        const char *path, *out;
} shapes[] = {
        { "/v1/completions",
          "{\"error\":{\"message\":\"No weights\",\"type\":\"server_error\",\"param\":null,\"code\":\"load-failed\"}}" },
        { "/v1/messages", "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"No weights\"}}" },
        { "/api/chat", "{\"error\":\"No weights\"}" },
};

START_TEST(shape) {
        char request[128];
        const char *text;
        int fd;

        begin();
        ck_assert_int_eq(gate_fail(&generation->gate, "No weights"), 0);
        fd = connect_client();
        snprintf(request, sizeof(request), "POST %s HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\n{}", shapes[_i].path);
        say(fd, request);
        text = heard(fd);
        ck_assert_ptr_nonnull(strstr(text, "HTTP/1.1 503 "));
        ck_assert_ptr_nonnull(strstr(text, "Retry-After: 10\r\n"));
        ck_assert_str_eq(strstr(text, "\r\n\r\n") + 4, shapes[_i].out);
        close(fd);
}
END_TEST

/* How long it waited is said, and that the daemon stops. */
START_TEST(extra_fields) {
        const char *text;
        int fd;

        begin();
        fd = connect_client();
        say(fd, GET);
        now += 2500 * NSEC_PER_MSEC;
        ck_assert_int_eq(gate_open(&generation->gate), 0);
        turn();
        now += NSEC_PER_SEC;
        answer_head("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        answer_end(ENDING_COMPLETE);
        text = heard(fd);
        ck_assert_msg(strstr(text, "Server-Timing: wait;dur=2500\r\n"), "It is: %s", text);
        ck_assert_uint_eq(atomic_load(&status.counters[0].http.responses[404 - HTTP_STATUS_MIN]), 1);
        ck_assert_uint_eq(atomic_load(&status.counters[0].http.first_bytes.sum), NSEC_PER_SEC);
        say(fd, GET);
        answer_head("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        answer_end(ENDING_COMPLETE);
        ck_assert_ptr_null(strstr(heard(fd), "Server-Timing"));
        say(fd, GET);
        ck_assert_int_eq(gate_open(&stop), 0);
        turn();
        answer_head("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        answer_end(ENDING_COMPLETE);
        text = heard(fd);
        ck_assert_ptr_nonnull(strstr(text, "x-envoy-immediate-health-check-fail: true\r\n"));
        ck_assert_ptr_nonnull(strstr(text, "Connection: close\r\n"));
        ck_assert(is_closed(fd));
        close(fd);
}
END_TEST

static Suite *suite(void) {
        Suite *made = suite_create("http_front_answers");
        TCase *tests = tcase_create("http_front_answers");

        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, tunnel);
        tcase_add_test(tests, drained_tunnel);
        tcase_add_test(tests, interim_answers_are_held_back);
        unit_add_table(tests, comments, streams);
        tcase_add_test(tests, white_space);
        tcase_add_test(tests, keys);
        tcase_add_test(tests, preflight);
        tcase_add_test(tests, models);
        unit_add_table(tests, kind, kinds);
        unit_add_table(tests, shape, shapes);
        tcase_add_test(tests, extra_fields);
        suite_add_tcase(made, tests);
        return made;
}

UNIT_MAIN(suite)
