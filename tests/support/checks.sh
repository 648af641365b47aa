# Sourced by tests that are scripts: what is checked is counted, and what is not so is shown.

checks=0 failures=0

# check WHAT COMMAND [ARG...]: COMMAND says yes.
check() {
    local what=$1
    shift
    checks=$((checks + 1))
    if ! "$@"; then
        failures=$((failures + 1))
        printf 'not so: %s\n    %s\n' "$what" "$*"
        explain | sed 's/^/    /'
    fi
}

# What helps to understand a failure: each kind of test has its own.
explain() {
    :
}

# equal A B
equal() {
    [ "$1" = "$2" ] || { printf '    "%s" is not "%s"\n' "$1" "$2"; return 1; }
}

# The last line of a test, from which it is counted.
finish() {
    echo "$((100 * (checks - failures) / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
    exit $((failures > 0))
}
