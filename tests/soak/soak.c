/*
 * Load and time: every kind of client at once, models that die at random, connections at their limit; and at the end the
 * daemon has to be what it was, and every request accounted for.
 *
 *      soak [--minutes N] [--seed N] [--many N] MSD MODEL_SERVER
 *
 *      --minutes N     so long, and until the round that it is in has ended (5)
 *      --seed N        what chance decides goes the same way again
 *      --many N        so many requests have those together, in each round, that ask for a million (1000000)
 *
 * Two daemons are under it side by side: one with the simulated model and fewer connections than there are clients, one with
 * the tests' own model server, which is killed again and again, while it loads too. A round is a leg with all kinds of
 * clients, and one with those that stay, in which everything is known: what the clients have sent and heard has to be what the
 * daemon counts. Behind each, and at the end
 *
 *      - every client that stayed has exactly one answer to each of its commands, and the right one;
 *      - accepted = completed + failed + cancelled, as the daemon counts them;
 *      - descriptors and threads are as after the first rounds, and memory has not grown.
 *
 * Time has an influence on how much gets done, not on what is right.
 */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/soak/client.h"
#include "tests/support/clock.h"
#include "tests/support/port.h"

/* A leg that lasts does not do more than a few of them. */
#define LEG_MAX (10 * NSEC_PER_SEC)
#define LEGS_MIN 12

/* The first rounds have one of each kind in them: what the daemon takes once, it has then. */
#define WARM_UP 2
#define ROUNDS_MIN (WARM_UP + 1)

/* Nothing was answered for so long, on whatever machine: nothing will be. */
#define PATIENCE (180 * NSEC_PER_SEC)

/* At the descriptors. */
#define LOOKS 3

#define EVENTS 256
#define SERIALS 10000000
#define ROUNDS_MAX 4096

enum { SIM, UPSTREAM, SITES };

/* How many there are of each at a time; of those that ask for a million, in a round. */
static const unsigned crowd[SITES][CHARACTER_COUNT] = {
        [SIM] = {
                [CHARACTER_PIPELINER] = 24, [CHARACTER_STREAMER] = 8, [CHARACTER_HALF_CLOSER] = 12, [CHARACTER_VANISHER] = 32,
                [CHARACTER_SLOW] = 8, [CHARACTER_DEAF] = 6, [CHARACTER_MILLION] = 16, [CHARACTER_BIG] = 4, [CHARACTER_ASKER] = 6,
                [CHARACTER_PASSER] = 64, [CHARACTER_WEB_KEEPER] = 12, [CHARACTER_WEB_HALF_CLOSER] = 16,
                [CHARACTER_WEB_VANISHER] = 24, [CHARACTER_WEB_SLOW] = 8, [CHARACTER_WEB_DEAF] = 6, [CHARACTER_WEB_BIG] = 4,
                [CHARACTER_WEB_CHUNKER] = 6, [CHARACTER_WEB_OLD] = 6,
        },
        [UPSTREAM] = {
                [CHARACTER_PIPELINER] = 6, [CHARACTER_STREAMER] = 6, [CHARACTER_HALF_CLOSER] = 6, [CHARACTER_VANISHER] = 16,
                [CHARACTER_SLOW] = 4, [CHARACTER_DEAF] = 3, [CHARACTER_BIG] = 2, [CHARACTER_ASKER] = 4,
                [CHARACTER_PASSER] = 16, [CHARACTER_WEB_KEEPER] = 6, [CHARACTER_WEB_HALF_CLOSER] = 12,
                [CHARACTER_WEB_VANISHER] = 12, [CHARACTER_WEB_LATE] = 4, [CHARACTER_WEB_DEAF] = 3, [CHARACTER_WEB_BIG] = 2,
                [CHARACTER_WEB_CHUNKER] = 6, [CHARACTER_WEB_OLD] = 6, [CHARACTER_WEB_SOCKET] = 6,
        },
};

