#include "daemon/model/tree.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/model/owner.h"

/* The end of one process is heard of at once; this is for those that start meanwhile. */
#define LOOK_INTERVAL NSEC_PER_SEC

/* So long after SIGKILL a process is said to hold the tree, and then once in so long. */
#define HELD_AFTER (5 * NSEC_PER_SEC)
#define HELD_INTERVAL (60 * NSEC_PER_SEC)

/* A process may start another one while /proc is read: so often at the most it is read again at once. */
#define LOOKS_MAX 16

/* After this time /proc is read again for what is there and was not seen. */
#define UNSEEN_INTERVAL (10 * NSEC_PER_MSEC)

/* What is told by its environment counts as gone after so many looks in a row: a process that is in execve(2) shows none. */
#define EMPTY_LOOKS 3

/* Milliseconds between two looks at what does not end while msd ends. */
#define DEINIT_PAUSE 100

/* As many are named. */
#define NAMED_MAX 3

static struct tree_member *find(const struct tree *tree, const struct process_id *id) {
        for (size_t i = 0; i < tree->count; i++)
                if (process_is(&tree->members[i].process.id, id))
                        return &tree->members[i];
        return NULL;
}

/* Whether it belongs to the tree by itself, whatever its parent is. */
static bool belongs(const struct process *process, void *data) {
        const struct tree *tree = data;
        bool is_adopted = process->parent == getpid();
        enum owner owner;

        if (process->id.pid == getpid() || process_has_ended(process))
                return false;
        if (process->id.pid == tree->root || find(tree, &process->id))
                return true;
        if (is_adopted && !tree->adopts_strangers)
                return true;
        if (!is_adopted && !tree->with_left_overs)
                return false;
        owner = owner_of(process->id.pid, tree->owner);
        return owner == OWNER_SELF || (owner == OWNER_DEAD && tree->with_left_overs);
}

/* Writes the indices of those that belong to the tree, each behind its parent, and returns how many there are. */
static size_t select_members(const struct process_list *list, size_t *selected, bool *marks) {
        size_t count = 0;

        for (size_t i = 0; i < list->count; i++) {
                const struct process *process = &list->processes[i];

                /* One that has ended has no children, and is its parent's to reap. Marked, it is not looked at again. */
                marks[i] = process->id.pid == getpid() || process_has_ended(process);
                if (!marks[i] && process->picked) {
                        marks[i] = true;
                        selected[count++] = i;
                }
        }
        for (size_t next = 0; next < count; next++)
                for (size_t i = 0; i < list->count; i++)
                        if (!marks[i] && list->processes[i].parent == list->processes[selected[next]].id.pid) {
                                marks[i] = true;
                                selected[count++] = i;
                        }
        return count;
}

int tree_look(struct tree *tree) {
        struct process_list list = PROCESS_LIST_NULL;
        _cleanup_free_ struct tree_member *members = NULL;
        _cleanup_free_ size_t *selected = NULL;
        _cleanup_free_ bool *marks = NULL;
        size_t count;
        int r;

        r = process_list_read(&list, belongs, tree);
        if (r < 0)
                return r;
        selected = calloc(list.count, sizeof(*selected));
        marks = calloc(list.count, sizeof(*marks));
        members = calloc(list.count, sizeof(*members));
        if (!selected || !marks || !members) {
                process_list_deinit(&list);
                return -ENOMEM;
        }
        count = select_members(&list, selected, marks);
        for (size_t i = 0; i < count; i++) {
                const struct process *process = &list.processes[selected[i]];
                const struct tree_member *before = find(tree, &process->id);

                if (before)
                        members[i] = *before;
                members[i].process = *process;
        }
        process_list_deinit(&list);
        free(tree->members);
        tree->members = STEAL_POINTER(members);
        tree->count = count;
        return 0;
}

/* Returns whether a signal was sent, or came too late: the process may have started another one. */
static bool signal_member(struct tree_member *member, bool kill) {
        bool *signalled = kill ? &member->killed : &member->terminated;
        int r;

        if (*signalled)
                return false;
        r = process_signal(&member->process.id, kill ? SIGKILL : SIGTERM);
        /* One that was stopped hears it only when it goes on. */
        if (r == 0 && !kill)
                (void)process_signal(&member->process.id, SIGCONT);
        member->error = r < 0 && r != -ESRCH ? -r : 0;
        *signalled = r == 0 || r == -EPERM;
        return r == 0 || r == -ESRCH;
}

/* Signals every member that was not, and those that they start meanwhile. Returns as tree_look() does. */
static int signal_members(struct tree *tree) {
        bool again = true;
        int r = 0;

        for (unsigned looks = 0; again && looks < LOOKS_MAX; looks++) {
                again = false;
                r = tree_look(tree);
                /* All of its group at once, so that none of them starts another; or because no other can be found. */
                if (tree->root > 0 && looks == 0 && (tree->killing || (r < 0 && !tree->terminated))) {
                        (void)kill(-tree->root, tree->killing ? SIGKILL : SIGTERM);
                        tree->terminated = true;
                }
                for (size_t i = 0; i < tree->count; i++)
                        again = signal_member(&tree->members[i], tree->killing) || again;
        }
        return r;
}

/*
 * Whether there may be processes that the last look did not find. Whoever is left of the tree is a child of msd, or has an
 * ancestor that is; but not so with left-overs, and the children of msd that are strangers say nothing.
 */
