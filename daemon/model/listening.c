#include "daemon/model/listening.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/util.h"

/* TCP_LISTEN of the kernel, and __SO_ACCEPTCON of Unix sockets. */
#define STATE_LISTEN 0x0a
#define FLAG_ACCEPTS 0x10000

/* The bytes of an address, as words in the order of the machine. */
static bool read_address(const char *hex, unsigned char *address, size_t size) {
        if (strlen(hex) != 2 * size)
                return false;
        for (size_t i = 0; i < size; i += sizeof(uint32_t)) {
                char digits[9];
                uint32_t word;

                snprintf(digits, sizeof(digits), "%.8s", hex + 2 * i);
                word = (uint32_t)strtoul(digits, NULL, 16);
                memcpy(address + i, &word, sizeof(word));
        }
        return true;
}

bool listening_read_inet(const char *line, int family, struct listening_socket *socket) {
        unsigned port, state, uid;
        char hex[33];

        *socket = (struct listening_socket){ 0 };
        if (sscanf(line, " %*u: %32[0-9A-Fa-f]:%4x %*[0-9A-Fa-f]:%*4x %2x %*x:%*x %*x:%*x %*x %u %*d %" SCNu64, hex, &port,
                   &state, &uid, &socket->inode) != 5 ||
            state != STATE_LISTEN)
                return false;
        socket->uid = uid;
        socket->address.ss_family = (sa_family_t)family;
        if (family == AF_INET) {
                struct sockaddr_in *address = (struct sockaddr_in *)&socket->address;

                address->sin_port = htons((uint16_t)port);
                return read_address(hex, (unsigned char *)&address->sin_addr, sizeof(address->sin_addr));
        } else {
                struct sockaddr_in6 *address = (struct sockaddr_in6 *)&socket->address;

                address->sin6_port = htons((uint16_t)port);
                return read_address(hex, (unsigned char *)&address->sin6_addr, sizeof(address->sin6_addr));
        }
}

bool listening_read_unix(const char *line, struct listening_socket *socket) {
        struct sockaddr_un *address = (struct sockaddr_un *)&socket->address;
        unsigned flags;
        int path = 0;
        size_t len;

        *socket = (struct listening_socket){ .uid = (uid_t)-1 };
        if (sscanf(line, "%*x: %*x %*x %x %*x %*x %" SCNu64 " %n", &flags, &socket->inode, &path) != 2 || path == 0 ||
            !(flags & FLAG_ACCEPTS))
                return false;
        len = strcspn(line + path, "\n");
        if (len == 0 || len >= sizeof(address->sun_path))
                return false;
        address->sun_family = AF_UNIX;
        memcpy(address->sun_path, line + path, len);
        return true;
}

/* An address of TCP: of IPv4 where it is one, however it is written. */
struct inet {
        bool is_v4;
        bool is_any;
        uint16_t port;
        struct in6_addr address;
};

static struct inet inet_of(const struct sockaddr_storage *storage) {
        struct inet inet = { 0 };

        if (storage->ss_family == AF_INET) {
                const struct sockaddr_in *in = (const struct sockaddr_in *)storage;

                inet.is_v4 = true;
                inet.port = in->sin_port;
                memcpy(&inet.address, &in->sin_addr, sizeof(in->sin_addr));
        } else {
                const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)storage;

                inet.is_v4 = IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);
                inet.port = in6->sin6_port;
                if (inet.is_v4)
                        memcpy(&inet.address, &in6->sin6_addr.s6_addr[12], sizeof(struct in_addr));
                else
                        inet.address = in6->sin6_addr;
        }
        inet.is_any = memcmp(&inet.address, &in6addr_any, sizeof(in6addr_any)) == 0;
        return inet;
}

/* Connections to no address go to the loopback. */
static struct inet target_of(const struct sockaddr_storage *storage) {
        struct inet inet = inet_of(storage);
        const struct in_addr loopback = { htonl(INADDR_LOOPBACK) };

        if (inet.is_any && inet.is_v4)
                memcpy(&inet.address, &loopback, sizeof(loopback));
        else if (inet.is_any)
                inet.address = in6addr_loopback;
        return inet;
}

