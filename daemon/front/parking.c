#include "daemon/front/parking.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/log.h"

#define BUFFER_SIZE 65536

/* A log that has grown by so much, and to twice what was in it last, is written anew without what is over. */
#define REWRITE_MIN (4u << 20)

/*
 * Messages in the pair before they are gathered into full ones. A socket's default buffer takes 278
 * (net.core.wmem_default, unix(7)).
 */
#define MESSAGES_MAX 200

/* Descriptors of connections that have ended, in flight beside as many of others. */
#define ENDED_MAX 256

/* How long parking goes on when nothing waits any more, for often something soon does; and until it is tried again. */
#define PAUSE_NSEC (2 * NSEC_PER_SEC)

static void parking_run(struct job *job) {
        parking_flush(container_of(job, struct parking, job));
}

/* Whether there is a reason to park. */
static bool is_due(const struct parking *parking) {
        const struct lane *lane = parking->lane;

        if (gate_state(lane->queue->stop) != GATE_PENDING)
                return false;
        return lane->leaving ||
               (gate_state(&lane->generation->gate) == GATE_PENDING && !generation_is_idle(lane->generation)) ||
               atomic_load_explicit(&lane->counters->waiting, memory_order_relaxed) > 0;
}

static void pause_elapsed(struct timer *timer) {
        struct parking *parking = container_of(timer, struct parking, pause);

        parking->failed = false;
        if (parking_is_open(parking) && !is_due(parking))
                parking_drop(parking);
        else
                parking_open(parking);
}

static void pause_begin(struct parking *parking) {
        if (!timer_is_set(&parking->pause))
                reactor_set_timer(parking->reactor, &parking->pause, timer_now() + PAUSE_NSEC);
}

void parking_init(struct parking *parking, struct lane *lane, struct parking_keeper *keeper, struct parking_limit *limit,
                  unsigned number, void (*opened)(struct parking *parking)) {
        *parking = (struct parking){
                .reactor = lane->reactor,
                .lane = lane,
                .keeper = keeper,
                .limit = limit,
                .opened = opened,
                .number = number,
                .log = -1,
                .pair = { -1, -1 },
        };
        list_init(&parking->unsent);
        list_init(&parking->sent);
        job_init(&parking->job, parking_run);
        timer_init(&parking->pause, pause_elapsed);
}

void guest_init(struct guest *guest, struct request_owner *owner, void (*describe)(struct guest *guest)) {
        *guest = (struct guest){ .fd = -1, .owner = owner, .describe = describe };
        list_init(&guest->link);
}

/* Counts bytes of a guest against the limit. Returns whether there is room for them; if not nothing is counted. */
static bool hold(struct parking *parking, struct guest *guest, uint64_t len) {
        struct parking_limit *limit = parking->limit;

        if (len == 0)
                return true;
        if (atomic_fetch_add_explicit(&limit->bytes, len, memory_order_relaxed) + len > limit->max) {
                atomic_fetch_sub_explicit(&limit->bytes, len, memory_order_relaxed);
                return false;
        }
        guest->held += len;
        parking->held += len;
        return true;
}

static void let_go(struct parking *parking, struct guest *guest, uint64_t len) {
        guest->held -= len;
        parking->held -= len;
        atomic_fetch_sub_explicit(&parking->limit->bytes, len, memory_order_relaxed);
}

/* No successor finds the requests of a guest. */
static void unmark_requests(struct guest *guest) {
        struct list *requests = &guest->owner->requests;

        for (struct list *i = requests->next; i != requests; i = i->next) {
                struct inference *inference = &container_of(i, struct request, owner_link)->inference;

                inference->parked = inference->unheld = false;
        }
}

/* It is no guest any more. */
static void remove_guest(struct parking *parking, struct guest *guest) {
        let_go(parking, guest, guest->held);
        list_remove(&guest->link);
}

/* The guests are none any more; that a copy of theirs is in flight stays true until the keeper has let go of it. */
static void dismiss(struct parking *parking, struct list *guests) {
        while (!list_is_empty(guests)) {
                struct guest *guest = container_of(guests->next, struct guest, link);

                unmark_requests(guest);
                remove_guest(parking, guest);
        }
}

static void parking_close(struct parking *parking) {
        job_cancel(&parking->job);
        timer_clear(&parking->pause);
        if (parking->header)
                (void)munmap(parking->header, PARKING_HEADER_SIZE);
        parking->header = NULL;
        parking->log = util_close(parking->log);
        parking->pair[0] = util_close(parking->pair[0]);
        parking->pair[1] = util_close(parking->pair[1]);
        free(STEAL_POINTER(parking->buffer));
        parking->buffered = 0;
}

