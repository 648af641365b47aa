#pragma once

/*
 * HTTP/1.1 messages: heads are checked, and written anew as they go on; bodies are taken out of their framing. Around llhttp
 * in strict mode (RFC 9110, RFC 9112). Pure: no I/O; nothing is allocated.
 *
 * A head is parsed once, when all of it is there. What is found in it is told as offsets into its bytes, so that the bytes may
 * be moved, and kept as they came.
 */

#include <llhttp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The longest head, of a request or of an answer, with the empty line that ends it, and the number of its fields. */
#define HTTP_HEAD_MAX 65536
#define HTTP_FIELDS_MAX 256

/* No Content-Length; the body of an answer ends with its connection, or is chunked. */
#define HTTP_LENGTH_UNKNOWN UINT64_MAX

/* A piece of a head. */
struct http_span {
        uint32_t at;
        uint32_t len;           /* 0: there is none */
};

/* The head of a request. Its method stands at its begin. */
struct http_request {
        uint32_t len;           /* with the empty line */
        uint32_t fields_at;     /* where the first field begins */
        struct http_span target;        /* the path and the query: begins with '/', or is "*"; of an absolute form without a path */
                                        /* it is empty or begins with '?', and "/" is written before it */
        struct http_span host;          /* of an absolute form that of the target: RFC 9112, 3.2.2 */
        struct http_span id;            /* X-Request-Id */
        struct http_span authorization;
        struct http_span origin;
        uint64_t content_length;        /* HTTP_LENGTH_UNKNOWN: the head has none */
        uint8_t method_len;
        bool is_http_1_0 : 1;
        bool keep_alive : 1;            /* the connection may be used again */
        bool chunked : 1;
        bool expects_continue : 1;
        bool is_head : 1;               /* HEAD */
        bool is_upgrade : 1;            /* Upgrade: websocket, and Connection says so too */
        bool is_preflight : 1;          /* OPTIONS with Access-Control-Request-Method */
        bool accepts_events : 1;        /* Accept has text/event-stream */
        bool has_options : 1;           /* Connection names fields: each is looked for before one is passed on */
};

/* The head of an answer. */
struct http_answer {
        uint32_t len;
        uint32_t fields_at;
        struct http_span reason;
        uint64_t content_length;        /* HTTP_LENGTH_UNKNOWN: the head has none */
        uint64_t retry_after;           /* seconds; UINT64_MAX: none; UINT64_MAX - 1: a date, or more */
        uint16_t status;
        bool is_http_1_0 : 1;
        bool keep_alive : 1;
        bool chunked : 1;
        bool is_upgrade : 1;            /* 101, and Upgrade is websocket */
        bool is_event_stream : 1;       /* Content-Type: text/event-stream */
        bool has_options : 1;
};

enum http_parsed {
        HTTP_PARTIAL = 0,       /* the head is not all there */
        HTTP_WHOLE = 1,
        HTTP_REFUSED = 2,       /* see the refusal */
};

/* Why a head, or a body, is not taken: the status of the answer, and a sentence that says what is wrong, and the way out. */
struct http_refusal {
        unsigned status;        /* 400, 405, 413, 417, 431, 501, 505 */
        const char *message;
};

/*
 * Looks for the head of a request at the begin of `data`. Empty lines before it are skipped by the caller beforehand, with
 * http_skip_empty_lines(). `seen`: so many bytes were looked at by a call before, which said HTTP_PARTIAL; 0 is always right.
 * Never blocks, reads nothing behind `len`. Returns one of enum http_parsed: HTTP_REFUSED as soon as it is certain.
 */
enum http_parsed http_parse_request(struct http_request *request, const char *data, size_t len, size_t seen,
                                    struct http_refusal *refusal);

/* The same for an answer, to a request that was HEAD or not; a 1xx other than 101 is a head of its own, without a body. */
enum http_parsed http_parse_answer(struct http_answer *answer, const char *data, size_t len, size_t seen,
                                   struct http_refusal *refusal);

/* How many bytes of empty lines `data` begins with: RFC 9112, 2.2. At most `len`. */
size_t http_skip_empty_lines(const char *data, size_t len);

/* A field of a head that was parsed. */
struct http_field {
        const char *name;
        const char *value;      /* without white space around it */
        uint32_t name_len;
        uint32_t value_len;
};

/*
 * The fields of a head that was parsed, one by one: `*at` is `fields_at` of the head at first, and moves on. Returns false
 * behind the last.
 */
bool http_next_field(const char *head, uint32_t *at, struct http_field *field);

