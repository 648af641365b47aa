#!/bin/bash
# A model only when it is needed, and msd too: what is left is a socket, and no client that comes is lost.
set -euo pipefail
. tests/systemd/inside.sh

stopped() {
    until equal "$(property msd ActiveState)" inactive >/dev/null; do
        follow 'No client for'
    done
}

# The start does not wait for a model.
options --load demand --load-time 1h
check 'it starts without a load' timeout 60 systemctl start msd
check 'the status says so' equal "$(property msd StatusText)" 'Idle: the next request loads sim'
check 'a client sees it' grep -q '"status":"idle"' <(mscli status --json)
systemctl stop msd

# First the model ends, then msd, and the next client has both again.
options --load demand --load-time 100ms --inference-time 0 --idle-timeout 100ms --exit-idle-time 300ms
systemctl start msd.socket
for round in 1 2 3; do
    check "the socket starts it for request $round" equal "$(mscli request "$round")" "Response $round from sim"
    check 'it ends' stopped
done
check 'with success' equal "$(property msd Result) $(property msd NRestarts)" 'success 0'
check 'the socket is still there' equal "$(property msd.socket SubState)" listening
check 'the model was stopped before' [ "$(journalctl -u msd -o cat | grep -c 'Stopping the model')" -ge 3 ]

# Clients that come at any moment, also while it ends.
options --load demand --load-time 0 --inference-time 0 --idle-timeout 20ms --exit-idle-time 200ms
before=$(journalctl -u msd -o cat | grep -c 'No client for')
storm() {
    for i in $(seq 50); do
        mscli request "$i"
        read -t "0.$((RANDOM % 20 + 15))" -r _ <&"$never" || true
    done
}
exec {never}<> <(:)
check 'of 50 requests none is lost' equal "$(storm | grep -c '^Response ')" 50
ended=$(($(journalctl -u msd -o cat | grep -c 'No client for') - before))
check "it ended often meanwhile: $ended times" [ "$ended" -ge 10 ]
finish
