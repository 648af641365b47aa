#include "daemon/model/child.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/number.h"
#include "common/user.h"
#include "common/util.h"

#define KILL_AFTER (5 * NSEC_PER_SEC)

/* A descriptor that is said to be readable so often in a row, and is not, is broken. */
#define VAIN_MAX 100

/* In the environment of the child and all that it starts: whose they are. */
#define OWNER_VARIABLE "MSD_OWNER"
#define OWNER_MAX 4200

static void kill_due(struct timer *timer) {
        child_kill(container_of(timer, struct child, kill));
}

void child_init(struct child *child, struct reactor *reactor, const struct child_events *events, const char *owner) {
        *child = (struct child){
                .reactor = reactor,
                .events = events,
                .owner = owner,
                .process = WATCH_NULL,
                .out = { .watch = WATCH_NULL },
                .err = { .watch = WATCH_NULL },
                .notify = WATCH_NULL,
        };
        timer_init(&child->kill, kill_due);
}

static void unwatch_and_close(struct watch *watch) {
        reactor_unwatch(watch);
        watch->fd = util_close(watch->fd);
}

static void stream_close(struct child_stream *stream) {
        unwatch_and_close(&stream->watch);
        free(STEAL_POINTER(stream->buffer));
        stream->len = 0;
        stream->vain = 0;
}

static void child_close(struct child *child) {
        unwatch_and_close(&child->process);
        unwatch_and_close(&child->notify);
        stream_close(&child->out);
        stream_close(&child->err);
        timer_clear(&child->kill);
        child->notify_vain = 0;
        child->stopping = false;
        child->pid = 0;
}

static void say(struct child *child, struct child_stream *stream, const char *line, size_t len) {
        const bool error = stream == &child->err;

        if (len > 0 && line[len - 1] == '\r')
                len--;
        if (error && len > 0) {
                char *tail = child->tail[child->tail_next++ % CHILD_TAIL_LINES];

                snprintf(tail, sizeof(child->tail[0]), "%.*s", (int)MIN(len, sizeof(child->tail[0]) - 1), line);
        }
        child->events->line(child, error, line, len);
}

/*
 * One of its descriptors was said to be readable, and reading it has failed, as it does when all was read. Returns false when
 * that was so too often in a row: it would stand still with its pipe full, or wait to be heard, and is to begin anew.
 */
static bool is_heard(struct child *child, unsigned *vain) {
        char text[128];
        int n;

        if (++*vain < VAIN_MAX)
                return true;
        n = snprintf(text, sizeof(text), "Cannot be heard any more: %s", strerror(errno));
        say(child, &child->err, text, (size_t)n);
        child_kill(child);
        return false;
}

/* Returns false at its end. */
static bool stream_read(struct child *child, struct child_stream *stream) {
        for (;;) {
                ssize_t n = read(stream->watch.fd, stream->buffer + stream->len, CHILD_LINE_MAX - stream->len);
                size_t start = 0;
                char *end;

                if (n < 0)
                        return is_heard(child, &stream->vain);
                stream->vain = 0;
                if (n == 0) {
                        if (stream->len > 0)
                                say(child, stream, stream->buffer, stream->len);
                        stream->len = 0;
                        return false;
                }
                stream->len += (size_t)n;
                while ((end = memchr(stream->buffer + start, '\n', stream->len - start))) {
                        say(child, stream, stream->buffer + start, (size_t)(end - stream->buffer) - start);
                        start = (size_t)(end - stream->buffer) + 1;
                }
                if (start == 0 && stream->len == CHILD_LINE_MAX) {
                        /* A line without an end is cut. */
                        say(child, stream, stream->buffer, stream->len);
                        start = stream->len;
                }
                memmove(stream->buffer, stream->buffer + start, stream->len - start);
                stream->len -= start;
        }
}

static void out_ready(struct watch *watch, uint32_t events) {
        struct child *child = container_of(watch, struct child, out.watch);

        (void)events;
        if (!stream_read(child, &child->out))
                reactor_unwatch(watch);
}

static void err_ready(struct watch *watch, uint32_t events) {
        struct child *child = container_of(watch, struct child, err.watch);

        (void)events;
        if (!stream_read(child, &child->err))
                reactor_unwatch(watch);
}

/*
 * An address in the abstract namespace has no permissions: what others say there is taken for empty. Descriptors that come
 * along find no room, and are closed. Returns the length, or -1 when there is no more.
 */
