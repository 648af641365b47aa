#pragma once

/*
 * The commands that ask one thing and get one answer: status, wait, load, shutdown.
 */

#include <stdbool.h>

#include "client/output.h"
#include "client/options.h"
#include "client/progress.h"
#include "client/session.h"

struct query {
        struct session_events events;
        struct output *output;
        enum command command;
        bool json;              /* status: print the object as it came */
        bool sent;
        bool failed;            /* it was answered with an error, which is printed */
        bool progress_on;
        struct progress progress;
};

/* `progress`: of `wait`, shows how far the load is, on standard error. */
void query_init(struct query *query, enum command command, bool json, struct output *output, bool progress);

/* As session_run(). */
int query_run(struct query *query, struct session *session);
