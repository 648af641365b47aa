#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/address.h"
#include "common/printable.h"
#include "common/util.h"
#include "daemon/model/listening.h"
#include "daemon/model/upstream_inner.h"

#define NAMED_MAX 96

/* A process in words: `pid` 0 is one that cannot be seen. */
static const char *name_process(pid_t pid, uid_t uid, char text[static NAMED_MAX]) {
        char path[64], name[32] = "";
        FILE *file;

        if (pid <= 0) {
                if (uid == (uid_t)-1)
                        return "another process";
                snprintf(text, NAMED_MAX, "a process of user %u", uid);
                return text;
        }
        snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
        file = fopen(path, "re");
        if (file) {
                name[fread(name, 1, sizeof(name) - 1, file)] = '\0';
                fclose(file);
        }
        name[strcspn(name, "\n")] = '\0';
        snprintf(text, NAMED_MAX, "process %d%s%s%s", (int)pid, name[0] ? " (" : "", printable_line(name), name[0] ? ")" : "");
        return text;
}

static const char *place_of(const struct upstream *upstream) {
        return upstream->target.socket[0] ? upstream->target.socket : target_authority(&upstream->target);
}

/* --- Before the start: nobody else listens there, who would be taken for the model and get all prompts. */

/* Who listens at `path`. Returns 1, 0 if nobody does, or -errno. */
static int find_listener(const char *path, struct ucred *listener) {
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        socklen_t socklen, len = sizeof(*listener);
        struct sockaddr_un address;

        if (fd < 0)
                return -errno;
        *listener = (struct ucred){ .uid = (uid_t)-1 };
        if (address_from_path(path, &address, &socklen) != 0)
                return -EINVAL;
        if (connect(fd, (const struct sockaddr *)&address, socklen) < 0)
                /* A full backlog is somebody's too. */
                return errno == ECONNREFUSED || errno == ENOENT ? 0 : errno == EAGAIN ? 1 : -errno;
        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, listener, &len) < 0 ? -errno : 1;
}

static void refuse_start(struct upstream *upstream, const char *who) {
        snprintf(upstream->start_error, sizeof(upstream->start_error), "Cannot start %s: %s: %s", upstream->options.command[0],
                 place_of(upstream), who);
        upstream_probe_after(upstream, 0);
}

static void refuse_listener(struct upstream *upstream, pid_t pid, uid_t uid) {
        char text[NAMED_MAX], who[NAMED_MAX + 32];

        snprintf(who, sizeof(who), "%s listens there", name_process(pid, uid, text));
        refuse_start(upstream, who);
}

/* A server that finds a socket file at its place does not start: what an earlier one has left there is removed. */
static void clear_path(struct upstream *upstream) {
        const char *path = upstream->target.socket;
        struct ucred listener;
        struct stat st;
        int r;

        if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode)) {
                upstream_start_child(upstream);
                return;
        }
        r = find_listener(path, &listener);
        if (r > 0 && !child_has_left(&upstream->child, &listener)) {
                refuse_listener(upstream, listener.pid, listener.uid);
                return;
        }
        if (r >= 0 && unlink(path) < 0 && errno != ENOENT)
                r = -errno;
        if (r < 0)
                refuse_start(upstream, strerror(-r));
        else
                upstream_start_child(upstream);
}

void upstream_clear_place(struct upstream *upstream) {
        if (upstream->target.socket[0])
                clear_path(upstream);
        else {
                upstream->phase = PHASE_CLEARING;
                upstream_probe_after(upstream, 0);
        }
}

/* A server that listens there now is somebody else's: the own one is gone. */
void upstream_leave_place(struct upstream *upstream) {
        const char *path = upstream->target.socket;
        struct ucred listener;
        struct stat st;

        if (path[0] && lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && find_listener(path, &listener) == 0)
                (void)unlink(path);
}

void upstream_place_probed(struct upstream *upstream, bool accepts) {
        const struct endpoint *endpoint = &upstream->fetcher.resolver.endpoints[upstream->fetcher.current];
        const struct listening_socket *socket;
        struct listening listening;
        struct ucred holder;

        if (!accepts) {
                upstream_start_child(upstream);
                return;
        }
        socket = listening_find(&listening, &endpoint->address) == 0 ? listening_foreign(&listening) : NULL;
        if (!socket) {
                refuse_listener(upstream, 0, (uid_t)-1);
                return;
        }
        holder = (struct ucred){ .pid = listening_holder(socket), .uid = socket->uid };
        if (holder.pid > 0 && child_has_left(&upstream->child, &holder))
                upstream_start_child(upstream);
        else
                refuse_listener(upstream, holder.pid, holder.uid);
}

/* --- After it is ready: it is the server that listens there. */

static void say_unseen(struct upstream *upstream, const char *why) {
        char warning[512];

        if (upstream->place_unseen_said)
                return;
        upstream->place_unseen_said = true;
        snprintf(warning, sizeof(warning), "Cannot check who listens at %s, going on: %s", place_of(upstream), why);
        upstream->events->warned(upstream->events, warning);
}

struct looked_for {
        pid_t pid;
        bool found;
};

static void look_for(pid_t pid, void *data) {
        struct looked_for *looked_for = data;

        looked_for->found |= pid == looked_for->pid;
}

/* A path that is not in the table: it was bound relative to a directory, or in another network namespace. */
static bool is_peer_own(struct upstream *upstream, struct ucred *peer) {
        const int r = upstream->target.socket[0] ? find_listener(upstream->target.socket, peer) : 0;
        struct looked_for looked_for = { .pid = peer->pid };

        if (r <= 0 || peer->pid <= 0) {
                say_unseen(upstream, "no socket is seen there");
                return true;
        }
        child_each_process(&upstream->child, look_for, &looked_for);
        return looked_for.found;
}

bool upstream_place_is_own(struct upstream *upstream, const struct endpoint *endpoint, char *reason, size_t size) {
        const struct listening_socket *socket;
        struct listening listening;
        struct ucred peer = { .uid = (uid_t)-1 };
        char text[NAMED_MAX];
        int r;

        if (!upstream_is_own(upstream))
                return true;
        r = listening_find(&listening, &endpoint->address);
        if (r < 0) {
                say_unseen(upstream, strerror(-r));
                return true;
        }
        if (listening.count == 0) {
                if (is_peer_own(upstream, &peer))
                        return true;
        } else {
                child_each_process(&upstream->child, listening_look, &listening);
                socket = listening_foreign(&listening);
                /* The table has the paths of all mount namespaces; the kernel tells who listens at the one of this. */
                if (!socket || (upstream->target.socket[0] && is_peer_own(upstream, &peer)))
                        return true;
                peer = (struct ucred){ .pid = listening_holder(socket), .uid = socket->uid };
                if (listening.unseen && peer.pid == 0) {
                        say_unseen(upstream, "what its processes hold is hidden");
                        return true;
                }
        }
        snprintf(reason, size, "%s: %s, which msd did not start, listens there; see --upstream-owner", place_of(upstream),
                 name_process(peer.pid, peer.uid, text));
        return false;
}
