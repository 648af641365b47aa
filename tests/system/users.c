/*
 * Who may do what: root, the user that msd runs as (OWNER), a member of its group (MEMBER), and anybody else (OTHER). None
 * of them needs an account.
 */

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/address.h"
#include "common/util.h"
#include "tests/support/clock.h"
#include "tests/support/front.h"

#define OWNER 4711
#define MEMBER 4712
#define OTHER 4713
#define NOBODY 65534

static char programs[SUITE_PATH_MAX], path_of_msd[SUITE_PATH_MAX + 16];
static struct front front;

static void setup(void) {
        front_init(&front);
        suite_directory(programs);
        /* Where others can run it. */
        snprintf(path_of_msd, sizeof(path_of_msd), "%s/msd", programs);
        suite_copy_program(suite_msd(), path_of_msd);
}

static void teardown(void) {
        suite_remove(programs);
        front_deinit(&front);
}

static bool is_root(const char *test) {
        if (geteuid() == 0)
                return true;
        suite_skip(test, "only root can be somebody else");
        return false;
}

static gid_t group_of(uid_t uid) {
        return uid == MEMBER ? OWNER : uid;
}

/* Becomes `uid` for good. A member of OWNER's group has that as a further one. */
static void become(uid_t uid) {
        gid_t group = group_of(uid);

        if (uid == 0)
                return;
        if (setgroups(group != uid, &group) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
                _exit(126);
}

/* What `what` returns as `uid`, in a process of its own: 0 to 125. */
static int as(uid_t uid, int (*what)(void)) {
        pid_t pid = fork();
        int status;

        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                process_forked();
                become(uid);
                _exit(what());
        }
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) < 126, "As %u: status %d", uid, status);
        return WEXITSTATUS(status);
}

/* Starts msd as `uid`, with both sockets in its own directory, and waits for its model. */
static void start_as(uid_t uid, const char *const *options) {
        const struct process_setup as_user = { .uid = uid };
        const char *all[24] = { "--socket", front.msd.socket, "--http", front.address, "--load-time", "0" };
        char socket[sizeof(front.msd.socket)];
        size_t n = 6;

        while (options && *options) {
                ck_assert_uint_lt(n, ARRAY_SIZE(all) - 1);
                all[n++] = *options++;
        }
        snprintf(socket, sizeof(socket), "%s/msd.sock", front.directory);
        snprintf(front.msd.socket, sizeof(front.msd.socket), "%s", socket);
        ck_assert_int_eq(chown(front.directory, uid, uid), 0);
        daemon_start_at(&front.msd, path_of_msd, socket, &as_user, all);
}

/* Who may connect. */

static const char *connect_to;

static int connect_error(void) {
        struct peer peer;
        int r = peer_try_connect(&peer, connect_to);

        return -r;
}

START_TEST(connecting) {
        static const struct {
                mode_t mask;
                int member, other;
        } cases[] = {
                { 0077, EACCES, EACCES },
                { 0022, EACCES, EACCES },
                { 0002, 0, EACCES },
                { 0007, 0, EACCES },
                { 0000, 0, 0 },
        };
        const char *sockets[] = { NULL, front_path(front.address) };

        if (!is_root("connecting"))
                return;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                mode_t mask = umask(cases[i].mask);

                start_as(OWNER, NULL);
                umask(mask);
                daemon_wait_ready(&front.msd);
                sockets[0] = front.msd.socket;
                for (size_t j = 0; j < ARRAY_SIZE(sockets); j++) {
                        connect_to = sockets[j];
                        ck_assert_int_eq(as(0, connect_error), 0);
                        ck_assert_int_eq(as(OWNER, connect_error), 0);
                        ck_assert_int_eq(as(MEMBER, connect_error), cases[i].member);
                        ck_assert_int_eq(as(OTHER, connect_error), cases[i].other);
                        /* Who may not enter its directory need not be refused by the socket. */
                        ck_assert_int_eq(chmod(front.directory, 0700), 0);
                        ck_assert_int_eq(as(MEMBER, connect_error), EACCES);
                        ck_assert_int_eq(as(OTHER, connect_error), EACCES);
                        ck_assert_int_eq(chmod(front.directory, 0755), 0);
                }
                daemon_stop(&front.msd);
                suite_directory(front.msd.directory);
        }
}
END_TEST

