/*
 * Faults from outside, one a run: a system call of msd's that fails, or memory that it does not get, while 100 requests and
 * more are with it over the request socket and HTTP. What became of every one of them is looked at.
 *
 *      faults list [quick]     the names of all cases, of a choice of them
 *      faults count SETUP      how many allocations the scenario has
 *      faults run CASE         a name that was listed, or alloc,N[-M],SETUP
 *
 * A name is CALL,ERROR,MOMENT,once|second|always,SETUP; a SETUP for allocations may be mscli, too. README.md says what is asked of msd.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <dirent.h>

#include "common/address.h"
#include "common/number.h"
#include "common/protocol.h"
#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/manager.h"
#include "tests/support/peer.h"
#include "tests/support/port.h"
#include "tests/support/process.h"
#include "tests/support/run.h"
#include "tests/support/suite.h"

/* What msd does with requests. */
enum setup {
        SIM,            /* the simulated model */
        NOTIFY,         /* the same under a service manager, with which waiting connections are parked */
        UPSTREAM,       /* in front of a model server */
        NAMED,          /* whose host has a name */
        CHILD,          /* which is its child */
        SETUPS,
};

static const char *const setup_names[] = { "sim", "notify", "upstream", "named", "child" };

/* When the fault begins. */
enum moment {
        START,          /* before main() */
        WAITING,        /* 100 requests wait; some more come, and a status */
        RELEASE,        /* 100 requests wait, and nothing else happens until the model is ready */
        LOST,           /* the model was ready; it dies, and 100 requests come */
        MOMENTS,
};

static const char *const moment_names[] = { "start", "waiting", "release", "lost" };

/* Which calls of each thread fail from then on: strace's when=. LATER: all behind the third. */
enum times { ONCE, SECOND, ALWAYS, LATER, TIMES };

static const char *const times_names[] = { "once", "second", "always", "later" };
static const char *const times_when[] = { "1", "2", "1+", "4+" };

#define M(moment) (1u << (moment))
#define ALL (M(START) | M(WAITING) | M(RELEASE))

/*
 * The system calls that msd makes, as glibc 2.36 issues them, with the errors of their manual pages; for each setup the
 * moments. The first error is the one that people meet: it is in the quick choice.
 */
