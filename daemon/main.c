#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"
#include "daemon/front/listener.h"
#include "daemon/keys.h"
#include "daemon/log.h"
#include "daemon/model/upstream.h"
#include "daemon/notify.h"
#include "daemon/options.h"
#include "daemon/server.h"

enum {
        STATUS_FAILED = 1,
        STATUS_USAGE = 2,
};

static int wrong_usage(const char *error) {
        notify_failed(EINVAL, error);
        log_error("%s", error);
        log_error("Try 'msd --help'.");
        return STATUS_USAGE;
}

/* Where the socket is when no option and no service manager says. Returns NULL and prints why if nothing does. */
static const char *default_path(char path[static ADDRESS_PATH_MAX]) {
        const struct address_environment environment = {
                .runtime_directory = getenv("RUNTIME_DIRECTORY"),
                .xdg_runtime_dir = getenv("XDG_RUNTIME_DIR"),
                .root = geteuid() == 0,
        };

        switch (address_default_path(&environment, path)) {
        case ADDRESS_UNKNOWN:
                log_error("Where is the socket to be? Neither $RUNTIME_DIRECTORY nor $XDG_RUNTIME_DIR is set; "
                          "use --socket PATH.");
                return NULL;
        case ADDRESS_TOO_LONG:
                log_error("The path of the socket is too long (%zu bytes at most); use --socket PATH.",
                          ADDRESS_PATH_MAX - 1);
                return NULL;
        }
        /* Made by who starts the daemon elsewhere; here by the first of root's that runs. */
        if (environment.root && strcmp(path, ADDRESS_SYSTEM_PATH) == 0)
                (void)mkdir("/run/msd", 0755);
        return path;
}

/* A socket of the service manager that is one of the set; or is not `wanted`, or cannot be one of it, and is closed. */
static void take_listening(struct listener_set *set, const struct passed *passed, bool wanted) {
        const char *error = !notify_is_listening(passed->fd, true)    ? "it is no stream socket that listens" :
                            set->count == LISTENER_SET_MAX            ? "too many have this name" :
                                                                        NULL;

        if (wanted && !error) {
                set->sockets[set->count++] = (struct listener_socket){ .fd = passed->fd, .file = -1 };
                return;
        }
        if (wanted)
                log_warning("Cannot use descriptor %d, which the service manager passed with the name %s, ignoring: %s", passed->fd,
                            passed->name, error);
        close(passed->fd);
}

/*
 * What the service manager has passed: the request socket has the name `msd`, or is the only one that listens; those with
 * the names `http` and `agent-check` are for those. What is parked is for the server. Where an option says where clients connect, what was
 * passed for that is of no use. Returns 0, or the exit status, having printed why.
 */
static int take_passed(const struct options *options, struct listener_socket *socket, struct listener_set *http,
                       struct listener_set *agent, struct parked_list *parked) {
        struct passed *passed;
        int n = notify_passed(&passed), only = -1, named = -1, others = 0;

        if (n < 0) {
                log_error("Cannot use what the service manager passed: %s", strerror(-n));
                return STATUS_USAGE;
        }
        for (int i = 0; i < n; i++) {
                if (parked_list_add(parked, passed[i].name, passed[i].fd))
                        continue;
                if (strcmp(passed[i].name, "http") == 0) {
                        take_listening(http, &passed[i], options->http_count == 0);
                        continue;
                }
                if (strcmp(passed[i].name, "agent-check") == 0) {
                        take_listening(agent, &passed[i], !options->agent_check);
                        continue;
                }
                if (options->socket) {
                        close(passed[i].fd);
                        continue;
                }
                others++;
                only = passed[i].fd;
                if (strcmp(passed[i].name, "msd") == 0)
                        named = passed[i].fd;
        }
        passed_free(passed, n);
        if (others == 0)
                return 0;

        if (named < 0 && others == 1)
                named = only;
        if (named < 0 || !notify_is_listening(named, false)) {
                log_error("Cannot use what the service manager passed: no Unix stream socket that listens has the name msd");
                return STATUS_USAGE;
        }
        *socket = (struct listener_socket){ .fd = named, .file = -1 };
        return 0;
}

