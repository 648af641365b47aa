#include "tests/support/manager.h"

#include <check.h>
#include <errno.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"
#include "tests/support/clock.h"

static int make_socket(const char *path, int type) {
        struct sockaddr_un address;
        socklen_t len;
        int fd;

        ck_assert_int_eq(address_from_path(path, &address, &len), 0);
        fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(bind(fd, (const struct sockaddr *)&address, len), 0);
        return fd;
}

/* As systemd: an open file that is stored already stays under its name alone. */
static bool is_stored(const struct manager *manager, int fd) {
        for (unsigned i = 0; i < manager->stored; i++)
                if (syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, fd, manager->store[i].fd) == 0)
                        return true;
        return false;
}

static void store_add(struct manager *manager, const char *name, int fd) {
        if (manager->stored == MANAGER_STORE_MAX || is_stored(manager, fd)) {
                close(fd);
                return;
        }
        snprintf(manager->store[manager->stored].name, sizeof(manager->store->name), "%s", name);
        manager->store[manager->stored++].fd = fd;
}

static void store_remove(struct manager *manager, const char *name) {
        unsigned n = 0;

        for (unsigned i = 0; i < manager->stored; i++) {
                if (strcmp(manager->store[i].name, name) == 0)
                        close(manager->store[i].fd);
                else
                        manager->store[n++] = manager->store[i];
        }
        manager->stored = n;
}

/* What FDNAME= says, with a NUL. */
static void name_of(const char *message, char name[static 128]) {
        const char *p = strstr(message, "FDNAME=");

        snprintf(name, 128, "%.*s", p ? (int)strcspn(p + 7, "\n") : 6, p ? p + 7 : "stored");
}

static void take(struct manager *manager, const char *message, size_t len, struct msghdr *header) {
        char name[128];

        name_of(message, name);
        for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
                        if (strstr(message, "FDSTORE=1"))
                                store_add(manager, name, fd);
                        else
                                close(fd);
                }
        }
        if (strstr(message, "FDSTOREREMOVE=1"))
                store_remove(manager, name);
        text_append(&manager->lines, message, len);
        if (len == 0 || message[len - 1] != '\n')
                text_append(&manager->lines, "\n", 1);
}

static void *manager_run(void *argument) {
        struct manager *manager = argument;

        for (;;) {
                union {
                        struct cmsghdr header;
                        char space[CMSG_SPACE(sizeof(int) * 64)];
                } control;
                char message[4096];
                struct iovec iov = { message, sizeof(message) - 1 };
                struct msghdr header = {
                        .msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control),
                };
                ssize_t n = recvmsg(manager->fd, &header, MSG_CMSG_CLOEXEC);

                if (n < 0 && errno != EINTR)
                        return NULL;
                if (n <= 0)
                        continue;
                message[n] = '\0';
                if (strcmp(message, "END") == 0)
                        return NULL;
                pthread_mutex_lock(&manager->mutex);
                if (strcmp(message, "MARK") == 0)
                        manager->reached++;
                else
                        take(manager, message, (size_t)n, &header);
                pthread_mutex_unlock(&manager->mutex);
                (void)!write(manager->heard, &(uint64_t){ 1 }, sizeof(uint64_t));
        }
}

void manager_init(struct manager *manager) {
        char path[SUITE_PATH_MAX + 16];

        *manager = (struct manager){ .fd = -1, .http_fd = -1, .mutex = PTHREAD_MUTEX_INITIALIZER };
        suite_directory(manager->directory);
        snprintf(path, sizeof(path), "%s/notify", manager->directory);
        manager->fd = make_socket(path, SOCK_DGRAM);
        snprintf(manager->socket, sizeof(manager->socket), "%s/msd.sock", manager->directory);
        manager->listen_fd = make_socket(manager->socket, SOCK_STREAM);
        ck_assert_int_eq(listen(manager->listen_fd, INT32_MAX), 0);
        snprintf(manager->variable, sizeof(manager->variable), "NOTIFY_SOCKET=%s", path);
        manager->environment[0] = manager->variable;
        manager->setup.environment = manager->environment;
        manager->heard = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        ck_assert_int_ge(manager->heard, 0);
        ck_assert_int_eq(pthread_create(&manager->thread, NULL, manager_run, manager), 0);
}

/* Says something to the thread, behind all that has come. */
static void tell(struct manager *manager, const char *text) {
        struct sockaddr_un address;
        socklen_t len = sizeof(address);

        ck_assert_int_eq(getsockname(manager->fd, (struct sockaddr *)&address, &len), 0);
        ck_assert_int_eq(sendto(manager->fd, text, strlen(text), 0, (const struct sockaddr *)&address, len),
                         (ssize_t)strlen(text));
}

static void look_again(struct manager *manager, uint64_t deadline, const char *what);

