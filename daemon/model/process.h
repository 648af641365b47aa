#pragma once

/*
 * Processes of the system, as /proc shows them. A process is identified by its pid and the time of its start: a pid alone
 * may belong to another process by the time that it is used.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct process_id {
        pid_t pid;
        uint64_t started;                       /* clock ticks, since the machine started */
};

struct process {
        struct process_id id;
        pid_t parent;
        pid_t group;
        unsigned threads;
        uint64_t processor;                     /* nanoseconds: its own, and of those whose end it has heard of */
        char state;                             /* as in proc(5) */
        bool exiting;                           /* it has no memory and no environment any more */
        bool picked;                            /* of a list: as process_pick_fn said */
        char name[64];
};

struct process_list {
        struct process *processes;
        size_t count;
        size_t room;
};

#define PROCESS_LIST_NULL { NULL, 0, 0 }

/* Called for each process as soon as it is read: once all are listed, it may have ended, and have no environment. */
typedef bool process_pick_fn(const struct process *process, void *data);

/* Returns 0, -ESRCH: there is none, or -errno. */
int process_read(pid_t pid, struct process *process);

/*
 * Reads all processes that can be seen. Of a chain of processes that each start the next one and end, at least one is found
 * alive. A process that ended before it could be read has the state X, and nothing else but its pid. `picks`: NULL for none.
 * Returns 0 or -errno; -EXDEV: /proc is that of another PID namespace, and its pids are of no use here.
 */
int process_list_read(struct process_list *list, process_pick_fn *picks, void *data);
void process_list_deinit(struct process_list *list);

/* Returns a pidfd, -ESRCH if that process is gone, or -errno. */
int process_open(const struct process_id *id);

/* Returns 0, -ESRCH if that process is gone, or -errno. */
int process_signal(const struct process_id *id, int signal);

/* Reads a file of /proc/PID. Returns its length, cut at `size` - 1, with a NUL behind it; 0: it cannot be read. */
size_t process_read_file(pid_t pid, const char *name, char *text, size_t size);

/* Nothing of it runs any more, and it holds no memory: at the most its parent has not reaped it yet. */
static inline bool process_has_ended(const struct process *process) {
        /* With another thread that lives, the first one is a zombie too. */
        return process->state == 'X' || (process->state == 'Z' && process->threads <= 1);
}

static inline bool process_is(const struct process_id *a, const struct process_id *b) {
        return a->pid == b->pid && a->started == b->started;
}
