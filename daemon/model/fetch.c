#include "daemon/model/fetch.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/number.h"
#include "common/util.h"

/* A socket of libcurl's in the reactor. */
struct fetch_socket {
        struct watch watch;
        struct fetcher *fetcher;
};

/* A backlog has room again when its server comes to accept; nothing says when. */
#define BLOCKED_PAUSE (5 * NSEC_PER_MSEC)

/* libcurl would wait for a 100 that inference servers do not send; and it has a mind of its own about these. */
static struct curl_slist no_expect = { .data = (char *)"Expect:" };
static struct curl_slist no_accept = { .data = (char *)"Accept:", .next = &no_expect };
static struct curl_slist no_type = { .data = (char *)"Content-Type:", .next = &no_accept };
static struct curl_slist json_fields = { .data = (char *)"Content-Type: application/json", .next = &no_expect };

int target_parse(struct target *target, const char *url) {
        char *path;

        *target = (struct target){ 0 };
        if (strncmp(url, "unix:", 5) == 0) {
                if (!url[5] || strlen(url + 5) >= sizeof(target->socket))
                        return -EINVAL;
                snprintf(target->socket, sizeof(target->socket), "%s", url + 5);
                snprintf(target->base, sizeof(target->base), "http://localhost");
                return 0;
        }
        if (strncmp(url, "http://", 7) != 0 || !url[7] || url[7] == '/' || strlen(url) >= sizeof(target->base) ||
            strpbrk(url, " \t\r\n?#"))
                return -EINVAL;
        snprintf(target->base, sizeof(target->base), "%s", url);
        path = strchr(target->base + strlen("http://"), '/');
        if (path) {
                snprintf(target->path, sizeof(target->path), "%s", path);
                *path = '\0';
                for (size_t len = strlen(target->path); len > 0 && target->path[len - 1] == '/'; len--)
                        target->path[len - 1] = '\0';
        }
        return 0;
}

static void global_init(void) {
        (void)curl_global_init(CURL_GLOBAL_DEFAULT);
}

/*
 * Whether there was no room for its connection. A Unix socket whose backlog is full says EAGAIN, connect(2), which libcurl
 * takes for one that is being connected; then it finds, without an errno, that it is not, or cannot send. Nothing was sent.
 */
static bool is_blocked(const struct fetch *fetch, CURLcode code) {
        long error = 0;

        if (fetch->is_blocked)
                return true;
        if (!fetch->fetcher->target->socket[0])
                return false;
        curl_easy_getinfo(fetch->easy, CURLINFO_OS_ERRNO, &error);
        return (code == CURLE_COULDNT_CONNECT && (error == 0 || error == EAGAIN)) ||
               (code == CURLE_SEND_ERROR && error == ENOTCONN);
}

/* It is tried again, for as long as it takes: nothing was sent of it. */
static void try_later(struct fetcher *fetcher, struct fetch *fetch) {
        (void)curl_multi_remove_handle(fetcher->multi, fetch->easy);
        list_remove(&fetch->blocked);
        list_append(&fetcher->blocked, &fetch->blocked);
        if (!timer_is_set(&fetcher->retry))
                reactor_set_timer(fetcher->reactor, &fetcher->retry, timer_now() + BLOCKED_PAUSE);
}

static void fail(struct fetch *fetch, const char *error) {
        fetch_cancel(fetch);
        fetch->done(fetch, 0, error);
}

static void retry_due(struct timer *timer) {
        struct fetcher *fetcher = container_of(timer, struct fetcher, retry);
        struct list blocked, unwatched;

        list_move_all(&unwatched, &fetcher->unwatched);
        while (!list_is_empty(&unwatched))
                fail(container_of(unwatched.next, struct fetch, blocked), "Its connection cannot be watched");
        list_move_all(&blocked, &fetcher->blocked);
        while (!list_is_empty(&blocked)) {
                struct fetch *fetch = container_of(blocked.next, struct fetch, blocked);

                list_remove(&fetch->blocked);
                if (fetch->deadline > 0 && timer_now() >= fetch->deadline) {
                        fail(fetch, "There is no room in its backlog");
                        continue;
                }
                fetch->is_blocked = false;
                fetch->error[0] = '\0';
                if (curl_multi_add_handle(fetcher->multi, fetch->easy) == CURLM_OK)
                        continue;
                fail(fetch, strerror(ENOMEM));
        }
}

