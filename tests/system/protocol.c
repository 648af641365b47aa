/*
 * The wire: what comes back for what goes in, for every error code, and that the connection goes on.
 */

#include <fnmatch.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/daemon.h"

#define REPLIES_MAX 4

/* A reply as one line, to compare with: `OK 7 Response 7 from sim`, `ERR - bad-request Empty line`. */
#define SHOWN_MAX 2048
static void show(const struct peer_reply *reply, char shown[static SHOWN_MAX]) {
        if (reply->type == PROTOCOL_ERR)
                snprintf(shown, SHOWN_MAX, "ERR %s %s %s", reply->id, reply->code, reply->body);
        else
                snprintf(shown, SHOWN_MAX, "%s %s %s", reply->type == PROTOCOL_OK ? "OK" : "PART", reply->id,
                         reply->body);
}

/* The next replies fit these patterns, of fnmatch(3), in any order: only some take the model's time. */
static void expect_replies(struct peer *peer, const char *const patterns[static REPLIES_MAX]) {
        bool seen[REPLIES_MAX] = { false };

        for (size_t i = 0; i < REPLIES_MAX && patterns[i]; i++) {
                struct peer_reply reply;
                char shown[SHOWN_MAX];
                size_t k;

                if (!peer_next(peer, &reply))
                        process_give_up("The connection ended before: %s", patterns[i]);
                show(&reply, shown);
                for (k = 0; k < REPLIES_MAX && patterns[k]; k++)
                        if (!seen[k] && fnmatch(patterns[k], shown, 0) == 0)
                                break;
                ck_assert_msg(k < REPLIES_MAX && patterns[k], "Unexpected, instead of %s: %s", patterns[i],
                              shown);
                seen[k] = true;
        }
}

#define ID64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define MALFORMED "ERR - bad-request ?*"
#define MALFORMED7 "ERR 7 bad-request ?*"
#define ANSWER7 "OK 7 Response 7 from sim"
#define WIRE(text) text, sizeof(text) - 1