/* What listening at `path` came to. Returns 0, or the exit status, having printed why. */
static int report_socket(const char *option, const char *path, int r) {
        switch (r) {
        case 0:
                return 0;
        case LISTENER_IN_USE:
                log_error("%s: %s: in use by a daemon that is running; stop it, or choose another", option, path);
                break;
        case LISTENER_NOT_A_SOCKET:
                log_error("%s: %s: there is a file that is no socket; remove it, or choose another", option, path);
                break;
        case LISTENER_PATH_EMPTY:
                log_error("%s: the path is empty", option);
                break;
        case LISTENER_PATH_TOO_LONG:
                log_error("%s: %s: the path of a socket has %zu bytes at most", option, path, ADDRESS_PATH_MAX - 1);
                break;
        default:
                log_error("%s: %s: cannot listen there: %s", option, path, strerror(-r));
        }
        return STATUS_USAGE;
}

/* Where clients connect. Returns 0, or the exit status, having printed why. */
static int open_socket(struct listener_socket *socket, const char *path, char buffer[static ADDRESS_PATH_MAX]) {
        if (!path) {
                if (socket->fd >= 0)
                        return 0;
                path = default_path(buffer);
                if (!path)
                        return STATUS_USAGE;
        }
        return report_socket("--socket", path, listener_socket_open(socket, path));
}

/* Likewise at all addresses that an option was given. `what` happens there. */
static int open_set(struct listener_set *set, const char *option, const char *const *addresses, uint64_t n, const char *what) {
        char address[LISTENER_ADDRESS_MAX];
        const char *why;
        int r;

        for (uint64_t i = 0; i < n; i++) {
                r = listener_set_open(set, addresses[i], &why);
                if (r == -EINVAL || r == -E2BIG || why) {
                        log_error("%s: %s: %s", option, addresses[i],
                                  why         ? why :
                                  r == -E2BIG ? "these are too many" :
                                                "this is neither HOST:PORT nor unix:PATH");
                        return STATUS_USAGE;
                }
                r = report_socket(option, addresses[i], r);
                if (r != 0)
                        return r;
        }
        for (unsigned i = 0; i < set->count; i++)
                log_info("%s at %s", what, listener_socket_address(&set->sockets[i], address));
        return 0;
}

/* Whether msd may end when it is idle: somebody has to listen, and to start it again. Returns 0, or the exit status, likewise. */
static int check_exit(const struct options *options, const struct listener_socket *socket, const struct listener_set *http) {
        bool made = socket->made;

        for (unsigned i = 0; i < http->count; i++)
                made |= http->sockets[i].made;
        if (options->exit_idle_time == 0 || !made)
                return 0;
        log_error("--exit-idle-time: msd listens at a socket of its own, and nobody would start it again; "
                  "leave the sockets to a service manager, systemd.socket(5)");
        return STATUS_USAGE;
}

/* Reads the keys of an option's file. Returns 0, or the exit status, having printed why. */
static int read_keys(struct keys *keys, const char *option, const char *path) {
        int r = keys_read(keys, path);

        if (r == 0)
                return 0;
        if (r == KEYS_TOO_LARGE)
                log_error("%s: %s: the file is over %d bytes long; it has one key a line", option, path, KEYS_FILE_MAX);
        else if (r == KEYS_MALFORMED)
                log_error("%s: %s: it has no key, or one with a space or a control byte in it; it has one key a line", option, path);
        else
                log_error("%s: %s: %s", option, path, strerror(-r));
        return STATUS_USAGE;
}

