/*
 * HAProxy's agent-check: what msd says of itself, in each state, to whoever connects.
 */

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/http.h"
#include "tests/support/port.h"
#include "tests/support/run.h"

static struct daemon msd;
static char directory[SUITE_PATH_MAX], place[SUITE_PATH_MAX + 16], address[HTTP_ADDRESS_MAX];

static void setup(void) {
        suite_directory(directory);
        snprintf(place, sizeof(place), "unix:%s/agent", directory);
}

static void teardown(void) {
        suite_remove(directory);
}

/* All that is said at `place`, up to the end of the connection. */
static void hear(char line[static 256]) {
        const uint64_t deadline = clock_patience();
        struct text text = TEXT_NULL;
        struct http http;
        ssize_t n;

        http_connect(&http, address);
        do {
                struct pollfd poller = { .fd = http.fd, .events = POLLIN };

                if (process_poll(&poller, 1, deadline) == 0 && clock_now() >= deadline)
                        process_give_up("Waited in vain for an agent's word");
                n = text_read(&text, http.fd);
        } while (n > 0 || n == -EAGAIN);
        ck_assert_int_eq(n, 0);
        snprintf(line, 256, "%s", text_get(&text));
        text_deinit(&text);
        http_close(&http);
}

static void expect_begin(const char *begin) {
        char line[256];

        hear(line);
        ck_assert_msg(strncmp(line, begin, strlen(begin)) == 0, "\"%s\" does not begin with \"%s\"", line, begin);
        ck_assert_uint_ge(strlen(line), 2);
        ck_assert_ptr_eq(strchr(line, '\n'), line + strlen(line) - 1);
}

static void expect(const char *whole) {
        char line[256];

        hear(line);
        ck_assert_str_eq(line, whole);
}

static void start(const char *const *options) {
        const char *all[24] = { "--agent-check", place };
        const char *said;
        size_t n = 2;

        for (; *options; options++)
                all[n++] = *options;
        daemon_start_with(&msd, NULL, all);
        process_wait_errors(&msd.process, "Answering agent-checks at ");
        said = strstr(text_get(&msd.process.errors), "Answering agent-checks at ") + strlen("Answering agent-checks at ");
        process_wait_errors(&msd.process, "\n");
        snprintf(address, sizeof(address), "%.*s", (int)strcspn(said, "\n"), said);
}

#define OPTIONS(...) ((const char *const[]){ __VA_ARGS__ __VA_OPT__(,) NULL })

START_TEST(from_the_load_to_the_stop) {
        struct peer client = PEER_NULL;

        start(OPTIONS("--load-time", "1s", "--inference-time", "1h", "--max-inflight", "4"));
        peer_connect(&client, msd.socket);
        expect_begin("down # loading, ");
        daemon_wait_ready(&msd);
        expect("up ready 100%\n");
        peer_send(&client, "REQUEST 1\n");
        peer_status_until(&msd.control, &(struct peer_status){ 0 }, peer_status_is_processing, 1, "one is in flight");
        expect("up ready 75%\n");
        peer_send_requests(&client, 2, 5);
        peer_status_until(&msd.control, &(struct peer_status){ 0 }, peer_status_is_processing, 4, "all places are taken");
        expect("up ready 1%\n");
        /* From the moment of the stop on, while requests finish. */
        process_signal(&msd.process, SIGTERM);
        peer_status_until(&msd.control, &(struct peer_status){ 0 }, peer_status_is_stopping, 0, "msd is stopping");
        expect("drain\n");
        process_signal(&msd.process, SIGTERM);
        daemon_expect_exit(&msd, 1);
        peer_close(&client);
        /* Its socket is gone with it. */
        ck_assert_int_lt(access(place + strlen("unix:"), F_OK), 0);
}
END_TEST

START_TEST(a_load_that_failed) {
        start(OPTIONS("--load-time", "0", "--load-failure", "no such weights", "--on-load-failure", "stay"));
        peer_status_until(&msd.control, &(struct peer_status){ 0 }, peer_status_is_failed, 0, "it has failed");
        expect("down # no such weights\n");
        daemon_stop(&msd);
}
END_TEST

START_TEST(an_idle_model) {
        start(OPTIONS("--load", "demand", "--load-time", "0"));
        expect("up ready 1%\n");
        /* Who looks does not load it. */
        expect("up ready 1%\n");
        daemon_stop(&msd);
}
END_TEST

START_TEST(by_tcp) {
        uint16_t number;
        int fd = port_take(&number);

        if (fd < 0) {
                suite_skip("by_tcp", "there is no network here");
                return;
        }
        close(fd);
        snprintf(place, sizeof(place), "127.0.0.1:0");
        start(OPTIONS("--load-time", "0"));
        daemon_wait_ready(&msd);
        expect("up ready 100%\n");
        daemon_stop(&msd);
}
END_TEST

/* Those that neither read nor close cost the others nothing. */
START_TEST(clients_that_stay) {
        struct http clients[100];
        struct peer_status status;

        start(OPTIONS("--load-time", "0", "--inference-time", "0"));
        daemon_wait_ready(&msd);
        for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
                http_connect(&clients[i], address);
        expect("up ready 100%\n");
        peer_send(&msd.control, "REQUEST 1\n");
        peer_expect(&msd.control, "1", "Response 1 from sim");
        /* They are no clients of the model. */
        peer_status(&msd.control, &status);
        ck_assert_uint_eq(status.connections, 1);
        process_wait_rest(&msd.process);
        for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
                http_close(&clients[i]);
        daemon_stop(&msd);
}
END_TEST

/* A socket of the service manager's, by its name; without it being mistaken for the request socket. */
START_TEST(inherited) {
        struct process_setup setup = { .passed_names = "agent-check", .passed_n = 1 };
        struct sockaddr_un local;
        socklen_t len;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        ck_assert_int_eq(address_from_path(place + strlen("unix:"), &local, &len), 0);
        ck_assert_int_eq(bind(fd, (struct sockaddr *)&local, len), 0);
        ck_assert_int_eq(listen(fd, 16), 0);
        setup.passed = &fd;
        daemon_start_with(&msd, &setup, OPTIONS("--load-time", "0"));
        snprintf(address, sizeof(address), "%s", place);
        daemon_wait_ready(&msd);
        expect("up ready 100%\n");
        daemon_stop(&msd);
        /* It is the manager's. */
        ck_assert_int_eq(access(place + strlen("unix:"), F_OK), 0);
        close(fd);
}
END_TEST

START_TEST(wrong_addresses) {
        static const char *const wrong[] = { "nowhere", "127.0.0.1", "127.0.0.1:99999", "unix:" };
        char path[SUITE_PATH_MAX + 16];
        struct process process;

        snprintf(path, sizeof(path), "%s/s", directory);
        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                ck_assert_int_eq(run_msd(&process, NULL, OPTIONS("--socket", path, "--agent-check", wrong[i])), 2);
                run_expect_refusal(&process, 2, "--agent-check: ");
        }
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, from_the_load_to_the_stop);
        tcase_add_test(tests, a_load_that_failed);
        tcase_add_test(tests, an_idle_model);
        tcase_add_test(tests, by_tcp);
        tcase_add_test(tests, clients_that_stay);
        tcase_add_test(tests, inherited);
        tcase_add_test(tests, wrong_addresses);
}

int main(void) {
        return suite_main("agent", add);
}
