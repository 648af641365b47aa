#include "daemon/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/number.h"
#include "common/printable.h"
#include "common/util.h"

#define OUTPUT_MAX (64u << 20)
#define ERRORS_MAX (4u << 20)
#define STOP_SECONDS 3

/* A file that is said to have room so often in a row, and has not, has none. */
#define FAILURES_MAX 100

/* The least time between two drawings of a bar. */
#define BAR_INTERVAL (100 * NSEC_PER_MSEC)

#define ERASE "\r\033[K"

/* One of the model's, with its LF. */
#define FOREIGN_MAX 4100

enum writer_state {
        DIRECT,         /* no thread: who has lines writes them */
        RUNNING,
        STOPPING,       /* it ends when all is written */
        ENDED,          /* it has, or hangs in a write and is left to the end of the process */
};

struct writer {
        int fd;
        const char *name;
        size_t max;
        pthread_mutex_t mutex;
        pthread_cond_t changed;
        pthread_t thread;
        enum writer_state state;        /* under `mutex`, as is all that follows */
        bool finished;
        char *lines;
        size_t len;
        size_t size;
        size_t writing;                 /* bytes that the thread has taken, and may not have written yet */
        uint64_t left_out;              /* lines behind those that are there */
        char bar[LOG_BAR_MAX];          /* below them */
        bool bar_stale;                 /* it is not what the terminal shows */
        /* The thread's own. */
        bool bar_shown;
        uint64_t bar_drawn;             /* nanoseconds of CLOCK_MONOTONIC */
};

static struct writer output = {
        .fd = STDOUT_FILENO,
        .name = "standard output",
        .max = OUTPUT_MAX,
        .mutex = PTHREAD_MUTEX_INITIALIZER,
};
static struct writer errors = {
        .fd = STDERR_FILENO,
        .name = "standard error",
        .max = ERRORS_MAX,
        .mutex = PTHREAD_MUTEX_INITIALIZER,
};

/* Standard error is what standard output is: two threads would mix their lines. Set before there are threads. */
static bool one_file;

static struct writer *errors_writer(void) {
        return one_file ? &output : &errors;
}

/* Whether the journal reads it: $JOURNAL_STREAM names its device and inode, systemd.exec(5). */
static bool is_journal(int fd) {
        static atomic_int known[STDERR_FILENO + 1]; /* 0: not known; else 1, and 1 if it is */
        const char *stream = getenv("JOURNAL_STREAM");
        int is = atomic_load_explicit(&known[fd], memory_order_relaxed);
        uintmax_t device, inode;
        struct stat st;

        if (is == 0) {
                is = 1 + (stream && sscanf(stream, "%" SCNuMAX ":%" SCNuMAX, &device, &inode) == 2 && fstat(fd, &st) == 0 &&
                          st.st_dev == device && st.st_ino == inode);
                atomic_store_explicit(&known[fd], is, memory_order_relaxed);
        }
        return is == 2;
}

/* Returns 0 or -errno. */
static int write_all(int fd, const char *data, size_t len) {
        unsigned failures = 0;

        while (len > 0) {
                ssize_t n = UTIL_RETRY(write(fd, data, len));

                if (n < 0 && errno == EAGAIN && ++failures < FAILURES_MAX) {
                        /* Who shares the file has made it non-blocking. */
                        (void)poll(&(struct pollfd){ .fd = fd, .events = POLLOUT }, 1, -1);
                        continue;
                }
                if (n < 0)
                        return -errno;
                failures = 0;
                data += n;
                len -= (size_t)n;
        }
        return 0;
}

static uint64_t count_lines(const char *lines, size_t len) {
        uint64_t n = 0;

        for (const char *p = lines, *end = lines + len; (p = memchr(p, '\n', (size_t)(end - p))); p++)
                n++;
        return n;
}

/* Returns whether the lines have room, out of memory included. */
static bool make_room(struct writer *writer, size_t len) {
        size_t size = MAX(writer->size * 2, writer->len + len + 4096);
        char *grown;

        if (writer->writing + writer->len + len > writer->max)
                return false;
        if (writer->len + len <= writer->size)
                return true;
        grown = realloc(writer->lines, size);
        if (!grown)
                return false;
        writer->lines = grown;
        writer->size = size;
        return true;
}

