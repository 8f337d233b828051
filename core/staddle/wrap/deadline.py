"""Deadlines: the caller gets its answer in time even when a driver hangs in a system call.

A blocking system call can't be interrupted, so each call runs in a worker thread of its medium, and a caller
stops waiting at its deadline. A call that no worker had begun is withdrawn: not done. One that had is in
doubt, and its thread is lost until it comes back; when too many are lost the medium is refused as a whole,
so that a dead mount takes a bounded number of threads.

After an in-doubt DeadlineExceeded of a put the driver may still be reading the buffers. Drivers check the
deadline after the last byte was taken and before it becomes visible; the caller drops such buffers instead
of filling them anew.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from staddle.errors import DeadlineExceeded, MediumFailed
from staddle.wrap.layers import Call

T = TypeVar("T")

WORKERS_MAX = 16
HUNG_MAX = 4


class _Job:
    """A call on its way through a worker."""

    __slots__ = ("abandoned", "begun", "context", "done", "error", "make", "result")

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make: Callable[[], Any] | None = make
        self.context = contextvars.copy_context()
        self.done = threading.Event()
        self.begun = False
        self.abandoned = False
        self.result: Any = None
        self.error: BaseException | None = None


class DeadlineLayer:
    """Runs the calls of one medium in a bounded pool of its own."""

    def __init__(self, name: str, *, workers_max: int = WORKERS_MAX, hung_max: int = HUNG_MAX) -> None:
        """A pool without threads yet.

        Args:
            name: the medium's, for messages and thread names.
            workers_max: calls at once, those that hang not counted.
            hung_max: with this many hanging calls the medium is refused.
        """
        self._name = name
        self._workers_max = workers_max
        self._hung_max = hung_max
        self._wake = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._workers = 0
        self._idle = 0
        self._hung = 0
        self._closed = False

    @property
    def hung(self) -> int:
        """Calls that are past their deadline and have not come back."""
        return self._hung

    def around(self, call: Call, make: Callable[[], T]) -> T:
        """Make the call in a worker, and stop waiting at its deadline."""
        if call.deadline.left_s() <= 0:
            raise DeadlineExceeded(f"{self._what(call)} came after its deadline", outcome="not_done")
        job = _Job(make)
        self._submit(job, call)
        if not job.done.wait(call.deadline.left_s()):
            self._give_up(job, call)
        if job.error is not None:
            try:
                raise job.error
            finally:
                del job, make  # the traceback has this frame: a circle that would keep what the call had read
        result: T = job.result
        return result

    def _submit(self, job: _Job, call: Call) -> None:
        with self._wake:
            if self._closed and call.op != "close":
                raise MediumFailed(f"medium {self._name} is closed", code="CLOSED", retry="never")
            if self._hung >= self._hung_max:
                raise MediumFailed(
                    f"medium {self._name} is suspect: {self._hung} calls hang in its driver",
                    code="MEDIUM_SUSPECT",
                    hint="look at its mount, server or device; it is used again when the calls come back",
                )
            self._queue.append(job)
            if self._idle >= len(self._queue):
                self._wake.notify()
            elif self._workers - self._hung < self._workers_max:
                self._start_worker(job)

    def _start_worker(self, job: _Job) -> None:
        # Not joined at exit: a thread that hangs in the kernel must not keep the process.
        thread = threading.Thread(target=self._work, name=f"medium-{self._name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._queue.remove(job)
            raise MediumFailed(
                f"medium {self._name}: no thread for its call: {error}", scope="agent"
            ) from error
        self._workers += 1

    def _give_up(self, job: _Job, call: Call) -> None:
        with self._wake:
            if job.done.is_set():
                return
            if not job.begun:
                self._queue.remove(job)
                raise DeadlineExceeded(
                    f"{self._what(call)} found no free worker before its deadline",
                    outcome="not_done",
                    hint="the medium is slower than what it is asked",
                )
            job.abandoned = True
            self._hung += 1
            raise DeadlineExceeded(
                f"{self._what(call)} did not end by its deadline",
                hint="the medium hangs or is slow; see deadline_s",
            )

    def _work(self) -> None:
        while (job := self._next()) is not None:
            assert job.make is not None
            try:
                job.result = job.context.run(job.make)
            except BaseException as error:  # noqa: BLE001 - it is raised again in the caller
                job.error = error
            # The frame keeps `job` until the next one comes: it must not keep the caller's buffers too.
            job.make = None
            with self._wake:
                job.done.set()
                if job.abandoned:
                    self._hung -= 1
            del job

    def _next(self) -> _Job | None:
        with self._wake:
            surplus = self._workers - self._hung > self._workers_max
            while not self._queue:
                if self._closed or surplus:
                    self._workers -= 1
                    return None
                self._idle += 1
                self._wake.wait()
                self._idle -= 1
            job = self._queue.popleft()
            job.begun = True
            return job

    def _what(self, call: Call) -> str:
        return f"{call.op} {call.target} on medium {self._name}".replace("  ", " ")

    def close(self) -> None:
        """Send idle workers home; one that hangs ends when its call comes back."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
