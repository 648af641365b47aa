#pragma once

/*
 * How long loads took, from one process of the daemon to the next: a small file in $STATE_DIRECTORY. A thread of its own
 * writes it, so that no other waits for a disk. What is damaged in it, or foreign to it, is ignored.
 */

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/model/progress.h"

#define HISTORY_ENTRIES_MAX 16

/* Room for the text of all entries, and the longest file that is looked at. */
#define HISTORY_TEXT_MAX 2048

struct history {
        struct history_entry {
                uint64_t key;                   /* of what is loaded */
                struct progress_earlier earlier;
        } entries[HISTORY_ENTRIES_MAX];         /* the latest last */
        unsigned count;
        char path[PATH_MAX];                    /* empty: nothing is kept */
        pthread_t writer;
        bool writing;                           /* there is a thread to join */
};

/* Reads what is kept in `directory`, which is the first of several with colons between them; NULL: nothing is kept. */
void history_init(struct history *history, const char *directory);

/* Waits for what is being written, for a second at the most. */
void history_deinit(struct history *history);

/* What identifies that which is loaded: the sum of all strings up to NULL, one after the other. Begin with HISTORY_KEY. */
#define HISTORY_KEY UINT64_C(0xcbf29ce484222325)
uint64_t history_key(uint64_t key, const char *const *strings);

/* What is known of `key`; `total` is 0 if nothing is. */
struct progress_earlier history_find(const struct history *history, uint64_t key);

/* A load has taken so long: that counts as much as all before it. Written soon. */
void history_add(struct history *history, uint64_t key, const struct progress_earlier *earlier);

/* The text of the file, and its entries again. history_parse() takes nothing of a text that is not whole. */
size_t history_format(const struct history *history, char text[static HISTORY_TEXT_MAX]);
void history_parse(struct history *history, const char *text);
