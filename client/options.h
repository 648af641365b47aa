#pragma once

/*
 * The command line of mscli, mscli(1): arguments and environment to one value. Prints nothing, opens nothing
 * and ends nothing.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/address.h"

/* The commands. */
#define OPTIONS_COMMANDS(X)    \
        X(REQUEST, "request")  \
        X(STATUS, "status")    \
        X(WAIT, "wait")        \
        X(LOAD, "load")        \
        X(SHUTDOWN, "shutdown")

enum command {
#define X(command, name) COMMAND_##command,
        OPTIONS_COMMANDS(X)
#undef X
        COMMAND_COUNT
};

const char *command_name(enum command command);

/* What stands for standard input, among the IDs and as the prompt's file. */
#define OPTIONS_STDIN "-"

struct options {
        enum command command;
        char *const *ids;               /* each is valid, or OPTIONS_STDIN; all strings are the arguments' */
        size_t ids_count;
        const char *prompt;             /* NULL: none is given as text */
        const char *prompt_file;        /* or OPTIONS_STDIN; NULL: none is given as a file */
        bool stream;
        bool json;
        uint64_t timeout;               /* nanoseconds; 0: none */
        char path[ADDRESS_PATH_MAX];    /* the socket */
        const char *fallback;           /* the socket if there is none at `path`; static, or NULL */
};

enum {
        OPTIONS_HELP = 1,
        OPTIONS_VERSION,
        OPTIONS_WRONG,
};

/*
 * Reads the arguments into `options`, which need not be initialised, and completes them from `environment`.
 * getopt_long(3) keeps state of its own, so this is for one thread at a time; it may reorder `argv`, which
 * `options` then points into.
 * Returns 0, OPTIONS_HELP, OPTIONS_VERSION, or OPTIONS_WRONG with what is wrong in `error`.
 */
int options_parse(struct options *options, const struct address_environment *environment, int argc,
                  char **argv, char *error, size_t error_size);

/* Says in `error` what is wrong with an ID that protocol_id_valid() refuses. */
void options_refuse_id(const char *id, size_t len, char *error, size_t error_size);

/* The text of --help. */
extern const char options_help[];