/* Who may have it load, and shut it down: everybody here may connect. */

static const char *command;

/* 0: it was done; 1: it was refused as it should be. */
static int ask_on(struct peer *peer) {
        struct peer_reply reply;

        peer_send(peer, "%s\n", command);
        if (!peer_next(peer, &reply))
                return 10;
        if (reply.type == PROTOCOL_OK)
                return 0;
        return strcmp(reply.code, "not-permitted") == 0 && strstr(reply.body, command) ? 1 : 11;
}

static int ask(void) {
        struct peer peer;

        return peer_try_connect(&peer, front.msd.socket) < 0 ? 12 : ask_on(&peer);
}

static bool write_file(const char *path, const char *text) {
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

        return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

/* As the root of a user namespace, which is somebody else to everybody outside. 20: there are none here. */
static int ask_as_root_of_namespace(void) {
        char map[32];

        snprintf(map, sizeof(map), "0 %u 1", (unsigned)getuid());
        /* Who has changed users has no say over their own files of /proc. */
        if (prctl(PR_SET_DUMPABLE, 1) < 0 || unshare(CLONE_NEWUSER) < 0 ||
            !write_file("/proc/self/uid_map", map))
                return 20;
        return getuid() == 0 ? ask() : 13;
}

/* On a connection that somebody else has made, and passed on: it is theirs. */
static struct peer made;

static int ask_on_what_was_made(void) {
        return ask_on(&made);
}

static int passed_to;

static int connect_and_pass(void) {
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int))];
        } control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
        struct msghdr message = {
                .msg_iov = &(struct iovec){ (char[1]){ 0 }, 1 },
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control),
        };
        struct peer peer;

        if (peer_try_connect(&peer, front.msd.socket) < 0)
                return 12;
        memcpy(CMSG_DATA(&control.header), &peer.fd, sizeof(int));
        return sendmsg(passed_to, &message, 0) == 1 ? 0 : 14;
}

static void take_what_was_passed(int from) {
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int))];
        } control;
        struct msghdr message = {
                .msg_iov = &(struct iovec){ (char[1]){ 0 }, 1 },
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control),
        };

        made = (struct peer)PEER_NULL;
        ck_assert_int_eq(recvmsg(from, &message, MSG_CMSG_CLOEXEC), 1);
        ck_assert_int_eq(control.header.cmsg_type, SCM_RIGHTS);
        memcpy(&made.fd, CMSG_DATA(&control.header), sizeof(int));
}

