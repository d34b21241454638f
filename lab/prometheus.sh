#!/usr/bin/env bash
# prometheus.sh: fetches Debian's (or Ubuntu's) Prometheus and prints the folder of its programs. The package is unpacked
# here and not installed: no service is started, and being root is needed only where apt has no lists yet.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=${LAB_PROMETHEUS_DIR:-$root/target/prometheus}
bin=$dir/usr/bin

die() { printf 'prometheus.sh: %s\n' "$*" >&2; exit 1; }

if [ ! -x "$bin/prometheus" ] || [ ! -x "$bin/promtool" ]; then
  command -v apt-get >/dev/null || die "no apt-get: put prometheus and promtool into $bin"
  mkdir -p "$dir"
  tmp=$(mktemp -d "$dir/fetch.XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  fetch() { (cd "$tmp" && apt-get download -qq prometheus >log 2>&1); }
  printf 'prometheus.sh: fetching the package prometheus (about 20 MB)\n' >&2
  if ! fetch && [ "$(id -u)" = 0 ]; then
    apt-get update -qq >"$tmp/log" 2>&1 && fetch
  fi || die "it could not be fetched: $(tail -n 1 "$tmp/log"); or put prometheus and promtool into $bin"
  dpkg-deb --extract "$tmp"/prometheus_*.deb "$tmp/package"
  # Whole or not at all.
  rm -rf "$dir/usr"
  mv "$tmp/package/usr" "$dir/usr"
fi
printf '%s\n' "$bin"
