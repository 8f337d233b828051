"""The nemesis: rounds of several faults at random moments, and whatever was acknowledged is there after each.

STADDLE_NEMESIS_ROUNDS=10 STADDLE_SEED=1 python -m pytest tests/system/nemesis
"""

import collections
import json
import os
import random
import shutil
import signal
import time

from faults import ClientFewFiles, Plan, Playing
from ground import Ground
from leaks import Census
from scene import Scene, ask

from staddle.demo.compare import differences
from staddle.wire.ops.admin import STATUS, Status

ROUNDS = int(os.environ.get("STADDLE_NEMESIS_ROUNDS") or 2)
TWICE = 2
"""A round counts if so many faults had begun before its backup ended."""
BACKUP_LIMIT_S = 240.0
CALM_LIMIT_S = 120.0
KEPT = 6
"""Backups of which trees are kept, to be restored again after later rounds."""


def test_whatever_breaks_nothing_acknowledged_is_lost(tmp_path, seed):
    settings = {"size_bytes": 24 << 20, "rate": 7 << 20, "deadline_s": 10.0, "wait_s": 60}
    with Ground(tmp_path, seed) as ground:
        print(f"on this ground: {ground}", flush=True)
        scene = Scene(ground.where, seed, ground=ground, **settings)
        ground.carry(scene)
        with scene:
            Nemesis(scene, random.Random(seed)).play(ROUNDS)


