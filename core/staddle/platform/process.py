"""Processes: what differs between POSIX and Windows, and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO


def spawn_detached(argv: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a program that may outlive this one, with its output in `log`. Let go of it with `forget`."""
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, creationflags=flags, close_fds=True
        )
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
    )


def forget(process: subprocess.Popen[bytes]) -> None:
    """It goes on without us: init reaps it. Told so, Popen does not warn that it still runs."""
    if process.poll() is None:
        process.returncode = 0


@contextlib.contextmanager
def interrupted_later() -> Iterator[None]:
    """A Ctrl-C in the body raises KeyboardInterrupt after it: a process that is started is known then."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) in {
        signal.SIG_IGN,
        None,
    }:
        yield  # there it does not come; nor where a script's background job ignores it
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def spawn_child(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a part of this daemon. It ends when this process does: its standard input closes."""
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=True)


def exit_with_parent(on_exit: Callable[[], object]) -> None:
    """Call `on_exit` once the parent's end of standard input closes, however the parent ended."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        on_exit()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def alive(pid: int) -> bool:
    """Is there a process with this pid. A zombie counts as gone."""
    if pid <= 0:
        return False
    if sys.platform == "win32":
        import ctypes

        query_limited_information, still_active = 0x1000, 259
        handle = ctypes.windll.kernel32.OpenProcess(query_limited_information, False, pid)
        if not handle:
            return False
        code = ctypes.c_ulong()
        ctypes.windll.kernel32.GetExitCodeProcess(handle, ctypes.byref(code))
        ctypes.windll.kernel32.CloseHandle(handle)
        return code.value == still_active
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _defunct(pid)


def _defunct(pid: int) -> bool:
    """Linux: killed, and not yet reaped by whoever started it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as handle:
            return handle.read().rpartition(b")")[2].split()[0] in {b"Z", b"X"}
    except (OSError, IndexError):
        return False


def terminate(pid: int) -> None:
    """Ask a process to end; on Windows it ends at once."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return


def kill(pid: int) -> None:
    """End a process that does not listen any more."""
    if sys.platform == "win32":
        terminate(pid)  # there it is TerminateProcess
        return
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def suspend(pid: int) -> None:
    """Let a process stand still, with all that it holds. Its opposite is `resume`."""
    if sys.platform == "win32":
        _windows_suspend("NtSuspendProcess", pid)
    else:
        os.kill(pid, signal.SIGSTOP)


def resume(pid: int) -> None:
    """Let a suspended process go on."""
    if sys.platform == "win32":
        _windows_suspend("NtResumeProcess", pid)
    else:
        os.kill(pid, signal.SIGCONT)


if sys.platform == "win32":

    def _windows_suspend(call: str, pid: int) -> None:
        import ctypes

        suspend_resume = 0x0800
        handle = ctypes.windll.kernel32.OpenProcess(suspend_resume, False, pid)
        if not handle:
            raise ProcessLookupError(pid)
        try:
            getattr(ctypes.windll.ntdll, call)(handle)
        finally:
            ctypes.windll.kernel32.CloseHandle(handle)
