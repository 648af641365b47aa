#include "client/session.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "client/deadline.h"
#include "common/address.h"
#include "tests/support/unit.h"

/* What has to come comes within this on any machine; what must not come is not waited for. */
#define PATIENCE (30 * NSEC_PER_SEC)

static struct session session;
static int peer_fd;

static void setup(void) {
        int fds[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        ck_assert_int_eq(session_init(&session, fds[0], deadline_now() + PATIENCE), 0);
        ck_assert(fcntl(fds[0], F_GETFL) & O_NONBLOCK);
        peer_fd = fds[1];
}

static void teardown(void) {
        session_deinit(&session);
        session_deinit(&session);
        ck_assert_int_eq(session.fd, -1);
        peer_fd = util_close(peer_fd);
}

/* Asks `count` requests, and hears so many replies. */
struct client {
        struct session_events events;
        size_t count;
        size_t sent;
        size_t heard;
        size_t body_sum;        /* the lengths of all bodies */
        char journal[512];      /* the first replies, as they came */
        unsigned pauses;
        unsigned ticks;
        int pause_result;
        int reply_result;       /* of each reply but the last */
};

static size_t client_fill(struct session_events *events, char *buffer, size_t size) {
        struct client *client = container_of(events, struct client, events);
        size_t n = 0;

        while (client->sent < client->count && size - n >= PROTOCOL_HEAD_MAX) {
                char id[24];
                int len = snprintf(id, sizeof(id), "%zu", client->sent++);

                n += protocol_format_command(buffer + n, PROTOCOL_REQUEST, id, (size_t)len, false, 0);
        }
        return n;
}

static int client_reply(struct session_events *events, const struct protocol_reply *reply, const char *body) {
        static const char *const names[] = { "OK", "PART", "ERR" };
        struct client *client = container_of(events, struct client, events);
        size_t n = strlen(client->journal);

        ck_assert_int_eq(!body, reply->type == PROTOCOL_ERR);
        if (sizeof(client->journal) - n > 64)
                snprintf(client->journal + n, sizeof(client->journal) - n, "%s %.*s <%.*s>\n",
                         names[reply->type], unit_len(reply->id_len), reply->id,
                         body ? unit_len(MIN(reply->length, UINT64_C(16))) : unit_len(reply->message_len),
                         body ? body : reply->message);
        client->body_sum += reply->length;
        client->heard++;
        if (client->reply_result != 0)
                return client->reply_result;
        return client->heard == client->count ? SESSION_DONE : 0;
}

static int client_pause(struct session_events *events) {
        struct client *client = container_of(events, struct client, events);

        client->pauses++;
        return client->pause_result;
}

static void client_tick(struct session_events *events, uint64_t now) {
        struct client *client = container_of(events, struct client, events);

        ck_assert_uint_ge(now, events->wake);
        /* Ends what it waits for: the next turn reads it. */
        if (++client->ticks == 3)
                ck_assert_int_eq(write(peer_fd, "OK 0 0\n\n", 8), 8);
        events->wake = now + NSEC_PER_MSEC;
}

#define CLIENT(n) { .events = { client_fill, client_reply, client_pause, client_tick, 0 }, .count = (n) }

static void say(const char *data, size_t len) {
        ck_assert_int_eq(write(peer_fd, data, len), (ssize_t)len);
}

#define SAY(text) say(text, sizeof(text) - 1)

START_TEST(session_replies) {
        struct client client = CLIENT(5);
        char heard[256];

        session.deadline = 1;
        ck_assert_int_eq(session_run(&session, &client.events), SESSION_TIMED_OUT);
        ck_assert_int_eq(read(peer_fd, heard, sizeof(heard)), 50);
        ck_assert_mem_eq(heard, "REQUEST 0\nREQUEST 1\nREQUEST 2\nREQUEST 3\nREQUEST 4\n", 50);

        session.deadline = deadline_now() + PATIENCE;
        SAY("OK 3 5\nhello\nERR 1 load-failed no such file\r\nPART 2 3\na\nb\nOK 2 0\r\n\r\nOK - 2\n{}\n"
            "OK 9 1\nx\n");
        ck_assert_int_eq(session_run(&session, &client.events), 0);
        /* What is behind the last one is not looked at. */
        ck_assert_str_eq(client.journal,
                         "OK 3 <hello>\nERR 1 <no such file>\nPART 2 <a\nb>\nOK 2 <>\nOK - <{}>\n");
        ck_assert_uint_ge(client.pauses, 1);
        ck_assert_uint_eq(client.ticks, 0);
}
END_TEST

struct speaker {
        pthread_t thread;
        const char *data;
        size_t len;
        size_t piece;
        bool finish;            /* closes at the end */
};

static void *speak(void *p) {
        struct speaker *speaker = p;

        for (size_t i = 0; i < speaker->len;) {
                ssize_t n = send(peer_fd, speaker->data + i, MIN(speaker->piece, speaker->len - i),
                                 MSG_NOSIGNAL);

                if (n <= 0)
                        return p;
                i += (size_t)n;
        }
        if (speaker->finish)
                peer_fd = util_close(peer_fd);
        return NULL;
}

static void speaker_start(struct speaker *speaker) {
        ck_assert_int_eq(pthread_create(&speaker->thread, NULL, speak, speaker), 0);
}

static void speaker_end(struct speaker *speaker) {
        void *result;

        ck_assert_int_eq(pthread_join(speaker->thread, &result), 0);
        ck_assert_ptr_null(result);
}

/* The pieces in which replies come make no difference. */
START_TEST(session_pieces) {
        static const char text[] = "OK 0 5\nhello\nERR 1 queue-full so many\nPART 2 2\r\na\n\nOK 2 0\n\n";
        struct speaker speaker = { .data = text, .len = sizeof(text) - 1, .piece = (size_t)_i };
        struct client client = CLIENT(4);

        speaker_start(&speaker);
        ck_assert_int_eq(session_run(&session, &client.events), 0);
        ck_assert_str_eq(client.journal, "OK 0 <hello>\nERR 1 <so many>\nPART 2 <a\n>\nOK 2 <>\n");
        speaker_end(&speaker);
}
END_TEST

/* A body that is longer than any buffer, and then another reply. */
START_TEST(session_long_body) {
        static char text[(4 << 20) + 64];
        struct speaker speaker = { .data = text, .piece = sizeof(text), .finish = true };
        struct client client = CLIENT(2);
        size_t n;

        n = (size_t)snprintf(text, sizeof(text), "OK 0 %d\n", 4 << 20);
        memset(text + n, 'y', 4 << 20);
        n += 4 << 20;
        n += (size_t)snprintf(text + n, sizeof(text) - n, "\nOK 1 3\nend\n");
        speaker.len = n;
        speaker_start(&speaker);
        ck_assert_int_eq(session_run(&session, &client.events), 0);
        ck_assert_str_eq(client.journal, "OK 0 <yyyyyyyyyyyyyyyy>\nOK 1 <end>\n");
        ck_assert_uint_eq(client.body_sum, (4 << 20) + 3);
        speaker_end(&speaker);
}
END_TEST

/*
 * A server that answers each command at once, by more than was asked, and takes no more until its answers are
 * taken: with a client that sent all before it reads, both would wait for ever.
 */
static void *answer_all(void *p) {
        _cleanup_free_ char *output = malloc(1 << 20);
        static char body[1000];
        struct line line = LINE_NULL;
        char scratch[4096];

        (void)p;
        memset(body, 'z', sizeof(body));
        for (;;) {
                const char *text;
                size_t len, space, n = 0;
                ssize_t got;
                char *to;

                if (!output || line_space(&line, scratch, sizeof(scratch), &to, &space) < 0)
                        break;
                got = read(peer_fd, to, space);
                if (got <= 0)
                        break;
                line_filled(&line, (size_t)got);
                while (line_next(&line, &text, &len) == LINE_TAKEN) {
                        struct protocol_command command;

                        if (protocol_parse_command(text, len, &command) != 0)
                                return (void *)"a command is malformed";
                        n += protocol_format_head(output + n, PROTOCOL_OK, command.id, command.id_len,
                                                  sizeof(body));
                        memcpy(output + n, body, sizeof(body));
                        n += sizeof(body);
                        output[n++] = '\n';
                }
                if (line_keep(&line) < 0)
                        break;
                for (size_t i = 0; i < n;) {
                        ssize_t sent = send(peer_fd, output + i, n - i, MSG_NOSIGNAL);

                        if (sent <= 0)
                                return (void *)"the answers are not taken";
                        i += (size_t)sent;
                }
        }
        line_deinit(&line);
        return NULL;
}

START_TEST(session_sends_and_reads) {
        struct client client = CLIENT(200000);
        pthread_t thread;
        void *result;

        ck_assert_int_eq(pthread_create(&thread, NULL, answer_all, NULL), 0);
        ck_assert_int_eq(session_run(&session, &client.events), 0);
        ck_assert_uint_eq(client.heard, client.count);
        ck_assert_uint_eq(client.body_sum, client.count * 1000);
        session_deinit(&session);
        ck_assert_int_eq(pthread_join(thread, &result), 0);
        ck_assert_msg(!result, "%s", (const char *)result);
}
END_TEST

/* One session may be run again: it goes on where it was. */
START_TEST(session_again) {
        struct client first = CLIENT(1), second = CLIENT(1);

        SAY("OK 0 1\na\n");
        ck_assert_int_eq(session_run(&session, &first.events), 0);
        SAY("OK 0 1\nb\n");
        ck_assert_int_eq(session_run(&session, &second.events), 0);
        ck_assert_str_eq(second.journal, "OK 0 <b>\n");
}
END_TEST

static const char *const endings[] = {
        "",
        "OK 0 1\nx\n",
        "OK 0 1\nx\nOK 1",
        "OK 0 1\nx\nOK 1 5\nab",
        "OK 0 1\nx\nOK 1 2\nab",
};

/* What came whole before the end is heard. */
START_TEST(session_ends) {
        struct client client = CLIENT(2);

        say(endings[_i], strlen(endings[_i]));
        ck_assert_int_eq(shutdown(peer_fd, SHUT_WR), 0);
        ck_assert_int_eq(session_run(&session, &client.events), SESSION_ENDED);
        ck_assert_str_eq(client.journal, endings[_i][0] != '\0' ? "OK 0 <x>\n" : "");
}
END_TEST

static const struct {
        bool sent;              /* commands came before it went */
        bool end_reading;
        bool end_writing;       /* and is still open; else it is closed */
} gone[] = {
        { false, false, false },
        { true, false, false },
        { false, true, false },
        { true, true, false },
        { false, true, true },
        { true, true, true },
};

/* The other side has gone, with commands unread and more of them to be sent; its last words are heard. */
START_TEST(session_gone) {
        struct client client = CLIENT(1000000);

        if (gone[_i].sent) {
                session.deadline = 1;
                ck_assert_int_eq(session_run(&session, &client.events), SESSION_TIMED_OUT);
                session.deadline = deadline_now() + PATIENCE;
        }
        SAY("ERR 0 shutting-down Bye\n");
        if (gone[_i].end_reading)
                ck_assert_int_eq(shutdown(peer_fd, SHUT_RD), 0);
        if (gone[_i].end_writing)
                ck_assert_int_eq(shutdown(peer_fd, SHUT_WR), 0);
        else
                peer_fd = util_close(peer_fd);
        ck_assert_int_eq(session_run(&session, &client.events), SESSION_ENDED);
        ck_assert_str_eq(client.journal, "ERR 0 <Bye>\n");
}
END_TEST

static const struct {
        const char *text;
        const char *fault;
} malformed[] = {
        { "hello\n", "hello" },
        { "\n", "" },
        { "OK\n", "OK" },
        { "OK 0\n", "OK 0" },
        { "OK 0 x\n", "OK 0 x" },
        { "OK 0 -1\n", "OK 0 -1" },
        { "OK 0 1 2\n", "OK 0 1 2" },
        { "OK 0 3\nabcd\n", "OK 0 3" },
        { "OK 0 18446744073709551615\nabcd\n", "OK 0 18446744073709551615" },
        { "OK 0 18446744073709551616\nabcd\n", "OK 0 18446744073709551616" },
        { "ERR 0\n", "ERR 0" },
        { "REQUEST 0\n", "REQUEST 0" },
        { "HTTP/1.1 400 Bad Request\r\n", "HTTP/1.1 400 Bad Request" },
        { "\x1b[2J\xff\n", "?[2J?" },
};

START_TEST(session_malformed) {
        struct client client = CLIENT(2);

        SAY("OK 1 1\nx\n");
        say(malformed[_i].text, strlen(malformed[_i].text));
        ck_assert_int_eq(session_run(&session, &client.events), SESSION_MALFORMED);
        ck_assert_str_eq(session.fault, malformed[_i].fault);
        ck_assert_str_eq(client.journal, "OK 1 <x>\n");
}
END_TEST

START_TEST(session_endless_line) {
        static char text[LINE_MAX_LENGTH * 3];
        struct client client = CLIENT(1);

        memset(text, 'x', sizeof(text));
        text[sizeof(text) - 1] = '\n';
        say(text, sizeof(text));
        ck_assert_int_eq(session_run(&session, &client.events), SESSION_MALFORMED);
        ck_assert(session.fault[0] != '\0');
}
END_TEST

/* A long line is shown in part. */
START_TEST(session_long_fault) {
        struct client client = CLIENT(1);

        SAY("0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890\n");
        ck_assert_int_eq(session_run(&session, &client.events), SESSION_MALFORMED);
        ck_assert_uint_eq(strlen(session.fault), sizeof(session.fault) - 1);
}
END_TEST

START_TEST(session_times_out) {
        uint64_t begin = deadline_now();
        struct client client = CLIENT(2);

        SAY("OK 0 1\nx\n");
        session.deadline = begin + 20 * NSEC_PER_MSEC;
        ck_assert_int_eq(session_run(&session, &client.events), SESSION_TIMED_OUT);
        ck_assert_uint_ge(deadline_now(), session.deadline);
        ck_assert_uint_eq(client.heard, 1);
}
END_TEST

static void *talk_on(void *p) {
        (void)p;
        while (send(peer_fd, "PART 0 1\nx\n", 11, MSG_NOSIGNAL) == 11)
                ;
        return NULL;
}

/* Nor does a server that never stops talking make it longer. */
START_TEST(session_times_out_while_it_hears) {
        struct client client = CLIENT(SIZE_MAX);
        pthread_t thread;

        client.sent = client.count;
        session.deadline = deadline_now() + 20 * NSEC_PER_MSEC;
        ck_assert_int_eq(pthread_create(&thread, NULL, talk_on, NULL), 0);
        ck_assert_int_eq(session_run(&session, &client.events), SESSION_TIMED_OUT);
        session_deinit(&session);
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST

/* What is there at the deadline is heard, even if it has passed. */
START_TEST(session_too_late) {
        struct client client = CLIENT(1);

        SAY("OK 0 1\nx\n");
        session.deadline = 1;
        ck_assert_int_eq(session_run(&session, &client.events), 0);
        ck_assert_str_eq(client.journal, "OK 0 <x>\n");
}
END_TEST

START_TEST(session_ticks) {
        struct client client = CLIENT(1);

        client.events.wake = deadline_now();
        ck_assert_int_eq(session_run(&session, &client.events), 0);
        ck_assert_uint_ge(client.ticks, 3);

        /* And without a deadline. */
        client = (struct client)CLIENT(1);
        session.deadline = 0;
        client.events.wake = deadline_now();
        ck_assert_int_eq(session_run(&session, &client.events), 0);
}
END_TEST

START_TEST(session_errors_are_passed_on) {
        struct client client = CLIENT(2);

        SAY("OK 0 1\nx\nOK 1 1\nx\n");
        client.reply_result = -ENOSPC;
        ck_assert_int_eq(session_run(&session, &client.events), -ENOSPC);
        ck_assert_uint_eq(client.heard, 1);

        client.reply_result = SESSION_MALFORMED;
        SAY("OK 7 1\nx\n");
        ck_assert_int_eq(session_run(&session, &client.events), SESSION_MALFORMED);
        ck_assert_uint_eq(client.heard, 2);

        client.pause_result = -EPIPE;
        ck_assert_int_eq(session_run(&session, &client.events), -EPIPE);
}
END_TEST

/* --- Connecting */

static char directory[64];
static char path[96];
static int listener;

static void connect_setup(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        snprintf(directory, sizeof(directory), "/tmp/session-test-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(directory));
        snprintf(path, sizeof(path), "%s/socket", directory);
        memcpy(address.sun_path, path, strlen(path) + 1);
        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_ge(listener, 0);
        ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
        session = (struct session)SESSION_NULL;
        peer_fd = -1;
}

static void connect_teardown(void) {
        session_deinit(&session);
        util_close(peer_fd);
        util_close(listener);
        unlink(path);
        rmdir(directory);
}

START_TEST(connect_and_ask) {
        struct client client = CLIENT(1);

        ck_assert_int_eq(listen(listener, 1), 0);
        ck_assert_int_eq(session_connect(&session, path, deadline_now() + PATIENCE), 0);
        peer_fd = accept(listener, NULL, NULL);
        ck_assert_int_ge(peer_fd, 0);
        SAY("OK 0 1\nx\n");
        ck_assert_int_eq(session_run(&session, &client.events), 0);
        ck_assert_str_eq(client.journal, "OK 0 <x>\n");
}
END_TEST

START_TEST(connect_to_nobody) {
        char text[ADDRESS_PATH_MAX + 1];

        /* Bound, and nobody listens. */
        ck_assert_int_eq(session_connect(&session, path, 0), -ECONNREFUSED);
        ck_assert_int_eq(session_connect(&session, directory, 0), -ECONNREFUSED);
        ck_assert_int_eq(unlink(path), 0);
        ck_assert_int_eq(session_connect(&session, path, 0), -ENOENT);
        ck_assert_int_eq(session_connect(&session, "", 0), -EINVAL);
        memset(text, 'x', sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        ck_assert_int_eq(session_connect(&session, text, 0), -ENAMETOOLONG);
        ck_assert_int_eq(session.fd, -1);
}
END_TEST

#define FILLERS_MAX 8

/* Connects until there is no place left. Returns how many that took. */
static size_t fill_backlog(int fillers[static FILLERS_MAX]) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        size_t n = 0;

        memcpy(address.sun_path, path, strlen(path) + 1);
        ck_assert_int_eq(listen(listener, 0), 0);
        for (;;) {
                ck_assert_uint_lt(n, FILLERS_MAX);
                fillers[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
                ck_assert_int_ge(fillers[n], 0);
                if (connect(fillers[n++], (struct sockaddr *)&address, sizeof(address)) < 0) {
                        ck_assert_int_eq(errno, EAGAIN);
                        return n;
                }
        }
}

START_TEST(connect_times_out) {
        uint64_t deadline = deadline_now() + 20 * NSEC_PER_MSEC;
        int fillers[FILLERS_MAX];
        size_t n = fill_backlog(fillers);

        ck_assert_int_eq(session_connect(&session, path, deadline), SESSION_TIMED_OUT);
        /* It may be so little early as the kernel's limit cannot say. */
        ck_assert_uint_ge(deadline_now() + NSEC_PER_USEC, deadline);
        /* A deadline that has passed is not none. */
        ck_assert_int_eq(session_connect(&session, path, 1), SESSION_TIMED_OUT);
        while (n > 0)
                close(fillers[--n]);
}
END_TEST

struct connector {
        uint64_t deadline;
        int r;
};

static void *connect_run(void *p) {
        struct connector *connector = p;

        connector->r = session_connect(&session, path, connector->deadline);
        return NULL;
}

/* Whoever comes to a full backlog has the next place in it: with a deadline, and without one. */
START_TEST(connect_waits) {
        struct connector connector = { .deadline = _i == 0 ? 0 : deadline_now() + PATIENCE };
        struct client client = CLIENT(1);
        int fillers[FILLERS_MAX];
        size_t n = fill_backlog(fillers);
        pthread_t thread;

        ck_assert_int_eq(pthread_create(&thread, NULL, connect_run, &connector), 0);
        /* The last of them is the one that found no place. */
        for (size_t i = 0; i < n; i++) {
                util_close(peer_fd);
                peer_fd = accept(listener, NULL, NULL);
                ck_assert_int_ge(peer_fd, 0);
        }
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
        ck_assert_int_eq(connector.r, 0);
        ck_assert(fcntl(session.fd, F_GETFL) & O_NONBLOCK);

        SAY("OK 0 1\nx\n");
        ck_assert_int_eq(session_run(&session, &client.events), 0);
        ck_assert_str_eq(client.journal, "OK 0 <x>\n");
        while (n > 0)
                close(fillers[--n]);
}
END_TEST

static Suite *session_suite(void) {
        Suite *suite = suite_create("session");
        TCase *tcase = tcase_create("session"), *connecting = tcase_create("connect");

        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_set_timeout(tcase, 60);
        tcase_add_test(tcase, session_replies);
        tcase_add_loop_test(tcase, session_pieces, 1, 12);
        tcase_add_test(tcase, session_long_body);
        tcase_add_test(tcase, session_sends_and_reads);
        tcase_add_test(tcase, session_again);
        unit_add_table(tcase, session_ends, endings);
        unit_add_table(tcase, session_gone, gone);
        unit_add_table(tcase, session_malformed, malformed);
        tcase_add_test(tcase, session_endless_line);
        tcase_add_test(tcase, session_long_fault);
        tcase_add_test(tcase, session_times_out);
        tcase_add_test(tcase, session_times_out_while_it_hears);
        tcase_add_test(tcase, session_too_late);
        tcase_add_test(tcase, session_ticks);
        tcase_add_test(tcase, session_errors_are_passed_on);
        suite_add_tcase(suite, tcase);

        tcase_add_checked_fixture(connecting, connect_setup, connect_teardown);
        tcase_set_timeout(connecting, 60);
        tcase_add_test(connecting, connect_and_ask);
        tcase_add_test(connecting, connect_to_nobody);
        tcase_add_test(connecting, connect_times_out);
        tcase_add_loop_test(connecting, connect_waits, 0, 2);
        suite_add_tcase(suite, connecting);
        return suite;
}

UNIT_MAIN(session_suite)