static const struct call {
        const char *name;
        const char *traced;             /* strace's names */
        const char *path;               /* only where it is about this file; "stdout": the pipe that msd writes to */
        unsigned moments[SETUPS];
        const char *errors[24];
} calls[] = {
        { "accept4", "accept4", NULL, { [SIM] = M(START) | M(WAITING) },
          { "EMFILE", "EAGAIN", "EBADF", "ECONNABORTED", "EFAULT", "EINTR", "EINVAL", "ENFILE", "ENOBUFS", "ENOMEM",
            "ENOTSOCK", "EOPNOTSUPP", "EPERM", "EPROTO" } },
        { "read", "read", NULL, { [SIM] = ALL, [CHILD] = M(WAITING) | M(RELEASE) | M(LOST) },
          { "EIO", "EAGAIN", "EBADF", "EFAULT", "EINTR", "EINVAL", "EISDIR" } },
        { "recv", "recvfrom", NULL, { [SIM] = ALL, [UPSTREAM] = ALL, [CHILD] = M(RELEASE) | M(LOST) },
          { "ENOMEM", "EAGAIN", "EBADF", "ECONNREFUSED", "EFAULT", "EINTR", "EINVAL", "ENOTCONN", "ENOTSOCK" } },
        { "write", "write", NULL, { [SIM] = ALL },
          { "ENOSPC", "EAGAIN", "EBADF", "EDESTADDRREQ", "EDQUOT", "EFAULT", "EFBIG", "EINTR", "EINVAL", "EIO", "EPERM", "EPIPE" } },
        { "write-eventfd", "write", "anon_inode:[eventfd]", { [SIM] = ALL, [NOTIFY] = ALL, [CHILD] = M(LOST) },
          { "EIO", "EAGAIN", "EBADF", "EDESTADDRREQ", "EDQUOT", "EFAULT", "EFBIG", "EINTR", "EINVAL", "ENOSPC", "EPERM", "EPIPE" } },
        { "write-stdout", "write", "stdout", { [SIM] = ALL },
          { "ENOSPC", "EAGAIN", "EBADF", "EDESTADDRREQ", "EDQUOT", "EFAULT", "EFBIG", "EINTR", "EINVAL", "EIO", "EPERM", "EPIPE" } },
        { "writev", "writev", NULL, { [SIM] = M(RELEASE), [CHILD] = M(LOST) },
          { "EIO", "EAGAIN", "EBADF", "EINTR", "EINVAL", "EPIPE" } },
        { "send", "sendto", NULL, { [SIM] = ALL, [UPSTREAM] = ALL },
          { "ENOBUFS", "EACCES", "EAGAIN", "EALREADY", "EBADF", "ECONNRESET", "EDESTADDRREQ", "EFAULT", "EINTR", "EINVAL", "EISCONN",
            "EMSGSIZE", "ENOMEM", "ENOTCONN", "ENOTSOCK", "EOPNOTSUPP", "EPIPE" } },
        { "sendmsg", "sendmsg", NULL, { [SIM] = M(RELEASE), [NOTIFY] = ALL, [UPSTREAM] = M(RELEASE) },
          { "ENOBUFS", "EACCES", "EAGAIN", "EALREADY", "EBADF", "ECONNRESET", "EDESTADDRREQ", "EFAULT", "EINTR", "EINVAL", "EISCONN",
            "EMSGSIZE", "ENOMEM", "ENOTCONN", "ENOTSOCK", "EOPNOTSUPP", "EPIPE" } },
        { "epoll_wait", "epoll_wait,epoll_pwait2", NULL, { [SIM] = ALL, [UPSTREAM] = ALL },
          { "EINVAL", "EBADF", "EFAULT", "EINTR" } },
        { "epoll_ctl", "epoll_ctl", NULL, { [SIM] = ALL, [NOTIFY] = ALL, [UPSTREAM] = ALL, [CHILD] = M(START) | M(LOST) },
          { "ENOMEM", "EBADF", "EEXIST", "EINVAL", "ELOOP", "ENOENT", "ENOSPC", "EPERM" } },
        { "eventfd", "eventfd2", NULL, { [SIM] = M(START), [NAMED] = M(START), [CHILD] = M(LOST) },
          { "EMFILE", "EINVAL", "ENFILE", "ENODEV", "ENOMEM" } },
        { "socket", "socket", NULL, { [SIM] = M(START), [UPSTREAM] = ALL, [NAMED] = M(START) | M(RELEASE), [CHILD] = M(LOST) },
          { "EMFILE", "EACCES", "EAFNOSUPPORT", "EINVAL", "ENFILE", "ENOBUFS", "ENOMEM", "EPROTONOSUPPORT" } },
        { "connect", "connect", NULL, { [UPSTREAM] = ALL, [NAMED] = M(START) | M(RELEASE), [CHILD] = M(LOST) },
          { "ECONNREFUSED", "EACCES", "EADDRINUSE", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EAGAIN", "EALREADY", "EBADF", "EFAULT",
            "EINPROGRESS", "EINTR", "EISCONN", "ENETUNREACH", "ENOENT", "ENOTSOCK", "EPERM", "EPROTOTYPE", "ETIMEDOUT" } },
        { "getsockopt", "getsockopt", NULL,
          { [SIM] = ALL, [NOTIFY] = ALL, [UPSTREAM] = M(RELEASE), [NAMED] = M(START), [CHILD] = M(LOST) },
          { "ENOBUFS", "EBADF", "EFAULT", "EINVAL", "ENOPROTOOPT", "ENOTSOCK" } },
        { "setsockopt", "setsockopt", NULL, { [SIM] = ALL, [NAMED] = M(START) | M(RELEASE), [CHILD] = M(START) },
          { "ENOBUFS", "EBADF", "EFAULT", "EINVAL", "ENOPROTOOPT", "ENOTSOCK" } },
        { "shutdown", "shutdown", NULL, { [SIM] = M(START) | M(WAITING), [NOTIFY] = M(WAITING) },
          { "ENOTCONN", "EBADF", "EINVAL", "ENOTSOCK" } },
        { "memfd_create", "memfd_create", NULL, { [NOTIFY] = M(START) },
          { "EMFILE", "EFAULT", "EINVAL", "ENFILE", "ENOMEM", "EPERM" } },
        { "socketpair", "socketpair", NULL, { [NOTIFY] = ALL, [CHILD] = M(START) },
          { "EMFILE", "EAFNOSUPPORT", "EFAULT", "ENFILE", "EOPNOTSUPP", "EPROTONOSUPPORT" } },
        { "pwrite", "pwrite64", NULL, { [NOTIFY] = ALL },
          { "ENOSPC", "EAGAIN", "EBADF", "EDQUOT", "EFAULT", "EFBIG", "EINTR", "EINVAL", "EIO", "ENXIO", "EPERM", "EPIPE" } },
        { "fallocate", "fallocate", NULL, { [NOTIFY] = ALL },
          { "EOPNOTSUPP", "EBADF", "EFBIG", "EINTR", "EINVAL", "EIO", "ENODEV", "ENOSPC", "ENOSYS", "EPERM", "ESPIPE" } },
        { "clone-thread", "clone3", NULL, { [SIM] = M(START), [NAMED] = M(START) },
          { "EAGAIN", "EINVAL", "ENOMEM", "ENOSYS", "EPERM" } },
        { "fork", "clone", NULL, { [CHILD] = M(START) | M(LOST) },
          { "EAGAIN", "ENOMEM", "ENOSYS", "EACCES", "EBUSY", "EEXIST", "EINVAL", "ENOSPC", "EOPNOTSUPP", "EPERM", "EUSERS" } },
        { "execve", "execve", NULL, { [CHILD] = M(START) | M(LOST) },
          { "ENOMEM", "E2BIG", "EACCES", "EAGAIN", "EFAULT", "EINVAL", "EIO", "EISDIR", "ELIBBAD", "ELOOP", "EMFILE", "ENAMETOOLONG",
            "ENFILE", "ENOENT", "ENOEXEC", "ENOTDIR", "EPERM", "ETXTBSY" } },
        { "pidfd_open", "pidfd_open", NULL, { [CHILD] = M(START) | M(LOST) },
          { "EMFILE", "EINVAL", "ENFILE", "ENODEV", "ENOMEM", "ESRCH" } },
        { "pidfd_send_signal", "pidfd_send_signal", NULL, { [CHILD] = M(START) | M(LOST) },
          { "EPERM", "EBADF", "EINVAL", "ESRCH" } },
        { "waitid", "waitid", NULL, { [CHILD] = M(START) | M(LOST) },
          { "EINVAL", "ECHILD", "EINTR", "EAGAIN", "ESRCH" } },
        { "signalfd", "signalfd4", NULL, { [SIM] = M(START) },
          { "EMFILE", "EBADF", "EINVAL", "ENFILE", "ENODEV", "ENOMEM" } },
        { "prctl", "prctl", NULL, { [SIM] = M(START) },
          { "EINVAL", "EACCES", "EFAULT", "EPERM" } },
};

