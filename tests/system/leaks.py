"""What a grid may not leave behind: processes, descriptors, threads, temporary files. Linux counts them."""

import collections
import contextlib
import os
import sys
import time

from staddle.platform import process

LINUX = sys.platform == "linux"
FDS_MORE = 12
"""Descriptors beyond the first count: links that come and go while it is taken."""
FIRST_LOOKS = 3
"""The first looks at a process tell how many threads of each kind it has."""
THREADS_MORE = 2
"""Beyond those: work that goes on while they are counted."""
CORES = os.cpu_count() or 1
POOLS_MAX = {
    "put": 8,
    "read": 2,
    "staddle-read": 4,
    "label": 3,
    "object": 4,
    "asyncio": min(32, CORES + 4),
    "staddle-pack": CORES,
    "staddle-store": 8 + CORES,
    "medium-m": 3 * (16 + 4),
}
"""Pools of workers grow up to their bounds, and no further, by the names of their threads."""
LIMIT_S = 20.0


class Census:
    """Descriptors and threads of a grid's processes, from the first look at each on."""

    def __init__(self, scene):
        self._scene = scene
        self._first = {}
        self._threads = {}

    def check(self):
        """Nothing has grown, and no process runs that no run file names."""
        if not LINUX:
            return
        end = time.monotonic() + LIMIT_S
        while (wrong := self._wrong()) and time.monotonic() < end:
            time.sleep(0.3)  # a link that was left may still be closing
        assert not wrong, "\n".join(wrong)
        for _, pids in self._scene.pids():
            for pid in pids:
                self._learn(pid)

    def _wrong(self):
        wrong, known = [], set()
        for part, pids in self._scene.pids():
            known.update(pids)
            for pid in pids:
                fds = descriptors(pid)
                first = self._first.setdefault(pid, len(fds))
                if len(fds) > first + FDS_MORE:
                    wrong.append(f"{part} ({pid}): {len(fds)} descriptors, first {first}: {sorted(fds)}")
                wrong += [f"{part} ({pid}): {what}" for what in self._too_many_threads(pid)]
        strangers = [pid for pid in of_home(self._scene.grid.home) if pid not in known]
        return wrong + [f"process {pid} is left: {command(pid)}" for pid in strangers]

    def _learn(self, pid):
        looks, most = self._threads.get(pid, (0, {}))
        if looks < FIRST_LOOKS:
            now = threads(pid)
            most = {kind: max(now.get(kind, 0), most.get(kind, 0)) for kind in {*now, *most}}
            self._threads[pid] = looks + 1, most

    def _too_many_threads(self, pid):
        looks, most = self._threads.get(pid, (0, {}))
        for kind, count in threads(pid).items():
            bound = POOLS_MAX.get(kind)
            if bound is None and looks >= FIRST_LOOKS:
                bound = most.get(kind, 0) + THREADS_MORE
            if bound is not None and count > bound:
                yield f"{count} threads `{kind}`, and there are to be {bound} at most"

    def check_files(self, scene):
        """What killed processes have left on the media is swept when it is old enough."""
        grid = scene.grid
        grid.down()
        if LINUX:
            assert not of_home(grid.home), "processes are left after `down`"
        left = []
        for name in scene.media:
            area = os.path.join(grid.medium_path(name), "tmp")
            left += [os.path.join(area, entry) for entry in os.listdir(area)]
        print(f"{len(left)} temporary files were left by killed processes")
        for path in left:
            os.utime(path, (0, 0))
        grid.up()
        scene.await_media()
        still = [path for path in left if os.path.exists(path)]
        assert not still, f"temporary files are never removed: {still}"


def descriptors(pid):
    """What each open descriptor of a process is; nothing for one that is gone."""
    found = []
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for name in names:
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
    return found


def threads(pid):
    """How many threads of each kind a process has, by their names without a number: see cages.py."""
    found = collections.Counter()
    try:
        names = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for name in names:
        try:
            with open(f"/proc/{pid}/task/{name}/comm", encoding="utf-8", errors="replace") as file:
                found[file.read().strip().rstrip("-_0123456789")] += 1
        except OSError:
            continue
    return found


def command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def of_home(home):
    """Processes that belong to a home by their command line."""
    return [
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit() and home in command(name) and "daemon" in command(name) and process.alive(int(name))
    ]


def peak_bytes(pids):
    """The most memory that any of some processes has had; 0 where there is no /proc."""
    found = [0]
    for pid in pids:
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/status", encoding="ascii") as file:
            found += [int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM")]
    return max(found)
