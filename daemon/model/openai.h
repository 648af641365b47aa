#pragma once

/*
 * What a simulated model answers to an exchange of the OpenAI interface: no I/O, from a request to an answer.
 */

#include "daemon/model/model.h"

struct openai_answer {
        struct http_answer answer;
        char head[160];
        char *body;
        size_t body_len;
};

/* Whether it wants inference, which takes time; what does not is answered at once. */
bool openai_is_inference(const struct exchange *exchange);

/*
 * The answer to `exchange` of the model `name`, whose inference came to `text`: a completion, streamed or not, the list of
 * models, or an error. openai_answer_deinit() is due. Returns 0 or -ENOMEM.
 */
int openai_answer(struct openai_answer *answer, const struct exchange *exchange, const char *id, size_t id_len,
                  const char *name, const char *text);
void openai_answer_deinit(struct openai_answer *answer);