/*
 * A child is traced, too: what its libmicrohttpd does where the kernel says EAGAIN or EINTR for ever of a socket that it says
 * is ready, is to ask again at once.
 */
static bool is_of_child(const struct call *call, const char *error, enum times times, enum setup setup) {
        return setup == CHILD && times == ALWAYS && (strcmp(error, "EAGAIN") == 0 || strcmp(error, "EINTR") == 0) &&
               strcmp(call->traced, "recvfrom") == 0;
}

struct fault {
        const struct call *call;        /* NULL: an allocation */
        char error[20];
        char range[40];                 /* of allocations */
        enum moment moment;
        enum setup setup;
        enum times times;
        bool counts;                    /* only count allocations */
        bool is_client;                 /* of mscli's */
};

static struct fault fault;

/* So many connections with so many requests each, and HTTP connections with one each. */
#define LINES 8
#define LINE_REQUESTS 10
#define HTTPS 20
#define REQUESTS (LINES * LINE_REQUESTS + HTTPS)

/*
 * Those that come while the others wait: one on each connection, and new connections of each kind; and at the end, until one is
 * answered.
 */
#define LATE (LINES + 3 + 2)
#define TRIES 32
#define CLIENTS_MAX (LINES + HTTPS + 3 + TRIES)
#define IDS_MAX (REQUESTS + LATE + TRIES)

/* How long the load takes, and how long a fault that lasts is looked at once the model should be ready. */
#define LOAD_NSEC (UINT64_C(1200) * NSEC_PER_MSEC)
#define LASTING_NSEC (UINT64_C(700) * NSEC_PER_MSEC)

/* More failing calls than that in one run are a loop that spins. One that is interrupted is made again a few times. */
#define INJECTED_MAX 4000

enum fate { PENDING, ANSWERED, REFUSED, CLOSED };

struct client {
        int fd;
        bool is_http;
        bool ended;
        struct text input;
        unsigned id;            /* HTTP: its one request */
};

static struct {
        char directory[SUITE_PATH_MAX];
        char socket[SUITE_PATH_MAX + 16];
        char http[SUITE_PATH_MAX + 16];
        char upstream[SUITE_PATH_MAX + 32];
        char log[SUITE_PATH_MAX + 16];
        struct process msd, tracer, server;
        struct manager manager;
        int inotify;
        struct client clients[CLIENTS_MAX];
        unsigned client_count;
        enum fate fates[IDS_MAX];
        int owner[IDS_MAX];
        unsigned id_count;
        uint64_t load;
        uint16_t port;          /* of a server that is no socket in the file system; */
        int held;               /* nobody else gets it meanwhile */
} run;

static void wait_file_event(uint64_t deadline) {
        struct pollfd event = { run.inotify, POLLIN, 0 };
        char drop[4096];

        if (process_poll(&event, 1, deadline) > 0)
                ck_assert_int_gt(read(run.inotify, drop, sizeof(drop)), 0);
}

/* Connects as soon as somebody listens there. Returns -1: msd has ended, or does not take it. */
static int connect_to(const char *path) {
        uint64_t deadline = clock_patience();
        struct sockaddr_un address;
        socklen_t len;

        ck_assert_int_eq(address_from_path(path, &address, &len), 0);
        for (;;) {
                int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

                ck_assert_int_ge(fd, 0);
                if (connect(fd, (const struct sockaddr *)&address, len) == 0)
                        return fd;
                close(fd);
                if (run.msd.exited)
                        return -1;
                if (clock_now() >= deadline)
                        process_give_up("msd does not listen");
                wait_file_event(MIN(deadline, clock_now() + 50 * NSEC_PER_MSEC));
        }
}

static struct client *client_new(bool is_http) {
        struct client *client = &run.clients[run.client_count++];

        ck_assert_uint_le(run.client_count, CLIENTS_MAX);
        *client = (struct client){ .fd = connect_to(is_http ? run.http : run.socket), .is_http = is_http };
        client->ended = client->fd < 0;
        return client;
}

static void client_end(struct client *client) {
        client->ended = true;
        for (unsigned i = 0; i < run.id_count; i++)
                if (run.owner[i] == client - run.clients && run.fates[i] == PENDING)
                        run.fates[i] = CLOSED;
}

static void client_send(struct client *client, const struct text *text) {
        if (client->ended)
                return;
        /* Small enough for any socket buffer. */
        if (send(client->fd, text->data, text->len, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)text->len) {
                ck_assert_msg(errno == EPIPE || errno == ECONNRESET, "Sending: %s", strerror(errno));
        }
}

