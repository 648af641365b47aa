#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/number.h"
#include "common/util.h"
#include "daemon/log.h"
#include "daemon/model/sim.h"
#include "daemon/model/upstream.h"
#include "daemon/notify.h"
#include "daemon/server_inner.h"

/* What a worker needs to park its connections, and to do so anew. */
#define DESCRIPTORS_PARKING 6

/* GET, HEAD, OPTIONS and tunnels with a real model at once. */
#define LIGHT_MAX 32

/* The second signal, one-shot as the first. From any thread. */
static void signal_stop(struct model_server *server) {
        server_check_broadcast(server, gate_open(&server->stop));
}

static void begin_stopping(struct model_server *server, const char *situation) {
        const struct options *options = server->options;

        server->stopping = true;
        agent_drain(&server->agent);
        loader_stop(&server->loader);
        server_progress_end(server, false);
        server_set_situation(server, "%s", situation);
        notify_stopping(server_status_line(server), options->drain_timeout + (options->command ? options->stop_timeout : 0) +
                                                            EXTEND_MARGIN);
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
                r = server_begin_generation(server, false);
        if (r == 0)
                worker_group_leave(&server->workers);
        else {
                log_error("Cannot hand over: %s", strerror(-r));
                signal_stop(server);
        }
}

/* What the fronts ask for, from the workers' threads. */

static void queue_load(struct queue *queue) {
        mailbox_post(&server_of(queue)->mailbox, MESSAGE_LOAD);
}

static void queue_shutdown(struct queue *queue) {
        /* Here and now: what the same client asks for next is refused already. */
        signal_stop(server_of(queue));
        mailbox_post(&server_of(queue)->mailbox, MESSAGE_SHUTDOWN);
}

static void queue_needed(struct queue *queue) {
        mailbox_post(&server_of(queue)->mailbox, MESSAGE_NEEDED);
}

static void queue_suspect(struct queue *queue) {
        mailbox_post(&server_of(queue)->mailbox, MESSAGE_SUSPECT);
}

static void queue_cleared(struct queue *queue) {
        mailbox_post(&server_of(queue)->mailbox, MESSAGE_CLEARED);
}

static void workers_failed(struct worker_group *group) {
        struct model_server *server = container_of(group, struct model_server, workers);

        mailbox_post(&server->mailbox, MESSAGE_FAILED);
        signal_stop(server);
}

static int keeper_keep(struct parking_keeper *keeper, const char *name, const int *fds, unsigned n) {
        (void)keeper;
        return notify_keep(name, fds, n);
}

static bool keeper_has(struct parking_keeper *keeper, const char *name) {
        (void)keeper;
        return notify_is_kept(name);
}

static void keeper_release(struct parking_keeper *keeper, const char *name) {
        (void)keeper;
        notify_release(name);
}

static void begin_turn(struct model_server *server) {
        server->turning = server->turning_next;
        server->turning_next = 0;
        worker_group_pulse(&server->workers);
}

void server_ask_turn(struct model_server *server, unsigned what) {
        server->turning_next |= what;
        if (server->turning == 0)
                begin_turn(server);
}

static void end_turn(struct model_server *server) {
        const unsigned turned = server->turning;

        server->turning = 0;
        if (server->turning_next != 0)
                begin_turn(server);
        if (turned & TURN_PULSE)
                notify_watchdog();
        if (turned & TURN_REST)
                server_rest_turned(server);
        if (turned & TURN_OPEN)
                server_load_turned(server);
        if (turned & TURN_EXIT)
                server_exit_turned(server);
}

static void workers_pulsed(struct worker_group *group) {
        mailbox_post(&container_of(group, struct model_server, workers)->mailbox, MESSAGE_PULSED);
}

/* The manager hears of life when this thread and every worker have turned since the pulse before. */
static void pulse_due(struct timer *timer) {
        struct model_server *server = container_of(timer, struct model_server, pulse);

        reactor_set_timer(&server->reactor, &server->pulse, timer_now() + server->pulse_interval);
        if ((server->turning | server->turning_next) & TURN_PULSE)
                return;
        if (server->workers.count == 0) {
                /* They have ended: only the model is still to. */
                notify_watchdog();
                return;
        }
        server_ask_turn(server, TURN_PULSE);
}

