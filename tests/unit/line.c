#include "common/line.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/unit.h"

/* Allocations that cannot succeed are asked for on purpose. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
        return "allocator_may_return_null=1";
}

const char *__tsan_default_options(void);
const char *__tsan_default_options(void) {
        return "allocator_may_return_null=1";
}

/* And said so by the sanitizer, which is not asked. */
static int stderr_hide(void) {
        int saved = dup(STDERR_FILENO);
        _cleanup_close_ int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

        ck_assert_int_ge(saved, 0);
        ck_assert_int_eq(dup2(null, STDERR_FILENO), STDERR_FILENO);
        return saved;
}

static void stderr_restore(int saved) {
        ck_assert_int_eq(dup2(saved, STDERR_FILENO), STDERR_FILENO);
        util_close(saved);
}

/* How much more than what it keeps a buffer may own. */
#define SLACK 1024

/*
 * A connection in small. It reads these lines:
 *
 *      P <n>   a payload of n bytes follows, which is taken
 *      S <n>   a payload of n bytes follows, which is skipped
 *
 * and takes any other as it is. What it took is written down, one item after the other:
 *
 *      [line]   (payload)   (payload!   of which the end was wrong   <n>   skipped   #   an over-long line
 */
struct reader {
        struct line line;
        char *record;
        size_t record_len;
        size_t record_size;
};

#define READER_NULL { .line = LINE_NULL }

static void record(struct reader *reader, char open, const char *data, size_t len, char close) {
        if (reader->record_size - reader->record_len < len + 3) {
                reader->record_size = reader->record_size * 2 + len + 3;
                reader->record = realloc(reader->record, reader->record_size);
                unit_assert(reader->record, "out of memory");
        }
        if (open)
                reader->record[reader->record_len++] = open;
        if (len > 0)
                memcpy(reader->record + reader->record_len, data, len);
        reader->record_len += len;
        reader->record[reader->record_len++] = close;
        reader->record[reader->record_len] = '\0';
}

static void reader_deinit(struct reader *reader) {
        line_deinit(&reader->line);
        free(reader->record);
        *reader = (struct reader)READER_NULL;
}

static size_t count_of(const char *text, size_t len) {
        size_t n = 0;

        for (size_t i = 2; i < len; i++)
                n = n * 10 + (size_t)(text[i] - '0');
        return n;
}

static void reader_take(struct reader *reader) {
        const char *text, *payload;
        size_t len, n;
        int r;

        while ((r = line_next(&reader->line, &text, &len)) != 0) {
                if (r == LINE_TOO_LONG) {
                        record(reader, 0, NULL, 0, '#');
                        continue;
                }
                unit_assert(r == LINE_TAKEN, "line_next(): %d", r);
                unit_assert(len <= LINE_MAX_LENGTH, "a line of %zu bytes", len);
                if (len < 3 || text[1] != ' ' || (text[0] != 'P' && text[0] != 'S')) {
                        record(reader, '[', text, len, ']');
                        continue;
                }
                n = count_of(text, len);
                if (text[0] == 'S') {
                        record(reader, '<', text + 2, len - 2, '>');
                        line_skip(&reader->line, n);
                        continue;
                }
                r = line_payload(&reader->line, n, &payload);
                if (r == 0)
                        break;
                record(reader, '(', payload, n, r == LINE_TAKEN ? ')' : '!');
        }
}

