"""Targets that a user feeds: configuration, patterns, lists of paths, options, SQL."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import os
import sys
from typing import Any
from unittest import mock

import click
import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from targets import Target, in_file

from staddle import typed
from staddle.catalog.globs import glob_regex
from staddle.catalog.readonly import run_query
from staddle.cli import restore, selecting
from staddle.cli.output import path_text, size_text, time_text, visible
from staddle.client.exclude import Excludes, read_patterns
from staddle.client.owners import OwnerOptions, Owners
from staddle.client.selection import Selection
from staddle.config import initial_text, load
from staddle.errors import StaddleError

GRID = bytes(range(16))
USAGE = (StaddleError, click.ClickException)

# --- configuration -------------------------------------------------------------------------------

CONFIG = initial_text(
    grid_id=GRID.hex(), grid_name="g", manager_url="tcp://127.0.0.1:7420",
    agent_urls=["tcp://127.0.0.1:7421", "tcp://127.0.0.1:7422"],
).encode()  # fmt: skip
SHORT_CONFIG = b"# one comment\n" + b"\n".join(
    line for line in CONFIG.split(b"\n") if line and line[:1] != b"#"
)
_MORE = b"""
[medium.s3]
plugin = "directory"
path = "x"
deadline_s = 3.5
throttle_bytes_per_s = 100000000
failure_domain = "r1"
secret = {file = "a", env = "B"}
[domain.small]
chunk_min_bytes = 1024
chunk_average_bytes = 4096
chunk_max_bytes = 16384
[pool."q"]
media = ["m1", "s3"]
domain = "small"
copies = 2
"""


def _config(data: bytes) -> None:
    settings = load(os.path.dirname(in_file("home/staddle.toml", data)))
    for name in settings.agent:
        settings.media_of(name)
    for name in settings.medium:
        settings.path_of(name)


# --- patterns and lists --------------------------------------------------------------------------


def _exclude(data: bytes) -> None:
    patterns, _, path = data.partition(b"\n")
    directory, _, name = path[:200].rpartition(b"/")
    Excludes([each for each in patterns[:200].split(b"|") if each]).match(directory, name)


def _exclude_file(data: bytes) -> None:
    found = read_patterns(in_file("excludes", data), {"PLACE": "/srv", "EMPTY": ""})[:50]
    Excludes(found, found).match(b"/srv", b"x.o")


class _Glob:
    """`glob` without the file system: a pattern is compiled, and finds nothing, or its letters."""

    def __init__(self) -> None:
        import glob

        self.has_magic = glob.has_magic

    def glob(self, pattern: str, *, include_hidden: bool) -> list[str]:
        os.path.split(pattern)
        fnmatch.filter(["a.txt"], pattern)
        return []


def _files_from(data: bytes) -> None:
    """The first byte says whether lines or NULs end the paths."""
    path = in_file("files-from", data[1:])
    with mock.patch.dict(sys.modules, glob=_Glob()):  # type: ignore[dict-item]
        if data[:1] != b"0":
            paths = selecting._listed({"files_from": [path], "files_from0": []})
        else:
            paths = selecting._listed({"files_from": [], "files_from0": [path]})
        assert all(paths)  # which reads them: none before


def _glob_regex(data: bytes) -> None:
    """A search pattern, as a regular expression that the database must take."""
    expression = glob_regex(data.decode("utf-8", "replace")[:200])
    pc.match_substring_regex(_NAMES, expression)  # it is RE2 as in the database, without a query's cost


_NAMES = pa.array(["a/b.c", "\u202e\0é", ""])


# --- options and texts ---------------------------------------------------------------------------


def _size(text: str) -> None:
    assert selecting._size(text) >= 0


def _owner_map(text: str) -> None:
    Owners(OwnerOptions([text], [text])).of(1000, 1000, {1000: text}, {})


def _selection(text: str) -> None:
    Selection([os.fsencode(text)], [text[:100]], [text[:100]]).deletes(b"/a/b", os.fsencode(text[:100]))


def _shown(text: str) -> None:
    """What stands in a table is one line without commands to the terminal."""
    shown = visible(text)
    assert not {"\n", "\r", "\x1b", "\x9b", "\u202e", "\u2028", "\0"} & set(shown)
    shown.encode()
    path_text(os.fsencode(text))


def _times(text: str) -> None:
    """Whatever a column of 64 bits holds can be shown."""
    with contextlib.suppress(ValueError):
        number = int(text[:30])
        if -(1 << 63) <= number < 1 << 63:
            time_text(number)
        if number >= 0:
            size_text(number)


_OPTIONS = {
    "s": _size,
    "t": selecting._tag,
    "o": _owner_map,
    "b": lambda text: restore.backup_number(text, ""),
    "p": _selection,
    "v": _shown,
    "n": _times,
}


def _option(data: bytes) -> None:
    """The first letter picks the option."""
    text = os.fsdecode(data)
    _OPTIONS.get(text[:1], _shown)(text[1:])


# --- SQL -----------------------------------------------------------------------------------------


@functools.cache
def _database() -> duckdb.DuckDBPyConnection:
    opened = duckdb.connect(":memory:", config={"threads": 1, "memory_limit": "256MB"})
    opened.execute("CREATE TABLE files(backup INT, name VARCHAR, size_bytes BIGINT, raw BLOB)")
    opened.execute("INSERT INTO files VALUES (1, 'a', 5, NULL), (2, 'b', -1, 'x')")
    opened.execute("CREATE VIEW v_files AS SELECT * FROM files")
    opened.execute("SET enable_external_access = false")
    opened.execute("SET lock_configuration = true")
    return opened


def _sql(data: bytes) -> None:
    """A query, and behind NUL its parameters in msgpack."""
    sql, _, packed = data.partition(b"\0")
    parameters: list[Any] = []
    with contextlib.suppress(msgspec.DecodeError):
        parameters = typed.unpack(packed, list[Any]) if packed else []
    found = run_query(_database(), sql.decode("utf-8", "replace"), parameters, 20, 0.5)
    msgspec.msgpack.encode(msgspec.to_builtins(found, builtin_types=(bytes,), enc_hook=str))


_QUERIES = [
    b"SELECT name, sum(size_bytes) FROM v_files WHERE backup = ? GROUP BY 1 ORDER BY 2 LIMIT 3\0\x91\x01",
    b"WITH w AS (SELECT * FROM files) SELECT count(*), max(raw), [1, 2], {'a': 1}, DATE '2020-01-01' FROM w",
    b"SELECT * FROM range(3) r, unnest([1, 2]) u WHERE name LIKE '%a' ESCAPE '!' OR CAST(r AS DOUBLE) > 1e3",
    b"SELECT name FROM files UNION ALL SELECT 'x' || upper(name) FROM files f WHERE f.size_bytes IN (1, 5)",
]
_SQL_WORDS = [
    *(b"SELECT ", b" FROM ", b"files", b" WHERE ", b"(", b")", b"[", b"]", b"{", b"}", b"'", b'"', b"--"),
    *(b"/*", b";", b"::", b"$1", b"?", b"read_csv('/etc/passwd')", b"COPY files TO 'x'", b"PRAGMA ", b"SET "),
    *(b"ATTACH 'x'", b"INSTALL httpfs", b"CAST(", b" AS ", b"INTERVAL ", b"1e308", b"HUGEINT", b"DECIMAL"),
    *(b"repeat('a', 1000)", b"JSON", b"MAP {1: 2}", b"lambda x: x", b" UNION ", b"range(", b"NULL"),
]

TOML_WORDS = [
    *(b"[medium.", b"]\n", b" = ", b"[", b'"""', b"'''", b"{", b"}", b"inf", b"nan", b"1979-05-27", b"0x"),
    b"\\u0000",
]

