#!/bin/bash
# quick.sh: of check.sh what takes seconds.
exec "$(dirname "$0")/check.sh" cppcheck analyzer
