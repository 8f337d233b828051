"""How far long work is: a bar on a terminal, JSON Lines for programs, and otherwise only what went wrong.

People read stderr, so that stdout can be piped. With `--json` stdout has one object per line, of these
`message_type`s: `status` (at most two a second), `warning` and `error` (one path each), `summary` (the last).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from staddle.client.units import Tally
from staddle.errors import StaddleError
from staddle.text import visible

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

BAR_S = 0.2
STATUS_S = 0.5


def path_fields(path: bytes) -> dict[str, str]:
    """A path for JSON: as text, and its exact bytes in hexadecimal if it is not UTF-8."""
    try:
        return {"path": path.decode()}
    except UnicodeDecodeError:
        return {"path": path.decode(errors="replace"), "path_bytes": path.hex()}


class Progress:
    """Shows one long piece of work. `warn` and `lost` may be called from any thread.

    Attributes:
        tally: its counts.
        total_bytes: how much there is in all; 0 while that is not known.
    """

    def __init__(self, label: str, *, as_json: bool) -> None:
        """Args: label: what is being done, in a word or two."""
        self._label = label
        self.as_json = as_json
        self._lock = threading.Lock()
        self._bar: Bar | None = None
        self._started_s = time.monotonic()
        self.tally = Tally(self.warn)
        self.total_bytes = 0

    @property
    def has_bar(self) -> bool:
        """Will a person see the bar."""
        return not self.as_json and sys.stderr.isatty()

    def line(self, document: dict[str, Any]) -> None:
        """One line of JSON on stdout."""
        with self._lock:
            sys.stdout.write(json.dumps(document) + "\n")
            sys.stdout.flush()

    def warn(self, path: bytes, message: str) -> None:
        """Something is not as it should be; an empty path stands for the whole work."""
        self._say("warning", path, message)

    def lost(self, path: bytes, message: str) -> None:
        """The content of a file can't be had."""
        self._say("error", path, message)

    def _say(self, kind: str, path: bytes, message: str) -> None:
        if self.as_json:
            self.line({"message_type": kind, **path_fields(path), "message": message})
            return
        text = f"{kind}: {path_fields(path)['path']}: {message}" if path else f"{kind}: {message}"
        text = visible(text)
        with self._lock:
            if self._bar is not None:
                self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                sys.stderr.write(text + "\n")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Show it while the body runs."""
        if self.has_bar:
            self._bar = _bar(self._label)
            self._bar.start()
        task = asyncio.create_task(self._tick()) if self._bar or self.as_json else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            if self._bar is not None:
                with self._lock:
                    self._update(self._bar)
                    self._bar.stop()
                    self._bar = None

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(BAR_S if self._bar else STATUS_S)
            if self._bar is not None:
                with self._lock:
                    self._update(self._bar)
            else:
                self.line(self._status())

    def _status(self) -> dict[str, Any]:
        tally = self.tally
        status = {
            "message_type": "status",
            "files": tally.files,
            "dirs": tally.dirs,
            "bytes_done": tally.bytes_read + tally.bytes_unchanged,
            "warnings": tally.warnings,
            "elapsed_s": round(time.monotonic() - self._started_s, 3),
        }
        return status | ({"bytes_total": self.total_bytes} if self.total_bytes else {})

    def _update(self, bar: Bar) -> None:
        tally = self.tally
        bar.update(
            bar.task_ids[0],
            completed=tally.bytes_read + tally.bytes_unchanged,
            total=self.total_bytes or None,
            files=tally.files,
            refresh=True,
        )


def _bar(label: str) -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn(label),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[files]} files"),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    )
    bar.add_task(label, total=None, files=0)
    return bar


class PreScan:
    """Adds up what a backup will read, in a thread beside it, for the bar's end and the time left."""

    def __init__(self, sizes: Iterator[int], progress: Progress) -> None:
        """Args: sizes: bytes, of one thing after the other."""
        self._sizes = sizes
        self._progress = progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pre-scan", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        total = 0
        # What is wrong with a file, or a root, is told by the backup itself.
        with contextlib.suppress(StaddleError):
            for size in self._sizes:
                if self._stop.is_set():
                    return
                total += size
        self._progress.total_bytes = total

    def close(self) -> None:
        """Stop it. Idempotent."""
        self._stop.set()
        self._thread.join(timeout=5.0)