static const struct {
        const char *input;
        size_t len;
        const char *replies[REPLIES_MAX];
} table[] = {
        /* Requests. */
        { WIRE("REQUEST 7\n"), { ANSWER7 } },
        { WIRE("REQUEST 7\r\n"), { ANSWER7 } },
        { WIRE("REQUEST " ID64 "\n"), { "OK " ID64 " Response " ID64 " from sim" } },
        { WIRE("REQUEST !~-\n"), { "OK !~- Response !~- from sim" } },
        { WIRE("REQUEST --\n"), { "OK -- Response -- from sim" } },
        { WIRE("REQUEST REQUEST\n"), { "OK REQUEST Response REQUEST from sim" } },
        { WIRE("REQUEST 7\nREQUEST 8\nREQUEST 7\n"), { ANSWER7, "OK 8 Response 8 from sim", ANSWER7 } },

        /* Prompts. */
        { WIRE("REQUEST 7 0\n\n"), { ANSWER7 } },
        { WIRE("REQUEST 7 5\nhello\n"), { ANSWER7 } },
        { WIRE("REQUEST 7 5\r\nhello\r\n"), { ANSWER7 } },
        { WIRE("REQUEST 7 005\nhello\n"), { ANSWER7 } },
        { WIRE("REQUEST 7 7\nSTATUS\n\n"), { ANSWER7 } },
        { WIRE("REQUEST 7 6\n\0\n\r\n\xff\x80\n"), { ANSWER7 } },
        { WIRE("REQUEST 7 1\n\r\n"), { ANSWER7 } },
        { WIRE("REQUEST 7 1\n\r\r\n"), { ANSWER7 } },
        { WIRE("REQUEST 7 5\nhello!\nREQUEST 8\n"), { MALFORMED7, "OK 8 Response 8 from sim" } },
        { WIRE("REQUEST 7 5\nhello\rREQUEST 9\nREQUEST 8\n"), { MALFORMED7, "OK 8 Response 8 from sim" } },

        /* Streams. An empty body ends each. */
        { WIRE("STREAM 7\n"), { MALFORMED7 } },
        { WIRE("STREAM\n"), { MALFORMED } },
        { WIRE("STREAM 7 x\n"), { MALFORMED7 } },
        { WIRE("STREAM - 0\n"), { MALFORMED } },

        /* Lines that are no command. */
        { WIRE("\n"), { MALFORMED } },
        { WIRE("\r\n"), { MALFORMED } },
        { WIRE("\n\n\n"), { MALFORMED, MALFORMED, MALFORMED } },
        { WIRE(" \n"), { MALFORMED } },
        { WIRE("\r\r\n"), { MALFORMED } },
        { WIRE("\0\n"), { MALFORMED } },
        { WIRE("HELLO\n"), { MALFORMED } },
        { WIRE("GET / HTTP/1.1\r\n"), { MALFORMED } },
        { WIRE("\xff\xfe\xfd\n"), { MALFORMED } },
        { WIRE("request 7\n"), { MALFORMED } },
        { WIRE("REQUES 7\n"), { MALFORMED } },
        { WIRE("REQUESTS 7\n"), { MALFORMED } },
        { WIRE("REQUEST\t7\n"), { MALFORMED } },
        { WIRE(" REQUEST 7\n"), { MALFORMED } },
        { WIRE("STAT\n"), { MALFORMED } },
        { WIRE("STATUS \n"), { MALFORMED } },
        { WIRE("STATUS now\n"), { MALFORMED } },
        { WIRE("STATUS\0\n"), { MALFORMED } },
        { WIRE("WAIT 7\n"), { MALFORMED } },
        { WIRE("LOAD 7\n"), { MALFORMED } },
        { WIRE("SHUTDOWN now\n"), { MALFORMED } },
        { WIRE("OK 7 0\n"), { MALFORMED } },

        /* IDs. */
        { WIRE("REQUEST\n"), { MALFORMED } },
        { WIRE("REQUEST \n"), { MALFORMED } },
        { WIRE("REQUEST  7\n"), { MALFORMED } },
        { WIRE("REQUEST -\n"), { MALFORMED } },
        { WIRE("REQUEST - 0\n"), { MALFORMED } },
        { WIRE("REQUEST " ID64 "x\n"), { MALFORMED } },
        { WIRE("REQUEST a\001b\n"), { MALFORMED } },
        { WIRE("REQUEST a\0b\n"), { MALFORMED } },
        { WIRE("REQUEST a\177\n"), { MALFORMED } },
        { WIRE("REQUEST a\tb\n"), { MALFORMED } },
        { WIRE("REQUEST a\rb\n"), { MALFORMED } },
        { WIRE("REQUEST \xc3\xa9\n"), { MALFORMED } },

        /* Lengths. */
        { WIRE("REQUEST 7 \n"), { MALFORMED7 } },
        { WIRE("REQUEST 7 x\n"), { MALFORMED7 } },
        { WIRE("REQUEST 7 5x\n"), { MALFORMED7 } },
        { WIRE("REQUEST 7 -5\n"), { MALFORMED7 } },
        { WIRE("REQUEST 7 +5\n"), { MALFORMED7 } },
        { WIRE("REQUEST 7 0x5\n"), { MALFORMED7 } },
        { WIRE("REQUEST 7 5.0\n"), { MALFORMED7 } },
        { WIRE("REQUEST 7  5\n"), { MALFORMED7 } },
        { WIRE("REQUEST 7 5 \n"), { MALFORMED7 } },
        { WIRE("REQUEST 7 5 6\n"), { MALFORMED7 } },

        /* The others. */
        { WIRE("STATUS\n"), { "OK - {*}" } },
        { WIRE("STATUS\r\n"), { "OK - {*}" } },
        { WIRE("WAIT\n"), { "OK - ready" } },
        { WIRE("LOAD\n"), { "OK - ready" } },
        { WIRE("WAIT\nHELLO\nSTATUS\n"), { "OK - ready", MALFORMED, "OK - {*}" } },
};

static void start_ready(struct daemon *daemon) {
        daemon_start(daemon, "--load-time", "0", "--inference-time", "0", "--threads", "1", "--max-prompt",
                     "1000",
                     "--quiet", NULL);
        daemon_wait_ready(daemon);
}

