#include "daemon/server.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/log.h"
#include "daemon/model/sim.h"
#include "daemon/model/upstream.h"
#include "daemon/notify.h"

enum {
        LETTER_LOAD = 1 << 0,
        LETTER_SHUTDOWN = 1 << 1,
        LETTER_DRAINED = 1 << 2,
        LETTER_PULSED = 1 << 3,
        LETTER_CHANGED = 1 << 4,
        LETTER_SUSPECT = 1 << 5,
        LETTER_FAILED = 1 << 6,
};

#define THREADS_DEFAULT_MAX 8

/* Descriptors that are not for connections: a gate of the next generation, a directory to lock, a client to refuse. */
#define DESCRIPTORS_SPARE 8

/* What a worker needs to park its connections, and to do so anew. */
#define DESCRIPTORS_PARKING 6

/* Signals that are said to have come so often in a row, and have not, cannot be heard. */
#define FAILURES_MAX 100

/* GET, HEAD, OPTIONS and tunnels with a real model at once. */
#define LIGHT_MAX 32

/* Nothing that is about to end by itself is to be ended by the service manager at the same moment. */
#define EXTEND_MARGIN (10 * NSEC_PER_SEC)

/* The status line is sent so often at the most. */
#define FOLLOW_INTERVAL (500 * NSEC_PER_MSEC)

static const char line_loading[] = "Model loading...\n";
static const char line_ready[] = "Model ready!\n";

static struct model_server *server_of(struct queue *queue) {
        return container_of(queue, struct model_server, queue);
}

/* A generation is let go of when no worker looks at it any more. */
static void free_generations(struct model_server *server, unsigned oldest) {
        while (!list_is_empty(&server->generations)) {
                struct generation *first = container_of(server->generations.next, struct generation, link);

                if (first->number >= oldest)
                        break;
                (void)generation_free(first);
        }
}

static struct generation *server_generation(struct model_server *server) {
        return queue_generation(&server->queue);
}

static int begin_generation(struct model_server *server) {
        struct generation *before = server_generation(server), *generation = NULL;
        int r;

        r = generation_new(&generation, before ? before->number + 1 : 1);
        if (r < 0)
                return r;
        list_append(&server->generations, &generation->link);
        status_loading(&server->status, generation->number);
        atomic_store_explicit(&server->queue.generation, generation, memory_order_release);
        worker_group_follow(&server->workers);
        if (before)
                free_generations(server, worker_group_generation(&server->workers));
        return 0;
}

/* What the model is called before it has a name of its own. */
static const char *model_name(const struct model_server *server) {
        const struct options *options = server->options;

        if (options->model)
                return options->model;
        if (!options->upstream)
                return "sim";
        return options->command ? options->command[0] : options->upstream;
}

/* The status line: what the situation is, and how many there are that it concerns. */
static const char *status_line(struct model_server *server) {
        struct status_sums sums;

        status_sum(&server->status, &sums);
        if (server->stopping && sums.processing > 0)
                snprintf(server->line, sizeof(server->line), "%s, %" PRIu64 " in flight", server->situation, sums.processing);
        else if (!server->stopping && gate_state(&server_generation(server)->gate) == GATE_PENDING)
                snprintf(server->line, sizeof(server->line), "%s, %" PRIu64 " waiting", server->situation, sums.waiting);
        else
                snprintf(server->line, sizeof(server->line), "%s", server->situation);
        return server->line;
}

