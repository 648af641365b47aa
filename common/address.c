#include "common/address.h"

#include <stdio.h>
#include <string.h>

#define SOCKET_NAME "msd.sock"

int address_from_path(const char *path, struct sockaddr_un *address, socklen_t *len) {
        size_t n = strlen(path);

        if (n == 0)
                return ADDRESS_EMPTY;
        if (n >= ADDRESS_PATH_MAX)
                return ADDRESS_TOO_LONG;

        *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
        memcpy(address->sun_path, path, n + 1);
        *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
        return 0;
}

static bool is_set(const char *variable) {
        return variable && variable[0] != '\0';
}

int address_default_path(const struct address_environment *environment, char path[static ADDRESS_PATH_MAX]) {
        int n;

        if (is_set(environment->msd_socket))
                n = snprintf(path, ADDRESS_PATH_MAX, "%s", environment->msd_socket);
        else if (is_set(environment->runtime_directory))
                n = snprintf(path, ADDRESS_PATH_MAX, "%.*s/" SOCKET_NAME,
                             (int)strcspn(environment->runtime_directory, ":"), environment->runtime_directory);
        else if (environment->root)
                n = snprintf(path, ADDRESS_PATH_MAX, "%s", ADDRESS_SYSTEM_PATH);
        else if (is_set(environment->xdg_runtime_dir))
                n = snprintf(path, ADDRESS_PATH_MAX, "%s/" SOCKET_NAME, environment->xdg_runtime_dir);
        else
                return ADDRESS_UNKNOWN;

        return n < 0 || (size_t)n >= ADDRESS_PATH_MAX ? ADDRESS_TOO_LONG : 0;
}
