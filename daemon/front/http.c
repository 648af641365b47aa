#include "daemon/front/http.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/front/fields.h"
#include "daemon/front/http_request.h"
#include "daemon/log.h"

/* For the head of a request, and for the head of its answer. */
#define CONNECTION_MEMORY 32768

/* So much of a body that is too long is read, to be heard; then the connection is cut. */
#define DISCARD_MAX (64u << 20)

/* A peer that has vanished without a word is found gone after some two minutes: tcp(7). */
#define TCP_IDLE_SECONDS 60
#define TCP_PROBE_SECONDS 10
#define TCP_PROBES 6

/* Refused before its body is read: what comes behind it cannot be told from another request, so the connection ends. */
static enum MHD_Result refuse(struct http_request *request, unsigned status, const char *code, const char *message) {
        http_request_reply_failure(request, status, code, message);
        http_request_reply_field(request, "Connection", "close");
        if (request->cut)
                return MHD_NO;
        http_request_queue_response(request);
        return request->queued ? MHD_YES : MHD_NO;
}

static enum MHD_Result refuse_malformed(struct http_request *request, const char *message) {
        return refuse(request, MHD_HTTP_BAD_REQUEST, protocol_code_name(PROTOCOL_BAD_REQUEST), message);
}

static bool is_own_path(const struct http_request *request) {
        return strncmp(request->path, "/-/", 3) == 0 || (strncmp(request->path, "/health", 7) == 0 &&
                                                         (request->path[7] == '\0' || request->path[7] == '?'));
}

/*
 * Where in the target the path begins; of an absolute one that stands behind the authority, RFC 9112, 3.2.2. Returns false
 * if there is none.
 */
static bool find_path(struct http_request *request) {
        static const char scheme[] = "http://";
        char *target = request->target;

        for (const unsigned char *p = (const unsigned char *)target; *p; p++)
                if (*p <= 0x20 || *p == 0x7f || *p == '#')
                        return false;
        if (strncasecmp(target, scheme, sizeof(scheme) - 1) == 0) {
                char *authority = target + sizeof(scheme) - 1;
                size_t len = strcspn(authority, "/?");

                if (len == 0 || !fields_is_authority(authority, len))
                        return false;
                request->authority_len = len;
                /* The path may be left out, but not before a model server: where the authority ended, there is room for it. */
                if (authority[len] != '/') {
                        memmove(target, authority, len);
                        request->authority = target;
                        target[len] = '/';
                        memmove(target + len + 1, authority + len, strlen(authority + len) + 1);
                        request->path = target + len;
                        return true;
                }
                request->authority = authority;
                request->path = authority + len;
                return true;
        }
        request->path = target;
        return *target == '/';
}

/* The head has come. */
static enum MHD_Result begin(struct http_request *request, const char *method, const char *version) {
        const uint64_t max = http_of(request)->queue->limits->max_prompt;
        struct fields fields;
        const char *length;

        request->begun = true;
        request->is_http_1_0 = strcmp(version, "HTTP/1.0") == 0;
        request->exchange.method = method;
        fields_read(&fields, request->connection);
        if (fields.malformed)
                return refuse_malformed(request, "A header field is malformed");
        if (fields.hosts > 1 || (fields.host && !fields_is_authority(fields.host, strlen(fields.host))))
                return refuse_malformed(request, "The Host is malformed, or there is more than one");
        if (!fields_is_token(method))
                return refuse_malformed(request, "The method is malformed");
        /* Whoever stands between us and the client may have read its end elsewhere: RFC 9112, 6.3. */
        if (fields.lengths + fields.encodings > 1)
                return refuse_malformed(request, "How long the body is was said more than once");
        if (fields.encodings > 0 && (!fields.chunked || request->is_http_1_0))
                return refuse_malformed(request, "The transfer encoding is none that msd knows");
        if (strcmp(method, "CONNECT") == 0 || strcmp(method, "TRACE") == 0)
                return refuse(request, MHD_HTTP_METHOD_NOT_ALLOWED, "method-not-allowed", "This method is not passed on");

        if (!find_path(request))
                return refuse_malformed(request, "The target is malformed");

