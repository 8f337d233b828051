"""The `unix` and `mem` transports, their plugin, and the blocking facade."""

from __future__ import annotations

import asyncio
import os
import pathlib
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from staddle.api.transport import TransportType
from staddle.errors import Cancelled, ConfigError, DeadlineExceeded, Denied, Locked, MediumFull, PathLost
from staddle.platform.peercred import peer_uid
from staddle.wire import plugin
from staddle.wire.endpoint import NO_CREDENTIALS, connect, serve, transport_for
from staddle.wire.greeting import LOCAL
from staddle.wire.handlers import Handlers
from staddle.wire.messages import Hello
from staddle.wire.sync import OUTBOX_BYTES_MAX, LoopThread, SyncChannel, SyncLink
from staddle.wire.unix import UnixTransport, parse_unix_url

MANAGER = Hello(name="m", role="manager")
CLIENT = Hello(name="c", role="client")
MIB = 1 << 20
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="local sockets")


def run(work, timeout_s=20):
    async def bounded():
        async with asyncio.timeout(timeout_s):
            return await work

    return asyncio.run(bounded())


def echo_handlers():
    made = Handlers()

    async def echo(call):
        return {"role": call.peer.role}, call.payload

    made.add("echo", echo, roles=["client", "agent", "admin", "manager"])
    return made


@pytest.fixture
def short_dir():
    with tempfile.TemporaryDirectory(prefix="st") as directory:
        yield directory


@posix_only
def test_a_local_socket_is_private_and_its_peer_is_the_same_user(short_dir):
    async def work():
        path = os.path.join(short_dir, "run", "m.sock")
        server = await serve(f"unix://{path}", NO_CREDENTIALS, MANAGER, echo_handlers())
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
        for role in ("client", "agent", "admin", "manager"):
            link = await connect(
                server.url, NO_CREDENTIALS, Hello(name="x", role=role), expect_role="manager"
            )
            assert (await link.request("echo", payload=bytes(3 * MIB))).args == {"role": role}
            await link.close()
        for role in ("joiner", "local", "root"):
            with pytest.raises(Denied):
                await connect(server.url, NO_CREDENTIALS, Hello(name="x", role=role), expect_role="manager")
        await server.close()
        assert not os.path.exists(path)

    run(work())


@posix_only
def test_the_kernel_says_who_the_peer_is():
    left, right = socket.socketpair()
    with left, right:
        assert peer_uid(left) == os.getuid()


@posix_only
def test_another_users_process_is_denied(monkeypatch):
    left, right = socket.socketpair()

    class Transport(asyncio.BaseTransport):
        def get_extra_info(self, name, default=None):
            return left

    with left, right:
        assert UnixTransport().peer(Transport()).role == LOCAL
        real = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: real + 1)
        with pytest.raises(Denied, match="user"):
            UnixTransport().peer(Transport())


@posix_only
@pytest.mark.skipif(sys.platform == "win32" or os.getuid() != 0, reason="needs root to become another user")
def test_a_process_of_another_user_is_denied_for_real(short_dir):
    async def work():
        path = os.path.join(short_dir, "d", "s")
        server = await serve(f"unix://{path}", NO_CREDENTIALS, MANAGER, echo_handlers())
        os.chmod(short_dir, 0o755)
        os.chmod(os.path.dirname(path), 0o755)
        os.chmod(path, 0o666)  # even so
        code = (
            "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.settimeout(5);"
            "s.connect(sys.argv[1]); d = b''\n"
            "while (c := s.recv(4096)): d += c\n"
            "sys.exit(0 if b'DENIED' in d else 1)"
        )
        done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, path], timeout=15)
        assert done.returncode == 0
        await server.close()

    run(work())


