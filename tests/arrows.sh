#!/bin/bash
#
# Refuses each include that is not an allowed arrow between the modules, and each call that belongs to another module.
#
#   tests/arrows.sh               checks the tree, from its top
#   tests/arrows.sh --self-test   checks the check: each rule, broken once in a tree of its own, is refused
#
# The modules and their rules:
#
#   common/     includes common/ alone
#   client/     includes common/ and client/
#   daemon/     loop < net < model < status < queue < front < worker < loader, history, notify < server < main: a module includes
#               itself and those below it. options is for server and main, log for queue and all above it, keys for
#               server and main.
#   queue, front  see of the model model.h and generation.h, never a backend
#   epoll_*()   is called by daemon/loop/reactor.c alone
#   recv(), send()  are called by daemon/net/socket.c alone, and for a last word by daemon/front/parked.c
#   systemd/    its headers are for daemon/notify alone
#   exit()      is called by a main.c alone

set -euo pipefail

# Comments and the insides of strings are no code.
read -r -d '' program <<'AWK' || true
function module_of(path,  parts, n, name) {
    n = split(path, parts, "/")
    if (n == 1)
        return ""
    if (parts[1] != "daemon")
        return parts[1]
    name = parts[2]
    if (n > 2)
        return (name in directory) ? name : ""
    sub(/\.[ch]$/, "", name)
    sub(/^server_.*/, "server", name)
    return (name in rank && !(name in directory)) ? name : ""
}

function refuse(rule) {
    printf "%s:%d: %s\n    %s\n", file, FNR, rule, $0
    refused++
}

