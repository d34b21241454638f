#!/usr/bin/env python3
"""The benchmark behind `make bench`: NCCL's own Socket transport and the Thalweg plugin, side by side.

Every scene runs both in one session, in turn and several times, through the same program (peer_bench,
or the real NCCL on CPUs), because figures from different days or different programs compare nothing.
NCCL is given several settings of sockets and threads, its default included; the best one counts.
Goodput and gaps are what the receiver saw, in lines of 10 ms. One run at a time: both sides of a run
poll, so two runs at once would measure each other. Needs root for all but the loopback scenes.
"""

import argparse
import fcntl
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field

LAB = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(LAB)
FABRIC_SH = os.path.join(LAB, "fabric.sh")
REPORT_MS = 10
# Longest any run may outlive its planned length before it is ended: a transport that hangs is a result.
GRACE_S = 12.0


class BenchError(Exception):
    """Something the user has to put right before anything can be measured."""


# ---- what is compared -----------------------------------------------------------------------------


@dataclass
class Variant:
    """One transport with its settings."""

    label: str
    is_plugin: bool
    env: dict
    peer_bench_args: list


@dataclass
class Row:
    """One figure of a scene, for every variant: a list of repetitions, None where a run gave none."""

    scene: str
    figure: str
    unit: str
    higher_is_better: bool = True
    reach_at: float | None = None  # an absolute figure to reach …
    reach_ratio: float | None = None  # … or a multiple of NCCL's best
    best_counts: bool = False  # the best repetition counts, not the median
    values: dict = field(default_factory=dict)

    def add(self, variant, value):
        self.values.setdefault(variant.label, []).append(value)

    def counting(self, label):
        """The figure that counts of all repetitions; a run without one counts as the worst."""
        worst = float("-inf") if self.higher_is_better else float("inf")
        runs = [worst if v is None else v for v in self.values.get(label, [])]
        if self.best_counts:
            figure = max(runs) if self.higher_is_better else min(runs)
        else:
            figure = statistics.median_low(runs) if self.higher_is_better else statistics.median_high(runs)
        return None if figure == worst else figure

    def best(self, labels):
        """The best variant among these: its figure and its label."""
        figures = [(f, label) for label in labels if label in self.values and (f := self.counting(label)) is not None]
        if not figures:
            return None, None
        return max(figures) if self.higher_is_better else min(figures)

    def target(self, nccl):
        if self.reach_at is not None:
            return self.reach_at
        return None if nccl is None or self.reach_ratio is None else self.reach_ratio * nccl


def nccl_variant(setting, lib):
    """`default`, or THREADSxSOCKETS as in 4x4: NCCL_SOCKET_NTHREADS and NCCL_NSOCKS_PERTHREAD."""
    env = {}
    if setting != "default":
        threads, sockets = setting.split("x")
        env = {"NCCL_SOCKET_NTHREADS": threads, "NCCL_NSOCKS_PERTHREAD": sockets}
    return Variant(f"nccl {setting}", False, env, ["--nccl", lib, "--builtin", "Socket"])


# ---- places to run in -----------------------------------------------------------------------------


class Loopback:
    """Both sides on this host."""

    interface = "lo"
    report_ms = REPORT_MS

    def address(self, _side):
        return "127.0.0.1"

    def env(self, _side):
        return {}

    def command(self, _side, argv):
        return argv


