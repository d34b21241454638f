#!/usr/bin/env python3
"""The benchmark behind `make bench-roce`: NCCL's own IB transport and the Thalweg plugin on soft-RoCE, side by side.

Runs in the guest of roce.sh, as root: near and far are two ends of rails in one emulated machine. Each end has one of its
two cores, for the program and for its adapter's work. So the figures are far below any adapter's and only their ratios say
something. The rules are
bench.py's: every variant in turn, several times, the median counts, NCCL's best setting counts.
"""

import argparse
import os
import platform
import subprocess
import sys
import time

from bench import Bench, Row, Variant, add_options, peer_bench, table

REPORT_MS = 50
# An emulated core is slow: what a shaped rail carries must be far below what it can do.
FAST_MBIT, SLOW_MBIT = 60, 30


def sh(line):
    subprocess.run(line, shell=True, check=True, timeout=30)


def nccl_variant(queue_pairs, lib):
    env = {} if queue_pairs == "default" else {"NCCL_IB_QPS_PER_CONNECTION": queue_pairs}
    return Variant(f"nccl {queue_pairs}", False, env, ["--nccl", lib, "--builtin", "IB"])


class Rails:
    """Both ends of these rails, as roce-guest.sh made them."""

    interface = "lo"
    report_ms = REPORT_MS

    def __init__(self, *rails):
        self.rails = rails

    def address(self, _side):
        return "127.0.0.1"

    def env(self, side):
        devices = "=" + ",".join(f"rxe{side}{rail}" for rail in self.rails)
        # Thalweg finds the right GID by itself, and takes NCCL's settings where it has no own ones.
        return {"NCCL_IB_HCA": devices, "NCCL_IB_GID_INDEX": "1", "THALWEG_TRANSPORT": "verbs" }

    def command(self, side, argv):
        return ["taskset", "-c", "0" if side == "a" else "1", *argv]


class Shaped:
    """A rail whose near end has qdiscs, for a while."""

    def __init__(self, rail, mbit=None, loss=None):
        self.interface, self.mbit, self.loss = f"ra{rail}", mbit, loss

    def __enter__(self):
        self.set(self.loss)
        return self

    def set(self, loss):
        sh(f"tc qdisc del dev {self.interface} root 2>/dev/null || true")
        if loss:
            sh(f"tc qdisc add dev {self.interface} root handle 1: netem loss {loss} limit 10000")
        if self.mbit:
            parent = "parent 1:1 handle 2:" if loss else "root"
            sh(f"tc qdisc add dev {self.interface} {parent} tbf rate {self.mbit}mbit burst 32k limit 512k")

    def __exit__(self, *_):
        self.loss = None
        sh(f"tc qdisc del dev {self.interface} root 2>/dev/null || true")


def link(rail, is_up):
    """The near end's link; its route goes with it and is made again."""
    sh(f"ip link set ra{rail} {'up' if is_up else 'down'}")
    if is_up:
        sh(f"ip route replace 10.87.{rail}.2/32 dev ra{rail} src 10.87.{rail}.1 table {100 + 2 * rail}")


def sent_bytes(rail):
    with open(f"/sys/class/net/ra{rail}/statistics/tx_bytes", encoding="ascii") as counter:
        return int(counter.read())


# ---- scenes ---------------------------------------------------------------------------------------


def steady(bench, place, variant, size="256K"):
    """Goodput once every path has had time to be found."""
    seconds, settle = (4, 2) if bench.quick else (7, 3)
    run = peer_bench(bench, place, variant, ["--size", size, "--inflight", 8, "--seconds", seconds], seconds)
    return run.goodput(settle, seconds) if run.lines else None


def one_device(bench):
    rows = []
    for size in ("256K", "1M"):
        row = Row("one device", f"{size}iB, 8 in flight", "Gb/s", reach_ratio=1.1)
        for variant in bench.rounds(bench.device_settings):
            row.add(variant, steady(bench, Rails(0), variant, size))
        rows.append(row)
    return rows


def latency(bench):
    p50 = Row("one device, 8 bytes", "half round trip, p50", "us", higher_is_better=False, reach_ratio=1.0)
    p99 = Row("one device, 8 bytes", "half round trip, p99", "us", higher_is_better=False)
    for variant in bench.rounds(bench.latency_settings):
        run = peer_bench(bench, Rails(0), variant, ["--size", "8", "--pingpong", "--iters", 300 if bench.quick else 1000], 20)
        p50.add(variant, float(run.summary["p50_us"]) if run.error is None else None)
        p99.add(variant, float(run.summary["p99_us"]) if run.error is None else None)
    return [p50, p99]


