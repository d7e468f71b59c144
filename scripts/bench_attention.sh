#!/usr/bin/env bash
# The measurements of docs/benchmarks/attention_h100.md, in one go: DGA layers and full attention beside cuDNN, and an
# ablation over the group size and the focal ratio. Needs a Hopper GPU. Writes one JSON file a table to DIRECTORY.
#
#   scripts/bench_attention.sh DGA DIRECTORY    DGA: the program, as build/cuda/dga
set -euo pipefail
if [ $# != 2 ]; then
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
dga=$1 directory=$2
mkdir -p "$directory"

table() { # name, arguments of `dga bench attention`
  local name=$1
  shift
  echo "== $name"
  "$dga" bench attention "$@" --json "$directory/$name.json" | tee "$directory/$name.md"
}

nvidia-smi --query-gpu=name,clocks.max.sm,power.limit --format=csv,noheader
table full --kind full --seq-len 8192,32768
table full_deterministic --kind full --seq-len 8192,32768 --deterministic
table paper --seq-len 8192,32768,65536,131072
table paper_deterministic --seq-len 8192,32768 --deterministic
table window --seq-len 8192,32768,65536 --local-window 1024 --group-bias entropy
table causal --seq-len 8192,32768,65536 --selection causal --block-size 256 --local-blocks 4 --group-bias entropy
table shared_heads --seq-len 32768 --heads 32 --kv-heads 8 --local-window 0,1024
table lists_made_again --seq-len 32768 --remake-lists
table ablation --seq-len 32768 --group-size 4,8,16,32,64 --focal-ratio 0.05,0.1,0.2
