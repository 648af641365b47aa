#include "daemon/model/cause.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/printable.h"
#include "common/util.h"

enum {
        WEIGHT_NONE,
        WEIGHT_HINT,            /* it says something of memory, or warns */
        WEIGHT_CONSEQUENCE,     /* something gave up, because of something else */
        WEIGHT_ERROR,
        WEIGHT_EXCEPTION,       /* the last line of a traceback */
        WEIGHT_CAUSE,           /* what the system, the driver or a file had to say */
};

/* Whatever else the line says, this is why. All in small letters. */
static const char *const causes[] = {
        "out of memory", "outofmemory", "not enough memory", "memoryerror", "bad_alloc", "cannot allocate", "failed to allocate",
        "unable to allocate", "could not allocate", "no available memory", "oom-kill", "less than desired gpu memory",
        "larger than the available kv cache", "no space left", "no such file", "no module named", "permission denied",
        "operation not permitted", "address already in use", "couldn't bind", "cannot bind", "connection refused",
        "name or service not known", "temporary failure in name resolution", "read-only file system", "too many open files",
        "cannot open shared object", "undefined symbol", "illegal instruction", "no cuda-capable device", "no kernel image",
        "driver version is insufficient", "cuda error", "hip error", "nccl error", "invalid magic", "failed to read magic",
        "failed to open", "unknown model architecture", "unknown architecture", "unsupported", "not supported", "corrupted", "checksum",
        "gated repo", "401 client error", "403 client error", "404 client error", "does not exist", "assert", "panicked at",
        "panic:", "invalid argument", "unrecognized argument", "unknown argument",
};

static const char *const consequences[] = {
        "see root cause above", "see the error messages above", "see above", "engine core initialization failed",
        "failed to start", "failed to load model", "unable to load model", "model loading error", "failed core proc",
        "exiting", "shutting down", "cleaning up", "error when initializing", "shardcannotstart", "shard 0 failed", "childfailederror",
        "worker died", "worker failed", "process died", "is dead", "unexpected exit", "died unexpectedly",
        "traceback (most recent call last)", "during handling of the above", "direct cause of the following",
        "destroy_process_group", "leaked", "resource_tracker", "failed to create context", "failed to initialize the context",
        "failed to create llama_context", "process has terminated:",
};

static const char *const errors[] = {
        "error", "fatal", "fail", "cannot", "can't", "could not", "couldn't", "unable", "not found", "no such", "exception",
        "abort", "invalid", "denied", "refused", "missing", "critical", "segfault", "segmentation fault", "killed", "must be",
};

/* Tags of lines that tell of no failure, whatever words they have. */
static const char *const notices[] = { "info", "debug", "trace", "warn", "warning" };

static bool has_one_of(const char *text, const char *const *phrases, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (strcasestr(text, phrases[i]))
                        return true;
        return false;
}

#define HAS_ONE_OF(text, phrases) has_one_of(text, phrases, ARRAY_SIZE(phrases))

/* The length of "(EngineCore_0 pid=71) ", "[rank0]: ", "ERROR 10-12 09:30:12 [core.py:708] " and the like; 0: there is none. */
static size_t prefix_len(const char *text) {
        size_t n;

        if (text[0] == '(' || text[0] == '[') {
                n = strcspn(text, ")]");
                if (text[n] == '\0' || n > 64)
                        return 0;
                n += text[n + 1] == ':' ? 2 : 1;
                return text[n] == ' ' ? n + 1 : 0;
        }
        n = strcspn(text, " ");
        if (n >= 4 && n <= 8 && strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == n && isdigit((unsigned char)text[n + 1])) {
                const char *end = strstr(text, "] ");

                if (end && end - text < 80)
                        return (size_t)(end - text) + 2;
        }
        return 0;
}

static const char *skip_prefixes(const char *text) {
        size_t n;

        while ((n = prefix_len(text)) > 0)
                text += n;
        return text;
}

/* A place in a traceback, the code that stands there, and the marks below it. */
static bool is_place(const char *text) {
        return text[0] == ' ' || strncmp(text, "File \"", 6) == 0 || strspn(text, "^~") == strlen(text);
}