static void settle(struct client *client, unsigned id, enum fate fate) {
        ck_assert_uint_lt(id, run.id_count);
        ck_assert_int_eq(run.owner[id], client - run.clients);
        ck_assert_msg(run.fates[id] == PENDING, "Request %u was answered before", id);
        run.fates[id] = fate;
}

static unsigned new_id(const struct client *client) {
        unsigned id = run.id_count++;

        ck_assert_uint_lt(id, IDS_MAX);
        run.owner[id] = (int)(client - run.clients);
        run.fates[id] = client->ended ? CLOSED : PENDING;
        return id;
}

/* `n` requests of each kind in turn, in one go. */
static void ask_lines(struct client *client, unsigned n) {
        struct text text = TEXT_NULL;

        for (unsigned i = 0; i < n; i++) {
                unsigned id = new_id(client);

                if (i % 3 == 0 && fault.setup < UPSTREAM)
                        text_appendf(&text, "REQUEST %u\n", id);
                else
                        text_appendf(&text, "%s %u 5\nhello\n", i % 3 == 1 ? "STREAM" : "REQUEST", id);
        }
        client_send(client, &text);
        text_deinit(&text);
}

static void ask_http(struct client *client) {
        struct text text = TEXT_NULL;
        char body[80];

        client->id = new_id(client);
        snprintf(body, sizeof(body), "{\"prompt\":\"hello\",\"stream\":%s}", client->id % 2 == 0 ? "true" : "false");
        text_appendf(&text, "POST /v1/completions HTTP/1.1\r\nHost: msd\r\nX-Request-Id: %u\r\nContent-Length: %zu\r\n\r\n%s", client->id,
                     strlen(body), body);
        client_send(client, &text);
        text_deinit(&text);
}

/* More than is taken, of which the most does not come: its client reads why, and then msd ends its side. */
static void ask_too_much(struct client *client) {
        static const char request[] = "POST /v1/completions HTTP/1.1\r\nHost: msd\r\nContent-Length: 99999999999\r\n\r\nmuch";
        const struct text text = { .data = (char *)(uintptr_t)request, .len = sizeof(request) - 1 };

        client->id = new_id(client);
        client_send(client, &text);
}

static void take_lines(struct client *client) {
        for (;;) {
                struct text *text = &client->input;
                struct protocol_reply reply;
                char *end = text->len > 0 ? memchr(text->data, '\n', text->len) : NULL;
                size_t whole;

                if (!end)
                        return;
                ck_assert_msg(protocol_parse_reply(text->data, (size_t)(end - text->data), &reply) == 0, "This is no reply: %s", text->data);
                whole = (size_t)(end - text->data) + 1;
                if (reply.type != PROTOCOL_ERR) {
                        if (text->len - whole <= reply.length)
                                return;
                        whole += (size_t)reply.length + 1;
                }
                if (reply.id[0] != '-' && reply.type != PROTOCOL_PART)
                        settle(client, (unsigned)strtoul(reply.id, NULL, 10), reply.type == PROTOCOL_OK ? ANSWERED : REFUSED);
                text_take(text, whole);
        }
}

static void take_http(struct client *client) {
        const char *text = text_get(&client->input), *body = strstr(text, "\r\n\r\n"), *length;
        size_t len;

        if (!body || run.fates[client->id] != PENDING)
                return;
        body += 4;
        len = client->input.len - (size_t)(body - text);
        length = strstr(text, "Content-Length: ");
        if (length ? len < strtoul(length + 16, NULL, 10) : len < 5 || strcmp(body + len - 5, "0\r\n\r\n") != 0)
                return;
        settle(client, client->id, strncmp(text, "HTTP/1.1 2", 10) == 0 ? ANSWERED : REFUSED);
}

static void client_read(struct client *client) {
        for (;;) {
                ssize_t n = text_read(&client->input, client->fd);

                if (n == -EAGAIN)
                        return;
                if (client->is_http)
                        take_http(client);
                else
                        take_lines(client);
                if (n <= 0) {
                        client_end(client);
                        return;
                }
        }
}

/* Reads what has come, until something has or `deadline`. */
static void pump(uint64_t deadline) {
        struct pollfd fds[CLIENTS_MAX];

        for (unsigned i = 0; i < run.client_count; i++)
                fds[i] = (struct pollfd){ run.clients[i].ended ? -1 : run.clients[i].fd, POLLIN, 0 };
        if (process_poll(fds, run.client_count, deadline) > 0)
                for (unsigned i = 0; i < run.client_count; i++)
                        if (fds[i].revents)
                                client_read(&run.clients[i]);
}

static unsigned count(enum fate fate) {
        unsigned n = 0;

        for (unsigned i = 0; i < run.id_count; i++)
                n += run.fates[i] == fate;
        return n;
}

/* Until every request's fate is known, or `deadline`. */
static bool pump_all(uint64_t deadline) {
        while (count(PENDING) > 0 && clock_now() < deadline)
                pump(deadline);
        return count(PENDING) == 0;
}

