#!/bin/bash
# HAProxy with the example's configuration over two msd: clients hear nothing of a machine that dies, loads or stops.
set -euo pipefail
. tests/balancers/start.sh
needs haproxy haproxy
needs curl curl

# An agent-check has an address of IP: a port that nobody has, below those that the kernel hands out.
free_port() {
    local port
    for port in $(shuf -i 10000-32000 -n 100); do
        [[ $port == "${ports[0]-}" ]] || { : <>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || break
    done
    echo "$port"
}
ports=("$(free_port)")
ports+=("$(free_port)")
start_one() {
    start_msd one --agent-check "127.0.0.1:${ports[0]}" "$@"
}
start_two() {
    start_msd two --agent-check "127.0.0.1:${ports[1]}" "$@"
}

# The example but for its addresses.
example=systemd/examples/haproxy.cfg
sed -e "/10\.0\.0\.1:/s|agent-port 8081|agent-addr 127.0.0.1 agent-port ${ports[0]}|" \
    -e "/10\.0\.0\.2:/s|agent-port 8081|agent-addr 127.0.0.1 agent-port ${ports[1]}|" -e "s|10\.0\.0\.1:8080|unix@$directory/one.http|; s|10\.0\.0\.2:8080|unix@$directory/two.http|" \
    -e "s|bind :8000|bind unix@$directory/front.http|" $example >"$directory/haproxy.cfg"
# What the example leaves to Debian's file, and a look at what HAProxy thinks of the machines.
cat >"$directory/test.cfg" <<CFG
global
    log stderr format raw local0
defaults
    mode http
    timeout client 10s
    timeout connect 10s
    timeout server 10s
# What the agent-checks alone say, less often than in the example.
backend agents
    server one unix@$directory/one.http agent-check agent-addr 127.0.0.1 agent-port ${ports[0]} agent-inter 2s check inter 1h
    server two unix@$directory/two.http agent-check agent-addr 127.0.0.1 agent-port ${ports[1]} agent-inter 2s check inter 1h
frontend watch
    bind unix@$directory/watch.http
    stats enable
    stats uri /stats
    http-request return content-type text/plain lf-string "one:%[srv_is_up(alive/one)] two:%[srv_is_up(alive/two)]" if { path /there }
    http-request return content-type text/plain lf-string "one:%[srv_is_up(msd/one)] two:%[srv_is_up(msd/two)]" unless { path_beg /stats }
CFG
check 'the addresses are those of the test' eval '! grep -v "^ *#" "$directory/haproxy.cfg" | sed "s/agent-addr 127.0.0.1//" | grep -E "[0-9]+\.[0-9]|:[0-9]"'
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

# state BACKEND SERVER: what HAProxy thinks of it, and why; its weight.
stats() {
    ask watch '/stats;csv' | awk -F, -v backend="$1" -v server="$2" -v column="$3" \
        'NR == 1 { sub(/^# /, ""); for (i = 1; i <= NF; i++) at[$i] = i } $1 == backend && $2 == server { print $at[column] }'
}
state_is() {
    [[ $(stats "$1" "$2" status) == "$3"* ]]
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
start_one --load-time 300ms --inference-time 20ms
start_two --load-time 300ms --inference-time 20ms
start haproxy haproxy -db -f "$directory/test.cfg" -f "$directory/haproxy.cfg"
eventually sees 'one:1 two:1'
mkdir "$directory/answers"
start clients clients

check 'both answer' eventually field_over one completed 10
check 'both answer' eventually field_over two completed 10
check 'both say that they are up' eventually state_is agents one UP
check 'both say that they are up' eventually state_is agents two UP

stop one KILL
check 'one is killed' eval '! ended one'
# A daemon that is back sooner than HAProxy looks was never gone: what comes to it waits.
check 'HAProxy sees it go' eventually sees 'one:0 two:1'
start_one --load-time 1500ms --inference-time 20ms
check 'one gets nothing while it loads, and joins then' joins one

stop two TERM
check 'two stops' ended two
check 'HAProxy sees it go' eventually sees 'one:1 two:0'
start_two --load-time 500ms --inference-time 4s
check 'two gets nothing while it loads, and joins then' joins two
eventually field_over two processing 0
check 'the agent says that two is up' eventually state_is agents two UP
begun=${EPOCHREALTIME/./}
stop two TERM
check 'HAProxy hears of the stop' eventually state_is agents two DRAIN
took=$(((${EPOCHREALTIME/./} - begun) / 1000))
check "within one interval of its agent-check, 2000 ms, and what the look takes: it took $took ms" [ "$took" -lt 3000 ]
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
start_two --load-time 3s
stop one KILL
check 'one is killed' eval '! ended one'
check 'HAProxy sees where nobody is' eventually sees_there 'one:0 two:1'
check 'nobody is ready' eventually sees 'one:0 two:0'
check 'a request waits for two' grep -q 'Response [^ ]* from two' <(ask front /v1/completions --json '{}')

# A client that goes takes its request along.
stop two KILL
ended two || true
start_one --load-time 1h
check 'one is there and loads' eventually sees_there 'one:1 two:0'
check 'a client gives up' eval '! ask front /v1/completions --json "{}" --max-time 1 2>/dev/null'
check 'its request goes with it' eventually field_is one cancelled 1
check 'nothing waits then' field_is one waiting 0

# Where it fails everywhere, clients hear why.
stop one TERM
ended one || true
start_one --load-time 0 --load-failure 'no such weights' --on-load-failure stay
eventually field_is one generation 1
eventually sees_there 'one:1 two:0'
start told ask front /v1/completions --json '{"prompt":"words"}' -w '%{http_code}\n'
ended told || true
check 'clients hear why a load failed' grep -q 'no such weights.*503$' "$directory/told.log"
finish
