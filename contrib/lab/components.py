"""What of the system some tests and labs need, and whether it is there. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROBE_S = 20.0


def ask(argv: list[str], *, limit_s: float, cwd: Path | None = None) -> tuple[int, str]:
    """Run a program in silence; return its exit code and all that it printed."""
    pipe, out = subprocess.PIPE, subprocess.STDOUT
    try:
        done = subprocess.run(argv, cwd=cwd, stdout=pipe, stderr=out, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return 1, f"did not end within {limit_s:.0f} s"
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def probe_netns() -> str:
    """Make and remove a network namespace: the rights count, not only the program."""
    if not shutil.which("ip"):
        return "the program `ip` is missing"
    name = f"staddle-probe-{os.getpid()}"
    code, text = ask(["ip", "netns", "add", name], limit_s=PROBE_S)
    if code:
        return f"no network namespace can be made: {text.splitlines()[-1] if text else f'exit {code}'}"
    ask(["ip", "netns", "delete", name], limit_s=PROBE_S)
    return ""


def probe_root() -> str:
    """Some files, owners and flags can be made by root alone."""
    return "" if sys.platform != "win32" and os.geteuid() == 0 else "only root may make what they need"


def probe_mounts() -> str:
    """Mount and unmount a file system in memory: containers often may not."""
    with tempfile.TemporaryDirectory() as where:
        code, text = ask(["mount", "-t", "tmpfs", "-o", "size=1m", "none", where], limit_s=PROBE_S)
        if code:
            return f"no tmpfs can be mounted: {text.splitlines()[-1] if text else f'exit {code}'}"
        ask(["umount", where], limit_s=PROBE_S)
    return ""


def probe_loop() -> str:
    """Block devices on files: as root, outside of most containers."""
    code, text = ask(["losetup", "--find"], limit_s=PROBE_S)
    return "" if code == 0 and os.path.exists(text) else "no loop device is to be had"


def probe_trees() -> str:
    """The programs that judge restored trees, beside us."""
    absent = [tool for tool in ("rsync", "getfattr", "getfacl", "lsattr") if not shutil.which(tool)]
    return f"not on PATH: {', '.join(absent)}" if absent else ""


def probe_peers() -> str:
    """The programs we are compared with."""
    absent = [tool for tool in ("borg", "restic") if not shutil.which(tool)]
    return f"not on PATH: {', '.join(absent)}" if absent else ""


def probe_borg_build() -> str:
    """What pip needs to build borg of the release line that the bench compares with."""
    absent = [tool for tool in ("gcc", "pkg-config") if not shutil.which(tool)]
    if not absent:
        libraries = ("libacl", "libcrypto", "liblz4", "libxxhash", "libzstd")
        absent = [each for each in libraries if ask(["pkg-config", "--exists", each], limit_s=PROBE_S)[0]]
    return f"not there: {', '.join(absent)}" if absent else ""


@dataclass(frozen=True)
class Component:
    """Something of the system that some tests need. They carry the pytest marker `marker`."""

    name: str
    marker: str
    systems: tuple[str, ...]
    packages: tuple[str, ...]
    probe: Callable[[], str]  # "" = usable, else the reason why not


PEERS = Component("borg and restic", "peers", ("linux", "darwin"), ("borgbackup", "restic"), probe_peers)
BORG_BUILD = Component(
    "what builds a newer borg",
    "peers",
    ("linux",),
    ("gcc", "pkg-config", "libacl1-dev", "libssl-dev", "liblz4-dev", "libxxhash-dev", "libzstd-dev"),
    probe_borg_build,
)
BENCH = (PEERS, BORG_BUILD)
COMPONENTS = (
    Component("root's rights", "root", ("linux", "darwin"), (), probe_root),
    Component("mounts", "mounts", ("linux",), ("mount",), probe_mounts),
    Component("loop devices", "loop", ("linux",), ("mount",), probe_loop),
    Component("network namespaces", "netns", ("linux",), ("iproute2",), probe_netns),
    Component("rsync, attr, acl", "trees", ("linux",), ("rsync", "attr", "acl", "e2fsprogs"), probe_trees),
    PEERS,
)
