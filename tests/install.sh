#!/bin/bash
# What "make install" puts into place works, and "make uninstall" takes all of it away again.
set -eu
build=${BUILD:-build}

command -v scdoc >/dev/null || { echo "SKIP: installation: scdoc is not installed"; exit 0; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# Not the flags of the make that runs this.
unset MAKEFLAGS MFLAGS MAKELEVEL
export DESTDIR=$root/dest PREFIX=/opt/msd UNITDIR=/units SYSUSERSDIR=/sysusers MANDIR=/man

# What was built is what is installed: nothing is compiled here.
make -s install BUILD="$build" -o "$build/msd" -o "$build/mscli" >/dev/null
for file in opt/msd/sbin/msd opt/msd/bin/mscli man/man8/msd.8 man/man7/msd-protocol.7 man/man1/mscli.1 \
    opt/msd/share/bash-completion/completions/msd opt/msd/share/bash-completion/completions/mscli \
    units/msd.service units/msd.socket units/msd@.service units/msd@.socket units/msd-http.socket units/msd-agent.socket sysusers/msd.conf \
    opt/msd/share/doc/msd/examples/gpu.conf; do
    [ -s "$DESTDIR/$file" ] || { echo "$file was not installed"; exit 1; }
done
# The units name what was installed, and are whole.
grep -qx 'ExecStart=/opt/msd/sbin/msd $MSD_OPTIONS' "$DESTDIR/units/msd.service" "$DESTDIR/units/msd@.service"
if grep -H '@[A-Z]*@' "$DESTDIR"/units/*; then exit 1; fi
"$DESTDIR/opt/msd/sbin/msd" --version | grep -q '^msd '
"$DESTDIR/opt/msd/bin/mscli" --version | grep -q '^mscli '
make -s uninstall BUILD="$build" >/dev/null
left=$(find "$DESTDIR" ! -type d)
[ -z "$left" ] || { echo "left behind: $left"; exit 1; }
