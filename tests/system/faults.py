"""The faults of the nemesis: each breaks one part of a running grid, and mends it again.

A fault has a `part`, so that no two of one round break the same; `heal` is safe whatever became of `begin`.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time

from staddle.daemon import runfiles
from staddle.errors import StaddleError
from staddle.platform import process

HOLD_S = 0.05
GONE_LIMIT_S = 30.0


class Fault:
    """One fault. `part`: what it breaks. `bites`: may a job fail over or be cut off for it."""

    kind = "medium"

    def __init__(self, scene, rng, part):
        self.scene, self.grid, self.rng, self.part = scene, scene.grid, rng, part

    def __repr__(self):
        return f"{type(self).__name__}({self.part})"

    def begin(self):
        raise NotImplementedError

    def heal(self):
        raise NotImplementedError


# --- processes ----------------------------------------------------------------------------------


def await_gone(part, pids):
    """Until none of the processes is left: those that were not killed have to end by themselves."""
    end = time.monotonic() + GONE_LIMIT_S
    while any(process.alive(pid) for pid in pids):
        assert time.monotonic() < end, f"{part}: of {pids} some do not end by themselves"
        time.sleep(HOLD_S)


class AgentKilled(Fault):
    """kill -9 of both processes of an agent."""

    kind = "agent"

    def begin(self):
        self.pids = self.grid.pids(f"agent-{self.part}")
        for pid in self.victims():
            process.kill(pid)

    def victims(self):
        return self.pids

    def heal(self):
        await_gone(self.part, self.pids)
        self.grid.up()


class AgentDataKilled(AgentKilled):
    """kill -9 of the process that moves the data; its parent has to end, too."""

    def victims(self):
        return [pid for pid in self.pids if pid != control_of(self.grid, self.part)]


class AgentControlKilled(AgentKilled):
    """kill -9 of the process that keeps the other one, which has to end by itself."""

    def victims(self):
        return [control_of(self.grid, self.part)]


def control_of(grid, agent):
    return runfiles.running(grid.home, f"agent-{agent}").pid


class AgentStopped(Fault):
    """An agent that is silent, and wakes up later."""

    kind = "agent"

    def begin(self):
        self.grid.stop(f"agent-{self.part}")

    def heal(self):
        self.grid.resume(f"agent-{self.part}")


class ManagerKilled(Fault):
    """kill -9 of the manager and its catalog process."""

    kind = "manager"

    def begin(self):
        self.pids = self.grid.pids("manager")
        self.grid.kill("manager")

    def heal(self):
        await_gone("manager", self.pids)
        self.grid.up()


class ManagerStopped(Fault):
    """A manager that is silent, and wakes up later."""

    kind = "manager"

    def begin(self):
        self.grid.stop("manager")

    def heal(self):
        self.grid.resume("manager")


class ClientKilled(Fault):
    """kill -9 of the client; whoever waits for it starts it again."""

    kind = "client"

    def begin(self):
        self.scene.running.process.kill()

    def heal(self):
        return


# --- media --------------------------------------------------------------------------------------


class Ruled(Fault):
    """Faults by the medium's fault file."""

    rules = ()

    def begin(self):
        self.grid.fault(self.part, *self.rules)

    def heal(self):
        self.grid.fault(self.part)


class MediumIoErrors(Ruled):
    rules = ({"error": "io"},)


class MediumWriteErrors(Ruled):
    rules = ({"op": "put", "error": "io"},)


class MediumFlaky(Ruled):
    """Every third call or so fails."""

    def begin(self):
        self.grid.fault(self.part, {"error": "io", "probability": 0.3, "seed": self.rng.getrandbits(31)})


class MediumFull(Ruled):
    rules = ({"op": "put", "error": "full"},)


class MediumInDoubt(Ruled):
    """Puts are done, and nobody is told."""

    rules = ({"op": "put", "error": "in_doubt"},)


class MediumHangs(Ruled):
    rules = ({"op": "put", "error": "hang"},)


class MediumSlow(Ruled):
    """Every call takes longer than its deadline."""

    def begin(self):
        self.grid.fault(self.part, {"op": "put", "delay_s": self.scene.deadline_s + 1.5})


class MediumReadsCorrupt(Ruled):
    """Reading says that it is damaged, every other time."""

    def begin(self):
        rule = {"op": "get", "error": "io", "probability": 0.5, "seed": self.rng.getrandbits(31)}
        self.grid.fault(self.part, rule)


class DirFsyncFails(Ruled):
    """The directory's fsync fails after the object has got its name."""

    rules = ({"op": "put", "error": "fsync"},)


class MediumGone(Fault):
    """Its directory has another name."""

    def begin(self):
        self.grid.take_away(self.part)

    def heal(self):
        with contextlib.suppress(KeyError):
            self.grid.bring_back(self.part)


class MediumReplaced(Fault):
    """Another volume of the same grid is at its path: its label is wrong, all else looks fine."""

    def begin(self):
        self.path = self.grid.medium_path(self.part)
        other = next(name for name in self.scene.media if name != self.part)
        label = os.path.join(self.grid.medium_path(other), "staddle-volume.txt")
        os.rename(self.path, self.path + ".gone")
        os.makedirs(os.path.join(self.path, "tmp"))
        shutil.copy(label, self.path)

    def heal(self):
        found = [name for top, _, names in os.walk(self.path) for name in names]
        assert found == ["staddle-volume.txt"], f"a volume of another label was written to: {found}"
        shutil.rmtree(self.path)
        os.rename(self.path + ".gone", self.path)


