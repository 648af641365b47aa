#pragma once

/*
 * Whose a process is, as its environment says: msd gives each process that it starts a variable with what identifies the
 * msd, and the place at which that msd serves. Thus an msd finds what a dead one has left there, and touches nothing of a
 * living one.
 */

#include <stdbool.h>
#include <sys/types.h>

#define OWNER_VARIABLE "MSD_OWNER"

/* A path, and four numbers. */
#define OWNER_MAX (4096 + 4 * 21 + 1)

enum owner {
        OWNER_NONE,             /* no msd, or one of another place */
        OWNER_SELF,
        OWNER_DEAD,             /* an msd at the same place that has ended */
        OWNER_LIVING,           /* an msd at the same place that lives, or of which that cannot be told */
};

/*
 * The value for this process: PID:START:PID-NAMESPACE:TIME-NAMESPACE:PLACE. A pid means something within its PID namespace,
 * and the time of a start within its time namespace; an msd of others is never taken for dead. Neither outlives the machine's
 * run, and nor does a process with the variable.
 */
void owner_format(char value[static OWNER_MAX], const char *place);

/* Whose the process with the variable `value` is, for the msd whose own is `own`. */
enum owner owner_compare(const char *own, const char *value);

/* The same of a process. One whose environment cannot be read, or was overwritten, is nobody's. */
enum owner owner_of(pid_t pid, const char *own);
