/*
 * steady RATE SOCKET HTTP: sends RATE requests a second to msd, each on a connection of its own, in turns to its request
 * socket and to its Unix socket for HTTP, whatever becomes of the earlier ones. The model is tests/upstream/server, which
 * answers with the prompt, the number of the request.
 *
 * Commands on standard input, each answered by one line:
 *
 *      settle          when all requests sent so far have an outcome: "N settled"
 *      kill PID        SIGKILL to msd: "N in flight, M waiting" is what it had. Sending pauses until msd has all requests
 *                      that were sent, because a connection that is just being read is lost with the process
 *      end             no further requests; when all have an outcome, their counts, and the end of the program
 *
 * The outcomes: answered; failed, with an error of msd; broken, the connection ended without an answer, and the request
 * was in flight at a kill; lost, the same with any other request.
 */

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"

/* Longer than anything here takes. */
#define DEADLINE_MS 120000

/* Those of two minutes, and more. */
#define PENDING_MAX 16384

struct request {
        unsigned long id;
        int fd;
        bool http;
        bool exposed;           /* in flight when msd was killed */
        size_t len;
        char answer[2048];
};

static struct {
        struct request *pending[PENDING_MAX];   /* in the order in which they were sent */
        struct pollfd events[PENDING_MAX + 1];
        size_t n;
        unsigned long sent, answered, failed, broken, lost;
} all;

static void fail(const char *what) {
        perror(what);
        exit(1);
}

static int64_t now_ms(void) {
        struct timespec time;

        clock_gettime(CLOCK_MONOTONIC, &time);
        return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static int dial(const char *path) {
        struct sockaddr_un address;
        socklen_t len;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || address_from_path(path, &address, &len) != 0 ||
            connect(fd, (const struct sockaddr *)&address, len) < 0)
                fail(path);
        return fd;
}

/* A connection that ended already is noticed by its reader. */
static void say(int fd, const char *text) {
        (void)!send(fd, text, strlen(text), MSG_NOSIGNAL);
}

