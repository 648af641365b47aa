#include "common/printable.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "common/util.h"

/* The length of the character that begins here; 0: these bytes are no UTF-8 (RFC 3629). */
static size_t decode(const unsigned char *text, size_t len, uint32_t *character) {
        static const uint32_t least[] = { [2] = 0x80, [3] = 0x800, [4] = 0x10000 };
        size_t n = 1;

        *character = text[0];
        if (text[0] < 0x80)
                return 1;
        if (text[0] >= 0xc0 && text[0] < 0xe0)
                n = 2;
        else if (text[0] >= 0xe0 && text[0] < 0xf0)
                n = 3;
        else if (text[0] >= 0xf0 && text[0] < 0xf8)
                n = 4;
        if (n == 1 || n > len)
                return 0;
        *character &= 0x7fu >> n;
        for (size_t i = 1; i < n; i++) {
                if ((text[i] & 0xc0) != 0x80)
                        return 0;
                *character = *character << 6 | (text[i] & 0x3f);
        }
        /* Too long a form, a half of a UTF-16 pair, or beyond Unicode. */
        if (*character < least[n] || (*character >= 0xd800 && *character <= 0xdfff) || *character > 0x10ffff)
                return 0;
        return n;
}

static bool is_control(uint32_t character) {
        return character < 0x20 || (character >= 0x7f && character <= 0x9f) ||
               character == 0x2028 || character == 0x2029 ||                 /* separators of lines and paragraphs */
               character == 0x061c || character == 0x200e || character == 0x200f || /* marks, */
               (character >= 0x202a && character <= 0x202e) ||               /* embeddings and overrides, */
               (character >= 0x2066 && character <= 0x2069);                 /* and isolates of a direction */
}

/* The length of the control sequence that begins here (ECMA-48, 5.4); 0: there is none. */
static size_t control_sequence(const unsigned char *text, size_t len) {
        size_t n = 2;

        if (len < 3 || text[0] != 0x1b || text[1] != '[')
                return 0;
        while (n < len && text[n] >= 0x20 && text[n] <= 0x3f)
                n++;
        return n < len && text[n] >= 0x40 && text[n] <= 0x7e ? n + 1 : 0;
}

size_t printable(char *to, size_t size, const char *text, size_t len) {
        const unsigned char *p = (const unsigned char *)text, *end = p + len;
        size_t written = 0;

        if (size == 0)
                return 0;
        while (p < end) {
                size_t left = (size_t)(end - p), n = control_sequence(p, left);
                uint32_t character;

                if (n > 0) {
                        p += n;
                        continue;
                }
                n = decode(p, left, &character);
                if (n == 0 || is_control(character)) {
                        if (written + 1 >= size)
                                break;
                        to[written++] = n == 0 ? '?' : ' ';
                        p += MAX(n, (size_t)1);
                        continue;
                }
                if (written + n >= size)
                        break;
                memmove(to + written, p, n);
                written += n;
                p += n;
        }
        to[written] = '\0';
        return written;
}

char *printable_line(char *text) {
        size_t len = strlen(text);

        (void)printable(text, len + 1, text, len);
        return text;
}
