#!/bin/bash
# The socket is there before the daemon, and is for those whom it is for.
set -euo pipefail
. tests/systemd/inside.sh
export MSD_SOCKET=/run/msd/msd.sock

options --load-time 300ms
systemctl start msd.socket
check 'msd does not run yet' equal "$(property msd ActiveState)" inactive
check 'a request starts it, and is answered' equal "$(mscli request 7)" 'Response 7 from sim'
check 'it runs now' equal "$(property msd ActiveState)" active
systemctl stop msd
check 'its socket is still there' equal "$(property msd.socket ActiveState)" active
check 'and starts it again' equal "$(mscli request 8)" 'Response 8 from sim'

# Instances, each with options of its own.
mkdir -p /etc/msd
echo 'MSD_OPTIONS=--model llama --load-time 0' >/etc/msd/one.env
echo 'MSD_OPTIONS=--model qwen --load-time 0' >/etc/msd/two.env
systemctl start msd@one.socket msd@two
check 'one answers' equal "$(mscli --socket /run/msd/one.sock request 1)" 'Response 1 from llama'
check 'the other answers' equal "$(mscli --socket /run/msd/two.sock request 1)" 'Response 1 from qwen'
check 'one without options does not start' eval '! systemctl start msd@three 2>/dev/null'
check 'each is a user of its own' \
    eval '[ "$(stat -c %u /proc/$(property msd@one MainPID))" != "$(stat -c %u /proc/$(property msd@two MainPID))" ]'
systemctl stop msd@one.service msd@one.socket msd@two.service msd@two.socket
check 'a stop leaves the sockets of others alone' equal "$(mscli request 9)" 'Response 9 from sim'

# Who may do what. The user has no name here; the group has.
outside=(setpriv --reuid 4711 --regid 4711 --clear-groups)
inside=(setpriv --reuid 4711 --regid 4711 --groups "$(getent group msd | cut -d: -f3)")
message=$("${outside[@]}" mscli request 1 2>&1) && status=0 || status=$?
check 'a client outside the group is refused' equal "$status" 3
check 'and told why' grep -qi 'permission denied' <<<"$message"
check 'a client inside the group is served' equal "$("${inside[@]}" mscli request 1)" 'Response 1 from sim'
for command in load shutdown; do
    message=$("${inside[@]}" mscli "$command" 2>&1) && status=0 || status=$?
    check "$command is not for the group" equal "$status" 1
    check "and it is told so" grep -q 'is for root' <<<"$message"
done
check 'load is for root' mscli load
check 'the socket is for root and the group' \
    equal "$(stat -c '%a %U:%G %n' /run/msd/msd.sock /run/msd | tr '\n' ' ')" '660 root:msd /run/msd/msd.sock 755 root:root /run/msd '

# What the daemon may do, and others with it.
pid=$(property msd MainPID)
owner=$(stat -c %u "/proc/$pid")
check 'the daemon itself has no need of the socket' \
    eval '! setpriv --reuid "$owner" --regid "$owner" --clear-groups mscli status 2>/dev/null'
check 'it has no capability, and gets none' \
    equal "$(awk '/^(Cap...|NoNewPrivs|Seccomp):/ { printf "%s", $2 }' "/proc/$pid/status")" "$(printf '0%.0s' {1..80})12"
check 'nor does the group: no signals' eval '! "${inside[@]}" bash -c "kill -TERM $pid" 2>/dev/null'
check 'and no look at its environment' eval '! "${inside[@]}" cat "/proc/$pid/environ" 2>/dev/null'
check 'it is still there' [ "$(property msd MainPID)" = "$pid" ]
check 'shutdown is for root' mscli shutdown
check 'the daemon ends' timeout 60 tail --pid="$pid" -f /dev/null
finish
