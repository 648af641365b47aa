#pragma once

/*
 * A program under test: started with pipes to its standard streams, watched through a pidfd, and gone with
 * the test that started it. What goes wrong here fails the test.
 *
 * While a test waits for anything, what its programs write is taken up, so that none stands at a full pipe.
 */

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "tests/support/text.h"

struct process_setup {
        const char *const *environment; /* up to NULL: NAME=VALUE to set, NAME to unset */
        const void *input;              /* its standard input, kept by the caller; NULL for none */
        size_t input_len;
        rlim_t descriptors;             /* how many it may have; 0 for as many as the test */
        uid_t uid;                      /* and gid, to run as; 0 for the test's own */
        bool terminal;                  /* its standard error is a terminal */
        const int *passed;              /* descriptors that it gets as sd_listen_fds(3) says, */
        const char *passed_names;       /* with these names, colons between them */
        size_t passed_n;
};

struct process {
        pid_t pid;
        int pidfd;
        int in, out, err;               /* this end of each; -1 once it ended */
        const char *input;              /* what is still to be written to `in` */
        size_t input_left;
        struct text output, errors;     /* all that it wrote */
        bool exited;
        int status;                     /* its exit status, or 128 and the signal's number */
        struct rusage usage;
};

#define PROCESS_NULL { .pid = -1, .pidfd = -1, .in = -1, .out = -1, .err = -1 }

/* Starts the program at `path`. `argv` goes up to NULL, and has its name. `setup` may be NULL. */
void process_start(struct process *process, const char *path, const char *const *argv,
                   const struct process_setup *setup);

/* In a process that the test has forked: the programs are its parent's, which alone can wait for their end. */
void process_forked(void);

/* Kills it if it runs, and forgets it. */
void process_free(struct process *process);

void process_signal(struct process *process, int signal);

/* Waits until what it wrote has `text` in it. Its end is a failure. */
void process_wait_output(struct process *process, const char *text);
void process_wait_errors(struct process *process, const char *text);

/*
 * Waits for its end, and for the end of what it wrote. Returns `status`.
 * Whatever a sanitizer had to say about it is a failure.
 */
int process_wait(struct process *process);

/* The processor time that it has used so far, in nanoseconds. */
uint64_t process_cpu(const struct process *process);

/* How often its threads, all together, went on or off a processor so far. */
uint64_t process_switches(const struct process *process);

/* Waits until none of its threads has anything to do: what has come was taken up. */
void process_wait_rest(const struct process *process);

/* Whether it was built with the thread sanitizer, which has a thread of its own that wakes up. */
bool process_has_tsan(const struct process *process);

/* Whether a file whose path contains this is mapped there, such as a library. */
bool process_has_mapped(const struct process *process, const char *file);

/*
 * Waits for the `n` descriptors at `fds`, as poll() does, for a program's output or end, or for `deadline`.
 * Returns how many of `fds` have an event: 0 too when a program did something.
 */
int process_poll(struct pollfd *fds, size_t n, uint64_t deadline);

/* Fails the test, saying what it waited for in vain and what its programs wrote. */
void process_give_up(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
