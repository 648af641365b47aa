/*
 * Requests that crash the model: the one that does is found, and the others that were in flight with it are answered.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/served.h"

#define INNOCENT 12

static struct daemon msd;
static char directory[SUITE_PATH_MAX];
static char url[SUITE_PATH_MAX + 32], upstream_socket[SUITE_PATH_MAX + 16];

static void setup(void) {
        suite_directory(directory);
        snprintf(upstream_socket, sizeof(upstream_socket), "%s/up.sock", directory);
        snprintf(url, sizeof(url), "unix:%s", upstream_socket);
}

static void teardown(void) {
        suite_remove(directory);
}

/* Loads are counted against the model: a life that requests ended is none of them. */
static void start(void) {
        daemon_start(&msd, "--upstream", url, "--threads", "2", "--load-attempts", "1", "--", served_program(), "--socket", upstream_socket,
                     "--think", "300ms", NULL);
        daemon_wait_ready(&msd);
}

static bool has_suspects(const struct peer_status *status, uint64_t number) {
        return status->suspects >= number && strcmp(status->status, "ready") == 0;
}

static const struct {
        const char *prompt;
        const char *how;
} crashes[] = {
        { "die", "It exited with status 1" },
        { "crash", "upstream: error: cannot stand this prompt" },
};

/* From two connections, so that both workers have some of them. */
START_TEST(found) {
        unsigned seen[INNOCENT + 1] = { 0 }, errors = 0;
        struct peer_status status;
        struct peer_reply reply;
        struct peer peers[2];
        char id[16];

        start();
        for (unsigned i = 0; i < ARRAY_SIZE(peers); i++)
                peer_connect(&peers[i], msd.socket);
        for (unsigned i = 0; i < INNOCENT; i++) {
                snprintf(id, sizeof(id), "%u", i);
                served_ask(&peers[i % 2], "REQUEST", id, "hi");
        }
        peer_status_until(&msd.control, &status, peer_status_is_processing, INNOCENT, "they are in flight");
        served_ask(&peers[0], "REQUEST", "guilty", crashes[_i].prompt);
        peer_status_until(&msd.control, &status, has_suspects, 1, "there are suspects");
        ck_assert_uint_le(status.processing, 1);
        /* New requests wait meanwhile. */
        snprintf(id, sizeof(id), "%u", INNOCENT);
        served_ask(&peers[1], "REQUEST", id, "hi");

        for (unsigned i = 0; i < INNOCENT + 2; i++) {
                struct peer *peer = &peers[i < INNOCENT / 2 + 1 ? 0 : 1];

                ck_assert(peer_next(peer, &reply));
                if (strcmp(reply.id, "guilty") == 0) {
                        ck_assert_str_eq(reply.code, "inference-failed");
                        ck_assert_ptr_nonnull(strstr(reply.body, "The model crashed under this request twice"));
                        ck_assert_msg(strstr(reply.body, crashes[_i].how) != NULL, "%s", reply.body);
                        errors++;
                        continue;
                }
                ck_assert_msg(reply.type == PROTOCOL_OK, "%s %s %s", reply.id, reply.code, reply.body);
                ck_assert_str_eq(reply.body, "echo hi");
                ck_assert_uint_eq(seen[atoi(reply.id)]++, 0);
        }
        ck_assert_uint_eq(errors, 1);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.generation, 3);
        ck_assert_uint_eq(status.suspects, 0);
        ck_assert_uint_eq(status.completed, INNOCENT + 1);
        ck_assert_uint_eq(status.failed, 1);

        /* And it goes on as before. */
        for (unsigned i = 0; i < 4; i++)
                served_ask(&peers[0], "REQUEST", "again", "hi");
        peer_status_until(&msd.control, &status, peer_status_is_processing, 4, "they go together again");
        for (unsigned i = 0; i < 4; i++)
                peer_expect(&peers[0], "again", "echo hi");
        for (unsigned i = 0; i < ARRAY_SIZE(peers); i++)
                peer_close(&peers[i]);
        daemon_stop(&msd);
}
END_TEST

/* Several of them, one after the other: each is found, and no load counts as failed. */
START_TEST(many_guilty) {
        unsigned failed = 0, answered = 0;
        struct peer_reply reply;
        struct peer_status status;
        char id[16];

        start();
        for (unsigned i = 0; i < 6; i++) {
                snprintf(id, sizeof(id), "%u", i);
                served_ask(&msd.control, "REQUEST", id, i % 2 == 0 ? "hi" : "die");
        }
        for (unsigned i = 0; i < 6; i++) {
                ck_assert(peer_next(&msd.control, &reply));
                if (reply.type == PROTOCOL_OK)
                        answered++;
                else {
                        ck_assert_str_eq(reply.code, "inference-failed");
                        failed++;
                }
                ck_assert_int_eq(reply.type == PROTOCOL_OK, atoi(reply.id) % 2 == 0);
        }
        ck_assert_uint_eq(answered, 3);
        ck_assert_uint_eq(failed, 3);
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.suspects, 0);
        daemon_stop(&msd);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_loop_test(tests, found, 0, ARRAY_SIZE(crashes));
        tcase_add_test(tests, many_guilty);
}

int main(void) {
        return suite_main("suspects", add);
}
