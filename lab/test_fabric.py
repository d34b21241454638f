#!/usr/bin/env python3
"""Checks of the lab itself: that the fabric is shaped, spreads by port, breaks and heals as it says.

A benchmark or a fault test on a fabric that does not really lose packets proves nothing, so these run
first. Plain TCP streams, no transport of ours. Needs root: python3 lab/test_fabric.py
"""

import json
import os
import subprocess
import sys
import time
import unittest

FABRIC_SH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fabric.sh")
FABRIC = f"thwt{os.getpid() % 10000}"
ENV = dict(os.environ, FABRIC=FABRIC)

# argv: address, first port, streams, seconds. The sink prints one byte count per stream.
SINK = """
import socket, sys, threading
host, port, streams, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
server = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=64)
server.settimeout(seconds + 5)
def drain(conn):
    conn.settimeout(seconds + 10)
    buffer = bytearray(1 << 18)
    while conn.recv_into(buffer): pass
print("ready", flush=True)
threads = [threading.Thread(target=drain, args=(server.accept()[0],)) for _ in range(streams)]
for t in threads: t.start()
for t in threads: t.join()
"""
SOURCE = """
import select, socket, sys, time
host, port, streams, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
socks = [socket.create_connection((host, port), timeout=5) for _ in range(streams)]
for s in socks: s.setblocking(False)
end, data = time.monotonic() + seconds, bytes(1 << 18)
while time.monotonic() < end:
    for s in select.select([], socks, [], 0.05)[1]:
        try: s.send(data)
        except BlockingIOError: pass
"""


