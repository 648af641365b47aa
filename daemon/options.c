#include "daemon/options.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/number.h"
#include "common/protocol.h"
#include "common/util.h"

const char options_help[] =
        "Usage: msd [OPTION...] [-- COMMAND [ARG...]]\n"
        "\n"
        "Holds requests while a model loads, lets all of them go at once when it is ready,\n"
        "and finishes those that run when it stops.\n"
        "\n"
        "  --socket PATH              the request socket\n"
        "  --http ADDRESS             listen for HTTP at HOST:PORT, *:PORT or unix:PATH; may be given again\n"
        "  --model NAME               the name that answers carry (sim, or what the upstream says)\n"
        "  --load-attempts N          load so often before giving up (1; 3 for an upstream)\n"
        "  --load-timeout D           give up loading after so long; 0: never (0)\n"
        "  --stall-timeout D          give up after so long without progress; 0: never (5min)\n"
        "  --on-load-failure exit|stay  what to do then (exit)\n"
        "  --threads N                workers (one a processor, at most 8)\n"
        "  --max-waiting N            requests that may wait (1048576)\n"
        "  --max-inflight N           with the model at once, the others wait; 0: any number (0)\n"
        "  --max-connections N        clients at once (what the descriptor limit allows)\n"
        "  --max-prompt BYTES         length of a prompt (1048576)\n"
        "  --max-prompt-memory BYTES  all prompts that are held, together (1073741824)\n"
        "  --request-timeout D        answer within so long, or with an error; 0: none (0)\n"
        "  --drain-timeout D          time for what runs to finish when stopping (30s)\n"
        "  --stream-keepalive D       tell streams over HTTP that they wait, so often; 0: do not (0)\n"
        "\n"
        "The model is simulated:\n"
        "  --load-time D              how long loading takes (2s)\n"
        "  --inference-time D         how long inference takes (100ms)\n"
        "  --load-failure TEXT        loading ends in this failure\n"
        "\n"
        "Or it is an inference server with the OpenAI interface, that COMMAND starts, or that runs already:\n"
        "  --upstream URL             where it is: http://HOST:PORT or unix:PATH\n"
        "  --health-path PATH         what answers 200 when it is ready (/health)\n"
        "  --ready-line REGEX         or a line of its output that says so\n"
        "  --warmup TEXT              ready when it has also answered this prompt\n"
        "  --completion-path PATH     what takes prompts (/v1/completions)\n"
        "  --completion-options JSON  an object that every request to it contains\n"
        "  --max-tokens N             length of an answer (what the server has)\n"
        "\n"
        "  --quiet                    leave out the lines \"Processing request ID\"\n"
        "  --version                  print the version\n"
        "  --help                     print this\n"
        "\n"
        "D is a duration: seconds (2, 0.1), or with units (100ms, 1min 30s).\n"
        "Exit status: 0 stopped as asked, 1 failed, 2 wrong usage. See msd(8), mscli(1).\n";

enum option_kind {
        OPTION_TEXT,
        OPTION_DURATION,
        OPTION_NUMBER,
        OPTION_PATH,            /* of a URL */
        OPTION_HTTP,
        OPTION_ON_LOAD_FAILURE,
        OPTION_FLAG,
        OPTION_ASK,             /* `minimum` is what options_parse() returns */
};

#define FIELD(name) offsetof(struct options, name)

