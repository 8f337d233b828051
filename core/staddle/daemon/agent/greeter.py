"""Says hello to each manager, and does what its welcome asks: labels, keyring, keys, libraries."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

from staddle import typed
from staddle.api.media import Deadline
from staddle.api.types import Kind, Label, object_name
from staddle.daemon.agent.context import AgentContext, Role
from staddle.data import label as label_format
from staddle.data.crypto import DomainKeys, digest
from staddle.dedup.library import Library
from staddle.dedup.ownermap import OwnerMap
from staddle.errors import NotFound, StaddleError, Unavailable
from staddle.platform.shortage import is_shortage
from staddle.wire.link import Link
from staddle.wire.ops.agents import AGENT_HELLO, AgentHello, AgentWelcome

log = logging.getLogger(__name__)

LABEL_DEADLINE_S = 5.0
"""For one look at a label. A medium that hangs must not keep the agent from its manager."""
LOOK_AGAIN_S = 5.0
AGAIN_S = 1.0
"""After what kept the agent from greeting."""
KEYRING_AGAIN_MAX_S = 60.0
"""A medium that takes no keyring is asked less and less often: it may be full, or a tape."""
HELLO_TIMEOUT_S = 30.0
PLACEMENT_BYTES = 8

_domain_keys: typed.Decoder[DomainKeys] = typed.decoder(DomainKeys)


class Greeter:
    """Belongs to the loop; looks at media in threads.

    Attributes:
        greeted: set once the first manager was followed.
    """

    def __init__(self, context: AgentContext) -> None:
        self._context = context
        self._urls: tuple[str, ...] = ()
        self._labels: dict[str, bytes] = {}
        self._untold: set[str] = set()
        self._media_pool = ThreadPoolExecutor(max(len(context.media.names), 1), thread_name_prefix="label")
        self._keyring: tuple[bytes, bytes] | None = None
        self._with_keyring: set[str] = set()
        self._without_keyring: dict[str, str] = {}
        self._keeping: dict[str, Future[None]] = {}
        self._keyring_due: dict[str, tuple[float, float]] = {}
        self._said: dict[str, str] = {}
        self._opening = threading.Lock()
        self.greeted = asyncio.Event()

    def serves_at(self, urls: Iterable[str]) -> None:
        """Where clients find this agent, best first. Before the first hello."""
        self._urls = tuple(urls)

    async def on_connected(self, link: Link) -> None:
        """A new link to a manager: say hello first of all. Raises StaddleError: what it said; Fenced."""
        try:
            await self._greet(link)
        except StaddleError:
            raise
        except Exception as error:
            text = f"agent {self._context.name} can't follow the manager: {error or type(error).__name__}"
            if _is_of_host(error):
                hint = "make room on the agent's disk, or give it more descriptors"
                raise Unavailable(text, hint=hint, scope="agent") from error
            log.exception("the manager can't be greeted, it is tried again")
            raise Unavailable(text, hint="see the agent's log", scope="agent") from error

    async def _greet(self, link: Link) -> None:
        await asyncio.to_thread(self._read_labels)
        labels = dict(self._labels)
        self._untold.difference_update(labels)
        try:
            await self._say_hello(link, labels)
        except BaseException:
            self._untold.update(labels)
            raise
        self.greeted.set()

    async def _say_hello(self, link: Link, labels: dict[str, bytes]) -> None:
        request = AgentHello(
            part="data",
            pid=os.getpid(),
            urls=self._urls,
            labels=labels,
            manager_epoch=self._context.manager_epoch,
            epoch_proof=self._context.epoch_proof,
        )
        reply = await link.request(AGENT_HELLO.name, request, timeout_s=HELLO_TIMEOUT_S)
        await asyncio.to_thread(self._follow, AGENT_HELLO.decode(reply))

    async def run(self) -> None:
        """Stay connected, and tell the manager of media that can be read only now. Until cancelled."""
        while True:
            try:
                link = await self._context.manager.link()
                if await asyncio.to_thread(self._read_labels):
                    await self.on_connected(link)
                await asyncio.to_thread(self._keep_keyrings)
                await asyncio.to_thread(self._open_libraries)
            except Exception as error:
                if isinstance(error, StaddleError) or _is_of_host(error):
                    log.info("no manager now: %s", error or type(error).__name__)
                else:
                    log.exception("the manager can't be greeted, it is tried again")
                await asyncio.sleep(AGAIN_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await link.wait_closed()

    def close(self) -> None:
        """End the threads; one that hangs is left behind."""
        self._media_pool.shutdown(wait=False, cancel_futures=True)

    # --- in threads -----------------------------------------------------------------------------------

    def _read_labels(self) -> bool:
        """Look at the media whose label is not known yet. Whether there is what no manager has heard of."""
        missing = [name for name in self._context.media.names if name not in self._labels]
        futures = {self._media_pool.submit(self._read_label, name): name for name in missing}
        try:
            for future in as_completed(futures, LABEL_DEADLINE_S + 1.0):
                text = future.result()
                if text is not None:
                    self._labels[futures[future]] = text
                    self._untold.add(futures[future])
        except TimeoutError:
            late = ", ".join(name for future, name in futures.items() if not future.done())
            log.warning("no answer from %s", late)
        return bool(self._untold)

    def _read_label(self, name: str) -> bytes | None:
        try:
            return self._context.media.medium(name).read_label(Deadline(LABEL_DEADLINE_S))
        except NotFound as error:
            # A place that is gone is not a new one: to label it would shut out what belongs there.
            return None if error.scope == "medium" else b""
        except StaddleError as error:
            log.warning("medium %s: its label can't be read: %s", name, error)
            return None

    def _follow(self, welcome: AgentWelcome) -> None:
        """Take the role; raises Fenced for a manager that was replaced (K3)."""
        decoded = [_domain_keys.decode(each) for each in welcome.domains]
        role = Role(
            grid=welcome.grid,
            manager_epoch=welcome.manager_epoch,
            ticket_key=welcome.ticket_key,
            domains={keys.domain: keys for keys in decoded},
            owner_map=OwnerMap.from_bytes(welcome.owner_map) if welcome.owner_map else OwnerMap.everyone(),
            epoch_proof=welcome.epoch_proof,
        )
        self._context.take_role(role)
        labels = self._decoded(welcome.labels)
        for name, found in list(self._labels.items()):
            # The wrong volume, or none where one should be: the right one may be there by the next look.
            if found != welcome.labels.get(name) and name not in welcome.fresh:
                del self._labels[name]
        fresh = [name for name in welcome.fresh if self._labels.get(name) == b"" and name in labels]
        futures = [self._media_pool.submit(self._initialise, n, labels[n], welcome.labels[n]) for n in fresh]
        for future in futures:
            future.result()
        self._context.media.set_labels(labels, welcome.manager_epoch)
        self._open_libraries()
        self._keyring = welcome.grid, welcome.keyring
        self._keep_keyrings()

    def _decoded(self, texts: dict[str, bytes]) -> dict[str, Label]:
        labels = {}
        for name, text in texts.items():
            if name in self._context.media.names:
                try:
                    labels[name] = label_format.decode(text)
                except StaddleError as error:
                    log.error("medium %s: the manager's label can't be read: %s", name, error)
        return labels

    def _initialise(self, name: str, label: Label, text: bytes) -> None:
        media = self._context.media
        try:
            media.medium(name).initialize(label, text, media.deadline(name))
        except StaddleError as error:
            # Another agent may have labelled it just now, with this very text or not: look again.
            log.warning("medium %s was not labelled: %s", name, error)
            self._labels.pop(name, None)
            return
        self._labels[name] = text
        log.info("medium %s is labelled as volume %s", name, label.volume.hex())

    def _keep_keyrings(self) -> None:
        """Begin to put the keyring where it is not known to lie; what refuses it is asked again later."""
        if self._keyring is None:
            return
        now_s = time.monotonic()
        for name in self._context.media.labelled:
            due_s, pause_s = self._keyring_due.get(name, (now_s, LOOK_AGAIN_S))
            keeping = self._keeping.get(name)
            if name in self._with_keyring or now_s < due_s or (keeping is not None and not keeping.done()):
                continue
            self._keyring_due[name] = now_s + pause_s, min(2 * pause_s, KEYRING_AGAIN_MAX_S)
            self._keeping[name] = self._media_pool.submit(self._keep_keyring, name, *self._keyring)

    def _keep_keyring(self, name: str, grid: bytes, keyring: bytes) -> None:
        """One keyring on each medium, always under the same name, so that no second one comes about."""
        media = self._context.media
        whole = digest([keyring])
        placement = whole[:PLACEMENT_BYTES]
        try:
            try:
                media.volume(name).stat(object_name(Kind.KEYRING, grid, placement), media.deadline(name))
            except NotFound:
                failed = media.put(Kind.KEYRING, grid, [keyring], whole, [name], placement=placement).failed
                if failed:
                    raise failed[name] from None
            self._with_keyring.add(name)
        except Exception as error:
            if self._without_keyring.get(name) != str(error):
                self._without_keyring[name] = str(error)
                lines = None if isinstance(error, StaddleError) or _is_of_host(error) else error
                log.warning("medium %s has no keyring yet: %s", name, error, exc_info=lines)

    def _open_libraries(self) -> None:
        """What is not open yet, and the owner map of what is. Nothing to do is the usual case."""
        with self._opening:  # it is called on every greeting, too: a library can be opened once
            self._open_each()

    def _open_each(self) -> None:
        context = self._context
        role = context.role
        for domain in role.domains:
            library = context.libraries.get(domain)
            try:
                if library is None:
                    path = os.path.join(context.directory, "library", domain)
                    context.libraries[domain] = Library.open(path, context.name, role.owner_map)
                elif library.owner_map.version < role.owner_map.version:
                    library.set_owner_map(role.owner_map)
            except (StaddleError, OSError) as error:
                # Without it everything is stored again: space, not a failure. It is tried again soon.
                if self._said.get(domain) != str(error):
                    self._said[domain] = str(error)
                    log.error("the fingerprint library of %s can't be used: %s", domain, error)
            else:
                self._said.pop(domain, None)


def _is_of_host(error: Exception) -> bool:
    """Whether it speaks of this host, its disk above all, and not of a defect."""
    return isinstance(error, OSError) or is_shortage(error)
