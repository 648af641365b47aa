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
#include "daemon/net/http.h"
#include "daemon/net/socket.h"

struct generation;
struct inference;
struct progress;
struct recipient;

/* A request of HTTP: as its client sent it, with its body out of its framing. */
struct exchange {
        const struct http_request *request;
        const char *head;               /* the bytes of the head */
        const char *body;
        uint64_t body_len;              /* HTTP_LENGTH_UNKNOWN: there is none, which is not the same as an empty one */
        bool drops_accept_encoding;     /* as in struct http_forwarding */
};

/* The head of its answer. */
struct answer_head {
        const struct http_answer *answer;
        const char *bytes;
};

/*
 * How who asked hears its answer; called by the session, in the worker's thread. The end of the answer comes by way of the lane.
 * Nothing in here may end the recipient, or touch another of its requests.
 */
struct answer_ops {
        /*
         * Of an exchange alone: what is passed on. It is valid until this is called again, for any inference; what it points to, until
         * the inference has ended.
         */
        const struct exchange *(*exchange)(struct recipient *recipient, struct inference *inference);
        /*
         * Of an exchange alone: before the first part; `head` is valid until this returns. A head with a status of 1xx is an interim
         * one, and another follows; but 101 makes a tunnel of the exchange.
         */
        void (*head)(struct recipient *recipient, struct inference *inference, const struct answer_head *head);
        /* More of the answer: of an exchange, of a tunnel, or of a prompt that wants a stream. */
        void (*part)(struct recipient *recipient, struct inference *inference, const char *data, size_t len);
        /* Of a tunnel alone: less of what was written is unsent than before. */
        void (*sent)(struct recipient *recipient, struct inference *inference);
};

struct recipient {
        const struct answer_ops *ops;
};

/* One run of the model, from model_infer() to the event that ends it, or model_cancel(). */
struct inference {
        struct recipient *recipient;
        uint64_t handle;        /* the session's own; before and after, its owner's */
        uint32_t prompt_len;
        uint8_t id_len;
        bool has_prompt : 1;
        bool stream : 1;        /* the answer is wanted in parts */
        /* It is an exchange of HTTP, which is passed on as it is: there is no prompt, and the answer has a head. */
        bool is_exchange : 1;
        bool is_light : 1;      /* it takes no place: GET, HEAD, OPTIONS and tunnels */
        bool demands : 1;       /* it loads an idle model, and keeps it loaded: all but GET, HEAD and OPTIONS */
        bool repeats : 1;       /* it may be sent again when nothing of its answer was delivered */
        bool resent : 1;        /* it was sent again: no more, and not on a connection that was kept */
        /* These are for who owns the inference, not for the session. */
        bool started : 1;       /* it is with the model */
        bool parked : 1;        /* it waits, and a successor would find it */
        bool unheld : 1;        /* it waits, and a successor would find that, but not the request: --max-parked */
        bool noted : 1;         /* it was printed and counted as one that goes to the model */
        bool lost : 1;          /* its connection broke, and what became of the model is not known yet */
        bool spent : 1;         /* that was so when it had been sent twice */
        bool suspect : 1;       /* the model crashed while it was in flight: it goes alone */
        char text[];            /* the ID, then the prompt */
};

static inline const char *inference_id(const struct inference *inference) {
        return inference->text;
}

static inline const char *inference_prompt(const struct inference *inference) {
        return inference->text + inference->id_len;
}

/* How an inference has ended. */
enum ending {
        ENDING_COMPLETE,
        ENDING_FAILED,
        /* The others: nothing of an answer was delivered, and it may be sent again if it `repeats`. */
        ENDING_LOST,            /* the connection broke: the model may be lost */
        ENDING_REFUSED,         /* nothing was sent: no connection could be made. The model may be lost */
        ENDING_UNSENT,          /* nothing was sent: the model had closed the connection, which was kept */
        ENDING_STALE,           /* a connection that was kept was closed by the model soon after the request was sent on it */
        ENDING_UNAVAILABLE,     /* it answered 503; `retry_after` seconds, or UINT64_MAX */
};

