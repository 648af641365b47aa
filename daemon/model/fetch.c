#include "daemon/model/fetch.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/number.h"
#include "common/util.h"

/* A socket of libcurl's in the reactor. */
struct fetch_socket {
        struct watch watch;
        struct fetcher *fetcher;
};

static struct curl_slist headers = { .data = (char *)"Content-Type: application/json" };
/* libcurl would wait for a 100 that inference servers do not send. */
static struct curl_slist no_expect = { .data = (char *)"Expect:", .next = &headers };

int target_parse(struct target *target, const char *url) {
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
        while (target->base[strlen(target->base) - 1] == '/')
                target->base[strlen(target->base) - 1] = '\0';
        return 0;
}

static void global_init(void) {
        (void)curl_global_init(CURL_GLOBAL_DEFAULT);
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
                curl_easy_getinfo(message->easy_handle, CURLINFO_RESPONSE_CODE, &status);
                fetch_cancel(fetch);
                if (code == CURLE_OK)
                        fetch->done(fetch, status, NULL);
                else
                        fetch->done(fetch, 0, fetch->error[0] ? fetch->error : curl_easy_strerror(code));
        }
}

static void socket_ready(struct watch *watch, uint32_t events) {
        struct fetch_socket *socket = container_of(watch, struct fetch_socket, watch);
        struct fetcher *fetcher = socket->fetcher;
        int running, mask = 0;

        if (events & (EPOLLIN | EPOLLHUP | EPOLLRDHUP))
                mask |= CURL_CSELECT_IN;
        if (events & EPOLLOUT)
                mask |= CURL_CSELECT_OUT;
        if (events & EPOLLERR)
                mask |= CURL_CSELECT_ERR;
        (void)curl_multi_socket_action(fetcher->multi, watch->fd, mask, &running);
        finish(fetcher);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *known) {
        struct fetcher *fetcher = user;
        struct fetch_socket *socket = known;
        uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
        int r;

        (void)easy;
        if (what == CURL_POLL_REMOVE) {
                if (socket)
                        reactor_unwatch(&socket->watch);
                free(socket);
                return 0;
        }
        if (socket) {
                (void)reactor_rewatch(&socket->watch, events);
                return 0;
        }
        socket = calloc(1, sizeof(*socket));
        if (!socket)
                return -1;
        socket->fetcher = fetcher;
        r = reactor_watch(fetcher->reactor, &socket->watch, fd, events, socket_ready);
        if (r < 0) {
                free(socket);
                return -1;
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
        int running;

        (void)curl_multi_socket_action(fetcher->multi, CURL_SOCKET_TIMEOUT, 0, &running);
        finish(fetcher);
}

int fetcher_init(struct fetcher *fetcher, struct reactor *reactor, const struct target *target) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;

        pthread_once(&once, global_init);
        *fetcher = (struct fetcher){ .reactor = reactor, .target = target };
        timer_init(&fetcher->timer, timer_due);
        fetcher->multi = curl_multi_init();
        if (!fetcher->multi)
                return -ENOMEM;
        curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
        curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETDATA, fetcher);
        curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERFUNCTION, on_timer);
        curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERDATA, fetcher);
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
}

static size_t on_data(char *data, size_t size, size_t n, void *user) {
        struct fetch *fetch = user;

        return fetch->data(fetch, data, size * n) ? size * n : 0;
}

/* One with the options that all have in common. Returns NULL: out of memory. */
static CURL *take_easy(struct fetcher *fetcher) {
        CURL *easy;

        if (fetcher->idle_count > 0)
                return fetcher->idle[--fetcher->idle_count];
        easy = curl_easy_init();
        if (!easy)
                return NULL;
        curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http");
        curl_easy_setopt(easy, CURLOPT_PROXY, "");
        curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
        curl_easy_setopt(easy, CURLOPT_HTTPHEADER, &no_expect);
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_data);
        if (fetcher->target->socket[0])
                curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, fetcher->target->socket);
        return easy;
}

static void put_easy(struct fetcher *fetcher, CURL *easy) {
        if (fetcher->idle_count < FETCH_IDLE_MAX)
                fetcher->idle[fetcher->idle_count++] = easy;
        else
                curl_easy_cleanup(easy);
}

int fetch_start(struct fetch *fetch, struct fetcher *fetcher, const char *path, const char *body, size_t len,
                uint64_t timeout) {
        CURL *easy = take_easy(fetcher);
        char url[1024];

        if (!easy)
                return -ENOMEM;
        snprintf(url, sizeof(url), "%s%s", fetcher->target->base, path);
        fetch->fetcher = fetcher;
        fetch->error[0] = '\0';
        curl_easy_setopt(easy, CURLOPT_URL, url);
        if (body) {
                curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
                curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len);
        } else
                curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
        curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout > 0 ? (long)(timeout / NSEC_PER_MSEC + 1) : 0L);
        curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetch);
        curl_easy_setopt(easy, CURLOPT_PRIVATE, fetch);
        curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, fetch->error);
        if (curl_multi_add_handle(fetcher->multi, easy) != CURLM_OK) {
                put_easy(fetcher, easy);
                return -ENOMEM;
        }
        fetch->easy = easy;
        return 0;
}

void fetch_cancel(struct fetch *fetch) {
        if (!fetch->easy)
                return;
        (void)curl_multi_remove_handle(fetch->fetcher->multi, fetch->easy);
        /* It does not keep a pointer into what may be gone. */
        curl_easy_setopt(fetch->easy, CURLOPT_ERRORBUFFER, NULL);
        put_easy(fetch->fetcher, STEAL_POINTER(fetch->easy));
}

long fetch_status(const struct fetch *fetch) {
        long status = 0;

        if (fetch->easy)
                curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &status);
        return status;
}
