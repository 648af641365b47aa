#include "client/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/bar.h"
#include "common/number.h"
#include "common/util.h"

/* A client that is answered at once has nothing to read. */
#define PROGRESS_DELAY (300 * NSEC_PER_MSEC)
#define PROGRESS_PERIOD NSEC_PER_SEC

/* The words, and the longest text that STATUS has of the model. */
#define DESCRIPTION_MAX (256 + sizeof(((struct status *)NULL)->error))

uint64_t progress_begin(struct progress *progress, uint64_t now) {
        *progress = (struct progress){ .since = now };
        return now + PROGRESS_DELAY;
}

static const char *whole_seconds(char buffer[static NUMBER_DURATION_MAX], uint64_t nsec) {
        return number_format_duration(buffer, nsec / NSEC_PER_SEC * NSEC_PER_SEC);
}

/* The state of the model, and of the other requests. */
static void describe(const struct progress *progress, char text[static DESCRIPTION_MAX]) {
        const struct status *status = &progress->status;
        char load[NUMBER_DURATION_MAX], words[BAR_WORDS_MAX], others[64] = "";

        if (!progress->known) {
                snprintf(text, DESCRIPTION_MAX, " for an answer");
                return;
        }
        whole_seconds(load, status->load);
        if (progress->others > 0)
                snprintf(others, sizeof(others), ", behind %" PRIu64 " other%s", progress->others,
                         progress->others == 1 ? "" : "s");

        if (strcmp(status->status, "loading") == 0 && status->attempt > 1)
                snprintf(text, DESCRIPTION_MAX, " for the model: loading for %s, attempt %" PRIu64 "%s%s%s",
                         load, status->attempt, others, status->error[0] != '\0' ? "; last: " : "",
                         status->error);
        else if (strcmp(status->status, "loading") == 0 && bar_words(words, status->progress, status->eta) > 0)
                snprintf(text, DESCRIPTION_MAX, ": %s%s", words, others);
        else if (strcmp(status->status, "loading") == 0)
                snprintf(text, DESCRIPTION_MAX, " for the model: loading for %s%s", load, others);
        else if (strcmp(status->status, "ready") == 0)
                snprintf(text, DESCRIPTION_MAX, " for an answer: model %s is ready%s", status->model, others);
        else if (strcmp(status->status, "stopping") == 0)
                snprintf(text, DESCRIPTION_MAX, " for an answer: the daemon is stopping%s", others);
        else
                snprintf(text, DESCRIPTION_MAX, " for the model: %s%s%s%s", status->status, others,
                         status->error[0] != '\0' ? "; last: " : "", status->error);
}

static void draw(struct progress *progress, uint64_t now) {
        const double fraction = progress->known && strcmp(progress->status.status, "loading") == 0 ? progress->status.progress : -1;
        char text[DESCRIPTION_MAX], words[DESCRIPTION_MAX + NUMBER_DURATION_MAX + sizeof("Waiting ")];
        char waited[NUMBER_DURATION_MAX], line[BAR_LINE_MAX];

        describe(progress, text);
        snprintf(words, sizeof(words), "Waiting %s%s", whole_seconds(waited, now - progress->since), text);
        bar_line(line, fraction, words, bar_columns(STDERR_FILENO), bar_has_colour());
        fprintf(stderr, "\r%s\033[K", line);
        (void)fflush(stderr);
        progress->shown = true;
}

uint64_t progress_tick(struct progress *progress, uint64_t now) {
        /* Else it is drawn when the answer is there. */
        if (!progress->shown || progress->asked)
                draw(progress, now);
        if (!progress->asked)
                progress->wanted = true;
        return now + PROGRESS_PERIOD;
}

void progress_asked(struct progress *progress) {
        progress->wanted = false;
        progress->asked = true;
}

void progress_answered(struct progress *progress, const char *body, size_t len, uint64_t own, uint64_t now) {
        uint64_t all;

        progress->asked = false;
        progress->known = body && status_parse(body, len, &progress->status) == 0;
        if (!progress->known)
                return;
        all = progress->status.waiting + progress->status.processing;
        progress->others = all > own ? all - own : 0;
        if (progress->shown)
                draw(progress, now);
}

void progress_hide(struct progress *progress) {
        if (!progress->shown)
                return;
        fputs("\r\033[K", stderr);
        (void)fflush(stderr);
        progress->shown = false;
}