static void hand_on(struct writer *writer, const char *lines, size_t len) {
        enum writer_state state;

        pthread_mutex_lock(&writer->mutex);
        state = writer->state;
        if (state == RUNNING || state == STOPPING) {
                /* The count stands where the lines would: behind one that is left out, all are, until it was taken. */
                /* analyzer-suppress: the lines are the writer's, whose thread frees them */
                if (writer->left_out > 0 || !make_room(writer, len))
                        writer->left_out += count_lines(lines, len);
                else {
                        memcpy(writer->lines + writer->len, lines, len);
                        writer->len += len;
                }
        }
        pthread_cond_signal(&writer->changed);
        pthread_mutex_unlock(&writer->mutex);
        if (state == DIRECT)
                (void)write_all(writer->fd, lines, len);
}

/* A diagnostic as it is written, with its LF. Returns its length. */
static size_t format_line(char line[static 2048], enum log_level level, const char *format, va_list arguments) {
        size_t n = (size_t)(is_journal(STDERR_FILENO) ? snprintf(line, 2048, "<%d>", (int)level) : snprintf(line, 2048, "msd: "));

        (void)vsnprintf(line + n, 2047 - n, format, arguments);
        (void)printable_line(line + n);
        n += strlen(line + n);
        line[n++] = '\n';
        return n;
}

void log_write(enum log_level level, const char *format, ...) {
        char line[2048];
        size_t n;
        va_list arguments;

        va_start(arguments, format);
        n = format_line(line, level, format, arguments);
        va_end(arguments);
        hand_on(errors_writer(), line, n);
}

void log_output(const char *lines, size_t len) {
        hand_on(&output, lines, len);
}

void log_foreign(bool error, const char *line, size_t len) {
        char text[FOREIGN_MAX];
        size_t n = printable(text, sizeof(text) - 1, line, len);

        if (is_journal(error ? STDERR_FILENO : STDOUT_FILENO) && text[0] == '<' && text[1] >= '0' && text[1] < '3' && text[2] == '>')
                text[1] = '3';
        text[n++] = '\n';
        hand_on(error ? errors_writer() : &output, text, n);
}

void log_bar(const char *text) {
        struct writer *writer = errors_writer();

        pthread_mutex_lock(&writer->mutex);
        if (strcmp(writer->bar, text) != 0) {
                snprintf(writer->bar, sizeof(writer->bar), "%s", text);
                writer->bar_stale = true;
                pthread_cond_signal(&writer->changed);
        }
        pthread_mutex_unlock(&writer->mutex);
}

