#!/bin/bash
# libraries.sh: msd is small: it loads few libraries, each of which a sandboxed daemon has to trust, and listens at once.
set -u

build=${BUILD:-build}
msd=${MSD:-$build/msd}
most=10
if ! command -v ldd >/dev/null; then
    echo "SKIP: libraries: ldd is not installed"
    exit 0
fi
if grep -q -- '-fsanitize=\|--coverage' "$build/flags" 2>/dev/null; then
    echo "SKIP: libraries: this msd has those of a sanitizer"
    exit 0
fi

failed=0
libraries=$(ldd "$msd" | awk '{ print $1 }' | grep -v '^linux-vdso\|^libc\.so\|ld-linux')
count=$(grep -c . <<<"$libraries")
if ((count > most)); then
    echo "$msd loads $count libraries besides libc, not $most at most:" $libraries
    failed=1
fi
for library in libcurl libmicrohttpd; do
    if grep -q "^$library" <<<"$libraries"; then
        echo "$msd loads $library"
        failed=1
    fi
done

# From exec to a listening socket.
directory=$(mktemp -d)
"$msd" --socket "$directory/msd.sock" --load-time 1h >/dev/null 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; rm -rf "$directory"' EXIT
begin=$EPOCHREALTIME
while [ ! -S "$directory/msd.sock" ]; do
    if ((${EPOCHREALTIME/[.,]/} - ${begin/[.,]/} > 1000000)) || ! kill -0 "$pid" 2>/dev/null; then
        echo "$msd does not listen after a second"
        failed=1
        break
    fi
done
exit $failed
