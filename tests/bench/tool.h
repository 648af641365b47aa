#pragma once

/*
 * What the benchmarks of several programs share: children that end with them, and what they cost. What goes wrong here ends
 * the program.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Has what is left of the program cleaned up, should it end before its time. */
void tool_init(const char *name, void (*clean_up)(void));
void tool_fail(const char *what) __attribute__((noreturn));

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t tool_now(void);

/* Starts a program, whose standard output goes to `output`, or nowhere (-1). */
pid_t tool_start(const char *const *argv, int output);

/* Kills it and those that it has started, and forgets it; harmless for one that is none. */
void tool_stop(pid_t *pid);

/* Connects to a Unix socket, or to a port of this machine, as soon as there is something to connect to. */
int tool_dial(const char *path);
int tool_dial_port(uint16_t port);

/* Microseconds of processor time of a process and of those that it has started. */
double tool_cpu(pid_t pid);

/* The same, once it has come to rest: what it clears up behind the last answer is part of its work. */
double tool_cpu_at_rest(pid_t pid);

/* Resident memory of a process, in bytes. */
double tool_memory(pid_t pid);

/* Its share of resident memory (PSS) and that of those that it has started, in bytes. */
double tool_memory_share(pid_t pid);

/*
 * Has strace(1) count the system calls of a process and of those that it has started, from the return of tool_trace() up to
 * tool_count_calls(), which returns their number. -1: there is no strace on this machine, or it may not trace.
 */
pid_t tool_trace(pid_t pid, const char *path);
double tool_count_calls(pid_t *tracer, const char *path);

/* Lets this process, and those that it starts, have as many descriptors as it may. */
void tool_raise_descriptor_limit(void);

/* Sorts the values. */
double tool_median(double *values, size_t n);
