"""A directory medium under power cuts: label, containers, manifests, seals, deletions."""

import os

import pytest
from blake3 import blake3
from crashkit import Scenario, cut_everywhere, forgets, kill_everywhere, notices, syncs_late, tape_of

from staddle.api.media import Deadline
from staddle.api.types import Kind, Label, object_name
from staddle.data import label as label_format
from staddle.errors import NotFound
from staddle.media.directory import DirectoryMedium
from staddle.media.options import DirectoryConfig

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden", "v1")
LABEL = Label(grid=bytes(range(16)), medium="nas-1", volume=bytes(range(16, 32)), created_ns=1)
TEXT = label_format.encode(LABEL)


def golden(name):
    with open(os.path.join(GOLDEN, name), "rb") as file:
        return file.read()


def named(kind, number):
    return object_name(kind, bytes([number]) * 16, bytes([number]) * 8)


OBJECTS = {
    named(Kind.CONTAINER, 1): golden("container-aes"),
    named(Kind.CONTAINER, 2): golden("container-chacha"),
    named(Kind.MANIFEST, 3): golden("manifest"),
    named(Kind.SEAL, 4): golden("seal"),
    named(Kind.KEYRING, 5): golden("keyring"),
    named(Kind.CONTAINER, 6): bytes(range(256)) * 40,
}
DELETED = named(Kind.CONTAINER, 2)


def medium(root):
    return DirectoryMedium("nas-1", DirectoryConfig(path=os.path.join(root, "volume"), reserve_bytes=0))


def put(volume, name):
    data = OBJECTS[name]
    receipt = volume.put(name, [data[:100], data[100:]], blake3(data).digest(), Deadline(600))
    assert (receipt.name, receipt.size_bytes) == (name, len(data))


class MediumScenario(Scenario):
    """Labelled once, written by two processes one after the other, one object deleted."""

    states = 250
    exhaustive = 6
    recovery_every = 60

    def work(self, root, tape):
        medium(root).initialize(LABEL, TEXT, Deadline(600))
        tape.mark("label")
        names = list(OBJECTS)
        for part in (names[:3], names[3:]):
            volume = medium(root).open(LABEL, "write", 1, Deadline(600))
            for name in part:
                put(volume, name)
                tape.mark(("put", name))
            volume.close()
        volume = medium(root).open(LABEL, "write", 1, Deadline(600))
        tape.mark("deleting")
        volume.delete(DELETED, Deadline(600))
        tape.mark("deleted")
        volume.close()

    def again(self, root, tape):
        self.recover(root)
        tape.mark("label")
        volume = medium(root).open(LABEL, "write", 1, Deadline(600))
        tape.mark("deleting")
        for name in OBJECTS:
            put(volume, name)
            tape.mark(("put", name))
        volume.delete(DELETED, Deadline(600))
        tape.mark("deleted")
        volume.close()

    def recover(self, root):
        medium(root).initialize(LABEL, TEXT, Deadline(600))
        medium(root).open(LABEL, "write", 1, Deadline(600)).close()

    def check(self, root, marks):
        """Labelled or empty; each object whole or absent; puts, again or for the first time, work."""
        driver, deadline = medium(root), Deadline(600)
        try:
            assert driver.read_label(deadline) == TEXT
        except NotFound:
            assert "label" not in marks
        driver.initialize(LABEL, TEXT, deadline)
        volume = driver.open(LABEL, "write", 1, deadline)
        listed = {info.name: info.size_bytes for info in volume.list("", deadline)}
        acknowledged = {name for name in OBJECTS if ("put", name) in marks}
        if "deleting" in marks:
            acknowledged.discard(DELETED)
        if "deleted" in marks:
            assert DELETED not in listed
        assert acknowledged <= set(listed) <= set(OBJECTS)
        for name, size in listed.items():
            assert size == len(OBJECTS[name]) == volume.stat(name, deadline).size_bytes
            assert volume.get(name, 0, size, deadline) == OBJECTS[name]
        for name in OBJECTS:
            put(volume, name)
        volume.delete(DELETED, deadline)
        volume.close()
        self.no_leftovers(root)

    def no_leftovers(self, root):
        """What was being written goes away: a day later, since another agent may still be at it."""
        area = os.path.join(root, "volume", "tmp")
        for name in os.listdir(area):
            assert name.endswith(".part")
            os.utime(os.path.join(area, name), (0, 0))
        volume = medium(root).open(LABEL, "write", 1, Deadline(600))
        assert os.listdir(area) == []
        assert sorted(info.name for info in volume.list("", Deadline(600))) == sorted({*OBJECTS} - {DELETED})
        volume.close()
        assert sorted(os.listdir(root)) == ["volume"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    scenario = MediumScenario()
    return scenario, tape_of(scenario, tmp_path_factory.mktemp("medium") / "recorded")


def test_a_receipt_survives_a_power_cut_at_any_operation(recorded, tmp_path):
    scenario, tape = recorded
    states, nested = cut_everywhere(scenario, tape, tmp_path)
    print(f"seed {scenario.seed}: {len(tape.ops)} operations, {states} states, {nested} in recovery")
    assert states > scenario.states
    assert nested > 10


def test_a_kill_before_the_power_cut_loses_nothing(recorded, tmp_path):
    scenario, tape = recorded
    assert kill_everywhere(scenario, tape, tmp_path) > 20


MUTANTS = {
    "an object is not synced": forgets("sync", "tmp/"),
    "an object gets its name first": syncs_late("tmp/", after="sync_dir"),
    "an object's directory is not synced": lambda tape: tape.without(
        lambda op: op.kind == "sync_dir" and op.path.count("/") >= 2
    ),
    "new directories are not made sure": lambda tape: tape.without(
        lambda op: op.kind == "sync_dir" and op.path.count("/") == 1
    ),
    "the label's directory is not synced": lambda tape: tape.without(
        lambda op: op.kind == "sync_dir" and op.path == "volume"
    ),
    "the volume's own directory is not made sure": lambda tape: tape.without(
        lambda op: op.kind == "sync_dir" and not op.path
    ),
    "an object is written where it will be read": lambda tape: tape.delayed(
        lambda op: op.kind == "write" and "tmp/" in op.path, lambda op: op.kind == "link"
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_notices(recorded, tmp_path, mutant):
    scenario, tape = recorded
    notices(scenario, MUTANTS[mutant](tape), tmp_path)
