#include "tests/soak/site.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "common/util.h"
#include "tests/support/clock.h"

/* Whatever else the machine does, a daemon that does not answer for so long never will. */
#define PATIENCE (180 * NSEC_PER_SEC)

/* So many differences are told one by one. */
#define WRONGS_TOLD 20

/* Connections to the model server that may be kept for later: one by each of four workers. */
#define MODEL_CONNECTIONS 4

/* Enough for each worker to have some. */
#define ASKED_AT_ONCE 16

const char *const character_names[CHARACTER_COUNT] = {
#define X(character, name) [CHARACTER_##character] = name,
        CHARACTERS(X)
#undef X
};

unsigned soak_wrongs;

void soak_wrong(const struct site *site, const char *format, ...) {
        va_list arguments;

        if (soak_wrongs++ >= WRONGS_TOLD)
                return;
        fprintf(stderr, "soak: %s: ", site->name);
        va_start(arguments, format);
        vfprintf(stderr, format, arguments);
        va_end(arguments);
        fputc('\n', stderr);
}

void tally_add(struct tally *sum, const struct tally *tally) {
        sum->lives += tally->lives;
        sum->sent += tally->sent;
        sum->answered += tally->answered;
        for (unsigned i = 0; i < PROTOCOL_CODE_COUNT; i++)
                sum->errors[i] += tally->errors[i];
        sum->cut += tally->cut;
        sum->left += tally->left;
        sum->refused += tally->refused;
        sum->others += tally->others;
}

uint64_t tally_failed(const struct tally *tally) {
        uint64_t n = tally->cut;

        for (unsigned i = 0; i < PROTOCOL_CODE_COUNT; i++)
                n += tally->errors[i];
        return n;
}

struct tally site_sum(const struct site *site) {
        struct tally sum = { 0 };

        for (unsigned i = 0; i < CHARACTER_COUNT; i++)
                tally_add(&sum, &site->tallies[i]);
        return sum;
}

