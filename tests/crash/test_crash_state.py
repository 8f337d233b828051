"""The small files that daemons keep: epochs, run files, used tokens, the mark that a rebuild is due."""

import asyncio
import os
from types import SimpleNamespace

import pytest
from crashkit import Scenario, cut_everywhere, forgets, kill_everywhere, notices, syncs_late, tape_of

from staddle.cluster.plugin import SingleConfig
from staddle.cluster.single import SingleClusterManager
from staddle.config import home_paths
from staddle.daemon.agent.context import AgentContext, Role
from staddle.daemon.agent.store import MediaSet
from staddle.daemon.manager.adoption import Adoption
from staddle.daemon.manager.joining import TokenDesk
from staddle.daemon.runfiles import RunFile, claim, publish, running, withdraw
from staddle.dedup.ownermap import OwnerMap
from staddle.errors import Corrupt, Fenced
from staddle.ids import Ids
from staddle.platform.durable import make_directories
from staddle.wire.pki import make_ca
from staddle.wire.tokens import create_token, read_token


class LeaseScenario(Scenario):
    """The epoch file of the `single` cluster manager: no epoch is given twice."""

    states = 40

    def again(self, root, tape):
        tape.mark(self.acquire(root))

    def acquire(self, root):
        manager = SingleClusterManager(SingleConfig(path=os.path.join(root, "manager")))
        lease = manager.acquire("manager", "me", 10.0, 0)
        manager.renew(lease)
        manager.release(lease)
        return lease.epoch

    def work(self, root, tape):
        for _ in range(4):
            tape.mark(self.acquire(root))

    def recover(self, root):
        self.acquire(root)

    def check(self, root, marks):
        first = self.acquire(root)
        assert first > max(marks, default=0)
        assert self.acquire(root) == first + 1
        assert sorted(os.listdir(os.path.join(root, "manager"))) == ["manager.epoch", "manager.lock"]


class FollowedScenario(Scenario):
    """An agent's `manager-epoch`: a manager that was replaced is never followed again (K3)."""

    states = 20
    epochs = (1, 9, 10, 1 << 40)

    def context(self, root):
        async def made():
            return AgentContext("a1", os.path.join(root, "a1"), self.media, Ids(), None)

        return asyncio.run(made())

    def again(self, root, tape):
        make_directories(os.path.join(root, "a1"))
        self.context(root).take_role(self.role(self.epochs[-1]))
        tape.mark(self.epochs[-1])

    def role(self, epoch):
        return Role(
            grid=bytes(16), manager_epoch=epoch, ticket_key=b"", domains={}, owner_map=OwnerMap.everyone()
        )

    def work(self, root, tape):
        make_directories(os.path.join(root, "a1"))
        for epoch in self.epochs:
            self.context(root).take_role(self.role(epoch))
            tape.mark(epoch)

    def recover(self, root):
        self.context(root)

    def check(self, root, marks):
        os.makedirs(os.path.join(root, "a1"), exist_ok=True)
        followed = self.context(root).manager_epoch
        assert followed >= max(marks, default=0)
        assert followed in {0, *self.epochs}
        if followed:
            with pytest.raises(Fenced):
                self.context(root).take_role(self.role(followed - 1))
        self.context(root).take_role(self.role(1 << 41))
        assert self.context(root).manager_epoch == 1 << 41
        assert os.listdir(os.path.join(root, "a1")) == ["manager-epoch"]


class RunFileScenario(Scenario):
    """`run/PART.json`: after a power cut nothing runs, whatever the file says."""

    states = 10
    file = RunFile(part="manager", pid=1, pids=[1, 2], urls=["tcp://127.0.0.1:1"])

    def work(self, root, tape):
        for _ in range(2):
            lock = claim(root, "manager")
            publish(root, self.file)
            assert running(root, "manager") == self.file
            tape.mark("ready")
            withdraw(root, "manager")
            lock.release()

    def recover(self, root):
        claim(root, "manager").release()

    def check(self, root, marks):
        assert running(root, "manager") is None
        lock = claim(root, "manager")
        try:
            assert running(root, "manager") is None, "an old file passes for this process"
            publish(root, self.file)
            assert running(root, "manager") == self.file
            assert sorted(os.listdir(os.path.join(root, "run"))) == ["manager.json", "manager.lock"]
            withdraw(root, "manager")
        finally:
            lock.release()


class TokenScenario(Scenario):
    """`used-tokens`: a token that was redeemed is never taken again."""

    states = 20

    def __init__(self, base):
        self.authority = make_ca(base, bytes(16))
        self.base = base
        self.tokens = [
            read_token(create_token(self.authority, f"host-{number}", "client", 1 << 62))
            for number in range(4)
        ]

    def desk(self, root):
        async def change(*_arguments):
            return None

        desk = TokenDesk(SimpleNamespace(change=change), self.base)
        desk._path = os.path.join(root, os.path.basename(desk._path))
        return desk

    def again(self, root, tape):
        if self.redeem(root, self.tokens[2]):  # else it was used up, though nobody got a certificate
            tape.mark(2)

    def redeem(self, root, token):
        return asyncio.run(self.desk(root)._redeem(token))

    def work(self, root, tape):
        for number, token in enumerate(self.tokens[:3]):
            assert self.redeem(root, token)
            tape.mark(number)

    def recover(self, root):
        self.desk(root)._used()

    def check(self, root, marks):
        for number in marks:
            assert not self.redeem(root, self.tokens[number])
        assert self.redeem(root, self.tokens[3])
        assert not self.redeem(root, self.tokens[3])
        assert os.listdir(root) == ["used-tokens"]


