#pragma once

/*
 * Inference with a real model: completions, and exchanges that are passed on as they are. One session for each worker, with
 * connections of its own. For daemon/model/upstream alone.
 */

#include "daemon/model/fetch.h"
#include "daemon/model/model.h"

/* All is borrowed, and outlives the session. */
struct upstream_session_options {
        const struct target *target;
        const char *completion_path;
        const char *completion_options; /* a JSON object, or NULL */
        uint64_t max_tokens;            /* 0: as many as the upstream wants */
        uint64_t max_connections;       /* 0: any number */
};

/* Returns 0 or -ENOMEM. */
int upstream_session_new(const struct upstream_session_options *options, struct model *model, struct reactor *reactor,
                         struct inference_events *events, struct model_session **session);

/* As struct model_ops has them. */
void upstream_session_free(struct model_session *session);
int upstream_infer(struct model_session *session, const char *name, struct inference *inference);
void upstream_pause(struct model_session *session, struct inference *inference, bool paused);
void upstream_cancel(struct model_session *session, struct inference *inference);