/* Where it fails, nobody is worse off than without it. */
static void parking_fail(struct parking *parking, int error) {
        log_warning("Waiting requests will not outlive this process, ignoring: %s", strerror(error));
        parking_drop(parking);
        parking->failed = true;
        pause_begin(parking);
}

/* Writes all of it, at `offset`. Returns 0 or -errno. */
static int write_at(int fd, const struct parking_data *pieces, unsigned n, uint64_t offset) {
        for (unsigned i = 0; i < n; i++) {
                const char *data = pieces[i].data;
                size_t len = pieces[i].len;

                while (len > 0) {
                        ssize_t written = UTIL_RETRY(pwrite(fd, data, len, (off_t)offset));

                        if (written < 0)
                                return -errno;
                        data += written;
                        len -= (size_t)written;
                        offset += (size_t)written;
                }
        }
        return 0;
}

static int write_header(struct parking *parking, bool dropped) {
        struct parking_header header = { .begin = parking->begin, .dropped = dropped };

        memcpy(header.magic, PARKING_MAGIC, sizeof(PARKING_MAGIC));
        /* The last member is for the mapping. */
        return write_at(parking->log, &(struct parking_data){ &header, offsetof(struct parking_header, reading) }, 1, 0);
}

static void name_pair(struct parking *parking) {
        snprintf(parking->name, sizeof(parking->name), PARKING_NAME_PREFIX "%d-%u-%u-%" PRIx64, (int)getpid(),
                 parking->number, parking->pairs++, timer_now());
}

static int new_pair(int pair[static 2]) {
        return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0 ? -errno : 0;
}

/* Opens the file of `fd` once more: unlike a copy of the descriptor, that is another open file (open(2)). Returns it or -errno. */
static int open_again(int fd) {
        char path[64];
        int again;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        again = open(path, O_RDWR | O_CLOEXEC);
        return again < 0 ? -errno : again;
}

/* The keeper gets `pair` under a new name. Returns 0, or -errno and leaves the name as it was. */
static int keep(struct parking *parking, const int pair[static 2]) {
        /* systemd stores an open file once: the log would have the earlier name alone, and be removed with that. */
        _cleanup_close_ int log = open_again(parking->log);
        const int fds[] = { pair[0], pair[1], log };
        char before[sizeof(parking->name)];
        int r;

        if (log < 0)
                return log;
        memcpy(before, parking->name, sizeof(before));
        name_pair(parking);
        r = parking->keeper->keep(parking->keeper, parking->name, fds, ARRAY_SIZE(fds));
        if (r < 0)
                memcpy(parking->name, before, sizeof(before));
        return r;
}

/* Returns 0 or -errno. */
static int make_log(struct parking *parking) {
        int r;

        parking->buffer = malloc(BUFFER_SIZE);
        if (!parking->buffer)
                return -ENOMEM;
        r = new_pair(parking->pair);
        if (r < 0)
                return r;
        parking->log = memfd_create("msd-parked", MFD_CLOEXEC);
        if (parking->log < 0)
                return -errno;
        parking->begin = parking->end = PARKING_HEADER_SIZE;
        parking->rewrite_at = parking->end + REWRITE_MIN;
        parking->messages = parking->in_flight = parking->guests_sent = 0;
        parking->full = false;
        r = write_header(parking, false);
        if (r == 0 && ftruncate(parking->log, PARKING_HEADER_SIZE) < 0)
                r = -errno;
        if (r == 0) {
                void *header = mmap(NULL, PARKING_HEADER_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, parking->log, 0);

                if (header == MAP_FAILED)
                        r = -errno;
                else
                        parking->header = header;
        }
        return r < 0 ? r : keep(parking, parking->pair);
}

void parking_open(struct parking *parking) {
        int r;

        if (!parking->keeper || parking->failed || parking_is_open(parking) ||
            atomic_load_explicit(&parking->lane->counters->connections, memory_order_relaxed) == 0 || !is_due(parking))
                return;
        r = make_log(parking);
        if (r < 0) {
                parking_close(parking);
                parking_fail(parking, -r);
                return;
        }
        parking->opened(parking);
}

void parking_drop(struct parking *parking) {
        if (!parking_is_open(parking))
                return;
        /* The keeper hears of it later than clients that are about to be answered. */
        if (write_header(parking, true) < 0)
                (void)!ftruncate(parking->log, 0);
        dismiss(parking, &parking->unsent);
        dismiss(parking, &parking->sent);
        parking->keeper->release(parking->keeper, parking->name);
        parking_close(parking);
}

