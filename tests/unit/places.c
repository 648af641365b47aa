#include "daemon/queue/places.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <time.h>

#include "tests/support/unit.h"

#define LANES 4

/* One thread: lanes that count what they are offered. */
static struct places places;
static struct places_lane lanes[LANES];
static struct places_lane *lane_pointers[LANES] = { &lanes[0], &lanes[1], &lanes[2], &lanes[3] };
static unsigned offers[LANES];

static void count_offer(struct places_lane *lane) {
        offers[lane - lanes]++;
}

static void open_places(uint64_t max) {
        places = (struct places){ .max = max, .lanes = lane_pointers, .count = LANES };
        for (unsigned i = 0; i < LANES; i++)
                lanes[i] = (struct places_lane){ .offered = count_offer };
        memset(offers, 0, sizeof(offers));
}

/* Whether a lane that waits since `oldest` gets a place. */
static bool claims(unsigned lane, uint64_t oldest) {
        places_wait(&places, &lanes[lane], oldest);
        return places_claim(&places, &lanes[lane]);
}

START_TEST(no_limit) {
        open_places(0);
        for (unsigned i = 0; i < 1000; i++)
                ck_assert(places_take(&places));
        ck_assert(claims(0, 1));
        ck_assert(!places_give_back(&places, &lanes[0]));
        places_leave(&places, &lanes[0]);
        ck_assert_uint_eq(places_taken(&places), 0);
}
END_TEST

START_TEST(takes_and_gives_back) {
        open_places(2);
        ck_assert(places_take(&places));
        ck_assert(places_take(&places));
        ck_assert(!places_take(&places));
        ck_assert_uint_eq(places_taken(&places), 2);
        ck_assert(!places_give_back(&places, &lanes[0]));
        ck_assert(places_take(&places));
        ck_assert(!places_give_back(&places, NULL));
        ck_assert(!places_give_back(&places, NULL));
        ck_assert_uint_eq(places_taken(&places), 0);
}
END_TEST

/* A place goes to the lane with the oldest request, and stays taken meanwhile. */
START_TEST(given_to_the_oldest) {
        open_places(1);
        ck_assert(places_take(&places));
        ck_assert(!claims(0, 30));
        ck_assert(!claims(1, 10));
        ck_assert(!claims(2, 20));
        ck_assert(!places_give_back(&places, &lanes[0]));
        ck_assert_uint_eq(offers[1], 1);
        ck_assert_uint_eq(offers[0] + offers[2], 0);
        /* A request that is new does not get it, nor does another lane. */
        ck_assert(!places_take(&places));
        ck_assert(!places_claim(&places, &lanes[2]));
        ck_assert_uint_eq(places_taken(&places), 1);
        ck_assert(places_claim(&places, &lanes[1]));
        places_leave(&places, &lanes[1]);
        places_leave(&places, &lanes[1]);

        /* The next oldest is the one that gives it back: it is not offered to it. */
        ck_assert(places_give_back(&places, &lanes[2]));
        ck_assert_uint_eq(offers[2], 0);
        ck_assert(places_claim(&places, &lanes[2]));
        places_leave(&places, &lanes[2]);
        ck_assert(!places_give_back(&places, NULL));
        ck_assert_uint_eq(offers[0], 1);
        ck_assert(places_claim(&places, &lanes[0]));
        places_leave(&places, &lanes[0]);
        ck_assert(!places_give_back(&places, &lanes[0]));
        ck_assert_uint_eq(places_taken(&places), 0);
}
END_TEST

/* While a lane waits a free place is not for new requests. */
START_TEST(waiting_before_new) {
        open_places(2);
        ck_assert(places_take(&places));
        places_wait(&places, &lanes[0], 10);
        ck_assert(!places_take(&places));
        ck_assert(places_claim(&places, &lanes[0]));
        places_leave(&places, &lanes[0]);
        ck_assert(!places_take(&places));
        ck_assert_uint_eq(places_taken(&places), 2);
}
END_TEST

/* A lane that is given a place and has an older one beside it gives it to that one. */
START_TEST(claims_for_an_older_lane) {
        open_places(1);
        ck_assert(places_take(&places));
        ck_assert(!claims(0, 20));
        ck_assert(!places_give_back(&places, NULL));
        ck_assert_uint_eq(offers[0], 1);
        /* Requests that came back from a model are older than those that wait. */
        places_wait(&places, &lanes[1], 10);
        ck_assert(!places_claim(&places, &lanes[0]));
        ck_assert_uint_eq(offers[1], 1);
        ck_assert(places_claim(&places, &lanes[1]));
        places_leave(&places, &lanes[1]);
        ck_assert(!places_give_back(&places, &lanes[1]));
        ck_assert_uint_eq(offers[0], 2);
        ck_assert(places_claim(&places, &lanes[0]));
}
END_TEST