struct answer_end {
        enum ending how;
        const char *text;       /* COMPLETE: the rest of the answer, of a prompt; otherwise why, with a NUL behind it */
        size_t len;
        uint64_t retry_after;
};

/* What a session tells its lane, in the worker's thread. */
struct session_events {
        /* Perhaps from within model_infer(). The session does not touch the inference again. */
        void (*ended)(struct session_events *events, struct inference *inference, const struct answer_end *end);
        /* After MODEL_BUSY: another inference may have room. */
        void (*room)(struct session_events *events);
};

/* How a model that was ready came to be none. */
enum loss {
        LOSS_NONE,
        LOSS_CRASHED,           /* its process ended: with an exit status, or by a signal of its own making, such as SIGSEGV */
        LOSS_KILLED,            /* its process was ended by SIGKILL or SIGTERM from outside */
        LOSS_OUT_OF_MEMORY,     /* the same by the kernel, which had no memory left */
        LOSS_FROZEN,            /* it did nothing for its requests any more, and was ended for that */
        LOSS_UNREACHABLE,       /* it is a server that was not started here, and does not answer any more */
};

/* How a model tells what happens to it, from the main reactor, never from within a function called here. */
struct load_events {
        /* A load ends in one of these. */
        void (*ready)(struct load_events *events, const char *name);
        void (*failed)(struct load_events *events, const char *reason);
        /* One that was ready is none any more. */
        void (*lost)(struct load_events *events, enum loss how, const char *reason);
        /* One that was suspected is not lost. */
        void (*alive)(struct load_events *events);
        /* Processes of it, here in words, that do not end: they hold the next load, or the stop. Once a minute. */
        void (*held)(struct load_events *events, const char *processes);
        /* What model_stop() began has ended. */
        void (*stopped)(struct load_events *events);
        /* Its process wrote a line, here without LF. */
        void (*said)(struct load_events *events, bool error, const char *line, size_t len);
        /* What a probe saw of it, other than the one before. */
        void (*probed)(struct load_events *events, const char *result);
        /* What an administrator should know of it. */
        void (*warned)(struct load_events *events, const char *warning);
        /* It reports its progress (or NULL), or that it needs `extend` nanoseconds more (or 0). */
        void (*reported)(struct load_events *events, const char *status, uint64_t extend);
};

struct model {
        const struct model_ops *ops;
};

/* What one worker has with a model. */
struct model_session {
        struct model *model;
};

/* What a session needs of its worker; borrowed, and outlives it. */
struct session_place {
        struct reactor *reactor;
        struct socket_group *sockets;
        struct session_events *events;
};

enum {
        MODEL_BUSY = 1,         /* no connection can be made for now: `room` says when */
};

struct model_ops {
        const char *name;
        bool needs_prompt;      /* a request without one is none */
        void (*free)(struct model *model);
        int (*load)(struct model *model, struct reactor *reactor, struct generation *generation, struct load_events *events);
        bool (*progressed)(struct model *model);
        void (*measure)(struct model *model, struct progress *progress);
        void (*unload)(struct model *model);
        bool (*stop)(struct model *model, struct load_events *events);
        void (*last_words)(struct model *model, char *text, size_t size);
        void (*suspect)(struct model *model);
        int (*session_new)(struct model *model, const struct session_place *place, struct model_session **session);
        void (*session_free)(struct model_session *session);
        void (*session_follow)(struct model_session *session, const struct generation *generation);
        int (*infer)(struct model_session *session, struct inference *inference);
        void (*pause)(struct model_session *session, struct inference *inference, bool paused);
        size_t (*send)(struct model_session *session, struct inference *inference, const char *data, size_t len);
        void (*finish)(struct model_session *session, struct inference *inference);
        void (*cancel)(struct model_session *session, struct inference *inference);
};

