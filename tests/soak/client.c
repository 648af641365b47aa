#include "tests/soak/client.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "common/address.h"
#include "common/util.h"
#include "tests/support/clock.h"

/* So often one that is deaf looks whether something was taken from it, and one that found no room comes again. */
#define LOOK (50 * NSEC_PER_MSEC)

/* Where what it waits for does not come, it goes all the same. */
#define VANISH_MAX (2 * NSEC_PER_SEC)

#define SCRATCH_SIZE 262144
static char scratch[SCRATCH_SIZE];

static struct tally *tally_of(const struct client *client) {
        return &client->site->tallies[client->character];
}

#define WRONG(client, format, ...)                                                                          \
        soak_wrong((client)->site, "%s (client %" PRIu64 "): " format, character_names[(client)->character], \
                   (client)->script.serial __VA_OPT__(,) __VA_ARGS__)

/* So much of its script it may say now. */
static size_t say_limit(const struct client *client) {
        size_t limit = client->script.len;

        if (client->vanishes)
                limit = MIN(limit, client->vanish_at);
        if (client->window < client->script.count - client->answered)
                limit = MIN(limit, client->script.commands[client->answered + client->window - 1].end);
        return limit;
}

static void watch(struct client *client, int operation) {
        struct epoll_event event = { .data.ptr = client };

        event.events = (client->deaf ? 0U : EPOLLIN) |
                       (client->begins == 0 && client->pace == 0 && client->sent < say_limit(client) ? EPOLLOUT : 0U);
        if (operation == EPOLL_CTL_MOD && event.events == client->events)
                return;
        client->events = event.events;
        if (epoll_ctl(client->epoll_fd, operation, client->fd, &event) < 0)
                soak_fail("epoll_ctl");
}

void client_drop(struct client *client) {
        if (client->fd >= 0)
                close(client->fd);
        script_deinit(&client->script);
        line_deinit(&client->line);
        web_deinit(&client->answers);
        client->fd = -1;
        client->due = UINT64_MAX;
}

static void end(struct client *client) {
        struct tally *tally = tally_of(client);

        tally->lives++;
        tally->left += client->requests - client->requests_answered;
        client_drop(client);
}

static void vanish(struct client *client) {
        const struct linger at_once = { .l_onoff = 1 };

        /* With a reset, which tells of itself, or in good order, as if it were its writing side alone: tcp(7). */
        if (client->over_tcp && chance_is(&client->chance, 50))
                (void)setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
        end(client);
}

/* What has left as a whole the daemon may have accepted. */
static void note_sent(struct client *client) {
        while (client->left < client->script.count && client->script.commands[client->left].end <= client->sent) {
                if (client->script.commands[client->left].kind == COMMAND_REQUEST) {
                        client->requests++;
                        tally_of(client)->sent++;
                }
                client->left++;
        }
}

