"""The loops of the daemons outlive what goes wrong in them: nobody would miss one that ended in silence."""

import asyncio
import contextlib

import pytest

from staddle.daemon import loops
from staddle.daemon.agent.greeter import Greeter
from staddle.daemon.agent.publisher import Publisher
from staddle.daemon.manager.catalog_link import CatalogLink
from staddle.errors import NotFound, Unavailable

SCARCE = [OSError(24, "Too many open files"), RuntimeError("can't start new thread"), Unavailable("away")]


class AGENT_HELLO_OF_ANY:  # noqa: N801 - stands for the operation
    name = "agent.hello"
    decode = staticmethod(lambda reply: reply)


@pytest.fixture
def hasty(monkeypatch):
    """No pause takes longer than a turn of the loop."""
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda _: sleep(0))


async def cancelled_after(work, met):
    """Let a loop run until `met` is set, and end it."""
    task = asyncio.create_task(work)
    waiting = asyncio.create_task(met.wait())
    await asyncio.wait({task, waiting}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    assert not task.done(), task
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert met.is_set()


@pytest.mark.parametrize("error", [*SCARCE, ValueError("nobody had thought of it")])
def test_the_catalog_is_fed_again_whatever_its_start_met(hasty, error):
    async def play():
        link, met, errors = (
            object.__new__(CatalogLink),
            asyncio.Event(),
            iter([error, Unavailable("no"), None]),
        )
        link._link, link._child, link._pending, link._manifests = None, None, [], []

        async def begin():
            if (raised := next(errors, None)) is not None:
                raise raised
            link._link = object()

        async def feed():
            if link._link is None:
                raise Unavailable("gone")
            met.set()
            await asyncio.Event().wait()

        link._begin, link._feed_once, link.on_begun_again = begin, feed, lambda: None
        await cancelled_after(link._feed(), met)

    asyncio.run(play())


@pytest.mark.parametrize("error", [*SCARCE, ValueError("nobody had thought of it")])
def test_an_agent_goes_on_greeting(hasty, error):
    async def play():
        met, errors = asyncio.Event(), iter([error])

        class Context:
            class manager:  # noqa: N801 - an attribute of that name
                @staticmethod
                async def link():
                    for raised in errors:
                        raise raised
                    met.set()
                    await asyncio.Event().wait()

        greeter = object.__new__(Greeter)
        greeter._context = Context
        await cancelled_after(greeter.run(), met)

    asyncio.run(play())


def test_an_agent_whose_disk_is_full_follows_later_and_says_so():
    async def play():
        class Media:
            names = ()

        class Context:
            name = "a1"
            media = Media
            manager_epoch, epoch_proof = 0, b""

        class Link:
            async def request(self, *_, **__):
                return b""

        greeter = Greeter(Context)
        greeter._read_labels = lambda: False

        def follow(_):
            raise OSError(28, "No space left on device")

        greeter._follow = follow
        with pytest.raises(
            Unavailable, match=r"agent a1 can't follow the manager: .*No space left on device"
        ):
            await greeter.on_connected(Link())
        greeter.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("staddle.daemon.agent.greeter.AGENT_HELLO", AGENT_HELLO_OF_ANY)
        asyncio.run(play())


@pytest.mark.parametrize("error", [*SCARCE, ValueError("nobody had thought of it")])
def test_a_library_that_can_not_be_told_keeps_none_from_being_told_later(error):
    async def play():
        met, errors = asyncio.Event(), iter([error])

        class Library:
            refused = False
            damaged = staticmethod(tuple)

        class Context:
            libraries = {"default": Library}  # noqa: RUF012

        async def catch_up(domain, library):
            for raised in errors:
                publisher.wake()
                raise raised
            met.set()

        publisher = Publisher(Context, None, lambda: False)
        publisher._catch_up = catch_up
        publisher.wake()
        await cancelled_after(publisher.run(), met)

    asyncio.run(play())


def test_what_was_said_takes_no_more_and_more_memory(caplog):
    async def play():
        complaints = loops.Complaints()
        for number in range(3 * loops.SAID_MAX):
            context = {"message": f"Exception in callback <Handle {number}>", "exception": SCARCE[0]}
            complaints(asyncio.get_running_loop(), context)
        return len(complaints._said_s)

    assert asyncio.run(play()) <= loops.SAID_MAX
    assert len(caplog.records) == 3 * loops.SAID_MAX


def test_a_loop_that_is_short_of_something_says_so_once_and_of_all_else_what_asyncio_says(caplog):
    async def play():
        loop = asyncio.get_running_loop()
        for error in (OSError(24, "Too many open files"), *SCARCE[:2], MemoryError()) * 30:
            loop.call_exception_handler({"message": "accept failed\nsocket: x", "exception": error})
        loop.call_exception_handler({"message": "a task has ended", "exception": SCARCE[1]})
        loop.call_exception_handler({"message": "unheard of", "exception": ValueError("of no host")})
        loop.call_exception_handler({"message": "without one"})
        return 7

    assert loops.run(play()) == 7
    short, *rest = [record.getMessage() for record in caplog.records]
    assert short == "accept failed"
    assert caplog.records[0].exc_info[1].errno == 24
    assert [line.split("\n")[0] for line in rest] == ["a task has ended", "unheard of", "without one"]


class Child:
    """A process of the catalog that has died."""

    pid = 1

    def __init__(self):
        self.waited = 0
        self.stdin = self.stdout = self

    def close(self):
        pass

    def wait(self, timeout=None):
        self.waited += 1


def test_a_catalog_that_died_is_waited_for_however_often_that_fails(hasty, monkeypatch):
    async def play():
        link, met, child = object.__new__(CatalogLink), asyncio.Event(), Child()
        link._link, link._child, link._pending, link._manifests = None, child, [], []
        to_thread, errors = asyncio.to_thread, iter(SCARCE)

        async def short(work, *args):
            for raised in errors:
                raise raised
            return await to_thread(work, *args)

        async def begin():
            assert child.waited == 1, "it is not forgotten before it was waited for"
            link._link = object()

        async def feed():
            if link._link is None:
                raise Unavailable("gone")
            met.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(asyncio, "to_thread", short)
        link._begin, link._feed_once, link.on_begun_again = begin, feed, lambda: None
        await cancelled_after(link._feed(), met)
        assert link.pid == 0

    asyncio.run(play())


def test_a_feeder_that_ends_is_heard_of():
    async def play():
        heard = asyncio.get_running_loop().create_future()

        class Managing:
            subscribe = staticmethod(lambda _: None)
            loop_ended = staticmethod(heard.set_result)

        async def begin():
            pass

        async def fail():
            raise ValueError("nobody had thought of it")

        link = CatalogLink(Managing, None, "home")
        link._begin, link._feed = begin, fail
        await link.start()
        ended = await asyncio.wait_for(heard, 20)
        assert isinstance(ended.exception(), ValueError)

    asyncio.run(play())


@pytest.mark.parametrize(
    ("error", "kept"), [(Unavailable("no room", code="CATALOG_FAILED"), True), (NotFound("pruned"), False)]
)
def test_a_manifest_stays_only_if_it_may_be_taken_later(hasty, error, kept):
    async def play():
        told = []

        class Link:
            error = None

            async def request(self, name, request, plain, **_):
                told.append(request.backup)
                if told == [1]:
                    raise error
                if len(told) == (3 if kept else 2):
                    met.set()

        met = asyncio.Event()
        link = CatalogLink(None, None, "home")
        link._link = Link()
        for backup in (1, 2):
            link.add_manifest(backup, bytes(16), b"plain")
        await cancelled_after(link._feed(), met)
        assert told == ([1, 2, 1] if kept else [1, 2]), "it keeps no other from its turn"

    asyncio.run(play())