def unequal(bench):
    """Ours over both rails, beside whoever is best on the faster one alone."""
    name = f"rails of {FAST_MBIT} and {SLOW_MBIT} Mb/s"
    both = Row(name, "both, 256 KiB", "Mb/s", reach_ratio=1.35)
    alone = Row(name, "the faster alone", "Mb/s")
    with Shaped(0, FAST_MBIT), Shaped(1, SLOW_MBIT):
        for variant in bench.rounds(bench.failure_settings):
            value = steady(bench, Rails(0), variant)
            alone.add(variant, value and value * 1e3)
            if variant.is_plugin:
                value = steady(bench, Rails(0, 1), variant)
            both.add(variant, value and value * 1e3)
    return [alone, both]


def lossy(bench):
    """One percent of one rail's packets is lost; beside it the clean rail alone."""
    name = f"rails of {FAST_MBIT} Mb/s, one loses 1 %"
    alone = Row(name, "the clean one alone", "Mb/s")
    both = Row(name, "both", "Mb/s", reach_ratio=0.9)
    share = Row(name, "bytes over the lossy one", "%", higher_is_better=False)
    with Shaped(0, FAST_MBIT, "1%"), Shaped(1, FAST_MBIT):
        for variant in bench.rounds(bench.failure_settings):
            value = steady(bench, Rails(1), variant)
            alone.add(variant, value and value * 1e3)
            if variant.is_plugin:
                before = [sent_bytes(rail) for rail in (0, 1)]
                value = steady(bench, Rails(0, 1), variant)
                bad, good = (sent_bytes(rail) - b for rail, b in zip((0, 1), before))
                share.add(variant, 100 * bad / (bad + good))
            both.add(variant, value and value * 1e3)
    return [alone, both, share]


def failure(bench, name, cut, heal):
    """One of two rails fails in the middle of a run and comes back; every byte is checked. NCCL has that rail alone."""
    cut_s, heal_s, seconds = (4, 7, 13) if bench.quick else (4, 8, 18)
    gap = Row(name, "longest gap", "ms", higher_is_better=False, reach_at=500)
    wrong = Row(name, "wrong messages", "", higher_is_better=False, reach_at=0)
    back = Row(name, "back on the rail after healing", "ms", higher_is_better=False)
    for variant in bench.rounds(bench.failure_settings):
        place = Rails(0, 1) if variant.is_plugin else Rails(0)
        healed = []

        def mend():
            heal()
            healed.extend((time.monotonic(), sent_bytes(0)))

        def watch():
            # A tenth of what a second brought before: more than probes.
            if healed and len(healed) == 2 and sent_bytes(0) - healed[1] > 400_000:
                healed.append(time.monotonic())

        events = [(cut_s, cut), (heal_s, mend), *((heal_s + 0.05 * k, watch) for k in range(1, int((seconds - heal_s) / 0.05)))]
        try:
            run = peer_bench(bench, place, variant, ["--size", "256K", "--inflight", 8, "--seconds", seconds, "--verify"],
                             seconds, events)
        finally:
            heal()
        ok = run.error is None
        gap.add(variant, run.longest_gap_ms(cut_s - 0.5, seconds) if ok else None)
        wrong.add(variant, int(run.summary["corrupt"]) if ok else None)
        back.add(variant, (healed[2] - healed[0]) * 1e3 if ok and len(healed) == 3 else None)
    return [gap, wrong, back]


def link_down(bench):
    return failure(bench, "link of 1 of 2 rails down", lambda: link(0, False), lambda: link(0, True))


def black_hole(bench):
    with Shaped(0) as rail:
        return failure(bench, "1 of 2 rails black-holed", lambda: rail.set("100%"), lambda: rail.set(None))


SCENES = {
    "device": one_device,
    "latency": latency,
    "unequal": unequal,
    "lossy": lossy,
    "link-down": link_down,
    "blackhole": black_hole,
}


class RoceBench(Bench):
    device_settings = ("default", "4")  # queue pairs for each connection
    latency_settings = failure_settings = ("default",)
    nccl_variant = staticmethod(nccl_variant)


def parse(argv):
    parser = argparse.ArgumentParser(description="Compare the Thalweg plugin with NCCL's own IB transport on soft-RoCE.")
    add_options(parser, SCENES)
    parser.add_argument("--nccl", required=True, help="NCCL's library")
    options = parser.parse_args(argv)
    if options.quick:
        options.repeat = 1
    options.queue = options.settings = None
    options.patience = 0
    return options


def main(argv):
    options = parse(argv)
    if not os.path.exists("/sys/class/infiniband/rxea0"):
        print("bench_roce.py: no soft-RoCE rails here: run it with 'make bench-roce'", file=sys.stderr)
        return 1
    bench, rows = RoceBench(options, options.nccl), []
    for scene in options.scene or SCENES:
        print(f"{scene}:", file=sys.stderr, flush=True)
        bench.scene = scene
        rows += SCENES[scene](bench)
    print(table(rows, "NCCL IB"))
    print(f"\nsoft-RoCE on {os.cpu_count()} emulated cores, kernel {platform.release()}; gaps in lines of {REPORT_MS} ms.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
