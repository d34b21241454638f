#!/usr/bin/env bash
# gpu-check.sh: the plugin under the real NCCL on a real GPU. Two ranks on one GPU all-reduce with PyTorch's NCCL, over
# NCCL's own Socket transport and over the plugin in turn; every result is checked, and the two compared bit for bit.
#
#   gpu-check.sh [--install] [--plugin FILE] [OPTIONS]     gpu-check.sh --help names the options
#
# Exit status: 0 all of it is right, 1 something is not, 2 there is no GPU here and nothing was checked.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=${LAB_GPU_DIR:-$root/target/gpu-check}
venv=$dir/venv
library=$root/target/release/libnccl_net_thalweg.so
plugin=$root/target/release/libnccl-net-thalweg.so

die() { printf 'gpu-check.sh: %s\n' "$*" >&2; exit 1; }
say() { printf 'gpu-check.sh: %s\n' "$*" >&2; }
skip() { printf 'SKIPPED: no NVIDIA GPU here: %s\n' "$*"; exit 2; }

need_gpu() {
  command -v nvidia-smi >/dev/null || skip 'nvidia-smi is not installed'
  local list status=0
  list=$(timeout --kill-after 5 60 nvidia-smi -L 2>&1) || status=$?
  # Not the same as no GPU: something is there, and it is stuck.
  case $status in 124 | 137) die 'nvidia-smi does not answer: see to the driver first' ;; esac
  [[ $list == *'GPU '[0-9]*:* ]] || skip "nvidia-smi -L says '${list%%$'\n'*}'"
}

# Prints what is wrong with PyTorch here; status 3 where installing it would help.
probe_torch() {
  timeout --kill-after 5 180 "$1" - <<'PY'
import sys
try:
    import torch
except ModuleNotFoundError as error:
    print("PyTorch is missing" if error.name == "torch" else f"PyTorch cannot be loaded: {error}")
    sys.exit(3)
except (ImportError, OSError) as error:
    print(f"PyTorch cannot be loaded: {str(error).splitlines()[0]}")
    sys.exit(3)
if torch.version.cuda is None:
    print(f"PyTorch {torch.__version__} is built without CUDA")
    sys.exit(3)
wrong = None
if not torch.cuda.is_available():
    wrong = f"PyTorch {torch.__version__} cannot use the GPU: is the driver too old for its CUDA {torch.version.cuda}?"
elif not torch.distributed.is_nccl_available():
    wrong = f"PyTorch {torch.__version__} is built without NCCL"
elif torch.cuda.nccl.version() < (2, 21):  # the first that takes a plugin by its path
    wrong = f"PyTorch {torch.__version__} brings an NCCL older than 2.21"
if wrong:
    print(wrong)
    sys.exit(1)
PY
}

# Sets $python to one whose PyTorch will do.
need_torch() {
  python=python3
  [ ! -e "$venv/ready" ] || python=$venv/bin/python
  command -v "$python" >/dev/null || die 'python3 is missing: install it'
  local wrong status=0
  wrong=$(probe_torch "$python" 2>&1) || status=$?
  [ "$status" != 0 ] || return 0
  [ "$status" = 3 ] || die "${wrong##*$'\n'}"
  [ "$install" = yes ] || die "${wrong##*$'\n'}: run" \
    "'python3 -m venv $venv && $venv/bin/python -m pip install torch && touch $venv/ready'," \
    "or this with --install, which does just that (several gigabytes)"
  say "installing PyTorch into $venv (several gigabytes)"
  mkdir -p "$dir"
  rm -rf "$venv"
  { python3 -m venv "$venv" && timeout --kill-after 5 45m "$venv/bin/python" -m pip install --quiet \
    --disable-pip-version-check torch; } >"$dir/pip.log" 2>&1 ||
    die "PyTorch could not be installed: $(grep -v '^ *$' "$dir/pip.log" | tail -n 1)"
  touch "$venv/ready"
  python=$venv/bin/python
  wrong=$(probe_torch "$python" 2>&1) || die "${wrong##*$'\n'}"
}

need_plugin() {
  if [ ! -e "$plugin" ]; then
    if [ ! -e "$library" ]; then
      command -v "${CARGO:-cargo}" >/dev/null ||
        die "the plugin is not built and cargo is missing: build it elsewhere and say --plugin FILE"
      say 'building the plugin'
      timeout --kill-after 5 60m "${CARGO:-cargo}" build --release --locked --manifest-path "$root/Cargo.toml" \
        --target-dir "$root/target" -p thalweg-nccl-plugin >&2
    fi
    make --no-print-directory -C "$root" names >&2
  fi
  # Said and not mended: the machine with the GPU may have no compiler. -L, because the plugin's name is a link.
  [ -z "$(find -L "$root/src" "$root/nccl-plugin/src" -name '*.rs' -newer "$plugin" -print -quit)" ] ||
    say "$plugin may be out of date: some source is newer ('make build' builds it)"
}

install=no backend=nccl arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --plugin=* | --backend=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
    --install) install=yes ;;
    --plugin) [ $# -gt 1 ] || die '--plugin takes a file'; plugin=$2; shift
      [ -e "$plugin" ] || die "there is no $plugin" ;;
    --backend) [ $# -gt 1 ] || die '--backend takes nccl or gloo'; backend=$2; shift ;;
    -h | --help) exec python3 "$root/lab/gpu_check.py" --help ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

python=python3
if [ "$backend" = nccl ]; then
  need_gpu
  need_torch
  need_plugin
fi
exec "$python" "$root/lab/gpu_check.py" --plugin "$plugin" --backend "$backend" --logs "$dir/logs" \
  ${arguments[@]+"${arguments[@]}"}
