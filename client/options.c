#include "client/options.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "common/number.h"
#include "common/protocol.h"
#include "common/util.h"

const char options_help[] =
        "Usage: mscli [OPTION...] request ID...\n"
        "       mscli [OPTION...] status|wait|load|shutdown\n"
        "\n"
        "Speaks with msd, which holds requests while a model loads.\n"
        "\n"
        "  request ID...         run inference for each ID and print the answers;\n"
        "                        - reads IDs from standard input\n"
        "  status                print the daemon's state\n"
        "  wait                  wait until the daemon listens and the model is ready\n"
        "  load                  load the model again after it failed (administrator)\n"
        "  shutdown              stop the daemon (administrator)\n"
        "\n"
        "  --prompt TEXT|@FILE   request: the prompt; @- reads it from standard input\n"
        "  --stream              request: print the answer in parts, as they come\n"
        "  --json                status: print the JSON object\n"
        "  --timeout D           give up after so long; 0: never (0)\n"
        "  --socket PATH         the daemon's socket ($MSD_SOCKET, or msd's default)\n"
        "  --version             print the version\n"
        "  --help                print this\n"
        "\n"
        "D is a duration: seconds (2, 0.1), or with units (100ms, 1min 30s).\n"
        "Exit status: 0 all answered, 1 some answered with an error, 2 wrong usage,\n"
        "3 no daemon or the connection was lost, 4 the time was over.\n"
        "See mscli(1), msd(8).\n";

static const char *const command_names[] = {
#define X(command, name) [COMMAND_##command] = name,
        OPTIONS_COMMANDS(X)
#undef X
};

const char *command_name(enum command command) {
        return command_names[command];
}

enum {
        OPTION_SOCKET = 256,
        OPTION_PROMPT,
        OPTION_STREAM,
        OPTION_JSON,
        OPTION_TIMEOUT,
        OPTION_VERSION,
        OPTION_HELP,
};

static const struct option long_options[] = {
        { "socket", required_argument, NULL, OPTION_SOCKET },
        { "prompt", required_argument, NULL, OPTION_PROMPT },
        { "stream", no_argument, NULL, OPTION_STREAM },
        { "json", no_argument, NULL, OPTION_JSON },
        { "timeout", required_argument, NULL, OPTION_TIMEOUT },
        { "version", no_argument, NULL, OPTION_VERSION },
        { "help", no_argument, NULL, OPTION_HELP },
        { 0 },
};

struct option_error {
        char *text;
        size_t size;
};

#define WRONG(error, ...) (snprintf((error)->text, (error)->size, __VA_ARGS__), OPTIONS_WRONG)

void options_refuse_id(const char *id, size_t len, char *error, size_t error_size) {
        char shown[PROTOCOL_ID_MAX + 1];
        size_t n = MIN(len, sizeof(shown) - 1);

        /* It may be anything: a terminal shows it all the same. */
        for (size_t i = 0; i < n; i++)
                shown[i] = id[i] >= 0x20 && id[i] <= 0x7e ? id[i] : '?';
        shown[n] = '\0';

        if (len > PROTOCOL_ID_MAX)
                snprintf(error, error_size, "\"%s...\" is no ID: it has %zu bytes, and may have %d", shown,
                         len, PROTOCOL_ID_MAX);
        else if (len == 0)
                snprintf(error, error_size, "\"\" is no ID: it is empty");
        else
                snprintf(error, error_size,
                         "\"%s\" is no ID: it may have printable ASCII characters, and no space", shown);
}

static int take_option(struct options *options, const char **socket, int option, const char *value,
                       struct option_error *error) {
        switch (option) {
        case OPTION_SOCKET:
                *socket = value;
                return 0;

        case OPTION_PROMPT:
                /* The last one counts, whichever way it is given. */
                options->prompt = options->prompt_file = NULL;
                if (value[0] != '@')
                        options->prompt = value;
                else if (value[1] != '\0')
                        options->prompt_file = value + 1;
                else
                        return WRONG(error, "--prompt: behind the @ stands a file, or - for standard input");
                return 0;

        case OPTION_STREAM:
                options->stream = true;
                return 0;

        case OPTION_JSON:
                options->json = true;
                return 0;

        case OPTION_TIMEOUT:
                switch (number_parse_duration(value, &options->timeout)) {
                case NUMBER_MALFORMED:
                        return WRONG(error, "--timeout: \"%s\" is no duration (2, 0.1, 100ms, 1min 30s)",
                                     value);
                case NUMBER_TOO_LARGE:
                        return WRONG(error, "--timeout: \"%s\" is too long a duration", value);
                }
                return 0;

        case OPTION_VERSION:
                return OPTIONS_VERSION;

        default:
                return OPTIONS_HELP;
        }
}

