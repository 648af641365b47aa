#!/bin/bash
# What the example tells Kubernetes of msd is so: each probe's path is answered as it is meant to be, in each state.
set -euo pipefail
. tests/balancers/start.sh
needs curl curl
example=systemd/examples/kubernetes.yaml

# The probes, as NAME PATH PORT; of the port, its name and number.
probes=$(awk '$1 ~ /Probe:$/ { name = $1 } $1 == "path:" { path = $2 } $1 == "port:" && name { print name, path, $2; name = "" }' $example)
check 'there are three probes' equal "$(wc -l <<<"$probes")" 3
check 'each asks at the port of the container' equal "$(cut -d' ' -f3 <<<"$probes" | sort -u)" "$(awk '$2 == "name:" && $3 == "http" { print $3; exit }' $example)"
port=$(awk '$1 == "containerPort:" { print $2 }' $example)
check 'at which msd listens' grep -q -- "- --http=\*:$port\$" $example
check 'and which the service has' grep -q 'targetPort: http$' $example
path() {
    awk -v name="$1:" '$1 == name { print $2 }' <<<"$probes"
}
# seconds KEY: of the manifest.
seconds() {
    sed -n "s/^ *\(- --\)\?$1[:=] *\([0-9]*\)s\?\$/\2/p" $example
}
check 'there is time for all of a stop' \
    [ "$(seconds terminationGracePeriodSeconds)" -ge $(($(seconds drain-timeout) + 5 + 5)) ]
check 'the options are those of msd' eval '! timeout 5 "$msd" --help | grep -q "no such" &&
    for option in $(sed -n "s/^ *- \(--[a-z-]\+\)=.*/\1/p" $example | head -n 4); do "$msd" --help | grep -q -- "$option" || exit 1; done'

# answers NAME CODE: kubelet takes 200 to 399 for a success.
answers() {
    check "$1 while the model is $state" equal "$(code one "$(path "$1")")" "$2"
}
start_msd one --load-time 1h
state=loading
answers startupProbe 200
answers livenessProbe 200
answers readinessProbe 503
stop one KILL
ended one || true

start_msd one --load-time 0 --inference-time 2s
eventually equal "$(code one /-/wait)" 204
state=ready
answers startupProbe 200
answers livenessProbe 200
answers readinessProbe 200

start flying ask one /v1/completions --json '{}' -w '%{http_code}'
check 'a request is in flight' eventually field_is one processing 1
stop one TERM
check 'it is not ready from SIGTERM on' eventually eval '[ "$(code one "$(path readinessProbe)")" = 503 ]'
state=stopping
answers livenessProbe 200
ended flying || true
check 'what is in flight is finished' grep -q '200$' "$directory/flying.log"
check 'then it ends' ended one

start_msd one --load-time 0 --load-failure 'no such weights' --on-load-failure stay
state=failed
check 'it is not ready' eventually eval '[ "$(code one "$(path readinessProbe)")" = 503 ]'
answers livenessProbe 200
stop one TERM
ended one || true
check 'a load that fails ends the container' eval '! "$msd" --socket "$directory/two.sock" --load-time 0 --load-failure x 2>/dev/null >&2'
finish
