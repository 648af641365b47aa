#!/bin/bash
# HAProxy with the example's configuration over two msd: clients hear nothing of a machine that dies, loads or stops.
set -euo pipefail
. tests/balancers/start.sh
needs haproxy haproxy
needs curl curl

# The example but for its addresses.
example=systemd/examples/haproxy.cfg
sed -e "s|10\.0\.0\.1:8080|unix@$directory/one.http|; s|10\.0\.0\.2:8080|unix@$directory/two.http|" \
    -e "s|bind :8000|bind unix@$directory/front.http|" $example >"$directory/haproxy.cfg"
# What the example leaves to Debian's file, and a look at what HAProxy thinks of the machines.
cat >"$directory/test.cfg" <<CFG
global
    log stderr format raw local0
defaults
    mode http
    timeout client 10s
frontend watch
    bind unix@$directory/watch.http
    http-request return content-type text/plain lf-string "one:%[srv_is_up(alive/one)] two:%[srv_is_up(alive/two)]" if { path /there }
    http-request return content-type text/plain lf-string "one:%[srv_is_up(msd/one)] two:%[srv_is_up(msd/two)]"
CFG
check 'the addresses are those of the test' eval '! grep -v "^ *#" "$directory/haproxy.cfg" | grep -E "[0-9]+\.[0-9]|:[0-9]"'
for first in "$directory/test.cfg" /etc/haproxy/haproxy.cfg; do
    [ -r "$first" ] || continue
    check "HAProxy has nothing against it behind $first" \
        equal "$(haproxy -c -f "$first" -f $example 2>&1 | grep -vE '\[NOTICE\]|^$')" 'Configuration file is valid'
done

# Who is ready, and who is there at all.
sees() {
    [ "$(ask watch /)" = "$1" ]
}
sees_there() {
    [ "$(ask watch /there)" = "$1" ]
}

# Eight clients, and one request after the other, as long as the test has not had enough.
printf '{"model":"any","prompt":"%s"}' "$(printf 'word %.0s' {1..60000})" >"$directory/prompt"
clients() {
    local round
    for round in {1..1000}; do
        [ ! -e "$directory/enough" ] || break
        ask front "/v1/completions?round=$round&request=[1-40]" --no-progress-meter --parallel --parallel-max 8 --json "@$directory/prompt" \
            -o "$directory/answers/$round-#1" -w 'HTTP %{http_code}\n' || echo "curl: $?"
    done
}

# joins NAME OTHER: while NAME loads nothing comes to it, then it is answering like the other one.
joins() {
    local status
    while :; do
        status=$(ask "$1" /-/status)
        [[ $status == *'"status":"loading"'* ]] || break
        [[ $status == *'"waiting":0,'*'"processing":0,"completed":0,'* ]] || { echo "$status"; return 1; }
    done
    eventually sees 'one:1 two:1' && eventually field_over "$1" completed 10
}
start_msd one --load-time 300ms --inference-time 20ms
start_msd two --load-time 300ms --inference-time 20ms
start haproxy haproxy -db -f "$directory/test.cfg" -f "$directory/haproxy.cfg"
eventually sees 'one:1 two:1'
mkdir "$directory/answers"
start clients clients

check 'both answer' eventually field_over one completed 10
check 'both answer' eventually field_over two completed 10

stop one KILL
check 'one is killed' eval '! ended one'
# A daemon that is back sooner than HAProxy looks was never gone: what comes to it waits.
check 'HAProxy sees it go' eventually sees 'one:0 two:1'
start_msd one --load-time 1500ms --inference-time 20ms
check 'one gets nothing while it loads, and joins then' joins one

stop two TERM
check 'two stops' ended two
check 'HAProxy sees it go' eventually sees 'one:1 two:0'
start_msd two --load-time 500ms --inference-time 1s
check 'two gets nothing while it loads, and joins then' joins two
eventually field_over two processing 0
stop two TERM
check 'HAProxy sees it go' eventually sees 'one:1 two:0'
check 'while it still runs' runs two
check 'it has finished' ended two

touch "$directory/enough"
check 'the clients end' ended clients
asked=$(grep -c ^HTTP "$directory/clients.log")
check "of $asked requests none has failed" equal "$(grep -cvx 'HTTP 200' "$directory/clients.log")" 0
check 'there were some' [ "$asked" -gt 100 ]
check 'each has the answer of a machine' \
    equal "$(grep -lE 'Response [^ ]+ from (one|two)' "$directory"/answers/* | wc -l)" "$asked"
check 'what concerns one machine is not asked here' equal "$(code front /-/status)" 404

# Nobody is ready: what comes waits where a model loads.
start_msd two --load-time 3s
stop one KILL
check 'one is killed' eval '! ended one'
check 'HAProxy sees where nobody is' eventually sees_there 'one:0 two:1'
check 'nobody is ready' eventually sees 'one:0 two:0'
check 'a request waits for two' grep -q 'Response [^ ]* from two' <(ask front /v1/completions --json '{}')

# A client that goes takes its request along.
stop two KILL
ended two || true
start_msd one --load-time 1h
check 'one is there and loads' eventually sees_there 'one:1 two:0'
check 'a client gives up' eval '! ask front /v1/completions --json "{}" --max-time 1 2>/dev/null'
check 'its request goes with it' eventually field_is one cancelled 1
check 'nothing waits then' field_is one waiting 0

# Where it fails everywhere, clients hear why.
stop one TERM
ended one || true
start_msd one --load-time 0 --load-failure 'no such weights' --on-load-failure stay
eventually field_is one generation 1
eventually sees_there 'one:1 two:0'
start told ask front /v1/completions --json '{"prompt":"words"}' -w '%{http_code}\n'
ended told || true
check 'clients hear why a load failed' grep -q 'no such weights.*503$' "$directory/told.log"
finish
