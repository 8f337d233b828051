r"""Patterns that leave paths out, in the syntax that restic's users know (docs/backup.md says what differs).

A pattern is made of parts between `/`. It matches a path whose last parts it fits, each as a whole; one that
begins with `/` fits only from the root on. In a part `*` stands for any characters, `?` for one, `[a-z]` for
one of a class, `\` takes the meaning away; a part `**` stands for any number of parts, none included. What
lies in a directory that is left out is left out with it. A pattern that begins with `!` takes back what the
ones before it matched: the last one that fits decides.

Matching is on characters; a byte that is no UTF-8 counts as one character, so any name can be matched.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence

from staddle.errors import UsageError

FILE_BYTES_MAX = 16 << 20
"""Longest file of patterns or paths that is read."""

ITEM_MAX = 1 << 20
"""Longest line or path in one."""
_BLOCK_BYTES = 1 << 16

_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)\}|([A-Za-z_]\w*))")


class Excludes:
    """Compiled patterns of one scan."""

    def __init__(self, patterns: Sequence[str | bytes], ignoring_case: Sequence[str | bytes] = ()) -> None:
        """Args: patterns, ignoring_case: as given by the user; what either list matches is left out.

        Raises UsageError for a pattern that can't be read.
        """
        self._lists = [
            (groups, lower)
            for groups, lower in ((_groups(patterns, False), False), (_groups(ignoring_case, True), True))
            if groups
        ]

    def match(self, directory: bytes, name: bytes) -> bool:
        """Is `directory/name` left out."""
        if not self._lists:
            return False
        last = os.fsdecode(name)
        path = os.fsdecode(directory.rstrip(b"/")) + "/" + last
        for groups, lower in self._lists:
            if _decide(groups, path.lower(), last.lower()) if lower else _decide(groups, path, last):
                return True
        return False


class _Group:
    """Neighbours in a list of patterns that all leave out, or all take back."""

    def __init__(self, negated: bool, patterns: list[_Pattern]) -> None:
        self.negated = negated
        self._name = _either([each.regex for each in patterns if each.is_name])
        self._path = _either([each.regex for each in patterns if not each.is_name])

    def fits(self, path: str, name: str) -> bool:
        if self._name is not None and self._name.fullmatch(name):
            return True
        return self._path is not None and self._path.fullmatch(path) is not None


class _Pattern:
    """One pattern: is it of one part, which any name may fit, and its regular expression."""

    def __init__(self, given: str, ignoring_case: bool) -> None:
        self.negated = given.startswith("!")
        text = given[1:] if self.negated else given
        if os.sep != "/":
            text = text.replace(os.sep, "/")
        if ignoring_case:
            text = text.lower()
        parts = _clean(text)
        if not parts:
            raise UsageError(f"pattern {given!r} is empty", hint="name what is to be left out")
        anchored = text.startswith("/")
        self.is_name = len(parts) == 1 and not anchored and parts[0] != "**"
        self.regex = _part(parts[0], given) if self.is_name else _path(parts, anchored, given)


def _groups(patterns: Sequence[str | bytes], ignoring_case: bool) -> list[_Group]:
    """The last group first: it has the last word."""
    runs: list[list[_Pattern]] = []
    for given in patterns:
        pattern = _Pattern(os.fsdecode(given), ignoring_case)
        if runs and runs[-1][0].negated == pattern.negated:
            runs[-1].append(pattern)
        else:
            runs.append([pattern])
    return [_Group(run[0].negated, run) for run in reversed(runs)]


def _decide(groups: list[_Group], path: str, name: str) -> bool:
    for group in groups:
        if group.fits(path, name):
            return not group.negated
    return False


def _either(regexes: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(f"(?:{each})" for each in regexes), re.DOTALL) if regexes else None


def _clean(text: str) -> list[str]:
    """The parts, without empty ones and `.`, and without `..` and what it leads out of.

    `**` at the end says nothing that the directory does not.
    """
    parts: list[str] = []
    for part in text.split("/"):
        if part in {"", "."} or (part == "**" and parts[-1:] == ["**"]):
            continue
        if part == ".." and parts[-1:] not in ([], [".."]):
            parts.pop()
        elif part != ".." or not text.startswith("/"):
            parts.append(part)
    while len(parts) > 1 and parts[-1] == "**":
        parts.pop()
    return parts


def _path(parts: list[str], anchored: bool, given: str) -> str:
    out = ["/" if anchored else "(?:.*/)?"]
    for number, part in enumerate(parts, 1):
        last = number == len(parts)
        if part == "**":
            out.append(".*" if last else "(?:[^/]+/)*")
        else:
            out.append(_part(part, given) + ("" if last else "/"))
    return "".join(out)


def _part(part: str, given: str) -> str:
    """One part as a regular expression that never tries a way twice: a hostile name costs no time."""
    if not part.strip("*"):
        return "[^/]+"  # there is no part without a name
    stretches: list[list[str]] = [[]]
    i = 0
    while i < len(part):
        char = part[i]
        if char == "*":
            stretches.append([])
        elif char == "?":
            stretches[-1].append("[^/]")
        elif char == "[":
            regex, i = _char_class(part, i, given)
            stretches[-1].append(regex)
        elif char == "\\" and i + 1 < len(part):
            i += 1
            stretches[-1].append(re.escape(part[i]))
        else:
            stretches[-1].append(re.escape(char))
        i += 1
    first, *others = ["".join(stretch) for stretch in stretches]
    if not others:
        return first
    # After a `*` the first place where the next stretch fits is as good as any other.
    middle = "".join(f"(?>[^/]*?{stretch})" for stretch in others[:-1] if stretch)
    return f"{first}{middle}[^/]*{others[-1]}"


def _char_class(part: str, at: int, given: str) -> tuple[str, int]:
    """The class that begins at `at`, as a regular expression, and where its `]` stands.

    Raises UsageError for one without end, or a range that runs backwards.
    """
    i = at + 1
    negate = part[i : i + 1] in {"!", "^"}
    i += negate
    out: list[str] = []
    while i < len(part) and (part[i] != "]" or not out):
        low, i = _member(part, i)
        high = low
        if part[i : i + 1] == "-" and part[i + 1 : i + 2] not in {"", "]"}:
            high, i = _member(part, i + 1)
        if high < low:
            raise UsageError(
                f"pattern {given!r} has a range that runs backwards",
                hint="in brackets a range runs upwards: [a-z]",
            )
        out.append(f"{re.escape(low)}-{re.escape(high)}")
    if i >= len(part):
        raise UsageError(
            f"pattern {given!r} has '[' without ']'", hint="write \\[ for a bracket that stands for itself"
        )
    return f"(?!/)[{'^' if negate else ''}{''.join(out)}]", i


def _member(part: str, i: int) -> tuple[str, int]:
    if part[i] == "\\" and i + 1 < len(part):
        i += 1
    return part[i], i + 1


# --- files of patterns and paths ------------------------------------------------------------------


def read_patterns(path: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Patterns of a file: one a line, trimmed; `#` begins a comment line; `$NAME`, `${NAME}`, `$$` for `$`.

    Raises UsageError when the file can't be read, or names a variable that is not set: without it
    `$PLACE/*` would leave out everything.
    """
    patterns = []
    for number, line in lines_of(path, "pattern file"):
        try:
            patterns.append(_VARIABLE.sub(lambda found: _value(found, environ), line))
        except KeyError as error:
            raise UsageError(
                f"{path}:{number}: the variable ${error.args[0]} is not set",
                hint="set it, or write $$ for a dollar sign",
            ) from None
    return patterns