/* Each on a connection of its own, and the connection goes on. */
START_TEST(each_input) {
        static const char *const then[REPLIES_MAX] = { "OK then Response then from sim" };
        struct daemon daemon;

        start_ready(&daemon);
        for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
                struct peer peer;

                peer_connect(&peer, daemon.socket);
                peer_send_bytes(&peer, table[i].input, table[i].len);
                expect_replies(&peer, table[i].replies);
                peer_send(&peer, "REQUEST then\n");
                expect_replies(&peer, then);
                peer_finish(&peer);
                peer_expect_end(&peer);
                peer_close(&peer);
        }
        daemon_stop(&daemon);
}
END_TEST

/* All of them on one connection, in pieces that have nothing to do with the lines. */
START_TEST(every_fragment) {
        static const size_t sizes[] = { 1, 2, 3, 7, 16, 61, 509, 4096 };
        size_t size = sizes[_i];
        struct daemon daemon;
        struct peer peer;

        start_ready(&daemon);
        peer_connect(&peer, daemon.socket);
        for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
                for (size_t at = 0; at < table[i].len; at += size) {
                        peer_send_bytes(&peer, table[i].input + at, MIN(size, table[i].len - at));
                        /* Has the worker take this up before there is more. */
                        if (size < 8)
                                peer_status(&daemon.control, &(struct peer_status){ 0 });
                }
                expect_replies(&peer, table[i].replies);
        }
        peer_finish(&peer);
        peer_expect_end(&peer);
        peer_close(&peer);
        daemon_stop(&daemon);
}
END_TEST

/* All of them at once, not waiting for any reply: as many as there are, and each is one of those expected. */
START_TEST(all_at_once) {
        struct text all = TEXT_NULL;
        struct daemon daemon;
        size_t replies = 0, errors = 0;
        struct peer_reply reply;
        struct peer peer;

        start_ready(&daemon);
        for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
                text_append(&all, table[i].input, table[i].len);
                for (size_t k = 0; k < REPLIES_MAX && table[i].replies[k]; k++) {
                        replies++;
                        errors += strncmp(table[i].replies[k], "ERR", 3) == 0;
                }
        }
        peer_connect(&peer, daemon.socket);
        peer_send_bytes(&peer, all.data, all.len);
        peer_finish(&peer);
        while (peer_next(&peer, &reply)) {
                replies--;
                errors -= reply.type == PROTOCOL_ERR;
        }
        ck_assert_uint_eq(replies, 0);
        ck_assert_uint_eq(errors, 0);
        text_deinit(&all);
        peer_close(&peer);
        daemon_stop(&daemon);
}
END_TEST

static void append_repeated(struct text *text, char c, size_t n) {
        while (n-- > 0)
                text_append(text, &c, 1);
}

/* Dropped up to its LF, answered once, and the connection goes on. */
START_TEST(long_lines) {
        static const struct {
                const char *begin;
                size_t len;
                const char *end;
                const char *reply;
        } lines[] = {
                { "", 1024, "\n", MALFORMED },
                { "", 1024, "\r\n", MALFORMED },
                { "", 1025, "\n", "ERR - too-large *1*024*" },
                { "", 1025, "\r\n", "ERR - too-large *1*024*" },
                { "REQUEST ", 1025, "\n", "ERR - too-large *1*024*" },
                { "REQUEST 7 ", 1025, "\n", "ERR - too-large *1*024*" },
                { "", 4096, "\n", "ERR - too-large *1*024*" },
                { "", 65536, "\n", "ERR - too-large *1*024*" },
                { "", 1000000, "\n", "ERR - too-large *1*024*" },
        };
        static const size_t sizes[] = { 1000003, 1000, 17 };
        struct daemon daemon;

        start_ready(&daemon);
        for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
                for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
                        const char *const replies[REPLIES_MAX] = { lines[i].reply, ANSWER7 };
                        struct text text = TEXT_NULL;
                        struct peer peer;

                        if (lines[i].len / sizes[s] > 5000)
                                continue;
                        text_appendf(&text, "%s", lines[i].begin);
                        append_repeated(&text, 'x', lines[i].len - text.len);
                        text_appendf(&text, "%sREQUEST 7\n", lines[i].end);
                        peer_connect(&peer, daemon.socket);
                        for (size_t at = 0; at < text.len; at += sizes[s])
                                peer_send_bytes(&peer, text.data + at, MIN(sizes[s], text.len - at));
                        peer_finish(&peer);
                        expect_replies(&peer, replies);
                        peer_expect_end(&peer);
                        peer_close(&peer);
                        text_deinit(&text);
                }
        daemon_stop(&daemon);
}
END_TEST

