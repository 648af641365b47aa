#pragma once

/*
 * The fields of a request of HTTP: whether they are well-formed, what they say of the request, and which of them are passed
 * on. They are libmicrohttpd's, and stay.
 */

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>

/* More fields of the name Connection nobody needs. */
#define FIELDS_CONNECTION_MAX 8

struct fields {
        const char *connections[FIELDS_CONNECTION_MAX];
        size_t connection_count;
        const char *host;               /* NULL: there is none; so of the others */
        const char *request_id;
        const char *expect;
        size_t hosts;                   /* how many there are */
        size_t lengths;
        size_t encodings;
        bool chunked;
        bool malformed;                 /* one of them is */
        /* While they are passed on: how many, what they need as lines, and where the next one goes. */
        size_t count;
        size_t size;
        char *at;
        const char **lines;
};

/* Looks at all of them. */
void fields_read(struct fields *fields, struct MHD_Connection *connection);

/*
 * Those that go on to the model server, as lines of struct exchange: in `lines`, `count` of them. Host is made of `host`, if
 * that is not empty, and `via` is added. Returns the memory of it all, for the caller to free(), or NULL: out of memory.
 */
char *fields_pass_on(struct fields *fields, struct MHD_Connection *connection, const char *host, size_t host_len,
                     const char *via, const char *const **lines, size_t *count);

/* A name of a field, or of a method: RFC 9110, 5.6.2. */
bool fields_is_token(const char *text);

/* Whether these are a host and perhaps a port: RFC 3986, 3.2, without a user. */
bool fields_is_authority(const char *text, size_t len);

/* Whether it concerns one connection alone, or is made anew: RFC 9110, 7.6.1 and 8.6. */
bool fields_is_hop_by_hop(const char *name);

/* Whether `name` is one of those in the comma-separated `list`. */
bool fields_is_listed(const char *list, const char *name);
