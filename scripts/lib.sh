# shellcheck shell=bash
# Shared by the scripts beside it; sourced from the top folder, with set -euo pipefail.

started=$SECONDS

# A heading with the time that went by since the script started.
step() {
  printf '\n== [%d:%02d] %s\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$1"
}

# Prints the path of cmake or ctest: the one that setup.sh installed where the distribution's is too old.
cmake_tool() {
  if [ -x "third_party/.venv/bin/$1" ]; then echo "$PWD/third_party/.venv/bin/$1"; else command -v "$1"; fi
}

# cuda where there is an nvcc of the CUDA that LibTorch's wheel was built for, else cpu.
default_preset() {
  local nvcc
  nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  if [ -x "$nvcc" ] && "$nvcc" --version | grep -q 'release 13\.'; then echo cuda; else echo cpu; fi
}

# configure_and_build PRESET TARGET
configure_and_build() {
  local cmake
  # CMake looks for nvcc on the PATH only.
  if ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then export CUDACXX=/usr/local/cuda/bin/nvcc; fi
  cmake=$(cmake_tool cmake)
  "$cmake" --preset "$1" >"$(configure_log "$1")" || { cat "$(configure_log "$1")" && return 1; }
  "$cmake" --build "build/$1" --target "$2" --parallel "$(nproc)"
}

configure_log() {
  mkdir -p "build/$1"
  echo "build/$1/configure.log"
}