/* NULL is taken, and returned. Its sessions are gone before. */
static inline struct model *model_free(struct model *model) {
        if (model)
                model->ops->free(model);
        return NULL;
}

/*
 * Begins to load `generation`, which outlives the load; where it is, is written there before `ready`. `events` hears how that
 * ends. Returns 0 or -errno, and then `events` hears nothing.
 */
static inline int model_load(struct model *model, struct reactor *reactor, struct generation *generation,
                             struct load_events *events) {
        return model->ops->load(model, reactor, generation, events);
}

/* Whether the load that is under way has come further since it began, or since this was asked last. */
static inline bool model_progressed(struct model *model) {
        return model->ops->progressed(model);
}

/* Tells how far the load that is under way is, as far as that can be seen from outside. */
static inline void model_measure(struct model *model, struct progress *progress) {
        if (model->ops->measure)
                model->ops->measure(model, progress);
}

/* Ends what there is, a load that is under way too: its events are not called. */
static inline void model_unload(struct model *model) {
        model->ops->unload(model);
}

/* The same for good. Returns whether there is something to wait for, until `stopped`. */
static inline bool model_stop(struct model *model, struct load_events *events) {
        return model->ops->stop && model->ops->stop(model, events);
}

/* A few lines of what its process wrote last, printable, each with an LF: the one that names the cause of a failure comes first. */
#define MODEL_LAST_WORDS_MAX 2048
static inline void model_last_words(struct model *model, char text[static MODEL_LAST_WORDS_MAX]) {
        text[0] = '\0';
        if (model->ops->last_words)
                model->ops->last_words(model, text, MODEL_LAST_WORDS_MAX);
}

/* An inference was lost: if the model is ready it is probed, and the events say `lost` or `alive`. Harmless while it is probed. */
static inline void model_suspect(struct model *model) {
        if (model->ops->suspect)
                model->ops->suspect(model);
}

/* Returns 0 or -errno. */
static inline int model_session_new(struct model *model, const struct session_place *place, struct model_session **session) {
        return model->ops->session_new(model, place, session);
}

/* NULL is taken, and returned. What it still runs is forgotten without a word. */
static inline struct model_session *model_session_free(struct model_session *session) {
        if (session)
                session->model->ops->session_free(session);
        return NULL;
}

/*
 * From now on inferences are with `generation`, whose gate is open. Those in flight go on where they are. What is needed of
 * the generation is copied: it need not outlive them.
 */
static inline void model_session_follow(struct model_session *session, const struct generation *generation) {
        session->model->ops->session_follow(session, generation);
}

/*
 * Runs the model of the generation that is followed. The inference is the caller's and stays where it is until it has ended.
 * Returns 0; MODEL_BUSY or -errno, and then no event comes for it.
 */
static inline int model_infer(struct model_session *session, struct inference *inference) {
        return session->model->ops->infer(session, inference);
}

/* No part of the answer is wanted for now, or they are again. One may still come while this is called, to go on. */
static inline void model_pause(struct model_session *session, struct inference *inference, bool paused) {
        if (session->model->ops->pause)
                session->model->ops->pause(session, inference, paused);
}

/* Of a tunnel: sends this to the model. Returns how much is unsent: when it is much, wait for `sent` of the recipient. */
static inline size_t model_send(struct model_session *session, struct inference *inference, const char *data, size_t len) {
        return session->model->ops->send(session, inference, data, len);
}

/* Of a tunnel: nothing more is sent to the model, which sees the end. */
static inline void model_finish(struct model_session *session, struct inference *inference) {
        session->model->ops->finish(session, inference);
}

/* Ends an inference that has not ended yet: no event comes for it any more. */
static inline void model_cancel(struct model_session *session, struct inference *inference) {
        session->model->ops->cancel(session, inference);
}
