#!/usr/bin/env python3
"""verdicts.py: makes each kind of trouble in a lab of its own, records it, and asks `thalweg explain`.

    sudo lab/verdicts.py                                  all scenes; says which verdicts are right
    sudo lab/verdicts.py --keep tests/recordings [SCENE]… keeps what is recorded, on which the tests run

A scene is a network, programs on it, and something that is done to it. Those over TCP run in network namespaces of this
machine (fabric.sh). Those that need RDMA, or queues that mark or lose, run in the guest of roce.sh, which is booted once
for all of them: there everything is 20 to 50 times slower, so their rates are low. It takes release builds:

    cargo build --release --workspace --lib --bins --example net_perf
"""

import argparse
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LAB = Path(__file__).resolve().parent
ROOT = LAB.parent
GUEST = ROOT / "target/verdicts-guest"  # its programs
FABRIC_SH = str(LAB / "fabric.sh")
SECONDS = 4  # recorded, once the traffic has been under way for a while
SETTLE = 4  # half seconds of traffic before that; twice as many in the guest


class Scene:
    """A network, the traffic on it, what is done to it, and what is to be said: of a role's first link, of one that
    sends to a host, of a port, or of the host itself."""

    def __init__(self, name, expected, network, traffic, settings=None, trouble=None, is_guest=False):
        self.name, self.expected, self.network, self.traffic = name, expected, network, traffic
        self.settings, self.trouble, self.is_guest = settings or {}, trouble, is_guest


