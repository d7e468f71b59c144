#!/usr/bin/env bash
# Installs what the build needs: packages of the distribution, and LibTorch from pinned and hashed wheels under
# third_party/.venv. Safe to repeat: a second call only looks and returns.
#
#   scripts/setup.sh          what building and running dga needs
#   scripts/setup.sh --tests  the Python packages of the tests as well (the oracles, clang-format)
#
# Supported: Debian 12 and 13, Ubuntu 22.04 and 24.04, x86-64.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
  echo "setup: $*" >&2
  exit 1
}

with_tests=0
for argument in "$@"; do
  case "$argument" in
    --tests) with_tests=1 ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown argument '$argument'; known: --tests" ;;
  esac
done

readonly needed=(
  g++ ninja-build cmake ccache pkg-config git ca-certificates zstd
  libyaml-cpp-dev libspdlog-dev libfmt-dev nlohmann-json3-dev libcli11-dev
  libzstd-dev zlib1g-dev libxxhash-dev libsentencepiece-dev libgtest-dev
  python3 python3-venv python3-pip
)
readonly wanted=(mold) # links faster; everything works without it

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "these packages are missing and need root to install: ${missing[*]}
       run as root: apt-get install --no-install-recommends ${missing[*]}"
  fi
}

# Runs a command up to three times; networks drop.
retry() {
  local try
  for try in 1 2 3; do
    "$@" && return 0
    [ "$try" = 3 ] || { echo "setup: failed, trying again in $((try * 5)) s: $1 $2" >&2 && sleep $((try * 5)); }
  done
  return 1
}

install_packages() {
  command -v apt-get >/dev/null || die "this is no Debian or Ubuntu; install the equivalents of: ${needed[*]}"
  local name
  missing=()
  for name in "${needed[@]}"; do is_installed "$name" || missing+=("$name"); done
  if [ "${#missing[@]}" = 0 ]; then return 0; fi
  echo "setup: installing ${missing[*]}"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 -o Dpkg::Use-Pty=0)
  retry as_root "${apt[@]}" update || die "apt-get update failed"
  for name in "${wanted[@]}"; do
    if ! is_installed "$name" && apt-cache show "$name" >/dev/null 2>&1; then missing+=("$name"); fi
  done
  retry as_root "${apt[@]}" install -y --no-install-recommends "${missing[@]}" ||
    die "apt-get could not install the packages (on Ubuntu, is the component 'universe' enabled?)"
}

check_compiler() {
  local version
  version=$(${CXX:-g++} -dumpfullversion 2>/dev/null || ${CXX:-g++} -dumpversion)
  [ "${version%%.*}" -ge 11 ] || die "${CXX:-g++} is version $version; C++20 needs g++ 11 or newer (set CXX)"
}

# Prints the Python to build the environment with: the distribution's own, else the first on the PATH.
find_python() {
  local candidate
  for candidate in /usr/bin/python3 python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python 3.10 to 3.13 with the module venv; there are wheels of LibTorch 2.11.0 for these only"
}

# The distribution's CMake, or where that is older than 3.25 the wheel's.
needs_cmake_wheel() {
  local version
  version=$(cmake --version | sed -n '1s/[^0-9]*\([0-9]*\.[0-9]*\).*/\1/p')
  [ "$(printf '%s\n3.25\n' "$version" | sort -V | head -n 1)" != 3.25 ]
}

install_wheels() {
  local venv=third_party/.venv python file
  local stamp=$venv/.installed # checksums of the requirement files whose packages are there
  local files=(third_party/requirements.txt)
  if needs_cmake_wheel; then files+=(third_party/requirements-cmake.txt); fi
  if [ "$with_tests" = 1 ]; then
    files+=(third_party/requirements-format.txt)
    if [ -e tests/python/requirements.txt ]; then files+=(tests/python/requirements.txt); fi
  fi
  if [ -e "$stamp" ] && "$venv/bin/python" -c '' 2>/dev/null &&
    ! sha256sum "${files[@]}" | grep -vxFf "$stamp" >/dev/null; then
    return 0
  fi

  [ "$(uname -m)" = x86_64 ] || die "the pinned wheels are for x86-64, this is $(uname -m)"
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "setup: making $venv with $python ($("$python" --version))"
    rm -rf "$venv"
    "$python" -m venv "$venv" || die "$python -m venv failed"
  fi
  echo "setup: installing LibTorch and its libraries from wheels (the first time 0.5 GB or more to fetch, 4 GB on disk)"
  local arguments=()
  for file in "${files[@]}"; do arguments+=(-r "$file"); done
  retry "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: --require-hashes \
    "${arguments[@]}" || die "pip could not install the wheels of: ${files[*]}"
  sha256sum "${files[@]}" >"$stamp"
}

install_packages
check_compiler
install_wheels
echo "setup: ready"
