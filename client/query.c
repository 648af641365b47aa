#include "client/query.h"

#include <string.h>
#include <unistd.h>

#include "client/deadline.h"
#include "client/status.h"
#include "common/bar.h"
#include "common/util.h"

static struct query *query_of(struct session_events *events) {
        return container_of(events, struct query, events);
}

static size_t query_fill(struct session_events *events, char *buffer, size_t size) {
        static const enum protocol_verb verbs[] = {
                [COMMAND_STATUS] = PROTOCOL_STATUS,
                [COMMAND_WAIT] = PROTOCOL_WAIT,
                [COMMAND_LOAD] = PROTOCOL_LOAD,
                [COMMAND_SHUTDOWN] = PROTOCOL_SHUTDOWN,
        };
        struct query *query = query_of(events);

        (void)size;
        if (query->sent && query->progress.wanted) {
                progress_asked(&query->progress);
                return protocol_format_command(buffer, PROTOCOL_STATUS, NULL, 0, false, 0);
        }
        if (query->sent)
                return 0;
        query->sent = true;
        return protocol_format_command(buffer, verbs[query->command], NULL, 0, false, 0);
}

static int print_status(struct query *query, const char *body, size_t len) {
        char text[STATUS_TEXT_MAX];
        struct status status;
        int r;

        if (query->json) {
                r = output_write(query->output, body, len);
                return r < 0 ? r : output_end_line(query->output);
        }
        r = status_parse(body, len, &status);
        if (r != 0)
                return r < 0 ? r : SESSION_MALFORMED;
        return output_write(query->output, text,
                            status_format(text, &status, bar_is_for(STDOUT_FILENO) ? bar_columns(STDOUT_FILENO) : 0, bar_has_colour()));
}

static int query_reply(struct session_events *events, const struct protocol_reply *reply, const char *body) {
        struct query *query = query_of(events);
        int r = 0;

        if (!query->sent || reply->type == PROTOCOL_PART || reply->id_len != strlen(PROTOCOL_NO_ID) ||
            reply->id[0] != PROTOCOL_NO_ID[0])
                return SESSION_MALFORMED;

        /* Neither has an ID: but the status is an object, and no answer to another command is. */
        if (query->progress.asked && reply->type == PROTOCOL_OK && reply->length > 0 && body[0] == '{') {
                /* Nobody is ahead of those who wait for the model alone. */
                progress_answered(&query->progress, body, (size_t)reply->length, UINT64_MAX, deadline_now());
                return 0;
        }
        progress_hide(&query->progress);
        if (reply->type == PROTOCOL_ERR) {
                query->failed = true;
                output_complain(query->output, "%s: %.*s: %.*s", command_name(query->command),
                                (int)reply->code_len, reply->code, (int)reply->message_len, reply->message);
        } else if (query->command == COMMAND_STATUS)
                r = print_status(query, body, (size_t)reply->length);
        return r == 0 ? SESSION_DONE : r;
}

static int query_pause(struct session_events *events) {
        return output_flush(query_of(events)->output);
}

static void query_tick(struct session_events *events, uint64_t now) {
        events->wake = progress_tick(&query_of(events)->progress, now);
}

void query_init(struct query *query, enum command command, bool json, struct output *output, bool progress) {
        *query = (struct query){
                .events = {
                        .fill = query_fill,
                        .reply = query_reply,
                        .pause = query_pause,
                        .tick = query_tick,
                },
                .output = output,
                .command = command,
                .json = json,
                .progress_on = progress && command == COMMAND_WAIT,
        };
}

int query_run(struct query *query, struct session *session) {
        int r;

        if (query->progress_on)
                query->events.wake = progress_begin(&query->progress, deadline_now());
        r = session_run(session, &query->events);
        progress_hide(&query->progress);
        return r;
}
