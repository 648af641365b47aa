#pragma once

/*
 * What the daemon says. Diagnostics go to standard error, with systemd's priority prefixes where the journal reads it
 * (sd-daemon(3)); output lines go to standard output. Each has a thread that writes it, so that a slow or stopped reader costs
 * the threads that serve nothing. Where both are the same file one thread writes both, and their lines stay in order.
 *
 * A diagnostic is one printable line, whatever its arguments are.
 */

#include <stdbool.h>
#include <stddef.h>

enum log_level {
        LOG_LEVEL_ERROR = 3,
        LOG_LEVEL_WARNING = 4,
        LOG_LEVEL_NOTICE = 5,
        LOG_LEVEL_INFO = 6,
};

/*
 * Starts the threads. Before, or without it, lines are written by the caller, which may block. Returns 0 or -errno; what was
 * started is for log_stop() either way.
 */
int log_start(void);

/* Writes what is left, three seconds for each of the two at the most, and ends the threads. Nothing is written any more. */
void log_stop(void);

/*
 * The rest is for any thread, and does not block. Lines beyond what has room, 64 MiB of standard output and 4 MiB of standard
 * error, are left out, and counted: the count follows on standard error when there is a reader again.
 */

/* Writes one diagnostic. */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_write(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)

/* Hands on whole lines of the daemon's own, with their LF, for standard output. */
void log_output(const char *lines, size_t len);

/*
 * Hands on a line of the model's process, made printable, for standard error or standard output. Where the journal reads that,
 * a priority that the line begins with (`<4>`) stays its priority, but none is above that of an error: what is, the journal
 * writes to every terminal.
 */
void log_foreign(bool error, const char *line, size_t len);

/*
 * Where standard error is a terminal: has it show `text`, which does not move the cursor, below all lines, until another
 * comes; empty: none. It is drawn ten times a second at the most.
 */
#define LOG_BAR_MAX 1024
void log_bar(const char *text);
