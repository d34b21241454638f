#!/usr/bin/env bash
# chromium.sh: prints the path of a Chromium or Chrome. Where there is none, and this is root, it installs Debian's, with
# a font: a page without letters cannot be looked at.
set -euo pipefail

die() { printf 'chromium.sh: %s\n' "$*" >&2; exit 1; }

find_it() {
  local name
  for name in chromium chromium-browser google-chrome google-chrome-stable; do
    # Ubuntu's package is a snap, which may not see our files, and without snapd only says so.
    if command -v "$name" >/dev/null && ! grep -q /snap/ "$(command -v "$name")" 2>/dev/null; then
      command -v "$name" && return
    fi
  done
  return 1
}

if ! find_it; then
  command -v apt-get >/dev/null || die 'no Chromium and no apt-get: install one'
  apt-cache policy chromium 2>/dev/null | grep -q 'Candidate: [0-9]' || [ "$(id -u)" != 0 ] || apt-get update -qq >&2
  apt-cache policy chromium 2>/dev/null | grep 'Candidate: [0-9]' | grep -qv snap || die 'this distribution has no package of it: install one'
  [ "$(id -u)" = 0 ] || die "no Chromium: run 'sudo apt-get install --no-install-recommends chromium fonts-dejavu-core'"
  printf 'chromium.sh: installing the package chromium (about 100 MB)\n' >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null 2>&1 ||
    die 'the package chromium cannot be installed'
  find_it || die 'the package chromium has no program of that name'
fi
