#include "tests/bench/tool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/address.h"
#include "common/number.h"
#include "common/util.h"

#define PATIENCE (10 * NSEC_PER_SEC)
#define REST (20 * NSEC_PER_MSEC)
#define CHILDREN_MAX 16

static const char strace[] = "/usr/bin/strace";
static const char *program;
static void (*clean)(void);

void tool_init(const char *name, void (*clean_up)(void)) {
        program = name;
        clean = clean_up;
}

void tool_fail(const char *what) {
        fprintf(stderr, "%s: %s: %s\n", program, what, strerror(errno));
        clean();
        exit(1);
}

uint64_t tool_now(void) {
        struct timespec time;

        clock_gettime(CLOCK_MONOTONIC, &time);
        return (uint64_t)time.tv_sec * NSEC_PER_SEC + (uint64_t)time.tv_nsec;
}

pid_t tool_start(const char *const *argv, int output) {
        pid_t parent = getpid(), pid = fork();

        if (pid == 0) {
                int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

                /* Of those that have children SIGKILL would leave them behind. */
                prctl(PR_SET_PDEATHSIG, SIGTERM);
                if (getppid() != parent)
                        _exit(1);
                dup2(output >= 0 ? output : null, STDOUT_FILENO);
                dup2(null, STDERR_FILENO);
                execv(argv[0], (char *const *)argv);
                _exit(127);
        }
        if (pid < 0)
                tool_fail("fork");
        return pid;
}

/* Those that a process has started. Returns how many. */
static unsigned find_children(pid_t pid, pid_t children[static CHILDREN_MAX]) {
        char path[64];
        unsigned n = 0;
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
        file = fopen(path, "re");
        while (file && n < CHILDREN_MAX && fscanf(file, "%d", &children[n]) == 1)
                n++;
        if (file)
                fclose(file);
        return n;
}

void tool_stop(pid_t *pid) {
        pid_t children[CHILDREN_MAX];

        if (*pid > 0) {
                unsigned n = find_children(*pid, children);

                /* In this order, or it would start others in their place. */
                kill(*pid, SIGKILL);
                waitpid(*pid, NULL, 0);
                for (unsigned i = 0; i < n; i++)
                        kill(children[i], SIGKILL);
        }
        *pid = 0;
}

static int dial(const struct sockaddr *address, socklen_t len, const char *what) {
        for (uint64_t deadline = tool_now() + PATIENCE; tool_now() < deadline;) {
                int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

                if (fd < 0)
                        tool_fail("socket");
                if (connect(fd, address, len) == 0)
                        return fd;
                close(fd);
        }
        tool_fail(what);
}

int tool_dial(const char *path) {
        struct sockaddr_un address;
        socklen_t len;

        (void)address_from_path(path, &address, &len);
        return dial((const struct sockaddr *)&address, len, path);
}

int tool_dial_port(uint16_t port) {
        const struct sockaddr_in address = {
                .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)
        };
        const int on = 1;
        int fd = dial((const struct sockaddr *)&address, sizeof(address), "connect");

        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        return fd;
}

double tool_cpu(pid_t pid) {
        pid_t children[CHILDREN_MAX];
        clockid_t clock;
        struct timespec time;
        double cpu;

        if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) < 0)
                tool_fail("clock_getcpuclockid");
        cpu = (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
        for (unsigned i = 0, n = find_children(pid, children); i < n; i++)
                cpu += tool_cpu(children[i]);
        return cpu;
}

double tool_cpu_at_rest(pid_t pid) {
        const struct timespec moment = { .tv_nsec = REST };
        double cpu = tool_cpu(pid), before;

        do {
                before = cpu;
                nanosleep(&moment, NULL);
                cpu = tool_cpu(pid);
        } while (cpu > before);
        return cpu;
}

