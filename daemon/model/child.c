#include "daemon/model/child.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/number.h"
#include "common/user.h"
#include "common/util.h"

/* A descriptor that is said to be readable so often in a row, and is not, is broken. */
#define FAILURES_MAX 100

/* Reads of one pipe in a turn: all that it holds, and not for ever what comes meanwhile. */
#define READS_MAX 64

static void unwatch_and_close(struct watch *watch) {
        reactor_unwatch(watch);
        watch->fd = util_close(watch->fd);
}

static void stream_close(struct child_stream *stream) {
        unwatch_and_close(&stream->watch);
        free(STEAL_POINTER(stream->buffer));
        stream->len = 0;
        stream->failures = 0;
}

static void child_close(struct child *child) {
        reaper_remove(&child->process);
        unwatch_and_close(&child->notify);
        stream_close(&child->out);
        stream_close(&child->err);
        child->start_fd = util_close(child->start_fd);
        child->notify_failures = 0;
        child->process.pid = 0;
}

static void say(struct child *child, struct child_stream *stream, const char *line, size_t len) {
        const bool error = stream == &child->err;

        if (len > 0 && line[len - 1] == '\r')
                len--;
        cause_add(&child->cause, line, len);
        child->events->line(child, error, line, len);
}

/*
 * One of its descriptors was said to be readable, and reading it has failed, as it does when all was read. Returns false when
 * that was so too often in a row: it would stand still with its pipe full, or wait to be heard, and is to begin anew.
 */
static bool is_heard(struct child *child, unsigned *failures) {
        char text[128];
        int n;

        if (++*failures < FAILURES_MAX)
                return true;
        n = snprintf(text, sizeof(text), "Cannot be heard any more: %s", strerror(errno));
        say(child, &child->err, text, (size_t)n);
        child_kill(child);
        return false;
}

/* Returns false at its end. */
static bool stream_read(struct child *child, struct child_stream *stream) {
        for (unsigned reads = 0; reads < READS_MAX; reads++) {
                ssize_t n = read(stream->watch.fd, stream->buffer + stream->len, CHILD_LINE_MAX - stream->len);
                size_t start = 0;
                char *end;

                if (n < 0)
                        return is_heard(child, &stream->failures);
                stream->failures = 0;
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
        return true;
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

                child->notify_failures = 0;

                message[n] = '\0';
                for (char *line = strtok_r(message, "\n", &saved); line; line = strtok_r(NULL, "\n", &saved))
                        child->events->notified(child, line);
                /* Said, it may be the end. */
                if (watch->fd < 0)
                        return;
        }
        if (!is_heard(child, &child->notify_failures))
                reactor_unwatch(watch);
}

/* What was written before an end is heard before it. */
static void read_rest(struct child *child) {
        if (child->out.watch.reactor)
                (void)stream_read(child, &child->out);
        if (child->err.watch.reactor)
                (void)stream_read(child, &child->err);
}

/* The errno with which execve(2) failed, or what comes before it; 0: the program ran. */
static int read_start_error(struct child *child) {
        int error;

        return read(child->start_fd, &error, sizeof(error)) == sizeof(error) ? error : 0;
}

static void process_ended(struct reaper_child *process, const siginfo_t *info) {
        struct child *child = container_of(process, struct child, process);
        bool was_stopped = child->tree.stopping;
        const int start_error = read_start_error(child);

        read_rest(child);
        if (start_error > 0)
                snprintf(child->how, sizeof(child->how), "%s", strerror(start_error));
        else if (info->si_code == CLD_EXITED)
                snprintf(child->how, sizeof(child->how), "It exited with status %d", info->si_status);
        else
                snprintf(child->how, sizeof(child->how), "It was killed by SIG%s", sigabbrev_np(info->si_status));
        child->end = (struct child_end){
                .was_stopped = was_stopped,
                .start_error = start_error,
                .was_killed = !was_stopped && start_error == 0 && info->si_code != CLD_EXITED &&
                              (info->si_status == SIGKILL || info->si_status == SIGTERM),
                .how = child->how,
        };
        child->process.pid = child->tree.root = 0;
        tree_stop(&child->tree, child->options.stop_timeout);
        child->events->exited(child, &child->end);
}

