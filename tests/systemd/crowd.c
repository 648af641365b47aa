/*
 * crowd SOCKET N: N clients that connect, send one request each, and wait for the answer. Prints "N waiting" when the
 * daemon says that so many wait, and "N answered" when so many have the answer to their own request.
 */

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/address.h"

/* Longer than any test waits. */
#define DEADLINE_MS 120000

static int dial(const char *path) {
        struct sockaddr_un address;
        socklen_t len;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || address_from_path(path, &address, &len) != 0 ||
            connect(fd, (const struct sockaddr *)&address, len) < 0) {
                perror(path);
                exit(1);
        }
        return fd;
}

static void say(int fd, const char *text) {
        if (send(fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text)) {
                perror("send");
                exit(1);
        }
}

/* Reads until `end` has come, or the connection ends. Returns whether it has. */
static int hear(int fd, char *text, size_t size, const char *end) {
        size_t len = 0;

        text[0] = '\0';
        while (!strstr(text, end)) {
                struct pollfd event = { fd, POLLIN, 0 };
                ssize_t n = poll(&event, 1, DEADLINE_MS) > 0 ? read(fd, text + len, size - len - 1) : 0;

                if (n <= 0)
                        return 0;
                len += (size_t)n;
                text[len] = '\0';
        }
        return 1;
}

int main(int argc, char **argv) {
        unsigned long n = argc == 3 ? strtoul(argv[2], NULL, 10) : 0, answered = 0;
        char text[4096], wanted[64];
        struct rlimit limit;
        int *fds, control;

        if (n == 0) {
                fprintf(stderr, "usage: crowd SOCKET N\n");
                return 2;
        }
        (void)getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
        fds = calloc(n, sizeof(*fds));
        for (unsigned long i = 0; fds && i < n; i++) {
                fds[i] = dial(argv[1]);
                snprintf(text, sizeof(text), "REQUEST %lu\n", i);
                say(fds[i], text);
        }
        control = dial(argv[1]);
        snprintf(wanted, sizeof(wanted), "\"waiting\":%lu,", n);
        do {
                say(control, "STATUS\n");
                if (!hear(control, text, sizeof(text), "}\n"))
                        return 1;
        } while (!strstr(text, wanted));
        close(control);
        printf("%lu waiting\n", n);
        fflush(stdout);

        for (unsigned long i = 0; fds && i < n; i++) {
                snprintf(wanted, sizeof(wanted), "Response %lu from sim\n", i);
                answered += (unsigned long)hear(fds[i], text, sizeof(text), wanted);
        }
        free(fds);
        printf("%lu answered\n", answered);
        return answered != n;
}
