/*
 * Chunked bodies, in any cuts: they say the same as in one piece, and as http-parser says; or they are malformed.
 */

#include <errno.h>

#include "common/util.h"
#include "daemon/net/http.h"
#include "tests/fuzz/reference.h"

struct out {
        char *text;
        size_t len;
        size_t consumed;
        bool is_malformed;
        bool is_done;
};

/* `cuts`: the lengths of the pieces, again and again; none: it is one. */
static void take(struct out *out, const uint8_t *data, size_t len, const uint8_t *cuts, size_t cuts_count) {
        const struct http_request request = { .chunked = true, .content_length = HTTP_LENGTH_UNKNOWN };
        struct http_body body;
        size_t i = 0;

        *out = (struct out){ .text = malloc(len + 1) };
        expect(out->text);
        http_body_of_request(&body, &request);
        while (out->consumed < len && !body.done) {
                size_t n = len - out->consumed, taken;
                char *piece;
                ssize_t r;

                if (cuts_count > 0)
                        n = MIN(n, (size_t)cuts[i++ % cuts_count]);
                /* No longer than it is. */
                piece = malloc(n);
                expect(piece);
                memcpy(piece, data + out->consumed, n);
                taken = n;
                r = http_body_take(&body, piece, &taken);
                if (r < 0) {
                        expect(r == -EBADMSG);
                        free(piece);
                        out->is_malformed = true;
                        return;
                }
                expect(taken <= n && (size_t)r <= taken && (body.done || taken == n));
                memcpy(out->text + out->len, piece, (size_t)r);
                out->len += (size_t)r;
                out->consumed += taken;
                free(piece);
        }
        out->is_done = body.done;
        expect(http_body_end(&body) == body.done);
}

/* What http-parser says of it, if it was taken: that it ends there, too, and the same. */
static void compare(const struct out *out, const uint8_t *data) {
        static const char head[] = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        static const char begin[] = "POST /\nTransfer-Encoding:chunked\n\n";
        size_t head_len = sizeof(head) - 1, begin_len = sizeof(begin) - 1;
        char *message = malloc(head_len + out->consumed);
        struct reference reference;

        expect(message);
        memcpy(message, head, head_len);
        memcpy(message + head_len, data, out->consumed);
        reference_read(&reference, false, false, message, head_len + out->consumed);
        expect(reference.transcript.is_complete == out->is_done);
        if (out->is_done)
                expect(reference.consumed == (ssize_t)(head_len + out->consumed));
        expect(reference.transcript.len == begin_len + out->len);
        expect(memcmp(reference.transcript.text, begin, begin_len) == 0);
        expect(memcmp(reference.transcript.text + begin_len, out->text, out->len) == 0);
        free(reference.transcript.text);
        free(message);
}

/* First where it is cut: bytes up to a zero, each a length. Then the body, and what is behind it. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        size_t cuts_count = size > 0 ? strnlen((const char *)data, size) : 0;
        const uint8_t *body;
        struct out whole, cut;
        size_t len;

        if (cuts_count >= size)
                return 0;
        body = data + cuts_count + 1;
        len = size - cuts_count - 1;
        take(&whole, body, len, NULL, 0);
        take(&cut, body, len, data, cuts_count);
        expect(whole.is_malformed == cut.is_malformed);
        if (!whole.is_malformed) {
                expect(whole.len == cut.len && memcmp(whole.text, cut.text, whole.len) == 0);
                expect(whole.consumed == cut.consumed && whole.is_done == cut.is_done);
                compare(&whole, body);
        }
        free(whole.text);
        free(cut.text);
        return 0;
}