static void workers_drained(struct worker_group *group) {
        mailbox_post(&container_of(group, struct model_server, workers)->mailbox, MESSAGE_DRAINED);
}

/* Nothing is in flight any more, or is to be: everybody is answered, then the model is stopped, and then it ends. */
static void end_serving(struct model_server *server) {
        timer_clear(&server->drain);
        worker_group_stop(&server->workers);
        server->turning = server->turning_next = 0;
        if (!model_stop(server->model, &server->loader.events))
                reactor_stop(&server->reactor);
}

static void server_deliver(struct mailbox *mailbox, unsigned messages) {
        struct model_server *server = container_of(mailbox, struct model_server, mailbox);
        int r;

        if (messages & MESSAGE_LOAD && !server->stopping && gate_state(&server->stop) == GATE_PENDING &&
            gate_state(&server_generation(server)->gate) == GATE_FAILED) {
                log_info("Loading again, as an administrator asked");
                r = model_server_load_model(server);
                if (r < 0) {
                        log_error("Cannot begin to load: %s", strerror(-r));
                        server->failed = true;
                        model_server_shutdown(server);
                }
        }
        if (messages & MESSAGE_FAILED)
                server->failed = true;
        if (messages & (MESSAGE_SHUTDOWN | MESSAGE_FAILED))
                model_server_shutdown(server);
        if (messages & MESSAGE_PULSED)
                end_turn(server);
        if (messages & MESSAGE_NEEDED)
                server_load_needed(server);
        if (messages & MESSAGE_CHANGED)
                server_follow_later(server);
        if (messages & MESSAGE_SUSPECT)
                model_suspect(server->model);
        if (messages & MESSAGE_CLEARED)
                server_suspects_cleared(server);
        if (messages & MESSAGE_DRAINED)
                end_serving(server);
}

