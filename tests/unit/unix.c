#include "daemon/front/unix.h"

#include <errno.h>
#include <malloc.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/unit.h"

/*
 * What is allocated now in blocks of 1 KiB and more, and was at most: buffers. Smaller ones are libcheck's, too. The
 * linker has everybody call these.
 */
static int64_t allocated, most_allocated;

static int64_t size_of(void *memory) {
        size_t size = memory ? malloc_usable_size(memory) : 0;

        return size >= 1024 ? (int64_t)size : 0;
}

static void *note_allocated(void *memory) {
        allocated += size_of(memory);
        most_allocated = MAX(most_allocated, allocated);
        return memory;
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size) {
        return note_allocated(__real_malloc(size));
}

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size) {
        return note_allocated(__real_calloc(n, size));
}

/* The old block and the new one may be there both. */
void *__real_realloc(void *memory, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_realloc(void *memory, size_t size) {
        int64_t before = size_of(memory);
        void *grown = __real_realloc(memory, size);

        if (grown) {
                (void)note_allocated(grown);
                allocated -= before;
        }
        return grown;
}

void __real_free(void *memory);
void __wrap_free(void *memory);
void __wrap_free(void *memory) {
        allocated -= size_of(memory);
        __real_free(memory);
}

/* A worker with a front, and a model that answers when it is told to. */

static struct reactor reactor;
static struct socket_group sockets;
static struct gate stop;
static struct status status;
static struct request_limits limits = { .max_waiting = 1000000, .max_prompt = 100, .max_prompt_memory = 1000000 };
static struct generation *generation;
static struct queue queue;
static struct lane lane;
static struct places_lane *place = &lane.lists[PLACES_INFERENCE].place;
static struct parking parking;
static struct front front;
static unsigned ends;
static struct session_events *session_events;
static struct model_session session;
static struct inference *inference;
static unsigned pauses, resumptions;
static bool paused;

static int session_new(struct model *model, const struct session_place *session_place, struct model_session **s) {
        session_events = session_place->events;
        session.model = model;
        *s = &session;
        return 0;
}

static void session_free(struct model_session *s) {
        (void)s;
}

static void session_follow(struct model_session *s, const struct generation *g) {
        (void)s;
        (void)g;
}

static int infer(struct model_session *s, struct inference *i) {
        (void)s;
        inference = i;
        return 0;
}

static void pause_inference(struct model_session *s, struct inference *i, bool pause) {
        (void)s;
        ck_assert_ptr_eq(i, inference);
        pauses += pause;
        resumptions += !pause;
        paused = pause;
}

static void cancel(struct model_session *s, struct inference *i) {
        (void)s;
        ck_assert_ptr_eq(i, inference);
        inference = NULL;
}

static const struct model_ops ops = {
        .name = "scripted",
        .session_new = session_new,
        .session_free = session_free,
        .session_follow = session_follow,
        .infer = infer,
        .pause = pause_inference,
        .cancel = cancel,
};
static struct model model = { &ops };

static void ended(struct front *f) {
        ck_assert_ptr_eq(f, &front);
        ends++;
}

static void flushed(struct front *f) {
        ck_assert_ptr_eq(f, &front);
}

static void opened(struct parking *p) {
        (void)p;
        ck_abort_msg("There is no keeper");
}

static const struct lane_events lane_events;
static int client;

static void open_front(void) {
        int pair[2];

        ck_assert_int_eq(reactor_init(&reactor), 0);
        socket_group_init(&sockets, &reactor);
        ck_assert_int_eq(gate_init(&stop), 0);
        ck_assert_int_eq(status_init(&status, 1, &stop), 0);
        ck_assert_int_eq(generation_new(&generation, 1), 0);
        ck_assert_int_eq(gate_open(&generation->gate), 0);
        queue = (struct queue){ .limits = &limits, .stop = &stop, .model = &model };
        atomic_store(&queue.generation, generation);
        for (unsigned i = 0; i < PLACES_KINDS; i++)
                queue.places[i] = (struct places){ .lanes = &place, .count = 1 };
        ck_assert_int_eq(lane_init(&lane, &queue, &reactor, &sockets, status.counters, &lane_events, true), 0);
        parking_init(&parking, &lane, NULL, NULL, 0, opened);
        front_init(&front, &sockets, &lane, &status, &parking, ended, flushed);
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
        ck_assert_int_eq(connection_new(&front, pair[0]), 0);
        client = pair[1];
        most_allocated = allocated;
}

static void close_front(void) {
        front_deinit(&front);
        front_deinit(&front);
        parking_deinit(&parking);
        lane_deinit(&lane);
        generation = generation_free(generation);
        status_deinit(&status);
        gate_deinit(&stop);
        socket_group_deinit(&sockets);
        reactor_deinit(&reactor);
        ck_assert_uint_eq(ends, 1);
}

static struct job turn_end;
static unsigned turns;

static void turn_run(struct job *job) {
        if (turns-- == 0)
                reactor_stop(&reactor);
        else
                reactor_queue(&reactor, job);
}

/* So many turns that everything that can be done is done. */
static void settle(void) {
        turns = 20;
        reactor.stopped = false;
        job_init(&turn_end, turn_run);
        reactor_queue(&reactor, &turn_end);
        ck_assert_int_eq(reactor_run(&reactor), 0);
}

/* Returns how many bytes the client could send. */
static size_t say(const char *data, size_t len) {
        ssize_t n = send(client, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

        settle();
        return n > 0 ? (size_t)n : 0;
}

/* Reads what there is, and counts the lines that begin so. */
static unsigned count_lines(const char *begin, size_t *bytes) {
        static char line[1024];
        static size_t len;
        char buffer[4096];
        unsigned found = 0;
        ssize_t n;

        while ((n = recv(client, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0) {
                *bytes += (size_t)n;
                for (ssize_t i = 0; i < n; i++) {
                        if (buffer[i] == '\n') {
                                found += len >= strlen(begin) && memcmp(line, begin, strlen(begin)) == 0;
                                len = 0;
                        } else if (len < sizeof(line))
                                line[len++] = buffer[i];
                }
                settle();
        }
        return found;
}

#define LINES 200000

/* Each line is an error; its client does not read. What it costs is bounded, and every error comes in the end. */
START_TEST(output_is_bounded) {
        static char lines[LINES];
        size_t sent = 0, n, bytes = 0;
        int64_t before;
        unsigned errors = 0;

        memset(lines, '\n', sizeof(lines));
        open_front();
        before = allocated;
        while ((n = say(lines + sent, sizeof(lines) - sent)) > 0)
                sent += n;
        ck_assert_uint_ge(sent, 65536);
        ck_assert_int_lt(most_allocated - before, 512 * 1024);
        while (sent < sizeof(lines) || errors < LINES) {
                unsigned more = count_lines("ERR - bad-request ", &bytes);

                n = sent < sizeof(lines) ? say(lines + sent, sizeof(lines) - sent) : 0;
                ck_assert_msg(more > 0 || n > 0, "Stuck after %u errors", errors);
                errors += more;
                sent += n;
        }
        ck_assert_uint_eq(errors, LINES);
        ck_assert_int_lt(most_allocated - before, 512 * 1024);
        /* An idle connection has no buffers. */
        ck_assert_int_eq(allocated, before);

        close(client);
        settle();
        ck_assert_uint_eq(ends, 1);
        close_front();
}
END_TEST

/* What was read and not run when the input ended is run before that is said. */
START_TEST(input_ends_while_paused) {
        static char lines[60000];
        size_t sent = 0, bytes = 0;
        unsigned errors = 0, more;

        memset(lines, '\n', sizeof(lines));
        memcpy(lines + sizeof(lines) - 8, "REQUEST ", 8);
        open_front();
        while (sent < sizeof(lines))
                sent += say(lines + sent, sizeof(lines) - sent);
        ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
        settle();
        while ((more = count_lines("ERR - bad-request ", &bytes)) > 0)
                errors += more;
        ck_assert_uint_eq(errors, sizeof(lines) - 8 + 1);
        ck_assert_uint_eq(ends, 1);
        close(client);
        close_front();
}
END_TEST

#define PART 8192

/* A client that does not read its stream stops the model, and goes on when it has read. */
START_TEST(stream_is_paused) {
        static const char part[PART];
        const struct answer_end end = { .how = ENDING_COMPLETE, .text = "" };
        size_t sent = 0, bytes = 0;
        int64_t before;

        open_front();
        before = allocated;
        (void)say("STREAM a 1\nx\n", 13);
        ck_assert_ptr_nonnull(inference);
        while (!paused) {
                inference->recipient->ops->part(inference->recipient, inference, part, sizeof(part));
                settle();
                sent += sizeof(part);
                ck_assert_uint_lt(sent, 4 * 1024 * 1024);
        }
        ck_assert_int_lt(most_allocated - before, 1024 * 1024);
        ck_assert_uint_eq(pauses, 1);
        ck_assert_uint_eq(resumptions, 0);
        (void)count_lines("", &bytes);
        ck_assert_uint_eq(resumptions, 1);
        ck_assert(!paused);
        ck_assert_uint_ge(bytes, sent);

        session_events->ended(session_events, inference, &end);
        settle();
        ck_assert_uint_eq(count_lines("OK a 0", &bytes), 1);
        close(client);
        settle();
        close_front();
}
END_TEST

/* Nothing is begun for a client that has gone; what is under way is cancelled. */
START_TEST(client_goes) {
        open_front();
        (void)say("REQUEST a 1\nx\n", 14);
        ck_assert_ptr_nonnull(inference);
        ck_assert_int_eq(send(client, "REQUEST b 1\nx\n", 14, MSG_DONTWAIT), 14);
        close(client);
        settle();
        ck_assert_ptr_null(inference);
        ck_assert_uint_eq(ends, 1);
        ck_assert_uint_eq(atomic_load(&status.counters->accepted), 1);
        close_front();
}
END_TEST

static Suite *unix_suite(void) {
        Suite *suite = suite_create("unix");
        TCase *tcase = tcase_create("unix");

        tcase_set_timeout(tcase, 60);
        tcase_add_test(tcase, output_is_bounded);
        tcase_add_test(tcase, input_ends_while_paused);
        tcase_add_test(tcase, stream_is_paused);
        tcase_add_test(tcase, client_goes);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(unix_suite)
