#pragma once

/*
 * Brings a generation to ready or failed: attempts, back-off and deadlines. In the main thread.
 */

#include <stdbool.h>

#include "daemon/model/generation.h"

struct loader;

struct loader_options {
        unsigned attempts;
        uint64_t timeout;       /* nanoseconds for all attempts together; 0: none */
        uint64_t stall_timeout; /* nanoseconds of an attempt without progress; 0: none */
};

struct loader {
        struct reactor *reactor;
        struct model *model;
        struct generation *generation;  /* the one that is loaded */
        struct loader_options options;
        struct load_events events;
        struct timer deadline;
        struct timer stall;
        struct timer back_off;
        unsigned attempt;       /* that is under way or follows; beyond `attempts`: none follows */
        unsigned setbacks;      /* attempts in a row that have failed, and models that have ended too early: how long to pause */
        uint64_t ready_at;
        bool loading;
        char setback[1024];     /* why the model ended too early; empty: it did not */
        char probe[256];        /* what the last probe saw; empty: nothing yet */
        /*
         * An attempt begins; `error` is why the one before failed, or NULL. `pause` nanoseconds until then. The first one of a
         * generation comes without an error and a pause.
         */
        void (*attempting)(struct loader *loader, unsigned attempt, const char *error, uint64_t pause);
        /* There was progress: it may go on for another `stall_timeout`. */
        void (*progressing)(struct loader *loader);
        void (*ready)(struct loader *loader, const char *name);
        /* `error`: an errno of the same kind as the reason. */
        void (*failed)(struct loader *loader, int error, const char *reason);
        /* Whether requests were in flight when the model crashed: one of them may be to blame, and the model is not. NULL: no. */
        bool (*is_excused)(struct loader *loader);
        /* The rest is what struct load_events has. After `lost` the next loader_start() knows of it. */
        void (*lost)(struct loader *loader, enum loss how, const char *reason);
        void (*alive)(struct loader *loader);
        void (*held)(struct loader *loader, const char *processes);
        void (*stopped)(struct loader *loader);
        void (*said)(struct loader *loader, bool error, const char *line, size_t len);
        void (*probed)(struct loader *loader, const char *result);
        void (*warned)(struct loader *loader, const char *warning);
        void (*reported)(struct loader *loader, const char *status, uint64_t extend);
};

/* `reactor` and `model` are borrowed. The functions are for the caller to set, before loader_start(). */
void loader_init(struct loader *loader, struct reactor *reactor, struct model *model,
                 const struct loader_options *options);

/*
 * Begins to load `generation`, which is borrowed until the load has ended: `ready` or `failed` says how it ended, once, perhaps
 * from within. A model that was lost within a minute of becoming ready counts as a failed attempt: the next one follows after a
 * pause, or none does.
 */
void loader_start(struct loader *loader, struct generation *generation);

/* Ends a load that is under way, and hears nothing of it any more. Harmless otherwise. */
void loader_stop(struct loader *loader);
