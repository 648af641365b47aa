#!/bin/bash
# The man pages build, and groff has no complaint about them; every option that --help knows is in its page.
set -eu
build=${BUILD:-build}
failed=0

command -v scdoc >/dev/null || { echo "SKIP: man pages: scdoc is not installed"; exit 0; }
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

for source in daemon/msd.8 daemon/msd-protocol.7 client/mscli.1; do
    page=$directory/${source##*/}
    scdoc <"$source.scd" >"$page"
    if command -v groff >/dev/null && groff -man -Tutf8 -ww "$page" 2>&1 >/dev/null | grep .; then
        echo "$source: groff complains"
        failed=1
    fi
done

check_options() {
    local option
    while read -r option; do
        for file in "${@:2}"; do
            grep -qF -- "${option//-/\\-}" "$file" || grep -qF -- "$option" "$file" || {
                echo "$file: $option is missing"
                failed=1
            }
        done
    done < <("$1" --help | grep -oE -- '--[a-z][a-z-]+' | sort -u)
}
check_options "$build/msd" "$directory/msd.8" daemon/msd.bash-completion
check_options "$build/mscli" "$directory/mscli.1" client/mscli.bash-completion
for file in daemon/msd.bash-completion client/mscli.bash-completion; do
    bash -n "$file" || failed=1
done
exit $failed
