#include "daemon/queue/wait_list.h"

#include <time.h>

#include "tests/support/unit.h"

#define MANY 100000

static struct wait_list list;
static struct request requests[MANY];

static void offered(struct places_lane *place) {
        ck_assert_ptr_eq(place, &list.place);
}

static struct request *request_at(unsigned i, uint64_t arrived) {
        requests[i].arrived = arrived;
        list_init(&requests[i].lane_link);
        return &requests[i];
}

static void append(unsigned i, uint64_t arrived) {
        list_append(&list.waiting, &request_at(i, arrived)->lane_link);
}

static void come_back(unsigned i, uint64_t arrived) {
        wait_list_return(&list, request_at(i, arrived));
}

/* All are in `waiting`, in the order of arrival. */
static void assert_ordered(unsigned count) {
        uint64_t before = 0;
        unsigned n = 0;

        for (struct list *i = list.waiting.next; i != &list.waiting; i = i->next, n++) {
                uint64_t arrived = container_of(i, struct request, lane_link)->arrived;

                unit_assert(arrived >= before, "%lu comes after %lu", (unsigned long)arrived, (unsigned long)before);
                unit_assert(i->next->previous == i, "The links do not agree");
                before = arrived;
        }
        ck_assert_uint_eq(n, count);
        ck_assert(list_is_empty(&list.returned));
}

START_TEST(empty) {
        wait_list_init(&list, offered);
        ck_assert(wait_list_is_empty(&list));
        ck_assert_uint_eq(wait_list_oldest(&list), 0);
        wait_list_order(&list);
        assert_ordered(0);
}
END_TEST

START_TEST(oldest_of_both) {
        wait_list_init(&list, offered);
        append(0, 10);
        append(1, 20);
        ck_assert_uint_eq(wait_list_oldest(&list), 10);
        come_back(2, 7);
        come_back(3, 5);
        come_back(4, 15);
        ck_assert(!wait_list_is_empty(&list));
        ck_assert_uint_eq(wait_list_oldest(&list), 5);
        wait_list_order(&list);
        assert_ordered(5);
        ck_assert_uint_eq(wait_list_oldest(&list), 5);
        ck_assert_ptr_eq(list.waiting.next, &requests[3].lane_link);
        ck_assert_ptr_eq(list.waiting.previous, &requests[1].lane_link);
}
END_TEST

/* One that leaves before it was sorted in is not missed. */
START_TEST(leaves_unsorted) {
        wait_list_init(&list, offered);
        come_back(0, 3);
        come_back(1, 2);
        list_remove(&requests[1].lane_link);
        wait_list_order(&list);
        assert_ordered(1);
        ck_assert_uint_eq(wait_list_oldest(&list), 3);
        list_remove(&requests[0].lane_link);
        ck_assert(wait_list_is_empty(&list));
        ck_assert_uint_eq(wait_list_oldest(&list), 0);
}
END_TEST

/* Requests of the same time keep their order. */
START_TEST(stable) {
        wait_list_init(&list, offered);
        append(0, 5);
        for (unsigned i = 1; i < 40; i++)
                come_back(i, 5);
        wait_list_order(&list);
        assert_ordered(40);
        for (unsigned i = 1; i < 39; i++)
                ck_assert_ptr_eq(requests[i].lane_link.next, &requests[i + 1].lane_link);
}
END_TEST

static uint64_t forwards(unsigned i) {
        return i + 1;
}

static uint64_t backwards(unsigned i) {
        return MANY - i;
}

static uint64_t at_random(unsigned i) {
        return (i * UINT64_C(6364136223846793005)) >> 40;
}

static uint64_t (*const orders[])(unsigned i) = { forwards, backwards, at_random };

/* A hundred thousand of them, among as many that wait, in well under a second. */
START_TEST(many) {
        clock_t begin = clock();

        wait_list_init(&list, offered);
        for (unsigned i = 0; i < MANY / 2; i++)
                append(i, 2 * i + 1);
        for (unsigned i = MANY / 2; i < MANY; i++)
                come_back(i, orders[_i](i));
        wait_list_order(&list);
        assert_ordered(MANY);
        ck_assert_msg(clock() - begin < CLOCKS_PER_SEC, "This took %ld ms", (long)(clock() - begin) * 1000 / CLOCKS_PER_SEC);
}
END_TEST

static Suite *wait_list_suite(void) {
        Suite *suite = suite_create("wait_list");
        TCase *tcase = tcase_create("wait_list");

        tcase_set_timeout(tcase, 60);
        tcase_add_test(tcase, empty);
        tcase_add_test(tcase, oldest_of_both);
        tcase_add_test(tcase, leaves_unsorted);
        tcase_add_test(tcase, stable);
        unit_add_table(tcase, many, orders);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(wait_list_suite)
