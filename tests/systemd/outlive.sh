#!/bin/bash
# A model server that is a unit of its own outlives msd: with 100 requests a second msd is killed, restarted and replaced
# without a further load, and the model is restarted and killed without a lost request.
set -euo pipefail
. tests/systemd/inside.sh
http=/run/msd/http.sock

# The examples as they are, but for the server: it has the tests' own one, with its options.
groupadd --system llama
conf=/run/systemd/system/msd.service.d/llama-server.conf
unit=/run/systemd/system/llama-server.service
install -m 644 systemd/examples/llama-server.service $unit
install -m 644 systemd/examples/llama-server.conf $conf
install -m 755 "$build/tests/upstream/server" /run/usr/bin/
mkdir -p /run/systemd/system/llama-server.service.d /run/systemd/system/msd-http.socket.d
model() {
    printf '%s\n' '[Unit]' 'StartLimitIntervalSec=0' '[Service]' 'ExecStart=' "ExecStart=/run/usr/bin/server $*" \
        >/run/systemd/system/llama-server.service.d/test.conf
    systemctl daemon-reload
}
socket="--socket /run/llama/llama.sock"
model $socket --load 300ms --think 20ms
printf '%s\n' '[Socket]' 'ListenStream=' "ListenStream=$http" >/run/systemd/system/msd-http.socket.d/test.conf
systemctl daemon-reload

# loads N: so many times the model was loaded.
loads() {
    journalctl --sync
    equal "$(journalctl -u llama-server -o cat --no-pager | grep -cx 'upstream: loading')" "$1"
}
pid() {
    property msd MainPID
}
# tell COMMAND: one for the clients. Its answer is in $answer.
tell() {
    echo "$1" >&"${clients[1]}"
    read -r -t 180 answer <&"${clients[0]}"
}
settled() {
    tell settle && [[ $answer == *settled ]]
}
# At once: kills the process that is the main one.
killed() {
    tell "kill $(pid)" && [[ $answer == $1 ]] || { echo "    $answer"; false; }
}
# another PID: the main process of msd is another one.
another() {
    until [ "$(pid)" != 0 ] && [ "$(pid)" != "$1" ]; do mscli status >/dev/null 2>&1 || true; done
}

check 'systemd has no complaint about the units' \
    equal "$(systemd-analyze verify --man=no --recursive-errors=no llama-server.service msd.service 2>&1 |
        grep -E 'llama|msd' || true)" ''

# msd is there before the model.
systemctl start msd.socket msd-http.socket
systemctl start --no-block msd
coproc clients { exec "$build/tests/systemd/steady" 100 /run/msd/msd.sock "$http"; }
clients_pid=$clients_PID
check 'requests wait for a model that does not run' \
    eval 'until grep -qE "\"waiting\":[1-9][0-9]+," < <(mscli status --json); do :; done'
check 'it is not started by them' loads 0
first=$(pid)
check 'killed before the model was there, msd loses no waiting request' killed '0 in flight, *'
another "$first"
check 'the model starts' systemctl start llama-server
check 'all requests are answered then' settled
check 'members of its group connect to it, others do not' \
    equal "$(stat -c '%a %G' /run/llama/llama.sock /run/llama | tr '\n' ' ')" '770 llama 750 llama '

# The model stays, whatever becomes of msd.
for round in {1..3}; do
    first=$(pid)
    check "kill $round of a ready msd" killed '*[0-9] in flight, 0 waiting'
    another "$first"
    check 'the next process answers' settled
    check "restart $round of msd" systemctl restart msd
    check 'the next process answers' settled
done
install -m 755 "$build/msd" /run/usr/sbin/msd.new
mv /run/usr/sbin/msd.new /run/usr/sbin/msd
first=$(pid)
systemctl restart msd
check 'another program took over' \
    eval '[ "$(pid)" != "$first" ] && [ "$(stat -Lc %i "/proc/$(pid)/exe")" = "$(stat -c %i /run/usr/sbin/msd)" ]'
check 'and answers' settled
check 'the model was loaded once' loads 1

# msd stays, whatever becomes of the model.
first=$(pid)
for round in {1..3}; do
    check "restart $round of the model" systemctl restart llama-server
    check 'all requests are answered' settled
done
check 'each was a load' loads 4
systemctl kill -s KILL llama-server
check 'all requests are answered by a model that was killed and started again' settled
check 'it was loaded again' loads 5
check 'msd ran all the time' equal "$(pid)" "$first"

# Both.
systemctl stop llama-server
check 'the socket has gone with the model' [ ! -e /run/llama ]
check 'msd stays' equal "$(property msd ActiveState)" active
check 'requests wait' eval 'until grep -qE "\"waiting\":[1-9][0-9]+," < <(mscli status --json); do :; done'
check 'msd is killed while they wait' killed '0 in flight, *'
another "$first"
systemctl restart --no-block msd
systemctl start llama-server
check 'all requests are answered' settled

# No request failed, and none got no answer, but for those in flight at a kill of msd.
tell end || answer=
check 'the clients have ended' wait "$clients_pid"
pattern='^([0-9]+) sent, ([0-9]+) answered, 0 failed, 0 lost, ([0-9]+) broken$'
check 'each request that was not in flight at a kill of msd is answered' \
    eval '[[ $answer =~ $pattern ]] || { echo "    $answer"; false; }'
check 'all are accounted for' [ "${BASH_REMATCH[1]:-0}" = $((${BASH_REMATCH[2]:-1} + ${BASH_REMATCH[3]:-0})) ]
check 'there were many' [ "${BASH_REMATCH[1]:-0}" -ge 500 ]

# When both are stopped, msd is first, and the model is there for what is in flight.
model $socket --think 1s
systemctl restart llama-server
check 'the model answers' equal "$(mscli request 6 --prompt first)" 'echo first'
exec {told}< <(mscli request 7 --prompt last 2>&1)
check 'one is in flight' eval 'until grep -q "\"processing\":1," < <(mscli status --json); do :; done'
systemctl stop msd.socket msd-http.socket msd llama-server
check 'it is answered' grep -q 'echo last' <&"$told"

# A server on TCP, with the lines for it. msd is the first to start again.
sed -i 's/^# \(JoinsNamespaceOf\|RestrictAddressFamilies\|IPAddressAllow\)=/\1=/' $conf $unit
options --upstream http://127.0.0.1:8001
model --port 8001
systemctl start msd.socket
systemctl start --no-block msd
systemctl start llama-server
check 'msd reaches a server on a loopback of its own' equal "$(mscli request 7 --prompt there)" 'echo there'
check 'which others do not' eval '! curl -s http://127.0.0.1:8001/health'
systemctl restart llama-server
check 'also after a restart of the server' equal "$(mscli request 7 --prompt again)" 'echo again'
finish
