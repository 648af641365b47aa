#pragma once

/*
 * One client of HTTP, and its request. For the sources of the front, daemon/front/http*.c, alone.
 *
 * What its client sends is read into the buffer of the worker. A whole head is parsed there; what is incomplete is kept in
 * memory of the connection's own. A request to the model is one record of the lane: its ID, its head as it came, its body.
 */

#include "common/util.h"
#include "daemon/front/http.h"
#include "daemon/net/http.h"

/* Bytes of an answer that are held for a client that does not read them; below the lower limit more are taken. */
#define HTTP_OUTPUT_HIGH (256u << 10)
#define HTTP_OUTPUT_LOW (64u << 10)

/* Bytes behind a request that are held while it is under way. */
#define HTTP_KEPT_MAX 65536

/* Bytes of a refused request that are read and dropped, so that its client reads the answer; then the connection is cut. */
#define HTTP_DISCARD_MAX (64u << 20)

/* Bytes of an answer that is no stream, and is put into an event of one that has begun. */
#define HTTP_COLLECT_MAX 65536

enum http_state {
        HTTP_IDLE,              /* between requests, or a part of a head is there */
        HTTP_BODY,              /* the body is coming */
        HTTP_ASKED,             /* the request waits, or is with the model; or a client waits for the model */
        HTTP_ANSWERING,         /* and the head of the model's answer was sent */
        HTTP_TUNNEL,
        HTTP_CLOSING,           /* it ends when everything is sent */
        HTTP_DISCARDING,        /* its output has ended, and input is read and dropped until the client ends, too */
};

/* Which error object the clients of a path understand. */
enum http_shape {
        HTTP_SHAPE_OPENAI,
        HTTP_SHAPE_ANTHROPIC,
        HTTP_SHAPE_OLLAMA,
};

/* What an answer is that msd may begin before the model does. */
enum http_early {
        HTTP_EARLY_NONE,
        HTTP_EARLY_EVENTS,
        HTTP_EARLY_JSON,
};

/* Bytes that are not taken yet: [start, end). */
struct http_kept {
        uint32_t start;
        uint32_t end;
        uint32_t seen;                  /* those of them in which the end of a head was looked for already */
        uint32_t size;
        char data[];
};

/* A body of which a part is there. */
struct http_coming {
        struct http_body body;
        uint64_t decoded;               /* bytes of it without framing */
        uint64_t filled;                /* bytes of the record behind the ID; all of them count as held */
        uint64_t size;                  /* those that there is room for */
};

/* An answer that is no stream, while the client was told that one comes. */
struct http_collected {
        unsigned status;
        uint32_t len;
        char data[HTTP_COLLECT_MAX];
};

struct http_connection {
        struct socket socket;
        struct request_owner owner;
        struct http *http;
        struct list link;
        struct list delay_link;
        uint64_t delayed;               /* when the delay began, or was begun anew */
        struct guest guest;
        struct http_request head;       /* of the request that is coming or under way */
        struct request *record;         /* while a request is under way it is the lane's; NULL: none, or an observer */
        struct http_kept *kept;         /* NULL: none */
        union {
                struct http_coming *coming;             /* HTTP_BODY */
                struct http_collected *collected;       /* `collects`; NULL: out of memory */
                uint64_t left;                          /* HTTP_ANSWERING with a Content-Length; HTTP_DISCARDING */
        };
        uint64_t sent;                  /* when the request went to the model; 0: not yet */
        unsigned state : 3;             /* enum http_state */
        unsigned shape : 2;             /* enum http_shape */
        unsigned early : 2;             /* enum http_early */
        unsigned framing : 2;           /* enum http_framing, of the answer under way */
        unsigned delay : 3;             /* enum http_delay_kind */
        bool is_own : 1;                /* the request is for msd itself */
        bool has_body : 1;
        bool drops_accept_encoding : 1; /* of the request, on its way to the model */
        bool waited : 1;
        bool head_sent : 1;             /* of the final answer */
        bool began : 1;                 /* msd has sent it, before there was an answer */
        bool collects : 1;
        bool closes : 1;                /* the connection ends behind the answer */
        bool lingers : 1;               /* the client is still sending what was refused */
        bool resets : 1;                /* it is to see an error, not an end */
        bool paused_model : 1;          /* the client does not read what the model says */
        bool finished : 1;              /* of a tunnel: the client has ended */
        bool has_unsent : 1;            /* it counts in `unsent` of the front */
        bool parked_rest : 1;           /* a successor would find a part of a request */
        bool parked_busy : 1;           /* a successor would not take it over: what is on its way would be missing */
};

static inline struct http_connection *http_connection_of(struct request_owner *owner) {
        return container_of(owner, struct http_connection, owner);
}

static inline bool http_method_is(const struct http_connection *connection, const char *head, const char *method) {
        return connection->head.method_len == __builtin_strlen(method) &&
               __builtin_memcmp(head, method, connection->head.method_len) == 0;
}

static inline size_t http_kept_len(const struct http_connection *connection) {
        return connection->kept ? connection->kept->end - connection->kept->start : 0;
}

/* http.c: the connection. */

/* Serves `fd`, which is closed if that fails. Returns NULL then, and -errno in `error`. */
struct http_connection *http_connection_make(struct http *http, int fd, int *error);

/* Output: as in net/socket, and counted. */
char *http_room(struct http_connection *connection, size_t size);
void http_wrote(struct http_connection *connection, size_t n);
bool http_write(struct http_connection *connection, const void *data, size_t n);

