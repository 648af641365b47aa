#!/bin/bash
# The system calls that msd makes, all its threads and its child up to execve(2), against SystemCallFilter= of its unit.
#
#   syscalls.sh         one of the tests: seconds, for "make check"
#   syscalls.sh full    every test that starts an msd, and tables of what is used and what is not
#
# A refused call may be one that a library does without, and no test fails: here each that is not allowed is an error.
set -euo pipefail

build=$(realpath "${BUILD:-build}")
. tests/support/checks.sh

skip() {
    echo "SKIP: system calls: $*"
    exit 0
}

case $build in
*san) skip 'a sanitizer makes calls of its own' ;;
esac
command -v strace >/dev/null || skip 'strace is not installed'
command -v systemd-analyze >/dev/null || skip 'systemd is not installed'
why=$(strace -f -qq -b execve -o /dev/null true 2>&1) || skip "strace cannot be used here: ${why%%$'\n'*}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Some tests run msd as another user.
chmod 1777 "$work"
mkdir "$work/build"
cp "$build/msd" "$work/msd"
ln -s "$build/mscli" "$build/tests" "$work/build/"
touch "$work/calls" "$work/runs"
chmod 666 "$work/calls" "$work/runs"
mkfifo -m 666 "$work/ended"

# In place of msd: the tracer is no parent of it and no child, so that msd is the process that was started and has the
# children it has; and it lets go of what executes another program.
cat >"$work/build/msd" <<SCRIPT
#!/bin/bash
echo >>$work/runs
mkfifo $work/trace.\$\$
setsid --fork $work/note $work/trace.\$\$ </dev/null &>/dev/null
exec strace -DDD -f -qq -b execve -e signal=none -o $work/trace.\$\$ $work/msd "\$@"
SCRIPT
# Takes note of each name once a run, and as it comes: a service manager kills tracers too. What a test passed to msd is
# for msd alone to hold.
cat >"$work/note" <<SCRIPT
#!/bin/bash
for fd in /proc/self/fd/*; do
    fd=\${fd##*/}
    [ "\$fd" -le 2 ] || [ "\$fd" = 255 ] || exec {fd}>&-
done
awk 'match(\$0, /^[0-9]+ +[a-z_0-9]+\\(/) {
    sub(/^[0-9]+ +/, ""); sub(/\\(.*/, "")
    if (!seen[\$0]++) { print; fflush() }
}' <"\$1" >>$work/calls
rm -f "\$1"
echo >$work/ended
SCRIPT
chmod 755 "$work/build/msd" "$work/note"
export MSD=$work/build/msd MSCLI=$build/mscli BUILD=$work/build
exec {ended}<>"$work/ended"

# --- What the filter is: as systemd reads it, line by line, with what every list that allows has besides (@default).

systemd-analyze syscall-filter --no-pager 2>/dev/null >"$work/groups"
# allowed LINE...: the names that these lines of SystemCallFilter= allow.
allowed() {
    printf '%s\n' "$@" | awk -v groups="$work/groups" '
        function expand(name, is,    i, n, members) {
            if (name !~ /^@/) {
                if (is) set[name] = 1
                else delete set[name]
                return
            }
            if (!(name in group)) { print name ": no such group" >"/dev/stderr"; failed = 1; exit }
            n = split(group[name], members)
            for (i = 1; i <= n; i++) expand(members[i], is)
        }
        BEGIN {
            while ((getline line <groups) > 0)
                if (line ~ /^@/) group[name = line] = ""
                else if (line ~ /^ +[a-z_@]/) { sub(/^ +/, "", line); group[name] = group[name] " " line }
        }
        NR == 1 && /^~/ { print "the first line does not allow" >"/dev/stderr"; failed = 1; exit }
        NR == 1 { expand("@default", 1) }
        { is = !sub(/^~/, ""); for (i = 1; i <= NF; i++) expand($i, is) }
        END { if (failed) exit 1; for (name in set) print name }' | LC_ALL=C sort
}

mapfile -t filter < <(sed -n 's/^SystemCallFilter=//p' systemd/msd.service.in)
allowed "${filter[@]}" >"$work/allowed"

