#!/usr/bin/env bash
# fabric.sh: a network of several shaped paths between two hosts, on one machine, that can be broken
# while traffic runs. It exists so that the demo, the tests and the benchmarks all meet the same
# fabric. See README.md beside it for the picture and the reasons.
set -euo pipefail

# A name of its own per fabric lets several coexist; namespaces are $fabric-a, $fabric-b, $fabric-r0 …
fabric=${FABRIC:-thw}
state_dir=/run/thalweg-lab/$fabric

# Shaping. The bucket holds one 64 KiB segmentation-offload packet (tbf would otherwise cut it up, which
# costs a 2-core machine more than the transport under test); the queue behind it is what a switch with
# a modest buffer gives a port: 1 MB, 16 ms at 500 Mb/s. A full queue drops the newest packet.
burst_bytes=70000
queue_bytes=1000000 # up --queue changes it, and the fabric remembers
[ ! -f "$state_dir/queue" ] || queue_bytes=$(cat "$state_dir/queue")

usage() {
  cat <<'USAGE'
usage: fabric.sh up [--rates 500,500,500,500]    two hosts, one router and one rate (Mb/s) a path
       fabric.sh up --senders 16 [--rate 1000]   16 senders s0…s15 and one receiver b, every link at the rate
                      [--queue 1000000]          bytes a link's queue holds before it drops
       fabric.sh down
       fabric.sh cut K | heal K                  path K (from 0) loses every packet, silently, both ways
       fabric.sh rate K MBPS                     reshape path K, both ways
       fabric.sh linkdown K | linkup K           both hosts see path K lose and regain its carrier
       fabric.sh flap K [--period 2] [--seconds 60]   cut for half of every period, healed at the end
       fabric.sh exec HOST [--] COMMAND…         run a command on host a or b (or sender sK)
       fabric.sh addr HOST [-6]                  the address programs bind to; its interface is app0
       fabric.sh status [--json]                 bytes per path and direction, rates and states
FABRIC=name in the environment names the fabric (default thw), so that several can coexist.
USAGE
}

die() { printf 'fabric.sh: %s\n' "$*" >&2; exit 1; }

need_tools() {
  [ "$(id -u)" = 0 ] || die 'network namespaces need root: run it with sudo'
  for tool in ip tc python3; do
    command -v "$tool" >/dev/null || die "$tool is missing: install the packages iproute2 and python3"
  done
  [[ $fabric =~ ^[A-Za-z0-9_-]{1,40}$ ]] || die "FABRIC=$fabric: use letters, digits, - and _ only"
}

is_rate() { [[ $1 =~ ^[1-9][0-9]{0,5}$ ]]; }
need_fabric() { [ -d "$state_dir" ] || die "there is no fabric $fabric: run 'fabric.sh up' first"; }

need_path() {
  need_fabric
  [[ ${1:-} =~ ^[0-9]+$ && -f $state_dir/path$1 ]] || die "fabric $fabric has no path '${1:-}': paths are numbered from 0"
}

need_host() {
  need_fabric
  [[ ${1:-} =~ ^(a|b|s[0-9]+)$ && -e /run/netns/$fabric-$1 ]] || die "fabric $fabric has no host '${1:-}': use a, b or a sender sK"
}

# Our own namespaces only: FABRIC=thw must not take FABRIC=thw-2's.
namespaces() { ip netns list | awk -v p="$fabric" '$1 ~ "^" p "-(a|b|sw|[rs][0-9]+)$" {print $1}'; }

down() {
  rm -rf "$state_dir"
  namespaces | sed 's/^/netns del /' | ip -batch -
}

