#include "daemon/net/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "tests/support/unit.h"

static struct reactor reactor;
static struct socket_group group;

/* System calls: counted, and failing with the errors of a list before they are made. */
struct call {
        unsigned count;
        const int *errors;      /* ends with 0; NULL: none */
};

static struct call recv_call, send_call, epoll_call;
static bool out_of_memory;

static bool call_fails(struct call *call) {
        call->count++;
        if (!call->errors || *call->errors == 0)
                return false;
        errno = *call->errors++;
        return true;
}

ssize_t __real_recv(int fd, void *to, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *to, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *to, size_t size, int flags) {
        return call_fails(&recv_call) ? -1 : __real_recv(fd, to, size, flags);
}

ssize_t __real_send(int fd, const void *from, size_t size, int flags);
ssize_t __wrap_send(int fd, const void *from, size_t size, int flags);
ssize_t __wrap_send(int fd, const void *from, size_t size, int flags) {
        return call_fails(&send_call) ? -1 : __real_send(fd, from, size, flags);
}

int __real_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
        return call_fails(&epoll_call) ? -1 : __real_epoll_ctl(epoll, operation, fd, event);
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size) {
        return out_of_memory ? NULL : __real_malloc(size);
}

static void stop_run(struct job *job) {
        (void)job;
        reactor_stop(&reactor);
}

static void setup(void) {
        ck_assert_int_eq(reactor_init(&reactor), 0);
        socket_group_init(&group, &reactor);
        recv_call = send_call = epoll_call = (struct call){ 0 };
}

static void teardown(void) {
        socket_group_deinit(&group);
        socket_group_deinit(&group);
        reactor_deinit(&reactor);
}

/* One turn that does not wait. */
static void turn(void) {
        struct job stop;

        job_init(&stop, stop_run);
        reactor_queue(&reactor, &stop);
        reactor.stopped = false;
        ck_assert_int_eq(reactor_run(&reactor), 0);
}

/* An owner of a socket: reads in cuts of `cut` bytes, `rounds` of them in a turn. */
struct owner {
        struct socket socket;
        struct owner *other;            /* destroyed by `attend` */
        size_t cut;
        unsigned rounds;
        bool pauses;                    /* after each input */
        bool ends;                      /* destroys itself in `attend` */
        const char *says;               /* when it is connected */
        char in[256];
        size_t in_len;
        unsigned inputs;
        unsigned attends;
        unsigned connects;
        int connect_error;
};

static struct owner *owner_of(struct socket *socket) {
        return container_of(socket, struct owner, socket);
}

static void owner_input(struct socket *socket) {
        struct owner *owner = owner_of(socket);

        ck_assert(socket->readable && !socket->paused && !socket->broken && !socket->connecting);
        owner->inputs++;
        for (unsigned i = 0; i < owner->rounds && socket->readable; i++) {
                ck_assert_uint_le(owner->in_len + owner->cut, sizeof(owner->in));
                owner->in_len += socket_read(socket, owner->in + owner->in_len, owner->cut);
        }
        if (owner->pauses)
                socket_pause(socket, true);
}

static void owner_attend(struct socket *socket) {
        struct owner *owner = owner_of(socket);

        owner->attends++;
        if (owner->other) {
                socket_deinit(&owner->other->socket);
                free(STEAL_POINTER(owner->other));
        }
        if (owner->ends) {
                socket_deinit(socket);
                free(owner);
        }
        reactor_stop(&reactor);
}

static void owner_connected(struct socket *socket, int error) {
        struct owner *owner = owner_of(socket);

        owner->connects++;
        owner->connect_error = error;
        ck_assert(!socket->connecting);
        ck_assert(socket->broken == (error < 0));
        ck_assert_int_eq(socket->error, error);
        if (owner->says)
                ck_assert(socket_write(socket, owner->says, strlen(owner->says)) == (error == 0));
}

static const struct socket_ops owner_ops = { .input = owner_input, .attend = owner_attend, .connected = owner_connected };

static void owner_init(struct owner *owner, int *peer) {
        int fds[2];

        *owner = (struct owner){ .cut = 64, .rounds = 4 };
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
        ck_assert_int_eq(socket_init(&owner->socket, &group, &owner_ops, fds[0]), 0);
        ck_assert_int_eq(socket_fd(&owner->socket), fds[0]);
        *peer = fds[1];
}

/* Runs until `attend` of an owner was called. */
static void run(void) {
        reactor.stopped = false;
        ck_assert_int_eq(reactor_run(&reactor), 0);
}

