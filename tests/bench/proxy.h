#pragma once

/*
 * The proxies that are compared, each a child with two threads or processes that keeps connections on both sides and writes no
 * log: TCP at the loopback on both sides. What goes wrong here ends the program.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum proxy_kind {
        PROXY_FLOOR,
        PROXY_HAPROXY,
        PROXY_NGINX,
        PROXY_MSD,
        PROXY_KINDS,
};

struct proxy {
        pid_t pid;
        uint16_t port;
        int output_fd;          /* what it says, for proxy_start_simulated() */
};

#define PROXY_NULL { .output_fd = -1 }

/* `relay` is the floor. */
void proxies_init(const char *msd, const char *relay);
void proxies_deinit(void);

const char *proxy_name(enum proxy_kind kind);
bool proxy_exists(enum proxy_kind kind);

/* Starts one before the model server at a port, for many connections. `streams`: each event is passed on at once. */
void proxy_start(struct proxy *proxy, enum proxy_kind kind, uint16_t upstream_port, bool streams);

/* Starts msd with a simulated model, which loads for so many seconds. */
void proxy_start_simulated(struct proxy *proxy, unsigned load_seconds);

/* Harmless for one that was not started, or was stopped. */
void proxy_stop(struct proxy *proxy);

/* The request socket of msd, and a file for what strace counts. */
const char *proxy_msd_path(void);
const char *proxy_trace_path(void);