/* The oldest client leaves just as its place comes: the next one gets it. */
START_TEST(departure_passes_on) {
        open_places(1);
        ck_assert(places_take(&places));
        ck_assert(!claims(0, 10));
        ck_assert(!claims(1, 20));
        ck_assert(!places_give_back(&places, &lanes[1]));
        ck_assert_uint_eq(offers[0], 1);
        places_leave(&places, &lanes[0]);
        places_pass_on(&places, &lanes[0]);
        places_pass_on(&places, &lanes[0]);
        ck_assert_uint_eq(offers[1], 1);
        ck_assert(places_claim(&places, &lanes[1]));
        places_leave(&places, &lanes[1]);

        /* Nobody else waits: then it is free. */
        ck_assert(!claims(2, 30));
        ck_assert(!places_give_back(&places, NULL));
        ck_assert_uint_eq(offers[2], 1);
        places_leave(&places, &lanes[2]);
        places_pass_on(&places, &lanes[2]);
        ck_assert_uint_eq(places_taken(&places), 0);
        ck_assert(places_take(&places));
}
END_TEST

/* Several places for one lane: one claim each. */
START_TEST(claims_several) {
        open_places(3);
        for (unsigned i = 0; i < 3; i++)
                ck_assert(places_take(&places));
        ck_assert(!claims(0, 10));
        for (unsigned i = 0; i < 3; i++)
                ck_assert(!places_give_back(&places, NULL));
        ck_assert_uint_eq(offers[0], 3);
        for (unsigned i = 0; i < 3; i++)
                ck_assert(claims(0, 10 + i));
        ck_assert(!claims(0, 13));
        ck_assert_uint_eq(places_taken(&places), 3);
}
END_TEST

/*
 * Threads, each with a lane: requests come, go to a model that there is none of, end, and leave while they wait, at
 * random. What must hold: never more than there are places run at once; every request that stays gets its turn; in the
 * end no place is taken; and a request that is known to all when another one comes is not overtaken by it.
 */
#define REQUESTS 30000
#define QUEUE_SIZE 64

struct torture {
        struct places_lane *lane;
        pthread_t thread;
        sem_t offered;
        uint64_t random;
        /* A ring of waiting requests: when each came, and until when others had come that all knew of by then. */
        uint64_t waiting[QUEUE_SIZE];
        uint64_t before[QUEUE_SIZE];
        unsigned first;
        unsigned count;
        unsigned running;
        uint64_t overtaken;             /* the last one that was noticed */
        unsigned overtakings;
        unsigned started;
        unsigned departed;
};

static struct torture torture[LANES];
static atomic_uint_fast64_t clock_now;
static atomic_uint running;
static atomic_uint most_running;
static atomic_uint done;
static atomic_bool stuck;

static void wake(struct places_lane *lane) {
        sem_post(&torture[lane - lanes].offered);
}

static uint64_t draw(struct torture *t, uint64_t n) {
        t->random = t->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        return (t->random >> 33) % n;
}

/* The oldest request of the other lanes; 0: they have none. */
static uint64_t oldest_elsewhere(const struct torture *t) {
        uint64_t oldest = 0;

        for (unsigned i = 0; i < LANES; i++) {
                uint64_t arrived = atomic_load(&lanes[i].oldest);

                if (&lanes[i] != t->lane && arrived > 0 && (oldest == 0 || arrived < oldest))
                        oldest = arrived;
        }
        return oldest;
}

static void start(struct torture *t, uint64_t before) {
        unsigned now = atomic_fetch_add(&running, 1) + 1, most = atomic_load(&most_running);

        while (now > most && !atomic_compare_exchange_weak(&most_running, &most, now))
                ;
        t->running++;
        t->started++;
        for (unsigned i = 0; i < LANES && before > 0; i++)
                if (atomic_load(&lanes[i].oldest) == before && atomic_load(&lanes[i].given) == 0 && t->overtaken != before) {
                        t->overtaken = before;
                        t->overtakings++;
                }
}

/* As a lane does it: as many as there are places for. */
static void claim(struct torture *t) {
        while (t->count > 0) {
                uint64_t before = t->before[t->first];

                places_wait(&places, t->lane, t->waiting[t->first]);
                if (!places_claim(&places, t->lane))
                        return;
                t->first = (t->first + 1) % QUEUE_SIZE;
                t->count--;
                start(t, before);
        }
        places_leave(&places, t->lane);
        places_pass_on(&places, t->lane);
}

