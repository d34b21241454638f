#!/usr/bin/env bash
# roce.sh: real RoCEv2 queue pairs without an adapter. Boots a Debian or Ubuntu kernel under QEMU on this machine's own
# files, makes soft-RoCE devices there, runs a command, and brings its output and exit status back.
#
#   roce.sh run [--rails N] [--minutes M] -- COMMAND ARGUMENTS...
#   roce.sh fetch              only fetches what is missing
#
# The guest's root is this machine's: what was built here runs there, and what is written there stays. roce-guest.sh
# says what the rails are. Software emulation: about 30 s to boot, and 20 to 50 times slower than here.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=${LAB_ROCE_DIR:-$root/target/roce}
vng_version=1.42
packages=(qemu-system-x86 busybox-static kmod udev cpio rdma-core ibverbs-providers ibverbs-utils iproute2 procps)

die() { printf 'roce.sh: %s\n' "$*" >&2; exit 1; }
say() { printf 'roce.sh: %s\n' "$*" >&2; }

fetch_packages() {
  local missing=() package
  for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  [ "$(id -u)" = 0 ] || die "missing: ${missing[*]}: run 'sudo apt-get install ${missing[*]}'"
  say "installing ${missing[*]}"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    >"$dir/apt.log" 2>&1 || die "apt-get could not install ${missing[*]}: $(tail -n 1 "$dir/apt.log")"
}

# The distribution's kernel with its modules, unpacked and not installed.
fetch_kernel() {
  [ -e "$dir/kernel/ready" ] && return
  local depends image tmp
  for image in linux-image-amd64 linux-image-generic; do
    depends=$(apt-cache depends "$image" 2>/dev/null |
      sed -n 's/^ *Depends: \(linux-\(image\|modules\(-extra\)\?\)-[0-9].*\)/\1/p')
    [ -n "$depends" ] && break
  done
  [ -n "$depends" ] || die 'neither linux-image-amd64 nor linux-image-generic is known to apt: run apt-get update'
  # Ubuntu has its modules in packages of their own.
  for image in $depends; do
    depends+=" $(apt-cache depends "$image" | sed -n 's/^ *Depends: \(linux-modules-[0-9].*\)/\1/p')"
  done
  tmp=$(mktemp -d "$dir/fetch.XXXXXX")
  # shellcheck disable=SC2086
  say "fetching" $depends
  # shellcheck disable=SC2046,SC2086
  (cd "$tmp" && apt-get download -qq $(printf '%s\n' $depends | sort -u)) >"$dir/kernel.log" 2>&1 ||
    die "apt-get could not fetch $depends: $(tail -n 1 "$dir/kernel.log")"
  local deb
  for deb in "$tmp"/*.deb; do dpkg -x "$deb" "$tmp/kernel"; done
  # Where /lib is a link to /usr/lib, packages may hold either.
  if [ -d "$tmp/kernel/usr/lib/modules" ]; then
    mkdir -p "$tmp/kernel/lib"
    mv "$tmp/kernel/usr/lib/modules" "$tmp/kernel/lib/modules"
  fi
  local version
  version=$(ls "$tmp/kernel/lib/modules")
  depmod -b "$tmp/kernel" "$version"
  touch "$tmp/kernel/ready"
  rm -rf "$dir/kernel"
  mv "$tmp/kernel" "$dir/kernel"
  rm -rf "$tmp"
}

fetch_vng() {
  [ -x "$dir/vng/bin/vng" ] && return
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-warn-script-location \
    --target "$dir/vng" "virtme-ng==$vng_version" >"$dir/pip.log" 2>&1 ||
    die "pip could not install virtme-ng==$vng_version: $(grep -v '^ *$' "$dir/pip.log" | tail -n 1)"
}

fetch() {
  mkdir -p "$dir"
  fetch_packages
  fetch_kernel
  fetch_vng
}

run() {
  local rails=2 minutes=20
  while [ $# -gt 0 ]; do
    case $1 in
      --rails) rails=$2; shift 2 ;;
      --minutes) minutes=$2; shift 2 ;;
      --) shift; break ;;
      *) die "unknown: $1; run is called as 'run [--rails N] [--minutes M] -- COMMAND'" ;;
    esac
  done
  [ $# -gt 0 ] || die 'no command: say what to run after --'
  [ "$(id -u)" = 0 ] || die 'the guest runs as root on the files of this machine: run it as root'
  fetch
  local version out extra=()
  # The guest has a /tmp of its own.
  case $root/ in /tmp/*) extra=(--rwdir "$root") ;; esac
  version=$(ls "$dir/kernel/lib/modules")
  out=$(mktemp -d "$dir/run.XXXXXX")
  printf '%q ' "$@" >"$out/command"
  : >"$out/output"
  tail -n +1 -f --pid=$$ "$out/output" &
  local tail=$!
  # shellcheck disable=SC2016
  # The modules have to be where the guest looks for them; only this process and QEMU see them there.
  PYTHONPATH=$dir/vng PATH=$dir/vng/bin:$PATH timeout --kill-after 10 "${minutes}m" unshare --mount bash -c '
    set -e
    mkdir -p /lib/modules
    mount --bind "$1/kernel/lib/modules" /lib/modules
    exec "$1/vng/bin/vng" --run "$1/kernel/boot/vmlinuz-$2" --disable-kvm --cpus 2 --memory 4G --append "clocksource=tsc tsc=reliable" --rw --cwd "$3" \
      "${@:5}" --exec "$4"' - "$dir" "$version" "$PWD" "$root/lab/roce-guest.sh $rails $out" "${extra[@]}" </dev/null >"$out/console" 2>&1 &&
    status=0 || status=$?
  sleep 0.5 # until all of it has been shown
  kill "$tail"
  wait "$tail" 2>/dev/null || true
  if [ -e "$out/status" ]; then
    status=$(cat "$out/status")
  elif [ "$status" = 124 ]; then
    say "stopped after $minutes minutes"
  else
    tail -n 20 "$out/console" >&2
    say "the guest did not come so far as to run the command (status $status)"
    status=75
  fi
  rm -rf "$out"
  return "$status"
}

case ${1:-} in
  run) shift; run "$@" ;;
  fetch) fetch ;;
  *) die "what? 'roce.sh run -- COMMAND' or 'roce.sh fetch'" ;;
esac
