#include "daemon/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#define NSEC_PER_USEC 1000

/* systemd adds it to the time of day, and takes UINT64_MAX for no number: a hundred years. */
#define EXTEND_MAX (UINT64_C(100) * 365 * 24 * 3600 * 1000000)

static uint64_t extend_usec(uint64_t extend) {
        return extend / NSEC_PER_USEC < EXTEND_MAX ? extend / NSEC_PER_USEC : EXTEND_MAX;
}

bool notify_is_heard(void) {
        const char *socket = getenv("NOTIFY_SOCKET");

        return socket && *socket;
}

void notify_status(const char *status) {
        (void)sd_notifyf(0, "STATUS=%s", status);
}

int notify_ready(const char *status) {
        int r;

        if (!notify_is_heard())
                return 0;
        r = sd_notifyf(0, "READY=1\nSTATUS=%s", status);
        return r < 0 ? r : 0;
}

void notify_stopping(const char *status, uint64_t extend) {
        (void)sd_notifyf(0, "STOPPING=1\nSTATUS=%s\nEXTEND_TIMEOUT_USEC=%" PRIu64, status, extend_usec(extend));
}

void notify_extend(uint64_t extend) {
        (void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%" PRIu64, extend_usec(extend));
}

void notify_failed(int error, const char *status) {
        (void)sd_notifyf(0, "STATUS=%s\nERRNO=%d", status, error);
}

uint64_t notify_watchdog_interval(void) {
        uint64_t usec;

        return sd_watchdog_enabled(0, &usec) > 0 ? usec * NSEC_PER_USEC : 0;
}

void notify_watchdog(void) {
        (void)sd_notify(0, "WATCHDOG=1");
}

int notify_keep(const char *name, const int *fds, unsigned n) {
        char state[128];
        int r;

        snprintf(state, sizeof(state), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
        r = sd_pid_notify_with_fds(0, 0, state, fds, n);
        return r < 0 ? r : 0;
}

void notify_release(const char *name) {
        (void)sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}

int notify_passed(struct passed **passed) {
        char **names = NULL;
        int n;

        *passed = NULL;
        n = sd_listen_fds_with_names(1, &names);
        if (n > 0) {
                *passed = calloc((size_t)n, sizeof(**passed));
                for (int i = 0; i < n; i++) {
                        if (*passed)
                                (*passed)[i] = (struct passed){ SD_LISTEN_FDS_START + i, names[i] };
                        else
                                free(names[i]);
                }
        }
        free(names);
        return n > 0 && !*passed ? -ENOMEM : n;
}

void passed_free(struct passed *passed, int n) {
        for (int i = 0; i < n; i++)
                free(passed[i].name);
        free(passed);
}

bool notify_is_listening(int fd, bool anywhere) {
        return (anywhere ? sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) : sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0)) > 0 &&
               fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0;
}