/* What the clients have seen, and the daemon has counted, when a leg began. */
struct mark {
        struct tally tally;
        struct account account;
};

static struct {
        struct site sites[SITES];
        struct mark marks[SITES];
        struct client *clients;
        size_t count;
        uint64_t *lives;        /* of each */
        int epoll_fd;
        uint64_t seed;
        uint64_t many;
        struct chance chance;
        uint64_t next_kill;
        uint64_t next_look;
        uint64_t next_word;     /* to a terminal */
        uint64_t began;
        uint64_t memory[SITES][ROUNDS_MAX];
        char directory[ADDRESS_PATH_MAX];
} soak;

static void clean_up(void) {
        char command[2 * ADDRESS_PATH_MAX + 64];

        for (unsigned i = 0; i < SITES; i++)
                site_kill(&soak.sites[i]);
        if (!soak.directory[0])
                return;
        /* What the daemons said last. */
        for (unsigned i = 0; i < SITES && soak_wrongs > 0; i++)
                if (soak.sites[i].name) {
                        snprintf(command, sizeof(command), "tail -n 20 '%s' | sed 's/^/%s: /' >&2", soak.sites[i].log,
                                 soak.sites[i].name);
                        (void)!system(command);
                }
        snprintf(command, sizeof(command), "rm -rf '%s'", soak.directory);
        (void)!system(command);
}

void soak_fail(const char *what) {
        fprintf(stderr, "soak: %s: %s\n", what, strerror(errno));
        soak_wrongs++;
        clean_up();
        exit(1);
}

static bool is_of_round(const struct client *client) {
        return client->character == CHARACTER_MILLION;
}

/* Whether it may come in a leg of those that stay; or `first` of all in one with everybody. */
static bool may_come(const struct client *client, bool first, bool stays) {
        if (is_of_round(client))
                return first && !stays;
        return client->character != CHARACTER_WEB_LATE || !stays;
}

static void renew(size_t i, bool stays, uint64_t now) {
        client_plan(&soak.clients[i], soak.seed, i * SERIALS + ++soak.lives[i], stays);
        client_come(&soak.clients[i], now);
}

static void make_crowd(void) {
        for (unsigned i = 0; i < SITES; i++)
                for (unsigned j = 0; j < CHARACTER_COUNT; j++)
                        soak.count += crowd[i][j];
        soak.clients = calloc(soak.count, sizeof(*soak.clients));
        soak.lives = calloc(soak.count, sizeof(*soak.lives));
        soak.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (!soak.clients || !soak.lives || soak.epoll_fd < 0)
                soak_fail("memory");
        soak.count = 0;
        for (unsigned i = 0; i < SITES; i++)
                for (unsigned j = 0; j < CHARACTER_COUNT; j++)
                        for (unsigned n = 0; n < crowd[i][j]; n++)
                                soak.clients[soak.count++] = (struct client){
                                        .site = &soak.sites[i],
                                        .character = (enum character)j,
                                        .epoll_fd = soak.epoll_fd,
                                        .fd = -1,
                                        .due = UINT64_MAX,
                                };
}

/* What is done beside the clients: the model dies, is loaded again, and the status is looked at. */
static void attend(uint64_t now, bool kills) {
        struct account account;

        if (kills && now >= soak.next_kill) {
                if (soak.next_kill > 0)
                        site_kill_model(&soak.sites[UPSTREAM]);
                soak.next_kill = now + chance_between(&soak.chance, 50 * NSEC_PER_MSEC, 2500 * NSEC_PER_MSEC);
        }
        if (now < soak.next_look)
                return;
        soak.next_look = now + 100 * NSEC_PER_MSEC;
        if (now >= soak.next_word && isatty(STDOUT_FILENO)) {
                struct tally sum = site_sum(&soak.sites[SIM]);

                sum.sent += site_sum(&soak.sites[UPSTREAM]).sent;
                soak.next_word = now + 2 * NSEC_PER_SEC;
                printf("\r\033[K%5.0f s, %" PRIu64 " requests\r", (double)(now - soak.began) / (double)NSEC_PER_SEC, sum.sent);
                fflush(stdout);
        }
        (void)site_load(&soak.sites[UPSTREAM]);
        for (unsigned i = 0; i < SITES; i++)
                site_status(&soak.sites[i], &account);
}

