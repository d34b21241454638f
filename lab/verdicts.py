#!/usr/bin/env python3
"""verdicts.py: makes each kind of trouble in a fabric of its own, records it, and asks `thalweg explain`.

Each scene is two programs on a fabric of shaped paths (fabric.sh) that something is done to. What is recorded
can be kept (--keep), as the files in tests/recordings are, on which the tests run.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LAB = Path(__file__).resolve().parent
ROOT = LAB.parent
FABRIC_SH = str(LAB / "fabric.sh")
SECONDS = 6  # a scene's traffic; what is recorded leaves out its begin and its end


class Scene:
    """A fabric, the traffic on it, what is done to it, and what the verdict is to be."""

    def __init__(self, name, expected, rates, traffic, settings=None, trouble=None, role="sender"):
        self.name, self.expected, self.rates, self.traffic = name, expected, rates, traffic
        self.settings, self.trouble, self.role = settings or {}, trouble, role


def fabric(*args):
    done = subprocess.run([FABRIC_SH, *map(str, args)], text=True, capture_output=True, timeout=60, check=False)
    if done.returncode != 0:
        sys.exit(f"fabric.sh {args[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


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


def cut(path):
    def trouble(_children, until):
        time.sleep(1.5)
        fabric("cut", path)
        time.sleep(max(0, until - time.monotonic() - 1))
        fabric("heal", path)

    return trouble


BULK = ["sendrecv", "--oneway", "-b", "4M", "-e", "4M"]
SCENES = [
    Scene("full", "shared", "200,200,200,200", BULK),
    Scene("slow-path", "slow-path", "300,300,300,60", BULK),
    Scene("collision", "path-collision", "200,200,200,200", BULK, {"THALWEG_PATH_SEARCH": "off"}),
    Scene("cut", "path-loss", "200,200,200,200", BULK, trouble=cut(1)),
    Scene("receiver-stopped", "receiver-host", "400,400", BULK, trouble=freeze(1, 1.4, 0.1)),
    Scene("sender-stopped", "software", "400,400", BULK, trouble=freeze(0, 0.9, 0.1)),
    Scene("sender-late", "sender", "900,900", ["pingpong", "-b", "64K", "-e", "64K", "--inflight", "1"], role="receiver"),
]


def run(scene, programs, keep):
    with tempfile.TemporaryDirectory(prefix="thalweg-verdicts-") as folder:
        segments = Path(folder) / "segments"
        segments.mkdir()
        recording = Path(folder) / f"{scene.name}.gz"
        fabric("up", "--rates", scene.rates)
        try:
            children = []
            for rank, side in enumerate("ab"):
                env = {k: v for k, v in os.environ.items() if not k.startswith(("NCCL_", "THALWEG_"))}
                env.update(
                    RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR=f"unix:{folder}/meet", MASTER_PORT="1",
                    THALWEG_IFNAME="app0", THALWEG_TRANSPORT="tcp", THALWEG_SHM_DIR=str(segments),
                    THALWEG_PATHS=str(scene.rates.count(",") + 1), **scene.settings)
                argv = [programs["net_perf"], *scene.traffic, "--plugin", programs["plugin"], "--seconds", str(SECONDS)]
                children.append(subprocess.Popen(
                    [FABRIC_SH, "exec", side, "--", *map(str, argv)], env=env,
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
            time.sleep(1.5)
            # It begins before the trouble does, so that nothing of it is missing.
            recorder = subprocess.Popen(
                [programs["thalweg"], "record", str(recording), "--interval", "500ms", "--for", f"{SECONDS - 2}s",
                 "--folder", str(segments)], stdout=subprocess.DEVNULL)
            if scene.trouble:
                scene.trouble(children, time.monotonic() + SECONDS - 2.5)
            recorder.wait(timeout=60)
            for child in children:
                try:
                    child.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    child.kill()
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
            fabric("down")
        explained = subprocess.run([programs["thalweg"], "explain", str(recording), "--json"],
                                   capture_output=True, text=True, timeout=60, check=True)
        findings = json.loads(explained.stdout)["findings"]
        text = subprocess.run([programs["thalweg"], "explain", str(recording)],
                              capture_output=True, text=True, timeout=60, check=True).stdout
        mine = [f for f in findings if f["role"] == scene.role]
        told = mine[0]["cause"] if mine else "nothing"
        is_right = told == scene.expected
        print(f"{'ok  ' if is_right else 'FAIL'} {scene.name}: {told} (expected {scene.expected})")
        if not is_right or keep is None:
            print("    " + text.replace("\n", "\n    "))
        if keep and is_right:
            Path(keep).mkdir(parents=True, exist_ok=True)
            (Path(keep) / recording.name).write_bytes(recording.read_bytes())
        return is_right


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="release", help="debug or release")
    parser.add_argument("--keep", help="put the recordings of right verdicts into this folder")
    parser.add_argument("scenes", nargs="*", help="only these")
    options = parser.parse_args()
    built = ROOT / "target" / options.build
    programs = {"thalweg": built / "thalweg", "net_perf": built / "examples/net_perf",
                "plugin": built / "libnccl_net_thalweg.so"}
    os.environ["FABRIC"] = f"verdicts{os.getpid()}"
    wanted = [scene for scene in SCENES if not options.scenes or scene.name in options.scenes]
    right = [run(scene, programs, options.keep) for scene in wanted]
    print(f"{sum(right)} of {len(right)} verdicts are right")
    sys.exit(0 if all(right) else 1)


if __name__ == "__main__":
    main()
