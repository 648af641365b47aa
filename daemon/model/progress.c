#include "daemon/model/progress.h"

#include "common/number.h"
#include "common/util.h"

/* Below this a source has not said enough to be extrapolated from. */
#define SPAN_MIN 0.02

/* From this part of a load on, earlier loads no longer count beside what this one says. */
#define SPAN_SURE 0.25

/* An estimate moves towards a new one, half of the way in about this time, so that it does not jump about. */
#define SMOOTHING (2 * NSEC_PER_SEC)

/* Longer loads than this are estimated by nobody: what a rate near 0 comes to. */
#define LEFT_MAX (UINT64_C(30) * 24 * 3600 * NSEC_PER_SEC)

#define UNKNOWN UINT64_MAX

void progress_begin(struct progress *progress, const struct progress_earlier *earlier, uint64_t at) {
        *progress = (struct progress){
                .earlier = *earlier,
                .began = at,
                .fraction = PROGRESS_UNKNOWN,
                .due = earlier->total > 0 ? at + earlier->total : 0,
        };
}

static void track_add(struct progress_track *track, double fraction, uint64_t now) {
        if (track->count == PROGRESS_POINTS_MAX) {
                for (unsigned i = 0; i < PROGRESS_POINTS_MAX / 2; i++)
                        track->points[i] = track->points[2 * i];
                track->count = PROGRESS_POINTS_MAX / 2;
        }
        track->points[track->count++] = (struct progress_point){ now, fraction };
        track->changed = now;
        track->fraction = fraction;
}

void progress_hear(struct progress *progress, enum progress_source source, double fraction, uint64_t now) {
        struct progress_track *track = &progress->tracks[source];

        if (progress->began == 0 || now < progress->began || !(fraction >= 0))
                return;
        fraction = MIN(fraction, 1.0);
        if (track->count > 0 && fraction < track->fraction)
                track->count = track->changes = 0;
        if (track->count > 0 && fraction <= track->fraction)
                return;
        track->changes += track->count > 0;
        track_add(track, fraction, now);
}

/* The last point before the middle of the time in which the source said something: what came before tells less. */
static const struct progress_point *track_reference(const struct progress_track *track) {
        const uint64_t middle = track->points[0].at + (track->changed - track->points[0].at) / 2;
        unsigned i = 0;

        while (i + 2 < track->count && track->points[i + 1].at <= middle)
                i++;
        return &track->points[i];
}

static bool track_is_enough(const struct progress_track *track) {
        if (track->count > 0 && track->fraction >= 1)
                return true;
        return track->count >= 2 && track->fraction - track->points[0].fraction >= SPAN_MIN &&
               track->changed > track->points[0].at;
}

/*
 * The time until the source will have said 1. A source may say something only now and then, as for each of a few files:
 * it is late when it is silent for more than two of its steps, and the rate falls with every moment from then on.
 */
static uint64_t track_left(const struct progress_track *track, uint64_t now) {
        const struct progress_point *reference = track_reference(track);
        const uint64_t step = (track->changed - track->points[0].at) / MAX(track->changes, 1u);
        const uint64_t silent = now - track->changed;
        const uint64_t in_time = MIN(silent, 2 * step);
        double left = (1 - track->fraction) * (double)(track->changed - reference->at + silent - in_time) /
                      (track->fraction - reference->fraction);

        left -= (double)in_time;
        return left > 0 ? (uint64_t)MIN(left, (double)LEFT_MAX) : 0;
}

/* What is left going by earlier loads. */
static uint64_t earlier_left(const struct progress *progress, uint64_t now) {
        const uint64_t took = now > progress->began ? now - progress->began : 0;

        return progress->earlier.total > took ? progress->earlier.total - took : UNKNOWN;
}

/* The best source that has said anything, or NULL; or of those that have said enough. */
static const struct progress_track *best_track(const struct progress *progress, bool enough) {
        for (unsigned i = PROGRESS_SOURCES; i-- > 0;)
                if (enough ? track_is_enough(&progress->tracks[i]) : progress->tracks[i].count > 0)
                        return &progress->tracks[i];
        return NULL;
}

static uint64_t estimate_left(const struct progress *progress, uint64_t now) {
        const struct progress_track *track = best_track(progress, true);
        const uint64_t before = earlier_left(progress, now), tail = progress->earlier.tail;
        uint64_t left;
        double sure;

        if (!track)
                return before;
        if (track->fraction >= 1) {
                /* All was read, or said; how long the rest takes, only an earlier load tells. */
                const uint64_t since = now - track->changed;

                return progress->earlier.total > 0 && tail > since ? tail - since : UNKNOWN;
        }
        left = track_left(track, now) + tail;
        sure = (track->fraction - track->points[0].fraction) / SPAN_SURE;
        if (before == UNKNOWN || sure >= 1)
                return left;
        return (uint64_t)((double)left * sure + (double)before * (1 - sure));
}

/* Towards what was estimated now; at once as long as the load is young. */
static void move_due(struct progress *progress, uint64_t target, uint64_t now) {
        const double passed = (double)(now - progress->updated);
        const double smoothing = (double)MIN(SMOOTHING, (now - progress->began) / 8);

        if (progress->due == 0 || smoothing <= 0)
                progress->due = target;
        else
                progress->due += (uint64_t)(int64_t)(((double)target - (double)progress->due) * passed / (passed + smoothing));
        progress->due = MAX(progress->due, now);
}

void progress_update(struct progress *progress, uint64_t now) {
        const struct progress_track *track = best_track(progress, false);
        const uint64_t total = progress->earlier.total;
        double fraction = PROGRESS_UNKNOWN;
        uint64_t left;

        if (progress->began == 0 || now < progress->began)
                return;
        left = estimate_left(progress, now);
        if (left == UNKNOWN)
                progress->due = 0;
        else
                move_due(progress, now + left, now);
        progress->updated = now;

        if (track)
                fraction = track->fraction;
        else if (total > 0)
                fraction = (double)(now - progress->began) / (double)total;
        progress->fraction = MAX(progress->fraction, MIN(fraction, PROGRESS_FRACTION_MAX));
}

void progress_end(const struct progress *progress, uint64_t now, struct progress_earlier *earlier) {
        const struct progress_track *track = best_track(progress, true);
        /* 0 would be a load of which nothing is known. */
        const uint64_t total = now > progress->began ? now - progress->began : 1;

        *earlier = (struct progress_earlier){ .total = total };
        if (!track)
                return;
        earlier->head = track->points[0].at - progress->began;
        earlier->tail = now - track->changed;
}
