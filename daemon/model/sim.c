#include "daemon/model/sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/protocol.h"
#include "common/util.h"
#include "daemon/model/generation.h"
#include "daemon/model/openai.h"

struct sim {
        struct model model;
        struct sim_options options;
        struct timer loading;
        struct load_events *load_events;
};

/* All inferences take the same time, so they end in the order in which they began: a queue, and a timer for its head. */
struct entry {
        uint64_t due;
        struct inference *inference;    /* NULL: cancelled */
};

struct sim_session {
        struct model_session session;
        struct reactor *reactor;
        struct session_events *events;
        struct timer timer;
        struct job more;
        char name[PROTOCOL_MODEL_MAX];  /* what answers carry: it outlives the generation that had it */
        struct entry *queue;            /* a ring: entry i is at i modulo `size`, a power of two */
        uint64_t head;
        uint64_t tail;
        uint64_t size;
};

#define QUEUE_SIZE_MIN 64

/* So many answers at the most in one turn: other connections get theirs in between. */
#define ANSWER_BATCH 4096

static struct sim *sim_of(struct model *model) {
        return container_of(model, struct sim, model);
}

static struct sim_session *sim_session_of(struct model_session *session) {
        return container_of(session, struct sim_session, session);
}

static void sim_loaded(struct timer *timer) {
        struct sim *sim = container_of(timer, struct sim, loading);

        if (sim->options.failure)
                sim->load_events->failed(sim->load_events, sim->options.failure);
        else
                sim->load_events->ready(sim->load_events, sim->options.name);
}

static int sim_load(struct model *model, struct reactor *reactor, struct generation *generation, struct load_events *events) {
        struct sim *sim = sim_of(model);

        (void)generation;
        sim->load_events = events;
        reactor_set_timer(reactor, &sim->loading, timer_now() + sim->options.load_time);
        return 0;
}

/* A clock comes further by itself. */
static bool sim_progressed(struct model *model) {
        (void)model;
        return true;
}

static void sim_unload(struct model *model) {
        timer_clear(&sim_of(model)->loading);
}

static void sim_free(struct model *model) {
        sim_unload(model);
        free(sim_of(model));
}

static void sim_end(struct sim_session *session, struct inference *inference, enum ending how, const char *text, size_t len) {
        const struct answer_end end = { .how = how, .text = text, .len = len };

        session->events->ended(session->events, inference, &end);
}

static const struct exchange *exchange_of(struct inference *inference) {
        return inference->recipient->ops->exchange(inference->recipient, inference);
}

static void sim_part(struct inference *inference, const char *data, size_t len) {
        inference->recipient->ops->part(inference->recipient, inference, data, len);
}

/* As an inference server answers over HTTP. */
static void sim_answer_exchange(struct sim_session *session, struct inference *inference, const char *text) {
        const struct exchange *exchange = exchange_of(inference);
        struct openai_answer answer;

        if (openai_answer(&answer, exchange, inference_id(inference), inference->id_len, session->name, text) < 0) {
                sim_end(session, inference, ENDING_FAILED, strerror(ENOMEM), 0);
                return;
        }
        inference->recipient->ops->head(inference->recipient, inference, &(struct answer_head){ &answer.answer, answer.head });
        if (!exchange->request->is_head)
                sim_part(inference, answer.body, answer.body_len);
        openai_answer_deinit(&answer);
        sim_end(session, inference, ENDING_COMPLETE, "", 0);
}

static void sim_answer(struct sim_session *session, struct inference *inference) {
        static const char before[] = "Response ", between[] = " from ";
        char answer[sizeof(before) + PROTOCOL_ID_MAX + sizeof(between) + PROTOCOL_MODEL_MAX];
        size_t name_len = strlen(session->name), n = 0;

        memcpy(answer, before, sizeof(before) - 1);
        n += sizeof(before) - 1;
        memcpy(answer + n, inference_id(inference), inference->id_len);
        n += inference->id_len;
        memcpy(answer + n, between, sizeof(between) - 1);
        n += sizeof(between) - 1;
        memcpy(answer + n, session->name, name_len);
        n += name_len;

        if (inference->is_exchange) {
                answer[n] = '\0';
                sim_answer_exchange(session, inference, answer);
                return;
        }
        if (!inference->stream) {
                sim_end(session, inference, ENDING_COMPLETE, answer, n);
                return;
        }
        /* Word by word, each with the space before it, as the tokens of most models come. */
        for (size_t begin = 0, end; begin < n; begin = end) {
                for (end = begin + 1; end < n && answer[end] != ' '; end++)
                        ;
                sim_part(inference, answer + begin, end - begin);
        }
        sim_end(session, inference, ENDING_COMPLETE, "", 0);
}