void parking_leave(struct parking *parking) {
        struct list *lists[] = { &parking->unsent, &parking->sent };

        if (parking_is_open(parking))
                parking_flush(parking);
        if (parking_is_open(parking) && !parking->keeper->has(parking->keeper, parking->name)) {
                log_warning("Waiting requests will not outlive this process, ignoring: the service manager has not taken them");
                parking_drop(parking);
        }
        parking->leaving = true;
        for (unsigned i = 0; i < ARRAY_SIZE(lists); i++)
                for (struct list *j = lists[i]->next; j != lists[i]; j = j->next) {
                        struct guest *guest = container_of(j, struct guest, link);

                        if (!guest->sent || guest->lost)
                                unmark_requests(guest);
                }
}

bool parking_has_successor(const struct parking *parking, const struct guest *guest) {
        return parking->leaving && guest_is_parked(guest) && guest->sent && !guest->lost;
}

void parking_deinit(struct parking *parking) {
        if (!parking->reactor)
                return;
        if (parking->leaving && parking_is_open(parking)) {
                parking_flush(parking);
                dismiss(parking, &parking->unsent);
                dismiss(parking, &parking->sent);
                parking_close(parking);
        } else
                parking_drop(parking);
        timer_clear(&parking->pause);
        parking->reactor = NULL;
}

void parking_write(struct parking *parking) {
        int r;

        if (!parking_is_open(parking))
                return;
        if (!is_due(parking))
                pause_begin(parking);
        if (parking->buffered == 0)
                return;
        r = write_at(parking->log, &(struct parking_data){ parking->buffer, parking->buffered }, 1, parking->end);
        parking->end += parking->buffered;
        parking->buffered = 0;
        if (r < 0)
                parking_fail(parking, -r);
}

/* Adds a record about a guest that is parked. */
static void add_record(struct parking *parking, const struct guest *guest, struct parking_record record,
                       const struct parking_data *data, unsigned n) {
        size_t len = 0;
        int r;

        record.cookie = guest->cookie;
        for (unsigned i = 0; i < n; i++)
                len += data[i].len;
        record.len = (uint32_t)len;
        if (BUFFER_SIZE - parking->buffered < sizeof(record) + len)
                parking_write(parking);
        if (!parking_is_open(parking))
                return;
        reactor_queue(parking->reactor, &parking->job);
        if (parking->buffered + sizeof(record) + len <= BUFFER_SIZE) {
                /* analyzer-suppress: what is open has a buffer */
                memcpy(parking->buffer + parking->buffered, &record, sizeof(record));
                parking->buffered += sizeof(record);
                for (unsigned i = 0; i < n; i++) {
                        memcpy(parking->buffer + parking->buffered, data[i].data, data[i].len);
                        parking->buffered += data[i].len;
                }
                return;
        }
        /* The data first: a record is whole, or it is the end of the file. */
        r = write_at(parking->log, data, n, parking->end + sizeof(record));
        if (r == 0)
                r = write_at(parking->log, &(struct parking_data){ &record, sizeof(record) }, 1, parking->end);
        parking->end += sizeof(record) + len;
        if (r < 0)
                parking_fail(parking, -r);
}

void parking_wait(struct parking *parking, struct guest *guest, struct request *request, unsigned flags,
                  const struct parking_data *data, unsigned n) {
        struct parking_record record = {
                .type = PARKING_WAITING,
                .flags = (uint16_t)flags,
                .key = (uintptr_t)request,
                .value = request->arrived,
        };

        if (!guest_is_parked(guest))
                return;
        /* One that is parked already is recorded anew. */
        if (!request->inference.parked && !hold(parking, guest, request->inference.prompt_len)) {
                record.flags = PARKING_UNHELD;
                request->inference.unheld = true;
                add_record(parking, guest, record, NULL, 0);
                return;
        }
        request->inference.parked = true;
        /* If this fails nothing is parked any more, and the request is marked so. */
        add_record(parking, guest, record, data, n);
}

void parking_end_recorded(struct parking *parking, struct guest *guest, struct request *request) {
        struct inference *inference = &request->inference;
        const bool parked = inference->parked, unheld = inference->unheld;
        const struct parking_record record = {
                .type = PARKING_ANSWERED,
                .flags = unheld ? PARKING_UNHELD : 0,
                .key = (uintptr_t)request,
        };

        inference->parked = inference->unheld = false;
        if (!guest_is_parked(guest))
                return;
        if (parked)
                let_go(parking, guest, inference->prompt_len);
        add_record(parking, guest, record, NULL, 0);
}

