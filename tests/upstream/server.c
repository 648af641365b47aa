/*
 * An inference server as the tests need it: the OpenAI interface, an echo for a model, and every fault on demand.
 *
 *      server [OPTION...]
 *
 *      --socket PATH, --port N         where it listens; a socket file that is there already ends it
 *      --load D                        so long it answers 503; then it is ready
 *      --never-healthy                 /health says 503 all the same
 *      --eager                         /health says 200 from the begin on
 *      --health N                      /health says this status when it is ready
 *      --notify                        READY=1 when it is ready, and STATUS= before
 *      --early                         READY=1 at once
 *      --lives D                       so long after it was ready it ends, with status 1 and a last word
 *      --line TEXT                     said on standard output when it is ready
 *      --name NAME                     the name in /v1/models, as it stands in JSON (echo-1b)
 *      --ready-at FILE                 where it notes when it was ready, in nanoseconds of CLOCK_MONOTONIC
 *      --think D                       how long an answer takes, or each part of a stream
 *      --key KEY                       who does not bring it (Authorization: Bearer KEY) gets 401
 *      --exit N                        instead of being ready it ends so, with a last word on standard error
 *      --load-by status|bar|dots|read|map      how it can be seen how far it is, every hundredth of the load
 *      --weights FILE                  what it reads or maps for that; made if it is not there
 *      --warm-up D                     so long it takes behind that, in silence
 *      --load-until N                  it gets no further than so many percent
 *      --once FILE                     the faults and the load time are for the first start alone, which makes FILE
 *      --again D                       the load time of the later ones
 *      --stuck                         it is never ready, and nothing moves
 *      --ignore-term                   SIGTERM does nothing
 *      --linger D                      SIGTERM ends it after so long; requests for inference that come meanwhile are noted on
 *                                      standard error
 *      --spawn                         it starts a process of its own that lives on
 *
 * What a prompt, or the last message of a chat, asks for: "status N" an error of that status, "garbage" no JSON, "cut" a
 * body that ends early, "cutstream" a stream without an end, "hang" no answer, "die" the server's end, "crash" its end by SIGSEGV
 * and a last word on standard error, "spin MSEC" an answer after so much processor time, "hang first" and "mute first" no answer,
 * in the first life that --once tells (after "mute" to no request at all, of /health neither); everything else comes back as
 * "echo PROMPT". A client that goes before its answer is complete is noted on standard error. /echo answers with the
 * request itself. /v1/realtime switches to a protocol in which every byte comes back.
 */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "common/number.h"
#include "tests/upstream/load.h"

static struct {
        const char *socket;
        uint64_t port;
        struct load load;
        uint64_t think;
        uint64_t again;
        uint64_t linger;
        const char *line;
        const char *name;
        const char *key;
        const char *once;
        const char *ready_at;
        int status;
        bool fails;
        bool never_healthy;
        bool eager;
        bool notifies;
        bool stuck;
        bool ignores;
        bool spawns;
        unsigned health;
        bool early;
        bool mortal;
        uint64_t lives;
        bool is_later;          /* not the first start */
} options;

static atomic_bool is_ready, is_ending, is_mute;

struct request {
        char *body;
        size_t len;
        bool is_chat;
        /* Of a stream. */
        char *text;
        size_t sent;
        bool cut;
        bool ended;
};

static void rest(uint64_t nsec) {
        struct timespec time = { (time_t)(nsec / NSEC_PER_SEC), (long)(nsec % NSEC_PER_SEC) };

        while (nanosleep(&time, &time) < 0)
                ;
}

static uint64_t thread_time(void) {
        struct timespec time;

        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
        return (uint64_t)time.tv_sec * NSEC_PER_SEC + (uint64_t)time.tv_nsec;
}

/* Uses so much processor time. */
static void spin(uint64_t nsec) {
        const uint64_t began = thread_time();

        while (thread_time() - began < nsec)
                ;
}

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, const char *text) {
        struct MHD_Response *response =
                MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
        enum MHD_Result r;

        MHD_add_response_header(response, "Content-Type", *text == '{' ? "application/json" : "text/plain");
        r = MHD_queue_response(connection, status, response);
        MHD_destroy_response(response);
        return r;
}

static enum MHD_Result answer_json(struct MHD_Connection *connection, json_t *json) {
        char *text = json_dumps(json, JSON_COMPACT);
        enum MHD_Result r = answer(connection, 200, text);

