"""Going on with a job whose client was killed: the same command again takes it over where it is durable.

A running backup keeps a small file under a lock that the system gives back when its process dies: so another
process knows that the one before it is gone, and which job that was. What the job holds already stands in its
committed manifests; a path that is in there is not read again, and a big file goes on where it was cut.

Two processes that back up the same thing at once do not see each other's jobs: the second finds the lock
taken, and has a job of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from staddle.client.attributes import clamp_ns, is_incomplete
from staddle.client.connection import ClientSettings, GridConnection
from staddle.client.reader import BackupReader
from staddle.client.scan import Found, split
from staddle.client.source import Source
from staddle.client.units import Record, Tally, Units
from staddle.data.manifest import EntryFlag, EntryType, Manifest
from staddle.data.records import EntryRows, encode_part
from staddle.engine.messages import Assign, Assigned, Cause, Ended, Wait
from staddle.errors import StaddleError, Unavailable
from staddle.platform import longpath
from staddle.platform.lock import FileLock
from staddle.wire.ops.jobs import ASSIGN, JobOpened

REQUEST_BYTES = 16
FENCE_LIMIT_S = 60.0
"""How long a job that is taken over waits for a path."""
_WAIT_S = 1.0
_PATIENCE_S = 30.0
_U64 = 0xFFFFFFFFFFFFFFFF
_DIGEST_BYTES = 16
_DIGEST = f"S{_DIGEST_BYTES}"


class Claim:
    """A job's name for this client: `request` is new, or that of a process before us that was killed.

    Attributes:
        request: 16 bytes, for CreateJob.
        earlier: it is another process's, which is gone.
    """

    def __init__(self, settings: ClientSettings, what: object) -> None:
        """Never fails: without a place to write, a backup can't be resumed, and that is all.

        Args:
            settings: whose `state_dir` keeps the file.
            what: everything that makes two backups the same; anything that msgpack can encode. None: what
                can't be gone on with.
        """
        self.request = secrets.token_bytes(REQUEST_BYTES)
        self.earlier = False
        named = _packed([settings.grid, settings.host, what])
        key = hashlib.sha256(named).hexdigest()[:32]
        self._directory = os.path.join(settings.state_dir, "backups")
        self._path = os.path.join(self._directory, key)
        self._lock: FileLock | None = None
        if what is None or not settings.state_dir:
            return
        with contextlib.suppress(OSError):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            lock = FileLock(self._path + ".lock")
            if lock.acquire():
                self._lock = lock
                self._read()
                self._write()

    def _read(self) -> None:
        with contextlib.suppress(OSError), open(self._path, "rb") as file:
            found = file.read(REQUEST_BYTES + 1)
            if len(found) == REQUEST_BYTES:
                self.request, self.earlier = found, True

    def _write(self) -> None:
        if not self.earlier:
            with open(self._path, "wb") as file:
                file.write(self.request)

    def anew(self) -> None:
        """The earlier job can't be gone on with: another one begins."""
        self.request, self.earlier = secrets.token_bytes(REQUEST_BYTES), False
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._write()

    def close(self) -> None:
        """The backup has ended, one way or another, and told so: nothing is left to go on with."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        for path in (self._path, lock.path):
            with contextlib.suppress(OSError):
                os.unlink(path)
        lock.release()


def _packed(value: object) -> bytes:
    """The same bytes for the same value. Patterns and names may hold bytes that are no text."""
    plain = msgspec.to_builtins(value, builtin_types=(bytes,), order="deterministic")
    return msgspec.msgpack.encode(_textless(plain), order="deterministic")


def _textless(value: Any) -> Any:
    if isinstance(value, str):
        return os.fsencode(value)
    if isinstance(value, list | tuple):
        return [_textless(each) for each in value]
    if isinstance(value, dict):
        return [[_textless(key), _textless(item)] for key, item in sorted(value.items())]
    return value


@dataclass
class _Cut:
    """A big file of which a stream holds only the beginning."""

    found: Found
    end: int


class Taken:
    """What the job of a killed process holds already. Built once, then only read."""

    def __init__(self, tally: Tally) -> None:
        """Args: tally: gets what is in the job already, as if it were read now."""
        self._tally = tally
        self._held = Tally(tally.warn)
        self._parts: list[NDArray[np.bytes_]] = []
        self._known: NDArray[np.bytes_] = np.zeros(0, _DIGEST)
        self._cuts: dict[int, _Cut] = {}

    def add(self, manifest: Manifest) -> None:
        """Take in the next manifest of the job, in the order of (stream, ordinal)."""
        entries, stream = manifest.entries, manifest.head.stream
        if not len(entries):
            return
        columns, paths = entries.columns, entries.paths()
        flags, kinds = columns["flags"], columns["type"]
        whole = ((flags & EntryFlag.PART) == 0) | ((flags & EntryFlag.LAST) != 0)
        done = np.flatnonzero(whole).tolist()
        self._parts.append(np.array([_digest(paths[row]) for row in done], _DIGEST))
        linked = whole & (columns["nlink"] > 1) & ~np.isin(kinds, (EntryType.DIRECTORY, EntryType.HARDLINK))
        sent = [
            (
                _named(paths[row]),
                _content(paths[row], int(columns["inode"][row]), int(columns["mtime_ns"][row])),
            )
            for row in np.flatnonzero(linked).tolist()
        ]
        self._parts.append(np.array([_digest(each) for pair in sent for each in pair], _DIGEST))
        ends = np.concatenate((np.zeros(1, np.uint64), np.cumsum(manifest.chunks.lengths, dtype=np.uint64)))
        first = manifest.chunk_first.astype(np.int64)
        lengths = ends[first + manifest.chunk_count] - ends[first]
        directories = int((kinds == EntryType.DIRECTORY).sum())
        unchanged = (flags & EntryFlag.UNCHANGED) != 0
        self._held.add(
            files=len(done) - directories,
            dirs=directories,
            read=int(lengths[~unchanged].sum()),
            unchanged=int(lengths[unchanged].sum()),
        )
        for row in np.flatnonzero(whole & ((flags & (EntryFlag.CHANGED | EntryFlag.ERROR)) != 0)).tolist():
            self._held.warn(paths[row], "changed or failed while it was read, before the backup was resumed")
        lacking = [at for at, extra in enumerate(entries.extras, 1) if is_incomplete(extra)]
        for row in np.flatnonzero(whole & np.isin(columns["extra"], lacking)).tolist():
            self._held.warn(paths[row], "lacks attributes or flags, as when the backup was not resumed yet")
        last = len(entries) - 1
        if whole[last]:
            self._cuts.pop(stream, None)
        else:
            end = int(columns["offset"][last]) + int(lengths[last])
            self._cuts[stream] = _Cut(_found(manifest, last, paths[last]), end)

    def build(self) -> None:
        """Sort what was added, and count it as done."""
        if self._parts:
            self._known = np.sort(np.concatenate(self._parts))
            self._parts = []
        held = self._held
        self._tally.add(
            files=held.files, dirs=held.dirs, read=held.bytes_read, unchanged=held.bytes_unchanged
        )

    def left(self, founds: Iterator[Found], source: Source) -> Iterator[Found]:
        """Of a scan, what is not in the job yet. `source` learns the hard links among the rest."""
        cut = {each.found.path: each.found.status.st_ino for each in self._cuts.values()}
        for found in founds:
            if found.path in cut or self._knows(found.path):
                if found.status.st_nlink > 1 and not stat.S_ISDIR(found.status.st_mode):
                    self._names(found, cut.get(found.path), source)
                continue
            yield found

    def _names(self, found: Found, cut: int | None, source: Source) -> None:
        """Other names of it are links to what the job holds, if that is the content which they have."""
        status = found.status
        sent = _content(found.path, status.st_ino & _U64, clamp_ns(status.st_mtime_ns))
        if cut == status.st_ino or self._knows(sent):
            source.names_first(found)
        elif cut is not None or self._knows(_named(found.path)):
            self._tally.warn(
                found.path, "changed before the backup was resumed: no other name is a link to it"
            )

    def _knows(self, what: bytes) -> bool:
        digest = _digest(what)
        at = int(np.searchsorted(self._known, np.bytes_(digest)))
        # An array of bytes gives its items without NULs at their ends; all digests have one length.
        return at < len(self._known) and bytes(self._known[at]) == digest.rstrip(b"\0")

    def records(self, stream: int, source: Source, units: Units) -> Iterator[Record]:
        """A stream's records: first the rest of what it had begun, then its share of what is left."""
        cut = self._cuts.get(stream)
        if cut is not None:
            yield from self._rest(cut, source)
        yield from source.records(units)

    def _rest(self, cut: _Cut, source: Source) -> Iterator[Record]:
        then = cut.found.status
        try:
            now = longpath.lstat(cut.found.path)
        except OSError:
            now = None
        if now is None or (now.st_ino, now.st_dev) != (then.st_ino, then.st_dev):
            self._tally.warn(
                cut.found.path, f"only its first {cut.end} bytes: it was gone when it was resumed"
            )
            self._tally.add(files=1)
            yield _end_of(cut)
            return
        changed = (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (
            then.st_size,
            then.st_mtime_ns,
            then.st_ctime_ns,
        )
        found, any_record = Found(cut.found.directory, cut.found.name, now), False
        for record in source.rest(found, cut.end, changed=changed):
            any_record = True
            yield record
        if not any_record:  # it can't be opened now, and somebody was told so
            yield _end_of(cut)


def _named(path: bytes) -> bytes:
    """Stands for a content that may have other names; no path has a NUL."""
    return path + b"\0"


def _content(path: bytes, inode: int, mtime_ns: int) -> bytes:
    return b"%s\0%d %d" % (path, inode, mtime_ns)


def _digest(path: bytes) -> bytes:
    return hashlib.blake2b(path, digest_size=_DIGEST_BYTES).digest()


class _Status(msgspec.Struct, frozen=True):
    """The part of a stat result that a manifest keeps."""

    st_mode: int
    st_uid: int
    st_gid: int
    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_ino: int
    st_dev: int
    st_nlink: int


def _found(manifest: Manifest, row: int, path: bytes) -> Found:
    columns = manifest.entries.columns
    names = ("mode", "uid", "gid", "size", "mtime_ns", "ctime_ns", "inode", "device", "nlink")
    status = _Status(*[int(columns[name][row]) for name in names])
    return Found(*split(path), status)  # type: ignore[arg-type]


def _end_of(cut: _Cut) -> Record:
    """The end of a file that can't be read on: what is there of it is marked as damaged."""
    status, rows = cut.found.status, EntryRows()
    rows.add(
        cut.found.directory,
        cut.found.name,
        EntryType.FILE,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size=cut.end,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        inode=status.st_ino,
        device=status.st_dev,
        nlink=status.st_nlink,
        flags=int(EntryFlag.ERROR),
    )
    return Record(encode_part(rows.build(), cut.end, last=True), b"")


async def take_over(grid: GridConnection, opened: JobOpened, session: bytes, tally: Tally) -> Taken:
    """What a job holds that another process has begun, once that process can add nothing any more.

    Raises: StaddleError if no path is there, or its manifests can't be read.
    """
    job = opened.created
    # An agent may still commit what the other process has sent: not under a later epoch (S1).
    for stream in range(job.streams):
        await _fence(grid, job.job, stream, session)
    found = Taken(tally)
    async with (
        await BackupReader.open(grid, job.backup) as reader,
        contextlib.aclosing(reader.manifests()) as manifests,
    ):
        async for manifest in manifests:
            await asyncio.to_thread(found.add, manifest)
    await asyncio.to_thread(found.build)
    return found


async def _fence(grid: GridConnection, job: int, stream: int, session: bytes) -> None:
    """Raise a stream's epoch above that of every assignment that the other process had."""
    epoch, end_s = 0, asyncio.get_running_loop().time() + FENCE_LIMIT_S
    for _ in range(int(FENCE_LIMIT_S / _WAIT_S) + 2):
        request = Assign(job=job, stream=stream, expected_epoch=epoch, cause=Cause.RESUME, session=session)
        reply = (await grid.manager.call_patiently(ASSIGN, request, patience_s=_PATIENCE_S)).reply
        match reply:
            case Assigned(ticket=ticket) if epoch:
                return
            case Assigned(ticket=ticket):
                epoch = ticket.epoch  # the one in force, which may be the other process's
            case Ended(state="done"):
                return
            case Ended():
                raise StaddleError(f"job {job} can't be resumed: {reply.message or reply.state}")
            case Wait() if asyncio.get_running_loop().time() < end_s:
                await asyncio.sleep(_WAIT_S)
            case Wait():
                break
    raise Unavailable(f"job {job} can't be resumed: no data path for {FENCE_LIMIT_S:g} s")
