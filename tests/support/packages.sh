#!/bin/bash
# packages.sh WHAT: has the Debian packages that "make WHAT" needs. As root it installs what is missing, otherwise
# it prints the one command that does, and fails. The sources of llhttp, where the system has no library of it, are fetched
# into build/llhttp: that needs no root.
set -eu

build=(gcc libc6-dev make pkg-config libsystemd-dev libjansson-dev)
upstream=(libmicrohttpd-dev) # the tests' own model server
model=(spin)
lint=(cppcheck clang-tidy)
privilege=(strace systemd)
check=(check binutils cppcheck scdoc man-db groff-base systemd curl haproxy nginx-light libhttp-parser-dev
    "${upstream[@]}" "${model[@]}" "${privilege[@]}")
sanitize=()
fuzz=(clang libclang-rt-dev llvm libhttp-parser-dev)
bench=(python3-minimal haproxy nginx-light strace "${upstream[@]}")

case ${1-} in
valgrind) wanted=("${build[@]}" "${check[@]}" valgrind libc6-dbg) ;;
coverage) wanted=("${build[@]}" "${check[@]}" gcovr) ;;
faults) wanted=("${build[@]}" "${upstream[@]}" check strace) ;;
demo | build) wanted=("${build[@]}") ;;
soak) wanted=("${build[@]}" "${upstream[@]}") ;;
check) wanted=("${build[@]}" "${check[@]}") ;;
model) wanted=("${build[@]}" "${model[@]}") ;;
privilege) wanted=("${build[@]}" "${check[@]}") ;;
sanitize) wanted=("${build[@]}" "${check[@]}" "${sanitize[@]}") ;;
lint) wanted=("${build[@]}" "${lint[@]}") ;;
fuzz) wanted=("${build[@]}" "${fuzz[@]}") ;;
bench) wanted=("${build[@]}" "${bench[@]}") ;;
*)
    echo "usage: packages.sh build|demo|check|model|faults|privilege|valgrind|coverage|sanitize|lint|fuzz|soak|bench" >&2
    exit 2
    ;;
esac

command -v dpkg-query >/dev/null || exit 0 # no Debian: pkg-config and the compiler say what is missing

# Whether it is a library, an installed package of sources, or what was fetched before.
have_llhttp() {
    pkg-config --exists libllhttp 2>/dev/null || [ -e /usr/share/llhttp/llhttp.c ] ||
        [ -e "$fetched/usr/share/llhttp/llhttp.c" ]
}

is_known() {
    apt-cache show "$1" >/dev/null 2>&1
}

# Debian 12 has the sources alone, in a package that wants all of nodejs.
fetch_llhttp() {
    local folder log
    folder=$(mktemp -d)
    log=$(mktemp)
    chmod 755 "$folder" # apt-get downloads as a user of its own
    if (cd "$folder" && apt-get download node-llhttp) >"$log" 2>&1 && mkdir -p "$fetched" &&
        dpkg-deb -x "$folder"/node-llhttp_*.deb "$fetched" 2>>"$log"; then
        rm -rf "$folder" "$log"
        return
    fi
    cat "$log" >&2
    rm -rf "$folder" "$log"
    printf 'Could not fetch the package node-llhttp. This has its list read:\n\n    sudo apt-get update\n\n' >&2
    return 1
}

fetched=$(dirname "$0")/../../build/llhttp
if ! have_llhttp; then
    # The lists of a fresh machine may be missing.
    if [ "$(id -u)" = 0 ] && ! is_known libllhttp-dev && ! is_known node-llhttp; then
        apt-get update >/dev/null
    fi
    if is_known libllhttp-dev; then
        wanted+=(libllhttp-dev)
    else
        fetch_llhttp
    fi
fi

missing=()
for package in "${wanted[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=
    [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

install=(apt-get install -y --no-install-recommends "${missing[@]}")
if [ "$(id -u)" != 0 ]; then
    printf 'Missing: %s\nThis installs it:\n\n    sudo %s\n\n' "${missing[*]}" "${install[*]}" >&2
    exit 1
fi
echo "Installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The servers among them are for the tests to start, not for the machine: invoke-rc.d(8).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$log" "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
# The lists of a fresh machine may be missing or old.
if ! { "${install[@]}" || { apt-get update && "${install[@]}"; }; } </dev/null >"$log" 2>&1; then
    cat "$log" >&2
    echo "Could not install ${missing[*]}" >&2
    exit 1
fi
