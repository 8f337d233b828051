"""Processes that are killed, stand still, or have no descriptors or memory left."""

import sys
import time

from leaks import descriptors

from staddle.daemon import runfiles
from staddle.platform import process

from .base import Fault

POLL_S = 0.05
GONE_LIMIT_S = 60.0
LINUX = sys.platform == "linux"


def await_gone(part, pids):
    """Until none of the processes is left: those that were not killed have to end by themselves."""
    end = time.monotonic() + GONE_LIMIT_S
    while any(process.alive(pid) for pid in pids):
        assert time.monotonic() < end, f"{part}: of {pids} some do not end by themselves"
        time.sleep(POLL_S)


def head_of(grid, part):
    """The process that keeps the others of a part: an agent's control, the manager itself."""
    return runfiles.running(grid.home, part).pid


class OfDaemon(Fault):
    """Something happens to processes of `part`: an agent's name, or `manager`."""

    @property
    def daemon(self):
        return self.part if self.part == "manager" else f"agent-{self.part}"

    def victims(self):
        """Of `self.pids` those that it happens to."""
        return self.pids

    def head(self):
        return [pid for pid in self.pids if pid == head_of(self.grid, self.daemon)]

    def others(self):
        """An agent's data process, the manager's catalog."""
        return [pid for pid in self.pids if pid != head_of(self.grid, self.daemon)]


class Killed(OfDaemon):
    """kill -9 of some processes of a part; the rest of it has to end by itself."""

    pids = ()

    def ends(self):
        return {self.daemon}

    def begin(self):
        self.pids = self.grid.pids(self.daemon)
        for pid in self.victims():
            process.kill(pid)

    def heal(self):
        await_gone(self.part, self.pids)
        # What else is broken now may keep other parts from starting: they are looked at when all is mended.
        self.grid.run("up", check=False)


class AgentKilled(Killed):
    """Both processes of an agent."""


class AgentDataKilled(Killed):
    """The process that moves the data."""

    def victims(self):
        return self.others()


class AgentControlKilled(Killed):
    """The process that keeps the other one."""

    def victims(self):
        return self.head()


class ManagerKilled(Killed):
    """The manager and its catalog process."""


class ManagerControlKilled(Killed):
    """The manager, not its catalog process."""

    def victims(self):
        return self.head()


class CatalogKilled(Killed):
    """The catalog process; the manager starts another one."""

    killed = ()

    def victims(self):
        self.killed = self.others()
        return self.killed

    def heal(self):
        await_gone(self.part, self.killed)
        left = set(self.pids) - set(self.killed)
        assert all(process.alive(pid) for pid in left), "the manager has died with its catalog"


class Stopped(OfDaemon):
    """Processes of a part are silent, and wake up later."""

    stopped = ()

    def begin(self):
        self.pids = self.grid.pids(self.daemon)
        self.stopped = self.victims()
        for pid in self.stopped:
            process.suspend(pid)

    def heal(self):
        for pid in self.stopped:
            process.resume(pid)


class AgentStopped(Stopped):
    """A whole agent."""


class AgentDataStopped(Stopped):
    """The process that moves the data; the other one goes on to report that all is well."""

    def victims(self):
        return self.others()


class AgentControlStopped(Stopped):
    """The process that reports; the data still flow."""

    def victims(self):
        return self.head()


class ManagerStopped(Stopped):
    """The manager and its catalog process."""


class CatalogStopped(Stopped):
    """The catalog process alone."""

    def victims(self):
        return self.others()


class Limited:
    """The limit of open files of running processes comes down to what they have, or little more."""

    def __init__(self, rng):
        self._rng = rng
        self._before = {}

    def set(self, pids):
        import resource

        for pid in pids:
            count = len(descriptors(pid)) + self._rng.randrange(4)
            # What it was started with, and not what we have: it may have raised it.
            hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
            self._before[pid] = resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(count, hard), hard))

    def unset(self, pids):
        import resource

        if not self._before:
            return
        usual = next(iter(self._before.values()))
        for pid in {*pids, *self._before}:
            try:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, self._before.get(pid, usual))
            except ProcessLookupError:
                continue


class FewFiles(OfDaemon):
    """No process of a part can open anything more."""

    limited = None

    @classmethod
    def possible(cls, scene, part):
        return LINUX

    def begin(self):
        self.limited = Limited(self.rng)
        self.limited.set(self.grid.pids(self.daemon))

    def heal(self):
        if self.limited is not None:
            run = runfiles.running(self.grid.home, self.daemon)
            self.limited.unset({run.pid, *run.pids} if run is not None else ())


class AgentFewFiles(FewFiles):
    """Of an agent."""


class ManagerFewFiles(FewFiles):
    """Of the manager and its catalog process."""


class AgentOutOfMemory(OfDaemon):
    """An agent's control group may have hardly more memory than it has: whoever wants it is killed."""

    weight = 4
    pids = ()

    @classmethod
    def possible(cls, scene, part):
        return scene.ground is not None and part in scene.ground.groups

    def ends(self):
        return {self.daemon}

    def begin(self):
        group = self.scene.ground.groups[self.part]
        self.before = group.kills()
        self.pids = self.grid.pids(self.daemon)
        group.limit(group.used_bytes() + self.rng.randrange(6 << 20))

    def heal(self):
        group = self.scene.ground.groups[self.part]
        group.unlimit()
        if not self.pids:
            return
        time.sleep(2 * POLL_S)  # one that the kernel has chosen already
        if group.kills() > self.before:
            print(f"  {self!r}: {group.kills() - self.before} were killed by the kernel")
            await_gone(self.part, self.pids)
        self.grid.run("up", check=False)


class ClientKilled(Fault):
    """kill -9 of the client; whoever waits for it starts it again."""

    def begin(self):
        self.scene.running.process.kill()

    def heal(self):
        return


class ClientStopped(Fault):
    """The client stands still for a while."""

    child = None

    def begin(self):
        child = self.scene.running.process
        if child.poll() is not None:
            raise OSError("the client has ended already")
        process.suspend(child.pid)
        self.child = child

    def heal(self):
        if self.child is not None and self.child.poll() is None:
            process.resume(self.child.pid)


class ClientFewFiles(Fault):
    """The client can open nothing more: what it can't read it has to name."""

    limited = None

    @classmethod
    def possible(cls, scene, part):
        return LINUX

    def begin(self):
        self.child = self.scene.running.process
        limited = Limited(self.rng)
        limited.set([self.child.pid])
        self.limited = limited

    def heal(self):
        if self.limited is not None:
            self.limited.unset([self.child.pid])
