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
        "Holds requests while a model loads, releases all of them at once when it is ready,\n"
        "and finishes those in flight when it stops.\n"
        "\n"
        "  --socket PATH              path of the request socket\n"
        "  --http ADDRESS             listen for HTTP at HOST:PORT, *:PORT or unix:PATH; may be repeated\n"
        "  --agent-check ADDRESS      answer HAProxy's agent-check there\n"
        "  --model NAME               name that answers carry (sim, or what the upstream says)\n"
        "  --load-attempts N          attempts before the load counts as failed (1; 3 for an upstream)\n"
        "  --load-timeout D           time for the whole load; 0: no limit (0)\n"
        "  --stall-timeout D          time without progress before an attempt fails; 0: no limit (5min)\n"
        "  --freeze-timeout D         time without a sign of life from a model at work; 0: no limit (2min)\n"
        "  --on-load-failure exit|stay  what follows a failed load (exit)\n"
        "  --load start|demand        when the first load begins (start)\n"
        "  --idle-timeout D           stop the model after so long without inference; 0: never (0)\n"
        "  --exit-idle-time D         end msd after so long without a client or a model; 0: never (0)\n"
        "  --threads N                workers (one a processor, at most 8)\n"
        "  --max-waiting N            requests that may wait (1048576)\n"
        "  --max-inflight N           requests with the model at once; 0: no limit (0; 1024 for an upstream)\n"
        "  --max-connections N        clients at once (what the descriptor limit allows)\n"
        "  --max-prompt BYTES         length of a prompt on the request socket (1048576)\n"
        "  --max-body BYTES           length of the body of an HTTP request (67108864)\n"
        "  --max-prompt-memory BYTES  memory for all prompts and bodies (1073741824)\n"
        "  --max-parked BYTES         prompts and bodies that are kept through a restart (268435456)\n"
        "  --request-timeout D        time for the answer to a request, from its arrival; 0: no limit (0)\n"
        "  --drain-timeout D          time for requests in flight to finish when msd stops (30s)\n"
        "\n"
        "HTTP:\n"
        "  --stream-keepalive D       interval of comments to event streams that wait; 0: none (0)\n"
        "  --json-keepalive D         interval of white space before a JSON answer that is late; 0: none (0)\n"
        "  --head-timeout D           time for a whole request head; 0: no limit (30s)\n"
        "  --client-idle-timeout D    time between two requests of a connection; 0: no limit (10min)\n"
        "  --cors-origin ORIGIN       Access-Control-Allow-Origin on msd's own answers (none)\n"
        "  --http-key-file FILE       bearer keys, one a line, of which clients must have one (none)\n"
        "\n"
        "The model is simulated:\n"
        "  --load-time D              time that loading takes (2s)\n"
        "  --inference-time D         time that inference takes (100ms)\n"
        "  --load-failure TEXT        reason in which loading fails\n"
        "\n"
        "Or it is an inference server with the OpenAI interface, started by COMMAND or running already:\n"
        "  --upstream URL             where it is: http://HOST:PORT or unix:PATH\n"
        "  --health-path PATH         path that answers 200 when it is ready (/health)\n"
        "  --ready notify|line|probe|any  sign of readiness that counts (any; line with --ready-line)\n"
        "  --ready-line REGEX         line of its output that says that it is ready\n"
        "  --upstream-owner child|any  who may listen there once COMMAND was started (child)\n"
        "  --warmup TEXT              prompt that it must answer before it is ready\n"
        "  --completion-path PATH     path that takes prompts (/v1/completions)\n"
        "  --completion-options JSON  object that every prompt's request contains\n"
        "  --max-tokens N             length of an answer (what the server has)\n"
        "  --upstream-host HOST       Host field that it gets (the client's own)\n"
        "  --upstream-key-file FILE   bearer key for msd's own requests to it\n"
        "  --stop-timeout D           time from SIGTERM to SIGKILL, for all its processes (10s)\n"
        "\n"
        "  --quiet                    leave out the lines \"Processing request ID\"\n"
        "  --version                  print the version\n"
        "  --help                     print this text\n"
        "\n"
        "D is a duration: seconds (2, 0.1), or with units (100ms, 1min 30s).\n"
        "Exit status: 0 stopped as asked, 1 failed, 2 wrong usage. See msd(8), mscli(1).\n";

enum option_kind {
        OPTION_TEXT,
        OPTION_DURATION,
        OPTION_NUMBER,
        OPTION_PATH,            /* of a URL */
        OPTION_FIELD,           /* the value of a field of HTTP: printable, without spaces */
        OPTION_HTTP,
        OPTION_CHOICE,          /* one of choices[minimum], by its number */
        OPTION_FLAG,
        OPTION_ASK,             /* `minimum` is what options_parse() returns */
};

/* Of a number whose default depends on other options. */
#define OPTIONS_NOT_GIVEN UINT64_MAX