/* Nobody has to end a line to hear that it is too long. */
START_TEST(long_line_without_end) {
        struct text text = TEXT_NULL;
        struct daemon daemon;

        start_ready(&daemon);
        append_repeated(&text, 'x', 3000);
        peer_send_bytes(&daemon.control, text.data, text.len);
        peer_expect_error(&daemon.control, "-", "too-large", NULL);
        peer_send_bytes(&daemon.control, text.data, text.len);
        peer_send(&daemon.control, "\nREQUEST 7\n");
        peer_expect(&daemon.control, "7", "Response 7 from sim");
        text_deinit(&text);
        daemon_stop(&daemon);
}
END_TEST

/* Answered at once, before its bytes come; these are skipped then, and the connection goes on. */
START_TEST(large_prompts) {
        static const char *const verbs[] = { "REQUEST", "STREAM" };
        struct peer_reply reply;
        struct daemon daemon;

        start_ready(&daemon);
        for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
                struct text prompt = TEXT_NULL;

                peer_send(&daemon.control, "%s 7 1001\n", verbs[i]);
                ck_assert(peer_next(&daemon.control, &reply));
                ck_assert_str_eq(reply.id, "7");
                ck_assert_str_eq(reply.code, "too-large");
                ck_assert_msg(strstr(reply.body, "1000") || strstr(reply.body, "1,000"), "%s", reply.body);

                /* What is skipped is no command. */
                while (prompt.len < 1001 - 7)
                        text_appendf(&prompt, "STATUS\n");
                append_repeated(&prompt, 'x', 1001 - prompt.len);
                peer_send_bytes(&daemon.control, prompt.data, 500);
                peer_send_bytes(&daemon.control, prompt.data + 500, prompt.len - 500);
                peer_send(&daemon.control, "\nREQUEST 8\n");
                peer_expect(&daemon.control, "8", "Response 8 from sim");
                text_deinit(&prompt);
        }

        /* With something else than a line end behind it. */
        peer_send(&daemon.control, "REQUEST 7 1001\n");
        peer_expect_error(&daemon.control, "7", "too-large", NULL);
        for (size_t i = 0; i < 1001; i++)
                peer_send(&daemon.control, "%c", i % 2 ? '\n' : 'y');
        peer_send(&daemon.control, "more\nREQUEST 8\n");
        do
                ck_assert(peer_next(&daemon.control, &reply));
        while (strcmp(reply.id, "8") != 0);
        ck_assert_int_eq(reply.type, PROTOCOL_OK);
        daemon_stop(&daemon);
}
END_TEST

START_TEST(endless_prompts) {
        static const char *const lengths[] = {
                "1001", "4294967296", "9223372036854775808", "18446744073709551615", "18446744073709551616",
                "99999999999999999999999999999999",
        };
        struct daemon daemon;

        start_ready(&daemon);
        for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
                struct text junk = TEXT_NULL;
                struct peer peer;

                peer_connect(&peer, daemon.socket);
                peer_send(&peer, "REQUEST 7 %s\n", lengths[i]);
                peer_expect_error(&peer, "7", "too-large", NULL);
                append_repeated(&junk, '\n', 1000);
                peer_send_bytes(&peer, junk.data, junk.len);
                peer_finish(&peer);
                peer_expect_end(&peer);
                peer_close(&peer);
                text_deinit(&junk);
        }
        daemon_stop(&daemon);
}
END_TEST

/* Prompts of every length around what a read or a buffer may hold, of every byte. */
START_TEST(prompts_of_any_bytes) {
        struct text prompt = TEXT_NULL;
        struct daemon daemon;
        size_t sent = 0;

        start_ready(&daemon);
        for (size_t i = 0; i < 1000; i++)
                text_append(&prompt, &(char){ (char)(i * 7) }, 1);
        for (size_t len = 0; len <= 1000; len++, sent++) {
                peer_send(&daemon.control, "REQUEST %zu %zu\n", sent, len);
                peer_send_bytes(&daemon.control, prompt.data, len);
                peer_send_bytes(&daemon.control, len % 2 ? "\n" : "\r\n", len % 2 ? 1 : 2);
        }
        peer_expect_answers(&daemon.control, 0, sent, "sim");
        text_deinit(&prompt);
        daemon_stop(&daemon);
}
END_TEST

