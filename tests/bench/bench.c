/*
 * What msd costs, beside the least that any server can do (floor.c) and the exercise's own solution in
 * asyncio (reference.py), measured side by side: the same client, the same definition of each figure, and the
 * servers take turns, so that what else the machine does hits all alike. Each figure is the median of the
 * rounds.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"
#include "tests/bench/held.h"
#include "tests/bench/loop.h"
#include "tests/bench/server.h"

#define ROUNDS 3
#define ROUNDS_MAX 99
#define LOAD_MAX 240.0
#define LOOP_SECONDS 3.0
#define IDLE_SECONDS 10.0
#define STARTS 20
/* Descriptors that each side needs beside its connections. */
#define OTHER_DESCRIPTORS 64

struct bench {
        struct server_programs programs;
        unsigned rounds;
        unsigned connections_max;
};

static int compare(const void *a, const void *b) {
        double x = *(const double *)a, y = *(const double *)b;

        return (x > y) - (x < y);
}

/* Sorts the figures. */
static double median(double figures[], unsigned count) {
        qsort(figures, count, sizeof(*figures), compare);
        return (figures[(count - 1) / 2] + figures[count / 2]) / 2;
}

/* The member at `offset`, a double, of each of the structs: their median. */
static double median_of(const void *structs, size_t size, size_t offset, unsigned count) {
        double figures[ROUNDS_MAX];

        for (unsigned i = 0; i < count; i++)
                memcpy(&figures[i], (const char *)structs + i * size + offset, sizeof(double));
        return median(figures, count);
}

/* In each round another server is the first, of so many. */
static enum server_kind turn(unsigned round, unsigned i, unsigned kinds) {
        return (enum server_kind)((round + i) % kinds);
}

static int failed(const char *what, enum server_kind kind, int r) {
        /* After a signal everybody knows. */
        if (r != -EINTR)
                fprintf(stderr, "bench: %s, %s: %s\n", what, server_kind_name(kind), strerror(-r));
        return r;
}

static void scale(const struct bench *bench, const char *name, struct held_shape *shape) {
        if (shape->connections <= bench->connections_max)
                return;
        printf("%s: scaled down from %u connections to %u, for the limit of open files.\n", name,
               shape->connections, bench->connections_max);
        shape->connections = bench->connections_max;
}

static int run_held(const struct bench *bench, const char *name, struct held_shape shape, const double first_loads[],
                    enum server_kind kinds) {
        static struct held_figures figures[SERVER_KIND_MAX][ROUNDS_MAX];
        struct held_figures medians[SERVER_KIND_MAX];
        double loads[SERVER_KIND_MAX];

        memcpy(loads, first_loads, kinds * sizeof(*loads));
        scale(bench, name, &shape);
        for (unsigned round = 0; round < bench->rounds; round++)
                for (unsigned i = 0; i < kinds; i++) {
                        enum server_kind kind = turn(round, i, kinds);
                        int r;

                        while ((r = held_measure(&bench->programs, kind, &shape, loads[kind],
                                                 &figures[kind][round])) == HELD_TOO_SOON &&
                               loads[kind] < LOAD_MAX)
                                loads[kind] *= 2;
                        if (r != 0)
                                return failed(name, kind, r > 0 ? -ETIME : r);
                }

        printf("%s: %u connections, %u request%s each, released together%s\n\n", name, shape.connections, shape.requests,
               shape.requests > 1 ? "s" : "", kinds > SERVER_MSD_ONE ? "; msd-1: msd with one worker" : "");
        printf("  %-8s %12s %12s %6s %12s %6s %11s %11s\n", "", "first answer", "last answer", "ratio",
               "CPU/request", "ratio", "memory/", shape.requests > 1 ? "memory/" : "");
        printf("  %-8s %12s %12s %6s %12s %6s %11s %11s\n", "", "ms", "ms", "", "us", "", "connection",
               shape.requests > 1 ? "further" : "");
        for (enum server_kind kind = 0; kind < kinds; kind++) {
                struct held_figures *m = &medians[kind], *floor = &medians[SERVER_FLOOR];

#define MEDIAN(member)                                                  \
        (m->member = median_of(figures[kind], sizeof(figures[kind][0]), \
                               offsetof(struct held_figures, member), bench->rounds))
                MEDIAN(first_ms);
                MEDIAN(last_ms);
                MEDIAN(cpu_us);
                MEDIAN(connection_bytes);
                MEDIAN(request_bytes);
#undef MEDIAN
                printf("  %-8s %12.2f %12.1f %6.2f %12.3f %6.2f %11.0f", server_kind_name(kind), m->first_ms,
                       m->last_ms, m->last_ms / floor->last_ms, m->cpu_us, m->cpu_us / floor->cpu_us,
                       m->connection_bytes);
                if (shape.requests > 1)
                        printf(" %11.0f", m->request_bytes);
                printf("\n");
        }
        printf("\n");
        return 0;
}

