"""Exclude patterns: which paths a scan leaves out.

A pattern without `/` is matched against the last name of a path, one with `/` against the whole path or any
of its ends that begin after a `/`. `*` and `?` do not cross `/`, `**` does. Matching is on bytes, so names
that are not UTF-8 are matched as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from staddle.errors import UsageError


def _translate(pattern: bytes) -> bytes:
    """A glob pattern as a regular expression over bytes."""
    out, i = [], 0
    while i < len(pattern):
        char = pattern[i : i + 1]
        if pattern[i : i + 2] == b"**":
            out.append(b".*")
            i += 2
            continue
        if char == b"*":
            out.append(b"[^/]*")
        elif char == b"?":
            out.append(b"[^/]")
        elif char == b"[":
            end = pattern.find(b"]", i + 2)
            if end < 0:
                raise UsageError(
                    f"exclude pattern {os.fsdecode(pattern)!r} has '[' without ']'",
                    hint="write \\[ for a bracket that stands for itself",
                )
            out.append(_char_class(pattern[i + 1 : end], pattern))
            i = end
        elif char == b"\\" and i + 1 < len(pattern):
            i += 1
            out.append(re.escape(pattern[i : i + 1]))
        else:
            out.append(re.escape(char))
        i += 1
    return b"".join(out)


def _char_class(body: bytes, pattern: bytes) -> bytes:
    """What stands between brackets: characters and ranges, each written as a number for `re`.

    Raises UsageError for a range that runs backwards.
    """
    negate = body[:1] in {b"!", b"^"}
    out, i = [], int(negate)
    while i < len(body):
        low = high = body[i]
        i += 1
        if body[i : i + 1] == b"-" and i + 1 < len(body):
            high = body[i + 1]
            i += 2
        if high < low:
            raise UsageError(
                f"exclude pattern {os.fsdecode(pattern)!r} has a range that runs backwards",
                hint="in brackets a range runs upwards: [a-z]",
            )
        out.append(b"\\x%02x-\\x%02x" % (low, high))
    return b"[" + (b"^" if negate else b"") + b"".join(out) + b"]"


class Excludes:
    """Compiled patterns of one scan."""

    def __init__(self, patterns: Sequence[str | bytes]) -> None:
        """Args: patterns: as given by the user. Raises UsageError for one that can't be read."""
        names, paths = [], []
        for given in patterns:
            pattern = os.fsencode(given).replace(os.sep.encode(), b"/").rstrip(b"/")
            if not pattern:
                raise UsageError("an exclude pattern is empty", hint="name what is to be left out")
            if b"/" in pattern:
                anchored = pattern.startswith(b"/")
                paths.append((b"" if anchored else b"(?:.*/)?") + _translate(pattern))
            else:
                names.append(_translate(pattern))
        self._name = re.compile(b"|".join(b"(?:" + n + b")" for n in names), re.DOTALL) if names else None
        self._path = re.compile(b"|".join(b"(?:" + p + b")" for p in paths), re.DOTALL) if paths else None

    def match(self, directory: bytes, name: bytes) -> bool:
        """Is `directory/name` left out."""
        if self._name is not None and self._name.fullmatch(name):
            return True
        if self._path is None:
            return False
        return self._path.fullmatch(directory.rstrip(b"/") + b"/" + name) is not None
