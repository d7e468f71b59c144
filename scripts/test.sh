#!/usr/bin/env bash
# Sets up, builds and tests everything; continuous integration runs exactly this. Arguments go to ctest:
#
#   scripts/test.sh                     all tests
#   scripts/test.sh -R attention        the tests whose name matches
#   DGA_PRESET=sanitize scripts/test.sh the tests under the address and undefined-behaviour sanitizers
#
# The build is the preset cuda where there is an nvcc, else cpu; DGA_PRESET names another.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

step "set up"
scripts/setup.sh --tests

step "check includes and formatting"
scripts/check_includes.sh
scripts/format.sh --check

preset=${DGA_PRESET:-$(default_preset)}
step "build (preset $preset)"
configure_and_build "$preset" all
"build/$preset/dga" info

step "test"
# Tests run side by side, each on one thread; those that are about threads ask for their own.
export OMP_NUM_THREADS=1
ctest=$(cmake_tool ctest)
"$ctest" --test-dir "build/$preset" --output-on-failure --no-tests=error --timeout 900 -j "$(nproc)" "$@"
