/*
 * The command line of msd, an argument a line: it is taken, asked, or refused with a reason; taken twice it says the same.
 */

#include "daemon/options.h"

#include "common/number.h"
#include "common/util.h"
#include "tests/fuzz/fuzz.h"

#define ARGUMENTS_MAX 64
#define DAY (24 * 3600 * NSEC_PER_SEC)

static char *arguments[ARGUMENTS_MAX];
static int count;

/* Whether it is the value, or the end, of one of the arguments. */
static void expect_argument(const char *text) {
        bool found = text == NULL;

        for (int i = 0; i < count; i++)
                found |= text >= arguments[i] && text <= arguments[i] + strlen(arguments[i]);
        expect(found);
}

static int parse(struct options *options, char error[static 256]) {
        char *argv[ARGUMENTS_MAX + 1];
        int r;

        for (int i = 0; i <= count; i++)
                argv[i] = i < count ? arguments[i] : NULL;
        memset(options, 0xaa, sizeof(*options));
        error[0] = '\0';
        r = options_parse(options, count, argv, error, 256);
        expect(r == 0 || r == OPTIONS_HELP || r == OPTIONS_VERSION || r == OPTIONS_WRONG);
        expect((r == OPTIONS_WRONG) == (*error != '\0'));
        expect(memchr(error, '\0', 256));
        if (r == 0 && options->command) {
                expect(options->command > argv && options->command < argv + count && options->upstream);
                for (char *const *p = options->command; *p; p++)
                        expect_argument(*p);
                options->command = NULL;
        }
        return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        struct options options, again;
        char error[256], error_again[256];
        int r;

        for (count = 1; count < ARGUMENTS_MAX && input.len > 0; count++)
                arguments[count] = input_text(&input, '\n');
        arguments[0] = strdup("msd");
        expect(arguments[0]);

        r = parse(&options, error);
        expect(parse(&again, error_again) == r && strcmp(error, error_again) == 0);
        if (r == 0) {
                expect(memcmp(&options, &again, sizeof(options)) == 0 || options.http_count < OPTIONS_HTTP_MAX);
                expect(options.http_count <= OPTIONS_HTTP_MAX);
                for (uint64_t i = 0; i < options.http_count; i++)
                        expect_argument(options.http[i]);
                expect_argument(options.socket);
                if (options.upstream || !options.model || strcmp(options.model, "sim") != 0)
                        expect_argument(options.model);
                expect_argument(options.load_failure);
                expect_argument(options.upstream);
                expect_argument(options.ready_line);
                expect_argument(options.warmup);
                expect_argument(options.completion_options);
                expect(options.health_path && options.completion_path);
                expect(options.load_time <= 3660 * DAY && options.inference_time <= 3660 * DAY);
                expect(options.stall_timeout <= 3660 * DAY && options.load_timeout <= 3660 * DAY);
                expect(options.request_timeout <= 3660 * DAY && options.drain_timeout <= 3660 * DAY);
                expect(options.stream_keepalive <= 3660 * DAY);
                expect(options.load_attempts >= 1 && options.threads <= 64 && options.max_tokens <= INT32_MAX);
                expect(options.on_load_failure == ON_LOAD_FAILURE_EXIT || options.on_load_failure == ON_LOAD_FAILURE_STAY);
                /* A record has 32 bits for the length. */
                expect(options.max_prompt <= INT32_MAX && options.max_waiting <= UINT32_MAX);
        }
        for (int i = 0; i < count; i++)
                free(arguments[i]);
        return 0;
}
