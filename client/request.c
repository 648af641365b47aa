#include "client/request.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "client/deadline.h"
#include "common/util.h"

/* An answer that came in part. */
struct stream {
        struct buffer parts;
        size_t id_len;
        char id[PROTOCOL_ID_MAX];
};

static int stream_compare(const void *a, const void *b) {
        const struct stream *x = a, *y = b;

        if (x->id_len != y->id_len)
                return x->id_len < y->id_len ? -1 : 1;
        return memcmp(x->id, y->id, x->id_len);
}

static void stream_free(void *p) {
        struct stream *stream = p;

        buffer_deinit(&stream->parts);
        free(stream);
}

static struct stream *stream_find(struct request *request, const struct protocol_reply *reply) {
        struct stream key = { .id_len = reply->id_len };
        struct stream **found;

        memcpy(key.id, reply->id, reply->id_len);
        found = tfind(&key, &request->streams, stream_compare);
        return found ? *found : NULL;
}

static struct stream *stream_new(struct request *request, const struct protocol_reply *reply) {
        struct stream *stream = calloc(1, sizeof(*stream));

        if (!stream)
                return NULL;
        stream->id_len = reply->id_len;
        memcpy(stream->id, reply->id, reply->id_len);
        if (!tsearch(stream, &request->streams, stream_compare)) {
                free(stream);
                return NULL;
        }
        return stream;
}

static void stream_remove(struct request *request, struct stream *stream) {
        if (!stream)
                return;
        tdelete(stream, &request->streams, stream_compare);
        stream_free(stream);
}

static struct request *request_of(struct session_events *events) {
        return container_of(events, struct request, events);
}

static size_t request_fill(struct session_events *events, char *buffer, size_t size) {
        struct request *request = request_of(events);
        const struct input *input = request->input;
        size_t n = 0;

        for (;;) {
                if (request->in_prompt) {
                        size_t part = MIN(input->prompt_len - request->prompt_sent, size - n);

                        if (part > 0)
                                memcpy(buffer + n, input->prompt + request->prompt_sent, part);
                        n += part;
                        request->prompt_sent += part;
                        if (n == size)
                                return n;
                        buffer[n++] = '\n';
                        request->in_prompt = false;
                }
                if (size - n < PROTOCOL_HEAD_MAX)
                        return n;

                if (request->progress.wanted) {
                        n += protocol_format_command(buffer + n, PROTOCOL_STATUS, NULL, 0, false, 0);
                        request->sent_before = request->sent;
                        progress_asked(&request->progress);
                } else if (request->sent < input->ids_count) {
                        size_t len = strlen(request->id);
                        bool stream = request->stream || request->gather;

                        request->in_prompt = stream || input->prompt;
                        n += protocol_format_command(buffer + n, stream ? PROTOCOL_STREAM : PROTOCOL_REQUEST,
                                                     request->id, len, request->in_prompt, input->prompt_len);
                        request->prompt_sent = 0;
                        request->id += len + 1;
                        request->sent++;
                } else
                        return n;
        }
}

/* A reply without an ID: to STATUS. */
static int take_status(struct request *request, const struct protocol_reply *reply, const char *body) {
        struct progress *progress = &request->progress;
        size_t own;

        if (!progress->asked || reply->type == PROTOCOL_PART)
                return SESSION_MALFORMED;
        /* It counts the requests that were sent before it, unless these were answered before it. */
        own = request->sent_before > request->answered ? request->sent_before - request->answered : 0;
        progress_answered(progress, body, (size_t)reply->length, own, deadline_now());
        return 0;
}

static int take_part(struct request *request, const struct protocol_reply *reply, const char *body) {
        struct stream *stream;

        if (request->stream) {
                /* The line that it is a part of stays open: nothing else is drawn there. */
                request->events.wake = 0;
                progress_hide(&request->progress);
                return output_write(request->output, body, (size_t)reply->length);
        }
        if (!request->gather)
                return SESSION_MALFORMED;

        stream = stream_find(request, reply);
        if (!stream)
                stream = stream_new(request, reply);
        if (!stream)
                return -ENOMEM;
        return buffer_append(&stream->parts, body, (size_t)reply->length);
}