class Fabric:
    """Two hosts and shaped paths, from fabric.sh; made on entry, gone on exit."""

    interface = "app0"
    report_ms = REPORT_MS

    def __init__(self, bench, rates):
        self.rates, self.options = rates, ["--queue", bench.queue] if bench.queue else []

    def __enter__(self):
        self.call("up", "--rates", ",".join(map(str, self.rates)), *self.options)
        return self

    def __exit__(self, *_):
        self.call("down")

    def call(self, *args):
        done = subprocess.run([FABRIC_SH, *map(str, args)], text=True, capture_output=True, timeout=30, check=False)
        if done.returncode != 0:
            raise BenchError(done.stderr.strip() or f"fabric.sh {args[0]} failed")
        return done.stdout.strip()

    def address(self, side):
        return self.call("addr", side)

    def env(self, _side):
        return {}

    def command(self, side, argv):
        return [FABRIC_SH, "exec", side, "--", *argv]

    def busiest_path(self, over_s=0.5):
        """The path that carries most towards b now: cutting one that nobody uses would show nothing."""

        def delivered():
            return [p["a_to_b_bytes"] for p in json.loads(self.call("status", "--json"))["paths"]]

        before = delivered()
        time.sleep(over_s)
        moved = [y - x for x, y in zip(before, delivered())]
        return moved.index(max(moved))

    def black_hole(self, cut_s, heal_s):
        """Events for a run: the busiest path, looked for during half a second, is cut and later healed."""
        cut = []

        def cut_busiest():
            cut.append(self.busiest_path())
            self.call("cut", cut[0])

        return [(cut_s - 0.5, cut_busiest), (heal_s, lambda: self.call("heal", cut[0]))]


# ---- running a pair of processes ------------------------------------------------------------------


def clean_env(variant, place, side):
    env = {k: v for k, v in os.environ.items() if not k.startswith("NCCL_")}
    env.update(NCCL_SOCKET_IFNAME=place.interface, THALWEG_IFNAME=place.interface, **place.env(side), **variant.env)
    return env


def cpu_seconds():
    """Of all children that have ended, of this process, and of the whole machine (steal and idle left out)."""
    children, own = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _idle, _iowait, irq, softirq = map(int, stat.readline().split()[1:8])
    ticks = os.sysconf("SC_CLK_TCK")
    return (children.ru_utime + children.ru_stime, own.ru_utime + own.ru_stime,
            (user + nice + system + irq + softirq) / ticks)


@dataclass
class Run:
    """What one run of two processes gave."""

    planned_s: float
    lines: list = field(default_factory=list)  # (seconds, gigabits in the line), at the receiver
    summary: dict = field(default_factory=dict)  # peer_bench's last line, or nccl_cpu's result line
    error: str | None = None
    cpu_s: float = 0.0
    wall_s: float = 0.0
    other_cpu_s: float = 0.0  # what the rest of the machine used meanwhile: how far to trust the figure
    event_at_s: list = field(default_factory=list)

    def timeline(self, pending, origin):
        """A function that, called often, does each pending (seconds after the origin, action) in its time."""
        started = None

        def tick():
            nonlocal started
            if started is None:
                started = origin()
            elif pending and time.monotonic() >= started + pending[0][0]:
                pending.pop(0)[1]()
                self.event_at_s.append(time.monotonic() - started)

        return tick

    def gigabits(self, begin, end):
        """Received in [begin, end), lines that overlap an edge counted in part."""
        total = previous = 0.0
        for t, bits in self.lines:
            span = t - previous
            overlap = min(t, end) - max(previous, begin)
            if span > 0 and overlap > 0:
                total += bits * overlap / span
            previous = t
        return total

    def goodput(self, begin, end):
        return self.gigabits(begin, end) / (end - begin)

    def slowest_second(self, begin, end):
        """The lowest goodput in any second, looked at every 50 ms."""
        starts = [begin + 0.05 * i for i in range(int((end - begin - 1) / 0.05) + 1)]
        return min(self.goodput(s, s + 1) for s in starts)

    def longest_gap_ms(self, begin, end):
        """From the end of the last line in which something arrived to the end of the next such line."""
        longest, last = 0.0, begin
        for t, bits in self.lines:
            if begin < t <= end and bits > 0:
                longest, last = max(longest, t - last), t
        return max(longest, end - last) * 1e3


class Child:
    """A process whose output is read as it comes, with the time each line arrived."""

    def __init__(self, argv, env):
        self.out, self.err = [], []
        self.process = subprocess.Popen(argv, env=env, text=True, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.readers = [threading.Thread(target=self._read, args=pair, daemon=True)
                        for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))]
        for reader in self.readers:
            reader.start()

    @staticmethod
    def _read(stream, lines):
        with stream:
            for line in stream:
                lines.append((time.monotonic(), line.rstrip("\n")))

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self.readers:
            reader.join(5)

    def complaint(self):
        return self.err[-1][1] if self.err else f"exit status {self.process.returncode}"


