#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/model/generation.h"
#include "daemon/model/upstream_inner.h"

/* Between two probes of a model that is suspected: doubled each time. */
#define CHECK_PAUSE_MIN (50 * NSEC_PER_MSEC)
#define CHECK_PAUSE_MAX NSEC_PER_SEC

/* Of all sessions. */
struct work {
        uint64_t in_flight;
        uint64_t paused;
        uint64_t heard;
};

static struct work sum_work(const struct upstream *upstream) {
        const struct list *works = &upstream->watch.works;
        struct work sum = { 0 };

        for (const struct list *i = works->next; i != works; i = i->next) {
                const struct upstream_work *work = container_of(i, struct upstream_work, link);

                sum.in_flight += atomic_load_explicit(&work->in_flight, memory_order_relaxed);
                sum.paused += atomic_load_explicit(&work->paused, memory_order_relaxed);
                sum.heard += atomic_load_explicit(&work->heard, memory_order_relaxed);
        }
        return sum;
}

/* It is ended for `verdict`, and has nothing more to do until then. */
static void end_child(struct upstream *upstream) {
        char warning[sizeof(upstream->verdict) + 64];

        snprintf(warning, sizeof(warning), "Ending the model server: %s", upstream->verdict);
        upstream->events->warned(upstream->events, warning);
        atomic_fetch_add(&upstream->generation->suspicions, 1);
        upstream_probe_cancel(upstream);
        timer_clear(&upstream->freeze_timer);
        upstream->phase = PHASE_ENDING;
        child_stop(&upstream->child);
}

/* --- Suspicions: a connection to it failed, or it said that it is not available. */

void upstream_suspect(struct model *model) {
        struct upstream *upstream = upstream_of(model);

        if (upstream->phase != PHASE_READY)
                return;
        upstream->phase = PHASE_CHECKING;
        upstream->probe_pause = CHECK_PAUSE_MIN;
        upstream->failing_since = timer_now();
        upstream->heard = sum_work(upstream).heard;
        upstream_probe_after(upstream, 0);
}

void upstream_check_begins(struct upstream *upstream) {
        upstream->suspicions = atomic_load(&upstream->generation->suspicions);
}

/* Whether no probe was answered for so long that it is lost. A model that works may have no time for probes: it may be frozen. */
static bool is_given_up(struct upstream *upstream, const struct work *work) {
        const uint64_t now = timer_now(), timeout = upstream->options.freeze_timeout;

        if (upstream_is_own(upstream) && work->in_flight > 0)
                upstream->failing_since = now;
        return timeout > 0 && now - upstream->failing_since >= timeout;
}

static void give_up(struct upstream *upstream) {
        char time[NUMBER_DURATION_MAX];

        if (upstream_is_own(upstream)) {
                snprintf(upstream->verdict, sizeof(upstream->verdict), "%s; its probes failed for %s", upstream->result,
                         number_format_duration(time, upstream->options.freeze_timeout));
                end_child(upstream);
                return;
        }
        snprintf(upstream->verdict, sizeof(upstream->verdict), "%s; it does not answer any more", upstream->result);
        upstream->keeps_child = child_is_there(&upstream->child);
        upstream_lost(upstream, LOSS_UNREACHABLE, upstream->verdict);
}

void upstream_checked(struct upstream *upstream, unsigned status, bool refused) {
        const struct work work = sum_work(upstream);
        unsigned suspicions = upstream->suspicions;

        /* A path that is not there is an answer too: readiness may have been said in another way. */
        if ((status > 0 && status < 500) || work.heard != upstream->heard) {
                /* Where it was suspected again since the probe began, another one tells. */
                if (!atomic_compare_exchange_strong(&upstream->generation->suspicions, &suspicions, 0)) {
                        upstream_probe_after(upstream, 0);
                        return;
                }
                upstream->phase = PHASE_READY;
                upstream->events->alive(upstream->events);
        } else if (is_given_up(upstream, &work) || (refused && !upstream_is_own(upstream)))
                /* Nobody listens there: a server that msd did not start is about to come back, or was. */
                give_up(upstream);
        else {
                upstream->heard = work.heard;
                upstream_probe_after(upstream, upstream->probe_pause);
                upstream->probe_pause = MIN(upstream->probe_pause * 2, CHECK_PAUSE_MAX);
        }
}

