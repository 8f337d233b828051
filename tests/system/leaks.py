"""What a grid may not leave behind: processes, descriptors, threads, temporary files. Linux counts them."""

import os
import sys
import time

from staddle.platform import process

LINUX = sys.platform == "linux"
FDS_MORE = 12
"""Descriptors beyond the first count: links that come and go while it is taken."""
THREADS_MAX = 120
"""Of one process: pools of workers grow up to their bounds, and no further."""
LIMIT_S = 20.0


class Census:
    """Descriptors and threads of a grid's processes, from the first look at each on."""

    def __init__(self, grid):
        self._grid = grid
        self._first = {}

    def _parts(self):
        status = self._grid.json("status")
        yield "manager", status["manager"]["pids"]
        for agent in status["agents"]:
            yield agent["name"], agent["pids"]

    def check(self, media):
        """Nothing has grown, and no process runs that `status` does not know."""
        if not LINUX:
            return
        end = time.monotonic() + LIMIT_S
        while (wrong := self._wrong(media)) and time.monotonic() < end:
            time.sleep(0.3)  # a link that was left may still be closing
        assert not wrong, "\n".join(wrong)

    def _wrong(self, media):
        wrong, known = [], set()
        for part, pids in self._parts():
            known.update(pids)
            for pid in pids:
                fds, threads = descriptors(pid), thread_count(pid)
                first = self._first.setdefault(pid, len(fds))
                if len(fds) > first + FDS_MORE:
                    wrong.append(f"{part} ({pid}): {len(fds)} descriptors, first {first}: {sorted(fds)}")
                if threads > THREADS_MAX:
                    wrong.append(f"{part} ({pid}): {threads} threads")
        strangers = [pid for pid in of_home(self._grid.home) if pid not in known]
        return wrong + [f"process {pid} is left: {command(pid)}" for pid in strangers]

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


def thread_count(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


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
