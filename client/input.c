#include "client/input.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/deadline.h"
#include "common/protocol.h"
#include "common/util.h"

#define READ_SIZE 65536

void input_deinit(struct input *input) {
        buffer_deinit(&input->ids);
        buffer_deinit(&input->prompt_file);
        *input = (struct input)INPUT_NULL;
}

/* Appends all there is up to the end of the file. Returns 0, INPUT_TIMED_OUT, or -errno. */
static int read_all(struct buffer *buffer, int fd, uint64_t deadline) {
        for (;;) {
                struct pollfd poller = { .fd = fd, .events = POLLIN };
                struct timespec left;
                ssize_t n;
                int r;

                /* Also for a terminal that somebody has set not to block. */
                r = ppoll(&poller, 1, deadline_left(deadline, &left), NULL);
                if (r == 0 || (deadline != 0 && deadline_now() >= deadline))
                        return INPUT_TIMED_OUT;
                if (r < 0 && errno != EINTR)
                        return -errno;

                r = buffer_reserve(buffer, READ_SIZE);
                if (r < 0)
                        return r;
                n = read(fd, buffer->data + buffer->len, buffer->size - buffer->len);
                if (n == 0)
                        return 0;
                if (n > 0)
                        buffer->len += (size_t)n;
                else if (errno != EAGAIN && errno != EINTR)
                        return -errno;
        }
}

static bool is_space(char c) {
        return c == ' ' || (c >= '\t' && c <= '\r');
}

/*
 * Splits what lies in `ids` from `from` on at white space. In place: a word and the NUL behind it are never
 * longer than the word and the white space behind it, if the last one too has some.
 */
static int split_ids(struct input *input, size_t from, char *error, size_t error_size) {
        struct buffer *ids = &input->ids;
        size_t to = from;
        int r;

        r = buffer_append(ids, "\n", 1);
        if (r < 0)
                return r;

        for (size_t i = from; i < ids->len; i++) {
                size_t begin, len;

                if (is_space(ids->data[i]))
                        continue;
                begin = i;
                while (!is_space(ids->data[i]))
                        i++;
                len = i - begin;
                if (!protocol_id_valid(ids->data + begin, len)) {
                        int n = snprintf(error, error_size, "standard input: ");

                        if (n > 0 && (size_t)n < error_size)
                                options_refuse_id(ids->data + begin, len, error + n, error_size - (size_t)n);
                        return INPUT_WRONG;
                }
                memmove(ids->data + to, ids->data + begin, len);
                ids->data[to + len] = '\0';
                to += len + 1;
                input->ids_count++;
        }
        ids->len = to;
        return 0;
}

static int gather_ids(struct input *input, const struct options *options, uint64_t deadline, char *error,
                      size_t error_size) {
        for (size_t i = 0; i < options->ids_count; i++) {
                const char *id = options->ids[i];
                size_t from = input->ids.len;
                int r;

                if (strcmp(id, OPTIONS_STDIN) != 0) {
                        r = buffer_append(&input->ids, id, strlen(id) + 1);
                        if (r < 0)
                                return r;
                        input->ids_count++;
                        continue;
                }

                r = read_all(&input->ids, STDIN_FILENO, deadline);
                if (r < 0 && r != -ENOMEM) {
                        snprintf(error, error_size, "standard input: %s", strerror(-r));
                        return INPUT_WRONG;
                }
                if (r == 0)
                        r = split_ids(input, from, error, error_size);
                if (r != 0)
                        return r;
        }
        return 0;
}

static int gather_prompt(struct input *input, const struct options *options, uint64_t deadline, char *error,
                         size_t error_size) {
        bool from_stdin = options->prompt_file && strcmp(options->prompt_file, OPTIONS_STDIN) == 0;
        _cleanup_close_ int fd = -1;
        int r;

        if (options->prompt) {
                input->prompt = options->prompt;
                input->prompt_len = strlen(options->prompt);
        }
        if (!options->prompt_file)
                return 0;

        if (!from_stdin)
                fd = open(options->prompt_file, O_RDONLY | O_CLOEXEC);
        if (!from_stdin && fd < 0)
                r = -errno;
        else
                r = read_all(&input->prompt_file, from_stdin ? STDIN_FILENO : fd, deadline);
        if (r < 0 && r != -ENOMEM) {
                snprintf(error, error_size, "--prompt: %s: %s",
                         from_stdin ? "standard input" : options->prompt_file, strerror(-r));
                return INPUT_WRONG;
        }
        if (r != 0)
                return r;

        /* There is memory even for a prompt that is empty: read_all() has had room to read into. */
        input->prompt = input->prompt_file.data;
        input->prompt_len = input->prompt_file.len;
        return 0;
}

int input_gather(struct input *input, const struct options *options, uint64_t deadline, char *error,
                 size_t error_size) {
        int r;

        r = gather_ids(input, options, deadline, error, error_size);
        if (r != 0)
                return r;
        return gather_prompt(input, options, deadline, error, error_size);
}
