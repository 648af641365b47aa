#include "tests/support/process.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <pty.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"

/* A full pipe between the program and the test stalls the program: as much as anyone may have. */
#define PIPE_SIZE (1024 * 1024)

/* What a program that runs under a test must not find in the environment unless the test says so. */
static const char *const foreign_environment[] = {
        "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "RUNTIME_DIRECTORY",
        "XDG_RUNTIME_DIR", "MSD_SOCKET", "JOURNAL_STREAM", "INVOCATION_ID", "WATCHDOG_USEC", "WATCHDOG_PID",
};

static struct process *running[16];

static void running_add(struct process *process) {
        for (size_t i = 0; i < ARRAY_SIZE(running); i++)
                if (!running[i]) {
                        running[i] = process;
                        return;
                }
        ck_abort_msg("More than %zu programs at once", ARRAY_SIZE(running));
}

static void running_remove(struct process *process) {
        for (size_t i = 0; i < ARRAY_SIZE(running); i++)
                if (running[i] == process)
                        running[i] = NULL;
}

/* In the child, where nothing may return: what fails is said on its standard error. */
__attribute__((noreturn)) static void child_fail(const char *what) {
        dprintf(STDERR_FILENO, "%s: %s\n", what, strerror(errno));
        _exit(127);
}

/* Puts them at 3 and up: from beyond, where none of them is in the way of another. */
static void pass_descriptors(const struct process_setup *setup) {
        int beyond[64];

        if (setup->passed_n > ARRAY_SIZE(beyond))
                child_fail("Too many descriptors to pass");
        for (size_t i = 0; i < setup->passed_n; i++) {
                beyond[i] = fcntl(setup->passed[i], F_DUPFD, 3 + (int)setup->passed_n);
                if (beyond[i] < 0)
                        child_fail("F_DUPFD");
        }
        for (size_t i = 0; i < setup->passed_n; i++)
                if (dup2(beyond[i], 3 + (int)i) < 0)
                        child_fail("dup2");
}

__attribute__((noreturn)) static void child_run(const char *path, const char *const *argv,
                                                const struct process_setup *setup, pid_t parent,
                                                const int fds[static 3]) {
        sigset_t none;

        for (int i = 0; i < 3; i++)
                if (dup2(fds[i], i) < 0)
                        child_fail("dup2");
        pass_descriptors(setup);
        if (close_range(3 + (unsigned)setup->passed_n, UINT32_MAX, 0) < 0)
                child_fail("close_range");

        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        signal(SIGPIPE, SIG_DFL);
        /* Ignored where the tests run under nohup(1). */
        signal(SIGHUP, SIG_DFL);
        if (setup->descriptors > 0) {
                struct rlimit limit = { setup->descriptors, setup->descriptors };

                if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                        child_fail("setrlimit");
        }
        if (setup->uid != 0 &&
            (setgroups(0, NULL) < 0 || setresgid(setup->uid, setup->uid, setup->uid) < 0 ||
             setresuid(setup->uid, setup->uid, setup->uid) < 0))
                child_fail("setresuid");

        /* A change of credentials clears it, so it comes last. */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
                child_fail("prctl");
        if (getppid() != parent)
                _exit(127);

        for (size_t i = 0; i < ARRAY_SIZE(foreign_environment); i++)
                unsetenv(foreign_environment[i]);
        if (setup->passed_n > 0) {
                char text[32];

                snprintf(text, sizeof(text), "%zu", setup->passed_n);
                setenv("LISTEN_FDS", text, 1);
                snprintf(text, sizeof(text), "%d", (int)getpid());
                setenv("LISTEN_PID", text, 1);
                setenv("LISTEN_FDNAMES", setup->passed_names, 1);
        }
        for (const char *const *e = setup->environment; e && *e; e++)
                if (putenv((char *)*e) != 0)
                        child_fail("putenv");

        execv(path, (char *const *)argv);
        child_fail(path);
}

static void make_pipe(int *ours, int *theirs, bool we_read) {
        int fds[2];

        ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
        *ours = fds[we_read ? 0 : 1];
        *theirs = fds[we_read ? 1 : 0];
        ck_assert_int_eq(fcntl(*ours, F_SETFL, O_NONBLOCK), 0);
        (void)fcntl(*ours, F_SETPIPE_SZ, PIPE_SIZE);
}