static int run_herd(const struct bench *bench) {
        static const double loads[] = { 2, 2, 4, 2 };

        return run_held(bench, "herd", (struct held_shape){ .connections = 15000, .requests = 1 }, loads,
                        SERVER_MSD_ONE + 1);
}

static int run_pipe(const struct bench *bench) {
        static const double loads[SERVER_KIND_COUNT] = { 4, 4, 30 };

        return run_held(bench, "pipe", (struct held_shape){ .connections = 2000, .requests = 500 }, loads, SERVER_KIND_COUNT);
}

static int run_loop(const struct bench *bench) {
        static const unsigned connections[] = { 1, 64, 1000 };
        static struct loop_figures figures[ARRAY_SIZE(connections)][SERVER_KIND_MAX][ROUNDS_MAX];

        for (unsigned round = 0; round < bench->rounds; round++)
                for (size_t c = 0; c < ARRAY_SIZE(connections); c++)
                        for (unsigned i = 0; i < SERVER_KIND_MAX; i++) {
                                enum server_kind kind = turn(round, i, SERVER_KIND_MAX);
                                int r = loop_measure(&bench->programs, kind,
                                                     MIN(connections[c], bench->connections_max),
                                                     LOOP_SECONDS, &figures[c][kind][round]);

                                if (r < 0)
                                        return failed("loop", kind, r);
                        }

        printf("loop: a ready model, one request in flight on each connection;\n"
               "msd-1, floor-1: with one thread, and one of clients\n\n");
        printf("  %-8s %11s %12s %6s %12s %9s %9s\n", "", "connections", "requests/s", "ratio",
               "CPU/request us", "p50 us", "p99 us");
        for (size_t c = 0; c < ARRAY_SIZE(connections); c++)
                for (enum server_kind kind = 0; kind < SERVER_KIND_MAX; kind++) {
#define MEDIAN(kind, member)                                                                            \
        median_of(figures[c][kind], sizeof(figures[c][kind][0]), offsetof(struct loop_figures, member), \
                  bench->rounds)
                        printf("  %-8s %11u %12.0f %6.2f %14.2f %9.0f %9.0f\n", server_kind_name(kind),
                               MIN(connections[c], bench->connections_max), MEDIAN(kind, rate),
                               MEDIAN(kind, rate) / MEDIAN(kind == SERVER_MSD_ONE ? SERVER_FLOOR_ONE : SERVER_FLOOR, rate),
                               MEDIAN(kind, cpu_us),
                               MEDIAN(kind, p50_us), MEDIAN(kind, p99_us));
#undef MEDIAN
                }
        printf("\n");
        return 0;
}

static int run_idle(const struct bench *bench) {
        struct held_shape shape = { .connections = 10000, .requests = 1 };

        scale(bench, "idle", &shape);
        printf("idle: context switches in %.0f s while %u requests wait\n\n", IDLE_SECONDS,
               shape.connections);
        for (enum server_kind kind = 0; kind < SERVER_KIND_COUNT; kind++) {
                double load = 30;
                uint64_t switches;
                int r;

                while ((r = held_count_switches(&bench->programs, kind, &shape, load, IDLE_SECONDS,
                                                &switches)) == HELD_TOO_SOON &&
                       load < LOAD_MAX)
                        load *= 2;
                if (r != 0)
                        return failed("idle", kind, r > 0 ? -ETIME : r);
                printf("  %-8s %6" PRIu64 "\n", server_kind_name(kind), switches);
        }
        printf("\n");
        return 0;
}

