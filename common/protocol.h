#pragma once

/*
 * The words of the request protocol, msd-protocol(7): parse and format, both directions.
 * Pure: no I/O, no allocation. A line is what stands before its LF; see common/line.h.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/line.h"

#define PROTOCOL_ID_MAX 64
#define PROTOCOL_NO_ID "-"

/* The longest name of a model, with its final NUL. */
#define PROTOCOL_MODEL_MAX 256

/* What msd answers to WAIT, and to the administrator's commands. */
#define PROTOCOL_READY "ready"
#define PROTOCOL_LOADING "loading"
#define PROTOCOL_STOPPING "stopping"

/* The commands. */
#define PROTOCOL_VERBS(X)  \
        X(REQUEST)         \
        X(STREAM)          \
        X(STATUS)          \
        X(WAIT)            \
        X(LOAD)            \
        X(SHUTDOWN)

enum protocol_verb {
#define X(verb) PROTOCOL_##verb,
        PROTOCOL_VERBS(X)
#undef X
        PROTOCOL_VERB_COUNT
};

/* The codes of ERR. */
#define PROTOCOL_CODES(X)                             \
        X(BAD_REQUEST, "bad-request")                 \
        X(TOO_LARGE, "too-large")                     \
        X(QUEUE_FULL, "queue-full")                   \
        X(LOAD_FAILED, "load-failed")                 \
        X(SHUTTING_DOWN, "shutting-down")             \
        X(TIMED_OUT, "timed-out")                     \
        X(INFERENCE_FAILED, "inference-failed")       \
        X(MODEL_NOT_LOADED, "model-not-loaded")       \
        X(NOT_PERMITTED, "not-permitted")

enum protocol_code {
#define X(code, name) PROTOCOL_##code,
        PROTOCOL_CODES(X)
#undef X
        PROTOCOL_CODE_COUNT
};

#define PROTOCOL_SHUTTING_DOWN_MESSAGE "Server is shutting down"

const char *protocol_verb_name(enum protocol_verb verb);
const char *protocol_code_name(enum protocol_code code);

struct protocol_command {
        enum protocol_verb verb;
        const char *id;         /* into the line; NULL where there is none, or none could be read */
        size_t id_len;
        bool has_prompt;        /* `length` bytes of prompt follow the line */
        uint64_t length;        /* UINT64_MAX stands for any number that is larger */
        const char *fault;      /* on PROTOCOL_MALFORMED: what is wrong with the line */
};

enum {
        PROTOCOL_MALFORMED = 1,
};

/*
 * Reads one line from a client.
 * Returns 0, or PROTOCOL_MALFORMED: then `fault` says why, and `id` is set if one could be read.
 */
int protocol_parse_command(const char *line, size_t len, struct protocol_command *command);

enum protocol_reply_type {
        PROTOCOL_OK,
        PROTOCOL_PART,
        PROTOCOL_ERR,
};

struct protocol_reply {
        enum protocol_reply_type type;
        const char *id;         /* into the line; PROTOCOL_NO_ID for a command without one */
        size_t id_len;
        uint64_t length;        /* OK, PART: so many bytes of body follow the line */
        const char *code;       /* ERR: into the line, opaque: a server newer than its client may have more of them */
        size_t code_len;
        const char *message;    /* ERR: into the line */
        size_t message_len;
};

/* Reads one line from the server. Returns 0 or PROTOCOL_MALFORMED. */
int protocol_parse_reply(const char *line, size_t len, struct protocol_reply *reply);

/* Whether these bytes may be an ID. */
bool protocol_id_valid(const char *id, size_t len);

/* Room for `STREAM <id> <length>` or `PART <id> <length>`, and the LF. */
#define PROTOCOL_HEAD_MAX (sizeof("REQUEST ") + PROTOCOL_ID_MAX + sizeof(" 18446744073709551615\n"))

/*
 * Writes the line of a command, with its LF, and returns its length; the prompt and its LF are for the caller to
 * send. `id` is NULL for a command that has none; `has_prompt` as in struct protocol_command.
 */
size_t protocol_format_command(char buffer[static PROTOCOL_HEAD_MAX], enum protocol_verb verb, const char *id,
                               size_t id_len, bool has_prompt, uint64_t length);

/*
 * Writes the line before a body (`type` is PROTOCOL_OK or PROTOCOL_PART), with its LF, and returns its length.
 * `id_len` 0 stands for PROTOCOL_NO_ID.
 */
size_t protocol_format_head(char buffer[static PROTOCOL_HEAD_MAX], enum protocol_reply_type type, const char *id,
                            size_t id_len, uint64_t length);

/*
 * Writes an ERR line, with its LF, and returns its length. The message is made printable, and cut so that the line has
 * LINE_MAX_LENGTH. `id_len` 0 stands for PROTOCOL_NO_ID.
 */
#define PROTOCOL_ERROR_MAX (LINE_MAX_LENGTH + 1)
size_t protocol_format_error(char buffer[static PROTOCOL_ERROR_MAX], const char *id, size_t id_len,
                             enum protocol_code code, const char *message);
