"""What the system tests share: a tree worth backing up, a grid to be broken, and the one verdict."""

import contextlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import time

from staddle.daemon import runfiles
from staddle.demo.compare import differences
from staddle.demo.grid import RealGrid, ask
from staddle.demo.run import rescue_script

SEGMENT_BYTES = 2 << 20
WINDOW_BYTES = 2 * SEGMENT_BYTES + (8 << 20)
RECORD_BYTES_MAX = 1 << 20
RATE_BYTES_PER_S = 6 << 20
FROM, TO = 0.20, 0.70
"""A fault comes while this share of the bytes has flowed."""
END_LIMIT_S = 120.0
SPECIAL_BYTES = (9 << 20) + 12345
"""The largest file: more than four segments."""


# --- the tree -----------------------------------------------------------------------------------


def make_tree(root, rng, size_bytes):
    """Everything that a backup must bring back, and `size_bytes` of data that nothing makes smaller."""
    os.makedirs(root)
    _write(root, "big.bin", rng.randbytes(SPECIAL_BYTES))
    _write(root, "exactly-1-mib", rng.randbytes(1 << 20))
    _write(root, "empty", b"")
    _write(root, "sparse-like", rng.randbytes(70000) + bytes(3 << 20) + rng.randbytes(70000))
    left, number = size_bytes - SPECIAL_BYTES - (1 << 20), 0
    while left > 0:
        length = min(left, rng.choice([100, 5000, 120_000, 700_000, 2_500_000]))
        _write(os.path.join(root, f"data/{number % 7}"), f"file-{number}", rng.randbytes(length))
        left, number = left - length, number + 1
    _names(root, rng)
    _links(root)
    _metadata(root, rng)


def _write(directory, name, data):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name), "wb") as file:
        file.write(data)


def _names(root, rng):
    where = os.path.join(root, "names")
    for name in ("ünï ☃", "with space", "-rf", "new\nline", "x" * 200, "UPPER", "upper.lower", "日本"):
        with contextlib.suppress(OSError):  # not every file system takes every name
            _write(where, name, name.encode() + rng.randbytes(rng.randrange(2000)))
    for raw in (b"latin-\xe4\xf6", b"\xff\xfe", b"tab\there"):
        with (
            contextlib.suppress(OSError, UnicodeError),
            open(os.path.join(os.fsencode(where), raw), "wb") as file,
        ):
            file.write(rng.randbytes(500))
    deep = os.path.join(root, *(f"level-{n}" for n in range(12)))
    _write(deep, "bottom", b"deep down")
    os.makedirs(os.path.join(root, "an empty directory"))


def _links(root):
    links = os.path.join(root, "links")
    os.makedirs(links)
    os.symlink("../exactly-1-mib", os.path.join(links, "relative"))
    os.symlink("nowhere/at all", os.path.join(links, "dangling"))
    os.symlink("../data", os.path.join(links, "to-directory"))
    os.link(os.path.join(root, "data", "1", "file-1"), os.path.join(links, "hard-1"))
    os.link(os.path.join(root, "data", "1", "file-1"), os.path.join(root, "z-hard-2"))
    os.link(os.path.join(root, "empty"), os.path.join(links, "hard-empty"))


def _metadata(root, rng):
    modes = [0o600, 0o644, 0o755, 0o640, 0o444, 0o4755]
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.chmod(path, rng.choice(modes))
            _age(path, rng)
        os.chmod(directory, rng.choice([0o755, 0o700, 0o750, 0o2755]))
        for name in os.listdir(directory):
            if os.path.islink(os.path.join(directory, name)):
                _age(os.path.join(directory, name), rng)
        _age(directory, rng)


def _age(path, rng):
    at_ns = rng.randrange(1, 1_700_000_000) * 10**9 + rng.randrange(10**9)
    os.utime(path, ns=(at_ns, at_ns), follow_symlinks=not os.path.islink(path))


def size_of(root):
    """Bytes of all regular files, hard links once, as a backup counts them."""
    seen, total = set(), 0
    for directory, _, names in os.walk(root):
        for name in names:
            status = os.lstat(os.path.join(directory, name))
            if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_size
    return total


# --- the grid -----------------------------------------------------------------------------------


def throttled(text, *, copies=None, rate=RATE_BYTES_PER_S, deadline_s=None, wait_s=None):
    """The configuration of a grid slow enough to be broken in mid-job, with a fault file for each medium."""
    lines = []
    for line in text.splitlines():
        asked = copies is not None and line.startswith("copies =")
        lines.append(f"copies = {copies}" if asked else line)
        if line.startswith("[medium."):
            name = line[len("[medium.") : -1]
            lines += [f"throttle_bytes_per_s = {rate}", f'fault_file = "{name}.faults"']
            lines += [f"deadline_s = {deadline_s}"] if deadline_s is not None else []
        elif line.startswith("[pool."):
            lines.append(f"segment_bytes = {SEGMENT_BYTES}")
            lines += [f"wait_offline_s = {wait_s}"] if wait_s is not None else []
    return "\n".join(lines) + "\n"