class MediumReadOnly(Fault):
    """Nothing can be written below its root (chattr +i; an ordinary user: no right to write)."""

    def begin(self):
        self.path = self.grid.medium_path(self.part)
        self.parts = [self.path, *(os.path.join(self.path, name) for name in ("tmp", "c", "m"))]
        self.parts = [path for path in self.parts if os.path.isdir(path)]
        if os.geteuid() == 0:
            subprocess.run(["chattr", "+i", *self.parts], check=True, timeout=30)
        else:
            for path in self.parts:
                os.chmod(path, 0o500)

    def heal(self):
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", *self.parts], check=False, timeout=30)
        else:
            for path in self.parts:
                os.chmod(path, 0o700)


class Damage(Fault):
    """Objects of one medium that have a copy elsewhere are damaged where they lie; `heal` mends them.

    Only such objects: what has its one copy there would be lost, as anybody expects.
    """

    count = 3

    def begin(self):
        self.kept = {}
        for path in self.chosen():
            with open(path, "rb") as file:
                data = file.read()
            self.kept[path] = data
            self.hurt(path, data)

    def chosen(self):
        rows = self.scene.sql(
            "SELECT c.name FROM v_copies c WHERE c.medium_state = 'up' "
            "AND c.kind IN ('container', 'manifest') "
            f"AND c.medium = '{self.part}' AND (SELECT count(DISTINCT o.failure_domain) "
            "FROM v_copies o WHERE o.object = c.object AND o.medium_state = 'up') >= 2 ORDER BY c.name"
        )
        names = [row[0] for row in rows]
        root = self.grid.medium_path(self.part)
        return [os.path.join(root, name) for name in self.rng.sample(names, min(self.count, len(names)))]

    def hurt(self, path, data):
        raise NotImplementedError

    def heal(self):
        for path, data in self.kept.items():
            if os.path.exists(path):  # a repair may have taken the bad copy away
                with open(path, "wb") as file:
                    file.write(data)


class MediumCorrupted(Damage):
    """Some bytes of stored objects are others."""

    def hurt(self, path, data):
        with open(path, "r+b") as file:
            for _ in range(3):
                at = self.rng.randrange(len(data))
                file.seek(at)
                file.write(bytes([data[at] ^ (1 << self.rng.randrange(8))]))


class MediumTruncated(Damage):
    """Stored objects are shorter."""

    def hurt(self, path, data):
        os.truncate(path, self.rng.randrange(len(data)))


# --- the plan of a round ------------------------------------------------------------------------

AGENT_FAULTS = (AgentKilled, AgentDataKilled, AgentControlKilled, AgentStopped)
MANAGER_FAULTS = (ManagerKilled, ManagerStopped)
MEDIUM_FAULTS = (
    *(MediumIoErrors, MediumWriteErrors, MediumFlaky, MediumFull, MediumInDoubt, MediumHangs, MediumSlow),
    *(MediumReadsCorrupt, DirFsyncFails, MediumGone, MediumReplaced, MediumReadOnly),
)
DAMAGES = (MediumCorrupted, MediumTruncated)


class Plan:
    """Two to four faults at random moments of `span_s` seconds; one agent and one medium stay whole."""

    def __init__(self, scene, rng, span_s=4.0):
        self.rng, self.span_s = rng, span_s
        agents, media = rng.sample(scene.agents, 2), rng.sample(scene.media, 2)
        spare = media.pop()
        choices = [(AGENT_FAULTS, agents.pop()), (MEDIUM_FAULTS, media.pop())]
        choices += [(MANAGER_FAULTS, "manager"), (AGENT_FAULTS, agents.pop()), ((ClientKilled,), "client")]
        choices.append((DAMAGES if rng.random() < 0.4 else MEDIUM_FAULTS, spare))
        rng.shuffle(choices)
        self.faults = []
        for kinds, part in choices[: rng.choice((2, 2, 3, 4))]:
            begin_s = rng.uniform(0.0, span_s)
            self.faults.append(
                (begin_s, begin_s + rng.uniform(0.3, 6.0), rng.choice(kinds)(scene, rng, part))
            )

    def __str__(self):
        return "; ".join(f"{fault!r} {begin:.1f}-{end:.1f} s" for begin, end, fault in self.faults)

    def play(self, over):
        """Break and mend by the plan. `over`: an event that ends it early; what is broken is mended then."""
        events = [(at, 0, n) for n, (at, _, _) in enumerate(self.faults)]
        events += [(at, 1, n) for n, (_, at, _) in enumerate(self.faults)]
        began_s, done = time.monotonic(), set()
        try:
            for at_s, mends, number in sorted(events):
                fault = self.faults[number][2]
                if mends and number in done:
                    over.wait(max(0.0, began_s + at_s - time.monotonic()))
                    done.discard(number)
                    fault.heal()
                elif not mends and not over.wait(max(0.0, began_s + at_s - time.monotonic())):
                    try:
                        fault.begin()
                    except (StaddleError, AttributeError, OSError, subprocess.SubprocessError) as error:
                        # Another fault has taken away what this one needs, or this host refuses it.
                        print(f"{fault!r} could not begin: {error}", file=sys.stderr)
                        continue
                    done.add(number)
        finally:
            for number in sorted(done):
                self.faults[number][2].heal()


def plays(plan):
    """Play a plan beside the test; `stop` ends it, and raises what went wrong in it."""
    return _Playing(plan)


class _Playing:
    def __init__(self, plan):
        self._over = threading.Event()
        self._error = None
        self._thread = threading.Thread(target=self._run, args=(plan,), name="nemesis")
        self._thread.start()

    def _run(self, plan):
        try:
            plan.play(self._over)
        except BaseException as error:  # noqa: BLE001 - raised again by `stop`
            self._error = error

    def stop(self, *, early):
        """Wait for the end of the plan, or end it now."""
        if early:
            self._over.set()
        self._thread.join(300.0)
        assert not self._thread.is_alive(), "a fault does not end"
        if self._error is not None:
            raise self._error
