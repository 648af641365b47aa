#pragma once

/*
 * The least that a model server can be, in a process of its own: it reads requests whole and gives the same bytes to each,
 * over TCP at the loopback. What goes wrong here ends the program.
 */

#include <stdint.h>
#include <sys/types.h>

/* The body of its answers. */
#define MODEL_BODY 1024

/* Events of each stream, a second. */
#define MODEL_EVENTS 20

enum model_mode {
        MODEL_ANSWERS,          /* at once */
        MODEL_HOLDS,            /* GET is answered 503, others are held up to model_release() */
        MODEL_STREAMS,          /* events, without an end */
};

struct model_shared;

struct model {
        pid_t pid;
        uint16_t port;
        int release_fd;
        struct model_shared *shared;
};

#define MODEL_NULL { .release_fd = -1 }

/*
 * Starts it. MODEL_STREAMS: the events begin when there are `streams` requests, evenly spread over time. Each is a chunk and
 * a `data:` line with the time at which it left, as 16 digits behind MODEL_STAMP, and ends with an empty line.
 */
#define MODEL_STAMP "\"at\":\""
void model_start(struct model *model, enum model_mode mode, unsigned streams);

/* Harmless for one that was not started, or was stopped. */
void model_stop(struct model *model);

/* How many requests are held. */
unsigned model_held(const struct model *model);

/* Answers those that are held; from now on it is ready, and answers at once. */
void model_release(struct model *model);
