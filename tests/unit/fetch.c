/* What libcurl has no memory for, at any moment, and what a server has no room for: whatever runs hears of an end. */

#include "daemon/model/fetch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/number.h"
#include "tests/support/unit.h"

#define FETCHES 3
#define ROUNDS 3
#define CONNECTIONS_MAX 64
#define PATIENCE (60 * NSEC_PER_SEC)

static const char first_part[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
static const char second_part[] = "1\r\nb\r\n0\r\n\r\n";

/* A server in the same reactor, which answers everything in two parts. */

struct served {
        struct watch watch;
        bool is_halfway;
};

static struct reactor reactor;
static struct watch listening;
static struct timer halfway;
static struct served served[CONNECTIONS_MAX];
static unsigned served_count;

static void say(int fd, const char *text) {
        (void)!send(fd, text, strlen(text), MSG_NOSIGNAL);
}

static void halfway_due(struct timer *timer) {
        (void)timer;
        for (unsigned i = 0; i < served_count; i++)
                if (served[i].is_halfway) {
                        served[i].is_halfway = false;
                        say(served[i].watch.fd, second_part);
                }
}

static void request_ready(struct watch *watch, uint32_t events) {
        struct served *one = container_of(watch, struct served, watch);
        char request[4096];
        ssize_t n = recv(watch->fd, request, sizeof(request), MSG_DONTWAIT);

        (void)events;
        if (n <= 0) {
                one->is_halfway = false;
                reactor_unwatch(watch);
                return;
        }
        say(watch->fd, first_part);
        one->is_halfway = true;
        reactor_set_timer(&reactor, &halfway, timer_now() + NSEC_PER_MSEC / 4);
}

static void connection_ready(struct watch *watch, uint32_t events) {
        int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        (void)events;
        ck_assert_int_ge(fd, 0);
        ck_assert_uint_lt(served_count, CONNECTIONS_MAX);
        ck_assert_int_eq(reactor_watch(&reactor, &served[served_count++].watch, fd, EPOLLIN, request_ready), 0);
}

/* Its backlog is so long. It accepts after server_open(). */
static void server_init(struct target *target, int backlog) {
        static struct sockaddr_un address = { .sun_family = AF_UNIX };
        socklen_t len = sizeof(address);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        char directory[] = "/tmp/fetch-XXXXXX";

        ck_assert_ptr_nonnull(mkdtemp(directory));
        snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", directory);
        ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, len), 0);
        ck_assert_int_eq(listen(fd, backlog), 0);
        listening.fd = fd;
        timer_init(&halfway, halfway_due);
        *target = (struct target){ .base = "http://localhost" };
        snprintf(target->socket, sizeof(target->socket), "%s", address.sun_path);
}

static void server_open(void) {
        ck_assert_int_eq(reactor_watch(&reactor, &listening, listening.fd, EPOLLIN, connection_ready), 0);
}

static void server_deinit(const struct target *target) {
        char directory[sizeof(target->socket)];

        for (unsigned i = 0; i < served_count; i++) {
                reactor_unwatch(&served[i].watch);
                close(served[i].watch.fd);
        }
        memset(served, 0, sizeof(served));
        served_count = 0;
        reactor_unwatch(&listening);
        close(listening.fd);
        timer_clear(&halfway);
        snprintf(directory, sizeof(directory), "%s", target->socket);
        *strrchr(directory, '/') = '\0';
        ck_assert_int_eq(unlink(target->socket), 0);
        ck_assert_int_eq(rmdir(directory), 0);
}

/* What libcurl has for memory: the n-th to the m-th allocation fail. */

static struct {
        bool counts;
        unsigned n, first, last;
} memory;

static bool is_there(void) {
        if (!memory.counts)
                return true;
        memory.n++;
        return memory.n < memory.first || memory.n > memory.last;
}

static void *failing_malloc(size_t size) {
        return is_there() ? malloc(size) : NULL;
}

static void *failing_realloc(void *pointer, size_t size) {
        return is_there() ? realloc(pointer, size) : NULL;
}

static char *failing_strdup(const char *text) {
        return is_there() ? strdup(text) : NULL;
}

static void *failing_calloc(size_t n, size_t size) {
        return is_there() ? calloc(n, size) : NULL;
}

/* The clients: each pauses when the first part has come, and goes on a turn later. */

struct client {
        struct fetch fetch;
        struct job pause;
        bool is_paused;
        bool answered;
};

static struct fetcher fetcher;
static struct client clients[FETCHES];
static unsigned running;
static unsigned rounds;
static struct timer deadline;

static void pause_run(struct job *job) {
        struct client *client = container_of(job, struct client, pause);

        client->is_paused = !client->is_paused;
        fetch_pause(&client->fetch, client->is_paused);
        if (client->is_paused)
                reactor_queue(&reactor, job);
}

static bool part_came(struct fetch *fetch, const char *data, size_t len) {
        struct client *client = container_of(fetch, struct client, fetch);

        if (memchr(data, 'a', len))
                reactor_queue(&reactor, &client->pause);
        return true;
}

static bool data_came(struct fetch *fetch, const char *data, size_t len) {
        (void)fetch;
        (void)data;
        (void)len;
        return true;
}

static void next_round(void);

