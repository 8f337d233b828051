"""What a grid has to stand on so that the faults of the nemesis can hurt it: drawn by the seed.

The wall clock needs no rights. A host of its own for an agent, disks and control groups are left out, and
that is said, where they are not to be had.
"""

import os
import random
from contextlib import ExitStack

from cages import Cages
from unusual import Disk, memory_group, reason_against, run
from wires import Wire, deep

MEDIUM_BYTES = 2 << 30
STATE_BYTES = 512 << 20
CACHE_BYTES = 1 << 20
PAGE_BYTES = 4096
FAR_SHARE = 0.7
"""Of the grids, so many go over tcp and have an agent on a host of its own; the others use local sockets."""


class Ground:
    """The ground of one grid; its parts, where it has them.

    Attributes:
        where: directory for the scene.
        cages: of its processes, with the environment they need.
        far: the agent on a host of its own, at the end of `wire`; "" for none.
        disks: media that are file systems of their own, by name.
        states: disks of what agents, `manager` and `client` keep, by name.
        groups: memory of agents, by name.
    """

    def __init__(self, where, seed, agents=3):
        rng = random.Random(f"{seed} ground")
        names = [f"a{number}" for number in range(1, agents + 1)]
        self._stack = ExitStack()
        self._missing = {
            thing: reason for thing in ("netns", "mounts", "memory") if (reason := reason_against(thing))
        }
        if self._missing and os.environ.get("CI", "").lower() == "true":
            raise AssertionError(f"CI leaves nothing out, but here is missing: {self._missing}")
        self.far, self.wire = "", None
        if "netns" not in self._missing and rng.random() < FAR_SHARE:
            self.far = rng.choice(names)
        self.where = deep(where) if self.far else str(where)
        self.cages = Cages(self.where)
        self.disks, self.states, self.groups = {}, {}, {}
        self._limited = [] if "memory" in self._missing else [rng.choice(names)]
        mounts = "mounts" not in self._missing
        self._media = [rng.choice([f"m{number}" for number in range(1, agents + 1)])] if mounts else []
        self._states = [rng.choice(names), "manager", "client"] if mounts else []

    def __str__(self):
        parts = [f"far {self.far or '-'}", f"disks of {' '.join([*self._media, *self._states]) or '-'}"]
        parts.append(f"memory of {' '.join(self._limited) or '-'}")
        return "; ".join(parts + [f"no {thing}: {reason}" for thing, reason in self._missing.items()])

    def __enter__(self):
        with ExitStack() as stack:
            cage = {name: {} for name in (self.far, *self._limited) if name}
            if self.far:
                self.wire = stack.enter_context(Wire())
                cage[self.far]["netns"] = self.wire.name
            for name in self._limited:
                group = stack.enter_context(memory_group(f"staddle-nemesis-{os.getpid()}"))
                self.groups[name] = group
                cage[name]["group"] = group.path
            for name, settings in cage.items():
                self.cages.put(f"agent-{name}", **settings)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def edit(self, text):
        """The configuration of such a grid."""
        return self.wire.edit(text, self.far) if self.far else text

    def carry(self, scene):
        """Mount the disks of a grid that has not been started yet."""
        home = scene.grid.home
        self._paths = {name: scene.grid.medium_path(name) for name in self._media}
        for name in self._media:
            disk = Disk(os.path.join(self.where, "disks", name), MEDIUM_BYTES)
            self.disks[name] = self._stack.enter_context(disk)
            self.mount(name)
            self._stack.callback(run, "umount", "-l", self._paths[name], check=False)
        places = {"manager": "manager", "client": "run/backups"}
        for name in self._states:
            path = os.path.join(home, places.get(name, f"agents/{name}"))
            size_bytes = CACHE_BYTES if name == "client" else STATE_BYTES
            self.states[name] = self._stack.enter_context(Disk(path, size_bytes))
        if "client" in self.states:  # no disk is ever smaller than a page, however empty it is
            with open(os.path.join(self.states["client"].path, "filler"), "wb") as file:
                file.write(bytes(PAGE_BYTES))

    def mount(self, medium):
        """The disk of a medium is where it belongs."""
        run("mount", "--bind", self.disks[medium].path, self._paths[medium])

    def unmount(self, medium):
        """What had it open keeps it; whoever comes by its path finds an empty directory."""
        run("umount", "-l", self._paths[medium])
