#!/usr/bin/env bash
# roce-guest.sh RAILS FOLDER: what roce.sh runs in its guest. Makes the rails and runs the command in FOLDER/command, with
# its output in FOLDER/output and its exit status in FOLDER/status.
#
# Rail K is a pair of interfaces with a soft-RoCE device on each, as on two hosts that a cable joins:
#
#   near K: ra<K>, 10.87.<K>.1, rxea<K>   ──   far K: rb<K>, 10.87.<K>.2, rxeb<K>
#
# Both ends are in one network namespace, because rxe of kernel 6.1 knows no other; policy routing sends what goes from
# one end's address to the other's over the wire, so that netem and tbf on either interface act on it.
set -euo pipefail
rails=$1 out=$2
exec >"$out/output" 2>&1

modprobe -a rdma_rxe veth sch_netem sch_tbf
ip link set lo up
set_all() { sysctl -qw "net.ipv4.conf.$1.rp_filter=0" "net.ipv4.conf.$1.accept_local=1"; }
set_all all
set_all default
# Policy rules come before the local table.
ip rule add pref 100 lookup local
ip rule del pref 0
for ((k = 0; k < rails; k++)); do
  near=10.87.$k.1 far=10.87.$k.2
  ip link add "ra$k" type veth peer name "rb$k"
  set_all "ra$k"
  set_all "rb$k"
  ip addr add "$near/24" dev "ra$k"
  ip addr add "$far/24" dev "rb$k"
  # What arrives at an end is that end's processor's work, as if it were a host.
  echo 1 >"/sys/class/net/ra$k/queues/rx-0/rps_cpus"
  echo 2 >"/sys/class/net/rb$k/queues/rx-0/rps_cpus"
  ip link set "ra$k" up
  ip link set "rb$k" up
  ip route add "$far/32" dev "ra$k" src "$near" table $((100 + 2 * k))
  ip rule add pref 10 from "$near" to "$far" iif lo lookup $((100 + 2 * k))
  ip route add "$near/32" dev "rb$k" src "$far" table $((101 + 2 * k))
  ip rule add pref 11 from "$far" to "$near" iif lo lookup $((101 + 2 * k))
  rdma link add "rxea$k" type rxe netdev "ra$k"
  rdma link add "rxeb$k" type rxe netdev "rb$k"
done
set +e
bash -c "$(cat "$out/command")"
echo $? >"$out/status"
