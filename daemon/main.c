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
#include "daemon/notify.h"
#include "daemon/options.h"
#include "daemon/server.h"

enum {
        STATUS_FAILED = 1,
        STATUS_USAGE = 2,
};

static int wrong_usage(const char *error) {
        fprintf(stderr, "msd: %s\nTry 'msd --help'.\n", error);
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
                fprintf(stderr, "msd: Where is the socket to be? Neither $RUNTIME_DIRECTORY nor $XDG_RUNTIME_DIR is set; "
                                "use --socket PATH.\n");
                return NULL;
        case ADDRESS_TOO_LONG:
                fprintf(stderr, "msd: The path of the socket is too long (%zu bytes at most); use --socket PATH.\n",
                        ADDRESS_PATH_MAX - 1);
                return NULL;
        }
        /* Made by who starts the daemon elsewhere; here by the first of root's that runs. */
        if (environment.root && strcmp(path, ADDRESS_SYSTEM_PATH) == 0)
                (void)mkdir("/run/msd", 0755);
        return path;
}

/* Returns 0, or the exit status, having printed why. */
static int open_socket(struct listener_socket *socket, const char *path, char buffer[static ADDRESS_PATH_MAX]) {
        int r;

        if (!path) {
                r = notify_listening_socket("msd");
                if (r >= 0) {
                        *socket = (struct listener_socket){ .fd = r, .file = -1 };
                        return 0;
                }
                if (r != -ENOENT) {
                        fprintf(stderr, "msd: Cannot use the socket that the service manager passed: %s\n",
                                strerror(-r));
                        return STATUS_USAGE;
                }
                path = default_path(buffer);
                if (!path)
                        return STATUS_USAGE;
        }

        r = listener_socket_open(socket, path);
        switch (r) {
        case 0:
                return 0;
        case LISTENER_IN_USE:
                fprintf(stderr, "msd: %s: in use by a daemon that is running; stop it, or choose another --socket\n", path);
                break;
        case LISTENER_NOT_A_SOCKET:
                fprintf(stderr, "msd: %s: there is a file that is no socket; remove it, or choose another --socket\n", path);
                break;
        case LISTENER_PATH_EMPTY:
                fprintf(stderr, "msd: --socket: the path is empty\n");
                break;
        case LISTENER_PATH_TOO_LONG:
                fprintf(stderr, "msd: %s: the path of a socket has %zu bytes at most\n", path, ADDRESS_PATH_MAX - 1);
                break;
        default:
                fprintf(stderr, "msd: %s: cannot listen there: %s\n", path, strerror(-r));
        }
        return STATUS_USAGE;
}

int main(int argc, char **argv) {
        struct listener_socket socket = LISTENER_SOCKET_NULL;
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

        /* Whoever reads standard output may go away; the daemon does not. */
        signal(SIGPIPE, SIG_IGN);
        r = open_socket(&socket, options.socket, path);
        if (r != 0)
                return r;

        r = model_server_init(&server, &options, &socket);
        if (r == 0)
                r = model_server_run(&server);
        model_server_deinit(&server);
        return r == 0 ? 0 : STATUS_FAILED;
}
