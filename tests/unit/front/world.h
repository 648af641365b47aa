#pragma once

/*
 * What the unit tests of the HTTP front share: a worker without a thread, whose time stands still, clients in the same
 * process, and a model whose answers the test gives.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/front/http.h"
#include "tests/support/unit.h"

#define HOST "Host: msd\r\n"
#define GET "GET /x HTTP/1.1\r\n" HOST "\r\n"
#define POST(fields, body) "POST /v1/completions HTTP/1.1\r\n" HOST fields "\r\n" body

#define RUNNING_MAX 4

struct model_state {
        struct inference *running[RUNNING_MAX];
        unsigned count;
        unsigned cancelled;
        bool paused;
        char sent[1024];                /* by the client of a tunnel */
        size_t sent_len;
        size_t unsent;
        bool finished;
};

extern struct model_state model_state;
extern struct reactor reactor;
extern struct gate stop;
extern struct generation *generation;
extern struct request_limits limits;
extern struct lane lane;
extern struct status status;
extern struct http_group group;
extern struct http http;
extern uint64_t now;
extern unsigned ended, flushed;         /* connections that have ended, and how often one had sent everything */

void setup(void);
void teardown(void);

/* The front begins, after the options of `group` are set; with a model that loads, or is ready. */
void begin(void);
void begin_ready(void);

/* Some turns that do not wait; the same when so much time has passed. */
void turn(void);
void pass(uint64_t nsec);

/* A client of the front; what it says, and what it has heard since it was asked last, without Date. */
int connect_client(void);
void say(int fd, const char *text);
const char *heard(int fd);
void expect_status(int fd, unsigned code);
bool is_closed(int fd);

/* The oldest request that the model has; its answer. */
const struct exchange *asked(void);
void answer_head(const char *text);
void answer_part(const char *text);
void answer_end(enum ending how);
