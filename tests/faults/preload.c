/*
 * What a program under test gets with LD_PRELOAD, so that faults reach it at an exact moment.
 *
 *      FAULTS_STOP=1           it stops before main(), until SIGCONT: strace has time to come
 *      FAULTS_ALLOC=N[-M]      the N-th allocation since then, or the N-th to the M-th, finds no memory; 0: none
 *      FAULTS_COUNT=FILE       how many allocations there were is written there at its end
 *
 * What it starts itself has none of this.
 */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* glibc's own, by the names that it gives to those who stand in front of them; and what dlsym(3) finds. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *pointer, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static int (*lookup)(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **found);

/* Within a function that does not survive it. */
static _Thread_local bool spared;

static struct {
        bool counts;
        unsigned long first, last;
        atomic_ulong n;
        char file[256];
} alloc;

static bool fails(void) {
        unsigned long n;

        if (!alloc.counts || spared)
                return false;
        n = atomic_fetch_add(&alloc.n, 1) + 1;
        if (n < alloc.first || n > alloc.last)
                return false;
        errno = ENOMEM;
        return true;
}

void *malloc(size_t size) {
        return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size) {
        return fails() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *pointer, size_t size) {
        return fails() ? NULL : __libc_realloc(pointer, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
        return fails() ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **pointer, size_t alignment, size_t size) {
        *pointer = fails() ? NULL : __libc_memalign(alignment, size);
        return *pointer ? 0 : ENOMEM;
}

/* Memory alone: not the files that are mapped. */
void *mmap(void *address, size_t len, int protection, int flags, int fd, off_t offset) {
        if (flags & MAP_ANONYMOUS && fails())
                return MAP_FAILED;
        return (void *)syscall(SYS_mmap, address, len, protection, flags, fd, offset);
}

/* As a whole: without memory for its own, glibc 2.36 aborts or falls over it, where it reads /etc/nsswitch.conf. */
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **found) {
        int r;

        if (fails())
                return EAI_MEMORY;
        spared = true;
        r = lookup(host, port, hints, found);
        spared = false;
        return r;
}

__attribute__((constructor)) static void begin(void) {
        const char *range = getenv("FAULTS_ALLOC"), *file = getenv("FAULTS_COUNT");
        bool stops = getenv("FAULTS_STOP");

        if (range) {
                char *end;

                alloc.first = alloc.last = strtoul(range, &end, 10);
                if (*end == '-')
                        alloc.last = strtoul(end + 1, NULL, 10);
        }
        if (file)
                snprintf(alloc.file, sizeof(alloc.file), "%s", file);
        *(void **)&lookup = dlsym(RTLD_NEXT, "getaddrinfo");
        unsetenv("LD_PRELOAD");
        unsetenv("FAULTS_ALLOC");
        unsetenv("FAULTS_COUNT");
        unsetenv("FAULTS_STOP");
        /* Where nobody but a parent may trace otherwise: ptrace(2), Yama. */
        (void)prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
        if (stops)
                (void)raise(SIGSTOP);
        alloc.counts = range != NULL;
}

__attribute__((destructor)) static void end(void) {
        char text[32];
        int fd, n;

        if (!alloc.file[0])
                return;
        fd = open(alloc.file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        n = snprintf(text, sizeof(text), "%lu\n", atomic_load(&alloc.n));
        if (fd < 0 || write(fd, text, (size_t)n) != n)
                abort();
        close(fd);
}
