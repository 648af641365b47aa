#pragma once

/*
 * A service manager as a test needs it: hears what sd_notify(3) says, keeps a listening socket and descriptors
 * (FDSTORE=) from one msd to the next, and passes them on as sd_listen_fds(3) has it. It listens in a thread of its
 * own, so that it hears at once whatever the test waits for.
 */

#include <pthread.h>
#include <stdint.h>

#include "tests/support/peer.h"
#include "tests/support/process.h"
#include "tests/support/suite.h"

#define MANAGER_STORE_MAX 60

struct manager {
        char directory[SUITE_PATH_MAX];
        char socket[SUITE_PATH_MAX + 16];       /* where msd listens, once it was started by manager_start() */
        char variable[SUITE_PATH_MAX + 32];     /* NOTIFY_SOCKET=... */
        const char *environment[8];             /* more may be added, up to NULL */
        struct process_setup setup;             /* for an msd that is to notify, but gets nothing passed */
        int fd;
        int listen_fd;
        int http_fd;                            /* is passed too, with the name `http`, unless it is -1; closed with the rest */
        int heard;                              /* an eventfd: something has come */
        pthread_t thread;
        pthread_mutex_t mutex;
        struct text lines;                      /* under `mutex`: all that came, a line each, in order */
        struct {
                char name[128];
                int fd;
        } store[MANAGER_STORE_MAX];             /* under `mutex` */
        unsigned stored;
        unsigned asked, reached;                /* marks that were sent to itself, and have come */
};

void manager_init(struct manager *manager);
void manager_deinit(struct manager *manager);

/* Starts msd as a service: it gets the socket, named `msd`, and what is stored. `arguments` goes up to NULL. */
void manager_start(struct manager *manager, struct process *process, const char *const *arguments);

/* Waits until this line has come; until one has come that begins so. */
void manager_wait(struct manager *manager, const char *line);
void manager_wait_begin(struct manager *manager, const char *begin);

/* Waits until anything more has come. */
void manager_wait_more(struct manager *manager);

/* Whether this line has come by now; how many have that begin so. */
bool manager_has(struct manager *manager, const char *line);
unsigned manager_count(struct manager *manager, const char *begin);

/* What follows `begin` on the last line that begins so, for the caller to free(); NULL: there is none. */
char *manager_last(struct manager *manager, const char *begin);

/* Waits until so many descriptors are stored. */
void manager_wait_stored(struct manager *manager, unsigned n);