START_TEST(commanding) {
        static const char *const commands[] = { "LOAD", "SHUTDOWN" };
        static const uid_t owners[] = { 0, OWNER }, others[] = { MEMBER, OTHER };
        int pair[2];

        if (!is_root("commanding"))
                return;
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        passed_to = pair[0];
        for (size_t i = 0; i < ARRAY_SIZE(owners) * ARRAY_SIZE(commands); i++) {
                uid_t owner = owners[i % 2];

                start_as(owner, NULL);
                daemon_wait_ready(&front.msd);
                ck_assert_int_eq(chmod(front.msd.socket, 0666), 0);
                for (size_t j = 0; j < ARRAY_SIZE(commands); j++) {
                        command = commands[j];
                        for (size_t k = 0; k < ARRAY_SIZE(others); k++) {
                                int r;

                                ck_assert_int_eq(as(others[k], ask), 1);
                                r = as(others[k], ask_as_root_of_namespace);
                                if (r == 20)
                                        suite_skip("commanding", "no user namespaces for users");
                                else
                                        ck_assert_int_eq(r, 1);
                                /* Root with a stranger's connection. */
                                ck_assert_int_eq(as(others[k], connect_and_pass), 0);
                                take_what_was_passed(pair[1]);
                                ck_assert_int_eq(ask_on(&made), 1);
                                peer_close(&made);
                        }
                        if (owner == 0)
                                ck_assert_int_eq(as(OWNER, ask), 1);
                }
                command = "LOAD";
                ck_assert_int_eq(as(owner, ask), 0);
                ck_assert_int_eq(as(0, ask), 0);

                /* One of them ends it: root, who it belongs to, and a stranger with a connection of theirs. */
                command = "SHUTDOWN";
                made = (struct peer)PEER_NULL;
                if (i == 0)
                        ck_assert_int_eq(as(0, ask), 0);
                else if (i == 1)
                        ck_assert_int_eq(as(OWNER, ask), 0);
                else {
                        peer_connect(&made, front.msd.socket);
                        ck_assert_int_eq(as(OTHER, ask_on_what_was_made), 0);
                        peer_close(&made);
                }
                daemon_expect_exit(&front.msd, 0);
                suite_directory(front.msd.directory);
        }
        close(pair[0]);
        close(pair[1]);
}
END_TEST

/* In a user namespace everybody whom it does not have is nobody: so is nobody who runs msd there. */
START_TEST(commanding_nobody) {
        char socket[sizeof(front.msd.socket)];

        if (!is_root("commanding_nobody"))
                return;
        if (access("/usr/bin/unshare", X_OK) < 0) {
                suite_skip("commanding_nobody", "unshare is not installed");
                return;
        }
        snprintf(socket, sizeof(socket), "%s/msd.sock", front.directory);
        ck_assert_int_eq(chown(front.directory, OWNER, OWNER), 0);
        daemon_start_at(&front.msd, "/usr/bin/unshare", socket, &(struct process_setup){ .uid = OWNER },
                        OPTIONS("--user", path_of_msd, "--socket", socket, "--load-time", "0"));
        daemon_wait_ready(&front.msd);
        ck_assert_int_eq(chmod(socket, 0666), 0);
        command = "LOAD";
        ck_assert_int_eq(as(OTHER, ask), 1);
        command = "SHUTDOWN";
        ck_assert_int_eq(as(OTHER, ask), 1);
        daemon_stop(&front.msd);
        suite_directory(front.msd.directory);

        /* Where it is not ambiguous, nobody is a user like any. */
        start_as(NOBODY, NULL);
        daemon_wait_ready(&front.msd);
        command = "LOAD";
        ck_assert_int_eq(as(NOBODY, ask), 0);
        daemon_stop(&front.msd);
        suite_directory(front.msd.directory);
}
END_TEST

/* Nothing that comes over HTTP is for administrators, whoever sends it. */
START_TEST(http_commands_nothing) {
        static const char *const methods[] = { "GET", "POST", "PUT", "DELETE", "PATCH" };
        static const char *const paths[] = { "/-/load",   "/-/shutdown", "/-/stop",  "/-/restart", "/-/reload", "/-/status",
                                             "/-/health", "/load",       "/shutdown", "/LOAD",     "/SHUTDOWN" };
        struct peer_status status;
        struct http http;

        front_start(&front, OPTIONS("--load-time", "0", "--load-failure", "reason", "--on-load-failure", "stay"));
        front_wait(&front, peer_status_is_failed, 0, "loading has failed");
        for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
                for (size_t j = 0; j < ARRAY_SIZE(paths); j++) {
                        front_ask(&front, &http, methods[i], paths[j]);
                        http_next(&http);
                        ck_assert_msg(http.status >= 400 || (i == 0 && strcmp(paths[j], "/-/status") == 0), "%s %s: %u",
                                      methods[i], paths[j], http.status);
                        http_close(&http);
                }
        peer_status(&front.msd.control, &status);
        ck_assert_str_eq(status.status, "failed");
        ck_assert_uint_eq(status.generation, 1);
        /* Nor is the other protocol understood there. */
        http_connect(&http, front.address);
        http_send(&http, "SHUTDOWN\r\n\r\n");
        http_expect_error(&http, 400, "bad-request", NULL);
        http_expect_end(&http);
        http_close(&http);
        peer_status(&front.msd.control, &status);
        ck_assert_str_eq(status.status, "failed");
        daemon_stop(&front.msd);
}
END_TEST

