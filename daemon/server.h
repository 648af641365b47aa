#pragma once

/*
 * The model server: it owns the workers and the generations, and the order of start and stop.
 *
 * It starts with no model. load_model stores one and broadcasts that it is ready; a request waits for that, or goes straight on
 * (lane_request(), lane_exchange()); shutdown is a second signal of the same kind.
 */

#include <stdatomic.h>
#include <stdbool.h>

#include "daemon/front/agent.h"
#include "daemon/front/listener.h"
#include "daemon/history.h"
#include "daemon/keys.h"
#include "daemon/loader.h"
#include "daemon/loop/gate.h"
#include "daemon/loop/mailbox.h"
#include "daemon/loop/reaper.h"
#include "daemon/model/progress.h"
#include "daemon/options.h"
#include "daemon/queue/lane.h"
#include "daemon/status.h"
#include "daemon/worker.h"

/* Keys that were read at the start; they outlive the server. */
struct model_server_keys {
        struct keys upstream;           /* at most one: for msd's own requests to the model */
        struct keys http;               /* of which clients must have one; none: no key is needed */
};

struct model_server {
        const struct options *options;          /* borrowed */
        struct reactor reactor;                 /* the main thread's */
        struct mailbox mailbox;
        struct reaper reaper;
        struct watch signals;
        struct gate stop;
        struct listener_socket socket;
        struct listener_set http;
        struct listener_set agent_sockets;
        struct agent agent;
        struct listener_limit connections;
        struct request_limits limits;
        struct queue queue;
        struct status status;
        struct model *model;
        struct loader loader;
        struct progress progress;               /* of the load that is under way */
        struct timer measure;
        bool has_terminal;                      /* where it is shown */
        struct history history;
        struct worker_group workers;
        struct list generations;                /* the last is the current one; those before it may still be looked at */
        struct timer drain;
        struct parking_keeper keeper;           /* the service manager, if there is one */
        struct parking_limit parking_limit;
        struct timer pulse;
        uint64_t pulse_interval;                /* 0: nobody watches */
        unsigned turning;                       /* TURN_*: what the turn of all workers that is under way is for */
        unsigned turning_next;                  /* the same of the turn after it */
        struct timer rest;                      /* when the model may be stopped, if nobody has used it */
        struct timer exit;                      /* when msd may end, if it has heard nobody */
        struct timer follow;                    /* when the status line may be sent again */
        uint64_t followed;                      /* when it was sent last */
        atomic_bool changed;                    /* there is a reason to send it again */
        char situation[GATE_REASON_MAX + 128];  /* what it says, but for the numbers */
        bool situation_is_plain;                /* only that a load is under way, and since when */
        char line[GATE_REASON_MAX + 320];       /* what it said last */
        char place[4096];                       /* where it listens */
        unsigned failures;                      /* events of `signals` in a row that brought none */
        enum loss loss;                         /* how the generation before the one that begins was lost, and why */
        const char *loss_reason;
        bool opening;                           /* the model is ready, and every worker is asked for its suspects */
        bool stopping;
        bool failed;                            /* the exit status is to say so */
};

/* What tells the daemon to stop is kept until model_server_run() hears it: before a socket is made that it has to take away. */
void model_server_hold_signals(void);

/*
 * Sets up everything, down to the listening sockets: `socket`, those of `http` and `agent`, and what is `parked`, which become
 * the server's in any case. Nothing runs yet. Returns 0 or -errno, with a diagnostic; model_server_deinit() is due either way.
 */
int model_server_init(struct model_server *server, const struct options *options, const struct model_server_keys *keys,
                      struct listener_socket *socket, struct listener_set *http, struct listener_set *agent,
                      struct parked_list *parked);
void model_server_deinit(struct model_server *server);

/* Loads the model, serves, and stops. Returns 0 if it stopped as asked, 1 if it failed, or -errno, with a diagnostic. */
int model_server_run(struct model_server *server);

/* Begins a generation: loads the model, stores it, and opens the gate; or fails the gate with the reason. */
int model_server_load_model(struct model_server *server);

/*
 * Leaves what waits, and what is new, to the next process of this service, lets what is in flight finish, and then
 * ends. Without a service manager that keeps it this is model_server_shutdown().
 */
void model_server_hand_over(struct model_server *server);

/* Refuses what is new and what waits, lets what is in flight finish, and then ends. Harmless twice. */
void model_server_shutdown(struct model_server *server);