void process_start(struct process *process, const char *path, const char *const *argv,
                   const struct process_setup *setup) {
        static const struct process_setup plain;
        pid_t parent = getpid();
        int fds[3];

        if (!setup)
                setup = &plain;

        *process = (struct process)PROCESS_NULL;
        if (setup->input) {
                make_pipe(&process->in, &fds[0], false);
                process->input = setup->input;
                process->input_left = setup->input_len;
                signal(SIGPIPE, SIG_IGN);
        } else {
                fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
                ck_assert_int_ge(fds[0], 0);
        }
        make_pipe(&process->out, &fds[1], true);
        if (setup->terminal) {
                struct winsize size = { .ws_row = 25, .ws_col = 80 };

                ck_assert_int_eq(openpty(&process->err, &fds[2], NULL, NULL, &size), 0);
                ck_assert_int_eq(fcntl(process->err, F_SETFL, O_NONBLOCK), 0);
                ck_assert_int_eq(fcntl(process->err, F_SETFD, FD_CLOEXEC), 0);
        } else {
                make_pipe(&process->err, &fds[2], true);
        }

        process->pid = fork();
        ck_assert_int_ge(process->pid, 0);
        if (process->pid == 0)
                child_run(path, argv, setup, parent, fds);
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
                close(fds[i]);

        process->pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);
        ck_assert_int_ge(process->pidfd, 0);
        running_add(process);
}

void process_forked(void) {
        for (size_t i = 0; i < ARRAY_SIZE(running); i++)
                running[i] = NULL;
}

static void process_reap(struct process *process) {
        int status;

        ck_assert_int_eq(wait4(process->pid, &status, 0, &process->usage), process->pid);
        process->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        process->exited = true;
}

void process_free(struct process *process) {
        if (process->pid > 0 && !process->exited) {
                process_signal(process, SIGKILL);
                process_reap(process);
        }
        running_remove(process);
        process->pidfd = util_close(process->pidfd);
        process->in = util_close(process->in);
        process->out = util_close(process->out);
        process->err = util_close(process->err);
        text_deinit(&process->output);
        text_deinit(&process->errors);
        *process = (struct process)PROCESS_NULL;
}

void process_signal(struct process *process, int signal) {
        ck_assert_int_gt(process->pid, 0);
        ck_assert(!process->exited);
        ck_assert_int_eq(kill(process->pid, signal), 0);
}

static void process_read(struct text *text, int *fd) {
        ssize_t n = text_read(text, *fd);

        /* A terminal whose other side is closed says EIO. */
        if (n == 0 || n == -EIO)
                *fd = util_close(*fd);
        else
                ck_assert_msg(n > 0 || n == -EAGAIN || n == -EINTR, "Reading from a program: %s",
                              strerror((int)-n));
}

static void process_write(struct process *process) {
        ssize_t n = 0;

        if (process->input_left > 0)
                n = write(process->in, process->input, process->input_left);
        if (n > 0) {
                process->input += n;
                process->input_left -= (size_t)n;
        } else if (n < 0 && errno != EAGAIN) {
                process->input_left = 0;
        }
        if (process->input_left == 0)
                process->in = util_close(process->in);
}

int process_poll(struct pollfd *fds, size_t n, uint64_t deadline) {
        _cleanup_free_ struct pollfd *all = NULL;
        size_t count = n;
        int r, own = 0;

        all = calloc(n + 4 * ARRAY_SIZE(running), sizeof(*all));
        ck_assert_ptr_nonnull(all);
        if (n > 0)
                memcpy(all, fds, n * sizeof(*all));
        for (size_t i = 0; i < ARRAY_SIZE(running); i++) {
                struct process *p = running[i];

                all[count++] = (struct pollfd){ p ? p->in : -1, POLLOUT, 0 };
                all[count++] = (struct pollfd){ p ? p->out : -1, POLLIN, 0 };
                all[count++] = (struct pollfd){ p ? p->err : -1, POLLIN, 0 };
                all[count++] = (struct pollfd){ p && !p->exited ? p->pidfd : -1, POLLIN, 0 };
        }

        r = poll(all, count, clock_left(deadline));
        ck_assert(r >= 0 || errno == EINTR);
        if (r <= 0)
                return 0;

        for (size_t i = 0; i < n; i++) {
                fds[i].revents = all[i].revents;
                own += fds[i].revents != 0;
        }
        for (size_t i = 0; i < ARRAY_SIZE(running); i++) {
                const struct pollfd *events = all + n + 4 * i;
                struct process *p = running[i];

                if (!p)
                        continue;
                if (events[0].revents)
                        process_write(p);
                if (events[1].revents)
                        process_read(&p->output, &p->out);
                if (events[2].revents)
                        process_read(&p->errors, &p->err);
                if (events[3].revents)
                        process_reap(p);
        }
        return own;
}