static void attach(void) {
        char pid[16], traced[64], inject[96], path[64];
        const char *argv[20] = { "strace", "-f", "-p", pid, "-o", run.log, "-e", traced, "-e", inject };
        unsigned n = 10;
        struct stat st;

        snprintf(pid, sizeof(pid), "%d", (int)run.msd.pid);
        snprintf(traced, sizeof(traced), "trace=%s", fault.call->traced);
        snprintf(inject, sizeof(inject), "inject=%s:error=%s:when=%s", fault.call->traced, fault.error, times_when[fault.times]);
        if (fault.call->path) {
                snprintf(path, sizeof(path), "%s", fault.call->path);
                if (strcmp(fault.call->path, "stdout") == 0) {
                        ck_assert_int_eq(fstat(run.msd.out, &st), 0);
                        snprintf(path, sizeof(path), "pipe:[%ju]", (uintmax_t)st.st_ino);
                }
                argv[n++] = "-P";
                argv[n++] = path;
        }
        /* The model server's calls do not fail: it is let go of when it begins. */
        if (strcmp(fault.call->name, "execve") != 0) {
                argv[n++] = "-b";
                argv[n++] = "execve";
        }
        process_start(&run.tracer, "/usr/bin/strace", argv, NULL);
        process_wait_errors(&run.tracer, " attached");
}

static void detach(void) {
        if (run.tracer.pid <= 0)
                return;
        if (!run.tracer.exited)
                process_signal(&run.tracer, SIGTERM);
        (void)process_wait(&run.tracer);
}

/* Where a status of its process's threads says so: nothing has anything to do, or msd has ended. */
static bool look_at_rest(uint64_t *switches) {
        char path[300], line[256], state;
        bool rests = true;
        DIR *tasks;

        *switches = 0;
        snprintf(path, sizeof(path), "/proc/%d/task", (int)run.msd.pid);
        tasks = opendir(path);
        for (const struct dirent *task; tasks && (task = readdir(tasks));) {
                uint64_t number;
                FILE *status;

                snprintf(path, sizeof(path), "/proc/%d/task/%s/status", (int)run.msd.pid, task->d_name);
                status = task->d_name[0] == '.' ? NULL : fopen(path, "re");
                while (status && fgets(line, sizeof(line), status))
                        if (sscanf(line, "voluntary_ctxt_switches: %" SCNu64, &number) == 1 ||
                            sscanf(line, "nonvoluntary_ctxt_switches: %" SCNu64, &number) == 1)
                                *switches += number;
                        else if (sscanf(line, "State: %c", &state) == 1 && state != 'S')
                                rests = false;
                if (status)
                        fclose(status);
        }
        if (tasks)
                closedir(tasks);
        return rests;
}

static void check_rest(void) {
        uint64_t deadline = clock_patience(), before, now = 0;
        bool rests = false;

        while (!run.msd.exited) {
                if (clock_now() >= deadline)
                        process_give_up("msd does not come to rest");
                before = now;
                pump(clock_now() + 5 * NSEC_PER_MSEC);
                rests = look_at_rest(&now);
                if (rests && now == before)
                        return;
        }
}

static unsigned count_injected(void) {
        char line[1024];
        unsigned n = 0;
        FILE *log = fopen(run.log, "re");

        while (log && fgets(line, sizeof(line), log))
                n += strstr(line, "(INJECTED)") != NULL;
        if (log)
                fclose(log);
        return n;
}

/* Whether it said anything of what went wrong: more than that it listens, and that it stops. */
static bool has_said(void) {
        const char *p = text_get(&run.msd.errors);

        while (*p) {
                size_t n = strcspn(p, "\n");

                if (n > 5 && strncmp(p, "msd: ", 5) == 0 && strncmp(p, "msd: Listening for HTTP", 23) != 0 &&
                    strncmp(p, "msd: Stopping", 13) != 0)
                        return true;
                p += n + (p[n] != '\0');
        }
        return false;
}

static pid_t find_child(void) {
        char path[64];
        FILE *file;
        int pid = 0;

        snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)run.msd.pid, (int)run.msd.pid);
        file = fopen(path, "re");
        ck_assert_ptr_nonnull(file);
        ck_assert_int_eq(fscanf(file, "%d", &pid), 1);
        fclose(file);
        return (pid_t)pid;
}

static const char *upstream_program(void) {
        static char path[4096];
        const char *build = getenv("BUILD");

        snprintf(path, sizeof(path), "%s/tests/upstream/server", build && *build ? build : "build");
        return path;
}

static const char *preload_variable(void) {
        static char variable[4200], path[4096], resolved[4096];
        const char *build = getenv("BUILD");

        snprintf(path, sizeof(path), "%s/tests/faults/preload.so", build && *build ? build : "build");
        ck_assert_ptr_nonnull(realpath(path, resolved));
        snprintf(variable, sizeof(variable), "LD_PRELOAD=%s", resolved);
        return variable;
}

