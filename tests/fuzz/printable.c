/*
 * One printable line of anything: UTF-8, without a control character, not longer than the text, the same in place and when it
 * is made printable again. What is printable already stays as it is, up to where it is cut.
 */

#include "common/printable.h"
#include "common/util.h"
#include "tests/fuzz/fuzz.h"

/* A second reader. Whether it is the printable text that it is said to be. */
static bool is_printable(const char *text, size_t len) {
        static const char *const controls[] = { "\u2028", "\u2029", "\u061c", "\u200e", "\u200f", "\u202a", "\u202b", "\u202c",
                                                "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069" };

        for (const unsigned char *p = (const unsigned char *)text, *end = p + len; p < end;) {
                unsigned n = *p < 0x80 ? 1 : *p < 0xc2 ? 0 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 0;

                if (n == 0 || (size_t)(end - p) < n || *p < 0x20 || *p == 0x7f)
                        return false;
                for (unsigned i = 1; i < n; i++)
                        if (p[i] < 0x80 || p[i] > 0xbf)
                                return false;
                if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) ||
                    (*p == 0xf4 && p[1] > 0x8f) || (*p == 0xc2 && p[1] < 0xa0))
                        return false;
                for (unsigned i = 0; i < ARRAY_SIZE(controls); i++)
                        if (n == strlen(controls[i]) && memcmp(p, controls[i], n) == 0)
                                return false;
                p += n;
        }
        return true;
}

/* How much room there is, and the text. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        size_t room = input_byte(&input), n, cut;
        char *text = malloc(input.len + 1), *to = malloc(input.len + 1);

        expect(text && to);
        if (input.len > 0)
                memcpy(text, input.data, input.len);
        n = printable(to, input.len + 1, text, input.len);
        expect(n <= input.len && to[n] == '\0' && memchr(to, '\0', n) == NULL);
        expect(is_printable(to, n));
        if (is_printable(text, input.len))
                expect(n == input.len && memcmp(to, text, n) == 0);
        expect(printable(text, input.len + 1, text, input.len) == n && memcmp(text, to, n + 1) == 0);
        expect(strcmp(printable_line(text), to) == 0);

        /* What has no room is left out, and nothing else. */
        room = MIN(room, input.len);
        if (room > 0) {
                cut = printable(text, room, (const char *)input.data, input.len);
                expect(cut < room && cut <= n && memcmp(text, to, cut) == 0 && is_printable(text, cut));
                expect(cut == n || cut + 4 >= room);
        }
        free(text);
        free(to);
        return 0;
}
