#include "common/protocol.h"

#include <string.h>

#include "common/number.h"
#include "common/printable.h"
#include "common/util.h"

static const char *const verb_names[] = {
#define X(verb) [PROTOCOL_##verb] = #verb,
        PROTOCOL_VERBS(X)
#undef X
};

static const char *const code_names[] = {
#define X(code, name) [PROTOCOL_##code] = name,
        PROTOCOL_CODES(X)
#undef X
};

const char *protocol_verb_name(enum protocol_verb verb) {
        return verb_names[verb];
}

const char *protocol_code_name(enum protocol_code code) {
        return code_names[code];
}

static bool is_graph(char c) {
        return c >= 0x21 && c <= 0x7e;
}

bool protocol_id_valid(const char *id, size_t len) {
        if (len == 0 || len > PROTOCOL_ID_MAX || (len == 1 && id[0] == '-'))
                return false;
        for (size_t i = 0; i < len; i++)
                if (!is_graph(id[i]))
                        return false;
        return true;
}

/* What is left of a line. */
struct words {
        const char *p;
        size_t left;
};

/* Takes the word up to the next space, which is taken too. False at the end of the line. */
static bool next_word(struct words *words, const char **word, size_t *len) {
        const char *space;

        if (!words->p)
                return false;
        space = memchr(words->p, ' ', words->left);
        *word = words->p;
        if (space) {
                *len = (size_t)(space - words->p);
                words->left -= *len + 1;
                words->p = space + 1;
        } else {
                *len = words->left;
                words->p = NULL;
        }
        return true;
}

static bool parse_verb(const char *word, size_t len, enum protocol_verb *verb) {
        for (size_t i = 0; i < ARRAY_SIZE(verb_names); i++)
                if (strlen(verb_names[i]) == len && memcmp(verb_names[i], word, len) == 0) {
                        *verb = (enum protocol_verb)i;
                        return true;
                }
        return false;
}

static bool parse_length(const char *word, size_t len, uint64_t *length) {
        int r = number_parse(word, len, UINT64_MAX, length);

        if (r == NUMBER_TOO_LARGE)
                *length = UINT64_MAX;
        return r != NUMBER_MALFORMED;
}

static int malformed(struct protocol_command *command, const char *fault) {
        command->fault = fault;
        return PROTOCOL_MALFORMED;
}

int protocol_parse_command(const char *line, size_t len, struct protocol_command *command) {
        struct words words = { line, len };
        const char *word = line;
        size_t word_len = 0;

        *command = (struct protocol_command){ 0 };

        if (len == 0)
                return malformed(command, "Empty line");
        (void)next_word(&words, &word, &word_len);
        if (!parse_verb(word, word_len, &command->verb))
                return malformed(command, "Unknown command (REQUEST, STREAM, STATUS, WAIT, LOAD and SHUTDOWN are known)");

        if (command->verb != PROTOCOL_REQUEST && command->verb != PROTOCOL_STREAM) {
                if (words.p)
                        return malformed(command, "This command stands alone on its line");
                return 0;
        }

        if (!next_word(&words, &word, &word_len) || word_len == 0)
                return malformed(command, "The ID is missing");
        if (word_len > PROTOCOL_ID_MAX)
                return malformed(command, "The ID is over 64 bytes");
        if (!protocol_id_valid(word, word_len))
                return malformed(command, word_len == 1 && word[0] == '-' ? "\"-\" is no ID" :
                                                  "The ID has a byte that is not printable ASCII");
        command->id = word;
        command->id_len = word_len;

        if (!next_word(&words, &word, &word_len)) {
                if (command->verb == PROTOCOL_STREAM)
                        return malformed(command, "The length of the prompt is missing");
                return 0;
        }
        if (!parse_length(word, word_len, &command->length))
                return malformed(command, "The length of the prompt is no number");
        if (words.p)
                return malformed(command, "There is something behind the length");
        command->has_prompt = true;
        return 0;
}

