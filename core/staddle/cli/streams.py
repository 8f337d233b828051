"""Standard streams that a command can rely on, whoever reads them, or nobody.

A reader that goes away (`staddle ls | head`) or was never there (`>&-`) is no reason to break off a backup
or a prune half-way: what is written then goes nowhere, and the command ends with its own exit code.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Output(io.FileIO):
    """A file descriptor whose reader may go away."""

    gone = False
    what = "standard output"

    def write(self, data: ReadableBuffer, /) -> int:
        """Write to the reader, or to nobody once it is gone. Other errors (a full disk) are raised."""
        try:
            written: int = super().write(data)
        except BrokenPipeError:
            self.gone = True
            nobody = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nobody, self.fileno())
            os.close(nobody)
            return memoryview(data).nbytes
        except OSError as error:
            error.filename = self.what  # for the message: the system does not name it
            raise
        return written


def prepare() -> None:
    """Make standard input, output and error usable. Once, before anything is opened or printed."""
    _fill_closed()
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the process's life
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the process's life
    own = (sys.__stdout__, sys.__stderr__)  # a test may have put something else in their place
    if sys.stdout in own:
        sys.stdout = _forgiving(sys.stdout)
    if sys.stderr in own:
        sys.stderr = _forgiving(sys.stderr)


def reader_gone() -> bool:
    """Has the reader of standard output gone away: work that only shows something can end."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, _Output) and raw.gone


def flush() -> None:
    """Hand over what was printed. Raises OSError for output that can't be written."""
    sys.stdout.flush()
    sys.stderr.flush()


def _fill_closed() -> None:
    """Occupy descriptors 0 to 2: else a file or socket opened later would take the place of the output."""
    filler = os.open(os.devnull, os.O_RDWR)
    while filler <= 2:
        os.set_inheritable(filler, True)
        filler = os.dup(filler)
    os.close(filler)


def _forgiving(stream: TextIO | None) -> TextIO | None:
    if not isinstance(stream, io.TextIOWrapper) or stream.isatty():
        return stream  # a terminal does not go away like a pipe; on Windows it is no file at all
    stream.flush()
    raw = _Output(stream.fileno(), "wb", closefd=False)
    # A name that the reader's encoding can't show must not end the command.
    errors = "backslashreplace" if stream.errors == "strict" else stream.errors
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=stream.line_buffering,
    )