static void arrive(struct torture *t) {
        uint64_t before = oldest_elsewhere(t), arrived = atomic_fetch_add(&clock_now, 1) + 1;

        if (t->count == 0 && places_take(&places)) {
                start(t, before);
                return;
        }
        t->waiting[(t->first + t->count) % QUEUE_SIZE] = arrived;
        t->before[(t->first + t->count) % QUEUE_SIZE] = before;
        t->count++;
        claim(t);
}

static void finish(struct torture *t) {
        atomic_fetch_sub(&running, 1);
        t->running--;
        if (places_give_back(&places, t->lane))
                claim(t);
}

/* The oldest of those that wait leaves. */
static void depart(struct torture *t) {
        t->first = (t->first + 1) % QUEUE_SIZE;
        t->count--;
        t->departed++;
        if (t->count > 0)
                places_wait(&places, t->lane, t->waiting[t->first]);
        else {
                places_leave(&places, t->lane);
                places_pass_on(&places, t->lane);
        }
}

/* Something is offered, or nothing was for so long that it never will be. */
static void wait_for_offer(struct torture *t) {
        struct timespec until;

        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 30;
        while (sem_timedwait(&t->offered, &until) < 0)
                if (errno == ETIMEDOUT) {
                        atomic_store(&stuck, true);
                        return;
                }
        claim(t);
}

static void *torture_run(void *argument) {
        struct torture *t = argument;
        unsigned arrived = 0;

        while (!atomic_load(&stuck) && (arrived < REQUESTS || t->count + t->running > 0)) {
                while (sem_trywait(&t->offered) == 0)
                        claim(t);
                switch (draw(t, 8)) {
                case 0 ... 2:
                        if (arrived < REQUESTS && t->count < QUEUE_SIZE) {
                                arrived++;
                                arrive(t);
                        }
                        break;
                case 3 ... 5:
                        if (t->running > 0)
                                finish(t);
                        break;
                case 6:
                        if (t->count > 0)
                                depart(t);
                        break;
                default:
                        if (t->count > 0 && t->running == 0)
                                wait_for_offer(t);
                        break;
                }
        }
        /* What it is given from now on goes to the others. */
        if (atomic_fetch_add(&done, 1) + 1 == LANES)
                for (unsigned i = 0; i < LANES; i++)
                        sem_post(&torture[i].offered);
        while (atomic_load(&done) < LANES)
                wait_for_offer(t);
        return NULL;
}

START_TEST(threads) {
        const uint64_t max = (uint64_t)_i + 1;
        unsigned overtakings = 0, started = 0, departed = 0;

        open_places(max);
        for (unsigned i = 0; i < LANES; i++) {
                lanes[i].offered = wake;
                torture[i] = (struct torture){ .lane = &lanes[i], .random = 17 * (i + 1) + (uint64_t)_i };
                ck_assert_int_eq(sem_init(&torture[i].offered, 0, 0), 0);
        }
        for (unsigned i = 0; i < LANES; i++)
                ck_assert_int_eq(pthread_create(&torture[i].thread, NULL, torture_run, &torture[i]), 0);
        for (unsigned i = 0; i < LANES; i++) {
                ck_assert_int_eq(pthread_join(torture[i].thread, NULL), 0);
                sem_destroy(&torture[i].offered);
                overtakings += torture[i].overtakings;
                started += torture[i].started;
                departed += torture[i].departed;
        }
        ck_assert_msg(!atomic_load(&stuck), "A request waits, and is offered no place");
        ck_assert_uint_eq(started + departed, LANES * REQUESTS);
        ck_assert_uint_eq(places_taken(&places), 0);
        ck_assert_uint_le(atomic_load(&most_running), max);
        for (unsigned i = 0; i < LANES; i++)
                ck_assert_uint_eq(atomic_load(&lanes[i].given), 0);
        /* A lane that has claimed, and not said yet which request is its oldest now, looks overtaken. */
        ck_assert_msg(overtakings < started / 50, "%u of %u were overtaken", overtakings, started);
}
END_TEST

static Suite *places_suite(void) {
        Suite *suite = suite_create("places");
        TCase *tcase = tcase_create("places"), *with_threads = tcase_create("threads");

        tcase_add_test(tcase, no_limit);
        tcase_add_test(tcase, takes_and_gives_back);
        tcase_add_test(tcase, given_to_the_oldest);
        tcase_add_test(tcase, waiting_before_new);
        tcase_add_test(tcase, claims_for_an_older_lane);
        tcase_add_test(tcase, departure_passes_on);
        tcase_add_test(tcase, claims_several);
        suite_add_tcase(suite, tcase);
        tcase_set_timeout(with_threads, 120);
        tcase_add_loop_test(with_threads, threads, 0, 4);
        suite_add_tcase(suite, with_threads);
        return suite;
}

UNIT_MAIN(places_suite)
