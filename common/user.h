#pragma once

/*
 * Whom this process obeys: root, and the user that it runs as.
 */

#include <stdbool.h>
#include <sys/types.h>

/*
 * Whether `uid`, as the kernel tells it of another process (SO_PEERCRED, SCM_CREDENTIALS), is one of them. It may have to
 * read a file of /proc.
 */
bool user_is_trusted(uid_t uid);
