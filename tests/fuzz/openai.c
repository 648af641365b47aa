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

/* The method, the target, and what is left is the body. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        char *method = input_text(&input, ' '), *target = input_text(&input, '\n');
        struct exchange exchange = { .method = method, .target = target };
        struct openai_answer answer;
        bool inference;

        exchange.body = input.len > 0 ? (const char *)input.data : NULL;
        exchange.body_len = input.len;
        inference = openai_is_inference(&exchange);
        expect(openai_answer(&answer, &exchange, "7", 1, "sim", text) == 0);
        expect(answer.head.status >= 200 && answer.head.status < 500);
        expect(answer.head.field_count == 1 && answer.body_len == strlen(answer.body));
        if (answer.head.length == ANSWER_LENGTH_UNKNOWN) {
                expect(inference && strcmp(answer.type.value, "text/event-stream") == 0);
                expect_stream(answer.body, strncmp(target, "/v1/chat/", 9) == 0);
        } else {
                expect(answer.head.length == answer.body_len);
                expect_json(answer.body, answer.body_len);
        }
        openai_answer_deinit(&answer);
        free(method);
        free(target);
        return 0;
}