/* As many requests are with a real model at once, unless an option says otherwise. */
#define MAX_INFLIGHT_UPSTREAM 1024

/* What the value of an option may be: `minimum` of OPTION_CHOICE. In the order of the enum of its field. */
enum {
        CHOICES_ON_LOAD_FAILURE,
        CHOICES_LOAD,
        CHOICES_READY,
        CHOICES_UPSTREAM_OWNER,
};
static const char *const choices[] = {
        [CHOICES_ON_LOAD_FAILURE] = "exit|stay",
        [CHOICES_LOAD] = "start|demand",
        [CHOICES_READY] = "any|notify|line|probe",
        [CHOICES_UPSTREAM_OWNER] = "child|any",
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
        { "agent-check", OPTION_TEXT, FIELD(agent_check), 1, SIZE_MAX },
        { "model", OPTION_TEXT, FIELD(model), 1, PROTOCOL_MODEL_MAX - 1 },
        { "load-time", OPTION_DURATION, FIELD(load_time), 0, 0 },
        { "inference-time", OPTION_DURATION, FIELD(inference_time), 0, 0 },
        { "load-failure", OPTION_TEXT, FIELD(load_failure), 1, SIZE_MAX },
        { "upstream", OPTION_TEXT, FIELD(upstream), 1, SIZE_MAX },
        { "health-path", OPTION_PATH, FIELD(health_path), 0, 0 },
        { "ready", OPTION_CHOICE, FIELD(ready), CHOICES_READY, 0 },
        { "ready-line", OPTION_TEXT, FIELD(ready_line), 1, SIZE_MAX },
        { "warmup", OPTION_TEXT, FIELD(warmup), 1, SIZE_MAX },
        { "completion-path", OPTION_PATH, FIELD(completion_path), 0, 0 },
        { "completion-options", OPTION_TEXT, FIELD(completion_options), 1, SIZE_MAX },
        { "max-tokens", OPTION_NUMBER, FIELD(max_tokens), 1, INT32_MAX },
        { "upstream-host", OPTION_FIELD, FIELD(upstream_host), 1, 255 },
        { "upstream-owner", OPTION_CHOICE, FIELD(upstream_owner), CHOICES_UPSTREAM_OWNER, 0 },
        { "upstream-key-file", OPTION_TEXT, FIELD(upstream_key_file), 1, SIZE_MAX },
        { "http-key-file", OPTION_TEXT, FIELD(http_key_file), 1, SIZE_MAX },
        { "cors-origin", OPTION_FIELD, FIELD(cors_origin), 1, 1024 },
        { "load-attempts", OPTION_NUMBER, FIELD(load_attempts), 1, 1000000 },
        { "load-timeout", OPTION_DURATION, FIELD(load_timeout), 0, 0 },
        { "stall-timeout", OPTION_DURATION, FIELD(stall_timeout), 0, 0 },
        { "freeze-timeout", OPTION_DURATION, FIELD(freeze_timeout), 0, 0 },
        { "on-load-failure", OPTION_CHOICE, FIELD(on_load_failure), CHOICES_ON_LOAD_FAILURE, 0 },
        { "load", OPTION_CHOICE, FIELD(load), CHOICES_LOAD, 0 },
        { "idle-timeout", OPTION_DURATION, FIELD(idle_timeout), 0, 0 },
        { "exit-idle-time", OPTION_DURATION, FIELD(exit_idle_time), 0, 0 },
        { "threads", OPTION_NUMBER, FIELD(threads), 1, 64 },
        { "max-waiting", OPTION_NUMBER, FIELD(max_waiting), 0, UINT32_MAX },
        { "max-inflight", OPTION_NUMBER, FIELD(max_inflight), 0, UINT32_MAX },
        { "max-connections", OPTION_NUMBER, FIELD(max_connections), 1, INT32_MAX },
        /* A length is 32 bits wide in a waiting request. */
        { "max-prompt", OPTION_NUMBER, FIELD(max_prompt), 0, INT32_MAX },
        { "max-body", OPTION_NUMBER, FIELD(max_body), 0, INT32_MAX },
        { "max-parked", OPTION_NUMBER, FIELD(max_parked), 0, INT64_MAX },
        { "max-prompt-memory", OPTION_NUMBER, FIELD(max_prompt_memory), 0, INT64_MAX },
        { "request-timeout", OPTION_DURATION, FIELD(request_timeout), 0, 0 },
        { "drain-timeout", OPTION_DURATION, FIELD(drain_timeout), 0, 0 },
        { "stop-timeout", OPTION_DURATION, FIELD(stop_timeout), 0, 0 },
        { "json-keepalive", OPTION_DURATION, FIELD(json_keepalive), 0, 0 },
        { "head-timeout", OPTION_DURATION, FIELD(head_timeout), 0, 0 },
        { "client-idle-timeout", OPTION_DURATION, FIELD(client_idle_timeout), 0, 0 },
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

/* Of "a|b|c" the number of `value`, or -1. */
static int find_choice(const char *list, const char *value) {
        const size_t len = strlen(value);

        for (int n = 0;; n++) {
                const size_t choice_len = strcspn(list, "|");

                if (choice_len == len && strncmp(list, value, len) == 0)
                        return n;
                if (!list[choice_len])
                        return -1;
                list += choice_len + 1;
        }
}

static int take_option(struct options *options, size_t i, const char *value, struct option_error *error) {
        void *field = (char *)options + table[i].field;
        const char *name = table[i].name;

        switch (table[i].kind) {
        case OPTION_FIELD:
                for (const char *c = value; *c; c++)
                        if (*c <= ' ' || *c >= 0x7f)
                                return WRONG(error, "--%s: the value has a space, a control byte or one beyond ASCII", name);
                __attribute__((fallthrough));
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

        case OPTION_CHOICE: {
                int choice = find_choice(choices[table[i].minimum], value);

                if (choice < 0)
                        return WRONG(error, "--%s: \"%s\" is none of %s", name, value, choices[table[i].minimum]);
                memcpy(field, &choice, sizeof(choice));
                return 0;
        }

        case OPTION_FLAG:
                *(bool *)field = true;
                return 0;

        default:
                return (int)table[i].minimum;
        }
}

/* What only a real model has use for, and what it needs. */
static int check_upstream(struct options *options, struct option_error *error) {
        const bool says_ready = options->ready == READY_NOTIFY || options->ready == READY_LINE || options->ready_line;
        const struct {
                const char *name;
                bool given;
        } of_upstream[] = {
                { "--health-path", options->health_path },
                { "--ready", options->ready != READY_NOT_GIVEN },
                { "--ready-line", options->ready_line },
                { "--upstream-owner", options->upstream_owner != UPSTREAM_OWNER_CHILD },
                { "--warmup", options->warmup },
                { "--completion-path", options->completion_path },
                { "--completion-options", options->completion_options },
                { "--max-tokens", options->max_tokens > 0 },
                { "--upstream-host", options->upstream_host },
                { "--upstream-key-file", options->upstream_key_file },
                { "a command", options->command },
        };

        for (size_t i = 0; !options->upstream && i < ARRAY_SIZE(of_upstream); i++)
                if (of_upstream[i].given)
                        return WRONG(error, "%s: without --upstream the model is simulated", of_upstream[i].name);
        if (options->upstream && options->load_failure)
                return WRONG(error, "--load-failure: with --upstream the model is not simulated");
        if (options->ready_line && (options->ready == READY_NOTIFY || options->ready == READY_PROBE))
                return WRONG(error, "--ready-line: with --ready %s a line does not count",
                             options->ready == READY_NOTIFY ? "notify" : "probe");
        if (options->ready == READY_LINE && !options->ready_line)
                return WRONG(error, "--ready line: which line it is says --ready-line");
        if (says_ready && !options->command)
                return WRONG(error, "%s: a server that msd did not start can only be probed",
                             options->ready_line ? "--ready-line" : "--ready notify");
        if (options->ready == READY_NOT_GIVEN)
                options->ready = options->ready_line ? READY_LINE : READY_ANY;
        if (options->max_inflight == OPTIONS_NOT_GIVEN)
                options->max_inflight = options->upstream ? MAX_INFLIGHT_UPSTREAM : 0;
        if (options->load_attempts == 0)
                options->load_attempts = options->upstream ? 3 : 1;
        if (!options->health_path)
                options->health_path = "/health";
        if (!options->completion_path)
                options->completion_path = "/v1/completions";
        return 0;
}

/* What ends when it is not needed, and what would never end. */
static int check_idle(const struct options *options, struct option_error *error) {
        const bool is_foreign = options->upstream && !options->command;

        if (options->idle_timeout > 0 && is_foreign)
                return WRONG(error, "--idle-timeout: msd stops a model server that it started; without a command there is none");
        if (options->exit_idle_time > 0 && options->idle_timeout == 0 && !is_foreign)
                return WRONG(error, "--exit-idle-time: msd does not end while the model is loaded; --idle-timeout stops it");
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
                .freeze_timeout = 120 * NSEC_PER_SEC,
                .ready = READY_NOT_GIVEN,
                .drain_timeout = 30 * NSEC_PER_SEC,
                .stop_timeout = 10 * NSEC_PER_SEC,
                .head_timeout = 30 * NSEC_PER_SEC,
                .client_idle_timeout = 600 * NSEC_PER_SEC,
                .max_waiting = 1048576,
                .max_inflight = OPTIONS_NOT_GIVEN,
                .max_prompt = 1048576,
                .max_body = 64u << 20,
                .max_parked = 256u << 20,
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
        r = check_upstream(options, &error);
        return r == 0 ? check_idle(options, &error) : r;
}