TARGETS = [
    Target("config", _config, lambda: [SHORT_CONFIG, SHORT_CONFIG + _MORE], "text", words=TOML_WORDS),
    Target(
        "exclude",
        _exclude,
        lambda: [b"*.o|/a/**/b|[a-z]x|\\[\n/home/u/x.o", b"*a*b*c\n/a/b"],
        "text",
        words=[b"*", b"**", b"[!", b"]"],
    ),
    Target(
        "exclude-file",
        _exclude_file,
        lambda: [b"# x\n*.o\n!/a/**/b.o\n$PLACE/*\n${EMPTY}x\n$$\n", "a\n*é\n".encode("utf-16")],
        "text",
        words=[b"$", b"${", b"}", b"\xff\xfe", b"\xef\xbb\xbf", b"\0"],
    ),
    Target(
        "files-from",
        _files_from,
        lambda: [b"1# x\n/a/b\n/srv/*.c\n[a\n", b"0/a\0/b\xff\0", "1/a\n/*\n".encode("utf-16")],
        "text",
        words=[b"\0", b"*", b"[!", b"\xff\xfe", b"/"],
    ),
    Target(
        "glob", _glob_regex, lambda: [b"*.t?t", b"/a/[!b-d]*\\*"], "text", words=[b"*", b"[!", b"]", b"-"]
    ),
    Target(
        "option",
        _option,
        lambda: [b"s500M", b"t.x:abc", b"oroot:1", b"b17", b"p/a/*.c", b"va\x1b[2J", b"n-1"],
        "text",
        USAGE,
        words=[b":", b"0:0", b"T", b"9" * 5000, str(-(2**63)).encode(), str(2**63 - 1).encode()],
    ),
    Target("sql", _sql, lambda: _QUERIES, "text", words=_SQL_WORDS),
]
