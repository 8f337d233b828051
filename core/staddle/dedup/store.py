"""The library's directory: its lock, its manifest, the files that count, the sweep of those that do not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from staddle.dedup.log import LogReader, LogWriter, Record, log_name
from staddle.dedup.manifest import MANIFEST_NAME, Manifest, load_manifest, save_manifest
from staddle.dedup.rows import PARTITIONS, Table
from staddle.dedup.runs import RunRef, open_run, run_name
from staddle.errors import Corrupt, Locked
from staddle.platform.durable import Files, make_directories, try_lock

_LOCK_NAME = "lock"
_ALL = tuple(range(PARTITIONS))
_DEATHS_MAX = 2
"""So many openings in a row may end without `close` before the run is read through."""


class Store:
    """Files of one library. Held by one process, used by one thread at a time.

    Attributes:
        manifest: as last committed, or what stands in for a missing or damaged one.
        torn_bytes: cut off the logs at opening.
    """

    def __init__(self, directory: str, files: Files, lock_fd: int) -> None:
        self.directory = directory
        self.files = files
        self.torn_bytes = 0
        self._lock_fd = lock_fd
        self._unclosed = 0
        self._lost_run: RunRef | None = None
        self._in_doubt = False
        self._last_log, self._good_bytes = 0, 0
        self._run_generation = max(self._generations("run."), default=0)
        try:
            manifest = load_manifest(directory)
        except Corrupt:
            manifest = self._start(incomplete=_ALL)
        if manifest is None:
            # Files without a manifest: it was lost, and with it what the files hold.
            orphans = [*self._generations("run."), *self._generations("log.")]
            manifest = self._start(incomplete=_ALL if orphans else ())
        self.manifest = manifest
        self._count_opening()

    @classmethod
    def open(cls, directory: str, files: Files) -> Store:
        """Lock the directory (made if missing) and read its manifest.

        Raises:
            Locked: another process, or another library of this one, has it.
            NewerFormat: a newer release wrote it.
        """
        make_directories(directory)
        # Not through `files`: the lock file's bytes and name need no durability.
        lock_fd = os.open(os.path.join(directory, _LOCK_NAME), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(lock_fd, directory)
            # A process that was killed may have named a manifest and died before its sync: nothing that an
            # older one needs may be removed before.
            files.sync_dir(directory)
            return cls(directory, files, lock_fd)
        except BaseException:
            os.close(lock_fd)
            raise

    def open_run(self) -> Table | None:
        """Map the manifest's run.

        Raises:
            Corrupt: it is lost.
            NewerFormat: a newer release wrote it.
            OSError: it can't be done now.
        """
        run = self.manifest.run
        if run is None:
            return None
        try:
            return open_run(self.directory, run, readable=self._unclosed < _DEATHS_MAX)
        except Corrupt:
            self._lost_run = run
            raise

    def commit(self, manifest: Manifest) -> None:
        """Make a manifest the current one; durable on return. Raises OSError: either may be current."""
        self._in_doubt = True
        save_manifest(self.directory, manifest, self.files)
        self.manifest, self._in_doubt = manifest, False

    def next_run_generation(self) -> int:
        """Return a generation that no run file has: an old one may still be mapped, or named on disk."""
        self._run_generation += 1
        return self._run_generation

    def new_log(self, generation: int) -> LogWriter:
        """Make the next log, over the empty rest of a failed attempt."""
        with suppress(FileNotFoundError):
            self.files.remove(os.path.join(self.directory, log_name(generation)))
        return LogWriter.create(self.directory, generation, self.files)

    def replay(self) -> Iterator[Record]:
        """Yield the records of all logs that count, up to the first bad one; `resume_log` is next."""
        self._last_log, self._good_bytes = self.manifest.log_floor, 0
        present = set(self._generations("log."))
        generation = self.manifest.log_floor
        # A gap or a bad record ends it: what later logs hold builds on something lost.
        while generation in present and not self.torn_bytes:
            reader = LogReader(self.directory, generation)
            yield from reader
            self._last_log, self._good_bytes = generation, reader.good_bytes
            self.torn_bytes = reader.torn_bytes
            generation += 1

    def resume_log(self) -> LogWriter:
        """Open the last good log for appending, after removing what follows its last good record."""
        later = [g for g in self._generations("log.") if g > self._last_log]
        # The later logs go first: with them there, a log cut short must never look whole.
        for generation in sorted(later, reverse=True):
            self.torn_bytes += os.path.getsize(os.path.join(self.directory, log_name(generation)))
            self.files.remove(os.path.join(self.directory, log_name(generation)))
        if later:
            self.files.sync_dir(self.directory)
        if not self._good_bytes:
            return self.new_log(self._last_log)
        return LogWriter.resume(self.directory, self._last_log, self._good_bytes, self.files)

    def sweep(self) -> None:
        """Remove files that the manifest does not name. What cannot go yet stays (Windows: still mapped)."""
        if self._in_doubt:
            return  # the one on disk may be newer than ours, and name other files
        run = self.manifest.run
        try:
            stale = [run_name(g) for g in self._generations("run.") if run is None or g != run.generation]
            stale += [log_name(g) for g in self._generations("log.") if g < self.manifest.log_floor]
        except OSError:
            return  # the directory can't be listed now
        for name in [*stale, f"{MANIFEST_NAME}.tmp"]:
            with suppress(OSError):
                self.files.remove(os.path.join(self.directory, name))

    def disk_bytes(self) -> int:
        """Bytes of all files."""
        total = 0
        with os.scandir(self.directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    total += entry.stat().st_size
        return total

    def close(self) -> None:
        """Sweep what was mapped until now, and unlock."""
        try:
            self.sweep()
            still_named = self._lost_run is not None and self._lost_run == self.manifest.run
            self._unclosed = _DEATHS_MAX if still_named else 0  # else the next one would map it again
        finally:
            self.unlock()

    def unlock(self) -> None:
        """Let others open the directory: without `close` as if this opening had not been."""
        try:
            with suppress(OSError):
                self._write_count(self._unclosed)
        finally:
            os.close(self._lock_fd)

    def _count_opening(self) -> None:
        """Note how many openings before this one were not closed: a run may end who touches it (see `runs`).

        The number stands in the lock file. One such end may have any cause, and a run takes long to read
        through. If it can't be written, the run is mapped as ever. It needs no sync: processes die of this,
        not systems.
        """
        with suppress(OSError):
            os.lseek(self._lock_fd, 0, os.SEEK_SET)
            self._unclosed = int.from_bytes(os.read(self._lock_fd, 1))
            self._write_count(min(self._unclosed + 1, _DEATHS_MAX))

    def _write_count(self, count: int) -> None:
        os.lseek(self._lock_fd, 0, os.SEEK_SET)
        os.write(self._lock_fd, bytes([count]))

    def _start(self, *, incomplete: tuple[int, ...]) -> Manifest:
        """Commit a manifest of nothing, above the numbers of all files that are there."""
        floor = max(self._generations("log."), default=0) + 1
        manifest = Manifest(applied_lsn=0, log_floor=floor, containers=b"", run=None, incomplete=incomplete)
        save_manifest(self.directory, manifest, self.files)
        return manifest

    def _generations(self, prefix: str) -> list[int]:
        names = [name.removeprefix(prefix) for name in os.listdir(self.directory) if name.startswith(prefix)]
        return [int(name) for name in names if name.isdecimal()]


def _lock(lock_fd: int, directory: str) -> None:
    if not try_lock(lock_fd):
        raise Locked(
            f"{directory}: another process has this fingerprint library open",
            hint="stop the other agent of this home",
            scope="agent",
        )