def key_values(line):
    return dict(pair.split("=", 1) for pair in line.split() if "=" in pair)


def supervise(children, limit_s, on_tick):
    """Waits for all children, at most limit_s; returns why it went wrong, or None. Ends what is left."""
    deadline, error = time.monotonic() + limit_s, None
    try:
        while any(c.process.poll() is None for c in children):
            failed = next((c for c in children if c.process.poll() not in (None, 0)), None)
            if failed:
                time.sleep(0.3)  # the other side may be about to say more
                error = failed.complaint()
                break
            if time.monotonic() > deadline:
                error = f"not done after {limit_s:.0f} s"
                break
            on_tick()
            time.sleep(0.005)
    finally:
        for child in children:
            child.end()
    if error is None:
        failed = next((c for c in children if c.process.returncode != 0), None)
        error = failed.complaint() if failed else None
    return error


def measured(bench, run, start, children):
    """Runs the children to their end and notes what they and the machine used."""
    bench.wait_for_quiet()
    before, t0 = cpu_seconds(), time.monotonic()
    started = start()
    children(started)
    run.wall_s = time.monotonic() - t0
    after = cpu_seconds()
    run.cpu_s = after[0] - before[0]
    run.other_cpu_s = max(0.0, (after[2] - before[2]) - run.cpu_s - (after[1] - before[1]))


def peer_bench(bench, place, variant, args, planned_s, events=()):
    """One run of peer_bench, a to b. Events are (seconds from the first message, function)."""
    run = Run(planned_s)
    common = [bench.peer_bench, *variant.peer_bench_args, "--addr", place.address("b"), "--port", str(bench.next_port())]
    pending = list(events)

    def start():
        server = Child(place.command("b", [*common, "--server", "--report", str(place.report_ms)]), clean_env(variant, place, "b"))
        client = Child(place.command("a", [*common, "--client", *map(str, args)]), clean_env(variant, place, "a"))
        return server, client

    def follow(pair):
        server, client = pair

        def origin():  # when the receiver's clock read 0, as this process's clock tells it
            if not server.out:
                return None
            arrived, line = server.out[0]
            return arrived - float(key_values(line)["t_ms"]) / 1e3

        run.error = supervise(pair, planned_s + GRACE_S, run.timeline(pending, origin))
        previous = 0.0
        for _, line in server.out:
            pairs = key_values(line)
            if "t_ms" in pairs:
                t = float(pairs["t_ms"]) / 1e3
                run.lines.append((t, float(pairs["gbps"]) * (t - previous)))
                previous = t
        if client.out:
            run.summary = key_values(client.out[-1][1])

    measured(bench, run, start, follow)
    return bench.note(variant, run)


def nccl_cpu(bench, place, variant, channels, iterations, planned_s, warm_up=1, check_all=False, events=()):
    """The real NCCL, one rank a host, 16 MiB all-reduces."""
    run = Run(planned_s)
    env = clean_env(variant, place, "a")
    env.update(NCCL_CPU_LIB=bench.nccl_lib, NCCL_MIN_NCHANNELS=str(channels), NCCL_MAX_NCHANNELS=str(channels))
    env.update({"NCCL_NET_PLUGIN": bench.plugin} if variant.is_plugin else {"NCCL_NET": "Socket"})
    limit = planned_s + GRACE_S
    pending = list(events)
    with tempfile.TemporaryDirectory(prefix="thalweg-bench-") as tmp:
        argv = [bench.nccl_cpu, "--ranks", "2", "--id-file", os.path.join(tmp, "id"), "-b", "16M", "-e", "16M",
                "-n", str(iterations), "-w", str(warm_up), "--timeout", str(int(limit) + 5), *(["--check-all"] if check_all else [])]

        def start():
            return [Child(place.command(side, [*argv, "--rank", str(rank)]), env) for rank, side in enumerate("ab")]

        def follow(ranks):
            def origin():  # when rank 0 has printed its heading, NCCL is up
                return ranks[0].out[1][0] if len(ranks[0].out) >= 2 else None

            run.error = supervise(ranks, limit, run.timeline(pending, origin))
            results = [line.split() for _, line in ranks[0].out if line and not line.startswith("#")]
            if results:
                size, count, time_us, algbw, busbw, wrong = results[-1]
                run.summary = {"bytes": size, "iterations": count, "time_us": time_us, "algbw": algbw,
                               "busbw": busbw, "wrong": wrong}
            if events and run.error is None and pending:
                run.error = "it was over before the path was healed: nothing was tested"

        measured(bench, run, start, follow)
    return bench.note(variant, run)


