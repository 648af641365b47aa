#include "daemon/model/freeze.h"

#include "common/number.h"
#include "common/util.h"

#define INTERVAL_MAX (5 * NSEC_PER_SEC)

/* Less than 1 % of one processor is no sign of life. */
#define PROCESSOR_SHARE 100

/* Health probes, and what scrapes the metrics of the server, take up to so many bytes a second. */
#define IO_PER_SEC 4096

uint64_t freeze_interval(uint64_t timeout) {
        return MAX(MIN(timeout / 8, INTERVAL_MAX), NSEC_PER_MSEC);
}

bool freeze_shows_life(const struct freeze_sample *before, uint64_t time, const struct freeze_sample *now) {
        if (!before->works || !now->works)
                return true;
        if (now->heard != before->heard || now->said != before->said || now->disk != before->disk ||
            now->processes != before->processes)
                return true;
        /* A process that ends takes its share of the sums with it. */
        if (now->processor < before->processor || now->io < before->io)
                return true;
        return now->processor - before->processor >= MAX(time / PROCESSOR_SHARE, 1u) ||
               now->io - before->io > time / NSEC_PER_MSEC * IO_PER_SEC / 1000;
}

bool freeze_judge(struct freeze *freeze, uint64_t timeout, const struct freeze_sample *sample) {
        /* What was used since the last sign of life is less than a time-out's worth: so it was in the last time-out. */
        if (freeze_shows_life(&freeze->alive, timeout, sample)) {
                freeze->alive = *sample;
                return false;
        }
        return sample->now - freeze->alive.now >= timeout;
}
