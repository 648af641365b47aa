#!/bin/bash
# coverage.sh: runs every test with a build that counts, and prints how many lines and branches of each source were reached,
# and which lines were not. What is left, and why, is in coverage.md.
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build/coverage}

find "$build" -name '*.gcda' -delete 2>/dev/null || true
# What fails here does so in "make check" too, or counts what it may not write: the hardened unit's file system is read-only.
make --no-print-directory -s -j"$(nproc)" BUILD="$build" OPTIMIZE='-O0 -g' SANITIZE='--coverage -fprofile-update=atomic' \
    SYSTEMD_TESTS="$(ls tests/systemd/*.sh | grep -v 'hardened\|inside' | tr '\n' ' ')" check-built || true
of=(-r . --object-directory "$build" --exclude tests/)
gcovr "${of[@]}" --txt-metric branch
gcovr "${of[@]}" -s