# in_namespace NS [SETTING=VALUE…] <<< 'ip lines, a line of --, tc lines': settings are paths below
# /proc/sys/net, where a * stands for every interface. One shell, one ip and one tc a namespace.
in_namespace() {
  local ns=$1 input
  shift
  input=$(cat)
  # shellcheck disable=SC2016 # the inner shell expands these
  ip netns exec "$ns" sh -c '
    for setting; do
      value=${setting#*=}
      for file in /proc/sys/net/${setting%=*}; do
        # Linux 6.1 takes ignore_routes_with_linkdown of IPv6, and yet calls it an error.
        [ ! -e "$file" ] || echo "$value" 2>/dev/null >"$file" || [ "$(cat "$file")" = "$value" ] || exit
      done
    done' sh "$@"
  ip -n "$ns" -batch - <<<"${input%%--*}"
  [[ $input != *--* ]] || tc -n "$ns" -batch - <<<"${input#*--}"
}

shape() { echo "qdisc replace dev $1 root tbf rate ${2}mbit burst $burst_bytes limit $queue_bytes"; }

# Every link has fixed hardware addresses and permanent neighbour entries: with ARP a path that loses
# everything would soon be noticed by the hosts' kernels, and would not be silent.
mac() { printf '02:86:%02x:%02x:%02x:%02x' "$1" "$2" "$3" "$4"; } # side, path, end (0 host, 1 router), 0

# No link-local addresses: nothing speaks on these links but what is measured.
lines_up() {
  ! $has_ipv6 || echo "link set $1 addrgenmode none"
  echo "link set $1 up"
}

# lines_link DEV SIDE PATH END: one end of the link between a host (side 0: a, 1: b) and a router.
lines_link() {
  local dev=$1 side=$2 path=$3 end=$4 net4 net6
  net4=10.86.$((side * 100 + 10 + path)) net6=fd86:$((side + 1)):$path
  lines_up "$dev"
  echo "addr replace $net4.$((1 + end))/24 dev $dev"
  echo "neigh replace $net4.$((2 - end)) lladdr $(mac "$side" "$path" $((1 - end)) 0) nud permanent dev $dev"
  if $has_ipv6; then
    echo "addr replace $net6::$((1 + end))/64 dev $dev nodad"
    echo "neigh replace $net6::$((2 - end)) lladdr $(mac "$side" "$path" $((1 - end)) 0) nud permanent dev $dev"
  fi
}

lines_router() {
  local path=$1
  echo 'link set lo up'
  lines_link to_a 0 "$path" 1
  lines_link to_b 1 "$path" 1
  echo "route replace 10.86.0.1/32 via 10.86.$((10 + path)).1"
  echo "route replace 10.86.0.2/32 via 10.86.$((110 + path)).1"
  if $has_ipv6; then
    echo "route replace fd86::1/128 via fd86:1:$path::1"
    echo "route replace fd86::2/128 via fd86:2:$path::1"
  fi
}

lines_host() { # side 0: a, 1: b
  local side=$1 paths=$2 path hops4='' hops6=''
  echo 'link set lo up'
  # The other end of app0 must not begin with that name: NCCL_SOCKET_IFNAME matches prefixes.
  lines_up stub
  lines_up app0
  echo "addr add 10.86.0.$((side + 1))/32 dev app0"
  $has_ipv6 && echo "addr add fd86::$((side + 1))/128 dev app0 nodad"
  for ((path = 0; path < paths; path++)); do
    lines_link "path$path" "$side" "$path" 0
    hops4+=" nexthop via 10.86.$((side * 100 + 10 + path)).2 dev path$path"
    hops6+=" nexthop via fd86:$((side + 1)):$path::2 dev path$path"
  done
  echo "route add 10.86.0.$((2 - side))/32 src 10.86.0.$((side + 1))$hops4"
  $has_ipv6 && echo "route add fd86::$((2 - side))/128 src fd86::$((side + 1))$hops6"
  return 0
}

# Hash on ports (policy 1), so that each connection takes a way of its own; a next hop whose carrier
# is gone is left out, as a real host does. Hosts answer on every path: no reverse-path filter.
host_settings=(
  'ipv4/fib_multipath_hash_policy=1' 'ipv6/fib_multipath_hash_policy=1' 'ipv4/conf/*/rp_filter=0'
  'ipv4/conf/*/ignore_routes_with_linkdown=1' 'ipv6/conf/*/ignore_routes_with_linkdown=1'
)
router_settings=('ipv4/ip_forward=1' 'ipv6/conf/all/forwarding=1' 'ipv4/conf/*/rp_filter=0')

up() {
  local rates=500,500,500,500 senders='' rate=1000
  while [ $# -gt 0 ]; do
    case $1 in
      --rates) rates=${2:-}; shift ;;
      --senders) senders=${2:-none}; shift ;;
      --rate) rate=${2:-}; shift ;;
      --queue) queue_bytes=${2:-}; shift ;;
      *) die "up: unknown option '$1'" ;;
    esac
    shift || die 'up: the last option lacks its value'
  done
  local list one
  if [ -n "$senders" ]; then
    [[ $senders =~ ^[1-9][0-9]?$ && $senders -le 64 ]] || die "up: --senders takes 1 to 64, not '$senders'"
    is_rate "$rate" || die "up: --rate takes whole Mb/s from 1, not '$rate'"
  else
    IFS=, read -ra list <<<"$rates"
    [[ ${#list[@]} -ge 1 && ${#list[@]} -le 64 ]] || die 'up: --rates takes 1 to 64 rates'
    for one in "${list[@]}"; do
      is_rate "$one" || die "up: --rates takes whole Mb/s from 1, such as 500,500,250,100, not '$one'"
    done
  fi
  [[ $queue_bytes =~ ^[0-9]{5,9}$ ]] || die "up: --queue takes bytes from 10000, not '$queue_bytes'"
  down
  mkdir -p "$state_dir"
  echo "$queue_bytes" >"$state_dir/queue"
  # A half-made fabric is worse than none.
  trap 'trap - EXIT; down; die "up failed (the line above says where); nothing is left of fabric $fabric"' EXIT
  if [ -n "$senders" ]; then
    up_senders "$senders" "$rate"
  else
    up_paths "${list[@]}"
  fi
  trap - EXIT
}

up_paths() {
  local paths=$# path rate
  {
    echo "netns add $fabric-a"
    echo "netns add $fabric-b"
    echo "link add name app0 netns $fabric-a type veth peer name stub netns $fabric-a"
    echo "link add name app0 netns $fabric-b type veth peer name stub netns $fabric-b"
    for ((path = 0; path < paths; path++)); do
      echo "netns add $fabric-r$path"
      echo "link add name path$path netns $fabric-a address $(mac 0 $path 0 0) type veth peer name to_a netns $fabric-r$path address $(mac 0 $path 1 0)"
      echo "link add name path$path netns $fabric-b address $(mac 1 $path 0 0) type veth peer name to_b netns $fabric-r$path address $(mac 1 $path 1 0)"
    done
  } | ip -batch -
  path=0
  for rate; do
    { lines_router $path; echo --; shape to_a "$rate"; shape to_b "$rate"; } | in_namespace "$fabric-r$path" "${router_settings[@]}"
    echo "up $rate" >"$state_dir/path$path"
    path=$((path + 1))
  done
  lines_host 0 "$paths" | in_namespace "$fabric-a" "${host_settings[@]}"
  lines_host 1 "$paths" | in_namespace "$fabric-b" "${host_settings[@]}"
}

# The incast fabric: a router rather than a bridge in the middle, because a packet that is received by a
# router no longer counts against its sender's socket. Across a bridge it still does, TCP's small queues
# hold the senders back, and no queue ever builds. A sender's own link is shaped on its side, as a NIC is.
up_senders() {
  local senders=$1 rate=$2 k
  {
    echo "netns add $fabric-sw"
    echo "netns add $fabric-b"
    echo "link add name app0 netns $fabric-b address $(mac 1 0 0 0) type veth peer name to_b netns $fabric-sw address $(mac 1 0 1 0)"
    for ((k = 0; k < senders; k++)); do
      echo "netns add $fabric-s$k"
      echo "link add name app0 netns $fabric-s$k address $(mac 0 $k 0 0) type veth peer name to_s$k netns $fabric-sw address $(mac 0 $k 1 0)"
    done
  } | ip -batch -
  echo "$senders $rate" >"$state_dir/senders"
  {
    echo 'link set lo up'
    lines_link to_b 1 0 1
    for ((k = 0; k < senders; k++)); do lines_link "to_s$k" 0 "$k" 1; done
    echo --
    shape to_b "$rate"
    for ((k = 0; k < senders; k++)); do shape "to_s$k" "$rate"; done
  } | in_namespace "$fabric-sw" "${router_settings[@]}"
  for ((k = 0; k < senders; k++)); do
    { lines_leaf 0 "$k"; echo --; shape app0 "$rate"; } | in_namespace "$fabric-s$k"
  done
  { lines_leaf 1 0; echo --; shape app0 "$rate"; } | in_namespace "$fabric-b"
}

lines_leaf() {
  echo 'link set lo up'
  lines_link app0 "$1" "$2" 0
  echo "route add default via 10.86.$(($1 * 100 + 10 + $2)).2"
  $has_ipv6 && echo "route add default via fd86:$(($1 + 1)):$2::2"
  return 0
}

addr() {
  need_host "${1:-}"
  local family=4 side=1
  [ "${2:-}" != -6 ] || family=6
  if [ -f "$state_dir/senders" ]; then
    local k=0
    [ "$1" = b ] || side=0 k=${1#s}
    [ $family = 4 ] && echo "10.86.$((side * 100 + 10 + k)).1" || echo "fd86:$((side + 1)):$k::1"
  else
    [ "$1" = b ] || side=0
    [ $family = 4 ] && echo "10.86.0.$((side + 1))" || echo "fd86::$((side + 1))"
  fi
}

# set_path K STATE RATE: brings path K's two shapers to what its state asks for, and notes it.
set_path() {
  local k=$1 state=$2 rate=$3
  if [ "$state" = cut ]; then
    # A queue of no length: nothing is told to anybody, and what was queued is lost as well.
    printf 'qdisc replace dev %s root pfifo limit 0\n' to_a to_b
  else
    shape to_a "$rate"
    shape to_b "$rate"
  fi | tc -n "$fabric-r$k" -batch - || die "path $k of fabric $fabric could not be changed"
  echo "$state $rate" >"$state_dir/path$k"
}

path_state() { cut -d' ' -f1 "$state_dir/path$1"; }
path_rate() { cut -d' ' -f2 "$state_dir/path$1"; }

change() { # cut, heal, rate, linkdown, linkup
  local what=$1 k=${2:-}
  need_path "$k"
  case $what in
    cut) set_path "$k" cut "$(path_rate "$k")" ;;
    heal) set_path "$k" up "$(path_rate "$k")" ;;
    rate)
      is_rate "${3:-}" || die "rate: give whole Mb/s from 1, not '${3:-}'"
      if [ "$(path_state "$k")" = up ]; then set_path "$k" up "$3"; else echo "$(path_state "$k") $3" >"$state_dir/path$k"; fi
      ;;
    linkdown)
      printf 'link set %s down\n' to_a to_b | ip -n "$fabric-r$k" -batch -
      echo "linkdown $(path_rate "$k")" >"$state_dir/path$k"
      ;;
    linkup) # taking a link down has flushed the router's addresses, neighbours and routes
      lines_router "$k" | ip -n "$fabric-r$k" -batch -
      set_path "$k" up "$(path_rate "$k")"
      ;;
  esac
}

