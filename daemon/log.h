#pragma once

/*
 * What the daemon says. Diagnostics go to standard error at once, with systemd's priority prefixes where the
 * journal reads it (sd-daemon(3)). Output lines go to standard output, gathered, by a thread of its own: a slow
 * or stopped reader of it costs the workers nothing.
 */

#include <stddef.h>

enum log_level {
        LOG_LEVEL_ERROR = 3,
        LOG_LEVEL_WARNING = 4,
        LOG_LEVEL_NOTICE = 5,
        LOG_LEVEL_INFO = 6,
};

/* Writes one diagnostic line. From any thread. */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_write(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)

/* Writes a line of somebody else's, which gets its LF here, to standard error as it is. */
void log_line(const char *line, size_t len);

/* Starts the thread that writes standard output. Returns 0 or -errno. */
int log_output_start(void);

/*
 * Hands on whole lines, with their LF, for standard output. From any thread, never blocks: what is more than 64 MiB
 * that nobody read is left out, and counted on standard error.
 */
void log_output(const char *lines, size_t len);

/* Writes what is left, for five seconds at the most, and ends the thread. */
void log_output_stop(void);
