"""A host was taken over: who holds it has the agent's certificate, and says to everybody what he likes."""

import asyncio
import contextlib
import os
import pathlib
import random
import shutil
import time

import pytest
from blake3 import blake3
from falseagent import SAID, FalseAgent
from leaks import peak_bytes
from unusual import only_in_soak

from staddle.demo.compare import differences
from staddle.demo.grid import RealGrid

RSS_BYTES_MAX = {"manager": 600 << 20, "agent": 512 << 20}
GROWTH_BYTES_MAX = 160 << 20
"""Of the manager's log and of what it says, in a test that storms it for some seconds."""
TOLD_LIMIT_S = 300.0


class Scene:
    """Two agents, two media, two copies. The agent that is preferred becomes false."""

    def __init__(self, where, seed):
        self.where, self.rng = str(where), random.Random(seed)
        self.source = os.path.join(self.where, "source")
        os.makedirs(self.source)
        for number in range(8):
            self.write(number)
        self.grid = RealGrid(os.path.join(self.where, "grid"))
        self.grid.init(2, lambda text: text + "segment_bytes = 1048576\nwait_offline_s = 60\n")

    def write(self, number):
        with open(os.path.join(self.source, f"file-{number}"), "wb") as file:
            file.write(self.rng.randbytes(self.rng.randrange(100_000, 900_000)))

    def back_up(self):
        for number in range(3):
            self.write(number)
        return self.grid.run("backup", self.source, "--name", "n", "--json", check=False)

    def restore(self, backup="latest"):
        target = os.path.join(self.where, "restored")
        done = self.grid.run("restore", str(backup), "--to", target, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found = os.path.join(target, self.source.lstrip("/"))
        assert list(differences(os.fsencode(self.source), os.fsencode(found))) == []
        shutil.rmtree(target)

    def bytes_below(self, *names):
        return sum(
            os.path.getsize(os.path.join(directory, file))
            for name in names
            for directory, _, files in os.walk(os.path.join(self.grid.home, name))
            for file in files
        )

    @contextlib.contextmanager
    def up(self):
        with self.grid:
            self.grid.up()
            self.grid.wait(
                lambda: all(medium["state"] == "up" for medium in self.grid.json("status")["media"]),
                "it is up",
            )
            done = self.back_up()
            assert done.returncode == 0, done.stderr
            self.false = self.grid.job().paths[0].agent
            self.honest = "a2" if self.false == "a1" else "a1"
            self.grid.kill(f"agent-{self.false}")
            yield
            self.settle()

    def settle(self):
        """The host is in good hands again: all that was backed up is there."""
        self.grid.up()
        self.grid.wait(
            lambda: all(agent["state"] == "up" for agent in self.grid.json("status")["agents"]), "it is well"
        )
        done = self.back_up()
        assert done.returncode in {0, 3}, done.stderr
        self.restore()
        self.grid.run("catalog", "verify")
        self.grid.wait(
            lambda: self.grid.run("verify", "--read-data", "--repair", check=False).returncode == 0,
            "every byte of every backup is right",
            TOLD_LIMIT_S,
        )


def in_its_place(scene, work):
    """Run `work(false agent)` and see that everybody else lives on."""
    pids = {part: scene.grid.pids(part) for part in ("manager", f"agent-{scene.honest}")}

    async def play():
        directory = os.path.join(scene.where, "false")
        async with FalseAgent(scene.grid.home, scene.false, directory, scene.rng) as false:
            await work(false)

    asyncio.run(play())
    for part, known in pids.items():
        assert scene.grid.pids(part) == known, f"{part} was started again"
        print(part, peak_bytes(known) >> 20, "MiB at most")
        assert peak_bytes(known) < RSS_BYTES_MAX[part.partition("-")[0]]


async def backed_up(scene, false, lie):
    """A backup in which the lie was told: one that goes by is done again."""
    false.lie, before, end = lie, false.streams, time.monotonic() + TOLD_LIMIT_S
    while True:
        done = await asyncio.to_thread(scene.back_up)
        if false.streams > before:
            return done
        assert done.returncode in {0, 3}, done.stderr
        assert time.monotonic() < end, f"{lie}: no stream came"
        await asyncio.sleep(0.5)


def told_to_clients(where, seed, lies):
    """Under each lie a backup and a restore; then a restore with nobody left but the liar."""
    scene = Scene(where, seed)

    def restore_from_the_liar():
        target = os.path.join(scene.where, "lied")
        done = scene.grid.run("restore", "latest", "--to", target, check=False)
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stderr
        for directory, _, names in os.walk(target):
            for name in names:
                found, true = pathlib.Path(directory, name), pathlib.Path(scene.source, name)
                assert found.read_bytes() == true.read_bytes(), f"{name}: made up"

    async def work(false):
        for lie in scene.rng.sample(sorted(SAID), lies):
            print("the agent lies:", lie)
            done = await backed_up(scene, false, lie)
            assert done.returncode in {0, 3}, f"{lie}: exit {done.returncode}: {done.stderr[-3000:]}"
            await asyncio.to_thread(scene.restore)
        scene.grid.stop(f"agent-{scene.honest}")
        try:
            await asyncio.to_thread(restore_from_the_liar)
        finally:
            scene.grid.resume(f"agent-{scene.honest}")
        assert false.reads, "it was never asked for data"

    with scene.up():
        in_its_place(scene, work)


@pytest.mark.timeout(1200)
def test_whatever_a_false_agent_says_to_clients_they_get_their_backup_and_their_bytes(tmp_path, seed):
    told_to_clients(tmp_path, seed, 4)


@only_in_soak
@pytest.mark.timeout(3600)
def test_every_lie_that_a_false_agent_may_tell_a_client(tmp_path, seed):
    told_to_clients(tmp_path, seed, len(SAID))


@pytest.mark.timeout(1200)
def test_what_a_false_agent_acknowledges_for_itself_never_counts_as_a_backup(tmp_path, seed):
    scene = Scene(tmp_path, seed)

    def complete():
        return scene.grid.json("sql", "SELECT count(*) FROM v_backups WHERE state = 'complete'")["rows"][0][0]

    async def work(false):
        done = await backed_up(scene, false, "durable at once")
        assert done.returncode == 1, done.stdout[-3000:]
        assert "acknowledged what was never committed" in done.stdout + done.stderr
        job = await asyncio.to_thread(scene.grid.job, false.tickets[-1].job)
        assert job.state in {"cancelled", "failed", "incomplete"}
        backups = complete()
        false.lie = "junk"
        done = await asyncio.to_thread(scene.back_up)
        assert done.returncode in {0, 3}, done.stderr
        assert complete() == backups + 1
        await asyncio.to_thread(scene.restore)

    with scene.up():
        in_its_place(scene, work)


@pytest.mark.timeout(1200)
def test_a_false_agent_neither_fills_nor_ends_the_manager_nor_touches_what_others_stored(tmp_path, seed):
    scene = Scene(tmp_path, seed)

    def objects():
        rows = scene.grid.json(
            "sql", "SELECT o.backup, hex(o.object), c.medium FROM v_backup_objects o JOIN v_copies c "
            "ON c.object = o.object WHERE o.backup = 1 ORDER BY ALL"
        )["rows"]  # fmt: skip
        return blake3(repr(rows).encode()).hexdigest(), len(rows)

    async def work(false):
        false.lie = "junk"
        known = await asyncio.to_thread(objects)
        assert known[1]
        before = scene.bytes_below("manager/oplog", "log")
        stop = asyncio.Event()
        storm = asyncio.create_task(false.storm(stop))
        try:
            for _ in range(3):
                done = await asyncio.to_thread(scene.back_up)
                assert done.returncode in {0, 3}, done.stderr[-3000:]
                assert not storm.done()
        finally:
            stop.set()
        codes = await storm
        print("what came back:", sorted(codes))
        assert {"DENIED", "UNKNOWN_OP", "BAD_REQUEST"} <= codes
        assert scene.bytes_below("manager/oplog", "log") - before < GROWTH_BYTES_MAX
        await asyncio.to_thread(scene.restore)
        assert await asyncio.to_thread(objects) == known

    with scene.up():
        in_its_place(scene, work)
