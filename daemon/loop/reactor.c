#include "daemon/loop/reactor.h"

#include <errno.h>

#include "common/number.h"
#include "common/util.h"

/*
 * So often in a row a wait may be interrupted. Signals are blocked, or end the process: who debugs it or stops it for a while
 * does so, once at a time.
 */
#define INTERRUPTED_MAX 1000

int reactor_init(struct reactor *reactor) {
        *reactor = (struct reactor){ .epoll = epoll_create1(EPOLL_CLOEXEC) };
        list_init(&reactor->jobs);
        timer_list_init(&reactor->timers);
        return reactor->epoll < 0 ? -errno : 0;
}

void reactor_deinit(struct reactor *reactor) {
        if (reactor->epoll > 0)
                close(reactor->epoll);
        reactor->epoll = -1;
}

int reactor_watch(struct reactor *reactor, struct watch *watch, int fd, uint32_t events,
                  void (*ready)(struct watch *watch, uint32_t events)) {
        struct epoll_event event = { .events = events, .data.ptr = watch };

        if (epoll_ctl(reactor->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
                return -errno;
        *watch = (struct watch){ .reactor = reactor, .ready = ready, .fd = fd, .events = events };
        return 0;
}

int reactor_rearm(struct watch *watch, uint32_t events) {
        struct epoll_event event = { .events = events, .data.ptr = watch };

        if (epoll_ctl(watch->reactor->epoll, EPOLL_CTL_MOD, watch->fd, &event) < 0)
                return -errno;
        watch->events = events;
        return 0;
}

int reactor_rewatch(struct watch *watch, uint32_t events) {
        return events == watch->events ? 0 : reactor_rearm(watch, events);
}

int reactor_rouse(struct watch *watch) {
        struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = watch };

        return epoll_ctl(watch->reactor->epoll, EPOLL_CTL_MOD, watch->fd, &event) < 0 ? -errno : 0;
}

void reactor_unwatch(struct watch *watch) {
        struct reactor *reactor = watch->reactor;

        if (!reactor)
                return;
        /* The watch may be gone when its next event comes. */
        if (epoll_ctl(reactor->epoll, EPOLL_CTL_DEL, watch->fd, NULL) < 0)
                reactor_fail(reactor, -errno);
        for (int i = reactor->batch_next; i < reactor->batch_end; i++)
                if (reactor->batch[i].data.ptr == watch)
                        reactor->batch[i].data.ptr = NULL;
        watch->reactor = NULL;
}

void job_init(struct job *job, void (*run)(struct job *job)) {
        *job = (struct job){ .run = run };
        list_init(&job->link);
}

void job_cancel(struct job *job) {
        list_remove(&job->link);
}

uint64_t reactor_now(struct reactor *reactor) {
        if (reactor->now == 0)
                reactor->now = timer_now();
        return reactor->now;
}

/* Waits until something is ready, or `due`. Returns the number of events, or -errno. */
static int reactor_wait(struct reactor *reactor, uint64_t due) {
        struct timespec left = { 0 };
        int r, msec = -1;

        if (due != UINT64_MAX) {
                uint64_t now = timer_now(), nsec = due > now ? due - now : 0;

                left.tv_sec = (time_t)(nsec / NSEC_PER_SEC);
                left.tv_nsec = (long)(nsec % NSEC_PER_SEC);
                /* Rounded up: to wake before the time would be to spin until it. */
                msec = (int)MIN((nsec + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC, UINT64_C(3600000));
        }

        if (due != UINT64_MAX && msec > 0 && !reactor->no_pwait2) {
                r = epoll_pwait2(reactor->epoll, reactor->batch, REACTOR_BATCH, &left, NULL);
                if (r >= 0 || errno != ENOSYS)
                        return r >= 0 ? r : -errno;
                /* Linux before 5.11, and valgrind. */
                reactor->no_pwait2 = true;
        }
        r = epoll_wait(reactor->epoll, reactor->batch, REACTOR_BATCH, msec);
        return r >= 0 ? r : -errno;
}

static void reactor_run_jobs(struct reactor *reactor) {
        struct list jobs;

        list_move_all(&jobs, &reactor->jobs);
        while (!list_is_empty(&jobs)) {
                struct job *job = container_of(jobs.next, struct job, link);

                list_remove(&job->link);
                job->run(job);
        }
}

int reactor_run(struct reactor *reactor) {
        unsigned interrupted = 0;

        while (!reactor->stopped && reactor->error == 0) {
                int n = reactor_wait(reactor, list_is_empty(&reactor->jobs) ? timer_list_due(&reactor->timers) : 0);

                interrupted = n == -EINTR ? interrupted + 1 : 0;
                if (n < 0 && (n != -EINTR || interrupted == INTERRUPTED_MAX))
                        return n;
                reactor->now = 0;
                reactor->batch_end = MAX(n, 0);
                for (int i = 0; i < reactor->batch_end; i++) {
                        struct watch *watch = reactor->batch[i].data.ptr;

                        reactor->batch_next = i + 1;
                        if (watch)
                                watch->ready(watch, reactor->batch[i].events);
                }
                reactor->batch_next = reactor->batch_end = 0;
                if (timer_list_due(&reactor->timers) != UINT64_MAX)
                        timer_list_elapse(&reactor->timers, reactor_now(reactor));
                reactor_run_jobs(reactor);
        }
        return reactor->error;
}

void reactor_stop(struct reactor *reactor) {
        reactor->stopped = true;
}

void reactor_fail(struct reactor *reactor, int error) {
        if (reactor->error == 0)
                reactor->error = error;
}
