#include "daemon/front/parked.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/util.h"
#include "daemon/log.h"

#define READ_SIZE 262144

/* Longer than any record that a daemon with the largest --max-prompt of use writes. */
#define RECORD_MAX (1u << 30)

/* What a client hears whose connection cannot be taken over. */
static const char refusal[] = "ERR " PROTOCOL_NO_ID " shutting-down " PROTOCOL_SHUTTING_DOWN_MESSAGE "\n";

/* A connection, as it comes out of the pair and as the log knows it. */
struct survivor {
        uint64_t cookie;
        uint64_t rest;          /* where the record of the last rest is; 0: there is none */
        uint64_t waiting;       /* requests that wait */
        uint64_t unheld;        /* those of them that are not here */
        struct connection *connection;
        struct http_connection *http_connection;
        int fd;                 /* -1: it is the connection's, or closed */
        uint16_t http_flags;    /* of the last PARKING_HTTP */
        bool is_unix;           /* of a Unix socket */
        bool is_http;
        bool lost;              /* some of its rest is missing */
        bool waits_bodiless;    /* what waits is a HEAD; or what the rest begins with */
        bool rest_bodiless;
        bool busy;
        bool gone;
};

/* A request that waits, by its record; or one that does no more, by its key and the record that says so. */
struct waiter {
        uint64_t order;         /* when it came; or the key */
        uint64_t at;            /* where the record begins */
};

struct waiters {
        struct waiter *items;
        size_t count;
        size_t size;
};

struct survivors {
        struct survivor *items;
        size_t count;
        size_t size;
        struct waiters answered;
        struct waiters waiting;
};

/* The log, from record to record. */
struct log_reader {
        int fd;
        uint64_t next;          /* where the next record is */
        char *data;             /* [start, start + len) of the file */
        uint64_t start;
        size_t len;
        size_t size;
};

bool parked_list_add(struct parked_list *list, const char *name, int fd) {
        struct parked *parked = NULL;
        struct stat st;

        if (strncmp(name, PARKING_NAME_PREFIX, sizeof(PARKING_NAME_PREFIX) - 1) != 0)
                return false;
        for (unsigned i = 0; i < list->count; i++)
                if (strcmp(list->items[i].name, name) == 0)
                        parked = &list->items[i];
        if (!parked) {
                struct parked *items = reallocarray(list->items, list->count + 1, sizeof(*items));
                char *copy = strdup(name);

                if (items)
                        list->items = items;
                if (!items || !copy) {
                        free(copy);
                        close(fd);
                        return true;
                }
                parked = &list->items[list->count++];
                *parked = (struct parked){ .name = copy, .log = -1, .pair = { -1, -1 } };
        }

        if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && parked->log < 0)
                parked->log = fd;
        else if (S_ISSOCK(st.st_mode) && parked->pair[0] < 0)
                parked->pair[0] = fd;
        else if (S_ISSOCK(st.st_mode) && parked->pair[1] < 0)
                parked->pair[1] = fd;
        else {
                log_warning("A descriptor with the name %s is none that was parked, ignoring", name);
                close(fd);
        }
        return true;
}

static void parked_close(struct parked *parked) {
        parked->log = util_close(parked->log);
        parked->pair[0] = util_close(parked->pair[0]);
        parked->pair[1] = util_close(parked->pair[1]);
}

void parked_list_deinit(struct parked_list *list) {
        for (unsigned i = 0; i < list->count; i++) {
                parked_close(&list->items[i]);
                free(list->items[i].name);
        }
        free(STEAL_POINTER(list->items));
        list->count = 0;
}

/* A connected stream socket, and the number that the kernel knows it by. */
static bool is_client(int fd, uint64_t *cookie, bool *is_unix) {
        int domain, type, listens;
        socklen_t len = sizeof(int), cookie_len = sizeof(*cookie);

        if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
                return false;
        *is_unix = domain == AF_UNIX;
        return (domain == AF_UNIX || domain == AF_INET || domain == AF_INET6) &&
               getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM &&
               getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0 && !listens &&
               getsockopt(fd, SOL_SOCKET, SO_COOKIE, cookie, &cookie_len) == 0;
}

static void survivors_add(struct survivors *survivors, int fd) {
        struct survivor survivor = { .fd = fd };

        if (!is_client(fd, &survivor.cookie, &survivor.is_unix)) {
                close(fd);
                return;
        }
        if (survivors->count == survivors->size) {
                size_t size = MAX(survivors->size * 2, (size_t)1024);
                struct survivor *items = reallocarray(survivors->items, size, sizeof(*items));

                if (!items) {
                        close(fd);
                        return;
                }
                survivors->items = items;
                survivors->size = size;
        }
        survivors->items[survivors->count++] = survivor;
}