/* One turn of the loop. `ticks`: those that are slow go on. */
static void turn(bool ticks) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(soak.epoll_fd, events, EVENTS, 5);
        uint64_t now = clock_now();

        if (n < 0 && errno != EINTR)
                soak_fail("epoll_wait");
        for (int i = 0; i < n; i++)
                client_ready(events[i].data.ptr, events[i].events, now);
        for (size_t i = 0; i < soak.count; i++)
                if (now >= soak.clients[i].due && (ticks || !client_is_slow(&soak.clients[i])))
                        client_due(&soak.clients[i], now);
}

static uint64_t progress(void) {
        uint64_t n = 0;

        for (unsigned i = 0; i < SITES; i++) {
                struct tally sum = site_sum(&soak.sites[i]);

                n += sum.lives + sum.answered + tally_failed(&sum) + sum.refused + sum.others - soak.sites[i].tallies[CHARACTER_SOAK].others;
        }
        return n;
}

static bool is_under_way(const struct client *client) {
        return client_is_here(client) && !(client_is_slow(client) && client->fd >= 0 && client_is_quiet(client));
}

/* Until everybody has what they wait for, and has gone; those that are slow stay. */
static void drain(void) {
        uint64_t deadline = clock_now() + PATIENCE, before = progress(), now;
        bool left = true;

        while (left) {
                turn(false);
                now = clock_now();
                attend(now, false);
                left = false;
                for (size_t i = 0; i < soak.count && !left; i++)
                        left = is_under_way(&soak.clients[i]);
                if (progress() != before) {
                        before = progress();
                        deadline = now + PATIENCE;
                }
                if (!left || now < deadline)
                        continue;
                for (size_t i = 0; i < soak.count; i++)
                        if (is_under_way(&soak.clients[i])) {
                                client_describe(&soak.clients[i]);
                                client_drop(&soak.clients[i]);
                        }
                return;
        }
}

static uint64_t count_here(const struct site *site) {
        uint64_t n = 1;

        for (size_t i = 0; i < soak.count; i++)
                n += soak.clients[i].site == site && soak.clients[i].fd >= 0;
        return n;
}

static void expect(const struct site *site, uint64_t low, uint64_t value, uint64_t high, const char *what) {
        if (value >= low && value <= high)
                return;
        if (low == high)
                soak_wrong(site, "%s: %" PRIu64 ", and it has to be %" PRIu64, what, value, low);
        else
                soak_wrong(site, "%s: %" PRIu64 ", and it has to be within %" PRIu64 " and %" PRIu64, what, value, low, high);
}

/* Nothing is under way: holds what the daemon counts against itself, and against what the clients have seen. */
static void check_accounts(unsigned i, bool all_known) {
        struct site *site = &soak.sites[i];
        struct mark *mark = &soak.marks[i];
        struct tally sum = site_sum(site);
        const uint64_t failed = tally_failed(&sum);
        struct account account;

        site_wait_until_idle(site, count_here(site));
        site_metrics(site, &account);
        expect(site, account.completed + account.failed + account.cancelled,
               account.accepted, account.completed + account.failed + account.cancelled,
               "Accepted, against completed + failed + cancelled");
        expect(site, 0, account.waiting + account.processing, 0, "Waiting and with the model, when everybody has gone");
        expect(site, sum.answered + failed, sum.sent - sum.left, sum.answered + failed, "Requests of clients that stayed, against their answers");
        /* What became of the requests of those that went only the daemon knows. */
        expect(site, sum.sent - sum.left, account.accepted, sum.sent, "Accepted, against what clients have sent");
        expect(site, sum.answered, account.completed, sum.answered + sum.left, "Completed, against what clients have heard");
        expect(site, failed, account.failed, failed + sum.left, "Failed, against what clients have heard");
        expect(site, 0, account.cancelled, sum.left, "Cancelled, against those of clients that went");
        if (all_known) {
                const struct tally *before = &mark->tally;
                uint64_t n = sum.sent - before->sent;

                expect(site, n, account.accepted - mark->account.accepted, n, "Accepted in a leg without anybody that goes");
                n = sum.answered - before->answered;
                expect(site, n, account.completed - mark->account.completed, n, "Completed in a leg without anybody that goes");
                n = failed - tally_failed(before);
                expect(site, n, account.failed - mark->account.failed, n, "Failed in a leg without anybody that goes");
                expect(site, 0, account.cancelled - mark->account.cancelled, 0, "Cancelled in a leg without anybody that goes");
        }
        mark->tally = sum;
        mark->account = account;
}