/* One round: up to `len` bytes into what space there is. Returns how many it took. */
static size_t reader_round(struct reader *reader, const char *data, size_t len, size_t scratch_size) {
        /* Memory of this round alone: who looks at it later is found. */
        char *scratch = malloc(scratch_size), *to = NULL;
        bool kept = reader->line.data != NULL;
        size_t left = line_left(&reader->line), n = 0;

        unit_assert(line_space(&reader->line, scratch, scratch_size, &to, &n) == 0, "no space");
        unit_assert(n >= 1, "space for nothing");
        unit_assert(kept || (to == scratch && n == scratch_size), "the scratch area is not used");
        unit_assert(line_left(&reader->line) == left, "space made of bytes");
        n = MIN(n, len);
        memcpy(to, data, n);
        line_filled(&reader->line, n);
        unit_assert(line_left(&reader->line) == left + n, "%zu bytes more, %zu then", n, line_left(&reader->line));

        reader_take(reader);

        left = line_left(&reader->line);
        unit_assert(line_keep(&reader->line) == 0, "not kept");
        memset(scratch, '?', scratch_size);
        free(scratch);
        unit_assert(line_left(&reader->line) == left, "%zu bytes kept of %zu", line_left(&reader->line), left);
        unit_assert(!reader->line.borrowed, "the scratch area is not let go");
        unit_assert(left == 0 ? !reader->line.data && reader->line.size == 0 : reader->line.data != NULL,
                    "%zu bytes left, and memory for %zu", left, reader->line.size);
        return n;
}

static void reader_feed(struct reader *reader, const char *data, size_t len, size_t scratch_size) {
        while (len > 0) {
                size_t n = reader_round(reader, data, len, scratch_size);

                data += n;
                len -= n;
        }
}

static void assert_record(const struct reader *reader, const char *expected, size_t expected_len, const char *how,
                          size_t a, size_t b) {
        unit_assert(reader->record_len == expected_len &&
                            (expected_len == 0 || memcmp(reader->record, expected, expected_len) == 0),
                    "%s %zu, %zu: \"%.*s\", not \"%.*s\"", how, a, b, unit_len(reader->record_len),
                    reader->record ? reader->record : "", unit_len(expected_len), expected);
}

static void assert_left(const struct reader *reader, size_t left) {
        unit_assert(line_left(&reader->line) == left, "%zu bytes left over", line_left(&reader->line));
}

#define STREAM(bytes, taken, rest) { bytes, sizeof(bytes) - 1, taken, sizeof(taken) - 1, rest }