static void say(int fd, const char *text) {
        ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void assert_heard(int fd, const char *text) {
        char got[256];
        ssize_t n = read(fd, got, sizeof(got));

        ck_assert_int_eq(n, (ssize_t)strlen(text));
        ck_assert_int_eq(memcmp(got, text, (size_t)n), 0);
}

static void assert_input(const struct owner *owner, const char *text) {
        ck_assert_uint_eq(owner->in_len, strlen(text));
        ck_assert_int_eq(memcmp(owner->in, text, owner->in_len), 0);
}

START_TEST(size_of_a_socket) {
        ck_assert_uint_le(sizeof(struct socket), 96);
}
END_TEST

/* One call of `input` a turn, from the event or from the job; the short read is the last one. */
START_TEST(reads_in_cuts) {
        struct owner owner;
        int peer;

        owner_init(&owner, &peer);
        owner.cut = 4;
        owner.rounds = 1;
        say(peer, "0123456789");
        for (unsigned i = 1; i <= 3; i++) {
                ck_assert_uint_eq(owner.in_len, (i - 1) * 4);
                turn();
                ck_assert_uint_eq(owner.inputs, i);
                ck_assert_uint_eq(owner.attends, i);
        }
        assert_input(&owner, "0123456789");
        turn();
        turn();
        ck_assert_uint_eq(owner.inputs, 3);
        ck_assert_uint_eq(recv_call.count, 3);
        ck_assert_uint_eq(epoll_call.count, 1);

        /* Full cuts alone: the end is seen by EAGAIN, which is no reason for a retry. */
        say(peer, "abcdefgh");
        owner.rounds = 4;
        turn();
        assert_input(&owner, "0123456789abcdefgh");
        ck_assert_uint_eq(recv_call.count, 6);
        ck_assert(!owner.socket.readable);
        ck_assert(!timer_is_set(&group.retry));
        socket_deinit(&owner.socket);
        socket_deinit(&owner.socket);
        close(peer);
}
END_TEST

/* Data and the end of file come with one event; the socket can still be written. */
START_TEST(end_of_file_behind_data) {
        struct owner owner;
        int peer;

        owner_init(&owner, &peer);
        say(peer, "last words");
        ck_assert_int_eq(shutdown(peer, SHUT_WR), 0);
        turn();
        assert_input(&owner, "last words");
        ck_assert(owner.socket.input_ended);
        ck_assert(!owner.socket.readable && !owner.socket.gone && !owner.socket.broken);
        ck_assert(socket_write(&owner.socket, "answer", 6));
        turn();
        assert_heard(peer, "answer");
        socket_deinit(&owner.socket);
        close(peer);
}
END_TEST

START_TEST(end_of_file_after_data) {
        struct owner owner;
        int peer;

        owner_init(&owner, &peer);
        say(peer, "last words");
        turn();
        assert_input(&owner, "last words");
        ck_assert(!owner.socket.input_ended);
        ck_assert_int_eq(shutdown(peer, SHUT_WR), 0);
        turn();
        ck_assert(owner.socket.input_ended);
        ck_assert_uint_eq(recv_call.count, 2);
        socket_deinit(&owner.socket);
        close(peer);
}
END_TEST

/* The data is read although the peer has hung up; output is refused, and dropped. */
START_TEST(hang_up_behind_data) {
        struct owner owner;
        int peer;

        owner_init(&owner, &peer);
        say(peer, "last words");
        close(peer);
        ck_assert(socket_write(&owner.socket, "answer", 6));
        turn();
        assert_input(&owner, "last words");
        ck_assert(owner.socket.input_ended && owner.socket.gone);
        ck_assert(!owner.socket.broken && !owner.socket.readable);
        ck_assert_uint_eq(socket_unsent(&owner.socket), 0);
        ck_assert_uint_eq(send_call.count, 0);
        ck_assert_ptr_null(socket_room(&owner.socket, 1));
        ck_assert(!socket_write(&owner.socket, "x", 1));
        socket_deinit(&owner.socket);
}
END_TEST

/* A peer that does not read what it was sent: its own data first, then the reset. */
START_TEST(reset_behind_data) {
        struct owner owner;
        int peer;

        owner_init(&owner, &peer);
        ck_assert(socket_write(&owner.socket, "unread", 6));
        turn();
        say(peer, "last words");
        close(peer);
        turn();
        assert_input(&owner, "last words");
        ck_assert(owner.socket.gone && owner.socket.broken);
        ck_assert_int_eq(owner.socket.error, -ECONNRESET);
        socket_deinit(&owner.socket);
}
END_TEST

/* A paused socket that hangs up is not read, but its owner is told. */
START_TEST(hang_up_while_paused) {
        struct owner owner;
        int peer;

        owner_init(&owner, &peer);
        socket_pause(&owner.socket, true);
        say(peer, "unheard");
        close(peer);
        turn();
        ck_assert(owner.socket.gone && owner.socket.readable);
        ck_assert_uint_eq(owner.inputs, 0);
        ck_assert_uint_eq(owner.attends, 1);
        socket_deinit(&owner.socket);
}
END_TEST

START_TEST(pause_and_resume) {
        struct owner owner;
        int peer;

        owner_init(&owner, &peer);
        owner.cut = 4;
        owner.rounds = 1;
        owner.pauses = true;
        say(peer, "0123456789");
        turn();
        turn();
        turn();
        assert_input(&owner, "0123");
        /* Further input makes no difference. */
        say(peer, "ab");
        turn();
        ck_assert_uint_eq(owner.inputs, 1);
        socket_pause(&owner.socket, false);
        turn();
        turn();
        assert_input(&owner, "01234567");
        owner.pauses = false;
        socket_pause(&owner.socket, false);
        turn();
        turn();
        assert_input(&owner, "0123456789ab");
        /* Nothing to read: no turn is asked for. */
        socket_pause(&owner.socket, true);
        socket_pause(&owner.socket, false);
        turn();
        turn();
        ck_assert_uint_eq(owner.inputs, 4);
        socket_deinit(&owner.socket);
        close(peer);
}
END_TEST

START_TEST(writes_leave_together) {
        struct owner owner;
        char expected[201];
        int peer;

        owner_init(&owner, &peer);
        ck_assert_ptr_null(owner.socket.output);
        for (unsigned i = 0; i < 100; i++) {
                char *room = socket_room(&owner.socket, 3);

                ck_assert_ptr_nonnull(room);
                snprintf(room, 3, "%02u", i);
                snprintf(expected + 2 * i, 3, "%02u", i);
                socket_wrote(&owner.socket, 2);
        }
        ck_assert_uint_eq(socket_unsent(&owner.socket), 200);
        ck_assert_uint_eq(send_call.count, 0);
        turn();
        ck_assert_uint_eq(send_call.count, 1);
        ck_assert_uint_eq(owner.attends, 1);
        assert_heard(peer, expected);
        ck_assert_uint_eq(socket_unsent(&owner.socket), 0);
        ck_assert_ptr_null(owner.socket.output);
        ck_assert_uint_eq(epoll_call.count, 1);

        /* Room that was not used is given back too. */
        ck_assert_ptr_nonnull(socket_room(&owner.socket, 3));
        ck_assert(socket_write(&owner.socket, NULL, 0));
        turn();
        ck_assert_ptr_null(owner.socket.output);
        ck_assert_uint_eq(send_call.count, 1);
        turn();
        ck_assert_uint_eq(owner.attends, 2);
        socket_deinit(&owner.socket);
        close(peer);
}
END_TEST

/* Byte `i` of a long output. */
static char pattern(size_t i) {
        return (char)(i * 7 + i / 251);
}

static void write_pattern(struct socket *socket, size_t *written, size_t n) {
        char *room = socket_room(socket, n);

        ck_assert_ptr_nonnull(room);
        for (size_t i = 0; i < n; i++)
                room[i] = pattern(*written + i);
        socket_wrote(socket, n);
        *written += n;
}

/* Returns how much the peer has read. */
static size_t read_pattern(int peer, size_t from, size_t max) {
        static char got[65536];
        ssize_t n = read(peer, got, MIN(max, sizeof(got)));

        if (n < 0) {
                ck_assert_int_eq(errno, EAGAIN);
                return 0;
        }
        for (size_t i = 0; i < (size_t)n; i++)
                unit_assert(got[i] == pattern(from + i), "Byte %zu is wrong", from + i);
        return (size_t)n;
}

/* A peer that does not read: output is kept, EPOLLOUT watched, and all of it arrives once the peer reads. */
START_TEST(back_pressure) {
        size_t written = 0, received = 0, n;
        struct owner owner;
        unsigned sends;
        int peer;

        owner_init(&owner, &peer);
        while (!owner.socket.blocked) {
                write_pattern(&owner.socket, &written, 10000);
                turn();
        }
        ck_assert_uint_gt(socket_unsent(&owner.socket), 0);
        ck_assert(owner.socket.watch.events & EPOLLOUT);
        ck_assert_uint_eq(epoll_call.count, 2);
        sends = send_call.count;
        for (unsigned i = 0; i < 100; i++) {
                n = socket_unsent(&owner.socket);
                write_pattern(&owner.socket, &written, 10000);
                turn();
                ck_assert_uint_eq(socket_unsent(&owner.socket), n + 10000);
        }
        ck_assert_uint_eq(send_call.count, sends);

        /* It goes on writing while the peer reads a little more than that. */
        for (unsigned i = 0; i < 20; i++) {
                received += read_pattern(peer, received, 15000);
                write_pattern(&owner.socket, &written, 10000);
                turn();
        }
        while (received < written) {
                n = read_pattern(peer, received, SIZE_MAX);
                received += n;
                if (n == 0)
                        run();
        }
        turn();
        ck_assert_uint_eq(socket_unsent(&owner.socket), 0);
        ck_assert_ptr_null(owner.socket.output);
        ck_assert(!owner.socket.blocked);
        ck_assert(!(owner.socket.watch.events & EPOLLOUT));
        ck_assert(!timer_is_set(&group.retry));
        socket_deinit(&owner.socket);
        close(peer);
}
END_TEST

/* The block grows geometrically; unsent bytes are moved to its front instead where enough was sent. */
START_TEST(output_memory) {
        size_t written = 0, received = 0, size;
        struct owner owner;
        int peer;

        owner_init(&owner, &peer);
        write_pattern(&owner.socket, &written, 1);
        ck_assert_uint_eq(owner.socket.output->size, 128);
        write_pattern(&owner.socket, &written, 128);
        ck_assert_uint_eq(owner.socket.output->size, 256);
        write_pattern(&owner.socket, &written, 1000000);
        ck_assert_uint_eq(owner.socket.output->size, 1000129);
        turn();
        ck_assert(owner.socket.blocked);
        ck_assert_uint_gt(owner.socket.output->start, 100000);
        write_pattern(&owner.socket, &written, 100000);
        ck_assert_uint_eq(owner.socket.output->size, 1000129);
        ck_assert_uint_eq(owner.socket.output->start, 0);

        /* Little was sent since: it grows, and the sent part is left behind. */
        while (owner.socket.output->start == 0) {
                received += read_pattern(peer, received, 4096);
                owner.socket.blocked = false;
                socket_flush(&owner.socket);
        }
        size = owner.socket.output->size;
        write_pattern(&owner.socket, &written, size - owner.socket.output->end + 1);
        ck_assert_uint_eq(owner.socket.output->size, 2 * size);
        ck_assert_uint_eq(owner.socket.output->start, 0);

        while (received < written) {
                size_t n = read_pattern(peer, received, SIZE_MAX);

                received += n;
                if (n == 0)
                        run();
        }
        socket_deinit(&owner.socket);
        close(peer);
}
END_TEST

START_TEST(no_memory) {
        struct owner owner;
        char *room;
        bool wrote;
        int peer;

        owner_init(&owner, &peer);
        ck_assert(socket_write(&owner.socket, "x", 1));
        out_of_memory = true;
        room = socket_room(&owner.socket, 1000);
        wrote = socket_write(&owner.socket, "x", 1);
        out_of_memory = false;
        ck_assert_ptr_null(room);
        ck_assert(!wrote);
        ck_assert(owner.socket.broken);
        ck_assert_int_eq(owner.socket.error, -ENOMEM);
        say(peer, "unheard");
        turn();
        ck_assert_uint_eq(owner.attends, 1);
        ck_assert_uint_eq(owner.inputs, 0);
        ck_assert_uint_eq(send_call.count, 0);
        ck_assert_ptr_null(owner.socket.output);
        /* The first error is kept. */
        socket_break(&owner.socket, EIO);
        ck_assert_int_eq(owner.socket.error, -ENOMEM);
        ck_assert_uint_eq(socket_read(&owner.socket, owner.in, sizeof(owner.in)), 0);
        socket_deinit(&owner.socket);
        close(peer);
}
END_TEST

/* Nothing is touched after it: neither the socket itself nor another one with an event, a job and a retry. */
START_TEST(destroyed_in_attend) {
        static const int errors[] = { ENOMEM, 0 };
        struct owner *owners[2];
        int peers[2];

        for (unsigned i = 0; i < 2; i++) {
                owners[i] = malloc(sizeof(*owners[i]));
                owner_init(owners[i], &peers[i]);
                say(peers[i], "0123456789");
                owners[i]->cut = 1;
                owners[i]->rounds = 1;
                ck_assert(socket_write(&owners[i]->socket, "answer", 6));
        }
        recv_call.errors = errors;
        owners[0]->ends = true;
        owners[0]->other = owners[1];
        turn();
        assert_heard(peers[0], "answer");
        ck_assert(list_is_empty(&group.retries));
        ck_assert(list_is_empty(&reactor.jobs));
        turn();
        for (unsigned i = 0; i < 2; i++) {
                char c;

                while (read(peers[i], &c, 1) > 0)
                        ;
                ck_assert_int_eq(errno, ECONNRESET);
                close(peers[i]);
        }
}
END_TEST

START_TEST(attend_on_request) {
        struct owner owner;
        int peer;

        owner_init(&owner, &peer);
        turn();
        ck_assert_uint_eq(owner.attends, 0);
        socket_attend_later(&owner.socket);
        socket_attend_later(&owner.socket);
        turn();
        turn();
        ck_assert_uint_eq(owner.attends, 1);
        socket_deinit(&owner.socket);
        close(peer);
}
END_TEST

/* Errors of recv(2), and what becomes of the socket. */
static const struct {
        int errors[4];
        bool retried;
        int error;
} recv_errors[] = {
        { { ENOMEM }, true, 0 },
        { { ENOBUFS, ENOMEM }, true, 0 },
        { { EAGAIN, EAGAIN, EAGAIN }, true, 0 },
        { { EINTR, EINTR }, false, 0 },
        { { ECONNRESET }, false, -ECONNRESET },
        { { EIO }, false, -EIO },
};

START_TEST(recv_fails) {
        bool fails = recv_errors[_i].error < 0;
        uint64_t start = timer_now();
        struct owner owner;
        unsigned n = 0;
        int peer;

        owner_init(&owner, &peer);
        while (recv_errors[_i].errors[n] != 0)
                n++;
        recv_call.errors = recv_errors[_i].errors;
        say(peer, "hello");
        run();
        ck_assert(timer_is_set(&group.retry) == recv_errors[_i].retried);
        while (owner.in_len == 0 && !owner.socket.broken)
                run();
        assert_input(&owner, fails ? "" : "hello");
        ck_assert_int_eq(owner.socket.error, recv_errors[_i].error);
        ck_assert(owner.socket.broken == fails);
        ck_assert_uint_eq(recv_call.count, fails ? n : n + 1);
        if (recv_errors[_i].retried) {
                ck_assert_uint_ge(timer_now() - start, n * UINT64_C(99000000));
                ck_assert_uint_eq(owner.inputs, n + 1);
                ck_assert_uint_eq(epoll_call.count, n + 1);
        }
        ck_assert(!timer_is_set(&group.retry));
        socket_deinit(&owner.socket);
        close(peer);
}
END_TEST

/* Errors of send(2). `gone`: what the peer has sent is still read. */
static const struct {
        int errors[4];
        bool retried;
        bool gone;
        int error;
} send_errors[] = {
        { { ENOMEM }, true, false, 0 },
        { { ENOBUFS, ENOMEM }, true, false, 0 },
        { { EAGAIN }, false, false, 0 },
        /* The first one waits for an event, which comes at once; the others are retried. */
        { { EAGAIN, EAGAIN, EAGAIN }, true, false, 0 },
        { { EINTR, EINTR }, false, false, 0 },
        { { EPIPE }, false, true, -EPIPE },
        { { ECONNRESET }, false, true, -ECONNRESET },
        { { EIO }, false, false, -EIO },
};

START_TEST(send_fails) {
        bool fails = send_errors[_i].error < 0, retried = false;
        struct owner owner;
        unsigned n = 0;
        int peer;

        owner_init(&owner, &peer);
        while (send_errors[_i].errors[n] != 0)
                n++;
        send_call.errors = send_errors[_i].errors;
        ck_assert(socket_write(&owner.socket, "hello", 5));
        while (socket_unsent(&owner.socket) > 0) {
                run();
                retried |= timer_is_set(&group.retry);
        }
        ck_assert(retried == send_errors[_i].retried);
        ck_assert(!timer_is_set(&group.retry));
        ck_assert_int_eq(owner.socket.error, send_errors[_i].error);
        ck_assert(owner.socket.gone == send_errors[_i].gone);
        ck_assert(owner.socket.broken == (fails && !send_errors[_i].gone));
        ck_assert_uint_eq(send_call.count, fails ? n : n + 1);
        ck_assert(!(owner.socket.watch.events & EPOLLOUT));
        ck_assert_ptr_null(owner.socket.output);
        if (!fails)
                assert_heard(peer, "hello");
        else
                ck_assert(!socket_write(&owner.socket, "x", 1));
        if (owner.socket.gone) {
                say(peer, "last words");
                turn();
                assert_input(&owner, "last words");
        }
        socket_deinit(&owner.socket);
        close(peer);
}
END_TEST

/* A blocked socket that cannot be watched for room is broken; so is one that cannot be watched again. */
START_TEST(epoll_ctl_fails) {
        static const int errors[] = { ENOMEM, 0 }, again[] = { EAGAIN, 0 };
        struct owner owner;
        int peer;

        for (unsigned i = 0; i < 3; i++) {
                owner_init(&owner, &peer);
                if (i < 2) {
                        send_call.errors = again;
                        ck_assert(socket_write(&owner.socket, "hello", 5));
                        if (i == 1)
                                turn();
                } else {
                        recv_call.errors = again;
                        say(peer, "hello");
                        turn();
                        ck_assert(timer_is_set(&group.retry));
                }
                epoll_call.errors = errors;
                while (!owner.socket.broken)
                        run();
                ck_assert_int_eq(owner.socket.error, -ENOMEM);
                ck_assert_uint_eq(owner.in_len, 0);
                turn();
                ck_assert_uint_eq(socket_unsent(&owner.socket), 0);
                socket_deinit(&owner.socket);
                close(peer);
        }
}
END_TEST

START_TEST(init_fails) {
        struct owner owner = { 0 };
        int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(socket_init(&owner.socket, &group, &owner_ops, fd), -EPERM);
        ck_assert_int_lt(fcntl(fd, F_GETFD), 0);
        ck_assert_int_eq(socket_fd(&owner.socket), -1);
        socket_deinit(&owner.socket);
}
END_TEST

/* A TCP socket of loopback that listens, or is only bound where `backlog` is -1; its address goes to `address`. */
static int tcp_listen(struct sockaddr_in *address, int backlog) {
        socklen_t len = sizeof(*address);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        *address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        ck_assert_int_eq(bind(fd, (struct sockaddr *)address, len), 0);
        if (backlog >= 0)
                ck_assert_int_eq(listen(fd, backlog), 0);
        ck_assert_int_eq(getsockname(fd, (struct sockaddr *)address, &len), 0);
        return fd;
}

static int connect_owner(struct owner *owner, const void *address, size_t len) {
        *owner = (struct owner){ .cut = 64, .rounds = 4, .connect_error = 1 };
        return socket_connect(&owner->socket, &group, &owner_ops, address, (socklen_t)len);
}

static int option(int fd, int level, int name) {
        socklen_t len = sizeof(int);
        int value = 0;

        ck_assert_int_eq(getsockopt(fd, level, name, &value, &len), 0);
        return value;
}

/* Both ends are sockets; output before the connection is there leaves with what `connected` writes. */
START_TEST(connects_by_tcp) {
        struct owner client, server = { .cut = 64, .rounds = 4 };
        struct sockaddr_in address;
        int listener = tcp_listen(&address, 8), fd;

        ck_assert_int_eq(connect_owner(&client, &address, sizeof(address)), 0);
        client.says = " and world";
        ck_assert(socket_write(&client.socket, "hello", 5));
        ck_assert_uint_eq(client.connects, 0);
        while (client.connects == 0)
                run();
        ck_assert_int_eq(client.connect_error, 0);
        ck_assert_uint_eq(send_call.count, 1);
        ck_assert_uint_eq(socket_unsent(&client.socket), 0);
        ck_assert(!(client.socket.watch.events & EPOLLOUT));

        fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        ck_assert_int_eq(socket_init(&server.socket, &group, &owner_ops, fd), 0);
        while (server.in_len == 0)
                run();
        assert_input(&server, "hello and world");
        ck_assert_int_eq(option(socket_fd(&client.socket), IPPROTO_TCP, TCP_NODELAY), 1);

        /* The last words of the server come before its end. */
        ck_assert(socket_write(&server.socket, "answer", 6));
        socket_flush(&server.socket);
        socket_deinit(&server.socket);
        while (!client.socket.input_ended)
                run();
        assert_input(&client, "answer");
        ck_assert(!client.socket.broken);
        ck_assert_uint_eq(client.connects, 1);
        socket_deinit(&client.socket);
        close(listener);
}
END_TEST

START_TEST(connect_refused_by_tcp) {
        struct sockaddr_in address;
        struct owner owner;
        int bound = tcp_listen(&address, -1);

        ck_assert_int_eq(connect_owner(&owner, &address, sizeof(address)), 0);
        owner.says = "unheard";
        while (owner.connects == 0)
                run();
        ck_assert_int_eq(owner.connect_error, -ECONNREFUSED);
        ck_assert_uint_eq(owner.attends, 1);
        ck_assert_uint_eq(owner.inputs, 0);
        turn();
        ck_assert_uint_eq(owner.connects, 1);
        socket_deinit(&owner.socket);
        close(bound);
}
END_TEST

/* The backlog is full; a connection is made once there is room, when its SYN is sent again. */
START_TEST(connect_is_delayed) {
        static const int errors[] = { EAGAIN, 0 };
        struct sockaddr_in address;
        int listener = tcp_listen(&address, 0), accepted;
        struct owner first, second;

        ck_assert_int_eq(connect_owner(&first, &address, sizeof(address)), 0);
        while (first.connects == 0)
                run();
        ck_assert_int_eq(connect_owner(&second, &address, sizeof(address)), 0);
        ck_assert(socket_write(&second.socket, "hello", 5));
        turn();
        turn();
        ck_assert_uint_eq(second.connects, 0);
        ck_assert_uint_eq(send_call.count, 0);
        ck_assert_uint_eq(socket_unsent(&second.socket), 5);
        close(accept(listener, NULL, NULL));
        /* The event of the connection says nothing of room for output: EAGAIN waits for an event of its own. */
        send_call.errors = errors;
        while (socket_unsent(&second.socket) > 0) {
                run();
                ck_assert(!timer_is_set(&group.retry));
        }
        ck_assert_uint_eq(send_call.count, 2);
        ck_assert_uint_eq(second.connects, 1);
        ck_assert_int_eq(second.connect_error, 0);
        accepted = accept(listener, NULL, NULL);
        assert_heard(accepted, "hello");
        socket_deinit(&first.socket);
        socket_deinit(&second.socket);
        close(accepted);
        close(listener);
}
END_TEST

/* The same for an abstract Unix socket. */
static int unix_listen(struct sockaddr_un *address, int backlog) {
        socklen_t len = sizeof(sa_family_t);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
        /* The kernel chooses a name that is free. */
        ck_assert_int_eq(bind(fd, (struct sockaddr *)address, len), 0);
        if (backlog >= 0)
                ck_assert_int_eq(listen(fd, backlog), 0);
        len = sizeof(*address);
        ck_assert_int_eq(getsockname(fd, (struct sockaddr *)address, &len), 0);
        /* "\0" and five digits. */
        ck_assert_uint_eq(len, sizeof(sa_family_t) + 6);
        return fd;
}

#define UNIX_LEN (sizeof(sa_family_t) + 6)

/* It is connected at once, and the owner hears it at the end of the turn: with one epoll_ctl(2) in all. */
START_TEST(connects_by_unix) {
        struct sockaddr_un address;
        int listener = unix_listen(&address, 8), accepted;
        struct owner owner;

        ck_assert_int_eq(connect_owner(&owner, &address, UNIX_LEN), 0);
        owner.says = "hello";
        ck_assert_uint_eq(owner.connects, 0);
        turn();
        ck_assert_uint_eq(owner.connects, 1);
        ck_assert_int_eq(owner.connect_error, 0);
        ck_assert_uint_eq(owner.attends, 1);
        ck_assert_uint_eq(send_call.count, 1);
        /* Output of that turn has left in it: no further one is asked for. */
        turn();
        ck_assert_uint_eq(owner.attends, 1);
        accepted = accept(listener, NULL, NULL);
        assert_heard(accepted, "hello");
        say(accepted, "answer");
        turn();
        assert_input(&owner, "answer");
        turn();
        ck_assert_uint_eq(owner.connects, 1);
        ck_assert_uint_eq(owner.attends, 2);
        ck_assert_uint_eq(epoll_call.count, 1);
        socket_deinit(&owner.socket);
        close(accepted);
        close(listener);
}
END_TEST

static struct owner started;
static struct sockaddr_un started_at;

static void start_connecting(struct job *job) {
        (void)job;
        ck_assert_int_eq(connect_owner(&started, &started_at, UNIX_LEN), 0);
        started.says = "unheard";
}

/* Connected by a job, so that its own job runs in the next turn: an event comes before it, of input or (1) of a hang-up. */
START_TEST(event_before_connected) {
        int listener = unix_listen(&started_at, 8), accepted;
        struct job job;

        job_init(&job, start_connecting);
        reactor_queue(&reactor, &job);
        turn();
        ck_assert_uint_eq(started.connects, 0);
        accepted = accept(listener, NULL, NULL);
        say(accepted, "busy");
        if (_i == 1)
                close(accepted);
        turn();
        ck_assert_uint_eq(started.connects, 1);
        ck_assert_int_eq(started.connect_error, 0);
        assert_input(&started, "busy");
        ck_assert(started.socket.gone == (_i == 1));
        ck_assert(started.socket.input_ended == (_i == 1));
        turn();
        ck_assert_uint_eq(started.connects, 1);
        socket_deinit(&started.socket);
        if (_i == 0)
                close(accepted);
        close(listener);
}
END_TEST

/* There is no socket then, and `connected` is not called. */
START_TEST(connect_fails_at_once) {
        struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/nonexistent/socket" };
        struct owner owners[8];
        int fd;

        ck_assert_int_eq(connect_owner(&owners[0], &address, sizeof(address)), -ENOENT);
        ck_assert_int_eq(socket_fd(&owners[0].socket), -1);
        socket_deinit(&owners[0].socket);

        fd = unix_listen(&address, -1);
        ck_assert_int_eq(connect_owner(&owners[0], &address, UNIX_LEN), -ECONNREFUSED);
        socket_deinit(&owners[0].socket);
        close(fd);

        fd = unix_listen(&address, 0);
        for (unsigned i = 0; i < ARRAY_SIZE(owners); i++) {
                ck_assert_int_eq(connect_owner(&owners[i], &address, UNIX_LEN), i == 0 ? 0 : -EAGAIN);
        }
        turn();
        for (unsigned i = 0; i < ARRAY_SIZE(owners); i++) {
                ck_assert_uint_eq(owners[i].connects, i == 0);
                socket_deinit(&owners[i].socket);
        }
        close(fd);

        address.sun_family = AF_UNSPEC;
        ck_assert_int_eq(connect_owner(&owners[0], &address, sizeof(address)), -EAFNOSUPPORT);
}
END_TEST

/* Destroyed, or broken, while the connection is made. */
START_TEST(ended_while_connecting) {
        struct sockaddr_in address;
        int listener = tcp_listen(&address, 8);
        struct owner owner;

        ck_assert_int_eq(connect_owner(&owner, &address, sizeof(address)), 0);
        ck_assert(socket_write(&owner.socket, "unheard", 7));
        socket_deinit(&owner.socket);
        turn();
        ck_assert_uint_eq(owner.connects + owner.attends, 0);

        ck_assert_int_eq(connect_owner(&owner, &address, sizeof(address)), 0);
        socket_break(&owner.socket, ETIMEDOUT);
        while (owner.connects == 0)
                run();
        ck_assert_int_eq(owner.connect_error, -ETIMEDOUT);
        socket_deinit(&owner.socket);
        close(listener);
}
END_TEST

START_TEST(empty_values) {
        static struct socket_group empty;
        struct socket null = SOCKET_NULL;

        socket_group_deinit(&empty);
        socket_deinit(&null);
        ck_assert_uint_eq(socket_unsent(&null), 0);
}
END_TEST

static Suite *socket_suite(void) {
        Suite *suite = suite_create("socket");
        TCase *tcase = tcase_create("socket");

        tcase_set_timeout(tcase, 60);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_test(tcase, size_of_a_socket);
        tcase_add_test(tcase, reads_in_cuts);
        tcase_add_test(tcase, end_of_file_behind_data);
        tcase_add_test(tcase, end_of_file_after_data);
        tcase_add_test(tcase, hang_up_behind_data);
        tcase_add_test(tcase, reset_behind_data);
        tcase_add_test(tcase, hang_up_while_paused);
        tcase_add_test(tcase, pause_and_resume);
        tcase_add_test(tcase, writes_leave_together);
        tcase_add_test(tcase, back_pressure);
        tcase_add_test(tcase, output_memory);
        tcase_add_test(tcase, no_memory);
        tcase_add_test(tcase, destroyed_in_attend);
        tcase_add_test(tcase, attend_on_request);
        unit_add_table(tcase, recv_fails, recv_errors);
        unit_add_table(tcase, send_fails, send_errors);
        tcase_add_test(tcase, epoll_ctl_fails);
        tcase_add_test(tcase, init_fails);
        tcase_add_test(tcase, connects_by_tcp);
        tcase_add_test(tcase, connect_refused_by_tcp);
        tcase_add_test(tcase, connect_is_delayed);
        tcase_add_test(tcase, connects_by_unix);
        tcase_add_loop_test(tcase, event_before_connected, 0, 2);
        tcase_add_test(tcase, connect_fails_at_once);
        tcase_add_test(tcase, ended_while_connecting);
        tcase_add_test(tcase, empty_values);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(socket_suite)
