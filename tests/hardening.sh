#!/bin/bash
# hardening.sh: what was built is hardened as Debian's own packages are: in each program, what the compiler and the linker
# were asked for is there.
set -u

build=${BUILD:-build}
for tool in readelf objdump; do
    command -v $tool >/dev/null || { echo "SKIP: hardening: $tool is not installed"; exit 0; }
done
if grep -q -- '-fsanitize=\|--coverage' "$build/flags"; then
    echo "SKIP: hardening: these programs are built to be looked into, not to be installed"
    exit 0
fi

failed=0
program=

# expect WHAT COMMAND...: its output is quiet, its status tells.
expect() {
    local what=$1
    shift
    "$@" >/dev/null || { echo "$program: $what"; failed=1; }
}
has() { grep -q -- "$1" <<<"$2"; }
lacks() { ! grep -q -- "$1" <<<"$2"; }

for program in "$build/msd" "$build/mscli"; do
    header=$(readelf -hW "$program") segments=$(readelf -lW "$program") dynamic=$(readelf -dW "$program")
    symbols=$(readelf --dyn-syms -W "$program") notes=$(readelf -nW "$program") code=$(objdump -d "$program")

    expect 'is not position-independent (PIE)' has 'Type: *DYN' "$header"
    expect 'is not position-independent (PIE)' has 'FLAGS_1.* PIE' "$dynamic"
    expect 'has no read-only relocations (RELRO)' has 'GNU_RELRO' "$segments"
    expect 'looks up functions when they are called: RELRO is partial' has 'FLAGS_1.* NOW' "$dynamic"
    expect 'has a stack that can be run' has 'GNU_STACK.* RW  *0x' "$segments"
    expect 'has memory that can be written and run' lacks 'LOAD.* RWE ' "$segments"
    expect 'writes to its code when it is loaded' lacks 'TEXTREL' "$dynamic"
    expect 'looks for libraries where it was built' lacks 'RPATH\|RUNPATH' "$dynamic"
    expect 'has no stack protector' has '__stack_chk_fail' "$symbols"
    expect 'is built without _FORTIFY_SOURCE' has '__[a-z]*printf_chk' "$symbols"
    if has 'Machine: *.*X86-64' "$header"; then
        # -fcf-protection; the note that says so of a whole program is there only where that of every library is.
        expect 'can be made to jump anywhere (-fcf-protection)' has '<main>:.endbr64' \
            "$(grep -A 1 '<main>:' <<<"$code" | tr '\n' ' ' | sed 's/<main>: .*endbr64/<main>: endbr64/')"
        # No frame is larger than a page, the guard's size, without every page of it being touched.
        expect 'jumps over the guard page (-fstack-clash-protection)' \
            has '^$' "$(grep -E 'sub +\$0x[0-9a-f]{4,8},%rsp' <<<"$code" | grep -v '\$0x1000,')"
    fi
done
exit $failed