/* A stream of bytes, what is taken from it, and how many bytes are left over. */
static const struct {
        const char *bytes;
        size_t len;
        const char *taken;
        size_t taken_len;
        size_t rest;
} streams[] = {
        STREAM("", "", 0),
        STREAM("\n", "[]", 0),
        STREAM("\r\n", "[]", 0),
        STREAM("\n\n\r\n\n", "[][][][]", 0),
        STREAM("STATUS\n", "[STATUS]", 0),
        STREAM("STATUS\r\n", "[STATUS]", 0),
        STREAM("STATUS", "", 6),
        STREAM("STATUS\r", "", 7),
        STREAM("a\nbc\r\ndef\n", "[a][bc][def]", 0),
        STREAM("a\nb", "[a]", 1),
        /* One CR before the LF is its own, and no other. */
        STREAM("\r\r\n", "[\r]", 0),
        STREAM("a\r\r\n", "[a\r]", 0),
        STREAM("a\rb\n", "[a\rb]", 0),
        STREAM("\ra\n", "[\ra]", 0),
        STREAM("a\n\rb\n", "[a][\rb]", 0),
        /* NUL and the rest are bytes like any other. */
        STREAM("a\0b\n\0\n", "[a\0b][\0]", 0),
        STREAM("\xff\xfe\n\x80\n", "[\xff\xfe][\x80]", 0),

        STREAM("P 5\nhello\n", "(hello)", 0),
        STREAM("P 5\r\nhello\r\n", "(hello)", 0),
        STREAM("P 5\nhello\nnext\n", "(hello)[next]", 0),
        STREAM("P 0\n\n", "()", 0),
        STREAM("P 0\n\r\n", "()", 0),
        STREAM("P 0\n\nP 0\n\nx\n", "()()[x]", 0),
        STREAM("P 1\na\nP 2\nbc\nP 3\ndef\n", "(a)(bc)(def)", 0),
        STREAM("x\nP 1\na\ny\n", "[x](a)[y]", 0),
        STREAM("P 6\na\nb\nc\n\nx\n", "(a\nb\nc\n)[x]", 0),
        STREAM("P 1\n\n\nx\n", "(\n)[x]", 0),
        STREAM("P 1\n\r\nx\n", "(\r)[x]", 0),
        STREAM("P 1\n\r\r\nx\n", "(\r)[x]", 0),
        STREAM("P 2\n\r\n\nx\n", "(\r\n)[x]", 0),
        STREAM("P 2\n\r\n\r\nx\n", "(\r\n)[x]", 0),
        STREAM("P 3\n\0\n\0\nx\n", "(\0\n\0)[x]", 0),
        STREAM("P 3\nP 9\nx\n", "(P 9)[x]", 0),
        /* Not whole yet: the line goes back, and waits with its payload. */
        STREAM("P 5\n", "", 4),
        STREAM("P 5\nhell", "", 8),
        STREAM("P 5\nhello", "", 9),
        STREAM("P 5\nhello\r", "", 10),
        STREAM("P 0\n", "", 4),
        STREAM("P 0\n\r", "", 5),
        STREAM("x\nP 5\nhel", "[x]", 7),

        /* Something else than a line end behind the payload: dropped up to its LF, and on with the next line. */
        STREAM("P 5\nhelloX\nnext\n", "(hello![next]", 0),
        STREAM("P 5\nhello world, and more\nnext\n", "(hello![next]", 0),
        STREAM("P 5\nhello\rX\nnext\n", "(hello![next]", 0),
        STREAM("P 5\nhello\r\r\nnext\n", "(hello![next]", 0),
        STREAM("P 5\nhelloX\r\nnext\n", "(hello![next]", 0),
        STREAM("P 5\nhello\0\nnext\n", "(hello![next]", 0),
        STREAM("P 5\nhelloX\n\nnext\n", "(hello![][next]", 0),
        STREAM("P 0\nX\nnext\n", "(![next]", 0),
        STREAM("P 2\nabX\nP 2\ncdX\nP 2\nef\n", "(ab!(cd!(ef)", 0),
        STREAM("P 2\nabX\nS 2\ncd\nx\n", "(ab!<2>[x]", 0),
        STREAM("P 2\nabX", "(ab!", 0),
        STREAM("P 2\nab\rX", "(ab!", 0),

        STREAM("S 5\nhello\nnext\n", "<5>[next]", 0),
        STREAM("S 5\r\nhello\r\nnext\r\n", "<5>[next]", 0),
        STREAM("S 0\n\nnext\n", "<0>[next]", 0),
        STREAM("S 0\n\r\nnext\n", "<0>[next]", 0),
        STREAM("S 4\na\n\0\n\nnext\n", "<4>[next]", 0),
        STREAM("S 3\n\r\n\r\nnext\n", "<3>[next]", 0),
        STREAM("S 3\n\r\n\r\r\nnext\n", "<3>[next]", 0),
        STREAM("S 1\na\nS 1\nb\nP 1\nc\n", "<1><1>(c)", 0),
        STREAM("S 5\nhelloX\nnext\n", "<5>[next]", 0),
        STREAM("S 5\nhello\rX\nnext\n", "<5>[next]", 0),
        STREAM("S 0\nX\nnext\n", "<0>[next]", 0),
        STREAM("S 9\nhell", "<9>", 0),
        STREAM("S 4\nhell", "<4>", 0),
        STREAM("S 4\nhell\r", "<4>", 1),
        STREAM("S 4\nhellX", "<4>", 0),
        STREAM("S 18446744073709551615\nabc\n\nP 1\n", "<18446744073709551615>", 0),
};

/* The stream in `_i`, cut into two at every place, with room for all of it. */
START_TEST(cut_in_two) {
        for (size_t a = 0; a <= streams[_i].len; a++) {
                struct reader reader = READER_NULL;

                reader_feed(&reader, streams[_i].bytes, a, 4096);
                reader_feed(&reader, streams[_i].bytes + a, streams[_i].len - a, 4096);
                assert_record(&reader, streams[_i].taken, streams[_i].taken_len, "cut at", a, 0);
                assert_left(&reader, streams[_i].rest);
                reader_deinit(&reader);
        }
}
END_TEST

