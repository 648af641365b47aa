#pragma once

/*
 * What every system test program begins with: where the programs under test are, a directory for everything
 * it makes, and libcheck's runner. All of it is gone at the end, however the tests went.
 */

#include <check.h>
#include <stdbool.h>
#include <stddef.h>

/* Where the programs are: $MSD and $MSCLI, else build/msd and build/mscli. */
const char *suite_msd(void);
const char *suite_mscli(void);

/* Makes a new directory that everybody may enter, and writes its path: short enough for a socket in it. */
#define SUITE_PATH_MAX 80
void suite_directory(char path[static SUITE_PATH_MAX]);

/* Removes it, and what is in it. */
void suite_remove(const char *path);

/* Copies the program at `from` to the new file `to`, where everybody can run it. */
void suite_copy_program(const char *from, const char *to);

/* Says that a test is left out, and why. */
void suite_skip(const char *test, const char *why);

/* Runs what `add` adds to the one test case, and returns the exit status of the program. */
int suite_main(const char *name, void (*add)(TCase *tests));