static const struct {
        const char *name;
        enum option_kind kind;
        size_t field;
        uint64_t minimum;
        uint64_t maximum;
} table[] = {
        { "socket", OPTION_TEXT, FIELD(socket), 1, SIZE_MAX },
        { "http", OPTION_HTTP, 0, 0, 0 },
        { "model", OPTION_TEXT, FIELD(model), 1, PROTOCOL_MODEL_MAX - 1 },
        { "load-time", OPTION_DURATION, FIELD(load_time), 0, 0 },
        { "inference-time", OPTION_DURATION, FIELD(inference_time), 0, 0 },
        { "load-failure", OPTION_TEXT, FIELD(load_failure), 1, SIZE_MAX },
        { "upstream", OPTION_TEXT, FIELD(upstream), 1, SIZE_MAX },
        { "health-path", OPTION_PATH, FIELD(health_path), 0, 0 },
        { "ready-line", OPTION_TEXT, FIELD(ready_line), 1, SIZE_MAX },
        { "warmup", OPTION_TEXT, FIELD(warmup), 1, SIZE_MAX },
        { "completion-path", OPTION_PATH, FIELD(completion_path), 0, 0 },
        { "completion-options", OPTION_TEXT, FIELD(completion_options), 1, SIZE_MAX },
        { "max-tokens", OPTION_NUMBER, FIELD(max_tokens), 1, INT32_MAX },
        { "load-attempts", OPTION_NUMBER, FIELD(load_attempts), 1, 1000000 },
        { "load-timeout", OPTION_DURATION, FIELD(load_timeout), 0, 0 },
        { "stall-timeout", OPTION_DURATION, FIELD(stall_timeout), 0, 0 },
        { "on-load-failure", OPTION_ON_LOAD_FAILURE, FIELD(on_load_failure), 0, 0 },
        { "threads", OPTION_NUMBER, FIELD(threads), 1, 64 },
        { "max-waiting", OPTION_NUMBER, FIELD(max_waiting), 0, UINT32_MAX },
        { "max-inflight", OPTION_NUMBER, FIELD(max_inflight), 0, UINT32_MAX },
        { "max-connections", OPTION_NUMBER, FIELD(max_connections), 1, INT32_MAX },
        /* A length is 32 bits wide in a waiting request. */
        { "max-prompt", OPTION_NUMBER, FIELD(max_prompt), 0, INT32_MAX },
        { "max-prompt-memory", OPTION_NUMBER, FIELD(max_prompt_memory), 0, INT64_MAX },
        { "request-timeout", OPTION_DURATION, FIELD(request_timeout), 0, 0 },
        { "drain-timeout", OPTION_DURATION, FIELD(drain_timeout), 0, 0 },
        { "stream-keepalive", OPTION_DURATION, FIELD(stream_keepalive), 0, 0 },
        { "quiet", OPTION_FLAG, FIELD(quiet), 0, 0 },
        { "version", OPTION_ASK, 0, OPTIONS_VERSION, 0 },
        { "help", OPTION_ASK, 0, OPTIONS_HELP, 0 },
};

struct option_error {
        char *text;
        size_t size;
};

#define WRONG(error, ...) (snprintf((error)->text, (error)->size, __VA_ARGS__), OPTIONS_WRONG)

static int take_option(struct options *options, size_t i, const char *value, struct option_error *error) {
        void *field = (char *)options + table[i].field;
        const char *name = table[i].name;

        switch (table[i].kind) {
        case OPTION_TEXT:
                if (strlen(value) < table[i].minimum)
                        return WRONG(error, "--%s: the text is empty", name);
                if (strlen(value) > table[i].maximum)
                        return WRONG(error, "--%s: at most %" PRIu64 " bytes", name, table[i].maximum);
                memcpy(field, &value, sizeof(value));
                return 0;

        case OPTION_PATH:
                if (value[0] != '/' || strlen(value) > 256 || strpbrk(value, " \t\r\n#"))
                        return WRONG(error, "--%s: \"%s\" is no path of a URL, which begins with /", name, value);
                memcpy(field, &value, sizeof(value));
                return 0;

        case OPTION_HTTP:
                if (options->http_count == OPTIONS_HTTP_MAX)
                        return WRONG(error, "--%s: at most %d times", name, OPTIONS_HTTP_MAX);
                options->http[options->http_count++] = value;
                return 0;

        case OPTION_DURATION:
                switch (number_parse_duration(value, field)) {
                case NUMBER_MALFORMED:
                        return WRONG(error, "--%s: \"%s\" is no duration (2, 0.1, 100ms, 1min 30s)", name, value);
                case NUMBER_TOO_LARGE:
                        return WRONG(error, "--%s: \"%s\" is too long a duration", name, value);
                }
                return 0;

        case OPTION_NUMBER: {
                uint64_t number = 0;
                int r = number_parse(value, strlen(value), table[i].maximum, &number);

                if (r == NUMBER_MALFORMED)
                        return WRONG(error, "--%s: \"%s\" is no number", name, value);
                if (r == NUMBER_TOO_LARGE || number < table[i].minimum)
                        return WRONG(error, "--%s: %s is not within %" PRIu64 " to %" PRIu64, name, value,
                                     table[i].minimum, table[i].maximum);
                memcpy(field, &number, sizeof(number));
                return 0;
        }

        case OPTION_ON_LOAD_FAILURE:
                if (strcmp(value, "exit") == 0)
                        options->on_load_failure = ON_LOAD_FAILURE_EXIT;
                else if (strcmp(value, "stay") == 0)
                        options->on_load_failure = ON_LOAD_FAILURE_STAY;
                else
                        return WRONG(error, "--%s: \"%s\" is neither exit nor stay", name, value);
                return 0;

        case OPTION_FLAG:
                *(bool *)field = true;
                return 0;

        default:
                return (int)table[i].minimum;
        }
}

