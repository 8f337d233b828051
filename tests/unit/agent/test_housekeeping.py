"""What the manager does beside its jobs: orphans, damaged copies, seals of what was given up, volumes."""

import asyncio
import os
import pathlib

import pytest
from agentkit import back_up, check, create, make_tree, restore, running, until

from staddle.api.types import Kind, Label
from staddle.daemon.manager.admin import AdminDesk
from staddle.daemon.manager.labels import LabelDesk
from staddle.daemon.manager.orphans import OrphanSweeper
from staddle.daemon.manager.presence import AgentSession
from staddle.data.crypto import digest
from staddle.data.label import encode
from staddle.data.seal import decode_seal
from staddle.data.sealed import open_object
from staddle.engine.configure import decide_medium_state
from staddle.engine.messages import CancelJob
from staddle.engine.tables import MediumStatus
from staddle.errors import Corrupt, Denied
from staddle.ids import Ids
from staddle.platform.clock import lease_clock_ns
from staddle.wire.ops.agents import BAD_COPY, BadCopy, MediumReport
from staddle.wire.ops.jobs import CANCEL_JOB, FINISH_JOB


def names_on(home, medium):
    top = pathlib.Path(home, "media", medium)
    kinds = ("c0", "f0", "5e")
    return {
        str(path.relative_to(top)) for kind in kinds for path in (top / kind).rglob("*") if path.is_file()
    }


def flip(home, kind):
    """Change one byte in the middle of every object of a kind; again to undo it."""
    for path in pathlib.Path(home, "media").rglob("*"):
        if path.is_file() and path.parent.parent.name == kind:
            path.chmod(0o600)
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)


def test_orphans_are_removed_and_nothing_that_is_named_or_older_than_the_log(tmp_path, seed):
    async def main():
        home = tmp_path / "home"
        want = make_tree(tmp_path / "src", seed)
        async with running(home) as grid:
            opened, *_ = await back_up(grid, os.fsencode(tmp_path / "src"))
            kept = names_on(home, "m1")

            def put(item):
                data = [b"nobody names this"]
                return grid.agent.context.media.put(Kind.CONTAINER, item, data, digest(data), ["m1"])

            young = await asyncio.to_thread(put, Ids().new_id())
            old = await asyncio.to_thread(put, (1000).to_bytes(6) + bytes(10))
            await asyncio.sleep(0.02)
            sweeper = OrphanSweeper(grid.manager, grid.adoption, grid.presence, age_ns=0, skew_ns=0)
            assert names_on(home, "m1") == kept | {r.name for p in (young, old) for r in p.receipts.values()}
            await sweeper.step()
            assert names_on(home, "m1") == kept | {receipt.name for receipt in old.receipts.values()}
            assert grid.manager.state.doomed == {"m1": []}
            check(await restore(grid, opened.created.backup), want)

    asyncio.run(main())


def test_a_copy_that_was_called_bad_is_still_read_when_there_is_no_other(tmp_path, seed):
    async def main():
        want = make_tree(tmp_path / "src", seed)
        async with running(tmp_path / "home") as grid:
            opened, *_ = await back_up(grid, os.fsencode(tmp_path / "src"))
            flip(tmp_path / "home", "c0")
            state = grid.manager.state

            def all_bad():
                containers = [item for item in state.objects.values() if item.kind == "container"]
                return any(len(item.bad) == 2 and not item.copies for item in containers)

            for known in (1, 2):  # a reading reports the copy that it finds first
                with pytest.raises(Corrupt):
                    await restore(grid, opened.created.backup)
                await until(
                    lambda known=known: any(len(item.bad) >= known for item in state.objects.values())
                )
            assert all_bad()
            flip(tmp_path / "home", "c0")
            check(await restore(grid, opened.created.backup), want)

    asyncio.run(main())


def test_an_agent_calls_copies_bad_on_its_own_media_only(tmp_path):
    async def main():
        async with running(tmp_path / "home") as grid:
            report = BadCopy(id=bytes(16), medium="m9", name="c0/00", code="NOT_FOUND")
            with pytest.raises(Denied):
                await grid.agent.context.manager.call(BAD_COPY, report)

    asyncio.run(main())


def test_a_cancelled_job_leaves_a_seal_on_the_media(tmp_path, seed):
    async def main():
        make_tree(tmp_path / "src", seed, files=2)
        async with running(tmp_path / "home") as grid:
            opened, *_ = await back_up(grid, os.fsencode(tmp_path / "src"))
            state = grid.manager.state
            # A job of its own whose data is committed, and which never ends well.
            second = await create(grid, 2)
            backup = state.backups[second.created.backup]
            backup.segments.extend(state.backups[opened.created.backup].segments)
            await grid.client.call(CANCEL_JOB, CancelJob(job=second.created.job, reason="enough"))
            assert not backup.seal
            await grid.sealer.mark_incomplete()
            item = state.objects[backup.seal]
            assert {copy.medium for copy in item.copies} == {"m1", "m2"}
            for copy in item.copies:
                blob = (tmp_path / "home" / "media" / copy.medium / copy.name).read_bytes()
                assert digest([blob]) == item.digest
                seal = decode_seal(open_object(grid.keys, Kind.SEAL, item.id, blob))
                assert (seal.state, seal.backup) == ("incomplete", backup.id)
            await grid.sealer.mark_incomplete()
            assert backup.seal == item.id

    asyncio.run(main())


