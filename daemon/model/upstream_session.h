#pragma once

/*
 * Inference with a real model: completions, and exchanges that are passed on as they are. One session for each worker: a pool
 * of kept connections to the generation that it follows. For daemon/model/upstream alone.
 */

#include <stdatomic.h>

#include "daemon/loop/mailbox.h"
#include "daemon/model/model.h"
#include "daemon/model/resolver.h"

/* The requests of a session that hold a place: its worker writes this, the main thread reads it. */
struct upstream_work {
        _Alignas(64) atomic_uint_fast64_t in_flight;
        atomic_uint_fast64_t paused;    /* of those, the ones whose clients do not read */
        atomic_uint_fast64_t heard;     /* bytes of answers so far */
        struct list link;               /* for the main thread, which makes and frees sessions */
};

/* Who watches that those requests get on: nobody, until there is one. */
struct upstream_watch {
        struct list works;              /* of all sessions */
        atomic_bool is_set;             /* a request that begins need not say so */
        struct mailbox mailbox;         /* otherwise it does, here */
};

/* All is borrowed, and outlives the session. */
struct upstream_session_options {
        const struct target *target;
        const char *completion_path;
        const char *completion_options; /* a JSON object, or NULL */
        uint64_t max_tokens;            /* 0: as many as the upstream wants */
        uint64_t max_connections;       /* 0: any number. Light requests have UPSTREAM_LIGHT_MAX of their own */
        uint64_t max_idle;              /* idle connections that are kept; 0: any number */
        const char *host;               /* the Host field; NULL: the client's own */
        const char *key;                /* a bearer key for prompts, or NULL */
        struct upstream_watch *watch;   /* NULL: nobody watches */
};

#define UPSTREAM_LIGHT_MAX 32

/* Returns 0 or -ENOMEM. */
int upstream_session_new(const struct upstream_session_options *options, struct model *model,
                         const struct session_place *place, struct model_session **session);

/* As struct model_ops has them. */
void upstream_session_free(struct model_session *session);
void upstream_session_follow(struct model_session *session, const struct generation *generation);
int upstream_infer(struct model_session *session, struct inference *inference);
void upstream_pause(struct model_session *session, struct inference *inference, bool paused);
size_t upstream_send(struct model_session *session, struct inference *inference, const char *data, size_t len);
void upstream_finish(struct model_session *session, struct inference *inference);
void upstream_cancel(struct model_session *session, struct inference *inference);