/* Tells those that have ended. */
static void finish(struct fetcher *fetcher) {
        CURLMsg *message;
        int left;

        while ((message = curl_multi_info_read(fetcher->multi, &left))) {
                CURLcode code = message->data.result;
                struct fetch *fetch;
                char *private;
                long status = 0;

                if (message->msg != CURLMSG_DONE)
                        continue;
                curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &private);
                fetch = (struct fetch *)(void *)private;
                if (is_blocked(fetch, code)) {
                        try_later(fetcher, fetch);
                        continue;
                }
                curl_easy_getinfo(message->easy_handle, CURLINFO_RESPONSE_CODE, &status);
                fetch_cancel(fetch);
                if (code == CURLE_OK)
                        fetch->done(fetch, status, NULL);
                else
                        fetch->done(fetch, 0, fetch->error[0] ? fetch->error : curl_easy_strerror(code));
        }
}

/*
 * Something has happened to a socket, or its time has come. An error is not said to be of one transfer: libcurl was out of
 * memory on its way through them, and those that it has not come to would never begin. "You are doomed", libcurl-errors(3).
 */
static void act(struct fetcher *fetcher, curl_socket_t fd, int mask) {
        struct list doomed;
        int running;

        list_init(&doomed);
        if (curl_multi_socket_action(fetcher->multi, fd, mask, &running) != CURLM_OK)
                list_move_all(&doomed, &fetcher->running);
        finish(fetcher);
        while (!list_is_empty(&doomed))
                fail(container_of(doomed.next, struct fetch, link), strerror(ENOMEM));
}

static void socket_ready(struct watch *watch, uint32_t events) {
        struct fetch_socket *socket = container_of(watch, struct fetch_socket, watch);
        struct fetcher *fetcher = socket->fetcher;
        int mask = 0;

        if (events & (EPOLLIN | EPOLLHUP | EPOLLRDHUP))
                mask |= CURL_CSELECT_IN;
        if (events & EPOLLOUT)
                mask |= CURL_CSELECT_OUT;
        if (events & EPOLLERR)
                mask |= CURL_CSELECT_ERR;
        act(fetcher, watch->fd, mask);
}

/* No event would come for its transfer. */
static void fail_later(struct fetch *fetch) {
        if (list_is_empty(&fetch->blocked))
                list_append(&fetch->fetcher->unwatched, &fetch->blocked);
        reactor_set_timer(fetch->fetcher->reactor, &fetch->fetcher->retry, timer_now());
}

/*
 * A socket cannot be watched, and its transfer is to fail. Not from here, where libcurl is at work on it; and libcurl, told
 * of an error, gives up all of them, and with 7.88 falls over those that have no connection yet.
 */
static int not_watched(CURL *easy) {
        char *private;

        curl_easy_getinfo(easy, CURLINFO_PRIVATE, &private);
        fail_later((struct fetch *)(void *)private);
        return 0;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *known) {
        struct fetcher *fetcher = user;
        struct fetch_socket *socket = known;
        uint32_t events = ((what & CURL_POLL_IN) ? EPOLLIN : 0) | ((what & CURL_POLL_OUT) ? EPOLLOUT : 0);
        int r;

        if (what == CURL_POLL_REMOVE) {
                if (socket)
                        reactor_unwatch(&socket->watch);
                free(socket);
                return 0;
        }
        if (socket)
                return reactor_rewatch(&socket->watch, events) < 0 ? not_watched(easy) : 0;
        socket = calloc(1, sizeof(*socket));
        if (!socket)
                return not_watched(easy);
        socket->fetcher = fetcher;
        r = reactor_watch(fetcher->reactor, &socket->watch, fd, events, socket_ready);
        if (r < 0) {
                free(socket);
                return not_watched(easy);
        }
        curl_multi_assign(fetcher->multi, fd, socket);
        return 0;
}

