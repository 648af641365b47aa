#!/bin/bash
# Waiting requests outlive the daemon: killed, or started again, it loses none of them.
set -euo pipefail
. tests/systemd/inside.sh

# crowd N: so many clients connect and wait, in the background; `answered` waits for their answers.
crowd() {
    exec {crowd}< <(exec "$build/tests/systemd/crowd" /run/msd/msd.sock "$1")
    read -r line <&"$crowd"
    equal "$line" "$1 waiting"
}
answered() {
    read -t 100 -r line <&"$crowd" && exec {crowd}<&- && equal "$line" "$1 answered"
}

# Clients connect to what is there from here on.
systemctl start msd.socket
options --load-time 1h
systemctl start --no-block msd
check '10,000 wait' crowd 10000
systemctl kill -s KILL msd
follow 'Scheduled restart job'
check 'the next process has them' \
    eval 'until grep -q "\"waiting\":10000," < <(mscli status --json); do follow "Taken over from the process before"; done'
options --load-time 1s --inference-time 0
systemctl kill -s KILL msd
check 'all are answered after two kills' answered 10000
check 'nothing is kept then' eval 'until equal "$(property msd NFileDescriptorStore)" 0 >/dev/null; do mscli status >/dev/null; done'

# Started again while it loads.
options --load-time 1h
systemctl stop msd
systemctl start --no-block msd
check '1,000 wait' crowd 1000
options --load-time 200ms
check 'a restart during the load' systemctl restart msd
check 'all are answered' answered 1000

# Stopped while it loads: they are told, and nothing is kept.
options --load-time 1h
systemctl stop msd
systemctl start --no-block msd
exec {told}< <(mscli request 7 2>&1)
check 'one waits' eval 'until grep -q "\"waiting\":1," < <(mscli status --json); do :; done'
systemctl stop msd
check 'it is told' grep -q 'Server is shutting down' <&"$told"

# Started again under a stream of requests, each of a client of its own.
options --load-time 100ms --inference-time 20ms
systemctl start msd
stream() {
    seq 400 | xargs -P 4 -I '{}' mscli request '{}' | wc -l
}
exec {streaming}< <(stream)
restarts=0
while ! read -t 0 -u "$streaming"; do
    systemctl restart msd
    restarts=$((restarts + 1))
done
read -r lines <&"$streaming"
check "of 400 requests none is lost in $restarts restarts" equal "$lines" 400
check 'there were some' [ "$restarts" -ge 3 ]
finish