        length = MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, "Content-Length");
        if (length) {
                uint64_t n;

                if (number_parse(length, strlen(length), UINT64_MAX, &n) != 0)
                        return refuse_malformed(request, "The content length is malformed");
                request->too_large = n > max;
                /* Its client waits to hear it, or would send for long. */
                if (request->too_large && (fields.expect || n - max > DISCARD_MAX)) {
                        char message[64];

                        snprintf(message, sizeof(message), "A body may be %" PRIu64 " bytes long", max);
                        return refuse(request, MHD_HTTP_CONTENT_TOO_LARGE, protocol_code_name(PROTOCOL_TOO_LARGE), message);
                }
        }
        if (length || fields.encodings > 0 || strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 ||
            strcmp(method, "PATCH") == 0)
                request->exchange.body = "";
        return MHD_YES;
}

static void drop_body(struct http_request *request) {
        request_limits_release(http_of(request)->queue->limits, request->body_size);
        free(STEAL_POINTER(request->body));
        request->body_len = request->body_size = 0;
}

static void take_body(struct http_request *request, const char *data, size_t len) {
        struct request_limits *limits = http_of(request)->queue->limits;
        char message[REQUEST_LIMITS_MESSAGE_MAX];

        if (len > limits->max_prompt - request->body_len)
                request->too_large = true;
        if (!request->too_large && !request->overloaded && request->body_size - request->body_len < len) {
                size_t size = MIN(MAX(request->body_size * 2, request->body_len + len), (size_t)limits->max_prompt);
                char *grown;

                request->overloaded = !request_limits_hold(limits, size - request->body_size, message);
                grown = request->overloaded ? NULL : realloc(request->body, size);
                if (grown)
                        request->body = grown;
                request->body_size = size;
                request->overloaded |= !grown;
        }
        if (request->too_large || request->overloaded) {
                drop_body(request);
                request->discarded += len;
                return;
        }
        memcpy(request->body + request->body_len, data, len);
        request->body_len += len;
}

/* What msd itself answers, in any state. */

/* Whether the model is ready; otherwise why not. */
static bool is_ready(struct http_request *request, enum protocol_code *code, const char **why) {
        struct request_queue *queue = http_of(request)->queue;

        request_queue_follow(queue, queue->host->generation(queue->host));
        *code = PROTOCOL_SHUTTING_DOWN;
        *why = PROTOCOL_SHUTTING_DOWN_MESSAGE;
        if (http_is_stopping(http_of(request)))
                return false;
        switch (gate_state(&queue->generation->gate)) {
        case GATE_OPEN:
                return true;
        case GATE_FAILED:
                *code = PROTOCOL_LOAD_FAILED;
                *why = queue->generation->gate.reason;
                return false;
        default:
                *why = NULL;
                return false;
        }
}

static void reply_text(struct http_request *request, const char *type, char *text) {
        if (text)
                http_request_reply(request, MHD_HTTP_OK, type, text, strlen(text));
        else
                http_request_reply_failure(request, MHD_HTTP_INTERNAL_SERVER_ERROR, "out-of-memory", strerror(ENOMEM));
        free(text);
}

static void reply_ready(struct http_request *request, const char *type, const char *text) {
        enum protocol_code code;
        const char *why;

        if (is_ready(request, &code, &why))
                http_request_reply(request, MHD_HTTP_OK, type, text, strlen(text));
        else if (why)
                http_request_reply_error(request, code, why);
        else {
                http_request_reply_failure(request, MHD_HTTP_SERVICE_UNAVAILABLE, "loading", "Loading model");
                http_request_reply_field(request, "Retry-After", HTTP_RETRY_SOON);
        }
}

static void answer_own_path(struct http_request *request) {
        static const char json[] = "application/json", text[] = "text/plain; charset=utf-8";
        struct http *http = http_of(request);
        const char *method = request->exchange.method;
        size_t len = strcspn(request->path, "?");
        char path[16] = "";

        if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
                http_request_reply_failure(request, MHD_HTTP_METHOD_NOT_ALLOWED, "method-not-allowed", "This path has GET and HEAD alone");
                http_request_reply_field(request, "Allow", "GET, HEAD");
                return;
        }
        if (len < sizeof(path))
                memcpy(path, request->path, len);
        if (strcmp(path, "/health") == 0)
                reply_ready(request, json, "{\"status\":\"ok\"}");
        else if (strcmp(path, "/-/ready") == 0)
                reply_ready(request, text, "ready\n");
        else if (strcmp(path, "/-/live") == 0)
                http_request_reply(request, MHD_HTTP_OK, text, "ok\n", 3);
        else if (strcmp(path, "/-/status") == 0)
                reply_text(request, json, status_format(http->status));
        else if (strcmp(path, "/-/metrics") == 0)
                reply_text(request, "text/plain; version=0.0.4; charset=utf-8", status_format_metrics(http->status));
        else if (strcmp(path, "/-/wait") == 0) {
                if (request_observe(http->queue, &request->owner, REQUEST_WAIT) < 0)
                        reply_text(request, text, NULL);
        } else
                http_request_reply_failure(request, MHD_HTTP_NOT_FOUND, "not-found", "msd has no such path");
}

