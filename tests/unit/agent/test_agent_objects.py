"""Reads and single objects of an agent: bad copies, tickets to read, checks, the manager's wishes."""

import asyncio
import os
import pathlib
import time

import msgspec
import numpy as np
import pytest
from agentkit import GRID, back_up, check, make_tree, restore, running, until

from staddle.api.types import Kind
from staddle.data import label as label_format
from staddle.errors import Corrupt, Denied, NotFound, UsageError
from staddle.wire.ops.admin import VerifyObject
from staddle.wire.ops.data import (
    CHECK_OBJECT,
    DELETE_OBJECT,
    GET_OBJECT,
    LABEL_MEDIUM,
    PUT_OBJECT,
    READ_CHUNKS,
    READ_MANIFEST,
    SCAN_MEDIUM,
    CheckObject,
    DeleteObject,
    GetObject,
    LabelMedium,
    PutObject,
    ReadChunks,
    ReadManifest,
    ScanMedium,
)
from staddle.wire.ops.reading import OPEN_BACKUP, OpenBackup, ReadTicket


def damage(home, medium, kind):
    """Flip a byte in the middle of every object of a kind; how many there were."""
    hit = 0
    for path in pathlib.Path(home, "media", medium).rglob("*"):
        if path.is_file() and path.parent.parent.name == kind:
            path.chmod(0o600)
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
            hit += 1
    return hit


def test_a_damaged_copy_is_reported_and_the_next_one_is_read(tmp_path, seed):
    async def main():
        want = make_tree(tmp_path / "src", seed)
        async with running(tmp_path / "home") as grid:
            opened, *_ = await back_up(grid, os.fsencode(tmp_path / "src"))
            assert damage(tmp_path / "home", "m1", "c0") > 0
            assert damage(tmp_path / "home", "m1", "f0") > 0
            check(await restore(grid, opened.created.backup), want)
            bad = [
                item for item in grid.manager.state.objects.values() if item.kind in {"container", "manifest"}
            ]
            await until(lambda: all([c.medium for c in item.copies] == ["m2"] for item in bad))

    asyncio.run(main())


def test_without_any_good_copy_reading_fails_and_gives_no_wrong_byte(tmp_path, seed):
    async def main():
        make_tree(tmp_path / "src", seed)
        async with running(tmp_path / "home") as grid:
            opened, *_ = await back_up(grid, os.fsencode(tmp_path / "src"))
            damage(tmp_path / "home", "m1", "c0")
            damage(tmp_path / "home", "m2", "c0")
            with pytest.raises(Corrupt):
                await restore(grid, opened.created.backup)

    asyncio.run(main())


def test_a_ticket_to_read_is_good_for_its_client_backup_and_time_only(tmp_path, seed):
    async def main():
        make_tree(tmp_path / "src", seed, files=2)
        async with running(tmp_path / "home") as grid:
            first, *_ = await back_up(grid, os.fsencode(tmp_path / "src"))
            second, *_ = await back_up(grid, os.fsencode(tmp_path / "src"), 2)
            opened = await grid.client.call(OPEN_BACKUP, OpenBackup(backup=first.created.backup))
            other = await grid.client.call(OPEN_BACKUP, OpenBackup(backup=second.created.backup))
            ticket = msgspec.msgpack.decode(opened.signed[:-64], type=ReadTicket)
            manifest = opened.manifests[0].id
            link = await grid.dial("a1", [grid.agent_url])

            def resigned(**changes):
                return grid.signer.sign(msgspec.msgpack.encode(msgspec.structs.replace(ticket, **changes)))

            for signed, wanted in (
                (opened.signed[1:], manifest),
                (resigned(client="c2"), manifest),
                (resigned(grid=bytes(16)), manifest),
                (resigned(expires_ns=time.time_ns() - 1), manifest),
                (opened.signed, other.manifests[0].id),
            ):
                with pytest.raises(Denied):
                    await link.request(READ_MANIFEST.name, ReadManifest(signed=signed, manifest=wanted))
                rows = np.zeros(1, "<u4").tobytes()
                with pytest.raises(Denied):
                    await link.request(
                        READ_CHUNKS.name, ReadChunks(signed=signed, manifest=wanted, rows=rows)
                    )
            for rows in (b"abc", b"\xff\xff\xff\x7f"):
                with pytest.raises(UsageError):
                    await link.request(
                        READ_CHUNKS.name, ReadChunks(signed=opened.signed, manifest=manifest, rows=rows)
                    )
            with pytest.raises(NotFound):
                await link.request(READ_MANIFEST.name, ReadManifest(signed=opened.signed, manifest=bytes(16)))
            await link.close()

    asyncio.run(main())


