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

int process_list_read(struct process_list *list) {
        size_t room = 0;
        struct dirent *entry;
        DIR *directory;

        *list = (struct process_list)PROCESS_LIST_NULL;
        if (!is_proc_ours())
                return -EXDEV;
        directory = opendir("/proc");
        if (!directory)
                return -errno;
        while ((entry = readdir(directory))) {
                if (!isdigit((unsigned char)entry->d_name[0]))
                        continue;
                if (list->count == room) {
                        struct process *grown;

                        room = MAX(room * 2, (size_t)LIST_SIZE_MIN);
                        grown = reallocarray(list->processes, room, sizeof(*grown));
                        if (!grown) {
                                closedir(directory);
                                process_list_deinit(list);
                                return -ENOMEM;
                        }
                        list->processes = grown;
                }
                if (process_read((pid_t)atoi(entry->d_name), &list->processes[list->count]) == 0)
                        list->count++;
        }
        closedir(directory);
        return 0;
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
