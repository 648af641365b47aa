#!/bin/bash
# systemctl start returns when the model is ready, and not before; and says so when it never will be.
set -euo pipefail
. tests/systemd/inside.sh

options --load-time 1500ms
began=$(milliseconds)
check 'it starts' systemctl start msd
check 'it starts when the load is over' [ $(($(milliseconds) - began)) -ge 1500 ]
check 'the model is ready then' grep -q '"status":"ready"' <(mscli status --json)
check 'the status line says so' grep -qE '^Ready: sim was loaded in 1\.5[0-9]*s$' <(property msd StatusText)
check 'it stops' systemctl stop msd
check 'it has stopped as asked' equal "$(property msd Result) $(property msd ExecMainStatus)" 'success 0'

# Nobody has to guess how long a load takes.
drop_in TimeoutStartSec=1
options --load-time 3s
check 'a load of 3 s starts within a time-out of 1 s' systemctl start msd
check 'it was not started twice' equal "$(property msd NRestarts)" 0
systemctl stop msd
# Nor a stop.
drop_in TimeoutStopSec=1
options --load-time 0 --inference-time 3s
systemctl start msd
exec {answers}< <(mscli request 7)
follow 'Processing request 7'
check 'it stops within a time-out of 1 s' systemctl stop msd
read -r answer <&"$answers"
check 'what was in flight was answered' equal "$answer" 'Response 7 from sim'
check 'it was not killed' equal "$(property msd Result)" success

# A failure, and why.
drop_in Restart=no
options '--load-time 500ms --load-failure no_such_weights'
began=$(milliseconds)
check 'it does not start' eval '! systemctl start msd 2>/dev/null'
check 'it fails when the load does' [ $(($(milliseconds) - began)) -lt 5000 ]
check 'the status says why' equal "$(property msd StatusText)" 'Loading failed: no_such_weights'
check 'systemctl status shows it' grep -q 'Status: "Loading failed: no_such_weights"' <(systemctl status msd)
check 'the journal has it as an error' grep -q 'Loading failed: no_such_weights' <(journalctl -u msd -p err -o cat)
check 'and nothing else' equal "$(journalctl _SYSTEMD_UNIT=msd.service -p err -o cat | grep -vc no_such_weights)" 0
check 'errno is that of the kind' equal "$(property msd StatusErrno)" 5

# One that is tried again is a warning.
options '--load-time 0 --load-failure no_such_weights --load-attempts 2'
check 'it does not start' eval '! systemctl start msd 2>/dev/null'
check 'the first failure is a warning' grep -q 'attempt 2 of 2' <(journalctl -u msd -p warning..warning -o cat)
drop_in
systemctl reset-failed msd

# Wrong usage is not tried again.
options --no-such-option
check 'it does not start' eval '! systemctl start msd 2>/dev/null'
check 'it exits with 2' equal "$(property msd ExecMainStatus)" 2
check 'it is not tried again' equal "$(property msd SubState) $(property msd NRestarts)" 'failed 0'
check 'the status says why' grep -q no-such-option <(property msd StatusText)
finish