static struct entry *sim_entry(struct sim_session *session, uint64_t i) {
        return &session->queue[i & (session->size - 1)];
}

static int sim_grow(struct sim_session *session) {
        uint64_t size = MAX(session->size * 2, (uint64_t)QUEUE_SIZE_MIN);
        struct entry *queue = calloc(size, sizeof(*queue));

        if (!queue)
                return -ENOMEM;
        for (uint64_t i = session->head; i < session->tail; i++)
                queue[i & (size - 1)] = *sim_entry(session, i);
        free(session->queue);
        session->queue = queue;
        session->size = size;
        return 0;
}

static void sim_follow(struct model_session *base, const struct generation *generation) {
        struct sim_session *session = sim_session_of(base);

        snprintf(session->name, sizeof(session->name), "%s", generation->model);
}

static int sim_infer(struct model_session *base, struct inference *inference) {
        struct sim_session *session = sim_session_of(base);
        uint64_t time = sim_of(base->model)->options.inference_time;
        int r;

        if (time == 0 || (inference->is_exchange && !openai_is_inference(exchange_of(inference)))) {
                sim_answer(session, inference);
                return 0;
        }
        if (session->tail - session->head == session->size) {
                r = sim_grow(session);
                if (r < 0)
                        return r;
        }
        *sim_entry(session, session->tail) = (struct entry){ reactor_now(session->reactor) + time, inference };
        inference->handle = session->tail++;
        if (!timer_is_set(&session->timer))
                reactor_set_timer(session->reactor, &session->timer, sim_entry(session, session->head)->due);
        return 0;
}

static void sim_cancel(struct model_session *base, struct inference *inference) {
        sim_entry(sim_session_of(base), inference->handle)->inference = NULL;
}

/* Answers what is due, in portions. What the queue held at its largest is given back once it is empty. */
static void sim_work(struct sim_session *session) {
        uint64_t now = reactor_now(session->reactor);
        unsigned n = 0;

        for (; session->head < session->tail; session->head++) {
                struct entry *entry = sim_entry(session, session->head);

                if (entry->inference) {
                        if (entry->due > now) {
                                reactor_set_timer(session->reactor, &session->timer, entry->due);
                                return;
                        }
                        if (n++ == ANSWER_BATCH) {
                                reactor_queue(session->reactor, &session->more);
                                return;
                        }
                        sim_answer(session, STEAL_POINTER(entry->inference));
                }
        }
        free(STEAL_POINTER(session->queue));
        session->size = 0;
}

static void sim_due(struct timer *timer) {
        sim_work(container_of(timer, struct sim_session, timer));
}

static void sim_more(struct job *job) {
        sim_work(container_of(job, struct sim_session, more));
}

static int sim_session_new(struct model *model, const struct session_place *place, struct model_session **sessionp) {
        struct sim_session *session = calloc(1, sizeof(*session));

        if (!session)
                return -ENOMEM;
        session->session.model = model;
        session->reactor = place->reactor;
        session->events = place->events;
        timer_init(&session->timer, sim_due);
        job_init(&session->more, sim_more);
        *sessionp = &session->session;
        return 0;
}

static void sim_session_free(struct model_session *base) {
        struct sim_session *session = sim_session_of(base);

        timer_clear(&session->timer);
        job_cancel(&session->more);
        free(session->queue);
        free(session);
}

static const struct model_ops sim_ops = {
        .name = "sim",
        .free = sim_free,
        .load = sim_load,
        .progressed = sim_progressed,
        .unload = sim_unload,
        .session_new = sim_session_new,
        .session_free = sim_session_free,
        .session_follow = sim_follow,
        .infer = sim_infer,
        .cancel = sim_cancel,
};

int sim_new(struct model **modelp, const struct sim_options *options) {
        struct sim *sim = calloc(1, sizeof(*sim));

        if (!sim)
                return -ENOMEM;
        sim->model.ops = &sim_ops;
        sim->options = *options;
        timer_init(&sim->loading, sim_loaded);
        *modelp = &sim->model;
        return 0;
}
