#pragma once

#include <stdint.h>

/*
 * Takes a TCP port at 127.0.0.1 for a server that is yet to start, and may start anew: the socket that has it does not
 * listen, so that who sets SO_REUSEADDR may listen there, socket(7), while nobody is given it by chance. Returns a descriptor,
 * which the caller closes when the port is no longer needed, or -errno.
 */
int port_take(uint16_t *port);
