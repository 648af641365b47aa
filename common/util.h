#pragma once

/*
 * Cleanup attributes, container_of() and the few macros that every room uses.
 */

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define MIN(a, b) ({ __typeof__(a) min_a = (a); __typeof__(b) min_b = (b); min_a < min_b ? min_a : min_b; })
#define MAX(a, b) ({ __typeof__(a) max_a = (a); __typeof__(b) max_b = (b); max_a > max_b ? max_a : max_b; })

/* The object of which `pointer` is the member `member`. */
#define container_of(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))

/* Runs `function` with the address of the variable when it goes out of scope. */
#define _cleanup_(function) __attribute__((cleanup(function)))
#define _cleanup_free_ _cleanup_(util_free_pointer)
#define _cleanup_close_ _cleanup_(util_close_pointer)

/* Hands the object on: the variable, and with it the cleanup, is left empty. */
#define STEAL_POINTER(p) ({ __typeof__(p) stolen = (p); (p) = NULL; stolen; })
#define STEAL_FD(fd) ({ int stolen_fd = (fd); (fd) = -1; stolen_fd; })

/* What a system call returns that is made again when a signal interrupts it: so often at the most, for none is made for ever. */
#define UTIL_RETRY_MAX 100
#define UTIL_RETRY(call)                                                                                \
        ({                                                                                              \
                ssize_t retry_r;                                                                        \
                                                                                                        \
                for (unsigned retry_n = 0; (retry_r = (call)) < 0 && errno == EINTR; retry_n++)         \
                        if (retry_n == UTIL_RETRY_MAX)                                                  \
                                break;                                                                  \
                retry_r;                                                                                \
        })

static inline void util_free_pointer(void *p) {
        free(*(void **)p);
}

/* Closes `fd` if it is one, and returns the empty value to store in its place. */
static inline int util_close(int fd) {
        if (fd >= 0)
                close(fd);
        return -1;
}

static inline void util_close_pointer(int *fd) {
        *fd = util_close(*fd);
}

/* Whoever starts a program without one of the three would have a socket of it take its place, and get what it prints. */
static inline void util_hold_standard_descriptors(void) {
        int fd;

        /* Open the other way: reading from it, or writing to it, still fails. */
        do
                fd = open("/dev/null", fcntl(STDIN_FILENO, F_GETFD) < 0 ? O_WRONLY : O_RDONLY);
        while (fd >= 0 && fd <= STDERR_FILENO);
        util_close(fd);
}