/* To 1 MiB when nobody says. */
START_TEST(largest_prompt) {
        struct text prompt = TEXT_NULL;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "300ms", "--inference-time", "0", NULL);
        append_repeated(&prompt, 'p', 1 << 20);
        for (size_t i = 0; i < 4; i++) {
                peer_send(&daemon.control, "REQUEST %zu %zu\n", i, prompt.len);
                peer_send_bytes(&daemon.control, prompt.data, prompt.len);
                peer_send(&daemon.control, "\n");
        }
        peer_expect_answers(&daemon.control, 0, 4, "sim");
        peer_send(&daemon.control, "REQUEST 7 %zu\n", prompt.len + 1);
        peer_expect_error(&daemon.control, "7", "too-large", NULL);
        text_deinit(&prompt);
        daemon_stop(&daemon);
}
END_TEST

/* The parts add up to the answer, and an empty body ends it. */
static void expect_stream(struct peer *peer, const char *id, const char *answer) {
        struct text whole = TEXT_NULL;
        struct peer_reply reply;

        for (;;) {
                ck_assert(peer_next(peer, &reply));
                ck_assert_str_eq(reply.id, id);
                if (reply.type != PROTOCOL_PART)
                        break;
                ck_assert_uint_gt(reply.len, 0);
                text_append(&whole, reply.body, reply.len);
        }
        ck_assert_int_eq(reply.type, PROTOCOL_OK);
        ck_assert_uint_eq(reply.len, 0);
        ck_assert_str_eq(text_get(&whole), answer);
        text_deinit(&whole);
}

START_TEST(streams) {
        struct text wholes[10] = { TEXT_NULL };
        struct peer_reply reply;
        struct daemon daemon;
        size_t ended = 0;

        daemon_start(&daemon, "--load-time", "500ms", "--inference-time", "100ms", NULL);
        /* One that waits, one at a ready model. */
        peer_send(&daemon.control, "STREAM early 5\nhello\n");
        expect_stream(&daemon.control, "early", "Response early from sim");
        peer_send(&daemon.control, "STREAM late 0\n\n");
        expect_stream(&daemon.control, "late", "Response late from sim");

        /* Many at a time: each has its ID. */
        for (size_t i = 0; i < ARRAY_SIZE(wholes); i++)
                peer_send(&daemon.control, "STREAM %zu 2\nab\n", i);
        while (ended < ARRAY_SIZE(wholes)) {
                struct text *whole;

                ck_assert(peer_next(&daemon.control, &reply));
                ck_assert(reply.id[0] >= '0' && reply.id[0] <= '9' && reply.id[1] == '\0');
                whole = &wholes[reply.id[0] - '0'];
                if (reply.type == PROTOCOL_PART) {
                        text_append(whole, reply.body, reply.len);
                } else {
                        char answer[128];

                        ck_assert_int_eq(reply.type, PROTOCOL_OK);
                        ck_assert_uint_eq(reply.len, 0);
                        snprintf(answer, sizeof(answer), "Response %s from sim", reply.id);
                        ck_assert_str_eq(text_get(whole), answer);
                        text_deinit(whole);
                        ended++;
                }
        }
        daemon_stop(&daemon);
}
END_TEST

