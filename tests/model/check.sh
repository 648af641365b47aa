#!/bin/bash
# check.sh [full]: has spin look at every state of gate.pml, for sizes that take seconds, or with "full" some minutes; then
# that it finds each mutant wrong. One line for each: what was looked at, how many states, how deep, memory, time.
#
#   asserts    what is answered is answered once and with the right reason, no event is acted upon twice, no generation is
#              looked at after its end; and when nothing can happen any more, all that was accepted is answered
#   answered   []<> accepted == heard, with weak fairness: every request is answered at some time, whatever else goes on
#   no cycle   nothing goes on for ever: no worker spins, not even an unfair one
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
model=$top/tests/model/gate.pml
work=${BUILD:-build}/model
size=${1-small}
failed=0

case $size in
small) optimize=-O0 table=20 ;;
full) optimize=-O2 table=24 ;;
*)
    echo "usage: check.sh [full]" >&2
    exit 2
    ;;
esac
if ! command -v spin >/dev/null; then
    echo 'SKIP: spin is not installed'
    exit 0
fi
mkdir -p "$work"
work=$(cd "$work" && pwd)

# look PROPERTY OPTIMIZE MACRO...: leaves what pan says in $work/out.
look() {
    local property=$1 optimize=$2 flags run
    shift 2
    case $property in
    asserts) flags=(-DSAFETY -DNOCLAIM) run=() && set -- ACCOUNT "$@" ;;
    answered) flags=(-DNFAIR=3) run=(-a -f) ;;
    'no cycle') flags=(-DNP -DNOCLAIM) run=(-l) ;;
    esac
    macros=("${@/#/-D}")
    (
        cd "$work"
        rm -f pan* gate.pml.trail out
        spin "${macros[@]}" -a "$model" >generated || { cat generated; exit 1; }
        "${CC:-cc}" "$optimize" -w -DCOLLAPSE -DMEMLIM=6000 "${flags[@]}" -o pan pan.c
        ./pan -m10000 -w"$table" ${ignore-} "${run[@]}" >out 2>&1
    )
}

# of EXPRESSION: what it finds in the output.
of() {
    sed -nE "s/$1/\1/p" "$work/out" | tail -n 1
}

print() {
    printf '%-8s %-83s %8s %5s %6s %7s  %s\n' "$@"
}

figures() {
    print "$1" "$2" "$(of '^ *([0-9.e+]+) states, stored.*')" "$(of '.*depth reached ([0-9]+).*')" \
        "$(of '^ *([0-9]+)\.[0-9]*.total actual memory usage.*') M" "$(of '^pan: elapsed time ([0-9.e+-]+) seconds') s" "$3"
}

# holds PROPERTY MACRO...
holds() {
    local property=$1 verdict=holds
    shift
    look "$property" "$optimize" "$@"
    if ! grep -q 'errors: 0$' "$work/out" || grep -qE 'not completed|too small|reached -DMEMLIM' "$work/out"; then
        verdict=FAILS failed=1
    fi
    figures "$property" "$*" "$verdict"
    if [ "$verdict" = FAILS ]; then
        grep '^pan:' "$work/out" || true
        # The way there: what each thread does, in the order in which it happens.
        [ ! -e "$work/gate.pml.trail" ] || (cd "$work" && spin "${macros[@]}" -k gate.pml.trail -p -g "$model")
    fi
}

# What an assertion of the model says.
words() {
    case $1 in
    *'accepted==heard'*) echo 'a request is missed' ;;
    *'stage[q]!=1'*) echo 'one waits at a gate that is open' ;;
    *told*) echo 'one is answered twice' ;;
    *'fired)'*) echo 'an event is acted upon twice' ;;
    *'state[gen]==2)||(state[gen]==3'*) echo 'a worker acts, and the gate is pending' ;;
    *'reason[gen]'*) echo 'failed, and there is no reason yet' ;;
    *'first[gen]'*) echo 'the wrong reason' ;;
    *written*) echo 'the eventfd is written twice' ;;
    *freed*) echo 'a generation that is freed is looked at' ;;
    *leaving*) echo 'a worker ends, and one is not answered' ;;
    *) echo "$1" ;;
    esac
}

# mutant PROPERTY MACRO SIZE...: what would be wrong is found to be. Where it is not the assertions that are to find it, they
# are not looked at.
mutant() {
    local how
    if [ "$1" = asserts ]; then
        table=18 look "$1" -O0 "${@:2}"
        how=$(of '^pan:1: assertion violated (.*) \(at depth .*')
        [ -z "$how" ] || how=$(words "$how")
    else
        table=18 ignore=-A look "$1" -O0 "${@:2}"
        how=$(of '^pan:1: (acceptance cycle|non-progress cycle) .*')
        how=${how/acceptance cycle/a request is never answered}
        how=${how/non-progress cycle/a worker spins}
    fi
    if [ -z "$how" ]; then
        how='NOT FOUND' failed=1
    fi
    figures "$1" "${*:2}" "$how"
}

