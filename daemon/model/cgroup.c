#include "daemon/model/cgroup.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/util.h"

static void read_file(const char *path, char *text, size_t size) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? 0 : read(fd, text, size - 1);

        text[MAX(n, 0)] = '\0';
}

uint64_t cgroup_parse_oom_kills(const char *text) {
        const char *line = strstr(text, "oom_kill ");
        uint64_t n;

        return line && (line == text || line[-1] == '\n') && sscanf(line, "oom_kill %" SCNu64, &n) == 1 ? n : 0;
}

uint64_t cgroup_oom_kills(void) {
        char groups[PATH_MAX], path[PATH_MAX + 64], text[1024];
        const char *group;

        read_file("/proc/self/cgroup", groups, sizeof(groups));
        /* Of several hierarchies the one of version 2 has no number. */
        group = strstr(groups, "0::/");
        if (!group || (group > groups && group[-1] != '\n'))
                return 0;
        snprintf(path, sizeof(path), "/sys/fs/cgroup%.*s/memory.events", (int)strcspn(group + 3, "\n"), group + 3);
        read_file(path, text, sizeof(text));
        return cgroup_parse_oom_kills(text);
}
