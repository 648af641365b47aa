#pragma once

/*
 * `mscli request`: sends all its requests, and prints each answer as it comes.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/input.h"
#include "client/output.h"
#include "client/progress.h"
#include "client/session.h"

struct request {
        struct session_events events;
        struct output *output;
        const struct input *input;
        bool stream;            /* parts are printed as they come */
        bool gather;            /* or gathered by their ID, until the answer is whole */
        bool progress_on;
        const char *id;         /* the next to be sent, in the input's */
        size_t sent;            /* so many requests are sent, or at least begun */
        size_t answered;        /* with an error too */
        size_t failed;          /* with an error */
        bool in_prompt;         /* the prompt of the last one, from `prompt_sent` on, has yet to be sent */
        size_t prompt_sent;
        size_t sent_before;     /* `sent` when STATUS was */
        void *streams;          /* tsearch(3) tree of the answers that came in part */
        struct progress progress;
};

/* Prepares the requests of `input`. All three pointers are kept. `progress`: show it, on standard error. */
int request_init(struct request *request, const struct input *input, struct output *output, bool stream,
                 bool progress);
void request_deinit(struct request *request);

/* As session_run(). Also on failure `answered` and `failed` say how far it came. */
int request_run(struct request *request, struct session *session);
