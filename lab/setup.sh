#!/bin/bash
# Installs what building and testing need and this machine lacks, on Debian and Ubuntu as root; otherwise says what
# to run.
set -euo pipefail

packages=(gcc make cmake libclang-dev iproute2 nftables python3 python3-pip gdb valgrind)
programs=(gcc make cmake ip nft python3 gdb valgrind)
rust=1.88

as_root() { # what to run, and why
  if [ "$(id -u)" != 0 ]; then
    echo "$2: run 'sudo $1'" >&2
    exit 1
  fi
  echo "$2: $1"
  bash -c "$1" || { echo "$2, and '$1' failed: see its error above" >&2; exit 1; }
}

has_rust() {
  local have
  have=$(${CARGO:-cargo} --version 2>/dev/null | cut -d' ' -f2) || return 1
  [ "$(printf '%s\n' "$rust" "$have" | sort -V | head -n 1)" = "$rust" ]
}

missing=()
for program in "${programs[@]}"; do
  command -v "$program" >/dev/null || missing+=("$program")
done
python3 -m pip --version >/dev/null 2>&1 || missing+=(pip)
# The bindings of libibverbs are made with it.
has_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm*/lib/libclang.so*' || compgen -G '/usr/lib*/libclang.so*'
}
has_libclang >/dev/null || missing+=(libclang)
if [ ${#missing[@]} -gt 0 ]; then
  as_root "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq ${packages[*]}" \
    "missing: ${missing[*]}"
fi
if ! has_rust && [ -x "$HOME/.cargo/bin/cargo" ]; then
  echo "Rust is installed, but not on the path: run '. \$HOME/.cargo/env' first" >&2
  exit 1
fi
if ! has_rust; then
  if ! apt-cache policy rustup 2>/dev/null | grep -q 'Candidate: [0-9]'; then
    echo "Rust $rust or later is missing, and this distribution has no rustup: install it from https://rustup.rs" >&2
    exit 1
  fi
  as_root "apt-get install -y -qq rustup && rustup toolchain install stable" \
    "Rust $rust or later is missing"
fi
