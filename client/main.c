#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/await.h"
#include "client/deadline.h"
#include "client/input.h"
#include "client/options.h"
#include "client/output.h"
#include "client/query.h"
#include "client/request.h"
#include "client/session.h"
#include "common/bar.h"
#include "common/number.h"
#include "common/util.h"

enum {
        STATUS_ANSWERED = 0,
        STATUS_FAILED = 1,
        STATUS_USAGE = 2,
        STATUS_NO_DAEMON = 3,
        STATUS_TIMED_OUT = 4,
};

/* Room for what is not answered, as people read it. */
#define UNANSWERED_MAX 80

/* One command, from its options to its exit status. */
struct run {
        struct options options;
        uint64_t deadline;
        struct output output;
        struct session session;
        const char *path;       /* where the daemon is looked for */
        char unanswered[UNANSWERED_MAX];
};

static int wrong_usage(const char *error) {
        output_complain(&(struct output)OUTPUT_NULL, "%s", error);
        output_advise("Try 'mscli --help'.");
        return STATUS_USAGE;
}

/* Has all that was printed written. Returns `status`, or that of a failure if it cannot be. */
static int written(struct output *output, int status) {
        if (output_flush(output) == 0)
                return status;
        output_complain(output, "Cannot write to standard output: %s", strerror(-output->error));
        return STATUS_FAILED;
}

static int timed_out(struct run *run, const char *unanswered) {
        char timeout[NUMBER_DURATION_MAX];

        output_complain(&run->output, "The time is over after %s: %s",
                        number_format_duration(timeout, run->options.timeout), unanswered);
        return STATUS_TIMED_OUT;
}

/* Says why there is no daemon, and the way out. */
static int no_daemon(struct run *run, int error) {
        switch (error) {
        case -ENOENT:
        case -ENOTDIR:
                output_complain(&run->output, "No daemon at %s: there is no such socket", run->path);
                break;
        case -ECONNREFUSED:
                output_complain(&run->output, "No daemon at %s: nobody listens there", run->path);
                break;
        default:
                output_complain(&run->output, "Cannot connect to the daemon at %s: %s", run->path,
                                strerror(-error));
        }

        if (error == -EACCES || error == -EPERM)
                output_advise("Run mscli as a user who may write to that socket, or point to another with --socket PATH or $MSD_SOCKET.");
        else
                output_advise("Start it with 'systemctl start msd' or 'msd --socket %s', or point to another with --socket PATH or "
                              "$MSD_SOCKET.", run->path);
        return STATUS_NO_DAEMON;
}

/* Connects to the daemon. Returns as session_connect() does. */
static int connect_once(struct run *run) {
        const struct options *options = &run->options;
        int r;

        run->path = options->path;
        r = session_connect(&run->session, options->path, run->deadline);
        if (r == -ENOENT && options->fallback) {
                int second = session_connect(&run->session, options->fallback, run->deadline);

                if (second != -ENOENT && second != -ENOTDIR) {
                        run->path = options->fallback;
                        r = second;
                }
        }
        return r;
}

/* The same once a daemon listens, if there is none yet. */
static int connect_in_time(struct run *run) {
        const char *paths[] = { run->options.path, run->options.fallback, NULL };
        _cleanup_(await_deinit) struct await await = AWAIT_NULL;
        bool advised = false;
        int r, watched;

        r = await_init(&await);
        if (r < 0)
                return r;
        for (;;) {
                watched = await_watch(&await, paths[0]);
                if (watched == 0 && paths[1])
                        watched = await_watch(&await, paths[1]);
                r = connect_once(run);
                if (watched < 0 || (r != -ENOENT && r != -ECONNREFUSED))
                        return r;
                if (!advised && bar_is_for(STDERR_FILENO))
                        output_advise("No daemon listens at %s yet: waiting for it.", run->path);
                advised = true;
                r = await_change(&await, paths, r, run->deadline);
                if (r == SESSION_TIMED_OUT)
                        snprintf(run->unanswered, sizeof(run->unanswered), "no daemon listens");
                if (r != 0)
                        return r;
        }
}

/* Connects to the daemon. Returns 0, or the exit status, having said why. */
static int reach(struct run *run) {
        const int r = run->options.command == COMMAND_WAIT ? connect_in_time(run) : connect_once(run);

        if (r == SESSION_TIMED_OUT)
                return timed_out(run, run->unanswered);
        return r < 0 ? no_daemon(run, r) : 0;
}

