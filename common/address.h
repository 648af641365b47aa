#pragma once

/*
 * Socket addresses, and where the request socket is when nobody says.
 * Pure: what it needs of the environment is handed in.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

/* The longest path of a Unix socket, with its final NUL: unix(7). */
#define ADDRESS_PATH_MAX sizeof(((struct sockaddr_un *)NULL)->sun_path)

/* The socket of the system's daemon. */
#define ADDRESS_SYSTEM_PATH "/run/msd/msd.sock"

enum {
        ADDRESS_EMPTY = 1,
        ADDRESS_TOO_LONG,
        ADDRESS_UNKNOWN,        /* nobody says where the socket is */
};

/*
 * Makes the address of the Unix socket at `path`.
 * Returns 0, ADDRESS_EMPTY, or ADDRESS_TOO_LONG if it needs more than ADDRESS_PATH_MAX bytes.
 */
int address_from_path(const char *path, struct sockaddr_un *address, socklen_t *len);

struct address_environment {
        const char *msd_socket;         /* $MSD_SOCKET; for mscli alone */
        const char *runtime_directory;  /* $RUNTIME_DIRECTORY, which may be a list: systemd.exec(5) */
        const char *xdg_runtime_dir;    /* $XDG_RUNTIME_DIR */
        bool root;                      /* the effective user is root */
};

/*
 * Where the request socket is when no option says: $MSD_SOCKET, else msd.sock in the first of $RUNTIME_DIRECTORY,
 * else ADDRESS_SYSTEM_PATH for root, else msd.sock in $XDG_RUNTIME_DIR. An empty variable counts as unset.
 * Returns 0, ADDRESS_UNKNOWN, or ADDRESS_TOO_LONG.
 */
int address_default_path(const struct address_environment *environment, char path[static ADDRESS_PATH_MAX]);
