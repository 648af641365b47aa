/*
 * The floor: the least that any server can do.
 *
 *      floor hold SOCKET SECONDS       one thread; it reads, and after so long answers each connection with one send()
 *      floor echo SOCKET THREADS       a bare epoll echo: an answer for each REQUEST as it is read
 *
 * It believes its client: requests have no prompts and few digits, every client stays and reads, memory suffices.
 */

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/address.h"
#include "common/number.h"
#include "common/util.h"

#define READ_SIZE 65536
#define EVENTS 256
#define ECHO_THREADS_MAX 16
#define BACKLOG 4096
/* `OK <id> <n>`, the body and two line ends, beside two times the ID. */
#define ANSWER_EXTRA 32
#define LINE_SIZE 128

static const char request_word[] = "REQUEST ";
static const char status_line[] = "STATUS";

struct peer {
        int fd;
        unsigned waiting;
        size_t partial_len;     /* the begin of a line, until the rest has come */
        char partial[LINE_SIZE];
        char *ids;              /* of what waits, each with its LF */
        size_t ids_len;
        size_t ids_size;
};

static void fail(const char *what) {
        fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
        exit(EXIT_FAILURE);
}

static void say(const char *line) {
        if (write(STDOUT_FILENO, line, strlen(line)) < 0)
                fail("write");
}

static char *put(char *p, const char *text, size_t len) {
        memcpy(p, text, len);
        return p + len;
}

/* The length of the body has two digits for any ID of up to 64 bytes. */
static char *put_answer(char *p, const char *id, size_t len) {
        size_t body = strlen("Response ") + len + strlen(" from sim");

        p = put(p, "OK ", 3);
        p = put(p, id, len);
        *p++ = ' ';
        *p++ = (char)('0' + body / 10);
        *p++ = (char)('0' + body % 10);
        p = put(p, "\nResponse ", 10);
        p = put(p, id, len);
        return put(p, " from sim\n", 10);
}

static void send_all(int fd, const char *data, size_t len) {
        while (len > 0) {
                ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

                if (n < 0)
                        fail("send");
                data += n;
                len -= (size_t)n;
        }
}

/*
 * Reads lines into `buffer`, of READ_SIZE, of which `*end` is the end. What is no whole line is kept for the
 * next time. False when the peer has gone.
 */
static bool read_lines(struct peer *peer, char *buffer, const char **end) {
        ssize_t n;
        size_t len;
        const char *last;

        memcpy(buffer, peer->partial, peer->partial_len);
        n = recv(peer->fd, buffer + peer->partial_len, READ_SIZE - peer->partial_len, 0);
        if (n <= 0)
                return false;
        len = peer->partial_len + (size_t)n;
        last = buffer[len - 1] == '\n' ? buffer + len - 1 : memrchr(buffer, '\n', len);
        *end = last ? last + 1 : buffer;
        peer->partial_len = (size_t)(buffer + len - *end);
        if (peer->partial_len > sizeof(peer->partial)) {
                errno = EMSGSIZE;
                fail("line");
        }
        memcpy(peer->partial, *end, peer->partial_len);
        return true;
}

static void peer_free(struct peer *peer) {
        close(peer->fd);
        free(peer->ids);
        free(peer);
}

static struct peer *peer_accept(int listener) {
        struct peer *peer = calloc(1, sizeof(*peer));

        if (!peer)
                fail("calloc");
        peer->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (peer->fd < 0)
                fail("accept");
        return peer;
}

static void watch(int epoll, int fd, void *pointer) {
        struct epoll_event event = { .events = EPOLLIN, .data.ptr = pointer };

        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
                fail("epoll_ctl");
}

static void peer_hold(struct peer *peer, const char *id, size_t len) {
        if (peer->ids_size - peer->ids_len < len) {
                peer->ids_size = MAX(2 * peer->ids_size, len + 24);
                peer->ids = realloc(peer->ids, peer->ids_size);
                if (!peer->ids)
                        fail("realloc");
        }
        memcpy(peer->ids + peer->ids_len, id, len);
        peer->ids_len += len;
        peer->waiting++;
}

static void peer_release(struct peer *peer) {
        static char *answers;
        static size_t size;
        size_t need = 2 * peer->ids_len + ANSWER_EXTRA * (size_t)peer->waiting;
        const char *id = peer->ids, *end = peer->ids + peer->ids_len;
        char *p;

        if (peer->waiting == 0)
                return;
        if (size < need) {
                free(answers);
                size = need;
                answers = malloc(size);
                if (!answers)
                        fail("malloc");
        }
        for (p = answers; id < end;) {
                const char *lf = memchr(id, '\n', (size_t)(end - id));

                p = put_answer(p, id, (size_t)(lf - id));
                id = lf + 1;
        }
        send_all(peer->fd, answers, (size_t)(p - answers));
        peer->ids_len = 0;
        peer->waiting = 0;
}

static void answer_status(struct peer *peer, uint64_t waiting) {
        char body[64], reply[128];
        int n = snprintf(body, sizeof(body), "{\"status\":\"loading\",\"waiting\":%llu}",
                         (unsigned long long)waiting);

        n = snprintf(reply, sizeof(reply), "OK - %d\n%s\n", n, body);
        send_all(peer->fd, reply, (size_t)n);
}