# ---- scenes: the rows of the table in docs/performance.md -------------------------------------------


def steady(bench, scene, rates, reach):
    """1 MiB messages, 8 in flight, once every path has had time to be found."""
    seconds, settle = (3, 1) if bench.quick else (6, 2)
    row = Row(scene, "goodput", "Gb/s", reach_at=reach)
    with Fabric(bench, rates) as fabric:
        for variant in bench.rounds(bench.fabric_settings):
            run = peer_bench(bench, fabric, variant, ["--size", "1M", "--inflight", 8, "--seconds", seconds], seconds)
            row.add(variant, run.goodput(settle, seconds) if run.lines else None)
    return [row]


def equal(bench):
    return steady(bench, "4 paths x 500 Mb/s", (500, 500, 500, 500), 1.85)


def unequal(bench):
    return steady(bench, "paths 500,500,250,100", (500, 500, 250, 100), 1.22)


def black_hole(bench):
    """The busiest of 4 paths loses everything for a while; every byte is checked."""
    cut_s, heal_s, seconds = (2, 5, 10) if bench.quick else (4, 8, 14)
    name = "1 of 4 paths black-holed"
    before = Row(name, "goodput before", "Gb/s")
    during = Row(name, "from 1 s after the cut", "Gb/s", reach_at=1.3)
    after = Row(name, "from 3 s after healing", "Gb/s", reach_at=1.8)
    gap = Row(name, "longest gap", "ms", higher_is_better=False, reach_at=200)
    wrong = Row(name, "wrong messages", "", higher_is_better=False, reach_at=0)
    for variant in bench.rounds(bench.failure_settings):
        with Fabric(bench, (500, 500, 500, 500)) as fabric:
            events = fabric.black_hole(cut_s, heal_s)
            run = peer_bench(bench, fabric, variant, ["--size", "1M", "--inflight", 8, "--seconds", seconds, "--verify"],
                             seconds, events)
        if len(run.event_at_s) < 2:
            for row in (before, during, after, gap, wrong):
                row.add(variant, None)
            continue
        was_cut, healed = run.event_at_s
        before.add(variant, run.goodput(was_cut - 1.5, was_cut - 0.1))
        during.add(variant, run.goodput(was_cut + 1, healed))
        after.add(variant, run.goodput(healed + 3, seconds))
        gap.add(variant, run.longest_gap_ms(was_cut - 0.1, seconds))
        wrong.add(variant, int(run.summary["corrupt"]) if run.error is None else None)
    return [before, during, after, gap, wrong]