class Nemesis:
    """Rounds on one grid."""

    def __init__(self, scene, rng):
        self.scene, self.rng = scene, rng
        self.census = Census(scene)
        self.kept = {}
        self.played = collections.Counter()

    def play(self, rounds):
        """So many rounds that count, and the end."""
        counted = 0
        for number in range(1, 2 * rounds + 1):
            begun = self.round(number)
            self.played.update(type(fault).__name__ for fault in begun)
            counted += len(begun) >= TWICE
            if counted == rounds:
                break
        self.end()
        print(f"rounds with {TWICE} faults or more: {counted}; faults: {json.dumps(self.played)}", flush=True)

    def round(self, number):
        """Break, back up, mend, look; the faults that had begun."""
        scene, began_s = self.scene, time.monotonic()
        plan = Plan(scene, random.Random(self.rng.getrandbits(64)))
        print(f"round {number}: {plan}", flush=True)
        scene.new_tree(f"tree-{number}")
        pids, before = self.pids(), scene.newest()
        scene.running = self.start(scene.source)
        beside = self.beside()
        scene.grid.wait(
            lambda: scene.newest() > before or scene.running.process.poll() is not None, "the job began"
        )
        playing = Playing(plan)
        try:
            code = self.wait_started_again(scene.source)
            for each in beside:
                each.code = each.running.wait(BACKUP_LIMIT_S)
        finally:
            playing.stop()
        self.calm(plan)
        self.check_nobody_else_died(pids, plan)
        for each in beside:
            each.judge(each)
        summary = self.judged(scene.running, code, plan)
        if summary is None:
            summary = self.once_more()
        self.kept[summary["backup"]] = scene.source
        self.look(summary["backup"])
        print(f"round {number}: well after {time.monotonic() - began_s:.1f} s", flush=True)
        return plan.begun

    def pids(self):
        """The processes of each part."""
        return {part: frozenset(pids) for part, pids in self.scene.pids()}

    def check_nobody_else_died(self, before, plan):
        """Every part runs that was not killed, and in the same processes: nobody dies of another's fault."""
        changed = {part for part, pids in self.pids().items() if pids != before[part]}
        assert changed <= plan.may_end(), f"{changed - plan.may_end()} ended, and nobody had killed them"

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
        """At times somebody else backs up the same tree or an older one, or restores an older one."""
        kind = self.rng.choice(("nobody", "nobody", "twin", "older", "restore"))
        if kind == "twin":
            return [Beside(self.scene.source, self.start(self.scene.source), self.judge_backup)]
        if kind == "nobody" or not self.kept:
            return []
        number = self.rng.choice(sorted(self.kept))
        if kind == "older":
            return [Beside(self.kept[number], self.start(self.kept[number]), self.judge_backup)]
        self.target = os.path.join(self.scene.where, "beside")
        running = self.scene.grid.start("restore", str(number), "--to", self.target, "--json")
        return [Beside(self.kept[number], running, self.judge_restore)]

    def judge_backup(self, beside):
        """It is whole, and so it can be restored later; or it says that it is not."""
        print("  beside:", end="")
        summary = self.judged(beside.running, beside.code)
        if summary is not None:
            self.kept[summary["backup"]] = beside.source

    def judge_restore(self, beside):
        """With everything breaking round it a restore brings back what was there, or says that it has not."""
        errors = "".join(beside.running.errors)
        assert "Traceback" not in errors, errors
        print(f"  restore beside: exit {beside.code} {errors.strip().splitlines()[-1:]}")
        found = os.path.join(self.target, beside.source.lstrip("/"))
        if beside.code == 0:
            wrong = list(differences(os.fsencode(beside.source), os.fsencode(found)))
            assert not wrong, "\n".join(wrong[:20])
        shutil.rmtree(self.target, ignore_errors=True)

    def judged(self, running, code, plan=None):
        """The summary of a backup that says that it is whole; None for one that says that it is not."""
        errors = "".join(running.errors)
        assert "Traceback" not in errors, errors
        if self.could_not_open(running, plan):
            return None
        # One agent and one medium are whole, and the manager comes back: only a beginning may be refused.
        assert code in (0, 3, 5), f"exit {code}: {errors[-3000:]} {running.lines[-3:]}"
        if code == 5:
            print(f"  not whole: exit {code}: {errors.strip().splitlines()[-1:]}")
            return None
        summary = running.summary
        print(f"  {summary['state']}, failovers {json.dumps([e['cause'] for e in summary['failovers']])}")
        assert summary["state"] in {"complete", "warnings"}, summary
        return summary

    def could_not_open(self, running, plan):
        """Whether a client without descriptors has said so: of files, or altogether."""
        told = [line for line in running.lines if line.get("message_type") == "warning"]
        few = plan is not None and any(isinstance(fault, ClientFewFiles) for fault in plan.begun)
        if not few:
            assert not told, f"files could not be read, and nothing keeps anybody from it: {told[:5]}"
            return False
        said = [
            line for line in ("".join(running.errors), *map(json.dumps, told)) if "open files" in line.lower()
        ]
        assert len(told) == len([line for line in said if line.startswith("{")]), told[:5]
        print(f"  without descriptors: {len(told)} files not read, {said[:1]}")
        return bool(said)

    def once_more(self):
        """With everything mended the same backup must be whole."""
        self.scene.running = running = self.start(self.scene.source)
        summary = self.judged(running, running.wait(BACKUP_LIMIT_S))
        assert summary is not None, "a backup fails though nothing is broken"
        assert summary["failovers"] == [], "a failover though nothing is broken"
        return summary

    def calm(self, plan):
        """Everything is mended: all parts are there, and no other process."""

        def mended():
            if self.is_whole():
                # A catalog that was killed is there again once somebody has asked for it.
                return not hurt or bool(self.scene.sql("SELECT 1"))
            grid.up()  # once is not always enough: what was broken until now may still be ending
            return False

        hurt = any(fault.part == "manager" for fault in plan.begun)
        grid = self.scene.grid
        grid.up()
        grid.wait(mended, "everything is up again", CALM_LIMIT_S)

    def is_whole(self):
        """Manager, agents and media are up."""
        found = ask(self.scene.grid.home, STATUS, Status())
        return all(self.pids().values()) and all(each.state == "up" for each in (*found.agents, *found.media))

    def look(self, backup):
        """The newest backup, and an older one, are what their trees are; nothing is left over."""
        scene = self.scene
        for number in {backup, self.rng.choice(sorted(self.kept))}:
            scene.source = self.kept[number]
            scene.check_restore(number)
            scene.forget_restored()
        scene.check_catalog()
        self.census.check()
        scene.check_logs()
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


class Beside:
    """Another client's work: of a tree, in a process, and how it is judged once it has a `code`."""

    def __init__(self, source, running, judge):
        self.source, self.running, self.judge, self.code = source, running, judge, None
