#!/usr/bin/env bash
# Makes build/bundle: dga, the tests that need a GPU, the configs and the sample data, small enough to copy to another
# machine. Built here, run there: that machine needs a driver and a python3 with torch 2.11.0 (its LibTorch is used),
# no compiler and none of the packages of setup.sh.
#
#   scripts/bundle.sh         bundles the preset cuda (builds it first)
#   build/bundle/run.sh       there: runs the GPU tests
#   build/bundle/run.sh dga info
#                             there: runs one command of the bundle
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

preset=${DGA_PRESET:-cuda}
bundle=build/bundle
configure_and_build "$preset" all

rm -rf "$bundle"
mkdir -p "$bundle"
# The executables behind the CTest tests with the label gpu, named by the build itself.
"$(cmake_tool ctest)" --test-dir "build/$preset" -L gpu --show-only=json-v1 |
  python3 -c 'import json, sys
for test in json.load(sys.stdin)["tests"]: print(test["command"][0])' | sort -u >"$bundle/executables"
while IFS= read -r executable; do
  strip --strip-all -o "$bundle/$(basename "$executable")" "$executable"
done < <(echo "build/$preset/dga" && cat "$bundle/executables")
rm "$bundle/executables"

# Everything else is linked statically or is part of the system or of LibTorch.
cp -L "$(ldd "$bundle/dga" | sed -n 's/.*libsentencepiece[^ ]* => \([^ ]*\) .*/\1/p')" "$bundle/"
cp -r configs data "$bundle/"
cp scripts/bundle_run.sh "$bundle/run.sh"
du -sh "$bundle"