/*
 * Takes copies of the descriptors in the queue of `from`, which stays as it is: were this process to be killed, the next one would
 * find them. SO_PEEK_OFF has each look begin behind the one before: socket(7).
 */
static void take_descriptors(struct survivors *survivors, int from) {
        const int begin = 0;

        if (setsockopt(from, SOL_SOCKET, SO_PEEK_OFF, &begin, sizeof(begin)) < 0) {
                log_warning("What waited cannot be taken over, ignoring: %s", strerror(errno));
                return;
        }
        for (;;) {
                union {
                        struct cmsghdr header;
                        char space[CMSG_SPACE(sizeof(int) * PARKING_BATCH)];
                } control;
                char byte = 0;
                struct iovec iov = { &byte, sizeof(byte) };
                struct msghdr message = {
                        .msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control),
                };
                struct cmsghdr *header;
                ssize_t n = UTIL_RETRY(recvmsg(from, &message, MSG_DONTWAIT | MSG_PEEK | MSG_CMSG_CLOEXEC));

                if (n <= 0)
                        return;
                header = CMSG_FIRSTHDR(&message);
                if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
                        continue;
                if (message.msg_flags & MSG_CTRUNC)
                        log_warning("Out of descriptors: some that waited cannot be taken over, ignoring");
                for (size_t i = 0; i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(header) + i * sizeof(fd), sizeof(fd));
                        survivors_add(survivors, fd);
                }
        }
}

static int compare(const void *a, const void *b) {
        const struct survivor *left = a, *right = b;

        return left->cookie < right->cookie ? -1 : left->cookie > right->cookie;
}

static struct survivor *survivors_find(struct survivors *survivors, uint64_t cookie) {
        const struct survivor key = { .cookie = cookie };

        return survivors->count > 0 ?
                       bsearch(&key, survivors->items, survivors->count, sizeof(key), compare) :
                       NULL;
}

/* In order, and each once. */
static void survivors_sort(struct survivors *survivors) {
        size_t n = 0;

        if (survivors->count == 0)
                return;
        qsort(survivors->items, survivors->count, sizeof(*survivors->items), compare);
        for (size_t i = 1; i < survivors->count; i++) {
                if (survivors->items[i].cookie == survivors->items[n].cookie)
                        close(survivors->items[i].fd);
                else
                        survivors->items[++n] = survivors->items[i];
        }
        survivors->count = n + 1;
}

static int compare_waiters(const void *a, const void *b) {
        const struct waiter *left = a, *right = b;

        if (left->order != right->order)
                return left->order < right->order ? -1 : 1;
        return left->at < right->at ? -1 : left->at > right->at;
}

/* Returns false: out of memory. */
static bool waiters_add(struct waiters *waiters, uint64_t order, uint64_t at) {
        if (waiters->count == waiters->size) {
                size_t size = MAX(waiters->size * 2, (size_t)64);
                struct waiter *items = reallocarray(waiters->items, size, sizeof(*items));

                if (!items)
                        return false;
                waiters->items = items;
                waiters->size = size;
        }
        waiters->items[waiters->count++] = (struct waiter){ order, at };
        return true;
}

static void waiters_sort(struct waiters *waiters) {
        if (waiters->count > 0)
                qsort(waiters->items, waiters->count, sizeof(*waiters->items), compare_waiters);
}

/* Whether the request with this key, whose record is at `at`, was answered later. */
static bool is_answered(const struct waiters *answered, uint64_t key, uint64_t at) {
        size_t low = 0, high = answered->count;

        /* The first that is for this key, and later; or for another one. */
        while (low < high) {
                size_t middle = low + (high - low) / 2;
                const struct waiter *waiter = &answered->items[middle];

                if (waiter->order < key || (waiter->order == key && waiter->at < at))
                        low = middle + 1;
                else
                        high = middle;
        }
        return low < answered->count && answered->items[low].order == key;
}

/* Has `n` bytes from `offset` in memory. Returns them, or NULL: there are not so many. */
static const char *reader_get(struct log_reader *reader, uint64_t offset, size_t n) {
        if (offset >= reader->start && offset - reader->start <= reader->len &&
            reader->len - (size_t)(offset - reader->start) >= n)
                return reader->data + (offset - reader->start);
        if (n > reader->size || !reader->data) {
                size_t size = MAX(n, (size_t)READ_SIZE);
                char *data = realloc(reader->data, size);

                if (!data)
                        return NULL;
                reader->data = data;
                reader->size = size;
        }
        reader->start = offset;
        reader->len = 0;
        while (reader->len < n) {
                ssize_t got = UTIL_RETRY(pread(reader->fd, reader->data + reader->len, reader->size - reader->len,
                                               (off_t)(offset + reader->len)));

                if (got <= 0)
                        return NULL;
                reader->len += (size_t)got;
        }
        return reader->data;
}

