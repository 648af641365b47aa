/* Requests of msd's own, to a server that is a thread and does what each test says; and host names, which a test resolves. */

#include "daemon/model/fetch.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "common/number.h"
#include "tests/support/unit.h"

#define PATIENCE (60 * NSEC_PER_SEC)
#define DATA_MAX 16

int __real_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **found);
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **found);

static unsigned lookups;
static int hold[2] = { -1, -1 };        /* "slow" is resolved when a byte comes */
static int released[2] = { -1, -1 };    /* and the thread says so */

/* "two" has the addresses 127.0.0.2 and 127.0.0.1, "none" has none. */
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **found) {
        char byte = 0;
        int r;

        if (hints->ai_flags & AI_NUMERICHOST)
                return __real_getaddrinfo(host, port, hints, found);
        lookups++;
        if (strcmp(host, "none") == 0)
                return EAI_NONAME;
        if (strcmp(host, "slow") == 0) {
                ck_assert_int_eq(read(hold[0], &byte, 1), 1);
                r = __real_getaddrinfo("127.0.0.1", port, hints, found);
                ck_assert_int_eq(write(released[1], &byte, 1), 1);
                return r;
        }
        if (strcmp(host, "two") == 0) {
                r = __real_getaddrinfo("127.0.0.2", port, hints, found);
                return r != 0 ? r : __real_getaddrinfo("127.0.0.1", port, hints, &(*found)->ai_next);
        }
        return __real_getaddrinfo(host, port, hints, found);
}

static struct reactor reactor;
static struct fetcher *fetcher;
static struct target target;
static struct timer deadline;
static struct fetch fetch;
static int listener = -1;
static unsigned port;
static char directory[32];
static char url[128];
static pthread_t server;
static bool has_server;
static char request[4096];
static const char *answer;      /* NULL: none, and the connection stays open until the client closes it */

static unsigned ended;
static unsigned status;
static char error[256];
static char body[DATA_MAX + 1];

static void *serve(void *data) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        size_t len = 0;

        ck_assert_int_ge(fd, 0);
        while (!strstr(request, "\r\n\r\n") || (strstr(request, "POST") && !strstr(request, "{}"))) {
                ssize_t n = recv(fd, request + len, sizeof(request) - 1 - len, 0);

                ck_assert_int_gt(n, 0);
                len += (size_t)n;
        }
        if (answer) {
                ck_assert_int_eq(send(fd, answer, strlen(answer), MSG_NOSIGNAL), (ssize_t)strlen(answer));
                shutdown(fd, SHUT_WR);
        }
        while (recv(fd, request + len, 1, 0) > 0)
                ;
        close(fd);
        return data;
}

static void start_server(const char *what) {
        answer = what;
        ck_assert_int_eq(pthread_create(&server, NULL, serve, NULL), 0);
        has_server = true;
}

static void listen_tcp(const char *host) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
        socklen_t len = sizeof(address);

        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, len), 0);
        ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &len), 0);
        ck_assert_int_eq(listen(listener, 10), 0);
        port = ntohs(address.sin_port);
        snprintf(url, sizeof(url), "http://%s:%u/pre", host, port);
        ck_assert_int_eq(target_parse(&target, url), 0);
}

static void listen_unix(int backlog) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        snprintf(directory, sizeof(directory), "/tmp/fetch-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(directory));
        snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", directory);
        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
        ck_assert_int_eq(listen(listener, backlog), 0);
        snprintf(url, sizeof(url), "unix:%s", address.sun_path);
        ck_assert_int_eq(target_parse(&target, url), 0);
}

static void deadline_due(struct timer *timer) {
        (void)timer;
        ck_abort_msg("nothing happens any more");
}

static void setup(void) {
        ck_assert_int_eq(reactor_init(&reactor), 0);
        fetcher = calloc(1, sizeof(*fetcher));
        fetcher_init(fetcher, &reactor, &target);
        timer_init(&deadline, deadline_due);
        reactor_set_timer(&reactor, &deadline, timer_now() + PATIENCE);
}

static void teardown(void) {
        fetch_cancel(&fetch);
        fetch_cancel(&fetch);
        if (has_server)
                ck_assert_int_eq(pthread_join(server, NULL), 0);
        if (listener >= 0)
                close(listener);
        if (directory[0]) {
                ck_assert_int_eq(unlink(target.socket), 0);
                ck_assert_int_eq(rmdir(directory), 0);
        }
        timer_clear(&deadline);
        fetcher_deinit(fetcher);
        fetcher_deinit(fetcher);
        free(fetcher);
        reactor_deinit(&reactor);
}

static bool data_came(struct fetch *which, const char *data, size_t len) {
        ck_assert_ptr_eq(which, &fetch);
        if (len > DATA_MAX - strlen(body))
                return false;
        memcpy(body + strlen(body), data, len);
        return true;
}

