#include "daemon/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "common/util.h"

#define OUTPUT_MAX (64u << 20)
#define STOP_SECONDS 5

/* Whether standard error is the journal's: $JOURNAL_STREAM names its device and inode, systemd.exec(5). */
static bool is_journal(void) {
        const char *stream = getenv("JOURNAL_STREAM");
        uintmax_t device, inode;
        struct stat st;

        return stream && sscanf(stream, "%" SCNuMAX ":%" SCNuMAX, &device, &inode) == 2 &&
               fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void log_write(enum log_level level, const char *format, ...) {
        static atomic_int journal = -1;
        int known = atomic_load_explicit(&journal, memory_order_relaxed);
        char line[2048];
        size_t n;
        va_list arguments;

        if (known < 0) {
                known = is_journal();
                atomic_store_explicit(&journal, known, memory_order_relaxed);
        }
        n = (size_t)(known ? snprintf(line, sizeof(line), "<%d>", (int)level) : snprintf(line, sizeof(line), "msd: "));
        va_start(arguments, format);
        n += (size_t)MAX(0, vsnprintf(line + n, sizeof(line) - n, format, arguments));
        va_end(arguments);
        n = MIN(n, sizeof(line) - 1);
        line[n++] = '\n';
        /* One write, so that lines of different threads do not mix. */
        (void)!write(STDERR_FILENO, line, n);
}

void log_line(const char *line, size_t len) {
        const struct iovec pieces[] = { { (char *)line, len }, { (char *)"\n", 1 } };

        (void)!writev(STDERR_FILENO, pieces, ARRAY_SIZE(pieces));
}

static struct {
        pthread_mutex_t mutex;
        pthread_cond_t changed;
        pthread_t thread;
        char *lines;
        size_t len;
        size_t size;
        uint64_t left_out;
        bool started;
        bool stop;
        bool finished;
} output = { .mutex = PTHREAD_MUTEX_INITIALIZER };

/* Returns 0 or -errno. */
static int write_all(const char *data, size_t len) {
        while (len > 0) {
                ssize_t n = UTIL_RETRY(write(STDOUT_FILENO, data, len));

                if (n < 0)
                        return -errno;
                data += n;
                len -= (size_t)n;
        }
        return 0;
}

static void *output_run(void *argument) {
        bool broken = false;

        (void)argument;
        pthread_mutex_lock(&output.mutex);
        for (;;) {
                _cleanup_free_ char *lines = NULL;
                uint64_t left_out = output.left_out;
                size_t len = output.len;
                int r = 0;

                if (len == 0 && left_out == 0) {
                        if (output.stop)
                                break;
                        pthread_cond_wait(&output.changed, &output.mutex);
                        continue;
                }
                lines = STEAL_POINTER(output.lines);
                output.len = output.size = 0;
                output.left_out = 0;
                pthread_mutex_unlock(&output.mutex);

                if (!broken)
                        r = write_all(lines, len);
                if (r < 0) {
                        /* A reader that went away does not come back. */
                        broken = r == -EPIPE;
                        log_warning("Cannot write to standard output, ignoring: %s", strerror(-r));
                }
                if (left_out > 0)
                        log_warning("Standard output is not being read: %" PRIu64 " bytes of lines left out", left_out);
                pthread_mutex_lock(&output.mutex);
        }
        output.finished = true;
        pthread_cond_broadcast(&output.changed);
        pthread_mutex_unlock(&output.mutex);
        return NULL;
}

int log_output_start(void) {
        pthread_condattr_t attributes;
        int r;

        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&output.changed, &attributes);
        pthread_condattr_destroy(&attributes);
        r = pthread_create(&output.thread, NULL, output_run, NULL);
        output.started = r == 0;
        return -r;
}

void log_output(const char *lines, size_t len) {
        pthread_mutex_lock(&output.mutex);
        if (output.len + len > output.size && output.len + len <= OUTPUT_MAX) {
                size_t size = MAX(output.size * 2, output.len + len + 4096);
                char *grown = realloc(output.lines, size);

                if (grown) {
                        output.lines = grown;
                        output.size = size;
                }
        }
        if (output.len + len <= output.size) {
                memcpy(output.lines + output.len, lines, len);
                output.len += len;
        } else
                output.left_out += len;
        pthread_cond_signal(&output.changed);
        pthread_mutex_unlock(&output.mutex);
}

void log_output_stop(void) {
        struct timespec deadline;
        bool finished;

        if (!output.started)
                return;
        clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_sec += STOP_SECONDS;
        pthread_mutex_lock(&output.mutex);
        output.stop = true;
        pthread_cond_broadcast(&output.changed);
        while (!output.finished)
                if (pthread_cond_timedwait(&output.changed, &output.mutex, &deadline) != 0)
                        break;
        finished = output.finished;
        pthread_mutex_unlock(&output.mutex);
        /* One that hangs in a write is left to the end of the process. */
        if (finished)
                pthread_join(output.thread, NULL);
        output.started = false;
}