/* The next record, and its data, valid until the next call. Returns false at the end, and at what is no record. */
static bool reader_next(struct log_reader *reader, struct parking_record *record, const char **data) {
        const char *p = reader_get(reader, reader->next, sizeof(*record));
        uint64_t end;

        if (!p)
                return false;
        memcpy(record, p, sizeof(*record));
        if (record->type < PARKING_WAITING || record->type > PARKING_GONE || record->len > RECORD_MAX ||
            __builtin_add_overflow(reader->next, sizeof(*record) + record->len, &end) || end > INT64_MAX)
                return false;
        *data = "";
        if (record->len > 0)
                *data = reader_get(reader, reader->next + sizeof(*record), record->len);
        if (!*data)
                return false;
        reader->next = end;
        return true;
}

/* What is known of a connection by a record of it, at `at`. */
static void note_record(struct survivors *survivors, struct survivor *survivor, const struct parking_record *record,
                        const char *data, uint64_t at) {
        switch (record->type) {
        case PARKING_WAITING:
                survivor->waiting++;
                survivor->waits_bodiless = record->flags & PARKING_BODILESS;
                survivor->unheld += (record->flags & PARKING_UNHELD) != 0;
                break;
        case PARKING_ANSWERED:
                /* Out of memory nobody can tell what is answered: better its client sees the end than two answers. */
                survivor->gone |= !waiters_add(&survivors->answered, record->key, at);
                survivor->waiting -= survivor->waiting > 0;
                survivor->unheld -= record->flags & PARKING_UNHELD && survivor->unheld > 0;
                break;
        case PARKING_REST:
                survivor->rest = at;
                survivor->rest_bodiless = record->len > 5 && memcmp(data, "HEAD ", 5) == 0;
                survivor->lost = false;
                break;
        case PARKING_LOST:
                survivor->lost = true;
                break;
        case PARKING_BUSY:
                survivor->busy = true;
                break;
        case PARKING_IDLE:
                survivor->busy = false;
                break;
        case PARKING_HTTP:
                survivor->is_http = true;
                survivor->http_flags = record->flags;
                break;
        case PARKING_GONE:
                survivor->gone = true;
                break;
        }
}

static void read_records(struct log_reader *reader, uint64_t begin, struct survivors *survivors) {
        struct parking_record record;
        const char *data;

        reader->next = begin;
        for (uint64_t at = begin; reader_next(reader, &record, &data); at = reader->next) {
                struct survivor *survivor = survivors_find(survivors, record.cookie);

                if (survivor)
                        note_record(survivors, survivor, &record, data, at);
        }
        waiters_sort(&survivors->answered);
}

/* Says why, and ends it. A copy of the descriptor may be in flight: its client is to see the end all the same. */
static void refuse(const struct survivor *survivor, int fd) {
        char text[HTTP_PARTING_MAX];

        if (survivor->is_http || !survivor->is_unix)
                http_format_parting(text, survivor->http_flags,
                                    survivor->waiting > 0 ? survivor->waits_bodiless : survivor->rest_bodiless);
        else
                snprintf(text, sizeof(text), "%s", refusal);
        if (survivor->waiting > 0 || survivor->rest > 0 || survivor->lost)
                (void)!send(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)shutdown(fd, SHUT_RDWR);
        close(fd);
}

/* Returns whether the connection is taken over. If not it is ended, and its client hears why if it waits. */
static bool adopt(struct survivor *survivor, struct front *front, struct http *http) {
        int fd = survivor->fd, copy;

        survivor->fd = -1;
        if (survivor->gone || survivor->busy) {
                /* Its answer may have left in part: there is nothing more to say. */
                (void)shutdown(fd, SHUT_RDWR);
                close(fd);
                return false;
        }
        if (survivor->lost || survivor->unheld > 0 || (survivor->is_http ? !http || !http->sockets : !survivor->is_unix)) {
                refuse(survivor, fd);
                return false;
        }
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (survivor->is_http)
                survivor->http_connection = http_adopt(http, fd, survivor->http_flags);
        else
                survivor->connection = connection_adopt(front, fd);
        if (survivor->connection || survivor->http_connection) {
                util_close(copy);
                return true;
        }
        if (copy >= 0)
                refuse(survivor, copy);
        return false;
}

static void feed_request(struct log_reader *reader, struct survivors *survivors, uint64_t at) {
        struct parking_record record;
        struct survivor *survivor;
        const char *data;

        reader->next = at;
        if (!reader_next(reader, &record, &data))
                return;
        survivor = survivors_find(survivors, record.cookie);
        if (survivor->is_http)
                http_feed_waiting(survivor->http_connection, data, record.len, record.value);
        else
                connection_feed(survivor->connection, data, record.len, record.value);
}

