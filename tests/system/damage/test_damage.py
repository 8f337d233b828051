"""Stored bytes go wrong behind the grid's back: found, named, never restored, and made good again."""

import json
import os
import random
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "damage"))

from damagekit import flip_middle, rewrite

from staddle.demo.compare import differences
from staddle.demo.grid import RealGrid

WORDS = {"c0": "container", "f0": "manifest", "5e": "seal"}
FILE_BYTES = 300_000


class Damaged:
    """A grid of two agents and two media with two copies of everything, and one backup of a small tree."""

    def __init__(self, where, seed, copies=2):
        self.where = Path(where)
        self.rng = random.Random(seed)
        self.source = self.where / "src"
        self.grid = RealGrid(str(self.where / "grid"))
        self.grid.init(2, lambda text: small_segments(text, copies))
        (self.source / "deep").mkdir(parents=True)
        for number in range(18):
            self.write(f"deep/file-{number}", FILE_BYTES)
        os.link(self.source / "deep" / "file-0", self.source / "hard")
        self.targets = 0

    def write(self, name, size):
        (self.source / name).write_bytes(self.rng.randbytes(size))

    def backup(self, code=0):
        """Number of a new backup; with the lines of its output in `said`."""
        running = self.grid.backup(str(self.source), "--name", "work")
        assert running.wait(120.0) == code, (running.lines, running.errors)
        self.said = running.lines
        return running.summary["backup"]

    def objects(self, kind, medium="m1"):
        """Paths of all objects of a kind on a medium, in a random order."""
        top = Path(self.grid.medium_path(medium))
        found = sorted(path for path in (top / kind).rglob("*") if path.is_file())
        self.rng.shuffle(found)
        return found

    def twin(self, path, medium="m2"):
        """The other copy of an object."""
        [found] = Path(self.grid.medium_path(medium)).rglob(f"{path.name[:32]}*")
        return found

    def verify(self, *words):
        """Exit code, findings and the other lines of `verify --json`."""
        done = self.grid.run("verify", *words, "--json", check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        findings = {
            (each["medium"], each["object"] or each["name"]): each
            for each in lines
            if each["message_type"] == "finding"
        }
        return done.returncode, findings, lines

    def restore(self, backup, codes=(0,)):
        """What a restore says, and where it has put the tree."""
        self.targets += 1
        target = self.where / f"out-{self.targets}"
        done = self.grid.run("restore", str(backup), "--to", str(target), "--json", check=False)
        assert done.returncode in codes, done.stderr
        return done, target / str(self.source).lstrip("/")

    def check_restore(self, backup):
        _, found = self.restore(backup)
        wrong = list(differences(os.fsencode(self.source), os.fsencode(found)))
        assert not wrong, wrong

    def status(self):
        return self.grid.json("status")

    def await_repair(self):
        """Until a check of every byte finds nothing."""
        self.grid.wait(lambda: self.verify("--read-data")[0] == 0, "everything was repaired")

    def __enter__(self):
        self.grid.__enter__()
        self.grid.up()
        return self

    def __exit__(self, *error):
        self.grid.close()


def small_segments(text, copies):
    lines = []
    for line in text.splitlines():
        lines.append(f"copies = {copies}" if line.startswith("copies =") else line)
        if line.startswith("[pool."):
            lines.append("segment_bytes = 1048576")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def module_seed():
    from random import SystemRandom

    chosen = int(os.environ.get("STADDLE_SEED") or SystemRandom().getrandbits(32))
    print(f"replay: STADDLE_SEED={chosen}")
    return chosen


@pytest.fixture(scope="module")
def scene(tmp_path_factory, module_seed):
    with Damaged(tmp_path_factory.mktemp("damage"), module_seed) as made:
        made.first = made.backup()
        yield made


def test_each_kind_of_damage_to_one_copy_is_named_and_costs_nothing(scene):
    containers, manifests, [seal] = (scene.objects(kind) for kind in WORDS)
    assert len(containers) >= 3, "the tree makes several of them"
    assert len(manifests) >= 3
    other = containers[2].read_bytes()
    ways = {
        containers[0]: flip_middle,
        containers[1]: lambda _: other,  # another object's bytes, whole
        manifests[0]: lambda data: data[: scene.rng.randrange(len(data))],
        manifests[1]: lambda _: None,
        manifests[2]: lambda data: data + data,
        seal: flip_middle,
    }
    for path, change in ways.items():
        rewrite(path, change)
    code, findings, lines = scene.verify()
    assert code == 3, "a good copy of everything is there"
    seen = {path for path in ways if ("m1", path.name[:32]) in findings}
    assert seen >= {manifests[0], manifests[1], manifests[2]}, (
        "what is gone or of another length needs no reading"
    )

    code, findings, lines = scene.verify("--read-data")
    assert code == 3
    assert set(findings) == {("m1", path.name[:32]) for path in ways}
    for path in ways:
        found = findings["m1", path.name[:32]]
        assert found["kind"] == WORDS[path.parts[-3]]
        assert found["backups"] == [scene.first]
        assert found["verdict"] == "damaged"
        assert ("CORRUPT" in found["message"]) != (path == manifests[1])
        assert path.name in found["name"]
    summary = lines[-1]
    assert (summary["objects_damaged"], summary["objects_lost"], summary["files_hit"]) == (len(ways), 0, 0)
    text = scene.grid.run("verify", "--read-data", check=False)
    assert "verify --repair" in text.stderr
    assert f"backup {scene.first} (work of " in text.stderr

    # Nothing was changed by looking; a restore takes the good copies, and bad ones that it met are repaired.
    assert all(path.exists() for path in ways if path != manifests[1])
    scene.check_restore(scene.first)
    code, findings, lines = scene.verify("--read-data", "--repair")
    assert code in {0, 3}
    assert all(each["repair"] == "repaired" for each in findings.values())
    assert scene.verify("--read-data")[0] == 0
    assert not any(path.exists() for path in ways), "the bad copies are gone"
    assert scene.status()["damage"] == {"damaged": 0, "lost": 0}
    scene.check_restore(scene.first)
    assert scene.grid.run("catalog", "verify", check=False).returncode == 0


def test_label_and_keyring_are_checked_too(scene):
    top = Path(scene.grid.medium_path("m1"))
    [ring] = scene.objects("4e")
    label = top / "staddle-volume.txt"
    text = label.read_bytes()
    rewrite(ring, flip_middle)
    at = text.index(b"\ncheck: ") + 20
    rewrite(label, lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    code, findings, _ = scene.verify()
    assert code == 3
    assert {each["kind"] for each in findings.values()} == {"label", "keyring"}
    assert all("m1" in each["message"] for each in findings.values())
    rewrite(label, lambda _: text)
    code, findings, _ = scene.verify("--repair")
    assert [each["repair"] for each in findings.values()] == ["repaired"]
    [again] = scene.objects("4e")
    assert again.read_bytes() == scene.objects("4e", "m2")[0].read_bytes()
    assert scene.verify()[0] == 0


def test_a_restore_that_meets_damage_has_it_repaired_and_status_shows_it(scene):
    for path in scene.objects("c0"):
        rewrite(path, flip_middle)
    scene.check_restore(scene.first)
    scene.verify("--read-data", "--repair")
    # Which copy is read first is not said; but one that was made anew is the last from now on.
    hit = scene.objects("c0", "m2")
    for path in hit:
        rewrite(path, flip_middle)
    scene.check_restore(scene.first)
    scene.grid.wait(lambda: not any(path.exists() for path in hit), "what the restore met was repaired")
    assert scene.verify("--read-data")[0] == 0


def test_copies_damaged_in_different_places_are_whole_together(scene):
    victim = max(scene.objects("c0"), key=lambda path: path.stat().st_size)
    twin, data = scene.twin(victim), victim.read_bytes()
    for path, at in ((victim, len(data) // 4), (twin, 3 * len(data) // 4)):
        rewrite(path, lambda data, at=at: data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :])
    code, findings, lines = scene.verify("--read-data")
    assert code == 3, "nothing is lost"
    assert {(each["verdict"], each["medium"]) for each in findings.values()} == {
        ("split", "m1"),
        ("split", "m2"),
    }
    assert (lines[-1]["objects_split"], lines[-1]["objects_lost"], lines[-1]["files_hit"]) == (1, 0, 0)
    text = scene.grid.run("verify", "--read-data", check=False)
    assert "--repair joins them" in text.stdout + text.stderr
    scene.check_restore(scene.first)  # reads both, and has them repaired as any damage
    scene.grid.wait(lambda: not victim.exists() and not twin.exists(), "what the restore met was repaired")
    code, findings, _ = scene.verify("--read-data", "--repair")
    assert (code, findings) == (0, {})
    for medium in ("m1", "m2"):
        [again] = [path for path in scene.objects("c0", medium) if path.name[:32] == victim.name[:32]]
        assert again.read_bytes() == data


def test_without_a_good_copy_files_are_named_and_the_next_backup_is_whole(scene):
    victim = scene.objects("c0")[0]
    for path in (victim, scene.twin(victim)):
        rewrite(path, flip_middle)
    code, findings, lines = scene.verify("--read-data")
    assert code == 13
    assert {each["verdict"] for each in findings.values()} == {"lost"}
    hit = {each["path"] for each in lines if each["message_type"] == "file_hit"}
    assert hit
    assert all(path.startswith(str(scene.source)) for path in hit)

    done, found = scene.restore(scene.first, codes=(13,))
    summary = json.loads(done.stdout.splitlines()[-1])
    lost = {each["path"] for each in summary["lost"]}
    assert lost
    assert lost <= hit
    assert "is damaged in every copy" in done.stdout, "not a medium that failed"
    assert "on medium m1" in done.stdout
    assert "on medium m2" in done.stdout
    for path in sorted(scene.source.rglob("*")):
        if path.is_file() and str(path) not in lost:
            assert (found / path.relative_to(scene.source)).read_bytes() == path.read_bytes()

    scene.grid.wait(
        lambda: scene.status()["damage"] == {"damaged": 1, "lost": 1}, "both copies were reported"
    )
    code, findings, _ = scene.verify("--read-data", "--repair")
    assert code == 13
    assert victim.exists(), "the last copy is never removed, not even a damaged one"
    assert scene.twin(victim).exists()

    second = scene.backup()
    scene.check_restore(second)
    code, findings, _ = scene.verify(str(second), "--read-data")
    assert (code, findings) == (0, {}), "a hit on data without a good copy does not count"
    code, findings, lines = scene.verify()
    assert code == 13
    assert {each["backup"] for each in lines if each["message_type"] == "backup_hit"} == {scene.first}

    # The data comes back from elsewhere: it counts again.
    rewrite(victim, flip_middle)
    scene.verify("--read-data", "--repair")
    assert scene.verify("--read-data")[0] == 0
    assert scene.status()["damage"] == {"damaged": 0, "lost": 0}
    scene.check_restore(scene.first)


def test_a_manifest_without_a_good_copy_hits_the_files_in_it(scene):
    new = scene.backup()
    code, _, lines = scene.verify(str(new))
    assert code == 0
    manifests = {
        row[0]
        for row in scene.grid.json("sql", f"SELECT manifest FROM v_segments WHERE backup = {new}")["rows"]
    }
    victim = next(path for path in scene.objects("f0") if path.name[:32] in manifests)
    saved = victim.read_bytes()
    rewrite(victim, lambda data: flip_middle(data)[:-1])
    rewrite(scene.twin(victim), flip_middle)
    code, _, lines = scene.verify(str(new), "--read-data")
    assert code == 13
    hit = {each["path"] for each in lines if each["message_type"] == "file_hit"}
    assert hit
    done, _ = scene.restore(new, codes=(13,))
    assert victim.name[:32] in done.stdout
    assert "is damaged in every copy" in done.stdout
    assert scene.grid.run("ls", str(new), str(scene.source)).returncode == 0, "the catalog knows it still"
    again = scene.backup(code=3)
    assert any("can't be used as a base" in line.get("message", "") for line in scene.said)
    scene.check_restore(again)
    rewrite(victim, lambda _: saved)
    scene.verify("--read-data", "--repair")
    assert scene.verify("--read-data")[0] == 0


def test_a_rebuild_names_what_is_damaged_and_uses_the_good_copies(scene):
    newest = scene.backup()
    [*containers] = scene.objects("c0")
    [*manifests] = scene.objects("f0")
    seals = scene.objects("5e")
    rewrite(containers[0], lambda data: data[:-1])
    rewrite(manifests[0], flip_middle)
    rewrite(manifests[1], lambda _: manifests[2].read_bytes())
    rewrite(seals[0], flip_middle)
    hit = [containers[0], manifests[0], manifests[1], seals[0]]
    before = {(each["backup"], each["state"]) for each in scene.grid.json("ls")}
    doubled = containers[1].with_name(containers[1].name[:32] + "0123456789abcdef")
    shutil.copy(containers[1], doubled)
    shutil.copy(containers[1], containers[1].with_name("00" * 15 + containers[1].name[30:]))
    scene.grid.down()
    shutil.rmtree(os.path.join(scene.grid.home, "manager"))
    label = Path(scene.grid.medium_path("m1")) / "staddle-volume.txt"
    text = label.read_bytes()
    rewrite(label, lambda data: data[:-9])
    done = scene.grid.run("up", check=False)
    assert "medium m1 " in done.stderr
    assert "label" in done.stderr
    rewrite(label, lambda _: text)
    scene.grid.wait(
        lambda: all(medium["state"] == "up" for medium in scene.status()["media"]), "both media are up"
    )
    done = scene.grid.run("catalog", "rebuild", check=False)
    assert done.returncode == 3, done.stderr
    assert "00" * 15 in done.stderr, "an object under another's name is named"
    for path in hit:
        assert path.name in done.stderr, "each bad copy is named"
    assert {(each["backup"], each["state"]) for each in scene.grid.json("ls")} == before
    assert scene.grid.run("catalog", "verify", check=False).returncode == 0
    scene.check_restore(newest)
    code, findings, _ = scene.verify("--read-data")
    assert (code, findings) == (0, {}), "what the grid knows now is whole"


def test_a_rebuild_over_a_manifest_that_is_whole_nowhere_keeps_all_other_files(scene):
    for number in range(20, 30):
        scene.write(f"deep/file-{number}", FILE_BYTES)
    new = scene.backup()
    rows = scene.grid.json(
        "sql", f"SELECT manifest FROM v_segments WHERE backup = {new} ORDER BY stream, ordinal"
    )["rows"]
    assert len(rows) >= 3, "one of them is neither the first nor the last"
    name = rows[1][0]
    victim = next(path for path in scene.objects("f0") if path.name.startswith(name))
    saved = victim.read_bytes()
    rewrite(victim, flip_middle)
    rewrite(scene.twin(victim), lambda data: flip_middle(data)[:-1])
    _, _, lines = scene.verify(str(new), "--read-data")
    hit = {each["path"] for each in lines if each["message_type"] == "file_hit"}
    files = {str(path) for path in scene.source.rglob("*") if path.is_file()}
    assert hit
    assert files - hit, "not all of it is lost"

    scene.grid.down()
    shutil.rmtree(os.path.join(scene.grid.home, "manager"))
    scene.grid.run("up")
    done = scene.grid.run("catalog", "rebuild", check=False)
    assert done.returncode == 3, done.stderr
    assert f"whole in no copy: {name}" in done.stderr
    states = {each["backup"]: each["state"] for each in scene.grid.json("ls")}
    assert states[new] == "incomplete"
    assert scene.grid.run("catalog", "verify", check=False).returncode == 0
    code, findings, _ = scene.verify(str(new), "--read-data")
    assert code == 13, "the loss is still told of"
    assert {found["object"] for found in findings.values()} == {name}
    _, found = scene.restore(new, codes=(13,))
    for path in sorted(files - hit):
        relative = os.path.relpath(path, scene.source)
        assert (found / relative).read_bytes() == (scene.source / relative).read_bytes()

    # What comes back from elsewhere is taken in by another rebuild.
    rewrite(victim, lambda _: saved)
    scene.verify("--read-data", "--repair")
    scene.grid.run("catalog", "rebuild", check=False)
    assert {each["backup"]: each["state"] for each in scene.grid.json("ls")}[new] == "complete"
    assert scene.verify(str(new), "--read-data")[0] == 0
    assert scene.grid.run("catalog", "verify", check=False).returncode == 0
    scene.check_restore(new)