static void leg(uint64_t length, bool stays) {
        uint64_t now = clock_now(), until = now + length;
        bool first = true;

        for (; now < until || first; now = clock_now(), first = false) {
                for (size_t i = 0; i < soak.count; i++)
                        if (!client_is_here(&soak.clients[i]) && may_come(&soak.clients[i], first, stays))
                                renew(i, stays, now);
                turn(true);
                attend(now, true);
        }
        drain();
        for (unsigned i = 0; i < SITES; i++)
                check_accounts(i, stays);
}

static void print_round(unsigned round) {
        printf("%3u %5.0f s", round, (double)(clock_now() - soak.began) / (double)NSEC_PER_SEC);
        for (unsigned i = 0; i < SITES; i++) {
                const struct account *account = &soak.marks[i].account;
                struct size size;

                site_measure(&soak.sites[i], &size);
                soak.memory[i][round] = size.memory;
                printf(" | %-8s %9" PRIu64 " = %9" PRIu64 " + %8" PRIu64 " + %7" PRIu64 ", %4" PRIu64 " deaths, %7.2f MiB",
                       soak.sites[i].name, account->accepted, account->completed, account->failed, account->cancelled,
                       soak.sites[i].deaths, (double)size.memory / (1 << 20));
        }
        printf("\n");
        fflush(stdout);
}

static void print_table(const struct site *site) {
        struct tally sum = site_sum(site);

        printf("\n%s: %" PRIu64 " clients at once at the most, of %" PRIu64 "; the slowest status took %.1f ms\n\n", site->name,
               site->most_connections, site->max_connections, (double)site->slowest_status / (double)NSEC_PER_MSEC);
        printf("%-28s %8s %9s %9s %8s %8s %8s %8s %6s %8s %8s %8s\n", "", "clients", "requests", "answered", "full", "load", "timed",
               "infer.", "cut", "gone", "refused", "others");
        for (unsigned i = 0; i <= CHARACTER_COUNT; i++) {
                const struct tally *tally = i < CHARACTER_COUNT ? &site->tallies[i] : &sum;

                if (tally->lives == 0 && i != CHARACTER_SOAK)
                        continue;
                printf("%-28s %8" PRIu64 " %9" PRIu64 " %9" PRIu64 " %8" PRIu64 " %8" PRIu64 " %8" PRIu64 " %8" PRIu64 " %6" PRIu64
                       " %8" PRIu64 " %8" PRIu64 " %8" PRIu64 "\n",
                       i < CHARACTER_COUNT ? character_names[i] : "all", tally->lives, tally->sent, tally->answered,
                       tally->errors[PROTOCOL_QUEUE_FULL], tally->errors[PROTOCOL_LOAD_FAILED], tally->errors[PROTOCOL_TIMED_OUT],
                       tally->errors[PROTOCOL_INFERENCE_FAILED], tally->cut, tally->left, tally->refused, tally->others);
        }
}

