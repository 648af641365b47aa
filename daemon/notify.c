#include "daemon/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

void notify_status(const char *format, ...) {
        char status[1024];
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(status, sizeof(status), format, arguments);
        va_end(arguments);
        (void)sd_notifyf(0, "STATUS=%s", status);
}

void notify_ready(const char *status) {
        (void)sd_notifyf(0, "READY=1\nSTATUS=%s", status);
}

void notify_stopping(const char *status) {
        (void)sd_notifyf(0, "STOPPING=1\nSTATUS=%s", status);
}

int notify_listening_socket(const char *name) {
        char **names = NULL;
        int n, fd = -1;

        n = sd_listen_fds_with_names(1, &names);
        if (n <= 0) {
                free(names);
                return n < 0 ? n : -ENOENT;
        }
        for (int i = 0; i < n; i++)
                if (fd < 0 && (n == 1 || strcmp(names[i], name) == 0))
                        fd = SD_LISTEN_FDS_START + i;
        for (int i = 0; i < n; i++)
                free(names[i]);
        free(names);

        if (fd < 0 || sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) <= 0)
                return -EINVAL;
        if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
                return -errno;
        return fd;
}
