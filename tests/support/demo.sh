#!/bin/bash
# demo.sh BUILD: five requests while the model loads.
set -eu

build=$1
directory=$(mktemp -d)
export MSD_SOCKET=$directory/msd.sock
trap 'rm -rf "$directory"' EXIT

echo "\$ msd --socket $MSD_SOCKET &"
start=$(date +%s%N)
"$build/msd" --socket "$MSD_SOCKET" &
daemon=$!
trap 'kill "$daemon" 2>/dev/null || :; wait "$daemon" || :; rm -rf "$directory"' EXIT

for _ in {1..500}; do
    [ ! -S "$MSD_SOCKET" ] || break
    kill -0 "$daemon"
    read -r -t 0.01 <> <(:) || :
done
echo "\$ mscli request 0 1 2 3 4"
"$build/mscli" request 0 1 2 3 4
elapsed=$((($(date +%s%N) - start) / 1000000))
printf 'Total time: %d.%01ds\n' $((elapsed / 1000)) $((elapsed % 1000 / 100))