/* As many as may wait do, whichever connections they are on; a place that becomes free is taken. */
START_TEST(queue_full) {
        struct peer_status status;
        struct peer_reply reply;
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "1h", "--max-waiting", "3", "--threads", "4", NULL);
        peer_connect(&peer, daemon.socket);
        peer_send(&peer, "REQUEST 1\nREQUEST 2\n");
        peer_status(&peer, &status);
        ck_assert_uint_eq(status.waiting, 2);
        peer_send(&daemon.control, "REQUEST 3\n");
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.waiting, 3);

        peer_send(&daemon.control, "REQUEST 4\n");
        ck_assert(peer_next(&daemon.control, &reply));
        ck_assert_str_eq(reply.id, "4");
        ck_assert_str_eq(reply.code, "queue-full");
        ck_assert_ptr_nonnull(strchr(reply.body, '3'));
        peer_send(&peer, "STREAM 5 5\nhello\n");
        peer_expect_error(&peer, "5", "queue-full", NULL);
        peer_status(&daemon.control, &status);
        ck_assert_uint_eq(status.waiting, 3);

        peer_close(&peer);
        peer_status_until(&daemon.control, &status, peer_status_is_waiting, 1, "two places are free");
        peer_send(&daemon.control, "REQUEST 6\nREQUEST 7\nREQUEST 8\n");
        peer_expect_error(&daemon.control, "8", "queue-full", NULL);
        daemon_stop(&daemon);
}
END_TEST

/* It is the waiting that is limited: at a ready model nobody waits. */
START_TEST(queue_full_is_over_when_ready) {
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "500ms", "--inference-time", "50ms", "--max-waiting", "5", NULL);
        peer_send_requests(&daemon.control, 0, 5);
        peer_expect_answers(&daemon.control, 0, 5, "sim");
        peer_send_requests(&daemon.control, 0, 100);
        peer_expect_answers(&daemon.control, 0, 100, "sim");
        daemon_stop(&daemon);
}
END_TEST

START_TEST(timed_out) {
        uint64_t start, elapsed;
        struct peer_status status;
        struct peer_reply reply;
        struct daemon daemon;
        struct peer peer;

        daemon_start(&daemon, "--load-time", "1h", "--request-timeout", "400ms", NULL);
        start = clock_now();
        peer_send(&daemon.control, "REQUEST 7\n");
        ck_assert(peer_next(&daemon.control, &reply));
        elapsed = clock_now() - start;
        ck_assert_str_eq(reply.id, "7");
        ck_assert_str_eq(reply.code, "timed-out");
        /* How long it waited, in whatever unit. */
        ck_assert_msg(strpbrk(reply.body, "0123456789"), "%s", reply.body);
        ck_assert_uint_ge(elapsed, 400 * NSEC_PER_MSEC);

        /* Many, of several clients, one of which goes before. */
        peer_connect(&peer, daemon.socket);
        peer_send_requests(&peer, 0, 1000);
        peer_status(&peer, &status);
        peer_send_requests(&daemon.control, 0, 1000);
        peer_close(&peer);
        for (size_t i = 0; i < 1000; i++) {
                ck_assert(peer_next(&daemon.control, &reply));
                ck_assert_str_eq(reply.code, "timed-out");
        }
        peer_status_until(&daemon.control, &status, peer_status_is_waiting, 0, "nothing waits any more");
        ck_assert_str_eq(status.status, "loading");
        ck_assert_uint_ge(status.failed, 1001);
        ck_assert_uint_eq(status.failed + status.cancelled, 2001);

        /* The client that shut its side down has its answer too. */
        peer_connect(&peer, daemon.socket);
        peer_send(&peer, "REQUEST half\n");
        peer_finish(&peer);
        peer_expect_error(&peer, "half", "timed-out", NULL);
        peer_expect_end(&peer);
        peer_close(&peer);
        daemon_stop(&daemon);
}
END_TEST

/* Whoever is answered in time hears nothing of it. */
START_TEST(not_timed_out) {
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "300ms", "--inference-time", "0", "--request-timeout", "20s",
                     NULL);
        peer_send_requests(&daemon.control, 0, 100);
        peer_expect_answers(&daemon.control, 0, 100, "sim");
        peer_send_requests(&daemon.control, 0, 100);
        peer_expect_answers(&daemon.control, 0, 100, "sim");
        daemon_stop(&daemon);
}
END_TEST