/* What only a real model has use for, and what it needs. */
static int check_upstream(struct options *options, struct option_error *error) {
        const struct {
                const char *name;
                bool given;
        } of_upstream[] = {
                { "--health-path", options->health_path },
                { "--ready-line", options->ready_line },
                { "--warmup", options->warmup },
                { "--completion-path", options->completion_path },
                { "--completion-options", options->completion_options },
                { "--max-tokens", options->max_tokens > 0 },
                { "a command", options->command },
        };

        for (size_t i = 0; !options->upstream && i < ARRAY_SIZE(of_upstream); i++)
                if (of_upstream[i].given)
                        return WRONG(error, "%s: without --upstream the model is simulated", of_upstream[i].name);
        if (options->upstream && options->load_failure)
                return WRONG(error, "--load-failure: with --upstream the model is not simulated");
        if (options->load_attempts == 0)
                options->load_attempts = options->upstream ? 3 : 1;
        if (!options->health_path)
                options->health_path = "/health";
        if (!options->completion_path)
                options->completion_path = "/v1/completions";
        if (!options->upstream && !options->model)
                options->model = "sim";
        return 0;
}

int options_parse(struct options *options, int argc, char **argv, char *error_text, size_t error_size) {
        struct option_error error = { error_text, error_size };
        struct option long_options[ARRAY_SIZE(table) + 1] = { 0 };
        int r;

        *options = (struct options){
                .load_time = 2 * NSEC_PER_SEC,
                .inference_time = 100 * NSEC_PER_MSEC,
                .stall_timeout = 300 * NSEC_PER_SEC,
                .drain_timeout = 30 * NSEC_PER_SEC,
                .max_waiting = 1048576,
                .max_prompt = 1048576,
                .max_prompt_memory = UINT64_C(1) << 30,
        };
        for (size_t i = 0; i < ARRAY_SIZE(table); i++)
                long_options[i] = (struct option){
                        .name = table[i].name,
                        .has_arg = table[i].kind == OPTION_FLAG || table[i].kind == OPTION_ASK ? no_argument :
                                                                                                 required_argument,
                        .val = 256 + (int)i,
                };

        /* 0, not 1: has glibc forget what it kept from a call before; getopt(3). */
        optind = 0;
        opterr = 0;
        for (;;) {
                int c = getopt_long(argc, argv, "+:h", long_options, NULL);

                if (c < 0)
                        break;
                if (c == 'h')
                        return OPTIONS_HELP;
                if (c == ':')
                        return WRONG(&error, "%s: its value is missing", argv[optind - 1]);
                if (c == '?')
                        return WRONG(&error, "%s: %s", argv[optind - 1],
                                     optopt >= 256 ? "it takes no value" : "no such option");
                r = take_option(options, (size_t)c - 256, optarg, &error);
                if (r != 0)
                        return r;
        }
        if (optind < argc && strcmp(argv[optind - 1], "--") != 0)
                return WRONG(&error, "%s: msd takes options alone; the command of a model server stands behind --",
                             argv[optind]);
        if (optind < argc)
                options->command = argv + optind;
        return check_upstream(options, &error);
}
