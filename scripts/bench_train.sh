#!/usr/bin/env bash
# Training steps of LLaMA-2-7B on GPUs of 80 GB: full attention and DGA at 8K to 128K, beside the fastest Python stack
# where this machine's Python has it (scripts/bench_train_peer.py says what it needs). Each run has processes of its own.
#
#   scripts/bench_train.sh [LENGTH...]     8k 32k 64k 128k; all where none is named
#
# DGA=...: the program (build/cuda/dga); OUT=...: where the JSON files go (runs/bench_train); STEPS=...: measured steps
# (8); GPUS=N: N GPUs of this host (1), each with a row of its own; ATTENTION="full dga_local": these alone; PROFILE=1:
# also profile one step kernel by kernel; SET=FIELD=VALUE: one more setting, as train.deterministic=false;
# PEER_PYTHON=...: a Python with the peer's packages (python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dga=${DGA:-build/cuda/dga}
out=${OUT:-runs/bench_train}
steps=${STEPS:-8}
gpus=${GPUS:-1}
python=${PEER_PYTHON:-python3}
read -ra attentions <<<"${ATTENTION:-full dga_local dga_paper}"
lengths=("$@")
if [ ${#lengths[@]} -eq 0 ]; then lengths=(8k 32k 64k 128k); fi
mkdir -p "$out"
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}

parallel=() peer_python=("$python")
if [ "$gpus" -gt 1 ]; then
  parallel=(--gpus "$gpus" --set "train.global_batch_size=$gpus")
  peer_python=("$python" -m torch.distributed.run --nproc-per-node "$gpus")
fi

peer=no
if "$python" scripts/bench_train_peer.py --check; then peer=yes; fi

for length in "${lengths[@]}"; do
  for attention in "${attentions[@]}"; do
    echo "== $length $attention"
    config=$out/$length-$attention.yaml
    rm -f "$out/$length-$attention.json" # of an earlier call, should this one fail
    echo "include: [$PWD/configs/bench/llama2_7b_$length.yaml, $PWD/configs/attention/$attention.yaml]" >"$config"
    "$dga" bench train "$config" --steps "$steps" ${PROFILE:+--profile} ${SET:+--set "$SET"} \
      "${parallel[@]}" --json "$out/$length-$attention.json" ||
      echo "bench_train: $length $attention failed" >&2
  done
  if [ "$peer" = no ] || [ "$length" = 128k ]; then continue; fi # the peer does not fit at 128K
  echo "== $length peer"
  rm -f "$out/$length-peer.json"
  "${peer_python[@]}" scripts/bench_train_peer.py --context "${length%k}" --steps "$steps" --json "$out/$length-peer.json" ||
    echo "bench_train: $length peer failed" >&2
done
python3 - "$out" <<'PYTHON'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
print("\n| context | attention | s/step | tokens/s | MFU | GiB | beside the peer |\n| --- | --- | --- | --- | --- | --- | --- |")
for length in ("8k", "32k", "64k", "128k"):
    read = lambda name: json.loads(file.read_text()) if (file := out / f"{length}-{name}.json").exists() else None
    peer = read("peer")
    for name in ("peer", "full", "dga_local", "dga_paper"):
        row = read(name)
        if row is None:
            continue
        mfu = f"{100 * row['mfu']:.1f} %" if "mfu" in row else ""
        ratio = f"{row['tokens_per_s'] / peer['tokens_per_s']:.2f}" if peer else ""
        print(f"| {length} | {name} | {row['step_s']:.3f} | {row['tokens_per_s']:.0f} | {mfu} "
              f"| {row['peak_memory_bytes'] / 2**30:.1f} | {ratio} |")
PYTHON
