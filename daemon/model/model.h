#pragma once

/*
 * What answers: a const table of functions for each way to load a model and to run inference (a backend).
 *
 * A model is loaded by the main thread. Each worker has a session of its own with it, in its own reactor, so
 * that a request never leaves its worker. No function here blocks.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/protocol.h"
#include "daemon/loop/reactor.h"

/* One run of the model, from model_infer() to the event that ends it, or model_cancel(). */
struct inference {
        uint64_t handle;        /* the backend's own; before and after, its owner's */
        uint32_t prompt_len;
        uint8_t id_len;
        bool has_prompt : 1;
        bool stream : 1;        /* the answer is wanted in parts */
        /* These two are for who owns the inference, not for the backend. */
        bool started : 1;       /* it is with the model */
        bool parked : 1;        /* it waits, and a successor would find it */
        bool resent : 1;        /* it was with a model that was lost */
        /* It is an exchange of HTTP, which is passed on as it is: there is no prompt, and the answer has a head. */
        bool is_exchange : 1;
        char text[];            /* the ID, then the prompt */
};

static inline const char *inference_id(const struct inference *inference) {
        return inference->text;
}

static inline const char *inference_prompt(const struct inference *inference) {
        return inference->text + inference->id_len;
}

/* A request of HTTP as it goes on to the model: without what concerns one connection alone, RFC 9110, 7.6.1. */
struct exchange {
        const char *method;
        const char *target;             /* path and query, as they came */
        const char *const *fields;      /* "Name: value", or "Name;" for one that is empty */
        size_t field_count;
        const char *body;               /* NULL: none, which is not the same as an empty one */
        size_t body_len;
};

/* How its answer begins. */
struct answer_field {
        const char *name;
        const char *value;
};
#define ANSWER_LENGTH_UNKNOWN UINT64_MAX
struct answer_head {
        unsigned status;
        uint64_t length;                /* of the body; of the one that GET has, for HEAD */
        const struct answer_field *fields;
        size_t field_count;
};

/*
 * How a session tells what became of an inference, in the worker's thread; model_infer() itself may call them.
 * After `answered`, `failed` or `lost` the session does not touch the inference again. A streamed answer, and that of an
 * exchange, comes in parts, and `answered` ends it with the empty rest.
 */
struct inference_events {
        /* What is to be passed on: borrowed from here until the inference has ended. */
        const struct exchange *(*exchange)(struct inference_events *events, struct inference *inference);
        /* Before the first part of an exchange; `head` is valid until this returns. */
        void (*head)(struct inference_events *events, struct inference *inference, const struct answer_head *head);
        void (*part)(struct inference_events *events, struct inference *inference, const char *data, size_t len);
        void (*answered)(struct inference_events *events, struct inference *inference, const char *data, size_t len);
        void (*failed)(struct inference_events *events, struct inference *inference, const char *reason);
        /* The model may be lost. Nothing was delivered of it: it may be run again. */
        void (*lost)(struct inference_events *events, struct inference *inference, const char *reason);
};

/* How a model tells what happens to it, from the main reactor, never from within a function called here. */
struct load_events {
        /* A load ends in one of these. */
        void (*ready)(struct load_events *events, const char *name);
        void (*failed)(struct load_events *events, const char *reason);
        /* One that was ready is none any more. */
        void (*lost)(struct load_events *events, const char *reason);
        /* One that was suspected is not lost. */
        void (*alive)(struct load_events *events);
        /* What model_stop() began has ended. */
        void (*stopped)(struct load_events *events);
        /* Its process wrote a line, here without LF. */
        void (*said)(struct load_events *events, bool error, const char *line, size_t len);
        /* It says how it is getting on (or NULL), or that it needs `extend` nanoseconds more (or 0). */
        void (*told)(struct load_events *events, const char *status, uint64_t extend);
};

struct model {
        const struct model_ops *ops;
};

struct model_session {
        struct model *model;
};

struct model_ops {
        const char *name;
        bool needs_prompt;      /* a request without one is none */
        void (*free)(struct model *model);
        int (*load)(struct model *model, struct reactor *reactor, struct load_events *events);
        bool (*progressed)(struct model *model);
        void (*unload)(struct model *model);
        bool (*stop)(struct model *model, struct load_events *events);
        void (*suspect)(struct model *model);
        int (*session_new)(struct model *model, struct reactor *reactor, struct inference_events *events,
                           struct model_session **session);
        void (*session_free)(struct model_session *session);
        int (*infer)(struct model_session *session, const char *name, struct inference *inference);
        void (*pause)(struct model_session *session, struct inference *inference, bool paused);
        void (*cancel)(struct model_session *session, struct inference *inference);
};

/* NULL is taken, and returned. Its sessions are gone before. */
static inline struct model *model_free(struct model *model) {
        if (model)
                model->ops->free(model);
        return NULL;
}

/* Begins to load; `events` hears how that ends. Returns 0 or -errno, and then `events` hears nothing. */
static inline int model_load(struct model *model, struct reactor *reactor, struct load_events *events) {
        return model->ops->load(model, reactor, events);
}

/* Whether the load that is under way has come further since it began, or since this was asked last. */
static inline bool model_progressed(struct model *model) {
        return model->ops->progressed(model);
}

/* Ends what there is, a load that is under way too: its events are not called. */
static inline void model_unload(struct model *model) {
        model->ops->unload(model);
}

/* The same for good. Returns whether there is something to wait for, until `stopped`. */
static inline bool model_stop(struct model *model, struct load_events *events) {
        return model->ops->stop && model->ops->stop(model, events);
}

/* An inference was lost: if the model is ready it looks whether it still is, and says `lost` or `alive`. */
static inline void model_suspect(struct model *model) {
        if (model->ops->suspect)
                model->ops->suspect(model);
}

/* Returns 0 or -errno. `events` is borrowed, and outlives the session. */
static inline int model_session_new(struct model *model, struct reactor *reactor, struct inference_events *events,
                                    struct model_session **session) {
        return model->ops->session_new(model, reactor, events, session);
}

/* NULL is taken, and returned. What it still runs is forgotten without a word. */
static inline struct model_session *model_session_free(struct model_session *session) {
        if (session)
                session->model->ops->session_free(session);
        return NULL;
}

/*
 * Runs the model that is loaded, under the name `name`, which is copied: what is in flight may outlive the generation.
 * The inference is the caller's and stays where it is until it has ended. Returns 0 or -errno, and then no event comes for it.
 */
static inline int model_infer(struct model_session *session, const char *name, struct inference *inference) {
        return session->model->ops->infer(session, name, inference);
}

/*
 * No part of an exchange is wanted for now, or they are again. One may still come while this is called, to pause or to go on.
 */
static inline void model_pause(struct model_session *session, struct inference *inference, bool paused) {
        if (session->model->ops->pause)
                session->model->ops->pause(session, inference, paused);
}

/* Ends an inference that has not ended yet: no event comes for it any more. */
static inline void model_cancel(struct model_session *session, struct inference *inference) {
        session->model->ops->cancel(session, inference);
}