static void ask_model(struct http_request *request) {
        struct http *http = http_of(request);
        struct fields fields;
        char made[32];
        const char *id;

        fields_read(&fields, request->connection);
        if (request->exchange.body) {
                request->exchange.body = request->body ? request->body : "";
                request->exchange.body_len = request->body_len;
        }
        id = fields.request_id;
        if (!id || !protocol_id_valid(id, strlen(id))) {
                snprintf(made, sizeof(made), "http-%" PRIuFAST64, atomic_fetch_add(&http->group->last_id, 1) + 1);
                id = made;
        }
        request->exchange.target = request->path;
        request->fields = fields_pass_on(&fields, request->connection, request->authority ? request->authority : fields.host,
                                         request->authority ? request->authority_len : strlen(fields.host ? fields.host : ""),
                                         request->is_http_1_0 ? "1.0 msd" : "1.1 msd", &request->exchange.fields,
                                         &request->exchange.field_count);
        if (!request->fields || request_new_exchange(http->queue, &request->owner, id, strlen(id)) < 0)
                reply_text(request, NULL, NULL);
}

/* All of it has come. */
static enum MHD_Result finish(struct http_request *request) {
        struct http *http = http_of(request);
        char message[REQUEST_LIMITS_MESSAGE_MAX];

        request->whole = true;
        http->unsent++;
        if (request->too_large) {
                snprintf(message, sizeof(message), "A body may be %" PRIu64 " bytes long", http->queue->limits->max_prompt);
                http_request_reply_error(request, PROTOCOL_TOO_LARGE, message);
        } else if (request->overloaded) {
                snprintf(message, sizeof(message), "The prompts that are held may need %" PRIu64 " bytes together",
                         http->queue->limits->max_prompt_memory);
                http_request_reply_error(request, PROTOCOL_QUEUE_FULL, message);
        } else if (is_own_path(request))
                answer_own_path(request);
        else if (request->client->gone)
                return MHD_NO;
        else
                ask_model(request);
        http_request_attend(request);
        if (!request->queued && !request->cut) {
                request->suspended = true;
                MHD_suspend_connection(request->connection);
        }
        return request->queued || !request->cut ? MHD_YES : MHD_NO;
}

/* libmicrohttpd's callbacks. */

/* The first word of a request; what is returned is what every other callback gets of it. */
static void *on_target(void *user, const char *target, struct MHD_Connection *connection) {
        struct http *http = user;
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        struct http_request *request;

        /* That was said when it came. */
        if (!info->socket_context)
                return NULL;
        request = calloc(1, sizeof(*request));
        if (request)
                request->target = strdup(target);
        if (!request || !request->target) {
                log_warning("Cannot take an HTTP request, ending its connection: %s", strerror(ENOMEM));
                free(request);
                return NULL;
        }
        request->client = info->socket_context;
        request->client->request = request;
        request->connection = connection;
        request_owner_init(&request->owner, &http_request_ops);
        list_init(&request->attention);
        list_init(&request->kept);
        list_init(&request->resumed);
        list_append(&http->requests, &request->link);
        return request;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *len, void **requestp) {
        struct http_request *request = *requestp;

        (void)user;
        (void)connection;
        (void)url;
        if (!request)
                return MHD_NO;
        if (!request->begun)
                return begin(request, method, version);
        if (*len > 0) {
                take_body(request, data, *len);
                *len = 0;
                return request->discarded > DISCARD_MAX ? MHD_NO : MHD_YES;
        }
        /* Once it is whole this comes again for one alone that is to be ended without an answer. */
        return request->whole ? MHD_NO : finish(request);
}