static uint64_t least(const uint64_t *values, unsigned begin, unsigned end) {
        uint64_t value = values[begin];

        for (unsigned i = begin + 1; i < end; i++)
                value = MIN(value, values[i]);
        return value;
}

/*
 * What is lost in a round is lost in each, so the least that the daemon had behind a round of the second half is compared with
 * the least of the first: what stands out is chance. Between two rounds the heaps of the workers differ by where in them what
 * is there happens to be; that is less than this.
 */
#define GROWTH_MAX (2u << 20)

static void check_memory(unsigned i, unsigned rounds) {
        const struct site *site = &soak.sites[i];
        /* Of three rounds the first has to do. */
        unsigned begin = MIN((unsigned)WARM_UP, rounds - 2), half = begin + (rounds - begin) / 2;
        uint64_t first = least(soak.memory[i], begin, half), second = least(soak.memory[i], half, rounds);

        printf("%s: memory %.2f MiB at the least in rounds %u to %u, %.2f MiB in rounds %u to %u%s\n", site->name, (double)first / (1 << 20),
               begin, half - 1, (double)second / (1 << 20), half, rounds - 1,
               site->sanitized ? " (under a sanitizer that says nothing)" : "");
        if (!site->sanitized && second > first + GROWTH_MAX)
                soak_wrong(site, "Memory has grown by %" PRIu64 " bytes", second - first);
}

/*
 * While the kernel writes its tables sockets come and go, and one may be left out: of several looks the one counts that says
 * most, or the first that says no more than `most`. What is lost is there each time.
 */
static void settle(struct site *site, struct size *size, uint64_t most) {
        struct size again;

        *size = (struct size){ 0 };
        for (unsigned i = 0; i < LOOKS; i++) {
                site_settle(site, count_here(site));
                site_measure(site, &again);
                if (i == 0 || (most == UINT64_MAX) == (again.descriptors > size->descriptors))
                        *size = again;
                if (size->descriptors <= most && most != UINT64_MAX)
                        return;
        }
}

static void run(uint64_t length) {
        struct size begin[SITES], end[SITES];
        unsigned round;

        soak.began = clock_now();
        for (round = 0; round < ROUNDS_MAX && (round < ROUNDS_MIN || clock_now() - soak.began < length); round++) {
                uint64_t one = MIN(length / LEGS_MIN, LEG_MAX);

                leg(one, false);
                leg(one, true);
                print_round(round);
                for (unsigned i = 0; i < SITES && round + 1 == WARM_UP; i++) {
                        settle(&soak.sites[i], &begin[i], UINT64_MAX);
                        check_accounts(i, false);
                }
        }
        for (size_t i = 0; i < soak.count; i++)
                client_hurry(&soak.clients[i], clock_now());
        drain();
        for (unsigned i = 0; i < SITES; i++) {
                struct site *site = &soak.sites[i];

                settle(site, &end[i], begin[i].descriptors);
                check_accounts(i, false);
                expect(site, 0, end[i].descriptors, begin[i].descriptors, "Descriptors, against those at the start");
                expect(site, begin[i].threads, end[i].threads, begin[i].threads, "Threads, against those at the start");
                expect(site, 0, site->most_connections, site->max_connections, "Clients at once");
        }
        for (unsigned i = 0; i < SITES; i++)
                print_table(&soak.sites[i]);
        printf("\n");
        for (unsigned i = 0; i < SITES; i++) {
                const struct account *account = &soak.marks[i].account;

                printf("%s: accepted %" PRIu64 " = completed %" PRIu64 " + failed %" PRIu64 " + cancelled %" PRIu64 "; %" PRIu64
                       " generations, %" PRIu64 " killed\n",
                       soak.sites[i].name, account->accepted, account->completed, account->failed, account->cancelled,
                       account->generation, soak.sites[i].deaths);
                printf("%s: %" PRIu64 " descriptors and %" PRIu64 " threads at the start, %" PRIu64 " and %" PRIu64 " at the end\n",
                       soak.sites[i].name, begin[i].descriptors, begin[i].threads, end[i].descriptors, end[i].threads);
                check_memory(i, round);
        }
        if (soak.sites[SIM].most_connections < soak.sites[SIM].max_connections)
                soak_wrong(&soak.sites[SIM], "The limit of connections was never reached");
}

