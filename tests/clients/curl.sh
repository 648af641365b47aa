#!/bin/bash
# curl(1) against msd: what anybody tries first. Over a Unix socket, so that it needs no network.
set -uo pipefail

msd=$(realpath "${MSD:-build/msd}") server=$(realpath "${BUILD:-build}/tests/upstream/server")
checks=0 failures=0 pid=

command -v curl >/dev/null || { echo 'SKIP: curl: it is not installed'; exit 0; }

directory=$(mktemp -d /tmp/msd-curl-XXXXXX)
socket=$directory/http.sock

end() {
    [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null
    rm -rf "$directory"
}
trap end EXIT

# check WHAT COMMAND [ARG...]: COMMAND says yes.
check() {
    local what=$1
    shift
    checks=$((checks + 1))
    if ! "$@"; then
        failures=$((failures + 1))
        printf 'not so: %s\n    %s\n' "$what" "$*"
    fi
}

# equal A B
equal() {
    [ "$1" = "$2" ] || { printf '    "%s" is not "%s"\n' "$1" "$2"; return 1; }
}

# has TEXT PART
has() {
    [[ $1 == *"$2"* ]] || { printf '    "%s" is not in "%s"\n' "$2" "$1"; return 1; }
}

# start OPTION...: an msd, from when it listens for HTTP on.
start() {
    exec {errors}< <(exec "$msd" --socket "$directory/msd.sock" --http "unix:$socket" "$@" 2>&1 >/dev/null)
    pid=$!
    while read -t 60 -r line <&"$errors" && [[ $line != *'Listening for HTTP'* ]]; do :; done
}

# follow TEXT: waits until standard error has it.
follow() {
    while read -t 60 -r line <&"$errors"; do
        [[ $line != *"$1"* ]] || return 0
    done
    return 1
}

stop() {
    kill -TERM "$pid"
    timeout 60 tail --pid="$pid" -f /dev/null
    pid=
    exec {errors}<&-
}

ask() {
    timeout 60 curl -sS --unix-socket "$socket" "$@"
}

status() {
    ask http://msd/-/status
}

# until_status TEXT: asks until it says so.
until_status() {
    local deadline=$((SECONDS + 60))
    until [[ $(status) == *"$1"* ]]; do
        [ $SECONDS -lt $deadline ] || return 1
    done
}

chat='{"model":"any","messages":[{"role":"user","content":"hello"}]}'
stream='{"model":"any","stream":true,"messages":[{"role":"user","content":"hello"}]}'
url=http://msd/v1/chat/completions

# While it loads.
start --load-time 2s --inference-time 0
check 'it is alive' equal "$(ask http://msd/-/live)" ok
check 'it is not ready' equal "$(ask -o "$directory/body" -w '%{http_code} %{header_json}' http://msd/health | head -c 3)" 503
exec {whole}< <(ask -d "$chat" -H 'X-Request-Id: mine' $url)
exec {streamed}< <(ask -N -d "$stream" $url)
exec {waits}< <(ask -w '%{http_code}' http://msd/-/wait)
exec {gone}< <(exec curl -sS --unix-socket "$socket" -d "$chat" $url)
check 'they wait' until_status '"waiting":3'
kill $!
check 'one that goes is cancelled' until_status '"cancelled":1'
exec {gone}<&-
check 'the whole answer comes' has "$(cat <&"$whole")" '"content":"Response mine from sim"'
events=$(cat <&"$streamed")
check 'the stream comes' has "$events" 'data: {'
check 'to its end' has "$events" 'data: [DONE]'
check 'who waited for it hears that it is ready' equal "$(cat <&"$waits")" 204
check 'it is ready' equal "$(ask http://msd/health)" '{"status":"ok"}'
check 'a head alone' has "$(ask -I http://msd/v1/models)" '200'
check 'HTTP/1.0' has "$(ask -0 -d "$chat" $url)" 'chat.completion'
check 'a chunked body' has "$(printf %s "$chat" | ask -T - -X POST -H 'Transfer-Encoding: chunked' $url)" 'chat.completion'
check 'a body that is waited for' has "$(ask -v -H 'Expect: 100-continue' -d "$chat" $url 2>&1)" '100 Continue'
check 'one connection for all' \
    equal "$(ask -v -o /dev/null -o /dev/null -o /dev/null -d "$chat" $url $url $url 2>&1 | grep -ci 're-using existing')" 2
check 'the wrong path' equal "$(ask -o /dev/null -w '%{http_code}' http://msd/v1/nothing)" 404
check 'many at once' \
    equal "$(ask -Z --parallel-max 50 -d "$chat" "$url?[1-200]" 2>/dev/null | grep -o '"content":"Response http-[0-9]* from sim"' | sort -u | wc -l)" 200
stop

# Too large.
start --load-time 0 --max-body 1000000
head -c 3000000 /dev/zero >"$directory/large"
check 'too large a body, of which curl asks first' \
    equal "$(ask -o /dev/null -w '%{http_code} %{size_upload}' --expect100-timeout 60 -H 'Expect: 100-continue' --data-binary @"$directory/large" $url)" '413 0'
check 'too large a body, which it sends' \
    equal "$(ask -o /dev/null -w '%{http_code}' -H 'Expect:' --data-binary @"$directory/large" $url)" 413
stop

# A failure, and why.
start --load-time 0 --load-failure 'No such weights' --on-load-failure stay
check 'the reason' has "$(ask -d "$chat" $url)" '"message":"No such weights"'
check 'the status' equal "$(ask -o /dev/null -f -w '%{http_code}' -d "$chat" $url 2>/dev/null)" 503
check 'when to come again' has "$(ask -D - -o /dev/null -d "$chat" $url)" 'Retry-After: '
stop

# A model server.
start --upstream "unix:$directory/up.sock" -- "$server" --socket "$directory/up.sock" --load 500ms --think 20ms
check 'the answer of the model server' has "$(ask -d "$chat" $url)" '"content":"echo hello"'
check 'its events' equal "$(ask -N -d "$stream" $url | grep -c '^data: {')" 10
check 'the request as it came' has "$(ask -X PATCH -H 'X-Own: 1' -d body 'http://there/echo?a')" '["X-Own","1"]'
ask -d "${stream/hello/cutstream}" $url >/dev/null 2>&1
check 'half a stream is an error' [ $? != 0 ]
exec {gone}< <(exec curl -sSN --unix-socket "$socket" -d "${stream/hello/$(printf 'x%.0s' {1..500})}" $url)
read -r line <&"$gone"
check 'it has begun' has "$line" 'data: {'
kill $!
check 'a stream that nobody reads is cancelled there' follow 'upstream: cancelled'
stop

echo "$((100 * (checks - failures) / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
exit $((failures > 0))
