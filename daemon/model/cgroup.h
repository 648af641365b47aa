#pragma once

/*
 * What the kernel says of the control group of this process, in which its children are too: cgroups(7), version 2.
 */

#include <stdint.h>

/* How many processes of the group the kernel has killed so far because it was out of memory. 0: it does not say. */
uint64_t cgroup_oom_kills(void);

/* The same of the text of memory.events. */
uint64_t cgroup_parse_oom_kills(const char *text);