def fabric(*args, check=True):
    """Runs one fabric.sh command and returns its output."""
    done = subprocess.run([FABRIC_SH, *args], env=ENV, text=True, capture_output=True, timeout=90, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"fabric.sh {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout.strip() if check else done


def delivered():
    """Bytes that host b has received over each path."""
    return [p["a_to_b_bytes"] for p in json.loads(fabric("status", "--json"))["paths"]]


class Streams:
    """TCP streams from one host to another, running in the background."""

    def __init__(self, streams, seconds, family="", source="a", port=5201):
        address = fabric("addr", "b", *([family] if family else []))
        argv = [address, str(port), str(streams), str(seconds)]
        self.sink = subprocess.Popen([FABRIC_SH, "exec", "b", "--", sys.executable, "-c", SINK, *argv],
                                     env=ENV, stdout=subprocess.PIPE, text=True)
        self.sink.stdout.readline()
        self.source = subprocess.Popen([FABRIC_SH, "exec", source, "--", sys.executable, "-c", SOURCE, *argv], env=ENV)

    def end(self):
        for child in (self.source, self.sink):
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.sink.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def rates_mbps(seconds):
    """Goodput of each path towards b, measured over some seconds from now."""
    before, t0 = delivered(), time.monotonic()
    time.sleep(seconds)
    after, t1 = delivered(), time.monotonic()
    return [(y - x) * 8 / (t1 - t0) / 1e6 for x, y in zip(before, after)]


class Paths(unittest.TestCase):
    def setUp(self):
        fabric("up", "--rates", "200,200,100,50")
        self.addCleanup(fabric, "down")

    def test_streams_spread_over_all_paths_at_their_rates(self):
        for family in ("-4", "-6"):
            with self.subTest(family=family), Streams(24, 4, family):
                time.sleep(1.5)
                for got, rate in zip(rates_mbps(2), (200, 200, 100, 50)):
                    self.assertGreater(got, 0.5 * rate, "ECMP left a path nearly unused")
                    self.assertLess(got, 1.08 * rate, "the shaper lets too much through")

    def test_one_stream_stays_on_one_path(self):
        with Streams(1, 2):
            time.sleep(0.5)
            busy = [r for r in rates_mbps(1) if r > 5]
        self.assertEqual(len(busy), 1, busy)

    def test_cut_is_a_black_hole_and_heal_restores(self):
        with Streams(24, 8):
            time.sleep(1)
            fabric("cut", "0")
            time.sleep(0.1)
            cut = rates_mbps(1)
            self.assertEqual(cut[0], 0, "bytes crossed a cut path")
            self.assertGreater(sum(cut), 20, "the other paths stopped as well")
            fabric("heal", "0")
            time.sleep(3.5)  # the kernel's own retransmission back-off
            self.assertGreater(rates_mbps(1.5)[0], 50)

    def test_a_cut_is_silent(self):
        for path in range(4):
            fabric("cut", str(path))
        probe = fabric("exec", "a", "--", sys.executable, "-c",
                       "import socket, sys\ntry: socket.create_connection((sys.argv[1], 9), timeout=0.7)\n"
                       "except TimeoutError: print('silence')\nexcept OSError as e: print(e)", fabric("addr", "b"))
        self.assertEqual(probe, "silence")

    def test_link_down_moves_streams_and_link_up_restores(self):
        fabric("linkdown", "1")
        for family in ("-4", "-6"):
            with self.subTest(family=family), Streams(8, 2, family):
                time.sleep(0.5)
                rates = rates_mbps(1)
                self.assertEqual(rates[1], 0)
                self.assertGreater(sum(rates), 50)
        fabric("linkup", "1")
        for family in ("-4", "-6"):
            with self.subTest(family=family), Streams(24, 3, family):
                time.sleep(1)
                self.assertGreater(rates_mbps(1)[1], 50)

    def test_rate_reshapes(self):
        fabric("rate", "0", "20")
        with Streams(24, 3):
            time.sleep(1)
            self.assertLess(rates_mbps(1.5)[0], 24)

    def test_flap_ends_healed(self):
        fabric("flap", "2", "--period", "0.4", "--seconds", "1")
        self.assertEqual({p["state"] for p in json.loads(fabric("status", "--json"))["paths"]}, {"up"})


class Incast(unittest.TestCase):
    def test_senders_share_the_receivers_link(self):
        fabric("up", "--senders", "4", "--rate", "200")
        self.addCleanup(fabric, "down")
        streams = [Streams(1, 3, source=f"s{k}", port=5201 + k) for k in range(4)]
        self.addCleanup(lambda: [s.end() for s in streams])

        def received():
            hosts = json.loads(fabric("status", "--json"))["hosts"]
            return {h["host"]: (h["sent_bytes"], h["received_bytes"]) for h in hosts}

        time.sleep(1)
        before = received()
        time.sleep(1.5)
        after = received()
        mbps = (after["b"][1] - before["b"][1]) * 8 / 1.5 / 1e6
        self.assertGreater(mbps, 150)
        self.assertLess(mbps, 220)
        for k in range(4):
            self.assertGreater(after[f"s{k}"][0], before[f"s{k}"][0])


class Misuse(unittest.TestCase):
    def test_each_mistake_gets_one_line(self):
        for args, words in (
            (("cut", "0"), "there is no fabric"),
            (("up", "--rates", "500,x"), "whole Mb/s"),
            (("up", "--senders", "0"), "1 to 64"),
            (("frobnicate",), "unknown command"),
            (("exec", "a", "true"), "there is no fabric"),
        ):
            with self.subTest(args=args):
                done = fabric(*args, check=False)
                self.assertNotEqual(done.returncode, 0)
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                self.assertIn(words, done.stderr)

    def test_up_remakes_and_down_leaves_nothing(self):
        fabric("up", "--rates", "100")
        fabric("up", "--rates", "100,100")
        self.addCleanup(fabric, "down")
        self.assertEqual(len(delivered()), 2)
        done = fabric("cut", "2", check=False)
        self.assertIn("has no path '2'", done.stderr)
        fabric("down")
        fabric("down")
        self.assertNotIn(FABRIC, subprocess.run(["ip", "netns", "list"], text=True, capture_output=True, check=True).stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