START_TEST(not_permitted) {
        struct peer_reply reply;
        struct daemon daemon;
        struct peer stranger;

        if (geteuid() != 0) {
                suite_skip("not_permitted", "only root can be somebody else");
                return;
        }
        daemon_start(&daemon, "--load-time", "300ms", "--inference-time", "0", NULL);
        ck_assert_int_eq(chmod(daemon.socket, 0666), 0);
        /* The socket notes who it is that connects. */
        ck_assert_int_eq(seteuid(65534), 0);
        peer_connect(&stranger, daemon.socket);
        ck_assert_int_eq(seteuid(0), 0);

        peer_send(&stranger, "LOAD\n");
        ck_assert(peer_next(&stranger, &reply));
        ck_assert_str_eq(reply.id, "-");
        ck_assert_str_eq(reply.code, "not-permitted");
        ck_assert_msg(strstr(reply.body, "LOAD"), "%s", reply.body);
        peer_send(&stranger, "SHUTDOWN\n");
        ck_assert(peer_next(&stranger, &reply));
        ck_assert_str_eq(reply.id, "-");
        ck_assert_str_eq(reply.code, "not-permitted");
        ck_assert_msg(strstr(reply.body, "SHUTDOWN"), "%s", reply.body);

        /* All else is. */
        peer_status(&stranger, &(struct peer_status){ 0 });
        peer_send(&stranger, "WAIT\n");
        peer_expect(&stranger, "-", PROTOCOL_READY);
        peer_send(&stranger, "REQUEST 7\n");
        peer_expect(&stranger, "7", "Response 7 from sim");
        peer_close(&stranger);
        daemon_stop(&daemon);
}
END_TEST

/* The codes of the states, each with bad lines between. */
START_TEST(in_other_states) {
        struct peer_status status;
        struct daemon daemon;

        daemon_start(&daemon, "--load-time", "200ms", "--load-failure", "reason", "--on-load-failure", "stay",
                     NULL);
        peer_status_until(&daemon.control, &status, peer_status_is_failed, 0, "loading has failed");
        peer_send(&daemon.control, "\nREQUEST 1\nREQUEST -\nREQUEST 2 2\nab\nSTREAM 3\n");
        peer_expect_error(&daemon.control, "-", "bad-request", NULL);
        peer_expect_error(&daemon.control, "1", "load-failed", "reason");
        peer_expect_error(&daemon.control, "-", "bad-request", NULL);
        peer_expect_error(&daemon.control, "2", "load-failed", "reason");
        peer_expect_error(&daemon.control, "3", "bad-request", NULL);
        daemon_stop(&daemon);

        daemon_start(&daemon, "--load-time", "0", "--inference-time", "2s", NULL);
        daemon_wait_ready(&daemon);
        peer_send(&daemon.control, "REQUEST 0\n");
        peer_status(&daemon.control, &status);
        process_signal(&daemon.process, SIGTERM);
        peer_status_until(&daemon.control, &status, peer_status_is_stopping, 0, "msd is stopping");
        peer_send(&daemon.control, "\nREQUEST 1\nREQUEST -\nREQUEST 2 2\nab\nSTREAM 3\n");
        peer_expect_error(&daemon.control, "-", "bad-request", NULL);
        peer_expect_error(&daemon.control, "1", "shutting-down", PROTOCOL_SHUTTING_DOWN_MESSAGE);
        peer_expect_error(&daemon.control, "-", "bad-request", NULL);
        peer_expect_error(&daemon.control, "2", "shutting-down", PROTOCOL_SHUTTING_DOWN_MESSAGE);
        peer_expect_error(&daemon.control, "3", "bad-request", NULL);
        peer_expect(&daemon.control, "0", "Response 0 from sim");
        daemon_expect_exit(&daemon, 0);
}
END_TEST

static void add(TCase *tests) {
        tcase_add_test(tests, each_input);
        tcase_add_loop_test(tests, every_fragment, 0, 8);
        tcase_add_test(tests, all_at_once);
        tcase_add_test(tests, long_lines);
        tcase_add_test(tests, long_line_without_end);
        tcase_add_test(tests, large_prompts);
        tcase_add_test(tests, endless_prompts);
        tcase_add_test(tests, prompts_of_any_bytes);
        tcase_add_test(tests, largest_prompt);
        tcase_add_test(tests, streams);
        tcase_add_test(tests, queue_full);
        tcase_add_test(tests, queue_full_is_over_when_ready);
        tcase_add_test(tests, timed_out);
        tcase_add_test(tests, not_timed_out);
        tcase_add_test(tests, not_permitted);
        tcase_add_test(tests, in_other_states);
}

int main(void) {
        return suite_main("protocol", add);
}