static void fetch_ended(struct fetch *which, unsigned what, const char *why) {
        ck_assert_ptr_eq(which, &fetch);
        ck_assert(!fetch_is_running(which));
        ck_assert((what > 0) != (why != NULL));
        ended++;
        status = what;
        snprintf(error, sizeof(error), "%s", why ? why : "");
        reactor_stop(&reactor);
}

static void begin(const char *json, uint64_t timeout) {
        const struct fetch_request what = { .path = "/health", .body = json, .body_len = json ? strlen(json) : 0,
                                            .timeout = timeout };

        fetch.data = data_came;
        fetch.done = fetch_ended;
        memset(body, 0, sizeof(body));
        ck_assert_int_eq(fetch_start(&fetch, fetcher, &what), 0);
        ck_assert(fetch_is_running(&fetch));
        ck_assert_uint_eq(ended, 0);
}

static void run(void) {
        reactor.stopped = false;
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_uint_eq(ended, 1);
        ended = 0;
}

static const struct {
        const char *answer;
        unsigned status;
        const char *text;       /* the body, or what is wrong */
} outcomes[] = {
        { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok" },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", 200, "ok" },
        { "HTTP/1.1 200 OK\r\n\r\nok", 200, "ok" },
        { "HTTP/1.0 200 OK\r\n\r\n", 200, "" },
        { "HTTP/1.1 204 No Content\r\n\r\n", 204, "" },
        { "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno", 503, "no" },
        { "", 0, "It closed the connection without an answer" },
        { "HTTP/1.1 200 OK\r\nContent-", 0, "It closed the connection without an answer" },
        { "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", 0, "The answer was cut short" },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokx", 0,
          "The framing of the answer's body is malformed" },
        { "HTTP/1.1 200 OK\r\n\r\n01234567890123456", 0, "The answer is too long" },
        { "HTTP/1.1 200 OK\n\n", 0, NULL },
        { "hello\r\n\r\n", 0, NULL },
};

START_TEST(answers) {
        if (_i % 2)
                listen_tcp("127.0.0.1");
        else
                listen_unix(10);
        start_server(outcomes[_i / 2].answer);
        begin(NULL, PATIENCE);
        run();
        ck_assert_msg(status == outcomes[_i / 2].status, "%u: %s", status, error);
        if (outcomes[_i / 2].text)
                ck_assert_str_eq(status > 0 ? body : error, outcomes[_i / 2].text);
        else
                ck_assert_str_ne(error, "");
        ck_assert_uint_eq(lookups, 0);
}
END_TEST

START_TEST(requests) {
        const struct fetch_request what = { .path = "/v1/models", .host = "model", .key = "secret", .timeout = PATIENCE };
        char expected[512];

        listen_tcp("127.0.0.1");
        start_server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        if (_i == 0) {
                begin("{}", PATIENCE);
                snprintf(expected, sizeof(expected), "POST /pre/health HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n"
                         "Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", port);
        } else {
                fetch.data = data_came;
                fetch.done = fetch_ended;
                ck_assert_int_eq(fetch_start(&fetch, fetcher, &what), 0);
                snprintf(expected, sizeof(expected), "GET /pre/v1/models HTTP/1.1\r\nHost: model\r\n"
                         "Authorization: Bearer secret\r\nConnection: close\r\n\r\n");
        }
        run();
        ck_assert_uint_eq(status, 200);
        ck_assert_int_eq(pthread_join(server, NULL), 0);
        has_server = false;
        ck_assert_str_eq(request, expected);
}
END_TEST

START_TEST(time_out) {
        listen_tcp("127.0.0.1");
        start_server(NULL);
        begin(NULL, 20 * NSEC_PER_MSEC);
        run();
        ck_assert_str_eq(error, "No answer within 20ms");
}
END_TEST

START_TEST(refused) {
        if (_i == 0)
                listen_tcp("127.0.0.1");
        else
                listen_unix(1);
        close(listener);
        listener = -1;
        for (unsigned i = 0; i < 2; i++) {
                begin(NULL, PATIENCE);
                run();
                ck_assert_str_eq(error, "Connection refused");
        }
        if (_i == 0)
                return;
        ck_assert_int_eq(unlink(target.socket), 0);
        ck_assert_int_eq(rmdir(directory), 0);
        directory[0] = '\0';
        begin(NULL, PATIENCE);
        run();
        ck_assert_str_eq(error, "No such file or directory");
}
END_TEST

