"""What a host is short of passes: it is no damage, no other grid, no lost medium, and it ends no loop."""

import asyncio
import errno
import os
import ssl

import blake3
import pytest

from staddle.api.media import Deadline
from staddle.api.transport import Credentials
from staddle.api.types import Label
from staddle.client.agents import may_pass
from staddle.client.backup import Backup
from staddle.daemon import runfiles
from staddle.daemon.agent import control
from staddle.daemon.manager.adoption import Adoption
from staddle.data.reader import _unexpected, no_copy_left
from staddle.errors import Corrupt, MediumFailed, PathLost, StaddleError
from staddle.media import directory, directory_root
from staddle.media.options import DirectoryConfig
from staddle.platform.lock import FileLock
from staddle.platform.shortage import is_shortage
from staddle.wire import pki
from staddle.wire.endpoint import connect
from staddle.wire.messages import Hello
from staddle.wire.pki import make_ca, write_credentials

NO_DESCRIPTOR = OSError(errno.EMFILE, "Too many open files")
NO_THREAD = RuntimeError("can't start new thread")


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


def test_errors_of_tls_are_none_though_they_have_such_numbers():
    assert is_shortage(NO_DESCRIPTOR)
    assert is_shortage(NO_THREAD)
    assert not is_shortage(ssl.SSLError(errno.EIO, "bad record"))
    assert not is_shortage(RuntimeError("changed size during iteration"))
    assert not is_shortage(FileNotFoundError(errno.ENOENT, "none"))


@pytest.mark.parametrize("error", [NO_DESCRIPTOR, NO_THREAD, MemoryError()])
@pytest.mark.parametrize("where", ["load_verify_locations", "create_connection"])
def test_a_dial_that_lacks_something_is_a_lost_path(tmp_path, monkeypatch, where, error):
    authority = make_ca(str(tmp_path / "ca"), b"g" * 16)
    credentials = write_credentials(str(tmp_path / "c1"), authority.cert_pem, authority.issue("c1", "client"))

    async def dial():
        hello = Hello(name="c1", role="client", grid=b"g" * 16)
        if where == "create_connection":
            monkeypatch.setattr(asyncio.get_running_loop(), where, failing(error))
        await connect("tcp://127.0.0.1:1", credentials, hello, expect_role="manager", timeout_s=5.0)

    if where == "load_verify_locations":
        monkeypatch.setattr(ssl.SSLContext, where, failing(error))
    with pytest.raises(PathLost, match=r"cannot reach tcp://127.0.0.1:1: "):
        asyncio.run(dial())


def test_a_certificate_that_no_descriptor_was_free_for_is_not_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.open", failing(NO_DESCRIPTOR))
    for look in (pki.own_identity, pki.check_own):
        with pytest.raises(OSError, match="Too many open files"):
            look(Credentials(ca_file="ca", cert_file="cert", key_file="key"))


@pytest.mark.parametrize("error", [NO_DESCRIPTOR, NO_THREAD, ValueError("a slip")])
def test_a_job_s_lease_is_renewed_after_a_renewal_that_failed(monkeypatch, error):
    answers = iter([error, StaddleError("away"), None])
    renewed = asyncio.Event()

    class Manager:
        async def call(self, *_, **__):
            if (raised := next(answers, None)) is not None:
                raise raised
            renewed.set()

    class Any:
        files = bytes_read = bytes_unchanged = 0
        manager = Manager()

    async def play():
        backup = object.__new__(Backup)
        backup._job, backup._session, backup.tally, backup._grid = 1, b"s" * 16, Any, Any
        async with backup._lease(0.04), asyncio.timeout(20):
            await renewed.wait()

    asyncio.run(play())