static void start(void) {
        char load[32], again[SUITE_PATH_MAX + 32], alloc[64], counted[SUITE_PATH_MAX + 32];
        char http[SUITE_PATH_MAX + 32], socket_path[SUITE_PATH_MAX + 32];
        const char *argv[40] = { "msd", "--socket", run.socket, "--threads", "2", "--inference-time", "0", "--http", http };
        const char *environment[8] = { preload_variable() };
        struct process_setup setup = { .environment = environment };
        size_t n = 9, e = 1;

        snprintf(http, sizeof(http), "unix:%s", run.http);
        snprintf(load, sizeof(load), "%" PRIu64 "ms", run.load / NSEC_PER_MSEC);
        if (fault.setup < UPSTREAM) {
                argv[n++] = "--load-time";
                argv[n++] = load;
        } else {
                const char *server[] = { upstream_program(), "--socket", socket_path, "--load", load, "--notify", "--again", "300ms", "--once", again, NULL };

                if (fault.setup == NAMED) {
                        server[1] = "--port";
                        snprintf(socket_path, sizeof(socket_path), "%u", run.port);
                } else
                        snprintf(socket_path, sizeof(socket_path), "%s/up.sock", run.directory);
                snprintf(again, sizeof(again), "%s/started", run.directory);
                argv[n++] = "--upstream";
                argv[n++] = run.upstream;
                if (fault.setup == CHILD) {
                        argv[n++] = "--";
                        for (size_t i = 0; server[i]; i++)
                                argv[n++] = server[i];
                } else {
                        server[5] = NULL;
                        process_start(&run.server, upstream_program(), server, NULL);
                }
        }
        if (fault.setup == NOTIFY) {
                manager_init(&run.manager);
                environment[e++] = run.manager.variable;
        }
        if (!fault.call) {
                snprintf(alloc, sizeof(alloc), "FAULTS_ALLOC=%s", fault.range);
                environment[e++] = alloc;
                snprintf(counted, sizeof(counted), "FAULTS_COUNT=%s/count", run.directory);
                if (fault.counts)
                        environment[e++] = counted;
        } else if (fault.moment == START)
                environment[e++] = "FAULTS_STOP=1";
        process_start(&run.msd, suite_msd(), argv, &setup);
        if (fault.call && fault.moment == START) {
                siginfo_t info;

                ck_assert_int_eq(waitid(P_PID, (id_t)run.msd.pid, &info, WSTOPPED | WNOWAIT), 0);
                attach();
                process_signal(&run.msd, SIGCONT);
        }
}

/* All of them; less where each allocation is a run, and a request with a model server has many. */
static void ask_all(void) {
        const unsigned part = !fault.call && fault.setup >= UPSTREAM ? 5 : 1;

        for (unsigned i = 0; i < LINES; i++)
                ask_lines(client_new(false), LINE_REQUESTS / part);
        for (unsigned i = 0; i < HTTPS / part; i++)
                ask_http(client_new(true));
}

/* Some more, and a status. */
static void ask_late(void) {
        const struct text status = { .data = (char *)"STATUS\n", .len = 7 };
        struct client *late;

        for (unsigned i = 0; i < LINES; i++)
                ask_lines(&run.clients[i], 1);
        late = client_new(false);
        client_send(late, &status);
        ask_lines(late, 3);
        ask_http(client_new(true));
        ask_too_much(client_new(true));
}

static void wait_until_waiting(void) {
        struct peer control;
        struct peer_status status;

        peer_connect(&control, run.socket);
        peer_status_until(&control, &status, peer_status_is_waiting, REQUESTS, "all wait");
        peer_close(&control);
}

/* Or until msd has ended. */
static void wait_loading_again(void) {
        static const char line[] = "Model loading...\n";
        uint64_t deadline = clock_patience();
        const char *first;

        for (;;) {
                first = strstr(text_get(&run.msd.output), line);
                if (run.msd.exited || (first && strstr(first + 1, line)))
                        return;
                if (clock_now() >= deadline)
                        process_give_up("The model is lost, and not loaded again");
                (void)process_poll(NULL, 0, deadline);
        }
}

/* Whether it was ready before the fault could begin: then nothing was tested. */
static bool is_late(void) {
        (void)process_poll(NULL, 0, clock_now());
        return strstr(text_get(&run.msd.output), "Model ready!") != NULL;
}

static void close_all(void) {
        for (unsigned i = 0; i < run.client_count; i++) {
                run.clients[i].fd = util_close(run.clients[i].fd);
                run.clients[i].ended = true;
        }
}

static void forget(void) {
        process_free(&run.msd);
        process_free(&run.tracer);
        process_free(&run.server);
        close_all();
        for (unsigned i = 0; i < run.client_count; i++)
                text_deinit(&run.clients[i].input);
        if (fault.setup == NOTIFY)
                manager_deinit(&run.manager);
        suite_remove(run.directory);
        close(run.inotify);
        run.held = util_close(run.held);
}

/* Up to the moment, and the fault. Returns false if it came too late for that. */
static bool begin(uint64_t load) {
        memset(&run, 0, sizeof(run));
        run.msd = run.tracer = run.server = (struct process)PROCESS_NULL;
        run.load = load;
        suite_directory(run.directory);
        snprintf(run.socket, sizeof(run.socket), "%s/msd.sock", run.directory);
        snprintf(run.http, sizeof(run.http), "%s/http.sock", run.directory);
        run.held = -1;
        if (fault.setup == NAMED) {
                run.held = port_take(&run.port);
                ck_assert_int_ge(run.held, 0);
                snprintf(run.upstream, sizeof(run.upstream), "http://localhost:%u", run.port);
        } else
                snprintf(run.upstream, sizeof(run.upstream), "unix:%s/up.sock", run.directory);
        snprintf(run.log, sizeof(run.log), "%s/strace", run.directory);
        run.inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        ck_assert_int_ge(run.inotify, 0);
        ck_assert_int_ge(inotify_add_watch(run.inotify, run.directory, IN_CREATE | IN_ATTRIB), 0);
        start();
        if (!fault.call || fault.moment == START) {
                ask_all();
                if (!fault.call)
                        ask_late();
                return true;
        }
        if (fault.moment == LOST) {
                process_wait_output(&run.msd, "Model ready!\n");
                attach();
                ck_assert_int_eq(kill(find_child(), SIGKILL), 0);
                wait_loading_again();
                ask_all();
                return true;
        }
        ask_all();
        wait_until_waiting();
        attach();
        if (is_late())
                return false;
        if (fault.moment == WAITING)
                ask_late();
        return true;
}

