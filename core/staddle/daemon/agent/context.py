"""What all parts of an agent's data process share: role, keys, media, the way to the manager."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Mapping
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from staddle import typed
from staddle.daemon.agent.epochfile import load_epoch, store_epoch
from staddle.daemon.agent.lru import ByteLru
from staddle.daemon.agent.store import MediaSet
from staddle.data.crypto import DomainKeys
from staddle.data.pipeline import Pipeline
from staddle.dedup.library import Library
from staddle.dedup.ownermap import OwnerMap
from staddle.errors import Denied, Fenced, StaddleError, Unavailable
from staddle.ids import Ids
from staddle.platform.durable import write_file_durable
from staddle.wire.ops.base import Operation
from staddle.wire.redial import Redial
from staddle.wire.tickets import open_ticket

WRITTEN_BYTES_MAX = 16 << 20
PROOF_BYTES_MAX = 1024
Columns = tuple[NDArray[np.uint8], NDArray[np.uint32]]

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Signed = TypeVar("Signed")


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """What the manager has told this agent last. Keys stand in no repr."""

    grid: bytes
    manager_epoch: int
    ticket_key: bytes
    domains: Mapping[str, DomainKeys]
    owner_map: OwnerMap
    epoch_proof: bytes = b""


class AgentContext:
    """Shared by everything in the process. What is not said to belong to the loop is safe for threads.

    Attributes:
        name: of the agent.
        directory: its state.
        media: what it reaches.
        ids: where ids and keys come from.
        pipeline: buffers and threads of the data path.
        epoch_proof: that manager's proof that it had the epoch.
        manager: the link to the manager; belongs to the loop. Set once, before anything is served.
        libraries: fingerprint libraries by domain.
        written: directories of containers that this agent has stored lately, for the library: fingerprints
            (n, 32) u8 and raw lengths (n,).
    """

    manager: Redial

    def __init__(self, name: str, directory: str, media: MediaSet, ids: Ids, pipeline: Pipeline) -> None:
        self.name = name
        self.directory = directory
        self.media = media
        self.ids = ids
        self.pipeline = pipeline
        self.libraries: dict[str, Library] = {}
        self.written: ByteLru[bytes, Columns] = ByteLru(WRITTEN_BYTES_MAX)
        self.loop = asyncio.get_running_loop()
        self._role: Role | None = None
        self._epoch_path = os.path.join(directory, "manager-epoch")
        self._epoch = load_epoch(self._epoch_path)
        self._proof_path = os.path.join(directory, "manager-epoch-proof")
        self.epoch_proof = self._stored_proof()
        self._lock = threading.Lock()
        self._closing = False

    # --- role -------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        """What the manager said. Raises Unavailable while no manager has been heard of."""
        if self._role is None:
            raise Unavailable(
                f"agent {self.name!r} has not heard from its manager yet",
                hint="start the manager, or see why it can't be reached in the agent's log",
                scope="agent",
            )
        return self._role

    def take_role(self, role: Role) -> None:
        """Follow this manager. Raises Fenced for one with a lower epoch than was seen before (K3)."""
        with self._lock:
            self.check_epoch(role.manager_epoch)
            if role.manager_epoch > self._epoch:
                # The proof first: without it a manager of a lower epoch would not believe this agent.
                if role.epoch_proof:
                    write_file_durable(self._proof_path, role.epoch_proof)
                    self.epoch_proof = role.epoch_proof
                store_epoch(self._epoch_path, role.manager_epoch)
                self._epoch = role.manager_epoch
            self._role = role

    @property
    def manager_epoch(self) -> int:
        """The highest that was ever followed; 0 for none."""
        return self._epoch

    def check_epoch(self, manager_epoch: int) -> None:
        """Raise Fenced for what an earlier manager has said (K3)."""
        if manager_epoch < self._epoch:
            raise Fenced(
                f"manager epoch {manager_epoch} is over: agent {self.name!r} has seen {self._epoch}",
                hint="another manager has taken over; stop the old one",
            )

    def _stored_proof(self) -> bytes:
        try:
            with open(self._proof_path, "rb") as handle:
                return handle.read(PROOF_BYTES_MAX)
        except FileNotFoundError:
            return b""

    def keys(self, domain: str) -> DomainKeys:
        """Of a dedup domain. Raises Denied for one that was not assigned to this agent."""
        found = self.role.domains.get(domain)
        if found is None:
            raise Denied(
                f"agent {self.name!r} holds no keys of dedup domain {domain!r}",
                retry="elsewhere",
                scope="agent",
            )
        return found

    def keys_by_id(self, domain_id: bytes) -> DomainKeys:
        """Likewise, by the id that stands in an object's head."""
        for keys in self.role.domains.values():
            if keys.domain_id == domain_id:
                return keys
        raise Denied(
            f"agent {self.name!r} holds no keys of dedup domain {domain_id.hex()}",
            retry="elsewhere",
            scope="agent",
        )

    def opened(self, signed: bytes, kind: type[Signed]) -> Signed:
        """The content of what the manager has signed. Raises Denied."""
        blob = open_ticket(signed, self.role.ticket_key)
        try:
            return typed.unpack(blob, kind)
        except msgspec.MsgspecError as error:
            raise Denied(f"a ticket that is none: {error}", retry="never") from error

    # --- the manager, from threads ------------------------------------------------------------------

    def ask(
        self, operation: Operation[Request, Answer], request: Request, *, patience_s: float = 0.0
    ) -> Answer:
        """Call the manager from a thread; tries again for `patience_s` while it is away.

        Raises: what the manager said, or the last transport error.
        """
        if self._closing:
            raise Unavailable("the agent is going down", retry="elsewhere", scope="agent")
        call = self.manager.call_patiently(operation, request, patience_s=patience_s, timeout_s=10.0)
        future = asyncio.run_coroutine_threadsafe(call, self.loop)
        try:
            return future.result(patience_s + 30.0)
        except TimeoutError:
            future.cancel()
            raise Unavailable(f"the manager did not answer {operation.name} in time") from None
        except concurrent.futures.CancelledError:
            raise Unavailable("the agent is going down", retry="elsewhere", scope="agent") from None

    def close(self) -> None:
        """No further questions; libraries are closed. Call from a thread."""
        self._closing = True
        libraries, self.libraries = list(self.libraries.values()), {}
        for library in libraries:
            try:
                library.close()
            except (StaddleError, OSError):
                continue  # a cache: the next start replays its log
