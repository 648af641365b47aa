#!/bin/bash
# The system tests pass with every restriction of msd.service in force: they run in services that have them all.
set -euo pipefail
. tests/systemd/inside.sh

# The [Service] section as it was installed, but for what makes it the service msd: what it runs, how it is started again,
# what it is watched and waited for.
{
    echo '[Service]'
    sed -n '/^\[Service\]/,/^\[Install\]/p' /run/systemd/system/msd.service |
        grep -vE '^\[|^#|^$|^(Type|EnvironmentFile|ExecStart|WatchdogSec|Restart.*|FileDescriptorStoreMax|User)='
    # A call that is refused kills, for a library may do without it and say nothing. ptrace(2) is for the tests themselves.
    echo 'SystemCallErrorNumber=kill'
    echo 'SystemCallFilter=ptrace'
    echo 'Type=oneshot'
    echo 'TimeoutStartSec=4min'
    echo "WorkingDirectory=$PWD"
    # The checkout may be in somebody's home, which is out of sight.
    echo "BindReadOnlyPaths=$PWD"
    echo "Environment=MSD=/run/usr/sbin/msd MSCLI=/run/usr/bin/mscli BUILD=$build"
    echo "ExecStart=$PWD/$build/tests/system/%i"
    echo 'StandardOutput=append:/run/%i.output'
    echo 'StandardError=inherit'
} >/run/systemd/system/hardened@.service
systemctl daemon-reload

# Of what counts for the exposure nothing was left out.
mkdir /run/analysis
sed 's/^ExecStart=.*/ExecStart=\/run\/usr\/sbin\/msd/; /^BindReadOnlyPaths/d; /=ptrace$/d; s/^Type=.*/Type=notify/' \
    /run/systemd/system/hardened@.service >/run/analysis/hardened.service
exposure() {
    systemd-analyze security --offline=yes --no-pager "$1" 2>/dev/null | sed -n 's/.*exposure level for [^:]*: //p'
}
check 'they are all there' \
    equal "$(exposure /run/analysis/hardened.service)" "$(exposure /run/systemd/system/msd.service)"

run() {
    systemctl start "hardened@$1" 2>/dev/null || { cat "/run/$1.output"; false; }
}
export -f run
for program in "$build"/tests/system/*; do
    [[ ! -x $program ]] || echo "${program##*/}"
done >/run/programs
# Two at a time, as many as other tests leave room for.
xargs -a /run/programs -P 2 -I '{}' bash -c 'run {} || touch /run/{}.failed'
while read -r program; do
    check "$program passes" [ ! -e "/run/$program.failed" ]
    [ ! -e "/run/$program.failed" ] || cat "/run/$program.output"
done </run/programs
check 'there were some' [ "$checks" -gt 5 ]
finish
