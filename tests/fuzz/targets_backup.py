"""Targets for what is made of a manifest: a restored tree, the base of the next backup, rows of the catalog.

A manifest comes from a medium by an agent, or from an agent that commits it; its reader trusts neither.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import stat
import types
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import zstandard
from targets import Target, golden, scratch_dir
from targets_media import MANIFEST_SEEDS

from staddle.catalog.ingest import directory_rows, file_rows
from staddle.client.attributes import apply_extra, apply_flags, rdev_of
from staddle.client.base import BaseIndex
from staddle.client.contents import plan
from staddle.client.metadata import Metadata
from staddle.client.onecontent import OneContent
from staddle.client.owners import OwnerOptions, Owners
from staddle.client.policy import Overwrite
from staddle.client.restore import _NoAliases
from staddle.client.resume import Taken
from staddle.client.scan import Found, split
from staddle.client.selection import Selection
from staddle.client.target import Target as Place
from staddle.client.told import Told
from staddle.client.units import Tally
from staddle.client.work import Work
from staddle.client.writer import Writer
from staddle.daemon.agent.reads import ReadDesk
from staddle.daemon.agent.segments import with_head
from staddle.daemon.manager.jobs import JobDesk
from staddle.data import manifest as manifest_format
from staddle.data.base import BaseRows, NeedContent
from staddle.data.entries import EntriesError
from staddle.data.manifest import EntryFlag, EntryType, Manifest, ManifestBuilder, ManifestHead
from staddle.data.plain import unmsgpack
from staddle.data.records import EntryRows, decode_record
from staddle.errors import Corrupt, StaddleError
from staddle.platform import fsattrs

_ANSWER_BYTES_MAX = 1 << 20
_SET_FLAGS = "set_flags"

# --- a restore -----------------------------------------------------------------------------------


def _head() -> ManifestHead:
    return ManifestHead(
        grid=bytes(16), domain=bytes(16), client="c", name="n", job=1, backup=1, stream=0, epoch=1,
        ordinal=0, first=0,
    )  # fmt: skip


@functools.cache
def _tree() -> bytes:
    """A manifest with an entry of each kind, in few bytes: mutations then hit what matters."""
    rows, builder = EntryRows(), ManifestBuilder(_head())
    rows.add(b"/", b"d", EntryType.DIRECTORY, mode=0o700)
    rows.add(
        b"/d", b"f", EntryType.FILE, mode=0o644, size=5, extra={"xattr": {b"user.a": b"b"}, "btime_ns": 5}
    )
    rows.add(b"/d", b"h", EntryType.HARDLINK, link=b"/d/f")
    rows.add(b"/d", b"l", EntryType.SYMLINK, link=b"../x")
    rows.add(b"/d", b"p", EntryType.FIFO, mode=0o600)
    rows.add(b"/d", b"c", EntryType.CHAR, mode=0o600, extra={"rdev": [1, 3], "times": {"mtime": [1, 2]}})
    rows.add(b"/d", b"i", EntryType.IMAGE, size=7000, flags=int(EntryFlag.SPARSE), nlink=2)
    rows.add(b"/d", b"b", EntryType.FILE, size=8, flags=int(EntryFlag.PART))
    rows.add(b"/d", b"b", EntryType.FILE, size=8, offset=4, flags=int(EntryFlag.PART | EntryFlag.LAST))
    first, count = [0, 0, 1, 1, 1, 1, 1, 3, 4], [0, 1, 0, 0, 0, 0, 2, 1, 1]
    container = builder.container_index(bytes(range(16)))
    numbers = [container, manifest_format.ZERO_REGION, container, container, container]
    builder.add_chunks(np.zeros((5, 32), np.uint8), numbers, [0, 0, 1, 2, 3], [5, 6990, 10, 4, 4])
    builder.add_entries(rows.build(), first, count)
    return builder.build(9)


def _restore(plain: bytes) -> None:
    """The whole of a restore but its network, into a directory beside which nothing may change."""
    found = manifest_format.decode(plain)
    place = os.path.join(scratch_dir("restore"), "to")
    shutil.rmtree(place, ignore_errors=True)
    told = Told(_say, privileged=False)
    metadata = Metadata(told, privileged=False)
    work = Work(
        target=Place(os.fsencode(place), metadata),
        metadata=metadata,
        owners=Owners(OwnerOptions()),
        overwrite=Overwrite.ALWAYS,
        dry_run=False,
        in_place=False,
        tally=Tally(_say),
        told=told,
        warn=_say,
        lose=_say,
        on_item=None,
    )
    writer = Writer(work)
    try:
        with mock.patch.object(fsattrs, _SET_FLAGS, _no_flags):
            _fill(writer, found)
        told.tell()
    finally:
        writer.abort()
        assert os.listdir(os.path.dirname(place)) == ["to"], "something lies beside the target"
        assert not [name for name in os.listdir(place) if name.startswith(".staddle-")], "a leftover"


def _fill(writer: Writer, found: Manifest) -> None:
    rows, way = Selection([]).rows(found.entries)
    chunks = found.chunk_first.tolist(), found.chunk_count.tolist()
    for batch in plan(0, found.chunks, writer.entries(found.entries, rows, way, chunks, _NoAliases())):
        if batch.size_bytes > _ANSWER_BYTES_MAX:
            for piece in batch.pieces:  # no agent answers with so much
                writer.lost(piece, "it can't be read")
        else:
            writer.write(batch, bytes(batch.size_bytes))
    writer.missing_contents()
    writer.finish(lambda folders: [folders.restored(at) for at in range(len(folders))])


def _restore_one(plain: bytes) -> str:
    """The content of /d/h, a hard link to /d/f, onto a file. It ends after two ways through the backup."""
    found = manifest_format.decode(plain)
    place = os.fsencode(os.path.join(scratch_dir("one"), "file"))
    output, passes = OneContent(b"/d/h", 1, Tally(_say), place), 0
    chunks = found.chunk_first.tolist(), found.chunk_count.tolist()
    try:
        while output.wanted:
            passes += 1
            assert passes < 3, "it goes in circles"
            rows, way = output.rows(found.entries)
            for batch in plan(
                0, found.chunks, output.entries(found.entries, rows, way, chunks, _NoAliases())
            ):
                if batch.size_bytes > _ANSWER_BYTES_MAX:
                    raise Corrupt("no agent answers with so much")
                output.write(batch, bytes(batch.size_bytes))
            output.end_of_pass()
        output.finish()
    finally:
        output.abort()
    return f"{os.path.getsize(place)} bytes"


def _say(path: bytes, why: str) -> None:
    assert isinstance(path, bytes)
    assert why


def _no_flags(fd: int, flags: int) -> None:
    """An immutable file would stay after the test."""
    raise OSError(1, "not in a test")


# --- further metadata ----------------------------------------------------------------------------


def _extra_set(data: bytes) -> None:
    """A map of further metadata, set on a file: every value of it reaches a call of the system."""
    try:
        extra = unmsgpack(data, dict[str, Any])
    except ValueError as error:
        raise EntriesError(str(error)) from None
    path = os.fsencode(os.path.join(scratch_dir("extra"), "f"))
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with mock.patch.object(fsattrs, _SET_FLAGS, _no_flags):
            missing = apply_extra(path, fd, extra, privileged=False, is_symlink=False)
            missing += apply_flags(path, fd, extra)
        assert all(isinstance(each, str) for each in missing)
        with contextlib.suppress(OverflowError, ValueError):  # a restore tells that the number is impossible
            os.makedev(*rdev_of(extra))
    finally:
        os.close(fd)
        os.unlink(path)


# --- the next backup -----------------------------------------------------------------------------


def _base(plain: bytes) -> str:
    """A manifest of the base backup: in the client's index, in a job that is taken over, and on the agent."""
    found = manifest_format.decode(plain)
    index = BaseIndex(1 << 62)
    index.add(found)
    index.build(index.containers()[:1])
    index.exclude([])
    founds: list[Any] = [
        Found(*split(path), _Status(*row))  # type: ignore[arg-type]
        for path, *row in zip(found.entries.paths(), *_stat_columns(found), strict=True)
    ]
    matched = [row for rows in index.match(founds) for row in rows]
    assert all(row.row < len(found.entries) for row in matched)
    taken = Taken(Tally(_say))
    taken.add(found)
    taken.build()
    record = decode_record(golden("record-files"), 7000)
    record.base_manifests[:] = 0
    record.base_rows[:] = range(len(record.batch))
    try:
        chunks = BaseRows(lambda _: found).take(record, list)
        assert len(chunks.container) == len(chunks.lengths) == int(chunks.count.sum())
    except NeedContent as error:
        return f"{len(matched)} unchanged, {len(error.rows)} asked for"
    return f"{len(matched)} unchanged"


