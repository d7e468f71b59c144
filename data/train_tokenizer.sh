#!/bin/sh
# Trains data/tokenizer.model on the sample's training documents: BPE with byte fallback and LLaMA's options.
# Needs Debian's packages sentencepiece, zstd and python3; the same text gives the same model.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{
  zstd -dcq slimpajama/train/*/*.jsonl.zst
  gzip -dc proof-pile/train/*.jsonl.gz
} | python3 -c '
import json, sys
for line in sys.stdin.buffer:
    print(json.loads(line)["text"])' > "$work/text"
# The model records file names and the number of threads, so both are fixed.
(cd "$work" && spm_train --input=text --model_prefix=tokenizer --model_type=bpe --vocab_size=4096 \
  --byte_fallback=true --split_digits=true --allow_whitespace_only_pieces=true --remove_extra_whitespaces=false \
  --normalization_rule_name=identity --add_dummy_prefix=true --character_coverage=0.9995 \
  --unk_id=0 --bos_id=1 --eos_id=2 --pad_id=-1 --max_sentence_length=65536 --input_sentence_size=0 \
  --num_threads=2 --minloglevel=1)
mv "$work/tokenizer.model" tokenizer.model
chmod 644 tokenizer.model
