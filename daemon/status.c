#include "daemon/status.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/json.h"
#include "common/number.h"
#include "common/printable.h"
#include "common/util.h"
#include "daemon/loop/timer.h"
#include "daemon/model/progress.h"

/* Seconds. */
#define RETRY_MIN UINT64_C(1)
#define RETRY_MAX UINT64_C(120)

const uint64_t histogram_bounds[HISTOGRAM_BOUNDS] = {
        10 * NSEC_PER_MSEC, 100 * NSEC_PER_MSEC, 1 * NSEC_PER_SEC,   5 * NSEC_PER_SEC,   10 * NSEC_PER_SEC,   30 * NSEC_PER_SEC,
        60 * NSEC_PER_SEC,  120 * NSEC_PER_SEC,  300 * NSEC_PER_SEC, 600 * NSEC_PER_SEC, 1800 * NSEC_PER_SEC,
};

static uint64_t counter_get(const atomic_uint_fast64_t *from) {
        return atomic_load_explicit(from, memory_order_relaxed);
}

int status_init(struct status *status, unsigned count, const struct gate *stop) {
        *status = (struct status){ .count = count, .started = timer_now(), .stop = stop };
        status_expect(status, NULL);
        status->counters = aligned_alloc(_Alignof(struct status_counters), count * sizeof(*status->counters));
        if (!status->counters)
                return -ENOMEM;
        memset(status->counters, 0, count * sizeof(*status->counters));
        pthread_mutex_init(&status->mutex, NULL);
        return 0;
}

void status_deinit(struct status *status) {
        if (!status->counters)
                return;
        free(STEAL_POINTER(status->counters));
        pthread_mutex_destroy(&status->mutex);
}

void status_expect(struct status *status, const struct progress *progress) {
        const double fraction = progress ? progress->fraction : PROGRESS_UNKNOWN;

        counter_set(&status->outlook.began, progress ? progress->began : 0);
        counter_set(&status->outlook.due, progress ? progress->due : 0);
        atomic_store_explicit(&status->outlook.permille, fraction >= 0 ? (int)(fraction * 1000 + 0.5) : -1, memory_order_relaxed);
}

static void begin_generation(struct status *status, unsigned generation, uint64_t load_began) {
        status_expect(status, NULL);
        pthread_mutex_lock(&status->mutex);
        status->state = GATE_PENDING;
        status->generation = generation;
        status->attempt = load_began > 0;
        status->load_began = load_began;
        status->load_ended = 0;
        status->model[0] = '\0';
        status->probe[0] = '\0';
        pthread_mutex_unlock(&status->mutex);
}

void status_idle(struct status *status, unsigned generation) {
        begin_generation(status, generation, 0);
}

void status_loading(struct status *status, unsigned generation) {
        begin_generation(status, generation, timer_now());
}

void status_attempt(struct status *status, unsigned attempt, const char *error) {
        pthread_mutex_lock(&status->mutex);
        status->attempt = attempt;
        if (error)
                snprintf(status->error, sizeof(status->error), "%s", error);
        pthread_mutex_unlock(&status->mutex);
}

static void load_ended(struct status *status, enum gate_state state) {
        status_expect(status, NULL);
        status->state = state;
        status->load_ended = timer_now();
        histogram_add(&status->loads, status->load_ended - status->load_began);
}

void status_ready(struct status *status, const char *model) {
        pthread_mutex_lock(&status->mutex);
        load_ended(status, GATE_OPEN);
        snprintf(status->model, sizeof(status->model), "%s", model);
        pthread_mutex_unlock(&status->mutex);
}

void status_failed(struct status *status, const char *error) {
        pthread_mutex_lock(&status->mutex);
        load_ended(status, GATE_FAILED);
        snprintf(status->error, sizeof(status->error), "%s", error);
        pthread_mutex_unlock(&status->mutex);
}

void status_last_words(struct status *status, const char *words) {
        pthread_mutex_lock(&status->mutex);
        snprintf(status->last_words, sizeof(status->last_words), "%s", words);
        pthread_mutex_unlock(&status->mutex);
}

void status_probe(struct status *status, const char *result) {
        pthread_mutex_lock(&status->mutex);
        snprintf(status->probe, sizeof(status->probe), "%s", result);
        pthread_mutex_unlock(&status->mutex);
}

void status_get_probe(struct status *status, char *result, size_t size) {
        pthread_mutex_lock(&status->mutex);
        snprintf(result, size, "%s", status->probe);
        pthread_mutex_unlock(&status->mutex);
}

