"""A medium of a stranger's plugin lies, hangs and raises whatever it likes; the other one tells the truth."""

import contextlib
import json
import os
import random
import shutil

import pytest
from leaks import peak_bytes
from unusual import only_in_soak

from staddle.demo.compare import differences
from staddle.demo.grid import RealGrid

SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "site")
RSS_BYTES_MAX = {"manager": 600 << 20, "agent-a1": 512 << 20, "agent-a2": 512 << 20}
LOG_BYTES_MAX = 64 << 20
DEADLINE_S = 3
FILE_BYTES_MAX = 300_000
FILES = 12
HELD_UP_S = 240.0

RAISES = (
    *("SystemExit", "KeyboardInterrupt", "GeneratorExit", "StopIteration", "MemoryError", "RecursionError"),
    *("BaseException", "OSError", "nasty", "half made", "no words", "long"),
    *("Fenced", "Denied", "NewerFormat", "NotFound", "Conflict", "UsageError", "MediumFull", "now"),
)
LIES = {
    "get": (
        *("other bytes", "flipped", "more", "endless", "fewer", "empty", "blank", "none", "text"),
        *("numbers", "iterator", "another object's"),
    ),
    "stat": ("huge", "beyond", "negative", "text", "another name", "a million", "none"),
    "put": ("forget", "none", "text", "another name", "a way out", "another size", "another volume"),
    "list": (
        *("dots", "root", "nul", "control", "surrogates", "long", "a million", "endless"),
        *("always the same", "huge", "negative", "backwards", "empty", "none", "numbers", "broken off"),
    ),
    "capacity": ("negative", "beyond", "more free than there is", "nothing", "text", "none"),
    "health": ("flaps", "loud", "loud and gone", "text", "none"),
    "read_label": ("changes", "empty", "junk", "endless", "text", "none"),
    "open": ("none", "text"),
    "label": ("changes", "none"),
    "delete": ("forget",),
    "close": (),
    "*": (),
}
ALL = [
    (op, lie) for op, lies in LIES.items() for lie in (*lies, *(() if op == "label" else ("hang", *RAISES)))
]
SURE = [("get", "other bytes"), ("put", "SystemExit"), ("list", "endless"), ("*", "hang")]
"""Told in every run; of all the others a few, drawn by the seed."""
DRAWN = 8


class Hostile:
    """A grid of two agents; the medium m1 is of a stranger's plugin, m2 is a directory."""

    def __init__(self, where, seed):
        self.where = str(where)
        self.rng = random.Random(seed)
        self.source = os.path.join(self.where, "source")
        os.makedirs(self.source)
        for number in range(FILES):
            self.write(number)
        self.grid = RealGrid(os.path.join(self.where, "grid"))
        self.grid.environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (SITE, os.environ.get("PYTHONPATH")))
        )
        self.grid.init(2, self.edited)
        self.orders = os.path.join(self.grid.home, "orders.json")

    @staticmethod
    def edited(text):
        honest = '[medium.m1]\nplugin = "directory"\npath = "media/m1"\n'
        assert honest in text
        lying = (
            honest.replace("directory", "hostile") + f'orders = "orders.json"\ndeadline_s = {DEADLINE_S}\n'
        )
        return text.replace(honest, lying) + "segment_bytes = 1048576\nwait_offline_s = 60\n"

    def write(self, number):
        with open(os.path.join(self.source, f"file-{number}"), "wb") as file:
            file.write(self.rng.randbytes(self.rng.randrange(1, FILE_BYTES_MAX)))

    def order(self, **orders):
        """Told at once by all processes; none makes the medium honest."""
        with open(self.orders + ".new", "w", encoding="utf-8") as file:
            json.dump(orders, file)
        os.replace(self.orders + ".new", self.orders)

    def up(self):
        """Until both media are."""
        self.grid.wait(
            lambda: all(medium["state"] == "up" for medium in self.grid.json("status")["media"]),
            "both media are up",
            HELD_UP_S,
        )

    def back_up(self):
        """Of changed files: it comes to its end, whatever m1 does."""
        self.write(self.rng.randrange(FILES))
        done = self.grid.run("backup", self.source, "--name", "hostile", "--json", check=False)
        assert done.returncode in {0, 3}, f"exit {done.returncode}: {done.stderr[-3000:]}"
        return json.loads(done.stdout.splitlines()[-1])

    def restore(self, backup):
        target = os.path.join(self.where, "restored")
        done = self.grid.run("restore", str(backup), "--to", target, check=False)
        assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-3000:]}"
        found = os.path.join(target, self.source.lstrip("/"))
        assert list(differences(os.fsencode(self.source), os.fsencode(found))) == []
        shutil.rmtree(target)

    def logs(self):
        """What all daemons have said."""
        said, log = "", os.path.join(self.grid.home, "log")
        for name in os.listdir(log):
            with open(os.path.join(log, name), encoding="utf-8", errors="replace") as file:
                said += file.read()
        return said


