#!/usr/bin/env python3
"""Checks of gpu-check.sh itself, on a machine without a GPU and without PyTorch: python3 lab/test_gpu_check.py

A check that cannot fail proves nothing, so here it meets everything that it has to find: a plugin that NCCL did not
use, a flipped bit, sums that both transports get wrong alike, a rank that hangs or dies, no GPU. It runs whole, script,
supervisor and ranks; only nvidia-smi and the module torch are stand-ins, and the lines of NCCL's log are 2.30.7's own.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True  # nothing is left in the sources

import gpu_check  # noqa: E402  pylint: disable=wrong-import-position

LAB = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(LAB)
GPU_CHECK_SH = os.path.join(LAB, "gpu-check.sh")
SIZES = "4,1K,4100"

PLUGIN_LOG = """\
vm:393:393 [0] NCCL INFO NCCL version 2.30.7+cuda13.3
vm:393:393 [0] NCCL INFO NET/Plugin: Loaded net plugin thalweg (v12)
vm:393:393 [0] NCCL INFO NET/thalweg: thalweg 0.1.0: TCP over lo (10000 Mb/s) at 127.0.0.1:44113
vm:393:393 [0] NCCL INFO Assigned NET plugin thalweg to comm
vm:393:393 [0] NCCL INFO GIN/Plugin: Failed to initialize any GIN plugin
vm:393:393 [0] NCCL INFO Using network thalweg
vm:393:393 [0] NCCL INFO Channel 00/01 : 0 1
vm:393:393 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [receive] via NET/thalweg/0
vm:393:395 [0] NCCL INFO Channel 01/0 : 1[0] -> 0[0] [send] via NET/thalweg/0
"""
SOCKET_LOG = """\
vm:409:409 [0] NCCL INFO NCCL version 2.30.7+cuda13.3
vm:409:409 [0] NCCL INFO NET/Socket : Using [0]lo:127.0.0.1<0>
vm:409:409 [0] NCCL INFO Assigned NET plugin Socket to comm
vm:409:409 [0] NCCL INFO Using network Socket
vm:409:409 [0] NCCL INFO Channel 00/0 : 1[0] -> 0[0] [receive] via NET/Socket/0
vm:409:409 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/Socket/0
"""
NOT_FOUND = "vm:714:714 [0] NCCL INFO NET/Plugin: Could not find: /nowhere/libnccl-net-thalweg.so\n"
NO_INTERFACE = ("[2026-11-21 21:38:49] vm:768:768 [0] thalweg:0 NCCL WARN NET/thalweg: no interface that is up has a name "
                "that THALWEG_IFNAME or NCCL_SOCKET_IFNAME admits: see `ip -brief addr`\n")

# As much of PyTorch as a rank uses, on lists; its two ranks meet over a socket. FAULT says what goes wrong with it.
TORCH = '''
import ctypes, os, random, struct, sys, time, types
__version__ = "0.0-stub"
float32 = "float32"
FAULT = os.environ.get("FAULT", "")
PLUGIN = os.environ.get("NCCL_NET") != "Socket"
LOGS = {logs!r}

class Tensor:
    def __init__(self, values): self.values = list(values)
    def to(self, _dtype): return Tensor(map(float, self.values))
    def __add__(self, other): return Tensor(single(a + b) for a, b in zip(self.values, other.values))
    def __mul__(self, factor): return Tensor(single(a * factor) for a in self.values)
    def __ne__(self, other): return Tensor(a != b for a, b in zip(self.values, other.values))
    def __len__(self): return len(self.values)
    def __getitem__(self, at): return self.values[at]
    def numel(self): return len(self.values)
    def cpu(self):
        self.host = (ctypes.c_float * len(self.values))(*self.values)
        return self
    def data_ptr(self): return ctypes.addressof(self.host)

def single(value): return struct.unpack("f", struct.pack("f", value))[0]
def nonzero(tensor): return Tensor(i for i, value in enumerate(tensor.values) if value)
class Generator:
    def __init__(self, device): self.random = random.Random()
    def manual_seed(self, seed): self.random.seed(seed)
def randn(shape, generator, device): return Tensor(single(generator.random.gauss(0, 1)) for _ in range(shape[0]))
def randint(low, high, shape, generator, device):
    return Tensor(generator.random.randrange(low, high) for _ in range(shape[0]))

version = types.SimpleNamespace(cuda=None if FAULT == "cpu-only" else "13.0")
cuda = types.ModuleType("torch.cuda")
cuda.is_available = lambda: True
cuda.nccl = types.SimpleNamespace(version=lambda: (2, 20, 5) if FAULT == "old-nccl" else (2, 30, 7))
cuda.set_device = cuda.synchronize = lambda *_: None
cuda.get_device_name = lambda _: "Stub GPU"
distributed = types.ModuleType("torch.distributed")
distributed.is_nccl_available = lambda: True
calls = 0

def init_process_group(backend, init_method, rank, world_size, timeout):
    global peer, me
    from multiprocessing.connection import Client, Listener
    assert os.environ["NCCL_HOSTID"] == f"gpu-check-{{rank}}" and "NCCL_ALGO" not in os.environ
    assert (os.environ.get("NCCL_NET"), os.environ["NCCL_NET_PLUGIN"] == "none") in ((None, False), ("Socket", True))
    fallback = PLUGIN and FAULT == "fallback"
    sys.stdout.write((LOGS["missing"] if fallback else "") + LOGS["plugin" if PLUGIN and not fallback else "socket"])
    me, path = rank, init_method.removeprefix("file://")[-90:]
    if rank == 0:
        peer = Listener("\\0" + path).accept()
    else:
        for _ in range(500):
            try: peer = Client("\\0" + path); break
            except OSError: time.sleep(0.01)

def all_reduce(tensor):
    global calls
    calls += 1
    if PLUGIN and calls > 5 and me == 1:
        if FAULT == "hang":
            with open(os.environ["PIDS"], "a") as out: out.write(f"{{os.getpid()}}\\n")
            time.sleep(600)
        if FAULT == "die":
            print("vm:1:1 [0] NCCL WARN NET/thalweg: peer 127.0.0.1 is gone")
            print("RuntimeError: NCCL error")
            sys.exit(1)
    try:
        peer.send(tensor.values)
        tensor.values = (tensor + Tensor(peer.recv())).values
    except (EOFError, OSError): time.sleep(600)  # as a kernel does that waits for a peer
    if PLUGIN and FAULT == "flip" and me == 1 and calls == 4 or FAULT == "alike" and calls == 4:
        value = struct.unpack("I", struct.pack("f", tensor.values[0]))[0] ^ 1
        tensor.values[0] = struct.unpack("f", struct.pack("I", value))[0]

distributed.init_process_group, distributed.all_reduce = init_process_group, all_reduce
distributed.destroy_process_group = lambda: peer.close()
sys.modules["torch.cuda"], sys.modules["torch.distributed"] = cuda, distributed
'''


class Log(unittest.TestCase):
    """Who carried it, by NCCL's log."""

    def problem(self, log, transport="thalweg"):
        return gpu_check.Way(log).problem(transport)

    def test_both_transports_are_recognised(self):
        self.assertIsNone(self.problem(PLUGIN_LOG))
        self.assertIsNone(self.problem(SOCKET_LOG, "Socket"))
        self.assertEqual(gpu_check.Way(PLUGIN_LOG).channels, 2)
        self.assertEqual(gpu_check.Way(PLUGIN_LOG).about, {
            "nccl": "2.30.7+cuda13.3", "plugin": "thalweg 0.1.0: TCP over lo (10000 Mb/s) at 127.0.0.1:44113"})

    def test_a_fallback_is_seen_and_explained(self):
        self.assertIn("used Socket and not thalweg: NET/Plugin: Could not find", self.problem(NOT_FOUND + SOCKET_LOG))
        self.assertIn("NET/thalweg: no interface", self.problem(NO_INTERFACE + SOCKET_LOG))
        self.assertIn("used thalweg and not Socket", self.problem(PLUGIN_LOG, "Socket"))

    def test_a_loaded_plugin_that_carries_nothing_is_not_enough(self):
        self.assertIn("went by SHM/direct/direct", self.problem(PLUGIN_LOG.replace("NET/thalweg/0", "SHM/direct/direct")))
        one = PLUGIN_LOG.replace("[send] via NET/thalweg/0", "via P2P/CUMEM")
        self.assertIn("went by P2P/CUMEM", self.problem(one))
        self.assertIn("no channel", self.problem(PLUGIN_LOG.split("vm:393:393 [0] NCCL INFO Channel")[0]))
        self.assertIn("no network", self.problem("PyTorch said something\n"))

    def test_the_real_nccl_says_these_lines(self):
        """NCCL itself, on CPUs, where `make lab-tools` and a build have put what that takes."""
        target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
        plugins = (os.path.join(target, "release", name, "libnccl_net_thalweg.so") for name in (".", "deps"))
        plugin = next((path for path in plugins if os.path.exists(path)), None)
        program = os.path.join(ROOT, "target/lab/nccl_cpu")
        library = os.path.join(ROOT, "target/nccl/2.30.7/libnccl.so.2")
        if not plugin or not os.path.exists(program) or not os.path.exists(library):
            if "LAB_REQUIRED" in os.environ:
                self.fail("run `make lab-tools build` first")
            self.skipTest("NCCL or the plugin is not there: `make lab-tools build`")
        for transport in gpu_check.TRANSPORTS:
            options = gpu_check.parse(["--plugin", plugin])
            env = gpu_check.environment(transport, 0, options)
            del env["NCCL_HOSTID"]  # both ranks have this environment; the program gives each its own
            done = subprocess.run([program, "--nccl", library, "-b", "64K", "-e", "64K", "-n", "2"], env=env, text=True,
                                  capture_output=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIsNone(self.problem(done.stdout + done.stderr, transport))


class Words(unittest.TestCase):
    def test_sizes(self):
        self.assertEqual(gpu_check.list_of_bytes("1M,4,64k"), [4, 65536, 1 << 20])
        self.assertEqual([gpu_check.size_name(s) for s in (4, 4096, 1 << 20, 1048580, 1 << 30)],
                         ["4", "4K", "1M", "1048580", "1G"])
        for bad in ("0", "6", "x", "2G", "", "-4"):
            with self.assertRaises(gpu_check.argparse.ArgumentTypeError, msg=bad):
                gpu_check.list_of_bytes(bad)

    def test_figures_have_no_exponent(self):
        self.assertEqual([gpu_check.figure(v) for v in (0.00001, 0.0123, 1.234, 12.34, 12345.6)],
                         ["< 0.001", "0.012", "1.23", "12.3", "12346"])


class Comparison(unittest.TestCase):
    def runs(self, **changed):
        """Two runs of one size, alike but for what is changed in one finding of the plugin's."""
        runs = [gpu_check.Run(transport, 1) for transport in gpu_check.TRANSPORTS]
        for one in runs:
            for kind in ("integers", "reals", "timed"):
                for rank in range(gpu_check.RANKS):
                    one.findings[4096, kind, rank] = {"wrong": 0, "sums": 1024, "first": None, "digest": "a",
                                                      "seconds": 1e-3}
        runs[1].findings[4096, "reals", 1].update(changed)
        return runs

    def test_equal_numbers_of_other_bits_are_told(self):  # a zero of the other sign, say
        self.assertEqual(gpu_check.compare(self.runs(), [4096]), {4096: []})
        self.assertEqual(gpu_check.compare(self.runs(digest="b"), [4096]),
                         {4096: ["4K, reals, thalweg, round 1, rank 1: other bits than Socket, round 1, rank 0"]})

    def test_the_slower_rank_counts(self):
        runs = self.runs()
        runs[1].findings[4096, "timed", 1]["seconds"] = 0.5e-3
        runs[0].findings[4096, "timed", 0]["seconds"] = 4e-3
        line = gpu_check.table(runs, [4096], {4096: []}).splitlines()[-1]
        self.assertEqual([cell.strip() for cell in line.strip("|").split("|")],
                         ["4K", "50", "4000", "1000", "0.001", "0.004", "4.00 (4.00 to 4.00)", "right, equal"])


class Whole(unittest.TestCase):
    """The script from its start to its exit status."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="thalweg-gpu-check-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        os.mkdir(self.path("bin"))
        os.mkdir(self.path("stub"))
        self.write("stub/torch.py", TORCH.format(
            logs={"plugin": PLUGIN_LOG, "socket": SOCKET_LOG, "missing": NOT_FOUND}))
        self.write("plugin.so", "")
        self.nvidia_smi("echo 'GPU 0: Stub GPU (UUID: GPU-0)'")
        self.env = dict(os.environ, PYTHONPATH=self.path("stub"), LAB_GPU_DIR=self.path("out"), NCCL_ALGO="Tree",
                        PATH=f"{self.path('bin')}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}")

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as out:
            out.write(text)

    def nvidia_smi(self, script):
        self.write("bin/nvidia-smi", f"#!/bin/sh\n{script}\n")
        os.chmod(self.path("bin/nvidia-smi"), 0o755)

    def check(self, *args, fault="", rounds=1):
        command = [GPU_CHECK_SH, "--plugin", self.path("plugin.so"), "--sizes", SIZES, "--rounds", str(rounds),
                   "--limit", "20", *args]
        return subprocess.run(command, env=dict(self.env, FAULT=fault, PIDS=self.path("pids")), text=True,
                              capture_output=True, timeout=60, check=False)

    def assert_ends(self, done, status, words):
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertIn(words, done.stdout + done.stderr)

    def test_all_right(self):
        done = self.check(rounds=2)
        self.assert_ends(done, 0, "PASSED: every sum right")
        self.assertIn("Stub GPU, PyTorch 0.0-stub, NCCL 2.30.7+cuda13.3; two ranks on one GPU, over lo", done.stdout)
        self.assertIn("thalweg 0.1.0: TCP over lo (10000 Mb/s) at 127.0.0.1:44113; channels: 2, with Socket 1", done.stdout)
        rows = [[cell.strip() for cell in line.strip("|").split("|")]
                for line in done.stdout.splitlines() if "equal" in line]
        self.assertEqual([row[0] for row in rows], ["4", "1K", "4100"])
        self.assertEqual({row[-1] for row in rows}, {"right, equal"})

    def test_no_gpu_is_skipped_in_one_line(self):
        self.nvidia_smi("echo 'No devices were found'; exit 6")
        done = self.check()
        self.assertEqual((done.returncode, done.stderr), (2, ""))
        self.assertEqual(done.stdout, "SKIPPED: no NVIDIA GPU here: nvidia-smi -L says 'No devices were found'\n")
        # And where there is no driver at all.
        os.remove(self.path("bin/nvidia-smi"))
        for tool in ("bash", "dirname"):
            os.symlink(shutil.which(tool), self.path(f"bin/{tool}"))
        self.env["PATH"] = self.path("bin")
        done = self.check()
        self.assertEqual((done.returncode, done.stderr), (2, ""))
        self.assertEqual(done.stdout, "SKIPPED: no NVIDIA GPU here: nvidia-smi is not installed\n")

    def test_pytorch_that_will_not_do_is_told(self):
        done = self.check(fault="cpu-only")
        self.assert_ends(done, 1, "built without CUDA: run 'python3 -m venv ")
        self.assertIn("-m pip install torch", done.stderr)
        self.assert_ends(self.check(fault="old-nccl"), 1, "brings an NCCL older than 2.21")
        self.write("stub/torch.py", "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
        self.assert_ends(self.check(), 1, "PyTorch is missing: run 'python3 -m venv ")
        self.assertFalse(os.path.exists(self.path("out/venv")), "something was installed unasked")

    def test_a_plugin_that_nccl_did_not_use_fails(self):
        done = self.check(fault="fallback")
        self.assert_ends(done, 1, "FAILED: thalweg, round 1, rank 0: NCCL used Socket and not thalweg: "
                         "NET/Plugin: Could not find")

    def test_a_flipped_bit_fails(self):
        done = self.check(fault="flip")
        self.assert_ends(done, 1, "FAILED: not every result is right")
        self.assertIn("4, timed, thalweg, round 1, rank 1: 1 of 53 sums are wrong, the first is number 0 of all-reduce 1",
                      done.stdout)
        self.assertIn("4, timed, thalweg, round 1, rank 1: other bits than Socket, round 1, rank 0", done.stdout)
        self.assertIn("**wrong**", done.stdout)
        self.assertNotIn("Socket, round 1, rank 0: ", done.stdout)

    def test_what_both_get_wrong_alike_fails(self):
        done = self.check(fault="alike")
        self.assert_ends(done, 1, "Socket, round 1, rank 0: 1 of 53 sums are wrong")
        self.assertNotIn("other bits than", done.stdout)

    def test_a_rank_that_dies_ends_the_other_and_its_reason_is_told(self):
        done = self.check("--limit", "40", fault="die")
        self.assert_ends(done, 1, "FAILED: thalweg, round 1: rank 1: NCCL WARN NET/thalweg: peer 127.0.0.1 is gone "
                         "(at or after 4;")
        self.assertNotIn("not done after", done.stdout)

    def test_a_hanging_rank_is_ended_by_the_deadline(self):
        begin = time.monotonic()
        done = self.check("--limit", "3", fault="hang")
        self.assert_ends(done, 1, "FAILED: thalweg, round 1: not done after 3 s (at or after 4;")
        self.assertLess(time.monotonic() - begin, 30)
        self.assert_gone()

    def test_ending_the_check_ends_its_ranks(self):
        for how in (signal.SIGTERM, signal.SIGKILL):
            with self.subTest(how=how):
                check = subprocess.Popen([GPU_CHECK_SH, "--plugin", self.path("plugin.so"), "--sizes", SIZES],
                                         env=dict(self.env, FAULT="hang", PIDS=self.path("pids")), text=True,
                                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                end = time.monotonic() + 30
                while not os.path.exists(self.path("pids")) and time.monotonic() < end:
                    time.sleep(0.02)
                check.send_signal(how)
                said, _ = check.communicate(timeout=15)
                if how == signal.SIGTERM:
                    self.assertEqual((check.returncode, said), (1, "FAILED: interrupted\n"))
                self.assert_gone()
                os.remove(self.path("pids"))

    def assert_gone(self):
        with open(self.path("pids"), encoding="ascii") as pids:
            for pid in pids.read().split():
                end = time.monotonic() + 5
                while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
                    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
                        if stat.read().rpartition(")")[2].split()[0] == "Z":  # ended; whoever adopted it has yet to ask
                            break
                    time.sleep(0.02)
                else:
                    self.assertFalse(os.path.exists(f"/proc/{pid}"), f"rank {pid} outlived the check")

    def test_two_checks_at_once_are_refused(self):
        os.makedirs(self.path("out/logs"))
        with open(self.path("out/logs/lock"), "w", encoding="ascii") as lock:
            gpu_check.fcntl.flock(lock, gpu_check.fcntl.LOCK_EX)
            self.assert_ends(self.check(), 1, "another check is running")

    def test_a_mistake_is_not_taken_for_no_gpu(self):
        for args in (("--sizes", "6"), ("--rounds", "0"), ("--frobnicate",), ("--limit", "-1"), ("--env", "NCCL_PROTO")):
            done = self.check(*args)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
        self.assert_ends(self.check("--plugin", "/nowhere/x.so"), 1, "there is no /nowhere/x.so")

    def test_the_logs_folder_keeps_what_is_not_ours(self):
        os.makedirs(self.path("out/logs"))
        self.write("out/logs/notes", "mine")
        self.write("out/logs/Socket-9-rank0.log", "of an earlier check")
        self.assert_ends(self.check(), 0, "PASSED")
        left = os.listdir(self.path("out/logs"))
        self.assertIn("notes", left)
        self.assertNotIn("Socket-9-rank0.log", left)


if __name__ == "__main__":
    unittest.main(verbosity=2)
