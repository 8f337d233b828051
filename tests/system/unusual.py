"""What some scenarios need beyond a process: mounts, network namespaces, a memory limit."""

import contextlib
import functools
import os
import subprocess
import sys

import pytest

LIMIT_S = 30.0


def only_in_soak(function):
    """Too long for every run: see conftest."""
    function.only_in_soak = True
    return function


COMPONENTS = ("mounts", "netns")
"""What dev.py looks after: `mark.mounts`, `mark.netns`."""


def needs(*things):
    """Left out where one of these is not to be had."""

    def mark(function):
        for thing in things:
            if thing in COMPONENTS:
                function = getattr(pytest.mark, thing)(function)
        function.needs = [thing for thing in things if thing not in COMPONENTS]
        return function

    return mark


@functools.cache
def reason_against(thing):
    """Why something is not to be had here; "" if it is."""
    return {
        "linux": _no_linux,
        "memory": _no_memory_limit,
    }[thing]()


def run(*words, check=True):
    """Run a system program in silence. Raises CalledProcessError with what it said."""
    return subprocess.run(words, check=check, capture_output=True, text=True, timeout=LIMIT_S)


def _no_linux():
    return "" if sys.platform == "linux" else "only on Linux"


@contextlib.contextmanager
def tmpfs(path, size_bytes):
    """A small file system at a path."""
    os.makedirs(path, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "none", path)
    try:
        yield path
    finally:
        run("umount", "-l", path)


def fill(directory, left_bytes=0):
    """Take all the room of a file system but so much; the file that has it. Others may write meanwhile."""
    path = os.path.join(directory, "filler")
    with open(path, "wb") as file:
        for _ in range(100):
            room = os.statvfs(directory)
            more = room.f_bavail * room.f_frsize - left_bytes
            if more <= 0:
                break
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), more)
    return path


V1_MEMORY = "/sys/fs/cgroup/memory"


def _no_memory_limit():
    if sys.platform != "linux" or os.geteuid():
        return "only root may limit memory, on Linux"
    try:
        with memory_group(f"staddle-probe-{os.getpid()}") as group:
            group.limit(64 << 20)
            group.used_bytes()
    except OSError as error:
        return f"no control group with a memory limit can be made: {error}"
    return ""


class MemoryGroup:
    """A control group, of the second version or the first."""

    def __init__(self, name):
        if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
            self.path, self._limit, self._used = f"/sys/fs/cgroup/{name}", "memory.max", "memory.current"
        else:
            self.path = f"{V1_MEMORY}/{name}"
            self._limit, self._used = "memory.limit_in_bytes", "memory.usage_in_bytes"

    def limit(self, n_bytes):
        with open(f"{self.path}/{self._limit}", "w", encoding="ascii") as file:
            file.write(str(n_bytes))

    def used_bytes(self):
        with open(f"{self.path}/{self._used}", encoding="ascii") as file:
            return int(file.read())


@contextlib.contextmanager
def memory_group(name):
    """A control group without a limit yet. Raises OSError where there are none."""
    group = MemoryGroup(name)
    os.mkdir(group.path)
    try:
        yield group
    finally:
        os.rmdir(group.path)