static bool is_alive(struct site *site) {
        siginfo_t info = { 0 };

        return waitid(P_PID, (id_t)site->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
}

/* Between two looks at something that has no descriptor to wait on. */
static void look_again(struct site *site, uint64_t deadline, const char *what) {
        const struct timespec moment = { .tv_nsec = 10 * NSEC_PER_MSEC };

        if (!is_alive(site) || clock_now() >= deadline) {
                fprintf(stderr, "soak: %s: waited in vain until %s\n", site->name, what);
                errno = ETIMEDOUT;
                soak_fail(site->name);
        }
        nanosleep(&moment, NULL);
}

static int dial(const char *path) {
        const struct timeval patience = { .tv_sec = PATIENCE / NSEC_PER_SEC };
        struct sockaddr_un address;
        socklen_t len;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        (void)address_from_path(path, &address, &len);
        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
                soak_fail("socket");
        if (connect(fd, (const struct sockaddr *)&address, len) == 0)
                return fd;
        close(fd);
        return -1;
}

/* The port that it was given is in its log. */
static void find_port(struct site *site, uint64_t deadline) {
        static const char said[] = "Listening for HTTP at 127.0.0.1:";
        char text[4096], *at = NULL;

        for (; !at; look_again(site, deadline, "it listens for HTTP")) {
                FILE *file = fopen(site->log, "re");
                size_t n = file ? fread(text, 1, sizeof(text) - 1, file) : 0;

                if (file)
                        fclose(file);
                text[n] = '\0';
                at = strstr(text, said);
                if (at)
                        break;
        }
        site->web_port = (uint16_t)atoi(at + sizeof(said) - 1);
}

static bool has_sanitizer(pid_t pid) {
        char path[64], line[512];
        bool found = false;
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
        file = fopen(path, "re");
        while (file && !found && fgets(line, sizeof(line), file))
                found = strstr(line, "libasan") || strstr(line, "libtsan");
        if (file)
                fclose(file);
        return found;
}

_Noreturn static void run(const struct site *site, const char *msd, const char *const *arguments, pid_t parent) {
        char web[ADDRESS_PATH_MAX + 8];
        const char *argv[64] = { msd, "--socket", site->socket, "--http", web, "--http", "127.0.0.1:0" };
        int log = open(site->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);

        snprintf(web, sizeof(web), "unix:%s", site->web_socket);
        for (unsigned i = 7; *arguments; i++)
                argv[i] = *arguments++;
        /* SIGKILL would leave its model behind. */
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        /*
         * What is free is given back at once, and the threshold for that does not rise with what was given back before,
         * mallopt(3): so what it has at rest does not depend on how much it once had.
         */
        setenv("MALLOC_TRIM_THRESHOLD_", "65536", 1);
        setenv("MALLOC_MMAP_THRESHOLD_", "65536", 1);
        if (log >= 0 && null >= 0 && getppid() == parent && dup2(null, STDIN_FILENO) >= 0 && dup2(null, STDOUT_FILENO) >= 0 &&
            dup2(log, STDERR_FILENO) >= 0)
                execv(msd, (char *const *)argv);
        _exit(127);
}

void site_start(struct site *site, const char *msd, const char *directory, const char *const *arguments) {
        uint64_t deadline = clock_now() + PATIENCE;
        pid_t parent = getpid();

        snprintf(site->socket, sizeof(site->socket), "%s/%s", directory, site->name);
        snprintf(site->web_socket, sizeof(site->web_socket), "%s/%s-http", directory, site->name);
        snprintf(site->log, sizeof(site->log), "%s/%s.log", directory, site->name);
        site->pid = fork();
        if (site->pid == 0)
                run(site, msd, arguments, parent);
        if (site->pid < 0)
                soak_fail("fork");
        while ((site->control = dial(site->socket)) < 0)
                look_again(site, deadline, "it takes connections");
        find_port(site, deadline);
        site->sanitized = has_sanitizer(site->pid);
}

void site_stop(struct site *site) {
        int status;

        kill(site->pid, SIGTERM);
        if (waitpid(site->pid, &status, 0) != site->pid)
                soak_fail("waitpid");
        site->pid = 0;
        close(site->control);
        if (status != 0)
                soak_wrong(site, "It ended with %s %d", WIFSIGNALED(status) ? "signal" : "exit status",
                           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

/* The child that it has, 0 for none: no other is there. */
static pid_t find_model(const struct site *site) {
        char path[64];
        int pid = 0;
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)site->pid, (int)site->pid);
        file = fopen(path, "re");
        if (file && fscanf(file, "%d", &pid) != 1)
                pid = 0;
        if (file)
                fclose(file);
        return pid;
}

void site_kill(struct site *site) {
        pid_t model;

        if (site->pid <= 0)
                return;
        model = find_model(site);
        /* In this order, or it would start another. */
        kill(site->pid, SIGKILL);
        waitpid(site->pid, NULL, 0);
        if (model > 0)
                kill(model, SIGKILL);
        site->pid = 0;
}

void site_kill_model(struct site *site) {
        pid_t model = find_model(site);
        _cleanup_close_ int fd = model > 0 ? pidfd_open(model, 0) : -1;

        /* Looked at again: what the descriptor stands for is its child. */
        if (fd >= 0 && find_model(site) == model && pidfd_send_signal(fd, SIGKILL, NULL, 0) == 0)
                site->deaths++;
}

static void send_all(struct site *site, int fd, const char *text) {
        if (send(fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text))
                soak_fail(site->name);
}

/* The next reply's line, and its body, if it has one, behind it. */
static void receive(struct site *site, int fd, char *reply, size_t size) {
        size_t len = 0, lines = 0;

        do {
                ssize_t n = recv(fd, reply + len, size - 1 - len, 0);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0) {
                        if (n == 0)
                                errno = ECONNRESET;
                        soak_fail(site->name);
                }
                len += (size_t)n;
                reply[len] = '\0';
                lines = 0;
                for (const char *p = reply; (p = strchr(p, '\n')); p++)
                        lines++;
        } while (lines < (strncmp(reply, "ERR", 3) == 0 ? 1U : 2U));
}

static uint64_t member(const json_t *json, const char *name) {
        return (uint64_t)json_integer_value(json_object_get(json, name));
}

