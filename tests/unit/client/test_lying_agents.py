"""An agent that answers a reader with anything but what was backed up is found out, and gone round."""

import asyncio

import msgspec
import numpy as np
import pytest
from blake3 import blake3

from staddle.client import reader
from staddle.client.agents import AgentLinks
from staddle.client.reader import BackupReader
from staddle.data.manifest import ZERO_REGION, decode, encode
from staddle.errors import Corrupt
from staddle.wire.ops.data import READ_CHUNKS, READ_MANIFEST
from staddle.wire.ops.reading import AgentRef, ManifestRef

from .kit import FakeGrid, below, picture, restored, run, store

KEY = b"f" * 32


def signed(stored):
    """The backup with true fingerprints, and digests of its manifests in the manager's log."""
    manifests = []
    for manifest_id, stream, ordinal, plain in stored.manifests:
        manifest = decode(plain)
        prints = manifest.chunks.fingerprints.copy()
        for row in range(len(manifest.chunks)):
            if manifest.chunks.container[row] != ZERO_REGION:
                data = stored.chunks[manifest_id, row]
                prints[row] = np.frombuffer(blake3(data, key=KEY).digest(), np.uint8)
        chunks = msgspec.structs.replace(manifest.chunks, fingerprints=prints)
        manifests.append(
            (manifest_id, stream, ordinal, encode(msgspec.structs.replace(manifest, chunks=chunks)))
        )
    stored.manifests = manifests
    return stored


class LyingGrid(FakeGrid):
    """Agent a1 passes what it gives through `lie(operation, payload)`."""

    def __init__(self, stored, lie, **options):
        super().__init__(signed(stored), **options)
        self.lie = lie

    async def _open(self, call):
        opened = await super()._open(call)
        refs = [ManifestRef(*each[:3], blake3(each[3]).digest()) for each in self.stored.manifests]
        return msgspec.structs.replace(opened, manifests=refs, fingerprint_key=KEY)

    def _answer(self, name, serve_it):
        honest = super()._answer(name, serve_it)

        async def answer(call):
            args, payload = await honest(call)
            return args, self.lie(call.op, bytes(payload)) if name == "a1" else payload

        return answer


def flipped(data):
    changed = bytearray(data)
    if changed:
        changed[len(changed) // 2] ^= 1
    return bytes(changed)


def renamed(data):
    """The manifest with another name in it, in all else as it was."""
    manifest = decode(data)
    names = manifest.entries.names.replace(b"a", b"b")
    columns = manifest.entries.columns
    columns = columns | {"mode": columns["mode"] | 0o4777, "uid": columns["uid"] * 0}
    entries = msgspec.structs.replace(manifest.entries, names=names, columns=columns)
    return encode(msgspec.structs.replace(manifest, entries=entries))


def emptied(data):
    manifest = decode(data)
    return encode(msgspec.structs.replace(manifest, chunk_count=manifest.chunk_count * 0))


LIES = {
    "other bytes": (READ_CHUNKS, flipped),
    "zeros": (READ_CHUNKS, lambda data: bytes(len(data))),
    "backwards": (READ_CHUNKS, lambda data: data[::-1]),
    "too short": (READ_CHUNKS, lambda data: data[:-1]),
    "too long": (READ_CHUNKS, lambda data: data + bytes(1 << 20)),
    "nothing": (READ_CHUNKS, lambda data: b""),
    "a manifest that is none": (READ_MANIFEST, flipped),
    "a manifest of other names and modes": (READ_MANIFEST, renamed),
    "a manifest of empty files": (READ_MANIFEST, emptied),
    "a long manifest": (READ_MANIFEST, lambda data: data + bytes(1 << 20)),
    "no manifest": (READ_MANIFEST, lambda data: b""),
}


def telling(what):
    operation, change = LIES[what]
    return lambda op, data: change(data) if op == operation.name else data


@pytest.mark.parametrize("what", LIES)
def test_what_an_agent_makes_up_is_never_restored(tree, tmp_path, what):
    stored, _ = store(tree, records_per_segment=1)
    grid = LyingGrid(stored, telling(what))
    outcome = restored(stored, tmp_path / "to", grid=grid)
    assert outcome.warnings == outcome.lost == []
    assert picture(below(tmp_path / "to", tree)) == picture(tree)
    asked = [name for name, op in grid.asked if op == LIES[what][0].name]
    assert "a1" in asked
    assert asked.count("a2") > asked.count("a1"), "the liar is asked last from then on"


@pytest.mark.parametrize("what", LIES)
def test_without_another_agent_nothing_is_given_rather_than_that(tree, what, monkeypatch):
    monkeypatch.setattr(reader, "PATIENCE_S", 0.2)
    stored, _ = store(tree)
    grid = LyingGrid(stored, telling(what), names=("a1",))

    async def read():
        async with grid as connection, await BackupReader.open(connection, 1) as opened:
            async for manifest in opened.manifests():
                chunks = manifest.chunks
                rows = np.flatnonzero(chunks.container != ZERO_REGION).astype(np.uint32)[:8]
                await opened.chunks(0, chunks, rows, int(chunks.lengths[rows].sum()))

    with pytest.raises(Corrupt):
        run(read())


def test_what_an_earlier_release_has_committed_is_read_without_a_digest(tree, tmp_path):
    stored, _ = store(tree)
    outcome = restored(stored, tmp_path / "to", grid=FakeGrid(stored))
    assert outcome.warnings == outcome.lost == []


def test_an_agent_whose_answer_was_wrong_rests_though_others_of_its_answers_are_under_way():
    class Slow:
        error = None

        def __init__(self):
            self.go = asyncio.Event()

        async def request(self, *_args, **_options):
            await self.go.wait()

        async def close(self, _limit_s):
            pass

    class Grid:
        async def dial(self, _agent, _urls):
            return made

    async def order():
        links = AgentLinks(Grid(), [AgentRef("a", []), AgentRef("b", [])])
        asked = asyncio.create_task(links.ask("a", READ_CHUNKS, None, timeout_s=1.0))
        await asyncio.sleep(0)
        links.distrust("a")
        made.go.set()
        await asked
        found = links.order()
        await links.close()
        return found

    made = Slow()
    assert run(order()) == ["b", "a"]
