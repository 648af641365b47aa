#include "tests/support/stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"

void stage_init(struct stage *stage) {
        *stage = (struct stage){ .http = HTTP_NULL };
        front_init(&stage->front);
        raw_listen(&stage->raw, front_path(stage->front.upstream));
}

void stage_deinit(struct stage *stage) {
        http_close(&stage->http);
        raw_request_deinit(&stage->request);
        raw_close(&stage->raw);
        front_deinit(&stage->front);
}

void stage_start(struct stage *stage, const char *const *options) {
        const char *all[24] = { "--upstream", stage->front.upstream };
        size_t n = 2;

        for (; *options; options++) {
                ck_assert_uint_lt(n + 1, ARRAY_SIZE(all));
                all[n++] = *options;
        }
        front_start(&stage->front, all);
        http_connect(&stage->http, stage->front.address);
}

void stage_start_ready(struct stage *stage, const char *const *options) {
        const char *all[24] = { "--model", "raw" };
        size_t n = 2;

        for (; *options; options++) {
                ck_assert_uint_lt(n + 1, ARRAY_SIZE(all));
                all[n++] = *options;
        }
        stage_start(stage, all);
        raw_wait_ready(&stage->raw, &stage->front.msd.process);
        daemon_wait_ready(&stage->front.msd);
}

void stage_take(struct stage *stage) {
        raw_request_deinit(&stage->request);
        raw_take(&stage->raw, &stage->request);
}

void stage_ask(struct stage *stage, const char *method, const char *path) {
        http_ask(&stage->http, method, path);
        stage_take(stage);
        ck_assert_str_eq(stage->request.method, method);
        ck_assert_str_eq(stage->request.target, path);
}

void stage_post(struct stage *stage, const char *path, const char *json) {
        http_post(&stage->http, path, json);
        stage_take(stage);
        ck_assert_str_eq(stage->request.method, "POST");
        ck_assert_str_eq(stage->request.target, path);
        ck_assert_str_eq(text_get(&stage->request.body), json);
}

void stage_expect_no_request(struct stage *stage) {
        struct raw_request none;

        if (raw_take_until(&stage->raw, &none, stage->http.fd, clock_patience()))
                process_give_up("A request too many: %.500s", none.bytes.data);
}

void stage_go(struct stage *stage) {
        raw_close(&stage->raw);
}

void stage_return(struct stage *stage) {
        ck_assert_int_eq(unlink(front_path(stage->front.upstream)), 0);
        raw_listen(&stage->raw, front_path(stage->front.upstream));
}

void stage_wait_generation(struct stage *stage, uint64_t generation) {
        uint64_t deadline = clock_patience();
        struct peer_status status;
        struct raw_request none;

        for (;;) {
                peer_status(&stage->front.msd.control, &status);
                if (status.generation == generation)
                        return;
                if (clock_left(deadline) == 0)
                        process_give_up("There is no generation %lu", generation);
                if (stage->raw.fd < 0)
                        (void)process_poll(NULL, 0, clock_now() + 2 * NSEC_PER_MSEC);
                else if (raw_take_until(&stage->raw, &none, -1, clock_now() + 2 * NSEC_PER_MSEC))
                        process_give_up("A request too many: %.500s", none.bytes.data);
        }
}

uint64_t stage_memory(const struct process *process, const char *name) {
        char path[64], line[256];
        uint64_t kib = 0;
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/status", (int)process->pid);
        file = fopen(path, "re");
        ck_assert_ptr_nonnull(file);
        while (kib == 0 && fgets(line, sizeof(line), file))
                if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
                        kib = strtoull(line + strlen(name) + 1, NULL, 10);
        fclose(file);
        ck_assert_msg(kib > 0, "There is no %s", name);
        return kib * 1024;
}

bool stage_has_sanitizer(const struct process *process) {
        return process_has_mapped(process, "libasan") || process_has_tsan(process);
}

void stage_expect_refusal(struct http *http, unsigned status, const char *option) {
        http_expect_error(http, status, NULL, NULL);
        ck_assert_msg(!option || strstr(text_get(&http->body), option), "%s is not named: %s", option, text_get(&http->body));
        ck_assert_str_eq(http_field(http, "Connection"), "close");
        ck_assert_uint_eq(http_count_field(http, "Connection"), 1);
        if (!http->ended)
                http_finish(http);
        http_expect_end(http);
}
