#!/usr/bin/env bash
# nccl.sh: fetches the official NCCL library and prints the path of its libnccl.so.2. The benchmarks
# compare with NCCL's own Socket transport, and the tests run the whole of it; neither needs a GPU.
# The version is pinned: nccl_cpu.c knows the layouts of this one and refuses any other.
set -euo pipefail

version=2.30.7
package=nvidia-nccl-cu13
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=${LAB_NCCL_DIR:-$root/target/nccl}
lib=$dir/$version/libnccl.so.2

die() { printf 'nccl.sh: %s\n' "$*" >&2; exit 1; }

if [ ! -f "$lib" ]; then
  command -v python3 >/dev/null || die 'python3 is missing: install it'
  python3 -m pip --version >/dev/null 2>&1 || die 'pip is missing: install python3-pip'
  mkdir -p "$dir" || die "$dir cannot be made: set LAB_NCCL_DIR to a folder that can be written"
  tmp=$(mktemp -d "$dir/fetch.XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  printf 'nccl.sh: fetching %s==%s (about 200 MB)\n' "$package" "$version" >&2
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --dest "$tmp" "$package==$version" >"$tmp/log" 2>&1 ||
    die "pip could not fetch $package==$version: $(grep -v '^ *$' "$tmp/log" | tail -n 1); or put the library at $lib"
  # Only the library is taken out of the wheel, and put in place whole or not at all.
  python3 - "$tmp" <<'PY' || die "the wheel of $package==$version holds no libnccl.so.2"
import glob, shutil, sys, zipfile
with zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith("/libnccl.so.2"))
    with wheel.open(name) as source, open(sys.argv[1] + "/libnccl.so.2", "wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
PY
  mkdir -p "$dir/$version"
  mv "$tmp/libnccl.so.2" "$lib"
fi
printf '%s\n' "$lib"