class Scene:
    """A grid that is up, a source tree, and a seed that decides when and where it hurts."""

    def __init__(
        self,
        where,
        seed,
        *,
        agents=3,
        size_bytes=40 << 20,
        edit=str,
        environment=None,
        ground=None,
        **settings,
    ):
        """Args: edit: changes the text of the configuration. environment: of all processes. ground: has both,
        and what the faults of a nemesis need. settings: see `throttled`."""
        self.ground = ground
        if ground is not None:
            edit, environment = ground.edit, ground.cages.environment
        self.where = str(where)
        self.rng = random.Random(seed)
        self._size_bytes = size_bytes
        self.new_tree("work")
        self.grid = RealGrid(os.path.join(self.where, "grid"))
        self.grid.environment |= environment or {}
        self.grid.init(agents, lambda text: edit(throttled(text, **settings)))
        self.agents = [f"a{number}" for number in range(1, agents + 1)]
        self.media = [f"m{number}" for number in range(1, agents + 1)]
        self.deadline_s = settings.get("deadline_s") or 30.0
        self.running = None
        self.job = 0
        self._targets = 0

    def new_tree(self, name):
        """Other data, to be backed up under this name."""
        self.name, self.source = name, os.path.join(self.where, name)
        make_tree(self.source, self.rng, self._size_bytes)
        self.total = size_of(self.source)

    def __enter__(self):
        self.grid.__enter__()
        try:
            self.grid.up()
            self.await_media()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *error):
        try:
            if self.running is not None:
                if self.running.process.poll() is None:
                    self.running.process.kill()
                self.running.wait()
            self._tell()
        finally:
            self.grid.close()

    def _tell(self):
        """The ends of the daemons' logs; pytest shows them if the test has failed."""
        if self.running is not None:
            print("backup:", "".join(self.running.errors)[-3000:])
            print("last lines:", *(json.dumps(line) for line in self.running.lines[-4:]), sep="\n  ")
        log = os.path.join(self.grid.home, "log")
        for name in sorted(os.listdir(log)):
            if name.endswith(".out"):
                with open(os.path.join(log, name), encoding="utf-8", errors="replace") as file:
                    print(f"--- {name}", "".join(file.readlines()[-40:]), sep="\n")

    def pids(self):
        """Each daemon with its processes; none for one that does not run."""
        for part in ("manager", *(f"agent-{name}" for name in self.agents)):
            run = runfiles.running(self.grid.home, part)
            yield part, {run.pid, *run.pids} if run is not None else set()

    def check_logs(self):
        """No daemon has met what nobody had thought of."""
        log = os.path.join(self.grid.home, "log")
        for name in sorted(os.listdir(log)):
            if name.endswith(".out"):
                with open(os.path.join(log, name), encoding="utf-8", errors="replace") as file:
                    said = file.read()
                at = said.find("Traceback")
                assert at < 0, f"{name}: {said[max(0, at - 500) : at + 4000]}"

    def await_media(self, *, gone=(), limit_s=30.0):
        """Until all media but those are up."""
        end = time.monotonic() + limit_s
        while True:
            media = self.grid.json("status")["media"]
            if all((medium["state"] == "up") != (medium["name"] in gone) for medium in media):
                return
            assert time.monotonic() < end, f"the media did not come to be as they should: {media}"
            time.sleep(0.2)

    # --- a job and its fault ------------------------------------------------------------------------

    def start(self, *words):
        """Start the backup; once it runs, its number is known."""
        before = self.newest()
        self.running = self.grid.backup(self.source, "--name", self.name, *words)
        job = self.grid.wait_job(lambda row: row.job > before, "the job began")
        self.job = job.job
        return self.running

    def newest(self):
        """Number of the newest job, 0 for none."""
        found = []
        # The manager may be stopped just now: that is some scenarios' point.
        self.grid.wait(lambda: found.append(self.grid.job()) or True, "the manager answers")
        return found[-1].job if found[-1] else 0

    def flow(self, low=FROM, high=0.5):
        """Wait for a random moment: a share between `low` and `high` is durable. The job's row."""
        share = self.rng.uniform(low, high)
        row = self.grid.wait_job(
            lambda row: (
                row.job == self.job and row.bytes_read >= share * self.total and bool(row.paths[0].agent)
            ),
            f"{share:.0%} of the bytes had flowed",
        )
        self.check_moment(row)
        return row

    def check_moment(self, row):
        """A fault that comes before or after its time proves nothing."""
        share = row.bytes_read / self.total
        print(f"job {row.job}: {share:.0%} have flowed, by {[(p.agent, p.media) for p in row.paths]}")
        assert row.job == self.job
        assert row.state == "running", f"the fault came too late: the job is {row.state}"
        assert FROM <= share <= TO, f"the fault came at the wrong moment: {share:.0%} have flowed"

    def finish(self, limit_s=END_LIMIT_S, codes=(0, 3)):
        """The backup's own end, with its summary, and the part of the verdict that can be told from it."""
        code = self.running.wait(limit_s)
        assert code in codes, f"exit {code}: {''.join(self.running.errors)[-3000:]}"
        summary = self.running.summary
        assert summary["job"] == self.job == self.newest()
        for failover in summary["failovers"]:
            assert failover["bytes_resent"] <= WINDOW_BYTES + RECORD_BYTES_MAX, failover
        bound = (WINDOW_BYTES + RECORD_BYTES_MAX) * len(summary["failovers"])
        assert summary["bytes_resent"] <= bound, summary
        print(f"job {summary['job']}: {summary['state']}, {json.dumps(summary['failovers'])}")
        return summary

    def check_failover(self, summary, causes, away_from):
        """The fault bit: a failover of such a cause, away from what was broken; the log says the same."""
        mine = [each for each in summary["failovers"] if each["cause"] in causes]
        assert mine, f"the fault did not bite: {summary['failovers']}"
        sides = [(each["from"], each["to"]) for each in mine]
        assert any(away_from in {a["agent"], *a["media"]} - {b["agent"], *b["media"]} for a, b in sides), (
            sides
        )
        logged = self.grid.job(self.job).failovers
        assert [(row.cause, row.to_agent) for row in logged if row.cause in causes] == [
            (each["cause"], each["to"]["agent"]) for each in mine
        ]

    # --- the verdict --------------------------------------------------------------------------------

    def restored(self, backup, *words, codes=(0,)):
        """Restore to a new directory; where the source tree lies in it."""
        self._targets += 1
        target = os.path.join(self.where, f"restored-{self._targets}")
        done = self.grid.run("restore", str(backup), *words, "--to", target, check=False)
        assert done.returncode in codes, f"restore: exit {done.returncode}: {done.stderr[-3000:]}"
        return os.path.join(target, self.source.lstrip("/"))

    def forget_restored(self):
        """Make room: what was restored last has been looked at."""
        shutil.rmtree(os.path.join(self.where, f"restored-{self._targets}"))

    @staticmethod
    def remove_tree(path):
        """A source tree that is needed no longer."""
        shutil.rmtree(path)

    def check_restore(self, backup, *, leave=lambda _: False):
        """Every byte and all metadata are the same."""
        found = self.restored(backup)
        wrong = list(differences(os.fsencode(self.source), os.fsencode(found), leave))
        assert not wrong, "\n".join(wrong[:20])

    def check_catalog(self):
        """`catalog verify` finds nothing."""
        done = self.grid.run("catalog", "verify", check=False)
        assert done.returncode == 0, f"catalog verify: exit {done.returncode}: {done.stdout}{done.stderr}"

    def check_data(self):
        """Every byte of every copy is right."""
        done = self.grid.run("verify", "--read-data", check=False)
        assert done.returncode == 0, f"verify: exit {done.returncode}: {done.stdout}{done.stderr}"

    def verdict(self, summary):
        """Restores, with whatever is broken still broken."""
        assert summary["state"] in {"complete", "warnings"}
        self.check_restore(summary["backup"])
        self.check_catalog()

    def sql(self, statement):
        """Rows of a query."""
        return self.grid.json("sql", statement)["rows"]

    def short_objects(self, backup):
        """How many objects of a backup have fewer than two copies on media that are up."""
        return self.sql(
            "SELECT count(*) FROM (SELECT o.object FROM v_backup_objects o LEFT JOIN v_copies c "
            f"ON c.object = o.object AND c.medium_state = 'up' WHERE o.backup = {backup} "
            "GROUP BY o.object HAVING count(DISTINCT c.failure_domain) < 2)"
        )[0][0]

    # --- the rescue reader ----------------------------------------------------------------------------

    def rescue(self, *words):
        """Run the rescue reader in an interpreter that can't import Staddle."""
        key = os.path.join(self.where, "recovery.key")
        if not os.path.exists(key):
            self.grid.run("key", "export", key)
        media = os.path.join(self.grid.home, "media")
        code = (
            "import runpy, sys; sys.modules['staddle'] = None; sys.argv = sys.argv[1:]; "
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        return subprocess.run(
            [
                *(sys.executable, "-c", code, rescue_script(), "--recovery-key", key),
                *(os.path.join(media, name) for name in sorted(os.listdir(media))),
                *words,
            ],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )


__all__ = ["FROM", "TO", "WINDOW_BYTES", "Scene", "ask", "make_tree", "size_of"]