void process_give_up(const char *format, ...) {
        struct text text = TEXT_NULL;
        char what[512];
        va_list ap;

        va_start(ap, format);
        vsnprintf(what, sizeof(what), format, ap);
        va_end(ap);

        for (size_t i = 0; i < ARRAY_SIZE(running); i++) {
                const struct process *p = running[i];

                if (!p)
                        continue;
                text_appendf(&text, "\n  program %d %s, status %d\n  output: %.1000s\n  errors: %.2000s",
                             (int)p->pid,
                             p->exited ? "ended" : "runs", p->status, text_get(&p->output),
                             text_get(&p->errors));
        }
        ck_abort_msg("%s%s", what, text_get(&text));
}

static void wait_for(const struct text *where, const int *fd, const char *text) {
        uint64_t deadline = clock_patience();

        while (!strstr(text_get(where), text)) {
                if (*fd < 0)
                        process_give_up("The program ended without: %s", text);
                if (clock_now() >= deadline)
                        process_give_up("Waited in vain for: %s", text);
                (void)process_poll(NULL, 0, deadline);
        }
}

void process_wait_output(struct process *process, const char *text) {
        wait_for(&process->output, &process->out, text);
}

void process_wait_errors(struct process *process, const char *text) {
        wait_for(&process->errors, &process->err, text);
}

int process_wait(struct process *process) {
        uint64_t deadline = clock_patience();

        while (!process->exited || process->out >= 0 || process->err >= 0) {
                if (clock_now() >= deadline)
                        process_give_up("Waited in vain for a program's end");
                (void)process_poll(NULL, 0, deadline);
        }
        if (strstr(text_get(&process->errors), "Sanitizer") ||
            strstr(text_get(&process->errors), "runtime error:"))
                process_give_up("A sanitizer complains");
        return process->status;
}

uint64_t process_cpu(const struct process *process) {
        struct timespec used;
        clockid_t clock;

        ck_assert_int_eq(clock_getcpuclockid(process->pid, &clock), 0);
        ck_assert_int_eq(clock_gettime(clock, &used), 0);
        return (uint64_t)used.tv_sec * NSEC_PER_SEC + (uint64_t)used.tv_nsec;
}

/* How often its threads went on or off a processor, and whether (`rests`) all of them sleep. */
static uint64_t look_at_threads(const struct process *process, bool *rests) {
        char path[64], line[256], state;
        const struct dirent *task;
        uint64_t sum = 0, number;
        DIR *tasks;

        *rests = true;

        snprintf(path, sizeof(path), "/proc/%d/task", (int)process->pid);
        tasks = opendir(path);
        ck_assert_ptr_nonnull(tasks);
        while ((task = readdir(tasks))) {
                FILE *status;

                if (task->d_name[0] == '.')
                        continue;
                snprintf(path, sizeof(path), "/proc/%d/task/%.20s/status", (int)process->pid, task->d_name);
                status = fopen(path, "re");
                ck_assert_ptr_nonnull(status);
                while (fgets(line, sizeof(line), status))
                        if (sscanf(line, "voluntary_ctxt_switches: %" SCNu64, &number) == 1 ||
                            sscanf(line, "nonvoluntary_ctxt_switches: %" SCNu64, &number) == 1)
                                sum += number;
                        else if (sscanf(line, "State: %c", &state) == 1 && state != 'S')
                                *rests = false;
                fclose(status);
        }
        closedir(tasks);
        return sum;
}

uint64_t process_switches(const struct process *process) {
        bool rests;

        return look_at_threads(process, &rests);
}

void process_wait_rest(const struct process *process) {
        uint64_t deadline = clock_patience(), before, now = 0;
        bool rests = false;

        do {
                if (clock_now() >= deadline)
                        process_give_up("Process %d does not come to rest", (int)process->pid);
                before = now;
                (void)process_poll(NULL, 0, clock_now() + 2 * NSEC_PER_MSEC);
                now = look_at_threads(process, &rests);
        } while (!rests || now != before);
}

bool process_has_mapped(const struct process *process, const char *file) {
        char path[64], line[512];
        bool found = false;
        FILE *maps;

        snprintf(path, sizeof(path), "/proc/%d/maps", (int)process->pid);
        maps = fopen(path, "re");
        ck_assert_ptr_nonnull(maps);
        while (!found && fgets(line, sizeof(line), maps))
                found = strstr(line, file);
        fclose(maps);
        return found;
}

bool process_has_tsan(const struct process *process) {
        return process_has_mapped(process, "libtsan");
}
