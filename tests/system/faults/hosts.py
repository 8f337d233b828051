"""What happens to hosts: cut off, without room on the disk of their state, with a wrong wall clock."""

import time

from wires import HOW

from staddle.platform import process

from .base import Fault

YEAR_S = 366 * 86400
ENDS_WITHIN_S = 4.0
"""A manager that could not write its log ends so soon, or had not to write."""
SWING_S = (0.2, 1.5)


class HostCutOff(Fault):
    """An agent's host: nothing comes through, or nothing towards it, or nothing from it."""

    weight = 5
    how = ""

    @classmethod
    def possible(cls, scene, part):
        return scene.ground is not None and scene.ground.far == part

    def __repr__(self):
        return f"{type(self).__name__}({self.part} {self.planned})"

    def __init__(self, scene, rng, part):
        super().__init__(scene, rng, part)
        self.planned = rng.choice(HOW)

    def begin(self):
        self.scene.ground.wire.cut(self.planned)
        self.how = self.planned

    def heal(self):
        if self.how:
            self.scene.ground.wire.mend(self.how)


class StateDiskFull(Fault):
    """No room where `part` keeps its state."""

    begun = False

    @classmethod
    def possible(cls, scene, part):
        return scene.ground is not None and part in scene.ground.states

    @property
    def disk(self):
        return self.scene.ground.states[self.part]

    def begin(self):
        self.disk.fill(self.rng.choice((0, self.rng.randrange(64 << 10))))
        self.begun = True

    def heal(self):
        if self.begun:
            self.disk.empty()


class AgentDiskFull(StateDiskFull):
    """Of an agent: its index."""

    weight = 4


class ManagerDiskFull(StateDiskFull):
    """Of the manager: its log and the catalog. It ends rather than acknowledge what is not durable."""

    weight = 2

    pids = ()

    def ends(self):
        return {"manager"}

    def begin(self):
        self.pids = self.grid.pids("manager")
        super().begin()

    def heal(self):
        super().heal()
        end = time.monotonic() + ENDS_WITHIN_S
        while any(process.alive(pid) for pid in self.pids) and time.monotonic() < end:
            time.sleep(0.1)
        self.grid.run("up", check=False)


class ClientDiskFull(StateDiskFull):
    """Of the client: what it needs to go on after it was killed."""


class ClockJumps(Fault):
    """All wall clocks are wrong by a year."""

    @classmethod
    def possible(cls, scene, part):
        return scene.ground is not None

    def begin(self):
        self.scene.ground.cages.set_clock(self.rng.choice((YEAR_S, -YEAR_S)))

    def heal(self):
        self.scene.ground.cages.set_clock(0)


class ClockSwings(ClockJumps):
    """A year forward, and before anybody has got used to it two years back."""

    def begin(self):
        cages = self.scene.ground.cages
        cages.set_clock(YEAR_S)
        time.sleep(self.rng.uniform(*SWING_S))
        cages.set_clock(-YEAR_S)
