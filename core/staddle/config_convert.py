"""From TOML to typed values with the place of every key: what `staddle.config` is made of."""

from __future__ import annotations

import difflib
import functools
import os
import re
import reprlib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import msgspec

from staddle.errors import ConfigError

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")
_SUGGESTED = re.compile(r"; (did you mean|known:) | stands also at ")
_DEEPEST = 3
"""A key of a named table: `medium.NAME.KEY`. No message asks for a line below that."""
_TRIPLE = re.compile(r'"""|' + "'''")


class Place(msgspec.Struct, frozen=True):
    """Where something stands in the configuration."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Problems:
    """Collects all that is wrong, to be reported together."""

    LIMIT: ClassVar[int] = 50

    def __init__(self) -> None:
        self._lines: set[tuple[str, int, str]] = set()

    def add(self, place: Place, text: str) -> None:
        """Note one problem."""
        self._lines.add((place.file, place.line, text))

    def raise_if_any(self) -> None:
        """Raise one ConfigError with a line for each problem, in the order of the files."""
        if self._lines:
            lines = [f"{file}:{line}: {text}" for file, line, text in sorted(self._lines)]
            if len(lines) > self.LIMIT:
                lines[self.LIMIT :] = [f"and {len(lines) - self.LIMIT} more"]
            clear = len(lines) > 1 or _SUGGESTED.search(lines[0])
            raise ConfigError("\n".join(lines), hint="" if clear else "correct it there")


def why_not_toml(error: ValueError | RecursionError, data: bytes) -> tuple[int, str]:
    """Where TOML ends being TOML, and why; the parser lets through what Python says of bytes and numbers."""
    if isinstance(error, UnicodeDecodeError):
        return data.count(b"\n", 0, error.start) + 1, f"the byte 0x{data[error.start]:02x} is no UTF-8"
    if isinstance(error, tomllib.TOMLDecodeError):
        found = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(found[1]) if found else 1
        if str(error).startswith(("Cannot overwrite", "Cannot declare")):
            what = data.split(b"\n")[line - 1].decode(errors="replace").partition("=")[0].strip()
            return line, f"{what} stands there twice"
        return line, str(error)
    return 1, "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"


class LineIndex:
    """Line numbers of tables and keys of one TOML text. tomllib has none, so the text is scanned.

    The scan follows headers, `key =` lines and multi-line strings; a key that stands within an inline table
    is found at its table's line, which is close enough for a message.
    """

    def __init__(self, text: str) -> None:
        """Args: text: valid TOML."""
        self._lines: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        inside = ""
        for number, line in enumerate(text.split("\n"), 1):
            if not inside:
                if header := _HEADER.match(line):
                    table = _split(header[1])
                    self._note(table, number)
                elif assignment := _ASSIGNMENT.match(line):
                    self._note((*table, *_split(assignment[1])), number)
            inside = _open_string(line, inside)

    def line(self, path: tuple[str, ...]) -> int:
        """The line of a key, or of the nearest table around it; 1 if there is none."""
        for length in range(len(path), 0, -1):
            if found := self._lines.get(path[:length]):
                return found
        return 1

    def _note(self, path: tuple[str, ...], number: int) -> None:
        for length in range(1, min(len(path), _DEEPEST) + 1):
            self._lines.setdefault(path[:length], number)


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_KEY, dotted))


def _open_string(line: str, inside: str) -> str:
    """The triple quote that is still open at the end of a line, or ""."""
    for match in _TRIPLE.finditer(line):
        if not inside:
            inside = match[0]
        elif inside == match[0]:
            inside = ""
    return inside


class Field(msgspec.Struct, frozen=True):
    """Type of a key, and whether it must be there."""

    type: Any
    required: bool


@functools.cache
def fields_of(struct: type[msgspec.Struct]) -> Mapping[str, Field]:
    """The keys that a struct understands. Looked up once: each look evaluates all annotations anew."""
    return {f.encode_name: Field(f.type, f.required) for f in msgspec.structs.fields(struct)}


def convert_keys(
    table: Mapping[str, Any],
    fields: Mapping[str, Field],
    place: Callable[[str], Place],
    problems: Problems,
    known: Iterable[str] = (),
) -> dict[str, Any]:
    """Convert the keys of a table one by one, so that one wrong key hides no other.

    Args:
        table: as TOML has it.
        fields: the keys that are understood.
        place: where a key stands; "" asks for the table.
        problems: where unknown, wrong and missing keys are noted.
        known: more keys to suggest from.
    """
    values: dict[str, Any] = {}
    for key, value in table.items():
        field = fields.get(key)
        if field is None:
            problems.add(place(key), f"unknown key {key!r}{suggest(key, [*fields, *known])}")
            continue
        try:
            values[key] = msgspec.convert(value, field.type)
        except msgspec.ValidationError as error:
            problems.add(place(key), f"{key}: {_explain(error, value, field.type)}")
    for key, field in fields.items():
        if field.required and key not in table:
            problems.add(place(""), f"{key!r} is missing")
    return values


def plain_message(error: msgspec.ValidationError) -> str:
    """A conversion error in a user's words."""
    text = str(error).replace("`", "").replace(" - at $", " at ")
    text = text.replace("array of length >= 1", "at least one entry")
    return text.replace("Expected", "expected", 1).replace("Invalid enum value", "invalid value", 1)


def _explain(error: msgspec.ValidationError, value: Any, kind: Any) -> str:
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.Metadata) and "wanted" in (info.extra or {}):
        return f"expected {(info.extra or {})['wanted']}, got {reprlib.repr(value)}"
    if isinstance(info, msgspec.inspect.LiteralType) and isinstance(value, str):
        return plain_message(error) + suggest(value, [str(item) for item in info.values])
    return plain_message(error)


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the word that was probably meant, or all there are."""
    words = sorted(set(known))
    if close := difflib.get_close_matches(word, words, 1, 0.6):
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(words)}" if words else ""


def rebase_paths(value: Any, kind: Any, home: str) -> Any:
    """Make the `HomePath` options of raw values absolute, also within nested structs (secrets in files)."""
    return _rebase(value, _type_info(kind), home)


@functools.cache
def _type_info(kind: Any) -> msgspec.inspect.Type:
    return msgspec.inspect.type_info(kind)


def _rebase(value: Any, info: msgspec.inspect.Type, home: str) -> Any:
    if isinstance(info, msgspec.inspect.Metadata):
        if (info.extra or {}).get("staddle") == "home_path" and isinstance(value, str):
            return os.path.join(home, value) if value else value  # an empty one is not the home
        return _rebase(value, info.type, home)
    if isinstance(info, msgspec.inspect.UnionType):
        for option in info.types:
            value = _rebase(value, option, home)
        return value
    if isinstance(info, msgspec.inspect.StructType) and isinstance(value, dict):
        kinds = {field.encode_name: field.type for field in info.fields}
        return {key: _rebase(item, kinds[key], home) if key in kinds else item for key, item in value.items()}
    return value