static ssize_t receive_trusted(int fd, char *message, size_t size) {
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(struct ucred))];
        } control;
        struct iovec iov = { message, size };
        struct msghdr header = {
                .msg_iov = &iov,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control),
        };
        ssize_t n = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        struct cmsghdr *first = n < 0 ? NULL : CMSG_FIRSTHDR(&header);
        struct ucred sender;

        if (n < 0)
                return -1;
        if (!first || first->cmsg_level != SOL_SOCKET || first->cmsg_type != SCM_CREDENTIALS ||
            first->cmsg_len < CMSG_LEN(sizeof(sender)))
                return 0;
        memcpy(&sender, CMSG_DATA(first), sizeof(sender));
        return user_is_trusted(sender.uid) ? n : 0;
}

static void notify_ready(struct watch *watch, uint32_t events) {
        struct child *child = container_of(watch, struct child, notify);
        char message[4096];
        ssize_t n;

        (void)events;
        while ((n = receive_trusted(watch->fd, message, sizeof(message) - 1)) >= 0) {
                char *saved;

                child->notify_vain = 0;

                message[n] = '\0';
                for (char *line = strtok_r(message, "\n", &saved); line; line = strtok_r(NULL, "\n", &saved))
                        child->events->notified(child, line);
                /* Said, it may be the end. */
                if (watch->fd < 0)
                        return;
        }
        if (!is_heard(child, &child->notify_vain))
                reactor_unwatch(watch);
}

static void process_ended(struct watch *watch, uint32_t events) {
        struct child *child = container_of(watch, struct child, process);
        struct child_end end = { .was_stopped = child->stopping };
        siginfo_t info = { 0 };
        char how[64];

        (void)events;
        /* What it started is to end with it, and what it said last to be heard. The pid stays its own until it is reaped. */
        (void)kill(-child->pid, SIGKILL);
        (void)stream_read(child, &child->out);
        (void)stream_read(child, &child->err);
        if (waitid(P_PID, (id_t)child->pid, &info, WEXITED) < 0)
                snprintf(how, sizeof(how), "It has ended");
        else if (info.si_code == CLD_EXITED)
                snprintf(how, sizeof(how), "It exited with status %d", info.si_status);
        else
                snprintf(how, sizeof(how), "It was killed by SIG%s", sigabbrev_np(info.si_status));
        end.how = how;
        end.was_killed = !child->stopping && (info.si_code == CLD_KILLED) && (info.si_status == SIGKILL || info.si_status == SIGTERM);
        child->events->exited(child, &end);
        child_close(child);
        child->events->ended(child, &end);
}

/* Of a file of /proc, or nothing. Returns its length. */
static size_t read_file(const char *path, char *text, size_t size) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? 0 : read(fd, text, size - 1);

        text[MAX(n, 0)] = '\0';
        return (size_t)MAX(n, 0);
}

/* Calls `found` for every process of the system. */
static void each_process(void (*found)(pid_t pid, void *data), void *data) {
        DIR *directory = opendir("/proc");
        struct dirent *entry;

        if (!directory)
                return;
        while ((entry = readdir(directory)))
                if (isdigit((unsigned char)entry->d_name[0]))
                        found((pid_t)atoi(entry->d_name), data);
        closedir(directory);
}

enum { FOREIGN, OURS, UNKNOWN };

/* Whose process `pid` is, as its environment says: one that ends or has ended has none any more. */
static int whose(pid_t pid, const char *owner) {
        char path[64], text[131072];
        size_t n;

        snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
        n = read_file(path, text, sizeof(text));
        for (const char *p = text; p < text + n; p += strlen(p) + 1)
                if (strcmp(p, owner) == 0)
                        return OURS;
        return n > 0 ? FOREIGN : UNKNOWN;
}

static void kill_if_left(pid_t pid, void *data) {
        if (whose(pid, data) == OURS)
                (void)kill(pid, SIGKILL);
}

static void owner_variable(const struct child *child, char variable[static OWNER_MAX]) {
        snprintf(variable, OWNER_MAX, OWNER_VARIABLE "=%s", child->owner);
}

bool child_has_left(const struct child *child, const struct ucred *process) {
        char owner[OWNER_MAX];

        owner_variable(child, owner);
        return process->uid == geteuid() && whose(process->pid, owner) != FOREIGN;
}