static uint64_t clock_now(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

/* Under the mutex. What is taken away is taken away at once. */
static bool bar_is_due(const struct writer *writer) {
        return writer->bar_stale && (!writer->bar[0] || clock_now() >= writer->bar_drawn + BAR_INTERVAL);
}

/* Waits for something to do: for a bar that was drawn just now, until it may be drawn again. */
static void writer_wait(struct writer *writer) {
        const uint64_t due = writer->bar_drawn + BAR_INTERVAL;
        const struct timespec deadline = { (time_t)(due / NSEC_PER_SEC), (long)(due % NSEC_PER_SEC) };

        if (writer->bar_stale)
                (void)pthread_cond_timedwait(&writer->changed, &writer->mutex, &deadline);
        else
                (void)pthread_cond_wait(&writer->changed, &writer->mutex);
}

/* Takes the bar to be drawn now, if it is. Under the mutex. */
static bool take_bar(struct writer *writer, char bar[static LOG_BAR_MAX]) {
        if (!bar_is_due(writer))
                return false;
        memcpy(bar, writer->bar, LOG_BAR_MAX);
        writer->bar_stale = false;
        return true;
}

static void draw_bar(struct writer *writer, const char *bar) {
        (void)write_all(writer->fd, bar, strlen(bar));
        writer->bar_shown = bar[0];
        writer->bar_drawn = clock_now();
}

/* So that a line, or another bar, takes its place. */
static void erase_bar(struct writer *writer) {
        if (writer->bar_shown)
                (void)write_all(writer->fd, ERASE, strlen(ERASE));
        writer->bar_shown = false;
}

/* What is said of a writer is for the reader of standard error: here and now, if that is the one. */
static void say_of(struct writer *writer, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say_of(struct writer *writer, const char *format, ...) {
        char line[2048];
        size_t n;
        va_list arguments;

        va_start(arguments, format);
        n = format_line(line, LOG_LEVEL_WARNING, format, arguments);
        va_end(arguments);
        if (writer == errors_writer())
                (void)write_all(STDERR_FILENO, line, n);
        else
                hand_on(errors_writer(), line, n);
}

static void *writer_run(void *argument) {
        struct writer *writer = argument;
        int error = 0;

        pthread_mutex_lock(&writer->mutex);
        for (;;) {
                _cleanup_free_ char *lines = NULL;
                uint64_t left_out = writer->left_out;
                size_t len = writer->len;
                char bar[LOG_BAR_MAX];
                bool has_bar;
                int r = error;

                if (len == 0 && left_out == 0 && !bar_is_due(writer)) {
                        if (writer->state == STOPPING)
                                break;
                        writer_wait(writer);
                        continue;
                }
                lines = STEAL_POINTER(writer->lines);
                writer->writing = len;
                writer->len = writer->size = 0;
                writer->left_out = 0;
                has_bar = take_bar(writer, bar);
                /* It is to be drawn again below the lines, though not for each of them. */
                writer->bar_stale |= !has_bar && writer->bar[0];
                pthread_mutex_unlock(&writer->mutex);

                erase_bar(writer);

                /* A reader that went away does not come back. */
                if (error != -EPIPE)
                        r = write_all(writer->fd, lines, len);
                if (r < 0 && r != error)
                        say_of(writer, "Cannot write to %s, ignoring: %s", writer->name, strerror(-r));
                error = r;
                if (left_out > 0)
                        say_of(writer, "Nobody read %s: %" PRIu64 " lines are left out", writer->name, left_out);

                if (has_bar)
                        draw_bar(writer, bar);

                pthread_mutex_lock(&writer->mutex);
                writer->writing = 0;
        }
        /* Writing may block, and log_stop() waits for the mutex. */
        pthread_mutex_unlock(&writer->mutex);
        erase_bar(writer);
        pthread_mutex_lock(&writer->mutex);
        writer->finished = true;
        pthread_cond_broadcast(&writer->changed);
        pthread_mutex_unlock(&writer->mutex);
        return NULL;
}

/* Returns 0 or -errno. */
static int writer_start(struct writer *writer) {
        pthread_condattr_t attributes;
        sigset_t all, before;
        int r;

        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&writer->changed, &attributes);
        pthread_condattr_destroy(&attributes);
        writer->finished = false;
        writer->state = RUNNING;
        /* Signals are for the main thread; and a terminal that stops those who write to it in the background does not stop this one. */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        r = pthread_create(&writer->thread, NULL, writer_run, writer);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (r != 0)
                writer->state = DIRECT;
        return -r;
}

static bool is_one_file(void) {
        struct stat out, err;

        return fstat(STDOUT_FILENO, &out) == 0 && fstat(STDERR_FILENO, &err) == 0 && out.st_dev == err.st_dev &&
               out.st_ino == err.st_ino && fcntl(STDOUT_FILENO, F_GETFL) == fcntl(STDERR_FILENO, F_GETFL);
}

int log_start(void) {
        int r;

        one_file = is_one_file();
        r = writer_start(&output);
        return r == 0 && !one_file ? writer_start(&errors) : r;
}

static void writer_stop(struct writer *writer) {
        struct timespec deadline;
        bool finished;

        if (writer->state != RUNNING)
                return;
        clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_sec += STOP_SECONDS;
        pthread_mutex_lock(&writer->mutex);
        writer->state = STOPPING;
        pthread_cond_broadcast(&writer->changed);
        while (!writer->finished)
                if (pthread_cond_timedwait(&writer->changed, &writer->mutex, &deadline) != 0)
                        break;
        finished = writer->finished;
        writer->state = ENDED;
        pthread_mutex_unlock(&writer->mutex);
        /* One that hangs in a write is left to the end of the process. */
        if (finished)
                pthread_join(writer->thread, NULL);
        else
                pthread_detach(writer->thread);
}

void log_stop(void) {
        writer_stop(&output);
        writer_stop(&errors);
}
