"""Streams through a real data process: stored, committed, read back; what fails, moves or is refused."""

import asyncio
import os
import threading
import time

import msgspec
import pytest
from agentkit import GRID, SESSION, back_up, check, create, make_tree, restore, running, until

from staddle.client.base import BaseIndex
from staddle.data import manifest as manifest_format
from staddle.engine.messages import Assign, Cause
from staddle.errors import Denied, Fenced, MediumFailed
from staddle.wire.ops.data import OPEN_STREAM, OpenStream
from staddle.wire.ops.jobs import ASSIGN


def test_a_stream_is_stored_committed_and_read_back_byte_by_byte(tmp_path, seed):
    async def main():
        want = make_tree(tmp_path / "src", seed)
        async with running(tmp_path / "home") as grid:
            opened, finished, driver = await back_up(grid, os.fsencode(tmp_path / "src"))
            assert finished.state == "complete", finished
            assert not driver.sender.failovers
            check(await restore(grid, opened.created.backup), want)
            state = grid.manager.state
            containers = [item for item in state.objects.values() if item.kind == "container"]
            assert containers
            assert all(len(item.copies) == 2 for item in state.objects.values())
            # The catalog is given each manifest with its COMMIT.
            assert len(grid.catalog.manifests) == len(state.backups[1].segments) > 1
            heads = [manifest_format.decode(plain).head for _, _, plain in grid.catalog.manifests]
            rows = state.backups[1].segments
            assert [(head.ordinal, head.first, head.next) for head in heads] == [
                (row.ordinal, row.first, row.next) for row in rows
            ]
            assert [head.previous_id for head in heads] == [None, *(row.manifest for row in rows[:-1])]
            assert [head.previous_digest for head in heads] == [None, *(row.digest for row in rows[:-1])]
            # The second backup finds all chunks in the library, once it has caught up.
            library = grid.agent.context.libraries["default"]
            await until(lambda: library.applied_lsn >= grid.manager.core.durable_lsn)
            second, finished, _ = await back_up(grid, os.fsencode(tmp_path / "src"), 2)
            assert finished.state == "complete"
            after = [item for item in state.objects.values() if item.kind == "container"]
            assert len(after) == len(containers)
            check(await restore(grid, second.created.backup), want)

    asyncio.run(main())


class Spoilt:
    """A medium whose puts go through `on_put(number)`, which may raise or wait."""

    def __init__(self, inner, on_put):
        self.inner = inner
        self.on_put = on_put
        self.puts = 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def open(self, label, mode, epoch, deadline):
        return SpoiltVolume(self.inner.open(label, mode, epoch, deadline), self)


class SpoiltVolume:
    def __init__(self, inner, medium):
        self.inner = inner
        self.medium = medium
        self.label = inner.label

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def put(self, name, parts, digest, deadline):
        if not name.startswith("4e/"):
            self.medium.puts += 1
            self.medium.on_put(self.medium.puts)
        return self.inner.put(name, parts, digest, deadline)


def failing(medium, bad):
    """Spoils one medium: puts whose number is in `bad` fail."""

    def on_put(number):
        if number in bad:
            raise MediumFailed("the medium is broken")

    return lambda name, inner: Spoilt(inner, on_put) if name == medium else inner


def never_forget(grid):
    """What has failed is left alone for good: on a busy machine a job outlasts the usual back-off."""
    health = grid.manager.core.health
    health.limits = msgspec.structs.replace(health.limits, backoff_ns=10**12, backoff_max_ns=10**12)


def test_with_enough_copies_a_failed_medium_costs_no_byte_twice(tmp_path, seed):
    async def main():
        want = make_tree(tmp_path / "src", seed, big=48 << 20)
        async with running(tmp_path / "home", spoil=failing("m2", range(3, 10_000))) as grid:
            never_forget(grid)
            opened, finished, driver = await back_up(grid, os.fsencode(tmp_path / "src"))
            causes = [each.cause for each in driver.sender.failovers]
            assert causes == [Cause.MEDIUM_LOST], "the path was left once, for the medium without a receipt"
            assert driver.sender.failovers[0].from_media.count("m2") == 1
            assert driver.sender.failovers[0].to_media == ["m1"]
            assert finished.state == "warnings", "copies are missing"
            copies = [{copy.medium for copy in item.copies} for item in grid.manager.state.objects.values()]
            assert {"m1", "m2"} in copies, "the fault came too early"
            assert {"m1"} in copies, "the fault did not bite"
            check(await restore(grid, opened.created.backup), want)

    asyncio.run(main())


