#include "daemon/model/resolver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/address.h"
#include "common/number.h"
#include "common/util.h"

/* getaddrinfo(3) loads libraries, and reads files and answers into buffers on its stack. */
#define STACK_SIZE (512u << 10)

/* Shared by the resolver and the thread; each has a reference, so either may be the last. */
struct lookup {
        struct watch watch;             /* of the eventfd that the thread writes when it is done */
        struct resolver *resolver;
        atomic_uint references;
        atomic_bool done;
        int fd;
        int error;                      /* of getaddrinfo(3) */
        int system_error;
        char host[sizeof(((struct target *)NULL)->host)];
        char port[sizeof(((struct target *)NULL)->port)];
        struct endpoint endpoints[RESOLVER_ENDPOINTS_MAX];
        unsigned count;
};

/* Reads HOST[:PORT] of `len` bytes. Returns whether it is that. */
static bool parse_authority(struct target *target, const char *text, size_t len) {
        const char *host = text, *end = memchr(text, ':', len), *port;
        size_t host_len = end ? (size_t)(end - text) : len;
        uint64_t number = 80;

        if (*text == '[') {
                end = memchr(text, ']', len);
                if (!end)
                        return false;
                host++;
                host_len = (size_t)(end - host);
                end++;
        } else if (!end)
                end = text + len;
        port = end < text + len ? end + 1 : NULL;
        if (host_len == 0 || host_len >= sizeof(target->host) || memchr(host, '@', host_len) || (port && *end != ':'))
                return false;
        if (port && (number_parse(port, (size_t)(text + len - port), UINT16_MAX, &number) != 0 || number == 0))
                return false;
        memcpy(target->host, host, host_len);
        snprintf(target->port, sizeof(target->port), "%u", (unsigned)number);
        return true;
}

/* Whether it can stand in a request: printable ASCII, without a query or a fragment. */
static bool is_plain(const char *url) {
        for (const unsigned char *p = (const unsigned char *)url; *p; p++)
                if (*p <= ' ' || *p >= 0x7f || *p == '?' || *p == '#')
                        return false;
        return true;
}

int target_parse(struct target *target, const char *url) {
        static const char scheme[] = "http://";
        char *authority = target->base + sizeof(scheme) - 1, *path;

        *target = (struct target){ 0 };
        if (strncmp(url, "unix:", 5) == 0) {
                if (!url[5] || strlen(url + 5) >= sizeof(target->socket))
                        return -EINVAL;
                snprintf(target->socket, sizeof(target->socket), "%s", url + 5);
                snprintf(target->base, sizeof(target->base), "http://localhost");
                return 0;
        }
        if (strncmp(url, scheme, sizeof(scheme) - 1) != 0 || strlen(url) >= sizeof(target->base) || !is_plain(url))
                return -EINVAL;
        snprintf(target->base, sizeof(target->base), "%s", url);
        path = authority + strcspn(authority, "/");
        if (!parse_authority(target, authority, (size_t)(path - authority)))
                return -EINVAL;
        if (*path) {
                snprintf(target->path, sizeof(target->path), "%s", path);
                *path = '\0';
                for (size_t len = strlen(target->path); len > 0 && target->path[len - 1] == '/'; len--)
                        target->path[len - 1] = '\0';
        }
        return 0;
}

const char *target_authority(const struct target *target) {
        return target->base + strlen("http://");
}

/* Keeps what getaddrinfo(3) has found. */
static unsigned take_found(struct endpoint *endpoints, const struct addrinfo *found) {
        unsigned count = 0;

        for (; found && count < RESOLVER_ENDPOINTS_MAX; found = found->ai_next) {
                memcpy(&endpoints[count].address, found->ai_addr, found->ai_addrlen);
                endpoints[count++].len = found->ai_addrlen;
        }
        return count;
}

static int look_up(const char *host, const char *port, int flags, struct endpoint *endpoints, unsigned *count) {
        const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags };
        struct addrinfo *found = NULL;
        int r = getaddrinfo(host, port, &hints, &found);

        if (r != 0)
                return r;
        *count = take_found(endpoints, found);
        freeaddrinfo(found);
        return 0;
}