/* Nothing is unsent that a daemon which is about to end would wait for. */
void http_note_sent(struct http_connection *connection);

/* Has the connection in the list of this delay, from now on; HTTP_DELAY_NONE: in none. */
void http_set_delay(struct http_connection *connection, enum http_delay_kind kind);

/* Whether its client does not hear an answer any more. */
bool http_client_is_gone(struct http_connection *connection);

/* The request was answered, as a whole or not: the next one, or the end of the connection. */
void http_answered(struct http_connection *connection, bool whole);

/* http_input.c: bytes to requests. */

/* Takes what has come: `data` may be in the buffer of the worker, and is overwritten. */
void http_take(struct http_connection *connection, char *data, size_t len);

/* Takes what is kept, as far as that can be done now. */
void http_take_kept(struct http_connection *connection);

/* Takes a request that is all there: its head, and behind that its body, out of its framing. */
void http_take_whole(struct http_connection *connection, const char *data, size_t len);

/* The text of its record behind the ID: the head, and what there is of the body. */
static inline char *http_record_text(const struct http_connection *connection) {
        return connection->record->inference.text + connection->record->inference.id_len;
}

/* Whether a request may begin now, or go on. */
bool http_takes(const struct http_connection *connection);

/* Frees what there is of a request that is still coming. */
void http_drop_request(struct http_connection *connection);

/* http_own.c: msd's own answers. */

struct http_reply {
        unsigned status;
        const char *type;               /* NULL: none */
        const char *text;
        size_t len;
        const char *fields;             /* more of them, as whole lines; NULL: none */
};

/* Writes the head of an answer of msd's own: `length` of its body may be HTTP_LENGTH_UNKNOWN. */
void http_write_head(struct http_connection *connection, const struct http_reply *reply, uint64_t length);

/* Answers the request. */
void http_reply(struct http_connection *connection, const struct http_reply *reply);

/* The error object, in the shape of the path; `fields` as above. */
void http_reply_failure(struct http_connection *connection, unsigned status, const char *code, const char *message,
                        const char *fields);
void http_reply_error(struct http_connection *connection, enum protocol_code code, const char *message);

/* The same for a request that is not all there: the connection ends, when its client has had time to read that. */
void http_refuse(struct http_connection *connection, unsigned status, const char *code, const char *message);
void http_refuse_error(struct http_connection *connection, enum protocol_code code, const char *message);
void http_refuse_memory(struct http_connection *connection);

/* The text of that object, for the caller to free(); NULL: out of memory. */
char *http_format_error(enum http_shape shape, unsigned status, const char *code, const char *message);

/* Sets what is known of the path of a request whose head has come. */
void http_classify(struct http_connection *connection, const char *head);

/* Whether the client may ask this: it has one of the keys, or needs none. */
bool http_is_permitted(const struct http_connection *connection, const char *head);

/* Answers a request that is all there, if that is for msd to do. Returns whether it did. */
bool http_answer_own(struct http_connection *connection, const char *head);

/* http_answer.c: what the model says. */

extern const struct request_ops http_request_ops;

/* Room for these fields: how long the request waited, and that the daemon stops. */
#define HTTP_EXTRA_MAX 128

/* A piece of the body of an answer whose head was sent; and the end of it. */
void http_write_part(struct http_connection *connection, const char *data, size_t len);
void http_end_answer(struct http_connection *connection);

/* Of a tunnel: what its client sends, and its end. */
void http_tunnel_input(struct http_connection *connection, const char *data, size_t len);
void http_tunnel_finish(struct http_connection *connection);

/* The client reads again, perhaps. */
void http_resume_model(struct http_connection *connection);

/* http_early.c: answers that msd begins. */

/* A request is about to go to the lane: what may be sent early. */
void http_early_prepare(struct http_connection *connection, const char *head, const char *body, size_t len);

/* The delay of a connection has passed: HTTP_DELAY_STREAM, HTTP_DELAY_JSON. */
void http_early_due(struct http_connection *connection);

/* The model's head, behind that of msd: its body follows, or is collected, to be put into what was begun. */
void http_early_head(struct http_connection *connection, const struct answer_head *head);
void http_early_collect(struct http_connection *connection, const char *data, size_t len);

/* Ends an answer that was begun: with what was collected, or with an error. */
void http_early_collected(struct http_connection *connection);
void http_early_failed(struct http_connection *connection, enum protocol_code code, const char *message);

/* http_parking.c: what a successor needs to know. Each does nothing for a connection that is not parked. */

void http_park_init(struct http_connection *connection);
void http_park_new(struct http_connection *connection);
void http_park_waiting(struct http_connection *connection, struct request *request);
/* The request is answered; or goes to the model. */
void http_park_answered(struct http_connection *connection, struct request *request);
void http_park_starting(struct http_connection *connection, struct request *request);
/* msd begins its answer; or one that it had begun has ended. */
void http_park_began(struct http_connection *connection);
/*
 * This has come, and is about to be taken. Returns how long the rest is if nothing is whole by that: for http_park_taken(),
 * which is due when as much as possible was taken.
 */
size_t http_park_input(struct http_connection *connection, const char *data, size_t len);
void http_park_taken(struct http_connection *connection, size_t expected);
void http_park_busy(struct http_connection *connection);
/* It is about to end. */
void http_park_end(struct http_connection *connection);
