"""The PATHs of a backup in the order in which a walk comes to them: both are gone through together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from staddle.client.sorting import Sorter

_ESCAPED = re.compile(rb"\x02([\x01\x02])|\x01")


class WalkOrder:
    """Paths, each once: a directory, then what is below it, its entries by name as bytes. Bounded memory.

    First `add`, then iterate, as often as wanted.
    """

    def __init__(self, paths: Iterable[bytes] = ()) -> None:
        """Args: paths: absolute, to begin with."""
        self._sorter = Sorter(map(_encoded, paths))

    def add(self, path: bytes) -> None:
        """Take one more. Before the first iteration only."""
        self._sorter.add(_encoded(path))

    def __iter__(self) -> Iterator[bytes]:
        return map(_decoded, self._sorter)


class Ahead:
    """The PATHs that a walk has not come to yet.

    Attributes:
        path: the next one; None after the last.
    """

    def __init__(self, paths: Iterable[bytes]) -> None:
        """Args: paths: in the order of the walk."""
        self._rest = iter(paths)
        self.path = next(self._rest, None)

    def advance(self) -> None:
        """The walk has come to the next one."""
        self.path = next(self._rest, None)

    def name_in(self, directory: bytes) -> bytes:
        """The name in a directory that is the next PATH, or leads to it; empty if it is not below there."""
        if self.path is None:
            return b""
        begin = len(directory) + (not directory.endswith(b"/"))
        if not self.path.startswith(directory) or self.path[begin - 1 : begin] != b"/":
            return b""
        end = self.path.find(b"/", begin)
        return self.path[begin:] if end < 0 else self.path[begin:end]

    def skip(self, directory: bytes) -> Iterator[bytes]:
        """Those below a directory, which the walk will not come to."""
        while self.path is not None and self.name_in(directory):
            yield self.path
            self.advance()


def reduce_roots(paths: Iterable[bytes]) -> Iterator[bytes]:
    """Of sorted paths those that lie inside none of the others."""
    above: list[bytes] = []  # those given out that a path to come may lie in, each a prefix of the next
    for path in paths:
        while above and not path.startswith(above[-1]):
            above.pop()
        if not any(path == top or path.startswith(top.rstrip(b"/") + b"/") for top in above):
            above.append(path)
            yield path


def _encoded(path: bytes) -> bytes:
    """The same path so that bytes sort as a walk goes: `/` comes before whatever may stand in a name."""
    if b"\x01" in path or b"\x02" in path:
        path = path.replace(b"\x02", b"\x02\x02").replace(b"\x01", b"\x02\x01")
    return path.replace(b"/", b"\x01")


def _decoded(key: bytes) -> bytes:
    if b"\x02" in key:
        return _ESCAPED.sub(lambda found: found[1] or b"/", key)
    return key.replace(b"\x01", b"/")