/* A socket of the child's own, in the abstract namespace under a name that the kernel chooses, unix(7). */
static int make_notify_socket(char variable[static 64]) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        socklen_t len = sizeof(address);
        const int on = 1;
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0)
                return -errno;
        if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ||
            bind(fd, (const struct sockaddr *)&address, sizeof(address.sun_family)) < 0 ||
            getsockname(fd, (struct sockaddr *)&address, &len) < 0) {
                int error = errno;

                close(fd);
                return -error;
        }
        snprintf(variable, 64, "NOTIFY_SOCKET=@%.*s", (int)(len - offsetof(struct sockaddr_un, sun_path) - 1),
                 address.sun_path + 1);
        return fd;
}

/* The daemon's environment, without what is meant for the daemon itself. Returns NULL: out of memory. */
static char **make_environment(char *notify, char *owner) {
        static const char *const not_for_it[] = { "NOTIFY_SOCKET=", "LISTEN_FDS=",    "LISTEN_PID=", "LISTEN_FDNAMES=",
                                                  "WATCHDOG_USEC=", "WATCHDOG_PID=", OWNER_VARIABLE "=" }; /* NOLINT(bugprone-suspicious-missing-comma): one name, and its = */
        size_t n = 0, count = 0;
        char **environment;

        while (environ[count])
                count++;
        environment = calloc(count + 3, sizeof(*environment));
        for (size_t i = 0; environment && i < count; i++) {
                bool for_it = true;

                for (size_t j = 0; j < ARRAY_SIZE(not_for_it); j++)
                        for_it = for_it && strncmp(environ[i], not_for_it[j], strlen(not_for_it[j])) != 0;
                if (for_it)
                        environment[n++] = environ[i];
        }
        if (environment) {
                environment[n++] = notify;
                environment[n] = owner;
        }
        return environment;
}

/* After fork(2). What fails is written to `failed`, which execve(2) closes. */
__attribute__((noreturn)) static void run(char *const *argv, char *const *environment, pid_t parent, int null, int out,
                                          int err, int failed) {
        sigset_t none;
        int error;

        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)signal(SIGPIPE, SIG_DFL);
        (void)setpgid(0, 0);
        /* Of libraries it is not known whether each of their descriptors is close-on-exec. */
        (void)close_range(3, UINT32_MAX, CLOSE_RANGE_CLOEXEC);
        /* It dies with the daemon, also with one that died before this was asked for: prctl(2). */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent && dup2(null, STDIN_FILENO) >= 0 &&
            dup2(out, STDOUT_FILENO) >= 0 && dup2(err, STDERR_FILENO) >= 0)
                execvpe(argv[0], argv, environment);
        error = errno;
        (void)!write(failed, &error, sizeof(error));
        for (;;)
                (void)kill(getpid(), SIGKILL);
}

static int stream_open(struct child *child, struct child_stream *stream, int fd,
                       void (*ready)(struct watch *watch, uint32_t events)) {
        stream->buffer = malloc(CHILD_LINE_MAX);
        stream->watch.fd = fd;
        if (!stream->buffer)
                return -ENOMEM;
        return reactor_watch(child->reactor, &stream->watch, fd, EPOLLIN, ready);
}

int child_start(struct child *child, char *const *argv) {
        _cleanup_close_ int out = -1, err = -1, failed = -1, null = -1;
        char notify[64], owner[OWNER_MAX];
        char **environment;
        int pipes[3][2], error = 0, r;
        ssize_t n;
        pid_t pid;

        memset(child->tail, 0, sizeof(child->tail));
        owner_variable(child, owner);
        each_process(kill_if_left, owner);

        for (unsigned i = 0; i < 3; i++)
                if (pipe2(pipes[i], O_CLOEXEC) < 0) {
                        r = -errno;
                        while (i-- > 0) {
                                close(pipes[i][0]);
                                close(pipes[i][1]);
                        }
                        return r;
                }
        null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        out = pipes[0][1];
        err = pipes[1][1];
        failed = pipes[2][0];
        (void)fcntl(pipes[0][0], F_SETFL, O_NONBLOCK);
        (void)fcntl(pipes[1][0], F_SETFL, O_NONBLOCK);
        r = stream_open(child, &child->out, pipes[0][0], out_ready);
        if (r == 0)
                r = stream_open(child, &child->err, pipes[1][0], err_ready);
        else
                child->err.watch.fd = pipes[1][0];
        if (r == 0) {
                r = make_notify_socket(notify);
                if (r >= 0)
                        r = reactor_watch(child->reactor, &child->notify, child->notify.fd = r, EPOLLIN, notify_ready);
        }
        environment = r == 0 ? make_environment(notify, owner) : NULL;
        if (r == 0 && !environment)
                r = -ENOMEM;
        if (r < 0) {
                close(pipes[2][1]);
                child_close(child);
                return r;
        }

        pid = getpid();
        child->pid = fork();
        if (child->pid == 0)
                run(argv, environment, pid, null, out, err, pipes[2][1]);
        error = errno;
        free(environment);
        close(pipes[2][1]);
        if (child->pid < 0) {
                child_close(child);
                return -error;
        }
        /* In both, so that it is done when either goes on. */
        (void)setpgid(child->pid, child->pid);

        n = UTIL_RETRY(read(failed, &error, sizeof(error)));
        if (n == sizeof(error)) {
                (void)waitpid(child->pid, NULL, 0);
                child_close(child);
                return -error;
        }
        child->process.fd = (int)syscall(SYS_pidfd_open, child->pid, 0);
        r = child->process.fd < 0 ?
                    -errno :
                    reactor_watch(child->reactor, &child->process, child->process.fd, EPOLLIN, process_ended);
        if (r < 0)
                child_deinit(child);
        return r;
}