START_TEST(cut_in_three) {
        for (size_t a = 0; a <= streams[_i].len; a++)
                for (size_t b = a; b <= streams[_i].len; b++) {
                        struct reader reader = READER_NULL;

                        reader_feed(&reader, streams[_i].bytes, a, 4096);
                        reader_feed(&reader, streams[_i].bytes + a, b - a, 4096);
                        reader_feed(&reader, streams[_i].bytes + b, streams[_i].len - b, 4096);
                        assert_record(&reader, streams[_i].taken, streams[_i].taken_len, "cut at", a, b);
                        assert_left(&reader, streams[_i].rest);
                        reader_deinit(&reader);
                }
}
END_TEST

/* In pieces of one size, from byte by byte on, into scratch areas of every size. */
START_TEST(cut_in_pieces) {
        for (size_t piece = 1; piece <= streams[_i].len; piece++)
                for (size_t scratch_size = 1; scratch_size <= streams[_i].len + 1; scratch_size++) {
                        struct reader reader = READER_NULL;

                        for (size_t at = 0; at < streams[_i].len; at += piece)
                                reader_feed(&reader, streams[_i].bytes + at, MIN(piece, streams[_i].len - at),
                                            scratch_size);
                        assert_record(&reader, streams[_i].taken, streams[_i].taken_len, "pieces, scratch", piece,
                                      scratch_size);
                        assert_left(&reader, streams[_i].rest);
                        reader_deinit(&reader);
                }
}
END_TEST

/* All streams that leave nothing over, one behind the other: each begins where the one before it ended. */
START_TEST(cut_all) {
        static const size_t pieces[] = { 1, 2, 3, 5, 7, 64, 511, 512, 513, 100000 };
        struct reader reader = READER_NULL;
        _cleanup_free_ char *bytes = NULL, *taken = NULL;
        size_t len = 0, taken_len = 0, piece = pieces[_i];

        for (size_t i = 0; i < ARRAY_SIZE(streams); i++) {
                bool whole = streams[i].rest == 0 && streams[i].len > 0 &&
                             streams[i].bytes[streams[i].len - 1] == '\n' && !strstr(streams[i].bytes, "S 1844");

                if (!whole)
                        continue;
                bytes = realloc(bytes, len + streams[i].len);
                memcpy(bytes + len, streams[i].bytes, streams[i].len);
                len += streams[i].len;
                taken = realloc(taken, taken_len + streams[i].taken_len);
                memcpy(taken + taken_len, streams[i].taken, streams[i].taken_len);
                taken_len += streams[i].taken_len;
        }
        ck_assert_uint_gt(len, 500);
        for (size_t at = 0; at < len; at += piece)
                reader_feed(&reader, bytes + at, MIN(piece, len - at), 64);
        assert_record(&reader, taken, taken_len, "pieces", piece, 0);
        ck_assert_uint_eq(line_left(&reader.line), 0);
        reader_deinit(&reader);
}
END_TEST

static const char *const ends[] = { "\n", "\r\n" };