        free(text);
        json_decref(json);
        return r;
}

static enum MHD_Result answer_error(struct MHD_Connection *connection, unsigned status, const char *message) {
        char text[256];

        snprintf(text, sizeof(text), "{\"error\":{\"message\":\"%s\",\"type\":\"upstream_error\",\"code\":%u}}", message, status);
        return answer(connection, status, text);
}

static enum MHD_Result answer_models(struct MHD_Connection *connection) {
        char text[256];

        snprintf(text, sizeof(text), "{\"data\":[{\"id\":\"%s\"}]}", options.name ? options.name : "echo-1b");
        return answer(connection, 200, text);
}

#define CHAT_EVENT(delta) \
        "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"echo-1b\"," \
        "\"choices\":[{\"index\":0,\"delta\":" delta ",\"finish_reason\":null}]}\n\n"

/* One byte of the text an event. */
static ssize_t next_event(void *user, uint64_t at, char *buffer, size_t max) {
        struct request *request = user;
        char event[256];
        int n;

        (void)at;
        rest(options.think);
        if (request->ended)
                return request->cut ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
        if (!request->text[request->sent]) {
                request->ended = true;
                n = request->cut ? snprintf(event, sizeof(event), ": half an ev") :
                                   snprintf(event, sizeof(event), "data: [DONE]\n\n");
        } else
                n = snprintf(event, sizeof(event),
                             request->is_chat ? CHAT_EVENT("{\"content\":\"%c\"}") : "data: {\"choices\":[{\"text\":\"%c\"}]}\n\n",
                             request->text[request->sent++]);
        if ((size_t)n > max)
                return MHD_CONTENT_READER_END_WITH_ERROR;
        memcpy(buffer, event, (size_t)n);
        return n;
}

static ssize_t cut_body(void *user, uint64_t at, char *buffer, size_t max) {
        static const char begin[] = "{\"choices\":[{\"te";

        (void)user;
        if (at > 0 || max < sizeof(begin))
                return MHD_CONTENT_READER_END_WITH_ERROR;
        memcpy(buffer, begin, sizeof(begin) - 1);
        return sizeof(begin) - 1;
}

static enum MHD_Result answer_by(struct MHD_Connection *connection, struct request *request, uint64_t size,
                                 MHD_ContentReaderCallback reader) {
        struct MHD_Response *response = MHD_create_response_from_callback(size, 16384, reader, request, NULL);
        enum MHD_Result r;

        MHD_add_response_header(response, "Content-Type", "text/event-stream");
        r = MHD_queue_response(connection, MHD_HTTP_OK, response);
        MHD_destroy_response(response);
        return r;
}

/* What is asked, of a completion or a chat. */
static _Noreturn void crash(void) {
        const struct rlimit none = { 0 };

        /* Nobody wants the core. */
        (void)setrlimit(RLIMIT_CORE, &none);
        fputs("upstream: error: cannot stand this prompt\n", stderr);
        /* Nor is a sanitizer to say anything about it. */
        (void)signal(SIGSEGV, SIG_DFL);
        for (;;)
                (void)raise(SIGSEGV);
}

static const char *prompt_of(const json_t *json, bool is_chat) {
        const json_t *messages = json_object_get(json, "messages");

        if (!is_chat)
                return json_string_value(json_object_get(json, "prompt"));
        return json_array_size(messages) == 0 ?
                       NULL :
                       json_string_value(json_object_get(json_array_get(messages, json_array_size(messages) - 1), "content"));
}

static enum MHD_Result complete(struct MHD_Connection *connection, struct request *request) {
        json_t *json = json_loadb(request->body ? request->body : "", request->len, 0, NULL);
        const char *prompt = prompt_of(json, request->is_chat);
        const char *model = json_string_value(json_object_get(json, "model"));
        bool stream = json_is_true(json_object_get(json, "stream"));
        enum MHD_Result r;