# refused LINE...: what was called and is not allowed by these lines.
refused() {
    LC_ALL=C comm -23 "$work/called" <(allowed "$@")
}

# --- The calls that are made.

# Waits until those who take note have all of the runs that ended.
settle() {
    local runs
    runs=$(wc -l <"$work/runs")
    while [ "$settled" -lt "$runs" ]; do
        read -r -t 120 -u "$ended" || { echo "$((runs - settled)) tracers do not end"; exit 1; }
        settled=$((settled + 1))
    done
}
settled=0

system=()
for program in "$build"/tests/system/*; do
    [[ ! -x $program ]] || system+=("$program")
done

# Tests have pipes: this is as at a terminal.
"$MSD" --version >/dev/null

if [ "${1-}" = full ]; then
    # Two at a time: traced they are slow enough.
    TEST_JOBS=2 tests/support/run-tests.sh "$build/logs/syscalls" "${system[@]}" tests/clients/*.sh \
        $(ls tests/balancers/*.sh | grep -v /start.sh) || untrue=1
    settle
    # The unit's own filter would refuse ptrace(2); its other restrictions stay.
    cat >"$work/build/drop-in.conf" <<UNIT
[Service]
SystemCallFilter=
BindPaths=$work
ReadWritePaths=$work
UNIT
    echo "SKIP: tests/systemd/hardened.sh: it tries the filter itself, which refuses ptrace(2)"
    TEST_JOBS=1 tests/support/run-tests.sh "$build/logs/syscalls" \
        $(ls tests/systemd/*.sh | grep -vE '/(inside|hardened).sh') || untrue=1
    [ -z "${untrue-}" ] || echo 'What fails here alone ran out of time, or sees the tracer: its calls count all the same.'
else
    # Of all the tests the one that has most of it in the least time: HTTP, requests, a model server of its own.
    "$build/tests/system/http_stream" >"$work/output" 2>&1 || cat "$work/output"
    settle
fi
LC_ALL=C sort -u "$work/calls" >"$work/called"

check 'the filter allows what msd calls' equal "$(refused "${filter[@]}")" ''
check 'one that does not is noticed' eval '[ -n "$(refused "${filter[@]}" "~@io-event")" ]'
# Loading the program and its libraries takes some 20, and serving HTTP in front of a model server as many more.
check 'there were some' [ "$(wc -l <"$work/called")" -gt 40 ]

if [ "${1-}" = full ]; then
    # Of the names that systemd knows, those of this machine.
    "${CC:-cc}" -E -dM -include sys/syscall.h -x c /dev/null | sed -n 's/^#define __NR_\([a-z0-9_]*\) .*/\1/p' |
        LC_ALL=C sort -u >"$work/native"
    LC_ALL=C comm -12 "$work/allowed" "$work/native" >"$work/open"
    echo
    echo "$(wc -l <"$work/called") of $(wc -l <"$work/open") allowed calls are made, in $(wc -l <"$work/runs") runs of msd:"
    fmt -w 120 "$work/called"
    echo
    row() {
        LC_ALL=C comm -12 "$work/group" "$work/open" >"$work/group.open"
        [ ! -s "$work/group.open" ] || printf '%-14s %4d %4d  %s\n' "$1" "$(wc -l <"$work/group.open")" \
            "$(LC_ALL=C comm -12 "$work/group.open" "$work/called" | wc -l)" \
            "$(LC_ALL=C comm -23 "$work/group.open" "$work/called" | xargs)"
    }
    printf '%-14s %4s %4s  %s\n' group open made 'open, and never made'
    for group in $(grep -oE '^@[a-z-]+' "$work/groups" | grep -vE '^@(known|system-service)$'); do
        # What every list allows is nobody's merit.
        allowed "$group" $([ "$group" = @default ] || echo '~@default') >"$work/group"
        cat "$work/group" >>"$work/grouped"
        row "$group"
    done
    LC_ALL=C sort -u "$work/grouped" | LC_ALL=C comm -13 - "$work/open" >"$work/group"
    row 'no group'
fi
finish
