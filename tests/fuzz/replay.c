/*
 * A fuzz target as a plain program:
 *
 *   TARGET [FILE|DIRECTORY...]
 *
 * gives it what is in the files; by default those of its corpus, tests/fuzz/corpus/TARGET.
 */

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>

#include "common/util.h"
#include "tests/fuzz/fuzz.h"

static const char *current = "";
static unsigned count;

/* Which input it was that does not return. */
static void tell(int signal) {
        static const char before[] = "While running ";

        (void)!write(STDERR_FILENO, before, sizeof(before) - 1);
        (void)!write(STDERR_FILENO, current, strlen(current));
        (void)!write(STDERR_FILENO, "\n", 1);
        (void)signal;
}

static void run_file(const char *path) {
        FILE *file = fopen(path, "re");
        size_t size = 0, n;
        uint8_t *data = NULL;

        if (!file) {
                fprintf(stderr, "Cannot read %s\n", path);
                exit(EXIT_FAILURE);
        }
        do {
                data = realloc(data, size + 65536);
                expect(data);
                n = fread(data + size, 1, 65536, file);
                size += n;
        } while (n > 0);
        fclose(file);
        /* No longer than it is: what reads beyond it is found. */
        data = realloc(data, size > 0 ? size : 1);
        expect(data);
        current = path;
        (void)LLVMFuzzerTestOneInput(data, size);
        count++;
        free(data);
}

static void run_path(const char *path) {
        struct dirent **entries;
        struct stat st;
        char *child;
        int n;

        if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode)) {
                run_file(path);
                return;
        }
        n = scandir(path, &entries, NULL, alphasort);
        if (n < 0) {
                fprintf(stderr, "Cannot read %s\n", path);
                exit(EXIT_FAILURE);
        }
        for (int i = 0; i < n; i++) {
                if (entries[i]->d_name[0] != '.') {
                        expect(asprintf(&child, "%s/%s", path, entries[i]->d_name) > 0);
                        run_path(child);
                        free(child);
                }
                free(entries[i]);
        }
        free(entries);
}

int main(int argc, char **argv) {
        static const int fatal[] = { SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM };
        const char *slash = strrchr(argv[0], '/');
        char *corpus;

        for (size_t i = 0; i < ARRAY_SIZE(fatal); i++)
                sigaction(fatal[i], &(struct sigaction){ .sa_handler = tell, .sa_flags = (int)SA_RESETHAND }, NULL);
        for (int i = 1; i < argc; i++)
                run_path(argv[i]);
        if (argc == 1) {
                expect(asprintf(&corpus, "tests/fuzz/corpus/%s", slash ? slash + 1 : argv[0]) > 0);
                run_path(corpus);
                free(corpus);
        }
        printf("100%%: Checks: %u, Failures: 0, Errors: 0\n", count);
        return count > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