/*
 * Whether it is answer enough that connections were closed: what failed was their own reading or writing, of no more of them
 * than calls have failed, and said that the client has gone.
 */
static bool is_own_fault(unsigned injected) {
        unsigned closed = 0;

        if (!fault.call || (strcmp(fault.call->traced, "recvfrom") != 0 && strcmp(fault.call->traced, "sendto") != 0) ||
            (strcmp(fault.error, "ECONNRESET") != 0 && strcmp(fault.error, "EPIPE") != 0))
                return false;
        for (unsigned i = 0; i < run.client_count; i++) {
                bool closes = false;

                for (unsigned j = 0; j < run.id_count; j++)
                        closes |= run.owner[j] == (int)i && run.fates[j] == CLOSED;
                closed += closes;
        }
        return closed <= injected;
}

/* Whether it answers, now that the fault is over; some allocations that fail may still be to come. Or it ends. */
static bool is_serving(void) {
        for (unsigned i = 0; i < TRIES && !run.msd.exited; i++) {
                /* Alone: connections that are counted wrongly would show. */
                close_all();
                check_rest();
                ask_lines(client_new(false), 1);
                if (!pump_all(clock_patience()))
                        process_give_up("A request that came when all was over is lost");
                if (run.fates[run.id_count - 1] == ANSWERED)
                        return true;
        }
        return false;
}

static void expect_end(int status) {
        uint64_t deadline = clock_patience();

        while (!run.msd.exited && clock_now() < deadline)
                pump(deadline);
        if (!run.msd.exited)
                process_give_up("msd does not end");
        (void)process_wait(&run.msd);
        /* A socket that cannot be had is told as a mistake in what it was asked to listen at. */
        if (status == 1 && run.msd.status == 2 && fault.call && strcmp(fault.call->name, "socket") == 0)
                status = 2;
        if (run.msd.status != status)
                process_give_up("msd ended with %d instead of %d", run.msd.status, status);
        /* What it closed on its way out. */
        if (!pump_all(clock_patience()))
                process_give_up("%u requests were not heard of, and msd has ended", count(PENDING));
}

/* How many allocations there were is on the last line that the test says. */
static void say_count(void) {
        char path[SUITE_PATH_MAX + 16], text[32] = "";
        FILE *file;

        snprintf(path, sizeof(path), "%s/count", run.directory);
        file = fopen(path, "re");
        ck_assert_ptr_nonnull(file);
        ck_assert_ptr_nonnull(fgets(text, sizeof(text), file));
        fclose(file);
        fprintf(stderr, "COUNT %s", text);
}

START_TEST(one) {
        uint64_t load = fault.call && fault.moment == START ? LOAD_NSEC / 6 : fault.call && fault.moment != LOST ? LOAD_NSEC : LOAD_NSEC / 12;
        unsigned injected;
        bool serves;

        while (!begin(load)) {
                detach();
                forget();
                load *= 2;
                ck_assert_msg(load < 60 * NSEC_PER_SEC, "This machine is too slow");
        }
        if (fault.times >= ALWAYS)
                (void)pump_all(clock_now() + load + LASTING_NSEC);
        else if (!pump_all(clock_patience()))
                process_give_up("%u requests are lost", count(PENDING));
        check_rest();
        detach();
        injected = count_injected() / (strcmp(fault.error, "EINTR") == 0 ? UTIL_RETRY_MAX + 1 : 1);
        if (injected > INJECTED_MAX)
                process_give_up("It spins: the call failed %u times", injected);
        if (!pump_all(clock_patience()))
                process_give_up("%u requests are lost", count(PENDING));

        /* It goes on, and then ends as it is told to; or it has ended, or is about to. */
        serves = is_serving();
        if (serves) {
                process_signal(&run.msd, SIGTERM);
                expect_end(0);
                if (count(CLOSED) > 0 && !has_said() && !is_own_fault(injected))
                        process_give_up("%u requests were closed without a word", count(CLOSED));
        } else {
                expect_end(1);
                if (!has_said())
                        process_give_up("msd ended without a word");
        }
        fprintf(stderr, "OUTCOME %s: %u failing calls, %u answered, %u refused, %u closed\n", serves ? "went on" : "ended", injected, count(ANSWERED), count(REFUSED),
                count(CLOSED));
        if (fault.counts)
                say_count();
        forget();
}
END_TEST

