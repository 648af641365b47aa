#pragma once

/*
 * The object that STATUS answers with: parse it, and say it to people.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct status {
        char status[16];
        char model[128];        /* empty: none */
        char error[512];        /* empty: none */
        char last_words[2048];  /* lines, each with an LF */
        char version[32];
        uint64_t generation;
        uint64_t attempt;
        uint64_t load;          /* all times in nanoseconds */
        double progress;        /* of the load, 0 to 1; negative: not known */
        int64_t eta;            /* until it is expected to end; negative: not known */
        uint64_t waiting;
        uint64_t oldest_wait;
        uint64_t processing;
        uint64_t suspects;
        uint64_t completed;
        uint64_t failed;
        uint64_t cancelled;
        uint64_t connections;
        uint64_t uptime;
        uint64_t pid;
};

enum {
        STATUS_MALFORMED = 1,
};

/*
 * Reads the `len` bytes of JSON at `text`. A member that is missing or of another type is 0 or empty, but for
 * `status`; texts are cut to their room, and made printable.
 * Returns 0, STATUS_MALFORMED or -ENOMEM.
 */
int status_parse(const char *text, size_t len, struct status *status);

/*
 * Says it in a few lines, each with its end, into `buffer`. For a terminal of `columns` columns, a bar shows how far a load is;
 * 0: for no terminal. Returns their length.
 */
#define STATUS_TEXT_MAX 6144
size_t status_format(char buffer[static STATUS_TEXT_MAX], const struct status *status, size_t columns, bool colour);