        if (!prompt)
                r = answer_error(connection, 400, "There is no prompt");
        else if (strncmp(prompt, "status ", 7) == 0)
                r = answer_error(connection, (unsigned)atoi(prompt + 7), "As you\\nlike it");
        else if (strcmp(prompt, "garbage") == 0)
                r = answer(connection, 200, "<html>");
        else if (strcmp(prompt, "die") == 0)
                _exit(1);
        else if (strcmp(prompt, "crash") == 0)
                crash();
        else if (strcmp(prompt, "cut") == 0)
                r = answer_by(connection, request, 1000, cut_body);
        else {
                if (strcmp(prompt, "hang") == 0 || (strcmp(prompt, "hang first") == 0 && !options.is_later))
                        rest(UINT64_C(3600) * NSEC_PER_SEC);
                if (strcmp(prompt, "mute first") == 0 && !options.is_later) {
                        is_mute = true;
                        rest(UINT64_C(3600) * NSEC_PER_SEC);
                }
                if (strncmp(prompt, "spin ", 5) == 0)
                        spin((uint64_t)atoi(prompt + 5) * NSEC_PER_MSEC);
                if (strcmp(prompt, "body") == 0)
                        request->text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
                else if (asprintf(&request->text, "echo %s", prompt) < 0)
                        abort();
                request->cut = strcmp(prompt, "cutstream") == 0;
                if (stream)
                        r = answer_by(connection, request, MHD_SIZE_UNKNOWN, next_event);
                else {
                        rest(options.think);
                        if (request->is_chat)
                                r = answer_json(connection,
                                                json_pack("{s:s,s:s,s:i,s:s?,s:[{s:i,s:{s:s,s:s},s:s}]}", "id", "1", "object",
                                                          "chat.completion", "created", 1, "model", model, "choices", "index", 0,
                                                          "message", "role", "assistant", "content", request->text,
                                                          "finish_reason", "stop"));
                        else
                                r = answer_json(connection,
                                                json_pack("{s:s?,s:[{s:s}]}", "model", model, "choices", "text", request->text));
                }
        }
        json_decref(json);
        return r;
}

static bool wait_for(int fd, short events) {
        struct pollfd event = { fd, events, 0 };

        return poll(&event, 1, -1) > 0;
}

/* Returns whether all of it has left. */
static bool send_back(int fd, const char *data, size_t len) {
        while (len > 0) {
                ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

                if (n < 0 && !(errno == EAGAIN && wait_for(fd, POLLOUT)))
                        return false;
                data += n > 0 ? n : 0;
                len -= n > 0 ? (size_t)n : 0;
        }
        return true;
}

/* Behind a switch of protocols, in the thread of its connection. */
static void give_back(void *user, struct MHD_Connection *connection, void *state, const char *extra, size_t extra_len,
                      MHD_socket fd, struct MHD_UpgradeResponseHandle *handle) {
        char data[16384];
        bool goes_on = send_back(fd, extra, extra_len);

        (void)user;
        (void)connection;
        (void)state;
        while (goes_on && wait_for(fd, POLLIN)) {
                ssize_t n = recv(fd, data, sizeof(data), 0);

                if (n < 0 && errno == EAGAIN)
                        continue;
                goes_on = n > 0 && send_back(fd, data, (size_t)n);
        }
        MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
}

static enum MHD_Result switch_protocols(struct MHD_Connection *connection) {
        struct MHD_Response *response = MHD_create_response_for_upgrade(give_back, NULL);
        enum MHD_Result r;

        MHD_add_response_header(response, "Upgrade", "websocket");
        r = MHD_queue_response(connection, MHD_HTTP_SWITCHING_PROTOCOLS, response);
        MHD_destroy_response(response);
        return r;
}

static enum MHD_Result note_field(void *user, enum MHD_ValueKind kind, const char *name, const char *value) {
        (void)kind;
        json_array_append_new(user, json_pack("[s, s?]", name, value));
        return MHD_YES;
}

/* The request as it came. */
static enum MHD_Result echo(struct MHD_Connection *connection, struct request *request, const char *path, const char *method) {
        json_t *fields = json_array();

        MHD_get_connection_values(connection, MHD_HEADER_KIND, note_field, fields);
        return answer_json(connection, json_pack("{s:s,s:s,s:o,s:s%}", "method", method, "path", path, "fields", fields, "body",
                                                 request->body ? request->body : "", request->len));
}

static bool is_allowed(struct MHD_Connection *connection) {
        const char *brought = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Authorization");

        return !options.key || (brought && strncmp(brought, "Bearer ", 7) == 0 && strcmp(brought + 7, options.key) == 0);
}

