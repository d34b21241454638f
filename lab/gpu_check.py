#!/usr/bin/env python3
"""The check behind gpu-check.sh: all-reduces of two ranks on one GPU, by PyTorch's NCCL, over NCCL's own Socket
transport and over the Thalweg plugin.

Both transports run the same loop with the same seeds, in turn and several times. Three things are held against each
other: what a rank got and the sum worked out apart from NCCL, so that an error both transports share is found as well;
the bits that the two transports delivered; and what NCCL's log says about who carried it, because NCCL falls back to
Socket without an error when it cannot use a plugin.

NCCL refuses two ranks on one GPU of one host, so each rank gets a host name of its own (NCCL_HOSTID). The two processes
then take turns on the GPU (unless MPS runs there), which both transports pay alike: ratios tell more than GB/s.
"""

import argparse
import ctypes
import datetime
import fcntl
import hashlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field

LAB = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(LAB)
RANKS = 2
TRANSPORTS = ("Socket", "thalweg")
SEED = 20
WARM_UP = 3
# A size of no whole number of 16-byte words, and one of a single element, are where copies go wrong.
SIZES = "4,4K,64K,1M,1048580,16M,128M"


class Failed(Exception):
    """Why the check cannot say that all is right."""


def iterations(size):
    """Timed all-reduces of a size. Each has a buffer of its own, so it is their memory that bounds them."""
    return max(5, min(50, (256 << 20) // size))


# ---- one rank -------------------------------------------------------------------------------------


def work(job):
    """What each process of a run does; its findings go to a file, a line each."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no rank outlives the check, however that ends
    import torch  # pylint: disable=import-outside-toplevel  # the supervisor does without
    import torch.distributed as dist  # pylint: disable=import-outside-toplevel

    on_gpu, rank = job["backend"] == "nccl", job["rank"]
    device = "cuda:0" if on_gpu else "cpu"
    if on_gpu:
        torch.cuda.set_device(0)

    def synchronize():
        if on_gpu:
            torch.cuda.synchronize()

    def random(kind, size, of_rank, turn=0):
        """The same for the same arguments in every run; whole numbers, or floats of all mantissas."""
        name = f"{SEED} {kind} {size} {of_rank} {turn}".encode()
        generator = torch.Generator(device=device)
        generator.manual_seed(int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "little"))
        count = size // 4
        if kind == "reals":
            return torch.randn((count,), generator=generator, device=device)
        return torch.randint(-(1 << 20), 1 << 20, (count,), generator=generator, device=device)

    def own(kind, size, turns):
        """What this rank brings to so many all-reduces."""
        return [random(kind, size, rank, turn).to(torch.float32) for turn in range(turns)]

    def finding(kind, size, results):
        """Holds results against sums worked out here. Those of whole numbers are whole: not even the rounding is NCCL's."""
        bits, found = hashlib.blake2b(digest_size=16), {"sums": 0, "wrong": 0, "first": None}
        for turn, result in enumerate(results):
            expected = (random(kind, size, 0, turn) + random(kind, size, 1, turn)).to(torch.float32)
            wrong = torch.nonzero(result != expected)
            if len(wrong) and not found["wrong"]:
                found["first"] = f"number {int(wrong[0])} of all-reduce {turn}"
            found["wrong"] += len(wrong)
            found["sums"] += result.numel()
            host = result.cpu()
            bits.update((ctypes.c_char * (host.numel() * 4)).from_address(host.data_ptr()))
        return dict(found, size=size, kind=kind, digest=bits.hexdigest())

    with open(job["findings"], "a", encoding="ascii", buffering=1) as out:

        def note(**record):
            out.write(json.dumps(record) + "\n")

        note(about={"gpu": torch.cuda.get_device_name(0) if on_gpu else None, "torch": torch.__version__})
        dist.init_process_group(job["backend"], init_method=f"file://{job['store']}", rank=rank, world_size=RANKS,
                                timeout=datetime.timedelta(seconds=job["limit"]))
        for size in job["sizes"]:
            for kind in ("integers", "reals"):
                results = own(kind, size, 1)
                dist.all_reduce(results[0])
                synchronize()
                note(**finding(kind, size, results))
            # Not one buffer over and over: sums of sums round an early error away.
            results = own("timed", size, WARM_UP + iterations(size))
            for result in results[:WARM_UP]:
                dist.all_reduce(result)
            synchronize()
            begin = time.perf_counter()
            for result in results[WARM_UP:]:
                dist.all_reduce(result)
            synchronize()
            took = time.perf_counter() - begin
            note(seconds=took / iterations(size), **finding("timed", size, results))
            del results
        dist.destroy_process_group()
        note(done=True)


# ---- a run: two ranks over one transport ------------------------------------------------------------


@dataclass
class Run:
    """What one run gave."""

    transport: str
    number: int
    findings: dict = field(default_factory=dict)  # (size, kind, rank): what finding() says, and seconds where timed
    about: dict = field(default_factory=dict)
    channels: int = 0

    def __str__(self):
        return f"{self.transport}, round {self.number}"

    def seconds(self, size):
        """Of one all-reduce: the slower rank's."""
        return max(self.findings[size, "timed", rank]["seconds"] for rank in range(RANKS))


def environment(transport, rank, options):
    """Only what the check sets, the rest at NCCL's defaults: a variable left over from a job would be measured too."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NCCL_", "TORCH_NCCL_"))}
    # No RANK and no MASTER_ADDR either: a check started by a job launcher is none of its ranks.
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    env.update(NCCL_DEBUG="INFO", NCCL_DEBUG_SUBSYS="INIT,ENV,NET", NCCL_P2P_DISABLE="1", NCCL_SHM_DISABLE="1",
               NCCL_MNNVL_ENABLE="0", NCCL_SOCKET_IFNAME=options.interface, THALWEG_IFNAME=options.interface,
               PYTHONUNBUFFERED="1")
    if options.one_host:
        env["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    else:
        env["NCCL_HOSTID"] = f"gpu-check-{rank}"
    # NCCL_NET stays unset for the plugin: whether NCCL chooses it by itself is part of the check.
    env.update({"NCCL_NET_PLUGIN": os.path.abspath(options.plugin)} if transport == "thalweg" else
               {"NCCL_NET": "Socket", "NCCL_NET_PLUGIN": "none"})
    env.update(options.env)
    return env


class Child:
    """A process that leaves nothing behind, with its output in a file."""

    def __init__(self, argv, env, log):
        self.log = log
        with open(log, "wb") as out:
            # A session of its own, so that what it started ends with it.
            self.process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=subprocess.STDOUT, start_new_session=True)

    def end(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:  # in the driver, where no signal reaches it
            print(f"gpu-check: process {self.process.pid} does not end, even killed", file=sys.stderr)

    def text(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def complaint(self):
        """The line that says most: the plugin's first warning, NCCL's last one, or the last thing said at all."""
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        warnings = [line[line.index("NCCL WARN"):] for line in lines if "NCCL WARN" in line]
        own = [line for line in warnings if "NET/thalweg: " in line]
        said = [line for line in lines if "NCCL INFO" not in line]
        return (own[:1] or warnings[-1:] or said[-1:] or [f"exit status {self.process.returncode}"])[0][:300]


def supervise(start, children, limit_s):
    """Waits for all that start() starts, at most limit_s; returns why it went wrong, or None. Ends what is left, whatever
    happens."""
    deadline = time.monotonic() + limit_s
    try:
        start()
        while any(child.process.poll() is None for child in children):
            if any(child.process.poll() not in (None, 0) for child in children):
                time.sleep(0.5)  # the other rank may be about to say more
                break
            if time.monotonic() > deadline:
                return f"not done after {limit_s:g} s"
            time.sleep(0.02)
        failed = [(rank, child) for rank, child in enumerate(children) if child.process.poll() not in (None, 0)]
        return f"rank {failed[0][0]}: {failed[0][1].complaint()}" if failed else None
    finally:
        for child in children:
            child.end()


def records(path):
    """What a rank noted, as far as it came."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="ascii") as lines:
        return [json.loads(line) for line in lines if line.endswith("\n")]


def run(options, transport, number):
    """One run. Raises Failed if it did not come to its end, or went another way than it should."""
    result, children = Run(transport, number), []
    names = [os.path.join(options.logs, f"{transport}-{number}-rank{rank}") for rank in range(RANKS)]
    store = os.path.join(options.logs, f"{transport}-{number}-store")
    begin = time.monotonic()

    def start():
        for rank, name in enumerate(names):
            job = {"rank": rank, "backend": options.backend, "sizes": options.sizes, "limit": options.limit,
                   "store": store, "findings": f"{name}.findings"}
            children.append(Child([sys.executable, os.path.abspath(__file__), "--work", json.dumps(job)],
                                  environment(transport, rank, options), f"{name}.log"))

    error = supervise(start, children, options.limit)
    noted = [records(f"{name}.findings") for name in names]
    for rank, lines in enumerate(noted):
        for line in lines:
            if "size" in line:
                result.findings[line["size"], line["kind"], rank] = line
            result.about.update(line.get("about", {}))
    if error is None and not all(lines and lines[-1].get("done") for lines in noted):
        error = "a rank ended before it was done"
    if error:
        sizes = [line["size"] for lines in noted for line in lines if "size" in line]
        reached = f"at or after {size_name(sizes[-1])}" if sizes else "before the first result"
        raise Failed(f"{result}: {error} ({reached}; logs: {names[0][:-1]}*.log)")
    if options.backend == "nccl":
        for rank, child in enumerate(children):
            way = Way(child.text())
            result.channels = way.channels
            result.about.update(way.about)
            problem = way.problem(transport)
            if problem:
                raise Failed(f"{result}, rank {rank}: {problem} (log: {child.log})")
    print(f"  {transport:8} round {number}  {time.monotonic() - begin:5.1f} s", file=sys.stderr, flush=True)
    return result


class Way:
    """Which way the bytes went, by NCCL's log (NCCL_DEBUG=INFO) of one rank."""

    def __init__(self, log):
        self.networks = set(re.findall(r"NCCL INFO Using network (\S+)", log))
        links = re.findall(r"NCCL INFO Channel (\d+)\S* : .*\bvia (\S+)", log)
        self.vias = {via for _, via in links}
        self.channels = len({channel for channel, via in links if via.startswith("NET/")})
        # The plugin's own warning says most; the loader's lines are plain information, also where it failed.
        self.reasons = (re.findall(r"NCCL WARN (NET/thalweg: .*)", log) +
                        re.findall(r"NCCL INFO (NET/Plugin: (?!Loaded|Using).*)", log))
        self.about = {}
        for name, pattern in (("nccl", r"NCCL version (\d\S*)"), ("plugin", r"NCCL INFO NET/thalweg: (thalweg .*)")):
            found = re.search(pattern, log)
            if found:
                self.about[name] = found[1].strip()

    def problem(self, transport):
        """Why this was not the transport that was meant, or None."""
        why = f": {self.reasons[0]}" if transport == "thalweg" and self.reasons else ""
        if not self.networks:
            return "NCCL's log names no network"
        if self.networks != {transport}:
            return f"NCCL used {', '.join(sorted(self.networks))} and not {transport}{why}"
        if not self.vias:
            return "NCCL's log names no channel"
        others = sorted(via for via in self.vias if not via.startswith(f"NET/{transport}/"))
        return f"channels went by {', '.join(others)} and not by {transport}" if others else None


# ---- what the runs say together ---------------------------------------------------------------------


def compare(runs, sizes):
    """Everything that is not as it should be: a dict of size and a list of lines."""
    problems = {size: [] for size in sizes}
    for size in sizes:
        for kind in ("integers", "reals", "timed"):
            bits = runs[0].findings[size, kind, 0]["digest"]
            for one in runs:
                for rank in range(RANKS):
                    found, where = one.findings[size, kind, rank], f"{size_name(size)}, {kind}, {one}, rank {rank}"
                    if found["wrong"]:
                        problems[size].append(f"{where}: {found['wrong']} of {found['sums']} sums are wrong, "
                                              f"the first is {found['first']}")
                    if found["digest"] != bits:
                        problems[size].append(f"{where}: other bits than {runs[0]}, rank 0")
    return problems


def size_name(size):
    for unit, letter in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)


def figure(value):
    """Three digits, and never an exponent."""
    if value < 0.001:
        return "< 0.001"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def table(runs, sizes, problems):
    """Markdown, a line a size. The ratio is taken round by round, its median counts, its range says how far to trust it."""
    rows = [["bytes", "times", "Socket, µs", "thalweg, µs", "Socket, GB/s", "thalweg, GB/s", "thalweg / Socket",
             "results"]]
    for size in sizes:
        times = {t: [one.seconds(size) for one in runs if one.transport == t] for t in TRANSPORTS}
        ratios = [socket / ours for socket, ours in zip(*(times[t] for t in TRANSPORTS))]
        middle = {t: statistics.median(times[t]) for t in TRANSPORTS}
        # Bus bandwidth as nccl-tests has it: bytes / time x 2 (n - 1) / n, which is 1 for two ranks.
        bandwidth = {t: size / middle[t] / 1e9 * 2 * (RANKS - 1) / RANKS for t in TRANSPORTS}
        rows.append([size_name(size), str(iterations(size)), *(figure(middle[t] * 1e6) for t in TRANSPORTS),
                     *(figure(bandwidth[t]) for t in TRANSPORTS),
                     f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                     "**wrong**" if problems[size] else "right, equal"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * (width - 1) + ":" for width in widths])
    return "\n".join(f"| {' | '.join(cell.rjust(width) for cell, width in zip(row, widths))} |" for row in rows)


def report(options, runs):
    """Prints what was found; true if all of it is right."""
    problems = compare(runs, options.sizes)
    about = {name: value for one in runs for name, value in one.about.items()}
    if options.backend == "nccl":
        print(f"{about['gpu']}, PyTorch {about['torch']}, NCCL {about.get('nccl', 'of unknown version')}; two ranks on "
              f"one GPU, over {options.interface}")
        channels = {one.transport: one.channels for one in runs}
        print(f"{about.get('plugin', 'thalweg')}; channels: {channels['thalweg']}, with Socket {channels['Socket']}")
    else:
        print(f"self-test, PyTorch {about['torch']}: both columns are {options.backend} on CPUs, neither is NCCL")
    print(f"\n{table(runs, options.sizes, problems)}\n")
    lines = [line for size in options.sizes for line in problems[size]]
    for line in lines[:20]:
        print(line)
    if len(lines) > 20:
        print(f"... and {len(lines) - 20} more")
    if lines:
        print("FAILED: not every result is right")
    elif options.backend == "nccl":
        print("PASSED: every sum right, every bit as with NCCL's Socket, all of it carried by the plugin "
              f"({len(runs)} runs)")
    else:
        print(f"PASSED as a self-test only: no NCCL, no plugin ({len(runs)} runs)")
    return not lines


# ---- the session ----------------------------------------------------------------------------------


def bytes_of(text):
    match = re.fullmatch(r"([1-9]\d*)([KMG]?)", text.strip(), re.IGNORECASE)
    size = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()] if match else 0
    if not match or size % 4 or size > 1 << 30:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of bytes: a multiple of 4, up to 1G, as in 64K")
    return size


