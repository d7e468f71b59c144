#!/usr/bin/env bash
# Runs what scripts/bundle.sh packed, on the machine it was copied to: the GPU tests, or the command given as arguments.
# LibTorch and NVIDIA's libraries come from that machine's python3.
set -euo pipefail
bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

torch=$(python3 -c 'import importlib.util as i; print(i.find_spec("torch").submodule_search_locations[0])') || {
  echo "run: python3 has no torch package" >&2
  exit 1
}
version=$(sed -n "s/^__version__ = '\([0-9.]*\).*/\1/p" "$torch/version.py")
if [ "$version" != 2.11.0 ]; then
  echo "run: $torch is version $version; the bundle was built against 2.11.0" >&2
  exit 1
fi
libraries=$bundle:$torch/lib
for folder in "$torch"/../nvidia/*/lib; do libraries+=:$folder; done
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export PATH=$bundle:$PATH

if [ $# -gt 0 ]; then exec "$@"; fi

if ! python3 -c 'import torch; raise SystemExit(not torch.cuda.is_available())'; then
  echo "run: no GPU that LibTorch can use, so there is nothing to test" >&2
  exit 1
fi
passed=0 failed=()
for test in "$bundle"/test_*; do
  name=$(basename "$test")
  echo "== $name"
  if "$test" --gtest_filter='*Gpu.*'; then passed=$((passed + 1)); else failed+=("$name"); fi
done
if [ ${#failed[@]} -gt 0 ]; then echo "failed: ${failed[*]}"; fi
echo "$passed passed, ${#failed[@]} failed"
[ ${#failed[@]} = 0 ]