static bool has_unseen(struct tree *tree) {
        siginfo_t info;

        tree->empty_looks = tree->count == 0 ? tree->empty_looks + 1 : 0;
        if (tree->count > 0)
                return false;
        if (tree->with_left_overs || tree->adopts_strangers)
                return tree->empty_looks < EMPTY_LOOKS;
        return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

/* Says which processes do not end. */
static void describe(const struct tree *tree, char *text, size_t size) {
        size_t n = 0;

        snprintf(text, size, "%s", tree->count == 0 ? "a process that starts another one and ends, again and again" : "");
        for (size_t i = 0; i < tree->count && i < NAMED_MAX && n < size; i++) {
                const struct tree_member *member = &tree->members[i];

                n += (size_t)snprintf(text + n, size - n, "%s%s (pid %d, state %c%s%s)", i > 0 ? ", " : "",
                                      member->process.name, (int)member->process.id.pid, member->process.state,
                                      member->error ? ": " : "", member->error ? strerror(member->error) : "");
        }
        if (tree->count > NAMED_MAX && n < size)
                snprintf(text + n, size - n, " and %zu more", tree->count - NAMED_MAX);
}

static void unwatch(struct tree *tree) {
        reactor_unwatch(&tree->watch);
        tree->watch.fd = util_close(tree->watch.fd);
}

static void forget(struct tree *tree) {
        unwatch(tree);
        timer_clear(&tree->look);
        free(STEAL_POINTER(tree->members));
        tree->count = 0;
        tree->root = 0;
        tree->empty_looks = 0;
        tree->stopping = tree->killing = tree->terminated = tree->with_left_overs = false;
}

static void one_ended(struct watch *watch, uint32_t events) {
        struct tree *tree = container_of(watch, struct tree, watch);

        (void)events;
        unwatch(tree);
        reactor_set_timer(tree->reactor, &tree->look, timer_now());
}

/* Has the end of a member wake the tree. The last one that did so is perhaps still seen, and does not do so again. */
static void watch_one(struct tree *tree) {
        for (size_t i = 0; i < tree->count && tree->watch.fd < 0; i++) {
                const struct process_id *id = &tree->members[i].process.id;

                if (process_is(id, &tree->watched))
                        continue;
                tree->watch.fd = process_open(id);
                if (tree->watch.fd < 0)
                        continue;
                tree->watched = *id;
                if (reactor_watch(tree->reactor, &tree->watch, tree->watch.fd, EPOLLIN, one_ended) < 0)
                        unwatch(tree);
        }
}

static void look_due(struct timer *timer) {
        struct tree *tree = container_of(timer, struct tree, look);
        uint64_t now = timer_now();
        char text[512];
        bool is_unseen;
        int r;

        if (!tree->killing && now >= tree->kill_at) {
                tree->killing = true;
                tree->held_at = now + HELD_AFTER;
        }
        r = signal_members(tree);
        /* Where /proc is of no use there is nothing to wait for but the root. */
        is_unseen = r == 0 && tree->root == 0 && has_unseen(tree);
        if (tree->root == 0 && tree->count == 0 && !is_unseen && (r == 0 || r == -EXDEV || r == -ENOENT)) {
                forget(tree);
                tree->events->gone(tree);
                return;
        }
        if (tree->killing && now >= tree->held_at && (tree->count > 0 || is_unseen)) {
                tree->held_at = now + HELD_INTERVAL;
                describe(tree, text, sizeof(text));
                tree->events->held(tree, text);
                if (tree->is_last) {
                        forget(tree);
                        tree->events->gone(tree);
                        return;
                }
        }
        watch_one(tree);
        reactor_set_timer(tree->reactor, &tree->look, MIN(now + (is_unseen ? UNSEEN_INTERVAL : LOOK_INTERVAL),
                                                          tree->killing ? tree->held_at : tree->kill_at));
}

void tree_init(struct tree *tree, struct reactor *reactor, const struct tree_events *events, const char *owner,
               bool adopts_strangers) {
        *tree = (struct tree){
                .reactor = reactor,
                .events = events,
                .owner = owner,
                .adopts_strangers = adopts_strangers,
                .watch = WATCH_NULL,
        };
        timer_init(&tree->look, look_due);
}

void tree_deinit(struct tree *tree) {
        uint64_t deadline = timer_now() + HELD_AFTER;

        tree->killing = true;
        while ((tree->root > 0 || tree->stopping) && signal_members(tree) == 0 && tree->count > 0 && timer_now() < deadline) {
                struct pollfd event = { .fd = process_open(&tree->members[0].process.id), .events = POLLIN };

                (void)poll(&event, 1, DEINIT_PAUSE);
                (void)util_close(event.fd);
        }
        forget(tree);
}

void tree_stop(struct tree *tree, uint64_t timeout) {
        uint64_t now = timer_now();

        tree->kill_at = tree->stopping ? MIN(tree->kill_at, now + timeout) : now + timeout;
        tree->stopping = true;
        reactor_set_timer(tree->reactor, &tree->look, now);
}

bool tree_stop_left_overs(struct tree *tree, uint64_t timeout) {
        tree->with_left_overs = true;
        if (tree_look(tree) < 0 || tree->count == 0) {
                tree->with_left_overs = false;
                return false;
        }
        tree_stop(tree, timeout);
        return true;
}
