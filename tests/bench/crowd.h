#pragma once

/* 5,000 clients over HTTP: the memory of each, and how long it takes to answer all of them when the model is ready. */

#include "tests/bench/model.h"
#include "tests/bench/proxy.h"

/* Prints a table, of medians of so many rounds. `model` and `proxy` are in use meanwhile. */
void crowd_print_memory(struct model *model, struct proxy *proxy, unsigned rounds);
void crowd_print_release(struct proxy *proxy, unsigned rounds);
