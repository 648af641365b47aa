#include "tests/upstream/load.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "common/number.h"

#define WEIGHTS_SIZE ((size_t)100 << 20)
#define PERCENT (WEIGHTS_SIZE / 100)
#define PAGE 4096

bool load_way(const char *name, enum load_way *way) {
        static const char *const names[] = {
                [LOAD_STATUS] = "status", [LOAD_BAR] = "bar", [LOAD_DOTS] = "dots", [LOAD_READ] = "read", [LOAD_MAP] = "map",
        };

        for (unsigned i = LOAD_STATUS; i <= LOAD_MAP; i++)
                if (strcmp(name, names[i]) == 0) {
                        *way = (enum load_way)i;
                        return true;
                }
        return false;
}

static void rest_until(const struct timespec *begin, uint64_t nsec) {
        const uint64_t due = (uint64_t)begin->tv_nsec + nsec;
        const struct timespec time = { begin->tv_sec + (time_t)(due / NSEC_PER_SEC), (long)(due % NSEC_PER_SEC) };

        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) != 0)
                ;
}

static int open_weights(const char *path) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

        if (fd < 0 || ftruncate(fd, (off_t)WEIGHTS_SIZE) < 0) {
                perror("upstream: weights");
                exit(1);
        }
        close(fd);
        return open(path, O_RDONLY | O_CLOEXEC);
}

/* One percent more. */
static void step(enum load_way way, unsigned percent, int weights, volatile const char *map) {
        static char buffer[PERCENT];

        switch (way) {
        case LOAD_SILENT:
                break;
        case LOAD_STATUS:
                sd_notifyf(0, "STATUS=Reading weights: %u%%", percent);
                break;
        case LOAD_BAR:
                fprintf(stderr, "\rLoading checkpoint shards: %3u%%|%-10.*s| %u/100 [00:01<00:01, 1.00it/s]%s", percent,
                        (int)(percent / 10), "##########", percent, percent == 100 ? "\n" : "");
                break;
        case LOAD_DOTS:
                fputs(percent == 100 ? ".\n" : ".", stderr);
                break;
        case LOAD_READ:
                if (read(weights, buffer, sizeof(buffer)) != (ssize_t)sizeof(buffer))
                        abort();
                break;
        case LOAD_MAP:
                for (size_t i = (percent - 1) * PERCENT; i < percent * PERCENT; i += PAGE)
                        (void)map[i];
                break;
        }
}

void load_run(const struct load *load) {
        const bool has_weights = load->way == LOAD_READ || load->way == LOAD_MAP;
        const int weights = has_weights ? open_weights(load->weights) : -1;
        volatile const char *map = NULL;
        struct timespec begin;

        if (load->way == LOAD_MAP) {
                map = mmap(NULL, WEIGHTS_SIZE, PROT_READ, MAP_SHARED, weights, 0);
                if (map == MAP_FAILED)
                        abort();
        }
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (unsigned percent = 1; load->way != LOAD_SILENT && percent <= 100; percent++) {
                rest_until(&begin, load->time / 100 * percent);
                step(load->way, percent, weights, map);
                while (load->until == percent)
                        pause();
        }
        if (has_weights)
                close(weights);
        rest_until(&begin, load->time + load->warm_up);
}