def flapping(bench):
    """The busiest of 4 paths is cut for a second in every two; every byte is checked."""
    seconds = 12 if bench.quick else 60
    begin = 3
    name = "a path flapping every 2 s"
    slowest = Row(name, "slowest second", "Gb/s", reach_at=1.1)
    mean = Row(name, "goodput", "Gb/s")
    gap = Row(name, "longest gap", "ms", higher_is_better=False)
    wrong = Row(name, "wrong messages", "", higher_is_better=False, reach_at=0)
    for variant in bench.rounds(bench.failure_settings, repeat=1):
        with Fabric(bench, (500, 500, 500, 500)) as fabric:
            flaps = []

            def flap():
                path = fabric.busiest_path()
                flaps.append(Child([FABRIC_SH, "flap", str(path), "--period", "2", "--seconds", str(seconds - begin)], os.environ))

            try:
                run = peer_bench(bench, fabric, variant,
                                 ["--size", "1M", "--inflight", 8, "--seconds", seconds, "--verify"], seconds,
                                 [(begin - 0.5, flap)])
            finally:
                for child in flaps:
                    child.end()
        slowest.add(variant, run.slowest_second(begin, seconds) if run.lines else None)
        mean.add(variant, run.goodput(begin, seconds) if run.lines else None)
        gap.add(variant, run.longest_gap_ms(begin, seconds) if run.lines else None)
        wrong.add(variant, int(run.summary["corrupt"]) if run.error is None else None)
    return [slowest, mean, gap, wrong]


def loopback(bench):
    """Short runs of which the best counts, on each side: in a virtual machine the kernel's copy into a socket goes
    through slow phases of seconds, two or three times slower for whoever runs (docs/performance.md), which a
    median of few runs cannot tell from a difference between the transports."""
    seconds, settle = 1.5, 0.5
    rows = []
    for comms in (1, 4):
        for size in ("64K", "1M", "4M"):
            row = Row("loopback", f"{size}iB, {comms} connection{'s' if comms > 1 else ''}", "Gb/s", reach_ratio=1.0,
                      best_counts=True)
            for variant in bench.rounds(bench.loopback_settings, bench.repeat + 2):
                run = peer_bench(bench, Loopback(), variant,
                                 ["--size", size, "--inflight", 8, "--comms", comms, "--seconds", seconds], seconds)
                row.add(variant, run.goodput(settle, seconds) if run.lines else None)
            rows.append(row)
    return rows


def latency(bench):
    p50 = Row("loopback, 8 bytes", "half round trip, p50", "us", higher_is_better=False, reach_ratio=1.0)
    p99 = Row("loopback, 8 bytes", "half round trip, p99", "us", higher_is_better=False)
    count = 5000 if bench.quick else 30000
    for variant in bench.rounds(bench.loopback_settings):
        run = peer_bench(bench, Loopback(), variant, ["--size", "8", "--pingpong", "--iters", count], 15)
        p50.add(variant, float(run.summary["p50_us"]) if run.error is None else None)
        p99.add(variant, float(run.summary["p99_us"]) if run.error is None else None)
    return [p50, p99]


def cpu(bench):
    """Both processes whole, from start to end, over everything they carried: 1 MiB, 1 connection. The best counts, as
    in `loopback`."""
    row = Row("loopback, CPU", "both sides, 1 MiB", "s/GB", higher_is_better=False, reach_ratio=1.0,
              best_counts=True)
    count = 3000 if bench.quick else 12000
    for variant in bench.rounds(bench.loopback_settings):
        run = peer_bench(bench, Loopback(), variant, ["--size", "1M", "--inflight", 8, "--iters", count], 60)
        row.add(variant, run.cpu_s / (int(run.summary["messages"]) * 2**20 / 1e9) if run.error is None else None)
    return [row]


def setup(bench):
    """From the start of listen and connect to a connection with its memory registered, on 4 paths."""
    first = Row("connection set-up, 4 paths", "first to a peer", "ms", higher_is_better=False, reach_at=10)
    further = Row("connection set-up, 4 paths", "each further one", "ms", higher_is_better=False, reach_at=1)
    more = 48
    args = ["--size", "4K", "--inflight", 1, "--iters", 10, "--comms"]
    with Fabric(bench, (500, 500, 500, 500)) as fabric:
        for variant in bench.rounds(bench.fabric_settings):
            one = peer_bench(bench, fabric, variant, [*args, 1], 10)
            many = peer_bench(bench, fabric, variant, [*args, 1 + more], 10)
            ok = one.error is None and many.error is None
            first.add(variant, float(one.summary["setup_ms"]) if ok else None)
            further.add(variant, (float(many.summary["setup_ms"]) - float(one.summary["setup_ms"])) / more if ok else None)
    return [first, further]


