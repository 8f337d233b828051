"""The nemesis: rounds of several faults at random moments, and whatever was acknowledged is there after each.

STADDLE_NEMESIS_ROUNDS=10 STADDLE_SEED=1 python -m pytest tests/system/nemesis
"""

import json
import os
import random
import shutil
import signal
import time

from faults import Plan, plays
from leaks import Census
from scene import Scene

from staddle.demo.compare import differences

ROUNDS = int(os.environ.get("STADDLE_NEMESIS_ROUNDS") or 2)
BACKUP_LIMIT_S = 240.0
KEPT = 6
"""Backups of which trees are kept, to be restored again after later rounds."""


def test_whatever_breaks_nothing_acknowledged_is_lost(tmp_path, seed):
    settings = {"size_bytes": 24 << 20, "rate": 7 << 20, "deadline_s": 10.0, "wait_s": 60}
    with Scene(tmp_path, seed, **settings) as scene:
        nemesis = Nemesis(scene, random.Random(seed))
        for number in range(1, ROUNDS + 1):
            nemesis.round(number)
        nemesis.end()


class Nemesis:
    """Rounds on one grid."""

    def __init__(self, scene, rng):
        self.scene, self.rng = scene, rng
        self.census = Census(scene.grid)
        self.kept = {}

    def round(self, number):
        """Break, back up, mend, look."""
        scene, began_s = self.scene, time.monotonic()
        plan = Plan(scene, random.Random(self.rng.getrandbits(64)))
        print(f"round {number}: {plan}", flush=True)
        scene.new_tree(f"tree-{number}")
        before = scene.newest()
        scene.running = self.start(scene.source)
        beside = self.beside()
        scene.grid.wait(
            lambda: scene.newest() > before or scene.running.process.poll() is not None, "the job began"
        )
        playing = plays(plan)
        try:
            code = self.wait_started_again(scene.source)
            beside_ends = [(kind, of, running, running.wait(BACKUP_LIMIT_S)) for kind, of, running in beside]
        finally:
            playing.stop(early=True)
        self.calm()
        for kind, of, running, end in beside_ends:
            (self.judge_backup if kind == "backup" else self.judge_restore)(of, running, end)
        summary = self.judged(scene.running, code)
        if summary is None:
            summary = self.once_more()
        self.kept[summary["backup"]] = scene.source
        self.look(summary["backup"])
        print(f"round {number}: well after {time.monotonic() - began_s:.1f} s", flush=True)

    def start(self, source):
        """A backup; its name is that of its tree."""
        return self.scene.grid.backup(source, "--name", os.path.basename(source))

    def wait_started_again(self, source):
        """The end of the backup; one that is killed is started again, and goes on with its job."""
        code = self.scene.running.wait(BACKUP_LIMIT_S)
        if code == -signal.SIGKILL:
            job = self.scene.newest()
            self.scene.running = self.start(source)
            code = self.scene.running.wait(BACKUP_LIMIT_S)
            self.check_resumed(job, code)
        return code

    def check_resumed(self, job, code):
        """The same job, unless it was not begun yet, or its lease has run out meanwhile."""
        if code in (0, 3):
            print(f"  the client was killed in job {job}, job {self.scene.running.summary['job']} is whole")

    def beside(self):
        """At times an older tree is backed up again, or restored, at the same time."""
        if not self.kept or self.rng.random() < 0.4:
            return []
        number = self.rng.choice(sorted(self.kept))
        if self.rng.random() < 0.5:
            return [("backup", number, self.start(self.kept[number]))]
        self.target = os.path.join(self.scene.where, "beside")
        words = ("restore", str(number), "--to", self.target, "--json")
        return [("restore", number, self.scene.grid.start(*words))]

    def judge_backup(self, of, running, code):
        """It is whole, and so it can be restored later; or it says that it is not."""
        summary = self.judged(running, code)
        if summary is not None:
            self.kept[summary["backup"]] = self.kept[of]

    def judge_restore(self, of, running, code):
        """With everything breaking round it a restore brings back what was there, or says that it has not."""
        errors = "".join(running.errors)
        assert "Traceback" not in errors, errors
        print(f"  restore beside: exit {code} {errors.strip().splitlines()[-1:]}")
        source = self.kept[of]
        found = os.path.join(self.target, source.lstrip("/"))
        if code == 0:
            wrong = list(differences(os.fsencode(source), os.fsencode(found)))
            assert not wrong, "\n".join(wrong[:20])
        shutil.rmtree(self.target, ignore_errors=True)

    def judged(self, running, code):
        """The summary of a backup that says that it is whole; None for one that says that it is not."""
        errors = "".join(running.errors)
        assert "Traceback" not in errors, errors
        # One agent and one medium are whole, and the manager comes back: only a beginning may be refused.
        assert code in (0, 3, 5), f"exit {code}: {errors[-3000:]}"
        if code == 5:
            print(f"  not whole: exit {code}: {errors.strip().splitlines()[-1:]}")
            return None
        summary = running.summary
        print(f"  {summary['state']}, failovers {json.dumps([e['cause'] for e in summary['failovers']])}")
        assert summary["state"] in {"complete", "warnings"}, summary
        return summary

    def once_more(self):
        """With everything mended the same backup must be whole."""
        self.scene.running = running = self.start(self.scene.source)
        summary = self.judged(running, running.wait(BACKUP_LIMIT_S))
        assert summary is not None, "a backup fails though nothing is broken"
        assert summary["failovers"] == [], "a failover though nothing is broken"
        return summary

    def calm(self):
        """Everything is mended: all parts are there, and no other process."""
        grid = self.scene.grid
        grid.up()
        self.scene.await_media()
        grid.wait(
            lambda: all(agent["state"] == "up" for agent in grid.json("status")["agents"]),
            "all agents are up again",
        )

    def look(self, backup):
        """The newest backup, and an older one, are what their trees are; nothing is left over."""
        scene = self.scene
        for number in {backup, self.rng.choice(sorted(self.kept))}:
            scene.source = self.kept[number]
            scene.check_restore(number)
            scene.forget_restored()
        scene.check_catalog()
        self.census.check(scene.media)
        while len(self.kept) > KEPT:
            source = self.kept.pop(min(self.kept))
            if source not in self.kept.values():
                scene.remove_tree(source)

    def end(self):
        """Every byte of every copy is right; every tree comes back; nothing temporary is left."""
        scene = self.scene
        scene.check_data()
        for number, source in self.kept.items():
            scene.source = source
            scene.check_restore(number)
            scene.forget_restored()
        self.census.check_files(scene)
