#pragma once

/*
 * JSON, as jansson reads and writes it, but whole or not at all: where jansson 2.14 finds no memory for some of a text it
 * leaves that out and goes on, and reads past the end of what it has.
 *
 * What jansson allocates is freed by jansson: json_dumps() and the like are not for who includes this.
 */

#include <jansson.h>
#include <stddef.h>

/* Reads a value that is all of `data`. Returns it, or NULL with errno: EINVAL, it is no JSON; ENOMEM. */
json_t *json_read(const char *data, size_t len);

/* An object or array on one line, for the caller to free(). Returns NULL: out of memory, or `json` is NULL. */
char *json_write(const json_t *json);