/* All that came by now was taken up: what a process said before it was killed counts for the next, as with systemd. */
static void catch_up(struct manager *manager) {
        uint64_t deadline = clock_patience();
        unsigned reached;

        tell(manager, "MARK");
        manager->asked++;
        for (;;) {
                pthread_mutex_lock(&manager->mutex);
                reached = manager->reached;
                pthread_mutex_unlock(&manager->mutex);
                if (reached == manager->asked)
                        return;
                look_again(manager, deadline, "the manager itself");
        }
}

void manager_deinit(struct manager *manager) {
        tell(manager, "END");
        ck_assert_int_eq(pthread_join(manager->thread, NULL), 0);
        for (unsigned i = 0; i < manager->stored; i++)
                close(manager->store[i].fd);
        manager->fd = util_close(manager->fd);
        manager->listen_fd = util_close(manager->listen_fd);
        manager->http_fd = util_close(manager->http_fd);
        manager->heard = util_close(manager->heard);
        text_deinit(&manager->lines);
        suite_remove(manager->directory);
}

void manager_start(struct manager *manager, struct process *process, const char *const *arguments) {
        struct process_setup setup = manager->setup;
        int passed[MANAGER_STORE_MAX + 2] = { manager->listen_fd };
        size_t n = 1;
        struct text names = { 0 };
        const char *argv[32] = { "msd" };

        for (size_t i = 0; arguments[i]; i++) {
                ck_assert_uint_lt(i + 2, ARRAY_SIZE(argv));
                argv[i + 1] = arguments[i];
        }
        catch_up(manager);
        pthread_mutex_lock(&manager->mutex);
        text_appendf(&names, "msd");
        if (manager->http_fd >= 0) {
                passed[n++] = manager->http_fd;
                text_appendf(&names, ":http");
        }
        for (unsigned i = 0; i < manager->stored; i++) {
                passed[n++] = manager->store[i].fd;
                text_appendf(&names, ":%s", manager->store[i].name);
        }
        setup.passed = passed;
        setup.passed_n = n;
        setup.passed_names = text_get(&names);
        process_start(process, suite_msd(), argv, &setup);
        pthread_mutex_unlock(&manager->mutex);
        text_deinit(&names);
}

/* The last line of all that begins so, or NULL; and how many there are. */
static const char *find(struct manager *manager, const char *begin, unsigned *count) {
        const char *last = NULL;
        size_t len = strlen(begin);

        *count = 0;
        for (const char *line = text_get(&manager->lines); line && *line;) {
                const char *end = strchr(line, '\n');

                if (strncmp(line, begin, len) == 0) {
                        last = line;
                        (*count)++;
                }
                line = end ? end + 1 : NULL;
        }
        return last;
}

unsigned manager_count(struct manager *manager, const char *begin) {
        unsigned count;

        pthread_mutex_lock(&manager->mutex);
        (void)find(manager, begin, &count);
        pthread_mutex_unlock(&manager->mutex);
        return count;
}

bool manager_has(struct manager *manager, const char *line) {
        bool has;

        pthread_mutex_lock(&manager->mutex);
        has = text_has_line(&manager->lines, line);
        pthread_mutex_unlock(&manager->mutex);
        return has;
}

char *manager_last(struct manager *manager, const char *begin) {
        char *text = NULL;
        const char *line;
        unsigned count;

        pthread_mutex_lock(&manager->mutex);
        line = find(manager, begin, &count);
        if (line)
                text = strndup(line + strlen(begin), strcspn(line, "\n") - strlen(begin));
        pthread_mutex_unlock(&manager->mutex);
        return text;
}

/* Waits until more has come. */
static void look_again(struct manager *manager, uint64_t deadline, const char *what) {
        struct pollfd event = { manager->heard, POLLIN, 0 };
        uint64_t drop;

        if (clock_now() >= deadline)
                process_give_up("Waited in vain for %s; there was: %s", what, text_get(&manager->lines));
        (void)process_poll(&event, 1, deadline);
        (void)!read(manager->heard, &drop, sizeof(drop));
}

void manager_wait_more(struct manager *manager) {
        look_again(manager, clock_patience(), "anything");
}

void manager_wait(struct manager *manager, const char *line) {
        for (uint64_t deadline = clock_patience(); !manager_has(manager, line);)
                look_again(manager, deadline, line);
}

void manager_wait_begin(struct manager *manager, const char *begin) {
        for (uint64_t deadline = clock_patience(); manager_count(manager, begin) == 0;)
                look_again(manager, deadline, begin);
}

void manager_wait_stored(struct manager *manager, unsigned n) {
        for (uint64_t deadline = clock_patience();;) {
                unsigned stored;

                pthread_mutex_lock(&manager->mutex);
                stored = manager->stored;
                pthread_mutex_unlock(&manager->mutex);
                if (stored == n)
                        return;
                look_again(manager, deadline, "descriptors in the store");
        }
}
