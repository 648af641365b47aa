#pragma once

/*
 * All that one client is going to say, and what it has to hear. Pure: no I/O.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/soak/chance.h"

/* The limit that the daemons have, --max-prompt and --max-body. */
#define SCRIPT_PROMPT_MAX 262144

enum command_kind {
        COMMAND_REQUEST,        /* the daemon accepts it, and counts it */
        COMMAND_REFUSED,        /* it is too long to be accepted */
        COMMAND_OTHER,          /* it has no ID: a status, a wait, a load, what is no command; over HTTP msd's own paths */
};

/* What a prompt asks of the tests' model server. */
enum fault {
        FAULT_NONE,
        FAULT_STATUS,
        FAULT_GARBAGE,
        FAULT_CUT,
        FAULT_DIE,
        FAULT_HANG,
        FAULT_COUNT
};

struct command {
        size_t end;             /* where it ends in the script */
        uint32_t prompt;        /* the length of it; with FAULT_NONE alone */
        uint32_t received;      /* so much of the answer was there, and was right */
        enum command_kind kind : 8;
        enum fault fault : 8;
        bool stream;
        bool chat;
        bool ends;              /* over HTTP: the connection is closed behind the answer */
        bool switches;          /* over HTTP: a tunnel follows, whose bytes are the next command */
        bool answered;
        uint16_t status;        /* over HTTP: of the answer to what is no request; 0: the model's state decides */
};

struct script {
        char *bytes;
        size_t len;
        size_t size;
        struct command *commands;
        size_t count;
        size_t room;
        uint64_t serial;        /* the client's, in each ID */
        bool echoes;            /* the model is the tests' server, not simulated */
};

void script_init(struct script *script, uint64_t serial, bool echoes);
void script_deinit(struct script *script);

/* Over the request socket. Without a prompt (a simulated model alone needs none): SCRIPT_NO_PROMPT. */
#define SCRIPT_NO_PROMPT UINT32_MAX
void script_request(struct script *script, uint32_t prompt, bool stream, enum fault fault);
void script_other(struct script *script, const char *line);
void script_wrong(struct script *script, struct chance *chance);

/* Over HTTP. */
enum form {
        FORM_LENGTH,            /* the body has a Content-Length */
        FORM_CHUNKED,
        FORM_OLD,               /* HTTP/1.0 */
        FORM_OLD_KEPT,          /* with "Connection: keep-alive" */
};
struct post {
        uint32_t prompt;
        bool stream;
        bool chat;
        enum fault fault;
        enum form form;
};
/* Returns whether the connection goes on behind it. */
bool script_post(struct script *script, struct chance *chance, const struct post *post);
void script_get(struct script *script, struct chance *chance);
void script_post_wrong(struct script *script);

/* A WebSocket, and so many bytes through it. */
void script_switch(struct script *script, uint32_t bytes);

/* What comes back through it: whether the `len` bytes at `data` are what comes next. */
bool script_take_back(struct script *script, size_t command, const char *data, size_t len);

/* Drops what stands behind the first `count` commands. */
void script_cut(struct script *script, size_t count);

/*
 * Whether the `len` bytes at `data` are what comes next of the answer to this command; then they are taken. And whether
 * that was all of it.
 */
bool script_take(struct script *script, size_t command, const char *data, size_t len);
bool script_is_whole(const struct script *script, size_t command);

/* The command that has this ID, or -1. */
long script_find(const struct script *script, const char *id, size_t len);