static void tree_gone(struct tree *tree) {
        struct child *child = container_of(tree, struct child, tree);

        read_rest(child);
        child_close(child);
        child->events->ended(child, &child->end);
}

static void tree_held(struct tree *tree, const char *processes) {
        struct child *child = container_of(tree, struct child, tree);

        child->events->held(child, processes);
}

static const struct tree_events tree_events = { .gone = tree_gone, .held = tree_held };

void child_init(struct child *child, struct reactor *reactor, const struct child_events *events,
                const struct child_options *options) {
        *child = (struct child){
                .reactor = reactor,
                .events = events,
                .options = *options,
                .process = { .ended = process_ended },
                .end = { .how = child->how },
                .out = { .watch = WATCH_NULL },
                .err = { .watch = WATCH_NULL },
                .notify = WATCH_NULL,
                .start_fd = -1,
        };
        owner_format(child->owner, options->place);
        tree_init(&child->tree, reactor, &tree_events, child->owner, options->reaper->adopts_strangers);
}

bool child_has_left(const struct child *child, const struct ucred *process) {
        struct process found;
        enum owner owner;

        /* Of another PID namespace the kernel tells no pid. */
        if (process->pid <= 0 || process->uid != geteuid())
                return false;
        if (process_read(process->pid, &found) < 0 || found.exiting || process_has_ended(&found))
                return true;
        owner = owner_of(process->pid, child->owner);
        return owner == OWNER_SELF || owner == OWNER_DEAD;
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

/* The ends of the pipes that the child gets, and its standard input. */
struct child_ends {
        int in;
        int out;
        int err;
        int failed;                             /* takes the errno with which it does not start */
};

#define CHILD_ENDS_NULL { -1, -1, -1, -1 }

static void ends_close(struct child_ends *ends) {
        ends->in = util_close(ends->in);
        ends->out = util_close(ends->out);
        ends->err = util_close(ends->err);
        ends->failed = util_close(ends->failed);
}

/* After fork(2). What fails is written to `failed`, which execve(2) closes. */
__attribute__((noreturn)) static void run(const struct child *child, char *const *argv, char *const *environment, pid_t parent,
                                          const struct child_ends *ends) {
        sigset_t none;
        int error;

        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)signal(SIGPIPE, SIG_DFL);
        (void)setpgid(0, 0);
        /* msd raises its own, and programs that go through all descriptors take a large limit badly. */
        if (child->options.descriptors.rlim_max > 0)
                (void)setrlimit(RLIMIT_NOFILE, &child->options.descriptors);
        /* Of libraries it is not known whether each of their descriptors is close-on-exec. */
        (void)close_range(3, UINT32_MAX, CLOSE_RANGE_CLOEXEC);
        /* It dies with the daemon, also with one that died before this was asked for: prctl(2). */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent && dup2(ends->in, STDIN_FILENO) >= 0 &&
            dup2(ends->out, STDOUT_FILENO) >= 0 && dup2(ends->err, STDERR_FILENO) >= 0)
                execvpe(argv[0], argv, environment);
        error = errno;
        (void)!write(ends->failed, &error, sizeof(error));
        for (;;)
                (void)kill(getpid(), SIGKILL);
}