void site_status(struct site *site, struct account *account) {
        uint64_t begin = clock_now();
        char reply[4096], *body;
        json_t *json;

        send_all(site, site->control, "STATUS\n");
        receive(site, site->control, reply, sizeof(reply));
        site->slowest_status = MAX(site->slowest_status, clock_now() - begin);
        body = strchr(reply, '\n') + 1;
        json = json_loads(body, 0, NULL);
        if (!json)
                soak_wrong(site, "This is no status: %s", reply);
        *account = (struct account){
                .completed = member(json, "completed"),
                .failed = member(json, "failed"),
                .cancelled = member(json, "cancelled"),
                .waiting = member(json, "waiting"),
                .processing = member(json, "processing"),
                .connections = member(json, "connections"),
                .generation = member(json, "generation"),
        };
        json_decref(json);
        site->most_connections = MAX(site->most_connections, account->connections);
}

static uint64_t metric(struct site *site, const char *text, const char *name) {
        const char *at = strstr(text, name);

        if (!at) {
                soak_wrong(site, "There is no %s in: %s", name, text);
                return 0;
        }
        return strtoull(at + strlen(name), NULL, 10);
}

void site_metrics(struct site *site, struct account *account) {
        _cleanup_close_ int fd = dial(site->web_socket);
        char text[16384];
        size_t len = 0;
        ssize_t n;

        if (fd < 0)
                soak_fail(site->web_socket);
        send_all(site, fd, "GET /-/metrics HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n");
        while ((n = recv(fd, text + len, sizeof(text) - 1 - len, 0)) > 0)
                len += (size_t)n;
        text[len] = '\0';
        *account = (struct account){
                .accepted = metric(site, text, "\nmsd_requests_accepted_total "),
                .completed = metric(site, text, "\nmsd_requests_total{outcome=\"completed\"} "),
                .failed = metric(site, text, "\nmsd_requests_total{outcome=\"failed\"} "),
                .cancelled = metric(site, text, "\nmsd_requests_total{outcome=\"cancelled\"} "),
                .waiting = metric(site, text, "\nmsd_requests_waiting "),
                .processing = metric(site, text, "\nmsd_requests_processing "),
                .connections = metric(site, text, "\nmsd_connections "),
                .generation = metric(site, text, "\nmsd_generation "),
        };
}

/* How many entries a directory of /proc has. */
static uint64_t count_entries(const struct site *site, const char *name) {
        const struct dirent *entry;
        char path[64];
        uint64_t n = 0;
        DIR *directory;

        snprintf(path, sizeof(path), "/proc/%d/%s", (int)site->pid, name);
        directory = opendir(path);
        if (!directory)
                soak_fail(path);
        while ((entry = readdir(directory)))
                n += entry->d_name[0] != '.';
        closedir(directory);
        return n;
}

void site_wait_until_idle(struct site *site, uint64_t connections) {
        uint64_t deadline = clock_now() + PATIENCE;
        struct account account;

        for (;;) {
                site_status(site, &account);
                if (account.waiting == 0 && account.processing == 0 && account.connections == connections)
                        return;
                if (clock_now() >= deadline) {
                        soak_wrong(site,
                                   "Everybody has gone, and %" PRIu64 " requests wait, %" PRIu64 " are with the model, %" PRIu64
                                   " of %" PRIu64 " clients are connected",
                                   account.waiting, account.processing, account.connections, connections);
                        return;
                }
                look_again(site, UINT64_MAX, "it is idle");
        }
}

bool site_load(struct site *site) {
        char reply[4096];

        send_all(site, site->control, "LOAD\n");
        receive(site, site->control, reply, sizeof(reply));
        site->tallies[CHARACTER_SOAK].others++;
        return strcmp(reply, "OK - 5\nready\n") == 0;
}

static void wait_until_ready(struct site *site) {
        uint64_t deadline = clock_now() + PATIENCE;

        while (!site_load(site))
                look_again(site, deadline, "its model is ready");
}

/* Kills the model, and waits until the daemon has noticed: a request that comes before may fail. */
static void replace_model(struct site *site) {
        uint64_t deadline = clock_now() + PATIENCE;
        struct account before, now;

        if (site->model_port == 0)
                return;
        site_status(site, &before);
        for (site_kill_model(site);; look_again(site, deadline, "its model is another")) {
                site_status(site, &now);
                if (now.generation != before.generation)
                        return;
        }
}