@contextlib.contextmanager
def hostile(where, seed):
    made = Hostile(where, seed)
    with made.grid:
        made.grid.up()
        made.up()
        try:
            yield made
        except BaseException:
            print(made.logs()[-20_000:])
            raise


def play(where, seed, lies):
    """Under each lie a backup and two restores; all processes live on, and in the end all is whole."""
    with hostile(where, seed) as scene:
        pids = {part: scene.grid.pids(part) for part in RSS_BYTES_MAX}
        scene.back_up()  # with copies on m1, which can be lied about later
        for op, lie in lies:
            print(f"m1 lies: {op} {lie}")
            scene.order(**{op: lie})
            if scene.rng.randrange(3) == 0:
                scene.grid.run("verify", check=False)  # it too looks at every copy, and ends
            summary = scene.back_up()
            assert summary["state"] in {"complete", "warnings"}
            scene.restore(summary["backup"])
            status = scene.grid.run("status", "--json", check=False)
            assert json.loads(status.stdout)["manager"], status.stderr
            scene.order()
            for part, known in pids.items():
                assert scene.grid.pids(part) == known, f"{op} {lie}: {part} was started again"
                assert peak_bytes(known) < RSS_BYTES_MAX[part], f"{op} {lie}: {part}"
        scene.up()
        print({part: peak_bytes(known) >> 20 for part, known in pids.items()}, "MiB at most")
        said = scene.logs()
        assert "m1" in said
        assert len(said) < LOG_BYTES_MAX
        done = scene.grid.run("verify", "--read-data", "--repair", check=False)
        print(done.returncode, done.stdout[-3000:], done.stderr[-3000:])
        scene.grid.wait(
            lambda: scene.grid.run("verify", "--read-data", check=False).returncode == 0,
            "all copies are whole again",
            HELD_UP_S,
        )
        scene.grid.run("catalog", "verify")
        scene.restore(scene.back_up()["backup"])


@pytest.mark.timeout(1800)
def test_a_medium_that_lies_harms_nobody_else(tmp_path, seed):
    rng = random.Random(seed)
    drawn = rng.sample([each for each in ALL if each not in SURE], DRAWN)
    play(tmp_path, seed, [*SURE, *drawn])


@only_in_soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("op", sorted(LIES))
def test_every_lie_of_one_call(tmp_path, seed, op):
    play(tmp_path, seed, [each for each in ALL if each[0] == op])


@pytest.mark.parametrize("lie", ["hang", "SystemExit", "junk", "endless"])
def test_a_medium_that_lies_from_the_start_is_named_and_the_grid_comes_up_on_the_other(tmp_path, seed, lie):
    scene = Hostile(tmp_path, seed)
    op = "*" if lie in {"hang", "SystemExit"} else "read_label"
    with scene.grid:
        scene.order(**{op: lie})
        scene.grid.run("up", check=False)
        scene.grid.wait(
            lambda: any(medium["state"] == "up" for medium in scene.grid.json("status")["media"]),
            "the honest medium is up",
            HELD_UP_S,
        )
        text = scene.grid.run("status", check=False)
        assert "m1" in text.stdout
        assert "Traceback" not in text.stdout + text.stderr
        scene.order()
        scene.up()
        scene.restore(scene.back_up()["backup"])
