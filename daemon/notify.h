#pragma once

/*
 * What systemd hears: sd_notify(3). Without a service manager nothing of it does anything.
 * The one room that includes libsystemd.
 */

/* STATUS=: one line for people. */
void notify_status(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* READY=1, and the status line that comes with it. */
void notify_ready(const char *status);

/* STOPPING=1, and the status line. */
void notify_stopping(const char *status);

/*
 * The listening socket that systemd passed, sd_listen_fds(3): the one named `name`, or the only one.
 * Returns it, close-on-exec and non-blocking, for the caller to own; or -errno: -ENOENT if none was passed, -EINVAL
 * if there are several and none has that name, or if it is no listening Unix stream socket.
 */
int notify_listening_socket(const char *name);
