#include "daemon/loop/reaper.h"

#include <errno.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/util.h"

/* Signals that are said to have come so often in a row, and have not, cannot be heard. */
#define FAILURES_MAX 100

static void fill_signals(sigset_t *signals) {
        sigemptyset(signals);
        sigaddset(signals, SIGCHLD);
}

void reaper_hold_signals(void) {
        sigset_t signals;

        /* Where it is ignored, children are reaped before anybody has heard how they ended. */
        (void)signal(SIGCHLD, SIG_DFL);
        fill_signals(&signals);
        (void)sigprocmask(SIG_BLOCK, &signals, NULL);
}

static void reap(struct reaper *reaper, const siginfo_t *info) {
        for (struct list *link = reaper->children.next; link != &reaper->children; link = link->next) {
                struct reaper_child *child = container_of(link, struct reaper_child, link);

                if (child->pid != info->si_pid)
                        continue;
                reaper_remove(child);
                child->ended(child, info);
                return;
        }
}

/* An end that cannot be heard of would be waited for for ever. */
static void signals_ready(struct watch *watch, uint32_t events) {
        struct reaper *reaper = container_of(watch, struct reaper, signals);
        struct signalfd_siginfo signal;
        siginfo_t info;
        ssize_t n;

        (void)events;
        /* One signal may stand for many ends. */
        while ((n = read(watch->fd, &signal, sizeof(signal))) == sizeof(signal))
                reaper->failures = 0;
        if (n < 0 && ++reaper->failures == FAILURES_MAX)
                reactor_fail(reaper->reactor, -errno);
        for (;;) {
                info.si_pid = 0;
                if (UTIL_RETRY(waitid(P_ALL, 0, &info, WEXITED | WNOHANG)) < 0 &&
                    (errno != ECHILD || !list_is_empty(&reaper->children)))
                        reactor_fail(reaper->reactor, -errno);
                if (info.si_pid == 0)
                        break;
                reap(reaper, &info);
        }
}

int reaper_init(struct reaper *reaper, struct reactor *reactor) {
        sigset_t signals;
        siginfo_t info;

        reaper_hold_signals();
        *reaper = (struct reaper){ .reactor = reactor, .signals = WATCH_NULL };
        list_init(&reaper->children);
        /* Process 1 gets orphans of anybody, and children that were there before exec(2) have descendants of their own. */
        reaper->adopts_strangers = getpid() == 1 || waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
        if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
                return -errno;
        fill_signals(&signals);
        reaper->signals.fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
        if (reaper->signals.fd < 0)
                return -errno;
        return reactor_watch(reactor, &reaper->signals, reaper->signals.fd, EPOLLIN, signals_ready);
}

void reaper_deinit(struct reaper *reaper) {
        siginfo_t info = { 0 };

        /* What has ended meanwhile is not left to somebody else. */
        if (reaper->signals.fd >= 0)
                while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) == 0 && info.si_pid > 0)
                        info.si_pid = 0;
        reactor_unwatch(&reaper->signals);
        reaper->signals.fd = util_close(reaper->signals.fd);
}

void reaper_add(struct reaper *reaper, struct reaper_child *child) {
        list_append(&reaper->children, &child->link);
}

void reaper_remove(struct reaper_child *child) {
        if (child->link.next)
                list_remove(&child->link);
}
