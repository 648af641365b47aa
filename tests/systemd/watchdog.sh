#!/bin/bash
# A daemon that does not turn any more is started again.
set -euo pipefail
. tests/systemd/inside.sh

drop_in WatchdogSec=1s
options --load-time 0
systemctl start msd
pid=$(property msd MainPID)
# Time in which it would have been killed, if it did not say that it lives.
check 'the watchdog is heard' eval 'timeout 3 tail --pid="$pid" -f /dev/null; [ $? = 124 ]'
check 'it was not started again' equal "$(property msd NRestarts)" 0
kill -STOP "$pid"
check 'a daemon that was stopped is killed' timeout 60 tail --pid="$pid" -f /dev/null
follow 'Scheduled restart job'
check 'and started again' equal "$(mscli request 7)" 'Response 7 from sim'
check 'once' equal "$(property msd NRestarts)" 1
check 'by another process' [ "$(property msd MainPID)" != "$pid" ]
finish