def test_a_medium_that_hangs_costs_one_deadline_and_no_silence(tmp_path, seed):
    async def main():
        want = make_tree(tmp_path / "src", seed, big=48 << 20)
        free = threading.Event()
        tried = []

        def hang(number):
            if number >= 2:
                tried.append(number)
                free.wait(300.0)

        def spoil(name, wrapped):
            if name == "m2":
                wrapped.inner = Spoilt(wrapped.inner, hang)  # below the deadlines
            return wrapped

        async with running(tmp_path / "home", spoil=spoil, deadline_s=4) as grid:
            never_forget(grid)
            async with asyncio.timeout(120.0):  # whoever waits for the medium waits longer
                opened, finished, driver = await back_up(grid, os.fsencode(tmp_path / "src"))
            causes = [each.cause for each in driver.sender.failovers]
            assert causes == [Cause.PATH_SLOW], "a slow medium is no silent agent"
            assert tried, "the fault did not bite"
            assert len(tried) <= 3, "only what was on its way when it was found out"
            assert finished.state == "warnings"
            check(await restore(grid, opened.created.backup), want)
            free.set()

    asyncio.run(main())


def test_with_too_few_copies_nothing_is_acknowledged_until_the_medium_is_back(tmp_path, seed):
    async def main():
        want = make_tree(tmp_path / "src", seed)
        spoil = failing("m2", range(2, 4))
        async with running(tmp_path / "home", spoil=spoil, min_copies=2) as grid:
            opened, finished, driver = await back_up(grid, os.fsencode(tmp_path / "src"))
            assert driver.sender.failovers, "the fault did not bite"
            assert finished.state == "complete"
            assert all(len(item.copies) == 2 for item in grid.manager.state.objects.values())
            check(await restore(grid, opened.created.backup), want)

    asyncio.run(main())


def test_a_manager_that_restarts_in_mid_commit_fails_no_job(tmp_path, seed):
    async def main():
        want = make_tree(tmp_path / "src", seed, big=12 << 20)

        def slow(name, inner):
            return Spoilt(inner, lambda number: time.sleep(0.05))

        async with running(tmp_path / "home", spoil=slow) as grid:
            seen = []

            async def restart():
                await until(lambda: len(grid.manager.state.objects) >= 6)
                await grid.stop_manager()
                await asyncio.sleep(1.5)
                await grid.start_manager()
                seen.append(len(grid.manager.state.backups[1].segments))

            opened, finished, _ = await back_up(grid, os.fsencode(tmp_path / "src"), between=restart)
            segments = grid.manager.state.backups[1].segments
            assert 0 < seen[0] < len(segments), "the restart did not come in the middle"
            assert finished.state == "complete"
            assert [row.ordinal for row in segments] == list(range(len(segments)))
            assert grid.agent.context.role.manager_epoch == 2
            check(await restore(grid, opened.created.backup), want)

    asyncio.run(main())


def test_unchanged_files_refer_to_the_base_and_are_not_stored_again(tmp_path, seed):
    async def main():
        want = make_tree(tmp_path / "src", seed)
        root = os.fsencode(tmp_path / "src")
        async with running(tmp_path / "home") as grid:
            await asyncio.sleep(0.1)  # the files' change times are older than the scan
            first, *_ = await back_up(grid, root)
            state = grid.manager.state
            base = BaseIndex(state.backups[1].started_ns)
            for _, _, plain in grid.catalog.manifests:
                base.add(manifest_format.decode(plain))
            base.build()
            before = {item.id for item in state.objects.values() if item.kind == "container"}
            second, finished, _ = await back_up(grid, root, 2, base=base)
            assert second.created.base_backup == first.created.backup
            assert finished.state == "complete"
            assert {item.id for item in state.objects.values() if item.kind == "container"} == before
            assert state.backups[2].bytes_read == 0
            check(await restore(grid, second.created.backup), want)

    asyncio.run(main())


