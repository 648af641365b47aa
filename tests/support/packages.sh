#!/bin/bash
# packages.sh WHAT: has the Debian packages that "make WHAT" needs. As root it installs what is missing, otherwise
# it prints the one command that does, and fails.
set -eu

build=(gcc libc6-dev make pkg-config libsystemd-dev libjansson-dev libcurl4-openssl-dev libmicrohttpd-dev)
model=(spin)
lint=(cppcheck clang-tidy)
privilege=(strace systemd)
check=(check binutils cppcheck scdoc man-db groff-base systemd curl haproxy nginx-light "${model[@]}" "${privilege[@]}")
sanitize=()
fuzz=(clang libclang-rt-dev llvm)
bench=(python3-minimal haproxy nginx-light)

case ${1-} in
valgrind) wanted=("${build[@]}" "${check[@]}" valgrind libc6-dbg) ;;
coverage) wanted=("${build[@]}" "${check[@]}" gcovr) ;;
faults) wanted=("${build[@]}" check strace) ;;
demo | build | soak) wanted=("${build[@]}") ;;
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
