"""The `single` cluster manager: a file lock says who is the manager, an epoch file counts the holders.

    PATH/NAME.lock      locked by the holder, for as long as its process lives
    PATH/NAME.epoch     JSON: epoch and holder; durable before the epoch is used

K1 holds on one host: the system grants the lock once, and the epoch grows past both its file and the floor
that the caller read from its log's header and the labels, so that an old or lost file takes nothing back.
K3: the lock ends with the process, so the time to live is not what bounds a holder here; `renew` looks
whether the lock and the epoch are still its own. It can't fence: a process that is stopped keeps its lock,
and so no other one can take over (K2).
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from staddle import typed
from staddle.api.types import FenceProof, Lease, Member
from staddle.cluster.plugin import SingleConfig
from staddle.errors import Corrupt, Fenced, Locked, StaddleError, UsageError
from staddle.platform.durable import make_directories, write_file_durable
from staddle.platform.lock import FileLock

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
WATCH_POLL_S = 0.2
# `holder` takes the lock for a moment to see whether it is free; a taker must not lose to that.
ACQUIRE_TRIES = 5
ACQUIRE_PAUSE_S = 0.02


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    epoch: int
    holder: str
    ttl_s: float


class SingleClusterManager:
    """Grants leases by name within one directory."""

    def __init__(
        self,
        config: object,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Args: config: a SingleConfig. clock, sleep: seconds, for tests."""
        assert isinstance(config, SingleConfig)
        self._path = config.path
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._held: dict[str, tuple[FileLock, Lease]] = {}

    def acquire(self, name: str, holder: str, ttl_s: float, epoch_floor: int) -> Lease:
        """Take the lease. Raises Locked while another holds it, Corrupt if the epoch can't be read."""
        with self._lock:
            if name in self._held:
                raise Locked(f"{name} is held by {self._held[name][1].holder} in this very process")
            make_directories(self._path)  # the directory too must survive, or its epoch does not
            file_lock = self._take(name)
            try:
                stored = self._read(name)
                epoch = max(stored.epoch if stored else 0, epoch_floor) + 1
                lease = Lease(name=name, holder=holder, epoch=epoch, ttl_s=ttl_s)
                content = _Stored(version=1, epoch=epoch, holder=holder, ttl_s=ttl_s)
                write_file_durable(self._file(name, "epoch"), msgspec.json.encode(content))
            except BaseException:
                file_lock.release()
                raise
            self._held[name] = (file_lock, lease)
            return lease

    def renew(self, lease: Lease) -> Lease:
        """Hold on. Raises Fenced if lock or epoch are no longer ours."""
        with self._lock:
            file_lock, held = self._held.get(lease.name, (None, None))
            if file_lock is None or held != lease or not file_lock.held:
                raise Fenced(f"the lease {lease.name} of epoch {lease.epoch} is lost", scope="cluster")
            stored = self._read(lease.name)
            if stored is None or stored.epoch != lease.epoch:
                text = f"the epoch file of {lease.name} is not that of epoch {lease.epoch}"
                raise Fenced(
                    text, scope="cluster", hint="it was replaced while the manager ran: start it again"
                )
            return lease

    def release(self, lease: Lease) -> None:
        """Give it back."""
        with self._lock:
            file_lock, held = self._held.get(lease.name, (None, None))
            if file_lock is not None and held == lease:
                file_lock.release()
                del self._held[lease.name]

    def holder(self, name: str) -> Lease | None:
        """Who holds it now."""
        with self._lock:
            if name in self._held:
                file_lock, lease = self._held[name]
                return lease if file_lock.held else None
            if not os.path.exists(self._file(name, "lock")):
                return None
            probe = FileLock(self._file(name, "lock"))
            if probe.acquire():
                probe.release()
                return None
            stored = self._read(name)
            if stored is None:
                return None
            return Lease(name=name, holder=stored.holder, epoch=stored.epoch, ttl_s=stored.ttl_s)

    def watch(self, name: str, timeout_s: float) -> Iterator[Lease | None]:
        """The holder now, then each change; ends when `timeout_s` passed without one."""
        seen = self.holder(name)
        yield seen
        until_s = self._clock() + timeout_s
        while self._clock() < until_s:
            self._sleep(min(WATCH_POLL_S, timeout_s))
            now = self.holder(name)
            if now != seen:
                seen = now
                until_s = self._clock() + timeout_s
                yield seen

    def members(self) -> list[Member]:
        """The holders on this one host."""
        try:
            files = sorted(os.listdir(self._path))
        except FileNotFoundError:
            return []
        names = [file.removesuffix(".lock") for file in files if file.endswith(".lock")]
        held = [lease for name in names if _NAME.fullmatch(name) and (lease := self.holder(name))]
        return [Member(lease.holder, alive=True) for lease in held]

    def fence(self, node: str) -> FenceProof:
        """A file lock proves nothing about a node: always refused."""
        raise StaddleError(
            f"cluster manager 'single' can't fence {node!r}: a file lock keeps no process from writing",
            code="NO_FENCE",
            retry="operator",
            scope="cluster",
            hint="end that manager's process by hand, or use a cluster manager that can fence",
        )

    def _take(self, name: str) -> FileLock:
        file_lock = FileLock(self._file(name, "lock"))
        for attempt in range(ACQUIRE_TRIES):
            if attempt:
                self._sleep(ACQUIRE_PAUSE_S)
            if file_lock.acquire():
                return file_lock
        stored = self._read(name)
        by = f"by {stored.holder}, epoch {stored.epoch}" if stored else "by another process"
        raise Locked(f"{name} is held {by} ({self._path})", scope="cluster")

    def _read(self, name: str) -> _Stored | None:
        path = self._file(name, "epoch")
        try:
            with open(path, "rb") as file:
                stored = typed.from_json(file.read(65_536), _Stored)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise Corrupt(
                f"epoch file {path} is damaged: {error}",
                scope="cluster",
                retry="operator",
                hint="if the op-log is whole, remove the file: the epoch goes on from the log's header",
            ) from error
        if stored.version != 1:
            raise Corrupt(f"epoch file {path} has version {stored.version}, known is 1", retry="operator")
        return stored

    def _file(self, name: str, suffix: str) -> str:
        if not _NAME.fullmatch(name):
            raise UsageError(f"lease name {name!r}: lower-case letters, digits, '-' and '_'")
        return os.path.join(self._path, f"{name}.{suffix}")
