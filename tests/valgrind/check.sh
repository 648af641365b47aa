#!/bin/bash
# check.sh memcheck|helgrind [TEST...]: the system tests, or those that are named, with every msd under valgrind: what it says
# of one fails. What it does not know is in TOOL.supp, each with its reason.
set -u

tool=$1
shift
build=${BUILD:-build}
command -v valgrind >/dev/null || { echo "SKIP: $tool: valgrind is not installed"; exit 0; }
logs=$(mktemp -d)
chmod 1777 "$logs"
trap 'rm -rf "$logs"' EXIT

case $tool in
memcheck) options=(--leak-check=full --errors-for-leak-kinds=definite --show-leak-kinds=definite) ;;
helgrind) options=(--history-level=approx) ;;
esac

# In place of msd; it has the PID that the tests know.
cat >"$logs/msd" <<END
#!/bin/sh
exec valgrind --tool=$tool ${options[*]} --quiet --suppressions=$PWD/tests/valgrind/$tool.supp --gen-suppressions=all \\
    --child-silent-after-fork=yes --log-file=$logs/%p.log '$PWD/$build/msd' "\$@"
END
chmod +x "$logs/msd"

[ $# -gt 0 ] || set -- $(ls tests/system/*.c | sed 's/\.c$//')
tests=()
for test in "$@"; do
    tests+=("$build/tests/system/$(basename "$test")")
done

# Some tests have no time for a program that is twenty times slower, and a model that msd starts needs pidfd_open(2), which
# valgrind 3.19 does not know: that they fail is told, and is not what is asked here.
MSD=$logs/msd MSCLI=$build/mscli BUILD=$build tests/support/run-tests.sh "$build/logs/$tool" "${tests[@]}" |
    grep -v '^    '

# What it says of the program, and not of the system calls that it does not know.
runs=$(find "$logs" -name '*.log' | wc -l)
findings=$(find "$logs" -name '*.log' -exec grep -h -v '^--' {} +)
if [ -n "$findings" ]; then
    printf '%s\n' "$findings"
    echo "$tool: findings in $runs runs of msd"
    exit 1
fi
echo "$tool: nothing found in $runs runs of msd"
[ "$runs" -gt 0 ]
