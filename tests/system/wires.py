"""A host of its own for an agent: a network namespace, and a link that fails both ways or one."""

import os
import re

from unusual import run

NOBODY = "02:00:00:00:00:01"
"""A hardware address that nobody has: what is sent to it is lost, and nobody is told."""
HOW = ("both", "towards", "from")


class Wire:
    """A network namespace, and the one pair of interfaces that joins it to this host.

    Attributes:
        name: of the namespace.
        host, guest: the addresses at its two ends.
    """

    def __init__(self, number=None):
        number = (os.getpid() if number is None else number) % (1 << 14)
        self.name, self.here, self.there = f"staddle{number}", f"stdla{number}", f"stdlb{number}"
        net = f"10.{231 + (number >> 12)}.{(number >> 4) & 255}"
        self.host, self.guest = (f"{net}.{((number & 15) << 4) + n}" for n in (1, 2))

    def __enter__(self):
        run("ip", "netns", "add", self.name)
        try:
            run(
                *("ip", "link", "add", self.here, "type", "veth"),
                *("peer", "name", self.there, "netns", self.name),
            )
            run("ip", "addr", "add", f"{self.host}/30", "dev", self.here)
            run("ip", "link", "set", self.here, "up")
            self.inside("ip", "addr", "add", f"{self.guest}/30", "dev", self.there)
            self.inside("ip", "link", "set", self.there, "up")
            self.inside("ip", "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        run("ip", "link", "delete", self.here, check=False)
        run("ip", "netns", "delete", self.name, check=False)

    def inside(self, *words):
        """Run a command within the namespace."""
        return run("ip", "netns", "exec", self.name, *words)

    def cut(self, how):
        """`both`; `towards`: the agent hears nothing; `from`: nobody hears the agent."""
        if how == "both":
            self.inside("ip", "link", "set", self.there, "down")
        elif how == "towards":
            run("ip", "neigh", "replace", self.guest, "lladdr", NOBODY, "dev", self.here, "nud", "permanent")
        else:
            words = ("replace", self.host, "lladdr", NOBODY, "dev", self.there, "nud", "permanent")
            self.inside("ip", "neigh", *words)

    def mend(self, how):
        """The opposite of `cut`."""
        if how == "both":
            self.inside("ip", "link", "set", self.there, "up")
        elif how == "towards":
            run("ip", "neigh", "delete", self.guest, "dev", self.here)
        else:
            self.inside("ip", "neigh", "delete", self.host, "dev", self.there)

    def edit(self, text, agent):
        """A configuration in which manager and agent listen at the two ends."""
        for section, address in (("manager", self.host), (f"agent.{agent}", self.guest)):
            pattern = rf'(?m)^(\[{re.escape(section)}\]\nlisten = "tcp://)127\.0\.0\.1:'
            text, count = re.subn(pattern, rf"\g<1>{address}:", text)
            assert count == 1, f"no [{section}] with `listen` in:\n{text}"
        return text


def deep(where):
    """A directory too deep for local sockets: everything in it goes over tcp and TLS."""
    found = os.path.join(where, "long" * 25)
    os.makedirs(found, exist_ok=True)
    return found