/* "ValueError: ...", "torch.OutOfMemoryError: ..." */
static bool is_exception(const char *text) {
        static const char *const kinds[] = { "Error", "Exception", "Exit", "Interrupt" };
        size_t n = 0;

        while (isalnum((unsigned char)text[n]) || text[n] == '_' || text[n] == '.')
                n++;
        if (n == 0 || (text[n] != ':' && text[n] != '\0'))
                return false;
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                size_t len = strlen(kinds[i]);

                if (n > len && strncmp(text + n - len, kinds[i], len) == 0)
                        return true;
        }
        return false;
}

/* Whether a tag such as INFO or level=warn stands before the text proper. */
static bool is_notice(const char *line) {
        for (size_t i = 0; i < ARRAY_SIZE(notices); i++) {
                const char *tag = strcasestr(line, notices[i]);

                if (tag && tag - line < 48 && (tag == line || strchr(" [=(|<", tag[-1])) &&
                    !isalnum((unsigned char)tag[strlen(notices[i])]))
                        return true;
        }
        return strcasestr(line, "warning:");
}

static unsigned char weigh(const char *line, const char *text) {
        if (is_notice(line))
                return HAS_ONE_OF(text, causes) || HAS_ONE_OF(text, errors) ? WEIGHT_HINT : WEIGHT_NONE;
        if (HAS_ONE_OF(text, consequences))
                return HAS_ONE_OF(text, causes) ? WEIGHT_ERROR : WEIGHT_CONSEQUENCE;
        if (HAS_ONE_OF(text, causes))
                return WEIGHT_CAUSE;
        if (is_exception(text))
                return WEIGHT_EXCEPTION;
        if (HAS_ONE_OF(text, errors))
                return WEIGHT_ERROR;
        return strcasestr(text, "memory") ? WEIGHT_HINT : WEIGHT_NONE;
}

void cause_clear(struct cause *cause) {
        cause->next = cause->count = 0;
}

void cause_add(struct cause *cause, const char *line, size_t len) {
        char *to = cause->lines[cause->next].text;
        const char *text, *last;

        while (len > 0 && isspace((unsigned char)line[len - 1]))
                len--;
        last = len > 0 ? memrchr(line, '\r', len) : NULL;
        if (last) {
                len -= (size_t)(last + 1 - line);
                line = last + 1;
        }
        (void)printable(to, CAUSE_LINE_MAX, line, len);
        text = skip_prefixes(to);
        if (*text == '\0' || is_place(text))
                return;
        cause->lines[cause->next].weight = weigh(to, text);
        cause->next = (cause->next + 1) % CAUSE_LINES;
        if (cause->count < CAUSE_LINES)
                cause->count++;
}

/* The index of the i-th of the lines that are kept, from the oldest on. */
static unsigned at(const struct cause *cause, unsigned i) {
        return (cause->next + CAUSE_LINES - cause->count + i) % CAUSE_LINES;
}

/* Of lines that are equally likely the first: the others follow from it. Without any hint the last one. */
static unsigned best(const struct cause *cause) {
        unsigned found = at(cause, cause->count - 1), weight = WEIGHT_NONE;

        for (unsigned i = 0; i < cause->count; i++)
                if (cause->lines[at(cause, i)].weight > weight) {
                        found = at(cause, i);
                        weight = cause->lines[found].weight;
                }
        return found;
}

const char *cause_line(const struct cause *cause) {
        return cause->count > 0 ? cause->lines[best(cause)].text : "";
}

void cause_summary(const struct cause *cause, char *text, size_t size) {
        unsigned first = cause->count > 0 ? best(cause) : 0, skip;
        size_t n = 0;

        text[0] = '\0';
        if (cause->count == 0)
                return;
        n = (size_t)snprintf(text, size, "%s\n", cause->lines[first].text);
        skip = cause->count > CAUSE_SUMMARY_LINES - 1 ? cause->count - (CAUSE_SUMMARY_LINES - 1) : 0;
        for (unsigned i = skip; i < cause->count; i++) {
                const char *line = cause->lines[at(cause, i)].text;

                if (at(cause, i) == first || n + strlen(line) + 2 > size)
                        continue;
                n += (size_t)snprintf(text + n, size - n, "%s\n", line);
        }
}