static void fetch_done(struct fetch *fetch, long status, const char *error) {
        struct client *client = container_of(fetch, struct client, fetch);

        ck_assert(!fetch_is_running(fetch));
        ck_assert(status == 200 || (status == 0 && error));
        job_cancel(&client->pause);
        client->answered = status == 200;
        if (--running == 0)
                next_round();
}

static void start_all(void) {
        const struct fetch_request request = { .method = "PUT", .path = "/", .body = "{}", .body_len = 2 };

        for (unsigned i = 0; i < FETCHES; i++) {
                int r;

                clients[i] = (struct client){ .fetch = { .data = part_came, .done = fetch_done } };
                job_init(&clients[i].pause, pause_run);
                r = fetch_start(&clients[i].fetch, &fetcher, &request);
                ck_assert_int_eq(fetch_is_running(&clients[i].fetch), r == 0);
                running += r == 0;
        }
}

/* Once more, over the connections that were kept; and in the end with all the memory there is. */
static void next_round(void) {
        while (running == 0 && rounds < ROUNDS) {
                memory.counts = ++rounds < ROUNDS;
                start_all();
        }
        if (running == 0)
                reactor_stop(&reactor);
}

static void deadline_due(struct timer *timer) {
        (void)timer;
        ck_abort_msg("Allocations %u to %u fail, and %u fetches hear nothing", memory.first, memory.last, running);
}

/* Returns whether there were so many. */
static bool run_with(const struct target *target, unsigned first, unsigned last) {
        ck_assert_int_eq(fetcher_init(&fetcher, &reactor, target, 0), 0);
        reactor_set_timer(&reactor, &deadline, timer_now() + PATIENCE);
        memory.n = 0;
        memory.first = first;
        memory.last = last;
        rounds = 0;
        next_round();
        ck_assert_int_eq(reactor_run(&reactor), 0);
        timer_clear(&deadline);
        fetcher_deinit(&fetcher);
        for (unsigned i = 0; i < FETCHES; i++)
                ck_assert_msg(clients[i].answered, "Allocations %u to %u have failed, and those that came later do too", first, last);
        return memory.n >= first;
}

START_TEST(no_memory) {
        const unsigned together = _i == 0 ? 1 : 20, step = _i == 0 ? 1 : 7;
        struct target target;
        unsigned n;

        ck_assert_int_eq(curl_global_init_mem(CURL_GLOBAL_DEFAULT, failing_malloc, free, failing_realloc, failing_strdup,
                                              failing_calloc),
                         CURLE_OK);
        timer_init(&deadline, deadline_due);
        n = 1;
        for (bool more = true; more; n += step) {
                ck_assert_int_eq(reactor_init(&reactor), 0);
                server_init(&target, CONNECTIONS_MAX);
                server_open();
                more = run_with(&target, n, n + together - 1);
                server_deinit(&target);
                reactor_deinit(&reactor);
        }
        /* It is libcurl's memory that failed. */
        ck_assert_uint_gt(n, 200);
}
END_TEST

static struct timer opening;

static void opening_due(struct timer *timer) {
        (void)timer;
        server_open();
}

static unsigned ended;
static const char *wrong;

static void blocked_done(struct fetch *fetch, long status, const char *error) {
        struct client *client = container_of(fetch, struct client, fetch);

        client->answered = status == 200;
        wrong = error ? error : wrong;
        if (++ended == FETCHES)
                reactor_stop(&reactor);
}

/* Those that a backlog has no room for are tried again, until there is some, or their time is over. */
START_TEST(no_room) {
        const bool opens = _i == 0;
        const struct fetch_request request = { .path = "/", .timeout = opens ? PATIENCE : 50 * NSEC_PER_MSEC };
        struct target target;

        ck_assert_int_eq(reactor_init(&reactor), 0);
        server_init(&target, 0);
        timer_init(&opening, opening_due);
        timer_init(&deadline, deadline_due);
        if (opens)
                reactor_set_timer(&reactor, &opening, timer_now() + 30 * NSEC_PER_MSEC);
        reactor_set_timer(&reactor, &deadline, timer_now() + PATIENCE);
        ck_assert_int_eq(fetcher_init(&fetcher, &reactor, &target, 0), 0);
        for (unsigned i = 0; i < FETCHES; i++) {
                clients[i] = (struct client){ .fetch = { .data = data_came, .done = blocked_done } };
                ck_assert_int_eq(fetch_start(&clients[i].fetch, &fetcher, &request), 0);
        }
        ck_assert_int_eq(reactor_run(&reactor), 0);
        for (unsigned i = 0; i < FETCHES; i++)
                ck_assert_msg(clients[i].answered == opens, "%u: %s", i, wrong ? wrong : "no error");
        if (!opens)
                ck_assert_ptr_nonnull(wrong);
        timer_clear(&deadline);
        fetcher_deinit(&fetcher);
        server_deinit(&target);
        reactor_deinit(&reactor);
}
END_TEST

static Suite *fetch_suite(void) {
        Suite *suite = suite_create("fetch");
        TCase *tcase = tcase_create("fetch");

        tcase_set_timeout(tcase, 300);
        tcase_add_loop_test(tcase, no_memory, 0, 2);
        tcase_add_loop_test(tcase, no_room, 0, 2);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(fetch_suite)
