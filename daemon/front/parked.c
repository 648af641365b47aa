#include "daemon/front/parked.h"

#include <errno.h>
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

/* A connection, as it comes out of the pair and as the log knows it. */
struct survivor {
        uint64_t cookie;
        uint64_t rest;          /* where the record of the last rest is; 0: there is none */
        struct connection *connection;
        int fd;                 /* -1: it is the connection's, or closed */
        bool busy;
        bool gone;
};

struct survivors {
        struct survivor *items;
        size_t count;
        size_t size;
        uint64_t *answered;     /* where the records of those begin that waited and do no more, in order */
        size_t answered_count;
        size_t answered_size;
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

/* The client of a request socket, and the number that the kernel knows it by. */
static bool is_client(int fd, uint64_t *cookie) {
        int domain, type, listens;
        socklen_t len = sizeof(int), cookie_len = sizeof(*cookie);

        return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX &&
               getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM &&
               getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0 && !listens &&
               getsockopt(fd, SOL_SOCKET, SO_COOKIE, cookie, &cookie_len) == 0;
}

static void survivors_add(struct survivors *survivors, int fd) {
        uint64_t cookie;

        if (!is_client(fd, &cookie)) {
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
        survivors->items[survivors->count++] = (struct survivor){ .cookie = cookie, .fd = fd };
}

/*
 * Sends a message, with or without descriptors. Returns whether it could.
 */
static bool send_message(int fd, char byte, const struct msghdr *like) {
        struct iovec iov = { &byte, sizeof(byte) };
        struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

        if (like) {
                message.msg_control = like->msg_control;
                message.msg_controllen = like->msg_controllen;
        }
        return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

/*
 * Takes the descriptors out of the queue of `from`, and puts each message back behind the others, by `to`, its peer:
 * were this process to be killed, the next one would find them. A message without descriptors tells the end.
 */
static void take_descriptors(struct survivors *survivors, int from, int to) {
        const char lap = 1;
        bool again = send_message(to, lap, NULL);

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
                ssize_t n = UTIL_RETRY(recvmsg(from, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));

                if (n <= 0)
                        return;
                header = CMSG_FIRSTHDR(&message);
                if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
                        if (byte == lap && again)
                                return;
                        continue;
                }
                if (message.msg_flags & MSG_CTRUNC)
                        log_warning("Out of descriptors: some that waited cannot be taken over, ignoring");
                else if (again)
                        again = send_message(to, 0, &message);
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

static int compare_positions(const void *a, const void *b) {
        const uint64_t *left = a, *right = b;

        return *left < *right ? -1 : *left > *right;
}

/* Out of memory: false, and then nobody can tell what is answered already. */
static bool add_answered(struct survivors *survivors, uint64_t at) {
        if (survivors->answered_count == survivors->answered_size) {
                size_t size = MAX(survivors->answered_size * 2, (size_t)64);
                uint64_t *answered = reallocarray(survivors->answered, size, sizeof(*answered));

                if (!answered)
                        return false;
                survivors->answered = answered;
                survivors->answered_size = size;
        }
        survivors->answered[survivors->answered_count++] = at;
        return true;
}

static bool is_answered(const struct survivors *survivors, uint64_t at) {
        return survivors->answered_count > 0 &&
               bsearch(&at, survivors->answered, survivors->answered_count, sizeof(at), compare_positions);
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

/* What became of each connection. */
static void read_fates(struct log_reader *reader, struct survivors *survivors) {
        struct parking_record record;
        const char *data;

        for (uint64_t at = reader->next; reader_next(reader, &record, &data); at = reader->next) {
                struct survivor *survivor = survivors_find(survivors, record.cookie);

                if (!survivor)
                        continue;
                switch (record.type) {
                case PARKING_ANSWERED:
                        /* Better its client sees the end than two answers. */
                        survivor->gone |= !add_answered(survivors, record.value);
                        break;
                case PARKING_REST:
                        survivor->rest = at;
                        break;
                case PARKING_BUSY:
                        survivor->busy = true;
                        break;
                case PARKING_IDLE:
                        survivor->busy = false;
                        break;
                case PARKING_GONE:
                        survivor->gone = true;
                        break;
                }
        }
        if (survivors->answered_count > 0)
                qsort(survivors->answered, survivors->answered_count, sizeof(*survivors->answered), compare_positions);
}

/* What waited, in the order in which it came. */
static void feed_waiting(struct log_reader *reader, struct survivors *survivors) {
        struct parking_record record;
        const char *data;

        for (uint64_t at = reader->next; reader_next(reader, &record, &data); at = reader->next) {
                struct survivor *survivor = survivors_find(survivors, record.cookie);

                if (survivor && survivor->connection && record.type == PARKING_WAITING && !is_answered(survivors, at))
                        connection_feed(survivor->connection, data, record.len, record.value);
        }
}

/*
 * What was no whole command yet. It comes behind all that waited, wherever its record is: one that a model has lost waits
 * again, and is recorded, when more had come already.
 */
static void feed_rests(struct log_reader *reader, struct survivors *survivors) {
        struct parking_record record;
        const char *data;

        for (uint64_t at = reader->next; reader_next(reader, &record, &data); at = reader->next) {
                struct survivor *survivor = survivors_find(survivors, record.cookie);

                if (!survivor || !survivor->connection)
                        continue;
                if (record.type == PARKING_REST && survivor->rest == at) {
                        const struct line_state state = {
                                .skip = record.value,
                                .skip_end = record.flags & PARKING_SKIP_END,
                                .draining = record.flags & PARKING_DRAINING,
                        };

                        connection_feed_rest(survivor->connection, &state, data, record.len);
                } else if (record.type == PARKING_MORE && survivor->rest > 0 && at > survivor->rest)
                        connection_feed(survivor->connection, data, record.len, 0);
        }
}

/* Where the records begin; 0: nothing in it counts. */
static uint64_t read_header(int log) {
        struct parking_header header;

        if (pread(log, &header, sizeof(header), 0) != sizeof(header) ||
            memcmp(header.magic, PARKING_MAGIC, sizeof(PARKING_MAGIC)) != 0 || header.dropped ||
            header.begin < PARKING_HEADER_SIZE || header.begin > INT64_MAX)
                return 0;
        return header.begin;
}

/* From here on nobody takes it over any more. */
static void drop(struct parked *parked, struct parking_keeper *keeper) {
        struct parking_header header = { .dropped = 1 };

        if (parked->log >= 0)
                (void)!pwrite(parked->log, &header, sizeof(header), 0);
        if (keeper)
                keeper->release(keeper, parked->name);
        parked_close(parked);
}

unsigned parked_adopt(struct parked *parked, struct front *front) {
        struct parking *parking = &front->queue->parking;
        struct log_reader reader = { .fd = parked->log };
        struct survivors survivors = { 0 };
        unsigned adopted = 0;
        uint64_t begin = 0;

        if (parked->log >= 0 && parked->pair[0] >= 0 && parked->pair[1] >= 0)
                begin = read_header(parked->log);
        if (begin > 0) {
                /* One of the ends has all of them in its queue; which one it is, their order does not tell. */
                take_descriptors(&survivors, parked->pair[0], parked->pair[1]);
                take_descriptors(&survivors, parked->pair[1], parked->pair[0]);
                survivors_sort(&survivors);
                reader.next = begin;
                read_fates(&reader, &survivors);
        }
        for (size_t i = 0; i < survivors.count; i++) {
                struct survivor *survivor = &survivors.items[i];

                if (survivor->gone || survivor->busy) {
                        /* A copy of it may be in flight: its client is to see the end all the same. */
                        (void)shutdown(survivor->fd, SHUT_RDWR);
                        close(survivor->fd);
                        continue;
                }
                survivor->connection = connection_adopt(front, survivor->fd);
                adopted += survivor->connection != NULL;
        }
        if (begin > 0) {
                reader.next = begin;
                feed_waiting(&reader, &survivors);
                reader.next = begin;
                feed_rests(&reader, &survivors);
        }
        free(reader.data);
        free(survivors.items);
        free(survivors.answered);

        parking_flush(parking);
        drop(parked, parking->keeper);
        return adopted;
}