print property 'macros of gate.pml' states depth memory time found
if [ "$size" = full ]; then
    holds asserts WORKERS=3 REQUESTS=2 GENERATIONS=1
    holds asserts WORKERS=2 REQUESTS=3 GENERATIONS=1 ADMINISTRATOR
    holds asserts WORKERS=2 REQUESTS=2 GENERATIONS=1 ADMINISTRATOR RIVAL
    holds asserts WORKERS=2 REQUESTS=2 GENERATIONS=2
    holds asserts WORKERS=2 REQUESTS=1 GENERATIONS=2 LOSSES=1
    holds asserts WORKERS=2 REQUESTS=1 GENERATIONS=2 MAILBOX
    holds asserts WORKERS=1 REQUESTS=2 GENERATIONS=2 LOSSES=1 ADMINISTRATOR HAND_OVER
    holds asserts WORKERS=1 REQUESTS=2 GENERATIONS=2 LOSSES=2 ADMINISTRATOR HAND_OVER OBSERVERS=1
    holds asserts WORKERS=1 REQUESTS=1 GENERATIONS=3 LOSSES=1
    holds asserts WORKERS=1 REQUESTS=5 GENERATIONS=2 BATCH=2
    for property in answered 'no cycle'; do
        holds "$property" WORKERS=2 REQUESTS=2 GENERATIONS=1 ADMINISTRATOR
        holds "$property" WORKERS=2 REQUESTS=1 GENERATIONS=2
        holds "$property" WORKERS=1 REQUESTS=2 GENERATIONS=2 LOSSES=1
        holds "$property" WORKERS=1 REQUESTS=1 GENERATIONS=2 LOSSES=1 MAILBOX ADMINISTRATOR HAND_OVER
    done
else
    holds asserts WORKERS=2 REQUESTS=2 GENERATIONS=1
    holds asserts WORKERS=1 REQUESTS=2 GENERATIONS=2 OBSERVERS=1
    holds asserts WORKERS=1 REQUESTS=1 GENERATIONS=2 LOSSES=1 MAILBOX
    for property in answered 'no cycle'; do
        holds "$property" WORKERS=2 REQUESTS=1 GENERATIONS=1
        holds "$property" WORKERS=1 REQUESTS=1 GENERATIONS=2 LOSSES=1
    done
fi

echo
print property 'mutants' states depth memory time found
mutant asserts WRITE_FIRST WORKERS=1 REQUESTS=1 GENERATIONS=1
mutant asserts NO_CLAIM WORKERS=1 REQUESTS=1 GENERATIONS=1
mutant asserts NO_EXCHANGE WORKERS=1 REQUESTS=1 GENERATIONS=1 RIVAL
mutant asserts LEVEL WORKERS=1 REQUESTS=1 GENERATIONS=1
mutant asserts READ_EVENT WORKERS=2 REQUESTS=2 GENERATIONS=1
mutant asserts STALE_BATCH WORKERS=1 REQUESTS=1 GENERATIONS=2
mutant asserts NO_LOOK WORKERS=1 REQUESTS=1 GENERATIONS=1
mutant asserts NO_WATCH WORKERS=1 REQUESTS=1 GENERATIONS=2
mutant asserts ONE_PORTION WORKERS=1 REQUESTS=2 GENERATIONS=1
mutant asserts NOT_UNLINKED WORKERS=1 REQUESTS=1 GENERATIONS=1
mutant asserts STOP_FIRST WORKERS=1 REQUESTS=1 GENERATIONS=1
mutant asserts GATE_FIRST WORKERS=1 REQUESTS=1 GENERATIONS=2 LOSSES=1
mutant asserts GATE_FIRST WORKERS=1 REQUESTS=1 GENERATIONS=2 OBSERVERS=1
mutant asserts ABANDON_BLINDLY WORKERS=1 REQUESTS=1 GENERATIONS=1
mutant asserts FORGET_OBSERVERS WORKERS=1 REQUESTS=1 GENERATIONS=2 OBSERVERS=1 ADMINISTRATOR
mutant asserts NO_SUSPECT WORKERS=1 REQUESTS=1 GENERATIONS=1 LOSSES=1
mutant asserts LETTERS_FIRST WORKERS=1 REQUESTS=1 GENERATIONS=2 LOSSES=1 MAILBOX
mutant asserts FREE_AT_ONCE WORKERS=1 REQUESTS=1 GENERATIONS=2
mutant answered WRITE_FIRST WORKERS=1 REQUESTS=1 GENERATIONS=1
mutant answered NO_WATCH WORKERS=1 REQUESTS=1 GENERATIONS=2
mutant 'no cycle' LEVEL WORKERS=1 REQUESTS=1 GENERATIONS=1
exit "$failed"
