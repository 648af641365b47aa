#!/bin/bash
# The units are whole, and leave msd no more than it needs.
set -eu
build=${BUILD:-build}

command -v systemd-analyze >/dev/null || { echo "SKIP: units: systemd is not installed"; exit 0; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
unset MAKEFLAGS MFLAGS MAKELEVEL
mkdir "$root/build"
cp "$build/msd" "$build/mscli" "$root/build/"
make -s install BUILD="$root/build" -o "$root/build/msd" -o "$root/build/mscli" DESTDIR= PREFIX="$root" >/dev/null
units=$root/lib/systemd/system

# It has a word to say about units of the machine too.
said=$(systemd-analyze verify --man=no --recursive-errors=no \
    "$units"/msd.{service,socket} "$units"/msd-http.socket "$units"/msd-agent.socket "$units"/msd@one.{service,socket} 2>&1 | grep -F msd || true)
[ -z "$said" ] || { echo "$said"; exit 1; }

# 0.6 is 6 here: the full hardening.
for unit in msd.service msd@.service; do
    systemd-analyze security --no-pager --offline=yes --threshold=6 "$units/$unit" >"$root/security" 2>&1 || {
        cat "$root/security"
        exit 1
    }
done

# An instance is the one daemon with another name: nothing else is different.
different=$(diff "$units/msd.service" "$units/msd@.service" | grep -c '^>')
[ "$different" = 7 ] || { diff "$units/msd.service" "$units/msd@.service"; exit 1; }
