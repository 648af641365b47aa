#include "daemon/model/reading.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/unit.h"

#define SIZE (UINT64_C(64) << 20)

static struct reading reading;
static char directory[] = "/tmp/msd-reading.XXXXXX";
static char buffer[1 << 20];

static int open_file(const char *name, int flags) {
        int fd;

        fd = open(name, flags | O_CREAT | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(truncate(name, (off_t)SIZE), 0);
        return fd;
}

static char *name_of(const char *name) {
        static char whole[64];

        snprintf(whole, sizeof(whole), "%s/%s", directory, name);
        return whole;
}

static void setup(void) {
        memcpy(directory + sizeof(directory) - 7, "XXXXXX", 6);
        ck_assert_ptr_nonnull(mkdtemp(directory));
        reading_init(&reading);
}

static void teardown(void) {
        static const char *const names[] = { "model", "log", "m-00001-of-00004.gguf", "m-00002-of-00004.gguf" };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                (void)unlink(name_of(names[i]));
        ck_assert_int_eq(rmdir(directory), 0);
}

static bool look(uint64_t *read, uint64_t *size) {
        reading_begin(&reading);
        reading_add(&reading, getpid());
        return reading_end(&reading, read, size);
}

START_TEST(a_file_that_is_read) {
        uint64_t read_bytes, size;
        int fd, log;

        ck_assert(!look(&read_bytes, &size));
        /* What was read before, and files that are written to, do not count. */
        fd = open_file(name_of("log"), O_RDONLY);
        ck_assert_int_eq(read(fd, buffer, sizeof(buffer)), sizeof(buffer));
        close(fd);
        ck_assert(!look(&read_bytes, &size));
        log = open_file(name_of("log"), O_RDWR);
        ck_assert(!look(&read_bytes, &size));

        fd = open_file(name_of("model"), O_RDONLY);
        ck_assert(look(&read_bytes, &size));
        ck_assert_uint_eq(size, SIZE);
        ck_assert_uint_lt(read_bytes, sizeof(buffer));
        for (unsigned i = 0; i < 16; i++)
                ck_assert_int_eq(read(fd, buffer, sizeof(buffer)), sizeof(buffer));
        ck_assert(look(&read_bytes, &size));
        ck_assert_uint_ge(read_bytes, SIZE / 4);
        ck_assert_uint_lt(read_bytes, SIZE / 4 + sizeof(buffer));
        /* Once it is closed it was a file of the model still; and nobody reads more than all. */
        for (unsigned i = 0; i < 100; i++)
                ck_assert_int_eq(pread(fd, buffer, sizeof(buffer), 0), sizeof(buffer));
        close(fd);
        ck_assert(look(&read_bytes, &size));
        ck_assert_uint_eq(read_bytes, SIZE);
        close(log);
}
END_TEST

START_TEST(a_file_that_is_mapped) {
        uint64_t read_bytes, size;
        volatile const char *map;
        unsigned sum = 0;
        int fd;

        ck_assert(!look(&read_bytes, &size));
        fd = open_file(name_of("model"), O_RDONLY);
        map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
        ck_assert(map != MAP_FAILED);
        for (uint64_t i = 0; i < SIZE / 2; i += 4096)
                sum += (unsigned char)map[i];
        ck_assert_uint_eq(sum, 0);
        ck_assert(look(&read_bytes, &size));
        ck_assert_uint_ge(read_bytes, SIZE / 2 - SIZE / 16);
        ck_assert_uint_le(read_bytes, SIZE / 2 + SIZE / 16);
        munmap((void *)(uintptr_t)map, SIZE);
        close(fd);
}
END_TEST

/* Its descriptor is closed, as llama.cpp does it. */
START_TEST(a_file_that_is_mapped_and_closed) {
        uint64_t read_bytes, size;
        volatile const char *map;
        unsigned sum = 0;
        int fd;

        ck_assert(!look(&read_bytes, &size));
        fd = open_file(name_of("model"), O_RDONLY);
        map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
        ck_assert(map != MAP_FAILED);
        close(fd);
        for (uint64_t i = 0; i < SIZE / 2; i += 4096)
                sum += (unsigned char)map[i];
        ck_assert_uint_eq(sum, 0);
        ck_assert(look(&read_bytes, &size));
        ck_assert_uint_eq(size, SIZE);
        ck_assert_uint_ge(read_bytes, SIZE / 2 - SIZE / 16);
        ck_assert_uint_le(read_bytes, SIZE / 2 + SIZE / 16);
        munmap((void *)(uintptr_t)map, SIZE);
}
END_TEST

/* Of four files two are known: all together are twice as large. */
START_TEST(a_set) {
        uint64_t read_bytes, size;
        int one = open_file(name_of("m-00001-of-00004.gguf"), O_RDONLY);
        int two = open_file(name_of("m-00002-of-00004.gguf"), O_RDONLY);

        ck_assert(look(&read_bytes, &size));
        ck_assert_uint_eq(size, 4 * SIZE);
        close(one);
        close(two);
}
END_TEST

START_TEST(a_process_that_is_gone) {
        uint64_t read_bytes, size;

        reading_begin(&reading);
        reading_add(&reading, 0x7ffffffe);
        ck_assert(!reading_end(&reading, &read_bytes, &size));
}
END_TEST

START_TEST(names) {
        ck_assert_uint_eq(reading_count_parts("/m/model-00002-of-00005.gguf"), 5);
        ck_assert_uint_eq(reading_count_parts("model-00001-of-000163.safetensors"), 163);
        ck_assert_uint_eq(reading_count_parts("model-1-of-1234567"), 1);
        ck_assert_uint_eq(reading_count_parts("best-of-5.gguf"), 1);
        ck_assert_uint_eq(reading_count_parts("/1-of-3/model-1-of-2"), 2);
        ck_assert_uint_eq(reading_count_parts("-of-3"), 1);
        ck_assert_uint_eq(reading_count_parts("1-of-0"), 1);
        ck_assert_uint_eq(reading_count_parts(""), 1);
}
END_TEST

static Suite *reading_suite(void) {
        Suite *suite = suite_create("reading");
        TCase *tcase = tcase_create("reading");

        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_test(tcase, a_file_that_is_read);
        tcase_add_test(tcase, a_file_that_is_mapped);
        tcase_add_test(tcase, a_file_that_is_mapped_and_closed);
        tcase_add_test(tcase, a_set);
        tcase_add_test(tcase, a_process_that_is_gone);
        tcase_add_test(tcase, names);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(reading_suite)