/* The key for msd's own requests to the model: of an option, or of a credential, systemd.exec(5). Returns likewise. */
static int read_upstream_key(struct keys *keys, const struct options *options) {
        const char *directory = getenv("CREDENTIALS_DIRECTORY");
        _cleanup_free_ char *path = NULL;
        int r;

        if (options->upstream_key_file)
                r = read_keys(keys, "--upstream-key-file", options->upstream_key_file);
        else if (!options->upstream || !directory)
                return 0;
        else if (asprintf(&path, "%s/upstream-key", directory) < 0) {
                path = NULL;
                log_error("%s", strerror(ENOMEM));
                return STATUS_FAILED;
        } else if (access(path, F_OK) < 0)
                return 0;
        else
                r = read_keys(keys, "Credential upstream-key", path);
        if (r == 0 && keys->count > 1) {
                log_error("%s: the file has more than one key; msd can use one",
                          options->upstream_key_file ? options->upstream_key_file : path);
                return STATUS_USAGE;
        }
        return r;
}

static int print(const char *text) {
        if (fputs(text, stdout) >= 0 && fflush(stdout) == 0)
                return 0;
        log_error("Cannot write to standard output: %s", strerror(errno));
        return STATUS_FAILED;
}

static int run(int argc, char **argv) {
        struct listener_socket socket = LISTENER_SOCKET_NULL;
        struct listener_set http = { 0 }, agent = { 0 };
        struct parked_list parked = { 0 };
        struct model_server_keys keys = { 0 };
        static struct model_server server;
        char path[ADDRESS_PATH_MAX], error[512];
        struct options options;
        int r;

        switch (options_parse(&options, argc, argv, error, sizeof(error))) {
        case OPTIONS_HELP:
                return print(options_help);
        case OPTIONS_VERSION:
                return print("msd " MSD_VERSION "\n");
        case OPTIONS_WRONG:
                return wrong_usage(error);
        }

        if (options.upstream) {
                const struct upstream_options upstream = {
                        .url = options.upstream,
                        .ready_line = options.ready_line,
                        .completion_options = options.completion_options,
                };

                r = upstream_check(&upstream, error, sizeof(error));
                if (r == -EINVAL)
                        return wrong_usage(error);
                if (r < 0) {
                        log_error("%s", error);
                        return STATUS_FAILED;
                }
        }

        r = read_upstream_key(&keys.upstream, &options);
        if (r == 0 && options.http_key_file)
                r = read_keys(&keys.http, "--http-key-file", options.http_key_file);
        if (r != 0)
                return r;

        model_server_hold_signals();
        r = take_passed(&options, &socket, &http, &agent, &parked);
        if (r == 0)
                r = open_socket(&socket, options.socket, path);
        if (r == 0)
                r = open_set(&http, "--http", options.http, options.http_count, "Listening for HTTP");
        if (r == 0)
                r = open_set(&agent, "--agent-check", &options.agent_check, options.agent_check != NULL, "Answering agent-checks");
        if (r == 0)
                r = check_exit(&options, &socket, &http);
        if (r != 0) {
                listener_socket_close(&socket);
                listener_set_close(&http);
                listener_set_close(&agent);
                return r;
        }

        r = model_server_init(&server, &options, &keys, &socket, &http, &agent, &parked);
        if (r == 0)
                r = model_server_run(&server);
        model_server_deinit(&server);
        keys_deinit(&keys.upstream);
        keys_deinit(&keys.http);
        return r == 0 ? 0 : STATUS_FAILED;
}

int main(int argc, char **argv) {
        int r;

        util_hold_standard_descriptors();
        /* Whoever reads what it says may go away, or stop reading; the daemon does not. */
        signal(SIGPIPE, SIG_IGN);
        r = log_start();
        if (r < 0)
                log_error("Cannot start: %s", strerror(-r));
        r = r < 0 ? STATUS_FAILED : run(argc, argv);
        notify_flush();
        log_stop();
        return r;
}
