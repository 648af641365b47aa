#pragma once

/*
 * What the sources of the model server, daemon/server*.c, share among themselves.
 *
 *      server.c        start, stop, and the order of both; what the workers ask for
 *      server_signals  what a user or a service manager asks for
 *      server_load     generations: how a load goes, in the main thread
 *      server_idle     stopping a model that is not needed, and msd itself
 *      server_progress how far a load is, and when it will end
 *      server_status   the status line
 *      server_limits   threads, descriptors, connections
 */

#include "common/util.h"
#include <sys/resource.h>

#include "daemon/server.h"

/* What the workers' threads tell the main thread. */
enum {
        MESSAGE_LOAD = 1 << 0,
        MESSAGE_SHUTDOWN = 1 << 1,
        MESSAGE_DRAINED = 1 << 2,
        MESSAGE_PULSED = 1 << 3,
        MESSAGE_CHANGED = 1 << 4,
        MESSAGE_SUSPECT = 1 << 5,
        MESSAGE_FAILED = 1 << 6,
        MESSAGE_NEEDED = 1 << 7,
        MESSAGE_CLEARED = 1 << 8,
};

/* What a turn of all workers is for. */
enum {
        TURN_PULSE = 1 << 0,
        TURN_REST = 1 << 1,
        TURN_EXIT = 1 << 2,
        TURN_OPEN = 1 << 3,
};

/* Nothing that is about to end by itself is to be ended by the service manager at the same moment. */
#define EXTEND_MARGIN (10 * NSEC_PER_SEC)

static inline struct model_server *server_of(struct queue *queue) {
        return container_of(queue, struct model_server, queue);
}

static inline struct generation *server_generation(struct model_server *server) {
        return queue_generation(&server->queue);
}

/* server.c */

/* Asks all workers for a turn that begins from here on; what it is for goes on when each has had one. */
void server_ask_turn(struct model_server *server, unsigned what);

/* server_signals.c */

/* Returns 0 or -errno. */
int server_watch_signals(struct model_server *server);

/* server_load.c */

/* The next generation, whose gate is pending: `idle`, or for a load that the caller begins. Returns 0 or -errno. */
int server_begin_generation(struct model_server *server, bool idle);

/* A request needs the model: the load begins if the generation was idle. */
void server_load_needed(struct model_server *server);

/* Frees the generations before `oldest`: no worker looks at those any more. */
void server_free_generations(struct model_server *server, unsigned oldest);

/* After gate_open() or gate_fail() returned `r`: if its event could not be sent, the mailboxes say it. From any thread. */
void server_check_broadcast(struct model_server *server, int r);

/* After a crash: every worker knows which of its requests were lost with the model. The gate opens. */
void server_load_turned(struct model_server *server);

/* All requests that were in flight when the model crashed have been answered: the others go on. */
void server_suspects_cleared(struct model_server *server);

void server_init_loader(struct model_server *server, const struct loader_options *options);

/* server_idle.c */

/* The generation is idle: sets the situation, and the time after which msd may end. */
void server_idle_begin(struct model_server *server);

/* The model is ready: sets the time after which it may be stopped. */
void server_idle_ready(struct model_server *server);

/* The model may be stopped now, and is, when all workers have had a turn. */
void server_rest_due(struct timer *timer);
void server_rest_turned(struct model_server *server);

/* msd may end now, likewise. */
void server_exit_due(struct timer *timer);
void server_exit_turned(struct model_server *server);

/* server_progress.c */

void server_progress_init(struct model_server *server);
void server_progress_deinit(struct model_server *server);

/* An attempt begins, after a pause of so many nanoseconds. */
void server_progress_begin(struct model_server *server, uint64_t pause);

/* The server says how far it is; negative: it does not. */
void server_progress_hear(struct model_server *server, double fraction);

/* The load has succeeded, or is given up. Harmless without one. */
void server_progress_end(struct model_server *server, bool succeeded);

/* server_status.c */

/* What the model is called before it has a name of its own. */
const char *server_model_name(struct model_server *server);

/* What the status line says, but for the numbers. It is the caller's to send it. */
void server_set_situation(struct model_server *server, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Writes the status line into server->line: the situation, and how many requests it concerns. Returns it. */
const char *server_status_line(struct model_server *server);

/* For struct queue, from any thread: the status line is due, some time after the one before. */
void server_queue_changed(struct queue *queue);

/* The main thread has heard of it. */
void server_follow_later(struct model_server *server);
void server_follow_due(struct timer *timer);

/* server_limits.c */

unsigned server_count_threads(const struct options *options);

/* The limit of descriptors as msd was started with it: before it is raised. */
struct rlimit server_given_descriptors(void);

/* How many descriptors there may be: the limit, raised to its hard maximum. */
uint64_t server_limit_descriptors(void);

/* As many connections as the descriptors leave room for, besides `parking`; those to a real model need as many again. */
uint64_t server_limit_connections(const struct options *options, unsigned parking);
