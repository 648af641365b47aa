#include "daemon/history.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/number.h"
#include "common/util.h"

#define FILE_NAME "loads"
#define TITLE "msd loads 1\n"

/* The last line, so that a file that was cut is known. */
#define END "end\n"

/* Milliseconds: a year. */
#define TIME_MAX (UINT64_C(365) * 24 * 3600 * 1000)

/* At the end, so long is waited for a disk. */
#define STOP_SECONDS 1

uint64_t history_key(uint64_t key, const char *const *strings) {
        /* FNV-1a, with the NUL behind each. */
        for (; *strings; strings++)
                for (const char *p = *strings;; p++) {
                        key = (key ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
                        if (!*p)
                                break;
                }
        return key;
}

size_t history_format(const struct history *history, char text[static HISTORY_TEXT_MAX]) {
        size_t n = (size_t)snprintf(text, HISTORY_TEXT_MAX, TITLE);

        for (unsigned i = 0; i < history->count; i++) {
                const struct history_entry *entry = &history->entries[i];

                n += (size_t)snprintf(text + n, HISTORY_TEXT_MAX - n, "%016" PRIx64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
                                      entry->key, entry->earlier.total / NSEC_PER_MSEC, entry->earlier.head / NSEC_PER_MSEC,
                                      entry->earlier.tail / NSEC_PER_MSEC);
        }
        return n + (size_t)snprintf(text + n, HISTORY_TEXT_MAX - n, END);
}

/* Takes a number up to `end`, which is skipped. Returns false: there is none. */
static bool take_number(const char **text, char end, uint64_t *nsec) {
        const char *found = strchr(*text, end);

        if (!found || number_parse(*text, (size_t)(found - *text), TIME_MAX, nsec) != 0)
                return false;
        *nsec *= NSEC_PER_MSEC;
        *text = found + 1;
        return true;
}

static bool take_entry(const char **text, struct history_entry *entry) {
        struct progress_earlier *earlier = &entry->earlier;
        char *end;

        if (strspn(*text, "0123456789abcdef") != 16 || (*text)[16] != ' ')
                return false;
        entry->key = strtoull(*text, &end, 16);
        *text = end + 1;
        return take_number(text, ' ', &earlier->total) && take_number(text, ' ', &earlier->head) &&
               take_number(text, '\n', &earlier->tail) && earlier->total > 0 && earlier->head <= earlier->total &&
               earlier->tail <= earlier->total;
}

void history_parse(struct history *history, const char *text) {
        struct history_entry entries[HISTORY_ENTRIES_MAX];
        unsigned n = 0;

        if (strncmp(text, TITLE, strlen(TITLE)) != 0)
                return;
        text += strlen(TITLE);
        for (; strcmp(text, END) != 0; n++)
                if (n == HISTORY_ENTRIES_MAX || !take_entry(&text, &entries[n]))
                        return;
        memcpy(history->entries, entries, n * sizeof(*entries));
        history->count = n;
}

static void read_file(struct history *history) {
        _cleanup_close_ int fd = open(history->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        char text[HISTORY_TEXT_MAX];
        struct stat st;
        ssize_t n;

        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size >= HISTORY_TEXT_MAX)
                return;
        n = UTIL_RETRY(read(fd, text, sizeof(text) - 1));
        text[MAX(n, 0)] = '\0';
        history_parse(history, text);
}

void history_init(struct history *history, const char *directory) {
        *history = (struct history){ 0 };
        if (!directory || directory[0] != '/')
                return;
        if (snprintf(history->path, sizeof(history->path), "%.*s/" FILE_NAME, (int)strcspn(directory, ":"), directory) >=
            (int)sizeof(history->path)) {
                history->path[0] = '\0';
                return;
        }
        read_file(history);
}

struct progress_earlier history_find(const struct history *history, uint64_t key) {
        for (unsigned i = 0; i < history->count; i++)
                if (history->entries[i].key == key)
                        return history->entries[i].earlier;
        return (struct progress_earlier){ 0 };
}

/* What the thread is given, and frees. */
struct writing {
        char path[PATH_MAX];
        char text[HISTORY_TEXT_MAX];
        size_t len;
};

/* Beside the file and then into its place, so that there is always a whole one. */
static void *write_file(void *argument) {
        _cleanup_free_ struct writing *writing = argument;
        char beside[PATH_MAX + 8];
        bool written;
        ssize_t n;
        int fd;

        snprintf(beside, sizeof(beside), "%s.new", writing->path);
        fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (fd < 0)
                return NULL;
        n = UTIL_RETRY(write(fd, writing->text, writing->len));
        written = n == (ssize_t)writing->len && fsync(fd) == 0;
        written = close(fd) == 0 && written;
        if (!written || rename(beside, writing->path) < 0)
                (void)unlink(beside);
        return NULL;
}

/* Without memory, or while the one before is still being written, it is written the next time. */
static void start_writing(struct history *history) {
        struct writing *writing;

        if (!history->path[0] || (history->writing && pthread_tryjoin_np(history->writer, NULL) != 0))
                return;
        history->writing = false;
        writing = malloc(sizeof(*writing));
        if (!writing)
                return;
        memcpy(writing->path, history->path, sizeof(writing->path));
        writing->len = history_format(history, writing->text);
        history->writing = pthread_create(&history->writer, NULL, write_file, writing) == 0;
        if (!history->writing)
                free(writing);
}

void history_deinit(struct history *history) {
        struct timespec deadline;

        if (!history->writing)
                return;
        clock_gettime(CLOCK_REALTIME, &deadline);
        deadline.tv_sec += STOP_SECONDS;
        /* A thread that hangs in the kernel is left to the end of the process. */
        if (pthread_timedjoin_np(history->writer, NULL, &deadline) != 0)
                pthread_detach(history->writer);
        history->writing = false;
}

static uint64_t middle(uint64_t a, uint64_t b) {
        return a / 2 + b / 2;
}

void history_add(struct history *history, uint64_t key, const struct progress_earlier *earlier) {
        struct history_entry entry = { key, *earlier };
        unsigned kept = 0;

        for (unsigned i = 0; i < history->count; i++) {
                const struct history_entry *known = &history->entries[i];

                if (known->key != key) {
                        history->entries[kept++] = *known;
                        continue;
                }
                entry.earlier.total = middle(entry.earlier.total, known->earlier.total);
                entry.earlier.head = middle(entry.earlier.head, known->earlier.head);
                entry.earlier.tail = middle(entry.earlier.tail, known->earlier.tail);
        }
        /* What the file has room for. */
        entry.earlier.total = MAX(NSEC_PER_MSEC, MIN(entry.earlier.total, TIME_MAX * NSEC_PER_MSEC));
        entry.earlier.head = MIN(entry.earlier.head, entry.earlier.total);
        entry.earlier.tail = MIN(entry.earlier.tail, entry.earlier.total);
        if (kept == HISTORY_ENTRIES_MAX)
                memmove(history->entries, history->entries + 1, --kept * sizeof(entry));
        history->entries[kept++] = entry;
        history->count = kept;
        start_writing(history);
}