/* What is in the way of a socket. */

static int listen_at(const char *path, bool dead) {
        struct sockaddr_un address;
        socklen_t len;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        ck_assert_int_eq(address_from_path(path, &address, &len), 0);
        ck_assert_int_eq(bind(fd, (const struct sockaddr *)&address, len), 0);
        ck_assert_int_eq(listen(fd, 8), 0);
        if (!dead)
                return fd;
        close(fd);
        return -1;
}

/* As another user, for the file to be theirs. */
static int listen_as(uid_t uid, const char *path, bool dead) {
        int fd;

        ck_assert_int_eq(seteuid(uid), 0);
        fd = listen_at(path, dead);
        ck_assert_int_eq(seteuid(0), 0);
        return fd;
}

static void expect_refused(uid_t uid, const char *const *options, const char *why) {
        struct process msd;

        process_start(&msd, path_of_msd, options, &(struct process_setup){ .uid = uid });
        ck_assert_int_eq(process_wait(&msd), 2);
        ck_assert_msg(strstr(text_get(&msd.errors), why), "%s", text_get(&msd.errors));
        ck_assert_str_eq(text_get(&msd.output), "");
        process_free(&msd);
}

/* Both ways in, as both users. */
static void expect_all_refused(const char *path, const char *why_root, const char *why_owner) {
        char http[SUITE_PATH_MAX + 32], elsewhere[SUITE_PATH_MAX + 32];
        struct stat before, after;

        snprintf(http, sizeof(http), "unix:%s", path);
        snprintf(elsewhere, sizeof(elsewhere), "%s/elsewhere", programs);
        ck_assert_int_eq(lstat(path, &before), 0);
        for (int i = 0; i < 2; i++) {
                const char *why = i ? why_owner : why_root;

                if (!why)
                        continue;
                expect_refused(i ? OWNER : 0, OPTIONS("msd", "--socket", path), why);
                expect_refused(i ? OWNER : 0, OPTIONS("msd", "--socket", elsewhere, "--http", http), why);
                ck_assert_int_lt(access(elsewhere, F_OK), 0);
        }
        ck_assert_int_eq(lstat(path, &after), 0);
        ck_assert_uint_eq(before.st_ino, after.st_ino);
}