/* Each worker has something to ask the model, one by one, so that it needs one connection to it. */
static void ask_everywhere(struct site *site) {
        struct tally *tally = &site->tallies[CHARACTER_SOAK];
        int fds[ASKED_AT_ONCE];
        char reply[4096];

        for (unsigned i = 0; i < ASKED_AT_ONCE; i++) {
                fds[i] = dial(site->socket);
                if (fds[i] < 0)
                        soak_fail(site->socket);
        }
        for (unsigned i = 0; i < ASKED_AT_ONCE; i++) {
                send_all(site, fds[i], "REQUEST x 4\nsoak\n");
                tally->sent++;
                receive(site, fds[i], reply, sizeof(reply));
                if (strcmp(reply, site->echoes ? "OK x 9\necho soak\n" : "OK x 19\nResponse x from sim\n") == 0)
                        tally->answered++;
                else
                        soak_wrong(site, "A request at rest was answered with %s", reply);
        }
        for (unsigned i = 0; i < ASKED_AT_ONCE; i++)
                close(fds[i]);
        tally->lives += ASKED_AT_ONCE;
}

/* Looks for a socket in a table of /proc/net; of tcp `port` is that of its peer. */
static bool find_socket(const struct site *site, const char *table, unsigned long inode, unsigned *port) {
        char path[64], line[512];
        bool found = false;
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/net/%s", (int)site->pid, table);
        file = fopen(path, "re");
        if (!file)
                soak_fail(path);
        while (!found && fgets(line, sizeof(line), file)) {
                unsigned long one = 0;

                *port = 0;
                if (strcmp(table, "tcp") == 0)
                        (void)sscanf(line, "%*d: %*s %*8[0-9A-F]:%x %*s %*s %*s %*s %*s %*s %lu", port, &one);
                else
                        (void)sscanf(line, "%*x: %*s %*s %*s %*s %*s %lu", &one);
                found = one == inode;
        }
        fclose(file);
        return found;
}

/* How many of its sockets are connected to its model server, or were: one that was reset is in no table any more. */
static uint64_t count_model_connections(const struct site *site) {
        const struct dirent *entry;
        char path[320], target[64];
        uint64_t n = 0;
        DIR *directory;

        snprintf(path, sizeof(path), "/proc/%d/fd", (int)site->pid);
        directory = opendir(path);
        if (!directory)
                soak_fail(path);
        while (site->model_port > 0 && (entry = readdir(directory))) {
                unsigned long inode;
                unsigned port;
                ssize_t len;

                snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)site->pid, entry->d_name);
                len = readlink(path, target, sizeof(target) - 1);
                target[len > 0 ? len : 0] = '\0';
                if (sscanf(target, "socket:[%lu]", &inode) != 1 || find_socket(site, "unix", inode, &port))
                        continue;
                n += !find_socket(site, "tcp", inode, &port) ||
                     port == site->model_port;
        }
        closedir(directory);
        return n;
}

void site_settle(struct site *site, uint64_t connections) {
        uint64_t deadline = clock_now() + PATIENCE;

        site_wait_until_idle(site, connections);
        wait_until_ready(site);
        /* Of a server that lives it keeps as many as it ever needed at once. */
        replace_model(site);
        for (;;) {
                wait_until_ready(site);
                ask_everywhere(site);
                site_wait_until_idle(site, connections);
                if (count_model_connections(site) <= MODEL_CONNECTIONS)
                        return;
                if (clock_now() >= deadline) {
                        soak_wrong(site, "At rest it has %" PRIu64 " connections to its model server", count_model_connections(site));
                        return;
                }
                look_again(site, UINT64_MAX, "it is at rest");
        }
}

void site_measure(struct site *site, struct size *size) {
        struct account account;
        char line[256], path[64];
        uint64_t kilobytes;
        FILE *file;

        site_status(site, &account);
        *size = (struct size){
                .descriptors = count_entries(site, "fd") - account.connections - count_model_connections(site),
                .threads = count_entries(site, "task"),
        };
        snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)site->pid);
        file = fopen(path, "re");
        if (!file)
                soak_fail(path);
        while (fgets(line, sizeof(line), file))
                if (sscanf(line, "Private_Dirty: %" SCNu64, &kilobytes) == 1 || sscanf(line, "Swap: %" SCNu64, &kilobytes) == 1)
                        size->memory += kilobytes * 1024;
        fclose(file);
}