class _Status(msgspec.Struct):
    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_ino: int
    st_mode: int = stat.S_IFREG


def _stat_columns(found: Manifest) -> list[list[int]]:
    return [found.entries.columns[name].tolist() for name in ("size", "mtime_ns", "ctime_ns", "inode")]


# --- the catalog ---------------------------------------------------------------------------------


def _catalog_rows(plain: bytes) -> None:
    """What the catalog's process makes of the manifest of a committed segment."""
    found = manifest_format.decode(plain)
    directory_rows(found, 1, 1, 1).validate(full=True)
    numbers = list(range(1, len(found.chunks.containers) + 1))
    file_rows(found, 1, 1, 1, numbers).validate(full=True)


def _committed(packed: bytes) -> None:
    """The packed manifest that an agent commits; one that can't be unpacked is read from its medium."""
    taken: list[bytes] = []
    desk: Any = object.__new__(JobDesk)
    jobs = {1: types.SimpleNamespace(backup=1)}
    desk._manager = types.SimpleNamespace(state=types.SimpleNamespace(jobs=jobs))
    desk._catalog = types.SimpleNamespace(add_manifest=lambda *args: taken.append(args[2]))
    commit: Any = types.SimpleNamespace(job=1, manifest=types.SimpleNamespace(id=bytes(16)))
    desk._ingest(commit, packed)
    if not taken:
        raise Corrupt("not taken")
    _catalog_rows(taken[0])


