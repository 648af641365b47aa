#pragma once

/*
 * Text in the heads of HTTP messages: for http.c and what stands beside it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/util.h"

/* The longest body that is told of beforehand, and the longest chunk. */
#define HTTP_LENGTH_MAX ((uint64_t)INT64_MAX)

/* More options than this no Connection has a use for: each field is compared with all of them. */
#define HTTP_OPTIONS_MAX 64

/* What a token consists of (RFC 9110, 5.6.2), and a host, perhaps with a port (RFC 3986, 3.2). */
enum {
        HTTP_CHAR_TOKEN = 1,
        HTTP_CHAR_AUTHORITY = 2,
        HTTP_CHAR_BOTH = HTTP_CHAR_TOKEN | HTTP_CHAR_AUTHORITY,
};

#define BOTH HTTP_CHAR_BOTH
#define TOKEN HTTP_CHAR_TOKEN
#define AUTHORITY HTTP_CHAR_AUTHORITY
static const uint8_t http_chars[256] = {
        ['0' ... '9'] = BOTH, ['A' ... 'Z'] = BOTH, ['a' ... 'z'] = BOTH,
        ['!'] = BOTH, ['$'] = BOTH, ['%'] = BOTH, ['&'] = BOTH, ['\''] = BOTH, ['*'] = BOTH,
        ['+'] = BOTH, ['-'] = BOTH, ['.'] = BOTH, ['_'] = BOTH, ['~'] = BOTH,
        ['#'] = TOKEN, ['^'] = TOKEN, ['`'] = TOKEN, ['|'] = TOKEN,
        ['('] = AUTHORITY, [')'] = AUTHORITY, [','] = AUTHORITY, [';'] = AUTHORITY,
        ['='] = AUTHORITY, [':'] = AUTHORITY, ['['] = AUTHORITY, [']'] = AUTHORITY,
};
#undef BOTH
#undef TOKEN
#undef AUTHORITY

/* Whether all characters are of this kind. */
static inline bool http_are_chars(const char *text, size_t len, uint8_t kind) {
        for (size_t i = 0; i < len; i++)
                if (!(http_chars[(unsigned char)text[i]] & kind))
                        return false;
        return true;
}

/*
 * Whether `text`, whatever its case, is `name`, which is in lower case. That is what this comparison comes to where `name` has
 * letters, digits, '-', '/' and ':' alone, and `text` no control characters.
 */
static inline bool http_is_lower(const char *text, size_t len, const char *name, size_t name_len) {
        if (len != name_len)
                return false;
        for (size_t i = 0; i < len; i++)
                if ((text[i] | 0x20) != name[i])
                        return false;
        return true;
}
#define HTTP_IS(text, len, name) http_is_lower(text, len, name, sizeof(name) - 1)

static inline bool http_is_space(char c) {
        return c == ' ' || c == '\t';
}

/* Without the white space around it. */
static inline void http_trim(const char **text, size_t *len) {
        while (*len > 0 && http_is_space(**text)) {
                (*text)++;
                (*len)--;
        }
        while (*len > 0 && http_is_space((*text)[*len - 1]))
                (*len)--;
}

/* The next element of a comma-separated list, of which `*text` and `*len` are what is left; false: there is none. */
static inline bool http_next_element(const char **text, size_t *len, const char **element, size_t *element_len) {
        while (*len > 0) {
                const char *comma = memchr(*text, ',', *len);

                *element = *text;
                *element_len = comma ? (size_t)(comma - *text) : *len;
                *text += *element_len + (comma != NULL);
                *len -= *element_len + (comma != NULL);
                http_trim(element, element_len);
                if (*element_len > 0)
                        return true;
        }
        return false;
}

/* Writes `text`, and returns where the next goes. */
static inline char *http_put(char *to, const char *text, size_t len) {
        return (char *)mempcpy(to, text, len);
}
#define HTTP_PUT(to, literal) http_put(to, literal, sizeof(literal) - 1)
