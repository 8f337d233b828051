"""`staddle demo`: one job survives the loss of its agent and of its medium, in mid-stream."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import staddle
from staddle.demo.compare import differences
from staddle.demo.grid import RealGrid
from staddle.errors import StaddleError
from staddle.wire.ops.jobs import JobRow

SEGMENT_BYTES = 4 << 20
FLOW_SECONDS = 8.0
"""About how long the backup takes: the media are throttled so that there is time to break something."""

BREAK_FROM, BREAK_TO = 0.20, 0.70
_LEFT_OUT = ("site-packages", "dist-packages", "__pycache__")

_WITHOUT_STADDLE = (
    "import runpy, sys; sys.modules['staddle'] = None; sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)

Say = Callable[[str], None]


class Demo:
    """One run, in a directory of its own that is removed afterwards."""

    def __init__(self, source: str, work: str, say: Say) -> None:
        self.source = os.path.abspath(source)
        self.work = work
        self._say = say
        self._began = time.monotonic()
        self.grid = RealGrid(os.path.join(work, "grid"))
        self.broken_agent = self.broken_medium = ""
        self.job = 0

    def say(self, text: str) -> None:
        """A line of the timeline."""
        self._say(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def run(self) -> dict[str, Any]:
        """The whole story; the summary. Raises StaddleError if something went wrong."""
        total = self._measure()
        self._start(total)
        with self.grid:
            summary = self._backup(total)
            identical = self._restore()
            rows = self._rebuild()
            self._rescue()
        return {
            "message_type": "summary",
            "identical": identical,
            "job": summary["job"],
            "files": summary["files"],
            "bytes": summary["bytes_read"],
            "bytes_stored": summary["bytes_stored"],
            "failovers": summary["failovers"],
            "rebuild_diff_rows": rows,
            "duration_s": round(time.monotonic() - self._began, 2),
        }

    def _measure(self) -> int:
        """Bytes below the source, as far as they are backed up."""
        total = 0
        for directory, names, files in os.walk(self.source):
            names[:] = [name for name in names if name not in _LEFT_OUT]
            for name in files:
                try:
                    total += os.lstat(os.path.join(directory, name)).st_size
                except OSError:
                    continue
        if total < 4 * SEGMENT_BYTES:
            raise StaddleError(
                f"{self.source} holds {total} bytes: too few to break anything in the middle",
                hint=f"--source with at least {4 * SEGMENT_BYTES >> 20} MiB",
            )
        return total

    def _start(self, total: int) -> None:
        def edit(text: str) -> str:
            lines = []
            for line in text.splitlines():
                lines.append(line)
                if line.startswith("[medium."):
                    lines.append(f"throttle_bytes_per_s = {max(int(total / FLOW_SECONDS / 3), 1 << 20)}")
                    lines.append(
                        "deadline_s = 120.0"
                    )  # so slow a medium must have time for its largest object
                elif line.startswith("[pool."):
                    lines.append(f"segment_bytes = {SEGMENT_BYTES}")
            return "\n".join(lines) + "\n"

        self.grid.init(3, edit)
        self.grid.up()
        self.say("a grid is up: one manager, three agents, three media; each backup is kept twice")

    # --- the job ------------------------------------------------------------------------------------

    def _backup(self, total: int) -> dict[str, Any]:
        words = [self.source, "--name", "demo"]
        for name in _LEFT_OUT:
            words += ["--exclude", name]
        running = self.grid.backup(*words)
        try:
            self._break_agent(total)
            self._break_medium(total)
        except BaseException:
            running.process.kill()
            running.wait()
            raise
        code = running.wait()
        summary = running.summary
        if code not in {0, 3} or summary["job"] != self.job:
            raise StaddleError(f"the backup ended with {code}: {''.join(running.errors)[-2000:]}")
        self._check_bitten(summary)
        self.say(
            f"job {self.job} has ended well ({summary['state']}): {summary['files']} files, "
            f"{summary['bytes_read'] >> 20} MiB; the same job all the time, "
            f"{summary['bytes_resent'] >> 20} MiB were sent twice"
        )
        return summary

    def _break_agent(self, total: int) -> None:
        job = self.grid.wait_job(lambda job: job.bytes_read >= BREAK_FROM * total, "a fifth had flowed")
        self.job, path = job.job, job.paths[0]
        self.say(
            f"job {job.job} runs: {_share(job, total)} flowed, through {path.agent} to {_both(path.media)}"
        )
        self.broken_agent = path.agent
        self.grid.kill(f"agent-{path.agent}")
        self.say(f"{path.agent} is killed (-9), in the middle of the stream")
        moved = self.grid.wait_job(
            lambda job: job.paths[0].agent not in {"", self.broken_agent} and job.bytes_read > 0,
            "the job moved on",
        )
        path = moved.paths[0]
        self.say(f"the job goes on through {path.agent} to {_both(path.media)}")

    def _break_medium(self, total: int) -> None:
        job = self.grid.wait_job(lambda job: job.bytes_read >= 0.4 * total, "two fifths had flowed")
        self._check_share(job, total)
        self.broken_medium = job.paths[0].media[0]
        self.grid.take_away(self.broken_medium)
        self.say(f"{self.broken_medium} is taken away, {_share(job, total)} have flowed")
        moved = self.grid.wait_job(
            lambda job: self.broken_medium not in job.paths[0].media or job.state != "running",
            "the job moved on",
        )
        path = moved.paths[0]
        self.say(f"the job goes on through {path.agent} to {_both(path.media)}")

    def _check_share(self, job: JobRow, total: int) -> None:
        if job.state != "running" or job.bytes_read > BREAK_TO * total:
            raise StaddleError(f"the fault came too late: {_share(job, total)} had flowed")

    def _check_bitten(self, summary: dict[str, Any]) -> None:
        causes = [failover["cause"] for failover in summary["failovers"]]
        if not any(cause.startswith("agent") for cause in causes) or "medium_lost" not in causes:
            raise StaddleError(f"a fault did not bite: the failovers were {causes}")
        for failover in summary["failovers"]:
            self.say(
                f"failover ({failover['cause']}): {failover['from']['agent']} to {failover['to']['agent']} "
                f"in {failover['gap_s']:.1f} s, {failover['bytes_resent'] >> 10} KiB sent again"
            )

    # --- the proof ----------------------------------------------------------------------------------

    def _restore(self) -> bool:
        target = os.path.join(self.work, "restored")
        self.grid.run("restore", "latest", "--name", "demo", "--to", target)
        source = os.fsencode(self.source)
        left_out = {os.fsencode(name) for name in _LEFT_OUT}
        found = list(
            differences(
                source,
                os.path.join(os.fsencode(target), source.lstrip(b"/")),
                lambda path: os.path.basename(path) in left_out,
            )
        )
        for line in found[:10]:
            self.say(f"differs: {line}")
        verdict = "every byte and all metadata are the same" if not found else f"{len(found)} things differ"
        self.say(f"restored while {self.broken_agent} and {self.broken_medium} are still broken: {verdict}")
        return not found

    def _rebuild(self) -> int:
        self.grid.bring_back(self.broken_medium)
        self.grid.up()
        self._await_media()
        before, after = (os.path.join(self.work, f"{name}.duckdb") for name in ("before", "after"))
        self.grid.run("catalog", "snapshot", before)
        self.grid.down()
        shutil.rmtree(os.path.join(self.grid.home, "manager"))
        self.say(
            f"{self.broken_agent} and {self.broken_medium} are mended; the manager's directory is deleted"
        )
        self.grid.up()
        self._await_media()
        self.grid.run("catalog", "rebuild")
        self.grid.run("catalog", "snapshot", after)
        done = self.grid.run("catalog", "diff", before, after, "--json", check=False)
        rows = len(json.loads(done.stdout))
        verdict = "the SQL diff is empty" if rows == 0 else f"the SQL diff has {rows} rows"
        self.say(f"the catalog is made again from the media alone: {verdict}")
        return rows

    def _await_media(self) -> None:
        end = time.monotonic() + 30.0
        while time.monotonic() < end:
            if all(medium["state"] == "up" for medium in self.grid.json("status")["media"]):
                return
            time.sleep(0.2)
        raise StaddleError(f"the media are not all up: {self.grid.json('status')['media']}")

    def _rescue(self) -> None:
        """The rescue reader, in an interpreter that cannot import Staddle."""
        script = rescue_script()
        key = os.path.join(self.work, "recovery.key")
        self.grid.run("key", "export", key)
        target = os.path.join(self.work, "rescued")
        wanted = os.path.join(self.source, "json")
        if not os.path.isdir(wanted):
            wanted = self.source
        media = [
            os.path.join(self.grid.home, "media", name)
            for name in sorted(os.listdir(os.path.join(self.grid.home, "media")))
        ]
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                _WITHOUT_STADDLE,
                script,
                "--recovery-key",
                key,
                *media,
                "restore",
                "1",
                wanted,
                "--to",
                target,
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 0:
            raise StaddleError(f"the rescue reader failed: {done.stderr[-2000:]}")
        left_out = {os.fsencode(name) for name in _LEFT_OUT}
        found = list(
            differences(
                os.fsencode(wanted),
                os.path.join(os.fsencode(target), os.fsencode(wanted).lstrip(b"/")),
                lambda path: os.path.basename(path) in left_out,
            )
        )
        if found:
            raise StaddleError(f"the rescue reader restored something else: {found[:5]}")
        self.say(f"{wanted} is restored by the rescue reader alone: the same, and no Staddle was needed")


def rescue_script() -> str:
    """Where the rescue reader is: beside the package in a checkout. Raises StaddleError."""
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(staddle.__file__))))
    path = os.path.join(checkout, "contrib", "rescue", "staddle_rescue.py")
    if not os.path.exists(path):
        raise StaddleError(
            "the rescue reader is not here", hint="run the demo from a checkout: python3 dev.py demo"
        )
    return path


def _share(job: JobRow, total: int) -> str:
    return f"{100 * job.bytes_read / total:.0f} %"


def _both(media: list[str]) -> str:
    return " and ".join(media)


def run(source: str, say: Say) -> dict[str, Any]:
    """The demo in a temporary directory; its summary."""
    with tempfile.TemporaryDirectory(prefix="staddle-demo-") as work:
        return Demo(source, work, say).run()