static void set_situation(struct model_server *server, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void set_situation(struct model_server *server, const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(server->situation, sizeof(server->situation), format, arguments);
        va_end(arguments);
        server->followed = timer_now();
}

static void follow_due(struct timer *timer) {
        struct model_server *server = container_of(timer, struct model_server, follow);
        char before[sizeof(server->line)];

        /* First: what changes from here on is told anew. */
        atomic_store(&server->changed, false);
        memcpy(before, server->line, sizeof(before));
        if (strcmp(status_line(server), before) == 0)
                return;
        server->followed = timer_now();
        notify_status(server->line);
}

/* How long a load may go on until it is looked at again. */
static uint64_t load_limit(const struct options *options) {
        uint64_t limit = UINT64_MAX - EXTEND_MARGIN;

        if (options->stall_timeout > 0)
                limit = MIN(limit, options->stall_timeout);
        if (options->load_timeout > 0)
                limit = MIN(limit, options->load_timeout);
        return limit + EXTEND_MARGIN;
}

int model_server_load_model(struct model_server *server) {
        struct generation *generation = server_generation(server);
        int r;

        /* Ready, failed, or lost: that generation is over. */
        if (!generation || gate_state(&generation->gate) != GATE_PENDING) {
                r = begin_generation(server);
                if (r < 0)
                        return r;
        }
        loader_start(&server->loader, server_generation(server));
        return 0;
}

/* What opening a gate, or failing it, came to: one that stays silent is for the mailboxes to tell of. From any thread. */
static void check_broadcast(struct model_server *server, int r) {
        if (r >= 0)
                return;
        log_warning("Cannot tell all workers at once, telling each: %s", strerror(-r));
        worker_group_check_gates(&server->workers);
}

/* The second signal, one-shot as the first. From any thread. */
static void signal_stop(struct model_server *server) {
        check_broadcast(server, gate_open(&server->stop));
}

static void begin_stopping(struct model_server *server, const char *situation) {
        server->stopping = true;
        loader_stop(&server->loader);
        set_situation(server, "%s", situation);
        notify_stopping(status_line(server), server->options->drain_timeout + EXTEND_MARGIN);
        log_info("%s", server->line);
        reactor_set_timer(&server->reactor, &server->drain, timer_now() + server->options->drain_timeout);
}

void model_server_shutdown(struct model_server *server) {
        if (server->stopping)
                return;
        begin_stopping(server, "Stopping");
        signal_stop(server);
}

void model_server_hand_over(struct model_server *server) {
        int r = 0;

        if (server->stopping)
                return;
        if (!server->workers.keeper) {
                model_server_shutdown(server);
                return;
        }
        begin_stopping(server, "Handing over to the next process");
        /* What is new waits for a load that the next process begins. */
        if (gate_state(&server_generation(server)->gate) != GATE_PENDING)
                r = begin_generation(server);
        if (r == 0)
                worker_group_leave(&server->workers);
        else {
                log_error("Cannot hand over: %s", strerror(-r));
                signal_stop(server);
        }
}

/* What the fronts ask for, from the workers' threads. */

static void queue_load(struct queue *queue) {
        mailbox_post(&server_of(queue)->mailbox, LETTER_LOAD);
}

static void queue_shutdown(struct queue *queue) {
        /* Here and now: what the same client asks for next is refused already. */
        signal_stop(server_of(queue));
        mailbox_post(&server_of(queue)->mailbox, LETTER_SHUTDOWN);
}

static void queue_suspect(struct queue *queue) {
        mailbox_post(&server_of(queue)->mailbox, LETTER_SUSPECT);
}

static void workers_failed(struct worker_group *group) {
        struct model_server *server = container_of(group, struct model_server, workers);

        mailbox_post(&server->mailbox, LETTER_FAILED);
        signal_stop(server);
}

/* From any thread; one letter until the main thread has looked. */
static void queue_changed(struct queue *queue) {
        struct model_server *server = server_of(queue);

        if (!atomic_load_explicit(&server->changed, memory_order_relaxed) && !atomic_exchange(&server->changed, true))
                mailbox_post(&server->mailbox, LETTER_CHANGED);
}

static int keeper_keep(struct parking_keeper *keeper, const char *name, const int *fds, unsigned n) {
        (void)keeper;
        return notify_keep(name, fds, n);
}

static void keeper_release(struct parking_keeper *keeper, const char *name) {
        (void)keeper;
        notify_release(name);
}

static void workers_pulsed(struct worker_group *group) {
        mailbox_post(&container_of(group, struct model_server, workers)->mailbox, LETTER_PULSED);
}

/* The manager hears of life when this thread and every worker have turned since the pulse before. */
static void pulse_due(struct timer *timer) {
        struct model_server *server = container_of(timer, struct model_server, pulse);

        reactor_set_timer(&server->reactor, &server->pulse, timer_now() + server->pulse_interval);
        if (server->pulsing)
                return;
        if (server->workers.count == 0) {
                /* They have ended: only the model is still to. */
                notify_watchdog();
                return;
        }
        server->pulsing = true;
        worker_group_pulse(&server->workers);
}

static void workers_drained(struct worker_group *group) {
        mailbox_post(&container_of(group, struct model_server, workers)->mailbox, LETTER_DRAINED);
}

/* Nothing is in flight any more, or is to be: everybody is answered, then the model is stopped, and then it ends. */
static void end_serving(struct model_server *server) {
        timer_clear(&server->drain);
        worker_group_stop(&server->workers);
        server->pulsing = false;
        if (!model_stop(server->model, &server->loader.events))
                reactor_stop(&server->reactor);
}

static void server_deliver(struct mailbox *mailbox, unsigned letters) {
        struct model_server *server = container_of(mailbox, struct model_server, mailbox);
        int r;

        if (letters & LETTER_LOAD && !server->stopping && gate_state(&server->stop) == GATE_PENDING &&
            gate_state(&server_generation(server)->gate) == GATE_FAILED) {
                log_info("Loading again, as an administrator asked");
                r = model_server_load_model(server);
                if (r < 0) {
                        log_error("Cannot begin to load: %s", strerror(-r));
                        server->failed = true;
                        model_server_shutdown(server);
                }
        }
        if (letters & LETTER_FAILED)
                server->failed = true;
        if (letters & (LETTER_SHUTDOWN | LETTER_FAILED))
                model_server_shutdown(server);
        if (letters & LETTER_PULSED) {
                server->pulsing = false;
                notify_watchdog();
        }
        if (letters & LETTER_CHANGED && !timer_is_set(&server->follow))
                reactor_set_timer(&server->reactor, &server->follow,
                                  MAX(timer_now(), server->followed + FOLLOW_INTERVAL));
        if (letters & LETTER_SUSPECT)
                model_suspect(server->model);
        if (letters & LETTER_DRAINED)
                end_serving(server);
}

static void drain_elapsed(struct timer *timer) {
        struct model_server *server = container_of(timer, struct model_server, drain);
        struct status_sums sums;

        status_sum(&server->status, &sums);
        log_warning("Not drained in time: %" PRIu64 " requests in flight are given up", sums.processing);
        end_serving(server);
}

static void signals_ready(struct watch *watch, uint32_t events) {
        struct model_server *server = container_of(watch, struct model_server, signals);
        struct signalfd_siginfo info;
        ssize_t n;

        (void)events;
        while ((n = read(watch->fd, &info, sizeof(info))) == sizeof(info)) {
                server->failures = 0;
                if (!server->stopping) {
                        if (info.ssi_signo == SIGUSR2)
                                model_server_hand_over(server);
                        else
                                model_server_shutdown(server);
                        continue;
                }
                log_warning("A second signal: not waiting for what is in flight");
                server->failed = true;
                reactor_stop(&server->reactor);
        }
        if (n < 0 && ++server->failures == FAILURES_MAX)
                reactor_fail(&server->reactor, -errno);
}

/* Loader: how the load goes, in the main thread. */

static void load_attempting(struct loader *loader, unsigned attempt, const char *error, uint64_t pause) {
        struct model_server *server = container_of(loader, struct model_server, loader);
        char text[NUMBER_DURATION_MAX];
        time_t now = time(NULL);
        struct tm local;

        status_attempt(&server->status, attempt, error);
        if (error) {
                number_format_duration(text, pause / NSEC_PER_MSEC * NSEC_PER_MSEC);
                set_situation(server, "Loading failed: %s; attempt %u of %u follows in %s", error, attempt,
                              loader->options.attempts, text);
                log_warning("%s", server->situation);
                notify_extend(pause + EXTEND_MARGIN);
        } else {
                strftime(text, sizeof(text), "%H:%M:%S", localtime_r(&now, &local));
                set_situation(server, "Loading %s since %s", model_name(server), text);
                log_output(line_loading, sizeof(line_loading) - 1);
        }
        notify_status(status_line(server));
}

static void load_progressing(struct loader *loader) {
        notify_extend(load_limit(container_of(loader, struct model_server, loader)->options));
}

static void load_ready(struct loader *loader, const char *name) {
        struct model_server *server = container_of(loader, struct model_server, loader);
        struct generation *generation = server_generation(server);
        char text[NUMBER_DURATION_MAX];
        int r;

        /* The model is stored, and the line is out, before anybody goes on because of it. */
        snprintf(generation->model, sizeof(generation->model), "%s", name);
        status_ready(&server->status, name);
        log_output(line_ready, sizeof(line_ready) - 1);
        check_broadcast(server, gate_open(&generation->gate));

        set_situation(server, "Ready: %s was loaded in %s", name,
                      number_format_duration(text, status_load_time(&server->status) / NSEC_PER_MSEC * NSEC_PER_MSEC));
        r = notify_ready(status_line(server));
        if (r < 0)
                log_warning("Cannot tell the service manager that the model is ready, ignoring: %s", strerror(-r));
}

static void load_lost(struct loader *loader, enum loss how, const char *reason) {
        struct model_server *server = container_of(loader, struct model_server, loader);
        int r;

        (void)how;
        log_error("The model is lost: %s", reason);
        if (server->stopping)
                return;
        /* New requests wait for the next generation, and so do those in flight that got no output. */
        r = model_server_load_model(server);
        if (r < 0) {
                log_error("Cannot begin to load: %s", strerror(-r));
                server->failed = true;
                model_server_shutdown(server);
                return;
        }
        status_attempt(&server->status, 1, reason);
}

static void load_alive(struct loader *loader) {
        worker_group_resume(&container_of(loader, struct model_server, loader)->workers);
}

static void load_stopped(struct loader *loader) {
        reactor_stop(&container_of(loader, struct model_server, loader)->reactor);
}

/* A model's own lines go where the daemon's go, each whole. */
static void load_said(struct loader *loader, bool error, const char *line, size_t len) {
        char text[4096];

        (void)loader;
        if (error) {
                log_line(line, len);
                return;
        }
        len = MIN(len, sizeof(text) - 1);
        memcpy(text, line, len);
        text[len] = '\n';
        log_output(text, len + 1);
}

static void load_reported(struct loader *loader, const char *status, uint64_t extend) {
        struct model_server *server = container_of(loader, struct model_server, loader);

        if (extend > 0)
                notify_extend(MAX(extend, load_limit(server->options)));
        if (status) {
                set_situation(server, "Loading %s: %s", model_name(server), status);
                queue_changed(&server->queue);
        }
}

static void load_failed(struct loader *loader, int error, const char *reason) {
        struct model_server *server = container_of(loader, struct model_server, loader);

        status_failed(&server->status, reason);
        check_broadcast(server, gate_fail(&server_generation(server)->gate, reason));
        log_error("Loading failed: %s", reason);
        if (server->options->on_load_failure == ON_LOAD_FAILURE_EXIT) {
                server->failed = true;
                model_server_shutdown(server);
        }
        set_situation(server, "Loading failed: %s", reason);
        snprintf(server->line, sizeof(server->line), "%s", server->situation);
        notify_failed(error, server->line);
}

static void fill_signals(sigset_t *signals) {
        sigemptyset(signals);
        sigaddset(signals, SIGTERM);
        sigaddset(signals, SIGINT);
        sigaddset(signals, SIGUSR2);
}

void model_server_hold_signals(void) {
        sigset_t signals;

        fill_signals(&signals);
        (void)sigprocmask(SIG_BLOCK, &signals, NULL);
}

static int watch_signals(struct model_server *server) {
        sigset_t signals;

        fill_signals(&signals);
        server->signals.fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
        if (server->signals.fd < 0)
                return -errno;
        return reactor_watch(&server->reactor, &server->signals, server->signals.fd, EPOLLIN, signals_ready);
}

static unsigned count_threads(const struct options *options) {
        cpu_set_t processors;

        if (options->threads > 0)
                return (unsigned)options->threads;
        if (sched_getaffinity(0, sizeof(processors), &processors) < 0)
                return 1;
        return (unsigned)MAX(1, MIN(CPU_COUNT(&processors), THREADS_DEFAULT_MAX));
}

/* How many descriptors are open now. */
static uint64_t count_descriptors(void) {
        DIR *directory = opendir("/proc/self/fd");
        uint64_t n = 0;

        if (!directory)
                return 32;
        while (readdir(directory))
                n++;
        closedir(directory);
        return n;
}

/* How many descriptors there may be: the limit, raised to its hard maximum. */
static uint64_t limit_descriptors(void) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return UINT64_MAX;
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
        (void)getrlimit(RLIMIT_NOFILE, &limit);
        return limit.rlim_cur;
}