void child_kill(struct child *child) {
        if (child->pid > 0) {
                child->stopping = true;
                (void)kill(-child->pid, SIGKILL);
        }
}

void child_stop(struct child *child) {
        if (child->pid <= 0 || timer_is_set(&child->kill))
                return;
        child->stopping = true;
        (void)kill(-child->pid, SIGTERM);
        reactor_set_timer(child->reactor, &child->kill, timer_now() + KILL_AFTER);
}

void child_deinit(struct child *child) {
        if (child->pid > 0) {
                child_kill(child);
                (void)waitpid(child->pid, NULL, 0);
        }
        if (child->reactor)
                child_close(child);
}

const char *child_open_line(const struct child *child, bool error, size_t *len) {
        const struct child_stream *stream = error ? &child->err : &child->out;

        *len = stream->buffer ? stream->len : 0;
        return stream->buffer;
}

void child_tail(const struct child *child, char *text, size_t size) {
        size_t n = 0;

        text[0] = '\0';
        for (unsigned i = 0; i < CHILD_TAIL_LINES && n < size; i++) {
                const char *line = child->tail[(child->tail_next + i) % CHILD_TAIL_LINES];

                if (*line)
                        n += (size_t)snprintf(text + n, size - n, "%s%s", n > 0 ? " / " : "", line);
        }
}

struct group {
        pid_t group;
        void (*each)(pid_t pid, void *data);
        void *data;
};

/* Reads what stands behind the name in /proc/PID/stat; the name, in parentheses, may have anything in it: proc(5). */
static const char *read_stat(pid_t pid, char *text, size_t size) {
        char path[64];
        const char *p;

        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        (void)read_file(path, text, size);
        p = strrchr(text, ')');
        return p ? p + 1 : "";
}

static void if_of_group(pid_t pid, void *data) {
        struct group *group = data;
        char text[1024];
        int number;

        if (sscanf(read_stat(pid, text, sizeof(text)), " %*c %*d %d", &number) == 1 && number == group->group)
                group->each(pid, group->data);
}

void child_each_process(struct child *child, void (*each)(pid_t pid, void *data), void *data) {
        struct group group = { child->pid, each, data };

        if (child->pid > 0)
                each_process(if_of_group, &group);
}

static void add_usage(pid_t pid, void *data) {
        struct child_usage *usage = data;
        uint64_t ticks[4], read, written, disk;
        char path[64], text[1024];

        if (sscanf(read_stat(pid, text, sizeof(text)),
                   " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, &ticks[0],
                   &ticks[1], &ticks[2], &ticks[3]) != 4)
                return;
        usage->processes++;
        usage->processor += (ticks[0] + ticks[1] + ticks[2] + ticks[3]) * (NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK));
        snprintf(path, sizeof(path), "/proc/%d/io", (int)pid);
        (void)read_file(path, text, sizeof(text));
        if (sscanf(text, "rchar: %" SCNu64 " wchar: %" SCNu64 " syscr: %*u syscw: %*u read_bytes: %" SCNu64, &read, &written,
                   &disk) != 3)
                return;
        usage->read += read;
        usage->written += written;
        usage->read_from_disk += disk;
}

void child_usage(struct child *child, struct child_usage *usage) {
        *usage = (struct child_usage){ 0 };
        child_each_process(child, add_usage, usage);
}
