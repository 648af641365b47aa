#include "daemon/loop/reactor.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "daemon/loop/mailbox.h"
#include "tests/support/unit.h"

static struct reactor reactor;

static void setup(void) {
        ck_assert_int_eq(reactor_init(&reactor), 0);
}

static void teardown(void) {
        reactor_deinit(&reactor);
        reactor_deinit(&reactor);
}

/* What happened, in order. */
static char journal[256];

static void note(char c) {
        size_t n = strlen(journal);

        ck_assert_uint_lt(n + 1, sizeof(journal));
        journal[n] = c;
        journal[n + 1] = '\0';
}

struct source {
        struct watch watch;
        struct source *victim;
        struct job *job;
        char name;
};

static void source_ready(struct watch *watch, uint32_t events) {
        struct source *source = container_of(watch, struct source, watch);

        ck_assert(events & EPOLLIN);
        note(source->name);
        if (source->victim)
                reactor_unwatch(&source->victim->watch);
        if (source->job)
                reactor_queue(&reactor, source->job);
}

static void source_init(struct source *source, char name) {
        int fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);

        ck_assert_int_ge(fd, 0);
        *source = (struct source){ .name = name };
        ck_assert_int_eq(reactor_watch(&reactor, &source->watch, fd, EPOLLIN | EPOLLET, source_ready), 0);
}

static void source_deinit(struct source *source) {
        reactor_unwatch(&source->watch);
        reactor_unwatch(&source->watch);
        close(source->watch.fd);
}

static void stop_run(struct job *job) {
        (void)job;
        note('.');
        reactor_stop(&reactor);
}

/* Both are in the same round: the first that is called takes the other out, which is not called any more. */
START_TEST(watch_removed_in_its_round) {
        struct source a, b;
        struct job stop;

        source_init(&a, 'a');
        source_init(&b, 'b');
        a.victim = &b;
        b.victim = &a;
        job_init(&stop, stop_run);
        reactor_queue(&reactor, &stop);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert(strcmp(journal, "a.") == 0 || strcmp(journal, "b.") == 0);
        source_deinit(&a);
        source_deinit(&b);
}
END_TEST

static struct job again;

static void again_run(struct job *job) {
        note('j');
        if (strlen(journal) < 6)
                reactor_queue(&reactor, job);
        else
                reactor_stop(&reactor);
}

/* A job that queues itself lets the watches of the next turn go first. */
START_TEST(jobs_take_turns) {
        struct source a;

        job_init(&again, again_run);
        source_init(&a, 'a');
        a.job = &again;
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(journal, "ajjjjj");

        /* Queued twice, it runs once; cancelled, it does not. */
        journal[0] = '\0';
        reactor.stopped = false;
        struct job once, never, stop;

        job_init(&once, again_run);
        job_init(&never, again_run);
        job_init(&stop, stop_run);
        reactor_queue(&reactor, &never);
        job_cancel(&never);
        job_cancel(&never);
        reactor_queue(&reactor, &stop);
        reactor_queue(&reactor, &stop);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(journal, ".");
        source_deinit(&a);
}
END_TEST

struct named_timer {
        struct timer timer;
        char name;
};

static void timer_note(struct timer *timer) {
        char name = container_of(timer, struct named_timer, timer)->name;

        ck_assert(!timer_is_set(timer));
        note(name);
        if (name == 'z')
                reactor_stop(&reactor);
}

START_TEST(timers_in_order) {
        struct named_timer timers[] = { { .name = 'b' }, { .name = 'z' }, { .name = 'a' }, { .name = 'x' }, { .name = 'c' } };
        static const uint64_t msec[] = { 20, 40, 10, 15, 20 };
        uint64_t now = timer_now();

        ck_assert_uint_eq(timer_list_due(&reactor.timers), UINT64_MAX);
        for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
                timer_init(&timers[i].timer, timer_note);
                reactor_set_timer(&reactor, &timers[i].timer, now + msec[i] * 1000000);
        }
        ck_assert_uint_eq(timer_list_due(&reactor.timers), now + 10 * 1000000);
        timer_clear(&timers[3].timer);
        timer_clear(&timers[3].timer);
        /* Set again, it moves. */
        reactor_set_timer(&reactor, &timers[2].timer, now + 30 * 1000000);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        ck_assert_str_eq(journal, "bcaz");
        ck_assert_uint_ge(timer_now(), now + 40 * 1000000);
}
END_TEST

START_TEST(rewatch_and_errors) {
        struct source a;
        struct watch other;

        source_init(&a, 'a');
        ck_assert_int_eq(reactor_rewatch(&a.watch, EPOLLIN), 0);
        ck_assert_int_eq(reactor_rewatch(&a.watch, EPOLLIN), 0);
        ck_assert_int_eq(reactor_watch(&reactor, &other, a.watch.fd, EPOLLIN, source_ready), -EEXIST);
        ck_assert_int_eq(reactor_watch(&reactor, &other, -1, EPOLLIN, source_ready), -EBADF);
        source_deinit(&a);
}
END_TEST

#define LETTERS 20000

static struct mailbox mailbox;
static unsigned delivered;

static void mailbox_note(struct mailbox *box, unsigned letters) {
        ck_assert_ptr_eq(box, &mailbox);
        ck_assert_uint_ne(letters, 0);
        delivered |= letters;
        if (delivered == 7)
                reactor_stop(&reactor);
}

static void *mailbox_sender(void *argument) {
        for (unsigned i = 0; i < LETTERS; i++)
                mailbox_post(&mailbox, 1);
        mailbox_post(&mailbox, *(unsigned *)argument);
        return NULL;
}

/* The kernel would go on telling of a watch that may not be there any more: no turn follows. */
START_TEST(not_taken_out) {
        struct watch closed = WATCH_NULL;
        int fds[2];

        ck_assert_int_eq(pipe(fds), 0);
        ck_assert_int_eq(reactor_watch(&reactor, &closed, fds[0], EPOLLIN, NULL), 0);
        close(fds[0]);
        reactor_unwatch(&closed);
        ck_assert_ptr_null(closed.reactor);
        ck_assert_int_eq(reactor_run(&reactor), -EBADF);
        close(fds[1]);
}
END_TEST

/* No letter is lost, whoever posts and whenever. */
START_TEST(mailbox_from_threads) {
        unsigned letters[] = { 2, 4 };
        pthread_t threads[2];

        ck_assert_int_eq(mailbox_init(&mailbox, &reactor, mailbox_note), 0);
        for (size_t i = 0; i < 2; i++)
                pthread_create(&threads[i], NULL, mailbox_sender, &letters[i]);
        ck_assert_int_eq(reactor_run(&reactor), 0);
        for (size_t i = 0; i < 2; i++)
                pthread_join(threads[i], NULL);
        mailbox_deinit(&mailbox);
        mailbox_deinit(&mailbox);
}
END_TEST

static Suite *reactor_suite(void) {
        Suite *suite = suite_create("reactor");
        TCase *tcase = tcase_create("reactor");

        tcase_set_timeout(tcase, 60);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_test(tcase, watch_removed_in_its_round);
        tcase_add_test(tcase, jobs_take_turns);
        tcase_add_test(tcase, timers_in_order);
        tcase_add_test(tcase, rewatch_and_errors);
        tcase_add_test(tcase, not_taken_out);
        tcase_add_test(tcase, mailbox_from_threads);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(reactor_suite)
