#!/bin/bash
# The official openai package from npm against msd. It is installed into the build directory as the lock file says, and
# kept there.
set -euo pipefail

build=$(realpath "${BUILD:-build}")
place=$build/tests/clients

skip() {
    echo "SKIP: openai: $*"
    exit 0
}

command -v node >/dev/null || skip 'node is not installed'
command -v npm >/dev/null || skip 'npm is not installed'
[ "$(node -p 'process.versions.node.split(".")[0]')" -ge 18 ] || skip "node is older than 18"
node -e 'require("net").createServer().on("error", () => process.exit(1)).listen(0, "127.0.0.1", () => process.exit(0))' ||
    skip 'there is no network here'

mkdir -p "$place"
if ! cmp -s tests/clients/package-lock.json "$place/installed"; then
    rm -f "$place/installed"
    cp tests/clients/package.json tests/clients/package-lock.json tests/clients/.npmrc "$place/"
    timeout 120 npm --prefix "$place" ci --silent --fetch-retries=1 --fetch-timeout=30000 >"$place/npm.log" 2>&1 ||
        skip 'npm cannot install it'
    cp tests/clients/package-lock.json "$place/installed"
fi
cp tests/clients/openai.mjs "$place/"
MSD=$(realpath "${MSD:-build/msd}") SERVER=$build/tests/upstream/server exec node "$place/openai.mjs"
