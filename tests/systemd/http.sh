#!/bin/bash
# HTTP for a daemon that has no network: the service manager has the socket, and keeps it.
set -euo pipefail
. tests/systemd/inside.sh
command -v curl >/dev/null || { echo 'SKIP: http: curl is not installed'; exit 0; }
ip=127.0.0.1:8080

ask() {
    curl -sS --max-time 60 "http://$ip$1" "${@:2}"
}
code() {
    ask "$1" -o /dev/null -w '%{http_code}' "${@:2}"
}
waiting() {
    [[ $(ask /-/status) == *"\"waiting\":$1,"* ]]
}
until_so() {
    timeout 60 bash -c "$(declare -f ask waiting); ip=$ip; until $*; do :; done"
}

options --load-time 1s
systemctl start msd-http.socket
check 'msd does not run yet' equal "$(property msd ActiveState)" inactive
check 'a request over HTTP starts it, waits, and is answered' \
    grep -q 'Response mine from sim' <(ask /v1/completions -d '{}' -H 'X-Request-Id: mine')
check 'it is ready then' equal "$(code /-/ready)" 200
check 'its request socket is there too' equal "$(mscli --socket /run/msd/msd.sock request 8)" 'Response 8 from sim'
check 'whoever is on the machine may use it' \
    equal "$(setpriv --reuid 4711 --regid 4711 --clear-groups curl -sS --max-time 60 "http://$ip/-/live")" ok
pid=$(property msd MainPID)
check 'it sees no network but what it was given' \
    eval '! [ "$(readlink /proc/$pid/ns/net)" = "$(readlink /proc/self/ns/net)" ]'

# A restart: what is in flight finishes; what waits, and who comes meanwhile, is answered by the next process.
options --load-time 0 --inference-time 2s
systemctl restart msd
ask /v1/completions -d '{}' -H 'X-Request-Id: flying' >/run/flying &
flying=$!
until_so '[[ $(ask /-/status) == *"\"processing\":1,"* ]]'
options --load-time 500ms --inference-time 0
systemctl restart msd --no-block
timeout 60 bash -c 'until [ "$(journalctl --no-pager -o cat | grep -c "Handing over")" = 2 ]; do :; done'
answer=$(ask /v1/completions -d '{}' -H 'X-Request-Id: next')
check 'who comes at a restart is answered by the next process' grep -q 'Response next from sim' <<<"$answer"
check 'what was in flight is finished' eval 'wait $flying && grep -q "Response flying from sim" /run/flying'
check 'it is another process' eval '[ "$(property msd MainPID)" != "$pid" ]'

options --load-time 1h
systemctl restart msd --no-block
until_so 'waiting 0 && [[ $(ask /-/status) == *loading* ]]'
ask /v1/completions -d '{}' -w '%{http_code}' >/run/left &
left=$!
until_so waiting 1
options --load-time 0
systemctl restart msd
check 'what waits over HTTP is answered by the next process' eval 'wait $left && grep -q "from sim.*200$" /run/left'
check 'and the next process answers' equal "$(code /v1/models)" 200
systemctl stop msd.service
check 'the socket stays' equal "$(property msd-http.socket ActiveState)" active
finish
