#!/usr/bin/env bash
# roce-tests.sh PROGRAM... -- [ARGUMENTS...]: the tests that `make test-roce` runs in the guest of roce.sh. `roce` is made
# for its devices; the others are what runs over TCP or loopback elsewhere, here over RDMA.
set -uo pipefail

lab=$(cd "$(dirname "$0")" && pwd)
programs=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  programs+=("$1")
  shift
done
shift
failed=0
for program in "${programs[@]}"; do
  name=$(basename "$program")
  arguments=("$@")
  # The plugin's tests have NCCL make one device of several, for which they need a place on PCI.
  under=("$lab/roce-pci.sh")
  case $name in
    roce-*) arguments+=(--include-ignored) under=() ;;
    parity-*) under=() ;;
  esac
  echo "== ${name%-*} over RDMA"
  start=$SECONDS
  THALWEG_TRANSPORT=verbs "${under[@]}" "$program" --test-threads=1 "${arguments[@]}" || failed=1
  echo "== $((SECONDS - start)) s"
done
exit $failed
