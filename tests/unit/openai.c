#include "daemon/model/openai.h"

#include <jansson.h>
#include <string.h>

#include "tests/support/unit.h"

static struct openai_answer answer;

/* An exchange, of which the last four that were made are valid. */
static const struct exchange *exchange_of(const char *method, const char *target, const char *body) {
        static struct {
                char head[256];
                struct http_request request;
                struct exchange exchange;
        } made[4];
        static unsigned count;
        struct http_refusal refusal;
        char *head = made[count % ARRAY_SIZE(made)].head;
        struct http_request *request = &made[count % ARRAY_SIZE(made)].request;
        struct exchange *exchange = &made[count++ % ARRAY_SIZE(made)].exchange;

        snprintf(head, sizeof(made[0].head), "%s %s HTTP/1.1\r\nHost: x\r\n\r\n", method, target);
        ck_assert_int_eq(http_parse_request(request, head, strlen(head), 0, &refusal), HTTP_WHOLE);
        *exchange = (struct exchange){
                .request = request,
                .head = head,
                .body = body ? body : "",
                .body_len = body ? strlen(body) : HTTP_LENGTH_UNKNOWN,
        };
        return exchange;
}

static void ask(const char *method, const char *target, const char *body) {
        ck_assert_int_eq(openai_answer(&answer, exchange_of(method, target, body), "7", 1, "sim", "Response 7 from sim"), 0);
        ck_assert_uint_eq(answer.body_len, strlen(answer.body));
        ck_assert_uint_eq(answer.answer.len, strlen(answer.head));
}

/* The string at a path of names and indices, as "choices.0.text", in the JSON at `text`. */
static const char *string_at(const char *text, const char *path) {
        static char value[256];
        json_t *json = json_loads(text, 0, NULL), *at = json;

        ck_assert_msg(json, "This is no JSON: %s", text);
        while (*path) {
                char name[32];
                size_t len = strcspn(path, ".");

                snprintf(name, sizeof(name), "%.*s", unit_len(len), path);
                at = json_is_array(at) ? json_array_get(at, (size_t)atoi(name)) : json_object_get(at, name);
                path += len + (path[len] == '.');
        }
        snprintf(value, sizeof(value), "%s", json_is_string(at) ? json_string_value(at) : "(none)");
        json_decref(json);
        return value;
}

static const struct {
        const char *method, *target, *body;
        unsigned status;
        const char *path, *value;
} answers[] = {
        { "GET", "/v1/models", NULL, 200, "data.0.id", "sim" },
        { "HEAD", "/v1/models?a=b", NULL, 200, "object", "list" },
        { "GET", "/v1/models/sim", NULL, 200, "object", "model" },
        { "GET", "/v1/models/other", NULL, 404, "error.code", "model_not_found" },
        { "POST", "/v1/models", "", 405, "error.type", "invalid_request_error" },
        { "POST", "/v1/completions", "{}", 200, "choices.0.text", "Response 7 from sim" },
        { "POST", "/v1/completions", "{}", 200, "object", "text_completion" },
        { "POST", "/v1/completions?x", "{\"stream\":false}", 200, "id", "cmpl-7" },
        { "POST", "/v1/chat/completions", "{}", 200, "choices.0.message.content", "Response 7 from sim" },
        { "POST", "/v1/chat/completions", "{}", 200, "choices.0.finish_reason", "stop" },
        { "POST", "/v1/chat/completions", "{}", 200, "object", "chat.completion" },
        { "POST", "/v1/chat/completions", "{", 400, "error.code", "bad-request" },
        { "POST", "/v1/chat/completions", "[]", 400, "error.code", "bad-request" },
        { "POST", "/v1/chat/completions", NULL, 400, "error.code", "bad-request" },
        { "GET", "/v1/chat/completions", NULL, 405, "error.code", "method-not-allowed" },
        { "GET", "/v1/modelsandmore", NULL, 404, "error.code", "not-found" },
        { "GET", "/", NULL, 404, "error.code", "not-found" },
};

START_TEST(answer_is) {
        ask(answers[_i].method, answers[_i].target, answers[_i].body);
        ck_assert_uint_eq(answer.answer.status, answers[_i].status);
        ck_assert_ptr_nonnull(strstr(answer.head, "\r\nContent-Type: application/json\r\n"));
        ck_assert_uint_eq(answer.answer.content_length, answer.body_len);
        ck_assert_str_eq(string_at(answer.body, answers[_i].path), answers[_i].value);
        openai_answer_deinit(&answer);
        openai_answer_deinit(&answer);
}
END_TEST

/* The pieces add up to the text, and the end is said. */
static void assert_stream(const char *target, const char *path) {
        char text[64] = "", finish[32] = "";
        unsigned pieces = 0;

        ask("POST", target, "{\"stream\":true}");
        ck_assert_uint_eq(answer.answer.status, 200);
        ck_assert(answer.answer.is_event_stream);
        ck_assert(answer.answer.chunked);
        ck_assert_uint_eq(answer.answer.content_length, HTTP_LENGTH_UNKNOWN);
        for (char *event = answer.body, *end; *event; event = end + 2) {
                end = strstr(event, "\n\n");
                ck_assert_ptr_nonnull(end);
                *end = '\0';
                ck_assert_int_eq(strncmp(event, "data: ", 6), 0);
                if (strcmp(event + 6, "[DONE]") == 0) {
                        ck_assert_str_eq(finish, "stop");
                        ck_assert_int_eq(end[2], '\0');
                        break;
                }
                snprintf(finish, sizeof(finish), "%s", string_at(event + 6, "choices.0.finish_reason"));
                if (strcmp(finish, "stop") != 0) {
                        strcat(text, string_at(event + 6, path));
                        pieces++;
                }
        }
        ck_assert_str_eq(text, "Response 7 from sim");
        ck_assert_uint_eq(pieces, 4);
        openai_answer_deinit(&answer);
}

START_TEST(answer_streams) {
        assert_stream("/v1/completions", "choices.0.text");
        assert_stream("/v1/chat/completions", "choices.0.delta.content");
}
END_TEST

START_TEST(inference_takes_time) {
        ck_assert(openai_is_inference(exchange_of("POST", "/v1/completions?a", "{}")));
        ck_assert(openai_is_inference(exchange_of("POST", "/v1/chat/completions", "{}")));
        ck_assert(!openai_is_inference(exchange_of("GET", "/v1/models", NULL)));
        ck_assert(!openai_is_inference(exchange_of("GET", "/v1/completions", NULL)));
        ck_assert(!openai_is_inference(exchange_of("POST", "/x", "")));
}
END_TEST

static Suite *openai_suite(void) {
        Suite *suite = suite_create("openai");
        TCase *tcase = tcase_create("answers");

        unit_add_table(tcase, answer_is, answers);
        tcase_add_test(tcase, answer_streams);
        tcase_add_test(tcase, inference_takes_time);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(openai_suite)