/* What the session came to. Returns `status` if all was answered, or the exit status, having said why. */
static int conclude(struct run *run, int r, int status) {
        int all_written = written(&run->output, 0);

        if (all_written != 0)
                return all_written;

        switch (r) {
        case 0:
                return status;
        case SESSION_TIMED_OUT:
                return timed_out(run, run->unanswered);
        case SESSION_ENDED:
                output_complain(&run->output, "The daemon at %s has closed the connection; %s", run->path,
                                run->unanswered);
                return STATUS_NO_DAEMON;
        case SESSION_MALFORMED:
                output_complain(&run->output, "What listens at %s does not reply as msd does (\"%s\"); %s",
                                run->path, run->session.fault, run->unanswered);
                output_advise("Point to msd with --socket PATH or $MSD_SOCKET.");
                return STATUS_NO_DAEMON;
        default:
                output_complain(&run->output, "The connection to the daemon at %s failed: %s; %s", run->path,
                                strerror(-r), run->unanswered);
                return STATUS_NO_DAEMON;
        }
}

static void count_unanswered(struct run *run, size_t unanswered, size_t all) {
        snprintf(run->unanswered, sizeof(run->unanswered), "%zu of %zu requests unanswered", unanswered, all);
}

static int run_request(struct run *run) {
        _cleanup_(input_deinit) struct input input = INPUT_NULL;
        _cleanup_(request_deinit) struct request request = { 0 };
        char error[512];
        int r;

        r = input_gather(&input, &run->options, run->deadline, error, sizeof(error));
        if (r == INPUT_WRONG)
                return wrong_usage(error);
        if (r == INPUT_TIMED_OUT)
                return timed_out(run, "standard input has not ended, and nothing was sent");
        if (r == 0)
                r = request_init(&request, &input, &run->output, run->options.stream, bar_is_for(STDERR_FILENO));
        if (r < 0) {
                output_complain(&run->output, "%s", strerror(-r));
                return STATUS_FAILED;
        }
        /* Of no IDs, all are answered. */
        if (input.ids_count == 0)
                return STATUS_ANSWERED;

        count_unanswered(run, input.ids_count, input.ids_count);
        r = reach(run);
        if (r != 0)
                return r;
        r = request_run(&request, &run->session);
        count_unanswered(run, input.ids_count - request.answered, input.ids_count);
        return conclude(run, r, request.failed == 0 ? STATUS_ANSWERED : STATUS_FAILED);
}

static int run_query(struct run *run) {
        struct query query;
        int r;

        snprintf(run->unanswered, sizeof(run->unanswered), "%s unanswered",
                 command_name(run->options.command));
        r = reach(run);
        if (r != 0)
                return r;
        query_init(&query, run->options.command, run->options.json, &run->output, bar_is_for(STDERR_FILENO));
        r = query_run(&query, &run->session);
        return conclude(run, r, query.failed ? STATUS_FAILED : STATUS_ANSWERED);
}

static int print(const char *text) {
        struct output output = OUTPUT_NULL;

        (void)output_write(&output, text, strlen(text));
        return written(&output, STATUS_ANSWERED);
}

int main(int argc, char **argv) {
        const struct address_environment environment = {
                .msd_socket = getenv("MSD_SOCKET"),
                .runtime_directory = getenv("RUNTIME_DIRECTORY"),
                .xdg_runtime_dir = getenv("XDG_RUNTIME_DIR"),
                .root = geteuid() == 0,
        };
        static struct run run = { .output = OUTPUT_NULL, .session = SESSION_NULL };
        uint64_t begin = deadline_now();
        char error[512];
        int status;

        util_hold_standard_descriptors();
        output_setup();
        /* Whoever reads the output may go away; that is an error like others. */
        signal(SIGPIPE, SIG_IGN);

        switch (options_parse(&run.options, &environment, argc, argv, error, sizeof(error))) {
        case OPTIONS_HELP:
                return print(options_help);
        case OPTIONS_VERSION:
                return print("mscli " MSD_VERSION "\n");
        case OPTIONS_WRONG:
                return wrong_usage(error);
        }

        if (run.options.timeout > 0)
                run.deadline = begin + run.options.timeout;
        status = run.options.command == COMMAND_REQUEST ? run_request(&run) : run_query(&run);
        session_deinit(&run.session);
        return status;
}