static int on_timer(CURLM *multi, long milliseconds, void *user) {
        struct fetcher *fetcher = user;

        (void)multi;
        timer_clear(&fetcher->timer);
        if (milliseconds >= 0)
                reactor_set_timer(fetcher->reactor, &fetcher->timer,
                                  timer_now() + (uint64_t)milliseconds * NSEC_PER_MSEC);
        return 0;
}

static void timer_due(struct timer *timer) {
        struct fetcher *fetcher = container_of(timer, struct fetcher, timer);

        act(fetcher, CURL_SOCKET_TIMEOUT, 0);
}

int fetcher_init(struct fetcher *fetcher, struct reactor *reactor, const struct target *target, uint64_t max) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;

        pthread_once(&once, global_init);
        *fetcher = (struct fetcher){ .reactor = reactor, .target = target };
        timer_init(&fetcher->timer, timer_due);
        timer_init(&fetcher->retry, retry_due);
        list_init(&fetcher->running);
        list_init(&fetcher->blocked);
        list_init(&fetcher->unwatched);
        fetcher->multi = curl_multi_init();
        if (!fetcher->multi)
                return -ENOMEM;
        curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
        curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETDATA, fetcher);
        curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERFUNCTION, on_timer);
        curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERDATA, fetcher);
        curl_multi_setopt(fetcher->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)MIN(max, (uint64_t)INT32_MAX));
        return 0;
}

void fetcher_deinit(struct fetcher *fetcher) {
        if (!fetcher->multi)
                return;
        while (fetcher->idle_count > 0)
                curl_easy_cleanup(fetcher->idle[--fetcher->idle_count]);
        curl_multi_cleanup(fetcher->multi);
        fetcher->multi = NULL;
        timer_clear(&fetcher->timer);
        timer_clear(&fetcher->retry);
}

/* As libcurl makes it; but where there is no descriptor for it, there will be some again: of these too. */
static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *address) {
        struct fetch *fetch = user;
        int fd = socket(address->family, address->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, address->protocol);

        (void)purpose;
        if (fd >= 0)
                return fd;
        fetch->is_blocked = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
        return CURL_SOCKET_BAD;
}

static size_t on_line(char *line, size_t size, size_t n, void *user) {
        struct fetch *fetch = user;
        size_t len = size * n;

        while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
                len--;
        return fetch->line(fetch, line, len) ? size * n : 0;
}

static size_t on_data(char *data, size_t size, size_t n, void *user) {
        struct fetch *fetch = user;

        return fetch->data(fetch, data, size * n) ? size * n : 0;
}

/* What all have in common. Returns whether libcurl has it: of texts it makes copies. */
static bool set_common(CURL *easy, const struct target *target) {
        curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_data);
        curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
        return curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http") == CURLE_OK &&
               curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK &&
               curl_easy_setopt(easy, CURLOPT_URL, target->base) == CURLE_OK &&
               (!target->socket[0] || curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, target->socket) == CURLE_OK);
}

/* One to be used. Returns NULL: out of memory. */
static CURL *take_easy(struct fetcher *fetcher) {
        CURL *easy;

        if (fetcher->idle_count > 0)
                return fetcher->idle[--fetcher->idle_count];
        easy = curl_easy_init();
        if (easy && !set_common(easy, fetcher->target)) {
                curl_easy_cleanup(easy);
                return NULL;
        }
        return easy;
}

static void put_easy(struct fetcher *fetcher, CURL *easy) {
        if (fetcher->idle_count < FETCH_IDLE_MAX)
                fetcher->idle[fetcher->idle_count++] = easy;
        else
                curl_easy_cleanup(easy);
}

/* The fields of `request`, which need no copies. Returns NULL: out of memory. */
static struct curl_slist *make_fields(const struct fetch_request *request) {
        struct curl_slist *fields = calloc(request->field_count + 1, sizeof(*fields));
        bool accept = false, type = false;