/* The rest of a guest has room, or is recorded as lost. Returns whether it is recorded. */
static bool hold_rest(struct parking *parking, struct guest *guest, bool more, size_t len) {
        const struct parking_record lost = { .type = PARKING_LOST };

        if (!more) {
                guest->lost = false;
                if (guest->rest > len) {
                        let_go(parking, guest, guest->rest - len);
                        guest->rest = len;
                }
                /* One that is recorded anew keeps its room. */
                len -= guest->rest;
        }
        if (guest->lost)
                return false;
        if (hold(parking, guest, len)) {
                guest->rest += len;
                return true;
        }
        guest->lost = true;
        let_go(parking, guest, guest->rest);
        guest->rest = 0;
        add_record(parking, guest, lost, NULL, 0);
        return false;
}

void parking_record(struct parking *parking, struct guest *guest, enum parking_type type, unsigned flags, uint64_t value,
                    const struct parking_data *data, unsigned n) {
        const struct parking_record record = { .type = (uint16_t)type, .flags = (uint16_t)flags, .value = value };
        size_t len = 0;

        if (!guest_is_parked(guest))
                return;
        for (unsigned i = 0; i < n; i++)
                len += data[i].len;
        if ((type == PARKING_REST || type == PARKING_MORE) && !hold_rest(parking, guest, type == PARKING_MORE, len))
                return;
        add_record(parking, guest, record, data, n);
}

/* Records anew a request that is parked. */
static void describe_request(struct request *request, void *data) {
        struct request_owner *owner = request_owner_of(request);

        (void)data;
        if (request->inference.parked || request->inference.unheld)
                owner->ops->waiting(owner, request);
}

/* Records anew all that counts. Where that fails, parking is closed, and there are no guests any more. */
static void describe(struct parking *parking) {
        struct list *lists[] = { &parking->sent, &parking->unsent };

        lane_each_waiting(parking->lane, describe_request, NULL);
        for (unsigned i = 0; i < ARRAY_SIZE(lists); i++)
                for (struct list *j = lists[i]->next; parking_is_open(parking) && j != lists[i]; j = j->next) {
                        struct guest *guest = container_of(j, struct guest, link);

                        guest->describe(guest);
                }
}

/* Takes what is over out of the log. */
static void rewrite(struct parking *parking) {
        uint64_t before = parking->begin;
        int r;

        parking_write(parking);
        if (!parking_is_open(parking))
                return;
        /* The record of zeros that is left out ends the log for who reads it from where it began before. */
        parking->begin = parking->end += sizeof(struct parking_record);
        describe(parking);
        parking_write(parking);
        if (!parking_is_open(parking))
                return;
        r = write_header(parking, false);
        if (r < 0) {
                parking_fail(parking, -r);
                return;
        }
        /* What is punched out gives its memory back, fallocate(2). */
        (void)fallocate(parking->log, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)before,
                        (off_t)(parking->begin - before));
        parking->rewrite_at = parking->end + (parking->end - parking->begin) + REWRITE_MIN;
}

/* Sends so many of the first of `guests` as there is room for in one message. Returns how many, or -errno. */
static int send_batch(int fd, struct list *guests, struct list **end) {
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * PARKING_BATCH)];
        } control = { .space = { 0 } };
        char byte = 0;
        struct iovec iov = { &byte, sizeof(byte) };
        struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control };
        struct list *i = *end;
        int fds[PARKING_BATCH], n = 0;

        for (; i != guests && n < PARKING_BATCH; i = i->next)
                fds[n++] = container_of(i, struct guest, link)->fd;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)n);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int) * (size_t)n);
        /* cppcheck-suppress uninitvar ; there is one, or this is not called */
        memcpy(CMSG_DATA(&control.header), fds, sizeof(int) * (size_t)n);
        if (UTIL_RETRY(sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)) < 0)
                return -errno;
        *end = i;
        return n;
}

/* Sends those of `guests` that it can, each full message but the last. Returns how many messages, or -errno. */
static int send_guests(int fd, struct list *guests, unsigned *count) {
        struct list *end = guests->next;
        int messages = 0;

        *count = 0;
        while (end != guests) {
                int n = send_batch(fd, guests, &end);

                if (n < 0)
                        return n;
                *count += (unsigned)n;
                messages++;
        }
        return messages;
}

