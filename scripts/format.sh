#!/usr/bin/env bash
# Formats the C++ and CUDA sources in place, or with --check only says which are not formatted. clang-format is the
# pinned one of third_party/requirements-format.txt: versions differ in what they write.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

clang_format=third_party/.venv/bin/clang-format
if [ ! -x "$clang_format" ]; then
  echo "format: no $clang_format; run scripts/setup.sh --tests" >&2
  exit 1
fi
case "${1:-}" in
  "") mode=(-i) ;;
  --check) mode=(--dry-run -Werror) ;;
  *) echo "format: unknown argument '$1'; known: --check" >&2 && exit 2 ;;
esac
# Tracked files and new ones that git does not ignore.
git ls-files -z --cached --others --exclude-standard -- '*.h' '*.cpp' '*.cu' '*.cuh' |
  while IFS= read -r -d '' file; do if [ -e "$file" ]; then printf '%s\0' "$file"; fi; done |
  xargs -0 -r "$clang_format" "${mode[@]}"
