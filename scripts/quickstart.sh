#!/usr/bin/env bash
# From a bare machine to a table of perplexities: sets up, builds dga, trains a small LLaMA with full attention at 512
# tokens of context on the text in data/, continues it with Dynamic Group Attention at 2048, and evaluates both. Under ten
# minutes after the build on two cores; a GPU is used if there is one. A second call goes on where the first stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

step "1/6  set up"
scripts/setup.sh

preset=${DGA_PRESET:-$(default_preset)}
step "2/6  build the program (preset $preset; the first time takes some minutes)"
configure_and_build "$preset" dga
dga=build/$preset/dga
"$dga" info
built=$SECONDS

full=runs/quickstart_full
grouped=runs/quickstart_dga

# export_model RUN_FOLDER: the newest checkpoint as a Hugging Face folder, reloaded and compared.
export_model() {
  [ -e "$1/hf/config.json" ] || "$dga" export "$1" --output "$1/hf" --check
}

step "3/6  train from random weights: full attention, 512 tokens of context"
"$dga" train configs/quickstart_full.yaml --resume
export_model "$full"

step "4/6  continue from the exported folder: Dynamic Group Attention, 2048 tokens of context"
"$dga" train configs/quickstart_dga.yaml --resume
export_model "$grouped"

# evaluate RESULT.json MODEL CONFIG [argument...]: prints nothing; a result that is there already is kept.
evaluate() {
  local result=$1 model=$2 config=$3
  shift 3
  [ -e "$result" ] || "$dga" eval "$config" --model "$model" --output "$result" "$@" >/dev/null
}

step "5/6  evaluate both models, with both kinds of attention, on text that neither has seen"
evaluate "$full/eval/full.json" "$full/hf" configs/quickstart_full.yaml
evaluate "$grouped/eval/full.json" "$grouped/hf" configs/quickstart_full.yaml
first=$("$dga" eval configs/quickstart_dga.yaml --model "$full/hf" --output "$full/eval/dga.json" --beside "$full/eval/full.json")
second=$("$dga" eval configs/quickstart_dga.yaml --model "$grouped/hf" --output "$grouped/eval/dga.json" --beside "$grouped/eval/full.json")

step "6/6  results"
"$dga" report "$full" "$grouped" --output runs/quickstart.html --title Quickstart
cat <<END

The model after the first run, trained with full attention at 512 tokens:
$(head -n -1 <<<"$first")

The model after the second run, continued with Dynamic Group Attention at 2048 tokens:
$(head -n -1 <<<"$second")

$(tail -n 1 <<<"$second")

How to read this. "NLL" is the loss in nats a token, "perplexity" its exponential. A model that knew only how often each
token of this text occurs would reach the unigram entropy. The bigram entropy is that of a table of all neighbouring pairs
of this very text; most pairs occur once in so short a text, so no model that has not seen it comes near.
"pairs/token" is how many entries a token compares itself with: what attention costs. "looks ahead": which tokens are
grouped depends on later ones, so that number is not the perplexity of decoding.

This took $(((SECONDS - built) / 60)) min $(((SECONDS - built) % 60)) s after the build. What it left:
  $full/hf, $grouped/hf  the models as Hugging Face folders
  runs/quickstart_*/metrics.jsonl          every step's loss, rate, gradient norm and speed
  runs/quickstart_*/eval/*.json            the numbers above with everything needed to repeat them
  runs/quickstart.html                     curves and results of both runs, for a browser
Next:
  $dga generate --model $full/hf --prompt "The "
  $dga config configs/quickstart_dga.yaml    what the second run was made of
  configs/llama2_7b_32k_dga.yaml             a real run; docs/config.md describes every field
END