static int take_answer(struct request *request, const struct protocol_reply *reply, const char *body) {
        struct stream *stream = request->gather ? stream_find(request, reply) : NULL;
        int r = 0;

        progress_hide(&request->progress);
        if (stream)
                r = output_write(request->output, stream->parts.data, stream->parts.len);
        if (r == 0)
                r = output_write(request->output, body, (size_t)reply->length);
        if (r == 0)
                r = output_end_line(request->output);
        stream_remove(request, stream);
        return r;
}

static void take_error(struct request *request, const struct protocol_reply *reply) {
        progress_hide(&request->progress);
        request->failed++;
        output_complain(request->output, "request %.*s: %.*s: %.*s", (int)reply->id_len, reply->id,
                        (int)reply->code_len, reply->code, (int)reply->message_len, reply->message);
        /* An answer in part is none. */
        if (request->gather)
                stream_remove(request, stream_find(request, reply));
}

/* One without an ID is for all that is unanswered: the connection is at its end, as after a restart that could not keep it. */
static int take_last_error(struct request *request, const struct protocol_reply *reply) {
        progress_hide(&request->progress);
        output_complain(request->output, "%.*s: %.*s", (int)reply->code_len, reply->code, (int)reply->message_len, reply->message);
        return SESSION_ENDED;
}

static bool id_is(const struct protocol_reply *reply, const char *id) {
        return reply->id_len == strlen(id) && memcmp(reply->id, id, reply->id_len) == 0;
}

static int request_reply(struct session_events *events, const struct protocol_reply *reply,
                         const char *body) {
        struct request *request = request_of(events);
        const struct input *input = request->input;
        int r = 0;

        if (id_is(reply, PROTOCOL_NO_ID))
                return reply->type == PROTOCOL_ERR ? take_last_error(request, reply) : take_status(request, reply, body);
        if (request->answered == request->sent)
                return SESSION_MALFORMED;
        /* An answer that is printed as it comes has to be to a request of this program. */
        if (request->stream && !id_is(reply, input->ids.data))
                return SESSION_MALFORMED;

        switch (reply->type) {
        case PROTOCOL_PART:
                return take_part(request, reply, body);
        case PROTOCOL_OK:
                r = take_answer(request, reply, body);
                break;
        case PROTOCOL_ERR:
                take_error(request, reply);
                break;
        }
        if (r < 0)
                return r;
        request->answered++;
        return request->answered == input->ids_count ? SESSION_DONE : 0;
}

static int request_pause(struct session_events *events) {
        return output_flush(request_of(events)->output);
}

static void request_tick(struct session_events *events, uint64_t now) {
        events->wake = progress_tick(&request_of(events)->progress, now);
}

static int compare_ids(const void *a, const void *b) {
        return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Whether an ID is there twice. Returns 0, 1 if one is, or -ENOMEM. */
static int has_duplicates(const struct input *input) {
        _cleanup_free_ const char **sorted = calloc(input->ids_count, sizeof(*sorted));
        const char *id = input->ids.data;

        if (!sorted)
                return -ENOMEM;
        for (size_t i = 0; i < input->ids_count; i++) {
                sorted[i] = id;
                id += strlen(id) + 1;
        }
        qsort(sorted, input->ids_count, sizeof(*sorted), compare_ids);
        for (size_t i = 1; i < input->ids_count; i++)
                if (strcmp(sorted[i - 1], sorted[i]) == 0)
                        return 1;
        return 0;
}

int request_init(struct request *request, const struct input *input, struct output *output, bool stream,
                 bool progress) {
        *request = (struct request){
                .events = {
                        .fill = request_fill,
                        .reply = request_reply,
                        .pause = request_pause,
                        .tick = request_tick,
                },
                .output = output,
                .input = input,
                .progress_on = progress,
                .id = input->ids.data,
        };
        if (stream && input->ids_count == 1)
                request->stream = true;
        else if (stream && input->ids_count > 1) {
                int r = has_duplicates(input);

                if (r < 0)
                        return r;
                /*
                 * Parts of two answers to one ID could not be told apart. Asked for in one piece they print
                 * the same lines.
                 */
                request->gather = r == 0;
        }
        return 0;
}

void request_deinit(struct request *request) {
        tdestroy(STEAL_POINTER(request->streams), stream_free);
}

int request_run(struct request *request, struct session *session) {
        int r;

        if (request->progress_on)
                request->events.wake = progress_begin(&request->progress, deadline_now());
        r = session_run(session, &request->events);
        progress_hide(&request->progress);
        return r;
}