def test_a_wrong_volume_is_held_against_the_agent_that_sees_it(tmp_path, seed):
    async def main():
        make_tree(tmp_path / "src", seed, files=2)
        async with running(tmp_path / "home") as grid:
            await back_up(grid, os.fsencode(tmp_path / "src"))
            state = grid.manager.state
            other = Label(grid=state.grid, medium="m2", volume=state.media["m2"].volume, created_ns=1)
            await grid.adoption.adopt("a1", {"m1": encode(other), "m2": encode(other)})
            assert "exchanged" in grid.adoption.problem("m1", "a1")
            assert not grid.adoption.problem("m2", "a1")
            assert not grid.adoption.problem("m1", "a2")
            await grid.adoption.adopt("a1", {"m1": b""})
            assert "empty" in grid.adoption.problem("m1")
            renamed = Label(grid=state.grid, medium="m0", volume=state.media["m1"].volume, created_ns=1)
            await grid.adoption.adopt("a1", {"m1": encode(renamed)})
            assert "was the table [medium.m0] renamed?" in grid.adoption.problem("m1")
            await grid.adoption.adopt("a1", {"m1": b""})
            right = Label(grid=state.grid, medium="m1", volume=state.media["m1"].volume, created_ns=1)
            await grid.adoption.adopt("a1", {"m1": encode(right)})
            assert grid.adoption.problems() == []

    asyncio.run(main())


@pytest.mark.parametrize("wait_s", [60, 0])
def test_a_job_whose_media_are_away_at_its_end_waits_for_them_as_its_pool_says(tmp_path, seed, wait_s):
    async def main():
        make_tree(tmp_path / "src", seed, files=2)
        async with running(tmp_path / "home") as grid:
            grid.manager.state.pools["default"].wait_offline_s = wait_s
            call, later = grid.client.call_patiently, []

            async def all_media(status, after_s=0.0):
                await asyncio.sleep(after_s)
                for name in ("m1", "m2"):
                    await grid.manager.change(decide_medium_state, name, status, "", 0)

            async def away_meanwhile(operation, *args, **options):
                if operation is FINISH_JOB:
                    await all_media(MediumStatus.OFFLINE)
                    if wait_s:
                        later.append(asyncio.create_task(all_media(MediumStatus.UP, 1.5)))
                return await call(operation, *args, **options)

            grid.client.call_patiently = away_meanwhile
            _, finished, _ = await back_up(grid, os.fsencode(tmp_path / "src"))
            assert finished.state == ("complete" if wait_s else "incomplete")
            assert ("no available copy" in finished.message) == (not wait_s)
            await asyncio.gather(*later)

    asyncio.run(main())


def test_a_medium_that_is_up_has_no_message_of_an_agent_that_could_not_use_it_yet(tmp_path):
    async def main():
        async with running(tmp_path / "home") as grid:
            state = grid.manager.state
            await grid.manager.change(decide_medium_state, "m1", MediumStatus.OFFLINE, "it is away", 1)
            session = grid.presence.sessions["a1"]
            other = grid.presence.sessions["a2"] = AgentSession("a2")
            grid.manager.core.health.agent_seen("a2", lease_clock_ns())
            session.media = {"m1": MediumReport(name="m1", state="up", message="")}
            other.media = {"m1": MediumReport(name="m1", state="offline", message="not mounted here yet")}
            await grid.presence._judge_media()
            assert (state.media["m1"].state, state.media["m1"].message) == (MediumStatus.UP, "")

    asyncio.run(main())


def test_status_names_what_is_wrong_now_and_media_that_were_taken_out_too_early(tmp_path):
    async def main():
        async with running(tmp_path / "home") as grid:
            make_tree(tmp_path / "src", 1, files=2, big=1 << 20)
            await back_up(grid, os.fsencode(tmp_path / "src"))
            desk = AdminDesk(
                manager=grid.manager,
                adoption=grid.adoption,
                presence=grid.presence,
                labels=LabelDesk(grid.manager, grid.adoption, grid.presence),
                catalog=None,
                collector=None,
                stop=None,
            )
            state = grid.manager.state
            grid.presence.sessions["a1"].media = {"m1": MediumReport(name="m1", state="up", message="")}
            state.media["m1"].message = "of an earlier release's log"
            assert desk._medium("m1").message == ""
            assert desk._not_configured() == []
            for name in ("m1", "m2"):
                await grid.manager.change(decide_medium_state, name, MediumStatus.RETIRED, "out", 1)
            grid.settings.medium.pop("m1")
            [said] = desk._not_configured()
            assert (said.name, said.state, said.plugin) == ("m1", "retired", "directory")
            assert f"{len(state.objects)} objects are on no other medium" in said.message
            assert "[medium.m1]" in said.message

    asyncio.run(main())