/* When libmicrohttpd has read what there is, it is seen whether it has missed that this was all. */
static void look_for_end(struct http_client *client) {
        if (list_is_empty(&client->hung_up))
                list_append(&client->http->hung_up, &client->hung_up);
        reactor_queue(client->http->reactor, &client->http->work);
}

/*
 * libmicrohttpd ends a connection while it asks for more of a body, and then does not look at it again before it is the oldest:
 * until then it is there, with its descriptor. Those with a time-out of their own it looks at each time.
 */
static void have_cleaned_up(struct http *http, struct MHD_Connection *connection) {
        (void)MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, HTTP_TIMEOUT);
        reactor_queue(http->reactor, &http->work);
}

static void on_completed(void *user, struct MHD_Connection *connection, void **requestp, enum MHD_RequestTerminationCode how) {
        struct http *http = user;
        struct http_request *request = *requestp;

        if (!request)
                return;
        *requestp = NULL;
        request->client->request = NULL;
        if (request->client->has_hung_up)
                look_for_end(request->client);
        request_owner_deinit(http->queue, &request->owner);
        list_remove(&request->link);
        list_remove(&request->attention);
        list_remove(&request->kept);
        http_request_looked_at(request);
        if (how != MHD_REQUEST_TERMINATED_COMPLETED_OK)
                have_cleaned_up(http, connection);
        drop_body(request);
        if (request->collects)
                free(request->buffer);
        http_request_drop_response(request);
        free(request->output);
        free(request->fields);
        free(request->target);
        if (request->whole) {
                http->unsent--;
                http->flushed(http);
        }
        free(request);
}

static void client_hung_up(struct watch *watch, uint32_t events) {
        struct http_client *client = container_of(watch, struct http_client, watch);

        /* Once: what tells libmicrohttpd of it comes here too. */
        if (!client->has_hung_up) {
                client->has_hung_up = true;
                look_for_end(client);
        }
        /* On a Unix socket this is its writing side alone; elsewhere nobody can tell that from a client that has gone. */
        if (client->is_unix && !(events & (EPOLLHUP | EPOLLERR)))
                return;
        client->gone = true;
        if (client->request && client->request->whole && !client->request->ended)
                http_request_attend_later(client->request);
}

static void on_connection(void *user, struct MHD_Connection *connection, void **clientp,
                          enum MHD_ConnectionNotificationCode what) {
        struct http *http = user;
        struct http_client *client = *clientp;

        if (what == MHD_CONNECTION_NOTIFY_STARTED) {
                /* What is asked first need not outlive what is asked next. */
                const int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
                const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);

                client = calloc(1, sizeof(*client));
                if (client) {
                        client->http = http;
                        list_init(&client->hung_up);
                        client->is_unix = info->client_addr->sa_family == AF_UNIX;
                        client->watch = (struct watch)WATCH_NULL;
                        /* Also while libmicrohttpd looks away. */
                        if (reactor_watch(http->reactor, &client->watch, fd, EPOLLRDHUP | EPOLLET, client_hung_up) < 0)
                                free(STEAL_POINTER(client));
                }
                /* What it asks will not be taken. */
                if (!client)
                        log_warning("Cannot serve an HTTP connection, ignoring: %s", strerror(errno));
                *clientp = client;
                counter_add(&http->queue->counters->connections, 1);
                return;
        }
        if (client) {
                reactor_unwatch(&client->watch);
                list_remove(&client->hung_up);
                free(client);
                *clientp = NULL;
        }
        counter_add(&http->queue->counters->connections, -1);
        /* Of one that cannot be added its caller hears. */
        if (!http->adding)
                http->ended(http);
}

/*
 * libmicrohttpd does not read again when it got less than it had room for, until there is another edge: an end of file that
 * came along with what it got it would not see. Here is the edge: shutdown(2) wakes up who watches. It tells of an end that is
 * there already, and only who is in the middle of a request, or asks nothing, is still read from.
 */