/* As many connections as the descriptors leave room for; those to a real model need as many again. */
static uint64_t limit_connections(const struct options *options, unsigned parking) {
        uint64_t taken = count_descriptors() + DESCRIPTORS_SPARE + parking, limit = limit_descriptors();
        uint64_t room = limit > taken ? limit - taken : 1;

        if (options->upstream)
                room = room / 2 + 1;
        if (options->max_connections == 0)
                return room;
        if (options->max_connections > room)
                log_warning("--max-connections %" PRIu64 ": the descriptor limit allows %" PRIu64,
                            options->max_connections, room);
        return MIN(options->max_connections, room);
}

/* Where it listens: no two daemons do so at the same place. */
static void find_place(struct model_server *server) {
        struct sockaddr_un address = { 0 };
        socklen_t len = sizeof(address) - 1;

        (void)getsockname(server->socket.fd, (struct sockaddr *)&address, &len);
        if (address.sun_path[0] != '/' && getcwd(server->place, sizeof(server->place)))
                strncat(server->place, "/", sizeof(server->place) - strlen(server->place) - 1);
        strncat(server->place, address.sun_path, sizeof(server->place) - strlen(server->place) - 1);
}

int model_server_init(struct model_server *server, const struct options *options, const struct model_server_keys *keys,
                      struct listener_socket *socket, struct listener_set *http, struct parked_list *parked) {
        const struct sim_options sim = {
                .name = options->model ? options->model : "sim",
                .load_time = options->load_time,
                .inference_time = options->inference_time,
                .failure = options->load_failure,
        };
        const struct upstream_options upstream = {
                .url = options->upstream,
                .command = options->command,
                .owner = server->place,
                .model = options->model,
                .health_path = options->health_path,
                .ready_line = options->ready_line,
                .warmup = options->warmup,
                .completion_path = options->completion_path,
                .completion_options = options->completion_options,
                .max_tokens = options->max_tokens,
                .host = options->upstream_host,
                .key = keys->upstream.count > 0 ? keys->upstream.keys[0] : NULL,
                .max_connections = limit_descriptors() / 2 / count_threads(options),
                /* Together no more than there are places: some servers have a thread for each connection. */
                .max_idle = options->max_inflight > 0 ? (options->max_inflight - 1) / count_threads(options) + 1 : 0,
        };
        const struct loader_options loader = {
                .attempts = (unsigned)options->load_attempts,
                .timeout = options->load_timeout,
                .stall_timeout = options->stall_timeout,
        };
        unsigned threads = count_threads(options);
        int r;

        *server = (struct model_server){
                .options = options,
                .reactor = { .epoll = -1 },
                .mailbox = MAILBOX_NULL,
                .signals = WATCH_NULL,
                .stop = { .fd = -1 },
                .socket = *socket,
                .http = *http,
                .limits = {
                        .max_waiting = options->max_waiting,
                        .max_prompt = options->max_prompt,
                        .max_body = options->max_body,
                        .max_prompt_memory = options->max_prompt_memory,
                        .timeout = options->request_timeout,
                },
                .queue = {
                        .limits = &server->limits,
                        .stop = &server->stop,
                        .places = {
                                [PLACES_INFERENCE] = { .max = options->max_inflight },
                                [PLACES_LIGHT] = { .max = options->upstream ? LIGHT_MAX : 0 },
                        },
                        .load = queue_load,
                        .shutdown = queue_shutdown,
                        .suspect = queue_suspect,
                },
        };
        find_place(server);
        *socket = (struct listener_socket)LISTENER_SOCKET_NULL;
        *http = (struct listener_set){ 0 };
        list_init(&server->generations);
        timer_init(&server->drain, drain_elapsed);
        timer_init(&server->pulse, pulse_due);
        timer_init(&server->follow, follow_due);
        server->keeper = (struct parking_keeper){ .keep = keeper_keep, .release = keeper_release };
        server->parking_limit.max = options->max_parked;
        server->workers = (struct worker_group){
                .queue = &server->queue,
                .connections = &server->connections,
                .status = &server->status,
                .listen_fd = server->socket.fd,
                .quiet = options->quiet,
                .keeper = notify_is_heard() ? &server->keeper : NULL,
                .parking_limit = &server->parking_limit,
                .parked = *parked,
                /* Who connects to an inherited socket waits in its backlog for the next daemon. */
                .http_sockets = &server->http,
                .http = {
                        .stream_keepalive = options->stream_keepalive,
                        .json_keepalive = options->json_keepalive,
                        .head_timeout = options->head_timeout,
                        .client_idle_timeout = options->client_idle_timeout,
                        .cors_origin = options->cors_origin,
                        .model_name = options->model,
                        .keys = keys->http.keys,
                        .key_count = keys->http.count,
                },
                .refuse_while_stopping = server->socket.made,
                .all_drained = workers_drained,
                .all_pulsed = workers_pulsed,
                .failed = workers_failed,
        };
        *parked = (struct parked_list){ 0 };
        if (notify_is_heard())
                server->queue.changed = queue_changed;

        r = reactor_init(&server->reactor);
        if (r == 0)
                r = watch_signals(server);
        if (r == 0)
                r = mailbox_init(&server->mailbox, &server->reactor, server_deliver);
        if (r == 0)
                r = gate_init(&server->stop);
        if (r == 0)
                r = status_init(&server->status, threads, &server->stop);
        if (r == 0)
                r = options->upstream ? upstream_new(&server->model, &upstream) : sim_new(&server->model, &sim);
        if (r == 0) {
                loader_init(&server->loader, &server->reactor, server->model, &loader);
                server->loader.attempting = load_attempting;
                server->loader.progressing = load_progressing;
                server->loader.ready = load_ready;
                server->loader.failed = load_failed;
                server->loader.lost = load_lost;
                server->loader.alive = load_alive;
                server->loader.stopped = load_stopped;
                server->loader.said = load_said;
                server->loader.reported = load_reported;
                server->queue.model = server->model;
                r = begin_generation(server);
        }
        if (r == 0)
                r = log_output_start();
        if (r == 0)
                r = worker_group_init(&server->workers, threads);
        if (r == 0) {
                /* All descriptors but those of connections are open now. */
                server->connections.max = limit_connections(options, server->workers.keeper ? threads * DESCRIPTORS_PARKING : 0);
                r = worker_group_start(&server->workers);
        }
        if (r < 0) {
                log_error("Cannot start: %s", strerror(-r));
                notify_failed(-r, "Cannot start");
                /* A worker that runs already takes nothing on its way out that would wait. */
                (void)gate_open(&server->stop);
                return r;
        }
        server->pulse_interval = notify_watchdog_interval() / 2;
        if (server->pulse_interval > 0)
                pulse_due(&server->pulse);
        return 0;
}

int model_server_run(struct model_server *server) {
        int r;

        r = model_server_load_model(server);
        if (r == 0)
                r = reactor_run(&server->reactor);
        if (r < 0) {
                log_error("Cannot go on: %s", strerror(-r));
                (void)gate_open(&server->stop);
        }
        worker_group_stop(&server->workers);
        listener_socket_close(&server->socket);
        listener_set_close(&server->http);
        return r < 0 ? r : server->failed;
}

void model_server_deinit(struct model_server *server) {
        worker_group_stop(&server->workers);
        listener_socket_close(&server->socket);
        listener_set_close(&server->http);
        log_output_stop();
        if (server->model)
                loader_stop(&server->loader);
        server->model = model_free(server->model);
        free_generations(server, UINT32_MAX);
        status_deinit(&server->status);
        gate_deinit(&server->stop);
        mailbox_deinit(&server->mailbox);
        reactor_unwatch(&server->signals);
        server->signals.fd = util_close(server->signals.fd);
        reactor_deinit(&server->reactor);
}
