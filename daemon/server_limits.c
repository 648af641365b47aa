#include <dirent.h>
#include <inttypes.h>
#include <sched.h>
#include <sys/resource.h>

#include "common/util.h"
#include "daemon/log.h"
#include "daemon/server_inner.h"

#define THREADS_DEFAULT_MAX 8

/* Descriptors that are not for connections: a gate of the next generation, a directory to lock, a client to refuse. */
#define DESCRIPTORS_SPARE 8

unsigned server_count_threads(const struct options *options) {
        cpu_set_t processors;

        if (options->threads > 0)
                return (unsigned)options->threads;
        if (sched_getaffinity(0, sizeof(processors), &processors) < 0)
                return 1;
        return (unsigned)MAX(1, MIN(CPU_COUNT(&processors), THREADS_DEFAULT_MAX));
}

/* How many descriptors are open now. */
static uint64_t count_descriptors(void) {
        DIR *directory = opendir("/proc/self/fd");
        uint64_t n = 0;

        if (!directory)
                return 32;
        while (readdir(directory))
                n++;
        closedir(directory);
        return n;
}

struct rlimit server_given_descriptors(void) {
        struct rlimit limit = { 0 };

        (void)getrlimit(RLIMIT_NOFILE, &limit);
        return limit;
}

uint64_t server_limit_descriptors(void) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return UINT64_MAX;
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
        (void)getrlimit(RLIMIT_NOFILE, &limit);
        return limit.rlim_cur;
}

uint64_t server_limit_connections(const struct options *options, unsigned parking) {
        uint64_t taken = count_descriptors() + DESCRIPTORS_SPARE + parking, limit = server_limit_descriptors();
        uint64_t room = limit > taken ? limit - taken : 1;

        if (options->upstream)
                room = room / 2 + 1;
        if (options->max_connections == 0)
                return room;
        if (options->max_connections > room)
                log_warning("--max-connections %" PRIu64 ": the descriptor limit allows %" PRIu64,
                            options->max_connections, room);
        return MIN(options->max_connections, room);
}