def all_reduce(bench):
    rows = []
    for channels in (1, 4):
        row = Row("real NCCL, 16 MiB all-reduce", f"bus bandwidth, {plural(channels, 'channel')}", "GB/s", reach_at=0.21)
        wrong = Row("real NCCL, 16 MiB all-reduce", f"wrong elements, {plural(channels, 'channel')}", "",
                    higher_is_better=False, reach_at=0)
        with Fabric(bench, (500, 500, 500, 500)) as fabric:
            for variant in bench.rounds(bench.nccl_settings):
                run = nccl_cpu(bench, fabric, variant, channels, 5 if bench.quick else 20, 25, warm_up=5)  # as nccl-tests
                row.add(variant, float(run.summary["busbw"]) if run.error is None else None)
                wrong.add(variant, int(run.summary["wrong"]) if run.error is None else None)
        rows += [row, wrong]
    return rows


def all_reduce_cut(bench):
    """The busiest path is gone for 4 s of the run; every result is checked."""
    cut_s, gone_s, healthy_s = (2, 4, 9) if bench.quick else (3, 4, 13)
    rows = []
    for channels in (1, 4):
        name = "real NCCL, a path gone for 4 s"
        row = Row(name, f"bus bandwidth, {plural(channels, 'channel')}", "GB/s", reach_at=0.15)
        wrong = Row(name, f"wrong elements, {plural(channels, 'channel')}", "", higher_is_better=False, reach_at=0)
        for variant in bench.rounds(bench.nccl_failure_settings):
            with Fabric(bench, (500, 500, 500, 500)) as fabric:
                # As many all-reduces as take this variant about the same time on a healthy fabric.
                trial = nccl_cpu(bench, fabric, variant, channels, 5, 20, check_all=True)
                if trial.error:
                    row.add(variant, None)
                    wrong.add(variant, None)
                    continue
                iterations = max(5, round(healthy_s / (float(trial.summary["time_us"]) / 1e6)))
                events = fabric.black_hole(cut_s, cut_s + gone_s)
                run = nccl_cpu(bench, fabric, variant, channels, iterations, healthy_s + 30, check_all=True, events=events)
            row.add(variant, float(run.summary["busbw"]) if run.error is None else None)
            wrong.add(variant, int(run.summary["wrong"]) if run.error is None else None)
        rows += [row, wrong]
    return rows


def plural(n, word):
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


SCENES = {
    "equal": equal,
    "unequal": unequal,
    "blackhole": black_hole,
    "flap": flapping,
    "allreduce": all_reduce,
    "allreduce-cut": all_reduce_cut,
    "loopback": loopback,
    "latency": latency,
    "cpu": cpu,
    "setup": setup,
}
ON_LOOPBACK = {"loopback", "latency", "cpu"}


# ---- the session ----------------------------------------------------------------------------------