def _value(found: re.Match[str], environ: Mapping[str, str]) -> str:
    return "$" if found[1] else environ[found[2] or found[3]]


def lines_of(path: str, what: str, bytes_max: int = FILE_BYTES_MAX) -> Iterator[tuple[int, str]]:
    """Lines of a text file that say something, trimmed, with their numbers. UTF-8 or, with its mark, UTF-16.

    Raises UsageError.
    """
    rest, number = "", 0
    for text in _texts(path, what, bytes_max):
        *lines, rest = (rest + text).split("\n")
        _check_length(rest, path, what)
        for number, line in enumerate(lines, number + 1):  # noqa: B020 it goes on where it was
            if (said := line.strip()) and not said.startswith("#"):
                yield number, said
    if (said := rest.strip()) and not said.startswith("#"):
        yield number + 1, said


def items_of(path: str, what: str, bytes_max: int) -> Iterator[bytes]:
    """What stands between the NULs of a file, if anything does. Raises UsageError."""
    rest = b""
    for block in _blocks(path, what, bytes_max):
        *items, rest = (rest + block).split(b"\0")
        _check_length(rest, path, what)
        yield from filter(None, items)
    if rest:
        yield rest


def _check_length(rest: str | bytes, path: str, what: str) -> None:
    if len(rest) > ITEM_MAX:
        raise UsageError(
            f"the {what} {path!r} has an entry of more than {ITEM_MAX >> 10} KiB",
            hint="see how its entries must be ended: each by a new line, or by NUL",
        )


def _texts(path: str, what: str, bytes_max: int) -> Iterator[str]:
    decoder: codecs.IncrementalDecoder | None = None
    try:
        for block in _blocks(path, what, bytes_max):
            if decoder is None:
                if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    decoder = codecs.getincrementaldecoder("utf-16")()
                else:
                    # As a name of a file is decoded: any bytes may stand there.
                    name, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
                    decoder = codecs.getincrementaldecoder(name)(errors)
                    block = block.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901 the mark is no text
            yield decoder.decode(block)
        if decoder is not None:
            yield decoder.decode(b"", final=True)
    except UnicodeError:
        raise UsageError(f"the {what} {path!r} is no text", hint="save it as UTF-8") from None


def _blocks(path: str, what: str, bytes_max: int) -> Iterator[bytes]:
    """A file that the user has named, piece by piece; `-` is standard input. Raises UsageError."""
    size = 0
    if path == "-" and sys.stdin is None:
        raise UsageError(
            f"cannot read the {what} '-': standard input is closed", hint="pipe it in, or name a file"
        )
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                size += len(block)
                if size > bytes_max:
                    raise UsageError(
                        f"the {what} {path!r} is longer than {bytes_max >> 20} MiB",
                        hint="use several shorter ones",
                    )
                yield block
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(
            f"cannot read the {what} {path!r}: {reason}", hint="name a file that exists and can be read"
        ) from error