/* mscli with a failing allocation: it has all the answers, or says why not, with a status that it documents. */
START_TEST(client) {
        static const struct {
                const char *arguments[8];
                const char *expected;
        } uses[] = {
                { { "request", "1", "2", "3", "--prompt", "hello" }, "Response 1 from sim\nResponse 2 from sim\nResponse 3 from sim\n" },
                { { "request", "4", "--prompt", "hello", "--stream" }, "Response 4 from sim\n" },
                { { "status" }, "ready" },
        };
        char alloc[64], counted[SUITE_PATH_MAX + 32];
        const char *const environment[] = { preload_variable(), alloc, counted, NULL };
        const struct process_setup setup = { .environment = environment };
        unsigned failed = 0;
        struct daemon msd;

        suite_directory(run.directory);
        snprintf(alloc, sizeof(alloc), "FAULTS_ALLOC=%s", fault.range);
        snprintf(counted, sizeof(counted), "FAULTS_COUNT=%s/count", run.directory);
        daemon_start(&msd, "--load-time", "0", "--inference-time", "0", NULL);
        daemon_wait_ready(&msd);
        for (size_t i = 0; i < ARRAY_SIZE(uses); i++) {
                struct process mscli;
                int status = run_mscli_with(&mscli, msd.socket, &setup, uses[i].arguments);

                if (status == 0 ? !strstr(text_get(&mscli.output), uses[i].expected) : status > 4 || mscli.errors.len == 0)
                        process_give_up("mscli %s ended with %d", uses[i].arguments[0], status);
                failed += status != 0;
                process_free(&mscli);
                if (fault.counts)
                        say_count();
        }
        daemon_stop(&msd);
        suite_remove(run.directory);
        fprintf(stderr, "OUTCOME %s\n", failed > 0 ? "ended" : "went on");
}
END_TEST

static void add(TCase *tests) {
        if (fault.is_client)
                tcase_add_test(tests, client);
        else
                tcase_add_test(tests, one);
}

static int find(const char *const *names, size_t n, const char *name) {
        for (size_t i = 0; i < n; i++)
                if (strcmp(names[i], name) == 0)
                        return (int)i;
        return -1;
}

static bool parse_setup(const char *name) {
        int at = find(setup_names, SETUPS, name);

        fault.is_client = strcmp(name, "mscli") == 0;
        fault.setup = (enum setup)at;
        return at >= 0 || fault.is_client;
}

/* Returns whether there is such a case. */
static bool parse(const char *name) {
        char call[32], moment[16], times[16], setup[16];
        int at;

        if (sscanf(name, "alloc,%39[0-9-],%15s", fault.range, setup) == 2) {
                return parse_setup(setup);
        }
        if (sscanf(name, "%31[^,],%19[^,],%15[^,],%15[^,],%15s", call, fault.error, moment, times, setup) != 5)
                return false;
        for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
                if (strcmp(calls[i].name, call) == 0)
                        fault.call = &calls[i];
        at = find(times_names, TIMES, times);
        fault.times = (enum times)at;
        if (at < 0)
                return false;
        at = find(moment_names, MOMENTS, moment);
        fault.moment = (enum moment)at;
        if (at < 0)
                return false;
        return parse_setup(setup) && !fault.is_client && fault.call;
}

/* A choice: the error that people meet at every moment, and who is interrupted for ever. */
static bool is_quick(const struct call *call, const char *error, enum moment moment, enum times times) {
        return error == call->errors[0] || (strcmp(error, "EINTR") == 0 && moment == WAITING && times == ALWAYS);
}

/*
 * Before a call that adds to an epoll set often comes one that takes out of it; and behind the threads that write and work
 * comes the one that looks up a host.
 */
static bool is_case(const struct call *call, const char *error, enum times times, enum setup setup) {
        if (is_of_child(call, error, times, setup))
                return false;
        switch (times) {
        case SECOND:
                return strcmp(call->name, "epoll_ctl") == 0;
        case LATER:
                return strcmp(call->name, "clone-thread") == 0 && setup == NAMED;
        default:
                return true;
        }
}

static void list_call(const struct call *call, enum setup setup, enum moment moment, bool quick) {
        for (unsigned i = 0; call->errors[i]; i++)
                for (unsigned times = 0; times < TIMES; times++)
                        if (is_case(call, call->errors[i], (enum times)times, setup) &&
                            (!quick || is_quick(call, call->errors[i], moment, (enum times)times)))
                                printf("%s,%s,%s,%s,%s\n", call->name, call->errors[i], moment_names[moment], times_names[times],
                                       setup_names[setup]);
}

static void list(bool quick) {
        for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
                for (unsigned setup = 0; setup < SETUPS; setup++)
                        for (unsigned moment = 0; moment < MOMENTS; moment++)
                                if (calls[i].moments[setup] & M(moment))
                                        list_call(&calls[i], (enum setup)setup, (enum moment)moment, quick);
}

int main(int argc, char **argv) {
        if (argc >= 2 && strcmp(argv[1], "list") == 0) {
                list(argc > 2);
                return 0;
        }
        if (argc == 3 && strcmp(argv[1], "count") == 0 && parse_setup(argv[2])) {
                snprintf(fault.range, sizeof(fault.range), "0");
                fault.counts = true;
                return suite_main("faults", add);
        }
        if (argc == 3 && strcmp(argv[1], "run") == 0 && parse(argv[2]))
                return suite_main("faults", add);
        fprintf(stderr, "usage: faults list [quick] | count SETUP | run CASE\n");
        return 2;
}