def _read_desk(plain: bytes) -> None:
    """An agent that is asked for a manifest of a backup, and finds this one."""
    desk: Any = object.__new__(ReadDesk)
    desk._locator = types.SimpleNamespace(plain_manifest=lambda *_: plain)
    desk._context = types.SimpleNamespace(keys=lambda _: None)
    desk._manifest(types.SimpleNamespace(backup=1, domain="d"), bytes(16))


def _with_head(plain: bytes) -> None:
    try:
        manifest_format.decode(with_head(plain, _head()))
    except msgspec.DecodeError as error:
        raise Corrupt(str(error)) from None


_BOTH = lambda: [_tree(), *MANIFEST_SEEDS()]  # noqa: E731 - a table's entry

TARGETS = [
    Target("restore", _restore, lambda: [_tree()], "msgpack"),
    Target("restore-one", _restore_one, lambda: [_tree()], "msgpack"),
    Target(
        "extra-set",
        _extra_set,
        lambda: [
            msgspec.msgpack.encode(each)
            for each in (
                {"xattr": {b"user.a": b"b", b"system.posix_acl_access": bytes(28)}, "rdev": [1, 3]},
                {"btime_ns": 5, "fs_flags": 16, "times": {"mtime": [1, 2]}, "rdev": 259, "acl": b"x"},
            )
        ],
        "msgpack",
        (StaddleError, EntriesError),
    ),
    Target("base", _base, _BOTH, "msgpack"),
    Target("catalog-rows", _catalog_rows, _BOTH, "msgpack"),
    Target(
        "committed-manifest",
        _committed,
        lambda: [zstandard.ZstdCompressor(level=1).compress(each) for each in _BOTH()],
    ),
    Target("segment-head", _with_head, _BOTH, "msgpack"),
    Target("read-desk", _read_desk, lambda: [_tree()], "msgpack"),
]