/* Whether the name of the field is `name`, whatever the case. */
bool http_field_is(const struct http_field *field, const char *name);

/*
 * Whether a field is for one connection alone, or is made anew, and so is not passed on: RFC 9110, 7.6.1, and Content-Length.
 * `has_options` as in the head, whose fields begin at `fields_at` of `head`: fields that Connection names are such too.
 */
bool http_is_hop_by_hop(const char *head, uint32_t fields_at, bool has_options, const struct http_field *field);

/* How a request goes on. */
struct http_forwarding {
        const char *prefix;             /* stands before every path; "" : nothing */
        const char *host;               /* the Host field; NULL: the client's own */
        uint64_t content_length;        /* of the body that follows; HTTP_LENGTH_UNKNOWN: no Content-Length */
        bool drops_accept_encoding;
};

/* Room that is enough for http_forward_request(), and for http_forward_answer() with `extra_len` bytes of fields. */
size_t http_forward_request_max(const struct http_request *request, const struct http_forwarding *forwarding);
size_t http_forward_answer_max(const struct http_answer *answer, size_t extra_len);

/*
 * Writes the head of `request`, whose bytes are at `head`, as it goes on to the model: the method, the target and the fields
 * as they came and in their order, but for those that are hop-by-hop, Host, which comes first, and Expect; with Via, and
 * with the framing that `forwarding` says. Of an upgrade, Connection and Upgrade are passed on. Returns its length.
 */
size_t http_forward_request(char *to, const struct http_request *request, const char *head,
                            const struct http_forwarding *forwarding);

/* How the body of an answer goes on to the client. */
enum http_framing {
        HTTP_FRAMING_NONE,      /* no body, and nothing said of it: 1xx, 204, 304 */
        HTTP_FRAMING_LENGTH,    /* Content-Length as it came; for HEAD and 304 it may say it of a body that does not come */
        HTTP_FRAMING_CHUNKED,
        HTTP_FRAMING_CLOSE,     /* up to the end of the connection */
};

/*
 * Writes the head of `answer` likewise, as HTTP/1.1: `extra`, whole lines, stands behind its fields; those of its fields whose
 * name is `dropped` (NULL: none) are left out. `close`: with Connection: close; `keep_alive`: with Connection: keep-alive,
 * for clients of HTTP/1.0. Returns its length.
 */
struct http_answering {
        enum http_framing framing;
        bool close;
        bool keep_alive;
        const char *dropped;
        const char *extra;
        size_t extra_len;
};
size_t http_forward_answer(char *to, const struct http_answer *answer, const char *head,
                           const struct http_answering *answering);

/* How a body comes. */
enum http_body_kind {
        HTTP_BODY_NONE,
        HTTP_BODY_LENGTH,
        HTTP_BODY_CHUNKED,
        HTTP_BODY_CLOSE,
};

struct http_body {
        enum http_body_kind kind;
        bool done;
        bool has_name;          /* HTTP_BODY_CHUNKED: the name of a trailer has begun */
        char last;              /* HTTP_BODY_CHUNKED: the last byte that was taken */
        uint64_t left;          /* HTTP_BODY_LENGTH: bytes that are still to come; HTTP_BODY_CHUNKED: bytes of framing since */
                                /* the last byte of the body */
        llhttp_t parser;        /* HTTP_BODY_CHUNKED */
};

/* The body of a request, and of an answer (RFC 9112, 6.3); `done` if there is none. */
void http_body_of_request(struct http_body *body, const struct http_request *request);
void http_body_of_answer(struct http_body *body, const struct http_answer *answer, bool to_head);

/*
 * Takes what belongs to the body of the `*len` bytes at `data`: `*len` becomes how many these were. What they say, without
 * chunk framing, extensions and trailers, is then at the begin of `data`, in place: so many bytes are returned. `body->done`
 * tells whether the body is whole. Returns -EBADMSG when they are malformed; what was before is lost then.
 */
ssize_t http_body_take(struct http_body *body, char *data, size_t *len);

/* The end of the connection: returns whether the body is whole by that. */
bool http_body_end(struct http_body *body);

/* Writes the line before a chunk of `len` bytes; CRLF stands behind the chunk. Returns its length. */
#define HTTP_CHUNK_HEAD_MAX 18
size_t http_chunk_head(char to[static HTTP_CHUNK_HEAD_MAX], uint64_t len);
#define HTTP_CHUNK_END "0\r\n\r\n"

/* Whether these bytes are a method, or the name of a field: RFC 9110, 5.6.2. */
bool http_is_token(const char *text, size_t len);

/* The words for a status of msd's own answers. */
const char *http_reason(unsigned status);
