#pragma once

/*
 * What systemd hears, and what it passes on: sd_notify(3), sd_listen_fds(3). Without a service manager nothing of it
 * does anything. The one room that includes libsystemd. Times are in nanoseconds.
 *
 * Nothing here waits for a manager that does not read. What its socket has no room for is kept, in order, and sent when it has:
 * of messages of one kind the last one, and whatever it is to keep. A status is made one printable line, for the manager takes
 * each line for an assignment.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/loop/reactor.h"

/* Whether there is a service manager to tell anything. */
bool notify_is_heard(void);

/* From now on messages that wait are sent by this reactor, which is the main thread's. Returns 0 or -errno. */
int notify_watch(struct reactor *reactor);
void notify_unwatch(void);

/* At the end: sends what waits, for two seconds at the most. */
void notify_flush(void);

/* The rest is for any thread. */

/* STATUS=: one line for people. */
void notify_status(const char *status);

/* READY=1, and the status line that comes with it. Returns 0 or -errno: the manager will not hear it. */
int notify_ready(const char *status);

/* STOPPING=1, the status line, and how long it may take: EXTEND_TIMEOUT_USEC=. */
void notify_stopping(const char *status, uint64_t extend);

/* Starting goes on, for so long from now at the most. UINT64_MAX: as long as it likes. */
void notify_extend(uint64_t extend);

/* ERRNO=, and the status line: why it is about to end. */
void notify_failed(int error, const char *status);

/* How often the manager wants to hear notify_watchdog(); 0: it does not. */
uint64_t notify_watchdog_interval(void);
void notify_watchdog(void);

/*
 * The manager keeps copies of these descriptors under `name`, and passes them to the next process of this service. Returns 0 or
 * -errno. notify_is_kept(): whether it has been told by now.
 */
#define NOTIFY_KEEP_MAX 3
int notify_keep(const char *name, const int *fds, unsigned n);
bool notify_is_kept(const char *name);

/* It keeps those with this name no longer. */
void notify_release(const char *name);

/* A descriptor that the manager has passed. */
struct passed {
        int fd;
        char *name;
};

/*
 * All of them, close-on-exec, for the caller to own, as is the array: passed_free() frees it, the descriptors are
 * left. Returns their number, or -errno.
 */
int notify_passed(struct passed **passed);
void passed_free(struct passed *passed, int n);

/* Whether it is a stream socket that listens, a Unix one or (`anywhere`) of any kind; if so, it is made non-blocking. */
bool notify_is_listening(int fd, bool anywhere);
