#!/bin/bash
# The short form of "make soak", for "make check": every kind of client once, a few thousand in place of a million.
set -eu

"$BUILD/tests/soak/soak" --minutes 0.05 --many 20000 "$MSD" "$BUILD/tests/upstream/server"