static void send_request(const char *socket_path, const char *http_path) {
        struct request *request = calloc(1, sizeof(*request));
        char prompt[32], body[64], text[256];

        if (!request || all.n == PENDING_MAX)
                fail("too many requests without an outcome");
        request->id = ++all.sent;
        request->http = request->id % 2 == 0;
        snprintf(prompt, sizeof(prompt), "%lu", request->id);
        snprintf(body, sizeof(body), "{\"prompt\":\"%s\"}", prompt);
        if (request->http)
                snprintf(text, sizeof(text),
                         "POST /v1/completions HTTP/1.1\r\nHost: model\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                         strlen(body), body);
        else
                snprintf(text, sizeof(text), "REQUEST %s %zu\n%s\n", prompt, strlen(prompt), prompt);
        request->fd = dial(request->http ? http_path : socket_path);
        say(request->fd, text);
        all.pending[all.n++] = request;
}

static bool is_answered(const struct request *request) {
        char echo[64];

        snprintf(echo, sizeof(echo), request->http ? "\"echo %lu\"" : "\necho %lu\n", request->id);
        return strncmp(request->answer, request->http ? "HTTP/1.1 200 " : "OK ", request->http ? 13 : 3) == 0 &&
               strstr(request->answer, echo);
}

static bool is_failed(const struct request *request) {
        return request->http ? strncmp(request->answer, "HTTP/1.1 ", 9) == 0 && strncmp(request->answer + 9, "200", 3) != 0 :
                               strncmp(request->answer, "ERR ", 4) == 0;
}

/* Reads what there is. Returns whether the request has an outcome, which is counted. */
static bool hear(struct request *request) {
        ssize_t n = recv(request->fd, request->answer + request->len, sizeof(request->answer) - request->len - 1,
                         MSG_DONTWAIT);

        if (n > 0) {
                request->len += (size_t)n;
                if (is_answered(request)) {
                        all.answered++;
                        return true;
                }
                /* The whole of an error is in its first line, or up to the end of the connection. */
                if (request->http || !strchr(request->answer, '\n'))
                        return false;
        }
        if (is_failed(request)) {
                fprintf(stderr, "request %lu: %s\n", request->id, request->answer);
                all.failed++;
        } else if (request->exposed)
                all.broken++;
        else {
                fprintf(stderr, "request %lu: the connection ended after \"%s\"\n", request->id, request->answer);
                all.lost++;
        }
        return true;
}

/* Waits up to `timeout` for answers, and for a command if one may come. Returns whether there is one. */
static bool gather(int timeout, bool commands) {
        size_t n = all.n, kept = 0;

        for (size_t i = 0; i < n; i++)
                all.events[i] = (struct pollfd){ all.pending[i]->fd, POLLIN, 0 };
        all.events[n] = (struct pollfd){ commands ? STDIN_FILENO : -1, POLLIN, 0 };
        if (poll(all.events, n + 1, timeout) < 0)
                fail("poll");
        for (size_t i = 0; i < n; i++) {
                struct request *request = all.pending[i];

                if (all.events[i].revents != 0 && hear(request)) {
                        close(request->fd);
                        free(request);
                } else
                        all.pending[kept++] = request;
        }
        all.n = kept;
        return all.events[n].revents != 0;
}

/* What msd has, by its status. Returns false if it has gone. */
static bool ask_status(int fd, unsigned long *in_flight, unsigned long *waiting) {
        const char *processing, *waits;
        char text[4096];
        size_t len = 0;

        say(fd, "STATUS\n");
        do {
                struct pollfd event = { fd, POLLIN, 0 };
                ssize_t n = poll(&event, 1, DEADLINE_MS) > 0 ? recv(fd, text + len, sizeof(text) - len - 1, 0) : 0;

                if (n <= 0)
                        return false;
                len += (size_t)n;
                text[len] = '\0';
        } while (!strstr(text, "}\n"));
        processing = strstr(text, "\"processing\":");
        waits = strstr(text, "\"waiting\":");
        if (!processing || !waits)
                return false;
        *in_flight = strtoul(processing + strlen("\"processing\":"), NULL, 10);
        *waiting = strtoul(waits + strlen("\"waiting\":"), NULL, 10);
        return true;
}

/*
 * Kills msd when it has every request that is pending here, either all in flight or all waiting: so it is known of
 * each which it was. One look may fall between two states of a request; two in a row do not.
 */
static void kill_daemon(const char *socket_path, pid_t pid) {
        unsigned long in_flight = 0, waiting = 0, seen_in_flight, seen_waiting;
        int64_t deadline = now_ms() + DEADLINE_MS;
        int control = dial(socket_path);
        size_t n = 0, seen;

        do {
                seen = n;
                seen_in_flight = in_flight;
                seen_waiting = waiting;
                if (!ask_status(control, &in_flight, &waiting) || now_ms() > deadline) {
                        fprintf(stderr, "msd does not have the %zu requests that were sent\n", all.n);
                        exit(1);
                }
                (void)gather(0, false);
                n = all.n;
        } while (n == 0 || in_flight + waiting != n || (in_flight > 0 && waiting > 0) || n != seen ||
                 in_flight != seen_in_flight || waiting != seen_waiting);
        for (size_t i = 0; in_flight > 0 && i < all.n; i++)
                all.pending[i]->exposed = true;
        if (kill(pid, SIGKILL) < 0)
                fail("kill");
        close(control);
        printf("%lu in flight, %lu waiting\n", in_flight, waiting);
}

/* One command a read: the next comes after the answer to this one. */
static void read_command(char command[static 64]) {
        ssize_t n = read(STDIN_FILENO, command, 63);

        command[n > 0 ? n : 0] = '\0';
        command[strcspn(command, "\n")] = '\0';
}

int main(int argc, char **argv) {
        unsigned long rate = argc == 4 ? strtoul(argv[1], NULL, 10) : 0, n = 0, settling = 0;
        int64_t began = now_ms(), deadline = INT64_MAX;
        struct rlimit limit;
        bool ending = false;

        if (rate == 0 || rate > 1000) {
                fprintf(stderr, "usage: steady RATE SOCKET HTTP\n");
                return 2;
        }
        setvbuf(stdout, NULL, _IOLBF, 0);
        (void)getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
        while (!ending || all.n > 0) {
                int64_t pause = ending ? DEADLINE_MS : began + (int64_t)(n * 1000 / rate) - now_ms();
                char command[64];

                if (pause <= 0) {
                        send_request(argv[2], argv[3]);
                        n++;
                }
                if (gather((int)MAX(pause, 0), !ending && settling == 0)) {
                        read_command(command);
                        if (strncmp(command, "kill ", 5) == 0) {
                                kill_daemon(argv[2], (pid_t)strtoul(command + 5, NULL, 10));
                                began = now_ms();
                                n = 0;
                        } else {
                                settling = all.sent;
                                ending = strcmp(command, "settle") != 0;
                                deadline = now_ms() + DEADLINE_MS;
                        }
                }
                if (settling > 0 && (all.n == 0 || all.pending[0]->id > settling)) {
                        if (!ending)
                                printf("%lu settled\n", settling);
                        settling = 0;
                }
                if (settling > 0 && now_ms() > deadline) {
                        fprintf(stderr, "request %lu has no outcome\n", all.pending[0]->id);
                        return 1;
                }
        }
        printf("%lu sent, %lu answered, %lu failed, %lu lost, %lu broken\n", all.sent, all.answered, all.failed, all.lost,
               all.broken);
        return all.failed + all.lost > 0;
}