void status_get_error(struct status *status, char *error, size_t size) {
        pthread_mutex_lock(&status->mutex);
        snprintf(error, size, "%s", status->error);
        pthread_mutex_unlock(&status->mutex);
}

/* Under the mutex. */
static enum status_state state_of(const struct status *status) {
        if (gate_state(status->stop) != GATE_PENDING)
                return STATUS_STATE_STOPPING;
        switch (status->state) {
        case GATE_OPEN:
                return STATUS_STATE_READY;
        case GATE_FAILED:
                return STATUS_STATE_FAILED;
        default:
                return status->load_began == 0 ? STATUS_STATE_IDLE : STATUS_STATE_LOADING;
        }
}

enum status_state status_state(struct status *status) {
        enum status_state state;

        pthread_mutex_lock(&status->mutex);
        state = state_of(status);
        pthread_mutex_unlock(&status->mutex);
        return state;
}

static uint64_t load_time(const struct status *status) {
        if (status->load_began == 0)
                return 0;
        return (status->load_ended != 0 ? status->load_ended : timer_now()) - status->load_began;
}

uint64_t status_load_time(struct status *status) {
        uint64_t time;

        pthread_mutex_lock(&status->mutex);
        time = load_time(status);
        pthread_mutex_unlock(&status->mutex);
        return time;
}

struct status_expectation status_expectation(const struct status *status) {
        const uint64_t now = timer_now(), began = counter_get(&status->outlook.began), due = counter_get(&status->outlook.due);
        const int permille = atomic_load_explicit(&status->outlook.permille, memory_order_relaxed);
        struct status_expectation expectation = { PROGRESS_UNKNOWN, -1 };

        if (due != 0)
                expectation.left = due > now ? (int64_t)(due - now) : 0;
        if (permille >= 0)
                expectation.fraction = (double)permille / 1000;
        else if (due > began && now >= began)
                /* Nobody says how far it is, but how long it takes is known. */
                expectation.fraction = MIN((double)(now - began) / (double)(due - began), PROGRESS_FRACTION_MAX);
        return expectation;
}

unsigned status_retry_after(const struct status *status) {
        const uint64_t now = timer_now(), began = counter_get(&status->outlook.began);
        const int64_t left = status_expectation(status).left;
        /* Before the end of a back-off there is no load that could end. */
        uint64_t nsec = left >= 0 ? (uint64_t)left : began > now ? began - now : 0;
        uint64_t seconds = nsec / NSEC_PER_SEC + (nsec % NSEC_PER_SEC != 0);

        /* So that those who were told the same do not come at the same moment. */
        seconds += seconds / 4 * (uint64_t)random() / RAND_MAX;
        return (unsigned)MAX(RETRY_MIN, MIN(seconds, RETRY_MAX));
}

void status_sum(struct status *status, struct status_sums *sums) {
        *sums = (struct status_sums){ 0 };
        for (unsigned i = 0; i < status->count; i++) {
                const struct status_counters *counters = &status->counters[i];
                uint64_t oldest = counter_get(&counters->oldest);

                sums->waiting += counter_get(&counters->waiting);
                if (oldest != 0 && (sums->oldest == 0 || oldest < sums->oldest))
                        sums->oldest = oldest;
                sums->processing += counter_get(&counters->processing);
                sums->accepted += counter_get(&counters->accepted);
                sums->completed += counter_get(&counters->completed);
                sums->failed += counter_get(&counters->failed);
                sums->cancelled += counter_get(&counters->cancelled);
                sums->connections += counter_get(&counters->connections);
                sums->suspects += counter_get(&counters->suspects);
                sums->demands += counter_get(&counters->demands);
                sums->used = MAX(sums->used, counter_get(&counters->used));
                sums->heard = MAX(sums->heard, counter_get(&counters->heard));
        }
}

/* Seconds, to the millisecond. */
static json_t *json_seconds(uint64_t nsec) {
        const uint64_t msec = nsec / NSEC_PER_MSEC;

        return json_real((double)msec / 1000);
}

json_t *status_text(const char *text) {
        json_t *json = json_string(text);

        if (!json) {
                char copy[GATE_REASON_MAX];

                (void)printable(copy, sizeof(copy), text, strlen(text));
                json = json_string(copy);
        }
        return json;
}