static void say(struct client *client, uint64_t now) {
        size_t n = MIN(say_limit(client) - client->sent, client->pace > 0 ? 1 : client->burst);
        ssize_t r = n > 0 ? send(client->fd, client->script.bytes + client->sent, n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

        /* Who has gone is seen where it is read. */
        if (r > 0) {
                client->sent += (size_t)r;
                note_sent(client);
        } else if (r < 0 && errno != EAGAIN) {
                client->deaf = false;
                client->script.len = client->sent;
        }
        if (client->vanishes && client->sent == client->vanish_at)
                client->due = MIN(client->due, now + client->vanish_after);
        if (client->half_closes && !client->finished && client->sent == client->script.len) {
                client->finished = true;
                (void)shutdown(client->fd, SHUT_WR);
        }
}

/* The end of a tunnel. Of a model that dies nobody hears more than that. */
static void hear_tunnel_end(struct client *client) {
        client->requests_answered++;
        tally_of(client)->answered++;
        end(client);
}

static void hear_web(struct client *client);

/* The end of the connection. */
static void hear_end(struct client *client) {
        if (client->web && web_end(&client->answers))
                hear_web(client);
        if (client->timed_out) {
                end(client);
                return;
        }
        if (client->switched) {
                hear_tunnel_end(client);
                return;
        }
        if (client->vanishes) {
                if (!client->site->echoes || !client->web)
                        WRONG(client, "The connection was ended, with %zu of %zu answers", client->answered, client->left);
                else if (client->requests > client->requests_answered)
                        tally_of(client)->cut++, client->requests_answered++;
                end(client);
                return;
        }
        if (client->answered == client->script.count) {
                if (!client->finished && !client->script.commands[client->script.count - 1].ends)
                        WRONG(client, "The connection was ended, when all was answered");
        } else if (client->web && client->site->echoes && client->requests == client->requests_answered + 1) {
                /* The model has died within its answer, or before a second try. */
                tally_of(client)->cut++;
                client->requests_answered++;
        } else
                WRONG(client, "The connection was ended, with %zu answers to %zu of %zu commands%s", client->answered,
                      client->left, client->script.count,
                      web_is_amid(&client->answers) ? ", in the middle of one" : client->finished ? ", behind a half-close" : "");
        end(client);
}

/* Which of its errors a request may meet. */
static bool is_permitted(const struct client *client, enum protocol_code code) {
        switch (code) {
        case PROTOCOL_QUEUE_FULL:
                return true;
        case PROTOCOL_TIMED_OUT:
                return !client->site->echoes;
        case PROTOCOL_LOAD_FAILED:
        case PROTOCOL_INFERENCE_FAILED:
                return client->site->echoes;
        default:
                return false;
        }
}

static bool find_code(const char *text, size_t len, enum protocol_code *code) {
        for (*code = 0; *code < PROTOCOL_CODE_COUNT; ++*code)
                if (strlen(protocol_code_name(*code)) == len && memcmp(protocol_code_name(*code), text, len) == 0)
                        return true;
        return false;
}

static void note_answer(struct client *client, struct command *command) {
        command->answered = true;
        client->answered++;
        if (command->kind == COMMAND_REQUEST)
                client->requests_answered++;
}

static void hear_error(struct client *client, struct command *command, const char *text, size_t len) {
        enum protocol_code code;

        if (!find_code(text, len, &code)) {
                WRONG(client, "There is no error %.*s", (int)len, text);
                return;
        }
        if (command->kind == COMMAND_REFUSED) {
                if (code != PROTOCOL_TOO_LARGE)
                        WRONG(client, "What is too long was refused with %.*s", (int)len, text);
                tally_of(client)->refused++;
        } else {
                if (!is_permitted(client, code))
                        WRONG(client, "A request failed with %.*s", (int)len, text);
                tally_of(client)->errors[code]++;
        }
        note_answer(client, command);
}

/* Replies over the request socket. */

static void hear_body(struct client *client, struct command *command, bool part, const char *body, size_t len) {
        size_t i = (size_t)(command - client->script.commands);

        if (command->kind != COMMAND_REQUEST || command->answered || command->end > client->sent) {
                WRONG(client, "Command %zu was answered, and is no request that has no answer yet", i);
                return;
        }
        if (part && (!command->stream || len == 0))
                WRONG(client, "Request %zu got a part of %zu bytes", i, len);
        if (!part && command->stream && len > 0)
                WRONG(client, "Stream %zu ended with %zu bytes", i, len);
        if (command->fault != FAULT_NONE) {
                if (!part)
                        WRONG(client, "Request %zu was answered, and the model had failed it", i);
        } else if (!script_take(&client->script, i, body, len) || (!part && !script_is_whole(&client->script, i)))
                WRONG(client, "Request %zu got a wrong answer: %.*s", i, (int)MIN(len, (size_t)200), body);
        if (part)
                return;
        tally_of(client)->answered++;
        note_answer(client, command);
}

static void hear_other(struct client *client) {
        tally_of(client)->others++;
        client->answered++;
}

/* Returns false if the rest of it has yet to come. */
static bool hear_reply(struct client *client, const struct protocol_reply *reply) {
        long i = script_find(&client->script, reply->id, reply->id_len);
        const char *body;

        if (reply->type == PROTOCOL_ERR) {
                struct command *command = i >= 0 ? &client->script.commands[i] : NULL;

                if (!command)
                        hear_other(client);
                else if (command->kind == COMMAND_OTHER || command->answered ||
                         (command->kind == COMMAND_REQUEST && command->end > client->sent))
                        WRONG(client, "Command %ld failed, and is no request that has no answer yet", i);
                else
                        hear_error(client, command, reply->code, reply->code_len);
                return true;
        }
        if (line_payload(&client->line, reply->length, &body) == 0)
                return false;
        if (i >= 0)
                hear_body(client, &client->script.commands[i], reply->type == PROTOCOL_PART, body, reply->length);
        else {
                if (reply->type == PROTOCOL_PART || reply->length == 0 || (*body != '{' && *body != 'r'))
                        WRONG(client, "Nobody asked for %.*s", (int)MIN(reply->length, (uint64_t)200), body);
                hear_other(client);
        }
        return true;
}

static void hear_replies(struct client *client) {
        struct protocol_reply reply;
        const char *text;
        size_t len;
        int r;

        while ((r = line_next(&client->line, &text, &len)) != 0) {
                if (r != LINE_TAKEN || protocol_parse_reply(text, len, &reply) != 0) {
                        WRONG(client, "This is no reply: %.*s", (int)len, text);
                        continue;
                }
                if (!hear_reply(client, &reply))
                        break;
        }
        if (line_keep(&client->line) < 0)
                abort();
}

/* Answers over HTTP. */

/* The rest of the connection is a tunnel. */
static void hear_switch(struct client *client, struct command *command) {
        if (!command->switches)
                WRONG(client, "The protocol was switched unasked");
        client->switched = true;
        command->answered = true;
        client->answered++;
}

/* What comes through it. */
static void hear_tunnel(struct client *client) {
        struct web *web = &client->answers;
        const size_t count = client->script.count;

        if (!script_take_back(&client->script, count - 1, web->input.data + web->taken, web->input.len - web->taken))
                WRONG(client, "A tunnel gave back something else");
        web->taken = web->input.len;
        if (client->answered < count &&
            client->script.commands[count - 1].received == client->script.commands[count - 1].prompt)
                hear_other(client);
}

/* The request came too slowly. */
static void hear_timeout(struct client *client) {
        client->timed_out = true;
        client->pace = 0;
        client->script.len = client->sent;
        tally_of(client)->others++;
}

static void hear_text(struct client *client, struct command *command) {
        const struct web *web = &client->answers;
        struct bytes text = { 0 };

        if (web_text(web, command->stream, command->chat, &text) &&
            script_take(&client->script, client->answered, text.data, text.len) &&
            script_is_whole(&client->script, client->answered))
                tally_of(client)->answered++;
        else if (web->until_end && client->site->echoes)
                tally_of(client)->cut++;
        else
                WRONG(client, "A wrong answer: %.*s", (int)MIN(web->body.len, (size_t)400), web->body.data);
        bytes_deinit(&text);
        note_answer(client, command);
}

static void hear_web(struct client *client) {
        struct command *command = &client->script.commands[client->answered];
        const struct web *web = &client->answers;
        char code[WEB_CODE_MAX];

        if (web->status == 408 && client->character == CHARACTER_WEB_LATE) {
                hear_timeout(client);
                return;
        }
        /* What is refused may be before all of it was sent. */
        if (client->answered == client->script.count ||
            (client->answered >= client->left && command->kind != COMMAND_REFUSED && !command->ends)) {
                WRONG(client, "An answer with status %u came before it was asked for", web->status);
                return;
        }
        if (command->kind == COMMAND_OTHER) {
                if (command->status ? web->status != command->status :
                                      web->status != 200 && web->status != 204 && web->status != 503)
                        WRONG(client, "Status %u, not %u", web->status, command->status);
                hear_other(client);
                return;
        }
        if (web->status == 101) {
                hear_switch(client, command);
                return;
        }
        web_code(web, code);
        if (command->switches)
                script_cut(&client->script, client->answered + 1);
        if (command->kind == COMMAND_REFUSED || (code[0] != '\0' && web->status != 200)) {
                hear_error(client, command, code, strlen(code));
                return;
        }
        /* Of the model's own errors the code is a number. */
        if (web->status == 200 && command->fault == FAULT_NONE) {
                hear_text(client, command);
                return;
        }
        if (!client->site->echoes || (web->status != 503 && command->fault != FAULT_GARBAGE &&
                                             !(command->fault == FAULT_STATUS && web->status == 500)))
                WRONG(client, "Status %u: %.*s", web->status, (int)MIN(web->body.len, (size_t)400), web->body.data);
        tally_of(client)->answered++;
        note_answer(client, command);
}

static void hear_webs(struct client *client) {
        int r = 0;

        while (!client->switched && (r = web_take(&client->answers)) > 0)
                hear_web(client);
        if (client->switched)
                hear_tunnel(client);
        else if (r < 0)
                WRONG(client, "This is no answer of HTTP: %.*s", (int)MIN(client->answers.input.len, (size_t)200),
                      client->answers.input.data);
}

/* Returns false at the end of the connection. */
static bool hear(struct client *client) {
        char *to = scratch;
        size_t space = sizeof(scratch);
        ssize_t n;

        if (!client->web && line_space(&client->line, scratch, sizeof(scratch), &to, &space) < 0)
                abort();
        n = recv(client->fd, to, space, MSG_DONTWAIT);
        if (n <= 0) {
                int error = errno;

                if (!client->web && line_keep(&client->line) < 0)
                        abort();
                return n < 0 && (error == EAGAIN || error == ENOTCONN);
        }
        if (client->web) {
                web_add(&client->answers, to, (size_t)n);
                hear_webs(client);
        } else {
                line_filled(&client->line, (size_t)n);
                hear_replies(client);
        }
        return true;
}

static void go_on(struct client *client) {
        const size_t count = client->script.count;

        if (!client->vanishes && client->answered == count && client->left == count && !client->finished &&
            !(count > 0 && client->script.commands[count - 1].ends)) {
                end(client);
                return;
        }
        watch(client, EPOLL_CTL_MOD);
}

void client_ready(struct client *client, uint32_t events, uint64_t now) {
        /* Who does not read does not see that there is an end. */
        if (events & EPOLLIN || (events & (EPOLLHUP | EPOLLERR) && !client->deaf))
                if (!hear(client)) {
                        hear_end(client);
                        return;
                }
        if (events & (EPOLLHUP | EPOLLERR))
                client->deaf = false;
        if (events & EPOLLOUT)
                say(client, now);
        go_on(client);
}

void client_come(struct client *client, uint64_t now) {
        struct sockaddr_un local;
        struct sockaddr_in inet = {
                .sin_family = AF_INET, .sin_port = htons(client->site->web_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)
        };
        socklen_t len;
        int r, fd = socket(client->over_tcp ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0)
                soak_fail("socket");
        (void)address_from_path(client->web ? client->site->web_socket : client->site->socket, &local, &len);
        r = client->over_tcp ? connect(fd, (const struct sockaddr *)&inet, sizeof(inet)) :
                               connect(fd, (const struct sockaddr *)&local, len);
        /* EAGAIN: the backlog is full, unix(7). */
        if (r < 0 && errno != EINPROGRESS) {
                if (errno != EAGAIN)
                        soak_fail("connect");
                close(fd);
                client->due = now + LOOK;
                return;
        }
        client->fd = fd;
        client->due = client->begins > now ? client->begins :
                      client->pace > 0     ? now + client->pace :
                      client->deaf         ? now + LOOK :
                      client->vanishes     ? now + (client->vanish_at > 0 ? VANISH_MAX : client->vanish_after) :
                                             UINT64_MAX;
        if (client->begins <= now)
                client->begins = 0;
        watch(client, EPOLL_CTL_ADD);
}

void client_due(struct client *client, uint64_t now) {
        if (now < client->due)
                return;
        client->due = UINT64_MAX;
        if (client->fd < 0) {
                client_come(client, now);
                return;
        }
        if (client->begins > 0) {
                client->begins = 0;
                if (client->deaf)
                        client->due = now + LOOK;
        } else if (client->pace > 0) {
                client->due = now + client->pace;
                say(client, now);
        } else if (client->deaf) {
                bool stuck = client->sent == client->sent_before;

                client->sent_before = client->sent;
                if (stuck && client->patience-- == 0) {
                        if (client->vanishes) {
                                vanish(client);
                                return;
                        }
                        client->deaf = false;
                } else
                        client->due = now + LOOK;
        } else if (client->vanishes) {
                vanish(client);
                return;
        }
        go_on(client);
}

void client_hurry(struct client *client, uint64_t now) {
        size_t begun;

        if (client->fd < 0) {
                client_drop(client);
                return;
        }
        begun = client->left > 0 ? client->script.commands[client->left - 1].end : 0;
        script_cut(&client->script, client->left + (client->sent > begun));
        client->begins = client->pace = 0;
        client->due = UINT64_MAX;
        client->burst = SCRATCH_SIZE;
        if (client->script.count == 0) {
                end(client);
                return;
        }
        say(client, now);
        go_on(client);
}

void client_describe(const struct client *client) {
        WRONG(client, "It has %zu answers to %zu of %zu commands, and waits for more", client->answered, client->left,
              client->script.count);
}

/* Plans. */

static uint32_t small_prompt(struct chance *chance) {
        return (uint32_t)(chance_is(chance, 90) ? chance_between(chance, 8, 200) : chance_between(chance, 200, 8000));
}

static uint32_t big_prompt(struct chance *chance, size_t around) {
        static const uint32_t sizes[] = { SCRIPT_PROMPT_MAX - 1, SCRIPT_PROMPT_MAX, SCRIPT_PROMPT_MAX + 1, SCRIPT_PROMPT_MAX * 2 };

        if (chance_is(chance, 30))
                return (uint32_t)chance_between(chance, 20000, 2 * SCRIPT_PROMPT_MAX);
        return sizes[chance_between(chance, 0, ARRAY_SIZE(sizes) - 1)] - (uint32_t)around;
}

static enum fault some_fault(const struct client *client, struct chance *chance) {
        const uint64_t n = chance_between(chance, 1, 1000);

        if (!client->site->echoes || n > 25)
                return FAULT_NONE;
        /* The whole server's end: it is to have time for something else too. */
        if (n == 1)
                return FAULT_DIE;
        return client->vanishes && n < 5 ? FAULT_HANG : (enum fault)chance_between(chance, FAULT_STATUS, FAULT_CUT);
}

static void plan_requests(struct client *client, size_t n) {
        struct chance *chance = &client->chance;

        for (size_t i = 0; i < n; i++) {
                enum fault fault = some_fault(client, chance);

                if (chance_is(chance, 4))
                        script_wrong(&client->script, chance);
                else if (chance_is(chance, 4))
                        script_other(&client->script, chance_is(chance, 50) ? "STATUS" : "WAIT");
                else
                        script_request(&client->script,
                                       client->site->echoes || chance_is(chance, 30) ?
                                               small_prompt(chance) :
                                               SCRIPT_NO_PROMPT,
                                       false, fault);
        }
}

static void plan_streams(struct client *client, size_t n) {
        for (size_t i = 0; i < n; i++)
                script_request(&client->script, (uint32_t)chance_between(&client->chance, 8, 100), true,
                               some_fault(client, &client->chance));
}

static bool plan_post(struct client *client, uint32_t prompt, bool stream, enum form form) {
        const struct post post = {
                .prompt = prompt,
                .stream = stream,
                .chat = chance_is(&client->chance, 50),
                .fault = some_fault(client, &client->chance),
                .form = form,
        };

        return script_post(&client->script, &client->chance, &post);
}

static void plan_web(struct client *client, size_t n, unsigned streams) {
        const unsigned chunked = client->character == CHARACTER_WEB_CHUNKER ? 90 : 10;
        struct chance *chance = &client->chance;

        for (size_t i = 0; i < n; i++) {
                bool stream = chance_is(chance, streams);

                if (chance_is(chance, 15))
                        script_get(&client->script, chance);
                else
                        (void)plan_post(client, stream ? (uint32_t)chance_between(chance, 8, 100) : small_prompt(chance), stream,
                                        chance_is(chance, chunked) ? FORM_CHUNKED : FORM_LENGTH);
        }
}

static void plan_stream(struct client *client, uint32_t prompt) {
        (void)script_post(&client->script, &client->chance, &(struct post){ .prompt = prompt, .stream = true, .chat = true });
}

/* Bodies near the limit: behind one that is refused the connection ends. */
static void plan_big(struct client *client) {
        struct chance *chance = &client->chance;

        for (size_t n = chance_between(chance, 1, 4); n > 0; n--) {
                const struct post post = {
                        .prompt = big_prompt(chance, 60),
                        .chat = chance_is(chance, 50),
                        .form = chance_is(chance, 30) ? FORM_CHUNKED : FORM_LENGTH,
                };

                if (!script_post(&client->script, chance, &post))
                        break;
        }
}

static void plan_old(struct client *client) {
        struct chance *chance = &client->chance;
        size_t n = chance_is(chance, 50) ? chance_between(chance, 1, 10) : 0;

        for (; n > 0; n--)
                (void)plan_post(client, small_prompt(chance), false, FORM_OLD_KEPT);
        (void)plan_post(client, (uint32_t)chance_between(chance, 8, 100), chance_is(chance, 50), FORM_OLD);
}

static bool is_web(enum character character) {
        return character >= CHARACTER_WEB_KEEPER && character <= CHARACTER_WEB_SOCKET;
}

void client_plan(struct client *client, uint64_t seed, uint64_t serial, bool stays) {
        struct chance *chance = &client->chance;
        const enum character character = client->character;
        struct script *script = &client->script;
        bool echoes = client->site->echoes;
        size_t n;

        *client = (struct client){
                .site = client->site,
                .character = character,
                .chance = { seed ^ serial * UINT64_C(0x9e3779b97f4a7c15) },
                .epoll_fd = client->epoll_fd,
                .fd = -1,
                .web = is_web(character),
                .burst = SCRATCH_SIZE,
                .window = SIZE_MAX,
                .due = UINT64_MAX,
        };
        script_init(script, serial, echoes);
        if (chance_is(chance, 15))
                client->burst = chance_between(chance, 20, 3000);
        client->over_tcp = client->web && chance_is(chance, 40);
        if (client->web)
                client->window = echoes ? 1 : chance_between(chance, 1, 16);

        switch (character) {
        case CHARACTER_PIPELINER:
                plan_requests(client, chance_between(chance, 1, 200));
                break;
        case CHARACTER_STREAMER:
                plan_streams(client, chance_between(chance, 1, 20));
                break;
        case CHARACTER_HALF_CLOSER:
                client->half_closes = true;
                plan_requests(client, chance_between(chance, 1, 100));
                break;
        case CHARACTER_VANISHER:
        case CHARACTER_WEB_VANISHER:
                client->vanishes = !stays;
                n = chance_between(chance, 1, 30);
                if (client->web)
                        plan_web(client, n, 40);
                else if (chance_is(chance, 30))
                        plan_streams(client, n);
                else
                        plan_requests(client, n);
                client->vanish_at = chance_is(chance, 40) ? script->len : chance_between(chance, 0, script->len);
                client->vanish_after = chance_is(chance, 50) ? 0 : chance_between(chance, 0, 300 * NSEC_PER_MSEC);
                if (client->vanishes)
                        client->window = SIZE_MAX;
                break;
        case CHARACTER_SLOW:
                client->pace = NSEC_PER_SEC;
                plan_requests(client, 300);
                break;
        case CHARACTER_DEAF:
                client->deaf = true;
                client->vanishes = !stays && chance_is(chance, 40);
                client->vanish_at = SIZE_MAX;
                client->patience = (unsigned)chance_between(chance, 2, 10);
                if (echoes)
                        for (n = chance_between(chance, 20, 100); n > 0; n--)
                                script_request(script, (uint32_t)chance_between(chance, 2000, 20000), false, FAULT_NONE);
                else
                        for (n = chance_between(chance, 2000, 20000); n > 0; n--)
                                script_request(script, SCRIPT_NO_PROMPT, false, FAULT_NONE);
                break;
        case CHARACTER_BIG:
                for (n = chance_between(chance, 1, 6); n > 0; n--)
                        script_request(script, big_prompt(chance, 0), false, FAULT_NONE);
                break;
        case CHARACTER_ASKER:
                for (n = chance_between(chance, 1, 60); n > 0; n--)
                        if (chance_is(chance, 60))
                                script_wrong(script, chance);
                        else
                                script_other(script, chance_is(chance, 50) ? "STATUS" : "WAIT");
                break;
        case CHARACTER_PASSER:
                client->begins = clock_now() + chance_between(chance, 0, 300 * NSEC_PER_MSEC);
                plan_requests(client, 1);
                break;
        case CHARACTER_WEB_KEEPER:
                plan_web(client, chance_between(chance, 1, 60), 25);
                if (!client->over_tcp && chance_is(chance, 10))
                        script_post_wrong(script);
                break;
        case CHARACTER_WEB_HALF_CLOSER:
                client->over_tcp = false;
                client->half_closes = true;
                client->window = 1;
                plan_web(client, 1, 25);
                break;
        case CHARACTER_WEB_SLOW:
                client->pace = NSEC_PER_SEC;
                plan_web(client, 100, 25);
                break;
        case CHARACTER_WEB_DEAF:
                client->deaf = true;
                client->vanishes = !stays && chance_is(chance, 40);
                client->vanish_at = SIZE_MAX;
                client->patience = (unsigned)chance_between(chance, 2, 10);
                if (echoes)
                        plan_stream(client, (uint32_t)chance_between(chance, 2000, 8000));
                else {
                        client->window = SIZE_MAX;
                        for (n = chance_between(chance, 200, 500); n > 0; n--)
                                plan_stream(client, 8);
                }
                break;
        case CHARACTER_WEB_BIG:
                client->window = 1;
                plan_big(client);
                break;
        case CHARACTER_WEB_CHUNKER:
                plan_web(client, chance_between(chance, 1, 30), 25);
                break;
        case CHARACTER_WEB_OLD:
                plan_old(client);
                break;
        case CHARACTER_WEB_LATE:
                client->pace = 200 * NSEC_PER_MSEC;
                plan_web(client, 1, 25);
                break;
        case CHARACTER_WEB_SOCKET:
                client->vanishes = !stays && chance_is(chance, 30);
                client->half_closes = true;
                client->window = 1;
                script_switch(script, (uint32_t)chance_between(chance, 1, chance_is(chance, 70) ? 2000 : 2000000));
                client->vanish_at = chance_between(chance, 0, script->len);
                client->vanish_after = chance_between(chance, 0, 300 * NSEC_PER_MSEC);
                break;
        case CHARACTER_MILLION:
                for (n = 0; n < client->site->many; n++)
                        script_request(script, SCRIPT_NO_PROMPT, false, FAULT_NONE);
                break;
        case CHARACTER_SOAK:
        case CHARACTER_COUNT:
                break;
        }
}
