#pragma once

/*
 * One printable line of UTF-8 of whatever a model, a client or a file has said, for a log, a terminal, a head of HTTP or a
 * service manager. Pure: no I/O, no allocation.
 */

#include <stddef.h>

/*
 * Writes `len` bytes of `text` to `to`, with a NUL behind them, cut between two characters where `size` has no room for them.
 * A space takes the place of each control character (also those of U+0080 to U+009F), line and paragraph separator, and
 * character that changes the direction of what follows; `?` that of each byte that is no UTF-8. Colours and other control
 * sequences of a terminal (ESC [ …) are left out. The result is never longer than the text, and `to` may be `text`.
 * Returns its length.
 */
size_t printable(char *to, size_t size, const char *text, size_t len);

/* The same in place, for a string. Returns it. */
char *printable_line(char *text);