static void lookup_release(struct lookup *lookup) {
        if (atomic_fetch_sub(&lookup->references, 1) > 1)
                return;
        close(lookup->fd);
        free(lookup);
}

static void *lookup_run(void *data) {
        struct lookup *lookup = data;
        const uint64_t one = 1;

        lookup->error = look_up(lookup->host, lookup->port, AI_ADDRCONFIG, lookup->endpoints, &lookup->count);
        lookup->system_error = errno;
        /* AI_ADDRCONFIG does not count loopback addresses: a machine that has no others resolves nothing with it. */
        if (lookup->error == EAI_NONAME || lookup->error == EAI_NODATA || lookup->error == EAI_ADDRFAMILY) {
                lookup->error = look_up(lookup->host, lookup->port, 0, lookup->endpoints, &lookup->count);
                lookup->system_error = errno;
        }
        atomic_store(&lookup->done, true);
        (void)!write(lookup->fd, &one, sizeof(one));
        lookup_release(lookup);
        return NULL;
}

static void lookup_ready(struct watch *watch, uint32_t events) {
        struct lookup *lookup = container_of(watch, struct lookup, watch);
        struct resolver *resolver = lookup->resolver;
        char error[512] = "";

        (void)events;
        if (!atomic_load(&lookup->done))
                return;
        resolver->count = lookup->count;
        memcpy(resolver->endpoints, lookup->endpoints, lookup->count * sizeof(lookup->endpoints[0]));
        if (lookup->count == 0)
                snprintf(error, sizeof(error), "Cannot resolve %s: %s", lookup->host,
                         lookup->error == EAI_SYSTEM ? strerror(lookup->system_error) : gai_strerror(lookup->error));
        resolver_cancel(resolver);
        resolver->resolved(resolver, error[0] ? error : NULL);
}

/* Signals are for the threads that expect them. Returns 0 or -errno. */
static int start_thread(struct lookup *lookup) {
        pthread_attr_t attributes;
        sigset_t all, before;
        pthread_t thread;
        int r;

        r = pthread_attr_init(&attributes);
        if (r != 0)
                return -r;
        (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        (void)pthread_attr_setstacksize(&attributes, STACK_SIZE);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        r = pthread_create(&thread, &attributes, lookup_run, lookup);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
        return -r;
}

static int start_lookup(struct resolver *resolver, struct reactor *reactor, const struct target *target) {
        struct lookup *lookup = calloc(1, sizeof(*lookup));
        int r;

        if (!lookup)
                return -ENOMEM;
        lookup->resolver = resolver;
        snprintf(lookup->host, sizeof(lookup->host), "%s", target->host);
        snprintf(lookup->port, sizeof(lookup->port), "%s", target->port);
        lookup->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (lookup->fd < 0) {
                r = -errno;
                free(lookup);
                return r;
        }
        atomic_init(&lookup->references, 2);
        r = reactor_watch(reactor, &lookup->watch, lookup->fd, EPOLLIN | EPOLLET, lookup_ready);
        if (r == 0)
                r = start_thread(lookup);
        if (r < 0) {
                reactor_unwatch(&lookup->watch);
                atomic_store(&lookup->references, 1);
                lookup_release(lookup);
                return r;
        }
        resolver->lookup = lookup;
        return RESOLVER_PENDING;
}

int resolver_start(struct resolver *resolver, struct reactor *reactor, const struct target *target) {
        resolver_cancel(resolver);
        resolver->count = 0;
        if (target->socket[0]) {
                struct endpoint *endpoint = &resolver->endpoints[0];
                struct sockaddr_un address;

                if (address_from_path(target->socket, &address, &endpoint->len) != 0)
                        return -EINVAL;
                memcpy(&endpoint->address, &address, endpoint->len);
                resolver->count = 1;
                return 0;
        }
        /* Reads no file, and asks nobody. */
        if (look_up(target->host, target->port, AI_NUMERICHOST, resolver->endpoints, &resolver->count) == 0)
                return 0;
        return start_lookup(resolver, reactor, target);
}

void resolver_cancel(struct resolver *resolver) {
        struct lookup *lookup = STEAL_POINTER(resolver->lookup);

        if (!lookup)
                return;
        reactor_unwatch(&lookup->watch);
        lookup_release(lookup);
}
