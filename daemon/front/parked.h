#pragma once

/*
 * What a predecessor has parked (parking.h), as a service manager hands it to this process: taken over, and checked
 * as any input is.
 */

#include "daemon/front/http.h"
#include "daemon/front/unix.h"

/* A pair and a log. */
struct parked {
        char *name;
        int log;
        int pair[2];
};

struct parked_list {
        struct parked *items;
        unsigned count;
};

/*
 * The manager passed `fd` under this name. Returns whether it is for here: then it is the list's, or closed, with a
 * diagnostic, where it is nothing that could be parked.
 */
bool parked_list_add(struct parked_list *list, const char *name, int fd);

/* Closes all. Harmless for memory that is all zero. */
void parked_list_deinit(struct parked_list *list);

/*
 * Takes over the connections and what waits on them. It stays parked as it was until it is parked anew, if there is a
 * reason to; then the keeper is told to release it. A connection that cannot be taken over is ended, and its client is
 * told why if it waits; but nothing is said where a part of an answer may have left. `http` may be NULL: HTTP is
 * disabled. Returns how many connections there are more.
 */
unsigned parked_adopt(struct parked *parked, struct front *front, struct http *http);