/* A pipe whose reading end does not block. Returns 0 or -errno. */
static int pipe_open(int *reader, int *writer) {
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        *reader = fds[0];
        *writer = fds[1];
        return fcntl(fds[0], F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

static int stream_open(struct child *child, struct child_stream *stream, int *writer,
                       void (*ready)(struct watch *watch, uint32_t events)) {
        int r = pipe_open(&stream->watch.fd, writer);

        if (r < 0)
                return r;
        stream->buffer = malloc(CHILD_LINE_MAX);
        if (!stream->buffer)
                return -ENOMEM;
        return reactor_watch(child->reactor, &stream->watch, stream->watch.fd, EPOLLIN, ready);
}

/* What is heard of the child: its output, its notifications, and why it did not start. Returns 0 or -errno. */
static int listen_to(struct child *child, struct child_ends *ends, char notify[static 64]) {
        int r = stream_open(child, &child->out, &ends->out, out_ready);

        if (r == 0)
                r = stream_open(child, &child->err, &ends->err, err_ready);
        if (r == 0)
                r = pipe_open(&child->start_fd, &ends->failed);
        if (r == 0)
                r = make_notify_socket(notify);
        if (r < 0)
                return r;
        child->notify.fd = r;
        return reactor_watch(child->reactor, &child->notify, child->notify.fd, EPOLLIN, notify_ready);
}

int child_start(struct child *child, char *const *argv) {
        struct child_ends ends = CHILD_ENDS_NULL;
        char notify[64], owner[sizeof(OWNER_VARIABLE) + OWNER_MAX];
        _cleanup_free_ char **environment = NULL;
        pid_t parent = getpid(), pid = -1;
        int r;

        cause_clear(&child->cause);
        snprintf(owner, sizeof(owner), OWNER_VARIABLE "=%s", child->owner);
        r = listen_to(child, &ends, notify);
        if (r == 0) {
                ends.in = open("/dev/null", O_RDONLY | O_CLOEXEC);
                environment = make_environment(notify, owner);
                r = environment ? 0 : -ENOMEM;
        }
        if (r == 0) {
                pid = fork();
                r = pid < 0 ? -errno : 0;
        }
        if (pid == 0)
                run(child, argv, environment, parent, &ends);
        ends_close(&ends);
        if (r < 0) {
                child_close(child);
                return r;
        }
        /* In both, so that it is done when either goes on. */
        (void)setpgid(pid, pid);
        child->process.pid = child->tree.root = pid;
        reaper_add(child->options.reaper, &child->process);
        return 0;
}

bool child_clear(struct child *child) {
        child->how[0] = '\0';
        child->end = (struct child_end){ .how = child->how };
        return tree_stop_left_overs(&child->tree, child->options.stop_timeout);
}

void child_kill(struct child *child) {
        if (child_is_there(child))
                tree_stop(&child->tree, 0);
}

void child_stop(struct child *child) {
        if (child_is_there(child))
                tree_stop(&child->tree, child->options.stop_timeout);
}

void child_stop_last(struct child *child) {
        child->tree.is_last = true;
        child_stop(child);
}

void child_deinit(struct child *child) {
        if (!child->reactor)
                return;
        tree_deinit(&child->tree);
        if (child->process.pid > 0)
                (void)waitpid(child->process.pid, NULL, WNOHANG);
        child_close(child);
}

const char *child_open_line(const struct child *child, bool error, size_t *len) {
        const struct child_stream *stream = error ? &child->err : &child->out;

        *len = stream->buffer ? stream->len : 0;
        return stream->buffer;
}

void child_each_process(struct child *child, void (*each)(pid_t pid, void *data), void *data) {
        if (!child_is_there(child))
                return;
        (void)tree_look(&child->tree);
        for (size_t i = 0; i < child->tree.count; i++)
                each(child->tree.members[i].process.id.pid, data);
}

static void add_usage(struct child_usage *usage, const struct process *process) {
        uint64_t read, written, disk;
        char text[512];

        usage->processes++;
        usage->processor += process->processor;
        (void)process_read_file(process->id.pid, "io", text, sizeof(text));
        if (sscanf(text, "rchar: %" SCNu64 " wchar: %" SCNu64 " syscr: %*u syscw: %*u read_bytes: %" SCNu64, &read, &written,
                   &disk) != 3)
                return;
        usage->read += read;
        usage->written += written;
        usage->read_from_disk += disk;
}

void child_usage(struct child *child, struct child_usage *usage) {
        *usage = (struct child_usage){ 0 };
        if (!child_is_there(child))
                return;
        (void)tree_look(&child->tree);
        for (size_t i = 0; i < child->tree.count; i++)
                add_usage(usage, &child->tree.members[i].process);
}
