#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/number.h"
#include "common/util.h"
#include "daemon/model/generation.h"
#include "daemon/model/upstream_inner.h"

#define PROBE_PAUSE (50 * NSEC_PER_MSEC)
#define REFUSED_PAUSE_MAX NSEC_PER_SEC
#define PROBE_TIMEOUT (5 * NSEC_PER_SEC)

/* A result that lasts for so long is said in the log, and another one not before the second time. */
#define RESULT_LASTS (2 * NSEC_PER_SEC)
#define RESULT_PAUSE (10 * NSEC_PER_SEC)

void upstream_probe_cancel(struct upstream *upstream) {
        fetch_cancel(&upstream->probe);
        timer_clear(&upstream->probe_timer);
        text_free(&upstream->answer);
        free(STEAL_POINTER(upstream->warmup));
}

void upstream_probe_after(struct upstream *upstream, uint64_t nsec) {
        text_free(&upstream->answer);
        free(STEAL_POINTER(upstream->warmup));
        reactor_set_timer(upstream->reactor, &upstream->probe_timer, timer_now() + nsec);
}

/* --- What a probe saw, in words. */

static void say_result(const struct upstream *upstream, unsigned status, const char *error, char *text, size_t size) {
        const struct fetch *probe = &upstream->probe;
        const bool warms = upstream->phase == PHASE_WARMING;
        const char *path = warms ? upstream->options.completion_path : upstream->options.health_path;
        const char *method = warms ? "POST" : "GET";

        if (status > 0)
                snprintf(text, size, "%s %s: %u %s%s", method, path, status, http_reason(status),
                         status == 401 || status == 403 ? ": see --upstream-key-file" : "");
        else if (probe->connected)
                snprintf(text, size, "%s %s: %s", method, path, error);
        else if (probe->tries == 0 && probe->error == 0)
                snprintf(text, size, "%s", error);
        else
                snprintf(text, size, "%s at %s", error,
                         upstream->target.socket[0] ? upstream->target.socket : target_authority(&upstream->target));
}

/* Every result is in the status; in the log, those that last. */
static void note_result(struct upstream *upstream, unsigned status, const char *error) {
        const uint64_t now = timer_now();
        char text[sizeof(upstream->result)], warning[sizeof(text) + 64];

        say_result(upstream, status, error, text, sizeof(text));
        if (strcmp(text, upstream->result) != 0) {
                memcpy(upstream->result, text, sizeof(text));
                upstream->result_since = now;
                upstream->result_said = false;
                upstream->events->probed(upstream->events, upstream->result);
        }
        if (upstream->result_said || status == 200 || now - upstream->result_since < RESULT_LASTS ||
            (upstream->warned_at > 0 && now - upstream->warned_at < RESULT_PAUSE))
                return;
        upstream->result_said = true;
        upstream->warned_at = now;
        snprintf(warning, sizeof(warning), "%s: %s",
                 upstream->phase == PHASE_CHECKING ? "Requests wait, for the model server does not answer its probes" :
                                                        "The model server is not ready",
                 text);
        upstream->events->warned(upstream->events, warning);
}

/* --- Readiness. */

/* Its name is known. Where its host has several addresses, one has to have taken a connection too. */
static void become_ready(struct upstream *upstream, const char *name) {
        const struct endpoint *endpoint = fetcher_settle(&upstream->fetcher);
        char copy[PROTOCOL_MODEL_MAX], reason[512];

        if (!endpoint) {
                upstream->phase = PHASE_NAMING;
                upstream_probe_after(upstream, PROBE_PAUSE);
                return;
        }
        snprintf(copy, sizeof(copy), "%s", name);
        upstream_probe_cancel(upstream);
        if (!upstream_place_is_own(upstream, endpoint, reason, sizeof(reason))) {
                upstream_failed(upstream, reason);
                return;
        }
        upstream->phase = PHASE_READY;
        upstream->generation->address = endpoint->address;
        upstream->generation->address_len = endpoint->len;
        upstream_judge_ready(upstream);
        upstream->events->ready(upstream->events, copy);
}

static void become_named(struct upstream *upstream) {
        if (upstream->options.model && fetcher_settle(&upstream->fetcher)) {
                become_ready(upstream, upstream->options.model);
                return;
        }
        upstream->phase = PHASE_NAMING;
        upstream_probe_after(upstream, 0);
}

void upstream_said_ready(struct upstream *upstream) {
        if (upstream->phase != PHASE_LOADING)
                return;
        upstream_probe_cancel(upstream);
        if (!upstream->options.warmup) {
                become_named(upstream);
                return;
        }
        upstream->phase = PHASE_WARMING;
        upstream_probe_after(upstream, 0);
}