flap() {
  local k=${1:-} period=2 seconds=60
  need_path "$k"
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      --period) period=${2:-}; shift ;;
      --seconds) seconds=${2:-}; shift ;;
      *) die "flap: unknown option '$1'" ;;
    esac
    shift || die 'flap: the last option lacks its value'
  done
  local number='^[0-9]+(\.[0-9]+)?$' half cycles
  [[ $period =~ $number && $seconds =~ $number ]] || die 'flap: --period and --seconds take seconds'
  read -r half cycles < <(awk -v p="$period" -v s="$seconds" 'BEGIN {print p / 2, (p > 0 ? int(s / p) : 0)}')
  [ "$cycles" -ge 1 ] || die 'flap: --seconds must hold at least one --period'
  # shellcheck disable=SC2064 # expanded here: the function's variables are gone by the time it runs
  trap "change heal $k" EXIT
  trap 'exit 1' INT TERM
  while [ "$cycles" -gt 0 ] && [ -d "$state_dir" ]; do
    change cut "$k"
    sleep "$half"
    change heal "$k"
    sleep "$half"
    cycles=$((cycles - 1))
  done
}

# Bytes are counted at the hosts: what a host received over a path, and what it put on it.
status() {
  need_fabric
  local hosts='a b'
  [ ! -f "$state_dir/senders" ] || hosts=$(namespaces | sed "s/^$fabric-//; /^sw$/d" | sort -V | tr '\n' ' ')
  for host in $hosts; do
    echo "$host $(ip -n "$fabric-$host" -j -s link show)"
  done | python3 -c '
import json, os, sys
fabric, state_dir, as_json = sys.argv[1], sys.argv[2], sys.argv[3] == "--json"
hosts = {}
for line in sys.stdin:
    host, links = line.split(" ", 1)
    hosts[host] = {link["ifname"]: link["stats64"] for link in json.loads(links)}
if "a" in hosts:
    rows = []
    for name in sorted((f for f in os.listdir(state_dir) if f.startswith("path")), key=lambda f: int(f[4:])):
        state, rate = open(os.path.join(state_dir, name)).read().split()
        a, b = hosts["a"][name], hosts["b"][name]
        rows.append({"path": int(name[4:]), "state": state, "rate_mbps": int(rate),
                     "a_to_b_bytes": b["rx"]["bytes"], "b_to_a_bytes": a["rx"]["bytes"],
                     "a_sent_bytes": a["tx"]["bytes"], "b_sent_bytes": b["tx"]["bytes"]})
    out = {"fabric": fabric, "paths": rows}
else:
    rate = int(open(os.path.join(state_dir, "senders")).read().split()[1])
    rows = [{"host": h, "rate_mbps": rate, "sent_bytes": s["app0"]["tx"]["bytes"], "received_bytes": s["app0"]["rx"]["bytes"]}
            for h, s in hosts.items()]
    out = {"fabric": fabric, "hosts": rows}
if as_json:
    print(json.dumps(out))
else:
    print("  ".join(rows[0]))
    for row in rows:
        print("  ".join(str(v).rjust(len(k)) for k, v in row.items()))
' "$fabric" "$state_dir" "${1:-}"
}

case ${1:-} in -h | --help | help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac
need_tools
has_ipv6=false
[ ! -e /proc/sys/net/ipv6 ] || has_ipv6=true
command=$1
shift
case $command in
  up) up "$@" ;;
  down) down ;;
  cut | heal | rate | linkdown | linkup) change "$command" "$@" ;;
  flap) flap "$@" ;;
  exec)
    need_host "${1:-}"
    host=$1
    shift
    [ "${1:-}" != -- ] || shift
    [ $# -gt 0 ] || die 'exec: give a command to run'
    exec ip netns exec "$fabric-$host" "$@"
    ;;
  addr) addr "$@" ;;
  status) status "$@" ;;
  *) die "unknown command '$command': run 'fabric.sh help'" ;;
esac
