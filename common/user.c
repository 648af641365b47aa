#include "common/user.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "common/util.h"

/* Of each user whom a user namespace does not have, the kernel says that it is this one: user_namespaces(7). */
#define NOBODY 65534

/* Whether everybody has a number here, as in the first user namespace. */
static bool namespace_has_everybody(void) {
        _cleanup_close_ int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
        unsigned first, outside, count;
        char map[256];
        ssize_t n = fd < 0 ? -1 : read(fd, map, sizeof(map) - 1);

        if (n < 0)
                return false;
        map[n] = '\0';
        return sscanf(map, "%u %u %u", &first, &outside, &count) == 3 && first == 0 && count == UINT32_MAX;
}

bool user_is_trusted(uid_t uid) {
        if (uid == 0)
                return true;
        return uid == geteuid() && (uid != NOBODY || namespace_has_everybody());
}