/* Lines around the longest, with either end, between two others, in cuts around every limit there is. */
START_TEST(long_lines) {
        static const size_t lengths[] = {
                LINE_MAX_LENGTH - 2, LINE_MAX_LENGTH - 1, LINE_MAX_LENGTH,     LINE_MAX_LENGTH + 1,
                LINE_MAX_LENGTH + 2, LINE_MAX_LENGTH + 3, 2 * LINE_MAX_LENGTH, 10 * LINE_MAX_LENGTH,
        };
        static const size_t scratches[] = { 1, 511, 512, 513, LINE_MAX_LENGTH, LINE_MAX_LENGTH + 1, 65536 };
        size_t length = lengths[_i];

        for (size_t e = 0; e < ARRAY_SIZE(ends); e++)
                for (size_t s = 0; s < ARRAY_SIZE(scratches); s++) {
                        size_t len = 2 + length + strlen(ends[e]) + 2;
                        _cleanup_free_ char *bytes = malloc(len + 1), *expected = malloc(length + 16);

                        memcpy(bytes, "a\n", 2);
                        memset(bytes + 2, 'x', length);
                        snprintf(bytes + 2 + length, 8, "%sb\n", ends[e]);
                        memcpy(expected, "[a]", 4);
                        if (length <= LINE_MAX_LENGTH) {
                                strcat(expected, "[");
                                memset(expected + 4, 'x', length);
                                memcpy(expected + 4 + length, "][b]", 5);
                        } else {
                                strcat(expected, "#[b]");
                        }

                        /* Cut once, wherever something may turn; then in pieces. */
                        for (size_t a = 0; a <= len; a++) {
                                struct reader reader = READER_NULL;

                                if (a > 4 && a < len - 6 && (a < LINE_MAX_LENGTH - 2 || a > LINE_MAX_LENGTH + 6))
                                        continue;
                                reader_feed(&reader, bytes, a, scratches[s]);
                                reader_feed(&reader, bytes + a, len - a, scratches[s]);
                                assert_record(&reader, expected, strlen(expected), "length, cut", length, a);
                                ck_assert_uint_eq(line_left(&reader.line), 0);
                                reader_deinit(&reader);
                        }
                        for (size_t piece = 1; piece < 600; piece += 73) {
                                struct reader reader = READER_NULL;

                                for (size_t at = 0; at < len; at += piece)
                                        reader_feed(&reader, bytes + at, MIN(piece, len - at), scratches[s]);
                                assert_record(&reader, expected, strlen(expected), "length, piece", length, piece);
                                reader_deinit(&reader);
                        }
                }
}
END_TEST

/* An over-long line is known by its first byte too many, reported once, and costs no memory until its LF. */
START_TEST(long_line_is_drained) {
        struct reader reader = READER_NULL;

        for (size_t i = 0; i < LINE_MAX_LENGTH; i++)
                reader_feed(&reader, "x", 1, 64);
        ck_assert_uint_eq(reader.record_len, 0);
        ck_assert_uint_eq(line_left(&reader.line), LINE_MAX_LENGTH);
        ck_assert_uint_le(reader.line.size, 2 * LINE_MAX_LENGTH + SLACK);
        reader_feed(&reader, "x", 1, 64);
        ck_assert_str_eq(reader.record, "#");
        for (size_t i = 0; i < 100000; i++) {
                reader_feed(&reader, i % 2 ? "\r" : "P 5", i % 2 ? 1 : 3, 64);
                unit_assert(!reader.line.data, "%zu bytes held of a dropped line", reader.line.size);
        }
        ck_assert_str_eq(reader.record, "#");
        reader_feed(&reader, "\nx\n", 3, 64);
        ck_assert_str_eq(reader.record, "#[x]");
        reader_deinit(&reader);
}
END_TEST