static void named(struct upstream *upstream, const json_t *json) {
        const char *id = json_string_value(
                json_object_get(json_array_get(json_object_get(json, "data"), 0), "id"));

        become_ready(upstream, upstream->options.model ? upstream->options.model :
                               id && *id               ? id :
                                                         upstream_program(upstream));
}

/* One that refuses its probes is asked less and less often. */
static void probe_again(struct upstream *upstream) {
        const uint64_t longer = MIN(upstream->probe_pause * 2, REFUSED_PAUSE_MAX);

        upstream->probe_pause = upstream->refuses_probes ? MAX(longer, PROBE_PAUSE) : PROBE_PAUSE;
        upstream_probe_after(upstream, upstream->probe_pause);
}

static void probed(struct fetch *fetch, unsigned status, const char *error) {
        struct upstream *upstream = container_of(fetch, struct upstream, probe);
        bool no_memory = false;
        json_t *json = NULL;

        if (upstream->phase == PHASE_CLEARING) {
                upstream_place_probed(upstream, fetch->connected);
                return;
        }
        upstream->refuses_probes = status >= 400 && status < 500;
        if (status > 0 && !upstream->refuses_probes)
                upstream->stirred = true;
        if (upstream->phase != PHASE_NAMING)
                note_result(upstream, status, error);
        if (upstream->answer.data) {
                json = json_read(upstream->answer.data, upstream->answer.len);
                no_memory = !json && errno == ENOMEM;
        }
        switch (upstream->phase) {
        case PHASE_LOADING:
                if (status == 200)
                        upstream_said_ready(upstream);
                else
                        probe_again(upstream);
                break;
        case PHASE_WARMING:
                if (status == 200 && completion_text(json))
                        become_named(upstream);
                else
                        probe_again(upstream);
                break;
        case PHASE_NAMING:
                /* One that said that it is ready, and takes no connection yet, is not. */
                if (no_memory || (status == 0 && !fetch->connected))
                        upstream_probe_after(upstream, PROBE_PAUSE);
                else
                        named(upstream, json);
                break;
        case PHASE_CHECKING:
                upstream_checked(upstream, status, status == 0 && !fetch->connected && fetch->error < 0);
                break;
        default:
                break;
        }
        json_decref(json);
}

static bool probe_data(struct fetch *fetch, const char *data, size_t len) {
        return text_add(&container_of(fetch, struct upstream, probe)->answer, data, len) == 0;
}

/* What its state has it asked. */
static void write_probe(struct upstream *upstream, struct fetch_request *request) {
        *request = (struct fetch_request){
                .path = upstream->options.health_path,
                .host = upstream->options.host,
                .key = upstream->options.key,
                .timeout = PROBE_TIMEOUT,
        };
        switch (upstream->phase) {
        case PHASE_CLEARING:
                /* Whoever answers is not who the key is for. */
                request->key = NULL;
                break;
        case PHASE_WARMING:
                request->path = upstream->options.completion_path;
                /* The first answer may take as long as the load may. */
                request->timeout = 0;
                upstream->warmup = completion_body(NULL, upstream->options.model, upstream->options.warmup,
                                                   strlen(upstream->options.warmup), 1, false);
                request->body = upstream->warmup;
                request->body_len = upstream->warmup ? strlen(upstream->warmup) : 0;
                break;
        case PHASE_NAMING:
                request->path = "/v1/models";
                break;
        case PHASE_CHECKING:
                upstream_check_begins(upstream);
                break;
        default:
                break;
        }
}

static void probe_due(struct timer *timer) {
        struct upstream *upstream = container_of(timer, struct upstream, probe_timer);
        struct fetch_request request;

        if (upstream->start_error[0]) {
                upstream_failed(upstream, upstream->start_error);
                return;
        }
        /* Its word alone counts. */
        if (upstream->phase == PHASE_LOADING && !upstream->keeps_child &&
            (upstream->options.ready == UPSTREAM_READY_NOTIFY || upstream->options.ready == UPSTREAM_READY_LINE))
                return;
        write_probe(upstream, &request);
        upstream->probe.data = probe_data;
        upstream->probe.done = probed;
        if (fetch_start(&upstream->probe, &upstream->fetcher, &request) < 0)
                upstream_probe_after(upstream, PROBE_PAUSE);
}

void upstream_probe_init(struct upstream *upstream) {
        timer_init(&upstream->probe_timer, probe_due);
}
