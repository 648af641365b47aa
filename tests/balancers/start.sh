# Sourced by the tests here: starts msd and what stands in front of it, in a directory of the test's own, which is gone at its
# end with all that was started. Everything listens on Unix sockets: no two tests meet.

. tests/support/checks.sh

build=${BUILD:-build}
msd=${MSD:-$build/msd}
name=${0##*/}
# Where Debian has what only root starts.
PATH=$PATH:/usr/sbin:/sbin
directory=$(mktemp -d)
declare -A process=()

# What was started, and nothing else. Its last words do not belong to the test.
clean() {
    local started
    for started in "${process[@]}"; do
        kill -KILL "$started" 2>/dev/null || true
        wait "$started" 2>/dev/null || true
    done
    rm -rf "$directory"
}
trap clean EXIT
trap 'exit 143' INT TERM HUP

explain() {
    local log
    for log in "$directory"/*.log; do
        [ ! -s "$log" ] || { echo "${log##*/}:"; tail -n 20 "$log"; }
    done
}

# needs PROGRAM PACKAGE
needs() {
    command -v "$1" >/dev/null || skip "$2 is not installed"
}

skip() {
    echo "SKIP: $name: $*"
    exit 0
}

# start NAME COMMAND [ARG...]: in the background, with a log.
start() {
    local what=$1
    shift
    "$@" >>"$directory/$what.log" 2>&1 </dev/null &
    process[$what]=$!
}

# A signal is sent to it; `ended` waits for its end, and has its exit status.
stop() {
    kill -"$2" "${process[$1]}"
}
ended() {
    local status=0
    # bash has a word to say about one that was killed.
    { wait "${process[$1]}"; } 2>/dev/null || status=$?
    unset "process[$1]"
    return "$status"
}
runs() {
    kill -0 "${process[$1]}" 2>/dev/null
}

# eventually COMMAND [ARG...]: until it says yes, with a generous deadline. Where nothing can be waited on.
eventually() {
    local deadline=$((SECONDS + 60))
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        read -r -t 0.02 <> <(:) || :
    done
}

# start_msd NAME [OPTION...]: it listens when this returns, and may be loading.
start_msd() {
    local one=$1
    shift
    start "$one" "$msd" --quiet --model "$one" --socket "$directory/$one.sock" --http "unix:$directory/$one.http" "$@"
    eventually listens "$one" && runs "$one" || { explain; return 1; }
}
listens() {
    ! runs "$1" || [ "$(code "$1" /-/live)" = 200 ]
}

# ask NAME PATH [OPTION...]: what is answered there.
ask() {
    curl -sS --max-time 60 --unix-socket "$directory/$1.http" "${@:3}" "http://msd$2"
}
code() {
    ask "$1" "$2" -o /dev/null -w '%{http_code}' "${@:3}" 2>/dev/null || true
}

# field NAME KEY: a number of the status object.
field() {
    ask "$1" /-/status 2>/dev/null | sed -n "s/.*\"$2\":\([0-9]*\).*/\1/p"
}
field_is() {
    [ "$(field "$1" "$2")" = "$3" ]
}
field_over() {
    local number
    number=$(field "$1" "$2") && [ -n "$number" ] && [ "$number" -gt "$3" ]
}
