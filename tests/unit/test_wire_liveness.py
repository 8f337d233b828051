"""Who is let in, and how a link ends: greeting, silence, close."""

from __future__ import annotations

import asyncio

import pytest

from staddle import errors
from staddle.errors import Denied, InDoubt, PathLost
from staddle.wire.endpoint import NO_CREDENTIALS, connect, serve
from staddle.wire.frames import PAYLOAD_BYTES_MAX
from staddle.wire.handlers import Handlers
from staddle.wire.limits import LinkLimits
from staddle.wire.messages import Hello

MANAGER = Hello(name="m", role="manager", grid=bytes(16), release="0.1.0")
CLIENT = Hello(name="c1", role="client")
FAST = LinkLimits(ping_s=0.05, silence_s=0.3, greeting_s=0.5, frame_s=0.5)
MIB = 1 << 20


def standard_handlers():
    handlers = Handlers()

    async def nothing(call):
        return None

    async def sleep(call):
        await asyncio.sleep(call.args["s"])

    handlers.add("nothing", nothing, roles=["client"])
    handlers.add("sleep", sleep, roles=["client"])
    return handlers


class Pair:
    """A server and one connected client over `mem`."""

    def __init__(
        self,
        handlers=None,
        *,
        hello=CLIENT,
        limits=None,
        server_limits=None,
        client_handlers=None,
        url="mem://",
    ):
        self.args = handlers or standard_handlers(), hello, limits, server_limits, client_handlers, url

    async def __aenter__(self):
        handlers, hello, limits, server_limits, client_handlers, url = self.args
        self.accepted = []
        self.server = await serve(
            url, NO_CREDENTIALS, MANAGER, handlers, self.accepted.append, limits=server_limits
        )
        self.link = await connect(
            self.server.url, NO_CREDENTIALS, hello, client_handlers, expect_role="manager", limits=limits
        )
        return self

    async def __aexit__(self, *exc):
        await self.link.close(0.2)
        await self.server.close(0.2)

    @property
    def there(self):
        return self.accepted[0]


def run(work, timeout_s=20):
    async def bounded():
        async with asyncio.timeout(timeout_s):
            return await work

    return asyncio.run(bounded())


def test_a_peer_of_the_wrong_role_or_name_or_grid_is_denied():
    async def work():
        server = await serve("mem://", NO_CREDENTIALS, MANAGER, Handlers())
        cases = [
            ({"expect_role": "agent"}, CLIENT),
            ({"expect_role": "manager", "expect_name": "other"}, CLIENT),
            ({"expect_role": "manager"}, Hello(name="x", role="king")),
            ({"expect_role": "manager"}, Hello(name="../x", role="client")),
            ({"expect_role": "manager"}, Hello(name="x", role="client", grid=b"0123456789abcdef")),
        ]
        for expect, hello in cases:
            with pytest.raises(Denied):
                await connect(server.url, NO_CREDENTIALS, hello, **expect)
        await server.close()

    run(work())


def test_on_link_may_refuse_a_member():
    def admit(link):
        if link.peer.name == "removed":
            raise Denied("removed was taken out of the grid")

    async def work():
        server = await serve("mem://", NO_CREDENTIALS, MANAGER, standard_handlers(), admit)
        with pytest.raises(Denied, match="taken out"):
            await connect(
                server.url, NO_CREDENTIALS, Hello(name="removed", role="client"), expect_role="manager"
            )
        link = await connect(server.url, NO_CREDENTIALS, CLIENT, expect_role="manager")
        await link.close()
        await server.close()

    run(work())


def test_neighbouring_versions_talk_and_others_are_told_apart():
    async def work():
        old, new = [Hello(name="c", role="client", versions=v, release=str(v)) for v in ((1,), (3, 4))]
        server = await serve(
            "mem://", NO_CREDENTIALS, Hello(name="m", role="manager", versions=(1, 2)), Handlers()
        )
        link = await connect(server.url, NO_CREDENTIALS, old, expect_role="manager")
        await link.close()
        with pytest.raises(errors.NewerFormat):
            await connect(server.url, NO_CREDENTIALS, new, expect_role="manager")
        await server.close()

    run(work())


def test_a_silent_peer_is_lost_after_the_silence_time():
    async def work():
        async with Pair(limits=FAST) as pair:
            loop = asyncio.get_running_loop()
            task = asyncio.create_task(pair.link.request("sleep", {"s": 10}))
            await asyncio.sleep(0.4)
            assert pair.link.error is None, "pings keep an idle link alive"
            start_s = loop.time()
            pair.there._writer.now = lambda *args, **kwargs: None  # the peer stops answering
            pair.there._timer.cancel()
            with pytest.raises(InDoubt, match="silent"):
                await task
            assert 0.2 < loop.time() - start_s < 1.5
            assert isinstance(pair.link.error, PathLost)

    run(work())


def test_a_process_that_was_stopped_itself_does_not_blame_its_peer():
    async def work():
        async with Pair(limits=FAST, server_limits=LinkLimits()) as pair:
            link = pair.link
            link._heard = False
            link._timer.cancel()
            link._tick(asyncio.get_running_loop().time() - 60)
            assert link.error is None
            await asyncio.sleep(0.4)
            assert link.error is None

    run(work())


def test_closing_lets_running_handlers_finish():
    done = []

    async def slow(call):
        await asyncio.sleep(0.1)
        done.append(1)

    handlers = Handlers()
    handlers.add("slow", slow, roles=["client"])

    async def work():
        async with Pair(handlers) as pair:
            task = asyncio.create_task(pair.link.request("slow"))
            await asyncio.sleep(0.02)
            await pair.server.close(1.0)
            assert (await task).args == {}
        with pytest.raises(PathLost):
            await connect(pair.server.url, NO_CREDENTIALS, CLIENT, expect_role="manager")

    run(work())
    assert done == [1]


def test_a_handler_may_close_its_own_link():
    async def bye(call):
        await call.link.close()

    handlers = Handlers()
    handlers.add("bye", bye, roles=["client"])

    async def work():
        async with Pair(handlers) as pair:
            async with asyncio.timeout(1):
                with pytest.raises(InDoubt, match="closed the link"):
                    await pair.link.request("bye")

    run(work())


def test_handlers_refuse_double_names_and_unknown_roles():
    handlers = standard_handlers()

    async def nothing(call):
        return None

    for op, roles in (("nothing", ["client"]), ("new", ["king"]), ("new", [])):
        with pytest.raises(ValueError, match="cannot add"):
            handlers.add(op, nothing, roles=roles)
    assert PAYLOAD_BYTES_MAX == MIB