START_TEST(in_the_way) {
        char directory[SUITE_PATH_MAX], path[SUITE_PATH_MAX + 16], target[SUITE_PATH_MAX + 16];
        int fd, their;

        if (!is_root("in_the_way"))
                return;
        /* As /tmp: everybody may make files there, and take away their own. */
        suite_directory(directory);
        ck_assert_int_eq(chmod(directory, 01777), 0);
        ck_assert_int_eq(chmod(programs, 01777), 0);
        snprintf(path, sizeof(path), "%s/msd.sock", directory);
        snprintf(target, sizeof(target), "%s/target", directory);

        /* A socket at which another user listens; one that lets nobody in. */
        fd = listen_as(OTHER, path, false);
        ck_assert_int_eq(chmod(path, 0666), 0);
        expect_all_refused(path, "in use", "in use");
        ck_assert_int_eq(chmod(path, 0600), 0);
        expect_all_refused(path, "in use", "Permission denied");
        connect_to = path;
        ck_assert_int_eq(connect_error(), 0);
        close(fd);

        /* At which nobody does any more: it is still for that user to take away, or for root. */
        ck_assert_int_eq(chmod(path, 0666), 0);
        expect_all_refused(path, NULL, "Operation not permitted");
        ck_assert_int_eq(unlink(path), 0);

        /* What is no socket. A link is not followed, wherever it leads. */
        their = listen_as(OTHER, target, true);
        ck_assert_int_eq(their, -1);
        ck_assert_int_eq(symlink(target, path), 0);
        ck_assert_int_eq(lchown(path, OTHER, OTHER), 0);
        expect_all_refused(path, "no socket", "no socket");
        ck_assert_int_eq(access(target, F_OK), 0);
        ck_assert_int_eq(unlink(path), 0);
        ck_assert_int_eq(mkfifo(path, 0666), 0);
        ck_assert_int_eq(chown(path, OTHER, OTHER), 0);
        expect_all_refused(path, "no socket", "no socket");
        ck_assert_int_eq(unlink(path), 0);

        /* Where one may not make files. */
        ck_assert_int_eq(chmod(directory, 0755), 0);
        expect_refused(OWNER, OPTIONS("msd", "--socket", path), "Permission denied");
        suite_remove(directory);
}
END_TEST

