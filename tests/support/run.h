#pragma once

/*
 * Runs a program to its end.
 */

#include "tests/support/process.h"

/* Starts mscli with these arguments up to NULL, at `socket` unless that is NULL. */
void run_start(struct process *process, const char *socket, const struct process_setup *setup,
               const char *const *arguments);

/* Runs mscli with these arguments up to NULL, and waits for its end. Returns its exit status. */
int run_mscli(struct process *process, const char *socket, ...) __attribute__((sentinel));
int run_mscli_with(struct process *process, const char *socket, const struct process_setup *setup,
                   const char *const *arguments);

/* Runs msd with just these arguments up to NULL: it is to end by itself. Returns its exit status. */
int run_msd(struct process *process, const struct process_setup *setup, const char *const *arguments);

/* The program has ended with this status, has said so on standard error alone, and has named what it is about. Frees it. */
void run_expect_refusal(struct process *process, int status, const char *named);
