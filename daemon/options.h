#pragma once

/*
 * The command line of msd, msd(8): arguments to one value. Prints nothing and ends nothing.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which sign of readiness of a real model counts. */
enum ready {
        READY_ANY,
        READY_NOTIFY,
        READY_LINE,
        READY_PROBE,
        READY_NOT_GIVEN,        /* only while the arguments are read */
};

/* Who may listen at the address of a real model after its command was started. */
enum upstream_owner {
        UPSTREAM_OWNER_CHILD,
        UPSTREAM_OWNER_ANY,
};

enum on_load_failure {
        ON_LOAD_FAILURE_EXIT,
        ON_LOAD_FAILURE_STAY,
};

/* When the first load begins. */
enum load_when {
        LOAD_AT_START,
        LOAD_ON_DEMAND,
};

/* --http may be given so often. */
#define OPTIONS_HTTP_MAX 8

struct options {
        const char *socket;             /* into the arguments, as are all strings; NULL: nobody says */
        const char *http[OPTIONS_HTTP_MAX];
        uint64_t http_count;
        const char *agent_check;        /* NULL: nobody says */
        const char *model;              /* NULL: nobody says */
        const char *load_failure;
        const char *upstream;           /* NULL: the model is simulated */
        const char *health_path;
        const char *ready_line;
        const char *warmup;
        const char *completion_path;
        const char *completion_options;
        const char *upstream_host;      /* NULL: the client's own */
        const char *upstream_key_file;
        const char *http_key_file;
        const char *cors_origin;
        char *const *command;           /* up to NULL; NULL: there is none */
        uint64_t load_time;             /* all times in nanoseconds */
        uint64_t inference_time;
        uint64_t load_timeout;          /* 0: none */
        uint64_t stall_timeout;         /* 0: none */
        uint64_t request_timeout;       /* 0: none */
        uint64_t drain_timeout;
        uint64_t stop_timeout;
        uint64_t stream_keepalive;      /* 0: none */
        uint64_t json_keepalive;        /* 0: none */
        uint64_t head_timeout;          /* 0: none */
        uint64_t client_idle_timeout;   /* 0: none */
        uint64_t idle_timeout;          /* 0: never */
        uint64_t exit_idle_time;        /* 0: never */
        uint64_t load_attempts;
        uint64_t max_tokens;            /* 0: nobody says */
        uint64_t threads;               /* 0: one a processor, at most 8 */
        uint64_t max_waiting;
        uint64_t max_inflight;          /* 0: any number */
        uint64_t max_connections;       /* 0: as many as the descriptors allow */
        uint64_t max_prompt;
        uint64_t max_body;
        uint64_t max_prompt_memory;
        uint64_t max_parked;
        uint64_t freeze_timeout;        /* 0: none */
        enum on_load_failure on_load_failure;
        enum load_when load;
        enum ready ready;
        enum upstream_owner upstream_owner;
        bool quiet;
};

enum {
        OPTIONS_HELP = 1,
        OPTIONS_VERSION,
        OPTIONS_WRONG,
};

/*
 * Reads the arguments into `options`, which need not be initialised. getopt_long(3) keeps state of its own, so
 * this is for one thread at a time; it may reorder `argv`.
 * Returns 0, OPTIONS_HELP, OPTIONS_VERSION, or OPTIONS_WRONG with what is wrong in `error`.
 */
int options_parse(struct options *options, int argc, char **argv, char *error, size_t error_size);

/* The text of --help. */
extern const char options_help[];