int protocol_parse_reply(const char *line, size_t len, struct protocol_reply *reply) {
        struct words words = { line, len };
        const char *word = line;
        size_t word_len = 0;

        *reply = (struct protocol_reply){ 0 };

        (void)next_word(&words, &word, &word_len);
        if (word_len == 2 && memcmp(word, "OK", 2) == 0)
                reply->type = PROTOCOL_OK;
        else if (word_len == 4 && memcmp(word, "PART", 4) == 0)
                reply->type = PROTOCOL_PART;
        else if (word_len == 3 && memcmp(word, "ERR", 3) == 0)
                reply->type = PROTOCOL_ERR;
        else
                return PROTOCOL_MALFORMED;

        if (!next_word(&words, &reply->id, &reply->id_len))
                return PROTOCOL_MALFORMED;
        if (!protocol_id_valid(reply->id, reply->id_len) &&
            !(reply->id_len == strlen(PROTOCOL_NO_ID) && reply->id[0] == PROTOCOL_NO_ID[0]))
                return PROTOCOL_MALFORMED;

        if (reply->type == PROTOCOL_ERR) {
                if (!next_word(&words, &reply->code, &reply->code_len) || reply->code_len == 0)
                        return PROTOCOL_MALFORMED;
                reply->message = words.p ? words.p : line + len;
                reply->message_len = words.p ? words.left : 0;
                return 0;
        }

        if (!next_word(&words, &word, &word_len) || words.p ||
            number_parse(word, word_len, UINT64_MAX, &reply->length) != 0)
                return PROTOCOL_MALFORMED;
        return 0;
}

static char *put(char *p, const char *text, size_t len) {
        memcpy(p, text, len);
        return p + len;
}

/* Written where it belongs: snprintf(), or digits copied from elsewhere, would be most of what an answer costs. */
static char *put_number(char *p, uint64_t number) {
        char *end = p + 1;

        for (uint64_t rest = number; rest >= 10; rest /= 10)
                end++;
        p = end;
        do
                *--p = (char)('0' + number % 10);
        while ((number /= 10) > 0);
        return end;
}

static char *put_id(char *p, const char *id, size_t id_len) {
        return id_len > 0 ? put(p, id, MIN(id_len, (size_t)PROTOCOL_ID_MAX)) :
                            put(p, PROTOCOL_NO_ID, strlen(PROTOCOL_NO_ID));
}

size_t protocol_format_command(char buffer[static PROTOCOL_HEAD_MAX], enum protocol_verb verb, const char *id,
                               size_t id_len, bool has_prompt, uint64_t length) {
        char *p = put(buffer, verb_names[verb], strlen(verb_names[verb]));

        if (id) {
                *p++ = ' ';
                p = put_id(p, id, id_len);
        }
        if (has_prompt) {
                *p++ = ' ';
                p = put_number(p, length);
        }
        *p++ = '\n';
        return (size_t)(p - buffer);
}

size_t protocol_format_head(char buffer[static PROTOCOL_HEAD_MAX], enum protocol_reply_type type, const char *id,
                            size_t id_len, uint64_t length) {
        char *p = type == PROTOCOL_OK ? put(buffer, "OK ", 3) : put(buffer, "PART ", 5);

        p = put_id(p, id, id_len);
        *p++ = ' ';
        p = put_number(p, length);
        *p++ = '\n';
        return (size_t)(p - buffer);
}

size_t protocol_format_error(char buffer[static PROTOCOL_ERROR_MAX], const char *id, size_t id_len,
                             enum protocol_code code, const char *message) {
        const char *end = buffer + LINE_MAX_LENGTH;
        char *p = put(buffer, "ERR ", 4);

        p = put_id(p, id, id_len);
        *p++ = ' ';
        p = put(p, code_names[code], strlen(code_names[code]));
        *p++ = ' ';
        /* The LF takes the place of its NUL. */
        p += printable(p, (size_t)(end - p) + 1, message, strlen(message));
        *p++ = '\n';
        return (size_t)(p - buffer);
}