/* --- Freezes: it has requests, and nothing comes of them. */

static void take_usage(struct upstream *upstream, struct freeze_sample *sample) {
        struct child_usage usage = { 0 };

        if (child_is_there(&upstream->child))
                child_usage(&upstream->child, &usage);
        sample->now = timer_now();
        sample->said = upstream->said;
        sample->processor = usage.processor;
        sample->disk = usage.read_from_disk;
        sample->io = usage.read + usage.written;
        sample->processes = usage.processes;
}

static void take_sample(struct upstream *upstream, const struct work *work, struct freeze_sample *sample) {
        take_usage(upstream, sample);
        /* With a client that does not read, others may wait for it in vain. */
        sample->works = work->in_flight > 0 && work->paused == 0;
        sample->heard = work->heard;
}

/* One that refuses its probes does what it takes to answer them, and no more than that is none. */
bool upstream_progressed(struct model *model) {
        struct upstream *upstream = upstream_of(model);
        const struct freeze_sample before = upstream->load_sample;
        bool progressed = upstream->stirred || upstream->phase == PHASE_AWAITING_END;

        if (!upstream->reactor)
                return progressed;
        take_usage(upstream, &upstream->load_sample);
        upstream->load_sample.works = true;
        progressed |= freeze_shows_life(&before, upstream->refuses_probes ? upstream->load_sample.now - before.now : 1,
                                        &upstream->load_sample);
        upstream->stirred = false;
        return progressed;
}

static void sample_after_interval(struct upstream *upstream) {
        reactor_set_timer(upstream->reactor, &upstream->freeze_timer,
                          timer_now() + freeze_interval(upstream->options.freeze_timeout));
}

static void freeze_due(struct timer *timer) {
        struct upstream *upstream = container_of(timer, struct upstream, freeze_timer);
        const struct work work = sum_work(upstream);
        struct freeze_sample sample;
        char time[NUMBER_DURATION_MAX];

        if (!upstream_is_up(upstream))
                return;
        take_sample(upstream, &work, &sample);
        if (freeze_judge(&upstream->freeze, upstream->options.freeze_timeout, &sample)) {
                snprintf(upstream->verdict, sizeof(upstream->verdict),
                         "it is frozen: no byte of an answer came for %s (requests in flight: %" PRIu64
                         "), and its processes did nothing",
                         number_format_duration(time, upstream->options.freeze_timeout), work.in_flight);
                end_child(upstream);
                return;
        }
        /* A request that began just now may not have seen that it has to say so: it is looked once more. */
        if (work.in_flight == 0 && upstream->resting)
                return;
        upstream->resting = work.in_flight == 0;
        atomic_store(&upstream->watch.is_set, !upstream->resting);
        sample_after_interval(upstream);
}

void upstream_work_begins(struct mailbox *mailbox, unsigned messages) {
        struct upstream *upstream = container_of(mailbox, struct upstream, watch.mailbox);
        const struct work work = sum_work(upstream);
        struct freeze_sample sample;

        (void)messages;
        if (!upstream_is_up(upstream))
                return;
        upstream->resting = false;
        upstream->freeze = (struct freeze){ 0 };
        take_sample(upstream, &work, &sample);
        (void)freeze_judge(&upstream->freeze, upstream->options.freeze_timeout, &sample);
        sample_after_interval(upstream);
}

void upstream_judge_ready(struct upstream *upstream) {
        timer_clear(&upstream->freeze_timer);
        if (upstream_is_own(upstream) && upstream->options.freeze_timeout > 0)
                atomic_store(&upstream->watch.is_set, false);
}

void upstream_judge_init(struct upstream *upstream) {
        list_init(&upstream->watch.works);
        /* Nobody need say anything before it is ready. */
        atomic_init(&upstream->watch.is_set, true);
        upstream->watch.mailbox = (struct mailbox)MAILBOX_NULL;
        timer_init(&upstream->freeze_timer, freeze_due);
}
