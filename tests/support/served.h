#pragma once

/*
 * The tests' own model server, tests/upstream/server.c, behind an msd that starts it.
 */

#include "tests/support/daemon.h"

/* The program. The text is valid until the test ends. */
const char *served_program(void);

/* The arguments up to NULL that take a list of options. */
#define OPTIONS(...) ((const char *const[]){ __VA_ARGS__ __VA_OPT__(,) NULL })

/*
 * Starts msd with `options` up to NULL behind --upstream `url`, a Unix socket; and behind them the server there with its own, up to
 * NULL. Without any of those, `of_server` NULL, no server is started. `with` may be NULL.
 */
void served_start(struct daemon *msd, const struct process_setup *with, const char *url, const char *const *options,
                  const char *const *of_server);

/* The first process that this one has started, or 0. */
pid_t served_child_of(pid_t parent);

/* Sends a REQUEST or a STREAM with a prompt. */
void served_ask(struct peer *peer, const char *verb, const char *id, const char *prompt);
