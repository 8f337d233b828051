"""The media that an agent reaches: opened on first use, several copies of an object put at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from staddle.api.media import Deadline, Medium, Volume
from staddle.api.types import Buffer, Kind, Label, Receipt, object_name
from staddle.errors import Cancelled, Corrupt, MediumFailed, NotFound, StaddleError
from staddle.ids import Ids

PUT_TRIES = 2
"""Puts of one object under one name: once, and once more when the first is in doubt (M4)."""
GET_BYTES = 8 << 20
"""Most bytes of one get, so that each has its own deadline."""
OBJECT_BYTES_MAX = 300 << 20
"""Longest object that is read whole."""


@dataclass
class PutResult:
    """What became of one object: its receipts, and which media failed with what."""

    receipts: dict[str, Receipt] = field(default_factory=dict)
    failed: dict[str, StaddleError] = field(default_factory=dict)


class MediaSet:
    """An agent's media by name. Safe for use by several threads."""

    def __init__(
        self, media: Mapping[str, Medium], deadlines_s: Mapping[str, float], ids: Ids, puts_in_flight: int = 8
    ) -> None:
        """Args: media: wrapped drivers. deadlines_s: of one call, by medium."""
        self._media = dict(media)
        self._deadlines_s = dict(deadlines_s)
        self._ids = ids
        self._labels: dict[str, Label] = {}
        self._epoch = 0
        self._volumes: dict[str, Volume] = {}
        self._unclosed: list[Volume] = []
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(puts_in_flight, thread_name_prefix="put")

    @property
    def names(self) -> list[str]:
        """The media, in the order of the configuration."""
        return list(self._media)

    def medium(self, name: str) -> Medium:
        """A medium's driver. Raises NotFound for one that this agent does not reach."""
        try:
            return self._media[name]
        except KeyError:
            raise NotFound(
                f"this agent does not reach medium {name!r}", retry="elsewhere", scope="path"
            ) from None

    def deadline(self, name: str) -> Deadline:
        """A fresh deadline for one call on a medium."""
        return Deadline(self._deadlines_s.get(name, 30.0))

    def set_labels(self, labels: Mapping[str, Label], epoch: int) -> None:
        """What the manager says each medium's volume is; an open one of another label is closed."""
        stale: list[Volume] = []
        with self._lock:
            self._epoch = max(self._epoch, epoch)
            for name, label in labels.items():
                if self._labels.get(name) != label:
                    self._labels[name] = label
                    old = self._volumes.pop(name, None)
                    if old is not None:
                        stale.append(old)
        for volume in stale:
            _close_quietly(volume)

    @property
    def labelled(self) -> list[str]:
        """The media whose volume is known, so that they can be used."""
        with self._lock:
            return list(self._labels)

    def volume(self, name: str) -> Volume:
        """The open volume of a medium; opened, and its label checked, on first use."""
        medium = self.medium(name)
        with self._lock:
            volume = self._volumes.get(name)
            label = self._labels.get(name)
        if volume is not None:
            return volume
        if label is None:
            raise MediumFailed(
                f"medium {name!r} has no label yet", hint="the manager labels it when it is up"
            )
        opened = medium.open(label, "write", self._epoch, self.deadline(name))
        with self._lock:
            kept = self._volumes.setdefault(name, opened)
        if kept is not opened:
            _close_quietly(opened)
        return kept

    def forget(self, name: str) -> None:
        """Close a volume after an error, so that the next use proves its identity again."""
        with self._lock:
            volume = self._volumes.pop(name, None)
            if volume is None:
                return
            volumes, self._unclosed = [*self._unclosed, volume], []
        # A hung driver hangs in `close` too, and nobody has to wait for that.
        try:
            threading.Thread(target=_close_all, args=(volumes,), name=f"close-{name}", daemon=True).start()
        except RuntimeError:  # no thread is left: with the next one
            with self._lock:
                self._unclosed += volumes

    def get(self, name: str, object_name: str, size_bytes: int) -> Buffer:
        """A whole object, read in pieces with a deadline each. Raises Corrupt if it is too long."""
        if not 0 <= size_bytes <= OBJECT_BYTES_MAX:
            raise Corrupt(f"{object_name} on medium {name!r}: {size_bytes} bytes are too many")
        volume = self.volume(name)
        data = bytearray(size_bytes)
        for at in range(0, size_bytes, GET_BYTES):
            length = min(GET_BYTES, size_bytes - at)
            data[at : at + length] = volume.get(object_name, at, length, self.deadline(name))
        return data

    def put(
        self,
        kind: Kind,
        object_id: bytes,
        parts: Sequence[Buffer],
        digest: bytes,
        media: Sequence[str],
        *,
        placement: bytes | None = None,
    ) -> PutResult:
        """Put one object on every medium named, at once. Never raises for a medium: see `failed`.

        Args:
            kind: what it is.
            object_id: 16 bytes.
            parts: its bytes, in order.
            digest: unkeyed BLAKE3-256 of them.
            media: where to.
            placement: 8 bytes; random ones by default, new for each medium (M4).
        """
        result = PutResult()
        futures: dict[str, Future[Receipt]] = {}

        def put(medium: str, name: str) -> Receipt:
            if medium in result.failed:
                raise Cancelled("nobody waits for it, and its buffer has another use by now")
            return self._put_one(medium, name, parts, digest)

        for name in media:
            try:
                whole_name = object_name(kind, object_id, placement or self._ids.random(8))
                futures[name] = self._pool.submit(put, name, whole_name)
            except RuntimeError as error:  # no thread is left; the pool may begin it later all the same
                result.failed[name] = MediumFailed(
                    f"medium {name!r}: no thread for its copy: {error}", scope="agent"
                )
        for name, future in futures.items():
            try:
                result.receipts[name] = future.result()
            except StaddleError as error:
                result.failed[name] = error
            except Exception as error:  # noqa: BLE001 a driver's bug is a failed medium, never the agent's end
                result.failed[name] = MediumFailed(
                    f"medium {name!r}: {type(error).__name__}: {error}", outcome="in_doubt"
                )
        return result

    def _put_one(self, medium: str, name: str, parts: Sequence[Buffer], digest: bytes) -> Receipt:
        for tried in range(1, PUT_TRIES + 1):
            try:
                return self.volume(medium).put(name, parts, digest, self.deadline(medium))
            except StaddleError as error:
                if error.scope in {"medium", "volume", "path"} and error.code != "MEDIUM_FULL":
                    self.forget(medium)
                # The same bytes under the same name again are safe, whatever became of the first try.
                if error.outcome != "in_doubt" or error.code == "DEADLINE" or tried == PUT_TRIES:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close everything. Idempotent."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            volumes, self._volumes = [*self._volumes.values(), *self._unclosed], {}
            self._unclosed = []
        _close_all(volumes)
        for medium in self._media.values():
            with contextlib.suppress(StaddleError):
                medium.close()


def _close_all(volumes: Sequence[Volume]) -> None:
    for volume in volumes:
        _close_quietly(volume)


def _close_quietly(volume: Volume) -> None:
    with contextlib.suppress(Exception):
        volume.close()