static int run_start(const struct bench *bench) {
        double from_fork[SERVER_KIND_COUNT][STARTS], from_exec[SERVER_KIND_COUNT][STARTS];

        for (unsigned i = 0; i < STARTS; i++)
                for (enum server_kind kind = 0; kind < SERVER_KIND_COUNT; kind++) {
                        struct server server;
                        int r = server_start(&server, &bench->programs, kind, 1);

                        if (r == 0)
                                r = server_await_socket(&server);
                        from_fork[kind][i] =
                                (double)(server.connected - server.forked) / (double)NSEC_PER_MSEC;
                        from_exec[kind][i] =
                                (double)(server.connected - server.executed) / (double)NSEC_PER_MSEC;
                        server_stop(&server);
                        if (r < 0)
                                return failed("start", kind, r);
                }

        printf("start: until connect(2) succeeds, median of %d\n\n", STARTS);
        printf("  %-8s %12s %12s\n", "", "from fork ms", "from exec ms");
        for (enum server_kind kind = 0; kind < SERVER_KIND_COUNT; kind++)
                printf("  %-8s %12.2f %12.2f\n", server_kind_name(kind), median(from_fork[kind], STARTS),
                       median(from_exec[kind], STARTS));
        printf("\n");
        return 0;
}

static const struct {
        const char *name;
        int (*run)(const struct bench *bench);
} shapes[] = {
        { "herd", run_herd },
        { "pipe", run_pipe },
        { "loop", run_loop },
        { "idle", run_idle },
        { "start", run_start },
};

static int usage(void) {
        fprintf(stderr,
                "Usage: bench MSD FLOOR REFERENCE [--shape herd|pipe|loop|idle|start|all] [--rounds N]\n");
        return 2;
}

static void interrupted(int signal) {
        /* Whatever waits ends with EINTR, and everything is cleaned up on the way out. */
        (void)signal;
}

static unsigned raise_descriptor_limit(void) {
        struct rlimit limit = { 0 };

        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        getrlimit(RLIMIT_NOFILE, &limit);
        return limit.rlim_cur > OTHER_DESCRIPTORS
                       ? (unsigned)MIN(limit.rlim_cur - OTHER_DESCRIPTORS, (rlim_t)1 << 20)
                       : 1;
}

static void remove_directory(const char *path) {
        DIR *directory = opendir(path);
        const struct dirent *entry;

        while (directory && (entry = readdir(directory)))
                (void)unlinkat(dirfd(directory), entry->d_name, 0);
        if (directory)
                closedir(directory);
        rmdir(path);
}

int main(int argc, char *argv[]) {
        static const struct option options[] = {
                { "shape", required_argument, NULL, 's' },
                { "rounds", required_argument, NULL, 'r' },
                { NULL, 0, NULL, 0 },
        };
        struct sigaction action = { .sa_handler = interrupted };
        const char *shape = "all", *parent = getenv("TMPDIR");
        struct bench bench = { .rounds = ROUNDS };
        char directory[64];
        struct utsname system;
        uint64_t number;
        bool known = false;
        int c, r = 0;

        while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
                switch (c) {
                case 's':
                        shape = optarg;
                        break;
                case 'r':
                        if (number_parse(optarg, strlen(optarg), ROUNDS_MAX, &number) != 0 || number == 0)
                                return usage();
                        bench.rounds = (unsigned)number;
                        break;
                default:
                        return usage();
                }
        for (size_t i = 0; i < ARRAY_SIZE(shapes); i++)
                known = known || strcmp(shape, shapes[i].name) == 0;
        if (argc - optind != 3 || (!known && strcmp(shape, "all") != 0))
                return usage();
        bench.programs.paths[SERVER_MSD] = argv[optind];
        bench.programs.paths[SERVER_MSD_ONE] = argv[optind];
        bench.programs.paths[SERVER_FLOOR] = argv[optind + 1];
        bench.programs.paths[SERVER_FLOOR_ONE] = argv[optind + 1];
        bench.programs.paths[SERVER_REFERENCE] = argv[optind + 2];
        bench.connections_max = raise_descriptor_limit();

        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        sigaction(SIGHUP, &action, NULL);
        r = snprintf(directory, sizeof(directory), "%s/msd-bench.XXXXXX",
                     parent && *parent ? parent : "/tmp");
        if (r < 0 || (size_t)r >= sizeof(directory) || !mkdtemp(directory)) {
                fprintf(stderr, "bench: cannot make a temporary directory\n");
                return EXIT_FAILURE;
        }
        bench.programs.directory = directory;

        setvbuf(stdout, NULL, _IOLBF, 0);
        uname(&system);
        printf("%ld processors, %s %s, %s; medians of %u rounds; ratios are to the floor.\n\n",
               sysconf(_SC_NPROCESSORS_ONLN), system.sysname, system.release, system.machine, bench.rounds);
        r = 0;
        for (size_t i = 0; i < ARRAY_SIZE(shapes) && r == 0; i++)
                if (strcmp(shape, "all") == 0 || strcmp(shape, shapes[i].name) == 0)
                        r = shapes[i].run(&bench);
        remove_directory(directory);
        return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
