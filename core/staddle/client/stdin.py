"""Backs up what a pipe or a command gives: one entry of type STREAM, of a length that nobody knows before.

It can't be read twice, so records stay in the window until they are durable; that is all a failover needs.
A client that dies takes the rest of the stream with it: such a backup stays incomplete.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from staddle.client.parts import Entry, Kept, own_ids
from staddle.client.units import Record, Tally
from staddle.data.records import PAYLOAD_BYTES_MAX, EntryType
from staddle.errors import Cancelled, StaddleError, UsageError

NAME_BYTES_MAX = 255
_LOOK_S = 0.25
"""How often a reader that waits looks whether it is still wanted."""
_END_S = 5.0
"""How long a command that is no longer wanted may take to end."""


class CommandFailed(StaddleError):
    """The command whose output was to be backed up did not succeed: what came of it is not whole."""

    default_code = "COMMAND_FAILED"
    default_retry = "operator"


def stream_path(name: str) -> bytes:
    """The path of a stream in its backup: `/NAME`. Raises UsageError for what can't be a name."""
    raw = os.fsencode(name)
    if not raw or raw in {b".", b".."} or b"/" in raw or b"\0" in raw or len(raw) > NAME_BYTES_MAX:
        raise UsageError(
            f"--stdin {name!r} is no name for a stream",
            hint=f"give a file name without '/', of at most {NAME_BYTES_MAX} bytes, such as --stdin dump.sql",
        )
    return b"/" + raw


def check_command(command: list[str]) -> None:
    """Raises UsageError for a program that is not there."""
    if shutil.which(command[0]) is None:
        raise UsageError(
            f"there is no program {command[0]!r} to run", hint="after -- comes a program and its arguments"
        )


class StreamSource(Kept):
    """The records of a stream: iterate over it once, in one thread.

    `interrupt` ends the iteration soon, from any thread, also while it waits for more to come.
    """

    def __init__(self, name: str, tally: Tally, command: list[str] | None = None) -> None:
        """Args: command: is run, and its output is read; else standard input. Raises UsageError."""
        self.path = stream_path(name)
        if command is not None:
            check_command(command)
        elif sys.stdin is None:  # what has its descriptor now is not what the user meant
            raise UsageError(
                "standard input is closed",
                hint="pipe the data in, or use --stdin-from-command -- COMMAND; for nothing, </dev/null",
            )
        elif sys.stdin.isatty():
            raise UsageError(
                "standard input is a terminal",
                hint="pipe the data in, or use --stdin-from-command -- COMMAND",
            )
        self._command = command
        self._tally = tally
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._records = self._run()

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        return next(self._records)

    def interrupt(self) -> None:
        """Stop reading, and end the command."""
        self._stop.set()
        if self._process is not None:
            self._process.terminate()  # does nothing to one that has ended and was waited for

    def _run(self) -> Iterator[Record]:
        if self._command is None:
            yield from self._pieces(_standard_input())
            return
        try:
            process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        except OSError as error:
            raise CommandFailed(
                f"{self._command[0]!r} could not be started: {(error.strerror or str(error)).lower()}",
                hint="what comes after -- must be a program that this user may run",
            ) from error
        self._process = process
        try:
            assert process.stdout is not None
            yield from self._pieces(process.stdout.fileno(), process)
        finally:
            _end(process)

    def _pieces(self, fd: int, process: subprocess.Popen[bytes] | None = None) -> Iterator[Record]:
        uid, gid = own_ids()
        entry = Entry(self.path, EntryType.STREAM, 0o600, uid, gid, time.time_ns())
        offset = 0
        while True:
            buffer = bytearray(PAYLOAD_BYTES_MAX)
            length = self._fill(fd, memoryview(buffer))
            self._tally.add(read=length)
            if length < len(buffer):
                break
            yield entry.record(offset, buffer, size=offset + length)
            offset += length
        if process is not None:
            self._await_success(process)  # before the last record: without it the stream is not whole
        self._tally.add(files=1)
        last = memoryview(buffer)[:length]
        yield entry.record(offset, last, size=offset + length, last=True)

    def _fill(self, fd: int, view: memoryview) -> int:
        """Read until the view is full or the stream ends."""
        length = 0
        while length < len(view):
            self._await_data(fd)
            try:
                data = os.read(fd, len(view) - length)
            except OSError as error:
                raise StaddleError(
                    f"{os.fsdecode(self.path[1:])!r}: only the first {self._tally.bytes_read + length} bytes "
                    f"could be read: {(error.strerror or str(error)).lower()}",
                    hint="mend what gives the data, and back it up again",
                ) from error
            if not data:
                break
            view[length : length + len(data)] = data
            length += len(data)
        return length

    def _await_data(self, fd: int) -> None:
        """Until a read does not wait (Windows can't tell, there the read itself waits)."""
        while True:
            if self._stop.is_set():
                raise Cancelled("the stream was given up")
            if sys.platform == "win32" or select.select([fd], [], [], _LOOK_S)[0]:
                return

    def _await_success(self, process: subprocess.Popen[bytes]) -> None:
        while True:
            if self._stop.is_set():
                raise Cancelled("the stream was given up")
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(_LOOK_S)
                break
        if code:
            how = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
            raise CommandFailed(
                f"{self._command[0] if self._command else ''!r} {how}, so the backup is not complete",
                hint="see what it said above, and run the backup again",
            )


def _standard_input() -> int:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(0, os.O_BINARY)
    return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave no process behind; one that has ended is only cleaned up."""
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
