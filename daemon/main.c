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
        log_error("%s\nTry 'msd --help'.", error);
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

/*
 * What the service manager has passed: the request socket has the name `msd`, or is the only one that listens. What is
 * parked is for the server. `elsewhere`: an option says where clients connect, and nothing else is of use. Returns 0, or
 * the exit status, having printed why.
 */
static int take_passed(struct listener_socket *socket, struct parked_list *parked, bool elsewhere) {
        struct passed *passed;
        int n = notify_passed(&passed), only = -1, named = -1, others = 0;

        if (n < 0) {
                log_error("Cannot use what the service manager passed: %s", strerror(-n));
                return STATUS_USAGE;
        }
        for (int i = 0; i < n; i++) {
                if (parked_list_add(parked, passed[i].name, passed[i].fd))
                        continue;
                if (elsewhere) {
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
        if (named < 0 || !notify_is_listening(named)) {
                log_error("Cannot use what the service manager passed: no Unix stream socket that listens has the name msd");
                return STATUS_USAGE;
        }
        *socket = (struct listener_socket){ .fd = named, .file = -1 };
        return 0;
}

/* Where clients connect. Returns 0, or the exit status, having printed why. */
static int open_socket(struct listener_socket *socket, const char *path, char buffer[static ADDRESS_PATH_MAX]) {
        int r;

        if (!path) {
                if (socket->fd >= 0)
                        return 0;
                path = default_path(buffer);
                if (!path)
                        return STATUS_USAGE;
        }

        r = listener_socket_open(socket, path);
        switch (r) {
        case 0:
                return 0;
        case LISTENER_IN_USE:
                log_error("%s: in use by a daemon that is running; stop it, or choose another --socket", path);
                break;
        case LISTENER_NOT_A_SOCKET:
                log_error("%s: there is a file that is no socket; remove it, or choose another --socket", path);
                break;
        case LISTENER_PATH_EMPTY:
                log_error("--socket: the path is empty");
                break;
        case LISTENER_PATH_TOO_LONG:
                log_error("%s: the path of a socket has %zu bytes at most", path, ADDRESS_PATH_MAX - 1);
                break;
        default:
                log_error("%s: cannot listen there: %s", path, strerror(-r));
        }
        return STATUS_USAGE;
}

int main(int argc, char **argv) {
        struct listener_socket socket = LISTENER_SOCKET_NULL;
        struct parked_list parked = { 0 };
        static struct model_server server;
        char path[ADDRESS_PATH_MAX], error[512];
        struct options options;
        int r;

        switch (options_parse(&options, argc, argv, error, sizeof(error))) {
        case OPTIONS_HELP:
                return fputs(options_help, stdout) < 0 || fflush(stdout) != 0 ? STATUS_FAILED : 0;
        case OPTIONS_VERSION:
                return puts("msd " MSD_VERSION) < 0 || fflush(stdout) != 0 ? STATUS_FAILED : 0;
        case OPTIONS_WRONG:
                return wrong_usage(error);
        }

        if (options.upstream) {
                const struct upstream_options upstream = {
                        .url = options.upstream,
                        .ready_line = options.ready_line,
                        .completion_options = options.completion_options,
                };

                if (upstream_check(&upstream, error, sizeof(error)) < 0)
                        return wrong_usage(error);
        }

        /* Whoever reads standard output may go away; the daemon does not. */
        signal(SIGPIPE, SIG_IGN);
        r = take_passed(&socket, &parked, options.socket != NULL);
        if (r == 0)
                r = open_socket(&socket, options.socket, path);
        if (r != 0)
                return r;

        r = model_server_init(&server, &options, &socket, &parked);
        if (r == 0)
                r = model_server_run(&server);
        model_server_deinit(&server);
        return r == 0 ? 0 : STATUS_FAILED;
}