/* Each line as a string; they are printable, and so they are UTF-8. */
static json_t *lines_of(const char *text) {
        json_t *lines = json_array();

        for (const char *end; (end = strchr(text, '\n')); text = end + 1)
                json_array_append_new(lines, json_stringn(text, (size_t)(end - text)));
        return lines;
}

char *status_format(struct status *status) {
        static const char *const names[] = {
                [STATUS_STATE_LOADING] = "loading", [STATUS_STATE_READY] = "ready",       [STATUS_STATE_FAILED] = "failed",
                [STATUS_STATE_IDLE] = "idle",       [STATUS_STATE_STOPPING] = "stopping",
        };
        const struct status_expectation expectation = status_expectation(status);
        const uint64_t now = timer_now();
        struct status_sums sums;
        json_t *json, *model, *error, *last_words, *probe;
        char *text;

        status_sum(status, &sums);
        pthread_mutex_lock(&status->mutex);
        model = status->state == GATE_OPEN ? status_text(status->model) : json_null();
        error = status->error[0] != '\0' ? status_text(status->error) : json_null();
        last_words = lines_of(status->last_words);
        probe = status->probe[0] != '\0' ? status_text(status->probe) : json_null();
        json = json_pack(
                "{ss so sI sI so so so sI so sI sI sI sI sI sI so so so so ss sI}",
                "status", names[state_of(status)],
                "model", model,
                "generation", (json_int_t)status->generation,
                "attempt", (json_int_t)status->attempt,
                "load_s", json_seconds(load_time(status)),
                "progress", expectation.fraction >= 0 ? json_real((double)(int)(expectation.fraction * 1000 + 0.5) / 1000) : json_null(),
                "eta_s", expectation.left >= 0 ? json_seconds((uint64_t)expectation.left) : json_null(),
                "waiting", (json_int_t)sums.waiting,
                "oldest_wait_s", json_seconds(sums.oldest != 0 && now > sums.oldest ? now - sums.oldest : 0),
                "processing", (json_int_t)sums.processing,
                "completed", (json_int_t)sums.completed,
                "failed", (json_int_t)sums.failed,
                "cancelled", (json_int_t)sums.cancelled,
                "suspects", (json_int_t)sums.suspects,
                "connections", (json_int_t)sums.connections,
                "uptime_s", json_seconds(now - status->started),
                "error", error,
                "last_words", last_words,
                "probe", probe,
                "version", MSD_VERSION,
                "pid", (json_int_t)getpid());
        pthread_mutex_unlock(&status->mutex);
        text = json_write(json);
        json_decref(json);
        return text;
}

static void write_head(FILE *file, const char *name, const char *type, const char *help) {
        fprintf(file, "# HELP msd_%s %s\n# TYPE msd_%s %s\n", name, help, name, type);
}

static void write_number(FILE *file, const char *name, const char *type, uint64_t number, const char *help) {
        write_head(file, name, type, help);
        fprintf(file, "msd_%s %" PRIu64 "\n", name, number);
}

/* Of one histogram for all, or of one for each worker. */
static void write_histogram(FILE *file, const char *name, const struct histogram *first, size_t stride, unsigned n,
                            const char *help) {
        uint64_t total = 0, sum = 0;

        write_head(file, name, "histogram", help);
        for (unsigned i = 0; i <= HISTOGRAM_BOUNDS; i++) {
                for (unsigned j = 0; j < n; j++) {
                        const struct histogram *histogram =
                                (const struct histogram *)(const void *)((const char *)first + j * stride);

                        total += counter_get(&histogram->counts[i]);
                        if (i == 0)
                                sum += counter_get(&histogram->sum);
                }
                if (i < HISTOGRAM_BOUNDS)
                        fprintf(file, "msd_%s_bucket{le=\"%.15g\"} %" PRIu64 "\n", name,
                                (double)histogram_bounds[i] / (double)NSEC_PER_SEC, total);
        }
        fprintf(file, "msd_%s_bucket{le=\"+Inf\"} %" PRIu64 "\nmsd_%s_sum %.9f\nmsd_%s_count %" PRIu64 "\n", name, total, name,
                (double)sum / (double)NSEC_PER_SEC, name, total);
}

/* Gauges that are there only while somebody knows them. */
static void write_outlook(FILE *file, const struct status *status) {
        const struct status_expectation expectation = status_expectation(status);

        if (expectation.fraction >= 0) {
                write_head(file, "load_progress", "gauge", "How far the load is, 0 to 1; absent while that is not known.");
                fprintf(file, "msd_load_progress %.3f\n", expectation.fraction);
        }
        if (expectation.left >= 0) {
                write_head(file, "load_eta_seconds", "gauge",
                           "Seconds until the load is expected to end; absent while that is not known.");
                fprintf(file, "msd_load_eta_seconds %.3f\n", (double)expectation.left / (double)NSEC_PER_SEC);
        }
}

