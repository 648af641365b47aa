#pragma once

/*
 * How much of the large files that they have open or mapped the processes of a model server have read, by read(2) or through a
 * mapping.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Files of a model that is in one piece, or in so many. */
#define READING_FILES_MAX 64

struct reading {
        struct reading_file {
                ino_t inode;            /* alone: the device of a mapping is another one on some file systems */
                uint64_t size;
                unsigned parts;         /* of a file that is one of so many of a set; 1: of none */
        } files[READING_FILES_MAX];     /* all that were seen in this attempt */
        unsigned count;
        uint64_t base;                  /* bytes that were read before the first of them was open */
        uint64_t mapped_base;
        uint64_t read;                  /* by read(2) and the like; since the last reading_begin() */
        uint64_t mapped;                /* resident pages of files */
};

/* Nothing is known: before an attempt. */
void reading_init(struct reading *reading);

/* One look at all processes: begin, one call for each process, and the sums. */
void reading_begin(struct reading *reading);
void reading_add(struct reading *reading, pid_t pid);
/* Returns whether there is a file; then of its `*size` bytes, those of all together, `*read` were read. */
bool reading_end(struct reading *reading, uint64_t *read, uint64_t *size);

/* How many files there are in the set that this one belongs to by its name, "model-00002-of-00005.gguf"; 1: in none. */
unsigned reading_count_parts(const char *name);
