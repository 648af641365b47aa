#pragma once

/*
 * An HTTP client as a test needs it: sends any bytes, reads answers with a deadline, and takes nothing for an answer
 * that is none. What does not come, and what is malformed, fails the test.
 */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/support/process.h"
#include "tests/support/text.h"

enum http_framing {
        HTTP_EMPTY,             /* an answer that has no body */
        HTTP_LENGTH,
        HTTP_CHUNKED,
        HTTP_CLOSE,             /* the body goes up to the end of the connection */
};

struct http {
        int fd;
        struct text input;      /* what is not taken yet */
        bool ended;             /* the other side has closed */
        bool bodiless;          /* the next answer is one to HEAD */

        /* The answer that is read. */
        unsigned status;
        struct text head;       /* its fields, "Name: value" each, with a NUL behind each */
        enum http_framing framing;
        uint64_t left;          /* HTTP_LENGTH: so much of the body is still to come */
        struct text body;       /* what has come of it */
        bool whole;             /* it is all there */
};

#define HTTP_NULL { .fd = -1 }

#define HTTP_ADDRESS_MAX 128

/* Waits until msd has said so often that it listens for HTTP, and writes where it does the last of these times. */
void http_listening(struct process *msd, unsigned times, char address[static HTTP_ADDRESS_MAX]);

/* Connects to `address`: unix:PATH, V4:PORT or [V6]:PORT. */
void http_connect(struct http *http, const char *address);
/* The same, or returns -errno. */
int http_try_connect(struct http *http, const char *address);
/* Takes a connection that is there. */
void http_init(struct http *http, int fd);
void http_close(struct http *http);

/* Sends, and takes up what comes meanwhile. */
void http_send_bytes(struct http *http, const void *data, size_t n);
void http_send(struct http *http, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same, as far as the other side lets. Returns whether all was sent. */
bool http_offer(struct http *http, const void *data, size_t n);

/* Sends a request without a body, and one with a body of JSON. */
void http_ask(struct http *http, const char *method, const char *path);
void http_post(struct http *http, const char *path, const char *json);

/* Ends this side of the connection. */
void http_finish(struct http *http);

/* Waits for the head of the next answer. Returns whether there is one: false at the end of the connection. */
bool http_head(struct http *http);
/* The same if one came by now or until `deadline`. */
bool http_head_until(struct http *http, uint64_t deadline);

/* Behind http_head(): waits until the body has `text`; until it is whole, or the connection is cut. */
void http_wait_body(struct http *http, const char *text);
void http_end(struct http *http);

/* Waits for the whole of the next answer: it is to come. */
void http_next(struct http *http);

/* The next answer has this status, and, unless that is NULL, this body. */
void http_expect(struct http *http, unsigned status, const char *body);
/* It is an error of msd's own, with this code and this message; NULL: any. */
void http_expect_error(struct http *http, unsigned status, const char *code, const char *message);
/* The connection ends here. */
void http_expect_end(struct http *http);
/* Nothing comes for so long, and it does not end. */
void http_expect_silence(struct http *http, uint64_t nsec);

/* The value of a field of the answer, NULL if it has none; how often it is there. */
const char *http_field(const struct http *http, const char *name);
unsigned http_count_field(const struct http *http, const char *name);

/* The body as JSON, for json_decref(). */
json_t *http_json(const struct http *http);

/*
 * The same for fields that are kept as `head` keeps them. http_add_fields() adds those of a head, whose lines are `len`
 * bytes from `lines` on, each with its end; one that RFC 9112 does not have fails the test.
 */
void http_add_fields(struct text *fields, const char *lines, size_t len);
const char *http_find_field(const struct text *fields, const char *name);
unsigned http_count_fields(const struct text *fields, const char *name);    /* NULL: all */

/* Reads once what has come; for those who wait for several connections at once. */
void http_read(struct http *http);
