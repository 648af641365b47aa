#!/bin/bash
# check.sh [full]: has spin look at every state of gate.pml, places.pml and suspects.pml, for sizes that take seconds, or with "full" some
# minutes; then that it finds mutants wrong, with "full" each of them. One line for each: the macros, states, depth, memory, time.
#
#   asserts    gate.pml: each request is answered once and with the right reason, no event is acted upon twice, no generation is
#              looked at after its end; and when nothing can happen any more, all accepted requests are answered.
#              places.pml, suspects.pml: what their heads say of every state, of lanes at rest, and of the order
#   answered   []<> accepted == heard, with weak fairness: every request is answered at some time, whatever else goes on
#   no cycle   nothing goes on for ever: no worker spins, not even an unfair one
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
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
# Most of the short form is compiling what spin makes: clang takes a third of gcc's time for it.
compiler=${CC:-cc}
if [ "$size" = small ] && command -v clang >/dev/null; then
    compiler=clang
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
        rm -f pan* ./*.trail out
        spin "${macros[@]}" -a "$top/tests/model/$model" >generated || { cat generated; exit 1; }
        "$compiler" "$optimize" -w -DCOLLAPSE -DMEMLIM=6000 "${flags[@]}" -o pan pan.c
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
        [ ! -e "$work/$model.trail" ] || (cd "$work" && spin "${macros[@]}" -k "$model.trail" -p -g "$top/tests/model/$model")
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
    *'given[i]==0'*) echo 'a lane keeps a place that it cannot use' ;;
    *'taken==(in_flight'*) echo 'a place is lost' ;;
    *'||(waiting[i]==0'*) echo 'one waits, and a place is free' ;;
    *'counted[i]&&'*) echo 'a new request overtakes an older one' ;;
    *older*) echo 'a request overtakes an older one' ;;
    *'(waiting[w]==0)||counted[w]'*) echo 'one waits, and is not registered' ;;
    *'lost[k]==0'*) echo 'another goes before all suspects are known' ;;
    *'suspect[j]==0'*) echo 'one waits for suspects that there are not' ;;
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

gate() {
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
        holds answered WORKERS=2 REQUESTS=1 GENERATIONS=1
        holds 'no cycle' WORKERS=1 REQUESTS=1 GENERATIONS=2 LOSSES=1
    fi

    echo
    print property 'mutants of gate.pml' states depth memory time found
    mutant asserts WRITE_FIRST WORKERS=1 REQUESTS=1 GENERATIONS=1
    mutant asserts NO_CLAIM WORKERS=1 REQUESTS=1 GENERATIONS=1
    mutant asserts LEVEL WORKERS=1 REQUESTS=1 GENERATIONS=1
    mutant asserts NO_LOOK WORKERS=1 REQUESTS=1 GENERATIONS=1
    mutant answered NO_WATCH WORKERS=1 REQUESTS=1 GENERATIONS=2
    mutant 'no cycle' LEVEL WORKERS=1 REQUESTS=1 GENERATIONS=1
    [ "$size" = full ] || return 0
    mutant asserts NO_EXCHANGE WORKERS=1 REQUESTS=1 GENERATIONS=1 RIVAL
    mutant asserts READ_EVENT WORKERS=2 REQUESTS=2 GENERATIONS=1
    mutant asserts STALE_BATCH WORKERS=1 REQUESTS=1 GENERATIONS=2
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
}

places() {
    print property 'macros of places.pml' states depth memory time found
    if [ "$size" = full ]; then
        holds asserts LANES=3 REQUESTS=2
        holds asserts LANES=3 REQUESTS=4 EARLY=3 FIXED
        holds asserts LANES=3 REQUESTS=4 EARLY=4 PLACES=2
        holds asserts LANES=2 REQUESTS=3 PLACES=2
        holds asserts LANES=2 REQUESTS=4 EARLY=2 DEPARTURES=2
        holds asserts LANES=2 REQUESTS=2 BUSY=1 SYNCHRONOUS=1
        holds asserts LANES=2 REQUESTS=2 LOSSES=1
        holds asserts LANES=2 REQUESTS=2 GENERATIONS=2 FAILING
        holds asserts LANES=2 REQUESTS=2 EARLY=2 LOSSES=1 GENERATIONS=2
        holds asserts LANES=2 REQUESTS=2 EARLY=2 BUSY=1 GENERATIONS=2
        holds asserts LANES=2 REQUESTS=2 EARLY=2 BUSY=1 LOSSES=1 DEPARTURES=0
        holds asserts LANES=3 REQUESTS=2 EARLY=2 LOSSES=1 DEPARTURES=0
        holds asserts LANES=2 REQUESTS=2 STOP
        holds asserts LANES=2 REQUESTS=2 EARLY=2 LOSSES=1 STOP
        holds 'no cycle' LANES=3 REQUESTS=3 EARLY=3
        holds 'no cycle' LANES=2 REQUESTS=3
        holds 'no cycle' LANES=2 REQUESTS=2 BUSY=1
        holds 'no cycle' LANES=2 REQUESTS=2 EARLY=2 LOSSES=1
        holds 'no cycle' LANES=2 REQUESTS=2 EARLY=2 GENERATIONS=2 FAILING
    else
        holds asserts LANES=2 REQUESTS=2
        holds asserts LANES=2 REQUESTS=2 EARLY=2 BUSY=1
        holds asserts LANES=2 REQUESTS=2 EARLY=2 LOSSES=1 DEPARTURES=0
        holds 'no cycle' LANES=2 REQUESTS=2 EARLY=2
    fi

    echo
    print property 'mutants of places.pml' states depth memory time found
    mutant asserts DROP_OFFER LANES=2 REQUESTS=2
    mutant asserts OVERSHOOT LANES=2 REQUESTS=3
    mutant asserts IGNORE_LANES LANES=2 REQUESTS=2
    mutant asserts IGNORE_OFFER LANES=1 REQUESTS=2 EARLY=2 BUSY=1 GENERATIONS=2
    mutant asserts LOSE_TURN LANES=2 REQUESTS=2 EARLY=2 LOSSES=1 DEPARTURES=0
    mutant asserts NO_EXCHANGE LANES=2 REQUESTS=2
    mutant 'no cycle' CLEAR_FIRST LANES=2 REQUESTS=2
    mutant 'no cycle' STAY LANES=2 REQUESTS=2 BUSY=1
    [ "$size" = full ] || return 0
    mutant asserts KEEP_OFFER LANES=2 REQUESTS=2 BUSY=1
    mutant asserts KEEP_REFUSED LANES=2 REQUESTS=2 GENERATIONS=2 FAILING
    mutant asserts KEEP_REFUSED LANES=2 REQUESTS=2 STOP
    mutant asserts IGNORE_OFFER LANES=2 REQUESTS=2 EARLY=2 GENERATIONS=2
    mutant asserts CLAIM_BLINDLY LANES=2 REQUESTS=2
    mutant asserts LOOK_AGAIN LANES=3 REQUESTS=4 EARLY=4
    mutant asserts ONE_CLAIM LANES=2 REQUESTS=2 EARLY=2 PLACES=2
    mutant asserts NO_CLAIM LANES=2 REQUESTS=2
    mutant asserts NO_RESCAN LANES=2 REQUESTS=3
    mutant asserts NO_RESUME LANES=1 REQUESTS=2 LOSSES=1 DEPARTURES=0
    mutant 'no cycle' COUNT_FIRST LANES=2 REQUESTS=2
}

suspects() {
    print property 'macros of suspects.pml' states depth memory time found
    if [ "$size" = full ]; then
        holds asserts LANES=2 FLYING=2 COMING=2
        holds asserts LANES=3 FLYING=1 COMING=1
    else
        holds asserts LANES=2 FLYING=1 COMING=1
    fi

    echo
    print property 'mutants of suspects.pml' states depth memory time found
    mutant asserts NO_TURN LANES=2 FLYING=1 COMING=1
    mutant asserts NO_RESUME LANES=2 FLYING=1 COMING=1
    [ "$size" = full ] || return 0
    mutant asserts COUNT_FIRST LANES=2 FLYING=1 COMING=1
    mutant asserts JUDGE_LATER LANES=2 FLYING=1 COMING=1
    mutant asserts CLEAR_FIRST LANES=2 FLYING=1 COMING=1
}

# use MODEL: in a directory of its own.
use() {
    model=$1.pml
    work=$work/$1
    mkdir -p "$work"
}

# At the sizes of make check one beside the other; otherwise in turn, for the times to be right.
(
    top_work=$work
    use places
    places
    work=$top_work
    use suspects
    echo
    suspects
    exit "$failed"
) >"$work/places.out" 2>&1 &
other=$!
[ "$size" = small ] || wait "$other" || failed=1
(
    use gate
    gate
    exit "$failed"
) &
wait "$!" || failed=1
[ "$size" = full ] || wait "$other" || failed=1
echo
cat "$work/places.out"
exit "$failed"