@posix_only
def test_a_dead_servers_socket_is_taken_over_a_living_ones_is_not(short_dir):
    async def work():
        path = os.path.join(short_dir, "s")
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(path)
        dead.close()
        url = f"unix://{path}"
        server = await serve(url, NO_CREDENTIALS, MANAGER, echo_handlers())
        with pytest.raises(Locked):
            await serve(url, NO_CREDENTIALS, MANAGER, echo_handlers())
        link = await connect(url, NO_CREDENTIALS, CLIENT, expect_role="manager")
        await link.close()
        await server.close()
        with pytest.raises(PathLost):
            await connect(url, NO_CREDENTIALS, CLIENT, expect_role="manager")

    run(work())


@posix_only
def test_wrong_places_for_a_socket_are_configuration_errors(short_dir):
    async def work():
        os.mkdir(os.path.join(short_dir, "open"), 0o755)
        os.chmod(os.path.join(short_dir, "open"), 0o755)
        with pytest.raises(ConfigError, match="chmod 700"):
            await serve(f"unix://{short_dir}/open/s", NO_CREDENTIALS, MANAGER, echo_handlers())
        plain = pathlib.Path(short_dir, "file")
        plain.write_text("x")
        with pytest.raises((ConfigError, Locked)):
            await serve(f"unix://{short_dir}/file/s", NO_CREDENTIALS, MANAGER, echo_handlers())
        assert plain.read_text() == "x"

    run(work())
    for bad in ("unix://relative", "unix:rel", "tcp:///x", "unix:///" + "x" * 200):
        with pytest.raises(ConfigError):
            parse_unix_url(bad)
    assert parse_unix_url("unix:///a%20b") == "/a b"


def test_windows_is_told_what_to_use(monkeypatch):
    monkeypatch.setattr("staddle.wire.unix.sys.platform", "win32")
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1"):
        run(connect("unix:///x", NO_CREDENTIALS, CLIENT, expect_role="manager"))
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1"):
        run(serve("unix:///x", NO_CREDENTIALS, MANAGER, echo_handlers()))


