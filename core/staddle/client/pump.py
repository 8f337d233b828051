"""Reads records ahead in a thread, so that the disk and the link work at the same time."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from staddle.client.units import Record

AHEAD_BYTES = 8 << 20


@runtime_checkable
class Interruptible(Protocol):
    """Records that may wait for long, such as those of a pipe."""

    def interrupt(self) -> None:
        """From any thread: let the iteration end soon."""


class RecordPump:
    """Feeds one event loop from an iterator of records. `take` never blocks.

    The thread ends with the iterator, at an error, or soon after `close`.
    """

    def __init__(
        self, records: Iterator[Record], on_ready: Callable[[], None], ahead_bytes: int = AHEAD_BYTES
    ) -> None:
        """Args: on_ready: called on the running loop when there is something to take, or the end."""
        self._records = records
        self._loop = asyncio.get_running_loop()
        self._on_ready = on_ready
        self._ahead_bytes = ahead_bytes
        self._ready: deque[Record] = deque()
        self._bytes = 0
        self._room = threading.Condition()
        self._stop = self._ended = False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="read", daemon=True)
        self._thread.start()

    @property
    def exhausted(self) -> bool:
        """Nothing is left, and nothing more will come."""
        with self._room:
            return self._ended and not self._ready

    def take(self) -> Record | None:
        """The next record if it has been read already."""
        with self._room:
            if not self._ready:
                return None
            record = self._ready.popleft()
            self._bytes -= record.size
            self._room.notify()
            return record

    def _run(self) -> None:
        try:
            for record in self._records:
                with self._room:
                    while self._bytes >= self._ahead_bytes and not self._stop:
                        self._room.wait()
                    if self._stop:
                        return
                    self._ready.append(record)
                    self._bytes += record.size
                self._tell()
        except BaseException as error:  # noqa: BLE001 whatever ended the scan must reach the loop
            self.error = error
        finally:
            with self._room:
                self._ended = True
            self._tell()

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._on_ready)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def close(self) -> None:
        """Stop reading; what was read ahead is dropped. Waits for the thread, at most as long as one read."""
        with self._room:
            self._stop = True
            self._ready.clear()
            self._room.notify_all()
        if isinstance(self._records, Interruptible):
            self._records.interrupt()
        self._thread.join(timeout=30.0)
