#include "tests/support/served.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

const char *served_program(void) {
        static char program[512];
        const char *build = getenv("BUILD");

        snprintf(program, sizeof(program), "%s/tests/upstream/server", build && *build ? build : "build");
        return program;
}

/* Appends to the `n` arguments of `all`. */
static size_t append(const char **all, size_t n, size_t max, const char *const *more) {
        for (; *more; more++) {
                ck_assert_uint_lt(n + 1, max);
                all[n++] = *more;
        }
        all[n] = NULL;
        return n;
}

void served_start(struct daemon *msd, const struct process_setup *with, const char *url, const char *const *options,
                  const char *const *of_server) {
        const char *all[40];
        size_t n = append(all, 0, ARRAY_SIZE(all), OPTIONS("--upstream", url));

        n = append(all, n, ARRAY_SIZE(all), options);
        if (of_server) {
                n = append(all, n, ARRAY_SIZE(all), OPTIONS("--", served_program(), "--socket", url + strlen("unix:")));
                (void)append(all, n, ARRAY_SIZE(all), of_server);
        }
        daemon_start_with(msd, with, all);
}

pid_t served_child_of(pid_t parent) {
        char path[64];
        FILE *file;
        int child = 0;

        snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent, (int)parent);
        file = fopen(path, "re");
        if (file) {
                if (fscanf(file, "%d", &child) != 1)
                        child = 0;
                fclose(file);
        }
        return child;
}

void served_ask(struct peer *peer, const char *verb, const char *id, const char *prompt) {
        peer_send(peer, "%s %s %zu\n%s\n", verb, id, strlen(prompt), prompt);
}