static enum MHD_Result handle(void *user, struct MHD_Connection *connection, const char *path, const char *method,
                              const char *version, const char *data, size_t *size, void **state) {
        struct request *request = *state;

        (void)user;
        (void)version;
        if (!request) {
                if (is_ending && strcmp(method, "POST") == 0)
                        fprintf(stderr, "upstream: late\n");
                *state = calloc(1, sizeof(*request));
                return *state ? MHD_YES : MHD_NO;
        }
        if (*size > 0) {
                request->body = realloc(request->body, request->len + *size);
                memcpy(request->body + request->len, data, *size);
                request->len += *size;
                *size = 0;
                return MHD_YES;
        }
        if (is_mute)
                rest(UINT64_C(3600) * NSEC_PER_SEC);
        if (strcmp(path, "/health") == 0 && is_ready && options.health > 0)
                return answer_error(connection, options.health, "Not for you");
        if (strcmp(path, "/hang") == 0)
                rest(UINT64_C(3600) * NSEC_PER_SEC);
        if (strcmp(path, "/health") == 0 && strcmp(method, "GET") == 0)
                return options.eager || (is_ready && !options.never_healthy) ? answer(connection, 200, "{\"status\":\"ok\"}") :
                                                            answer_error(connection, 503, "Loading model");
        if (!is_ready)
                return answer_error(connection, 503, "Loading model");
        if (strcmp(path, "/v1/models") == 0)
                return answer_models(connection);
        if (!is_allowed(connection))
                return answer_error(connection, 401, "Incorrect API key provided");
        if (strncmp(path, "/echo", 5) == 0)
                return echo(connection, request, path, method);
        if (strcmp(path, "/v1/realtime") == 0 && MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Upgrade"))
                return switch_protocols(connection);
        request->is_chat = strcmp(path, "/v1/chat/completions") == 0;
        if ((request->is_chat || strcmp(path, "/v1/completions") == 0) && strcmp(method, "POST") == 0)
                return complete(connection, request);
        return answer_error(connection, 404, "There is nothing here");
}

static void completed(void *user, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode code) {
        struct request *request = *state;

        (void)user;
        (void)connection;
        if (!request)
                return;
        if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK)
                fprintf(stderr, "upstream: cancelled\n");
        free(request->body);
        free(request->text);
        free(request);
}