/* Moves what is not sent yet to those that are. */
static void note_sent(struct parking *parking, struct list *end) {
        while (parking->unsent.next != end) {
                struct guest *guest = container_of(parking->unsent.next, struct guest, link);

                guest->sent = true;
                list_remove(&guest->link);
                list_append(&parking->sent, &guest->link);
                parking->guests_sent++;
        }
}

/*
 * Gathers all guests into full messages, in a new pair: the old one counts until the new one is kept. Takes them all,
 * those not sent yet too. Returns 0 or -errno, and then all is as it was.
 */
static int gather(struct parking *parking) {
        char before[sizeof(parking->name)];
        unsigned count, all = 0;
        int pair[2], messages, r;

        r = new_pair(pair);
        if (r < 0)
                return r;
        messages = send_guests(pair[0], &parking->sent, &count);
        all = count;
        if (messages >= 0) {
                r = send_guests(pair[0], &parking->unsent, &count);
                messages = r < 0 ? r : messages + r;
                all += count;
        }
        snprintf(before, sizeof(before), "%s", parking->name);
        r = messages < 0 ? messages : keep(parking, pair);
        if (r < 0) {
                close(pair[0]);
                close(pair[1]);
                return r;
        }
        close(parking->pair[0]);
        close(parking->pair[1]);
        parking->pair[0] = pair[0];
        parking->pair[1] = pair[1];
        parking->messages = (unsigned)messages;
        parking->in_flight = all;
        note_sent(parking, &parking->unsent);
        parking->keeper->release(parking->keeper, before);
        return 0;
}

static void send_unsent(struct parking *parking) {
        struct list *end = parking->unsent.next;
        int r = 0;

        while (end != &parking->unsent) {
                if (parking->messages >= MESSAGES_MAX && parking->messages > 2 * (parking->guests_sent / PARKING_BATCH + 1))
                        r = gather(parking);
                else {
                        r = send_batch(parking->pair[0], &parking->unsent, &end);
                        if (r > 0) {
                                parking->messages++;
                                parking->in_flight += (unsigned)r;
                                note_sent(parking, end);
                        }
                        if (r == -EAGAIN && !parking->full)
                                r = gather(parking);
                }
                if (r < 0)
                        break;
                end = parking->unsent.next;
        }
        /* ETOOMANYREFS: as many are in flight as the process may have descriptors, unix(7). */
        if (r < 0 && !parking->full) {
                parking->full = true;
                log_warning("Not every connection will outlive this process, ignoring: %s", strerror(-r));
        }
}

void parking_begin_input(struct parking *parking, const struct guest *guest) {
        if (parking->header && guest_is_parked(guest))
                atomic_store_explicit(&parking->header->reading, guest->cookie, memory_order_release);
}

void parking_end_input(struct parking *parking) {
        if (!parking->header || atomic_load_explicit(&parking->header->reading, memory_order_relaxed) == 0)
                return;
        parking_write(parking);
        /* It may have failed. */
        if (parking->header)
                atomic_store_explicit(&parking->header->reading, 0, memory_order_release);
}

void parking_flush(struct parking *parking) {
        parking_write(parking);
        if (!parking_is_open(parking))
                return;
        if (parking->end >= parking->rewrite_at)
                rewrite(parking);
        if (!parking_is_open(parking))
                return;
        if (parking->in_flight > 2 * parking->guests_sent + ENDED_MAX)
                (void)gather(parking);
        send_unsent(parking);
        if (gate_state(parking->lane->queue->stop) != GATE_PENDING)
                parking_drop(parking);
}

void parking_add(struct parking *parking, struct guest *guest, int fd) {
        socklen_t len = sizeof(guest->cookie);

        if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &guest->cookie, &len) < 0)
                return;
        guest->fd = fd;
        guest->held = guest->rest = 0;
        guest->sent = guest->lost = false;
        list_append(&parking->unsent, &guest->link);
        reactor_queue(parking->reactor, &parking->job);
}

void parking_hand_over(struct parking *parking, struct guest *guest) {
        guest->sent = false;
        remove_guest(parking, guest);
}

void parking_remove(struct parking *parking, struct guest *guest) {
        const struct parking_record gone = { .type = PARKING_GONE };

        if (guest_is_parked(guest)) {
                remove_guest(parking, guest);
                if (guest->sent) {
                        parking->guests_sent--;
                        add_record(parking, guest, gone, NULL, 0);
                }
        }
        if (guest->sent)
                (void)shutdown(guest->fd, SHUT_RDWR);
}