class RebuildMarkScenario(Scenario):
    """`rebuild-needed`: there from when a lost log was noticed until the rebuild is durable."""

    states = 4

    def adoption(self, root):
        return Adoption(SimpleNamespace(settings=SimpleNamespace(home=root)))

    def work(self, root, tape):
        make_directories(home_paths(root).manager)
        adoption = self.adoption(root)
        adoption.need_rebuild()
        tape.mark("needed")
        tape.mark("rebuilding")
        adoption.rebuilt()
        tape.mark("rebuilt")

    def again(self, root, tape):
        make_directories(home_paths(root).manager)
        self.adoption(root).need_rebuild()
        self.adoption(root).rebuilt()
        tape.mark("rebuilding")
        tape.mark("rebuilt")

    def recover(self, root):
        return self.adoption(root).rebuild_needed

    def check(self, root, marks):
        needed = self.adoption(root).rebuild_needed
        if "rebuilding" not in marks:
            assert needed == ("needed" in marks) or not marks
        if "rebuilt" in marks:
            assert not needed
        os.makedirs(home_paths(root).manager, exist_ok=True)
        self.adoption(root).need_rebuild()
        self.adoption(root).rebuilt()
        assert not self.adoption(root).rebuild_needed


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory):
    base = tmp_path_factory.mktemp("state")
    FollowedScenario.media = MediaSet({}, {}, Ids())
    made = {
        "lease": LeaseScenario(),
        "followed": FollowedScenario(),
        "run file": RunFileScenario(),
        "tokens": TokenScenario(str(base / "ca")),
        "rebuild mark": RebuildMarkScenario(),
    }
    yield {name: (each, tape_of(each, base / name)) for name, each in made.items()}
    FollowedScenario.media.close()


@pytest.mark.parametrize("name", ["lease", "followed", "run file", "tokens", "rebuild mark"])
def test_what_was_said_stays_said_after_a_power_cut_at_any_operation(scenarios, tmp_path, name):
    scenario, tape = scenarios[name]
    states, nested = cut_everywhere(scenario, tape, tmp_path)
    print(f"seed {scenario.seed}: {len(tape.ops)} operations, {states} states, {nested} in recovery")
    assert states >= scenario.states
    assert nested >= 1


@pytest.mark.parametrize("name", ["lease", "followed", "tokens", "rebuild mark"])
def test_a_kill_before_the_power_cut_loses_nothing(scenarios, tmp_path, name):
    scenario, tape = scenarios[name]
    assert kill_everywhere(scenario, tape, tmp_path) >= 4


MUTANTS = {
    ("lease", "the epoch is not synced"): forgets("sync", ".epoch"),
    ("lease", "the epoch gets its name first"): syncs_late(".epoch"),
    ("lease", "the name is not made sure"): forgets("sync_dir", "manager"),
    ("followed", "the epoch is not synced"): forgets("sync", "manager-epoch"),
    ("followed", "the epoch gets its name first"): syncs_late("manager-epoch"),
    ("followed", "the name is not made sure"): forgets("sync_dir", "a1"),
    ("tokens", "the list is not synced"): forgets("sync", "used-tokens"),
    ("tokens", "the list gets its name first"): syncs_late("used-tokens"),
    ("tokens", "the name is not made sure"): forgets("sync_dir"),
    ("rebuild mark", "it comes back"): lambda tape: tape.without(
        lambda op: op is [each for each in tape.ops if each.kind == "sync_dir"][-1]
    ),
    ("rebuild mark", "it is not made sure"): forgets("sync_dir"),
}


@pytest.mark.parametrize(("name", "mutant"), MUTANTS)
def test_the_check_notices(scenarios, tmp_path, name, mutant):
    scenario, tape = scenarios[name]
    notices(scenario, MUTANTS[name, mutant](tape), tmp_path)


@pytest.mark.parametrize("content", [b"", b"7", b"x\n", b"7 00000000\n", b"-7\n", b"7 " + b"0" * 90])
def test_a_damaged_followed_epoch_is_never_taken_for_none_or_another(tmp_path, content):
    (tmp_path / "a1").mkdir()
    (tmp_path / "a1" / "manager-epoch").write_bytes(content)
    FollowedScenario.media = MediaSet({}, {}, Ids())
    with pytest.raises(Corrupt, match="manager-epoch"):
        FollowedScenario().context(str(tmp_path))
    FollowedScenario.media.close()


def test_every_flipped_bit_of_a_followed_epoch_is_noticed_or_harmless(tmp_path):
    from staddle.daemon.agent.epochfile import load_epoch, store_epoch

    path = tmp_path / "manager-epoch"
    store_epoch(str(path), 987654)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(Corrupt):
            load_epoch(str(path))


def test_an_epoch_file_of_the_first_releases_is_read(tmp_path):
    from staddle.daemon.agent.epochfile import load_epoch

    (tmp_path / "manager-epoch").write_bytes(b"1234\n")
    assert load_epoch(str(tmp_path / "manager-epoch")) == 1234
