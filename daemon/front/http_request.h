#pragma once

/*
 * One request of HTTP, and what is answered to it: by the model, as it comes, or by msd itself. For daemon/front/http alone.
 */

#include <microhttpd.h>

#include "daemon/front/http.h"

struct http_client {
        struct watch watch;                     /* for its hang-up alone: what it sends is libmicrohttpd's to read */
        struct http *http;
        struct http_request *request;           /* that it is at; NULL: none */
        struct list hung_up;                    /* while it is to be seen whether libmicrohttpd knows */
        bool is_unix;
        bool has_hung_up;                       /* its input has ended */
        bool gone;
};

struct http_request {
        struct request_owner owner;
        struct list link;
        struct list attention;
        struct list kept;
        struct list resumed;
        struct http_client *client;
        struct MHD_Connection *connection;
        char *target;                           /* as it came */
        const char *path;                       /* within it: without what an absolute one begins with, */
        const char *authority;                  /* which is this; or NULL */
        size_t authority_len;
        struct exchange exchange;
        char *fields;                           /* what the exchange's point into */
        char *body;
        size_t body_len;
        size_t body_size;                       /* counts as held */
        uint64_t discarded;
        struct MHD_Response *response;          /* until it is queued */
        unsigned status;
        char *buffer;                           /* for all of the answer, the response's; NULL: it comes piece by piece */
        size_t buffer_len;
        size_t filled;
        char *output;                           /* [start, end) is still to be sent */
        size_t output_start;
        size_t output_end;
        size_t output_size;
        bool begun : 1;
        bool is_http_1_0 : 1;
        bool whole : 1;                         /* all of it has come */
        bool too_large : 1;
        bool overloaded : 1;
        bool streams : 1;                       /* its body says so; known when it waits */
        bool suspended : 1;
        bool queued : 1;                        /* the response is libmicrohttpd's */
        bool ended : 1;                         /* nothing more comes of the answer */
        bool cut : 1;                           /* and it is not whole */
        bool paused : 1;
        bool commented : 1;                     /* the answer was begun before there was one */
        bool answering : 1;                     /* then it is the model's */
        bool collects : 1;                      /* what the model says is no stream, but why there is none */
};

/* Of a connection that libmicrohttpd is to look at: so many seconds are more than it takes to come to that. */
#define HTTP_TIMEOUT 86400U

extern const struct request_ops http_request_ops;

static inline struct http *http_of(const struct http_request *request) {
        return request->client->http;
}

/* Seconds after which a client may try again: a load may be over soon; one that has failed was tried already. */
#define HTTP_RETRY_SOON "1"
#define HTTP_RETRY_LATER "10"

/* There is something to say, or the client has gone: http_request_attend() at the end of the turn. */
void http_request_attend_later(struct http_request *request);

/* Hands on what there is to say, and has libmicrohttpd go on with it. */
void http_request_attend(struct http_request *request);

/* libmicrohttpd has looked at it: it is as every other again. */
void http_request_looked_at(struct http_request *request);

/* Lets the client have the response that was made for it. */
void http_request_queue_response(struct http_request *request);
void http_request_drop_response(struct http_request *request);

/* An answer of msd's own, of `len` bytes at `text`, which are copied; and a field of it. `type` may be NULL. */
void http_request_reply(struct http_request *request, unsigned status, const char *type, const char *text, size_t len);
void http_request_reply_field(struct http_request *request, const char *name, const char *value);

/* The error object that clients of the OpenAI interface show; with what the protocol's codes are in HTTP, or what is said. */
void http_request_reply_error(struct http_request *request, enum protocol_code code, const char *message);
void http_request_reply_failure(struct http_request *request, unsigned status, const char *code, const char *message);

/* Of the front: one timer for all streams that wait. The first comment comes sooner, further ones every so often. */
void http_comments_due(struct timer *timer);

/* Whether no answer that begins now leaves its connection open. */
bool http_is_stopping(const struct http *http);