def sh(line):
    done = subprocess.run(line, shell=True, text=True, capture_output=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{line}: {done.stderr.strip()}")


# ---- networks -------------------------------------------------------------------------------------


class Fabric:
    """A fabric of namespaces; `then` is what is done once it is up, with {fabric} for its name, and `after` when it is gone."""

    env = {"THALWEG_TRANSPORT": "tcp", "THALWEG_IFNAME": "app0"}

    def __init__(self, up, sides, paths, then=(), after=()):
        self.up, self.sides, self.paths, self.then, self.after = up, sides, paths, then, after

    def __enter__(self):
        sh(f"{FABRIC_SH} up {self.up}")
        for line in self.then:
            sh(line.format(fabric=os.environ["FABRIC"]))
        return self

    def __exit__(self, *_):
        sh(f"{FABRIC_SH} down")
        for line in self.after:
            sh(line)

    def of(self, side):
        return [FABRIC_SH, "exec", side, "--"], {**self.env, "THALWEG_PATHS": str(self.paths)}


def ways(rates, then=(), queue=1_000_000, after=()):
    """Two hosts, and a path between them for each rate."""
    return Fabric(f"--rates {rates} --queue {queue}", ["a", "b"], rates.count(",") + 1, then, after)


def star(rate, *sides, then=()):
    """A switch with one port of the rate for each of these hosts: b, s0, s1 and so on."""
    return Fabric(f"--senders {len(sides) - 1} --rate {rate} --queue 400000", sides, 1, then)


class Rails:
    """The guest's RDMA rails, as roce-guest.sh made them; of each what the near end's interface is given, then MTUs."""

    sides = ["a", "b"]

    def __init__(self, *qdiscs, mtus=()):
        self.qdiscs, self.mtus = qdiscs, mtus

    def __enter__(self):
        for rail, mtu in enumerate(self.mtus):
            sh(f"ip link set ra{rail} mtu {mtu}; ip link set rb{rail} mtu {mtu}")
        for rail, qdisc in enumerate(self.qdiscs):
            for at, line in enumerate(qdisc):
                sh(f"tc qdisc add dev ra{rail} {f'parent {at}:1' if at else 'root'} handle {at + 1}: {line}")
        return self

    def __exit__(self, *_):
        for rail, qdisc in enumerate(self.qdiscs):
            if qdisc:
                sh(f"tc qdisc del dev ra{rail} root")
        for rail, _ in enumerate(self.mtus):
            sh(f"ip link set ra{rail} mtu 1500; ip link set rb{rail} mtu 1500")

    def of(self, side):
        devices = ",".join(f"rxe{side}{rail}" for rail, _ in enumerate(self.qdiscs))
        return [], {"THALWEG_TRANSPORT": "verbs", "THALWEG_HCA": f"={devices}", "THALWEG_PATHS": "4"}


def shaped(mbit, loss=None):
    lines = [f"tbf rate {mbit}mbit burst 32k limit 512k"]
    return [f"netem loss {loss} limit 10000", *lines] if loss else lines


def marking(dev, mbit, in_namespace):
    """A queue that marks (RED, ECN) in a shaper's place; unmarked packets that it should mark are dropped."""
    tc = f"tc -n {{fabric}}-{in_namespace} qdisc"
    return [
        f"{tc} replace dev {dev} root handle 1: tbf rate {mbit}mbit burst 70000 limit 1000000",
        f"{tc} add dev {dev} parent 1:1 handle 2: red limit 1000000 min 20000 max 60000 avpkt 1500 burst 20 "
        f"bandwidth {mbit}mbit probability 0.1 ecn",
    ]


def lossy_ipv6(dev, mbit, loss, in_namespace):
    tc = f"tc -n {{fabric}}-{in_namespace}"
    return [
        f"{tc} qdisc replace dev {dev} root handle 1: tbf rate {mbit}mbit burst 70000 limit 1000000",
        f"{tc} qdisc add dev {dev} parent 1:1 handle 2: drr",
        f"{tc} class add dev {dev} parent 2: classid 2:1 drr quantum 15000",
        f"{tc} class add dev {dev} parent 2: classid 2:2 drr quantum 15000",
        f"{tc} qdisc add dev {dev} parent 2:2 netem loss {loss} limit 10000",
        f"{tc} filter add dev {dev} parent 2: protocol ipv6 prio 1 matchall flowid 2:2",
        f"{tc} filter add dev {dev} parent 2: protocol all prio 2 matchall flowid 2:1",
    ]


def ecn(setting, *hosts):
    return [f"ip netns exec {{fabric}}-{host} sysctl -qw net.ipv4.tcp_ecn={setting}" for host in hosts]


# ---- troubles -------------------------------------------------------------------------------------


def freeze(side, stop_s, go_s):
    """Stops a side's program over and over."""

    def trouble(children, until):
        pid = children[side].pid
        while time.monotonic() < until:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(stop_s)
            os.kill(pid, signal.SIGCONT)
            time.sleep(go_s)

    return trouble


def broken(begin, end):
    """Something is broken for a while."""

    def trouble(_children, until):
        time.sleep(1.5)
        sh(begin)
        time.sleep(max(0, until - time.monotonic() - 1))
        sh(end)

    return trouble


def starve(side, burners):
    """A side's program gets little of one core, for others that matter more are there."""

    def trouble(children, until):
        pid = children[side].pid
        sh(f"taskset -a -c -p 0 {pid}; renice 17 -p {pid}; for task in /proc/{pid}/task/*; do renice 17 -p ${{task##*/}}; done")
        loops = [subprocess.Popen(["taskset", "-c", "0", "sh", "-c", "while :; do :; done"]) for _ in range(burners)]
        time.sleep(max(0, until - time.monotonic()))
        for loop in loops:
            loop.kill()
            loop.wait()

    return trouble


# ---- scenes ---------------------------------------------------------------------------------------

BULK = ["sendrecv", "--oneway", "-b", "4M", "-e", "4M"]
RDMA_BULK = ["sendrecv", "--oneway", "-b", "128K", "-e", "128K"]
SLOW_BULK = ["sendrecv", "--oneway", "-b", "128K", "-e", "128K"]
EXCHANGE = ["alltoall", "-b", "384K", "-e", "384K"]
SCENES = [
    Scene("full", {"sender": "shared"}, ways("200,200,200,200"), BULK),
    Scene("slow-path", {"sender": "slow-path"}, ways("300,300,300,60"), BULK),
    Scene("collision", {"sender": "path-collision"}, ways("200,200,200,200"), BULK, {"THALWEG_PATH_SEARCH": "off"}),
    Scene("cut", {"sender": "path-loss"}, ways("200,200,200,200"), BULK,
          trouble=broken(f"{FABRIC_SH} cut 1", f"{FABRIC_SH} heal 1")),
    Scene("receiver-stopped", {"sender": "receiver-host"}, ways("400,400"), BULK, trouble=freeze(1, 1.4, 0.1)),
    Scene("receiver-late", {"sender": "receiver-late", "receiver": "receiver-late"}, ways("400,400"),
          ["sendrecv", "--oneway", "-b", "1M", "-e", "1M", "--pause", "60"]),
    Scene("sender-stopped", {"sender": "software"}, ways("400,400"), BULK, trouble=freeze(0, 0.9, 0.1)),
    Scene("sender-late", {"receiver": "sender"}, ways("900,900"),
          ["pingpong", "-b", "64K", "-e", "64K", "--inflight", "1"]),
    Scene("starved", {"sender": "software"}, ways("400,400"), BULK, trouble=starve(0, 3)),
    Scene("small", {"sender": "latency"}, ways("20", [
        "tc -n {fabric}-r0 qdisc replace dev to_b root netem delay 5ms",
        "tc -n {fabric}-r0 qdisc replace dev to_a root netem delay 5ms"]),
          ["sendrecv", "--oneway", "-b", "1K", "-e", "1K", "--inflight", "1"], is_guest=True),
    Scene("incast", {"sender": "shared", "receiver": "receiver-shared"}, star(300, "b", "s0", "s1", "s2"),
          ["incast", "-b", "12M", "-e", "12M"]),
    # Three paths, and one way for all of them.
    Scene("marked", {"sender": "shared"}, ways("12", marking("to_b", 12, "r0") + ecn(1, "a", "b"), 400_000), SLOW_BULK,
          {"THALWEG_PATHS": "3", "THALWEG_PATH_SEARCH": "off"}, is_guest=True),
    Scene("marked-peer", {"10.86.110.1": "shared"},
          star(20, "s0", "b", "s1", then=marking("to_b", 5, "sw") + ecn(1, "s0", "s1", "b")), EXCHANGE, is_guest=True),
    Scene("half-ecn", {"10.86.110.1": "misconfigured"},
          star(20, "s0", "b", "s1", then=marking("to_b", 5, "sw") + marking("to_s1", 5, "sw") + ecn(1, "s0", "s1") + ecn(0, "b")),
          EXCHANGE, is_guest=True),
    # Two paths over one way, each with an address family of its own, of which one is hit.
    Scene("lossy-path", {"sender": "path-loss"}, ways("12", lossy_ipv6("to_b", 12, "2%", "r0"), 400_000), SLOW_BULK,
          {"THALWEG_PATHS": "2", "THALWEG_PATH_SEARCH": "off"}, is_guest=True),
    Scene("no-buffer", {"host": "receiver-host"}, ways(
        "6,6", ["sysctl -qw net.core.netdev_max_backlog=2"], after=["sysctl -qw net.core.netdev_max_backlog=1000"]),
          SLOW_BULK, is_guest=True),
    Scene("rdma-full", {"sender": "shared"}, Rails(shaped(20), shaped(20)), RDMA_BULK, is_guest=True),
    Scene("rdma-slow-rail", {"sender": "slow-path"}, Rails(shaped(24), shaped(10)), RDMA_BULK, is_guest=True),
    Scene("rdma-lossy-rail", {"sender": "path-loss", "rxea1:1": "path-loss"}, Rails(shaped(24), shaped(24, "2%")),
          RDMA_BULK, is_guest=True),
    Scene("rdma-link-down", {"sender": "path-loss", "rxea1:1": "worn-link"}, Rails(shaped(20), shaped(20)), RDMA_BULK,
          trouble=broken(
              "ip link set ra1 down",
              # Its route has gone with it.
              "ip link set ra1 up; ip route replace 10.87.1.2/32 dev ra1 src 10.87.1.1 table 102"), is_guest=True),
    # What is under way arrives without the program: all that it is missed for is to post further receives.
    Scene("rdma-receiver-stopped", {"sender": "receiver-late"}, Rails(shaped(20), shaped(20)), RDMA_BULK,
          trouble=freeze(1, 1.4, 0.1), is_guest=True),
    Scene("rdma-receiver-late", {"sender": "receiver-late", "receiver": "receiver-late"},
          Rails(shaped(24), shaped(24)), [*RDMA_BULK, "--pause", "200"], is_guest=True),
    Scene("rdma-mtu", {"sender": "shared", "rxea1:1": "misconfigured"}, Rails(shaped(20), shaped(20), mtus=(4200, 1500)),
          RDMA_BULK, is_guest=True),
]


def run(scene, programs, keep):
    with tempfile.TemporaryDirectory(prefix="thalweg-verdicts-") as folder:
        segments = Path(folder) / "segments"
        segments.mkdir()
        recording = Path(folder) / f"{scene.name}.gz"
        try:
            record(scene, programs, folder, segments, recording)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"FAIL {scene.name}: {error}", flush=True)
            return False
        explain = [programs["thalweg"], "explain", str(recording)]
        explained = subprocess.run([*explain, "--json"], capture_output=True, text=True, timeout=60, check=True)
        findings = json.loads(explained.stdout)["findings"]
        text = subprocess.run(explain, capture_output=True, text=True, timeout=60, check=True).stdout
        told = {}
        for finding in findings:
            told.setdefault(finding.get("role") or finding.get("port") or "host", finding["cause"])
            to = finding.get("peer", "").rsplit(":", 1)[0]
            if finding.get("role") == "sender" and finding["cause"] == scene.expected.get(to):
                told[to] = finding["cause"]
        told = {who: told.get(who, "nothing") for who in scene.expected}
        is_right = told == scene.expected
        wanted = "" if is_right else f" (expected {scene.expected})"
        print(f"{'ok  ' if is_right else 'FAIL'} {scene.name}: {told}{wanted}", flush=True)
        if not is_right or keep is None:
            print("    " + text.replace("\n", "\n    "), flush=True)
        if keep:
            place = Path(keep) if is_right else Path(keep) / "wrong"
            place.mkdir(parents=True, exist_ok=True)
            # `record` flushes each line: packed as a whole it is smaller.
            packed = gzip.compress(gzip.decompress(recording.read_bytes()), 9, mtime=0)
            (place / recording.name).write_bytes(packed)
        return is_right


