#include "tests/support/run.h"

#include <check.h>
#include <stdarg.h>

#include "common/util.h"
#include "tests/support/suite.h"

#define ARGUMENTS_MAX 32

/* `--socket PATH` goes in front, as an option of the whole program. */
static void gather(const char *argv[static ARGUMENTS_MAX], const char *name, const char *socket,
                   const char *const *arguments) {
        size_t n = 0;

        argv[n++] = name;
        if (socket) {
                argv[n++] = "--socket";
                argv[n++] = socket;
        }
        for (; *arguments; arguments++) {
                ck_assert_uint_lt(n + 1, ARGUMENTS_MAX);
                argv[n++] = *arguments;
        }
        argv[n] = NULL;
}

void run_start(struct process *process, const char *socket, const struct process_setup *setup,
               const char *const *arguments) {
        const char *argv[ARGUMENTS_MAX];

        gather(argv, "mscli", socket, arguments);
        process_start(process, suite_mscli(), argv, setup);
}

int run_mscli_with(struct process *process, const char *socket, const struct process_setup *setup,
                   const char *const *arguments) {
        run_start(process, socket, setup, arguments);
        return process_wait(process);
}

int run_mscli(struct process *process, const char *socket, ...) {
        const char *arguments[ARGUMENTS_MAX];
        size_t n = 0;
        va_list ap;

        va_start(ap, socket);
        while ((arguments[n] = va_arg(ap, const char *)))
                ck_assert_uint_lt(++n, ARRAY_SIZE(arguments));
        va_end(ap);
        return run_mscli_with(process, socket, NULL, arguments);
}

int run_msd(struct process *process, const struct process_setup *setup, const char *const *arguments) {
        const char *argv[ARGUMENTS_MAX];

        gather(argv, "msd", NULL, arguments);
        process_start(process, suite_msd(), argv, setup);
        return process_wait(process);
}

void run_expect_refusal(struct process *process, int status, const char *named) {
        if (process->status != status || !strstr(text_get(&process->errors), named) ||
            process->output.len > 0)
                process_give_up("Not status %d with \"%s\" on standard error", status, named);
        ck_assert_uint_gt(process->errors.len, 0);
        ck_assert_int_eq(process->errors.data[process->errors.len - 1], '\n');
        process_free(process);
}
