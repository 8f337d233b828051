"""What each process of a grid is told before all else: its wall clock, its network, its limits.

It comes with the environment, so a part that is killed and started again, by whomever, is in its cage again.
"""

import json
import os
import struct

CODE = '''
"""Runs at the start of each Python process: see cages.py. A process that can't be caged must not run free."""

import json, mmap, os, struct, sys, threading, time

where = os.environ["TEST_CAGES"]


def keep_time():
    """A wall clock of our own; what is waited by stays as it is. A look needs no descriptor, and no call."""
    with open(os.path.join(where, "clock"), "rb") as file:
        offset = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    real_ns = time.time_ns

    def time_ns():
        return real_ns() + struct.unpack("q", offset[:])[0] * 10**9

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 10**9


def name_threads():
    """Linux tells a thread's name to whoever looks from outside (prctl(2)): it begins with its maker's.

    A call that needs no descriptor, for a thread that begins while there is none.
    """
    import ctypes

    set_name, prctl = 15, ctypes.CDLL(None).prctl
    begin = threading.Thread._bootstrap_inner

    def named(thread):
        prctl(set_name, thread.name[:15].encode(errors="replace"), 0, 0, 0)
        begin(thread)

    threading.Thread._bootstrap_inner = named


def enter(cage):
    if cage["group"]:
        with open(os.path.join(cage["group"], "cgroup.procs"), "w") as file:
            file.write("0")
    if cage["netns"]:
        import ctypes

        new_net, libc = 0x40000000, ctypes.CDLL(None, use_errno=True)
        with open(os.path.join("/run/netns", cage["netns"])) as file:
            if libc.setns(file.fileno(), new_net):
                raise OSError(ctypes.get_errno(), "setns")
    if cage["files"]:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (cage["files"], cage["files"]))


def part():
    words = sys.orig_argv
    if "daemon" not in words:
        return ""
    kind, *names = words[words.index("daemon") + 1 :]
    return f"agent-{names[0]}" if kind == "agent" else kind


try:
    keep_time()
    if sys.platform == "linux":
        name_threads()
    path = os.path.join(where, part() + ".json")
    if part() and os.path.exists(path):
        with open(path, encoding="ascii") as file:
            enter(json.load(file))
except BaseException as error:
    print(f"staddle: no cage: {error!r}", file=sys.stderr, flush=True)
    os._exit(97)
'''


class Cages:
    """The cages of one grid.

    Attributes:
        environment: for all its processes, and for who starts them.
    """

    def __init__(self, where):
        """Args: where: a directory to keep them in."""
        self._where = os.path.join(where, "cages")
        code = os.path.join(self._where, "code")
        os.makedirs(code)
        with open(os.path.join(code, "sitecustomize.py"), "w", encoding="ascii") as file:
            file.write(CODE)
        with open(os.path.join(self._where, "clock"), "wb") as file:
            file.write(bytes(8))
        paths = [code, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {"PYTHONPATH": os.pathsep.join(paths), "TEST_CAGES": self._where}

    def set_clock(self, offset_s):
        """All wall clocks jump: so far from the right time, not from where they stood."""
        with open(os.path.join(self._where, "clock"), "r+b", buffering=0) as file:
            file.write(struct.pack("q", offset_s))

    def put(self, part, *, group="", netns="", files=0):
        """`manager` or `agent-NAME` is caged from its next start on.

        Args: group: directory of its control group. netns: its network namespace. files: limit of open files.
        """
        with open(os.path.join(self._where, f"{part}.json"), "w", encoding="ascii") as file:
            json.dump({"group": group, "netns": netns, "files": files}, file)