double tool_memory(pid_t pid) {
        char path[64];
        unsigned long pages = 0;
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
        file = fopen(path, "re");
        if (!file || fscanf(file, "%*u %lu", &pages) != 1)
                tool_fail(path);
        fclose(file);
        return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

double tool_memory_share(pid_t pid) {
        pid_t children[CHILDREN_MAX];
        char path[64], line[256];
        double kilobytes = 0, bytes;
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
        file = fopen(path, "re");
        if (!file)
                tool_fail(path);
        while (fgets(line, sizeof(line), file) && sscanf(line, "Pss: %lf", &kilobytes) != 1)
                ;
        fclose(file);
        bytes = kilobytes * 1024;
        for (unsigned i = 0, n = find_children(pid, children); i < n; i++)
                bytes += tool_memory_share(children[i]);
        return bytes;
}

/* Whether each thread of the process has a tracer. */
static bool is_traced(pid_t pid) {
        char path[sizeof("/proc//task//status") + 16 + NAME_MAX], line[256];
        const struct dirent *entry;
        bool traced = true;
        DIR *tasks;

        snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
        tasks = opendir(path);
        while (tasks && traced && (entry = readdir(tasks))) {
                int tracer = 0;
                FILE *file;

                if (entry->d_name[0] == '.')
                        continue;
                snprintf(path, sizeof(path), "/proc/%d/task/%s/status", (int)pid, entry->d_name);
                file = fopen(path, "re");
                while (file && fgets(line, sizeof(line), file) && sscanf(line, "TracerPid: %d", &tracer) != 1)
                        ;
                if (file)
                        fclose(file);
                traced = tracer > 0;
        }
        if (tasks)
                closedir(tasks);
        return traced;
}

pid_t tool_trace(pid_t pid, const char *path) {
        const struct timespec moment = { .tv_nsec = REST };
        const uint64_t deadline = tool_now() + PATIENCE;
        pid_t traced[1 + CHILDREN_MAX], tracer;
        unsigned count = 1 + find_children(pid, traced + 1), n = 0;
        const char *argv[8 + 2 * ARRAY_SIZE(traced)];
        char numbers[ARRAY_SIZE(traced)][16];

        if (access(strace, X_OK) < 0)
                return -1;
        traced[0] = pid;
        argv[n++] = strace;
        argv[n++] = "-f";
        argv[n++] = "-c";
        argv[n++] = "-qq";
        argv[n++] = "-o";
        argv[n++] = path;
        for (unsigned i = 0; i < count; i++) {
                snprintf(numbers[i], sizeof(numbers[i]), "%d", (int)traced[i]);
                argv[n++] = "-p";
                argv[n++] = numbers[i];
        }
        argv[n] = NULL;
        tracer = tool_start(argv, -1);
        for (unsigned i = 0; i < count; i++)
                while (!is_traced(traced[i])) {
                        if (waitpid(tracer, NULL, WNOHANG) != 0)
                                return -1;
                        if (tool_now() >= deadline) {
                                tool_stop(&tracer);
                                return -1;
                        }
                        nanosleep(&moment, NULL);
                }
        return tracer;
}

double tool_count_calls(pid_t *tracer, const char *path) {
        char line[256], last[256] = "";
        double calls = -1;
        FILE *file;

        /* It lets go, and writes its table, whose last line has the sums. */
        kill(*tracer, SIGTERM);
        waitpid(*tracer, NULL, 0);
        *tracer = 0;
        file = fopen(path, "re");
        while (file && fgets(line, sizeof(line), file))
                memcpy(last, line, sizeof(last));
        if (file)
                fclose(file);
        unlink(path);
        return sscanf(last, "%*f %*f %*f %lf", &calls) == 1 ? calls : -1;
}

void tool_raise_descriptor_limit(void) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
                limit.rlim_cur = limit.rlim_max;
                (void)setrlimit(RLIMIT_NOFILE, &limit);
        }
}

static int compare(const void *a, const void *b) {
        const double left = *(const double *)a, right = *(const double *)b;

        return left < right ? -1 : left > right;
}

double tool_median(double *values, size_t n) {
        qsort(values, n, sizeof(*values), compare);
        return values[n / 2];
}
