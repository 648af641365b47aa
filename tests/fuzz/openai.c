/*
 * What the simulated model answers over HTTP: JSON, or a stream of it, whatever it is asked.
 */

#include "daemon/model/openai.h"

#include <jansson.h>

#include "common/util.h"
#include "tests/fuzz/fuzz.h"

static const char text[] = "Response 7 from sim";

static void expect_json(const char *data, size_t len) {
        json_t *json = json_loadb(data, len, 0, NULL);

        expect(json_is_object(json));
        json_decref(json);
}

/* Events, each of JSON, of which the text is put together; and the end. */
static void expect_stream(const char *body, bool chat) {
        char said[sizeof(text)] = "";
        const char *end;

        for (; (end = strstr(body, "\n\n")); body = end + 2) {
                const json_t *choice, *piece;
                json_t *json;

                expect(strncmp(body, "data: ", 6) == 0);
                if (strncmp(body + 6, "[DONE]", 6) == 0)
                        break;
                json = json_loadb(body + 6, (size_t)(end - body) - 6, 0, NULL);
                choice = json_array_get(json_object_get(json, "choices"), 0);
                piece = chat ? json_object_get(json_object_get(choice, "delta"), "content") : json_object_get(choice, "text");
                if (piece) {
                        expect(strlen(said) + json_string_length(piece) < sizeof(said));
                        strcat(said, json_string_value(piece));
                }
                json_decref(json);
        }
        expect(strcmp(body, "data: [DONE]\n\n") == 0);
        expect(strcmp(said, text) == 0);
}

/* The method, the target, and what is left is the body. What is no head of a request does not come so far. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        char *method = input_text(&input, ' '), *target = input_text(&input, '\n'), *head = NULL;
        struct http_request request;
        struct http_refusal refusal;
        struct exchange exchange = { .request = &request };
        struct openai_answer answer;

        expect(asprintf(&head, "%s %s HTTP/1.1\r\nHost: fuzz\r\n\r\n", method, target) > 0);
        if (http_parse_request(&request, head, strlen(head), 0, &refusal) == HTTP_WHOLE) {
                exchange.head = head;
                exchange.body = input.len > 0 ? (const char *)input.data : "";
                exchange.body_len = input.len > 0 ? input.len : HTTP_LENGTH_UNKNOWN;
                expect(openai_answer(&answer, &exchange, "7", 1, "sim", text) == 0);
                expect(answer.answer.status >= 200 && answer.answer.status < 500);
                expect(answer.answer.len == strlen(answer.head) && answer.body_len == strlen(answer.body));
                if (answer.answer.chunked) {
                        expect(openai_is_inference(&exchange) && answer.answer.is_event_stream);
                        expect_stream(answer.body, strncmp(head + request.target.at, "/v1/chat/", 9) == 0);
                } else {
                        expect(answer.answer.content_length == answer.body_len);
                        expect_json(answer.body, answer.body_len);
                }
                openai_answer_deinit(&answer);
        }
        free(head);
        free(method);
        free(target);
        return 0;
}