def test_a_container_that_is_refused_is_read_again_by_the_client(tmp_path, seed):
    async def main():
        want = make_tree(tmp_path / "src", seed)
        root = os.fsencode(tmp_path / "src")
        async with running(tmp_path / "home") as grid:
            await asyncio.sleep(0.1)
            await back_up(grid, root)
            state = grid.manager.state
            base = BaseIndex(state.backups[1].started_ns)
            for _, _, plain in grid.catalog.manifests:
                base.add(manifest_format.decode(plain))
            base.build()
            victim = next(item for item in state.objects.values() if item.kind == "container")
            victim.copies.clear()  # it meets no pool's rules now (G1)
            second, finished, driver = await back_up(grid, root, 2, base=base)
            assert not driver.sender.failovers, "records made again are no failover"
            assert victim.id in driver.sender.ticket.bad
            assert finished.state == "complete"
            assert all(victim.id not in row.ref_ids() for row in state.backups[2].segments)
            check(await restore(grid, second.created.backup), want)

    asyncio.run(main())


async def assigned(grid, expected=0, number=9):
    """A ticket as a client gets it, and its signed form."""
    opened = await create(grid, number)
    request = Assign(
        job=opened.created.job, stream=0, expected_epoch=expected, cause=Cause.START, session=SESSION
    )
    answer = await grid.client.call(ASSIGN, request)
    return answer.reply.ticket, answer.signed


async def try_open(grid, signed, peer="c1"):
    """Open a stream over a link of its own; the link stays open until the answer is there."""
    link = await grid.dial("a1", [grid.agent_url])
    try:
        await link.open_channel(OPEN_STREAM.name, OpenStream(signed=signed), timeout_s=5.0)
    finally:
        await link.close(0.5)


def test_tickets_that_are_not_for_this_agent_and_moment_are_refused(tmp_path):
    async def main():
        async with running(tmp_path / "home") as grid:
            ticket, signed = await assigned(grid)

            def resigned(**changes):
                return grid.signer.sign(msgspec.msgpack.encode(msgspec.structs.replace(ticket, **changes)))

            for forged in (
                signed[:-1] + bytes([signed[-1] ^ 1]),
                signed[1:],
                b"",
                resigned(agent="a2"),
                resigned(client="c2"),
                resigned(grid=bytes(16)),
                resigned(domain="other"),
                grid.signer.sign(b"no ticket"),
            ):
                with pytest.raises(Denied):
                    await try_open(grid, forged)
            await try_open(grid, signed)
            with pytest.raises(Fenced):
                await try_open(grid, signed)  # a ticket is opened once
            with pytest.raises(Fenced):
                await try_open(grid, resigned(epoch=ticket.epoch - 1))
            await try_open(grid, resigned(epoch=ticket.epoch + 1))

    asyncio.run(main())


def test_an_agent_that_has_seen_a_newer_manager_refuses_what_an_older_one_says(tmp_path):
    async def main():
        async with running(tmp_path / "home") as grid:
            ticket, signed = await assigned(grid)
            await grid.stop_manager()
            await grid.start_manager()
            await until(lambda: grid.agent.context.role.manager_epoch == 2)
            assert ticket.manager_epoch == 1
            with pytest.raises(Fenced):
                await try_open(grid, signed)
            # It is remembered across a restart of the agent, too.
            await grid.agent.stop()
            await grid.start_agent()
            with pytest.raises(Fenced):
                grid.agent.context.check_epoch(1)
            grid.agent.context.check_epoch(2)

    asyncio.run(main())


def test_a_later_ticket_ends_the_stream_of_the_earlier_one(tmp_path):
    async def main():
        async with running(tmp_path / "home") as grid:
            ticket, signed = await assigned(grid)
            link = await grid.dial("a1", [grid.agent_url])
            channel, _ = await link.open_channel(OPEN_STREAM.name, OpenStream(signed=signed), timeout_s=5.0)
            channel.grant(1 << 20)
            assert (await channel.receive(5.0)).meta, "it says Opened"
            later = msgspec.structs.replace(ticket, epoch=ticket.epoch + 1)
            await try_open(grid, grid.signer.sign(msgspec.msgpack.encode(later)))
            with pytest.raises(Fenced):
                await channel.receive(5.0)
            await link.close()
            await until(lambda: not grid.agent.streams.busy)
            assert grid.agent.context.pipeline.batches.in_use == 0
            assert grid.agent.context.role.grid == GRID

    asyncio.run(main())
