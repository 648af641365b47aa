#pragma once

/*
 * What the tests of the HTTP front share: an msd with a socket for HTTP, and what clients of the OpenAI interface ask it.
 */

#include "tests/support/daemon.h"
#include "tests/support/http.h"
#include "tests/support/served.h"

struct front {
        char directory[SUITE_PATH_MAX];
        char address[HTTP_ADDRESS_MAX];         /* where msd listens for HTTP: a Unix socket */
        char upstream[SUITE_PATH_MAX + 32];     /* where a model server may: another */
        struct daemon msd;
};

void front_init(struct front *front);
void front_deinit(struct front *front);

/* Where in `address` or `upstream` the path begins. */
static inline const char *front_path(const char *address) {
        return address + sizeof("unix:") - 1;
}

/* Starts msd with --http `address` and these options up to NULL, and waits until it listens; or until its model is ready. */
void front_start(struct front *front, const char *const *options);
void front_start_ready(struct front *front, const char *const *options);

/* The same with the tests' own model server, which has these options up to NULL. */
void front_start_server(struct front *front, const struct process_setup *with, const char *const *options,
                        const char *const *of_server);

/* Asks for the status until `done` says so of it; until so many wait. */
void front_wait(struct front *front, bool (*done)(const struct peer_status *status, uint64_t number), uint64_t number,
                const char *what);
void front_wait_waiting(struct front *front, uint64_t number);

/* Connects, and asks; http_close() is due. */
void front_ask(struct front *front, struct http *http, const char *method, const char *path);
void front_ask_chat(struct front *front, struct http *http, const char *id, const char *json);

#define CHAT "{\"model\":\"any\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}"
#define CHAT_STREAM "{\"model\":\"any\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}"

/* Asks for a chat completion on a connection that is there. */
void http_chat(struct http *http, const char *id, const char *json);

/* The next answer is the completion of the simulated model to this ID. */
void http_expect_chat(struct http *http, const char *id);

/* It is a stream that says this and ends as it should, without a comment. */
void http_expect_stream(struct http *http, const char *text, bool is_chat);

/* What the events of a stream say, for free(), and how many comments there are. */
char *http_text_of_stream(const struct http *http, bool is_chat, unsigned *comments);
