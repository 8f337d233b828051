"""The catalog's owner: one thread, one catalog, a bounded queue of work in front of it.

DuckDB allows one process per file, and Python-heavy work starves a process that moves data; so the manager
runs this in a process of its own and calls it over a local link. Here is everything but the link.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec

from staddle.api.catalog import Catalog, ManifestRows, Record
from staddle.catalog.failures import Ended, call_failed
from staddle.errors import StaddleError, Unavailable, UsageError

log = logging.getLogger(__name__)

QUEUE_MAX = 1024
APPLY_RECORDS = 2000
CLOSE_WAIT_S = 60.0

METHODS = frozenset(
    {
        "applied_lsn",
        "diff",
        "files_hit",
        "files_lost",
        "find",
        "ingested",
        "applied_epoch",
        "list_directory",
        "load_state",
        "manifests_of",
        "query",
        "snapshot",
        "verify",
    }
)
"""What `call` passes on to the catalog, by name."""


class _Work(msgspec.Struct, frozen=True):
    run: Callable[[], Any]
    done: Future[Any]
    records: Sequence[Record] | None = None


class CatalogOwner:
    """Runs a catalog in a thread of its own, in the order of the calls. Safe for use by several threads.

    Every method returns a future at once; a full queue raises Unavailable. After an error in a change the
    catalog stands where it stood: ask `applied_lsn` and apply again from the log. After `Ended` it takes
    nothing more.
    """

    def __init__(
        self,
        open_catalog: Callable[[], Catalog],
        queue_max: int = QUEUE_MAX,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        """Open the catalog in its thread. Raises what opening raises.

        Args:
            open_catalog: opens it.
            queue_max: calls that may wait.
            on_end: called by that thread when it ends: closed, or the catalog can't go on in this process.
        """
        self._queue: deque[_Work] = deque()
        self._queue_max = queue_max
        self._changed = threading.Condition()
        self._closing = False
        self._on_end = on_end
        opened: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._serve, args=(open_catalog, opened), name="catalog", daemon=True
        )
        self._thread.start()
        opened.result()

    def apply(self, records: Sequence[Record]) -> Future[int]:
        """Apply records; calls that wait together share a transaction. The applied LSN."""
        return self._submit(lambda: self._apply(records), records)

    def load_state(self, state: bytes) -> Future[int]:
        """Take tier 1 from a snapshot of the manager's state. The applied LSN."""
        return self.call("load_state", {"state": state})

    def ingest(self, manifests: Sequence[ManifestRows]) -> Future[None]:
        """Take in the files of committed segments, in one transaction."""
        return self._submit(lambda: self._catalog.ingest(manifests))

    def call(self, method: str, arguments: Mapping[str, Any]) -> Future[Any]:
        """Ask the catalog one of METHODS. Raises UsageError for another."""
        if method not in METHODS:
            raise UsageError(f"the catalog has no method {method!r}")

        def run() -> Any:
            target = getattr(self._catalog, method, None)
            if target is None:
                raise UsageError(f"this catalog has no method {method!r}")
            return target(**arguments)

        return self._submit(run)

    def close(self) -> None:
        """Do what waits, then close the catalog. Idempotent. Raises Unavailable if that takes too long."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_WAIT_S)
        if self._thread.is_alive():
            raise Unavailable("catalog: its thread does not end", scope="cluster")

    def _submit(self, run: Callable[[], Any], records: Sequence[Record] | None = None) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_running_or_notify_cancel()
        with self._changed:
            if self._closing:
                raise Unavailable("catalog: closed")
            if len(self._queue) >= self._queue_max:
                raise Unavailable(
                    f"catalog: {len(self._queue)} calls wait already", code="CATALOG_BUSY", hint="try again"
                )
            self._queue.append(_Work(run, done, records))
            self._changed.notify()
        return done

    def _serve(self, open_catalog: Callable[[], Catalog], opened: Future[None]) -> None:
        try:
            self._catalog = open_catalog()
        except BaseException as error:  # noqa: BLE001 - the opener raises it
            opened.set_exception(error)
            return
        opened.set_result(None)
        try:
            while group := self._take():
                self._run(group)
            self._catalog.close()
        finally:
            self._on_end()

    def _take(self) -> list[_Work]:
        """The next call, or several `apply` calls that follow one another; nothing once closed and empty."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait(timeout=1.0)
            group: list[_Work] = []
            size = 0
            while self._queue and (not group or (size < APPLY_RECORDS and _joins(group[0], self._queue[0]))):
                group.append(self._queue.popleft())
                size += len(group[-1].records or ())
            return group

    def _run(self, group: list[_Work]) -> None:
        try:
            if group[0].records is None:
                result = group[0].run()
            else:
                result = self._apply([record for work in group for record in work.records or ()])
        except Exception as error:  # noqa: BLE001 - the caller gets it, the thread goes on if the catalog can
            told = error if isinstance(error, StaddleError) else call_failed(error)
            if isinstance(told, Ended):
                group += self._give_up(told)
            _fail(group, told)
        else:
            for work in group:
                work.done.set_result(result)

    def _give_up(self, error: Ended) -> list[_Work]:
        """Take no more calls; those that wait."""
        log.error("%s", error)
        with self._changed:
            self._closing = True
            waiting = list(self._queue)
            self._queue.clear()
        return waiting

    def _apply(self, records: Sequence[Record]) -> int:
        self._catalog.apply(records)
        return self._catalog.applied_lsn()


def _joins(first: _Work, work: _Work) -> bool:
    return first.records is not None and work.records is not None


def _fail(group: list[_Work], error: StaddleError) -> None:
    for work in group:
        work.done.set_exception(error)
