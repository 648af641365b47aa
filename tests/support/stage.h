#pragma once

/*
 * An msd between a client and a model server, both of which are the test itself: what most tests of the HTTP front need.
 */

#include "tests/support/front.h"
#include "tests/support/raw.h"

struct stage {
        struct front front;
        struct raw raw;
        struct raw_request request;     /* the last that msd sent */
        struct http http;               /* a client */
};

/* The model server listens; msd is not started yet. */
void stage_init(struct stage *stage);
void stage_deinit(struct stage *stage);

/* Starts msd with these options up to NULL, and connects the client; and until msd has found the model ready. */
void stage_start(struct stage *stage, const char *const *options);
void stage_start_ready(struct stage *stage, const char *const *options);

/* Waits for the next request of msd's. */
void stage_take(struct stage *stage);

/* Asks, and waits until this has come to the model server. */
void stage_ask(struct stage *stage, const char *method, const char *path);
void stage_post(struct stage *stage, const char *path, const char *json);

/* msd has sent nothing more up to now, or until something comes at the client. */
void stage_expect_no_request(struct stage *stage);

/*
 * The model server goes: its listening socket and its connections are closed, and connecting to it is refused. It is back,
 * where it was.
 */
void stage_go(struct stage *stage);
void stage_return(struct stage *stage);

/* Takes probes until msd is in this generation. */
void stage_wait_generation(struct stage *stage, uint64_t generation);

/* The value of a line of /proc/PID/status, such as VmRSS or VmHWM, in bytes. */
uint64_t stage_memory(const struct process *process, const char *name);

/* Whether it was built with a sanitizer, which has memory of its own. */
bool stage_has_sanitizer(const struct process *process);

/*
 * The next answer is an error of msd's own with this status, whose message names this option (NULL: any). It is the only
 * answer, and the connection ends behind it.
 */
void stage_expect_refusal(struct http *http, unsigned status, const char *option);
