#pragma once

/*
 * HTTP messages as another parser than msd's sees them, written down so that they can be compared: what the first line says, a
 * line for each field, an empty line, the body. It is http-parser, whose header does not go with llhttp's.
 */

#include "tests/fuzz/fuzz.h"

struct transcript {
        char *text;                     /* ends with NUL; to be freed */
        size_t len;
        bool in_name;                   /* of a field whose value has not begun */
        bool in_value;
        bool is_complete;               /* the message was seen to its end */
};

/* The input, cut to where the message ended, was `consumed` bytes. -1: it is malformed. */
struct reference {
        struct transcript transcript;
        ssize_t consumed;
};

/* One message; `to_head`: an answer to HEAD. The end of the connection comes behind `len`. */
void reference_read(struct reference *reference, bool is_answer, bool to_head, const char *data, size_t len);

static inline void transcript_add(struct transcript *transcript, const char *text, size_t len) {
        transcript->text = realloc(transcript->text, transcript->len + len + 1);
        expect(transcript->text);
        memcpy(transcript->text + transcript->len, text, len);
        transcript->len += len;
        transcript->text[transcript->len] = '\0';
}

/* The end of a field, if there was one: white space behind it is no part of it. */
static inline void transcript_end_field(struct transcript *transcript) {
        if (transcript->in_name)
                transcript_add(transcript, ":", 1);
        if (!transcript->in_name && !transcript->in_value)
                return;
        while (transcript->text[transcript->len - 1] == ' ' || transcript->text[transcript->len - 1] == '\t')
                transcript->len--;
        transcript_add(transcript, "\n", 1);
        transcript->in_name = transcript->in_value = false;
}

/* Either may come in pieces. */
static inline void transcript_add_name(struct transcript *transcript, const char *text, size_t len) {
        if (!transcript->in_name)
                transcript_end_field(transcript);
        transcript->in_name = true;
        transcript_add(transcript, text, len);
}

static inline void transcript_add_value(struct transcript *transcript, const char *text, size_t len) {
        if (transcript->in_name)
                transcript_add(transcript, ":", 1);
        transcript->in_name = false;
        transcript->in_value = true;
        transcript_add(transcript, text, len);
}

static inline void transcript_end_head(struct transcript *transcript) {
        transcript_end_field(transcript);
        transcript_add(transcript, "\n", 1);
}
