/*
 * How exact msd's word is for when a load ends: its eta_s, from a third of the load on, against when the load ended.
 *
 *      progress MSD SERVER
 *
 * A real llama-server is measured too where $LLAMA_SERVER and $LLAMA_MODEL name it and a model.
 */

#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/bench/tool.h"

#define SAMPLES_MAX 100000
#define PAUSE_NSEC 50000000

static char directory[] = "/tmp/msd-bench.XXXXXX";
static char socket_path[64], server_path[64], weights[64], state[64], url[80];
static pid_t msd;

static void remove_state(void) {
        char path[80];

        snprintf(path, sizeof(path), "%s/loads", state);
        (void)unlink(path);
}

static void clean_up(void) {
        tool_stop(&msd);
        remove_state();
        (void)unlink(socket_path);
        (void)unlink(server_path);
        (void)unlink(weights);
        (void)rmdir(state);
        (void)rmdir(directory);
}

static struct sample {
        double at, eta;         /* seconds; negative: not known */
} samples[SAMPLES_MAX];

/* A number of the status; negative: null. */
static double member(const char *status, const char *name) {
        char key[32];
        const char *found;

        snprintf(key, sizeof(key), "\"%s\":", name);
        found = strstr(status, key);
        if (!found)
                tool_fail(status);
        found += strlen(key);
        return strncmp(found, "null", 4) == 0 ? -1 : strtod(found, NULL);
}

/* Whether the model is still loading; one that failed ends the program. */
static bool ask(int fd, struct sample *sample) {
        char status[8192];
        size_t n = 0;

        if (write(fd, "STATUS\n", 7) != 7)
                tool_fail("STATUS");
        do {
                ssize_t got = read(fd, status + n, sizeof(status) - 1 - n);

                if (got <= 0)
                        tool_fail("read");
                n += (size_t)got;
                status[n] = '\0';
        } while (n < 3 || status[n - 1] != '\n' || status[n - 2] != '}');
        if (strstr(status, "\"status\":\"failed\""))
                tool_fail(status);
        *sample = (struct sample){ member(status, "load_s"), member(status, "eta_s") };
        return strstr(status, "\"status\":\"loading\"") != NULL;
}

/* One load; prints how far its estimates were off. */
static void measure(const char *what, const char *const *argv) {
        double total, off = 0, worst = 0;
        unsigned n = 0, known = 0, all = 0;
        int fd;

        msd = tool_start(argv, -1);
        fd = tool_dial(socket_path);
        while (n + 1 < SAMPLES_MAX && ask(fd, &samples[n])) {
                n++;
                (void)nanosleep(&(struct timespec){ 0, PAUSE_NSEC }, NULL);
        }
        total = samples[n].at;
        for (unsigned i = 0; i < n; i++) {
                double error = fabs(samples[i].at + samples[i].eta - total) / total * 100;

                if (samples[i].at < total / 3)
                        continue;
                all++;
                if (samples[i].eta < 0)
                        continue;
                known++;
                off += error;
                worst = MAX(worst, error);
        }
        printf("  %-44s %8.1f %8.0f %8.1f %8.1f\n", what, total, all > 0 ? 100.0 * known / all : 0, known > 0 ? off / known : 0, worst);
        (void)fflush(stdout);
        close(fd);
        kill(msd, SIGTERM);
        waitpid(msd, NULL, 0);
        msd = 0;
}

#define MSD program, "--socket", socket_path, "--upstream", url, "--quiet", "--"
#define SERVER MSD, server, "--socket", server_path
#define ARGV(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void measure_ours(const char *program, const char *server) {
        measure("a percentage in STATUS=", ARGV(SERVER, "--load", "10s", "--notify", "--load-by", "status"));
        measure("a progress bar", ARGV(SERVER, "--load", "10s", "--load-by", "bar"));
        measure("a file that is read", ARGV(SERVER, "--load", "10s", "--load-by", "read", "--weights", weights));
        measure("a file that is mapped", ARGV(SERVER, "--load", "10s", "--load-by", "map", "--weights", weights));
        measure("nothing", ARGV(SERVER, "--load", "10s"));
        measure("nothing, the second time", ARGV(SERVER, "--load", "10s"));
        measure("a file that is read, and 3 s behind", ARGV(SERVER, "--load", "10s", "--warm-up", "3s", "--load-by", "read", "--weights",
                                                             weights));
        measure("the same, the second time", ARGV(SERVER, "--load", "10s", "--warm-up", "3s", "--load-by", "read", "--weights", weights));
}

static void measure_llama(const char *program, const char *server, const char *model) {
        const char *const mapped[] = { MSD, server, "-m", model, "--host", server_path, NULL };
        const char *const is_read[] = { MSD, server, "-m", model, "--host", server_path, "--no-mmap", NULL };

        measure("llama-server, mapped", mapped);
        measure("llama-server, mapped, the second time", mapped);
        measure("llama-server --no-mmap", is_read);
        measure("llama-server --no-mmap, the second time", is_read);
}

int main(int argc, char **argv) {
        const char *llama = getenv("LLAMA_SERVER"), *model = getenv("LLAMA_MODEL");

        if (argc != 3) {
                fprintf(stderr, "usage: progress MSD SERVER\n");
                return 2;
        }
        tool_init("progress", clean_up);
        if (!mkdtemp(directory))
                tool_fail("mkdtemp");
        snprintf(socket_path, sizeof(socket_path), "%s/msd.sock", directory);
        snprintf(server_path, sizeof(server_path), "%s/server.sock", directory);
        snprintf(weights, sizeof(weights), "%s/weights", directory);
        snprintf(state, sizeof(state), "%s/state", directory);
        snprintf(url, sizeof(url), "unix:%s", server_path);
        if (mkdir(state, 0700) < 0 || setenv("STATE_DIRECTORY", state, 1) < 0)
                tool_fail(state);

        printf("progress: when a load ends, as msd said from a third of it on, against when it did\n\n");
        printf("  %-44s %8s %8s %8s %8s\n", "what the server shows of its load", "load s", "known %", "off %", "worst %");
        measure_ours(argv[1], argv[2]);
        if (llama && model)
                measure_llama(argv[1], llama, model);
        else
                printf("  llama-server: left out: $LLAMA_SERVER and $LLAMA_MODEL do not name one and its model\n");
        printf("\n");
        clean_up();
        return 0;
}
