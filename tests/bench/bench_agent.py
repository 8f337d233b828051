"""Throughput of one stream over a local socket: client and agent in processes of their own, real media.

    python tests/bench/bench_agent.py [MiB] [--directory DIR]

Makes a grid in DIR (a temporary one by default), starts its daemons, backs up one file of random bytes and
one that compresses to about half, and prints MB/s and the processor seconds of client and data process.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

from staddle.config import load
from staddle.daemon import runfiles, supervise

MIB = 1 << 20


def cpu_s(pid):
    """User and system seconds of a process so far (Linux)."""
    with open(f"/proc/{pid}/stat", "rb") as handle:
        fields = handle.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as handle:
        return next(int(line.split()[1]) for line in handle if line.startswith("VmHWM")) / 1024


def write_files(directory, mib):
    rng = np.random.default_rng(1)
    made = {}
    for name in ("random", "compressible"):
        made[name] = os.path.join(directory, name)
        os.mkdir(made[name])
        with open(os.path.join(made[name], "data"), "wb") as file:
            for _ in range(mib):
                half = rng.bytes(MIB // 2)
                if name == "random":
                    file.write(half + rng.bytes(MIB // 2))
                else:
                    mixed = np.frombuffer(half, np.uint8).reshape(-1, 64)
                    file.write(np.concatenate([mixed, np.full_like(mixed, 32)], axis=1).tobytes())
    return made


def measure(home, name, path, mib, data_pid):
    before = cpu_s(data_pid)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    argv = [sys.executable, "-m", "staddle", "backup", path, "--name", name, "--home", home]
    subprocess.run(argv, check=True, timeout=300, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    client = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    print(
        f"{name:<13} {mib * MIB / took / 1e6:7.0f} MB/s   client {client:5.2f} CPU s   "
        f"agent {cpu_s(data_pid) - before:5.2f} CPU s, peak {peak_mib(data_pid):4.0f} MiB"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mib", nargs="?", type=int, default=256)
    parser.add_argument("--directory")
    args = parser.parse_args()
    where = tempfile.mkdtemp(prefix="staddle-bench-", dir=args.directory)
    home = os.path.join(where, "home")
    try:
        files = write_files(where, args.mib)
        argv = [sys.executable, "-m", "staddle", "init", "--home", home]
        subprocess.run(argv, check=True, timeout=60, stdout=subprocess.DEVNULL)
        settings = load(home)
        supervise.start_missing(settings)
        try:
            agent = next(iter(settings.agent))
            data_pid = runfiles.running(home, f"agent-{agent}").pids[1]
            for name, path in files.items():
                measure(home, name, path, args.mib, data_pid)
        finally:
            supervise.stop_all(settings)
    finally:
        shutil.rmtree(where)


if __name__ == "__main__":
    main()