static void tell_ends(struct http *http) {
        struct list hung_up;

        list_move_all(&hung_up, &http->hung_up);
        while (!list_is_empty(&hung_up)) {
                struct http_client *client = container_of(hung_up.next, struct http_client, hung_up);
                char byte;

                list_remove(&client->hung_up);
                if (client->request && client->request->whole)
                        continue;
                if (recv(client->watch.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
                        list_append(&http->hung_up, &client->hung_up);
                else
                        (void)shutdown(client->watch.fd, SHUT_RD);
        }
}

static void work(struct job *job) {
        struct http *http = container_of(job, struct http, work);
        struct list attention;
        MHD_UNSIGNED_LONG_LONG timeout;

        list_move_all(&attention, &http->attention);
        while (!list_is_empty(&attention)) {
                struct http_request *request = container_of(attention.next, struct http_request, attention);

                list_remove(&request->attention);
                http_request_attend(request);
        }
        if (MHD_run(http->daemon) == MHD_NO)
                reactor_fail(http->reactor, errno > 0 ? -errno : -EIO);
        while (!list_is_empty(&http->resumed))
                http_request_looked_at(container_of(http->resumed.next, struct http_request, resumed));
        tell_ends(http);
        /* It has more to do, or something to say has come up. */
        if ((MHD_get_timeout(http->daemon, &timeout) == MHD_YES && timeout == 0) || !list_is_empty(&http->attention))
                reactor_queue(http->reactor, &http->work);
}

static void daemon_ready(struct watch *watch, uint32_t events) {
        struct http *http = container_of(watch, struct http, watch);

        (void)events;
        reactor_queue(http->reactor, &http->work);
}

int http_init(struct http *http, struct reactor *reactor, struct request_queue *queue, struct status *status,
              struct http_group *group, void (*ended)(struct http *http), void (*flushed)(struct http *http)) {
        const union MHD_DaemonInfo *info;

        *http = (struct http){
                .reactor = reactor,
                .queue = queue,
                .status = status,
                .group = group,
                .watch = WATCH_NULL,
                .ended = ended,
                .flushed = flushed,
        };
        list_init(&http->requests);
        list_init(&http->attention);
        list_init(&http->kept);
        list_init(&http->resumed);
        list_init(&http->hung_up);
        job_init(&http->work, work);
        timer_init(&http->keepalive, http_comments_due);
        http->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
                                        on_request, http,
                                        MHD_OPTION_URI_LOG_CALLBACK, on_target, http,
                                        MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
                                        MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,
                                        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
                                        /* The limit is the listener's. */
                                        MHD_OPTION_CONNECTION_LIMIT, UINT_MAX,
                                        MHD_OPTION_STRICT_FOR_CLIENT, 1,
                                        MHD_OPTION_END);
        if (!http->daemon)
                return errno > 0 ? -errno : -ENOMEM;
        info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
        return reactor_watch(reactor, &http->watch, info->epoll_fd, EPOLLIN, daemon_ready);
}

void http_deinit(struct http *http) {
        if (!http->daemon)
                return;
        /* One try to send what is left; libmicrohttpd wants none suspended at its end. */
        for (struct list *i = http->requests.next; i != &http->requests; i = i->next) {
                struct http_request *request = container_of(i, struct http_request, link);

                request_owner_deinit(http->queue, &request->owner);
                if (!request->ended)
                        request->ended = request->cut = true;
                http_request_attend(request);
                /* analyzer-suppress: the list's own end is no request */
                if (request->suspended) {
                        request->suspended = false;
                        MHD_resume_connection(request->connection);
                }
        }
        (void)MHD_run(http->daemon);
        MHD_stop_daemon(STEAL_POINTER(http->daemon));
        reactor_unwatch(&http->watch);
        timer_clear(&http->keepalive);
        job_cancel(&http->work);
}

int http_connection_new(struct http *http, int fd) {
        struct sockaddr_storage address = { 0 };
        socklen_t len = sizeof(address);
        enum MHD_Result r;

        (void)getsockname(fd, (struct sockaddr *)&address, &len);
        if (address.ss_family == AF_INET || address.ss_family == AF_INET6) {
                const int on = 1, idle = TCP_IDLE_SECONDS, pause = TCP_PROBE_SECONDS, probes = TCP_PROBES;

                (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
                (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
                (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &pause, sizeof(pause));
                (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
        }
        http->adding = true;
        errno = 0;
        r = MHD_add_connection(http->daemon, fd, (struct sockaddr *)&address, len);
        http->adding = false;
        if (r == MHD_YES)
                return 0;
        return errno > 0 ? -errno : -ENOMEM;
}

bool http_is_flushed(const struct http *http) {
        return http->unsent == 0;
}
