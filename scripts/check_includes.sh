#!/usr/bin/env bash
# Checks that every folder includes only what it may. The table says which components a component stands on; the
# compiler enforces most of it through the CMake targets, this script the rest. Prints one line for each violation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

declare -A may_include=(
  [kernels]=""
  [util]=""
  [config]="util"
  [tensor]="util kernels"
  [dist]="util config kernels"
  [data]="util config"
  [ops]="util kernels tensor"
  [attention]="util config ops tensor"
  [model]="util config ops attention tensor"
  [loss]="util config ops tensor"
  [optim]="util config ops dist tensor"
  [checkpoint]="util config dist tensor"
  [run]="util config kernels attention checkpoint data dist eval loss model optim train"
  [eval]="util config tensor data attention model loss dist run"
  [decode]="util config tensor data attention model run"
  [train]="util config tensor dist data ops attention model loss optim checkpoint eval run"
  [bench]="util config tensor kernels ops attention dist run train"
  [report]="util config run"
  [sweep]="util config run report"
  [apps]="util config tensor dist data ops attention model loss optim checkpoint eval decode train bench run report sweep kernels"
)
# Components that must build without LibTorch.
readonly without_torch=" kernels util config data run report sweep "

problems=0
report() {
  echo "$1: $2"
  problems=$((problems + 1))
}

check_own() { # place, component, included path
  local other=${3%%/*}
  [[ $3 == */* ]] || return 0 # a generated header
  [[ $other == "$2" ]] && return 0
  if [[ -z ${may_include[$other]+known} ]]; then
    report "$1" "\"$3\" is in no known component (include root is src/, and kernels/ from the top)"
  elif [[ " ${may_include[$2]} " != *" $other "* ]]; then
    report "$1" "src/$2 may not include \"$3\"; it may include: ${may_include[$2]:-nothing but itself}"
  fi
}

check_foreign() { # place, component, included path
  case "$3" in
    torch/torch.h | torch/nn* | torch/optim*) report "$1" "<$3> is not used here; <ATen/ATen.h> and <torch/autograd.h> do" ;;
    ATen/* | torch/* | c10/*) [[ $without_torch != *" $2 "* ]] || report "$1" "$2 must build without LibTorch, not include <$3>" ;;
    spdlog/* | fmt/*) [[ $2 == util ]] || report "$1" "<$3> clashes with LibTorch's fmt; use util/log.h" ;;
    CLI/Version.hpp) ;;
    CLI/*) [[ $2 == apps ]] || report "$1" "<$3> belongs to src/apps" ;;
    yaml-cpp/*) [[ $2 == config ]] || report "$1" "<$3> belongs to src/config: after loading nobody reads YAML" ;;
  esac
}

while IFS= read -r line; do
  place=${line%%:\#*}
  path=${place%:*}
  component=${path%%/*}
  if [[ $component == src ]]; then
    component=${path#src/}
    component=${component%%/*}
  fi
  if [[ -z ${may_include[$component]+known} ]]; then
    report "$place" "src/$component is not in the table of scripts/check_includes.sh"
    continue
  fi
  case "$line" in
    *\"*) included=${line#*\"} && check_own "$place" "$component" "${included%%\"*}" ;;
    *\<*) included=${line#*<} && check_foreign "$place" "$component" "${included%%>*}" ;;
  esac
done < <(grep -rnE '^#include' src kernels --include='*.h' --include='*.cpp' --include='*.cu' --include='*.cuh')

if [[ $problems != 0 ]]; then
  echo "check_includes: $problems found" >&2
  exit 1
fi
echo "check_includes: every folder includes only what it may"