static int take_ids(struct options *options, int argc, char **argv, struct option_error *error) {
        bool from_stdin = false;

        if (argc == 0)
                return WRONG(error, "request: which ID? - reads IDs from standard input");

        for (int i = 0; i < argc; i++) {
                if (strcmp(argv[i], OPTIONS_STDIN) == 0)
                        from_stdin = true;
                else if (!protocol_id_valid(argv[i], strlen(argv[i]))) {
                        options_refuse_id(argv[i], strlen(argv[i]), error->text, error->size);
                        return OPTIONS_WRONG;
                }
        }
        if (from_stdin && options->prompt_file && strcmp(options->prompt_file, OPTIONS_STDIN) == 0)
                return WRONG(error, "standard input cannot be both the IDs (-) and the prompt (--prompt @-); "
                                    "put one of them into a file or into the arguments");

        options->ids = argv;
        options->ids_count = (size_t)argc;
        return 0;
}

/* The command word and what stands behind it. */
static int take_command(struct options *options, int argc, char **argv, struct option_error *error) {
        enum command command = 0;

        if (argc == 0)
                return WRONG(error, "which command? request, status, wait, load or shutdown");
        while (command < COMMAND_COUNT && strcmp(argv[0], command_names[command]) != 0)
                command++;
        if (command == COMMAND_COUNT)
                return WRONG(error, "%s: no such command; request, status, wait, load and shutdown are known",
                             argv[0]);
        options->command = command;

        if (command != COMMAND_REQUEST && (options->prompt || options->prompt_file))
                return WRONG(error, "%s: --prompt is for request alone", argv[0]);
        if (command != COMMAND_REQUEST && options->stream)
                return WRONG(error, "%s: --stream is for request alone", argv[0]);
        if (command != COMMAND_STATUS && options->json)
                return WRONG(error, "%s: --json is for status alone", argv[0]);
        if (command == COMMAND_REQUEST)
                return take_ids(options, argc - 1, argv + 1, error);
        if (argc > 1)
                return WRONG(error, "%s: it takes no \"%s\"", argv[0], argv[1]);
        return 0;
}

static bool is_set(const char *variable) {
        return variable && variable[0] != '\0';
}

static int take_path(struct options *options, const struct address_environment *environment,
                     const char *socket, struct option_error *error) {
        if (socket) {
                size_t len = strlen(socket);

                if (len == 0)
                        return WRONG(error, "--socket: the path is empty");
                if (len >= ADDRESS_PATH_MAX)
                        return WRONG(error, "--socket: the path has %zu bytes, that of a socket may have %zu",
                                     len, ADDRESS_PATH_MAX - 1);
                memcpy(options->path, socket, len + 1);
                return 0;
        }

        switch (address_default_path(environment, options->path)) {
        case ADDRESS_UNKNOWN:
                snprintf(options->path, sizeof(options->path), "%s", ADDRESS_SYSTEM_PATH);
                return 0;
        case ADDRESS_TOO_LONG:
                return WRONG(error, "%s: the path is too long (it may have %zu bytes); use --socket PATH",
                             is_set(environment->msd_socket)        ? "$MSD_SOCKET" :
                             is_set(environment->runtime_directory) ? "$RUNTIME_DIRECTORY" :
                                                                      "$XDG_RUNTIME_DIR",
                             ADDRESS_PATH_MAX - 1);
        }
        /* A user may have a daemon of his own, and else means the system's. */
        if (!is_set(environment->msd_socket) && !is_set(environment->runtime_directory) && !environment->root)
                options->fallback = ADDRESS_SYSTEM_PATH;
        return 0;
}

int options_parse(struct options *options, const struct address_environment *environment, int argc,
                  char **argv, char *error_text, size_t error_size) {
        struct option_error error = { error_text, error_size };
        const char *socket = NULL;
        int r;

        *options = (struct options){ 0 };

        /* 0, not 1: has glibc forget what it kept from a call before; getopt(3). */
        optind = 0;
        opterr = 0;
        for (;;) {
                int c = getopt_long(argc, argv, ":h", long_options, NULL);

                if (c < 0)
                        break;
                if (c == ':')
                        return WRONG(&error, "%s: its value is missing", argv[optind - 1]);
                if (c == '?')
                        return WRONG(&error, "%s: %s", argv[optind - 1],
                                     optopt >= 256 ? "it takes no value" : "no such option");
                r = take_option(options, &socket, c, optarg, &error);
                if (r != 0)
                        return r;
        }

        r = take_command(options, argc - optind, argv + optind, &error);
        if (r != 0)
                return r;
        return take_path(options, environment, socket, &error);
}
