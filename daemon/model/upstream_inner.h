#pragma once

/*
 * What the sources of a real model, daemon/model/upstream*.c, share among themselves; the sessions are apart.
 *
 *      upstream.c      loads, stops, and what its process does
 *      upstream_probe  whether it is ready; what the last probe saw
 *      upstream_judge  whether it is lost: suspicions, and a freeze
 *      upstream_place  where it listens: that nobody else does
 */

#include <regex.h>

#include "daemon/loop/mailbox.h"
#include "daemon/model/child.h"
#include "daemon/model/completion.h"
#include "daemon/model/fetch.h"
#include "daemon/model/freeze.h"
#include "daemon/model/look.h"
#include "daemon/model/upstream.h"
#include "daemon/model/upstream_session.h"

enum upstream_phase {
        PHASE_NONE,
        PHASE_AWAITING_END,  /* of the process before, to start the next */
        PHASE_CLEARING,      /* it is looked whether somebody else listens at its address */
        PHASE_LOADING,       /* nobody has said yet that it is ready */
        PHASE_WARMING,       /* it has to answer first */
        PHASE_NAMING,
        PHASE_READY,
        PHASE_CHECKING,      /* it is ready, and was said not to be */
        PHASE_ENDING,        /* it is being ended, for `verdict` */
        PHASE_STOPPING,
};

struct upstream {
        struct model model;
        struct upstream_options options;
        struct target target;
        regex_t ready_line;
        struct child child;
        struct reactor *reactor;
        struct load_events *events;
        struct generation *generation;  /* borrowed: that of the load, or the one that is ready */
        enum upstream_phase phase;
        char start_error[256];
        bool stirred;                   /* something was heard of it since that was asked last */
        struct freeze_sample load_sample; /* when it was asked last whether the load comes further */
        struct look look;
        uint64_t oom_kills;             /* of the kernel, when its process was started */

        /* Probes. */
        struct fetcher fetcher;
        struct fetch probe;
        struct timer probe_timer;
        uint64_t probe_pause;           /* until the next one, while it is suspected, or refuses them */
        struct text answer;
        char *warmup;
        char result[256];               /* of the last probe; empty: none yet */
        uint64_t result_since;
        uint64_t warned_at;             /* when a result was last said in the log; 0: never */
        bool result_said;
        bool refuses_probes;            /* with 4xx: the path is not there, or not for msd */

        /* Suspicions and freezes. */
        struct upstream_watch watch;    /* over the sessions of all workers */
        struct timer freeze_timer;
        struct freeze freeze;
        uint64_t said;                  /* lines of its output */
        unsigned suspicions;            /* of the generation, when the probe began that is to tell */
        uint64_t heard;                 /* bytes of answers, when that was looked at last */
        uint64_t failing_since;         /* probes have failed since, and nothing was in flight */
        char verdict[384];
        bool resting;                   /* nothing was in flight when it was looked at last */
        bool keeps_child;               /* the next load goes on with the process that there is */
        bool place_unseen_said;
};

static inline struct upstream *upstream_of(struct model *model) {
        return container_of(model, struct upstream, model);
}

static inline bool upstream_is_up(const struct upstream *upstream) {
        return upstream->phase == PHASE_READY || upstream->phase == PHASE_CHECKING;
}

/* Whether the process that msd started is the server, by whose doings it is judged. */
static inline bool upstream_is_own(const struct upstream *upstream) {
        return upstream->options.command && !upstream->options.any_owner;
}

/* upstream.c */

const char *upstream_program(const struct upstream *upstream);

/* The load that is under way has failed. */
void upstream_failed(struct upstream *upstream, const char *reason);

/* The generation is over. */
void upstream_lost(struct upstream *upstream, enum loss how, const char *reason);

/* Nobody else listens at its address: the command is run. */
void upstream_start_child(struct upstream *upstream);

/* upstream_probe.c */

void upstream_probe_init(struct upstream *upstream);
void upstream_probe_after(struct upstream *upstream, uint64_t nsec);
void upstream_probe_cancel(struct upstream *upstream);

/* It says of itself that it is ready. Nothing if it is not expected to. */
void upstream_said_ready(struct upstream *upstream);

/* upstream_judge.c */

void upstream_judge_init(struct upstream *upstream);

/* For the mailbox of the watch: the first request is in flight. */
void upstream_work_begins(struct mailbox *mailbox, unsigned messages);

/* For struct model_ops. */
void upstream_suspect(struct model *model);
bool upstream_progressed(struct model *model);

/* The generation is ready: what was sampled before was of another one. */
void upstream_judge_ready(struct upstream *upstream);

/* A probe begins, and has ended, of one that is suspected; `status` 0: there was no answer, or `refused` not even a connection. */
void upstream_check_begins(struct upstream *upstream);
void upstream_checked(struct upstream *upstream, unsigned status, bool refused);

/* upstream_place.c */

/* Starts the command, after it was looked whether somebody else listens at its address. */
void upstream_clear_place(struct upstream *upstream);

/* Removes the socket file that the server has left there. */
void upstream_leave_place(struct upstream *upstream);

/* What came of looking: `accepts`, somebody took the connection. */
void upstream_place_probed(struct upstream *upstream, bool accepts);

/*
 * Whether the server listens at `endpoint`, and nobody else. Returns false with who does in `reason`; what cannot be seen passes,
 * and is said once.
 */
bool upstream_place_is_own(struct upstream *upstream, const struct endpoint *endpoint, char *reason, size_t size);
