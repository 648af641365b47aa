#include "daemon/server_inner.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "daemon/log.h"

/* Signals that are said to have come so often in a row, and have not, cannot be heard. */
#define FAILURES_MAX 100

static void stop_at_once(struct model_server *server, const char *why) {
        log_warning("%s: not waiting for what is in flight", why);
        server->failed = true;
        reactor_stop(&server->reactor);
}

static void take_signal(struct model_server *server, uint32_t signal) {
        switch (signal) {
        case SIGUSR1:
                log_notice("SIGUSR1 means nothing to msd, ignoring");
                break;
        case SIGQUIT:
                stop_at_once(server, "SIGQUIT");
                break;
        case SIGHUP:
                /* Of a terminal that is closed, or of a service manager behind its SIGTERM, several may come. */
                model_server_shutdown(server);
                break;
        case SIGUSR2:
                if (!server->stopping) {
                        model_server_hand_over(server);
                        break;
                }
                /* fall through */
        default:
                if (server->stopping)
                        stop_at_once(server, "A second signal");
                else
                        model_server_shutdown(server);
        }
}

static void signals_ready(struct watch *watch, uint32_t events) {
        struct model_server *server = container_of(watch, struct model_server, signals);
        struct signalfd_siginfo info;
        ssize_t n;

        (void)events;
        while ((n = read(watch->fd, &info, sizeof(info))) == sizeof(info)) {
                server->failures = 0;
                take_signal(server, info.ssi_signo);
        }
        if (n < 0 && ++server->failures == FAILURES_MAX)
                reactor_fail(&server->reactor, -errno);
}

static bool is_ignored(int signal) {
        struct sigaction action;

        return sigaction(signal, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

/* What would end the process with its socket and its model left behind. */
static void fill_signals(sigset_t *signals) {
        sigemptyset(signals);
        sigaddset(signals, SIGTERM);
        sigaddset(signals, SIGINT);
        sigaddset(signals, SIGQUIT);
        sigaddset(signals, SIGUSR1);
        sigaddset(signals, SIGUSR2);
        /* nohup(1) means it. */
        if (!is_ignored(SIGHUP))
                sigaddset(signals, SIGHUP);
}

void model_server_hold_signals(void) {
        sigset_t signals;

        fill_signals(&signals);
        /* Blocked, a write beyond RLIMIT_FSIZE fails, and does no more. */
        sigaddset(&signals, SIGXFSZ);
        (void)sigprocmask(SIG_BLOCK, &signals, NULL);
        reaper_hold_signals();
}

int server_watch_signals(struct model_server *server) {
        sigset_t signals;

        fill_signals(&signals);
        server->signals.fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
        if (server->signals.fd < 0)
                return -errno;
        return reactor_watch(&server->reactor, &server->signals, server->signals.fd, EPOLLIN, signals_ready);
}
