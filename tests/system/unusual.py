"""What some scenarios need beyond a process: mounts, network namespaces, a memory limit."""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time

import pytest

LIMIT_S = 30.0
TRIES = 60
POLL_S = 0.05


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
        "mounts": _no_mounts,
        "netns": _no_netns,
    }[thing]()


def run(*words, check=True):
    """Run a system program in silence. Raises CalledProcessError with what it said."""
    return subprocess.run(words, check=check, capture_output=True, text=True, timeout=LIMIT_S)


def _no_linux():
    return "" if sys.platform == "linux" else "only on Linux"


def _no_netns():
    name = f"staddle-probe-{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
        run("ip", "netns", "delete", name)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no network namespace can be made: {getattr(error, 'stderr', '') or error}"
    return ""


def _no_mounts():
    with tempfile.TemporaryDirectory() as where:
        try:
            with Disk(where, 1 << 20):
                return ""
        except (OSError, subprocess.SubprocessError) as error:
            return f"nothing can be mounted: {getattr(error, 'stderr', '') or error}"


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


class Disk:
    """A file system in memory that becomes full to the brim, or read-only, however much it has to hold.

    It gets smaller rather than being filled: so it takes no memory for that.
    """

    def __init__(self, path, room_bytes):
        self.path, self._room_bytes = str(path), room_bytes

    def __enter__(self):
        os.makedirs(self.path, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", f"size={self._room_bytes},mode=0700", "none", self.path)
        return self

    def __exit__(self, *_):
        run("umount", "-l", self.path)

    def fill(self, left_bytes=0):
        """Leave so much room, or what others leave of it in this moment. Raises OSError."""
        for _ in range(TRIES):
            room = os.statvfs(self.path)
            used = (room.f_blocks - room.f_bfree) * room.f_frsize
            if (
                run("mount", "-o", f"remount,size={used + left_bytes}", self.path, check=False).returncode
                == 0
            ):
                return
        raise OSError(f"{self.path} can't be made full: it grows all the time")

    def empty(self):
        """There is room again."""
        run("mount", "-o", f"remount,size={self._room_bytes}", self.path)

    def protect(self):
        """Read-only, in the first moment in which nothing is being written. Raises OSError for none."""
        for _ in range(TRIES):
            if run("mount", "-o", "remount,ro", self.path, check=False).returncode == 0:
                return
            time.sleep(POLL_S)
        raise OSError(f"{self.path} can't be made read-only: it is written to all the time")

    def unprotect(self):
        """It can be written to again."""
        run("mount", "-o", "remount,rw", self.path)


V1_MEMORY = "/sys/fs/cgroup/memory"
V1_LIMIT = "memory.limit_in_bytes"


def _no_memory_limit():
    if sys.platform != "linux" or os.geteuid():
        return "only root may limit memory, on Linux"
    try:
        with memory_group(f"staddle-probe-{os.getpid()}") as group:
            group.limit(64 << 20)
            group.used_bytes()
            group.kills()
    except (OSError, KeyError) as error:
        return f"no control group with a memory limit can be made: {error}"
    return ""


class MemoryGroup:
    """A control group, of the second version or the first."""

    def __init__(self, name):
        if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
            self.path, self._events = f"/sys/fs/cgroup/{name}", "memory.events"
            self._limit, self._used = "memory.max", "memory.current"
        else:
            self.path, self._events = f"{V1_MEMORY}/{name}", "memory.oom_control"
            self._limit, self._used = V1_LIMIT, "memory.usage_in_bytes"

    def limit(self, n_bytes):
        with open(f"{self.path}/{self._limit}", "w", encoding="ascii") as file:
            file.write(str(n_bytes))

    def used_bytes(self):
        with open(f"{self.path}/{self._used}", encoding="ascii") as file:
            return int(file.read())

    def unlimit(self):
        """No limit any more."""
        with open(f"{self.path}/{self._limit}", "w", encoding="ascii") as file:
            file.write("-1" if self._limit == V1_LIMIT else "max")

    def kills(self):
        """So many processes of it were killed for their memory."""
        with open(f"{self.path}/{self._events}", encoding="ascii") as file:
            words = dict(line.split() for line in file)
        return int(words["oom_kill"])


@contextlib.contextmanager
def memory_group(name):
    """A control group without a limit yet. Raises OSError where there are none."""
    group = MemoryGroup(name)
    os.mkdir(group.path)
    try:
        yield group
    finally:
        for left in reversed(range(TRIES)):
            try:
                os.rmdir(group.path)  # the kernel may still count what has just ended there
                break
            except OSError:
                if not left:
                    raise
                time.sleep(POLL_S)
