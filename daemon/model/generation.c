#include "daemon/model/generation.h"

#include <errno.h>
#include <stdlib.h>

int generation_new(struct generation **generationp, unsigned number) {
        struct generation *generation = calloc(1, sizeof(*generation));
        int r;

        if (!generation)
                return -ENOMEM;
        list_init(&generation->link);
        generation->number = number;
        r = gate_init(&generation->gate);
        if (r < 0) {
                free(generation);
                return r;
        }
        *generationp = generation;
        return 0;
}

struct generation *generation_free(struct generation *generation) {
        if (!generation)
                return NULL;
        list_remove(&generation->link);
        gate_deinit(&generation->gate);
        free(generation);
        return NULL;
}