        if (!fields)
                return NULL;
        for (size_t i = 0; i < request->field_count; i++) {
                fields[i] = (struct curl_slist){ .data = (char *)request->fields[i], .next = &fields[i + 1] };
                accept |= strncasecmp(request->fields[i], "Accept:", 7) == 0;
                type |= strncasecmp(request->fields[i], "Content-Type:", 13) == 0;
        }
        fields[request->field_count] = accept && type ? no_expect :
                                       type           ? no_accept :
                                                        no_type;
        /* What stands in the request comes first, and counts. */
        return fields;
}

/* What it asks for. Returns whether libcurl has it. */
static bool set_request(CURL *easy, const struct target *upstream, const struct fetch_request *request) {
        const char *method = request->method;
        _cleanup_free_ char *target = NULL;

        if (asprintf(&target, "%s%s", upstream->path, request->path) < 0) {
                target = NULL;
                return false;
        }
        curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
        if (method && strcmp(method, "HEAD") == 0) {
                curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
                method = NULL;
        } else if (request->body) {
                curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body);
                curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_len);
                if (method && strcmp(method, "POST") == 0)
                        method = NULL;
        } else if (method && strcmp(method, "GET") == 0)
                method = NULL;
        curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS,
                         request->timeout > 0 ? (long)(request->timeout / NSEC_PER_MSEC + 1) : 0L);
        /* The target as it is: libcurl would make another of one with dots in it. */
        return curl_easy_setopt(easy, CURLOPT_REQUEST_TARGET, target) == CURLE_OK &&
               curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method) == CURLE_OK;
}

int fetch_start(struct fetch *fetch, struct fetcher *fetcher, const struct fetch_request *request) {
        struct curl_slist *fields = NULL;
        CURL *easy;

        if (request->field_count > 0 || request->fields) {
                fields = make_fields(request);
                if (!fields)
                        return -ENOMEM;
        }
        easy = take_easy(fetcher);
        if (!easy || !set_request(easy, fetcher->target, request)) {
                if (easy)
                        put_easy(fetcher, easy);
                free(fields);
                return -ENOMEM;
        }
        fetch->fetcher = fetcher;
        fetch->fields = fields;
        fetch->is_blocked = false;
        fetch->deadline = request->timeout > 0 ? timer_now() + request->timeout : 0;
        fetch->error[0] = '\0';
        list_init(&fetch->blocked);
        curl_easy_setopt(easy, CURLOPT_HTTPHEADER, fields ? fields : &json_fields);
        curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, fetch->line ? on_line : NULL);
        curl_easy_setopt(easy, CURLOPT_HEADERDATA, fetch->line ? fetch : NULL);
        curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetch);
        curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, fetch);
        curl_easy_setopt(easy, CURLOPT_PRIVATE, fetch);
        curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, fetch->error);
        if (curl_multi_add_handle(fetcher->multi, easy) != CURLM_OK) {
                curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, NULL);
                put_easy(fetcher, easy);
                free(STEAL_POINTER(fetch->fields));
                return -ENOMEM;
        }
        fetch->easy = easy;
        list_append(&fetcher->running, &fetch->link);
        return 0;
}

void fetch_cancel(struct fetch *fetch) {
        if (!fetch->easy)
                return;
        (void)curl_multi_remove_handle(fetch->fetcher->multi, fetch->easy);
        list_remove(&fetch->link);
        list_remove(&fetch->blocked);
        /* It does not keep a pointer into what may be gone. */
        curl_easy_setopt(fetch->easy, CURLOPT_ERRORBUFFER, NULL);
        put_easy(fetch->fetcher, STEAL_POINTER(fetch->easy));
        free(STEAL_POINTER(fetch->fields));
}

void fetch_pause(struct fetch *fetch, bool paused) {
        if (!fetch->easy || curl_easy_pause(fetch->easy, paused ? CURLPAUSE_RECV : CURLPAUSE_CONT) == CURLE_OK)
                return;
        /* At once: what libcurl 7.88 knows of this socket is in pieces, and it would fall over them. */
        (void)curl_multi_remove_handle(fetch->fetcher->multi, fetch->easy);
        fail_later(fetch);
}

long fetch_status(const struct fetch *fetch) {
        long status = 0;

        if (fetch->easy)
                curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &status);
        return status;
}