static void start(const char *msd, const char *server) {
        uint16_t model_port;
        char upstream[64], port[16];
        const char *const sim[] = { "--threads", "4", "--load-time", "200ms", "--inference-time", "2ms", "--max-inflight", "256",
                                    "--max-connections", "128", "--max-waiting", "65536", "--max-prompt", "262144",
                                    "--max-body", "262144", "--head-timeout", "1h", "--request-timeout", "3s", NULL };
        /* So few places that requests wait for them, and some of their clients leave meanwhile. */
        const char *const real[] = { "--threads", "4", "--upstream", upstream, "--max-inflight", "8", "--max-connections", "256",
                                     "--max-prompt", "262144", "--max-body", "262144", "--head-timeout", "3s",
                                     "--load-attempts", "1", "--on-load-failure", "stay", "--", server,
                                     "--port", port, "--load", "150ms", "--think", "200us", NULL };

        snprintf(soak.directory, sizeof(soak.directory), "%s/msd-soak.XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
        if (!mkdtemp(soak.directory)) {
                soak.directory[0] = '\0';
                soak_fail("mkdtemp");
        }
        if (port_take(&model_port) < 0)
                soak_fail("bind");
        snprintf(port, sizeof(port), "%u", model_port);
        snprintf(upstream, sizeof(upstream), "http://127.0.0.1:%s", port);
        soak.sites[SIM] = (struct site){
                .name = "sim", .max_connections = 128, .many = soak.many / crowd[SIM][CHARACTER_MILLION]
        };
        soak.sites[UPSTREAM] = (struct site){ .name = "upstream", .echoes = true, .model_port = model_port, .max_connections = 256 };
        site_start(&soak.sites[SIM], msd, soak.directory, sim);
        site_start(&soak.sites[UPSTREAM], msd, soak.directory, real);
}

static void usage(void) {
        fprintf(stderr, "Usage: soak [--minutes N] [--seed N] [--many N] MSD MODEL_SERVER\n");
        exit(2);
}

int main(int argc, char **argv) {
        static const struct option table[] = {
                { "minutes", required_argument, NULL, 'm' }, { "seed", required_argument, NULL, 's' },
                { "many", required_argument, NULL, 'n' },    { 0 },
        };
        double minutes = 5;
        char *end;
        int c;

        soak.many = 1000000;
        if (getrandom(&soak.seed, sizeof(soak.seed), 0) != sizeof(soak.seed))
                soak_fail("getrandom");
        while ((c = getopt_long(argc, argv, "", table, NULL)) != -1)
                switch (c) {
                case 'm':
                        minutes = strtod(optarg, &end);
                        if (*end || minutes <= 0 || minutes > 1440)
                                usage();
                        break;
                case 's':
                        soak.seed = strtoull(optarg, &end, 10);
                        if (*end)
                                usage();
                        break;
                case 'n':
                        soak.many = strtoull(optarg, &end, 10);
                        if (*end)
                                usage();
                        break;
                default:
                        usage();
                }
        if (argc - optind != 2)
                usage();
        soak.chance.state = soak.seed;
        printf("soak: %g minutes, --seed %" PRIu64 "\n", minutes, soak.seed);
        make_crowd();
        start(argv[optind], argv[optind + 1]);
        run((uint64_t)(minutes * 60 * (double)NSEC_PER_SEC));
        for (unsigned i = 0; i < SITES; i++)
                site_stop(&soak.sites[i]);
        clean_up();
        if (soak_wrongs > 0)
                printf("\nsoak: %u things do not hold\n", soak_wrongs);
        else
                printf("\nsoak: everything holds\n");
        return soak_wrongs > 0;
}