/* The longest line, and a CR of which nobody knows yet whether it ends it. */
START_TEST(longest_line_and_cr) {
        static const struct {
                const char *behind;
                const char *taken;      /* the longest line itself left out */
        } cases[] = {
                { "\r\n", "" }, { "\r\r", "#" }, { "\rx", "#" }, { "\r\r\n", "#" }, { "x", "#" }, { "\n", "" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct reader reader = READER_NULL;

                for (size_t k = 0; k < LINE_MAX_LENGTH; k++)
                        reader_feed(&reader, "x", 1, 64);
                for (const char *p = cases[i].behind; *p; p++) {
                        ck_assert_uint_eq(reader.record_len, 0);
                        reader_feed(&reader, p, 1, 64);
                        if (*cases[i].taken && reader.record_len > 0)
                                break;
                }
                if (*cases[i].taken)
                        ck_assert_str_eq(reader.record, cases[i].taken);
                else
                        ck_assert_uint_eq(reader.record_len, LINE_MAX_LENGTH + 2);
                reader_deinit(&reader);
        }
}
END_TEST

/* Two over-long lines are two, also when nothing stands between them. */
START_TEST(long_lines_in_a_row) {
        enum { LEN = LINE_MAX_LENGTH + 1 };
        static const size_t pieces[] = { 1, 100, LINE_MAX_LENGTH, LEN, LEN + 1, 3 * LEN, 10 * LEN };
        size_t piece = pieces[_i], len = 3 * (LEN + 1);
        _cleanup_free_ char *bytes = malloc(len);
        struct reader reader = READER_NULL;

        memset(bytes, 'y', len);
        for (size_t i = 1; i <= 3; i++)
                bytes[i * (LEN + 1) - 1] = '\n';
        for (size_t at = 0; at < len; at += piece)
                reader_feed(&reader, bytes + at, MIN(piece, len - at), 65536);
        ck_assert_str_eq(reader.record, "###");
        ck_assert_ptr_null(reader.line.data);
        reader_deinit(&reader);
}
END_TEST

/* Payloads of many sizes, of bytes that look like line ends and commands, come whole through every size of scratch. */
START_TEST(large_payloads) {
        static const size_t sizes[] = { 1, 500, 511, 512, 513, 1023, 1024, 1025, 4096, 65536, 100003 };
        static const size_t scratches[] = { 1, 2, 100, 512, 4096, 262144 };
        size_t size = sizes[_i];
        _cleanup_free_ char *bytes = malloc(size + 64), *expected = malloc(size + 64);
        size_t len, expected_len;
        int head;

        head = snprintf(bytes, 32, "P %zu\n", size);
        for (size_t i = 0; i < size; i++)
                bytes[(size_t)head + i] = "\r\n\0P 1\n\xff"[i * 7 % 8];
        len = (size_t)head + size;
        memcpy(bytes + len, "\r\nend\n", 6);
        len += 6;
        expected[0] = '(';
        memcpy(expected + 1, bytes + head, size);
        memcpy(expected + 1 + size, ")[end]", 6);
        expected_len = size + 7;

        for (size_t s = 0; s < ARRAY_SIZE(scratches); s++) {
                struct reader reader = READER_NULL;

                for (size_t at = 0; at < len;) {
                        /* Pieces of the scratch's size: what a read would give. */
                        at += reader_round(&reader, bytes + at, MIN(scratches[s], len - at), scratches[s]);
                        unit_assert(reader.line.size <= len + SLACK, "%zu bytes for %zu", reader.line.size, len);
                }
                assert_record(&reader, expected, expected_len, "size, scratch", size, scratches[s]);
                ck_assert_ptr_null(reader.line.data);
                reader_deinit(&reader);
        }
}
END_TEST

/* What is only announced costs nothing: memory follows the bytes. */
START_TEST(memory_follows_bytes) {
        struct reader reader = READER_NULL;

        reader_feed(&reader, "P 1000000000000\n", 16, 4096);
        ck_assert_uint_le(reader.line.size, 16 + SLACK);
        for (size_t i = 0; i < 200000; i++) {
                reader_feed(&reader, "x", 1, 4096);
                unit_assert(reader.line.size <= 2 * line_left(&reader.line) + SLACK, "%zu bytes for %zu",
                            reader.line.size, line_left(&reader.line));
        }
        ck_assert_uint_eq(line_left(&reader.line), 200016);
        line_deinit(&reader.line);
        ck_assert_ptr_null(reader.line.data);
        reader_deinit(&reader);
}
END_TEST

/* A skipped payload is never held, however long. */
START_TEST(skip_holds_nothing) {
        static const char zeros[4096];
        struct reader reader = READER_NULL;
        uint64_t skipped = UINT64_C(8) << 20;
        char head[32];
        int n = snprintf(head, sizeof(head), "S %llu\n", (unsigned long long)skipped);

        reader_feed(&reader, head, (size_t)n, 4096);
        for (uint64_t at = 0; at < skipped; at += sizeof(zeros)) {
                reader_feed(&reader, zeros, sizeof(zeros), 4096);
                unit_assert(!reader.line.data, "%zu bytes held of a skipped payload", reader.line.size);
        }
        reader_feed(&reader, "\nx\n", 3, 4096);
        snprintf(head, sizeof(head), "<%llu>[x]", (unsigned long long)skipped);
        ck_assert_str_eq(reader.record, head);
        reader_deinit(&reader);
}
END_TEST

/* Lines without end through one buffer that always keeps a little: it does not grow. */
START_TEST(memory_stays) {
        struct reader reader = READER_NULL;

        reader_feed(&reader, "REQ", 3, 65536);
        for (size_t i = 0; i < 100000; i++) {
                reader_feed(&reader, "UEST 7\nREQ", 10, 65536);
                unit_assert(reader.line.size <= 3 + SLACK, "%zu bytes for 3", reader.line.size);
        }
        ck_assert_uint_eq(line_left(&reader.line), 3);
        ck_assert_uint_eq(reader.record_len, 100000 * (sizeof("[REQUEST 7]") - 1));
        /* And the last byte gives it back. */
        reader_feed(&reader, "\n", 1, 65536);
        ck_assert_ptr_null(reader.line.data);
        reader_deinit(&reader);
}
END_TEST

/* A read that brought nothing (EAGAIN, the end of the stream) changes nothing. */
START_TEST(empty_rounds) {
        struct reader reader = READER_NULL;

        ck_assert_uint_eq(reader_round(&reader, "", 0, 1), 0);
        ck_assert_ptr_null(reader.line.data);
        reader_feed(&reader, "P 3\na", 5, 16);
        for (int i = 0; i < 1000; i++)
                ck_assert_uint_eq(reader_round(&reader, "", 0, 16), 0);
        ck_assert_uint_eq(line_left(&reader.line), 5);
        ck_assert_uint_le(reader.line.size, 5 + SLACK);
        reader_feed(&reader, "bc\n", 3, 16);
        ck_assert_str_eq(reader.record, "(abc)");
        reader_deinit(&reader);
}
END_TEST

/* What line_next() and line_payload() point at is in the buffer, not a copy. */
START_TEST(points_into_buffer) {
        struct line line = LINE_NULL;
        const char *text, *payload;
        char scratch[64], *to;
        size_t n, len;

        ck_assert_int_eq(line_next(&line, &text, &len), 0);
        ck_assert_int_eq(line_space(&line, scratch, sizeof(scratch), &to, &n), 0);
        memcpy(to, "P 3\nabc\nnext\n", 13);
        line_filled(&line, 13);
        ck_assert_int_eq(line_next(&line, &text, &len), LINE_TAKEN);
        ck_assert_ptr_eq(text, scratch);
        ck_assert_uint_eq(len, 3);
        ck_assert_int_eq(line_payload(&line, 3, &payload), LINE_TAKEN);
        ck_assert_ptr_eq(payload, scratch + 4);
        ck_assert_uint_eq(line_left(&line), 5);
        /* What the line said is still there: the ID is needed for the answer. */
        ck_assert_mem_eq(text, "P 3", 3);
        ck_assert_int_eq(line_next(&line, &text, &len), LINE_TAKEN);
        ck_assert_ptr_eq(text, scratch + 8);
        ck_assert_int_eq(line_next(&line, &text, &len), 0);
        ck_assert_int_eq(line_keep(&line), 0);
        ck_assert_ptr_null(line.data);
        line_deinit(&line);
        line_deinit(&line);
}
END_TEST

/* Destroyed in every state there is, twice. */
START_TEST(deinit_anywhere) {
        static const char *const states[] = { "", "x", "x\n", "P 5\nhel", "S 5\nhel", "S 5\nhello\r", "P 1\nab" };
        static const struct line empty = LINE_NULL;

        for (size_t i = 0; i < ARRAY_SIZE(states); i++)
                for (int borrowed = 0; borrowed < 2; borrowed++) {
                        struct line line = LINE_NULL;
                        char scratch[64], *to;
                        const char *text, *payload;
                        size_t n, len;

                        ck_assert_int_eq(line_space(&line, scratch, sizeof(scratch), &to, &n), 0);
                        memcpy(to, states[i], strlen(states[i]));
                        line_filled(&line, strlen(states[i]));
                        if (line_next(&line, &text, &len) == LINE_TAKEN && len == 3) {
                                if (text[0] == 'P')
                                        (void)line_payload(&line, count_of(text, len), &payload);
                                else
                                        line_skip(&line, count_of(text, len));
                        }
                        if (!borrowed)
                                ck_assert_int_eq(line_keep(&line), 0);
                        for (int twice = 0; twice < 2; twice++) {
                                line_deinit(&line);
                                ck_assert_ptr_null(line.data);
                                ck_assert_uint_eq(line_left(&line), 0);
                                ck_assert_uint_eq(line.skip, empty.skip);
                                ck_assert(!line.skip_end && !line.draining && !line.borrowed);
                        }
                }
}
END_TEST

/* No memory for more: the buffer is as it was. (It is made to believe that it holds half of all memory.) */
START_TEST(space_without_memory) {
        char *data = malloc(16), *to = NULL;
        struct line line = { .data = data, .end = SIZE_MAX / 4, .size = SIZE_MAX / 4 }, before = line;
        size_t n = 0;
        int saved = stderr_hide();

        ck_assert_int_eq(line_space(&line, NULL, 0, &to, &n), -ENOMEM);
        stderr_restore(saved);
        ck_assert_ptr_eq(line.data, data);
        ck_assert_uint_eq(line.start, before.start);
        ck_assert_uint_eq(line.end, before.end);
        ck_assert_uint_eq(line.size, before.size);
        ck_assert_ptr_null(to);
        line_deinit(&line);
}
END_TEST

/* No memory to keep what is left: it is lost, and the scratch area let go. */
START_TEST(keep_without_memory) {
        char scratch[16];
        struct line line = { .data = scratch, .end = SIZE_MAX / 2, .size = SIZE_MAX / 2, .borrowed = true };
        int saved = stderr_hide();

        ck_assert_int_eq(line_keep(&line), -ENOMEM);
        stderr_restore(saved);
        ck_assert_ptr_null(line.data);
        ck_assert_uint_eq(line_left(&line), 0);
        ck_assert_uint_eq(line.size, 0);
        ck_assert_int_eq(line.borrowed, 0);
        line_deinit(&line);
}
END_TEST

static Suite *line_suite(void) {
        Suite *suite = suite_create("line");
        TCase *cuts = tcase_create("cuts"), *limits = tcase_create("limits"), *memory = tcase_create("memory");

        tcase_set_timeout(cuts, 60);
        unit_add_table(cuts, cut_in_two, streams);
        unit_add_table(cuts, cut_in_three, streams);
        unit_add_table(cuts, cut_in_pieces, streams);
        tcase_add_loop_test(cuts, cut_all, 0, 10);
        suite_add_tcase(suite, cuts);

        tcase_set_timeout(limits, 60);
        tcase_add_loop_test(limits, long_lines, 0, 8);
        tcase_add_test(limits, long_line_is_drained);
        tcase_add_test(limits, longest_line_and_cr);
        tcase_add_loop_test(limits, long_lines_in_a_row, 0, 7);
        tcase_add_loop_test(limits, large_payloads, 0, 11);
        suite_add_tcase(suite, limits);

        tcase_set_timeout(memory, 60);
        tcase_add_test(memory, memory_follows_bytes);
        tcase_add_test(memory, skip_holds_nothing);
        tcase_add_test(memory, memory_stays);
        tcase_add_test(memory, empty_rounds);
        tcase_add_test(memory, points_into_buffer);
        tcase_add_test(memory, deinit_anywhere);
        tcase_add_test(memory, space_without_memory);
        tcase_add_test(memory, keep_without_memory);
        suite_add_tcase(suite, memory);
        return suite;
}

UNIT_MAIN(line_suite)