static int listen_at(void) {
        struct sockaddr_un local = { .sun_family = AF_UNIX };
        struct sockaddr_in inet = {
                .sin_family = AF_INET,
                .sin_port = htons((uint16_t)options.port),
                .sin_addr = { htonl(INADDR_LOOPBACK) },
        };
        int one = 1, fd = socket(options.socket ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (options.socket)
                snprintf(local.sun_path, sizeof(local.sun_path), "%s", options.socket);
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        if (bind(fd, options.socket ? (struct sockaddr *)&local : (struct sockaddr *)&inet,
                 options.socket ? sizeof(local) : sizeof(inet)) < 0 ||
            listen(fd, 4096) < 0) {
                perror("upstream: listen");
                exit(1);
        }
        return fd;
}

static uint64_t duration(const char *text) {
        uint64_t value;

        if (number_parse_duration(text, &value) != 0)
                exit(2);
        return value;
}

static void parse(int argc, char **argv) {
        static const struct option table[] = {
                { "socket", required_argument, NULL, 's' }, { "port", required_argument, NULL, 'p' },
                { "load", required_argument, NULL, 'l' },   { "load-by", required_argument, NULL, 'B' },
                { "weights", required_argument, NULL, 'W' }, { "warm-up", required_argument, NULL, 'U' },
                { "load-until", required_argument, NULL, 'N' }, { "never-healthy", no_argument, NULL, 'h' },
                { "eager", no_argument, NULL, 'a' },        { "notify", no_argument, NULL, 'n' },
                { "line", required_argument, NULL, 'i' },   { "name", required_argument, NULL, 'J' },
                { "think", required_argument, NULL, 't' },  { "exit", required_argument, NULL, 'e' },
                { "key", required_argument, NULL, 'q' },
                { "once", required_argument, NULL, 'o' },   { "again", required_argument, NULL, 'y' },
                { "stuck", no_argument, NULL, 'k' },         { "health", required_argument, NULL, 'H' },
                { "early", no_argument, NULL, 'E' },         { "lives", required_argument, NULL, 'L' },
                { "ready-at", required_argument, NULL, 'r' },
                { "linger", required_argument, NULL, 'm' },
                { "ignore-term", no_argument, NULL, 'g' },  { "spawn", no_argument, NULL, 'w' },
                { 0 },
        };
        int c;

        while ((c = getopt_long(argc, argv, "", table, NULL)) != -1)
                switch (c) {
                case 's': options.socket = optarg; break;
                case 'p': options.port = strtoul(optarg, NULL, 10); break;
                case 'l': options.load.time = duration(optarg); break;
                case 'B':
                        if (!load_way(optarg, &options.load.way))
                                exit(2);
                        break;
                case 'W': options.load.weights = optarg; break;
                case 'U': options.load.warm_up = duration(optarg); break;
                case 'N': options.load.until = strtoul(optarg, NULL, 10); break;
                case 'h': options.never_healthy = true; break;
                case 'a': options.eager = true; break;
                case 'n': options.notifies = true; break;
                case 'i': options.line = optarg; break;
                case 'J': options.name = optarg; break;
                case 't': options.think = duration(optarg); break;
                case 'q': options.key = optarg; break;
                case 'e': options.status = atoi(optarg); options.fails = true; break;
                case 'o': options.once = optarg; break;
                case 'r': options.ready_at = optarg; break;
                case 'y': options.again = duration(optarg); break;
                case 'k': options.stuck = true; break;
                case 'm': options.linger = duration(optarg); break;
                case 'H': options.health = (unsigned)atoi(optarg); break;
                case 'E': options.early = true; break;
                case 'L': options.lives = duration(optarg); options.mortal = true; break;
                case 'g': options.ignores = true; break;
                case 'w': options.spawns = true; break;
                default: exit(2);
                }
        /* The first start is the one that can make the file. */
        if (options.once && open(options.once, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600) < 0) {
                options.fails = options.stuck = false;
                options.is_later = true;
                options.load.time = options.again;
        }
}

static void note_ready(void) {
        struct timespec time;
        uint64_t nsec;
        int fd = open(options.ready_at, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

        clock_gettime(CLOCK_MONOTONIC, &time);
        nsec = (uint64_t)time.tv_sec * NSEC_PER_SEC + (uint64_t)time.tv_nsec;
        if (fd < 0 || write(fd, &nsec, sizeof(nsec)) != sizeof(nsec))
                abort();
        close(fd);
}

int main(int argc, char **argv) {
        struct MHD_Daemon *daemon;
        sigset_t told_to_end;

        parse(argc, argv);
        setvbuf(stdout, NULL, _IOLBF, 0);
        if (options.ignores)
                signal(SIGTERM, SIG_IGN);
        /* No thread gets it: it is waited for. */
        sigemptyset(&told_to_end);
        sigaddset(&told_to_end, SIGTERM);
        if (options.linger > 0)
                (void)sigprocmask(SIG_BLOCK, &told_to_end, NULL);
        signal(SIGPIPE, SIG_IGN);
        if (options.spawns && fork() == 0) {
                execlp("sleep", "sleep", "4711", NULL);
                _exit(127);
        }
        /* Not select(), which ends at 1,024 descriptors. */
        daemon = MHD_start_daemon(MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL |
                                          MHD_ALLOW_UPGRADE,
                                  0, NULL, NULL, handle, NULL, MHD_OPTION_LISTEN_SOCKET, listen_at(), MHD_OPTION_NOTIFY_COMPLETED, completed,
                                  NULL, MHD_OPTION_CONNECTION_LIMIT, 4096U, MHD_OPTION_END);
        if (!daemon)
                return 1;
        printf("upstream: loading\n");
        if (options.notifies)
                sd_notify(0, "STATUS=half way\nEXTEND_TIMEOUT_USEC=7000000000");
        if (options.early)
                sd_notify(0, "READY=1");
        load_run(&options.load);
        if (options.fails) {
                fprintf(stderr, "upstream: reading weights\nupstream: no such weights\n");
                return options.status;
        }
        if (!options.stuck) {
                if (options.ready_at)
                        note_ready();
                is_ready = true;
                if (options.line)
                        printf("%s\n", options.line);
                if (options.notifies)
                        sd_notify(0, "READY=1");
        }
        if (options.mortal) {
                rest(options.lives);
                fprintf(stderr, "upstream: no use\n");
                return 1;
        }
        if (options.linger > 0) {
                (void)sigwait(&told_to_end, &(int){ 0 });
                is_ending = true;
                rest(options.linger);
                _exit(0);
        }
        for (;;)
                pause();
}