unsigned listening_match(const struct sockaddr_storage *target, const struct sockaddr_storage *bound) {
        struct inet to, at;

        if (target->ss_family == AF_UNIX || bound->ss_family == AF_UNIX)
                return target->ss_family == bound->ss_family &&
                       strncmp(((const struct sockaddr_un *)target)->sun_path, ((const struct sockaddr_un *)bound)->sun_path,
                               sizeof(((const struct sockaddr_un *)target)->sun_path)) == 0;
        to = target_of(target);
        at = inet_of(bound);
        if (to.port != at.port)
                return 0;
        if (to.is_v4 == at.is_v4)
                return at.is_any ? 2 : memcmp(&to.address, &at.address, sizeof(to.address)) == 0 ? 3 : 0;
        /* [::] takes those of IPv4 too, unless IPV6_V6ONLY says otherwise, which cannot be seen. */
        return at.is_any && !at.is_v4 ? 1 : 0;
}

struct search {
        struct listening *listening;
        const struct sockaddr_storage *address;
        unsigned match;
};

static void consider(struct search *search, const struct listening_socket *socket) {
        struct listening *listening = search->listening;
        const unsigned match = listening_match(search->address, &socket->address);

        if (match == 0 || match < search->match)
                return;
        if (match > search->match)
                listening->count = 0;
        search->match = match;
        if (listening->count < LISTENING_MAX)
                listening->sockets[listening->count++] = *socket;
}

static int read_table(struct search *search, const char *path, int family) {
        FILE *file = fopen(path, "re");
        _cleanup_free_ char *line = NULL;
        struct listening_socket socket;
        bool is_first = true;
        size_t size = 0;

        if (!file)
                return -errno;
        while (getline(&line, &size, file) > 0) {
                const bool listens = family == AF_UNIX ? listening_read_unix(line, &socket) :
                                                         listening_read_inet(line, family, &socket);

                if (listens)
                        consider(search, &socket);
                else if (family != AF_UNIX && !is_first)
                        break;          /* those that listen come first, of a hundred thousand others perhaps */
                is_first = false;
        }
        fclose(file);
        return 0;
}

int listening_find(struct listening *listening, const struct sockaddr_storage *address) {
        struct search search = { listening, address, 0 };
        int r;

        *listening = (struct listening){ 0 };
        if (address->ss_family == AF_UNIX)
                return read_table(&search, "/proc/self/net/unix", AF_UNIX);
        r = read_table(&search, "/proc/self/net/tcp", AF_INET);
        if (r < 0)
                return r;
        /* There is none where IPv6 is disabled. */
        r = read_table(&search, "/proc/self/net/tcp6", AF_INET6);
        return r == -ENOENT ? 0 : r;
}

/* Calls `found` with the inode of each socket that `pid` holds, until it returns true. Returns false: they cannot be seen. */
static bool each_socket(pid_t pid, bool (*found)(uint64_t inode, void *data), void *data) {
        char path[64], target[64];
        struct dirent *entry;
        DIR *directory;

        snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        directory = opendir(path);
        if (!directory)
                /* It has ended meanwhile: that is no secret. */
                return errno == ENOENT || errno == ESRCH;
        while ((entry = readdir(directory))) {
                ssize_t n = readlinkat(dirfd(directory), entry->d_name, target, sizeof(target) - 1);
                uint64_t inode;

                target[MAX(n, 0)] = '\0';
                if (sscanf(target, "socket:[%" SCNu64 "]", &inode) == 1 && found(inode, data))
                        break;
        }
        closedir(directory);
        return true;
}

static bool note_held(uint64_t inode, void *data) {
        struct listening *listening = data;

        for (unsigned i = 0; i < listening->count; i++)
                listening->held[i] |= listening->sockets[i].inode == inode;
        return false;
}

void listening_look(pid_t pid, void *data) {
        struct listening *listening = data;

        listening->unseen |= !each_socket(pid, note_held, listening);
}

const struct listening_socket *listening_foreign(const struct listening *listening) {
        for (unsigned i = 0; i < listening->count; i++)
                if (!listening->held[i])
                        return &listening->sockets[i];
        return NULL;
}

struct holding {
        uint64_t inode;
        bool is_held;
};

static bool is_held(uint64_t inode, void *data) {
        struct holding *holding = data;

        holding->is_held |= inode == holding->inode;
        return holding->is_held;
}

pid_t listening_holder(const struct listening_socket *socket) {
        struct holding holding = { .inode = socket->inode };
        DIR *directory = opendir("/proc");
        struct dirent *entry;
        pid_t pid = 0;

        if (!directory)
                return 0;
        while (pid == 0 && (entry = readdir(directory))) {
                if (!isdigit((unsigned char)entry->d_name[0]))
                        continue;
                (void)each_socket((pid_t)atoi(entry->d_name), is_held, &holding);
                if (holding.is_held)
                        pid = (pid_t)atoi(entry->d_name);
        }
        closedir(directory);
        return pid;
}