def record(scene, programs, folder, segments, recording):
    settle, seconds = (2 * SETTLE, SECONDS + 2) if scene.is_guest else (SETTLE, SECONDS)
    meter = Path(folder) / "meter"  # rank 0 writes a line for each half second of traffic
    children = []
    with scene.network as network, meter.open("w", encoding="ascii") as lines:
        try:
            for rank, side in enumerate(network.sides):
                under, settings = network.of(side)
                if scene.is_guest:  # each end has one of the guest's two cores, as if it were a host
                    under = ["taskset", "-c", str(min(rank, 1)), *under]
                env = {k: v for k, v in os.environ.items() if not k.startswith(("NCCL_", "THALWEG_"))}
                env.update(RANK=str(rank), WORLD_SIZE=str(len(network.sides)), MASTER_ADDR=f"unix:{folder}/meet",
                           MASTER_PORT="1", THALWEG_SHM_DIR=str(segments), **(settings | scene.settings))
                argv = [programs["net_perf"], *scene.traffic, "--plugin", programs["plugin"], "--report", "500",
                        "--seconds", str(settle // 2 + seconds + (8 if scene.is_guest else 2))]
                if scene.is_guest:
                    # An emulated core that is polled all the time has none for its adapter's work; and at these rates
                    # a chunk of the usual size takes as long as a path may be silent.
                    argv += ["--nap", "500"]
                    env["THALWEG_CHUNK_BYTES"] = "16384"
                children.append(subprocess.Popen([*under, *map(str, argv)], env=env, stderr=subprocess.PIPE, text=True,
                                                 stdout=lines if rank == 0 else subprocess.DEVNULL))
            limit = time.monotonic() + 60
            while meter.read_text(encoding="ascii").count("\n") < settle and time.monotonic() < limit:
                time.sleep(0.1)
            # It begins before the trouble does, so that nothing of it is missing.
            recorder = subprocess.Popen(
                [programs["thalweg"], "record", str(recording), "--interval", "500ms", "--for", f"{seconds}s",
                 "--folder", str(segments)], stdout=subprocess.DEVNULL)
            if scene.trouble:
                scene.trouble(children, time.monotonic() + seconds - 0.5)
            recorder.wait(timeout=60)
            for child in children:
                try:
                    _, said = child.communicate(timeout=60)
                    if child.returncode != 0:
                        print(f"    {scene.name}: a program ended with {child.returncode}: {said.strip()}")
                except subprocess.TimeoutExpired:
                    print(f"    {scene.name}: a program does not end")
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="release", help="debug or release")
    parser.add_argument("--keep", help="put the recordings of right verdicts into this folder, others below it")
    parser.add_argument("--guest", action="store_true", help="this is the guest of roce.sh: run what belongs there")
    parser.add_argument("scenes", nargs="*", help="only these")
    options = parser.parse_args()
    built = ROOT / "target" / options.build
    programs = {"thalweg": built / "thalweg", "net_perf": built / "examples/net_perf",
                "plugin": built / "libnccl_net_thalweg.so"}
    if options.guest:
        folder = Path(tempfile.mkdtemp(prefix="thalweg-verdicts-"))
        programs = {name: folder / shutil.copy(GUEST / path.name, folder) for name, path in programs.items()}
    os.environ["FABRIC"] = f"verdicts{os.getpid()}"
    unknown = set(options.scenes) - {scene.name for scene in SCENES}
    if unknown:
        parser.error(f"no such scene: {', '.join(sorted(unknown))}")
    wanted = [scene for scene in SCENES if not options.scenes or scene.name in options.scenes]
    here = [scene for scene in wanted if scene.is_guest == options.guest]
    right = [run(scene, programs, options.keep) for scene in here]
    if right:
        print(f"{sum(right)} of {len(right)} verdicts are right", flush=True)
    status = 0 if all(right) else 1
    if len(here) < len(wanted) and not options.guest:
        keep = ["--keep", str(Path(options.keep).resolve())] if options.keep else []
        # The guest reads this machine's files slowly: what has no symbols is a tenth as large.
        for program in programs.values():
            sh(f"mkdir -p {GUEST}; strip -o {GUEST / program.name} {program}")
        names = [scene.name for scene in wanted if scene.is_guest]
        guest = [str(LAB / "roce.sh"), "run", "--", sys.executable, str(LAB / "verdicts.py"), "--guest", "--build",
                 options.build, *keep, *names]
        status = subprocess.run(guest, check=False).returncode or status
    sys.exit(status)


if __name__ == "__main__":
    main()
