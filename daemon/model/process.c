#include "daemon/model/process.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"

/* Of the flags in /proc/PID/stat: PF_EXITING of the kernel. */
#define FLAG_EXITING 0x4

#define LIST_SIZE_MIN 256

/* /proc is listed until there is nothing new, and so often at the most. */
#define LISTINGS_MAX 16

size_t process_read_file(pid_t pid, const char *name, char *text, size_t size) {
        char path[64];
        _cleanup_close_ int fd = -1;
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? 0 : UTIL_RETRY(read(fd, text, size - 1));
        text[MAX(n, 0)] = '\0';
        return (size_t)MAX(n, 0);
}

int process_read(pid_t pid, struct process *process) {
        char text[1024], *begin, *end;
        uint64_t ticks[4];
        unsigned flags;
        int parent, group;

        if (process_read_file(pid, "stat", text, sizeof(text)) == 0)
                return -ESRCH;
        /* The name is in parentheses, and may have anything in it: proc(5). */
        begin = strchr(text, '(');
        end = strrchr(text, ')');
        *process = (struct process){ .id.pid = pid };
        if (!begin || !end ||
            sscanf(end + 1, " %c %d %d %*d %*d %*d %u %*u %*u %*u %*u %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
                   " %*d %*d %u %*d %" SCNu64, &process->state, &parent, &group, &flags, &ticks[0], &ticks[1], &ticks[2],
                   &ticks[3], &process->threads, &process->id.started) != 10)
                return -EIO;
        process->processor = (ticks[0] + ticks[1] + ticks[2] + ticks[3]) * (NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK));
        process->parent = parent;
        process->group = group;
        process->exiting = flags & FLAG_EXITING;
        *end = '\0';
        snprintf(process->name, sizeof(process->name), "%s", begin + 1);
        return 0;
}

/* A process that /proc shows from an outer PID namespace has one number for each namespace there. */
static bool is_proc_ours(void) {
        char text[4096], *line;
        int outer, inner;
        _cleanup_close_ int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : UTIL_RETRY(read(fd, text, sizeof(text) - 1));

        if (n <= 0)
                return false;
        text[n] = '\0';
        line = strstr(text, "\nNSpid:");
        /* Without the line the kernel has no PID namespaces. */
        return !line || (sscanf(line, "\nNSpid: %d%*[ \t]%d", &outer, &inner) == 1 && outer == getpid());
}

static int compare_pids(const void *a, const void *b) {
        const struct process *x = a, *y = b;

        return (x->id.pid > y->id.pid) - (x->id.pid < y->id.pid);
}

/* Room for one more. */
static int make_room(struct process_list *list) {
        size_t room = MAX(list->room * 2, (size_t)LIST_SIZE_MIN);
        struct process *grown;

        if (list->count < list->room)
                return 0;
        grown = reallocarray(list->processes, room, sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        list->processes = grown;
        list->room = room;
        return 0;
}

/* Adds the processes that the list does not have yet. Returns how many there are, or -errno. */
static int read_new(DIR *directory, struct process_list *list, process_pick_fn *picks, void *data) {
        const size_t known = list->count;
        struct dirent *entry;

        while ((entry = readdir(directory))) {
                const struct process key = {
                        .id.pid = isdigit((unsigned char)entry->d_name[0]) ? (pid_t)atoi(entry->d_name) : 0,
                };
                struct process *process;

                if (key.id.pid == 0 || (known > 0 && bsearch(&key, list->processes, known, sizeof(key), compare_pids)))
                        continue;
                if (make_room(list) < 0)
                        return -ENOMEM;
                process = &list->processes[list->count++];
                if (process_read(key.id.pid, process) < 0)
                        *process = (struct process){ .id.pid = key.id.pid, .state = 'X' };
                else
                        process->picked = picks && picks(process, data);
        }
        if (list->count > known)
                qsort(list->processes, list->count, sizeof(*list->processes), compare_pids);
        return (int)(list->count - known);
}

int process_list_read(struct process_list *list, process_pick_fn *picks, void *data) {
        DIR *directory;
        int r = 1;

        *list = (struct process_list)PROCESS_LIST_NULL;
        if (!is_proc_ours())
                return -EXDEV;
        directory = opendir("/proc");
        if (!directory)
                return -errno;
        /* A process that ended before it was read may have started another one that the listing does not have. */
        for (unsigned i = 0; r > 0 && i < LISTINGS_MAX; i++) {
                rewinddir(directory);
                r = read_new(directory, list, picks, data);
        }
        closedir(directory);
        if (r < 0)
                process_list_deinit(list);
        return MIN(r, 0);
}

void process_list_deinit(struct process_list *list) {
        free(list->processes);
        *list = (struct process_list)PROCESS_LIST_NULL;
}

int process_open(const struct process_id *id) {
        _cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, id->pid, 0);
        struct process process;
        int r;

        if (fd < 0)
                return -errno;
        /* After the descriptor was opened: if the start is the same now, the descriptor is for that process. */
        r = process_read(id->pid, &process);
        if (r < 0)
                return r;
        return process.id.started == id->started ? STEAL_FD(fd) : -ESRCH;
}

int process_signal(const struct process_id *id, int signal) {
        _cleanup_close_ int fd = process_open(id);

        if (fd < 0)
                return fd;
        return syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0) < 0 ? -errno : 0;
}
