#pragma once

/*
 * A real model: an HTTP inference server with the OpenAI interface, that is started and watched here, or found running.
 */

#include "daemon/model/child.h"
#include "daemon/model/model.h"

/* Which sign of readiness counts. */
enum upstream_ready {
        UPSTREAM_READY_ANY,
        UPSTREAM_READY_NOTIFY,
        UPSTREAM_READY_LINE,
        UPSTREAM_READY_PROBE,
};

struct upstream_options {
        const char *url;                /* all strings are borrowed; http://HOST:PORT or unix:PATH */
        char *const *command;           /* NULL: it runs already, and is not ours to start */
        struct child_options child;
        const char *model;              /* NULL: its own name for it */
        const char *health_path;
        const char *ready_line;         /* a regular expression (regex(7)), or NULL */
        const char *warmup;             /* a prompt, or NULL */
        const char *completion_path;
        const char *completion_options; /* a JSON object, or NULL */
        uint64_t max_tokens;            /* 0: as many as the upstream wants */
        uint64_t max_connections;       /* to it, of one session; 0: any number */
        uint64_t max_idle;              /* those of them that are kept while they are idle; 0: any number */
        const char *host;               /* the Host field; NULL: the client's own */
        enum upstream_ready ready;
        bool any_owner;                 /* who listens there need not be what the command has started */
        uint64_t freeze_timeout;        /* nanoseconds without a sign of life after which it is lost; 0: never */
        const char *key;                /* a bearer key for msd's own requests, or NULL */
};

/*
 * Checks what only this backend can, for the command line. Returns 0, or -EINVAL or -ENOMEM with what is wrong in
 * `error`.
 */
int upstream_check(const struct upstream_options *options, char *error, size_t size);

/* A model that is not loaded. Returns 0 or -ENOMEM, or -EINVAL for what upstream_check() refuses. */
int upstream_new(struct model **model, const struct upstream_options *options);
