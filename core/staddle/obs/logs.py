"""Logs: text on stderr for people, JSON lines in a file for programs.

Code logs through the standard library (`logging.getLogger(__name__)`); facts that a program may want go
into `extra={"job": 7, "agent": "a1"}` and become fields of the JSON line. Times are RFC 3339 (clause 5.6):
local with offset on stderr, UTC in the file, where lines of several hosts are merged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from typing import Any, TextIO

from staddle.errors import StaddleError
from staddle.platform.shortage import is_shortage
from staddle.text import visible

FILE_BYTES_MAX = 16 * 1024 * 1024
FILES_KEPT = 4
FIELD_CHARS_MAX = 2_000

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_RESERVED = frozenset({"time", "level", "logger", "component", "pid", "message", "error", "traceback"})
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x09}


def _extra(record: logging.LogRecord) -> Mapping[str, object]:
    """What the caller gave as `extra=`; a name that a line already has gets an underscore."""
    found = ((name, value) for name, value in record.__dict__.items() if name not in _STANDARD)
    return {f"{name}_" if name in _RESERVED else name: value for name, value in found}


def _plain(value: object) -> str:
    """Text of anything JSON has no word for; bytes are mostly file names."""
    text = os.fsdecode(value) if isinstance(value, bytes) else str(value)
    return text[:FIELD_CHARS_MAX]


class TextFormatter(logging.Formatter):
    """`time level logger: message`; what commands a terminal is spelled out, and no name can forge a line."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (base class)
        """Local time with offset, to the millisecond."""
        return datetime.fromtimestamp(record.created, UTC).astimezone().isoformat(timespec="milliseconds")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (base class)
        """One line, whatever the message holds."""
        message = visible(record.getMessage().translate(_CONTROL), kept="\t")
        return f"{record.asctime} {record.levelname:<7} {record.name}: {message}"

    def formatException(self, ei: Any) -> str:  # noqa: N802 (base class)
        """A traceback's lines, each made safe: its messages come from anywhere. None for a shortage."""
        if ei[1] is not None and is_shortage(ei[1]):
            return visible(f"{type(ei[1]).__name__}: {ei[1]}")
        return "\n".join(visible(line, kept="\t") for line in super().formatException(ei).split("\n"))

    def usesTime(self) -> bool:  # noqa: N802 (base class)
        """Always."""
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per line, pure ASCII, so that names that are not UTF-8 survive as escapes."""

    def __init__(self, component: str) -> None:
        """Args: component: which process writes, e.g. `manager` or `agent a1`."""
        super().__init__()
        self.component = component

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline. A StaddleError's fields are kept apart under `error`."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "component": self.component,
            "pid": record.process,
            "message": record.getMessage(),
        }
        line.update(_extra(record))
        error = record.exc_info[1] if record.exc_info else None
        if record.exc_info and error is not None:
            line["error"] = {"type": type(error).__name__, "message": str(error)}
            line["traceback"] = self.formatException(record.exc_info)
        if isinstance(error, StaddleError):
            fields = ("code", "message", "hint", "retry", "scope", "outcome")
            line["error"] = {"type": type(error).__name__, **{name: getattr(error, name) for name in fields}}
        return json.dumps(line, default=_plain, skipkeys=True)


class BoundedStream(logging.StreamHandler[TextIO]):
    """Writes to a stream; where that is a file, which nobody rotates, it begins anew at FILE_BYTES_MAX.

    `staddle up` sends the standard error of its daemons to such a file. The JSON lines keep what is lost.
    """

    _CHECK_EVERY = 1000

    def __init__(self, stream: TextIO) -> None:
        """Args: stream: open for appending, if it is a file."""
        super().__init__(stream)
        self._lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        super().emit(record)
        self._lines += 1
        if self._lines % self._CHECK_EVERY == 0:
            with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor has no size
                descriptor = self.stream.fileno()
                found = os.fstat(descriptor)
                if stat.S_ISREG(found.st_mode) and found.st_size > FILE_BYTES_MAX:
                    os.ftruncate(descriptor, 0)
                    os.lseek(descriptor, 0, os.SEEK_SET)


def configure(component: str, *, level: str = "INFO", path: str | None = None) -> None:
    """Send all logs of this process to stderr and, if `path` is given, as JSON lines to that file.

    Each process has a file of its own: it is rotated at FILE_BYTES_MAX, and FILES_KEPT older ones stay. A
    second call replaces what the first one set up; handlers of others are left alone.

    Raises:
        OSError: the file cannot be opened.
        ValueError: no such level.
    """
    root = logging.getLogger()
    handlers: list[logging.Handler] = [BoundedStream(sys.stderr)]
    handlers[0].setFormatter(TextFormatter())
    if path is not None:
        file = RotatingFileHandler(path, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="ascii")
        file.setFormatter(JsonFormatter(component))
        handlers.append(file)
    root.setLevel(level)
    shutdown()
    for handler in handlers:
        handler.set_name("staddle")
        root.addHandler(handler)


def shutdown() -> None:
    """Flush, close and remove what `configure` set up. Idempotent."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.get_name() == "staddle"]:
        root.removeHandler(handler)
        handler.close()