def list_of_bytes(text):
    return sorted({bytes_of(part) for part in text.split(",")})


def setting(text):
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name, value


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(1, f"gpu-check: {message}\n")  # status 2 says that there is no GPU


def parse(argv):
    parser = Parser(prog="gpu-check.sh", allow_abbrev=False,
                    description="Compare the Thalweg plugin with NCCL's own Socket transport: two ranks on one GPU, with "
                    "PyTorch's NCCL.",
                    epilog="--install puts PyTorch into target/gpu-check/venv where it is missing. Exit status: 0 all "
                    "right, 1 not, 2 there is no GPU.")
    parser.add_argument("--plugin", metavar="FILE", default=os.path.join(ROOT, "target/release/libnccl-net-thalweg.so"))
    parser.add_argument("--sizes", type=list_of_bytes, default=SIZES, metavar="BYTES,...", help=f"(default {SIZES})")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each transport, in turn (default 3)")
    parser.add_argument("--limit", type=float, default=240, metavar="SECONDS",
                        help="the longest that one run may take; then it is ended and counts as failed (default 240)")
    parser.add_argument("--interface", default="lo", help="which the ranks talk over (default lo)")
    parser.add_argument("--one-host", action="store_true",
                        help="both ranks on one host by NCCL_MULTI_RANK_GPU_ENABLE (NCCL 2.30), not on two by NCCL_HOSTID")
    parser.add_argument("--env", type=setting, action="append", default=[], metavar="NAME=VALUE",
                        help="a variable for both transports, as in NCCL_PROTO=Simple (may be given several times)")
    parser.add_argument("--backend", choices=("nccl", "gloo"), default="nccl",
                        help="gloo tests the check itself, on CPUs, without NCCL and the plugin")
    parser.add_argument("--logs", default=os.path.join(ROOT, "target/gpu-check/logs"),
                        help="folder for what the ranks print (default target/gpu-check/logs)")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.env = dict(options.env)
    if options.rounds < 1:
        parser.error("--rounds takes a number from 1")
    if options.limit <= 0:
        parser.error("--limit takes seconds, more than none")
    return options


def clear(folder):
    """Takes away what an earlier check left there, and nothing else: --logs may name any folder."""
    for name in os.listdir(folder):
        if re.fullmatch(rf"({'|'.join(TRANSPORTS)})-\d+-(store|rank\d\.(log|findings))", name):
            os.remove(os.path.join(folder, name))


def main(argv):
    options = parse(argv)
    if options.work:
        work(json.loads(options.work))
        return 0
    for ending in (signal.SIGTERM, signal.SIGHUP):  # these too end the ranks first, as Ctrl-C does
        signal.signal(ending, signal.default_int_handler)
    options.logs = os.path.abspath(options.logs)
    try:
        os.makedirs(options.logs, exist_ok=True)
        with open(os.path.join(options.logs, "lock"), "w", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Failed("another check is running: wait for it to end") from error
            clear(options.logs)
            runs = [run(options, transport, number) for number in range(1, options.rounds + 1)
                    for transport in TRANSPORTS]
        return 0 if report(options, runs) else 1
    except Failed as failure:
        print(f"FAILED: {failure}")
    except KeyboardInterrupt:
        print("FAILED: interrupted")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