_Noreturn static void hold(int listener, uint64_t load) {
        static char buffer[READ_SIZE];
        struct epoll_event events[EVENTS];
        struct itimerspec due = { .it_value = { (time_t)(load / NSEC_PER_SEC),
                                                (long)(load % NSEC_PER_SEC) } };
        struct peer **peers = NULL;
        size_t count = 0, size = 0;
        uint64_t waiting = 0;
        int epoll = epoll_create1(EPOLL_CLOEXEC), timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);

        if (epoll < 0 || timer < 0)
                fail("epoll_create1");
        say("Model loading...\n");
        if (timerfd_settime(timer, 0, &due, NULL) < 0)
                fail("timerfd_settime");
        watch(epoll, listener, &listener);
        watch(epoll, timer, &timer);

        for (;;) {
                int n = epoll_wait(epoll, events, EVENTS, -1);

                for (int i = 0; i < n; i++) {
                        struct peer *peer = events[i].data.ptr;
                        const char *end, *lf;

                        if (events[i].data.ptr == &timer) {
                                say("Model ready!\n");
                                for (size_t j = 0; j < count; j++)
                                        peer_release(peers[j]);
                                waiting = 0;
                                epoll_ctl(epoll, EPOLL_CTL_DEL, timer, NULL);
                                continue;
                        }
                        if (events[i].data.ptr == &listener) {
                                if (count == size) {
                                        size = 2 * size + 64;
                                        peers = realloc(peers, size * sizeof(struct peer *));
                                        if (!peers)
                                                fail("realloc");
                                }
                                peer = peers[count++] = peer_accept(listener);
                                watch(epoll, peer->fd, peer);
                                continue;
                        }
                        /* A peer that has gone stays in the table, and out of the set. */
                        if (!read_lines(peer, buffer, &end)) {
                                epoll_ctl(epoll, EPOLL_CTL_DEL, peer->fd, NULL);
                                continue;
                        }
                        for (const char *line = buffer; line < end; line = lf + 1) {
                                lf = memchr(line, '\n', (size_t)(end - line));
                                if (memcmp(line, request_word, strlen(request_word)) == 0) {
                                        line += strlen(request_word);
                                        peer_hold(peer, line, (size_t)(lf + 1 - line));
                                        waiting++;
                                } else if (memcmp(line, status_line, strlen(status_line)) == 0)
                                        answer_status(peer, waiting);
                        }
                }
        }
}

static void *echo_run(void *argument) {
        struct epoll_event events[EVENTS];
        char buffer[READ_SIZE], answers[READ_SIZE * 4];
        const int *epoll = argument;

        for (;;) {
                int n = epoll_wait(*epoll, events, EVENTS, -1);

                for (int i = 0; i < n; i++) {
                        struct peer *peer = events[i].data.ptr;
                        const char *end, *lf;
                        char *p = answers;

                        if (!read_lines(peer, buffer, &end)) {
                                peer_free(peer);
                                continue;
                        }
                        for (const char *line = buffer; line < end; line = lf + 1) {
                                lf = memchr(line, '\n', (size_t)(end - line));
                                line += strlen(request_word);
                                p = put_answer(p, line, (size_t)(lf - line));
                        }
                        send_all(peer->fd, answers, (size_t)(p - answers));
                }
        }
        return NULL;
}

_Noreturn static void echo(int listener, size_t count) {
        int epolls[ECHO_THREADS_MAX];
        pthread_t threads[ECHO_THREADS_MAX];

        for (size_t i = 0; i < count; i++) {
                epolls[i] = epoll_create1(EPOLL_CLOEXEC);
                if (epolls[i] < 0)
                        fail("epoll_create1");
                errno = pthread_create(&threads[i], NULL, echo_run, &epolls[i]);
                if (errno != 0)
                        fail("pthread_create");
        }
        for (size_t i = 0;; i = (i + 1) % count) {
                struct peer *peer = peer_accept(listener);

                watch(epolls[i], peer->fd, peer);
        }
}

int main(int argc, char *argv[]) {
        bool holds = argc == 4 && strcmp(argv[1], "hold") == 0;
        struct sockaddr_un address;
        uint64_t load = 0, threads = 0;
        socklen_t len;
        int listener;

        if (argc != 4 || (!holds && strcmp(argv[1], "echo") != 0) ||
            address_from_path(argv[2], &address, &len) != 0 ||
            (holds && number_parse_duration(argv[3], &load) != 0) ||
            (!holds && (number_parse(argv[3], strlen(argv[3]), ECHO_THREADS_MAX, &threads) != 0 || threads == 0))) {
                fprintf(stderr, "Usage: floor hold SOCKET SECONDS | floor echo SOCKET THREADS\n");
                return 2;
        }

        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (listener < 0 || bind(listener, (const struct sockaddr *)&address, len) < 0 ||
            listen(listener, BACKLOG) < 0)
                fail(argv[2]);
        if (holds)
                hold(listener, load);
        echo(listener, threads);
}
