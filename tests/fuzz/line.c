/*
 * A stream in arbitrary cuts: whatever they are, the same lines and payloads come out of it as a reader takes that has
 * all of it before him; also if the buffer goes on in another process now and then.
 */

#include "common/line.h"
#include "common/util.h"
#include "tests/fuzz/fuzz.h"

/* A line `pN` has a payload of N bytes behind it, `sN` one that is skipped; N is two hexadecimal digits. */
static bool counted(const char *text, size_t len, char what, size_t *n) {
        char digits[3] = { 0 }, *end;

        if (len != 3 || text[0] != what)
                return false;
        memcpy(digits, text + 1, 2);
        *n = strtoul(digits, &end, 16);
        return *end == '\0' && digits[0] != '+' && digits[0] != '-' && digits[0] != ' ';
}

/* What came out: one record each. */
struct out {
        char *data;
        size_t len;
        size_t size;
};

static void put(struct out *out, char what, const char *data, size_t len) {
        while (out->size - out->len < len + 32) {
                out->size = MAX(out->size * 2, (size_t)4096);
                out->data = realloc(out->data, out->size);
                expect(out->data);
        }
        out->len += (size_t)sprintf(out->data + out->len, "%c%zu:", what, len);
        if (len > 0)
                memcpy(out->data + out->len, data, len);
        out->len += len;
}

/* What has all of it. */

/* The line end at `at`: how long it is; 0: there is none; -1: it may still come. */
static int end_at(const char *data, size_t len, size_t at) {
        if (at == len || (data[at] == '\r' && at + 1 == len))
                return -1;
        return data[at] == '\n' ? 1 : data[at] == '\r' && data[at + 1] == '\n' ? 2 : 0;
}

static size_t next_line(const char *data, size_t len, size_t at) {
        const char *end = memchr(data + at, '\n', len - at);

        return end ? (size_t)(end - data) + 1 : len;
}

static void read_whole(struct out *out, const char *data, size_t len) {
        size_t at = 0;

        while (at < len) {
                const char *line = data + at, *end = memchr(line, '\n', len - at);
                size_t n = end ? (size_t)(end - line) : len - at, before = out->len, count;
                int r;

                if (n > 0 && line[n - 1] == '\r')
                        n--;
                if (n > LINE_MAX_LENGTH) {
                        put(out, 'T', NULL, 0);
                        at = next_line(data, len, at);
                        continue;
                }
                if (!end)
                        return;
                put(out, 'L', line, n);
                at = (size_t)(end - data) + 1;
                if (counted(line, n, 'p', &count)) {
                        r = count > len - at ? -1 : end_at(data, len, at + count);
                        if (r < 0) {
                                /* Not before the payload is whole. */
                                out->len = before;
                                return;
                        }
                        put(out, r > 0 ? 'P' : 'U', data + at, count);
                } else if (counted(line, n, 's', &count)) {
                        if (count > len - at)
                                return;
                        r = end_at(data, len, at + count);
                        if (r < 0)
                                return;
                } else
                        continue;
                at = r > 0 ? at + count + (size_t)r : next_line(data, len, at + count);
        }
}

/* What has it cut. */

static void take(struct out *out, struct line *line) {
        const char *text, *payload;
        size_t len, n;
        int r;

        while ((r = line_next(line, &text, &len)) != 0) {
                size_t before = out->len;

                if (r == LINE_TOO_LONG) {
                        put(out, 'T', NULL, 0);
                        continue;
                }
                expect(r == LINE_TAKEN);
                expect(len <= LINE_MAX_LENGTH);
                put(out, 'L', text, len);
                if (counted(text, len, 's', &n))
                        line_skip(line, n);
                if (!counted(text, len, 'p', &n))
                        continue;
                r = line_payload(line, n, &payload);
                if (r == 0) {
                        /* It comes again. */
                        out->len = before;
                        break;
                }
                put(out, r == LINE_TAKEN ? 'P' : 'U', payload, n);
        }
        expect(line_keep(line) == 0);
}

static void feed(struct out *out, struct line *line, char *scratch, size_t scratch_size, const char *data, size_t len) {
        while (len > 0) {
                size_t space, n;
                char *to;

                expect(line_space(line, scratch, scratch_size, &to, &space) == 0);
                expect(space > 0);
                n = MIN(space, len);
                memcpy(to, data, n);
                line_filled(line, n);
                take(out, line);
                data += n;
                len -= n;
        }
}

/* As a successor has it: what was not taken comes again, and the state. What waits for a payload begins with its line. */
static void move(struct out *out, struct line *line, char *scratch, size_t scratch_size) {
        const struct line_state state = line_state(line);
        size_t len = line_left(line);
        struct line next = LINE_NULL;
        char *rest = malloc(len + 1);

        expect(rest);
        if (len > 0)
                memcpy(rest, line_rest(line), len);
        line_deinit(line);
        line_set_state(&next, &state);
        feed(out, &next, scratch, scratch_size, rest, len);
        *line = next;
        free(rest);
}

/* First where it is cut: bytes up to a zero, each a length; over 0xf0 they tell to move. Then the stream. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct out whole = { 0 }, cut = { 0 };
        struct line line = LINE_NULL;
        struct input cuts = { data, size }, input;
        size_t scratch_size, i = 0, cuts_count;
        char *scratch;

        if (size < 2)
                return 0;
        scratch_size = 1 + (size_t)input_byte(&cuts) * 8;
        cuts_count = strnlen((const char *)cuts.data, cuts.len);
        input = (struct input){ cuts.data + cuts_count, cuts.len - cuts_count };
        (void)input_byte(&input);
        read_whole(&whole, (const char *)input.data, input.len);

        scratch = malloc(scratch_size);
        expect(scratch);
        while (input.len > 0) {
                uint8_t choice = cuts_count > 0 ? cuts.data[i++ % cuts_count] : 0;
                size_t n = MIN(input.len, choice == 0 ? input.len : choice);

                if (choice > 0xf0)
                        move(&cut, &line, scratch, scratch_size);
                feed(&cut, &line, scratch, scratch_size, (const char *)input.data, n);
                input.data += n;
                input.len -= n;
        }
        expect(whole.len == cut.len && (whole.len == 0 || memcmp(whole.data, cut.data, whole.len) == 0));
        line_deinit(&line);
        free(scratch);
        free(whole.data);
        free(cut.data);
        return 0;
}