class Bench:
    """What to run, with what, and a record of every run."""

    # Sockets: 1, 4, 8, 16. On loopback with two cores more threads only compete, so one setting of several.
    fabric_settings = ("default", "1x1", "1x4", "2x4", "4x4")
    loopback_settings = ("default", "1x1", "1x4", "2x2")
    failure_settings = ("default", "4x4")
    nccl_settings = ("default", "1x4", "2x4")
    nccl_failure_settings = ("default", "2x4")
    nccl_variant = staticmethod(nccl_variant)

    def __init__(self, options, nccl_lib):
        self.quick, self.repeat, self.only = options.quick, options.repeat, options.only
        self.queue, self.patience_s = options.queue, options.patience
        self.plugin, self.nccl_lib = os.path.abspath(options.plugin), nccl_lib
        self.peer_bench = os.path.join(options.build, "peer_bench")
        self.nccl_cpu = os.path.join(options.build, "nccl_cpu")
        self.port = 7800 + os.getpid() % 1000
        self.scene, self.runs = "", []
        if options.settings:
            wanted = tuple(options.settings.split(","))
            for name in ("fabric", "loopback", "failure", "nccl", "nccl_failure"):
                setattr(self, f"{name}_settings", wanted)

    def next_port(self):
        """A fresh one for each run: the last run's may still be in TIME_WAIT."""
        self.port += 1
        return self.port

    def variants(self, settings):
        out = [] if self.only == "plugin" else [self.nccl_variant(s, self.nccl_lib) for s in settings]
        if self.only != "nccl":
            out.append(Variant("thalweg", True, {}, ["--plugin", self.plugin]))
        return out

    def rounds(self, settings, repeat=None):
        """Every variant in turn, then all again: a slow minute of the machine hits all of them."""
        for _ in range(repeat or self.repeat):
            yield from self.variants(settings)

    def wait_for_quiet(self):
        """Someone else's work on these cores would be measured as well."""
        deadline = time.monotonic() + self.patience_s
        while time.monotonic() < deadline:
            before = cpu_seconds()
            time.sleep(0.5)
            after = cpu_seconds()
            if after[2] - before[2] < 0.1:
                return

    def note(self, variant, run):
        """Keeps the run for the JSON file and says how it went."""
        record = asdict(run) | {"scene": self.scene, "variant": variant.label}
        del record["lines"]
        if run.lines:  # tenths of a second are enough for a reader; gaps were taken from the full lines
            record["gbps_per_100_ms"] = [round(run.goodput(i / 10, i / 10 + 0.1), 3) for i in range(int(run.lines[-1][0] * 10))]
        self.runs.append(record)
        summary = run.summary.get("gbps") and f"{run.summary['gbps']} Gb/s" or run.summary.get("busbw") and f"{run.summary['busbw']} GB/s"
        print(f"  {variant.label:14} {run.wall_s:5.1f} s  {run.error or summary}"
              f"{f'  (others used {run.other_cpu_s:.1f} CPU s)' if run.other_cpu_s > 0.2 * run.wall_s > 0.2 else ''}",
              file=sys.stderr, flush=True)
        return run


def figure(value, unit):
    """With its unit, to three digits; a transport that gave no figure in most of its runs has none."""
    if value is None:
        return "none"
    return f"{value:.0f} {unit}".rstrip() if unit == "" or value >= 100 else f"{value:.3g} {unit}"