# Why a file of the module `from` may not include `target`, or nothing.
function why_not(from, target,  to) {
    to = module_of(target)
    if (target ~ /(^|\/)\.\.?(\/|$)/ || target ~ /^\// || to == "" || target !~ /^(common|client|daemon)\//)
        return "an include names a module and its header, from the top of the tree"
    if (to == "common")
        return ""
    if (from == "common")
        return "common/ includes only common/"
    if (from == "client")
        return to == "client" ? "" : "client/ includes only common/ and client/"
    if (to == "client")
        return "daemon/ never includes client/"
    if (from == to)
        return ""
    if (to == "options")
        return rank[from] >= rank["server"] ? "" : "options is included by server and main alone"
    if (to == "keys")
        return rank[from] >= rank["server"] ? "" : "keys is included by server and main alone"
    if (to == "log")
        return rank[from] >= rank["queue"] ? "" : "log is included by queue and what is above it"
    if (rank[to] >= rank[from])
        return from " may not include " to ": " arrows
    if ((from == "front" || from == "queue") && to == "model" && target !~ /^daemon\/model\/(model|generation)\.h$/)
        return from " sees model.h and generation.h, never a backend"
    return ""
}

# The line without comments, and with strings and characters emptied unless it is an include.
function code_of(line, keep_strings,  i, n, c, two, out, quote) {
    n = length(line)
    for (i = 1; i <= n; i++) {
        c = substr(line, i, 1)
        two = substr(line, i, 2)
        if (in_comment) {
            if (two == "*/") {
                in_comment = 0
                out = out " "
                i++
            }
        } else if (two == "/*") {
            in_comment = 1
            i++
        } else if (two == "//") {
            break
        } else if (c == "\"" || c == "'") {
            quote = c
            out = out c
            for (i++; i <= n && (c = substr(line, i, 1)) != quote; i++) {
                if (keep_strings)
                    out = out c
                if (c == "\\")
                    i++
            }
            out = out quote
        } else {
            out = out c
        }
    }
    return out
}

BEGIN {
    # The least is 1: options, keys and log, which stand beside the order, have 0 and include common/ and themselves.
    n = split("loop net model status queue front worker loader server main", order, " ")
    for (i = 1; i <= n; i++)
        rank[order[i]] = i
    arrows = "loop < net < model < status < queue < front < worker < loader, history, notify < server < main"
    rank["notify"] = rank["history"] = rank["loader"]
    rank["options"] = rank["log"] = rank["keys"] = 0
    directory["loop"] = directory["net"] = directory["model"] = directory["queue"] = directory["front"] = 1
}

FNR == 1 {
    file = FILENAME
    sub(/^\.\//, "", file)
    module = module_of(file)
    in_comment = 0
    files++
    if (module == "")
        refuse("this file is in no module")
}

module == "" { next }

{
    code = code_of($0, !in_comment && $0 ~ /^[ \t]*#[ \t]*include/)
}

code ~ /^[ \t]*#[ \t]*include/ {
    includes++
    target = code
    sub(/^[ \t]*#[ \t]*include(_next)?[ \t]*/, "", target)
    sub(/[ \t]+$/, "", target)
    if (target ~ /^<[^>]*>$/) {
        target = substr(target, 2, length(target) - 2)
        if (target ~ /^systemd\// && module != "notify")
            refuse("libsystemd is for daemon/notify alone")
        if (target ~ /^(common|client|daemon|tests)\//)
            refuse("a header of the tree is included in quotes")
    } else if (target ~ /^"[^"]*"$/) {
        rule = why_not(module, substr(target, 2, length(target) - 2))
        if (rule != "")
            refuse(rule)
    } else {
        refuse("an include names its file")
    }
    next
}

code ~ /(^|[^A-Za-z0-9_.>])epoll_[a-z0-9_]+[ \t]*\(/ && file != "daemon/loop/reactor.c" {
    refuse("epoll is called by daemon/loop/reactor.c alone")
}

code ~ /(^|[^A-Za-z0-9_.>])(recv|send)[ \t]*\(/ && file ~ /^daemon\// && file !~ /^daemon\/(net\/socket|front\/parked)\.c$/ {
    refuse("recv and send are called by daemon/net/socket.c alone, and for a last word by front/parked.c")
}

code ~ /(^|[^A-Za-z0-9_.>])(exit|_exit|_Exit|quick_exit)[ \t]*\(/ && file !~ /\/main\.c$/ {
    refuse("the program is ended by a main.c alone")
}

END {
    if (refused > 0)
        printf "arrows: %d refused\n", refused
    else if (includes == 0)
        print "arrows: there is nothing to check here: run it from the top of the tree"
    else
        printf "arrows: %d includes in %d files, all allowed\n", includes, files
    exit refused > 0 || includes == 0
}
AWK

# Checks the tree at the working directory.
check() {
    local -a files
    mapfile -d '' -t files < <(find common client daemon -name '*.[ch]' -type f -print0 2>/dev/null | sort -z)
    LC_ALL=C awk "$program" "${files[@]:-/dev/null}"
}

# A tree in which each arrow that is allowed is there once.
make_tree() {
    rm -rf "$1"
    mkdir -p "$1"/{common,client,daemon/{loop,net,model,queue,front}}
    cd "$1"
    touch common/line.h client/session.h daemon/{loop/gate,net/socket,model/{model,generation,sim,upstream,child},status}.h
    touch daemon/{queue/lane,front/unix,worker,loader,notify,server,options,keys,log}.h
    printf '#include "%s"\n' common/line.h >common/line.c
    printf '#include "%s"\n' common/line.h client/session.h >client/session.c
    printf 'int main(void) { exit(1); _exit(1); }\n' >client/main.c
    printf '#include "%s"\n' common/line.h daemon/loop/gate.h >daemon/loop/gate.c
    printf '#include <sys/epoll.h>\nint f(void) { return epoll_wait(1, 0, 0, 0); }\n' >daemon/loop/reactor.c
    printf '#include "%s"\nint f(void) { return recv(0) + send(0); }\n' daemon/loop/gate.h >daemon/net/socket.c
    printf '#include "%s"\n' daemon/loop/gate.h daemon/net/socket.h daemon/model/{model,child}.h >daemon/model/upstream.c
    printf '#include "%s"\n' daemon/loop/gate.h daemon/model/model.h daemon/status.h >daemon/status.c
    printf '#include "%s"\n' daemon/model/{model,generation}.h daemon/status.h daemon/log.h >daemon/queue/lane.c
    printf '#include "%s"\n' daemon/model/{model,generation}.h daemon/status.h daemon/queue/lane.h daemon/front/unix.h \
        >daemon/front/unix.c
    printf '#include "%s"\n' daemon/front/unix.h daemon/queue/lane.h daemon/status.h daemon/log.h >daemon/worker.c
    printf '#include "%s"\n' daemon/{worker,log,loader}.h >daemon/loader.c
    printf '#include <systemd/sd-daemon.h>\n#include "daemon/status.h"\n' >daemon/notify.c
    printf '#include "%s"\n' daemon/{loader,notify,worker,options,keys,log,server}.h daemon/model/sim.h >daemon/server.c
    printf '#include "%s"\n' common/line.h daemon/log.h >daemon/log.c
    printf '#include "%s"\n' common/line.h daemon/options.h >daemon/options.c
    printf '#include "%s"\n' common/line.h daemon/keys.h >daemon/keys.c
    printf '#include "%s"\n' daemon/{server,options,keys,log}.h >daemon/main.c
    # What only looks like it: in words, in strings, under other names, of a member.
    cat >daemon/model/sim.c <<'C'
/* exit() and epoll_wait() are not for here,
 * #include "daemon/server.h"
 * nor is _exit(). */
static const char text[] = "exit(1) \" epoll_ctl(1) /*"; // exit(1)
static const char quote = '"';
int g(struct s *s) { return s->exit(1) + s->ops.exit(2) + pthread_exit(3) + on_exit_(4) + my_epoll_wait(5); }
C
}

failures=0
cases=0

# refused FILE RULE TEXT: the tree with TEXT in FILE is refused, for RULE, in that file.
refused() {
    local file=$1 rule=$2 text=$3 output status=0

    make_tree "$tree"
    mkdir -p "$(dirname "$file")"
    printf '%s\n' "$text" >>"$file"
    output=$(check) || status=$?
    cases=$((cases + 1))
    if [[ $status != 1 || $output != *"arrows: 1 refused" ]] ||
        ! grep -q "^$file:[0-9]*: .*$rule" <<<"$output"; then
        printf 'arrows: self-test: "%s" in %s is not refused as "%s", but:\n%s\n' "$text" "$file" "$rule" "$output"
        failures=$((failures + 1))
    fi
}

self_test() {
    local output lower upper i j
    local order=(loop/gate net/socket model/model status queue/lane front/unix worker loader server main)

    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT

    make_tree "$tree"
    cases=$((cases + 1))
    if ! output=$(check); then
        printf 'arrows: self-test: what is allowed is refused:\n%s\n' "$output"
        failures=$((failures + 1))
    fi

    # Each module against each one above it.
    for ((i = 0; i < ${#order[@]}; i++)); do
        for ((j = i + 1; j < ${#order[@]}; j++)); do
            lower=${order[i]} upper=${order[j]}
            refused "daemon/$lower.c" "${lower%/*} may not include ${upper%/*}" "#include \"daemon/$upper.h\""
        done
    done
    refused daemon/loader.c 'loader may not include notify' '#include "daemon/notify.h"'
    refused daemon/notify.c 'notify may not include loader' '#include "daemon/loader.h"'
    refused daemon/notify.c 'notify may not include server' '#include "daemon/server.h"'

    for upper in common/line client/session; do
        refused $upper.c 'includes only' '#include "daemon/loop/gate.h"'
        refused $upper.h 'includes only' '  #  include   "daemon/log.h"'
    done
    refused common/line.c 'common/ includes only common/' '#include "client/session.h"'
    refused daemon/main.c 'daemon/ never includes client/' '#include "client/session.h"'

    for lower in loop/gate net/socket model/model status queue/lane front/unix worker loader notify keys log; do
        refused daemon/$lower.c 'options is included by server and main alone' '#include "daemon/options.h"'
    done
    for lower in loop/gate net/socket model/model status queue/lane front/unix worker loader notify options log; do
        refused daemon/$lower.c 'keys is included by server and main alone' '#include "daemon/keys.h"'
    done
    for lower in loop/gate net/socket model/model status options keys; do
        refused daemon/$lower.c 'log is included by queue' '#include "daemon/log.h"'
    done
    refused daemon/log.c 'log may not include loop' '#include "daemon/loop/gate.h"'
    refused daemon/options.c 'options may not include model' '#include "daemon/model/sim.h"'

    for upper in sim upstream child; do
        refused daemon/front/unix.c 'never a backend' "#include \"daemon/model/$upper.h\""
        refused daemon/queue/lane.c 'never a backend' "#include \"daemon/model/$upper.h\""
    done

    for upper in daemon/{loop/gate.c,loop/reactor.h,worker.c,main.c} client/main.c common/line.c; do
        refused "$upper" 'epoll is called by' 'int f(void) { return epoll_ctl(1, 2, 3, 0); }'
    done
    refused daemon/worker.c 'epoll is called by' '/* no */ int fd = epoll_create1 (0); /* no'

    for upper in daemon/{loop/gate.c,net/socket.h,front/unix.c,main.c}; do
        refused "$upper" 'recv and send are called by' 'int f(void) { return send(1, 2, 3, 0) - 1; }'
    done

    for upper in daemon/main.c daemon/server.c daemon/loader.h client/session.c common/line.h; do
        refused $upper 'libsystemd is for daemon/notify alone' '#include <systemd/sd-daemon.h>'
    done
    refused client/main.c 'libsystemd is for daemon/notify alone' '# include <systemd/sd-journal.h> /* why */'

    for lower in exit _exit _Exit quick_exit; do
        refused daemon/server.c 'ended by a main.c alone' "        $lower(1);"
    done
    refused client/session.c 'ended by a main.c alone' 'if (r < 0) exit (EXIT_FAILURE);'
    refused common/line.h 'ended by a main.c alone' 'static inline void f(void) {exit(1);}'

    refused daemon/worker.c 'names a module' '#include "worker.h"'
    refused daemon/worker.c 'names a module' '#include "../common/line.h"'
    refused daemon/worker.c 'names a module' '#include "daemon/loop/../server.h"'
    refused daemon/worker.c 'names a module' '#include "tests/support/unit.h"'
    refused daemon/worker.c 'names a module' '#include "daemon/nowhere.h"'
    refused daemon/worker.c 'names a module' '#include "daemon/nowhere/gate.h"'
    refused daemon/loop/gate.c 'in quotes' '#include <daemon/server.h>'
    refused daemon/worker.c 'names its file' '#include HEADER'
    refused daemon/cellar.c 'in no module' 'int x;'
    refused daemon/cellar/gate.c 'in no module' 'int x;'

    # A tree without an include is no tree.
    rm -rf "${tree:?}"/*
    cases=$((cases + 1))
    if check >/dev/null; then
        echo 'arrows: self-test: an empty tree is accepted'
        failures=$((failures + 1))
    fi

    if ((failures > 0)); then
        echo "arrows: self-test: $failures of $cases failed"
        return 1
    fi
    echo "arrows: self-test: $cases cases, all as they should be"
}

case "$#,${1-}" in
0,) check ;;
1,--self-test) self_test ;;
*)
    echo "usage: tests/arrows.sh [--self-test]" >&2
    exit 2
    ;;
esac