/* Whoever may read a directory can lock it, and keep the lock. */
START_TEST(locked) {
        int fd;

        if (!is_root("locked"))
                return;
        ck_assert_int_eq(seteuid(OTHER), 0);
        fd = open(front.directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(flock(fd, LOCK_EX), 0);
        ck_assert_int_eq(seteuid(0), 0);
        start_as(OWNER, NULL);
        daemon_wait_ready(&front.msd);
        daemon_stop(&front.msd);
        suite_directory(front.msd.directory);
        close(fd);
}
END_TEST

/* The same with the socket of a model that msd starts: who listens there is not asked, and not robbed. */
START_TEST(in_the_way_of_the_model) {
        const char *path = front_path(front.upstream);
        char said[64];
        uint64_t deadline;
        int fd;

        fd = listen_at(path, false);
        front_start(&front, OPTIONS("--load-attempts", "1", "--on-load-failure", "stay", "--upstream", front.upstream, "--", served_program(),
                                    "--socket", path));
        peer_send(&front.msd.control, "REQUEST 1 6\nsecret\n");
        peer_expect_error(&front.msd.control, "1", "load-failed", NULL);
        process_wait_errors(&front.msd.process, path);
        /* It was looked at, and nothing was said. */
        deadline = clock_patience();
        for (;;) {
                _cleanup_close_ int connection = -1;

                ck_assert_uint_lt(clock_now(), deadline);
                ck_assert_int_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
                connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
                if (connection < 0)
                        break;
                ck_assert_int_eq(recv(connection, said, sizeof(said), MSG_DONTWAIT), 0);
        }
        connect_to = path;
        ck_assert_int_eq(connect_error(), 0);
        close(fd);

        /* When it has gone, what it leaves is not in the way. */
        peer_send(&front.msd.control, "LOAD\n");
        peer_expect(&front.msd.control, "-", "loading");
        peer_send(&front.msd.control, "REQUEST 2 5\nhello\n");
        peer_expect(&front.msd.control, "2", "echo hello");
        daemon_stop(&front.msd);
}
END_TEST

/* Somebody else says that the model is ready. */

static char notify_name[108];

static int say_ready(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        size_t len = strlen(notify_name);
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        memcpy(address.sun_path + 1, notify_name + 1, len - 1);
        return sendto(fd, "READY=1\nSTATUS=mine", 19, 0, (const struct sockaddr *)&address,
                      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0 ? 1 : 0;
}

START_TEST(notifying) {
        struct peer_status status;
        char *end;

        if (!is_root("notifying"))
                return;
        /* It listens, and does not say by itself that it is ready. */
        start_as(OWNER, OPTIONS("--upstream", front.upstream, "--", "/bin/sh", "-c", "echo \"at $NOTIFY_SOCKET\"; exec \"$@\"", "sh", served_program(),
                                "--never-healthy", "--socket", front_path(front.upstream)));
        process_wait_output(&front.msd.process, "at @");
        process_wait_output(&front.msd.process, "\n");
        snprintf(notify_name, sizeof(notify_name), "%s", strstr(text_get(&front.msd.process.output), "at @") + 3);
        end = strchr(notify_name, '\n');
        ck_assert_ptr_nonnull(end);
        *end = '\0';
        (void)as(OTHER, say_ready);
        (void)as(MEMBER, say_ready);
        peer_status(&front.msd.control, &status);
        process_wait_rest(&front.msd.process);
        peer_status(&front.msd.control, &status);
        ck_assert_str_eq(status.status, "loading");
        /* The child runs as OWNER; root is believed anything. */
        ck_assert_int_eq(as(OWNER, say_ready), 0);
        daemon_wait_ready(&front.msd);
        daemon_stop(&front.msd);
        suite_directory(front.msd.directory);
}
END_TEST

/* What others can learn of the process, and do to it. */

static pid_t victim;

static int open_of_victim(const char *name, int flags) {
        char path[64];
        _cleanup_close_ int fd = -1;

        snprintf(path, sizeof(path), "/proc/%d/%s", (int)victim, name);
        fd = open(path, flags | O_CLOEXEC);
        if (fd < 0)
                return errno;
        return flags & O_DIRECTORY || read(fd, path, 1) >= 0 ? 0 : errno;
}

/* Returns which of the things below could be done, 0 for none. */
static int attack(void) {
        _cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, victim, 0);

        if (kill(victim, SIGTERM) == 0 || errno != EPERM)
                return 1;
        if (kill(victim, SIGKILL) == 0 || errno != EPERM)
                return 2;
        if (syscall(SYS_pidfd_send_signal, pidfd, SIGUSR2, NULL, 0) == 0 || errno != EPERM)
                return 3;
        if (ptrace(PTRACE_SEIZE, victim, NULL, NULL) == 0 || errno != EPERM)
                return 4;
        if (syscall(SYS_pidfd_getfd, pidfd, 0, 0) >= 0 || errno != EPERM)
                return 5;
        if (open_of_victim("environ", O_RDONLY) != EACCES)
                return 6;
        if (open_of_victim("maps", O_RDONLY) != EACCES)
                return 7;
        if (open_of_victim("mem", O_RDWR) != EACCES)
                return 8;
        if (open_of_victim("fd", O_RDONLY | O_DIRECTORY) != EACCES)
                return 9;
        /* But not its arguments: no place for a key. */
        return open_of_victim("cmdline", O_RDONLY) == 0 ? 0 : 10;
}

START_TEST(attacking) {
        static const uid_t owners[] = { 0, OWNER }, others[] = { MEMBER, OTHER };

        if (!is_root("attacking"))
                return;
        for (size_t i = 0; i < ARRAY_SIZE(owners); i++) {
                start_as(owners[i], NULL);
                daemon_wait_ready(&front.msd);
                victim = front.msd.process.pid;
                for (size_t j = 0; j < ARRAY_SIZE(others); j++)
                        ck_assert_int_eq(as(others[j], attack), 0);
                daemon_stop(&front.msd);
                suite_directory(front.msd.directory);
        }
}
END_TEST

static void add(TCase *tests) {
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, connecting);
        tcase_add_test(tests, commanding);
        tcase_add_test(tests, commanding_nobody);
        tcase_add_test(tests, http_commands_nothing);
        tcase_add_test(tests, in_the_way);
        tcase_add_test(tests, locked);
        tcase_add_test(tests, in_the_way_of_the_model);
        tcase_add_test(tests, notifying);
        tcase_add_test(tests, attacking);
}

int main(void) {
        return suite_main("users", add);
}