def table(rows, nccl="NCCL Socket"):
    """Markdown, one line a figure: NCCL's best with its setting, ours, what is to be reached."""
    lines = [f"| scene | figure | {nccl}, best | setting | thalweg | to reach | reached |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        nccl, setting = row.best([label for label in row.values if label != "thalweg"])
        ours = row.counting("thalweg") if "thalweg" in row.values else None
        target = row.target(nccl)
        sign = "≥" if row.higher_is_better else "≤"
        reached = ""
        if "thalweg" in row.values and target is not None:
            reached = "yes" if ours is not None and (ours >= target if row.higher_is_better else ours <= target) else "**no**"
        compared = len(row.values) > ("thalweg" in row.values)
        cells = [row.scene, row.figure, figure(nccl, row.unit) if compared else "", (setting or "").removeprefix("nccl "),
                 figure(ours, row.unit) if "thalweg" in row.values else "",
                 f"{sign} {figure(target, row.unit)}" if target is not None else "", reached]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def add_options(parser, scenes):
    """What every comparison takes."""
    parser.add_argument("--scene", action="append", choices=scenes, help="only this scene (may be given several times)")
    parser.add_argument("--only", choices=("nccl", "plugin"), help="only one side of the comparison")
    parser.add_argument("--plugin", default=os.path.join(ROOT, "target/release/libnccl_net_thalweg.so"))
    parser.add_argument("--build", default=os.path.join(ROOT, "target/lab"), help="where peer_bench and nccl_cpu are built")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions, of which the median counts (default 3); on loopback the best of 2 more")
    parser.add_argument("--quick", action="store_true", help="shorter runs, once each: for a first look, not for figures")


def parse(argv):
    parser = argparse.ArgumentParser(description="Compare the Thalweg plugin with NCCL's own Socket transport.")
    add_options(parser, SCENES)
    parser.add_argument("--settings", help="NCCL's settings to try instead of the scenes' own, as in default,4x4 (threads x sockets)")
    parser.add_argument("--queue", type=int, metavar="BYTES", help="the fabric's queues, instead of fabric.sh's own size")
    parser.add_argument("--patience", type=float, default=0, metavar="SECONDS",
                        help="before each run, wait so long at most for the rest of the machine to be quiet (default 0)")
    parser.add_argument("--json", metavar="FILE", help="write every run and the table's figures there")
    options = parser.parse_args(argv)
    if options.quick:
        options.repeat = 1
    if options.repeat < 1:
        parser.error("--repeat takes a number from 1")
    for setting in (options.settings or "default").split(","):
        threads, _, sockets = setting.partition("x")
        if setting != "default" and not (threads.isdigit() and sockets.isdigit()):
            parser.error(f"--settings: '{setting}' is neither default nor THREADSxSOCKETS")
    return options


def prepare(options, scenes):
    """Everything a run needs, or one line that says what is missing."""
    if set(scenes) - ON_LOOPBACK and os.geteuid() != 0:
        raise BenchError("the fabric needs root: run it with sudo, or choose --scene " + ", ".join(sorted(ON_LOOPBACK)))
    if options.only != "nccl" and not os.path.exists(options.plugin):
        raise BenchError(f"{options.plugin} is not built: run 'cargo build --release', or pass --plugin or --only nccl")
    build = subprocess.run(["make", "-s", "-C", LAB, f"OUT={options.build}"], text=True, capture_output=True, check=False)
    if build.returncode != 0:
        raise BenchError(f"lab's programs do not build: {(build.stderr.strip() or 'make failed').splitlines()[-1]}")
    if options.only == "plugin" and not set(scenes) & {"allreduce", "allreduce-cut"}:
        return ""
    nccl = subprocess.run([os.path.join(LAB, "nccl.sh")], text=True, stdout=subprocess.PIPE, check=False)
    if nccl.returncode != 0:
        raise BenchError("without NCCL there is nothing to compare with (the line above says why)")
    return nccl.stdout.strip()


def main(argv):
    options = parse(argv)
    options.build = os.path.abspath(options.build)
    scenes = options.scene or list(SCENES)
    bench, rows, interrupted = None, [], False
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the runs and unmakes the fabric, as Ctrl-C does
    try:
        with open(os.path.join(tempfile.gettempdir(), "thalweg-bench.lock"), "w", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise BenchError("another benchmark is running on this machine: wait for it to end") from error
            bench = Bench(options, prepare(options, scenes))
            os.environ["FABRIC"] = os.environ.get("FABRIC", "thwbench")
            for scene in scenes:
                print(f"{scene}:", file=sys.stderr, flush=True)
                bench.scene = scene
                rows += SCENES[scene](bench)
                save(options, bench, rows)  # after each scene: the whole takes half an hour
    except BenchError as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        interrupted = True
        print("bench.py: interrupted; the scenes that were done follow", file=sys.stderr)
    if not rows:
        return 1
    print(table(rows))
    busy_s = sum(run["wall_s"] for run in bench.runs)
    others = sum(run["other_cpu_s"] for run in bench.runs) / busy_s
    print(f"\n{os.cpu_count()} cores, kernel {platform.release()}; while the runs went on, other programs used {others:.2f} cores.")
    return 1 if interrupted else 0


def save(options, bench, rows):
    if not options.json:
        return
    record = {
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "arch": platform.machine()},
        "quick": options.quick, "repeat": options.repeat,
        "rows": [asdict(row) | {"counting": {label: row.counting(label) for label in row.values}} for row in rows],
        "runs": bench.runs,
    }
    with open(options.json, "w", encoding="utf-8") as out:
        json.dump(record, out, indent=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
