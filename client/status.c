#include "client/status.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/bar.h"
#include "common/json.h"
#include "common/number.h"
#include "common/printable.h"
#include "common/util.h"

static void take_text(const json_t *object, const char *name, char *buffer, size_t size) {
        const char *text = json_string_value(json_object_get(object, name));

        (void)printable(buffer, size, text ? text : "", text ? strlen(text) : 0);
}

/* Those for which there is room. */
static void take_lines(const json_t *object, const char *name, char *buffer, size_t size) {
        const json_t *array = json_object_get(object, name), *line;
        size_t n = 0, i;

        buffer[0] = '\0';
        json_array_foreach(array, i, line) {
                const char *text = json_string_value(line);
                size_t len = text ? strlen(text) : 0;

                if (!text || n + len + 2 > size)
                        continue;
                n += printable(buffer + n, size - n, text, len);
                buffer[n++] = '\n';
                buffer[n] = '\0';
        }
}

static uint64_t take_number(const json_t *object, const char *name) {
        json_int_t number = json_integer_value(json_object_get(object, name));

        return number > 0 ? (uint64_t)number : 0;
}

static uint64_t take_seconds(const json_t *object, const char *name) {
        double seconds = json_number_value(json_object_get(object, name));

        /* Rounded to the millisecond that the object has. What no clock counts up to does not fit either. */
        return seconds > 0 && seconds < 1e9 ? (uint64_t)(seconds * 1e3 + 0.5) * NSEC_PER_MSEC : 0;
}

static double take_fraction(const json_t *object, const char *name) {
        const json_t *number = json_object_get(object, name);
        double fraction = json_is_number(number) ? json_number_value(number) : -1;

        return fraction >= 0 && fraction <= 1 ? fraction : -1;
}

static void json_free(json_t **json) {
        json_decref(*json);
}

int status_parse(const char *text, size_t len, struct status *status) {
        _cleanup_(json_free) json_t *object = json_read(text, len);

        *status = (struct status){ 0 };
        if (!object && errno == ENOMEM)
                return -ENOMEM;
        take_text(object, "status", status->status, sizeof(status->status));
        if (status->status[0] == '\0')
                return STATUS_MALFORMED;
        take_text(object, "model", status->model, sizeof(status->model));
        take_text(object, "error", status->error, sizeof(status->error));
        take_lines(object, "last_words", status->last_words, sizeof(status->last_words));
        take_text(object, "version", status->version, sizeof(status->version));
        status->generation = take_number(object, "generation");
        status->attempt = take_number(object, "attempt");
        status->load = take_seconds(object, "load_s");
        status->progress = take_fraction(object, "progress");
        status->eta = json_is_number(json_object_get(object, "eta_s")) ? (int64_t)take_seconds(object, "eta_s") : -1;
        status->waiting = take_number(object, "waiting");
        status->oldest_wait = take_seconds(object, "oldest_wait_s");
        status->processing = take_number(object, "processing");
        status->suspects = take_number(object, "suspects");
        status->completed = take_number(object, "completed");
        status->failed = take_number(object, "failed");
        status->cancelled = take_number(object, "cancelled");
        status->connections = take_number(object, "connections");
        status->uptime = take_seconds(object, "uptime_s");
        status->pid = take_number(object, "pid");
        return 0;
}

struct text {
        char *buffer;
        size_t len;
};

static void __attribute__((format(printf, 2, 3))) add(struct text *text, const char *format, ...) {
        size_t left = STATUS_TEXT_MAX - text->len;
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(text->buffer + text->len, left, format, ap);
        va_end(ap);
        if (n > 0)
                text->len += MIN((size_t)n, left - 1);
}

/* How far the load is, as far as that is known. */
static void add_progress(struct text *text, const struct status *status, size_t columns, bool colour) {
        static const char title[] = "Progress:  ";
        char words[BAR_WORDS_MAX], line[BAR_LINE_MAX];

        if (bar_words(words, status->progress, status->eta) == 0)
                return;
        if (columns > sizeof(title))
                (void)bar_line(line, status->progress, words, columns - sizeof(title), colour);
        add(text, "%s%s\n", title, columns > sizeof(title) ? line : words);
}

size_t status_format(char buffer[static STATUS_TEXT_MAX], const struct status *status, size_t columns, bool colour) {
        char load[NUMBER_DURATION_MAX], wait[NUMBER_DURATION_MAX], uptime[NUMBER_DURATION_MAX];
        struct text text = { buffer, 0 };

        number_format_duration(load, status->load);
        number_format_duration(wait, status->oldest_wait);
        number_format_duration(uptime, status->uptime);

        add(&text, "Status:    %s", status->status);
        if (strcmp(status->status, "ready") == 0)
                add(&text, " (loaded in %s)\n", load);
        else if (strcmp(status->status, "loading") == 0)
                add(&text, " (for %s, attempt %" PRIu64 ")\n", load, status->attempt);
        else if (strcmp(status->status, "failed") == 0)
                add(&text, " (after %s, attempt %" PRIu64 ")\n", load, status->attempt);
        else
                add(&text, "\n");

        add_progress(&text, status, columns, colour);
        add(&text, "Model:     %s (generation %" PRIu64 ")\n",
            status->model[0] != '\0' ? status->model : "none", status->generation);
        if (status->error[0] != '\0')
                add(&text, "Error:     %s\n", status->error);
        for (const char *line = status->last_words, *end; (end = strchr(line, '\n')); line = end + 1)
                add(&text, "%s%.*s\n", line == status->last_words ? "Output:    " : "           ", (int)(end - line), line);

        add(&text, "Requests:  %" PRIu64 " waiting", status->waiting);
        if (status->waiting > 0)
                add(&text, " (the oldest for %s)", wait);
        add(&text, ", %" PRIu64 " processing, %" PRIu64 " completed, %" PRIu64 " failed, %" PRIu64
                   " cancelled\n",
            status->processing, status->completed, status->failed, status->cancelled);
        if (status->suspects > 0)
                add(&text, "Suspects:  %" PRIu64 ", after a crash sent to the model one at a time\n", status->suspects);
        add(&text, "Daemon:    msd %s, PID %" PRIu64 ", up for %s, %" PRIu64 " connection%s\n",
            status->version, status->pid, uptime, status->connections, status->connections == 1 ? "" : "s");
        return text.len;
}
