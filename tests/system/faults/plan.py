"""Which faults a round has, and when each begins and ends."""

import random
import subprocess
import sys
import threading
import time

from staddle.errors import StaddleError

from . import hosts, media, processes

AGENT_FAULTS = (
    *(processes.AgentKilled, processes.AgentDataKilled, processes.AgentControlKilled),
    *(processes.AgentStopped, processes.AgentDataStopped, processes.AgentControlStopped),
    *(processes.AgentFewFiles, processes.AgentOutOfMemory, hosts.HostCutOff, hosts.AgentDiskFull),
)
MANAGER_FAULTS = (
    *(processes.ManagerKilled, processes.ManagerControlKilled, processes.CatalogKilled),
    *(processes.ManagerStopped, processes.CatalogStopped, processes.ManagerFewFiles, hosts.ManagerDiskFull),
)
CLIENT_FAULTS = (
    *(processes.ClientKilled, processes.ClientStopped, processes.ClientFewFiles, hosts.ClientDiskFull),
)
CLOCK_FAULTS = (hosts.ClockJumps, hosts.ClockSwings)
MEDIUM_FAULTS = (
    *(media.MediumIoErrors, media.MediumWriteErrors, media.MediumFlaky, media.MediumFull),
    *(media.MediumInDoubt, media.MediumHangs, media.MediumSlow, media.MediumReadsCorrupt),
    *(media.DirFsyncFails, media.MediumGone, media.MediumReplaced, media.MediumReadOnly),
    *(media.MediumDiskFull, media.MediumDiskReadOnly, media.MediumUnmounted),
)
DAMAGES = (media.MediumCorrupted, media.MediumTruncated)
FIRST_TWO_S = 1.2
"""The first two faults begin so soon: a backup takes longer."""
HEAL_LIMIT_S = 300.0


class Plan:
    """Two to four faults at random moments of `span_s` seconds; one agent and one medium stay whole.

    Attributes:
        begun: what has begun.
    """

    def __init__(self, scene, rng, span_s=4.0):
        agents, parts = rng.sample(scene.agents, 2), rng.sample(scene.media, 2)
        kinds = [(AGENT_FAULTS, agents[0]), (AGENT_FAULTS, agents[1]), (MANAGER_FAULTS, "manager")]
        kinds += [(CLIENT_FAULTS, "client"), (CLOCK_FAULTS, "clocks"), (MEDIUM_FAULTS, parts[0])]
        kinds.append((DAMAGES if rng.random() < 0.4 else MEDIUM_FAULTS, parts[1]))
        self.faults, self.begun = [], []
        for these, part in rng.sample(kinds, rng.choice((2, 2, 3, 4))):
            found = [kind for kind in these if kind.possible(scene, part)]
            if found:
                kind = rng.choices(found, [each.weight for each in found])[0]
                begin_s = rng.uniform(0.0, span_s if len(self.faults) > 1 else FIRST_TWO_S)
                fault = kind(scene, random.Random(rng.getrandbits(64)), part)
                self.faults.append((begin_s, begin_s + rng.uniform(0.3, 6.0), fault))

    def __str__(self):
        return "; ".join(f"{fault!r} {begin:.1f}-{end:.1f} s" for begin, end, fault in self.faults)

    def may_end(self):
        """Parts of the grid that may have ended by what has begun."""
        return set().union(*(fault.ends() for fault in self.begun))


class Mended(threading.Thread):
    """One fault, begun and mended in its time, whatever the others do."""

    def __init__(self, over, began_s, begin_s, end_s, fault):
        super().__init__(name=repr(fault), daemon=True)
        self._over, self._begin_s, self._end_s = over, began_s + begin_s, began_s + end_s
        self.fault, self.begun, self.error = fault, False, None

    def run(self):
        try:
            if self._over.wait(max(0.0, self._begin_s - time.monotonic())):
                return
            try:
                self._begin()
            finally:
                self._over.wait(max(0.0, self._end_s - time.monotonic()) if self.begun else 0.0)
                self.fault.heal()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for the plan
            self.error = error

    def _begin(self):
        try:
            self.fault.begin()
            self.begun = True
        except (StaddleError, AttributeError, OSError, subprocess.SubprocessError) as error:
            # Another fault has taken away what this one needs, or this host refuses it.
            print(f"{self.fault!r} could not begin: {error}", file=sys.stderr)


class Playing:
    """A plan that is played beside the test."""

    def __init__(self, plan):
        self._plan, self._over, began_s = plan, threading.Event(), time.monotonic()
        self._parts = [Mended(self._over, began_s, *each) for each in plan.faults]
        for each in self._parts:
            each.start()

    def stop(self):
        """End it now: what is broken is mended. Raises what went wrong in it."""
        self._over.set()
        end_s = time.monotonic() + HEAL_LIMIT_S
        for each in self._parts:
            each.join(max(0.0, end_s - time.monotonic()))
        late = [each.fault for each in self._parts if each.is_alive()]
        assert not late, f"{late} are not mended within {HEAL_LIMIT_S:g} s"
        self._plan.begun += [each.fault for each in self._parts if each.begun]
        if errors := [each.error for each in self._parts if each.error]:
            raise errors[0]
