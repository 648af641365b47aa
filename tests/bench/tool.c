#include "tests/bench/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/address.h"
#include "common/number.h"

#define PATIENCE (10 * NSEC_PER_SEC)
#define REST (20 * NSEC_PER_MSEC)
#define CHILDREN_MAX 16

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

static int compare(const void *a, const void *b) {
        const double left = *(const double *)a, right = *(const double *)b;

        return left < right ? -1 : left > right;
}

double tool_median(double *values, size_t n) {
        qsort(values, n, sizeof(*values), compare);
        return values[n / 2];
}