/* A backlog that has no room: it is tried again until there is some, or the time is over. */
START_TEST(no_room) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fds[8];
        unsigned n = 0;

        listen_unix(0);
        memcpy(address.sun_path, target.socket, sizeof(address.sun_path));
        for (int r = 0; r == 0; n++) {
                ck_assert_uint_lt(n, ARRAY_SIZE(fds));
                fds[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
                r = connect(fds[n], (struct sockaddr *)&address, sizeof(address));
        }
        ck_assert_int_eq(errno, EAGAIN);
        begin(NULL, 20 * NSEC_PER_MSEC);
        run();
        ck_assert_str_eq(error, "There is no room in its backlog");
        begin(NULL, PATIENCE);
        while (n-- > 1) {
                close(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
                close(fds[n - 1]);
        }
        start_server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        run();
        ck_assert_uint_eq(status, 200);
}
END_TEST

START_TEST(cancelled) {
        listen_tcp("127.0.0.1");
        start_server(NULL);
        begin(NULL, PATIENCE);
        fetch_cancel(&fetch);
        ck_assert(!fetch_is_running(&fetch));
        begin(NULL, 20 * NSEC_PER_MSEC);
        run();
        ck_assert_str_eq(error, "No answer within 20ms");
}
END_TEST

/* --- Names. */

/* It listens at 127.0.0.1 alone; and where localhost is ::1 too, that is not the end. */
START_TEST(name_of_this_machine) {
        listen_tcp("localhost");
        start_server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        begin(NULL, PATIENCE);
        run();
        ck_assert_msg(status == 200, "%s", error);
        ck_assert_uint_ge(lookups, 1);
        ck_assert_ptr_nonnull(fetcher_settle(fetcher));
        ck_assert_int_eq(fetcher_settle(fetcher)->address.ss_family, AF_INET);
}
END_TEST

/* The first of its addresses refuses, and the second is the one that is kept. */
START_TEST(name_with_two_addresses) {
        const struct endpoint *endpoint;

        listen_tcp("two");
        ck_assert_ptr_null(fetcher_settle(fetcher));
        start_server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        begin(NULL, PATIENCE);
        run();
        ck_assert_msg(status == 200, "%s", error);
        endpoint = fetcher_settle(fetcher);
        ck_assert_ptr_nonnull(endpoint);
        ck_assert_uint_eq(ntohl(((const struct sockaddr_in *)&endpoint->address)->sin_addr.s_addr), INADDR_LOOPBACK);
        ck_assert_uint_eq(endpoint->len, sizeof(struct sockaddr_in));
        close(listener);
        listener = -1;
        begin(NULL, PATIENCE);
        run();
        ck_assert_str_eq(error, "Connection refused");
        ck_assert_ptr_eq(fetcher_settle(fetcher), endpoint);
        ck_assert_uint_eq(lookups, 1);
        fetcher_forget(fetcher);
        ck_assert_ptr_null(fetcher_settle(fetcher));
        begin(NULL, PATIENCE);
        run();
        ck_assert_str_eq(error, "Connection refused");
        ck_assert_ptr_null(fetcher_settle(fetcher));
        ck_assert_uint_eq(lookups, 2);
}
END_TEST

START_TEST(name_without_address) {
        ck_assert_int_eq(target_parse(&target, "http://none"), 0);
        for (unsigned i = 0; i < 2; i++) {
                begin(NULL, PATIENCE);
                run();
                ck_assert_str_eq(error, "Cannot resolve none: Name or service not known");
        }
}
END_TEST

static void let_go(void) {
        char byte = 0;

        ck_assert_int_eq(write(hold[1], &byte, 1), 1);
        ck_assert_int_eq(read(released[0], &byte, 1), 1);
}

/* The lookup takes longer than the fetch; then than the fetcher; and its thread ends by itself. */
START_TEST(slow_name) {
        ck_assert_int_eq(pipe(hold), 0);
        ck_assert_int_eq(pipe(released), 0);
        listen_tcp("slow");
        begin(NULL, 20 * NSEC_PER_MSEC);
        run();
        ck_assert_str_eq(error, "No connection within 20ms");
        begin(NULL, PATIENCE);
        if (_i == 0) {
                /* What it finds is for the next one. */
                start_server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                let_go();
                run();
                ck_assert_uint_eq(status, 200);
                ck_assert_uint_eq(lookups, 1);
        } else {
                fetch_cancel(&fetch);
                fetcher_deinit(fetcher);
                let_go();
        }
        for (unsigned i = 0; i < 2; i++) {
                close(hold[i]);
                close(released[i]);
        }
}
END_TEST

static Suite *fetch_suite(void) {
        Suite *suite = suite_create("fetch");
        TCase *tcase = tcase_create("fetch");

        tcase_set_timeout(tcase, 120);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_loop_test(tcase, answers, 0, 2 * (int)ARRAY_SIZE(outcomes));
        tcase_add_loop_test(tcase, requests, 0, 2);
        tcase_add_test(tcase, time_out);
        tcase_add_loop_test(tcase, refused, 0, 2);
        tcase_add_test(tcase, no_room);
        tcase_add_test(tcase, cancelled);
        tcase_add_test(tcase, name_of_this_machine);
        tcase_add_test(tcase, name_with_two_addresses);
        tcase_add_test(tcase, name_without_address);
        tcase_add_loop_test(tcase, slow_name, 0, 2);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(fetch_suite)
