#include "tests/bench/server.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/address.h"
#include "common/number.h"
#include "common/protocol.h"
#include "common/util.h"

#define START_DEADLINE (10 * NSEC_PER_SEC)
/* A server may have a million requests to read before it comes to a STATUS. */
#define STATUS_DEADLINE_SECONDS 120
#define REST_SECONDS 0.02

static const char *const kind_names[] = { "floor", "msd", "asyncio", "msd-1", "floor-1" };

_Static_assert(ARRAY_SIZE(kind_names) == SERVER_KIND_MAX, "each kind has a name");

const char *server_kind_name(enum server_kind kind) {
        return kind_names[kind];
}

uint64_t server_now(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

int server_sleep(double seconds) {
        struct timespec time = { .tv_sec = (time_t)seconds };

        time.tv_nsec = (long)((seconds - (double)time.tv_sec) * (double)NSEC_PER_SEC);
        return -clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
}

_Noreturn static void child_run(const struct server_programs *programs, enum server_kind kind,
                                const char *path, double load, pid_t parent, int output_fd, int fault_fd) {
        const char *program = programs->paths[kind];
        char seconds[32];
        const char *const lines[][16] = {
                [SERVER_FLOOR] = { program, load < 0 ? "echo" : "hold", path, load < 0 ? SERVER_THREADS : seconds, NULL },
                [SERVER_FLOOR_ONE] = { program, "echo", path, "1", NULL },
                [SERVER_MSD] = { program, "--socket", path, "--load-time", seconds, "--inference-time", "0",
                                 "--threads", SERVER_THREADS, "--quiet", NULL },
                [SERVER_MSD_ONE] = { program, "--socket", path, "--load-time", seconds, "--inference-time", "0",
                                     "--threads", "1", "--quiet", NULL },
                [SERVER_REFERENCE] = { "python3", program, path, seconds, NULL },
        };
        int fault;

        snprintf(seconds, sizeof(seconds), "%.3f", MAX(load, 0.0));
        /* Whatever ends the benchmark ends its servers. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent && dup2(output_fd, STDOUT_FILENO) >= 0)
                execvp(lines[kind][0], (char **)lines[kind]);
        fault = errno;
        (void)!write(fault_fd, &fault, sizeof(fault));
        _exit(127);
}

int server_start(struct server *server, const struct server_programs *programs, enum server_kind kind,
                 double load) {
        _cleanup_close_ int output_fd = -1, fault_fd = -1, fault_read_fd = -1;
        char path[ADDRESS_PATH_MAX];
        int fds[2], fault, r;
        pid_t parent = getpid();
        ssize_t n;

        *server = (struct server)SERVER_NULL;
        r = snprintf(path, sizeof(path), "%s/%s.sock", programs->directory, kind_names[kind]);
        if (r < 0 || (size_t)r >= sizeof(path))
                return -ENAMETOOLONG;
        if (address_from_path(path, &server->address, &server->address_len) != 0)
                return -ENAMETOOLONG;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        server->output_fd = fds[0];
        output_fd = fds[1];
        if (fcntl(server->output_fd, F_SETFL, O_NONBLOCK) < 0 || pipe2(fds, O_CLOEXEC) < 0) {
                r = -errno;
                server_stop(server);
                return r;
        }
        fault_read_fd = fds[0];
        fault_fd = fds[1];

        server->forked = server_now();
        server->pid = fork();
        if (server->pid == 0)
                child_run(programs, kind, path, load, parent, output_fd, fault_fd);
        if (server->pid < 0) {
                r = -errno;
                server_stop(server);
                return r;
        }

        /* The other end closes when the program is executed, or tells why it was not. */
        fault_fd = util_close(fault_fd);
        n = read(fault_read_fd, &fault, sizeof(fault));
        server->executed = server_now();
        if (n != 0) {
                r = n == sizeof(fault) ? -fault : -EINTR;
                server_stop(server);
                return r;
        }
        return 0;
}

void server_stop(struct server *server) {
        if (server->pid > 0) {
                kill(server->pid, SIGKILL);
                while (waitpid(server->pid, NULL, 0) < 0 && errno == EINTR)
                        ;
                unlink(server->address.sun_path);
        }
        util_close(server->output_fd);
        util_close(server->control_fd);
        *server = (struct server)SERVER_NULL;
}

int server_connect(const struct server *server) {
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || connect(fd, (const struct sockaddr *)&server->address, server->address_len) < 0)
                return -errno;
        return STEAL_FD(fd);
}

int server_await_socket(struct server *server) {
        struct timeval patience = { .tv_sec = STATUS_DEADLINE_SECONDS };
        int fd;

        for (;;) {
                fd = server_connect(server);
                if (fd >= 0)
                        break;
                if (fd != -ENOENT && fd != -ECONNREFUSED)
                        return fd;
                if (waitpid(server->pid, NULL, WNOHANG) != 0) {
                        server->pid = -1;
                        return -ECHILD;
                }
                if (server_now() - server->forked > START_DEADLINE)
                        return -ETIMEDOUT;
                sched_yield();
        }
        server->connected = server_now();
        server->control_fd = fd;
        return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ? -errno : 0;
}