static void write_responses(FILE *file, const struct status *status) {
        write_head(file, "http_responses_total", "counter", "Answers of the model to clients of HTTP.");
        for (unsigned i = 0; i < HTTP_STATUS_COUNT; i++) {
                uint64_t n = 0;

                for (unsigned j = 0; j < status->count; j++)
                        n += counter_get(&status->counters[j].http.responses[i]);
                if (n > 0)
                        fprintf(file, "msd_http_responses_total{code=\"%u\"} %" PRIu64 "\n", HTTP_STATUS_MIN + i, n);
        }
}

static void write_retries(FILE *file, const struct status *status) {
        uint64_t n = 0;

        for (unsigned i = 0; i < status->count; i++)
                n += counter_get(&status->counters[i].retries);
        write_number(file, "retries_total", "counter", n, "Requests that were sent to the model again.");
}

static void write_bytes(FILE *file, const struct status *status) {
        uint64_t in = 0, out = 0;

        for (unsigned i = 0; i < status->count; i++) {
                in += counter_get(&status->counters[i].http.bytes_in);
                out += counter_get(&status->counters[i].http.bytes_out);
        }
        write_number(file, "http_received_bytes_total", "counter", in, "Bytes that clients of HTTP sent.");
        write_number(file, "http_sent_bytes_total", "counter", out, "Bytes that clients of HTTP were sent.");
}

char *status_format_metrics(struct status *status) {
        struct histogram loads;
        struct status_sums sums;
        uint64_t now = timer_now();
        unsigned generation;
        enum status_state state;
        size_t size;
        char *text = NULL;
        FILE *file = open_memstream(&text, &size);

        if (!file)
                return NULL;
        status_sum(status, &sums);
        pthread_mutex_lock(&status->mutex);
        loads = status->loads;
        generation = status->generation;
        state = state_of(status);
        pthread_mutex_unlock(&status->mutex);

        write_number(file, "requests_accepted_total", "counter", sums.accepted,
                     "Requests that were accepted: each waits, is with the model, or has ended.");
        write_head(file, "requests_total", "counter", "Requests that have ended.");
        fprintf(file, "msd_requests_total{outcome=\"completed\"} %" PRIu64 "\n", sums.completed);
        fprintf(file, "msd_requests_total{outcome=\"failed\"} %" PRIu64 "\n", sums.failed);
        fprintf(file, "msd_requests_total{outcome=\"cancelled\"} %" PRIu64 "\n", sums.cancelled);
        write_number(file, "requests_waiting", "gauge", sums.waiting, "Requests that wait for the model.");
        write_number(file, "requests_processing", "gauge", sums.processing, "Requests that are with the model.");
        write_number(file, "requests_suspect", "gauge", sums.suspects,
                     "Requests that were with the model when it crashed, and are sent to it again one at a time.");
        write_histogram(file, "wait_seconds", &status->counters[0].waits, sizeof(status->counters[0]), status->count,
                        "Time from the arrival of a request until it was with the model.");
        write_histogram(file, "first_byte_seconds", &status->counters[0].http.first_bytes, sizeof(status->counters[0]),
                        status->count, "Time from when a request of HTTP was with the model until its answer began.");
        write_retries(file, status);
        write_responses(file, status);
        write_bytes(file, status);
        write_histogram(file, "load_seconds", &loads, 0, 1, "Time that loads took, those that failed too.");
        write_outlook(file, status);
        write_number(file, "generation", "gauge", generation, "The generation of the model, counted from 1.");
        write_number(file, "model_ready", "gauge", state == STATUS_STATE_READY, "Whether the model is ready.");
        write_number(file, "model_idle", "gauge", state == STATUS_STATE_IDLE, "Whether the model is idle: not loaded until a request needs it.");
        write_number(file, "connections", "gauge", sums.connections, "Clients that are connected.");
        write_head(file, "start_time_seconds", "gauge", "When the daemon started, since the epoch.");
        fprintf(file, "msd_start_time_seconds %.3f\n",
                (double)time(NULL) - (double)(now - status->started) / (double)NSEC_PER_SEC);
        if (fclose(file) != 0)
                free(STEAL_POINTER(text));
        return text;
}
