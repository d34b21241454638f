#!/usr/bin/env bash
# roce-nccl.sh PLUGIN: the real NCCL, whole, on CPUs, over soft-RoCE: all-reduces of two ranks through the plugin, each
# with both rails of its end, every element checked. Runs in the guest of roce.sh.
set -euo pipefail

plugin=$(realpath "$1")
lab=$(cd "$(dirname "$0")" && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export NCCL_CPU_LIB NCCL_NET_PLUGIN=$plugin NCCL_SOCKET_IFNAME=lo NCCL_DEBUG=INFO THALWEG_TRANSPORT=verbs
NCCL_CPU_LIB=$("$lab/nccl.sh")

rank() { # NUMBER SIDE
  THALWEG_HCA="=rxe${2}0,rxe${2}1" NCCL_DEBUG_FILE="$out/nccl.$1" timeout 280 "$lab/../target/lab/nccl_cpu" \
    --ranks 2 --rank "$1" --id-file "$out/id" -b 8K -e 2M -f 16 -n 2 -w 1 --timeout 240 --check-all
}

rank 1 b >"$out/rank1" 2>&1 &
rank 0 a >"$out/rank0" 2>&1 || { cat "$out"/rank* "$out"/nccl.*; exit 1; }
wait $! || { cat "$out/rank1" "$out/nccl.1"; exit 1; }
cat "$out/rank0"
grep -h -m 1 thalweg "$out/nccl.0"
# Its last column tells the wrong elements.
awk '/^ *[0-9]/ { lines++; wrong += $NF } END { exit !(lines >= 3 && wrong == 0) }' "$out/rank0" ||
  { echo "roce-nccl.sh: too few results, or wrong ones"; exit 1; }
grep -q 'rxea0.*RoCE' "$out/nccl.0" || { echo "roce-nccl.sh: NCCL did not go over RDMA"; cat "$out/nccl.0"; exit 1; }
# Under roce-pci.sh NCCL makes one device of the two.
if [ -e /sys/class/infiniband/rxea0/device ]; then
  grep -q 'device 2 is rxea0+rxea1' "$out/nccl.0" ||
    { echo "roce-nccl.sh: NCCL has not merged the two ports"; cat "$out/nccl.0"; exit 1; }
  echo "ok: and with both ports merged by NCCL"
fi
echo "ok: the real NCCL over soft-RoCE"
