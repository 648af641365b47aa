#pragma once

/*
 * How far a load is, for people: in words, and as a bar on a terminal.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "62 %, about 40s left", or as much of it as is known: negative is not. Returns its length, 0 for nothing. */
#define BAR_WORDS_MAX 80
size_t bar_words(char buffer[static BAR_WORDS_MAX], double fraction, int64_t left);

/*
 * One line for a terminal of `columns` columns: a bar, as long as there is room, and `text` behind it, in which each byte
 * beyond ASCII becomes `?`, so that a byte is a column. A terminal that is too narrow for both gets the text alone, cut.
 * Without a fraction (negative) there is no bar. Returns its length; nothing of it moves the cursor.
 */
#define BAR_LINE_MAX 1024
size_t bar_line(char buffer[static BAR_LINE_MAX], double fraction, const char *text, size_t columns, bool colour);

/* How many columns a line may have on the terminal at `fd`, so that it stays on one row. */
size_t bar_columns(int fd);

/* Whether people read what is drawn at `fd`: it is a terminal that can erase a line. Whether in colours, $NO_COLOR says. */
bool bar_is_for(int fd);
bool bar_has_colour(void);
