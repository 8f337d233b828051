"""Reading and restoring, against agents and a manager in this process, over real links."""

import asyncio
import errno
import os
import random
import socket
import stat
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from staddle.client import contents, reader, restore
from staddle.client.base import BaseIndex
from staddle.client.connection import ClientSettings, GridConnection
from staddle.client.exclude import Excludes
from staddle.client.reader import BackupReader
from staddle.client.restore import Restore, RestoreOptions, Selection
from staddle.client.scan import scan
from staddle.client.source import Source
from staddle.client.target import Meta, Target, windows_part
from staddle.client.units import Tally, Units
from staddle.data.entries import EntryFlag, EntryRows, EntryType
from staddle.data.manifest import ZERO_REGION, ManifestBuilder, ManifestHead, decode
from staddle.data.records import FilesRecord, decode_record
from staddle.errors import Corrupt, Denied, MediumFailed, NotFound, PathLost, StaddleError
from staddle.wire.endpoint import NO_CREDENTIALS, serve
from staddle.wire.handlers import Handlers
from staddle.wire.messages import Hello
from staddle.wire.ops.base import register
from staddle.wire.ops.data import READ_CHUNKS, READ_MANIFEST
from staddle.wire.ops.reading import OPEN_BACKUP, AgentRef, ManifestRef, OpenedBackup

CHUNK = 64 * 1024
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