def test_checks_find_what_is_missing_short_or_damaged(tmp_path, seed):
    async def main():
        make_tree(tmp_path / "src", seed, files=2)
        async with running(tmp_path / "home") as grid:
            await back_up(grid, os.fsencode(tmp_path / "src"))
            link = await grid.dial("a1", [grid.agent_url], grid.hello("admin", "admin"))
            kinds = {"container": Kind.CONTAINER, "manifest": Kind.MANIFEST, "seal": Kind.SEAL}
            items = [
                VerifyObject(kinds[o.kind], o.id, "m1", copy.name, o.size_bytes, o.digest, o.domain, [1])
                for o in grid.manager.state.objects.values()
                for copy in o.copies
                if copy.medium == "m1"
            ]
            assert {item.kind for item in items} == {"c0", "f0", "5e"}

            async def problems(item, read_data):
                request = CheckObject(object=item, read_data=read_data)
                return CHECK_OBJECT.decode(await link.request(CHECK_OBJECT.name, request)).problems

            for item in items:
                assert not await problems(item, False)
                assert not await problems(item, True)
                assert await problems(msgspec.structs.replace(item, size_bytes=item.size_bytes + 1), False)
                assert await problems(msgspec.structs.replace(item, name=item.name[:-1] + "f"), False) or (
                    item.name.endswith("f")
                )
            for kind in ("c0", "f0", "5e"):
                damage(tmp_path / "home", "m1", kind)
            for item in items:
                assert not await problems(item, False)
                assert await problems(item, True)
            await link.close()

    asyncio.run(main())


def test_the_manager_stores_lists_reads_and_deletes_objects_through_the_agent(tmp_path):
    async def main():
        async with running(tmp_path / "home") as grid:
            link = grid.presence.sessions["a1"].data_link()

            async def ask(operation, request, payload=None):
                return await link.request(operation.name, request, payload, timeout_s=10.0)

            item = bytes(range(16))
            request = PutObject(kind="e0", id=item, domain="default", media=["m1", "m2", "m9"])
            stored = PUT_OBJECT.decode(await ask(PUT_OBJECT, request, b"what was pruned"))
            assert [medium for medium, _ in stored.copies] == ["m1", "m2"]
            assert list(stored.failed) == ["m9"]
            listed = SCAN_MEDIUM.decode(await ask(SCAN_MEDIUM, ScanMedium(medium="m1", kind="e0"))).objects
            assert [each.name for each in listed] == [dict(stored.copies)["m1"]]
            assert (listed[0].digest, listed[0].domain, listed[0].problem) == (stored.digest, "default", "")
            name = dict(stored.copies)["m2"]
            reply = await ask(GET_OBJECT, GetObject(medium="m2", name=name, domain="default"))
            assert bytes(reply.payload) == b"what was pruned"
            await ask(DELETE_OBJECT, DeleteObject(medium="m2", names=[name, name]))
            with pytest.raises(NotFound):
                await ask(GET_OBJECT, GetObject(medium="m2", name=name, domain="default"))
            label = LABEL_MEDIUM.decode(await ask(LABEL_MEDIUM, LabelMedium(medium="m1"))).label
            assert label_format.decode(label).medium == "m1"

    asyncio.run(main())


def test_each_medium_is_labelled_once_and_holds_one_keyring_whatever_restarts(tmp_path):
    async def main():
        async with running(tmp_path / "home") as grid:
            media = pathlib.Path(tmp_path / "home", "media")

            def keyrings():
                return sorted(p for p in media.rglob("*") if p.is_file() and p.parent.parent.name == "4e")

            await until(lambda: len(keyrings()) == 2)
            labels = {m: grid.agent.context.media.medium(m).read_label(_soon()) for m in ("m1", "m2")}
            for text, name in zip(labels.values(), labels, strict=True):
                label = label_format.decode(text)
                assert (label.grid, label.medium) == (GRID, name)
                assert label.volume == grid.manager.state.media[name].volume
            await grid.agent.stop()
            await grid.start_agent()
            await asyncio.sleep(0.3)
            assert len(keyrings()) == 2
            again = {m: grid.agent.context.media.medium(m).read_label(_soon()) for m in ("m1", "m2")}
            assert again == labels

    asyncio.run(main())


def _soon():
    from staddle.api.media import Deadline

    return Deadline(5.0)


def test_a_scan_gives_the_counts_and_digests_that_the_log_has(tmp_path, seed):
    async def main():
        make_tree(tmp_path / "src", seed)
        async with running(tmp_path / "home") as grid:
            await back_up(grid, os.fsencode(tmp_path / "src"))
            damage(tmp_path / "home", "m2", "f0")
            link = grid.presence.sessions["a1"].data_link()

            async def scan(medium, kind):
                request = ScanMedium(medium=medium, kind=kind)
                return SCAN_MEDIUM.decode(await link.request(SCAN_MEDIUM.name, request)).objects

            for kind, word in (("c0", "container"), ("f0", "manifest"), ("5e", "seal")):
                known = [o for o in grid.manager.state.objects.values() if o.kind == word]
                want = {
                    c.name: (o.size_bytes, o.digest, o.raw_bytes, o.chunks, "default", "")
                    for o in known
                    for c in o.copies
                    if c.medium == "m1"
                }
                found = await scan("m1", kind)
                assert {
                    each.name: msgspec.to_builtins(each, builtin_types=[bytes])[1:] for each in found
                } == {name: list(row) for name, row in want.items()}
            assert all("CORRUPT" in each.problem for each in await scan("m2", "f0"))

    asyncio.run(main())
