#include "daemon/model/owner.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/util.h"
#include "daemon/model/process.h"

struct identity {
        struct process_id id;
        uint64_t pid_namespace;
        uint64_t time_namespace;
        const char *place;
};

static uint64_t namespace_of(const char *path) {
        struct stat st;

        return stat(path, &st) < 0 ? 0 : st.st_ino;
}

void owner_format(char value[static OWNER_MAX], const char *place) {
        struct process self = { .id.pid = getpid() };

        (void)process_read(getpid(), &self);
        snprintf(value, OWNER_MAX, "%d:%" PRIu64 ":%" PRIu64 ":%" PRIu64 ":%s", (int)getpid(), self.id.started,
                 namespace_of("/proc/self/ns/pid"), namespace_of("/proc/self/ns/time"), place);
}

static bool parse(const char *value, struct identity *identity) {
        int pid, length = 0;

        if (sscanf(value, "%d:%" SCNu64 ":%" SCNu64 ":%" SCNu64 ":%n", &pid, &identity->id.started, &identity->pid_namespace,
                   &identity->time_namespace, &length) != 4 ||
            length == 0 || pid <= 0)
                return false;
        identity->id.pid = pid;
        identity->place = value + length;
        return true;
}

/* Of this PID namespace. A process that the kernel does not show is none only if no signal could reach it either. */
static bool is_dead(const struct process_id *id) {
        struct process process;

        if (kill(id->pid, 0) < 0 && errno == ESRCH)
                return true;
        return process_read(id->pid, &process) == 0 &&
               (process.id.started != id->started || process_has_ended(&process));
}

enum owner owner_compare(const char *own, const char *value) {
        struct identity self, other;

        if (strcmp(own, value) == 0)
                return OWNER_SELF;
        if (!parse(own, &self) || !parse(value, &other) || strcmp(self.place, other.place) != 0)
                return OWNER_NONE;
        return self.pid_namespace == other.pid_namespace && self.time_namespace == other.time_namespace && self.id.started > 0 &&
                               is_dead(&other.id) ?
                       OWNER_DEAD :
                       OWNER_LIVING;
}

enum owner owner_of(pid_t pid, const char *own) {
        static const char prefix[] = OWNER_VARIABLE "=";
        _cleanup_free_ char *variable = NULL;
        enum owner owner = OWNER_NONE;
        size_t room = 0;
        char path[64];
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
        file = fopen(path, "re");
        if (!file)
                return OWNER_NONE;
        while (owner == OWNER_NONE && getdelim(&variable, &room, '\0', file) >= 0)
                if (strncmp(variable, prefix, sizeof(prefix) - 1) == 0)
                        owner = owner_compare(own, variable + sizeof(prefix) - 1);
        fclose(file);
        return owner;
}