static void drain_elapsed(struct timer *timer) {
        struct model_server *server = container_of(timer, struct model_server, drain);
        struct status_sums sums;

        status_sum(&server->status, &sums);
        log_warning("Not drained in time: %" PRIu64 " requests in flight are given up", sums.processing);
        end_serving(server);
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

static enum upstream_ready ready_of(const struct options *options) {
        static const enum upstream_ready signs[] = {
                [READY_ANY] = UPSTREAM_READY_ANY,
                [READY_NOTIFY] = UPSTREAM_READY_NOTIFY,
                [READY_LINE] = UPSTREAM_READY_LINE,
                [READY_PROBE] = UPSTREAM_READY_PROBE,
                [READY_NOT_GIVEN] = UPSTREAM_READY_ANY,
        };

        return signs[options->ready];
}

int model_server_init(struct model_server *server, const struct options *options, const struct model_server_keys *keys,
                      struct listener_socket *socket, struct listener_set *http, struct listener_set *agent,
                      struct parked_list *parked) {
        const struct sim_options sim = {
                .name = options->model ? options->model : "sim",
                .load_time = options->load_time,
                .inference_time = options->inference_time,
                .failure = options->load_failure,
        };
        /* First: msd raises its own limit below. */
        const struct rlimit descriptors = server_given_descriptors();
        const struct upstream_options upstream = {
                .url = options->upstream,
                .command = options->command,
                .child = {
                        .reaper = &server->reaper,
                        .place = server->place,
                        .stop_timeout = options->stop_timeout,
                        .descriptors = descriptors,
                },
                .model = options->model,
                .health_path = options->health_path,
                .ready = ready_of(options),
                .ready_line = options->ready_line,
                .any_owner = options->upstream_owner == UPSTREAM_OWNER_ANY,
                .freeze_timeout = options->freeze_timeout,
                .warmup = options->warmup,
                .completion_path = options->completion_path,
                .completion_options = options->completion_options,
                .max_tokens = options->max_tokens,
                .host = options->upstream_host,
                .key = keys->upstream.count > 0 ? keys->upstream.keys[0] : NULL,
                .max_connections = server_limit_descriptors() / 2 / server_count_threads(options),
                /* Together no more than there are places: some servers have a thread for each connection. */
                .max_idle = options->max_inflight > 0 ? (options->max_inflight - 1) / server_count_threads(options) + 1 : 0,
        };
        const struct loader_options loader = {
                .attempts = (unsigned)options->load_attempts,
                .timeout = options->load_timeout,
                .stall_timeout = options->stall_timeout,
        };
        unsigned threads = server_count_threads(options);
        int r;

        *server = (struct model_server){
                .options = options,
                .reactor = { .epoll = -1 },
                .mailbox = MAILBOX_NULL,
                .reaper = REAPER_NULL,
                .signals = WATCH_NULL,
                .stop = { .fd = -1 },
                .socket = *socket,
                .http = *http,
                .agent_sockets = *agent,
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
                                [PLACES_SUSPECT] = { .max = 1 },
                        },
                        .load = queue_load,
                        .shutdown = queue_shutdown,
                        .needed = queue_needed,
                        .suspect = queue_suspect,
                        .cleared = queue_cleared,
                },
        };
        find_place(server);
        *socket = (struct listener_socket)LISTENER_SOCKET_NULL;
        *http = (struct listener_set){ 0 };
        *agent = (struct listener_set){ 0 };
        list_init(&server->generations);
        timer_init(&server->drain, drain_elapsed);
        timer_init(&server->pulse, pulse_due);
        timer_init(&server->follow, server_follow_due);
        timer_init(&server->rest, server_rest_due);
        timer_init(&server->exit, server_exit_due);
        server->keeper = (struct parking_keeper){ .keep = keeper_keep, .has = keeper_has, .release = keeper_release };
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
                server->queue.changed = server_queue_changed;

        r = reactor_init(&server->reactor);
        if (r == 0)
                r = notify_watch(&server->reactor);
        if (r == 0)
                r = server_watch_signals(server);
        if (r == 0)
                r = reaper_init(&server->reaper, &server->reactor);
        if (r == 0)
                r = mailbox_init(&server->mailbox, &server->reactor, server_deliver);
        if (r == 0)
                r = gate_init(&server->stop);
        if (r == 0)
                r = status_init(&server->status, threads, &server->stop);
        if (r == 0)
                r = agent_init(&server->agent, &server->reactor, &server->agent_sockets, &server->status, options->max_inflight);
        if (r == 0)
                r = options->upstream ? upstream_new(&server->model, &upstream) : sim_new(&server->model, &sim);
        if (r == 0) {
                server_init_loader(server, &loader);
                server_progress_init(server);
                server->queue.model = server->model;
                r = server_begin_generation(server, options->load == LOAD_ON_DEMAND);
        }
        if (r == 0)
                r = worker_group_init(&server->workers, threads);
        if (r == 0) {
                /* All descriptors but those of connections are open now. */
                server->connections.max = server_limit_connections(
                        options, (server->workers.keeper ? threads * DESCRIPTORS_PARKING : 0) +
                                         (server->agent_sockets.count > 0 ? AGENT_CONNECTIONS_MAX : 0));
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

/* The first load waits for the first request: msd is up. */
static int server_await_request(struct model_server *server) {
        int r;

        server_idle_begin(server);
        r = notify_ready(server_status_line(server));
        if (r < 0)
                log_warning("Cannot tell the service manager that msd is ready, ignoring: %s", strerror(-r));
        return 0;
}

int model_server_run(struct model_server *server) {
        int r;

        r = server->options->load == LOAD_ON_DEMAND ? server_await_request(server) : model_server_load_model(server);
        if (r == 0)
                r = reactor_run(&server->reactor);
        if (r < 0) {
                log_error("Cannot go on: %s", strerror(-r));
                (void)gate_open(&server->stop);
        }
        worker_group_stop(&server->workers);
        listener_socket_close(&server->socket);
        listener_set_close(&server->http);
        agent_deinit(&server->agent);
        listener_set_close(&server->agent_sockets);
        return r < 0 ? r : server->failed;
}

void model_server_deinit(struct model_server *server) {
        worker_group_stop(&server->workers);
        listener_socket_close(&server->socket);
        listener_set_close(&server->http);
        agent_deinit(&server->agent);
        listener_set_close(&server->agent_sockets);
        if (server->model)
                loader_stop(&server->loader);
        server_progress_deinit(server);
        server->model = model_free(server->model);
        server_free_generations(server, UINT32_MAX);
        status_deinit(&server->status);
        gate_deinit(&server->stop);
        mailbox_deinit(&server->mailbox);
        reaper_deinit(&server->reaper);
        notify_unwatch();
        reactor_unwatch(&server->signals);
        server->signals.fd = util_close(server->signals.fd);
        reactor_deinit(&server->reactor);
}