int server_listen(struct server *server) {
        for (;;) {
                size_t room = sizeof(server->output) - 1 - server->output_len;
                ssize_t n = read(server->output_fd, server->output + server->output_len, room);

                if (n < 0 && errno == EAGAIN)
                        return 0;
                if (n <= 0)
                        return n < 0 ? -errno : -ECHILD;
                server->output_len += (size_t)n;
                server->output[server->output_len] = '\0';
                if (!server->loading && strstr(server->output, "Model loading...\n"))
                        server->loading = server_now();
                if (!server->ready && strstr(server->output, "Model ready!\n"))
                        server->ready = server_now();
                /* Two short lines are all that is expected. */
                if (server->output_len == sizeof(server->output) - 1)
                        return -EBADMSG;
        }
}

int server_waiting(struct server *server, uint64_t *waiting) {
        static const char key[] = "\"waiting\":";
        char reply[4096];
        const char *value, *end;
        size_t len = 0;

        if (send(server->control_fd, "STATUS\n", 7, MSG_NOSIGNAL) < 0)
                return -errno;
        do {
                ssize_t n = recv(server->control_fd, reply + len, sizeof(reply) - 1 - len, 0);

                if (n <= 0)
                        return n < 0 ? -errno : -ECONNRESET;
                len += (size_t)n;
                reply[len] = '\0';
                /* The head is a line, and so is its body. */
                end = strchr(reply, '\n');
                end = end ? strchr(end + 1, '\n') : NULL;
        } while (!end && len < sizeof(reply) - 1);

        value = strstr(reply, key);
        if (!end || !value)
                return -EBADMSG;
        value += strlen(key);
        value += strspn(value, " ");
        return number_parse(value, strspn(value, "0123456789"), UINT64_MAX, waiting) == 0 ? 0 : -EBADMSG;
}

int server_await_loading(struct server *server) {
        struct pollfd pollfd = { .fd = server->output_fd, .events = POLLIN };
        int r;

        while (!server->loading) {
                r = poll(&pollfd, 1, (int)(START_DEADLINE / NSEC_PER_MSEC));
                if (r <= 0)
                        return r < 0 ? -errno : -ETIMEDOUT;
                r = server_listen(server);
                if (r < 0)
                        return r;
        }
        return 0;
}

int server_cpu(const struct server *server, uint64_t *nsec) {
        struct timespec time;
        clockid_t clock;
        int r = clock_getcpuclockid(server->pid, &clock);

        if (r != 0)
                return -r;
        if (clock_gettime(clock, &time) < 0)
                return -errno;
        *nsec = (uint64_t)time.tv_sec * NSEC_PER_SEC + (uint64_t)time.tv_nsec;
        return 0;
}

int server_cpu_at_rest(const struct server *server, uint64_t *nsec) {
        uint64_t before;
        int r;

        r = server_cpu(server, nsec);
        if (r < 0)
                return r;
        do {
                before = *nsec;
                r = server_sleep(REST_SECONDS);
                if (r == 0)
                        r = server_cpu(server, nsec);
        } while (r == 0 && *nsec != before);
        return r;
}

/* Adds the numbers behind `key` at the begin of a line of the file to `*sum`. */
static int add_numbers(const char *path, const char *key, uint64_t *sum) {
        FILE *file = fopen(path, "re");
        char line[256];

        if (!file)
                return -errno;
        while (fgets(line, sizeof(line), file))
                if (strncmp(line, key, strlen(key)) == 0)
                        *sum += strtoull(line + strlen(key), NULL, 10);
        fclose(file);
        return 0;
}

int server_memory(const struct server *server, uint64_t *bytes) {
        char path[64];
        int r;

        *bytes = 0;
        snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", server->pid);
        r = add_numbers(path, "Rss:", bytes);
        *bytes *= 1024;
        return r;
}

int server_switches(const struct server *server, uint64_t *switches) {
        char path[64 + sizeof(((struct dirent *)NULL)->d_name)];
        const struct dirent *entry;
        DIR *tasks;
        int r = 0;

        *switches = 0;
        snprintf(path, sizeof(path), "/proc/%d/task", server->pid);
        tasks = opendir(path);
        if (!tasks)
                return -errno;
        while (r == 0 && (entry = readdir(tasks))) {
                if (entry->d_name[0] == '.')
                        continue;
                snprintf(path, sizeof(path), "/proc/%d/task/%s/status", server->pid, entry->d_name);
                r = add_numbers(path, "voluntary_ctxt_switches:", switches);
                if (r == 0)
                        r = add_numbers(path, "nonvoluntary_ctxt_switches:", switches);
        }
        closedir(tasks);
        return r;
}

size_t server_format_request(char buffer[static SERVER_MESSAGE_MAX], uint64_t id) {
        return (size_t)snprintf(buffer, SERVER_MESSAGE_MAX, "REQUEST %" PRIu64 "\n", id);
}

size_t server_format_answer(char buffer[static SERVER_MESSAGE_MAX], uint64_t id) {
        char body[SERVER_MESSAGE_MAX / 2];
        int n = snprintf(body, sizeof(body), "Response %" PRIu64 " from sim", id);

        return (size_t)snprintf(buffer, SERVER_MESSAGE_MAX, "OK %" PRIu64 " %d\n%s\n", id, n, body);
}