/* What waited, in the order in which it came. */
static void feed_waiting(struct log_reader *reader, uint64_t begin, struct survivors *survivors) {
        struct parking_record record;
        const char *data;

        reader->next = begin;
        for (uint64_t at = begin; reader_next(reader, &record, &data); at = reader->next) {
                struct survivor *survivor = survivors_find(survivors, record.cookie);

                if (!survivor || !(survivor->connection || survivor->http_connection) || record.type != PARKING_WAITING ||
                    record.flags & PARKING_UNHELD || is_answered(&survivors->answered, record.key, at))
                        continue;
                /* Out of memory the order is that of the records. */
                if (!waiters_add(&survivors->waiting, record.value, at))
                        feed_request(reader, survivors, at);
        }
        waiters_sort(&survivors->waiting);
        for (size_t i = 0; i < survivors->waiting.count; i++)
                feed_request(reader, survivors, survivors->waiting.items[i].at);
}

static void feed_rest(struct survivor *survivor, const struct parking_record *record, const char *data) {
        if (survivor->is_http)
                http_feed_rest(survivor->http_connection, data, record->len);
        else if (record->type == PARKING_MORE)
                connection_feed(survivor->connection, data, record->len, 0);
        else {
                const struct line_state state = {
                        .skip = record->value,
                        .skip_end = record->flags & PARKING_SKIP_END,
                        .draining = record->flags & PARKING_DRAINING,
                };

                connection_feed_rest(survivor->connection, &state, data, record->len);
        }
}

/*
 * What was no whole request yet. It comes behind all that waited, wherever its record is: a request that a model has
 * lost waits again, and is recorded, when more had come already.
 */
static void feed_rests(struct log_reader *reader, uint64_t begin, struct survivors *survivors) {
        struct parking_record record;
        const char *data;

        reader->next = begin;
        for (uint64_t at = begin; reader_next(reader, &record, &data); at = reader->next) {
                struct survivor *survivor = survivors_find(survivors, record.cookie);

                if (!survivor || !(survivor->connection || survivor->http_connection) || survivor->rest == 0)
                        continue;
                if ((record.type == PARKING_REST && survivor->rest == at) ||
                    (record.type == PARKING_MORE && at > survivor->rest))
                        feed_rest(survivor, &record, data);
        }
}

/*
 * Where the records begin; 0: there are none that can be read. `dropped`: it counts for nobody. `reading`: the cookie of the
 * connection that was being read, or 0.
 */
static uint64_t read_header(int log, bool *dropped, uint64_t *reading) {
        struct parking_header header;

        *dropped = false;
        *reading = 0;
        if (pread(log, &header, sizeof(header), 0) != sizeof(header)) {
                *dropped = true;
                return 0;
        }
        if (memcmp(header.magic, PARKING_MAGIC, sizeof(PARKING_MAGIC)) != 0 || header.begin < PARKING_HEADER_SIZE ||
            header.begin > INT64_MAX)
                return 0;
        *dropped = header.dropped;
        *reading = header.reading;
        return header.begin;
}

/* From here on nobody takes it over any more. The rest of the header stays: without it the log would be one that cannot be read. */
static void drop(struct parked *parked, struct parking_keeper *keeper) {
        const uint64_t dropped = 1;

        if (parked->log >= 0)
                (void)!pwrite(parked->log, &dropped, sizeof(dropped), offsetof(struct parking_header, dropped));
        if (keeper)
                keeper->release(keeper, parked->name);
        parked_close(parked);
}

unsigned parked_adopt(struct parked *parked, struct front *front, struct http *http) {
        struct log_reader reader = { .fd = parked->log };
        struct survivors survivors = { 0 };
        unsigned adopted = 0;
        uint64_t begin = 0, reading = 0;
        bool dropped = true;

        if (parked->log >= 0 && parked->pair[0] >= 0 && parked->pair[1] >= 0)
                begin = read_header(parked->log, &dropped, &reading);
        if (!dropped) {
                /* One of the ends has all of them in its queue; which one it is, their order does not tell. */
                take_descriptors(&survivors, parked->pair[0]);
                take_descriptors(&survivors, parked->pair[1]);
                survivors_sort(&survivors);
        }
        if (begin > 0 && !dropped)
                read_records(&reader, begin, &survivors);
        for (size_t i = 0; i < survivors.count; i++) {
                /* What cannot be read may be of another version. */
                survivors.items[i].lost |= begin == 0 || survivors.items[i].cookie == reading;
                adopted += adopt(&survivors.items[i], front, http);
        }
        if (begin > 0 && !dropped) {
                feed_waiting(&reader, begin, &survivors);
                feed_rests(&reader, begin, &survivors);
        }
        free(reader.data);
        free(survivors.items);
        free(survivors.answered.items);
        free(survivors.waiting.items);

        parking_flush(front->parking);
        drop(parked, front->parking->keeper);
        return adopted;
}
