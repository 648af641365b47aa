#pragma once

/*
 * A daemon under load: what it is started with, what it says of itself, and what the kernel says of it. What cannot be done
 * at all ends the program; what does not hold is noted with soak_wrong().
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/address.h"
#include "common/protocol.h"
#include "tests/soak/chance.h"

/* What clients are like. */
#define CHARACTERS(X)                                                             \
        X(PIPELINER, "pipelines, reads")                                          \
        X(STREAMER, "asks for streams")                                           \
        X(HALF_CLOSER, "half-closes")                                             \
        X(VANISHER, "vanishes")                                                   \
        X(SLOW, "a byte a second")                                                \
        X(DEAF, "does not read")                                                  \
        X(MILLION, "asks for a million")                                          \
        X(BIG, "prompts near the limit")                                          \
        X(ASKER, "status, wait, garbage")                                         \
        X(PASSER, "one request each")                                             \
        X(WEB_KEEPER, "HTTP: keeps alive")                                        \
        X(WEB_HALF_CLOSER, "HTTP: half-closes")                                   \
        X(WEB_VANISHER, "HTTP: vanishes")                                         \
        X(WEB_SLOW, "HTTP: a byte a second")                                      \
        X(WEB_LATE, "HTTP: a head too slow")                                      \
        X(WEB_DEAF, "HTTP: does not read")                                        \
        X(WEB_BIG, "HTTP: bodies near the limit")                                 \
        X(WEB_CHUNKER, "HTTP: bodies in chunks")                                  \
        X(WEB_OLD, "HTTP/1.0")                                                    \
        X(WEB_SOCKET, "HTTP: a WebSocket")                                        \
        X(SOAK, "the soak itself")

enum character {
#define X(character, name) CHARACTER_##character,
        CHARACTERS(X)
#undef X
        CHARACTER_COUNT
};
extern const char *const character_names[CHARACTER_COUNT];

/* What clients of one kind have seen. */
struct tally {
        uint64_t lives;
        uint64_t sent;                          /* requests that left as a whole */
        uint64_t answered;
        uint64_t errors[PROTOCOL_CODE_COUNT];
        uint64_t cut;                           /* answers over HTTP that ended early, as those of a model that died do */
        uint64_t left;                          /* without an answer, by a client that went */
        uint64_t refused;                       /* too long to be accepted, and told so */
        uint64_t others;                        /* answers to what is no request */
};
void tally_add(struct tally *sum, const struct tally *tally);
uint64_t tally_failed(const struct tally *tally);

/* What the daemon counts. */
struct account {
        uint64_t accepted;
        uint64_t completed;
        uint64_t failed;
        uint64_t cancelled;
        uint64_t waiting;
        uint64_t processing;
        uint64_t connections;
        uint64_t generation;
};

struct size {
        uint64_t descriptors;   /* but for those of clients, and those to its model server */
        uint64_t threads;
        uint64_t memory;        /* bytes that it has written to, and has not given back */
};

struct site {
        const char *name;
        bool echoes;
        pid_t pid;
        char socket[ADDRESS_PATH_MAX];
        char web_socket[ADDRESS_PATH_MAX];
        char log[ADDRESS_PATH_MAX];
        uint16_t web_port;
        uint16_t model_port;    /* 0: its model is simulated */
        int control;            /* a connection that is there all the time */
        bool sanitized;         /* its memory says nothing */
        uint64_t many;          /* requests has one of those that ask for a million together */
        uint64_t max_connections;
        uint64_t most_connections;      /* that a status told of */
        uint64_t slowest_status;        /* nanoseconds */
        uint64_t deaths;                /* of its model, by the soak's hand */
        struct tally tallies[CHARACTER_COUNT];
};

extern unsigned soak_wrongs;
void soak_wrong(const struct site *site, const char *format, ...) __attribute__((format(printf, 2, 3)));
void soak_fail(const char *what) __attribute__((noreturn));

/* Starts msd in `directory`, with these arguments up to NULL behind those that each has. */
void site_start(struct site *site, const char *msd, const char *directory, const char *const *arguments);

/* Ends it, in good order: it has to end with 0. */
void site_stop(struct site *site);

/* Ends it at once, with its model. Harmless for one that does not run. */
void site_kill(struct site *site);

struct tally site_sum(const struct site *site);

/* Asks for the status. */
void site_status(struct site *site, struct account *account);

/* The same, from the counters for Prometheus. */
void site_metrics(struct site *site, struct account *account);

/* Kills its model, if it has one. */
void site_kill_model(struct site *site);

/* As an administrator does, for whom there is nothing to do unless loading has failed. Returns whether the model is ready. */
bool site_load(struct site *site);

/* Waits until nothing waits or is with the model, and it has `connections` clients: the soak's own one is among them. */
void site_wait_until_idle(struct site *site, uint64_t connections);

/*
 * The same, and then kills its model, and has each worker ask the next one something: then each has a connection to that, and
 * none to the one before.
 */
void site_settle(struct site *site, uint64_t connections);

void site_measure(struct site *site, struct size *size);