@pytest.mark.parametrize("error", [NO_DESCRIPTOR, NO_THREAD, ValueError("a slip")])
def test_an_agent_reports_again_after_a_report_that_failed(monkeypatch, error):
    answers = iter([error, None])

    class Manager:
        async def call(self, *_, **__):
            if (raised := next(answers, None)) is not None:
                raise raised

    async def play():
        process = object.__new__(control.Control)
        process._manager, process._report = Manager(), lambda: None
        process._reported, process._report_now = asyncio.Event(), asyncio.Event()
        reporting = asyncio.create_task(process._report_all())
        async with asyncio.timeout(20):
            await process._reported.wait()
        reporting.cancel()

    monkeypatch.setattr(control, "REPORT_EVERY_S", 0.01)
    asyncio.run(play())


def test_a_copy_that_could_not_be_opened_now_may_be_read_later():
    wrapped = _unexpected(NO_DESCRIPTOR)
    assert (wrapped.scope, wrapped.retry) == ("path", "after")
    assert may_pass(no_copy_left("container c", {"m1": wrapped, "m2": Corrupt("bad")}))
    assert not may_pass(
        no_copy_left("container c", {"m1": _unexpected(ValueError("x")), "m2": Corrupt("bad")})
    )


@pytest.fixture
def volume(tmp_path):
    label = Label(grid=b"g" * 16, medium="m1", volume=b"v" * 16, created_ns=1)
    os.mkdir(tmp_path / "v")
    medium = directory.DirectoryMedium("m1", DirectoryConfig(path=str(tmp_path / "v")))
    medium.initialize(label, (label.grid.hex() + label.volume.hex()).encode(), Deadline(20.0))
    return medium.open(label, "write", 1, Deadline(20.0))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_medium_is_not_blamed_for_what_its_host_is_short_of(volume, monkeypatch, number):
    name = "c0/7f/" + "0" * 48
    error = OSError(number, os.strerror(number))
    with monkeypatch.context() as patch:
        patch.setattr(directory_root.os, "lstat", failing(error))
        with pytest.raises(MediumFailed, match="look at the label") as caught:
            volume.put(name, [b"data"], blake3.blake3(b"data").digest(), Deadline(20.0))
        assert (caught.value.scope, caught.value.retry) == ("path", "after")
    volume.put(name, [b"data"], blake3.blake3(b"data").digest(), Deadline(20.0))
    with monkeypatch.context() as patch:
        patch.setattr("staddle.platform.plainfile.os.open", failing(error))
        with pytest.raises(MediumFailed) as caught:
            volume.get(name, 0, 4, Deadline(20.0))
        assert (caught.value.scope, caught.value.retry) == ("path", "after")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM])
def test_a_lock_that_can_not_be_looked_at_is_not_lost(tmp_path, monkeypatch, number):
    lock = FileLock(str(tmp_path / "lock"))
    assert lock.acquire()
    with monkeypatch.context() as patch:
        patch.setattr("staddle.platform.lock.os.stat", failing(OSError(number, "no answer")))
        with pytest.raises(OSError, match="no answer"):
            _ = lock.held
        other = FileLock(str(tmp_path / "other"))
        with pytest.raises(OSError, match="no answer"):
            other.acquire()
    assert lock.held
    assert other.acquire(), "the failed try has kept it"
    lock.release()
    other.release()


def test_a_rebuild_that_is_due_is_due_though_the_disk_does_not_answer(tmp_path, monkeypatch):
    adoption = object.__new__(Adoption)
    adoption._marker = str(tmp_path / "rebuild-needed")
    assert not adoption.rebuild_needed
    monkeypatch.setattr("staddle.daemon.manager.adoption.os.stat", failing(OSError(errno.EIO, "no answer")))
    with pytest.raises(OSError, match="no answer"):
        _ = adoption.rebuild_needed


def test_a_run_file_that_can_not_be_removed_does_not_stop_the_end(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("staddle.daemon.runfiles.os.unlink", failing(OSError(errno.EROFS, "read-only")))
    runfiles.withdraw(str(tmp_path), "agent-a1")
    assert "the run file of agent-a1 can't be removed" in caplog.text