class Stored:
    """A backup as an agent would store it: fixed chunks, zero regions found, segments of some records."""

    def __init__(self, records_per_segment=1000, chunks_per_container=8):
        self.per_segment = records_per_segment
        self.per_container = chunks_per_container
        self.manifests = []  # (id, stream, ordinal, plain)
        self.chunks = {}  # (manifest id, row) -> bytes
        self.state = "complete"
        self._containers = 0

    def add_stream(self, stream, records):
        records = list(records)
        for ordinal, at in enumerate(range(0, len(records), self.per_segment)):
            self._segment(stream, ordinal, records[at : at + self.per_segment])

    def _segment(self, stream, ordinal, records):
        manifest = bytes([stream, ordinal % 256, ordinal // 256]) + bytes(13)
        head = ManifestHead(
            grid=bytes(16), domain=bytes(16), client="c", name="n", job=1, backup=1, stream=stream, epoch=1,
            ordinal=ordinal, first=0,
        )  # fmt: skip
        builder = ManifestBuilder(head)
        part = None
        for record in records:
            decoded, payload = decode_record(record.meta, len(record.payload)), bytes(record.payload)
            if isinstance(decoded, FilesRecord):
                assert not part
                first, count, at = [], [], 0
                for length in decoded.content_lengths.tolist():
                    first.append(builder.chunk_rows)
                    self._cut(builder, manifest, payload[at : at + length])
                    count.append(builder.chunk_rows - first[-1])
                    at += length
                builder.add_entries(decoded.batch, first, count)
                continue
            if part is None:
                part = [decoded, decoded.offset, builder.chunk_rows]
            part[0] = decoded
            self._cut(builder, manifest, payload)
            if decoded.last:
                self._end_part(builder, part)
                part = None
        if part is not None:
            self._end_part(builder, part)
        self.manifests.append((manifest, stream, ordinal, builder.build(0)))

    @staticmethod
    def _end_part(builder, part):
        record, offset, first = part
        bits = 0 if record.last and not offset else EntryFlag.PART | (EntryFlag.LAST if record.last else 0)
        columns = dict(record.batch.columns)
        columns["offset"] = np.array([offset], columns["offset"].dtype)
        columns["flags"] = columns["flags"] | np.uint16(bits)
        batch = msgspec.structs.replace(record.batch, columns=columns)
        builder.add_entries(batch, [first], [builder.chunk_rows - first])

    def _cut(self, builder, manifest, data):
        for at in range(0, len(data), CHUNK):
            chunk = data[at : at + CHUNK]
            number = ZERO_REGION
            if any(chunk):
                self.chunks[manifest, builder.chunk_rows] = chunk
                number = builder.container_index((len(self.chunks) // self.per_container).to_bytes(16, "big"))
            builder.add_chunks(np.zeros((1, 32), np.uint8), [number], [0], [len(chunk)])

    def container(self, manifest, row):
        plain = next(each[3] for each in self.manifests if each[0] == manifest)
        chunks = decode(plain).chunks
        return chunks.containers[int(chunks.container[row])]


class FakeGrid:
    """A manager and some agents. `faults[agent]` is called with (operation, request) before each answer."""

    def __init__(self, stored, names=("a1", "a2")):
        self.stored = stored
        self.names = names
        self.faults = {}
        self.asked = []
        self.opened = 0
        self.running = {}

    async def __aenter__(self):
        self.stack = AsyncExitStack()
        handlers = Handlers()
        register(handlers, OPEN_BACKUP, self._open)
        manager = await serve("mem://", NO_CREDENTIALS, Hello(name="m", role="manager"), handlers)
        self.stack.push_async_callback(manager.close, 0.2)
        for name in self.names:
            agent = Handlers()
            register(agent, READ_MANIFEST, self._answer(name, self._manifest))
            register(agent, READ_CHUNKS, self._answer(name, self._chunks))
            self.running[name] = await serve(
                f"mem://agent-{name}", NO_CREDENTIALS, Hello(name=name, role="agent"), agent
            )
            self.stack.push_async_callback(self.running[name].close, 0.2)
        client = ClientSettings(
            name="c", host="c", role="client", grid=b"", manager_urls=[manager.url], credentials=NO_CREDENTIALS
        )
        return await self.stack.enter_async_context(GridConnection(client))

    async def __aexit__(self, *exc):
        await self.stack.aclose()

    async def _open(self, call):
        if call.args.backup > 1 or call.args.name == "other":
            raise NotFound("there is no such backup")
        self.opened += 1
        return OpenedBackup(
            backup=1,
            name="n",
            client="c",
            state=self.stored.state,
            started_ns=0,
            roots=[],
            manifests=[ManifestRef(*each[:3]) for each in self.stored.manifests],
            agents=[AgentRef(name, [f"mem://agent-{name}"]) for name in self.names],
            signed=b"ticket %d" % self.opened,
        )

    def _answer(self, name, serve_it):
        async def answer(call):
            self.asked.append((name, call.op))
            fault = self.faults.get(name)
            if fault is not None:
                await fault(call.op, call.args)
            return {}, serve_it(call.args)

        return answer

    def _manifest(self, args):
        return next(each[3] for each in self.stored.manifests if each[0] == args.manifest)

    def _chunks(self, args):
        rows = np.frombuffer(args.rows, "<u4").tolist()
        return b"".join(self.stored.chunks[args.manifest, row] for row in rows)


def run(work, timeout_s=30):
    async def bounded():
        async with asyncio.timeout(timeout_s):
            return await work

    return asyncio.run(bounded())


def store(root, streams=1, **options):
    """Back a tree up with the client's own scan and source."""
    tally = Tally()
    stored = Stored(**options)
    source, units = Source(BaseIndex(0), tally), Units(scan([os.fsencode(root)], Excludes([]), tally.warn))
    feeds = [source.records(units) for _ in range(streams)]
    records = [[] for _ in feeds]
    live = list(range(streams))
    while live:
        for number in list(live):
            record = next(feeds[number], None)
            if record is None:
                live.remove(number)
            else:
                records[number].append(record)
    for number, each in enumerate(records):
        stored.add_stream(number, each)
    return stored, tally


class Outcome:
    def __init__(self):
        self.warnings, self.lost = [], []
        self.tally = Tally(lambda path, why: self.warnings.append((path, why)))
        self.summary = None


def restored(stored, target, *, paths=(), faults=None, names=("a1", "a2"), grid=None):
    outcome = Outcome()
    grid = grid or FakeGrid(stored, names)
    grid.faults = faults or {}

    async def work():
        async with grid as connection:
            options = RestoreOptions(
                target=os.fsencode(target), backup=1, paths=[os.fsencode(path) for path in paths]
            )
            lost = lambda path, why: outcome.lost.append((path, why))  # noqa: E731
            outcome.summary = await Restore(connection, options, outcome.tally, lost).run()

    run(work())
    return outcome


def picture(root):
    """Everything about a tree that a restore must bring back."""
    root = os.fsencode(root)
    seen = {}
    first = {}
    for directory, names, files in os.walk(root):
        for name in [b"", *names, *files]:
            path = os.path.join(directory, name) if name else directory
            status = os.lstat(path)
            facts = [stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), status.st_mtime_ns]
            facts += [status.st_uid, status.st_gid]
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    facts.append(file.read())
                facts.append(first.setdefault(status.st_ino, os.path.relpath(path, root)))
            elif stat.S_ISLNK(status.st_mode):
                facts[1] = 0
                facts.append(os.readlink(path))
            seen[os.path.relpath(path, root)] = facts
    return seen


def below(target, source):
    return os.path.join(os.fsdecode(target), os.fsdecode(source).lstrip("/"))


@pytest.fixture
def tree(tmp_path, seed):
    """Many kinds of entries, with odd names, modes and times."""
    rng = random.Random(seed)
    root = tmp_path / "source"
    (root / "deep/er/est").mkdir(parents=True)
    (root / "empty dir").mkdir()
    for number in range(60):
        (root / "deep" / f"small-{number:03}").write_bytes(rng.randbytes(rng.randrange(3000)))
    (root / "empty").write_bytes(b"")
    (root / "deep/er/big").write_bytes(rng.randbytes(5 * 1024 * 1024 + 17))
    (root / "deep/er/mebibytes").write_bytes(rng.randbytes(3 << 20))
    (root / "sparse").write_bytes(bytes(CHUNK * 3) + rng.randbytes(CHUNK) + bytes(CHUNK * 40))
    (root / "zeros").write_bytes(bytes(3 << 20))
    (root / "link").symlink_to("deep/nowhere")
    os.link(root / "deep/small-000", root / "hard")
    os.mkfifo(root / "pipe", 0o640)
    with open(os.fsencode(root) + b"/n\xe4me \xff", "wb") as file:
        file.write(b"not UTF-8")
    (root / "hidden").write_bytes(b"x")
    (root / "hidden").chmod(0o400)
    (root / "tool").write_bytes(b"#!")
    (root / "tool").chmod(0o4751)
    os.utime(root / "empty", ns=(0, -1_234_567_891))
    os.utime(root / "link", ns=(0, 1_111_111_111_222_222_222), follow_symlinks=False)
    (root / "deep").chmod(0o555)
    for path in (root / "deep/er/est", root / "deep", root):
        os.utime(path, ns=(0, 1_500_000_000_987_654_321))
    yield root
    (root / "deep").chmod(0o755)


@pytest.mark.parametrize(("streams", "per_segment"), [(1, 1000), (1, 2), (3, 1)])
def test_a_restored_tree_is_what_was_backed_up(tree, tmp_path, streams, per_segment):
    stored, tally = store(tree, streams, records_per_segment=per_segment)
    outcome = restored(stored, tmp_path / "to")
    assert outcome.warnings == outcome.lost == []
    assert picture(below(tmp_path / "to", tree)) == picture(tree)
    assert (outcome.summary.files, outcome.summary.dirs) == (tally.files, tally.dirs)
    assert outcome.summary.bytes_restored == tally.bytes_read
    sparse = os.stat(below(tmp_path / "to", tree / "sparse"))
    assert sparse.st_blocks * 512 < sparse.st_size / 2, "zero regions must be holes"


def test_restoring_twice_to_one_place_replaces_what_is_there(tree, tmp_path):
    stored, _ = store(tree)
    restored(stored, tmp_path / "to")
    place = below(tmp_path / "to", tree)
    os.unlink(os.path.join(place, "empty"))
    os.symlink("/etc/passwd", os.path.join(place, "empty"))
    with open(os.path.join(place, "tool"), "wb") as file:
        file.write(b"changed, and longer")
    outcome = restored(stored, tmp_path / "to")
    assert outcome.warnings == []
    assert picture(place) == picture(tree)
    os.chmod(os.path.join(place, "deep"), 0o755)


def test_only_the_wanted_subtrees_are_restored_with_the_directories_above_them(tree, tmp_path):
    stored, _ = store(tree, 2, records_per_segment=1)
    outcome = restored(stored, tmp_path / "to", paths=[tree / "deep/er", tree / "sparse"])
    assert outcome.warnings == []
    got, whole = picture(below(tmp_path / "to", tree)), picture(tree)
    wanted = {path: facts for path, facts in whole.items() if path in {b".", b"deep", b"sparse"} or path.startswith(b"deep/er")}
    assert got == wanted
    os.chmod(below(tmp_path / "to", tree / "deep"), 0o755)


def test_a_hard_link_is_restored_without_the_path_that_has_its_content(tmp_path):
    root = tmp_path / "source"
    root.mkdir()
    (root / "a").write_bytes(b"content")
    os.link(root / "a", root / "b")
    os.link(root / "a", root / "c")
    stored, _ = store(root)
    outcome = restored(stored, tmp_path / "to", paths=[root / "b", root / "c"])
    assert outcome.warnings == []
    place = below(tmp_path / "to", root)
    assert sorted(os.listdir(place)) == ["b", "c"]
    assert (tmp_path / place / "b").read_bytes() == b"content"
    assert os.path.samefile(os.path.join(place, "b"), os.path.join(place, "c"))


def test_a_path_that_is_not_in_the_backup_is_an_error_after_the_rest_was_restored(tree, tmp_path):
    stored, _ = store(tree)
    with pytest.raises(NotFound, match="nowhere") as caught:
        restored(stored, tmp_path / "to", paths=[tree / "nowhere", tree / "empty"])
    assert caught.value.exit_code == 4
    assert os.path.exists(below(tmp_path / "to", tree / "empty"))


def test_an_incomplete_backup_warns_and_a_file_cut_off_in_it_keeps_what_there_is(tmp_path, seed):
    root = tmp_path / "source"
    root.mkdir()
    content = random.Random(seed).randbytes(4 << 20)
    (root / "big").write_bytes(content)
    stored, _ = store(root, records_per_segment=2)
    stored.manifests = stored.manifests[:2]
    stored.state = "incomplete"
    outcome = restored(stored, tmp_path / "to")
    kept = Path(below(tmp_path / "to", root / "big")).read_bytes()
    assert 0 < len(kept) < len(content)
    assert content.startswith(kept)
    assert [path for path, _ in outcome.warnings] == [b"", os.fsencode(root / "big")]
    assert "incomplete" in outcome.warnings[0][1]
    assert str(len(kept)) in outcome.warnings[1][1]


# --- agents that fail -----------------------------------------------------------------------------


def test_another_agent_goes_on_in_mid_file(tree, tmp_path):
    stored, _ = store(tree, records_per_segment=1)
    grid = FakeGrid(stored)
    calls = 0

    async def die_after_a_while(op, args):
        nonlocal calls
        calls += 1
        if calls > 5:
            await grid.running["a1"]._listening.close()
            for link in list(grid.running["a1"].links):
                link.abort(PathLost("killed"))

    outcome = restored(stored, tmp_path / "to", grid=grid, faults={"a1": die_after_a_while})
    assert outcome.warnings == outcome.lost == []
    assert picture(below(tmp_path / "to", tree)) == picture(tree)
    assert {name for name, _ in grid.asked} == {"a1", "a2"}


def test_an_agent_with_a_broken_medium_or_wrong_bytes_is_passed_over(tree, tmp_path):
    stored, _ = store(tree, records_per_segment=1)

    async def broken(op, args):
        raise MediumFailed("I/O error")

    outcome = restored(stored, tmp_path / "to", faults={"a1": broken})
    assert outcome.warnings == outcome.lost == []
    assert picture(below(tmp_path / "to", tree)) == picture(tree)


def test_an_agent_that_failed_rests_and_is_asked_again_when_nobody_else_is_left(monkeypatch):
    monkeypatch.setattr(reader, "_PAUSE_S", 0.05)
    stored = Stored()
    rows = EntryRows()
    rows.add(b"/", b"x", EntryType.DIRECTORY)
    stored.manifests = [(bytes(16), 0, 0, _manifest_of(rows))]
    grid = FakeGrid(stored)
    failing = {"a1": 2, "a2": 1}

    def fault(name):
        async def unreachable(op, args):
            if failing[name]:
                failing[name] -= 1
                raise PathLost("gone for a moment")

        return unreachable

    async def work():
        async with grid as connection, await BackupReader.open(connection, 1) as opened:
            grid.faults = {name: fault(name) for name in grid.names}
            assert len((await opened.manifest(0)).entries) == 1
            first = [name for name, _ in grid.asked]
            assert first == ["a1", "a2", "a1", "a2"], "in turn, and again after a pause"
            await opened.manifest(0)
            assert grid.asked[-1][0] == "a2", "whoever answered last is asked first"

    run(work())


def test_a_ticket_that_has_run_out_is_renewed(tree, tmp_path):
    stored, _ = store(tree)
    grid = FakeGrid(stored)

    async def expired(op, args):
        if args.signed == b"ticket 1" and len(grid.asked) > 1:
            raise Denied("the ticket has run out")

    outcome = restored(stored, tmp_path / "to", grid=grid, faults={"a1": expired, "a2": expired})
    assert outcome.warnings == outcome.lost == []
    assert grid.opened == 2


def test_without_any_agent_the_restore_ends_with_that_error(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "PATIENCE_S", 0.2)
    monkeypatch.setattr(reader, "_PAUSE_S", 0.05)
    stored, _ = store(tree)

    async def unreachable(op, args):
        if op == READ_CHUNKS.name:
            raise PathLost("no way")

    with pytest.raises(PathLost) as caught:
        restored(stored, tmp_path / "to", faults={"a1": unreachable, "a2": unreachable})
    assert caught.value.exit_code == 5
    left = [name for _, _, files in os.walk(tmp_path / "to") for name in files]
    assert "big" not in left, "a restore that failed leaves no half of a file"


@pytest.mark.parametrize("error", [Corrupt("damaged"), NotFound("no copy is left")])
def test_a_file_whose_data_is_lost_is_named_and_all_others_are_restored(tree, tmp_path, seed, error):
    stored, _ = store(tree, records_per_segment=2, chunks_per_container=1)
    rng = random.Random(seed)
    gone = set(rng.sample(sorted(stored.chunks), 7))

    async def lost(op, args):
        if op == READ_CHUNKS.name:
            rows = np.frombuffer(args.rows, "<u4").tolist()
            if any((args.manifest, row) in gone for row in rows):
                raise error

    outcome = restored(stored, tmp_path / "to", faults={"a1": lost, "a2": lost})
    hit = _files_with(stored, gone)
    # Paths linked to a lost file have lost it too: they are warnings.
    assert {path for path, _ in outcome.lost} == hit
    assert outcome.summary.lost_count == len(hit) == len(outcome.lost)
    got, whole = picture(below(tmp_path / "to", tree)), picture(tree)
    missing = {os.path.relpath(path, os.fsencode(tree)) for path in hit}
    missing |= {os.path.relpath(path, os.fsencode(tree)) for path, _ in outcome.warnings}
    assert set(whole) - set(got) == missing
    for path in got:
        assert got[path][:6] == whole[path][:6]


def test_a_lost_container_is_not_asked_for_again_and_again(tmp_path):
    root = tmp_path / "source"
    root.mkdir()
    for number in range(300):
        (root / f"f{number:03}").write_bytes(b"%d" % number * 10)
    stored, _ = store(root, chunks_per_container=1000)
    grid = FakeGrid(stored, ["a1"])

    async def lost(op, args):
        if op == READ_CHUNKS.name:
            raise NotFound("no copy is left")

    outcome = restored(stored, tmp_path / "to", grid=grid, faults={"a1": lost})
    assert outcome.summary.lost_count == 300
    assert len(grid.asked) < 60


# --- what never may happen ------------------------------------------------------------------------


def _manifest_of(rows, chunk_first=None, chunk_count=None, ordinal=0):
    batch = rows.build()
    none = [0] * len(batch)
    head = ManifestHead(
        grid=bytes(16), domain=bytes(16), client="c", name="n", job=1, backup=1, stream=0, epoch=1,
        ordinal=ordinal, first=0,
    )  # fmt: skip
    builder = ManifestBuilder(head)
    builder.add_entries(batch, chunk_first or none, chunk_count or none)
    return builder.build(0)


def test_a_restore_writes_nothing_through_a_symlink(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "secret").write_bytes(b"secret")
    (outside / "secret").chmod(0o600)
    before = picture(outside)
    rows = EntryRows()
    rows.add(b"/", b"top", EntryType.DIRECTORY, mode=0o755)
    rows.add(b"/top", b"way", EntryType.SYMLINK, mode=0o777, link=os.fsencode(outside))
    rows.add(b"/top/way", b"new", EntryType.FILE, mode=0o666)
    rows.add(b"/top/way", b"sub", EntryType.DIRECTORY, mode=0o777)
    rows.add(b"/top", b"way", EntryType.DIRECTORY, mode=0o777)
    rows.add(b"/top", b"stolen", EntryType.HARDLINK, mode=0o777, link=b"/top/way/secret")
    stored = Stored()
    stored.manifests = [(bytes(16), 0, 0, _manifest_of(rows))]
    os.makedirs(tmp_path / "to/top")
    os.symlink(outside, tmp_path / "to/top/way")
    outcome = restored(stored, tmp_path / "to")
    assert picture(outside) == before
    assert not os.path.exists(tmp_path / "to/top/stolen")
    assert {path for path, _ in outcome.warnings} >= {b"/top/way/new", b"/top/way/sub", b"/top/stolen"}


def test_metadata_of_a_name_that_has_become_a_symlink_is_not_set_behind_it(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    victim.chmod(0o600)
    target = Target(os.fsencode(tmp_path / "to"), lambda path, why: None)
    place = os.fsencode(tmp_path / "to/f")
    fd = target.create_file(place)
    os.unlink(place)
    os.symlink(victim, place)
    meta = Meta(0o777, 12345, 12345, 1)
    target.set_file_metadata(fd, place, meta)
    os.close(fd)
    target.set_directory_metadata(place, meta)
    target.set_metadata(place, meta)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert victim.stat().st_uid == os.geteuid()
    assert victim.stat().st_mtime_ns != 1


@given(st.binary(min_size=1, max_size=20).filter(lambda part: part not in {b".", b".."} and b"/" not in part))
def test_a_part_of_a_path_means_nothing_special_to_windows(part):
    safe = windows_part(part)
    assert safe
    assert not set(safe) & set(b'\\:*?"<>|\0')
    assert safe.rstrip(b". ") == safe
    assert safe.split(b".")[0].upper() not in {b"CON", b"NUL", b"AUX", b"PRN", b"COM1", b"LPT1"}


def test_set_id_bits_come_back_only_with_their_owner(tmp_path, monkeypatch):
    target = Target(os.fsencode(tmp_path), lambda path, why: None)
    monkeypatch.setattr(target, "privileged", False)
    place = os.fsencode(tmp_path / "f")
    fd = target.create_file(place)
    target.set_file_metadata(fd, place, Meta(0o4755, os.geteuid() + 1, 0, 0))
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o755
    target.set_file_metadata(fd, place, Meta(0o4755, os.geteuid(), 0, 0))
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o4755
    os.close(fd)


def test_a_full_target_ends_the_restore_instead_of_warning_for_every_file(tree, tmp_path, monkeypatch):
    stored, _ = store(tree)

    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StaddleError, match="no space left"):
        restored(stored, tmp_path / "to")


def test_devices_and_sockets(tmp_path, monkeypatch):
    root = tmp_path / "source"
    root.mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(root / "socket"))
    stored, _ = store(root)
    rows = EntryRows()
    rows.add(b"/dev", b"null", EntryType.CHAR, mode=0o666, extra={"rdev": os.makedev(1, 3)})
    stored.manifests.append((b"\1" * 16, 0, len(stored.manifests), _manifest_of(rows, ordinal=len(stored.manifests))))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    outcome = restored(stored, tmp_path / "to")
    assert stat.S_ISSOCK(os.lstat(below(tmp_path / "to", root / "socket")).st_mode)
    assert [path for path, _ in outcome.warnings if path.startswith(b"/dev")] == [b"/dev/null"]


# --- parts ----------------------------------------------------------------------------------------


def _files_with(stored, gone):
    """Paths of the files that have one of these chunks."""
    hit = set()
    for manifest, _, _, plain in stored.manifests:
        decoded = decode(plain)
        for row, path in enumerate(decoded.entries.paths()):
            first = int(decoded.chunk_first[row])
            if any((manifest, at) in gone for at in range(first, first + int(decoded.chunk_count[row]))):
                hit.add(path)
    return hit


files_strategy = st.lists(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=12), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files_strategy)
def test_a_plan_covers_every_byte_once_in_order_within_its_limits(layout):
    lengths = [length for file in layout for _, length in file]
    stored = [kept for file in layout for kept, _ in file]
    chunks = msgspec.structs.replace(
        decode(_manifest_of(EntryRows())).chunks,
        container=np.array([0 if kept else ZERO_REGION for kept in stored], np.uint32),
        lengths=np.array(lengths, np.uint64),
        containers=[bytes(16)],
    )
    rows, at = [], 0
    for number, file in enumerate(layout):
        size = sum(length for _, length in file)
        path = b"/%d" % number
        rows.append(
            contents.FileRow(path, path, Meta(0, 0, 0, 0), size, 0, last=True, damaged=False, chunk_first=at, chunk_count=len(file))
        )
        at += len(file)
    before = contents.BATCH_BYTES, contents.BATCH_ROWS, contents.BATCH_PIECES
    contents.BATCH_BYTES, contents.BATCH_ROWS, contents.BATCH_PIECES = 16, 5, 4
    try:
        batches = list(contents.plan(0, chunks, rows))
    finally:
        contents.BATCH_BYTES, contents.BATCH_ROWS, contents.BATCH_PIECES = before
    assert [row for batch in batches for row in batch.rows().tolist()] == [n for n, kept in enumerate(stored) if kept]
    ends = {}
    for batch in batches:
        assert batch.size_bytes <= 16
        assert len(batch.rows()) <= 5
        assert len(batch.pieces) <= 4 + 1
        assert batch.size_bytes == sum(length for piece in batch.pieces for _, length in piece.runs)
        for piece in batch.pieces:
            assert piece.opens == (piece.file.path not in ends)
            assert piece.begin == ends.get(piece.file.path, 0)
            ends[piece.file.path] = piece.end
            if piece.closes:
                assert piece.end == piece.file.size_bytes
    assert list(ends) == [row.path for row in rows]


@pytest.mark.parametrize(
    ("paths", "found", "missing"),
    [
        ([b"/a"], [b"/", b"/a", b"/a/b", b"/a/b/c"], []),
        ([b"/a/b/c"], [b"/", b"/a", b"/a/b", b"/a/b/c"], []),
        ([b"/ab"], [b"/", b"/ab"], []),
        ([b"/"], [b"/", b"/a", b"/a/b", b"/a/b/c", b"/ab"], []),
        ([b"/a/x", b"/ab"], [b"/", b"/a", b"/ab"], [b"/a/x"]),
        ([], [b"/", b"/a", b"/a/b", b"/a/b/c", b"/ab"], []),
    ],
)
def test_a_selection_takes_subtrees_and_the_directories_above(paths, found, missing):
    rows = EntryRows()
    rows.add(b"/", b"", EntryType.DIRECTORY)
    rows.add(b"/", b"a", EntryType.DIRECTORY)
    rows.add(b"/a", b"b", EntryType.DIRECTORY)
    rows.add(b"/a/b", b"c", EntryType.FILE)
    rows.add(b"/", b"ab", EntryType.FILE)
    entries = rows.build()
    selection = Selection(paths)
    names = entries.paths()
    assert [names[row] for row in selection.rows(entries)] == found
    assert selection.missing() == missing


def test_manifests_are_read_ahead_but_not_all_at_once(tmp_path):
    stored = Stored()
    for ordinal in range(12):
        rows = EntryRows()
        rows.add(b"/", b"d%d" % ordinal, EntryType.DIRECTORY)
        stored.manifests.append((bytes([ordinal]) * 16, 0, ordinal, _manifest_of(rows, ordinal=ordinal)))
    grid = FakeGrid(stored, ["a1"])

    async def work():
        async with grid as connection, await BackupReader.open(connection, 1) as opened:
            manifests = opened.manifests()
            first = await anext(manifests)
            await asyncio.sleep(0.05)
            assert first.entries.paths() == [b"/d0"]
            assert len(grid.asked) == 1 + reader.READ_AHEAD
            rest = [each.head.ordinal async for each in manifests]
            assert rest == list(range(1, 12))

    run(work())


def test_a_manifest_in_the_wrong_place_is_refused():
    rows = EntryRows()
    rows.add(b"/", b"x", EntryType.DIRECTORY)
    stored = Stored()
    stored.manifests = [(bytes(16), 0, 3, _manifest_of(rows, ordinal=2))]

    async def work():
        async with FakeGrid(stored) as connection, await BackupReader.open(connection, 1) as opened:
            with pytest.raises(Corrupt):
                await opened.manifest(0)

    run(work())


def test_no_backup_of_that_number(tmp_path):
    async def work():
        async with FakeGrid(Stored()) as connection:
            with pytest.raises(NotFound):
                await BackupReader.open(connection, 7)

    run(work())


def test_what_a_restore_holds_is_bounded_and_fits_a_call():
    assert restore.IN_FLIGHT * contents.BATCH_BYTES <= 64 << 20
    assert contents.BATCH_BYTES <= reader.CHUNKS_BYTES_MAX
    assert contents.BATCH_ROWS <= reader.CHUNKS_ROWS_MAX