def test_the_plugin_lists_three_transports_and_imports_none():
    types = plugin.staddle_transports()
    assert [kind.scheme for kind in types] == ["tcp", "unix", "mem"]
    assert all(isinstance(kind, TransportType) and kind.kind == "stream" for kind in types)
    code = (
        "import sys; from staddle.wire import plugin; plugin.staddle_transports();"
        "late = {'cryptography', 'staddle.wire.tcp', 'staddle.wire.unix', 'staddle.wire.mem'};"
        "sys.exit(bool(late & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
    with pytest.raises(ConfigError, match="mem, tcp, unix"):
        transport_for("carrier-pigeon://loft")


def test_mem_names_are_exclusive_and_vanish_with_their_server():
    async def work():
        server = await serve("mem://one", NO_CREDENTIALS, MANAGER, echo_handlers())
        with pytest.raises(Locked):
            await serve("mem://one", NO_CREDENTIALS, MANAGER, echo_handlers())
        await server.close()
        with pytest.raises(PathLost):
            await connect("mem://one", NO_CREDENTIALS, CLIENT, expect_role="manager")
        again = await serve("mem://one", NO_CREDENTIALS, MANAGER, echo_handlers())
        await again.close()
        with pytest.raises(ConfigError):
            await connect("mem://one/two", NO_CREDENTIALS, CLIENT, expect_role="manager")

    run(work())


# --- the blocking facade --------------------------------------------------------------------------


class Stage:
    """A server in a thread of its own, which stores what comes over channels."""

    def __init__(self, url, *, grant=8 * MIB, regrant=True):
        self.thread = LoopThread("server")
        self.got = []
        self.regrant = regrant
        made = echo_handlers()
        self.grant = grant
        made.add("stream", self.stream, roles=["client"], opens_channel=True)
        self.tasks = []
        self.channels = []
        self.server = self.thread.call(serve(url, NO_CREDENTIALS, MANAGER, made), 5)

    async def stream(self, call):
        call.channel.grant(self.grant)
        self.channels.append(call.channel)
        self.tasks.append(asyncio.create_task(self.pull(call.channel)))

    async def pull(self, channel):
        while (data := await channel.receive(10)) is not None:
            self.got.append((data.seq, data.meta, len(data.payload), bytes(data.payload[:4])))
            if self.regrant:
                channel.grant(data.cost_bytes)
        await channel.send(999, b"bye", b"")
        channel.close()

    def stop(self):
        for task in self.tasks:
            self.thread.loop.call_soon_threadsafe(task.cancel)
        self.thread.call(self.server.close(0.1), 5)
        self.thread.stop()


@pytest.fixture(params=["mem", pytest.param("unix", marks=posix_only)])
def url(request, short_dir):
    return "mem://" if request.param == "mem" else f"unix://{short_dir}/s"


def open_link(stage):
    return SyncLink.connect(stage.server.url, NO_CREDENTIALS, CLIENT, expect_role="manager")


def test_threads_request_and_stream_without_an_event_loop_of_their_own(url):
    stage = Stage(url)
    try:
        with open_link(stage) as link:
            assert link.request("echo", payload=b"x" * 5000).payload == b"x" * 5000
            channel, reply = link.open_channel("stream")
            assert isinstance(channel, SyncChannel)
            assert reply.args == {}
            for seq in range(200):
                channel.send(seq, b"m", seq.to_bytes(4, "big") * (1000 if seq % 10 else MIB // 4))
            channel.flush()
            deadline_s = time.monotonic() + 5
            while len(stage.got) < 200 and time.monotonic() < deadline_s:
                time.sleep(0.01)
            assert [entry[0] for entry in stage.got] == list(range(200))
            assert all(entry[3] == entry[0].to_bytes(4, "big") for entry in stage.got)
            channel.close()
            with pytest.raises(Cancelled):
                channel.receive(2)
            with pytest.raises(Cancelled):
                channel.receive(2)
        with pytest.raises(PathLost):
            channel.grant(1)
    finally:
        stage.stop()


def flood(channel, sent, timeout_s):
    for seq in range(100):
        channel.send(seq, None, bytes(MIB), timeout_s=timeout_s)
        sent.append(seq)


def test_a_blocking_sender_is_bounded_and_meets_its_deadline():
    stage = Stage("mem://", grant=2 * MIB, regrant=False)
    try:
        with open_link(stage) as link:
            channel, _ = link.open_channel("stream")
            sent = []
            with pytest.raises(DeadlineExceeded) as caught:
                flood(channel, sent, timeout_s=0.3)
            assert caught.value.outcome == "not_done"
            assert len(sent) <= 2 + OUTBOX_BYTES_MAX // MIB
    finally:
        stage.stop()


def test_a_cancel_wakes_blocked_senders_and_receivers():
    stage = Stage("mem://", grant=2 * MIB, regrant=False)
    try:
        with open_link(stage) as link:
            channel, _ = link.open_channel("stream")
            found = []

            def receive():
                try:
                    channel.receive(10)
                except MediumFull as error:
                    found.append(error.message)

            thread = threading.Thread(target=receive)
            thread.start()
            end = stage.channels[0].cancel, MediumFull("gone")
            threading.Timer(0.1, stage.thread.loop.call_soon_threadsafe, end).start()
            with pytest.raises(MediumFull, match="gone"):
                flood(channel, [], timeout_s=5)
            thread.join(5)
            assert found == ["gone"]
            with pytest.raises(MediumFull):
                channel.send(1)
    finally:
        stage.stop()


def test_a_link_lost_under_blocked_threads_raises_in_them():
    stage = Stage("mem://", grant=2 * MIB, regrant=False)
    link = open_link(stage)
    channel, _ = link.open_channel("stream")
    threading.Timer(0.1, stage.stop).start()
    with pytest.raises((PathLost, Cancelled)):
        flood(channel, [], timeout_s=5)
    link.close()
    link.close()
    deadline_s = time.monotonic() + 5
    while stage.thread._thread.is_alive() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not stage.thread._thread.is_alive()


def test_a_refused_connection_leaves_no_thread():
    before = threading.active_count()
    with pytest.raises(PathLost):
        SyncLink.connect("mem://nobody", NO_CREDENTIALS, CLIENT, expect_role="manager")
    assert threading.active_count() == before
