#!/usr/bin/env bash
# roce-pci.sh COMMAND ARGUMENTS...: runs a command to which the soft-RoCE devices of each end look like the ports of one
# PCI adapter, as NCCL wants them before it makes one device of several. Runs in the guest of roce.sh.
set -euo pipefail

fake=$(mktemp -d)
trap 'rm -rf "$fake"' EXIT
mapfile -t places < <(ls -d /sys/bus/pci/devices/* | tail -n 2)
for device in /sys/class/infiniband/*; do
  name=$(basename "$device")
  mkdir "$fake/$name"
  ln -s "$(realpath "$device")"/* "$fake/$name/"
  case $name in
    rxea*) ln -sfn "$(realpath "${places[0]}")" "$fake/$name/device" ;;
    rxeb*) ln -sfn "$(realpath "${places[1]}")" "$fake/$name/device" ;;
  esac
done
# Only the command sees it.
# shellcheck disable=SC2016
unshare --mount bash -c 'mount --bind "$0" /sys/class/infiniband; exec "$@"' "$fake" "$@"
